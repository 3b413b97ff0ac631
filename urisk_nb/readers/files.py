"""
Files as frames and rows: CSV, Excel, Parquet and JSON lines.

What cannot be read is an error that names the file; the other readers say what its content means. A
file's content is data: nothing is unpickled or evaluated.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.readers.csv_files import find_header, is_date, read_csv
from urisk_nb.readers.encodings import read_text

__all__ = [
    "EXCEL_SUFFIXES",
    "PARQUET_SUFFIXES",
    "TABLE_SUFFIXES",
    "find_path",
    "list_named",
    "read_frame",
    "read_json",
    "read_table",
]

JSON_LINES = 'write one object a line: {"ticker": "NVDA", "text": "..."}'
CSV_SUFFIXES = (".csv", ".txt", ".tsv")
EXCEL_SUFFIXES = (".xlsx", ".xlsm")
PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *EXCEL_SUFFIXES, *PARQUET_SUFFIXES)
# What pandas, pyarrow, openpyxl and the modules below them raise for a broken file
UNREADABLE = (
    *(ValueError, OSError, LookupError, TypeError, AttributeError, SyntaxError, OverflowError),
    *(NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error),
)
MAX_UNPACKED_BYTES = 1 << 29  # of an Excel file: a small one may unpack to gigabytes
HEADER_ROWS = 30  # of a sheet in which the header is looked for
MAX_NAMED = 10


def list_named(names: Iterable[str], most: int = MAX_NAMED) -> str:
    """Return the names for a note: never more than ten, then how many more there are."""
    shown = [*names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


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
    Return the frame in a CSV, Excel or Parquet file.

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
        It is Parquet or Excel, and the package for it is not installed.
    """
    return read_table(path, text=text)[0]


def read_table(path: Path, *, text: bool = False) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the frame in a file as `read_frame` does, and notes on what of the file it is not."""
    kind = path.suffix.lower()
    try:
        if kind in PARQUET_SUFFIXES:
            return pd.read_parquet(path), ()
        if kind in CSV_SUFFIXES:
            return read_csv(path, text=text)
        if kind in EXCEL_SUFFIXES:
            return _read_excel(path, text=text)
    except ImportError as exc:
        form, package = ("Excel", "openpyxl") if kind in EXCEL_SUFFIXES else ("Parquet", "pyarrow")
        raise PackageMissing(
            f"{path.name}: reading {form} needs {package}.", fix=f"%pip install {package}"
        ) from exc
    except InputError:  # ours already, and a ValueError as well
        raise
    except UNREADABLE as exc:
        seen = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise InputError(
            f"{path.name} cannot be read: {seen[:200]}.",
            fix="check that it is a CSV with a header line, Excel (.xlsx) or Parquet",
        ) from exc
    raise InputError(
        f"{path.name}: files of type {kind or '(none)'} are not read.",
        fix="save it as .csv, .xlsx or .parquet",
    )


# --- Excel ----------------------------------------------------------------------------------------


def _read_excel(path: Path, *, text: bool) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the first sheet that holds dates and numbers (of evidence: the first with rows)."""
    import openpyxl

    with zipfile.ZipFile(path) as packed:
        if sum(one.file_size for one in packed.infolist()) > MAX_UNPACKED_BYTES:
            raise InputError(
                f"{path.name} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MB.",
                fix="save the sheet as .csv or .parquet",
            )
    with (
        path.open("rb") as file,
        contextlib.closing(openpyxl.load_workbook(file, read_only=True, data_only=True)) as book,
    ):
        names = [sheet.title for sheet in book.worksheets]
        for sheet in book.worksheets:
            rows = _iterate_sheet(sheet.iter_rows(values_only=True))
            first = list(islice(rows, HEADER_ROWS))
            if text or len(names) == 1 or _holds_prices(first):
                break
        else:
            raise InputError(
                f"{path.name}: no sheet has both dates and numbers ({list_named(names)}).",
                fix="give one sheet a column of dates and a column of prices for each ticker",
            )
        frame, skipped = _build_frame([*first, *rows], text=text)
    others = [repr(name) for name in names if name != sheet.title]
    notes = [f"Only the sheet {sheet.title!r} of {path.name} was read, not {list_named(others)}."]
    above = [f"{skipped} rows above the header of {sheet.title!r} were not read."]
    return frame, (*(notes if others else ()), *(above if skipped else ()))


def _iterate_sheet(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[Any]]:
    """Yield the rows that are not empty; "#N/A" and "#N/A N/A" are empty cells."""
    for row in rows:
        cells = [
            None
            if isinstance(cell, str) and (not cell.strip() or cell.startswith("#N/A"))
            else cell
            for cell in row
        ]
        if any(cell is not None for cell in cells):
            yield cells


def _holds_prices(rows: list[list[Any]]) -> bool:
    has_dates = any(is_date(cell) for row in rows for cell in row)
    return has_dates and any(isinstance(cell, (int, float)) for row in rows for cell in row)


def _build_frame(rows: list[list[Any]], *, text: bool) -> tuple[pd.DataFrame, int]:
    """Return the rows under their header, and how many stand above it."""
    skipped = 0 if text else find_header(rows[:HEADER_ROWS])
    rows = rows[skipped:]
    width = max(map(len, rows), default=0)
    filled = [
        place
        for place in range(width)
        if any(len(row) > place and row[place] is not None for row in rows)
    ]
    header = rows[0] if rows else []
    names = [
        str(header[place])
        if place < len(header) and header[place] is not None
        else f"Unnamed: {place}"
        for place in filled
    ]
    columns = [[row[place] if place < len(row) else None for row in rows[1:]] for place in filled]
    _fill_merged_cells(columns)
    if text:
        columns = [["" if cell is None else str(cell) for cell in column] for column in columns]
    frame = pd.DataFrame(dict(enumerate(columns)), dtype=object)
    if not text:
        frame = frame.infer_objects()
    return frame.set_axis(pd.Index(names, dtype=object), axis=1), skipped


def _fill_merged_cells(columns: list[list[Any]]) -> None:
    """Fill the first column where its cells are merged: a date that is written once for all."""
    if len(columns) < 3 or None not in columns[0] or columns[0][:1] == [None]:
        return
    if all(isinstance(cell, str) or is_date(cell) for cell in columns[1]):
        for row in range(1, len(columns[0])):
            if columns[0][row] is None:
                columns[0][row] = columns[0][row - 1]


# --- JSON -----------------------------------------------------------------------------------------


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
