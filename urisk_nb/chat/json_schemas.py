"""
A JSON schema of the user's: is it one, does a document keep to it, and where does it not.

`jsonschema` checks. Nothing is fetched: a reference that leaves the schema is refused, and the
registry that resolves the others has no way to the net.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from urisk_nb.chat.json_text import Fault, format_path, is_deeper, shorten_value
from urisk_nb.errors import InputError

__all__ = ["build_checker", "find_items", "read_schema", "resolve"]

MAX_SCHEMA_CHARS = 100_000
MAX_DEPTH = 64
MAX_FAULTS = 20
MAX_HOPS = 20  # from reference to reference
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
ANCHORS = ("$anchor", "$dynamicAnchor")
# Keywords whose schemas judge the place where they stand, and no part of it
BY_NAME = ("dependencies", "dependentSchemas")
SAME_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", *BY_NAME)
# What says something of a document; a dict without any of them is an example, not a schema.
SHAPES = frozenset(
    ("$ref", "allOf", "anyOf", "const", "enum", "items", "oneOf", "prefixItems", "properties")
) | {"type"}
NOUNS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a text",
}

Checker = Callable[[Any], list[Fault]]


# The schema ---------------------------------------------------------------------------------------


def read_schema(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """
    Return a JSON schema as a plain dict of its own, if it can be used here.

    Raises
    ------
    InputError
        It is none, it refers to what lies outside of it, or it is too large.
    """
    text = _dump(given, where)
    schema: dict[str, Any] = json.loads(text)
    if len(text) > MAX_SCHEMA_CHARS or is_deeper(schema, MAX_DEPTH):
        raise InputError(
            f"{where}: the schema is too large ({len(text):,} characters).",
            fix=f"give at most {MAX_SCHEMA_CHARS:,} characters, nested {MAX_DEPTH} levels at most",
        )
    if not SHAPES & set(schema):
        raise InputError(
            f"{where}: {_shorten(text)} says nothing about an answer: it has no 'type' and no "
            "'properties'.",
            fix='give a JSON schema, or name the fields: --json "ticker:str, risk:float"',
        )
    _check_form(schema, where)
    _check_references(schema, where)
    _check_ends(schema, where)
    return schema


def _dump(schema: Mapping[str, Any], where: str) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InputError(
            f"{where}: the schema cannot be written as JSON: {exc}.",
            fix="use plain texts, numbers, lists and dicts in it",
        ) from exc


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


def _check_form(schema: Mapping[str, Any], where: str) -> None:
    """Check the schema by the schema of schemas."""
    from jsonschema.exceptions import SchemaError

    try:
        _choose_draft(schema).check_schema(schema)
    except SchemaError as exc:
        fault = _describe(exc.context[0] if exc.context else exc)
        raise InputError(
            f"{where}: the JSON schema is not valid at {fault}.",
            fix='see json-schema.org; or give the fields: --json "ticker:str, risk:float"',
        ) from exc


def _choose_draft(schema: Mapping[str, Any]) -> Any:
    """Return the validator of the draft that a schema names, or of the newest one."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    if not isinstance(schema.get("$schema", ""), str):
        return Draft202012Validator  # which says so
    return validator_for(schema, default=Draft202012Validator)


def _check_references(schema: Mapping[str, Any], where: str) -> None:
    """Check that each reference stays inside of the schema, and leads to something there."""
    parts = list(_list_parts(schema))
    if any(isinstance(part.get("$id"), str) for part in parts[1:]):
        raise InputError(
            f'{where}: a part of the schema has an "$id" of its own.',
            fix='leave it out, and refer to the part by its place: {"$ref": "#/$defs/name"}',
        )
    for reference in (one for part in parts for one in _list_references(part)):
        if not reference.startswith("#"):
            raise InputError(
                f"{where}: the schema refers to {shorten_value(reference)}, which lies outside of "
                "it. Nothing is fetched.",
                fix='put that part under "$defs", and refer to it: {"$ref": "#/$defs/name"}',
            )
        if _follow(reference, schema) is None:
            raise InputError(
                f"{where}: the schema refers to {shorten_value(reference)}, which is not there.",
                fix='put that part under "$defs": {"$defs": {"name": ...}}',
            )


def _list_references(part: Mapping[str, Any]) -> list[str]:
    # A field may have such a name; its schema is no text
    return [part[name] for name in REFERENCES if isinstance(part.get(name), str)]


