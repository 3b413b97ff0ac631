"""
The charts of a risk table as figures of plotly: severities, drawdowns, tails, parts of the ES.

They get frames that are ordered and cut already, and know no table. Every text of the user, of a
document or a model is escaped. Rows stand at whole numbers from the top, so that two rows of one
name stay two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from urisk_nb.render.figures import (
    CELL_TEXT,
    LINES,
    MUTED_GRAY,
    PAGE_AXIS,
    SEVERITY_COLORS,
    add_note,
    apply_page_color,
    build_figure,
    escape_text,
)
from urisk_nb.render.table_content import DASH
from urisk_nb.render.text_layout import cut, display_width, format_count, wrap
from urisk_nb.risk.taxonomy import SEVERITIES

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "Tail",
    "WorstSentence",
    "draw_component_es",
    "draw_drawdowns",
    "draw_heatmap",
    "draw_tails",
]

ROW_HEIGHT = 24
MAX_LABEL_CHARS = 18  # of a ticker beside its row
MAX_QUOTE_CHARS = 240
QUOTE_WIDTH = 60
DASHES = ("solid", "dash", "dot", "dashdot")
ADDS, LOWERS = "#d55e00", "#2f80c0"
_DAY = "%Y-%m-%d"
_VAR_MARK = {"symbol": "line-ns", "size": 16, "line": {"color": LOWERS, "width": 3}}
_ES_MARK = {"symbol": "diamond", "size": 10, "color": ADDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSentence:
    """How many sentences count for a ticker and a category, and the worst of them, verbatim."""

    count: int
    quote: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tail:
    """
    The worst returns of a ticker.

    Attributes
    ----------
    losses
        Positive fractions by date.
    var, es
        As in the table; NaN where the history is too short.
    """

    ticker: str
    losses: pd.Series[float]
    var: float
    es: float


# Severities ---------------------------------------------------------------------------------------


def draw_heatmap(
    severities: pd.DataFrame, worst: Mapping[tuple[str, str], WorstSentence], note: str = ""
) -> go.Figure:
    """
    Return the severity of each ticker and category as color and number.

    Parameters
    ----------
    severities
        Ticker x category, 0 to 5; NaN where no sentence counts.
    worst
        By ticker and category, for hovering.
    note
        Stands under the chart.
    """
    tickers, categories = list(severities.index), list(severities.columns)
    cells = [
        [None if pd.isna(value) else float(value) for value in row]
        for row in severities.to_numpy(dtype=object).tolist()
    ]
    hovers = [
        [
            _describe_cell(ticker, category, value, worst.get((ticker, category)))
            for category, value in zip(categories, row, strict=True)
        ]
        for ticker, row in zip(tickers, cells, strict=True)
    ]
    colored: dict[str, Any] = {
        "type": "heatmap",
        "z": cells,
        "zmin": -0.5,
        "zmax": len(SEVERITY_COLORS) - 0.5,
        "colorscale": _list_steps(SEVERITY_COLORS),
        "hovertext": hovers,
        "hoverinfo": "text",
        "hoverongaps": True,
        "xgap": 2,
        "ygap": 2,
        "colorbar": _describe_scale(),
    }
    figure = build_figure(
        [colored, _write_numbers(cells)],
        height=90 + ROW_HEIGHT * max(len(tickers), 5),
        margin={"l": _label_margin(tickers), "r": 20, "t": 60, "b": 20},
        xaxis={**_name_places(categories), "side": "top", "showgrid": False, "zeroline": False},
        yaxis=_row_axis(tickers),
        showlegend=False,
    )
    return _with_note(figure, note)


def _list_steps(colors: Sequence[str]) -> list[list[Any]]:
    """Return a scale of plain steps: a severity between two would mean nothing."""
    edges = [number / len(colors) for number in range(len(colors) + 1)]
    return [
        [edge, color]
        for number, color in enumerate(colors)
        for edge in (edges[number], edges[number + 1])
    ]


def _describe_scale() -> dict[str, Any]:
    return {
        "title": {"text": apply_page_color("severity"), "side": "right"},
        "tickvals": list(SEVERITIES),
        "ticktext": [apply_page_color(str(severity)) for severity in SEVERITIES],
        "thickness": 14,
        "lenmode": "pixels",
        "len": 180,
        "y": 1,
        "yanchor": "top",
        "outlinewidth": 0,
    }


def _write_numbers(cells: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """
    Return the numbers in the cells, each in a color that is legible there.

    They are a trace of their own: the text of a heatmap has one color for all cells, or plotly's
    choice, which is below 4.5:1 on some.
    """
    places = [
        (column, row, value)
        for row, values in enumerate(cells)
        for column, value in enumerate(values)
    ]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [column for column, _, _ in places],
        "y": [row for _, row, _ in places],
        "text": [
            apply_page_color(DASH) if value is None else f"{value:g}" for _, _, value in places
        ],
        "textfont": {
            "color": [MUTED_GRAY if value is None else _find_ink(value) for _, _, value in places]
        },
        "hoverinfo": "skip",
    }


def _find_ink(severity: float) -> str:
    return CELL_TEXT[min(max(round(severity), 0), len(CELL_TEXT) - 1)]


def _describe_cell(
    ticker: str, category: str, severity: float | None, worst: WorstSentence | None
) -> str:
    head = f"<b>{escape_text(ticker)} · {escape_text(category)}</b>"
    if severity is None:
        return f"{head}<br>no sentence counts for this risk"
    lines = [f"{head}: {severity:g}"]
    if anchor := SEVERITIES.get(int(severity)):
        lines.append(escape_text(anchor))
    if worst is not None:
        noun = format_count(worst.count, "sentence")
        lines.append(f"{noun} {'counts' if worst.count == 1 else 'count'}")
        quote = cut(worst.quote, MAX_QUOTE_CHARS)
        lines += [f"<i>{escape_text(line)}</i>" for line in wrap(quote, QUOTE_WIDTH)]
    return "<br>".join(lines)


# Drawdowns ----------------------------------------------------------------------------------------


def draw_drawdowns(drawdowns: pd.DataFrame, note: str = "") -> go.Figure:
    """
    Return how far each ticker is below its highest price so far, over time; down is worse.

    Parameters
    ----------
    drawdowns
        Date x ticker, positive fractions; NaN where there is no price.
    note
        Stands under the chart.
    """
    traces = [
        _draw_line(number, str(ticker), drawdowns[ticker].dropna())
        for number, ticker in enumerate(drawdowns.columns)
    ]
    figure = build_figure(
        traces,
        height=380,
        margin={"l": 70, "r": 20, "t": 20, "b": 40},
        xaxis={**PAGE_AXIS, "showgrid": False},
        yaxis={
            **PAGE_AXIS,
            "tickformat": "~%",
            "autorange": "reversed",
            "rangemode": "tozero",
            "zeroline": False,
            "title": {"text": apply_page_color("below the highest price so far")},
        },
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return _with_note(figure, note, below=40)


def _draw_line(number: int, ticker: str, falls: pd.Series[float]) -> dict[str, Any]:
    # The same color comes back with another dash, and colors that some do not tell apart differ in
    # theirs.
    turn, place = divmod(number, len(LINES))
    dash = DASHES[(place + turn) % len(DASHES)]
    name = escape_text(cut(ticker, MAX_LABEL_CHARS))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": apply_page_color(name),
        "x": falls.index,
        "y": falls.to_numpy(),
        "line": {"color": LINES[place], "dash": dash, "width": 1.5},
        "hovertemplate": f"<b>{name}</b> %{{x|{_DAY}}}<br>"
        "%{y:.1%} below its highest price<extra></extra>",
    }


# Tails --------------------------------------------------------------------------------------------


def draw_tails(
    tails: Sequence[Tail], *, level: str, share: float, period: str, note: str = ""
) -> go.Figure:
    """
    Return the worst returns of each ticker as dots in a row, with VaR and ES marked.

    Parameters
    ----------
    tails
        A row each, the first at the top.
    level
        Of VaR and ES, such as "95".
    share
        Which share of the returns the dots are, the worst ones.
    period
        What a return is of, such as "day"; empty where tickers differ.
    note
        Stands under the chart.
    """
    figure = build_figure(
        [
            _draw_losses(tails, share),
            _mark(f"VaR {level}", [(tail.ticker, tail.var) for tail in tails], _VAR_MARK),
            _mark(f"ES {level}", [(tail.ticker, tail.es) for tail in tails], _ES_MARK),
        ],
        height=124 + ROW_HEIGHT * len(tails),
        margin={"l": _label_margin([tail.ticker for tail in tails]), "r": 20, "t": 40, "b": 64},
        xaxis={
            **PAGE_AXIS,
            "tickformat": "~%",
            "zeroline": False,
            "title": {"text": apply_page_color(f"loss in one {period}" if period else "loss")},
        },
        yaxis=_row_axis([tail.ticker for tail in tails]),
        showlegend=True,
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
    )
    return _with_note(figure, note, below=58)


def _draw_losses(tails: Sequence[Tail], share: float) -> dict[str, Any]:
    points = [
        (row, tail.ticker, day, loss)
        for row, tail in enumerate(tails)
        for day, loss in tail.losses.items()
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": apply_page_color(f"the worst {100 * share:.3g}% of the returns"),
        "x": [loss for *_, loss in points],
        "y": [row for row, *_ in points],
        "marker": {"color": MUTED_GRAY, "size": 6, "opacity": 0.8},
        "hovertext": [
            f"<b>{escape_text(ticker)}</b> {pd.Timestamp(str(day)).date()}<br>loss {loss:.1%}"
            for _, ticker, day, loss in points
        ],
        "hoverinfo": "text",
    }


def _mark(
    name: str, values: Sequence[tuple[str, float]], marker: Mapping[str, Any]
) -> dict[str, Any]:
    known = [
        (row, ticker, value) for row, (ticker, value) in enumerate(values) if not math.isnan(value)
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": apply_page_color(name),
        "x": [value for *_, value in known],
        "y": [row for row, *_ in known],
        "marker": dict(marker),
        "hovertext": [
            f"<b>{escape_text(ticker)}</b><br>{name}: {value:.1%}" for _, ticker, value in known
        ],
        "hoverinfo": "text",
    }


# Parts of the expected shortfall ------------------------------------------------------------------


def draw_component_es(components: pd.Series[float], note: str = "") -> go.Figure:
    """
    Return what each ticker adds to the portfolio's expected shortfall, as bars.

    Parameters
    ----------
    components
        By ticker, fractions of the portfolio's value; negative for a hedge. The first is on top.
    note
        Stands under the chart.
    """
    tickers, values = list(map(str, components.index)), components.tolist()
    signs = [("adds to it", ADDS, False), ("lowers it (hedge)", LOWERS, True)]
    figure = build_figure(
        [
            _draw_bars(name, color, tickers, [v if (v < 0) == is_hedge else None for v in values])
            for name, color, is_hedge in signs
        ],
        height=124 + ROW_HEIGHT * len(tickers),
        margin={"l": _label_margin(tickers), "r": 20, "t": 40, "b": 64},
        xaxis={
            **PAGE_AXIS,
            "tickformat": "~%",
            "range": _pad_range(values),
            "zerolinecolor": MUTED_GRAY,
            "title": {"text": apply_page_color("part of the portfolio's expected shortfall")},
        },
        yaxis=_row_axis(tickers),
        barmode="overlay",
        showlegend=bool((components < 0).any()),
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
    )
    return _with_note(figure, note, below=58)


def _pad_range(values: Sequence[float]) -> list[float]:
    """Return the ends of an axis with room for the numbers at the ends of the bars."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.12 * (high - low) or 1.0
    return [low - room if low < 0 else low, high + room if high > 0 else high]


