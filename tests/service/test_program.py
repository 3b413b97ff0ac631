"""The service as a process: its end, its health, a crash behind it, a thousand callers."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from fake_ollama_env import FakeOllamaEnv, gone
from harness import ROOT, alive, eventually

pytest.importorskip("fastapi", reason="the extra `service` is not installed")
pytest.importorskip("uvicorn", reason="the extra `service` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `service` is not installed")

from served_app import metric_value

# As a program -------------------------------------------------------------------------------------


class Program:
    """`urisk serve` as a process."""

    def __init__(self, env, *words):
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OLLAMA_", "URISK_"))
        }
        command = [sys.executable, "-m", "urisk_nb.cli", "serve", "--port", "0", *words]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**clean, "URISK_JOURNAL": "off", **env},
            start_new_session=True,
        )
        line = self.process.stdout.readline()
        self.url = line.split()[3].rstrip(";")
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def status(self, path):
        return self.http.get(path).status_code

    def ready(self):
        eventually(lambda: self.status("/health/llm") == 200, 20, "the model's being ready")

    def end(self, number=signal.SIGTERM):
        """Send the signal; exit status and what was written to stderr."""
        self.http.close()
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@pytest.fixture
def program(tmp_path):
    """
    Programs where `ollama` is the fake Ollama; ended by force where the test did not.
    """
    lab = FakeOllamaEnv(tmp_path, None)
    made = []

    def start(*words, **env):
        made.append(Program({**lab.env, **env}, *words))
        return made[-1]

    start.lab = lab
    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
        one.http.close()


def urisk_serve(*words, **env):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "URISK_"))
    }
    command = [sys.executable, "-m", "urisk_nb.cli", "serve", *words]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**clean, "URISK_JOURNAL": "off", **env},
        timeout=60,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_serve_refuses_in_two_lines(tmp_path):
    """
    Open to others without a token; a port that is taken; no server and nothing to start: status 1,
    what was seen, what to do.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases = [
            (
                ("--host", "0.0.0.0", "--engine", "ollama"),
                "InputError: others can reach 0.0.0.0",
                {},
            ),
            (("--port", str(taken.getsockname()[1])), "InputError", {}),
            (
                ("--port", "0", "--url", "http://127.0.0.1:9"),
                "ServerNotRunning",
                {"OLLAMA_AUTO_START": "false"},
            ),
            (("--port", "0", "--url", "nowhere:1:2"), "SettingsError", {}),
        ]
        for words, seen, env in cases:
            done = urisk_serve(*words, **env)
            lines = done.stderr.strip().splitlines()
            assert (done.returncode, len(lines)) == (1, 2), done.stderr
            assert lines[0].startswith(seen)
            assert lines[1].startswith("  Fix: ")


@pytest.mark.slow
def test_a_missing_package_is_named():
    """Without FastAPI the rest of the package works, and `urisk serve` says what to install."""
    code = (
        "import sys; sys.modules['fastapi'] = None; from urisk_nb.cli import main; "
        "sys.exit(main(['serve']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "PackageMissing: the service needs fastapi" in done.stderr
    assert 'pip install "urisk-nb[service]"' in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(program, number):
    """
    Status 0 and nothing said; a call under way is told why it ends; server and runner are gone.
    """
    served = program()
    served.ready()
    pids = program.lab.processes()
    with served.http.stream("POST", "/chat", json={"prompt": "slow", "stream": True}) as reply:
        lines = reply.iter_lines()
        next(lines)
        served.process.send_signal(number)
        last = [json.loads(line) for line in lines if line][-1]
    assert last["error"] in ("ServerConnectionLost", "StreamInterrupted")
    _, said = served.process.communicate(timeout=20)
    assert (served.process.returncode, said) == (0, "")
    gone(pids, 2)


@pytest.mark.slow
def test_health_while_the_server_starts_and_loads(program):
    """
    The process lives at once; the server and the model are 503 with the reason until they are
    ready.
    """
    program.lab.plan(process={"ready_ms": 1500}, load_ms=1500)
    served = program()
    assert served.status("/health") == 200
    reply = served.http.get("/health/ollama")
    assert reply.status_code == 503
    eventually(lambda: served.status("/health/ollama") == 200, 15, "the server's answer")
    reply = served.http.get("/health/llm")
    assert (reply.status_code, reply.json()["error"]) == (503, "NotReady")
    assert "Loading" in reply.json()["message"]
    # Waits for the start
    assert served.http.post("/chat", json={"prompt": "hello"}).status_code == 200
    assert served.status("/health/llm") == 200
    assert served.end()[0] == 0


@pytest.mark.slow
def test_health_of_a_server_that_is_killed_and_one_that_hangs(program):
    """
    503 with the reason within 2 s, /health 200 throughout; ready again when the server is back.
    """
    served = program()
    served.ready()
    pid, _ = program.lab.processes()
    os.kill(pid, signal.SIGSTOP)
    for path in ("/health/ollama", "/health/llm"):
        began = time.monotonic()
        reply = served.http.get(path)
        assert (reply.status_code, reply.json()["error"]) == (503, "NotReady")
        assert time.monotonic() - began < 3
    assert served.status("/health") == 200
    os.kill(pid, signal.SIGCONT)
    served.ready()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: served.status("/health/ollama") == 503, 2, "the news of the crash")
    assert served.status("/health") == 200
    served.ready()
    assert metric_value(served.http.get("/metrics").text, "urisk_server_restarts") == 1
    assert served.end()[0] == 0


