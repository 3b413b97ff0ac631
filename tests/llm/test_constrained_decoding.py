"""Constrained decoding: which schemas leave only choices, and how an answer is put together."""

import itertools
import json

import pytest

from urisk_nb.llm.constrained_decoding import build_grammar, decode, find_choices, max_answer_bytes
from urisk_nb.risk.questions import SCHEMA, schema
from urisk_nb.risk.taxonomy import DEFAULT


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


def run(schema, *tokens):
    """
    Decode with these tokens; return the pieces of the answer and the steps that asked for them.
    """
    steps, seen, sent = decode(find_choices(schema)), [], iter([None, *tokens])
    while True:
        try:
            seen.append(steps.send(next(sent)))
        except StopIteration as end:
            return end.value, seen


def answer(schema, *tokens):
    return "".join(run(schema, *tokens)[0])


def test_a_label_is_two_tokens():
    """Each choice is asked once; what stands between them is put there."""
    pieces, seen = run(SCHEMA, "legal", "3")
    assert pieces == ('{"risk":"', "legal", '","severity":', "3", "}")
    assert [prefill for prefill, _ in seen] == ['{"risk":"', '{"risk":"legal","severity":']
    assert seen[1][1] == ("0}", "1}", "2}", "3}", "4}", "5}")


def test_a_single_option_is_not_asked():
    """A risk that is given leaves the severity alone to choose."""
    pieces, seen = run(schema(DEFAULT, "credit"), "4")
    assert pieces == ('{"risk":"credit","severity":', "4", "}")
    assert len(seen) == 1


def test_a_token_may_be_part_of_an_option():
    """Half a word decides where one option begins with it; where two do, the rest is asked."""
    found = closed(x=texts("credit", "creditor", "market"))
    assert run(found, "mark")[0] == ('{"x":"', "mark", 'et"}')
    pieces, seen = run(found, "c", '"')
    assert pieces == ('{"x":"', "c", "redit", '"', "}")
    assert seen[1] == ('{"x":"credit', ('"}', 'or"}'))


def test_one_number_may_begin_another():
    """1 is not 10, whichever token comes first."""
    found = closed(x=numbers(1, 10, 2))
    assert answer(found, "1", "}") == '{"x":1}'
    assert answer(found, "1", "0") == '{"x":10}'
    assert answer(found, "10}") == '{"x":10}'


@pytest.mark.parametrize("token", ["", "nonsense", "LEGAL", "legalx"])
def test_a_token_outside_the_options_gives_no_answer(token):
    """The caller then lets the model write."""
    assert run(SCHEMA, token)[0] is None
    assert run(SCHEMA, "legal", token)[0] is None


def test_every_answer_fits_the_schema():
    """All answers are valid, quotes and backslashes too, and the longest has the announced size."""
    import jsonschema

    found = closed(
        a=texts('say "x"', "back\\slash", "line\nend"), b=numbers(-1, 0), c=texts("only")
    )
    values = itertools.product(found["properties"]["a"]["enum"], (-1, 0))
    answers = [answer(found, json.dumps(a)[1:], str(b)) for a, b in values]
    for each in answers:
        jsonschema.validate(json.loads(each), found)
    assert len(set(answers)) == 6
    assert max(map(len, answers)) == max_answer_bytes(find_choices(found))
    named = find_choices(closed(größe=texts("x", "y")))
    assert max_answer_bytes(named) == len('{"größe":"x"}'.encode()), "a byte may be a token"


MORE_THAN_CHOICES = {
    "no schema": None,
    "a word": "json",
    "free text": closed(a={"type": "string"}),
    "values without a type": closed(a={"enum": ["x", "y"]}),
    "mixed values": closed(a={"type": "string", "enum": ["x", 1]}),
    "truth": closed(a={"type": "integer", "enum": [1, True]}),
    "no values": closed(a={"type": "string", "enum": []}),
    "more rules": closed(a={"type": "string", "enum": ["x", "y"], "maxLength": 1}),
    "beyond ASCII": closed(a=texts("è", "é")),
    "more keys allowed": {**closed(a=texts("x", "y")), "additionalProperties": True},
    "an optional key": {**closed(a=texts("x", "y"), b=texts("x", "y")), "required": ["a"]},
    "other rules": {**closed(a=texts("x", "y")), "minProperties": 1},
    "several types": closed(a={"type": ["string", "null"], "enum": ["x", "y"]}),
    "values that are a text": closed(a={"type": "string", "enum": "xy"}),
    "values that are a number": closed(a={"type": "string", "enum": 5}),
    "keys that are a list": {**closed(), "properties": ["a"], "required": ["a"]},
    "required is a number": {**closed(a=texts("x", "y")), "required": 5},
    "required holds no name": {**closed(a=texts("x", "y")), "required": [["a"]]},
    "a list": {"type": "array", "items": texts("x", "y")},
    "nothing to choose": closed(a=texts("x")),
    "nothing": closed(),
}


@pytest.mark.parametrize("schema", MORE_THAN_CHOICES.values(), ids=MORE_THAN_CHOICES)
def test_other_schemas_are_left_to_the_model(schema):
    """A schema that allows more than these values, or is not wholly understood, has no choices."""
    assert find_choices(schema) is None


def test_annotations_are_no_rules():
    """Titles and descriptions, which pydantic writes, change nothing."""
    named = {**closed(a={**texts("x", "y"), "title": "A"}), "title": "T", "description": "d"}
    assert answer(named, "y") == '{"a":"y"}'


def test_a_key_may_be_in_any_script():
    """A key is put there, not chosen, so no character of it can be cut."""
    assert answer(closed(größe=texts("x", "y")), "y") == '{"größe":"y"}'


def test_the_grammar_allows_the_options():
    """Options are quoted for llama.cpp."""
    assert build_grammar(['"}', "a"]) == r'root ::= "\"}" | "a"'
