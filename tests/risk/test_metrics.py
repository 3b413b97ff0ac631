"""
The metrics against what they must be: by hand, published figures, independent libraries,
properties. Never recorded output of our own.
"""

from __future__ import annotations

import math
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from urisk_nb.errors import InputError
from urisk_nb.risk import metrics

CLOSES = [100, 102, 99, 101, 103, 97, 95, 98, 104, 100]
DATES = pd.bdate_range("2024-01-01", periods=10)
RETURNS = [new / old - 1 for old, new in pairwise(CLOSES)]


def ramp(size):
    return [(i - size / 2 - 0.5) / 1000 for i in range(1, size + 1)]


# --- by hand and as published ---


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (metrics.volatility(RETURNS), 0.03889832172),
        (metrics.volatility(RETURNS, 252), 0.61749171414),
        (metrics.volatility(RETURNS, 365), 0.74315139300),
        (metrics.ewma_volatility(RETURNS), 0.03797032809),
        (metrics.downside_deviation(RETURNS, 252), 0.41540189687),
        (metrics.drawdown(CLOSES).depth, 0.07766990291),
        (metrics.drawdown(CLOSES).current, 0.03846153846),
        (metrics.total_return(CLOSES), 0.0),
        (metrics.value_at_risk(ramp(20)), 0.0095),
        (metrics.expected_shortfall(ramp(20)), 0.0095),
        (metrics.value_at_risk(ramp(100)), 0.0455),
        (metrics.expected_shortfall(ramp(100)), 0.0475),
    ],
)
def test_figures_of_the_method(seen, expected):
    """Ten closes and two ramps give the figures of the method's own page."""
    assert seen == pytest.approx(expected, abs=1e-10)


def test_drawdown_names_its_dates():
    """The deepest fall of the ten closes runs from 2024-01-05 to 2024-01-09."""
    fall = metrics.drawdown(pd.Series(CLOSES, index=DATES, dtype=float))
    assert (fall.peak, fall.trough) == (pd.Timestamp("2024-01-05"), pd.Timestamp("2024-01-09"))


def test_drawdown_starts_at_the_last_high_and_ends_at_the_first_low():
    """Of equal highs the last counts, of equal lows the first: the fall is as short as it was."""
    fall = metrics.drawdown([100, 110, 110, 99, 105, 99])
    assert (fall.peak, fall.trough, fall.depth) == (2, 3, pytest.approx(0.1))


def test_tail_with_a_fraction_by_hand():
    """With alpha * T = 1.5 the second worst return counts half: -(0.10 + 0.5 * 0.04) / 1.5."""
    returns = [-0.10, -0.04, *[0.01] * 28]
    assert metrics.value_at_risk(returns) == 0.04
    assert metrics.expected_shortfall(returns) == pytest.approx(0.12 / 1.5, abs=1e-15)


# In binary, 0.07 * 100 is 7.000000000000001, and 1 - 0.95 is 0.050000000000000044.
@pytest.mark.parametrize(
    ("alpha", "size", "rank"),
    [(0.07, 100, 7), (1 - 0.95, 20, 1), (1 - 0.95, 40, 2), (0.07, 200, 14), (0.05, 20, 1)],
)
def test_whole_ranks_stay_whole(alpha, size, rank):
    """Where alpha * T is whole, that very rank is taken, whatever binary fractions say."""
    # In order, the worst first
    worst = [-loss for loss in (0.5 - place / 1000 for place in range(size))]
    assert metrics.value_at_risk(worst[::-1], alpha) == -worst[rank - 1]
    mean = 0.5 - (rank - 1) / 2000  # of the first `rank` losses: 0.5, 0.499, 0.498, ...
    assert metrics.expected_shortfall(worst, alpha) == pytest.approx(mean, abs=1e-12)


