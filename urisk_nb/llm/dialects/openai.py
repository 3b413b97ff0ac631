"""
OpenAI-compatible servers: chat completions with server-sent events, and the model list.

llama.cpp's own server, vLLM, LM Studio and others speak this wire, each with words of its own
beyond it. `DIALECT` uses only what they share; `LLAMA_CPP` adds what llama.cpp's server offers.
Over 400 lines, a quarter of them the table of errors: it is data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from urisk_nb import errors
from urisk_nb.llm.dialects.dialect import (
    BUSY_STATUSES,
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
    read_number,
    to_error,
)
from urisk_nb.llm.messages import (
    ChatRequest,
    Chunk,
    Final,
    Model,
    ServerProps,
    Think,
    TokenLogprob,
)

__all__ = [
    "DIALECT",
    "LLAMA_CPP",
    "RULES",
    "ChatDecoder",
    "EventLines",
    "decode_error",
    "decode_models",
    "decode_props",
    "decode_token",
    "encode_chat",
    "encode_llama_cpp_chat",
    "encode_token",
    "is_llama_cpp",
    "is_model_list",
    "read_owner",
]

MAX_EVENT_BYTES = 32 * 1024 * 1024
MAX_TOP_LOGPROBS = 20
NOT_OPENAI = (
    "check that OLLAMA_URL is an OpenAI-compatible server, or name the wire: "
    "%env URISK_DIALECT=ollama"
)

# Ollama's name of an option -> the name on this wire.
SHARED_OPTIONS = {
    "frequency_penalty": "frequency_penalty",
    "num_predict": "max_tokens",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "stop": "stop",
    "temperature": "temperature",
    "top_p": "top_p",
}
LLAMA_CPP_OPTIONS = SHARED_OPTIONS | {
    "min_p": "min_p",
    "repeat_last_n": "repeat_last_n",
    "repeat_penalty": "repeat_penalty",
    "top_k": "top_k",
    "typical_p": "typical_p",
}


# Requests -----------------------------------------------------------------------------------------


def encode_chat(request: ChatRequest) -> bytes:
    """Return the bytes of a streamed chat in the words that all these servers share."""
    return dump_json(_build_chat(request, SHARED_OPTIONS))


def _build_chat(request: ChatRequest, names: Mapping[str, str]) -> dict[str, Any]:
    """
    Return the body of a streamed chat.

    The server fixes its context window and keeps its model by itself, so `num_ctx` and
    `keep_alive` are not sent; the session says so when it connects.

    Parameters
    ----------
    request
        The chat.
    names
        Options that the server knows: Ollama's name to its own.

    Raises
    ------
    InputError
        The request has an option that this server does not take.
    """
    body: dict[str, Any] = {
        "model": request.model,
        "messages": list(request.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        **_translate_options(request.options, names),
    }
    if request.schema is not None:
        # A plain {"type": "json_object"} is not enforced by llama.cpp; a schema is, everywhere.
        schema = {"type": "object"} if request.schema == "json" else request.schema
        wrapped = {"name": "answer", "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": wrapped}
    if request.logprobs:
        body["logprobs"] = True
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.think not in (None, Think.UNSET):
        # vLLM, SGLang and llama.cpp hand it to the model's template.
        body["chat_template_kwargs"] = {"enable_thinking": request.think is Think.ON}
    return body


def _translate_options(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    unknown = sorted(name for name in options if name not in names and name != "num_ctx")
    if unknown:
        raise errors.InputError(
            f"this server does not take the option {unknown[0]!r}.",
            fix=f"leave it out; the server knows {', '.join(sorted(names))}",
        )
    found = {names[name]: value for name, value in options.items() if name != "num_ctx"}
    limit = found.get("max_tokens")
    if isinstance(limit, int) and limit < 0:
        del found["max_tokens"]  # Ollama's "no limit" is this wire's default
    return found


def encode_llama_cpp_chat(request: ChatRequest) -> bytes:
    """Return the bytes of a streamed chat for llama.cpp's own server, which knows more words."""
    return dump_json(_build_llama_cpp_chat(request))


def _build_llama_cpp_chat(request: ChatRequest) -> dict[str, Any]:
    body = _build_chat(request, LLAMA_CPP_OPTIONS)
    # A thinking model thinks unless told otherwise, and its thoughts are held to no schema.
    if request.think is None:
        body["chat_template_kwargs"] = {"enable_thinking": False}
    if request.adapter_off is not None:
        body["lora"] = [{"id": request.adapter_off, "scale": 0.0}]
    return body


