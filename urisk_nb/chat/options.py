"""How an answer is to be made: the options of `%%ask`, read from text and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from urisk_nb.errors import InputError

__all__ = ["DEFAULT_MAX_TOKENS", "LARGER_WINDOW", "AnswerOptions", "read_answer_options"]

T = TypeVar("T", int, float)
DEFAULT_MAX_TOKENS = 1024  # some 700 words; a small model that repeats itself ends here
MAX_TOKENS = 1_000_000
MAX_TEMPERATURE = 2.0
LARGER_WINDOW = "send less, or make the window larger: URISK_NUM_CTX"  # where it has no room
MAX_SEED = 2**31 - 1  # what every server takes


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """
    How an answer is to be made.

    Attributes
    ----------
    temperature, seed
        None: as the server and the model's file have it.
    max_tokens
        The answer is cut there.
    has_room
        Whether the context window has room for a longer answer.
    """

    temperature: float | None = None
    seed: int | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    has_room: bool = True

    def fit(self, most: int) -> AnswerOptions:
        """Return the options for a window that leaves so many tokens for the answer."""
        return replace(self, max_tokens=most, has_room=most >= self.max_tokens)

    def list_sent(self) -> dict[str, Any]:
        """Return the options as a request has them, under Ollama's names."""
        named = {
            "temperature": self.temperature,
            "seed": self.seed,
            "num_predict": self.max_tokens,
        }
        return {name: value for name, value in named.items() if value is not None}


def read_answer_options(given: Mapping[str, str | None], where: str) -> AnswerOptions:
    """
    Return the options of an answer from the text of a line.

    Parameters
    ----------
    given
        ``temperature``, ``seed`` and ``max_tokens``; None or missing: not given.
    where
        The magic, as an error names it.

    Raises
    ------
    InputError
        A value is no number, or out of its range.
    """

    def read(name: str, kind: Callable[[str], T], least: T, most: T) -> T | None:
        text = given.get(name)
        if text is None:
            return None
        try:
            value = kind(text.replace("_", "").strip())
        except ValueError:
            value = kind("-1")
        if not (math.isfinite(value) and least <= value <= most):
            flag = f"--{name.replace('_', '-')}"
            what = "a whole number" if kind is int else "a number"
            raise InputError(
                f"{where}: {flag} is {text!r}.",
                fix=f"give {what} from {least:g} to {most:,g}: {flag} {_EXAMPLES[name]}"
                if kind is float
                else f"give {what} from {least:,} to {most:,}: {flag} {_EXAMPLES[name]}",
            )
        return value

    max_tokens = read("max_tokens", int, 1, MAX_TOKENS)
    return AnswerOptions(
        temperature=read("temperature", float, 0.0, MAX_TEMPERATURE),
        seed=read("seed", int, 0, MAX_SEED),
        max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
    )


_EXAMPLES = {"temperature": "0.2", "seed": "7", "max_tokens": "2000"}
