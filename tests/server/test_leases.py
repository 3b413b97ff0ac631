"""
The server's process, with real processes: one guardian for all who use it, shares that end with
their holders, nothing left behind.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from fake_ollama_env import gone
from harness import alive, children, eventually
from lease_holders import exit_of, holder, leave, runner_of, settings, stubborn, version
from urisk_nb import event_loop
from urisk_nb.errors import ServerStartFailed
from urisk_nb.server import guardian, leases
from urisk_nb.server import runtime_dir as place_module
from urisk_nb.settings import Engine

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
pytestmark = pytest.mark.usefixtures("ollama")
SECOND = 1.0


# Its life -----------------------------------------------------------------------------------------


def test_a_server_starts_answers_and_stops(start):
    """
    The fake Ollama as a process: it answers while a share is held, and ends with the last one,
    within a second.
    """
    given = settings()
    lease = start(Engine.OLLAMA, given)
    assert eventually(lambda: version(given), 10) == "0.33.0"
    assert lease.is_starter
    assert (lease.engine, lease.facts["slots"], lease.exit) == (Engine.OLLAMA, 1, None)
    server, keeper = lease.server_pid, lease.guardian
    assert {server} == children(keeper)
    began = time.monotonic()
    leave(lease)
    assert time.monotonic() - began < SECOND
    assert lease.exit.code == 0
    assert not alive(server)
    assert not alive(keeper)
    assert version(given) is None
    leave(lease)


@LINUX
def test_a_server_lives_apart_from_us(start):
    """
    Its own session and group, a neutral folder, no input, and a log that only this user can read.
    """
    given = settings()
    lease = start(Engine.OLLAMA, given)
    eventually(lambda: version(given), 10)
    server, log = lease.server_pid, Path(lease.facts["log"])
    assert os.getsid(server) == os.getpgid(server) == server
    links = {
        name: str(Path(f"/proc/{server}/{name}").readlink())
        for name in ("cwd", "fd/0", "fd/1", "fd/2")
    }
    assert links == {"cwd": "/", "fd/0": "/dev/null", "fd/1": str(log), "fd/2": str(log)}
    assert log.stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in (log.parent, log.parent.parent)} == {0o700}
    assert os.getsid(lease.guardian) == lease.guardian
    sockets = [
        path
        for path in Path(f"/proc/{server}/fd").iterdir()
        if int(path.name) > 2 and str(path.readlink()).endswith("g.sock")
    ]
    assert sockets == [], "the server holds nothing of its guardian's"


@LINUX
def test_a_guardian_is_small(start, figure):
    """It is one more process for as long as there is a server: it must not weigh."""
    lease = start(Engine.OLLAMA, settings())
    status = Path(f"/proc/{lease.guardian}/status").read_text()
    held = int(status.split("VmRSS:")[1].split()[0]) / 1024
    figure("guardian, MB resident", held)
    assert held < 20


@pytest.mark.slow
@LINUX
def test_an_interrupt_of_our_group_does_not_reach_it():
    """
    What a notebook's stop button sends to the kernel's whole group leaves server and guardian
    alone.
    """
    given = settings()
    with holder(
        given,
        "import signal; signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))",
    ) as (other, server):
        eventually(lambda: version(given), 10)
        os.killpg(other.pid, signal.SIGINT)
        assert other.stdout.readline() == "interrupted\n"
        assert version(given) == "0.33.0"
        other.communicate("\n", timeout=5)
        assert other.returncode == 0
    eventually(lambda: not alive(server), SECOND)


@pytest.mark.timing
@pytest.mark.slow
@LINUX
@pytest.mark.row(26)
@pytest.mark.parametrize("ignores", [False, True], ids=["ends on SIGTERM", "ignores SIGTERM"])
def test_stopping_ends_the_runner_too(ignores, program, start, figure):
    """
    A server that does not listen is killed after its grace, and the process that holds the model
    goes with it, within a second.
    """
    stubborn(program, ignores)
    lease = start(Engine.OLLAMA, settings())
    runner = runner_of(lease)
    began = time.monotonic()
    leave(lease)
    figure(f"stop, SIGTERM {'ignored' if ignores else 'heeded'}", time.monotonic() - began)
    assert time.monotonic() - began < SECOND
    assert lease.exit.code == (-signal.SIGKILL if ignores else -signal.SIGTERM)
    assert not alive(lease.server_pid)
    assert not alive(runner)


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize("apart", [False, True], ids=["in its group", "in a session of its own"])
def test_a_crash_is_told_and_leaves_no_runner(apart, program, start):
    """
    A server that crashed leaves its runner with the memory: it is ended, its holders are told with
    the log's last words.
    """
    stubborn(program, leaves=0.3, apart=apart)
    lease = start(Engine.OLLAMA, settings())
    told = []
    lease.on_end = told.append
    runner = runner_of(lease)
    assert alive(runner)
    assert exit_of(lease).code == 3
    assert lease.exit.words == f"runner {runner}"
    assert told == [lease.exit]
    gone([runner])
    assert event_loop.run(leases.join(place_module.folder(settings()))) is None


# Shares -------------------------------------------------------------------------------------------


@pytest.mark.timing
@pytest.mark.slow
def test_the_last_share_ends_the_server(start):
    """
    Two processes use one server; the starter's orderly leaving does not touch the other, whose
    leaving ends it.
    """
    given = settings()
    lease = start(Engine.OLLAMA, given)
    eventually(lambda: version(given), 10)
    with holder(given) as (other, server):
        assert server == lease.server_pid
        began = time.monotonic()
        leave(lease)
        assert time.monotonic() - began < SECOND / 2
        assert version(given)
        other.communicate("\n", timeout=5)
    eventually(lambda: not alive(server), SECOND)
    eventually(lambda: not alive(lease.guardian), SECOND)


@pytest.mark.slow
@pytest.mark.row(17)
def test_a_fork_that_outlives_its_parent_holds_nothing(figure):
    """
    A forked child has a copy of the connection; the life of the process that it was made for is
    what counts.
    """
    given = settings()
    with holder(
        given,
        "pid = os.fork()\n    if not pid:\n        import time; time.sleep(60); os._exit(0)\n    "
        "print(pid, flush=True)",
    ) as (other, server):
        child = int(other.stdout.readline())
        eventually(lambda: version(given), 10)
        other.kill()
        other.wait(5)
        began = time.monotonic()
        eventually(lambda: not alive(server), SECOND)
        figure("server gone while a fork holds the socket", time.monotonic() - began)
        assert alive(child)
        os.kill(child, signal.SIGKILL)


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.row(29)
def test_twelve_who_start_at_once_get_one_server(figure):
    """Whoever is first starts it; all hold a share in the same one."""
    given = settings()
    began = time.monotonic()
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(12) as pool:
        holders = list(pool.map(lambda _: stack.enter_context(holder(given)), range(12)))
        figure("twelve starters, all with a share", time.monotonic() - began)
        servers = {server for _, server in holders}
        assert len(servers) == 1
        assert (
            len(
                {
                    pid
                    for pid in Path("/proc").iterdir()
                    if pid.name.isdigit() and guarded(pid, given)
                }
            )
            == 1
        )
    eventually(lambda: not any(map(alive, servers)), SECOND)


def guarded(process_folder, given):
    with contextlib.suppress(OSError):
        words = (process_folder / "cmdline").read_bytes()
        return b"guardian.py" in words and str(given.port).encode() in words
    return False


@pytest.mark.slow
@pytest.mark.row(30)
def test_a_share_taken_while_the_last_is_given_back_is_in_a_live_server(program, figure):
    """
    The old server is slow to stop: whoever comes in between gets the next one, never the dying one.
    Twelve times of twelve.
    """
    program("""
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.15), sys.exit(0)))
        print("up", file=sys.stderr, flush=True)
        while True:
            time.sleep(1)
    """)
    given = settings()

    async def up(lease):
        while "up" not in Path(lease.facts["log"]).read_text():  # noqa: ASYNC240  a short file
            await asyncio.sleep(0.005)

    async def again():
        lease = await leases.start(Engine.OLLAMA, given)
        await up(lease)
        for _ in range(12):
            leaving = asyncio.create_task(lease.leave())
            await asyncio.sleep(0)
            following = await leases.start(Engine.OLLAMA, given)
            assert following.server_pid != lease.server_pid
            assert not alive(lease.server_pid)
            assert alive(following.server_pid)
            await leaving
            await up(following)
            lease = following
        await lease.leave()

    began = time.monotonic()
    event_loop.run(again())
    figure("one hand-over with a server that takes 0.15 s to stop", (time.monotonic() - began) / 12)


@pytest.mark.row(31)
def test_who_meets_a_guardian_that_is_about_to_end_starts_anew(start):
    """
    A connection without an answer is no share: it is tried again under the lock, and gets a server.
    """
    given = settings()
    place = place_module.folder(given)
    with socket.socket(socket.AF_UNIX) as ending:
        ending.bind(str(place / "g.sock"))
        ending.listen()
        assert eventually(lambda: joined_after(ending, place), 5) == "no share"
    lease = start(Engine.OLLAMA, given)
    assert eventually(lambda: version(given), 10)
    assert lease.is_starter


def joined_after(listener, place):
    """What somebody gets who connects to a guardian that closes the connection without a word."""

    async def meet():
        joining = asyncio.create_task(leases.join(place))
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        connection.close()
        return "no share" if await joining is None else "a share"

    listener.setblocking(False)
    return event_loop.run(meet())


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_server_can_be_kept_for_who_comes_back(comes_back, start):
    """For the time that was asked for and no longer; who joins in time finds the same process."""
    given = settings()
    lease = start(Engine.OLLAMA, given)
    server = lease.server_pid
    eventually(lambda: version(given), 10)
    leave(lease, keep_s=30 if comes_back else 0.3)
    assert alive(server)
    if comes_back:
        back = start(Engine.OLLAMA, given)
        assert (back.server_pid, back.is_starter) == (server, False)
        leave(back)
    eventually(lambda: not alive(server), SECOND)


def test_what_is_kept_for_one_is_not_ended_by_another(start):
    """
    One kernel restarts and will come back; the other one ends meanwhile: the server waits for the
    first.
    """
    given = settings()
    restarting, other = start(Engine.OLLAMA, given), start(Engine.OLLAMA, given)
    leave(restarting, keep_s=30)
    leave(other)
    back = start(Engine.OLLAMA, given)
    assert (back.server_pid, back.is_starter) == (restarting.server_pid, False)
    leave(back)
    eventually(lambda: not alive(back.server_pid), SECOND)


@pytest.mark.slow
@LINUX
@pytest.mark.row(27)
@pytest.mark.parametrize("ignores", [False, True], ids=["ends on SIGTERM", "ignores SIGTERM"])
def test_a_killed_guardian_takes_the_server_along(ignores, program, start, figure):
    """
    Nobody is left to look after it: the system ends the server, and who held a share ends the rest
    of its group.
    """
    stubborn(program, ignores)
    lease = start(Engine.OLLAMA, settings())
    runner = runner_of(lease)
    os.kill(lease.guardian, signal.SIGKILL)
    began = time.monotonic()
    assert exit_of(lease).code is None
    eventually(lambda: not alive(lease.server_pid) and not alive(runner), 2)
    figure(
        f"server and runner gone after the guardian's death, SIGTERM "
        f"{'ignored' if ignores else 'heeded'}",
        time.monotonic() - began,
    )


@LINUX
@pytest.mark.slow
def test_a_guardian_that_is_killed_with_its_last_holder_leaves_nothing():
    """Nobody of ours is left: the system itself ends the server."""
    given = settings()
    with holder(given, "print(lease.guardian, flush=True)") as (other, server):
        keeper = int(other.stdout.readline())
        eventually(lambda: version(given), 10)
        # So that neither of the two can act on the end of the other
        os.kill(other.pid, signal.SIGSTOP)
        os.kill(keeper, signal.SIGKILL)
        os.kill(other.pid, signal.SIGKILL)
        gone([server])


@pytest.mark.slow
@pytest.mark.row(25)
def test_a_reported_server_is_ended_only_if_it_hangs(start):
    """
    The guardian asks for itself: one that answers it lives on, one that does not is ended, and its
    holders are told.
    """
    given = settings()
    lease = start(Engine.OLLAMA, given)
    eventually(lambda: version(given), 10)
    assert event_loop.run(lease.report_hang(2.0))
    assert version(given)
    os.kill(lease.server_pid, signal.SIGSTOP)
    began = time.monotonic()
    assert not event_loop.run(lease.report_hang(0.3))
    assert exit_of(lease).code is not None
    assert time.monotonic() - began < 0.3 + 2 * SECOND
    assert not alive(lease.server_pid)


@pytest.mark.slow
def test_two_accusers_are_both_told(start):
    """Two kernels wait for one slow server: it answers the guardian, and both go on."""
    given = settings()
    first, second = start(Engine.OLLAMA, given), start(Engine.OLLAMA, given)
    eventually(lambda: version(given), 10)

    async def both():
        return await asyncio.gather(first.report_hang(2.0), second.report_hang(2.0))

    assert event_loop.run(both()) == [True, True]


@pytest.mark.slow
def test_a_share_that_is_dropped_ends_though_a_fork_holds_it():
    """
    A start that is interrupted drops its share without a word: a child with a copy of the
    connection does not keep the server.
    """
    given = settings()
    then = """pid = os.fork()
    if not pid:
        import time; time.sleep(60); os._exit(0)
    print(pid, flush=True)
    sys.stdin.readline()
    event_loop.submit(asyncio.sleep(0)).done.wait()
    async def drop(): lease.drop()
    event_loop.run(drop())"""
    with holder(given, then) as (other, server):
        child = int(other.stdout.readline())
        eventually(lambda: version(given), 10)
        other.stdin.write("\n")
        other.stdin.flush()
        gone([server])
        assert alive(child)
        os.kill(child, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_lock_is_given_back_though_a_fork_holds_its_file():
    """
    A file lock belongs to the file as it was opened, which a child shares: it is given back by
    name.
    """
    place = place_module.folder(settings())

    async def fork_meanwhile():
        async with place_module.start_lock(place):
            if not (child := os.fork()):
                signal.pause()
                os._exit(0)
        try:
            async with asyncio.timeout(2), place_module.start_lock(place):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)  # noqa: ASYNC222  killed a line above

    asyncio.run(fork_meanwhile())


OLD_KERNEL = """
import errno, os, sys
def refused(*_):
    raise OSError(errno.ENOSYS, "not implemented")
