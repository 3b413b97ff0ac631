"""
Measure the metrics of a table against a metric library that is called column by column.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/quant.py [--repeat 5]

Two shapes: 500 tickers x 2,520 days and 10,000 tickers x 252 days. A ratio above 1 means that the
library takes longer. The library computes seven figures per column; the time of urisk_nb includes
all columns of the table, the dates, the checks, the flags and the frame.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from records import Curve, Measured, compare, summarize, take_turns
from urisk_nb.readers.holdings import parse_tickers
from urisk_nb.readers.prices import read_prices
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.quant import quant_rows
from urisk_nb.session import open_run

# Tickers, days: the most seconds of processor time that the table may take
SHAPES = {(500, 2_520): 0.3, (10_000, 252): 2.0}


def walk(tickers: int, days: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    moves = rng.standard_t(4, size=(days, tickers)) * 0.01
    index = pd.bdate_range("2015-01-01", periods=days, name="date")
    return pd.DataFrame(
        100 * np.cumprod(1 + moves, axis=0),
        index=index,
        columns=[f"T{number}" for number in range(tickers)],
    )


def best(works: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """
    Least seconds of processor time of each; taken in turns, so that a busy machine is busy for all
    of them.
    """
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


def print_shape(tickers: int, days: int, repeat: int) -> None:
    """Print what one shape takes."""
    frame = walk(tickers, days)
    names = list(frame.columns)
    holdings = parse_tickers(names)

    def table(benchmark: str | None) -> Callable[[], object]:
        return functools.partial(make_table, frame, benchmark)

    works = {
        "reading the frame": lambda: read_prices(frame),
        "figures, benchmark T0": lambda: quant_rows(
            read_prices(frame), holdings, RiskParams(benchmark="T0")
        ),
        "table, no benchmark": table(None),
        "table, benchmark equal": table("equal"),
        "table, benchmark T0": table("T0"),
        "table, no benchmark, weights": lambda: open_run(
            dict.fromkeys(names, 1 / len(names)), prices=frame, params=RiskParams(llm=False)
        ).table(),
        "empyrical, seven figures, benchmark T0": lambda: by_library(frame),
    }
    found = best(works, repeat)
    library = found["empyrical, seven figures, benchmark T0"]
    print(f"{tickers:,} tickers x {days:,} days (target for a table: {SHAPES[tickers, days]} s)")
    for name, seconds in found.items():
        print(f"  {name:40s}{seconds:7.3f} s  library / this {library / seconds:6.1f} x")


def make_table(frame: pd.DataFrame, benchmark: str | None) -> object:
    """The table of prices alone, as a user gets it."""
    return open_run(
        list(frame.columns), prices=frame, params=RiskParams(llm=False, benchmark=benchmark)
    ).table()


def time_cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds that the work takes."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def measure_quant(*, quick: bool) -> Measured:
    """
    The group `quant` of benchmarks/performance.py: whole tables, and seven figures a column by
    empyrical-reloaded, in turns.
    """
    # name: tickers, days, rounds, rounds with the library
    shapes = {"quant long": (500, 2_520, 5, 3), "quant wide": (10_000, 252, 3, 1)}
    if quick:
        shapes = {"quant long": (20, 504, 3, 3), "quant wide": (100, 252, 3, 1)}
    figures, notes = {}, []
    for name, (tickers, days, rounds, rounds_of_both) in shapes.items():
        frame = walk(tickers, days)
        conditions = f"{tickers:,} tickers x {days:,} days, one thread"
        table = functools.partial(time_cpu, functools.partial(make_table, frame, "T0"))
        table()
        own = take_turns({"table": table}, rounds)["table"]
        figures[name] = summarize(own, "s", f"{conditions}, CPU time of the whole table")
        try:
            by_library(frame.iloc[:, :2])  # imports
            library = functools.partial(time_cpu, functools.partial(by_library, frame))
            found = take_turns({"table": table, "library": library}, rounds_of_both)
        except ModuleNotFoundError:
            notes = ["empyrical-reloaded is not installed"]
            continue
        figures[f"{name} empyrical"] = compare(
            found["table"],
            found["library"],
            f"{conditions}; the library computes seven figures per column",
        )
    return Measured(figures=figures, notes=notes)


def measure_prices(*, quick: bool) -> Measured:
    """The group `prices`: how the time of a table grows with tickers and with history."""
    tickers = (10, 100) if quick else (10, 100, 1_000, 10_000)
    days = (250, 2_500) if quick else (250, 2_500, 25_000)
    of_tickers = [time_table(count, 252) for count in tickers]
    of_days = [time_table(100, count) for count in days]
    return Measured(
        curves={
            "tickers": Curve(x=tickers, y=of_tickers, conditions="252 days, no model"),
            "history": Curve(x=days, y=of_days, conditions="100 tickers, no model"),
        }
    )


def time_table(tickers: int, days: int) -> float:
    """Return the smallest CPU time of three tables."""
    frame = walk(tickers, days)
    make_table(frame, None)
    return min(time_cpu(lambda: make_table(frame, "T0")) for _ in range(3))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    os.environ["URISK_JOURNAL"] = "off"  # no corrections of the user's are read
    print(f"least of {args.repeat}, {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} BLAS threads")
    for tickers, days in SHAPES:
        print_shape(tickers, days, args.repeat)


if __name__ == "__main__":
    main()
