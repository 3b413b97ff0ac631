"""The server's process: which engine to start, how it is started, and how it is stopped with everything that it started.

The only importer of subprocess. A server gets a session of its own, so that an interrupt of a cell, which goes to the kernel's
whole process group, does not reach it; and is stopped by its group, so that the runner that holds the model goes too. What was not
started here is never stopped here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from urisk_nb.errors import ModelNotFound, OllamaNotInstalled, PackageMissing, ServerNotRunning, ServerStartFailed, SettingsError
from urisk_nb.settings import Engine, Settings

__all__ = ["Process", "choose", "command", "data_folder", "demo_model_path", "environment", "find_ollama", "owner_uid", "slots", "start"]

DEMO_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_MODEL_BYTES = 98_362_432
GRACE_S = 0.7  # after SIGTERM; Ollama needs some 30 ms
TAIL_LINES = 12
WAYS_OUT = (
    'install Ollama (ollama.com/download), or use the embedded engine: %pip install "urisk-nb[embedded]" and then `urisk fetch-model`, '
    "or, to try the tool only: %urisk_start --engine simulated"
)


# Which engine --------------------------------------------------------------------------------------------------------------


def find_ollama() -> str | None:
    """The path of the `ollama` program, or None."""
    return shutil.which("ollama")


def data_folder(settings: Settings) -> Path:
    """Where the demo model lies: URISK_DATA, or the user's data folder."""
    if settings.data:
        return settings.data
    from platformdirs import user_data_path

    return user_data_path("urisk_nb", appauthor=False)


def demo_model_path(settings: Settings) -> Path | None:
    """The demo model's file, if it has been fetched whole."""
    path = data_folder(settings) / DEMO_MODEL
    try:
        return path if path.stat().st_size == DEMO_MODEL_BYTES else None
    except OSError:
        return None


def choose(settings: Settings) -> Engine:
    """
    The engine to start: the one that was named, else Ollama where it is installed, else the embedded one where it is complete.

    Raises
    ------
    OllamaNotInstalled
        There is nothing to start; the fix names the three ways out. The simulation is never chosen by itself.
    PackageMissing, ModelNotFound, SettingsError
        The embedded engine was named and its package, its model, or the file of URISK_GGUF is not there.
    """
    if settings.engine is Engine.EMBEDDED:
        _embedded_model(settings)
    if settings.engine in (Engine.EMBEDDED, Engine.SIMULATED):
        return settings.engine
    if find_ollama():
        return Engine.OLLAMA
    if settings.engine is Engine.OLLAMA:
        raise OllamaNotInstalled("`ollama` is not on the PATH.", fix=WAYS_OUT)
    if settings.gguf is not None or (_has_llamacpp() and demo_model_path(settings)):
        _embedded_model(settings)
        return Engine.EMBEDDED
    raise OllamaNotInstalled(f"no server answers at {settings.url}, and `ollama` is not on the PATH.", fix=WAYS_OUT)


def _has_llamacpp() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


def _embedded_model(settings: Settings) -> Path:
    if not _has_llamacpp():
        raise PackageMissing("the embedded engine needs the package xllamacpp.", fix='%pip install "urisk-nb[embedded]"')
    if settings.gguf is not None:
        if not settings.gguf.is_file():
            raise SettingsError(
                f"URISK_GGUF is {str(settings.gguf)!r}; there is no such file.", fix="set it to an existing .gguf file, or unset it"
            )
        return settings.gguf.resolve()
    found = demo_model_path(settings)
    if found is None:
        fix = "run `urisk fetch-model` in a terminal (93 MB, once), or set URISK_GGUF to a model file of yours"
        raise ModelNotFound("the embedded engine has no model file.", fix=fix)
    return found.resolve()


# Start ---------------------------------------------------------------------------------------------------------------------


def command(engine: Engine, settings: Settings) -> list[str]:
    """The program and its arguments."""
    if engine is Engine.OLLAMA:
        return [find_ollama() or "ollama", "serve"]
    brain = ["scripted"] if engine is Engine.SIMULATED else ["llamacpp", "--gguf", str(_embedded_model(settings))]
    place = ["--host", settings.host, "--port", str(settings.port)]
    size = ["--slots", str(settings.parallel or 1), "--num-ctx", str(settings.num_ctx)]
    return [sys.executable, "-m", "urisk_nb.standin", "--brain", *brain, *place, *size]


