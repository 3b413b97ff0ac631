"""
Whole documents: text, HTML, PDF and Word files, filings as EDGAR and edgar-crawler give them.

A file's name or its folder says whom it is about, else the trading symbol on its cover. A single
file that cannot be read is an error; in a folder it is left out and named in a note, and so is
every other file that is not used. Files are opened for reading only; nothing in them is executed
or fetched. Rules: docs/documents.md. Over 400 lines: a third are its errors and notes in words.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

from urisk_nb.errors import InputError, UriskError
from urisk_nb.readers.file_content import (
    KINDS,
    FileContent,
    FileMapper,
    find_suffix,
    is_filing_json,
    list_names,
    read_content,
    read_in_turn,
)
from urisk_nb.readers.file_names import find_named_day, find_owners, guess_ticker, is_edgar_name
from urisk_nb.readers.filing_cover import base_form, estimate_filing_date
from urisk_nb.risk.inputs import SHARED, Document, Evidence
from urisk_nb.risk.tickers import read_symbol
from urisk_nb.risk.values import count_noun, fold_name

__all__ = ["holds_json_rows", "is_document", "read_document", "read_documents", "read_folder"]

MAX_NAMES = 10  # files that a note names; the rest are counted
MAX_PERIOD_DAYS = 7  # nobody files a report so soon: a fiscal year ends on a Saturday near 31 May
MAX_FILES = 10_000  # in a folder with its subfolders
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".pq", ".xlsx", ".xls", ".jsonl", ".ndjson")
JSON_ROWS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*\"")  # under the name .txt
# What people have beside the forms that are read, and the way out.
OTHER_KINDS = {
    ".doc": "an old Word file; save it as .docx",
    ".rtf": "rich text; save it as .docx",
    ".odt": "an OpenDocument file; save it as .docx",
    ".ppt": "slides; save them as PDF",
    ".pptx": "slides; save them as PDF",
    ".zip": "an archive; unpack it",
    ".epub": "an e-book; save it as PDF",
    ".eml": "a mail; save it as .txt",
    ".msg": "a mail; save it as .txt",
    **dict.fromkeys(TABLE_SUFFIXES, "a table; pass it alone"),
}


def read_documents(
    given: str | Path, *, tickers: Sequence[str] = (), map_files: FileMapper = read_in_turn
) -> Evidence | None:
    """
    Return the documents of a file, a folder or a glob pattern, or of ``NVDA=path``.

    Parameters
    ----------
    given
        ``filings/``, ``filings/**/*.htm``, ``NVDA_10K.pdf`` or ``NVDA=note.md``. The folder or
        file after ``NVDA=`` is the company's, whatever its name.
    tickers
        The tickers of the cell.
    map_files
        Who reads the files of a folder.

    Returns
    -------
    Evidence or None
        None where it is the path of a table, or of nothing: another reader knows what it is.

    Raises
    ------
    InputError
        A single file cannot be read, or nobody can tell whom the documents are about.
    """
    path = Path(given).expanduser()
    if not _exists(path) and isinstance(given, str):
        name, sign, rest = given.partition("=")
        if sign and name.strip():
            ticker, place = _read_own_ticker(name), rest.strip()
            if not _exists(Path(place).expanduser()) and not _is_pattern(place):
                raise InputError(
                    f"evidence: no file or folder {place[:200]!r} for {ticker}.",
                    fix=f"check the path; the working directory is {Path.cwd()}",
                )
            found = _read_place(place, tickers, ticker, map_files)
            if found is None:
                raise InputError(
                    f"evidence: {place} is a table, and its rows name their companies.",
                    fix=f"pass it alone: --evidence {place}",
                )
            return found
    return _read_place(given, tickers, None, map_files)


def _read_place(
    given: str | Path, tickers: Sequence[str], ticker: str | None, map_files: FileMapper
) -> Evidence | None:
    path = Path(given).expanduser()
    if not _exists(path):
        if not _is_pattern(given):
            return None
        return _read_pattern(path, tickers, ticker, map_files)
    if path.is_dir():
        return read_folder(path, tickers=tickers, ticker=ticker, map_files=map_files)
    return read_document(path, ticker=ticker, tickers=tickers) if is_document(path) else None


def _exists(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # too long for a name
        return path.exists() or path.is_symlink()
    return False


def _is_pattern(given: str | Path) -> bool:
    return any(sign in str(given) for sign in "*?[") and len(str(given)) < 1000


def _read_own_ticker(name: str) -> str:
    return SHARED if fold_name(name) == SHARED else read_symbol(name.strip(), "evidence")


def is_document(path: Path) -> bool:
    """
    Return whether a file is read as a document; a table of rows is not.

    A .txt file with a header of a ticker and a text column is a table, and so is a .json file that
    is no filing of edgar-crawler.
    """
    suffix = find_suffix(path)
    if suffix in TABLE_SUFFIXES:
        return False
    if suffix == ".json":
        try:
            return is_filing_json(path)
        except UriskError:
            return False
    if suffix in (".txt", ".text") and path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            line = file.readline(2000)
            return not (_is_table_header(line) or JSON_ROWS.match(line))
    return True


def holds_json_rows(path: Path) -> bool:
    """Return whether a text file begins as objects in JSON do."""
    with path.open("rb") as file:
        return JSON_ROWS.match(file.readline(2000)) is not None


def _is_table_header(line: bytes) -> bool:
    names = {
        name.strip(" \"'\ufeff").lower()
        for name in re.split(r"[,;\t|]", line.decode("utf-8", "replace").strip())
    }
    return bool(names & {"ticker", "symbol", "stock"}) and bool(
        names & {"text", "title", "headline", "body", "summary", "content"}
    )


def read_document(
    path: Path, *, ticker: str | None = None, tickers: Sequence[str] = ()
) -> Evidence:
    """
    Return the document in one file.

    Parameters
    ----------
    path
        A .txt, .md, .html, .htm, .xhtml, .pdf or .docx file, a .json file of edgar-crawler, or one
        of these packed by gzip. What its content is decides where the name says otherwise.
    ticker
        Whom it is about; ``*`` is every company. Without it the name of the file or of its folder
        says so, else the trading symbol on its cover.
    tickers
        The tickers of the cell: only these are looked for.

    Raises
    ------
    InputError
        It cannot be read, is too large, has no text, or nobody can tell whom it is about.
    PackageMissing
        A package of the extra ``documents`` is needed.
    """
    with _name_file(path.name):
        content = read_content(path)
    places = [_find_stem(path), *path.parts[-2:-5:-1]]
    owners = [ticker] if ticker else find_owners(places, content.symbols, tickers)
    if not owners:
        names = f"tickers of the cell ({', '.join(tickers[:5])})" if tickers else "ticker"
        raise InputError(
            f"{path.name}: neither its name nor its text has {'one of the ' if tickers else 'a '}"
            f"{names}.",
            fix=f'name the company: --evidence "{(tickers or ("NVDA",))[0]}={path}"',
        )
    documents, estimated = _make_documents(path.name, _find_stem(path), content, owners)
    return Evidence(
        documents=documents,
        notes=_list_notes(
            [_Read(path.name, content.notes, content.tables_left_out)], [path.name] * estimated
        ),
    )


def read_folder(
    folder: Path,
    *,
    tickers: Sequence[str] = (),
    ticker: str | None = None,
    map_files: FileMapper = read_in_turn,
) -> Evidence:
    """
    Return the documents in the files of a folder and its subfolders, by name.

    The names are listed and compared; no path is built from a ticker. A folder that is reached
    twice by links is read once.

    Parameters
    ----------
    tickers
        The tickers of the cell: a file of another one is left out and named.
    ticker
        Whom all of them are about.
    map_files
        Who reads the files; default: this process, one after the other.

    Returns
    -------
    Evidence
        The notes name each file that was not read, with the reason.

    Raises
    ------
    InputError
        There is no document, or nobody can tell whom one is about, and no other can be used; more
        than 10,000 files.
    """
    return _read_files(folder, str(folder), _walk(folder), tickers, ticker, map_files=map_files)


def _read_pattern(
    path: Path, tickers: Sequence[str], ticker: str | None, map_files: FileMapper
) -> Evidence:
    root = Path(path.anchor) if path.is_absolute() else Path()
    pattern = str(path.relative_to(root)) if path.is_absolute() else str(path)
    try:
        found = [one for one in sorted(root.glob(pattern)) if one.is_file()]
    except (ValueError, OSError, NotImplementedError) as exc:
        raise InputError(
            f"evidence: {str(path)!r} is not a pattern: {exc}.", fix="write 'filings/*.htm'"
        ) from exc
    if not found:
        raise InputError(
            f"evidence: no file matches {str(path)!r}.",
            fix=f"check the pattern; the working directory is {Path.cwd()}",
        )
    base = Path(os.path.commonpath([one.parent for one in found]))
    return _read_files(base, str(path), found, tickers, ticker, map_files=map_files)


def _walk(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, each folder once."""
    seen: set[tuple[int, int]] = set()
    files: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        try:
            status = Path(place).stat()
        except OSError:
            folders.clear()
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files.extend(Path(place) / name for name in sorted(names))
        if len(files) > MAX_FILES:
            raise InputError(
                f"{folder} has more than {MAX_FILES:,} files.", fix="name a smaller folder"
            )
    return sorted(files)


