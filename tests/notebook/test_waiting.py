"""
What `%%ask` says before the first text, and where no text comes at all.
"""

import time

import pytest

from chat_server import serve
from urisk_nb import LLMManager
from urisk_nb.chat.options import AnswerOptions
from urisk_nb.llm.answers import Answer
from urisk_nb.llm.calls import Calls, timing_of
from urisk_nb.llm.messages import Chunk, Final
from urisk_nb.notebook.answer_display import show_answer
from urisk_nb.render import board
from urisk_nb.render.board import Board


@pytest.fixture
def frames(monkeypatch):
    """The frames that a kernel sends: text and markup."""
    frames = []
    monkeypatch.setattr(board, "_in_kernel", lambda: True)
    monkeypatch.setattr(board, "INTERVAL_S", 0.0)
    monkeypatch.setattr(Board, "_display", lambda _, bundle: frames.append(tuple(bundle.values())))
    return frames


def answer_of(text, **rest):
    timing = timing_of(Final(), first_token_s=1.0, total_s=1.5)
    return Answer(text, model="m", engine="ollama", done_reason="stop", timing=timing, **rest)


class Stream:
    """An answer that is waited for: what is said at each tick, then its pieces."""

    def __init__(self, waits, pieces, answer):
        self.waits, self.pieces, self.answer, self.waits_for = waits, pieces, answer, ""
        self.thinking = ""

    def iterate(self, tick):
        for wait in self.waits:
            self.waits_for = wait
            time.sleep(0.002)
            tick()
        yield from self.pieces


def ask(stream):
    return show_answer(stream, options=AnswerOptions())


def test_what_is_waited_for_is_shown_until_the_first_text(frames):
    """Nothing in the first second; the text takes the place of it."""
    waits = ["waiting (0 s)", "waiting (1 s)", "thinking (12 s)", ""]
    ask(Stream(waits, ["Well."], answer_of("Well.")))
    texts = [text for text, _ in frames]
    assert texts[:2] == ["waiting (1 s)", "thinking (12 s)"]
    assert all(text.startswith("Well.") for text in texts[2:])
    assert 'role="status"' in frames[0][1]


def test_an_answer_without_text_is_said(frames):
    """The last frame says what is wrong, as text and in a box."""
    faults = {"only_thinking": "The model gave no text, only thinking; ask again."}
    ask(Stream([], [], answer_of("", faults=faults)))
    text, markup = frames[-1]
    assert text.startswith(faults["only_thinking"])
    assert faults["only_thinking"] in markup
    assert 'role="note"' in markup


def test_the_parts_of_a_wait():
    """Queue, server and prompt are one wait; thoughts are thoughts until the first text."""
    record = Calls().begin(b"{}", "m")
    now_s = record.asked_s + 3.2
    assert record.describe_wait(now_s) == "waiting (3 s)"
    record.mark_started()
    record.mark_sent()
    assert record.describe_wait(now_s) == "waiting (3 s)"
    record.add_chunk(Chunk(text="", thinking="Hm."))
    assert record.phase == "thinking"
    assert record.describe_wait(record.thinking_s + 12.4) == "thinking (12 s)"
    record.add_chunk(Chunk(text="Well."))
    assert (record.phase, record.describe_wait(now_s)) == ("answering", "")


def test_a_call_that_has_ended_waits_for_nothing():
    calls = Calls()
    record = calls.begin(b"{}", "m")
    calls.end(record, Final())
    assert record.describe_wait(record.asked_s + 3) == ""


@pytest.mark.slow
def test_over_a_server_that_takes_its_time(frames):
    """It reads for two seconds, then thinks, then answers."""

    def answer(body):
        time.sleep(2.2)
        return [{"thinking": "Hm."}, "Well."]

    with serve(answer) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        said = ask(manager.stream_sync("What?"))
    texts = [text for text, _ in frames]
    assert (said, said.thinking, said.faults) == ("Well.", "Hm.", {})
    assert texts[:2] == ["waiting (1 s)", "waiting (2 s)"]
    assert texts[-1].startswith("Well.\n\nllama3.1")
