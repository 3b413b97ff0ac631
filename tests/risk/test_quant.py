"""
The rows of the table against independent libraries, and the rules of what is left out, with its
reason.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from price_data import one, rows_with, walk
from urisk_nb.errors import InputError
from urisk_nb.readers.holdings import parse_tickers
from urisk_nb.readers.prices import read_prices
from urisk_nb.risk import metrics, quant
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.quant import quant_columns, quant_rows

# --- as published, and by independent libraries ---


STOCKS = {
    "GOOG": {
        "vol_ann": 0.23719293,
        "var_95": 0.05285865,
        "es_95": 0.06930261,
        "max_dd": 0.20909166,
        "beta": 0.83774973,
    },
    "MSFT": {
        "vol_ann": 0.19270080,
        "var_95": 0.03922422,
        "es_95": 0.05841349,
        "max_dd": 0.14112092,
        "beta": 0.72266380,
    },
}


@pytest.mark.parametrize("ticker", STOCKS)
def test_real_weekly_prices(ticker):
    """
    Two years of weekly prices give the method's published figures, to every digit that it prints.
    """
    import plotly.data

    frame = plotly.data.stocks()
    rows = rows_with(frame, [name for name in frame.columns if name != "date"], benchmark="equal")
    row = rows[ticker]
    assert {name: row.values[name] for name in STOCKS[ticker]} == pytest.approx(
        STOCKS[ticker], abs=5.1e-9
    )
    assert (
        row.values["ann_factor"],
        row.values["period"],
        row.values["n_obs"],
        row.flags,
        row.status,
    ) == (52, "week", 105, (), "ok")


def test_real_drawdown_dates():
    """GOOG fell from 2018-07-23 to 2018-12-17."""
    import plotly.data

    values = rows_with(plotly.data.stocks(), "GOOG")["GOOG"].values
    assert (values["max_dd_peak"], values["max_dd_trough"]) == (
        pd.Timestamp("2018-07-23"),
        pd.Timestamp("2018-12-17"),
    )


@pytest.mark.parametrize("seed", range(3))
def test_independent_libraries_agree(seed):
    """Empyrical, scipy, pandas and statsmodels compute the same numbers by other code."""
    import empyrical
    import scipy.stats
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant

    frame = walk(seed=seed)
    rows = rows_with(frame, list(frame.columns), benchmark="BBB")
    changes = frame.pct_change(fill_method=None).dropna()
    for name in frame.columns:
        values, mine, bench = rows[name].values, changes[name], changes["BBB"]
        fit = OLS(mine, add_constant(bench)).fit()
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
        assert {key: values[key] for key in expected} == pytest.approx(
            expected, rel=1e-9, abs=1e-12
        )


def test_months_decay_slower():
    """The decay of monthly returns is 0.97, not the daily 0.94."""
    frame = walk(60, ["AAA"], freq="ME")
    moves = frame["AAA"].pct_change(fill_method=None).dropna()
    assert one(frame).values["vol_ewma_ann"] == pytest.approx(
        math.sqrt(12 * (moves**2).ewm(alpha=0.03).mean().iloc[-1])
    )


# --- columns ---


METHOD_COLUMNS = [
    *("as_of", "first_obs", "last_obs", "n_obs", "n_missing", "stale_days", "ann_factor", "period"),
    *(
        "ret_total",
        "vol_ann",
        "vol_ewma_ann",
        "downside_dev_ann",
        "var_95",
        "var_95_lo",
        "var_95_hi",
        "es_95",
    ),
    *("max_dd", "max_dd_peak", "max_dd_trough", "cur_dd"),
    *("beta", "beta_se", "corr_bench", "n_joint"),
    *("skew", "ex_kurt", "adv_value", "amihud_1e6"),
]


def test_columns_stand_in_the_order_of_the_method():
    """Names and order of the columns are the method's; a list of alphas adds its own."""
    assert quant_columns(RiskParams(), has_volume=True, has_benchmark=True) == METHOD_COLUMNS
    more = quant_columns(
        RiskParams.of(alpha=[0.05, 0.01, 0.025]), has_volume=False, has_benchmark=False
    )
    assert [name for name in more if name.startswith("es")] == ["es_95", "es_99", "es_975"]
    assert not {"beta", "adv_value"} & set(more)
    values = one(walk(), alpha=[0.05, 0.01, 0.025]).values
    assert set(values) == {
        *quant_columns(
            RiskParams.of(alpha=[0.05, 0.01, 0.025]), has_volume=True, has_benchmark=True
        ),
        "weight",
    }


