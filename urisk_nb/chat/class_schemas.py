"""
A class of the user's as the form of an answer: a pydantic model, a dataclass, a TypedDict, or a
type made of them, such as `list[Holding]`.

pydantic makes the JSON schema, checks the answer, and builds the object.
"""

from __future__ import annotations

import dataclasses
import json
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from urisk_nb.chat.json_text import Fault, format_path, shorten_value
from urisk_nb.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["build_adapter", "dump", "is_class_schema", "name_class", "validate"]

MAX_FAULTS = 20


def is_class_schema(value: object) -> bool:
    """Return whether a value is a class, or a type of classes, that an answer can be made of."""
    if typing.get_origin(value) is not None:
        return True
    if not isinstance(value, type):
        return False
    is_model = hasattr(value, "model_json_schema") and bool(getattr(value, "model_fields", ()))
    is_typed_dict = issubclass(value, dict) and hasattr(value, "__required_keys__")
    return is_model or dataclasses.is_dataclass(value) or is_typed_dict


def build_adapter(kind: Any, where: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """
    Return pydantic's adapter of a class, and its JSON schema.

    Raises
    ------
    InputError
        The class has a field that no JSON can be made into.
    """
    from pydantic import TypeAdapter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a default that no schema can show
            adapter = TypeAdapter(kind)
            return adapter, adapter.json_schema()
    except Exception as exc:  # whatever the annotations of a class end in
        reason = " ".join(str(exc).split()).split(" For further information")[0]
        raise InputError(
            f"{where}: {name_class(kind)} cannot be read from JSON: {type(exc).__name__}: "
            f"{reason[:200]}.",
            fix="give its fields types such as str, int, float, bool, date, Literal, list[str], or "
            "another such class",
        ) from exc


def name_class(kind: Any) -> str:
    """Return how a class or type is called: `Holding`, `list[Holding]`."""
    if typing.get_origin(kind) is list:
        return f"list[{', '.join(map(name_class, typing.get_args(kind)))}]"
    return str(getattr(kind, "__name__", kind))


def validate(adapter: TypeAdapter[Any], document: Any) -> tuple[Any, list[Fault]]:
    """Return the object of a parsed answer, or None and its faults."""
    from pydantic import ValidationError

    try:
        # As text: a strict model takes a date from JSON, and none from a text of Python's
        return adapter.validate_json(json.dumps(document)), []
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=True)
        return None, [_describe(error, document) for error in errors[:MAX_FAULTS]]
    except Exception as exc:  # noqa: BLE001  whatever a validator of the user's raises
        reason = f"the check of the class failed: {type(exc).__name__}: {str(exc)[:200]}"
        return None, [Fault(reason=reason)]


def dump(adapter: TypeAdapter[Any], value: Any, document: Any) -> Any:
    """Return an object as JSON data, with the defaults of its class; else the document."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return adapter.dump_python(value, mode="json", by_alias=True)
    except Exception:  # noqa: BLE001  a field that can be read and not written
        return document


# Faults -------------------------------------------------------------------------------------------


def _describe(error: Mapping[str, Any], document: Any) -> Fault:
    kind, value = str(error["type"]), shorten_value(error["input"])
    path = _find_path(error["loc"], document)
    if kind == "missing":
        name = error["loc"][-1] if error["loc"] else ""
        return Fault(path=format_path(path), reason=f"the field {shorten_value(name)} is missing")
    if kind == "extra_forbidden":
        name = error["loc"][-1]
        return Fault(
            path=format_path(path[:-1]), reason=f"the schema has no field {shorten_value(name)}"
        )
    describe = REASONS.get(kind)
    reason = describe(value, error.get("ctx", {})) if describe else f"{value}: {error['msg'][:200]}"
    return Fault(path=format_path(path), reason=reason)


def _find_path(places: Sequence[str | int], document: Any) -> list[str | int]:
    """Return the steps that lead into the document: pydantic also names branches of a union."""
    path: list[str | int] = []
    for place in places:
        is_index = isinstance(place, int) and isinstance(document, list) and place < len(document)
        if is_index or (isinstance(document, dict) and place in document):
            document = document[place]
            path.append(place)
    return path


def _say(text: str) -> Callable[[str, Mapping[str, Any]], str]:
    return lambda value, _: f"{value} is not {text}"


def _name_choices(value: str, context: Mapping[str, Any]) -> str:
    return f"{value} is none of {context.get('expected', 'the choices')}"


REASONS: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    **dict.fromkeys(("float_type", "float_parsing", "decimal_parsing"), _say("a number")),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _say("a whole number")),
    **dict.fromkeys(("bool_type", "bool_parsing"), _say("true or false")),
    **dict.fromkeys(
        ("date_type", "date_parsing", "date_from_datetime_parsing", "date_from_datetime_inexact"),
        _say("a date (YYYY-MM-DD)"),
    ),
    **dict.fromkeys(
        ("model_type", "dataclass_type", "dict_type", "model_attributes_type"), _say("an object")
    ),
    "string_type": _say("a text"),
    "list_type": _say("a list"),
    "enum": _name_choices,
    "literal_error": _name_choices,
}
