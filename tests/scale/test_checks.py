"""
Unsuitable clients, workers and models are refused before the first question. Schedulers and workers
are real processes; the answers are SCRIPTED.
"""

import asyncio
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from distributed import Client, LocalCluster

from cluster_runs import TICKERS, write_news
from dask_cluster import open_cluster, release, set_variables
from flaky_server import FlakyServer
from urisk_nb import assess
from urisk_nb.errors import (
    ClusterLost,
    InputError,
    ModelsDiffer,
    PackageMissing,
    ServerNotRunning,
    SettingsError,
    WorkersDiffer,
)
from urisk_nb.scale import checks, jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NEWS = write_news(6)


@pytest.fixture(scope="module")
def client():
    """Two workers without a server, shared by the tests of this module."""
    with open_cluster(2, OLLAMA_URL="http://127.0.0.1:9") as made:
        yield made


@pytest.fixture
def servers(tmp_path):
    """Start servers whose models have the given digests."""
    started = []

    def start(*digests):
        for digest in digests:
            folder = tmp_path / f"{digest}-{len(started)}"
            folder.mkdir()
            started.append(FlakyServer(folder, digest=digest))
        return started

    yield start
    for server in started:
        server.kill()


def never(*_):
    raise AssertionError("it was read")


def report(worker, **changes):
    """The versions that a worker reports, with changes."""
    python = ".".join(map(str, (*sys.version_info[:3], "final", 0)))
    found = {"python": python, "urisk_nb": "0.1.0", **changes}
    return {
        worker: {"host": {"python": found["python"]}, "packages": {"urisk_nb": found["urisk_nb"]}}
    }


@pytest.mark.parametrize(
    ("given", "seen", "call"),
    [
        ("tcp://127.0.0.1:8786", "the text 'tcp://127.0.0.1:8786'", "'tcp://127.0.0.1:8786'"),
        ("gpu-box", "the text 'gpu-box'", "ADDRESS"),
        (pd.DataFrame({"AAA": [1.0, 2.0]}), "a DataFrame", "ADDRESS"),
        (SimpleNamespace(scheduler_address="tcp://a:1"), "a SimpleNamespace", "cluster"),
    ],
)
def test_other_objects_are_refused_as_a_client(given, seen, call):
    """Before anything is read; the error says what was given and how to create a client."""
    with pytest.raises(InputError) as caught:
        assess("AAA", prices=never, client=given)
    assert caught.value.message == f"client is {seen}, not a Dask client."
    assert caught.value.fix.endswith(f"client = Client({call})")


def test_a_client_beside_a_manager_is_refused(client):
    """Only one of them can be used."""

    class Manager:
        ask = None

    with pytest.raises(InputError, match="client and manager were both given"):
        assess("AAA", prices=never, client=client, manager=Manager())


