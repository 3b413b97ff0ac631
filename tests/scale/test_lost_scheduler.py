"""
A scheduler that ends during a run. In its own file, because Dask's workers take half a minute to
notice, and the cluster waits for them.
"""

import pytest

from cluster_runs import TICKERS, count_answers, when, write_news
from dask_cluster import open_cluster
from flaky_server import FlakyServer
from urisk_nb import assess
from urisk_nb.errors import ClusterLost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def server(tmp_path):
    made = FlakyServer(tmp_path, service_s=0.03, slots=4)
    yield made
    made.kill()


def test_a_run_waits_for_a_lost_scheduler_and_then_fails(server, monkeypatch):
    """It waits as long as the settings say, and keeps the rows so far."""
    monkeypatch.setenv("URISK_OUTAGE_WAIT", "0.2")
    with open_cluster(1, OLLAMA_URL=server.url) as client:
        ended = when(
            lambda: count_answers(server) > 20,
            lambda: client.loop.add_callback(client.cluster.scheduler.close),
        )
        with pytest.raises(ClusterLost, match="is lost") as caught:
            assess(TICKERS, evidence=write_news(72), client=client)
        ended.join()
    assert caught.value.partial["judged"].sum() >= 8
