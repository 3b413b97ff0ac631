"""
Native Ollama: `/api/chat` and its neighbours, replies as JSON lines.

Requests are put together key by key and never sorted: one of the server's two paths keeps a
schema's order, and the bytes of a question are hashed and compared elsewhere. Replies are read
leniently: the server leaves out counters that are zero, and fields come and go between its
versions. Over 400 lines, a third of them the table of errors: it is data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from urisk_nb import errors
from urisk_nb.llm.dialects.dialect import (
    BUSY,
    CONNECTION_LOST,
    INTERNAL_ERROR,
    REFUSED_STATUSES,
    Dialect,
    ErrorRule,
    Feature,
    clean_name,
    clean_words,
    decode_logprobs,
    dump_json,
    list_objects,
    parse_object,
    read_count,
    to_error,
)
from urisk_nb.llm.messages import (
    ChatRequest,
    Chunk,
    Final,
    LoadedModel,
    Model,
    ModelCard,
    PullProgress,
    Think,
)

__all__ = [
    "DIALECT",
    "RULES",
    "JsonLines",
    "decode_card",
    "decode_chat",
    "decode_error",
    "decode_loaded_models",
    "decode_models",
    "decode_progress",
    "encode_chat",
    "encode_create",
    "encode_letter",
    "encode_load",
    "encode_pull",
    "encode_show",
    "is_cloud_model",
]

T = TypeVar("T")
MAX_LINE_BYTES = 32 * 1024 * 1024  # the longest known lines carry a token history of some megabytes
MAX_TOP_LOGPROBS = 20
THINK_FIELDS: dict[Think, dict[str, bool]] = {
    Think.OFF: {"think": False},
    Think.UNSET: {},
    Think.ON: {"think": True},
}
NOT_OLLAMA = "check that OLLAMA_URL is an Ollama server"


# Requests -----------------------------------------------------------------------------------------


def encode_chat(request: ChatRequest) -> bytes:
    """Return the bytes of a streamed chat; each has `num_ctx`: another value reloads the model."""
    # truncate false: a prompt that is too long is an error, not silently cut in the middle.
    # think false: a thinking model thinks unless told otherwise, and then ignores its schema. Some
    # ignore it with think false: `LabelReader` finds out.
    body: dict[str, Any] = {
        "model": request.model,
        "stream": True,
        "keep_alive": request.keep_alive,
        **THINK_FIELDS[request.think or Think.OFF],
        "truncate": False,
    }
    # The order of a question's canonical JSON, so that its bytes are the same on both ways in.
    rest = {
        "format": request.schema,
        "logprobs": request.logprobs,
        "messages": list(request.messages),
        "options": {**request.options, "num_ctx": request.num_ctx},
        "top_logprobs": request.top_logprobs,
    }
    return dump_json(body | {name: value for name, value in rest.items() if value is not None})


def encode_letter(request: ChatRequest, prompt: str) -> bytes:
    """
    Return the bytes that ask for the one token after a prompt that is sent as it is.

    The token is the most probable; with it come the twenty most probable ones. Not streamed.
    """
    return dump_json(
        {
            "model": request.model,
            "prompt": prompt,
            "raw": True,
            "stream": False,
            "keep_alive": request.keep_alive,
            "truncate": False,
            "logprobs": True,
            "top_logprobs": MAX_TOP_LOGPROBS,
            "options": {"num_predict": 1, "temperature": 0, "num_ctx": request.num_ctx},
        }
    )


def encode_load(*, model: str, keep_alive: str | float, num_ctx: int) -> bytes:
    """Return the bytes that load a model as later calls want it; with keep_alive 0, unload it."""
    return dump_json(
        {"model": model, "messages": [], "keep_alive": keep_alive, "options": {"num_ctx": num_ctx}}
    )


def encode_pull(model: str) -> bytes:
    """Return the bytes that download a model."""
    return dump_json({"model": model, "stream": True})


def encode_show(model: str) -> bytes:
    """Return the bytes that ask what a model is."""
    return dump_json({"model": model})


def encode_create(
    model: str,
    *,
    base: str = "",
    adapters: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> bytes:
    """
    Return the bytes that make a model: of another one and an adapter, or of whole model files.

    Both map a file name to the `sha256:...` of a blob that the server has. Empty ones are not sent.
    """
    parts = {"from": base, "adapters": dict(adapters or {}), "files": dict(files or {})}
    given = {name: part for name, part in parts.items() if part}
    return dump_json({"model": model, **given, "stream": True})


# Replies ------------------------------------------------------------------------------------------


class JsonLines(Generic[T]):
    """
    Splits a stream into JSON objects, one a line, wherever its bytes are cut.

    Parameters
    ----------
    decode
        Turns an object into what is yielded.
    """

    def __init__(self, decode: Callable[[dict[str, Any]], T]) -> None:
        self._decode = decode
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """Yield what is complete with this data."""
        self._rest += data
        lines: list[bytes] = []
        if b"\n" in data:  # only then: splitting a long line at each of its pieces costs its square
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if len(self._rest) > MAX_LINE_BYTES:
            raise errors.ProtocolError(
                f"a line of the reply is longer than {MAX_LINE_BYTES >> 20} MiB.", fix=NOT_OLLAMA
            )
        for line in lines:
            if line.strip():
                yield self._decode(parse_object(line, NOT_OLLAMA))

    def finish(self) -> Iterator[T]:
        """Yield the last object where no line end follows it; half an object is nothing."""
        rest, self._rest = bytes(self._rest).strip(), bytearray()
        content = None
        with contextlib.suppress(errors.ProtocolError):
            content = parse_object(rest, NOT_OLLAMA)
        if content is not None:
            yield self._decode(content)


def decode_chat(content: Mapping[str, Any]) -> Chunk | Final:
    """Return an object of chat or generate as a record; raise what an error object means."""
    if "error" in content:
        raise decode_error(None, str(content["error"]))
    found = content.get("message")
    message = found if isinstance(found, dict) else {"content": content.get("response")}
    text = str(message.get("content") or "")
    thinking = str(message.get("thinking") or content.get("thinking") or "")
    logprobs = decode_logprobs(content.get("logprobs"))
    if content.get("done") is not True:
        return Chunk(text=text, thinking=thinking, logprobs=logprobs)
    return Final(
        text=text,
        thinking=thinking,
        done_reason=clean_words(str(content.get("done_reason") or "")),
        total_ns=read_count(content, "total_duration"),
        load_ns=read_count(content, "load_duration"),
        prompt_tokens=read_count(content, "prompt_eval_count"),
        prompt_ns=read_count(content, "prompt_eval_duration"),
        tokens=read_count(content, "eval_count"),
        generation_ns=read_count(content, "eval_duration"),
        logprobs=logprobs,
    )


def decode_progress(content: Mapping[str, Any]) -> PullProgress:
    """Return a line of a pull or a create as a record; raise what an error line means."""
    if "error" in content:
        raise decode_error(None, str(content["error"]))
    return PullProgress(
        status=clean_words(str(content.get("status") or "")),
        digest=str(content.get("digest") or ""),
        total=read_count(content, "total"),
        completed=read_count(content, "completed"),
    )


def decode_models(content: Any) -> list[Model]:
    """Return the reply of `/api/tags` as records, in the server's order: the newest first."""
    return [
        Model(
            name=clean_name(str(entry.get("name") or entry.get("model") or "")),
            digest=str(entry.get("digest") or ""),
            size_bytes=read_count(entry, "size"),
            remote=bool(entry.get("remote_host") or entry.get("remote_model")),
        )
        for entry in _list_models(content)
    ]


