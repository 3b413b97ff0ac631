"""
The HTTP client: one connection pool on one loop, every exception of httpx turned into an error of
this package.

The only importer of httpx. Chats are streamed, so that the phases of a call are visible and a
caller that leaves reaches the server: a cancelled call closes its connection, and the server then
stops generating. Liveness is probed over a second pool, so that a probe never waits behind answers.
Over 400 lines: what a server can be asked and what each failure of httpx means belong in the one
file that knows httpx.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import ssl
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import anyio
import httpx

from urisk_nb.errors import (
    AccessDenied,
    AnswerIncomplete,
    BadRequest,
    CloudModelBlocked,
    InputError,
    NotSupportedByServer,
    PortTaken,
    ProtocolError,
    ServerBusy,
    ServerConnectionLost,
    ServerError,
    ServerNotRunning,
    ServerTimeout,
    StreamInterrupted,
    TlsFailed,
    UriskError,
)
from urisk_nb.llm.decompression import Decompressor, find_unknown_encoding, list_encodings
from urisk_nb.llm.dialects import ollama, openai
from urisk_nb.llm.dialects.dialect import (
    BUSY_STATUSES,
    Dialect,
    Feature,
    clean_words,
)
from urisk_nb.llm.messages import (
    Chunk,
    Final,
    LoadedModel,
    Model,
    ModelCard,
    PullProgress,
    ServerProps,
)
from urisk_nb.llm.refusals import Reply, describe_page, describe_refusal, is_page
from urisk_nb.llm.tls import (
    describe_missing_tls,
    describe_tls_end,
    describe_tls_failure,
    find_tls_error,
    find_unknown_name,
    is_cut_off,
    is_tls_alert,
    open_trust,
    takes_tls,
)
from urisk_nb.settings import DialectName, Settings

__all__ = ["HTTPX_ERRORS", "Client", "DecodeError", "OnChunk"]

CONNECT_S = 2.0
PROBE_S = 2.5
DRAIN_S = 0.5
MAX_LIMIT_S = 86_400  # the longest that a setting may be
NO_START = "for the first token"  # what a server was silent for
MAX_CONNECTIONS = 256  # as many as calls may be in flight; the manager bounds them
MAX_IDLE = 8
KEEP_OPEN_S = 1200.0
MAX_REFUSAL_BYTES = 64 * 1024
BLOCK_BYTES = 256 * 1024
NO_SUCH_PATH = (404, 405, 501)
JSON = {"Content-Type": "application/json"}

# What each exception of httpx means before the first token. A subclass counts as its nearest base
# that stands here.
HTTPX_ERRORS: dict[type[Exception], type[ServerError]] = {
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
    ProtocolError: "check that OLLAMA_URL is a model server",
}
FIRST_WORDS = {
    ServerNotRunning: "nothing answers",
    ServerConnectionLost: "the connection broke",
    ServerBusy: "no connection was free",
}
ANOTHER_ADDRESS = (
    "stop that program, or choose another address: %env OLLAMA_URL=http://127.0.0.1:11500"
)
CHECK_ADDRESS = "check OLLAMA_URL: the address of the model server, with its path and its port"
NAMED = {DialectName.OLLAMA: ollama.DIALECT, DialectName.OPENAI: openai.DIALECT}

T = TypeVar("T")
DecodeError = Callable[[int | None, str], UriskError]
OnChunk = Callable[[Chunk | Final], Any]
"""Called with each part of an answer as it comes, on the loop."""


class Client:
    """
    Speaks to one server; used on one loop only.

    Parameters
    ----------
    settings
        Address, dialect, limits of time, and whether cloud models may be used.
    transport
        In place of the network, for tests.

    Attributes
    ----------
    dialect
        The wire that the server speaks; native Ollama until a probe has found another.
    props
        What a llama.cpp server reported about itself at the last probe that found it.
    """

    def __init__(
        self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Raise SettingsError where https is wanted and SSL_CERT_FILE or SSL_CERT_DIR is bad."""
        self.settings = settings
        self.props = ServerProps()
        self.dialect = NAMED.get(settings.dialect, ollama.DIALECT)
        self._is_found = False  # whether a probe has found the dialect
        self._has_list = True  # whether the server lists its models
        self._addresses: dict[str, httpx.URL] = {}  # by path, at the address that is dialed
        self._calls = self._open_pool(MAX_CONNECTIONS, transport)
        self._probes = self._open_pool(2, transport)

    def _open_pool(
        self, connections: int, transport: httpx.AsyncBaseTransport | None
    ) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.settings.base_url,
            # Silence is timed here, part by part; httpx would only see bytes.
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            # Proxies that compress a stream hold it back. One that does so anyway is understood.
            headers={"Accept-Encoding": "identity", **self.settings.request_headers},
            event_hooks={"response": [_undo_compression]},
            follow_redirects=False,  # neither a key nor evidence goes to an address not named
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=MAX_IDLE,
                keepalive_expiry=KEEP_OPEN_S,
            ),
            transport=transport,
            trust_env=False,  # a proxy must not see evidence, and cannot reach loopback
            verify=self._trust,
        )

    @functools.cached_property
    def _trust(self) -> ssl.SSLContext | bool:
        # Building a TLS context costs tens of milliseconds, and plain http needs none.
        if not self.settings.is_tls:
            return False
        return open_trust(self.settings, partial(httpx.create_ssl_context, trust_env=False))

    def _dial(self, base_url: str) -> None:
        """Send what follows to this one of the addresses that the settings' address stands for."""
        self._calls.base_url = self._probes.base_url = httpx.URL(base_url)
        self._addresses.clear()

    def _find_address(self, path: str) -> httpx.URL:
        """Return the whole address of a path, parsed once: httpx would do so for each call."""
        if path not in self._addresses:
            self._addresses[path] = self._calls.build_request("POST", path).url
        return self._addresses[path]

    async def aclose(self) -> None:
        """Close all connections."""
        await self._calls.aclose()
        await self._probes.aclose()

    # Which server ---------------------------------------------------------------------------------

    def forget_dialect(self) -> None:
        """Find out anew at the next probe: another server may answer at the address by then."""
        self._is_found, self._has_list = False, True

    def _find(self, dialect: Dialect, props: ServerProps = ServerProps()) -> None:  # noqa: B008  frozen
        self.dialect, self.props, self._is_found = dialect, props, True

    async def probe(self, within_s: float = PROBE_S) -> str:
        """
        Return the server's version, and find out its dialect where that is not known; block at most
        `within_s`.

        Raises
        ------
        ServerNotRunning
            Nothing listens.
        ServerTimeout
            Something listens and says nothing: a server that starts or hangs, or another program.
        ServerBusy
            The server takes no request now: a llama.cpp server is still loading its model, say.
        AccessDenied, TlsFailed
            It wants a login, or there is no https with it.
        PortTaken
            Something answers that speaks no known dialect.
        """
        last: ServerNotRunning | None = None
        for base_url in self.settings.base_urls:  # `localhost` may be either number
            self._dial(base_url)
            try:
                return await self._probe(within_s)
            except ServerNotRunning as exc:
                last = last or exc
        self._dial(self.settings.base_url)  # where a server is started, if one is
        assert last is not None  # noqa: S101  there is one address at least
        raise last

    async def _probe(self, within_s: float) -> str:
        with _translate_errors(self.settings):
            try:
                async with asyncio.timeout(within_s):
                    return await self._identify()
            except UriskError:
                raise
            except TimeoutError as exc:
                raise ServerTimeout(
                    f"{self._address} takes connections and says nothing: a server that hangs, or "
                    "another program.",
                    fix=ANOTHER_ADDRESS if self.settings.is_loopback else CHECK_ADDRESS,
                ) from exc
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as exc:
                if is_tls_alert(str(exc)) or find_tls_error(exc) is not None:
                    raise  # what it means is said outside
                if not self.settings.is_tls and await takes_tls(*self._place):
                    raise describe_missing_tls(self.settings) from exc
                if self.settings.is_tls and not str(exc):
                    raise describe_tls_end(self.settings) from exc
                words = self.settings.redact(str(exc)) or "it breaks the connection"
                seen = f"it does not speak HTTP: {words}"
                raise self._taken(seen, NAMED.get(self.settings.dialect)) from exc

    @property
    def _place(self) -> tuple[str, int]:
        base = self._probes.base_url
        return base.host, base.port or self.settings.port

    @property
    def _address(self) -> str:
        return self.settings.url

    async def _identify(self) -> str:
        known = self.dialect if self._is_found else NAMED.get(self.settings.dialect)
        seen, refusal = "", None
        if known in (None, ollama.DIALECT):
            reply = await self._probes.get("/api/version")
            content = _load_json(reply)
            version = content.get("version") if isinstance(content, dict) else None
            if reply.status_code == 200 and isinstance(version, str):
                self._find(ollama.DIALECT)
                return clean_words(version)
            refusal = self._read_barrier(reply)
            seen = f"HTTP {reply.status_code} on /api/version"
            if known is not None:
                raise refusal or self._taken(seen, known)
        if known is openai.LLAMA_CPP:
            return await self._check_llama_cpp()
        return await self._identify_openai(seen, known, refusal)

    def _read_barrier(self, reply: httpx.Response) -> UriskError | None:
        """
        Return what stands between this machine and a server at the address: a login, a redirect, a
        proxy whose server is down; None where what answers may be another kind of server.
        """
        status = reply.status_code
        if 200 <= status < 300 and is_page(self._to_reply(reply)):
            page = describe_page(self._to_reply(reply), self.settings)
            return PortTaken(page.message, fix=page.fix, status=status)
        if status < 300 or status in NO_SUCH_PATH or _is_loading(reply):
            return None
        barrier = describe_refusal(self._to_reply(reply), self.settings)
        if barrier is None and (status >= 500 or status in BUSY_STATUSES):
            barrier = self._to_error(reply, reply.text, openai.decode_error)
        return barrier

    async def _identify_openai(
        self, seen: str, known: Dialect | None, refusal: UriskError | None
    ) -> str:
        reply = await self._probes.get(openai.DIALECT.models_path)
        content = _load_json(reply)
        if _is_loading(reply):
            raise openai.decode_error(reply.status_code, reply.text)
        own = self._read_barrier(reply)
        # A gateway may close the one path, and want a key for the other
        is_closed_path = isinstance(refusal, AccessDenied) and refusal.facts["status"] == 403
        if refusal is None or (is_closed_path and own is not None):
            refusal = own
        if known is not None and await self._has_only_chat(reply):
            self._find(known)
            return ""
        if reply.status_code != 200 or not openai.is_model_list(content):
            and_seen = f"{seen}, " if seen else ""
            seen = f"{and_seen}HTTP {reply.status_code} on {openai.DIALECT.models_path}"
            raise refusal or self._taken(seen, known)
        if not openai.is_llama_cpp(reply.headers, content):
            self._find(openai.DIALECT)
            return openai.read_owner(content)
        headers = openai.LLAMA_CPP.headers
        props = _load_json(await self._probes.get("/props", headers=headers))
        adapters = _load_json(await self._probes.get("/lora-adapters", headers=headers))
        self._find(openai.LLAMA_CPP, openai.decode_props(props, adapters))
        return self.props.build

    async def _has_only_chat(self, reply: httpx.Response) -> bool:
        """
        Return whether a server answers chats, and has no list of models.

        Its wire and its model must have been named: without a list, nothing else shows them. The
        chat has no messages, so that the server refuses it before any work.
        """
        lacks_list = reply.status_code in NO_SUCH_PATH
        settings = self.settings
        if not (lacks_list and settings.dialect is DialectName.OPENAI and settings.model_is_given):
            return False
        chat = await self._probes.post(
            openai.DIALECT.chat_path,
            json={"model": settings.model, "messages": [], "max_tokens": 1},
        )
        self._has_list = chat.status_code in NO_SUCH_PATH
        return not self._has_list

    async def _check_llama_cpp(self) -> str:
        reply = await self._probes.get("/health", headers=openai.LLAMA_CPP.headers)
        if not openai.is_llama_cpp(reply.headers) and not _is_loading(reply):
            taken = self._taken(f"HTTP {reply.status_code} on /health", openai.LLAMA_CPP)
            raise self._read_barrier(reply) or taken
        if reply.status_code != 200:
            raise self._to_error(reply, reply.text, openai.decode_error)
        return self.props.build

    def _taken(self, seen: str, known: Dialect | None) -> PortTaken:
        wanted = {
            "ollama": "it is not Ollama",
            "openai": "it is not an OpenAI-compatible server",
            "llama.cpp": "it is not a llama.cpp server any more",
        }
        neither = "it is neither Ollama nor an OpenAI-compatible server"
        what = neither if known is None else wanted[known.name]
        fix = ANOTHER_ADDRESS if self.settings.is_loopback else CHECK_ADDRESS
        return PortTaken(f"{self._address} answers, but {what} ({seen}).", fix=fix)

    def require(self, feature: Feature, what: str) -> None:
        """
        Check that the server can do something.

        Raises
        ------
        NotSupportedByServer
            It cannot; the message says what was wanted.
        """
        if not self.dialect.can(feature):
            raise self._build_unsupported_error(what)

    def _build_unsupported_error(self, what: str) -> NotSupportedByServer:
        return NotSupportedByServer(
            f"the {self.dialect.name} server at {self.settings.url} cannot {what}.",
            fix="do it where that server is started, or use Ollama",
        )

    # Refusals -------------------------------------------------------------------------------------

    async def _read_refusal(
        self,
        reply: httpx.Response,
        decode_error: DecodeError,
        first: bytes = b"",
        chunks: AsyncIterator[bytes] | None = None,
    ) -> UriskError:
        """
        Return what a refusal in a stream, or a page, means, as far as its body comes within a
        moment.
        """
        body = bytearray(first)
        with contextlib.suppress(TimeoutError, httpx.HTTPError, ProtocolError):
            async with asyncio.timeout(min(PROBE_S, self.settings.timeout_s)):
                async for chunk in chunks or reply.aiter_raw():
                    body += chunk
                    if len(body) > MAX_REFUSAL_BYTES:
                        break
        return self._to_error(reply, body.decode("utf-8", "replace"), decode_error)

    def _to_reply(self, reply: httpx.Response, text: str | None = None) -> Reply:
        path = reply.request.url.path.removeprefix(self._calls.base_url.path.rstrip("/"))
        text = reply.text if text is None else text
        return Reply(
            status=reply.status_code,
            headers=reply.headers,
            text=text,
            path=path,
            shown=self.settings.redact(text),
        )

    def _is_page_type(self, reply: httpx.Response) -> bool:
        """Return whether a reply calls itself a web page, before its body is read."""
        return is_page(self._to_reply(reply, ""))

    def _to_error(self, reply: httpx.Response, text: str, decode_error: DecodeError) -> UriskError:
        """Return what a refusal means, with the server's wish when to come back."""
        seen = self._to_reply(reply, text)
        if reply.status_code < 300:
            return describe_page(seen, self.settings)
        error = describe_refusal(seen, self.settings)
        if error is None and reply.status_code < 400:
            return describe_page(seen, self.settings)
        if error is None:
            # By the text as it came: a key such as `ollama` is also a word by which errors are told
            # apart
            error = decode_error(seen.status, seen.text)
            shown = decode_error(seen.status, seen.shown)
            error.message, error.facts["said"] = shown.message, shown.facts.get("said", "")
            error.args = (error.message,)
        wish = reply.headers.get("Retry-After", "")  # a date, its other form, is passed over
        error.facts["retry_after_s"] = float(wish) if wish.isascii() and wish.isdigit() else None
        return error

    def _read_object(
        self, path: str, reply: httpx.Response, decode_error: DecodeError
    ) -> dict[str, Any]:
        if reply.status_code != 200:
            raise self._to_error(reply, reply.text, decode_error)
        content = _load_json(reply)
        if isinstance(content, dict):
            return content
        seen = self._to_reply(reply)
        if is_page(seen):
            raise describe_page(seen, self.settings)
        raise ProtocolError(f"{path} is answered by {seen.shown[:80]!r}.", fix=FIXES[ProtocolError])

    # Small requests -------------------------------------------------------------------------------

    async def list_models(self) -> list[Model]:
        """
        Return the models that the server offers, in its order.

        A server without such a list is taken to have the model that was named.
        """
        if not self._has_list:
            return [Model(name=self.settings.model)]
        return self.dialect.decode_models(await self._get(self.dialect.models_path))

    async def list_loaded_models(self) -> list[LoadedModel]:
        """
        Return the models in the server's memory; raise NotSupportedByServer if it has no such list.
        """
        what = "list the models in its memory"
        self.require(Feature.LOADED_MODELS, what)
        reply = await self._fetch("/api/ps")
        if reply.status_code in NO_SUCH_PATH:  # a gateway may let through what answers need
            raise self._build_unsupported_error(what)
        return ollama.decode_loaded_models(
            self._read_object("/api/ps", reply, self.dialect.decode_error)
        )

    async def _get(self, path: str) -> dict[str, Any]:
        return self._read_object(path, await self._fetch(path), self.dialect.decode_error)

    async def _fetch(self, path: str) -> httpx.Response:
        return await self._receive(self._probes.get(path, headers=self.dialect.headers))

    async def post(self, path: str, body: bytes, decode_error: DecodeError) -> dict[str, Any]:
        """
        Return the JSON object of a reply that comes in one piece, within the load timeout.

        Parameters
        ----------
        path, body
            What is asked.
        decode_error
            Turns status and text of a refusal into an error.
        """
        headers = {**JSON, **self.dialect.headers}
        sent = self._calls.post(self._find_address(path), content=body, headers=headers)
        reply = await self._receive(sent, NO_START, is_load=True)
        return self._read_object(path, reply, decode_error)

    async def _receive(self, work: Awaitable[T], what: str = "", *, is_load: bool = False) -> T:
        """Return what comes within the time limit of a reply, or of a load."""
        settings = self.settings
        with _translate_errors(settings):
            try:
                async with asyncio.timeout(
                    settings.load_timeout_s if is_load else settings.timeout_s
                ):
                    return await work
            except TimeoutError as exc:
                raise _silence(settings, what, is_load=is_load) from exc

    # Chats ----------------------------------------------------------------------------------------

    async def chat(self, body: bytes, on_chunk: OnChunk = lambda _: None) -> Final:
        """
        Send a chat, hand over its chunks as they come, and return its end; a cancel stops the
        server.

        Parameters
        ----------
        body
            As the server's dialect encodes it.
        on_chunk
            Called with each chunk, and with the end.

        Raises
        ------
        ServerNotRunning, ServerConnectionLost, ServerTimeout
            Before the first chunk; asking again is safe.
        StreamInterrupted
            After it; carries the text so far.
        AnswerIncomplete
            The stream ended in order, but without its end.
        UriskError
            What the server's refusal means.
        """
        dialect, settings = self.dialect, self.settings
        decoder, reception = dialect.open_decoder(), _Reception(settings, on_chunk)
        headers, address = {**JSON, **dialect.headers}, self._find_address(dialect.chat_path)
        try:
            with _translate_errors(settings):
                async with (
                    reception.timer,
                    self._calls.stream("POST", address, content=body, headers=headers) as reply,
                ):
                    if reply.status_code != 200 or self._is_page_type(reply):
                        reception.timer.reschedule(None)  # a refusal has its own limit
                        raise await self._read_refusal(reply, dialect.decode_error)
                    chunks = reply.aiter_raw()
                    first = await anext(chunks, b"")
                    if first.lstrip().startswith(b"<"):
                        raise await self._read_refusal(reply, dialect.decode_error, first, chunks)
                    reception.take(decoder.feed(first))
                    async for data in chunks:
                        reception.take(decoder.feed(data))
                    reception.take(decoder.finish())
        except (TimeoutError, UriskError) as exc:
            # What follows the end matters only for using the connection again.
            if reception.final is None:
                reception.fail(exc)
        if reception.final is None:
            raise AnswerIncomplete(
                "the answer ended without its last part (no `done`, no `finish_reason`).",
                fix="ask again; a long run of equal pieces makes some versions of Ollama stop here",
                partial=reception.text,
            )
        return reception.final

    # Models of Ollama -----------------------------------------------------------------------------

    async def load(self, body: bytes) -> None:
        """Load or unload a model; block until the server says that it is done."""
        await self.chat(body)

    async def read_card(self, model: str) -> ModelCard:
        """Return what the server says of a model; empty where it says nothing of its models."""
        if not self.dialect.can(Feature.CAPABILITIES):
            return ModelCard()
        body = ollama.encode_show(model)
        try:
            return ollama.decode_card(await self.post("/api/show", body, ollama.decode_error))
        except (BadRequest, ProtocolError):  # some servers of this wire have no such route
            return ModelCard()

    def pull(self, model: str) -> AsyncGenerator[PullProgress, None]:
        """
        Yield the progress of a download; it ends after `success`, which is the only proof of it.

        Leaving the iteration stops the download; the server keeps what has arrived and resumes it.
        """
        short = "max retries exceeded: the download ended without success"
        return self._stream_steps("/api/pull", ollama.encode_pull(model), "download", short)

    def create(
        self,
        model: str,
        *,
        base: str = "",
        adapters: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[PullProgress, None]:
        """
        Yield the steps in which a model is made, of another one and an adapter or of files.

        It ends after `success`, which is the only proof of it. The server must have the base (its
        pull would say `success`, too) and the blobs. Leaving the iteration cancels it.
        """
        body = ollama.encode_create(model, base=base, adapters=adapters, files=files)
        return self._stream_steps(
            "/api/create", body, "creation", "the creation ended without success"
        )

    async def has_blob(self, digest: str) -> bool:
        """Return whether the server has the file of this digest (`sha256:` and 64 hex digits)."""
        reply = await self._receive(self._probes.head(f"/api/blobs/{digest}"))
        if reply.status_code not in (200, 404):
            raise self._to_error(reply, reply.text, ollama.decode_error)
        return reply.status_code == 200

    async def put_blob(self, digest: str, path: Path) -> None:
        """
        Send a file; return when the server has it and has found the digest right.

        The whole is bounded by the load timeout. Raises InputError where the file cannot be read,
        and what the server's refusal means.
        """
        sent = self._calls.post(f"/api/blobs/{digest}", content=_read_blocks(path))
        reply = await self._receive(sent, "while it was sent a file", is_load=True)
        if reply.status_code not in (200, 201):
            raise self._to_error(reply, reply.text, ollama.decode_error)

    async def _stream_steps(
        self, path: str, body: bytes, what: str, short: str
    ) -> AsyncGenerator[PullProgress, None]:
        """Yield the lines up to `success`; an end without it is the error that `short` means."""
        request = self._calls.build_request("POST", path, content=body, headers=JSON)
        sent = self._calls.send(request, stream=True)
        async with contextlib.aclosing(await self._receive(sent, NO_START, is_load=True)) as reply:
            if reply.status_code != 200 or self._is_page_type(reply):
                raise await self._read_refusal(reply, ollama.decode_error)
            lines, chunks = ollama.JsonLines(ollama.decode_progress), reply.aiter_raw()
            is_open = True
            while is_open:
                # Between two lines the server may verify gigabytes: it gets the time of a load.
                waited = f"in the middle of a {what}"
                data = await self._receive(anext(chunks, None), waited, is_load=True)
                is_open = data is not None
                for progress in lines.finish() if data is None else lines.feed(data):
                    yield progress
                    if progress.status == "success":
                        await _drain(chunks)
                        return
        raise ollama.decode_error(None, short)

    # Cloud ----------------------------------------------------------------------------------------

    def refuse_cloud(self, model: str, known: Model | None = None) -> None:
        """Raise CloudModelBlocked for a model that runs elsewhere, unless the settings allow it."""
        is_remote = ollama.is_cloud_model(model) or (known is not None and known.remote)
        if is_remote and not self.settings.allow_cloud:
            raise CloudModelBlocked(
                f"{model!r} runs in Ollama's cloud: the text would leave this machine.",
                fix="use a model that runs here, or allow it: %env URISK_ALLOW_CLOUD=true",
            )


class _Reception:
    """One reply as it comes in: its text, its end, and how long it may be silent."""

    def __init__(self, settings: Settings, on_chunk: OnChunk) -> None:
        self.timer = asyncio.timeout(settings.load_timeout_s)
        self.final: Final | None = None
        self._texts: list[str] = []
        self._settings, self._on_chunk = settings, on_chunk
        self._now = asyncio.get_running_loop().time

    def take(self, items: Iterable[Chunk | Final]) -> None:
        """Hand the items on; each starts the time anew in which the next one has to come."""
        for item in items:
            self._texts.append(item.text)
            self._on_chunk(item)
            if isinstance(item, Final):
                self.final = item
            limit_s = self._settings.timeout_s if self.final is None else DRAIN_S
            self.timer.reschedule(self._now() + limit_s)

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._texts)

    def fail(self, exc: TimeoutError | UriskError) -> NoReturn:
        """Raise the error for the caller: after the first token, an answer that was cut off."""
        if isinstance(exc, UriskError):
            error = exc
        else:
            what = "between two tokens" if self._texts else NO_START
            error = _silence(self._settings, what, is_load=not self._texts)
            error.__cause__ = exc
        if not self._texts or not isinstance(error, ServerConnectionLost | ServerTimeout):
            error.facts["partial"] = self.text
            raise error
        raise StreamInterrupted(
            f"the answer was cut off after {len(self.text)} characters: {error.message}",
            fix="ask again; the partial text is on the error, as .partial",
            partial=self.text,
        ) from error


