"""
A table as an Excel workbook that a person can read and filter: table, findings, portfolio, record.

pandas writes the cells, and openpyxl sets formats. Text that a spreadsheet would run stays text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_float_dtype, is_integer_dtype

from urisk_nb.render.table_content import FINE_FRACTIONS, is_fraction
from urisk_nb.table.exports import make_visible, neutralize_formulas

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

__all__ = ["Sheet", "write_workbook"]

MIN_WIDTH, MAX_WIDTH = 7, 26  # of a column, in characters
TEXT_WIDTH = 70  # of a column of sentences, which wrap
WRAPPED = 40  # characters; a column with a longer text wraps
MEASURED = 200  # rows that are looked at for a width
GAP = 3  # from the last row of a frame to the header of the next one
FINE_PERCENT = "0.00%"
PERCENT, DATE, PROBABILITY, WHOLE, PLAIN = "0.0%", "yyyy-mm-dd", "0.00", "0", "General"
FORMATS: Mapping[str, str] = {
    "score": "0.0",
    **dict.fromkeys(FINE_FRACTIONS, FINE_PERCENT),
    **dict.fromkeys(("beta", "diversification_ratio", "effective_number"), "0.00"),
    **dict.fromkeys(("LR", "expected"), "0.00"),
    **dict.fromkeys(("p_value", "r2"), "0.000"),
    "p_label": PROBABILITY,
    "p_severity": PROBABILITY,
    "p_top": PROBABILITY,
    "agreement": PROBABILITY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """
    One sheet.

    Attributes
    ----------
    name
        What its tab says.
    frames
        What it holds, one below the other; an index with a name is the first columns. The first one
        has the filter. Where a frame has the columns `figure` and `value`, each value has the
        format of its figure.
    """

    name: str
    frames: Sequence[pd.DataFrame]


def write_workbook(sheets: Sequence[Sheet], target: Path | BinaryIO) -> None:
    """
    Write the sheets, in their order; the first one is shown when the file is opened.

    Percent for fractions, dates as dates, whole numbers as numbers; sentences wrap; the header
    stays in view, and each column has a filter.
    """
    with pd.ExcelWriter(target, engine="openpyxl") as writer:
        for sheet in sheets:
            top = 0
            for frame in sheet.frames:
                safe = make_visible(neutralize_formulas(_to_columns(frame)))
                safe.to_excel(writer, sheet_name=sheet.name, index=False, startrow=top)
                _lay_out(writer.sheets[sheet.name], safe, top + 1)
                top += len(safe) + GAP


def _to_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with its index as columns, unless it only counts the rows."""
    plain = pd.DataFrame(frame)
    if isinstance(plain.index, pd.RangeIndex) and plain.index.name is None:
        return plain
    names = [name if name is not None else "" for name in plain.index.names]
    # A column of the same name may be there already, as after a merge
    return plain.reset_index(names=names, allow_duplicates=True)


def _lay_out(sheet: Worksheet, frame: pd.DataFrame, first: int) -> None:
    """Set widths and formats of a frame whose header is the row `first`; its cells are written."""
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    top, wrapped = Alignment(vertical="top"), Alignment(vertical="top", wrap_text=True)
    for place in range(len(frame.columns)):
        column = frame.iloc[:, place]
        # A sentence among figures runs over the empty cells beside it
        is_long = _measure(column) > WRAPPED and "figure" not in frame
        width = _choose_width(column, is_long=is_long)
        size = sheet.column_dimensions[get_column_letter(place + 1)]
        size.width = width if first == 1 else max(width, size.width)
        kinds = _choose_formats(frame, place)
        for number, kind in enumerate(kinds, first + 1):
            cell = sheet.cell(number, place + 1)
            cell.alignment = wrapped if is_long else top
            if kind != PLAIN:
                cell.number_format = kind
        head = sheet.cell(first, place + 1)
        head.font, head.alignment = Font(bold=True), wrapped
    if first == 1 and len(frame.columns):
        sheet.freeze_panes = "B2"
        last = get_column_letter(len(frame.columns))
        sheet.auto_filter.ref = f"A1:{last}{len(frame) + 1}"


def _choose_formats(frame: pd.DataFrame, place: int) -> list[str]:
    """Return the format of each cell of a column."""
    name, column = str(frame.columns[place]), frame.iloc[:, place]
    if name == "value" and "figure" in frame:
        return [
            _choose_number_format(str(figure))
            if isinstance(value, float)
            else DATE
            if isinstance(value, pd.Timestamp)
            else PLAIN
            for figure, value in zip(frame["figure"], column, strict=True)
        ]
    return [_choose_format(name, column)] * len(frame)


def _choose_format(name: str, column: pd.Series[Any]) -> str:
    if is_datetime64_any_dtype(column.dtype):
        has_time = (column.dropna() != column.dropna().dt.normalize()).any()
        return f"{DATE} hh:mm" if has_time else DATE
    if is_integer_dtype(column.dtype):
        return WHOLE
    if is_float_dtype(column.dtype):
        return _choose_number_format(name)
    return PLAIN


def _choose_number_format(name: str) -> str:
    usual = "0.000" if name.startswith("beta_") else PERCENT if is_fraction(name) else PLAIN
    return FORMATS.get(name, usual)


def _measure(column: pd.Series[Any]) -> int:
    """Return how long the longest text is among the first ones."""
    texts = [value for value in column.head(MEASURED) if isinstance(value, str)]
    return max(map(len, texts), default=0)


def _choose_width(column: pd.Series[Any], *, is_long: bool) -> int:
    if is_long:
        return TEXT_WIDTH
    longest = max(_measure(column), len(str(column.name)), 10 if column.dtype.kind == "M" else 0)
    return min(max(longest + 2, MIN_WIDTH), MAX_WIDTH)
