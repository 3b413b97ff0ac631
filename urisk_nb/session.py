"""A run: where the readers, the risk method, the model server and the table meet.

It knows the date and the run's id. It asks each distinct question once, the first tickers first,
with as many calls in flight as the server takes. What has been labeled stays with the run, so an
interrupt or a lost server costs only the calls in flight. It waits for a server that is away, and
goes on without a sentence that fails (`llm/run_calls.py`). It knows nothing of notebooks.
Over 400 lines: the run, its workers and the two ways in are one story, and what `assess` takes is
said in full.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from urisk_nb import event_loop, process_state
from urisk_nb.arguments import refuse_unknown, require
from urisk_nb.errors import (
    InputError,
    JournalUnusable,
    ModelUnsuitable,
    NotInitialized,
    ServerBusy,
    UriskError,
    raise_ungrouped,
    ungroup,
)
from urisk_nb.journal.place import find_path
from urisk_nb.llm.run_calls import MAX_FAILED_IN_ROW, CallFailed, Outage, RunCalls
from urisk_nb.readers.holdings import parse_tickers, unite_spellings
from urisk_nb.readers.news import read_evidence
from urisk_nb.readers.prices import read_benchmark, read_prices
from urisk_nb.reading.evidence_readers import EvidenceReaders
from urisk_nb.reading.packed_cache import find_cache
from urisk_nb.reading.selection_cache import remember
from urisk_nb.recording.inputs import RunInputs
from urisk_nb.recording.judges import encode_judge
from urisk_nb.recording.overrides import keep_override, load_overrides, name_user
from urisk_nb.recording.recorder import RunRecorder, describe_fault, record_unasked
from urisk_nb.render.table_content import WHOLE_RUN
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.answer_text import PROMPT_CUT
from urisk_nb.risk.calibration import Token
from urisk_nb.risk.corrections import Correction, build_override
from urisk_nb.risk.inputs import (
    Evidence,
    Holding,
    Prices,
    describe_repeats,
    describe_unlisted,
    describe_weights,
)
from urisk_nb.risk.judges import describe_kappas, unite_judges
from urisk_nb.risk.labeling import TickerFindings, label_ticker
from urisk_nb.risk.overrides import Override
from urisk_nb.risk.params import RiskParams, read_parallel
from urisk_nb.risk.plan import OnRead, Plan
from urisk_nb.risk.questions import Question, Reply, choose_examples, parse
from urisk_nb.risk.selection import SelectionMapper
from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy
from urisk_nb.risk.values import describe_type
from urisk_nb.table.risk_table import RiskTable, assemble

if TYPE_CHECKING:
    from distributed import Client

    from urisk_nb.llm.labels import Judge
    from urisk_nb.llm.manager import Answer, LLMManager
    from urisk_nb.llm.model_session import ModelSession
    from urisk_nb.risk.families import Family

__all__ = [
    "Progress",
    "Run",
    "as_cached",
    "assess",
    "assess_async",
    "find_lost_session",
    "open_run",
    "to_reply",
]

T = TypeVar("T")
OnProgress = Callable[["Progress"], object]
PROGRESS_S = 0.4  # between two calls of `on_progress`: it may print a line each time
# What people look for in `assess` and what is a parameter of the run.
OF_PARAMS = {one.name: f"params=RiskParams({one.name}=...)" for one in fields(RiskParams)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    How far a run is; a snapshot.

    `questions` grows while a run goes on: a repair or a second look is asked only when the first
    answer calls for it. It falls where several tickers have the same sentence. `outage` is there
    while the server is away. `known` is how many more were answered from the journal. `reading` is
    there before that, while evidence is read.
    """

    rows: int = 0
    rows_total: int = 0
    asked: int = 0
    questions: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    outage: Outage | None = None
    known: int = 0
    reading: str = ""

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the pace so far; None before the first answer."""
        left = self.questions - self.asked
        return self.elapsed_s / self.asked * left if self.asked else None

    def __str__(self) -> str:
        if self.reading:
            return self.reading
        if not self.rows_total:
            return "about to begin" if self.outage is None else str(self.outage)
        tokens = f", {format_count(self.tokens, 'token')}" if self.tokens else ""
        known = f", {format_count(self.known, 'answer')} from the journal" if self.known else ""
        is_done = self.asked == self.questions
        left = "" if self.eta_s is None or is_done else f", about {self.eta_s:.0f} s left"
        if self.outage is not None:
            left = f"; {self.outage}"
        return (
            f"{self.rows} of {self.rows_total} rows, {self.asked} of {self.questions} questions"
            f"{known}{tokens}{left}"
        )


def _list_versions() -> dict[str, str]:
    return {name: version(name) for name in ("urisk-nb", "pandas", "bm25s")}


@dataclass(slots=True)
class Run:
    """
    One run, checked and with its metrics computed.

    `label` asks the model; `table` shows what there is at any time.
    """

    plan: Plan
    run_id: str
    created_at: datetime
    ticker_findings: dict[str, TickerFindings] = field(default_factory=dict)
    progress: Progress = Progress()
    served_by: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    input_notes: tuple[str, ...] = ()
    judges: tuple[Judge, ...] = ()
    opinions: dict[str, dict[str, TickerFindings]] = field(default_factory=dict)
    answered: dict[str, dict[str, Reply]] = field(default_factory=dict)
    failure: str = ""
    incomplete: dict[str, set[str]] = field(default_factory=dict)
    inputs: RunInputs | None = None
    refresh: bool = False
    libraries: dict[str, str] = field(default_factory=_list_versions)
    recorder: RunRecorder | None = None
    run_hash: str | None = None
    journal_note: str = ""
    overrides: tuple[Override, ...] = ()
    correction_note: str = ""

    def is_done(self, symbol: str) -> bool:
        """Return whether every judge has labeled a ticker."""
        by_judge = (self.findings_of(judge) for judge in self.judges)
        return bool(self.judges) and all(symbol in own for own in by_judge)

    def is_labeled(self, symbol: str, judge: Judge) -> bool:
        """Return whether a judge has labeled every sentence of a ticker."""
        is_there = symbol in self.findings_of(judge)
        return is_there and symbol not in self.incomplete.get(judge.model, ())

    def findings_of(self, judge: Judge) -> dict[str, TickerFindings]:
        """Return what a judge has found so far, by symbol; that of the first one counts."""
        if judge is self.judges[0]:
            return self.ticker_findings
        return self.opinions.setdefault(judge.model, {})

    async def label(self, manager: ModelSession, *, parallel: int | None = None) -> None:
        """
        Ask the judges about every sentence; blocks until all are labeled.

        All judges are ready before the first sentence. Then one after the other is asked about all
        of them, so that a server with room for one model loads each once. A cancel, or an error,
        leaves the tickers that were finished in `ticker_findings` (of the first judge, whose labels
        count) and `opinions` (by further judge). Called again, it asks about the others; what has
        its answer (`answered`, by judge and key) is not asked again.

        A server that is busy or away is waited for (URISK_OUTAGE_WAIT). A sentence whose call
        fails is asked once more, and then is left without a label.

        Raises
        ------
        InputError
            urisk-judge would be asked for categories that it was not trained on.
        ServerError, ModelError
            The run cannot go on: a model is not there, the server cannot be started again, five
            sentences in a row got no label, or no sentence at all got an answer.
        """
        self.failure, status = "", "interrupted"
        try:
            await self._open_recorder(manager)
            await self._label(manager, parallel)
            status = "done"
        except UriskError as exc:
            self.failure, status = exc.message, "failed"
            raise
        finally:
            # A manager of the caller's own may say nothing of it
            self.notes = (*self.notes, *getattr(manager, "list_left_out", tuple)())
            if (recorder := self.recorder) is not None:
                await recorder.end(self._describe_end(status))
                self.run_hash, self.journal_note = recorder.run_hash, describe_fault(recorder.fault)

    async def _open_recorder(self, manager: ModelSession) -> None:
        """Begin to record this run, where there is a journal."""
        if self.inputs is None or (path := find_path()) is None:
            return
        if self.recorder is None:
            self.recorder = RunRecorder(path, self.run_id, refresh=self.refresh)
        await self.recorder.begin(
            created_at=self._created_at_text,
            libraries=self.libraries,
            inputs=self.inputs,
            plan=self.plan,
            num_ctx=manager.num_ctx,
        )

    @property
    def _created_at_text(self) -> str:
        return self.created_at.isoformat(timespec="seconds")

    def _describe_end(self, status: str) -> dict[str, Any]:
        """Return what the end of a run records: all of the table that is not computed again."""
        recorder = self.recorder
        if recorder is not None and recorder.known:
            asked = f"{recorder.asked} asked" if recorder.asked else "none asked"
            known = f"{format_count(recorder.known, 'answer')} from the journal, {asked}."
            self.notes = (*(one for one in self.notes if "from the journal" not in one), known)
        return {
            **self._describe_judges(),
            "status": status,
            "failure": self.failure,
            "notes": list(self.notes),
            "known": recorder.known if recorder is not None else 0,
            "asked": recorder.asked if recorder is not None else 0,
        }

    def _describe_judges(self) -> dict[str, Any]:
        """Return what is known of a run when its first question is asked."""
        return {
            "served_by": self.served_by,
            "form": self.plan.form,
            "is_judge": self.plan.is_judge,
            "flags": list(self.flags),
            "input_notes": list(self.input_notes),
            "judges": [encode_judge(judge) for judge in self.judges],
        }

    def _record_unasked(self) -> None:
        """Record a run that asks no model, once; a fault is a note under the table."""
        if self.inputs is None or self.plan.asked or self.run_hash or self.journal_note:
            return
        if (path := find_path()) is None:
            return
        try:
            self.run_hash = record_unasked(
                path,
                run_id=self.run_id,
                created_at=self._created_at_text,
                libraries=self.libraries,
                inputs=self.inputs,
                plan=self.plan,
                end=self._describe_end("done"),
            )
        except JournalUnusable as exc:
            self.journal_note = describe_fault(exc)

    async def _label(self, manager: ModelSession, parallel: int | None) -> None:
        from urisk_nb.llm.manager import is_demo, is_judge
        from urisk_nb.llm.retrying_client import single_attempts

        models = self.plan.params.judge or (
            manager.judge if self.plan.taxonomy.hash == DEFAULT.hash else manager.model,
        )
        _check_judges(models, self.plan.taxonomy, is_named=bool(self.plan.params.judge))
        calls = self.open_calls(manager, models[0])
        if beside := [model for model in models if model != manager.model]:
            await _prepare(calls, functools.partial(manager.ensure_model, *beside))
        self.served_by = _record_server(manager, models[0])
        self.judges = await _prepare(calls, functools.partial(manager.find_judges, *models))
        form, is_own = self.judges[0].form, is_judge(models[0])
        self.plan = replace(self.plan, form=form, is_judge=is_own)
        holds = {"demo_model": is_demo(models[0]), "small_judge": is_own}
        self.flags = tuple(flag for flag, is_so in holds.items() if is_so)
        if self.recorder is not None:
            self.recorder.add_judges(self._describe_judges())
        with manager.allow_parallel(parallel), single_attempts():
            self.notes = _describe_parallel(manager, parallel)
            await _Workers(self, manager, parallel).label_all()

    def open_calls(self, manager: ModelSession, model: str) -> RunCalls:
        """Return the way of the calls to one model; outages are shown by the progress."""
        return RunCalls(
            lambda: manager.settings.outage_wait_s,
            lambda: manager.is_up(model),
            lambda outage: setattr(self, "progress", replace(self.progress, outage=outage)),
        )

    def table(self) -> RiskTable:
        """
        Return the table of what has been computed and labeled so far.

        A ticker that the first judge has not finished has the status `not_run`.
        """
        table = assemble(
            self.plan,
            unite_judges(self.ticker_findings, self.opinions),
            run_id=self.run_id,
            model=self.served_by.get("model"),
            flags=self.flags,
            judges=[judge.record for judge in self.judges],
            overrides=self.overrides,
            correct=self._freeze().correct if self.ticker_findings else None,
        )
        self._record_unasked()
        meta = table.report.meta
        ended = [f"The run ended early: {self.failure}"] if self.failure else []
        advice = [judge.advice for judge in self.judges if judge.advice]
        kappas = describe_kappas(meta["kappa"])
        last = filter(None, (self.correction_note, self.journal_note))
        if notes := [*ended, *self.input_notes, *self.notes, *advice, *kappas, *last]:
            meta["messages"] = {**meta["messages"], WHOLE_RUN: notes}
        meta.update(
            created_at=self._created_at_text,
            served_by=self.served_by,
            failure=self.failure or None,
            libraries=self.libraries,
            run_hash=self.run_hash,
        )
        return table

    def _freeze(self) -> Run:
        """
        Return the run as it is now, without what a table is not made of.

        A table keeps it, so what was given is not kept alive twice.
        """
        return replace(
            self,
            ticker_findings=dict(self.ticker_findings),
            opinions={model: dict(own) for model, own in self.opinions.items()},
            answered={},
            incomplete={},
            inputs=None,
            recorder=None,
        )

    def correct(self, correction: Correction) -> RiskTable:
        """
        Record a correction, and return the table of this run in which all count that are in force.

        Raises
        ------
        InputError
            It does not say which sentence is meant, which label it has, or why.
        JournalUnusable
            The journal cannot be written; nothing has changed.
        """
        made = build_override(
            list(self.ticker_findings.values()),
            self.plan.taxonomy,
            correction,
            who=name_user(),
            made_at=datetime.now(UTC).replace(microsecond=0),
            model=self.served_by.get("model"),
        )
        path = find_path()
        in_force = keep_override(path, made, self.overrides, self.plan)
        note = _describe_corrections(self.run_id, is_kept=path is not None)
        return replace(self, overrides=in_force, correction_note=note).table()


def _describe_corrections(run_id: str, *, is_kept: bool) -> str:
    """Say that a table is no longer that of its run."""
    if not is_kept:
        return "The journal is off (URISK_JOURNAL), so your correction counts in this table only."
    return f"Labels were corrected after this run; %urisk_replay {run_id} shows it as it was."


class _Workers:
    """
    As many workers as calls may be in flight, and the questions that wait for one of them; of one
    judge at a time.
    """

    def __init__(self, run: Run, manager: ModelSession, given: int | None) -> None:
        self.run, self.manager, self.given = run, manager, given
        self.judge = run.judges[0]
        # By the rank of the ticker, then by age: the first tickers are finished first.
        self.queue: asyncio.PriorityQueue[tuple[int, int, Question, asyncio.Future[Reply]]] = (
            asyncio.PriorityQueue()
        )
        self.has_room = asyncio.Event()  # fewer questions wait than there are workers
        self.replies: dict[str, asyncio.Future[Reply]] = {}  # by key: each question is asked once
        self.numbers = itertools.count()
        self.started_s = time.monotonic()
        self.known_questions = 0
        self.unread = 0  # sentences of tickers that have not begun
        # Of the judge that is asked now
        self.calls = run.open_calls(manager, self.judge.model)
        self.recorder = run.recorder
        self.has_answer = False
        self.failed_in_row = 0
        self.last_error: UriskError | None = None

    @property
    def count(self) -> int:
        """How many workers there are to be; it grows where servers come in the middle of a run."""
        return self.given or self.manager.parallel

    async def label_all(self) -> None:
        """Label the tickers that a judge has not finished yet; the first error ends it."""
        plan, judges = self.run.plan, self.run.judges
        left = {
            judge: [symbol for symbol in plan.asked if not self.run.is_labeled(symbol, judge)]
            for judge in judges
        }
        self.unread = sum(
            len(plan.selections[symbol].chosen) for symbols in left.values() for symbol in symbols
        )
        self.run.progress = Progress(rows_total=len(left[judges[-1]]), questions=self.unread)
        for self.judge, symbols in left.items():
            self.replies = {}  # the same bytes are another question where another one is asked
            self.calls = self.run.open_calls(self.manager, self.judge.model)
            self.has_answer, self.failed_in_row, self.last_error = False, 0, None
            if self.recorder is not None:
                await self.recorder.load(plan, self.judge, symbols)
            await self._label_each(symbols)

    async def _label_each(self, symbols: Sequence[str]) -> None:
        """Label these tickers by one judge."""
        try:
            async with asyncio.TaskGroup() as group:
                workers: list[asyncio.Task[None]] = []
                tickers = []
                for rank, symbol in enumerate(symbols):
                    while len(workers) < self.count:
                        workers.append(group.create_task(self._work()))
                    tickers.append(group.create_task(self._label(rank, symbol)))
                    await asyncio.sleep(0)  # it puts its questions on the queue
                    await self._wait_for_room()
                for ticker in tickers:
                    await ticker
                for worker in workers:
                    worker.cancel()
                if self.last_error is not None and not self.has_answer:
                    raise self.last_error
        except BaseExceptionGroup as several:
            cause = ungroup(several)  # the first is the cause; its siblings were cancelled for it
        else:
            return
        if isinstance(cause, UriskError) and len(self.run.judges) > 1:
            cause.message = f"judge {self.judge.model}: {cause.message}"
            cause.args = (cause.message,)
        # Out here: inside of the handler the group would be behind it, and IPython would send no
        # error message.
        raise cause

    async def _wait_for_room(self) -> None:
        """
        Wait until fewer questions are queued than there are workers.

        So a ticker begins just before its turn, and the first call is not kept waiting by the
        questions of all the others.
        """
        while self.queue.qsize() >= self.count:
            self.has_room.clear()
            await self.has_room.wait()

    async def _label(self, rank: int, symbol: str) -> None:
        plan, judge = replace(self.run.plan, form=self.judge.form), self.judge
        self.unread -= len(plan.selections[symbol].chosen)
        delivered: list[tuple[Question, asyncio.Future[Reply]]] = []

        def ask(question: Question) -> asyncio.Future[Reply]:
            delivered.append((question, self._put(rank, question)))
            return delivered[-1][1]

        found = await label_ticker(plan, symbol, ask)
        self.run.findings_of(judge)[symbol] = found
        if self.recorder is not None:
            number = self.run.judges.index(judge)
            replies = [(question, reply.result()) for question, reply in delivered]
            self.recorder.add_ticker(number, judge, symbol, replies)
        incomplete = self.run.incomplete.setdefault(judge.model, set())
        incomplete.discard(symbol)
        if any(finding.label is None for finding in found.findings):
            incomplete.add(symbol)
        self._count(rows=int(judge is self.run.judges[-1]))

    def _put(self, rank: int, question: Question) -> asyncio.Future[Reply]:
        """Queue a question; returns the reply to come. The same bytes are asked once."""
        if (first := self.replies.get(question.key)) is not None:
            return _share(first)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.replies[question.key] = reply
        known = self._list_answers().get(question.key)
        if known is None and question.purpose == "prior" and not self.run.refresh:
            known = self._priors().get(question.key)
        if known is None and (found := self._look_up(question)) is not None:
            known = self._list_answers()[question.key] = found
            self._count(known=1)
        if known is not None:
            reply.set_result(known)
            return reply
        self.queue.put_nowait((rank, next(self.numbers), question, reply))
        self._count(questions=1)
        return reply

    def _look_up(self, question: Question) -> Reply | None:
        """Return what the journal has of the same request to the same model, or None."""
        found = None if self.recorder is None else self.recorder.find(question, self.judge)
        return None if found is None else as_cached(found)

    async def _work(self) -> None:
        while True:
            _, _, question, waiting = await self.queue.get()
            self.has_room.set()
            reply = await self._ask(question)
            if reply.error is None:
                self._list_answers()[question.key] = reply
            waiting.set_result(reply)
            await self._count_failures(question, reply)
            if question.purpose == "prior" and reply.logprobs:
                self._priors()[question.key] = as_cached(reply)
            self._count(asked=1, tokens=reply.tokens)

    async def _ask(self, question: Question) -> Reply:
        ask = functools.partial(self.manager.ask, question, self.judge.model)
        try:
            answer, failed = await self.calls.call(ask)
        except CallFailed as exc:
            self.last_error = exc.error
            reply = Reply(
                text=getattr(exc.error, "partial", ""),
                done_reason=None,
                error=exc.error.message,
                attempts=exc.attempts,
            )
            timing = None
        else:
            self.has_answer = True
            reply, timing = to_reply(answer), answer.timing
            reply = replace(reply, attempts=reply.attempts + failed)
        if self.recorder is not None:
            self.recorder.add_answer(question, self.judge, reply, timing)
        return reply

    async def _count_failures(self, question: Question, reply: Reply) -> None:
        """End the run where several sentences in a row got no label."""
        is_last = question.purpose == "repair" or self.judge.form == "decision"
        if reply.error is None:
            _, reason = parse(
                reply.text,
                reply.done_reason,
                self.run.plan.taxonomy,
                sentence=question.sentence.text,
                has_thoughts=reply.has_thoughts,
            )
            if reason is None:
                self.failed_in_row = 0
            if reason is None or not is_last:
                return
            self.last_error = ModelUnsuitable(
                f"{self.judge.model} gives no valid label: {reason}.",
                fix="label with another model: --judge MODEL",
            )
        self.failed_in_row += 1
        if self.failed_in_row >= MAX_FAILED_IN_ROW and self.last_error is not None:
            for _ in range(3):  # the ticker of this sentence may be done with it
                await asyncio.sleep(0)
            error = copy.copy(self.last_error)  # others that wait end the run by it, too
            error.message = (
                f"{self.failed_in_row} sentences in a row got no label. The last: {error.message}"
            )
            error.args = (error.message,)
            raise error

    def _list_answers(self) -> dict[str, Reply]:
        """Return what this judge has answered in this run: it is not asked again."""
        return self.run.answered.setdefault(self.judge.model, {})

    def _priors(self) -> dict[str, Reply]:
        """Return what this model says to sentences without content: asked once in this process."""
        known: dict[tuple[Any, ...], dict[str, Reply]] = process_state.setdefault("priors", dict)
        server = tuple(self.run.served_by[name] for name in ("engine", "server", "url"))
        judge = self.judge
        return known.setdefault((judge.model, judge.digest or judge.session, *server), {})

    def _count(
        self,
        *,
        rows: int = 0,
        asked: int = 0,
        questions: int = 0,
        tokens: int = 0,
        known: int = 0,
    ) -> None:
        before = self.run.progress
        self.known_questions += questions
        self.run.progress = replace(
            before,
            rows=before.rows + rows,
            asked=before.asked + asked,
            questions=self.known_questions + self.unread,
            tokens=before.tokens + tokens,
            known=before.known + known,
            elapsed_s=time.monotonic() - self.started_s,
        )


async def _prepare(calls: RunCalls, step: Callable[[], Awaitable[T]]) -> T:
    """Return what a step before the first sentence gives; a server that is away is waited for."""
    try:
        return (await calls.call(step))[0]
    except CallFailed as exc:
        raise exc.error from None


def to_reply(answer: Answer) -> Reply:
    """Return a manager's answer as the labeling reads it."""
    timing = answer.timing
    return Reply(
        text=str(answer),
        done_reason=answer.done_reason,
        tokens=timing.tokens,
        prompt_tokens=timing.prompt_tokens,
        seconds=timing.total_s,
        attempts=timing.attempts,
        # A manager of the caller's own may give plainer answers.
        has_thoughts=bool(getattr(answer, "thinking", "")),
        flags=tuple(code for code in getattr(answer, "faults", ()) if code == PROMPT_CUT),
        logprobs=tuple(
            Token(text=one.text, logprob=one.logprob, top_logprobs=one.top_logprobs)
            for one in answer.logprobs
        ),
    )