@contextlib.contextmanager
def _translate_errors(settings: Settings) -> Iterator[None]:
    """Turn what httpx raises into what it means; no error shows a secret that a server echoes."""
    try:
        yield
    except UriskError as exc:
        # In the server's words alone: a header's value may be a word of ours, such as `risk`
        said = exc.facts.get("said")
        if isinstance(said, str) and said != (shown := settings.redact(said)):
            exc.facts["said"], exc.message = shown, exc.message.replace(said, shown)
            exc.args = (exc.message,)
        raise
    except ssl.SSLError as exc:  # an alert after the handshake, which httpx passes on as it is
        raise describe_tls_failure(exc, settings, os.environ) from exc
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict) as exc:
        if (failure := _find_tls_failure(exc, settings)) is not None:
            raise failure from exc
        known = (HTTPX_ERRORS[base] for base in type(exc).__mro__ if base in HTTPX_ERRORS)
        meaning = next(known, ProtocolError)
        words = settings.redact(clean_words(str(exc))) or type(exc).__name__
        said = f"{FIRST_WORDS[meaning]} ({words})" if meaning in FIRST_WORDS else words
        fix = FIXES[meaning]
        if meaning is ServerNotRunning and not settings.is_loopback:
            fix = "start the server on that machine, or check OLLAMA_URL"
            if (name := find_unknown_name(exc)) is not None:
                said = f"this machine knows no address of {settings.host} ({name})"
        raise meaning(f"{settings.url}: {said}.", fix=fix) from exc


