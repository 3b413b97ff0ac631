"""
The small language of `--json`: `"ticker:str, risk:float"` says which fields an answer has.

    fields   name:type, name:type, ...       an object
    list     [name:type, name:type, ...]     a list of objects
    type     str, int, float, bool, date     date is written YYYY-MM-DD
             low|medium|high                 one of these words; 1|2|3 is one of these numbers
             [type]                          a list: [str]
             type?                           may be missing, and is None then

It becomes a closed JSON schema. Every field without a question mark is required.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from urisk_nb.errors import InputError

__all__ = ["EXAMPLE", "build_field_schema"]

EXAMPLE = '"ticker:str, risk:float"'
TYPES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
}
OTHER_NAMES = {
    **dict.fromkeys(("string", "text"), "str"),
    **dict.fromkeys(("integer", "long", "count"), "int"),
    **dict.fromkeys(("number", "double", "decimal", "real", "percent"), "float"),
    **dict.fromkeys(("boolean", "flag"), "bool"),
    **dict.fromkeys(("datetime", "timestamp", "day"), "date"),
}
NAME = re.compile(r"\w[\w .%/-]*")
CHOICE = re.compile(r"[^\s,|:?\[\]{}][^,|:?\[\]{}]*")
MAX_TEXT_CHARS = 10_000
MAX_NESTED_LISTS = 3


def build_field_schema(text: str, where: str) -> dict[str, Any]:
    """
    Return the JSON schema of a text in the small language.

    Raises
    ------
    InputError
        The text has no fields, or a field that cannot be read; the message names it.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise InputError(
            f"{where}: the fields have {len(text):,} characters.",
            fix=f"give {MAX_TEXT_CHARS:,} at most, or a JSON schema in a file",
        )
    inner = text.strip()
    is_list = inner.startswith("[") and inner.endswith("]")
    one = _build_object(inner[1:-1] if is_list else inner, where)
    return {"type": "array", "items": one} if is_list else one


def _build_object(text: str, where: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in _split_fields(text, where):
        name, kind = _split_field(field, where)
        if name in properties:
            raise InputError(
                f"{where}: the field {name!r} stands twice.",
                fix=f"name each once: --json {EXAMPLE}",
            )
        properties[name], is_optional = _read_type(kind, f"{where}: {field!r}")
        if not is_optional:
            required.append(name)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _split_fields(text: str, where: str) -> Iterator[str]:
    """Yield what stands between the commas; a comma after the last field is allowed."""
    fields = [field.strip() for field in text.split(",")]
    if fields[-1] == "" and len(fields) > 1:
        fields.pop()
    for field in fields:
        if not field:
            seen = "a field is empty" if text.strip() else "there are no fields"
            raise InputError(f"{where}: {seen} in {text!r}.", fix=f"write --json {EXAMPLE}")
        yield field


def _split_field(field: str, where: str) -> tuple[str, str]:
    name, colon, kind = (part.strip() for part in field.partition(":"))
    if not colon or not kind:
        raise InputError(
            f"{where}: the field {name or field!r} has no type.",
            fix=f"write --json {EXAMPLE}; types are {', '.join(TYPES)}, or choices: low|high",
        )
    if not NAME.fullmatch(name):
        raise InputError(
            f"{where}: {name!r} is no name of a field.",
            fix=f"use letters, digits, spaces and underscores: --json {EXAMPLE}",
        )
    return name, kind


def _read_type(text: str, where: str, nested: int = 0) -> tuple[dict[str, Any], bool]:
    """Return the schema of a type, and whether it is optional."""
    if text.endswith("?"):
        schema, _ = _read_type(text[:-1].strip(), where, nested)
        return _allow_null(schema), True
    if text.startswith("[") and text.endswith("]") and nested < MAX_NESTED_LISTS:
        items, _ = _read_type(text[1:-1].strip(), where, nested + 1)
        return {"type": "array", "items": items}, False
    if text in TYPES:
        return dict(TYPES[text]), False
    if "|" in text:
        return _read_choices(text, where), False
    raise _unknown_type(text, where)


def _allow_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    kind = schema["type"]
    return schema if isinstance(kind, list) else {**schema, "type": [kind, "null"]}


def _read_choices(text: str, where: str) -> dict[str, Any]:
    choices = [choice.strip() for choice in text.split("|")]
    for choice in choices:
        if choice in TYPES or not CHOICE.fullmatch(choice):
            seen = f"{choice!r} is a type" if choice in TYPES else f"{choice!r} is no choice"
            raise InputError(
                f"{where}: {seen}.", fix="give words between the bars: level:low|medium|high"
            )
    if len(set(choices)) < len(choices):
        raise InputError(
            f"{where}: a choice stands twice.", fix="name each choice once: level:low|medium|high"
        )
    if all(re.fullmatch(r"-?\d{1,9}", choice) for choice in choices):
        return {"type": "integer", "enum": [int(choice) for choice in choices]}
    return {"type": "string", "enum": choices}


def _unknown_type(text: str, where: str) -> InputError:
    close = difflib.get_close_matches(text.lower(), [*TYPES, *OTHER_NAMES], 1)
    known = OTHER_NAMES.get(close[0], close[0]) if close else ""
    fix = f"types are {', '.join(TYPES)}, [str] for a list, and choices: level:low|medium|high"
    return InputError(
        f"{where}: there is no type {text!r}.", fix=f"did you mean {known}? {fix}" if known else fix
    )
