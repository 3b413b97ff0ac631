"""Where the time of calls went: as a table, one row a call, and as a chart of its phases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import PackageMissing
from urisk_nb.llm.calls import OK
from urisk_nb.notebook.time_axis import find_axis_end, label_cut_calls
from urisk_nb.render.figures import CONFIG, INSTALL, build_figure, load_plotly

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from urisk_nb.llm.calls import CallRecord

__all__ = [
    "COLOURS",
    "NAMES",
    "PHASES",
    "SOURCES",
    "build_table",
    "draw_clickable",
    "draw_latency",
]

# In the order in which they happen; together they are the call, from the asking to the last token,
# but for what the wire takes.
PHASES = ("wait_s", "retry_s", "queue_s", "load_s", "prompt_s", "generation_s")
NAMES = {
    "wait_s": "queued locally",
    "retry_s": "failed attempts",
    "queue_s": "waiting for a slot",
    "load_s": "loading the model",
    "prompt_s": "reading the prompt",
    "generation_s": "generating",
}
# The hues of Okabe and Ito ("Color Universal Design", 2008), told apart by those who see no red or
# green; some darker than theirs, so that each is at least 3:1 against a white page and against a
# dark one.
COLOURS = dict(
    zip(PHASES, ("#767676", "#B05A8C", "#AD8600", "#D55E00", "#3A94CC", "#0072B2"), strict=True)
)
SOURCES = {
    "asked_at": "the kernel's clock, UTC",
    "model": "as asked for",
    "wait_s": "the kernel's clock: until the first attempt is sent; a call waits for a free place, "
    "and for a server that is being restarted",
    "retry_s": "the kernel's clock: from the first attempt to the last one",
    "queue_s": "the server's total less load, prompt and generation; the kernel's clock where the "
    "server gives no total",
    "load_s": "the server's counters",
    "prompt_s": "the server's counters: the part of the prompt that was not in its cache",
    "generation_s": "the server's counters",
    "server_total_s": "the server's counters",
    "first_token_s": "the kernel's clock, from the sending to the first piece",
    "total_s": "the kernel's clock, from the sending to the end",
    "elapsed_s": "the kernel's clock, from the asking to the end: wait_s + retry_s + total_s",
    "prompt_tokens": "the server's counters: the whole prompt, cached or not",
    "tokens": "the server's counters",
    "tokens_per_s": "(tokens - 1) / generation_s: the first one comes with the prompt",
    "attempts": "attempts, the last one included",
    "outcome": "ok, cancelled (by the caller), or the name of the error",
}
SERVER = "of several, the address of the server that was asked last"
CHART_WIDTH, CHAR_WIDTH = 760, 7  # of the drawing and its words, pixels; a wider page has more room


def build_table(records: Iterable[CallRecord]) -> pd.DataFrame:
    """
    Return one row a call that has ended, in the order of their ends; times in seconds, NaN where
    nothing was measured.

    Returns
    -------
    DataFrame
        Columns as in SOURCES, and `server` where the session has several; the index is the call's
        number in its session. `attrs["source"]` says where each figure comes from.
    """
    import pandas as pd

    records = list(records)
    sources = SOURCES | ({"server": SERVER} if any(one.server for one in records) else {})
    rows = {
        record.number: {
            **asdict(timing),
            "elapsed_s": timing.elapsed_s,
            "tokens_per_s": timing.tokens_per_s,
            "outcome": record.outcome,
            "server": record.server,
        }
        for record in records
        if (timing := record.timing) is not None
    }
    made = pd.DataFrame(
        list(rows.values()),
        index=pd.Index(list(rows), name="call", dtype="int64"),
        columns=list(sources),
    )
    made["asked_at"] = pd.to_datetime(made["asked_at"], utc=True)
    made.attrs["source"] = dict(sources)
    return made


def draw_latency(calls: pd.DataFrame) -> go.Figure:
    """
    Return the stacked phases of each call, seconds; hovering shows the figures.

    A call that is much longer than the others is cut at the top, where its time is written. A
    double click shows its whole length.

    Raises
    ------
    PackageMissing
        plotly is not installed: it belongs to the extra `notebook`.
    """
    bars = [
        {
            "type": "bar",
            "x": calls.index,
            "y": calls[phase],
            "name": NAMES[phase],
            "marker": {"color": COLOURS[phase]},
            "hovertemplate": "%{y:.3f} s",
        }
        for phase in PHASES
    ]
    axis: dict[str, Any] = {"gridcolor": "rgba(127,127,127,.3)", "rangemode": "tozero"}
    durations_s = calls[list(PHASES)].sum(axis=1).tolist()
    top_s = find_axis_end(zip(durations_s, calls["outcome"] == OK, strict=True))
    labels = _label_cuts(calls, durations_s, top_s)
    return build_figure(
        bars,
        barmode="stack",
        bargap=0.15,
        hovermode="x unified",
        height=320,
        margin={"l": 50, "r": 10, "t": 10, "b": 40},
        xaxis_title="call, the oldest first",
        yaxis_title="seconds",
        legend={"orientation": "h", "y": 1.08, "yanchor": "bottom", "traceorder": "normal"},
        yaxis=axis | ({"range": [0, top_s]} if labels else {}),
        xaxis={"showgrid": False},
        annotations=labels,
    )


def _label_cuts(
    calls: pd.DataFrame, durations_s: Sequence[float], top_s: float
) -> list[dict[str, Any]]:
    """Return what is written above the calls that are longer than the axis."""
    if not len(calls):
        return []
    start, end = calls.index.min() - 0.5, calls.index.max() + 0.5
    step = CHART_WIDTH / (end - start)
    ended = sorted(zip(calls.index, durations_s, strict=True))  # calls end in another order
    cut = [((number - start) * step, seconds) for number, seconds in ended if seconds > top_s]
    labels = label_cut_calls(cut, char_width=CHAR_WIDTH, within=(0, CHART_WIDTH))
    return [
        {
            "text": f"▲ {label.words}",
            "hovertext": ", ".join(label.every),
            "x": float(start + label.center / step),
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 11},
        }
        for label in labels
    ]


def draw_clickable(calls: pd.DataFrame, on_pick: Callable[[int], Any]) -> go.FigureWidget:
    """
    Return the same chart as a widget; `on_pick` gets the number of the call that is clicked.

    Raises
    ------
    PackageMissing
        plotly is not installed, or anywidget, which its widget needs.
    """
    chart = draw_latency(calls)
    try:
        figure = load_plotly().FigureWidget(chart)
    except ImportError as exc:
        raise PackageMissing("the chart needs the package anywidget.", fix=INSTALL) from exc

    figure._config = {**figure._config, **CONFIG}
    figure.update_layout(width=860)  # a widget is given its place too late to fill it

    def pick(_: Any, points: Any, __: Any) -> None:
        for place in points.point_inds:
            on_pick(int(calls.index[place]))

    for bar in figure.data:
        bar.on_click(pick)
    return figure
