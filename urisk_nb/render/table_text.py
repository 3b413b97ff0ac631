"""A table as text for a terminal of some width; what does not fit beside goes on below."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from urisk_nb.render.escaping import visible
from urisk_nb.render.front_end import in_console
from urisk_nb.render.portfolio_line import render_portfolio_text
from urisk_nb.render.table_changes import render_changes_text
from urisk_nb.render.table_content import (
    DASH,
    MAX_REASON_CHARS,
    MAX_ROWS,
    Column,
    TableContent,
    collect_messages,
    collect_notes,
    describe_run,
    describe_sentences,
    describe_warnings,
    format_value,
    list_alerts,
    list_columns,
    list_sentences,
    row_labels,
)
from urisk_nb.render.text_layout import MIN_WIDTH, cut, display_width, format_grid, wrap

__all__ = ["choose_width", "render_table_text"]

DEFAULT_WIDTH = 120
MAX_SENTENCES = 60
MAX_CELL_CHARS = 40
MAX_QUOTE_CHARS = 600


def render_table_text(content: TableContent, width: int | None = None) -> str:
    """
    Return the table, its portfolio, each ticker's worst sentence, messages, warnings, sentences.

    Parameters
    ----------
    width
        Columns that a line may take; default: those of the terminal, and 120 where the output is
        none, so that what a notebook stores depends on no terminal.
    """
    width = choose_width(width)
    blocks = [
        [line for note in collect_notes(content) for line in wrap(note, width)]
        + _grid(content, width),
        render_portfolio_text(content, width),
        _alerts(content, width),
        _worst_sentences(content, width),
        [line for one in collect_messages(content) for line in wrap(one, width, rest="  ")],
        _warnings(content, width),
        _sentences(content, width),
        render_changes_text(content, width),
        wrap(describe_run(content), width),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def choose_width(width: int | None) -> int:
    """Return the columns that a line may take: as given, else those of the terminal."""
    return max(MIN_WIDTH, _terminal_width() if width is None else width)


def _terminal_width() -> int:
    is_terminal = in_console() or (sys.stdout is not None and sys.stdout.isatty())
    return shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns if is_terminal else DEFAULT_WIDTH


def _grid(content: TableContent, width: int) -> list[str]:
    # A quote is too long for a column beside others: it has lines of its own.
    columns = [
        column
        for column in list_columns(content)
        if not (content.is_whole and column.name == "top_quote")
    ]
    head, labels = row_labels(content)
    numbers = {code: str(number) for number, code in enumerate(describe_warnings(content), 1)}
    rows = [
        [label, *(_cell(column, column.values[number], numbers) for column in columns)]
        for number, label in enumerate(labels)
    ]
    right = frozenset(place for place, column in enumerate(columns, 1) if column.is_number)
    heads = [head, *(column.heading for column in columns)]
    lines = format_grid(heads, rows, width, right=right)
    if (count := len(content.frame)) > MAX_ROWS:
        lines += wrap(f"{MAX_ROWS} of {count} rows shown.", width)
    return lines


def _cell(column: Column, value: Any, numbers: Mapping[str, str]) -> str:
    if column.name == "warnings" and isinstance(value, list):
        return " ".join(numbers[code] for code in value)
    most = MAX_REASON_CHARS if column.name == "reason" else MAX_CELL_CHARS
    return cut(format_value(column.name, value), most)


def _alerts(content: TableContent, width: int) -> list[str]:
    rows = list_alerts(content)
    lines = [*wrap("alerts, by the words of the evidence alone", width)] if rows else []
    for row in rows[:MAX_SENTENCES]:
        origin = ", ".join(row[name] for name in ("source", "section", "date") if row[name] != DASH)
        quote = cut(row["quote"], MAX_QUOTE_CHARS) + (f"  [{origin}]" if origin else "")
        lines += wrap(f"{row['ticker']} {row['family']}: {quote}", width, "  ", "    ")
    if len(rows) > MAX_SENTENCES:
        more = f'{MAX_SENTENCES} of {len(rows)} shown; all: table.report.meta["alerts"]'
        lines += wrap(more, width)
    return lines


def _worst_sentences(content: TableContent, width: int) -> list[str]:
    columns = {column.name: column for column in list_columns(content)} if content.is_whole else {}
    if "top_quote" not in columns:
        return []
    quotes = [format_value("top_quote", value) for value in columns["top_quote"].values]
    lines = [
        line
        for label, quote in zip(row_labels(content)[1], quotes, strict=True)
        if quote != DASH
        for line in wrap(f"{label}: {quote}", width, "  ", "    ")
    ]
    return [*wrap("worst sentence of each", width), *lines] if lines else []


def _warnings(content: TableContent, width: int) -> list[str]:
    """
    Return one sentence for each code, under the number that stands in the column `warnings`.

    Columns that the user chose name the codes themselves, so there is no number.
    """
    texts = describe_warnings(content)
    lines = ["warnings"] if texts else []
    for number, (code, text) in enumerate(texts.items(), 1):
        first = f"{number:>4} " if content.is_whole else " " * 5
        lines += wrap(f"{visible(code)}: {text}", width, first, " " * 5)
    return lines


def _sentences(content: TableContent, width: int) -> list[str]:
    count, rows = list_sentences(content, MAX_SENTENCES)
    if not rows:
        return []
    sure = [name for name in ("p_label", "p_severity") if any(row[name] != DASH for row in rows)]
    lines = wrap(describe_sentences(content), width)
    if sure:
        lines += wrap(f"ticker, risk, severity, {', '.join(sure)}, sentence", width, "  ", "  ")
    for row in rows:
        lines += _sentence(row, width, sure)
    if count > MAX_SENTENCES:
        lines += wrap(f"{MAX_SENTENCES} shown; all of them: table.report.findings", width)
    return lines


def _sentence(row: Mapping[str, str], width: int, sure: Sequence[str]) -> list[str]:
    head = f"  {row['ticker']:<6} {row['risk']:<12}{row['severity']:>2}  "
    head += "".join(f"{row[name]:>4}  " for name in sure)
    names = ("source", "section", "date", "warnings")
    origin = [row[name] for name in names if row[name] not in ("", DASH)]
    quote = cut(row["quote"], MAX_QUOTE_CHARS) + (f"  [{', '.join(origin)}]" if origin else "")
    if 2 * display_width(head) <= width:
        return wrap(quote, width, head, " " * display_width(head))
    return [cut(head.rstrip(), width), *wrap(quote, width, "    ", "    ")]
