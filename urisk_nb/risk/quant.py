"""
The computed part of the table: its columns, and for each ticker a row with a status, and a flag as the reason beside each NaN.

The numbers are made in `metrics` from what `market` makes of the prices; here are the benchmark, the least data that each number needs,
and the flags. The user's page about them is docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.market import (
    GAP,
    Asset,
    BoolArray,
    Market,
    as_of_date,
    bad_cells,
    calendar_of,
    changes_in,
    read_asset,
    read_market,
    unreadable,
)
from urisk_nb.risk.metrics import (
    ADV_DAYS,
    DECAY,
    NAN,
    Beta,
    Drawdown,
    FloatArray,
    amihud,
    average_daily_value,
    beta,
    binomial_quantile,
    downside_deviation,
    drawdown,
    ewma_volatility,
    excess_kurtosis,
    expected_shortfall,
    quiet,
    skewness,
    total_return,
    value_at_risk,
    value_at_risk_interval,
    volatility,
)
from urisk_nb.risk.params import RiskParams, alpha_label
from urisk_nb.risk.prices import Prices, read_prices
from urisk_nb.risk.tickers import Holding, resolve, scaled
from urisk_nb.risk.values import closest, counted

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

LEAST_RETURNS = 30  # for volatility, moments and beta
LEAST_TAIL = 5  # expected observations in the tail
DECAY_MONTHLY = 0.97  # RiskMetrics 1996

DATA_COLUMNS = ("as_of", "first_obs", "last_obs", "n_obs", "n_missing", "stale_days", "ann_factor", "period")
SPREAD_COLUMNS = ("ret_total", "vol_ann", "vol_ewma_ann", "downside_dev_ann")
DRAWDOWN_COLUMNS = ("max_dd", "max_dd_peak", "max_dd_trough", "cur_dd")
JOINT_COLUMNS = ("beta", "beta_se", "corr_bench", "n_joint")
MOMENT_COLUMNS = ("skew", "ex_kurt")
VOLUME_COLUMNS = ("adv_value", "amihud_1e6")


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
    market = read_market(prices, params)
    assets: dict[str, Asset] = {}
    drafts: list[tuple[Holding, str | None]] = []
    for holding in scaled(holdings) if params.normalise else holdings:
        column, flags = resolve(holding.symbol, market.columns)
        drafts.append((replace(holding, flags=(*holding.flags, *flags, *prices.flags)), column))
        if column is not None and column not in assets:
            assets[column] = read_asset(market, column, params)
    reference = _reference(market, assets, params, benchmark)
    return {
        holding.symbol: _quant_row(market, holding, None if column is None else assets[column], reference, params)
        for holding, column in drafts
    }


def _tail_names(alpha: float) -> tuple[str, str, str, str]:
    label = alpha_label(alpha)
    return f"var_{label}", f"var_{label}_lo", f"var_{label}_hi", f"es_{label}"


# --- the benchmark ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Reference:
    """The benchmark on the rows of the market: prices (or returns), NaN where there is none."""

    values: FloatArray
    present: BoolArray
    count: int


def _reference(market: Market, assets: Mapping[str, Asset], params: RiskParams, given: pd.Series[Any] | None) -> _Reference | None:
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


def _usable_reference(market: Market, column: str, values: FloatArray, what: str) -> _Reference:
    if wrong := bad_cells(market, column, values, what):
        raise InputError(wrong, fix="correct these rows, or choose another benchmark")
    present = ~np.isnan(values)
    count = int(np.count_nonzero(present))
    if count < 2:
        raise InputError(
            f"{what} has {counted(count, 'value')} on the dates of the prices in the period.", fix="choose a benchmark of the same dates"
        )
    return _Reference(values=values, present=present, count=count if market.is_returns else count - 1)


def _column_reference(market: Market, name: str) -> _Reference:
    column, _ = resolve(name, market.columns)
    if column is None:
        near = closest(name, [*market.columns, "equal"])
        fix = f"did you mean {' or '.join(map(repr, near))}?" if near else 'benchmark="equal", or a column of the prices'
        raise InputError(f"the prices have no column {name!r} for the benchmark.", fix=fix)
    return _usable_reference(market, column, market.close[:, market.position[column]], f"benchmark {column!r}")


def _given_reference(market: Market, series: pd.Series[Any]) -> _Reference:
    if not isinstance(series, pd.Series):
        raise InputError(f"the benchmark is a {type(series).__name__}, not a Series.", fix="a Series of prices, indexed by date")
    read = read_prices(series.rename("given").to_frame(), returns=market.is_returns)
    values = read.close["given"].reindex(market.dates).to_numpy(dtype=np.float64)
    # its own unreadable cells, not those of a column of the same name
    if seen := unreadable(market, read.faults.get("given", {})):
        raise InputError(f"the benchmark has {seen}.", fix="pd.to_numeric(benchmark)")
    return _usable_reference(market, "", values, "the benchmark")


@quiet
def _equal_reference(market: Market, assets: Mapping[str, Asset]) -> _Reference | None:
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


def _joint(market: Market, own: Asset, reference: _Reference) -> Beta:
    """Returns are made after the intersection: on the joint calendar, with its own spacing."""
    place = market.position[own.column]
    calendar = calendar_of(market, market.present[:, place] & reference.present)
    mine, theirs = (
        changes_in(side[calendar.rows], is_returns=market.is_returns)[calendar.keep] for side in (market.close[:, place], reference.values)
    )
    return beta(mine, theirs)


# --- one row ----------------------------------------------------------------------------------------------------------------------


def _quant_row(market: Market, holding: Holding, own: Asset | None, reference: _Reference | None, params: RiskParams) -> QuantRow:
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


def _blank(market: Market, params: RiskParams) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(quant_columns(params, has_volume=True, has_benchmark=True), NAN)
    dates = dict.fromkeys(("first_obs", "last_obs", "max_dd_peak", "max_dd_trough"), pd.NaT)
    return values | dates | {"as_of": market.as_of, "n_obs": 0, "n_missing": len(market.dates), "period": None}


def _data_values(market: Market, own: Asset, flags: set[str]) -> dict[str, Any]:
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


def _path_values(market: Market, own: Asset, flags: set[str]) -> dict[str, Any]:
    fall, rows = drawdown(own.path), own.calendar.rows
    before = len(own.path) - len(rows)  # in returns mode the path starts one step earlier, which has no date of its own
    peak, trough = (pd.NaT if at is None else market.dates[rows[max(at - before, 0)]] for at in (fall.peak, fall.trough))
    if fall.peak is None:
        flags.add("no_drawdown")
    names = dict(zip(DRAWDOWN_COLUMNS, (fall.depth, peak, trough, fall.current), strict=True))
    return names | {"ret_total": total_return(own.path)}


def _spread_values(own: Asset, flags: set[str]) -> dict[str, Any]:
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


def _tail_values(own: Asset, params: RiskParams, flags: set[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for alpha in params.alpha:
        if round(alpha * len(own.returns), 9) < LEAST_TAIL:
            flags.add("short_tail")
            continue
        low, high = value_at_risk_interval(own.returns, alpha)
        figures = value_at_risk(own.returns, alpha), low, high, expected_shortfall(own.returns, alpha)
        values |= dict(zip(_tail_names(alpha), figures, strict=True))
    return values


def _joint_values(market: Market, own: Asset, reference: _Reference | None, flags: set[str]) -> dict[str, Any]:
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


def _volume_values(market: Market, own: Asset, flags: set[str]) -> dict[str, Any]:
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
