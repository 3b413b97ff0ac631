"""
`urisk evaluate`: your labeled sentences, labeled again by your models, greedy beside
calibrated; as a table, as CSV, as a page.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.render.escaping import escape_html
from urisk_nb.render.markup import html_table
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk import evaluation
from urisk_nb.risk.evaluation import LabeledSentence, Prediction
from urisk_nb.risk.params import LABELS, RiskParams
from urisk_nb.risk.questions import Label
from urisk_nb.session import Run, open_run
from urisk_nb.table.exports import ExportFrame

if TYPE_CHECKING:
    from urisk_nb.llm.manager import LLMManager

__all__ = ["Evaluation", "evaluate", "page", "read", "summary", "text", "write"]

TICKER = "LABELS"
DECISION = "decision"  # the one way of a decision model: its probabilities as they are
SHARES = ("category", "severity", "severity_near")
STYLE = """
body{font-family:system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;
color:#222;background:#fff}
table{border-collapse:collapse;margin:.6em 0}
th,td{padding:.25em .8em;border-bottom:1px solid #ccc;text-align:right;font-weight:normal}
th:first-child{text-align:left}
.muted{color:#616161}
svg{max-width:20em}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}.muted{color:#a0a0a0}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """
    One model in one way of taking labels.

    Attributes
    ----------
    model, labels, engine
        Who answered, and how the labels were taken.
    outcomes
        One for each labeled sentence, in the order of the file.
    seconds, tokens
        Of the whole run, second looks and priors included.
    """

    model: str
    labels: str
    engine: str
    outcomes: tuple[Prediction, ...]
    seconds: float
    tokens: int
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_each(self) -> float:
        """Seconds a sentence."""
        return self.seconds / max(1, len(self.outcomes))

    @property
    def tokens_each(self) -> float:
        """Tokens a sentence."""
        return self.tokens / max(1, len(self.outcomes))


def read(path: str | Path) -> list[LabeledSentence]:
    """
    Return the labeled sentences of a CSV file (see `risk.evaluation.read_labels`).

    Raises
    ------
    InputError
        The file cannot be read, or a row cannot be meant as it stands.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return evaluation.read_labels(list(csv.DictReader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(
            f"{str(path)!r} cannot be read: {exc}.", fix="name a CSV file with text,risk,severity"
        ) from exc


def evaluate(
    items: Sequence[LabeledSentence],
    manager: LLMManager,
    *,
    models: Sequence[str] = (),
    label: Callable[[Run, LLMManager], Any],
) -> list[Evaluation]:
    """
    Evaluate each model, greedy and calibrated, over the sentences; blocks until all are labeled. A
    decision model has one way only.

    Parameters
    ----------
    items
        The labeled sentences. Of a text with several, the first counts.
    manager
        Who answers.
    models
        Names; default: the manager's, and the judge beside it where there is one.
    label
        Called with each run and the manager; labels and blocks, `session.label_sync` for example.
    """
    found = []
    for model in models or dict.fromkeys([manager.model, manager.judge]):
        for labels in LABELS:
            found.append(_evaluate_one(items, manager, model, labels, label))
            if found[-1].labels == DECISION:
                break
    return found


def _evaluate_one(
    items: Sequence[LabeledSentence],
    manager: LLMManager,
    model: str,
    labels: str,
    label: Callable[[Run, LLMManager], Any],
) -> Evaluation:
    evidence = [
        {"ticker": TICKER, "text": item.text, "id": f"L{number}"}
        for number, item in enumerate(items)
    ]
    # As many as there are, and some: a text may hold several sentences.
    params = RiskParams.of(labels=labels, model=model, max_sentences=10 * len(items))
    run, began_s = open_run([TICKER], evidence=evidence, params=params), time.monotonic()
    label(run, manager)
    seconds = time.monotonic() - began_s
    table = run.table()
    found = {row["evidence"]: row for row in table.report.findings.to_dict("records")}
    outcomes = tuple(
        _read_outcome(item, found.get(f"L{number}.1")) for number, item in enumerate(items)
    )
    return Evaluation(
        model=model,
        labels=DECISION if run.plan.form == "decision" else labels,
        engine=str(manager.engine),
        outcomes=outcomes,
        seconds=seconds,
        tokens=int(table["tokens"].fillna(0).sum()),
        figures=evaluation.figures(outcomes),
    )


def _read_outcome(item: LabeledSentence, row: dict[Any, Any] | None) -> Prediction:
    if row is None or row["status"] != "judged":
        return Prediction(item=item, label=None)
    return Prediction(
        item=item,
        label=Label(risk=row["risk"], severity=int(row["severity"])),
        p_label=None if math.isnan(row["p_label"]) else float(row["p_label"]),
    )


# Shown --------------------------------------------------------------------------------------------


def summary(found: Sequence[Evaluation]) -> pd.DataFrame:
    """Return one row for each evaluation: its figures, and seconds and tokens a sentence."""
    return pd.DataFrame(
        [
            {
                "model": one.model,
                "engine": one.engine,
                "labels": one.labels,
                **one.figures,
                "seconds_each": one.seconds_each,
                "tokens_each": one.tokens_each,
            }
            for one in found
        ]
    )


def text(found: Sequence[Evaluation]) -> str:
    """For a terminal."""
    counted = format_count(len(found[0].outcomes), "labeled sentence")
    lines = [f"{counted}. {_describe_baseline(found)}"]
    for one in found:
        f = one.figures
        lines += [
            f"{one.model} ({one.engine}), {one.labels}: {f['valid']:.0f} valid answers",
            f"  category {f['category']:.1%} ({f['category_lo']:.0%} to {f['category_hi']:.0%})",
            (
                f"  severity in range {f['severity']:.1%} ({f['severity_lo']:.0%} to "
                f"{f['severity_hi']:.0%}), within one step {f['severity_near']:.1%}, "
                f"{f['severity_error']:.2f} steps off"
            ),
        ]
        if not math.isnan(f["brier"]):
            lines.append(
                f"  probabilities: Brier score {f['brier']:.3f}, expected calibration error "
                f"{f['ece']:.3f}"
            )
        tokens = f" and {one.tokens_each:.1f} tokens" if one.tokens else ""
        lines.append(f"  {one.seconds_each:.2f} s{tokens} a sentence")
    return "\n".join(lines)


def write(found: Sequence[Evaluation], folder: Path) -> list[Path]:
    """
    `evaluation.csv`, `labels.csv` (each sentence with what was said) and `evaluation.html`, into
    the folder, which is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sentences = [
        {
            "model": one.model,
            "labels": one.labels,
            "text": outcome.item.text,
            "wanted": "|".join(sorted(outcome.item.risks)),
            "low": outcome.item.low,
            "high": outcome.item.high,
            "risk": outcome.label.risk if outcome.label else None,
            "severity": outcome.label.severity if outcome.label else None,
            "p_label": outcome.p_label,
        }
        for one in found
        for outcome in one.outcomes
    ]
    paths = [folder / name for name in ("evaluation.csv", "labels.csv", "evaluation.html")]
    ExportFrame(summary(found)).to_csv(paths[0], index=False)
    ExportFrame(sentences).astype({"severity": "Int64"}).to_csv(paths[1], index=False)
    paths[2].write_text(page(found), encoding="utf-8")
    return paths


def page(found: Sequence[Evaluation]) -> str:
    """
    Return one page without scripts: the figures, and for each evaluation its confusion table and
    its reliability.
    """
    counted = format_count(len(found[0].outcomes), "labeled sentence")
    figures = _render_table(_add_intervals(summary(found)), "figures")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Evaluation of labels</title><style>{STYLE}</style><h1>Evaluation of labels</h1>"
        f"<p>{counted}, {datetime.now(UTC):%Y-%m-%d}. "
        f"In brackets: 95 % intervals. {_describe_baseline(found)}</p>"
        f"{figures}{''.join(map(_render_part, found))}</html>\n"
    )


def _describe_baseline(found: Sequence[Evaluation]) -> str:
    category, severity = evaluation.majority_baseline(
        [outcome.item for outcome in found[0].outcomes]
    )
    return (
        "The best constant answer, which reads nothing, reaches "
        f"category {_format_percent(category)} and severity {_format_percent(severity)}."
    )


def _add_intervals(shown: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows, each share with its interval in the same cell."""
    rows = shown.to_dict("records")
    for row in rows:
        for name in SHARES:
            low, high = row.pop(f"{name}_lo", math.nan), row.pop(f"{name}_hi", math.nan)
            row[name] = _format_percent(row[name]) + (
                "" if math.isnan(low) else f" ({low:.0%} to {high:.0%})"
            )
    return rows


def _render_part(one: Evaluation) -> str:
    confused = evaluation.confusion(one.outcomes).reset_index().to_dict("records")
    return (
        f"<h2>{escape_html(one.model)}, {escape_html(one.labels)}</h2>"
        "<p class='muted'>Rows: your labels. Columns: the model's labels.</p>"
        f"{_render_table(confused, 'confusion')}{_draw_reliability(one)}"
    )


def _format_percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _render_table(rows: Sequence[dict[Any, Any]], label: str) -> str:
    cells = [[escape_html(_format(value)) for value in row.values()] for row in rows]
    return html_table([escape_html(name) for name in rows[0]], cells, label, len(rows[0]))


def _format(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def _draw_reliability(one: Evaluation) -> str:
    """
    Said against seen, a dot for each bin, as large as it has cases; on the line the model knows how
    sure it may be.
    """
    bins = evaluation.reliability(one.outcomes).to_dict("records")
    if not bins:
        return "<p class='muted'>No probabilities: greedy labels, or a server that tells none.</p>"
    most = max(each["n"] for each in bins)
    dots = "".join(
        f'<circle cx="{10 + 180 * each["said"]:.1f}" cy="{190 - 180 * each["right"]:.1f}" '
        f'r="{3 + 7 * math.sqrt(each["n"] / most):.1f}" '
        f'fill="#0072B2" fill-opacity="0.7"><title>{each["n"]} cases: said {each["said"]:.0%}, '
        f"right {each['right']:.0%}</title></circle>"
        for each in bins
    )
    label = f"reliability of {escape_html(one.model)}: accuracy against predicted probability"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 200 210">'
        '<path d="M10 10V190H190" fill="none" stroke="currentColor"/>'
        '<path d="M10 190L190 10" stroke="#808080" stroke-dasharray="4"/>'
        '<text x="100" y="206" font-size="9" text-anchor="middle" fill="currentColor">said</text>'
        '<text x="14" y="20" font-size="9" fill="currentColor">right</text>'
        f"{dots}</svg>"
    )