def decode_loaded_models(content: Any) -> list[LoadedModel]:
    """Return the reply of `/api/ps` as records."""
    return [
        LoadedModel(
            name=clean_name(str(entry.get("name") or "")),
            size_bytes=read_count(entry, "size"),
            gpu_bytes=read_count(entry, "size_vram"),
            num_ctx=read_count(entry, "context_length"),
            expires_at=str(entry.get("expires_at") or ""),
        )
        for entry in _list_models(content)
    ]


def decode_card(content: Any) -> ModelCard:
    """Return the reply of `/api/show` as a record: `completion` and the like, and the header."""
    found = content if isinstance(content, dict) else {}
    names, info = found.get("capabilities"), found.get("model_info")
    return ModelCard(
        capabilities=frozenset(
            name for name in (names if isinstance(names, list) else ()) if isinstance(name, str)
        ),
        info=info if isinstance(info, dict) else {},
    )


def _list_models(content: Any) -> list[dict[str, Any]]:
    models = content.get("models") if isinstance(content, dict) else None
    return list_objects(models)


def is_cloud_model(name: str) -> bool:
    """
    Return whether the server would send the text elsewhere.

    The tag is `cloud` or ends in `-cloud`; `:local` at the end forbids it.
    """
    tag = name.lower().rpartition("/")[2].partition(":")[2]
    return tag.split(":")[-1] == "cloud" or tag.endswith("-cloud")


# Errors -------------------------------------------------------------------------------------------


