"""
What changed beside the rows from one run to another, and why: backtest, episodes, factors.

Each is compared on what both runs have: the same method and tail, the same episode and ticker, the
same ticker and factor. The rest is named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.params import alpha_label
from urisk_nb.risk.positions import PORTFOLIO, name_some
from urisk_nb.table.causes import differ
from urisk_nb.table.portfolio_diff import describe_weights, list_holdings, list_moved
from urisk_nb.table.run_settings import EPISODES, FACTORS, PRICES, WEIGHT, compare_settings
from urisk_nb.table.sides import Side

__all__ = ["compare_parts", "describe_lone_parts", "is_part"]

Key = tuple[str, ...]
_OF_ANY_RUN = ("stress", "factors")  # a backtest comes with the portfolio, which says so itself


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """
    One part of a report.

    Attributes
    ----------
    name
        As in the report.
    keys
        The columns that tell its rows apart; the others are compared.
    noun
        One of what it is of.
    kinds
        Which settings can move a cell.
    last_cause
        What is left where nothing else is known to differ.
    """

    name: str
    keys: tuple[str, ...]
    noun: str
    kinds: frozenset[str]
    last_cause: str


_PARTS = (
    _Part(
        name="backtest",
        keys=("method", "alpha"),
        noun="backtest",
        kinds=frozenset((PRICES, WEIGHT)),
        last_cause="the prices of its tickers",
    ),
    _Part(
        name="stress",
        keys=("episode", "ticker"),
        noun="episode",
        kinds=frozenset((EPISODES,)),
        last_cause="the prices of its tickers in the episode",
    ),
    _Part(
        name="factors",
        keys=("ticker",),
        noun="factor",
        kinds=frozenset((FACTORS,)),
        last_cause="the values of the factors",
    ),
)


def is_part(what: str) -> bool:
    """Tell whether a change of that name is of a part, and of no column of the table."""
    return any(what.startswith((f"{part.name} ", f"{part.name}:")) for part in _PARTS)


def compare_parts(
    older: Side, newer: Side, tickers: Collection[Any], rtol: float
) -> Iterator[dict[str, Any]]:
    """
    Yield a change for each cell that differs.

    Parameters
    ----------
    older, newer
        The two tables; one of several runs has no parts.
    tickers
        Those that both tables have; the portfolio is compared in any case.
    rtol
        Two numbers that are this close, as a share of the larger one, are the same.
    """
    for part in _PARTS:
        if part.name in older.parts and part.name in newer.parts:
            yield from _PartDiff(part, older, newer).list_changes(tickers, rtol)


class _PartDiff:
    """One part of both runs, and what explains a difference."""

    def __init__(self, part: _Part, older: Side, newer: Side) -> None:
        self.part = part
        self.old, self.new = (_read_rows(side.parts[part.name], part) for side in (older, newer))
        before, after = older.records[0], newer.records[0]
        self.settings = compare_settings(before.meta, after.meta)
        self.weights = describe_weights(before, after)
        self.moved = list_moved(before, after)
        self.holdings = {*list_holdings(before), *list_holdings(after)}
        self.dates = [_read_dates(one.meta) for one in (before, after)]

    def list_changes(self, tickers: Collection[Any], rtol: float) -> Iterator[dict[str, Any]]:
        shown = {PORTFOLIO, *map(str, tickers)}
        for key, after in self.new.items():
            ticker = key[-1] if "ticker" in self.part.keys else PORTFOLIO
            before = self.old.get(key)
            if before is None or ticker not in shown:
                continue
            for name, value in after.items():
                if name in before and differ(before[name], value, rtol):
                    yield {
                        "ticker": ticker,
                        "what": f"{_name_row(self.part, key)}: {name}",
                        "old": before[name],
                        "new": value,
                        "cause": "; ".join(self._list_causes(key, ticker)),
                        "quote": None,
                    }

    def _list_causes(self, key: Key, ticker: str) -> list[str]:
        """Return what explains a change: weights, what the runs were told, or else the prices."""
        weights = self.weights if ticker == PORTFOLIO else []
        told = [str(one) for one in self.settings if not one.kinds.isdisjoint(self.part.kinds)]
        if self.part.name == "stress":
            told += self._describe_dates(key[0])
        causes = [*weights, *(told or self._describe_prices(key, ticker))]
        return causes or [self.part.last_cause]

    def _describe_dates(self, episode: str) -> list[str]:
        before, after = (dates.get(episode, "") for dates in self.dates)
        return [] if before == after else [f"the dates of {episode}: {before} -> {after}"]

    def _describe_prices(self, key: Key, ticker: str) -> list[str]:
        """Return whose prices differ; empty where none are known to."""
        is_stress = self.part.name == "stress"
        if ticker != PORTFOLIO:
            moved = [ticker] if is_stress or ticker in self.moved else []
        else:
            every = self._list_moved_inside(key[0]) if is_stress else sorted(self.moved)
            moved = [one for one in every if one in self.holdings]
        if not moved:
            return []
        where = {"stress": " in the episode", "factors": " or of the factors"}
        return [f"the prices of {name_some(moved)}{where.get(self.part.name, '')}"]

    def _list_moved_inside(self, name: str) -> list[str]:
        """Return the tickers whose own loss in an episode is another one."""
        return [
            key[1]
            for key, after in self.new.items()
            if key[0] == name and key[1] != PORTFOLIO and (before := self.old.get(key)) is not None
            if any(differ(before.get(one), value) for one, value in after.items())
        ]


def _read_rows(frame: pd.DataFrame, part: _Part) -> dict[Key, dict[str, Any]]:
    """Return the rows by what tells them apart, without those columns."""
    whole = pd.DataFrame(frame if frame.index.name is None else frame.reset_index())
    rows: dict[Key, dict[str, Any]] = {}
    for row in whole.to_dict("records"):
        key = tuple(str(row[name]) for name in part.keys)
        rows[key] = {str(name): row[name] for name in row if name not in part.keys}
    return rows


def _name_row(part: _Part, key: Key) -> str:
    """Return what begins the name of a change: "stress covid", "backtest historical 95"."""
    if part.name == "stress":
        return f"stress {key[0]}"
    return (
        f"backtest {key[0]} {alpha_label(float(key[1]))}" if part.name == "backtest" else "factors"
    )


def _read_dates(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the dates of each episode as the user gave them."""
    episodes = meta.get("params", {}).get("stress") or ()
    return {one["name"]: f"{one['start']}:{one['end']}" for one in episodes}


