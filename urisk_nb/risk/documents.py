"""
The user's evidence as documents: read from a frame, a mapping or a list, and given to the companies
that they are about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.prices import label_of
from urisk_nb.risk.tickers import Holding, as_symbol, twin
from urisk_nb.risk.values import closest, is_missing, kind, read_moment, show, upper

__all__ = ["SHARED", "Document", "documents_for", "read_evidence"]

SHARED = "*"  # the ticker of a document that counts for every company


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """
    One piece of the user's evidence.

    Attributes
    ----------
    ident
        As given, else "E1", "E2", ... in the order of (date, source, text, ticker), so that the
        order of the rows changes nothing.
    ticker
        Upper case; None counts for every company (it was given as ``*``).
    text
        As given, unchanged.
    date
        The local calendar date, or None.
    """

    id: str
    ticker: str | None
    text: str
    date: date | None = None
    source: str | None = None


def read_evidence(data: object) -> tuple[Document, ...]:
    """
    The documents of a frame, a mapping ticker -> texts, or a list of mappings or texts; none is a
    valid answer.

    Parameters
    ----------
    data
        Columns or keys: text, ticker, and optionally date, source, id. The ticker ``*`` counts for
        all companies. Further columns are ignored.

    Returns
    -------
    tuple of Document
        Sorted by (date, source, text, ticker), undated first.

    Raises
    ------
    InputError
        A missing column, a row without text, a row without a ticker, a ticker that is none, a date
        that is none, the same id twice for one ticker.
    """
    documents = sorted((_document(*row) for row in _evidence_rows(data)), key=_document_order)
    taken = {one.id for one in documents}
    names = (
        name for number in range(1, 2 * len(documents) + 1) if (name := f"E{number}") not in taken
    )
    named = tuple(one if one.id else replace(one, id=next(names)) for one in documents)
    seen: set[tuple[str, str | None]] = set()
    for one in named:
        if (one.id, one.ticker) in seen:
            whose = f"for {one.ticker or SHARED}"
            raise InputError(
                f"two documents {whose} have the id {show(one.id)}.",
                fix="give each its own id, or leave the ids out",
            )
        seen.add((one.id, one.ticker))
    return named


def documents_for(
    documents: Sequence[Document],
    holding: Holding,
    params: RiskParams,
    *,
    as_of: date | None = None,
) -> tuple[tuple[Document, ...], tuple[str, ...]]:
    """
    A company's own documents and the shared ones, cut at the as-of date, and what was left out as
    flags.

    Parameters
    ----------
    as_of
        The date of the run when `params.as_of` does not say it (the last date of the prices).

    Returns
    -------
    documents
        In the order given. Both spellings of a share class are the company's own.
    flags
        "undated": documents without a date were left out, since `params.as_of` was given.
        "future_evidence": documents after the date were left out. "alias": a document was matched
        by the twin of its ticker.
    """
    cut = params.as_of or (as_of.date() if isinstance(as_of, datetime) else as_of)
    chosen, flags = [], set()
    for one in documents:
        if one.ticker is not None and twin(one.ticker) != twin(holding.symbol):
            continue
        if one.date is None and params.as_of is not None:
            flags.add("undated")
        elif one.date is not None and cut is not None and one.date > cut:
            flags.add("future_evidence")
        else:
            chosen.append(one)
            flags |= {"alias"} if one.ticker not in (None, holding.symbol) else set()
    return tuple(chosen), tuple(sorted(flags))


def _document_order(one: Document) -> tuple[str, str, str, str, str]:
    return (
        one.date.isoformat() if one.date else "",
        one.source or "",
        one.text,
        one.ticker or "",
        one.id,
    )


def _evidence_rows(data: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Each (where it stands, its cells by name), whatever shape the evidence came in."""
    if isinstance(data, pd.DataFrame):
        yield from _frame_rows(data)
    elif isinstance(data, Mapping):
        for ticker, texts in data.items():
            what = f"evidence of {show(ticker)}"
            items = [texts] if isinstance(texts, (str, Mapping)) else _sequence(texts, what)
            yield from (
                (where, {**cells, "ticker": ticker}) for where, cells in _item_rows(items, what)
            )
    else:
        yield from _item_rows(_sequence(data, "the evidence"), "evidence")


