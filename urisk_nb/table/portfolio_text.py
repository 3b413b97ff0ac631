"""What a shell prints under a table: the portfolio, its backtest, episodes and factors, as text."""

from __future__ import annotations

from typing import Any

import pandas as pd

from urisk_nb.render.sections import Section, render_sections_text
from urisk_nb.render.table_content import format_value
from urisk_nb.risk.row_warnings import WARNINGS, codes_in
from urisk_nb.table.portfolio_figures import show_figures

__all__ = ["render_parts_text"]

_FRAMES = ("backtest", "stress", "factors")


def render_parts_text(report: Any, width: int | None = None) -> str:
    """
    Return the parts of a report that stand beside the rows; empty where it has none.

    Parameters
    ----------
    report
        Of a table; one with weights has `portfolio` and `backtest`, and one that was asked for them
        `stress` and `factors`.
    width
        Columns that a line may take; default: those of the terminal.
    """
    sections = []
    if report.portfolio is not None:
        sections.append(show_figures(report.portfolio.to_dict()))
    frames = {name: getattr(report, name) for name in _FRAMES}
    sections += [_show_frame(name, one) for name, one in frames.items() if one is not None]
    return render_sections_text(sections, width) if sections else ""


def _show_frame(name: str, frame: pd.DataFrame) -> Section:
    whole = pd.DataFrame(frame.reset_index() if frame.index.name else frame)
    rows = [
        [format_value(str(column), value) for column, value in row.items()]
        for row in whole.to_dict("records")
    ]
    numbers = [place for place, dtype in enumerate(whole.dtypes) if dtype.kind in "iuf"]
    codes = codes_in(whole["flags"]) if "flags" in whole else ()
    return Section(
        title=name,
        lines=[f"{code}: {WARNINGS[code]}" for code in codes if code in WARNINGS],
        head=list(map(str, whole.columns)),
        rows=rows,
        right=frozenset(numbers),
    )
