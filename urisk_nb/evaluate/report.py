"""What `urisk evaluate` shows and writes: a page of text, all figures for programs, and files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from urisk_nb.evaluate.measurement import Evaluation, FileEvaluation
from urisk_nb.render.escaping import escape_html
from urisk_nb.render.text_layout import format_count, format_grid, wrap
from urisk_nb.risk import evaluation
from urisk_nb.risk.evaluation import LabeledSentence, Prediction, ReviewThreshold, Share
from urisk_nb.risk.taxonomy import NONE
from urisk_nb.table.exports import ExportFrame

__all__ = ["as_dict", "render_text", "write"]

WIDTH = 100
MAX_SOURCES = 12  # rows of sources; the others are counted together
STYLE = """
body{font-family:system-ui,sans-serif;max-width:64em;margin:2em auto;padding:0 1em;
color:#222;background:#fff}
pre{overflow-x:auto}
svg{max-width:20em}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}
"""
# The figures of the page, in order; a row without a name of a figure is a heading.
_ROWS = (
    ("answers", "answered"),
    ("reader's own label", "own"),
    ("an accepted label", "accepted"),
    ("Cohen's kappa, own label", "kappa"),
    ("macro F1, own label", "macro_f1"),
    ("macro recall, own label", "macro_recall"),
    ("of the {quiet} about no risk", ""),
    ("  called none", "none_found"),
    ("  called severity 3 or worse", "false_alarm_3"),
    ("  called severity 4 or worse", "false_alarm_4"),
    ("of the {about} about a risk", ""),
    ("  reader's own label", "risk_own"),
    ("  an accepted label", "risk_accepted"),
    ("  called none", "risk_missed"),
    ("  severity as the reader's own", "severity_exact"),
    ("  severity in accepted range", "severity"),
    ("  severity within one step of it", "severity_near"),
    ("probabilities, accepted label", ""),
    ("  Brier score", "brier"),
    ("  calibration error (ECE)", "ece"),
    ("probabilities, own label", ""),
    ("  Brier score", "brier_own"),
    ("  calibration error (ECE)", "ece_own"),
)


# Text ---------------------------------------------------------------------------------------------


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
        lines += ["", f"{_name(file, one)} ({one.engine})", "=" * len(_name(file, one))]
        for part in (
            _list_comparison(file, one),
            _list_stability(one),
            _list_review(one),
            _list_groups("kind", one, lambda item: item.kind),
            _list_groups("source", one, _name_source),
            _list_reliability(one),
            _list_confusion(one),
            [_describe_cost(one)],
        ):
            lines += [*part, ""] if part else []
    return "\n".join(lines).rstrip()


def _describe(file: FileEvaluation) -> str:
    said = (
        "In brackets: 95 % intervals. Each sentence has the reader's own label; an accepted label "
        "is that or another one that the reader accepts."
    )
    if file.training is None:
        return f"{said} No bag of words: name sentences to train it on (--train)."
    learned, dropped = file.training
    return (
        f"{said} The bag of words (TF-IDF, logistic regression) learned from "
        f"{format_count(learned, 'sentence')}; {format_count(dropped, 'near-duplicate')} of the "
        "measured ones left out."
    )


def _name(file: FileEvaluation, one: Evaluation) -> str:
    """Return the model, with its way of taking labels where there are several."""
    is_alone = sum(other.model == one.model for other in file.evaluations) == 1
    return one.model if is_alone else f"{one.model}, {one.labels}"


def _list_figures(file: FileEvaluation, quiet: int) -> list[str]:
    columns = {_name(file, one): one.figures for one in file.evaluations} | {
        name: evaluation.category_figures(said) for name, said in file.baselines.items()
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
    for one, other, same, kappa in _compare_models(file):
        said = (
            f"{_name(file, one)} and {_name(file, other)} say the same category to "
            f"{_format(same)} of the sentences that both answered, kappa {_format(kappa)}."
        )
        lines += ["", *wrap(said, WIDTH)]
    return lines


def _compare_models(
    file: FileEvaluation,
) -> Iterator[tuple[Evaluation, Evaluation, Share, float]]:
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


def _list_comparison(file: FileEvaluation, one: Evaluation) -> list[str]:
    rows = [
        [name, *(found[key] for key in ("own", "accepted"))]
        for name, found in _compare(file, one).items()
    ]
    return [
        "Better than the cheapest alternatives? Shown only where the two 95 % intervals lie apart.",
        *format_grid(["than", "reader's own label", "an accepted label"], rows, WIDTH),
    ]


def _compare(file: FileEvaluation, one: Evaluation) -> dict[str, dict[str, str]]:
    return {
        name: {
            key: evaluation.compare(
                evaluation.count_right(one.predictions, own=own),
                evaluation.count_right(said, own=own),
            )
            for key, own in (("own", True), ("accepted", False))
        }
        for name, said in file.baselines.items()
    }


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
            "No probabilities: greedy labels, or a server that tells none. So no threshold can be "
            "found from which on a label needs no review.",
            WIDTH,
        )
    right = {"accepted": "an accepted label", "own": "only the reader's own label"}
    return [
        line
        for name, review in one.review.items()
        for line in wrap(
            f"Threshold for review, {right[name]} is right: "
            f"{_describe_review(review, len(one.predictions))}",
            WIDTH,
            rest="  ",
        )
    ]


def _describe_review(review: ReviewThreshold, total: int) -> str:
    if review.threshold is None:
        return "none. At no probability are at most 10 % of the labels wrong with 95 % confidence."
    return (
        f"{review.threshold:.3f}. {review.kept.whole} of {total} labels count, {review.kept.part} "
        f"of them wrong (at most {100 * review.bound:.1f} % with 95 % confidence); {review.review} "
        "go to review."
    )


def _name_source(item: LabeledSentence) -> str:
    """Return the kind of source: what stands before the colon of "10-K:NVDA_2024"."""
    return item.source.partition(":")[0]


def _group(
    predictions: Sequence[Prediction], name: Callable[[LabeledSentence], str]
) -> dict[str, list[Prediction]]:
    """Return the predictions by group, the largest first; small groups beyond twelve as one."""
    found: dict[str, list[Prediction]] = {}
    for one in predictions:
        found.setdefault(name(one.item) or "(not told)", []).append(one)
    if set(found) == {"(not told)"}:
        return {}
    order = sorted(found.items(), key=lambda group: -len(group[1]))
    rest = [one for _, group in order[MAX_SOURCES:] for one in group]
    return dict(order[:MAX_SOURCES]) | (
        {f"{len(order) - MAX_SOURCES} others": rest} if rest else {}
    )


def _list_groups(title: str, one: Evaluation, name: Callable[[LabeledSentence], str]) -> list[str]:
    keys = ("own", "accepted", "severity", "false_alarm_3")
    rows = [
        [group, str(len(said)), *(_format(found[key]) for key in keys)]
        for group, said in _group(one.predictions, name).items()
        for found in [evaluation.figures(said)]
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
            f"{row.said:.2f}",
            f"{row.right:.2f}",
            f"{right:.2f}",
        ]
        for row, right in zip(accepted.itertuples(), own["right"], strict=True)
    ]
    head = ["probability", "n", "said, mean", "accepted label", "own label"]
    return format_grid(head, rows, WIDTH, right=frozenset(range(1, 5))) if rows else []


def _list_confusion(one: Evaluation) -> list[str]:
    table = evaluation.confusion(one.predictions)
    table = table.loc[table.sum(axis=1) > 0]
    rows = [
        [str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return [
        "Confusion: rows are the reader's labels, columns the model's; accepted: on the diagonal",
        *format_grid(["", *map(str, table.columns)], rows, WIDTH, right=frozenset(range(1, 20))),
    ]


def _describe_cost(one: Evaluation) -> str:
    tokens = f" and {one.tokens_each:.1f} tokens" if one.tokens else ""
    return f"{one.seconds_each:.2f} s{tokens} a sentence, {one.asked} asked"


# For programs -------------------------------------------------------------------------------------


def as_dict(file: FileEvaluation) -> dict[str, Any]:
    """
    Return all figures as values that JSON knows; None for NaN.

    A share is `{"part", "whole", "value", "low", "high"}`, with its 95 % interval.
    """
    return {
        "file": file.name,
        "sentences": len(file.items),
        "baselines": {
            name: _plain(evaluation.category_figures(said)) for name, said in file.baselines.items()
        },
        "training": None
        if file.training is None
        else {"sentences": file.training[0], "left_out": file.training[1]},
        "models": [_plain(_gather(file, one)) for one in file.evaluations],
        "agreement": [
            _plain({"models": [_name(file, one), _name(file, other)], "same": same, "kappa": kappa})
            for one, other, same, kappa in _compare_models(file)
        ],
    }


def _gather(file: FileEvaluation, one: Evaluation) -> dict[str, Any]:
    return {
        "model": one.model,
        "labels": one.labels,
        "engine": one.engine,
        "figures": one.figures,
        "against": _compare(file, one),
        "stability": {
            held.change: {"risk": held.risk, "severity": held.severity} for held in one.stability
        },
        "review": one.review,
        "by_kind": {
            name: evaluation.figures(said)
            for name, said in _group(one.predictions, lambda item: item.kind).items()
        },
        "by_source": {
            name: evaluation.figures(said)
            for name, said in _group(one.predictions, _name_source).items()
        },
        "reliability": {
            name: evaluation.reliability(one.predictions, own=own).to_dict("records")
            for name, own in (("accepted", False), ("own", True))
        },
        "confusion": evaluation.confusion(one.predictions).to_dict("index"),
        "seconds_each": one.seconds_each,
        "tokens_each": one.tokens_each,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    match value:
        case Share():
            low, high = value.interval
            found = {"part": value.part, "whole": value.whole, "value": value.value}
            return _plain({**found, "low": low, "high": high})
        case ReviewThreshold():
            return {**_plain(asdict(value)), "kept": _plain(value.kept)}
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case float():
            return None if math.isnan(value) else float(value)
        case _:
            return value.item() if hasattr(value, "item") else value


# Files --------------------------------------------------------------------------------------------


def write(files: Sequence[FileEvaluation], folder: Path) -> list[Path]:
    """
    Write `evaluation.csv` (the figures), `labels.csv` (each sentence with what was said) and
    `evaluation.html` (the pages) into the folder, which is made; returns their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = [
        {
            "file": file.name,
            "model": one.model,
            "labels": one.labels,
            "engine": one.engine,
            **dict(_flatten(one.figures)),
            "seconds_each": one.seconds_each,
            "tokens_each": one.tokens_each,
        }
        for file in files
        for one in file.evaluations
    ]
    sentences = [
        {
            "file": file.name,
            "model": one.model,
            "labels": one.labels,
            "text": said.item.text,
            "wanted": "|".join(said.item.risks),
            "low": said.item.low,
            "high": said.item.high,
            "risk": said.label.risk if said.label else None,
            "severity": said.label.severity if said.label else None,
            "p_label": said.p_label,
        }
        for file in files
        for one in file.evaluations
        for said in one.predictions
    ]
    paths = [folder / name for name in ("evaluation.csv", "labels.csv", "evaluation.html")]
    ExportFrame(figures).to_csv(paths[0], index=False)
    ExportFrame(sentences).astype({"severity": "Int64"}).to_csv(paths[1], index=False)
    paths[2].write_text(_render_page(files), encoding="utf-8")
    return paths


