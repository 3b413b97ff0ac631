"""Many calls at once, and calls that are tried again."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_ollama import Rule
from harness import alive, children
from manager_env import on_loop, scripted, server, until
from urisk_nb import errors
from urisk_nb.llm import resilience
from urisk_nb.llm.manager import LLMManager

# Many at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [None, 3])
def test_as_many_calls_in_flight_as_allowed(parallel):
    """One by default, or what was asked for, and never more, however many threads come."""
    with server(Rule(answer="a", first_ms=30), slots=8) as other:
        manager = LLMManager.initialize_sync(url=other.url, parallel=parallel)
        with ThreadPoolExecutor(9) as pool:
            assert list(pool.map(manager.generate_sync, ["hi"] * 9)) == ["a"] * 9
        assert other.counters["peak_in_flight"] == (parallel or 1)


@pytest.mark.timing
@pytest.mark.slow
def test_those_who_wait_are_served_in_order():
    """First come, first served; the time in our queue is told, and a long wait is no timeout."""
    with server(Rule(first_ms=120, contains="first"), Rule(answer=["ok"])) as other:
        manager = LLMManager.initialize_sync(url=other.url, load_timeout_s=0.3, timeout_s=0.3)
        ended = []

        async def ask(text):
            answer = await manager.generate(text)
            ended.append(text)
            return answer

        async def main():
            return await asyncio.gather(
                *(ask(f"{place} of many") for place in ("first", "second", "third", "fourth"))
            )

        found = on_loop(main())
        assert ended == [f"{place} of many" for place in ("first", "second", "third", "fourth")]
        assert found[0].timing.wait_s < 0.05
        assert found[3].timing.wait_s >= 0.12
        assert found[3].timing.first_token_s < 0.12


@pytest.mark.slow
def test_who_gives_up_waiting_frees_the_place():
    """A waiting call that is cancelled is never sent, and those behind it move up."""
    with server(Rule(contains="slow", answer="a", first_ms=300), Rule(answer=["ok"])) as other:
        manager = LLMManager.initialize_sync(url=other.url)

        async def main():
            calls = [
                asyncio.create_task(manager.generate(text)) for text in ("slow", "leaves", "stays")
            ]
            await until(lambda: other.counters["in_flight"])
            calls[1].cancel()
            return await asyncio.gather(*calls, return_exceptions=True)

        found = on_loop(main())
        assert [found[0], found[2]] == ["a", "ok"]
        assert isinstance(found[1], asyncio.CancelledError)
        assert other.counters["paths"]["/api/chat"] == 1 + 2


def test_the_limit_can_be_changed_at_any_time():
    """Raised while calls wait, it lets them go; what is no such number is refused."""
    with server(Rule(answer="a", first_ms=250), slots=4) as other:
        manager = LLMManager.initialize_sync(url=other.url)

        async def main():
            calls = [asyncio.create_task(manager.generate("hi")) for _ in range(3)]
            await until(lambda: other.counters["in_flight"])
            manager.parallel = 3
            await asyncio.gather(*calls)

        on_loop(main())
        assert other.counters["peak_in_flight"] == 3
        for wrong in (0, -1, 257, 1.5, True, "2"):
            with pytest.raises(errors.InputError):
                manager.parallel = wrong
        assert manager.parallel == 3


# Trying again -------------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again():
    """Three tries in all; the answer tells how many it took."""
    with server(Rule(times=2, status=503, error="server busy, please try again.")) as other:
        answer = LLMManager.initialize_sync(url=other.url).generate_sync("hi")
        assert answer.timing.attempts == 3
        assert other.counters["paths"]["/api/chat"] == 1 + 3


def test_tries_end():
    """
    After the last one the server's own refusal is raised; none after the first where none are
    allowed.
    """
    with server(Rule(status=503, error="server busy, please try again.")) as other:
        for tries, flags in ((3, {}), (1, {"max_retries": 0})):
            manager = LLMManager.initialize_sync(url=other.url, **flags)
            before = other.counters["paths"]["/api/chat"]
            with pytest.raises(errors.ServerBusy):
                manager.generate_sync("hi")
            assert other.counters["paths"]["/api/chat"] == before + tries


CRASH = "llama-server process has terminated: exit status 1: boom"


@pytest.mark.parametrize(
    ("rule", "error", "tries"),
    [
        ({"status": 500, "error": CRASH}, errors.RunnerCrashed, 2),
        ({"status": 500, "error": "something"}, errors.ServerInternalError, 2),
        ({"status": 400, "error": "no"}, errors.BadRequest, 1),
        ({"answer": "one two", "ends": "reset"}, errors.StreamInterrupted, 1),
        ({"answer": "one two", "ends": "cut"}, errors.AnswerIncomplete, 1),
        ({"answer": "one two", "ends": "error", "error": CRASH}, errors.RunnerCrashed, 1),
    ],
    ids=["crashes twice", "fault", "refusal", "broken", "cut", "crash after words"],
)
def test_what_is_not_worth_another_try(rule, error, tries, monkeypatch):
    """
    A crash or another fault gets one more; a refusal none; and after the first word nothing is ever
    asked again.
    """
    monkeypatch.setattr(resilience, "RUNNER_WAIT_S", 0.0)
    with server(Rule(**rule)) as other:
        manager = LLMManager.initialize_sync(url=other.url, max_retries=4)
        with pytest.raises(error):
            manager.generate_sync("hi")
        assert other.counters["paths"]["/api/chat"] == 1 + tries
        assert len(manager.calls) == 0


@pytest.mark.slow
def test_a_crash_of_our_server_costs_the_next_call_nothing_but_time():
    """The server is killed while idle: the next call starts it again, warm, and is answered."""
    manager = scripted()
    first = manager.pid
    os.kill(first, signal.SIGKILL)
    assert "SCRIPTED" in manager.generate_sync("hi")
    assert manager.pid != first
    assert alive(manager.pid)
    assert manager.is_managed


def test_a_server_of_others_that_is_gone_is_not_started():
    """It was theirs: the error says what to do, and no process of ours takes its place."""
    before = children()
    with server() as other:
        manager = LLMManager.initialize_sync(url=other.url, max_retries=1)
    with pytest.raises(errors.ServerNotRunning, match="nothing answers"):
        manager.generate_sync("hi")
    assert children() == before
