"""
Workers that join during a run on a cluster, sessions that end during it, and callers that are
killed. The answers are SCRIPTED.
"""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from distributed import WorkerPlugin

from cluster_runs import TICKERS, assess_locally, compared, write_news
from dask_cluster import open_cluster, release
from flaky_server import FlakyServer
from harness import ROOT, eventually
from urisk_nb import assess, replay
from urisk_nb.scale import cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def start_server(tmp_path):
    """Start servers with four slots, each with its own log."""
    started = []

    def start(**given):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(FlakyServer(folder, **{"service_s": 0.05, "slots": 4, **given}))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def tell_when(condition, do):
    """A progress callback that acts once, as soon as a condition holds."""
    done = []

    def tell(_):
        if not done and condition():
            done.append(True)
            do()

    return tell


def suspend_while_worker_joins(server, client, is_enough):
    """
    A progress callback that starts another worker after some questions, and suspends the server
    until the worker has done enough.
    """
    steps = []

    def tell(_):
        if not steps and len(server.asked()) > 8:
            steps.append("held")
            server.hang()
            client.cluster.scale(2)
        elif steps == ["held"] and is_enough():
            steps.append("released")
            os.kill(server.process.pid, signal.SIGCONT)

    return tell


def test_a_worker_that_joins_later_takes_part(start_server, monkeypatch):
    """It uses its own server; the calls in flight are those of both servers."""
    first, second = start_server(service_s=0.15, slots=1), start_server()
    news = write_news(120)
    with open_cluster(1, OLLAMA_URL=first.url, URISK_PARALLEL="1") as client:
        monkeypatch.setenv("OLLAMA_URL", second.url)
        monkeypatch.setenv("URISK_PARALLEL", "4")
        tell = tell_when(lambda: len(first.asked()) > 4, lambda: client.cluster.scale(2))
        on_cluster = assess(TICKERS, evidence=news, client=client, on_progress=tell)
    assert len(second.asked()) > 20
    assert second.most_in_flight() > 1
    assert sorted(first.asked() + second.asked()) == sorted(news["text"])
    local = assess_locally(first.url, news)
    pd.testing.assert_frame_equal(compared(on_cluster), compared(local))


@pytest.mark.parametrize("why", ["its version", "its model"])
def test_a_worker_that_joins_later_and_differs_is_named(start_server, monkeypatch, journal, why):
    """Under the table, also after a replay; it gets no question."""
    sessions, left_out = [], cluster.ClusterSession.list_left_out
    begin = cluster.ClusterSession.__init__
    monkeypatch.setattr(
        cluster.ClusterSession,
        "__init__",
        lambda self, *given: (sessions.append(self), begin(self, *given))[1],
    )
    first, second = start_server(), start_server(digest="other")
    if why == "its version":
        known = set()

        def find(seen):
            known.update(seen if not known else ())
            return dict.fromkeys(set(seen) - known, "has no urisk_nb")

        monkeypatch.setattr(cluster, "find_differences", find)
    with open_cluster(1, OLLAMA_URL=first.url) as client:
        monkeypatch.setenv("OLLAMA_URL", second.url)
        tell = suspend_while_worker_joins(first, client, lambda: bool(left_out(sessions[0])))
        table = assess(TICKERS, evidence=write_news(60), client=client, on_progress=tell)
    assert second.asked() == []
    (note,) = (one for one in table.report.meta["messages"]["*"] if "took no part" in one)
    assert ("has no urisk_nb" if why == "its version" else "different models") in note
    shown = replay(table.report.meta["run_id"])
    assert shown.report.meta["messages"]["*"] == table.report.meta["messages"]["*"]


def test_sessions_that_end_during_a_run_start_again(start_server):
    """In-flight questions are sent again."""
    server, news = start_server(), write_news(72)
    with open_cluster(2, OLLAMA_URL=server.url) as client:
        tell = tell_when(lambda: len(server.asked()) > 16, lambda: release(client))
        on_cluster = assess(TICKERS, evidence=news, client=client, on_progress=tell)
    local = assess_locally(server.url, news)
    drop = ["attempts"]
    pd.testing.assert_frame_equal(
        compared(on_cluster).drop(columns=drop), compared(local).drop(columns=drop)
    )


class Poison(WorkerPlugin):
    """Every worker that asks about one sentence is killed, also replacements."""

    def setup(self, worker):
        import os
        import signal

        from urisk_nb.scale import steps

        ask = steps.answer

        async def answer(batch):
            if any("is poison" in one.sentence.text for one in batch.questions):
                os.kill(os.getpid(), signal.SIGKILL)
            return await ask(batch)

        answer.__module__, answer.__qualname__ = ask.__module__, ask.__qualname__
        steps.answer = answer


def test_a_sentence_that_crashes_workers_stays_without_a_label(start_server):
    """After two workers, and a third that got it alone; every other sentence gets its label."""
    server, news = start_server(), write_news(36, {7: "This one is poison."})
    with open_cluster(3, OLLAMA_URL=server.url) as client:
        client.register_plugin(Poison(), name="poison")
        table = assess(TICKERS, evidence=news, client=client)
    assert table["judged"].tolist() == [6, 5, 6, 6, 6, 6]
    assert table["status"].tolist() == ["ok", "partial", *["ok"] * 4]
    assert "This one is poison." not in server.asked()


CALLER = """
import sys
sys.path.insert(0, "tests")
from distributed import Client
from cluster_runs import TICKERS, write_news
from urisk_nb import assess
assess(TICKERS, evidence=write_news(180), client=Client(sys.argv[1]))
"""


def test_a_killed_caller_leaves_no_call_running(start_server):
    """Its batches finish, and no other starts."""
    server = start_server()
    with open_cluster(2, OLLAMA_URL=server.url) as client:
        caller = subprocess.Popen(
            [sys.executable, "-c", CALLER, client.scheduler.address], cwd=ROOT
        )
        try:
            eventually(lambda: len(server.asked()) > 16, 30, "the first questions")
        finally:
            before = len(server.asked())
            caller.kill()
            caller.wait()
        time.sleep(1.0)
        asked = len(server.asked())
        assert asked - before <= 12
        time.sleep(0.5)
        assert len(server.asked()) == asked
        table = assess(TICKERS, evidence=write_news(6), client=client)
        assert set(table["status"]) == {"ok"}
