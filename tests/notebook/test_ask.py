"""`%urisk_start`, `%%ask`, `%urisk_status`, `%urisk_stop` in a real kernel against a stand-in of ours."""

import re

import pytest

SLOW = {"rules": []}


@pytest.fixture(scope="module")
def started(kernel, standin):
    kernel.good(f"%urisk_start --url {standin.url}")
    return kernel


def test_start_says_what_answers_and_again_changes_nothing(started, standin):
    """
    The line names engine, address and model; SIMULATED stands beside it; a second start asks for nothing more.
    """
    cell = started.good("%urisk_start")
    assert "SIMULATED" in cell.text()
    assert standin.url in cell.text()
    assert "simulated" in cell.text()
    before = standin.counters()["requests"]
    started.good("%urisk_start")
    assert standin.counters()["requests"] - before <= 1


def test_ask_streams_and_binds(started):
    """
    The cell shows the whole answer, and the name is given it as a string that knows its timing.
    """
    cell = started.good("%%ask answer\nWhat are the risks in NVDA?")
    assert "SIMULATED" in cell.text()
    assert started.value("isinstance(answer, str) and len(answer) > 5 and answer.timing.total_s > 0") == "True"
    assert started.value("answer[:20]") in cell.text()


def test_status_counts_the_calls(started):
    """
    After a call the status has its number and its median times.
    """
    started.good("%%ask\nHello?")
    text = started.good("%urisk_status").text()
    assert re.search(r"calls\s+[1-9]", text)
    assert "first token, p50" in text


def test_braces_reach_the_model_as_they_are(started):
    """
    {x} and $x in a question are not expanded by IPython.
    """
    started.good("x = 'WRONG'")
    assert started.good("%%ask --system {x}\nWhat is {x} and $x?").status == "ok"


def test_stop_and_status_without_a_session(new_kernel):
    """
    Before a start, stop and status say so and are no errors.
    """
    kernel = new_kernel()
    kernel.good("%load_ext urisk_nb")
    assert "Nothing to stop" in kernel.good("%urisk_stop").text()
    assert "%urisk_start" in kernel.good("%urisk_status").text()
