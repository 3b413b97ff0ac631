"""
Factor betas: the returns of each ticker, and of the portfolio, on several factors at once.

Ordinary least squares with a constant and classical standard errors. The factors are columns of the
prices, or a DataFrame of the user's. Factors of which one follows from the others are refused: no
data could tell their betas apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from urisk_nb.errors import InputError
from urisk_nb.risk import data_faults, formulas
from urisk_nb.risk.inputs import Holding, Prices
from urisk_nb.risk.market import (
    BoolArray,
    Calendar,
    Market,
    compute_changes,
    describe_bad_cells,
    describe_unreadable,
    find_calendar,
    split_into_blocks,
)
from urisk_nb.risk.metrics import NAN, FloatArray, quiet
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.positions import PORTFOLIO, Position, find_positions
from urisk_nb.risk.quant import MIN_RETURNS, Measured
from urisk_nb.risk.tickers import resolve
from urisk_nb.risk.values import count_noun, find_closest

__all__ = ["FactorFit", "FactorResult", "measure_factors", "regress"]

MAX_SHARE_EXPLAINED = 0.9999  # of a factor by the others: a variance inflation of 10,000


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorFit:
    """
    The regression of one ticker, or of the portfolio.

    Attributes
    ----------
    ticker
        The symbol, or "portfolio".
    n
        Joint returns.
    alpha, alpha_se
        The constant, a return a period, and its standard error.
    betas, errors
        One a factor, in the order of the factors.
    r2
        The share of the variance that the factors explain.
    flags
        Why the figures are missing.
    """

    ticker: str
    n: int = 0
    alpha: float = NAN
    alpha_se: float = NAN
    betas: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    r2: float = NAN
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorResult:
    """The factors, and the fit of each ticker; last the portfolio's, where there are weights."""

    names: tuple[str, ...]
    fits: tuple[FactorFit, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Factors:
    """The factors on the rows of the market: T x K prices or returns, and where all have one."""

    names: tuple[str, ...]
    values: FloatArray
    present: BoolArray

    def changes(self, calendar: Calendar, *, is_returns: bool) -> FloatArray:
        """Return the K x n returns on a calendar."""
        moves = compute_changes(self.values[calendar.rows].T, is_returns=is_returns)
        return moves[:, calendar.keep]


def measure_factors(
    measured: Measured,
    holdings: Sequence[Holding],
    params: RiskParams,
    given: Sequence[Prices] | None = None,
) -> FactorResult:
    """
    Regress each ticker, and the portfolio, on the factors.

    Each on the dates that it shares with all factors; returns are computed after that.

    Parameters
    ----------
    given
        Factors that are no columns of the prices, one column each; then `params.factors` has their
        names.

    Raises
    ------
    InputError
        A factor is unknown or unusable, or one follows from the others.
    """
    market = measured.market
    factors = _read_factors(market, params, given)
    _check_collinear(market, factors)
    fits = _fit_tickers(measured, factors)
    by_symbol = [_fit_of(one.symbol, measured, fits, len(factors.names)) for one in holdings]
    if any(one.weight is not None for one in holdings):
        column_of = {symbol: row.column for symbol, row in measured.rows.items()}
        positions = find_positions(holdings, column_of)
        by_symbol.append(_fit_portfolio(measured, factors, positions))
    return FactorResult(names=factors.names, fits=tuple(by_symbol))


# --- the factors ----------------------------------------------------------------------------------


def _read_factors(market: Market, params: RiskParams, given: Sequence[Prices] | None) -> _Factors:
    names = params.factors or ()
    columns = (
        [_read_column(market, name) for name in names]
        if given is None
        else [_read_given(market, one) for one in given]
    )
    for name, values in zip(names, columns, strict=True):
        _check_factor(market, name, values, is_given=given is not None)
    values = np.column_stack(columns)
    present = np.asarray(~np.isnan(values).any(axis=1))
    return _Factors(names=names, values=values, present=present)


def _read_column(market: Market, name: str) -> FloatArray:
    column, _ = resolve(name, market.columns)
    if column is None:
        near = find_closest(name, market.columns)
        raise InputError(
            f"factors={name!r} is no column of the prices.",
            fix=f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"name columns of the prices, such as {', '.join(market.columns[:5])}, or in a "
            "notebook give a DataFrame of factors",
        )
    if seen := describe_unreadable(market, market.faults.get(column, {})):
        raise InputError(f"factor {name!r} has {seen}.", fix="correct these cells")
    return market.close[:, market.position[column]]


def _read_given(market: Market, given: Prices) -> FloatArray:
    """Return a factor of the user's own on the dates of the market."""
    name = str(given.close.columns[0])
    if seen := describe_unreadable(market, given.faults.get(name, {})):
        raise InputError(f"factor {name!r} has {seen}.", fix="pd.to_numeric(factors[name])")
    values = given.close[name]
    if given.is_returns:
        if meant := data_faults.guess_meaning(values.dropna().to_numpy(), 252.0):
            raise InputError(
                f"factor {name!r} {meant}.", fix="give returns as fractions, such as factors / 100"
            )
        if not market.is_returns:  # the wealth that they make, so that joint returns can be made
            values = (1 + values).cumprod()
    return values.reindex(market.dates).to_numpy(dtype=np.float64)


def _check_factor(market: Market, name: str, values: FloatArray, *, is_given: bool) -> None:
    if not (wrong := describe_bad_cells(market, "", values, f"factor {name!r}")):
        return
    fix = "correct these rows, or leave the factor out"
    if is_given and (seen := wrong.removesuffix(data_faults.RETURNS_HINT)) != wrong:
        # `returns` is about the prices; a frame of factors has a switch of its own
        fix = "if they are returns: factor_returns=True (in a cell: --factor-returns)"
        wrong = seen
    raise InputError(wrong, fix=fix)


@quiet
def _check_collinear(market: Market, factors: _Factors) -> None:
    """Refuse factors that share too few dates, do not move, or follow from one another."""
    calendar = find_calendar(market, factors.present, is_joint=True)
    moves = factors.changes(calendar, is_returns=market.is_returns)
    least = max(MIN_RETURNS, len(factors.names) + 2)
    if moves.shape[1] < least:
        raise InputError(
            f"the factors {', '.join(factors.names)} share {count_noun(moves.shape[1], 'return')} "
            f"with each other and the dates of the prices; {least} are needed.",
            fix="give factors of the same dates, or a longer period",
        )
    for name, flat in zip(factors.names, formulas.is_flat(moves), strict=True):
        if flat:
            raise InputError(
                f"factor {name!r} does not move: it is the constant.", fix="leave it out"
            )
    explained = _explain_each(moves)
    worst = int(np.argmax(explained))
    if explained[worst] > MAX_SHARE_EXPLAINED:
        others = [name for name in factors.names if name != factors.names[worst]]
        raise InputError(
            f"factor {factors.names[worst]!r} follows from {', '.join(others)}: they explain "
            f"{100 * explained[worst]:.4f} % of its variance, so no beta can be told apart.",
            fix=f"leave one out, such as factors={','.join(others)!r}",
        )


def _explain_each(moves: FloatArray) -> FloatArray:
    """Return the share of the variance of each factor that the others explain."""
    if len(moves) < 2:
        return np.zeros(len(moves))
    deviations = moves - moves.mean(axis=1, keepdims=True)
    scaled = deviations / np.sqrt(np.sum(np.square(deviations), axis=1, keepdims=True))
    shares = []
    for place, row in enumerate(scaled):
        others = np.delete(scaled, place, axis=0)
        fit, *_ = np.linalg.lstsq(others.T, row, rcond=None)
        shares.append(1 - float(np.sum(np.square(row - fit @ others))))
    return np.array(shares)


# --- the regressions ------------------------------------------------------------------------------


@quiet
def regress(returns: FloatArray, factors: FloatArray) -> tuple[FloatArray, ...]:
    """
    Regress rows of returns on factors by ordinary least squares with a constant.

    Parameters
    ----------
    returns
        N x T.
    factors
        K x T, of which none follows from the others.

    Returns
    -------
    coefficients, errors
        N x (K + 1): the constant first, and the classical standard errors
        sqrt(SSR / (T - K - 1) * diag((X'X)^-1)).
    r2
        N: 1 - SSR / SST; NaN for returns that do not move.
    """
    size, count = factors.shape[1], len(factors)
    means = factors.mean(axis=1)
    deviations = factors - means[:, None]
    # Factors of very different size would lose digits in X'X
    scale = np.sqrt(np.sum(np.square(deviations), axis=1))
    basis, triangle = np.linalg.qr((deviations / scale[:, None]).T)
    inverse = np.linalg.inv(triangle)
    own = returns.mean(axis=1)
    moves = returns - own[:, None]
    betas = (moves @ basis) @ inverse.T / scale
    rest = moves - betas @ deviations
    squares = np.sum(np.square(rest), axis=1)
    spread = inverse @ inverse.T / np.outer(scale, scale)  # (X'X)^-1 of the centered factors
    variance = squares / (size - count - 1)
    slope_errors = np.sqrt(variance[:, None] * np.diag(spread))
    level_errors = np.sqrt(variance * (1 / size + means @ spread @ means))
    coefficients = np.column_stack((own - betas @ means, betas))
    r2 = 1 - squares / np.where(formulas.is_flat(returns), np.nan, np.sum(np.square(moves), axis=1))
    return coefficients, np.column_stack((level_errors, slope_errors)), r2


def _fit_tickers(measured: Measured, factors: _Factors) -> dict[str, FactorFit]:
    """Return the fit of each usable column, computed at once for those that share their dates."""
    market = measured.market
    usable = [market.position[name] for name, one in measured.assets.items() if one.status == "ok"]
    fits: dict[str, FactorFit] = {}
    for block in split_into_blocks(market, usable, market.present & factors.present[:, None]):
        columns = [market.columns[place] for place in block.places]
        moves = factors.changes(block.calendar, is_returns=market.is_returns)
        fits.update(zip(columns, _fit_rows(block.changes, moves), strict=True))
    return fits


def _fit_rows(returns: FloatArray, factors: FloatArray) -> list[FactorFit]:
    count, size = factors.shape
    missing = (NAN,) * count
    bare = FactorFit(ticker="", n=size, betas=missing, errors=missing)
    if size < max(MIN_RETURNS, count + 2):
        return [replace(bare, flags=("short_joint",))] * len(returns)
    is_collinear = formulas.is_flat(factors).any() or (
        _explain_each(factors).max() > MAX_SHARE_EXPLAINED
    )
    if is_collinear:
        return [replace(bare, flags=("collinear_factors",))] * len(returns)
    return [
        FactorFit(
            ticker="",
            n=size,
            alpha=coefficients[0],
            alpha_se=errors[0],
            betas=tuple(coefficients[1:]),
            errors=tuple(errors[1:]),
            r2=share,
            flags=("flat",) if np.isnan(share) else (),
        )
        for coefficients, errors, share in zip(
            *(one.tolist() for one in regress(returns, factors)), strict=True
        )
    ]


def _fit_of(
    symbol: str, measured: Measured, fits: Mapping[str, FactorFit], count: int
) -> FactorFit:
    row, missing = measured.rows[symbol], (NAN,) * count
    bare = FactorFit(ticker=symbol, betas=missing, errors=missing, flags=(row.status,))
    found = fits.get(row.column or "")
    return bare if row.status != "ok" or found is None else replace(found, ticker=symbol)


def _fit_portfolio(
    measured: Measured, factors: _Factors, positions: Sequence[Position]
) -> FactorFit:
    market, missing = measured.market, (NAN,) * len(factors.names)
    bare = FactorFit(ticker=PORTFOLIO, betas=missing, errors=missing)
    if not positions or any(measured.rows[one.symbol].status != "ok" for one in positions):
        return replace(bare, flags=("no_portfolio",))
    places = [market.position[str(one.column)] for one in positions]
    present = market.present[:, places].all(axis=1) & factors.present
    calendar = find_calendar(market, present, is_joint=True)
    values = market.close.T[places][:, calendar.rows]
    moves = compute_changes(values, is_returns=market.is_returns)[:, calendar.keep]
    weights = np.array([one.weight for one in positions])
    total = np.sum(moves * weights[:, None], axis=0)
    others = factors.changes(calendar, is_returns=market.is_returns)
    return replace(_fit_rows(total[None, :], others)[0], ticker=PORTFOLIO)