def _share(first: asyncio.Future[Reply]) -> asyncio.Future[Reply]:
    """Return a reply that another question pays for."""
    shared = asyncio.get_running_loop().create_future()

    def copy(done: asyncio.Future[Reply]) -> None:
        if not shared.done() and not done.cancelled():
            shared.set_result(as_cached(done.result()))

    first.add_done_callback(copy)
    return shared


def as_cached(reply: Reply) -> Reply:
    """Return the reply as one that costs nothing."""
    return replace(reply, cached=True, tokens=0, prompt_tokens=0, seconds=0.0)


@raise_ungrouped()  # a function of the user's that loads prices may raise a group
def open_run(
    tickers: Any,
    *,
    prices: Any = None,
    evidence: Any = None,
    previous: Any = None,
    query: str | None = None,
    params: RiskParams | Mapping[str, Any] | None = None,
    benchmark: str | pd.Series | None = None,
    stress: Any = None,
    factors: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    taxonomy: Taxonomy | str | PathLike[str] = DEFAULT,
    families: str | PathLike[str] | None = None,
    on_read: OnRead | None = None,
    map_selections: SelectionMapper | None = None,
    refresh: bool = False,
) -> Run:
    """
    Check everything, compute the metrics and return the run; no server is touched.

    Takes what `assess` takes, but for who answers. `on_read` is called before each file of a folder
    and before the evidence of each ticker is read. `map_selections` reads the evidence; default:
    this process, and where there is much, workers on the other cores.

    Raises
    ------
    InputError
        Something given cannot be used; says what was seen and what to do.
    """
    own_taxonomy = _read_taxonomy(taxonomy)
    series = benchmark if isinstance(benchmark, pd.Series) else None
    named = benchmark if series is None else "given"
    names, own_factors = _read_factors(factors)
    settings = _settings(
        params, query=query, benchmark=named, stress=stress, factors=names, families=families
    )
    _check_judges(settings.judge or (), own_taxonomy, is_named=True)
    if prices is None and evidence is None:
        raise InputError(
            "neither prices nor evidence was given.",
            fix="give at least one: prices=..., evidence=... (in a cell: --prices NAME --evidence "
            "NAME)",
        )
    holdings, own_prices = _read_holdings(tickers, prices, settings)
    with EvidenceReaders(on_read) as readers:
        own_evidence, own_previous = _read_evidence(
            evidence, previous, holdings, own_prices, readers
        )
        own_families = _read_families(settings.families, own_taxonomy)
        inputs = RunInputs(
            holdings=tuple(holdings),
            prices=own_prices,
            documents=None if own_evidence is None else own_evidence.documents,
            params=settings,
            previous=None if own_previous is None else own_previous.documents,
            benchmark=None if series is None else read_benchmark(series, returns=settings.returns),
            taxonomy=own_taxonomy,
            examples=choose_examples(own_taxonomy),
            families=None if own_families is None else tuple(own_families),
            factors=None if own_factors is None else _read_own_factors(own_factors, settings),
        )
        documents = (*(inputs.documents or ()), *(inputs.previous or ()))
        plan = inputs.prepare(on_read, map_selections or readers.map_selections(documents))
    corrected, unread = load_overrides(find_path(), plan)
    notes = [*describe_repeats(holdings), describe_weights(plan.holdings)]
    notes += [plan.portfolio.reason if plan.portfolio else None]
    notes.append(unread)
    if own_prices is not None:
        beside = () if own_factors else settings.factors or ()
        unlisted = describe_unlisted(own_prices, holdings, settings.benchmark, *beside)
        notes += [*own_prices.notes, unlisted]
    if own_evidence is not None:
        notes += own_evidence.notes
    if own_previous is not None:
        notes += [f"previous: {note}" for note in own_previous.notes]
    now = datetime.now(UTC)
    return Run(
        plan=plan,
        run_id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
        created_at=now,
        input_notes=tuple(filter(None, notes)),
        inputs=replace(inputs, overrides=corrected),
        refresh=bool(refresh),
        overrides=corrected,
    )


