"""From the body of a request to a checked record, with Ollama's own words where it refuses.

Knows: the fields, the options, the grammar of model names.
Does not know: which models there are, HTTP beyond the status of a refusal.
Source: protocol notes, sections 2, 4 and 6; the texts are those of Ollama 0.33.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fake_ollama import go_compat
from fake_ollama.backend import Refusal

_CHAT = {
    "model": "string",
    "messages": "[]api.Message",
    "stream": "bool",
    "format": "any",
    "keep_alive": "any",
    "tools": "[]api.Tool",
    "options": "map[string]interface {}",
    "think": "any",
    "truncate": "bool",
    "shift": "bool",
    "logprobs": "bool",
    "top_logprobs": "int",
}
_GENERATE = {
    **_CHAT,
    "prompt": "string",
    "suffix": "string",
    "system": "string",
    "template": "string",
    "raw": "bool",
    "images": "[]api.ImageData",
    "context": "[]int",
}
_MESSAGE = {
    "role": "string",
    "content": "string",
    "thinking": "string",
    "images": "[]api.ImageData",
    "tool_calls": "[]api.ToolCall",
}

DEFAULTS: Mapping[str, Any] = {
    "num_predict": -1,
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": -1,
    "stop": (),
    "num_keep": 4,
}
_KINDS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "num_ctx",
            "num_batch",
            "num_gpu",
            "main_gpu",
            "num_thread",
            "draft_num_predict",
            "num_keep",
            "seed",
            "num_predict",
            "top_k",
            "repeat_last_n",
        ),
        "integer",
    ),
    **dict.fromkeys(
        (
            "top_p",
            "min_p",
            "typical_p",
            "temperature",
            "repeat_penalty",
            "presence_penalty",
            "frequency_penalty",
        ),
        "float32",
    ),
    "use_mmap": "boolean",
    "stop": "array",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The decoded body of `/api/chat` or `/api/generate`."""

    endpoint: str
    model: str  # as sent
    messages: tuple[Mapping[str, Any], ...]
    raw: str | None
    empty: bool  # nothing to answer: load or unload
    stream: bool
    format: Any
    keep_alive_ns: int | None
    options: Mapping[str, Any]  # as sent; see `options`
    think: Any
    truncate: bool
    top_logprobs: int | None
    lacking: tuple[str, ...]  # capabilities that it needs and no backend has


def decode(body: bytes) -> Any:
    """The JSON value of a body.

    Raises
    ------
    Refusal
        400, with Go's text.
    """
    try:
        return go_compat.loads(body)
    except go_compat.NoBody as exc:
        raise Refusal(400, "missing request body") from exc
    except go_compat.GoError as exc:
        raise Refusal(400, str(exc)) from exc


def fields(value: Any, struct: str, known: Mapping[str, str]) -> dict[str, Any]:
    """The known fields of a decoded body; Refusal(400) where one has another type."""
    try:
        return go_compat.check(struct, value, known)
    except go_compat.GoError as exc:
        raise Refusal(400, str(exc)) from exc


def chat(body: bytes) -> Body:
    """The body of `/api/chat`, checked. Raises Refusal."""
    got = fields(decode(body), "api.ChatRequest", _CHAT)
    messages = tuple(_message(item) for item in got.get("messages", ()))
    return _body("chat", got, messages=messages, raw=None, empty=not messages)


def generate(body: bytes) -> Body:
    """The body of `/api/generate`, checked. Raises Refusal."""
    got = fields(decode(body), "api.GenerateRequest", _GENERATE)
    prompt, system = got.get("prompt", ""), got.get("system", "")
    if got.get("raw") and (got.get("template") or system or got.get("context")):
        raise Refusal(400, "raw mode does not support template, system, or context")
    user = {"role": "user", "content": prompt}
    messages = ({"role": "system", "content": system}, user) if system else (user,)
    return _body(
        "generate", got, messages=messages, raw=prompt if got.get("raw") else None, empty=not prompt
    )


def _message(value: Any) -> Mapping[str, Any]:
    got = fields(value, "api.ChatRequest.messages", _MESSAGE)
    return {
        "role": got.get("role", "").lower(),
        "content": got.get("content", ""),
        **{k: got[k] for k in ("images",) if k in got},
    }


