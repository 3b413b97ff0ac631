"""The app: its life, its routes, its guard, and what each error looks like."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from urisk_nb.arguments import refuse_unknown
from urisk_nb.errors import InputError, UriskError
from urisk_nb.service.guard import Guard
from urisk_nb.service.live_session import LiveSession
from urisk_nb.service.prometheus import Figures
from urisk_nb.service.routes import NotReady, router
from urisk_nb.service.schemas import problem_of, refusal_of, refused, reply_to
from urisk_nb.settings import DialectName, Engine, given_settings

__all__ = ["create_app"]

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_CALLS = 2048


@refuse_unknown()
def create_app(
    *,
    token: str | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_calls: int = MAX_CALLS,
    url: str | None = None,
    model: str | None = None,
    engine: Engine | str | None = None,
    dialect: DialectName | str | None = None,
    gguf: Path | str | None = None,
    num_ctx: int | None = None,
    parallel: int | None = None,
    keep_alive: str | None = None,
    timeout_s: float | None = None,
    load_timeout_s: float | None = None,
    max_retries: int | None = None,
    auto_start: bool | None = None,
    keep_warm_s: float | None = None,
    data: Path | str | None = None,
    allow_shared: bool | None = None,
    allow_cloud: bool | None = None,
) -> FastAPI:
    """
    The app, which begins the session of this process when it is served, and ends it; one that ran
    before is used and left running.

    Parameters
    ----------
    token
        Asked of every caller (`Authorization: Bearer ...`), but for /health; default:
        URISK_SERVICE_TOKEN. Without one the app answers on loopback only.
    max_body_bytes, max_calls
        What is larger is refused with 413; so many POSTs wait at a time, the next is refused with
        503.
    url, model, engine, dialect, gguf, num_ctx, parallel, keep_alive, timeout_s, load_timeout_s
        Settings, as `LLMManager.initialize` takes them; None leaves each to the environment.
    max_retries, auto_start, keep_warm_s, data, allow_shared, allow_cloud
        Further settings, likewise.

    Raises
    ------
    InputError
        An argument that there is not; the likely one is named.
    SettingsError
        A setting, or the environment, has a value that cannot be used.
    """
    session, figures = LiveSession(given_settings(locals())), Figures()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await session.begin()
        try:
            yield
        finally:
            await session.end()

    app = FastAPI(
        title="urisk_nb",
        version=version("urisk-nb"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.session, app.state.figures = session, figures
    app.include_router(router)
    token = token or os.environ.get("URISK_SERVICE_TOKEN") or None
    app.add_middleware(
        Guard, token=token, max_body_bytes=max_body_bytes, max_calls=max_calls, figures=figures
    )
    handle_errors(app, figures)
    return app


def handle_errors(app: FastAPI, figures: Figures) -> None:
    @app.exception_handler(UriskError)
    async def ours(_: Request, exc: UriskError) -> Response:
        figures.errors.labels(type(exc).__name__.lstrip("_")).inc()
        if isinstance(exc, NotReady):
            return refused(503, {**problem_of(exc), "error": "NotReady"})
        return reply_to(exc)

    @app.exception_handler(RequestValidationError)
    async def unfit(_: Request, exc: RequestValidationError) -> Response:
        first = exc.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"] if part != "body") or "the body"
        return await ours(
            _, InputError(f"{place}: {first['msg']}.", fix="see /openapi.json for what is taken")
        )

    @app.exception_handler(HTTPException)
    async def http(_: Request, exc: HTTPException) -> Response:
        response = refusal_of(
            exc.status_code, f"{exc.detail}.", "see /openapi.json for what there is"
        )
        response.headers.update(exc.headers or {})
        return response

    @app.exception_handler(Exception)
    async def mistake(_: Request, exc: Exception) -> Response:
        figures.errors.labels(type(exc).__name__).inc()
        return refusal_of(500, "a mistake of ours.", "look at the service's log")
