"""
What the dashboard's parts are made of: the style sheet, a block, a table, and figures in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = [
    "STYLE",
    "format_bytes",
    "format_seconds",
    "format_span",
    "html_block",
    "html_table",
]

# The class is named twice in order to be heard before the page's own rules for tables and lists.
# The rules on what is disconnected: a kernel that is started again can say nothing more, since the
# browser hears no old kernel. A frozen place then tells so by itself, and offers no button that
# would do nothing.
STYLE = """<style>
.urisk.urisk{font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;
line-height:1.45;color:var(--jp-ui-font-color1,inherit);
max-width:960px}
.urisk.urisk .muted{color:var(--jp-ui-font-color2,#616161)}
.urisk.urisk .lamp{display:inline-block;width:.85em;height:.85em;border-radius:50%;
margin-right:.5em;vertical-align:-.05em}
.urisk.urisk .facts{display:flex;flex-wrap:wrap;gap:.3em 1.8em;margin:.5em 0 .2em}
.urisk.urisk .facts div{white-space:nowrap}
.urisk.urisk .facts dt,.urisk.urisk .facts dd{display:block;float:none;width:auto;margin:0;
padding:0;font-weight:normal}
.urisk.urisk .facts dt{color:var(--jp-ui-font-color2,#616161);font-size:12px}
.urisk.urisk table{border-collapse:collapse;margin:.4em 0;font-size:13px;background:none}
.urisk.urisk table tr{background:none}
.urisk.urisk table th,.urisk.urisk table td{text-align:left;padding:.2em 1.4em .2em 0;border:0;
border-bottom:1px solid var(--jp-border-color2,#d0d0d0);background:none;font-weight:normal;
vertical-align:top}
.urisk.urisk table thead th,.urisk.urisk table tbody th{color:var(--jp-ui-font-color2,#616161)}
.urisk.urisk table .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.urisk.urisk .alert{border-left:.3em solid #b45309;background:rgba(180,83,9,.12);
padding:.25em .7em;margin:.3em 0}
.urisk.urisk .alert.error{border-color:#c22020;background:rgba(194,32,32,.12)}
.urisk.urisk .alert.note{border-color:#5b7aa6;background:rgba(91,122,166,.12)}
.urisk.urisk pre{white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow:auto;
margin:.3em 0;padding:.5em;
background:var(--jp-layout-color2,rgba(127,127,127,.12));color:inherit;font-size:12px}
.urisk.urisk summary{cursor:pointer}
.urisk-calls .widget-label{position:absolute;clip-path:inset(50%)}
.urisk-calls select{font-family:var(--jp-code-font-family,monospace);font-size:12px}
.urisk.urisk h4{margin:.7em 0 .2em;font-size:13px;font-weight:600}
.urisk-dashboard .js-plotly-plot text{fill:var(--jp-ui-font-color1,currentColor)!important}
.urisk-dashboard .jupyter-widgets-disconnected::before{content:none}
.urisk-dashboard.jupyter-widgets-disconnected::before{
content:"The kernel ended or restarted. This is the last state; "
"run the cell again for a live view.";
font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);
color:var(--jp-ui-font-color1,inherit);padding:.25em .7em;
border-left:.3em solid #b45309;background:rgba(180,83,9,.12);margin:.3em 0}
.urisk-dashboard.jupyter-widgets-disconnected .lamp{background:#767676!important}
.urisk-dashboard.jupyter-widgets-disconnected :is(button,.widget-inline-hbox:not(.widget-html)){
display:none}
</style>"""


def html_block(body: str) -> str:
    """Return the markup in a block that the style sheet knows."""
    return f'<div class="urisk">{body}</div>'


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str, numbers: int) -> str:
    """Return a table of cells that are markup; the columns from `numbers` on are figures."""
    kinds = ["" if column < numbers else ' class="n"' for column in range(len(head))]
    top = "".join(
        f'<th scope="col"{kind}>{name}</th>' for name, kind in zip(head, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            _cell(cell, kind, first=not place)
            for place, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    return f'<table aria-label="{label}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _cell(content: str, kind: str, *, first: bool) -> str:
    return f'<th scope="row"{kind}>{content}</th>' if first else f"<td{kind}>{content}</td>"


def format_seconds(value: float) -> str:
    """Return a duration with its unit; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return (
        f"{1000 * value:.0f} ms"
        if value < 1
        else f"{value:.2f} s"
        if value < 100
        else f"{value:.0f} s"
    )


def format_bytes(value: float) -> str:
    """Return a size in MB or GB."""
    """Return a size in MB, from a thousand of them on in GB."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def format_span(seconds: float) -> str:
    """Return a length of time, coarse: it is read, and must not change with every look."""
    if seconds < 90:
        return "less than a minute" if seconds < 55 else "1 min"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} days"
    )
