"""The styles of all HTML of the package; answers, progress and status made with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from urisk_nb.render.escaping import escape_html, visible

__all__ = [
    "CELL",
    "CODE",
    "MUTED",
    "NUMBER",
    "PLAIN",
    "STYLE",
    "answer_markup",
    "html_block",
    "html_table",
    "note_boxes",
    "progress_markup",
    "status_bundle",
]

# A front end sets what stands between two "$" as mathematics, unless these classes forbid it. In an
# answer or a message a "$" is money.
PLAIN = "tex2jax_ignore mathjax_ignore"  # of MathJax 2, and of MathJax 3 and later
# JupyterLab's own colors, so that light and dark themes both are legible; a fallback elsewhere.
MUTED = "color:var(--jp-ui-font-color2,#616161)"
_LINE = "var(--jp-border-color2,#d0d0d0)"
_SPACE = f"vertical-align:top;line-height:1.4;padding:.35em .7em;border-bottom:1px solid {_LINE}"
CELL = f"text-align:left;{_SPACE}"
CODE = (
    f"border:1px solid {_LINE};border-radius:.3em;padding:0 .3em;white-space:nowrap;font-size:90%"
)
NUMBER = f"text-align:right;{_SPACE};font-variant-numeric:tabular-nums;white-space:nowrap"
_ANSWER = "white-space:pre-wrap;overflow-wrap:anywhere;max-width:60em"
_NOTE = (
    "border-left:.3em solid #b45309;padding:.2em .7em;margin:.3em 0;background:rgba(180,83,9,.12)"
)
_BAR = "vertical-align:middle;margin-right:.6em"


# The style sheet of the dashboard. The class is named twice, so that these rules come before the
# page's own rules for tables and lists. After a restart of the kernel the old one cannot update the
# page. The rules for disconnected widgets then say so, and hide the buttons.
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
.urisk.urisk .alert{border:0;border-left:.3em solid #b45309;background:rgba(180,83,9,.12);
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
.urisk-dashboard .js-plotly-plot text:not(.hoverlayer text){
fill:var(--jp-ui-font-color1,currentColor)!important}
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


def note_boxes(notes: Sequence[str]) -> str:
    """Return each note in a box of its own, which draws the eye."""
    return "".join(f'<div role="note" style="{_NOTE}">{escape_html(note)}</div>' for note in notes)


def answer_markup(text: str, footer: str = "", notes: Sequence[str] = ()) -> str:
    """Return an answer as HTML: the text as it is, escaped, with a line of facts under it."""
    body = f'<div role="log" style="{_ANSWER}">{escape_html(text)}</div>'
    foot = f'<div style="{MUTED};font-size:85%">{escape_html(footer)}</div>' if footer else ""
    return f'<div class="{PLAIN}">{body}{note_boxes(notes)}{foot}</div>'


def progress_markup(text: str, share: float | None) -> str:
    """Return one line of progress as HTML, with a bar where the share done is known."""
    bar = (
        ""
        if share is None
        else f'<progress max="1" value="{min(1.0, share):.3f}" style="{_BAR}"></progress>'
    )
    return f'<div class="{PLAIN}" role="status" style="{MUTED}">{bar}{escape_html(text)}</div>'


def status_bundle(rows: Mapping[str, Any], title: str) -> tuple[str, str]:
    """Return names and values as text and as an HTML table."""
    width = max(map(len, rows), default=0)
    lines = [
        f"  {visible(name).ljust(width)}  {visible(str(value))}" for name, value in rows.items()
    ]
    cells = "".join(
        f'<tr><th scope="row" style="{CELL};{MUTED};font-weight:normal">{escape_html(name)}</th>'
        f'<td style="{CELL}">{escape_html(value)}</td></tr>'
        for name, value in rows.items()
    )
    table = f'<table style="border-collapse:collapse;margin:.3em 0">{cells}</table>'
    markup = f'<div class="{PLAIN}"><strong>{escape_html(title)}</strong>{table}</div>'
    return "\n".join([title, *lines]), markup


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
