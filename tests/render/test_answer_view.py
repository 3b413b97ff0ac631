"""One answer in a notebook: thoughts folded, text as Markdown or as it is, facts under it."""

import subprocess
import sys
import time

import pytest

from answer_page import AnswerPage
from harness import ROOT
from hostile_answers import HOSTILE, LONG
from urisk_nb.render import answer_view
from urisk_nb.render.answer_markdown import load_markdown
from urisk_nb.render.answer_view import AnswerView


@pytest.fixture(autouse=True)
def parser():
    load_markdown()


def test_facts_stand_under_the_text_and_faults_between():
    page = AnswerPage(AnswerView().finish("**Yes.**", footer="m · 2 s", notes=["No text: <b>"]))
    assert page.text.split("\n") == ["Yes.", "No text: <b>m · 2 s"]
    assert "strong" in page.tags


@pytest.mark.parametrize(
    ("text", "thinking", "thoughts", "answer"),
    [
        ("Yes.", "", "", "Yes."),
        ("Yes.", "It may be so.", "It may be so.", "Yes."),
        ("<think>It may\nbe so.</think>\n\nYes.", "", "It may\nbe so.", "Yes."),
        ("It may be so.</think>Yes.", "", "It may be so.", "Yes."),
        ("<think>It may", "", "It may", ""),
        ("<think>inline</think>Yes.", "apart", "apart\n\ninline", "Yes."),
        ("<think></think>\n\nYes.", "", "", "Yes."),
    ],
)
def test_thoughts_are_folded(text, thinking, thoughts, answer):
    """Those that the server gives apart, and those that stand in the text."""
    html = AnswerView().finish(text, thinking)
    page = AnswerPage(html)
    words = len(thoughts.split())
    head = f"Thinking ({words} word{'s' if words != 1 else ''})" if thoughts else ""
    assert page.text.rstrip("\n") == f"{head}{thoughts}{answer}"
    assert ("details" in page.tags) == bool(thoughts)
    assert "<details>" in html or not thoughts  # closed


def test_while_it_only_thinks_the_frame_says_so():
    now_s = 5.0
    view = AnswerView(clock=lambda: now_s)
    assert "thinking (0 s)" in view.draw("<think>a")
    now_s = 17.0
    frame = view.draw("<think>a b")
    assert "thinking (12 s)" in frame
    assert "a b" not in frame
    assert AnswerPage(view.draw("<think>a b</think>c")).text == "Thinking (2 words)a bc\n"


def test_text_that_becomes_thoughts():
    """A model's prompt may have had the tag that begins them."""
    view = AnswerView()
    assert "Well" in view.draw("Well. So.\n\nWell, then.\n\n")
    frame = AnswerPage(view.draw("Well. So.\n\nWell, then.\n\n</think>Yes, **so**"))
    assert frame.text == "Thinking (4 words)Well. So.\n\nWell, then.Yes, so\n"
    assert (
        AnswerPage(view.finish("Well. So.</think>Yes.")).text == "Thinking (2 words)Well. So.Yes.\n"
    )


def test_raw_is_as_the_model_wrote_it():
    text = "<think>a</think>**b** | c\n\n# d"
    page = AnswerPage(AnswerView(raw=True).finish(text, "apart", "facts"))
    assert page.text == f"{text}facts"
    assert set(page.tags) == {"div"}
    assert AnswerPage(AnswerView(raw=True).draw(text)).text == text


@pytest.mark.parametrize("name", LONG)
def test_a_long_answer_is_shown_as_it_is(name):
    """Up to 2 MB in one line, also as a frame and where it is stopped."""
    text = LONG[name]
    view = AnswerView()
    began_s = time.process_time()
    frames = [view.draw(text[: len(text) // 2]), view.finish(text, is_cut=True)]
    frames.append(AnswerView().finish(text))
    assert time.process_time() - began_s < 6
    for frame in frames:
        assert len(frame) < 20 * len(text)


@pytest.mark.parametrize("case", HOSTILE)
def test_thoughts_and_facts_hold_no_more_than_an_answer(case):
    text = HOSTILE[case]
    AnswerPage(AnswerView().finish(f"<think>{text}</think>{text}", text, text, [text]))
    AnswerPage(AnswerView(raw=True).finish(text, text, text, [text]))


def test_before_the_parser_is_there_a_frame_is_plain(monkeypatch):
    """The first text does not wait for it; the last frame does."""
    monkeypatch.setattr(answer_view, "_is_loaded", lambda: False)
    view = AnswerView()
    view.prepare()
    assert "**a**" in view.draw("**a**")
    assert "<strong>a</strong>" in view.finish("**a**")


def test_nothing_is_loaded_until_an_answer_is_shown():
    """`%load_ext` takes milliseconds."""
    code = (
        "import sys; from urisk_nb.render import answer_view; "
        "sys.exit(any(name in sys.modules for name in ('markdown_it', 'nh3')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 0
