"""What a table answers about its portfolio, and why it has no answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError

__all__ = ["require_part", "unite_prices"]

# What each part needs, and how a run is given it
_NEEDED = {
    "portfolio": ("no ticker has a weight", "write weights, such as NVDA=0.4, MSFT=0.6"),
    "backtest": ("no ticker has a weight", "write weights, such as NVDA=0.4, MSFT=0.6"),
    "stress": (
        "the run was given no episode",
        'give one: stress="covid=2020-02-19:2020-03-23" (in a cell: --stress with the same text)',
    ),
    "factors": (
        "the run was given no factors",
        'name columns of the prices: factors="SPY,TLT" (in a cell: --factors SPY,TLT)',
    ),
}


_NOUNS = {
    "portfolio": "a portfolio",
    "backtest": "a backtest",
    "stress": "episodes",
    "factors": "factors",
}


def require_part(name: str, part: Any, meta: Mapping[str, Any]) -> Any:
    """
    Return a part of the report.

    Raises
    ------
    InputError
        The run was not asked for it, or the table is made of several runs.
    """
    if part is not None:
        return part
    if len(runs := meta.get("runs", ())) > 1:
        raise InputError(
            f"this table is put together from {len(runs)} runs, and only the table of one run "
            f"has {_NOUNS[name]}.",
            fix=f"ask the table of one run for its {name}, or make one run of all tickers",
        )
    seen, fix = _NEEDED[name]
    raise InputError(f"the table has no {name}, because {seen}.", fix=fix)


def unite_prices(frames: Collection[pd.DataFrame]) -> pd.DataFrame | None:
    """
    Put the prices of several runs side by side; None if there are none.

    A ticker whose prices differ between two runs is left out: either would be wrong for one run.
    """
    columns: dict[Any, pd.Series] = {}
    clashes = set()
    for frame in frames:
        for name, values in frame.items():
            if name in columns and not columns[name].equals(values):
                clashes.add(name)
            columns.setdefault(name, values)
    kept = {name: values for name, values in columns.items() if name not in clashes}
    return pd.DataFrame(kept).sort_index().rename_axis(columns="ticker") if kept else None
