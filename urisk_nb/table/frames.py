"""The numbers behind the charts of a table as plain frames, for any plotting package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.inputs import Prices
from urisk_nb.risk.market import read_market, split_into_blocks
from urisk_nb.risk.params import RiskParams

__all__ = ["Frames"]

RATING = "r_"  # what the columns of the categories begin with


class Frames:
    """
    The numbers behind `table.charts`, of the tickers that are in the table.

    You get it as `table.frames`. Each frame is a plain DataFrame: matplotlib, seaborn and altair
    take it as it is, such as ``table.frames.drawdowns().plot()``.

    Parameters
    ----------
    frame
        The table.
    tickers
        The ticker of each row.
    prices
        Date x ticker, the closes that the run used; None where it had none.
    is_wealth
        The run was given returns, and `prices` is what 1 becomes: 1 + r on the first day.

    Attributes
    ----------
    tickers
        The ticker of each row, as text.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        tickers: Sequence[Any],
        prices: pd.DataFrame | None,
        *,
        is_wealth: bool = False,
    ) -> None:
        self._frame = frame
        self.tickers = list(map(str, tickers))
        self._prices = prices
        self._is_wealth = is_wealth

    def severities(self) -> pd.DataFrame:
        """
        Return the rating of each ticker and category.

        Returns
        -------
        DataFrame
            Ticker x category, in the table's order; float64 from 0 to 5, NaN where no sentence
            counts for the category.

        Raises
        ------
        InputError
            The table has no columns of categories, or no rating in them.
        """
        names = [name for name in map(str, self._frame.columns) if name.startswith(RATING)]
        if not names:
            raise InputError(
                "this table has no columns r_<category>, so there are no severities.",
                fix="use the table of the run, before you choose columns",
            )
        ratings: pd.DataFrame = self._frame[names].apply(pd.to_numeric, errors="coerce")
        ratings = ratings.astype("float64")
        if ratings.isna().all(axis=None):
            raise InputError(
                "no ticker of this table has a rating, so there are no severities.",
                fix="give texts to the run, and a model that labels them: evidence=... (in a "
                "cell: --evidence NAME)",
            )
        ratings.columns = pd.Index([name.removeprefix(RATING) for name in names], name="category")
        ratings.index = pd.Index(self.tickers, name="ticker")
        return ratings

    def drawdowns(self) -> pd.DataFrame:
        """
        Return how far each price is below the highest one so far: 1 - P / max(P).

        Returns
        -------
        DataFrame
            Date x ticker; positive fractions (0.2 is 20 % below), 0 at a new high, NaN on a day
            without a price. The largest value of a column is the table's `max_dd`. Tickers without
            usable prices are left out.

        Raises
        ------
        InputError
            The run had no prices.
        """
        prices = self._read_prices()
        highs = prices.cummax()
        falls: pd.DataFrame = 1 - prices / (highs.clip(lower=1.0) if self._is_wealth else highs)
        return falls

    def returns(self) -> pd.DataFrame:
        """
        Return the simple returns that VaR and ES are made of: P_t / P_(t-1) - 1.

        Returns
        -------
        DataFrame
            Date x ticker; a gain is positive. NaN where there is no return of one period: on a day
            without a price, and after a gap (docs/metrics.md). Tickers without usable prices are
            left out.

        Raises
        ------
        InputError
            The run had no prices.
        """
        prices = self._read_prices(of_all=True)  # the holidays of a market show in all its columns
        found = _find_given_returns(prices) if self._is_wealth else _find_returns(prices)
        mine = found[[name for name in dict.fromkeys(self.tickers) if name in found]]
        return mine.dropna(how="all")

    def _read_prices(self, *, of_all: bool = False) -> pd.DataFrame:
        prices = self._prices
        if prices is None or prices.empty:
            raise InputError(
                "this table has no prices to draw: the run had none.",
                fix="give prices=... to the run (in a cell: --prices NAME)",
            )
        values = prices.astype("float64")
        is_usable = (
            (values > 0) & np.isfinite(values) | values.isna()
        ).all() & values.notna().any()
        usable = [str(name) for name in values.columns[is_usable]]
        wanted = usable if of_all else [one for one in dict.fromkeys(self.tickers) if one in usable]
        if not set(wanted).intersection(self.tickers):
            raise InputError(
                f"none of the {len(self.tickers)} tickers in this table has prices to draw.",
                fix="give prices=... with a column for each ticker to the run",
            )
        return values[wanted].rename_axis(index="date", columns="ticker")


def _find_returns(prices: pd.DataFrame) -> pd.DataFrame:
    """Return the returns of one period, as the metrics have them."""
    market = read_market(Prices(close=prices), RiskParams())
    values = np.full(prices.shape, np.nan)
    for block in split_into_blocks(market, range(prices.shape[1]), market.present):
        values[block.calendar.at[:, None], np.array(block.places)] = block.changes.T
    return pd.DataFrame(values, index=prices.index, columns=prices.columns)


def _find_given_returns(wealth: pd.DataFrame) -> pd.DataFrame:
    """Return the returns that made this wealth of 1."""
    before = wealth.ffill().shift().fillna(1.0)
    found: pd.DataFrame = wealth / before - 1
    return found