def _list_parts(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield each object in a schema, the schema itself first."""
    if isinstance(part, Mapping):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _list_parts(one)


def _check_ends(schema: Mapping[str, Any], where: str) -> None:
    """
    Check that no part leads back to itself while the document stays at the same place.

    A validator would follow it without an end.
    """
    lengths: dict[int, int] = {}

    def measure(part: Any, hops: int) -> int:
        """Return how many parts judge one place of the document after this one."""
        if hops <= MAX_HOPS and id(part) not in lengths:
            following = [1 + measure(one, hops + 1) for one in _list_following(part, schema)]
            lengths[id(part)] = max(following, default=0)
        if hops + lengths.get(id(part), 0) > MAX_HOPS:
            raise InputError(
                f"{where}: the schema refers to itself without an end, or over more than "
                f"{MAX_HOPS} steps.",
                fix="let a reference stand under a field: "
                '{"properties": {"child": {"$ref": "#/$defs/node"}}}',
            )
        return lengths[id(part)]

    for part in _list_parts(schema):
        measure(part, 0)


def _list_following(part: Any, root: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the parts that judge the same place of a document as this one does."""
    if not isinstance(part, Mapping):
        return
    yield from (_follow(reference, root) for reference in _list_references(part))
    for name in SAME_PLACE:
        inner = part.get(name)
        if name in BY_NAME and isinstance(inner, Mapping):
            inner = list(inner.values())
        yield from inner if isinstance(inner, list) else [inner]


def _follow(reference: str, root: Any) -> Any:
    """Return what a reference into the schema leads to, or None."""
    if reference[1:2] not in ("", "/"):
        parts = _list_parts(root)
        return next((one for one in parts if reference[1:] in map(one.get, ANCHORS)), None)
    part = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and name.isdigit() and int(name) < len(part):
            part = part[int(name)]
        elif isinstance(part, Mapping) and name in part:
            part = part[name]
        else:
            return None
    return part


def resolve(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of a schema with its reference followed; empty where it says nothing."""
    for _ in range(MAX_HOPS):
        reference = part.get("$ref") if isinstance(part, Mapping) else None
        if not isinstance(reference, str):
            break
        part = _follow(reference, root)
    return part if isinstance(part, Mapping) else {}


def find_items(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of the objects in a list, or None where it is no list of objects."""
    whole = resolve(schema, schema)
    if whole.get("type") != "array":
        return None
    items = resolve(whole.get("items"), schema)
    return items if isinstance(items.get("properties"), Mapping) else None


# The document -------------------------------------------------------------------------------------


def build_checker(schema: Mapping[str, Any]) -> Checker:
    """Return a function that lists the faults of a document, in its order, 20 at most."""
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = _choose_draft(schema)
    # An empty registry in place of the default one, which fetches
    validator = kind(schema, registry=Registry(), format_checker=_build_format_checker())

    def check(document: Any) -> list[Fault]:
        try:
            errors = list(islice(validator.iter_errors(document), MAX_FAULTS))
        except Unresolvable as exc:  # a reference in the way of an older draft
            return [Fault(reason=f"the schema refers to what is not there: {exc}")]
        except BaseException as exc:
            # Where Python's stack ends inside of the library's Rust, it is no RecursionError
            if type(exc).__name__ == "PanicException":
                raise RecursionError("the schema and the document are nested too deeply") from exc
            raise
        return [_describe(best_match([error])) for error in errors]

    return check


def _build_format_checker() -> Any:
    from jsonschema import FormatChecker

    checker = FormatChecker()
    # jsonschema checks it only where a further package is installed
    checker.checks("date-time", raises=ValueError)(_is_instant)
    return checker


def _is_instant(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value))


def _describe(error: Any) -> Fault:
    """Return an error of jsonschema as a fault, in our own words where we have some."""
    describe = REASONS.get(str(error.validator))
    value = shorten_value(error.instance)
    reason = describe(error, value) if describe else f"{value}: {_shorten(error.message)}"
    return Fault(path=format_path(error.absolute_path), reason=reason)


def _name_types(kinds: Any) -> str:
    return " or ".join(NOUNS.get(kind, str(kind)) for kind in _as_list(kinds))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _name_missing(error: Any, _: str) -> str:
    missing = [name for name in error.validator_value if name not in error.instance]
    # One error for each of them: its message begins with the name
    named = [name for name in missing if error.message.startswith(repr(name))]
    return f"the field {shorten_value((named or missing)[0])} is missing"


def _name_extra(error: Any, _: str) -> str:
    known = error.schema.get("properties", {})
    extra = next((name for name in error.instance if name not in known), "")
    return f"the schema has no field {shorten_value(extra)}"


def _name_choices(error: Any, value: str) -> str:
    choices = ", ".join(map(shorten_value, error.validator_value[:20]))
    return f"{value} is none of {choices}"


REASONS: Mapping[str, Callable[[Any, str], str]] = {
    "additionalProperties": _name_extra,
    "const": lambda error, value: f"{value} is not {shorten_value(error.validator_value)}",
    "enum": _name_choices,
    "exclusiveMaximum": lambda error, value: f"{value} is not less than {error.validator_value}",
    "exclusiveMinimum": lambda error, value: f"{value} is not more than {error.validator_value}",
    "format": lambda error, value: f"{value} is not of the format {error.validator_value!r}",
    "maxItems": lambda error, value: f"{value} is longer than {error.validator_value}",
    "maxLength": lambda error, value: f"{value} is longer than {error.validator_value} characters",
    "maximum": lambda error, value: f"{value} is more than {error.validator_value}",
    "minItems": lambda error, value: f"{value} is shorter than {error.validator_value}",
    "minLength": lambda error, value: f"{value} is shorter than {error.validator_value} characters",
    "minimum": lambda error, value: f"{value} is less than {error.validator_value}",
    "pattern": lambda error, value: f"{value} does not match {error.validator_value!r}",
    "required": _name_missing,
    "type": lambda error, value: f"{value} is not {_name_types(error.validator_value)}",
}
