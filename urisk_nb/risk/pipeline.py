"""
One run: prepare everything, then one flow of questions per ticker.

A flow is a generator: it yields a batch of questions and receives their replies in the same order, until it returns the ticker's
judgement. Who asks (a live server, recorded replies, a test's list) is the driver's matter, so the live run and the replay are one
code. ``table.assemble`` makes the table of the plan and the judgements.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pandas as pd

from urisk_nb.risk.evidence import Passages, Sentence, choose, in_order, split
from urisk_nb.risk.inputs import Document, Holding, Prices, RiskParams, documents_for, scaled
from urisk_nb.risk.quant import QuantRow, as_of_date, quant_rows
from urisk_nb.risk.questions import (
    EXAMPLES,
    SCHEMA_VERSION,
    Example,
    Label,
    Question,
    Reply,
    ask,
    check_examples,
    examples_hash,
    parse,
    repair,
)
from urisk_nb.risk.scoring import SCORE_VERSION, settle
from urisk_nb.risk.taxonomy import DEFAULT, NONE, Taxonomy

__all__ = ["Finding", "Flow", "Judgement", "Plan", "Reading", "judge", "prepare"]

SECOND_LOOK = 4  # from this severity on a sentence is asked a second time


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    What there is to read for one ticker.

    Attributes
    ----------
    chosen
        The sentences that are asked, in the order of date, source and text of their documents.
    sentences, skipped
        How many sentences the documents have, and how many headings, table rows and lines without words were left out.
    flags
        ``truncated`` (more sentences than are asked), ``hidden_text``, ``injection_suspect``, and those of the documents' dates.
    """

    chosen: tuple[Sentence, ...]
    sentences: int
    skipped: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    Everything about a run that is known before a model is asked.

    Attributes
    ----------
    holdings, params, taxonomy, examples
        As given.
    quant
        One row of metrics a symbol; empty without prices.
    readings
        One a symbol; empty without evidence.
    has_prices, has_volume, has_benchmark, has_evidence, has_weights
        Which inputs were given: a column whose input was not given has no flag for its NaN.
    """

    holdings: tuple[Holding, ...]
    params: RiskParams
    taxonomy: Taxonomy
    examples: tuple[Example, ...]
    quant: Mapping[str, QuantRow]
    readings: Mapping[str, Reading]
    has_prices: bool
    has_volume: bool
    has_benchmark: bool
    has_evidence: bool
    has_weights: bool
    as_of: date | None

    @property
    def symbols(self) -> tuple[str, ...]:
        """The index of the table, in the order given."""
        return tuple(holding.symbol for holding in self.holdings)

    @property
    def asked(self) -> tuple[str, ...]:
        """The symbols that have sentences to judge in this run."""
        return tuple(symbol for symbol in self.symbols if self.params.llm and symbol in self.readings and self.readings[symbol].chosen)

    @property
    def meta(self) -> dict[str, Any]:
        """What decides the run, JSON-able: parameters, versions, hashes, counts."""
        return {
            "params": self.params.as_dict(),
            "as_of": self.as_of.isoformat() if self.as_of else None,
            "score_version": SCORE_VERSION,
            "schema_version": SCHEMA_VERSION,
            "taxonomy_version": self.taxonomy.version,
            "taxonomy_hash": self.taxonomy.hash,
            "examples_hash": examples_hash(self.examples),
            "categories": list(self.taxonomy.ids),
            "skipped": {symbol: reading.skipped for symbol, reading in self.readings.items() if reading.skipped},
            "messages": {symbol: row.message for symbol, row in self.quant.items() if row.message},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    What came of one sentence.

    Attributes
    ----------
    label
        What counts, after repair and second look; None where no valid answer came.
    reason
        Why there is no label.
    flags
        Of the sentence (``hidden_text``, ``injection_suspect``) and of its answers (``repaired``, ``unstable``, ``second_look_failed``).
    cached
        Every answer about it was known before.
    """

    sentence: Sentence
    label: Label | None
    reason: str | None = None
    flags: tuple[str, ...] = ()
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """
    All findings of one ticker, and what they cost.

    Attributes
    ----------
    tokens, seconds, attempts
        Sums over the questions that a server answered in this run.
    cached
        How many questions were answered without it.
    """

    symbol: str
    findings: tuple[Finding, ...]
    flags: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    attempts: int = 0
    cached: int = 0


Flow = Generator[tuple[Question, ...], Sequence[Reply], Judgement]


def prepare(
    holdings: Sequence[Holding],
    prices: Prices | None,
    documents: Sequence[Document] | None,
    params: RiskParams,
    *,
    benchmark: pd.Series[float] | None = None,
    taxonomy: Taxonomy = DEFAULT,
    examples: Sequence[Example] = EXAMPLES,
) -> Plan:
    """
    The plan of a run: metrics computed, sentences split and chosen; nothing is asked.

    Parameters
    ----------
    holdings
        What becomes the rows, in order.
    prices, documents
        None where not given; no documents at all (an empty sequence) is evidence that was given and has nothing.
    benchmark
        Returns or prices of a benchmark that is no column, with ``params.benchmark == "given"``.

    Raises
    ------
    InputError
        Whatever of the whole run cannot be used; the fault of one ticker is its row's status.
    """
    check_examples(examples, taxonomy)
    plan_holdings = scaled(holdings) if params.normalise else tuple(holdings)
    as_of = params.as_of if prices is None else as_of_date(prices, params).date()
    return Plan(
        holdings=plan_holdings,
        params=params,
        taxonomy=taxonomy,
        examples=tuple(examples),
        quant={} if prices is None else quant_rows(prices, holdings, params, benchmark),
        readings={}
        if documents is None
        else _readings(plan_holdings, documents, params, taxonomy=taxonomy, examples=examples, as_of=as_of),
        has_prices=prices is not None,
        has_volume=prices is not None and prices.volume is not None,
        has_benchmark=params.benchmark is not None or benchmark is not None,
        has_evidence=documents is not None,
        has_weights=any(holding.weight is not None for holding in holdings),
        as_of=as_of,
    )


