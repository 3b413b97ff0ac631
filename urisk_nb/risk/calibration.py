"""How sure the model was: the probability of each label, less the content-free prior.

A small model prefers some labels whatever it reads. Its answers to sentences without content show
which. Subtracting that prior leaves what the sentence itself says (Zhao et al. 2021, "Calibrate
Before Use"). This is pure arithmetic over the tokens of an answer: their text, their
log-probability, and those of up to twenty others at the same place. It reads the text of the
tokens, not their number: tokenizers differ in whether a quotation mark, a space or a colon belongs
to the word behind it, and two labels may begin with the same token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CONTENT_FREE", "Token", "distribution", "prior", "subtract_prior", "take_answer"]

# Asked once a model and prompt. None of them says anything about a company.
CONTENT_FREE = ("N/A", "The company.", "Something happened at the company.", "[MASK]")

MIN_PROBABILITY = 1e-9  # what is given adds up to 1 but for its rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """
    One token of an answer.

    Attributes
    ----------
    text, logprob
        What was written, and its log-probability before any grammar.
    top_logprobs
        The most probable ones at this place, with theirs; the written one need not be among them.
    """

    text: str
    logprob: float
    top_logprobs: tuple[tuple[str, float], ...] = ()


def distribution(
    tokens: Sequence[Token], key: str, labels: Sequence[str]
) -> dict[str, float] | None:
    """
    Return the log-probability of each label at the place where the value of the key begins.

    A label that none of the given tokens leads to gets the floor, which it cannot exceed: the
    smallest of the given ones, the written one among them (it is the most probable that the schema
    allows, at temperature 0), or what they leave of 1, whichever is less. A token that leads to
    several labels is followed where it is the one that was written, and shared equally among them
    where it is not. The values are not normalised: what they leave of 1 is for words that are no
    label.

    Parameters
    ----------
    tokens
        Of the whole answer, in order.
    key
        Of the JSON object, `risk` or `severity`.
    labels
        Text labels, or whole numbers as text.

    Returns
    -------
    dict or None
        None where the answer has no such key, or no tokens were given.
    """
    text = "".join(token.text for token in tokens)
    begin = _value_begins(text, key)
    if begin is None:
        return None
    start = 0
    for index, token in enumerate(tokens):
        if start + len(token.text) > begin:
            before = text[start:begin]
            mass, floor = _follow(tokens[index:], before, {label: label for label in labels})
            return {label: mass.get(label, floor) for label in labels}
        start += len(token.text)
    return None


def take_answer(tokens: Sequence[Token], answer: str) -> Sequence[Token]:
    """
    Return the tokens of the answer alone, without those of thoughts or of a code fence before it.

    Thoughts may name the same keys. Empty where the tokens are not those of this answer.
    """
    text = "".join(token.text for token in tokens)
    if text.strip() == answer:
        return tokens
    start = text.rfind(answer)
    if start < 0 or not answer:
        return ()
    end, kept = 0, []
    for token in tokens:
        end += len(token.text)
        if end > start:
            kept.append(token)
    return kept


def _value_begins(text: str, key: str) -> int | None:
    """Return where the value begins; a string begins behind its quotation mark."""
    named = json.dumps(key)
    at = text.find(named)
    colon = text.find(":", at + len(named)) if at >= 0 else -1
    if colon < 0 or text[at + len(named) : colon].strip():
        return None
    begin = len(text) - len(text[colon + 1 :].lstrip().removeprefix('"'))
    return begin if begin < len(text) else None


def _follow(
    tokens: Sequence[Token], before: str, left: Mapping[str, str]
) -> tuple[dict[str, float], float]:
    """
    Return the log-probability of each label, and the floor.

    Parameters
    ----------
    before
        What the first token has before the label begins, or before what is left of it.
    left
        For each label that is still possible, what of it is still to be written.
    """
    logprobs = {**dict(tokens[0].top_logprobs), tokens[0].text: tokens[0].logprob}
    floor = min(
        *logprobs.values(),
        math.log(max(MIN_PROBABILITY, 1.0 - sum(map(math.exp, logprobs.values())))),
    )
    sums: dict[str, float] = {}
    for text, logprob in logprobs.items():
        fits = _fits(text, before, left)
        shares = dict.fromkeys(fits, -math.log(max(1, len(fits))))
        if len(fits) > 1 and text == tokens[0].text and len(tokens) > 1:
            deeper, _ = _follow(
                tokens[1:], "", {label: left[label][len(text) - len(before) :] for label in fits}
            )
            # Among these labels the next token decides; what it leaves to other words is shared as
            # they are.
            if (whole := _log_sum(deeper.values())) > -math.inf:
                shares = {label: deeper.get(label, -math.inf) - whole for label in fits}
        for label, share in shares.items():
            sums[label] = _log_sum((sums.get(label, -math.inf), logprob + share))
    return sums, floor


def _fits(text: str, before: str, left: Mapping[str, str]) -> list[str]:
    """Return the labels that this token, in place of the written one, leads to."""
    word = text.removeprefix(before)
    if not word or not text.startswith(before):
        return []
    return [
        label
        for label, rest in left.items()
        # A quotation mark, a comma, a bracket or white space ends a label.
        if rest.startswith(word) or word.startswith(tuple(rest + end for end in '",}\n\t '))
    ]


def _log_sum(values: Iterable[float]) -> float:
    known = [value for value in values if value > -math.inf]
    if not known:
        return -math.inf
    top = max(known)
    return top + math.log(sum(math.exp(value - top) for value in known))


# Calibrated ---------------------------------------------------------------------------------------


def prior(logprobs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean log-probability of each label over sentences without content."""
    return {label: sum(each[label] for each in logprobs) / len(logprobs) for label in logprobs[0]}


def subtract_prior(logprobs: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """
    Return the probability of each label after subtracting the prior; they add up to 1.

    p(label) = exp(logprob - before) / sum over the labels of exp(logprob - before).
    """
    gains = {label: logprob - before[label] for label, logprob in logprobs.items()}
    whole = _log_sum(gains.values())
    return {label: math.exp(gain - whole) for label, gain in gains.items()}
