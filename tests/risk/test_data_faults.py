"""
Series that no market makes are flagged with what was seen, and nothing is corrected: a missed
split, another unit, mixed frequencies, per cent for fractions.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from price_data import one, rows_with, walk
from urisk_nb.readers.prices import read_prices
from urisk_nb.risk import metrics
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.quant import quant_rows

# --- jumps ---


def scaled(factor, begin, end=None, rows=300):
    frame = walk(rows, ["AAA"])
    frame.iloc[begin:end] *= factor
    return frame


JUMPS = {
    "a missed split of 10 for 1": (scaled(0.1, 150), ["2022-08-01"]),
    "a missed split of 2 for 1": (scaled(0.5, 150), ["2022-08-01"]),
    "a missed split of 3 for 2": (scaled(2 / 3, 150), ["2022-08-01"]),
    "a reverse split of 2 for 3": (scaled(1.5, 150), ["2022-08-01"]),
    "a reverse split": (scaled(10, 150), ["2022-08-01"]),
    "pence for pounds": (scaled(100, 100, 120), ["2022-05-23", "2022-06-20"]),
    "one row in another unit": (scaled(100, 200, 201), ["2022-10-10", "2022-10-11"]),
    "the last row in another unit": (scaled(0.01, 299), ["2023-02-24"]),
}


@pytest.mark.parametrize("case", JUMPS)
def test_a_jump_is_flagged_with_its_dates(case):
    """The flag stands beside figures that are as the prices say: nothing is corrected."""
    import empyrical

    frame, days = JUMPS[case]
    row = one(frame)
    assert ("jump" in row.flags, row.status) == (True, "ok")
    assert [day for day in map(str, frame.index.date) if day in row.message] == days
    moves = frame["AAA"].pct_change(fill_method=None).dropna()
    assert row.values["vol_ann"] == pytest.approx(empyrical.annual_volatility(moves))
    assert f"{1 + moves.loc[days[0]]:.4g} on {days[0]}" in row.message


def test_more_than_three_jumps_are_counted():
    """The message names the first three."""
    frame = walk(300, ["AAA"])
    frame.iloc[[50, 100, 150]] *= 100
    assert one(frame).message.count(" on 2022-") == 3
    assert "and 3 more" in one(frame).message


@pytest.mark.parametrize("size", [-0.43, 0.75, 0.3])
def test_a_bad_day_is_no_jump(size):
    """Shares did fall by 43 % in a day: less than a factor of 1.8 is no doubt of the data."""
    frame = walk(300, ["AAA"])
    frame.iloc[150:] *= (1 + size) / (frame["AAA"].iloc[150] / frame["AAA"].iloc[149])
    assert one(frame).flags == ()


def test_a_wild_series_has_no_jumps():
    """Where moves of a factor of two are usual, one of them says nothing."""
    rng = np.random.default_rng(3)
    moves = rng.normal(0, 0.35, 300)
    frame = pd.DataFrame({"AAA": np.exp(np.cumsum(moves - moves.mean()))}, index=walk(300).index)
    assert frame["AAA"].pct_change().abs().max() > 0.8
    assert one(frame).flags == ()


def test_one_of_many_large_moves_is_no_jump():
    """Beside moves of 70 % one of 85 % says nothing, and one of 900 % does."""
    frame = walk(300, ["AAA"])
    for place, factor in ((50, 1.7), (100, 1 / 1.7), (150, 1.85)):
        frame.iloc[place:] *= factor
    assert one(frame).flags == ()
    frame.iloc[200:] *= 10
    assert one(frame).message.count(" on 2022-") == 1


@pytest.mark.parametrize("rows", [252 * 5, 365 * 5])
def test_fat_tails_are_rarely_taken_for_jumps(rows):
    """Of volatile series with the tails of Student's t (3), at 4 % a day, under 2 % are flagged."""
    moves = np.random.default_rng(8).standard_t(3, (rows, 500)) / math.sqrt(3) * 0.04
    names = [f"T{number}" for number in range(500)]
    index = pd.date_range("2015-01-01", periods=rows, freq="D" if rows > 1500 else "B")
    table = rows_with(pd.DataFrame(np.exp(moves.cumsum(axis=0)), index=index, columns=names), names)
    assert sum("jump" in row.flags for row in table.values()) < 10


def test_ticks_of_a_price_that_mostly_stands_still_are_no_jumps():
    """A share at one cent moves by a factor of two, or not at all."""
    frame = walk(300, ["AAA"])
    frame["AAA"] = np.where(np.arange(300) % 20 < 17, 0.01, 0.02)
    assert "jump" not in one(frame).flags
    frame["AAA"] = np.where(np.arange(300) < 150, 100.0, 50.0)  # one move alone
    assert "jump" in one(frame).flags


def test_a_jump_in_returns_is_found_too():
    """The rule is about the growth of one period, whatever it was given as."""
    moves = scaled(0.1, 150).pct_change(fill_method=None).dropna()
    row = one(moves, returns=True)
    assert "jump" in row.flags
    assert "on 2022-08-01" in row.message


