"""
One ticker's questions and answers: what was asked of each sentence, in which order, and what it
came to.

A docket asks in batches, as a flow does: its methods are generators that yield questions and
receive replies.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from urisk_nb.risk import calibration
from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.questions import Label, Question, Reply, ask, ask_content_free, parse, repair
from urisk_nb.risk.scoring import reconcile
from urisk_nb.risk.taxonomy import NONE, SEVERITIES

__all__ = ["Finding", "TickerLabeler"]

SECOND_LOOK = 4  # from this severity on a sentence is asked a second time


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
        Of the sentence (``hidden_text``, ``injection_suspect``) and of its answers (``repaired``,
        ``unstable``, ``second_look_failed``).
    cached
        Every answer about it was known before.
    p_label, p_severity
        With calibrated labels: the corrected probability of the risk that was chosen, and of the
        severity, given that risk; of the first look. In the short form nothing is corrected. None
        where the server told none, or where the label is that of a repair.
    """

    sentence: Sentence
    label: Label | None
    p_label: float | None = None
    p_severity: float | None = None
    reason: str | None = None
    flags: tuple[str, ...] = ()
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _CalibratedLabel:
    """A label by corrected probabilities, and these."""

    label: Label
    p_label: float
    p_severity: float | None


Batch = Generator[tuple[Question, ...], Sequence[Reply], None]
DIGITS = tuple(str(severity) for severity in SEVERITIES)


