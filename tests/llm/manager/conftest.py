"""Places of a test's own, and an `ollama` for its PATH."""

import pytest

from harness import OllamaProgram
from urisk_nb import process_state


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, run_folder):
    """Logs, data and programs of a test's own, no `.env` above it, and no session left."""
    for name in ("data", "bin", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    yield
    if (manager := process_state.get("manager")) is not None:
        manager.shutdown_sync()
        process_state.forget("manager")


@pytest.fixture
def ollama(tmp_path):
    """
    Make an `ollama` on the PATH that serves as the real one does, with these models and rules.
    """
    return lambda **scenario: OllamaProgram(tmp_path / "bin", scenario).path
