"""
The calls of a run against a scripted server: who is waited for, who is asked again, and who is
blamed. No socket, and pauses of milliseconds.
"""

import asyncio
from types import SimpleNamespace

import pytest

from urisk_nb import errors
from urisk_nb.llm import run_calls
from urisk_nb.llm.run_calls import CallFailed, Outage, RunCalls

pytestmark = pytest.mark.usefixtures("no_pauses")


def error(kind, **facts):
    return kind("seen", fix="do", **facts)


class Scripted:
    """A server: each call takes some steps of the loop, and ends as its script says."""

    def __init__(self, budget_s=5.0, up=(), **scripts):
        self.scripts = {name: list(script) for name, script in scripts.items()}
        self.up, self.asked, self.probes, self.outages = list(up), [], 0, []
        self.in_flight, self.beside = 0, {}
        self.crashed = asyncio.Event()
        self.calls = RunCalls(lambda: budget_s, self.is_up, self.outages.append)

    async def is_up(self):
        self.probes += 1
        seen = self.up.pop(0) if self.up else True
        if isinstance(seen, BaseException):
            raise seen
        return seen

    async def ask(self, name):
        self.asked.append(name)
        self.in_flight += 1
        self.beside.setdefault(name, []).append(self.in_flight - 1)
        crashed = self.crashed
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            seen = self.scripts[name].pop(0) if self.scripts.get(name) else name
            if isinstance(seen, errors.RunnerCrashed):  # all answers in progress end with it
                self.crashed = asyncio.Event()
                crashed.set()
            await asyncio.sleep(0)
            if crashed.is_set():
                raise error(errors.RunnerCrashed)
            if isinstance(seen, BaseException):
                raise seen
            return seen
        finally:
            self.in_flight -= 1

    async def call(self, name):
        try:
            return await self.calls.call(lambda: self.ask(name))
        except CallFailed as exc:
            return exc.error, exc.attempts


def drive(make, *names):
    async def main():
        server = make()
        return server, await asyncio.gather(*(server.call(name) for name in names))

    return asyncio.run(asyncio.wait_for(main(), 10))


def crash():
    return error(errors.RunnerCrashed)


def test_a_good_call_is_made_once():
    server, results = drive(Scripted, "a", "b")
    assert results == [("a", 0), ("b", 0)]
    assert (server.asked, server.probes, server.outages) == (["a", "b"], 0, [])


@pytest.mark.parametrize("kind", [errors.ServerBusy, errors.ServerNotRunning, errors.CircuitOpen])
def test_a_server_that_is_away_is_waited_for(kind):
    """However often it refuses within the budget; then the outage is over."""
    server, results = drive(lambda: Scripted(a=[error(kind) for _ in range(4)], up=[False]), "a")
    assert results == [("a", 4)]
    assert [str(one).partition(",")[0] for one in server.outages[-1:]] == ["None"]
    assert all(isinstance(one.error, kind) for one in server.outages if one)


def test_one_call_alone_tries_a_server_that_is_away():
    """Ten calls do not come back at once to a server that has just come back."""
    names = [f"c{number}" for number in range(10)]
    scripts = {name: [error(errors.ServerBusy)] for name in names}
    server, results = drive(lambda: Scripted(**scripts), *names)
    assert results == [(name, 1) for name in names]
    first_again = server.asked[10]
    assert server.beside[first_again][1] == 0


@pytest.mark.parametrize("kind", [errors.ServerBusy, errors.ServerNotRunning])
def test_a_budget_that_is_spent_fails_the_call(kind):
    """The calls after it are not waited for again."""

    async def main():
        away = [error(kind) for _ in range(500)]
        scripts = {name: list(away) for name in "abc"}
        server = Scripted(budget_s=0.05, up=[False] * 9999, **scripts)
        results = await asyncio.gather(server.call("a"), server.call("b"))
        probes = server.probes
        results.append(await server.call("c"))
        return results, server.probes - probes, server.asked

    results, probes, asked = asyncio.run(asyncio.wait_for(main(), 10))
    assert all(isinstance(seen, kind) for seen, _ in results)
    assert (probes, asked.count("c")) == (1, 0)


def test_a_crash_is_put_down_to_its_own_call():
    """
    Four in flight are lost with the runner. Each is made again alone until the culprit is found;
    it has had two attempts, and the others have their answers.
    """
    server, results = drive(lambda: Scripted(c=[crash(), crash(), crash()]), *"abcd")
    assert [seen for seen, _ in results if not isinstance(seen, Exception)] == ["a", "b", "d"]
    assert isinstance(results[2][0], errors.RunnerCrashed)
    assert server.asked.count("c") == 2
    assert server.beside["c"][1] == 0  # alone
    assert all(server.asked.count(name) == 2 for name in "abd")


