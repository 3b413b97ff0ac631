"""
The quant block on 500 tickers x 2,520 days, beside a metric library that is called column by column.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/quant.py [--tickers 500] [--days 2520] [--repeat 3]
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


def best(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


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
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    frame = walk(args.tickers, args.days)
    holdings = parse_tickers(list(frame.columns))
    print(f"{args.tickers} tickers x {args.days} days, best of {args.repeat}, {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} BLAS threads")
    print(f"  reading the frame            {best(lambda: read_prices(frame), args.repeat):7.3f} s")
    ours = {}
    for benchmark in (None, "T0", "equal"):
        params = RiskParams(benchmark=benchmark)
        ours[benchmark] = best(lambda p=params: quant_rows(read_prices(frame), holdings, p), args.repeat)
        print(f"  reading and all columns      {ours[benchmark]:7.3f} s   benchmark {benchmark}")
    library = best(lambda: by_library(frame), args.repeat)
    print(f"  empyrical, column by column  {library:7.3f} s   seven figures, benchmark T0")
    print(f"  ratio                        {library / ours['T0']:7.2f} x  (target: more than 1, and at most 1 s)")


if __name__ == "__main__":
    main()
