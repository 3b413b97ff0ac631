"""
The numbers of a portfolio against published figures, other algebra, independent libraries and
properties. Never recorded output of our own.
"""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from urisk_nb.errors import InputError
from urisk_nb.risk import metrics
from urisk_nb.risk import portfolio_metrics as own

# Uncorrelated by construction, with mean 0
ONE, TWO = np.array([1.0, -1.0, 1.0, -1.0] * 10), np.array([1.0, 1.0, -1.0, -1.0] * 10)
SCALE = math.sqrt(39 / 40)  # std with ddof=1 is then 1


def random_returns(count=4, size=300, seed=1):
    return np.random.default_rng(seed).standard_t(4, size=(count, size)) * 0.01


# --- as published ---


def test_jorions_two_currencies():
    """$2m of Canadian dollars at 5 % and $1m of euros at 12 %: Value at Risk, chapter 7."""
    returns, weights = np.array([0.05 * ONE, 0.12 * TWO]) * SCALE, [2e6, 1e6]
    shares = own.volatility_shares(returns, weights)
    total = 1.65 * metrics.volatility(own.portfolio_returns(returns, weights))
    assert total == pytest.approx(257_738.24, abs=0.005)
    assert (shares * total).tolist() == pytest.approx([105_630.43, 152_107.81], abs=0.02)
    alone = sum(1.65 * w * s for w, s in zip(weights, (0.05, 0.12), strict=True))
    assert own.diversification_ratio(returns, weights) == pytest.approx(alone / total)


def test_kupiec_as_j_p_morgan_in_1998():
    """20 exceedances in 252 days of a 95 % VaR: LR 3.91, just rejected (Jorion, chapter 6)."""
    assert own.kupiec_test(20, 252, 0.05).lr == pytest.approx(3.91, abs=0.005)


# Jorion, chapter 6: how many exceedances are not rejected at 5 %, both ends excluded
REGIONS = {
    (0.01, 510): (1, 11),
    (0.01, 1000): (4, 17),
    (0.05, 255): (6, 21),
    (0.05, 510): (16, 36),
    (0.05, 1000): (37, 65),
    (0.025, 255): (2, 12),
    (0.025, 1000): (15, 36),
    (0.1, 255): (16, 36),
    (0.1, 1000): (81, 120),
}


@pytest.mark.parametrize(("alpha", "n"), REGIONS)
def test_kupiec_rejects_where_the_published_table_does(alpha, n):
    """The region of Kupiec's table is that of p > 0.05."""
    low, high = REGIONS[alpha, n]
    kept = [x for x in range(n + 1) if own.kupiec_test(x, n, alpha).p_value > 0.05]
    assert (kept[0] - 1, kept[-1] + 1) == (low, high)


@pytest.mark.parametrize("x", [0, 1, 5, 13, 100, 250])
def test_kupiec_by_scipy(x):
    """The ratio of two binomial likelihoods, and the chi-squared tail, by scipy."""
    import scipy.stats

    n, alpha = 250, 0.05
    seen = own.kupiec_test(x, n, alpha)
    logs = [scipy.stats.binom.logpmf(x, n, p) for p in (alpha, x / n)]
    assert seen.lr == pytest.approx(2 * (logs[1] - logs[0]), abs=1e-9)
    assert seen.p_value == pytest.approx(scipy.stats.chi2.sf(seen.lr, 1), rel=1e-9, abs=1e-300)


def test_kupiec_has_limits():
    """Without forecasts there is no test; more exceedances than forecasts cannot be."""
    assert math.isnan(own.kupiec_test(0, 0).p_value)
    assert own.kupiec_test(1, 20, 0.05).lr == 0
    with pytest.raises(InputError, match="3 exceedances of 2"):
        own.kupiec_test(3, 2)


def test_the_published_cornish_fisher_quantile():
    """
    By hand for S = -1, K = 3 at z = -2: -2 + 3(-1)/6 + (-8+6)3/24 - (-16+10)/36 = -2.58333.
    """
    seen = own.formulas.cornish_fisher_quantile(-2.0, -1.0, 3.0)
    assert float(seen) == pytest.approx(-2 - 0.5 - 0.25 + 1 / 6)


# --- by other algebra and independent libraries ---


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.1])
@pytest.mark.parametrize("seed", range(2))
def test_parametric_value_at_risk_by_scipy(alpha, seed):
    """Normal quantile and bias-corrected moments as scipy has them."""
    import scipy.stats

    returns = random_returns(1, seed=seed)[0]
    z = scipy.stats.norm.ppf(alpha)
    mean, std = returns.mean(), np.std(returns, ddof=1)
    assert own.gaussian_value_at_risk(returns, alpha) == pytest.approx(
        -scipy.stats.norm.ppf(alpha, mean, std)
    )
    s, k = scipy.stats.skew(returns, bias=False), scipy.stats.kurtosis(returns, bias=False)
    # Horner's form of the same polynomial
    bent = z + s * (z**2 - 1) / 6 + z * (k * (z**2 - 3) / 24 - s**2 * (2 * z**2 - 5) / 36)
    assert own.cornish_fisher_value_at_risk(returns, alpha) == pytest.approx(-(mean + std * bent))


