"""
CSV files as frames, whatever separates their fields.

pandas alone would take the first column for an index where rows end in a separator, and every
figure would move by one column. So the rows are checked before pandas sees them.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types as kinds

from urisk_nb.errors import InputError
from urisk_nb.readers.encodings import read_text
from urisk_nb.risk.values import count_noun, find_separator, fix_separator, read_moment, show

__all__ = ["find_header", "is_date", "read_csv"]

SEPARATORS = (",", ";", "\t", "|")
SAMPLE_CHARS, SAMPLE_ROWS = 1 << 16, 30  # what is looked at to find the separator
TICKER_NAMES = ("ticker", "symbol")
# Beside a price these hold tickers, too: texts, and NA or 0700 stays what it is
OTHER_TICKER_NAMES = (
    *("tickers", "symbols", "tic", "ric", "instrument", "security", "ts_code", "asset", "sid"),
    *("stock", "code", "secid", "isin", "variable", "permno", "cusip", "sedol", "figi"),
)
LEVEL_NAMES = ("", "price", "ticker", "tickers", "symbol", "symbols", "attributes")
# A cell such as "1.234,56", "1 234.5" or "$187.15": pandas cannot read it as a number, or reads it
# wrong beside others that it cannot read.
MAX_NUMBER_CHARS = 60
WRITTEN_DATE = re.compile(
    r"\s*([A-Za-z]{3,9},? )?"
    r"(\d{4}[-/.年]\d\d?[-/.月]\d\d?日?"
    r"|\d\d?[-/. ](\d\d?|[A-Za-z]{3,9})\.?[-/. ](\d\d|\d{4})"
    r"|[A-Za-z]{3,9}[- ]\d\d?,?[- ]\d{4}|\d{4}[- ]?Q[1-4]|(19|20)\d{6})([ T]\d.*)?\s*"
)
MARKED_NUMBER = re.compile(
    r"\s*([A-Z]{3}\s*)?[-+(]{0,2}[$€£¥₩₹]?\s*\d[\d.,'’\s]*[%KMB]?\)?%?\s*([$€£¥₩₹]|[A-Z]{3})?\s*"
)


def read_csv(path: Path, *, text: bool) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """
    Return the frame in a CSV file, and notes on what was not read.

    Parameters
    ----------
    text
        All cells are text, as in evidence; else its numbers are numbers.

    Raises
    ------
    InputError
        It holds no text; a row has more fields than the header, or fewer than the others; a name
        stands twice in the header of prices.
    ValueError
        pandas or the csv module cannot read it.
    """
    content = read_text(path)
    notes = []
    separator, content = _split_hint(content, "\t" if path.suffix.lower() == ".tsv" else ",")
    if not text:
        content = _mark_blanks(content, separator)
    if not text and (skipped := _find_preamble(content, separator)):
        notes.append(
            f"{count_noun(skipped, 'line')} above the header of {path.name} "
            f"{'was' if skipped == 1 else 'were'} not read."
        )
        content = "".join(StringIO(content, newline="").readlines()[skipped:])
    header = _check_rows(content, separator, path, text)
    frame = _parse_columns(content, separator, range(len(header)), text)
    if not text:
        _check_names(content, separator, header, path)
        if any(_holds_marked_numbers(frame[label]) for label in frame):
            texts = _parse_columns(content, separator, range(len(header)), True, keeps_na=False)
            for label in frame:
                if not kinds.is_integer_dtype(frame[label].dtype):
                    frame[label] = texts[label]
    if not text:
        _keep_tickers(frame, content, separator, header)
    last_name = max((place for place, name in enumerate(header) if name.strip()), default=0)
    nameless = [frame.columns[place] for place in range(last_name + 1, len(header))]
    frame = frame.drop(
        columns=[label for label in nameless if (frame[label].isna() | (frame[label] == "")).all()]
    )
    return frame if text else _drop_blank_rows(frame), tuple(notes)


def _keep_tickers(frame: pd.DataFrame, content: str, separator: str, header: Sequence[str]) -> None:
    """Put tickers in as they are written: NA and 0700 are no hole and no number."""
    for place, name in enumerate(header):
        if name.strip(" <>").lower() in (*TICKER_NAMES, *OTHER_TICKER_NAMES):
            frame[frame.columns[place]] = _parse_columns(
                content, separator, range(place, place + 1), True
            ).iloc[:, 0]


def _drop_blank_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the blank rows that a sheet is saved with."""
    if not len(frame) or not _find_blank(frame.tail(1)).all():
        return frame
    return frame[~_find_blank(frame)].reset_index(drop=True)


