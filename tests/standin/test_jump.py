"""Answers of enumerated values: which schemas they are, and how one is put together."""

import asyncio
import itertools
import json

import jsonschema
import pytest

from urisk_nb.risk.questions import SCHEMA, schema
from urisk_nb.risk.taxonomy import DEFAULT
from urisk_nb.standin import jump


def closed(**properties):
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


def texts(*values):
    return {"type": "string", "enum": list(values)}


def numbers(*values):
    return {"type": "integer", "enum": list(values)}


def written(found, *said):
    """The answer that comes of these choices, and what could be chosen from at each."""
    seen, said = [], list(said)

    async def choose(text, among):
        seen.append((text, tuple(among)))
        return said.pop(0)

    return asyncio.run(jump.written(jump.places(found), choose)), seen


def test_the_labels_question_is_two_choices():
    """Each is asked once; what has to stand between them is put there."""
    text, seen = written(SCHEMA, "legal", "3")
    assert text == '{"risk":"legal","severity":3}'
    assert [before for before, _ in seen] == ['{"risk":"', '{"risk":"legal","severity":']
    assert seen[1][1] == ("0}", "1}", "2}", "3}", "4}", "5}")


def test_a_choice_of_one_is_none():
    """A label that is given is not asked for."""
    text, seen = written(schema(DEFAULT, "credit"), "4")
    assert text == '{"risk":"credit","severity":4}'
    assert len(seen) == 1


def test_a_token_need_not_be_the_whole_text():
    """
    Half a word decides where it fits one text; where it fits two, what they share is put there and
    the rest is asked.
    """
    found = closed(x=texts("credit", "creditor", "market"))
    assert written(found, "mark")[0] == '{"x":"market"}'
    text, seen = written(found, "c", '"')
    assert text == '{"x":"credit"}'
    assert seen[1] == ('{"x":"credit', ('"}', 'or"}'))


def test_a_number_that_another_begins_with():
    """1 is not 10, whatever comes first."""
    found = closed(x=numbers(1, 10, 2))
    assert written(found, "1", "}")[0] == '{"x":1}'
    assert written(found, "1", "0")[0] == '{"x":10}'
    assert written(found, "10}")[0] == '{"x":10}'


@pytest.mark.parametrize("said", ["", "nonsense", "LEGAL"])
def test_what_is_no_choice_makes_no_answer(said):
    """The caller then lets the model write."""
    assert written(SCHEMA, said)[0] is None


def test_every_answer_is_in_the_schema():
    """All that can be chosen, quotes and backslashes too; none is longer than the longest."""
    found = closed(
        a=texts('say "x"', "back\\slash", "line\nend"), b=numbers(-1, 0), c=texts("only")
    )
    answers = [
        written(found, json.dumps(a)[1:], str(b))[0]
        for a, b in itertools.product(found["properties"]["a"]["enum"], (-1, 0))
    ]
    for answer in answers:
        jsonschema.validate(json.loads(answer), found)
    assert len(set(answers)) == 6
    assert max(map(len, answers)) == jump.longest(jump.places(found))
    assert jump.longest(jump.places(closed(größe=texts("x", "y")))) == len(
        '{"größe":"x"}'.encode()
    ), "a byte may be a token"


NOT_ONLY_CHOICES = {
    "no schema": None,
    "a word": "json",
    "free text": closed(a={"type": "string"}),
    "values without a kind": closed(a={"enum": ["x", "y"]}),
    "mixed values": closed(a={"type": "string", "enum": ["x", 1]}),
    "truth": closed(a={"type": "integer", "enum": [1, True]}),
    "no values": closed(a={"type": "string", "enum": []}),
    "more rules": closed(a={"type": "string", "enum": ["x", "y"], "maxLength": 1}),
    "beyond ASCII": closed(a=texts("è", "é")),
    "more keys allowed": {**closed(a=texts("x", "y")), "additionalProperties": True},
    "a key that may be missing": {
        **closed(a=texts("x", "y"), b=texts("x", "y")),
        "required": ["a"],
    },
    "other rules": {**closed(a=texts("x", "y")), "minProperties": 1},
    "several kinds": closed(a={"type": ["string", "null"], "enum": ["x", "y"]}),
    "values that are a text": closed(a={"type": "string", "enum": "xy"}),
    "values that are a number": closed(a={"type": "string", "enum": 5}),
    "keys that are a list": {**closed(), "properties": ["a"], "required": ["a"]},
    "required that is a number": {**closed(a=texts("x", "y")), "required": 5},
    "required that is no name": {**closed(a=texts("x", "y")), "required": [["a"]]},
    "a list": {"type": "array", "items": texts("x", "y")},
    "nothing to choose": closed(a=texts("x")),
    "nothing": closed(),
}


@pytest.mark.parametrize("found", NOT_ONLY_CHOICES.values(), ids=NOT_ONLY_CHOICES)
def test_what_is_more_than_choices_is_left_to_the_model(found):
    """A schema that allows more than these values, or that is not wholly understood."""
    assert jump.places(found) is None


def test_notes_are_no_rules():
    """Titles and descriptions, which pydantic writes, for example."""
    named = {**closed(a={**texts("x", "y"), "title": "A"}), "title": "T", "description": "d"}
    assert written(named, "y")[0] == '{"a":"y"}'


def test_a_key_may_be_in_any_script():
    """It is put there, not chosen, so no character of it can be cut."""
    assert written(closed(größe=texts("x", "y")), "y")[0] == '{"größe":"y"}'


def test_the_grammar_is_the_texts():
    """Quoted for llama.cpp."""
    assert jump.grammar(['"}', "a"]) == r'root ::= "\"}" | "a"'
