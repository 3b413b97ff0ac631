"""
Prices, or returns, from whatever a quant has: frames of any shape, mappings of them, and files.

What makes one company unusable is kept for its row (`Prices.faults`). What makes the whole frame
doubtful raises before anything runs. A plain frame is read here; other shapes are brought into a
plain form by `price_shapes`, files by `price_files`.

The module is over 400 lines because all that a plain frame needs is here: nothing else is loaded
for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.readers.columns import (
    BoolArray,
    Codes,
    DateSource,
    FloatArray,
    check_not_moved,
    check_separator,
    drop_counter,
    find_dates,
    find_distinct,
    find_label,
    fold_label,
    read_floats,
    split_dates,
    suggest_rename,
)
from urisk_nb.readers.price_fields import FIELDS, PRICE_FIELDS, VOLUMES
from urisk_nb.risk.inputs import Prices
from urisk_nb.risk.values import count_noun, describe_type, show

__all__ = ["list_names", "read_benchmark", "read_prices"]

# What some services call open, high, low, close and volume
LETTERS = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "vw": "vwap"}
MAX_LABELS = 50  # of a frame that are looked at to tell tickers from names of fields


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What was asked for, and a list that collects what to tell the user."""

    tickers: tuple[str, ...]
    returns: bool
    price_column: str | None
    base: str = "prices"  # the expression of the frame, for what errors suggest
    notes: list[str] = field(default_factory=list)


def read_prices(
    given: object,
    *,
    tickers: Sequence[str] = (),
    returns: bool = False,
    price_column: str | None = None,
) -> Prices:
    """
    Return the prices (or, with `returns`, the simple returns) in whatever was given.

    Parameters
    ----------
    given
        A wide frame (one column a ticker), a long one (date, ticker, close, optionally volume), one
        with levels of columns or rows as yfinance and others make it, the table or Series of one
        company, a mapping of ticker to any of these, or a frame of polars or pyarrow. Or the path
        of a CSV, Excel or Parquet file, a folder or a pattern such as ``prices/*.csv`` with one
        file a ticker. Or a callable that is given the tickers and returns any of these. The dates
        are the index or a column. A time zone is dropped and the local date kept; nothing is
        converted to UTC.
    tickers
        What a callable is given. If it is one, a table without tickers is its.
    returns
        The values are simple returns. It is never guessed.
    price_column
        The column or level to read where there are several, in any case. Without it adjusted prices
        come first; `Prices.price_column` and a note say which were taken.

    Raises
    ------
    InputError
        When the file cannot be read, or the frame itself is at fault: no dates, no columns, two
        rows for one date, dates with and without a time zone, no such `price_column`. A column at
        fault is no error here: see `Prices.faults`, and the status of its row.
    PackageMissing
        The file is Parquet or Excel, and pyarrow or openpyxl is not installed.
    """
    request = _Request(tickers=tuple(tickers), returns=returns, price_column=price_column)
    read = _read_object(given, request)
    return replace(read, notes=tuple(dict.fromkeys((*request.notes, *read.notes))))


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


def list_names(given: object) -> tuple[str, ...]:
    """
    Return the names that prices have for tickers, without reading them: columns and their levels,
    keys, a column of tickers, names of files. None of a callable, or of what is no prices.
    """
    if isinstance(given, str | Path):
        from urisk_nb.readers.price_files import list_file_names

        return list_file_names(given)
    if isinstance(given, Mapping):
        return tuple(map(str, given))
    given = _convert(given)
    if isinstance(given, pd.Series):
        given = given.to_frame()
    if not isinstance(given, pd.DataFrame):
        return ()
    levels = [*_list_levels(given.columns), *_list_levels(given.index)]
    levels += [
        given[label].dropna().unique().tolist()
        for label in given.columns
        if fold_label(label) in ("ticker", "symbol")
    ]
    return tuple(dict.fromkeys(one for one in chain.from_iterable(levels) if isinstance(one, str)))


def _list_levels(index: pd.Index[Any]) -> list[Sequence[Any]]:
    if isinstance(index, pd.MultiIndex):
        return [level.tolist() for level in index.levels]
    return [] if isinstance(index, pd.DatetimeIndex) else [index.tolist()]