def test_an_asynchronous_client_and_a_closed_one_are_refused(client):
    """Both before anything is read; the fix says what to use instead."""

    async def give_asynchronous():
        async with Client(
            client.scheduler.address, asynchronous=True, set_as_default=False
        ) as other:
            with pytest.raises(InputError, match="client is asynchronous") as caught:
                assess("AAA", prices=never, client=other)
            assert "without asynchronous=True" in caught.value.fix

    asyncio.run(give_asynchronous())
    closed = Client(client.scheduler.address, set_as_default=False)
    closed.close()
    with pytest.raises(InputError, match="client is closed"):
        assess("AAA", prices=never, client=closed)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    """A shell has an address even if distributed is not installed."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PackageMissing) as caught:
        assess("AAA", prices=never, client="tcp://127.0.0.1:8786")
    assert caught.value.fix == 'pip install "urisk-nb[scale]"'


@pytest.mark.parametrize(
    ("changes", "seen", "fix"),
    [
        ({"python": "3.99.1.final.0"}, "runs Python 3.99, but this process runs 3.", "Python 3."),
        ({"urisk_nb": "9.9"}, "has urisk_nb 9.9, but this process has 0.1.0", "pip install"),
        ({"urisk_nb": None}, "has no urisk_nb", 'pip install "urisk-nb[scale]==0.1.0"'),
    ],
    ids=["python", "version", "none"],
)
def test_a_worker_that_differs_is_named(client, monkeypatch, changes, seen, fix):
    """Before the plugin is sent there, where it could not be unpickled."""
    one, other = client.nthreads()

    async def get_versions(*_, **__):
        return {"workers": {**report(one), **report(other, **changes)}}

    monkeypatch.setattr(Client, "get_versions", get_versions)
    monkeypatch.setattr(Client, "register_plugin", never)
    with pytest.raises(WorkersDiffer) as caught:
        assess(TICKERS, evidence=NEWS, client=client)
    assert f"the worker {other} {seen}" in caught.value.message
    assert one not in caught.value.message
    assert fix in caught.value.fix
    assert set(caught.value.partial["status"]) == {"not_run"}


def test_real_workers_report_what_is_compared(client):
    """In the form that the test above makes up."""
    found = client.get_versions(packages=["urisk_nb"])["workers"]
    assert len(found) == 2
    assert checks.find_differences(found) == {}


def test_many_workers_that_differ_are_counted():
    """The message stays short."""
    error = checks.build_differences_error({f"tcp://w:{n}": "has no urisk_nb" for n in range(9)})
    assert error.message.count("has no urisk_nb") == 5
    assert error.message.endswith("; 4 more differ.")


def test_servers_of_other_models_are_refused(client, servers):
    """By the digest, before the first question."""
    first, second = servers("aaaa1111", "bbbb2222")
    set_variables(
        client,
        {
            worker: {"OLLAMA_URL": server.url}
            for worker, server in zip(client.nthreads(), (first, second), strict=True)
        },
    )
    with pytest.raises(ModelsDiffer) as caught:
        assess(TICKERS, evidence=NEWS, client=client)
    release(client)
    assert "aaaa1111" in caught.value.message
    assert "bbbb2222" in caught.value.message
    assert "on each host of the cluster" in caught.value.fix
    assert first.asked() == second.asked() == []


def test_a_cluster_without_a_server_says_what_each_worker_saw(client):
    """As a session without a server does."""
    set_variables(
        client,
        {worker: {"OLLAMA_URL": "http://127.0.0.1:9"} for worker in client.nthreads()},
    )
    with pytest.raises(ServerNotRunning, match="no server of the cluster can be used") as caught:
        assess(TICKERS, evidence=NEWS, client=client)
    release(client)
    assert "http://127.0.0.1:9 on " in caught.value.message
    assert "OLLAMA_AUTO_START is off" in caught.value.message


def test_a_setting_of_a_worker_that_cannot_be_used_names_the_worker(client):
    """The setting is in the worker's environment, not in this one."""
    worker, *_ = client.nthreads()
    set_variables(client, {worker: {"OLLAMA_TIMEOUT": "soon"}})
    with pytest.raises(SettingsError, match=rf"the worker {worker}: OLLAMA_TIMEOUT is 'soon'"):
        assess(TICKERS, evidence=NEWS, client=client)
    set_variables(client, {worker: {"OLLAMA_TIMEOUT": "35"}})


def test_workers_in_this_process_are_refused():
    """They would replace the session of this process."""
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.raises(InputError, match=r"of this client runs in this process") as caught,
    ):
        assess(TICKERS, evidence=NEWS, client=client)
    assert "LocalCluster(processes=True)" in caught.value.fix


def test_a_run_inside_a_task_says_to_leave_out_the_client(client):
    """The worker that runs it would be asked to ask."""

    def run():
        from distributed import get_client

        from urisk_nb import assess

        assess("T0", evidence={"T0": ["It was fined."]}, client=get_client())

    with pytest.raises(InputError, match="runs in this process") as caught:
        client.submit(run, pure=False).result()
    assert caught.value.fix.startswith("leave the client out; or, outside of a Dask task")


def test_a_cluster_without_workers_gets_time_and_then_fails(monkeypatch):
    """The error says how to start workers."""
    monkeypatch.setattr(jobs, "WORKERS_WAIT_S", 0.3)
    with (
        open_cluster(0) as client,
        pytest.raises(ClusterLost, match=r"has no worker; none joined within 0 s") as caught,
    ):
        assess(TICKERS, evidence=NEWS, client=client)
    assert "cluster.scale(2)" in caught.value.fix


def test_an_adaptive_cluster_starts_its_first_worker(servers):
    """It gets a task, since it only starts workers for tasks."""
    (server,) = servers("d1")
    with open_cluster(0, OLLAMA_URL=server.url) as client:
        client.cluster.adapt(minimum=0, maximum=1, interval="100ms")
        table = assess(TICKERS, evidence=NEWS, client=client)
    assert isinstance(table, pd.DataFrame)
    assert set(table["status"]) == {"ok"}
