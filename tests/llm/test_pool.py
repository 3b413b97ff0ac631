"""
Which of several servers gets a call, in which order, and when one that failed is looked at again.
The servers are stand-ins that answer when a test says so.
"""

import asyncio
from types import SimpleNamespace

import pytest

from urisk_nb.errors import (
    OutOfMemory,
    RunnerCrashed,
    ServerBusy,
    ServerConnectionLost,
    ServerInternalError,
    ServerNotRunning,
    StreamInterrupted,
)
from urisk_nb.llm import pool as pool_module
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.limiter import CallLimiter
from urisk_nb.llm.messages import Chunk, Final
from urisk_nb.llm.pool import EndpointPool, share_out
from urisk_nb.llm.retrying_client import single_attempts
from urisk_nb.llm.run_calls import mark_suspect


class Endpoint:
    """A server: its calls in the order in which they came, each with what ends it."""

    def __init__(self, url, slots=1, error=None):
        self.url, self.error, self.calls = url, error, []
        self.limiter = CallLimiter(slots)
        self.server = SimpleNamespace(
            slots=slots, note_loss=lambda _: None, note_return=lambda: None
        )
        self.settings = SimpleNamespace(max_retries=0)
        self.retrying = self

    async def run(self, record, exchange, on_chunk):
        async with self.limiter.hold():
            end = asyncio.get_running_loop().create_future()
            self.calls.append((exchange, end))
            if isinstance(self.error, StreamInterrupted):
                record.add_chunk(Chunk(text="so far"))
            if self.error is not None:
                await asyncio.sleep(0)  # a failure is seen later than the next call is made
                raise self.error
            await end
            return Final()

    def finish(self):
        """End the calls that are here."""
        for _, end in self.calls:
            if not end.done():
                end.set_result(None)


class Lab:
    """A pool of such servers, and calls that are named by texts."""

    def __init__(self, *endpoints, total=None):
        self.endpoints, self.welcomed, self.records = endpoints, [], Calls()
        self.is_well, self.tasks = True, []
        self.pool = EndpointPool(endpoints, self.welcome)
        self.pool.set_usual(total)

    async def welcome(self, endpoint):
        self.welcomed.append(endpoint.url)
        if not self.is_well:
            raise ServerNotRunning(f"{endpoint.url}: gone", fix="start it")

    def ask(self, name):
        """Begin a call; what a server sees of it is its name."""
        record = self.records.begin(b"", "m")
        work = self.pool.run(record, lambda _: name, lambda _: None)
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1], record

    async def settle(self):
        for _ in range(30):
            await asyncio.sleep(0)

    async def close(self):
        await self.pool.cancel_all(0.2)
        await asyncio.gather(*self.tasks, return_exceptions=True)


def names(endpoint):
    return [name for name, _ in endpoint.calls]


def scenario(function):
    """Run a coroutine function as a test, on a loop of its own."""

    def test():
        asyncio.run(asyncio.wait_for(function(), 10))

    test.__doc__, test.__name__ = function.__doc__, function.__name__
    return test


@scenario
async def test_a_call_goes_to_the_server_with_the_most_free_places():
    """Of equals the first."""
    a, b = Endpoint("a", 2), Endpoint("b", 3)
    lab = Lab(a, b)
    for n in range(5):
        lab.ask(n)
        await lab.settle()
    assert (names(a), names(b)) == ([1, 3], [0, 2, 4])
    assert (lab.pool.limit, lab.pool.in_flight, lab.pool.waiting) == (5, 5, 0)
    await lab.close()


@scenario
async def test_calls_wait_in_order_and_a_cancel_leaves_no_gap():
    """The next place is the next call's, whichever server is free first."""
    a, b = Endpoint("a"), Endpoint("b")
    lab = Lab(a, b)
    tasks = [lab.ask(n)[0] for n in range(6)]
    await lab.settle()
    assert lab.pool.waiting == 4
    tasks[2].cancel()
    await lab.settle()
    assert lab.pool.waiting == 3
    b.finish()
    await lab.settle()
    a.finish()
    await lab.settle()
    assert (names(a), names(b)) == ([0, 4], [1, 3])
    for _ in range(3):
        a.finish()
        b.finish()
        await lab.settle()
    assert lab.pool._held.total() == 0
    assert [task.done() for task in tasks] == [True] * 6
    await lab.close()


