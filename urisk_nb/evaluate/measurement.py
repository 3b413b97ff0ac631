"""
The labels of models and of baselines for the sentences of one file, and how many hold when names,
dates and amounts change.

A sentence is asked as a risk table asks it. The text of a row is one sentence, and is never split.
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
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import Label, choose_examples
from urisk_nb.risk.selection import EvidenceSelection
from urisk_nb.risk.taxonomy import DEFAULT, NONE, Taxonomy
from urisk_nb.session import Run

if TYPE_CHECKING:
    from urisk_nb.llm.manager import LLMManager

__all__ = [
    "Evaluation",
    "FileEvaluation",
    "Stability",
    "add_baselines",
    "check_models",
    "evaluate",
]

TICKER = "LABELS"
DECISION = "decision"  # a decision model gives probabilities, and has no other way


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """
    How many labels hold when the sentence changes in a way that should not change its label.

    Attributes
    ----------
    change
        "masked": other names, dates and amounts; "swapped": another company.
    risk
        How many keep their category, of the sentences that the change alters.
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
        The model, how its labels were taken, and the engine that it ran on.
    predictions
        One for each labeled sentence, in the order of the file.
    seconds, tokens, asked
        Of the whole run, second looks and priors included. `asked` counts distinct texts.
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
        """The threshold below which labels are to review, for accepted labels and the own ones."""
        return {
            name: evaluation.find_threshold(self.predictions, own=own)
            for name, own in (("accepted", False), ("own", True))
        }

    @property
    def seconds_each(self) -> float:
        """Seconds for each text."""
        return self.seconds / max(1, self.asked)

    @property
    def tokens_each(self) -> float:
        """Tokens for each text."""
        return self.tokens / max(1, self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvaluation:
    """
    One file with the labels of baselines and models.

    Attributes
    ----------
    name, items
        The file and its sentences.
    baselines
        Predictions of the cheapest alternatives, by their names; their severities have no meaning.
    training
        How many sentences the bag of words was trained on, and how many near-duplicates were left
        out; None without a bag of words.
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
        The file to measure.
    training
        Sentences to train a bag of words on; near-duplicates of measured ones are left out. None:
        no bag of words.

    Raises
    ------
    InputError, PackageMissing
        See `risk.baselines.BagOfWords`.
    """
    most = baselines.find_most_frequent(file.items)
    labels = {f"always {NONE}": [NONE] * len(file.items)}
    if most != NONE:
        labels[f"always {most}"] = [most] * len(file.items)
    trained = None
    if training is not None:
        kept = baselines.drop_near_duplicates(training, file.items)
        if not kept:
            raise InputError(
                f"{file.name}: all sentences to train on are near-duplicates of measured ones.",
                fix="name a file with other sentences: --train FILE",
            )
        trained = len(kept), len(training) - len(kept)
        labels["bag of words"] = baselines.BagOfWords(kept).label([one.text for one in file.items])
    return FileEvaluation(
        name=file.name,
        items=file.items,
        baselines={
            name: tuple(
                Prediction(item=item, label=Label(risk=risk, severity=0))
                for item, risk in zip(file.items, risks, strict=True)
            )
            for name, risks in labels.items()
        },
        training=trained,
    )


def check_models(models: Sequence[str], taxonomy: Taxonomy) -> None:
    """
    Check that no model is asked about categories that it was not trained on.

    Raises
    ------
    InputError
        urisk-judge is named, and the categories are not those of the package.
    """
    from urisk_nb.llm.messages import is_judge

    judge = next(filter(is_judge, models), None)
    if judge is not None and taxonomy.hash != DEFAULT.hash:
        raise InputError(
            f"{judge!r} was trained on the categories {', '.join(DEFAULT.ids)} only, and your "
            "taxonomy has others.",
            fix="name other models: --models llama3.1; or leave out --taxonomy",
        )


def evaluate(
    file: FileEvaluation,
    manager: LLMManager,
    *,
    models: Sequence[str] = (),
    masked: bool = False,
    taxonomy: Taxonomy = DEFAULT,
    label: Callable[[Run, LLMManager], Any],
) -> FileEvaluation:
    """
    Return the file with the labels of each model; blocks until all are labeled.

    A decision model is asked once, since it always gives probabilities. Other models are asked
    twice, for greedy and for calibrated labels.

    Parameters
    ----------
    file
        Of `add_baselines`.
    manager
        The session that answers.
    models
        Their names; default: the manager's model, and the judge beside it where there is one and
        the categories are those that it was trained on.
    masked
        Ask each sentence two more times: masked, and with its company swapped.
    taxonomy
        The categories that are asked about: those of the labels.
    label
        Called with each run and the manager; labels and blocks, such as `session.label_sync`.
    """
    found: list[Evaluation] = []
    judges = [manager.judge] if taxonomy.hash == DEFAULT.hash else []
    for model in models or dict.fromkeys([manager.model, *judges]):
        for labels in LABELS:
            found.append(
                _evaluate_one(
                    file.items,
                    manager,
                    RiskParams.of(labels=labels, model=model),
                    masked=masked,
                    taxonomy=taxonomy,
                    label=label,
                )
            )
            if found[-1].labels == DECISION:
                break
    return replace(file, evaluations=tuple(found))


def _evaluate_one(
    items: Sequence[LabeledSentence],
    manager: LLMManager,
    params: RiskParams,
    *,
    masked: bool,
    taxonomy: Taxonomy,
    label: Callable[[Run, LLMManager], Any],
) -> Evaluation:
    changed = {change: list(map(make, items)) for change, make in _CHANGES.items() if masked}
    texts = [item.text for item in items]
    run = _open_run(
        dict.fromkeys([*texts, *(text for made in changed.values() for text in made)]),
        params,
        taxonomy,
    )
    began_s = time.monotonic()
    label(run, manager)
    seconds = time.monotonic() - began_s
    found = run.ticker_findings[TICKER]
    by_text = {one.sentence.document.text: one for one in found.findings}
    return Evaluation(
        model=str(params.model),
        labels=DECISION if run.plan.form == "decision" else params.labels,
        engine=str(manager.engine),
        predictions=tuple(
            Prediction(
                item=item, label=by_text[item.text].label, p_label=by_text[item.text].p_label
            )
            for item in items
        ),
        seconds=seconds,
        tokens=found.tokens,
        asked=len(found.findings),
        stability=tuple(
            _measure_stability(
                change,
                [
                    (by_text[a].label, by_text[b].label)
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


def _open_run(texts: Iterable[str], params: RiskParams, taxonomy: Taxonomy) -> Run:
    """Return a run that asks each text as one sentence."""
    plan = prepare(
        parse_tickers([TICKER]),
        None,
        (),
        params,
        taxonomy=taxonomy,
        examples=choose_examples(taxonomy),
    )
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
    """Count the labels that hold. A label does not hold where either answer is missing."""
    both = [(one, other) for one, other in pairs if one and other]
    return Stability(
        change=change,
        risk=Share(sum(one.risk == other.risk for one, other in both), len(pairs)),
        severity=Share(
            sum(abs(one.severity - other.severity) <= 1 for one, other in both), len(pairs)
        ),
    )
