"""
Prices, or returns, from a wide or a long frame.

What makes one company unusable is kept for its row (`Prices.faults`). What makes the whole frame
doubtful raises before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.readers.columns import (
    Codes,
    FloatArray,
    check_not_moved,
    check_separator,
    drop_counter,
    find_distinct,
    find_label,
    read_floats,
    split_dates,
    suggest_rename,
)
from urisk_nb.risk.inputs import Prices
from urisk_nb.risk.values import count_noun, describe_type, show

__all__ = ["read_benchmark", "read_prices"]


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
    read = _read_long if names & {"ticker", "symbol"} else _read_wide
    return read(frame, returns=returns)


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
        from urisk_nb.readers.files import find_path, read_frame  # most prices are no files

        return read_frame(find_path(given, "prices"))
    return given(list(tickers)) if callable(given) else given


def _check_frame(data: object) -> pd.DataFrame:
    if isinstance(data, pd.Series):
        if not isinstance(data.name, str):
            raise InputError("the prices are a Series without a name.", fix='prices.rename("NVDA")')
        data = data.to_frame()
    if not isinstance(data, pd.DataFrame):
        raise InputError(
            f"the prices are {describe_type(data)}, not a DataFrame.",
            fix="prices.to_pandas()"
            if hasattr(data, "to_pandas")
            else "pd.DataFrame(prices): dates as index, one column a ticker",
        )
    if isinstance(data.columns, pd.MultiIndex):
        level = next(
            (name for name in data.columns.get_level_values(0) if str(name).lower() == "close"),
            data.columns[0][0],
        )
        raise InputError(
            f"the prices have {data.columns.nlevels} levels of columns.",
            fix=f"take one of them: prices[{level!r}]",
        )
    check_separator(data, "the prices")
    data = drop_counter(data)
    check_not_moved(data, "the prices")
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


def _read_wide(frame: pd.DataFrame, *, returns: bool) -> Prices:
    dates, frame = split_dates(frame)
    _check_labels(frame.columns)
    frame.columns = pd.Index([str(column).strip() for column in frame.columns], dtype=object)
    faults: Mapping[str, Mapping[pd.Timestamp, str]] = {}
    if all(isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in frame.dtypes):
        numbers = frame.to_numpy(dtype=np.float64)  # all at once: 10,000 columns take their time
        close = pd.DataFrame(numbers, index=dates, columns=list(frame.columns))
    else:
        columns = {name: read_floats(frame[name]) for name in frame.columns}
        close = pd.DataFrame({name: values for name, (values, _) in columns.items()}, index=dates)
        faults = {
            name: dict(zip(dates[bad], map(show, frame[name][bad].tolist()), strict=True))
            for name, (_, bad) in columns.items()
            if bad.any()
        }
    if twice := dates[dates.duplicated()].tolist():
        raise InputError(
            f"the date {twice[0].date()} has more than one row "
            f"({count_noun(len(twice), 'repeated row')} in all).",
            fix="keep one row for each date: prices.groupby(level=0).last()",
        )
    return Prices(
        close=close.sort_index(),
        flags=() if dates.is_monotonic_increasing else ("unsorted",),
        is_returns=returns,
        faults=faults,
    )


def _check_labels(labels: pd.Index[Any]) -> None:
    for label in labels:
        if not isinstance(label, str):
            raise InputError(
                f"the column {show(label)} is {describe_type(label)}, not a ticker.",
                fix='prices.columns = ["NVDA", ...]; read numbers as text, so that leading zeros '
                "stay",
            )
    names = labels.str.strip()
    if names.has_duplicates:
        raise InputError(
            f"the prices have the column {names[names.duplicated()][0]!r} more than once.",
            fix="prices.loc[:, ~prices.columns.duplicated()]",
        )


def _read_long(frame: pd.DataFrame, *, returns: bool) -> Prices:
    names = ("return", "returns", "close") if returns else ("close",)
    ticker_label, close_label, volume_label = (
        find_label(frame, "ticker", "symbol"),
        find_label(frame, *names),
        find_label(frame, "volume"),
    )
    if close_label is None:
        raise InputError(
            f"the long prices have no column {names[0]!r}, only "
            f"{', '.join(map(repr, frame.columns))}.",
            fix=suggest_rename(frame, "prices", names[0])
            or f"name the column of values {names[0]!r}",
        )
    dates, frame = split_dates(frame)
    codes, columns = _read_tickers(frame[ticker_label])
    _check_duplicates(dates, codes, columns)
    values, bad = read_floats(frame[close_label])
    faults: dict[str, dict[pd.Timestamp, str]] = {}
    for code, day, cell in zip(codes[bad], dates[bad], frame[close_label][bad], strict=True):
        faults.setdefault(columns[code], {})[day] = show(cell)
    return Prices(
        close=_pivot(dates, codes, columns, values),
        volume=None
        if volume_label is None
        else _pivot(dates, codes, columns, read_floats(frame[volume_label])[0]),
        flags=_find_flags(dates, codes),
        is_returns=returns,
        faults=faults,
    )


def _read_tickers(column: pd.Series[Any]) -> tuple[Codes, list[str]]:
    """Return codes into the columns, and the columns in the order in which they first appear."""
    codes, distinct = find_distinct(column, "the column of tickers")
    names = [value.strip() if isinstance(value, str) else "" for value in distinct]
    wrong = np.isin(codes, [-1, *(code for code, name in enumerate(names) if not name)])
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"row {row + 1} of the prices has the ticker {show(column.iloc[row])}.",
            fix='read tickers as text: read_csv(..., dtype={"ticker": str})',
        )
    columns = list(dict.fromkeys(names))
    places = {name: place for place, name in enumerate(columns)}
    return np.array([places[name] for name in names], dtype=np.intp)[codes], columns


def _check_duplicates(dates: pd.DatetimeIndex, codes: Codes, columns: list[str]) -> None:
    key = pd.factorize(dates)[0] * np.int64(len(columns)) + codes
    twice = np.flatnonzero(pd.Series(key).duplicated())
    if len(twice):
        raise InputError(
            f"{columns[codes[twice[0]]]} has more than one row for {dates[twice[0]].date()} "
            f"({count_noun(len(twice), 'repeated row')} in all).",
            fix='prices.drop_duplicates(["date", "ticker"], keep="last")',
        )


def _pivot(
    dates: pd.DatetimeIndex, codes: Codes, columns: list[str], values: FloatArray
) -> pd.DataFrame:
    index = dates.unique().sort_values()
    table = np.full((len(index), len(columns)), np.nan)
    table[index.get_indexer(dates), codes] = values
    return pd.DataFrame(table, index=index, columns=columns)


def _find_flags(dates: pd.DatetimeIndex, codes: Codes) -> tuple[str, ...]:
    """Return "unsorted" where a ticker's own rows go back in time; tickers may alternate."""
    order = np.argsort(codes, kind="stable")
    same, days = np.diff(codes[order]) == 0, dates.to_numpy()[order]
    return ("unsorted",) if bool(np.any(same & (days[1:] < days[:-1]))) else ()
