"""Charts. The only importer of plotly, which is loaded when the first one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from urisk_nb.notebook.latency import PHASES

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["latency"]

NAMES = {
    "wait_s": "waiting here",
    "queue_s": "waiting for a slot",
    "load_s": "loading the model",
    "prompt_s": "reading the prompt",
    "generation_s": "generating",
}
# Told apart in grey and by those who see no red or green (Okabe and Ito, "Color Universal Design", 2008).
COLOURS = ("#999999", "#E69F00", "#D55E00", "#56B4E9", "#0072B2")


def latency(calls: pd.DataFrame) -> go.Figure:
    """Stacked phases of each call, seconds; hovering shows the figures."""
    import plotly.graph_objects as go

    bars = [
        go.Bar(x=calls.index, y=calls[phase], name=NAMES[phase], marker_color=colour, hovertemplate="%{y:.3f} s")
        for phase, colour in zip(PHASES, COLOURS, strict=True)
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
        template="plotly_white",
    )
    return figure