def _read_evidence(
    evidence: Any,
    previous: Any,
    holdings: Sequence[Holding],
    prices: Prices | None,
    readers: EvidenceReaders,
) -> tuple[Evidence | None, Evidence | None]:
    """Return the evidence and that of the year before, as far as they were given."""
    read = functools.partial(
        read_evidence,
        tickers=[holding.symbol for holding in holdings],
        known=() if prices is None else list(prices.close.columns),
        map_files=readers.map_files,
    )
    if previous is not None and evidence is None:
        raise InputError(
            "previous was given without evidence to compare it with.",
            fix="give the documents of this year as evidence=... (in a cell: --evidence NAME)",
        )
    own = None if evidence is None else read(evidence)
    if previous is None:
        return own, None
    try:
        return own, read(previous)
    except InputError as exc:
        exc.message = f"previous: {exc.message.removeprefix('evidence: ')}"
        exc.args = (exc.message,)
        exc.fix = exc.fix.replace("--evidence", "--previous").replace("evidence=", "previous=")
        raise


def _read_holdings(
    tickers: Any, prices: Any, settings: RiskParams
) -> tuple[Sequence[Holding], Prices | None]:
    """
    Return the ticker list and the prices; a column of the prices is a ticker, whatever its name.

    So the list is read again when the columns are known. A callable is given the tickers and must
    wait for them.
    """
    try:
        holdings = parse_tickers(tickers)
    except InputError:
        if prices is None or callable(prices):
            raise
        holdings = ()  # the columns may say more
    if prices is None:
        return unite_spellings(holdings, ()), None
    own = read_prices(
        prices,
        tickers=[holding.symbol for holding in holdings],
        returns=settings.returns,
        price_column=settings.price_column,
    )
    columns = list(map(str, own.close.columns))
    return unite_spellings(parse_tickers(tickers, known=columns), columns), own


