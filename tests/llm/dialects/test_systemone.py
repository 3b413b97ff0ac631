"""
System One: questions with typed answers, probabilities back; recorded from llama.cpp's own server
with a decision model.
"""

import json
import math

import pytest

from harness import ROOT
from urisk_nb import errors
from urisk_nb.llm.dialects import dialect, systemone
from urisk_nb.llm.dialects.systemone import TypedQuestion
from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES

LINES = (ROOT / "tests/data/llamacpp_transcripts.jsonl").read_text(encoding="utf-8").splitlines()
RECORDED = {record["name"]: record for record in map(json.loads, LINES)}
CATEGORIES = {category.id: category.definition for category in DEFAULT.categories}
ANCHORS = tuple(SEVERITIES.values())
QUESTIONS = {
    "risk": TypedQuestion(instructions="Which?", criteria={"a": "x", "b": None}),
    "severity": TypedQuestion(instructions="?", criteria=["l", "h"]),
}


def body_of(name):
    return "".join(RECORDED[name]["chunks"])


def test_a_request_byte_for_byte():
    """The shape that is documented; what the server has no use for is left out."""
    assert systemone.encode_decision(
        model="d", state="text", questions=QUESTIONS, keep_alive="20m"
    ) == (
        b'{"model":"d","state":"text","questions":{"risk":{"type":"choice","instructions":"Which?","criteria":{"a":"x","b":null}},'
        b'"severity":{"type":"score","instructions":"?","criteria":["l","h"]}},"keep_alive":"20m"}'
    )
    assert b"keep_alive" not in systemone.encode_decision(model="d", state="t", questions=QUESTIONS)


def test_a_label_is_two_questions():
    """The categories with their definitions and none, in order, and the six anchors."""
    questions = systemone.build_label_questions(CATEGORIES, ANCHORS, none=NONE)
    assert list(questions["risk"].criteria) == [*DEFAULT.ids, NONE]
    assert questions["risk"].criteria["legal"] == CATEGORIES["legal"]
    assert questions["severity"].criteria == ANCHORS


def test_a_recorded_decision():
    """Probabilities of every answer, as the server gave them; they add up to 1."""
    sent = json.loads(RECORDED["decision"]["request"]["body"])
    questions = {
        "risk": TypedQuestion(
            instructions="Which risk?", criteria=sent["questions"]["risk"]["criteria"]
        ),
        "severity": TypedQuestion(
            instructions="How severe?", criteria=sent["questions"]["severity"]["criteria"]
        ),
    }
    assert (
        json.loads(
            systemone.encode_decision(model="decision", state=sent["state"], questions=questions)
        )
        == sent
    )
    reply = json.loads(body_of("decision"))
    probabilities, prompt_tokens = systemone.decode_decision(reply, questions)
    assert prompt_tokens == reply["usage"]["input_tokens"]
    for name, answer in reply["answers"].items():
        told = probabilities[name]
        assert told == pytest.approx(answer["probabilities"], abs=1e-6)
        assert math.fsum(told.values()) == pytest.approx(1, abs=1e-12)
    assert list(probabilities["severity"]) == ["0", "1", "2", "3", "4", "5"]


def answers(risk, severity=None):
    return {
        "answers": {
            "risk": {"probabilities": risk},
            "severity": {"probabilities": severity or {"0": 0.25, "1": 0.75}},
        }
    }


def test_rounded_probabilities_are_shared_in_proportion():
    """Servers round what they print."""
    found, _ = systemone.decode_decision(answers({"a": 0.33, "b": 0.66}), QUESTIONS)
    assert found["risk"] == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    found, _ = systemone.decode_decision(answers({"a": 1.0000001, "b": 0.0}), QUESTIONS)
    assert found["risk"] == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"answers": []},
        {"answers": {"risk": 3}},
        {"answers": {"risk": {"probabilities": {"a": 1, "b": 0}}}},
        answers({"a": 1.0}),
        answers({"a": "1", "b": 0}),
        answers({"a": True, "b": 0}),
        answers({"a": -0.5, "b": 1.5}),
        answers({"a": math.nan, "b": 1}),
        answers({"a": 10**400, "b": 0}),
        answers({"A": 1, "B": 0}),
        answers({"a": 0, "b": 0}),
    ],
)
def test_what_is_no_decision_is_a_protocol_error(content):
    """A missing answer, a missing option, and values that are no probabilities."""
    with pytest.raises(errors.ProtocolError, match="systemone"):
        systemone.decode_decision(content, QUESTIONS)


