"""
The labels of models and of baselines for the sentences of one file, and what came of masking.

A sentence is asked as a risk table asks it, alone and whole: the text of a row is one sentence,
whatever its form.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import InputError
from urisk_nb.evaluate.labeled_files import LabeledFile
from urisk_nb.readers.holdings import parse_tickers
from urisk_nb.risk import baselines, evaluation
from urisk_nb.risk.evaluation import LabeledSentence, Prediction, ReviewThreshold, Share
from urisk_nb.risk.evidence import Sentence, clean_text
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.masking import find_names, invent_name, mask, swap
from urisk_nb.risk.params import LABELS, RiskParams
from urisk_nb.risk.plan import EvidenceSelection, prepare
from urisk_nb.risk.questions import Label
from urisk_nb.risk.taxonomy import NONE
from urisk_nb.session import Run

if TYPE_CHECKING:
    from urisk_nb.llm.manager import LLMManager

__all__ = ["Evaluation", "FileEvaluation", "Stability", "add_baselines", "evaluate"]

TICKER = "LABELS"
DECISION = "decision"  # the one way of a decision model: its probabilities as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """
    How many labels hold when a sentence is changed that should not change its label.

    Attributes
    ----------
    change
        "masked": other names, dates and amounts; "swapped": another company.
    risk
        How many have the same category, of the sentences that the change reaches.
    severity
        How many of these have a severity at most one step off.
    """

    change: str
    risk: Share
    severity: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """
    One model in one way of taking labels.

    Attributes
    ----------
    model, labels, engine
        Who answered, and how the labels were taken.
    predictions
        One for each labeled sentence, in the order of the file.
    seconds, tokens, asked
        Of the whole run, second looks and priors included, and how many texts were asked in it.
    stability
        Empty where it was not measured.
    """

    model: str
    labels: str
    engine: str
    predictions: tuple[Prediction, ...]
    seconds: float
    tokens: int
    asked: int
    stability: tuple[Stability, ...] = ()

    @property
    def figures(self) -> dict[str, int | float | Share]:
        """All figures: see `risk.evaluation.figures`."""
        return evaluation.figures(self.predictions)

    @property
    def review(self) -> dict[str, ReviewThreshold]:
        """The threshold of the review list, for accepted labels and for the reader's own."""
        return {
            name: evaluation.find_threshold(self.predictions, own=own)
            for name, own in (("accepted", False), ("own", True))
        }

    @property
    def seconds_each(self) -> float:
        """Seconds a text."""
        return self.seconds / max(1, self.asked)

    @property
    def tokens_each(self) -> float:
        """Tokens a text."""
        return self.tokens / max(1, self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvaluation:
    """
    What is known of one file.

    Attributes
    ----------
    name, items
        The file and its sentences.
    baselines
        Predictions of the cheapest alternatives, by their names; their severities mean nothing.
    training
        How many sentences the bag of words was trained on, and how many near-duplicates were left
        out; None where there is none.
    evaluations
        One for each model and way of taking labels.
    """

    name: str
    items: tuple[LabeledSentence, ...]
    baselines: dict[str, tuple[Prediction, ...]]
    training: tuple[int, int] | None = None
    evaluations: tuple[Evaluation, ...] = field(default=())


def add_baselines(
    file: LabeledFile, training: Sequence[LabeledSentence] | None = None
) -> FileEvaluation:
    """
    Return a file with the predictions of the cheapest alternatives; no model is asked.

    Parameters
    ----------
    file
        What is measured.
    training
        What a bag of words learns from; its near-duplicates of the measured sentences are left
        out. None: there is no bag of words.

    Raises
    ------
    InputError, PackageMissing
        See `risk.baselines.BagOfWords`.
    """
    most = baselines.find_most_frequent(file.items)
    said = {f"always {NONE}": [NONE] * len(file.items)}
    if most != NONE:
        said[f"always {most}"] = [most] * len(file.items)
    learned = None
    if training is not None:
        kept = baselines.drop_near_duplicates(training, file.items)
        if not kept:
            raise InputError(
                f"{file.name}: all sentences to train on are near-duplicates of measured ones.",
                fix="name other sentences: --train FILE",
            )
        learned = len(kept), len(training) - len(kept)
        said["bag of words"] = baselines.BagOfWords(kept).label([one.text for one in file.items])
    return FileEvaluation(
        name=file.name,
        items=file.items,
        baselines={
            name: tuple(
                Prediction(item=item, label=Label(risk=risk, severity=0))
                for item, risk in zip(file.items, risks, strict=True)
            )
            for name, risks in said.items()
        },
        training=learned,
    )


def evaluate(
    file: FileEvaluation,
    manager: LLMManager,
    *,
    models: Sequence[str] = (),
    masked: bool = False,
    label: Callable[[Run, LLMManager], Any],
) -> FileEvaluation:
    """
    Return the file with the labels of each model; blocks until all are there.

    A decision model is asked once: it tells its probabilities with its labels. Other models are
    asked greedy and calibrated.

    Parameters
    ----------
    file
        Of `add_baselines`.
    manager
        Who answers.
    models
        Names; default: the manager's, and the judge beside it where there is one.
    masked
        Ask each sentence two times more, masked and with its company swapped.
    label
        Called with each run and the manager; labels and blocks, `session.label_sync` for example.
    """
    found: list[Evaluation] = []
    for model in models or dict.fromkeys([manager.model, manager.judge]):
        for labels in LABELS:
            found.append(
                _evaluate_one(file.items, manager, model, labels, masked=masked, label=label)
            )
            if found[-1].labels == DECISION:
                break
    return replace(file, evaluations=tuple(found))


def _evaluate_one(
    items: Sequence[LabeledSentence],
    manager: LLMManager,
    model: str,
    labels: str,
    *,
    masked: bool,
    label: Callable[[Run, LLMManager], Any],
) -> Evaluation:
    changed = {change: list(map(make, items)) for change, make in _CHANGES.items() if masked}
    texts = [item.text for item in items]
    run = _open_run(
        dict.fromkeys([*texts, *(text for made in changed.values() for text in made)]),
        RiskParams.of(labels=labels, model=model),
    )
    began_s = time.monotonic()
    label(run, manager)
    seconds = time.monotonic() - began_s
    found = run.ticker_findings[TICKER]
    said = {one.sentence.document.text: one for one in found.findings}
    return Evaluation(
        model=model,
        labels=DECISION if run.plan.form == "decision" else labels,
        engine=str(manager.engine),
        predictions=tuple(
            Prediction(item=item, label=said[item.text].label, p_label=said[item.text].p_label)
            for item in items
        ),
        seconds=seconds,
        tokens=found.tokens,
        asked=len(found.findings),
        stability=tuple(
            _measure_stability(
                change,
                [
                    (said[a].label, said[b].label)
                    for a, b in zip(texts, made, strict=True)
                    if a != b
                ],
            )
            for change, made in changed.items()
        ),
    )


def _mask(item: LabeledSentence) -> str:
    return mask(item.text, names=[item.company])


def _swap(item: LabeledSentence) -> str:
    """Swap the company of the file, or else the first name of the sentence, for an invented one."""
    other = invent_name(Random(item.text))  # noqa: S311  the same in every run
    swapped = (swap(item.text, name, other) for name in (item.company, *find_names(item.text)))
    return next((text for text in swapped if text != item.text), item.text)


_CHANGES: dict[str, Callable[[LabeledSentence], str]] = {"masked": _mask, "swapped": _swap}


def _open_run(texts: Iterable[str], params: RiskParams) -> Run:
    """Return a run that asks each text as one sentence."""
    plan = prepare(parse_tickers([TICKER]), None, (), params)
    sentences = tuple(
        Sentence(
            id=f"L{number}.1",
            document=Document(id=f"L{number}", ticker=TICKER, text=text),
            text=clean_text(text),
            start=0,
            end=len(text),
        )
        for number, text in enumerate(texts, 1)
    )
    selection = EvidenceSelection(chosen=sentences, sentences=len(sentences), skipped=0, flags=())
    return Run(
        plan=replace(plan, selections={TICKER: selection}),
        run_id="evaluate",
        created_at=datetime.now(UTC),
    )


def _measure_stability(
    change: str, pairs: Sequence[tuple[Label | None, Label | None]]
) -> Stability:
    """Count the labels that held; one that came or went did not."""
    both = [(one, other) for one, other in pairs if one and other]
    return Stability(
        change=change,
        risk=Share(sum(one.risk == other.risk for one, other in both), len(pairs)),
        severity=Share(
            sum(abs(one.severity - other.severity) <= 1 for one, other in both), len(pairs)
        ),
    )
