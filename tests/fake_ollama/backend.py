"""What stands behind the HTTP app: the protocol that a backend fulfils, and the records that pass
between the two.

Knows: models, questions, chunks of an answer.
Does not know: HTTP, JSON bodies, who asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model as `/api/tags` and `/api/show` describe it."""

    name: str  # with its tag
    size_bytes: int
    digest: str  # 64 hex digits
    modified_ns: int
    context_length: int  # tokens the model was trained for
    embedding_length: int = 0
    family: str = "llama"
    parameter_size: str = ""
    quantization: str = ""
    capabilities: tuple[str, ...] = ("completion",)
    template: str = ""
    license: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)  # /api/show's model_info
    native: bool = True  # answers on the path where llama.cpp, not Ollama, renders the prompt
    installed: bool = True  # False: it takes a pull before it can be used
    remote_host: str = ""  # not empty: a stub of a model that runs elsewhere
    base: str = ""  # not empty: made here of this model


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One question, already checked by the app."""

    model: Model
    endpoint: str  # "chat" or "generate"
    # Role and content; a generate prompt is one user message
    messages: tuple[Mapping[str, Any], ...]
    raw: str | None = None  # a prompt that must not be put into a template
    format: Any = None  # None, "json", or a JSON schema
    options: Mapping[str, Any] = field(default_factory=dict)  # complete: the defaults are filled in
    num_ctx: int = 4096
    top_logprobs: int | None = None  # None: no log-probabilities
    truncate: bool = True
    think: bool | str | None = None  # None: as the model's template has it

    @property
    def last(self) -> str:
        """The last user message, or the raw prompt."""
        if self.raw is not None:
            return self.raw
        return next((str(m["content"]) for m in reversed(self.messages) if m["role"] == "user"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A fragment of an answer, usually one token."""

    text: str
    thinking: str = ""  # a fragment of the reasoning before the answer
    logprobs: tuple[Mapping[str, Any], ...] = ()  # token, logprob, bytes, top_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The end of an answer. A backend that ends without one makes an answer without `done`."""

    reason: str  # "stop" or "length"
    prompt_new: int  # tokens of the prompt that were computed
    prompt_cached: int = 0  # tokens of the prompt that were still known
    prompt_ns: int = 0
    answered: int = 0  # tokens written
    answer_ns: int = 0
    context: tuple[int, ...] = ()  # generate only: token ids of the whole history; empty = left out


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFault:
    """A fault of the wire, on purpose. Only the scripted backend sends it.

    `raw` is written as one chunk as it is; `split_bytes` cuts every later chunk into parts of that
    size; `abort` cuts the connection;
    `wedge` lets the whole server answer nothing any more; `crash` ends it.
    """

    raw: bytes = b""
    split_bytes: int = 0
    abort: bool = False
    wedge: bool = False
    crash: bool = False


class Refusal(Exception):
    """The backend does not answer: a status before the first piece, an error line after it.

    Parameters
    ----------
    status
        HTTP status.
    text
        What stands in `{"error": ...}`.
    body
        Sent instead of the JSON object, byte for byte (an HTML page of a proxy, say).
    kind
        Content-Type of `body`; None for none.
    """

    def __init__(
        self, status: int, text: str = "", *, body: bytes | None = None, kind: str | None = None
    ) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.body = body
        self.kind = kind


class RunnerGone(Refusal):
    """
    What computed the answers is dead: this request fails, and the next one loads the model again.
    """


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


@dataclass(slots=True, kw_only=True)
class Hooks:
    """What the process around a app adds to it.

    Parameters
    ----------
    gate
        Nothing is answered while it is not set.
    crash
        Ends the process. None: connections are cut and the listener is closed.
    facts
        More entries for `/urisk/counters`.
    access
        Called after each request: status (499: the client left), ns, method and path.
    """

    gate: asyncio.Event = field(default_factory=_open_gate)
    crash: Callable[[], None] | None = None
    facts: Callable[[], Mapping[str, Any]] = dict
    access: Callable[[int, int, str, str], None] = lambda *_: None

    def down(self, wire: WireFault) -> None:
        """Do what the fault does to the whole server."""
        if wire.wedge:
            self.gate.clear()
        if wire.crash and self.crash:
            self.crash()


class Backend(Protocol):
    """
    What the app needs. All methods are called on the app's loop; each call of `answer` holds one
    of `slots`.
    """

    slots: int
    """Answers at a time for one model."""
    default_num_ctx: int
    """Context window, tokens, where the request names none."""

    def models(self) -> Sequence[Model]:
        """Every model it can answer for, installed or not."""
        ...

    async def load(self, model: Model, num_ctx: int) -> int:
        """
        Make the model ready with this context window; return the bytes it holds. Raises Refusal. A
        cancel gives the load up.
        """
        ...

    async def unload(self, model: Model) -> None:
        """Free what `load` took. Never called while the model answers."""
        ...

    def answer(self, call: ModelCall) -> AsyncGenerator[Chunk | Final | WireFault, None]:
        """
        Pieces, then a Final. Raises Refusal. Closing the iterator stops the computation at once.
        """
        ...

    def pull(self, name: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """
        Progress objects of `/api/pull` for a well-formed name; an object with `error` is the last.
        """
        ...

    async def close(self) -> None:
        """Free everything. Called once, when nothing answers any more."""
        ...
