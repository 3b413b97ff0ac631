"""
The ratings of a table as a heatmap: a row a ticker, a column a category, a number in each cell.

The colors go from light to dark, so that they are told apart without color vision and on grey
paper. The number says the same.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from urisk_nb.render.escaping import escape_html
from urisk_nb.render.figures import CELL_TEXT, SEVERITY_COLORS
from urisk_nb.render.table_content import DASH, TableContent, row_labels

__all__ = ["HEAT_STYLE", "SHADES", "render_heatmap"]

# Severity -> background and text: the colors of `table.charts.heatmap()`
SHADES: dict[int, tuple[str, str]] = dict(enumerate(zip(SEVERITY_COLORS, CELL_TEXT, strict=True)))
HEAT_STYLE = "".join(
    f".s{severity}{{background:{back};color:{text}}}" for severity, (back, text) in SHADES.items()
)
_RATING = re.compile(r"r_([a-z][a-z_]*)")


def render_heatmap(content: TableContent) -> str:
    """
    Return the ratings as an HTML table; empty where no row has one.

    Each cell has the rating, 0 to 5, and in brackets how many sentences count for it.
    """
    frame = content.frame
    names = [name for name in map(str, frame.columns) if _RATING.fullmatch(name)]
    if not content.is_whole or not names or not frame[names].notna().any(axis=None):
        return ""
    counts = content.findings.groupby(["ticker", "counted_as"]).size().to_dict()
    heads = "".join(f'<th scope="col">{escape_html(name[2:])}</th>' for name in names)
    _, labels = row_labels(content, None)
    rows = "".join(
        f'<tr><th scope="row">{escape_html(label)}</th>'
        + "".join(_render_cell(row[name], counts.get((ticker, name[2:]), 0)) for name in names)
        + "</tr>"
        for label, ticker, row in zip(
            labels, content.tickers, frame[names].to_dict("records"), strict=True
        )
    )
    return (
        f'<table class="heat" aria-label="ratings"><thead><tr><th scope="col">ticker</th>{heads}'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _render_cell(rating: Any, count: int) -> str:
    if pd.isna(rating):
        return f"<td>{DASH}</td>"
    severity = int(rating)
    known = f' class="s{severity}"' if severity in SHADES else ""
    return f"<td{known}>{severity}{f' ({count})' if count else ''}</td>"
