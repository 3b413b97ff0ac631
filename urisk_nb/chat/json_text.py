"""
The JSON document in an answer, and what is wrong with it: a place in the document and a reason.

An answer is written by a model that may repeat itself, nest without end or follow a hostile text.
What is read has bounds, and what Python's parser accepts beyond JSON (NaN, a field that stands
twice) is a fault.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from urisk_nb.risk.answer_text import find_answer, is_only_thinking

__all__ = ["Fault", "format_path", "is_deeper", "parse_answer", "shorten_value"]

MAX_ANSWER_CHARS = 1_000_000
MAX_DEPTH = 64
MAX_DIGITS = 300  # of a whole number: more fit no float
MAX_VALUE_CHARS = 60  # of a value in a message
MAX_PATH_CHARS = 120
CONTAINERS = (dict, list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    Why an answer does not fit.

    Attributes
    ----------
    path
        The place in the document: `$.holdings[2].risk`.
    reason
        What is wrong there, with the value.
    """

    path: str = "$"
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def parse_answer(text: str) -> tuple[Any, Fault | None]:
    """
    Return the document of an answer; where there is none, None and the fault.

    Thoughts before it, a byte order mark and the marks of a code fence around it are passed over.
    Prose is not: an object that a model quotes in prose is no answer.
    """
    try:
        return _parse(text), None
    except ValueError as exc:
        return None, Fault(reason=str(exc))


def _parse(text: str) -> Any:
    if len(text) > MAX_ANSWER_CHARS:
        raise ValueError(
            f"the answer has {len(text):,} characters; {MAX_ANSWER_CHARS:,} are read at most"
        )
    answer = find_answer(text)
    if not answer:
        raise ValueError(_describe_nothing(text))
    try:
        document = json.loads(
            answer,
            object_pairs_hook=_read_object,
            parse_constant=_refuse_constant,
            parse_float=_read_float,
            parse_int=_read_int,
        )
    except json.JSONDecodeError as exc:
        near = shorten_value(answer[max(0, exc.pos - 20) : exc.pos + 20])
        raise ValueError(
            f"the answer is not JSON: {exc.msg} at character {exc.pos + 1:,}, near {near}"
        ) from exc
    except RecursionError as exc:
        raise ValueError("the answer is nested too deeply") from exc
    if is_deeper(document, MAX_DEPTH):
        raise ValueError(f"the answer is nested more than {MAX_DEPTH} levels deep")
    _check_text(document)
    return document


def _describe_nothing(text: str) -> str:
    return (
        "the model only thought, and gave no JSON"
        if is_only_thinking(text)
        else "the answer is empty"
    )


# What the parser finds ----------------------------------------------------------------------------


def _read_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the field {shorten_value(name)} stands twice in one object")
        found[name] = value
    return found


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:MAX_VALUE_CHARS]} is too large")
    return value


def _read_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number has {len(text):,} digits; {MAX_DIGITS} are read at most")
    return int(text)


def is_deeper(document: Any, depth: int) -> bool:
    """Return whether lists and objects are nested more than so many levels deep."""
    level = [document]
    for _ in range(depth):
        level = [part for one in level if isinstance(one, CONTAINERS) for part in _list_parts(one)]
        if not level:
            return False
    return any(isinstance(one, CONTAINERS) for one in level)


def _list_parts(one: Any) -> Iterable[Any]:
    return one.values() if isinstance(one, dict) else one


def _check_text(document: Any) -> None:
    r"""Refuse half of a surrogate pair, such as "\ud83d": no notebook can store it."""
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as exc:
        half = exc.object[exc.start]
        raise ValueError(f"a text holds half of a character (U+{ord(half):04X})") from exc


# Words for people ---------------------------------------------------------------------------------


def format_path(parts: Iterable[str | int]) -> str:
    """Return a place in a document: `$.holdings[2]["price target"]`."""
    path = "$" + "".join(_format_parts(parts))
    return path if len(path) <= MAX_PATH_CHARS else f"{path[:MAX_PATH_CHARS]}..."


def _format_parts(parts: Iterable[str | int]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, int):
            yield f"[{part}]"
        else:
            yield f".{part}" if part.isidentifier() else f"[{json.dumps(part)}]"


def shorten_value(value: Any) -> str:
    """Return a value as a message shows it: one line, cut where it is long."""
    if isinstance(value, dict | list):
        noun = "an object" if isinstance(value, dict) else "a list"
        return f"{noun} of {len(value):,}" if value else f"an empty {noun.split()[1]}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
        return f"{value[:MAX_VALUE_CHARS]!r}..."
    text = repr(value)
    return text if len(text) <= 2 * MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."
