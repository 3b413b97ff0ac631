"""Each kind of schema: what it becomes, what it builds, and where an answer does not fit."""

import dataclasses
import datetime
import enum
import json
import socket
from typing import Annotated, Generic, Literal, Optional, TypedDict, TypeVar

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict as AnyTypedDict

from urisk_nb.chat.schemas import is_schema, read_answer_schema
from urisk_nb.errors import InputError

WHERE = "%%ask --json"
T = TypeVar("T")


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclasses.dataclass
class Holding:
    ticker: str
    risk: float
    day: Optional[datetime.date] = None  # noqa: UP045  as many write it
    level: Level = Level.LOW


@pydantic_dataclass
class Bounded:
    share: Annotated[float, pydantic.Field(ge=0, le=1)]


class Report(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=2)
    kind: Literal["10-K", "20-F"]
    holdings: list[Holding] = []
    weights: dict[str, float] = {}
    at: datetime.datetime | None = None


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    day: datetime.date
    count: int


class Typed(AnyTypedDict):
    ticker: str
    risk: float


class PlainTyped(TypedDict):
    ticker: str


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Node(pydantic.BaseModel):
    name: str
    children: list["Node"] = []


LIMITS = {
    "type": "object",
    "required": ["share"],
    "properties": {
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "codes": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1},
        "at": {"type": "string", "format": "date-time"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "object", "required": ["x"]}]},
        "same": {"const": "x"},
    },
}


def read(schema, document):
    text = document if isinstance(document, str) else json.dumps(document)
    return read_answer_schema(schema, WHERE).read(text)


def value_of(schema, document):
    reading = read(schema, document)
    assert reading.faults == ()
    return reading.value


def faults_of(schema, document):
    return [str(fault) for fault in read(schema, document).faults]


# What is built ------------------------------------------------------------------------------------

DAY = datetime.date(2024, 2, 29)


@pytest.mark.parametrize(
    ("schema", "document", "value"),
    [
        (Holding, {"ticker": "F", "risk": 3}, Holding("F", 3.0)),
        (
            Holding,
            {"ticker": "F", "risk": 3, "day": "2024-02-29", "level": "high"},
            Holding("F", 3.0, DAY, Level.HIGH),
        ),
        (Bounded, {"share": 0.5}, Bounded(share=0.5)),
        (
            Report,
            {"name": "AB", "kind": "10-K", "holdings": [{"ticker": "F", "risk": 1}]},
            Report(name="AB", kind="10-K", holdings=[Holding("F", 1.0)]),
        ),
        (Strict, {"day": "2024-02-29", "count": 2}, Strict(day=DAY, count=2)),
        (Typed, {"ticker": "F", "risk": 1}, {"ticker": "F", "risk": 1.0}),
        (Page[int], {"items": [1, 2]}, Page[int](items=[1, 2])),
        (
            Node,
            {"name": "a", "children": [{"name": "b"}]},
            Node(name="a", children=[{"name": "b"}]),
        ),
        (list[str], ["a", "b"], ["a", "b"]),
        (dict[str, Bounded], {"a": {"share": 1}}, {"a": Bounded(share=1.0)}),
        (Holding | None, None, None),
        (LIMITS, {"share": 1, "more": [1, {"x": None}]}, {"share": 1, "more": [1, {"x": None}]}),
        (json.dumps(LIMITS), {"share": 0.1}, {"share": 0.1}),
        (
            "share:float, n:int, day:date, tags:[str], left:str?",
            {"share": 1, "n": 2.0, "day": "2024-02-29", "tags": ["x"]},
            {"share": 1.0, "n": 2, "day": DAY, "tags": ["x"], "left": None},
        ),
    ],
)
def test_each_kind_builds_its_object(schema, document, value):
    """An instance for a class, a dict for a schema as it came, a dict of Python's values else."""
    built = value_of(schema, document)
    assert built == value
    assert type(built) is type(value)


ROWS = [
    {"ticker": "NVDA", "risk": 3, "day": "2024-02-29", "n": 1, "ok": True},
    {"ticker": "F", "risk": 1.5, "day": None, "n": None, "ok": None},
]