@dataclass(slots=True)
class TickerLabeler:
    """One ticker's open questions: what was asked of each sentence and what it came to."""

    plan: Plan
    symbol: str
    sentences: tuple[Sentence, ...]
    replies: dict[str, Reply] = field(default_factory=dict)  # by key: the same bytes are asked once
    # For each sentence what was asked, in order
    trails: list[list[Question]] = field(default_factory=list)
    # By sentence and order of the examples
    calibrated: dict[tuple[int, bool], _CalibratedLabel] = field(default_factory=dict)

    def question(self, index: int, *, reverse: bool = False, only: str | None = None) -> Question:
        plan = self.plan
        return ask(
            self.sentences[index],
            plan.params,
            plan.taxonomy,
            ticker=self.symbol,
            examples=plan.examples,
            form=plan.form,
            reverse=reverse,
            only=only,
        )

    # Calibrated labels ----------------------------------------------------------------------------

    def calibrate(self, looks: Mapping[int, Question], *, reverse: bool = False) -> Batch:
        """
        Choose the labels of these sentences, whose questions have been answered, by probability
        less what is said to nothing.

        Three batches at most: what the model says to nothing; the severity for the chosen label,
        where another one was written; and what severity it says to nothing, given each label that
        was chosen. A sentence of which one of them says nothing is not weighed.
        """
        read = {
            index: logprobs
            for index, question in looks.items()
            if (logprobs := self._read_logprobs(question)) is not None
        }
        if not read:
            return
        nothing = self._content_free(reverse)
        yield from self._ask(nothing)
        if (risks := self._prior(nothing, "risk", self.plan.taxonomy.labels)) is None:
            return
        shares = {
            index: calibration.subtract_prior(logprobs, risks) for index, logprobs in read.items()
        }
        best = {index: self._best(looks[index], each) for index, each in shares.items()}
        written = {index: self._written(looks[index]) for index in best}
        fixed = {
            index: self.question(index, reverse=reverse, only=risk)
            for index, risk in best.items()
            if risk not in (NONE, written[index])
        }
        yield from self._ask(fixed.values())
        given = {
            risk: self._content_free(reverse, risk) for risk in sorted(set(best.values()) - {NONE})
        }
        yield from self._ask(question for questions in given.values() for question in questions)
        severities = {
            risk: self._prior(questions, "severity", DIGITS) for risk, questions in given.items()
        }
        for index, risk in best.items():
            calibrated = self._calibrate_severity(
                fixed.get(index, looks[index]), risk, shares[index][risk], severities.get(risk)
            )
            if calibrated is not None:
                self.calibrated[index, reverse] = calibrated

    def _best(self, look: Question, shares: Mapping[str, float]) -> str:
        """
        The most probable; where several are, the written one: a sentence that adds nothing changes
        nothing.
        """
        written = self._written(look)
        return max(shares, key=lambda risk: (round(shares[risk], 9), risk == written))

    def _written(self, look: Question) -> str | None:
        label, _ = self.answered(look)
        return None if label is None else label.risk

    def _content_free(self, reverse: bool, only: str | None = None) -> tuple[Question, ...]:
        """
        What is asked about no sentence at all. Nothing of a judge that was trained on its labels in
        equal numbers: that "N/A" is about no risk is then its judgement, and no habit. Taken off,
        it would never say `none` again (docs/prompts.md has the measurement).
        """
        plan = self.plan
        if plan.form == "short":
            return ()
        return ask_content_free(
            plan.params, plan.taxonomy, examples=plan.examples, reverse=reverse, only=only
        )

    def _prior(
        self, questions: Sequence[Question], key: str, labels: Sequence[str]
    ) -> dict[str, float] | None:
        """
        What these said; where nothing was asked, nothing is taken off; None where they were asked
        and told nothing.
        """
        if not questions:
            return dict.fromkeys(labels, 0.0)
        logprobs = [
            calibration.distribution(self.replies[question.key].logprobs, key, labels)
            for question in questions
        ]
        known = [each for each in logprobs if each is not None]
        return calibration.prior(known) if known else None

    def _read_logprobs(self, look: Question) -> dict[str, float] | None:
        """What was told of the risk, where the answer was a label."""
        if self._written(look) is None:
            return None
        return calibration.distribution(
            self.replies[look.key].logprobs, "risk", self.plan.taxonomy.labels
        )

    def _calibrate_severity(
        self, question: Question, risk: str, p_label: float, before: Mapping[str, float] | None
    ) -> _CalibratedLabel | None:
        """
        The label with its severity, from the answer that was given with it; None where nothing is
        known of the severity.
        """
        if risk == NONE:
            return _CalibratedLabel(
                label=Label(risk=NONE, severity=0), p_label=p_label, p_severity=None
            )
        label, _ = self.answered(question)
        logprobs = calibration.distribution(self.replies[question.key].logprobs, "severity", DIGITS)
        if label is None or logprobs is None or before is None:
            return None
        shares = calibration.subtract_prior(logprobs, before)
        # Of several that are alike the written one, as with the risk.
        severity = max(
            shares, key=lambda digit: (round(shares[digit], 9), int(digit) == label.severity)
        )
        return _CalibratedLabel(
            label=Label(risk=risk, severity=int(severity)),
            p_label=p_label,
            p_severity=shares[severity],
        )

    # Questions and answers ------------------------------------------------------------------------

    def batch(self, questions: Mapping[int, Question]) -> Batch:
        """Ask these of their sentences."""
        for index, question in questions.items():
            self.trails[index].append(question)
        yield from self._ask(questions.values())

    def _ask(self, questions: Iterable[Question]) -> Batch:
        """Ask what is not known yet."""
        new = {question.key: question for question in questions if question.key not in self.replies}
        if new:
            replies = yield tuple(new.values())
            self.replies.update(zip(new, replies, strict=True))

    def answered(self, question: Question) -> tuple[Label | None, str | None]:
        reply = self.replies[question.key]
        return (
            (None, reply.error)
            if reply.error is not None
            else parse(reply.text, reply.done_reason, self.plan.taxonomy)
        )

    def first(self, index: int) -> tuple[Label | None, str | None]:
        """
        The label that a sentence has before any second look: the weighed one, else that of the
        repair where there was one.
        """
        if (calibrated := self.calibrated.get((index, False))) is not None:
            return calibrated.label, None
        return self.answered(
            [question for question in self.trails[index] if question.purpose != "second"][-1]
        )

    def repairs(self) -> dict[int, Question]:
        open_ = {}
        for index, (question, *_) in enumerate(self.trails):
            reply = self.replies[question.key]
            if reply.error is None and self.answered(question)[0] is None:
                open_[index] = repair(question, reply.text, self.plan.taxonomy)
        return open_

    def second_looks(self) -> dict[int, Question]:
        """
        A severe label is asked for again with the examples in reverse order: what depends on their
        order is no judgement.
        """
        if self.plan.form == "short":
            return {}  # there are no examples, and the same question has the same answer
        open_ = {}
        for index, trail in enumerate(self.trails):
            label, _ = self.first(index)
            if (
                label is not None
                and label.risk != NONE
                and label.severity >= SECOND_LOOK
                and trail[-1].purpose != "second"
            ):
                open_[index] = self.question(index, reverse=True)
        return open_

    def looks(self, purpose: str) -> dict[int, Question]:
        """The question of this purpose that was asked of each sentence, where one was."""
        return {
            index: question
            for index, trail in enumerate(self.trails)
            for question in trail
            if question.purpose == purpose
        }

    def finding(self, index: int) -> Finding:
        trail = self.trails[index]
        label, reason = self.first(index)
        flags = set(self.sentences[index].flags)
        if label is not None and any(question.purpose == "repair" for question in trail):
            flags.add("repaired")
        calibrated = self.calibrated.get((index, False))
        if label is not None and trail[-1].purpose == "second":
            second = self.calibrated.get((index, True))
            label, found = reconcile(
                label, second.label if second is not None else self.answered(trail[-1])[0]
            )
            flags.update(found)
        if self.plan.params.labels == "calibrated" and label is not None and calibrated is None:
            flags.add(
                "no_logprobs" if not self.replies[trail[0].key].logprobs else "not_calibrated"
            )
        return Finding(
            sentence=self.sentences[index],
            label=label,
            reason=reason,
            flags=tuple(sorted(flags)),
            cached=all(self.replies[question.key].cached for question in trail),
            p_label=None if calibrated is None else calibrated.p_label,
            p_severity=None if calibrated is None else calibrated.p_severity,
        )
