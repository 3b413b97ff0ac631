"""
Workers, servers and connections that end during a run on a cluster, and runs that are stopped: what
is lost, and what is asked again. The answers are SCRIPTED.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from distributed.comm import CommClosedError

from cluster_runs import TICKERS, assess_locally, compared, count_answers, when, write_news
from dask_cluster import list_pids, open_cluster, set_variables
from flaky_server import FlakyServer
from harness import alive, eventually
from urisk_nb import assess, event_loop
from urisk_nb.errors import ClusterLost
from urisk_nb.risk.questions import build_question
from urisk_nb.scale import cluster
from urisk_nb.scale.jobs import Jobs
from urisk_nb.session import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

IN_FLIGHT = 8  # two batches, each of as many as the server answers at once


@pytest.fixture
def start_server(tmp_path):
    """Start servers with four slots, each with its own log."""
    started = []

    def start(**given):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(FlakyServer(folder, **{"service_s": 0.03, "slots": 4, **given}))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def find_sessions(client):
    """The worker processes that have a session, and so query a server."""

    def has_session():
        from urisk_nb import LLMManager

        return LLMManager.find_instance() is not None

    pids = list_pids(client)
    return [pids[worker] for worker, has_one in client.run(has_session).items() if has_one]


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_worker_costs_its_in_flight_questions(start_server, count):
    """
    Another worker or the nanny's replacement asks them; the table equals the local one.
    """
    server, news = start_server(), write_news(72)
    with open_cluster(
        count,
        OLLAMA_URL=server.url,
    ) as client:
        killed = when(
            lambda: count_answers(server) > 20,
            lambda: os.kill(*find_sessions(client), signal.SIGKILL),
        )
        on_cluster = assess(TICKERS, evidence=news, client=client)
        killed.join()
    asked = server.asked()
    assert len(set(asked)) == 72
    assert len(asked) - 72 <= IN_FLIGHT
    local = assess_locally(server.url, news)
    pd.testing.assert_frame_equal(
        compared(on_cluster).drop(columns="attempts"), compared(local).drop(columns="attempts")
    )


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("at", ["list_versions", "ask_workers", "install", "run"])
def test_a_worker_that_is_killed_as_a_run_begins_is_replaced(start_server, monkeypatch, at, count):
    """
    By another one, or by that of its nanny; at once, though the scheduler may try to reach it.
    """
    server, begin, left = start_server(), getattr(Jobs, at), [True]

    async def kill_first(self, *args, **given):
        if left:
            left.pop()
            os.kill(pids[min(pids)], signal.SIGKILL)
        return await begin(self, *args, **given)

    monkeypatch.setattr(Jobs, at, kill_first)
    with open_cluster(count, OLLAMA_URL=server.url) as client:
        pids = list_pids(client)
        began_s = time.monotonic()
        table = assess(TICKERS, evidence=write_news(12), client=client)
        took_s = time.monotonic() - began_s
    assert set(table["status"]) == {"ok"}
    assert took_s < 15


def test_a_cluster_whose_workers_all_end_at_the_start_says_so(start_server, monkeypatch):
    """Nobody came in their place."""
    server, ask = start_server(), Jobs.ask_workers
    monkeypatch.setattr(cluster, "REPLACED_S", 0.3)

    async def lose(self, *args, workers, **given):
        found = await ask(self, *args, workers=workers, **given)
        return {one: CommClosedError("gone") for one in found}

    monkeypatch.setattr(Jobs, "ask_workers", lose)
    with (
        open_cluster(1, OLLAMA_URL=server.url) as client,
        pytest.raises(ClusterLost, match=r"no worker of the cluster at .* can be asked") as caught,
    ):
        assess(TICKERS, evidence=write_news(6), client=client)
    assert "could not be reached (CommClosedError)" in caught.value.message


def test_two_servers_share_the_work_and_one_may_end(start_server):
    """Each has its own worker. If one is killed, its questions go to the other; it comes back."""
    first, second = start_server(), start_server()
    news = write_news(120)
    with open_cluster(2) as client:
        workers = list(list_pids(client))
        servers = (first, second)
        set_variables(
            client,
            {one: {"OLLAMA_URL": own.url} for one, own in zip(workers, servers, strict=True)},
        )
        killed = when(lambda: count_answers(first) > 8, first.kill)
        on_cluster = assess(TICKERS, evidence=news, client=client)
        killed.join()
        assert set(on_cluster["status"]) == {"ok"}
        assert count_answers(second) > count_answers(first) > 8
        before = count_answers(first)
        first.start()
        again = assess(TICKERS, evidence=news, client=client)
        assert count_answers(first) > before + 20
    local = assess_locally(first.url, news)
    pd.testing.assert_frame_equal(compared(again), compared(local))


def test_a_client_that_loses_its_scheduler_submits_again(start_server):
    """The connection breaks during a run; the client reconnects, and the run continues."""
    server, news = start_server(), write_news(72)
    with open_cluster(
        2,
        OLLAMA_URL=server.url,
    ) as client:
        broken = when(
            lambda: count_answers(server) > 20,
            lambda: client.loop.add_callback(client.scheduler_comm.comm.abort),
        )
        on_cluster = assess(TICKERS, evidence=news, client=client)
        broken.join()
    asked = server.asked()
    assert len(set(asked)) == 72
    assert len(asked) - 72 <= IN_FLIGHT
    local = assess_locally(server.url, news)
    pd.testing.assert_frame_equal(
        compared(on_cluster).drop(columns="attempts"), compared(local).drop(columns="attempts")
    )


def test_a_client_that_is_closed_ends_the_run_and_the_rest_is_asked_later(
    start_server, journal, monkeypatch, no_pauses
):
    """The answers are in the table and the journal; another client asks the rest."""
    monkeypatch.setenv("URISK_OUTAGE_WAIT", "0.2")
    server, news = start_server(), write_news(72)
    with open_cluster(
        2,
        OLLAMA_URL=server.url,
    ) as client:
        from distributed import Client

        lost = Client(client.cluster, set_as_default=False)
        closed = when(lambda: count_answers(server) > 20, lost.close)
        with pytest.raises(ClusterLost, match="its client is closed") as caught:
            assess(TICKERS, evidence=news, client=lost)
        closed.join()
        done = caught.value.partial["judged"].sum()
        assert 8 <= done < 72
        time.sleep(0.3)  # what was under way ends within its batch
        asked_before = len(server.asked())
        table = assess(TICKERS, evidence=news, client=client)
        assert set(table["status"]) == {"ok"}
        assert len(server.asked()) - asked_before <= 72 - 12
    assert len(server.asked()) - 72 <= 2 * IN_FLIGHT


def test_an_interrupt_stops_the_calls_on_the_servers(fake_ollama_with):
    """The prompt is back within a second, and the servers stop generating."""
    rules = [{"contains": "", "answer": {"risk": "legal", "severity": 2}, "first_ms": 20_000}]
    server = fake_ollama_with({"slots": 4, "rules": rules})
    with open_cluster(
        2,
        OLLAMA_URL=server.url,
    ) as client:
        began = []

        def interrupt():
            began.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        interrupted = when(lambda: server.counters()["in_flight"] == 4, interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            assess(TICKERS, evidence=write_news(12), client=client)
        took_s = time.monotonic() - began[0]
        interrupted.join()
        eventually(lambda: server.counters()["in_flight"] == 0, 1.0, "the end of the calls")
        counters = server.counters()
    assert took_s < 1.5
    assert counters["aborted"] >= 4
    assert counters["waiting"] == 0
    assert set(caught.value.partial["status"]) == {"not_run"}


def test_an_interrupt_of_the_cell_leaves_the_workers_of_its_own_cluster(
    start_server, new_kernel, tmp_path
):
    """
    Jupyter interrupts the kernel and all that it started. The workers go on, nothing of theirs
    stands in the cell, and the same cell asks only for the rest.
    """
    server = start_server()
    write_news(240).to_csv(tmp_path / "news.csv", index=False)
    env = {"OLLAMA_URL": server.url, "OLLAMA_AUTO_START": "0", "URISK_PARALLEL": "4"}
    machine = new_kernel({**env, "URISK_JOURNAL": str(tmp_path / "journal.sqlite")}, str(tmp_path))
    machine.good(
        "import os\nfrom distributed import Client, LocalCluster\n"
        "cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=':0')\n"
        "client = Client(cluster)\n%load_ext urisk_nb"
    )
    pids = machine.value("sorted(client.run(os.getpid).values())")
    cell = f"%%risk --evidence news.csv --client client --out table\n{', '.join(TICKERS)}"
    stopped, took_s = machine.interrupt_when(
        machine.start(cell), lambda _: count_answers(server) >= 12
    )
    assert took_s < 3
    assert "stopped with" in stopped.error
    assert "Traceback" not in stopped.text()
    asked = len(server.asked())
    again = machine.good(cell)
    assert "Traceback" not in again.text()
    assert machine.value("sorted(client.run(os.getpid).values())") == pids
    assert machine.value("set(table['status'])") == "{'ok'}"
    assert len(server.asked()) - asked <= 240 - 12 + IN_FLIGHT
    failed = machine.run(cell.replace("--out table", "--model not-there --out other"))
    assert "not-there" in failed.error
    assert "Compute Failed" not in failed.text(), "Dask's log of what the error says"
    machine.good("client.close()\ncluster.close()")


def test_an_interrupt_in_a_terminal_ends_dask_worker(start_server):
    """Its nanny hears it, and takes the worker along."""
    server = start_server()
    dask = [sys.executable, "-m", "distributed.cli.dask_worker"]
    with open_cluster(0, OLLAMA_URL=server.url) as client:
        terminal = subprocess.Popen(
            [*dask, client.scheduler.address, "--nthreads", "1", "--no-dashboard"],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            client.wait_for_workers(1, timeout=30)
            assert set(assess(TICKERS, evidence=write_news(6), client=client)["status"]) == {"ok"}
            (pid,) = list_pids(client).values()
            os.killpg(terminal.pid, signal.SIGINT)
            terminal.wait(20)
            eventually(lambda: not alive(pid), 5, "the end of the worker")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(terminal.pid, signal.SIGKILL)
            terminal.wait(5)


def test_a_question_that_is_cancelled_leaves_those_beside_it(start_server):
    """They are of one batch, which goes on while somebody waits for one of its answers."""
    server = start_server(service_s=0.5)
    run = open_run("T0", evidence=write_news(24))
    chosen = run.plan.selections["T0"].chosen
    questions = [build_question(one, run.plan.params, ticker="T0") for one in chosen]

    async def ask(client):
        session = await cluster.ClusterSession.open(client)
        try:
            await session.find_judges(session.judge)
            first, *others = [asyncio.ensure_future(session.ask(one)) for one in questions]
            while len(server.asked()) < len(questions):
                await asyncio.sleep(0.02)
            first.cancel()
            return await asyncio.wait_for(asyncio.gather(*others), 20)
        finally:
            await session.close()

    with open_cluster(1, OLLAMA_URL=server.url) as client:
        answers = event_loop.run(ask(client))
    assert len(answers) == len(questions) - 1 == 3
    assert len(server.asked()) == 4


def test_a_server_that_a_worker_started_ends_with_the_worker(tmp_path):
    """Its guardian notices that the worker was killed, as it does for a kernel."""
    from fake_ollama_env import FakeOllamaEnv, gone

    lab = FakeOllamaEnv(tmp_path, None)
    lab.plan(rules=[{"contains": "", "answer": {"risk": "legal", "severity": 2}}])
    with open_cluster(1, **lab.env, OLLAMA_AUTO_START="1") as client:
        table = assess(TICKERS, evidence=write_news(6), client=client)
        assert set(table["status"]) == {"ok"}
        processes = lab.processes()
        assert all(map(alive, processes))
        (pid,) = find_sessions(client)
        os.kill(pid, signal.SIGKILL)
        gone(processes, within_s=5)
