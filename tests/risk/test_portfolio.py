"""The portfolio of a run: joint dates, weights as given, and what is missing with its reason."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from price_data import walk
from urisk_nb import assess
from urisk_nb.risk import metrics
from urisk_nb.risk.row_warnings import WARNINGS

W3 = {"AAA": 0.5, "BBB": 0.3, "CCC": 0.2}
COMPONENTS = ["comp_vol_share", "comp_es", "comp_es_share"]


def run(weights, frame=None, **params):
    return assess(weights, prices=walk() if frame is None else frame, params=params)


def returns_of(frame, weights):
    """The returns of the rebalanced portfolio, by pandas: after the intersection of dates."""
    joint = frame[list(weights)].dropna()
    return joint.pct_change(fill_method=None).dropna() @ pd.Series(weights)


def test_figures_by_pandas_and_empyrical():
    """Every figure of the Series, from the joint returns, by other code."""
    import empyrical

    frame = walk()
    moves, seen = returns_of(frame, W3), run(W3, frame, alpha=[0.05, 0.02]).portfolio
    expected = {
        "holdings": 3,
        "weight_sum": 1.0,
        "weight_gross": 1.0,
        "effective_number": 1 / (0.25 + 0.09 + 0.04),
        "n_obs": 299,
        "ann_factor": 252.0,
        "ret_total": empyrical.cum_returns_final(moves),
        "vol_ann": empyrical.annual_volatility(moves, annualization=252),
        "max_dd": -empyrical.max_drawdown(moves),
        "var_95": -np.sort(moves)[14],
        "var_98": -np.sort(moves)[5],
        # the mean of the worst 14.95 of 299
        "es_95": -(np.sort(moves)[:14].sum() + 0.95 * np.sort(moves)[14]) / 14.95,
    }
    assert {name: seen[name] for name in expected} == pytest.approx(expected)
    assert (seen["first_obs"], seen["last_obs"]) == (frame.index[0], frame.index[-1])
    assert (seen["period"], seen["flags"], seen["reason"]) == ("day", "", None)
    assert seen.name == "portfolio"


def test_components_sum_and_a_hedge_is_negative():
    """To 1e-12 in the columns of the table; the short leg of a pair lowers the risk."""
    frame = walk()
    frame["BBB"] = frame["AAA"] * np.linspace(1, 1.02, len(frame))
    table = run({"AAA": 1.0, "BBB": -0.4, "CCC": 0.2}, frame)
    assert table["comp_es"].sum() == pytest.approx(table.portfolio["es_95"], abs=1e-12)
    assert table["comp_es_share"].sum() == pytest.approx(1, abs=1e-12)
    assert table["comp_vol_share"].sum() == pytest.approx(1, abs=1e-12)
    assert (table.loc["BBB", COMPONENTS] < 0).all()
    moves = returns_of(frame, {"AAA": 1.0, "BBB": -0.4, "CCC": 0.2})
    assert table.portfolio["es_95"] == pytest.approx(metrics.expected_shortfall(moves))


def test_components_are_of_the_first_tail():
    """With alpha 0.01 first, `comp_es` sums to es_99."""
    table = run(W3, walk(600), alpha="0.01,0.05")
    assert table["comp_es"].sum() == pytest.approx(table.portfolio["es_99"], abs=1e-12)


def test_the_same_book_in_any_order_and_size():
    """The order of the tickers changes nothing; twice the weights is twice the risk."""
    base, other = run(W3), run({"CCC": 0.2, "AAA": 0.5, "BBB": 0.3})
    pd.testing.assert_series_equal(base.portfolio, other.portfolio)
    pd.testing.assert_frame_equal(
        pd.DataFrame(base)[COMPONENTS], pd.DataFrame(other)[COMPONENTS].loc[["AAA", "BBB", "CCC"]]
    )
    twice = run({name: 2 * weight for name, weight in W3.items()})
    for name in ("vol_ann", "var_95", "es_95", "var_95_gaussian", "var_95_filtered"):
        assert twice.portfolio[name] == pytest.approx(2 * base.portfolio[name])
    for name in ("diversification_ratio", "effective_number"):
        assert twice.portfolio[name] == pytest.approx(base.portfolio[name])
    scaled = run({name: 2 * weight for name, weight in W3.items()}, normalise=True)
    assert scaled.portfolio["es_95"] == pytest.approx(base.portfolio["es_95"])


def test_a_net_zero_book_has_figures():
    """Long one, short the other: ratio and effective number go by the size of the positions."""
    frame = walk()
    table = run({"AAA": 1.0, "BBB": -1.0}, frame)
    seen = table.portfolio
    assert (seen["weight_sum"], seen["weight_gross"], seen["effective_number"]) == (0, 2, 2)
    moves = frame[["AAA", "BBB"]].pct_change(fill_method=None).dropna()
    spread = (moves["AAA"] - moves["BBB"]).std()
    assert seen["diversification_ratio"] == pytest.approx(moves.std().sum() / spread)
    assert table["comp_es"].sum() == pytest.approx(seen["es_95"], abs=1e-12)


def test_a_zero_weight_adds_nothing():
    """Neither its risk nor its short history: it is no position."""
    frame = walk()
    frame.loc[frame.index[:200], "CCC"] = np.nan
    alone, beside = run({"AAA": 0.6, "BBB": 0.4}, frame), run({**W3, "AAA": 0.6, "CCC": 0.0}, frame)
    beside = run({"AAA": 0.6, "BBB": 0.4, "CCC": 0.0}, frame)
    assert beside.portfolio["es_95"] == alone.portfolio["es_95"]
    assert beside.portfolio["n_obs"] == 299
    assert beside.loc["CCC", COMPONENTS].tolist() == [0, 0, 0]


def test_returns_are_made_after_the_intersection():
    """A day that one lacks is left out for all; the two-day return of the others counts."""
    frame = walk()
    frame.loc[frame.index[[50, 51, 120]], "BBB"] = np.nan
    seen = run(W3, frame).portfolio
    moves = returns_of(frame, W3)
    assert seen["n_obs"] == len(moves) == 296
    assert seen["es_95"] == pytest.approx(metrics.expected_shortfall(moves))


def test_prices_and_their_returns_agree():
    """Given as returns the figures are the same, and the wealth stands in the report."""
    frame = walk()
    moves = frame.pct_change(fill_method=None).iloc[1:]
    of_prices, of_returns = run(W3, frame), run(W3, moves, returns=True)
    for name in ("vol_ann", "es_95", "max_dd", "ret_total", "var_95_cornish_fisher"):
        assert of_returns.portfolio[name] == pytest.approx(of_prices.portfolio[name])
    wealth = of_returns.report.prices
    expected = (frame / frame.iloc[0]).iloc[1:]
    assert np.allclose(wealth, expected)
    assert of_prices.report.prices.equals(frame.rename_axis(columns="ticker"))


# --- what is missing, and why ---


def test_a_holding_without_prices_leaves_no_portfolio():
    """NaN everywhere, flagged, and the ticker named; it is never dropped."""
    table = run({**W3, "DDD": 0.1})
    seen = table.portfolio
    assert seen["flags"] == "no_portfolio"
    assert seen["reason"] == "The portfolio cannot be computed: DDD has no usable prices."
    assert np.isnan(seen[["vol_ann", "var_95", "es_95", "max_dd"]].astype(float)).all()
    assert table[COMPONENTS].isna().all(axis=None)
    assert table["flags"].str.contains("no_portfolio").all()
    assert seen["reason"] in repr(table).replace("\n  ", " ")
    assert table.backtest().empty
    bad = walk()
    bad.loc[bad.index[3], "BBB"] = -1.0
    assert "BBB has no usable" in run(W3, bad).portfolio["reason"]


def test_holdings_that_share_no_dates():
    """The reason names the one with the shortest history."""
    frame = walk()
    frame.loc[frame.index[:150], "AAA"] = np.nan
    frame.loc[frame.index[150:], "BBB"] = np.nan
    frame.loc[frame.index[140:], "BBB"] = np.nan
    seen = run(W3, frame).portfolio
    assert seen["reason"] == (
        "The portfolio cannot be computed: its holdings share 0 dates; BBB has the shortest "
        "history."
    )


def test_a_short_joint_history_is_flagged():
    """Under half of the longest history: figures, a flag on portfolio and rows, and a reason."""
    frame = walk()
    frame.loc[frame.index[:200], "CCC"] = np.nan
    table = run(W3, frame)
    seen = table.portfolio
    assert (seen["n_obs"], seen["flags"]) == (99, "short_joint;short_tail")
    assert "share 99 returns of at most 299; CCC has the shortest history" in seen["reason"]
    assert table["flags"].str.contains("short_joint").all()
    assert not math.isnan(seen["vol_ann"])
    frame = walk()
    frame.loc[frame.index[:140], "CCC"] = np.nan
    assert run(W3, frame).portfolio["flags"] == ""


def test_a_position_that_ends_early_is_flagged():
    """The joint dates end with it: the last one and the days since are said."""
    frame = walk()
    frame.loc[frame.index[250:], "CCC"] = np.nan
    seen = run(W3, frame).portfolio
    assert (seen["flags"], seen["last_obs"]) == ("stale", frame.index[249])
    days = (frame.index[-1] - frame.index[249]).days
    assert f"end on {frame.index[249].date()}, {days} days before" in seen["reason"]


def test_a_short_tail_and_a_short_history():
    """NaN beside the same flags as in a row, and no component without its total."""
    table = run(W3, walk(60))
    seen = table.portfolio
    assert (math.isnan(seen["var_95"]), math.isnan(seen["vol_ann"])) == (True, False)
    assert not math.isnan(seen["var_95_gaussian"])
    assert seen["flags"] == "short_tail"
    assert table["comp_es"].isna().all()
    assert table["comp_vol_share"].sum() == pytest.approx(1)
    assert table["flags"].str.contains("no_portfolio").all()
    short = run(W3, walk(20)).portfolio
    assert short["flags"] == "short_history;short_joint;short_tail"
    assert "shortest history" not in short["reason"]  # all are as short
    assert not math.isnan(short["max_dd"])


def test_a_book_that_loses_everything_has_no_path():
    """A leveraged loss of more than the capital leaves neither drawdown nor total return."""
    frame = walk(200, ["AAA"])
    frame.iloc[100:] *= 0.4
    seen = run({"AAA": 3.0}, frame).portfolio
    assert "wiped_out" in seen["flags"].split(";")
    assert "its whole capital" in seen["reason"]
    assert (math.isnan(seen["max_dd"]), math.isnan(seen["ret_total"])) == (True, True)
    assert seen["es_95"] > 0


def test_a_ticker_without_weight_is_no_position():
    """Its components are missing, with the flag that says why; the others make the portfolio."""
    table = assess("AAA=0.6, BBB=0.4, CCC", prices=walk())
    assert table.loc["CCC", [*COMPONENTS, "weight"]].isna().all()
    assert table.loc["CCC", "flags"] == "no_weight"
    assert table.portfolio["holdings"] == 2
    zero = assess("AAA=0.6, BBB=0.4, CCC=0, ZZZ=0", prices=walk())
    assert zero.portfolio["holdings"] == 2  # a weight of 0 adds nothing


@pytest.mark.parametrize(
    ("weights", "reason"),
    [({"AAA": 0.0}, "every weight is 0"), ({"AAA": 1.0}, "neither days, weeks nor months")],
)
def test_books_without_figures(weights, reason):
    """No position, or dates of no known spacing."""
    frame = walk(200, ["AAA"], freq="3D") if weights["AAA"] else walk(200, ["AAA"])
    table = run(weights, frame)
    if weights["AAA"]:
        reason = "AAA has no usable prices"  # the row says why
    assert reason in table.portfolio["reason"]


def test_joint_dates_of_another_spacing():
    """Two calendars that meet every third day: the factor must be given, and then it counts."""
    frame = walk(600, ["AAA", "BBB"], freq="D")
    frame.loc[frame.index[np.arange(600) % 3 != 0], "BBB"] = np.nan
    with_factor = run({"AAA": 0.5, "BBB": 0.5}, frame, periods_per_year=122)
    assert with_factor.portfolio["n_obs"] == 199
    assert not math.isnan(with_factor.portfolio["vol_ann"])


def test_weights_without_prices():
    """Only what the weights say, and why the rest is missing."""
    table = assess({"AAA": 0.5, "BBB": 0.5}, evidence={"AAA": ["It fell."]}, params={"llm": False})
    seen = table.portfolio
    assert (seen["effective_number"], seen["flags"]) == (2, "no_portfolio")
    assert "no prices were given" in seen["reason"]
    assert "comp_es" not in table


def test_cornish_fisher_out_of_its_domain_is_flagged():
    """A few huge losses among calm days: the expansion gives no quantile."""
    frame = walk(300, ["AAA"])
    moves = frame["AAA"].pct_change(fill_method=None).fillna(0) / 20
    moves.iloc[[50, 150]] = -0.3
    seen = run({"AAA": 1.0}, (100 * (1 + moves).cumprod()).to_frame())
    assert "cf_domain" in seen.portfolio["flags"].split(";")


def test_every_flag_of_a_portfolio_is_explained():
    """Each key of the flags in the module has its sentence."""
    import inspect
    import re

    from urisk_nb.risk import factors, portfolio, stress

    source = "".join(map(inspect.getsource, (portfolio, stress, factors)))
    codes = set(re.findall(r'flags\["(\w+)"\]', source))
    for group in re.findall(r"flags=\(([^)]*)\)", source):
        codes |= set(re.findall(r'"(\w+)"', group))
    assert {"short_tail", "wiped_out", "partial_episode", "collinear_factors"} <= codes
    assert codes <= set(WARNINGS)


# --- the backtest ---


def test_the_backtest_counts_by_hand():
    """Losses beyond the order statistic of the 252 days before, counted by a loop."""
    frame = walk(700)
    moves = returns_of(frame, W3).to_numpy()
    table = run(W3, frame).backtest().set_index("method")
    worse = sum(-moves[t] > -np.sort(moves[t - 252 : t])[12] for t in range(252, len(moves)))
    row = table.loc["historical"]
    assert (row["window"], row["n"], row["exceedances"]) == (252, len(moves) - 252, worse)
    assert row["expected"] == pytest.approx(0.05 * (len(moves) - 252))
    assert list(table.index) == ["historical", "filtered", "gaussian", "cornish_fisher"]
    assert (table["flags"] == "").all()


def test_the_window_of_a_forecast():
    """A year, and at least five returns in the tail; too short a history is flagged."""
    table = run(W3, walk(700), alpha="0.05,0.01").backtest()
    assert table.groupby("alpha")["window"].first().to_dict() == {0.05: 252, 0.01: 500}
    assert (table.loc[table["alpha"] == 0.01, "flags"] == "short_backtest").all()
    weekly = run(W3, walk(90, freq="W")).backtest()
    assert (weekly["window"] == 100).all()
    assert weekly[["LR", "p_value"]].isna().all(axis=None)
    assert (weekly["n"] == 0).all()
    assert (weekly["flags"] == "short_backtest").all()


def test_a_wrong_forecast_is_rejected():
    """Calm years, then twice the volatility: a year's own losses are exceeded too often."""
    rng = np.random.default_rng(5)
    moves = np.concatenate((rng.normal(0, 0.005, 400), rng.normal(0, 0.02, 150)))
    frame = pd.DataFrame(
        {"AAA": 100 * np.cumprod(1 + moves)}, index=pd.bdate_range("2022-01-03", periods=550)
    )
    table = run({"AAA": 1.0}, frame).backtest().set_index("method")
    assert table.loc["historical", "p_value"] < 0.001
    assert table.loc["filtered", "p_value"] > 0.01


