"""The guardian: a small program that keeps one server for as long as a process has a lease on it,
and never longer.

Run as `python -I -S guardian.py PLAN` in a session of its own, with the first lease as its standard
input. A lease is a connection over an AF_UNIX socket and, beside it, the life of the process at its
other end: whichever ends first ends the lease, so that neither a killed kernel nor a forked child
that holds a copy of the socket can keep the server. When the last lease is gone the server's whole
group is stopped, with what the server has left behind. When the server ends by itself, all holders
of a lease are told at once.

Why a process: nothing inside a kernel runs when the kernel is killed. Why the standard library
alone: it starts in some 20 ms, holds some 10 MB, and works from whatever environment the kernel
runs in. Linux; written for macOS, too (no pidfd, no parent-death signal), where nothing has been
run. Over 400 lines: it is run as one file, without the package around it.

A lease is a connection; over it go JSON objects, one a line. To the guardian:

    {"pid": 12}           first: whose lease it is; the answer is the facts of the server
    {"leave": 30.0}       the lease ends; keep the server that many seconds for another one
    {"report_hang": 2.0}  the server seems to hang: stop it if it does not answer in that time
    {"end": true}         end the server now, and tell all holders; who wants another starts one

From the guardian:

    {"server": 13, ..}    the facts
    {"stays": true}       the lease has ended and the server keeps running
    {"answers": true}     the server that was reported answered
    {"failed": ".."}      the program could not be run
    {"leases": 2}         how many have a lease now
    {"exit": 1, ..}       the server has ended: the end of its log, and whether it was asked to;
                          the connection ends, too
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

__all__ = ["Guardian", "main", "process_start_time"]

STATE_VERSION = 1
MAX_LINE_BYTES = 4096
TAIL_BYTES = 16_384
SWEEP_S = 0.5
LOOK_S = 1.0
CHILD_SUBREAPER, PARENT_DEATH_SIGNAL = 36, 1  # of prctl(2)


def process_start_time(pid: int) -> str | None:
    """
    Return when the process began, as the system says it, or None if there is none: a number alone
    may be another process by now.

    Not comparable between machines or boots, except for equality: the boot is part of it.
    """
    if not Path("/proc/self/stat").exists():
        return _start_time_by_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return None if fields[0] == "Z" else f"{boot}/{fields[19]}"


def _start_time_by_ps(pid: int) -> str | None:
    # A number in a fixed command
    with os.popen(f"LC_ALL=C TZ=UTC /bin/ps -o lstart= -p {int(pid)}") as out:  # noqa: S605
        return out.read().strip() or None


def _prctl(option: int, value: int) -> None:
    import ctypes

    # Linux alone has it
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class _LeaseConnection:
    """One connection, and the process at its other end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.received = connection, b""
        self.pid, self.start_time = 0, ""
        self.pidfd = -1
        connection.setblocking(False)

    def identify(self, pid: int) -> None:
        """Note whose lease it is. OSError: there is no such process."""
        self.pid, self.start_time = pid, process_start_time(pid) or ""
        if not self.start_time:
            raise ProcessLookupError(pid)
        # macOS, an old kernel, or one that forbids it: the process is looked at each second
        with contextlib.suppress(AttributeError, OSError):
            self.pidfd = os.pidfd_open(pid)

    def is_over(self) -> bool:
        """Return whether its process has ended, where no pidfd tells."""
        return self.pidfd < 0 and self.pid > 0 and process_start_time(self.pid) != self.start_time

    def say(self, **words: Any) -> None:
        # A holder that does not read is told nothing; its end is noticed elsewhere
        with contextlib.suppress(OSError):
            self.connection.send(json.dumps(words).encode() + b"\n")

    def read_lines(self) -> list[bytes] | None:
        """Return the whole lines that have arrived; None at the end of the connection."""
        try:
            data = self.connection.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        *lines, self.received = (self.received + data).split(b"\n")
        return lines if data and len(self.received) <= MAX_LINE_BYTES else None


