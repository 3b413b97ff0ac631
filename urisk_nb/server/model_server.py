"""The server that answers: found or started; watched while it is asked; started again when it ends.

Knows the states of a server and what may be done in each. Does not know models: its owner is told
when a server is back, and warms it. An external server is never stopped, started or signalled here.

Idle costs nothing: the guardian tells of the end of a managed server, and an external server is
looked at when it is asked. The server is probed only while a call is silent, over a connection of
its own. Over 400 lines: the states and the ways between them are one machine, and a step that is
read without the others is misread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import math
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol

from urisk_nb.errors import (
    PortTaken,
    ServerBusy,
    ServerConnectionLost,
    ServerCrashLoop,
    ServerError,
    ServerHung,
    ServerNotManaged,
    ServerNotRunning,
    ServerStartFailed,
    ServerTimeout,
    UriskError,
)
from urisk_nb.server import checks, engines, leases, port, runtime_dir
from urisk_nb.server.liveness import CallHeartbeat, LivenessMonitor
from urisk_nb.server.restart_policy import RestartPolicy
from urisk_nb.settings import Engine, Settings

__all__ = ["Server", "ServerState"]

READY_S = 30.0
NEWS_S = 0.2
BUSY_PAUSE_S = 0.25
SLOTS_NOTE = "the server was started with"
END_S = 5.0  # for the guardian to report an end, beyond the time that it gives the server


class ServerState(StrEnum):
    """What is known of the server, and so what may be done with it."""

    UNKNOWN = "unknown"  # nothing was asked yet
    REMOTE = "remote"  # on another machine: never started, stopped or signalled
    # On this machine, not started by urisk_nb: never stopped, and not replaced when it goes away
    EXTERNAL = "external"
    STARTING = "starting"  # its process exists and does not answer yet
    MANAGED = "managed"  # answers; a guardian keeps it, and this process holds a lease on it
    CRASHED = "crashed"  # a managed server has ended by itself; another is looked for or started
    # Takes connections and answers nothing: a managed server is ended and started again, an
    # external one is an error
    HUNG = "hung"
    FAILED = "failed"  # could not be started, or ended too often; only a new start leads out
    PORT_CONFLICT = "port_conflict"  # the address answers and is no Ollama
    STOPPING = "stopping"  # the lease is being given back
    STOPPED = "stopped"  # the session is over


class ServerClient(Protocol):
    """What is needed of the client that asks the server."""

    @property
    def dialect(self) -> Any:
        """The wire that the server speaks."""

    @property
    def props(self) -> Any:
        """What it says of itself."""

    async def probe(self, within_s: float = ...) -> str:
        """Return the server's version, and find out its dialect."""

    def forget_dialect(self) -> None:
        """Find out the dialect anew at the next probe."""


