"""What the user's paths and callables hold: prices and evidence, read from CSV, Parquet, JSON lines or a folder of texts.

Turns what cannot be read into an error that names the file; what the content means is checked by the risk core. A file's content
is data: nothing is unpickled or evaluated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError, PackageMissing

__all__ = ["evidence", "prices"]


def prices(given: Any, tickers: list[str]) -> Any:
    """The prices as data: a path is read, a callable is given the tickers, anything else is handed on as it is."""
    if isinstance(given, str | Path):
        return _read_frame(_existing(given, "prices"))
    return given(tickers) if callable(given) else given


def evidence(given: Any, tickers: list[str]) -> Any:
    """The evidence as data: a path (file or folder) is read, a callable is given the tickers, anything else is handed on."""
    if isinstance(given, str | Path):
        path = _existing(given, "evidence")
        if path.is_dir():
            return _read_folder(path)
        return _read_json_lines(path) if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _read_frame(path, text=True)
    return given(tickers) if callable(given) else given


def _existing(given: str | Path, what: str) -> Path:
    path = Path(given).expanduser()
    try:
        found = path.exists()
    except (OSError, ValueError):  # too long for a file name: somebody gave the text itself
        found = False
    if not found:
        raise InputError(f"{what}: no file or folder {str(given)[:200]!r}.", fix=f"check the path; the working directory is {Path.cwd()}")
    return path


def _read_frame(path: Path, *, text: bool = False) -> pd.DataFrame:
    """A CSV or Parquet file; evidence is read as text, so that a ticker such as NA or 0700 stays what it is."""
    kind = path.suffix.lower()
    try:
        if kind in (".parquet", ".pq"):
            return pd.read_parquet(path)
        if kind in (".csv", ".txt", ".tsv"):
            return _read_csv(path, "\t" if kind == ".tsv" else ",", text)
    except ImportError as exc:
        raise PackageMissing(f"{path.name}: reading Parquet needs pyarrow.", fix="%pip install pyarrow") from exc
    except (ValueError, OSError, UnicodeError) as exc:
        raise InputError(
            f"{path.name} cannot be read: {str(exc).splitlines()[0][:200]}.",
            fix="check that it is a UTF-8 CSV with a header line, or Parquet",
        ) from exc
    raise InputError(f"{path.name}: files of type {kind or '(none)'} are not read.", fix="save it as .csv or .parquet")


def _read_csv(path: Path, separator: str, text: bool) -> pd.DataFrame:
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False) if text else pd.read_csv(path, sep=separator)


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        raise InputError(f"{path.name} cannot be read: {exc}.", fix="save it as UTF-8 text") from exc
    if text.lstrip().startswith("["):
        text = "\n".join(json.dumps(row) for row in _parsed(text, path, 1))
    rows = [_parsed(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
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
    """Text files named by ticker; the names are listed and compared, no path is built from a ticker."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".txt", ".md") and path.is_file())
    if not files:
        raise InputError(f"{folder} has no .txt or .md file.", fix="name one text file for each ticker: NVDA.txt, MSFT.txt")
    try:
        return [{"ticker": path.stem, "text": path.read_text(encoding="utf-8"), "source": path.name} for path in files]
    except UnicodeError as exc:
        raise InputError(f"a file in {folder} is not UTF-8 text: {exc}.", fix="save it as UTF-8") from exc
