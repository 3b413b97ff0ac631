"""A service over the fake Ollama."""

import json

import pytest

from harness import FakeOllama
from urisk_nb import process_state


@pytest.fixture(scope="module")
def fake_ollama(tmp_path_factory):
    """The model server behind the service."""
    from served_app import SCENARIO

    path = tmp_path_factory.mktemp("service") / "scenario.json"
    path.write_text(json.dumps(SCENARIO))
    server = FakeOllama("--scenario", str(path))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def service(fake_ollama):
    """One service for the tests of a module."""
    from served_app import Served

    served = Served(url=fake_ollama.url, max_retries=0, parallel=4, max_body_bytes=200_000)
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
