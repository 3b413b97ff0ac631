"""An answer of enumerated values, without computing what its schema leaves no choice about.

The model is asked only where there is something to choose. What has to stand before that is put
behind the prompt and read in one go (jump-forward decoding: Zheng et al. 2024, "SGLang",
arXiv:2312.07104). Of the eleven tokens of a label it writes two.

Knows: JSON schemas of enumerated values, grammars of literal texts.
Does not know: llama.cpp, models.
"""

from __future__ import annotations

import json
import os.path
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Choose = Callable[[str, Sequence[str]], Awaitable[str]]
"""
Gets the answer as far as it stands and the texts that may follow; returns the beginning of one of
them, one token, say.
"""
_NOTES = {"title", "description"}  # keywords that allow and forbid nothing
_KINDS = {"string": str, "integer": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    Where there is something to choose: what stands before it, and the texts to choose from, of
    which none begins with another.
    """

    before: str
    among: tuple[str, ...]


def places(schema: Any) -> tuple[Place, ...] | None:
    """
    The places of the compact answer, or None: the schema is no closed object of enumerated texts
    and numbers, or leaves no choice.
    """
    if not isinstance(schema, Mapping) or set(schema) - _NOTES != {
        "type",
        "properties",
        "required",
        "additionalProperties",
    }:
        return None
    properties, required = schema["properties"], schema["required"]
    if (
        schema["type"] != "object"
        or schema["additionalProperties"] is not False
        or not isinstance(properties, Mapping)
    ):
        return None
    if (
        not isinstance(required, list)
        or any(name not in required for name in properties)
        or len(required) != len(properties)
    ):
        return None
    found, before = [], "{"
    for number, (name, values) in enumerate(properties.items(), 1):
        texts = _texts(values)
        if texts is None:
            return None
        # With it no text begins with another, as 1 would in 10
        end = "," if number < len(properties) else "}"
        found.append(
            Place(
                before=f"{before}{json.dumps(name, ensure_ascii=False)}:",
                among=tuple(text + end for text in texts),
            )
        )
        before = ""
    return tuple(found) if any(len(place.among) > 1 for place in found) else None


def _texts(values: Any) -> list[str] | None:
    """The enumerated values as JSON, or None for anything else."""
    if not isinstance(values, Mapping) or set(values) - _NOTES != {"type", "enum"}:
        return None
    kind, among = _KINDS.get(str(values["type"])), values["enum"]
    if (
        kind is None
        or not isinstance(among, list)
        or not among
        or any(type(value) is not kind for value in among)
    ):
        return None
    texts = [json.dumps(value, ensure_ascii=False) for value in dict.fromkeys(among)]
    # Beyond ASCII a token may be half a character
    return texts if all(text.isascii() for text in texts) else None


def longest(found: Sequence[Place]) -> int:
    """Bytes of the longest answer, which are at least as many as its tokens."""
    return sum(
        len(place.before.encode("utf-8", "replace")) + max(map(len, place.among)) for place in found
    )


def grammar(texts: Sequence[str]) -> str:
    """One of these texts, in llama.cpp's notation."""
    return "root ::= " + " | ".join(json.dumps(text) for text in texts)


async def written(found: Sequence[Place], choose: Choose) -> str | None:
    """
    The answer, chosen place by place; None where `choose` returned the beginning of none of the
    texts.
    """
    text = ""
    for place in found:
        text, left = text + place.before, place.among
        while len(left) > 1:
            shared = os.path.commonprefix(left)  # noqa: RUF071 - texts, character by character, are what is compared
            text, left = text + shared, _after(shared, left)
            begun = await choose(text, left)
            if not begun or not (left := _after(begun, left)):
                return None
            text += begun
        text += left[0]
    return text


def _after(begun: str, texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text.removeprefix(begun) for text in texts if text.startswith(begun))