def _read_files(
    root: Path,
    given: str,
    files: Sequence[Path],
    tickers: Sequence[str],
    ticker: str | None,
    *,
    map_files: FileMapper,
) -> Evidence:
    documents: list[Document] = []
    left_out: list[tuple[str, str]] = []  # the file, and why
    nameless: list[Path] = []
    read: list[_Read] = []
    estimated: list[str] = []
    missing: tuple[str, UriskError] | None = None
    reasons = [_find_reason(path) for path in files]
    contents = map_files([path for path, why in zip(files, reasons, strict=True) if why is None])
    for path, reason in zip(files, reasons, strict=True):
        name = path.relative_to(root).as_posix()
        if reason is not None:
            left_out.append((name, reason))
            continue
        content = next(contents)
        if isinstance(content, UriskError):
            left_out.append((name, content.message.rstrip(".")))
            missing = missing or (name, content)
            continue
        parents = [*path.relative_to(root).parts[-2::-1], root.absolute().name]
        # filings/NVDA/2025/ is NVDA's folder; further up only the very name of a ticker counts
        parents += [part for part in root.absolute().parts[-2:-4:-1] if part in tickers]
        owners = (
            [ticker]
            if ticker
            else find_owners([_find_stem(path), *parents], content.symbols, tickers)
        )
        if not owners:
            if not tickers or not guess_ticker(
                [_find_stem(path), *path.relative_to(root).parts[-2::-1]]
            ):
                nameless.append(path)
            why = "no ticker of the cell" if tickers else "no ticker in its name or text"
            left_out.append((name, why))
            continue
        made, is_estimated = _make_documents(name, _find_stem(path), content, owners)
        documents += made
        read.append(_Read(name, content.notes, content.tables_left_out))
        estimated += [name] * is_estimated
    if not documents:
        _refuse(given, nameless, missing, tickers, left_out)
    notes = _list_notes(read, estimated)
    if left_out:
        notes = (_name_left_out(given, left_out), *notes)
    return Evidence(documents=tuple(documents), notes=notes)