@pytest.mark.parametrize("number", [1, 2])
def test_a_list_of_objects_is_a_table_with_typed_columns(number):
    """With and without missing values; the columns in the order of the fields."""
    table = value_of("[day:date?, ticker:str, risk:float, n:int?, ok:bool?]", ROWS[:number])
    assert list(table.columns) == ["day", "ticker", "risk", "n", "ok"]
    assert table["day"].dtype.kind == "M"
    assert table["day"][0] == pd.Timestamp("2024-02-29")
    assert table["risk"].dtype == np.float64
    assert str(table["n"].dtype) == ("int64" if number == 1 else "Int64")
    assert str(table["ok"].dtype) == ("bool" if number == 1 else "boolean")
    assert table["ticker"].tolist() == ["NVDA", "F"][:number]
    assert table.isna().sum().sum() == (0 if number == 1 else 3)


def test_no_rows_are_a_table_with_columns():
    """An empty list: the types stay."""
    table = value_of("[day:date, risk:float, n:int]", [])
    assert table.shape == (0, 3)
    assert [table[name].dtype.kind for name in table] == ["M", "f", "i"]


def test_a_list_of_a_class_is_a_table_with_its_defaults():
    """Enums as their values, dates as datetimes, nested objects as dicts."""
    table = value_of(list[Holding], [{"ticker": "F", "risk": 1}])
    assert table.drop(columns="day").to_dict("records") == [
        {"ticker": "F", "risk": 1.0, "level": "low"}
    ]
    assert pd.isna(table["day"][0])
    assert table["day"].dtype.kind == "M"
    nested = value_of(list[Report], [{"name": "AB", "kind": "10-K", "weights": {"F": 1}}])
    assert nested["weights"].tolist() == [{"F": 1.0}]
    assert nested["at"].dtype.kind == "M"


def test_columns_of_a_model_have_the_names_of_the_json():
    """An alias is what the model writes, so it is what the column is called."""

    class Aliased(pydantic.BaseModel):
        ticker_name: str = pydantic.Field(alias="tickerName")

    table = value_of(list[Aliased], [{"tickerName": "F"}])
    assert table.to_dict("list") == {"tickerName": ["F"]}


@pytest.mark.parametrize(
    ("days", "kind"),
    [
        (["2024-01-02T03:04:05", None], "M8"),
        (["2024-01-02T03:04:05Z", "2024-01-02T05:04:05+02:00"], "utc"),
        (["0001-01-01T00:00:00"], "M8"),
    ],
)
def test_instants_are_datetimes_with_a_zone_where_they_have_one(days, kind):
    """UTC for all, where one of them has a zone."""
    schema = {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"at": {"type": ["string", "null"], "format": "date-time"}},
        },
    }
    column = value_of(schema, [{"at": day} for day in days])["at"]
    if kind == "utc":
        assert str(column.dtype).endswith("UTC]")
        assert column[0] == column[1]
    elif days[0] > "1700":
        assert column.dtype.kind == "M"
        assert column.dt.tz is None
    else:
        assert len(column) == 1  # pandas 2 has no such day: the text stays


def test_days_and_numbers_beyond_the_usual_fit():
    """The first and last day of the calendar, and a number that fits no column of integers."""
    table = value_of(
        "[d:date, n:int]", [{"d": "0001-01-01", "n": 1}, {"d": "9999-12-31", "n": 10**30}]
    )
    assert [str(day)[:10] for day in table["d"]] == ["0001-01-01", "9999-12-31"]
    assert table["n"].tolist() == [1, 10**30]


def test_fields_that_only_the_answer_has_come_last():
    """A schema that allows more."""
    schema = {"type": "array", "items": {"type": "object", "properties": {"a": {}}}}
    table = value_of(schema, [{"z": 1}, {"a": "x", "b": [1]}])
    assert list(table.columns) == ["a", "z", "b"]


