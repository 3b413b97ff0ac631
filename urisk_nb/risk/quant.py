"""
The computed metrics: pure functions named by their number, and the rows of the table that are made of them.

Conventions, the same everywhere: returns are simple and close to close; losses are positive fractions (0.05 is a loss of 5 %), bigger is
worse; `alpha` is the mass of the tail. The functions are strict: a NaN or an infinity in the input gives NaN, and so does too short an
input; none of them drops, fills or guesses, and none emits a warning. What to leave out (missing days, gaps, short histories) is decided
by the table, `quant_rows`, which gives a flag as the reason beside each NaN. The user's page about both is docs/metrics.md.

The module is over 400 lines because each public function states its formula, estimator and source beside the code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.inputs import Holding, Prices, RiskParams, alpha_label, closest, counted, read_prices, resolve, scaled, tail_mass

__all__ = [
    "Beta",
    "Drawdown",
    "QuantRow",
    "amihud",
    "as_of_date",
    "average_daily_value",
    "beta",
    "binomial_quantile",
    "downside_deviation",
    "drawdown",
    "ewma_volatility",
    "excess_kurtosis",
    "expected_shortfall",
    "quant_columns",
    "quant_rows",
    "skewness",
    "total_return",
    "value_at_risk",
    "value_at_risk_interval",
    "volatility",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Values = Sequence[float] | FloatArray | pd.Series  # what the functions take: anything that numpy reads as one row of numbers

NAN = math.nan
GAP = 5  # a step of more than so many median spacings is no one-period return
LEAST_RETURNS = 30  # for volatility, moments and beta
LEAST_TAIL = 5  # expected observations in the tail
DECAY, DECAY_MONTHLY = 0.94, 0.97  # RiskMetrics 1996: daily, monthly
ADV_DAYS = 21
HUGE = 1e100  # a return beyond this is a broken feed, and its square would leave the range of floats

DATA_COLUMNS = ("as_of", "first_obs", "last_obs", "n_obs", "n_missing", "stale_days", "ann_factor", "period")
SPREAD_COLUMNS = ("ret_total", "vol_ann", "vol_ewma_ann", "downside_dev_ann")
DRAWDOWN_COLUMNS = ("max_dd", "max_dd_peak", "max_dd_trough", "cur_dd")
JOINT_COLUMNS = ("beta", "beta_se", "corr_bench", "n_joint")
MOMENT_COLUMNS = ("skew", "ex_kurt")
VOLUME_COLUMNS = ("adv_value", "amihud_1e6")

# Squares of huge returns overflow to inf, which `_finite` turns into NaN; a warning on top would only end a strict caller.
_quiet = np.errstate(all="ignore")


# --- metrics ----------------------------------------------------------------------------------------------------------------------


@_quiet
def total_return(prices: Values) -> float:
    """
    Return over the whole period, P_T / P_0 - 1.

    Parameters
    ----------
    prices
        Positive prices in order of time.

    Returns
    -------
    float
        Fraction; negative is a loss. NaN for fewer than two prices, or any NaN.
    """
    sample = _sample(prices)
    return NAN if len(sample) < 2 else _finite(sample[-1] / sample[0] - 1)


@_quiet
def volatility(returns: Values, periods_per_year: float = 1.0) -> float:
    """
    Annualised standard deviation, std(r, ddof=1) * sqrt(A).

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
    sample = _sample(returns)
    return NAN if len(sample) < 2 else _finite(np.std(sample, ddof=1) * _root(periods_per_year))


@_quiet
def ewma_volatility(returns: Values, periods_per_year: float = 1.0, *, decay: float = DECAY) -> float:
    """
    Annualised exponentially weighted volatility, sqrt(A * sum_i w_i r_{T-i}^2) with w_i = (1-l) l^i / (1-l^T).

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
    Zero mean, and weights that sum to one over the sample. RiskMetrics Technical Document (1996), 5.2. It is not `r.ewm().std()`,
    which takes the mean off and corrects for bias.
    """
    if not 0 < decay < 1:
        raise InputError(f"decay={decay} is not between 0 and 1.", fix="decay=0.94")
    sample = _sample(returns)
    if not len(sample):
        return NAN
    weights = _decay_weights(len(sample), decay)
    return _finite(math.sqrt(float(weights @ np.square(sample))) * _root(periods_per_year))


