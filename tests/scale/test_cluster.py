"""
A run on a Dask cluster gives the table of a local one. Schedulers and workers are real processes;
the answers are SCRIPTED.
"""

import json
import pickle
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest

import urisk_nb
from cluster_runs import TICKERS, assess_locally, compared, write_news
from dask_cluster import list_patched, open_cluster, set_variables
from flaky_server import BABBLE, BOOM, REFUSED, FlakyServer
from harness import FakeOllama, free_port, short_folder
from urisk_nb import LLMManager, assess, cli
from urisk_nb.errors import InputError
from urisk_nb.notebook import magics
from urisk_nb.risk.taxonomy import Category, Taxonomy
from urisk_nb.scale import jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


SEVERE = {"risk": "credit", "severity": 5}
ANY = {"contains": "", "answer": {"risk": "legal", "severity": 2}}


@pytest.fixture
def server(tmp_path):
    """A server with four slots."""
    made = FlakyServer(tmp_path, service_s=0.03, slots=4)
    yield made
    made.kill()


@pytest.mark.parametrize("count", [2, 4])
def test_a_cluster_gives_the_local_table(server, count):
    """
    Row by row, with three kinds of failing sentences, and with as many questions as a local run.
    """
    news = write_news(48, {5: f"It {BOOM}.", 13: f"It {REFUSED}.", 20: f"He {BABBLE}."})
    with open_cluster(count, OLLAMA_URL=server.url) as client:
        on_cluster = assess(TICKERS, evidence=news, client=client)
        asked = sorted(server.asked())
        again = assess(TICKERS, evidence=news, client=client)
    before = len(server.asked())
    local = assess_locally(server.url, news)
    pd.testing.assert_frame_equal(compared(on_cluster), compared(local))
    pd.testing.assert_frame_equal(compared(again), compared(local))
    assert sorted(server.asked()[before:]) == asked
    assert on_cluster.report.meta["judges"] == local.report.meta["judges"]


