"""JSON, durations and instants in the forms that a server written in Go gives them.

Knows: Go's error texts for the cases that clients meet, its escapes, its duration grammar.
Does not know: HTTP, models.
Why: a client that was tested against Python's forms would meet Go's for the first time at the
user's desk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

FOREVER_NS = 2**63 - 1
"""What a negative keep_alive becomes, ns."""


class GoError(ValueError):
    """A text that Go's own library would have given. The message is that text."""


class NoBody(GoError):
    """There was nothing but white space to decode."""


# ---- writing -------------------------------------------------------------------------------------

_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
_ESCAPED = re.compile("[<>&\u2028\u2029]")


def dumps(value: Any) -> bytes:
    """
    Compact UTF-8 JSON with `<`, `>`, `&` and the two line separators escaped, as Go's encoder
    writes it.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED.sub(lambda match: _ESCAPES[match[0]], text).encode("utf-8", "replace")


def instant(ns: int, *, local: bool = False) -> str:
    """RFC 3339 with up to nine fractional digits, trailing zeros dropped.

    Parameters
    ----------
    ns
        Nanoseconds since 1970 (UTC).
    local
        Write the machine's own offset instead of `Z`; an offset of zero is written `Z` by Go too.
    """
    seconds, rest = divmod(ns, 10**9)
    when = datetime.fromtimestamp(seconds, UTC)
    if local:
        when = when.astimezone()
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    offset = when.strftime("%z")
    zone = "Z" if offset in {"", "+0000"} else f"{offset[:3]}:{offset[3:5]}"
    return when.strftime("%Y-%m-%dT%H:%M:%S") + fraction + zone


# ---- reading -------------------------------------------------------------------------------------

_LONE = re.compile(rb"\\u[dD][89a-fA-F]")
_WHERE = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key "
    "string",
    "Expecting ':' delimiter": "after object key",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
}


def loads(body: bytes) -> Any:
    """The first JSON value of the body; whatever follows it is not looked at.

    Raises
    ------
    NoBody
        Nothing but white space.
    GoError
        Not JSON, cut short, or nested too deep; the text is Go's.
    """
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    if not text:
        raise NoBody("EOF")
    try:
        value, _ = json.JSONDecoder(parse_constant=_constant).raw_decode(text)
    except json.JSONDecodeError as exc:
        raise GoError(_complaint(text, exc)) from exc
    except RecursionError as exc:
        raise GoError("exceeded max depth") from exc
    except GoError:
        raise
    except ValueError as exc:  # an integer of more digits than Python reads
        raise GoError("invalid number literal") from exc
    return _mend(value) if _LONE.search(body) else value


def _constant(name: str) -> NoReturn:
    raise GoError(f"invalid character '{name.lstrip('-')[0]}' looking for beginning of value")


def _complaint(text: str, exc: json.JSONDecodeError) -> str:
    rest = text[exc.pos :]
    if (
        not rest
        or exc.msg.startswith("Unterminated string")
        or any(word.startswith(rest) for word in ("true", "false", "null"))
    ):
        return "unexpected EOF"
    if exc.msg == "Expecting ',' delimiter":
        return f"invalid character {_quoted(rest[0])} after {_container(text[: exc.pos])}"
    if exc.msg.startswith("Illegal trailing comma"):
        rest = rest[1:].lstrip() or " "
    place = next(
        (place for start, place in _WHERE.items() if exc.msg.startswith(start)),
        "looking for beginning of value",
    )
    return f"invalid character {_quoted(rest[0])} {place}"


def _container(before: str) -> str:
    """Name what the decoder stood in: Go says which kind of element it had just read."""
    depth: list[str] = []
    for sign in re.findall(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', before):
        if sign in "{[":
            depth.append(sign)
        elif sign in "}]" and depth:
            depth.pop()
    return "object key:value pair" if depth and depth[-1] == "{" else "array element"


def _quoted(sign: str) -> str:
    special = {"'": r"'\''", '"': "'\"'", "\n": r"'\n'", "\t": r"'\t'", "\r": r"'\r'"}
    return special.get(sign, f"'{sign}'")


def _mend(value: Any) -> Any:
    """
    Half a surrogate pair becomes U+FFFD, as in Go; Python would keep it and fail when it is
    written.
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mend(key): _mend(item) for key, item in value.items()}
    return value


# ---- types of fields -----------------------------------------------------------------------------

_ACCEPTS: Mapping[str, tuple[str, ...]] = {
    "string": ("string",),
    "bool": ("bool",),
    "int": ("number",),
    "map[string]interface {}": ("object",),
    "map[string]string": ("object",),
    "any": ("string", "bool", "number", "object", "array"),
}


def kind(value: Any) -> str:
    """What Go calls the kind of a decoded JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return (
        "object"
        if isinstance(value, dict)
        else "array"
        if isinstance(value, list | tuple)
        else "null"
    )


def check(struct: str, value: Any, fields: Mapping[str, str]) -> dict[str, Any]:
    """The fields of an object that are known and not null.

    Parameters
    ----------
    struct
        Go's name of the record, for the message.
    value
        The decoded body.
    fields
        Field -> Go type. A type that starts with `[]` is an array. Unknown fields are not looked
        at.

    Raises
    ------
    GoError
        A field has another type.
    """
    if not isinstance(value, dict):
        raise GoError(f"json: cannot unmarshal {kind(value)} into Go value of type {struct}")
    name = struct.rpartition(".")[2]
    for field, wanted in fields.items():
        seen = kind(value.get(field))
        accepted = ("array",) if wanted.startswith("[]") else _ACCEPTS[wanted]
        if seen != "null" and seen not in accepted:
            raise GoError(
                f"json: cannot unmarshal {seen} into Go struct field {name}.{field} of type "
                f"{wanted}"
            )
        if wanted == "int" and isinstance(value.get(field), float):
            raise GoError(
                f"json: cannot unmarshal number {value[field]} into Go struct field "
                f"{name}.{field} of type int"
            )
    return {field: value[field] for field in fields if value.get(field) is not None}


# ---- durations -----------------------------------------------------------------------------------

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")


def duration_ns(text: str) -> int:
    """Nanoseconds of a Go duration such as `20m`, `1h30m`, `-1m`, `0`.

    Raises
    ------
    GoError
        Not a duration; the text is that of Go's `time.ParseDuration`.
    """
    sign, rest = (
        (-1 if text.startswith("-") else 1),
        text.removeprefix("-") if text.startswith("-") else text.removeprefix("+"),
    )
    if rest == "0":
        return 0
    total, at = 0.0, 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            break
        total += float(part[1]) * _unit(part[2], text)
        at = part.end()
    if not rest or at < len(rest):
        raise GoError(f'time: invalid duration "{text}"')
    return sign * min(int(total), FOREVER_NS)


def _unit(name: str, text: str) -> int:
    if not name:
        raise GoError(f'time: missing unit in duration "{text}"')
    if name not in _UNITS_NS:
        raise GoError(f'time: unknown unit "{name}" in duration "{text}"')
    return _UNITS_NS[name]


def keep_alive_ns(value: Any) -> int:
    """Nanoseconds of a `keep_alive` field: a number of seconds or a duration; negative means for
    ever.

    Raises
    ------
    GoError
        Another type, or a string that is no duration.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        seen = {"bool": "bool", "array": "[]interface {}"}.get(
            kind(value), "map[string]interface {}"
        )
        raise GoError(f"Unsupported type: '{seen}'")
    ns = duration_ns(value) if isinstance(value, str) else int(min(float(value), 9e9) * 10**9)
    return FOREVER_NS if ns < 0 else ns
