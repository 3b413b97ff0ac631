"""The HTTP client: one connection pool on one loop, and every foreign exception turned into ours.

The only importer of httpx. Answers are always streamed, so that the phases of a call are visible
and that leaving a call reaches the server: closing an iterator closes its connection, and the
server then aborts the generation. Liveness is asked over a pool of its own, so that it never waits
behind answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx

from urisk_nb.errors import (
    AnswerIncomplete,
    CloudModelBlocked,
    InputError,
    PortTaken,
    ProtocolError,
    ServerBusy,
    ServerConnectionLost,
    ServerError,
    ServerNotRunning,
    ServerTimeout,
    StreamInterrupted,
    UriskError,
)
from urisk_nb.llm import wire
from urisk_nb.settings import Settings

__all__ = ["FAULTS", "Client"]

CONNECT_S = 2.0
PROBE_S = 2.5
DRAIN_S = 0.5
MAX_CONNECTIONS = 256  # as many as calls may be in flight; the manager bounds them
MAX_IDLE = 8
KEPT_OPEN_S = 1200.0
MAX_REFUSAL_BYTES = 64 * 1024
BLOCK_BYTES = 256 * 1024

# What each exception of httpx means before the first token. A subclass counts as its nearest base
# that stands here.
FAULTS: dict[type[Exception], type[ServerError]] = {
    httpx.ConnectError: ServerNotRunning,
    httpx.ConnectTimeout: ServerNotRunning,
    httpx.PoolTimeout: ServerBusy,
    httpx.TimeoutException: ServerTimeout,
    httpx.NetworkError: ServerConnectionLost,
    httpx.RemoteProtocolError: ServerConnectionLost,
    httpx.LocalProtocolError: ProtocolError,
    httpx.ProxyError: ProtocolError,
    httpx.UnsupportedProtocol: ProtocolError,
    httpx.DecodingError: ProtocolError,
    httpx.TooManyRedirects: ProtocolError,
    httpx.InvalidURL: ProtocolError,
    httpx.StreamError: ProtocolError,
    httpx.HTTPStatusError: ProtocolError,
    httpx.CookieConflict: ProtocolError,
}
FIXES: dict[type[ServerError], str] = {
    ServerNotRunning: "start it: %urisk_start, or `ollama serve` in a terminal",
    ServerBusy: "ask less at once: %env URISK_PARALLEL=1",
    ServerTimeout: "give it longer: %env OLLAMA_TIMEOUT=120",
    ServerConnectionLost: "ask again; if it goes on, look at the server's log",
    ProtocolError: "check that OLLAMA_URL is an Ollama server",
}
NOT_OLLAMA = "stop that program, or choose another address: %env OLLAMA_URL=http://127.0.0.1:11500"


class Client:
    """
    Speaks to one server; used on one loop only.

    Parameters
    ----------
    settings
        Address, limits of time, and whether cloud models may be used.
    transport
        In place of the network, for tests.
    """

    def __init__(
        self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.settings = settings
        self._calls = self._pool(MAX_CONNECTIONS, transport)
        self._probes = self._pool(2, transport)

    def _pool(
        self, connections: int, transport: httpx.AsyncBaseTransport | None
    ) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.settings.base_url,
            # Silence is timed here, object by object; httpx would only see bytes.
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=MAX_IDLE,
                keepalive_expiry=KEPT_OPEN_S,
            ),
            transport=transport,
            # A proxy of the environment must not see evidence, and cannot reach loopback
            trust_env=False,
            # Building a TLS context costs tens of milliseconds, and plain http on loopback needs
            # none.
            verify=self.settings.url.startswith("https"),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._calls.aclose()
        await self._probes.aclose()

    # Small requests -------------------------------------------------------------------------------

    async def version(self, within_s: float = PROBE_S) -> str:
        """
        The server's version; blocks at most `within_s`.

        Raises
        ------
        ServerNotRunning
            Nothing listens.
        ServerTimeout
            Something listens and says nothing: a server that is starting or hung, or another
            program.
        PortTaken
            Something answers that is not Ollama.
        """
        with _mapped(self.settings):
            async with _limit(within_s, self._silent_probe):
                try:
                    reply = await self._probes.get("/api/version")
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as exc:
                    raise self._taken(
                        f"it does not speak HTTP: {exc or 'it breaks the connection'}"
                    ) from exc
        content = _json(reply)
        if (
            reply.status_code != 200
            or not isinstance(content, dict)
            or not isinstance(content.get("version"), str)
        ):
            raise self._taken(f"HTTP {reply.status_code} on /api/version")
        return str(content["version"])

    def _taken(self, seen: str) -> PortTaken:
        return PortTaken(
            f"{self.settings.host}:{self.settings.port} answers, but it is not Ollama ({seen}).",
            fix=NOT_OLLAMA,
        )

    def _silent_probe(self) -> ServerTimeout:
        address = f"{self.settings.host}:{self.settings.port}"
        return ServerTimeout(
            f"{address} takes connections and says nothing: a server that hangs, or another "
            "program.",
            fix=NOT_OLLAMA,
        )

    async def tags(self) -> list[wire.Model]:
        """The models that the server has, the newest first."""
        return [
            wire.model_of(entry) for entry in (await self._get("/api/tags")).get("models") or []
        ]

    async def loaded_models(self) -> list[wire.LoadedModel]:
        """The models in memory."""
        return [
            wire.loaded_model_of(entry)
            for entry in (await self._get("/api/ps")).get("models") or []
        ]

    async def _get(self, path: str) -> dict[str, Any]:
        with _mapped(self.settings):
            async with _limit(
                self.settings.timeout_s,
                lambda: self._silence(self.settings.timeout_s, "OLLAMA_TIMEOUT", ""),
            ):
                reply = await self._probes.get(path)
        if reply.status_code != 200:
            raise wire.error_of(reply.status_code, reply.text)
        content = _json(reply)
        if not isinstance(content, dict):
            raise ProtocolError(
                f"{path} is answered by {reply.text[:80]!r}.", fix=FIXES[ProtocolError]
            )
        return content

    # Files ----------------------------------------------------------------------------------------

    async def has_blob(self, digest: str) -> bool:
        """Whether the server has the file of this digest (`sha256:` and 64 hex digits)."""
        with _mapped(self.settings):
            async with _limit(
                self.settings.timeout_s,
                lambda: self._silence(self.settings.timeout_s, "OLLAMA_TIMEOUT", ""),
            ):
                reply = await self._probes.head(f"/api/blobs/{digest}")
        if reply.status_code not in (200, 404):
            raise wire.error_of(reply.status_code, reply.text)
        return reply.status_code == 200

    async def put_blob(self, digest: str, path: Path) -> None:
        """
        Send a file; returns when the server has it and has found the digest right. The whole is
        bounded by the load timeout.

        Raises InputError where the file cannot be read, and what the server's refusal means
        (wire.ERRORS).
        """
        within_s = self.settings.load_timeout_s
        with _mapped(self.settings):
            async with _limit(
                within_s,
                lambda: self._silence(within_s, "URISK_LOAD_TIMEOUT", "while it was sent a file"),
            ):
                reply = await self._calls.post(f"/api/blobs/{digest}", content=_blocks(path))
        if reply.status_code not in (200, 201):
            raise wire.error_of(reply.status_code, reply.text)

    # Streams --------------------------------------------------------------------------------------

    async def chat(self, body: bytes) -> AsyncGenerator[wire.Piece | wire.Final, None]:
        """
        The pieces of an answer, then its last object. Leaving the iteration closes the connection,
        and the server stops.

        Raises
        ------
        ServerNotRunning, ServerConnectionLost, ServerTimeout
            Before the first piece; asking again is safe.
        StreamInterrupted
            After it; carries the text so far.
        AnswerIncomplete
            The stream ended in order, but without its last object.
        UriskError
            What the server's refusal means (wire.ERRORS).
        """
        said: list[str] = []
        try:
            async with aclosing(self._objects("/api/chat", body)) as objects:
                async for content in objects:
                    piece = wire.piece_of(content)
                    said.append(piece.text)
                    yield piece
                    if isinstance(piece, wire.Final):
                        await _drain(objects)
                        return
        except (ServerConnectionLost, ServerTimeout) as exc:
            if not said:
                raise
            raise _interrupted(exc, "".join(said)) from exc
        except UriskError as exc:
            exc.facts["partial"] = "".join(said)
            raise
        fix = "ask again; a long run of equal pieces makes some versions of Ollama stop here"
        raise AnswerIncomplete(
            "the answer ended without its last object (no done: true).",
            fix=fix,
            partial="".join(said),
        )

    async def load(self, body: bytes) -> None:
        """Load (or unload) a model; blocks until the server says that it is done."""
        async with aclosing(self._objects("/api/chat", body)) as objects:
            async for content in objects:
                wire.piece_of(content)

    async def pull(self, model: str) -> AsyncGenerator[wire.PullProgress, None]:
        """
        The progress of a download; ends after `success`, which is the only proof of it.

        Leaving the iteration stops the download; what has arrived is kept by the server and resumed
        the next time.
        """
        steps = self._steps(
            "/api/pull",
            wire.pull_body(model),
            "download",
            "max retries exceeded: the download ended without success",
        )
        async with aclosing(steps):
            async for progress in steps:
                yield progress

    async def create(
        self,
        model: str,
        *,
        base: str = "",
        adapters: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[wire.PullProgress, None]:
        """
        The steps in which a model is made, of another one and an adapter or of files; ends after
        `success`, which is the only proof of it.

        The server must have the base (its pull would say `success`, too) and the blobs. Leaving the
        iteration gives it up.
        """
        body = wire.create_body(model, base=base, adapters=adapters, files=files)
        async with aclosing(
            self._steps("/api/create", body, "creation", "the creation ended without success")
        ) as steps:
            async for progress in steps:
                yield progress

    async def _steps(
        self, path: str, body: bytes, what: str, short: str
    ) -> AsyncGenerator[wire.PullProgress, None]:
        """The lines up to `success`; an end without it is the error that `short` means."""
        # Between two lines the server may verify gigabytes: it is given as long as a load.
        async with aclosing(self._objects(path, body, f"in the middle of a {what}")) as objects:
            async for content in objects:
                progress = wire.progress_of(content)
                yield progress
                if progress.status == "success":
                    await _drain(objects)
                    return
        raise wire.error_of(None, short)

    async def _objects(
        self, path: str, body: bytes, slow: str = ""
    ) -> AsyncGenerator[dict[str, Any], None]:
        """
        The objects of a streamed reply: the first within the load timeout, each further one within
        the timeout, or that one if slow.
        """
        lines = wire.Lines()
        first = self.settings.load_timeout_s
        next_limit = (self.settings.timeout_s, "OLLAMA_TIMEOUT", "between two tokens")
        if slow:
            next_limit = (first, "URISK_LOAD_TIMEOUT", slow)
        async with self._opened(path, body, first) as reply:
            chunks = reply.aiter_raw()
            limit = (first, "URISK_LOAD_TIMEOUT", "for the first token")
            while (chunk := await self._next(chunks, *limit)) is not None:
                for content in lines.feed(chunk):
                    yield content
                limit = next_limit
            for content in lines.end():
                yield content

    @asynccontextmanager
    async def _opened(
        self, path: str, body: bytes, within_s: float
    ) -> AsyncIterator[httpx.Response]:
        with _mapped(self.settings):
            request = self._calls.build_request(
                "POST", path, content=body, headers={"Content-Type": "application/json"}
            )
            async with _limit(
                within_s,
                lambda: self._silence(within_s, "URISK_LOAD_TIMEOUT", "for the first token"),
            ):
                reply = await self._calls.send(request, stream=True)
            try:
                if reply.status_code != 200:
                    error = wire.error_of(reply.status_code, await self._refusal(reply))
                    error.facts["retry_after_s"] = _seconds(reply.headers.get("Retry-After"))
                    raise error
                yield reply
            finally:
                await reply.aclose()

    async def _refusal(self, reply: httpx.Response) -> str:
        """The body of a refusal, as far as it comes within a moment."""
        body = bytearray()
        with contextlib.suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(min(PROBE_S, self.settings.timeout_s)):
                async for chunk in reply.aiter_raw():
                    body += chunk
                    if len(body) > MAX_REFUSAL_BYTES:
                        break
        return body.decode("utf-8", "replace")

    async def _next(
        self, chunks: AsyncIterator[bytes], within_s: float, name: str, what: str
    ) -> bytes | None:
        with _mapped(self.settings):
            async with _limit(within_s, lambda: self._silence(within_s, name, what)):
                return await anext(chunks, None)

    def _silence(self, within_s: float, name: str, what: str) -> ServerTimeout:
        return ServerTimeout(
            f"{self.settings.url} was silent for {within_s:g} s{' ' + what if what else ''}.",
            fix=f"give it longer: %env {name}={within_s * 4:g}",
        )

    # Cloud ----------------------------------------------------------------------------------------

    def refuse_cloud(self, model: str, known: wire.Model | None = None) -> None:
        """
        Raise CloudModelBlocked for a model that runs elsewhere, before any text is sent, unless the
        settings allow it.
        """
        if not self.settings.allow_cloud and (
            wire.is_cloud(model) or (known is not None and known.remote)
        ):
            raise CloudModelBlocked(
                f"{model!r} runs in Ollama's cloud: the text would leave this machine.",
                fix="use a model that runs here, or allow it: %env URISK_ALLOW_CLOUD=true",
            )


class _mapped:  # noqa: N801  a context manager, used like a function
    """Turns what httpx raises into what it means."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        if isinstance(
            exc, httpx.HTTPError | httpx.InvalidURL | httpx.StreamError | httpx.CookieConflict
        ):
            meaning = _meaning(type(exc))
            words = str(exc) or type(exc).__name__
            said = f"{_FIRST_WORDS[meaning]} ({words})" if meaning in _FIRST_WORDS else words
            raise meaning(f"{self.settings.url}: {said}.", fix=FIXES[meaning]) from exc


