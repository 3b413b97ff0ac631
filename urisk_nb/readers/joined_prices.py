"""Prices of many files or frames as one: one company after another in time, or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.inputs import Prices

__all__ = ["append", "rename", "stack"]


def rename(prices: Prices, name: str) -> Prices:
    """Return prices of one column under another name."""
    renamed = prices.close.columns[0]
    return replace(
        prices,
        close=prices.close.rename(columns={renamed: name}),
        volume=None if prices.volume is None else prices.volume.set_axis([name], axis=1),
        faults={name: prices.faults[renamed]} if renamed in prices.faults else {},
    )


def append(name: str, parts: Sequence[Prices]) -> Prices:
    """Return the parts of one ticker in the order of their dates, which must not disagree."""
    if len(parts) == 1:
        return parts[0]
    close = pd.concat([one.close for one in parts])
    twice = close.index[close.index.duplicated()]
    for day in twice:
        values = close.loc[[day]].drop_duplicates()
        if len(values) > 1:
            raise InputError(
                f"two files of {name} have different prices for {day.date()}.",
                fix=f"keep one file of {name} for each period",
            )
    volumes = [one.volume for one in parts]
    volume = None
    if all(one is not None for one in volumes):
        both = pd.concat([one for one in volumes if one is not None])
        volume = both[~both.index.duplicated()].sort_index()
    faults: dict[str, dict[pd.Timestamp, str]] = {}
    for one in parts:
        for column, cells in one.faults.items():
            faults.setdefault(column, {}).update(cells)
    return replace(
        parts[0],
        close=close[~close.index.duplicated()].sort_index(),
        volume=volume,
        faults=faults,
        notes=tuple(chain.from_iterable(one.notes for one in parts)),
    )


def stack(parts: Sequence[Prices]) -> Prices:
    """Return the columns of all parts side by side, on the dates that any of them has."""
    close = pd.concat([one.close for one in parts], axis=1).sort_index()
    if close.columns.has_duplicates:
        name = close.columns[close.columns.duplicated()][0]
        raise InputError(
            f"the prices have {name!r} more than once.", fix=f"keep one source of {name}"
        )
    volumes = [one.volume for one in parts if one.volume is not None]
    notes: list[str] = []
    by_column: dict[str | None, list[str]] = {}
    for one in parts:
        by_column.setdefault(one.price_column, []).extend(map(str, one.close.columns))
    if len(by_column) > 1:
        seen = "; ".join(
            f"{name or 'their only column'} for {', '.join(names[:5])}"
            + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            for name, names in by_column.items()
        )
        notes.append(f"The prices are from different columns: {seen}.")
    notes.extend(chain.from_iterable(one.notes for one in parts))
    is_adjusted = {one.is_adjusted for one in parts}
    return Prices(
        close=close,
        volume=pd.concat(volumes, axis=1).reindex(index=close.index, columns=close.columns)
        if volumes
        else None,
        flags=tuple(sorted(set(chain.from_iterable(one.flags for one in parts)))),
        is_returns=parts[0].is_returns,
        faults=dict(chain.from_iterable(one.faults.items() for one in parts)),
        price_column=next(iter(by_column)) if len(by_column) == 1 else None,
        is_adjusted=is_adjusted.pop() if len(is_adjusted) == 1 else None,
        notes=tuple(notes),
    )