def encode_token(request: ChatRequest, *, prefill: str, grammar: str) -> bytes:
    """
    Return the bytes that ask llama.cpp for the one token that follows the beginning of an answer.

    Not streamed: each event wakes two programs, and there is only one token.

    Parameters
    ----------
    request
        The chat; its schema does not count.
    prefill
        The answer so far.
    grammar
        What the token may begin.
    """
    body = _build_llama_cpp_chat(replace(request, schema=None, top_logprobs=MAX_TOP_LOGPROBS))
    del body["stream_options"]
    body["messages"].append({"role": "assistant", "content": prefill})
    return dump_json({**body, "stream": False, "max_tokens": 1, "grammar": grammar})


def decode_token(content: Any) -> tuple[TokenLogprob, Final]:
    """
    Return the token of such a reply, and its counters.

    Raises
    ------
    ProtocolError
        The reply has no token.
    """
    decoder = ChatDecoder()
    items = [*decoder.feed(json.dumps(content).encode()), *decoder.finish()]
    tokens = [token for item in items for token in item.logprobs]
    if len(tokens) != 1 or not isinstance(items[-1], Final):
        seen = f"the reply has {len(tokens)} tokens with log-probabilities, not one."
        raise errors.ProtocolError(
            seen, fix="update llama.cpp; log-probabilities are part of its chat"
        )
    return tokens[0], items[-1]


# Replies ------------------------------------------------------------------------------------------


class EventLines:
    """
    Splits a stream of server-sent events into their data, wherever its bytes are cut.

    Lines end in LF, CRLF or CR. Comments, which keep a connection open, and other fields are passed
    over. An event's data lines are joined; an event ends at an empty line.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the data of the events that are complete with these bytes."""
        self._rest += chunk
        if b"\n" not in chunk and b"\r" not in chunk:
            if len(self._rest) > MAX_EVENT_BYTES:
                raise errors.ProtocolError(
                    f"an event of the reply is longer than {MAX_EVENT_BYTES >> 20} MiB.",
                    fix=NOT_OPENAI,
                )
            return
        # A CR at the very end may be half of a CRLF: it waits for the next bytes.
        end = len(self._rest) - self._rest.endswith(b"\r")
        text, rest = bytes(self._rest[:end]), self._rest[end:]
        *lines, last = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = bytearray(last) + rest
        for line in lines:
            yield from self._take(line)

    def finish(self) -> Iterator[str]:
        """Yield the last event where no empty line follows it."""
        rest, self._rest = bytes(self._rest).strip(b"\r"), bytearray()
        if rest:
            yield from self._take(rest)
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[str]:
        if not line:
            if self._data:
                yield "\n".join(self._data)
                self._data.clear()
            return
        name, _, value = line.partition(b":")
        if name in (b"data", b"error"):  # `error:` is an event of older llama.cpp servers
            text = value.removeprefix(b" ").decode("utf-8", "replace")
            self._data.append(f'{{"error":{text}}}' if name == b"error" else text)


class ChatDecoder:
    """
    Turns the bytes of a reply into chunks and its end; a server that does not stream is read, too.

    The end is known at `finish_reason`, but counters follow in later events, so `Final` comes at
    `[DONE]`, or at the end of a body that has no `[DONE]`.
    """

    def __init__(self) -> None:
        self._events = EventLines()
        self._body = bytearray()
        self._is_stream: bool | None = None  # None: nothing but white space has come
        self._reason = ""
        self._usage: Mapping[str, Any] = {}
        self._timings: Mapping[str, Any] = {}
        self._is_done = False

    def feed(self, data: bytes) -> Iterator[Chunk | Final]:
        """Yield what is complete with this data."""
        if self._is_stream is None and (begin := data.lstrip()[:1]):
            if begin == b"<":
                said = clean_words(data.decode("utf-8", "replace"))
                raise errors.ProtocolError(
                    f"the reply is a web page: {said}.", fix=NOT_OPENAI, said=said
                )
            self._is_stream = begin != b"{"
        if not self._is_stream:
            self._body += data
            if len(self._body) > MAX_EVENT_BYTES:
                raise errors.ProtocolError(
                    f"the reply is longer than {MAX_EVENT_BYTES >> 20} MiB.", fix=NOT_OPENAI
                )
            return
        for text in self._events.feed(data):
            yield from self._take(text)

    def finish(self) -> Iterator[Chunk | Final]:
        """Yield what the end of the body completes; nothing where the answer was cut short."""
        if not self._is_stream:
            if self._body.strip():
                yield from self._read(
                    parse_object(self._body.decode("utf-8", "replace"), NOT_OPENAI)
                )
        else:
            for text in self._events.finish():
                yield from self._take(text)
        if self._reason and not self._is_done:
            yield self._close()

    def _take(self, text: str) -> Iterator[Chunk | Final]:
        if self._is_done:
            return
        if text.strip() == "[DONE]":
            yield self._close()
        else:
            yield from self._read(parse_object(text, NOT_OPENAI))

    def _read(self, event: Mapping[str, Any]) -> Iterator[Chunk]:
        if event.get("error") or event.get("object") == "error":
            raise decode_error(None, json.dumps(event))
        if isinstance(usage := event.get("usage"), dict):
            self._usage = usage
        if isinstance(timings := event.get("timings"), dict):
            self._timings = timings
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        self._reason = str(choice.get("finish_reason") or self._reason)
        message = choice.get("delta") or choice.get("message")
        message = message if isinstance(message, dict) else {}
        logprobs = choice.get("logprobs")
        chunk = Chunk(
            text=_read_text(message.get("content")),
            # vLLM calls it `reasoning` from 0.12 on; the others `reasoning_content`.
            thinking=_read_text(message.get("reasoning_content") or message.get("reasoning")),
            logprobs=decode_logprobs(
                logprobs.get("content") if isinstance(logprobs, dict) else None
            ),
        )
        if chunk.text or chunk.thinking or chunk.logprobs:
            yield chunk

    def _close(self) -> Final:
        self._is_done = True
        usage, timings = self._usage, self._timings
        known = usage.get("prompt_tokens_details")
        cached = read_count(known if isinstance(known, dict) else {}, "cached_tokens")
        whole = read_count(usage, "prompt_tokens")
        # The cached ones are part of the count. Where they are more than it, they stand apart.
        whole += cached if cached > whole else 0
        read = read_count(timings, "prompt_n") + read_count(timings, "cache_n")
        return Final(
            done_reason=clean_words(self._reason),
            prompt_tokens=max(whole, read),
            prompt_ns=_read_ms(timings, "prompt_ms"),
            tokens=read_count(usage, "completion_tokens") or read_count(timings, "predicted_n"),
            generation_ns=_read_ms(timings, "predicted_ms"),
        )


