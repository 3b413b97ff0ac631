"""The line under an answer, and what a reader is told of one that was stopped."""

import math
from types import SimpleNamespace

import pytest

from urisk_nb.chat.options import AnswerOptions
from urisk_nb.llm.answers import Answer
from urisk_nb.llm.calls import timing_of
from urisk_nb.llm.messages import Final
from urisk_nb.notebook import answer_display
from urisk_nb.notebook.answer_display import describe_answer, show_answer

NAN = math.nan


def make_answer(text="", *, tokens=0, rate=NAN, first_s=NAN, total_s=NAN, **known):
    """An answer with these figures; `rate` is of the tokens after the first."""
    generation_ns = 0 if math.isnan(rate) else round((tokens - 1) / rate * 1e9)
    final = Final(tokens=tokens, generation_ns=generation_ns)
    timing = timing_of(final, first_token_s=first_s, total_s=total_s)
    return Answer(
        text, timing=timing, **{"model": "m", "engine": "ollama", "done_reason": "stop", **known}
    )


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (
            {"tokens": 212, "rate": 41.4, "first_s": 0.206, "total_s": 5.32},
            "m · 212 tokens · 41 tokens/s · first after 0.21 s · 5.3 s",
        ),
        ({"tokens": 9, "rate": 2.5, "total_s": 3.2}, "m · 9 tokens · 2.5 tokens/s · 3.2 s"),
        ({"total_s": 1.5}, "m · 1.5 s"),
        ({"tokens": 1, "total_s": 1.5}, "m · 1 token · 1.5 s"),
        ({"tokens": 2, "total_s": 1.5}, "m · 2 tokens · 1.5 s"),
        ({"first_s": 0.5, "total_s": 1.5}, "m · first after 0.50 s · 1.5 s"),
        (
            {"total_s": 1.5, "done_reason": "length"},
            "m · 1.5 s · cut at 1,024 tokens; ask for more with --max-tokens 2048",
        ),
    ],
)
def test_the_line_under_an_answer_has_what_is_known(figures, words):
    """A server without usage has no `0 tokens`."""
    assert describe_answer(make_answer(**figures), AnswerOptions()) == words


class Stream:
    """The pieces of an answer, and what they end with."""

    thinking, waits_for = "because", ""

    def __init__(self, pieces, end):
        self._pieces, self._end = pieces, end
        self.answer = self.partial = end if isinstance(end, Answer) else make_answer(total_s=1.5)

    def iterate(self, tick):
        yield from self._pieces
        if isinstance(self._end, BaseException):
            raise self._end


@pytest.fixture
def frames(monkeypatch):
    """What a notebook is shown."""
    frames = []
    board = answer_display.Board
    monkeypatch.setattr("urisk_nb.render.board._in_kernel", lambda: True)
    monkeypatch.setattr(board, "_display", lambda self, bundle: frames.append(bundle))
    return frames


def test_an_answer_that_ends(frames):
    """The plain text stays as the model wrote it, for consoles and files."""
    answer = make_answer("**Yes**, $5 to $7.", total_s=1.5, thinking="because")
    shown = show_answer(
        Stream(["**Yes**, ", "$5 to $7."], answer), options=AnswerOptions(), notes=("a note",)
    )
    assert shown is answer
    assert frames[-1]["text/plain"] == "**Yes**, $5 to $7.\n\nm · 1.5 s · a note"
    html = frames[-1]["text/html"]
    assert "<strong>Yes</strong>, $5 to $7." in html
    assert "Thinking (1 word)" in html
    assert "m · 1.5 s · a note" in html


@pytest.mark.parametrize(
    ("end", "said"),
    [(KeyboardInterrupt(), "keeps running. a has what had come."), (ValueError("x"), "")],
)
def test_an_answer_that_is_stopped(frames, end, said):
    """What had come is shown and marked, with the figures that are known."""
    with pytest.raises(type(end)) as caught:
        show_answer(Stream(["**Ye", "s**\n\n- "], end), options=AnswerOptions(), name="a")
    assert "<strong>Yes</strong>" in frames[-1]["text/html"]
    assert "stopped here · 1.5 s" in frames[-1]["text/html"]
    if said:
        assert caught.value._render_traceback_()[0].endswith(said)


def test_a_long_answer_says_why_it_is_plain(frames):
    text = "word " * 20_001
    show_answer(Stream([text], make_answer(text, total_s=1.5)), options=AnswerOptions())
    assert "plain text, since it has more than 100,000 characters" in frames[-1]["text/html"]
    show_answer(Stream([text], make_answer(text, total_s=1.5)), options=AnswerOptions(), raw=True)
    assert "plain text, since" not in frames[-1]["text/html"]


def test_a_terminal_gets_the_text_and_no_parser(monkeypatch, capsys):
    """No markup is made where none is shown."""
    monkeypatch.setattr("urisk_nb.render.board._in_kernel", lambda: False)
    view = SimpleNamespace(raw=False)  # any call of it fails
    monkeypatch.setattr(answer_display, "AnswerView", lambda raw: view)
    answer = make_answer("**Yes**", total_s=1.5)
    show_answer(Stream(["**Yes**"], answer), options=AnswerOptions())
    assert capsys.readouterr().out == "**Yes**\n\nm · 1.5 s\n"
