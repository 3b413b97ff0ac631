"""From the ratings of a ticker's categories to its score and level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.questions import Label
from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy

__all__ = [
    "CUTS",
    "DISCOUNTS",
    "SCORE_V1",
    "SCORE_V2",
    "WEIGHTS",
    "Level",
    "Score",
    "level",
    "reconcile",
    "score",
]

SCORE_V1 = "score_v1"  # of news, notes and calls
SCORE_V2 = "score_v2"  # of evidence with a filing
# By what the weight of each category is divided once more than that of the one before it
DISCOUNTS = {SCORE_V1: 1, SCORE_V2: 3}
# Of severity 0..5; a stated convention, not a probability
WEIGHTS = (0.0, 0.05, 0.15, 0.35, 0.60, 0.85)


class Level(StrEnum):
    """A cut of the score, in ascending order."""

    NR = "NR"  # nothing was judged
    LOW = "Low"  # [0, 20)
    MODERATE = "Moderate"  # [20, 40)
    ELEVATED = "Elevated"  # [40, 60)
    HIGH = "High"  # [60, 80)
    SEVERE = "Severe"  # [80, 100]


# The lowest score of each level
CUTS = (
    (80.0, Level.SEVERE),
    (60.0, Level.HIGH),
    (40.0, Level.ELEVATED),
    (20.0, Level.MODERATE),
    (0.0, Level.LOW),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """
    What the ratings of one ticker add up to.

    Attributes
    ----------
    score
        0 to 100, six decimals, or None where nothing was judged.
    level
        A cut of the score; ``NR`` where nothing was judged.
    coverage
        Rated categories over all categories, 0 to 1.
    top_risk
        The category with the highest rating, ties in taxonomy order, or None.
    flags
        ``no_risk_found`` where sentences were judged and none is about a risk.
    """

    score: float | None
    level: Level
    coverage: float
    top_risk: str | None
    flags: tuple[str, ...] = ()


def score(
    ratings: Mapping[str, int | None],
    taxonomy: Taxonomy = DEFAULT,
    *,
    judged: bool = False,
    version: str = SCORE_V1,
) -> Score:
    """
    Return the score of a mapping category -> severity.

    score_v1 is ``100 * (1 - prod_c (1 - w(r_c)))`` over the rated categories with w = 0, .05, .15,
    .35, .60, .85 for severities 0 to 5: one severe category is never averaged away, more evidence
    of risk never lowers it, an unrated category adds nothing. score_v2 takes the categories in
    descending order of rating and divides w by 1, 3, 9, ...: a filing names a risk of every
    category, and many small ones are no large one.

    Parameters
    ----------
    ratings
        For each category the highest severity, 0 to 5; None, NaN or a missing key where there is no
        rating.
    taxonomy
        The categories that exist.
    judged
        Whether sentences were judged at all; decides between ``NR`` and a score of 0 where nothing
        is rated.
    version
        ``score_v1`` or ``score_v2``.

    Raises
    ------
    InputError
        A category that the taxonomy does not have, or a rating that is not a whole number from 0 to
        5.

    Examples
    --------
    >>> score({"legal": 3, "business": 3}).score
    57.75
    >>> score({"legal": 4}).level.value
    'High'
    >>> score({"legal": 3, "business": 3}, version="score_v2").score
    42.583333
    """
    rated = _check_ratings(ratings, taxonomy)
    coverage = len(rated) / len(taxonomy.ids)
    if not rated:
        return Score(
            score=0.0 if judged else None,
            level=Level.LOW if judged else Level.NR,
            coverage=coverage,
            top_risk=None,
            flags=("no_risk_found",) if judged else (),
        )
    # Rounded, since float noise must not decide a level; multiplied in one order, so that none adds
    # any.
    left = math.prod(
        1 - WEIGHTS[severity] / DISCOUNTS[version] ** place
        for place, severity in enumerate(sorted(rated.values(), reverse=True))
    )
    points = round(100 * (1 - left), 6)
    return Score(
        score=points,
        level=level(points),
        coverage=coverage,
        top_risk=max(rated, key=lambda category: rated[category]),
    )


def level(points: float) -> Level:
    """Return the level of a rounded score, lower bounds included."""
    return next(name for bound, name in CUTS if points >= bound)


def _check_ratings(ratings: Mapping[str, Any], taxonomy: Taxonomy) -> dict[str, int]:
    unknown = sorted(str(category) for category in ratings if category not in taxonomy.ids)
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a category.", fix=f"use {', '.join(taxonomy.ids)}")
    return {
        category: _check_severity(category, ratings[category])
        for category in taxonomy.ids
        if not _is_missing(ratings.get(category))
    }


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _check_severity(category: str, value: object) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or int(value) not in range(len(WEIGHTS))
    ):
        raise InputError(
            f"the rating of {category!r} is {value!r}.",
            fix="give a whole number from 0 to 5, or None where there is no rating",
        )
    return int(value)


def reconcile(first: Label, second: Label | None) -> tuple[Label, tuple[str, ...]]:
    """
    Return what counts after the second look: the first risk, the lower severity of both.

    A second look that names another risk does not move the sentence to another category: its
    severity is read as that of the first risk; `none` counts as 0. Flags ``unstable`` where the
    severities differ by two or more, ``second_look_failed`` where there is no second answer: then
    the first stands.
    """
    if second is None:
        return first, ("second_look_failed",)
    flags = ("unstable",) if abs(first.severity - second.severity) >= 2 else ()
    return Label(risk=first.risk, severity=min(first.severity, second.severity)), flags
