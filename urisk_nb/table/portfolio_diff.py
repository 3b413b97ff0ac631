"""What changed in the figures of the portfolio from one run to another, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from urisk_nb.render.table_content import format_value
from urisk_nb.risk.positions import PORTFOLIO
from urisk_nb.table.causes import differ
from urisk_nb.table.records import RunRecord
from urisk_nb.table.run_settings import PRICES, TAIL, WEIGHT, compare_settings
from urisk_nb.table.sides import Side

__all__ = [
    "compare_portfolios",
    "describe_lone_portfolio",
    "describe_weights",
    "list_holdings",
    "list_moved",
]

MAX_NAMED = 10  # weights in a line
_OF_SCORES = ("score", "score_coverage")
# Where prices or their dates differ, one of these does
_OF_PRICES = ("first_obs", "last_obs", "n_obs", "n_missing", "ret_total", "vol_ann", "max_dd")


def compare_portfolios(older: Side, newer: Side, rtol: float) -> Iterator[dict[str, Any]]:
    """
    Yield a change for each figure that differs; none where a side has no portfolio.

    Parameters
    ----------
    older, newer
        The two tables, each of one run.
    rtol
        Two numbers that are this close, as a share of the larger one, are the same.
    """
    if older.portfolio is None or newer.portfolio is None:
        return
    old, new = older.records[0], newer.records[0]
    weights = describe_weights(old, new)
    has_moved = not list_moved(old, new).isdisjoint((*list_holdings(old), *list_holdings(new)))
    settings = compare_settings(old.meta, new.meta)
    for name in map(str, newer.portfolio.index):
        if name not in older.portfolio.index:
            continue
        before, after = older.portfolio[name], newer.portfolio[name]
        if not differ(before, after, rtol):
            continue
        kinds = {WEIGHT, PRICES, *((TAIL,) if name.startswith(("var_", "es_")) else ())}
        told = [str(one) for one in settings if not one.kinds.isdisjoint(kinds)]
        if name in _OF_SCORES:
            told = ["the scores of its tickers"]
        elif has_moved and not told:
            told = ["the prices of its tickers"]
        yield {
            "ticker": PORTFOLIO,
            "what": name,
            "old": before,
            "new": after,
            "cause": "; ".join([*weights, *told]) or "the prices of its tickers",
            "quote": None,
        }


def describe_lone_portfolio(older: Side, newer: Side) -> Sequence[str]:
    """Say that only one of the tables has a portfolio; empty where both or none have."""
    has_old, has_new = (side.portfolio is not None for side in (older, newer))
    if has_old == has_new:
        return ()
    return (f"Only the {'newer' if has_new else 'older'} table has a portfolio of one run.",)


def _read_weights(record: RunRecord) -> dict[str, Any]:
    column = record.rows.get("weight")
    return {} if column is None else {str(k): v for k, v in column.dropna().items()}


def describe_weights(older: RunRecord, newer: RunRecord) -> list[str]:
    """Return which weights differ, as one text; empty where all are the same."""
    old, new = _read_weights(older), _read_weights(newer)
    names = [one for one in dict.fromkeys((*new, *old)) if differ(old.get(one), new.get(one))]
    shown = [f"{one} {_show(old.get(one))} -> {_show(new.get(one))}" for one in names[:MAX_NAMED]]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return [f"the weights as they were given: {', '.join(shown)}{more}"] if names else []


def list_moved(older: RunRecord, newer: RunRecord) -> set[str]:
    """Return the tickers of both runs whose prices differ, by what is computed of them."""
    columns = [name for name in _OF_PRICES if name in older.rows and name in newer.rows]
    if not columns:
        return set()
    before = older.rows[columns].to_dict("index")
    return {
        str(ticker)
        for ticker, after in newer.rows[columns].to_dict("index").items()
        if ticker in before
        and any(differ(before[ticker][name], value) for name, value in after.items())
    }


def list_holdings(record: RunRecord) -> list[str]:
    """Return the tickers with a weight other than 0."""
    return [ticker for ticker, weight in _read_weights(record).items() if weight]


def _show(weight: Any) -> str:
    return format_value("weight", None if pd.isna(weight) else float(weight))
