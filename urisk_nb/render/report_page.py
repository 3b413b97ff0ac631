"""
A table as one HTML page that is complete in itself: it has no script, and loads nothing.

Its policy forbids both, so that a text of the evidence that got through the escaping could do
nothing. It is legible in light and in dark, and prints on A4 with whole rows and repeated headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from urisk_nb.render.escaping import escape_html, one_line
from urisk_nb.render.heatmap import HEAT_STYLE, render_heatmap
from urisk_nb.render.portfolio_content import PortfolioContent
from urisk_nb.render.svg import draw_bars, draw_drawdown, draw_returns
from urisk_nb.render.table_changes import render_changes_html
from urisk_nb.render.table_content import (
    DASH,
    Column,
    TableContent,
    describe_run,
    describe_sentences,
    describe_warnings,
    format_value,
    list_columns,
    list_sentences,
)
from urisk_nb.render.table_html import render_summary_html
from urisk_nb.render.text_layout import cut

__all__ = ["render_report_page"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MAX_QUOTE_CHARS = 1200
MAX_RULES_CHARS = 300
MAX_LINE_CHARS = 30  # a column of texts as short as dates and flags is not wrapped
MAX_BARS = 60

# The colors of charts are Okabe and Ito's, told apart without color vision. The names that begin
# with jp are those that the table uses in a notebook.
_LIGHT = (
    "--back:#fff;--text:#1b1b1b;--jp-ui-font-color2:#5a5f66;--jp-border-color2:#d0d0d0;"
    "--bar:#0072b2;--tail:#d55e00;--area:#8cbcd9"
)
_DARK = (
    "--back:#15181c;--text:#e6e6e6;--jp-ui-font-color2:#a8adb4;--jp-border-color2:#3d434b;"
    "--bar:#56b4e9;--tail:#e69f00;--area:#2f6d94"
)
_STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    """
body{background:var(--back);color:var(--text);font:14px/1.45 system-ui,sans-serif;margin:0 auto;
max-width:100em;padding:1em 1.5em;overflow-wrap:break-word}
h1{font-size:1.5em;margin:.2em 0}h2{font-size:1.2em;margin:1.6em 0 .4em}
h3{font-size:1em;margin:1em 0 .2em}
p{margin:.3em 0}a{color:inherit}nav a{margin-right:.8em;white-space:nowrap}
.muted,caption{color:var(--jp-ui-font-color2)}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:.4em 0}summary{cursor:pointer;margin:.6em 0 .2em}
.full{width:100%}
.list :is(td,th),.heat :is(td,th){text-align:left;vertical-align:top;padding:.3em .6em;
border-bottom:1px solid var(--jp-border-color2)}
.list td{overflow-wrap:anywhere}.full td.q{width:55%}.full td.w{width:18%}.full td.n{width:1%}
.list :is(td,th).n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.list :is(td,th):first-child,.list td.s{white-space:nowrap}
.wide :is(td,th){padding:.35em .5em!important}
.heat td,.heat thead th+th{text-align:center;font-variant-numeric:tabular-nums}
.heat td{border:2px solid var(--back);white-space:nowrap}
.charts{display:flex;flex-wrap:wrap;gap:1em;margin:.5em 0}
figure{margin:.4em 0}figcaption{color:var(--jp-ui-font-color2);font-size:.85em}
svg{max-width:100%;height:auto;display:block}svg text{font-size:11px;fill:var(--text)}
.bar{fill:var(--bar)}.tail{fill:var(--tail)}.area{fill:var(--area);stroke:var(--bar)}
.axis{stroke:var(--jp-ui-font-color2);fill:none}
"""
    f"{HEAT_STYLE}"
    f"@media print{{@page{{size:A4 landscape;margin:12mm}}:root{{color-scheme:light;{_LIGHT}}}"
    """