def test_two_units_by_turns_are_jumps():
    """Where every other price is in pence, the median move is of a factor of 100."""
    frame = walk(300, ["AAA"])
    frame.iloc[::2] *= 100
    assert "jump" in one(frame).flags


def test_a_jump_of_the_benchmark_is_said():
    """It decides beta, and the benchmark need not be a row of the table."""
    frame = walk(300, ["AAA", "SPX"])
    assert "jump_benchmark" not in one(frame, benchmark="SPX").flags
    frame.loc[frame.index[150] :, "SPX"] /= 10
    assert "jump_benchmark" in one(frame, benchmark="SPX").flags
    series = frame["SPX"].rename("index")
    assert "jump_benchmark" in rows_with(frame[["AAA"]], "AAA", series)["AAA"].flags


# --- mixed frequencies ---


def mixed(first, second):
    index = first.append(second[second > first[-1]])
    return walk(len(index), ["AAA"]).set_axis(index)


MONTHS = pd.date_range("2010-01-31", periods=130, freq="ME")
DAYS = pd.bdate_range("2020-11-01", periods=100)
WEEKS = pd.date_range("2018-01-05", periods=120, freq="W-FRI")
MIXED = {
    "months, then days": mixed(MONTHS, DAYS),
    "days, then months": mixed(DAYS, pd.date_range("2021-04-30", periods=110, freq="ME")),
    "weeks, then days": mixed(WEEKS, DAYS),
    "many days, then some weeks": mixed(
        pd.bdate_range("2018-01-01", periods=500),
        pd.date_range("2020-01-03", periods=30, freq="W-FRI"),
    ),
    "many months, then some days": mixed(
        pd.date_range("1980-01-31", periods=400, freq="ME"),
        pd.bdate_range("2013-05-01", periods=9),
    ),
    "days, then weeks": mixed(
        pd.bdate_range("2020-01-01", periods=260), WEEKS[:90] + pd.Timedelta(days=1092)
    ),
    "months, then quarters": mixed(MONTHS[:60], pd.date_range("2015-03-31", periods=40, freq="QE")),
}


@pytest.mark.parametrize("case", MIXED)
def test_mixed_frequencies_are_bad_data(case):
    """No factor makes such returns annual; with a factor of the user's own the flag stays."""
    row = one(MIXED[case])
    assert row.status == "bad_data"
    assert {*row.flags} - {"gap"} == {"bad_data", "mixed_frequency"}
    assert "mixes frequencies" in row.message
    assert math.isnan(row.values.get("vol_ann", math.nan))
    own = one(MIXED[case], periods_per_year=12)
    assert (own.status, "mixed_frequency" in own.flags) == ("ok", True)
    assert own.values["vol_ann"] > 0


def test_the_message_counts_the_odd_steps():
    """130 month ends and 100 business days: 100 steps of one to three days."""
    row = one(MIXED["months, then days"])
    assert "100 of 229 steps are not one month (first: 2020-10-31 to 2020-11-02)" in row.message


def test_a_part_of_a_month_at_the_end_is_no_mixture():
    """Monthly downloads end with the month that runs: one short step is nothing."""
    index = MONTHS[:60].append(pd.DatetimeIndex([MONTHS[59] + pd.Timedelta(days=10)]))
    assert one(walk(61, ["AAA"]).set_axis(index)).flags == ("short_tail",)


# --- flat within rounding ---


def test_growth_without_noise_is_flat():
    """Compound growth differs by rounding alone: no shape, and no beta against it."""
    frame = walk(300, ["AAA", "BBB"])
    frame["FLAT"] = 1.0001 ** np.arange(300)
    assert frame["FLAT"].pct_change().dropna().nunique() > 1  # by rounding
    row = rows_with(frame, "AAA", benchmark="FLAT")["AAA"]
    assert math.isnan(row.values["beta"])
    assert "flat_benchmark" in row.flags
    own = rows_with(frame, "FLAT", benchmark="BBB")["FLAT"]
    assert {"flat"} <= set(own.flags)
    assert all(math.isnan(own.values[name]) for name in ("skew", "ex_kurt", "corr_bench"))
    assert own.values["vol_ann"] == pytest.approx(0, abs=1e-12)
    given = rows_with(frame[["AAA"]], "AAA", frame["FLAT"], benchmark="given")["AAA"]
    assert math.isnan(given.values["beta"])
    growth = frame["FLAT"].pct_change().dropna()
    moves = frame["AAA"].pct_change().dropna()
    assert math.isnan(metrics.beta(moves, growth).beta)
    assert math.isnan(metrics.skewness(growth))


@pytest.mark.parametrize("size", [1e-10, 1e-6])
def test_small_moves_are_no_rounding(size):
    """A money market fund moves little, and its moves have a shape."""
    import scipy.stats

    moves = np.random.default_rng(5).normal(0, size, 300)
    frame = walk(301, ["AAA"]).assign(FUND=np.cumprod([1.0, *(1 + moves)]))
    row = rows_with(frame, "FUND", benchmark="AAA")["FUND"]
    assert "flat" not in row.flags
    assert row.values["skew"] == pytest.approx(scipy.stats.skew(moves, bias=False), rel=1e-3)