def _read_factors(given: Any) -> tuple[Any, list[pd.Series] | None]:
    """Return the names of the factors, and the columns of a DataFrame of the user's own."""
    if isinstance(given, pd.Series):
        given = given.to_frame()
    if not isinstance(given, pd.DataFrame):
        return given, None
    names = [str(label) for label in given.columns]
    columns = [given.iloc[:, place].rename(name) for place, name in enumerate(names)]
    return names, columns


def _read_own_factors(columns: Sequence[pd.Series], settings: RiskParams) -> tuple[Prices, ...]:
    returns = settings.returns or settings.factor_returns
    try:
        return tuple(read_benchmark(one, returns=returns) for one in columns)
    except InputError as exc:
        exc.message = f"factors: {exc.message}"
        exc.args = (exc.message,)
        raise


def _read_taxonomy(given: Taxonomy | str | PathLike[str]) -> Taxonomy:
    """Return the categories that were given, or those of the file."""
    if isinstance(given, str | PathLike):
        from urisk_nb.readers.taxonomy_file import read_taxonomy_file

        return read_taxonomy_file(given)
    fix = "give a Taxonomy or the path of a TOML file, or leave it out: taxonomy='desk.toml'"
    require(isinstance(given, Taxonomy), "taxonomy", given, fix)
    return given


