"""
The six steps, over every engine there is: the fake Ollama always, llama.cpp with real weights, and
`ollama` where it is installed, with a model that is there.

The fake's answers are scripted; its processes are not. Figures are shown after the run, each with
its engine.
"""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fake_ollama_env import FakeOllamaEnv, gone
from harness import CALLERS_MODELS, alive, eventually, find_ollama_model, free_port
from urisk_nb import LLMManager, assess, demo, errors, process_state
from urisk_nb.server.model_server import ServerState

pytestmark = pytest.mark.slow  # servers of their own

SHORT = {"num_predict": 4, "temperature": 0}
REAL_OLLAMA = pytest.mark.skipif(
    shutil.which("ollama") is None, reason="`ollama` is not on the PATH"
)
ENGINES = [
    "fake Ollama",
    pytest.param("llama.cpp", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    pytest.param("ollama", marks=[pytest.mark.slow, pytest.mark.timeout(900), REAL_OLLAMA]),
]


class Engine:
    """One engine at an address of its own."""

    def __init__(self, name, flags, *, is_quick=False, is_native=True):
        self.name, self.flags = name, flags
        self.is_quick, self.is_native = is_quick, is_native

    def start(self, **flags):
        return LLMManager.initialize_sync(**{**self.flags, **flags})

    def get_json(self, path):
        with urllib.request.urlopen(f"{self.flags['url']}{path}", timeout=10) as reply:
            return json.load(reply)

    def list_loaded(self):
        """The models in memory, as the server says; llama.cpp has what it was started with."""
        if self.is_native:
            return [model["name"] for model in self.get_json("/api/ps")["models"]]
        return self.get_json("/v1/models")["data"][0]["aliases"]


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path, run_folder, monkeypatch):
    """The engine, nothing of it left afterwards."""
    url = f"http://127.0.0.1:{free_port()}"
    if request.param == "fake Ollama":
        made = fake_ollama_engine(tmp_path, monkeypatch, url)
    elif request.param == "llama.cpp":
        pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (the embedded extra)")
        made = Engine(
            "llama.cpp",
            {"engine": "embedded", "gguf": request.getfixturevalue("demo_model"), "url": url},
            is_native=False,
        )
    else:
        made = ollama_engine(monkeypatch, url)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_folder))
    yield made
    if (manager := process_state.get("manager")) is not None:
        manager.shutdown_sync()


def ollama_engine(monkeypatch, url):
    """The real one, with the caller's models: nothing is pulled for a test."""
    model = find_ollama_model()
    if model is None:
        pytest.skip("this Ollama has no model that can chat: ollama pull smollm2:135m")
    for name, value in CALLERS_MODELS.items():
        monkeypatch.setenv(name, value)
    return Engine("ollama", {"engine": "ollama", "model": model, "url": url})


def fake_ollama_engine(folder, monkeypatch, url):
    lab = FakeOllamaEnv(folder, None)
    lab.plan(models=[{"name": "llama3.1", "installed": False}], rules=[])
    monkeypatch.setenv("PATH", lab.env["PATH"])
    monkeypatch.chdir(folder / "work")
    return Engine("fake Ollama", {"engine": "ollama", "url": url}, is_quick=True)


# The seed's names ---------------------------------------------------------------------------------


def test_singleton_pattern(engine):
    """Ten threads that start at once share one manager, and everybody after them gets the same."""
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(engine.start())) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {id(manager) for manager in seen} == {id(LLMManager.get_instance())}
    assert len(seen) == 10
    assert asyncio.run(LLMManager.initialize()) is seen[0]


def test_initialization(engine, figure):
    """Started, warm, and it knows what it has."""
    events = []
    began = time.monotonic()
    manager = engine.start(progress=events.append)
    figure(f"{engine.name}: start to warm", time.monotonic() - began)
    assert [events[0].step, events[-1].step] == ["checking", "ready"]
    assert manager.state is ServerState.MANAGED
    assert manager.version or engine.name == "llama.cpp", "llama.cpp's build may be unknown"
    assert manager.started_at is not None
    assert engine.list_loaded()


