"""The user's evidence as documents: rows of a table, texts by ticker, files, a folder."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.readers.columns import check_not_moved, check_separator, find_label, suggest_rename
from urisk_nb.risk.inputs import SHARED, Document, Evidence
from urisk_nb.risk.tickers import fold_share_class, read_symbol
from urisk_nb.risk.values import (
    describe_type,
    find_closest,
    fold_name,
    is_missing,
    read_moment,
    show,
)

__all__ = ["read_evidence"]

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


def read_evidence(given: object, *, tickers: Sequence[str] = ()) -> Evidence:
    """
    Return the documents of the user's evidence; none is a valid answer.

    Parameters
    ----------
    given
        A frame, a mapping of ticker to texts, a list of mappings, the path of a CSV, Parquet or
        JSON-lines file or of a folder of text files named by ticker, or a callable that is given
        the tickers and returns one of these. Columns or keys: text, ticker (or symbol), and
        optionally date, source, id. The ticker ``*`` counts for all companies. Further columns are
        ignored.
    tickers
        What a callable is given.

    Returns
    -------
    Evidence
        The documents, and what was not used.

    Raises
    ------
    InputError
        A missing column, columns that pandas moved by one, a row without text, a row without a
        ticker, a ticker that is none, a date that is none, the same id twice for one ticker; a file
        that cannot be read.
    PackageMissing
        The file is Parquet and pyarrow is not installed.
    """
    loaded = _load(given, tickers)
    notes: tuple[str, ...] = ()
    if isinstance(loaded, Evidence):
        made, notes = loaded.documents, loaded.notes
    else:
        made = tuple(_make_document(*row) for row in _iterate_rows(loaded))
    documents = sorted(
        made,
        key=lambda one: (
            one.date or date.min,
            one.source or "",
            one.text,
            one.ticker or "",
            one.id,
        ),
    )
    counts = Counter((one.id, one.ticker) for one in documents if one.id)
    if twice := next((key for key, count in counts.items() if count > 1), None):
        raise InputError(
            f"two documents for {twice[1] or SHARED} have the id {show(twice[0])}.",
            fix="give each its own id, or leave the ids out",
        )
    # "E1", "E2", ... for those without an id, clear of the ids that are taken.
    taken = {one.id for one in documents}
    free = (name for number in itertools.count(1) if (name := f"E{number}") not in taken)
    return Evidence(
        documents=tuple(one if one.id else replace(one, id=next(free)) for one in documents),
        notes=notes,
    )


def _load(given: Any, tickers: Sequence[str]) -> object:
    if not isinstance(given, str | Path):
        return given(list(tickers)) if callable(given) else given
    from urisk_nb.readers.documents import read_documents
    from urisk_nb.readers.files import find_path, read_frame, read_json_lines

    documents = read_documents(given, tickers=tickers)
    if documents is not None:
        return documents
    path = find_path(given, "evidence")
    if path.suffix.lower() in JSON_SUFFIXES:
        return read_json_lines(path)
    return read_frame(path, text=True)


def _iterate_rows(data: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield each (where it stands, its cells by name), whatever shape the evidence came in."""
    if isinstance(data, pd.DataFrame):
        yield from _iterate_frame(data)
    elif isinstance(data, Mapping):
        for ticker, texts in data.items():
            what = f"evidence of {show(ticker)}"
            items = [texts] if isinstance(texts, (str, Mapping)) else _check_list(texts, what)
            for where, cells in _iterate_items(items, what):
                _check_same_ticker(ticker, cells.get("ticker"), where)
                yield where, {**cells, "ticker": ticker}
    else:
        yield from _iterate_items(_check_list(data, "the evidence"), "evidence")


def _check_same_ticker(key: object, own: object, where: str) -> None:
    """Refuse an item that names another company than the key that it stands under."""
    if is_missing(own) or is_missing(key):  # a key that is none has an error of its own
        return
    if fold_share_class(str(own)) != fold_share_class(str(key)):
        raise InputError(
            f"{where} has the ticker {show(own)}, but stands under {show(key)}.",
            fix=f"move it under {show(own)}, or leave its ticker out",
        )


