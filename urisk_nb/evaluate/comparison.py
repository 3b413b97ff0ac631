"""
Comparisons within one file: models with each other, models with the baselines, and groups of
sentences.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from urisk_nb.evaluate.measurement import Evaluation, FileEvaluation
from urisk_nb.risk import evaluation
from urisk_nb.risk.evaluation import LabeledSentence, Prediction, Share

__all__ = [
    "compare_baselines",
    "compare_models",
    "group_predictions",
    "name_evaluation",
    "name_source",
]

MAX_GROUPS = 12  # the others are counted together
UNKNOWN = "(unknown)"


def name_evaluation(file: FileEvaluation, one: Evaluation) -> str:
    """Return the model, with its way of taking labels where there are several."""
    is_alone = sum(other.model == one.model for other in file.evaluations) == 1
    return one.model if is_alone else f"{one.model}, {one.labels}"


def compare_models(
    file: FileEvaluation,
) -> Iterator[tuple[Evaluation, Evaluation, Share, float]]:
    """
    Yield each two evaluations of different models, with how many sentences got the same category,
    of those that both labeled, and Cohen's kappa of these.
    """
    for one, other in itertools.combinations(file.evaluations, 2):
        if one.model != other.model:
            both = [
                (a.risk, b.risk)
                for a, b in zip(one.predictions, other.predictions, strict=True)
                if a.label and b.label
            ]
            ours, theirs = [a for a, _ in both], [b for _, b in both]
            same = Share(sum(a == b for a, b in both), len(both))
            yield one, other, same, evaluation.kappa(ours, theirs)


def compare_baselines(file: FileEvaluation, one: Evaluation) -> dict[str, dict[str, str]]:
    """
    Return by baseline whether the model is better: see `risk.evaluation.compare`. Both for the
    reader's own labels and for accepted ones.
    """
    return {
        name: {
            key: evaluation.compare(
                evaluation.count_right(one.predictions, own=own),
                evaluation.count_right(predictions, own=own),
            )
            for key, own in (("own", True), ("accepted", False))
        }
        for name, predictions in file.baselines.items()
    }


def name_source(item: LabeledSentence) -> str:
    """Return the kind of source: what stands before the colon of "10-K:NVDA_2024"."""
    return item.source.partition(":")[0]


def group_predictions(
    predictions: Sequence[Prediction], name: Callable[[LabeledSentence], str]
) -> dict[str, list[Prediction]]:
    """Return the predictions by group, the largest first; those beyond twelve are one group."""
    found: dict[str, list[Prediction]] = {}
    for one in predictions:
        found.setdefault(name(one.item) or UNKNOWN, []).append(one)
    if set(found) == {UNKNOWN}:
        return {}
    order = sorted(found.items(), key=lambda group: -len(group[1]))
    rest = [one for _, group in order[MAX_GROUPS:] for one in group]
    return dict(order[:MAX_GROUPS]) | ({f"{len(order) - MAX_GROUPS} others": rest} if rest else {})
