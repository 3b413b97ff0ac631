"""What a dialect is: one record of functions, and what its kind of server can do."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from urisk_nb import errors
from urisk_nb.llm.messages import ChatRequest, Chunk, Final, Model, Think, TokenLogprob
from urisk_nb.terminal_text import visible

MAX_WORDS_CHARS = 300
MAX_ROUNDING = 1e-3  # by which a probability may exceed 1, and its logarithm 0
PAGE = re.compile(r"<\s*(!doctype|html|head|body|title)\b", re.IGNORECASE)
TITLE = re.compile(r"<title\b[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)

__all__ = [
    "BUSY",
    "BUSY_STATUSES",
    "CONNECTION_LOST",
    "INTERNAL_ERROR",
    "MAX_ROUNDING",
    "REFUSED_STATUSES",
    "Dialect",
    "ErrorRule",
    "Feature",
    "ReplyDecoder",
    "clean_name",
    "clean_words",
    "decode_logprobs",
    "dump_json",
    "extract_error_text",
    "find_rule",
    "list_objects",
    "parse_object",
    "read_count",
    "read_number",
    "to_error",
]


class Feature(StrEnum):
    """What a server can do beyond chat and a list of its models."""

    PULL = "pull"  # downloads a model by name
    CREATE = "create"  # makes a model of files
    LOAD = "load"  # loads a model on request, with a window of the caller's choice
    UNLOAD = "unload"  # puts a model out of memory on request
    KEEP_ALIVE = "keep_alive"  # keeps a model loaded for as long as the request says
    LOADED_MODELS = "loaded_models"  # lists the models in its memory
    CAPABILITIES = "capabilities"  # reports what a model can do
    QUEUE_TIME = "queue_time"  # reports how long a request waited for a slot
    PHASES = "phases"  # reports the times of prompt and answer separately
    GRAMMAR = "grammar"  # takes a grammar and a prompt as it is: constrained decoding
    SLOTS = "slots"  # reports how many calls it answers at once, and its window


class ReplyDecoder(Protocol):
    """Turns the bytes of one streamed reply into records; used once."""

    def feed(self, data: bytes) -> Iterator[Chunk | Final]:
        """Yield what is complete with this data, which may be cut anywhere."""

    def finish(self) -> Iterator[Chunk | Final]:
        """Yield what the end of the body completes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    How one kind of server is spoken to.

    Attributes
    ----------
    name
        As a person writes it: `ollama`, `openai` or `llama.cpp`.
    features
        What such a server can do.
    chat_path, models_path
        Where chats go, and where the list of models is.
    encode_chat
        The body of a streamed chat. Raises InputError for an option that the server does not take.
    open_decoder
        A decoder for one reply.
    decode_models
        The body of the list as records.
    decode_error
        HTTP status (None: inside a stream) and the text of a refusal as an error of this package.
    headers
        Sent with every request.
    think_settings
        What a chat can say of thinking, in the order in which it is tried where a model ignores the
        schema of its answer; the first is what every chat says.
    """

    name: str
    features: frozenset[Feature]
    chat_path: str
    models_path: str
    encode_chat: Callable[[ChatRequest], bytes]
    open_decoder: Callable[[], ReplyDecoder]
    decode_models: Callable[[Any], list[Model]]
    decode_error: Callable[[int | None, str], errors.UriskError]
    headers: Mapping[str, str] = field(default_factory=dict)
    think_settings: tuple[Think, ...] = (Think.UNSET,)

    def can(self, feature: Feature) -> bool:
        """Return whether such a server can do this."""
        return feature in self.features


# JSON ---------------------------------------------------------------------------------------------


def dump_json(content: Mapping[str, Any]) -> bytes:
    """
    Return compact UTF-8 JSON; keys keep their order.

    Raises
    ------
    InputError
        The content cannot be written as JSON.
    """
    try:
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise errors.InputError(
            f"the request cannot be sent as JSON: {exc}.",
            fix="use plain numbers, text, lists and dicts in options, messages and format",
        ) from exc
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair has no encoding: servers would read the replacement character
        return re.sub(r"[\ud800-\udfff]", "\ufffd", text).encode()


def parse_object(text: bytes | str, fix: str) -> dict[str, Any]:
    """Return a part of a reply that is a JSON object; raise ProtocolError for anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as exc:
        said = _show(text)
        raise errors.ProtocolError(f"the reply is not JSON: {said}.", fix=fix, said=said) from exc
    if not isinstance(content, dict):
        said = _show(text)
        raise errors.ProtocolError(f"the reply is not a JSON object: {said}.", fix=fix, said=said)
    return content


def _show(text: bytes | str) -> str:
    """Return the beginning of what came; of a web page its title alone."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return clean_words(words) if PAGE.search(words) else repr(text[:80])


def read_count(content: Mapping[str, Any], name: str) -> int:
    """Return a positive number as int, or 0: servers leave out counters that are zero."""
    value = read_number(content.get(name))
    return 0 if value is None else max(0, int(value))


def read_number(value: Any) -> float | int | None:
    """Return a finite number as it is, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Not math.isfinite: JSON may have a whole number that is too large for a float
    return value if -sys.float_info.max <= value <= sys.float_info.max else None


