"""The example: real weekly prices of six companies in 2018 and 2019, and sixteen public events
about them.

The prices are those of `plotly.data.stocks()` (rebased to 1.0 at the start of 2018). The events are
summaries in our own words of public announcements, with their dates and sources. data/README.md
says where each file comes from.
"""

from __future__ import annotations

from importlib.resources import files
from typing import IO

import pandas as pd

__all__ = ["TICKERS", "evidence", "prices"]

TICKERS = ("GOOG", "AAPL", "AMZN", "FB", "NFLX", "MSFT")


def prices() -> pd.DataFrame:
    """Return weekly closes, 105 dates x 6 tickers, each divided by its first."""
    with _open("prices_2018_2019.csv") as file:
        return pd.read_csv(file, index_col="date", parse_dates=["date"])


def evidence() -> pd.DataFrame:
    """Return sixteen events: id, ticker, date, source, text."""
    with _open("evidence_2018_2019.csv") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)


def _open(name: str) -> IO[str]:
    return files("urisk_nb").joinpath("data", name).open(encoding="utf-8")