_FIRST_WORDS = {
    ServerNotRunning: "nothing answers",
    ServerConnectionLost: "the connection broke",
    ServerBusy: "no connection was free",
}


def _meaning(kind: type[BaseException]) -> type[ServerError]:
    return next((FAULTS[base] for base in kind.__mro__ if base in FAULTS), ProtocolError)


@asynccontextmanager
async def _limit(within_s: float, error: Callable[[], UriskError]) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(within_s):
            yield
    except TimeoutError as exc:
        if isinstance(exc, UriskError):
            raise
        raise error() from exc


async def _drain(objects: AsyncGenerator[dict[str, Any], None]) -> None:
    """
    Read what follows the last object, which is the end of the body: only then can the connection
    serve the next call.
    """
    with contextlib.suppress(TimeoutError, UriskError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in objects:
                pass


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    try:
        async with await anyio.open_file(path, "rb") as file:
            while block := await file.read(BLOCK_BYTES):
                yield block
    except OSError as exc:
        raise InputError(
            f"{path} cannot be read: {exc.strerror or exc}.", fix="check the file and its rights"
        ) from exc


def _interrupted(cause: ServerError, partial: str) -> StreamInterrupted:
    return StreamInterrupted(
        f"the answer was cut off after {len(partial)} characters: {cause.message}",
        fix="ask again; the partial text is on the error, as .partial",
        partial=partial,
    )


def _seconds(header: str | None) -> float | None:
    """
    Retry-After as a number of seconds; a date, which is the header's other form, is passed over.
    """
    return float(header) if header is not None and header.isascii() and header.isdigit() else None


def _json(reply: httpx.Response) -> Any:
    try:
        return reply.json()
    except (ValueError, UnicodeDecodeError):
        return None
