"""The manager: one model, one session, and one server or several, for the life of the process.

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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urisk_nb import event_loop, process_state
from urisk_nb.arguments import refuse_unknown, require
from urisk_nb.errors import (
    ForkedError,
    InputError,
    NotInitialized,
    PortTaken,
    ServerTimeout,
    UriskError,
)
from urisk_nb.llm.agreement import ModelAgreement
from urisk_nb.llm.answers import Answer, AnswerStream
from urisk_nb.llm.calls import CallRecord, Calls
from urisk_nb.llm.client import OnChunk
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.dialects.dialect import Dialect, Feature
from urisk_nb.llm.endpoint import Endpoint
from urisk_nb.llm.labels import Judge
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
    parse_question,
)
from urisk_nb.llm.pool import EndpointPool
from urisk_nb.llm.resilience import Attempts, BreakerState
from urisk_nb.llm.retrying_client import Exchange
from urisk_nb.llm.setting_changes import (
    Reload,
    describe_changes,
    find_session_settings,
    find_stale_flags,
    list_aliases,
    merge_settings,
    read_environment,
)
from urisk_nb.llm.snapshot import ServerProbe, SessionSnapshot, session_notes, take_snapshot
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
    One model and one session, over one server or several, shared by everything in this process.

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
        Of the server. Of several, the version of the lead, and all addresses with commas between.
    lead
        The server; of several, the first that may be asked, which speaks for all.
    pool
        The servers, and which of them answers a call.
    server
        The state of the lead, and what becomes of it.
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
        self.pool = EndpointPool(
            [
                Endpoint(one, self._report, is_one_of_several=one is not settings)
                for one in settings.each_server
            ],
            self._admit,
        )
        self._agreement = ModelAgreement()
        self._closed = False
        self._pid = os.getpid()
        self._session_id = secrets.token_hex(8)  # names answers of a model without a digest

    # Start ----------------------------------------------------------------------------------------

    @classmethod
    @refuse_unknown()
    async def initialize(
        cls,
        *,
        url: str | Sequence[str] | None = None,
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
            The README lists them. `url` may name several servers: a list, or text with commas.
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
        url: str | Sequence[str] | None = None,
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
        manager.model = manager.judge = manager.lead.model = ""
        try:
            await manager._find_servers()
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
        of_each = [(one, one.model, list(one.server.notes)) for one in self.pool.endpoints]
        agreed = self._agreement
        changed = _diff_settings(self.settings, settings)
        self.settings, self.overrides, self._progress = settings, dict(overrides), progress
        self._hand_on_settings()
        try:
            if changed & {"model", "allow_cloud", "num_ctx"}:
                self.model, self._agreement = settings.model, ModelAgreement()
                await self._take_model()
            elif "keep_alive" in changed:
                self.lead.loader.note_fixed_settings(self.num_ctx)
            if "gguf" in changed:  # an embedded engine of ours would have been started anew
                _report_change(
                    f"URISK_GGUF has no effect here: {self.url} is another server; to use it: "
                    "%urisk_start --engine embedded --url http://127.0.0.1:11500",
                    progress,
                )
        except BaseException:
            self.settings, self.overrides, self.model, self.judge, self._progress = before
            self._agreement = agreed
            self._hand_on_settings()
            for endpoint, own_model, notes in of_each:
                endpoint.model, endpoint.server.notes[:] = own_model, notes
            raise
        if "parallel" in changed:
            self._set_places()
            self.server.note_slots()
        self._report("ready", f"{self.model} is ready")
        self._progress = None
        return self

    def _hand_on_settings(self) -> None:
        for endpoint, one in zip(self.pool.endpoints, self.settings.each_server, strict=True):
            endpoint.change_settings(one)

    def _set_places(self) -> None:
        """Allow as many calls in flight as the settings say, or as the servers have slots."""
        if self.pool.is_single:
            self.limiter.set_usual(self.settings.parallel or self.server.slots)
        else:
            self.pool.set_usual(self.settings.parallel)

    async def _is_alive(self) -> bool:
        """Return whether a server answers; a managed one that has ended is started again."""
        return await (self.lead.is_alive() if self.pool.is_single else self.pool.check())

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
        return await (self.lead.is_up(model) if self.pool.is_single else self.pool.is_back())

    async def check_external(self) -> None:
        """
        Ask an external server whether it still answers, so that the state says so; never raises.

        The guardian reports the end of a managed server.
        """
        if not (self._closed or self.is_managed):
            await event_loop.call(self._is_alive())

    async def _start_session(self) -> None:
        await self._find_servers()
        self._set_places()
        await self._take_model()
        self.started_at = datetime.now(UTC)
        self._report("ready", f"{self.model} is ready")
        self._progress = None  # called for the start, not for what comes later

    async def _find_servers(self) -> None:
        """Find the server, or start it; of several that do not answer, one is enough."""

        async def begin(endpoint: Endpoint) -> None:
            try:
                await endpoint.server.begin()
            except PortTaken as exc:
                is_silent = isinstance(exc.__cause__, ServerTimeout)
                if self.pool.is_single or not is_silent:
                    raise
                raise ServerTimeout(exc.message, fix=exc.fix) from exc

        await self.pool.each(begin)

    async def _admit(self, endpoint: Endpoint) -> None:
        """Make a server ready that was away; raise if it cannot be used yet."""
        await endpoint.server.look_again()
        endpoint.labels.reset()
        known = await endpoint.client.list_models()
        name = endpoint.loader.choose(known)
        self._agreement.check_names({endpoint.url: name})
        endpoint.model = name
        models = self._agreement.models or (self.model,)
        await self._make_ready(models, {endpoint: known})
        known = await endpoint.client.list_models()
        for model in self._agreement.judges:
            judge = await endpoint.find_judge(model, known, "")
            self._agreement.check_methods(model, {endpoint.url: judge.method})

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
        await self._make_ready(models, await self._list_models())

    async def _list_models(self) -> Mapping[Endpoint, Sequence[Model]]:
        return await self.pool.each(lambda endpoint: endpoint.client.list_models())

    async def _make_ready(
        self, models: Sequence[str], known: Mapping[Endpoint, Sequence[Model]]
    ) -> None:
        """
        Have servers load models, and pull those that they lack; each is the same on all of them.

        Parameters
        ----------
        known
            What each server has, as it was just asked.
        """
        if self.pool.is_single:
            await self.lead.prepare_models(models, known[self.lead])
            return
        self._check_digests(models, known)
        lacking = {
            endpoint
            for endpoint, there in known.items()
            if not all(find_model(endpoint.spell(model), there) for model in models)
        }
        if len(known) == 1:  # one that comes back
            for endpoint, there in known.items():
                await endpoint.prepare_models(models, there)
                known = {endpoint: await endpoint.client.list_models()} if lacking else known
        else:
            await self.pool.each(lambda one: one.prepare_models(models, known[one]))
            known = await self._list_models() if lacking else known
        self._check_digests(models, known)

    def _check_digests(
        self, models: Sequence[str], known: Mapping[Endpoint, Sequence[Model]]
    ) -> None:
        for model in models:
            found = {one: find_model(one.spell(model), there) for one, there in known.items()}
            digests = {one.url: model.digest for one, model in found.items() if model is not None}
            self._agreement.check_digests(model, digests)

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

        attempts = Attempts(self.settings.max_retries, wait)
        async for attempt in attempts:
            with attempt:
                found = await self.pool.each(lambda one: self._find_judges_of(one, models))
                lead = next(iter(found))
                if self.pool.is_single:
                    return found[lead]
                for number, model in enumerate(models):
                    methods = {one.url: own[number].method for one, own in found.items()}
                    self._agreement.check_methods(model, methods)
                self._share_settings(found[lead])
                return tuple(
                    replace(judge, digest=self._agreement.find_digest(judge.model))
                    for judge in found[lead]
                )
        raise AssertionError("retrying ends with a value or an error")  # pragma: no cover

    async def _find_judges_of(self, endpoint: Endpoint, models: Sequence[str]) -> tuple[Judge, ...]:
        await endpoint.server.ready()
        known = await endpoint.client.list_models()
        endpoint.server.note_return()
        if not self.pool.is_single:
            self._check_digests(models, {endpoint: known})
        session = f"{self._session_id} {self.restart_count}"
        return tuple([await endpoint.find_judge(model, known, session) for model in models])

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
        async def read(endpoint: Endpoint) -> str:
            return await endpoint.read_digest(model, await endpoint.client.list_models())

        found = await self.pool.each(read)
        digest = next(iter(found.values()))
        if not self.pool.is_single:
            self._agreement.check_digests(model, {one.url: own for one, own in found.items()})
            digest = self._agreement.find_digest(model)
        return digest, f"{self._session_id} {self.restart_count}"

    def _share_settings(self, judges: Sequence[Judge]) -> None:
        """Have all servers ask in the one way in which a model was found to keep to the schema."""
        for judge in judges:
            if judge.setting is not None:
                for endpoint in self.pool.endpoints:
                    endpoint.labels.writer.share(endpoint.spell(judge.model), judge.setting)

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
        self.lead.client.require(Feature.UNLOAD, "put a model out of its memory")
        body = ollama.encode_load(
            model=model or self.model, keep_alive=0, num_ctx=self.settings.num_ctx
        )
        await event_loop.call(self.pool.each(lambda endpoint: endpoint.client.load(body)))

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
        self.lead.retrying.breakers.clear()  # they speak of the server that was replaced

    async def loaded_models(self) -> list[LoadedModel]:
        """
        Return the models in the server's memory, with what they hold of it; generates nothing.

        Raises
        ------
        NotSupportedByServer
            The server has no such list.
        """
        self._check()
        return await event_loop.call(self.lead.client.list_loaded_models())

    async def models(self) -> list[Model]:
        """Return the models that the server offers; generates nothing."""
        self._check()
        return await event_loop.call(self.lead.client.list_models())

    async def _take_model(self) -> None:
        known = await self._list_models()
        names = {one: one.loader.choose(models) for one, models in known.items()}
        self._agreement.check_names({one.url: name for one, name in names.items()})
        for endpoint, name in names.items():
            endpoint.model = name
        self.model = self.lead.model
        is_free = not self.settings.model_is_given
        has_judge = all(find_model(JUDGE, models) for models in known.values())
        self.judge = JUDGE if is_free and has_judge and is_demo(self.model) else self.model
        await self._make_ready([self.model], known)
        self.lead.loader.note_fixed_settings(self.num_ctx)

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
        answer = self._prepare_question(question, model).whole()
        if event_loop.on_loop():  # one of many calls of a run
            return await event_loop.skip_checkpoints(answer)
        return await event_loop.call(answer)

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
        return AnswerStream(
            self,
            lambda one, known: one.prepare_question(about, request, known),
            who,
            request.messages,
        )

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
        return AnswerStream(
            self, lambda one, known: one.prepare_chat(request, known), model, messages
        )

    def _request_fields(self, model: str) -> dict[str, Any]:
        """What the session adds to each request."""
        return {
            "model": model,
            "keep_alive": self.settings.keep_alive_value,
            "num_ctx": self.settings.num_ctx,
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
        self, record: CallRecord, prepare: Callable[[Endpoint], Exchange], on_chunk: OnChunk
    ) -> Awaitable[Final]:
        """Wait for the turn of a call, then ask with all attempts; the record notes them."""
        self._check()
        return self.pool.run(record, prepare, on_chunk)

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
    def lead(self) -> Endpoint:
        return self.pool.lead

    @property
    def server(self) -> Server:
        return self.pool.lead.server

    @property
    def limiter(self) -> CallLimiter | EndpointPool:
        return self.pool.endpoints[0].limiter if self.pool.is_single else self.pool

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
        return self.lead.client.dialect

    @property
    def num_ctx(self) -> int:
        """
        Context window of a call in tokens, the smallest of several servers; 0 where the server
        fixes it and does not tell.
        """
        windows = [endpoint.num_ctx for endpoint in self.pool.present or self.pool.endpoints]
        return min(filter(None, windows), default=0)

    @property
    def version(self) -> str:
        return self.server.version

    @property
    def state(self) -> ServerState:
        """What is known of the server."""
        return self.server.state

    @property
    def notes(self) -> Sequence[str]:
        """What there is to know about who answers, as `%urisk_start` shows it: sentences."""
        return tuple(session_notes(self))

    @property
    def server_notes(self) -> Sequence[str]:
        """The part of `notes` that is about the servers; each begins small and has no stop."""
        notes = [text for one in self.pool.endpoints for text in one.server.notes]
        if silent := ", ".join(self._agreement.list_without_digest(self.model)):
            notes.append(f"only the name of the model was compared: no digest comes from {silent}")
        is_wanted = self.settings.auto_start and "auto_start" in self.settings.model_fields_set
        if is_wanted and not self.pool.is_single:
            notes.append("OLLAMA_AUTO_START has no effect: of several servers none is started here")
        return tuple(dict.fromkeys(notes))

    @property
    def left_out(self) -> Sequence[str]:
        """Which of several servers are not asked for now, and why: sentences."""
        return tuple(
            f"{endpoint.url} is left out: {absence.describe(endpoint.url)}"
            for endpoint, absence in self.pool.absences.items()
        )

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
        breakers = self.lead.retrying.breakers
        return breakers[model or self.model].state(time.monotonic())

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
            await self.pool.cancel_all(CLOSE_S)
            for endpoint in self.pool.endpoints:
                await endpoint.server.stop_monitoring(CLOSE_S)
            await asyncio.gather(*(endpoint.close() for endpoint in self.pool.endpoints))
        finally:
            for endpoint in self.pool.endpoints:
                await endpoint.server.end(keep_s, within_s)

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
