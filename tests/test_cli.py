"""`urisk` in a shell: the real program, its output and its exit status."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from fake_openai import FakeOpenAI
from harness import ROOT, FakeOllama, OllamaProgram, alive, children, eventually, free_port
from urisk_nb import cli, event_loop
from urisk_nb.embedded import decision, weights


def urisk(*words, timeout=60, **env):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "URISK_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "urisk_nb", *words],
        capture_output=True,
        text=True,
        env={**clean, "URISK_JOURNAL": "off", **env},
        timeout=timeout,
        cwd=ROOT,
    )


@pytest.fixture
def urisk_here(monkeypatch, capsys):
    """
    Run `urisk` as `urisk` does, in this process: for a test of many cases, since a start of Python
    costs more than what is tested. That the program itself says these things, others test.
    """
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(ROOT)

    def run(*words, **env):
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            status = cli.main(words)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, said.out, said.err)

    return run


def test_help_and_version():
    """
    The commands are named; the version is the package's.
    """
    done = urisk("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("demo", "fetch-model", "install-judge", "doctor"))
    assert re.fullmatch(r"urisk \d+\.\d+\.\d+\n", urisk("--version").stdout)
    assert urisk("nonsense").returncode == 2


@pytest.mark.slow
def test_the_demo_with_an_engine_that_is_named(tmp_path, run_folder):
    """
    `urisk demo --engine ollama`: the six rows and their sentences, and nothing left running.
    """
    url = f"http://127.0.0.1:{free_port()}"
    OllamaProgram(tmp_path / "bin")
    place = {"PATH": str(tmp_path / "bin"), "XDG_RUNTIME_DIR": str(run_folder)}
    done = urisk("demo", "--engine", "ollama", "--url", url, **place)
    assert done.returncode == 0, done.stderr
    for ticker in ("GOOG", "AAPL", "AMZN", "FB", "NFLX", "MSFT"):
        assert re.search(
            rf"^{ticker} +(Low|Moderate|Elevated|High|Severe) ", done.stdout, re.MULTILINE
        )
    assert "The European Commission fined Google 4.34 billion euros" in done.stdout
    assert "23.7%" in done.stdout


@pytest.mark.slow
def test_the_demo_over_a_named_server(fake_ollama):
    """
    `--url` uses that server and leaves it running.
    """
    done = urisk("demo", "--url", fake_ollama.url)
    assert done.returncode == 0, done.stderr
    assert fake_ollama.counters()["requests"] > 20


@pytest.mark.slow
def test_the_demo_compares_judges(fake_ollama_with):
    """The first one's labels count; the table says who was compared, and how well they agree."""
    server = fake_ollama_with({"models": ["one", "other"]})
    done = urisk("demo", "--judge", "one,other", "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert "labeled by one, compared with other" in done.stdout
    assert re.search(r"one and other: the same risk in \d+ of \d+ sentences", done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
def test_a_reader_that_has_enough_ends_the_command_quietly():
    """`urisk doctor | head` is no failure of ours: no traceback, and the shells' own status."""
    end, start = os.pipe()
    os.close(end)
    with contextlib.closing(os.fdopen(start, "w")) as closed:
        done = subprocess.run(
            [sys.executable, "-m", "urisk_nb.cli", "doctor"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "URISK_JOURNAL": "off", "OLLAMA_URL": "http://127.0.0.1:9"},
            timeout=60,
            cwd=ROOT,
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.slow
def test_doctor_says_what_is_missing_and_how_to_get_it(tmp_path):
    """
    Without server, Ollama and model file: status 1 and a command for each.
    """
    done = urisk(
        "doctor", OLLAMA_URL="http://127.0.0.1:9", PATH=str(tmp_path), URISK_DATA=str(tmp_path)
    )
    assert done.returncode == 1
    assert "Not ready" in done.stdout
    assert "urisk fetch-model" in done.stdout or "urisk-nb[embedded]" in done.stdout
    assert "Ollama: not on PATH" in done.stdout


def test_doctor_names_the_log_of_the_last_server(run_folder, urisk_here):
    """A server that we started ended: what it wrote can be found."""
    place = run_folder / f"urisk-{os.getuid()}"
    runtime = {"XDG_RUNTIME_DIR": str(run_folder), "OLLAMA_URL": "http://127.0.0.1:9"}
    assert "server.log" not in urisk_here("doctor", **runtime).stdout
    log = next(place.iterdir()) / "server.log"
    log.write_text("panic")
    assert str(log) in urisk_here("doctor", **runtime).stdout


def test_doctor_with_a_server(fake_ollama, urisk_here):
    """
    A server that answers is named with its models: status 0.
    """
    done = urisk_here("doctor", OLLAMA_URL=fake_ollama.url)
    assert done.returncode == 0
    assert f"answers at {fake_ollama.url}" in done.stdout
    # Nothing is to be mended where a model answers, with an Ollama on the PATH or without
    assert "ollama.com/download" not in done.stdout
    assert "llama3.1:latest" in done.stdout


class Refusing(FakeOpenAI):
    """Refuses the list of models."""

    async def _reply(self, writer, path, body):
        if path == "/v1/models":
            self._send(writer, self.status, self.error)
        else:
            self._send(writer, 404, {"detail": "Not Found"})


UNFIT = {
    "a key is wanted": (
        lambda: Refusing(status=401, error={"error": {"message": "Missing API key"}}),
        {},
        "Missing API key",
        "Fix: put OLLAMA_API_KEY=... into .env",
    ),
    "a web page": (
        lambda: Refusing(status=500, error="<html><title>Oops</title></html>"),
        {},
        "HTTP 500: ",
        "Fix: ask again",
    ),
    "two models": (lambda: FakeOpenAI(("one", "two")), {}, "several models", "OLLAMA_MODEL=one"),
    "another model": (
        lambda: FakeOpenAI(("one",)),
        {"OLLAMA_MODEL": "mine"},
        "has no model 'mine'",
        "OLLAMA_MODEL=one",
    ),
    "another engine": (
        FakeOpenAI,
        {"URISK_ENGINE": "ollama"},
        "answered by the openai engine",
        "Fix: use another port",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_doctor_decides_as_the_start_does(name, tmp_path, urisk_here, run_folder):
    """
    A server that no session could use is not ready, though an `ollama` could be started: the start
    does not get that far. Both give the same reason.
    """
    make, env, seen, fix = UNFIT[name]
    OllamaProgram(tmp_path / "bin")
    fake = make()
    event_loop.run(fake.start())
    try:
        place = {"PATH": str(tmp_path / "bin"), "XDG_RUNTIME_DIR": str(run_folder)}
        done = urisk_here("doctor", OLLAMA_URL=fake.url, **place, **env)
    finally:
        event_loop.run(fake.stop())
    assert done.returncode == 1, done.stdout
    (server,) = re.findall(r"^Server: (.*\n  Fix: .*)$", done.stdout, re.MULTILINE)
    assert seen in server
    assert fix in server
    assert "Not ready" in done.stdout


def test_doctor_with_the_one_model_of_a_server(urisk_here):
    """It is ready, and what the server calls itself does not drive the terminal."""
    fake = FakeOpenAI(owner="v\x1b[31mllm")
    event_loop.run(fake.start())
    try:
        done = urisk_here("doctor", OLLAMA_URL=fake.url)
    finally:
        event_loop.run(fake.stop())
    assert done.returncode == 0, done.stdout
    assert "Server: v⟨U+001B⟩[31mllm answers" in done.stdout
    assert "models: some-7b" in done.stdout


def test_doctor_says_what_a_start_would_start(tmp_path, urisk_here, run_folder):
    """Nothing answers: an installed Ollama would be started, unless nothing may be."""
    OllamaProgram(tmp_path / "bin")
    env = {
        "PATH": str(tmp_path / "bin"),
        "XDG_RUNTIME_DIR": str(run_folder),
        "OLLAMA_URL": f"http://127.0.0.1:{free_port()}",
    }
    done = urisk_here("doctor", **env)
    assert done.returncode == 0, done.stdout
    assert "a start uses the ollama engine" in done.stdout
    done = urisk_here("doctor", OLLAMA_AUTO_START="false", **env)
    assert done.returncode == 1, done.stdout
    assert "OLLAMA_AUTO_START is off" in done.stdout


@pytest.mark.parametrize(
    ("words", "env", "seen"),
    [
        (("demo", "--url", "nowhere:1:2"), {}, "--url is 'nowhere:1:2'"),
        (
            ("demo", "--engine", "ollama", "--url", "http://127.0.0.1:9"),
            {"PATH": "/nowhere"},
            "OllamaNotInstalled",
        ),
        (("demo", "--judge", "a,b,a"), {}, "--judge 'a,b,a' names 'a' twice"),
        (("demo", "--judge", "a", "--model", "b"), {}, "--judge 'a' and model='b' both say"),
        (("doctor",), {"OLLAMA_TIMEOUT": "soon"}, "OLLAMA_TIMEOUT"),
        (("demo",), {"URISK_GGUF": "/nowhere/model.gguf"}, "URISK_GGUF"),
        (
            ("demo", "--url", "http://127.0.0.1:9"),
            {"OLLAMA_AUTO_START": "false"},
            "ServerNotRunning",
        ),
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
    `urisk demo`: the table of the six companies, labeled by the judge, which is said to be small.
    """
    done = urisk("demo", timeout=500, URISK_DATA=str(demo_model.parent))
    assert done.returncode == 0, done.stderr
    assert "Labels by urisk-judge (135 million parameters" in done.stdout
    assert "22 labeled sentences" in done.stdout
    rows = re.findall(
        r"^(GOOG|AAPL|AMZN|FB|NFLX|MSFT) +(Low|Moderate|Elevated|High|Severe) +[\d.]+ ",
        done.stdout,
        re.MULTILINE,
    )
    assert len(rows) == 6
    print(done.stdout.strip().splitlines()[-1])


def test_a_stand_in_that_ends_frees_its_port():
    """
    Started and stopped twice on one port.
    """
    first = FakeOllama()
    port = first.url.rpartition(":")[2]
    first.stop()
    second = FakeOllama("--port", port)
    assert second.url.endswith(port)
    second.stop()


@pytest.mark.slow
def test_a_terminated_demo_leaves_no_server(tmp_path, run_folder):
    """
    SIGTERM in the middle of the demo: the server that it started ends with it.
    """
    OllamaProgram(tmp_path / "bin")
    place = {"PATH": str(tmp_path / "bin"), "XDG_RUNTIME_DIR": str(run_folder)}
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "urisk_nb.cli", "demo", "--engine", "ollama", "--url", url],
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, **place},
        start_new_session=True,
    )
    server = eventually(lambda: next(iter(children(process.pid)), None), 30, "the server's start")
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    eventually(lambda: not alive(server), 5, "the server's end")


# install-judge ------------------------------------------------------------------------------------

REAL = {"models": ["llama3.1"], "version": "0.34.2"}
USE = "use it with %%risk --judge "


def models_at(url):
    with urllib.request.urlopen(f"{url}/api/tags", timeout=5) as reply:
        return {entry["name"]: entry["digest"] for entry in json.load(reply)["models"]}


@pytest.fixture(scope="module")
def data(demo_model, tmp_path_factory):
    """A data folder with the demo model, as `urisk fetch-model` leaves it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / demo_model.name).symlink_to(demo_model)
    return folder


def merged_in(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith("urisk-judge")]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_judge_is_installed_on_the_server_that_answers(fake_ollama_with, data, tmp_path):
    """
    The file is merged, kept and sent, the model made of it, the server left running; a second time
    nothing is merged or sent.
    """
    server = fake_ollama_with(REAL)
    file = data / f"urisk-judge-{weights.ADAPTER_SHA256[:12]}.gguf"
    (data / "urisk-judge-none.gguf").touch()  # of another adapter, say
    file.unlink(missing_ok=True)
    done = urisk("install-judge", "--url", server.url, URISK_DATA=str(data), timeout=150)
    assert (done.returncode, done.stdout) == (
        0,
        f"urisk-judge is ready on {server.url}: {USE}urisk-judge\n",
    ), done.stderr
    assert sorted(merged_in(data)) == [file.name, "urisk-judge-none.gguf"]
    assert not list(data.glob(".urisk-judge*"))
    before, made_at = models_at(server.url), file.stat().st_mtime_ns
    assert set(before) == {"llama3.1:latest", "urisk-judge:latest"}
    done = urisk("install-judge", OLLAMA_URL=server.url, URISK_DATA=str(data))
    assert (done.returncode, done.stdout) == (
        0,
        f"urisk-judge was ready already on {server.url}: {USE}urisk-judge\n",
    ), done.stderr
    assert file.stat().st_mtime_ns == made_at
    assert models_at(server.url) == before
    # Ollama gets it without the type that it does not serve
    sent = decision.write_without_type(file, tmp_path / "sent.gguf")
    digest = hashlib.sha256(sent.read_bytes()).hexdigest()
    paths = server.counters()["paths"]
    # Asked for, sent, asked for again; no model is pulled
    assert (paths[f"/api/blobs/sha256:{digest}"], "/api/pull" in paths) == (3, False)
    assert urisk("install-judge", "--url", server.url, "--name", "mine").returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_merged_file_that_is_cut_short_is_made_anew(fake_ollama_with, data):
    """
    It is not sent as it is.
    """
    server = fake_ollama_with(REAL)
    file = data / f"urisk-judge-{weights.ADAPTER_SHA256[:12]}.gguf"
    file.write_bytes(b"GGUF")
    done = urisk("install-judge", "--url", server.url, URISK_DATA=str(data), timeout=150)
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size > 100e6


def test_without_the_package_for_merging_nothing_is_fetched(
    fake_ollama_with, monkeypatch, tmp_path, capsys, run_folder
):
    """
    Two lines with the extra that brings it, and nothing was sent or written.
    """
    # As Python says it of a package that is not there
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("URISK_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_folder))
    server = fake_ollama_with(REAL)
    assert cli.main(["install-judge", "--url", server.url]) == 1
    said = capsys.readouterr().err
    assert "PackageMissing: merging the adapter needs the package gguf" in said
    assert 'Fix: pip install "urisk-nb[judge]"' in said
    assert set(server.counters()["paths"]) == {"/api/version", "/api/tags"}
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_judge_is_installed_on_an_ollama_that_is_started_for_it(tmp_path, data, run_folder):
    """
    Nothing answers: the `ollama` of the PATH is started, and stopped at the end; the engine of the
    environment does not count.
    """
    url = f"http://127.0.0.1:{free_port()}"
    with OllamaProgram(tmp_path / "bin", REAL):
        env = {
            "PATH": str(tmp_path / "bin"),
            "XDG_RUNTIME_DIR": str(run_folder),
            "OLLAMA_URL": url,
            "URISK_ENGINE": "embedded",
            "URISK_DATA": str(data),
        }
        done = urisk("install-judge", **env, timeout=150)
    assert (done.returncode, done.stdout) == (
        0,
        f"urisk-judge is ready on {url}: {USE}urisk-judge\n",
    ), done.stderr
    with pytest.raises(OSError, match="refused"):
        models_at(url)


@contextlib.contextmanager
def openai_server(*models):
    """A server that makes no models, as the embedded engine is one."""
    fake = FakeOpenAI(models)
    event_loop.run(fake.start())
    try:
        yield fake.url
    finally:
        event_loop.run(fake.stop())


@pytest.mark.slow
def test_on_the_embedded_engine_the_judge_is_there_already():
    """
    Its demo model brings the judge: nothing is made. With another model file there is none, and no
    way to make it.
    """
    with openai_server("smollm2-135m", "urisk-judge") as url:
        done = urisk("install-judge", "--url", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{url} has urisk-judge already: {USE}urisk-judge\n"
    with openai_server("smollm2-135m") as url:
        done = urisk("install-judge", "--url", url)
    assert done.returncode == 1
    assert "ModelNotFound: the server at" in done.stderr
    assert "has no urisk-judge (it has: smollm2-135m), and makes no models" in done.stderr
    assert "  Fix: stop it and use Ollama" in done.stderr


@pytest.mark.slow
def test_without_a_server_and_without_ollama_nothing_is_installed(run_folder):
    """
    Nothing answers, and there is nothing to start, or it may not be started.
    """
    env = {
        "PATH": "/nowhere",
        "OLLAMA_URL": f"http://127.0.0.1:{free_port()}",
        "XDG_RUNTIME_DIR": str(run_folder),
    }
    assert "OllamaNotInstalled" in urisk("install-judge", **env).stderr
    done = urisk("install-judge", **env, OLLAMA_AUTO_START="false")
    assert done.returncode == 1
    assert "ServerNotRunning" in done.stderr


def test_a_damaged_adapter_is_not_installed(fake_ollama_with, monkeypatch, tmp_path, capsys):
    """
    The file of this package is checked before anything is merged or sent.
    """
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(weights, "ADAPTER", tmp_path / "bad.gguf")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    server = fake_ollama_with(REAL)
    assert cli.main(["install-judge", "--url", server.url]) == 1
    said = capsys.readouterr().err
    assert "is not the published file" in said
    assert "Fix: install urisk-nb again" in said
    assert set(server.counters()["paths"]) == {"/api/version", "/api/tags"}
