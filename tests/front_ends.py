"""
The front ends that people have, for the tests that run them: the same cells for each, over one
scripted server.
"""

import contextlib
import importlib.util
import json
import os

import pytest

from harness import ROOT, FakeOllama

ANSWER = "one two three four five six"
TWO_LINES = [
    "ServerInternalError: the server answered with HTTP 500: something odd",
    "  Fix: ask again; if it goes on, look at the server's log",
]
SCENARIO = {
    "slots": 4,
    "rules": [
        {"contains": "fined", "answer": {"risk": "legal", "severity": 3}},
        {"contains": "odd", "status": 500, "error": "something odd"},
        {"contains": "there", "answer": ANSWER, "token_ms": 20},
        {"contains": "slowly", "answer": ANSWER, "token_ms": 300},
        {"contains": "long", "answer": "word " * 2000, "token_ms": 20},
        {"contains": "", "answer": {"risk": "none", "severity": 0}},
    ],
}
SETUP = """%load_ext urisk_nb
import pandas as pd
news = pd.DataFrame([("AAA", "It was fined by the court.")], columns=["ticker", "text"])
odd = pd.DataFrame([("AAA", "An odd sentence.")], columns=["ticker", "text"])"""
GOOD = [
    SETUP,
    "%urisk_start",
    "%%ask\nAre you there",
    "%%risk --evidence news\nAAA",
]
BAD = [*GOOD, "%%risk --evidence odd\nAAA", "print('never', 'here')"]
KERNEL = {
    "kernelspec": {
        "name": "python3",
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
}


def needs(module):
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


@contextlib.contextmanager
def start_server(folder):
    """The server that all front ends ask."""
    path = folder / "scenario.json"
    path.write_text(json.dumps(SCENARIO))
    started = FakeOllama("--scenario", str(path))
    yield started
    started.stop()


def build_environment(server, folder):
    """The environment of a front end; a fault of the server isn't waited out."""
    return {
        **os.environ,
        "OLLAMA_URL": server.url,
        "URISK_OUTAGE_WAIT": "0",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
    }
