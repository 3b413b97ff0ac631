"""Backtest, episodes and factors of a run, as frames that show each figure with its unit."""

from __future__ import annotations

import pandas as pd

from urisk_nb.render.table_content import TableContent
from urisk_nb.render.table_html import render_table_html
from urisk_nb.render.table_text import render_table_text
from urisk_nb.risk.rows import build_findings
from urisk_nb.table.exports import ExportFrame

__all__ = ["PartFrame"]


class PartFrame(ExportFrame):
    """
    A backtest, episodes or factors: a DataFrame with the values as they were computed.

    A notebook and `print` show it as they show the risk table: fractions as per cent, the same
    digits, a sentence for each flag. What you select from it looks the same. `to_string()` shows
    the values themselves.
    """

    @property
    def _constructor(self) -> type[PartFrame]:
        return PartFrame

    def __repr__(self) -> str:
        return render_table_text(self._content())

    def _repr_html_(self) -> str | None:
        wanted = pd.get_option("display.notebook_repr_html")
        return render_table_html(self._content()) if wanted else None

    def _content(self) -> TableContent:
        return TableContent(frame=pd.DataFrame(self), findings=build_findings(()), meta={})
