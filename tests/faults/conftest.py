"""The laboratory of the fault matrix."""

import pytest

from harness import eventually
from laboratory import Laboratory
from urisk_nb import runtime


@pytest.fixture
def lab(tmp_path, new_kernel, monkeypatch):
    """A laboratory; its environment is ours, too."""
    made = Laboratory(tmp_path, new_kernel)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "work")
    yield made
    made.close()
    if (manager := runtime.get("manager")) is not None:
        manager.shutdown_sync()
    eventually(lambda: not made.answers(), 3, "the end of the server")