def _read_families(path: str | None, taxonomy: Taxonomy) -> Sequence[Family] | None:
    """Return the families of the package and of the user's file; None where none was given."""
    if path is None:
        return None
    from urisk_nb.readers.family_file import read_family_file

    return read_family_file(path, taxonomy.ids)


def _settings(params: RiskParams | Mapping[str, Any] | None, **beside: Any) -> RiskParams:
    """Return the parameters, with what was given beside them in their place."""
    given = {name: value for name, value in beside.items() if value is not None}
    if isinstance(params, RiskParams):
        return replace(params, **given)
    if params is None or isinstance(params, Mapping):
        return RiskParams.of(**{**(params or {}), **given})
    raise InputError(
        f"params is {describe_type(params)}.",
        fix='params=RiskParams(window="2y"), or a mapping of the same names',
    )


def _check_judges(models: Sequence[str], taxonomy: Taxonomy, *, is_named: bool) -> None:
    """
    Refuse one judge twice, and a taxonomy that urisk-judge was not trained on.

    `is_named`: the user named the judges; else it is the session's model.
    """
    if not models:
        return
    from urisk_nb.llm.messages import is_judge, is_same_model

    for one, other in itertools.combinations(models, 2):
        if is_same_model(one, other):
            same = f"{one!r} twice" if one == other else f"one model twice: {one!r} and {other!r}"
            raise InputError(
                f"judge={','.join(models)!r} names {same}.", fix="name each judge once"
            )
    if taxonomy.hash != DEFAULT.hash and (known := next(filter(is_judge, models), None)):
        raise InputError(
            f"{known!r} was trained on the categories {', '.join(DEFAULT.ids)} only, and your "
            "taxonomy has others.",
            fix="leave out taxonomy= (in a cell: --taxonomy), or "
            + (
                "leave out judge= (--judge): the session's model labels then"
                if is_named
                else "name another model of the server: judge='llama3.1' (--judge llama3.1)"
            ),
        )


