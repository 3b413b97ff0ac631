"""
Columns of a frame that somebody else made: found by name; read as dates, numbers, distinct values.

Dates become local calendar days: a time zone is dropped and the local date kept. Nothing is
guessed: a number is no date, and "01/02/2018" is no ISO date.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types as kinds

from urisk_nb.errors import InputError
from urisk_nb.risk.values import (
    count_noun,
    find_closest,
    find_separator,
    fix_separator,
    is_missing,
    read_moment,
    show,
)

__all__ = [
    "TICKER_AS_WRITTEN",
    "BoolArray",
    "Codes",
    "FloatArray",
    "check_not_moved",
    "check_separator",
    "drop_counter",
    "find_distinct",
    "find_label",
    "read_floats",
    "split_dates",
    "suggest_rename",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.intp]
# Names of a first column that holds the dates; "date" and "datetime" count anywhere.
DATE_NAMES = ("dates", "day", "time", "timestamp", "datum")
TICKER_AS_WRITTEN = re.compile(r"[A-Z0-9^][A-Z0-9.\-^=/:&]*")


def find_label(frame: pd.DataFrame, *names: str) -> Any:
    """Return the label of the column that has one of these names, in any case, or None."""
    found = [column for column in frame.columns if str(column).strip().lower() in names]
    if len(found) > 1:
        raise InputError(
            f"the columns {found} mean the same.", fix=f"drop one: frame.drop(columns={found[1]!r})"
        )
    return found[0] if found else None


def suggest_rename(frame: pd.DataFrame, what: str, name: str) -> str | None:
    """Return how to rename the column that is probably meant; None if none is close."""
    columns = [str(column) for column in frame.columns]
    near = find_closest(name, columns, 1) or [one for one in columns if name in one.lower()]
    return f"{what}.rename(columns={{{near[0]!r}: {name!r}}})" if near else None


def find_distinct(values: pd.Series[Any], where: str) -> tuple[Codes, list[object]]:
    """Return codes into the distinct values (-1 where there is none), and these values."""
    try:
        codes, distinct = pd.factorize(values)
    except TypeError as exc:
        raise InputError(
            f"{where} holds lists or other containers, not single values.", fix="one value a row"
        ) from exc
    blank = [code for code, value in enumerate(distinct) if is_missing(value)]
    if blank:  # an empty text counts as missing
        codes, distinct = pd.factorize(values.astype(object).mask(np.isin(codes, blank)))
    return codes, list(distinct)


def read_floats(column: pd.Series[Any]) -> tuple[FloatArray, BoolArray]:
    """Return the values as float64, and which cells held something that is not a number."""
    dtype = column.dtype
    if (
        kinds.is_bool_dtype(dtype)
        or kinds.is_complex_dtype(dtype)
        or kinds.is_datetime64_any_dtype(dtype)
        or kinds.is_timedelta64_dtype(dtype)
    ):
        return np.full(len(column), np.nan), column.notna().to_numpy(dtype=bool)
    if kinds.is_numeric_dtype(dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=bool)
    cells = column.astype(object)
    odd = cells.map(
        lambda cell: (
            not isinstance(cell, (int, float, str, Decimal, np.number)) or isinstance(cell, bool)
        )
    ).to_numpy(dtype=bool)
    values = pd.to_numeric(cells.where(~odd), errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    return values, np.isnan(values) & cells.notna().to_numpy(dtype=bool)


# --- dates ----------------------------------------------------------------------------------------


def split_dates(frame: pd.DataFrame) -> tuple[pd.DatetimeIndex, pd.DataFrame]:
    """
    Return the dates of a frame, naive and at midnight, and its other columns.

    Raises
    ------
    InputError
        There are no dates, one of them is missing or is not a date, or time zones are mixed.
    """
    label = find_label(frame, "date", "datetime")
    if label is None and not isinstance(frame.index, (pd.DatetimeIndex, pd.PeriodIndex)):
        label = _find_unnamed_dates(frame)
    if label is not None:
        dates, rest = _read_dates(frame[label], f"column {label!r}"), frame.drop(columns=[label])
        if rest.columns.empty:
            raise InputError(
                f"the prices have no column but {label!r}.", fix="add one column a ticker"
            )
        return dates, rest
    if kinds.is_numeric_dtype(frame.index.dtype):
        raise InputError(
            f"the prices have no dates: the index counts {frame.index[0]}, ..., {frame.index[-1]}.",
            fix=suggest_rename(frame, "prices", "date")
            or 'name the column of dates "date", or set_index() it',
        )
    return _read_dates(frame.index.to_series(), "the index"), frame.copy()


def _find_unnamed_dates(frame: pd.DataFrame) -> Any:
    """
    Return the column that holds the dates where none is called date or datetime, or None.

    to_csv() of a frame whose index has no name comes back with its dates in "Unnamed: 0". A first
    column such as "Day" counts only where the index has no dates and the column holds no numbers:
    DAY and TIME are tickers, too.
    """
    if "Unnamed: 0" in frame.columns:
        return "Unnamed: 0"
    counts = (
        _is_date_name(frame.columns[0])
        and not kinds.is_numeric_dtype(frame.dtypes.iloc[0])
        and kinds.is_numeric_dtype(frame.index.dtype)
    )
    return frame.columns[0] if counts else None


def _is_date_name(label: object) -> bool:
    name = str(label).strip().lower()
    return name in DATE_NAMES or "date" in name


def check_not_moved(frame: pd.DataFrame, what: str) -> None:
    """
    Refuse a frame whose columns pandas moved by one: each would show what belongs to its neighbour.

    pandas does so where the rows of a CSV end in a separator: their first field becomes an index
    without a name, and the last column is left empty. The shape decides, whatever the header says.
    """
    if len(frame) and len(frame.columns) > 1 and _is_moved(frame):
        first, last = frame.columns[0], frame.columns[-1]
        raise InputError(
            f"{what}: the index has no name and holds {show(frame.index[0])}, the column {first!r} "
            f"holds {show(frame.iloc[0, 0])} and {last!r} is empty: the columns moved by one.",
            fix="read the file with pd.read_csv(..., index_col=False), or pass its path; if each "
            'column is right, name the index: frame.rename_axis("index")',
        )


def check_separator(frame: pd.DataFrame, what: str) -> None:
    """Refuse a frame whose one column holds whole rows: they were split at another sign."""
    if len(frame.columns) == 1 and kinds.is_numeric_dtype(frame.index.dtype):
        label = frame.columns[0]
        if other := find_separator(label):
            raise InputError(
                f"{what}: the only column is {show(label)}, which {other!r} splits.",
                fix=fix_separator(other),
            )


def drop_counter(frame: pd.DataFrame) -> pd.DataFrame:
    """
    Return the frame without a first column that only counts its rows.

    to_csv() writes the index as a column without a name. An index that counts is no date and no
    ticker. One with gaps, of rows that were filtered, is dropped where another column has the
    dates.
    """
    if len(frame.columns) < 2 or str(frame.columns[0]).strip() not in ("", "Unnamed: 0"):
        return frame
    first, rest = frame.iloc[:, 0], frame.iloc[:, 1:]
    if not kinds.is_integer_dtype(first.dtype) or first.isna().any():
        return frame
    counts = first.to_numpy(dtype=np.int64)
    has_dates = find_label(rest, "date", "datetime") is not None or (
        _is_date_name(rest.columns[0]) and not kinds.is_numeric_dtype(rest.dtypes.iloc[0])
    )
    return rest if has_dates or (counts == np.arange(len(frame))).all() else frame


def _is_moved(frame: pd.DataFrame) -> bool:
    if any(name is not None for name in frame.index.names):
        return False
    first, last = frame.iloc[:, 0], frame.iloc[:, -1]
    if isinstance(frame.index, pd.DatetimeIndex):
        # A ticker without prices is as empty as a moved column: the header must look odd, too
        return _is_blank(last) and not _is_blank(first) and _begins_unlike_ticker(frame)
    # Two separators at the end of each row make an index of two levels
    if kinds.infer_dtype(frame.index.get_level_values(0), skipna=True) != "string":
        return False
    if _is_blank(last):
        has_dates = _is_date_name(frame.columns[0]) and _is_iso_date(first.iloc[0])
        return not _is_blank(first) and not has_dates
    # A remark after the last separator stands where prices should
    has_numbers = kinds.is_numeric_dtype(first.dtype) and not _is_blank(first)
    if not has_numbers or not _is_iso_date(frame.index[0]):
        return False
    return bool(np.isnan(read_floats(last)[0]).all())


def _is_blank(column: pd.Series[Any]) -> bool:
    return bool(column.isna().all()) or all(map(is_missing, column.tolist()))


def _is_iso_date(value: object) -> bool:
    try:
        read_moment(value)
    except ValueError:
        return False
    return True


def _begins_unlike_ticker(frame: pd.DataFrame) -> bool:
    """Return whether the first label names dates, or is the only one not written as a ticker."""
    odd = [not TICKER_AS_WRITTEN.fullmatch(str(label)) for label in frame.columns]
    return (odd[0] and not any(odd[1:])) or (
        kinds.is_numeric_dtype(frame.dtypes.iloc[0]) and _is_date_name(frame.columns[0])
    )


def _read_dates(values: pd.Series[Any], where: str) -> pd.DatetimeIndex:
    """Return local calendar dates, whatever they were written as."""
    if isinstance(values.dtype, pd.PeriodDtype):
        return _drop_time(pd.PeriodIndex(values).to_timestamp(how="end"))
    if kinds.is_datetime64_any_dtype(values.dtype):
        known = pd.DatetimeIndex(values)
    elif kinds.is_numeric_dtype(values.dtype):
        raise InputError(
            f"{where} has numbers for dates (first: {values.iloc[0]}).",
            fix='pd.to_datetime(dates, format="%Y%m%d"), or whatever the numbers mean',
        )
    else:
        known = _parse_objects(values, where)
    if known.hasnans:
        rows = np.flatnonzero(known.isna())
        raise InputError(
            f"{where} has {count_noun(len(rows), 'row')} without a date (first: row "
            f"{rows[0] + 1}).",
            fix="drop them, or fill in their dates",
        )
    return _drop_time(known)


def _drop_time(index: pd.DatetimeIndex) -> pd.DatetimeIndex:
    # tz_localize(None) keeps the wall clock: a close in New York stays on its own day
    return pd.DatetimeIndex(index.tz_localize(None).normalize().as_unit("us"), name="date")


def _parse_objects(values: pd.Series[Any], where: str) -> pd.DatetimeIndex:
    # In long form 500 tickers share their dates: each is read once
    codes, distinct = find_distinct(values, where)
    moments = []
    for code, value in enumerate(distinct):
        try:
            moments.append(read_moment(value))
        except ValueError as exc:
            raise InputError(
                f"{where}, row {np.argmax(codes == code) + 1}: {show(value)} is not a date.",
                fix="write ISO dates (2019-12-30), or convert first: pd.to_datetime(dates, "
                'format="%m/%d/%Y")',
            ) from exc
    _check_zones(moments, where)
    # The last one is for code -1: the missing dates.
    known = np.array([*(moment.date() for moment in moments), None], dtype="datetime64[D]")
    return pd.DatetimeIndex(known[codes].astype("datetime64[us]"))


def _check_zones(moments: Sequence[datetime], where: str) -> None:
    aware = [moment for moment in moments if moment.tzinfo is not None]
    if aware and len(aware) < len(moments):
        bare = next(moment for moment in moments if moment.tzinfo is None)
        raise InputError(
            f"{where} has dates with a time zone ({aware[0]}) and without ({bare}).",
            fix="dates.tz_localize(None) on the part that has a zone",
        )
    hours = [
        offset.total_seconds() / 3600
        for moment in aware
        if (offset := moment.utcoffset()) is not None
    ]
    zones = {
        str(getattr(moment.tzinfo, "key", getattr(moment.tzinfo, "zone", "fixed")))
        for moment in aware
    }
    # Summer time moves by an hour, never more
    if len(zones) > 1 or (hours and max(hours) - min(hours) > 1):
        raise InputError(
            f"{where} mixes time zones (UTC{min(hours):+g} to UTC{max(hours):+g}).",
            fix='one zone for all: dates.tz_convert("America/New_York")',
        )
