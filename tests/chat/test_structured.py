"""Ask for data, check, repair once: with answers from a list."""

import json

import pandas as pd
import pytest

from urisk_nb.chat.options import AnswerOptions
from urisk_nb.chat.schemas import read_answer_schema
from urisk_nb.chat.structured import add_instruction, ask_for_data
from urisk_nb.errors import AnswerInvalid, ContextExceeded, ServerTimeout
from urisk_nb.llm.answers import Answer

SCHEMA = read_answer_schema("risk:float", "%%ask --json")
QUESTION = [{"role": "user", "content": "How risky?"}]


def say(text, done_reason="stop", thinking=""):
    return Answer(
        text,
        model="m",
        engine="ollama",
        done_reason=done_reason,
        timing=None,
        thinking=thinking,
        request_hash=f"hash of {text}",
    )


def ask(*answers, messages=QUESTION, schema=SCHEMA):
    """Ask with these answers; the chats that were sent, and the data."""
    left, chats = list(answers), []

    def answer(chat):
        chats.append(list(chat))
        one = left.pop(0)
        if isinstance(one, Exception):
            raise one
        return one if isinstance(one, Answer) else say(one)

    try:
        return chats, ask_for_data(answer, messages, schema, options=AnswerOptions(max_tokens=100))
    except AnswerInvalid as exc:
        return chats, exc


def test_a_fitting_answer_is_asked_once():
    """The value, and the answer that it came from."""
    chats, found = ask('{"risk": 1}')
    assert len(chats) == 1
    assert (found.value, found.answer.done_reason, found.repaired) == ({"risk": 1.0}, "stop", ())


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"risk": 1}\n```',
        '~~~\n{"risk": 1}',
        '\ufeff {"risk": 1}\n',
        '<think>Is {"risk": 9} right?</think>{"risk": 1}',
        '`{"risk": 1}`',
        say("", thinking=' {"risk": 1}'),  # as some servers give what a schema holds
    ],
)
def test_marks_and_thoughts_around_the_json_are_passed_over(text):
    """Nothing is repaired that only looks different."""
    chats, found = ask(text)
    assert (len(chats), found.value) == (1, {"risk": 1.0})


def test_the_schema_is_told_behind_the_question():
    """The question begins the message, as in every turn."""
    told = add_instruction("How risky?", SCHEMA)
    assert told.startswith("How risky?\n\n")
    assert told.endswith(json.dumps(SCHEMA.json_schema))


def test_a_large_schema_is_left_to_the_server():
    """The prompt says JSON only; its window is for the question."""
    large = read_answer_schema({"enum": ["x" * 9000]}, "%%ask --json")
    told = add_instruction("How risky?", large)
    assert "JSON only" in told
    assert len(told) < 200


def test_a_repair_is_asked_for_with_the_answer_and_its_faults():
    """Once, in the same chat."""
    chats, found = ask('{"risk": "high"}', '{"risk": 2}')
    assert found.value == {"risk": 2.0}
    assert [str(fault) for fault in found.repaired] == ["$.risk: 'high' is not a number"]
    assert chats[1][:-2] == chats[0]
    assert chats[1][-2] == {"role": "assistant", "content": '{"risk": "high"}'}
    assert "- $.risk: 'high' is not a number" in chats[1][-1]["content"]


def test_an_answer_without_text_is_not_sent_back():
    """Many servers refuse an empty turn: the question is repeated with the reason."""
    chats, _ = ask(" ", '{"risk": 2}')
    assert [one["role"] for one in chats[1]] == ["user"]
    assert "the answer is empty" in chats[1][-1]["content"]
    assert chats[1][-1]["content"].startswith("How risky?")


def test_a_long_answer_is_sent_back_in_part():
    """A window is limited."""
    chats, _ = ask("x" * 500_000, '{"risk": 2}')
    assert len(chats[1][-2]["content"]) < 21_000


def test_two_unfit_answers_are_an_error_with_the_second_text():
    """The path and the value; the text is an attribute."""
    chats, error = ask('{"risk": "high"}', '{"risk": "low"}')
    assert len(chats) == 2
    assert error.message == (
        "the answer of m does not fit risk:float: $.risk: 'low' is not a number."
    )
    assert error.answer == '{"risk": "low"}'
    assert "--model" in error.fix


def test_many_faults_are_counted():
    """Three are named."""
    schema = read_answer_schema("[risk:float]", "%%ask --json")
    _, error = ask("[{}, {}, {}, {}, {}]", "[{}, {}, {}, {}, {}]", schema=schema)
    assert "$[2]: the field 'risk' is missing; and 2 more." in error.message


@pytest.mark.parametrize("before", [[], ['{"risk": "high"}']])
def test_a_cut_answer_is_not_repaired(before):
    """In the first round or the second: the limit is named, with a larger one."""
    chats, error = ask(*before, say('{"risk": ', "length"))
    assert len(chats) == 1 + len(before)
    assert "cut at 100 tokens" in error.message
    assert "--max-tokens 200" in error.fix


def test_an_answer_that_is_whole_at_the_limit_counts():
    """What was cut may be white space."""
    _, found = ask(say('{"risk": 1}', "length"))
    assert found.value == {"risk": 1.0}


def test_where_the_repair_has_no_room_the_first_fault_is_said():
    """The window is too small for the answer a second time."""
    _, error = ask('{"risk": "high"}', ContextExceeded("too long", fix="x"))
    assert "'high' is not a number" in error.message
    assert error.answer == '{"risk": "high"}'


def test_other_errors_are_raised_as_they_are():
    """A server that is gone is no fault of the answer."""
    with pytest.raises(ServerTimeout):
        ask(ServerTimeout("silent", fix="x"))


def test_a_table_says_where_it_comes_from():
    """Model and hash of the request in `attrs`, which pandas keeps with the table."""
    schema = read_answer_schema("[risk:float]", "%%ask --json")
    _, found = ask("[]", schema=schema)
    assert isinstance(found.value, pd.DataFrame)
    assert found.value.attrs["urisk"] == {"model": "m", "request_hash": "hash of []"}
