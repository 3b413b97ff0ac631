"""
The server's process when something is wrong: what was left behind, programs that cannot run,
folders that cannot be used.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness import alive, eventually, free_port, short_folder
from lease_holders import exit_of, holder, leave, settings, version
from urisk_nb import event_loop
from urisk_nb.errors import HomeNotWritable, ProgramBroken, ServerNotRunning, ServerStartFailed
from urisk_nb.server import guardian, leases
from urisk_nb.server import runtime_dir as place_module
from urisk_nb.settings import Engine

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
pytestmark = [pytest.mark.usefixtures("ollama"), pytest.mark.slow]
SECOND = 1.0


# What was left behind -----------------------------------------------------------------------------


def orphan(place, began=None):
    """A server in a group of its own, written down by a guardian that is no more."""
    server = subprocess.Popen(
        [sys.executable, "-I", "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    state = {
        "version": guardian.STATE_VERSION,
        "guardian": 1,
        "server": server.pid,
        "created": began or guardian.process_start_time(server.pid),
    }
    (place / "state.json").write_text(json.dumps({**state, "port": 1}))
    return server


def test_an_orphan_of_a_killed_guardian_is_ended_at_the_next_start(start):
    """Where the system does not end it (macOS), the next start does."""
    given = settings()
    with orphan(place_module.folder(given)) as server:
        start(Engine.OLLAMA, given)
        assert server.wait(5) == -signal.SIGTERM


@pytest.mark.row(49)
@pytest.mark.parametrize("state", ["another's", "nonsense", "[]", '{"server": "x", "created": 1}'])
def test_a_stale_record_harms_nobody(state, start):
    """
    The number was given to another program since: that is seen by when it began. A record that
    cannot be read is none.
    """
    given = settings()
    place = place_module.folder(given)
    with orphan(place, began="another boot/1") as stranger:
        if state != "another's":
            (place / "state.json").write_text(state)
        lease = start(Engine.OLLAMA, given)
        assert eventually(lambda: version(given), 10)
        assert stranger.poll() is None
        assert json.loads((place / "state.json").read_text())["server"] == lease.server_pid
        stranger.kill()


# What goes wrong ----------------------------------------------------------------------------------


def test_a_taken_port_is_in_the_last_words(start):
    """The words that tell a race from a failure come with the exit."""
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        lease = start(Engine.OLLAMA, settings(url=f"http://127.0.0.1:{squatter.getsockname()[1]}"))
        assert exit_of(lease).code == 1
        assert "bind: address already in use" in lease.exit.words


def test_the_last_words_leave_out_access_lines_and_are_short(program, start):
    """People see the last lines that say something."""
    program("""
        print("[GIN] 2026/08/22 - 10:00:00 | 200 | 1ms | 127.0.0.1 | GET \\"/api/version\\"")
        print("[GIN-debug] GET /api/tags")
        for number in range(40):
            print("line", number)
            print("   ")
    """)
    seen = exit_of(start(Engine.OLLAMA, settings()))
    assert seen.code == 0
    assert seen.words.splitlines() == [f"line {number}" for number in range(28, 40)]


def test_last_words_that_are_no_text_are_heard(program, start):
    """Whatever a server writes, how it ended arrives."""
    program("import os, sys; os.write(2, bytes(range(256)) * 100 + b'\\nthe end\\n'); sys.exit(4)")
    seen = exit_of(start(Engine.OLLAMA, settings()))
    assert (seen.code, seen.words.splitlines()[-1]) == (4, "the end")


def test_each_start_has_its_own_last_words(program, start):
    """What an earlier server wrote is not taken for this one's; it can still be read."""
    given = settings()
    program("print('first')")
    assert exit_of(start(Engine.OLLAMA, given)).words == "first"
    program("print('second')")
    second = start(Engine.OLLAMA, given)
    assert exit_of(second).words == "second"
    assert Path(second.facts["log"]).with_name("server.1.log").read_text() == "first\n"


@pytest.mark.row(35)
@pytest.mark.parametrize(
    ("content", "mode"),
    [(b"\x7fELF nonsense", 0o755), (b"", 0o644)],
    ids=["no program", "may not be run"],
)
def test_a_program_that_cannot_run_is_said_so(content, mode, program):
    """A file that is no program, and one that may not be run, with the system's own words."""
    path = program("")
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(
        ProgramBroken, match=r"cannot be run: (Exec format error|Permission denied|No such file)"
    ) as caught:
        event_loop.run(leases.start(Engine.OLLAMA, settings()))
    assert "reinstall" in caught.value.fix