def _find_blank(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    return (rows.isna() | (rows == "")).all(axis=1).to_numpy(dtype=bool)


def _split_hint(content: str, usual: str) -> tuple[str, str]:
    """Return the separator, and the table without a first line that names it."""
    if hint := re.match(r'"?sep=(.)"?\r?\n', content):  # Excel writes and reads it
        return hint[1], content[hint.end() :]
    return _find_csv_separator(content, usual), content


def _parse_columns(
    content: str, separator: str, places: range, text: bool, *, keeps_na: bool = True
) -> pd.DataFrame:
    """Read these columns, also where rows have more fields: usecols cuts off the rest."""
    return pd.read_csv(
        StringIO(content),
        sep=separator,
        index_col=False,
        usecols=places,
        dtype=str if text else None,
        keep_default_na=not (text and keeps_na),
    )


def _holds_marked_numbers(column: pd.Series[Any]) -> bool:
    if kinds.is_numeric_dtype(column.dtype):
        return False
    cells = column.dropna().map(str)
    return any(
        len(cell) <= MAX_NUMBER_CHARS and MARKED_NUMBER.fullmatch(cell) and not is_date(cell)
        for cell in islice(cells.unique(), 200)
    )


def find_header(rows: Sequence[Sequence[object]]) -> int:
    """
    Return which of the first rows is the header: the one above the first row with a date.

    Rows above it count as a remark only if they have fewer fields; else 0.
    """
    widths = [
        max((place for place, cell in enumerate(row, 1) if _has_value(cell)), default=0)
        for row in rows
    ]
    for place in range(len(rows) - 1):
        is_header = widths[place] == widths[place + 1] >= 2 or (
            widths[place] >= 2 and widths[place + 1] >= 2
        )
        if any(map(is_date, rows[place])):
            if widths[place] == max(widths):
                return 0
            continue  # "Start Date", 1/1/2024
        if is_header and any(map(is_date, rows[place + 1])):
            filled = [sum(map(_has_value, row)) for row in rows[: place + 1]]
            # Of a header with levels the first cells are empty, or name the levels
            is_level = str(rows[place][0] or "").strip().lower() in LEVEL_NAMES
            are_remarks = all(
                one < filled[-1] or str(row[0]).lstrip().startswith("#")
                for one, row in zip(filled[:-1], rows, strict=False)
            )
            if not are_remarks or is_level:
                return 0
            # A row of tickers above the fields, with an empty cell above the dates
            above = range(place - 1, -1, -1)
            return next(
                (row + 1 for row in above if filled[row] < 2 or _has_value(rows[row][0])), 0
            )
    return 0


def _has_value(cell: object) -> bool:
    return cell is not None and bool(str(cell).strip())


def is_date(cell: object) -> bool:
    """Return whether a cell is a date, or a text that is written like one."""
    if isinstance(cell, str):
        return bool(WRITTEN_DATE.fullmatch(cell))
    try:
        read_moment(cell)
    except ValueError:
        return False
    return True


# --- the separator --------------------------------------------------------------------------------


def _find_csv_separator(content: str, usual: str) -> str:
    """
    Return the sign that splits the header: the only one that does, else the one that splits the
    rows in as many fields and lets one begin with a date, else the usual one.
    """
    rows = {sign: _sample_rows(content, sign) for sign in SEPARATORS}
    candidates: list[str] = []
    for count in (3, SAMPLE_ROWS):  # further down only below lines that nothing splits
        candidates = candidates or [
            sign
            for sign, found in rows.items()
            if max(map(_count_fields, found[:count]), default=0) > 1
        ]
    if len(candidates) <= 1:
        return candidates[0] if candidates else usual
    named = [sign for sign in candidates if _count_fields(rows[sign][0]) > 1]
    if len(named) == 1:
        return named[0]
    even = [sign for sign in candidates if len({*map(_count_fields, rows[sign])}) == 1]
    dated = [
        sign for sign in even or candidates if any(any(map(is_date, row)) for row in rows[sign][1:])
    ]
    return next(
        (sign for sign in (usual, *SEPARATORS) if sign in (dated or even or candidates)), usual
    )


def _mark_blanks(content: str, separator: str) -> str:
    """Return a table whose fields only blanks separate with the separator between them."""
    lines = [line.split() for line in content[:SAMPLE_CHARS].splitlines()[:SAMPLE_ROWS]]
    lines = [line for line in lines[:-1] if line] or lines
    if (
        separator in content[:SAMPLE_CHARS]
        or len({*map(len, lines)}) != 1
        or len(lines[0]) < 2
        or not any(is_date(line[0]) for line in lines)
    ):
        return content
    return re.sub(r"[^\S\r\n]+", separator, re.sub(r"(?m)^[^\S\r\n]+|[^\S\r\n]+$", "", content))


def _count_fields(row: Sequence[str]) -> int:
    return max((place for place, field in enumerate(row, 1) if field.strip()), default=0)


def _sample_rows(content: str, separator: str) -> list[list[str]]:
    sample = content[:SAMPLE_CHARS]
    try:
        rows = [row for _, row in islice(_iterate_csv(sample, separator), SAMPLE_ROWS)]
    except ValueError:
        return []
    # The last row of a sample may be cut
    return (
        rows[:-1]
        if len(rows) > 1 and len(sample) < len(content) and len(rows) < SAMPLE_ROWS
        else rows
    )


def _find_preamble(content: str, separator: str) -> int:
    """Return how many lines stand above the header."""
    found = list(islice(_iterate_csv(content[:SAMPLE_CHARS], separator), SAMPLE_ROWS))
    place = find_header([row for _, row in found])
    return found[place][0] - 1 if place else 0


# --- the rows -------------------------------------------------------------------------------------


def _check_names(content: str, separator: str, header: Sequence[str], path: Path) -> None:
    """Refuse two columns of one name, unless the next row is a second header."""
    names = Counter(name.strip() for name in header if name.strip())
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is None:
        return
    below = next((row for _, row in islice(_iterate_csv(content, separator), 1, 2)), [""])
    if any(map(is_date, below)):
        raise InputError(
            f"{path.name}: the header has {twice!r} more than once.",
            fix="give each column its own name, or delete one",
        )


def _check_rows(content: str, separator: str, path: Path, text: bool) -> list[str]:
    """
    Return the header; refuse a row with more fields than it, unless the further ones are empty, and
    a row with fewer fields than others have: any of its fields may be the missing one.
    """
    header: list[str] = []
    full = 0
    short: dict[int, int] = {}  # the first line of each number of fields
    for line, row in _iterate_csv(content, separator):
        if not header:
            header = row
        elif len(row) > len(header) and any(field.strip() for field in row[len(header) :]):
            seen = (
                f"{path.name}, line {line}: {len(row)} fields, where the header has {len(header)}."
            )
            raise InputError(seen, fix=_row_fix(header, separator))
        else:
            full = max(full, len(row))
            # In evidence only further columns of this row may be left out, see below
            if len(row) < len(header) and not (text and _ends_clearly(header, row)):
                short.setdefault(len(row), line)
    named = max((place for place, name in enumerate(header, 1) if name.strip()), default=0)
    expected = min(named, full)
    if named == 1 and (other := find_separator(header[0], other_than=separator)):
        raise InputError(
            f"{path.name}: the header has one field, {show(header[0])}, which {other!r} splits.",
            fix=fix_separator(other),
        )
    if lines := [(line, count) for count, line in short.items() if count < expected]:
        line, count = min(lines)
        raise InputError(
            f"{path.name}, line {line}: {count_noun(count, 'field')}, where the header has "
            f"{named}.",
            fix=f"fill in the missing field, leave it empty between two {separator!r}, or delete "
            "the line",
        )
    return header


def _ends_clearly(header: list[str], row: list[str]) -> bool:
    """
    Return whether a short row of evidence only leaves out columns at its end.

    So it is where it holds nothing but ticker and text, or ends in a date under the name of dates.
    Else the missing field may be one before, and the others stand under a wrong name.
    """
    names = [name.strip().lower() for name in header[: len(row)]]
    if "text" not in names or not {"ticker", "symbol"} & set(names):
        return False
    if len(names) == 2:
        return True
    if names[-1] != "date":
        return False
    try:
        read_moment(row[-1])
    except ValueError:
        return False
    return True


def _row_fix(header: list[str], separator: str) -> str:
    other = find_separator(header[0], other_than=separator)
    if len(header) == 1 and other:
        return fix_separator(other)
    return (
        "give every column a name in the header, the one of the dates too, and put quotes around a "
        "field that holds a separator"
    )


def _iterate_csv(content: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, and the line of the file that it starts at."""
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(content)))  # a document may be one field
    try:
        rows = csv.reader(StringIO(content, newline=""), delimiter=separator)
        line = 1
        for row in rows:
            if len(row) > 1 or any(field.strip() for field in row):
                yield line, row
            line = rows.line_num + 1
    except csv.Error as exc:
        raise ValueError(str(exc)) from exc
    finally:
        csv.field_size_limit(limit)
