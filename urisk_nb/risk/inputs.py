"""
What a run is given, as records: holdings, prices, documents.

The readers make them of whatever people hand over; the rest of the core sees nothing else. What
makes one company unusable is kept for its row (`Prices.faults`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Literal

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.packed_text import PackedText, TextField, find_stored
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.tickers import build_resolver, fold_share_class

__all__ = [
    "SHARED",
    "Document",
    "Evidence",
    "Holding",
    "Prices",
    "Section",
    "describe_repeats",
    "describe_unlisted",
    "describe_weights",
    "normalize_weights",
    "select_documents",
]

MAX_NAMED = 10  # names in a note
MAX_GROSS = 10  # weights that sum to more, signs aside, were probably meant as per cent
MAX_WEIGHT_ERROR = 0.005  # weights that were rounded to whole per cent still sum to 1
SHARED = "*"  # the ticker that a document is given for every company


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """
    One ticker of the list.

    Attributes
    ----------
    symbol
        NFKC, stripped, upper case; matches the ticker rule, so it is safe to show, and is never
        made into a path.
    weight
        As given (negative is short), or None. Of several lines their sum.
    flags
        "duplicate": it was listed again, also in another spelling. "no_weight": others have a
        weight, this one has none.
    lines
        The spelling and the weight of each line, where there are several; else empty.
    """

    symbol: str
    weight: float | None = None
    flags: tuple[str, ...] = ()
    lines: tuple[tuple[str, float | None], ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """
    Prices as read: one column a ticker, one row a date.

    Attributes
    ----------
    close
        float64; the index is naive, at midnight, sorted and without duplicates; NaN where there was
        no price.
    volume
        The same shape, or None.
    flags
        "unsorted": the rows came in another order.
    is_returns
        The values are simple returns, not prices.
    faults
        Column -> date -> what stood there instead of a number (NaN in `close`). Such a column is a
        row with status bad_data.
    price_column
        The name of the column or level that the values were read from where several were offered
        ("Adj Close"), else None.
    is_adjusted
        Whether that column is adjusted for splits and dividends; None where nothing says so.
    notes
        What was not used, and what was chosen, one sentence each.
    """

    close: pd.DataFrame
    volume: pd.DataFrame | None = None
    flags: tuple[str, ...] = ()
    is_returns: bool = False
    faults: Mapping[str, Mapping[pd.Timestamp, str]] = field(default_factory=dict)
    price_column: str | None = None
    is_adjusted: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """
    A part of a document: an item of a filing, a page of a PDF file.

    Attributes
    ----------
    name
        As a reader would cite it: "Item 1A", "page 3".
    title
        "Risk Factors"; empty where there is none.
    start
        Offset into the document's text; the section ends where the next one starts.
    """

    name: str
    title: str = ""
    start: int


@dataclass(frozen=True, kw_only=True)  # no slots: one of them would take the place of `text`
class Document:
    """
    One piece of the user's evidence.

    Attributes
    ----------
    id
        As given, else "E1", "E2", ... in the order of (date, source, text, ticker), so that the
        order of the rows changes nothing.
    ticker
        Upper case; None counts for every company (it was given as ``*``).
    text
        As given, unchanged. A long one is kept packed: it takes a millisecond to read.
    date
        The local calendar date, or None.
    kind
        "text" is split into sentences. "news" is a row of a news table: a headline is a sentence,
        whether or not it has a verb.
    form
        The form type of a filing ("10-K", "8-K"), or None.
    sections
        In the order of their start; empty where none was recognised.
    period_end
        The end of the period that a filing is about, or None.
    origins
        Pairs (offset into `text`, offset into the source) at which a stretch of unchanged text
        begins, sorted. Empty: `text` is the source.
    """

    id: str
    ticker: str | None
    text: TextField = TextField()  # noqa: RUF009  a descriptor, and no default
    period_end: date | None = None
    date: date | None = None
    source: str | None = None
    kind: Literal["text", "news"] = "text"
    form: str | None = None
    sections: tuple[Section, ...] = ()
    origins: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    @property
    def length(self) -> int:
        """The number of characters of `text`, which is not unpacked for it."""
        stored = find_stored(self, "text")
        return stored.length if isinstance(stored, PackedText) else len(stored)

    @property
    def text_key(self) -> object:
        """What is equal for equal texts, and small; it is not the text."""
        return find_stored(self, "text")

    def section_at(self, offset: int) -> Section | None:
        """Return the section that holds the character at an offset into `text`, or None."""
        place = bisect_right(self.sections, offset, key=lambda section: section.start)
        return self.sections[place - 1] if place else None

    def find_origin(self, offset: int) -> int:
        """Return where the character at an offset into `text` stands in the source."""
        place = bisect_right(self.origins, offset, key=lambda pair: pair[0])
        if not place:
            return offset
        start, origin = self.origins[place - 1]
        return origin + offset - start


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """
    The user's evidence as read.

    Attributes
    ----------
    documents
        Sorted by (date, source, text, ticker), undated first.
    notes
        What was not used: files, columns, rows. One sentence each.
    """

    documents: tuple[Document, ...]
    notes: tuple[str, ...] = ()


def normalize_weights(holdings: Sequence[Holding]) -> tuple[Holding, ...]:
    """
    Return the holdings with weights that sum to 1: w_i / sum(w). Those without a weight stay so.

    Raises
    ------
    InputError
        No weight was given, or they sum to 0 (a net-zero book has no such scale).
    """
    total = math.fsum(one.weight for one in holdings if one.weight is not None)
    if all(one.weight is None for one in holdings):
        raise InputError(
            "normalise was asked for, but no ticker has a weight.",
            fix="write weights such as NVDA=0.4, or leave normalise out (in a cell: --normalise)",
        )
    if abs(total) < 1e-12:
        raise InputError(
            f"the weights sum to {total:g} and cannot be scaled to 1.",
            fix="leave normalise out (in a cell: --normalise): net-zero books are used as given",
        )
    return tuple(
        one if one.weight is None else replace(one, weight=one.weight / total) for one in holdings
    )


def describe_weights(holdings: Sequence[Holding]) -> str | None:
    """Return a note on weights that do not sum to 1; None where they do, or none was given."""
    weights = [one.weight for one in holdings if one.weight is not None]
    total = math.fsum(weights)
    if not weights or abs(total - 1) <= MAX_WEIGHT_ERROR:
        return None
    gross = math.fsum(map(abs, weights))
    beside = f" ({gross:.4g} without signs)" if abs(gross - abs(total)) > MAX_WEIGHT_ERROR else ""
    way_out = (
        " normalise=True (--normalise in a cell) scales them to 1."
        if abs(total) > MAX_WEIGHT_ERROR
        else ""
    )
    if gross > MAX_GROSS:
        first = next(one for one in holdings if one.weight)
        way_out += f" If they are per cent, write {first.symbol}={first.weight:g}%, and so on."
    return f"The weights sum to {total:.4g}{beside}, not 1; they are used as given.{way_out}"


def describe_repeats(holdings: Sequence[Holding]) -> list[str]:
    """Return a note on each ticker that several lines mean, if they have weights or spellings."""
    told = [
        one
        for one in holdings
        if one.lines and (one.weight is not None or len({name for name, _ in one.lines}) > 1)
    ]
    notes = list(map(_describe_repeat, told[:MAX_NAMED]))
    more = len(told) - len(notes)
    verb = "ticker is" if more == 1 else "tickers are"
    return [*notes, f"{more} more {verb} listed more than once."] if more > 0 else notes


def _describe_repeat(one: Holding) -> str:
    """Say which lines one ticker is made of: no money is added or dropped in silence."""
    if one.weight is None:
        names = ", ".join(name for name, _ in one.lines)
        return f"{one.symbol} is listed {len(one.lines)} times ({names}): this is one row."
    weights = ", ".join(
        f"{name} {'without weight' if weight is None else f'{100 * weight:.6g}%'}"
        for name, weight in one.lines
    )
    return (
        f"{one.symbol} is listed {len(one.lines)} times ({weights}): this is one position of "
        f"{100 * one.weight:.6g}%. If you want one of these lines only, remove the others."
    )


def describe_unlisted(
    prices: Prices, holdings: Sequence[Holding], *beside: str | None
) -> str | None:
    """
    Return a note on columns of the prices that no ticker of the list means; None if there are none.

    Parameters
    ----------
    beside
        Benchmark and factors: columns that are used, too; None is skipped.
    """
    column_of = build_resolver([str(column) for column in prices.close.columns])
    names = [*(holding.symbol for holding in holdings), *filter(None, beside)]
    used = {column_of(name)[0] for name in names}
    unused = [column for column in map(str, prices.close.columns) if column not in used]
    if not unused:
        return None
    more = f" and {len(unused) - MAX_NAMED} more" if len(unused) > MAX_NAMED else ""
    are, noun = ("is", "column") if len(unused) == 1 else ("are", "columns")
    return (
        f"{len(unused)} {noun} of the prices {are} not in the list: "
        f"{', '.join(unused[:MAX_NAMED])}{more}."
    )


def select_documents(
    documents: Sequence[Document],
    holding: Holding,
    params: RiskParams,
    *,
    as_of: date | None = None,
) -> tuple[tuple[Document, ...], tuple[str, ...]]:
    """
    Return a company's own documents and the shared ones up to the date, and flags for the rest.

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
        by another spelling of its share class.
    """
    cut = params.as_of or (as_of.date() if isinstance(as_of, datetime) else as_of)
    chosen, flags = [], set()
    company = fold_share_class(holding.symbol)
    for one in documents:
        if one.ticker is not None and fold_share_class(one.ticker) != company:
            continue
        if one.date is None and params.as_of is not None:
            flags.add("undated")
        elif one.date is not None and cut is not None and one.date > cut:
            flags.add("future_evidence")
        else:
            chosen.append(one)
            flags |= {"alias"} if one.ticker not in (None, holding.symbol) else set()
    return tuple(chosen), tuple(sorted(flags))