# What does not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "document", "said"),
    [
        (LIMITS, {}, "$: the field 'share' is missing"),
        (LIMITS, [], "$: an empty list is not an object"),
        (LIMITS, {"share": 0}, "$.share: 0 is not more than 0"),
        (LIMITS, {"share": 2}, "$.share: 2 is more than 1"),
        (LIMITS, {"share": True}, "$.share: true is not a number"),
        (LIMITS, {"share": 1, "codes": []}, "$.codes: an empty list is shorter than 1"),
        (
            LIMITS,
            {"share": 1, "codes": ["a", "abcd"]},
            "$.codes[1]: 'abcd' is longer than 3 characters",
        ),
        (LIMITS, {"share": 1, "at": "soon"}, "$.at: 'soon' is not of the format 'date-time'"),
        (LIMITS, {"share": 1, "either": {}}, "$.either: the field 'x' is missing"),
        (LIMITS, {"share": 1, "same": "y"}, "$.same: 'y' is not 'x'"),
        ("risk:float", {"risk": "high"}, "$.risk: 'high' is not a number"),
        ("risk:float", {"risk": 1, "x": 2}, "$: the schema has no field 'x'"),
        ("level:low|high", {"level": "mid"}, "$.level: 'mid' is none of 'low', 'high'"),
        ("day:date", {"day": "29.2.2024"}, "$.day: '29.2.2024' is not of the format 'date'"),
        ("day:date", {"day": "2023-02-29"}, "$.day: '2023-02-29' is not of the format 'date'"),
        ("n:int", {"n": 1.5}, "$.n: 1.5 is not a whole number"),
        ("[n:int]", [{"n": 1}, {"n": None}], "$[1].n: null is not a whole number"),
        (Holding, {"risk": "high"}, "$: the field 'ticker' is missing"),
        (Holding, {"ticker": "F", "risk": "high"}, "$.risk: 'high' is not a number"),
        (Holding, {"ticker": 1, "risk": 1}, "$.ticker: 1 is not a text"),
        (Holding, {"ticker": "F", "risk": 1, "day": "x"}, "$.day: 'x' is not a date (YYYY-MM-DD)"),
        (
            Holding,
            {"ticker": "F", "risk": 1, "level": "x"},
            "$.level: 'x' is none of 'low' or 'high'",
        ),
        (Bounded, {"share": 2}, "$.share: 2: Input should be less than or equal to 1"),
        (
            Report,
            {"name": "AB", "kind": "8-K"},
            "$.kind: '8-K' is none of '10-K' or '20-F'",
        ),
        (
            Report,
            {"name": "AB", "kind": "10-K", "holdings": [{}, 5]},
            "$.holdings[0]: the field 'ticker' is missing",
        ),
        (
            Report,
            {"name": "AB", "kind": "10-K", "weights": {"F": "x"}},
            "$.weights.F: 'x' is not a number",
        ),
        (Strict, {"day": "2024-02-29", "count": "2"}, "$.count: '2' is not a whole number"),
        (Strict, {"day": "2024-02-29", "count": 2, "x": 1}, "$: the schema has no field 'x'"),
        (Node, {"name": "a", "children": [{"name": 1}]}, "$.children[0].name: 1 is not a text"),
    ],
)
def test_a_fault_has_the_place_the_value_and_the_reason(schema, document, said):
    """The first fault; the object is not built."""
    reading = read(schema, document)
    assert str(reading.faults[0]) == said
    assert reading.value is None


def test_at_most_twenty_faults_are_listed():
    """Of a list with a thousand."""
    assert len(faults_of("[n:int]", [{}] * 1000)) == 20
    assert len(faults_of(list[Holding], [{}] * 1000)) == 20


def test_a_check_of_the_users_that_fails_is_a_fault():
    """A validator may raise anything."""

    class Checked(pydantic.BaseModel):
        name: str

        @pydantic.field_validator("name")
        @classmethod
        def check(cls, value):
            return {}[value]

    assert faults_of(Checked, {"name": "x"}) == ["$: the check of the class failed: KeyError: 'x'"]


@pytest.mark.parametrize("schema", [LIMITS, Node, Holding, "a:str", list[Node], {"type": "array"}])
@pytest.mark.parametrize(
    "text",
    ["", "[" * 1_000_000, '{"name":"a","children":[' * 60, "[NaN]", "1" * 5000, "null", "[[]]"],
    ids=lambda text: text[:9],
)
def test_no_text_raises(schema, text):
    """Hostile sizes and shapes: faults, or an object."""
    read(schema, text)


# What is no schema --------------------------------------------------------------------------------


