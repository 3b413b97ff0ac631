"""Lines that are sent as soon as they are there, and work that ends when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from urisk_nb.errors import UriskError
from urisk_nb.service.prometheus import ServiceMetrics
from urisk_nb.service.schemas import encode_error, encode_json

__all__ = ["LineResponse", "Lines", "run_unless_gone", "start_lines"]

T = TypeVar("T")


async def run_unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of the work; cancel it when the client disconnects."""

    async def wait_for_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.create_task(wait_for_disconnect())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


Lines = AsyncGenerator[dict[str, Any], None]


class LineResponse(StreamingResponse):
    """
    NDJSON, each line sent as soon as it is there.

    The first line is there before the status is sent, so that an early error has its own status.
    """

    media_type = "application/x-ndjson"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A client that disconnects stops the sending; what makes the lines must end, too.
        async with aclosing(self.body_iterator):  # type: ignore[type-var]  # made by encode_lines
            await super().__call__(scope, receive, send)


async def encode_lines(
    first: dict[str, Any], rest: Lines, metrics: ServiceMetrics
) -> AsyncGenerator[bytes, None]:
    """Yield each line as JSON; an error is the last line."""
    async with aclosing(rest):
        yield encode_json(first) + b"\n"
        try:
            async for line in rest:
                yield encode_json(line) + b"\n"
        except UriskError as exc:
            metrics.errors.labels(type(exc).__name__).inc()
            yield encode_json(encode_error(exc)) + b"\n"


async def start_lines(request: Request, lines: Lines) -> Response:
    """
    Return the response made of the lines, when the first one is there.

    An error before it has a status of its own.
    """
    try:
        first = await run_unless_gone(request.receive, anext(lines))
    except BaseException:
        await lines.aclose()
        raise
    return LineResponse(encode_lines(first, lines, request.app.state.metrics))
