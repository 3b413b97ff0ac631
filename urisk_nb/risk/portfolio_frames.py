"""
What a run found of its portfolio, as the Series and frames that a user gets.

Pure: a plan in, frames out. The page that names each column is docs/portfolio.md.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from urisk_nb.risk.plan import Plan

__all__ = ["build_backtest", "build_factors", "build_portfolio", "build_stress"]


def build_portfolio(plan: Plan, scores: pd.Series) -> pd.Series | None:
    """
    Return the figures of the portfolio; None where no ticker has a weight.

    Parameters
    ----------
    scores
        By symbol; NaN for a ticker without a score (NR).

    Returns
    -------
    Series
        By name, of mixed types; the last two are `flags` and `reason`.
    """
    if (found := plan.portfolio) is None:
        return None
    values = {
        **found.figures,
        **_weigh_scores(plan, scores),
        "flags": ";".join(found.flags),
        "reason": found.reason,
    }
    return pd.Series(values, dtype=object, name="portfolio")


def _weigh_scores(plan: Plan, scores: pd.Series) -> dict[str, float]:
    """Return the mean score by size of position, and the share of the positions that have one."""
    sizes = {one.symbol: abs(one.weight) for one in plan.holdings if one.weight}
    by_symbol = scores.dropna().to_dict()
    known = {symbol: float(by_symbol[symbol]) for symbol in sizes if symbol in by_symbol}
    scored = math.fsum(sizes[symbol] for symbol in known)
    gross = math.fsum(sizes.values())
    mean = math.fsum(sizes[symbol] * score for symbol, score in known.items())
    return {
        "score": mean / scored if scored else math.nan,
        "score_coverage": scored / gross if gross else math.nan,
    }


def build_backtest(plan: Plan) -> pd.DataFrame | None:
    """Return one row a tail and method of VaR; None where no ticker has a weight."""
    if plan.portfolio is None:
        return None
    names = ("method", "alpha", "window", "n", "exceedances", "expected")
    rows: list[dict[str, Any]] = [
        {
            **{name: getattr(one, name) for name in names},
            "LR": one.lr,
            "p_value": one.p_value,
            "flags": ";".join(one.flags),
        }
        for one in plan.portfolio.backtest
    ]
    return pd.DataFrame(rows, columns=[*names, "LR", "p_value", "flags"])


def build_stress(plan: Plan) -> pd.DataFrame | None:
    """Return one row an episode and ticker; None where no episode was given."""
    if plan.stress is None:
        return None
    names = ("episode", "ticker", "start", "end", "n_obs", "ret_total", "max_dd")
    rows: list[dict[str, Any]] = [
        {
            **{name: getattr(one, name) for name in names},
            "flags": ";".join(one.flags),
            "reason": one.reason,
        }
        for one in plan.stress
    ]
    frame = pd.DataFrame(rows, columns=[*names, "flags", "reason"])
    return frame.assign(**{name: pd.to_datetime(frame[name]) for name in ("start", "end")})


def build_factors(plan: Plan) -> pd.DataFrame | None:
    """Return one row a ticker with its betas; None where no factors were given."""
    if plan.factors is None:
        return None
    rows: list[dict[str, Any]] = []
    for fit in plan.factors.fits:
        row: dict[str, Any] = {"ticker": fit.ticker, "alpha": fit.alpha, "alpha_se": fit.alpha_se}
        for name, beta, error in zip(plan.factors.names, fit.betas, fit.errors, strict=True):
            row |= {f"beta_{name}": beta, f"beta_{name}_se": error}
        rows.append({**row, "r2": fit.r2, "n": fit.n, "flags": ";".join(fit.flags)})
    return pd.DataFrame(rows).set_index("ticker")