os.pidfd_open = refused
sys.path.insert(0, {folder!r})
import guardian
guardian.LOOK_S = 0.1
guardian.main()
"""


@pytest.mark.slow
def test_where_the_system_does_not_tell_of_ends_they_are_looked_for(tmp_path):
    """
    An old kernel, or a sandbox that forbids it: a fork holds the connection, and the holder's end
    is seen all the same.
    """
    wrapped = tmp_path / "old.py"
    wrapped.write_text(OLD_KERNEL.format(folder=str(Path(guardian.__file__).parent)))
    given = settings()
    patch = f"leases.guardian.__file__ = {str(wrapped)!r}"
    with holder(
        given,
        "pid = os.fork()\n    if not pid:\n        import time; time.sleep(60); os._exit(0)\n    "
        "print(pid, flush=True)",
        before=patch,
    ) as (other, server):
        child = int(other.stdout.readline())
        eventually(lambda: version(given), 10)
        other.kill()
        other.wait(5)
        gone([server], 2)
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_guardian_that_does_not_answer_is_waited_for_and_said_so(start, monkeypatch):
    """It is stopped, say: no second server, no process left over, and an error that is about it."""
    monkeypatch.setattr(leases, "LOCK_S", 0.5)
    monkeypatch.setattr(leases, "ANSWER_S", 0.3)
    given = settings()
    lease = start(Engine.OLLAMA, given)
    before = children()
    os.kill(lease.guardian, signal.SIGSTOP)
    try:
        with pytest.raises(ServerStartFailed, match="guardian"):
            event_loop.run(leases.start(Engine.OLLAMA, given))
        eventually(lambda: children() == before, 3)
    finally:
        os.kill(lease.guardian, signal.SIGCONT)
    eventually(lambda: version(given), 10)
