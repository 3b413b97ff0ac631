"""
A caller may leave: work that is cancelled then, and lines that are sent as soon as they are there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from urisk_nb.errors import UriskError
from urisk_nb.service.prometheus import Figures
from urisk_nb.service.schemas import dumped, problem_of

__all__ = ["CallerGone", "LineResponse", "Lines", "begun_lines", "unless_gone"]

T = TypeVar("T")


class CallerGone(Exception):
    """The caller has left; nobody is to be told anything."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; the work is cancelled when the caller leaves."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(work), asyncio.create_task(left())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


Lines = AsyncGenerator[dict[str, Any], None]


class LineResponse(Response):
    """
    NDJSON, a line as soon as it is there. The first line is there before the status is sent, so
    that an early error has its own.
    """

    media_type = "application/x-ndjson"

    def __init__(self, first: dict[str, Any], rest: Lines, figures: Figures) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.first, self.rest, self.figures = first, rest, figures

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(CallerGone, OSError):
            async with aclosing(self.rest):
                await unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send_line(send, self.first)
        try:
            async for line in self.rest:
                await send_line(send, line)
        except UriskError as exc:
            self.figures.errors.labels(type(exc).__name__).inc()
            await send_line(send, problem_of(exc))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_line(send: Send, line: dict[str, Any]) -> None:
    await send({"type": "http.response.body", "body": dumped(line) + b"\n", "more_body": True})


async def begun_lines(request: Request, lines: Lines) -> Response:
    """
    The reply made of the lines, begun when the first one is there; an error before it has a status
    of its own.
    """
    try:
        first = await unless_gone(request.receive, _next(lines))
    except BaseException:
        await lines.aclose()
        raise
    return LineResponse(first, lines, request.app.state.figures)


async def _next(lines: Lines) -> dict[str, Any]:
    return await anext(lines)