class Server:
    """
    The server at the address of the settings; used on one loop.

    Parameters
    ----------
    settings, client
        Where it is, and who asks it.
    say
        Called with each step of a start: its name and a sentence.
    warm
        Awaited when a server that had ended is back, before any call reaches it.
    may_keep
        Whether one that is kept on this machine is joined, and one is started where none answers.
        Of several servers none is.

    Attributes
    ----------
    state
        See ServerState.
    version, engine
        As it says itself, and what it is: as its guardian says where there is a lease, else by its
        dialect.
    lease
        The lease on a managed server, else None.
    notes
        What its user should know: sentences.
    restart_count
        How often it was started again after an end of its own.
    still_running
        After `end`: whether the server still runs.
    """

    def __init__(
        self,
        settings: Settings,
        client: ServerClient,
        say: Callable[[str, str], Any],
        warm: Callable[[], Awaitable[Any]],
        *,
        may_keep: bool = True,
    ) -> None:
        self.settings, self._may_keep = settings, may_keep
        self.state = ServerState.UNKNOWN
        self.version = ""
        self.engine = Engine.OLLAMA
        self.lease: leases.Lease | None = None
        self.notes: list[str] = []
        self.restart_count = 0
        self.still_running = False
        self.restart_policy = RestartPolicy()
        self._client, self._say, self._warm = client, say, warm
        self._recovery: asyncio.Task[None] | None = None
        # When a holder of a lease last asked for its end, on the monotonic clock
        self._asked_end_s = -math.inf
        self._outside_end_s = -math.inf  # and when somebody ended it in any way
        self._failure: UriskError | None = None
        self._lost: ServerState | None = None  # what an external server was before it was lost
        self.monitor = LivenessMonitor(self._answers, self._give_up)

    @property
    def failure(self) -> UriskError | None:
        """Why the state is `failed`, where a server had run before."""
        return self._failure if self.state is ServerState.FAILED else None

    @property
    def is_lost(self) -> bool:
        """Whether an external server was there and does not answer now; it may come back."""
        return self._lost is not None

    @property
    def slots(self) -> int:
        """Answers at once; taken for 1 where nobody tells."""
        return self.known_slots or 1

    @property
    def known_slots(self) -> int:
        """Answers at once: its starter's word, or what llama.cpp tells of itself; else 0."""
        if self.lease is not None:
            return int(self.lease.facts["slots"])
        return int(self._client.props.slots)

    # Start ----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """
        Find the server, or start it; returns when it answers.

        Raises
        ------
        ServerError
            Each with what to do; `state` says which kind.
        """
        self._say("checking", f"Looking for a server at {self.settings.url}")
        try:
            await self._find_or_start()
        except ServerError as exc:
            is_conflict = isinstance(exc, PortTaken)
            self.state = ServerState.PORT_CONFLICT if is_conflict else ServerState.FAILED
            raise

    async def _find_or_start(self) -> None:
        self.notes.clear()  # they were about the last one
        self._client.forget_dialect()  # another kind of server may answer by now
        if not self.settings.is_loopback:
            await self._use_remote()
        elif not self._may_keep:
            if not await self._use_external():
                raise ServerNotRunning(
                    f"nothing answers at {self.settings.url}.",
                    fix="start it, or leave it out of OLLAMA_URL",
                )
        elif not await self._join():
            # A server that its guardian is stopping still answers for a moment: the start waits for
            # its end
            is_stopping = runtime_dir.has_guardian(runtime_dir.folder(self.settings))
            if is_stopping or not await self._use_external():
                await self._start()
        self._check_kind()

    def _check_kind(self) -> None:
        checks.check_engine(self.settings, self.engine, self.version)
        if self.engine is Engine.OLLAMA:
            checks.check_min_version(self.settings, self.version)

    async def check_start(self) -> Engine | None:
        """
        Decide as `begin` does, and start nothing; a server that loads its model is not waited for.

        Returns
        -------
        Engine or None
            The engine that would be started; None where a server answers that would be used.

        Raises
        ------
        ServerError
            Why the start would fail.
        """
        self._client.forget_dialect()
        try:
            version = await self._client.probe()
        except ServerNotRunning:
            if self.settings.is_loopback and self._may_keep:
                return self._choose_engine()
            raise
        folder = runtime_dir.folder(self.settings)
        is_managed = self._may_keep and runtime_dir.has_guardian(folder)
        if self.settings.is_loopback and not is_managed:
            checks.check_owner(self.settings)
        self._use(version, ServerState.EXTERNAL)
        if is_managed and self.engine is Engine.OPENAI:
            self.engine = Engine.EMBEDDED  # the only one of this wire that is started here
        self._check_kind()
        return None

    async def _join(self) -> bool:
        """
        Join the guardian of the address; return whether its server is used. One that hangs, or ends
        just now, is ended, and another started.
        """
        joined = await leases.join(runtime_dir.folder(self.settings))
        if joined is None:
            return False
        try:
            await self._manage(joined, max(READY_S / 3, READY_S - float(joined.facts["age_s"])))
        except ServerStartFailed:
            await self._give_back()
            return False
        return True

    async def _use_external(self) -> bool:
        """Use the server that answers; return whether there is one."""
        try:
            version = await self._wait_for_load()
        except ServerNotRunning:
            return False
        except ServerTimeout as exc:
            raise PortTaken(exc.message, fix=exc.fix) from exc
        checks.check_owner(self.settings)
        self._use(version, ServerState.EXTERNAL)
        return True

    async def _give_back(self) -> None:
        lease, self.lease = self.lease, None
        if lease is not None:
            await lease.leave()

    def _use(self, version: str, state: ServerState) -> None:
        self.lease, self.version, self.state = None, version, state
        is_ollama = self._client.dialect.name == Engine.OLLAMA
        self.engine = Engine.OLLAMA if is_ollama else Engine.OPENAI

    async def _use_remote(self) -> None:
        try:
            self._use(await self._wait_for_load(), ServerState.REMOTE)
        except ServerNotRunning as exc:
            raise ServerNotRunning(
                exc.message, fix="start Ollama on that machine, or check OLLAMA_URL"
            ) from exc

    async def _wait_for_load(self) -> str:
        """Return the version of a server, after it has loaded its model or is less busy."""
        began_s = time.monotonic()
        while True:
            try:
                return await self._client.probe()
            except ServerBusy as exc:
                is_loading = "loading model" in str(exc.facts.get("said", "")).lower()
                settings, waited_s = self.settings, time.monotonic() - began_s
                if waited_s >= (settings.load_timeout_s if is_loading else settings.outage_wait_s):
                    raise
                seen = f"The server answers {exc.facts.get('status')}, waiting ({waited_s:.0f} s)"
                self._say(
                    "loading", "Waiting for the server to load its model" if is_loading else seen
                )
                await asyncio.sleep(BUSY_PAUSE_S)

    async def _start(self) -> None:
        kind = self._choose_engine()
        self._say("starting", f"Starting the {kind} engine")
        self.state = ServerState.STARTING
        await self._manage(await leases.start(kind, self.settings))

    def _choose_engine(self) -> Engine:
        settings = self.settings
        if settings.has_path or settings.is_tls:
            what = "with a path" if settings.has_path else "with https"
            raise ServerNotRunning(
                f"nothing answers at {settings.url}, and a server at an address {what} is "
                "not started from here.",
                fix="start it, or check OLLAMA_URL",
            )
        if not settings.auto_start:
            raise ServerNotRunning(
                f"nothing answers at {settings.url}, and OLLAMA_AUTO_START is off.",
                fix="start it: `ollama serve`, or %env OLLAMA_AUTO_START=true",
            )
        return engines.choose(settings)

    async def _manage(self, lease: leases.Lease, within_s: float = READY_S) -> None:
        """
        Wait until the server of the lease answers; use the external one that took its port, if one
        did.
        """
        self.lease, self.state = lease, ServerState.STARTING
        version = await self._wait_until_ready(lease, within_s)
        if version is None:
            self.lease, seen = None, lease.exit or leases.Exit(code=None)
            if "address already in use" in seen.tail and await self._use_external():
                return
            raise leases.start_error(lease.engine, seen)
        lease.on_end = lambda seen: self._handle_exit(lease, seen)
        self.version, self.state = version, ServerState.MANAGED
        self.engine = lease.engine
        self._note_differences(lease)

    async def _wait_until_ready(self, lease: leases.Lease, within_s: float) -> str | None:
        """Return the version as soon as the server answers; None where it has ended."""
        pause_s, is_loading, began_s = 0.025, False, time.monotonic()
        end_s = began_s + within_s
        while time.monotonic() < end_s:
            # A listening port is no sign: Ollama takes connections for a while before it answers.
            # And the answer may be that of an external server, which was quicker: then the new one
            # is about to end.
            try:
                version = await self._client.probe(within_s=1.0)
                if not lease.ended.is_set() and port.listens(lease.server_pid, self.settings.port):
                    return version
            except ServerBusy:  # llama.cpp answers while it loads; a large model takes minutes
                if not is_loading:
                    self._say("loading", "Waiting for the server to load its model")
                    end_s += self.settings.load_timeout_s
                is_loading = True
            except ServerError:
                pass
            if lease.ended.is_set():
                return None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lease.ended.wait(), pause_s)
            pause_s = min(0.25, 1.5 * pause_s)
        await lease.report_hang(self.monitor.schedule.within_s)
        raise ServerStartFailed(
            f"the server was not ready after {time.monotonic() - began_s:.0f} s.",
            fix=f"look at its log, then try again: {lease.facts['log'] or '(none)'}",
        )

    def _note_differences(self, lease: leases.Lease) -> None:
        if not lease.facts["log"]:
            self.notes.append(
                "no folder for locks could be written: other kernels cannot share this server"
            )
        with contextlib.suppress(UriskError):
            if not self._has_own_settings(lease):
                self.notes.append(
                    "another kernel started this server, with other settings than yours; they "
                    "hold until it is stopped"
                )

    def _has_own_settings(self, lease: leases.Lease) -> bool:
        if lease.is_starter:
            return True
        command = engines.build_command(lease.engine, self.settings)
        env = engines.build_environment(lease.engine, self.settings, os.environ)
        return bool(engines.compute_fingerprint(command, env) == lease.facts["key"])

    @property
    def serves_own_file(self) -> bool:
        """Whether a managed server was started with the model file of these settings."""
        with contextlib.suppress(UriskError):
            is_embedded = self.engine is Engine.EMBEDDED
            return is_embedded and self.lease is not None and self._has_own_settings(self.lease)
        return False

    def note_slots(self) -> None:
        """
        Note that more calls are in flight than a managed server has slots: they wait inside of it
        instead of here, where they could be cancelled.
        """
        self.notes[:] = [note for note in self.notes if not note.startswith(SLOTS_NOTE)]
        wanted = self.settings.parallel or 1
        if self.lease is not None and wanted > self.slots:
            has = "one slot" if self.slots == 1 else f"{self.slots} slots"
            self.notes.append(
                f"{SLOTS_NOTE} {has}; for more: %urisk_stop, then %urisk_start --parallel {wanted}"
            )

    # Restarts -------------------------------------------------------------------------------------

    def _handle_exit(self, lease: leases.Lease, seen: leases.Exit) -> None:
        """Start a recovery; one that is under way sees the end by itself."""
        if lease is not self.lease or self.state not in (ServerState.MANAGED, ServerState.HUNG):
            return
        is_hung = self.state is ServerState.HUNG  # its guardian has ended it for that
        self.lease, self.state = None, ServerState.CRASHED
        if seen.asked:
            self._asked_end_s = time.monotonic()
        if seen.asked or (seen.is_from_outside and not is_hung):
            self._outside_end_s = time.monotonic()
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.get_running_loop().create_task(
                self._recover(seen), context=contextvars.Context()
            )

    async def _recover(self, seen: leases.Exit) -> None:
        """
        Look for another server, or start one, until one is warm or it has been tried too often.
        Never raises.
        """
        why: UriskError = leases.start_error(self.engine, seen)
        before = self.engine
        asked = seen.asked
        while (pause_s := 0.0 if asked else self.restart_policy.next(time.monotonic())) is not None:
            await asyncio.sleep(pause_s)
            # An end that was asked for is no sign of trouble
            counted, asked = int(not asked), False
            try:
                # Looked for first: Ollama's desktop app ends other servers to put its own in their
                # place.
                await self._find_or_start()
                checks.check_engine_unchanged(self.settings, before, self.engine)
            except (
                ServerStartFailed,
                ServerNotRunning,
                ServerConnectionLost,
                ServerTimeout,
            ) as exc:
                why = exc
            except UriskError as exc:
                why = exc
                break
            except Exception as exc:  # noqa: BLE001  nobody awaits this task: its error would be lost
                why = ServerStartFailed(
                    f"the server could not be started again: {exc!r}.", fix="%urisk_start"
                )
            else:
                self.restart_count += counted
                # What else is wrong with the warm-up is reported by the next call
                with contextlib.suppress(UriskError):
                    await self._warm()
                if self.state is not ServerState.CRASHED:
                    return
                continue
            await self._give_back()
        await self._give_back()
        self.state = ServerState.FAILED
        self._failure = why if pause_s is not None else self._build_crash_loop_error(why)

    def _build_crash_loop_error(self, why: UriskError) -> ServerCrashLoop:
        times, minutes = len(self.restart_policy.pauses_s), self.restart_policy.within_s / 60
        return ServerCrashLoop(
            f"the server was started again {times} times in {minutes:g} minutes and ended every "
            f"time. The last: {why.message}",
            fix="look at the cause, then: %urisk_start",
        )

    def note_loss(self, why: UriskError) -> None:
        """Note that an external server does not answer; only a call tells of its end."""
        if self.state in (ServerState.EXTERNAL, ServerState.REMOTE):
            self._lost = self.state
        if self._lost is None:
            return
        if isinstance(why, ServerNotRunning):
            seen = f"nothing answers at {self.settings.url}."
            why = ServerNotRunning(seen, fix="start that server again, then %urisk_start")
        self.state, self._failure = ServerState.FAILED, why

    def note_return(self) -> None:
        """Note that the server answers: one that was lost is back."""
        if self._lost is not None:
            self.state, self._failure, self._lost = self._lost, None, None

    async def look_again(self) -> None:
        """
        Use an external server that was away, whatever kind of server answers there now.

        Raises
        ------
        ServerError
            It is still away, or may not be used.
        """
        await self._client.probe()  # nothing is forgotten of one that does not answer
        await self._find_or_start()
        self._failure = self._lost = None

    async def ready(self) -> None:
        """
        Return when the server may be asked: at once, or when one that had ended is back and warm.

        Raises
        ------
        ServerError
            It could not be started again.
        """
        while self._recovery is not None and not self._recovery.done():
            await asyncio.wait({self._recovery})
        # An external server may be back at any time: only a call tells.
        if self.failure is not None and self._lost is None:
            # A copy for each caller: a traceback grows with each raise
            raise copy.copy(self.failure)

    async def restart(self) -> None:
        """
        End the managed server and start another; return when that is ready and warm. Calls that
        were in the middle of an answer are cut off.

        Raises
        ------
        ServerError
            It is external, or could not be started again.
        """
        await self.ready()
        lease = self.lease
        if lease is None:
            raise ServerNotManaged(
                f"the server at {self.settings.url} was not started here.",
                fix="restart Ollama itself, then %urisk_start",
            )
        if not self.settings.auto_start:
            raise ServerNotManaged(
                "OLLAMA_AUTO_START is off: nothing would start the server again.",
                fix="%env OLLAMA_AUTO_START=true, %urisk_stop, then %urisk_start",
            )
        lease.end()
        try:
            async with asyncio.timeout(2 * leases.GRACE_S + END_S):
                await lease.ended.wait()
        except TimeoutError as exc:
            raise ServerHung(
                "the server did not end.", fix="%urisk_stop, then %urisk_start"
            ) from exc
        await self.ready()
        if self.state in (ServerState.STOPPING, ServerState.STOPPED):
            raise ServerConnectionLost("the session was shut down meanwhile.", fix="%urisk_start")

    def ended_on_request_since(self, moment_s: float) -> bool:
        """
        Return whether a holder of a lease has asked for its end since then: what failed by that
        says nothing about the server.
        """
        return self._asked_end_s >= moment_s

    def ended_from_outside_since(self, moment_s: float) -> bool:
        """Return whether somebody has ended a managed server since then: no call is to blame."""
        return self._outside_end_s >= moment_s

    # Silence --------------------------------------------------------------------------------------

    def track_call(self) -> AbstractContextManager[CallHeartbeat]:
        """Watch a call in flight: while all calls are silent, the server is probed."""
        return self.monitor.call()

    async def _answers(self) -> bool:
        """
        Return whether the server says its version. A server that is gone is no case of silence: its
        calls know it already.
        """
        try:
            await self._client.probe(within_s=self.monitor.schedule.within_s)
        except ServerError as exc:
            return not isinstance(exc, ServerTimeout | PortTaken)
        return True

    async def _give_up(self) -> None:
        """
        Have the guardian end a managed server, unless it answers that; end the calls to an external
        one.
        """
        if self.lease is None:
            self.monitor.cut(
                ServerHung(
                    f"{self.settings.url} takes connections and has not even said its version "
                    f"{self.monitor.schedule.strikes} times in a row.",
                    fix="it was not started here: restart Ollama, then ask again",
                )
            )
            return
        before, self.state = self.state, ServerState.HUNG
        try:
            await self.lease.report_hang(self.monitor.schedule.within_s)
        finally:
            # It answered the guardian; else its end has been reported by now, or will be
            if self.state is ServerState.HUNG:
                self.state = before

    # End ------------------------------------------------------------------------------------------

    async def stop_monitoring(self, within_s: float) -> None:
        """
        Stop the probes, and start nothing again; a start that was under way gives its lease back
        itself.
        """
        self.monitor.stop()
        if self._recovery is not None and not self._recovery.done():
            self._recovery.cancel()
            await asyncio.wait({self._recovery}, timeout=within_s)

    async def wait_for_exit_news(self) -> None:
        """
        Wait a moment, after a connection broke, for the news that the server has ended: the next
        attempt then waits for the next server.
        """
        if self.lease is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lease.ended.wait(), NEWS_S)

    async def end(self, keep_s: float = 0.0, within_s: float = 2 * leases.GRACE_S) -> None:
        """
        Give the lease back; the last lease's end is the server's. An external server still runs.

        Parameters
        ----------
        keep_s
            How long it may be kept for a kernel that restarts.
        within_s
            How long to wait until it is gone.
        """
        self.still_running = self.state in (ServerState.EXTERNAL, ServerState.REMOTE)
        self.state = ServerState.STOPPING
        await self.stop_monitoring(within_s)
        lease, self.lease = self.lease, None
        if lease is not None:
            await lease.leave(keep_s, within_s)
            self.still_running = lease.stays
        self.state = ServerState.STOPPED