# --- what was meant ---


def test_per_cent_for_fractions_is_named():
    """1.5 for 1.5 %: the message says how to put it right, and that cures."""
    moves = walk(300, ["AAA"]).pct_change(fill_method=None).dropna()
    for percent in (100 * moves.clip(-0.009), 100 * moves.clip(lower=-0.009) + 0.05):
        row = one(percent, returns=True)
        assert "unlikely_returns" in row.flags
        assert "if they are per cent, divide them by 100" in row.message
        assert one(percent / 100, returns=True).flags == ()
    row = one(100 * moves, returns=True)  # losses of more than 1 %: "less than -100 %"
    assert row.status == "bad_data"
    assert row.message.endswith("If they are per cent, divide them by 100.")


def test_prices_given_as_returns_are_named():
    """FX near 1 with returns=True: each step would double the money."""
    frame = 1.1 + 0.001 * walk(300, ["EURUSD"]).diff().fillna(0).clip(-5, 5)
    row = one(frame, "EURUSD", returns=True)
    assert "unlikely_returns" in row.flags
    assert "if they are prices, leave returns out" in row.message
    assert one(frame, "EURUSD").flags == ()


def test_returns_given_as_prices_are_named():
    """About half of them are negative, which no price is."""
    moves = walk(300, ["AAA"]).pct_change(fill_method=None).dropna()
    assert one(moves).message.endswith("If they are returns, say so: returns=True.")
    assert one(moves, returns=True).status == "ok"


def test_an_absurd_total_is_flagged():
    """No asset grows 700-fold in a year and two months; one grew 700-fold in twenty years."""
    growth = 700 ** (np.arange(300) / 299)
    frame = walk(300, ["AAA"]).mul(growth, axis=0)
    row = one(frame)
    assert ("extreme_total" in row.flags, row.status) == (True, "ok")
    assert "-fold in" in row.message
    slow = walk(5200, ["AAA"])
    slow["AAA"] = slow["AAA"] / slow["AAA"].iloc[-1] * 700 ** (np.arange(5200) / 5199)
    slow.iloc[0] = 1.0
    assert "extreme_total" not in one(slow).flags


def test_points_and_prices_given_as_returns_say_what_to_do():
    """Basis points and prices need other ways out than per cent."""
    moves = walk(300, ["AAA"]).pct_change(fill_method=None).dropna()
    assert "divide them by 10,000" in one(moves * 1e4, returns=True).message
    assert "leave returns out" in one(walk(300, ["AAA"]), returns=True).message


@pytest.mark.parametrize("decimals", [2, 4, 6, 8, 12, None, "single"])
@pytest.mark.parametrize("start", [1.0, 100.0, 25_000.0])
def test_growth_that_was_rounded_is_flat(start, decimals):
    """The last digit of a file is no risk: without this rule its beta is a number of noise."""
    days = pd.bdate_range("2023-01-02", periods=300)
    path = start * 1.0001 ** np.arange(300)
    if decimals == "single":
        path = path.astype(np.float32).astype(np.float64)
    elif decimals is not None:
        path = np.round(path, decimals)
    rng = np.random.default_rng(4)
    prices = pd.DataFrame(
        {"AAA": 100 * np.exp(rng.normal(0, 0.01, 300).cumsum()), "CASH": path}, index=days
    )
    holdings = [Holding(symbol="AAA"), Holding(symbol="CASH")]
    rows = quant_rows(read_prices(prices), holdings, RiskParams(benchmark="CASH"))
    noise = 0 if decimals in (None, "single") else 10.0**-decimals / start
    is_flat = noise < 5e-5  # rounded more coarsely it is a staircase, which moves
    assert ("flat" in rows["CASH"].flags) == is_flat
    assert math.isnan(rows["AAA"].values["beta"]) == is_flat


def test_small_moves_that_the_digits_can_tell_are_no_rounding():
    """A fund of bills with seven true digits, and a penny share that moves by its last digit."""
    days = pd.bdate_range("2023-01-02", periods=300)
    rng = np.random.default_rng(5)
    fund = np.round(100 * np.cumprod(1 + 1e-4 + rng.uniform(-2e-5, 2e-5, 300)), 5)
    penny = np.round(0.02 + 0.01 * rng.integers(0, 2, 300), 2)
    prices = pd.DataFrame({"FUND": fund, "PENNY": penny}, index=days)
    holdings = [Holding(symbol="FUND"), Holding(symbol="PENNY")]
    rows = quant_rows(read_prices(prices), holdings, RiskParams())
    assert "flat" not in rows["FUND"].flags
    assert "flat" not in rows["PENNY"].flags
    expected = np.std(fund[1:] / fund[:-1] - 1, ddof=1) * math.sqrt(252)
    assert rows["FUND"].values["vol_ann"] == pytest.approx(expected)