# --- from anything to a frame ---------------------------------------------------------------------


def _read_object(given: Any, request: _Request) -> Prices:
    if isinstance(given, str | Path):
        return _read_path(given, request)
    if callable(given) and not isinstance(given, (pd.DataFrame, pd.Series)):
        return _read_object(given(list(request.tickers)), request)
    given = _convert(given)
    if isinstance(given, Mapping):
        return _read_mapping(given, request)
    if (
        isinstance(given, (list, tuple))
        and given
        and all(isinstance(one, Mapping) for one in given)
    ):
        given = pd.DataFrame(list(given))  # rows, as JSON has them
    if isinstance(given, pd.Series):
        given = _name_series(given, request)
    if not isinstance(given, pd.DataFrame):
        raise InputError(
            f"the prices are {describe_type(given)}, not a DataFrame.",
            fix="make a frame of it: pd.DataFrame(prices, index=dates, columns=tickers)",
        )
    return _read_frame(given, request)


def _read_path(given: str | Path, request: _Request) -> Prices:
    from urisk_nb.readers.price_files import begin_fix, load_prices  # most prices are no files

    loaded = load_prices(given, request.tickers)
    request.notes.extend(loaded.notes)
    if loaded.is_many:
        return _join(loaded.parts, request, is_folder=True)
    try:
        return _read_object(loaded.parts[0][1], request)
    except InputError as exc:
        raise begin_fix(exc, Path(given)) from exc


def _convert(given: Any) -> Any:
    """Return a frame of polars, pyarrow and their like as one of pandas."""
    if isinstance(given, (pd.DataFrame, pd.Series)):
        return given
    if not hasattr(given, "to_pandas") and hasattr(given, "collect"):
        given = given.collect()
    return given.to_pandas() if hasattr(given, "to_pandas") else given


def _name_series(series: pd.Series[Any], request: _Request) -> pd.DataFrame:
    """Return a Series as a frame; one without a ticker for its name is the only ticker's."""
    name: Any = series.name
    if isinstance(name, tuple):  # a column of a frame with levels
        name = next((one for one in name if fold_label(one) not in PRICE_FIELDS), None)
    if isinstance(series.index, pd.MultiIndex):
        return series.to_frame(name if isinstance(name, str) else "close")
    is_ticker = isinstance(name, str) and (
        fold_label(name) not in PRICE_FIELDS or name.upper() in request.tickers
    )
    if not is_ticker and len(request.tickers) == 1:
        name = request.tickers[0]
    elif not is_ticker:
        seen = "without a name" if name is None else f"called {show(name)}"
        raise InputError(f"the prices are a Series {seen}.", fix='prices.rename("NVDA")')
    return series.to_frame(name)


def _read_mapping(given: Mapping[Any, Any], request: _Request) -> Prices:
    from urisk_nb.readers.price_shapes import find_rows, read_mapping

    fields = read_mapping(given)
    if fields is not None:
        return _read_frame(fields, request)
    if (rows := find_rows(given)) is not None:
        name = next((given[key] for key in ("symbol", "ticker") if key in given), None)
        own = (name,) if isinstance(name, str) else request.tickers
        return _read_object(rows, replace(request, tickers=own))
    parts = []
    for name, value in given.items():
        part = _convert(value)
        if isinstance(part, list) and part and all(isinstance(one, Mapping) for one in part):
            part = pd.DataFrame(part)
        if isinstance(part, Mapping):  # date -> price
            part = pd.Series(dict(part), dtype=object).infer_objects()
        if not isinstance(name, str) or not isinstance(part, (pd.DataFrame, pd.Series)):
            raise InputError(
                f"the prices are {describe_type(given)} of {show(name)} to {describe_type(value)}.",
                fix="give each ticker a frame or a Series, or make one frame of all: "
                "pd.DataFrame(prices, index=dates)",
            )
        if part is not None and len(part):
            parts.append((name, part))
        else:
            request.notes.append(f"The prices of {name} are empty.")
    if not parts:
        raise InputError(
            f"the prices are empty ({describe_type(given)} of {count_noun(len(given), 'ticker')}).",
            fix="check what was loaded: list(prices.items())",
        )
    return _join(parts, request)


