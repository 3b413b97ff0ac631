"""What the tests of engine, process and manager share: places of a test's own, and an `ollama` of its own making."""

import sys
import textwrap

import pytest


@pytest.fixture
def own_places(monkeypatch, tmp_path):
    """Folders of a test's own for locks, logs and data, and no `ollama` on the PATH but the test's."""
    for name in ("run", "data", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def program(tmp_path):
    """Make an `ollama` on the PATH out of Python lines."""

    def make(body, mode=0o755):
        path = tmp_path / "bin" / "ollama"
        path.write_text(f"#!{sys.executable} -I\n{textwrap.dedent(body)}")
        path.chmod(mode)
        return path

    return make