def test_ewma_weights_sum_to_one_by_hand():
    """Three returns of 1 %, 2 % and 3 % at 0.5: weights 1/7, 2/7, 4/7."""
    assert metrics.ewma_volatility([0.01, 0.02, 0.03], decay=0.5) == pytest.approx(
        math.sqrt((1 + 8 + 36) / 7) / 100, abs=1e-15
    )


def test_ewma_recursion_as_in_hull():
    """Hull's example: lambda 0.90, sigma 1 %, a move of 2 % gives 1.14 %."""
    assert metrics.ewma_volatility([0.01] * 500 + [0.02], decay=0.90) == pytest.approx(
        math.sqrt(0.00013), abs=1e-12
    )
    assert round(metrics.ewma_volatility([0.01] * 500 + [0.02], decay=0.90), 4) == 0.0114


def test_liquidity_by_hand():
    """Price times volume and Amihud's ratio of three days, one of them without volume."""
    assert metrics.average_daily_value([10, 10, 10, 10], [1, 3, np.nan, 2]) == 20
    assert metrics.average_daily_value(range(1, 31), [1] * 30) == 20  # the median of 10..30
    assert metrics.amihud([0.02, -0.01, 0.05], [10, 10, 10], [1e6, 2e6, 0]) == pytest.approx(
        (0.02 / 1e7 + 0.01 / 2e7) / 2 * 1e6
    )


# --- the binomial and the interval made of it ---


