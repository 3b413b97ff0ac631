"""The app: its lifespan, its routes, its guard, and what each error looks like."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from urisk_nb.arguments import refuse_unknown, require
from urisk_nb.errors import InputError, UriskError
from urisk_nb.service.guard import Guard
from urisk_nb.service.live_session import LiveSession
from urisk_nb.service.prometheus import ServiceMetrics
from urisk_nb.service.routes import router
from urisk_nb.service.schemas import build_error_response, build_refusal
from urisk_nb.settings import DialectName, Engine, given_settings

__all__ = ["create_app", "read_token"]

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_CALLS = 2048


@refuse_unknown()
def create_app(
    *,
    token: str | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_calls: int = MAX_CALLS,
    url: str | None = None,
    api_key: str | None = None,
    headers: str | Mapping[str, str] | None = None,
    ca_file: Path | str | None = None,
    ca_folder: Path | str | None = None,
    model: str | None = None,
    engine: Engine | str | None = None,
    dialect: DialectName | str | None = None,
    gguf: Path | str | None = None,
    num_ctx: int | None = None,
    parallel: int | None = None,
    keep_alive: str | None = None,
    timeout_s: float | None = None,
    load_timeout_s: float | None = None,
    outage_wait_s: float | None = None,
    max_retries: int | None = None,
    auto_start: bool | None = None,
    keep_warm_s: float | None = None,
    data: Path | str | None = None,
    allow_shared: bool | None = None,
    allow_cloud: bool | None = None,
) -> FastAPI:
    """
    Return the app. Serving it starts the session of this process, and its end ends the session.

    A session that runs already is used and left running.

    Parameters
    ----------
    token
        Every caller sends it (`Authorization: Bearer ...`), except to /health; default:
        URISK_SERVICE_TOKEN. Without one the app answers on loopback only.
    max_body_bytes, max_calls
        A larger body is refused with 413; a POST beyond so many that wait is refused with 503.
    url, model, engine, dialect, gguf, num_ctx, parallel, keep_alive, timeout_s, load_timeout_s
        Settings, as `LLMManager.initialize` takes them; None leaves each to the environment.
    outage_wait_s, max_retries, auto_start, keep_warm_s, data, allow_shared, allow_cloud
        Further settings, likewise.
    api_key, headers, ca_file, ca_folder
        How a server behind a login, or with a certificate of your company, is reached.

    Raises
    ------
    InputError
        An argument that there is not; the likely one is named.
    SettingsError
        A setting, or the environment, has a value that cannot be used.
    """
    for name, most in (("max_body_bytes", max_body_bytes), ("max_calls", max_calls)):
        is_fit = isinstance(most, int) and not isinstance(most, bool) and most >= 1
        require(is_fit, name, most, "give a whole number from 1 on")
    token = read_token(token)
    session, metrics = LiveSession(given_settings(locals())), ServiceMetrics()

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
        exception_handlers={
            UriskError: _answer_error,
            RequestValidationError: _answer_invalid,
            HTTPException: _answer_unknown_route,
            Exception: _answer_error,
        },
    )
    app.state.session, app.state.metrics = session, metrics
    app.include_router(router)
    app.add_middleware(
        Guard,
        token=token,
        max_body_bytes=max_body_bytes,
        max_calls=max_calls,
        metrics=metrics,
    )
    return app


def read_token(token: object) -> str | None:
    """
    Return the token to ask for: the one given, else URISK_SERVICE_TOKEN; None where neither is set.

    Raises
    ------
    InputError
        It is no text, or an empty one.
    """
    if token is not None and (not isinstance(token, str) or not token.strip()):
        seen = "empty" if isinstance(token, str) else f"no text, but of type {type(token).__name__}"
        raise InputError(f"the token is {seen}.", fix="give some text, or leave it out")
    return token or os.environ.get("URISK_SERVICE_TOKEN") or None


async def _answer_error(request: Request, exc: Exception) -> Response:
    """Answer an error of the package with its status, and with name, message and fix as JSON."""
    request.app.state.metrics.errors.labels(type(exc).__name__).inc()
    if isinstance(exc, UriskError):
        return build_error_response(exc)
    return build_refusal(500, "Internal error in urisk_nb.", "look at the log of the service")


async def _answer_invalid(request: Request, exc: Exception) -> Response:
    """Answer a body that does not fit; FastAPI calls it with RequestValidationError alone."""
    first = cast(RequestValidationError, exc).errors()[0]
    place = ".".join(str(part)[:60] for part in first["loc"] if part != "body") or "the body"
    fix = "see /openapi.json for the parameters"
    return await _answer_error(request, InputError(f"{place}: {first['msg']}.", fix=fix))


async def _answer_unknown_route(_: Request, exc: Exception) -> Response:
    """Answer what the router refuses; FastAPI calls it with HTTPException alone."""
    seen = cast(HTTPException, exc)
    fix = "see /openapi.json for the routes"
    return build_refusal(seen.status_code, f"{seen.detail}.", fix, seen.headers)
