"""A small HTTP client for one thing: ask llama.cpp's own server on this machine and read its
events.

Knows: a POST, chunked bodies, server-sent events.
Does not know: what is in them.
Why not a library: the stand-in has no dependencies but the engine, and closing this connection is
how a generation is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import urlsplit

from urisk_nb.standin.transport import BadRequest, Incoming

_LINE_BYTES = 1024 * 1024


class UpstreamRefused(Exception):
    """The server answered with another status than 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


class UpstreamLost(ConnectionError):
    """The server cannot be reached, or ended in the middle."""


async def events(
    address: str, path: str, payload: Mapping[str, Any]
) -> AsyncGenerator[dict[str, Any], None]:
    """The events of one answer, decoded, without the closing `[DONE]`; one that is not streamed is
    one event.

    Closing the generator, or cancelling its reader, closes the connection at once: the server stops
    computing.

    Raises
    ------
    UpstreamRefused
        A status other than 200.
    UpstreamLost
        No connection, or its end before the end of the body.
    """
    parts = urlsplit(address)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError as exc:
        raise UpstreamLost(f"{address} does not answer: {exc}") from exc
    try:
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )
        head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        async with contextlib.aclosing(_body(Incoming(reader))) as blocks:
            if not payload.get("stream"):
                yield json.loads(b"".join([block async for block in blocks]))
                return
            async with contextlib.aclosing(_events(blocks)) as found:
                async for event in found:
                    yield event
    except (
        ConnectionError,
        BadRequest,
        ValueError,
        IndexError,
    ) as exc:  # the last two: no HTTP, no JSON
        raise UpstreamLost(f"{address} ended in the middle of an answer: {exc}") from exc
    finally:
        writer.transport.abort()


async def _body(incoming: Incoming) -> AsyncGenerator[bytes, None]:
    head = await incoming.until(b"\r\n\r\n", _LINE_BYTES)
    if head is None:
        raise UpstreamLost("no reply")
    status = int(head.split(b" ", 2)[1])
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")[1:]]
    headers = {name: value.strip() for name, _, value in lines}
    chunked = headers.get(b"transfer-encoding") == b"chunked"
    blocks = (
        _chunks(incoming)
        if chunked
        else _sized(incoming, int(headers.get(b"content-length", b"0")))
    )
    if status != 200:
        raise UpstreamRefused(status, b"".join([block async for block in blocks]))
    async with contextlib.aclosing(blocks):
        async for block in blocks:
            yield block


async def _sized(incoming: Incoming, count: int) -> AsyncGenerator[bytes, None]:
    block = await incoming.exactly(count)
    if block is None:
        raise UpstreamLost("cut short")
    yield block


async def _chunks(incoming: Incoming) -> AsyncGenerator[bytes, None]:
    while True:
        line = await incoming.until(b"\r\n", _LINE_BYTES)
        size = int(line, 16) if line else -1
        block = await incoming.exactly(size + 2) if size >= 0 else None
        if block is None:
            raise UpstreamLost("cut short")
        if not size:
            return
        yield block[:-2]


async def _events(blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    held = b""
    async for block in blocks:
        *whole, held = (held + block).split(b"\n")
        for line in whole:
            name, _, value = line.strip().partition(b":")
            value = value.strip()
            if value == b"[DONE]":
                return
            # The rest are comments that keep the connection open
            if value and name in {b"data", b"error"}:
                event = json.loads(value)
                yield {"error": event} if name == b"error" else event
