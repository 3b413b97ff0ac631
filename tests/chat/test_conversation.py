"""The arithmetic of a conversation: never over the window, whatever the sizes."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.chat.attachments import Attachment, Piece
from urisk_nb.chat.conversation import Conversation
from urisk_nb.chat.token_budget import (
    DEFAULT_WINDOW,
    TokenMeter,
    Window,
    estimate_most_tokens,
)
from urisk_nb.llm.answers import Answer

TEXTS = st.text(alphabet=st.sampled_from("ab 1.é漢\n"), max_size=800)
ATTACHED = st.lists(st.tuples(st.sampled_from("xyz"), TEXTS), max_size=3)
TURN = st.tuples(TEXTS, TEXTS, ATTACHED)


def answer(text, **how):
    timing = SimpleNamespace(prompt_tokens=0)
    return Answer(
        text, **{"model": "m", "engine": "ollama", "done_reason": "stop", **how}, timing=timing
    )


def attach(pairs):
    pieces = {
        name: tuple(Piece(text=text[at : at + 50]) for at in range(0, len(text), 50))
        for name, text in pairs
    }
    return tuple(
        Attachment(name=name, title="t", pieces=each, find_more=find_more)
        for name, each in pieces.items()
    )


def find_more(question):
    """What a later question asks for of any value: its own words."""
    return [Piece(text=question[at : at + 50]) for at in range(0, len(question), 50)]


@given(
    st.lists(TURN, max_size=8),
    st.integers(256, 6000),
    st.integers(1, 8000),
    st.sampled_from([0.4, 1.0, 3.0]),
    st.one_of(st.none(), TEXTS),
)
def test_a_chat_never_exceeds_its_window(turns, tokens, max_tokens, rate, system):
    """
    The messages and the answer together keep it, for all turns; where the question alone is too
    long, nothing goes with it.
    """
    talk, window = Conversation(), Window(tokens=tokens)
    meter = talk.get_meter("m")
    meter.rate = rate
    for question, text, attached in turns:
        plan = talk.plan(
            question, model="m", system=system, attachments=attach(attached),
            window=window, max_tokens=max_tokens,
        )  # fmt: skip
        measured = meter.measure_chat(plan.messages)
        assert plan.messages[-1]["content"].endswith(question)
        assert 1 <= plan.answer_tokens <= max_tokens
        assert measured + plan.answer_tokens <= tokens or plan.is_bare
        if plan.is_bare:
            alone = talk.plan(
                question, model="m", system=system, window=window, max_tokens=max_tokens,
                is_alone=True,
            )  # fmt: skip
            assert measured == meter.measure_chat(alone.messages)
        roles = [one["role"] for one in plan.messages if one["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        talk.add_turn(plan, question, answer(text))


def test_turns_are_left_out_several_at_once():
    """So the beginning of the chat is the same for several turns, and what was attached is kept."""
    talk, window, starts = Conversation(), Window(tokens=1000), []
    for number in range(30):
        given_ = attach([("x", "the value")]) if number == 0 else ()
        plan = talk.plan(f"q{number}", model="m", attachments=given_, window=window, max_tokens=200)
        assert "the value" in plan.messages[0]["content"]
        starts.append(plan.messages[0]["content"])
        talk.add_turn(plan, f"q{number}", answer("word " * 20))
    changes = sum(one != other for one, other in itertools.pairwise(starts))
    assert 2 <= changes <= 8
    fence = starts[0].removesuffix("q0")
    assert all(one.startswith(fence) for one in starts)
    assert talk.left_out + len(talk.turns) == 30


def test_nothing_is_changed_by_a_plan():
    """A question that fails leaves the conversation as it was."""
    talk, window = Conversation(), Window(tokens=600)
    for number in range(4):
        plan = talk.plan(f"q{number}", model="m", window=window, max_tokens=100)
        talk.add_turn(plan, f"q{number}", answer("word " * 30))
    before = talk.turns, talk.left_out
    assert talk.plan("word " * 100, model="m", window=window, max_tokens=100).turns != before[0]
    assert (talk.turns, talk.left_out) == before


def plan_two(talk):
    """Two questions that are asked at the same time, each with a value of the same name."""
    window = Window(tokens=4000)
    return [
        talk.plan(
            question, model="m", attachments=attach([("x", f"value of {question}")]),
            window=window, max_tokens=100,
        )
        for question in ("a", "b")
    ]  # fmt: skip


def test_answers_of_one_time_are_all_kept_in_the_order_in_which_they_end():
    """Each with its own question; what was there before stays, and a name has one value."""
    talk = Conversation()
    first = talk.plan("first", model="m", window=Window(tokens=4000), max_tokens=100)
    talk.add_turn(first, "first", answer("1"))
    one, other = plan_two(talk)
    talk.add_turn(other, "b", answer("B"))
    talk.add_turn(one, "a", answer("A"))
    kept = [(turn.question, turn.answer) for turn in talk.turns]
    assert kept == [("first", "1"), ("b", "B"), ("a", "A")]
    assert [[block.text.count("value of") for block in turn.blocks] for turn in talk.turns] == [
        [],
        [],
        [1],
    ]
    assert talk.left_out == 0


def test_turns_that_another_question_left_out_are_counted_once():
    """Two questions that both find the conversation too long lose none of what was answered."""
    talk, window = Conversation(), Window(tokens=600)
    for number in range(20):
        plans = [
            talk.plan(f"{which}{number}", model="m", window=window, max_tokens=100)
            for which in "ab"
        ]
        for plan, which in zip(plans, "ab", strict=True):
            talk.add_turn(plan, f"{which}{number}", answer("word " * 20))
    assert talk.left_out + len(talk.turns) == 40
    assert talk.left_out > 0
    expected = [f"{which}{number}" for number in range(20) for which in "ab"]
    assert [turn.question for turn in talk.turns] == expected[talk.left_out :]


def test_a_reset_forgets_the_questions_that_are_on_their_way():
    """Their answers cite by ids that the new conversation gives to other sentences."""
    talk = Conversation()
    one, _ = plan_two(talk)
    talk.reset()
    talk.add_turn(one, "a", answer("A"))
    assert talk.turns == ()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Plain.", "Plain."),
        ("<think>hm</think>So.", "So."),
        ("<think>hm", None),
        ("", None),
        (" \n", None),
    ],
)
def test_thoughts_are_not_kept(text, kept):
    """An answer without text is no turn."""
    talk = Conversation()
    plan = talk.plan("q", model="m", window=Window.of(0), max_tokens=10)
    talk.add_turn(plan, "q", answer(text))
    assert [turn.answer for turn in talk.turns] == ([kept] if kept else [])


def test_a_window_that_is_not_told_has_a_default():
    """What the user asked for is sent all the same."""
    assert Window.of(0).tokens == DEFAULT_WINDOW
    plan = Conversation().plan("q", model="m", window=Window.of(0), max_tokens=9000)
    assert plan.answer_tokens == 9000
    known = Conversation().plan("q", model="m", window=Window.of(4096), max_tokens=9000)
    assert known.answer_tokens < 4096
    assert "leaves" in known.notes[0]


def test_the_count_of_the_server_corrects_the_estimate():
    """Upwards at once, downwards by steps, never from a short prompt; an overflow always counts."""
    meter = TokenMeter()
    messages = [{"role": "user", "content": "word " * 500}]
    meter.learn(messages, 0)
    meter.learn([{"role": "user", "content": "hi"}], 9)
    assert meter.rate == 1.0
    meter.learn(messages, 520)
    lower = meter.rate
    assert 0.5 < lower < 1.0
    assert meter.measure_chat(messages) >= 520
    meter.learn(messages, 3000)
    assert meter.measure_chat(messages) >= 3000
    before = meter.measure_chat(messages)
    meter.learn_overflow(before, 2 * before)
    assert meter.measure_chat(messages) > 2 * before


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("", 0),
        ("a b", 2),
        ("2024-01-02", 10),
        ("漢字", 6),
        ("\n\n", 2),
        ("risk " * 3, 6),
        ("NVDA", 3),
        ("aGVsbG8gd29y", 9),
        ("a 1", 3),
    ],
)
def test_a_text_counts_for_what_it_may_have(text, most):
    """Digits and marks one each, words by three letters, tickers by less, others by their bytes."""
    assert estimate_most_tokens(text) == most