body{font-size:9pt;max-width:none;padding:0;print-color-adjust:exact;
-webkit-print-color-adjust:exact}
nav{display:none}.wide{overflow:visible}
thead{display:table-header-group}tr,figure,svg{break-inside:avoid}
h2,h3,summary{break-after:avoid}
.wide td,.wide th{min-width:0!important;padding:.2em .4em!important;font-size:8pt}}
"""
)


def render_report_page(
    content: TableContent,
    record: Sequence[tuple[str, str, Any]],
    *,
    prices: pd.DataFrame | None = None,
    portfolio: PortfolioContent | None = None,
    views: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> str:
    """
    Return the page.

    Parameters
    ----------
    content
        The table, its findings and its records.
    record
        The record as rows: run, key, value; a row without a run is shown elsewhere.
    prices
        DataFrame of prices, date x ticker; None: no charts.
    portfolio
        Its figures and tables; None without.
    views
        Further frames by name, such as `stress`.

    Returns
    -------
    str
        A whole HTML document. All text is escaped.
    """
    title = _name_page(content)
    parts = (
        _section(
            "table",
            "Table",
            f'<div class="wide">{render_summary_html(content, is_short=False)}</div>',
        ),
        _section("ratings", "Ratings", _render_ratings(content)),
        _section("portfolio", "Portfolio", _render_portfolio(portfolio)),
        *(_section(name, name.capitalize(), _render_frame(name, views[name])) for name in views),
        *_render_tickers(content, prices),
        _section("changes", "Changes", render_changes_html(content)),
        _section("record", "Record", _render_record(record)),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape_html(title)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{escape_html(title)}</h1>{_describe_runs(content)}</header>"
        f"{_render_links(content)}<main>{''.join(parts)}</main>"
        f'<footer class="muted"><p>{escape_html(describe_run(content))}</p></footer>'
        "</body></html>\n"
    )


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{escape_html(title)}</h2>{body}</section>\n' if body else ""


# Head ---------------------------------------------------------------------------------------------


def _name_page(content: TableContent) -> str:
    days = sorted({str(run["as_of"]) for run in content.runs if run.get("as_of")})
    return f"Risk table, {' and '.join(one_line(day) for day in days)}" if days else "Risk table"


def _describe_runs(content: TableContent) -> str:
    """Return a line for each run: its id, when it was made, its hash."""
    names = {"run_id": "run", "created_at": "made at", "run_hash": "hash", "failure": "ended early"}
    lines = (
        " · ".join(f"{text} {one_line(run[name])}" for name, text in names.items() if run.get(name))
        for run in content.runs
    )
    return "".join(f'<p class="muted">{escape_html(line)}</p>' for line in lines if line)


def _list_tickers(content: TableContent) -> list[str]:
    """Return each ticker once, in table order; none where the user chose the columns."""
    return list(dict.fromkeys(map(str, content.tickers))) if content.is_whole else []


def _render_links(content: TableContent) -> str:
    links = "".join(
        f'<a href="#t{number}">{escape_html(ticker)}</a>'
        for number, ticker in enumerate(_list_tickers(content))
    )
    return f'<nav aria-label="tickers"><p>{links}</p></nav>' if links else ""


# Ratings and portfolio ----------------------------------------------------------------------------


def _render_ratings(content: TableContent) -> str:
    heat = render_heatmap(content)
    text = (
        "The rating of each category, 0 (reduces the risk) to 5 (threatens survival), and in "
        "brackets how many sentences count for it."
    )
    return heat and f'<p class="muted">{text}</p><div class="wide">{heat}</div>'


def _render_portfolio(read: PortfolioContent | None) -> str:
    if read is None:
        return ""
    tables = "".join(
        f"<h3>{escape_html(name.capitalize())}</h3>{_render_frame(name, frame)}"
        for name, frame in read.tables.items()
    )
    figures = [(name, format_value(name, value)) for name, value in read.figures.items()]
    shown = _render_list(("figure", "value"), figures, numbers={1}, label="portfolio figures")
    return (
        f"{shown if figures else ''}{_render_components(read.components, read.shortfall)}{tables}"
    )


def _render_components(found: pd.Series[float] | None, shortfall: str) -> str:
    """Return the bars of what each holding adds to ES, the largest first."""
    if found is None or found.empty:
        return ""
    values = found.sort_values(ascending=False, kind="stable")
    shown = {one_line(str(name)): float(value) for name, value in values.head(MAX_BARS).items()}
    more = f", the first {MAX_BARS} of {len(values)}" if len(values) > MAX_BARS else ""
    text = f"What each holding adds to the portfolio's {shortfall}{more}; a hedge is negative."
    return (
        f"<figure>{draw_bars(shown, 'component ES of each holding')}"
        f"<figcaption>{escape_html(text)}</figcaption></figure>"
    )


def _render_frame(name: str, frame: pd.DataFrame) -> str:
    whole = frame if frame.index.name is None else frame.reset_index()
    content = TableContent(frame=whole, findings=pd.DataFrame(), meta={})
    columns = list_columns(content, None)
    numbers = {place for place, column in enumerate(columns) if column.is_number}
    cells = [[format_value(column.name, one) for one in column.values] for column in columns]
    rows = list(zip(*cells, strict=True))
    heads = [column.heading for column in columns]
    said = "".join(
        f'<p class="muted">{escape_html(f"{code}: {text}")}</p>'
        for code, text in describe_warnings(content).items()
    )
    return f'<div class="wide">{_render_list(heads, rows, numbers=numbers, label=name)}</div>{said}'


# Tickers ------------------------------------------------------------------------------------------


def _render_tickers(content: TableContent, prices: pd.DataFrame | None) -> Iterator[str]:
    """Yield a section for each ticker: its main figures, its charts, its sentences."""
    tickers = _list_tickers(content)
    if not tickers:
        return
    _, sentences = list_sentences(content, None)
    by_ticker: dict[str, list[dict[str, str]]] = {}
    for row in sentences:
        by_ticker.setdefault(row["ticker"], []).append(row)
    is_sure = any(row["p_label"] != DASH for row in sentences)
    if sentences:
        said = f'<p class="muted">{escape_html(describe_sentences(content))}</p>'
        yield _section("sentences", "Sentences", said)
    columns = list_columns(content, None)
    places: dict[str, list[int]] = {ticker: [] for ticker in tickers}
    for place, name in enumerate(map(str, content.tickers)):
        places[name].append(place)
    for number, ticker in enumerate(tickers):
        facts = "".join(_describe_row(columns, place) for place in places[ticker])
        charts = _render_charts(prices, ticker, *_find_loss(columns, places[ticker]))
        rows = _render_sentences(by_ticker.get(one_line(ticker), ()), ticker, is_sure=is_sure)
        yield _section(f"t{number}", ticker, f"{facts}{charts}{rows}")


def _describe_row(columns: Sequence[Column], place: int) -> str:
    """Return the main figures of a row as a line."""
    cells = (
        (column.heading, format_value(column.name, column.values[place]))
        for column in columns
        if column.name not in ("top_quote", "warnings")
    )
    text = " · ".join(f"{name} {value}" for name, value in cells if value != DASH)
    return f"<p>{escape_html(text)}</p>" if text else ""


def _render_sentences(rows: Iterable[Mapping[str, str]], ticker: str, *, is_sure: bool) -> str:
    """Return the sentences of a ticker with label, probabilities, place and rule."""
    body = "".join(_render_sentence(row, is_sure=is_sure) for row in rows)
    if not body:
        return ""
    sure = '<th scope="col" class="n">p(label)</th><th scope="col" class="n">p(severity)</th>'
    return (
        f'<table class="list full" aria-label="sentences of {escape_html(ticker)}"><thead><tr>'
        f'<th scope="col">risk</th><th scope="col" class="n">severity</th>{sure if is_sure else ""}'
        '<th scope="col">sentence</th><th scope="col">place</th>'
        f'<th scope="col">rule, warnings</th></tr></thead><tbody>{body}</tbody></table>'
    )


def _render_sentence(row: Mapping[str, str], *, is_sure: bool) -> str:
    severity = row["severity"]
    shade = f" s{severity}" if severity.isdigit() else ""
    sure = (
        f'<td class="n">{row["p_label"]}</td><td class="n">{row["p_severity"]}</td>'
        if is_sure
        else ""
    )
    place = ", ".join(row[name] for name in ("source", "section", "date") if row[name] != DASH)
    return (
        f"<tr><td>{escape_html(row['risk'])}</td>"
        f'<td class="n{shade}">{escape_html(severity)}</td>{sure}'
        f'<td class="q"><bdi>{escape_html(cut(row["quote"], MAX_QUOTE_CHARS))}</bdi></td>'
        f'<td class="w">{escape_html(place)}</td>'
        f"<td>{escape_html(cut(row['warnings'], MAX_RULES_CHARS))}</td></tr>"
    )


def _render_charts(prices: pd.DataFrame | None, ticker: str, name: str, loss: float | None) -> str:
    """Return the drawdown and the returns of a ticker; empty where it has no prices."""
    if prices is None or ticker not in prices:
        return ""
    series = pd.to_numeric(prices[ticker], errors="coerce").dropna()
    if isinstance(series, pd.DataFrame) or len(series) < 2 or not (series > 0).all():
        return ""
    losses = 1 - series / series.cummax()
    first, last = (format_value("", day) for day in (series.index[0], series.index[-1]))
    returns = (series / series.shift(1) - 1).iloc[1:]
    drawdown = draw_drawdown(losses.tolist(), first, last, f"drawdown of {ticker}")
    tail = draw_returns(returns.tolist(), loss, name, f"returns of {ticker}")
    return (
        f'<div class="charts"><figure>{drawdown}<figcaption>Loss since the last peak'
        f"</figcaption></figure><figure>{tail}<figcaption>How often each return was seen"
        f"{f'; left of the line: beyond {escape_html(name)}' if loss is not None else ''}"
        "</figcaption></figure></div>"
    )


def _find_loss(columns: Sequence[Column], places: Sequence[int]) -> tuple[str, float | None]:
    """Return the heading and the value of the first VaR of a ticker that has one row."""
    for column in columns:
        if column.heading.startswith("VaR") and len(places) == 1:
            value = column.values[places[0]]
            return column.heading, None if pd.isna(value) else float(value)
    return "", None


# Record -------------------------------------------------------------------------------------------


def _render_record(record: Sequence[tuple[str, str, Any]]) -> str:
    rows = [(run, key, DASH if value is None else str(value)) for run, key, value in record if run]
    if not rows:
        return ""
    if len({run for run, _, _ in rows}) < 2:
        return _render_list(("key", "value"), [row[1:] for row in rows], label="record")
    return _render_list(("run", "key", "value"), rows, label="record")


def _render_list(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    label: str,
    numbers: Iterable[int] = (),
) -> str:
    """Return texts as a table; those in the columns `numbers` are figures."""
    right = frozenset(numbers)
    kinds = [
        ' class="n"' if place in right else ' class="s"' if _is_short(rows, place) else ""
        for place in range(len(heads))
    ]
    top = "".join(
        f'<th scope="col"{kind}>{escape_html(head)}</th>'
        for head, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{escape_html(text)}</td>" for text, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<table class="list" aria-label="{escape_html(label)}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _is_short(rows: Sequence[Sequence[str]], place: int) -> bool:
    return max((len(row[place]) for row in rows), default=0) <= MAX_LINE_CHARS