def _refuse(
    given: str,
    nameless: Sequence[Path],
    missing: tuple[str, UriskError] | None,
    tickers: Sequence[str],
    left_out: Sequence[tuple[str, str]],
) -> None:
    """Raise where nothing of a folder can be used and the user can mend it."""
    name = (tickers or ("NVDA",))[0]
    if nameless:
        path = nameless[0]
        raise InputError(
            f"{path.name}: neither its name nor its text has "
            + ("one of the tickers of the cell." if tickers else "a ticker."),
            fix=f'rename it to {name}_{path.name}, or write --evidence "{name}={path}"',
        )
    if missing is not None:
        file, fault = missing
        with _name_file(file):
            raise fault
    if not any(reason == "no ticker of the cell" for _, reason in left_out):
        raise InputError(
            f"{given} has no .txt, .md, .html, .pdf or .docx file"
            + (f" ({_name_left_out(given, left_out)})" if left_out else "")
            + ".",
            fix="name one file for each ticker: NVDA.txt, MSFT_10-K.htm, AMD.pdf",
        )


def _find_reason(path: Path) -> str | None:
    """Return why a file of a folder is not opened, or None."""
    if path.name.startswith((".", "~$")):
        return "hidden"
    suffix = find_suffix(path)
    if suffix == ".json":
        return None if is_document(path) else "a table; pass it alone"
    if suffix in KINDS:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                return "not a file"
        except OSError as exc:
            return exc.strerror or str(exc)
        return None if is_document(path) else "a table; pass it alone"
    return OTHER_KINDS.get(suffix, "not a document")


def _find_stem(path: Path) -> str:
    stem = Path(path.stem)
    return stem.stem if path.suffix.lower() == ".gz" and stem.suffix.lower() in KINDS else stem.name


