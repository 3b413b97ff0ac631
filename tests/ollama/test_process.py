"""The server's process, with real processes: which one is chosen, how it is started apart from us, and that stopping leaves nothing."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest

from harness import alive, eventually
from urisk_nb.errors import ModelNotFound, OllamaNotInstalled, PackageMissing, ServerNotRunning, ServerStartFailed, SettingsError
from urisk_nb.ollama import process
from urisk_nb.settings import Engine, Settings

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
ROOT = Path(process.__file__).parents[2]


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """Logs and data of a test's own, and no `ollama` but the test's."""
    for name in ("logs", "data", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "logs"))
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
def start():
    """Start an engine; whatever a test does, it is stopped."""
    started = []

    def begin(engine, settings):
        started.append(process.start(engine, settings))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings(**flags):
    return Settings(url=flags.pop("url", f"http://127.0.0.1:{free_port()}"), **flags)


def version(given):
    """What the server at the address says it is, or None."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{given.url}/api/version", timeout=2) as reply:
        return json.load(reply)["version"]
    return None


# Which engine --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def embedded(monkeypatch):
    """Say whether the embedded engine's package is there, without installing it."""

    def say(there):
        real = process.importlib.util.find_spec
        monkeypatch.setattr(
            process.importlib.util, "find_spec", lambda name: (object() if there else None) if name == "xllamacpp" else real(name)
        )

    return say


@pytest.fixture
def demo_model(tmp_path):
    """A file with the demo model's name and size, without its content."""
    folder = tmp_path / "weights"
    folder.mkdir()
    with (folder / process.DEMO_MODEL).open("wb") as file:
        file.truncate(process.DEMO_MODEL_BYTES)
    return folder


@pytest.mark.parametrize("engine", list(Engine))
@pytest.mark.parametrize("has_model", [False, True])
@pytest.mark.parametrize("has_package", [False, True])
@pytest.mark.parametrize("has_ollama", [False, True])
def test_the_choice_of_the_engine(engine, has_ollama, has_package, has_model, program, embedded, demo_model, tmp_path):
    """Ollama first, then the embedded engine where it is complete; a named one or its absence; the simulation only by name."""
    if has_ollama:
        program("")
    embedded(has_package)
    given = settings(engine=engine, data=demo_model if has_model else tmp_path / "nothing")
    complete = has_package and has_model
    expected = {
        Engine.AUTO: Engine.OLLAMA if has_ollama else Engine.EMBEDDED if complete else OllamaNotInstalled,
        Engine.OLLAMA: Engine.OLLAMA if has_ollama else OllamaNotInstalled,
        Engine.EMBEDDED: Engine.EMBEDDED if complete else ModelNotFound if has_package else PackageMissing,
        Engine.SIMULATED: Engine.SIMULATED,
    }[engine]
    if isinstance(expected, Engine):
        assert process.choose(given) is expected
        return
    with pytest.raises(expected) as caught:
        process.choose(given)
    ways = {
        OllamaNotInstalled: ("ollama.com/download", "urisk-nb[embedded]", "--engine simulated"),
        PackageMissing: ("urisk-nb[embedded]",),
        ModelNotFound: ("urisk fetch-model", "URISK_GGUF"),
    }[expected]
    assert all(way in caught.value.fix for way in ways)


def test_a_model_file_of_ones_own(embedded, tmp_path):
    """URISK_GGUF is enough; a path that leads nowhere is named, and its package is asked for first."""
    embedded(True)
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    assert process.choose(settings(gguf=file)) is Engine.EMBEDDED
    words = process.command(Engine.EMBEDDED, settings(gguf=file))
    assert words[words.index("--gguf") + 1] == str(file)
    with pytest.raises(SettingsError, match=r"nowhere\.gguf"):
        process.choose(settings(gguf=tmp_path / "nowhere.gguf"))
    embedded(False)
    with pytest.raises(PackageMissing):
        process.choose(settings(gguf=file))


