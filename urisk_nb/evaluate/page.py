"""The page of one file that `urisk evaluate` prints: figures, comparisons, thresholds, tables."""

from __future__ import annotations

import math
from collections.abc import Callable

from urisk_nb.evaluate.comparison import (
    compare_baselines,
    compare_models,
    group_predictions,
    name_evaluation,
    name_source,
)
from urisk_nb.evaluate.measurement import Evaluation, FileEvaluation
from urisk_nb.render.text_layout import format_count, format_grid, wrap
from urisk_nb.risk import evaluation
from urisk_nb.risk.evaluation import LabeledSentence, ReviewThreshold, Share
from urisk_nb.risk.taxonomy import NONE

__all__ = ["render_text"]

WIDTH = 100
# The figures of the page, in order; a row without a figure is a heading.
_ROWS = (
    ("sentences answered", "answered"),
    ("reader's own label", "own"),
    ("an accepted label", "accepted"),
    ("Cohen's kappa, own label", "kappa"),
    ("macro F1, own label", "macro_f1"),
    ("macro recall, own label", "macro_recall"),
    ("of the {quiet} about no risk", ""),
    ("  labeled none", "none_found"),
    ("  labeled severity 3 or higher", "false_alarm_3"),
    ("  labeled severity 4 or higher", "false_alarm_4"),
    ("of the {about} about a risk", ""),
    ("  reader's own label", "risk_own"),
    ("  an accepted label", "risk_accepted"),
    ("  labeled none", "risk_missed"),
    ("  reader's own severity", "severity_exact"),
    ("  severity in accepted range", "severity"),
    ("  severity at most one step off", "severity_near"),
    ("probabilities, accepted label", ""),
    ("  Brier score", "brier"),
    ("  calibration error (ECE)", "ece"),
    ("probabilities, own label", ""),
    ("  Brier score", "brier_own"),
    ("  calibration error (ECE)", "ece_own"),
)


def render_text(file: FileEvaluation) -> str:
    """Return the page of one file for a terminal of 100 columns."""
    quiet = sum(item.risk == NONE for item in file.items)
    lines = [
        f"{file.name}: {format_count(len(file.items), 'labeled sentence')}, {quiet} about no risk",
        *wrap(_describe(file), WIDTH),
        "",
        *_list_figures(file, quiet),
        *_list_agreement(file),
    ]
    for one in file.evaluations:
        lines += [
            "",
            f"{name_evaluation(file, one)} ({one.engine})",
            "=" * len(name_evaluation(file, one)),
        ]
        for part in (
            _list_comparison(file, one),
            _list_stability(one),
            _list_review(one),
            _list_groups("kind", one, lambda item: item.kind),
            _list_groups("source", one, name_source),
            _list_reliability(one),
            _list_confusion(one),
            [_describe_cost(one)],
        ):
            lines += [*part, ""] if part else []
    return "\n".join(lines).rstrip()


def _describe(file: FileEvaluation) -> str:
    text = (
        "Brackets hold 95 % intervals. Each sentence has the reader's own label. An accepted label "
        "is this one, or another one that the reader accepts."
    )
    if file.training is None:
        return f"{text} There is no bag of words: name files to train it on (--train)."
    trained, dropped = file.training
    return (
        f"{text} The bag of words (TF-IDF, logistic regression) was trained on "
        f"{format_count(trained, 'sentence')}; {format_count(dropped, 'near-duplicate')} of the "
        "measured ones left out."
    )


def _list_figures(file: FileEvaluation, quiet: int) -> list[str]:
    columns = {name_evaluation(file, one): one.figures for one in file.evaluations} | {
        name: evaluation.category_figures(predictions)
        for name, predictions in file.baselines.items()
    }
    counts = {"quiet": quiet, "about": len(file.items) - quiet}
    rows = [
        [
            title.format(**counts),
            *(_format(one[key]) if key in one else "" for one in columns.values()),
        ]
        for title, key in _ROWS
    ]
    return format_grid(["", *columns], rows, WIDTH, right=frozenset(range(1, 1 + len(columns))))


def _format(value: float | Share) -> str:
    if isinstance(value, Share):
        if not value.whole:
            return "–"
        low, high = value.interval
        return f"{100 * value.value:.1f} % ({100 * low:.0f}-{100 * high:.0f})"
    if isinstance(value, int):
        return str(value)
    return "–" if math.isnan(value) else f"{value:.3f}"