def test_filtered_value_at_risk_step_by_step():
    """A plain loop over the days, and the ordered losses, give the same."""
    returns, decay, alpha = random_returns(1, 260)[0], 0.9, 0.05
    variance = sum(r * r for r in returns) / len(returns)
    variances = []
    for r in returns:
        variances.append(variance)
        variance = decay * variance + (1 - decay) * r * r
    scaled = sorted(r * math.sqrt(variance / v) for r, v in zip(returns, variances, strict=True))
    assert own.filtered_value_at_risk(returns, alpha, decay=decay) == pytest.approx(-scaled[12])


def test_hulls_step_of_the_filter():
    """Hull: lambda 0.90, sigma 1 %, a move of 2 % gives sigma 1.14 %: one step of the filter."""
    returns = np.array([0.01, -0.01, 0.02])
    scaled = own.formulas.rescale_returns(returns, 0.9)
    start = np.mean(np.square(returns))
    before_last = 0.81 * start + 0.19 * 0.0001
    assert scaled[-1] == pytest.approx(
        0.02 * math.sqrt((0.9 * before_last + 0.1 * 0.0004) / before_last)
    )
    hull = own.formulas.rescale_returns(np.array([0.01] * 3000 + [0.02]), 0.9)
    assert hull[-1] / 0.02 == pytest.approx(math.sqrt(0.9 * 1 + 0.1 * 4), rel=1e-6)
    assert round(hull[-1] / 0.02 * 0.01, 4) == 0.0114


@pytest.mark.parametrize("weights", [[0.4, 0.3, 0.2, 0.1], [1, -0.5, -0.5, 0], [-1, 2, 3, -4]])
def test_shares_by_the_covariance_matrix(weights):
    """Marginal risk times weight, of numpy's covariance matrix."""
    returns, w = random_returns(), np.array(weights)
    covariance = np.cov(returns)
    expected = w * (covariance @ w) / (w @ covariance @ w)
    assert own.volatility_shares(returns, w).tolist() == pytest.approx(expected.tolist())
    ratio = np.abs(w) @ np.sqrt(np.diag(covariance)) / math.sqrt(w @ covariance @ w)
    assert own.diversification_ratio(returns, w) == pytest.approx(ratio)


@pytest.mark.parametrize("alpha", [0.05, 0.013, 0.5])
def test_tail_components_by_small_changes_of_a_weight(alpha):
    """Each component is its weight times the slope of the expected shortfall: Euler's theorem."""
    returns, w, step = random_returns(), np.array([0.4, -0.3, 0.6, 0.1]), 1e-7

    def measure(weights):
        return metrics.expected_shortfall(weights @ returns, alpha)

    slopes = [
        (measure(w + step * unit) - measure(w - step * unit)) / (2 * step) for unit in np.eye(4)
    ]
    seen = own.expected_shortfall_components(returns, w, alpha)
    assert seen.tolist() == pytest.approx((w * slopes).tolist(), abs=1e-8)


def test_a_hedge_is_negative():
    """What gains on the worst days lowers the risk."""
    returns = random_returns(1)[0]
    both = np.array([returns, -0.5 * returns])
    assert own.expected_shortfall_components(both, [1, 1])[1] < 0
    assert own.volatility_shares(both, [1, 1]).tolist() == pytest.approx([2, -1])


@pytest.mark.parametrize(
    ("weights", "number"),
    [([1], 1), ([0.25] * 4, 4), ([5, -5], 2), ([0.5, 0.25, -0.25], 8 / 3), ([3, 0], 1)],
)
def test_effective_number(weights, number):
    """By hand: N for equal sizes, whatever their signs."""
    assert own.effective_number(weights) == pytest.approx(number)


def test_what_does_not_exist_is_nan():
    """A flat portfolio has no shares, an empty one no number, and a NaN stays."""
    flat = np.full((2, 50), 0.01)
    assert np.isnan(own.volatility_shares(flat, [1, 1])).all()
    assert math.isnan(own.diversification_ratio(flat, [1, 1]))
    assert math.isnan(own.effective_number([0.0, 0.0]))
    assert math.isnan(own.filtered_value_at_risk(np.zeros(50)))
    assert math.isnan(own.gaussian_value_at_risk([0.1]))
    broken = random_returns()
    broken[0, 3] = np.nan
    assert np.isnan(own.expected_shortfall_components(broken, [1, 1, 1, 1])).all()
    assert not np.isnan(own.expected_shortfall_components(broken, [0, 1, 1, 1])).any()


def test_refusals_say_what_to_do():
    """Weights that fit no returns, an unknown method, a decay of 1."""
    with pytest.raises(InputError, match="2 weights stand beside returns of the shape"):
        own.portfolio_returns(random_returns(), [1, 2])
    with pytest.raises(InputError) as caught:
        own.rolling_value_at_risk([0.1] * 9, method="magic", window=5)
    assert "historical, filtered" in caught.value.message
    with pytest.raises(InputError, match="decay=1"):
        own.filtered_value_at_risk([0.1], decay=1)
    with pytest.raises(InputError) as caught:
        own.gaussian_value_at_risk([0.1, 0.2], 0.95)
    assert "0.05" in caught.value.fix


