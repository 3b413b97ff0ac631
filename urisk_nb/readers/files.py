"""
Files as frames and rows: CSV, Parquet and JSON lines.

What cannot be read is an error that names the file; the other readers say what its content means. A
file's content is data: nothing is unpickled or evaluated.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.readers.encodings import read_text
from urisk_nb.risk.values import count_noun, find_separator, fix_separator, read_moment, show

__all__ = ["find_path", "read_frame", "read_json"]

JSON_LINES = 'write one object a line: {"ticker": "NVDA", "text": "..."}'


def find_path(given: str | Path, what: str) -> Path:
    """Return the path of a file or folder; InputError, beginning with `what`, if there is none."""
    path = Path(given).expanduser()
    with contextlib.suppress(OSError, ValueError):  # too long for a name: it is the text itself
        if path.exists():
            return path
    raise InputError(
        f"{what}: no file or folder {str(given)[:200]!r}.",
        fix=f"check the path; the working directory is {Path.cwd()}",
    )


def read_frame(path: Path, *, text: bool = False) -> pd.DataFrame:
    """
    Return the frame in a CSV or Parquet file.

    Parameters
    ----------
    text
        All cells of a CSV are text, as in evidence; else its numbers are numbers. A ticker such as
        NA or 0700 stays what it is either way.

    Raises
    ------
    InputError
        The file cannot be read, or a row has more fields than the header, or fewer than the others.
    PackageMissing
        It is Parquet and pyarrow is not installed.
    """
    kind = path.suffix.lower()
    try:
        if kind in (".parquet", ".pq"):
            return pd.read_parquet(path)
        if kind in (".csv", ".txt", ".tsv"):
            return _read_csv(path, "\t" if kind == ".tsv" else ",", text)
    except ImportError as exc:
        raise PackageMissing(
            f"{path.name}: reading Parquet needs pyarrow.", fix="%pip install pyarrow"
        ) from exc
    except InputError:  # ours already, and a ValueError as well
        raise
    except (ValueError, OSError, UnicodeError) as exc:
        raise InputError(
            f"{path.name} cannot be read: {str(exc).splitlines()[0][:200]}.",
            fix="check that it is a UTF-8 CSV with a header line, or Parquet",
        ) from exc
    raise InputError(
        f"{path.name}: files of type {kind or '(none)'} are not read.",
        fix="save it as .csv or .parquet",
    )


def _read_csv(path: Path, separator: str, text: bool) -> pd.DataFrame:
    """
    Lay the fields of a CSV file under its header, from the left.

    pandas alone would take the first column for an index where rows end in a separator, and every
    figure would move by one column.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:  # a document keeps its own line ends
        content = file.read()
    header = _check_rows(content, separator, path, text)
    frame = _parse_columns(content, separator, range(len(header)), text)
    for place, name in enumerate(() if text else header):
        # NA and 0700 stay what they are, among numbers too.
        if name.strip().lower() in ("ticker", "symbol"):
            frame[frame.columns[place]] = _parse_columns(
                content, separator, range(place, place + 1), True
            ).iloc[:, 0]
    last_name = max((place for place, name in enumerate(header) if name.strip()), default=0)
    nameless = [frame.columns[place] for place in range(last_name + 1, len(header))]
    return frame.drop(
        columns=[label for label in nameless if (frame[label].isna() | (frame[label] == "")).all()]
    )


def _parse_columns(content: str, separator: str, places: range, text: bool) -> pd.DataFrame:
    """Read these columns, also where rows have more fields: usecols cuts off the rest."""
    return pd.read_csv(
        StringIO(content),
        sep=separator,
        index_col=False,
        usecols=places,
        dtype=str if text else None,
        keep_default_na=not text,
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
            fix=f"fill in the missing field, or leave it empty between two {separator!r}",
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


def read_json(path: Path) -> Any:
    """
    Return what a JSON file holds: one value, or a list of the values of JSON lines.

    A line that is no JSON is an InputError in the place of its value, if another line is JSON.

    Raises
    ------
    InputError
        The file cannot be read, or holds no JSON.
    """
    text = read_text(path).removeprefix("\ufeff")
    if not text.strip():
        raise InputError(f"{path.name} is empty.", fix=JSON_LINES)
    value = _parse_json(text, path, 1)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not isinstance(value, InputError):
        return value if isinstance(value, (list, dict)) else _check_objects([value], path)
    values = [_parse_json(line, path, number) for number, line in lines]
    if not any(isinstance(one, dict) for one in values):  # one broken value over several lines
        raise value
    return _check_objects(values, path)


def _check_objects(rows: list[Any], path: Path) -> list[Any]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, (dict, InputError)):
            raise InputError(
                f"{path.name}: item {number} is {str(row)[:60]!r}, not an object.", fix=JSON_LINES
            )
    return rows


def _parse_json(text: str, path: Path, line: int) -> Any:
    """Return the value of a text, or the error that it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        line, said = line + exc.lineno - 1, exc.msg
    except (ValueError, RecursionError) as exc:  # a number of 5,000 digits, 5,000 brackets
        said = str(exc)
    return InputError(
        f"{path.name}, line {line}: not JSON ({said}).",
        fix=JSON_LINES,
        reason="not JSON",
        is_lost=True,
    )