@given(
    st.integers(1, 3000),
    st.sampled_from([0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5]),
    st.sampled_from([0.005, 0.025, 0.2, 0.8, 0.975, 0.995]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_binomial_quantile_is_scipys(size, mass, q):
    """Our quantile function of the binomial is scipy's."""
    import scipy.stats

    assert metrics.binomial_quantile(q, size, mass) == scipy.stats.binom.ppf(q, size, mass)


def test_binomial_quantile_does_not_underflow():
    """A million observations are no matter: 0.95 to their power is no float."""
    import scipy.stats

    assert metrics.binomial_quantile(0.025, 1_000_000, 0.05) == scipy.stats.binom.ppf(
        0.025, 1_000_000, 0.05
    )


@pytest.mark.parametrize(("size", "alpha"), [(100, 0.05), (520, 0.05), (2520, 0.01), (10, 0.5)])
def test_interval_is_made_of_the_stated_ranks_and_covers(size, alpha):
    """
    The ends are the stated order statistics, and their exact coverage for independent returns is at
    least 95 %.
    """
    import scipy.stats

    low, high = (
        scipy.stats.binom.ppf(0.025, size, alpha),
        scipy.stats.binom.ppf(0.975, size, alpha) + 1,
    )
    ordered = sorted(ramp(size))
    lo, hi = metrics.value_at_risk_interval(ramp(size), alpha)
    assert (lo, hi) == (-ordered[int(high) - 1], -ordered[int(low) - 1])
    assert (
        scipy.stats.binom.cdf(high - 1, size, alpha) - scipy.stats.binom.cdf(low - 1, size, alpha)
        >= 0.95
    )
    assert lo <= metrics.value_at_risk(ramp(size), alpha) <= hi


def test_interval_is_open_where_the_sample_is_too_short():
    """Twenty returns do not bound a 5 % tail from above: NaN, not the worst return."""
    assert math.isnan(metrics.value_at_risk_interval(ramp(20), 0.05)[1])


# --- properties of the functions ---

SAMPLES = arrays(np.float64, st.integers(1, 80), elements=st.floats(-0.9, 1.0))
ALPHAS = st.sampled_from([0.005, 0.01, 0.025, 0.05, 0.1, 1 / 3, 0.5])


@given(SAMPLES, ALPHAS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_shortfall_is_the_minimum_of_rockafellar_and_uryasev(returns, alpha):
    """
    ES is min_z z + mean(max(-r - z, 0)) / alpha, found by trying every z, and is never below VaR.
    """
    losses = -returns
    minimum = min(z + np.maximum(losses - z, 0).mean() / alpha for z in losses)
    shortfall = metrics.expected_shortfall(returns, alpha)
    assert shortfall == pytest.approx(minimum, abs=1e-9)
    assert shortfall >= metrics.value_at_risk(returns, alpha)


@given(SAMPLES, ALPHAS, st.floats(0.01, 50))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_scale(returns, alpha, factor):
    """
    Doubled returns have doubled risk, and the same shape; Amihud's ratio halves with twice the
    volume.
    """
    for figure in (
        metrics.volatility,
        metrics.ewma_volatility,
        metrics.downside_deviation,
        metrics.value_at_risk,
        metrics.expected_shortfall,
    ):
        extra = (alpha,) if figure in (metrics.value_at_risk, metrics.expected_shortfall) else ()
        assert figure(returns * factor, *extra) == pytest.approx(
            figure(returns, *extra) * factor, rel=1e-9, abs=1e-9, nan_ok=True
        )
    if np.std(returns) > 1e-6:
        assert metrics.skewness(returns * factor) == pytest.approx(
            metrics.skewness(returns), rel=1e-6, abs=1e-6, nan_ok=True
        )
    once, twice = (
        metrics.amihud(returns, np.ones(len(returns)), np.full(len(returns), volume))
        for volume in (1.0, 2.0)
    )
    assert twice == pytest.approx(once / 2)


ANYTHING = arrays(
    np.float64,
    st.integers(0, 30),
    elements=st.floats(allow_nan=True, allow_infinity=True, width=64),
)
FUNCTIONS = [
    metrics.total_return,
    metrics.volatility,
    metrics.ewma_volatility,
    metrics.downside_deviation,
    metrics.value_at_risk,
    metrics.value_at_risk_interval,
    metrics.expected_shortfall,
    metrics.drawdown,
    metrics.skewness,
    metrics.excess_kurtosis,
    lambda values: metrics.beta(values, values),
    lambda values: metrics.average_daily_value(values, values),
    lambda values: metrics.amihud(values, values, values),
]


@given(ANYTHING)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_input_makes_a_warning_or_an_infinity(values):
    """
    Whatever floats come in, no warning is emitted (they are errors here), and out comes a finite
    number or NaN.
    """
    for figure in FUNCTIONS:
        out = figure(values)
        numbers = (
            [out]
            if isinstance(out, float)
            else [
                n
                for n in (out if isinstance(out, tuple) else (out.__getstate__()))
                if isinstance(n, float)
            ]
        )
        assert not any(math.isinf(number) for number in numbers)


@pytest.mark.parametrize("figure", FUNCTIONS[:10])
def test_a_nan_is_never_skipped(figure):
    """One NaN among good values gives NaN: what to leave out is the caller's decision."""
    out = figure([0.1, math.nan, 0.2, -0.1, 0.3])
    parts = (
        [out]
        if isinstance(out, float)
        else list(out)
        if isinstance(out, tuple)
        else [out.depth, out.current]
    )
    assert all(math.isnan(part) for part in parts)


@pytest.mark.parametrize("alpha", [5, 95, 0.95, 0, -0.05, math.nan, "five", True])
def test_percent_is_not_a_tail_mass(alpha):
    """alpha=5 is refused, with 0.05 as the way out."""
    with pytest.raises(InputError) as caught:
        metrics.value_at_risk(RETURNS, alpha)
    assert "0.05" in caught.value.fix


def test_unequal_lengths_are_refused():
    """Returns of other dates cannot stand beside each other."""
    with pytest.raises(InputError, match="3 returns"):
        metrics.beta([0.1, 0.2, 0.3], [0.1, 0.2])
    with pytest.raises(InputError, match="2 prices"):
        metrics.average_daily_value([1, 2], [1])
    with pytest.raises(InputError, match="not numbers"):
        metrics.volatility(["a", "b"])
