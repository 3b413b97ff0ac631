"""The servers that must look the same to our client, and which of them were there."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace

import httpx
import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from harness import ROOT, eventually
from urisk_nb.embedded import merge, weights

RAN = pytest.StashKey[dict]()


@dataclass(frozen=True)
class Server:
    """Where it listens, and the model to ask for."""

    url: str
    model: str
    is_native: bool = True  # speaks Ollama's own wire

    def ask(self, method, path, body=None, **rest):
        """One request as it is, without our client; a dict is sent as JSON."""
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        return httpx.request(
            method, self.url + path, content=content, timeout=120, trust_env=False, **rest
        )

    def resident(self):
        """Its model's entry in /api/ps, None where it is not loaded."""
        entries = self.ask("GET", "/api/ps").json()["models"]
        return next((entry for entry in entries if entry["name"] == self.model), None)


@contextlib.contextmanager
def scripted(_):
    # Left alone, this answer takes minutes: who waits for its end has lost.
    story = Rule(contains="very long story", answer=["word "] * 4000, token_ms=50)
    with running(ScriptedBackend(Scenario(rules=(story,)))) as server:
        yield Server(server.url, "llama3.1:latest")


@contextlib.contextmanager
def llamacpp(request):
    """The demo model and the judge, as the embedded engine serves them."""
    with launched(request.getfixturevalue("demo_model")) as server:
        yield server


@contextlib.contextmanager
def merged(request):
    """The judge as one file, as anybody's llama.cpp serves it."""
    pytest.importorskip("gguf", reason="the package gguf is not installed (the judge extra)")
    out = request.getfixturevalue("tmp_path_factory").mktemp("merged") / "urisk-judge.gguf"
    merge.merge_adapter(request.getfixturevalue("demo_model"), weights.adapter(), out)
    try:
        with launched(out) as server:
            yield server
    finally:
        out.unlink()


@contextlib.contextmanager
def launched(file):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (the embedded extra)")
    command = [sys.executable, "-m", "urisk_nb.embedded.launcher", "--gguf", str(file)]
    with process([*command, "--num-ctx", "2048"], stdout=subprocess.PIPE, cwd=ROOT) as started:
        ready = json.loads(started.stdout.readline())
        yield Server(ready["url"], ready["models"][0], is_native=False)


@contextlib.contextmanager
def ollama(request):
    program = shutil.which("ollama")
    if program is None:
        pytest.skip("ollama is not on the PATH")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = request.getfixturevalue("tmp_path_factory").mktemp("ollama") / "serve.log"
    environment = {**os.environ, "OLLAMA_HOST": f"127.0.0.1:{port}"}
    with log.open("wb") as out, process([program, "serve"], stdout=out, env=environment) as started:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(url, started, log), 30, "an answer of `ollama serve`")
        yield Server(url, model_of_ollama(url))


@contextlib.contextmanager
def process(command, **rest):
    """A program in a session of its own; it and its runners are ended together."""
    started = subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL if "stderr" not in rest else rest.pop("stderr"),
        start_new_session=True,
        **rest,
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait(5)
        if started.stdout is not None:
            started.stdout.close()


def answers(url, started, log):
    assert started.poll() is None, log.read_text(errors="replace")[-2000:]
    try:
        return httpx.get(url + "/api/version", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def model_of_ollama(url):
    """The one that is asked for, else the smallest that can chat and runs here."""
    if wanted := os.environ.get("URISK_TEST_OLLAMA_MODEL"):
        return wanted if ":" in wanted else f"{wanted}:latest"
    models = httpx.get(url + "/api/tags", timeout=30, trust_env=False).json()["models"]
    fit = [
        entry
        for entry in models
        if "completion" in entry.get("capabilities", ["completion"])
        and not entry.get("remote_host")
    ]
    if not fit:
        pytest.skip("this Ollama has no model that can chat: ollama pull smollm2:135m")
    return min(fit, key=lambda entry: entry["size"])["name"]


SERVERS = {"scripted": scripted, "llamacpp": llamacpp, "merged": merged, "ollama": ollama}
SLOW = {
    "llamacpp": [pytest.mark.slow, pytest.mark.timeout(180)],
    "merged": [pytest.mark.slow, pytest.mark.timeout(180)],
    "ollama": [pytest.mark.slow, pytest.mark.timeout(600)],  # its model may be a large one
}


def marked(*names):
    return [pytest.param(name, marks=SLOW.get(name, [])) for name in names]


@contextlib.contextmanager
def started_server(request):
    """The server that the parameter names; one that cannot be had is skipped with the reason."""
    ran = request.config.stash.setdefault(RAN, {})
    try:
        with SERVERS[request.param](request) as started:
            ran[request.param] = f"ran, {started.model}"
            yield started
    except pytest.skip.Exception as exc:
        ran[request.param] = f"skipped: {exc.msg}"
        raise


@pytest.fixture(scope="module", params=marked("scripted", "llamacpp", "ollama"))
def server(request):
    """Each of the servers in turn."""
    with started_server(request) as started:
        yield started


@pytest.fixture(scope="module", params=marked("scripted", "ollama"))
def native_server(request):
    """Those that speak Ollama's own wire."""
    with started_server(request) as started:
        yield started


@pytest.fixture(scope="module", params=marked("llamacpp", "merged"))
def decision_server(request):
    """Those that serve the judge as a decision model."""
    with started_server(request) as started:
        yield replace(started, model="urisk-judge")


def pytest_terminal_summary(terminalreporter, config):
    """
    Which servers the facts were held against: a suite that skipped Ollama must not look like one
    that ran it.
    """
    ran = config.stash.get(RAN, {})
    if ran:
        terminalreporter.section("contract: servers")
        for name in SERVERS:
            terminalreporter.line(f"{name}: {ran.get(name, 'not selected')}")