@_quiet
def downside_deviation(returns: Values, periods_per_year: float = 1.0) -> float:
    """
    Annualised downside deviation from zero, sqrt(mean(min(r, 0)^2) * A).

    Returns
    -------
    float
        Fraction a year, >= 0; 0 if no return was negative. NaN without returns, or any NaN.

    Notes
    -----
    The mean runs over all observations, gains counted as zero (Sortino and van der Meer, 1991). The standard deviation of the negative
    returns alone is another and smaller number.
    """
    sample = _sample(returns)
    if not len(sample):
        return NAN
    return _finite(np.sqrt(np.mean(np.square(np.minimum(sample, 0.0)))) * _root(periods_per_year))


def value_at_risk(returns: Values, alpha: float = 0.05) -> float:
    """
    Historical value at risk, -r_(k) with k = ceil(alpha * T) and r_(1) the worst return.

    Parameters
    ----------
    returns
        Simple returns; the horizon of the figure is their period.
    alpha
        Mass of the tail in (0, 0.5].

    Returns
    -------
    float
        Loss as a positive fraction; negative if even the k-th worst return is a gain. NaN without returns, or any NaN.

    Raises
    ------
    InputError
        `alpha` is no tail mass (5 and 0.95 are answered with 0.05).

    Notes
    -----
    An order statistic, not an interpolated quantile: the loss did happen. alpha * T is rounded to nine decimals before it is rounded up,
    since 0.05 * 20 and its like are not whole in binary; alpha is the stored number, never 1 - 0.95.
    """
    mass, sample = tail_mass(alpha), _sample(returns)
    if not len(sample):
        return NAN
    rank = _tail_rank(mass, len(sample))
    return float(-np.partition(sample, rank - 1)[rank - 1]) + 0.0  # + 0.0: a zero return is a loss of 0, not of -0


def value_at_risk_interval(returns: Values, alpha: float = 0.05, confidence: float = 0.95) -> tuple[float, float]:
    """
    Distribution-free confidence interval of `value_at_risk` from two order statistics.

    lo = -r_(u) and hi = -r_(l) with l = B(.025), u = B(.975) + 1, B the quantile function of the binomial (T, alpha); ranks from the worst.

    Returns
    -------
    tuple of float
        (lo, hi), losses as positive fractions. NaN on a side where the sample is too short to bound it, and for any NaN.

    Notes
    -----
    For independent returns: under volatility clustering the interval is too narrow. David and Nagaraja, Order Statistics, 7.1.
    """
    mass, sample = tail_mass(alpha), _sample(returns)
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence} is not between 0 and 1.", fix="confidence=0.95")
    size = len(sample)
    if not size:
        return NAN, NAN
    low = binomial_quantile((1 - confidence) / 2, size, mass)
    high = binomial_quantile((1 + confidence) / 2, size, mass) + 1
    ordered = np.sort(sample)
    return (NAN if high > size else float(-ordered[high - 1]) + 0.0), (NAN if low < 1 else float(-ordered[low - 1]) + 0.0)


