"""Charts. The only importer of plotly, which is loaded when the first one is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import PackageMissing
from urisk_nb.notebook.latency_table import COLOURS, NAMES, PHASES

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["draw_clickable", "draw_latency", "show_chart"]

# No toolbar: newer versions of plotly have a button there that uploads the chart.
CONFIG = {"displayModeBar": False, "displaylogo": False}
INSTALL = '%pip install "urisk-nb[notebook]", then restart the kernel'


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as exc:
        raise PackageMissing("the chart needs the package plotly.", fix=INSTALL) from exc
    return go


def draw_latency(calls: pd.DataFrame) -> go.Figure:
    """
    Return the stacked phases of each call, seconds; hovering shows the figures.

    Raises
    ------
    PackageMissing
        plotly is not installed: it belongs to the extra `notebook`.
    """
    go = _plotly()
    bars = [
        go.Bar(
            x=calls.index,
            y=calls[phase],
            name=NAMES[phase],
            marker_color=COLOURS[phase],
            hovertemplate="%{y:.3f} s",
        )
        for phase in PHASES
    ]
    figure = go.Figure(bars)
    figure.update_layout(
        barmode="stack",
        bargap=0.15,
        hovermode="x unified",
        height=320,
        margin={"l": 50, "r": 10, "t": 10, "b": 40},
        xaxis_title="call, the oldest first",
        yaxis_title="seconds",
        legend={"orientation": "h", "y": 1.15, "traceorder": "normal"},
        # Legible on a light page and on a dark one: a chart knows neither.
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#787878"},
        yaxis={"gridcolor": "rgba(127,127,127,.3)", "rangemode": "tozero"},
        xaxis={"showgrid": False},
    )
    return figure


def show_chart(figure: go.Figure) -> None:
    """Show it the way that plotly is set to here."""
    figure.show(config=CONFIG)


def draw_clickable(calls: pd.DataFrame, picked: Callable[[int], Any]) -> go.FigureWidget:
    """
    Return the same as a widget that tells which call was clicked, by its number.

    Raises
    ------
    PackageMissing
        plotly is not installed, or anywidget, which its widget needs.
    """
    go, chart = _plotly(), draw_latency(calls)
    try:
        figure = go.FigureWidget(chart)
    except ImportError as exc:
        raise PackageMissing("the chart needs the package anywidget.", fix=INSTALL) from exc

    figure._config = {**figure._config, **CONFIG}
    figure.update_layout(width=860)  # a widget is given its place too late to fill it

    def clicked(_: Any, points: Any, __: Any) -> None:
        for place in points.point_inds:
            picked(int(calls.index[place]))

    for bar in figure.data:
        bar.on_click(clicked)
    return figure