@refuse_unknown(OF_PARAMS)
async def assess_async(
    tickers: Any,
    *,
    prices: Any = None,
    evidence: Any = None,
    previous: Any = None,
    query: str | None = None,
    benchmark: str | pd.Series | None = None,
    stress: Any = None,
    factors: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    params: RiskParams | Mapping[str, Any] | None = None,
    taxonomy: Taxonomy | str | PathLike[str] = DEFAULT,
    families: str | PathLike[str] | None = None,
    manager: ModelSession | None = None,
    client: Client | None = None,
    parallel: int | None = None,
    refresh: bool = False,
    on_progress: OnProgress | None = None,
) -> RiskTable:
    """
    Return the risk table; takes what `assess` takes and may be awaited on any loop.

    A cancel stops the calls in flight, on the server too.
    """
    run = _open_checked(**locals())
    if run.plan.asked:
        with _keep_partial(run), _report_progress(run, on_progress) as tick:
            await event_loop.call(_label(run, manager, client, parallel), tick=tick)
    return run.table()


@refuse_unknown(OF_PARAMS)
def assess(
    tickers: Any,
    *,
    prices: Any = None,
    evidence: Any = None,
    previous: Any = None,
    query: str | None = None,
    benchmark: str | pd.Series | None = None,
    stress: Any = None,
    factors: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    params: RiskParams | Mapping[str, Any] | None = None,
    taxonomy: Taxonomy | str | PathLike[str] = DEFAULT,
    families: str | PathLike[str] | None = None,
    manager: ModelSession | None = None,
    client: Client | None = None,
    parallel: int | None = None,
    refresh: bool = False,
    on_progress: OnProgress | None = None,
) -> RiskTable:
    """
    Return the risk table: metrics from your prices, and the model's labels on your evidence.

    Blocks until it is done: without evidence some milliseconds, with evidence as long as the model
    takes. Starts the model server if there is something to label and no session was started. An
    interrupt stops the calls in flight.

    Parameters
    ----------
    tickers
        Text as in a `%%risk` cell, a list of names, or a mapping of name to weight.
    prices
        DataFrame (wide, or long with date, ticker, close), the path of a CSV or Parquet file, or a
        callable that is given the list of tickers and returns a DataFrame.
    evidence
        DataFrame with ticker (`*`: all companies) and text (date, source, id), mapping of ticker to
        texts, list of mappings, the path of a CSV or JSON-lines file or of a folder of text files
        named by ticker, or a callable that is given the list of tickers.
    previous
        The same of the year before, in any of these shapes. Each sentence of the evidence is then
        new, changed or repeated; `table.changes("NVDA")` lists them. Without it the reports of
        several years in one folder are compared.
    query
        Only sentences that bear on it are asked, and the question is narrowed to it.
    benchmark
        Name of a column, `equal`, or a Series of prices.
    stress
        Dated episodes: `"covid=2020-02-19:2020-03-23"`, or a mapping of name to a pair of dates;
        `table.stress()` has the losses.
    factors
        Columns of the prices (`"SPY,TLT"`), or a DataFrame, to regress the returns on;
        `table.factors()` has the betas.
    params
        Every other setting of the run: `RiskParams(window="2y")`, or a mapping of the same names.
    taxonomy
        Categories of risk, with definitions: a `Taxonomy`, or the path of a TOML file of them
        (docs/howto/your-own-model.md).
    families
        TOML file of more families of distress to search long documents for; docs/filings.md.
    manager
        Who answers; default: the manager of this process, started if needed.
    client
        A client of a Dask cluster whose workers query the model servers of their hosts, instead of
        a manager; docs/howto/cluster.md.
    parallel
        Calls in flight, 1 to 256, for this run; default: what the manager allows.
    refresh
        Ask every question again, also one whose answer is in the journal.
    on_progress
        Called with a `Progress` twice a second while evidence is read and labeled, and once when
        all is labeled; `print` shows a line each time. `assess` calls it on your thread,
        `assess_async` on your loop. An exception in it ends the run.

    Returns
    -------
    RiskTable
        A DataFrame, one row a ticker; `table.report` has the labeled sentences and the record of
        the run.

    Raises
    ------
    InputError
        Before any server is touched.
    ServerError, ModelError
        The run could not go on; `partial` on the exception is the table of what was done.
    Exception
        Whatever `on_progress` raises; with `partial` once labeling has begun.
    """
    run = _open_checked(**locals())
    if run.plan.asked:
        with _keep_partial(run), _report_progress(run, on_progress) as tick:
            event_loop.run(_label(run, manager, client, parallel), tick)
    return run.table()


