"""System One as Ollama answers it from 0.35 on: what a request must hold, and the reply.

Knows: the fields, the limits and the words of its refusals (Ollama's own source, 0.40).
Does not know: models, HTTP.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fake_ollama import go_compat, requests
from fake_ollama.backend import Refusal

MAX_BODY_BYTES = 64 << 10
MAX_QUESTIONS, MAX_OPTIONS = 64, 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A decoded request: each question's type and its options, in order."""

    model: str
    state: str
    questions: Mapping[str, tuple[str, tuple[str, ...]]]
    keep_alive_ns: int | None


def read(body: bytes) -> Asked:
    """
    Return a request. Raises Refusal, 400 or 413.
    """
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(413, "request body too large")
    sent = requests.decode(body)
    if not isinstance(sent, dict) or not str(sent.get("model") or "").strip():
        raise Refusal(400, "model is required")
    asked = sent.get("questions")
    if not isinstance(asked, dict) or not 1 <= len(asked) <= MAX_QUESTIONS:
        raise Refusal(400, "questions must contain 1–64 fields")
    state = sent.get("state")
    if not isinstance(state, str | dict | list) or not str(state).strip():
        raise Refusal(400, "state must not be empty")
    keep = sent.get("keep_alive")
    return Asked(
        model=sent["model"],
        state=state if isinstance(state, str) else json.dumps(state),
        questions={name: _read_question(name, question) for name, question in asked.items()},
        keep_alive_ns=None if keep is None else go_compat.keep_alive_ns(keep),
    )


def _read_question(name: str, question: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    kind, criteria = question.get("type"), question.get("criteria")
    if not str(question.get("instructions") or "").strip():
        raise Refusal(400, f'question "{name}": instructions must be a nonempty string')
    if kind == "choice" and isinstance(criteria, dict):
        options = tuple(criteria)
    elif kind == "score" and isinstance(criteria, list):
        options = tuple(map(str, range(len(criteria))))
    else:
        raise Refusal(400, f'question "{name}": type must be choice, noul, or score')
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise Refusal(400, f'question "{name}": criteria must contain 2–26 candidates')
    return kind, options


def answer(asked: Asked, text: str) -> dict[str, Any]:
    """
    Return the reply.

    Parameters
    ----------
    text
        What the backend said: JSON with the probabilities of options by question, and for those
        that it leaves out equal shares of what is left. Anything else: all options are equal.
    """
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    return {
        "model": asked.model,
        "answers": {
            name: _answer_one(kind, options, said.get(name, {}))
            for name, (kind, options) in asked.questions.items()
        },
        "usage": {"input_tokens": 46, "output_tokens": len(asked.questions)},
    }


def _answer_one(kind: str, options: tuple[str, ...], said: Mapping[str, float]) -> dict[str, Any]:
    rest = [option for option in options if option not in said]
    left = 1 - math.fsum(said.values())
    shares = {option: said.get(option, left / max(1, len(rest))) for option in options}
    most = max(shares, key=shares.__getitem__)
    found = {"type": kind, "probabilities": shares, "confidence": shares[most]}
    if kind == "choice":
        return {**found, "choice": most}
    level = math.fsum(int(option) * share for option, share in shares.items())
    return {**found, "score": level, "legend": dict.fromkeys(options, "")}
