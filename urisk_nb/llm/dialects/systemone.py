"""
System One: `POST /v1/systemone`, where a decision model gives every answer its probability.

One request carries a text and typed questions; the reply has probabilities and no generated text.
Ollama (0.35 and later), llama.cpp and vLLM serve the same route with the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from urisk_nb import errors
from urisk_nb.llm.dialects.dialect import (
    BUSY,
    CONNECTION_LOST,
    INTERNAL_ERROR,
    MAX_ROUNDING,
    REFUSED_STATUSES,
    ErrorRule,
    dump_json,
    read_count,
    read_number,
    to_error,
)

__all__ = [
    "CAPABILITY",
    "PATH",
    "RULES",
    "TypedQuestion",
    "build_label_questions",
    "decode_decision",
    "decode_error",
    "decode_smallest",
    "encode_decision",
    "encode_smallest",
]

PATH = "/v1/systemone"
CAPABILITY = "decision"  # as Ollama's /api/show names it


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedQuestion:
    """
    A question whose answers are known.

    Attributes
    ----------
    instructions
        What is asked.
    criteria
        Options with their descriptions (or None) of which one is chosen; or the descriptions of
        the levels of a score, the lowest first.
    """

    instructions: str
    criteria: Mapping[str, str | None] | Sequence[str]

    @property
    def answers(self) -> tuple[str, ...]:
        """The options; or the levels, which are named "0", "1", ..."""
        is_choice = isinstance(self.criteria, Mapping)
        return tuple(self.criteria if is_choice else map(str, range(len(self.criteria))))


def build_label_questions(
    categories: Mapping[str, str],
    severities: Sequence[str],
    *,
    none: str,
    query: str | None = None,
) -> dict[str, TypedQuestion]:
    """
    Return the questions about one sentence: which risk, and how severe.

    Questions of one request are answered independently.

    Parameters
    ----------
    categories
        Category to definition, in the order that breaks ties.
    severities
        The anchors, from 0 up.
    none
        The label of a sentence that shows no risk of the company.
    query
        What the reader asks about; a sentence that does not bear on it shows no risk.
    """
    severity = TypedQuestion(
        instructions="How severe is the risk that the sentence shows for the company?",
        criteria=tuple(severities),
    )
    options: dict[str, str | None] = {**categories, none: "not about a risk of this company"}
    asked = "Which risk does the sentence show for the company?"
    if query:
        asked += f" The reader asks about: {query}. A sentence that does not bear on it is {none}."
    return {"risk": TypedQuestion(instructions=asked, criteria=options), "severity": severity}


def encode_decision(
    *,
    model: str,
    state: str,
    questions: Mapping[str, TypedQuestion],
    keep_alive: str | float | None = None,
) -> bytes:
    """
    Return the bytes of a request.

    Parameters
    ----------
    model
        The decision model.
    state
        The text that the questions are about.
    questions
        Id to question.
    keep_alive
        How long the model stays loaded; None where the server has no such thing.
    """
    body: dict[str, Any] = {
        "model": model,
        "state": state,
        "questions": {
            name: {
                "type": "choice" if isinstance(question.criteria, Mapping) else "score",
                "instructions": question.instructions,
                "criteria": question.criteria,
            }
            for name, question in questions.items()
        },
    }
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return dump_json(body)


# Every model accepts it. Fewer options, an empty text or empty instructions may be refused.
_SMALLEST = {"q": TypedQuestion(instructions="?", criteria={"a": None, "b": None})}


def encode_smallest(*, model: str, keep_alive: str | float | None = None) -> bytes:
    """
    Return the bytes of the smallest request. Any answer to it shows that the model is a decision
    model, and loads it.
    """
    return encode_decision(model=model, state="-", questions=_SMALLEST, keep_alive=keep_alive)


def decode_smallest(content: Any) -> None:
    """Check the reply to a smallest request; raise ProtocolError where it is no decision."""
    decode_decision(content, _SMALLEST)


def decode_decision(
    content: Any, questions: Mapping[str, TypedQuestion]
) -> tuple[dict[str, dict[str, float]], int]:
    """
    Return the probabilities of every answer to every question, and how many tokens were read.

    The probabilities of a question add up to 1. The count is 0 where the server does not report it.

    Parameters
    ----------
    content
        The reply's JSON.
    questions
        What was asked.

    Raises
    ------
    ProtocolError
        An answer is missing, or its probabilities cannot be used.
    """
    answers = content.get("answers") if isinstance(content, dict) else None
    if not isinstance(answers, dict):
        raise _bad_reply("it has no answers")
    found = {
        name: _read_probabilities(name, answers.get(name), question.answers)
        for name, question in questions.items()
    }
    usage = content.get("usage")
    return found, read_count(usage, "input_tokens") if isinstance(usage, dict) else 0


def _read_probabilities(name: str, answer: Any, allowed: Sequence[str]) -> dict[str, float]:
    reported = answer.get("probabilities") if isinstance(answer, dict) else None
    if not isinstance(reported, dict):
        raise _bad_reply(f"the answer to {name!r} has no probabilities")
    values: dict[str, float] = {}
    for option in allowed:
        value = read_number(reported.get(option))
        if value is None or not 0 <= value <= 1 + MAX_ROUNDING:
            raise _bad_reply(
                f"the probability of {option!r} in {name!r} is {reported.get(option)!r}"
            )
        values[option] = value
    total = math.fsum(values.values())
    if total <= 0:
        raise _bad_reply(f"the probabilities of {name!r} add up to {total:g}")
    # Servers round what they print; what is left is shared in proportion.
    return {option: value / total for option, value in values.items()}


def _bad_reply(seen: str) -> errors.ProtocolError:
    return errors.ProtocolError(
        f"the reply of {PATH} cannot be used: {seen}.",
        fix="use a chat model, or a server whose System One route answers as documented",
    )


# Errors -------------------------------------------------------------------------------------------

CHAT_MODEL = "label with a decision model, or with a chat model"
RULES: tuple[ErrorRule, ...] = (
    ErrorRule(
        (),
        r"exceeds? the available context size|exceeds? (the )?context length|maximum context "
        r"length|longer than the context|prompt (is )?too long|input is never truncated|"
        r"too large to process",  # models of llama.cpp that read a text in one batch, status 500
        errors.ContextExceeded,
        "shorten the text, or start the server with a larger window (llama.cpp: --ctx-size and "
        "--ubatch-size)",
    ),
    ErrorRule(
        (400,),
        r"too many options|\bcandidates\b",  # llama.cpp; Ollama: 2–26 candidates
        errors.ModelUnsuitable,  # not BadRequest, which holds for one sentence
        "use a taxonomy with fewer categories, or label with a chat model; Ollama takes 25 "
        "categories, and llama.cpp 51 or more",
    ),
    ErrorRule(
        (400,),
        r"unsupported decision encoding",  # of Ollama, for a type that only llama.cpp knows
        errors.ModelUnsuitable,
        "for urisk-judge run `urisk install-judge` in a terminal; serve other models of this type "
        "with llama.cpp",
    ),
    ErrorRule(
        (400,),
        r"not a llama\.cpp decision model",  # of Ollama, for a file of the form before
        errors.ModelUnsuitable,
        "pull the model again (ollama pull MODEL), or label with another one",
    ),
    ErrorRule(
        (400, 404, 501),
        r"not a decision model|does not support|no decision",
        errors.ModelUnsuitable,
        CHAT_MODEL,
    ),
    ErrorRule(
        (400, 404),  # 400: of a llama.cpp that serves several
        r"\bmodel\b.*not found",
        errors.ModelNotFound,
        "name a model that this server has",
    ),
    ErrorRule(
        (404, 405, 501),
        r"",
        errors.ProtocolError,
        "update the server: System One needs Ollama 0.35 or later, or a recent llama.cpp",
    ),
    BUSY,
    ErrorRule(
        REFUSED_STATUSES,
        r"",
        errors.BadRequest,
        "check the question; the server says above what it does not accept",
    ),
    CONNECTION_LOST,
    INTERNAL_ERROR,
)


def decode_error(status: int | None, body: str) -> errors.UriskError:
    """Return the error that a refusal of this route means."""
    return to_error(RULES, status, body)
