"""
Figures in words; text in a width of so many terminal columns: cut, wrapped, in grids of cells.

Wide East Asian characters count as two columns.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

__all__ = [
    "MIN_WIDTH",
    "cut",
    "display_width",
    "format_bytes",
    "format_count",
    "format_grid",
    "format_seconds",
    "format_span",
    "pad",
    "wrap",
]

MIN_WIDTH = 20  # a narrower terminal is treated as this wide
_GAP = "  "


def format_count(count: int, noun: str) -> str:
    """Return the count with its noun, in the plural but for one: `1 token`, `2 tokens`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_seconds(value: float) -> str:
    """Return a duration with its unit; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return (
        f"{1000 * value:.0f} ms"
        if value < 1
        else f"{value:.2f} s"
        if value < 100
        else f"{value:.0f} s"
    )


def format_bytes(value: float) -> str:
    """Return a size in MB, from a thousand of them on in GB."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def format_span(seconds: float) -> str:
    """Return a length of time, coarse: it is read, and must not change with every look."""
    if seconds < 90:
        return "less than a minute" if seconds < 55 else "1 min"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} days"
    )


def display_width(text: str) -> int:
    """Return how many terminal columns the text takes."""
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Cut the text to `width` columns; a text that was cut ends in an ellipsis."""
    return text if display_width(text) <= width else _head(text, width - 1).rstrip() + "…"


def _head(text: str, width: int) -> str:
    """
    Return as many characters as fit; one at least, so that a wrapped text always comes to an end.
    """
    used = 0
    for number, char in enumerate(text):
        used += _char_width(char)
        if used > width:
            return text[: max(number, 1)]
    return text


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill the text with spaces to `width` columns, on its left side for right-aligned cells."""
    spaces = " " * (width - display_width(text))
    return spaces + text if right else text + spaces


def wrap(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """
    Break the text into lines of at most `width` columns that begin with `first`, then `rest`; long
    words are broken.
    """
    lines, line, used = [], first, False
    for word in text.split():
        if used and display_width(line) + 1 + display_width(word) > width:
            lines.append(line)
            line, used = rest, False
        left, start = word, line + " " if used else line
        while (
            display_width(start) + display_width(left) > width
            and (room := width - display_width(start)) > 0
        ):
            head = _head(left, room)
            if head == left:
                break
            lines.append(start + head)
            left, start = left[len(head) :], rest
        line, used = start + left, True
    return [*lines, line.rstrip()]


def format_grid(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    right: frozenset[int] = frozenset(),
) -> list[str]:
    """
    Lay out cells in columns under their headings.

    Where all columns do not fit, the first one is repeated and the others follow in further blocks,
    so that nothing is lost. A cell that does not fit by itself is cut.

    Parameters
    ----------
    head, rows
        The headings, and as many cells in each row.
    width
        How many columns a line may take.
    right
        The numbers of the columns that are aligned to the right.
    """
    lines = [list(head), *map(list, rows)]
    sizes = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    if len(sizes) > 1:
        most = min(width * 2 // 3, max(sizes[1:]))
        sizes[0] = min(sizes[0], width - len(_GAP) - most)
        sizes[1:] = [min(size, width - len(_GAP) - sizes[0]) for size in sizes[1:]]
    else:
        sizes[0] = min(sizes[0], width)
    out: list[str] = []
    for block in _blocks(sizes, width):
        out += [""] if out else []
        for number, line in enumerate(lines):
            cells = [
                pad(cut(line[place], sizes[place]), sizes[place], right=place in right)
                for place in block
            ]
            out.append(_GAP.join(cells).rstrip())
            if not number:
                out.append(_GAP.join("-" * sizes[place] for place in block))
    return out


def _blocks(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Which columns stand side by side, the first one in each block."""
    blocks = [[0]]
    used = sizes[0]
    for place in range(1, len(sizes)):
        if len(blocks[-1]) > 1 and used + len(_GAP) + sizes[place] > width:
            blocks.append([0])
            used = sizes[0]
        blocks[-1].append(place)
        used += len(_GAP) + sizes[place]
    return blocks
