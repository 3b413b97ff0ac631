"""
What a benchmark hands over: figures, each beside its anchor, and curves.

A figure has an anchor where something else does the same work in the same run: raw httpx, another
client, a library, or the ideal time. Ours and the anchor take turns, round by round, so that what
else the machine does falls on both. The ratio is the median over the rounds, and its spread stays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


class Skipped(Exception):
    """Why a group, or a part of it, was not measured here; the text stands in the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One measured value.

    `unit` is ``x`` for a ratio; then `ours` and `anchor` are the seconds that it is made of. `low`
    and `high` are the least and the greatest of the rounds.
    """

    value: float
    unit: str
    conditions: str
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    ours: float | None = None
    anchor: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How something grows: `y` over `x`, and what it ideally were where that is known."""

    x: Sequence[float]
    y: Sequence[float]
    conditions: str
    ideal: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that one group measured; `notes` say what was left out, and why."""

    figures: Mapping[str, Figure] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def encode(self) -> dict[str, Any]:
        """Return what a JSON file has of it."""
        return asdict(self)


def decode(content: Mapping[str, Any]) -> Measured:
    """Return what was encoded."""
    return Measured(
        figures={name: Figure(**one) for name, one in content["figures"].items()},
        curves={name: Curve(**one) for name, one in content["curves"].items()},
        notes=content["notes"],
    )


def time_of(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def take_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """
    Return what each way says in each round.

    Every other round goes backwards, so that no way is always the one after a certain other.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
            found[name].append(way())
    return found


def compare(ours: Sequence[float], anchor: Sequence[float], conditions: str) -> Figure:
    """Return the ratio of what took turns: the median of the rounds, and their spread."""
    ratios = [mine / theirs for mine, theirs in zip(ours, anchor, strict=True)]
    return Figure(
        value=statistics.median(ratios),
        unit="x",
        conditions=conditions,
        low=min(ratios),
        high=max(ratios),
        rounds=len(ratios),
        ours=statistics.median(ours),
        anchor=statistics.median(anchor),
    )


def summarize(values: Sequence[float], unit: str, conditions: str) -> Figure:
    """Return the median of what several rounds gave, and their spread."""
    return Figure(
        value=statistics.median(values),
        unit=unit,
        conditions=conditions,
        low=min(values),
        high=max(values),
        rounds=len(values),
    )