@pytest.mark.parametrize(
    ("skew", "kurtosis", "is_valid"),
    [(0, 0, True), (-0.5, 2, True), (-3, 2, False), (0, 30, False)],
)
def test_where_cornish_fisher_gives_quantiles(skew, kurtosis, is_valid):
    """Valid where smaller tails have larger losses, seen on a grid of quantiles."""
    import scipy.stats

    grid = np.linspace(*scipy.stats.norm.ppf([0.05, 0.95]), 400)
    quantiles = [float(own.formulas.cornish_fisher_quantile(z, skew, kurtosis)) for z in grid]
    assert (np.diff(quantiles) > 0).all() == is_valid
    assert own.has_valid_cornish_fisher(skew, kurtosis, 0.05) is is_valid


# --- properties ---

WEIGHTS = arrays(np.float64, 3, elements=st.floats(-5, 5).map(lambda x: round(x, 3)))
RETURNS = arrays(np.float64, (3, 40), elements=st.floats(-0.5, 0.5).map(lambda x: round(x, 4)))
ALPHAS = st.sampled_from([0.05, 0.013, 0.1, 0.5])


# 120 numbers are drawn for each example, which takes longer than the figures
FEW = settings(max_examples=40)


@FEW
@given(RETURNS, WEIGHTS, ALPHAS)
def test_components_sum_to_the_expected_shortfall(returns, weights, alpha):
    """To 1e-12, ties and all; and the expected shortfall is never below VaR."""
    total = own.portfolio_returns(returns, weights)
    parts = own.expected_shortfall_components(returns, weights, alpha)
    shortfall = metrics.expected_shortfall(total, alpha)
    assert math.fsum(parts) == pytest.approx(shortfall, abs=1e-12)
    assert shortfall >= metrics.value_at_risk(total, alpha)
    shares = own.volatility_shares(returns, weights)
    assert np.isnan(shares).all() or math.fsum(shares) == pytest.approx(1, abs=1e-6)
    ratio = own.diversification_ratio(returns, weights)
    assert math.isnan(ratio) or ratio >= 1 - 1e-12


@FEW
@given(RETURNS, WEIGHTS, st.permutations(range(40)))
def test_the_order_of_the_days_changes_no_component(returns, weights, order):
    """Also where several days have the loss at the edge of the tail."""
    before = own.expected_shortfall_components(returns, weights, 0.1)
    after = own.expected_shortfall_components(returns[:, order], weights, 0.1)
    assert after.tolist() == pytest.approx(before.tolist(), abs=1e-12)


@FEW
@given(RETURNS, WEIGHTS, st.floats(0.01, 100))
def test_risk_scales_with_the_book(returns, weights, size):
    """Twice the weights, twice each component; shares and ratios stay."""
    before = own.expected_shortfall_components(returns, weights, 0.05)
    after = own.expected_shortfall_components(returns * size, weights, 0.05)
    assert after.tolist() == pytest.approx((size * before).tolist(), rel=1e-9, abs=1e-9)
    assert own.effective_number(size * weights) == pytest.approx(
        own.effective_number(weights), nan_ok=True
    )


@FEW
@given(RETURNS, WEIGHTS, arrays(np.float64, 40, elements=st.floats(-0.5, 0.5) | st.just(math.nan)))
def test_a_zero_weight_adds_nothing(returns, weights, more):
    """An asset of weight 0 changes no other figure, even where it has no returns."""
    rows, sizes = np.vstack([returns, more]), np.append(weights, 0.0)
    for measure in (own.volatility_shares, own.expected_shortfall_components):
        alone = measure(returns, weights)
        beside = measure(rows, sizes)
        assert beside[:3].tolist() == pytest.approx(alone.tolist(), nan_ok=True)
        assert beside[3] == 0 or math.isnan(alone[0])
    assert own.effective_number(sizes) == pytest.approx(own.effective_number(weights), nan_ok=True)


@pytest.mark.parametrize("method", own.VALUE_AT_RISK_METHODS)
def test_a_forecast_knows_the_returns_before_it_alone(method):
    """
    The forecast of each period is the figure of its window; what follows changes nothing.
    """
    returns, window = random_returns(1, 700)[0], 60
    measure = {
        "historical": metrics.value_at_risk,
        "filtered": own.filtered_value_at_risk,
        "gaussian": own.gaussian_value_at_risk,
        "cornish_fisher": own.cornish_fisher_value_at_risk,
    }[method]
    seen = own.rolling_value_at_risk(returns, window=window, method=method)
    assert np.isnan(seen[:window]).all()
    for t in (60, 61, 300, 571, 572, 699):
        assert seen[t] == pytest.approx(measure(returns[t - window : t]), rel=1e-12)
    changed = np.append(returns[:400], 9 * returns[400:])
    after = own.rolling_value_at_risk(changed, window=window, method=method)
    assert after[: 400 + 1].tolist() == pytest.approx(seen[: 400 + 1].tolist(), nan_ok=True, abs=0)
    assert after[450] != seen[450]
