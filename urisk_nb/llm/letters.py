"""
urisk-judge on Ollama: asked for one letter a question, through `/api/generate`.

Ollama has System One from 0.35 on, but reads no template from a model's file, and refuses decision
models of this type. So the prompt is made here as the template makes it, and sent as it is (`raw`).
The answer is the probability of each letter as the next token, as that of a decision model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from urisk_nb.errors import ModelUnsuitable, ServerTooOld
from urisk_nb.llm.dialects.dialect import read_number
from urisk_nb.llm.messages import TokenLogprob
from urisk_nb.risk.calibration import MIN_PROBABILITY

__all__ = ["PATH", "build_prompt", "read_probabilities", "read_temperatures"]

PATH = "/api/generate"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS = {"risk": "choice", "severity": "score"}
"""The name of each question in the prompt, and the type that its temperature is stored under."""
TEMPLATE = "tokenizer.chat_template.systemone"
TEMPERATURE, BUCKET = ".decision.temperature.", "6_10"  # of questions with 6 to 10 answers
INSTALL = "make it again: run `urisk install-judge` in a terminal"


def build_prompt(state: str, word: str) -> str:
    """
    Return the prompt of one question: the same text as the judge's template makes.

    A sentence cannot end its turn: `<|`, which begins a control token, is split.

    Parameters
    ----------
    state
        The sentence.
    word
        One of `WORDS`.
    """
    safe = state.replace("<|", "< |")
    return f"<|im_start|>user\n{safe}<|im_end|>\n<|im_start|>assistant\n{word}:"


def read_temperatures(info: Mapping[str, Any]) -> dict[str, float]:
    """
    Return the temperature of each of `WORDS`, from the entries of the model's file.

    Raises
    ------
    ModelUnsuitable
        The file has no such template: an older version, which wrote its label as JSON, or another
        model.
    """
    if TEMPLATE not in info:
        raise ModelUnsuitable(
            "urisk-judge on this server was not trained to answer with letters: it is an older "
            "version, or another model of this name.",
            fix=INSTALL,
        )
    found = {name.partition(TEMPERATURE)[2]: read_number(value) for name, value in info.items()}
    named = {name: value for name, value in found.items() if value is not None and value > 0}
    return {
        word: named.get(f"{kind}.{BUCKET}") or named.get(kind) or 1.0
        for word, kind in WORDS.items()
    }


def read_probabilities(
    tokens: Sequence[TokenLogprob], answers: Sequence[str], temperature: float
) -> dict[str, float]:
    """
    Return the probability of each answer among them, by the log-probabilities of its letter.

    A letter that the server does not report gets the probability that the reported tokens leave, or
    the smallest of theirs, whichever is less.

    Parameters
    ----------
    tokens
        The token that the server wrote, with its log-probabilities.
    answers
        The answer of each letter, A first.
    temperature
        The log-probabilities are divided by it.

    Raises
    ------
    ServerTooOld
        The server reported no log-probabilities.
    ModelUnsuitable
        None of the reported tokens is one of the letters.
    """
    if not tokens:
        raise ServerTooOld(
            "this Ollama returned no log-probabilities, and urisk-judge answers with them.",
            fix="update Ollama to 0.12.11 or later (ollama.com/download)",
        )
    reported = {**dict(tokens[0].top_logprobs), tokens[0].text: tokens[0].logprob}
    letters = dict(zip(LETTERS, answers, strict=False))
    if not reported.keys() & letters.keys():
        raise ModelUnsuitable(
            f"urisk-judge answered {tokens[0].text[:20]!r}, not one of the letters "
            f"{LETTERS[0]} to {LETTERS[len(answers) - 1]}: it is another model of this name.",
            fix=INSTALL,
        )
    left = max(MIN_PROBABILITY, 1.0 - math.fsum(map(math.exp, reported.values())))
    floor = min(*reported.values(), math.log(left))
    logits = {name: reported.get(letter, floor) for letter, name in letters.items()}
    top = max(logits.values())
    shares = {name: math.exp((logit - top) / temperature) for name, logit in logits.items()}
    whole = math.fsum(shares.values())
    return {name: share / whole for name, share in shares.items()}
