"""The service: the session of this process over HTTP, for programs that are no notebook.

POST /chat and /risk, GET /health, /health/ollama, /health/llm and /metrics. Knows HTTP, and which status each error of ours has.
Does not know how a server is kept or a table made: that is the manager's and the session's. Answers JSON, never HTML: what a model
or a document says is data. Optional: FastAPI, uvicorn and prometheus-client are the extra `service`, and only who serves imports this.

Without a token it answers on loopback alone, and only to callers that name it as loopback, so that no web page reaches it under
a name of its own. Over 400 lines: routes, guard and figures are one face, and are changed together.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import hmac
import ipaddress
import json
import math
import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing
from datetime import date
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

import pandas as pd
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Enum, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from urisk_nb import bridge, errors
from urisk_nb.errors import InputError, NotInitialized, ServerNotRunning, ServerStartFailed, ServerTimeout, UriskError
from urisk_nb.ollama import wire
from urisk_nb.ollama.answers import Answer, AnswerStream
from urisk_nb.ollama.client import Client
from urisk_nb.ollama.manager import LLMManager, StartEvent
from urisk_nb.ollama.server import ServerState
from urisk_nb.risk.inputs import RiskParams
from urisk_nb.session import Run, open_run
from urisk_nb.settings import LOOPBACK, Settings, load

__all__ = ["STATUSES", "create_app", "serve", "status_of"]

T = TypeVar("T")
PROBE_S = 2.0  # the longest that a health route takes
BODY_S = 30.0  # a request whose body takes longer gives its place up
ROWS_S = 0.2  # how often the rows of a run are looked at
GRACE_S = 5.0  # what calls under way are given at the end
AGAIN_S = 30.0  # a session that failed is started anew at most this often
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_CALLS = 2048

# The HTTP status of each error. A subclass counts as its nearest base that stands here.
STATUSES: dict[type[UriskError], int] = {
    errors.UriskError: 500,
    errors.InputError: 422,
    errors.NotInitialized: 503,
    errors.FetchFailed: 502,
    errors.ServerError: 503,  # nothing to ask just now: not installed, not running, starting, lost, busy, left alone
    errors.StreamInterrupted: 502,
    errors.RunnerCrashed: 502,
    errors.ServerFault: 502,
    errors.ProtocolError: 502,
    errors.ServerTimeout: 504,
    errors.ServerHung: 504,
    errors.OutOfMemory: 507,
    errors.RequestRefused: 422,
    errors.ModelError: 502,
    errors.ModelNotFound: 404,
    errors.ModelNameInvalid: 422,
    errors.ModelUnsuitable: 422,
    errors.ContextExceeded: 422,
    errors.DiskFull: 507,
    errors.CloudRefused: 403,
}
NOT_READY = frozenset(ServerState) - {ServerState.OWNED, ServerState.ATTACHED, ServerState.REMOTE}
CALLS = frozenset({"/chat", "/risk"})  # the routes that take a body
ROUTES = CALLS | frozenset({"/health", "/health/ollama", "/health/llm", "/metrics", "/openapi.json"})


def status_of(error: UriskError) -> int:
    """The HTTP status of an error."""
    return next(STATUSES[base] for base in type(error).__mro__ if base in STATUSES)


# What is sent and taken ----------------------------------------------------------------------------------------------------


class _Taken(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Options(_Taken):
    """How an answer is made. What would load the model again for everybody (num_ctx, num_gpu, ...) is the service's own."""

    temperature: float | None = Field(None, ge=0, le=10)
    seed: int | None = Field(None, ge=0, lt=2**31)
    num_predict: int | None = Field(None, ge=1, le=65_536)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=0, le=10)
    stop: list[str] | None = Field(None, max_length=16)


class Chat(_Taken):
    """A prompt, and how it is to be answered."""

    prompt: str = Field(min_length=1)
    system_prompt: str | None = None
    options: Options = Options()
    stream: bool = False


Cell = str | int | float | None
Number = Annotated[float, Field(ge=-1e300, le=1e300)]


