"""
The results of a benchmark: figures, each with its anchor, and curves.

A figure has an anchor if something else does the same work in the same run: raw httpx, another
client, a library, or the ideal time. urisk_nb and the anchor alternate round by round, so that
other load on the machine affects both. The ratio is the median over the rounds; its spread is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


class Skipped(Exception):
    """Why a group was not measured on this machine; the page shows the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One measured value.

    `unit` is ``x`` for a ratio; then `ours` and `anchor` are its two times in seconds. `low` and
    `high` are the smallest and the largest value of the rounds.
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
    """A curve: `y` over `x`, with the ideal `y` if that is known."""

    x: Sequence[float]
    y: Sequence[float]
    conditions: str
    ideal: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The results of a group; `notes` say what was left out, and why."""

    figures: Mapping[str, Figure] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def encode(self) -> dict[str, Any]:
        """Return the content for a JSON file."""
        return asdict(self)


def decode(content: Mapping[str, Any]) -> Measured:
    """Return the results from the content of a JSON file."""
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
    Run each function once per round, and return the results of each.

    Every other round runs in reverse order, so that no function always follows the same one.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
            found[name].append(way())
    return found


def compare(ours: Sequence[float], anchor: Sequence[float], conditions: str) -> Figure:
    """Return the median ratio over the rounds, with its spread."""
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
    """Return the median over the rounds, with its spread."""
    return Figure(
        value=statistics.median(values),
        unit=unit,
        conditions=conditions,
        low=min(values),
        high=max(values),
        rounds=len(values),
    )
