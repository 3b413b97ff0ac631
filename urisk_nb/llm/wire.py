"""What goes over the wire: request bodies, reply lines, and what each of the server's errors means.

Pure: bytes in, records out. Requests are put together key by key, never sorted: one of the server's
two paths keeps a schema's order, and the bytes of a question are hashed and compared elsewhere.
Replies are read leniently: a counter that is zero is left out by the server, and fields come and go
between its versions. Over 400 lines, a fifth of them the table of errors: it is data.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from urisk_nb import errors
from urisk_nb.errors import InputError, ProtocolError, UriskError

__all__ = [
    "ERRORS",
    "Final",
    "Lines",
    "LoadedModel",
    "Model",
    "Piece",
    "PullProgress",
    "Rule",
    "TokenLogprob",
    "chat_body",
    "create_body",
    "error_of",
    "is_cloud",
    "load_body",
]
__all__ += [
    "loaded_model_of",
    "match_model",
    "model_of",
    "payload_body",
    "piece_of",
    "progress_of",
    "pull_body",
    "rule_of",
    "same_model",
    "text_of_error",
]

Message = Mapping[str, Any]
# A line is one object; the longest known ones carry a token history of some megabytes
MAX_LINE_BYTES = 32 * 1024 * 1024


# Requests -----------------------------------------------------------------------------------------


def _bytes(content: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InputError(
            f"the request cannot be sent as JSON: {exc}.",
            fix="use plain numbers, text, lists and dicts in options, messages and format",
        ) from exc
    # Half of a surrogate pair is in no encoding: the server would read it as the replacement
    # character, too.
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text).encode("utf-8")


def _common(model: str, keep_alive: str | float) -> dict[str, Any]:
    # truncate false: a prompt that is too long is an error, not silently cut in the middle.
    # think false: a thinking model thinks where nothing is said, and its schema is then not
    # applied.
    return {
        "model": model,
        "stream": True,
        "keep_alive": keep_alive,
        "think": False,
        "truncate": False,
    }


def chat_body(
    messages: Sequence[Message],
    *,
    model: str,
    keep_alive: str | float,
    num_ctx: int,
    options: Mapping[str, Any] | None = None,
    format: Any = None,
) -> bytes:
    """
    The bytes of a streamed chat; `num_ctx` goes into every request, since another value would load
    the model again.
    """
    body = _common(model, keep_alive)
    if format is not None:
        body["format"] = format
    return _bytes(
        body | {"messages": list(messages), "options": {**(options or {}), "num_ctx": num_ctx}}
    )


def payload_body(payload: bytes, *, model: str, keep_alive: str | float, num_ctx: int) -> bytes:
    """
    The bytes of a chat whose `format`, `messages` and `options` are given as JSON; their order is
    kept.
    """
    content = json.loads(payload)
    return _bytes(
        _common(model, keep_alive)
        | content
        | {"options": {**content.get("options", {}), "num_ctx": num_ctx}}
    )


def load_body(*, model: str, keep_alive: str | float, num_ctx: int) -> bytes:
    """
    The bytes that load a model with the options that later calls send (and, with keep_alive 0,
    unload it).
    """
    return _bytes(
        {"model": model, "messages": [], "keep_alive": keep_alive, "options": {"num_ctx": num_ctx}}
    )


def pull_body(model: str) -> bytes:
    """The bytes that download a model."""
    return _bytes({"model": model, "stream": True})


def create_body(
    model: str,
    *,
    base: str = "",
    adapters: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> bytes:
    """
    The bytes that make a model: of another one and an adapter, or of files that are whole models.

    Both as file name -> `sha256:...` of a blob that the server has. What is empty is not sent.
    """
    parts = {"from": base, "adapters": dict(adapters or {}), "files": dict(files or {})}
    return _bytes(
        {"model": model, **{name: part for name, part in parts.items() if part}, "stream": True}
    )


# Replies ------------------------------------------------------------------------------------------


class Lines:
    """
    Objects of a reply from bytes that are cut anywhere: in a line, in a character, or not between
    two lines.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The objects that are whole with this data."""
        self._rest += data
        whole: list[bytes] = []
        # Only then is the rest taken apart: a long line in many pieces would cost its square
        if b"\n" in data:
            *whole, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if len(self._rest) > MAX_LINE_BYTES:
            raise ProtocolError(
                f"a line of the reply is longer than {MAX_LINE_BYTES >> 20} MiB.",
                fix="check that OLLAMA_URL is an Ollama server",
            )
        for line in whole:
            if line.strip():
                yield _object(line)

    def end(self) -> Iterator[dict[str, Any]]:
        """The last object, where no line end follows it; half an object is nothing."""
        rest, self._rest = bytes(self._rest).strip(), bytearray()
        with contextlib.suppress(ProtocolError):
            if rest:
                yield _object(rest)


def _object(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(
            f"the reply is not JSON: {line[:80]!r}.",
            fix="check that OLLAMA_URL is an Ollama server",
        ) from exc
    if not isinstance(content, dict):
        raise ProtocolError(
            f"the reply is no JSON object: {line[:80]!r}.",
            fix="check that OLLAMA_URL is an Ollama server",
        )
    return content


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """
    A token of an answer as the server tells it where `logprobs` was asked for: natural logarithms,
    before any grammar.
    """

    text: str
    logprob: float
    top_logprobs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A fragment of an answer, and its tokens where they are told."""

    text: str
    thinking: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """
    The last object of an answer, `done` true.

    Durations in nanoseconds. `prompt_tokens` counts the whole prompt, cached or not; `prompt_ns` is
    the time for the part that was not cached. The time that the request waited for a slot is in
    `total_ns` and in no other.
    """

    text: str = ""
    done_reason: str = ""
    total_ns: int = 0
    load_ns: int = 0
    prompt_tokens: int = 0
    prompt_ns: int = 0
    tokens: int = 0
    generation_ns: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


