"""
The portfolio of a run: what the weighted tickers lose together, and which of them it comes from.

It is measured on the dates on which every position has a price, and is brought back to its weights
each period. A position without usable prices leaves no portfolio at all: to drop it would be
another portfolio. Pure; the formulas are in `portfolio_metrics`, the user's page is
docs/portfolio.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.risk import formulas
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.market import MAX_STEP_SPACINGS
from urisk_nb.risk.metrics import DECAY, NAN, FloatArray, quiet, root_of
from urisk_nb.risk.params import RiskParams, alpha_label
from urisk_nb.risk.portfolio_metrics import (
    VALUE_AT_RISK_METHODS,
    effective_number,
    filtered_value_at_risk,
    has_valid_cornish_fisher,
    kupiec_test,
    rolling_value_at_risk,
)
from urisk_nb.risk.positions import (
    PORTFOLIO,
    JointReturns,
    Position,
    find_positions,
    join_returns,
    name_some,
)
from urisk_nb.risk.quant import DECAY_MONTHLY, MIN_RETURNS, MIN_TAIL, Measured
from urisk_nb.risk.values import count_noun

__all__ = [
    "COMPONENT_COLUMNS",
    "Backtest",
    "PortfolioResult",
    "measure_portfolio",
]

_CASH = frozenset(("CASH", "USD", "EUR", "GBP", "CHF", "JPY"))
COMPONENT_COLUMNS = ("comp_vol_share", "comp_es", "comp_es_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """
    How often losses exceeded one kind of forecast.

    Attributes
    ----------
    method, alpha
        What was forecast: one of `VALUE_AT_RISK_METHODS`, for a tail of this mass.
    window
        Returns before each period that its forecast is made of.
    n, exceedances, expected
        Periods with a forecast; how many lost more; alpha * n.
    lr, p_value
        Kupiec's test; NaN without a forecast.
    flags
        "short_backtest": fewer than 5 exceedances are expected.
    """

    method: str
    alpha: float
    window: int
    n: int
    exceedances: int
    expected: float
    lr: float
    p_value: float
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PortfolioResult:
    """
    The figures of a portfolio.

    Attributes
    ----------
    figures
        By name, in the order that they are shown.
    components
        By symbol, of each holding with a weight: the values of `COMPONENT_COLUMNS`.
    returns
        The portfolio's one-period returns by date.
    backtest
        One a tail and method.
    flags, reason
        Why a figure is missing or to be looked at; `reason` is a sentence, or None.
    """

    figures: Mapping[str, Any]
    components: Mapping[str, Mapping[str, float]]
    returns: pd.Series
    backtest: tuple[Backtest, ...] = ()
    flags: tuple[str, ...] = ()
    reason: str | None = None

    def row_values(self, symbol: str) -> Mapping[str, float]:
        """Return the components of a holding; nothing for one without a weight."""
        return self.components.get(symbol, {})

    def row_flags(self, symbol: str) -> tuple[str, ...]:
        """Return what a holding's row has to say of the portfolio."""
        if symbol not in self.components:
            return ()
        is_missing = any(math.isnan(one) for one in self.components[symbol].values())
        flags = ("no_portfolio",) if is_missing else ()
        return (*flags, "short_joint") if "short_joint" in self.flags else flags


# --- the figures ----------------------------------------------------------------------------------


def measure_portfolio(
    holdings: Sequence[Holding], measured: Measured | None, params: RiskParams
) -> PortfolioResult:
    """
    Measure the portfolio of the holdings that have a weight.

    Parameters
    ----------
    holdings
        With the weights that count; at least one has one.
    measured
        The prices of the period; None: none were given.
    """
    weighted = [one for one in holdings if one.weight is not None]
    column_of = {} if measured is None else {s: row.column for s, row in measured.rows.items()}
    positions = find_positions(weighted, column_of)
    blank = _describe_weights(positions) | _list_figures(params)
    reason, joint = _join(measured, positions, params)
    if measured is None or joint is None:
        return PortfolioResult(
            figures=blank,
            components={one.symbol: dict.fromkeys(COMPONENT_COLUMNS, NAN) for one in weighted},
            returns=pd.Series(dtype="float64"),
            flags=("no_portfolio",),
            reason=f"The portfolio cannot be computed: {reason}.",
        )
    market, figures = measured.market, _Figures(joint, params)
    figures.measure()
    # A holding of weight 0 has none of the risk
    components = {one.symbol: dict.fromkeys(COMPONENT_COLUMNS, 0.0) for one in weighted}
    components |= figures.list_components(positions)
    dates = [market.dates[row] for row in joint.calendar.at]
    known = {
        "first_obs": market.dates[joint.calendar.rows[0]],
        "last_obs": market.dates[joint.calendar.rows[-1]],
        **figures.values,
    }
    if short := _describe_short_joint(measured, positions, len(joint.total)):
        figures.flags["short_joint"] = short
    stale_days = (market.as_of - known["last_obs"]).days
    if stale_days > MAX_STEP_SPACINGS * joint.calendar.spacing:
        figures.flags["stale"] = (
            f"the dates that its holdings share end on {known['last_obs'].date()}, {stale_days} "
            "days before the as-of date"
        )
    reasons = list(dict.fromkeys(filter(None, figures.flags.values())))
    return PortfolioResult(
        figures=blank | known,
        components=components,
        returns=pd.Series(joint.total, index=pd.DatetimeIndex(dates), name=PORTFOLIO),
        backtest=figures.list_backtests(),
        flags=tuple(sorted(figures.flags)),
        reason=f"The portfolio: {'; '.join(reasons)}." if reasons else None,
    )