def test_the_metrics_can_be_had_from_here():
    """Each public metric stands beside the rows that are made of it, and is the same function."""
    assert set(metrics.__all__) <= set(quant.__all__)
    assert all(getattr(quant, name) is getattr(metrics, name) for name in metrics.__all__)


# --- the benchmark ---


def test_joint_statistics_are_made_after_the_intersection():
    """Beta compares returns over the same dates: each is made on the days that both have."""
    frame = walk(300, ["AAA", "BBB"])
    frame.loc[frame.index[::7], "BBB"] = np.nan
    both = frame.dropna().pct_change(fill_method=None).dropna()
    values = rows_with(frame, "AAA", benchmark="BBB")["AAA"].values
    assert values["beta"] == pytest.approx(both["AAA"].cov(both["BBB"]) / both["BBB"].var())
    assert values["n_joint"] == len(both)


def test_a_short_joint_history_is_said():
    """
    A benchmark that has less than half of the history is flagged, one with fewer than 30 joint
    returns gives NaN.
    """
    frame = walk(300, ["AAA", "BBB"])
    frame.iloc[:160, 1] = np.nan
    row = rows_with(frame, "AAA", benchmark="BBB")["AAA"]
    assert ("short_joint" in row.flags, row.values["n_joint"]) == (True, 139)
    assert not math.isnan(row.values["beta"])
    frame.iloc[:275, 1] = np.nan
    row = rows_with(frame, "AAA", benchmark="BBB")["AAA"]
    assert ("short_joint" in row.flags, math.isnan(row.values["beta"])) == (True, True)


@pytest.mark.parametrize(("rows", "flagged"), [(51, False), (50, True)])
def test_half_of_the_longer_history_is_enough(rows, flagged):
    """
    50 joint returns beside the benchmark's 100 are half and pass; 49 do not. Returns are compared
    with returns.
    """
    frame = walk(101, ["AAA", "BBB"])
    frame.iloc[:-rows, 0] = np.nan
    assert ("short_joint" in rows_with(frame, "AAA", benchmark="BBB")["AAA"].flags) is flagged


def test_equal_is_the_mean_of_the_tables_own_assets():
    """
    The equal benchmark is the mean return of the assets that are in the table, and of no other
    column.
    """
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant

    frame = walk(300, ["AAA", "BBB", "CCC"])
    moves = frame[["AAA", "BBB"]].pct_change(fill_method=None).dropna()
    fit = OLS(moves["AAA"], add_constant(moves.mean(axis=1))).fit()
    values = rows_with(frame, "AAA BBB", benchmark="equal")["AAA"].values
    assert (values["beta"], values["beta_se"]) == pytest.approx(
        (fit.params.iloc[1], fit.bse.iloc[1])
    )


@pytest.mark.parametrize("how", ["column", "equal", "given"])
def test_a_benchmarks_own_beta_is_one(how):
    """Against itself an asset has beta 1, correlation 1 and no error."""
    frame = walk(300, ["AAA"])
    given_series = frame["AAA"].rename("index") if how == "given" else None
    values = rows_with(frame, "AAA", given_series, benchmark={"column": "AAA"}.get(how, how))[
        "AAA"
    ].values
    assert (values["beta"], values["corr_bench"], values["beta_se"]) == pytest.approx(
        (1, 1, 0), abs=1e-9
    )


# --- returns instead of prices ---


def test_returns_are_taken_as_returns():
    """The same history as prices and as returns gives the same risk; it is said, never guessed."""
    frame = walk(300)
    moves = frame.pct_change(fill_method=None).dropna()
    by_price = rows_with(frame, "AAA BBB", benchmark="BBB")["AAA"].values
    by_return = rows_with(moves, "AAA BBB", benchmark="BBB", returns=True)["AAA"].values
    for name in (
        "ret_total",
        "vol_ann",
        "vol_ewma_ann",
        "var_95",
        "es_95",
        "max_dd",
        "cur_dd",
        "beta",
        "skew",
        "max_dd_trough",
    ):
        assert (
            by_return[name] == pytest.approx(by_price[name])
            if isinstance(by_price[name], float)
            else by_return[name] == by_price[name]
        )


def test_a_first_loss_is_a_drawdown_in_returns_mode():
    """Wealth starts at 1 before the first return, so a loss on the first day is a fall."""
    index = pd.bdate_range("2024-01-01", periods=3)
    values = rows_with(pd.DataFrame({"AAA": [-0.2, 0.1, 0.0]}, index=index), ["AAA"], returns=True)[
        "AAA"
    ].values
    assert values["max_dd"] == pytest.approx(0.2)