def test_a_half_fetched_demo_model_is_none(tmp_path, demo_model):
    """Only a file of the full size counts, in URISK_DATA or in the user's data folder."""
    assert process.demo_model_path(settings(data=demo_model)) == demo_model / process.DEMO_MODEL
    with (demo_model / process.DEMO_MODEL).open("wb") as file:
        file.truncate(1000)
    assert process.demo_model_path(settings(data=demo_model)) is None
    assert process.demo_model_path(settings(data=tmp_path / "none")) is None
    assert process.data_folder(settings()).name == "urisk_nb"


# What it is started with ---------------------------------------------------------------------------------------------------


def test_the_servers_environment(program):
    """Where to listen, no phoning home, and nothing that would change its runner."""
    base = {"HOME": "/home/u", "LLAMA_API_KEY": "secret", "LLAMA_ARG_CTX_SIZE": "9", "OLLAMA_HOST": "0.0.0.0", "OLLAMA_MODELS": "/m"}
    env = process.environment(Engine.OLLAMA, settings(url="http://localhost:11500"), base)
    assert env == {"HOME": "/home/u", "OLLAMA_MODELS": "/m", "OLLAMA_HOST": "127.0.0.1:11500", "OLLAMA_NO_CLOUD": "1"}
    more = process.environment(Engine.OLLAMA, settings(url="http://[::1]:11500", parallel=3, allow_cloud=True), base)
    assert (more["OLLAMA_HOST"], more["OLLAMA_NUM_PARALLEL"]) == ("[::1]:11500", "3")
    assert "OLLAMA_NO_CLOUD" not in more


def test_the_stand_in_finds_this_package():
    """It runs in another folder, so that its path names the package's parent, before what was set."""
    env = process.environment(Engine.SIMULATED, settings(), {"PYTHONPATH": "/mine"})
    assert env["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/mine"]
    assert "LLAMA_API_KEY" not in process.environment(Engine.EMBEDDED, settings(), {"LLAMA_API_KEY": "x"})


def test_the_commands(program, tmp_path, embedded, demo_model):
    """`ollama serve`, or this very Python with the stand-in, its brain and its size."""
    path = program("")
    given = settings(url="http://localhost:11500", parallel=2, num_ctx=2048, data=demo_model)
    place = ["--host", "127.0.0.1", "--port", "11500", "--slots", "2", "--num-ctx", "2048"]
    stand_in = [sys.executable, "-m", "urisk_nb.standin", "--brain"]
    embedded(True)
    assert process.command(Engine.OLLAMA, given) == [str(path), "serve"]
    assert process.command(Engine.SIMULATED, given) == [*stand_in, "scripted", *place]
    weights = str(demo_model / process.DEMO_MODEL)
    assert process.command(Engine.EMBEDDED, given) == [*stand_in, "llamacpp", "--gguf", weights, *place]


# Its life ------------------------------------------------------------------------------------------------------------------


def test_a_server_starts_answers_and_stops(start):
    """The stand-in as a process: it answers at its address while it runs, and a stop ends it with 0, within a second."""
    given = settings()
    server = start(Engine.SIMULATED, given)
    assert eventually(lambda: version(given), 10) == "0.0.0-urisk-scripted"
    assert server.exit_code is None
    assert server.pid != os.getpid()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 1
    assert server.exit_code == 0
    assert version(given) is None
    server.stop()
    assert server.exit_code == 0


@LINUX
def test_a_server_lives_apart_from_us(start):
    """Its own session and group, a neutral folder, no input, and a log that only this user can read."""
    given = settings()
    server = start(Engine.SIMULATED, given)
    eventually(lambda: version(given), 10)
    assert os.getsid(server.pid) == os.getpgid(server.pid) == server.pid
    links = {name: str(Path(f"/proc/{server.pid}/{name}").readlink()) for name in ("cwd", "fd/0", "fd/1", "fd/2")}
    assert links == {"cwd": "/", "fd/0": "/dev/null", "fd/1": str(server.log), "fd/2": str(server.log)}
    assert server.log.stat().st_mode & 0o777 == 0o600
    assert server.log.parent.stat().st_mode & 0o777 == 0o700


