"""Whose socket listens at a port."""

import os
import socket
import sys
from pathlib import Path

import pytest

from urisk_nb.server import port as port_module
from urisk_nb.server.port import listens, owner_uid

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@LINUX
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_the_owner_of_a_port_is_known(family, address):
    """The kernel tells whose process listens, over both protocols; nobody listening is nobody's."""
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        port = listener.getsockname()[1]
        assert owner_uid(port) is None
        listener.listen()
        assert owner_uid(port) == os.getuid()
        with socket.create_connection((address, port)) as talker:
            assert owner_uid(talker.getsockname()[1]) is None, "talks, does not listen"
    assert owner_uid(port) is None


def test_the_owner_is_unknown_where_the_system_does_not_tell(monkeypatch):
    """Without these tables nothing is claimed."""
    monkeypatch.setattr(port_module, "Path", lambda name: Path("/nowhere") / name.lstrip("/"))
    assert owner_uid(1) is None


@LINUX
def test_who_listens_is_known_by_the_group():
    """Our own group listens, another process does not."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert listens(os.getpgid(0), port)
        assert not listens(1, port) or os.getpgid(0) == 1
    assert not listens(os.getpgid(0), port)