def _list_agreement(file: FileEvaluation) -> list[str]:
    lines = []
    for one, other, same, kappa in compare_models(file):
        text = (
            f"{name_evaluation(file, one)} and {name_evaluation(file, other)} agree on "
            f"the category of {_format(same)} of the sentences that both answered "
            f"(kappa {_format(kappa)})."
        )
        lines += ["", *wrap(text, WIDTH)]
    return lines


def _list_comparison(file: FileEvaluation, one: Evaluation) -> list[str]:
    rows = [
        [name, *(found[key] for key in ("own", "accepted"))]
        for name, found in compare_baselines(file, one).items()
    ]
    return [
        *wrap(
            "Better than the cheapest alternatives? A difference is clear if the 95 % intervals do "
            "not overlap.",
            WIDTH,
        ),
        *format_grid(["than", "reader's own label", "an accepted label"], rows, WIDTH),
    ]


def _list_stability(one: Evaluation) -> list[str]:
    if not one.stability:
        return []
    rows = [
        [held.change, str(held.risk.whole), _format(held.risk), _format(held.severity)]
        for held in one.stability
    ]
    return [
        "Labels that hold when names, dates and amounts are masked, or the company is swapped",
        *format_grid(
            ["", "changed sentences", "same category", "severity within one"],
            rows,
            WIDTH,
            right=frozenset((1, 2, 3)),
        ),
    ]


def _list_review(one: Evaluation) -> list[str]:
    if not any(prediction.p_label is not None for prediction in one.predictions):
        return wrap(
            "There are no probabilities: the labels are greedy, or the server gives none. So there "
            "is no threshold for review.",
            WIDTH,
        )
    right = {"accepted": "an accepted label", "own": "only the reader's own label"}
    return [
        line
        for name, review in one.review.items()
        for line in wrap(
            f"Threshold for review ({right[name]} is right): "
            f"{_describe_review(review, len(one.predictions))}",
            WIDTH,
            rest="  ",
        )
    ]


def _describe_review(review: ReviewThreshold, total: int) -> str:
    if review.threshold is None:
        return "none. No probability keeps wrong labels at 10 % or less with 95 % confidence."
    return (
        f"{review.threshold:.3f}. {review.kept.whole} of {total} labels count, {review.kept.part} "
        f"of them wrong (at most {100 * review.bound:.1f} % with 95 % confidence); {review.review} "
        "are to review."
    )


def _list_groups(title: str, one: Evaluation, name: Callable[[LabeledSentence], str]) -> list[str]:
    keys = ("own", "accepted", "severity", "false_alarm_3")
    rows = [
        [group, str(len(predictions)), *(_format(found[key]) for key in keys)]
        for group, predictions in group_predictions(one.predictions, name).items()
        for found in [evaluation.figures(predictions)]
    ]
    head = [title, "n", "own label", "accepted label", "severity in range", "false alarms 3+"]
    return format_grid(head, rows, WIDTH, right=frozenset(range(1, 6))) if rows else []


def _list_reliability(one: Evaluation) -> list[str]:
    accepted = evaluation.reliability(one.predictions)
    own = evaluation.reliability(one.predictions, own=True)
    rows = [
        [
            f"{row.low:.1f} to {row.high:.1f}",
            str(row.n),
            f"{row.probability:.2f}",
            f"{row.right:.2f}",
            f"{right:.2f}",
        ]
        for row, right in zip(accepted.itertuples(), own["right"], strict=True)
    ]
    head = ["probability", "n", "mean probability", "accepted label", "own label"]
    return format_grid(head, rows, WIDTH, right=frozenset(range(1, 5))) if rows else []


def _list_confusion(one: Evaluation) -> list[str]:
    table = evaluation.confusion(one.predictions)
    table = table.loc[table.sum(axis=1) > 0]
    rows = [
        [str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return [
        "Confusion: reader's labels in rows, model's in columns; accepted ones on the diagonal",
        *format_grid(["", *map(str, table.columns)], rows, WIDTH, right=frozenset(range(1, 20))),
    ]


def _describe_cost(one: Evaluation) -> str:
    tokens = f" and {one.tokens_each:.1f} tokens" if one.tokens else ""
    return (
        f"{one.seconds_each:.2f} s{tokens} a sentence, {format_count(one.asked, 'sentence')} asked"
    )
