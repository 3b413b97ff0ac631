"""A lease to take in a test, given back after it."""

import pytest

from lease_holders import leave
from urisk_nb import event_loop
from urisk_nb.server import leases


@pytest.fixture
def start():
    """Take a share in an engine's server; whatever a test does, it is given back."""
    held = []

    def begin(engine, settings):
        held.append(event_loop.run(leases.start(engine, settings)))
        return held[-1]

    yield begin
    for lease in held:
        leave(lease)
