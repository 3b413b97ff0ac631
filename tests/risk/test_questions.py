import csv
import hashlib
import json
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urisk_nb.errors import InputError
from urisk_nb.risk.evidence import Sentence, split
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.questions import (
    EXAMPLES,
    PLACEHOLDER,
    SCHEMA,
    Example,
    answer,
    build_question,
    check_examples,
    examples_hash,
    messages,
    parse,
    repair,
    schema,
)
from urisk_nb.risk.taxonomy import DEFAULT, SEVERITIES, Category, Taxonomy

PARAMS = RiskParams.of()


def sentence(text, ticker=None):
    return split(Document(id="E1", ticker=ticker, text=text)).sentences[0]


def content(question):
    return json.loads(question.payload)


def test_the_examples_show_every_label_and_severity():
    """
    Each category and each severity is shown at least once, in compact JSON that is itself a valid
    answer.
    """
    assert {example.risk for example in EXAMPLES} == set(DEFAULT.labels)
    assert {example.severity for example in EXAMPLES} == set(SEVERITIES)
    assert all(
        parse(answer(example.risk, example.severity), "stop")[1] is None for example in EXAMPLES
    )
    assert answer("legal", 4) == '{"risk":"legal","severity":4}'


def test_the_examples_name_no_company_of_the_evidence():
    """Worked examples are about invented companies, so that they never answer for a real one."""
    rows = csv.DictReader(
        (files("urisk_nb") / "data" / "evidence_2018_2019.csv")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    texts = [row["text"] for row in rows]
    names = {"Facebook", "Apple", "Google", "Amazon", "Netflix", "Microsoft", "GitHub", "Cambridge"}
    for example in EXAMPLES:
        assert not names & set(example.text.replace("'s", "").split())
        assert not any(example.text[:30] in text for text in texts)


def test_the_bytes_are_canonical_and_hashed():
    """
    The payload is JSON with sorted keys and no free white space, ASCII only, and the key is its
    sha256.
    """
    question = build_question(sentence("Acme \u00e9\U0001f600 was fined."), PARAMS)
    again = json.dumps(json.loads(question.payload), sort_keys=True, separators=(",", ":")).encode(
        "ascii"
    )
    assert question.payload == again
    assert question.key == hashlib.sha256(question.payload).hexdigest()
    assert sorted(content(question)) == ["format", "messages", "options"]
    assert content(question)["options"] == {"num_predict": 48, "seed": 1, "temperature": 0}


@pytest.mark.parametrize("labels", ["greedy", "calibrated"])
def test_a_decision_models_bytes_are_the_sentence(labels):
    """
    No rules, no examples; schema and options as in the other form. The query is beside the bytes,
    as System One asks it, and whoever gives probabilities always is not asked for them.
    """
    params = RiskParams.of(query="fines", labels=labels)
    decision, whole = (
        build_question(sentence("Acme was fined."), params, form=form)
        for form in ("decision", "examples")
    )
    assert content(decision) == {
        "messages": [{"role": "user", "content": "Acme was fined."}],
        **{name: content(whole)[name] for name in ("format", "options")},
    }
    assert (decision.query, decision.taxonomy) == ("fines", DEFAULT)
    assert decision.key != whole.key


def test_the_schema_is_closed_and_alphabetical():
    """
    The two properties stand in alphabetical order, since a server may sort them, and nothing else
    is allowed.
    """
    assert (
        content(build_question(sentence("Acme was fined."), PARAMS))["format"]
        == SCHEMA
        == schema(DEFAULT)
    )
    assert list(SCHEMA["properties"]) == ["risk", "severity"] == SCHEMA["required"]
    assert SCHEMA["properties"]["risk"]["enum"] == list(DEFAULT.labels)
    assert SCHEMA["additionalProperties"] is False


def test_only_the_last_message_differs():
    """
    Two sentences share all bytes up to the last message, so that the server's prefix cache holds
    the rest.
    """
    one, two = (
        build_question(sentence("Acme was fined."), PARAMS),
        build_question(sentence("The plant burned."), PARAMS, ticker="X"),
    )
    first, second = content(one)["messages"], content(two)["messages"]
    assert first[:-1] == second[:-1]
    assert [message["role"] for message in first] == [
        "system",
        *["user", "assistant"] * len(EXAMPLES),
        "user",
    ]
    assert first[-1] == {"content": "Acme was fined.", "role": "user"}
    assert [message["content"] for message in first[1:-1:2]] == [
        example.text for example in EXAMPLES
    ]
    assert all(category.definition in first[0]["content"] for category in DEFAULT.categories)


def test_the_key_knows_the_sentence_and_not_the_company():
    """
    The same words are the same question for every ticker and document; other words, seed or query
    are another.
    """
    base = build_question(sentence("Acme was fined."), PARAMS)
    same = build_question(sentence("  Acme  was\nfined.", "B"), PARAMS, ticker="B")
    top_logprobs = [
        build_question(sentence("Acme was sued."), PARAMS),
        build_question(sentence("Acme was fined."), RiskParams.of(seed=2)),
        build_question(sentence("Acme was fined."), RiskParams.of(query="supply chain")),
        build_question(sentence("Acme was fined."), PARAMS, reverse=True),
        build_question(sentence("Acme was fined."), PARAMS, examples=EXAMPLES[1:]),
    ]
    assert same.key == base.key
    assert len({base.key, *(other.key for other in top_logprobs)}) == 6


def test_the_query_stands_in_the_system_message():
    """The reader's question narrows every call and is cleaned like evidence."""
    question = build_question(
        sentence("Acme was fined."), RiskParams.of(query="Taiwan <|im_end|> supply\u202e")
    )
    system = content(question)["messages"][0]["content"]
    assert "Taiwan" in system
    assert "<|" not in system
    assert "\u202e" not in system


def test_the_second_look_reverses_the_examples_only():
    """
    The second look asks about the same sentence under the same rules, with the examples turned
    around.
    """
    first, second = (
        content(build_question(sentence("Acme was fined."), PARAMS, reverse=reverse))
        for reverse in (False, True)
    )
    turns = [first["messages"][at : at + 2] for at in range(1, len(first["messages"]) - 1, 2)]
    turned = [second["messages"][at : at + 2] for at in range(1, len(second["messages"]) - 1, 2)]
    assert turned == turns[::-1] != turns
    assert (first["messages"][0], first["messages"][-1], first["format"]) == (
        second["messages"][0],
        second["messages"][-1],
        second["format"],
    )


def test_a_repair_shows_what_was_said_and_what_is_wanted():
    """The repair is the same chat with the bad answer, cut and cleaned, and the wanted form."""
    question = build_question(sentence("Acme was fined."), PARAMS)
    repaired = repair(question, "I think <|im_end|> " + "x" * 5000)
    said, wanted = content(repaired)["messages"][-2:]
    assert content(repaired)["messages"][:-2] == content(question)["messages"]
    assert said["role"] == "assistant"
    assert len(said["content"]) < 250
    assert "<|" not in said["content"]
    assert all(label in wanted["content"] for label in DEFAULT.labels)
    assert (repaired.purpose, repaired.sentence) == ("repair", question.sentence)
    assert repaired.key != question.key
    assert repair(question, "").payload  # an empty answer can be repaired too


BAD = [
    ("", "stop"),
    ("legal", "stop"),
    ("{}", "stop"),
    ('{"risk":"legal"}', "stop"),
    ('{"risk":"legal","severity":6}', "stop"),
    ('{"risk":"legal","severity":"3"}', "stop"),
    ('{"risk":"legal","severity":true}', "stop"),
    ('{"risk":"legal","severity":2.5}', "stop"),
    ('{"risk":"Legal","severity":3}', "stop"),
    ('{"risk":"legal","severity":3,"why":"x"}', "stop"),
    ('[{"risk":"legal","severity":3}]', "stop"),
    ('{"risk":"legal","severity":3} and more', "stop"),
    ('{"risk":"legal","severity":NaN}', "stop"),
    ("[" * 100_000, "stop"),
    ("null", "stop"),
    ('{"risk":"legal","severity":3,"risk":"none"}', "stop"),
    ('{"risk":["legal"],"severity":3}', "stop"),
    ('{"risk":"legal","severity":null}', "stop"),
    ('{"risk":"legal","severity":3}', "length"),
    ('{"risk":"legal","severity":3}', None),
    ('{"risk":"legal","severity":3}', "load"),
    ('{"risk":"leg', "length"),
]


@pytest.mark.parametrize(("text", "done"), BAD)
def test_what_is_no_answer_is_said_and_never_a_label(text, done):
    """Everything but a valid object that ended by itself is no label, with a reason."""
    label, reason = parse(text, done)
    assert label is None
    assert reason


@settings(max_examples=200)
@given(
    st.text(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=5), st.lists, max_leaves=8
    ).map(json.dumps)
)
def test_parsing_raises_nothing(text):
    """No text that a server may send ends in an exception."""
    label, reason = parse(text, "stop")
    assert (label is None) == (reason is not None)


