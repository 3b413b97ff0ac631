"""
The benchmark: a column of the prices, the mean of the table's own assets, or a Series of the
user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from urisk_nb.errors import InputError
from urisk_nb.risk import data_faults
from urisk_nb.risk.inputs import Prices
from urisk_nb.risk.market import (
    Asset,
    BoolArray,
    Market,
    compute_changes,
    describe_bad_cells,
    describe_unreadable,
)
from urisk_nb.risk.metrics import NAN, FloatArray, quiet
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.tickers import resolve
from urisk_nb.risk.values import count_noun, find_closest

__all__ = ["Reference", "read_reference"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """The benchmark on the rows of the market: prices (or returns), NaN where there is none."""

    values: FloatArray
    present: BoolArray
    count: int
    has_jump: bool = False


def read_reference(
    market: Market, assets: Mapping[str, Asset], params: RiskParams, given: Prices | None
) -> Reference | None:
    """
    Return the benchmark that the parameters name, or the one given beside the prices.

    None without a benchmark.

    Raises
    ------
    InputError
        It is unknown, or cannot be used.
    """
    name = params.benchmark
    if given is not None:
        if name not in (None, "given", given.close.columns[0]):
            raise InputError(
                f"benchmark={name!r} and a Series were both given.",
                fix='benchmark="given", or leave the Series out',
            )
        return _read_given_reference(market, given)
    if name is None:
        return None
    if name == "given":
        raise InputError(
            'benchmark="given", but no Series was passed.',
            fix="pass the Series, or name a column of the prices",
        )
    return (
        _build_equal_reference(market, assets)
        if name == "equal"
        else _read_column_reference(market, name)
    )


def _check_reference(market: Market, column: str, values: FloatArray, what: str) -> Reference:
    if wrong := describe_bad_cells(market, column, values, what):
        raise InputError(wrong, fix="correct these rows, or choose another benchmark")
    present = ~np.isnan(values)
    count = int(np.count_nonzero(present))
    if count < 2:
        raise InputError(
            f"{what} has {count_noun(count, 'value')} on the dates of the prices in the period.",
            fix="choose a benchmark of the same dates",
        )
    moves = compute_changes(values[present], is_returns=market.is_returns)
    return Reference(
        values=values,
        present=present,
        count=count if market.is_returns else count - 1,
        # Few move so far that a closer look is worth it
        has_jump=bool(
            (
                moves.max() >= data_faults.MIN_SPLIT - 1
                or moves.min() <= 1 / data_faults.MIN_SPLIT - 1
            )
            and data_faults.has_jump(moves)
        ),
    )


def _read_column_reference(market: Market, name: str) -> Reference:
    column, _ = resolve(name, market.columns)
    if column is None:
        near = find_closest(name, [*market.columns, "equal"])
        raise InputError(
            f"the prices have no column {name!r} for the benchmark.",
            fix=f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else 'benchmark="equal", or a column of the prices',
        )
    return _check_reference(
        market, column, market.close[:, market.position[column]], f"benchmark {column!r}"
    )


def _read_given_reference(market: Market, given: Prices) -> Reference:
    name = given.close.columns[0]
    values = given.close[name].reindex(market.dates).to_numpy(dtype=np.float64)
    # its own describe_unreadable cells, not those of a column of the same name
    if seen := describe_unreadable(market, given.faults.get(name, {})):
        raise InputError(f"the benchmark has {seen}.", fix="pd.to_numeric(benchmark)")
    return _check_reference(market, "", values, "the benchmark")


@quiet
def _build_equal_reference(market: Market, assets: Mapping[str, Asset]) -> Reference | None:
    """
    Return the equal-weighted mean return of the usable assets, on the rows that all have.

    It is kept as a price path like any other benchmark, so that the joint returns are made in one
    place. Sorted by name: the order of the columns changes no digit.
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
    return Reference(
        values=path,
        present=~np.isnan(path),
        count=max(len(assets[name].calendar.at) for name in names),
    )
