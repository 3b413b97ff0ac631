"""A table as Markdown: the columns and texts that `print` shows, as one table of GitHub's form."""

from __future__ import annotations

import re
from collections.abc import Sequence

from urisk_nb.render.table_content import TableContent, format_value, list_columns, row_labels
from urisk_nb.render.text_layout import display_width, pad

__all__ = ["render_markdown"]

# What Markdown reads as its own; between cells also the bar
MARKS = re.compile(r"([\\`*_{}\[\]|~$])")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def render_markdown(content: TableContent, *, index: bool = True) -> str:
    """
    Return the table as Markdown.

    Parameters
    ----------
    content
        The table; of a whole one the main columns are shown, else all of them.
    index
        Begin with the row labels.

    Returns
    -------
    str
        One line a row, numbers formatted as the table shows them. Text of the evidence is
        escaped: no link, markup or formula of it works.
    """
    columns = list_columns(content, None)
    heads = [_escape(column.heading) for column in columns]
    cells = [
        [_escape(_format(column.name, value)) for value in column.values] for column in columns
    ]
    is_number = [column.is_number for column in columns]
    if index:
        head, labels = row_labels(content, None)
        heads, cells = [_escape(head), *heads], [[_escape(one) for one in labels], *cells]
        is_number = [False, *is_number]
    return _lay_out(heads, cells, is_number)


def _lay_out(
    heads: Sequence[str], cells: Sequence[Sequence[str]], is_number: Sequence[bool]
) -> str:
    widths = [
        max(3, *map(display_width, (head, *column)))
        for head, column in zip(heads, cells, strict=True)
    ]
    rule = [
        "-" * (width - 1) + (":" if is_right else "-")
        for width, is_right in zip(widths, is_number, strict=True)
    ]
    padded = [
        [pad(text, width, right=is_right) for text in (head, *column)]
        for head, column, width, is_right in zip(heads, cells, widths, is_number, strict=True)
    ]
    first, *rest = zip(*padded, strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, rule, *rest))


def _format(name: str, value: object) -> str:
    if name == "warnings" and isinstance(value, list):
        return ", ".join(value)
    return format_value(name, value)


def _escape(text: str) -> str:
    shown = "".join(ENTITIES.get(sign, sign) for sign in text)
    return MARKS.sub(r"\\\1", shown)
