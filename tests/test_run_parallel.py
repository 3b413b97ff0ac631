"""
So many calls in flight as a run asks for, whatever its session allows; counted by the server. Its
answers are SCRIPTED.
"""

import contextlib

import pandas as pd
import pytest

from fake_ollama_env import FakeOllamaEnv
from harness import free_port
from urisk_nb import LLMManager, assess, process_state
from urisk_nb.errors import InputError

pytestmark = pytest.mark.slow  # each of them waits for replies

NEWS = pd.DataFrame(
    [("AAA", f"Sentence number {number} is about a fine.") for number in range(12)],
    columns=["ticker", "text"],
)
JUDGE = [{"contains": "", "answer": {"risk": "legal", "severity": 2}, "first_ms": 60}]


@pytest.fixture
def session(fake_ollama_with):
    """A session of one place, over a server that answers eight at once."""
    server = fake_ollama_with({"slots": 8, "rules": JUDGE})
    manager = LLMManager.initialize_sync(url=server.url, parallel=1)
    yield manager, server
    manager.shutdown_sync()
    assert process_state.get("manager") is None


@pytest.mark.parametrize(
    ("given", "peak"), [(4, 4), ("3", 3), (None, 1)], ids=["four", "as text", "not given"]
)
def test_a_run_has_as_many_calls_in_flight_as_it_asks_for(session, given, peak):
    """
    A session of one place gives way for the run, and has its own limit back afterwards.
    """
    manager, server = session
    table = assess("AAA", evidence=NEWS, parallel=given)
    assert table.loc["AAA", "judged"] == 12
    assert server.counters()["peak_in_flight"] == peak
    assert manager.parallel == 1
    assert "*" not in table.report.meta["messages"]


def test_a_run_that_asks_for_less_leaves_the_session_alone(session):
    """
    The run keeps to its own number; the session's limit is not touched.
    """
    manager, server = session
    manager.parallel = 6
    assess("AAA", evidence=NEWS, parallel=2)
    assert server.counters()["peak_in_flight"] == 2
    assert manager.parallel == 6


def test_the_limit_comes_back_after_a_run_that_fails(session):
    """
    Also where two runs have asked for more, and one of them has ended.
    """
    (manager, _), seen = session, []
    with manager.allow_parallel(5):
        with contextlib.suppress(InputError), manager.allow_parallel(9):
            seen.append(manager.parallel)
            raise InputError("seen", fix="do this")
        seen.append(manager.parallel)
    assert [*seen, manager.parallel] == [9, 5, 1]


@pytest.mark.parametrize("given", [0, -1, 257, 1.5, "many", "1.5", True, [4]])
def test_a_number_that_cannot_be_is_refused_before_any_server(given):
    """
    The error names the parameter, what was seen and what is allowed.
    """
    with pytest.raises(
        InputError, match=r"parallel=.* is not a whole number from 1 to 256"
    ) as caught:
        assess("AAA", evidence=NEWS, parallel=given)
    assert repr(given) in caught.value.message
    assert process_state.get("manager") is None


def test_a_server_of_ours_with_fewer_slots_is_said(tmp_path, monkeypatch):
    """
    The calls are in flight and wait in the server: the table says so, and how to get more.
    """
    lab = FakeOllamaEnv(tmp_path, None)
    lab.plan(rules=JUDGE)
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "work")
    manager = LLMManager.initialize_sync(url=f"http://127.0.0.1:{free_port()}", engine="ollama")
    try:
        table = assess("AAA", evidence=NEWS, parallel=3)
    finally:
        manager.shutdown_sync()
    (note,) = table.report.meta["messages"]["*"]
    assert note.startswith("3 calls are in flight")
    assert "%urisk_start --parallel 3" in note
    assert note in " ".join(repr(table).split())
