"""
A run on a Dask cluster gives the table of a local one. Schedulers and workers are real processes;
what the servers answer is SCRIPTED.
"""

import pandas as pd
import pytest

from cluster_runs import TICKERS, assess_locally, compared, write_news
from dask_cluster import open_cluster
from flaky_server import BABBLE, BOOM, REFUSED, FlakyServer
from urisk_nb import assess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def server(tmp_path):
    """A server that answers four at once."""
    made = FlakyServer(tmp_path, service_s=0.03, slots=4)
    yield made
    made.kill()


@pytest.mark.parametrize("count", [2, 4])
def test_a_cluster_gives_the_local_table(server, count):
    """
    Row by row, with sentences that fail in three ways, and as often asked as in a local run.
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
