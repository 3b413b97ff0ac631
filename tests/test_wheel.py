"""The wheel: what is in it, and that it works where nothing else is installed."""

import subprocess

import pytest

from harness import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_wheel_works_in_an_empty_environment(tmp_path):
    """
    It holds our package alone, no file of it serves as an Ollama does, and its commands work. The
    dependencies come from the package index.
    """
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "smoke-wheel", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "no model can answer" in done.stdout
    assert "GOOG" in done.stdout
    assert done.stdout.endswith("The wheel works.\n")
