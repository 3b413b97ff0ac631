"""One run: where the model server and the risk method meet.

Knows the date and the run's id, and drives the risk core's flows over the live model: each distinct
question once, the first tickers first, so many at a time as the server has slots. What has been
judged stays with the run, so that an interrupt or a lost server costs only what was under way. Does
not know about notebooks. Over 400 lines: the run, its workers and the two ways in are one story,
and what `assess` takes is said in full.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd

from urisk_nb import event_loop, process_state
from urisk_nb.arguments import refuse_unknown
from urisk_nb.errors import (
    AnswerIncomplete,
    ContextExceeded,
    InputError,
    NotInitialized,
    raise_ungrouped,
    ungroup,
)
from urisk_nb.readers import files
from urisk_nb.risk import inputs, pipeline
from urisk_nb.risk.calibration import Token
from urisk_nb.risk.questions import Question, Reply
from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy
from urisk_nb.table.risk_table import RiskTable, assemble

if TYPE_CHECKING:
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.risk.inputs import RiskParams

__all__ = ["Progress", "Run", "assess", "assess_async", "open_run"]

# One sentence's failure: it stays unjudged, with the reason, and the run goes on. Anything else
# ends the run.
SENTENCE_ERRORS = (AnswerIncomplete, ContextExceeded)
# What people look for in `assess` and what is a parameter of the run.
OF_PARAMS = {one.name: f"params=RiskParams({one.name}=...)" for one in fields(inputs.RiskParams)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    How far a run is; a snapshot.

    `questions` grows while a run goes on: a repair or a second look is asked only when the first
    answer calls for it.
    """

    rows: int = 0
    rows_total: int = 0
    asked: int = 0
    questions: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the pace so far; None before the first answer."""
        if not self.asked:
            return None
        return self.elapsed_s / self.asked * (self.questions - self.asked)


@dataclass(slots=True)
class Run:
    """
    One run, checked and with its metrics computed; `judge` asks the model, `table` shows what there
    is at any time.
    """

    plan: pipeline.Plan
    run_id: str
    created_at: datetime
    ticker_findings: dict[str, pipeline.TickerFindings] = field(default_factory=dict)
    progress: Progress = Progress()
    served_by: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def needs_model(self) -> bool:
        """Whether there is a sentence to judge."""
        return bool(self.plan.asked)

    async def label(self, manager: LLMManager, *, parallel: int | None = None) -> None:
        """
        Ask the model about every sentence; blocks until all are judged.

        A cancel, or an error, leaves in `judgements` the tickers that were finished.

        Raises
        ------
        ServerError, ModelError
            The run cannot go on: the server is lost after all retries, the model is not there.
        """
        from urisk_nb.llm.manager import is_demo, is_judge

        model = self.plan.params.model or (
            manager.judge if self.plan.taxonomy.hash == DEFAULT.hash else manager.model
        )
        if model != manager.model:
            await manager.ensure_model(model)
        self.served_by = _provenance(manager, model)
        self.plan = replace(self.plan, form="short" if is_judge(model) else "examples")
        said_of = {
            "demo_model": is_demo(model),
            "small_judge": is_judge(model),
            "simulated": manager.is_simulated,
        }
        self.flags = tuple(flag for flag, holds in said_of.items() if holds)
        symbols = [symbol for symbol in self.plan.asked if symbol not in self.ticker_findings]
        self.progress = Progress(rows_total=len(symbols))
        with manager.allow_parallel(parallel):
            self.notes = _notes(manager, parallel)
            await _Desk(manager, parallel or manager.parallel, self).work(symbols)

    def table(self) -> RiskTable:
        """
        The table of what has been computed and judged so far; a ticker that was not finished is
        `not_run`.
        """
        model = self.served_by.get("model")
        table = assemble(
            self.plan, self.ticker_findings, run_id=self.run_id, model=model, flags=self.flags
        )
        table.report.meta.update(
            created_at=self.created_at.isoformat(timespec="seconds"),
            served_by=self.served_by,
            notes=list(self.notes),
            libraries={
                name: version(name) for name in ("urisk-nb", "pandas", "sentencex", "bm25s")
            },
        )
        return table


class _Desk:
    """
    Answers the flows' questions: a queue ordered by ticker, and as many workers as calls may be in
    flight.
    """

    def __init__(self, manager: LLMManager, workers: int, run: Run) -> None:
        self.manager = manager
        self.workers = workers
        self.run = run
        self.began_s = time.monotonic()
        self.queue: asyncio.PriorityQueue[tuple[int, int, Question, asyncio.Future[Reply]]] = (
            asyncio.PriorityQueue()
        )
        self.replies: dict[str, asyncio.Future[Reply]] = {}
        self.number = itertools.count()

    async def work(self, symbols: Sequence[str]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(self._answer()) for _ in range(self.workers)]
                flows = [
                    group.create_task(self._flow(rank, symbol))
                    for rank, symbol in enumerate(symbols)
                ]
                await asyncio.wait(flows)
                for worker in workers:
                    worker.cancel()
        except BaseExceptionGroup as several:
            cause = ungroup(several)  # the first is the cause; its siblings were cancelled for it
        else:
            return
        # Out here: inside of the handler the group would be behind it, and IPython would send no
        # error message
        raise cause

    async def _flow(self, rank: int, symbol: str) -> None:
        """
        One ticker: put each batch of its questions on the queue, hand the replies back, keep its
        judgement.
        """
        flow = pipeline.judge(self.run.plan, symbol)
        try:
            batch = next(flow)
            while True:
                replies = [
                    await waiting for waiting in [self._put(rank, question) for question in batch]
                ]
                batch = flow.send(replies)
        except StopIteration as done:
            self.run.ticker_findings[symbol] = done.value
            self._count(rows=1)
        finally:
            flow.close()

    def _put(self, rank: int, question: Question) -> asyncio.Future[Reply]:
        """The reply to come; the same bytes are asked once, whoever asks."""
        if question.key not in self.replies:
            waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self.replies[question.key] = waiting
            self.queue.put_nowait((rank, next(self.number), question, waiting))
            self._count(questions=1)
            return waiting
        return self._shared(question)

    def _shared(self, question: Question) -> asyncio.Future[Reply]:
        """
        A reply that another question pays for: it counts as cached, with no tokens of its own.
        """
        first, mine = self.replies[question.key], asyncio.get_running_loop().create_future()

        def copy(done: asyncio.Future[Reply]) -> None:
            if not mine.done() and not done.cancelled():
                mine.set_result(
                    replace(done.result(), cached=True, tokens=0, prompt_tokens=0, seconds=0.0)
                )

        first.add_done_callback(copy)
        return mine

    async def _answer(self) -> None:
        while True:
            _, _, question, waiting = await self.queue.get()
            reply = await self._ask(question)
            waiting.set_result(reply)
            self._count(asked=1, tokens=reply.tokens)

    async def _ask(self, question: Question) -> Reply:
        """
        What a model says to sentences without content is asked once in this process, whatever runs.
        """
        if question.purpose != "prior":
            return await self._asked(question)
        known: dict[tuple[Any, ...], Reply] = process_state.setdefault("priors", dict)
        who = (
            *(self.run.served_by[name] for name in ("model", "engine", "server", "url")),
            question.key,
        )
        if who not in known:
            reply = await self._asked(question)
            if not reply.logprobs:
                return reply
            known[who] = replace(reply, cached=True, tokens=0, prompt_tokens=0, seconds=0.0)
            return reply
        return known[who]

    async def _asked(self, question: Question) -> Reply:
        try:
            answer = await self.manager.ask(question, self.run.served_by["model"])
        except SENTENCE_ERRORS as exc:
            return Reply(text=getattr(exc, "partial", ""), done_reason=None, error=exc.message)
        timing = answer.timing
        return Reply(
            text=str(answer),
            done_reason=answer.done_reason,
            tokens=timing.tokens,
            prompt_tokens=timing.prompt_tokens,
            seconds=timing.total_s,
            attempts=timing.attempts,
            logprobs=tuple(
                Token(text=one.text, logprob=one.logprob, top_logprobs=one.top_logprobs)
                for one in answer.logprobs
            ),
        )

    def _count(self, *, rows: int = 0, asked: int = 0, questions: int = 0, tokens: int = 0) -> None:
        before = self.run.progress
        self.run.progress = replace(
            before,
            rows=before.rows + rows,
            asked=before.asked + asked,
            questions=before.questions + questions,
            tokens=before.tokens + tokens,
            elapsed_s=time.monotonic() - self.began_s,
        )


@raise_ungrouped()  # a function of the user's that loads prices may raise a group
def open_run(
    tickers: Any,
    *,
    prices: Any = None,
    evidence: Any = None,
    query: str | None = None,
    params: RiskParams | Mapping[str, Any] | None = None,
    benchmark: str | pd.Series | None = None,
    taxonomy: Taxonomy = DEFAULT,
) -> Run:
    """
    A run that has been checked and has its metrics computed; no server is touched.

    Takes what `assess` takes, but for who answers.

    Raises
    ------
    InputError
        Something given cannot be used; says what was seen and what to do.
    """
    series = benchmark if isinstance(benchmark, pd.Series) else None
    settings = _settings(params, query=query, benchmark=benchmark if series is None else "given")
    _check_judge(settings.model, taxonomy)
    holdings = inputs.parse_tickers(tickers)
    if prices is None and evidence is None:
        raise InputError(
            "neither prices nor evidence was given.",
            fix="give at least one: prices=..., evidence=... (in a cell: --prices NAME --evidence "
            "NAME)",
        )
    names = [holding.symbol for holding in holdings]
    frame = (
        None
        if prices is None
        else inputs.read_prices(files.prices(prices, names), returns=settings.returns)
    )
    documents = None if evidence is None else inputs.read_evidence(files.evidence(evidence, names))
    plan = pipeline.prepare(
        holdings, frame, documents, settings, benchmark=series, taxonomy=taxonomy
    )
    now = datetime.now(UTC)
    return Run(plan=plan, run_id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", created_at=now)


def _settings(params: RiskParams | Mapping[str, Any] | None, **beside: Any) -> RiskParams:
    """The parameters, with what was given beside them in their place."""
    given = {name: value for name, value in beside.items() if value is not None}
    if isinstance(params, inputs.RiskParams):
        return replace(params, **given)
    if params is None or isinstance(params, Mapping):
        return inputs.RiskParams.of(**{**(params or {}), **given})
    raise InputError(
        f"params is {inputs.kind(params)}.",
        fix='params=RiskParams(window="2y"), or a mapping of the same names',
    )


def _check_judge(model: str | None, taxonomy: Taxonomy) -> None:
    """Refuse a taxonomy that the judge has not learnt."""
    if model is None or taxonomy.hash == DEFAULT.hash:
        return
    from urisk_nb.llm.manager import is_judge

    if is_judge(model):
        raise InputError(
            f"{model!r} has learnt the categories {', '.join(DEFAULT.ids)} with their "
            "definitions, and no others.",
            fix="leave out taxonomy=, or judge with a chat model, such as model='llama3.1'",
        )


@refuse_unknown(OF_PARAMS)
async def assess_async(
    tickers: Any,
    *,
    prices: Any = None,
    evidence: Any = None,
    query: str | None = None,
    benchmark: str | pd.Series | None = None,
    params: RiskParams | Mapping[str, Any] | None = None,
    taxonomy: Taxonomy = DEFAULT,
    manager: LLMManager | None = None,
    parallel: int | None = None,
) -> RiskTable:
    """
    The risk table, awaited; takes what `assess` takes and may be awaited on any loop.

    A cancel aborts the calls under way, on the server too.
    """
    parallel = inputs.parallel_calls(parallel)
    run = open_run(
        tickers,
        prices=prices,
        evidence=evidence,
        query=query,
        params=params,
        benchmark=benchmark,
        taxonomy=taxonomy,
    )
    if run.needs_model:
        with _keep_partial(run):
            await event_loop.call(_judge(run, manager, parallel))
    return run.table()


@refuse_unknown(OF_PARAMS)
def assess(
    tickers: Any,
    *,
    prices: Any = None,
    evidence: Any = None,
    query: str | None = None,
    benchmark: str | pd.Series | None = None,
    params: RiskParams | Mapping[str, Any] | None = None,
    taxonomy: Taxonomy = DEFAULT,
    manager: LLMManager | None = None,
    parallel: int | None = None,
) -> RiskTable:
    """
    The risk table of the tickers: metrics from the prices, and the model's labels on the evidence.

    Blocks until it is done: without evidence some milliseconds, with evidence as long as the model
    takes. Starts the model server if there is something to judge and none was started. An interrupt
    aborts the calls under way.

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
    query
        Only sentences that bear on it are asked, and the question is narrowed to it.
    benchmark
        Name of a column, `equal`, or a Series of prices.
    params
        Every other setting of the run: `RiskParams(window="2y")`, or a mapping of the same names.
    taxonomy
        Categories of risk, with definitions.
    manager
        Who answers; default: the manager of this process, started if needed.
    parallel
        Calls in flight, 1 to 256, for this run; default: what the manager allows.

    Returns
    -------
    RiskTable
        A DataFrame, one row a ticker; `table.report` has the judged sentences and the record of the
        run.

    Raises
    ------
    InputError
        Before any server is touched.
    ServerError, ModelError
        The run could not go on; `partial` on the exception is the table of what was done.
    """
    parallel = inputs.parallel_calls(parallel)
    run = open_run(
        tickers,
        prices=prices,
        evidence=evidence,
        query=query,
        params=params,
        benchmark=benchmark,
        taxonomy=taxonomy,
    )
    if run.needs_model:
        label_sync(run, manager, parallel)
    return run.table()


def label_sync(
    run: Run,
    manager: LLMManager | None = None,
    parallel: int | None = None,
    tick: Callable[[], Any] | None = None,
) -> None:
    """
    Judge the run's sentences and block; an error or an interrupt carries the table so far as
    `partial`.
    """
    with _keep_partial(run):
        event_loop.run(_judge(run, manager, parallel), tick)


@contextlib.contextmanager
def _keep_partial(run: Run) -> Iterator[None]:
    """Put the table so far on whatever error ends the run, as `partial`."""
    try:
        yield
    except BaseException as exc:
        # # any exception takes one more attribute
        exc.partial = run.table()  # type: ignore[attr-defined]
        raise


async def _judge(run: Run, manager: LLMManager | None, parallel: int | None) -> None:
    await run.label(manager or await _default_manager(run.plan.params.model), parallel=parallel)


async def _default_manager(model: str | None) -> LLMManager:
    """
    The manager of this process, started if there is none, and with the model that the run names.
    """
    from urisk_nb.llm.manager import LLMManager

    try:
        LLMManager.get_instance()
    except NotInitialized:
        return await LLMManager.initialize(model=model)
    return await LLMManager.initialize()  # the model of this run is taken beside the session's own


def _notes(manager: LLMManager, parallel: int | None) -> tuple[str, ...]:
    """What the user should know of how the run is asked: sentences."""
    if parallel is None or not manager.is_managed or parallel <= manager.slots:
        return ()
    answers = (
        f"The server answers {manager.slots} at once"
        if manager.slots > 1
        else "The server answers one call at a time"
    )
    more = f"for more: %urisk_stop, then %urisk_start --parallel {parallel}"
    return (
        (
            f"{parallel} calls are in flight, as --parallel asks. {answers}, and the others wait "
            f"there; {more}."
        ),
    )


def _provenance(manager: LLMManager, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "engine": str(manager.engine),
        "server": manager.version,
        "url": manager.url,
        "num_ctx": manager.num_ctx,
    }
