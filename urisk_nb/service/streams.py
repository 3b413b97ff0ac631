"""Lines that are sent as soon as they are there, and work that ends when the client disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from urisk_nb.errors import UriskError
from urisk_nb.service.prometheus import ServiceMetrics
from urisk_nb.service.schemas import encode_error, encode_json

__all__ = ["ClientDisconnected", "LineResponse", "Lines", "run_unless_gone", "start_lines"]

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client has disconnected; there is nobody to answer."""


async def run_unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of the work; cancel it when the client disconnects."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.create_task(left())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


Lines = AsyncGenerator[dict[str, Any], None]


class LineResponse(Response):
    """
    NDJSON, each line sent as soon as it is there.

    The first line is there before the status is sent, so that an early error has its own status.
    """

    media_type = "application/x-ndjson"

    def __init__(self, first: dict[str, Any], rest: Lines, metrics: ServiceMetrics) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.first, self.rest, self.metrics = first, rest, metrics

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnected, OSError):
            async with aclosing(self.rest):
                await run_unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send_line(send, self.first)
        try:
            async for line in self.rest:
                await send_line(send, line)
        except UriskError as exc:
            self.metrics.errors.labels(type(exc).__name__).inc()
            await send_line(send, encode_error(exc))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_line(send: Send, line: dict[str, Any]) -> None:
    await send({"type": "http.response.body", "body": encode_json(line) + b"\n", "more_body": True})


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
    return LineResponse(first, lines, request.app.state.metrics)