def _body(endpoint: str, got: dict[str, Any], **parts: Any) -> Body:
    try:
        keep_alive_ns = go_compat.keep_alive_ns(got["keep_alive"]) if "keep_alive" in got else None
    except go_compat.GoError as exc:
        raise Refusal(400, str(exc)) from exc
    think = _think(got.get("think"))
    top = got.get("top_logprobs", 0)
    if not 0 <= top <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")
    return Body(
        endpoint=endpoint,
        model=got.get("model", ""),
        stream=got.get("stream", True),
        format=got.get("format"),
        keep_alive_ns=keep_alive_ns,
        options=got.get("options", {}),
        think=think,
        truncate=got.get("truncate", True),
        top_logprobs=top if got.get("logprobs") else None,
        lacking=_lacking(got, parts["messages"]),
        **parts,
    )


def _think(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    choices = '"high", "medium", "low", "max", true, or false'
    if not isinstance(value, str):
        raise Refusal(400, f"think must be a boolean or string ({choices})")
    if value not in {"high", "medium", "low", "max"}:
        raise Refusal(400, f'invalid think value: "{value}" (must be {choices})')
    return value


def _lacking(got: Mapping[str, Any], messages: tuple[Mapping[str, Any], ...]) -> tuple[str, ...]:
    images = got.get("images") or any(message.get("images") for message in messages)
    needs = {
        "tools": got.get("tools"),
        "insert": got.get("suffix"),
        "vision": images,
        "template": got.get("template"),
    }
    return tuple(name for name, wanted in needs.items() if wanted)


def options(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The options with defaults filled in; `num_ctx` only where it was sent. Unknown ones are
    dropped.

    Raises
    ------
    Refusal
        500: an option has another type. (Ollama finds it late, so it is no 400.)
    """
    known = {name: value for name, value in sent.items() if name in _KINDS and value is not None}
    for name, value in known.items():
        wanted = _KINDS[name]
        if not _fits(value, wanted):
            raise Refusal(500, f'option "{name}" must be of type {wanted}')
        if wanted == "array" and not all(isinstance(item, str) for item in value):
            raise Refusal(500, f'option "{name}" must be of an array of strings')
    whole = {name: int(value) for name, value in known.items() if _KINDS[name] == "integer"}
    return {**DEFAULTS, **known, **whole}


def _fits(value: Any, wanted: str) -> bool:
    seen = {"integer": "number", "float32": "number", "boolean": "bool", "array": "array"}[wanted]
    return go_compat.kind(value) == seen


def check_format(value: Any) -> Any:
    """None, `"json"` or a schema. Raises Refusal(500) for anything else."""
    if value is None or value == "":
        return None
    if value == "json" or isinstance(value, dict):
        return value
    text = go_compat.dumps(value).decode().replace("\\", "\\\\").replace('"', '\\"')
    raise Refusal(500, f'invalid format: "{text}"; expected "json" or a valid JSON Schema object')


# ---- names ---------------------------------------------------------------------------------------

_HOST = r"(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349})/)?"
_NAMESPACE = r"(?:(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{0,79})/)?"
_NAME = re.compile(
    _HOST
    + _NAMESPACE
    + r"(?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}))?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A well-formed model name."""

    shown: str  # shortest form, always with a tag
    cloud: bool  # names a model that would run elsewhere


def name(text: str) -> Name | None:
    """The parts of a model name; None where it is malformed.

    Raises
    ------
    Refusal
        400: it says both `:local` and `:cloud`.
    """
    rest, local, cloud = text.strip(), False, False
    while (suffix := rest.lower().rpartition(":")[2]) in {"local", "cloud"} and ":" in rest:
        rest = rest[: -len(suffix) - 1]
        local, cloud = local or suffix == "local", cloud or suffix == "cloud"
    match = _NAME.fullmatch(rest)
    if match is None or (
        match["host"] and not match["namespace"] and set(match["host"]) & set(".:")
    ):
        return None  # two parts are namespace and model, and a namespace has neither dot nor colon
    tag = match["tag"] or "latest"
    cloud = cloud or tag.lower().endswith("-cloud")
    if local and cloud:
        raise Refusal(400, f'use either :local or :cloud, not both: "{text}"')
    return Name(shown=_shown(match, tag), cloud=cloud)


def _shown(match: re.Match[str], tag: str) -> str:
    host, namespace = match["host"], match["namespace"]
    if host and not namespace:
        host, namespace = None, host
    host = None if host == "registry.ollama.ai" else host
    namespace = None if namespace == "library" and not host else namespace
    return "/".join(part for part in (host, namespace, match["model"]) if part) + f":{tag}"
