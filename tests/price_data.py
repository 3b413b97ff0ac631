"""Prices that look like prices, and the rows of the table that are made of them."""

import numpy as np
import pandas as pd

from urisk_nb.readers.holdings import parse_tickers
from urisk_nb.readers.prices import read_benchmark, read_prices
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.quant import quant_rows


def walk(rows=300, columns=("AAA", "BBB", "CCC"), *, seed=7, freq="B"):
    """Prices that look like prices."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_t(4, size=(rows, len(columns))) * 0.01
    index = pd.date_range("2022-01-03", periods=rows, freq=freq, name="date")
    return pd.DataFrame(100 * np.cumprod(1 + moves, axis=0), index=index, columns=list(columns))


def rows_with(frame, tickers, benchmark_series=None, **params):
    prices = read_prices(frame, returns=params.get("returns", False))
    given = None
    if benchmark_series is not None:
        given = read_benchmark(benchmark_series, returns=prices.is_returns)
    return quant_rows(prices, parse_tickers(tickers), RiskParams.of(**params), given)


def one(frame, ticker="AAA", **params):
    return rows_with(frame, ticker, **params)[ticker]
