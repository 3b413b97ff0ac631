"""The gate of CI runs what failed once more, and hides nothing by that."""

import os
import re
import subprocess
import sys

import pytest

from harness import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TWICE = re.search(
    r"^twice\(\) \{\n.*?^\}\n", (ROOT / ".ci/run").read_text(), re.MULTILINE | re.DOTALL
)[0]


def run_gate(folder, body, *words):
    """The status of a pass over one file of tests, and how often pytest ran."""
    (folder / "test_it.py").write_text(f"import os\n\n\ndef test_it():\n    {body}\n")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-n", "2", *words]
    # This test may run in a worker itself
    outside = {name: one for name, one in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(
        ["bash", "-c", f'set -euo pipefail\n{TWICE}twice "$@"\necho passed', "gate", *command],
        cwd=folder,
        env={**outside, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == done.stdout.endswith("passed\n")
    return done.returncode, done.stdout.count("test session starts")


@pytest.mark.parametrize(
    ("body", "words", "expected"),
    [
        ("pass", (), (0, 1)),
        ("assert not os.environ.get('PYTEST_XDIST_WORKER')", (), (0, 2)),
        ("assert False", (), (1, 2)),
        ("os._exit(11) if os.environ.get('PYTEST_XDIST_WORKER') else None", (), (3, 1)),
        ("pass", ("-k", "nothing"), (5, 1)),
        ("pass", ("--no-such-option",), (4, 0)),
    ],
    ids=["passes", "fails once", "fails twice", "a worker crashes", "no test", "bad option"],
)
def test_a_pass_of_the_gate(tmp_path, body, words, expected):
    assert run_gate(tmp_path, body, *words) == expected


def test_what_failed_before_is_no_part_of_a_pass(tmp_path):
    """A pass in which no test ran does not take the last one's failures for its own."""
    assert run_gate(tmp_path, "assert False") == (1, 2)
    assert run_gate(tmp_path, "pass", "-k", "nothing") == (5, 1)
