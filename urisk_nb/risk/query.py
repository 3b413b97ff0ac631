"""The words of a question and of a sentence, in a form in which they can be compared."""

from __future__ import annotations

import re
import unicodedata

from urisk_nb.errors import InputError
from urisk_nb.risk.values import show

__all__ = ["check_query", "split_words", "stem"]

_WORD = re.compile(r"[^\W_]+(?:[.&][^\W_]+)*")  # R&D, U.S and 3.5 are one word each
# Scripts that put no space between words (and Korean, whose particles hang on): two signs at a time
# stand for a word.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+"
)
# What a question is asked with, and what every sentence is made of. "No" and "not" are here, since
# nobody searches for them. The first line is what is left of "company's" and "won't".
_FUNCTION_WORDS_TEXT = """
    d ll m re s t ve
    a about after all also am an and any are as at be because been before being but by can could did
    do does doing down during each either for from get give had has have having he her here him his
    how i if in into is it its just list may me might more most must my name no nor not of on or
    other our out over own please shall she should show since so some such tell than that the their
    them then there these they this those through to too under until up upon us very was we were
    what when where whether which while who whom whose why will with would you your
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())
_ENDINGS = ("ation", "atory", "ition", "ator", "ier", "at", "er", "or")


def split_words(text: str) -> list[str]:
    """
    Return the stems of the content words of a text, in its order.

    Function words ("the", "which", "would") do not count.
    """
    words = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = match.group()
        words += [
            run[at : at + 2]
            for run in _UNSPACED.findall(word)
            for at in range(max(1, len(run) - 1))
        ]
        words += [
            stem(part) for part in _UNSPACED.split(word) if part and part not in _FUNCTION_WORDS
        ]
    return words


def stem(word: str) -> str:
    """
    Return a lower-case English word without its endings: plural, -ed, -ing, -er, -or, -ation and
    the like.

    Notes
    -----
    Of 73 pairs that a reader would take for one another (fine and fined, supply and suppliers,
    regulation and regulatory) it unites 70, of 22 that differ (bank and bankruptcy, policy and
    police) it parts 15; words as they are: 2 and 22. A sentence too many costs one question, a
    sentence too few is lost.
    """
    word = _cut_plural(word)
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= 3 and re.search("[aeiouy]", rest):
            word = (
                rest[:-1]
                if len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "lsz"
                else rest
            )
            break
    word = word.removesuffix("e") if len(word) > 3 else word
    ending = next(
        (ending for ending in _ENDINGS if word.endswith(ending) and len(word) - len(ending) >= 4),
        "",
    )
    word = word.removesuffix(ending)
    return word[:-1] if len(word) > 3 and word[-1] in "yi" else word


def _cut_plural(word: str) -> str:
    if len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("us", "ss", "is")) else word


def check_query(query: str) -> None:
    """
    Check that a query names something to look for.

    Raises
    ------
    InputError
        It has function words alone, so that every sentence or none would bear on it.
    """
    if not split_words(query):
        raise InputError(
            f"query={show(query)} has no word to look for.",
            fix='name the subject: query="supply chain"',
        )
