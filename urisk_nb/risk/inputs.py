"""
What a run is given, as records: holdings, prices, documents.

The readers make them of whatever people hand over; the rest of the core sees nothing else. What
makes one company unusable is kept for its row (`Prices.faults`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.tickers import fold_share_class

__all__ = ["SHARED", "Document", "Holding", "Prices", "normalize_weights", "select_documents"]

SHARED = "*"  # the ticker that a document is given for every company


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """
    One line of the ticker list.

    Attributes
    ----------
    symbol
        NFKC, stripped, upper case; matches the ticker rule, so it is safe to show, and is never
        made into a path.
    weight
        As given (negative is short), or None.
    flags
        "duplicate": it was listed again, the first line counts. "no_weight": others have a weight,
        this one has none.
    """

    symbol: str
    weight: float | None = None
    flags: tuple[str, ...] = ()


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
    """

    close: pd.DataFrame
    volume: pd.DataFrame | None = None
    flags: tuple[str, ...] = ()
    is_returns: bool = False
    faults: Mapping[str, Mapping[pd.Timestamp, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
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
        As given, unchanged.
    date
        The local calendar date, or None.
    """

    id: str
    ticker: str | None
    text: str
    date: date | None = None
    source: str | None = None


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
            fix="write weights such as NVDA=0.4, or leave normalise out",
        )
    if abs(total) < 1e-12:
        raise InputError(
            f"the weights sum to {total:g} and cannot be scaled to 1.",
            fix="leave normalise out: net-zero books are used as given",
        )
    return tuple(
        one if one.weight is None else replace(one, weight=one.weight / total) for one in holdings
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