@LINUX
def test_an_interrupt_of_our_group_does_not_reach_it(tmp_path):
    """What a notebook's stop button sends to the kernel's whole group leaves the server alone."""
    port = free_port()
    code = f"""
        import os, signal, sys
        from urisk_nb.ollama import process
        from urisk_nb.settings import Engine, Settings
        server = process.start(Engine.SIMULATED, Settings(url="http://127.0.0.1:{port}"))
        print(server.pid, flush=True)
        try:
            sys.stdin.read()
        except KeyboardInterrupt:
            print(server.exit_code, flush=True)
            sys.stdin.read()
        server.stop()
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], **pipes, env=env, start_new_session=True) as owner:
        pid = int(owner.stdout.readline())
        given = settings(url=f"http://127.0.0.1:{port}")
        eventually(lambda: version(given), 10)
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.stdout.readline() == "None\n"
        assert version(given) == "0.0.0-urisk-scripted"
        owner.stdin.close()
        assert owner.wait(5) == 0
    assert not alive(pid)


STUBBORN = """
    import os, signal, subprocess, sys, time
    if {ignores}:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(0, flush=True); time.sleep(600)"
    runner = subprocess.Popen([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE)
    runner.stdout.readline()
    print("runner", runner.pid, file=sys.stderr, flush=True)
    if {leaves}:
        os._exit(3)
    time.sleep(600)
"""


def runner_of(server):
    return int(eventually(lambda: [line.split()[1] for line in server.tail().splitlines() if line.startswith("runner")], 10)[0])


@LINUX
@pytest.mark.parametrize("ignores", [False, True], ids=["ends on SIGTERM", "ignores SIGTERM"])
def test_stopping_ends_the_runner_too(ignores, program, start):
    """A server that does not listen is killed after its grace, and the process that holds the model goes with it, within a second."""
    program(STUBBORN.format(ignores=ignores, leaves=False))
    server = start(Engine.OLLAMA, settings())
    runner = runner_of(server)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 1
    assert server.exit_code == (-signal.SIGKILL if ignores else -signal.SIGTERM)
    eventually(lambda: not alive(runner), 2, "the end of the runner")


@LINUX
def test_stopping_ends_a_runner_whose_server_is_gone(program, start):
    """A server that crashed leaves its runner with the memory; the stop finds it by its group."""
    program(STUBBORN.format(ignores=False, leaves=True))
    server = start(Engine.OLLAMA, settings())
    runner = runner_of(server)
    eventually(lambda: server.exit_code == 3, 5)
    assert alive(runner)
    server.stop()
    eventually(lambda: not alive(runner), 2, "the end of the runner")


def test_a_second_stop_signals_nobody(start, monkeypatch):
    """Once everything of a server is gone its number may be given to a stranger, who must not be killed."""
    given = settings()
    server = start(Engine.SIMULATED, given)
    eventually(lambda: version(given), 10)
    server.stop()
    sent = []
    monkeypatch.setattr(process.os, "killpg", lambda group, number: sent.append((group, number)))
    server.stop()
    assert sent == []


# What goes wrong -----------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_in_the_tail(start):
    """The words that tell a race from a failure are there when the process has ended."""
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        server = start(Engine.SIMULATED, settings(url=f"http://127.0.0.1:{squatter.getsockname()[1]}"))
        eventually(lambda: server.exit_code == 1, 10)
        assert "bind: address already in use" in server.tail()


def test_the_tail_leaves_out_access_lines_and_is_short(program, start):
    """People see the last lines that say something."""
    program("""
        print("[GIN] 2026/08/22 - 10:00:00 | 200 | 1ms | 127.0.0.1 | GET \\"/api/version\\"")
        print("[GIN-debug] GET /api/tags")
        for number in range(40):
            print("line", number)
            print("   ")
    """)
    server = start(Engine.OLLAMA, settings())
    eventually(lambda: server.exit_code == 0, 10)
    assert server.tail().splitlines() == [f"line {number}" for number in range(28, 40)]
    server.log.unlink()
    assert server.tail() == ""


def test_each_start_has_a_log_of_its_own(program, start):
    """What an earlier server wrote is not taken for this one's words."""
    given = settings()
    program("print('first')")
    first = start(Engine.OLLAMA, given)
    eventually(lambda: first.exit_code == 0, 10)
    program("print('second')")
    second = start(Engine.OLLAMA, given)
    eventually(lambda: second.exit_code == 0, 10)
    assert second.tail() == "second"


def test_the_loser_of_a_race_has_its_own_words(program, start):
    """Two kernels start at once; the one that finds the port taken must see so in its own log, whoever came second."""
    given = settings()
    program("import sys; print('Error: listen tcp: bind: address already in use', file=sys.stderr); sys.exit(1)")
    loser = start(Engine.OLLAMA, given)
    eventually(lambda: loser.exit_code == 1, 10)
    program("print('Listening')")
    code = f"""
        from urisk_nb.ollama import process
        from urisk_nb.settings import Engine, Settings
        winner = process.start(Engine.OLLAMA, Settings(url={given.url!r}))
        winner._popen.wait()
        print(winner.tail())
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout == "Listening\n"
    assert "address already in use" in loser.tail()


def test_a_program_that_cannot_run_is_a_failed_start(tmp_path, program):
    """A file that is no program, and a place for logs that is none, are errors of ours with their cause."""
    path = program("")
    path.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(ServerStartFailed, match="cannot be started") as caught:
        process.start(Engine.OLLAMA, settings())
    assert isinstance(caught.value.__cause__, OSError)
    program("")
    shutil.rmtree(tmp_path / "logs" / f"urisk-{os.getuid()}")
    (tmp_path / "logs" / f"urisk-{os.getuid()}").write_text("a file where the folder should be")
    with pytest.raises(ServerStartFailed, match="cannot be started") as caught:
        process.start(Engine.OLLAMA, settings())
    assert isinstance(caught.value.__cause__, FileExistsError)


def test_a_log_folder_that_leads_elsewhere_is_not_used(tmp_path, monkeypatch, program, start):
    """Somebody may have put a link where our folder would be: the log goes to a fresh one."""
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path / "data"))
    (tmp_path / "logs" / f"urisk-{os.getuid()}").symlink_to(tmp_path / "bin")
    program("print('hello')")
    server = start(Engine.OLLAMA, settings())
    eventually(lambda: server.exit_code == 0, 10)
    assert server.log.parent.parent == tmp_path / "data"
    assert server.log.parent.stat().st_mode & 0o777 == 0o700
    assert server.tail() == "hello"


def test_on_windows_nothing_is_started(monkeypatch):
    """A running server is used there; the message says what to do."""
    given = settings()
    with monkeypatch.context() as patch:
        patch.setattr(process.os, "name", "nt")
        with pytest.raises(ServerNotRunning) as caught:
            process.start(Engine.SIMULATED, given)
    assert "start Ollama" in caught.value.fix


# Whose server --------------------------------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_owner_of_a_port_is_known(family, address):
    """The kernel tells whose process listens, over both protocols; nobody listening is nobody's."""
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        port = listener.getsockname()[1]
        assert process.owner_uid(port) is None
        listener.listen()
        assert process.owner_uid(port) == os.getuid()
        with socket.create_connection((address, port)) as talker:
            assert process.owner_uid(talker.getsockname()[1]) is None, "talks, does not listen"
    assert process.owner_uid(port) is None


def test_the_owner_is_unknown_where_the_system_does_not_tell(monkeypatch):
    """Without these tables nothing is claimed."""
    monkeypatch.setattr(process, "Path", lambda name: Path("/nowhere") / name.lstrip("/"))
    assert process.owner_uid(1) is None
