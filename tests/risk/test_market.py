"""
Each asset is measured on its own calendar, in one period for all, and a bad column is its own row's
matter.
"""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pandas as pd
import pytest

from price_data import one, rows_with, walk

# --- calendars, gaps, frequencies ---


def test_each_asset_has_its_own_calendar():
    """
    A share beside a coin that trades on weekends is measured on its own days, as if it stood alone;
    nothing is filled.
    """
    coin, share = walk(400, ["COIN"], freq="D"), walk(280, ["AAA"])
    both = coin.join(share, how="outer")
    alone, beside = one(share).values, one(both).values
    differing = {name for name in alone if alone[name] != beside[name] and not pd.isna(alone[name])}
    assert differing <= {"as_of", "n_missing", "stale_days"}
    assert (beside["ann_factor"], one(both, "COIN").values["ann_factor"]) == (252, 365)
    assert beside["n_obs"] + beside["n_missing"] == len(both)


@pytest.mark.parametrize(
    ("index", "factor", "period"),
    [
        (pd.date_range("2022-01-03", periods=60, freq="B"), 252, "day"),
        (pd.date_range("2022-01-03", periods=60, freq="D"), 365, "day"),
        # Sunday to Thursday
        (
            pd.date_range("2022-01-03", periods=90, freq="D")[
                [day % 7 not in (4, 5) for day in range(90)]
            ],
            252,
            "day",
        ),
        (pd.date_range("2022-01-03", periods=60, freq="W-WED"), 52, "week"),
        (pd.date_range("2022-01-03", periods=60, freq="ME"), 12, "month"),
        (pd.date_range("2022-01-03", periods=60, freq="MS"), 12, "month"),
        (pd.date_range("2022-01-03", periods=60, freq="BME"), 12, "month"),
    ],
)
def test_frequency_is_read_off_the_spacing(index, factor, period):
    """Days, days with weekends, weeks and months are told apart by the asset's own spacing."""
    frame = walk(len(index), ["AAA"]).set_axis(index)
    values = one(frame).values
    assert (values["ann_factor"], values["period"]) == (factor, period)
    assert values["vol_ann"] == pytest.approx(
        frame["AAA"].pct_change(fill_method=None).std() * math.sqrt(factor)
    )


def test_an_unknown_spacing_asks_for_the_factor():
    """Quarterly prices are bad data with the advice periods_per_year, and good data with it."""
    frame = walk(60, ["AAA"], freq="QE")
    row = one(frame)
    assert (row.status, "periods_per_year" in row.message) == ("bad_data", True)
    row = one(frame, periods_per_year=4)
    assert (row.status, row.values["ann_factor"], row.values["period"]) == ("ok", 4, "92d")


def test_a_return_across_a_gap_counts_only_where_it_belongs():
    """
    After three weeks of silence one return is left out of volatility and tails, but total return
    and drawdown see it.
    """
    frame = walk(300, ["AAA"])
    frame.iloc[150:] *= 0.5  # the price halves over the hole
    frame.iloc[140:150] = np.nan
    row, moves = one(frame), frame["AAA"].dropna().pct_change(fill_method=None).dropna()
    quiet = moves[moves > -0.4]
    assert len(quiet) == len(moves) - 1
    assert row.values["vol_ann"] == pytest.approx(quiet.std() * math.sqrt(252))
    assert row.values["var_95"] == pytest.approx(-sorted(quiet)[math.ceil(0.05 * len(quiet)) - 1])
    assert row.values["skew"] == pytest.approx(quiet.skew())
    assert row.values["max_dd"] > 0.45
    assert row.values["ret_total"] == pytest.approx(
        frame["AAA"].iloc[-1] / frame["AAA"].iloc[0] - 1
    )
    assert "gap" in row.flags


def test_five_spacings_are_no_gap():
    """
    A step of exactly five days between daily prices is still one return (Christmas); six are not.
    """
    index = pd.date_range("2022-01-03", periods=60, freq="D")
    for hole, flagged in ((4, False), (5, True)):
        frame = walk(60, ["AAA"]).set_axis(index).drop(index[30 : 30 + hole])
        assert ("gap" in one(frame).flags) is flagged


# --- period ---


