"""
Evidence that a cluster's workers read: they choose what this process would choose.
"""

import contextlib
import os
import pickle
import signal
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from distributed import Client

from cluster_runs import TICKERS, compared
from dask_cluster import list_patched, list_uninterruptible, open_cluster
from harness import eventually
from urisk_nb import assess, process_state
from urisk_nb.errors import WorkersDiffer
from urisk_nb.reading import packed_cache
from urisk_nb.risk.inputs import Document, Holding
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.questions import EXAMPLES
from urisk_nb.risk.selection import SelectionTask
from urisk_nb.risk.taxonomy import DEFAULT
from urisk_nb.scale import reading

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NO_MODEL = {"llm": False}
SENTENCE = "In its year {n} the court found that the company owes a fine of {n} dollars. "


def write_reports(count=300):
    """A long report per company, all different."""
    texts = ["".join(SENTENCE.format(n=n * 7 + k) for n in range(count)) for k in range(6)]
    return pd.DataFrame(zip(TICKERS, texts, strict=True), columns=["ticker", "text"])


def assess_here(reports):
    """The table of this process, without cached selections."""
    process_state.forget(packed_cache.NAME)
    return assess(TICKERS, evidence=reports, params=NO_MODEL)


@pytest.fixture(scope="module")
def client():
    with open_cluster(2) as made:
        yield made


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """One report per batch, only the first is read locally, and the cache is empty."""
    process_state.forget(packed_cache.NAME)
    monkeypatch.setattr(reading, "LOCAL_S", 0.0)
    monkeypatch.setattr(reading, "BATCH_CHARS", 1)


@pytest.fixture
def sent(monkeypatch):
    """The batches that were sent, and their results."""
    found, receive = [], reading._ClusterReader._receive

    def note(self, batch, future):
        if future is not None:
            content = b""
            with contextlib.suppress(MemoryError):
                content = future.result()
            found.append((batch, content))
        return receive(self, batch, future)

    monkeypatch.setattr(reading._ClusterReader, "_receive", note)
    return found


def test_workers_choose_what_this_process_would(client, sent):
    """The table and the sentence counts are equal; the workers read all reports but the first."""
    reports = write_reports()
    there = assess(TICKERS, evidence=reports, params=NO_MODEL, client=client)
    here = assess_here(reports)
    pd.testing.assert_frame_equal(compared(there), compared(here))
    assert [task.holding.symbol for batch, _ in sent for task in batch] == TICKERS[1:]
    assert all(len(pickle.loads(content)) == 1 for _, content in sent)
    assert list_patched(client) == {*client.nthreads()}
    assert list_uninterruptible(client) == {*client.nthreads()}
    sent.clear()
    process_state.forget(packed_cache.NAME)
    assess(TICKERS, evidence=reports, params=NO_MODEL, client=client)
    assert len(sent) == 5
    again = assess(TICKERS, evidence=reports, params=NO_MODEL, client=client)
    assert len(sent) == 5, "what was read is known"
    pd.testing.assert_frame_equal(compared(again), compared(here))


def test_little_evidence_is_read_locally(client, sent, monkeypatch):
    """Sending it would take longer, so the cluster is not used."""
    monkeypatch.setattr(reading, "LOCAL_S", 60.0)
    assess(TICKERS, evidence=write_reports(3), params=NO_MODEL, client=client)
    assert sent == []


def test_a_batch_that_fails_on_a_worker_is_read_locally(client, sent, monkeypatch):
    """For any cause; the table is the same."""

    def fail(content):
        raise MemoryError("seen on the worker")

    monkeypatch.setattr(reading, "select_batch", fail)
    reports = write_reports(20)
    there = assess(TICKERS, evidence=reports, params=NO_MODEL, client=client)
    here = assess_here(reports)
    pd.testing.assert_frame_equal(compared(there), compared(here))
    assert len(sent) == 5


def pause_on_worker(content):
    import time

    time.sleep(60)


