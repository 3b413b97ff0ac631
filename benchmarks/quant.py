"""
The quant block on 500 tickers x 2,520 days, beside a metric library that is called column by column.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/quant.py [--tickers 500] [--days 2520] [--repeat 5]
The ratio is for the figures that both compute (volatility, downside deviation, drawdown, total return, tail, beta); ours has in its time
all further columns of the table, the dates, the checks and the flags.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from urisk_nb.risk.inputs import RiskParams, parse_tickers, read_prices
from urisk_nb.risk.quant import quant_rows


def walk(tickers: int, days: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    moves = rng.standard_t(4, size=(days, tickers)) * 0.01
    index = pd.bdate_range("2015-01-01", periods=days, name="date")
    return pd.DataFrame(100 * np.cumprod(1 + moves, axis=0), index=index, columns=[f"T{number}" for number in range(tickers)])


def best(works: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Least seconds of processor time of each; taken in turns, so that a busy machine is busy for all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeat):
        for name, work in works.items():
            begin = time.process_time()
            work()
            times[name].append(time.process_time() - begin)
    return {name: min(seen) for name, seen in times.items()}


def by_library(prices: pd.DataFrame) -> None:
    import empyrical

    returns = prices.pct_change(fill_method=None).iloc[1:]
    benchmark = returns["T0"]
    for column in returns:
        one = returns[column]
        empyrical.annual_volatility(one)
        empyrical.downside_risk(one)
        empyrical.max_drawdown(one)
        empyrical.cum_returns_final(one)
        empyrical.value_at_risk(one, 0.05)
        empyrical.conditional_value_at_risk(one, 0.05)
        empyrical.beta(one, benchmark)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickers", type=int, default=500)
    parser.add_argument("--days", type=int, default=2520)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    frame = walk(args.tickers, args.days)
    holdings = parse_tickers(list(frame.columns))

    def ours(benchmark: str | None) -> Callable[[], object]:
        return lambda: quant_rows(read_prices(frame), holdings, RiskParams(benchmark=benchmark))

    works = {
        "reading the frame": lambda: read_prices(frame),
        "all columns, no benchmark": ours(None),
        "all columns, benchmark equal": ours("equal"),
        "all columns, benchmark T0": ours("T0"),
        "empyrical, seven figures, benchmark T0": lambda: by_library(frame),
    }
    found = best(works, args.repeat)
    print(
        f"{args.tickers} tickers x {args.days} days, least of {args.repeat}, {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} BLAS threads"
    )
    for name, seconds in found.items():
        print(f"  {name:40s}{seconds:7.3f} s")
    *_, mine, library = found.values()
    print(f"  {'library / ours':40s}{library / mine:7.2f} x  (target: more than 1, and ours at most 1 s)")


if __name__ == "__main__":
    main()