def _describe_weights(positions: Sequence[Position]) -> dict[str, Any]:
    weights = [one.weight for one in positions]
    return {
        "holdings": len(positions),
        "weight_sum": math.fsum(weights),
        "weight_gross": math.fsum(map(abs, weights)),
        "effective_number": effective_number(weights),
    }


def _list_figures(params: RiskParams) -> dict[str, Any]:
    """Return every other figure as missing, in the order that they are shown."""
    return {
        "n_obs": 0,
        "first_obs": pd.NaT,
        "last_obs": pd.NaT,
        "ann_factor": NAN,
        "period": None,
        "ret_total": NAN,
        "vol_ann": NAN,
        **{name: NAN for alpha in params.alpha for name in _tail_names(alpha)},
        "max_dd": NAN,
        "diversification_ratio": NAN,
    }


def _tail_names(alpha: float) -> tuple[str, ...]:
    label = alpha_label(alpha)
    others = (f"var_{label}_{one}" for one in VALUE_AT_RISK_METHODS if one != "historical")
    return (f"var_{label}", f"es_{label}", *others)


def _join(
    measured: Measured | None, positions: Sequence[Position], params: RiskParams
) -> tuple[str, JointReturns | None]:
    """Return the joint returns, or why there are none."""
    if measured is None:
        return "no prices were given", None
    if not positions:
        return "every weight is 0", None
    lost = [one.symbol for one in positions if measured.rows[one.symbol].status != "ok"]
    if lost:
        seen = f"{name_some(lost)} {'has' if len(lost) == 1 else 'have'} no usable prices"
        return seen + _describe_cash(one for one in lost if measured.rows[one].column is None), None
    joint = join_returns(measured.market, positions)
    obstacle = _find_obstacle(measured, positions, joint, params)
    return obstacle, None if obstacle else joint


def _describe_cash(symbols: Iterable[str]) -> str:
    """Say how cash is held where a ticker without a column looks like it; else empty."""
    cash = [one for one in symbols if one in _CASH]
    if not cash:
        return ""
    return (
        f"; if {name_some(cash)} is cash, leave it out of the list: what the weights leave of 1 is "
        "cash that earns nothing"
    )


def _find_obstacle(
    measured: Measured, positions: Sequence[Position], joint: JointReturns, params: RiskParams
) -> str:
    """Say why joint returns have no figures; empty where they do."""
    calendar = joint.calendar
    if len(joint.total) < 2:
        shortest = _find_shortest(measured, positions)
        shared = count_noun(len(calendar.rows), "date")
        return f"its holdings share {shared}; {shortest} has the shortest history"
    if params.periods_per_year is not None:
        return ""
    if math.isnan(calendar.factor):
        return (
            f"its holdings share dates that are {calendar.spacing} days apart, neither days, weeks "
            "nor months; give periods_per_year"
        )
    return f"what its holdings share {calendar.mixture}" if calendar.mixture else ""


def _find_shortest(measured: Measured, positions: Sequence[Position]) -> str:
    def count(one: Position) -> int:
        return len(measured.assets[str(one.column)].calendar.at)

    return min(positions, key=count).symbol


def _describe_short_joint(
    measured: Measured, positions: Sequence[Position], count: int
) -> str | None:
    """Say that the joint history is short of the longest one; None where it is not."""
    counts = [len(measured.assets[str(one.column)].calendar.at) for one in positions]
    longest = max(counts)
    if count >= MIN_RETURNS and count >= 0.5 * longest:
        return None
    shared = f"its holdings share {count_noun(count, 'return')} of at most {longest}"
    if min(counts) == longest:
        return shared
    return f"{shared}; {_find_shortest(measured, positions)} has the shortest history"