# What only one of the tables has ------------------------------------------------------------------


def describe_lone_parts(older: Side, newer: Side) -> Iterator[str]:
    """Yield a sentence for each part, episode, factor and tail that only one table has."""
    for part in _PARTS:
        has = [part.name in side.parts for side in (older, newer)]
        if has[0] != has[1] and part.name in _OF_ANY_RUN:
            yield f"Only the {'newer' if has[1] else 'older'} table has {part.noun}s of one run."
        if not all(has):
            continue
        before, after = (_list_names(side.parts[part.name], part) for side in (older, newer))
        for which, names, others in (("newer", after, before), ("older", before, after)):
            if alone := [one for one in names if one not in others]:
                counted = format_count(len(alone), part.noun)
                yield f"Only the {which} table has {counted}: {name_some(alone)}."


def _list_names(frame: pd.DataFrame, part: _Part) -> list[str]:
    """Return what a part is of: tails and methods, episodes, or factors."""
    if part.name == "factors":
        betas = [str(name) for name in frame.columns if str(name).startswith("beta_")]
        return [name.removeprefix("beta_") for name in betas if f"{name}_se" in frame.columns]
    if part.name == "stress":
        return list(dict.fromkeys(frame["episode"]))
    return [_name_row(part, key).removeprefix("backtest ") for key in _read_rows(frame, part)]
