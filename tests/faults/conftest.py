"""The laboratory of the fault matrix."""

import pytest

from fake_ollama_env import Laboratory
from harness import eventually
from urisk_nb import process_state


@pytest.fixture
def lab(tmp_path, new_kernel, monkeypatch):
    """A laboratory; its environment is ours, too."""
    made = Laboratory(tmp_path, new_kernel)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "work")
    yield made
    made.close()
    if (manager := process_state.get("manager")) is not None:
        manager.shutdown_sync()
    eventually(lambda: not made.answers(), 3, "the end of the server")