@scenario
async def test_a_call_that_is_cancelled_as_its_place_comes_gives_it_on():
    """The place was given in the same step of the loop."""
    a, b = Endpoint("a"), Endpoint("b")
    lab = Lab(a, b, total=1)
    (first, _), (second, _), (third, _) = (lab.ask(n) for n in range(3))
    await lab.settle()
    a.finish()
    while lab.pool.waiting == 2:
        await asyncio.sleep(0)
    second.cancel()
    await lab.settle()
    assert first.done()
    assert names(a)[-1] == 2
    third.cancel()
    await lab.settle()
    assert lab.pool._held.total() == 0
    await lab.close()


@scenario
async def test_a_number_for_the_session_counts_over_all_servers():
    """Fewer than there are servers, too; a run may ask for more while it lasts."""
    endpoints = [Endpoint(name) for name in "abc"]
    lab = Lab(*endpoints, total=2)
    for n in range(8):
        lab.ask(n)
    await lab.settle()
    assert (lab.pool.in_flight, lab.pool.waiting) == (2, 6)
    with lab.pool.allow(6):
        await lab.settle()
        assert (lab.pool.limit, lab.pool.in_flight) == (6, 6)
        assert [len(one.calls) for one in endpoints] == [2, 2, 2]
    assert lab.pool.limit == 2
    await lab.close()


@scenario
async def test_a_server_keeps_its_part_while_another_is_away():
    """It has no more slots than before: the others' calls would only queue there."""
    a, b = Endpoint("a", 2, ServerNotRunning("a: refused", fix="?")), Endpoint("b", 2)
    lab = Lab(a, b, total=8)
    for n in range(8):
        lab.ask(n)
    await lab.settle()
    assert (len(b.calls), lab.pool.waiting) == (4, 4)
    await lab.close()


@pytest.mark.parametrize(
    "kind", [ServerNotRunning, ServerConnectionLost, ServerBusy, RunnerCrashed, OutOfMemory]
)
def test_a_call_goes_on_to_another_server_and_the_first_is_left_out(kind):
    """At once, before those who wait; the record has the failed attempt."""

    async def run():
        a, b = Endpoint("a", 2, kind("a: seen", fix="do this")), Endpoint("b")
        lab = Lab(a, b)
        (first, record), (second, _) = lab.ask("first"), lab.ask("second")
        others = [lab.ask(name)[0] for name in ("third", "fourth", "fifth")]
        await lab.settle()
        assert [one.url for one in lab.pool.present] == ["b"]
        for _ in range(5):
            b.finish()
            await lab.settle()
        assert names(a) == ["first", "second"]
        assert names(b) == ["third", "first", "second", "fourth", "fifth"]
        assert [failure.error for failure in record.failures] == [kind.__name__]
        assert record.server == "b"
        assert all(task.done() for task in (first, second, *others))
        await lab.close()

    asyncio.run(asyncio.wait_for(run(), 10))


@scenario
async def test_a_fault_of_the_server_is_asked_elsewhere_and_leaves_it_in():
    """An HTTP 500 may be the call's own fault."""
    a, b = Endpoint("a", 2, ServerInternalError("a: odd", fix="?")), Endpoint("b")
    lab = Lab(a, b)
    lab.ask("first")
    await lab.settle()
    assert names(b) == ["first"]
    assert lab.pool.present == (a, b)
    await lab.close()


@scenario
async def test_an_answer_that_was_seen_is_not_begun_again():
    """A run shows no text before the end: there it is."""
    cut = StreamInterrupted("cut off", fix="ask again", partial="so far")
    for is_run, expected in ((False, []), (True, ["x"])):
        a, b = Endpoint("a", 2, cut), Endpoint("b")
        lab = Lab(a, b)
        if is_run:
            with single_attempts():
                _, record = lab.ask("x")
        else:
            _, record = lab.ask("x")
        await lab.settle()
        assert names(b) == expected
        assert record.answer == ("" if is_run else "so far")
        await lab.close()


