"""
What `--json` was given, as the form of an answer: its JSON schema, and how an answer is read by it.

It is a JSON schema as a dict or a file, a class, or a text in the small language.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urisk_nb.chat.class_schemas import build_adapter, dump, is_class_schema, name_class, validate
from urisk_nb.chat.field_language import EXAMPLE, build_field_schema
from urisk_nb.chat.frames import convert_object, to_frame
from urisk_nb.chat.json_schemas import SHAPES, build_checker, find_items, read_schema
from urisk_nb.chat.json_text import MAX_DEPTH, Fault, parse_answer
from urisk_nb.errors import InputError

__all__ = ["AnswerSchema", "Reading", "is_schema", "read_answer_schema"]

MAX_FILE_BYTES = 1_000_000
MAX_NAME_CHARS = 80
FIX = f"name the fields, --json {EXAMPLE}, or give a pydantic model, a dataclass or a JSON schema"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    What an answer's text was read as: an object, or faults.

    Attributes
    ----------
    value
        The object for the user: a dict, a list, an instance of a class, or a DataFrame.
    shown
        The same as JSON data, or as the DataFrame that it is.
    faults
        Empty where the answer fits.
    """

    value: Any = None
    shown: Any = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSchema:
    """
    The form of an answer.

    Attributes
    ----------
    name
        What it is called: `Holding`, `schema.json`.
    json_schema
        What the server holds the answer to.
    build
        Makes the object of a parsed answer.
    """

    name: str
    json_schema: Mapping[str, Any]
    build: Callable[[Any], Reading]

    def read(self, text: str) -> Reading:
        """Return what an answer is by this schema; raises nothing, whatever the text."""
        document, fault = parse_answer(text)
        if fault is not None:
            return Reading(faults=(fault,))
        try:
            return self.build(document)
        except RecursionError:
            reason = f"it is nested too deeply for its schema ({MAX_DEPTH} levels at most)"
            return Reading(faults=(Fault(reason=reason),))


def read_answer_schema(given: Any, where: str) -> AnswerSchema:
    """
    Return the form of an answer.

    Parameters
    ----------
    given
        A JSON schema as a dict, as JSON text or as the path of a file; a pydantic model, a
        dataclass, a TypedDict, or a type of them such as `list[Holding]`; or a text such as
        `"ticker:str, risk:float"`.
    where
        The magic and its flag, as an error names it.

    Raises
    ------
    InputError
        It is something else, or no schema that can be used; nothing was asked yet.
    """
    if is_class_schema(given):
        return _read_class(given, where)
    if isinstance(given, Mapping):
        return _read_dict(given, "the schema", where)
    if isinstance(given, Path):
        return _read_file(given, where)
    if isinstance(given, str):
        return _read_text(given, where)
    raise InputError(f"{where} is {_describe_other(given)}.", fix=FIX)


def is_schema(value: object) -> bool:
    """Return whether a variable is probably meant as a schema; for completion."""
    if isinstance(value, dict):
        return all(isinstance(name, str) for name in value) and bool(SHAPES & set(value))
    return is_class_schema(value)


def _describe_other(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}, which has no fields with types"
    kind = type(given)
    if is_class_schema(kind):
        return f"an object of {kind.__name__}, not the class {kind.__name__} itself"
    return f"an object of {kind.__name__}, not a schema"


# Each kind ----------------------------------------------------------------------------------------


def _read_text(given: str, where: str) -> AnswerSchema:
    text = given.strip()
    if text.startswith("{"):
        return _read_dict(_parse_json(text, where), "the schema", where)
    if _is_path(text):
        return _read_file(Path(text).expanduser(), where)
    schema = build_field_schema(text, where)
    check, items = build_checker(schema), find_items(schema)

    def build(document: Any) -> Reading:
        if faults := check(document):
            return Reading(faults=tuple(faults))
        if items is not None:
            return _build_frame(document, items, schema)
        return Reading(value=convert_object(document, schema), shown=document)

    name = text if len(text) <= MAX_NAME_CHARS else f"{text[:MAX_NAME_CHARS]}..."
    return AnswerSchema(name=name, json_schema=schema, build=build)


def _read_dict(given: Mapping[str, Any], name: str, where: str) -> AnswerSchema:
    schema = read_schema(given, where)
    check, items = build_checker(schema), find_items(schema)

    def build(document: Any) -> Reading:
        if faults := check(document):
            return Reading(faults=tuple(faults))
        if items is not None and _are_objects(document):
            return _build_frame(document, items, schema)
        return Reading(value=document, shown=document)

    return AnswerSchema(name=name, json_schema=schema, build=build)


def _read_class(kind: Any, where: str) -> AnswerSchema:
    adapter, schema = build_adapter(kind, where)
    items = find_items(schema)

    def build(document: Any) -> Reading:
        value, faults = validate(adapter, document)
        if faults:
            return Reading(faults=tuple(faults))
        shown = dump(adapter, value, document)
        if items is not None and _are_objects(shown):
            return _build_frame(shown, items, schema)
        return Reading(value=value, shown=shown)

    return AnswerSchema(name=name_class(kind), json_schema=schema, build=build)


def _are_objects(document: Any) -> bool:
    return isinstance(document, list) and all(isinstance(one, dict) for one in document)


def _build_frame(rows: Any, items: Mapping[str, Any], schema: Mapping[str, Any]) -> Reading:
    frame = to_frame(rows, items, schema)
    return Reading(value=frame, shown=frame)


# Files --------------------------------------------------------------------------------------------


def _is_path(text: str) -> bool:
    try:
        return text.endswith(".json") or Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, no home
        return False


def _read_file(path: Path, where: str) -> AnswerSchema:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:
        raise InputError(
            f"{where}: {path} cannot be read: {getattr(exc, 'strerror', None) or exc}.",
            fix=f"check the path, or name the fields: --json {EXAMPLE}",
        ) from exc
    if len(content) > MAX_FILE_BYTES:
        raise InputError(
            f"{where}: {path} has more than {MAX_FILE_BYTES:,} bytes.",
            fix="give a file with a JSON schema",
        )
    text = content.decode("utf-8-sig", "replace")
    return _read_dict(_parse_json(text, f"{where}: {path}"), path.name, where)


def _parse_json(text: str, where: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"{where}: it is not JSON: {exc}.",
            fix="give a JSON schema; its names stand in double "
            'quotes: {"type": "object", "properties": {"risk": {"type": "number"}}}',
        ) from exc
    if not isinstance(content, dict):
        raise InputError(
            f"{where}: it is a {type(content).__name__}, not a JSON schema.",
            fix='give an object: {"type": "object", "properties": {"risk": {"type": "number"}}}',
        )
    return content
