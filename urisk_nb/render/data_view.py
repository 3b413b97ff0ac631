"""
Data from a model's answer, as text and as HTML: a table, names with values, or JSON.

All of it comes from a model, so every text is made visible and escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from urisk_nb.render.escaping import escape_html, visible
from urisk_nb.render.markup import CELL, MUTED, PLAIN, note_boxes

__all__ = ["data_bundle"]

MAX_LINE_CHARS = 80  # of a list or an object; a longer one has a line for each part
_VALUE = f"{CELL};white-space:pre-wrap;overflow-wrap:anywhere;max-width:50em"


def data_bundle(data: Any, footer: str, notes: Sequence[str] = ()) -> tuple[str, str]:
    """
    Return data as text and as HTML, with a line of facts under it.

    A DataFrame is a table as pandas shows it. An object has a row for each field. Everything else
    is JSON.
    """
    if hasattr(data, "to_html"):
        plain, body = _show_frame(data)
    elif isinstance(data, dict) and data:
        plain, body = _show_fields(data)
    else:
        plain = _format_value(data)
        body = f'<div style="white-space:pre-wrap">{escape_html(plain)}</div>'
    foot = f'<div style="{MUTED};font-size:85%">{escape_html(footer)}</div>'
    markup = f'<div class="{PLAIN}">{body}{note_boxes(notes)}{foot}</div>'
    return visible("\n\n".join([plain, *notes, footer])), markup


def _show_frame(frame: Any) -> tuple[str, str]:
    import pandas as pd

    # The user's table keeps its texts; only what is shown is made visible
    shown = frame.map(_format_cell).rename(columns=lambda name: visible(str(name)))
    with pd.option_context("display.html.use_mathjax", False):
        return repr(shown), shown._repr_html_() or f"<pre>{escape_html(repr(shown))}</pre>"


def _format_cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return visible(json.dumps(value, ensure_ascii=False))
    return visible(value) if isinstance(value, str) else value


def _show_fields(data: Mapping[str, Any]) -> tuple[str, str]:
    rows = {visible(name): _format_value(value) for name, value in data.items()}
    width = max(map(len, rows))
    lines = [
        f"{name.ljust(width)}  {text.replace(chr(10), chr(10) + ' ' * (width + 2))}"
        for name, text in rows.items()
    ]
    cells = "".join(
        f'<tr><th scope="row" style="{CELL};{MUTED};font-weight:normal">{escape_html(name)}</th>'
        f'<td style="{_VALUE}">{escape_html(text)}</td></tr>'
        for name, text in rows.items()
    )
    return "\n".join(lines), f'<table style="border-collapse:collapse">{cells}</table>'


def _format_value(value: Any) -> str:
    """Return a text as it is, and every other value as JSON, on one line where it is short."""
    if isinstance(value, str):
        return visible(value)
    line = json.dumps(value, ensure_ascii=False, default=str)
    is_long = len(line) > MAX_LINE_CHARS
    return visible(
        json.dumps(value, ensure_ascii=False, indent=2, default=str) if is_long else line
    )