@pytest.mark.slow
def test_a_server_killed_in_the_middle(program):
    """
    Streams end with an error line, waiting calls with an answer or an error of ours; then it
    answers again; no orphan at the end.
    """
    served = program()
    served.ready()
    pids = program.lab.processes()
    with served.http.stream("POST", "/chat", json={"prompt": "slow", "stream": True}) as reply:
        lines = reply.iter_lines()
        next(lines)
        os.kill(pids[0], signal.SIGKILL)
        last = [json.loads(line) for line in lines if line][-1]
    assert last["error"] == "StreamInterrupted"
    replies = asyncio.run(flood(served.url, 20))
    assert set(replies) == {200}
    more = program.lab.processes()
    assert more[0] != pids[0]
    assert served.end() == (0, "")
    gone({*pids, *more}, 2)


async def flood(url, times, prompt="hello"):
    """The statuses of so many calls at once."""
    async with httpx.AsyncClient(
        base_url=url, timeout=110, trust_env=False, limits=httpx.Limits(max_connections=None)
    ) as http:

        async def one():
            return (await http.post("/chat", json={"prompt": prompt})).status_code

        return await asyncio.gather(*[one() for _ in range(times)])


def memory_mb(pid):
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_thousand_at_once(program, fake_ollama, figure):
    """
    1,000 concurrent calls: every one is answered, the memory is bounded, the breaker is closed,
    nothing stays in flight.
    """
    served = program("--url", fake_ollama.url, URISK_PARALLEL="4")
    served.ready()
    asyncio.run(flood(served.url, 20))
    before, began = memory_mb(served.process.pid), time.monotonic()
    replies = asyncio.run(flood(served.url, 1000))
    figure("1,000 chats over the service", time.monotonic() - began)
    figure("1,000 chats over the service: more memory, MB", memory_mb(served.process.pid) - before)
    assert replies == [200] * 1000
    assert memory_mb(served.process.pid) - before < 150
    text = served.http.get("/metrics").text
    assert metric_value(text, 'urisk_calls_total{route="/chat",status="200"}') == 1020
    assert metric_value(text, 'urisk_breaker_state{urisk_breaker_state="closed"}') == 1
    assert metric_value(text, "urisk_in_flight") == 1
    assert served.end()[0] == 0


# Programs of the user's own -----------------------------------------------------------------------

APP = """
    from contextlib import asynccontextmanager
    from fastapi import FastAPI
    from urisk_nb import LLMManager

    @asynccontextmanager
    async def lifespan(app):
        await LLMManager.initialize()
        yield
        await LLMManager.get_instance().shutdown()

    app = FastAPI(lifespan=lifespan)

    @app.get("/ask")
    async def ask(prompt: str):
        answer = await LLMManager.get_instance().generate(prompt=prompt, system_prompt="Be brief.")
        return {"answer": answer}
"""
SCRIPT = """
    import asyncio
    from urisk_nb import LLMManager

    async def main():
        m = await LLMManager.initialize()
        print(await m.generate(prompt="hello", system_prompt="Be brief."), m.pid)
        await m.shutdown()

    asyncio.run(main())
"""


@pytest.mark.slow
def test_an_app_of_the_users_own(tmp_path):
    """
    A FastAPI app whose lifespan starts and ends the session: it answers, and its end takes the
    server along.
    """
    lab = FakeOllamaEnv(tmp_path, None)
    (tmp_path / "mine.py").write_text(textwrap.dedent(APP))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(tmp_path),
        "--port",
        str(port),
        "--log-level",
        "warning",
        "mine:app",
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, **lab.env, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )

    def answer():
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(
                f"http://127.0.0.1:{port}/ask",
                params={"prompt": "hello"},
                trust_env=False,
                timeout=20,
            )
        return None

    reply = eventually(answer, 20, "the app's answer")
    assert "SCRIPTED" in reply.json()["answer"]
    pids = lab.processes()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=15)
    assert said == ""
    gone(pids, 2)


@pytest.mark.slow
def test_a_script_of_the_users_own(tmp_path):
    """A script that starts, asks and shuts down: the answer, status 0, nothing left."""
    lab = FakeOllamaEnv(tmp_path, None)
    env = {**os.environ, **lab.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        env=env,
        timeout=40,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "SCRIPTED" in done.stdout
    eventually(lambda: not alive(int(done.stdout.split()[-1])), 2, "the server's end")
