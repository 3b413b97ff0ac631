"""
Requests, replies and model lists as records that every dialect shares. Pure data.

Names of options are Ollama's, since users know them; a dialect translates them for its server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from urisk_nb.arguments import require
from urisk_nb.errors import InputError

__all__ = [
    "JUDGE",
    "ChatRequest",
    "Chunk",
    "Final",
    "LoadedModel",
    "Message",
    "Model",
    "ModelCard",
    "PullProgress",
    "ServerProps",
    "Think",
    "TokenLogprob",
    "build_messages",
    "check_chat",
    "find_model",
    "is_demo",
    "is_judge",
    "is_same_model",
    "parse_question",
]

# As the embedded engine and Ollama name it, and as llama.cpp names it where no alias is given.
DEMO_MODELS = ("smollm2-135m", "smollm2:135m", "SmolLM2-135M-Instruct.Q4_1.gguf")
JUDGE = "urisk-judge"
DEFAULT_HOST, DEFAULT_NAMESPACE = "registry.ollama.ai", "library"  # where Ollama pulls from

Message = Mapping[str, Any]
QUESTION_FIELDS = frozenset({"format", "logprobs", "messages", "options", "top_logprobs"})


class Think(StrEnum):
    """What a request says of the model's thinking before its answer."""

    OFF = "off"
    UNSET = "unset"  # nothing: as the server and the model's template have it
    ON = "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """
    One chat, before a dialect turns it into bytes.

    Attributes
    ----------
    model
        Name of the model that answers.
    messages
        Turns as `{"role": ..., "content": ...}`.
    options
        Sampling options under Ollama's names: temperature, seed, num_predict, stop, ...
    num_ctx
        Context window in tokens. A server that fixes its window at the start ignores it.
    keep_alive
        How long the model stays loaded after the call: seconds, or text such as `20m`.
    schema
        JSON schema of the answer, or `"json"`; None for free text.
    logprobs, top_logprobs
        Whether the server reports log-probabilities, and of how many tokens at each place.
    adapter_off
        Number of the adapter (LoRA) of a llama.cpp server that is left out; None: the server's own
        choice.
    think
        None: as the dialect does by default, the first of its `think_settings`.
    """

    model: str
    messages: Sequence[Message]
    options: Mapping[str, Any] = field(default_factory=dict)
    num_ctx: int
    keep_alive: str | float
    schema: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    adapter_off: int | None = None
    think: Think | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token of an answer with its natural log-probability, before any grammar, and its rivals."""

    text: str
    logprob: float
    top_logprobs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A fragment of an answer, with its tokens' log-probabilities where the server reports them."""

    text: str
    thinking: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """
    The end of an answer with the server's counters; a counter that the server does not tell is 0.

    Durations in nanoseconds. `prompt_tokens` counts the whole prompt, cached or not; `prompt_ns`
    is the time for the part that was not cached. Time spent in the server's queue is in `total_ns`
    only, and only Ollama reports it.
    """

    text: str = ""
    thinking: str = ""
    done_reason: str = ""
    total_ns: int = 0
    load_ns: int = 0
    prompt_tokens: int = 0
    prompt_ns: int = 0
    tokens: int = 0
    generation_ns: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """
    A model that the server offers.

    Attributes
    ----------
    name, digest, size_bytes
        As the server lists it; empty or 0 where it does not report it.
    remote
        True where the model runs on another machine than the server.
    aliases
        Other names under which the server offers it.
    num_ctx
        Context window in tokens, where the server fixes it; 0: unknown.
    """

    name: str
    digest: str = ""
    size_bytes: int = 0
    remote: bool = False
    aliases: tuple[str, ...] = ()
    num_ctx: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a server says of one model: what it can do, and the entries of its file's header."""

    capabilities: frozenset[str] = frozenset()
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in memory: bytes in all and on the GPU, tokens of context for each slot."""

    name: str
    size_bytes: int = 0
    gpu_bytes: int = 0
    num_ctx: int = 0
    expires_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProps:
    """
    What a llama.cpp server reports about itself.

    Attributes
    ----------
    slots, num_ctx
        Answers at once, and the context window of each in tokens; 0: unknown.
    build
        Its version.
    adapters
        File names of its adapters (LoRA) without folder and ending, by number.
    """

    slots: int = 0
    num_ctx: int = 0
    build: str = ""
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """
    One step of a download or creation; bytes of one layer, 0 where the server names none.

    `completed` may go down after a failed part.
    """

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


def build_messages(prompt: str, system_prompt: str | None) -> list[Message]:
    """Return a prompt as the messages of a chat; raise InputError where it has no text."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"the prompt is {prompt!r}.", fix="give some text")
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": prompt}]


