"""
Frames that spreadsheets, terminals and notebooks open: text that would run there stays text.

A sentence of the evidence may begin with "=HYPERLINK(". In a CSV or Excel file such a cell would
run when somebody opens it. It may hold an escape sequence, which runs when the frame is printed, or
when its CSV file is. In a notebook two dollar signs would make a formula of what is between them.
The cells themselves stay verbatim: only what is written or shown is changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
from pandas.api.types import is_string_dtype

from urisk_nb.render.escaping import visible
from urisk_nb.render.markup import PLAIN

__all__ = ["ExportFrame", "ExportSeries", "make_visible", "neutralize_formulas"]

# Hides no text and drives nothing
KEPT = "\n\t\u00ad\u200c\u200d"
# What Excel, LibreOffice and Google Sheets read as the start of a formula, and the wide forms of
# the same signs: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

# No XML file may hold these, so Excel would refuse the whole workbook
NO_XML = re.compile("[\ufffe\uffff]")

MAX_PANDAS_CHARS = 50  # pandas' own default, which cuts sentences; another number is the user's

# JupyterLab sets text to the right, as numbers are.
_LEFT = "<style>.urisk-frame .dataframe :is(td,th){text-align:left}</style>"


class ExportFrame(pd.DataFrame):
    """
    A DataFrame whose CSV and Excel files hold no formula, see `neutralize_formulas`, and which
    drives no terminal, see `make_visible`.

    A notebook shows its sentences whole, and a "$" in them as money.
    """

    @property
    def _constructor(self) -> type[ExportFrame]:
        return ExportFrame

    @property
    def _constructor_sliced(self) -> Callable[..., pd.Series[Any]]:
        return _make_series

    def to_csv(self, *args: Any, **options: Any) -> Any:
        """Write CSV as pandas does, with an apostrophe before text that begins like a formula."""
        return _make_exportable(self).to_csv(*args, **options)

    # pandas-stubs call it final; pandas does not
    def to_excel(self, *args: Any, **options: Any) -> Any:  # type: ignore[misc]
        """Write Excel as pandas does, with an apostrophe before text that begins like a formula."""
        return _make_exportable(self).to_excel(*args, **options)

    def to_string(self, *args: Any, **options: Any) -> Any:  # what `repr` shows
        """Return text as pandas does, with control characters written out."""
        return make_visible(self).to_string(*args, **options)

    def to_markdown(self, *args: Any, **options: Any) -> Any:
        """Return Markdown as pandas does, with control characters written out."""
        return make_visible(self).to_markdown(*args, **options)

    def _repr_html_(self) -> str | None:
        options: dict[str, Any] = {"display.html.use_mathjax": False}
        if pd.get_option("display.max_colwidth") == MAX_PANDAS_CHARS:
            options["display.max_colwidth"] = None
        with pd.option_context(*(part for option in options.items() for part in option)):
            markup = pd.DataFrame(self)._repr_html_()  # type: ignore[operator]  # not in its stubs
        # What pandas before version 3 writes for that option stops MathJax 2 alone
        return markup and f'<div class="urisk-frame {PLAIN}">{_LEFT}{markup}</div>'


class ExportSeries(pd.Series):
    """
    A Series of texts that drives no terminal and whose files hold no formula, as `ExportFrame`.

    Only a Series that may hold text is one. A column of numbers is a plain Series of pandas.
    """

    @property
    def _constructor(self) -> Callable[..., pd.Series[Any]]:
        return _make_series

    @property
    def _constructor_expanddim(self) -> Callable[..., pd.DataFrame]:
        return ExportFrame

    def to_string(self, *args: Any, **options: Any) -> Any:  # what `repr` shows
        """Return text as pandas does, with control characters written out."""
        return _map_series(self, make_visible).to_string(*args, **options)

    def to_csv(self, *args: Any, **options: Any) -> Any:
        """Write CSV as pandas does, with an apostrophe before text that begins like a formula."""
        return _map_series(self, _make_exportable).to_csv(*args, **options)

    # pandas-stubs call it final; pandas does not
    def to_excel(self, *args: Any, **options: Any) -> Any:  # type: ignore[misc]
        """Write Excel as pandas does, with an apostrophe before text that begins like a formula."""
        return _map_series(self, _make_exportable).to_excel(*args, **options)

    def value_counts(self, *args: Any, **options: Any) -> Any:
        """Count the values as pandas does; the texts are then the labels of the rows."""
        return ExportSeries(super().value_counts(*args, **options))


def _make_series(data: Any = None, *args: Any, **options: Any) -> pd.Series[Any]:
    """Return a Series of pandas, or one that shows itself safely where it may hold text."""
    series = pd.Series(data, *args, **options)
    return ExportSeries(series) if _holds_text(series.dtype) else series


def _holds_text(dtype: Any) -> bool:
    """Return whether cells may be text; numbers, dates and booleans are none."""
    return is_string_dtype(dtype) or isinstance(dtype, pd.CategoricalDtype)


def _map_series(
    series: pd.Series[Any], change: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.Series[Any]:
    """Return a plain Series after a change that is written for frames; its name is kept."""
    changed = change(pd.DataFrame({0: pd.Series(series)}))[0]
    changed.name = _make_visible(series.name)
    return changed


def _make_exportable(frame: pd.DataFrame) -> pd.DataFrame:
    return make_visible(neutralize_formulas(frame))


def neutralize_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """
    Return a plain copy in which text that a spreadsheet would run has an apostrophe in front.

    Cells, row labels and column names that begin with one of ``= + - @``, a tab or a line end are
    changed, numbers never are. Every other cell is as it was.
    """
    return _map_texts(frame, _neutralize)


def make_visible(frame: pd.DataFrame) -> pd.DataFrame:
    """
    Return a plain copy in which control and format characters of texts are written out.

    Cells, row labels and column names. Tabs, line ends and characters that only join or part the
    letters of a word stay.
    """
    return _map_texts(frame, _make_visible)


def _map_texts(frame: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    safe = pd.DataFrame(frame).copy()
    for place, dtype in enumerate(safe.dtypes):
        if _holds_text(dtype):
            texts = safe.iloc[:, place].astype(object).tolist()
            changed = [change(text) for text in texts]
            if any(new is not old for new, old in zip(changed, texts, strict=True)):
                safe.isetitem(place, changed)
    safe.index = _map_labels(safe.index, change)
    safe.columns = _map_labels(safe.columns, change)
    return safe


def _map_labels(labels: pd.Index[Any], change: Callable[[Any], Any]) -> pd.Index[Any]:
    if isinstance(labels, pd.MultiIndex):
        return labels.map(lambda label: tuple(map(change, label)))
    return labels.map(change) if _holds_text(labels.dtype) else labels


def _make_visible(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return NO_XML.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", visible(value, keep=KEPT))


def _neutralize(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
