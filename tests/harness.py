"""
What tests are made with: a fake Ollama as a real process, a real kernel spoken to as a front
end does, waiting for others.
"""

import atexit
import contextlib
import functools
import itertools
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_client import KernelManager

from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES

ROOT = Path(__file__).parents[1]


def children(parent=None):
    """
    The processes whose parent is this one (or the one given), where /proc tells; a zombie is one
    that nobody waited for.
    """
    found = set()
    # Asked twice a test: by way of a glob or of Path it would take several times as long.
    with contextlib.suppress(OSError), os.scandir(f"/proc/{parent or os.getpid()}/task") as threads:
        for thread in threads:
            with (
                contextlib.suppress(OSError),
                open(f"{thread.path}/children", "rb", buffering=0) as file,
            ):
                found.update(map(int, file.readall().split()))
    return found


def alive(pid):
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition, within_s=5.0, what="the condition"):
    """Wait until the condition holds; for what another process or thread does in its own time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := condition():
            return value
        threading.Event().wait(0.01)
    raise AssertionError(f"{what} did not come true within {within_s} s")


# Which of the processes of pytest-xdist this is, and how many there are.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_own = range(20_000 + WORKER, 30_000, WORKERS)
_ports = itertools.cycle(random.Random().sample(_own, len(_own)))


def free_port():
    """
    A port of this machine where nothing listens. Not one of those that the system gives out by
    itself: a kernel, or the near end of any connection, could be given the same one before our
    server is there. Nor one that another worker draws or that was drawn just before, for the same
    reason.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@functools.cache
def _short_root():
    folder = tempfile.TemporaryDirectory(prefix="ut-", dir="/tmp", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return folder.name


def short_folder():
    """
    A new folder, gone with this process, whose path leaves room for the name of a socket. Those of
    pytest do not where the names of user, worker and test are long.
    """
    return Path(tempfile.mkdtemp(dir=_short_root(), prefix=""))


class FakeOllama:
    """A fake Ollama, running as a process."""

    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fake_ollama", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT / "tests",
            env={**os.environ, **(env or {})},
        )
        line = self.process.stdout.readline()
        self.ready = json.loads(line)
        self.url = self.ready["url"]

    def counters(self):
        with urllib.request.urlopen(f"{self.url}/urisk/counters", timeout=5) as reply:
            return json.load(reply)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self.process.stdout.close()


@contextlib.contextmanager
def launch_llamacpp(gguf, *arguments):
    """llama.cpp's own server for a model file, as the launcher starts it; its address."""
    command = [sys.executable, "-m", "urisk_nb.embedded.launcher", "--gguf", str(gguf)]
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as process:
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.kill()


# Where the models of a real Ollama lie, as the caller of the tests has it.
CALLERS_MODELS = {name: os.environ[name] for name in ("OLLAMA_MODELS",) if name in os.environ}


@functools.cache
def find_ollama_model():
    """
    The model of the real Ollama that tests may use, None where it has none; nothing is pulled.

    It is the one that URISK_TEST_OLLAMA_MODEL names, else the smallest that can chat and runs here.
    """
    if wanted := os.environ.get("URISK_TEST_OLLAMA_MODEL"):
        return wanted if ":" in wanted else f"{wanted}:latest"
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [shutil.which("ollama"), "serve"],
        env={**os.environ, **CALLERS_MODELS, "OLLAMA_HOST": address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            models = eventually(lambda: _list_models(address), 30, "an answer of `ollama serve`")
        finally:
            server.terminate()
    fit = [
        model
        for model in models["models"]
        if "completion" in model.get("capabilities", ["completion"])
        and not model.get("remote_host")
    ]
    return min(fit, key=lambda model: model["size"])["name"] if fit else None


def _list_models(address):
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://{address}/api/tags", timeout=10) as reply,
    ):
        return json.load(reply)
    return None


