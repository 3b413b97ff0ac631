"""
Prices, or returns, from a wide or a long frame whose dates are written in any way that is clear.

What makes one company unusable is kept for its row (`Prices.faults`); what makes the whole frame
doubtful raises before anything runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types as kinds

from urisk_nb.errors import InputError
from urisk_nb.readers.files import find_path, read_frame
from urisk_nb.risk.inputs import Prices
from urisk_nb.risk.values import closest, count_noun, describe_type, is_missing, read_moment, show

__all__ = ["find_label", "read_benchmark", "read_prices"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.intp]
# Of a first column; "date" and "datetime" count anywhere
DATE_NAMES = ("dates", "day", "time", "timestamp", "datum")


def read_prices(given: object, *, tickers: Sequence[str] = (), returns: bool = False) -> Prices:
    """
    Return the prices (or, with `returns`, the simple returns) of a wide or a long frame.

    Parameters
    ----------
    given
        A frame, the path of a CSV or Parquet file that holds one, or a callable that is given the
        tickers and returns one. Wide: one column a ticker. Long: columns ticker, close and
        optionally volume. The dates are the index or a column called date or datetime. A time zone
        is dropped and the local date kept; nothing is converted to UTC. A named Series is a frame
        of one column.
    tickers
        What a callable is given.
    returns
        The values are simple returns. It is never guessed.

    Raises
    ------
    InputError
        When the file cannot be read, or the frame itself is at fault: no dates, no columns, two
        rows for one date, dates with and without a time zone. A column at fault is no error here:
        see `Prices.faults`, and the status of its row.
    PackageMissing
        The file is Parquet and pyarrow is not installed.
    """
    frame = _check_frame(_load(given, tickers))
    names = {str(column).strip().lower() for column in frame.columns}
    if names & {"ticker", "symbol"}:
        return _read_long(frame, returns=returns)
    dates, frame = _split_dates(frame)
    _check_labels(frame.columns)
    frame.columns = pd.Index([str(column).strip() for column in frame.columns], dtype=object)
    # Numbers already
    if all(isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in frame.dtypes):
        close, faults = (
            pd.DataFrame(
                frame.to_numpy(dtype=np.float64), index=dates, columns=list(frame.columns)
            ),
            {},
        )
    else:
        columns = {name: _floats(frame[name]) for name in frame.columns}
        close = pd.DataFrame({name: values for name, (values, _) in columns.items()}, index=dates)
        faults = {
            name: _fault_cells(frame[name], dates, bad)
            for name, (_, bad) in columns.items()
            if bad.any()
        }
    if twice := dates[dates.duplicated()].tolist():
        fix = "keep one row for each date: prices.groupby(level=0).last()"
        raise InputError(
            f"the date {twice[0].date()} has more than one row "
            f"({count_noun(len(twice), 'repeated row')} in all).",
            fix=fix,
        )
    flags = () if dates.is_monotonic_increasing else ("unsorted",)
    return Prices(close=close.sort_index(), flags=flags, is_returns=returns, faults=faults)


def read_benchmark(given: object, *, returns: bool = False) -> Prices:
    """
    Return a benchmark that is no column of the prices: one column, by the Series' own name.

    Raises
    ------
    InputError
        It is no Series, or its dates cannot be read.
    """
    if not isinstance(given, pd.Series):
        raise InputError(
            f"the benchmark is {describe_type(given)}, not a Series.",
            fix="a Series of prices, indexed by date",
        )
    name = given.name if isinstance(given.name, str) and given.name.strip() else "given"
    # A ticker column means a long frame, whatever the Series is called.
    read = read_prices(given.rename("given").to_frame(), returns=returns)
    return replace(
        read,
        close=read.close.rename(columns={"given": name}),
        faults={name: read.faults["given"]} if read.faults else {},
    )


def _load(given: Any, tickers: Sequence[str]) -> object:
    if isinstance(given, str | Path):
        return read_frame(find_path(given, "prices"))
    return given(list(tickers)) if callable(given) else given


def _check_frame(data: object) -> pd.DataFrame:
    if isinstance(data, pd.Series):
        if not isinstance(data.name, str):
            raise InputError("the prices are a Series without a name.", fix='prices.rename("NVDA")')
        data = data.to_frame()
    if not isinstance(data, pd.DataFrame):
        hint = (
            "prices.to_pandas()"
            if hasattr(data, "to_pandas")
            else "pd.DataFrame(prices): dates as index, one column a ticker"
        )
        raise InputError(f"the prices are {describe_type(data)}, not a DataFrame.", fix=hint)
    if isinstance(data.columns, pd.MultiIndex):
        level = next(
            (name for name in data.columns.get_level_values(0) if str(name).lower() == "close"),
            data.columns[0][0],
        )
        raise InputError(
            f"the prices have {data.columns.nlevels} levels of columns.",
            fix=f"take one of them: prices[{level!r}]",
        )
    if isinstance(data.index, pd.MultiIndex):
        if any(name is None or name in data.columns for name in data.index.names):
            raise InputError(
                "the prices have several index levels without names.",
                fix='prices.rename_axis(["date", "ticker"])',
            )
        data = data.reset_index()
    if data.empty:
        raise InputError(
            f"the prices are empty ({len(data)} rows, {len(data.columns)} columns).",
            fix="check what was loaded: prices.info()",
        )
    return data


def find_label(frame: pd.DataFrame, *names: str) -> Any:
    """The label of the column that has one of these names in any case, or None."""
    found = [column for column in frame.columns if str(column).strip().lower() in names]
    if len(found) > 1:
        raise InputError(
            f"the columns {found} mean the same.", fix=f"drop one: frame.drop(columns={found[1]!r})"
        )
    return found[0] if found else None


# --- dates ----------------------------------------------------------------------------------------


def _split_dates(frame: pd.DataFrame) -> tuple[pd.DatetimeIndex, pd.DataFrame]:
    label = find_label(frame, "date", "datetime")
    if label is None and not isinstance(frame.index, (pd.DatetimeIndex, pd.PeriodIndex)):
        label = _unnamed_dates(frame)
    if label is not None:
        dates, rest = _dates(frame[label], f"column {label!r}"), frame.drop(columns=[label])
        if rest.columns.empty:
            raise InputError(
                f"the prices have no column but {label!r}.", fix="add one column a ticker"
            )
        return dates, rest
    if kinds.is_numeric_dtype(frame.index.dtype):
        near = closest("date", map(str, frame.columns), 1)
        fix = (
            f"prices.rename(columns={{{near[0]!r}: 'date'}})"
            if near
            else 'name the column of dates "date", or set_index() it'
        )
        raise InputError(
            f"the prices have no dates: the index counts {frame.index[0]}, ..., {frame.index[-1]}.",
            fix=fix,
        )
    return _dates(frame.index.to_series(), "the index"), frame.copy()


def _unnamed_dates(frame: pd.DataFrame) -> Any:
    """
    The column that holds the dates where none is called date or datetime, or None.

    to_csv() of a frame whose index has no name comes back with its dates in "Unnamed: 0". A first
    column such as "Day" counts only where the index has no dates and the column holds no numbers:
    DAY and TIME are tickers, too.
    """
    if "Unnamed: 0" in frame.columns:
        return "Unnamed: 0"
    first, last = frame.columns[0], frame.columns[-1]
    if str(first).strip().lower() not in DATE_NAMES:
        return None
    numbers = kinds.is_numeric_dtype(frame.dtypes.iloc[0])
    counts = kinds.is_numeric_dtype(frame.index.dtype)
    if numbers and not counts and frame.iloc[:, -1].isna().all():
        # What pandas makes of a CSV whose rows end in a separator: each ticker would show its
        # neighbour's prices.
        seen = f"the dates are in the index, the column {first!r} has numbers and {last!r} is empty: the columns moved by one."
        raise InputError(
            seen, fix="read the file with pd.read_csv(..., index_col=False), or pass its path"
        )
    return first if counts and not numbers else None


def _dates(values: pd.Series[Any], where: str) -> pd.DatetimeIndex:
    """Local calendar dates, naive; whatever they were written as."""
    if isinstance(values.dtype, pd.PeriodDtype):
        return _midnight(pd.PeriodIndex(values).to_timestamp(how="end"))
    if kinds.is_datetime64_any_dtype(values.dtype):
        known = pd.DatetimeIndex(values)
    elif kinds.is_numeric_dtype(values.dtype):
        fix = 'pd.to_datetime(dates, format="%Y%m%d"), or whatever the numbers mean'
        raise InputError(f"{where} has numbers for dates (first: {values.iloc[0]}).", fix=fix)
    else:
        known = _dates_of_objects(values, where)
    if known.hasnans:
        rows = np.flatnonzero(known.isna())
        raise InputError(
            f"{where} has {count_noun(len(rows), 'row')} without a date (first: row "
            f"{rows[0] + 1}).",
            fix="drop them, or fill in their dates",
        )
    return _midnight(known)


def _midnight(index: pd.DatetimeIndex) -> pd.DatetimeIndex:
    # tz_localize(None) keeps the wall clock: a close in New York stays on its own day
    return pd.DatetimeIndex(index.tz_localize(None).normalize().as_unit("us"), name="date")


def _dates_of_objects(values: pd.Series[Any], where: str) -> pd.DatetimeIndex:
    # In long form 500 tickers share their dates: each is read once
    codes, distinct = _distinct(values, where)
    moments = []
    for code, value in enumerate(distinct):
        try:
            moments.append(read_moment(value))
        except ValueError as exc:
            fix = 'write ISO dates (2019-12-30), or convert first: pd.to_datetime(dates, format="%m/%d/%Y")'
            row = int(np.argmax(codes == code)) + 1
            raise InputError(f"{where}, row {row}: {show(value)} is not a date.", fix=fix) from exc
    _check_zones(moments, where)
    # one more for code -1, the missing ones
    known = np.array([*(moment.date() for moment in moments), None], dtype="datetime64[D]")
    return pd.DatetimeIndex(known[codes].astype("datetime64[us]"))


def _distinct(values: pd.Series[Any], where: str) -> tuple[Codes, list[object]]:
    """Codes into the distinct values, -1 where there is none."""
    try:
        codes, distinct = pd.factorize(values)
    except TypeError as exc:
        raise InputError(
            f"{where} holds lists or other containers, not single values.", fix="one value a row"
        ) from exc
    blank = [code for code, value in enumerate(distinct) if is_missing(value)]
    if blank:  # an empty text is as good as None
        codes, distinct = pd.factorize(values.astype(object).mask(np.isin(codes, blank)))
    return codes, list(distinct)


def _check_zones(moments: Sequence[datetime], where: str) -> None:
    aware = [moment for moment in moments if moment.tzinfo is not None]
    if aware and len(aware) < len(moments):
        bare = next(moment for moment in moments if moment.tzinfo is None)
        seen = f"{where} has dates with a time zone ({aware[0]}) and without ({bare})."
        raise InputError(seen, fix="dates.tz_localize(None) on the part that has a zone")
    offsets = [moment.utcoffset() for moment in aware]
    hours = [offset.total_seconds() / 3600 for offset in offsets if offset is not None]
    zones = {
        str(getattr(moment.tzinfo, "key", getattr(moment.tzinfo, "zone", "fixed")))
        for moment in aware
    }
    # Summer time moves by an hour, never more
    if len(zones) > 1 or (hours and max(hours) - min(hours) > 1):
        seen = f"{where} mixes time zones (UTC{min(hours):+g} to UTC{max(hours):+g})."
        raise InputError(seen, fix='one zone for all: dates.tz_convert("America/New_York")')


# --- columns --------------------------------------------------------------------------------------


def _check_labels(labels: pd.Index[Any]) -> None:
    for label in labels:
        if not isinstance(label, str):
            fix = 'prices.columns = ["NVDA", ...]; read numbers as text, so that leading zeros stay'
            raise InputError(
                f"the column {show(label)} is {describe_type(label)}, not a ticker.", fix=fix
            )
    counts = Counter(label.strip() for label in labels)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"the prices have the column {twice[0]!r} more than once.",
            fix="prices.loc[:, ~prices.columns.duplicated()]",
        )


def _floats(column: pd.Series[Any]) -> tuple[FloatArray, BoolArray]:
    """The values as float64 and, beside them, which cells held something that is no number."""
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


def _fault_cells(
    column: pd.Series[Any], dates: pd.DatetimeIndex, bad: BoolArray
) -> dict[pd.Timestamp, str]:
    return dict(zip(dates[bad], map(show, column[bad].tolist()), strict=True))


# --- the long form --------------------------------------------------------------------------------


def _read_long(frame: pd.DataFrame, *, returns: bool) -> Prices:
    names = ("return", "returns", "close") if returns else ("close",)
    ticker_label, close_label, volume_label = (
        find_label(frame, "ticker", "symbol"),
        find_label(frame, *names),
        find_label(frame, "volume"),
    )
    if close_label is None:
        near = closest(names[0], map(str, frame.columns), 1) or [
            str(name) for name in frame.columns if names[0] in str(name).lower()
        ]
        fix = (
            f"prices.rename(columns={{{near[0]!r}: {names[0]!r}}})"
            if near
            else f"name the column of values {names[0]!r}"
        )
        raise InputError(
            f"the long prices have no column {names[0]!r}, only "
            f"{', '.join(map(repr, frame.columns))}.",
            fix=fix,
        )
    dates, frame = _split_dates(frame)
    codes, columns = _long_tickers(frame[ticker_label])
    _check_long_duplicates(dates, codes, columns)
    values, bad = _floats(frame[close_label])
    close = _pivot(dates, codes, columns, values)
    cells = _fault_cells_long(
        frame[close_label], dates, [columns[code] for code in codes[bad]], bad
    )
    volume = (
        None
        if volume_label is None
        else _pivot(dates, codes, columns, _floats(frame[volume_label])[0])
    )
    return Prices(
        close=close,
        volume=volume,
        flags=_long_flags(dates, codes),
        is_returns=returns,
        faults=cells,
    )


def _long_tickers(column: pd.Series[Any]) -> tuple[Codes, list[str]]:
    """Codes into the columns, and the columns in the order in which they first appear."""
    codes, distinct = _distinct(column, "the column of tickers")
    names = [value.strip() if isinstance(value, str) else "" for value in distinct]
    wrong = np.isin(codes, [-1, *(code for code, name in enumerate(names) if not name)])
    if wrong.any():
        row = int(np.argmax(wrong))
        fix = 'read tickers as text: read_csv(..., dtype={"ticker": str})'
        raise InputError(
            f"row {row + 1} of the prices has the ticker {show(column.iloc[row])}.", fix=fix
        )
    columns = list(dict.fromkeys(names))
    places = {name: place for place, name in enumerate(columns)}
    return np.array([places[name] for name in names], dtype=np.intp)[codes], columns


def _check_long_duplicates(dates: pd.DatetimeIndex, codes: Codes, columns: list[str]) -> None:
    key = pd.factorize(dates)[0] * np.int64(len(columns)) + codes
    twice = pd.Series(key).duplicated().to_numpy(dtype=bool)
    if twice.any():
        first = int(np.flatnonzero(twice)[0])
        seen = f"{columns[codes[first]]} has more than one row for {dates[first].date()} ({count_noun(int(twice.sum()), 'repeated row')} in all)."
        raise InputError(seen, fix='prices.drop_duplicates(["date", "ticker"], keep="last")')


def _pivot(
    dates: pd.DatetimeIndex, codes: Codes, columns: list[str], values: FloatArray
) -> pd.DataFrame:
    index = dates.unique().sort_values()
    table = np.full((len(index), len(columns)), np.nan)
    table[index.get_indexer(dates), codes] = values
    return pd.DataFrame(table, index=index, columns=columns)


def _long_flags(dates: pd.DatetimeIndex, codes: Codes) -> tuple[str, ...]:
    """
    Sorted means: each ticker's own rows go forward in time, whether its rows stand together or not.
    """
    order = np.argsort(codes, kind="stable")
    same, days = np.diff(codes[order]) == 0, dates.to_numpy()[order]
    return ("unsorted",) if bool(np.any(same & (days[1:] < days[:-1]))) else ()


def _fault_cells_long(
    column: pd.Series[Any], dates: pd.DatetimeIndex, tickers: list[str], bad: BoolArray
) -> dict[str, dict[pd.Timestamp, str]]:
    cells: dict[str, dict[pd.Timestamp, str]] = {}
    for day, ticker, cell in zip(dates[bad], tickers, column[bad].tolist(), strict=True):
        cells.setdefault(ticker, {})[day] = show(cell)
    return cells