class Wide(_Taken):
    """Prices, a column for each ticker."""

    dates: list[str]
    columns: dict[str, list[Number | None]]


class Evidence(_Taken):
    """A document; without a ticker it is about all of them."""

    text: str
    ticker: str | None = None
    date: str | None = None
    source: str | None = None
    id: str | None = None


class Risk(_Taken):
    """What `assess` takes, as data: no path is read here."""

    tickers: list[str] | dict[str, Number]
    prices: Wide | list[dict[str, Cell]] | None = None
    evidence: list[Evidence] | None = None
    query: str | None = None
    benchmark: str | None = None
    params: dict[str, Cell | bool | list[Number]] = Field(default_factory=dict)


class Problem(BaseModel):
    """An error: its name, what was seen, what to do."""

    error: str
    message: str
    fix: str


class Answered(BaseModel):
    """An answer. Seconds in `timing`; null where the server gave no counter."""

    text: str
    model: str
    engine: str
    simulated: bool
    done_reason: str
    timing: dict[str, float | int | str | None]


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        """ASCII only: half of a surrogate pair, which JSON may carry, is in no encoding. NaN is no JSON."""
        return _dumped(content)


def _dumped(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """A cell as JSON has it: nothing for what is missing or not finite, ISO text for a date."""
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat() if value == value.normalize() else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    columns = {str(name): [_plain(value) for value in frame[name].tolist()] for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _facts(answer: Answer) -> dict[str, Any]:
    timing = {name: _plain(value) for name, value in dataclasses.asdict(answer.timing).items()}
    facts = {"model": answer.model, "engine": str(answer.engine), "simulated": answer.simulated, "done_reason": answer.done_reason}
    return {"text": str(answer), **facts, "timing": timing}


def _problem(error: UriskError) -> dict[str, str]:
    return {"error": type(error).__name__, "message": error.message, "fix": error.fix}


def _refusal(status: int, problem: Mapping[str, Any], **headers: str) -> Response:
    return _Json(problem, status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def _said(status: int, message: str, fix: str, **headers: str) -> Response:
    """A refusal that is HTTP's own affair."""
    name = HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")
    return _refusal(status, {"error": name, "message": message, "fix": fix}, **headers)


def _told(error: UriskError) -> Response:
    wait_s = error.facts.get("retry_after_s") or error.facts.get("left_s")
    headers = {} if wait_s is None else {"Retry_After": str(max(1, math.ceil(wait_s)))}
    return _refusal(status_of(error), _problem(error), **headers)


# Figures -------------------------------------------------------------------------------------------------------------------


class _Figures:
    """What /metrics shows; a registry of its own, so that two apps in a process do not meet."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        buckets = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
        self.calls = Counter("urisk_calls", "Requests answered.", ["route", "status"], registry=registry)
        self.errors = Counter("urisk_errors", "Errors told to callers.", ["kind"], registry=registry)
        self.seconds = Histogram("urisk_call_seconds", "Whole requests.", ["route"], registry=registry, buckets=buckets)
        self.first_token = Histogram(
            "urisk_first_token_seconds", "From the last try to the first piece.", registry=registry, buckets=buckets
        )
        self.in_flight = Gauge("urisk_in_flight", "Requests under way.", registry=registry)
        self.restarts = Gauge("urisk_server_restarts", "Times that the model server was started again.", registry=registry)
        self.breaker = Enum("urisk_breaker_state", "The model's breaker.", states=["closed", "half_open", "open"], registry=registry)

    @contextlib.contextmanager
    def call(self, route: str) -> Iterator[list[int]]:
        """One request; the list is given its status."""
        began_s, seen = time.monotonic(), [499]  # as nginx has it: the caller left before there was an answer
        self.in_flight.inc()
        try:
            yield seen
        except Exception:
            seen.append(500)
            raise
        finally:
            self.in_flight.dec()
            self.calls.labels(route, str(seen[-1])).inc()
            self.seconds.labels(route).observe(time.monotonic() - began_s)

    def shown(self, manager: LLMManager | None) -> bytes:
        if manager is not None:
            self.restarts.set(manager.restarts)
            self.breaker.state(manager.breaker())
        return generate_latest(self.registry)


# The session ---------------------------------------------------------------------------------------------------------------


class _Session:
    """The process's manager as the app uses it: begun in the background, ended only where the app began it."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self.flags = dict(flags)
        self.settings: Settings = load(**flags)
        self.step = "starting"
        self.failed: list[UriskError] = []
        self.is_begun = False  # once a start has succeeded
        self._start: asyncio.Task[LLMManager] | None = None
        self._tried_s = -math.inf
        self._is_ours = False

    @property
    def running(self) -> LLMManager | None:
        """The manager, where there is one."""
        with contextlib.suppress(NotInitialized):
            return LLMManager.get_instance()
        return None

    async def begin(self) -> None:
        """A manager that runs already is used as it is; else one is started, and /health can be asked meanwhile."""
        self.is_begun = self.running is not None
        if not self.is_begun:
            self._is_ours = True
            self._begin(self.flags)

    def _begin(self, flags: Mapping[str, Any]) -> asyncio.Task[LLMManager]:
        self._tried_s = time.monotonic()
        self._start = asyncio.create_task(LLMManager.initialize(progress=self._progress, **flags))
        self._start.add_done_callback(self._begun)
        return self._start

    def _progress(self, event: StartEvent) -> None:
        self.step = event.text

    def _begun(self, start: asyncio.Task[LLMManager]) -> None:
        if start.cancelled():
            return
        error = start.exception()
        self.is_begun = self.is_begun or error is None
        if error is not None:
            odd = ServerStartFailed(f"the session could not be started: {error!r}.", fix="report it")
            self.failed = [error if isinstance(error, UriskError) else odd]

    async def manager(self) -> LLMManager:
        """The manager that is to be asked: waits for its start. One that failed for good is started anew, at most every AGAIN_S."""
        if self._start is not None and not self._start.done():
            return await asyncio.shield(self._start)
        running = self.running
        if running is not None and running.failure is None:
            return running
        if time.monotonic() - self._tried_s > AGAIN_S:
            return await asyncio.shield(self._begin(self.flags if running is None else {}))
        if running is not None:
            return running  # its calls say why
        # One of its own for each caller: a traceback grows with each raise.
        raise copy.copy(self.failed[-1]) if self.failed else NotInitialized("the session was ended.", fix=f"ask again in {AGAIN_S:g} s")

    async def end(self) -> None:
        """What was begun here ends here: calls under way with ServerLost, a server that was started for it with it."""
        if self._start is not None and not self._start.done():
            self._start.cancel()
            await asyncio.wait({self._start})
        if self._is_ours and (running := self.running) is not None:
            await running.shutdown()


async def _there(work: Coroutine[Any, Any, T]) -> T:
    """Await the work, which runs on the package's loop. Not by `bridge.call`: it wakes for interrupts, 20,000 times a second for 1,000."""
    here, ended = asyncio.get_running_loop(), asyncio.Event()
    call = bridge.Call(work, lambda: here.call_soon_threadsafe(ended.set))
    try:
        await ended.wait()
    except asyncio.CancelledError:
        call.cancel()
        raise
    return call.result()


async def _pieces(stream: AnswerStream) -> AsyncGenerator[str, None]:
    """The pieces of an answer that is made on the package's loop; leaving them stops the generation."""
    here: asyncio.AbstractEventLoop = asyncio.get_running_loop()
    items: asyncio.Queue[str | None] = asyncio.Queue()

    async def push() -> None:
        async with aclosing(stream.pieces()) as pieces:
            async for piece in pieces:
                here.call_soon_threadsafe(items.put_nowait, piece)

    call = bridge.Call(push(), lambda: here.call_soon_threadsafe(items.put_nowait, None))
    try:
        while (piece := await items.get()) is not None:
            yield piece
    finally:
        if not call.done.is_set():
            call.cancel()
    call.result()


# A caller may leave ----------------------------------------------------------------------------------------------------------


class _Gone(Exception):
    """The caller has left; nobody is to be told anything."""


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; the work is cancelled when the caller leaves."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(work), asyncio.create_task(left())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


Lines = AsyncGenerator[dict[str, Any], None]


class _Lines(Response):
    """NDJSON, a line as soon as it is there. The first line is there before the status is sent, so that an early error has its own."""

    media_type = "application/x-ndjson"

    def __init__(self, first: dict[str, Any], rest: Lines, figures: _Figures) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.first, self.rest, self.figures = first, rest, figures

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(_Gone, OSError):
            async with aclosing(self.rest):
                await _unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send_line(send, self.first)
        try:
            async for line in self.rest:
                await _send_line(send, line)
        except UriskError as exc:
            self.figures.errors.labels(type(exc).__name__).inc()
            await _send_line(send, _problem(exc))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_line(send: Send, line: dict[str, Any]) -> None:
    await send({"type": "http.response.body", "body": _dumped(line) + b"\n", "more_body": True})


async def _lines(request: Request, lines: Lines) -> Response:
    try:
        first = await _unless_gone(request.receive, _next(lines))
    except BaseException:
        await lines.aclose()
        raise
    return _Lines(first, lines, request.app.state.figures)


async def _next(lines: Lines) -> dict[str, Any]:
    return await anext(lines)


# Routes ----------------------------------------------------------------------------------------------------------------------

router = APIRouter()
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": HTTPStatus(status).phrase}
    for status in sorted({400, 401, 403, 408, 413, 415, *STATUSES.values()})
}
NDJSON = {"application/x-ndjson": {"schema": {"type": "string"}}}


@router.post("/chat", response_model=Answered, responses={**PROBLEMS, 200: {"content": NDJSON}})
async def chat(request: Request, asked: Chat) -> Response:
    """The answer to a prompt. With `stream`, NDJSON: `{"piece": ...}` a line, then the answer; after an error a last line with it."""
    session: _Session = request.app.state.session
    figures: _Figures = request.app.state.figures
    options = asked.options.model_dump(exclude_none=True)
    manager = await _unless_gone(request.receive, session.manager())
    if asked.stream:
        return await _lines(request, _streamed(manager.stream(asked.prompt, asked.system_prompt, options=options), figures))
    work = manager.generate(asked.prompt, asked.system_prompt, options=options)
    answer = await _unless_gone(request.receive, _there(work))
    figures.first_token.observe(answer.timing.first_token_s)
    return _Json(_facts(answer))


async def _streamed(stream: AnswerStream, figures: _Figures) -> Lines:
    async with aclosing(_pieces(stream)) as pieces:
        async for piece in pieces:
            yield {"piece": piece}
    figures.first_token.observe(stream.answer.timing.first_token_s)
    yield _facts(stream.answer)


@router.post("/risk", response_class=Response, responses={**PROBLEMS, 200: {"content": NDJSON}})
async def risk(request: Request, asked: Risk) -> Response:
    """The risk table as NDJSON: `{"row": ..., "findings": [...]}` as each ticker is done, then `{"run": ...}`, or a line with the error."""
    session: _Session = request.app.state.session
    run = await asyncio.to_thread(_opened, asked)
    wanted = run.plan.params.model
    if wanted is not None and not wire.same_model(wanted, (session.running or session).settings.model):
        raise InputError(f"the model {wanted!r} is not the service's.", fix="leave it out, or start the service with --model")
    return await _lines(request, _rows(run, session))


def _opened(asked: Risk) -> Run:
    """The run, checked and with its metrics; in a thread, since it may take a second."""
    return open_run(
        asked.tickers,
        prices=_frame(asked.prices),
        evidence=None if asked.evidence is None else [one.model_dump(exclude_none=True) for one in asked.evidence],
        query=asked.query,
        benchmark=asked.benchmark,
        params=RiskParams.of(**asked.params),
    )


def _frame(prices: Wide | list[dict[str, Cell]] | None) -> pd.DataFrame | None:
    if not isinstance(prices, Wide):
        return None if prices is None else pd.DataFrame(prices)
    for name, values in prices.columns.items():
        if len(values) != len(prices.dates):
            seen = f"prices: {name!r} has {len(values)} values for {len(prices.dates)} dates."
            raise InputError(seen, fix="give one value for each date, null where there is none")
    return pd.DataFrame(prices.columns, index=pd.Index(prices.dates), dtype="float64")


async def _rows(run: Run, session: _Session) -> Lines:
    waiting = [symbol for symbol in run.plan.symbols if symbol in run.plan.asked]
    for line in _done(run, [symbol for symbol in run.plan.symbols if symbol not in run.plan.asked]):
        yield line
    if waiting:
        judging = asyncio.create_task(_judged(run, session))
        try:
            while waiting and not judging.done():
                await asyncio.wait({judging}, timeout=ROWS_S)
                done = [symbol for symbol in waiting if symbol in run.judgements]
                waiting = [symbol for symbol in waiting if symbol not in done]
                for line in await asyncio.to_thread(_done, run, done):
                    yield line
            await judging
        finally:
            judging.cancel()
            await asyncio.wait({judging})
    yield {"run": run.table().report.meta}


async def _judged(run: Run, session: _Session) -> None:
    await _there(run.judge(await session.manager()))


def _done(run: Run, symbols: Iterable[str]) -> list[dict[str, Any]]:
    """The lines of tickers that are done."""
    chosen = list(symbols)
    if not chosen:
        return []
    table = run.table()
    found = table.report.findings
    rows = _records(pd.DataFrame(table.loc[chosen]).reset_index())
    return [{"row": row, "findings": _records(found[found["ticker"] == row["ticker"]])} for row in rows]


@router.get("/health")
async def health() -> Response:
    """The process lives."""
    return _Json({"status": "alive", "version": version("urisk-nb")})


@router.get("/health/ollama", responses={503: PROBLEMS[503]})
async def health_ollama(request: Request) -> Response:
    """The model server answers; nothing is generated. 503 says why it does not."""
    facts = await _looked(request.app.state.session)
    del facts["models"]
    return _Json({"status": "ready", **facts})


@router.get("/health/llm", responses={503: PROBLEMS[503]})
async def health_llm(request: Request) -> Response:
    """The model is in memory; nothing is generated. 503 says why it is not."""
    session: _Session = request.app.state.session
    facts = await _looked(session)
    running = session.running
    if running is None:
        raise _NotReady(f"the session is being started: {session.step}.", fix="wait")
    if not any(wire.same_model(running.model, name) for name in facts["models"]):
        raise _NotReady(f"{running.model} is not in memory.", fix="wait, or ask: the next call loads it")
    return _Json({"status": "ready", "model": running.model, "engine": str(running.engine), "simulated": running.is_simulated})


class _NotReady(ServerNotRunning):
    """Said by a health route alone."""


async def _looked(session: _Session) -> dict[str, Any]:
    """The server's state, version and models in memory, as it says within PROBE_S."""
    running = session.running
    if running is None and session.failed and (session._start is None or session._start.done()):
        raise _NotReady(session.failed[-1].message, fix=session.failed[-1].fix)
    state = str(running.state) if running is not None else "starting"
    if running is not None and running.state in NOT_READY:
        why = running.failure
        raise _NotReady(f"the server is {state}." + (f" {why.message}" if why else ""), fix=why.fix if why else "wait: it is seen to")
    try:
        said, models = await _there(_probed(running.settings if running is not None else session.settings))
    except UriskError as exc:
        raise _NotReady(exc.message, fix=exc.fix) from exc
    return {"state": state, "version": said, "models": models}


async def _probed(settings: Settings) -> tuple[str, list[str]]:
    client = Client(settings)
    try:
        async with asyncio.timeout(PROBE_S):
            return await client.version(), [model.name for model in await client.residents()]
    except TimeoutError as exc:
        if isinstance(exc, UriskError):
            raise
        raise ServerTimeout(f"{settings.url} did not answer within {PROBE_S:g} s.", fix="wait, or look at the server's log") from exc
    finally:
        await client.aclose()


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    text = request.app.state.figures.shown(request.app.state.session.running)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


# The guard -------------------------------------------------------------------------------------------------------------------


class _Guard:
    """Before any route: who asks, how much, and how many at once."""

    def __init__(self, app: ASGIApp, *, token: str | None, max_body_bytes: int, max_calls: int, figures: _Figures) -> None:
        self.app, self.token, self.max_body_bytes, self.max_calls, self.figures = app, token, max_body_bytes, max_calls, figures
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.figures.call(scope["path"] if scope["path"] in ROUTES else "other") as seen:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    seen.append(message["status"])
                await send(message)

            with contextlib.suppress(_Gone):
                await self._answered(scope, receive, noted)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        refused, is_call = self._stranger(scope, headers), scope["method"] == "POST" and scope["path"] in CALLS
        if refused is None and is_call:
            refused = self._too_much(headers)
        if refused is not None:
            await refused(scope, receive, send)
        elif is_call:
            await self._posted(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _stranger(self, scope: Scope, headers: Mapping[str, bytes]) -> Response | None:
        if self.token is not None:
            kind, _, given = headers.get("authorization", b"").partition(b" ")
            if scope["path"] == "/health" or (kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.token.encode())):
                return None
            return _said(401, "the token is missing or wrong.", "send it: Authorization: Bearer ...", WWW_Authenticate="Bearer")
        server = scope.get("server")
        if server is not None and server[1] is not None and not is_loopback(server[0]):
            return _said(403, "without a token this service answers on loopback only.", "set URISK_SERVICE_TOKEN")
        name = headers.get("host", b"").decode("latin-1")
        if not is_loopback(_name_of(name)):
            return _said(403, f"the Host {name[:100]!r} is not this machine's loopback.", "ask for it as 127.0.0.1, or set a token")
        return None

    def _too_much(self, headers: Mapping[str, bytes]) -> Response | None:
        kind = headers.get("content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":  # also what keeps web pages out: a browser asks before it sends this kind across sites
            return _said(415, f"the body is {kind.decode('latin-1')[:100]!r}.", "send it as application/json")
        if self.calls >= self.max_calls:
            return _said(503, f"{self.calls} requests are waiting already.", "ask again later", Retry_After="1")
        length = headers.get("content-length", b"0")
        return self._too_large() if length.isdigit() and int(length[:20]) > self.max_body_bytes else None

    def _too_large(self) -> Response:
        return _said(413, f"the body is larger than {self.max_body_bytes} bytes.", "ask about fewer tickers at a time", Connection="close")

    async def _posted(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        try:
            body = await self._body(receive)
            if isinstance(body, Response):
                await body(scope, receive, send)
            else:
                await self.app(scope, _again(body, receive), send)
        finally:
            self.calls -= 1

    async def _body(self, receive: Receive) -> bytes | Response:
        parts = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                while len(parts) <= self.max_body_bytes:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts += message.get("body", b"")
                    if not message.get("more_body"):
                        return bytes(parts) if len(parts) <= self.max_body_bytes else self._too_large()
        except TimeoutError:
            return _said(408, f"the body did not come within {BODY_S:g} s.", "send it faster", Connection="close")
        return self._too_large()


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever else comes: the caller's leaving."""
    parts = [body]

    async def replay() -> Message:
        return {"type": "http.request", "body": parts.pop(), "more_body": False} if parts else await receive()

    return replay


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback, by number or as localhost; no name is looked up."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() in LOOPBACK


def _name_of(host: str) -> str:
    """The Host header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


# The app ---------------------------------------------------------------------------------------------------------------------


def create_app(*, token: str | None = None, max_body_bytes: int = MAX_BODY_BYTES, max_calls: int = MAX_CALLS, **flags: Any) -> FastAPI:
    """
    The app, which begins the session of this process when it is served, and ends it; one that ran before is used and left running.

    Parameters
    ----------
    token
        Asked of every caller (`Authorization: Bearer ...`), but for /health; default: URISK_SERVICE_TOKEN. Without one the app
        answers on loopback only.
    max_body_bytes, max_calls
        What is larger is refused with 413; so many POSTs wait at a time, the next is refused with 503.
    **flags
        Fields of Settings, as `LLMManager.initialize` takes them: url, model, engine, parallel, ...

    Raises
    ------
    SettingsError
        A flag, or the environment, has a value that cannot be used.
    """
    session, figures = _Session(flags), _Figures()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await session.begin()
        try:
            yield
        finally:
            await session.end()

    app = FastAPI(title="urisk_nb", version=version("urisk-nb"), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.session, app.state.figures = session, figures
    app.include_router(router)
    token = token or os.environ.get("URISK_SERVICE_TOKEN") or None
    app.add_middleware(_Guard, token=token, max_body_bytes=max_body_bytes, max_calls=max_calls, figures=figures)
    _handle_errors(app, figures)
    return app


def _handle_errors(app: FastAPI, figures: _Figures) -> None:
    @app.exception_handler(UriskError)
    async def ours(_: Request, exc: UriskError) -> Response:
        figures.errors.labels(type(exc).__name__.lstrip("_")).inc()
        if isinstance(exc, _NotReady):
            return _refusal(503, {**_problem(exc), "error": "NotReady"})
        return _told(exc)

    @app.exception_handler(RequestValidationError)
    async def unfit(_: Request, exc: RequestValidationError) -> Response:
        first = exc.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"] if part != "body") or "the body"
        return await ours(_, InputError(f"{place}: {first['msg']}.", fix="see /openapi.json for what is taken"))

    @app.exception_handler(HTTPException)
    async def http(_: Request, exc: HTTPException) -> Response:
        response = _said(exc.status_code, f"{exc.detail}.", "see /openapi.json for what there is")
        response.headers.update(exc.headers or {})
        return response

    @app.exception_handler(Exception)
    async def mistake(_: Request, exc: Exception) -> Response:
        figures.errors.labels(type(exc).__name__).inc()
        return _said(500, "a mistake of ours.", "look at the service's log")


# A process of its own ----------------------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """Ends in order: calls under way have GRACE_S, then the session ends, which tells each of them why. A start that fails ends it."""

    session: _Session

    async def on_tick(self, counter: int) -> bool:
        if self.session.failed and not self.session.is_begun:
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_calls())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_calls(self) -> None:
        await asyncio.sleep(GRACE_S)
        await self.session.end()


def serve(*, host: str = "127.0.0.1", port: int = 8000, token: str | None = None, **flags: Any) -> None:
    """
    Serve until SIGTERM or SIGINT; then end the calls, the session, and a server that was started for it.

    Raises
    ------
    InputError
        The address cannot be listened at, or may not be without a token.
    SettingsError, ServerError, ModelError
        The session could not be started.
    """
    token = token or os.environ.get("URISK_SERVICE_TOKEN") or None
    if token is None and not is_loopback(host):
        raise InputError(f"{host} can be reached by others, and there is no token.", fix="set URISK_SERVICE_TOKEN, or --host 127.0.0.1")
    app = create_app(token=token, **flags)
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(2 * GRACE_S),
        )
    )
    server.session = app.state.session
    with _listening(host, port) as listener:
        print(f"urisk_nb serves at http://{_shown(listener)}; Ctrl-C ends it.", flush=True)
        try:
            server.run(sockets=[listener])
        except (SystemExit, KeyboardInterrupt):
            if not server.started:  # else uvicorn has ended in order, and only repeats the signal
                raise
    if server.session.failed and not server.session.is_begun:
        raise server.session.failed[-1]


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as exc:
        raise InputError(f"{host}:{port} cannot be listened at ({exc}).", fix="choose another port: --port 8001") from exc
    # Inherited by each connection; asyncio sets it only where a socket names its protocol, and each answer would wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
