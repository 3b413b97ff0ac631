"""
One run: prepare everything, then one flow of questions per ticker.

A flow is a generator: it yields a batch of questions and receives their replies in the same order,
until it returns the ticker's judgement. Who asks (a live server, recorded replies, a test's list)
is the driver's matter, so the live run and the replay are one code. ``table.assemble`` makes the
table of the plan and the judgements.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from urisk_nb.risk.docket import Finding, TickerLabeler
from urisk_nb.risk.plan import EvidenceSelection, Plan, prepare
from urisk_nb.risk.questions import Question, Reply

__all__ = ["EvidenceSelection", "Finding", "Flow", "Plan", "TickerFindings", "judge", "prepare"]


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


Flow = Generator[tuple[Question, ...], Sequence[Reply], TickerFindings]


def judge(plan: Plan, symbol: str) -> Flow:
    """
    The flow of one ticker: first looks; then repairs and second looks in one batch; then the second
    looks of repaired answers, if any. With calibrated labels the looks are weighed as soon as they
    are there, which may ask more.

    Yields
    ------
    tuple of Question
        A batch whose questions may be asked at once; each key once a ticker.

    Returns
    -------
    TickerFindings
        A reply with ``error`` leaves its sentence unjudged with that reason and is not repaired:
        the sender has tried. A second look without a valid answer leaves the first standing,
        flagged.
    """
    reading = plan.selections.get(symbol)
    chosen = reading.chosen if reading and plan.params.llm else ()
    docket = TickerLabeler(plan, symbol, chosen, trails=[[] for _ in chosen])
    calibrated = plan.params.labels == "calibrated"
    yield from docket.batch({index: docket.question(index) for index in range(len(chosen))})
    if calibrated:
        yield from docket.calibrate(docket.looks("judge"))
    yield from docket.batch(docket.repairs() | docket.second_looks())
    yield from docket.batch(docket.second_looks())
    if calibrated:
        yield from docket.calibrate(docket.looks("second"), reverse=True)
    findings = tuple(docket.finding(index) for index in range(len(chosen)))
    fresh = [reply for reply in docket.replies.values() if not reply.cached]
    return TickerFindings(
        symbol=symbol,
        findings=findings,
        flags=tuple(sorted({flag for finding in findings for flag in finding.flags})),
        tokens=sum(reply.tokens for reply in fresh),
        seconds=sum(reply.seconds for reply in fresh),
        attempts=sum(reply.attempts for reply in fresh),
        cached=len(docket.replies) - len(fresh),
    )
