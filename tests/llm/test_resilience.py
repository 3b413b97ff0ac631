"""
Decisions about failures, without a clock and without a server: what is worth another try, when a
breaker opens, when to restart.
"""

import asyncio
import contextlib
import gc
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import RetryCallState

from urisk_nb import errors
from urisk_nb.llm import resilience
from urisk_nb.llm.resilience import RETRY_RULES, Attempts, Breaker, retry_rule_for, retrying
from urisk_nb.server.restart_policy import RestartPolicy

LOST = errors.ServerConnectionLost("gone", fix="again")
BUSY = errors.ServerBusy("full", fix="wait")


def error(kind):
    return kind("seen", fix="do")


# What a failure means -----------------------------------------------------------------------------


def test_every_error_of_server_and_model_has_a_meaning():
    """
    None falls through to the one for success and cancels, except what is raised before a server is
    asked.
    """
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ServerError | errors.ModelError)
    ]
    assert len(kinds) > 25
    assert all(retry_rule_for(error(kind)) is not resilience.NO_RETRY for kind in kinds)


@pytest.mark.parametrize(
    ("kind", "tries", "counts"),
    [
        (errors.ServerNotRunning, None, True),
        (errors.ServerConnectionLost, None, True),
        (errors.ServerBusy, None, False),
        (errors.ServerHung, 2, True),
        (errors.RunnerCrashed, 2, True),
        (errors.ServerInternalError, 2, True),
        (errors.ModelNotFound, 2, False),
        (errors.StreamInterrupted, 1, True),
        (errors.ServerStartFailed, 1, True),
        (errors.ServerCrashLoop, 1, True),
        (errors.ProgramBroken, 1, True),
        (errors.ServerTimeout, 1, False),
        (errors.OutOfMemory, 1, False),
        (errors.ModelTooLarge, 1, False),
        (errors.BadRequest, 1, False),
        (errors.ProtocolError, 1, False),
        (errors.ContextExceeded, 1, False),
        (errors.CloudModelBlocked, 1, False),
        (errors.DiskFull, 1, False),
        (errors.CircuitOpen, 1, False),
        (errors.InputError, 1, False),
        (asyncio.CancelledError, 1, False),
        (KeyboardInterrupt, 1, False),
    ],
)
def test_the_table(kind, tries, counts):
    """
    What is broken counts and may be tried again; what is busy may; what the caller did wrong, or
    what memory lacks, neither.
    """
    seen = retry_rule_for(error(kind) if issubclass(kind, errors.UriskError) else kind())
    assert (seen.attempts, seen.counts) == (tries, counts)


def test_nothing_stands_in_the_table_twice_or_unused():
    """A line under a base that says the same would be dead weight."""
    for kind, meaning in RETRY_RULES.items():
        others = [base for base in kind.__mro__[1:] if base in RETRY_RULES]
        assert (
            not others
            or RETRY_RULES[others[0]] != meaning
            or kind in (errors.OutOfMemory, errors.CircuitOpen, errors.ServerTimeout)
        ), kind


# Trying again -------------------------------------------------------------------------------------


def waits(kind, attempts=200):
    """The waits that would be made after the first tries."""
    made = retrying(4, lambda _: None)
    state = RetryCallState(made, None, (), {})
    state.set_exception((kind, error(kind), None))
    seen = []
    for number in (1, 2, 3, 9):
        state.attempt_number = number
        seen.append([made.wait(state) for _ in range(attempts)])
    return seen


def test_waits_are_spread_and_grow_to_a_bound():
    """
    Full jitter: anything from 0 to 0.2 s, 0.4 s, 0.8 s, at most 5 s, so that many who failed
    together do not come back together.
    """
    for seen, most in zip(waits(errors.ServerConnectionLost), (0.2, 0.4, 0.8, 5.0), strict=True):
        assert 0 <= min(seen) < 0.2 * most
        assert 0.8 * most < max(seen) <= most


def test_a_server_is_given_a_moment_to_see_that_its_runner_is_gone():
    """At least a second."""
    assert min(min(seen) for seen in waits(errors.RunnerCrashed)) >= 1.0


@pytest.mark.parametrize(
    ("asked_s", "least_s"), [(2.0, 2.0), (9999.0, 30.0), (None, 0.0), (0.0, 0.0)]
)
def test_a_server_that_says_when_to_come_back_is_heeded(asked_s, least_s):
    """Within reason."""
    made = retrying(4, lambda _: None)
    state = RetryCallState(made, None, (), {})
    busy = errors.ServerBusy("full", fix="wait", retry_after_s=asked_s)
    state.set_exception((type(busy), busy, None))
    assert least_s <= made.wait(state) <= least_s + 0.2