def _flatten(figures: dict[str, int | float | Share]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Share):
            low, high = value.interval
            yield from ((name, value.value), (f"{name}_lo", low), (f"{name}_hi", high))
        else:
            yield name, value


def _render_page(files: Sequence[FileEvaluation]) -> str:
    """Return one page without scripts: of each file the text, and reliability as pictures."""
    parts = "".join(
        f"<h2>{escape_html(file.name)}</h2><pre>{escape_html(render_text(file))}</pre>"
        + "".join(_draw_reliability(file, one) for one in file.evaluations)
        for file in files
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Evaluation of labels</title><style>{STYLE}</style><h1>Evaluation of labels</h1>"
        f"<p>{datetime.now(UTC):%Y-%m-%d}</p>{parts}</html>\n"
    )


def _draw_reliability(file: FileEvaluation, one: Evaluation) -> str:
    """
    Said against seen, a dot for each bin, as large as it has cases; on the line the model knows how
    sure it may be. Nothing without probabilities.
    """
    bins = evaluation.reliability(one.predictions).to_dict("records")
    if not bins:
        return ""
    most = max(each["n"] for each in bins)
    dots = "".join(
        f'<circle cx="{10 + 180 * each["said"]:.1f}" cy="{190 - 180 * each["right"]:.1f}" '
        f'r="{3 + 7 * math.sqrt(each["n"] / most):.1f}" '
        f'fill="#0072B2" fill-opacity="0.7"><title>{each["n"]} cases: said {each["said"]:.0%}, '
        f"right {each['right']:.0%}</title></circle>"
        for each in bins
    )
    name = escape_html(_name(file, one))
    label = f"reliability of {name}: share of accepted labels against predicted probability"
    return (
        f'<figure><svg role="img" aria-label="{label}" viewBox="0 0 200 210">'
        '<path d="M10 10V190H190" fill="none" stroke="currentColor"/>'
        '<path d="M10 190L190 10" stroke="#808080" stroke-dasharray="4"/>'
        '<text x="100" y="206" font-size="9" text-anchor="middle" fill="currentColor">said</text>'
        '<text x="14" y="20" font-size="9" fill="currentColor">right</text>'
        f"{dots}</svg><figcaption>{name}</figcaption></figure>"
    )
