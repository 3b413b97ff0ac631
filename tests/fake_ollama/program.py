"""The program `ollama`, faked: what it answers is scripted, its processes are real.

Knows: OLLAMA_HOST, what the program writes and with which code it ends, a runner process for each
loaded model. Does not know: the protocol. Why: whoever starts, stops or loses a server meets the
same process tree, the same last words and the same orphans as with Ollama.

The scenario is the JSON file that FAKE_OLLAMA_SCENARIO names. Nothing is written under HOME.
POSIX only. Source: protocol notes, sections 10, 13 and 14.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from fake_ollama.app import VERSION
from fake_ollama.backend import Chunk, Final, Hooks, Model, ModelCall, RunnerGone, WireFault
from fake_ollama.scenario import Process, Scenario
from fake_ollama.scripted import GONE_FIRST, GONE_LATER, ScriptedBackend
from fake_ollama.server import Server, listen_error, serve

SCENARIO = "FAKE_OLLAMA_SCENARIO"
"""Environment variable: the scenario's JSON file."""
PORT = 11434
GONE_LOADING = "llama-server process has terminated: signal: killed"
CRASHED = 2
_USAGE = "Usage:\n  ollama serve\n  ollama --version"
# Imports nothing that must be read from disk: it stands after some 10 ms
_IDLE = "import time\nwhile True: time.sleep(3600)"
_KEY = (
    "Couldn't find '{home}/.ollama/id_ed25519'. Generating new private key.\n"
    "Your new public key is: \n\n"
    "ssh-ed25519 SCRIPTED-no-key-was-made\n"
)
_T = TypeVar("_T")


# ---- what it writes ------------------------------------------------------------------------------


def say(text: str) -> None:
    """A line on stdout."""
    _write(1, text)


def log(text: str, source: str = "routes.go:2008", **facts: Any) -> None:
    """A line on stderr, as Go's slog writes it."""
    more = "".join(f" {name}={value}" for name, value in facts.items())
    now = time.time()
    zone = time.strftime("%z", time.localtime(now))
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
    stamp = f"{second}.{int(now * 1e3) % 1000:03d}{zone[:3]}:{zone[3:]}"
    quoted = f'"{text}"' if " " in text else text
    _write(2, f"time={stamp} level=INFO source={source} msg={quoted}{more}")


def _write(number: int, text: str) -> None:
    """
    Past Python's buffers: what was said must be there however the process ends. Without a reader
    SIGPIPE ends it, as it does Go.
    """
    try:
        os.write(number, f"{text}\n".encode())
    except BrokenPipeError:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)


def _access(host: str) -> Callable[[int, int, str, str], None]:
    def line(status: int, took_ns: int, method: str, path: str) -> None:
        stamp = time.strftime("%Y/%m/%d - %H:%M:%S")
        say(
            f"[GIN] {stamp} | {status} | {took_ns / 1e6:10.3f}ms | {host:>15} | {method:<7} "
            f'"{path}"'
        )

    return line


# ---- runners -------------------------------------------------------------------------------------