class _Figures:
    """The figures that are found of one portfolio, and the flags with their reasons."""

    def __init__(self, joint: JointReturns, params: RiskParams) -> None:
        self.joint, self.params = joint, params
        self.total = joint.total
        self.factor = params.periods_per_year or joint.calendar.factor
        self.decay = DECAY_MONTHLY if joint.calendar.spacing >= 27 else DECAY
        self.values: dict[str, Any] = {
            "n_obs": len(joint.total),
            "ann_factor": self.factor,
            "period": joint.calendar.period,
        }
        self.flags: dict[str, str | None] = {}

    @quiet
    def measure(self) -> None:
        """Fill in the figures."""
        self._measure_path()
        if self.joint.calendar.gap:
            self.flags["gap"] = self.joint.calendar.gap_note
        if len(self.total) < MIN_RETURNS:
            self.flags["short_history"] = f"fewer than {MIN_RETURNS} joint returns"
        else:
            self._measure_spread()
        ordered = np.sort(self.total)
        for alpha in self.params.alpha:
            self._measure_tail(ordered, alpha)

    def _measure_path(self) -> None:
        wealth = self.joint.wealth
        if wealth is None:
            self.flags["wiped_out"] = "it loses its whole capital in one period"
            return
        self.values["ret_total"] = float(formulas.total_return(wealth))
        self.values["max_dd"] = float(formulas.drawdown(wealth)[0])

    def _measure_spread(self) -> None:
        self.values["vol_ann"] = float(formulas.volatility(self.total, root_of(self.factor)))
        if formulas.is_flat(self.total):
            self.flags["flat"] = "it does not move, so nothing can be shared out"
            return
        ratio = formulas.diversification_ratio(self.joint.kept, self.total)
        self.values["diversification_ratio"] = float(ratio)
        deviations = formulas.scaled_deviations(self.total)
        skew, kurtosis = formulas.skewness(deviations), formulas.excess_kurtosis(deviations)
        for alpha in self.params.alpha:
            label = alpha_label(alpha)
            parametric = {
                "gaussian": formulas.gaussian_value_at_risk,
                "cornish_fisher": formulas.cornish_fisher_value_at_risk,
            }
            for name, formula in parametric.items():
                self.values[f"var_{label}_{name}"] = float(formula(self.total, alpha))
            if not has_valid_cornish_fisher(float(skew), float(kurtosis), alpha):
                self.flags["cf_domain"] = (
                    f"skewness {skew:.1f} and excess kurtosis {kurtosis:.1f} are outside of what "
                    "the Cornish-Fisher quantile is made for"
                )

    def _measure_tail(self, ordered: FloatArray, alpha: float) -> None:
        if round(alpha * len(ordered), 9) < MIN_TAIL:
            told = self.flags.get("short_tail") or (
                f"fewer than {MIN_TAIL} returns are expected in the tail"
            )
            also = " or" if told.endswith("%") else ""
            self.flags["short_tail"] = f"{told}{also} of {100 * alpha:g} %"
            return
        label = alpha_label(alpha)
        self.values[f"var_{label}"] = float(formulas.value_at_risk(ordered, alpha))
        self.values[f"es_{label}"] = float(formulas.expected_shortfall(ordered, alpha))
        filtered = filtered_value_at_risk(self.total, alpha, decay=self.decay)
        self.values[f"var_{label}_filtered"] = filtered
        if math.isnan(filtered):
            self.flags["flat"] = "it does not move, so nothing can be shared out"

    def list_components(self, positions: Sequence[Position]) -> Mapping[str, dict[str, float]]:
        """Return the components of each position."""
        joint, count = self.joint, len(positions)
        vol_shares, losses = np.full(count, NAN), np.full(count, NAN)
        main = self.params.alpha[0]
        total_loss = self.values.get(f"es_{alpha_label(main)}", NAN)
        if len(self.total) >= MIN_RETURNS and not formulas.is_flat(self.total):
            vol_shares = formulas.volatility_shares(joint.kept, self.total)
        if not math.isnan(total_loss):
            losses = formulas.expected_shortfall_components(joint.kept, self.total, main)
        loss_shares = losses / total_loss if total_loss else np.full(count, NAN)
        if total_loss == 0:
            self.flags["flat"] = "its expected shortfall is 0, so nothing can be shared out"
        return {
            one.symbol: dict(zip(COMPONENT_COLUMNS, map(float, values), strict=True))
            for one, *values in zip(positions, vol_shares, losses, loss_shares, strict=True)
        }

    def list_backtests(self) -> tuple[Backtest, ...]:
        """Return the backtest of each tail and method."""
        year = self.joint.calendar.factor
        year = self.factor if math.isnan(year) else year
        return tuple(
            _backtest(self.total, alpha, method, _find_window(year, alpha), self.decay)
            for alpha in self.params.alpha
            for method in VALUE_AT_RISK_METHODS
        )


def _find_window(year: float, alpha: float) -> int:
    """Return the returns of a forecast: those of a year, and enough for five in the tail."""
    return max(round(year), math.ceil(round(MIN_TAIL / alpha, 9)))


def _backtest(
    returns: FloatArray, alpha: float, method: str, window: int, decay: float
) -> Backtest:
    forecasts = rolling_value_at_risk(returns, alpha, window=window, method=method, decay=decay)
    known = ~np.isnan(forecasts)
    n, worse = int(np.count_nonzero(known)), int(np.count_nonzero(-returns > forecasts))
    test = kupiec_test(worse, n, alpha)
    return Backtest(
        method=method,
        alpha=alpha,
        window=window,
        n=n,
        exceedances=worse,
        expected=alpha * n,
        lr=test.lr,
        p_value=test.p_value,
        flags=("short_backtest",) if round(alpha * n, 9) < MIN_TAIL else (),
    )