def _readings(
    holdings: Sequence[Holding],
    documents: Sequence[Document],
    params: RiskParams,
    *,
    taxonomy: Taxonomy,
    examples: Sequence[Example],
    as_of: date | None,
) -> dict[str, Reading]:
    passages: dict[Document, Passages] = {}  # a shared document is split once, not once a ticker
    readings = {}
    for holding in holdings:
        own, flags = documents_for(documents, holding, params, as_of=as_of)
        for document in own:
            if document not in passages:
                passages[document] = split(document)
        sentences = [sentence for document in in_order(own) for sentence in passages[document].sentences]
        chosen = choose(sentences, params.query, taxonomy, params.max_sentences, words=[example.text for example in examples])
        readings[holding.symbol] = _reading([passages[document] for document in own], chosen, flags)
    return readings


def _reading(passages: Sequence[Passages], chosen: tuple[Sentence, ...], flags: Sequence[str]) -> Reading:
    count = sum(len(one.sentences) for one in passages)
    found = {flag for one in passages for flag in one.flags}
    truncated = {"truncated"} if len(chosen) < count else set()
    return Reading(
        chosen=chosen, sentences=count, skipped=sum(one.skipped for one in passages), flags=tuple(sorted({*flags, *found, *truncated}))
    )


@dataclass(slots=True)
class _Docket:
    """One ticker's open questions: what was asked of each sentence and what it came to."""

    plan: Plan
    symbol: str
    sentences: tuple[Sentence, ...]
    replies: dict[str, Reply] = field(default_factory=dict)  # by key: the same bytes are asked once
    trails: list[list[Question]] = field(default_factory=list)  # for each sentence what was asked, in order

    def question(self, index: int, *, reverse: bool = False) -> Question:
        plan = self.plan
        return ask(self.sentences[index], plan.params, plan.taxonomy, ticker=self.symbol, examples=plan.examples, reverse=reverse)

    def batch(self, questions: Mapping[int, Question]) -> Generator[tuple[Question, ...], Sequence[Reply], None]:
        for index, question in questions.items():
            self.trails[index].append(question)
        new = {question.key: question for question in questions.values() if question.key not in self.replies}
        if new:
            replies = yield tuple(new.values())
            self.replies.update(zip(new, replies, strict=True))

    def answered(self, question: Question) -> tuple[Label | None, str | None]:
        reply = self.replies[question.key]
        return (None, reply.error) if reply.error is not None else parse(reply.text, reply.done_reason, self.plan.taxonomy)

    def first(self, index: int) -> tuple[Label | None, str | None]:
        """The label that a sentence has before any second look: of the repair where there was one."""
        return self.answered([question for question in self.trails[index] if question.purpose != "second"][-1])

    def repairs(self) -> dict[int, Question]:
        open_ = {}
        for index, (question, *_) in enumerate(self.trails):
            reply = self.replies[question.key]
            if reply.error is None and self.answered(question)[0] is None:
                open_[index] = repair(question, reply.text, self.plan.taxonomy)
        return open_

    def second_looks(self) -> dict[int, Question]:
        open_ = {}
        for index, trail in enumerate(self.trails):
            label, _ = self.first(index)
            if label is not None and label.risk != NONE and label.severity >= SECOND_LOOK and trail[-1].purpose != "second":
                open_[index] = self.question(index, reverse=True)
        return open_

    def finding(self, index: int) -> Finding:
        trail = self.trails[index]
        label, reason = self.first(index)
        flags = set(self.sentences[index].flags)
        if label is not None and any(question.purpose == "repair" for question in trail):
            flags.add("repaired")
        if label is not None and trail[-1].purpose == "second":
            label, found = settle(label, self.answered(trail[-1])[0])
            flags.update(found)
        cached = all(self.replies[question.key].cached for question in trail)
        return Finding(sentence=self.sentences[index], label=label, reason=reason, flags=tuple(sorted(flags)), cached=cached)


def judge(plan: Plan, symbol: str) -> Flow:
    """
    The flow of one ticker: first looks; then repairs and second looks in one batch; then the second looks of repaired answers, if any.

    Yields
    ------
    tuple of Question
        A batch whose questions may be asked at once; each key once a ticker.

    Returns
    -------
    Judgement
        A reply with ``error`` leaves its sentence unjudged with that reason and is not repaired: the sender has tried.
        A second look without a valid answer leaves the first standing, flagged.
    """
    reading = plan.readings.get(symbol)
    chosen = reading.chosen if reading and plan.params.llm else ()
    docket = _Docket(plan, symbol, chosen, trails=[[] for _ in chosen])
    yield from docket.batch({index: docket.question(index) for index in range(len(chosen))})
    yield from docket.batch(docket.repairs() | docket.second_looks())
    yield from docket.batch(docket.second_looks())
    findings = tuple(docket.finding(index) for index in range(len(chosen)))
    fresh = [reply for reply in docket.replies.values() if not reply.cached]
    return Judgement(
        symbol=symbol,
        findings=findings,
        flags=tuple(sorted({flag for finding in findings for flag in finding.flags})),
        tokens=sum(reply.tokens for reply in fresh),
        seconds=sum(reply.seconds for reply in fresh),
        attempts=sum(reply.attempts for reply in fresh),
        cached=len(docket.replies) - len(fresh),
    )
