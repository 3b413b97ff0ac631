"""What `urisk evaluate` gives to programs and writes: all figures, CSV files and an HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from urisk_nb.evaluate.comparison import (
    compare_baselines,
    compare_models,
    group_predictions,
    name_evaluation,
    name_source,
)
from urisk_nb.evaluate.measurement import Evaluation, FileEvaluation
from urisk_nb.evaluate.page import render_text
from urisk_nb.render.escaping import escape_html
from urisk_nb.risk import evaluation
from urisk_nb.risk.evaluation import ReviewThreshold, Share
from urisk_nb.table.exports import ExportFrame

__all__ = ["as_dict", "write"]

STYLE = """
body{font-family:system-ui,sans-serif;max-width:64em;margin:2em auto;padding:0 1em;
color:#222;background:#fff}
pre{overflow-x:auto}
svg{max-width:20em}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}
"""


def as_dict(file: FileEvaluation) -> dict[str, Any]:
    """
    Return all figures as values that JSON knows; None for NaN.

    A share is `{"part", "whole", "value", "low", "high"}`, with its 95 % interval.
    """
    return {
        "file": file.name,
        "sentences": len(file.items),
        "baselines": {
            name: _plain(evaluation.category_figures(predictions))
            for name, predictions in file.baselines.items()
        },
        "training": None
        if file.training is None
        else {"sentences": file.training[0], "left_out": file.training[1]},
        "models": [_plain(_gather(file, one)) for one in file.evaluations],
        "agreement": [
            _plain(
                {
                    "models": [name_evaluation(file, one), name_evaluation(file, other)],
                    "same": same,
                    "kappa": kappa,
                }
            )
            for one, other, same, kappa in compare_models(file)
        ],
    }


def _gather(file: FileEvaluation, one: Evaluation) -> dict[str, Any]:
    return {
        "model": one.model,
        "labels": one.labels,
        "engine": one.engine,
        "figures": one.figures,
        "against": compare_baselines(file, one),
        "stability": {
            held.change: {"risk": held.risk, "severity": held.severity} for held in one.stability
        },
        "review": one.review,
        "by_kind": {
            name: evaluation.figures(predictions)
            for name, predictions in group_predictions(
                one.predictions, lambda item: item.kind
            ).items()
        },
        "by_source": {
            name: evaluation.figures(predictions)
            for name, predictions in group_predictions(one.predictions, name_source).items()
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
    Write `evaluation.csv` (the figures), `labels.csv` (each sentence with its label) and
    `evaluation.html` (the pages) into the folder, and return their paths. The folder is created.
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
            "model": labeled.model,
            "labels": labeled.labels,
            "text": one.item.text,
            "reader_risk": "|".join(one.item.risks),
            "severity_low": one.item.low,
            "severity_high": one.item.high,
            "risk": one.label.risk if one.label else None,
            "severity": one.label.severity if one.label else None,
            "p_label": one.p_label,
        }
        for file in files
        for labeled in file.evaluations
        for one in labeled.predictions
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
    """Return one page without scripts: the text of each file, and pictures of the reliability."""
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
    Draw the share of accepted labels against the mean probability, one dot for each bin, sized by
    its cases. A well calibrated model is on the line. Empty without probabilities.
    """
    bins = evaluation.reliability(one.predictions).to_dict("records")
    if not bins:
        return ""
    most = max(each["n"] for each in bins)
    dots = "".join(
        f'<circle cx="{10 + 180 * each["probability"]:.1f}" cy="{190 - 180 * each["right"]:.1f}" '
        f'r="{3 + 7 * math.sqrt(each["n"] / most):.1f}" '
        f'fill="#0072B2" fill-opacity="0.7"><title>{each["n"]} cases: mean probability '
        f"{each['probability']:.0%}, right {each['right']:.0%}</title></circle>"
        for each in bins
    )
    name = escape_html(name_evaluation(file, one))
    label = f"reliability of {name}: share of accepted labels against predicted probability"
    return (
        f'<figure><svg role="img" aria-label="{label}" viewBox="0 0 200 210">'
        '<path d="M10 10V190H190" fill="none" stroke="currentColor"/>'
        '<path d="M10 190L190 10" stroke="#808080" stroke-dasharray="4"/>'
        '<text x="100" y="206" font-size="9" text-anchor="middle" fill="currentColor">'
        "mean probability</text>"
        '<text x="14" y="20" font-size="9" fill="currentColor">share right</text>'
        f"{dots}</svg><figcaption>{name}</figcaption></figure>"
    )