class Odd(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    table: pd.DataFrame


@dataclasses.dataclass
class Unknown:
    value: "NoSuchType"  # noqa: F821  the fault that is tested


DEEP = {"type": "object"}
for _ in range(70):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (3, "an object of int"),
        (None, "an object of NoneType"),
        (pd.DataFrame(), "an object of DataFrame"),
        (print, "an object of builtin_function_or_method"),
        (int, "the class int"),
        (pydantic.BaseModel, "the class BaseModel"),
        (Holding("F", 1.0), "an object of Holding, not the class Holding itself"),
        (Odd, "Odd cannot be read from JSON"),
        (list[Odd], "list[Odd] cannot be read from JSON"),
        (Unknown, "Unknown cannot be read from JSON"),
        ({}, "says nothing about an answer"),
        ({"ticker": "str"}, "says nothing about an answer"),
        ({"type": "objct"}, "$.type: 'objct' is none of"),
        ({"properties": {"ticker": "str"}}, "$.properties.ticker: 'str' is not"),
        ({"type": "string", "pattern": "("}, "$.pattern"),
        ({"type": "object", "x": {1, 2}}, "cannot be written as JSON"),
        ({"type": "number", "minimum": float("nan")}, "cannot be written as JSON"),
        ({"enum": ["x" * 200_000]}, "too large"),
        (DEEP, "too large"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "lies outside of it"),
        ({"$ref": "file:///etc/passwd"}, "lies outside of it"),
        ({"properties": {"default": {"$ref": "other.json"}}}, "lies outside of it"),
        ({"items": {"$dynamicRef": "http://127.0.0.1:9/x"}}, "lies outside of it"),
        ({"$ref": "#/$defs/none"}, "which is not there"),
        ({"$ref": "#none"}, "which is not there"),
        ({"$ref": "#"}, "refers to itself without an end"),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            "refers to itself without an end",
        ),
        ({"not": {"$ref": "#"}, "type": "object"}, "refers to itself without an end"),
        ({"type": "object", "dependentSchemas": {"a": {"$ref": "#"}}}, "refers to itself"),
        ({"$anchor": "x", "anyOf": [{"$ref": "#x"}]}, "refers to itself without an end"),
        (
            {
                "$ref": "#/$defs/0",
                "$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(30)} | {"30": {}},
            },
            "over more than 20 steps",
        ),
        (
            {
                "properties": {"half": {"$ref": "#/$defs/15"}, "all": {"$ref": "#/$defs/0"}},
                "$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(30)} | {"30": {}},
            },
            "over more than 20 steps",
        ),
        ({"$schema": ["x"], "type": "object"}, "not valid at $"),
        ({"items": {"$id": "http://127.0.0.1:9/x", "$ref": "#/y"}}, 'has an "$id" of its own'),
        ("{", "is not JSON"),
        ("{'type': 'object'}", "is not JSON"),
        ("nowhere.json", "cannot be read: No such file"),
        ("a:\0", "no type"),
    ],
)
def test_what_is_no_schema_is_refused_with_a_fix(wrong, said):
    """One sentence of what was seen."""
    with pytest.raises(InputError) as caught:
        read_answer_schema(wrong, WHERE)
    assert said in caught.value.message
    assert caught.value.message.startswith(WHERE)
    assert len(caught.value.message) < 500
    assert caught.value.fix


def test_a_typed_dict_of_the_standard_library_is_read_or_explained():
    """Python before 3.12 tells pydantic too little about it; the error says what to import."""
    try:
        assert value_of(PlainTyped, {"ticker": "F"}) == {"ticker": "F"}
    except InputError as exc:
        assert "typing_extensions.TypedDict" in exc.message  # noqa: PT017  only there


def test_local_references_are_followed():
    """By a path, by an anchor, and to itself one level down."""
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"n": {"$ref": "#number"}, "child": {"$ref": "#/$defs/node"}},
            },
            "any~/x": {"$anchor": "number", "type": "number"},
        },
    }
    assert faults_of(schema, {"child": {"child": {"n": "x"}}}) == [
        "$.child.child.n: 'x' is not a number"
    ]
    assert value_of({"items": {"$ref": "#/$defs/any~0~1x"}, **schema}, {"n": 1}) == {"n": 1}


