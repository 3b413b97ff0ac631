"""
How good labels are: figures against a reader's labels, with 95 % intervals.

Pure arithmetic over predictions. A reader's own label is the first one of a sentence; the reader
may accept others beside it. Figures of the two are separate. Probabilities are measured apart from
labels: of the labels with a probability of 80 %, are 80 of 100 right? Over 400 lines: each figure
is a few lines, with its formula and its source beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.questions import Label
from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES, Taxonomy

__all__ = [
    "LabeledSentence",
    "Prediction",
    "ReviewThreshold",
    "Share",
    "bound_share",
    "brier",
    "category_figures",
    "compare",
    "confusion",
    "count_right",
    "expected_calibration_error",
    "figures",
    "find_threshold",
    "interval",
    "kappa",
    "read_labels",
    "reliability",
]

BINS = 10
LEVEL = 0.95
MAX_WRONG = 0.10  # of the labels that count
NO_ANSWER = "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledSentence:
    """
    A sentence and the labels that are right for it.

    Attributes
    ----------
    risks
        The reader's own risk first, then those that the reader accepts, too.
    low, high
        The severities that the reader accepts.
    severity
        The reader's own, None where only a range is known.
    kind, source, company
        The kind of sentence (event, hypothetical, routine, other), its source, and the company that
        it is about; empty where the file does not say.
    """

    text: str
    risks: tuple[str, ...]
    low: int
    high: int
    severity: int | None = None
    kind: str = ""
    source: str = ""
    company: str = ""

    @property
    def risk(self) -> str:
        """The reader's own risk."""
        return self.risks[0]

    def steps(self, severity: int) -> int:
        """Return how many steps a severity lies outside the range; 0 within it."""
        return max(self.low - severity, severity - self.high, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """
    A model's label of a sentence, None where it gave no valid answer, and the label's probability,
    None where the server gives none.
    """

    item: LabeledSentence
    label: Label | None
    p_label: float | None = None

    @property
    def risk(self) -> str:
        """The category of the label; "invalid" where the model gave no valid answer."""
        return self.label.risk if self.label else NO_ANSWER

    @property
    def is_own(self) -> bool:
        """Whether the category is the reader's own."""
        return self.risk == self.item.risk

    @property
    def is_right(self) -> bool:
        """Whether the category is one of those that the reader accepts."""
        return self.risk in self.item.risks


@dataclass(frozen=True, slots=True)
class Share:
    """A count of cases, and of how many."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """From 0 to 1; NaN where there are no cases."""
        return _divide(self.part, self.whole)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, see `interval`."""
        return interval(self.part, self.whole)


# Labels of a reader -------------------------------------------------------------------------------

RANGES = (("severity_low", "severity_high"), ("severity_min", "severity_max"))


def read_labels(
    rows: Sequence[Mapping[str, Any]], taxonomy: Taxonomy = DEFAULT
) -> list[LabeledSentence]:
    """
    Return the labeled sentences of rows with text, risk and severity.

    Parameters
    ----------
    rows
        `risk` is the reader's own, followed by other accepted ones after `|`. `severity_low` and
        `severity_high` (or `severity_min` and `severity_max`) are the accepted range; without them
        only `severity` is accepted. `kind`, `source` and `company` are optional. Other columns are
        ignored.

    Raises
    ------
    InputError
        A column is missing, or a row has a value that cannot be used; names the row.
    """
    if not rows:
        raise InputError("there are no labeled sentences.", fix="give rows with text,risk,severity")
    columns = set(rows[0])
    if not {"text", "risk"} <= columns or not any(
        set(names) <= columns for names in (("severity",), *RANGES)
    ):
        raise InputError(
            f"the columns are {', '.join(map(str, rows[0]))}; text, risk and severity are needed.",
            fix="name the columns text,risk,severity (or severity_low,severity_high)",
        )
    return [_read_row(number, row, taxonomy) for number, row in enumerate(rows, 1)]


def _read_row(number: int, row: Mapping[str, Any], taxonomy: Taxonomy) -> LabeledSentence:
    text = str(row["text"] or "").strip()
    risks = tuple(part.strip() for part in str(row["risk"]).split("|"))
    own = row.get("severity")
    bounds = next(
        (pair for names in RANGES if all((pair := [row.get(name) for name in names]))),
        [own, own],
    )
    if not text:
        raise InputError(f"row {number} has no text.", fix="add the sentence, or remove the row")
    if unknown := set(risks) - set(taxonomy.labels):
        raise InputError(
            f"row {number} has the unknown risk {min(unknown)!r}.",
            fix=f"use one of {', '.join(taxonomy.labels)}",
        )
    if len(set(risks)) < len(risks):
        raise InputError(
            f"row {number} has a risk twice: {row['risk']!r}.", fix="give each risk once"
        )
    low, high = (_read_severity(number, value) for value in bounds)
    severity = _read_severity(number, own) if own else low if low == high else None
    if low > high or not (severity is None or low <= severity <= high):
        seen = f"{low} to {high}" + (
            "" if severity is None else f" and the own severity {severity}"
        )
        raise InputError(
            f"row {number} has the accepted severities {seen}.",
            fix="give the lowest accepted severity first, and an own severity in that range",
        )
    return LabeledSentence(
        text=text,
        risks=risks,
        low=low,
        high=high,
        severity=severity,
        **{name: str(row.get(name) or "").strip() for name in ("kind", "source", "company")},
    )


def _read_severity(number: int, value: object) -> int:
    if str(value) not in map(str, SEVERITIES):
        raise InputError(
            f"row {number} has the severity {value!r}.", fix="use a whole number from 0 to 5"
        )
    return int(str(value))


# Figures ------------------------------------------------------------------------------------------


def figures(predictions: Sequence[Prediction]) -> dict[str, int | float | Share]:
    """
    Return all figures of a model's labels; NaN where there are no cases.

    Returns
    -------
    dict
        Those of `category_figures`. False alarms among the sentences that the reader labels `none`:
        false_alarm_3 and false_alarm_4 (a risk with severity 3, or 4, or higher). Of the sentences
        about a risk that were answered: severity_exact (the reader's own, where it is known),
        severity (within the accepted range), severity_near (at most one step off the range),
        severity_error (mean steps off it). Of the labels with a probability: brier and ece for
        accepted labels, brier_own and ece_own for the reader's own.
    """
    quiet = [one for one in predictions if one.item.risk == NONE]
    graded = [(one.item, one.label) for one in predictions if one.label and one.item.risk != NONE]
    known = [(item, label) for item, label in graded if item.severity is not None]
    steps = [item.steps(label.severity) for item, label in graded]
    return {
        **category_figures(predictions),
        "false_alarm_3": _share(_is_alarm(one, 3) for one in quiet),
        "false_alarm_4": _share(_is_alarm(one, 4) for one in quiet),
        "severity_exact": _share(label.severity == item.severity for item, label in known),
        "severity": _share(step == 0 for step in steps),
        "severity_near": _share(step <= 1 for step in steps),
        "severity_error": mean(steps) if steps else math.nan,
        "brier": brier(predictions),
        "ece": expected_calibration_error(predictions),
        "brier_own": brier(predictions, own=True),
        "ece_own": expected_calibration_error(predictions, own=True),
    }


def category_figures(predictions: Sequence[Prediction]) -> dict[str, int | float | Share]:
    """
    Return the figures that need a category only; a sentence without an answer counts as wrong.

    Returns
    -------
    dict
        sentences, answered; own (share with the reader's own category), accepted (with one that
        the reader accepts); kappa, macro_f1, macro_recall against the reader's own; none_found
        (share of the reader's `none` that was labeled `none`), risk_own and risk_accepted (the
        right category among the sentences about a risk), risk_missed (those labeled `none`).
    """
    quiet = [one for one in predictions if one.item.risk == NONE]
    about = [one for one in predictions if one.item.risk != NONE]
    macro_f1, macro_recall = _average_classes(predictions)
    return {
        "sentences": len(predictions),
        "answered": sum(one.label is not None for one in predictions),
        "own": count_right(predictions, own=True),
        "accepted": count_right(predictions),
        "kappa": kappa([one.item.risk for one in predictions], [one.risk for one in predictions]),
        "macro_f1": macro_f1,
        "macro_recall": macro_recall,
        "none_found": _share(one.is_own for one in quiet),
        "risk_own": _share(one.is_own for one in about),
        "risk_accepted": _share(one.is_right for one in about),
        "risk_missed": _share(one.risk == NONE for one in about),
    }


def count_right(predictions: Sequence[Prediction], *, own: bool = False) -> Share:
    """Return how many categories the reader accepts, or with `own` are the reader's own."""
    return _share(one.is_own if own else one.is_right for one in predictions)


def _is_alarm(prediction: Prediction, severity: int) -> bool:
    label = prediction.label
    return label is not None and label.risk != NONE and label.severity >= severity


def _share(cases: Any) -> Share:
    seen = list(cases)
    return Share(sum(seen), len(seen))


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def interval(right: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """
    Return the interval of a share by Wilson's score method (Wilson 1927), which holds for few cases
    and for shares near 0 and 1; NaN without cases.

    (p + z^2/2n -/+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z the normal quantile of (1 +
    level)/2.
    """
    if not total:
        return math.nan, math.nan
    z, p = NormalDist().inv_cdf((1 + level) / 2), right / total
    middle = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (middle - spread) / (1 + z * z / total), (middle + spread) / (1 + z * z / total)


def compare(ours: Share, theirs: Share) -> str:
    """
    Return how one share compares with another: "better", "worse", or "no clear difference".

    The difference is clear where the two 95 % intervals do not overlap. That is stricter than a
    test of the difference.
    """
    (low, high), (their_low, their_high) = ours.interval, theirs.interval
    return "better" if low > their_high else "worse" if high < their_low else "no clear difference"


def kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """
    Return Cohen's kappa, how far two readers agree beyond chance (Cohen 1960).

    (p_o - p_e) / (1 - p_e), with p_o the share of equal labels and p_e = sum of p_1(c) p_2(c) over
    the categories c, p_i(c) the share of c among the labels of reader i. 1 is full agreement, 0 is
    chance.

    Returns
    -------
    float
        NaN without labels, and where both give every sentence the same label.
    """
    count = len(first)
    ours, theirs = Counter(first), Counter(second)
    by_chance = _divide(sum(ours[label] * theirs[label] for label in ours), count * count)
    seen = _divide(sum(a == b for a, b in zip(first, second, strict=True)), count)
    return _divide(seen - by_chance, 1 - by_chance)


def _average_classes(predictions: Sequence[Prediction]) -> tuple[float, float]:
    """
    Return F1 and recall, the mean over the categories that the reader used, each counted alike.

    Recall = right / those of the category; F1 = 2 right / (those of the category + those labeled
    so). Against the reader's own label.
    """
    wanted = Counter(one.item.risk for one in predictions)
    called = Counter(one.risk for one in predictions)
    right = Counter(one.risk for one in predictions if one.is_own)
    if not wanted:
        return math.nan, math.nan
    return (
        mean(2 * right[name] / (wanted[name] + called[name]) for name in wanted),
        mean(right[name] / wanted[name] for name in wanted),
    )


# Probabilities ------------------------------------------------------------------------------------


def _pair_confidences(predictions: Sequence[Prediction], *, own: bool) -> list[tuple[float, bool]]:
    return [
        (one.p_label, one.is_own if own else one.is_right)
        for one in predictions
        if one.p_label is not None
    ]


def brier(predictions: Sequence[Prediction], *, own: bool = False) -> float:
    """
    Mean squared difference between the probability of the chosen category and whether it is right
    (Brier 1950); 0 is best.

    Right is an accepted category, or with `own` the reader's own.
    """
    known = _pair_confidences(predictions, own=own)
    return _divide(sum((p - right) ** 2 for p, right in known), len(known))


def reliability(
    predictions: Sequence[Prediction], bins: int = BINS, *, own: bool = False
) -> pd.DataFrame:
    """
    Share right against probability: one row for each bin of equal width that has cases.

    Returns
    -------
    DataFrame
        Index `bin` (from 0); columns `low`, `high` (its bounds, the upper one included), `n`,
        `probability` (the mean), `right` (share; see `brier`).
    """
    rows: dict[int, list[tuple[float, bool]]] = {}
    for p, right in _pair_confidences(predictions, own=own):
        rows.setdefault(min(bins - 1, max(0, math.ceil(p * bins) - 1)), []).append((p, right))
    return pd.DataFrame(
        [
            {
                "bin": number,
                "low": number / bins,
                "high": (number + 1) / bins,
                "n": len(cases),
                "probability": sum(p for p, _ in cases) / len(cases),
                "right": sum(right for _, right in cases) / len(cases),
            }
            for number, cases in sorted(rows.items())
        ],
        columns=["bin", "low", "high", "n", "probability", "right"],
    ).set_index("bin")


def expected_calibration_error(
    predictions: Sequence[Prediction], bins: int = BINS, *, own: bool = False
) -> float:
    """
    Return the mean distance between probability and share right over the bins, weighted by their
    cases (Naeini et al. 2015); 0 is best, NaN without cases.
    """
    table = reliability(predictions, bins, own=own)
    return (
        float((table["n"] * (table["probability"] - table["right"]).abs()).sum() / table["n"].sum())
        if len(table)
        else math.nan
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewThreshold:
    """
    A threshold, and what it does on the sentences that it was found on.

    Attributes
    ----------
    threshold
        Labels with this probability or more count; None where no threshold is good enough.
    kept
        How many of the labels that count are wrong.
    bound
        The largest share of the labels that count that may be wrong, with 95 % confidence.
    review
        How many sentences are to review, those without an answer or a probability included.
    """

    threshold: float | None
    kept: Share
    bound: float
    review: int


def find_threshold(
    predictions: Sequence[Prediction],
    *,
    max_wrong: float = MAX_WRONG,
    level: float = LEVEL,
    own: bool = False,
) -> ReviewThreshold:
    """
    Return the smallest probability at which labels may count without a review.

    With this confidence (`bound_share`) at most `max_wrong` of the labels at or above it are wrong.
    A label is wrong if the reader does not accept it; with `own`, if it is not the reader's own.

    Notes
    -----
    The bound holds for a threshold that was fixed before these labels were seen. This one is the
    best of many on the same sentences, so it is optimistic: check it on other sentences.
    """
    known = sorted(_pair_confidences(predictions, own=own), reverse=True)
    best, wrong = (
        ReviewThreshold(threshold=None, kept=Share(0, 0), bound=1.0, review=len(predictions)),
        0,
    )
    for count, (p, right) in enumerate(known, 1):
        wrong += not right
        is_last = count == len(known) or known[count][0] < p
        if is_last and _binomial_cdf(wrong, count, max_wrong) <= 1 - level:
            best = ReviewThreshold(
                threshold=p,
                kept=Share(wrong, count),
                bound=bound_share(wrong, count, level),
                review=len(predictions) - count,
            )
    return best


def bound_share(part: int, whole: int, level: float = LEVEL) -> float:
    """
    Return the upper bound of a share with this confidence, one-sided (Clopper and Pearson 1934).

    The p at which so few or fewer cases, binomial (whole, p), have the probability 1 - level. It is
    the quantile `level` of the beta distribution (part + 1, whole - part). 1 without cases.
    """
    low, high = 0.0, 1.0
    if part == whole:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _binomial_cdf(part, whole, middle) > 1 - level else (low, middle)
        )
    return high


def _binomial_cdf(most: int, count: int, p: float) -> float:
    """Return P(X <= most) for X binomial (count, p), 0 < p < 1."""
    choices = math.lgamma(count + 1)
    return math.fsum(
        math.exp(
            choices
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(p)
            + (count - k) * math.log1p(-p)
        )
        for k in range(most + 1)
    )


# Tables -------------------------------------------------------------------------------------------


def confusion(predictions: Sequence[Prediction], taxonomy: Taxonomy = DEFAULT) -> pd.DataFrame:
    """
    Count the reader's labels (rows) against the model's (columns); `invalid`: no valid answer.

    Where the reader accepts several, the row is the model's label if it is one of them, else the
    reader's own.
    """
    seen = Counter((one.risk if one.is_right else one.item.risk, one.risk) for one in predictions)
    return pd.DataFrame(
        {
            model: [seen[reader, model] for reader in taxonomy.labels]
            for model in (*taxonomy.labels, NO_ANSWER)
        },
        index=pd.Index(taxonomy.labels, name="reader"),
    ).rename_axis(columns="model")
