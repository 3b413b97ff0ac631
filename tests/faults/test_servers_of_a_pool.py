"""
A run over several servers, some of which end in the middle of it. The servers are processes of
their own, which log what they are asked; their answers are SCRIPTED.
"""

import asyncio
import collections
import contextlib
import time

import pytest

from flaky_server import CRASH, FlakyServer
from harness import eventually
from urisk_nb import LLMManager, assess, event_loop, process_state
from urisk_nb.errors import ServerNotRunning, UriskError
from urisk_nb.server.liveness import ProbeSchedule
from urisk_nb.server.model_server import ServerState
from urisk_nb.session import label_sync, open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # each of them waits for replies
SHORT = ProbeSchedule(silent_s=0.3, every_s=0.1, within_s=0.3, strikes=2)

TICKERS = [f"T{number}" for number in range(8)]


def make_evidence(count, word="fined"):
    return [
        {"ticker": TICKERS[n % 8], "text": f"The company was {word} {n} times this year."}
        for n in range(count)
    ]


@pytest.fixture
def servers(tmp_path):
    """Start servers of four slots; all of them are gone afterwards, and so is the session."""
    started = []

    def start(count, service_s=0.02, **more):
        for _ in range(count):
            (tmp_path / str(len(started))).mkdir()
            started.append(FlakyServer(tmp_path / str(len(started)), service_s, **more))
        return started[-count:]

    yield start
    if (manager := process_state.get("manager")) is not None:
        manager.shutdown_sync()
    for server in started:
        server.kill()


def open_session(servers, **flags):
    given = {"parallel": 4 * len(servers), "url": [server.url for server in servers], **flags}
    return LLMManager.initialize_sync(**given)


def count_answers(servers):
    """How often each sentence was answered, over all servers."""
    lines = [line for server in servers for line in server.log()]
    return collections.Counter(text for what, text in lines if what == "answered")


def list_labeled(table):
    return [str(status) for status in table["status"]], int(table["judged"].sum())


@pytest.mark.parametrize("count", [2, 4])
def test_the_calls_are_shared_by_all_servers(count, servers):
    """Every server is filled to its slots and no further, and has its part of the calls."""
    # Long enough for all requests to be sent before the first reply, on a busy machine, too
    group = servers(count, service_s=0.2)
    manager = open_session(group)
    table = assess(TICKERS, evidence=make_evidence(96), manager=manager)
    assert list_labeled(table) == (["ok"] * 8, 96)
    parts = [len(server.asked()) for server in group]
    assert sum(parts) == 96
    assert min(parts) >= 96 / count * 0.7
    assert [server.most_in_flight() for server in group] == [4] * count
    assert {record.server for record in manager.calls.records} == {one.url for one in group}


@pytest.mark.timing
def test_two_servers_are_as_fast_as_one_with_their_slots(servers):
    """
    160 calls of 50 ms on two servers of four slots: at most 1.05 times what one server of eight
    slots takes. So the pool adds nothing to what this machine allows for calls at that pace.
    """
    groups = {"two": servers(2, 0.05), "one": servers(1, 0.05, slots=8)}
    evidence, seconds = make_evidence(160), collections.defaultdict(list)
    for name in ("two", "one") * 4:
        manager = open_session(groups[name], parallel=8)
        assess(TICKERS, evidence=make_evidence(8, "sued"), manager=manager)  # connections
        seconds[name].append(time_run(evidence, manager))
        manager.shutdown_sync()
    assert min(seconds["two"]) <= 1.05 * min(seconds["one"])


def time_run(evidence, manager):
    run = open_run(TICKERS, evidence=evidence)
    began_s = time.perf_counter()
    label_sync(run, manager)
    ended_s = time.perf_counter()
    assert int(run.table()["judged"].sum()) == len(evidence)
    return ended_s - began_s


def test_a_server_that_is_killed_costs_no_sentence_and_comes_back(servers):
    """
    The run goes on without it. Nothing is lost and no sentence is answered twice; started again
    at its address, it gets calls again in the same run.
    """
    group = servers(2, 0.05)
    manager = open_session(group)
    lost, run, steps = group[1], open_run(TICKERS, evidence=make_evidence(320)), []

    def tick():
        asked = run.progress.asked
        if asked >= 40 and not steps:
            lost.kill()
            steps.append(len(lost.log()))
        elif len(steps) == 1 and manager.pool.absences:
            steps.append(str(manager.left_out))
            lost.start()

    label_sync(run, manager, tick=tick)
    table = run.table()
    assert list_labeled(table) == (["ok"] * 8, 320)
    assert not [text for text, times in count_answers(group).items() if times > 1]
    assert f"{lost.url} is left out: " in steps[1]
    assert len(lost.log()) > steps[0] + 8
    assert not manager.pool.absences
    assert "*" not in table.report.meta["messages"]


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_a_question_goes_to_another_server_at_once(how, servers):
    """One that was killed is found out by the call, one that hangs by its silence."""
    group = servers(2, 0.005)
    manager = open_session(group, load_timeout_s=20)
    if how == "kill":
        group[0].kill()
    else:
        group[0].hang()
        manager.lead.server.monitor.schedule = SHORT
    answer = manager.generate_sync("Was the company fined once?")
    assert answer
    record = manager.calls.records[-1]
    assert (record.outcome, record.server) == ("ok", group[1].url)
    assert record.timing.attempts == 2
    states = [one.server.state for one in manager.pool.endpoints]
    assert states == [ServerState.FAILED, ServerState.EXTERNAL]
    assert manager.state is ServerState.EXTERNAL  # the session is well


