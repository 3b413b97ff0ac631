"""`urisk` in a shell: the real program, its output and its exit status."""

import os
import re
import signal
import subprocess
import sys

import pytest

from harness import ROOT, StandIn, alive, children, eventually


def urisk(*words, timeout=60, **env):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "URISK_"))}
    return subprocess.run(
        [sys.executable, "-m", "urisk_nb.cli", *words], capture_output=True, text=True, env={**clean, **env}, timeout=timeout, cwd=ROOT
    )


def test_help_and_version():
    """
    The commands are named; the version is the package's.
    """
    done = urisk("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("demo", "fetch-model", "doctor"))
    assert re.fullmatch(r"urisk \d+\.\d+\.\d+\n", urisk("--version").stdout)
    assert urisk("nonsense").returncode == 2


@pytest.mark.slow
def test_the_demo_on_the_scripted_brain_says_simulated():
    """
    `urisk demo --engine simulated`: the six rows, their sentences, SIMULATED above, and nothing left running.
    """
    done = urisk("demo", "--engine", "simulated")
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout
    for ticker in ("GOOG", "AAPL", "AMZN", "FB", "NFLX", "MSFT"):
        assert re.search(rf"^{ticker} +(Low|Moderate|Elevated|High|Severe) ", done.stdout, re.MULTILINE)
    assert "The European Commission fined Google 4.34 billion euros" in done.stdout
    assert "23.7%" in done.stdout


@pytest.mark.slow
def test_the_demo_over_a_named_server(standin):
    """
    `--url` uses that server and leaves it running.
    """
    done = urisk("demo", "--url", standin.url)
    assert done.returncode == 0, done.stderr
    assert standin.counters()["requests"] > 20


def test_doctor_says_what_is_missing_and_how_to_get_it(tmp_path):
    """
    Without server, Ollama and model file: status 1 and a command for each.
    """
    done = urisk("doctor", OLLAMA_URL="http://127.0.0.1:9", PATH=str(tmp_path), URISK_DATA=str(tmp_path))
    assert done.returncode == 1
    assert "Not ready" in done.stdout
    assert "urisk fetch-model" in done.stdout or "urisk-nb[embedded]" in done.stdout
    assert "Ollama: not on PATH" in done.stdout


def test_doctor_names_the_log_of_the_last_server(tmp_path):
    """A server that we started ended: what it wrote can be found."""
    place = tmp_path / f"urisk-{os.getuid()}"
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path), "OLLAMA_URL": "http://127.0.0.1:9"}
    assert "server.log" not in urisk("doctor", **runtime).stdout
    log = next(place.iterdir()) / "server.log"
    log.write_text("panic")
    assert str(log) in urisk("doctor", **runtime).stdout


def test_doctor_with_a_server(standin):
    """
    A server that answers is named with its models: status 0.
    """
    done = urisk("doctor", OLLAMA_URL=standin.url)
    assert done.returncode == 0
    assert f"answers at {standin.url}" in done.stdout
    assert "simulated:latest" in done.stdout


@pytest.mark.parametrize(
    ("words", "env", "seen"),
    [
        (("demo", "--url", "nowhere:1:2"), {}, "OLLAMA_URL"),
        (("demo", "--engine", "ollama", "--url", "http://127.0.0.1:9"), {"PATH": "/nowhere"}, "OllamaNotInstalled"),
        (("doctor",), {"OLLAMA_TIMEOUT": "soon"}, "OLLAMA_TIMEOUT"),
        (("demo",), {"URISK_GGUF": "/nowhere/model.gguf"}, "URISK_GGUF"),
        (("demo", "--url", "http://127.0.0.1:9"), {"OLLAMA_AUTO_START": "false"}, "ServerNotRunning"),
    ],
)
@pytest.mark.slow
def test_an_error_is_two_lines(words, env, seen):
    """
    No stack: what was seen, and what to do; status 1.
    """
    done = urisk(*words, **env)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()[-2:]
    assert seen in lines[0]
    assert lines[1].startswith("  Fix: ")
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_made_is_two_lines():
    """
    The fetch goes to a place that cannot be written: an error that says so.
    """
    done = urisk("fetch-model", URISK_DATA="/proc/nowhere")
    assert done.returncode == 1
    assert "FetchFailed" in done.stderr
    assert "Fix: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_main_job_with_the_real_demo_model(demo_model):
    """
    `urisk demo`: the table of the six companies by the real demo model, said to be weak, and never SIMULATED.
    """
    done = urisk("demo", timeout=500, URISK_DATA=str(demo_model.parent))
    assert done.returncode == 0, done.stderr
    assert "demo model" in done.stdout
    assert "SIMULATED" not in done.stdout
    assert "22 judged sentences" in done.stdout
    rows = re.findall(r"^(GOOG|AAPL|AMZN|FB|NFLX|MSFT) +(Low|Moderate|Elevated|High|Severe) +[\d.]+ ", done.stdout, re.MULTILINE)
    assert len(rows) == 6
    print(done.stdout.strip().splitlines()[-1])


def test_a_stand_in_that_ends_frees_its_port():
    """
    Started and stopped twice on one port.
    """
    first = StandIn()
    port = first.url.rpartition(":")[2]
    first.stop()
    second = StandIn("--port", port)
    assert second.url.endswith(port)
    second.stop()


@pytest.mark.slow
def test_a_terminated_demo_leaves_no_server():
    """
    SIGTERM in the middle of the demo: the server that it started ends with it.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "urisk_nb.cli", "demo", "--engine", "simulated"], stdout=subprocess.DEVNULL, cwd=ROOT, start_new_session=True
    )
    server = eventually(lambda: next(iter(children(process.pid)), None), 30, "the server's start")
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    eventually(lambda: not alive(server), 5, "the server's end")