def test_a_home_that_cannot_be_written_is_said_so(program, start):
    """Ollama's own words are about a folder; the way out is another one."""
    program(
        "import sys; print('Error: mkdir /nowhere/.ollama: permission denied', file=sys.stderr); "
        "sys.exit(1)"
    )
    seen = exit_of(start(Engine.OLLAMA, settings()))
    failed = leases.start_error(Engine.OLLAMA, seen)
    assert isinstance(failed, HomeNotWritable)
    assert "HOME=" in failed.fix
    assert "/nowhere/.ollama" in failed.message


@pytest.mark.row(50)
@pytest.mark.parametrize("trouble", ["missing", "too long", "a file", "a link", "open to others"])
def test_a_runtime_folder_that_cannot_be_used_is_passed_over(
    trouble, run_folder, monkeypatch, start
):
    """Then the folder for temporary files does; servers are shared there, too."""
    monkeypatch.setattr(place_module.tempfile, "tempdir", None)
    temporary = short_folder()
    monkeypatch.setenv("TMPDIR", str(temporary))
    spoil(trouble, run_folder, monkeypatch)
    given = settings()
    place = place_module.folder(given)
    assert place.parent == temporary / f"urisk-{os.getuid()}"
    assert place.stat().st_mode & 0o777 == 0o700
    lease = start(Engine.OLLAMA, given)
    with holder(given) as (_, server):
        assert server == lease.server_pid


def spoil(trouble, run_folder, monkeypatch):
    ours = run_folder / f"urisk-{os.getuid()}"
    if trouble == "missing":
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_folder / "gone"))
    elif trouble == "too long":
        deep = run_folder / ("x" * 90)
        deep.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    elif trouble == "a file":
        ours.write_text("")
    elif trouble == "a link":
        ours.symlink_to(short_folder())
    else:
        ours.mkdir(mode=0o777)
        ours.chmod(0o777)


@pytest.mark.row(50)
def test_without_any_folder_the_server_is_ours_alone(monkeypatch, start):
    """It is kept as well as ever: it ends with us. Only, nobody else can join."""
    monkeypatch.setattr(place_module, "_is_private", lambda _: False)
    given = settings()
    lease = start(Engine.OLLAMA, given)
    assert eventually(lambda: version(given), 10)
    assert lease.facts["log"] == ""
    then = """from urisk_nb.server import runtime_dir
    print(bool(runtime_dir.folder(Settings(url='http://127.0.0.1:1'))), flush=True)"""
    with holder(given, then) as (other, server):
        assert server != lease.server_pid
        assert other.stdout.readline() == "True\n"
    leave(lease)
    assert not alive(lease.server_pid)


def test_an_unshared_server_ends_with_a_killed_holder(monkeypatch):
    """Without a folder too, the life of the process is what counts."""
    given = settings()
    then = f"""from urisk_nb.server import runtime_dir
    runtime_dir._is_private = lambda _: False
    alone = event_loop.run(leases.start(Engine.OLLAMA, Settings(url='http://127.0.0.1:{free_port()}')))
    print(alone.server_pid, flush=True)"""
    with holder(given, then) as (other, server):
        alone = int(other.stdout.readline())
        assert alive(alone)
        other.kill()
        eventually(lambda: not alive(alone) and not alive(server), SECOND)


def test_on_windows_nothing_is_started(monkeypatch):
    """A running server is used there; the message says what to do."""
    given = settings()
    with monkeypatch.context() as patch:
        patch.setattr(leases.os, "name", "nt")
        with pytest.raises(ServerNotRunning) as caught:
            asyncio.run(leases.start(Engine.OLLAMA, given))
    assert "start Ollama" in caught.value.fix


def test_a_start_of_another_kernel_that_does_not_end_is_said_so(monkeypatch):
    """Nobody waits for ever for a lock."""
    monkeypatch.setattr(place_module, "LOCK_S", 0.2)
    given = settings()
    with (place_module.folder(given) / "start.lock").open("a") as file:
        place_module.fcntl.flock(file, place_module.fcntl.LOCK_EX)
        with pytest.raises(ServerStartFailed, match="another kernel has been starting"):
            event_loop.run(leases.start(Engine.OLLAMA, given))


def test_what_does_not_speak_the_language_has_no_share(start):
    """Nonsense over the socket ends its connection and nothing else."""
    given = settings()
    lease = start(Engine.OLLAMA, given)
    eventually(lambda: version(given), 10)
    for words in (b"nonsense\n", b"[]\n", b'{"pid": "x"}\n', b'{"pid": 999999999}\n', b"x" * 9000):
        with socket.socket(socket.AF_UNIX) as talker:
            talker.connect(str(place_module.folder(given) / "g.sock"))
            talker.settimeout(5)
            talker.sendall(words)
            with contextlib.suppress(ConnectionError):
                assert talker.recv(10) == b""
    assert version(given)
    leave(lease)
    assert not alive(lease.server_pid)