def test_ollama_auto_start(engine):
    """Nothing answers: the server is started, apart from us, and not where that is forbidden."""
    with pytest.raises(errors.ServerNotRunning, match="OLLAMA_AUTO_START"):
        engine.start(auto_start=False)
    manager = engine.start()
    assert alive(manager.pid)
    assert os.getsid(manager.pid) == manager.pid
    assert manager.is_managed


def test_model_download(engine):
    """
    A model that is missing is pulled, where there is something to pull; one that does not exist is
    named, with those that do.
    """
    steps = []
    manager = engine.start(progress=lambda event: steps.append(event.step))
    assert ("pulling" in steps) or not engine.is_quick
    with pytest.raises(errors.ModelError, match=r"no-such-model-of-anybody"):
        asyncio.run(manager.ensure_model("no-such-model-of-anybody"))
    assert manager.generate_sync("Say hello.", options=SHORT)


def test_session_persistence(engine):
    """
    The model stays in memory between calls, for as long as the settings say; no call loads it
    again.
    """
    manager = engine.start()
    loaded = engine.list_loaded()
    for _ in range(3):
        assert manager.generate_sync("Say hello.", options=SHORT).timing.load_s < 0.5
    assert engine.list_loaded() == loaded
    if not engine.is_native:
        return
    until = datetime.fromisoformat(engine.get_json("/api/ps")["models"][0]["expires_at"])
    assert timedelta(minutes=19) < until - datetime.now(UTC) < timedelta(minutes=21), (
        "OLLAMA_KEEP_ALIVE is 20m"
    )


@pytest.mark.timing
def test_graceful_shutdown(engine, figure):
    """Within a second, with everything that was started; and again, which changes nothing."""
    manager = engine.start()
    pid = manager.pid
    began = time.monotonic()
    manager.shutdown_sync()
    figure(f"{engine.name}: shutdown", time.monotonic() - began)
    assert time.monotonic() - began < 1.5
    gone([pid], 0.1)
    manager.shutdown_sync()
    with pytest.raises(errors.NotInitialized):
        manager.generate_sync("hi")


def test_risk_assessment_speed(engine, figure):
    """
    The example's evidence of two companies is judged whole; how fast is shown, and bounded
    generously.
    """
    manager = engine.start()
    tickers = demo.TICKERS[:2]
    began = time.monotonic()
    table = assess(tickers, prices=demo.prices(), evidence=demo.evidence(), manager=manager)
    took_s = time.monotonic() - began
    judged = len(table.report.findings)
    figure(f"{engine.name}: one judged sentence of {judged}", took_s / judged)
    assert set(table["status"]) == {"ok"}
    assert judged >= 4
    assert took_s < (5 if engine.is_quick else 120)


def test_concurrent_requests(engine, figure):
    """Twenty at once, from as many threads: all answered, in order of asking, none refused."""
    manager = engine.start()
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(manager.generate_sync("Say hello.", options=SHORT))
        )
        for _ in range(20)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    figure(f"{engine.name}: twenty short answers at once", time.monotonic() - began)
    assert len(answers) == 20
    assert all(answers)
    assert manager.breaker() == "closed"


@pytest.mark.timing
def test_startup_shutdown_cycle(engine):
    """
    Three times: each server is another process, each is gone, and the files that are open are as
    many as before.
    """
    engine.start().shutdown_sync()
    files = len(list(Path("/proc/self/fd").iterdir()))
    pids = []
    for _ in range(3):
        manager = engine.start()
        pids.append(manager.pid)
        assert manager.generate_sync("Say hello.", options=SHORT)
        manager.shutdown_sync()
        gone(pids, 0.5)
    assert len(set(pids)) == 3
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def test_a_crash_is_recovered_from(engine, figure):
    """The server is killed while idle: the next call is answered by another, warm one."""
    manager = engine.start()
    first = manager.pid
    os.kill(first, signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: manager.state is not ServerState.MANAGED, 1)
    assert manager.generate_sync("Say hello.", options=SHORT)
    figure(
        f"{engine.name}: from the kill of the server to the next answer", time.monotonic() - began
    )
    assert manager.pid != first
    assert not alive(first)
