"""How many tokens a prompt has at most, and who gets how many of those that there are.

No tokenizer is at hand: servers tell a count after they have read a prompt, and none before. So a
text is taken for what it may have at the worst, and what the server counts corrects that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from urisk_nb.llm.answers import count_least_tokens
from urisk_nb.llm.messages import Message

__all__ = [
    "DEFAULT_WINDOW",
    "RESERVE",
    "TokenMeter",
    "Window",
    "estimate_most_tokens",
    "share_fairly",
]

DEFAULT_WINDOW = 4096  # tokens, where the server does not tell its window
RESERVE = 64  # what a chat template adds: the date, a system prompt of its own
PER_MESSAGE = 8  # the marks of a template around a message
WORD_CHARS = 3  # of one token of a word, at the worst
MAX_WORD_CHARS = 12  # of a word of a language: a longer one may be a code, in tokens of two letters
MARGIN = 1.15  # another text has more tokens for its length than those that were counted
MIN_RATE, MAX_RATE = 0.3, 16.0
MIN_COUNTED = 64  # tokens; a short prompt is mostly template
OVERFLOW_FACTOR = 1.5  # by how much more a prompt counts that the server found too long
# A word of ASCII letters, a run of white space, or any single sign
_PART = re.compile(r"[A-Za-z]+|\s+|[^A-Za-z\s]")
_SPACE_BEFORE_DIGIT = re.compile(r"(?<!\s) (?=\d)")


def estimate_most_tokens(text: str) -> int:
    """
    Return how many tokens a text has at the most, for the tokenizers of today's models.

    Each digit and each mark counts as one token, a word as one for every three letters, a ticker or
    a word with capitals inside as two for three letters, and what is not ASCII as one for each byte
    of UTF-8: a tokenizer that does not know a sign splits it into its bytes.
    """
    # A space before a digit is a token of its own; else it belongs to the word after it
    spaces = len(_SPACE_BEFORE_DIGIT.findall(text))
    return spaces + sum(map(_count_most, _PART.findall(text)))


def _count_most(part: str) -> int:
    if part.isspace():
        return 0 if part == " " else len(part.encode("utf-8", "replace"))
    if not part.isascii():
        return len(part.encode("utf-8", "replace"))
    count = len(part)
    if count > MAX_WORD_CHARS and not part.isupper():
        return 1 + count // 2
    if count > 1 and not part[1:].islower():  # a ticker, or a part of a code
        return count - count // 3
    return 1 + (count - 1) // WORD_CHARS


def _count_most_of(messages: Sequence[Message]) -> int:
    return RESERVE + sum(
        PER_MESSAGE + estimate_most_tokens(str(message.get("content") or ""))
        for message in messages
    )


class TokenMeter:
    """
    How many tokens a prompt to one model has, at the most, corrected by what the server counted.

    Attributes
    ----------
    rate
        What the estimate is multiplied by: 1 before anything was counted.
    """

    def __init__(self) -> None:
        self.rate = 1.0

    def learn(self, messages: Sequence[Message], counted: int) -> None:
        """Take in what a server counted for a prompt; 0 where it does not count."""
        estimated = _count_most_of(messages)
        if min(estimated, counted) < MIN_COUNTED:
            return
        seen = min(max(MARGIN * counted / estimated, MIN_RATE), MAX_RATE)
        # Upwards at once. Downwards by steps: a short question may be prose, and the next a table
        self.rate = seen if seen > self.rate else (self.rate + seen) / 2

    def learn_overflow(self, measured: int, room: int) -> None:
        """
        Take in that a prompt was too long for the server, though it was taken to fit.

        Parameters
        ----------
        measured, room
            What it was taken for, and what it had to be.
        """
        factor = max(OVERFLOW_FACTOR, OVERFLOW_FACTOR * room / max(measured, 1))
        self.rate = min(self.rate * factor, MAX_RATE)

    def measure(self, text: str) -> int:
        """Return how many tokens a text has, at the most."""
        return math.ceil(self.rate * estimate_most_tokens(text))

    def measure_chat(self, messages: Sequence[Message]) -> int:
        """Return how many tokens a chat has, at the most, with what a template adds."""
        most = math.ceil(self.rate * _count_most_of(messages))
        return max(most, count_least_tokens(messages))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """
    The tokens of one call.

    Attributes
    ----------
    tokens
        The context window: question and answer together.
    is_known
        Whether the server tells it; else it is taken for `DEFAULT_WINDOW`.
    """

    tokens: int
    is_known: bool = True

    @classmethod
    def of(cls, num_ctx: int) -> Window:
        """Return the window of a session; 0: the server does not tell it."""
        return cls(tokens=num_ctx or DEFAULT_WINDOW, is_known=num_ctx > 0)

    def plan_answer(self, wanted: int, needed: int) -> int:
        """
        Return how many tokens the answer may have.

        Parameters
        ----------
        wanted
            As the user has it.
        needed
            Tokens of what is sent in any case. Where both do not fit, the answer has half of the
            window at the most.
        """
        return min(wanted, max(self.tokens // 2, self.tokens - needed))


def share_fairly(budget: int, wants: Sequence[int]) -> list[int]:
    """
    Return how much each gets of a budget: who wants little gets it, the others get equal parts.

    Examples
    --------
    >>> share_fairly(100, [10, 200, 200])
    [10, 45, 45]
    """
    shares = [0] * len(wants)
    left = max(budget, 0)
    # From the smallest wish on, each may have an equal part of what is left
    order = sorted(range(len(wants)), key=lambda place: wants[place])
    for done, place in enumerate(order):
        shares[place] = min(max(wants[place], 0), left // (len(wants) - done))
        left -= shares[place]
    return shares