@pytest.mark.parametrize("why", ["gone", "busy"])
def test_what_does_not_come_back_is_read_here(monkeypatch, why):
    """After a while without any result; the batches behind it are not waited for as long again."""
    monkeypatch.setattr(reading, "MAX_WAIT_S", 1.0)
    reports, select = write_reports(20), reading._ClusterReader._map_on_workers
    if why == "busy":
        monkeypatch.setattr(reading, "select_batch", pause_on_worker)
    with open_cluster(1) as client:
        if why == "gone":

            def let_go(self, *args):
                client.cluster.scale(0)
                eventually(lambda: not client.nthreads(), 20, "the end of the worker")
                return select(self, *args)

            monkeypatch.setattr(reading._ClusterReader, "_map_on_workers", let_go)
        began_s = time.monotonic()
        there = assess(TICKERS, evidence=reports, params=NO_MODEL, client=client)
        took_s = time.monotonic() - began_s
    here = assess_here(reports)
    pd.testing.assert_frame_equal(compared(there), compared(here))
    assert took_s < 15


def test_each_result_begins_the_wait_anew(monkeypatch):
    """A cluster that is slow, and brings back batch after batch, is not given up."""
    monkeypatch.setattr(reading, "MAX_WAIT_S", 0.2)
    made = reading._ClusterReader(None)
    made._overdue_s = time.monotonic() + 0.2
    for _ in range(4):
        later_s = time.monotonic() + 0.1
        assert made._await_end(SimpleNamespace(done=lambda at=later_s: time.monotonic() > at))
    assert not made._await_end(SimpleNamespace(done=lambda: False))


@pytest.mark.parametrize("when", ["_count_threads", "_send", "_receive"])
def test_a_client_that_is_closed_while_it_reads_costs_nothing(client, monkeypatch, when):
    """All is read here; the questions, if there are any, say that it is closed."""
    other = Client(client.scheduler.address, set_as_default=False)
    call, reports = getattr(reading._ClusterReader, when), write_reports(20)
    left = [True]

    def close_first(self, *args):
        if left:
            left.pop()
            other.close()
        if when == "_send":  # between its look at the client and the next step
            other.status = "running"
        return call(self, *args)

    monkeypatch.setattr(reading._ClusterReader, when, close_first)
    there = assess(TICKERS, evidence=reports, params=NO_MODEL, client=other)
    monkeypatch.undo()
    other.status = "closed"
    pd.testing.assert_frame_equal(compared(there), compared(assess_here(reports)))


def test_many_small_tasks_are_shared_out_in_a_moment():
    """The batches of thousands of companies: each task is weighed once."""
    made = [
        SelectionTask(
            holding=Holding(symbol=f"T{number}"),
            documents=(Document(id=f"E{number}", ticker=f"T{number}", text="It was fined." * 9),),
            previous=None,
            params=RiskParams.of(),
            taxonomy=DEFAULT,
            examples=EXAMPLES,
        )
        for number in range(6000)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BATCH_CHARS", 400_000)
        began_s = time.process_time()
        batches = list(reading._split_into_batches(made))
        took_s = time.process_time() - began_s
    assert [len(batch) for batch in batches] == [3419, 2581]
    assert took_s < 0.5


def test_workers_that_differ_are_refused_before_documents_are_sent(client, monkeypatch):
    """As before the first question."""

    def find(workers):
        return dict.fromkeys(workers, "has no urisk_nb")

    monkeypatch.setattr(reading, "find_differences", find)
    with pytest.raises(WorkersDiffer, match="has no urisk_nb"):
        assess(TICKERS, evidence=write_reports(3), params=NO_MODEL, client=client)


def test_a_worker_that_is_killed_while_it_reads_costs_a_batch(monkeypatch, tmp_path):
    """Dask runs the batch again on another worker."""
    mark, select = str(tmp_path / "mark"), reading.select_batch

    def die_once(content):
        from pathlib import Path

        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return select(content)

    monkeypatch.setattr(reading, "select_batch", die_once)
    reports = write_reports(20)
    with open_cluster(2) as client:
        there = assess(TICKERS, evidence=reports, params=NO_MODEL, client=client)
    assert os.path.exists(mark)
    here = assess_here(reports)
    pd.testing.assert_frame_equal(compared(there), compared(here))
