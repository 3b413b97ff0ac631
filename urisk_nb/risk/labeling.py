"""The labels of one ticker: what is asked about each sentence, and what comes of the replies.

`label_ticker` awaits nothing but the `ask` that it is given. A live run, a replay and a test each
pass their own, so all three run the same code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from urisk_nb.risk import calibration
from urisk_nb.risk.answer_text import find_answer
from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.questions import (
    Label,
    Purpose,
    Question,
    Reply,
    build_content_free,
    build_question,
    parse,
    repair,
)
from urisk_nb.risk.scoring import reconcile
from urisk_nb.risk.taxonomy import NONE, SEVERITIES

if TYPE_CHECKING:
    from urisk_nb.risk.overrides import Override

__all__ = ["Ask", "Finding", "TickerFindings", "label_ticker"]

SECOND_LOOK = 4  # from this severity on a sentence is asked a second time
DIGITS = tuple(str(severity) for severity in SEVERITIES)

Ask = Callable[[Question], Awaitable[Reply]]
"""
Ask one question. It is called for each question of a batch before the first reply is awaited: one
that begins its work when it is called has the whole batch under way at once.
"""


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
        Of the sentence (``hidden_text``, ``injection_suspect``), of its answers (``repaired``,
        ``unstable``, ``second_look_failed``, ``prompt_cut``) and of several judges
        (``judges_disagree``, ``no_opinion``). Where a person corrected the label: ``override``,
        and those of the sentence alone.
    cached
        Every answer about it was known before.
    p_label, p_severity
        The probability of the risk that was chosen, and of the severity that was chosen. A decision
        model gives both always. Of a chat model they come with calibrated labels, corrected, the
        severity's given that risk, of the first look; None where the server gave no
        log-probabilities, or where the label is that of a repair. The severity of ``none`` has no
        meaning, and no probability.
    opinions
        What further judges found in the same sentence, each with its model.
    agreement
        The share of these that name the same risk, with a severity at most one apart; of those that
        gave a valid answer. None where there is none.
    override, original
        The correction that counts, and what the model found; None where nobody corrected it.
    """

    sentence: Sentence
    label: Label | None
    p_label: float | None = None
    p_severity: float | None = None
    reason: str | None = None
    flags: tuple[str, ...] = ()
    cached: bool = False
    opinions: tuple[tuple[str, Finding], ...] = ()
    agreement: float | None = None
    override: Override | None = None
    original: Finding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TickerFindings:
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


async def label_ticker(plan: Plan, symbol: str, ask: Ask) -> TickerFindings:
    """
    Label the sentences of one ticker.

    First every sentence is asked about, and a decision model nothing more. Of a chat model follow
    repairs and second looks, in one batch; then the second looks of repaired answers. With
    calibrated labels more is asked after the first looks and after the second ones.

    Parameters
    ----------
    plan
        The run.
    symbol
        One of its tickers; one without sentences has no findings, and nothing is asked.
    ask
        Answers one question; see `Ask`. It is given each key once a ticker. A reply with ``error``
        leaves its sentence without a label, with that reason: it is not repaired, since whoever
        asked has tried again already.

    Returns
    -------
    TickerFindings
        If a second look gets no valid answer, the first answer counts, with a flag.

    Raises
    ------
    BaseException
        What `ask` raises ends the labeling of this ticker.
    """
    selection = plan.selections.get(symbol)
    chosen = selection.chosen if selection and plan.params.llm else ()
    labeler = _TickerLabeler(plan, symbol, chosen, ask, trails=[[] for _ in chosen])
    calibrated = plan.params.labels == "calibrated"
    await labeler.ask_batch({index: labeler.question(index) for index in range(len(chosen))})
    if plan.form == "decision":
        # It gave the probability of every label: there is no order of examples that it depends on,
        # and no other form in which it could answer.
        labeler.read_decisions()
        return labeler.collect()
    if calibrated:
        await labeler.calibrate("label")
    await labeler.ask_batch(labeler.find_repairs() | labeler.find_second_looks())
    await labeler.ask_batch(labeler.find_second_looks())
    if calibrated:
        await labeler.calibrate("second")
    return labeler.collect()