def _open_checked(
    *,
    manager: object,
    client: Client | None,
    parallel: object,
    on_progress: OnProgress | None,
    **given: Any,
) -> Run:
    """Check who answers and who is told, and open the run with the other arguments of `assess`."""
    read_parallel(parallel)
    is_fit = manager is None or (hasattr(manager, "ask") and not isinstance(manager, type))
    fix = "give what `await LLMManager.initialize()` returns, or leave it out"
    require(is_fit, "manager", manager, fix)
    is_told = callable(on_progress) and not inspect.iscoroutinefunction(on_progress)
    fix = "give a function that takes one argument, such as on_progress=print"
    require(on_progress is None or is_told, "on_progress", on_progress, fix)
    check_client(client, manager)
    return open_run(
        **given,
        on_read=None if on_progress is None else _tell_reading(on_progress),
        map_selections=find_reader(client),
    )


def _tell_reading(tell: OnProgress) -> OnRead:
    """Return what is told of the evidence that is read, as progress and not too often."""
    often = _limit_rate(tell)
    return lambda symbol, number, total: often(
        Progress(reading=f"reading the evidence of {symbol} ({number} of {total})")
    )


@contextlib.contextmanager
def _report_progress(run: Run, tell: OnProgress | None) -> Iterator[Callable[[], None] | None]:
    """Give what tells of a run while it goes on; tell once more when it is done."""
    if tell is None:
        yield None
        return
    often = _limit_rate(tell)
    yield lambda: often(run.progress)
    tell(run.progress)


