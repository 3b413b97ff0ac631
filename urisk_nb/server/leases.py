"""The server's process, seen from this side: a lease on it, which a guardian keeps.

A server that is started here has a guardian, one for each user and address. Each process that uses
the server holds a `Lease`: a connection that ends with the process, however that ends. The last
lease's end is the server's. A server without a guardian is never stopped here.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urisk_nb.errors import (
    HomeNotWritable,
    ProgramBroken,
    ServerError,
    ServerNotRunning,
    ServerStartFailed,
    UriskError,
)
from urisk_nb.server import engines, guardian
from urisk_nb.server.runtime_dir import LOCK_S, folder, has_guardian, start_lock
from urisk_nb.settings import Engine, Settings

__all__ = ["GRACE_S", "Exit", "Lease", "join", "start", "start_error"]

GRACE_S = 0.7  # after SIGTERM; Ollama needs some 30 ms
ANSWER_S = 2.0  # how long a guardian may take to say a word
TAIL_LINES = 12
MAX_LINE_BYTES = 1 << 20


# Leases -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """
    How a server ended: `code` as its parent saw it (negative: a signal), None where its guardian
    was killed; `asked`: by `Lease.end`; `failed`: why the program could not be run at all.
    """

    code: int | None
    tail: str = ""
    asked: bool = False
    failed: str = ""

    @property
    def is_from_outside(self) -> bool:
        """
        Whether somebody ended it, which no request does: it ended in order, by a signal that no
        crash gives, or with its guardian. SIGKILL may be a lack of memory.
        """
        by_hand = (0, None, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
        return self.asked or (self.code in by_hand and not self.failed)

    @property
    def words(self) -> str:
        """The last lines of the log that say something."""
        lines = [
            line.rstrip()
            for line in self.tail.splitlines()
            if line.strip() and not line.startswith("[GIN")
        ]
        return "\n".join(lines[-TAIL_LINES:])


class Lease:
    """
    A lease on a server; used on one loop.

    Attributes
    ----------
    server_pid, guardian
        Process ids.
    facts
        What the starter said: `engine`, `slots`, `num_ctx`, `key` (fingerprint of command and
        environment),
        `log`.
    is_starter
        Whether this process started the server; else it joined.
    on_end
        Called once with the Exit, on the loop, when the server ends and the lease was not given
        back.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        popen: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self._reader, self._writer, self._popen = reader, writer, popen
        self.is_starter = popen is not None
        self.facts: dict[str, Any] = {}
        self.exit: Exit | None = None
        self.ended = asyncio.Event()
        self.on_end: Callable[[Exit], Any] = lambda _: None
        self._left = False
        self.stays = False  # after `leave`: the server still runs, for other leases or for a while
        self.lease_count = 1  # on the server, this one among them, as the guardian said last
        self._answered: asyncio.Future[bool] | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def server_pid(self) -> int:
        return int(self.facts["server"])

    @property
    def guardian(self) -> int:
        return int(self.facts["guardian"])

    @property
    def engine(self) -> Engine:
        return Engine(self.facts["engine"])

    async def greet(self, within_s: float) -> bool:
        """Say whose lease this is, and hear the facts; false where the guardian is about to end."""
        self._say(pid=os.getpid())
        try:
            async with asyncio.timeout(within_s):
                self.facts = json.loads(await self._reader.readline() or b"{}")
        except (OSError, TimeoutError, ValueError):
            pass
        except asyncio.CancelledError:
            self.drop()
            raise
        if "failed" in self.facts:
            self.exit = Exit(code=None, failed=self.facts["failed"])
        if "server" not in self.facts:
            self.drop()
            return False
        # An empty context: the task outlives the cell that happened to start it.
        self._listening = asyncio.get_running_loop().create_task(
            self._listen(), context=contextvars.Context()
        )
        return True

    def _say(self, **words: Any) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(json.dumps(words).encode() + b"\n")

    async def _listen(self) -> None:
        seen = None
        with contextlib.suppress(OSError, ValueError):
            while seen is None and (line := await self._reader.readline()):
                seen = self._handle_message(json.loads(line))
        self._writer.close()
        self.exit = seen or Exit(code=None)
        self._set_answered(False)
        if seen is None and not self._left:
            await _sweep(self.server_pid, self.facts.get("created"))
        self.ended.set()
        if not self._left:
            self.on_end(self.exit)
        await self._wait_for_guardian()

    def _handle_message(self, words: dict[str, Any]) -> Exit | None:
        """Return how the server ended, where the message says so; it is the last one."""
        if "exit" in words:
            return Exit(code=words["exit"], tail=words["tail"], asked=words["asked"])
        if "stays" in words:
            self.stays = True
        elif "leases" in words:
            self.lease_count = words["leases"]
        elif "answers" in words:
            self._set_answered(True)
        return None

    def _set_answered(self, is_alive: bool) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(is_alive)

    async def _wait_for_guardian(self) -> None:
        """Wait until the guardian is gone, a moment after the server."""
        for _ in range(100):
            if self.stays or self._popen is None or self._popen.poll() is not None:
                return
            await asyncio.sleep(0.01)

    def drop(self) -> None:
        """End the lease at once, without a message: the guardian sees the connection end."""
        self._left = True
        # A close alone does not tell the guardian where a forked child holds a copy
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._writer.close()

    async def report_hang(self, within_s: float) -> bool:
        """
        Tell the guardian that the server hangs; return whether it answered the guardian. If not, it
        is stopped.
        """
        self._answered = asyncio.get_running_loop().create_future()
        self._say(report_hang=within_s)
        try:
            async with asyncio.timeout(within_s + 2 * GRACE_S + guardian.SWEEP_S):
                return await self._answered
        except TimeoutError:
            return False

    def end(self) -> None:
        """
        Have the server ended now, for all holders of a lease; `ended` tells when. The lease ends
        with it, as in a crash.
        """
        self._say(end=True)

    async def leave(self, keep_s: float = 0.0, within_s: float = 2 * GRACE_S) -> None:
        """
        Give the lease back; where it was the last one, wait until the server is gone, at most
        `within_s`.

        Parameters
        ----------
        keep_s
            How long the server may be kept for a holder that comes back.
        """
        if self._left:
            return
        self._left = True
        self._say(leave=keep_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.ended.wait()
                await self._wait_for_guardian()
        self.drop()


async def join(place: Path | None) -> Lease | None:
    """Join the guardian at the folder and return a lease, or None where there is no guardian."""
    if place is None:
        return None
    try:
        lease = Lease(
            *await asyncio.open_unix_connection(str(place / "g.sock"), limit=MAX_LINE_BYTES)
        )
    except OSError:
        return None
    return lease if await lease.greet(ANSWER_S) else None


async def start(kind: Engine, settings: Settings) -> Lease:
    """
    Return a lease on the server at the address, of a guardian that another kernel has just started,
    or of one started here.

    Returns as soon as the server's process exists, which is before it answers. Blocks no longer
    than some 15 s.

    Raises
    ------
    ServerNotRunning
        On Windows, where a running server is used and none is started.
    ServerStartFailed
        The program cannot be run (ProgramBroken), or another kernel's start does not end.
    """
    if os.name == "nt":
        raise ServerNotRunning(
            "on Windows a server is used, not started.",
            fix="start Ollama from its menu, then run %urisk_start again",
        )
    place = folder(settings)
    try:
        if place is None:
            return await _spawn(kind, settings, None)
        async with start_lock(place):
            if (joined := await join(place)) is not None:
                return joined
            await _sweep_stale(place)
            return await _spawn(kind, settings, place)
    except TimeoutError as exc:
        raise ServerStartFailed(
            f"another kernel has been starting a server at {settings.url} for more than "
            f"{LOCK_S:g} s.",
            fix="restart that kernel, or use another address: %urisk_start --url "
            "http://127.0.0.1:11500",
        ) from exc
    except UriskError:
        raise
    except OSError as exc:
        fix = "free memory, open files or disk space, then %urisk_start"
        raise ServerStartFailed(f"the {kind} engine cannot be started: {exc}.", fix=fix) from exc


async def _spawn(kind: Engine, settings: Settings, place: Path | None) -> Lease:
    command = engines.build_command(kind, settings)
    env = engines.build_environment(kind, settings, os.environ)
    facts = {
        "engine": str(kind),
        "slots": engines.count_slots(kind, settings, os.environ),
        "num_ctx": settings.num_ctx,
        "key": engines.compute_fingerprint(command, env),
        "log": str(place / "server.log") if place else "",
    }
    plan = {
        "command": command,
        "folder": str(place) if place else None,
        "grace_s": GRACE_S,
        "host": settings.host,
        "port": settings.port,
        "facts": facts,
    }
    here, there = socket.socketpair()
    try:
        with there:
            popen = subprocess.Popen(  # noqa: S603, ASYNC220  the guardian; takes a few ms
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(plan)],
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",  # Ollama looks for its runner under the working directory, too
                env=env,
                start_new_session=True,  # an interrupt of a cell goes to the kernel's whole group
            )
        # It takes the exit code whenever that comes, and holds up no exit of the interpreter
        threading.Thread(target=popen.wait, name="urisk-guardian", daemon=True).start()
        reader, writer = await asyncio.open_unix_connection(sock=here, limit=MAX_LINE_BYTES)
    except BaseException:
        here.close()
        raise
    lease = Lease(reader, writer, popen)
    if await lease.greet(LOCK_S):
        return lease
    if lease.exit is not None:
        raise start_error(kind, lease.exit, command[0])
    raise ServerStartFailed(
        "the guardian of the server ended without a message.",
        fix="try again: %urisk_start; else run `urisk doctor`",
    )