def piece_of(content: Mapping[str, Any]) -> Piece | Final:
    """A reply object of chat or generate as a record; an error object raises what it means."""
    if "error" in content:
        raise error_of(None, str(content["error"]))
    message = content.get("message")
    text = (
        str(message.get("content") or "")
        if isinstance(message, dict)
        else str(content.get("response") or "")
    )
    if content.get("done") is not True:
        thinking = str(message.get("thinking") or "") if isinstance(message, dict) else ""
        return Piece(text=text, thinking=thinking, logprobs=_read_logprobs(content))
    return Final(
        text=text,
        done_reason=str(content.get("done_reason") or ""),
        total_ns=_count(content, "total_duration"),
        load_ns=_count(content, "load_duration"),
        prompt_tokens=_count(content, "prompt_eval_count"),
        prompt_ns=_count(content, "prompt_eval_duration"),
        tokens=_count(content, "eval_count"),
        generation_ns=_count(content, "eval_duration"),
        logprobs=_read_logprobs(content),
    )


def _read_logprobs(content: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    entries = content.get("logprobs")
    logprobs = []
    for entry in entries if isinstance(entries, list) else ():
        if (one := _logprob(entry)) is not None:
            top_logprobs = (_logprob(other) for other in entry.get("top_logprobs") or ())
            logprobs.append(
                TokenLogprob(
                    text=one[0],
                    logprob=one[1],
                    top_logprobs=tuple(other for other in top_logprobs if other is not None),
                )
            )
    return tuple(logprobs)


def _logprob(entry: Any) -> tuple[str, float] | None:
    """
    Token and logarithm; None for what is neither. A token that is a part of a character is told as
    its bytes.
    """
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("token"), str)
        or isinstance(entry.get("logprob"), bool)
    ):
        return None
    value = entry.get("logprob")
    return (
        (entry["token"], float(value))
        if isinstance(value, int | float) and math.isfinite(value)
        else None
    )


def _count(content: Mapping[str, Any], name: str) -> int:
    value = content.get(name)
    return int(value) if isinstance(value, int | float) and value > 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """
    One line of a download or creation; bytes of one layer, 0 where none are named. `completed` may
    go down after a failed part.
    """

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