@scenario
async def test_a_call_may_bring_two_servers_down_and_a_suspect_one():
    """Beyond that the run makes it alone."""
    for is_suspected, most in ((False, 2), (True, 1)):
        endpoints = [Endpoint(n, 1, RunnerCrashed(f"{n}: crashed", fix="?")) for n in "abcd"]
        lab = Lab(*endpoints)
        with single_attempts(), mark_suspect(is_suspected):
            task, _ = lab.ask("killer")
        with pytest.raises(RunnerCrashed):
            await task
        assert sum(len(one.calls) for one in endpoints) == most
        await lab.close()


@scenario
async def test_with_all_away_those_who_wait_are_told_why():
    """Each server, with what was seen of it."""
    a, b = (Endpoint(n, 1, ServerNotRunning(f"{n}: refused", fix="?")) for n in "ab")
    lab = Lab(a, b)
    lab.is_well = False
    tasks = [lab.ask(n)[0] for n in range(4)]
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {ServerNotRunning}
    assert all("a: refused" in end.message or "a: gone" in end.message for end in ends)
    assert all("none of the 2 servers" in end.message for end in ends)
    await lab.close()


@scenario
async def test_all_who_wait_for_a_server_share_one_look():
    """It takes seconds where a server hangs."""
    a, b = (Endpoint(n, 1, ServerNotRunning(f"{n}: refused", fix="?")) for n in "ab")
    lab, release = Lab(a, b), asyncio.Event()

    async def welcome(endpoint):
        lab.welcomed.append(endpoint.url)
        await release.wait()
        raise ServerNotRunning(f"{endpoint.url}: gone", fix="?")

    lab.pool._admit = welcome
    lab.ask("first")
    await lab.settle()
    for n in range(9):
        lab.ask(n)
    await lab.settle()
    assert sorted(lab.welcomed) == ["a", "b"]
    release.set()
    ends = await asyncio.gather(*lab.tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {ServerNotRunning}
    await lab.close()


@scenario
async def test_a_server_is_looked_at_in_growing_pauses_while_the_session_is_used():
    """And never in between; after the last call, for as long as IDLE_S."""
    before = pool_module.FIRST_PAUSE_S, pool_module.MAX_PAUSE_S, pool_module.IDLE_S
    pool_module.FIRST_PAUSE_S, pool_module.MAX_PAUSE_S, pool_module.IDLE_S = 0.02, 0.08, 0.3
    try:
        a, b = Endpoint("a", 2, ServerNotRunning("a: refused", fix="?")), Endpoint("b")
        lab = Lab(a, b)
        lab.is_well = False
        task, _ = lab.ask("first")
        await lab.settle()
        b.finish()
        await task
        (looking,) = lab.pool._watches.values()
        await looking  # ends by itself
        assert 3 <= len(lab.welcomed) <= 7  # after 0.02, 0.04, 0.08, 0.08, ... s
        assert lab.pool._pauses_s[a] == pool_module.MAX_PAUSE_S
        lab.is_well, a.error = True, None
        task, _ = lab.ask("second")
        while lab.pool.absences:
            await asyncio.sleep(0.005)
        assert lab.pool.present == (a, b)
        await lab.close()
    finally:
        pool_module.FIRST_PAUSE_S, pool_module.MAX_PAUSE_S, pool_module.IDLE_S = before


@scenario
async def test_a_server_that_says_when_is_looked_at_then():
    """Retry-After, up to half a minute."""
    busy = ServerBusy("a: full", fix="wait")
    busy.facts["retry_after_s"] = 7.0
    a, b = Endpoint("a", 2, busy), Endpoint("b")
    lab = Lab(a, b)
    lab.ask("first")
    await lab.settle()
    absence = lab.pool.absences[a]
    assert absence.until_s - absence.since_s == 7.0
    await lab.close()


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (8, [4, 4], [4, 4]),
        (10, [4, 2, 1], [6, 3, 1]),
        (1, [4, 4], [1, 1]),
        (7, [1, 1, 1], [3, 2, 2]),
    ],
)
def test_places_are_shared_by_slots(total, weights, parts):
    """Whole numbers, each at least 1."""
    assert share_out(total, weights) == parts