def test_future_rows_change_nothing():
    """What lies after the as-of date, good or bad, leaves no trace in the table."""
    frame = walk(300)
    now = frame.index[199].date()
    poisoned = frame.copy()
    poisoned.iloc[200:] = [-1.0, np.inf, 1e9]
    rows = [
        rows_with(each, ["AAA", "BBB", "CCC"], as_of=now, alpha=[0.05, 0.01])
        for each in (frame.iloc[:200], frame, poisoned)
    ]
    assert str(rows[0]) == str(rows[1]) == str(rows[2])
    words = frame.astype(object)
    words.iloc[250, 0] = "halted"
    assert str(rows_with(words, ["AAA", "BBB", "CCC"], as_of=now, alpha=[0.05, 0.01])) == str(
        rows[0]
    )
    assert one(words).status == "bad_data"


@pytest.mark.parametrize(
    ("params", "first", "last"),
    [
        ({"start": "2022-06-01", "end": "2022-09-30"}, "2022-06-01", "2022-09-30"),
        ({"window": "3m", "as_of": "2022-09-30"}, "2022-06-30", "2022-09-30"),
        ({"window": "2w", "as_of": "2022-09-30"}, "2022-09-16", "2022-09-30"),
        ({"window": "10d", "end": "2022-09-30"}, "2022-09-20", "2022-09-30"),
        ({"window": "1y", "as_of": "2024-02-29"}, "2023-02-28", "2024-02-29"),
    ],
)
def test_one_period_for_all(params, first, last):
    """Start, end, window and as-of cut the same period out of every column, both ends included."""
    values = one(walk(700), **params).values
    assert (values["first_obs"], values["last_obs"]) == (pd.Timestamp(first), pd.Timestamp(last))


def test_stale_prices_are_said():
    """A price that is older than five of its own spacings is stale; a long weekend is not."""
    frame = walk(300, ["AAA", "BBB"])
    frame.iloc[-10:, 0] = np.nan
    row = one(frame)
    assert (row.values["stale_days"], "stale" in row.flags) == (14, True)
    row = one(frame, as_of=frame.index[-8].date())
    assert (row.values["stale_days"], "stale" in row.flags) == (5, False)
    assert one(frame, "BBB", as_of=date(2030, 1, 1)).values["as_of"] == pd.Timestamp("2030-01-01")


# --- columns that cannot be used ---


BAD_COLUMNS = {
    "negative": (
        lambda s: s.where(s.index != s.index[3], -1.0),
        "bad_data",
        "column 'AAA' has 1 price <= 0 (first: 2022-01-06, -1.0).",
    ),
    "zero": (
        lambda s: s * 0,
        "bad_data",
        "column 'AAA' has 50 prices <= 0 (first: 2022-01-03, 0.0).",
    ),
    "infinite": (
        lambda s: s.where(s.index != s.index[3], np.inf),
        "bad_data",
        "1 infinite price (first: 2022-01-06, inf)",
    ),
    "one word": (
        lambda s: s.astype(object).where(s.index != s.index[3], "halted"),
        "bad_data",
        "(first: 2022-01-06, 'halted')",
    ),
    "words": (
        lambda s: s.map(str).add("x"),
        "bad_data",
        "50 values that cannot be read as a number",
    ),
    "booleans": (lambda s: s > 0, "bad_data", "50 values"),
    "dates": (lambda s: s.index.to_series(), "bad_data", "50 values"),
    "complex": (lambda s: s * 1j, "bad_data", "50 values"),
    "broken feed": (
        lambda s: s.where(s.index != s.index[3], 1e300),
        "bad_data",
        "jumps by a factor",
    ),
    "all NaN": (lambda s: s * np.nan, "no_data", "column 'AAA' has no price in the period"),
    "one price": (lambda s: s.where(s.index == s.index[3]), "no_data", "has 1 price in the period"),
    "every third day": (
        lambda s: s.where(np.arange(len(s)) % 2 == 0),
        "bad_data",
        "give periods_per_year",
    ),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_a_bad_column_is_a_row_with_a_status(case):
    """
    One column at fault is its own row's status, naming ticker and date; the others are as if it
    were not there.
    """
    change, status, message = BAD_COLUMNS[case]
    frame = walk(50)
    good = rows_with(frame[["BBB", "CCC"]], "BBB CCC", benchmark="equal")
    rows = rows_with(frame.assign(AAA=change(frame["AAA"])), "AAA BBB CCC", benchmark="equal")
    assert rows["AAA"].status == status
    assert message in rows["AAA"].message
    assert status in rows["AAA"].flags
    assert {name: str(rows[name]) for name in good} == {
        name: str(row) for name, row in good.items()
    }
