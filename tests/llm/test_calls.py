"""
What is kept of each call: its way through the phases, its tries, its end; in order, bounded,
readable from other threads.
"""

import contextlib
import math
import threading

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from harness import eventually
from urisk_nb import errors, event_loop
from urisk_nb.llm import calls as calls_module
from urisk_nb.llm import resilience
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import Chunk, Final

FINAL = Final(
    total_ns=3_000_000_000, prompt_ns=1_000_000_000, generation_ns=2_000_000_000, tokens=8
)


@contextlib.contextmanager
def manager_over(*rules, **flags):
    """A manager over the fake Ollama."""
    with running(ScriptedBackend(Scenario(rules=list(rules)))) as server:
        manager = LLMManager.initialize_sync(url=server.url, **flags)
        try:
            yield manager
        finally:
            manager.shutdown_sync()


def test_the_phases_of_a_record():
    """Waiting, asked, answering, and how it ended."""
    calls = Calls()
    record = calls.begin(b"{}", "m")
    seen = [record.phase]
    record.mark_started()
    record.mark_sent()
    seen.append(record.phase)
    record.add_chunk(Chunk(text="one "))
    record.add_chunk(Chunk(text="two"))
    seen.append(record.phase)
    assert (calls.live, calls.records, record.answer) == ((record,), (), "one two")
    timing = calls.end(record, FINAL)
    assert [*seen, record.phase] == ["queued locally", "asked", "answering", "ok"]
    assert (calls.live, calls.records, list(calls), len(calls)) == ((), (record,), [timing], 1)
    assert (timing.attempts, timing.tokens, timing.model, timing.prompt_s) == (1, 8, "m", 1.0)
    assert 0 <= timing.wait_s <= timing.total_s + timing.wait_s
    assert timing.first_token_s <= timing.total_s


def test_how_a_call_ended_is_told_once():
    """What comes after the end, a consumer who leaves for example, changes nothing."""
    calls = Calls()
    record = calls.begin(b"{}", "m")
    calls.end(record, FINAL)
    calls.fail(record, GeneratorExit())
    assert (record.outcome, dict(calls.outcomes), len(calls.records)) == ("ok", {"ok": 1}, 1)


@pytest.mark.parametrize(
    ("error", "outcome", "message"),
    [
        (
            errors.ServerConnectionLost("the connection broke.", fix="ask again"),
            "ServerConnectionLost",
            "the connection broke.",
        ),
        (ValueError("odd"), "ValueError", "ValueError('odd')"),
        (GeneratorExit(), "cancelled", ""),
        (KeyboardInterrupt(), "cancelled", ""),
    ],
)
def test_calls_that_fail_are_kept_but_are_no_timings(error, outcome, message):
    """Their figures would be mistaken for those of answers."""
    calls = Calls()
    record = calls.begin(b"{}", "m")
    calls.fail(record, error)
    assert (record.outcome, record.message, list(calls), calls.records) == (
        outcome,
        message,
        [],
        (record,),
    )
    assert math.isnan(calls.percentile("total_s", 50))
    assert math.isnan(record.timing.total_s)
    assert record.timing.attempts == 0


def test_the_last_two_hundred_are_kept_in_order():
    """The ring forgets the oldest; the numbers go on, and so do the sums."""
    calls = Calls()
    for number in range(250):
        calls.end(calls.begin(b"{}", "m"), Final(total_ns=1, tokens=number))
    assert len(calls) == 200
    assert [kept.tokens for kept in calls] == list(range(50, 250))
    assert [record.number for record in calls.records] == list(range(51, 251))
    assert (calls.asked, calls.outcomes["ok"]) == (250, 250)


def test_what_is_kept_is_bounded():
    """
    A long prompt and a long answer are kept in part; they are whole while the call is under way.
    """
    calls, most = Calls(), calls_module.MAX_KEPT
    record = calls.begin(b"x" * (most + 5), "m")
    for _ in range(3):
        record.add_chunk(Chunk(text="y" * most))
    assert (len(record.body), len(record.answer)) == (most + 5, 3 * most)
    calls.end(record, FINAL)
    assert (len(record.body), len(record.answer)) == (most, most)


def test_reading_while_calls_are_added_is_safe():
    """A dashboard reads in its thread while the loop writes."""
    calls, stop = Calls(), threading.Event()

    def add():
        while not stop.is_set():
            calls.end(calls.begin(b"{}", "m"), FINAL)

    thread = threading.Thread(target=add)
    thread.start()
    try:
        seen = {(calls.percentile("generation_s", 50), len(calls.live) < 2) for _ in range(500)}
    finally:
        stop.set()
        thread.join()
    assert {value for value in seen if not math.isnan(value[0])} == {(2.0, True)}


@pytest.mark.slow
def test_a_live_call_is_seen_from_outside():
    """
    A second call over one slot waits here, the first one answers; both end, and then nothing is
    live.
    """
    slow = Rule(contains="slow", answer=["a "] * 40, token_ms=20)
    with manager_over(slow) as manager:
        first, second = (
            event_loop.submit(manager.stream(question).whole()) for question in ("slow", "quick")
        )
        eventually(
            lambda: (
                [record.phase for record in manager.calls.live] == ["answering", "queued locally"]
            )
        )
        live = manager.calls.live[0]
        eventually(lambda: live.answer.startswith("a a a "))
        assert (manager.limiter.in_flight, manager.limiter.waiting) == (1, 1)
        assert b"slow" in live.body
        assert 0 < live.elapsed_s(live.asked_s + 1) <= 1
        first.wait()
        second.wait()
        assert (
            manager.calls.live,
            len(manager.calls),
            manager.limiter.in_flight,
            manager.limiter.waiting,
        ) == (
            (),
            2,
            0,
            0,
        )
        assert second.result().timing.wait_s > 0.4


def test_tries_that_failed_are_kept_with_their_reasons(monkeypatch):
    """Two refusals for being busy, then the answer."""
    monkeypatch.setattr(resilience, "FIRST_WAIT_S", 0.01)
    with manager_over(
        Rule(
            status=503,
            error="server busy, please try again. maximum pending requests exceeded",
            times=2,
        )
    ) as manager:
        answer = manager.generate_sync("hi")
        record = manager.calls.records[-1]
        assert [tried.error for tried in record.failures] == ["ServerBusy", "ServerBusy"]
        assert all("busy" in tried.message and tried.took_s >= 0 for tried in record.failures)
        assert (answer.timing.attempts, record.outcome) == (3, "ok")


def test_a_failed_call_keeps_its_reason_and_its_partial_answer():
    """Broken off after two words."""
    with manager_over(Rule(answer=["one ", "two"], ends="reset")) as manager:
        with pytest.raises(errors.StreamInterrupted):
            manager.generate_sync("hi")
        record = manager.calls.records[-1]
        assert (record.outcome, record.answer, record.timing.attempts) == (
            "StreamInterrupted",
            "one two",
            1,
        )
        assert "cut off" in record.message
        assert record.timing.first_token_s <= record.timing.total_s


def test_a_call_that_is_left_is_given_up():
    """Whoever leaves a stream has not met an error."""
    with manager_over(Rule(contains="slow", answer=["a "] * 40, token_ms=20)) as manager:
        for _ in manager.stream_sync("slow"):
            break
        record = eventually(lambda: manager.calls.records)[-1]
        assert (record.outcome, manager.calls.live) == ("cancelled", ())
