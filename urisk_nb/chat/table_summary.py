"""A risk table as pieces for a model: the tickers that the question names come first, in full.

For each of these how its score comes about, all its sentences, its alerts, flags and metrics. Then
the rows, what the run says, and the sentences of the others, the worst first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from urisk_nb.chat.attachments import Attachment, Piece, Source
from urisk_nb.chat.cells import describe_value
from urisk_nb.errors import InputError
from urisk_nb.render.portfolio_line import render_portfolio_text
from urisk_nb.render.table_content import (
    DASH,
    TableContent,
    collect_messages,
    collect_notes,
    describe_run,
    describe_warnings,
    format_value,
)
from urisk_nb.render.text_layout import format_count
from urisk_nb.table.explanation import Explanation
from urisk_nb.table.records import list_tickers
from urisk_nb.table.risk_table import RiskTable

__all__ = ["find_named_tickers", "is_table_of_run", "list_named_pieces", "summarize_table"]

ROWS, SENTENCES = "rows", "sentences"
MIN_FOLDED_CHARS = 3  # of a ticker that may stand in lower case: "it" is no ticker
MAX_QUOTE_CHARS = 1200
FIRST_PIECES = 30  # rows, and sentences, that come before the rest of both
WIDTH = 1000  # columns of a line, so that none is folded
MAX_PIECES = 2000  # rows, and sentences of tickers that the question does not name


def is_table_of_run(value: object) -> bool:
    """Return whether a value is still a table of a run, and not a frame of some columns."""
    return isinstance(value, RiskTable) and _content(value).is_whole


def summarize_table(name: str, table: RiskTable, question: str) -> Attachment:
    """Return a risk table in pieces; what the question asks for comes first."""
    content = _content(table)
    findings = _sort_findings(content)
    named = find_named_tickers(question, content.tickers)
    pieces = [Piece(text=describe_run(content))]
    for ticker in named:
        pieces += _tell_ticker(name, table, ticker, findings)
    pieces += _tell_portfolio(content)
    rows = list(_list_rows(table))
    others = findings[~findings["ticker"].isin(named)].head(MAX_PIECES).to_dict("records")
    sentences = [_tell_sentence(name, row) for row in others]
    # A long table leaves room for what the run says and for the worst sentences
    pieces += [*rows[:FIRST_PIECES], *_list_messages(content), *sentences[:FIRST_PIECES]]
    pieces += [*rows[FIRST_PIECES:], *sentences[FIRST_PIECES:]]
    return Attachment(
        name=name,
        title=f"risk table, {format_count(len(table), 'row')}",
        pieces=tuple(pieces),
        totals={ROWS: len(table), SENTENCES: len(findings)},
    )


def list_named_pieces(name: str, table: RiskTable, question: str) -> list[Piece]:
    """Return what a risk table says of the tickers that a question names."""
    content = _content(table)
    named = find_named_tickers(question, content.tickers)
    if not named:
        return []
    findings = _sort_findings(content)
    return [piece for ticker in named for piece in _tell_ticker(name, table, ticker, findings)]


def _content(table: RiskTable) -> TableContent:
    report = table.report
    return TableContent(
        frame=pd.DataFrame(table),
        findings=report.findings,
        meta=report.meta,
        changes=report.changes,
        portfolio=None if report.portfolio is None else dict(report.portfolio),
    )


def _tell_portfolio(content: TableContent) -> Iterator[Piece]:
    if lines := render_portfolio_text(content, WIDTH):
        yield Piece(text="\n".join(lines))


def find_named_tickers(question: str, tickers: Sequence[Any]) -> list[str]:
    """Return the tickers that a question names, in its order."""
    found: dict[str, int] = {}
    folded = question.lower()
    for ticker in map(str, tickers):
        if ticker.lower() not in folded:  # a table may have thousands
            continue
        is_exact = len(ticker) < MIN_FOLDED_CHARS
        pattern = rf"(?<![\w.]){re.escape(ticker)}(?!\w)"
        match = re.search(pattern, question, 0 if is_exact else re.IGNORECASE)
        if match is not None:
            found.setdefault(ticker, match.start())
    return sorted(found, key=lambda ticker: found[ticker])


def _sort_findings(content: TableContent) -> pd.DataFrame:
    """Return the findings of the tickers in the table, those that count most first."""
    frame = content.findings
    frame = frame[frame["ticker"].isin(list(content.tickers))]
    frame = frame.assign(
        _counted=pd.to_numeric(frame["counted"]).fillna(-1).astype(float),
        _severity=pd.to_numeric(frame["severity"]).fillna(-1).astype(float),
    )
    return frame.sort_values(["_counted", "_severity"], ascending=False, kind="stable")


# One ticker ---------------------------------------------------------------------------------------


def _tell_ticker(
    name: str, table: RiskTable, ticker: str, findings: pd.DataFrame
) -> Iterator[Piece]:
    own = findings[findings["ticker"] == ticker]
    try:
        explained = table.explain(ticker)
    except InputError:  # in several runs, or in none: its row and its sentences are told
        explained = None
    if explained is not None:
        yield Piece(text=_describe_level(explained))
        yield from _tell_categories(explained)
    yield from (_tell_sentence(name, row) for row in own.to_dict("records"))
    if explained is not None:
        yield from _tell_rest(explained)


def _describe_level(one: Explanation) -> str:
    score = "no score" if one.score is None else f"score {describe_value(float(one.score))}"
    row = f"{one.ticker}: level {one.level}, {score}, status {one.status}"
    return "\n".join([row, *one.notes])


def _tell_categories(one: Explanation) -> Iterator[Piece]:
    rows = one.categories.to_dict("records")
    parts = [
        f"{row['category']} rated {row['rating']:g} of 5, adds {row['adds']:.1f} points"
        + _in_brackets(row["rule"])
        for row in rows
    ]
    if parts:
        yield Piece(text=f"the score of {one.ticker} comes from: {'; '.join(parts)}")


def _tell_rest(one: Explanation) -> Iterator[Piece]:
    for row in one.alerts.to_dict("records"):
        quote = format_value("quote", row["quote"])
        yield Piece(text=f'alert of {one.ticker}, {row["family"]}: "{quote}"')
    for flag, why in one.flags.itertuples(index=False):
        yield Piece(text=f"flag of {one.ticker}, {flag}: {why}")
    metrics = [
        f"{row['metric']} {format_value(row['metric'], row['value'])}"
        for row in one.metrics.to_dict("records")
    ]
    if metrics:
        yield Piece(text=f"metrics of {one.ticker}: {'; '.join(metrics)}")


# Sentences and rows -------------------------------------------------------------------------------


def _tell_sentence(name: str, row: Mapping[Any, Any]) -> Piece:
    text = {
        key: "" if (shown := format_value(key, row[key])) == DASH else shown
        for key in ("ticker", "risk", "severity", "quote", "source", "section", "date", "evidence")
    }
    quote = text["quote"]
    if len(quote) > MAX_QUOTE_CHARS:
        quote = f"{quote[: MAX_QUOTE_CHARS - 1]}…"
    label = f"{text['risk']} {text['severity']}".strip() or "no label"
    place = ", ".join(filter(None, (text["source"], text["section"], text["date"])))
    return Piece(
        text=f'{text["ticker"]}, {label}{_in_brackets(_describe_count(row))}: "{quote}"'
        f"{_in_brackets(place)}",
        unit=SENTENCES,
        count=1,
        source=Source(
            quote=text["quote"],
            source=text["source"],
            section=text["section"],
            date=text["date"],
            ticker=text["ticker"],
            evidence=text["evidence"],
            attachment=name,
        ),
    )


def _describe_count(row: Mapping[Any, Any]) -> str:
    """Return what a sentence counts for where a rule changed it, or why it has no label."""
    if row["status"] != "judged":
        return str(row["reason"] or "")
    rule, counted = format_value("", row["rule"]), format_value("", row["counted"])
    if rule == DASH:
        return ""
    return f"{'does not count' if counted == DASH else f'counts as {counted}'}: {rule}"


def _in_brackets(text: object) -> str:
    return f" ({text})" if isinstance(text, str) and text else ""


def _list_rows(table: RiskTable) -> Iterator[Piece]:
    """Yield the rows of the compact view; of a long table the highest score comes first."""
    compact = table.compact()
    names = [str(name) for name in compact.columns if name != "top_quote"]
    if not names:
        return
    is_long = len(table) > FIRST_PIECES
    order = ", the highest score first" if is_long else ""
    yield Piece(text=f"rows{order}: {' | '.join(['ticker', *names, 'flags'])}")
    tickers, flags = list_tickers(pd.DataFrame(table)), table.get("flags")
    scores = pd.to_numeric(pd.Series(table["score"].to_numpy()), errors="coerce").fillna(-1)
    if is_long:
        scores = scores.sort_values(ascending=False, kind="stable")
    places = scores.index[:MAX_PIECES].tolist()
    for place, row in zip(places, compact.iloc[places].to_dict("records"), strict=True):
        codes = "" if flags is None else format_value("", flags.iloc[place])
        cells = [tickers[place], *(format_value(name, row[name]) for name in names), codes]
        yield Piece(text=" | ".join(map(str, cells)), unit=ROWS, count=1)


def _list_messages(content: TableContent) -> Iterator[Piece]:
    for code, why in describe_warnings(content).items():
        yield Piece(text=f"flag {code}: {why}")
    for line in (*collect_notes(content), *collect_messages(content)):
        yield Piece(text=line)