def _choose(shares: Mapping[str, float], written: str | None) -> str:
    """Return the most probable one; among equals the written one."""
    return max(shares, key=lambda each: (round(shares[each], 9), each == written))


def _is_severe(label: Label | None) -> bool:
    return label is not None and label.risk != NONE and label.severity >= SECOND_LOOK


@dataclass(frozen=True, slots=True, kw_only=True)
class _CalibratedLabel:
    """A label by probabilities, and these."""

    label: Label
    p_label: float
    p_severity: float | None


@dataclass(slots=True)
class _TickerLabeler:
    """What has been asked about each sentence of one ticker, and what the replies say."""

    plan: Plan
    symbol: str
    sentences: tuple[Sentence, ...]
    ask: Ask
    replies: dict[str, Reply] = field(default_factory=dict)  # by key: the same bytes are asked once
    # What the replies say, each read once: the label, or the reason why there is none.
    labels: dict[str, tuple[Label | None, str | None]] = field(default_factory=dict)
    # The questions about each sentence, in order.
    trails: list[list[Question]] = field(default_factory=list)
    # By sentence and by whether the examples were reversed.
    calibrated: dict[tuple[int, bool], _CalibratedLabel] = field(default_factory=dict)

    # Questions and replies ------------------------------------------------------------------------

    def question(self, index: int, *, reverse: bool = False, only: str | None = None) -> Question:
        return build_question(
            self.sentences[index],
            self.plan.params,
            self.plan.taxonomy,
            ticker=self.symbol,
            examples=self.plan.examples,
            form=self.plan.form,
            reverse=reverse,
            only=only,
        )

    async def ask_batch(self, questions: Mapping[int, Question]) -> None:
        """Ask these questions of their sentences, and note them there."""
        for index, question in questions.items():
            self.trails[index].append(question)
        await self.ask_new(questions.values())

    async def ask_new(self, questions: Iterable[Question]) -> None:
        """Ask what has no reply yet."""
        new = {question.key: question for question in questions if question.key not in self.replies}
        waiting = [self.ask(question) for question in new.values()]
        for key, reply in zip(new, waiting, strict=True):
            self.replies[key] = await reply

    def read_label(self, question: Question) -> tuple[Label | None, str | None]:
        """Return the label in the reply to this question, or None and the reason."""
        if question.key not in self.labels:
            reply = self.replies[question.key]
            self.labels[question.key] = (
                parse(
                    reply.text,
                    reply.done_reason,
                    self.plan.taxonomy,
                    sentence=question.sentence.text,
                    has_thoughts=reply.has_thoughts,
                )
                if reply.error is None
                else (None, reply.error)
            )
        return self.labels[question.key]

    def first_label(self, index: int) -> tuple[Label | None, str | None]:
        """
        Return the label of a sentence before any second look, or None and the reason.

        It is the calibrated one, else that of the repair where there was one.
        """
        if (calibrated := self.calibrated.get((index, False))) is not None:
            return calibrated.label, None
        looks = [question for question in self.trails[index] if question.purpose != "second"]
        return self.read_label(looks[-1])

    def find_repairs(self) -> dict[int, Question]:
        """Return one more question for each sentence whose first answer was no label."""
        firsts = [(question, self.replies[question.key]) for question, *_ in self.trails]
        return {
            index: repair(question, reply.text, self.plan.taxonomy)
            for index, (question, reply) in enumerate(firsts)
            if reply.error is None and self.read_label(question)[0] is None
        }

    def find_second_looks(self) -> dict[int, Question]:
        """
        Return a second question for each severe label, with the examples in reverse order.

        A label that depends on their order is not trusted.
        """
        return {
            index: self.question(index, reverse=True)
            for index, trail in enumerate(self.trails)
            if trail[-1].purpose != "second" and _is_severe(self.first_label(index)[0])
        }

    # Decisions ------------------------------------------------------------------------------------

    def read_decisions(self) -> None:
        """
        Take the labels of a decision model, with their probabilities as they are.

        No prior is subtracted. The judge was trained on its labels in equal numbers: that "N/A" is
        about no risk is its judgement and no habit. Subtracted, it would never say `none` again
        (docs/prompts.md has the measurement).
        """
        for index, (question,) in enumerate(self.trails):
            label, _ = self.read_label(question)
            risks = self._read_shares(question, "risk", self.plan.taxonomy.labels)
            severities = self._read_shares(question, "severity", DIGITS)
            if label is not None and risks and severities:
                self.calibrated[index, False] = _CalibratedLabel(
                    label=label,
                    p_label=risks[label.risk],
                    p_severity=None if label.risk == NONE else severities[str(label.severity)],
                )

    def _read_shares(self, question: Question, key: str, labels: Sequence[str]) -> dict[str, float]:
        """Return the probability of each label, adding up to 1; empty where the reply has none."""
        logprobs = self._read_distribution(question, key, labels)
        none_before = dict.fromkeys(labels, 0.0)
        return {} if logprobs is None else calibration.subtract_prior(logprobs, none_before)

    # Calibrated labels ----------------------------------------------------------------------------

    async def calibrate(self, purpose: Purpose) -> None:
        """
        Choose labels by their probability, less the content-free prior.

        Asks up to three batches: what the model says to sentences without content; the severity for
        the chosen risk, where the model wrote another one; and the severity that it says to
        sentences without content, for each risk that was chosen. A sentence for which one of these
        gives no log-probabilities keeps the label that was written.

        Parameters
        ----------
        purpose
            Which questions of the sentences: the first looks (``label``), or the second ones.
        """
        reverse = purpose == "second"
        looks = {
            index: question
            for index, trail in enumerate(self.trails)
            for question in trail
            if question.purpose == purpose
        }
        risks = self.plan.taxonomy.labels
        read = {
            index: logprobs
            for index, look in looks.items()
            if self._written_risk(look) is not None
            and (logprobs := self._read_distribution(look, "risk", risks)) is not None
        }
        if not read:
            return
        content_free = self._content_free(reverse)
        await self.ask_new(content_free)
        if (prior := self._read_prior(content_free, "risk", risks)) is None:
            return
        shares = {
            index: calibration.subtract_prior(logprobs, prior) for index, logprobs in read.items()
        }
        # Among equals the written one: a sentence that adds nothing to the prior changes nothing.
        best = {
            index: _choose(each, self._written_risk(looks[index])) for index, each in shares.items()
        }
        fixed = {
            index: self.question(index, reverse=reverse, only=risk)
            for index, risk in best.items()
            if risk not in (NONE, self._written_risk(looks[index]))
        }
        await self.ask_new(fixed.values())
        priors = await self._ask_severity_priors(best.values(), reverse=reverse)
        for index, risk in best.items():
            label = self._calibrate_severity(
                fixed.get(index, looks[index]), risk, shares[index][risk], priors.get(risk)
            )
            if label is not None:
                self.calibrated[index, reverse] = label

    async def _ask_severity_priors(
        self, risks: Iterable[str], *, reverse: bool
    ) -> dict[str, dict[str, float] | None]:
        """Return, for each risk, what severity the model gives sentences without content."""
        asked = {risk: self._content_free(reverse, risk) for risk in sorted(set(risks) - {NONE})}
        await self.ask_new(question for questions in asked.values() for question in questions)
        return {
            risk: self._read_prior(questions, "severity", DIGITS)
            for risk, questions in asked.items()
        }

    def _written_risk(self, look: Question) -> str | None:
        label, _ = self.read_label(look)
        return label.risk if label else None

    def _content_free(self, reverse: bool, only: str | None = None) -> tuple[Question, ...]:
        """Return the questions about sentences without content."""
        return build_content_free(
            self.plan.params,
            self.plan.taxonomy,
            examples=self.plan.examples,
            reverse=reverse,
            only=only,
        )

    def _read_prior(
        self, questions: Sequence[Question], key: str, labels: Sequence[str]
    ) -> dict[str, float] | None:
        """
        Return the prior from the replies to these questions; None where no reply has
        log-probabilities.
        """
        read = (self._read_distribution(question, key, labels) for question in questions)
        known = [logprobs for logprobs in read if logprobs is not None]
        return calibration.prior(known) if known else None

    def _read_distribution(
        self, question: Question, key: str, labels: Sequence[str]
    ) -> dict[str, float] | None:
        reply = self.replies[question.key]
        tokens: Sequence[calibration.Token] = reply.logprobs
        answer = find_answer(reply.text)
        if reply.has_thoughts or answer != reply.text.strip():
            tokens = calibration.take_answer(tokens, answer)
        return calibration.distribution(tokens, key, labels)

    def _calibrate_severity(
        self, question: Question, risk: str, p_label: float, prior: Mapping[str, float] | None
    ) -> _CalibratedLabel | None:
        """
        Return the label with its severity, from the answer that was given with this risk.

        None where nothing is known of the severity.
        """
        if risk == NONE:
            return _CalibratedLabel(
                label=Label(risk=NONE, severity=0), p_label=p_label, p_severity=None
            )
        label, _ = self.read_label(question)
        logprobs = self._read_distribution(question, "severity", DIGITS)
        if label is None or logprobs is None or prior is None:
            return None
        shares = calibration.subtract_prior(logprobs, prior)
        severity = _choose(shares, str(label.severity))
        return _CalibratedLabel(
            label=Label(risk=risk, severity=int(severity)),
            p_label=p_label,
            p_severity=shares[severity],
        )

    # Findings -------------------------------------------------------------------------------------

    def collect(self) -> TickerFindings:
        """Return what came of all sentences, and what it cost."""
        findings = tuple(map(self.to_finding, range(len(self.sentences))))
        fresh = [reply for reply in self.replies.values() if not reply.cached]
        return TickerFindings(
            symbol=self.symbol,
            findings=findings,
            flags=tuple(sorted({flag for finding in findings for flag in finding.flags})),
            tokens=sum(reply.tokens for reply in fresh),
            seconds=sum(reply.seconds for reply in fresh),
            attempts=sum(reply.attempts for reply in fresh),
            cached=len(self.replies) - len(fresh),
        )

    def to_finding(self, index: int) -> Finding:
        trail = self.trails[index]
        label, reason = self.first_label(index)
        asked = {flag for one in trail for flag in self.replies[one.key].flags}
        flags = {*self.sentences[index].flags, *asked}
        if label is not None and any(question.purpose == "repair" for question in trail):
            flags.add("repaired")
        calibrated = self.calibrated.get((index, False))
        if label is not None and trail[-1].purpose == "second":
            second = self.calibrated.get((index, True))
            label, found = reconcile(
                label, second.label if second is not None else self.read_label(trail[-1])[0]
            )
            flags.update(found)
        if self.plan.params.labels == "calibrated" and label is not None and calibrated is None:
            has_logprobs = self.replies[trail[0].key].logprobs
            flags.add("not_calibrated" if has_logprobs else "no_logprobs")
        return Finding(
            sentence=self.sentences[index],
            label=label,
            reason=reason,
            flags=tuple(sorted(flags)),
            cached=all(self.replies[question.key].cached for question in trail),
            p_label=None if calibrated is None else calibrated.p_label,
            p_severity=None if calibrated is None else calibrated.p_severity,
        )
