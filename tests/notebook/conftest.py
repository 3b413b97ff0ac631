"""What the tests of front ends share: the server that all of them ask, and how each finds it."""

import pytest

from front_ends import build_environment, start_server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with start_server(tmp_path_factory.mktemp("front_ends")) as started:
        yield started


@pytest.fixture
def env(server, tmp_path):
    return build_environment(server, tmp_path)