@pytest.mark.parametrize("risk", DEFAULT.labels)
@pytest.mark.parametrize("severity", range(6))
def test_every_valid_answer_is_read(risk, severity):
    """
    Each of the 48 answers is read, with any white space; the severity of none has no meaning and is
    0.
    """
    label, reason = parse(f' {{\n "severity" : {severity},\t"risk":"{risk}" }} ', "stop")
    assert reason is None
    assert (label.risk, label.severity) == (risk, 0 if risk == "none" else severity)


def test_a_taxonomy_of_ones_own_is_asked_and_checked():
    """The user's categories are the only labels that are asked for and accepted."""
    own = Taxonomy(
        version="v",
        categories=(Category(id="climate", name="Climate", definition="storms and floods"),),
    )
    examples = (Example(text="A flood closed the plant.", risk="climate", severity=3),)
    question = build_question(sentence("Acme was fined."), PARAMS, own, examples=examples)
    assert content(question)["format"]["properties"]["risk"]["enum"] == ["climate", "none"]
    assert "storms and floods" in content(question)["messages"][0]["content"]
    assert parse('{"risk":"climate","severity":3}', "stop", own)[0].risk == "climate"
    assert parse('{"risk":"legal","severity":3}', "stop", own)[0] is None


@pytest.mark.parametrize(
    "bad",
    [
        ("A flood.", "climate", 3),
        ("A fine.", "legal", 6),
        ("A fine.", "legal", True),
        (" ", "legal", 3),
    ],
)
def test_examples_must_carry_labels_that_exist(bad):
    """
    A worked example with an unknown label or no text would teach the model nonsense, so it is
    refused with the choice.
    """
    with pytest.raises(InputError, match="worked example") as caught:
        check_examples([Example(text=bad[0], risk=bad[1], severity=bad[2])], DEFAULT)
    assert "governance" in caught.value.fix


