"""
How good labels are: against labels that somebody made, with the interval that the number of
sentences allows.

Pure arithmetic over outcomes. A probability is judged apart from the label: is what was called 80 %
sure right in 80 of 100 cases?
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.questions import Label
from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES, Taxonomy

__all__ = [
    "LabeledSentence",
    "Prediction",
    "brier",
    "confusion",
    "expected_calibration_error",
    "figures",
    "interval",
    "majority_baseline",
    "read_labels",
    "reliability",
]

BINS = 10
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledSentence:
    """
    A sentence and the labels that are right for it: one of `risks`, a severity from `low` to
    `high`.
    """

    text: str
    risks: frozenset[str]
    low: int
    high: int

    def steps(self, severity: int) -> int:
        """Return how many steps a severity lies outside the range; 0 within it."""
        return max(self.low - severity, severity - self.high, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """
    What a model said of an item: the label, None where no valid answer came, and the probability it
    had, None where none was told.
    """

    item: LabeledSentence
    label: Label | None
    p_label: float | None = None

    @property
    def is_right(self) -> bool:
        """Whether the category is one of the right ones."""
        return self.label is not None and self.label.risk in self.item.risks


def read_labels(
    rows: Sequence[Mapping[str, Any]], taxonomy: Taxonomy = DEFAULT
) -> list[LabeledSentence]:
    """
    Labeled sentences from rows with text, risk and severity; `|` stands between risks that are
    both right, severity_min and severity_max may take the place of severity.

    Raises
    ------
    InputError
        A column is missing, or a row cannot be meant as it stands; names the row.
    """
    if not rows:
        raise InputError("there are no labeled sentences.", fix="give rows with text,risk,severity")
    ways = ({"text", "risk", "severity"}, {"text", "risk", "severity_min", "severity_max"})
    if not any(way <= set(rows[0]) for way in ways):
        raise InputError(
            f"the columns are {', '.join(map(str, rows[0]))}.",
            fix="wanted: text,risk,severity (or severity_min,severity_max)",
        )
    return [_item(number, row, taxonomy) for number, row in enumerate(rows, 1)]


def _item(number: int, row: Mapping[str, Any], taxonomy: Taxonomy) -> LabeledSentence:
    text, risks = str(row["text"] or "").strip(), frozenset(str(row["risk"]).split("|"))
    low, high = (
        row.get(name) if row.get(name) is not None else row.get("severity")
        for name in ("severity_min", "severity_max")
    )
    if not text:
        raise InputError(f"row {number} has no text.", fix="leave it out, or write the sentence")
    if unknown := risks - set(taxonomy.labels):
        raise InputError(
            f"row {number} has the risk {min(unknown)!r}.", fix=f"use {', '.join(taxonomy.labels)}"
        )
    if not (_is_severity(low) and _is_severity(high)) or int(str(low)) > int(str(high)):
        raise InputError(
            f"row {number} has the severity {low!r} to {high!r}.",
            fix="use whole numbers from 0 to 5",
        )
    return LabeledSentence(text=text, risks=risks, low=int(str(low)), high=int(str(high)))


def _is_severity(value: object) -> bool:
    return str(value) in map(str, SEVERITIES)


# Figures ------------------------------------------------------------------------------------------


def figures(outcomes: Sequence[Prediction]) -> dict[str, float]:
    """
    Return the figures of a model's labels; shares from 0 to 1, NaN where there is nothing to take
    them of.

    Returns
    -------
    dict
        sentences, valid (answers); category, category_lo, category_hi (share right, with its 95 %
        interval); severity, severity_lo, severity_hi (share within the right range) and
        severity_near (at most one step off it), severity_error (mean steps off it): of the
        sentences that are about a risk and were answered; brier, ece: of those whose probability is
        known, NaN without.
    """
    total = len(outcomes)
    right = sum(outcome.is_right for outcome in outcomes)
    steps = [
        outcome.item.steps(outcome.label.severity)
        for outcome in outcomes
        if outcome.label and outcome.item.risks != {NONE}
    ]
    exact = sum(step == 0 for step in steps)
    low, high = interval(right, total)
    severity_low, severity_high = interval(exact, len(steps))
    return {
        "sentences": total,
        "valid": sum(outcome.label is not None for outcome in outcomes),
        "category": _share(right, total),
        "category_lo": low,
        "category_hi": high,
        "severity": _share(exact, len(steps)),
        "severity_lo": severity_low,
        "severity_hi": severity_high,
        "severity_near": _share(sum(step <= 1 for step in steps), len(steps)),
        "severity_error": _share(sum(steps), len(steps)),
        "brier": brier(outcomes),
        "ece": expected_calibration_error(outcomes),
    }


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan


def interval(right: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """
    Return the interval of a share by Wilson's score method (Wilson 1927), which holds for few cases
    and for shares near 0 and 1; NaN without.

    (p + z^2/2n -/+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z the normal quantile of (1 +
    level)/2.
    """
    if not total:
        return math.nan, math.nan
    z, p = NormalDist().inv_cdf((1 + level) / 2), right / total
    middle = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (middle - spread) / (1 + z * z / total), (middle + spread) / (1 + z * z / total)


def _pair_confidences(outcomes: Sequence[Prediction]) -> list[tuple[float, bool]]:
    return [
        (outcome.p_label, outcome.is_right) for outcome in outcomes if outcome.p_label is not None
    ]


def brier(outcomes: Sequence[Prediction]) -> float:
    """
    Mean squared difference between the probability of the chosen category and whether it is right
    (Brier 1950); 0 is best.
    """
    known = _pair_confidences(outcomes)
    return _share(sum((p - right) ** 2 for p, right in known), len(known))


def reliability(outcomes: Sequence[Prediction], bins: int = BINS) -> pd.DataFrame:
    """
    Said against seen: one row for each bin of equal width that has cases.

    Returns
    -------
    DataFrame
        Index `bin` (from 0); columns `low`, `high` (its bounds, the upper one included), `n`,
        `said` (mean probability), `right` (share).
    """
    rows: dict[int, list[tuple[float, bool]]] = {}
    for p, right in _pair_confidences(outcomes):
        rows.setdefault(min(bins - 1, max(0, math.ceil(p * bins) - 1)), []).append((p, right))
    return pd.DataFrame(
        [
            {
                "bin": number,
                "low": number / bins,
                "high": (number + 1) / bins,
                "n": len(cases),
                "said": sum(p for p, _ in cases) / len(cases),
                "right": sum(right for _, right in cases) / len(cases),
            }
            for number, cases in sorted(rows.items())
        ],
        columns=["bin", "low", "high", "n", "said", "right"],
    ).set_index("bin")


def expected_calibration_error(outcomes: Sequence[Prediction], bins: int = BINS) -> float:
    """
    Return the mean distance between said and seen over the bins, each weighed by its cases (Naeini
    et al. 2015); 0 is best, NaN without.
    """
    table = reliability(outcomes, bins)
    return (
        float((table["n"] * (table["said"] - table["right"]).abs()).sum() / table["n"].sum())
        if len(table)
        else math.nan
    )


def confusion(outcomes: Sequence[Prediction], taxonomy: Taxonomy = DEFAULT) -> pd.DataFrame:
    """
    Wanted (rows) against said (columns), counts; the column `invalid` where no answer came.

    Where several categories are right, the row is the one that was said if it is one of them, else
    the first in taxonomy order.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        said = outcome.label.risk if outcome.label else "invalid"
        first = next(name for name in taxonomy.labels if name in outcome.item.risks)
        seen[said if outcome.is_right else first, said] += 1
    return pd.DataFrame(
        {
            said: [seen[wanted, said] for wanted in taxonomy.labels]
            for said in (*taxonomy.labels, "invalid")
        },
        index=pd.Index(taxonomy.labels, name="wanted"),
    ).rename_axis(columns="said")


def majority_baseline(
    items: Sequence[LabeledSentence], taxonomy: Taxonomy = DEFAULT
) -> tuple[float, float]:
    """
    Return what the best constant answer reaches, category and severity: a model near it has learnt
    nothing from the sentences.
    """
    about = [item for item in items if item.risks != {NONE}]
    category = max(sum(risk in item.risks for item in items) for risk in taxonomy.labels)
    severity = max((sum(item.steps(step) == 0 for item in about) for step in SEVERITIES), default=0)
    return _share(category, len(items)), _share(severity, len(about))
