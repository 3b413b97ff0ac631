"""
A page of sections: a title, lines, and a grid of cells with a sentence for each row.

As HTML and as text; everything in it is escaped here, so whoever makes a section escapes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from urisk_nb.render.escaping import escape_html, one_line
from urisk_nb.render.markup import CELL, MUTED, NUMBER, PLAIN
from urisk_nb.render.table_content import DASH
from urisk_nb.render.table_text import choose_width
from urisk_nb.render.text_layout import cut, format_grid, wrap

__all__ = ["Section", "render_sections_html", "render_sections_text"]

MAX_ROWS = 200
MAX_QUOTE_CHARS = 600
MAX_LINE_CHARS = 16  # in HTML; a longer cell is wrapped
MAX_CELL_CHARS = 120  # in a grid of text; a longer cell is cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """
    One part of a page.

    Attributes
    ----------
    title
        Its heading; empty for none.
    lines
        What stands under the heading, a paragraph each.
    head, rows
        The headings of a grid, and as many cells in each row.
    quotes
        A sentence for each row; "" where a row has none. Empty: no row has one.
    places
        Where each sentence is from; empty: nothing says so.
    is_list
        As text, write each row on lines of its own: its cells are long. As HTML it is a table.
    right
        The numbers of the columns that are aligned to the right.
    all_rows
        Where all rows are, if more than `MAX_ROWS` are given.
    """

    title: str = ""
    lines: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    quotes: Sequence[str] = ()
    places: Sequence[str] = ()
    is_list: bool = False
    right: frozenset[int] = frozenset()
    all_rows: str = ""

    @property
    def more(self) -> str:
        """What is not shown; empty where everything is."""
        if len(self.rows) <= MAX_ROWS:
            return ""
        return f"{MAX_ROWS} of {len(self.rows)} rows shown; all of them: {self.all_rows}"


def render_sections_html(sections: Sequence[Section], label: str) -> str:
    """Return the sections as HTML; `label` names the page for screen readers."""
    body = "".join(map(_render_html, sections))
    return f'<div class="urisk-table {PLAIN}" aria-label="{escape_html(label)}">{body}</div>'


def _render_html(section: Section) -> str:
    title = (
        f'<div style="font-weight:600;margin:.6em 0 .2em">{escape_html(section.title)}</div>'
        if section.title
        else ""
    )
    lines = "".join(
        f'<div style="margin:.15em 0;max-width:60em"><bdi>{escape_html(one_line(line))}</bdi></div>'
        for line in section.lines
    )
    more = f'<div style="{MUTED}">{escape_html(section.more)}</div>' if section.more else ""
    return title + lines + _render_table(section) + more


def _render_table(section: Section) -> str:
    if not section.rows:
        return ""
    heads = [*section.head, *(["sentence"] if any(section.quotes) else [])]
    heads += ["from"] if any(section.places) else []
    top = "".join(
        f'<th scope="col" style="{_style(section, place)}">{escape_html(name)}</th>'
        for place, name in enumerate(heads)
    )
    body = "".join(
        f"<tr>{_render_cells(section, number)}</tr>"
        for number in range(min(len(section.rows), MAX_ROWS))
    )
    label = escape_html(section.title)
    return (
        f'<table aria-label="{label}" style="border-collapse:collapse"><thead><tr>{top}</tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )


def _style(section: Section, place: int) -> str:
    return NUMBER if place in section.right else CELL


def _render_cells(section: Section, number: int) -> str:
    cells = "".join(
        f'<td style="{_style(section, place)};'
        f'{_wrap(cell) if place not in section.right else ""}">'
        f"<bdi>{escape_html(one_line(cell))}</bdi></td>"
        for place, cell in enumerate(section.rows[number])
    )
    if not any(section.quotes):
        return cells
    style = f"{CELL};min-width:24em;max-width:48em;white-space:normal"
    cells += f'<td style="{style}"><bdi>{escape_html(_cut_quote(section, number))}</bdi></td>'
    if not any(section.places):
        return cells
    place = escape_html(one_line(section.places[number]))
    return cells + f'<td style="{CELL};min-width:14em;white-space:normal">{place}</td>'


def _wrap(cell: str) -> str:
    """Return the style that keeps a short cell on one line; a longer one wraps, and is wider."""
    if len(cell) <= MAX_LINE_CHARS:
        return "white-space:nowrap"
    width = min(max(len(cell) // 8, 9), 20)
    return f"white-space:normal;overflow-wrap:anywhere;min-width:{width}em;max-width:24em"


def _cut_quote(section: Section, number: int) -> str:
    return cut(one_line(section.quotes[number]), MAX_QUOTE_CHARS) or DASH


def render_sections_text(sections: Sequence[Section], width: int | None = None) -> str:
    """
    Return the sections as text.

    Parameters
    ----------
    width
        Columns that a line may take; default: those of the terminal.
    """
    columns = choose_width(width)
    blocks = [_render_text(section, columns) for section in sections]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _render_text(section: Section, width: int) -> list[str]:
    lines = wrap(one_line(section.title), width) if section.title else []
    lines += [piece for line in section.lines for piece in wrap(one_line(line), width, rest="  ")]
    if section.rows:
        lines += (_render_list if section.is_list else _render_grid)(section, width)
    return lines + (wrap(section.more, width) if section.more else [])


def _render_list(section: Section, width: int) -> list[str]:
    """Return the first cell of each row with the next one, and the others under them."""
    lines = []
    for number, row in enumerate(section.rows[:MAX_ROWS]):
        first, *rest = [one_line(cell) for cell in row if cell != DASH]
        lines += wrap(": ".join([first, *rest[:1]]), width, "  ", "    ")
        for cell in rest[1:]:
            lines += wrap(cell, width, " " * 6, " " * 6)
        if any(section.quotes) and section.quotes[number]:
            lines += wrap(f'"{_cut_quote(section, number)}"', width, " " * 6, " " * 7)
    return lines


def _render_grid(section: Section, width: int) -> list[str]:
    """Lay out the cells; a sentence is too long for a column, so it follows under its number."""
    rows = [
        [cut(one_line(cell), MAX_CELL_CHARS) for cell in row] for row in section.rows[:MAX_ROWS]
    ]
    if not any(section.quotes):
        return format_grid(section.head, rows, width, right=section.right)
    numbered = [[str(number), *row] for number, row in enumerate(rows, 1)]
    right = frozenset({0, *(place + 1 for place in section.right)})
    lines = format_grid(["no.", *section.head], numbered, width, right=right)
    for number in range(len(rows)):
        if section.quotes[number]:
            place = one_line(section.places[number]) if any(section.places) else ""
            quote = _cut_quote(section, number) + (f"  [{place}]" if place else "")
            lines += wrap(quote, width, f"{number + 1:>3} ", " " * 4)
    return lines