def progress_of(content: Mapping[str, Any]) -> PullProgress:
    """A line of a pull or a create as a record; an error line raises what it means."""
    if "error" in content:
        raise error_of(None, str(content["error"]))
    return PullProgress(
        status=str(content.get("status") or ""),
        digest=str(content.get("digest") or ""),
        total=_count(content, "total"),
        completed=_count(content, "completed"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the server has; `remote` where it runs elsewhere."""

    name: str
    digest: str = ""
    size_bytes: int = 0
    remote: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in memory: bytes in all and on the GPU, tokens of context for each slot."""

    name: str
    size_bytes: int = 0
    gpu_bytes: int = 0
    num_ctx: int = 0
    expires_at: str = ""


def model_of(content: Mapping[str, Any]) -> Model:
    """An entry of /api/tags as a record."""
    return Model(
        name=str(content.get("name") or content.get("model") or ""),
        digest=str(content.get("digest") or ""),
        size_bytes=_count(content, "size"),
        remote=bool(content.get("remote_host") or content.get("remote_model")),
    )


def loaded_model_of(content: Mapping[str, Any]) -> LoadedModel:
    """An entry of /api/ps as a record."""
    return LoadedModel(
        name=str(content.get("name") or ""),
        size_bytes=_count(content, "size"),
        gpu_bytes=_count(content, "size_vram"),
        num_ctx=_count(content, "context_length"),
        expires_at=str(content.get("expires_at") or ""),
    )


# Model names --------------------------------------------------------------------------------------


def is_cloud(name: str) -> bool:
    """
    Whether the server would send the text elsewhere: the tag is `cloud` or ends in `-cloud`.
    `:local` at the end forbids it.
    """
    tag = name.lower().rpartition("/")[2].partition(":")[2]
    return tag.split(":")[-1] == "cloud" or tag.endswith("-cloud")


def same_model(one: str, other: str) -> bool:
    """Whether two names mean the same model: no tag means `latest`, and case does not count."""
    return _full(one) == _full(other)


def _full(name: str) -> str:
    head, slash, last = name.lower().removesuffix(":local").rpartition("/")
    return f"{head}{slash}{last}" if ":" in last else f"{head}{slash}{last}:latest"


def match_model(name: str, models: Sequence[Model]) -> Model | None:
    """The server's model of this name, or None."""
    return next((model for model in models if same_model(model.name, name)), None)


# Errors -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One kind of refusal: the statuses it may have (none: any, and error lines), what its text has,
    and what it means.
    """

    statuses: tuple[int, ...]
    pattern: str
    error: type[UriskError]
    fix: str


NO_ADAPTERS = r"adapters? (is|are) (no longer|not) supported"
"""What Ollama says from 0.34.1 on where a model is to be made with one."""
_SMALLER = "use a smaller model, or a smaller context: %env URISK_NUM_CTX=2048"
# Read from top to bottom, the first that fits counts. Texts are matched by the words that have been
# stable over versions.
ERRORS: tuple[Rule, ...] = (
    Rule(
        (),
        r"exceeds? the available context size|exceed_context_size|longer than the context length|input length exceeds",
        errors.ContextExceeded,
        "shorten the text, or ask for a larger window: %env URISK_NUM_CTX=8192",
    ),
    Rule(
        (), r"requires more system memory|requires .* are available", errors.ModelTooLarge, _SMALLER
    ),
    Rule((), r"out.of.memory|failed to allocate|cudaMalloc", errors.OutOfMemory, _SMALLER),
    Rule(
        (),
        r"cloud is disabled|remote model",
        errors.CloudModelBlocked,
        "use a model that runs on this machine: %env OLLAMA_MODEL=llama3.1",
    ),
    Rule(
        (),
        r"pull model manifest: file does not exist",
        errors.ModelNotFound,
        "check the name at ollama.com/library: %env OLLAMA_MODEL=llama3.1",
    ),
    Rule(
        (),
        r"pull model manifest: 412|newer version of ollama|path or modelfile are required",
        errors.ServerTooOld,
        "update Ollama (ollama.com/download), then try again",
    ),
    Rule(
        (),
        NO_ADAPTERS,
        errors.ModelUnsuitable,
        "make the judge of a whole model file, as `urisk install-judge` does, or use the embedded "
        "engine, which has it by itself",
    ),
    Rule(
        (400,),
        r"digest mismatch, expected",
        errors.BadRequest,
        "try again; if it stays, install urisk-nb again",
    ),
    Rule(
        (),
        r"no space left|disk quota",
        errors.DiskFull,
        "free some space, or keep models elsewhere (OLLAMA_MODELS), then run %urisk_start again: "
        "what has arrived is kept",
    ),
    Rule(
        (),
        r"pull model manifest|max retries exceeded|digest mismatch|unauthorized: access denied|insecure protocol",
        errors.PullFailed,
        "check network and disk, then run %urisk_start again: what has arrived is kept",
    ),
    Rule(
        (),
        r"requires MLX|may be incompatible with your version",
        errors.ModelUnsuitable,
        "update Ollama, or use another model",
    ),
    Rule(
        (),
        r"does not support|image generation models|without? model capability",
        errors.ModelUnsuitable,
        "use an instruct model: %env OLLAMA_MODEL=llama3.1",
    ),
    Rule(
        (400, 500),
        r"invalid model name|model is required|name \".*\" is invalid|use either :local or :cloud",
        errors.ModelNameInvalid,
        "use a name such as llama3.1:latest",
    ),
    Rule(
        (404,),
        r"model .* not found",
        errors.ModelNotFound,
        "ollama pull MODEL, or run %urisk_start, which pulls it",
    ),
    Rule((503, 429), r"", errors.ServerBusy, "wait, or ask less at once: %env URISK_PARALLEL=1"),
    Rule(
        (),
        r"llama-server binary not found|error starting llama-server",
        errors.ServerInternalError,
        "reinstall Ollama: its runner is missing",
    ),
    Rule(
        (),
        r"process has terminated|unexpectedly stopped|no longer running|error was encountered while running the model|runner process",
        errors.RunnerCrashed,
        "ask again: the server loads the model anew; if it goes on, use a smaller model",
    ),
    Rule(
        (),
        r"timed out waiting for llama-server",
        errors.ServerTimeout,
        "give it longer: %env OLLAMA_LOAD_TIMEOUT=15m before Ollama is started",
    ),
    Rule((499,), r"", errors.ServerConnectionLost, "ask again"),
    Rule(
        (401,),
        r"",
        errors.CloudModelBlocked,
        "use a model that runs on this machine: %env OLLAMA_MODEL=llama3.1",
    ),
    Rule(
        (403,),
        r"",
        errors.BadRequest,
        "reach the server under its own name or as http://127.0.0.1:11434",
    ),
    Rule(
        (404, 405),
        r"page not found|method not allowed",
        errors.ProtocolError,
        "check that OLLAMA_URL is an Ollama server of version 0.5 or later",
    ),
    Rule(
        (400, 404, 405, 409, 413, 422),
        r"",
        errors.BadRequest,
        "check the request; the server's words say what it does not accept",
    ),
    # The server answers 500 to some requests that are the caller's own mistake.
    Rule(
        (500,),
        r"^option \"|^invalid format",
        errors.BadRequest,
        "check options and format of the call",
    ),
    Rule((502,), r"", errors.ServerConnectionLost, "ask again"),
    Rule((), r"", errors.ServerInternalError, "ask again; if it goes on, look at the server's log"),
)


def text_of_error(body: str) -> str:
    """
    The server's words from a body: the `error` of its JSON, decoded once more where it is the
    runner's JSON as a string.
    """
    text = body.strip()
    for _ in range(2):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            break
        error = content.get("error") if isinstance(content, dict) else None
        if isinstance(error, dict):
            error = error.get("message")
        if not isinstance(error, str):
            break
        text = error.strip()
    return text


def error_of(status: int | None, body: str) -> UriskError:
    """
    The error that a refusal means.

    Parameters
    ----------
    status
        HTTP status; None for an error line in a stream, whose status was 200.
    body
        The reply's body, or the line's text.
    """
    text = text_of_error(body)
    rule = rule_of(status, text)
    said = text[:300] or "nothing"
    where = "in its stream" if status is None else f"with HTTP {status}"
    return rule.error(
        f"the server answered {where}: {said}", fix=rule.fix, status=status, said=text
    )


def rule_of(status: int | None, text: str) -> Rule:
    """The first rule that fits; the last one fits all."""
    return next(
        rule
        for rule in ERRORS
        if (not rule.statuses or status in rule.statuses)
        and re.search(rule.pattern, text, re.IGNORECASE)
    )
