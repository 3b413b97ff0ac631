"""
The answer in a reply: what remains of a text without the model's thoughts and without the marks of
a code fence.

Some models put their answer in a fence, or think aloud before it, whatever the request says. What
is left must be one JSON object and nothing else. An object in the middle of prose is none: the
sentence that is judged may hold one, and a model that quotes it has not answered.
"""

from __future__ import annotations

import json
import re

__all__ = [
    "PROMPT_CUT",
    "find_answer",
    "is_only_thinking",
    "quotes_object",
    "split_thinking",
    "strip_thinking",
]

PROMPT_CUT = "prompt_cut"  # the flag of a reply whose prompt the server did not read whole

_WORDS = "(?:think|thinking|thought|thoughts|reasoning)"
_BEGIN = re.compile(rf"\s*(?:<(?:\w+:)?{_WORDS}>|\[{_WORDS}\])", re.IGNORECASE)
_END = re.compile(rf"</(?:\w+:)?{_WORDS}>|\[/{_WORDS}\]", re.IGNORECASE)
_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*(?:json[c5]?\b)?(.*)", re.DOTALL | re.IGNORECASE)
_FENCE_END = re.compile(r"\s*(?:`{3,}|~{3,})\s*\Z")
_CODE = re.compile(r"(`{1,2})(\{.*\})\1", re.DOTALL)  # an object alone, as Markdown shows code
_SPACE = " \t\r\n\f\v\ufeff"  # a byte order mark is none of the answer
_DECODER = json.JSONDecoder()


def strip_thinking(text: str) -> str:
    """
    Return what follows the model's thoughts; empty where there is nothing but thoughts.

    The tag that begins them may be missing, as where it is part of the model's prompt. Of a block
    that never ends nothing follows.
    """
    text, place = text.lstrip(_SPACE), 0
    while (begin := _BEGIN.match(text, place)) is not None:
        if (end := _END.search(text, begin.end())) is None:
            return ""
        place = end.end()
    # Where no tag began them, they end at the last one: a sentence that is thought about may hold
    # another.
    for end in _END.finditer(text, place):
        place = end.end()
    return text[place:]


def split_thinking(text: str) -> tuple[str, str]:
    """Return the model's thoughts without their tags, and what follows them."""
    answer = strip_thinking(text)
    thoughts = text[: len(text) - len(answer)]
    return _END.sub("", _BEGIN.sub("", thoughts)).strip(), answer


def is_only_thinking(text: str) -> bool:
    """Return whether a text has thoughts and nothing else."""
    return bool(text.strip(_SPACE)) and not strip_thinking(text).strip(_SPACE)


def find_answer(text: str) -> str:
    """
    Return the part of a reply that is to be the answer, without white space around it.

    It is what follows the thoughts, out of its code fence. Where a block of thoughts has no end, it
    is the object on the last lines, if the text holds no other one.
    """
    text = text.lstrip(_SPACE)
    rest = strip_thinking(text).strip(_SPACE)
    if not rest and (begin := _BEGIN.match(text)) is not None:
        rest = _find_last_object(text[begin.end() :])
    return _open_fence(rest)


def _find_last_object(thoughts: str) -> str:
    """Return the object that ends thoughts, on lines of its own; empty where it is not alone."""
    place = thoughts.find("{")
    before = thoughts[:place]
    if place < 0 or (before.strip() and not re.search(r"\n\s*(?:[`~]{3,}\w*\s*)?\Z", before)):
        return ""
    return thoughts[place:].strip()


def _open_fence(text: str) -> str:
    """
    Return what is in a code fence, or behind one that holds no object; its end may be missing. An
    object may also stand between one or two backticks.

    What stands before and behind the fence else stays, so that the whole is no object.
    """
    if (code := _CODE.fullmatch(text)) is not None:
        return code[2]
    if (fence := _FENCE.match(text)) is not None:
        inside, _, behind = fence[2].partition(fence[1])
        text = f"{inside}{behind}" if "{" in inside else behind or inside
    return _FENCE_END.sub("", text).strip()


def quotes_object(answer: str, sentence: str) -> bool:
    """Return whether the object of an answer stands in the sentence that is judged."""
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    for match in re.finditer(r"\{", sentence):
        try:
            quoted, _ = _DECODER.raw_decode(sentence, match.start())
        except (ValueError, RecursionError):
            continue
        if quoted == said:
            return True
    return False
