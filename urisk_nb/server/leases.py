"""The server's process, seen from this side: a lease on it, which a guardian keeps.

The only importer of subprocess beside the guardian's own fork. A server that is started here has a
guardian, one for each user and address, and everybody who uses that server holds a `Lease`: a
connection that ends with this process, however it ends. The last lease's end is the server's. What
was not started by a guardian of ours is never stopped here.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urisk_nb import process_state
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
    was killed; `asked`: by `Lease.end`.
    """

    code: int | None
    tail: str = ""
    accused: bool = False
    asked: bool = False
    failed: str = ""  # the program could not be run at all
    errno: int = 0

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
        self.stays = False  # after `leave`: the server goes on, for others or for a while
        self.lease_count = 1  # in the server, ours among them, as far as we have been told
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
                words = json.loads(await self._reader.readline() or b"{}")
        except (OSError, TimeoutError, ValueError):
            words = {}
        except asyncio.CancelledError:
            self.drop()
            raise
        if "failed" in words:
            self.exit = Exit(code=None, failed=words["failed"], errno=words.get("errno") or 0)
        self.facts = words
        if "server" not in words:
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
        await self._end(seen or Exit(code=None))

    def _handle_message(self, words: dict[str, Any]) -> Exit | None:
        """
        The end, where that is what is told; what the guardian does after it is its own affair.
        """
        if "exit" in words:
            return Exit(
                code=words["exit"],
                tail=words["tail"],
                accused=words["accused"],
                asked=words["asked"],
            )
        if "failed" in words:
            return Exit(code=None, failed=words["failed"], errno=words.get("errno") or 0)
        if "stays" in words:
            self.stays = True
        elif "leases" in words:
            self.lease_count = words["leases"]
        elif "answers" in words and self._answered is not None and not self._answered.done():
            self._answered.set_result(True)
        return None

    async def _end(self, seen: Exit) -> None:
        self.exit = seen
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(False)
        if seen.code is None and not seen.failed and not self._left:
            await _sweep(self.server_pid, self.facts.get("created"))
        self.ended.set()
        if not self._left:
            self.on_end(seen)
        await self._wait_reaped()

    async def _wait_reaped(self) -> None:
        """Take the guardian's exit code, so that no zombie is left to this process."""
        for _ in range(100):
            if self.stays or self._popen is None or self._popen.poll() is not None:
                return
            await asyncio.sleep(0.01)

    def drop(self) -> None:
        """End the lease at once, without a word: the guardian sees the connection end."""
        self._left = True
        # A close alone does not tell the guardian where a forked child holds a copy
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._writer.close()
        _reap_later(self._popen)

    async def report_hang(self, within_s: float) -> bool:
        """
        Tell the guardian that the server hangs; whether it answered the guardian. If not, it is
        stopped.
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
        Have the server ended now, for everybody; `ended` tells when. The lease ends with it, as in
        a crash.
        """
        self._say(end=True)

    async def leave(self, keep_s: float = 0.0, within_s: float = 2 * GRACE_S) -> None:
        """
        Give the lease back; where it was the last one, wait until the server is gone, at most
        `within_s`.

        Parameters
        ----------
        keep_s
            How long the server may be kept for somebody who comes back.
        """
        if self._left:
            return
        self._left = True
        self._say(leave=keep_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.ended.wait()
                await self._wait_reaped()
        self.drop()


def _reap_later(popen: subprocess.Popen[bytes] | None) -> None:
    """
    Take the exit code of a guardian whenever it ends; one that goes on for others at our own end is
    left alone.
    """
    if popen is None or popen.poll() is not None:
        return
    process_state.setdefault("guardians", list).append(popen)
    # An old kernel, one that forbids it, macOS: looked at when the next one is made
    with contextlib.suppress(OSError, AttributeError):
        end = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(end, _ended, end)


def _ended(end: int) -> None:
    asyncio.get_running_loop().remove_reader(end)
    os.close(end)
    _reap()


def _reap() -> None:
    """
    Take the exit codes of those that have ended; where the system does not tell of an end, this is
    done at the next start.
    """
    known: list[subprocess.Popen[bytes]] = process_state.get("guardians") or []
    known[:] = [popen for popen in known if popen.poll() is None]


def _disown() -> None:
    _reap()
    for popen in process_state.get("guardians") or []:
        # Else Python warns that it still runs, which is what it is meant to do
        popen.returncode = 0


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
    Return a lease on the server at the address: of a guardian that another kernel was quicker to
    start, or of one started here.

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
    _reap()
    place = folder(settings)
    try:
        if place is None:
            return await _spawn(kind, settings, None)
        async with start_lock(place):
            joined = await join(place)
            if joined is None:
                await _sweep_stale(place)
                joined = await _spawn(kind, settings, place)
            return joined
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
    words, env = (
        engines.build_command(kind, settings),
        engines.build_environment(kind, settings, os.environ),
    )
    facts = {
        "engine": str(kind),
        "slots": engines.count_slots(kind, settings, os.environ),
        "num_ctx": settings.num_ctx,
        "key": engines.compute_fingerprint(words, env),
        "log": str(place / "server.log") if place else "",
    }
    plan = {
        "command": words,
        "folder": str(place) if place else None,
        "grace_s": GRACE_S,
        "facts": facts,
    }
    process_state.at_exit("guardians", _disown)
    ours, theirs = socket.socketpair()
    with theirs, _closed_on_error(ours):
        popen = subprocess.Popen(  # noqa: S603, ASYNC220  our own program; takes a few ms
            [
                sys.executable,
                "-I",
                "-S",
                guardian.__file__,
                json.dumps({**plan, "host": settings.host, "port": settings.port}),
            ],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",  # Ollama looks for its runner under the working directory, too
            env=env,
            start_new_session=True,  # an interrupt of a cell goes to the kernel's whole group
        )
    try:
        with _closed_on_error(ours):
            lease = Lease(
                *await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE_BYTES), popen
            )
    except BaseException:
        _reap_later(popen)
        raise
    if await lease.greet(LOCK_S):
        return lease
    if lease.exit is not None:
        raise start_error(kind, lease.exit, words[0])
    raise ServerStartFailed(
        "the guardian of the server ended without a word.",
        fix="try again: %urisk_start; else run `urisk doctor`",
    )


@contextlib.contextmanager
def _closed_on_error(end: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        end.close()
        raise


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
    End a server whose guardian was killed, if it is the very process that the guardian wrote down.
    """
    try:
        state = json.loads((place / "state.json").read_text())
        server, began = int(state["server"]), state["created"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if has_guardian(place):
        # A guardian is at work on it, and none can be started meanwhile: we hold the start lock
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