@pytest.fixture(scope="module")
def two_models():
    """A server with two models that disagree about some sentences."""
    rules = [
        {"model": "qwen2.5:latest", "contains": "number 3 ", "answer": SEVERE},
        {"contains": "", "answer": {"risk": "legal", "severity": 2}},
    ]
    folder = short_folder()
    (folder / "scenario.json").write_text(
        json.dumps({"slots": 4, "models": ["llama3.1", "qwen2.5"], "rules": rules})
    )
    made = FakeOllama("--scenario", str(folder / "scenario.json"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def client(two_models):
    """Two workers on the host of that server, shared by the tests of this module."""
    with open_cluster(2, OLLAMA_URL=two_models.url) as made:
        yield made


@pytest.mark.parametrize(
    "given",
    [
        {"params": {"judge": "llama3.1,qwen2.5"}},
        {"query": "fine"},
        {"params": {"labels": "calibrated", "judge": "qwen2.5"}},
    ],
    ids=["two judges", "a query", "calibrated"],
)
def test_judges_queries_and_priors_are_the_same(two_models, client, given):
    """The table, its findings, and the record of the judges."""
    news = write_news(24)
    on_cluster = assess(TICKERS, evidence=news, client=client, **given)
    local = assess_locally(two_models.url, news, **given)
    # The first ticker that needs a prior pays for it, and which is the first depends on the timing
    assert on_cluster["tokens"].sum() == local["tokens"].sum()
    pd.testing.assert_frame_equal(
        compared(on_cluster).drop(columns="tokens"), compared(local).drop(columns="tokens")
    )
    pd.testing.assert_frame_equal(on_cluster.report.findings, local.report.findings)
    assert on_cluster.report.meta["judges"] == local.report.meta["judges"]
    assert on_cluster.report.meta["kappa"] == local.report.meta["kappa"]


def test_cluster_and_local_runs_share_the_journal(two_models, client, journal):
    """A local run asks nothing that a cluster run asked, and vice versa."""
    news = write_news(24)
    on_cluster = assess(TICKERS, evidence=news, client=client)
    assert on_cluster["cached"].sum() == 0
    local = assess_locally(two_models.url, news)
    again = assess(TICKERS, evidence=news, client=client)
    for table in (local, again):
        assert "24 answers from the journal, none asked." in table.report.meta["messages"]["*"]
    assert local["cached"].tolist() == again["cached"].tolist() == [4] * 6
    shown = urisk_nb.replay(on_cluster.report.meta["run_id"])
    pd.testing.assert_frame_equal(pd.DataFrame(shown), pd.DataFrame(on_cluster))


def test_workers_are_patched_against_the_profiler_deadlock(client):
    """See tests/scale/test_thread_frames.py for the bug of Python 3.11."""
    assess(TICKERS, evidence=write_news(6), client=client)
    assert list_patched(client) == {*client.nthreads()}


def test_parallel_sets_the_calls_in_flight(fake_ollama_with, client):
    """On one server with four slots: two, the default four, and six."""
    rules = [{"contains": "", "answer": {"risk": "legal", "severity": 2}, "first_ms": 40}]
    server = fake_ollama_with({"slots": 16, "rules": rules})
    set_variables(client, {worker: {"OLLAMA_URL": server.url} for worker in client.nthreads()})
    for parallel, peak in ((2, 2), (None, 4), (6, 6)):
        table = assess(TICKERS, evidence=write_news(36), client=client, parallel=parallel)
        assert set(table["status"]) == {"ok"}
        assert server.counters()["peak_in_flight"] == peak


def test_settings_of_the_caller_are_forwarded(fake_ollama_with, client, monkeypatch):
    """Those of the calls; the address of the server is the worker's."""
    server = fake_ollama_with({"models": ["llama3.1", "qwen2.5"], "rules": [ANY]})
    set_variables(client, {worker: {"OLLAMA_URL": server.url} for worker in client.nthreads()})
    monkeypatch.setenv("OLLAMA_MODEL", "qwen2.5")
    monkeypatch.setenv("OLLAMA_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("URISK_NUM_CTX", "8192")
    table = assess(TICKERS, evidence=write_news(6), client=client)
    served_by = table.report.meta["served_by"]
    assert served_by["model"] == "qwen2.5"
    assert served_by["num_ctx"] == 8192
    assert served_by["url"] == f"{client.scheduler.address} (1 server)"


def test_a_question_travels_without_its_document(two_models, client, monkeypatch):
    """The server gives each sentence of a long filing the label that it gives without a cluster."""
    draw, sizes, run = random.Random(1), [], jobs.Jobs.run
    words = ["".join(draw.choices("abcdefghij", k=6)) for _ in range(5000)]
    text = " ".join(
        f"A fine of {' '.join(draw.choices(words, k=12))} was due." for _ in range(2000)
    )

    async def weigh(self, worker, step, *args):
        sizes.append(len(pickle.dumps(args)))
        return await run(self, worker, step, *args)

    set_variables(client, {one: {"OLLAMA_URL": two_models.url} for one in client.nthreads()})
    monkeypatch.setattr(jobs.Jobs, "run", weigh)
    given = {"evidence": {"T0": [text]}, "params": {"max_sentences": 8}}
    on_cluster = assess("T0", client=client, **given)
    local = LLMManager.initialize_sync(url=two_models.url, parallel=4)
    try:
        pd.testing.assert_frame_equal(compared(on_cluster), compared(assess("T0", **given)))
    finally:
        local.shutdown_sync()
    assert len(text) > 150_000
    assert len(sizes) > 3
    assert max(sizes) < 50_000


def test_categories_of_a_class_of_the_user_s_own_are_asked(two_models, client):
    """A worker does not know what a cell defines."""

    class OwnCategory(Category):
        pass

    class OwnTaxonomy(Taxonomy):
        pass

    categories = [OwnCategory(id=one, name=one, definition=f"of {one}") for one in ("legal", "tax")]
    set_variables(client, {one: {"OLLAMA_URL": two_models.url} for one in client.nthreads()})
    own = OwnTaxonomy(categories=tuple(categories), version="mine")
    on_cluster = assess(TICKERS, evidence=write_news(12), client=client, taxonomy=own)
    local = assess_locally(two_models.url, write_news(12), taxonomy=own)
    pd.testing.assert_frame_equal(compared(on_cluster), compared(local))
    assert set(on_cluster["judged"]) == {2}


def run_cell(line, **names):
    shell = SimpleNamespace(user_ns={"news": write_news(6), **names}, user_ns_hidden={})
    args = magics.build_parser("risk").parse_line(f"--evidence news {line}")
    return magics.MAGICS["risk"](shell, args, ", ".join(TICKERS))


def test_a_cell_and_a_shell_can_use_a_cluster(two_models, client, tmp_path, capsys, monkeypatch):
    """By a variable with its client, and by the address of its scheduler."""
    set_variables(client, {one: {"OLLAMA_URL": two_models.url} for one in client.nthreads()})
    assert set(run_cell("--client cluster", cluster=client)["status"]) == {"ok"}
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "news.csv").write_text(write_news(6).to_csv(index=False))
    words = ("risk", *TICKERS, "--evidence", str(tmp_path / "news.csv"), "--json")
    assert cli.main([*words, "--scheduler", client.scheduler.address]) == 0
    record = json.loads(capsys.readouterr().out)["record"]
    assert record["served_by"]["url"].startswith(client.scheduler.address)
    assert cli.main([*words, "--scheduler", client.scheduler.address, "--url", "http://a"]) == 2
    assert "--url was given with --scheduler" in capsys.readouterr().err


def test_a_cell_refuses_other_variables_as_a_client(monkeypatch):
    """Before anything is read; the fix works in a cell."""
    with pytest.raises(InputError, match="--client: there is no variable 'cluster'") as caught:
        run_cell("--client cluster")
    assert caught.value.fix == "assign it in a cell above: cluster = ..."
    with pytest.raises(InputError, match="client is a list, not a Dask client") as caught:
        run_cell("--client cluster", cluster=[1])
    assert "client = Client(ADDRESS)" in caught.value.fix


@pytest.mark.parametrize("address", ["gpu-box", "tcp://gpu-box", "http://gpu-box:8786", ""])
def test_other_texts_are_refused_as_a_scheduler_address(address, capsys):
    """At once, in two lines: Dask itself would try for ten seconds and write a traceback."""
    began_s = time.monotonic()
    assert cli.main(["risk", "T0", "--scheduler", address, "--evidence", "x.csv"]) == 1
    assert time.monotonic() - began_s < 5
    error = capsys.readouterr().err
    assert f"{address!r} is not the address of a scheduler" in error
    assert "Fix: give its host and port, such as tcp://host:8786" in error


def test_a_missing_scheduler_is_named(tmp_path):
    """Before anything is read."""
    (tmp_path / "news.csv").write_text(write_news(6).to_csv(index=False))
    words = ("risk", *TICKERS, "--evidence", str(tmp_path / "news.csv"))
    done = subprocess.run(
        [sys.executable, "-m", "urisk_nb", *words, "--scheduler", f"127.0.0.1:{free_port()}"],
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ClusterLost: no Dask scheduler answers at '127.0.0.1:" in done.stderr
