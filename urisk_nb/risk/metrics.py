"""
The computed metrics: pure functions named by their number.

Conventions, the same everywhere: returns are simple and close to close; losses are positive
fractions (0.05 is a loss of 5 %), bigger is worse; `alpha` is the mass of the tail. The functions
are strict: a NaN or an infinity in the input gives NaN, and so does too short an input; none of
them drops, fills or guesses, and none emits a warning. What to leave out (missing days, gaps, short
histories) is decided by the table, `quant_rows`, which gives a flag as the reason beside each NaN.
The user's page about both is docs/metrics.md.

The module is over 400 lines because each public function states its formula, estimator and source
beside the code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk import formulas
from urisk_nb.risk.params import tail_mass

__all__ = [
    "Beta",
    "Drawdown",
    "amihud",
    "average_daily_value",
    "beta",
    "binomial_quantile",
    "downside_deviation",
    "drawdown",
    "ewma_volatility",
    "excess_kurtosis",
    "expected_shortfall",
    "skewness",
    "total_return",
    "value_at_risk",
    "value_at_risk_interval",
    "volatility",
]

FloatArray = formulas.FloatArray
# What the functions take: anything that numpy reads as one row of numbers
Values = Sequence[float] | FloatArray | pd.Series

NAN = math.nan
DECAY = 0.94  # RiskMetrics 1996, daily
ADV_DAYS = 21

# Squares of huge returns overflow to inf, which `replace_inf` turns into NaN: a warning on top
# would only end a strict caller.
quiet = np.errstate(all="ignore")


@quiet
def total_return(prices: Values) -> float:
    """
    Return the return over the whole period, P_T / P_0 - 1.

    Parameters
    ----------
    prices
        Positive prices in order of time.

    Returns
    -------
    float
        Fraction; negative is a loss. NaN for fewer than two prices, or any NaN.
    """
    return _apply(formulas.total_return, prices, 2)


@quiet
def volatility(returns: Values, periods_per_year: float = 1.0) -> float:
    """
    Return the annualized standard deviation, std(r, ddof=1) * sqrt(A).

    Parameters
    ----------
    returns
        Simple returns of one period each.
    periods_per_year
        A; 1 leaves the figure per period.

    Returns
    -------
    float
        Fraction a year, >= 0. NaN for fewer than two returns, or any NaN.

    Notes
    -----
    The square-root rule assumes uncorrelated returns.
    """
    return _apply(formulas.volatility, returns, 2, root_of(periods_per_year))


@quiet
def ewma_volatility(
    returns: Values, periods_per_year: float = 1.0, *, decay: float = DECAY
) -> float:
    """
    Return the annualized exponentially weighted volatility.

    sqrt(A * sum_i w_i r_{T-i}^2) with w_i = (1-l) l^i / (1-l^T).

    Parameters
    ----------
    returns
        Simple returns in order of time, the newest last.
    periods_per_year
        A; 1 leaves the figure per period.
    decay
        l, in (0, 1).

    Returns
    -------
    float
        Fraction a year, >= 0. NaN without returns, or any NaN.

    Notes
    -----
    Zero mean, and weights that sum to one over the sample. RiskMetrics Technical Document (1996),
    5.2. It is not `r.ewm().std()`, which takes the mean off and corrects for bias.
    """
    if not 0 < decay < 1:
        raise InputError(f"decay={decay} is not between 0 and 1.", fix="decay=0.94")
    return _apply(formulas.ewma_volatility, returns, 1, root_of(periods_per_year), decay)


@quiet
def downside_deviation(returns: Values, periods_per_year: float = 1.0) -> float:
    """
    Return the annualized downside deviation from zero, sqrt(mean(min(r, 0)^2) * A).

    Returns
    -------
    float
        Fraction a year, >= 0; 0 if no return was negative. NaN without returns, or any NaN.

    Notes
    -----
    The mean runs over all observations, gains counted as zero (Sortino and van der Meer, 1991). The
    standard deviation of the negative returns alone is another and smaller number.
    """
    return _apply(formulas.downside_deviation, returns, 1, root_of(periods_per_year))


def value_at_risk(returns: Values, alpha: float = 0.05) -> float:
    """
    Return the historical value at risk, -r_(k) with k = ceil(alpha * T) and r_(1) the worst return.

    Parameters
    ----------
    returns
        Simple returns; the horizon of the figure is their period.
    alpha
        Mass of the tail in (0, 0.5].

    Returns
    -------
    float
        Loss as a positive fraction; negative if even the k-th worst return is a gain. NaN without
        returns, or any NaN.

    Raises
    ------
    InputError
        `alpha` is no tail mass (5 and 0.95 are answered with 0.05).

    Notes
    -----
    An order statistic, not an interpolated quantile: the loss did happen. alpha * T is rounded to
    nine decimals before it is rounded up, since 0.05 * 20 and its like are not whole in binary;
    alpha is the stored number, never 1 - 0.95.
    """
    return _apply(formulas.value_at_risk, np.sort(_to_numbers(returns)), 1, tail_mass(alpha))


def value_at_risk_interval(
    returns: Values, alpha: float = 0.05, confidence: float = 0.95
) -> tuple[float, float]:
    """
    Return a distribution-free confidence interval of `value_at_risk` from two order statistics.

    lo = -r_(u) and hi = -r_(l) with l = B(.025), u = B(.975) + 1, B the quantile function of the
    binomial (T, alpha); ranks from the worst.

    Returns
    -------
    tuple of float
        (lo, hi), losses as positive fractions. NaN on a side where the sample is too short to bound
        it, and for any NaN.

    Notes
    -----
    For independent returns: under volatility clustering the interval is too narrow. David and
    Nagaraja, Order Statistics, 7.1.
    """
    mass, sample = tail_mass(alpha), _sample(returns)
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence} is not between 0 and 1.", fix="confidence=0.95")
    ordered = np.sort(sample)
    low, high = (
        NAN if rank is None else float(-ordered[rank - 1]) + 0.0
        for rank in interval_ranks(len(sample), mass, confidence)
    )
    return low, high


def interval_ranks(
    size: int, mass: float, confidence: float = 0.95
) -> tuple[int | None, int | None]:
    """
    Return the ranks, from the worst, of the two ends of `value_at_risk_interval`.

    None where the sample is too short to bound that side.
    """
    if not size:
        return None, None
    low = binomial_quantile((1 - confidence) / 2, size, mass)
    high = binomial_quantile((1 + confidence) / 2, size, mass) + 1
    return (None if high > size else high), (None if low < 1 else low)


@quiet
def expected_shortfall(returns: Values, alpha: float = 0.05) -> float:
    """
    Return the mean loss of the worst share alpha.

    -(1/(alpha T)) * [ sum_{i<k} r_(i) + (alpha T - (k-1)) r_(k) ], k as in `value_at_risk`.

    Returns
    -------
    float
        Loss as a positive fraction, never below `value_at_risk`. NaN without returns, or any NaN.

    Raises
    ------
    InputError
        `alpha` is no tail mass.

    Notes
    -----
    Where alpha * T is not whole, the k-th return counts with the fraction that is left: this is the
    coherent estimator of Acerbi and Tasche (2002), equal to the minimum of Rockafellar and Uryasev
    (2000). Computed as VaR plus the mean excess, so that rounding cannot put it below VaR.
    """
    return _apply(formulas.expected_shortfall, np.sort(_to_numbers(returns)), 1, tail_mass(alpha))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawdown:
    """
    The deepest fall from a peak, and where the last price stands.

    Attributes
    ----------
    depth
        max(1 - P / cummax(P)), a fraction >= 0.
    peak, trough
        Index label (of a Series) or position of the last price at the peak, and of the first at the
        bottom. None without a fall.
    current
        1 - P_T / max(P), a fraction >= 0.
    """

    depth: float
    peak: Any
    trough: Any
    current: float


@quiet
def drawdown(prices: Values) -> Drawdown:
    """
    Return the drawdown of a price path, 1 - P / cummax(P).

    Parameters
    ----------
    prices
        Positive prices in order of time; a Series gives its labels back, anything else positions.

    Returns
    -------
    Drawdown
        Depth and current are NaN without prices, or any NaN; peak and trough are then None.
    """
    sample = _sample(prices)
    if not len(sample):
        return Drawdown(depth=NAN, peak=None, trough=None, current=NAN)
    depth, peak, trough, current = formulas.drawdown(sample)
    labels = prices.index if isinstance(prices, pd.Series) else range(len(sample))
    fell = bool(depth > 0)
    return Drawdown(
        depth=float(depth),
        peak=labels[int(peak)] if fell else None,
        trough=labels[int(trough)] if fell else None,
        current=float(current),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Beta:
    """
    Slope on the benchmark, its classical standard error, the correlation, and the number of pairs.

    NaN where it does not exist: all for a flat benchmark or fewer than two pairs, `se` for fewer
    than three, `corr` for a flat asset.
    """

    beta: float
    se: float
    corr: float
    n: int


@quiet
def beta(returns: Values, benchmark: Values) -> Beta:
    """
    Regress the returns on the benchmark's by least squares, with a constant.

    Parameters
    ----------
    returns, benchmark
        Simple returns of the same periods, one beside the other.

    Returns
    -------
    Beta
        All NaN for any NaN.

    Raises
    ------
    InputError
        The two differ in length.

    Notes
    -----
    se = sqrt(SSR / (n - 2) / sum((x - mean(x))^2)): homoskedastic, uncorrelated errors.
    """
    size = np.size(returns)
    if size != np.size(benchmark):
        raise InputError(
            f"{size} returns stand beside {np.size(benchmark)} of the benchmark.",
            fix="cut both to their joint dates first",
        )
    y, x = _sample(returns), _sample(benchmark)
    if len(x) < 2 or len(y) < 2 or formulas.is_flat(x):
        return Beta(beta=NAN, se=NAN, corr=NAN, n=size)
    slope, error, correlation = map(float, formulas.regression(y, x))
    return Beta(beta=slope, se=error, corr=correlation, n=size)


@quiet
def skewness(returns: Values) -> float:
    """
    Return the bias-corrected skewness G1 = sqrt(n (n-1)) / (n-2) * m3 / m2^1.5.

    Returns
    -------
    float
        Without unit; negative: the long tail is on the side of the losses. NaN for fewer than three
        returns, flat ones, or any NaN.

    Notes
    -----
    Joanes and Gill (1998); as in pandas, and in scipy with bias=False.
    """
    return _apply(lambda sample: formulas.skewness(formulas.scaled_deviations(sample)), returns, 3)


@quiet
def excess_kurtosis(returns: Values) -> float:
    """
    Return the bias-corrected excess kurtosis.

    G2 = (n-1) / ((n-2)(n-3)) * ((n+1) (m4 / m2^2 - 3) + 6).

    Returns
    -------
    float
        Without unit; 0 for the normal distribution. NaN for fewer than four returns, flat ones, or
        any NaN.

    Notes
    -----
    Joanes and Gill (1998); as in pandas, and in scipy with bias=False.
    """
    return _apply(
        lambda sample: formulas.excess_kurtosis(formulas.scaled_deviations(sample)), returns, 4
    )


@quiet
def average_daily_value(prices: Values, volume: Values, *, days: int = ADV_DAYS) -> float:
    """
    Return the median of price times volume over the last days that have a volume.

    Returns
    -------
    float
        In the currency of the prices. Days whose volume is NaN are left out; days without trade
        count as 0. NaN if no day is left.
    """
    traded = _traded_value(prices, volume)
    value = traded[np.isfinite(traded)][-days:]
    return float(formulas.replace_inf(np.median(value))) if len(value) else NAN


@quiet
def amihud(returns: Values, prices: Values, volume: Values) -> float:
    """
    Return the illiquidity, mean(|r| / (P * V)) * 1e6 over the days with volume.

    Parameters
    ----------
    returns, prices, volume
        The same days, one beside the other.

    Returns
    -------
    float
        Return per million of traded value, >= 0; bigger is less liquid. Days whose volume is NaN or
        0 are left out. NaN if no day is left, or a return is NaN.

    Notes
    -----
    Amihud (2002), with the conventional factor of a million.
    """
    moves, traded = np.abs(_to_numbers(returns)), _traded_value(prices, volume)
    if len(moves) != len(traded):
        raise InputError(
            f"{len(moves)} returns stand beside {len(traded)} volumes.",
            fix="give the same days of both",
        )
    days = np.isfinite(traded) & (traded > 0)
    illiquidity = np.mean(moves[days] / traded[days]) * 1e6 if days.any() else NAN
    return float(formulas.replace_inf(illiquidity))


@functools.lru_cache(maxsize=4096)
def binomial_quantile(q: float, n: int, p: float) -> int:
    """
    Return the smallest k with P(X <= k) >= q for X binomial (n, p).

    The probabilities are built from the mode outwards by their ratios and divided by their sum: no
    logarithm of a factorial, no underflow at any n. Terms below 1e-18 of the mode are left out.
    """
    mode = min(int((n + 1) * p), n)
    odds = p / (1 - p)
    below, above = [1.0], [1.0]
    for k in range(mode, 0, -1):
        below.append(below[-1] * k / ((n - k + 1) * odds))
        if below[-1] < 1e-18:
            break
    for k in range(mode, n):
        above.append(above[-1] * (n - k) * odds / (k + 1))
        if above[-1] < 1e-18:
            break
    masses = np.array(below[:0:-1] + above)
    rank = np.searchsorted(np.cumsum(masses), q * math.fsum(masses))
    return mode - len(below) + 1 + int(rank)


def _to_numbers(values: Values) -> FloatArray:
    try:
        return np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError) as exc:
        raise InputError(
            f"the values are not numbers ({exc}).", fix="pd.to_numeric(values)"
        ) from exc


def _sample(values: Values) -> FloatArray:
    """Return the numbers, and none of them if one is not finite: any NaN gives NaN."""
    sample = _to_numbers(values)
    return sample if np.isfinite(sample).all() else sample[:0]


def _apply(
    formula: Callable[..., FloatArray], values: Values, least: int, *settings: float
) -> float:
    """Return the figure, NaN for fewer numbers than the formula needs."""
    sample = _sample(values)
    return float(formula(sample, *settings)) if len(sample) >= least else NAN


def root_of(periods_per_year: float) -> float:
    """Return the factor that makes a figure a period one a year; InputError if there is none."""
    if not 0 < periods_per_year < math.inf:
        raise InputError(
            f"periods_per_year={periods_per_year} is not positive.", fix="periods_per_year=252"
        )
    return math.sqrt(periods_per_year)


def _traded_value(prices: Values, volume: Values) -> FloatArray:
    price, shares = _to_numbers(prices), _to_numbers(volume)
    if len(price) != len(shares):
        raise InputError(
            f"{len(price)} prices stand beside {len(shares)} volumes.",
            fix="give the same days of both",
        )
    return price * shares