def _iterate_items(items: Sequence[object], what: str) -> Iterator[tuple[str, dict[str, object]]]:
    for number, item in enumerate(items, 1):
        where = f"{what}, item {number}"
        yield where, _read_item(item, where)


def _check_list(data: object, what: str) -> list[object]:
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise InputError(
            f"{what} is {describe_type(data)}, not a frame, a mapping or a list.",
            fix='evidence={"NVDA": ["..."]}, a list of dicts, or a DataFrame with ticker and text',
        )
    return list(data)


def _read_item(item: object, where: str) -> dict[str, object]:
    if not isinstance(item, Mapping):
        return {"text": item}
    cells = {str(key).strip().lower(): value for key, value in item.items()}
    if "symbol" in cells:
        if "ticker" in cells:
            raise InputError(
                f"{where}: the keys 'ticker' and 'symbol' mean the same.", fix="leave one out"
            )
        cells["ticker"] = cells.pop("symbol")
    for name in ("text", "ticker"):
        # The close name says more than "no ticker" would.
        if name not in cells and (near := find_closest(name, cells, 1)):
            raise InputError(
                f"{where} has no {name!r}, but {near[0]!r}.", fix=f"rename {near[0]!r} to {name!r}"
            )
    return cells


def _iterate_frame(frame: pd.DataFrame) -> Iterator[tuple[str, dict[str, object]]]:
    check_separator(frame, "the evidence")
    check_not_moved(frame, "the evidence")
    labels = {name: find_label(frame, name) for name in ("text", "date", "source", "id")} | {
        "ticker": find_label(frame, "ticker", "symbol")
    }
    for name in ("ticker", "text"):
        if labels[name] is None:
            shared = f"; the ticker {SHARED!r} counts for all companies"
            raise InputError(
                f"the evidence has no column {name!r}, only "
                f"{', '.join(map(repr, frame.columns)) or 'none'}.",
                fix=suggest_rename(frame, "evidence", name)
                or f"add the column {name!r}{shared if name == 'ticker' else ''}",
            )
    columns = {
        name: frame[label].astype(object).tolist()
        for name, label in labels.items()
        if label is not None
    }
    for number in range(len(frame)):
        yield (
            f"evidence, row {number + 1}",
            {name: cells[number] for name, cells in columns.items()},
        )


def _make_document(where: str, cells: Mapping[str, object]) -> Document:
    text, source = cells.get("text"), cells.get("source")
    if is_missing(text) or not isinstance(text, str):
        seen = "no text" if is_missing(text) else f"{describe_type(text)} ({show(text)}) for a text"
        raise InputError(
            f"{where} has {seen}.", fix='drop such rows: evidence.dropna(subset=["text"])'
        )
    return Document(
        id=_read_id(cells.get("id")),
        ticker=_read_ticker(cells.get("ticker"), where),
        text=text,
        date=_read_date(cells.get("date"), where),
        source=None if is_missing(source) else str(source).strip(),
    )


def _read_ticker(value: object, where: str) -> str | None:
    """
    Return the company's symbol, or None for all companies.

    An empty cell is neither: pandas makes one of the ticker NA.
    """
    if is_missing(value):
        raise InputError(
            f"{where} has no ticker.",
            fix=f"write its ticker, or {SHARED!r} if it counts for all companies; pandas reads the "
            "ticker NA with keep_default_na=False",
        )
    is_shared = isinstance(value, str) and fold_name(value) == SHARED
    return None if is_shared else read_symbol(value, where)


def _read_id(value: object) -> str:
    if is_missing(value):
        return ""
    # A column of numbers with one hole comes as floats: 7.0 was 7.
    return (
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    )


def _read_date(value: object, where: str) -> date | None:
    if is_missing(value):
        return None
    try:
        return read_moment(value).date()
    except ValueError as exc:
        raise InputError(
            f"{where}: {show(value)} is not a date.",
            fix="write ISO dates (2019-12-30), or leave the date empty",
        ) from exc