def list_objects(content: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; empty where it is not a list."""
    return (
        [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
    )


def decode_logprobs(entries: Any) -> tuple[TokenLogprob, ...]:
    """Return the tokens of a `logprobs` list; what is no token is left out, never an error."""
    tokens = []
    for entry in entries if isinstance(entries, list) else ():
        if (token := _read_logprob(entry)) is not None:
            top = map(_read_logprob, list_objects(entry.get("top_logprobs")))
            known = tuple(other for other in top if other is not None)
            tokens.append(TokenLogprob(text=token[0], logprob=token[1], top_logprobs=known))
    return tuple(tokens)


def _read_logprob(entry: Any) -> tuple[str, float] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    value = read_number(entry.get("logprob"))
    # Rounded, that of a certain token may lie just above 0; further above it is none
    if value is None or value > MAX_ROUNDING:
        return None
    return entry["token"], min(float(value), 0.0)


# Errors -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """
    One kind of refusal.

    Attributes
    ----------
    statuses
        HTTP statuses that it may have; empty: any, also an error inside a stream.
    pattern
        What its text contains (regular expression, case does not count).
    error, fix
        What it means, and what to do.
    meaning
        The beginning of a sentence that says it, where the server's own words are not enough.
    """

    statuses: tuple[int, ...]
    pattern: str
    error: type[errors.UriskError]
    fix: str
    meaning: str = ""


# The same in the tables of several dialects.
BUSY_STATUSES = (429, 503, 529)  # 529: overloaded, as some gateways have it
REFUSED_STATUSES = tuple(range(400, 499))  # where no row before says more; 499 is no refusal
BUSY = ErrorRule(
    BUSY_STATUSES, r"", errors.ServerBusy, "wait, or ask less at once: %env URISK_PARALLEL=1"
)
CONNECTION_LOST = ErrorRule((499, 502), r"", errors.ServerConnectionLost, "ask again")
INTERNAL_ERROR = ErrorRule(
    (), r"", errors.ServerInternalError, "ask again; if it goes on, look at the server's log"
)


def find_rule(rules: Sequence[ErrorRule], status: int | None, text: str) -> ErrorRule:
    """Return the first rule that fits; the last one of a table fits everything."""
    return next(
        rule
        for rule in rules
        if (not rule.statuses or status in rule.statuses)
        and re.search(rule.pattern, text, re.IGNORECASE)
    )


def to_error(rules: Sequence[ErrorRule], status: int | None, body: str) -> errors.UriskError:
    """
    Return the error that a refusal means.

    Parameters
    ----------
    rules
        A table whose last row fits everything.
    status
        HTTP status; None for an error inside a stream, whose status was 200.
    body
        The reply's body, or the text of the error.
    """
    text = extract_error_text(body)
    rule = find_rule(rules, status, text)
    said = clean_words(text)
    where = "an error in its stream" if status is None else f"HTTP {status}"
    what = f": {said}" if said else ", without a reason."
    who = f"{rule.meaning}: it" if rule.meaning else "the server"
    return rule.error(f"{who} answered with {where}{what}", fix=rule.fix, status=status, said=said)


def clean_words(text: str) -> str:
    r"""
    Return a server's words as one line that is safe in a terminal and fits an error message.

    A web page becomes its title, and a long text is cut.

    Examples
    --------
    >>> clean_words("<html><head><title>502 Bad Gateway</title></head><body>...</body></html>")
    '502 Bad Gateway'
    >>> clean_words("crashed\n\x1b[31m")
    'crashed ⟨U+001B⟩[31m'
    """
    if page := PAGE.search(text):
        title = TITLE.search(text)
        text = f"{text[: page.start()]} {html.unescape(title[1]) if title else 'a web page'}"
    words = clean_name(" ".join(text.split()))
    return words if len(words) <= MAX_WORDS_CHARS else f"{words[: MAX_WORDS_CHARS - 3]}..."


def clean_name(name: str) -> str:
    """Return a name or a version from a server, with characters that do not print spelled out."""
    return visible(name, keep="")


def extract_error_text(body: str) -> str:
    """
    Return the server's own words from the body of a refusal, or the body as it is.

    Ollama writes `{"error": text}`, sometimes with its runner's JSON inside the text; others write
    `{"error": {"message": text}}`, `{"message": text}` or `{"detail": text}`.
    """
    text = body.strip()
    for _ in range(2):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(content, dict):
            break
        error = content.get("error")
        if isinstance(error, dict):
            error = error.get("message")
        if error is None:
            error = content.get("message") or content.get("detail")
        if not isinstance(error, str):
            break
        text = error.strip()
    return text
