"""
What all tests share: a clean environment, servers and kernels to ask for, and the watch for leaks.
"""

import gc
import json
import os
import sys
import textwrap
import threading
from pathlib import Path

import hypothesis
import pytest

from harness import FakeOllama, Kernel, OllamaProgram, children, eventually, short_folder

# Kernels, servers and programs are started by the hundred: each would compile the package anew
# where this is set, and pytest would rewrite the asserts of all test modules in each run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# No test writes into the journal of whoever runs it, or is answered from there: neither in this
# process nor in a kernel or program that it starts. Tests of the journal name a file of their own.
os.environ["URISK_JOURNAL"] = "off"
sys.dont_write_bytecode = False
# jsonschema looks for it and does without, for a format that no schema here has; its grammar takes
# more than a second to build.
sys.modules.setdefault("rfc3987_syntax", None)
# The same tree gives the same result: a new counterexample is found on purpose, by
# --hypothesis-profile=search, and not in the run of somebody who changed something else.
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No setting of the machine that runs the tests reaches them."""
    for name in list(os.environ):
        ours = name.startswith(("OLLAMA_", "URISK_", "SSL_CERT_")) or name.endswith("_CA_BUNDLE")
        if ours and not name.startswith("URISK_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("URISK_JOURNAL", "off")


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """A journal of the test's own, of which nothing is known yet in this process."""
    from urisk_nb import process_state

    path = tmp_path / "journal" / "journal.sqlite3"
    monkeypatch.setenv("URISK_JOURNAL", str(path))
    process_state.forget("priors")
    return path


@pytest.fixture
def no_pauses(monkeypatch):
    """A run does not wait between two attempts."""
    from urisk_nb.llm import run_calls

    for name in ("FIRST_PAUSE_S", "CRASH_PAUSE_S", "PROBE_PAUSE_S"):
        monkeypatch.setattr(run_calls, name, 0.001)


@pytest.fixture(autouse=True)
def no_leaks(request):
    """
    No test leaves a process or a thread of its own behind; the package's one loop thread may stay,
    and tqdm's.
    """
    if {"kernel", "fake_ollama", "jupyter"} & set(request.fixturenames):
        yield  # these live longer than one test, and their own fixtures end them
        return
    before, threads = children(), set(threading.enumerate())
    yield
    eventually(lambda: children() <= before, 3, f"end of processes started by {request.node.name}")

    def left():
        alive = {thread for thread in threading.enumerate() if thread.is_alive()} - threads
        # The loop keeps the thread in which it looked up a name, and Dask the one that unpacks
        kept = ("asyncio_", "Dask-Offload")
        return {thread for thread in alive if not thread.name.startswith(kept)}

    eventually(
        lambda: {thread.name for thread in left()} <= {"urisk-loop", "tqdm_monitor"},
        3,
        f"end of threads started by {request.node.name}",
    )


def pytest_make_parametrize_id(val, argname):
    """
    Long values and bytes are named by their length. Names go from worker to worker with each
    report, and all workers have to find the same ones: those of random bytes, and of what gzip
    writes with the time in it, would differ.
    """
    if isinstance(val, bytes) or (isinstance(val, str) and len(val) > 200):
        return f"{argname} of {len(val)}"
    return None  # named as ever


def pytest_collection_modifyitems(config, items):
    """
    Where workers share the files, those that may take longest go first: all would wait for one that
    begins last.
    """
    if not hasattr(config, "workerinput"):
        return
    longest_s = {}
    for item in items:
        if mark := item.get_closest_marker("timeout"):
            longest_s[item.path] = max(longest_s.get(item.path, 0), mark.args[0])
    items.sort(key=lambda item: -longest_s.get(item.path, 0))


CRASHED = pytest.StashKey()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """A worker of pytest-xdist ended: with an error, if it crashed."""
    if error:
        node.config.stash[CRASHED] = True


def pytest_sessionfinish(session):
    """A crash is no failed test: the gate of CI would run that once more, and forget it."""
    if session.config.stash.get(CRASHED, False):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def pytest_collection_finish():
    """
    The thousands of collected tests are not looked through for garbage again and again. Objects
    without cycles end as early as ever.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture
def figure(request):
    """
    Show a measured figure (seconds where nothing else is said) after the run; the test's own limit
    is generous.
    """
    marks = [f"row {mark.args[0]}" for mark in request.node.iter_markers("row")]

    def show(what, value):
        # What a report carries is all that comes from a worker of pytest-xdist
        request.node.user_properties.append(("figure", (", ".join(marks), what, float(value))))

    return show


def pytest_terminal_summary(terminalreporter):
    figures = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"  # the last one has what all of them have
        for name, value in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("figures")
        for rows, what, value in sorted(map(tuple, figures)):
            terminalreporter.write_line(f"{rows:>8}  {what}: {value:.3g}")


@pytest.fixture
def fake_ollama_with(tmp_path):
    """Start a fake Ollama with a scenario (a dict, as its --scenario file takes it)."""
    started = []

    def start(scenario=None, *arguments):
        if scenario is not None:
            path = tmp_path / f"scenario{len(started)}.json"
            path.write_text(json.dumps(scenario))
            arguments = ("--scenario", str(path), *arguments)
        started.append(FakeOllama(*arguments))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def fake_ollama():
    """One fake Ollama for the tests of a module."""
    server = FakeOllama()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def kernel():
    """One kernel with the extension loaded, for the tests of a module."""
    machine = Kernel()
    machine.good("%load_ext urisk_nb")
    yield machine
    machine.stop()


@pytest.fixture
def new_kernel():
    """Start kernels of one's own."""
    started = []

    def start(env=None, cwd=None):
        started.append(Kernel(env, cwd))
        return started[-1]

    yield start
    for machine in started:
        machine.stop()


@pytest.fixture(scope="session")
def demo_model():
    """The real demo model, fetched once for the session into a folder that outlives it."""
    import fcntl

    from urisk_nb.embedded import weights

    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "urisk-nb-tests"
    folder = Path(os.environ.get("URISK_TEST_WEIGHTS", default))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "fetch.lock").open("w") as lock:  # the other workers wait, and find it there
        fcntl.flock(lock, fcntl.LOCK_EX)
        return weights.fetch(folder)


@pytest.fixture
def run_folder():
    """An XDG_RUNTIME_DIR of a test's own, for locks, logs and sockets."""
    return short_folder()


@pytest.fixture
def own_places(monkeypatch, tmp_path, run_folder):
    """
    Folders of a test's own for locks, logs and data, and no `ollama` on the PATH but the test's.
    """
    for name in ("data", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def program(tmp_path):
    """Make an `ollama` on the PATH out of Python lines."""

    def make(body, mode=0o755):
        path = tmp_path / "bin" / "ollama"
        path.write_text(f"#!{sys.executable} -I\n{textwrap.dedent(body)}")
        path.chmod(mode)
        return path

    return make


@pytest.fixture
def ollama(own_places, tmp_path):
    """A fake `ollama` on the PATH, whose server has the default model."""
    return OllamaProgram(tmp_path / "bin")