def _read_text(content: Any) -> str:
    """Return the text of a message; some servers give it in parts."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _read_ms(timings: Mapping[str, Any], name: str) -> int:
    value = read_number(timings.get(name))
    return 0 if value is None else max(0, round(value * 1e6))


# Models and facts ---------------------------------------------------------------------------------


def decode_models(content: Any) -> list[Model]:
    """
    Return the reply of `/v1/models` as records, in the server's order.

    A llama.cpp server without an alias names its model by the path of its file, which is the
    machine's own business: the last part is the name, the whole stays known as an alias.
    """
    return [_read_model(entry) for entry in _list_entries(content)]


def _list_entries(content: Any) -> list[dict[str, Any]]:
    entries = content.get("data") if isinstance(content, dict) else None
    return list_objects(entries)


def _read_model(entry: Mapping[str, Any]) -> Model:
    listed = clean_name(str(entry.get("id") or ""))
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    is_file = entry.get("owned_by") == "llamacpp" and ("/" in listed or "\\" in listed)
    name = _file_name(listed) if is_file else listed
    others = entry.get("aliases")
    aliases = [
        clean_name(alias)
        for alias in (others if isinstance(others, list) else ())
        if isinstance(alias, str)
    ]
    return Model(
        name=name,
        size_bytes=read_count(meta, "size"),
        aliases=tuple(dict.fromkeys(alias for alias in (listed, *aliases) if alias != name)),
        num_ctx=read_count(meta, "n_ctx") or read_count(entry, "max_model_len"),
    )


def is_model_list(content: Any) -> bool:
    """Return whether a reply is a list of models, be it empty."""
    return isinstance(content, dict) and isinstance(content.get("data"), list)


def read_owner(content: Any) -> str:
    """
    Return who serves the models, such as `vllm`, from the reply of `/v1/models`; empty: unknown.
    """
    owners = (entry.get("owned_by") for entry in _list_entries(content))
    return clean_words(next((owner for owner in owners if isinstance(owner, str)), ""))


def is_llama_cpp(headers: Mapping[str, str], content: Any = None) -> bool:
    """Return whether a reply is from llama.cpp: by its header, or by its list of models."""
    is_named = headers.get("server", "").lower().startswith("llama.cpp")
    return is_named or any(e.get("owned_by") == "llamacpp" for e in _list_entries(content))


def decode_props(content: Any, adapters: Any = None) -> ServerProps:
    """
    Return llama.cpp's `/props` and `/lora-adapters` as a record; 0 and empty: not reported.
    """
    found = content if isinstance(content, dict) else {}
    defaults = found.get("default_generation_settings")
    build = clean_words(str(found.get("build_info") or ""))
    return ServerProps(
        slots=read_count(found, "total_slots"),
        num_ctx=read_count(defaults if isinstance(defaults, dict) else {}, "n_ctx"),
        build="" if build.endswith("unknown") else build,  # "b0-unknown" names no build
        adapters=tuple(map(_read_adapter, adapters if isinstance(adapters, list) else ())),
    )


def _read_adapter(entry: Any) -> str:
    path = entry.get("path") if isinstance(entry, dict) else None
    return clean_name(_file_name(path)).removesuffix(".gguf") if isinstance(path, str) else ""


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


# Errors -------------------------------------------------------------------------------------------


OTHER_SERVERS = (
    "use another model server: Ollama, llama.cpp's own, or the embedded engine (%urisk_start "
    "--engine embedded --url http://127.0.0.1:11500)"
)
UNKNOWN_FIELD = (
    r"(extra (fields|inputs) (are )?not (permitted|allowed)"
    r"|(unknown|unrecognized|unexpected|unsupported)( \w+){0,2} (argument|param|parameter|field)\b)"
)
# A server that takes schemas, and not this one, says "invalid schema": that is another thing.
NO_SCHEMAS = (
    r"(?s)^(?!.*invalid schema)(?=.*(response_format|json_schema|structured.outputs?))"
    r".*(not? support|n.t support|unsupported|unavailable|not (available|implemented)"
    rf"|{UNKNOWN_FIELD})"
)
# Read from top to bottom, the first that fits counts. Texts are matched by the words that
# llama.cpp, vLLM, LM Studio and OpenAI share.
RULES: tuple[ErrorRule, ...] = (
    ErrorRule(
        (),
        r"exceeds? the available context size|maximum context length|maximum model length"
        r"|longer than the (context|maximum)|context_length_exceeded",
        errors.ContextExceeded,
        "shorten the text, or start the server with a larger window (llama.cpp: -c, vLLM: "
        "--max-model-len)",
    ),
    ErrorRule(
        (),
        r"out.of.memory|failed to allocate|cudaMalloc",
        errors.OutOfMemory,
        "use a smaller model, or start the server with a smaller window",
    ),
    ErrorRule(
        (),
        r"\bmodel\b.*(not exist|not found|not loaded)|no models? (is |are )?loaded|model_not_found",
        errors.ModelNotFound,
        "name a model that this server has: %env OLLAMA_MODEL=NAME",
    ),
    ErrorRule(
        (400, 404, 415, 422, 500, 501),
        NO_SCHEMAS,
        errors.NotSupportedByServer,
        OTHER_SERVERS,
        "this server cannot hold an answer to a JSON schema",
    ),
    ErrorRule(
        (400, 422),
        UNKNOWN_FIELD,
        errors.NotSupportedByServer,
        OTHER_SERVERS,
        "this server does not take all that urisk_nb sends",
    ),
    ErrorRule(
        (501,),
        r"",
        errors.ModelUnsuitable,
        "use another model, or start the server with the option that its words name",
    ),
    ErrorRule(
        (),
        r"JSON schema|response_format|grammar|json_schema",
        errors.BadRequest,
        "check the schema of the call; the server's words say what it does not accept",
    ),
    ErrorRule(
        BUSY_STATUSES,
        r"",
        errors.ServerBusy,
        "wait: the server loads its model or its queue is full; or ask less at once: %env "
        "URISK_PARALLEL=1",
    ),
    ErrorRule(
        (401, 403),
        r"",
        errors.BadRequest,
        "check the key: OLLAMA_API_KEY in .env, then %urisk_start",
    ),
    ErrorRule(
        (404, 405),
        r"",
        errors.ProtocolError,
        "check the address and its path: OLLAMA_URL=http://127.0.0.1:8080 or "
        "http://127.0.0.1:8000/v1",
    ),
    ErrorRule(
        REFUSED_STATUSES,
        r"",
        errors.BadRequest,
        "check the request; the server's words say what it does not accept",
    ),
    CONNECTION_LOST,
    ErrorRule(
        (504,),
        r"",
        errors.ServerTimeout,
        "ask again, or give the proxy before the server more time",
    ),
    INTERNAL_ERROR,
)


def decode_error(status: int | None, body: str) -> errors.UriskError:
    """Return the error that a refusal means; `status` is None for an error inside a stream."""
    return to_error(RULES, status, body)


DIALECT = Dialect(
    name="openai",
    features=frozenset(),
    chat_path="/v1/chat/completions",
    models_path="/v1/models",
    encode_chat=encode_chat,
    open_decoder=ChatDecoder,
    decode_models=decode_models,
    decode_error=decode_error,
    think_settings=(Think.UNSET, Think.OFF),
)
LLAMA_CPP = replace(
    DIALECT,
    name="llama.cpp",
    features=frozenset({Feature.PHASES, Feature.GRAMMAR, Feature.SLOTS}),
    encode_chat=encode_llama_cpp_chat,
    # The server closes a connection after a streamed reply without a word: none is used twice.
    headers={"Connection": "close"},
    think_settings=(Think.OFF, Think.UNSET),
)
