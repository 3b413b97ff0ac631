"""
What a script is told of a run while it goes on: `assess(..., on_progress=...)`.
"""

import asyncio
import contextlib
import itertools
import threading
import time

import pytest

from scripted_judge import Listed, by_word, news
from urisk_nb import session
from urisk_nb.errors import InputError
from urisk_nb.session import assess, assess_async


def assess_on_a_loop(*args, **kwargs):
    return asyncio.run(assess_async(*args, **kwargs))


class Slow(Listed):
    async def ask(self, question, model=None):
        await asyncio.sleep(0.25)
        return await super().ask(question, model)


THREE = news(("A", "A was fined."), ("B", "B opened a shop."), ("C", "C opened a shop."))


@pytest.mark.parametrize("run", [assess, assess_on_a_loop])
def test_progress_is_told_to_a_script(run):
    """On the caller's thread (and loop), at least each half second, and once when all is done."""
    told = []

    def tell(progress):
        told.append((time.monotonic(), threading.current_thread(), is_loop_running(), progress))

    began_s = time.monotonic()
    run("A B C", evidence=THREE, manager=Slow(by_word), on_progress=tell)
    times = [began_s, *(one[0] for one in told)]
    assert len(told) >= 2
    assert max(later - sooner for sooner, later in itertools.pairwise(times)) < 1.0
    assert {one[1] for one in told} == {threading.current_thread()}
    assert {one[2] for one in told} == {run is assess_on_a_loop}
    assert [one[3].asked for one in told] == sorted(one[3].asked for one in told)
    assert str(told[-1][3]).startswith("3 of 3 rows, ")
    assert "left" not in str(told[-1][3])


def is_loop_running():
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop() is not None
    return False


@pytest.mark.parametrize("run", [assess, assess_on_a_loop])
def test_an_error_of_the_callback_ends_the_run_with_its_table(run):
    """No call is left behind on the loop."""
    manager = Slow(by_word)

    def fail(progress):
        if progress.rows:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run("A B C", evidence=THREE, manager=manager, on_progress=fail)
    assert caught.value.partial["status"].tolist()[0] == "ok"
    assert "not_run" in caught.value.partial["status"].tolist()
    asked = len(manager.asked)
    time.sleep(0.4)
    assert len(manager.asked) == asked


def test_progress_while_evidence_is_read(monkeypatch):
    """It says whose, as a cell does."""
    monkeypatch.setattr(session, "PROGRESS_S", 0.0)
    told = []
    assess(
        "A B C", evidence=THREE, manager=Listed(by_word),
        on_progress=lambda progress: told.append(str(progress)),
    )  # fmt: skip
    assert told[:3] == [
        f"reading the evidence of {name} ({number} of 3)" for number, name in enumerate("ABC", 1)
    ]


async def tell_later(progress):
    raise AssertionError(progress)


@pytest.mark.parametrize("given", ["print", 3, tell_later])
def test_what_cannot_be_called_is_refused(given):
    """Before anything is read; a coroutine would never run."""
    with pytest.raises(InputError, match="on_progress") as caught:
        assess("A", evidence=THREE, manager=Listed(by_word), on_progress=given)
    assert "on_progress=print" in caught.value.fix