@pytest.mark.parametrize(
    ("kind", "max_retries", "made"),
    [
        (errors.ServerConnectionLost, 3, 4),
        (errors.ServerInternalError, 3, 2),
        (errors.ServerInternalError, 0, 1),
    ],
)
def test_tries_are_as_many_as_the_settings_and_the_table_allow(
    kind, max_retries, made, monkeypatch
):
    """The smaller of the two, and the last error is the one that is raised."""
    monkeypatch.setattr(resilience, "FIRST_WAIT_S", 0.001)
    tried = []

    async def main():
        async def nothing(_):
            return None

        async for attempt in Attempts(max_retries, nothing):
            with attempt:
                tried.append(1)
                raise error(kind)

    with pytest.raises(kind):
        asyncio.run(main())
    assert len(tried) == made


def test_each_kind_of_failure_has_its_own_tries(monkeypatch):
    """
    A busy moment before does not cost a missing model its pull, nor a crashed runner its second
    try.
    """
    monkeypatch.setattr(resilience, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(resilience, "RUNNER_WAIT_S", 0.0)
    failures = iter([errors.ServerBusy, errors.ModelNotFound, errors.RunnerCrashed])
    tried = []

    async def main():
        async def nothing(_):
            return None

        async for attempt in Attempts(5, nothing):
            with attempt:
                tried.append(1)
                if kind := next(failures, None):
                    raise error(kind)

    asyncio.run(main())
    assert len(tried) == 4


KINDS = [
    *(errors.ServerNotRunning, errors.ServerBusy, errors.RunnerCrashed, errors.ModelNotFound),
    *(errors.ServerInternalError, errors.BadRequest, asyncio.CancelledError, None),
]


@given(
    ends=st.lists(st.sampled_from(KINDS), max_size=6),
    max_retries=st.integers(0, 4),
    is_once=st.booleans(),
)
def test_attempts_end_as_those_of_tenacity(ends, max_retries, is_once):
    """The same tries, pauses and end for any row of failures; None is a success."""

    async def end(make):
        paused, left = [], iter(ends)

        async def pause(state):
            paused.append((state.attempt_number, type(state.outcome.exception())))

        try:
            async for attempt in make(max_retries, pause, lambda _: not is_once):
                with attempt:
                    if (kind := next(left, None)) is None:
                        return "done", paused, list(left)
                    raise kind() if kind is asyncio.CancelledError else error(kind)
        except (errors.UriskError, asyncio.CancelledError) as exc:
            return type(exc), paused, list(left)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resilience, "FIRST_WAIT_S", 0.0)
        patch.setattr(resilience, "RUNNER_WAIT_S", 0.0)
        assert asyncio.run(end(Attempts)) == asyncio.run(end(retrying))


def test_a_call_that_succeeds_leaves_no_garbage_in_cycles():
    """A run has thousands of them, and the collection stops all of its calls."""

    async def main():
        async for attempt in Attempts(5, lambda _: None):
            with attempt:
                return

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(StopIteration):
            main().send(None)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("seen", [asyncio.CancelledError, KeyboardInterrupt])
def test_a_cancel_ends_the_attempts(seen):
    """Also the first one."""
    tried = []

    async def main():
        async for attempt in Attempts(5, lambda _: None):
            with attempt:
                tried.append(1)
                raise seen

    with pytest.raises(seen):
        asyncio.run(main())
    assert tried == [1]


def test_a_loop_that_goes_on_after_a_success_is_told():
    """It would call the server without an end."""

    async def main():
        async for attempt in Attempts(5, lambda _: None):
            with attempt:
                pass

    with pytest.raises(RuntimeError, match="leave it"):
        asyncio.run(main())


# The breaker --------------------------------------------------------------------------------------


def fail(breaker, now, failure=LOST):
    breaker.record_failure(failure, now, trial=breaker.admit(now))


def opened(now=0.0):
    breaker = Breaker()
    for _ in range(5):
        fail(breaker, now)
    return breaker


def test_five_in_a_row_open_it():
    """Four do not, and a success in between begins anew."""
    breaker = Breaker()
    for _ in range(4):
        fail(breaker, 0)
    assert breaker.state(0) == "closed"
    breaker.admit(0)
    breaker.record_success()
    for _ in range(4):
        fail(breaker, 0)
    assert breaker.state(0) == "closed"
    fail(breaker, 0)
    assert breaker.state(0) == "open"