@_quiet
def expected_shortfall(returns: Values, alpha: float = 0.05) -> float:
    """
    Mean loss of the worst share alpha: -(1/(alpha T)) * [ sum_{i<k} r_(i) + (alpha T - (k-1)) r_(k) ], k as in `value_at_risk`.

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
    Where alpha * T is not whole, the k-th return counts with the fraction that is left: this is the coherent estimator of Acerbi and
    Tasche (2002), equal to the minimum of Rockafellar and Uryasev (2000). Computed as VaR plus the mean excess, so that rounding
    cannot put it below VaR.
    """
    mass, sample = tail_mass(alpha), _sample(returns)
    if not len(sample):
        return NAN
    rank = _tail_rank(mass, len(sample))
    tail = np.sort(np.partition(sample, rank - 1)[:rank])  # sorted: the sum does not depend on the order of the rows
    return _finite(-tail[-1] + float(np.sum(tail[-1] - tail[:-1])) / (mass * len(sample)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawdown:
    """
    The deepest fall from a peak, and where the last price stands.

    Attributes
    ----------
    depth
        max(1 - P / cummax(P)), a fraction >= 0.
    peak, trough
        Index label (of a Series) or position of the last price at the peak, and of the first at the bottom. None without a fall.
    current
        1 - P_T / max(P), a fraction >= 0.
    """

    depth: float
    peak: Any
    trough: Any
    current: float


@_quiet
def drawdown(prices: Values) -> Drawdown:
    """
    Drawdown of a price path, 1 - P / cummax(P).

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
    highs = np.maximum.accumulate(sample)
    falls = 1 - sample / highs
    trough = int(np.argmax(falls))
    depth, current = _finite(falls[trough]), _finite(falls[-1])
    if not depth > 0:
        return Drawdown(depth=depth, peak=None, trough=None, current=current)
    peak = int(np.flatnonzero(sample[: trough + 1] == highs[trough])[-1])
    if isinstance(prices, pd.Series):
        return Drawdown(depth=depth, peak=prices.index[peak], trough=prices.index[trough], current=current)
    return Drawdown(depth=depth, peak=peak, trough=trough, current=current)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beta:
    """
    Slope on the benchmark, its classical standard error, the correlation, and the number of pairs.

    NaN where it does not exist: all for a flat benchmark or fewer than two pairs, `se` for fewer than three, `corr` for a flat asset.
    """

    beta: float
    se: float
    corr: float
    n: int


@_quiet
def beta(returns: Values, benchmark: Values) -> Beta:
    """
    Least squares of the returns on the benchmark's, with a constant.

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
        raise InputError(f"{size} returns stand beside {np.size(benchmark)} of the benchmark.", fix="cut both to their joint dates first")
    y, x = _sample(returns), _sample(benchmark)
    if len(x) < 2 or len(y) < 2 or x.max() == x.min():
        return Beta(beta=NAN, se=NAN, corr=NAN, n=size)
    dx, dy = x - x.mean(), y - y.mean()
    sxx, syy, sxy = float(dx @ dx), float(dy @ dy), float(dx @ dy)
    slope = sxy / sxx if sxx else NAN
    rest = dy - slope * dx
    se = math.sqrt(float(rest @ rest) / (size - 2) / sxx) if size > 2 and sxx else NAN
    flat = y.max() == y.min() or not sxx * syy > 0
    corr = NAN if flat else min(1.0, max(-1.0, sxy / math.sqrt(sxx * syy)))
    return Beta(beta=_finite(slope), se=_finite(se), corr=_finite(corr), n=size)


@_quiet
def skewness(returns: Values) -> float:
    """
    Bias-corrected skewness G1 = sqrt(n (n-1)) / (n-2) * m3 / m2^1.5.

    Returns
    -------
    float
        Without unit; negative: the long tail is on the side of the losses. NaN for fewer than three returns, flat ones, or any NaN.

    Notes
    -----
    Joanes and Gill (1998); as in pandas, and in scipy with bias=False.
    """
    deviations = _scaled_deviations(_sample(returns))
    size = len(deviations)
    if size < 3:
        return NAN
    squares = deviations * deviations  # products: a general power costs twenty times as much
    biased = np.mean(squares * deviations) / np.mean(squares) ** 1.5
    return _finite(math.sqrt(size * (size - 1)) / (size - 2) * biased)


@_quiet
def excess_kurtosis(returns: Values) -> float:
    """
    Bias-corrected excess kurtosis G2 = (n-1) / ((n-2)(n-3)) * ((n+1) (m4 / m2^2 - 3) + 6).

    Returns
    -------
    float
        Without unit; 0 for the normal distribution. NaN for fewer than four returns, flat ones, or any NaN.

    Notes
    -----
    Joanes and Gill (1998); as in pandas, and in scipy with bias=False.
    """
    deviations = _scaled_deviations(_sample(returns))
    size = len(deviations)
    if size < 4:
        return NAN
    squares = deviations * deviations
    biased = np.mean(squares * squares) / np.mean(squares) ** 2 - 3
    return _finite((size - 1) / ((size - 2) * (size - 3)) * ((size + 1) * biased + 6))


@_quiet
def average_daily_value(prices: Values, volume: Values, *, days: int = ADV_DAYS) -> float:
    """
    Median of price times volume over the last days that have a volume.

    Returns
    -------
    float
        In the currency of the prices. Days whose volume is NaN are left out; days without trade count as 0. NaN if no day is left.
    """
    traded = _traded(prices, volume)
    value = traded[np.isfinite(traded)][-days:]
    return _finite(np.median(value)) if len(value) else NAN


@_quiet
def amihud(returns: Values, prices: Values, volume: Values) -> float:
    """
    Illiquidity, mean(|r| / (P * V)) * 1e6 over the days with volume.

    Parameters
    ----------
    returns, prices, volume
        The same days, one beside the other.

    Returns
    -------
    float
        Return per million of traded value, >= 0; bigger is less liquid. Days whose volume is NaN or 0 are left out. NaN if no day is left,
        or a return is NaN.

    Notes
    -----
    Amihud (2002), with the conventional factor of a million.
    """
    moves, traded = np.abs(_row_of_numbers(returns)), _traded(prices, volume)
    if len(moves) != len(traded):
        raise InputError(f"{len(moves)} returns stand beside {len(traded)} volumes.", fix="give the same days of both")
    days = np.isfinite(traded) & (traded > 0)
    return _finite(np.mean(moves[days] / traded[days]) * 1e6) if days.any() else NAN


@functools.lru_cache(maxsize=4096)
def binomial_quantile(q: float, n: int, p: float) -> int:
    """
    Smallest k with P(X <= k) >= q for X binomial (n, p).

    The probabilities are built from the mode outwards by their ratios and divided by their sum: no logarithm of a factorial, no
    underflow at any n. Terms below 1e-18 of the mode are left out.
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
    steps = np.cumsum(masses)
    return mode - len(below) + 1 + int(np.searchsorted(steps, q * math.fsum(masses)))


def _row_of_numbers(values: Values) -> FloatArray:
    try:
        return np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError) as exc:
        raise InputError(f"the values are not numbers ({exc}).", fix="pd.to_numeric(values)") from exc


def _sample(values: Values) -> FloatArray:
    """The numbers; none of them if one is not finite, which is how "any NaN gives NaN" comes about."""
    sample = _row_of_numbers(values)
    return sample if np.isfinite(sample).all() else sample[:0]


def _finite(value: float | np.floating[Any]) -> float:
    return float(value) if math.isfinite(value) else NAN


def _root(periods_per_year: float) -> float:
    if not 0 < periods_per_year < math.inf:
        raise InputError(f"periods_per_year={periods_per_year} is not positive.", fix="periods_per_year=252")
    return math.sqrt(periods_per_year)


def _tail_rank(alpha: float, size: int) -> int:
    return max(1, math.ceil(round(alpha * size, 9)))


@functools.lru_cache(maxsize=64)
def _decay_weights(size: int, decay: float) -> FloatArray:
    powers = np.power(decay, np.arange(size - 1, -1, -1, dtype=np.float64))
    weights: FloatArray = powers * ((1 - decay) / (1 - math.pow(decay, size)))
    return weights


def _scaled_deviations(sample: FloatArray) -> FloatArray:
    """Deviations from the mean over their largest: moments are free of scale, and their powers neither overflow nor vanish."""
    if not len(sample) or sample.max() == sample.min():
        return sample[:0]
    deviations: FloatArray = sample - sample.mean()
    widest = float(np.max(np.abs(deviations)))
    return deviations / widest if 0 < widest < math.inf else deviations[:0]


def _traded(prices: Values, volume: Values) -> FloatArray:
    price, shares = _row_of_numbers(prices), _row_of_numbers(volume)
    if len(price) != len(shares):
        raise InputError(f"{len(price)} prices stand beside {len(shares)} volumes.", fix="give the same days of both")
    return price * shares


# --- the table's rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantRow:
    """
    The computed part of one ticker's row.

    Attributes
    ----------
    column
        The column of the prices, or None if there is none.
    values
        Every name of `quant_columns` with volume and benchmark, and "weight". Dates are Timestamps, missing ones NaT.
    status
        "ok", "no_data" (no such column, or fewer than two observations in the period) or "bad_data".
    flags
        Sorted reasons, docs/metrics.md lists them.
    message
        What is wrong with the data, with ticker and date; None if nothing is.
    """

    column: str | None
    values: dict[str, Any]
    status: str
    flags: tuple[str, ...]
    message: str | None


def quant_columns(params: RiskParams, *, has_volume: bool, has_benchmark: bool) -> list[str]:
    """Names of the data and quant columns in the order of the table; those of an input that was not given are left out."""
    tails = [name for alpha in params.alpha for name in _tail_names(alpha)]
    joint = JOINT_COLUMNS if has_benchmark else ()
    volume = VOLUME_COLUMNS if has_volume else ()
    return [*DATA_COLUMNS, *SPREAD_COLUMNS, *tails, *DRAWDOWN_COLUMNS, *joint, *MOMENT_COLUMNS, *volume]


def as_of_date(prices: Prices, params: RiskParams) -> pd.Timestamp:
    """The date of the run: `params.as_of`, else the last date of the prices, but not later than `params.end`."""
    if params.as_of is not None:
        return pd.Timestamp(params.as_of).as_unit("us")
    index = prices.close.index
    used = index if params.end is None else index[index <= pd.Timestamp(params.end)]
    if not len(used):
        raise InputError(f"no price is on or before end={params.end}; {_extent(prices)}.", fix=f"end={index[-1].date()}")
    last: pd.Timestamp = used[-1]
    return last


def quant_rows(
    prices: Prices, holdings: Sequence[Holding], params: RiskParams, benchmark: pd.Series[Any] | None = None
) -> dict[str, QuantRow]:
    """
    The computed part of the table, one row a holding, by symbol.

    Each asset is measured on its own calendar: its missing days are dropped, never filled. Returns across a gap of more than five median
    spacings are left out of everything but total return and drawdown.

    Parameters
    ----------
    prices
        From `read_prices`.
    benchmark
        Prices (or returns, as `prices` are) of a benchmark that is no column; then `params.benchmark` is "given" or None.

    Raises
    ------
    InputError
        The period holds no prices; the benchmark is unknown or unusable; weights cannot be scaled; a symbol fits two columns.
    """
    market = _market(prices, params)
    assets: dict[str, _Asset] = {}
    drafts: list[tuple[Holding, str | None]] = []
    for holding in scaled(holdings) if params.normalise else holdings:
        column, flags = resolve(holding.symbol, market.columns)
        drafts.append((replace(holding, flags=(*holding.flags, *flags, *prices.flags)), column))
        if column is not None and column not in assets:
            assets[column] = _asset(market, column, params)
    reference = _reference(market, assets, params, benchmark)
    return {
        holding.symbol: _quant_row(market, holding, None if column is None else assets[column], reference, params)
        for holding, column in drafts
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Calendar:
    """
    The rows that an asset (or a pair) has, and what follows from their dates alone; shared by all that have the same rows.

    Attributes
    ----------
    keep, at
        Which changes are of one period, and the rows that these end on.
    spacing, factor, period
        Median step in days; periods in a year, NaN if the spacing is none that is known; the name of the period.
    gap
        Some step is longer than one period.
    """

    rows: IntArray
    keep: BoolArray
    at: IntArray
    spacing: int
    factor: float
    period: str
    gap: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Market:
    """The prices of the period as arrays, rows by columns, and the calendars that have been met in them."""

    dates: list[pd.Timestamp]
    days: IntArray
    columns: list[str]
    position: dict[str, int]
    close: FloatArray
    present: BoolArray
    volume: FloatArray | None
    is_returns: bool
    as_of: pd.Timestamp
    faults: Mapping[str, Mapping[pd.Timestamp, str]]
    calendars: dict[bytes, _Calendar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Asset:
    """
    One column on its own calendar.

    `path` is what total return and drawdown are read from: the prices, or the wealth of 1 before the first return.
    `returns` are the one-period ones.
    """

    column: str
    calendar: _Calendar
    path: FloatArray
    returns: FloatArray
    factor: float = NAN
    status: str = "ok"
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Reference:
    """The benchmark on the rows of the market: prices (or returns), NaN where there is none."""

    values: FloatArray
    present: BoolArray
    count: int


def _extent(prices: Prices) -> str:
    index = prices.close.index
    return f"the prices run from {index[0].date()} to {index[-1].date()}"


def _market(prices: Prices, params: RiskParams) -> _Market:
    as_of = as_of_date(prices, params)
    index = pd.DatetimeIndex(prices.close.index)
    last = as_of if params.end is None else min(as_of, pd.Timestamp(params.end))
    first = _first_date(params, last)
    begin = 0 if first is None else int(index.searchsorted(first, side="left"))
    stop = int(index.searchsorted(last, side="right"))
    if stop <= begin:
        since = f"on or before {last.date()}" if first is None or last < index[0] else f"from {first.date()} on"
        fix = f"choose a period within {index[0].date()} and {index[-1].date()}"
        raise InputError(f"there is no price {since}; {_extent(prices)}.", fix=fix)
    period = index[begin:stop]
    columns = [str(name) for name in prices.close.columns]
    # column by column in memory, since each asset is read by itself
    close = np.asfortranarray(prices.close.to_numpy(dtype=np.float64)[begin:stop])
    return _Market(
        dates=list(period),
        days=period.to_numpy().astype("datetime64[D]").astype(np.int64),
        columns=columns,
        position={name: number for number, name in enumerate(columns)},
        close=close,
        present=~np.isnan(close),
        volume=None if prices.volume is None else prices.volume.to_numpy(dtype=np.float64)[begin:stop],
        is_returns=prices.is_returns,
        as_of=as_of,
        faults=prices.faults,
    )


def _first_date(params: RiskParams, last: pd.Timestamp) -> pd.Timestamp | None:
    if params.start is not None:
        return pd.Timestamp(params.start)
    if params.window is None:
        return None
    count, unit = int(params.window[:-1]), params.window[-1]
    years, months, weeks, days = (count if unit == one else 0 for one in "ymwd")
    first: pd.Timestamp = last - pd.DateOffset(years=years, months=months, weeks=weeks, days=days)
    return first


def _not_numbers(cells: Mapping[pd.Timestamp, str]) -> str:
    day = min(cells)
    return f"{counted(len(cells), 'value')} that cannot be read as a number (first: {day.date()}, {cells[day]})"


def _in_period(market: _Market, cells: Mapping[pd.Timestamp, str]) -> dict[pd.Timestamp, str]:
    return {day: seen for day, seen in cells.items() if market.dates[0] <= day <= market.dates[-1]}


def _bad_cells(market: _Market, column: str, values: FloatArray, what: str) -> str | None:
    """What makes the whole column unusable, with count and first date; None if nothing does."""
    if text := _in_period(market, market.faults.get(column, {})):
        return f"{what} has {_not_numbers(text)}."
    least, noun = (-1.0, "return") if market.is_returns else (0.0, "price")
    for bad, kind in ((values <= least, f"{{}} <= {least:g}"), (np.isinf(values), "infinite {}")):
        if bad.any():
            row, count = int(np.argmax(bad)), int(np.count_nonzero(bad))
            seen = f"{count} {kind.format(noun if count == 1 else noun + 's')}"
            return f"{what} has {seen} (first: {market.dates[row].date()}, {values[row]})."
    return None


@_quiet
def _path(values: FloatArray, *, is_returns: bool) -> FloatArray:
    return np.concatenate(([1.0], np.cumprod(1 + values))) if is_returns else values


@_quiet
def _changes(values: FloatArray, *, is_returns: bool) -> FloatArray:
    return values if is_returns else values[1:] / values[:-1] - 1


def _calendar(market: _Market, present: BoolArray) -> _Calendar:
    key = present.tobytes()
    if key not in market.calendars:
        market.calendars[key] = _new_calendar(market, np.flatnonzero(present))
    return market.calendars[key]


def _new_calendar(market: _Market, rows: IntArray) -> _Calendar:
    days = market.days[rows]
    steps = np.diff(days)
    # the lower median is a step that occurs, so that the bands of `_frequency` need no fractions
    spacing = int(np.sort(steps)[(len(steps) - 1) // 2]) if len(steps) else 0
    short = steps <= GAP * spacing
    factor, period = _frequency(days, spacing)
    # A return that was given as such is taken at its word, whatever stands before it.
    keep = np.ones(len(rows), dtype=bool) if market.is_returns else short
    at = rows if market.is_returns else rows[1:][short]
    return _Calendar(rows=rows, keep=keep, at=at, spacing=spacing, factor=factor, period=period, gap=not short.all())


def _frequency(days: IntArray, spacing: int) -> tuple[float, str]:
    """Periods in a year, NaN if the spacing is none that is known, and the name of the period."""
    if spacing == 1:
        # A market with weekends trades on all seven weekdays. Two days at the weekend are not enough: Sunday to Thursday is a working week.
        weekdays = np.bincount((days + 3) % 7, minlength=7)
        return (365.0 if np.all(weekdays >= 0.05 * len(days)) and len(days) >= 7 else 252.0), "day"
    if 6 <= spacing <= 8:
        return 52.0, "week"
    if 27 <= spacing <= 32:
        return 12.0, "month"
    return NAN, f"{spacing}d"


def _asset(market: _Market, column: str, params: RiskParams) -> _Asset:
    place = market.position[column]
    values, calendar, what = market.close[:, place], _calendar(market, market.present[:, place]), f"column {column!r}"
    bare = _Asset(column=column, calendar=calendar, path=np.empty(0), returns=np.empty(0))
    if wrong := _bad_cells(market, column, values, what):
        return replace(bare, status="bad_data", message=wrong)
    if len(calendar.rows) < 2:
        kind = "return" if market.is_returns else "price"
        message = f"{what} has {len(calendar.rows) or 'no'} {kind} in the period; two are needed."
        return replace(bare, status="no_data", message=message)
    factor = params.periods_per_year or calendar.factor
    first, last = (market.dates[calendar.rows[end]].date() for end in (0, -1))
    if math.isnan(factor):
        seen = f"a median spacing of {calendar.spacing} days between {first} and {last}, neither days, weeks nor months"
        return replace(bare, status="bad_data", message=f"{what} has {seen}: give periods_per_year.")
    changes = _changes(values[calendar.rows], is_returns=market.is_returns)
    path = _path(values[calendar.rows], is_returns=market.is_returns)
    if not (np.all(np.abs(changes) < HUGE) and np.all(path < HUGE * path[0])):
        return replace(bare, status="bad_data", message=f"{what} jumps by a factor of {HUGE:g} or more between {first} and {last}.")
    return replace(bare, path=path, returns=changes[calendar.keep], factor=factor)


# --- the benchmark ----------------------------------------------------------------------------------------------------------------


def _reference(market: _Market, assets: Mapping[str, _Asset], params: RiskParams, given: pd.Series[Any] | None) -> _Reference | None:
    name = params.benchmark
    if given is not None:
        if name not in (None, "given", getattr(given, "name", None)):
            raise InputError(f"benchmark={name!r} and a Series were both given.", fix='benchmark="given", or leave the Series out')
        return _given_reference(market, given)
    if name is None:
        return None
    if name == "given":
        raise InputError('benchmark="given", but no Series was passed.', fix="pass the Series, or name a column of the prices")
    return _equal_reference(market, assets) if name == "equal" else _column_reference(market, name)


def _usable_reference(market: _Market, column: str, values: FloatArray, what: str) -> _Reference:
    if wrong := _bad_cells(market, column, values, what):
        raise InputError(wrong, fix="correct these rows, or choose another benchmark")
    present = ~np.isnan(values)
    count = int(np.count_nonzero(present))
    if count < 2:
        raise InputError(
            f"{what} has {counted(count, 'value')} on the dates of the prices in the period.", fix="choose a benchmark of the same dates"
        )
    return _Reference(values=values, present=present, count=count if market.is_returns else count - 1)


def _column_reference(market: _Market, name: str) -> _Reference:
    column, _ = resolve(name, market.columns)
    if column is None:
        near = closest(name, [*market.columns, "equal"])
        fix = f"did you mean {' or '.join(map(repr, near))}?" if near else 'benchmark="equal", or a column of the prices'
        raise InputError(f"the prices have no column {name!r} for the benchmark.", fix=fix)
    return _usable_reference(market, column, market.close[:, market.position[column]], f"benchmark {column!r}")


def _given_reference(market: _Market, series: pd.Series[Any]) -> _Reference:
    if not isinstance(series, pd.Series):
        raise InputError(f"the benchmark is a {type(series).__name__}, not a Series.", fix="a Series of prices, indexed by date")
    read = read_prices(series.rename("given").to_frame(), returns=market.is_returns)
    values = read.close["given"].reindex(market.dates).to_numpy(dtype=np.float64)
    # its own unreadable cells, not those of a column of the same name
    if own := _in_period(market, read.faults.get("given", {})):
        seen = f"the benchmark has {_not_numbers(own)}."
        raise InputError(seen, fix="pd.to_numeric(benchmark)")
    return _usable_reference(market, "", values, "the benchmark")


@_quiet
def _equal_reference(market: _Market, assets: Mapping[str, _Asset]) -> _Reference | None:
    """
    The equal-weighted mean return of the usable assets, on the rows that all of them have.

    It is kept as a price path like any other benchmark, so that the joint returns are made in one place. Sorted by name: the order of
    the columns changes no digit.
    """
    names = sorted(name for name, one in assets.items() if one.status == "ok")
    if not names:
        return None
    places = [market.position[name] for name in names]
    values, rows = market.close[:, places], np.flatnonzero(market.present[:, places].all(axis=1))
    path = np.full(len(values), NAN)
    if market.is_returns:
        path[rows] = values[rows].mean(axis=1)
    elif len(rows):
        changes = values[rows[1:]] / values[rows[:-1]] - 1
        path[rows] = np.concatenate(([1.0], np.cumprod(1 + changes.mean(axis=1))))
    count = max(len(assets[name].returns) for name in names)
    return _Reference(values=path, present=~np.isnan(path), count=count)


def _joint(market: _Market, own: _Asset, reference: _Reference) -> Beta:
    """Returns are made after the intersection: on the joint calendar, with its own spacing."""
    place = market.position[own.column]
    calendar = _calendar(market, market.present[:, place] & reference.present)
    mine, theirs = (
        _changes(side[calendar.rows], is_returns=market.is_returns)[calendar.keep] for side in (market.close[:, place], reference.values)
    )
    return beta(mine, theirs)


# --- one row ----------------------------------------------------------------------------------------------------------------------


def _tail_names(alpha: float) -> tuple[str, str, str, str]:
    label = alpha_label(alpha)
    return f"var_{label}", f"var_{label}_lo", f"var_{label}_hi", f"es_{label}"


def _quant_row(market: _Market, holding: Holding, own: _Asset | None, reference: _Reference | None, params: RiskParams) -> QuantRow:
    flags = set(holding.flags)
    values = _blank(market, params) | {"weight": NAN if holding.weight is None else holding.weight}
    if own is None:
        near = closest(holding.symbol, market.columns)
        message = f"the prices have no column {holding.symbol!r}" + (f"; closest: {', '.join(near)}." if near else ".")
        return QuantRow(column=None, values=values, status="no_data", flags=tuple(sorted(flags | {"no_data"})), message=message)
    values |= _data_values(market, own, flags)
    if own.status == "ok":
        values |= _path_values(market, own, flags) | _spread_values(own, flags) | _tail_values(own, params, flags)
        values |= _joint_values(market, own, reference, flags) | _volume_values(market, own, flags)
    else:
        flags.add(own.status)
    return QuantRow(column=own.column, values=values, status=own.status, flags=tuple(sorted(flags)), message=own.message)


def _blank(market: _Market, params: RiskParams) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(quant_columns(params, has_volume=True, has_benchmark=True), NAN)
    dates = dict.fromkeys(("first_obs", "last_obs", "max_dd_peak", "max_dd_trough"), pd.NaT)
    return values | dates | {"as_of": market.as_of, "n_obs": 0, "n_missing": len(market.dates), "period": None}


def _data_values(market: _Market, own: _Asset, flags: set[str]) -> dict[str, Any]:
    calendar, count = own.calendar, len(own.calendar.rows)
    values: dict[str, Any] = {"n_obs": count, "n_missing": len(market.dates) - count}
    if not count:
        return values
    first, last = market.dates[calendar.rows[0]], market.dates[calendar.rows[-1]]
    stale = (market.as_of - last).days
    if calendar.gap:
        flags.add("gap")
    if calendar.spacing and stale > GAP * calendar.spacing:
        flags.add("stale")
    period = calendar.period if own.status == "ok" else None
    return values | {"first_obs": first, "last_obs": last, "stale_days": stale, "ann_factor": own.factor, "period": period}


def _path_values(market: _Market, own: _Asset, flags: set[str]) -> dict[str, Any]:
    fall, rows = drawdown(own.path), own.calendar.rows
    before = len(own.path) - len(rows)  # in returns mode the path starts one step earlier, which has no date of its own
    peak, trough = (pd.NaT if at is None else market.dates[rows[max(at - before, 0)]] for at in (fall.peak, fall.trough))
    if fall.peak is None:
        flags.add("no_drawdown")
    names = dict(zip(DRAWDOWN_COLUMNS, (fall.depth, peak, trough, fall.current), strict=True))
    return names | {"ret_total": total_return(own.path)}


def _spread_values(own: _Asset, flags: set[str]) -> dict[str, Any]:
    if len(own.returns) < LEAST_RETURNS:
        flags.add("short_history")
        return {}
    if own.returns.max() == own.returns.min():
        flags.add("flat")
    decay = DECAY_MONTHLY if own.calendar.spacing >= 27 else DECAY
    return {
        "vol_ann": volatility(own.returns, own.factor),
        "vol_ewma_ann": ewma_volatility(own.returns, own.factor, decay=decay),
        "downside_dev_ann": downside_deviation(own.returns, own.factor),
        "skew": skewness(own.returns),
        "ex_kurt": excess_kurtosis(own.returns),
    }


def _tail_values(own: _Asset, params: RiskParams, flags: set[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for alpha in params.alpha:
        if round(alpha * len(own.returns), 9) < LEAST_TAIL:
            flags.add("short_tail")
            continue
        low, high = value_at_risk_interval(own.returns, alpha)
        figures = value_at_risk(own.returns, alpha), low, high, expected_shortfall(own.returns, alpha)
        values |= dict(zip(_tail_names(alpha), figures, strict=True))
    return values


def _joint_values(market: _Market, own: _Asset, reference: _Reference | None, flags: set[str]) -> dict[str, Any]:
    if reference is None:
        return {}
    found = _joint(market, own, reference)
    if found.n < LEAST_RETURNS or found.n < 0.5 * max(len(own.returns), reference.count):
        flags.add("short_joint")
    if found.n < LEAST_RETURNS:
        return {"n_joint": found.n}
    if math.isnan(found.beta) or math.isnan(found.corr):
        flags.add("flat_benchmark" if math.isnan(found.beta) else "flat")
    return {"beta": found.beta, "beta_se": found.se, "corr_bench": found.corr, "n_joint": found.n}


def _volume_values(market: _Market, own: _Asset, flags: set[str]) -> dict[str, Any]:
    if market.volume is None:
        return {}
    if market.is_returns:
        flags.add("no_price_level")  # traded value needs prices
        return {}
    place, calendar = market.position[own.column], own.calendar
    prices, volume = market.close[:, place], market.volume[:, place]
    wrong = (volume < 0) | np.isinf(volume)
    if wrong[calendar.rows].any():
        flags.add("bad_volume")
    volume = np.where(wrong, NAN, volume)
    liquidity = amihud(own.returns, prices[calendar.at], volume[calendar.at])
    days = int(np.count_nonzero(~np.isnan(volume[calendar.rows])))
    if days < ADV_DAYS or math.isnan(liquidity):
        flags.add("short_volume" if days else "no_volume")
    return {"adv_value": average_daily_value(prices[calendar.rows], volume[calendar.rows]), "amihud_1e6": liquidity}
