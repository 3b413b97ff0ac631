"""The styles of all HTML of the package; answers, progress and status made with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from urisk_nb.render.escaping import escape_html, visible

__all__ = [
    "CELL",
    "CODE",
    "MUTED",
    "NUMBER",
    "PLAIN",
    "answer_markup",
    "note_boxes",
    "progress_markup",
    "status_bundle",
]

# A front end sets what stands between two "$" as mathematics, unless this class forbids it. In an
# answer or a message a "$" is money.
PLAIN = "tex2jax_ignore"
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
    lines = [f"  {name.ljust(width)}  {visible(str(value))}" for name, value in rows.items()]
    cells = "".join(
        f'<tr><th scope="row" style="{CELL};{MUTED};font-weight:normal">{escape_html(name)}</th>'
        f'<td style="{CELL}">{escape_html(value)}</td></tr>'
        for name, value in rows.items()
    )
    table = f'<table style="border-collapse:collapse;margin:.3em 0">{cells}</table>'
    markup = f'<div class="{PLAIN}"><strong>{escape_html(title)}</strong>{table}</div>'
    return "\n".join([title, *lines]), markup