def _draw_bars(
    name: str, color: str, tickers: Sequence[str], values: Sequence[float | None]
) -> dict[str, Any]:
    shown = [None if value is None else f"{value:.2%}" for value in values]
    return {
        "type": "bar",
        "orientation": "h",
        "name": apply_page_color(name),
        "x": list(values),
        "y": list(range(len(values))),
        "marker": {"color": color},
        "text": [apply_page_color(text) if text else "" for text in shown],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [
            f"<b>{escape_text(ticker)}</b><br>{text}" if text else ""
            for ticker, text in zip(tickers, shown, strict=True)
        ],
        "hoverinfo": "text",
    }


# Rows, margins, notes -----------------------------------------------------------------------------


def _row_axis(names: Sequence[Any]) -> dict[str, Any]:
    """Return an axis with a name at each whole number, the first on top."""
    return {
        **_name_places(names),
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "zeroline": False,
    }


def _name_places(names: Sequence[Any]) -> dict[str, Any]:
    labels = [apply_page_color(escape_text(cut(str(name), MAX_LABEL_CHARS))) for name in names]
    return {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": labels}


def _label_margin(names: Sequence[Any]) -> int:
    """Return the pixels that the longest name takes on the left."""
    longest = max((display_width(str(name)) for name in names), default=0)
    return 20 + 8 * min(longest, MAX_LABEL_CHARS)


def _with_note(figure: go.Figure, note: str, below: int = 0) -> go.Figure:
    if note:
        add_note(figure, note, below=below + 6)
    return figure
