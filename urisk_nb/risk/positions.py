"""
The positions of a portfolio, and their returns on the dates that all of them have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.market import Calendar, Market, compute_changes, find_calendar
from urisk_nb.risk.metrics import FloatArray, quiet
from urisk_nb.risk.quant import Measured

__all__ = [
    "PORTFOLIO",
    "JointReturns",
    "Position",
    "find_positions",
    "join_returns",
    "list_closes",
    "name_some",
]

PORTFOLIO = "portfolio"  # the row of the portfolio in frames; tickers are upper case
MAX_NAMED = 10  # tickers in a reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A holding with a weight other than 0, and the column of the prices that it means."""

    symbol: str
    weight: float
    column: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointReturns:
    """
    The returns of all positions on the dates on which every one has a price.

    Attributes
    ----------
    calendar
        The joint dates.
    parts
        N x T: one row a position, its weight times each of its changes, also those across a gap.
    total
        The one-period returns of the portfolio, which end on the rows `calendar.at`.
    wealth
        Of 1 before the first change; None where the portfolio loses all that it has, or more.
    """

    calendar: Calendar
    parts: FloatArray
    total: FloatArray
    wealth: FloatArray | None

    @property
    def kept(self) -> FloatArray:
        """The parts of the one-period returns, N x T; they add up to `total`."""
        keep = self.calendar.keep
        return self.parts if keep.all() else self.parts[:, keep]


def find_positions(
    holdings: Iterable[Holding], column_of: Mapping[str, str | None]
) -> list[Position]:
    """
    Return the holdings with a weight other than 0, by symbol: their order changes no digit.

    Parameters
    ----------
    column_of
        Symbol -> column of the prices, None where there is none.
    """
    found = [
        Position(symbol=one.symbol, weight=one.weight, column=column_of.get(one.symbol))
        for one in holdings
        if one.weight
    ]
    return sorted(found, key=lambda one: one.symbol)


@quiet
def join_returns(market: Market, positions: Sequence[Position]) -> JointReturns:
    """Return the joint returns of positions that all have a column; made after the intersection."""
    places = [market.position[str(one.column)] for one in positions]
    present = np.asarray(market.present[:, places].all(axis=1))
    calendar = find_calendar(market, present, is_joint=True)
    values = market.close.T[places]
    if len(calendar.rows) < values.shape[1]:
        values = values[:, calendar.rows]
    parts = compute_changes(values, is_returns=market.is_returns)
    parts *= np.array([[one.weight] for one in positions])  # of a copy, so in place
    # Row by row: the sum does not depend on how the processor splits a matrix product
    total = np.sum(parts, axis=0)
    wealth: FloatArray = np.cumprod(np.concatenate((np.ones(1), 1 + total)))
    is_alive = bool((total > -1).all()) and bool(np.isfinite(wealth).all())
    keep = calendar.keep
    return JointReturns(
        calendar=calendar,
        parts=parts,
        total=total if keep.all() else total[keep],
        wealth=wealth if is_alive else None,
    )


def list_closes(measured: Measured) -> pd.DataFrame:
    """
    Return the prices of the period, date x symbol; of returns the wealth of 1 that they make.

    Missing days stay missing. A ticker without usable prices has no column.
    """
    market = measured.market
    usable = {
        symbol: market.position[row.column]
        for symbol, row in measured.rows.items()
        if row.column is not None and row.status == "ok"
    }
    values = market.close[:, list(usable.values())]
    if market.is_returns:
        growth = np.cumprod(np.where(np.isnan(values), 1.0, 1 + values), axis=0)
        values = np.where(np.isnan(values), np.nan, growth)
    index = pd.DatetimeIndex(market.dates, name="date")
    return pd.DataFrame(values, index=index, columns=pd.Index(list(usable), name="ticker"))


def name_some(symbols: Sequence[str]) -> str:
    """Return the first ten names between commas, and how many more there are."""
    more = f" and {len(symbols) - MAX_NAMED} more" if len(symbols) > MAX_NAMED else ""
    return f"{', '.join(symbols[:MAX_NAMED])}{more}"
