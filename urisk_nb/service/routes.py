"""The routes. Nothing here knows who asks, or how many do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import pandas as pd
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from urisk_nb.errors import InputError, ServerNotRunning, ServerTimeout, UriskError
from urisk_nb.llm.answers import AnswerStream
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.manager import is_judge
from urisk_nb.llm.messages import is_same_model
from urisk_nb.risk.inputs import RiskParams
from urisk_nb.server.model_server import ServerState
from urisk_nb.service.live_session import LiveSession, pieces_of, there
from urisk_nb.service.prometheus import Figures
from urisk_nb.service.schemas import (
    Answered,
    Cell,
    Chat,
    Json,
    Problem,
    Risk,
    Wide,
    records_of,
    take_snapshot,
)
from urisk_nb.service.statuses import STATUSES
from urisk_nb.service.streams import Lines, begun_lines, unless_gone
from urisk_nb.session import Run, open_run
from urisk_nb.settings import Settings

__all__ = ["NotReady", "router"]

PROBE_S = 2.0  # the longest that a health route takes
ROWS_S = 0.2  # how often the rows of a run are looked at
NOT_READY = frozenset(ServerState) - {ServerState.MANAGED, ServerState.EXTERNAL, ServerState.REMOTE}


router = APIRouter()
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": HTTPStatus(status).phrase}
    for status in sorted({400, 401, 403, 408, 413, 415, *STATUSES.values()})
}
NDJSON = {"application/x-ndjson": {"schema": {"type": "string"}}}


@router.post("/chat", response_model=Answered, responses={**PROBLEMS, 200: {"content": NDJSON}})
async def chat(request: Request, asked: Chat) -> Response:
    """
    The answer to a prompt. With `stream`, NDJSON: `{"piece": ...}` a line, then the answer; after
    an error a last line with it.
    """
    session: LiveSession = request.app.state.session
    figures: Figures = request.app.state.figures
    options = asked.options.model_dump(exclude_none=True)
    manager = await unless_gone(request.receive, session.manager())
    if asked.stream:
        return await begun_lines(
            request,
            _streamed(manager.stream(asked.prompt, asked.system_prompt, options=options), figures),
        )
    work = manager.generate(asked.prompt, asked.system_prompt, options=options)
    answer = await unless_gone(request.receive, there(work))
    figures.first_token.observe(answer.timing.first_token_s)
    return Json(take_snapshot(answer))


async def _streamed(stream: AnswerStream, figures: Figures) -> Lines:
    async with aclosing(pieces_of(stream)) as pieces:
        async for piece in pieces:
            yield {"piece": piece}
    figures.first_token.observe(stream.answer.timing.first_token_s)
    yield take_snapshot(stream.answer)


@router.post("/risk", response_class=Response, responses={**PROBLEMS, 200: {"content": NDJSON}})
async def risk(request: Request, asked: Risk) -> Response:
    """
    The risk table as NDJSON: `{"row": ..., "findings": [...]}` as each ticker is done, then
    `{"run": ...}`, or a line with the error.
    """
    session: LiveSession = request.app.state.session
    run = await asyncio.to_thread(_opened, asked)
    wanted = run.plan.params.model
    if (
        wanted is not None
        and not is_judge(wanted)
        and not is_same_model(wanted, (session.running or session).settings.model)
    ):
        raise InputError(
            f"the model {wanted!r} is not the service's.",
            fix="leave it out, or start the service with --model",
        )
    return await begun_lines(request, _rows(run, session))


def _opened(asked: Risk) -> Run:
    """The run, checked and with its metrics; in a thread, since it may take a second."""
    return open_run(
        asked.tickers,
        prices=_frame(asked.prices),
        evidence=None
        if asked.evidence is None
        else [one.model_dump(exclude_none=True) for one in asked.evidence],
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


async def _rows(run: Run, session: LiveSession) -> Lines:
    waiting = [symbol for symbol in run.plan.symbols if symbol in run.plan.asked]
    for line in _done(run, [symbol for symbol in run.plan.symbols if symbol not in run.plan.asked]):
        yield line
    if waiting:
        judging = asyncio.create_task(_judged(run, session))
        try:
            while waiting and not judging.done():
                await asyncio.wait({judging}, timeout=ROWS_S)
                done = [symbol for symbol in waiting if symbol in run.ticker_findings]
                waiting = [symbol for symbol in waiting if symbol not in done]
                for line in await asyncio.to_thread(_done, run, done):
                    yield line
            await judging
        finally:
            judging.cancel()
            await asyncio.wait({judging})
    yield {"run": run.table().report.meta}


async def _judged(run: Run, session: LiveSession) -> None:
    await there(run.label(await session.manager()))


def _done(run: Run, symbols: Iterable[str]) -> list[dict[str, Any]]:
    """The lines of tickers that are done."""
    chosen = list(symbols)
    if not chosen:
        return []
    table = run.table()
    found = table.report.findings
    rows = records_of(pd.DataFrame(table.loc[chosen]).reset_index())
    return [
        {"row": row, "findings": records_of(found[found["ticker"] == row["ticker"]])}
        for row in rows
    ]


@router.get("/health")
async def health() -> Response:
    """The process lives."""
    return Json({"status": "alive", "version": version("urisk-nb")})


@router.get("/health/ollama", responses={503: PROBLEMS[503]})
async def health_ollama(request: Request) -> Response:
    """The model server answers; nothing is generated. 503 says why it does not."""
    facts = await _looked(request.app.state.session)
    del facts["models"]
    return Json({"status": "ready", **facts})


@router.get("/health/llm", responses={503: PROBLEMS[503]})
async def health_llm(request: Request) -> Response:
    """The model is in memory; nothing is generated. 503 says why it is not."""
    session: LiveSession = request.app.state.session
    facts = await _looked(session)
    running = session.running
    if running is None:
        raise NotReady(f"the session is being started: {session.step}.", fix="wait")
    if not any(is_same_model(running.model, name) for name in facts["models"]):
        raise NotReady(
            f"{running.model} is not in memory.", fix="wait, or ask: the next call loads it"
        )
    return Json(
        {
            "status": "ready",
            "model": running.model,
            "engine": str(running.engine),
        }
    )


class NotReady(ServerNotRunning):
    """Said by a health route alone."""


async def _looked(session: LiveSession) -> dict[str, Any]:
    """The server's state, version and models in memory, as it says within PROBE_S."""
    running = session.running
    if running is None and session.failed and (session._start is None or session._start.done()):
        raise NotReady(session.failed[-1].message, fix=session.failed[-1].fix)
    state = str(running.state) if running is not None else "starting"
    if running is not None and running.state in NOT_READY:
        why = running.failure
        raise NotReady(
            f"the server is {state}." + (f" {why.message}" if why else ""),
            fix=why.fix if why else "wait: it is seen to",
        )
    try:
        said, models = await there(
            _probed(running.settings if running is not None else session.settings)
        )
    except UriskError as exc:
        raise NotReady(exc.message, fix=exc.fix) from exc
    return {"state": state, "version": said, "models": models}


async def _probed(settings: Settings) -> tuple[str, list[str]]:
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
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    text = request.app.state.figures.shown(request.app.state.session.running)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