def test_with_all_servers_away_the_error_names_each(servers):
    """A question has its few attempts; one server that is back is enough."""
    group = servers(2, 0.005)
    manager = open_session(group, max_retries=1)
    for server in group:
        server.kill()
    with pytest.raises(ServerNotRunning, match="none of the 2 servers can be used") as caught:
        manager.generate_sync("Was the company fined once?")
    assert [str(caught.value).count(server.url) for server in group] == [1, 1]
    assert manager.state is ServerState.FAILED
    group[1].start()
    assert manager.generate_sync("Was the company fined once?")
    assert manager.calls.records[-1].server == group[1].url


def test_a_run_waits_while_all_servers_are_away(servers):
    """As it waits for one, and says so; the sentences are asked once they are back."""
    group = servers(2)
    manager = open_session(group, outage_wait_s=20)
    run, seen = open_run(TICKERS, evidence=make_evidence(160)), []

    def tick():
        if run.progress.asked >= 40 and not seen:
            for server in group:
                server.kill()
            seen.append("")
        elif seen and run.progress.outage is not None and len(seen) == 1:
            seen.append(str(run.progress.outage))
            group[0].start()

    label_sync(run, manager, tick=tick)
    assert list_labeled(run.table()) == (["ok"] * 8, 160)
    assert "waiting (" in seen[1]
    assert not [text for text, times in count_answers(group).items() if times > 1]


def test_a_run_that_begins_while_all_servers_are_away_waits(servers):
    """In a session that has had them."""
    group = servers(2)
    open_session(group, outage_wait_s=20)
    for server in group:
        server.kill()
    run, seen = open_run(TICKERS, evidence=make_evidence(40)), []

    def tick():
        if run.progress.outage is not None and not seen:
            seen.append(str(run.progress.outage))
            group[1].start()

    label_sync(run, None, tick=tick)
    assert list_labeled(run.table()) == (["ok"] * 8, 40)
    assert seen


def test_a_run_that_waits_in_vain_names_each_server(servers):
    """The wait is bounded by URISK_OUTAGE_WAIT."""
    group = servers(2)
    manager = open_session(group, outage_wait_s=0.5)
    run = open_run(TICKERS, evidence=make_evidence(80))

    def tick():
        if run.progress.asked >= 20:
            for server in group:
                server.kill()

    with pytest.raises(UriskError) as caught:
        label_sync(run, manager, tick=tick)
    assert all(server.url in str(caught.value) for server in group)


def test_a_busy_server_is_passed_over(servers):
    """A 503 is no failure of the run: the others answer, and nothing waits."""
    group = servers(2)
    manager = open_session(group)
    group[0].set_mode("busy")
    table = assess(TICKERS, evidence=make_evidence(80), manager=manager)
    assert list_labeled(table) == (["ok"] * 8, 80)
    assert len(count_answers(group[1:])) >= 76


def test_a_sentence_that_ends_runners_is_left_without_a_label(servers):
    """It may end two runners, then one for itself alone; every other sentence has its label."""
    group = servers(4)
    manager = open_session(group)
    evidence = [*make_evidence(80), {"ticker": "T0", "text": f"The company {CRASH} at fines."}]
    table = assess(TICKERS, evidence=evidence, manager=manager)
    assert int(table["judged"].sum()) == 80
    assert sum(CRASH in text for server in group for text in server.asked()) <= 3


def test_an_interrupt_ends_the_calls_on_all_servers(servers):
    """What was labeled stays, nothing is in flight, and the session goes on."""
    group = servers(2, 0.3)
    manager = open_session(group)
    run = open_run(TICKERS, evidence=make_evidence(80))

    def tick():
        if run.progress.asked >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_sync(run, manager, tick=tick)
    eventually(lambda: not manager.limiter.in_flight and not manager.limiter.waiting)
    assert manager.pool._held.total() == 0
    assert not manager.pool.absences
    assert manager.generate_sync("Was the company fined once?")


def test_a_shutdown_leaves_nothing(servers):
    """Calls in flight and those that wait end with one error; no task looks for a server."""
    group = servers(2, 0.5)
    manager = open_session(group, parallel=2)
    group[1].kill()

    async def ask_all():
        calls = [asyncio.create_task(manager.generate(f"Fined {n} times?")) for n in range(5)]
        while not (manager.limiter.waiting and manager.pool.absences):
            await asyncio.sleep(0.01)
        await manager.shutdown()
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = event_loop.run(asyncio.wait_for(ask_all(), 20))
    assert {type(end).__name__ for end in ends} == {"ServerConnectionLost"}

    async def list_tasks():
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    with contextlib.suppress(asyncio.CancelledError):
        assert event_loop.run(list_tasks()) == []