def start_error(kind: Engine, seen: Exit, program: str = "") -> ServerError:
    """Return the error for a server that ended before it answered."""
    if seen.failed:
        return ProgramBroken(
            f"{program or kind} cannot be run: {seen.failed}.",
            fix="reinstall it, or check that the file may be run; then %urisk_start",
        )
    log = f"Its log ends: {seen.words[-600:]!r}" if seen.words else "Its log is empty."
    if "permission denied" in seen.words.lower() or "read-only file system" in seen.words.lower():
        fix = (
            "give Ollama a place for its keys and models: %env HOME=/a/folder/that/can/be/written, "
            "then %urisk_start"
        )
        return HomeNotWritable(f"the {kind} engine cannot write its folder. {log}", fix=fix)
    code = "without an exit code" if seen.code is None else f"with exit code {seen.code}"
    return ServerStartFailed(
        f"the {kind} engine ended {code}. {log}", fix="run `urisk doctor`", log=seen.tail
    )


# What was left behind -----------------------------------------------------------------------------


async def _sweep_stale(place: Path) -> None:
    """
    End a server whose guardian was killed, if it is the very process that the guardian recorded.
    """
    try:
        state = json.loads((place / "state.json").read_text())
        server, began = int(state["server"]), state["created"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if has_guardian(place):  # no other can be started meanwhile: the start lock is held
        return
    if (
        state.get("version") == guardian.STATE_VERSION
        and guardian.process_start_time(server) == began
    ):
        await _sweep(server, began)
    (place / "state.json").unlink(missing_ok=True)


async def _sweep(server: int, began: str | None) -> None:
    """
    End the group of a server that has lost its guardian; a number that is another process by now is
    left alone.
    """
    if guardian.process_start_time(server) not in (began, None) or began is None:
        return
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 0.0)):
        try:
            os.killpg(server, number)
        except (ProcessLookupError, PermissionError):
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + patience_s
        # No event tells of the end of a process that is not a child.
        while guardian.process_start_time(server) == began and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
