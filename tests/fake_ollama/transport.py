"""HTTP/1.1 on asyncio streams: as much of it as one local server needs, and nothing about models.

Knows: requests, replies, keep-alive, chunks, limits, and that a client has left.
Does not know: paths, JSON.
Why not a library: the fake must start anywhere in milliseconds, must show exactly the bytes
that Ollama shows (no header before the first object), and must see a client leave while it is
computing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus

HEAD_BYTES = 64 * 1024
"""Longest request line with headers."""
BODY_BYTES = 64 * 1024 * 1024
"""Longest request body; more is 413."""
HASHED_BYTES = 512 * 1024 * 1024
"""The same for a body that is not kept."""
AUTO_LENGTH_BYTES = 2048
"""Up to here Go's server knows the length before it writes; longer replies go out in chunks."""
_AHEAD_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024


class BadRequest(Exception):
    """What came is not HTTP that we serve; the connection ends after the reply."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request. Header names are lower case; the query is cut off the path."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    keep: bool
    chunks: bool  # the client understands a chunked reply (HTTP/1.1)
    hashed: Hashed | None = None  # in place of the body, where that is not kept


class Kept:
    """A body in memory."""

    most_bytes = BODY_BYTES

    def __init__(self) -> None:
        self.held = bytearray()

    def take(self, data: bytes) -> None:
        self.held += data


class Hashed:
    """A body of which only the size, the sha256 and the first bytes are kept."""

    most_bytes = HASHED_BYTES

    def __init__(self) -> None:
        self.size = 0
        self.start = b""
        self.sha256 = hashlib.sha256()

    def take(self, data: bytes) -> None:
        self.start = (self.start + data[:4])[:4]
        self.size += len(data)
        self.sha256.update(data)


def _none(_path: str) -> bool:
    return False


Handler = Callable[[Request, "Reply"], Awaitable[None]]


# ---- reading -------------------------------------------------------------------------------------


class Incoming:
    """Bytes of one connection: read in pieces, and watched for its end while nobody reads."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._held = bytearray()

    async def _more(self) -> bool:
        data = await self._reader.read(_READ_BYTES)
        self._held += data
        return bool(data)

    async def until(self, mark: bytes, limit: int) -> bytes | None:
        """Bytes up to and with the mark; None if the connection ended before it."""
        while (at := self._held.find(mark)) < 0:
            if len(self._held) > limit:
                raise BadRequest(431, "431 Request Header Fields Too Large")
            if not await self._more():
                return None
        return self._take(at + len(mark))

    async def exactly(self, count: int) -> bytes | None:
        """That many bytes; None if the connection ended before."""
        while len(self._held) < count:
            if not await self._more():
                return None
        return self._take(count)

    def _take(self, count: int) -> bytes:
        data = bytes(self._held[:count])
        del self._held[:count]
        return data

    async def into(self, body: Kept | Hashed, count: int) -> bool:
        """Hand that many bytes over as they come; False if the connection ended before."""
        while count:
            if not self._held and not await self._more():
                return False
            data = self._take(min(count, len(self._held)))
            body.take(data)
            count -= len(data)
        return True

    async def gone(self) -> None:
        """
        Return when the client has closed its end. Requests sent ahead are kept for later, within a
        bound.
        """
        while len(self._held) < _AHEAD_BYTES:
            if not await self._more():
                return
        await asyncio.Event().wait()


async def read_request(
    incoming: Incoming, go_on: Callable[[], None], hashes: Callable[[str], bool] = _none
) -> Request | None:
    """The next request of a connection; None when there is none.

    Parameters
    ----------
    incoming
        The connection's bytes.
    go_on
        Called when the client waits for `100 Continue` before it sends the body.
    hashes
        Whether the body of a request for this path is hashed only.

    Raises
    ------
    BadRequest
        Not HTTP, or larger than the bounds of this module.
    """
    head = await incoming.until(b"\r\n\r\n", HEAD_BYTES)
    if head is None:
        return None
    line, *rest = head[:-4].decode("latin-1").lstrip("\r\n").split("\r\n")
    method, target, minor = _request_line(line)
    headers = _headers(rest)
    if minor and "host" not in headers:
        raise BadRequest(400, "400 Bad Request: missing required Host header")
    if headers.get("expect", "").lower() == "100-continue":
        go_on()
    path = target.partition("?")[0]
    body = Hashed() if hashes(path) else Kept()
    if not await _body(incoming, headers, body):
        return None
    tokens = {token.strip() for token in headers.get("connection", "").lower().split(",")}
    keep = "close" not in tokens if minor else "keep-alive" in tokens
    request = Request(
        method=method, path=path, headers=headers, body=b"", keep=keep, chunks=bool(minor)
    )
    return (
        replace(request, hashed=body)
        if isinstance(body, Hashed)
        else replace(request, body=bytes(body.held))
    )


def _request_line(line: str) -> tuple[str, str, int]:
    parts = line.split(" ")
    if (
        len(parts) != 3
        or not parts[0].isalpha()
        or not parts[2].startswith("HTTP/1.")
        or not parts[2][7:].isdigit()
    ):
        raise BadRequest(400, "400 Bad Request")
    return parts[0], parts[1], int(parts[2][7:])


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(400, "400 Bad Request")
        headers[name.lower()] = value.strip()
    return headers


async def _body(incoming: Incoming, headers: Mapping[str, str], body: Kept | Hashed) -> bool:
    """Whether all of it came."""
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked":
            raise BadRequest(501, "501 Not Implemented: unsupported transfer encoding")
        return await _chunked_body(incoming, body)
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise BadRequest(400, "400 Bad Request: bad Content-Length")
    if len(length) > 18 or int(length) > body.most_bytes:
        raise BadRequest(413, "413 Request Entity Too Large")
    return await incoming.into(body, int(length))


