"""
The computed part of the table: its columns, and for each ticker a row with a status, and a flag as
the reason beside each NaN.

The numbers are made in `metrics` from what `market` makes of the prices; here are the benchmark,
the least data that each number needs, and the flags. The user's page about them is docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.risk import formulas
from urisk_nb.risk.benchmark import Reference, read_reference
from urisk_nb.risk.inputs import Holding, Prices, normalize_weights
from urisk_nb.risk.market import (
    MAX_STEP_SPACINGS,
    Asset,
    Block,
    BoolArray,
    Market,
    compute_changes,
    find_as_of_date,
    find_calendar,
    read_assets,
    read_market,
    split_into_blocks,
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
    interval_ranks,
    quiet,
    root_of,
    skewness,
    total_return,
    value_at_risk,
    value_at_risk_interval,
    volatility,
)
from urisk_nb.risk.params import RiskParams, alpha_label
from urisk_nb.risk.tickers import build_resolver
from urisk_nb.risk.values import find_closest

__all__ = [
    "Beta",
    "Drawdown",
    "Measured",
    "QuantRow",
    "amihud",
    "average_daily_value",
    "beta",
    "binomial_quantile",
    "downside_deviation",
    "drawdown",
    "ewma_volatility",
    "excess_kurtosis",
    "expected_shortfall",
    "find_as_of_date",
    "measure_holdings",
    "quant_columns",
    "quant_rows",
    "skewness",
    "total_return",
    "value_at_risk",
    "value_at_risk_interval",
    "volatility",
]

MIN_RETURNS = 30  # for volatility, moments and beta
MIN_TAIL = 5  # expected observations in the tail
# Rows without prices that name the closest columns: a look through 10,000 columns takes 40 ms.
MAX_SUGGESTED = 100
DECAY_MONTHLY = 0.97  # RiskMetrics 1996

DATA_COLUMNS = (
    "as_of",
    "first_obs",
    "last_obs",
    "n_obs",
    "n_missing",
    "stale_days",
    "ann_factor",
    "period",
)
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
        Every name of `quant_columns` with volume and benchmark, and "weight". Dates are Timestamps,
        missing ones NaT.
    status
        "ok", "no_data" (no such column, or fewer than two observations in the period) or
        "bad_data".
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """
    The rows of the holdings, and the prices of the period that they are made of.

    Attributes
    ----------
    rows
        One a symbol, in the order of the holdings.
    market, assets
        The period, and each column that a holding means on its own calendar.
    """

    rows: dict[str, QuantRow]
    market: Market
    assets: Mapping[str, Asset]


def quant_columns(params: RiskParams, *, has_volume: bool, has_benchmark: bool) -> list[str]:
    """
    Return the names of the data and quant columns in the order of the table.

    Those of an input that was not given are left out.
    """
    return [
        *DATA_COLUMNS,
        *SPREAD_COLUMNS,
        *(name for alpha in params.alpha for name in _tail_names(alpha)),
        *DRAWDOWN_COLUMNS,
        *(JOINT_COLUMNS if has_benchmark else ()),
        *MOMENT_COLUMNS,
        *(VOLUME_COLUMNS if has_volume else ()),
    ]


def quant_rows(
    prices: Prices,
    holdings: Sequence[Holding],
    params: RiskParams,
    benchmark: Prices | None = None,
) -> dict[str, QuantRow]:
    """
    Compute the metrics of each holding, one row a symbol; `measure_holdings` has more.

    Raises
    ------
    InputError
        As `measure_holdings`.
    """
    return measure_holdings(prices, holdings, params, benchmark).rows


def measure_holdings(
    prices: Prices,
    holdings: Sequence[Holding],
    params: RiskParams,
    benchmark: Prices | None = None,
) -> Measured:
    """
    Compute the metrics of each holding, and keep the prices that they are made of.

    Each asset is measured on its own calendar: its missing days are dropped, never filled. Returns
    across a gap of more than five median spacings are left out of everything but total return and
    drawdown.

    Parameters
    ----------
    prices
        From `read_prices`.
    benchmark
        Prices (or returns, as `prices` are) of a benchmark that is no column; then
        `params.benchmark` is "given" or None.

    Raises
    ------
    InputError
        The period holds no prices; the benchmark is unknown or unusable; weights cannot be scaled;
        a symbol fits two columns.
    """
    market = read_market(prices, params)
    column_of = build_resolver(market.columns)
    drafts = [
        (holding, *column_of(holding.symbol))
        for holding in (normalize_weights(holdings) if params.normalise else holdings)
    ]
    assets = read_assets(
        market, list(dict.fromkeys(column for _, column, _ in drafts if column is not None)), params
    )
    measured = _measure(market, assets, read_reference(market, assets, params, benchmark), params)
    blank = {
        **dict.fromkeys(quant_columns(params, has_volume=True, has_benchmark=True), NAN),
        **dict.fromkeys(("first_obs", "last_obs", "max_dd_peak", "max_dd_trough"), pd.NaT),
        "as_of": market.as_of,
        "n_obs": 0,
        "n_missing": len(market.dates),
        "period": None,
    }
    unmatched = [holding.symbol for holding, column, _ in drafts if column is None]
    near = {symbol: find_closest(symbol, market.columns) for symbol in unmatched[:MAX_SUGGESTED]}
    rows = {}
    for holding, column, flags in drafts:
        found = _Figures() if column is None else measured[column]
        status, message = _describe_state(holding.symbol, assets.get(column or ""), near)
        weight = NAN if holding.weight is None else holding.weight
        seen = () if column is None else assets[column].flags
        reasons = {*holding.flags, *flags, *prices.flags, *seen, *found.flags, status} - {"ok"}
        rows[holding.symbol] = QuantRow(
            column=column,
            values=blank | {"weight": weight} | found.values,
            status=status,
            flags=tuple(sorted(reasons)),
            message=message,
        )
    return Measured(rows=rows, market=market, assets=assets)


def _tail_names(alpha: float) -> tuple[str, str, str, str]:
    label = alpha_label(alpha)
    return f"var_{label}", f"var_{label}_lo", f"var_{label}_hi", f"es_{label}"


# --- the figures ----------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Figures:
    """What has been found of one column so far."""

    values: dict[str, Any] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)


@quiet
def _measure(
    market: Market, assets: Mapping[str, Asset], reference: Reference | None, params: RiskParams
) -> dict[str, _Figures]:
    """Return the figures of each column, computed at once for columns that share their dates."""
    # What follows from the dates is the same for all that have the same
    known: dict[tuple[int, str], _Figures] = {}
    found = {}
    for column, own in assets.items():
        key = id(own.calendar), own.status
        if key not in known:
            known[key] = _measure_dates(market, own)
        found[column] = _Figures(values=dict(known[key].values), flags=set(known[key].flags))
    usable = [market.position[column] for column, own in assets.items() if own.status == "ok"]

    def iterate_batches(present: BoolArray) -> Iterator[_Batch]:
        for block in split_into_blocks(market, usable, present):
            columns = [market.columns[place] for place in block.places]
            yield _Batch(
                block=block,
                assets=[assets[column] for column in columns],
                figures=[found[column] for column in columns],
            )

    for batch in iterate_batches(market.present):
        _measure_path(market, batch)
        _measure_spread(batch)
        _measure_tails(batch, params)
        _measure_volume(market, batch)
    if reference is not None:
        find_calendar(market, reference.present)  # the holidays of its market are known from here
        for batch in iterate_batches(market.present & reference.present[:, None]):
            _measure_joint(market, batch, reference)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """The columns of a block, with what has been found of each."""

    block: Block
    assets: list[Asset]
    figures: list[_Figures]

    def put(self, name: str, values: FloatArray | Sequence[Any]) -> None:
        """Put one figure into each column."""
        items = values.tolist() if isinstance(values, np.ndarray) else values
        for own, value in zip(self.figures, items, strict=True):
            own.values[name] = value

    def flag(self, name: str, where: BoolArray | bool = True) -> None:
        """Flag the columns that the reason holds for."""
        for own in compress(self.figures, np.broadcast_to(where, len(self.figures))):
            own.flags.add(name)


def _measure_dates(market: Market, own: Asset) -> _Figures:
    calendar, count = own.calendar, len(own.calendar.rows)
    found = _Figures(values={"n_obs": count, "n_missing": len(market.dates) - count})
    if not count:
        return found
    last = market.dates[calendar.rows[-1]]
    stale = (market.as_of - last).days
    if calendar.gap:
        found.flags.add("gap")
    if calendar.spacing and stale > MAX_STEP_SPACINGS * calendar.spacing:
        found.flags.add("stale")
    found.values |= {
        "first_obs": market.dates[calendar.rows[0]],
        "last_obs": last,
        "stale_days": stale,
        "ann_factor": own.factor,
        "period": calendar.period if own.status == "ok" else None,
    }
    return found


def _measure_path(market: Market, batch: _Batch) -> None:
    path, rows = batch.block.path(is_returns=market.is_returns), batch.block.calendar.rows
    depth, peak, trough, current = formulas.drawdown(path)
    # In returns mode the path starts one step earlier, which has no date of its own
    before = path.shape[1] - len(rows)
    fell = depth > 0
    batch.flag("no_drawdown", ~fell)
    for name, side in (("max_dd_peak", peak), ("max_dd_trough", trough)):
        pairs = zip(side.tolist(), fell.tolist(), strict=True)
        batch.put(
            name,
            [market.dates[rows[max(at - before, 0)]] if real else pd.NaT for at, real in pairs],
        )
    batch.put("max_dd", depth)
    batch.put("cur_dd", current)
    batch.put("ret_total", formulas.total_return(path))


def _measure_spread(batch: _Batch) -> None:
    returns = batch.block.changes
    if returns.shape[1] < MIN_RETURNS:
        batch.flag("short_history")
        return
    batch.flag("flat", formulas.is_flat(returns))
    root = root_of(batch.assets[0].factor)
    decay = DECAY_MONTHLY if batch.block.calendar.spacing >= 27 else DECAY
    deviations = formulas.scaled_deviations(returns)
    batch.put("vol_ann", formulas.volatility(returns, root))
    batch.put("vol_ewma_ann", formulas.ewma_volatility(returns, root, decay))
    batch.put("downside_dev_ann", formulas.downside_deviation(returns, root))
    batch.put("skew", formulas.skewness(deviations))
    batch.put("ex_kurt", formulas.excess_kurtosis(deviations))


def _measure_tails(batch: _Batch, params: RiskParams) -> None:
    size = batch.block.changes.shape[1]
    ordered = np.sort(batch.block.changes, axis=1)
    for alpha in params.alpha:
        if round(alpha * size, 9) < MIN_TAIL:
            batch.flag("short_tail")
            continue
        var, low, high, shortfall = _tail_names(alpha)
        batch.put(var, formulas.value_at_risk(ordered, alpha))
        for name, rank in zip((low, high), interval_ranks(size, alpha), strict=True):
            batch.put(
                name, np.full(len(ordered), NAN) if rank is None else -ordered[:, rank - 1] + 0.0
            )
        batch.put(shortfall, formulas.expected_shortfall(ordered, alpha))


def _measure_joint(market: Market, batch: _Batch, reference: Reference) -> None:
    """Compute the joint figures: returns are made after the intersection, on the joint calendar."""
    calendar, returns = batch.block.calendar, batch.block.changes
    theirs = compute_changes(reference.values[calendar.rows], is_returns=market.is_returns)[
        calendar.keep
    ]
    if not market.is_returns:
        theirs = formulas.level_rounded(theirs, reference.values[calendar.rows])
    count = len(theirs)
    own = np.array([len(asset.calendar.at) for asset in batch.assets])
    batch.flag(
        "short_joint", (count < MIN_RETURNS) | (count < 0.5 * np.maximum(own, reference.count))
    )
    batch.put("n_joint", [count] * len(returns))
    batch.flag("jump_benchmark", reference.has_jump)
    if count < MIN_RETURNS:
        return
    if formulas.is_flat(theirs):
        slope = error = correlation = np.full(len(returns), NAN)
    else:
        slope, error, correlation = formulas.regression(returns, theirs)
    batch.flag("flat_benchmark", np.isnan(slope))
    batch.flag("flat", ~np.isnan(slope) & np.isnan(correlation))
    for name, values in zip(JOINT_COLUMNS, (slope, error, correlation), strict=False):
        batch.put(name, values)


def _measure_volume(market: Market, batch: _Batch) -> None:
    if market.volume is None:
        return
    if market.is_returns:
        batch.flag("no_price_level")  # traded value needs prices
        return
    calendar = batch.block.calendar
    for place, changes, own in zip(
        batch.block.places, batch.block.changes, batch.figures, strict=True
    ):
        prices, volume = market.close[:, place], market.volume[:, place]
        wrong = (volume < 0) | np.isinf(volume)
        if wrong[calendar.rows].any():
            own.flags.add("bad_volume")
        volume = np.where(wrong, NAN, volume)
        liquidity = amihud(changes, prices[calendar.at], volume[calendar.at])
        days = int(np.count_nonzero(~np.isnan(volume[calendar.rows])))
        if days < ADV_DAYS or math.isnan(liquidity):
            own.flags.add("short_volume" if days else "no_volume")
        own.values |= {
            "adv_value": average_daily_value(prices[calendar.rows], volume[calendar.rows]),
            "amihud_1e6": liquidity,
        }


# --- one row --------------------------------------------------------------------------------------


def _describe_state(
    symbol: str, own: Asset | None, near: Mapping[str, Sequence[str]]
) -> tuple[str, str | None]:
    """Return the status of a row and what is wrong with its data."""
    if own is not None:
        return own.status, own.message
    closest = f"; closest: {', '.join(near[symbol])}" if near.get(symbol) else ""
    return "no_data", f"the prices have no column {symbol!r}{closest}."
