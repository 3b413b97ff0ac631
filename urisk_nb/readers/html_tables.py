"""
Tables of a page as text: cells that hold sentences are kept, tables of figures are not.

Many filings lay out their text in tables: bullets, headings, footnotes. A row with figures belongs
to a table of figures, unless a cell says more than the label of a row would.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["Block", "Cell", "keep_sentences"]

# A paragraph, and pairs (offset into it, offset into the source).
Block = tuple[str, list[tuple[int, int]]]
Cell = list[Block]

_MARKER = re.compile(r"\(?(?:\d{1,2}|[A-Za-z]|[ivxIVX]{1,5})[.)]|[•◦▪●■○·∙\-–—*☐☒✓]|\(\d{1,2}\)")
_BULLET = re.compile(r"[•◦▪●■○·∙\-–—*]|o")
_FIGURE = re.compile(
    r"[\s$€£¥(]*(?:[-–—]|[-–—+]?\d[\d,.]*)[\s)%x*]*|[$€£¥%)]|n/?[am]", re.IGNORECASE
)
_YEAR = re.compile(r"(?:19|20)\d\d")
_ENDS = re.compile(r"[.!?;:\u3002\uff01\uff1f][\"'”’)\]]*$")
_ENDS_INSIDE = re.compile(r"[a-z)][.!?][\"”’)]*\s+[A-Z“]")
_HEADING = re.compile(r"(?:item\s+\d{1,2}[abc]?\b|item\s+\d\.\d\d|part\s+[iv]+\b)", re.IGNORECASE)


def keep_sentences(rows: Sequence[Sequence[Cell]]) -> list[Block]:
    """
    Return the paragraphs of a table that are text: none of a table of figures.

    A cell that holds a sentence is kept whole, behind the bullet or number of its row. A row of
    one cell is kept where the table is laid-out text. One or two cells in all are a heading.
    """
    cells = sum(len(row) for row in rows)
    if cells == 1:
        return list(rows[0][0])
    if cells == 2 and len(rows) == 1 and not _is_figure(rows[0][1]):
        return [_join_row(rows[0])]
    has_figures = any(_count_figures(row) for row in rows)
    sentences = [_find_sentences(row, has_figures) for row in rows]
    is_text = any(map(any, sentences))
    kept: list[Block] = []
    for row, has_sentence in zip(rows, sentences, strict=True):
        if any(has_sentence):
            kept.extend(_keep_row(row, has_sentence))
        elif is_text and len(row) == 1:
            kept.extend(row[0])
        elif (is_text or len(rows) <= 2) and _is_heading(row):
            kept.append(_join_row(row))
    return kept


def _keep_row(row: Sequence[Cell], has_sentence: Sequence[bool]) -> list[Block]:
    """Return the cells of a row that hold sentences, each behind its bullet or number."""
    kept: list[Block] = []
    marker: Cell | None = None
    for cell, is_text in zip(row, has_sentence, strict=True):
        if len(cell) == 1 and _MARKER.fullmatch(cell[0][0]):
            marker = cell
        elif is_text:
            kept.extend([_join_row([marker, cell[:1]]), *cell[1:]] if marker else cell)
            marker = None
    return kept


def _is_heading(row: Sequence[Cell]) -> bool:
    return _HEADING.match(row[0][0][0]) is not None and not _is_figure(row[-1])


def _is_figure(cell: Cell) -> bool:
    return len(cell) == 1 and _FIGURE.fullmatch(cell[0][0]) is not None


def _count_figures(row: Sequence[Cell]) -> int:
    return sum(_is_figure(cell) and not _YEAR.fullmatch(cell[0][0]) for cell in row)


def _find_sentences(row: Sequence[Cell], in_figures: bool) -> list[bool]:
    """
    Return for each cell of a row whether it holds a sentence.

    In a table without any figures a headline is one, too.
    """
    figures = _count_figures(row)
    bulleted = len(row) > 1 and len(row[0]) == 1 and _BULLET.fullmatch(row[0][0][0]) is not None
    return [
        any(
            _is_sentence(text, figures, bulleted and not figures)
            or (not in_figures and _is_headline(text))
            for text, _ in cell
        )
        for cell in row
    ]


def _is_sentence(text: str, figures: int, bulleted: bool) -> bool:
    """Return whether a cell's text is more than the label of a row with so many figures."""
    words = text.split()
    small = sum(word[:1].islower() for word in words)
    if bulleted:
        return small >= 2
    if len(words) < (6 if figures else 3):
        # Chinese and Japanese have no spaces
        return len(text) >= 8 and text[-1] in "\u3002\uff01\uff1f"
    if figures >= 2:  # a footnote at the label of a row is no sentence
        return small >= 8 and _ENDS_INSIDE.search(text) is not None
    if _ENDS_INSIDE.search(text) or (text[-1] != ":" and _ENDS.search(text)):
        return small >= 2
    return small >= 15


def _is_headline(text: str) -> bool:
    words = text.split()
    return len(words) >= 6 and sum(word[:1].islower() for word in words) >= 3


def _join_row(cells: Sequence[Cell]) -> Block:
    """Return the paragraphs of some cells as one, with spaces between."""
    joined = ""
    pairs: list[tuple[int, int]] = []
    for text, own in (block for cell in cells for block in cell):
        if joined:
            joined += " "
        pairs.extend((len(joined) + offset, place) for offset, place in own)
        joined += text
    return joined, pairs