def check_chat(messages: Sequence[Message], options: Any, format: object) -> None:
    """Raise InputError for a chat that no server takes."""
    if not messages:
        raise InputError(
            "the chat has no messages.",
            fix='give at least one: [{"role": "user", "content": "..."}]',
        )
    fix = 'give a mapping of names to values: options={"temperature": 0, "seed": 1}'
    given = {} if options is None else options
    require(isinstance(given, Mapping), "options", options, fix)
    for name, value in given.items():
        require(isinstance(name, str), "an option's name", name, fix)
        window_fix = "leave it out; one window holds for the session: %urisk_start --num-ctx 8192"
        require(name != "num_ctx", "options['num_ctx']", value, window_fix)
    is_fit = format is None or format == "json" or isinstance(format, Mapping)
    require(
        is_fit, "format", format, 'give a JSON schema as a dict, format="json", or leave it out'
    )


def parse_question(
    payload: bytes,
    *,
    model: str,
    keep_alive: str | float,
    num_ctx: int,
    adapter_off: int | None = None,
) -> ChatRequest:
    """
    Return the chat of a question given as JSON bytes.

    Parameters
    ----------
    payload
        An object with `messages` and, as needed, `format`, `options`, `logprobs`, `top_logprobs`.
    model, keep_alive, num_ctx, adapter_off
        What the session adds.

    Raises
    ------
    InputError
        The bytes are no such object.
    """
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"the question is not JSON: {payload[:80]!r}.", fix="give a JSON object"
        ) from exc
    if not isinstance(content, dict) or not isinstance(content.get("messages"), list):
        raise InputError(
            f"the question has no messages: {payload[:80]!r}.",
            fix="give an object with a list `messages`",
        )
    if unknown := sorted(set(content) - QUESTION_FIELDS):
        raise InputError(
            f"the question has the unknown field {unknown[0]!r}.",
            fix=f"use only {', '.join(sorted(QUESTION_FIELDS))}",
        )
    return ChatRequest(
        model=model,
        messages=content["messages"],
        options=content.get("options") or {},
        num_ctx=num_ctx,
        keep_alive=keep_alive,
        schema=content.get("format"),
        logprobs=content.get("logprobs"),
        top_logprobs=content.get("top_logprobs"),
        adapter_off=adapter_off,
    )


def is_same_model(one: str, other: str) -> bool:
    """
    Return whether two names mean one model, as Ollama reads them.

    No tag means `latest`, no namespace `library`, no host `registry.ollama.ai`, and case does not
    count: `registry.ollama.ai/library/llama3.1` is `LLAMA3.1:latest`.
    """
    return one == other or _normalize_name(one) == _normalize_name(other)


def _normalize_name(name: str) -> str:
    """Return the shortest form of a name with its tag: `[[host/]namespace/]model:tag`."""
    text = name.strip().lower().removesuffix(":local")
    *place, last = text.rpartition("://")[2].split("/")
    if len(place) == 2 and place[0] == DEFAULT_HOST:
        del place[0]
    if place == [DEFAULT_NAMESPACE]:
        place.clear()
    return "/".join([*place, last if ":" in last else f"{last}:latest"])


def is_demo(model: str) -> bool:
    """
    Return whether a name means the small model of the demonstration, on the embedded engine or on a
    real Ollama.
    """
    return any(is_same_model(model, name) for name in DEMO_MODELS)


def is_judge(model: str) -> bool:
    """Return whether a name means the judge of this package, which answers with letters."""
    return is_same_model(model, JUDGE)


def find_model(name: str, models: Sequence[Model]) -> Model | None:
    """Return the server's model of this name or alias, or None."""
    return next(
        (
            model
            for model in models
            if any(is_same_model(known, name) for known in (model.name, *model.aliases))
        ),
        None,
    )
