"""What a table shows of the comparison with last year's documents, as HTML and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from urisk_nb.render.escaping import escape_html, one_line
from urisk_nb.render.markup import CELL, MUTED, NUMBER
from urisk_nb.render.table_content import DASH, TableContent, format_value
from urisk_nb.render.text_layout import cut, format_grid, wrap

__all__ = ["render_changes_html", "render_changes_text"]

MAX_TICKERS = 20
MAX_SECTIONS = 12  # of a ticker; the rest are one row
MAX_NEW_SENTENCES = 5  # of a ticker
MAX_QUOTE_CHARS = 300
KINDS = ("new", "changed", "repeated", "gone")
FIRST_SECTIONS = ("Item 1A", "Item 3", "Item 9A", "Part II, Item 1", "Part II, Item 1A")
TITLE = "against last year's documents"


@dataclass(frozen=True, slots=True, kw_only=True)
class _TickerChanges:
    """What is shown of one ticker: rows of section and counts, and the first new sentences."""

    ticker: str
    rows: list[tuple[str, list[int]]]
    sentences: list[tuple[str, str]]  # section, sentence
    more: int  # new sentences that are not shown


def render_changes_html(content: TableContent) -> str:
    """Return the counts by section and the first new sentences of each ticker; "" for none."""
    shown, left = _collect(content)
    if not shown:
        return ""
    heads = "".join(f'<th scope="col" style="{NUMBER}">{kind}</th>' for kind in KINDS)
    blocks = "".join(
        f'<table aria-label="changes of {escape_html(one.ticker)}" '
        f'style="border-collapse:collapse"><thead><tr><th scope="col" style="{CELL}">'
        f"{escape_html(one.ticker)}</th>{heads}</tr></thead><tbody>{_rows_html(one)}</tbody>"
        f"</table>{_sentences_html(one)}"
        for one in shown
    )
    more = f"<div>{escape_html(_describe_left(left))}</div>" if left else ""
    return f"<details><summary>{TITLE}</summary>{blocks}{more}</details>"


def _rows_html(one: _TickerChanges) -> str:
    return "".join(
        f'<tr><th scope="row" style="{CELL}">{escape_html(section)}</th>'
        + "".join(f'<td style="{NUMBER}">{count}</td>' for count in counts)
        + "</tr>"
        for section, counts in one.rows
    )


def _sentences_html(one: _TickerChanges) -> str:
    lines = "".join(
        f'<div style="margin:.15em 0">new, {escape_html(section)}: '
        f"<bdi>{escape_html(text)}</bdi></div>"
        for section, text in one.sentences
    )
    return lines + f'<div style="{MUTED};margin:.15em 0">{escape_html(_describe_more(one))}</div>'


def render_changes_text(content: TableContent, width: int) -> list[str]:
    """Return the same as lines of at most that width."""
    shown, left = _collect(content)
    lines = wrap(TITLE, width) if shown else []
    for one in shown:
        rows = [[section, *map(str, counts)] for section, counts in one.rows]
        right = frozenset(range(1, len(KINDS) + 1))
        lines += format_grid([one.ticker, *KINDS], rows, width, right=right)
        for section, text in one.sentences:
            lines += wrap(f"new, {section}: {text}", width, "  ", "    ")
        lines += wrap(_describe_more(one), width, "  ", "  ")
    return lines + (wrap(_describe_left(left), width) if left else [])


def _describe_more(one: _TickerChanges) -> str:
    more = f"{one.more} more new sentences; " if one.more else ""
    return f'{more}all changes: table.changes("{one.ticker}")'


def _describe_left(left: int) -> str:
    return f"and {left} more tickers: table.changes()"


def _collect(content: TableContent) -> tuple[list[_TickerChanges], int]:
    """Return what is shown of the first tickers that have changes, and how many are left."""
    if not content.is_whole:
        return [], 0
    counted: dict[str, Mapping[str, Mapping[str, int]]] = {}
    for run in content.runs:
        counted |= run.get("changes", {})
    tickers = [ticker for ticker in dict.fromkeys(content.tickers) if ticker in counted]
    new = content.changes
    if new is None or not tickers:
        return [], 0
    new = new[new["change"] == "new"]
    shown = [
        _collect_ticker(ticker, counted[ticker], new[new["ticker"] == ticker])
        for ticker in tickers[:MAX_TICKERS]
    ]
    return shown, max(len(tickers) - MAX_TICKERS, 0)


def _collect_ticker(
    ticker: str, sections: Mapping[str, Mapping[str, int]], new: pd.DataFrame
) -> _TickerChanges:
    rows = list(_iterate_rows(sections))
    # Those that matter first: risk factors, legal proceedings, controls
    later = ~new["section"].isin(FIRST_SECTIONS)
    first = new.loc[later.sort_values(kind="stable").index].head(MAX_NEW_SENTENCES)
    return _TickerChanges(
        ticker=one_line(ticker),
        rows=rows,
        sentences=[
            (
                _name(format_value("section", section)),
                cut(format_value("quote", quote), MAX_QUOTE_CHARS),
            )
            for section, quote in zip(first["section"], first["quote"], strict=True)
        ],
        more=len(new) - len(first),
    )


def _iterate_rows(
    sections: Mapping[str, Mapping[str, int]],
) -> Iterator[tuple[str, list[int]]]:
    counts = {name: [row.get(kind, 0) for kind in KINDS] for name, row in sections.items()}
    # The sections with the most new sentences, in document order
    most = set(
        sorted(counts, key=lambda name: (-counts[name][0], -sum(counts[name])))[:MAX_SECTIONS]
    )
    yield from ((_name(one_line(name)), row) for name, row in counts.items() if name in most)
    if rest := [row for name, row in counts.items() if name not in most]:
        yield f"{len(rest)} more", [sum(column) for column in zip(*rest, strict=True)]
    if len(counts) > 1:
        yield "all", [sum(column) for column in zip(*counts.values(), strict=True)]


def _name(section: str) -> str:
    return section if section not in ("", DASH) else "no section"