class Guardian:
    """
    One server and its leases.

    Parameters
    ----------
    plan
        `command` (list), `folder` (for socket, locks, state and log; null: no one else can join),
        `grace_s`, `host`, `port`, `facts` (told to each holder as they are).
    first
        The lease of the process that started this.
    """

    def __init__(self, plan: dict[str, Any], first: socket.socket) -> None:
        self.plan = plan
        self.folder = Path(plan["folder"]) if plan["folder"] else None
        self.events = selectors.DefaultSelector()
        self.leases: set[_LeaseConnection] = set()
        self.server = 0
        # Kept until the end: subprocess would take the exit code of one that is dropped
        self.process: subprocess.Popen[bytes] | None = None
        self.listener: socket.socket | None = None
        self.started_s = time.monotonic()
        self.exit_code: int | None = None
        self.stopping = self.announced = self.asked = False
        self.keep_until = 0.0
        self.probe: socket.socket | None = None
        self.probe_until = 0.0
        self.log = -1
        self.first = self._add_lease(first)

    # Life -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the server and keep it to its end; returns when nothing of it is left."""
        self._catch_signals()
        self._take_over()
        try:
            self._start()
            self._write_state()
            while self.exit_code is None and not self.stopping:
                for key, _ in self.events.select(self._compute_timeout()):
                    key.data()
                self._check_deadlines()
        except OSError as exc:
            self.first.say(failed=os.strerror(exc.errno or 0))
        finally:
            self._refuse_leases()
            if self.exit_code is not None:
                # At once: its users look for another server while the rest of its group is ended
                self._announce_end()
            self._stop()
            self._announce_end()
            if self.folder is not None:
                (self.folder / "state.json").unlink(missing_ok=True)
            for lease in self.leases:
                lease.connection.close()

    def _compute_timeout(self) -> float | None:
        """Return the seconds until something is due; None: wait for an event."""
        due = [self.probe_until] if self.probe else []
        if not self.leases:
            due.append(self.keep_until)
        if any(lease.pidfd < 0 for lease in self.leases):
            due.append(time.monotonic() + LOOK_S)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for lease in [lease for lease in self.leases if lease.is_over()]:
            self._drop(lease)
        is_hung = self.probe is not None and now >= self.probe_until
        if is_hung or (not self.leases and now >= self.keep_until):
            self.stopping = True

    def _catch_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wake, signaled = os.pipe()
        os.set_blocking(signaled, False)
        signal.set_wakeup_fd(signaled, warn_on_full_buffer=False)
        self.events.register(wake, selectors.EVENT_READ, lambda: self._wake_up(wake))

    def _wake_up(self, wake: int) -> None:
        os.read(wake, 512)
        self._reap()

    def _reap(self) -> None:
        """Take the exit code of every child that has ended, and of each orphan that became one."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.server:
                    self.exit_code = os.waitstatus_to_exitcode(ended[1])

    # The folder -----------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """
        Open the log and listen for leases, as soon as the guardian before this one has seen its
        server end: two must never overlap.
        """
        if self.folder is None:
            self.log = (
                os.memfd_create("urisk")
                if hasattr(os, "memfd_create")
                else os.open(os.devnull, os.O_RDWR)
            )
            return
        lock = os.open(self.folder / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        hung_up = select.poll()
        hung_up.register(self.first.connection, 0)
        while not _acquire(lock):
            if hung_up.poll(20):
                raise SystemExit(0)  # the starter has gone, and nobody else knows of this guardian
        log, address = self.folder / "server.log", self.folder / "g.sock"
        with contextlib.suppress(FileNotFoundError):
            log.replace(log.with_name("server.1.log"))
        self.log = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        address.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(address))
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.events.register(self.listener, selectors.EVENT_READ, self._accept)

    def _write_state(self) -> None:
        """Say which server runs here, for the next start after a kill of the guardian."""
        if self.folder is None:
            return
        state = {
            "version": STATE_VERSION,
            "server": self.server,
            "created": process_start_time(self.server),
        }
        part = self.folder / "state.part"
        part.write_text(json.dumps(state))
        part.replace(self.folder / "state.json")

    def _refuse_leases(self) -> None:
        """
        Let nobody join any more; those in the backlog see the connection end, and start anew.
        """
        if self.listener is not None and self.folder is not None:
            (self.folder / "g.sock").unlink(missing_ok=True)
            self.events.unregister(self.listener)
            self.listener.close()

    # Leases ---------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            if self.listener is not None:
                self._add_lease(self.listener.accept()[0])

    def _add_lease(self, connection: socket.socket) -> _LeaseConnection:
        lease = _LeaseConnection(connection)
        self.leases.add(lease)
        self.keep_until = 0.0
        self.events.register(connection, selectors.EVENT_READ, lambda: self._read(lease))
        return lease

    def _read(self, lease: _LeaseConnection) -> None:
        lines = lease.read_lines()
        for line in lines or []:
            try:
                self._handle_message(lease, json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, OSError):
                lines = None  # whatever does not speak the protocol has no lease
        if lines is None:
            self._drop(lease)

    def _handle_message(self, lease: _LeaseConnection, words: dict[str, Any]) -> None:
        if lease not in self.leases:
            return
        if "pid" in words:
            lease.identify(int(words["pid"]))
            if lease.pidfd >= 0:
                self.events.register(lease.pidfd, selectors.EVENT_READ, lambda: self._drop(lease))
            lease.say(
                server=self.server,
                created=process_start_time(self.server),
                guardian=os.getpid(),
                leases=len(self.leases),
                age_s=time.monotonic() - self.started_s,
                **self.plan["facts"],
            )
            self._announce_leases()
        elif "leave" in words:
            self._release(lease, float(words["leave"]))
        elif "end" in words:
            self.stopping = self.asked = True
        else:
            self._probe_server(float(words["report_hang"]))

    def _release(self, lease: _LeaseConnection, keep_s: float) -> None:
        now = time.monotonic()
        self.keep_until = max(self.keep_until, now + keep_s)
        # There are other leases, or a holder that has left will come back
        if len(self.leases) > 1 or self.keep_until > now:
            lease.say(stays=True)
            self._drop(lease)
        else:
            # The lease stays open, so that its holder can wait for the end
            self.stopping = True

    def _drop(self, lease: _LeaseConnection) -> None:
        if lease not in self.leases:
            return
        self.leases.discard(lease)
        self.events.unregister(lease.connection)
        lease.connection.close()
        if lease.pidfd >= 0:
            self.events.unregister(lease.pidfd)
            os.close(lease.pidfd)
        self._announce_leases()

    def _announce_leases(self) -> None:
        known = [lease for lease in self.leases if lease.pid]
        for lease in known:
            lease.say(leases=len(known))

    def _probe_server(self, within_s: float) -> None:
        """
        Probe the server before it is stopped: the process that reports it may have the trouble.
        """
        if self.probe is not None:
            return
        probe = socket.socket(socket.AF_INET6 if ":" in self.plan["host"] else socket.AF_INET)
        probe.setblocking(False)
        with contextlib.suppress(OSError):
            probe.connect((self.plan["host"], self.plan["port"]))
        self.probe, self.probe_until = probe, time.monotonic() + within_s
        self.events.register(probe, selectors.EVENT_WRITE, lambda: self._send_probe(probe))

    def _send_probe(self, probe: socket.socket) -> None:
        self.events.unregister(probe)
        with contextlib.suppress(OSError):
            probe.send(
                f"GET /api/version HTTP/1.1\r\nHost: {self.plan['host']}\r\nConnection: "
                "close\r\n\r\n".encode()
            )
            self.events.register(probe, selectors.EVENT_READ, lambda: self._read_probe(probe))

    def _read_probe(self, probe: socket.socket) -> None:
        self.events.unregister(probe)
        with contextlib.suppress(OSError):
            if probe.recv(64).startswith(b"HTTP/1."):
                probe.close()
                self.probe = None
                for lease in self.leases:
                    lease.say(answers=True)

    # The server -----------------------------------------------------------------------------------

    def _start(self) -> None:
        """Raises OSError where the program cannot be run."""
        # What a dead server leaves behind becomes a child of the guardian, which ends it
        _prctl(CHILD_SUBREAPER, 1)
        guardian, self.started_s = os.getpid(), time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603  no shell is wanted
            self.plan["command"],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=lambda: _prepare_server(guardian),  # noqa: PLW1509  there is one thread
        )
        self.server = self.process.pid

    def _stop(self) -> None:
        """
        End the server's group, gently for the time of grace, then for good, then what it has left
        behind.
        """
        if not self.server:
            return
        if self.exit_code is None:
            self._signal(signal.SIGTERM)
            self._wait(lambda: self.exit_code is not None, self.plan["grace_s"])
        self._signal(signal.SIGKILL)
        self._wait(_sweep, SWEEP_S)

    def _wait(self, done: Callable[[], bool], within_s: float) -> None:
        end = time.monotonic() + within_s
        self._reap()
        while not done() and time.monotonic() < end:
            time.sleep(0.002)
            self._reap()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.server, number)

    def _announce_end(self) -> None:
        if self.server and not self.announced:
            self.announced = True
            for lease in self.leases:
                lease.say(exit=self.exit_code, tail=self._read_tail(), asked=self.asked)

    def _read_tail(self) -> str:
        """The log's end, without what is no text: it must fit into one line of the protocol."""
        size = os.fstat(self.log).st_size
        text = os.pread(self.log, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")
        return "".join(ch for ch in text if ch.isprintable() or ch in "\n\t")


def _acquire(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _prepare_server(guardian: int) -> None:
    """Run in the child before the program: default signals, and an end with the guardian's."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # The guardian has one thread, so that the signal means its death; should it be dead already,
    # nobody would send it.
    _prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != guardian:
        os._exit(127)


def _sweep() -> bool:
    """
    Kill every child, and each orphan that became one, where the system lists them; return whether
    there was none.
    """
    try:
        pids = [
            int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        ]
    except OSError:
        return True
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not pids


def main() -> None:
    """Keep one server as the plan says."""
    first = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.umask(0o077)
    try:
        Guardian(json.loads(sys.argv[1]), first).run()
    except Exception as exc:  # there is no other way to be heard
        with contextlib.suppress(OSError):
            first.send(json.dumps({"failed": f"the guardian failed: {exc!r}"}).encode() + b"\n")
        raise


if __name__ == "__main__":
    main()