def _find_tls_failure(exc: Exception, settings: Settings) -> TlsFailed | None:
    """Return the error for what went wrong with https, if it is that."""
    tls = find_tls_error(exc)
    if tls is not None:
        return describe_tls_failure(tls, settings, os.environ)
    if settings.is_tls and isinstance(exc, httpx.ConnectError) and is_cut_off(exc):
        return describe_tls_failure(ssl.SSLEOFError(), settings, os.environ)
    if not settings.is_tls and is_tls_alert(str(exc)):
        return describe_missing_tls(settings)
    return None


def _silence(settings: Settings, what: str, *, is_load: bool) -> ServerTimeout:
    name = "URISK_LOAD_TIMEOUT" if is_load else "OLLAMA_TIMEOUT"
    within_s = settings.load_timeout_s if is_load else settings.timeout_s
    return ServerTimeout(
        f"{settings.url} was silent for {within_s:g} s{' ' + what if what else ''}.",
        fix=f"give it longer: %env {name}={min(within_s * 4, MAX_LIMIT_S):g}",
    )


async def _undo_compression(reply: httpx.Response) -> None:
    """
    Have the body of a reply come decoded, where a proxy has compressed it.

    httpx would end at the first member of a gzip stream, and take what it cannot decode as it is.
    Raises ProtocolError for a compression that cannot be undone here; of a refusal the status says
    enough, and its body is passed over.
    """
    names = list_encodings(reply.headers.get("content-encoding", ""))
    strange = find_unknown_encoding(names)
    if strange is not None and reply.status_code < 400:
        raise ProtocolError(
            f"the reply is compressed as {clean_words(strange)}, which was not asked for.",
            fix="switch that off in the proxy before the server; gzip and deflate are understood",
        )
    if names:
        del reply.headers["content-encoding"]
        reply.stream = _Decompressed(reply.stream, names, is_readable=strange is None)


