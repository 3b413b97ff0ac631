"""
What `%urisk_status` says when a server has ended: in plain words, while it is being started again
and when it could not be.
"""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from fake_ollama_env import FakeOllamaEnv
from harness import alive, eventually
from urisk_nb.llm.snapshot import session_notes

MANAGER = "__import__('urisk_nb').LLMManager.get_instance()"


@pytest.fixture
def lab(tmp_path, new_kernel):
    made = FakeOllamaEnv(tmp_path, new_kernel)
    yield made
    made.close()
    eventually(lambda: not made.answers(), 5)


def row(kernel, name):
    text = kernel.good("%urisk_status").text()
    return next(
        (
            " ".join(line.split()[len(name.split()) :])
            for line in text.splitlines()
            if line.strip().startswith(name)
        ),
        "",
    )


@pytest.mark.slow
def test_status_follows_the_server(lab):
    """
    Started here; joined; started again; failed, with the last words and what to do; and a start
    leads out.
    """
    first, server, _ = lab.started()
    second = lab.kernel()
    second.good("%urisk_start")
    assert row(first, "server").endswith("started here")
    assert row(second, "server").endswith("shared with another kernel of yours")
    os.kill(server, signal.SIGKILL)
    eventually(lambda: row(first, "restarts").startswith("once"), 10)
    second.good("%urisk_stop")
    lab.plan(process={"refuse": "panic: SCRIPTED"})
    server = lab.processes()[0]
    first.good("from urisk_nb.server.restart_policy import RestartPolicy")
    first.good(f"{MANAGER}.server.restart_policy = RestartPolicy(pauses_s=(0.05, 0.1, 0.2))")
    os.kill(server, signal.SIGKILL)
    eventually(lambda: "panic: SCRIPTED" in row(first, "failed"), 10)
    assert row(first, "server").endswith("not running")
    assert "%urisk_start" in row(first, "to do")
    lab.plan()
    assert "is ready" in first.good("%urisk_start").text()
    assert row(first, "failed") == ""


@pytest.mark.slow
def test_stop_says_whether_the_server_goes_on(lab):
    """The first of two kernels leaves it to the other; the last one ends it."""
    first, server, _ = lab.started()
    second = lab.kernel()
    second.good("%urisk_start")
    assert "another kernel of yours uses it" in first.good("%urisk_stop").text()
    assert alive(server)
    began = time.monotonic()
    assert "the server has ended" in second.good("%urisk_stop").text()
    assert time.monotonic() - began < 2
    assert not alive(server)


@pytest.mark.parametrize(
    ("model", "judge", "starts"),
    [
        (
            "smollm2-135m",
            "urisk-judge",
            ["The demo model (135 million parameters) answers %%ask", "Labels by urisk-judge"],
        ),
        ("smollm2-135m", "smollm2-135m", ["Labels by the demo model"]),
        ("llama3.1", "llama3.1", []),
    ],
)
def test_the_notes_say_who_asks_and_who_labels(model, judge, starts):
    """
    The demo model's own weakness is told where it labels itself; beside the judge each is told for
    what it does.
    """
    manager = SimpleNamespace(model=model, judge=judge, server_notes=())
    notes = session_notes(manager)
    assert len(notes) == len(starts)
    assert all(note.startswith(start) for note, start in zip(notes, starts, strict=True))