def decide(url, text):
    """
    What a judge answers to one sentence over System One, without our client: the probabilities of
    the risks, and of the severities.
    """
    risks = dict.fromkeys((*DEFAULT.ids, NONE))
    questions = {
        "risk": {"type": "choice", "instructions": "?", "criteria": risks},
        "severity": {"type": "score", "instructions": "?", "criteria": [*SEVERITIES.values()]},
    }
    body = json.dumps({"model": "urisk-judge", "state": text, "questions": questions}).encode()
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/systemone", body, head)
    with urllib.request.urlopen(request, timeout=60) as reply:
        answers = json.load(reply)["answers"]
    return answers["risk"]["probabilities"], answers["severity"]["probabilities"]


ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Cell:
    """What came back for one cell."""

    reply: dict = field(default_factory=dict)
    outputs: list = field(default_factory=list)

    @property
    def status(self):
        return self.reply["status"]

    @property
    def ename(self):
        return self.reply.get("ename", "")

    @property
    def error(self):
        """The traceback as the notebook shows it, without colours."""
        return ANSI.sub("", "\n".join(self.reply.get("traceback", [])))

    def text(self, kind="text/plain"):
        """All output of a kind, and the streams, joined in order."""
        parts, stream = [], None
        for type_, content in self.outputs:
            if type_ == "stream":
                # One print may come in pieces: the kernel sends what there is five times a second
                if content["name"] == stream:
                    parts[-1] += content["text"]
                else:
                    parts.append(content["text"])
            elif "data" in content:
                parts.append(content["data"].get(kind, ""))
            stream = content.get("name") if type_ == "stream" else None
        return "\n".join(parts)

    @property
    def html(self):
        return self.text("text/html")


class Kernel:
    def __init__(self, env=None, cwd=None):
        # Left to itself it asks for ports that are free now, and another worker's kernel, which
        # starts meanwhile, may be given the same
        ports = {
            f"{name}_port": free_port() for name in ("shell", "iopub", "stdin", "hb", "control")
        }
        self.manager = KernelManager(kernel_name="python3", cache_ports=False, **ports)
        self.manager.start_kernel(env={**os.environ, **(env or {})}, cwd=cwd)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=30)

    def start(self, code):
        return self.client.execute(code)

    def finish(self, message_id, timeout=40):
        """
        Everything for the cell, until the kernel has said that it is idle and the reply is there.
        """
        cell, end = Cell(), time.monotonic() + timeout
        idle = False
        while not idle:
            message = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in ("stream", "display_data", "execute_result", "update_display_data", "error"):
                cell.outputs.append((kind, content))
            idle = kind == "status" and content["execution_state"] == "idle"
        while True:
            reply = self.client.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
            if reply["parent_header"].get("msg_id") == message_id:
                cell.reply = reply["content"]
                return cell

    def run(self, code, timeout=40):
        return self.finish(self.start(code), timeout)

    def good(self, code, timeout=40):
        cell = self.run(code, timeout)
        assert cell.status == "ok", cell.error
        return cell

    def value(self, expression):
        """The printed value of an expression."""
        return self.good(f"print({expression})").text().strip()

    def interrupt_when(self, message_id, seen, timeout=20):
        """
        Interrupt as soon as an output of the cell satisfies `seen`; return the cell and the seconds
        until the prompt was back.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") == message_id and seen(message):
                break
        else:
            raise AssertionError("the output to interrupt at never came")
        began = time.monotonic()
        self.manager.interrupt_kernel()
        cell = self.finish(message_id)
        return cell, time.monotonic() - began

    def stop(self):
        self.client.stop_channels()
        if self.manager.is_alive():
            self.manager.shutdown_kernel()
        else:
            self.manager.cleanup_resources()


OLLAMA_SCRIPT = """#!{python}
import os, sys
sys.path.insert(0, {root!r})
os.environ["FAKE_OLLAMA_SCENARIO"] = {scenario!r}
from fake_ollama.program import main
sys.exit(main())
"""


class OllamaProgram:
    """A folder with an `ollama` for PATH: the fake with this scenario. Its answers are
    scripted, its processes are real.

    Starts nothing. As a context manager it takes the program away again at the end, as an
    uninstallation does.
    """

    def __init__(self, folder, scenario=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "ollama"
        self.scenario = self.folder / "scenario.json"
        self.plan(scenario or {})
        self.path.write_text(
            OLLAMA_SCRIPT.format(
                python=sys.executable, root=str(ROOT / "tests"), scenario=str(self.scenario)
            )
        )
        self.path.chmod(0o755)

    def plan(self, scenario):
        """Another scenario, for the starts that follow."""
        self.scenario.write_text(json.dumps(scenario))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.path.unlink(missing_ok=True)
