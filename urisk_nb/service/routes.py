"""The routes. They do not know who asks, or how many do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import pandas as pd
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from urisk_nb import event_loop
from urisk_nb.errors import InputError, ServerNotRunning, ServerTimeout, UriskError
from urisk_nb.llm.answers import AnswerStream
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.manager import LLMManager, is_judge
from urisk_nb.llm.messages import is_same_model
from urisk_nb.llm.snapshot import snapshot_without_session
from urisk_nb.risk.params import RiskParams
from urisk_nb.server.model_server import ServerState
from urisk_nb.service.live_session import LiveSession
from urisk_nb.service.prometheus import ServiceMetrics
from urisk_nb.service.schemas import (
    AnswerBody,
    Cell,
    ChatBody,
    ErrorBody,
    JsonResponse,
    RiskBody,
    WidePrices,
    encode_answer,
)
from urisk_nb.service.statuses import STATUSES
from urisk_nb.service.streams import Lines, run_unless_gone, start_lines
from urisk_nb.session import Run, open_run
from urisk_nb.settings import Settings
from urisk_nb.table.record_rows import to_parts, to_records

__all__ = ["NotReady", "router"]

PROBE_S = 2.0  # the longest that a health route takes
POLL_ROWS_S = 0.2  # how often the rows of a run are looked at
NOT_READY = frozenset(ServerState) - {ServerState.MANAGED, ServerState.EXTERNAL, ServerState.REMOTE}


router = APIRouter()
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    for status in sorted({400, 401, 403, 408, 413, 415, *STATUSES.values()})
}
NDJSON = {"application/x-ndjson": {"schema": {"type": "string"}}}


@router.post("/chat", response_model=AnswerBody, responses={**ERRORS, 200: {"content": NDJSON}})
async def chat(request: Request, asked: ChatBody) -> Response:
    """
    Answer a prompt.

    With `stream` the reply is NDJSON: a line `{"piece": ...}` for each piece, then the answer. An
    error in the middle is the last line.
    """
    session: LiveSession = request.app.state.session
    metrics: ServiceMetrics = request.app.state.metrics
    options = asked.options.model_dump(exclude_none=True)
    manager = await run_unless_gone(request.receive, session.manager())
    if asked.stream:
        return await start_lines(
            request,
            _stream_lines(
                manager.stream(asked.prompt, asked.system_prompt, options=options), metrics
            ),
        )
    work = manager.generate(asked.prompt, asked.system_prompt, options=options)
    answer = await run_unless_gone(request.receive, event_loop.call(work, slice_s=None))
    metrics.first_token.observe(answer.timing.first_token_s)
    return JsonResponse(encode_answer(answer))


async def _stream_lines(stream: AnswerStream, metrics: ServiceMetrics) -> Lines:
    async with aclosing(event_loop.iterate(stream.pieces(), slice_s=None)) as pieces:
        async for piece in pieces:
            yield {"piece": piece}
    metrics.first_token.observe(stream.answer.timing.first_token_s)
    yield encode_answer(stream.answer)


@router.post("/risk", response_class=Response, responses={**ERRORS, 200: {"content": NDJSON}})
async def risk(request: Request, asked: RiskBody) -> Response:
    """
    Make a risk table, as NDJSON.

    A line `{"row": ..., "findings": [...]}` when a ticker is done, then `{"run": ...}`. Beside
    `run` stand `portfolio`, `backtest`, `stress` and `factors`, null where the run has none. An
    error is the last line.
    """
    session: LiveSession = request.app.state.session
    run = await asyncio.to_thread(_open_run, asked)
    own = (LLMManager.find_instance() or session).settings.model
    for wanted in run.plan.params.judge or ():
        if not (is_judge(wanted) or is_same_model(wanted, own)):
            raise InputError(
                f"the model {wanted!r} is not the service's.",
                fix="leave it out, or start the service with --model",
            )
    return await start_lines(request, _stream_rows(run, session))


def _open_run(asked: RiskBody) -> Run:
    """Return the run, checked and with its metrics; called in a thread, since it takes time."""
    if "families" in asked.params:
        raise InputError("families names a file of the server.", fix="leave it out")
    return open_run(
        asked.tickers,
        prices=_to_frame(asked.prices),
        evidence=None
        if asked.evidence is None
        else [one.model_dump(exclude_none=True) for one in asked.evidence],
        query=asked.query,
        benchmark=asked.benchmark,
        params=RiskParams.of(**asked.params),
    )


def _to_frame(prices: WidePrices | list[dict[str, Cell]] | None) -> pd.DataFrame | None:
    if not isinstance(prices, WidePrices):
        return None if prices is None else pd.DataFrame(prices)
    for name, values in prices.columns.items():
        if len(values) != len(prices.dates):
            seen = f"prices: {name!r} has {len(values)} values for {len(prices.dates)} dates."
            raise InputError(seen, fix="give one value for each date, null where there is none")
    return pd.DataFrame(prices.columns, index=pd.Index(prices.dates), dtype="float64")


async def _stream_rows(run: Run, session: LiveSession) -> Lines:
    waiting = [symbol for symbol in run.plan.symbols if symbol in run.plan.asked]
    done = [symbol for symbol in run.plan.symbols if symbol not in run.plan.asked]
    for line in _encode_rows(run, done):
        yield line
    if waiting:
        labeling = asyncio.create_task(_label(run, session))
        try:
            is_over = False
            while waiting and not is_over:
                await asyncio.wait({labeling}, timeout=POLL_ROWS_S)
                is_over = labeling.done()  # before the rows are looked at: none is then missed
                # Where a further judge was lost, the labels that count are there all the same
                is_done = run.ticker_findings.__contains__ if is_over else run.is_done
                done = [symbol for symbol in waiting if is_done(symbol)]
                waiting = [symbol for symbol in waiting if symbol not in done]
                for line in await asyncio.to_thread(_encode_rows, run, done):
                    yield line
            await labeling
        finally:
            labeling.cancel()
            await asyncio.wait({labeling})
    report = run.table().report
    yield {"run": report.meta, **to_parts(report)}


async def _label(run: Run, session: LiveSession) -> None:
    await event_loop.call(run.label(await session.manager()), slice_s=None)


def _encode_rows(run: Run, symbols: list[str]) -> list[dict[str, Any]]:
    if not symbols:
        return []
    table = run.table()
    found = table.report.findings
    return [
        {"row": row, "findings": to_records(found[found["ticker"] == row["ticker"]])}
        for row in to_records(pd.DataFrame(table.loc[symbols]).reset_index())
    ]


@router.get("/health")
async def health() -> Response:
    """Say that the process is alive."""
    return JsonResponse({"status": "alive", "version": version("urisk-nb")})


@router.get("/health/ollama", responses={503: ERRORS[503]})
async def health_ollama(request: Request) -> Response:
    """Say whether the model server answers; nothing is generated. 503 has the reason."""
    facts = await _probe_servers(request.app.state.session)
    del facts["models"]
    return JsonResponse({"status": "ready", **facts})


@router.get("/health/llm", responses={503: ERRORS[503]})
async def health_llm(request: Request) -> Response:
    """Say whether the model is in memory; nothing is generated. 503 has the reason."""
    session: LiveSession = request.app.state.session
    facts = await _probe_servers(session)
    if (running := LLMManager.find_instance()) is None:
        raise NotReady(f"the session is being started: {session.step}.", fix="wait")
    if not any(is_same_model(running.model, name) for name in facts["models"]):
        raise NotReady(
            f"{running.model} is not in memory.", fix="wait, or ask: the next call loads it"
        )
    return JsonResponse(
        {
            "status": "ready",
            "model": running.model,
            "engine": str(running.engine),
        }
    )


class NotReady(ServerNotRunning):
    """The server or the model is not ready; raised by health routes only."""


async def _probe_servers(session: LiveSession) -> dict[str, Any]:
    """
    Return the server's state, version and models in memory, as it says within PROBE_S.

    Of several servers one is enough; `servers` then says how each is.
    """
    running = LLMManager.find_instance()
    if running is None and session.failure and not session.is_starting:
        raise NotReady(session.failure.message, fix=session.failure.fix)
    now = snapshot_without_session(is_starting=True) if running is None else running.snapshot()
    if running is not None and now.state in NOT_READY:
        why, fix = now.failure or ("", "wait: it is being restarted")
        raise NotReady(f"the server is {now.state}. {why}".rstrip(), fix=fix)
    each = (running or session).settings.each_server
    seen = await event_loop.call(_probe_each(each), slice_s=None)
    well = [one for one in seen if not isinstance(one, UriskError)]
    if not well:
        why_not = next(one for one in seen if isinstance(one, UriskError))
        raise NotReady(why_not.message, fix=why_not.fix) from why_not
    facts = {"state": str(now.state), "version": well[0][0], "models": well[0][1]}
    return facts if len(each) == 1 else {**facts, "servers": _describe_each(running, each, seen)}


def _describe_each(
    running: LLMManager | None,
    each: Sequence[Settings],
    seen: Sequence[tuple[str, list[str]] | UriskError],
) -> list[dict[str, str]]:
    """Return how each of several servers is: what it says, and whether the session asks it."""
    away = {one.url: one.why_out for one in running.snapshot().servers} if running else {}
    found = []
    for settings, said in zip(each, seen, strict=True):
        reason = said.message if isinstance(said, UriskError) else away.get(settings.url, "")
        status = "left out" if reason else "ready"
        found.append({"url": settings.url, "status": status, "reason": reason})
    return found


async def _probe_each(each: Sequence[Settings]) -> list[tuple[str, list[str]] | UriskError]:
    """Return version and models of each server, or why it does not answer."""

    async def probe(settings: Settings) -> tuple[str, list[str]] | UriskError:
        try:
            return await _probe(settings)
        except UriskError as exc:
            return exc

    return list(await asyncio.gather(*map(probe, each)))


async def _probe(settings: Settings) -> tuple[str, list[str]]:
    client = Client(settings)
    try:
        async with asyncio.timeout(PROBE_S):
            return await client.probe(), await _list_ready_models(client)
    except TimeoutError as exc:
        if isinstance(exc, UriskError):
            raise
        raise ServerTimeout(
            f"{settings.url} did not answer within {PROBE_S:g} s.",
            fix="wait, or look at the server's log",
        ) from exc
    finally:
        await client.aclose()


async def _list_ready_models(client: Client) -> list[str]:
    """The models in memory; of a server that has one model for as long as it runs, its names."""
    if client.dialect.can(Feature.LOADED_MODELS):
        return [model.name for model in await client.list_loaded_models()]
    models = await client.list_models()
    return [name for model in models for name in (model.name, *model.aliases)]


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def show_metrics(request: Request) -> Response:
    """Return the metrics as Prometheus reads them."""
    text = request.app.state.metrics.render(LLMManager.find_instance())
    return Response(text, media_type=CONTENT_TYPE_LATEST)