def _item_rows(items: Sequence[object], what: str) -> Iterator[tuple[str, dict[str, object]]]:
    for number, item in enumerate(items, 1):
        where = f"{what}, item {number}"
        yield where, _item_cells(item, where)


def _sequence(data: object, what: str) -> list[object]:
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        fix = 'evidence={"NVDA": ["..."]}, a list of dicts, or a DataFrame with ticker and text'
        raise InputError(f"{what} is {kind(data)}, not a frame, a mapping or a list.", fix=fix)
    return list(data)


def _item_cells(item: object, where: str) -> dict[str, object]:
    if not isinstance(item, Mapping):
        return {"text": item}
    cells = {str(key).strip().lower(): value for key, value in item.items()}
    for name in ("text", "ticker"):
        # A misspelt "ticker" would make the text evidence against every company.
        if name not in cells and (near := closest(name, cells, 1)):
            raise InputError(
                f"{where} has no {name!r}, but {near[0]!r}.", fix=f"rename {near[0]!r} to {name!r}"
            )
    return cells


def _frame_rows(frame: pd.DataFrame) -> Iterator[tuple[str, dict[str, object]]]:
    labels = {name: label_of(frame, name) for name in ("text", "date", "source", "id")} | {
        "ticker": label_of(frame, "ticker", "symbol")
    }
    for name in ("ticker", "text"):
        if labels[name] is None:
            near = closest(name, map(str, frame.columns), 1)
            fix = (
                f"evidence.rename(columns={{{near[0]!r}: {name!r}}})"
                if near
                else f"add the column {name!r}"
            )
            fix += (
                ""
                if near or name == "text"
                else f"; the ticker {SHARED!r} counts for all companies"
            )
            raise InputError(
                f"the evidence has no column {name!r}, only "
                f"{', '.join(map(repr, frame.columns)) or 'none'}.",
                fix=fix,
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


def _document(where: str, cells: Mapping[str, object]) -> Document:
    text, ticker, source = cells.get("text"), cells.get("ticker"), cells.get("source")
    if is_missing(text) or not isinstance(text, str):
        seen = "no text" if is_missing(text) else f"{kind(text)} ({show(text)}) for a text"
        raise InputError(
            f"{where} has {seen}.", fix='drop such rows: evidence.dropna(subset=["text"])'
        )
    return Document(
        id=_document_id(cells.get("id")),
        ticker=_ticker(ticker, where),
        text=text,
        date=_document_date(cells.get("date"), where),
        source=None if is_missing(source) else str(source).strip(),
    )


def _ticker(value: object, where: str) -> str | None:
    """
    The company's symbol; None for all companies. An empty cell is neither: pandas makes one of the
    ticker NA.
    """
    if is_missing(value):
        fix = f"write its ticker, or {SHARED!r} if it counts for all companies; pandas reads the ticker NA with keep_default_na=False"
        raise InputError(f"{where} has no ticker.", fix=fix)
    if isinstance(value, str) and upper(value) == SHARED:
        return None
    return as_symbol(value, where)


def _document_id(value: object) -> str:
    if is_missing(value):
        return ""
    # A column of numbers with one hole comes as floats: 7.0 was 7.
    return (
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    )


def _document_date(value: object, where: str) -> date | None:
    if is_missing(value):
        return None
    try:
        return read_moment(value).date()
    except ValueError as exc:
        raise InputError(
            f"{where}: {show(value)} is not a date.",
            fix="write ISO dates (2019-12-30), or leave the date empty",
        ) from exc
