"""Files of prices: one file, or a folder or pattern with one file a ticker."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.readers.files import (
    EXCEL_SUFFIXES,
    PARQUET_SUFFIXES,
    TABLE_SUFFIXES,
    find_path,
    list_named,
    read_table,
)
from urisk_nb.risk.tickers import fold_listing, fold_share_class
from urisk_nb.risk.values import count_noun

__all__ = ["Loaded", "PriceFile", "begin_fix", "find_file_ticker", "list_file_names", "load_prices"]

# What stands beside a ticker in the name of a file, all in upper case
FILE_WORDS = {
    *("DAILY", "WEEKLY", "MONTHLY", "D", "W", "M", "1D", "1W", "1WK", "1M", "1MO", "EOD", "OHLC"),
    *(
        "OHLCV",
        "PRICE",
        "PRICES",
        "HIST",
        "HISTORY",
        "HISTORICAL",
        "DATA",
        "QUOTES",
        "CLOSE",
        "ADJ",
    ),
    *("ADJUSTED", "STOCK", "MAX", "1Y", "2Y", "5Y", "10Y", "FULL", "US"),
}
DATE_PART = re.compile(r"(19|20)\d\d(\d\d)?(\d\d)?|\d{1,2}")


@dataclass(frozen=True, slots=True)
class PriceFile:
    """A file that is read when its turn comes, so that its fault is its own."""

    path: Path

    def read(self) -> pd.DataFrame:
        """Return its frame; notes on parts of a file are left to the single file."""
        return read_table(self.path)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """
    What a path holds.

    Attributes
    ----------
    parts
        Pairs of a ticker and its `PriceFile`; of a single file its frame.
    is_many
        It is a folder or a pattern.
    """

    parts: Sequence[tuple[str, object]]
    is_many: bool
    notes: tuple[str, ...] = ()


def load_prices(given: str | Path, tickers: Sequence[str]) -> Loaded:
    """
    Return the tables of a file, a folder or a pattern such as ``prices/*.csv``.

    Raises
    ------
    InputError
        There is nothing, or nothing that can be a table.
    """
    path = Path(given).expanduser()
    if not _exists(path) and has_magic(str(given)):
        return _load_many(_match(path), str(given), tickers)
    if re.match(r"https?:", str(given)):
        raise InputError(
            f"prices: {str(given)[:200]!r} is a web address; nothing is fetched from the web.",
            fix="fetch it yourself and pass the frame: pd.read_csv('https://...')",
        )
    path = find_path(given, "prices")
    if path.is_dir():
        return _load_many(sorted(path.iterdir()), f"{path.name}/", tickers)
    frame, notes = read_table(path)
    return Loaded(parts=[("", frame)], is_many=False, notes=notes)


def _exists(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return path.exists()
    return False


def _match(pattern: Path) -> list[Path]:
    """Return the paths that a pattern matches; only what stands in it is looked through."""
    parts = pattern.parts
    fixed = next(place for place, part in enumerate(parts) if has_magic(part))
    folder = Path(*parts[:fixed]) if fixed else Path()
    with contextlib.suppress(OSError, ValueError):
        return sorted(folder.glob(str(Path(*parts[fixed:]))))
    return []


def _load_many(paths: Sequence[Path], where: str, tickers: Sequence[str]) -> Loaded:
    paths = [path for path in paths if not path.name.startswith(".")]
    tables = [path for path in paths if path.suffix.lower() in TABLE_SUFFIXES and path.is_file()]
    if not tables:
        raise InputError(
            f"prices: {where} has no file of prices ({', '.join(TABLE_SUFFIXES)}), only "
            f"{list_named(path.name for path in paths) or 'nothing'}.",
            fix="put one file a ticker there, such as NVDA.csv, or give the path of one file",
        )
    parts: list[tuple[str, object]] = [
        (find_file_ticker(path, tickers), PriceFile(path)) for path in tables
    ]
    others = [path.name for path in paths if path not in set(tables)]
    note = (
        f"{count_noun(len(others), 'file')} of {where} "
        f"{'was' if len(others) == 1 else 'were'} not read: {list_named(others)} (not a table)."
    )
    return Loaded(parts=parts, is_many=True, notes=(note,) if others else ())


def begin_fix(error: InputError, path: Path) -> InputError:
    """Return the error with a fix that first reads the file, where its code is about a frame."""
    if not error.fix or "prices" not in error.fix:
        return error
    name = f"{str(path)!r}"
    code = f"pd.read_csv({name}, sep=None, engine='python')"
    if path.suffix.lower() in EXCEL_SUFFIXES:
        code = f"pd.read_excel({name})"
    elif path.suffix.lower() in PARQUET_SUFFIXES:
        code = f"pd.read_parquet({name})"
    return InputError(error.message, fix=f"prices = {code}, and then: {error.fix}")


def find_file_ticker(path: Path, tickers: Sequence[str]) -> str:
    """
    Return the ticker that a file is named by: one of the list if the name has it, else the name
    without words such as "daily" and without dates.
    """
    stem = path.stem.upper().strip()
    own = {fold_share_class(ticker): ticker for ticker in tickers}
    own |= {form: ticker for ticker in tickers if (form := fold_listing(ticker)) not in own}
    words = [word for word in re.split(r"[_\s,]+", stem) if word]
    pieces = [word for word in re.split(r"[_\s,.\-]+", stem) if word]
    for form in (stem, stem.replace("_", "."), *words, *pieces):
        for name in (fold_share_class(form), fold_listing(form)):
            if name in own:
                return own[name]
    kept = [
        word
        for word in re.split(r"[_\s,]+|-(?=(?:19|20)\d\d|[A-Z]{3,})", stem)
        if word and word not in FILE_WORDS and not all(map(DATE_PART.fullmatch, word.split("-")))
    ]
    return re.sub(r"\.US$", "", "_".join(kept)) or stem


def list_file_names(given: str | Path) -> tuple[str, ...]:
    """Return the names in files of prices: those of the files, or the columns of a single one."""
    try:
        loaded = load_prices(given, ())
    except InputError:
        return ()
    if loaded.is_many:
        return tuple(name for name, _ in loaded.parts)
    frame = loaded.parts[0][1]
    if not isinstance(frame, pd.DataFrame):
        return ()
    names = [str(label) for label in frame.columns]
    for label in frame.columns:
        if str(label).strip().lower() in ("ticker", "symbol"):
            names += frame[label].dropna().astype(str).unique().tolist()
    return tuple(names)