def _join(
    parts: Iterable[tuple[str, Any]], request: _Request, *, is_folder: bool = False
) -> Prices:
    """
    Return the prices of many parts as one, each with the dates that it has.

    A part of a folder that cannot be read is named in a note; its ticker is a row without data.
    """
    from urisk_nb.readers.joined_prices import append, rename, stack

    read: dict[str, list[Prices]] = {}
    failed: list[InputError] = []
    for name, given in parts:
        base = "prices" if is_folder else f"prices[{name!r}]"
        own = replace(request, tickers=(name,), base=base, notes=[])
        try:
            part = _read_object(given.read() if is_folder else given, own)
        except InputError as exc:
            if not is_folder:
                raise
            failed.append(exc)
            continue
        if len(part.close.columns) == 1:
            part = rename(part, name)
        request.notes.extend(own.notes)
        read.setdefault(name, []).append(part)
    if failed and not read:
        raise failed[0]
    if failed:
        seen = "; ".join(exc.message.rstrip(".") for exc in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        request.notes.append(f"{count_noun(len(failed), 'file')} could not be read: {seen}{more}.")
    return stack([append(name, found) for name, found in read.items()])


# --- from a frame to prices -----------------------------------------------------------------------


def _read_frame(frame: pd.DataFrame, request: _Request) -> Prices:
    _check_not_empty(frame)
    if not isinstance(frame.columns, pd.MultiIndex):
        check_separator(frame, "the prices")
        frame = drop_counter(frame)
        check_not_moved(frame, "the prices")
        _check_not_empty(frame)
    if isinstance(frame.index, pd.MultiIndex):
        return _read_row_levels(frame, request)
    if _may_be_texts(frame):
        from urisk_nb.readers.price_shapes import lift_header_rows, turn_columns

        frame = turn_columns(lift_header_rows(frame), request.notes)
    if isinstance(frame.columns, pd.MultiIndex):
        return _read_fields(frame, request)
    frame = _name_columns(frame, request)
    if isinstance(frame.columns, pd.MultiIndex):
        return _read_fields(frame, request)
    has_fields = _may_have_fields(frame.columns)
    if has_fields or request.price_column is not None:
        _check_unique(frame.columns)
    if (ticker := _find_tickers(frame, request.tickers, has_fields=has_fields)) is not None:
        return _read_long(frame, ticker, request)
    if has_fields or request.price_column is not None:
        return _read_fields(frame, request)
    return _read_wide(frame, request)


def _name_columns(frame: pd.DataFrame, request: _Request) -> pd.DataFrame:
    """Return a frame whose labels are texts, where numbers, pairs or letters leave no doubt."""
    labels = frame.columns
    if len(labels) < MAX_LABELS and {"o", "h", "l", "c"} <= {*labels}:
        return frame.rename(columns=LETTERS)
    if labels.inferred_type == "string" and not any(
        label[:2] in ("('", '("') for label in labels[:MAX_LABELS]
    ):
        return frame
    from urisk_nb.readers.price_shapes import name_labels

    return name_labels(frame, request.tickers)


def _find_tickers(frame: pd.DataFrame, tickers: Sequence[str], *, has_fields: bool) -> Any:
    """Return the column of tickers of a long frame; None of a wide one."""
    label = find_label(frame, "ticker", "symbol")
    if label is not None or not (has_fields or len(frame.columns) == 3):
        return label
    from urisk_nb.readers.price_shapes import find_ticker_label

    return find_ticker_label(frame, tickers)


def _read_row_levels(frame: pd.DataFrame, request: _Request) -> Prices:
    from urisk_nb.readers.price_shapes import name_levels

    if isinstance(frame.columns, pd.MultiIndex):
        names = [labels for labels in zip(*frame.columns, strict=True) if len({*labels}) > 1]
        frame = frame.set_axis(pd.Index((names or [*zip(*frame.columns, strict=True)])[0]), axis=1)
    frame, base = name_levels(frame)
    return _read_long(frame, "ticker", replace(request, base=base))


def _read_fields(frame: pd.DataFrame, request: _Request) -> Prices:
    from urisk_nb.readers.price_shapes import split_fields

    table = split_fields(
        frame, request.tickers, returns=request.returns, price_column=request.price_column
    )
    if table is not None:
        read = _read_wide(table.close, request, volume=table.volume)
        return replace(
            read, price_column=str(table.choice.label), is_adjusted=table.choice.is_adjusted
        )
    if request.price_column is not None and len(frame.columns) > 1:
        labels = ", ".join(map(repr, frame.columns[:6]))
        raise InputError(
            f"the prices have no column {request.price_column!r} to choose: each column is a "
            f"ticker ({labels}).",
            fix="leave price_column out",
        )
    return _read_wide(frame, request)


def _check_not_empty(frame: pd.DataFrame) -> None:
    if frame.empty:
        raise InputError(
            f"the prices are empty ({len(frame)} rows, {len(frame.columns)} columns).",
            fix="check what was loaded: prices.info()",
        )


def _may_be_texts(frame: pd.DataFrame) -> bool:
    """Return whether rows may belong to the header, or columns be dates: few frames' cells are."""
    if isinstance(frame.columns, (pd.MultiIndex, pd.DatetimeIndex, pd.PeriodIndex)):
        return not isinstance(frame.columns, pd.MultiIndex)
    last = frame.columns[-1]
    is_text = frame.dtypes.iloc[-1].kind not in "iuf"
    return is_text or not isinstance(last, str) or bool(re.match(r"\d{4}-\d\d", last))


def _may_have_fields(columns: pd.Index[Any]) -> bool:
    """Return whether some label is a name of prices, or ends or begins with one."""
    return any(
        fold_label(part) in FIELDS
        for label in columns[:MAX_LABELS]
        for part in (label, *re.split(r"[ _.|:/\-]", str(label)))
    )


def _read_wide(
    frame: pd.DataFrame, request: _Request, *, volume: pd.DataFrame | None = None
) -> Prices:
    source = DateSource(find_dates(frame), request.base)
    dates, frame = split_dates(frame, request.notes, base=request.base)
    _check_labels(frame.columns)
    frame.columns = pd.Index([str(column).strip() for column in frame.columns], dtype=object)
    close, faults = _read_columns(frame, dates, request)
    if dates.has_duplicates and not faults:
        # A row without a price is no second price: a dividend, in the tables of some sites
        kept = close.notna().any(axis=1).to_numpy() | ~dates.duplicated(keep=False)
        close, dates = close[kept], dates[kept]
        volume = None if volume is None else volume[kept]
    if twice := dates[dates.duplicated()].tolist():
        raise InputError(
            f"the date {twice[0].date()} has more than one row "
            f"({count_noun(len(twice), 'repeated row')} in all).",
            fix="keep the last row of each day: "
            f"{request.base}[~pd.Series([str(day)[:10] for day in {source.code}])"
            '.duplicated(keep="last").to_numpy()]',
        )
    return Prices(
        close=close.sort_index(),
        volume=None if volume is None else _read_volume(volume, dates, close, frame),
        flags=() if dates.is_monotonic_increasing else ("unsorted",),
        is_returns=request.returns,
        faults=faults,
    )


def _read_columns(
    frame: pd.DataFrame, dates: pd.DatetimeIndex, request: _Request
) -> tuple[pd.DataFrame, Mapping[str, Mapping[pd.Timestamp, str]]]:
    """Return the numbers of each column, and what stood where there is none."""
    if all(isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in frame.dtypes):
        numbers = frame.to_numpy(dtype=np.float64)  # all at once: 10,000 columns take their time
        return pd.DataFrame(numbers, index=dates, columns=list(frame.columns)), {}
    columns = _read_marked({name: frame[name] for name in frame.columns}, percent=request.returns)
    close = pd.DataFrame({name: values for name, (values, _) in columns.items()}, index=dates)
    faults = {
        name: dict(zip(dates[bad], map(show, frame[name][bad].tolist()), strict=True))
        for name, (_, bad) in columns.items()
        if bad.any()
    }
    return close, faults


def _read_marked(
    columns: Mapping[str, pd.Series[Any]],
    *,
    percent: bool = False,
    prices: Sequence[pd.Series[Any]] | None = None,
) -> dict[str, tuple[FloatArray, BoolArray]]:
    """
    Return the numbers of columns, and which cells are none; texts such as "1.234,56" are read, too.

    `prices` says that the columns are volumes, beside these prices.
    """
    read = {name: read_floats(cells) for name, cells in columns.items()}
    texts = {
        name: cells for name, cells in columns.items() if read[name][1].any() and _is_text(cells)
    }
    # Beside prices with a decimal comma "1.000" is a thousand, though it looks like a number
    if not texts and not (prices is not None and any(map(_is_text, [*columns.values(), *prices]))):
        return read
    from urisk_nb.readers.number_text import (
        find_count_mark,
        find_decimal_mark,
        read_number_texts,
    )

    others = [cells for cells in columns.values() if _is_text(cells)]
    has_points = any(
        bool((values % 1 > 0).any())
        for name, (values, _) in read.items()
        if columns[name].dtype.kind == "f"
    )
    cells_of = chain.from_iterable(cells.dropna().unique() for cells in others)
    if prices is None:
        mark = find_decimal_mark(cells_of, has_points=has_points)
    else:
        beside = (cells.dropna().unique() for cells in prices if _is_text(cells))
        mark = find_count_mark(chain.from_iterable(beside), cells_of)
    # Beside a decimal comma "1.234" is a thousand, though it looks like a number
    again = {
        name: read_number_texts(cells, mark, percent=percent)
        for name, cells in columns.items()
        if name in texts or (mark == "," and _is_text(cells))
    }
    return read | again


def _is_text(cells: pd.Series[Any]) -> bool:
    kind = pd.api.types.infer_dtype(cells, skipna=True)
    return kind in ("string", "mixed", "mixed-integer")


def _read_volume(
    volume: pd.DataFrame, dates: pd.DatetimeIndex, close: pd.DataFrame, prices: pd.DataFrame
) -> pd.DataFrame:
    columns = {str(label).strip(): volume[label] for label in volume.columns}
    columns = {name: cells for name, cells in columns.items() if name in close.columns}
    read = _read_marked(columns, prices=[prices[label] for label in prices.columns])
    table = pd.DataFrame({name: values for name, (values, _) in read.items()}, index=dates)
    return table.reindex(columns=close.columns).sort_index()


def _check_labels(labels: pd.Index[Any]) -> None:
    for label in labels:
        if not isinstance(label, str):
            raise InputError(
                f"the column {show(label)} is {describe_type(label)}, not a ticker.",
                fix="prices.rename(columns=str); read numbers as text, so that leading zeros stay",
            )
    _check_unique(labels.str.strip())


def _check_unique(labels: pd.Index[Any]) -> None:
    repeated = labels.duplicated()  # has_duplicates is what it was before a slice, until pandas 3
    if not repeated.any():
        return
    twice = labels[repeated][0]
    if fold_label(twice) in ("date", "dates", "datetime"):
        raise InputError(
            f"the prices have {(labels == twice).sum()} columns {twice!r}: each ticker has its own "
            "dates.",
            fix='give each ticker its own columns: {"NVDA": prices.iloc[:, :2], "MSFT": '
            "prices.iloc[:, 2:4]}, with your tickers and places",
        )
    raise InputError(
        f"the prices have the column {twice!r} more than once.",
        fix="prices.loc[:, ~prices.columns.astype(str).str.strip().duplicated()]",
    )


def _read_long(frame: pd.DataFrame, ticker: Any, request: _Request) -> Prices:
    from urisk_nb.readers.price_fields import Choice, choose_field, find_field
    from urisk_nb.readers.price_shapes import take_field_rows

    frame = take_field_rows(
        frame, ticker, returns=request.returns, price_column=request.price_column
    )
    dates_label = find_dates(frame)
    labels = [label for label in frame.columns if label not in (ticker, dates_label)]
    choice = choose_field(
        labels,
        returns=request.returns,
        price_column=request.price_column,
        has_numbers=lambda label: bool(frame[label].notna().any()),
    )
    if choice is None and len(labels) == 1 and fold_label(ticker) not in ("ticker", "symbol"):
        choice = Choice(label=labels[0])
    if choice is None:
        name = "return" if request.returns else "close"
        numbers = [one for one in labels if frame[one].dtype.kind in "iuf"]
        raise InputError(
            f"the long prices have no column {name!r}, only {', '.join(map(repr, frame.columns))}.",
            fix=suggest_rename(frame, request.base, name)
            or f"price_column={str((numbers or labels or ['close'])[0])!r}",
        )
    source = DateSource(dates_label, request.base)
    dates, rows = split_dates(frame, request.notes, base=request.base)
    codes, columns = _read_tickers(rows[ticker], ticker, request)
    values, bad = _read_marked({"": rows[choice.label]}, percent=request.returns)[""]
    if (empty := np.isnan(values) & ~bad).any():
        key = pd.DataFrame({"date": dates, "code": codes})
        kept = ~(empty & key.duplicated(keep=False).to_numpy())
        dates, codes, rows = dates[kept], codes[kept], rows[kept]
        values, bad = values[kept], bad[kept]
    _check_duplicates(dates, codes, columns, source, ticker)
    volume_label = find_field(labels, VOLUMES)
    faults: dict[str, dict[pd.Timestamp, str]] = {}
    for code, day, cell in zip(codes[bad], dates[bad], rows[choice.label][bad], strict=True):
        faults.setdefault(columns[code], {})[day] = show(cell)
    offered = [
        label for label in labels if fold_label(label) in PRICE_FIELDS or label == choice.label
    ]
    return Prices(
        close=_pivot(dates, codes, columns, values),
        volume=None
        if volume_label is None
        else _pivot(
            dates,
            codes,
            columns,
            _read_marked({"": rows[volume_label]}, prices=[rows[choice.label]])[""][0],
        ),
        flags=_find_flags(dates, codes),
        is_returns=request.returns,
        faults=faults,
        price_column=str(choice.label)
        if len(offered) > 1 or request.price_column is not None or choice.is_adjusted
        else None,
        is_adjusted=choice.is_adjusted,
    )


def _read_tickers(column: pd.Series[Any], label: Any, request: _Request) -> tuple[Codes, list[str]]:
    """Return codes into the columns, and the columns in the order in which they first appear."""
    codes, distinct = find_distinct(column, "the column of tickers")
    numbers = {value for value in distinct if isinstance(value, int)}
    if not {*map(str, numbers)} & {*request.tickers}:  # of the list, so that no zero was lost
        numbers = set()
    names = [
        value.strip() if isinstance(value, str) else str(value) if value in numbers else ""
        for value in distinct
    ]
    wrong = np.isin(codes, [-1, *(code for code, name in enumerate(names) if not name)])
    if wrong.any():
        row = int(np.argmax(wrong))
        tickers = f"{request.base}[{label!r}]"
        raise InputError(
            f"row {row + 1} of the prices has the ticker {show(column.iloc[row])}.",
            fix=f"drop the rows without one: {request.base}[{tickers}.notna()]"
            if codes[row] < 0
            else "read tickers as text, so that leading zeros stay: "
            f"{request.base}.assign(**{{{label!r}: {tickers}.astype(str)}})",
        )
    columns = list(dict.fromkeys(names))
    places = {name: place for place, name in enumerate(columns)}
    return np.array([places[name] for name in names], dtype=np.intp)[codes], columns


def _check_duplicates(
    dates: pd.DatetimeIndex, codes: Codes, columns: list[str], source: DateSource, ticker: Any
) -> None:
    key = pd.factorize(dates)[0] * np.int64(len(columns)) + codes
    twice = np.flatnonzero(pd.Series(key).duplicated())
    if len(twice):
        raise InputError(
            f"{columns[codes[twice[0]]]} has more than one row for {dates[twice[0]].date()} "
            f"({count_noun(len(twice), 'repeated row')} in all).",
            fix="keep the last row of each day: "
            f"{source.base}[~pd.DataFrame({{1: [str(day)[:10] for day in {source.code}], "
            f"2: {source.base}[{ticker!r}].tolist()}})"
            '.duplicated(keep="last").to_numpy()]',
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
