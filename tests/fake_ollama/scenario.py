"""What a scripted backend is logprobs to do: its models, its rules, its delays and faults, as plain
data.

Knows: the fields and what they mean; JSON files.
Does not know: how an answer is made or sent.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake_ollama.backend import ModelCall

MODEL = "llama3.1:latest"
"""The name under which the scripted backend answers by default."""


class Ending(enum.Enum):
    """How an answer ends."""

    STOP = "stop"  # regular
    LENGTH = "length"  # as if num_predict had cut it
    CUT = "cut"  # a clean end of the body without the last object
    RESET = "reset"  # the connection breaks
    ERROR = "error"  # an error line after the pieces
    GARBAGE = "garbage"  # a line that is no JSON, then a clean end
    HANG = "hang"  # no byte comes any more; the connection stays open until the client leaves
    # The same, and the whole server answers nothing from then on, though it accepts connections
    WEDGE = "wedge"
    # The server ends at once: `program` by os._exit(2), in a thread or on a loop by cutting and
    # listening no more
    CRASH = "crash"
    RUNNER = "runner"  # the model's runner is gone; without pieces, before the first byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """How the process of `fake_ollama.program` starts and ends; without a meaning for a server
    in a thread or on a loop.

    Parameters
    ----------
    refuse
        Not empty: said on stderr, and the process ends with `exit_code` before it listens.
    ready_ms
        How long it accepts connections without answering, milliseconds.
    exit_after_ms
        It ends this long after it became ready, as in a crash: `last_words` on stderr, then
        `exit_code`; runners stay. None: never.
    ignore_sigterm
        SIGTERM has no effect (SIGINT has).
    slow_sigterm_ms
        How long the runners and the process outlive the listener, milliseconds.
    """

    refuse: str = ""
    ready_ms: float = 0.0
    exit_after_ms: float | None = None
    exit_code: int = 1
    last_words: str = ""
    ignore_sigterm: bool = False
    slow_sigterm_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of a scenario: which requests it is for, and what they get.

    Parameters
    ----------
    contains, regex
        Searched in the last user message (or the raw prompt). Both empty: every message.
    model, endpoint
        Only for this model (full name) and what was made of it, only for `chat` or `generate`.
        Empty: any.
    times
        How many requests it serves before it steps aside; None: all.
    answer
        A text; or a list of texts, the pieces as they are to be sent; or an object, sent as compact
        JSON. None: what the default rules say.
    logprobs
        With `answer` as a list of pieces: for each of them its token as `logprobs` has it,
        `{"token", "logprob", "top_logprobs"}`. Empty: the backend is certain of every piece.
    first_ms, token_ms
        Delay to the first piece, and between two pieces, milliseconds.
    ends
        See `Ending`.
    status
        Not 200: a refusal with this HTTP status before the first piece.
    error
        The text of the refusal, or of the error line of `Ending.ERROR`.
    body, kind
        Sent with `status` in place of the JSON error: a proxy's HTML page, an empty body.
    split_bytes
        Cuts the stream into chunks of this size, through lines and through characters.
    """

    contains: str = ""
    regex: str = ""
    model: str = ""
    endpoint: str = ""
    times: int | None = None
    answer: str | Sequence[str] | Mapping[str, Any] | None = None
    logprobs: Sequence[Mapping[str, Any]] = ()
    first_ms: float = 0.0
    token_ms: float = 0.0
    ends: Ending = Ending.STOP
    status: int = 200
    error: str = ""
    body: str | None = None
    kind: str | None = None
    split_bytes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", Ending(self.ends))
        re.compile(self.regex)

    def fits(self, call: ModelCall) -> bool:
        """Whether the rule is for this request, `times` left aside."""
        return (
            self.model in {"", call.model.name, call.model.base or call.model.name}
            and self.endpoint in {"", call.endpoint}
            and self.contains in call.last
            and re.search(self.regex, call.last) is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a scripted backend is: its models, its rules (the first that fits counts), its delays.

    Parameters
    ----------
    models
        Their names; with a tag, or `:latest` is added. A mapping gives more fields of `Model`, e.g.
        `{"name": "smol", "native": False}` (the path where Ollama renders the prompt), `{"name":
        "tiny", "installed": False}`.
    rules
        See `Rule`.
    slots
        Answers at a time.
    num_ctx
        Context window where a request names none, tokens.
    load_ms
        How long a load takes, milliseconds.
    load_error
        Not empty: every load fails with 500 and this text.
    first_ms, token_ms
        Delays of the default rules, milliseconds.
    pulls
        Name -> progress objects of `/api/pull`, sent as they are.
    pull_ms, create_ms
        Pause between two lines of a pull, and of a create, milliseconds.
    create_error
        Not empty: every create with an adapter is refused with 400 and this text, as Ollama does
        from 0.34.1 on.
    unload_ms
        How long a model that is unloaded still shows in `/api/ps`, milliseconds; the next load
        waits for it.
    version
        What `/api/version` says. Empty: a recent Ollama's.
    process
        See `Process`.
    """

    models: Sequence[str | Mapping[str, Any]] = (MODEL,)
    rules: Sequence[Rule] = ()
    slots: int = 1
    num_ctx: int = 4096
    load_ms: float = 0.0
    load_error: str = ""
    first_ms: float = 0.0
    token_ms: float = 0.0
    pulls: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    pull_ms: float = 0.0
    create_ms: float = 0.0
    create_error: str = ""
    unload_ms: float = 0.0
    version: str = ""
    process: Process = field(default_factory=Process)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Scenario:
        """The scenario that a mapping (of a JSON file, say) describes.

        Raises
        ------
        ValueError
            An unknown field, or a value that cannot be.
        """
        try:
            rules = tuple(Rule(**rule) for rule in value.get("rules", ()))
            return cls(**{**value, "rules": rules, "process": Process(**value.get("process", {}))})
        except (TypeError, re.error) as exc:
            raise ValueError(f"not a scenario: {exc}") from exc

    @classmethod
    def load(cls, path: str | Path) -> Scenario:
        """The scenario of a JSON file. Raises OSError, ValueError."""
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"not a scenario: {path} holds no JSON object")
        return cls.of(value)