class _Decompressed(httpx.AsyncByteStream):
    """The body of a reply, with its compressions undone as it comes."""

    def __init__(self, stream: Any, names: list[str], *, is_readable: bool) -> None:
        self._stream, self._is_readable = stream, is_readable
        self._layers = [Decompressor(name) for name in reversed(names)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self._is_readable:
            return
        async for data in self._stream:
            part = data
            try:
                for layer in self._layers:
                    part = layer.feed(part)
            except ValueError as exc:
                raise ProtocolError(
                    f"the compressed reply cannot be decoded ({exc}).", fix=FIXES[ProtocolError]
                ) from exc
            if part:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _is_loading(reply: httpx.Response) -> bool:
    """Return whether a server says that it loads its model, as llama.cpp's does at any path."""
    return reply.status_code == 503 and (
        openai.is_llama_cpp(reply.headers) or "loading model" in reply.text.lower()
    )


def _load_json(reply: httpx.Response) -> Any:
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError):
        return None


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the last object: only then can the connection be used again."""
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass


async def _read_blocks(path: Path) -> AsyncIterator[bytes]:
    try:
        async with await anyio.open_file(path, "rb") as file:
            while block := await file.read(BLOCK_BYTES):
                yield block
    except OSError as exc:
        seen = f"{path} cannot be read: {exc.strerror or exc}."
        raise InputError(seen, fix="check the file and its permissions") from exc