class Runner:
    """
    One `llama-server` that does nothing but live: our child, in our session and group, and it stays
    when we die.
    """

    def __init__(self, model: Model, number: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[int] = self._loop.create_future()
        self.command = [
            "llama-server",
            "--model",
            _blob(model),
            "--port",
            str(40_000 + number),
            "--host",
            "127.0.0.1",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _IDLE, *self.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        threading.Thread(target=self._reap, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _reap(self) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            self._loop.call_soon_threadsafe(self.gone.set_result, code)

    async def kill(self) -> None:
        """Returns when it is dead and reaped; at once if it was."""
        if not self.gone.done():
            self._process.kill()
            await asyncio.shield(self.gone)

    async def guard(self, work: Coroutine[Any, Any, _T], text: str) -> _T:
        """The work's result, or RunnerGone with this text as soon as the runner dies."""
        task = asyncio.ensure_future(work)
        try:
            either: set[asyncio.Future[Any]] = {task, self.gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self.gone.done():
                raise RunnerGone(500, text)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _blob(model: Model) -> str:
    store = os.environ.get("OLLAMA_MODELS") or f"{os.environ.get('HOME', '')}/.ollama/models"
    return f"{store}/blobs/sha256-{model.digest}"


class RunnerBackend(ScriptedBackend):
    """The scripted backend with a process for each loaded model. When that dies, its answers fail
    as Ollama's do.

    Attributes
    ----------
    lost
        Called with the name of a model whose runner died by no doing of ours.
    """

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.lost: Callable[[str], None] = lambda _: None
        self._runners: dict[str, Runner] = {}
        self._started = 0

    @property
    def pids(self) -> list[int]:
        """The runners that live."""
        return [runner.pid for runner in self._runners.values() if not runner.gone.done()]

    async def load(self, model: Model, num_ctx: int) -> int:
        began = time.monotonic()
        runner = self._start(model)
        try:
            size = await runner.guard(super().load(model, num_ctx), GONE_LOADING)
        except BaseException:
            self._runners.pop(model.name, None)
            await runner.kill()
            raise
        log(
            f"llama-server started in {time.monotonic() - began:.2f} seconds",
            "llama_server.go:1120",
        )
        return size

    def _start(self, model: Model) -> Runner:
        self._started += 1
        runner = self._runners[model.name] = Runner(model, self._started)
        log("starting llama-server", "llama_server.go:410", cmd=f'"{" ".join(runner.command)}"')
        log("waiting for llama-server to start responding", "llama_server.go:1100")
        runner.gone.add_done_callback(lambda _: self._note(model.name, runner))
        return runner

    def _note(self, name: str, runner: Runner) -> None:
        if self._runners.get(name) is runner:
            self.lost(name)

    async def unload(self, model: Model) -> None:
        await super().unload(model)
        if runner := self._runners.pop(model.name, None):
            await runner.kill()

    async def lose_runner(self, model: Model) -> None:
        await self._runners[model.name].kill()

    async def close(self) -> None:
        await asyncio.sleep(self.scenario.process.slow_sigterm_ms / 1e3)
        runners = list(self._runners.values())
        self._runners.clear()
        await asyncio.gather(*(runner.kill() for runner in runners))
        await super().close()

    async def answer(self, call: ModelCall) -> AsyncGenerator[Chunk | Final | WireFault, None]:
        runner, text = self._runners[call.model.name], GONE_FIRST
        async with contextlib.aclosing(super().answer(call)) as items:
            while (item := await runner.guard(_next(items), text)) is not None:
                text = GONE_LATER if isinstance(item, Chunk) else text
                yield item


async def _next(items: AsyncGenerator[_T, None]) -> _T | None:
    return await anext(items, None)


# ---- the process ---------------------------------------------------------------------------------


def address(value: str) -> tuple[str, int]:
    """Host and port of an OLLAMA_HOST; without a host 127.0.0.1, where Ollama would take every
    interface.

    Examples
    --------
    >>> address("127.0.0.1:4000"), address("http://[::1]:4000/x"), address("localhost"), address("")
    (('127.0.0.1', 4000), ('::1', 4000), ('localhost', 11434), ('127.0.0.1', 11434))
    """
    rest = value.strip().strip("\"'").rpartition("://")[2].partition("/")[0]
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        host, port = rest, ""
    return host.strip("[]") or "127.0.0.1", int(port) if port.isdigit() else PORT


def _scenario() -> Scenario:
    path = os.environ.get(SCENARIO)
    return Scenario.load(path) if path else Scenario()


def _version(scenario: Scenario) -> str:
    return scenario.version or VERSION


async def _serve(scenario: Scenario, host: str, port: int) -> None:
    """Until a signal comes; ends the process. Raises OSError: no listener."""
    stop, hooks, backend = (
        asyncio.Event(),
        Hooks(gate=asyncio.Event(), access=_access(host)),
        RunnerBackend(scenario),
    )
    hooks.crash = lambda: os._exit(CRASHED)
    hooks.facts = lambda: {"pid": os.getpid(), "runners": backend.pids}
    async with serve(backend, host=host, port=port, hooks=hooks) as server:
        _on_signals(stop, scenario.process)
        backend.lost = server.lose
        _first_lines(scenario, server)
        life = asyncio.ensure_future(_live(scenario.process, hooks))
        await stop.wait()
        life.cancel()
    os._exit(0)  # with our handlers in place to the end: a second signal is swallowed, as in Ollama


def _on_signals(stop: asyncio.Event, process: Process) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if process.ignore_sigterm else stop.set)


def _first_lines(scenario: Scenario, server: Server) -> None:
    log("server config", env=f'"map[OLLAMA_HOST:{server.url}]"')
    log("Ollama cloud disabled: true")
    log("total blobs: 0", "images.go:500")
    log("total unused blobs removed: 0", "images.go:507")
    where = server.url.removeprefix("http://")
    log(f"Listening on {where} (version {_version(scenario)})")
    log("discovering available GPUs...", "runner.go:67")


async def _live(process: Process, hooks: Hooks) -> None:
    await asyncio.sleep(process.ready_ms / 1e3)
    log("inference compute", "types.go:60", id="cpu", library="cpu", description="SCRIPTED")
    log("vram-based default context", "routes.go:2101", default_num_ctx=4096)
    hooks.gate.set()
    if process.exit_after_ms is not None:
        await asyncio.sleep(process.exit_after_ms / 1e3)
        if process.last_words:
            _write(2, process.last_words)
        os._exit(process.exit_code)


def _run(scenario: Scenario) -> int:
    host, port = address(os.environ.get("OLLAMA_HOST", ""))
    say(_KEY.format(home=os.environ.get("HOME", "")))
    if scenario.process.refuse:
        _write(2, scenario.process.refuse)
        return scenario.process.exit_code
    try:
        asyncio.run(_serve(scenario, host, port))
    except OSError as exc:
        _write(2, listen_error(exc, host, port))
    return 1


def _tell_version(own: str) -> int:
    """The server's version, and the program's where it is another."""
    theirs = _asked()
    say(
        f"ollama version is {theirs}"
        if theirs
        else "Warning: could not connect to a running Ollama instance"
    )
    if theirs != own:
        say(f"Warning: client version is {own}")
    return 0


def _asked() -> str:
    import http.client
    import json

    connection = http.client.HTTPConnection(*address(os.environ.get("OLLAMA_HOST", "")))
    try:
        connection.request("GET", "/api/version")
        reply: Mapping[str, Any] = json.load(connection.getresponse())
        return str(reply["version"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return ""
    finally:
        connection.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given not in (["serve"], ["--version"]):
        _write(2, _USAGE)
        return 1
    try:
        scenario = _scenario()
    except (OSError, ValueError) as exc:
        _write(2, f"Error: scenario {os.environ[SCENARIO]}: {exc}")
        return 1
    return _run(scenario) if given == ["serve"] else _tell_version(_version(scenario))


if __name__ == "__main__":
    sys.exit(main())
