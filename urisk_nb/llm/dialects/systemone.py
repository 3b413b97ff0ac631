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
from urisk_nb.errors import InputError, ProtocolError, UriskError
from urisk_nb.llm.dialects.dialect import ErrorRule, dump_json, read_count, read_number, to_error

__all__ = [
    "CAPABILITY",
    "PATH",
    "RULES",
    "Choice",
    "Decision",
    "Score",
    "build_label_questions",
    "decode_decision",
    "decode_error",
    "encode_decision",
]

PATH = "/v1/systemone"
CAPABILITY = "decision"  # as Ollama's /api/show names it
MIN_LEVELS, MAX_LEVELS = 2, 10
MIN_OPTIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A question with one answer of several: option to its description, or None."""

    instructions: str
    options: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A question with an answer on a scale: the description of each level, lowest first."""

    instructions: str
    levels: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What a decision model answered.

    Attributes
    ----------
    probabilities
        For each question the probability of each answer, which add up to 1; levels of a score are
        named "0", "1", ...
    prompt_tokens
        Tokens that the model read; 0 where the server does not say.
    """

    probabilities: Mapping[str, Mapping[str, float]]
    prompt_tokens: int = 0


def build_label_questions(
    categories: Mapping[str, str],
    severities: Sequence[str],
    *,
    none: str,
    risk: str | None = None,
    query: str | None = None,
) -> dict[str, Choice | Score]:
    """
    Return the questions about one sentence: which risk, and how severe.

    Questions of one request are answered independently. Where the risk is given, only the severity
    is asked, and its instructions name the risk, as a chat model writes the severity behind it.

    Parameters
    ----------
    categories
        Category to definition, in the order that breaks ties.
    severities
        The anchors, from 0 up.
    none
        The label of a sentence that shows no risk of the company.
    risk
        The risk that is given, one of `categories`.
    query
        What the reader asks about; a sentence that does not bear on it shows no risk.
    """
    shown = "the risk"
    if risk is not None:
        shown = f"the {risk} risk ({categories[risk]})"
    severity = Score(
        instructions=f"How severe is {shown} that the sentence shows for the company?",
        levels=tuple(severities),
    )
    if risk is not None:
        return {"severity": severity}
    options = {**categories, none: "not about a risk of this company"}
    asked = "Which risk does the sentence show for the company?"
    if query:
        asked += f" The reader asks about: {query}. A sentence that does not bear on it is {none}."
    which = Choice(instructions=asked, options=options)
    return {"risk": which, "severity": severity}


def encode_decision(
    *,
    model: str,
    state: str,
    questions: Mapping[str, Choice | Score],
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

    Raises
    ------
    InputError
        A question has too few or too many answers.
    """
    body: dict[str, Any] = {
        "model": model,
        "state": state,
        "questions": {
            name: _encode_question(name, question) for name, question in questions.items()
        },
    }
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return dump_json(body)


def _encode_question(name: str, question: Choice | Score) -> dict[str, Any]:
    if isinstance(question, Choice):
        if len(question.options) < MIN_OPTIONS:
            raise InputError(
                f"the question {name!r} has {len(question.options)} options.",
                fix=f"give at least {MIN_OPTIONS}",
            )
        kind, criteria = "choice", dict(question.options)
        return {"type": kind, "instructions": question.instructions, "criteria": criteria}
    if not MIN_LEVELS <= len(question.levels) <= MAX_LEVELS:
        raise InputError(
            f"the question {name!r} has {len(question.levels)} levels.",
            fix=f"give {MIN_LEVELS} to {MAX_LEVELS}",
        )
    levels = list(question.levels)
    return {"type": "score", "instructions": question.instructions, "criteria": levels}


def decode_decision(content: Any, questions: Mapping[str, Choice | Score]) -> Decision:
    """
    Return the probabilities of every answer to every question that was asked.

    Parameters
    ----------
    content
        The reply's JSON.
    questions
        What was asked.

    Raises
    ------
    ProtocolError
        An answer is missing, or its probabilities are none.
    """
    answers = content.get("answers") if isinstance(content, dict) else None
    if not isinstance(answers, dict):
        raise _bad_reply("it has no answers")
    found = {
        name: _read_probabilities(name, answers.get(name), _list_answers(question))
        for name, question in questions.items()
    }
    usage = content.get("usage")
    read = read_count(usage, "input_tokens") if isinstance(usage, dict) else 0
    return Decision(probabilities=found, prompt_tokens=read)


def _list_answers(question: Choice | Score) -> tuple[str, ...]:
    if isinstance(question, Choice):
        return tuple(question.options)
    return tuple(map(str, range(len(question.levels))))


def _read_probabilities(name: str, answer: Any, allowed: Sequence[str]) -> dict[str, float]:
    told = answer.get("probabilities") if isinstance(answer, dict) else None
    if not isinstance(told, dict):
        raise _bad_reply(f"the answer to {name!r} has no probabilities")
    values: dict[str, float] = {}
    for option in allowed:
        value = read_number(told.get(option))
        if value is None or not 0 <= value <= 1:
            raise _bad_reply(f"the probability of {option!r} in {name!r} is {told.get(option)!r}")
        values[option] = value
    total = math.fsum(values.values())
    if total <= 0:
        raise _bad_reply(f"the probabilities of {name!r} add up to {total:g}")
    # Servers round what they print; what is left is shared in proportion.
    return {option: value / total for option, value in values.items()}


def _bad_reply(seen: str) -> ProtocolError:
    return ProtocolError(
        f"the reply of {PATH} cannot be used: {seen}.",
        fix="use a chat model, or a server whose System One route answers as documented",
    )


# Errors -------------------------------------------------------------------------------------------

CHAT_MODEL = "label with a decision model, or with this model as a chat model"
RULES: tuple[ErrorRule, ...] = (
    ErrorRule(
        (),
        r"exceeds? the available context size|maximum context length|longer than the context",
        errors.ContextExceeded,
        "shorten the text, or start the server with a larger window",
    ),
    ErrorRule(
        (400, 404, 501),
        r"not a decision model|does not support|no decision",
        errors.ModelUnsuitable,
        CHAT_MODEL,
    ),
    ErrorRule(
        (404,), r"\bmodel\b.*not found", errors.ModelNotFound, "name a model that this server has"
    ),
    ErrorRule(
        (404, 405, 501),
        r"",
        errors.ProtocolError,
        "update the server: System One needs Ollama 0.35 or later, or a recent llama.cpp",
    ),
    ErrorRule(
        (503, 429), r"", errors.ServerBusy, "wait, or ask less at once: %env URISK_PARALLEL=1"
    ),
    ErrorRule(
        (400, 401, 403, 409, 413, 415, 422),
        r"",
        errors.BadRequest,
        "check the question; the server's words say what it does not accept",
    ),
    ErrorRule((499, 502), r"", errors.ServerConnectionLost, "ask again"),
    ErrorRule(
        (), r"", errors.ServerInternalError, "ask again; if it goes on, look at the server's log"
    ),
)


def decode_error(status: int | None, body: str) -> UriskError:
    """Return the error that a refusal of this route means."""
    return to_error(RULES, status, body)