# --- notes ----------------------------------------------------------------------------------------


def _name_left_out(given: str, left_out: Sequence[tuple[str, str]]) -> str:
    """Return the sentence that names each file that was not read, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out:
        reasons.setdefault(reason, []).append(name)
    shown, budget = [], MAX_NAMES
    for reason, names in reasons.items():
        if budget > 0:
            shown.append(f"{', '.join(names[:budget])} ({reason})")
            budget -= len(names[:budget])
    rest = len(left_out) - MAX_NAMES
    was = "was" if len(left_out) == 1 else "were"
    return (
        f"{count_noun(len(left_out), 'file')} of {given} {was} not read: {', '.join(shown)}"
        + (f" and {rest} more" if rest > 0 else "")
        + "."
    )


class _Read(NamedTuple):
    """What is told of a file that was read; its text is in its documents."""

    name: str
    notes: tuple[str, ...]
    tables_left_out: int


def _list_notes(read: Sequence[_Read], estimated: Sequence[str]) -> tuple[str, ...]:
    notes = [f"{one.name}: {note}." for one in read for note in one.notes]
    if len(notes) > MAX_NAMES:
        notes = [*notes[:MAX_NAMES], f"{len(notes) - MAX_NAMES} more such notes."]
    if tables := sum(one.tables_left_out for one in read):
        of = count_noun(sum(bool(one.tables_left_out) for one in read), "document")
        was = "was" if tables == 1 else "were"
        notes.append(f"{count_noun(tables, 'table')} without a sentence {was} left out of {of}.")
    if estimated:
        states = "states" if len(estimated) == 1 else "state"
        notes.append(
            f"{count_noun(len(estimated), 'filing')} {states} no filing date; the SEC deadline is "
            f"used as the date: {list_names(estimated)}."
        )
    return tuple(notes)


def _make_documents(
    name: str, stem: str, content: FileContent, owners: Sequence[str]
) -> tuple[tuple[Document, ...], bool]:
    """Return a document for each owner, and whether its date is an estimate."""
    is_page = name.lower().removesuffix(".gz").endswith((".htm", ".html", ".xhtml"))
    day, is_estimated = _find_day(stem, content, is_page)
    return tuple(
        Document(
            id="",
            ticker=None if fold_name(owner) == SHARED else read_symbol(owner, name),
            text=content.source.text,
            date=day,
            source=name,
            form=content.form,
            sections=content.sections,
            period_end=content.period_end,
            origins=content.source.origins,
        )
        for owner in owners
    ), is_estimated


def _find_day(stem: str, content: FileContent, is_page: bool) -> tuple[date | None, bool]:
    """
    Return the day from which a document counts, and whether it is an estimate.

    Of a filing that is the stated filing date, else a date in its name that is not the end of its
    period, else the date of its signatures, else the last day on which it had to be filed: a date
    that is too early would be look-ahead.
    """
    if content.filed:
        return content.filed, False
    named = find_named_day(stem)
    base = base_form(content.form)
    if base is None and is_page and is_edgar_name(stem):
        base = "10-K"
    is_filing = base in ("10-K", "10-Q", "20-F", "40-F", "8-K", "6-K")
    end = content.period_end
    if named and is_filing and (is_edgar_name(stem) or _names_period(named, end, base)):
        end, named = end or named, None
    if named and is_filing and content.signed and named < content.signed:
        named = None  # nothing is filed before it is signed
    if named and not (is_filing and end and named < end):
        return named, False
    if is_filing and content.signed:
        return content.signed, False
    if is_filing and end:
        return estimate_filing_date(end, base), True
    return content.dated, False


def _names_period(named: date, end: date | None, base: str | None) -> bool:
    """Return whether the day in a name is the end of the period, or near it: "10-K_2024-12-31"."""
    if base not in ("10-K", "10-Q", "20-F", "40-F"):
        return named == end
    if end is None:  # filed on the last day of a quarter, or for it: in doubt the later day counts
        return (named + timedelta(days=1)).day == 1 and named.month % 3 == 0
    return abs(named - end) <= timedelta(days=MAX_PERIOD_DAYS)


@contextlib.contextmanager
def _name_file(name: str) -> Iterator[None]:
    """Begin the message of an error with the file's name."""
    try:
        yield
    except UriskError as exc:
        exc.message = f"{name}: {exc.message}"
        exc.args = (exc.message,)
        raise
