"""Factor betas against statsmodels, and the factors that are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from price_data import walk
from urisk_nb import RiskParams, assess
from urisk_nb.errors import InputError

COLUMNS = ("AAA", "BBB", "SPY", "TLT")


def fit(tickers="AAA, BBB", frame=None, factors="SPY,TLT", **params):
    frame = walk(columns=COLUMNS) if frame is None else frame
    return assess(tickers, prices=frame, factors=factors, params=params).factors()


def check(row, y, x):
    """A row against statsmodels: coefficients, standard errors, R2 and count."""
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant

    joint = pd.concat([y.rename("y"), x], axis=1).dropna()
    moves = joint.pct_change(fill_method=None).dropna()
    expected = OLS(moves["y"], add_constant(moves.drop(columns="y"))).fit()
    assert row["n"] == expected.nobs
    assert row["r2"] == pytest.approx(expected.rsquared)
    assert row["alpha"] == pytest.approx(expected.params["const"])
    assert row["alpha_se"] == pytest.approx(expected.bse["const"])
    for name in x:
        assert row[f"beta_{name}"] == pytest.approx(expected.params[name])
        assert row[f"beta_{name}_se"] == pytest.approx(expected.bse[name])


@pytest.mark.parametrize("factors", [["SPY"], ["SPY", "TLT"], ["SPY", "TLT", "BBB"]])
def test_betas_by_statsmodels(factors):
    """Of each ticker on its own joint dates, with a day missing here and there."""
    frame = walk(columns=COLUMNS)
    frame["AAA"] *= (1 + frame["SPY"].pct_change().fillna(0)).cumprod()
    frame.loc[frame.index[[9, 80]], "AAA"] = np.nan
    frame.loc[frame.index[[80, 81]], "TLT"] = np.nan
    seen = fit("AAA", frame, factors)
    check(seen.loc["AAA"], frame["AAA"], frame[factors])
    assert seen.loc["AAA", "flags"] == ""


def test_the_portfolio_is_one_more_row():
    """Its returns are those of the rebalanced book; its betas are the weighted betas."""
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant

    frame = walk(columns=COLUMNS)
    seen = fit("AAA=0.7, BBB=-0.2", frame)
    for name in ("alpha", "beta_SPY", "beta_TLT"):
        expected = 0.7 * seen.loc["AAA", name] - 0.2 * seen.loc["BBB", name]
        assert seen.loc["portfolio", name] == pytest.approx(expected)
    moves = frame.pct_change(fill_method=None).dropna()
    book = OLS(moves[["AAA", "BBB"]] @ [0.7, -0.2], add_constant(moves[["SPY", "TLT"]])).fit()
    assert seen.loc["portfolio", "r2"] == pytest.approx(book.rsquared)
    assert seen.loc["portfolio", "beta_SPY_se"] == pytest.approx(book.bse["SPY"])


def test_a_factor_is_itself():
    """Beta 1 on itself, 0 on the other, and all of the variance."""
    row = fit("SPY").loc["SPY"]
    assert [row["beta_SPY"], row["beta_TLT"], row["r2"]] == pytest.approx([1, 0, 1], abs=1e-9)


def test_factors_of_very_different_size():
    """A factor in units of 1e-9 keeps its digits."""
    frame = walk(columns=COLUMNS)
    moves = frame.pct_change(fill_method=None).dropna()
    small = moves.assign(TLT=moves["TLT"] * 1e-9)
    seen = fit("AAA", small, returns=True).loc["AAA"]
    usual = fit("AAA", moves, returns=True).loc["AAA"]
    assert seen["beta_TLT"] * 1e-9 == pytest.approx(usual["beta_TLT"])
    assert seen["beta_SPY_se"] == pytest.approx(usual["beta_SPY_se"])


def test_a_frame_of_prices_or_of_returns():
    """A DataFrame of factors, as prices or as returns, gives what its columns would."""
    frame = walk(columns=COLUMNS)
    own, beside = frame[["AAA"]], frame[["SPY", "TLT"]]
    expected = fit("AAA", frame)
    pd.testing.assert_frame_equal(fit("AAA", own, beside), expected)
    moves = beside.pct_change(fill_method=None).dropna()
    # the first return has no price before it, so one joint return fewer is left
    seen = fit("AAA", own, moves, factor_returns=True)
    check(seen.loc["AAA"], frame["AAA"].iloc[1:], frame[["SPY", "TLT"]].iloc[1:])
    one = fit("AAA", own, beside["SPY"])
    pd.testing.assert_frame_equal(one, fit("AAA", frame, "SPY"))
    both = fit("AAA", own.pct_change(fill_method=None).dropna(), moves, returns=True)
    assert both.loc["AAA", "beta_TLT"] == pytest.approx(expected.loc["AAA", "beta_TLT"])


REFUSED = {
    "a column twice": ("SPY,SPY", "'SPY' twice", "factors='SPY'"),
    "an unknown column": ("SPY,TLTT", "factors='TLTT' is no column", "did you mean 'TLT'"),
    "no name": (",", "factors is empty", "leave factors out"),
    "a number": (5, "factors is an int", "SPY,TLT"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_factors_that_are_none(case):
    """What was seen, and what to write."""
    given, seen, fix = REFUSED[case]
    with pytest.raises(InputError) as caught:
        fit(factors=given)
    assert seen in caught.value.message
    assert fix in caught.value.fix


def test_collinear_factors_are_refused():
    """One that is another at twice the size, or a sum of two, is named with the others."""
    frame = walk(columns=COLUMNS)
    moves = frame.pct_change(fill_method=None).dropna()
    moves["TWICE"] = 2 * moves["SPY"] + 0.0001
    moves["BOTH"] = moves["SPY"] - 3 * moves["TLT"]
    for names in ("SPY,TWICE", "SPY,TLT,BOTH"):
        with pytest.raises(InputError) as caught:
            fit("AAA", moves, names, returns=True)
        assert "follows from" in caught.value.message
        assert "100.0000 %" in caught.value.message
        kept = caught.value.fix.split("'")[1]
        assert len(fit("AAA", moves, kept, returns=True)) == 1
    rounded = frame.assign(TWICE=(frame["SPY"] * 2.5).round(2))
    with pytest.raises(InputError, match="follows from"):
        fit("AAA", rounded, "SPY,TWICE")
    close = moves.assign(CLOSE=moves["SPY"] + 0.1 * moves["TLT"])
    assert not fit("AAA", close, "SPY,CLOSE", returns=True).isna().any(axis=None)


def test_flat_short_and_bad_factors_are_refused():
    """Each with what was seen."""
    frame = walk(columns=COLUMNS)
    with pytest.raises(InputError, match="'TLT' does not move"):
        fit("AAA", frame.assign(TLT=7.0))
    with pytest.raises(InputError, match=r"share 19 returns .*; 30 are needed"):
        fit("AAA", frame.assign(TLT=frame["TLT"].where(np.arange(300) < 20)))
    with pytest.raises(InputError, match="factor 'TLT' has 1 price <= 0"):
        fit("AAA", frame.assign(TLT=frame["TLT"].where(np.arange(300) != 20, -1)))
    percent = 100 * frame[["SPY"]].pct_change(fill_method=None).dropna()
    with pytest.raises(InputError, match="per cent") as caught:
        fit("AAA", frame[["AAA"]], percent, factor_returns=True)
    assert "/ 100" in caught.value.fix


def test_a_frame_of_returns_is_told_its_own_switch():
    """`returns` is about the prices: with it this run would be wrong."""
    frame = walk(columns=COLUMNS)
    moves = frame[["SPY"]].pct_change(fill_method=None).iloc[1:]
    with pytest.raises(InputError, match="prices <= 0") as caught:
        fit("AAA", frame[["AAA"]], moves)
    assert "returns=True" not in caught.value.message
    assert "factor_returns=True" in caught.value.fix
    assert fit("AAA", frame[["AAA"]], moves, factor_returns=True)["n"].notna().all()


def test_an_unknown_factor_is_told_what_there_is():
    with pytest.raises(InputError, match="no column") as caught:
        fit("AAA", walk(columns=COLUMNS), "NOPE")
    assert "such as AAA, BBB" in caught.value.fix


def test_a_ticker_that_shares_too_little():
    """NaN with its flag; the others go on, and the portfolio says that it has none."""
    frame = walk(columns=COLUMNS)
    frame["BBB"] = frame["BBB"].where(np.arange(300) < 20)
    seen = fit("AAA=0.5, BBB=0.5, XXX", frame)
    assert seen["flags"].to_dict() == {
        "AAA": "",
        "BBB": "short_joint",
        "XXX": "no_data",
        "portfolio": "short_joint",
    }
    assert seen.loc["BBB", ["alpha", "beta_SPY", "r2"]].isna().all()
    assert fit("AAA=0.5, XXX=0.5")["flags"]["portfolio"] == "no_portfolio"


def test_factors_that_are_collinear_for_one_ticker_alone():
    """In the part of the history that a ticker has, two factors may be one."""
    moves = walk(columns=COLUMNS).pct_change(fill_method=None).dropna()
    moves.loc[moves.index[:60], "TLT"] = 3 * moves["SPY"]
    moves["BBB"] = moves["BBB"].where(np.arange(299) < 60)
    seen = fit("AAA, BBB", moves, returns=True)
    assert seen["flags"].to_dict() == {"AAA": "", "BBB": "collinear_factors"}
    assert seen.loc["BBB", ["alpha", "beta_SPY", "r2"]].isna().all()


def test_the_record_of_a_run_names_its_factors():
    """A DataFrame is recorded by its columns; in the parameters it is refused."""
    frame = walk(columns=COLUMNS)
    table = assess("AAA", prices=frame[["AAA"]], factors=frame[["SPY"]])
    assert table.report.meta["params"]["factors"] == ["SPY"]
    with pytest.raises(InputError, match="a DataFrame"):
        RiskParams(factors=frame)
    with pytest.raises(InputError, match="factors were given without prices"):
        assess("AAA", evidence={"AAA": ["It fell."]}, factors="SPY", params={"llm": False})


def test_a_column_that_is_a_factor_is_used():
    """The note on columns that no ticker means leaves the factors out."""
    text = repr(assess("AAA, BBB", prices=walk(columns=COLUMNS), factors="SPY"))
    assert "1 column of the prices is not in the list: TLT" in text
