"""The small language of `--json`, from its grammar; a JSON schema library is the oracle."""

import contextlib
import datetime
import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urisk_nb.chat.field_language import build_field_schema
from urisk_nb.chat.schemas import read_answer_schema
from urisk_nb.errors import InputError

WHERE = "%%ask --json"
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
WORDS = st.text(string.ascii_letters + "ßé", min_size=1, max_size=8)
SAFE_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CHOICES = st.lists(WORDS, min_size=2, max_size=4, unique=True).filter(
    lambda words: not {"str", "int", "float", "bool", "date"} & set(words)
)
DAYS = st.dates(datetime.date(1, 1, 1)).map(str)


def with_values(kind, values):
    return st.tuples(st.just(kind), st.just(values))


# A type as it is written, and the strategy of its values in JSON
SIMPLE = st.one_of(
    with_values("str", SAFE_TEXT),
    with_values("int", st.integers(-(2**63), 2**63 - 1)),
    with_values("float", st.floats(allow_nan=False, allow_infinity=False)),
    with_values("bool", st.booleans()),
    with_values("date", DAYS),
    CHOICES.map(lambda words: ("|".join(words), st.sampled_from(words))),
)
LISTS = SIMPLE.map(lambda one: (f"[{one[0]}]", st.lists(one[1], max_size=3)))
TYPES = st.one_of(SIMPLE, LISTS)
OPTIONAL = TYPES.map(lambda one: (f"{one[0]}?", st.one_of(st.none(), one[1])))
FIELDS = st.dictionaries(NAMES, st.one_of(TYPES, OPTIONAL), min_size=1, max_size=5)


def write(fields):
    return ", ".join(f"{name}:{kind}" for name, (kind, _) in fields.items())


@settings(max_examples=40)
@given(st.data())
def test_what_the_language_describes_is_read_back_as_it_was(data):
    """Any fields, any values of theirs: the object has the same values, dates as dates."""
    fields = data.draw(FIELDS)
    values = {name: data.draw(kind[1]) for name, kind in fields.items()}
    reading = read_answer_schema(write(fields), WHERE).read(json.dumps(values))
    assert reading.faults == ()
    shown = json.loads(json.dumps(reading.value, default=str))  # dates as texts again
    assert shown == values
    assert list(reading.value) == list(fields)


@settings(max_examples=40)
@given(st.data())
def test_a_field_of_another_type_is_a_fault_at_its_name(data):
    """An object stands for no type of the language."""
    fields = data.draw(FIELDS)
    values = {name: data.draw(kind[1]) for name, kind in fields.items()}
    wrong = data.draw(st.sampled_from(list(fields)))
    text = json.dumps({**values, wrong: {"x": 1}})
    faults = read_answer_schema(write(fields), WHERE).read(text).faults
    assert {fault.path for fault in faults} == {f"$.{wrong}"}


@settings(max_examples=40)
@given(FIELDS)
def test_every_schema_is_one(fields):
    """By the schema of schemas."""
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(build_field_schema(f"[{write(fields)}]", WHERE))


@given(st.text(":|[],? abstrinfloat", max_size=30))
def test_whatever_is_written_is_a_schema_or_an_error_with_a_fix(text):
    """No other exception."""
    with contextlib.suppress(InputError):
        assert build_field_schema(text, WHERE)["type"] in ("object", "array")


def test_the_schema_is_closed_and_in_order():
    """By hand: what the server is sent."""
    schema = build_field_schema("ticker:str, since: date?, level:low|high, s:1|2, t:[str],", WHERE)
    assert schema == {
        "type": "object",
        "properties": {
            "ticker": {"type": "string"},
            "since": {"type": ["string", "null"], "format": "date"},
            "level": {"type": "string", "enum": ["low", "high"]},
            "s": {"type": "integer", "enum": [1, 2]},
            "t": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["ticker", "level", "s", "t"],
        "additionalProperties": False,
    }
    assert list(schema["properties"]) == ["ticker", "since", "level", "s", "t"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no fields"),
        ("[]", "no fields"),
        ("ticker", "'ticker' has no type"),
        ("ticker:", "'ticker' has no type"),
        (":str", "'' is no name"),
        ("a:str,,b:int", "a field is empty"),
        ("a:str, a:int", "'a' stands twice"),
        ("a:number", "no type 'number'"),
        ("a:str|int", "'str' is a type"),
        ("a:low||high", "'' is no choice"),
        ("a:low|low", "a choice stands twice"),
        ("[[a:str]]", "'[a' is no name"),
        ("a:[[[[str]]]]", "no type '[str]'"),
        ("a:" + "[" * 5000 + "str" + "]" * 5000, "characters"),
        ("a:" + "?" * 9000 + "str", "no type"),
    ],
)
def test_what_cannot_be_read_is_named(text, said):
    """Two lines: what was seen, and a line that works."""
    with pytest.raises(InputError) as caught:
        build_field_schema(text, WHERE)
    assert said in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(("typed", "meant"), [("number", "float"), ("text", "str"), ("in", "int")])
def test_a_type_by_another_name_is_guessed(typed, meant):
    """The names of other languages."""
    with pytest.raises(InputError) as caught:
        build_field_schema(f"a:{typed}", WHERE)
    assert caught.value.fix.startswith(f"did you mean {meant}?")
