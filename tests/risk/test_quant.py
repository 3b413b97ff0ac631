"""
The metrics against what they must be: by hand, published figures, independent libraries, properties. Never recorded output of our own.
"""

from __future__ import annotations

import math
import re
from datetime import date
from itertools import pairwise
from pathlib import Path

import empyrical
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import plotly.data
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from urisk_nb.errors import InputError
from urisk_nb.risk import quant
from urisk_nb.risk.inputs import RiskParams, parse_tickers, read_prices
from urisk_nb.risk.quant import quant_columns, quant_rows

CLOSES = [100, 102, 99, 101, 103, 97, 95, 98, 104, 100]
DATES = pd.bdate_range("2024-01-01", periods=10)
RETURNS = [new / old - 1 for old, new in pairwise(CLOSES)]


def ramp(size):
    return [(i - size / 2 - 0.5) / 1000 for i in range(1, size + 1)]


def walk(rows=300, columns=("AAA", "BBB", "CCC"), *, seed=7, freq="B"):
    """Prices that look like prices."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_t(4, size=(rows, len(columns))) * 0.01
    index = pd.date_range("2022-01-03", periods=rows, freq=freq, name="date")
    return pd.DataFrame(100 * np.cumprod(1 + moves, axis=0), index=index, columns=list(columns))


def rows_with(frame, tickers, benchmark_series=None, **params):
    prices = read_prices(frame, returns=params.get("returns", False))
    return quant_rows(prices, parse_tickers(tickers), RiskParams.of(**params), benchmark_series)


def one(frame, ticker="AAA", **params):
    return rows_with(frame, ticker, **params)[ticker]


# --- by hand and as published ---


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (quant.volatility(RETURNS), 0.03889832172),
        (quant.volatility(RETURNS, 252), 0.61749171414),
        (quant.volatility(RETURNS, 365), 0.74315139300),
        (quant.ewma_volatility(RETURNS), 0.03797032809),
        (quant.downside_deviation(RETURNS, 252), 0.41540189687),
        (quant.drawdown(CLOSES).depth, 0.07766990291),
        (quant.drawdown(CLOSES).current, 0.03846153846),
        (quant.total_return(CLOSES), 0.0),
        (quant.value_at_risk(ramp(20)), 0.0095),
        (quant.expected_shortfall(ramp(20)), 0.0095),
        (quant.value_at_risk(ramp(100)), 0.0455),
        (quant.expected_shortfall(ramp(100)), 0.0475),
    ],
)
def test_figures_of_the_method(seen, expected):
    """Ten closes and two ramps give the figures of the method's own page."""
    assert seen == pytest.approx(expected, abs=1e-10)


def test_drawdown_names_its_dates():
    """The deepest fall of the ten closes runs from 2024-01-05 to 2024-01-09."""
    fall = quant.drawdown(pd.Series(CLOSES, index=DATES, dtype=float))
    assert (fall.peak, fall.trough) == (pd.Timestamp("2024-01-05"), pd.Timestamp("2024-01-09"))


def test_drawdown_starts_at_the_last_high_and_ends_at_the_first_low():
    """Of equal highs the last counts, of equal lows the first: the fall is as short as it was."""
    fall = quant.drawdown([100, 110, 110, 99, 105, 99])
    assert (fall.peak, fall.trough, fall.depth) == (2, 3, pytest.approx(0.1))


def test_tail_with_a_fraction_by_hand():
    """With alpha * T = 1.5 the second worst return counts half: -(0.10 + 0.5 * 0.04) / 1.5."""
    returns = [-0.10, -0.04, *[0.01] * 28]
    assert quant.value_at_risk(returns) == 0.04
    assert quant.expected_shortfall(returns) == pytest.approx(0.12 / 1.5, abs=1e-15)


