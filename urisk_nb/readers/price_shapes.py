"""
The shapes that prices come in, brought into one of two forms: wide (a column a ticker) or long.

yfinance gives two levels of columns in either order, Alpaca two levels of rows, a saved yfinance
file two header lines, R one column for each ticker and field, and a table of one company has no
ticker at all. Whatever is plain already never comes here.

The module is over 400 lines because each shape is a few lines, and a table may have two of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas.api import types as kinds

from urisk_nb.errors import InputError
from urisk_nb.readers.columns import find_dates, fold_label, read_floats
from urisk_nb.readers.price_fields import (
    ADJUSTED,
    AS_TRADED,
    FIELDS,
    OTHER_TICKER_NAMES,
    RETURNS,
    TICKER_NAMES,
    VOLUMES,
    Choice,
    choose_field,
    find_field,
    is_price_field,
)
from urisk_nb.risk.tickers import fold_listing
from urisk_nb.risk.values import fold_name, read_moment

__all__ = [
    "WideTable",
    "find_rows",
    "find_ticker_label",
    "lift_header_rows",
    "name_labels",
    "name_levels",
    "read_mapping",
    "split_fields",
    "take_field_rows",
    "turn_columns",
]

HEADER_MARKS = {
    "price",
    "ticker",
    "tickers",
    "symbol",
    "symbols",
    "attributes",
    "field",
    "fields",
    "",
}
DATE_MARKS = {"date", "datetime", "dates", "day"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WideTable:
    """One column a ticker: the prices, the volumes if there are any, and what was chosen."""

    close: pd.DataFrame
    volume: pd.DataFrame | None
    choice: Choice


def split_fields(
    frame: pd.DataFrame, tickers: Sequence[str], *, returns: bool, price_column: str | None
) -> WideTable | None:
    """
    Return the tickers' prices out of a table that has several fields; None if it is plain.

    Parameters
    ----------
    tickers
        A table of one company takes its name from the only one.

    Raises
    ------
    InputError
        No level of columns has prices; or one company's table stands beside several tickers.
    """
    if isinstance(frame.columns, pd.MultiIndex):
        fields = _split_levels(frame)
    else:
        fields = _split_flat_names(frame, tickers) or _read_one_company(
            frame, tickers, price_column=price_column
        )
    if not fields:
        return None
    choice = choose_field(
        [*fields],
        returns=returns,
        price_column=price_column,
        has_numbers=lambda label: _has_numbers(fields[label]),
    )
    if choice is None:
        labels = [*fields]
        if not isinstance(frame.columns, pd.MultiIndex):
            dates = find_dates(frame)
            labels = [one for one in frame.columns if one != dates]
        unknown = [one for one in labels if fold_label(one) not in FIELDS]
        raise InputError(
            f"the prices have the columns {', '.join(map(repr, labels))}, none of them a known "
            "price.",
            fix=f"price_column={str((unknown or labels)[0])!r}",
        )
    volume = find_field([*fields], VOLUMES)
    return WideTable(
        close=fields[choice.label],
        volume=None if volume is None else fields[volume],
        choice=choice,
    )


def _has_numbers(table: pd.DataFrame) -> bool:
    return any(bool(table[label].notna().any()) for label in table)


# --- levels of columns ----------------------------------------------------------------------------


def _split_levels(frame: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """Return a wide frame for each field of columns with levels, whichever level has the fields."""
    frame = _index_by_dates(frame)
    columns: Any = frame.columns
    found = _find_field_level(columns)
    # A level that says nothing, such as the currency of all
    for level in reversed(range(columns.nlevels)):
        is_constant = len(columns.get_level_values(level).unique()) == 1
        if columns.nlevels > 2 and is_constant and level != found:
            columns = columns.droplevel(level)
    found = _find_field_level(columns)
    if found is None or columns.nlevels > 2:
        raise InputError(
            f"the prices have {columns.nlevels} levels of columns, such as {columns[0]!r}, and "
            "none of them names prices such as Close.",
            fix="keep one level: "
            + (
                "prices.droplevel(0, axis=1)"
                if columns.droplevel(0).is_unique
                else f"prices[{frame.columns[0][0]!r}]"
            ),
        )
    frame = frame.set_axis(columns, axis=1)
    labels = columns.get_level_values(found).unique()
    return {label: pd.DataFrame(frame.xs(label, axis=1, level=found)) for label in labels}


def _find_field_level(columns: pd.MultiIndex) -> int | None:
    """Return the level whose labels are most often names of fields: of prices, or all of them."""
    shares = {}
    for level in range(columns.nlevels):
        labels = columns.get_level_values(level).unique()
        share = sum(fold_label(one) in FIELDS for one in labels) / len(labels)
        if any(map(is_price_field, labels)) or share == 1:
            shares[level] = share
    return max(shares, key=lambda level: shares[level]) if shares else None


def _index_by_dates(frame: pd.DataFrame) -> pd.DataFrame:
    """Put dates that reset_index() made a column, ("Date", ""), back into the index."""
    if not kinds.is_numeric_dtype(frame.index.dtype):
        return frame
    # read_csv(header=[0, 1]) without an index: a row with the name of the dates, then the dates
    if len(frame) > 1 and _is_mark(frame.iloc[0, 0]) and frame.iloc[0, 1:].isna().all():
        return frame.iloc[1:, 1:].set_axis(pd.Index(frame.iloc[1:, 0], name="date"), axis=0)
    for place, labels in enumerate(frame.columns):
        if any(fold_label(one) in DATE_MARKS for one in labels):
            rest = frame.iloc[:, [other for other in range(frame.shape[1]) if other != place]]
            return rest.set_axis(pd.Index(frame.iloc[:, place], name="date"), axis=0)
    return frame


def name_labels(frame: pd.DataFrame, tickers: Sequence[str]) -> pd.DataFrame:
    """
    Return a frame whose columns are called by texts, where the list or the labels leave no doubt.

    A number is a ticker if the list has it. Pairs such as ("Close", "NVDA"), also written as text,
    are levels of columns.
    """
    labels = frame.columns.tolist()
    if any(isinstance(label, int) for label in labels):
        if not {str(label) for label in labels if isinstance(label, int)} & {*tickers}:
            return frame
        return frame.set_axis(
            [str(label) if isinstance(label, int) else label for label in labels], axis=1
        )
    pairs = [_read_pair(label) for label in labels]
    if sum(pair is not None for pair in pairs) < 2:
        return frame
    whole = [pair or (str(label), "") for pair, label in zip(pairs, labels, strict=True)]
    return frame.set_axis(pd.MultiIndex.from_tuples(whole), axis=1)


def _read_pair(label: object) -> tuple[str, str] | None:
    if isinstance(label, tuple) and len(label) == 2:
        return str(label[0]), str(label[1])
    match = re.fullmatch(r"""\(['"](.*)['"], ['"](.*)['"]\)""", str(label))
    return (match[1], match[2]) if match else None


def lift_header_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """
    Return a frame with levels of columns, where to_csv() wrote them as the first rows.

    The file of a yfinance download begins with the lines "Price,Close,...", "Ticker,NVDA,..." and
    "Date,,...".
    """
    if isinstance(frame.columns, pd.MultiIndex) or len(frame) < 2:
        return frame
    if not kinds.is_numeric_dtype(frame.index.dtype) and not isinstance(
        frame.index, (pd.DatetimeIndex, pd.PeriodIndex, pd.MultiIndex)
    ):
        if not _is_mark(frame.index[0]):
            return frame
        frame = frame.reset_index(names="Price")
    count = _count_header_rows(frame)
    if not count:
        return frame
    head = frame.iloc[:count]
    rows = [_fill(_clean_header(frame.columns[1:]))]
    rows += [
        _fill([None if pd.isna(cell) else str(cell) for cell in head.iloc[row, 1:]])
        for row in range(count)
        if not head.iloc[row, 1:].isna().all()
    ]
    # A row of units: "USD" for all
    rows = [
        row for row in rows if len({*row}) > 1 or len(row) == 1 or fold_label(row[0]) in FIELDS
    ] or rows[:1]
    body = frame.iloc[count:]
    columns = pd.MultiIndex.from_arrays(rows) if len(rows) > 1 else pd.Index(rows[0], dtype=object)
    lifted = body.iloc[:, 1:].set_axis(columns, axis=1)
    return lifted.set_axis(pd.Index(body.iloc[:, 0].infer_objects(), name="date"), axis=0)


def _is_mark(cell: object) -> bool:
    text = "" if cell is None or cell != cell else str(cell).strip().lower()  # noqa: PLR0124  # NaN
    return text in HEADER_MARKS | DATE_MARKS or text.startswith("unnamed: ")


def _count_header_rows(frame: pd.DataFrame) -> int:
    """Return how many rows belong to the header: 0 if the first one has prices."""
    if not _is_mark(frame.columns[0]) or not _is_mark(frame.iloc[0, 0]):
        return 0
    texts = frame.iloc[0, 1:].dropna()
    if not len(texts) or any(_is_number(cell) for cell in texts):
        return 0
    return next(
        (row for row in range(1, min(4, len(frame))) if not _is_mark(frame.iloc[row, 0])), 0
    )


def _is_number(cell: object) -> bool:
    return not read_floats(pd.Series([cell]))[1][0]


def _clean_header(labels: pd.Index[Any]) -> list[str | None]:
    """Return labels as the file has them: pandas numbers repeated ones and names empty ones."""
    known = {str(label) for label in labels}
    names: list[str | None] = []
    for label in map(str, labels):
        base = re.sub(r"\.\d+$", "", label)
        names.append(None if label.startswith("Unnamed: ") else base if base in known else label)
    return names


def _fill(names: Sequence[str | None]) -> list[str]:
    """Return the names, an empty one as the one before it: merged cells of a sheet."""
    filled: list[str] = []
    for name in names:
        filled.append(name if name is not None else filled[-1] if filled else "")
    return filled


# --- names that hold ticker and field -------------------------------------------------------------


def _split_flat_names(frame: pd.DataFrame, tickers: Sequence[str]) -> dict[Any, pd.DataFrame]:
    """
    Return a wide frame for each field of columns such as "NVDA.Close" or "Close_NVDA".

    All columns but the dates must be such, and a price among them.
    """
    dates = find_dates(frame)
    parts: dict[Any, tuple[str, str]] = {}
    for label in frame.columns:
        if label == dates:
            continue
        pair = None if fold_label(label) in FIELDS else _split_name(str(label))
        if pair is None or fold_name(str(label)) in map(fold_name, tickers):
            return {}
        parts[label] = pair
    if not any(is_price_field(field) for _, field in parts.values()):
        return {}
    fields: dict[Any, pd.DataFrame] = {}
    for field in dict.fromkeys(field for _, field in parts.values()):
        mine = {label: ticker for label, (ticker, one) in parts.items() if one == field}
        kept = [*([] if dates is None else [dates]), *mine]
        fields[field] = frame[kept].rename(columns=mine)
    return fields


def _split_name(label: str) -> tuple[str, str] | None:
    """
    Return ticker and field of a column's name, or None.

    The longest name of a field counts: "Adj Close_NVDA" is no "Close_NVDA" of a field "Adj".
    """
    found: list[tuple[str, str]] = []
    for place in (match.start() for match in re.finditer(r"[ _.|:/\-]", label)):
        first, second = label[:place].strip(), label[place + 1 :].strip()
        if not first or not second:
            continue
        if fold_label(second) in FIELDS and fold_label(first) not in FIELDS:
            found.append((first, second))
        elif fold_label(first) in FIELDS and fold_label(second) not in FIELDS:
            found.append((second, first))
    return max(found, key=lambda pair: len(pair[1]), default=None)


# --- one company's table --------------------------------------------------------------------------


def _read_one_company(
    frame: pd.DataFrame, tickers: Sequence[str], *, price_column: str | None
) -> dict[Any, pd.DataFrame]:
    """
    Return the fields of a table without tickers, each under the only ticker of the cell.

    It has a price and another field, or a price alone; and no column is a ticker of the cell.
    """
    dates = find_dates(frame)
    labels = [label for label in frame.columns if label != dates]
    known = [label for label in labels if fold_label(label) in FIELDS]
    others = [
        label
        for label in labels
        if label not in known and read_floats(frame[label])[1].mean() < 0.5
    ]
    wanted = {fold_name(ticker) for ticker in tickers}
    if any(isinstance(label, str) and fold_name(label) in wanted for label in labels):
        return {}
    is_asked = price_column is not None and any(
        fold_label(label) == fold_label(price_column) for label in labels
    )
    if not is_asked and (
        not known or (len(known) < 2 and (others or not is_price_field(known[0])))
    ):
        return {}
    if len(tickers) != 1:
        seen = ", ".join(map(repr, labels[:6]))
        raise InputError(
            f"the prices are those of one company ({seen}), and "
            f"{f'the list has {len(tickers)} tickers' if tickers else 'no ticker says which one'}.",
            fix=f'say whose they are: {{"{tickers[0] if tickers else "NVDA"}": prices}}',
        )
    kept = [*known, *(others if price_column is not None else ())]
    return {
        label: frame[[*([] if dates is None else [dates]), label]].rename(
            columns={label: tickers[0]}
        )
        for label in kept
    }


# --- levels of rows, long tables ------------------------------------------------------------------


def name_levels(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """
    Return a frame whose rows have levels as a long one, and the expression that makes it: its
    levels become the columns date and ticker, in whatever order and under whatever names they came.

    Raises
    ------
    InputError
        No level has dates, or none has texts.
    """
    levels = range(frame.index.nlevels)
    dated = [level for level in levels if _is_date_level(frame.index, level)]
    # A level with one value, such as the currency of all, says nothing
    texts = [
        level
        for level in levels
        if level not in dated
        and kinds.infer_dtype(frame.index.get_level_values(level), skipna=True) == "string"
    ]
    if len(texts) > 1:
        telling = [level for level in texts if frame.index.get_level_values(level).nunique() > 1]
        texts = telling or texts[:1]
    if len(dated) != 1 or len(texts) != 1:
        raise InputError(
            f"the prices have {frame.index.nlevels} levels of rows, such as {frame.index[0]!r}: "
            "one must hold dates and another tickers.",
            fix="make a long frame with the columns date, ticker and close: prices.reset_index()",
        )
    index = {"date": frame.index.get_level_values(dated[0])}
    index["ticker"] = frame.index.get_level_values(texts[0])
    taken = [
        label
        for label in frame.columns
        if str(label).strip().lower() in ("date", "datetime", *TICKER_NAMES)
    ]
    rest = frame.drop(columns=taken).reset_index(drop=True)
    if len(rest.columns) == 1 and not is_price_field(rest.columns[0]):
        rest = rest.set_axis(["close"], axis=1)
    names = [f"level_{level}" for level in levels]
    names[dated[0]], names[texts[0]] = "date", "ticker"
    base = f"prices.drop(columns={taken!r})" if taken else "prices"
    return (
        pd.concat([pd.DataFrame(index), rest], axis=1),
        f"{base}.rename_axis({names!r}).reset_index()",
    )


def _is_date_level(index: pd.Index[Any], level: int) -> bool:
    values = index.get_level_values(level)
    if kinds.is_datetime64_any_dtype(values.dtype) or isinstance(values.dtype, pd.PeriodDtype):
        return True
    return len(values) > 0 and _is_date(values[0])


def find_ticker_label(frame: pd.DataFrame, tickers: Sequence[str]) -> Any:
    """
    Return the column of tickers where it has another name than ticker or symbol, or None.

    One that says the same in each row counts only if it is a ticker of the list: the table of one
    company may have its name in a column.
    """
    if len(frame.columns) == 3 and not any(map(is_price_field, frame.columns)):
        return _find_melted_column(frame, tickers)
    if not any(map(is_price_field, frame.columns)):
        return None
    texts = [
        label
        for label in frame.columns
        if fold_label(label) in OTHER_TICKER_NAMES
        and kinds.infer_dtype(frame[label], skipna=True) in ("string", "categorical")
    ]
    wanted = {fold_listing(ticker) for ticker in tickers}
    texts = [
        label
        for label in texts
        if not wanted
        or frame[label].nunique() > 1
        or wanted & {fold_listing(str(one)) for one in frame[label].unique()}
    ]
    return find_field(texts, OTHER_TICKER_NAMES)


def _find_melted_column(frame: pd.DataFrame, tickers: Sequence[str]) -> Any:
    """Return the column of tickers in a table of dates, tickers of the list, and numbers."""
    if frame.columns.duplicated().any():
        return None
    dates = find_dates(frame)
    wanted = {fold_listing(ticker) for ticker in tickers}
    for label in frame.columns:
        others = [one for one in frame.columns if one not in (label, dates)]
        if (
            len(others) == 1
            and fold_label(others[0]) not in FIELDS
            and kinds.is_numeric_dtype(frame[others[0]].dtype)
            and kinds.infer_dtype(frame[label], skipna=True) in ("string", "categorical")
            and wanted & {fold_listing(str(one)) for one in frame[label].unique()}
        ):
            return label
    return None


def take_field_rows(
    frame: pd.DataFrame, ticker: Any, *, returns: bool, price_column: str | None
) -> pd.DataFrame:
    """Return the rows of one field, where a long table has a row for each field."""
    names = {*ADJUSTED, *AS_TRADED, *RETURNS}
    for label in frame.columns:
        if label == ticker or kinds.infer_dtype(frame[label], skipna=True) != "string":
            continue
        distinct = [one for one in frame[label].unique() if isinstance(one, str)]
        if len(distinct) > 1 and all(fold_label(one) in FIELDS for one in distinct):
            choice = choose_field(distinct, returns=returns, price_column=price_column)
            if choice is not None and fold_label(choice.label) in names:
                rows: pd.DataFrame = frame[frame[label] == choice.label].drop(columns=[label])
                return rows
    return frame


def turn_columns(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return a frame with dates as rows, where it came with a row a ticker and a column a date."""
    if isinstance(frame.columns, pd.MultiIndex) or len(frame.columns) < 2:
        return frame
    label = next((one for one in frame.columns if fold_label(one) in TICKER_NAMES), None)
    table = frame if label is None else frame.set_index(label)
    if label is None and kinds.infer_dtype(frame.iloc[:, 0]) == "string":
        table = frame.set_index(frame.columns[0])
    if kinds.infer_dtype(table.index) != "string" or not all(map(_is_date, table.columns)):
        return frame
    notes.append("The prices had one row per ticker; rows and columns were swapped.")
    days = pd.Index([str(day)[:10] for day in table.columns], name="date")
    turned: pd.DataFrame = table.T.set_axis(days, axis=0)
    return turned


def _is_date(value: object) -> bool:
    try:
        read_moment(value)
    except ValueError:
        return False
    return True


def find_rows(given: Mapping[Any, Any]) -> object:
    """Return the rows in the answer of a price API, beside single values such as its status."""
    rows = [one for one in given.values() if isinstance(one, list) and one]
    singles = [one for one in given.values() if one is None or isinstance(one, (str, int, float))]
    if len(rows) == 1 and len(rows) + len(singles) == len(given) and isinstance(rows[0][0], dict):
        return rows[0] if singles else None
    series = [name for name in given if str(name).lower().startswith("time series")]
    if len(series) == 1 and isinstance(given[series[0]], Mapping):
        return pd.DataFrame.from_dict(given[series[0]], orient="index")
    return None


def read_mapping(given: Mapping[Any, Any]) -> pd.DataFrame | None:
    """Return the frame of a mapping from field to wide frame ({"Close": ...}), or None."""
    is_by_field = (
        all(fold_label(name) in FIELDS for name in given)
        and any(map(is_price_field, given))
        and all(isinstance(one, pd.DataFrame) for one in given.values())
    )
    return pd.concat(dict(given), axis=1) if is_by_field else None
