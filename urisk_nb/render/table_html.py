"""A table as HTML, legible in light and dark themes; everything in it is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from urisk_nb.render.escaping import escape_html
from urisk_nb.render.markup import CELL, CODE, MUTED, NUMBER, PLAIN, note_boxes
from urisk_nb.render.portfolio_line import render_portfolio_html
from urisk_nb.render.table_changes import render_changes_html
from urisk_nb.render.table_content import (
    DASH,
    MAX_MESSAGES,
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
from urisk_nb.render.text_layout import cut, format_count
from urisk_nb.risk.row_warnings import WARNINGS

__all__ = ["render_summary_html", "render_table_html"]

MAX_SENTENCES = 200
MAX_OPEN_SENTENCES = 60  # more are folded
MAX_CELL_CHARS = 240
MAX_QUOTE_CHARS = 600
MAX_HEADING_CHARS = 14  # longer headings and sources wrap
MAX_SOURCE_CHARS = 36
PILL = {
    "Low": "#1b7f3b",
    "Moderate": "#7a6200",
    "Elevated": "#a84a05",
    "High": "#c2410c",
    "Severe": "#b91c1c",
    "NR": "#6b7280",
}
_WIDE = f"{CELL};min-width:14em;max-width:36em;white-space:normal"
_TABLE = 'style="border-collapse:collapse"'


def render_table_html(content: TableContent) -> str:
    """Return the table and, under it, its messages, its warnings and the labeled sentences."""
    return (
        f'<div class="urisk-table {PLAIN}">{render_summary_html(content)}{_sentences(content)}'
        f"{render_changes_html(content)}"
        f'<div style="{MUTED};font-size:85%">{escape_html(describe_run(content))}</div></div>'
    )


def render_summary_html(content: TableContent, *, is_short: bool = True) -> str:
    """
    Return the table with its notes, portfolio, alerts, messages and warnings, without sentences.

    Parameters
    ----------
    is_short
        Leave out rows, alerts and messages after the first ones, and say how many there are.
    """
    limit = MAX_ROWS if is_short else None
    columns = list_columns(content, limit)
    head, labels = row_labels(content, limit)
    heads = "".join(
        f'<th scope="col" style="{NUMBER if column.is_number else CELL};'
        f'{_wrap(column.heading, MAX_HEADING_CHARS)}">{escape_html(column.heading)}</th>'
        for column in columns
    )
    rows = len(content.frame)
    more = f"<div>{limit} of {rows} rows shown.</div>" if limit and rows > limit else ""
    return (
        f"{note_boxes(collect_notes(content))}"
        f'<table aria-label="risk table" {_TABLE}><thead><tr>'
        f'<th scope="col" style="{CELL}">{escape_html(head)}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(_rows(labels, columns))}</tbody></table>{more}"
        f"{render_portfolio_html(content)}"
        f"{_alerts(content, MAX_SENTENCES if is_short else None)}"
        f"{_messages(content, MAX_MESSAGES if is_short else None)}{_warnings(content)}"
    )


def _wrap(text: str, limit: int) -> str:
    """Return the style that keeps a short text on one line, and wraps a longer one."""
    return f"white-space:{'nowrap' if len(text) <= limit else 'normal'}"


def _rows(labels: Sequence[str], columns: Sequence[Column]) -> Iterable[str]:
    for number, label in enumerate(labels):
        cells = "".join(_cell(column, column.values[number]) for column in columns)
        yield f'<tr><th scope="row" style="{CELL}">{escape_html(label)}</th>{cells}</tr>'


def _cell(column: Column, value: Any) -> str:
    if column.name == "warnings" and isinstance(value, list):
        return _codes(value)
    style = NUMBER if column.is_number else CELL
    text = format_value(column.name, value)
    if text == DASH:
        return f'<td style="{style};{MUTED}">{DASH}</td>'
    level, sign, remark = text.partition(" (")
    if column.name == "level" and (colour := PILL.get(level)):
        pill = f"background:{colour};color:#fff;border-radius:.8em;padding:.1em .6em"
        mark = f'<span style="{pill};white-space:nowrap">{level}</span>'
        return f'<td style="{CELL}">{mark}{escape_html(sign + remark)}</td>'
    if isinstance(value, str) and (column.name == "top_quote" or len(text) > 40):
        return f'<td style="{_WIDE}"><bdi>{escape_html(cut(text, MAX_CELL_CHARS))}</bdi></td>'
    if isinstance(value, date):
        style += ";white-space:nowrap"  # a line ends at a hyphen, too
    return f'<td style="{style}">{escape_html(text)}</td>'


def _codes(codes: Sequence[str]) -> str:
    """
    Each code in a frame of its own, with its sentence for the pointer; the same sentences stand
    under the table.
    """
    marks = " ".join(
        f'<span style="{CODE}" title="{escape_html(WARNINGS.get(code, ""))}">'
        f"{escape_html(code)}</span>"
        for code in codes
    )
    return f'<td style="{CELL};max-width:16em;white-space:normal;line-height:1.7">{marks}</td>'


def _warnings(content: TableContent) -> str:
    lines = "".join(
        f'<div style="margin:.15em 0"><span style="{CODE}">{escape_html(code)}</span> '
        f"{escape_html(text)}</div>"
        for code, text in describe_warnings(content).items()
    )
    return _note(lines, "warnings", f"{MUTED};")


def _messages(content: TableContent, limit: int | None) -> str:
    lines = "".join(f"<div>{escape_html(line)}</div>" for line in collect_messages(content, limit))
    return _note(lines, "messages")


def _note(lines: str, label: str, style: str = "") -> str:
    if not lines:
        return ""
    return f'<div role="note" aria-label="{label}" style="{style}margin:.5em 0">{lines}</div>'


def _alerts(content: TableContent, limit: int | None) -> str:
    rows = list_alerts(content)
    if not rows:
        return ""
    every = ("ticker", "family", "quote", "source", "section", "date")
    names = tuple(name for name in every if any(row[name] != DASH for row in rows))
    heads = "".join(
        f'<th scope="col" style="{CELL}">'
        f"{ {'quote': 'sentence', 'family': 'alert'}.get(name, name) }</th>"
        for name in names
    )
    body = "".join(
        "<tr>" + "".join(_sentence_cell(name, row) for name in names) + "</tr>"
        for row in rows[:limit]
    )
    more = f' ({limit} shown; all: table.report.meta["alerts"])'
    return (
        f"<details open><summary>{format_count(len(rows), 'alert')}, by the words of the evidence "
        f"alone{more if limit and len(rows) > limit else ''}</summary>"
        f'<table aria-label="alerts" {_TABLE}><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></details>"
    )


def _sentences(content: TableContent) -> str:
    count, rows = list_sentences(content, MAX_SENTENCES)
    if not rows:
        return ""
    sure = [name for name in ("p_label", "p_severity") if any(row[name] != DASH for row in rows)]
    warned = ("warnings",) if any(row["warnings"] for row in rows) else ()
    placed = ("section",) if any(row["section"] != DASH for row in rows) else ()
    names = ("ticker", "risk", "severity", *sure, "quote", "source", *placed, "date", *warned)
    heads = "".join(
        f'<th scope="col" style="{CELL}">{"sentence" if name == "quote" else name}</th>'
        for name in names
    )
    body = "".join(
        "<tr>" + "".join(_sentence_cell(name, row) for name in names) + "</tr>" for row in rows
    )
    more = f" ({MAX_SENTENCES} shown; all of them: table.report.findings)"
    return (
        f"<details{' open' if count <= MAX_OPEN_SENTENCES else ''}>"
        f"<summary>{describe_sentences(content)}{more if count > MAX_SENTENCES else ''}"
        f'</summary><table aria-label="labeled sentences" {_TABLE}>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></details>"
    )


def _sentence_cell(name: str, row: Mapping[str, str]) -> str:
    text = row[name]
    if name == "quote":
        # Beside long names of files a sentence would be left a word a line.
        style = f"{CELL};min-width:24em;max-width:48em;white-space:normal"
        return f'<td style="{style}"><bdi>{escape_html(cut(text, MAX_QUOTE_CHARS))}</bdi></td>'
    styles = {
        "severity": NUMBER,
        "p_label": NUMBER,
        "p_severity": NUMBER,
        "source": f"{CELL};{_wrap(text, MAX_SOURCE_CHARS)}",
        "section": f"{CELL};{_wrap(text, MAX_HEADING_CHARS)}",
        "date": f"{CELL};white-space:nowrap",
        "warnings": f"{CELL};max-width:20em;white-space:normal;{MUTED}",
    }
    return f'<td style="{styles.get(name, CELL)}">{escape_html(text)}</td>'
