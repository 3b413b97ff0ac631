"""Ollama's HTTP app: paths, replies, streams and errors, for any backend.

Knows: the protocol, as clients see it (protocol notes, sections 1 to 7).
Does not know: where answers come from.
Why one app: what a client meets in tests is what it meets on a machine without Ollama.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fake_ollama import decisions, go_compat, requests
from fake_ollama.backend import (
    Backend,
    Chunk,
    Final,
    Hooks,
    Model,
    ModelCall,
    Refusal,
    RunnerGone,
    WireFault,
)
from fake_ollama.created_models import CreatedModels, Store
from fake_ollama.loaded_models import LoadedModel, LoadedModels
from fake_ollama.replies import (
    BARE,
    JSON,
    Answer,
    ps_entry,
    reply_object,
    send_progress,
    show_entry,
    tag,
)
from fake_ollama.transport import Handler, Reply, Request, serve_connection

VERSION = "0.33.0"
RECENT = 4096
"""Answers that `/urisk/counters` remembers."""
_NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
_CLOUD_OFF = "ollama cloud is disabled: "
_ORIGIN_HOSTS = {"localhost", "127.0.0.1", "0.0.0.0"}
_ORIGIN_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_UNSERVED = ("create", "push", "copy", "embeddings", "me", "signout")


@dataclass(slots=True)
class Counters:
    """What happened since the start, for benchmarks and tests."""

    requests: int = 0  # all but those of /urisk/counters
    paths: Counter[str] = field(default_factory=Counter)
    connections_total: int = 0
    connections_open: int = 0
    aborted: int = 0  # generations that the client left
    refused: int = 0
    waiting: int = 0  # for a slot
    in_flight: int = 0  # hold a slot
    peak_in_flight: int = 0
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def as_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "paths": dict(self.paths), "recent": list(self.recent)}


class OllamaApp:
    """The routes of one server. Run it through `serve` or `running` of the next module."""

    def __init__(self, backend: Backend, *, loopback: bool, queue: int, hooks: Hooks) -> None:
        self._backend = backend
        self._hooks = hooks
        self._loopback = loopback
        self._gone: set[str] = set()  # deleted here; a pull brings them back
        self._pulled: set[str] = set()
        self._created = CreatedModels(self._store())
        self.loaded_models = LoadedModels(backend, queue=queue)
        self.counters = Counters()
        self._routes: dict[str, dict[str, Handler]] = {
            "/": dict.fromkeys(("HEAD", "GET"), self._root),
            "/api/version": dict.fromkeys(("HEAD", "GET"), self._version),
            "/api/tags": dict.fromkeys(("HEAD", "GET"), self._tags),
            "/api/status": {"GET": self._status},
            "/api/ps": {"GET": self._ps},
            "/api/show": {"POST": self._show},
            "/api/chat": {"POST": self._chat},
            "/api/generate": {"POST": self._generate},
            "/api/embed": {"POST": self._embed},
            "/api/pull": {"POST": self._pull},
            "/api/delete": {"DELETE": self._delete},
            "/urisk/counters": {"GET": self._counters},
            **{f"/api/{name}": {"POST": self._unserved} for name in _UNSERVED},
            **(self._created.routes if getattr(backend, "creates", False) else {}),
        }
        # From 0.35 on; this server is an older one as long as it has no such model
        if any("decision" in model.capabilities for model in backend.models()):
            self._routes["/v1/systemone"] = {"POST": self._systemone}

    # ---- one request -----------------------------------------------------------------------------

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self.counters.connections_total += 1
        self.counters.connections_open += 1
        try:
            await serve_connection(reader, writer, self.respond, self._created.hashes)
        finally:
            self.counters.connections_open -= 1

    async def respond(self, request: Request, reply: Reply) -> None:
        """Answer one request; a fault of ours is a 500 like Ollama's, with the stack on stderr."""
        if request.path != "/urisk/counters":
            self.counters.requests += 1
            self.counters.paths[request.path] += 1
        started = time.perf_counter_ns()
        try:
            await self._hooks.gate.wait()
            await self._handled(request, reply)
        finally:
            self._hooks.access(
                reply.status or 499, time.perf_counter_ns() - started, request.method, request.path
            )

    async def _handled(self, request: Request, reply: Reply) -> None:
        try:
            await self._dispatch(request, reply)
        except Refusal as exc:
            await self._refuse(reply, exc)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:  # noqa: BLE001 -- one request must not end the server; the stack goes to stderr
            traceback.print_exc(file=sys.stderr)
            if reply.status:
                reply.abort()
            else:
                await reply.whole(500, b"")

    async def _dispatch(self, request: Request, reply: Reply) -> None:
        if (early := self._guard(request)) is not None:
            await reply.whole(early, b"")
            return
        methods = self._routes.get(request.path) or self._routes.get(
            f"{request.path.rpartition('/')[0]}/*"
        )
        if methods is None:
            await reply.whole(404, b"404 page not found", "text/plain")
        elif request.method not in methods:
            await reply.whole(
                405, b"405 method not allowed", "text/plain", Allow=", ".join(methods)
            )
        else:
            await methods[request.method](request, reply)

    def _guard(self, request: Request) -> int | None:
        """403 for a foreign Origin, then for a foreign Host; 204 for a preflight; None to go on."""
        origin = request.headers.get("origin", "")
        host = request.headers.get("host", "")
        if origin and not _origin_allowed(origin, host):
            return 403
        if self._loopback and not _host_allowed(host):
            return 403
        return 204 if request.method == "OPTIONS" else None

    async def _refuse(self, reply: Reply, exc: Refusal, *, stream: bool = False) -> None:
        """A status where nothing was sent yet, an error line after that."""
        self.counters.refused += 1
        error = go_compat.dumps({"error": exc.text})
        if reply.status:
            await reply.send(error + b"\n")
            await reply.end()
        elif exc.body is not None:
            await reply.whole(exc.status, exc.body, exc.kind)
        else:
            await reply.whole(exc.status, error, BARE if stream else JSON, length=not stream)

    # ---- small endpoints -------------------------------------------------------------------------

    async def _root(self, _request: Request, reply: Reply) -> None:
        await reply.whole(200, b"Ollama is running", "text/plain; charset=utf-8")

    async def _version(self, _request: Request, reply: Reply) -> None:
        await _json(reply, {"version": getattr(self._backend, "version", "") or VERSION})

    async def _status(self, _request: Request, reply: Reply) -> None:
        await _json(reply, {"cloud": {"disabled": True, "source": "env"}})

    async def _counters(self, _request: Request, reply: Reply) -> None:
        await _json(reply, self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """What `/urisk/counters` shows."""
        return {**self.counters.as_dict(), "loads": self.loaded_models.loads, **self._hooks.facts()}

    async def _unserved(self, request: Request, _reply: Reply) -> None:
        raise Refusal(501, f"the fake Ollama does not serve {request.path}; use Ollama for this")

    async def _tags(self, _request: Request, reply: Reply) -> None:
        models = sorted(self._installed(), key=lambda model: -model.modified_ns)
        await _json(reply, {"models": [tag(model) for model in models]})

    async def _ps(self, _request: Request, reply: Reply) -> None:
        await _json(
            reply,
            {"models": [ps_entry(loaded_model) for loaded_model in self.loaded_models.shown()]},
        )

    async def _show(self, request: Request, reply: Reply) -> None:
        sent = _model_field(request, "api.ShowRequest")
        if not sent:
            raise Refusal(400, "model is required")
        await _json(reply, show_entry(self._find(sent, shown_missing=True)))

    async def _delete(self, request: Request, reply: Reply) -> None:
        sent = _model_field(request, "api.DeleteRequest")
        if not sent:
            raise Refusal(400, "model is required")
        if requests.name(sent) is None:
            raise Refusal(400, f'name "{sent}" is invalid')
        self._gone.add(name := self._find(sent).name)
        self._created.models.pop(name, None)
        await reply.whole(200, b"")

    async def _embed(self, request: Request, reply: Reply) -> None:
        known = {
            "model": "string",
            "input": "any",
            "options": "map[string]interface {}",
            "keep_alive": "any",
        }
        got = requests.fields(requests.decode(request.body), "api.EmbedRequest", known)
        texts = got.get("input", [])
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refusal(400, "invalid input type")
        sent = got.get("model", "")
        if sent and requests.name(sent) and self._lookup(sent) is None:
            raise Refusal(404, f'model "{sent}" not found, try pulling it first')
        self._find(sent)
        if any(texts):
            raise Refusal(501, _NO_EMBEDDINGS)
        await _json(reply, {"model": sent, "embeddings": []})

    async def _pull(self, request: Request, reply: Reply) -> None:
        known = {"model": "string", "name": "string", "stream": "bool", "insecure": "bool"}
        got = requests.fields(requests.decode(request.body), "api.PullRequest", known)
        name = requests.name(got.get("model") or got.get("name", ""))
        if name is None:
            raise Refusal(400, "invalid model name")
        await send_progress(reply, self._progress(name.shown), stream=got.get("stream", True))

    async def _progress(self, name: str) -> AsyncGenerator[Mapping[str, Any], None]:
        async with contextlib.aclosing(self._backend.pull(name)) as lines:
            async for line in lines:
                await self._hooks.gate.wait()
                if line.get("status") == "success":
                    self._gone.discard(name)
                    self._pulled.add(name)
                yield line

    def _store(self) -> Store:
        pause_s, error = (
            getattr(self._backend, "create_pause_s", 0.0),
            getattr(self._backend, "create_error", ""),
        )
        return Store(
            find=self._lookup,
            models=self._backend.models,
            pull=self._progress,
            made=self._made,
            pause_s=pause_s,
            error=error,
        )

    def _made(self, model: Model) -> None:
        """
        A loaded model of before is not the one that was made now: the next request loads it again.
        """
        self._gone.discard(model.name)
        self.loaded_models.lose(model.name)

    # ---- models ----------------------------------------------------------------------------------

    def _installed(self) -> list[Model]:
        # As old as its base and after it: the first of all answers by default
        made = self._created.models
        models = [
            *(model for model in self._backend.models() if model.name not in made),
            *made.values(),
        ]
        return [
            m
            for m in models
            if m.name not in self._gone and (m.installed or m.name in self._pulled)
        ]

    def _lookup(self, sent: str) -> Model | None:
        name = requests.name(sent)
        wanted = name.shown.lower() if name else ""
        return next((model for model in self._installed() if model.name.lower() == wanted), None)

    def _find(self, sent: str, *, shown_missing: bool = False) -> Model:
        if not sent:
            raise Refusal(404, "model '' not found")
        name = requests.name(sent)
        if name is None:
            raise Refusal(400, "invalid model name")
        model = self._lookup(sent)
        if name.cloud or (model and model.remote_host):
            raise Refusal(
                403,
                _CLOUD_OFF
                + (
                    "remote model details are unavailable"
                    if shown_missing
                    else "remote model is unavailable"
                ),
            )
        if model is None:
            raise Refusal(404, f"model '{name.shown if shown_missing else sent}' not found")
        return model

    # ---- chat and generate -----------------------------------------------------------------------

    async def _chat(self, request: Request, reply: Reply) -> None:
        body = requests.chat(request.body)
        if not body.model:
            raise Refusal(400, "model is required")
        await self._generation(body, reply)

    async def _generate(self, request: Request, reply: Reply) -> None:
        await self._generation(requests.generate(request.body), reply)

    async def _generation(self, body: requests.Body, reply: Reply) -> None:
        started = time.perf_counter_ns()
        model = self._find(body.model)
        if body.empty and body.keep_alive_ns is not None and body.keep_alive_ns < 10**9:
            self.loaded_models.unload(model)
            await _json(reply, reply_object(body, "", done=True, done_reason="unload"))
            return
        _check_able(body, model)
        options = requests.options(body.options)
        async with self.loaded_models.use(
            model, options.get("num_ctx"), body.keep_alive_ns
        ) as loaded_model:
            load_ns = time.perf_counter_ns() - started
            if body.empty:
                await _json(reply, reply_object(body, "", done=True, done_reason="load"))
                return
            answer = Answer(body=body, started_ns=started, load_ns=load_ns)
            try:
                call = _call(body, model, options, loaded_model.num_ctx)
                async with self._slot(loaded_model):
                    await self._answer(call, answer, reply)
            except Refusal as exc:
                loaded_model.lost |= isinstance(exc, RunnerGone)
                await self._refuse(reply, exc, stream=body.stream)

    async def _systemone(self, request: Request, reply: Reply) -> None:
        asked = decisions.read(request.body)
        model = self._find(asked.model)
        if "decision" not in model.capabilities:
            raise Refusal(400, f"registry.ollama.ai/library/{model.name} does not support decision")
        async with self.loaded_models.use(model, None, asked.keep_alive_ns) as loaded_model:
            call = ModelCall(
                model=model,
                endpoint="systemone",
                messages=({"role": "user", "content": asked.state},),
                num_ctx=loaded_model.num_ctx,
            )
            async with (
                self._slot(loaded_model),
                contextlib.aclosing(self._backend.answer(call)) as items,
            ):
                texts = [item.text async for item in items if isinstance(item, Chunk)]
        self.counters.recent.append(
            {"model": model.name, "endpoint": "systemone", "body": requests.decode(request.body)}
        )
        await _json(reply, decisions.answer(asked, "".join(texts)))

    @contextlib.asynccontextmanager
    async def _slot(self, loaded_model: LoadedModel) -> AsyncIterator[None]:
        """
        One of the model's slots, in the order of asking; a cancel in here is a client that left.
        """
        counters = self.counters
        counters.waiting += 1
        try:
            try:
                await loaded_model.slots.acquire()
            finally:
                counters.waiting -= 1
            counters.in_flight += 1
            counters.peak_in_flight = max(counters.peak_in_flight, counters.in_flight)
            try:
                yield
            finally:
                counters.in_flight -= 1
                loaded_model.slots.release()
        except (asyncio.CancelledError, ConnectionError):
            counters.aborted += 1
            raise

    async def _answer(self, call: ModelCall, answer: Answer, reply: Reply) -> None:
        async with contextlib.aclosing(self._backend.answer(call)) as items:
            async for item in items:
                if isinstance(item, Final):
                    self._note(call, answer, item)
                elif isinstance(item, WireFault):
                    self._hooks.down(item)
                await self._hooks.gate.wait()
                if await answer.take(item, reply):
                    return
        await answer.close(reply)

    def _note(self, call: ModelCall, answer: Answer, finish: Final) -> None:
        self.counters.recent.append(
            {
                "model": call.model.name,
                "endpoint": call.endpoint,
                "prompt_new": finish.prompt_new,
                "prompt_cached": finish.prompt_cached,
                "answered": finish.answered,
                "done_reason": finish.reason,
                "total_ns": time.perf_counter_ns() - answer.started_ns,
            }
        )


# ---- what a request may look like ----------------------------------------------------------------


def _model_field(request: Request, struct: str) -> str:
    got = requests.fields(
        requests.decode(request.body), struct, {"model": "string", "name": "string"}
    )
    return str(got.get("model") or got.get("name", ""))


def _check_able(body: requests.Body, model: Model) -> None:
    """Refuse what the model cannot do; `think: false` is accepted by every model."""
    if "completion" not in model.capabilities:
        raise Refusal(400, f'"{body.model}" does not support {body.endpoint}')
    if body.think and "thinking" not in model.capabilities:
        raise Refusal(400, f'"{body.model}" does not support thinking')
    for lacking in body.lacking:
        if lacking not in model.capabilities:
            raise Refusal(
                400, f"registry.ollama.ai/library/{model.name} does not support {lacking}"
            )


def _call(body: requests.Body, model: Model, options: Mapping[str, Any], num_ctx: int) -> ModelCall:
    return ModelCall(
        model=model,
        endpoint=body.endpoint,
        messages=body.messages,
        raw=body.raw,
        format=requests.check_format(body.format),
        options=options,
        num_ctx=num_ctx,
        top_logprobs=body.top_logprobs,
        truncate=body.truncate,
        think=body.think,
    )


def _host_allowed(header: str) -> bool:
    host = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    host = host.strip("[]").lower()
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_private or address.is_unspecified
    names = {"", "localhost", socket.gethostname().lower()}
    return host in names or host.endswith((".localhost", ".local", ".internal"))


def _origin_allowed(origin: str, host: str) -> bool:
    scheme, _, rest = origin.partition("://")
    if scheme in {"http", "https"}:
        return rest == host or rest.rpartition(":")[0] in _ORIGIN_HOSTS or rest in _ORIGIN_HOSTS
    return scheme in _ORIGIN_SCHEMES


async def _json(reply: Reply, value: Any) -> None:
    await reply.whole(200, go_compat.dumps(value), JSON)
