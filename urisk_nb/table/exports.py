"""
Frames that spreadsheets open: text that a spreadsheet would take for a formula stays text.

A sentence of the evidence may begin with "=HYPERLINK(". In a CSV or Excel file such a cell would
run when somebody opens it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.api.types import is_string_dtype

__all__ = ["ExportFrame", "neutralize_formulas"]

# What Excel, LibreOffice and Google Sheets read as the start of a formula, and the wide forms of
# the same signs: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class ExportFrame(pd.DataFrame):
    """A DataFrame whose CSV and Excel files hold no formula; see `neutralize_formulas`."""

    @property
    def _constructor(self) -> type[ExportFrame]:
        return ExportFrame

    def to_csv(self, *args: Any, **options: Any) -> Any:
        """Write CSV as pandas does, with an apostrophe before text that begins like a formula."""
        return neutralize_formulas(self).to_csv(*args, **options)

    # pandas-stubs call it final; pandas does not
    def to_excel(self, *args: Any, **options: Any) -> Any:  # type: ignore[misc]
        """Write Excel as pandas does, with an apostrophe before text that begins like a formula."""
        return neutralize_formulas(self).to_excel(*args, **options)


def neutralize_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """
    Return a plain copy in which text that a spreadsheet would run has an apostrophe in front.

    Cells, row labels and column names that begin with one of ``= + - @``, a tab or a line end are
    changed, numbers never are. Every other cell is as it was.
    """
    safe = pd.DataFrame(frame).copy()
    for place, dtype in enumerate(safe.dtypes):
        # Text, or whatever may hold some; numbers, dates and booleans are left as they are
        if is_string_dtype(dtype) or isinstance(dtype, pd.CategoricalDtype):
            texts = safe.iloc[:, place].astype(object)
            safe.isetitem(place, [_neutralize(text) for text in texts])
    safe.index = _neutralize_labels(safe.index)
    safe.columns = _neutralize_labels(safe.columns)
    return safe


def _neutralize_labels(labels: pd.Index[Any]) -> pd.Index[Any]:
    if isinstance(labels, pd.MultiIndex):
        return labels.map(lambda label: tuple(map(_neutralize, label)))
    return labels.map(_neutralize) if is_string_dtype(labels.dtype) else labels


def _neutralize(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
