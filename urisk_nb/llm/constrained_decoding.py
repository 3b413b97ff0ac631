"""
Constrained decoding of an answer that a JSON schema leaves only a few choices about.

A label such as `{"risk":"legal","severity":3}` has ten tokens, of which a model decides two. So the
model is asked for one token at each choice, with everything before it prefilled, and the rest is
put there without asking (jump-forward decoding: Zheng et al. 2024, "SGLang", arXiv:2312.07104). The
log-probabilities of the two tokens are those of the written answer.

Pure: it knows JSON schemas of enumerated values and llama.cpp's notation for grammars, and no
server.
"""

from __future__ import annotations

import json
import os.path
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Choice", "build_grammar", "decode", "find_choices", "max_answer_bytes"]

ANNOTATIONS = {"title", "description"}  # keywords that allow and forbid nothing
PYTHON_TYPES = {"string": str, "integer": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """
    One place of an answer where the schema leaves a choice.

    Attributes
    ----------
    prefix
        Text between the choice before it, or the start of the answer, and this one.
    options
        Texts to choose from. No option begins with another.
    """

    prefix: str
    options: tuple[str, ...]


def find_choices(schema: Any) -> tuple[Choice, ...] | None:
    """
    Return the choices of the compact answer in order, or None where there is more than choices to
    it.

    A schema qualifies if it is a closed object, all of whose keys are required and have enumerated
    ASCII texts or whole numbers as values, and at least one key has two of them. Any other schema
    gives None: let the model write that answer.
    """
    properties = _closed_properties(schema)
    if properties is None:
        return None
    choices, before = [], "{"
    for number, (name, values) in enumerate(properties.items(), 1):
        texts = _enumerate_values(values)
        if texts is None:
            return None
        end = "," if number < len(properties) else "}"  # so that 1 is not the start of 10
        prefix = f"{before}{json.dumps(name, ensure_ascii=False)}:"
        choices.append(Choice(prefix=prefix, options=tuple(text + end for text in texts)))
        before = ""
    return tuple(choices) if any(len(choice.options) > 1 for choice in choices) else None


def _closed_properties(schema: Any) -> Mapping[str, Any] | None:
    """Return the properties of a closed object that requires all of them, or None."""
    if not isinstance(schema, Mapping):
        return None
    if set(schema) - ANNOTATIONS != {"type", "properties", "required", "additionalProperties"}:
        return None
    properties, required = schema["properties"], schema["required"]
    if schema["type"] != "object" or schema["additionalProperties"] is not False:
        return None
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return None
    is_complete = len(required) == len(properties) and all(name in required for name in properties)
    return properties if is_complete else None


def _enumerate_values(values: Any) -> list[str] | None:
    """Return the enumerated values as JSON, or None for any other schema."""
    if not isinstance(values, Mapping) or set(values) - ANNOTATIONS != {"type", "enum"}:
        return None
    kind, options = PYTHON_TYPES.get(str(values["type"])), values["enum"]
    if kind is None or not isinstance(options, list) or not options:
        return None
    if any(type(option) is not kind for option in options):
        return None
    texts = [json.dumps(option, ensure_ascii=False) for option in dict.fromkeys(options)]
    # Beyond ASCII a token may be half a character, which no reply can carry.
    return texts if all(text.isascii() for text in texts) else None


def max_answer_bytes(choices: Sequence[Choice]) -> int:
    """Return the size of the longest answer in bytes, which is at least its size in tokens."""
    sizes = (len(c.prefix.encode("utf-8", "replace")) + max(map(len, c.options)) for c in choices)
    return sum(sizes)


def build_grammar(options: Sequence[str]) -> str:
    """Return the grammar that allows exactly these texts, in llama.cpp's notation."""
    return "root ::= " + " | ".join(json.dumps(option) for option in options)


def decode(
    choices: Sequence[Choice],
) -> Generator[tuple[str, tuple[str, ...]], str, tuple[str, ...] | None]:
    r"""
    Yield each token to ask for, take its text by `send`, and return the answer.

    A token is asked for by the answer so far, which is prefilled, and the options of what may
    follow: the token has to be the start of one of them, or all of it.

    Returns
    -------
    tuple or None
        The answer in pieces: put there, chosen, put there, ..., chosen, put there. Pieces 1, 3, 5,
        ... are the tokens that were sent, in order. None where a token fits no option: the server
        did not keep to the options, so let the model write.

    Examples
    --------
    >>> schema = {"type": "object", "additionalProperties": False, "required": ["risk"],
    ...           "properties": {"risk": {"type": "string", "enum": ["credit", "legal"]}}}
    >>> steps = decode(find_choices(schema))
    >>> next(steps)
    ('{"risk":"', ('credit"}', 'legal"}'))
    >>> try:
    ...     steps.send("leg")
    ... except StopIteration as end:
    ...     print(end.value)
    ('{"risk":"', 'leg', 'al"}')
    """
    pieces: list[str] = [""]
    for choice in choices:
        pieces[-1] += choice.prefix
        left = choice.options
        while len(left) > 1:
            shared = os.path.commonprefix(left)  # noqa: RUF071 - compares texts character by character
            pieces[-1] += shared
            left = _follow(shared, left)
            token = yield "".join(pieces), left
            left = _follow(token, left) if token else ()
            if not left:
                return None
            pieces += [token, ""]
        pieces[-1] += left[0]
    return tuple(pieces)


def _follow(start: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return what is left of the texts that begin with `start`."""
    return tuple(text.removeprefix(start) for text in texts if text.startswith(start))