def test_the_hash_of_the_examples_follows_their_order():
    """Another order of the examples is another prompt, and another hash."""
    assert examples_hash(EXAMPLES) == examples_hash(list(EXAMPLES)) != examples_hash(EXAMPLES[::-1])


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 8),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([*DEFAULT.labels, "Legal", ""]),
    st.text(),
)
OBJECTS = st.one_of(
    VALUES,
    st.lists(VALUES, max_size=3),
    st.fixed_dictionaries({"risk": VALUES, "severity": VALUES}),
    st.fixed_dictionaries(
        {
            "risk": st.sampled_from(DEFAULT.labels),
            "severity": st.sampled_from([-1, 0, 3, 3.0, 5, 6, True, "3"]),
        }
    ),
    st.dictionaries(st.sampled_from(["risk", "severity", "why"]), VALUES),
)


@given(OBJECTS)
@settings(max_examples=400, deadline=None)  # the first draw loads the validator
def test_what_is_in_the_schema_is_what_a_validator_says(content):
    """The oracle is jsonschema; 3.0 is a whole number there, too, and true is none."""
    import jsonschema

    label, reason = parse(json.dumps(content), "stop")
    assert (label is not None) == jsonschema.Draft202012Validator(SCHEMA).is_valid(content), reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "not an object"),
        ('{"risk":"legal"}', "the keys"),
        ('{"risk":"Legal","severity":3}', "risk is 'Legal'"),
        ('{"risk":"legal","severity":true}', "severity is True"),
    ],
)
def test_what_is_not_in_the_schema_is_said(text, reason):
    """With what was seen."""
    assert reason in parse(text, "stop")[1]


def test_the_bytes_are_those_of_the_chat_whatever_the_sentence_is():
    """
    What is made once a run and joined with each sentence gives the canonical JSON of the whole, for
    every form, also where a text has the placeholder in it.
    """
    for text in ("Acme was fined.", PLACEHOLDER, 'A "quote" \u00e9 \\ \U0001f600.'):
        for query in (None, PLACEHOLDER, "fines"):
            params = RiskParams.of(query=query, seed=3)
            document = Document(id="D1", ticker=None, text=text)
            one = Sentence(id="D1.1", document=document, text=text, start=0, end=len(text))
            chat = messages(text, DEFAULT, tuple(reversed(EXAMPLES)), params.query)
            whole = {
                "format": SCHEMA,
                "messages": chat,
                "options": {"num_predict": params.num_predict, "seed": 3, "temperature": 0},
            }
            wanted = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            question = build_question(one, params, reverse=True)
            assert question.payload == wanted.encode()
            assert question.key == hashlib.sha256(question.payload).hexdigest()
