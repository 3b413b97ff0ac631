"""The example notebooks with real weights, as a reader runs them: the demo model and the judge."""

import json
import os
import subprocess
import sys

import pytest

from harness import ROOT, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_embedded_engine(path, demo_model, run_folder, tmp_path):
    """No cell fails, and whoever is asked is the model that the notebook says."""
    env = {
        **os.environ,
        "OLLAMA_URL": f"http://127.0.0.1:{free_port()}",
        "URISK_ENGINE": "embedded",
        "URISK_GGUF": str(demo_model),
        "URISK_STATIC": "1",
        "XDG_RUNTIME_DIR": str(run_folder),
    }
    words = ["--to", "notebook", "--execute", "--output-dir", str(tmp_path), str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", *words],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT / "notebooks",
    )
    assert done.returncode == 0, done.stderr[-6000:]
    cells = json.loads((tmp_path / path.name).read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output["output_type"] == "error"]
    stored = path.read_text(encoding="utf-8")
    for who in ("smollm2-135m", "urisk-judge"):
        assert (who in str(outputs)) == (who in stored)