@pytest.mark.parametrize("draft", ["http://json-schema.org/draft-07/schema#", "http://nobody/x"])
def test_nothing_is_fetched(monkeypatch, draft):
    """Not for a schema of another draft, and not for an unknown one."""

    def refuse(*_, **__):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    schema = {"$schema": draft, "type": "object", "definitions": {"a": {"type": "number"}}}
    schema["properties"] = {"a": {"$ref": "#/definitions/a"}}
    assert faults_of(schema, {"a": "x"}) == ["$.a: 'x' is not a number"]


def test_a_name_of_its_own_at_the_top_leads_nowhere():
    """References are read within the schema, whatever address it names itself by."""
    schema = {
        "$id": "http://127.0.0.1:9/root.json",
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"type": "number"}},
    }
    assert faults_of(schema, {"a": "x"}) == ["$.a: 'x' is not a number"]


def test_a_reference_in_the_way_of_an_old_draft_is_a_fault_at_the_worst():
    """There `id` names a part, from which a reference may lead nowhere."""
    schema = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "properties": {"a": {"id": "http://127.0.0.1:9/x", "allOf": [{"$ref": "#/y"}]}},
        "y": {"type": "number"},
    }
    assert "refers to what is not there" in faults_of(schema, {"a": "x"})[0]


WORDS = st.sampled_from(["a", "b", "$ref", "$id", "default", ""])
PLAIN = (
    {"type": "string", "format": "date"},
    {"type": "string", "pattern": "^a+$"},
    {"type": ["integer", "null"]},
    {"type": "number", "multipleOf": 0.1},
    {"enum": [1, None, "a", [1]]},
    {"$anchor": "x", "type": "number"},
    {"$ref": "#"},
    {"$ref": "#/$defs/a"},
    {"$ref": "#x"},
)


def nest(inner):
    fields = st.dictionaries(WORDS, inner, max_size=3)
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": fields},
            optional={"required": st.lists(WORDS, unique=True, max_size=2), "not": inner},
        ),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        inner.map(lambda part: {"$defs": {"a": part}, "$ref": "#/$defs/a"}),
    )


DOCUMENTS = st.recursive(
    st.sampled_from([None, True, 1, 0.3, "a", "2024-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100)
@given(st.recursive(st.sampled_from(PLAIN), nest, max_leaves=6), DOCUMENTS)
def test_any_schema_is_refused_or_reads_any_document(schema, document):
    """No other exception, however its references lead; what fits has the values of the document."""
    try:
        form = read_answer_schema(schema, WHERE)
    except InputError:
        return
    reading = form.read(json.dumps(document))
    if not reading.faults and not isinstance(reading.value, pd.DataFrame):
        assert reading.value == document


def test_a_schema_is_read_once():
    """What you do with your dict later changes nothing."""
    mine = {"type": "object", "properties": {"a": {"type": "number"}}}
    schema = read_answer_schema(mine, WHERE)
    mine["properties"]["a"]["type"] = "string"
    assert schema.read('{"a": 1}').faults == ()


# Files --------------------------------------------------------------------------------------------


def test_a_file_holds_a_schema(tmp_path, monkeypatch):
    """As a path, as a text, with a byte order mark, with a name that ends otherwise."""
    monkeypatch.chdir(tmp_path)
    for name in ("limits.json", "limits.schema"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + json.dumps(LIMITS).encode())
        for place in (name, tmp_path / name, str(tmp_path / name)):
            assert faults_of(place, {}) == ["$: the field 'share' is missing"]
            assert read_answer_schema(place, WHERE).name == name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"[]", "is a list, not a JSON schema"),
        (b"\xff\xfe{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b" " * 1_000_001, "more than 1,000,000 bytes"),
    ],
)
def test_a_file_that_holds_none_is_named(tmp_path, content, said):
    """Broken, of another kind, or too large to be read."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_answer_schema(path, WHERE)


def test_which_variables_are_offered_as_schemas():
    """Classes with fields, types of them and dicts that look like schemas."""
    assert all(map(is_schema, [Holding, Report, Typed, list[Holding], LIMITS]))
    assert not any(map(is_schema, [Holding("F", 1.0), {"NVDA": 0.5}, {}, "a:str", 3, int, print]))
