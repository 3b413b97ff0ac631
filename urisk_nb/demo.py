"""The example: real weekly prices of six companies in 2018 and 2019, and sixteen public events about them.

The prices are `plotly.data.stocks()` (rebased to 1.0 at the start of 2018). The events are summaries in our own words of public
announcements, with their dates and sources.
"""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

__all__ = ["TICKERS", "evidence", "prices"]

TICKERS = ("GOOG", "AAPL", "AMZN", "FB", "NFLX", "MSFT")


def prices() -> pd.DataFrame:
    """Weekly closes, 105 dates x 6 tickers, each divided by its first."""
    from plotly import data

    frame: pd.DataFrame = data.stocks()
    return frame.assign(date=pd.to_datetime(frame["date"])).set_index("date")


def evidence() -> pd.DataFrame:
    """Sixteen events: id, ticker, date, source, text."""
    source = files("urisk_nb").joinpath("data/evidence_2018_2019.csv")
    with source.open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)
