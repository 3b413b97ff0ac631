"""
What a report says of the whole portfolio and beside it, before it is HTML or cells.

The parts are those of a report: figures as a Series, frames of backtest, stress and factors. A run
without weights has none of the first two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from urisk_nb.render.table_content import TableContent, name_heading
from urisk_nb.risk.positions import PORTFOLIO

__all__ = ["PortfolioContent", "list_views", "read_portfolio", "select_tickers"]

COMPONENT = "comp_es"  # what a holding adds to the portfolio's ES
_VIEWS = ("stress", "factors")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PortfolioContent:
    """
    The figures of a portfolio by name, and its tables by name.

    Names of figures and columns are those of the table: `es_95` is a fraction.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def components(self) -> pd.Series[float] | None:
        """What each holding adds to ES, by ticker, without those that have no value."""
        holdings = self.tables.get("holdings")
        if holdings is None or COMPONENT not in holdings:
            return None
        return pd.to_numeric(holdings[COMPONENT], errors="coerce").dropna()

    @property
    def shortfall(self) -> str:
        """The name of the ES that the components add up to, such as "ES 95"."""
        names = (name for name in self.figures if re.fullmatch(r"es_\d+", name))
        return name_heading(next(names, "ES"))


def read_portfolio(report: Any, content: TableContent) -> PortfolioContent | None:
    """
    Return the portfolio of a report; None where it has none.

    Its tables are `holdings` (weight and components of each ticker in the table) and `backtest`.
    """
    if not isinstance(found := getattr(report, "portfolio", None), pd.Series | Mapping):
        return None
    figures, tables = {str(name): value for name, value in found.items()}, {}
    names = [name for name in map(str, content.frame.columns) if name.startswith("comp_")]
    if content.is_whole and names:
        weights = [name for name in ("weight",) if name in content.frame]
        holdings = content.frame[weights + names].set_axis(list(content.tickers))
        tables["holdings"] = pd.DataFrame(holdings.rename_axis("ticker"))
    if isinstance(backtest := getattr(report, "backtest", None), pd.DataFrame):
        tables["backtest"] = pd.DataFrame(backtest)
    return PortfolioContent(figures=figures, tables=tables)


def list_views(report: Any, content: TableContent) -> dict[str, pd.DataFrame]:
    """
    Return the frames that a run has only if it was asked for them, by name.

    They have the rows of the tickers in the table, and of the portfolio.
    """
    found = {name: getattr(report, name, None) for name in _VIEWS}
    return {
        name: select_tickers(pd.DataFrame(frame), content.tickers)
        for name, frame in found.items()
        if isinstance(frame, pd.DataFrame)
    }


def select_tickers(frame: pd.DataFrame, tickers: Iterable[Any]) -> pd.DataFrame:
    """Return the rows of these tickers and of the portfolio, in the frame's order."""
    is_column = "ticker" in frame
    names = frame["ticker"] if is_column else frame.index.to_series()
    rows = frame[names.isin([*tickers, PORTFOLIO]).to_numpy()]
    return rows.reset_index(drop=True) if is_column else rows
