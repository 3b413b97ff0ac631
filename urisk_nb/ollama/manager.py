"""The manager: one server, one model, one session, for the life of the process.

Its life has six steps: start (whoever comes first does the work, the rest wait for it); check the server, adopt it or start it;
pull the model if it is missing and warm it; keep one session; answer over it; shut down. Everything runs on the background loop;
the public coroutines may be awaited on any loop, and each has a blocking twin. Over 400 lines, a third of them docstrings: the six
steps are one story and are read as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio

from urisk_nb import bridge, runtime
from urisk_nb.errors import (
    ForkedError,
    InputError,
    ModelError,
    ModelNotFound,
    NotInitialized,
    PortTaken,
    PullFailed,
    ServerError,
    ServerFault,
    ServerLost,
    ServerNotRunning,
    ServerOfAnother,
    ServerStartFailed,
    ServerTimeout,
    UriskError,
)
from urisk_nb.ollama import process, wire
from urisk_nb.ollama.answers import Answer, AnswerStream
from urisk_nb.ollama.client import Client
from urisk_nb.ollama.latency import Calls
from urisk_nb.ollama.resilience import retrying
from urisk_nb.settings import Engine, Settings, load

__all__ = ["Answer", "AnswerStream", "LLMManager", "StartEvent", "is_demo"]

KEY, STARTING = "manager", "manager.starting"
READY_S = 30.0
FIRST_PERSON = 1000  # accounts from here on are people's; lower ones are services
OWN_VERSIONS = {"0.0.0-urisk-llamacpp": Engine.EMBEDDED, "0.0.0-urisk-scripted": Engine.SIMULATED}
DEMO_MODELS = ("smollm2-135m", "smollm2:135m")
# What may change without another server: the rest decides which server answers and how it is run.
SOFT = frozenset({"model", "keep_alive", "timeout_s", "max_retries", "load_timeout_s", "parallel", "allow_cloud"})
CLOSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEvent:
    """A step of the start, for people: `checking`, `starting`, `pulling` (with bytes), `loading` or `ready`."""

    step: str
    text: str
    done: int = 0
    total: int = 0


class _Start:
    """A start under way: one task, and those who wait for it; it is given up when the last of them leaves."""

    def __init__(self, flags: Mapping[str, Any], task: asyncio.Task[LLMManager]) -> None:
        self.flags, self.task, self.waiters, self.given_up = flags, task, 0, False

    async def join(self) -> LLMManager:
        self.waiters += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self.waiters == 1 and not self.task.done():
                self.given_up = True
                self.task.cancel()
                await asyncio.wait({self.task})
            raise
        finally:
            self.waiters -= 1


class LLMManager:
    """
    One server, one model and one session, shared by everything in this process.

    Made by `await LLMManager.initialize()`; `LLMManager.get_instance()` is the one that is running.

    Attributes
    ----------
    settings
        What was asked for.
    model
        The model that answers.
    engine
        What answers: `ollama`, `embedded` (llama.cpp, started by us or by another kernel) or `simulated`.
    version, url
        Of the server.
    calls
        Timings of the last 200 calls.
    started_at
        When it became ready (UTC).
    """

    def __init__(self, settings: Settings, flags: Mapping[str, Any], progress: Callable[[StartEvent], Any] | None = None) -> None:
        self.settings = settings
        self.flags = dict(flags)
        self.model = settings.model
        self.engine = Engine.OLLAMA
        self.version = ""
        self.calls = Calls()
        self.started_at: datetime | None = None
        self._progress = progress
        self._process: process.Process | None = None
        self._client = Client(settings)
        self._places = anyio.CapacityLimiter(settings.parallel or 1)
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._pid = os.getpid()

    # Start -----------------------------------------------------------------------------------------------------------------

    @classmethod
    async def initialize(cls, *, progress: Callable[[StartEvent], Any] | None = None, **flags: Any) -> LLMManager:
        """
        The running manager, started if there is none: server found or started, model pulled and warm.

        Many callers at once: the first does the work, the others wait for it. Without flags a running manager is given as it is;
        with flags that change only the call (model, timeouts, parallel) its server is kept; with others it is shut down first.
        A cancel stops a start that nobody else waits for; layers of a model that have arrived are kept.

        Parameters
        ----------
        progress
            Called with each StartEvent, on the loop's thread.
        **flags
            Fields of Settings: url, model, engine, gguf, num_ctx, parallel, ...

        Raises
        ------
        SettingsError, ServerError, ModelError
            Each with what to do.
        """
        return await bridge.call(cls._initialize(flags, progress))

    @classmethod
    def initialize_sync(cls, *, progress: Callable[[StartEvent], Any] | None = None, **flags: Any) -> LLMManager:
        """`initialize`, blocking; an interrupt stops it."""
        return bridge.run(cls._initialize(flags, progress))

    @classmethod
    def get_instance(cls) -> LLMManager:
        """
        The manager that is running in this process.

        Raises
        ------
        NotInitialized
            There is none.
        """
        manager: LLMManager | None = runtime.get(KEY)
        if manager is None:
            raise NotInitialized("no session was started in this process.", fix="%urisk_start, or: await LLMManager.initialize()")
        return manager

    @classmethod
    async def _initialize(cls, flags: Mapping[str, Any], progress: Callable[[StartEvent], Any] | None) -> LLMManager:
        given = {name: value for name, value in flags.items() if value is not None}
        while (starting := runtime.get(STARTING)) is not None:
            if starting.given_up:
                await asyncio.wait({starting.task})
            elif starting.flags == given:
                return await starting.join()  # type: ignore[no-any-return]  # kept in untyped state
            else:
                # Another's start, with other flags: how it ends is for those who asked for it.
                with contextlib.suppress(UriskError):
                    await starting.join()
        running: LLMManager | None = runtime.get(KEY)
        start = _Start(given, asyncio.create_task(cls._started(running, given, progress)))
        runtime.put(STARTING, start)
        start.task.add_done_callback(lambda _: _forget_start(start))
        return await start.join()

    @classmethod
    async def _started(
        cls, running: LLMManager | None, flags: Mapping[str, Any], progress: Callable[[StartEvent], Any] | None
    ) -> LLMManager:
        if running is not None and not await running._is_there():
            await running._shutdown()
            flags, running = {**running.flags, **flags}, None
        if running is not None and not flags:
            return running
        flags = {**(running.flags if running else {}), **flags}
        settings = load(**flags)
        if running is not None:
            if _changed(running.settings, settings) <= SOFT:
                return await running._change(settings, flags, progress)
            await running._shutdown()
        manager = cls(settings, flags, progress)
        try:
            await manager._begin()
        except BaseException:
            await manager._shutdown()
            raise
        runtime.put(KEY, manager)
        runtime.at_exit(KEY, manager._at_exit)
        return manager

    async def _change(self, settings: Settings, flags: Mapping[str, Any], progress: Callable[[StartEvent], Any] | None) -> LLMManager:
        """Go on with other settings over the same server; calls under way are not touched, and a change that fails changes nothing."""
        before = self.settings, self.flags, self.model, self._progress
        changed = _changed(self.settings, settings)
        self.settings, self.flags, self._progress = settings, dict(flags), progress
        self._client.settings = settings
        try:
            if changed & {"model", "allow_cloud"}:
                self.model = settings.model
                await self._take_model()
        except BaseException:
            self.settings, self.flags, self.model, self._progress = before
            self._client.settings = self.settings
            raise
        if "parallel" in changed:
            self._places.total_tokens = settings.parallel or 1
        self._say("ready", f"{self.model} is ready")
        return self

    async def _is_there(self) -> bool:
        """Whether the server still answers; our own is started again if it has ended."""
        try:
            await self._between_tries(None)
            await self._client.version()
        except (ServerError, ModelError):
            return False
        return True

    async def _begin(self) -> None:
        version = await self._answering()
        if version is None:
            version = await self._start_server()
        else:
            self._refuse_strangers()
        self.version = version
        self.engine = OWN_VERSIONS.get(version, Engine.OLLAMA)
        self._refuse_other_engine()
        await self._take_model()
        self.started_at = datetime.now(UTC)
        self._say("ready", f"{self.model} is ready")

    def _say(self, step: str, text: str, done: int = 0, total: int = 0) -> None:
        if self._progress is not None:
            self._progress(StartEvent(step=step, text=text, done=done, total=total))

    async def _answering(self) -> str | None:
        """The version of the server at the address, or None where nothing listens."""
        self._say("checking", f"Looking for a server at {self.settings.url}")
        try:
            return await self._client.version()
        except ServerNotRunning:
            return None
        except ServerTimeout as exc:
            raise PortTaken(exc.message, fix=exc.fix) from exc

    def _refuse_strangers(self) -> None:
        """On a shared machine, evidence must not go to the server of another person."""
        if not self.settings.is_loopback or self.settings.allow_shared or os.name == "nt":
            return
        uid = process.owner_uid(self.settings.port)
        if uid is not None and uid >= FIRST_PERSON and uid != os.getuid():
            raise ServerOfAnother(
                f"the server at {self.settings.url} runs under another person's account (uid {uid}).",
                fix="use a port of your own: %urisk_start --url http://127.0.0.1:11500, or allow it: %env URISK_ALLOW_SHARED=true",
            )

    def _refuse_other_engine(self) -> None:
        wanted = self.settings.engine
        if wanted not in (Engine.AUTO, self.engine):
            raise PortTaken(
                f"{self.settings.url} is answered by the {self.engine} engine ({self.version}), not by the {wanted} one.",
                fix=f"use another port: %urisk_start --engine {wanted} --url http://127.0.0.1:11500",
            )

    async def _start_server(self) -> str:
        settings = self.settings
        if not settings.is_loopback:
            raise ServerNotRunning(f"nothing answers at {settings.url}.", fix="start Ollama on that machine, or check OLLAMA_URL")
        if not settings.auto_start:
            raise ServerNotRunning(
                f"nothing answers at {settings.url}, and OLLAMA_AUTO_START is off.",
                fix="start it: `ollama serve`, or %env OLLAMA_AUTO_START=true",
            )
        engine = process.choose(settings)
        self._say("starting", f"Starting the {engine} engine")
        self._process = process.start(engine, settings)
        self._places.total_tokens = process.slots(engine, settings, os.environ)
        return await self._ready(self._process)

    async def _ready(self, started: process.Process) -> str:
        """The version, as soon as the server that was just started answers."""
        pause_s, end_s = 0.025, time.monotonic() + READY_S
        while time.monotonic() < end_s:
            # A listening port is no sign: Ollama takes connections for a while before it answers. And the answer may be that of
            # another server, which was quicker: then ours is about to end.
            with contextlib.suppress(ServerError):
                version = await self._client.version(within_s=1.0)
                if started.exit_code is None and started.listens(self.settings.port):
                    return version
            if started.exit_code is not None:
                return await self._ended_early(started)
            await asyncio.sleep(pause_s)
            pause_s = min(0.25, 1.5 * pause_s)
        raise ServerStartFailed(
            f"the server was not ready after {READY_S:g} s. {_log_words(started)}", fix="look at the log, then try again"
        )

    async def _ended_early(self, started: process.Process) -> str:
        """Another server took the port in the meantime: it is adopted. Anything else is a failure, with what the log says."""
        tail = started.tail()
        self._process = None
        started.stop()
        if "address already in use" in tail and (version := await self._answering()) is not None:
            self._refuse_strangers()
            return version
        raise ServerStartFailed(
            f"the {started.engine} engine ended with exit code {started.exit_code}. {_log_words(started)}", fix="run `urisk doctor`"
        )

    # Model -----------------------------------------------------------------------------------------------------------------

    async def have(self, model: str) -> None:
        """
        Make a model beside the session's own ready for `ask(..., model=...)`: pulled if missing, and warm.

        Raises
        ------
        ModelError
            There is no such model; the message names those that are there.
        """
        self._check()
        await bridge.call(self._take(model))

    async def _take_model(self) -> None:
        models = await self._client.tags()
        if not self.settings.model_is_given and self.version in OWN_VERSIONS and models:
            self.model = models[0].name.removesuffix(":latest")
        await self._take(self.model, models)

    async def _take(self, model: str, models: Sequence[wire.Model] | None = None) -> None:
        if models is None:
            models = await self._client.tags()
        found = wire.match_model(model, models)
        self._client.refuse_cloud(model, found)
        if found is None:
            await self._pull(model, models)
        self._say("loading", f"Loading {model}")
        await self._client.load(self._load_body(model))

    def _load_body(self, model: str) -> bytes:
        settings = self.settings
        return wire.load_body(model=model, keep_alive=settings.keep_alive_value, num_ctx=settings.num_ctx)

    async def _pull(self, model: str, models: Sequence[wire.Model]) -> None:
        layers: dict[str, tuple[int, int]] = {}
        has = ", ".join(model.name for model in models[:8]) or "none"
        self._say("pulling", f"Pulling {model}")
        try:
            async with aclosing(self._client.pull(model)) as lines:
                async for line in lines:
                    if line.digest:
                        layers[line.digest] = (line.completed, line.total)
                    done, total = (sum(column) for column in zip(*layers.values(), strict=True)) if layers else (0, 0)
                    self._say("pulling", f"Pulling {model}", done, total)
        except ModelNotFound as exc:
            raise ModelNotFound(f"there is no model {model!r}: neither on the server (it has: {has}) nor to pull.", fix=exc.fix) from exc
        except (PullFailed, ServerFault) as exc:
            raise PullFailed(
                f"{model!r} could not be pulled: {exc.facts.get('said', exc.message)} The server has: {has}.",
                fix=_pull_fix(exc, models),
            ) from exc

    # Calls -----------------------------------------------------------------------------------------------------------------

    async def generate(
        self, prompt: str, system_prompt: str | None = None, *, options: Mapping[str, Any] | None = None, format: Any = None
    ) -> Answer:
        """
        The answer to a prompt; waits in order for its turn, for as long as it takes.

        Parameters
        ----------
        prompt, system_prompt
            Text.
        options
            Ollama's options (temperature, seed, num_predict, ...); num_ctx is the manager's.
        format
            A JSON schema that the answer keeps to.

        Raises
        ------
        InputError, ServerError, ModelError
            Each with what to do. A cancel stops the generation on the server.
        """
        return await self.chat(_messages(prompt, system_prompt), options=options, format=format)

    def generate_sync(
        self, prompt: str, system_prompt: str | None = None, *, options: Mapping[str, Any] | None = None, format: Any = None
    ) -> Answer:
        """`generate`, blocking; an interrupt stops the generation."""
        return self.chat_sync(_messages(prompt, system_prompt), options=options, format=format)

    async def chat(self, messages: Sequence[wire.Message], *, options: Mapping[str, Any] | None = None, format: Any = None) -> Answer:
        """The answer to a chat, given as `{"role": ..., "content": ...}` messages; otherwise as `generate`."""
        return await bridge.call(self._stream(messages, options, format).whole())

    def chat_sync(self, messages: Sequence[wire.Message], *, options: Mapping[str, Any] | None = None, format: Any = None) -> Answer:
        """`chat`, blocking; an interrupt stops the generation."""
        return bridge.run(self._stream(messages, options, format).whole())

    def stream(self, prompt: str, system_prompt: str | None = None, *, options: Mapping[str, Any] | None = None) -> AnswerStream:
        """The answer in pieces as they come: `async for piece in manager.stream(...)`, then `.answer` of the stream."""
        return self._stream(_messages(prompt, system_prompt), options, None)

    def stream_sync(self, prompt: str, system_prompt: str | None = None, *, options: Mapping[str, Any] | None = None) -> AnswerStream:
        """The same for `for piece in ...`, blocking; an interrupt stops the generation."""
        return self.stream(prompt, system_prompt, options=options)

    async def ask(self, payload: bytes, model: str | None = None) -> Answer:
        """
        The answer to a question given as JSON bytes with `format`, `messages` and `options`, sent in that order.

        Parameters
        ----------
        payload
            The question.
        model
            Who answers, made ready by `have`; default: the session's model.
        """
        return await bridge.call(self._question(payload, model).whole())

    def ask_sync(self, payload: bytes, model: str | None = None) -> Answer:
        """`ask`, blocking."""
        return bridge.run(self._question(payload, model).whole())

    def _question(self, payload: bytes, model: str | None) -> AnswerStream:
        self._check()
        settings, who = self.settings, model or self.model
        body = wire.payload_body(payload, model=who, keep_alive=settings.keep_alive_value, num_ctx=settings.num_ctx)
        return AnswerStream(self, body, who)

    def _stream(self, messages: Sequence[wire.Message], options: Mapping[str, Any] | None, format: Any) -> AnswerStream:
        self._check()
        if not messages:
            raise InputError("the chat has no messages.", fix='give at least one: [{"role": "user", "content": "..."}]')
        settings = self.settings
        body = wire.chat_body(
            messages, model=self.model, keep_alive=settings.keep_alive_value, num_ctx=settings.num_ctx, options=options, format=format
        )
        return AnswerStream(self, body)

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError("this session belongs to the parent process.", fix="start one in this process: await LLMManager.initialize()")
        if self._closed:
            raise NotInitialized("this session was shut down.", fix="%urisk_start, or: await LLMManager.initialize()")

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place among the calls in flight; those who wait are served in order."""
        self._check()
        who, task = object(), asyncio.current_task()
        if task is not None:
            self._in_flight.add(task)
        try:
            async with contextlib.AsyncExitStack() as stack:
                await self._places.acquire_on_behalf_of(who)
                stack.callback(self._places.release_on_behalf_of, who)
                yield
        except asyncio.CancelledError as exc:
            if self._closed:
                raise ServerLost("the session was shut down during the call.", fix="%urisk_start, then ask again") from exc
            raise
        finally:
            self._in_flight.discard(task)

    async def opened(self, body: bytes) -> AsyncGenerator[tuple[float, int, wire.Piece | wire.Final], None]:
        """Each piece with the time when the last try was sent and its number; tries again until the first piece, never after."""
        async for attempt in retrying(self.settings.max_retries, self._between_tries):
            with attempt:
                sent_s = time.monotonic()
                reply = self._client.chat(body)
                try:
                    first = await anext(reply)
                except BaseException:
                    await reply.aclose()
                    raise
        tries = attempt.retry_state.attempt_number
        async with aclosing(reply):
            yield sent_s, tries, first
            async for piece in reply:
                yield sent_s, tries, piece

    async def _between_tries(self, _: Any) -> None:
        """Make sure that our own server is up before the next try; a server of others is theirs to start."""
        if self._process is not None and self._process.exit_code is not None and not self._closed:
            self._process.stop()
            self._process = process.start(self._process.engine, self.settings)
            await self._ready(self._process)
            await self._client.load(self._load_body(self.model))

    # Facts -----------------------------------------------------------------------------------------------------------------

    @property
    def parallel(self) -> int:
        """How many calls may be in flight; may be set at any time."""
        return int(self._places.total_tokens)

    @parallel.setter
    def parallel(self, most: int) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 256:
            raise InputError(f"parallel is {most!r}.", fix="give a whole number from 1 to 256")
        self._places.total_tokens = most

    @property
    def url(self) -> str:
        return self.settings.url

    @property
    def server(self) -> str:
        """`ours` where it was started by this process, else `adopted`."""
        return "adopted" if self._process is None else "ours"

    @property
    def pid(self) -> int | None:
        """The server's process, where it was started here."""
        return None if self._process is None else self._process.pid

    @property
    def is_simulated(self) -> bool:
        """Whether answers are scripted."""
        return self.engine is Engine.SIMULATED

    @property
    def is_demo_model(self) -> bool:
        """Whether the session's model is the small one of the demonstration, which is weak at labels."""
        return is_demo(self.model)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.model} at {self.url}, {self.server}"
        return f"<LLMManager {state}>"

    # Shutdown --------------------------------------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """
        End the session: calls in flight end with ServerLost, connections are closed, a server that was started here is stopped.

        Blocks about a second at most. A server of others goes on, with its models. Doing it again changes nothing.
        """
        await bridge.call(self._shutdown())

    def shutdown_sync(self) -> None:
        """`shutdown`, blocking."""
        bridge.run(self._shutdown())

    async def _shutdown(self) -> None:
        if self._pid != os.getpid():
            return  # a forked child must not stop its parent's server
        self._closed = True
        waiting = {task for task in self._in_flight if task is not asyncio.current_task()}
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting, timeout=CLOSE_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._client.aclose(), CLOSE_S)
        self._stop_process()
        if runtime.get(KEY) is self:
            runtime.forget(KEY)

    def _stop_process(self) -> None:
        ended, self._process = self._process, None
        if ended is not None:
            ended.stop()

    def _at_exit(self) -> None:
        """At the end of the interpreter: no thread, executor or name look-up works any more, and time is short."""
        call = bridge.submit(self._shutdown())
        call.done.wait(2 * CLOSE_S + 2 * process.GRACE_S)
        self._stop_process()


def is_demo(model: str) -> bool:
    """Whether a name means the small model of the demonstration, on the embedded engine or on a real Ollama."""
    return any(wire.same_model(model, name) for name in DEMO_MODELS)


def _forget_start(start: _Start) -> None:
    if runtime.get(STARTING) is start:
        runtime.forget(STARTING)


def _changed(old: Settings, new: Settings) -> frozenset[str]:
    before, after = old.model_dump(), new.model_dump()
    return frozenset(name for name in after if before[name] != after[name])


def _messages(prompt: str, system_prompt: str | None) -> list[wire.Message]:
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"the prompt is {prompt!r}.", fix="give some text")
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": prompt}]


def _log_words(started: process.Process) -> str:
    tail = started.tail()
    return f"Its log ends: {tail[-600:]!r}" if tail else "Its log is empty."


def _pull_fix(error: Exception, models: Sequence[wire.Model]) -> str:
    if models:
        return f"use a model that is there: %env OLLAMA_MODEL={models[0].name}"
    return getattr(error, "fix", "check the network, then run %urisk_start again")