# --- minimum data, flags, status ---


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
    arrays(
        np.float64,
        st.tuples(st.integers(1, 140), st.just(3)),
        elements=st.sampled_from([np.nan, 90.0, 99.0, 100.0, 101.0, 120.0]),
    ),
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
        empty = [
            name for name in given_columns if row.values[name] is None or pd.isna(row.values[name])
        ]
        assert not empty or row.flags, empty
        assert row.status == "ok" or row.message


def test_the_order_of_columns_tickers_and_rows_changes_nothing():
    """
    Shuffled columns or tickers give the same rows to the last bit; shuffled dates too, with the
    flag.
    """
    names = [letter * 3 for letter in "ABCDEFGHI"]
    frame = walk(300, names)
    rows = rows_with(frame, names, benchmark="equal")
    assert str(rows_with(frame[names[::-1]], names, benchmark="equal")) == str(rows)
    # changes of prices near 1 add up exactly in any order; returns of any size do not, unless the
    # order is fixed
    moves = np.log(frame / 50) / 100
    forwards, backwards = (
        rows_with(moves, order, benchmark="equal", returns=True) for order in (names, names[::-1])
    )
    assert list(backwards) == names[::-1]
    assert {name: str(backwards[name]) for name in names} == {
        name: str(forwards[name]) for name in names
    }
    shuffled = rows_with(frame.sample(frac=1, random_state=1), names, benchmark="equal")
    assert {name: str(row.values) for name, row in shuffled.items()} == {
        name: str(row.values) for name, row in rows.items()
    }
    assert all(row.flags == ("unsorted",) for row in shuffled.values())


@pytest.mark.parametrize("benchmark", [None, "T0"])
def test_a_figure_does_not_depend_on_its_neighbours(benchmark):
    """
    A column alone and among 700 that share its dates, or do not, gives the same row to the last
    bit.
    """
    names = [f"T{number}" for number in range(700)]
    frame = walk(200, names)
    frame.iloc[:40, 350:] = np.nan
    frame.iloc[100, ::3] = np.nan
    rows = rows_with(frame, names, benchmark=benchmark)
    for name in (names[1], names[2], names[350], names[-1]):
        assert str(rows_with(frame[["T0", name]], name, benchmark=benchmark)[name]) == str(
            rows[name]
        )


def test_scaled_prices_have_the_same_risk():
    """Cents instead of dollars change no fraction."""
    frame = walk(300)
    cents, dollars = one(frame * 100).values, one(frame).values
    for name in ("ret_total", "vol_ann", "var_95", "es_95", "max_dd", "skew"):
        assert cents[name] == pytest.approx(dollars[name], rel=1e-9)


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
    assert [
        row.values["weight"] for row in rows_with(frame, "AAA=3, BBB=-1", normalise=True).values()
    ] == [1.5, -0.5]


def test_volume_gives_liquidity():
    """
    Long prices with volume give traded value and Amihud's ratio; volume that is none is left out
    and flagged.
    """
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
    assert (math.isnan(rows["BBB"].values["adv_value"]), "no_volume" in rows["BBB"].flags) == (
        True,
        True,
    )


BAD_RUNS = {
    "unknown benchmark": ("AAA", {"benchmark": "BBX"}, None, "did you mean 'BBB'"),
    "given without a Series": ("AAA", {"benchmark": "given"}, None, "pass the Series"),
    "two benchmarks": ("AAA", {"benchmark": "BBB"}, "series", "leave the Series out"),
    "a benchmark of words": ("AAA", {}, "words", "pd.to_numeric"),
    "a negative benchmark": ("AAA", {}, "negative", "another benchmark"),
    "a benchmark of other dates": ("AAA", {}, "elsewhere", "same dates"),
    "a benchmark that is no Series": ("AAA", {}, "list", "a Series of prices"),
    "period after the prices": (
        "AAA",
        {"start": "2030-01-01"},
        None,
        "choose a period within 2022-01-03",
    ),
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
    """
    What the table shows, docs/metrics.md explains: each column and each flag of these modules.
    """
    root = Path(__file__).parents[2]
    page = (root / "docs/metrics.md").read_text(encoding="utf-8")
    source = "".join(
        (root / "urisk_nb/risk" / name).read_text(encoding="utf-8")
        for name in ("inputs.py", "quant.py", "data_faults.py", "market.py")
    )
    flags = {
        *re.findall(r'\bflags?(?:\.add)?\(\s*"(\w+)"', source),
        "flat",
        "flat_benchmark",
        "no_volume",
        "short_volume",
        "unsorted",
        "duplicate",
        "no_weight",
        "unlikely_returns",
        "mixed_frequency",
    }
    elsewhere = {"undated", "future_evidence"}  # of the evidence, explained with it
    assert [
        name for name in [*METHOD_COLUMNS, *sorted(flags - elsewhere)] if f"`{name}`" not in page
    ] == []
