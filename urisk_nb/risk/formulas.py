"""
The formulas of the metrics, over arrays whose last axis is time: a series gives a number, rows of
series a number a row.

They expect finite numbers, and as many as the formula needs; `metrics` checks that for one series,
`market` for the columns of a table. What does not exist (the shape of a flat series) is NaN, and so
is what leaves the range of floats. Each row is added up by itself: a figure does not depend on how
many others were computed beside it.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "cornish_fisher_quantile",
    "cornish_fisher_value_at_risk",
    "decay_weights",
    "diversification_ratio",
    "dot",
    "downside_deviation",
    "drawdown",
    "ewma_volatility",
    "excess_kurtosis",
    "expected_shortfall",
    "expected_shortfall_components",
    "gaussian_value_at_risk",
    "is_flat",
    "level_rounded",
    "regression",
    "replace_inf",
    "rescale_returns",
    "scaled_deviations",
    "skewness",
    "tail_rank",
    "tail_weights",
    "total_return",
    "value_at_risk",
    "volatility",
    "volatility_shares",
]

FloatArray = npt.NDArray[np.float64]
# Returns that differ by no more than this are equal: the quotient of two prices of size 1 is off by
# a few units of rounding.
FLAT_SPREAD = 64 * float(np.finfo(np.float64).eps)
MAX_ROUNDED_SPREAD = 1e-4  # of returns that may come of rounded prices alone
MAX_DECIMALS = 12  # of prices in a file


def replace_inf(values: Any) -> FloatArray:
    """Return the values, NaN in place of what is infinite."""
    return np.where(np.isfinite(values), values, np.nan)


def dot(rows: FloatArray, others: FloatArray) -> FloatArray:
    """
    Return the scalar product of each row with its other.

    A matrix product would add in an order that depends on its size.
    """
    if rows.ndim == 1:
        return np.asarray(rows @ others)
    return np.array(
        [row @ other for row, other in zip(rows, np.broadcast_to(others, rows.shape), strict=True)]
    )


def is_flat(returns: FloatArray) -> npt.NDArray[np.bool_]:
    """Return whether all returns are equal, but for rounding."""
    return np.asarray(returns.max(axis=-1) - returns.min(axis=-1) <= FLAT_SPREAD)


def level_rounded(changes: FloatArray, prices: FloatArray) -> FloatArray:
    """
    Return the changes of prices; those that differ by the rounding of the prices alone are equal.

    Parameters
    ----------
    changes
        One-period returns, one row an asset, or one asset's; changed in place.
    prices
        What they were made of, rows alike.

    Notes
    -----
    Growth by 0.01 % a day, written with four decimals, moves by 0.009 to 0.011 %. What such a file
    has beside the growth is its last digit, and a beta of it means nothing. Prices whose returns
    span more than 0.01 % are left as they are.
    """
    rows, values = np.atleast_2d(changes), np.atleast_2d(prices)
    spread = rows.max(axis=-1, initial=-np.inf) - rows.min(axis=-1, initial=np.inf)
    for place in np.flatnonzero((spread > FLAT_SPREAD) & (spread <= MAX_ROUNDED_SPREAD)):
        least = values[place].min()
        if least > 0 and spread[place] <= 2 * _find_unit(values[place]) / least + FLAT_SPREAD:
            rows[place] = rows[place].mean()
    return changes


def _find_unit(prices: FloatArray) -> float:
    """Return the unit of the last digit that prices are written with; 0 for full precision."""
    is_single = np.array_equal(prices.astype(np.float32).astype(np.float64), prices)
    single = float(np.spacing(np.float32(prices.max()))) if is_single else 0.0
    written = (
        10.0**-decimals
        for decimals in range(MAX_DECIMALS + 1)
        if np.array_equal(np.round(prices, decimals), prices)
    )
    return max(single, next(written, 0.0))


def total_return(prices: FloatArray) -> FloatArray:
    """Return P_T / P_0 - 1."""
    return replace_inf(prices[..., -1] / prices[..., 0] - 1)


def volatility(returns: FloatArray, root: float) -> FloatArray:
    """Return std(r, ddof=1) * root, the root of the periods in a year."""
    return replace_inf(np.std(returns, axis=-1, ddof=1) * root)


def ewma_volatility(returns: FloatArray, root: float, decay: float) -> FloatArray:
    """Return sqrt(sum_i w_i r_{T-i}^2) * root."""
    weights = decay_weights(returns.shape[-1], decay)
    return replace_inf(np.sqrt(dot(np.square(returns), weights)) * root)


@functools.lru_cache(maxsize=64)
def decay_weights(size: int, decay: float) -> FloatArray:
    """Return (1-l) l^i / (1-l^T), the newest last."""
    powers = np.power(decay, np.arange(size - 1, -1, -1, dtype=np.float64))
    return np.asarray(powers * ((1 - decay) / (1 - math.pow(decay, size))))


def downside_deviation(returns: FloatArray, root: float) -> FloatArray:
    """Return sqrt(mean(min(r, 0)^2)) * root."""
    return replace_inf(np.sqrt(np.mean(np.square(np.minimum(returns, 0.0)), axis=-1)) * root)


def tail_rank(alpha: float, size: int) -> int:
    """
    Return ceil(alpha * T), and at least 1.

    It is rounded first, since 0.07 * 100 and its like are not whole in binary.
    """
    return max(1, math.ceil(round(alpha * size, 9)))


def value_at_risk(ordered: FloatArray, alpha: float) -> FloatArray:
    """Return -r_(k) of returns in ascending order, k the rank of the tail."""
    # a zero return is a loss of 0, not of -0
    return np.asarray(0.0 - ordered[..., tail_rank(alpha, ordered.shape[-1]) - 1])


def expected_shortfall(ordered: FloatArray, alpha: float) -> FloatArray:
    """
    Return VaR plus the mean excess over alpha * T, of returns in ascending order.

    In this form rounding cannot put it below VaR.
    """
    size = ordered.shape[-1]
    tail = ordered[..., : tail_rank(alpha, size)]
    last = tail[..., -1:]
    return replace_inf(-last[..., 0] + np.sum(last - tail[..., :-1], axis=-1) / (alpha * size))


def tail_weights(returns: FloatArray, alpha: float) -> FloatArray:
    """
    Return the weight of each return in `expected_shortfall`, which is minus their weighted sum.

    1 / (alpha T) for each return below r_(k); what is left of the tail is shared by the returns
    that are equal to it, so that the order of the dates changes nothing.
    """
    size = returns.shape[-1]
    last = np.partition(returns, tail_rank(alpha, size) - 1)[tail_rank(alpha, size) - 1]
    below, equal = returns < last, returns == last
    rest = (alpha * size - np.count_nonzero(below)) / np.count_nonzero(equal)
    return np.asarray((below + rest * equal) / (alpha * size))


def expected_shortfall_components(parts: FloatArray, total: FloatArray, alpha: float) -> FloatArray:
    """Return minus the tail-weighted sum of each row, of parts that add up to a total."""
    weights = tail_weights(total, alpha)
    tail = weights > 0
    return replace_inf(0.0 - np.sum(parts[:, tail] * weights[tail], axis=1))


def volatility_shares(parts: FloatArray, total: FloatArray) -> FloatArray:
    """Return cov(part, total) / var(total) of each row; the total is not flat."""
    deviations = total - total.mean()
    return replace_inf(dot(parts, deviations) / (deviations @ deviations))


def diversification_ratio(parts: FloatArray, total: FloatArray) -> FloatArray:
    """Return the sum of the standard deviations of the rows over that of their total."""
    alone = math.fsum(np.std(parts, axis=1, ddof=1))
    return replace_inf(alone / np.std(total, ddof=1))


def gaussian_value_at_risk(returns: FloatArray, alpha: float) -> FloatArray:
    """Return -(mean + z std), z the normal quantile of alpha and std with ddof=1."""
    return _place_quantile(returns, NormalDist().inv_cdf(alpha))


def cornish_fisher_value_at_risk(returns: FloatArray, alpha: float) -> FloatArray:
    """Return -(mean + z' std), z' the normal quantile corrected by skewness and kurtosis."""
    deviations = scaled_deviations(returns)
    quantile = cornish_fisher_quantile(
        NormalDist().inv_cdf(alpha), skewness(deviations), excess_kurtosis(deviations)
    )
    return _place_quantile(returns, quantile)


def cornish_fisher_quantile(z: float, skew: FloatArray, ex_kurt: FloatArray) -> FloatArray:
    """Return z + (z^2-1) S/6 + (z^3-3z) K/24 - (2z^3-5z) S^2/36."""
    cube = z * z * z
    return np.asarray(
        z
        + (z * z - 1) * skew / 6
        + (cube - 3 * z) * ex_kurt / 24
        - (2 * cube - 5 * z) * skew * skew / 36
    )


def _place_quantile(returns: FloatArray, quantile: FloatArray | float) -> FloatArray:
    return replace_inf(
        -(np.mean(returns, axis=-1) + quantile * np.std(returns, axis=-1, ddof=1)) + 0.0
    )


def rescale_returns(returns: FloatArray, decay: float) -> FloatArray:
    """
    Return r_t s_{T+1} / s_t, with s_{t+1}^2 = l s_t^2 + (1-l) r_t^2 and s_1^2 = mean(r^2).

    NaN where no return moves.
    """
    squares = np.moveaxis(np.square(returns), -1, 0)  # time first: each step is one row
    variance = np.mean(squares, axis=0)
    variances = np.empty_like(squares)
    for step, square in enumerate(squares):
        variances[step] = variance
        variance = decay * variance + (1 - decay) * square
    scale = np.sqrt(variance / variances)
    return np.asarray(returns * np.moveaxis(scale, 0, -1))


def drawdown(
    prices: FloatArray,
) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
    """
    Return depth, peak, trough and current of 1 - P / cummax(P).

    Peak and trough are positions: of the last price at the peak, and of the first at the bottom;
    both mean nothing where depth is not positive.
    """
    highs = np.maximum.accumulate(prices, axis=-1)
    falls = 1 - prices / highs
    trough = np.argmax(falls, axis=-1)
    depth, high = (np.take_along_axis(each, trough[..., None], axis=-1) for each in (falls, highs))
    size = prices.shape[-1]
    at_peak = (prices == high) & (np.arange(size) <= trough[..., None])
    peak = size - 1 - np.argmax(at_peak[..., ::-1], axis=-1)
    return replace_inf(depth[..., 0]), peak, trough, replace_inf(falls[..., -1])


def scaled_deviations(returns: FloatArray) -> FloatArray:
    """
    Return the deviations from the mean over their largest, NaN for flat returns.

    Moments are free of scale, and so the powers stay in the range of floats.
    """
    deviations = returns - returns.mean(axis=-1, keepdims=True)
    widest = np.max(np.abs(deviations), axis=-1, keepdims=True)
    unusable = is_flat(returns)[..., None] | ~(widest > 0) | np.isinf(widest)
    return np.asarray(deviations / np.where(unusable, np.nan, widest))


def skewness(deviations: FloatArray) -> FloatArray:
    """Return sqrt(n (n-1)) / (n-2) * m3 / m2^1.5, of scaled deviations."""
    size = deviations.shape[-1]
    # Products and roots: a general power is slow, and processors round it differently
    squares = deviations * deviations
    second = np.mean(squares, axis=-1)
    biased = np.mean(squares * deviations, axis=-1) / (second * np.sqrt(second))
    return replace_inf(math.sqrt(size * (size - 1)) / (size - 2) * biased)


def excess_kurtosis(deviations: FloatArray) -> FloatArray:
    """Return (n-1) / ((n-2)(n-3)) * ((n+1) (m4 / m2^2 - 3) + 6), of scaled deviations."""
    size = deviations.shape[-1]
    squares = deviations * deviations
    biased = np.mean(squares * squares, axis=-1) / np.square(np.mean(squares, axis=-1)) - 3
    return replace_inf((size - 1) / ((size - 2) * (size - 3)) * ((size + 1) * biased + 6))


def regression(
    returns: FloatArray, benchmark: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """
    Return slope, standard error and correlation of least squares with a constant.

    The benchmark is one series, and not flat.
    """
    dx, dy = benchmark - benchmark.mean(), returns - returns.mean(axis=-1, keepdims=True)
    sxx, syy, sxy = float(dx @ dx), dot(dy, dy), dot(dy, dx)
    slope = sxy / sxx if sxx else np.full_like(sxy, np.nan)
    rest, size = dy - slope[..., None] * dx, returns.shape[-1]
    error = (
        np.sqrt(dot(rest, rest) / (size - 2) / sxx)
        if size > 2 and sxx
        else np.full_like(slope, np.nan)
    )
    flat = is_flat(returns) | ~(sxx * syy > 0)
    correlation = np.where(flat, np.nan, np.clip(sxy / np.sqrt(sxx * syy), -1.0, 1.0))
    return replace_inf(slope), replace_inf(error), replace_inf(correlation)