RETRY_RULES = {
    "systemone_chat_model": errors.ModelUnsuitable,
    "decision_no_questions": errors.BadRequest,
    "decision_bad_type": errors.BadRequest,
    "decision_too_long": errors.ContextExceeded,
}
SAID = [
    (404, '{"error":"model \'d\' not found"}', errors.ModelNotFound),
    (404, "404 page not found", errors.ProtocolError),
    (404, '{"error":{"message":"File Not Found","code":404}}', errors.ProtocolError),
    (400, '{"error":"\\"llama3.1\\" does not support systemone"}', errors.ModelUnsuitable),
    (400, '{"error":"unsupported decision encoding \\"openjev\\""}', errors.ModelUnsuitable),
    (400, '{"error":"\\"tev1\\" is not a llama.cpp decision model"}', errors.ModelUnsuitable),
    (400, '{"error":{"code":400,"message":"model \'d\' not found"}}', errors.ModelNotFound),
    (400, '{"error":"input exceeds context length"}', errors.ContextExceeded),
    (400, '{"error":"prompt too long"}', errors.ContextExceeded),
    (
        400,
        '{"error":"prompt 0 has 3652 tokens; expected 1–2050 (input is never truncated)"}',
        errors.ContextExceeded,
    ),
    (
        400,
        '{"error":"registry.ollama.ai/library/llama3.2:1b does not support decision"}',
        errors.ModelUnsuitable,
    ),
    (
        500,
        '{"error":{"code":500,"message":"input (612 tokens) is too large to process."}}',
        errors.ContextExceeded,
    ),
    (
        400,
        '{"error":"question \\"risk\\": criteria must contain 2–26 candidates"}',
        errors.ModelUnsuitable,
    ),
    (
        400,
        '{"error":{"message":"questions.risk: too many options (60), supports at most 52"}}',
        errors.ModelUnsuitable,
    ),
    (413, '{"error":"request body too large"}', errors.BadRequest),
    (503, "", errors.ServerBusy),
    (502, "", errors.ServerConnectionLost),
    (500, "boom", errors.ServerInternalError),
]


@pytest.mark.parametrize("name", RETRY_RULES)
def test_every_recorded_refusal_has_its_meaning(name):
    """Each becomes the error that it means, with the server's own words and something to do."""
    error = systemone.decode_error(int(RECORDED[name]["status"]), body_of(name))
    assert type(error) is RETRY_RULES[name]
    assert error.fix
    assert not error.facts["said"].startswith("{")


@pytest.mark.parametrize(("status", "body", "kind"), SAID)
def test_every_known_text_has_its_meaning(status, body, kind):
    """Servers without the route, models without the capability, and the usual faults."""
    assert type(systemone.decode_error(status, body)) is kind


@pytest.mark.parametrize(
    "said", [said for _, said, _ in SAID if "candidates" in said or "too many options" in said]
)
def test_too_many_categories_are_told_as_such(said):
    """The user can do something about a taxonomy, and nothing about a question."""
    assert "fewer categories" in systemone.decode_error(400, said).fix


def test_a_smallest_request():
    """What every decision model takes: asked to load it, and to find out whether it is one."""
    sent = json.loads(systemone.encode_smallest(model="d", keep_alive="20m"))
    assert (sent["model"], sent["keep_alive"]) == ("d", "20m")
    assert sent["state"].strip()
    (question,) = sent["questions"].values()
    assert question["instructions"].strip()
    assert len(question["criteria"]) == 2
    systemone.decode_smallest({"answers": {"q": {"probabilities": {"a": 0.5, "b": 0.5}}}})
    with pytest.raises(errors.ProtocolError):
        systemone.decode_smallest({"error": "Unexpected endpoint or method."})


def test_no_rule_is_dead():
    """Each rule of the table is the meaning of at least one text above or recorded."""
    texts = [(status, body) for status, body, _ in SAID] + [
        (int(RECORDED[name]["status"]), body_of(name)) for name in RETRY_RULES
    ]
    found = {
        systemone.RULES.index(dialect.find_rule(systemone.RULES, s, dialect.extract_error_text(b)))
        for s, b in texts
    }
    assert found == set(range(len(systemone.RULES)))


def test_a_query_is_part_of_the_question():
    """What the reader asks about narrows the risk, not the severity."""
    questions = systemone.build_label_questions(
        CATEGORIES, ANCHORS, none=NONE, query="supply chain"
    )
    assert "supply chain" in questions["risk"].instructions
    assert "supply chain" not in questions["severity"].instructions