async def _chunked_body(incoming: Incoming, body: Kept | Hashed) -> bool:
    room = body.most_bytes
    while True:
        line = await incoming.until(b"\r\n", HEAD_BYTES)
        if line is None:
            return False
        size = _chunk_size(line)
        room -= size
        if room < 0:
            raise BadRequest(413, "413 Request Entity Too Large")
        if not size:
            break
        if not await incoming.into(body, size) or await incoming.exactly(2) is None:
            return False
    while (line := await incoming.until(b"\r\n", HEAD_BYTES)) not in {None, b"\r\n"}:
        pass  # trailers
    return line is not None


def _chunk_size(line: bytes) -> int:
    digits = line.split(b";")[0].strip()
    try:
        size = int(digits, 16)
    except ValueError:
        raise BadRequest(400, "400 Bad Request: bad chunk size") from None
    if size < 0 or len(digits) > 16:
        raise BadRequest(400, "400 Bad Request: bad chunk size")
    return size


# ---- writing -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reply:
    """The answer to one request. Nothing is sent before there is something to say."""

    writer: asyncio.StreamWriter
    request: Request
    status: int = 0  # 0 until the head is sent
    extra: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = False
    # Cuts a chunk into several, for tests of clients
    pieces: Callable[[bytes], list[bytes]] | None = None

    async def whole(
        self,
        status: int,
        body: bytes,
        kind: str | None = None,
        *,
        length: bool = True,
        **headers: str,
    ) -> None:
        """
        One reply with a known body. Long ones, and those with `length=False`, go out in chunks.
        """
        if (
            self.request.method == "HEAD"
            or (length and len(body) <= AUTO_LENGTH_BYTES)
            or not self.request.chunks
        ):
            self._head(status, kind, {**headers, "Content-Length": str(len(body))})
            self.writer.write(b"" if self.request.method == "HEAD" else body)
            await self.writer.drain()
            return
        self.begin(status, kind, **headers)
        await self.send(body)
        await self.end()

    def begin(self, status: int, kind: str | None, **headers: str) -> None:
        """Write the head of a reply whose length is not known. It leaves with the first chunk."""
        self.chunked = self.request.chunks
        self._head(
            status, kind, {**headers, **({"Transfer-Encoding": "chunked"} if self.chunked else {})}
        )

    async def send(self, data: bytes) -> None:
        """One chunk, at once; waits while the client is slower than we are."""
        for part in self.pieces(data) if self.pieces else [data]:
            self.writer.write(b"%x\r\n%b\r\n" % (len(part), part) if self.chunked else part)
            await self.writer.drain()

    async def end(self) -> None:
        """The regular end of a chunked body."""
        if self.chunked:
            self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def abort(self) -> None:
        """Cut the connection as a crash would: without the end of the body."""
        self.writer.transport.abort()

    @property
    def keep(self) -> bool:
        """Whether the connection can carry another request."""
        return self.request.keep and (self.request.chunks or "Content-Length" in self.extra)

    def _head(self, status: int, kind: str | None, headers: dict[str, str]) -> None:
        self.status = status
        self.extra = headers
        lines = {**({"Content-Type": kind} if kind else {}), **headers, "Date": _date()}
        if not self.request.keep:
            lines["Connection"] = "close"
        elif not self.request.chunks:
            lines["Connection"] = "keep-alive"
        phrase = _phrase(status)
        text = f"HTTP/1.1 {status} {phrase}\r\n" + "".join(
            f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items()
        )
        self.writer.write(text.encode("latin-1") + b"\r\n")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "status code"


def _date() -> str:
    from email.utils import formatdate

    return formatdate(usegmt=True)


# ---- one connection ------------------------------------------------------------------------------


async def serve_connection(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    handler: Handler,
    hashes: Callable[[str], bool] = _none,
) -> None:
    """Serve the requests of one connection, in order, until either side ends it.

    When the client leaves while a request is served, the handler is cancelled and awaited. Nothing
    that a client sends makes this raise; a cancel from outside ends the connection at once.
    `hashes`: as in `read_request`.
    """
    incoming = Incoming(reader)
    try:
        while await _serve_one(incoming, writer, handler, hashes):
            pass
        writer.close()
        await writer.wait_closed()
    except (ConnectionError, TimeoutError):
        pass  # the client is gone; there is nobody to tell
    finally:
        # Without effect after a regular end; else what is unsent would keep the socket open
        writer.transport.abort()


async def _serve_one(
    incoming: Incoming,
    writer: asyncio.StreamWriter,
    handler: Handler,
    hashes: Callable[[str], bool],
) -> bool:
    try:
        request = await read_request(
            incoming, lambda: writer.write(b"HTTP/1.1 100 Continue\r\n\r\n"), hashes
        )
    except BadRequest as exc:
        refusal = Request(method="GET", path="", headers={}, body=b"", keep=False, chunks=True)
        await Reply(writer, refusal).whole(
            exc.status, exc.text.encode(), "text/plain; charset=utf-8"
        )
        return False
    if request is None:
        return False
    reply = Reply(writer, request)
    await _while_there(incoming, handler(request, reply))
    return reply.keep


async def _while_there(incoming: Incoming, work: Awaitable[None]) -> None:
    """Run the work; a ConnectionError if the client leaves before it is finished."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(incoming.gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ConnectionAbortedError("the client left")
        await task
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
