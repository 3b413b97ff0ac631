"""The environment of the fault matrix."""

import pytest

from fake_ollama_env import FakeOllamaEnv
from harness import eventually
from urisk_nb import process_state


@pytest.fixture
def lab(tmp_path, new_kernel, monkeypatch):
    """Yield a fake Ollama's environment, which is that of this process, too."""
    made = FakeOllamaEnv(tmp_path, new_kernel)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "work")
    yield made
    made.close()
    if (manager := process_state.get("manager")) is not None:
        manager.shutdown_sync()
    eventually(lambda: not made.answers(), 3, "the end of the server")
