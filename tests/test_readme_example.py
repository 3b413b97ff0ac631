"""The ten lines of the README run as they stand, and print what stands below them."""

import os
import re
import subprocess
import sys

import pytest

from harness import ROOT, free_port

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.search(
    r"<!-- example.*?-->\n```python\n(.*?)```\n```text\n(.*?)```", README, re.DOTALL
)
LEVELS = {"Low", "Moderate", "Elevated", "High", "Severe", "NR"}


def rows(output):
    """The table's rows by ticker, and the lines after the table."""
    table, _, rest = output.partition("\n\n")
    words = [line.split() for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in words}, rest.splitlines()[1:]


def test_the_example_is_short():
    """
    The README promises ten lines.
    """
    assert len([line for line in EXAMPLE[1].splitlines() if line.strip()]) <= 10


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_example_prints_what_the_readme_shows(demo_model, tmp_path):
    """
    In a new process over the embedded engine: the metrics are those shown, to the digit, and each
    label is one. Which label a sentence has may differ from one processor to another.
    """
    env = {
        **os.environ,
        "URISK_ENGINE": "embedded",
        "URISK_GGUF": str(demo_model),
        "OLLAMA_URL": f"http://127.0.0.1:{free_port()}",
    }
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE[1]],
        capture_output=True,
        text=True,
        env=env,
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    shown, shown_sentences = rows(EXAMPLE[2])
    printed, sentences = rows(done.stdout)
    assert {ticker: row[-3:] for ticker, row in printed.items()} == {
        ticker: row[-3:] for ticker, row in shown.items()
    }
    assert {row[0] for row in printed.values()} <= LEVELS
    assert len(sentences) > 1
    assert all(re.match(r"[a-z]+ [0-5] \S", line) for line in [*sentences, *shown_sentences])
