"""
Frames that spreadsheets and notebooks open: a sentence in them stays the text that it is.

A sentence of the evidence may begin with "=HYPERLINK(". In a CSV or Excel file such a cell would
run when somebody opens it. In a notebook two dollar signs would make a formula of what is between
them.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.api.types import is_string_dtype

__all__ = ["ExportFrame", "neutralize_formulas"]

# What Excel, LibreOffice and Google Sheets read as the start of a formula, and the wide forms of
# the same signs: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

MAX_PANDAS_CHARS = 50  # pandas' own default, which cuts sentences; another number is the user's

# JupyterLab sets text to the right, as numbers are.
_LEFT = "<style>.urisk-frame .dataframe :is(td,th){text-align:left}</style>"


class ExportFrame(pd.DataFrame):
    """
    A DataFrame whose CSV and Excel files hold no formula; see `neutralize_formulas`.

    A notebook shows its sentences whole, and a "$" in them as money.
    """

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

    def _repr_html_(self) -> str | None:
        options: dict[str, Any] = {"display.html.use_mathjax": False}
        if pd.get_option("display.max_colwidth") == MAX_PANDAS_CHARS:
            options["display.max_colwidth"] = None
        with pd.option_context(*(part for option in options.items() for part in option)):
            markup = pd.DataFrame(self)._repr_html_()  # type: ignore[operator]  # not in its stubs
        return markup and f'<div class="urisk-frame">{_LEFT}{markup}</div>'


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