NO_ADAPTERS = r"adapters? (is|are) (no longer|not) supported"
"""What Ollama says from 0.34.1 on where a model is to be made with one."""
_SMALLER = "use a smaller model, or a smaller context: %env URISK_NUM_CTX=2048"
# Read from top to bottom, the first that fits counts. Texts are matched by the words that have been
# stable over versions.
RULES: tuple[ErrorRule, ...] = (
    ErrorRule(
        (),
        r"exceeds? the available context size|exceed_context_size|longer than the context "
        r"length|input length exceeds",
        errors.ContextExceeded,
        "shorten the text, or ask for a larger window: %env URISK_NUM_CTX=8192",
    ),
    ErrorRule(
        (), r"requires more system memory|requires .* are available", errors.ModelTooLarge, _SMALLER
    ),
    ErrorRule((), r"out.of.memory|failed to allocate|cudaMalloc", errors.OutOfMemory, _SMALLER),
    ErrorRule(
        (),
        r"cloud is disabled|remote model",
        errors.CloudModelBlocked,
        "use a model that runs on this machine: %env OLLAMA_MODEL=llama3.1",
    ),
    ErrorRule(
        (),
        r"pull model manifest: file does not exist",
        errors.ModelNotFound,
        "check the name at ollama.com/library: %env OLLAMA_MODEL=llama3.1",
    ),
    ErrorRule(
        (),
        r"pull model manifest: 412|newer version of ollama|path or modelfile are required",
        errors.ServerTooOld,
        "update Ollama (ollama.com/download), then try again",
    ),
    ErrorRule(
        (),
        NO_ADAPTERS,
        errors.ModelUnsuitable,
        "make the judge of a whole model file, as `urisk install-judge` does, or use the embedded "
        "engine, which has it by itself",
    ),
    ErrorRule(
        (400,),
        r"digest mismatch, expected",
        errors.BadRequest,
        "try again; if it stays, install urisk-nb again",
    ),
    ErrorRule(
        (),
        r"no space left|disk quota",
        errors.DiskFull,
        "free some space, or keep models elsewhere (OLLAMA_MODELS), then run %urisk_start again: "
        "what has arrived is kept",
    ),
    ErrorRule(
        (),
        r"pull model manifest|max retries exceeded|digest mismatch|unauthorized: access "
        r"denied|insecure protocol",
        errors.PullFailed,
        "check network and disk, then run %urisk_start again: what has arrived is kept",
    ),
    ErrorRule(
        (),
        r"requires MLX|may be incompatible with your version",
        errors.ModelUnsuitable,
        "update Ollama, or use another model",
    ),
    ErrorRule(
        (),
        r"does not support|image generation models|without? model capability",
        errors.ModelUnsuitable,
        "use an instruct model: %env OLLAMA_MODEL=llama3.1",
    ),
    ErrorRule(
        (400, 500),
        r"invalid model name|model is required|name \".*\" is invalid|use either :local or :cloud",
        errors.ModelNameInvalid,
        "use a name such as llama3.1:latest",
    ),
    ErrorRule(
        (404,),
        r"model .* not found",
        errors.ModelNotFound,
        "ollama pull MODEL, or run %urisk_start, which pulls it",
    ),
    BUSY,
    ErrorRule(
        (),
        r"llama-server binary not found|error starting llama-server",
        errors.ServerInternalError,
        "reinstall Ollama: its runner is missing",
    ),
    ErrorRule(
        (),
        r"process has terminated|unexpectedly stopped|no longer running|error was encountered "
        r"while running the model|runner process",
        errors.RunnerCrashed,
        "ask again: the server loads the model again; if it fails again, use a smaller model",
    ),
    ErrorRule(
        (),
        r"timed out waiting for llama-server",
        errors.ServerTimeout,
        "give it longer: %env OLLAMA_LOAD_TIMEOUT=15m before Ollama is started",
    ),
    ErrorRule(
        (401,),
        r"",
        errors.CloudModelBlocked,
        "use a model that runs on this machine: %env OLLAMA_MODEL=llama3.1",
    ),
    ErrorRule(
        (403,),
        r"",
        errors.BadRequest,
        "reach the server under its own name or as http://127.0.0.1:11434",
    ),
    ErrorRule(
        (404, 405),
        r"page not found|method not allowed",
        errors.ProtocolError,
        "check that OLLAMA_URL is an Ollama server of version 0.5 or later",
    ),
    ErrorRule(
        REFUSED_STATUSES,
        r"",
        errors.BadRequest,
        "check the request; the server's words say what it does not accept",
    ),
    # The server answers 500 to some requests that are the caller's own mistake.
    ErrorRule(
        (500,),
        r"^option \"|^invalid format",
        errors.BadRequest,
        "check options and format of the call",
    ),
    CONNECTION_LOST,
    INTERNAL_ERROR,
)


def decode_error(status: int | None, body: str) -> errors.UriskError:
    """Return the error that a refusal means; `status` is None for an error line in a stream."""
    return to_error(RULES, status, body)


DIALECT = Dialect(
    name="ollama",
    features=frozenset(
        {
            Feature.PULL,
            Feature.CREATE,
            Feature.LOAD,
            Feature.UNLOAD,
            Feature.KEEP_ALIVE,
            Feature.LOADED_MODELS,
            Feature.CAPABILITIES,
            Feature.QUEUE_TIME,
            Feature.PHASES,
        }
    ),
    chat_path="/api/chat",
    models_path="/api/tags",
    encode_chat=encode_chat,
    open_decoder=partial(JsonLines, decode_chat),
    decode_models=decode_models,
    decode_error=decode_error,
    think_settings=(Think.OFF, Think.UNSET, Think.ON),
)
