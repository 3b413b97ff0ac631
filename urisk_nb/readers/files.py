"""What the user's paths and callables hold: prices and evidence, read from CSV, Parquet, JSON lines
or a folder of texts.

Turns what cannot be read into an error that names the file; what the content means is checked by
the risk core. A file's content is data: nothing is unpickled or evaluated.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError, PackageMissing

__all__ = ["evidence", "prices"]


def prices(given: Any, tickers: list[str]) -> Any:
    """
    The prices as data: a path is read, a callable is given the tickers, anything else is handed on
    as it is.
    """
    if isinstance(given, str | Path):
        return _read_frame(_existing(given, "prices"))
    return given(tickers) if callable(given) else given


def evidence(given: Any, tickers: list[str]) -> Any:
    """
    The evidence as data: a path (file or folder) is read, a callable is given the tickers, anything
    else is handed on.
    """
    if isinstance(given, str | Path):
        path = _existing(given, "evidence")
        if path.is_dir():
            return _read_folder(path)
        return (
            _read_json_lines(path)
            if path.suffix.lower() in (".jsonl", ".ndjson", ".json")
            else _read_frame(path, text=True)
        )
    return given(tickers) if callable(given) else given


def _existing(given: str | Path, what: str) -> Path:
    path = Path(given).expanduser()
    try:
        found = path.exists()
    except (OSError, ValueError):  # too long for a file name: somebody gave the text itself
        found = False
    if not found:
        raise InputError(
            f"{what}: no file or folder {str(given)[:200]!r}.",
            fix=f"check the path; the working directory is {Path.cwd()}",
        )
    return path


def _read_frame(path: Path, *, text: bool = False) -> pd.DataFrame:
    """
    A CSV or Parquet file; evidence is read as text, so that a ticker such as NA or 0700 stays what
    it is.
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
    except InputError:  # a ValueError, too
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
    A CSV file, its fields laid under the header from the left.

    pandas alone would take the first column for an index where rows end in a separator, and every
    figure would move by one column.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:  # a document keeps its own line ends
        content = file.read()
    header = _check_rows(content, separator, path)
    frame = _parse_columns(content, separator, range(len(header)), text)
    for place, name in enumerate(() if text else header):
        # So that NA and 0700 stay what they are among numbers, too
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
    """These columns, also where rows have more fields: usecols cuts off the rest."""
    if text:
        return pd.read_csv(
            StringIO(content),
            sep=separator,
            index_col=False,
            usecols=places,
            dtype=str,
            keep_default_na=False,
        )
    return pd.read_csv(StringIO(content), sep=separator, index_col=False, usecols=places)


def _check_rows(content: str, separator: str, path: Path) -> list[str]:
    """
    The header; InputError for a row with more fields than it, unless the further ones are empty.
    """
    header: list[str] = []
    for line, row in _csv_rows(content, separator):
        if not header:
            header = row
        elif len(row) > len(header) and any(field.strip() for field in row[len(header) :]):
            seen = (
                f"{path.name}, line {line}: {len(row)} fields, where the header has {len(header)}."
            )
            raise InputError(seen, fix=_row_fix(header, separator))
    return header


def _row_fix(header: list[str], separator: str) -> str:
    other = next((sign for sign in ";\t|," if sign != separator and sign in header[0]), None)
    if len(header) == 1 and other:
        return f"pass a frame: pd.read_csv(..., sep={other!r}), with decimal=',' where numbers have a decimal comma"
    return "give every column a name in the header, the one of the dates too, and put quotes around a field that holds a separator"


def _csv_rows(content: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, and the line of the file that it starts at."""
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


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        raise InputError(
            f"{path.name} cannot be read: {exc}.", fix="save it as UTF-8 text"
        ) from exc
    if text.lstrip().startswith("["):
        text = "\n".join(json.dumps(row) for row in _parsed(text, path, 1))
    rows = [
        _parsed(line, path, number)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(
                f"{path.name}: item {number} is {str(row)[:60]!r}, not an object.",
                fix='write one object a line: {"ticker": "NVDA", "text": "..."}',
            )
    return rows


def _parsed(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise InputError(
            f"{path.name}, line {line + exc.lineno - 1}: not JSON ({exc.msg}).",
            fix='write one object a line: {"ticker": "NVDA", "text": "..."}',
        ) from exc


def _read_folder(folder: Path) -> list[dict[str, Any]]:
    """
    Text files named by ticker; the names are listed and compared, no path is built from a ticker.
    """
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".txt", ".md") and path.is_file()
    )
    if not files:
        raise InputError(
            f"{folder} has no .txt or .md file.",
            fix="name one text file for each ticker: NVDA.txt, MSFT.txt",
        )
    try:
        return [
            {"ticker": path.stem, "text": path.read_text(encoding="utf-8"), "source": path.name}
            for path in files
        ]
    except UnicodeError as exc:
        raise InputError(
            f"a file in {folder} is not UTF-8 text: {exc}.", fix="save it as UTF-8"
        ) from exc