def test_a_kill_during_the_second_attempt_convicts_nobody():
    """The runner ended under it, then its server was killed: two accidents of two kinds."""
    script = [error(errors.RunnerCrashed), error(errors.ServerConnectionLost)]
    server, results = drive(lambda: Scripted(a=script), "a", "b")
    assert results[0] == ("a", 2)
    assert server.beside["a"][1:] == [0, 0]


@pytest.mark.parametrize("kind", [errors.ServerConnectionLost, errors.StreamInterrupted])
def test_a_server_that_somebody_restarts_convicts_nobody(kind):
    """However often it hits the same call: the server's own exit says that no call was to blame."""
    script = [error(kind, ended_from_outside=True) for _ in range(4)]
    server, results = drive(lambda: Scripted(a=script), "a", "b")
    assert results == [("a", 4), ("b", 0)]
    assert {str(one.error.message) for one in server.outages if one} == {"seen"}


def test_two_culprits_in_one_crash_are_both_found():
    scripts = {name: [crash() for _ in range(5)] for name in "bc"}
    _, results = drive(lambda: Scripted(**scripts), *"abcdef")
    assert [isinstance(seen, Exception) for seen, _ in results] == [
        name in "bc" for name in "abcdef"
    ]


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [
        (errors.RunnerCrashed, 2),
        (errors.ServerConnectionLost, 2),
        (errors.StreamInterrupted, 2),
        (errors.ServerHung, 2),
        (errors.ServerInternalError, 2),
        (errors.ServerTimeout, 2),
        (errors.AnswerIncomplete, 2),
        (errors.ProtocolError, 2),
        (errors.ContextExceeded, 1),
        (errors.BadRequest, 1),
        (errors.AccessDenied, 1),
    ],
)
def test_a_call_that_fails_is_made_once_more(kind, attempts):
    """Where that can help; the others go on."""
    server, results = drive(lambda: Scripted(a=[error(kind) for _ in range(9)]), "a", "b")
    assert isinstance(results[0][0], kind)
    assert results[0][1] == server.asked.count("a") == attempts
    assert results[1][0] == "b"


@pytest.mark.parametrize(
    "kind", [errors.ServerCrashLoop, errors.ModelNotFound, errors.OutOfMemory, errors.PortTaken]
)
def test_what_no_wait_can_cure_ends_the_run(kind):
    with pytest.raises(kind):
        drive(lambda: Scripted(a=[error(kind)]), "a", "b")


def test_a_server_that_cannot_be_started_again_ends_the_wait():
    lost = [error(errors.ServerConnectionLost)]
    with pytest.raises(errors.ServerCrashLoop):
        drive(lambda: Scripted(a=lost, up=[False, error(errors.ServerCrashLoop)]), "a")


def test_a_cancel_ends_the_wait_at_once():
    async def main():
        server = Scripted(budget_s=600, a=[error(errors.ServerNotRunning)], up=[False] * 9999)
        call = asyncio.create_task(server.call("a"))
        while not server.probes:
            await asyncio.sleep(0.001)
        began_s = asyncio.get_running_loop().time()
        call.cancel()
        await asyncio.wait({call})
        return call.cancelled(), asyncio.get_running_loop().time() - began_s

    was_cancelled, took_s = asyncio.run(main())
    assert was_cancelled
    assert took_s < 0.2


def test_the_server_says_when_to_come_back():
    """Within the budget: a Retry-After of an hour is not waited for."""
    calls = RunCalls(lambda: 7.0, lambda: None)
    busy = error(errors.ServerBusy, retry_after_s=2.0)
    assert calls._pause_s(busy, 1) >= 2.0
    assert calls._pause_s(error(errors.ServerBusy, retry_after_s=3600.0), 1) <= 7.0


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (error(errors.ServerBusy, status=503), "the server answers 503, waiting (12 s)"),
        (error(errors.ServerBusy, status=429), "the server answers 429, waiting (12 s)"),
        (error(errors.ServerConnectionLost, status=502), "the server answers 502, waiting (12 s)"),
        (error(errors.ServerNotRunning), "nothing answers, waiting (12 s)"),
        (error(errors.ServerHung), "the server hangs, waiting (12 s)"),
        (crash(), "the model's process has ended, waiting (12 s)"),
        (error(errors.ServerConnectionLost), "the connection broke, waiting (12 s)"),
    ],
)
def test_an_outage_is_said_in_a_few_words(seen, words, monkeypatch):
    monkeypatch.setattr(run_calls, "time", SimpleNamespace(monotonic=lambda: 112.2))
    assert str(Outage(seen, 100.0)) == words
