"""
What all figures share: plotly, colors that are told apart, and text that plotly takes as text.

The only importer of plotly, which is loaded when the first figure is made. A figure knows neither
the page nor its theme. So its backgrounds are transparent, its words take the color of the page,
and what cannot is gray enough for light and dark.

plotly reads some HTML in every text of a figure (`<b>`, `<a href>`), and formulas between dollars.
So text of models, documents and users goes through `escape_text`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import PackageMissing
from urisk_nb.render.escaping import one_line
from urisk_nb.render.text_layout import wrap

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "CELL_TEXT",
    "CONFIG",
    "INSTALL",
    "LINES",
    "MUTED_GRAY",
    "PAGE_AXIS",
    "SEVERITY_COLORS",
    "add_note",
    "apply_page_color",
    "build_figure",
    "escape_text",
    "load_plotly",
    "show_figure",
]

INSTALL = '%pip install "urisk-nb[notebook]", then restart the kernel'
# No toolbar: newer versions of plotly have a button there that uploads the chart.
CONFIG = {"displayModeBar": False, "displaylogo": False}
# A figure that is shown by its notebook has plotly's own configuration; what the figure itself says
# of the toolbar holds there, too. The names of the buttons that upload, by versions of plotly.
_UPLOADS = ["sendChartToCloud", "sendDataToCloud", "editInChartStudio"]

# Severity 0 to 5. Lightness falls from step to step, for every kind of color vision, so the order
# is seen without hue; each cell has its number in a color that is 4.5:1 against it or more.
SEVERITY_COLORS = ("#f4f0d5", "#f0d08f", "#f2a451", "#e87134", "#ca403f", "#94234a")
CELL_TEXT = ("#1f1f1f", "#1f1f1f", "#1f1f1f", "#1f1f1f", "#ffffff", "#ffffff")

# Each at least 3:1 against a white page and a dark one; lines differ in their dashes, too.
LINES = ("#2f80c0", "#d55e00", "#b05a8c", "#767676")
MUTED_GRAY = "#787878"

# JupyterLab's own color; elsewhere that of the text around the figure
_PAGE_COLOR = "var(--jp-ui-font-color1,currentColor)"
_OPEN, _CLOSE = f'<span style="color:{_PAGE_COLOR}">', "</span>"
# The labels of an axis of numbers or dates in the color of the page
PAGE_AXIS = {"tickprefix": _OPEN, "ticksuffix": _CLOSE, "gridcolor": "rgba(127,127,127,.3)"}

_LAYOUT: dict[str, Any] = {
    "template": "none",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": MUTED_GRAY},
    "hovermode": "closest",
    "hoverlabel": {
        "bgcolor": "#ffffff",
        "bordercolor": MUTED_GRAY,
        "font": {"color": "#1f1f1f"},
        "align": "left",
    },
    "modebar": {"remove": _UPLOADS},
}
# plotly turns entities into text after it has looked for tags, formulas and templates.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "{": "&#123;"})
NOTE_WIDTH = 100
LINE_HEIGHT = 18


def load_plotly() -> Any:
    """
    Return the module `plotly.graph_objects`.

    Raises
    ------
    PackageMissing
        plotly is not installed: it belongs to the extra `notebook`.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as exc:
        raise PackageMissing("the chart needs the package plotly.", fix=INSTALL) from exc
    return go


def build_figure(traces: Sequence[Mapping[str, Any]], **layout: Any) -> go.Figure:
    """
    Return a figure of these traces for light and dark pages, whose toolbar has no upload.

    Parameters
    ----------
    traces, layout
        As plotly wants them. What the layout says goes before what all figures share.

    Raises
    ------
    PackageMissing
        plotly is not installed.
    """
    figure = load_plotly().Figure([dict(trace) for trace in traces])
    figure.update_layout(_LAYOUT)
    figure.update_layout(layout)
    return figure


def show_figure(figure: go.Figure) -> None:
    """Show the figure without a toolbar, with the renderer that plotly is set to."""
    figure.show(config=CONFIG)


def add_note(figure: go.Figure, text: str, *, below: int) -> None:
    """
    Write a note under the drawing, and make the figure as much higher as the note needs.

    Parameters
    ----------
    text
        Plain text; it is escaped and wrapped.
    below
        Pixels between the drawing and the note, for the labels of an axis.
    """
    lines = wrap(one_line(text), NOTE_WIDTH)
    figure.add_annotation(
        text=apply_page_color("<br>".join(map(escape_text, lines))),
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        xanchor="left",
        yanchor="top",
        yshift=-below,
        showarrow=False,
        align="left",
    )
    height = LINE_HEIGHT * len(lines)
    figure.update_layout(
        height=figure.layout.height + height,
        margin_b=(figure.layout.margin.b or 0) + height,
    )


def escape_text(value: object) -> str:
    """
    Return the value as one line that plotly shows as it is.

    Tags, entities, formulas between dollars and placeholders (`%{x}`) stay text. What is invisible
    or reorders a line is written out.

    Examples
    --------
    >>> escape_text("<b>$5 & $6</b>")
    '&lt;b&gt;&#36;5 &amp; &#36;6&lt;/b&gt;'
    """
    return one_line(value).translate(_ENTITIES)


def apply_page_color(markup: str) -> str:
    """Return text for a figure, escaped already, in the color of the page's own text."""
    return f"{_OPEN}{markup}{_CLOSE}"
