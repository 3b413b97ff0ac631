"""The frames of outputs that change in place: how many are sent, and the last one at once."""

from itertools import pairwise

import pytest

from urisk_nb.render import board
from urisk_nb.render.board import Board, FrameBudget


class Clock:
    """A clock that goes when it is slept by."""

    def __init__(self):
        self.now_s, self.slept_s = 100.0, []

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.slept_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(board, "time", clock)
    return clock


@pytest.fixture
def sent(monkeypatch, clock):
    """What a kernel's board sends: at what time, and the text."""
    sent = []
    monkeypatch.setattr(board, "_in_kernel", lambda: True)
    monkeypatch.setattr(board, "_BUDGET", FrameBudget())

    def display(self, bundle):
        self.handle = self.handle or object()
        sent.append((clock.now_s, bundle["text/plain"]))

    monkeypatch.setattr(Board, "_display", display)
    return sent


def test_a_burst_is_followed_by_ten_frames_a_second(clock):
    """Twenty frames go at once; each one more waits for a tenth of a second."""
    budget = FrameBudget(burst=20, interval_s=0.1)
    for _ in range(20):
        budget.take()
    assert clock.slept_s == []
    for _ in range(5):
        budget.take()
    assert clock.slept_s == pytest.approx([0.1] * 5)
    clock.now_s += 60
    assert budget.wait_s() == 0
    for _ in range(21):
        budget.take()
    assert len(clock.slept_s) == 6, "what was not used is not saved beyond a burst"


def test_the_last_frame_of_an_answer_does_not_wait(clock, sent):
    """A hundred tokens at 5 ms: a frame each tenth of a second, and the last one at once."""
    board = Board(grows=True)
    for number in range(1, 101):
        clock.now_s += 0.005
        board.show("word " * number, "")
    ended_s = clock.now_s
    board.finish("word " * 100 + "facts", "")
    assert sent[-1] == (ended_s, "word " * 100 + "facts")
    assert clock.slept_s == []
    gaps = [after - before for (before, _), (after, _) in pairwise(sent[:-1])]
    assert len(sent) <= 7
    assert min(gaps) >= 0.1 - 1e-9


def test_many_short_answers_do_not_flood_the_front_end(clock, sent):
    """
    A loop over a thousand answers that take no time: every last frame is sent, in any second at
    most a burst and ten more.
    """
    for number in range(1000):
        board = Board(grows=True)
        board.show(f"{number}", "")
        board.finish(f"{number} done", "")
    assert [text for _, text in sent if text.endswith("done")] == [
        f"{number} done" for number in range(1000)
    ]
    times = [at for at, _ in sent]
    for start in times:
        assert sum(start <= at < start + 1 for at in times) <= 31


def test_a_tight_loop_of_frames_is_thinned(clock, sent):
    """Four thousand frames within a second: ten are sent, and the last one."""
    board = Board(grows=True)
    for number in range(4000):
        clock.now_s += 1 / 4000
        board.show(f"{number}", "")
    board.finish("the last", "")
    assert len(sent) <= 12
    assert sent[-1][1] == "the last"
