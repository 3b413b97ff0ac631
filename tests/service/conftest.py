"""A service over a scripted model server, whose answers are SIMULATED."""

import json

import pytest

from harness import StandIn
from urisk_nb import process_state


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    """The model server behind the service."""
    from served_app import SCENARIO

    path = tmp_path_factory.mktemp("service") / "scenario.json"
    path.write_text(json.dumps(SCENARIO))
    server = StandIn("--scenario", str(path))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def service(standin):
    """One service for the tests of a module."""
    from served_app import Served

    served = Served(url=standin.url, max_retries=0, parallel=4, max_body_bytes=200_000)
    served.ready()
    yield served
    served.stop()
    assert process_state.get("manager") is None


@pytest.fixture
def another(service):
    """More apps over the same session; each is closed again."""
    from served_app import Served

    made = []

    def make(**options):
        made.append(Served(**options))
        return made[-1]

    yield make
    for served in made:
        served.stop()
