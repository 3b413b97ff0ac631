"""A holiday of the whole market is one return; missing data is a gap, counted and named."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from price_data import one, rows_with, walk

# The exchanges of Shanghai and Shenzhen: the long holidays of 2018 to 2020, first and last day
# without trading.
HOLIDAYS = [
    *(("2018-02-15", "2018-02-21"), ("2018-10-01", "2018-10-05"), ("2019-02-04", "2019-02-08")),
    *(("2019-10-01", "2019-10-07"), ("2020-01-24", "2020-01-31"), ("2020-10-01", "2020-10-08")),
]


def close_days(index):
    kept = pd.Series(True, index=index)
    for begin, end in HOLIDAYS:
        kept[begin:end] = False
    return index[kept.to_numpy()]


def chinese(columns=("600519.SS",)):
    """Three years with a fall of 9 % at each reopening."""
    index = close_days(pd.bdate_range("2018-01-01", "2020-12-31"))
    frame = walk(len(index), columns).set_axis(index)
    moves = frame.pct_change(fill_method=None)
    for _, end in HOLIDAYS:
        moves.loc[index[index > end][0]] = -0.09
    return 100 * (1 + moves.fillna(0)).cumprod()


def check_all_returns(row, prices):
    import scipy.stats

    moves = prices.dropna().pct_change(fill_method=None).dropna().to_numpy()
    worst = np.sort(moves)
    for alpha, name in ((0.05, "es_95"), (0.01, "es_99")):
        mass, rank = alpha * len(moves), math.ceil(alpha * len(moves))
        expected = -(worst[: rank - 1].sum() + (mass - rank + 1) * worst[rank - 1]) / mass
        assert row.values[name] == pytest.approx(expected)
    assert row.values["skew"] == pytest.approx(scipy.stats.skew(moves, bias=False))
    assert row.values["vol_ann"] == pytest.approx(moves.std(ddof=1) * math.sqrt(252))
    assert (row.flags, row.message) == ((), None)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [("600519.SS",), ("600519.SS", "000001.SZ", "000002.SZ")])
def test_the_return_of_a_reopening_counts(columns):
    """The day after the holiday is the worst of the year, and belongs to the tail."""
    frame = chinese(columns)
    long = np.diff(frame.index).astype("timedelta64[D]").astype(int)
    assert sorted(long[long > 5]) == [8, 8, 9, 10, 10, 11]
    check_all_returns(one(frame, columns[0], alpha=[0.05, 0.01]), frame[columns[0]])


def test_a_holiday_counts_beside_another_market():
    """A share of New York that trades through the holiday is on another calendar."""
    own = chinese()
    index = pd.bdate_range("2018-01-01", "2020-12-31")
    closed = ["01-01", "01-15", "02-19", "03-30", "05-28", "07-04", "09-03", "11-22", "12-25"]
    closed += ["01-21", "02-18", "04-19", "05-27", "09-02", "11-28", "01-20", "02-17", "04-10"]
    index = index[~index.strftime("%m-%d").isin(closed)]
    both = own.join(walk(len(index), ["SPY"], seed=9).set_axis(index), how="outer")
    check_all_returns(one(both, "600519.SS", alpha=[0.05, 0.01]), own["600519.SS"])
    joint = both.dropna().pct_change(fill_method=None).dropna()
    row = rows_with(both, "600519.SS", benchmark="SPY")["600519.SS"]
    expected = joint["600519.SS"].cov(joint["SPY"]) / joint["SPY"].var()
    assert row.values["n_joint"] == len(joint)
    assert row.values["beta"] == pytest.approx(expected)


def test_missing_data_among_shares_of_one_market_is_a_gap():
    """Seven days without a price while the others trade: the return is left out, and named."""
    frame = walk(300)
    frame.iloc[100:107, 0] = np.nan
    frame.iloc[200:207, 0] = np.nan
    row = one(frame)
    assert "gap" in row.flags
    assert row.message == (
        "column 'AAA': 2 returns over a gap were left out (2022-05-20 to 2022-06-01, 2022-10-07 to "
        "2022-10-19)."
    )
    moves = frame["AAA"].dropna().pct_change(fill_method=None).drop(["2022-06-01", "2022-10-19"])
    assert row.values["vol_ann"] == pytest.approx(moves.std() * math.sqrt(252))
    assert one(frame, "BBB").message is None


@pytest.mark.parametrize(("days", "left_out"), [(14, False), (15, True)])
def test_a_closure_of_more_than_two_weeks_is_a_gap(days, left_out):
    """Nobody calls that one day's return."""
    index = pd.bdate_range("2022-01-03", periods=300)
    end = index[100] + pd.Timedelta(days=days)  # a Monday and a Monday, or a Tuesday
    index = index[(index <= index[100]) | (index >= end)]
    frame = walk(len(index), ["AAA"]).set_axis(index)
    assert ("gap" in one(frame).flags) is left_out


def test_many_gaps_are_counted():
    """Three are named."""
    frame = walk(300, ["AAA", "BBB"])
    for begin in range(20, 280, 40):
        frame.iloc[begin : begin + 8, 0] = np.nan
    assert "7 returns over a gap were left out" in one(frame).message
    assert "and 4 more)" in one(frame).message


def test_returns_that_are_given_are_all_kept():
    """They were made by the user: nothing is left out, and no message says so."""
    moves = walk(300).pct_change(fill_method=None).dropna()
    moves.iloc[100:107, 0] = np.nan
    row = one(moves, returns=True)
    assert row.message is None
    assert row.values["vol_ann"] == pytest.approx(moves["AAA"].std() * math.sqrt(252))