def test_an_open_one_refuses_and_says_for_how_long():
    """The error tells what was seen last, and when it is tried again."""
    breaker = opened()
    with pytest.raises(
        errors.CircuitOpen, match=r"5 times in a row, most recently: gone .* in 3\.0 s"
    ):
        breaker.admit(2.0)


@pytest.mark.row(38)
def test_one_of_ten_tries_it_out():
    """After the pause exactly one call goes through; its success lets all of them through."""
    breaker = opened()
    admitted = []
    for _ in range(10):
        try:
            admitted.append(breaker.admit(5.0))
        except errors.CircuitOpen:
            admitted.append(None)
    assert admitted == [True, *[None] * 9]
    breaker.record_success()
    assert [breaker.admit(5.0) for _ in range(10)] == [False] * 10


def test_the_pause_doubles_to_a_minute():
    """Each trial that fails doubles it; a success ends it, and the next one is short again."""
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        pause_s = next(
            second for second in range(1, 100) if breaker.state(now + second) == "half_open"
        )
        pauses.append(pause_s)
        now += pause_s
        fail(breaker, now)
    assert pauses == [5, 10, 20, 40, 60, 60]
    breaker.admit(now + 60)
    breaker.record_success()
    for _ in range(5):
        fail(breaker, now)
    assert breaker.state(now + 5) == "half_open"


def test_a_call_from_before_that_ends_well_during_a_trial():
    """
    It closes the breaker; should the trial fail after that, there is a pause again, and not none
    for ever.
    """
    breaker = Breaker()
    breaker.admit(0)
    for _ in range(5):
        fail(breaker, 0)
    trial = breaker.admit(5.0)
    assert trial
    breaker.record_success()
    breaker.record_failure(LOST, 6.0, trial=trial)
    assert breaker.state(6.1) == "open"


@pytest.mark.parametrize(
    "failure",
    [BUSY, error(errors.OutOfMemory), error(errors.BadRequest), error(errors.ServerTimeout)],
)
def test_what_does_not_speak_against_the_server_does_not_count(failure):
    """However often; and a server that refuses a trial rightly is well."""
    breaker = Breaker()
    for _ in range(20):
        fail(breaker, 0, failure)
    assert breaker.state(0) == "closed"
    tried = opened()
    fail(tried, 5.0, failure)
    assert tried.state(5.0) == "closed"


@pytest.mark.row(39)
def test_a_cancelled_call_says_nothing():
    """
    Six interrupts in a row leave it closed; a cancelled trial leaves the place to the next one.
    """
    breaker = Breaker()
    for _ in range(6):
        breaker.record_cancel(trial=breaker.admit(0))
    assert breaker.state(0) == "closed"
    tried = opened()
    tried.record_cancel(trial=tried.admit(5.0))
    assert tried.admit(5.0)


def test_calls_that_fail_after_it_opened_do_not_put_the_pause_off():
    """A hundred were in flight when the server went: the pause is counted from the fifth."""
    breaker = Breaker()
    for _ in range(100):
        breaker.admit(0)
    for number in range(100):
        breaker.record_failure(LOST, number / 100, trial=False)
    assert breaker.state(5.1) == "half_open"


# RestartPolicy ------------------------------------------------------------------------------------


def test_three_restarts_in_five_minutes():
    """Half a second, two, eight; then none, until the oldest is five minutes ago."""
    policy = RestartPolicy()
    assert [policy.next(now, lambda: 1.0) for now in (0, 1, 2, 3)] == [0.5, 2.0, 8.0, None]
    assert policy.next(299.9, lambda: 1.0) is None
    assert policy.next(300.5, lambda: 1.0) == 8.0
    assert policy.next(301.5, lambda: 1.0) == 8.0


def test_a_server_that_held_for_long_starts_again_soon():
    """An end a day is half a second each."""
    policy = RestartPolicy()
    assert [policy.next(day * 86_400, lambda: 1.0) for day in range(4)] == [0.5] * 4


def test_restarts_are_spread():
    """
    Two kernels that lost the same server do not start it at the same moment: half to the whole of
    the pause.
    """
    assert [RestartPolicy().next(0, iter([jitter]).__next__) for jitter in (0.0, 0.5, 1.0)] == [
        0.25,
        0.375,
        0.5,
    ]