def test_the_plan_has_the_returns_by_date():
    """Each on the day that it ends on; the one across a gap is left out of them."""
    import empyrical

    from urisk_nb.session import open_run

    frame = walk().drop(walk().index[100:160])
    found = open_run(W3, prices=frame).plan.portfolio
    moves = returns_of(frame, W3)
    assert found.returns.index.equals(moves.drop(walk().index[160]).index)
    assert np.allclose(found.returns, moves.drop(walk().index[160]))
    assert "gap" in found.flags
    assert found.figures["ret_total"] == pytest.approx(empyrical.cum_returns_final(moves))


def test_cash_is_what_the_weights_leave():
    """A ticker CASH without prices is told so, and doing it gives the book with half in cash."""
    frame = walk()
    reason = assess("AAA=0.5, CASH=0.5", prices=frame).portfolio["reason"]
    assert "CASH has no usable prices; if CASH is cash, leave it out of the list" in reason
    half, whole = (assess(text, prices=frame).portfolio for text in ("AAA=0.5", "AAA=1"))
    assert half["vol_ann"] == pytest.approx(whole["vol_ann"] / 2)
    assert "is cash" not in assess("AAA=0.5, ZZZ=0.5", prices=frame).portfolio["reason"]
    priced = assess("AAA=0.5, CASH=0.5", prices=walk(columns=("AAA", "CASH")))
    assert priced.portfolio["reason"] is None
