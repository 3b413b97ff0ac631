"""The manager: one server, one model, one session, for the life of the process.

Its life has six steps: start (the first caller does the work, the others wait for it); check the
server, adopt it or start it; pull the model if it is missing and warm it; keep one session; answer
over it; shut down. Everything runs on the background loop; the public coroutines may be awaited on
any loop, and each has a blocking twin.

Over 400 lines: half are the signatures and docstrings of what users call. The six steps share the
state of one session, and a step is misread without the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urisk_nb import event_loop, process_state
from urisk_nb.arguments import refuse_unknown, require
from urisk_nb.errors import (
    ForkedError,
    InputError,
    ModelError,
    NotInitialized,
    PortTaken,
    ServerError,
    UriskError,
)
from urisk_nb.llm.answers import Answer, AnswerStream
from urisk_nb.llm.calls import CallRecord, Calls
from urisk_nb.llm.client import Client, OnChunk
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.dialects.dialect import Dialect, Feature
from urisk_nb.llm.labels import Judge, LabelMethod, LabelReader
from urisk_nb.llm.limiter import CallLimiter
from urisk_nb.llm.messages import (
    JUDGE,
    ChatRequest,
    Final,
    LoadedModel,
    Message,
    Model,
    build_messages,
    check_chat,
    find_model,
    is_demo,
    is_judge,
    is_same_model,
    parse_question,
)
from urisk_nb.llm.model_loader import ModelLoader
from urisk_nb.llm.resilience import BreakerState, InRun, retry_rule_for, retrying
from urisk_nb.llm.retrying_client import Exchange, RetryingClient
from urisk_nb.llm.setting_changes import (
    Reload,
    describe_changes,
    find_session_settings,
    find_stale_flags,
    list_aliases,
    merge_settings,
    read_environment,
)
from urisk_nb.llm.snapshot import ServerProbe, SessionSnapshot, take_snapshot
from urisk_nb.server import leases
from urisk_nb.server.model_server import Server, ServerState
from urisk_nb.settings import DialectName, Engine, Settings, given_settings, load
from urisk_nb.terminal_text import visible

if TYPE_CHECKING:
    from urisk_nb.risk.questions import Question

__all__ = ["Answer", "AnswerStream", "LLMManager", "StartEvent", "is_demo", "is_judge"]

KEY, STARTING = "manager", "manager.starting"
CLOSE_S = 0.2
# How long the end of the interpreter waits at most; the guardian goes on by itself after that
EXIT_S = 0.9
# In the runtime: says at the end whether the kernel is about to start again
RESTARTS = "is_restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEvent:
    """
    A step of the start, for people: `checking`, `starting`, `pulling` (with bytes), `loading`,
    `ready`, or `changed` (a setting). As a str it is the text with its megabytes, where it has
    some.
    """

    step: str
    text: str
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        text = visible(self.text)  # `progress=print` is how it is used
        if not self.total:
            return text
        return f"{text} {self.done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB"


class _Start:
    """
    A start in progress: one task, and how many callers wait for it. It is cancelled when the last
    of them leaves.
    """

    def __init__(self, overrides: Mapping[str, Any], task: asyncio.Task[LLMManager]) -> None:
        self.overrides, self.task, self.waiters = overrides, task, 0

    async def join(self) -> LLMManager:
        self.waiters += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self.waiters == 1 and not self.task.done():
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
    judge
        The model that labels sentences where a run names none: `model` too, but beside the demo
        model of the embedded engine, taken by default, the judge that was trained for it.
    engine
        What answers: `ollama`, `embedded` (llama.cpp, started here or by another kernel) or
        `openai`.
    version, url
        Of the server.
    server
        Its state, and what becomes of it.
    limiter
        How many calls are in flight, and how many wait.
    calls
        The last 200 calls and those in flight; iterating gives the timings of those that ended
        well.
    started_at
        When it became ready (UTC).
    """

    def __init__(
        self,
        settings: Settings,
        overrides: Mapping[str, Any],
        progress: Callable[[StartEvent], Any] | None = None,
    ) -> None:
        self.settings = settings
        self.overrides = dict(overrides)
        self.model = self.judge = settings.model
        self.calls = Calls()
        self.started_at: datetime | None = None
        self._progress = progress
        # The variables as they were when flags were last compared with them, and last looked at
        self._environment = self._seen_environment = read_environment()
        self._client = Client(settings)
        self.server = Server(settings, self._client, self._report, self._restore_model)
        self._labels = LabelReader(self._client)
        self._loader = ModelLoader(self._client, self.server, self._report)
        self._window = 0  # tokens of context, where the server's list of models has them
        self.limiter = CallLimiter(settings.parallel or 1)
        self._retrying = RetryingClient(
            self._client, self.server, self.limiter, self._prepare_model
        )
        self._closed = False
        self._pid = os.getpid()
        self._session_id = secrets.token_hex(8)  # names answers of a model without a digest

    # Start ----------------------------------------------------------------------------------------

    @classmethod
    @refuse_unknown()
    async def initialize(
        cls,
        *,
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
        progress: Callable[[StartEvent], Any] | None = None,
        reload: Reload | str | None = None,
    ) -> LLMManager:
        """
        Return the running manager, started if there is none: server found or started, model pulled
        and warm.

        Many callers at once: the first does the work, the others wait for it. Without settings a
        running manager is given as it is; with settings that change only the call (model, timeouts,
        parallel) its server is kept; with others it is shut down first. A cancel stops a start that
        nobody else waits for; layers of a model that have arrived are kept.

        Parameters
        ----------
        url, model, engine, dialect, gguf, num_ctx, parallel, keep_alive, timeout_s, load_timeout_s
            Settings, each in place of its environment variable; None leaves it to the environment.
            The README lists them.
        outage_wait_s, max_retries, auto_start, keep_warm_s, data, allow_shared, allow_cloud
            Further settings, likewise.
        api_key, headers, ca_file, ca_folder
            How a server behind a login, or with a certificate of your company, is reached.
        progress
            Called with each StartEvent, on the loop's thread.
        reload
            Which variables a running session reads again: `never` (default), `calls` (those that
            hold for the next call) or `all`. A variable that was set after a flag takes its place.

        Raises
        ------
        InputError
            An unknown argument; the message names the likely one.
        SettingsError, ServerError, ModelError
            Each with what to do.
        """
        overrides = given_settings(locals())
        return await event_loop.call(cls._initialize(overrides, progress, _read_reload(reload)))

    @classmethod
    @refuse_unknown()
    def initialize_sync(
        cls,
        *,
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
        progress: Callable[[StartEvent], Any] | None = None,
        reload: Reload | str | None = None,
    ) -> LLMManager:
        """`initialize`, blocking; an interrupt stops it."""
        overrides = given_settings(locals())
        return event_loop.run(cls._initialize(overrides, progress, _read_reload(reload)))

    @classmethod
    async def connect(
        cls, *, progress: Callable[[StartEvent], Any] | None = None, **overrides: Any
    ) -> LLMManager:
        """
        Return a manager that has a server and no model yet, so that a model can be made there.

        It is not the manager of this process: its caller shuts it down. `progress` is called, and
        errors of a server are raised, as by `initialize`.
        """
        return await event_loop.call(cls._connect(overrides, progress))

    @classmethod
    async def _connect(
        cls, overrides: Mapping[str, Any], progress: Callable[[StartEvent], Any] | None
    ) -> LLMManager:
        _check_progress(progress)
        given = {name: value for name, value in overrides.items() if value is not None}
        manager = cls(load(**given), given, progress)
        manager.model = manager.judge = ""
        try:
            await manager.server.begin()
        except BaseException:
            await manager._shutdown()
            raise
        return manager

    @classmethod
    def get_instance(cls) -> LLMManager:
        """
        Return the manager that is running in this process.

        Raises
        ------
        NotInitialized
            There is none.
        """
        if (manager := cls.find_instance()) is None:
            raise NotInitialized(
                "no session was started in this process.",
                fix="%urisk_start, or: await LLMManager.initialize()",
            )
        return manager

    @classmethod
    def find_instance(cls) -> LLMManager | None:
        """Return the manager that is running in this process, or None."""
        return process_state.get(KEY)  # type: ignore[no-any-return]  # kept in untyped state

    @classmethod
    def is_starting(cls) -> bool:
        """Return whether somebody in this process is starting a session."""
        return process_state.get(STARTING) is not None

    @classmethod
    async def _initialize(
        cls,
        overrides: Mapping[str, Any],
        progress: Callable[[StartEvent], Any] | None,
        reload: Reload = Reload.NEVER,
    ) -> LLMManager:
        _check_progress(progress)
        while (starting := process_state.get(STARTING)) is not None:
            if starting.task.cancelling():
                await asyncio.wait({starting.task})
            elif starting.overrides == overrides:
                return await starting.join()  # type: ignore[no-any-return]  # kept in untyped state
            else:
                # A start with other overrides: how it ends is for those who asked for it.
                with contextlib.suppress(UriskError):
                    await starting.join()
        running: LLMManager | None = process_state.get(KEY)
        task = asyncio.create_task(cls._start_or_reuse(running, overrides, progress, reload))
        start = _Start(overrides, task)
        process_state.put(STARTING, start)
        start.task.add_done_callback(lambda _: _forget_start(start))
        return await start.join()

    @classmethod
    async def _start_or_reuse(
        cls,
        running: LLMManager | None,
        overrides: Mapping[str, Any],
        progress: Callable[[StartEvent], Any] | None,
        reload: Reload,
    ) -> LLMManager:
        is_well = running is not None and not running._closed and await running._is_alive()
        if running is None:
            return await cls._start_another(None, load(**overrides), overrides, progress)
        now = read_environment()
        is_seen = reload is Reload.CALLS and now == running._seen_environment
        if is_well and not overrides and (reload is Reload.NEVER or is_seen):
            return running
        kept = now
        of_session = find_session_settings(running.engine, is_managed=running.is_managed)
        stale = find_stale_flags(running.overrides, running._environment, now)
        if is_well and reload is Reload.CALLS:
            stale -= of_session
        older = {name: value for name, value in running.overrides.items() if name not in stale}
        overrides = {**older, **overrides}
        settings, before = load(**overrides), running.settings
        changed = _diff_settings(before, settings)
        if not (is_well or changed or reload is Reload.ALL):
            running._keep_engine()
        if is_well and reload is Reload.CALLS and (left := changed & of_session):
            running._report_left(settings, left, now, progress)
            changed -= of_session
            settings = merge_settings(before, settings, changed)
            kept = {**now, **running._keep_variables(of_session, now)}
        for line in describe_changes(before, settings, changed, now):
            _report_change(line, progress)
        if is_well and not changed & of_session:
            manager = await running._change(settings, overrides, progress)
        else:
            manager = await cls._start_another(running, settings, overrides, progress)
        # Only now: a change that fails is tried again by the next caller
        manager._environment, manager._seen_environment = kept, now
        return manager

    @classmethod
    async def _start_another(
        cls,
        running: LLMManager | None,
        settings: Settings,
        overrides: Mapping[str, Any],
        progress: Callable[[StartEvent], Any] | None,
    ) -> LLMManager:
        """
        Start a session in place of the one that runs.

        Over an external server the old one goes on until the new one is ready: a lost one is shown,
        with its calls, and one that is well stays where the new one fails. A managed server ends
        first, so that memory is not needed twice.
        """
        is_kept = running is not None and not (running._closed or running.is_managed)
        if running is not None and not is_kept:
            await running._shutdown()
        manager = cls(settings, overrides, progress)
        try:
            await manager._start_session()
        except BaseException:
            await manager._shutdown()
            raise
        if running is not None and is_kept:
            await running._shutdown()
        process_state.put(KEY, manager)
        process_state.at_exit(KEY, manager._at_exit)
        return manager

    def _keep_engine(self) -> None:
        """
        Raise why an OpenAI-compatible server of others does not answer: only %urisk_start puts
        another engine, with another model, in its place.
        """
        failure = self.server.failure
        if self.server.is_lost and self.engine is Engine.OPENAI and failure is not None:
            raise failure

    def _report_left(
        self,
        settings: Settings,
        left: Collection[str],
        now: Mapping[str, str],
        progress: Callable[[StartEvent], Any] | None,
    ) -> None:
        """Name the changes that this session does not take by itself."""
        for line in describe_changes(self.settings, settings, left, now):
            _report_change(
                f"{line}: %urisk_start takes it, this session goes on as it is", progress
            )

    def _keep_variables(self, names: Collection[str], now: Mapping[str, str]) -> dict[str, str]:
        """Return these settings' variables as they were: their change is still to be taken."""
        aliases = {alias for name in names for alias in list_aliases(name)}
        return {alias: self._environment.get(alias, "") for alias in aliases if alias in now}

    async def _change(
        self,
        settings: Settings,
        overrides: Mapping[str, Any],
        progress: Callable[[StartEvent], Any] | None,
    ) -> LLMManager:
        """
        Go on with other settings over the same server; calls in flight are not touched, and a
        change that fails changes nothing.
        """
        before = self.settings, self.overrides, self.model, self.judge, self._progress
        notes = list(self.server.notes)
        changed = _diff_settings(self.settings, settings)
        self.settings, self.overrides, self._progress = settings, dict(overrides), progress
        self._client.settings = self.server.settings = settings
        try:
            if changed & {"model", "allow_cloud", "num_ctx"}:
                self.model = settings.model
                await self._take_model()
            elif "keep_alive" in changed:
                self._loader.note_fixed_settings(self.num_ctx)
            if "gguf" in changed:  # an embedded engine of ours would have been started anew
                _report_change(
                    f"URISK_GGUF has no effect here: {self.url} is another server; to use it: "
                    "%urisk_start --engine embedded --url http://127.0.0.1:11500",
                    progress,
                )
        except BaseException:
            self.settings, self.overrides, self.model, self.judge, self._progress = before
            self._client.settings = self.server.settings = self.settings
            self.server.notes[:] = notes
            raise
        if "parallel" in changed:
            self.limiter.set_usual(settings.parallel or self.server.slots)
            self.server.note_slots()
        self._report("ready", f"{self.model} is ready")
        self._progress = None
        return self

    async def _is_alive(self) -> bool:
        """Return whether the server answers; a managed one that has ended is started again."""
        try:
            await self.server.ready()
            await self._client.probe()
        except (ServerError, ModelError) as exc:
            self.server.note_loss(exc)
            return False
        self.server.note_return()
        return True

    async def is_up(self, model: str | None = None) -> bool:
        """
        Return whether the server answers, with a model (default: the session's) in its memory.

        Loads the model where it is not. Waits for a managed server that is being started again.

        Raises
        ------
        ServerError, ModelError
            Waiting is of no use: the server could not be started again, the model is gone.
        """
        self._check()
        return await event_loop.call(self._is_up(model or self.model))

    async def _is_up(self, model: str) -> bool:
        await self.server.ready()
        try:
            await self._client.probe()
            self.server.note_return()
            await self._loader.load(model)
        except PortTaken:  # a proxy may still answer for a server that is away
            return False
        except UriskError as exc:
            if retry_rule_for(exc).in_run is InRun.END:
                raise
            return False
        return True

    async def check_external(self) -> None:
        """
        Ask an external server whether it still answers, so that the state says so; never raises.

        The guardian reports the end of a managed server.
        """
        if not (self._closed or self.is_managed):
            await event_loop.call(self._is_alive())

    async def _start_session(self) -> None:
        await self.server.begin()
        self.limiter.set_usual(self.settings.parallel or self.server.slots)
        await self._take_model()
        self.started_at = datetime.now(UTC)
        self._report("ready", f"{self.model} is ready")
        self._progress = None  # called for the start, not for what comes later

    async def _restore_model(self) -> None:
        """Load the model on a server that had ended and is back, before any call reaches it."""
        if self.settings.parallel is None:
            self.limiter.set_usual(self.server.slots)
        self._labels.reset()
        if self.model:
            await self._loader.load(self.model)

    def _report(self, step: str, text: str, done: int = 0, total: int = 0) -> None:
        if self._progress is not None:
            self._progress(StartEvent(step=step, text=text, done=done, total=total))

    # Model ----------------------------------------------------------------------------------------

    async def ensure_model(self, *models: str) -> None:
        """
        Make models beside the session's own ready for `ask(..., model=...)`: pulled if missing, and
        warm. Nothing is pulled or loaded before it is known that the server can have all of them.

        Raises
        ------
        ModelError
            There is no such model; the message names those that are there.
        """
        self._check()
        await event_loop.call(self._prepare_models(models))

    async def _prepare_models(self, models: Sequence[str]) -> None:
        known = await self._client.list_models()
        for model in models:
            self._loader.check(model, known)
        for model in models:
            await self._prepare_model(model, known)

    async def find_judges(self, *models: str) -> tuple[Judge, ...]:
        """
        Return how each model labels: with a probability for each label, or as text; the first call
        for a model asks the server.

        Raises
        ------
        ModelError
            A judge is served in a way in which it cannot be asked.
        """
        self._check()
        return await event_loop.call(self._find_judges(models))

    async def _find_judges(self, models: Sequence[str]) -> tuple[Judge, ...]:
        async def wait(_: object) -> None:  # a lambda would return what nobody awaits
            await self.server.wait_for_exit_news()

        attempts = retrying(self.settings.max_retries, wait)
        async for attempt in attempts:
            with attempt:
                await self.server.ready()
                known = await self._client.list_models()
                self.server.note_return()
                return tuple([await self._find_judge(model, known) for model in models])
        raise AssertionError("retrying ends with a value or an error")  # pragma: no cover

    async def identify_model(self, model: str | None = None) -> tuple[str, str]:
        """
        Return the digest of a model (default: the session's), and a name of this session's server.

        The digest is empty where nothing tells it; such a model is known by the session alone.

        Raises
        ------
        ServerError
            The server does not answer.
        """
        self._check()
        return await event_loop.call(self._identify_model(model or self.model))

    async def _identify_model(self, model: str) -> tuple[str, str]:
        digest = await self._read_digest(model, await self._client.list_models())
        return digest, f"{self._session_id} {self.restart_count}"

    async def _read_digest(self, model: str, known: Sequence[Model]) -> str:
        found = find_model(model, known)
        return (found.digest if found else "") or await self._find_digest(model)

    async def _find_judge(self, model: str, known: Sequence[Model]) -> Judge:
        digest = await self._read_digest(model, known)
        method = await self._labels.find_method(model, digest)
        is_written = method in (LabelMethod.SCHEMA, LabelMethod.CHOICES)
        return Judge(
            model=model,
            method=method,
            digest=digest,
            session=f"{self._session_id} {self.restart_count}",
            setting=self._labels.writer.find_setting(model) if is_written else None,
        )

    async def _find_digest(self, model: str) -> str:
        """Return the digest of a model that a server of ours has from a file; empty of others."""
        if not self.server.serves_own_file:
            return ""
        from urisk_nb.llm.local_digest import find_local_digest

        return await asyncio.to_thread(find_local_digest, self.settings, model, self.pid)

    async def unload(self, model: str | None = None) -> None:
        """
        Have the server put a model (default: the session's) out of its memory; the next call loads
        it again.

        Answers in progress are finished first. Programs that use the same server lose the model.

        Raises
        ------
        NotSupportedByServer
            The server keeps its model for as long as it runs.
        """
        self._check()
        self._client.require(Feature.UNLOAD, "put a model out of its memory")
        body = ollama.encode_load(
            model=model or self.model, keep_alive=0, num_ctx=self.settings.num_ctx
        )
        await event_loop.call(self._client.load(body))

    async def restart(self) -> None:
        """
        End the managed server and start another; returns when it is ready and the model warm.

        Answers in progress end with StreamInterrupted (or RunnerCrashed, where the model's process
        ended first), calls that wait go to the new server. Other kernels of this user that share
        the server go over to the new one, too.

        Raises
        ------
        ServerNotManaged
            The server was not started here.
        ServerError
            It could not be started again.
        """
        self._check()
        await event_loop.call(self._restart())

    async def _restart(self) -> None:
        await self.server.restart()
        self._retrying.breakers.clear()  # they speak of the server that was replaced

    async def loaded_models(self) -> list[LoadedModel]:
        """
        Return the models in the server's memory, with what they hold of it; generates nothing.

        Raises
        ------
        NotSupportedByServer
            The server has no such list.
        """
        self._check()
        return await event_loop.call(self._client.list_loaded_models())

    async def models(self) -> list[Model]:
        """Return the models that the server offers; generates nothing."""
        self._check()
        return await event_loop.call(self._client.list_models())

    async def _take_model(self) -> None:
        models = await self._client.list_models()
        self.model = self._loader.choose(models)
        is_free = not self.settings.model_is_given
        has_judge = find_model(JUDGE, models) is not None
        self.judge = JUDGE if is_free and has_judge and is_demo(self.model) else self.model
        await self._prepare_model(self.model, models)
        self._loader.note_fixed_settings(self.num_ctx)

    async def _prepare_model(self, model: str, models: Sequence[Model] | None = None) -> None:
        found = await self._loader.prepare(model, models)
        if found is not None and is_same_model(model, self.model):
            self._window = found.num_ctx

    # Calls ----------------------------------------------------------------------------------------

    async def generate(
        self,
        prompt: str,
        system_prompt: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        format: Any = None,
    ) -> Answer:
        """
        Return the answer to a prompt; wait in order for its turn, for as long as it takes.

        Parameters
        ----------
        prompt, system_prompt
            Text.
        options
            Ollama's options (temperature, seed, num_predict, ...), without num_ctx, which is the
            session's.
        format
            A JSON schema that the answer keeps to, or `"json"`.

        Raises
        ------
        InputError, ServerError, ModelError
            Each with what to do. A cancel stops the generation on the server.
        """
        return await self.chat(
            build_messages(prompt, system_prompt), options=options, format=format
        )

    def generate_sync(
        self,
        prompt: str,
        system_prompt: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        format: Any = None,
    ) -> Answer:
        """`generate`, blocking; an interrupt stops the generation."""
        return self.chat_sync(build_messages(prompt, system_prompt), options=options, format=format)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        options: Mapping[str, Any] | None = None,
        format: Any = None,
    ) -> Answer:
        """
        Return the answer to a chat, given as `{"role": ..., "content": ...}` messages; otherwise as
        `generate`.
        """
        return await event_loop.call(self._stream(messages, options, format).whole())

    def chat_sync(
        self,
        messages: Sequence[Message],
        *,
        options: Mapping[str, Any] | None = None,
        format: Any = None,
    ) -> Answer:
        """`chat`, blocking; an interrupt stops the generation."""
        return event_loop.run(self._stream(messages, options, format).whole())

    def stream(
        self,
        prompt: str,
        system_prompt: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> AnswerStream:
        """
        Return the answer in pieces as they come: `async for piece in manager.stream(...)`, then
        `.answer` of the stream.
        """
        return self._stream(build_messages(prompt, system_prompt), options, None)

    def stream_sync(
        self,
        prompt: str,
        system_prompt: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> AnswerStream:
        """Stream like `stream`, for a plain `for`; an interrupt stops the generation."""
        return self.stream(prompt, system_prompt, options=options)

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        options: Mapping[str, Any] | None = None,
        format: Any = None,
        model: str | None = None,
    ) -> AnswerStream:
        """
        Return the answer to a chat in pieces, as `stream` does; iterate with `for` or `async for`.

        Parameters
        ----------
        messages, options, format
            As `chat` takes them.
        model
            Who answers, made ready by `ensure_model`; default: the session's model.
        """
        return self._stream(messages, options, format, model)

    async def ask(self, question: Question | bytes, model: str | None = None) -> Answer:
        """
        Return the answer to a question about one sentence, asked in the best way that the server
        offers.

        Parameters
        ----------
        question
            The question; or its payload alone, JSON bytes with `format`, `messages` and `options`.
        model
            Who answers, made ready by `ensure_model`; default: the session's model.

        Returns
        -------
        Answer
            Compact JSON with the keys of the question's schema, and `logprobs` where the server
            gives them.
        """
        return await event_loop.call(self._prepare_question(question, model).whole())

    def ask_sync(self, question: Question | bytes, model: str | None = None) -> Answer:
        """`ask`, blocking."""
        return event_loop.run(self._prepare_question(question, model).whole())

    def _prepare_question(self, question: Question | bytes, model: str | None) -> AnswerStream:
        self._check()
        who = model or self.model
        payload, about = (
            (question, None) if isinstance(question, bytes) else (question.payload, question)
        )
        request = parse_question(payload, **self._request_fields(who))
        body = self._client.dialect.encode_chat(request)
        exchange = partial(self._labels.ask, about, request, body)
        return AnswerStream(self, body, exchange, who, request.messages)

    def _stream(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any] | None,
        format: Any,
        model: str | None = None,
    ) -> AnswerStream:
        self._check()
        check_chat(messages, options, format)
        request = ChatRequest(
            messages=messages,
            options=options or {},
            schema=format,
            **self._request_fields(model or self.model),
        )
        body = self._client.dialect.encode_chat(request)
        return AnswerStream(self, body, partial(self._client.chat, body), model, messages)

    def _request_fields(self, model: str) -> dict[str, Any]:
        """What the session adds to each request."""
        adapters = self._client.props.adapters
        is_beneath = JUDGE in adapters and not is_judge(model)
        return {
            "model": model,
            "keep_alive": self.settings.keep_alive_value,
            "num_ctx": self.settings.num_ctx,
            # The judge's adapter is on where a request says nothing
            "adapter_off": adapters.index(JUDGE) if is_beneath else None,
        }

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError(
                "this session belongs to the parent process.",
                fix="start one in this process: await LLMManager.initialize()",
            )
        if self._closed:
            raise NotInitialized(
                "this session was shut down.", fix="%urisk_start, or: await LLMManager.initialize()"
            )

    def run_call(
        self, record: CallRecord, exchange: Exchange, on_chunk: OnChunk
    ) -> Awaitable[Final]:
        """Wait for the turn of a call, then ask with all attempts; the record notes them."""
        self._check()
        return self._retrying.run(record, exchange, on_chunk)

    # Facts ----------------------------------------------------------------------------------------

    @property
    def parallel(self) -> int:
        """How many calls may be in flight; may be set at any time."""
        return self.limiter.limit

    @parallel.setter
    def parallel(self, most: int) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 256:
            raise InputError(f"parallel is {most!r}.", fix="give a whole number from 1 to 256")
        self.limiter.set_usual(most)

    def allow_parallel(self, least: int | None) -> AbstractContextManager[None]:
        """
        Let at least so many calls be in flight while this lasts, for a run that asks for more than
        the session allows.
        """
        return self.limiter.allow(least)

    @property
    def url(self) -> str:
        return self.settings.url

    @property
    def engine(self) -> Engine:
        """What answers: `ollama`, `embedded` or `openai`."""
        return self.server.engine

    @property
    def dialect(self) -> Dialect:
        """The wire that the server speaks, and what such a server can do."""
        return self._client.dialect

    @property
    def num_ctx(self) -> int:
        """Context window of a call in tokens; 0 where the server fixes it and does not tell."""
        if self.dialect.can(Feature.LOAD):
            return self.settings.num_ctx
        return self._client.props.num_ctx or self._window

    @property
    def version(self) -> str:
        return self.server.version

    @property
    def state(self) -> ServerState:
        """What is known of the server."""
        return self.server.state

    @property
    def notes(self) -> Sequence[str]:
        """What there is to know about this server beyond its state: sentences."""
        return tuple(self.server.notes)

    @property
    def restart_count(self) -> int:
        """How often the server was started again after it had ended by itself."""
        return self.server.restart_count

    @property
    def is_managed(self) -> bool:
        """
        Whether the server was started here or by another kernel of this user, and a guardian keeps
        it.
        """
        return self.server.lease is not None

    @property
    def pid(self) -> int | None:
        """The process of a managed server, else None."""
        return None if self.server.lease is None else self.server.lease.server_pid

    @property
    def slots(self) -> int:
        """How many calls the server answers at once; taken for 1 where it does not tell."""
        return self.server.slots

    def snapshot(self, probe: ServerProbe | None = None) -> SessionSnapshot:
        """
        Return the session as it is now, for display; sends no request.

        Parameters
        ----------
        probe
            What the server and the system said when they were asked last (`probe_server`).
        """
        return take_snapshot(self, probe)

    def breaker(self, model: str | None = None) -> BreakerState:
        """Return whether calls go through, for the session's model or another."""
        return self._retrying.breakers[model or self.model].state(time.monotonic())

    def __repr__(self) -> str:
        state = (
            "closed"
            if self._closed
            else f"{self.model} at {self.url}, {'managed' if self.is_managed else 'external'}"
        )
        return visible(f"<LLMManager {state}>")

    # Shutdown -------------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """
        End the session: calls in flight end with ServerConnectionLost, connections are closed, a
        server that was started here is stopped.

        Blocks about a second at most. An external server goes on, with its models. Doing it again
        changes nothing.
        """
        await event_loop.call(self._shutdown())

    def shutdown_sync(self) -> None:
        """`shutdown`, blocking."""
        event_loop.run(self._shutdown())

    async def _shutdown(self, keep_s: float = 0.0, within_s: float = 2 * leases.GRACE_S) -> None:
        if self._pid != os.getpid():
            return  # a forked child must not stop its parent's server
        self._closed = True
        if process_state.get(KEY) is self:
            # Whatever becomes of the rest, an interrupt for example: this session is over
            process_state.forget(KEY)
        try:
            await self.limiter.cancel_all(CLOSE_S)
            await self.server.stop_monitoring(CLOSE_S)
            # A connection that will not close must not keep a server
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.aclose(), CLOSE_S)
        finally:
            await self.server.end(keep_s, within_s)

    def _at_exit(self) -> None:
        """
        At the end of the interpreter: no thread, executor or name look-up works any more, and time
        is short.
        """
        is_restart = process_state.get(RESTARTS)
        keep_s = self.settings.keep_warm_s if is_restart is not None and is_restart() else 0.0
        call = event_loop.submit(self._shutdown(keep_s, EXIT_S - 2 * CLOSE_S))
        call.done.wait(EXIT_S)


def _forget_start(start: _Start) -> None:
    if process_state.get(STARTING) is start:
        process_state.forget(STARTING)


def _diff_settings(old: Settings, new: Settings) -> frozenset[str]:
    before, after = old.model_dump(), new.model_dump()
    changed = {name for name in after if before[name] != after[name]}
    # The address is shown without its user and password, and they may change by themselves
    return frozenset(changed if old.is_same_login(new) else changed | {"url"})


def _report_change(line: str, progress: Callable[[StartEvent], Any] | None) -> None:
    if progress is not None:
        progress(StartEvent(step="changed", text=line))


def _read_reload(reload: Reload | str | None) -> Reload:
    if reload is None:
        return Reload.NEVER
    choices = ", ".join(map(repr, map(str, Reload)))
    require(reload in list(Reload), "reload", reload, f"give one of {choices}")
    return Reload(reload)


def _check_progress(progress: object) -> None:
    is_fit = progress is None or callable(progress)
    require(is_fit, "progress", progress, "give a function of one StartEvent: progress=print")