@pytest.mark.parametrize("size", range(20, 2001, 20))
def test_whole_ranks_stay_whole(size):
    """Where alpha * T is whole, that very rank is taken, whatever binary fractions say."""
    assert quant.value_at_risk(ramp(size)) == -sorted(ramp(size))[size // 20 - 1]


def test_ewma_weights_sum_to_one_by_hand():
    """Three returns of 1 %, 2 % and 3 % at 0.5: weights 1/7, 2/7, 4/7."""
    assert quant.ewma_volatility([0.01, 0.02, 0.03], decay=0.5) == pytest.approx(math.sqrt((1 + 8 + 36) / 7) / 100, abs=1e-15)


def test_ewma_recursion_as_in_hull():
    """Hull's example: lambda 0.90, sigma 1 %, a move of 2 % gives 1.14 %."""
    assert quant.ewma_volatility([0.01] * 500 + [0.02], decay=0.90) == pytest.approx(math.sqrt(0.00013), abs=1e-12)
    assert round(quant.ewma_volatility([0.01] * 500 + [0.02], decay=0.90), 4) == 0.0114


def test_liquidity_by_hand():
    """Price times volume and Amihud's ratio of three days, one of them without volume."""
    assert quant.average_daily_value([10, 10, 10, 10], [1, 3, np.nan, 2]) == 20
    assert quant.average_daily_value(range(1, 31), [1] * 30) == 20  # the median of 10..30
    assert quant.amihud([0.02, -0.01, 0.05], [10, 10, 10], [1e6, 2e6, 0]) == pytest.approx((0.02 / 1e7 + 0.01 / 2e7) / 2 * 1e6)


STOCKS = {
    "GOOG": {"vol_ann": 0.23719293, "var_95": 0.05285865, "es_95": 0.06930261, "max_dd": 0.20909166, "beta": 0.83774973},
    "MSFT": {"vol_ann": 0.19270080, "var_95": 0.03922422, "es_95": 0.05841349, "max_dd": 0.14112092, "beta": 0.72266380},
}


@pytest.mark.parametrize("ticker", STOCKS)
def test_real_weekly_prices(ticker):
    """Two years of weekly prices give the method's published figures, to every digit that it prints."""
    frame = plotly.data.stocks()
    rows = rows_with(frame, [name for name in frame.columns if name != "date"], benchmark="equal")
    row = rows[ticker]
    assert {name: row.values[name] for name in STOCKS[ticker]} == pytest.approx(STOCKS[ticker], abs=5.1e-9)
    assert (row.values["ann_factor"], row.values["period"], row.values["n_obs"], row.flags, row.status) == (52, "week", 105, (), "ok")


def test_real_drawdown_dates():
    """GOOG fell from 2018-07-23 to 2018-12-17."""
    values = rows_with(plotly.data.stocks(), "GOOG")["GOOG"].values
    assert (values["max_dd_peak"], values["max_dd_trough"]) == (pd.Timestamp("2018-07-23"), pd.Timestamp("2018-12-17"))


# --- independent libraries ---


@pytest.mark.parametrize("seed", range(3))
def test_independent_libraries_agree(seed):
    """Empyrical, scipy, pandas and statsmodels compute the same numbers by other code."""
    frame = walk(seed=seed)
    rows = rows_with(frame, list(frame.columns), benchmark="BBB")
    changes = frame.pct_change(fill_method=None).dropna()
    for name in frame.columns:
        values, mine, bench = rows[name].values, changes[name], changes["BBB"]
        fit = sm.OLS(mine, sm.add_constant(bench)).fit()
        expected = {
            "vol_ann": empyrical.annual_volatility(mine, annualization=252),
            "downside_dev_ann": empyrical.downside_risk(mine, annualization=252),
            "max_dd": -empyrical.max_drawdown(frame[name].pct_change(fill_method=None).fillna(0)),
            "ret_total": empyrical.cum_returns_final(mine),
            "skew": scipy.stats.skew(mine, bias=False),
            "ex_kurt": mine.kurt(),
            "beta": fit.params["BBB"],
            "beta_se": fit.bse["BBB"],
            "corr_bench": mine.corr(bench),
            "vol_ewma_ann": math.sqrt(252 * (mine**2).ewm(alpha=0.06).mean().iloc[-1]),
            "cur_dd": 1 - frame[name].iloc[-1] / frame[name].max(),
        }
        assert {key: values[key] for key in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(
    st.integers(1, 3000),
    st.sampled_from([0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5]),
    st.sampled_from([0.005, 0.025, 0.2, 0.8, 0.975, 0.995]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_binomial_quantile_is_scipys(size, mass, q):
    """Our quantile function of the binomial is scipy's."""
    assert quant.binomial_quantile(q, size, mass) == scipy.stats.binom.ppf(q, size, mass)


def test_binomial_quantile_does_not_underflow():
    """A million observations are no matter: 0.95 to their power is no float."""
    assert quant.binomial_quantile(0.025, 1_000_000, 0.05) == scipy.stats.binom.ppf(0.025, 1_000_000, 0.05)


@pytest.mark.parametrize(("size", "alpha"), [(100, 0.05), (520, 0.05), (2520, 0.01), (10, 0.5)])
def test_interval_is_made_of_the_stated_ranks_and_covers(size, alpha):
    """The ends are the stated order statistics, and their exact coverage for independent returns is at least 95 %."""
    low, high = scipy.stats.binom.ppf(0.025, size, alpha), scipy.stats.binom.ppf(0.975, size, alpha) + 1
    ordered = sorted(ramp(size))
    lo, hi = quant.value_at_risk_interval(ramp(size), alpha)
    assert (lo, hi) == (-ordered[int(high) - 1], -ordered[int(low) - 1])
    assert scipy.stats.binom.cdf(high - 1, size, alpha) - scipy.stats.binom.cdf(low - 1, size, alpha) >= 0.95
    assert lo <= quant.value_at_risk(ramp(size), alpha) <= hi


def test_interval_is_open_where_the_sample_is_too_short():
    """Twenty returns do not bound a 5 % tail from above: NaN, not the worst return."""
    assert math.isnan(quant.value_at_risk_interval(ramp(20), 0.05)[1])


# --- properties of the functions ---

SAMPLES = arrays(np.float64, st.integers(1, 80), elements=st.floats(-0.9, 1.0))
ALPHAS = st.sampled_from([0.005, 0.01, 0.025, 0.05, 0.1, 1 / 3, 0.5])


@given(SAMPLES, ALPHAS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_shortfall_is_the_minimum_of_rockafellar_and_uryasev(returns, alpha):
    """ES is min_z z + mean(max(-r - z, 0)) / alpha, found by trying every z, and is never below VaR."""
    losses = -returns
    minimum = min(z + np.maximum(losses - z, 0).mean() / alpha for z in losses)
    shortfall = quant.expected_shortfall(returns, alpha)
    assert shortfall == pytest.approx(minimum, abs=1e-9)
    assert shortfall >= quant.value_at_risk(returns, alpha)


@given(SAMPLES, ALPHAS, st.floats(0.01, 50))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_scale(returns, alpha, factor):
    """Doubled returns have doubled risk, and the same shape; Amihud's ratio halves with twice the volume."""
    for figure in (quant.volatility, quant.ewma_volatility, quant.downside_deviation, quant.value_at_risk, quant.expected_shortfall):
        extra = (alpha,) if figure in (quant.value_at_risk, quant.expected_shortfall) else ()
        assert figure(returns * factor, *extra) == pytest.approx(figure(returns, *extra) * factor, rel=1e-9, abs=1e-9, nan_ok=True)
    if np.std(returns) > 1e-6:
        assert quant.skewness(returns * factor) == pytest.approx(quant.skewness(returns), rel=1e-6, abs=1e-6, nan_ok=True)
    once, twice = (quant.amihud(returns, np.ones(len(returns)), np.full(len(returns), volume)) for volume in (1.0, 2.0))
    assert twice == pytest.approx(once / 2)


ANYTHING = arrays(np.float64, st.integers(0, 30), elements=st.floats(allow_nan=True, allow_infinity=True, width=64))
FUNCTIONS = [
    quant.total_return,
    quant.volatility,
    quant.ewma_volatility,
    quant.downside_deviation,
    quant.value_at_risk,
    quant.value_at_risk_interval,
    quant.expected_shortfall,
    quant.drawdown,
    quant.skewness,
    quant.excess_kurtosis,
    lambda values: quant.beta(values, values),
    lambda values: quant.average_daily_value(values, values),
    lambda values: quant.amihud(values, values, values),
]


@given(ANYTHING)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_input_makes_a_warning_or_an_infinity(values):
    """Whatever floats come in, no warning is emitted (they are errors here), and out comes a finite number or NaN."""
    for figure in FUNCTIONS:
        out = figure(values)
        numbers = (
            [out]
            if isinstance(out, float)
            else [n for n in (out if isinstance(out, tuple) else (out.__getstate__())) if isinstance(n, float)]
        )
        assert not any(math.isinf(number) for number in numbers)


@pytest.mark.parametrize("figure", FUNCTIONS[:10])
def test_a_nan_is_never_skipped(figure):
    """One NaN among good values gives NaN: what to leave out is the caller's decision."""
    out = figure([0.1, math.nan, 0.2, -0.1, 0.3])
    parts = [out] if isinstance(out, float) else list(out) if isinstance(out, tuple) else [out.depth, out.current]
    assert all(math.isnan(part) for part in parts)


@pytest.mark.parametrize("alpha", [5, 95, 0.95, 0, -0.05, math.nan, "five", True])
def test_percent_is_not_a_tail_mass(alpha):
    """alpha=5 is refused, with 0.05 as the way out."""
    with pytest.raises(InputError) as caught:
        quant.value_at_risk(RETURNS, alpha)
    assert "0.05" in caught.value.fix


def test_unequal_lengths_are_refused():
    """Returns of other dates cannot stand beside each other."""
    with pytest.raises(InputError, match="3 returns"):
        quant.beta([0.1, 0.2, 0.3], [0.1, 0.2])
    with pytest.raises(InputError, match="2 prices"):
        quant.average_daily_value([1, 2], [1])
    with pytest.raises(InputError, match="not numbers"):
        quant.volatility(["a", "b"])


# --- the table: calendars, gaps, frequencies ---


METHOD_COLUMNS = [
    *("as_of", "first_obs", "last_obs", "n_obs", "n_missing", "stale_days", "ann_factor", "period"),
    *("ret_total", "vol_ann", "vol_ewma_ann", "downside_dev_ann", "var_95", "var_95_lo", "var_95_hi", "es_95"),
    *("max_dd", "max_dd_peak", "max_dd_trough", "cur_dd"),
    *("beta", "beta_se", "corr_bench", "n_joint"),
    *("skew", "ex_kurt", "adv_value", "amihud_1e6"),
]


def test_columns_stand_in_the_order_of_the_method():
    """Names and order of the columns are the method's; a list of alphas adds its own."""
    assert quant_columns(RiskParams(), has_volume=True, has_benchmark=True) == METHOD_COLUMNS
    more = quant_columns(RiskParams.of(alpha=[0.05, 0.01, 0.025]), has_volume=False, has_benchmark=False)
    assert [name for name in more if name.startswith("es")] == ["es_95", "es_99", "es_975"]
    assert not {"beta", "adv_value"} & set(more)
    values = one(walk(), alpha=[0.05, 0.01, 0.025]).values
    assert set(values) == {*quant_columns(RiskParams.of(alpha=[0.05, 0.01, 0.025]), has_volume=True, has_benchmark=True), "weight"}


def test_each_asset_has_its_own_calendar():
    """A share beside a coin that trades on weekends is measured on its own days, as if it stood alone; nothing is filled."""
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
        (pd.date_range("2022-01-03", periods=90, freq="D")[[day % 7 not in (4, 5) for day in range(90)]], 252, "day"),  # Sunday to Thursday
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
    assert values["vol_ann"] == pytest.approx(frame["AAA"].pct_change(fill_method=None).std() * math.sqrt(factor))


def test_months_decay_slower():
    """The decay of monthly returns is 0.97, not the daily 0.94."""
    frame = walk(60, ["AAA"], freq="ME")
    moves = frame["AAA"].pct_change(fill_method=None).dropna()
    assert one(frame).values["vol_ewma_ann"] == pytest.approx(math.sqrt(12 * (moves**2).ewm(alpha=0.03).mean().iloc[-1]))


def test_an_unknown_spacing_asks_for_the_factor():
    """Quarterly prices are bad data with the advice periods_per_year, and good data with it."""
    frame = walk(60, ["AAA"], freq="QE")
    row = one(frame)
    assert (row.status, "periods_per_year" in row.message) == ("bad_data", True)
    row = one(frame, periods_per_year=4)
    assert (row.status, row.values["ann_factor"], row.values["period"]) == ("ok", 4, "92d")


def test_a_return_across_a_gap_counts_only_where_it_belongs():
    """After three weeks of silence one return is left out of volatility and tails, but total return and drawdown see it."""
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
    assert row.values["ret_total"] == pytest.approx(frame["AAA"].iloc[-1] / frame["AAA"].iloc[0] - 1)
    assert "gap" in row.flags


def test_five_spacings_are_no_gap():
    """A step of exactly five days between daily prices is still one return (Christmas); six are not."""
    index = pd.date_range("2022-01-03", periods=60, freq="D")
    for hole, flagged in ((4, False), (5, True)):
        frame = walk(60, ["AAA"]).set_axis(index).drop(index[30 : 30 + hole])
        assert ("gap" in one(frame).flags) is flagged


def test_joint_statistics_are_made_after_the_intersection():
    """Beta compares returns over the same dates: each is made on the days that both have."""
    frame = walk(300, ["AAA", "BBB"])
    frame.loc[frame.index[::7], "BBB"] = np.nan
    both = frame.dropna().pct_change(fill_method=None).dropna()
    values = rows_with(frame, "AAA", benchmark="BBB")["AAA"].values
    assert values["beta"] == pytest.approx(both["AAA"].cov(both["BBB"]) / both["BBB"].var())
    assert values["n_joint"] == len(both)


def test_a_short_joint_history_is_said():
    """A benchmark that has less than half of the history is flagged, one with fewer than 30 joint returns gives NaN."""
    frame = walk(300, ["AAA", "BBB"])
    frame.iloc[:160, 1] = np.nan
    row = rows_with(frame, "AAA", benchmark="BBB")["AAA"]
    assert ("short_joint" in row.flags, row.values["n_joint"]) == (True, 139)
    assert row.values["beta"] == row.values["beta"]
    frame.iloc[:275, 1] = np.nan
    row = rows_with(frame, "AAA", benchmark="BBB")["AAA"]
    assert ("short_joint" in row.flags, math.isnan(row.values["beta"])) == (True, True)


@pytest.mark.parametrize(("rows", "flagged"), [(51, False), (50, True)])
def test_half_of_the_longer_history_is_enough(rows, flagged):
    """50 joint returns beside the benchmark's 100 are half and pass; 49 do not. Returns are compared with returns."""
    frame = walk(101, ["AAA", "BBB"])
    frame.iloc[:-rows, 0] = np.nan
    assert ("short_joint" in rows_with(frame, "AAA", benchmark="BBB")["AAA"].flags) is flagged


def test_equal_is_the_mean_of_the_tables_own_assets():
    """The equal benchmark is the mean return of the assets that are in the table, and of no other column."""
    frame = walk(300, ["AAA", "BBB", "CCC"])
    moves = frame[["AAA", "BBB"]].pct_change(fill_method=None).dropna()
    fit = sm.OLS(moves["AAA"], sm.add_constant(moves.mean(axis=1))).fit()
    values = rows_with(frame, "AAA BBB", benchmark="equal")["AAA"].values
    assert (values["beta"], values["beta_se"]) == pytest.approx((fit.params.iloc[1], fit.bse.iloc[1]))


@pytest.mark.parametrize("how", ["column", "equal", "given"])
def test_a_benchmarks_own_beta_is_one(how):
    """Against itself an asset has beta 1, correlation 1 and no error."""
    frame = walk(300, ["AAA"])
    given_series = frame["AAA"].rename("index") if how == "given" else None
    values = rows_with(frame, "AAA", given_series, benchmark={"column": "AAA"}.get(how, how))["AAA"].values
    assert (values["beta"], values["corr_bench"], values["beta_se"]) == pytest.approx((1, 1, 0), abs=1e-9)


def test_returns_are_taken_as_returns():
    """The same history as prices and as returns gives the same risk; it is said, never guessed."""
    frame = walk(300)
    moves = frame.pct_change(fill_method=None).dropna()
    by_price = rows_with(frame, "AAA BBB", benchmark="BBB")["AAA"].values
    by_return = rows_with(moves, "AAA BBB", benchmark="BBB", returns=True)["AAA"].values
    for name in ("ret_total", "vol_ann", "vol_ewma_ann", "var_95", "es_95", "max_dd", "cur_dd", "beta", "skew", "max_dd_trough"):
        assert by_return[name] == pytest.approx(by_price[name]) if isinstance(by_price[name], float) else by_return[name] == by_price[name]


def test_a_first_loss_is_a_drawdown_in_returns_mode():
    """Wealth starts at 1 before the first return, so a loss on the first day is a fall."""
    index = pd.bdate_range("2024-01-01", periods=3)
    values = rows_with(pd.DataFrame({"AAA": [-0.2, 0.1, 0.0]}, index=index), ["AAA"], returns=True)["AAA"].values
    assert values["max_dd"] == pytest.approx(0.2)


# --- the table: period ---


def test_future_rows_change_nothing():
    """What lies after the as-of date, good or bad, leaves no trace in the table."""
    frame = walk(300)
    now = frame.index[199].date()
    poisoned = frame.copy()
    poisoned.iloc[200:] = [-1.0, np.inf, 1e9]
    rows = [rows_with(each, ["AAA", "BBB", "CCC"], as_of=now, alpha=[0.05, 0.01]) for each in (frame.iloc[:200], frame, poisoned)]
    assert str(rows[0]) == str(rows[1]) == str(rows[2])
    words = frame.astype(object)
    words.iloc[250, 0] = "n/a"
    assert str(rows_with(words, ["AAA", "BBB", "CCC"], as_of=now, alpha=[0.05, 0.01])) == str(rows[0])
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


# --- the table: minimum data, flags, status ---


@pytest.mark.parametrize(("rows", "tail"), [(100, False), (101, True)])
def test_a_tail_needs_five_expected_observations(rows, tail):
    """99 returns have no 5 % tail, 100 have: NaN with the reason, not a number from four days."""
    row = one(walk(rows))
    assert math.isnan(row.values["var_95"]) is not tail
    assert ("short_tail" in row.flags) is not tail


@pytest.mark.parametrize(("rows", "enough"), [(30, False), (31, True)])
def test_volatility_needs_thirty_returns(rows, enough):
    """29 returns give no volatility and no moments, 30 do."""
    row = one(walk(rows))
    for name in ("vol_ann", "vol_ewma_ann", "downside_dev_ann", "skew", "ex_kurt"):
        assert math.isnan(row.values[name]) is not enough
    assert ("short_history" in row.flags) is not enough
    assert not math.isnan(row.values["ret_total"])


@given(
    arrays(np.float64, st.tuples(st.integers(1, 140), st.just(3)), elements=st.sampled_from([np.nan, 90.0, 99.0, 100.0, 101.0, 120.0])),
    st.sampled_from(["B", "D", "W", "ME"]),
    st.sampled_from([None, "equal"]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_nan_has_a_reason(values, freq, benchmark):
    """No NaN stands without a flag, and no column is missing, whatever holes the prices have."""
    index = pd.date_range("2022-01-03", periods=len(values), freq=freq)
    frame = pd.DataFrame(values, index=index, columns=["AAA", "BBB", "CCC"])
    params = RiskParams(benchmark=benchmark)
    for row in quant_rows(read_prices(frame), parse_tickers("AAA BBB CCC DDD"), params).values():
        given_columns = quant_columns(params, has_volume=False, has_benchmark=benchmark is not None)
        empty = [name for name in given_columns if row.values[name] is None or pd.isna(row.values[name])]
        assert not empty or row.flags, empty
        assert row.status == "ok" or row.message


def test_the_order_of_columns_tickers_and_rows_changes_nothing():
    """Shuffled columns or tickers give the same rows to the last bit; shuffled dates too, with the flag."""
    names = [letter * 3 for letter in "ABCDEFGHI"]
    frame = walk(300, names)
    rows = rows_with(frame, names, benchmark="equal")
    assert str(rows_with(frame[names[::-1]], names, benchmark="equal")) == str(rows)
    # changes of prices near 1 add up exactly in any order; returns of any size do not, unless the order is fixed
    moves = np.log(frame / 50) / 100
    forwards, backwards = (rows_with(moves, order, benchmark="equal", returns=True) for order in (names, names[::-1]))
    assert list(backwards) == names[::-1]
    assert {name: str(backwards[name]) for name in names} == {name: str(forwards[name]) for name in names}
    shuffled = rows_with(frame.sample(frac=1, random_state=1), names, benchmark="equal")
    assert {name: str(row.values) for name, row in shuffled.items()} == {name: str(row.values) for name, row in rows.items()}
    assert all(row.flags == ("unsorted",) for row in shuffled.values())


def test_scaled_prices_have_the_same_risk():
    """Cents instead of dollars change no fraction."""
    frame = walk(300)
    cents, dollars = one(frame * 100).values, one(frame).values
    for name in ("ret_total", "vol_ann", "var_95", "es_95", "max_dd", "skew"):
        assert cents[name] == pytest.approx(dollars[name], rel=1e-9)


BAD_COLUMNS = {
    "negative": (lambda s: s.where(s.index != s.index[3], -1.0), "bad_data", "column 'AAA' has 1 price <= 0 (first: 2022-01-06, -1.0)."),
    "zero": (lambda s: s * 0, "bad_data", "column 'AAA' has 50 prices <= 0 (first: 2022-01-03, 0.0)."),
    "infinite": (lambda s: s.where(s.index != s.index[3], np.inf), "bad_data", "1 infinite price (first: 2022-01-06, inf)"),
    "one word": (lambda s: s.astype(object).where(s.index != s.index[3], "n/a"), "bad_data", "(first: 2022-01-06, 'n/a')"),
    "words": (lambda s: s.map(str).add("x"), "bad_data", "50 values that cannot be read as a number"),
    "booleans": (lambda s: s > 0, "bad_data", "50 values"),
    "dates": (lambda s: s.index.to_series(), "bad_data", "50 values"),
    "complex": (lambda s: s * 1j, "bad_data", "50 values"),
    "broken feed": (lambda s: s.where(s.index != s.index[3], 1e300), "bad_data", "jumps by a factor"),
    "all NaN": (lambda s: s * np.nan, "no_data", "column 'AAA' has no price in the period"),
    "one price": (lambda s: s.where(s.index == s.index[3]), "no_data", "has 1 price in the period"),
    "every third day": (lambda s: s.where(np.arange(len(s)) % 2 == 0), "bad_data", "give periods_per_year"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_a_bad_column_is_a_row_with_a_status(case):
    """One column at fault is its own row's status, naming ticker and date; the others are as if it were not there."""
    change, status, message = BAD_COLUMNS[case]
    frame = walk(50)
    good = rows_with(frame[["BBB", "CCC"]], "BBB CCC", benchmark="equal")
    rows = rows_with(frame.assign(AAA=change(frame["AAA"])), "AAA BBB CCC", benchmark="equal")
    assert rows["AAA"].status == status
    assert message in rows["AAA"].message
    assert status in rows["AAA"].flags
    assert {name: str(rows[name]) for name in good} == {name: str(row) for name, row in good.items()}


def test_an_unknown_ticker_is_a_row_that_names_the_closest():
    """A ticker without a column keeps its row, and its message suggests what was meant."""
    row = rows_with(walk(50, ["NVDA", "MSFT"]), "NVDIA")["NVDIA"]
    assert (row.status, row.column, row.values["n_obs"]) == ("no_data", None, 0)
    assert "closest: NVDA" in row.message


def test_matches_that_are_not_exact_are_flagged():
    """BRK.B finds BRK-B, lower case finds itself, and both say so."""
    rows = rows_with(walk(300, ["BRK-B", "nvda"]), "BRK.B nvda NVDA", benchmark="BRK/B")
    assert (rows["BRK.B"].column, rows["BRK.B"].flags) == ("BRK-B", ("alias",))
    assert (rows["NVDA"].column, rows["NVDA"].flags) == ("nvda", ("alias", "duplicate"))


def test_flat_prices_have_no_shape():
    """A peg has volatility 0, no correlation and no moments, and the reason is given."""
    frame = walk(300, ["AAA", "BBB"]).assign(AAA=1.0)
    row = rows_with(frame, "AAA", benchmark="BBB")["AAA"]
    assert (row.values["vol_ann"], row.values["beta"], row.values["max_dd"]) == (0, 0, 0)
    assert math.isnan(row.values["corr_bench"])
    assert row.flags == ("flat", "no_drawdown")
    assert "flat_benchmark" in rows_with(frame, "BBB", benchmark="AAA")["BBB"].flags


def test_weights_stand_in_the_row():
    """Weights are taken as given, and scaled to 1 when asked."""
    frame = walk(50)
    assert [row.values["weight"] for row in rows_with(frame, "AAA=2, BBB=-1").values()] == [2, -1]
    assert [row.values["weight"] for row in rows_with(frame, "AAA=3, BBB=-1", normalise=True).values()] == [1.5, -0.5]


def test_volume_gives_liquidity():
    """Long prices with volume give traded value and Amihud's ratio; volume that is none is left out and flagged."""
    frame = walk(60, ["AAA", "BBB"])
    long = frame.stack().rename("close").reset_index().set_axis(["date", "ticker", "close"], axis=1)
    long["volume"] = np.where(long["ticker"] == "BBB", np.nan, 1000.0)
    long.loc[[0, 10], "volume"] = [-5.0, np.nan]
    rows = quant_rows(read_prices(long), parse_tickers("AAA BBB"), RiskParams())
    value = frame["AAA"] * 1000
    moves = frame["AAA"].pct_change(fill_method=None)
    ratio = (moves.abs() / value).drop(frame.index[[0, 5]]).mean() * 1e6
    assert rows["AAA"].values["adv_value"] == pytest.approx(value.iloc[-21:].median())
    assert rows["AAA"].values["amihud_1e6"] == pytest.approx(ratio)
    assert "bad_volume" in rows["AAA"].flags
    assert (math.isnan(rows["BBB"].values["adv_value"]), "no_volume" in rows["BBB"].flags) == (True, True)


BAD_RUNS = {
    "unknown benchmark": ("AAA", {"benchmark": "BBX"}, None, "did you mean 'BBB'"),
    "given without a Series": ("AAA", {"benchmark": "given"}, None, "pass the Series"),
    "two benchmarks": ("AAA", {"benchmark": "BBB"}, "series", "leave the Series out"),
    "a benchmark of words": ("AAA", {}, "words", "pd.to_numeric"),
    "a negative benchmark": ("AAA", {}, "negative", "another benchmark"),
    "a benchmark of other dates": ("AAA", {}, "elsewhere", "same dates"),
    "a benchmark that is no Series": ("AAA", {}, "list", "a Series of prices"),
    "period after the prices": ("AAA", {"start": "2030-01-01"}, None, "choose a period within 2022-01-03"),
    "as_of before the prices": ("AAA", {"as_of": "2000-01-01"}, None, "choose a period"),
    "end before the prices": ("AAA", {"end": "2000-01-01"}, None, "end=2022"),
    "weights that sum to zero": ("AAA=1, BBB=-1", {"normalise": True}, None, "leave normalise out"),
    "nothing to scale": ("AAA", {"normalise": True}, None, "NVDA=0.4"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_bad_run_is_refused_before_anything_runs(case):
    """What is wrong for the whole table is an error with a way out."""
    tickers, params, series, fix = BAD_RUNS[case]
    frame = walk(50)
    benchmark = {
        None: None,
        "series": frame["CCC"],
        "words": frame["CCC"].map(str).add("x"),
        "negative": -frame["CCC"],
        "elsewhere": frame["CCC"].shift(freq="1000D"),
        "list": [1, 2, 3],
    }[series]
    with pytest.raises(InputError) as caught:
        rows_with(frame, tickers, benchmark, **params)
    assert fix in caught.value.fix


def test_two_columns_for_one_symbol_are_refused():
    """BRK-B and BRK/B are one share class: which of them BRK.B means is the user's to say."""
    with pytest.raises(InputError, match=r"'BRK-B', 'BRK/B'"):
        rows_with(walk(50, ["BRK-B", "BRK/B"]), "BRK.B")


def test_the_page_names_every_column_and_flag():
    """What the table shows, docs/metrics.md explains: each column and each flag of these two modules."""
    root = Path(__file__).parents[2]
    page = (root / "docs/metrics.md").read_text(encoding="utf-8")
    source = "".join((root / "urisk_nb/risk" / name).read_text(encoding="utf-8") for name in ("inputs.py", "quant.py"))
    flags = {
        *re.findall(r'flags\.add\("(\w+)"', source),
        "flat",
        "flat_benchmark",
        "no_volume",
        "short_volume",
        "unsorted",
        "duplicate",
        "no_weight",
    }
    elsewhere = {"undated", "future_evidence"}  # of the evidence, explained with it
    assert [name for name in [*METHOD_COLUMNS, *sorted(flags - elsewhere)] if f"`{name}`" not in page] == []
