"""
The numbers of a portfolio: pure functions named by their number.

The conventions are those of `metrics`: simple returns, losses as positive fractions, `alpha` the
mass of the tail, NaN for any NaN. Weights are as given: negative is short, and their sum is free.
The user's page is docs/portfolio.md.

Over 400 lines with the docstrings: each public function states its formula and source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from urisk_nb.errors import InputError
from urisk_nb.risk import formulas
from urisk_nb.risk.metrics import DECAY, NAN, FloatArray, Values, quiet
from urisk_nb.risk.params import tail_mass

__all__ = [
    "VALUE_AT_RISK_METHODS",
    "Kupiec",
    "cornish_fisher_value_at_risk",
    "diversification_ratio",
    "effective_number",
    "expected_shortfall_components",
    "filtered_value_at_risk",
    "gaussian_value_at_risk",
    "has_valid_cornish_fisher",
    "kupiec_test",
    "portfolio_returns",
    "rolling_value_at_risk",
    "volatility_shares",
]

Matrix = Sequence[Sequence[float]] | npt.NDArray[np.float64]
CHUNK_WINDOWS = 512  # windows that are forecast at once: about a megabyte of a year each


# --- weights --------------------------------------------------------------------------------------


def portfolio_returns(returns: Matrix, weights: Values) -> FloatArray:
    """
    Return the returns of the portfolio that is brought back to its weights each period.

    r_p,t = sum_i w_i r_i,t.

    Parameters
    ----------
    returns
        N x T: one row an asset, simple returns of the same periods.
    weights
        N fractions of the capital. What they leave of 1 earns nothing.

    Returns
    -------
    ndarray
        T fractions of the capital. An asset of weight 0 adds nothing, whatever its returns.

    Raises
    ------
    InputError
        The numbers of weights and of rows differ.
    """
    return np.asarray(np.sum(_weigh(returns, weights), axis=0))


def effective_number(weights: Values) -> float:
    """
    Return the number of equal positions that are as concentrated, 1 / sum p_i^2.

    p_i = |w_i| / sum |w_j|.

    Returns
    -------
    float
        From 1 (one position) to N (equal ones). Shorts count by size, so it exists for a net-zero
        book. NaN without a position.

    Notes
    -----
    The inverse of the Herfindahl-Hirschman index of the gross weights.
    """
    sizes = np.abs(np.asarray(weights, dtype=np.float64))
    total = math.fsum(sizes)
    return 1 / math.fsum(np.square(sizes / total)) if 0 < total < math.inf else NAN


@quiet
def diversification_ratio(returns: Matrix, weights: Values) -> float:
    """
    Return the volatility of the positions alone over that of the portfolio.

    sum_i |w_i| std(r_i) / std(r_p), std with ddof=1.

    Parameters
    ----------
    returns, weights
        As for `portfolio_returns`.

    Returns
    -------
    float
        1 or more; 1: nothing is diversified away. Positions count by size, so it exists for a
        net-zero book. NaN for fewer than two returns, any NaN, or a portfolio that does not move.

    Notes
    -----
    Choueifaty and Coignard (2008), with |w| in place of w for shorts.
    """
    parts = _weigh(returns, weights)
    total = np.sum(parts, axis=0)
    if not _is_usable(total):
        return NAN
    return float(formulas.diversification_ratio(parts, total))


@quiet
def volatility_shares(returns: Matrix, weights: Values) -> FloatArray:
    """
    Return the share of each position in the volatility of the portfolio.

    w_i cov(r_i, r_p) / var(r_p).

    Parameters
    ----------
    returns, weights
        As for `portfolio_returns`.

    Returns
    -------
    ndarray
        N fractions that sum to 1; negative for a hedge. Times the volatility, or times a Gaussian
        VaR without mean, they are its components. NaN for fewer than two returns, any NaN, or a
        portfolio that does not move.

    Notes
    -----
    Euler's allocation of the standard deviation; Jorion, Value at Risk, chapter 7.
    """
    parts = _weigh(returns, weights)
    total = np.sum(parts, axis=0)
    if not _is_usable(total):
        return np.full(len(parts), NAN)
    return formulas.volatility_shares(parts, total)


@quiet
def expected_shortfall_components(
    returns: Matrix, weights: Values, alpha: float = 0.05
) -> FloatArray:
    """
    Return what each position loses in the tail of the portfolio.

    -(1/(alpha T)) * [ sum of w_i r_i,t over the worst days of the portfolio ], the last of them by
    its fraction.

    Parameters
    ----------
    returns, weights
        As for `portfolio_returns`.
    alpha
        Mass of the tail in (0, 0.5].

    Returns
    -------
    ndarray
        N losses as positive fractions of the capital; negative for a hedge. They sum to the
        `expected_shortfall` of the portfolio. NaN without returns, or any NaN.

    Raises
    ------
    InputError
        `alpha` is no tail mass, or the numbers of weights and of rows differ.

    Notes
    -----
    Euler's allocation of expected shortfall (Tasche, 1999). Days on which the portfolio lost
    exactly as much as on the last day of the tail share the rest of the tail.
    """
    mass, parts = tail_mass(alpha), _weigh(returns, weights)
    total = np.sum(parts, axis=0)
    if not len(total) or not np.isfinite(total).all():
        return np.full(len(parts), NAN)
    return formulas.expected_shortfall_components(parts, total, mass)


def _weigh(returns: Matrix, weights: Values) -> FloatArray:
    """Return w_i r_i,t; an asset without weight adds nothing, even where it has no returns."""
    rows, sizes = np.asarray(returns, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if rows.ndim != 2 or len(rows) != len(sizes):
        raise InputError(
            f"{len(sizes)} weights stand beside returns of the shape {rows.shape}.",
            fix="give one row of returns for each weight: frame.to_numpy().T",
        )
    if not sizes.all():
        rows = np.where(sizes[:, None] == 0, 0.0, rows)
    return np.asarray(rows * sizes[:, None])


def _is_usable(total: FloatArray) -> bool:
    return len(total) > 1 and bool(np.isfinite(total).all()) and not formulas.is_flat(total)


# --- value at risk in other ways ------------------------------------------------------------------


@quiet
def gaussian_value_at_risk(returns: Values, alpha: float = 0.05) -> float:
    """
    Return the value at risk of a normal distribution, -(mean + z std), std with ddof=1.

    Parameters
    ----------
    returns
        Simple returns; the horizon of the figure is their period.
    alpha
        Mass of the tail in (0, 0.5]; z is its normal quantile, -1.645 for 0.05.

    Returns
    -------
    float
        Loss as a positive fraction. NaN for fewer than two returns, or any NaN.

    Raises
    ------
    InputError
        `alpha` is no tail mass.

    Notes
    -----
    Jorion, Value at Risk, chapter 5. Returns have fatter tails, so it is too small far out.
    """
    return _measure(formulas.gaussian_value_at_risk, returns, 2, tail_mass(alpha))


@quiet
def cornish_fisher_value_at_risk(returns: Values, alpha: float = 0.05) -> float:
    """
    Return the Gaussian value at risk with a quantile corrected by skewness and kurtosis.

    -(mean + z' std), z' = z + (z^2-1) S/6 + (z^3-3z) K/24 - (2z^3-5z) S^2/36, S and K as
    `skewness` and `excess_kurtosis` give them.

    Parameters
    ----------
    returns, alpha
        As for `gaussian_value_at_risk`.

    Returns
    -------
    float
        Loss as a positive fraction. NaN for fewer than four returns, flat ones, or any NaN.

    Raises
    ------
    InputError
        `alpha` is no tail mass.

    Notes
    -----
    Zangari (1996); Favre and Galeano (2002), "modified VaR". An expansion near the normal
    distribution: `has_valid_cornish_fisher` says whether it still gives quantiles.
    """
    return _measure(formulas.cornish_fisher_value_at_risk, returns, 4, tail_mass(alpha))


def has_valid_cornish_fisher(skew: float, ex_kurt: float, alpha: float = 0.05) -> bool:
    """
    Return whether the Cornish-Fisher quantile rises between the two tails of mass alpha.

    Where it does not, the "quantile" of a smaller tail is a smaller loss.

    Parameters
    ----------
    skew, ex_kurt
        S and K.
    alpha
        Mass of the tail in (0, 0.5].

    Returns
    -------
    bool
        1 - K/8 + 5 S^2/36 + z S/3 + z^2 (K/8 - S^2/6) > 0 for all z within the two tails. False
        for NaN.

    Notes
    -----
    The derivative in z; Maillard (2012) has the domain for all z.
    """
    z = -NormalDist().inv_cdf(tail_mass(alpha))
    level, slope = 1 - ex_kurt / 8 + 5 * skew * skew / 36, skew / 3
    bend = ex_kurt / 8 - skew * skew / 6
    places = [-z, z]
    if bend > 0 and abs(bottom := -slope / (2 * bend)) < z:
        places.append(bottom)
    return all(level + slope * at + bend * at * at > 0 for at in places)


@quiet
def filtered_value_at_risk(returns: Values, alpha: float = 0.05, *, decay: float = DECAY) -> float:
    """
    Return the historical value at risk of returns that are scaled to the volatility of now.

    -r*_(k), r*_t = r_t s_{T+1} / s_t, s_{t+1}^2 = l s_t^2 + (1-l) r_t^2 and s_1^2 = mean(r^2).

    Parameters
    ----------
    returns
        Simple returns in order of time, the newest last.
    alpha
        Mass of the tail in (0, 0.5].
    decay
        l, in (0, 1).

    Returns
    -------
    float
        Loss of the next period as a positive fraction. NaN without returns, for returns that are
        all 0, or any NaN.

    Raises
    ------
    InputError
        `alpha` is no tail mass, or `decay` is not between 0 and 1.

    Notes
    -----
    Filtered historical simulation with an exponentially weighted volatility: Hull and White (1998),
    Barone-Adesi, Giannopoulos and Vosper (1999). s_t uses the returns before t and, for its start,
    the mean square of the sample.
    """
    if not 0 < decay < 1:
        raise InputError(f"decay={decay} is not between 0 and 1.", fix="decay=0.94")
    return _measure(_filter, returns, 1, tail_mass(alpha), decay)


def _filter(returns: FloatArray, alpha: float, decay: float) -> FloatArray:
    return _pick(formulas.rescale_returns(returns, decay), alpha)


def _pick(returns: FloatArray, alpha: float) -> FloatArray:
    """Return -r_(k), found without sorting; NaN beside a NaN."""
    place = formulas.tail_rank(alpha, returns.shape[-1]) - 1
    found = 0.0 - np.partition(returns, place, axis=-1)[..., place]
    return np.where(np.isnan(returns).any(axis=-1), NAN, found)


def _measure(
    formula: Callable[..., FloatArray], values: Values, least: int, *settings: float
) -> float:
    sample = np.asarray(values, dtype=np.float64).ravel()
    is_fit = len(sample) >= least and np.isfinite(sample).all()
    return float(formula(sample, *settings)) if is_fit else NAN


# --- forecasts and their test ---------------------------------------------------------------------

_FORECASTS: dict[str, Callable[[FloatArray, float, float], FloatArray]] = {
    "historical": lambda windows, alpha, _: _pick(windows, alpha),
    "filtered": _filter,
    "gaussian": lambda windows, alpha, _: formulas.gaussian_value_at_risk(windows, alpha),
    "cornish_fisher": lambda windows, alpha, _: formulas.cornish_fisher_value_at_risk(
        windows, alpha
    ),
}
VALUE_AT_RISK_METHODS = tuple(_FORECASTS)


@quiet
def rolling_value_at_risk(
    returns: Values,
    alpha: float = 0.05,
    *,
    window: int,
    method: str = "historical",
    decay: float = DECAY,
) -> FloatArray:
    """
    Return the forecast of each period, made of the returns before it alone.

    Parameters
    ----------
    returns
        T simple returns in order of time.
    alpha
        Mass of the tail in (0, 0.5].
    window
        W, how many returns before the period are used; 4 or more.
    method
        "historical", "filtered", "gaussian" or "cornish_fisher".
    decay
        l of "filtered".

    Returns
    -------
    ndarray
        T losses as positive fractions; NaN for the first W periods, and where a window has a NaN.
        The value at t depends on the returns t-W to t-1, never on t or what follows.

    Raises
    ------
    InputError
        There is no such method, the window is shorter than 4, or `alpha` is no tail mass.
    """
    mass, sample = tail_mass(alpha), np.asarray(returns, dtype=np.float64).ravel()
    if method not in _FORECASTS:
        raise InputError(
            f"method={method!r} is not one of {', '.join(_FORECASTS)}.", fix='method="historical"'
        )
    if window < 4:
        raise InputError(f"window={window} is shorter than 4.", fix="window=250")
    found = np.full(len(sample), NAN)
    if len(sample) > window:
        # The last window has no period to forecast
        windows = np.lib.stride_tricks.sliding_window_view(sample, window)[:-1]
        for begin in range(0, len(windows), CHUNK_WINDOWS):
            part = windows[begin : begin + CHUNK_WINDOWS]
            forecast = _FORECASTS[method](part, mass, decay)
            found[window + begin : window + begin + len(part)] = forecast
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Kupiec:
    """
    The test of how often a loss exceeded its forecast.

    Attributes
    ----------
    lr
        The likelihood ratio, >= 0.
    p_value
        Probability of such a ratio or a larger one if the forecasts are right.
    """

    lr: float
    p_value: float


def kupiec_test(exceedances: int, n: int, alpha: float = 0.05) -> Kupiec:
    """
    Test whether the share of exceedances is alpha: Kupiec's proportion of failures.

    LR = -2 ln[ (1-a)^(n-x) a^x / ((1-x/n)^(n-x) (x/n)^x) ], chi-squared with one degree of freedom.

    Parameters
    ----------
    exceedances
        x, how often the loss was larger than its forecast; 0 to n.
    n
        How many forecasts there are.
    alpha
        The mass of the tail that was forecast, in (0, 0.5].

    Returns
    -------
    Kupiec
        Both NaN for n = 0. It says nothing of whether exceedances come in clusters.

    Raises
    ------
    InputError
        The counts cannot be, or `alpha` is no tail mass.

    Notes
    -----
    Kupiec (1995). p = erfc(sqrt(LR / 2)) is the upper tail of the chi-squared distribution.

    Examples
    --------
    >>> test = kupiec_test(20, 252, 0.05)  # J.P. Morgan in 1998, in Jorion's book
    >>> round(test.lr, 2), round(test.p_value, 3)
    (3.91, 0.048)
    """
    mass = tail_mass(alpha)
    if not 0 <= exceedances <= n:
        raise InputError(
            f"{exceedances} exceedances of {n} forecasts cannot be.", fix="count from 0 to n"
        )
    if not n:
        return Kupiec(lr=NAN, p_value=NAN)
    misses, share = n - exceedances, exceedances / n
    expected = misses * math.log1p(-mass) + exceedances * math.log(mass)
    seen = (misses * math.log1p(-share) if misses else 0.0) + (
        exceedances * math.log(share) if exceedances else 0.0
    )
    ratio = max(0.0, 2 * (seen - expected))  # rounding may put it below 0
    return Kupiec(lr=ratio, p_value=math.erfc(math.sqrt(ratio / 2)))