def environment(engine: Engine, settings: Settings, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the server: ours, less what would change its runner, plus where to listen and not to phone home."""
    env = {name: value for name, value in base.items() if not name.startswith("LLAMA_")}
    if engine is Engine.OLLAMA:
        env["OLLAMA_HOST"] = f"{settings.host}:{settings.port}" if ":" not in settings.host else f"[{settings.host}]:{settings.port}"
        if not settings.allow_cloud:
            env["OLLAMA_NO_CLOUD"] = "1"
        if settings.parallel:
            env["OLLAMA_NUM_PARALLEL"] = str(settings.parallel)
    else:
        # The child runs in another folder and must still find this very package.
        here = str(Path(__file__).parents[2])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [here, base.get("PYTHONPATH")]))
    return env


class Process:
    """A server that was started here."""

    def __init__(self, popen: subprocess.Popen[bytes], engine: Engine, log: Path) -> None:
        self._popen = popen
        self.engine = engine
        self.log = log
        self._ended = False

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def stop(self) -> None:
        """End the server and everything in its group; blocks at most some 0.8 s. Doing it again changes nothing."""
        if self._ended:
            return  # the number of the group may be another's by now
        self._ended = True
        if self._popen.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE_S)
        # The leader may be gone and its runner still there: the group is killed in any case.
        self._signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(GRACE_S)
        if self._popen.poll() == 0:
            self.log.unlink(missing_ok=True)  # the log of a server that failed is kept for whoever looks into it

    def listens(self, port: int) -> bool:
        """Whether it is this process that listens on the port; true where the system does not tell (Linux does)."""
        sockets = _listening(port)
        if sockets is None:
            return True
        try:
            mine = {name for pid in self._group() for name in _open_files(pid)}
        except PermissionError:
            return True
        return any(f"socket:[{inode}]" in mine for _, inode in sockets)

    def _group(self) -> list[int]:
        """The processes of the server's group: `ollama` may be a script that runs the program as its child."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[2]) == self.pid:
                    found.append(int(stat.parent.name))
        return found

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)

    def tail(self) -> str:
        """The last lines of the server's log that say something."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 16_384))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("[GIN")]
        return "\n".join(lines[-TAIL_LINES:])


def start(engine: Engine, settings: Settings) -> Process:
    """
    Start the engine; returns as soon as the process exists, which is before it answers.

    Raises
    ------
    ServerNotRunning
        On Windows, where a running server is used and none is started.
    ServerStartFailed
        The program cannot be run, or there is no place for its log.
    """
    if os.name == "nt":
        raise ServerNotRunning("on Windows a server is used, not started.", fix="start Ollama from its menu, then run %urisk_start again")
    words = command(engine, settings)
    try:
        log = _log_file(settings.port)
        with log.open("ab") as out:
            popen = subprocess.Popen(  # noqa: S603  the program is ours or the user's own ollama; no shell
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,  # a file: a pipe that nobody reads would block the server
                stderr=out,
                cwd="/",  # Ollama looks for its runner under the working directory, too
                env=environment(engine, settings, os.environ),
                start_new_session=True,
            )
    except OSError as exc:
        raise ServerStartFailed(
            f"{words[0]} cannot be started: {exc}.", fix="check that the file may be run and that there is space for its log"
        ) from exc
    return Process(popen, engine, log)


def _log_file(port: int) -> Path:
    """A new, empty log that only this user can read, in a folder that only this user can write."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    root = Path(base) if base and os.access(base, os.W_OK) else Path(tempfile.gettempdir())
    folder = root / f"urisk-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        folder = Path(tempfile.mkdtemp(prefix="urisk-"))  # somebody else made a folder of this name: it is not to be trusted
    # A name of its own for each start: two that start at once must not read each other's words. 0600 by mkstemp.
    handle, path = tempfile.mkstemp(prefix=f"server-{port}-", suffix=".log", dir=folder)
    os.close(handle)
    return Path(path)


# Whose server --------------------------------------------------------------------------------------------------------------


def owner_uid(port: int) -> int | None:
    """The account whose process listens on the loopback port, where the system tells (Linux); else None."""
    return next((uid for uid, _ in _listening(port) or ()), None)


def _open_files(pid: int) -> set[str]:
    """What a process has open, as links to `socket:[INODE]` and files; nothing for one that has just ended."""
    try:
        return {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def slots(engine: Engine, settings: Settings, environ: Mapping[str, str]) -> int:
    """How many calls a server that we start answers at once."""
    if settings.parallel:
        return settings.parallel
    named = environ.get("OLLAMA_NUM_PARALLEL", "").strip() if engine is Engine.OLLAMA else ""
    return int(named) if named.isdecimal() and int(named) > 0 else 1


def _listening(port: int) -> list[tuple[int, int]] | None:
    """Account and inode of each socket that listens on the port; None where the system does not tell."""
    told = False
    found: list[tuple[int, int]] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        told = True
        listening = (fields for fields in map(str.split, lines) if fields[3] == "0A")
        found += [(int(fields[7]), int(fields[9])) for fields in listening if int(fields[1].rpartition(":")[2], 16) == port]
    return found if told else None