def _limit_rate(tell: OnProgress) -> Callable[[Progress], None]:
    """Return a form of a callback that is passed on every PROGRESS_S, first after that time."""
    told_s = time.monotonic()

    def pass_on(progress: Progress) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= PROGRESS_S:
            tell(progress)
            told_s = time.monotonic()

    return pass_on


def check_client(client: object, manager: object = None) -> None:
    """
    Check that a client, if there is one, is a usable Dask client.

    Raises
    ------
    InputError, PackageMissing
        It is not; nothing has been computed yet.
    """
    if client is None:
        return
    if manager is not None:
        raise InputError(
            "client and manager were both given, but only one can be used.",
            fix="leave one of them out",
        )
    from urisk_nb.scale import checks

    checks.check_client(client)


def find_reader(client: Client | None) -> SelectionMapper | None:
    """Return the mapper that reads evidence on a cluster's workers; None without a client."""
    if client is None:
        return None
    from urisk_nb.scale.reading import map_selections

    return remember(map_selections(client), find_cache())


def label_sync(
    run: Run,
    manager: ModelSession | None = None,
    parallel: int | None = None,
    tick: Callable[[], Any] | None = None,
    *,
    client: Client | None = None,
) -> None:
    """
    Label the run's sentences and block until it is done.

    An error or an interrupt carries the table so far as `partial`.
    """
    with _keep_partial(run):
        event_loop.run(_label(run, manager, client, parallel), tick)


@contextlib.contextmanager
def _keep_partial(run: Run) -> Iterator[None]:
    """Put the table so far on whatever error ends the run, as `partial`."""
    try:
        yield
    except BaseException as exc:
        # Any exception takes one more attribute.
        exc.partial = run.table()  # type: ignore[attr-defined]
        raise


async def _label(
    run: Run, manager: ModelSession | None, client: Client | None, parallel: int | None
) -> None:
    judges = run.plan.params.judge
    if client is None:
        manager = manager or await _default_manager(judges)
        await run.label(manager, parallel=read_parallel(parallel))
        return
    from urisk_nb.scale.cluster import ClusterSession

    cluster = await ClusterSession.open(client, model=judges[0] if judges else None)
    try:
        await run.label(cluster, parallel=read_parallel(parallel))
    finally:
        await cluster.close()


async def _default_manager(judges: Sequence[str] | None) -> LLMManager:
    """Return the manager of this process, started with the run's first judge if there is none."""
    from urisk_nb.llm.manager import LLMManager

    try:
        LLMManager.get_instance()
    except NotInitialized:
        return await LLMManager.initialize(model=judges[0] if judges else None)
    try:
        return await LLMManager.initialize()  # the judges are taken beside its own model
    except UriskError as exc:
        return find_lost_session(exc)


def find_lost_session(error: UriskError) -> LLMManager:
    """
    Return the session whose external server is away for now: a run waits for it, as it does for one
    that goes away in its middle. Raise the error where that is of no use.

    Parameters
    ----------
    error
        Why there is no session with a server that answers.
    """
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.llm.resilience import InRun, retry_rule_for
    from urisk_nb.settings import load

    session = LLMManager.find_instance()
    is_away = retry_rule_for(error).in_run in (InRun.WAIT, InRun.ALONE)
    is_known = session is not None and session.server.is_lost
    # A busy one has been waited for by now, and changed settings want another session
    if not (is_away and is_known) or isinstance(error, ServerBusy):
        raise error
    if session is None or load(**session.overrides) != session.settings:
        raise error
    return session


def _describe_parallel(manager: ModelSession, parallel: int | None) -> tuple[str, ...]:
    """Return what the user should know of the calls in flight, as sentences."""
    if parallel is None or not manager.is_managed or parallel <= manager.slots:
        return ()
    at_once = f"{manager.slots} at once" if manager.slots > 1 else "one call at a time"
    note = (
        f"{parallel} calls are in flight, as --parallel asks. The server answers {at_once}, and "
        f"the others wait there; for more: %urisk_stop, then %urisk_start --parallel {parallel}."
    )
    return (note,)


def _record_server(manager: ModelSession, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "engine": str(manager.engine),
        "server": manager.version,
        "url": manager.url,
        "num_ctx": manager.num_ctx,
    }
