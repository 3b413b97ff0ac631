"""
Columns of a frame that somebody else made: found by name; read as dates, numbers, distinct values.

Dates become local calendar days: a time zone is dropped and the local date kept. Nothing is
guessed: "01/31/2018" has one meaning and is read, "01/02/2018" alone has two and is refused.

The module is over 400 lines because the rules that tell dates from other things stand beside each
other.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
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
    "DateSource",
    "FloatArray",
    "check_not_moved",
    "check_separator",
    "drop_counter",
    "find_dates",
    "find_distinct",
    "find_label",
    "fold_label",
    "read_floats",
    "split_dates",
    "suggest_rename",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.intp]
# Names of a column that holds the dates, where no other is called date or datetime.
DATE_NAMES = (
    *("dates", "day", "days", "time", "timestamp", "datum", "fecha", "tag", "period", "session"),
    *("tradingday", "tradeday", "businessday", "asof", "month", "week", "t", "日期", "日付"),
    *(
        "일자",
        "날짜",
        "дата",
        "data",
        "quarter",
        "unix",
        "ts",
        "opentime",
        "snappedat",
        "windowstart",
    ),
)
# Dates that are not ISO. Two of them may fit a column: "01/02/2018" alone is ambiguous.
DATE_FORMATS = (
    *("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%Y-%m-%d", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%b %d %Y", "%d %B %Y", "%B %d, %Y"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%b-%y", "%y/%m/%d", "%b %Y", "%Y-%m", "%Y%m"),
    *("%a, %d %b %Y", "%a %d %b %Y", "%a %b %d %Y", "%a, %b %d, %Y", "%a %d/%m/%Y", "%a %m/%d/%Y"),
    *("%A, %B %d, %Y", "%A, %d %B %Y", "%b-%d-%Y", "%d. %b %Y", "%d. %B %Y", "%d/%b/%Y", "%d%b%Y"),
    *("%m-%d-%y", "%d-%m-%y", "%y-%m-%d"),
    *("%d %b %y", "%b %d, %y", "%b-%y", "%b %y", "%b-%Y", "%B %Y", "%Y年%m月%d日"),
)
QUARTER = re.compile(r"\d{4}[-\s]?Q[1-4]|Q[1-4][-/\s]?\d{4}")
# What numbers may count since 1970: nanoseconds of one, least and most
EPOCHS = (
    ("seconds", 10**9, 1e8, 1e10),
    ("milliseconds", 10**6, 1e11, 1e13),
    ("microseconds", 10**3, 1e14, 1e16),
    ("nanoseconds", 1, 1e17, 1e19),
)
MAX_LABEL_CHARS = 200  # of a name that is compared
MAX_DATE_CHARS = 40  # longer texts are no dates, and would take seconds
TIME_OF_DAY = re.compile(r"[ T]\d{1,2}:\d\d.*$")
# What numbers for dates may be: least and most, and how they are read
DATE_NUMBERS = (
    (1900, 2200, 'pd.to_datetime({dates}.astype(str), format="%Y")'),
    (20_000, 80_000, 'pd.to_datetime({dates}, unit="D", origin="1899-12-30")'),
)
TICKER_AS_WRITTEN = re.compile(r"[A-Z0-9^][A-Z0-9.\-^=/:&]*")


def fold_label(label: object) -> str:
    """Return the form in which names of columns are compared: "4. Adj Close*" gives "adjclose"."""
    text = re.sub(r"^\s*\d+[a-z]?\.\s*|\(.*?\)", "", str(label)[:MAX_LABEL_CHARS].lower())
    return "".join(sign for sign in text if sign.isalnum())


def find_label(frame: pd.DataFrame, *names: str) -> Any:
    """Return the label of the column that has one of these names, in any case, or None."""
    found = [column for column in frame.columns if str(column).strip().lower() in names]
    if len(found) > 1:
        raise InputError(
            f"the columns {found} mean the same.",
            fix=f"drop one: prices.drop(columns={found[1]!r})",
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
            f"{where} holds lists or other containers, not single values.",
            fix="one value in each row",
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


def split_dates(
    frame: pd.DataFrame, notes: list[str] | None = None, *, base: str = "prices"
) -> tuple[pd.DatetimeIndex, pd.DataFrame]:
    """
    Return the dates of a frame, naive and at midnight, and its other columns.

    Parameters
    ----------
    notes
        Gets a sentence where dates were read that are not ISO.
    base
        The expression of the frame, for what errors suggest.

    Raises
    ------
    InputError
        There are no dates, one of them is missing or is not a date, or time zones are mixed.
    """
    label = find_dates(frame)
    if label is not None:
        _check_header(frame, label)
        rest = frame.drop(columns=[label])
        if rest.columns.empty:
            raise InputError(
                f"the prices have only the column {label!r}.",
                fix="pass a frame: pd.read_csv(..., sep=r'\\s+')"
                if " " in str(label)
                else "add a column for each ticker",
            )
        return _read_dates(frame[label], DateSource(label, base), notes), rest
    if kinds.is_numeric_dtype(frame.index.dtype) and not (
        _has_compact_dates(frame.index) or _find_epoch(frame.index)
    ):
        _check_column_names(frame)
        raise InputError(
            f"the prices have no dates: the index counts {frame.index[0]}, ..., {frame.index[-1]}.",
            fix=suggest_rename(frame, base, "date")
            or 'name the column of dates "date", or set_index() it',
        )
    return _read_dates(frame.index.to_series(), DateSource(None, base), notes), frame.copy()


def _check_header(frame: pd.DataFrame, label: Any) -> None:
    """Refuse a frame whose first row of data became its header."""
    others = [str(one) for one in frame.columns if one != label]
    if _holds_date(label) and all(re.fullmatch(r"-?[\d.,]+", one) for one in others):
        names = ["date", *(f"T{number}" for number in range(1, len(others) + 1))]
        raise InputError(
            f"the prices have no header: their first column is called {show(label)}.",
            fix=f"name the columns: pd.read_csv(..., header=None, names={names[:3]!r}); then use "
            "tickers for T1, ...",
        )


def _check_column_names(frame: pd.DataFrame) -> None:
    """Refuse a frame whose header is a row of numbers."""
    labels = [re.sub(r"\.\d+$", "", str(label)) for label in frame.columns]
    if len(labels) > 1 and all(re.fullmatch(r"-?\d[\d.,eE+]*", label) for label in labels):
        raise InputError(
            f"the prices have no header: their columns are called {', '.join(labels[:4])}.",
            fix="name the columns: pd.read_csv(..., header=None, names=['time', 'open', 'high', "
            "'low', 'close', 'volume'], usecols=range(6)), with your own names",
        )


def find_dates(frame: pd.DataFrame) -> Any:
    """
    Return the label of the column that holds the dates, or None where the index has them.

    The name decides first. to_csv() of a frame whose index has no name comes back with its dates in
    "Unnamed: 0". A column such as "Day" counts only where the index has no dates and the column
    holds no numbers: DAY and TIME are tickers, too. Then the first column of dates counts.
    """
    label = find_label(frame, "date", "datetime")
    if label is not None or isinstance(frame.index, (pd.DatetimeIndex, pd.PeriodIndex)):
        return label
    if "Unnamed: 0" in frame.columns:
        return "Unnamed: 0"
    if not kinds.is_numeric_dtype(frame.index.dtype):
        return None
    texts = [one for one in frame.columns if not kinds.is_numeric_dtype(frame[one].dtype)]
    named = [one for one in texts if _is_date_name(one)]
    dated = [one for one in texts if len(frame) and _holds_date(frame[one].iloc[0])]
    numbers = [
        one
        for one in frame.columns
        if _is_date_name(one) and not _has_compact_dates(frame.index) and one not in texts
    ]
    return next(iter([*(one for one in named if one in dated), *named, *dated, *numbers]), None)


def _is_date_name(label: object) -> bool:
    return fold_label(label) in DATE_NAMES or "date" in str(label).lower()


def _holds_date(value: object) -> bool:
    return _is_iso_date(value) or (
        isinstance(value, str) and bool(value.strip()) and bool(_fit_formats([value]))
    )


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
            'column is right, name the index: prices.rename_axis("index")',
        )
    if len(frame) and _is_split(frame):
        raise InputError(
            f"{what}: the index has no name and holds {show(frame.index[0])}, the column "
            f"{frame.columns[0]!r} holds {show(frame.iloc[0, 0])}: the rows have more fields than "
            "the header.",
            fix="if a decimal comma splits the numbers, save the file with another separator; if "
            'each column is right, name the index: prices.rename_axis("index")',
        )


def check_separator(frame: pd.DataFrame, what: str) -> None:
    """Refuse a frame whose one column holds whole rows: they were split at another sign."""
    if len(frame.columns) == 1 and isinstance(label := frame.columns[0], str):
        # A decimal comma has split the rows, but not the header: their parts became an index
        sign = ";" if isinstance(frame.index, pd.MultiIndex) else ""
        if (other := find_separator(label)) and (
            kinds.is_numeric_dtype(frame.index.dtype) or other in (sign, ";", "\t", "|")
        ):
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


def _is_split(frame: pd.DataFrame) -> bool:
    """
    Return whether the column of dates became an index without a name, and prices stand under its
    name: "150,5" was read as two fields.
    """
    if any(name is not None for name in frame.index.names):
        return False
    first, label = frame.iloc[:, 0], frame.columns[0]
    index = frame.index.get_level_values(0)
    if not kinds.is_numeric_dtype(first.dtype) or not (
        isinstance(index, pd.DatetimeIndex) or _holds_date(index[0])
    ):
        return False
    if _is_date_name(label) and not TICKER_AS_WRITTEN.fullmatch(str(label)):
        return True
    if isinstance(frame.index, pd.MultiIndex):
        return kinds.is_numeric_dtype(frame.index.get_level_values(1).dtype)
    # The parts of "150,5" are whole numbers
    are_whole = len(frame.columns) == 2 and all(map(kinds.is_integer_dtype, frame.dtypes))
    return are_whole and frame.iloc[:, 1].max() < 1000 and _begins_unlike_ticker(frame)


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


@dataclass(frozen=True, slots=True)
class DateSource:
    """Where the dates of a frame stand: in a column, or in the index (None)."""

    label: Any
    base: str = "prices"

    def __str__(self) -> str:
        return "the index" if self.label is None else f"column {self.label!r}"

    @property
    def code(self) -> str:
        """The expression that gives them."""
        return f"{self.base}.index" if self.label is None else f"{self.base}[{self.label!r}]"

    def fix_with(self, dates: str) -> str:
        """Return the expression that puts other dates in their place."""
        if self.label is None:
            return f"{self.base}.set_axis({dates})"
        return f"{self.base}.assign(**{{{self.label!r}: {dates}}})"


def _read_dates(
    values: pd.Series[Any], source: DateSource, notes: list[str] | None
) -> pd.DatetimeIndex:
    """Return local calendar dates, whatever they were written as."""
    if isinstance(values.dtype, pd.PeriodDtype):
        with warnings.catch_warnings():  # pandas is about to drop periods of business days
            warnings.simplefilter("ignore", FutureWarning)
            return _drop_time(pd.PeriodIndex(values).to_timestamp(how="end"))
    if kinds.is_datetime64_any_dtype(values.dtype):
        known = pd.DatetimeIndex(values)
    elif kinds.is_numeric_dtype(values.dtype):
        known = _read_date_numbers(values, source, notes)
    else:
        known = _parse_objects(values, source, notes)
    if known.hasnans:
        rows = np.flatnonzero(known.isna())
        raise InputError(
            f"{source} has {count_noun(len(rows), 'row')} without a date (first: row "
            f"{rows[0] + 1}).",
            fix=f"drop them: {source.base}[[not pd.isna(day) and bool(str(day).strip()) "
            f"for day in {source.code}]]",
        )
    return _drop_time(known)


def _drop_time(index: pd.DatetimeIndex) -> pd.DatetimeIndex:
    # tz_localize(None) keeps the wall clock: a close in New York stays on its own day
    return pd.DatetimeIndex(index.tz_localize(None).normalize().as_unit("us"), name="date")


def _has_compact_dates(values: pd.Index[Any] | pd.Series[Any]) -> bool:
    """Return whether numbers are dates of eight digits, such as 20240131, and nothing else."""
    if not len(values) or not kinds.is_integer_dtype(values.dtype) or values.hasnans:
        return False
    numbers = values.to_numpy(dtype=np.int64)
    if numbers.min() < 19000101 or numbers.max() > 21991231:
        return False
    return bool(
        pd.to_datetime(pd.Series(numbers.astype(str)), format="%Y%m%d", errors="coerce")
        .notna()
        .all()
    )


def _find_epoch(values: pd.Index[Any] | pd.Series[Any]) -> tuple[str, int] | None:
    """Return what numbers count since 1970, and the nanoseconds of one; None if they do not."""
    if not len(values) or values.hasnans or not kinds.is_numeric_dtype(values.dtype):
        return None
    least, most = values.min(), values.max()
    return next(
        ((unit, size) for unit, size, low, high in EPOCHS if low <= least <= most < high), None
    )


def _read_date_numbers(
    values: pd.Series[Any], source: DateSource, notes: list[str] | None
) -> pd.DatetimeIndex:
    if _has_compact_dates(values):
        return pd.DatetimeIndex(
            pd.to_datetime(pd.Series(values.to_numpy(dtype=np.int64).astype(str)), format="%Y%m%d")
        )
    if epoch := _find_epoch(values):
        unit, size = epoch
        if notes is not None:
            notes.append(f"The dates of {source} are read as {unit} since 1970, in UTC.")
        return pd.DatetimeIndex(pd.to_datetime((values.to_numpy() * size).astype(np.int64)))
    first = values.iloc[0]
    meant = next(
        (code for low, high, code in DATE_NUMBERS if low <= values.min() <= values.max() < high),
        'pd.to_datetime({dates}, format="%Y%m%d")',
    )
    raise InputError(
        f"{source} has numbers for dates (first: {first}).",
        fix=source.fix_with(meant.format(dates=source.code)),
    )


def _parse_objects(
    values: pd.Series[Any], source: DateSource, notes: list[str] | None
) -> pd.DatetimeIndex:
    # In long form 500 tickers share their dates: each is read once
    codes, distinct = find_distinct(values, str(source))
    moments = []
    for value in distinct:
        try:
            moments.append(read_moment(value))
        except ValueError:
            moments = _parse_texts(distinct, codes, source, notes)
            break
    _check_zones(moments, source)
    # The last one is for code -1: the missing dates.
    known = np.array([*(moment.date() for moment in moments), None], dtype="datetime64[D]")
    return pd.DatetimeIndex(known[codes].astype("datetime64[us]"))


def _parse_texts(
    distinct: Sequence[object], codes: Codes, source: DateSource, notes: list[str] | None
) -> list[datetime]:
    """Return the moments of texts that are not ISO, if one order of their parts fits all."""
    found = _fit_formats(distinct)
    readings: dict[tuple[datetime, ...], str] = {}
    for name, moments in found.items():
        readings.setdefault(tuple(moments), name)
    if len(readings) == 1:
        ((read, name),) = readings.items()
        if notes is not None:
            notes.append(f"The dates of {source} are read as {_spell(name)} ({show(distinct[0])}).")
        return list(read)
    if readings:
        first, second = [*readings.values()][:2]
        raise InputError(
            f"{source} has dates such as {show(distinct[0])}, which may be {_spell(first)} or "
            f"{_spell(second)}.",
            fix=source.fix_with(f"pd.to_datetime({source.code}, format={second!r})")
            + f", or with {first!r}",
        )
    code, value = (
        next((code, value) for code, value in enumerate(distinct) if not _holds_date(value))
        if any(not _holds_date(value) for value in distinct)
        else (0, distinct[0])
    )
    where = f"{source}, row {np.argmax(codes == code) + 1}: {show(value)} is not a date."
    if not any(map(_holds_date, distinct[:10])):
        raise InputError(
            where,
            fix=source.fix_with(f'pd.to_datetime({source.code}, format="%d %B %Y")')
            + ", with your own format",
        )
    raise InputError(
        where,
        fix="write ISO dates (2019-12-30), or drop the rows without one: "
        f'{source.base}[pd.to_datetime({source.code}, errors="coerce").notna()]',
    )


def _fit_formats(distinct: Sequence[object]) -> dict[str, list[datetime]]:
    """Return each format that fits all the texts, with what it makes of them."""
    if not all(isinstance(value, str) and len(value) <= MAX_DATE_CHARS for value in distinct):
        return {}
    texts = [TIME_OF_DAY.sub("", str(value).strip()) for value in distinct]
    found = {}
    for name in DATE_FORMATS:
        with contextlib.suppress(ValueError):
            found[name] = [datetime.strptime(text, name) for text in texts]  # noqa: DTZ007  # a day has no zone
    if not found and all(map(QUARTER.fullmatch, texts)):
        quarters = [re.sub(r"(Q\d)[-/\s]?(\d{4})", r"\2\1", text) for text in texts]
        found["quarter"] = [pd.Period(quarter, freq="Q").end_time for quarter in quarters]
    return found


def _spell(name: str) -> str:
    """Return a format as a reader writes it: "day/month/year"."""
    words = {"d": "day", "m": "month", "b": "month", "B": "month", "Y": "year", "y": "year"}
    words |= {"a": "weekday", "A": "weekday"}
    return re.sub(r"%(\w)", lambda match: words[match[1]], name)


def _check_zones(moments: Sequence[datetime], source: DateSource) -> None:
    aware = [moment for moment in moments if moment.tzinfo is not None]
    own_days = source.fix_with(f"[str(day)[:10] for day in {source.code}]")
    if aware and len(aware) < len(moments):
        bare = next(moment for moment in moments if moment.tzinfo is None)
        raise InputError(
            f"{source} has dates with a time zone ({aware[0]}) and without ({bare}).",
            fix=f"keep the day that each shows: {own_days}",
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
            f"{source} mixes time zones (UTC{min(hours):+g} to UTC{max(hours):+g}).",
            fix=f"keep the day that each shows: {own_days}",
        )
