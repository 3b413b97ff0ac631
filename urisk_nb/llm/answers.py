"""
An answer, whole or in pieces, as the caller gets it: text that knows where it came from and where
its time went.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Self

from urisk_nb import event_loop
from urisk_nb.errors import NotInitialized
from urisk_nb.llm.calls import CallRecord, CallTiming, timing_of
from urisk_nb.llm.client import OnChunk
from urisk_nb.llm.endpoint import Endpoint, PreparedCall
from urisk_nb.llm.messages import Chunk, Final, Message, TokenLogprob
from urisk_nb.llm.retrying_client import Exchange
from urisk_nb.risk.answer_text import PROMPT_CUT, is_only_thinking

if TYPE_CHECKING:
    from urisk_nb.llm.manager import LLMManager

__all__ = [
    "INTERRUPTED",
    "Answer",
    "AnswerStream",
    "Citation",
    "count_least_tokens",
    "find_faults",
]

NO_TEXT, ONLY_THINKING = "no_text", "only_thinking"
INTERRUPTED = "interrupted"
NOT_MEASURED = {"first_token_s": math.nan, "total_s": math.nan}
MIN_CUT_TOKENS = 64  # fewer are within what a template or a tokenizer may do
READ_SHARE = 0.75  # of the least tokens that a prompt can have: fewer read means that it was cut
MAX_WORD_CHARS = 16  # of one token, in text without spaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """
    A sentence that an answer cites.

    Attributes
    ----------
    id
        As the answer cites it: `S1`.
    quote
        The sentence, verbatim.
    source, section, date, ticker
        Where it stands, and whom it is about; empty where that is not known.
    evidence
        Its id in the findings of the risk table that it comes from; empty where it comes from none.
    """

    id: str
    quote: str
    source: str = ""
    section: str = ""
    date: str = ""
    ticker: str = ""
    evidence: str = ""


class Answer(str):
    """
    An answer: the text itself, which knows where it came from.

    Attributes
    ----------
    model, engine
        Who answered; `engine` is `ollama`, `embedded` or `openai`.
    done_reason
        `stop`, `length` where the answer was cut at a limit, or `interrupted` where you stopped it.
    thinking
        The model's reasoning, where the model gives one.
    timing
        The phases of the call.
    logprobs
        The tokens with their log-probabilities, where they were asked for and the server
        reports them.
    request_hash
        The sha256 of the request's bytes, as hexadecimal digits: the same hash to the same model is
        the same question.
    faults
        What is wrong with it, by code, each with a sentence: `no_text`, `only_thinking` (the model
        thought, and gave no text), `prompt_cut` (the server read far fewer tokens than were sent).
    citations, unknown_citations
        The sentences that it cites of those that went with the question, and the ids that it cites
        though there is no such sentence. Both are empty where `%%ask` was given nothing to cite.
    """

    __slots__ = (
        *("citations", "done_reason", "engine", "faults", "logprobs", "model", "request_hash"),
        *("thinking", "timing", "unknown_citations"),
    )
    model: str
    engine: str
    done_reason: str
    thinking: str
    timing: CallTiming
    logprobs: tuple[TokenLogprob, ...]
    request_hash: str
    faults: Mapping[str, str]
    citations: tuple[Citation, ...]
    unknown_citations: tuple[str, ...]

    def __new__(
        cls,
        text: str,
        *,
        model: str,
        engine: str,
        done_reason: str,
        timing: CallTiming,
        thinking: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
        faults: Mapping[str, str] | None = None,
        request_hash: str = "",
        citations: tuple[Citation, ...] = (),
        unknown_citations: tuple[str, ...] = (),
    ) -> Self:
        self = super().__new__(cls, text)
        self.model, self.engine, self.done_reason = model, engine, done_reason
        self.thinking, self.timing, self.logprobs = thinking, timing, logprobs
        self.faults, self.request_hash = dict(faults or {}), request_hash
        self.citations, self.unknown_citations = citations, unknown_citations
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (str(self),), {name: getattr(self, name) for name in self.__slots__}


class AnswerStream:
    """
    The pieces of an answer as they come: `async for` on any loop, `for` where one may block.

    Leaving the iteration stops the generation on the server. `answer` is there when the iteration
    has ended.
    """

    def __init__(
        self,
        session: LLMManager,
        prepare: Callable[[Endpoint, PreparedCall | None], PreparedCall],
        model: str | None = None,
        messages: Sequence[Message] = (),
    ) -> None:
        self._session, self._prepare, self._endpoint = session, prepare, session.lead
        self._call = prepare(session.lead, None)  # what cannot be sent is refused now
        # As it is asked: the session may go on with another model while this call is in flight.
        self._model = model or session.model
        self._thoughts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._answer: Answer | None = None
        self._record: CallRecord | None = None
        self._said = ""  # whole: the end of a record keeps the first part only
        self._messages = messages

    @property
    def answer(self) -> Answer:
        """The whole answer."""
        if self._answer is None:
            raise NotInitialized("the answer has not ended.", fix="iterate to the end first")
        return self._answer

    @property
    def partial(self) -> Answer:
        """
        What has come so far; its `done_reason` is `interrupted` where the answer has no end.

        Its timing has no counters of the server, which come with the end.
        """
        if self._answer is not None:
            return self._answer
        record = self._record
        is_going = record is not None and not record.outcome
        return self._build_answer(
            record.answer if record is not None and is_going else self._said,
            done_reason=INTERRUPTED,
            timing=(record.timing if record else None) or timing_of(Final(), **NOT_MEASURED),
        )

    @property
    def request_hash(self) -> str:
        """The sha256 of the request's bytes, as hexadecimal digits; known before it is sent."""
        return hashlib.sha256(self._call.body).hexdigest()

    @property
    def thinking(self) -> str:
        """The model's thoughts so far, where it gives them apart from its text."""
        return "".join(self._thoughts)

    @property
    def waits_for(self) -> str:
        """What is waited for while no text has come: `waiting (3 s)`, `thinking (12 s)`."""
        return "" if self._record is None else self._record.describe_wait(time.monotonic())

    def __aiter__(self) -> AsyncIterator[str]:
        return event_loop.iterate(self.pieces())

    def __iter__(self) -> Iterator[str]:
        return self.iterate()

    def iterate(self, tick: Callable[[], object] | None = None) -> Iterator[str]:
        """Return the pieces for a blocking caller; `tick` is called while none comes."""
        return event_loop.iterate_sync(self.pieces(), tick)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield the pieces, on the manager's own loop; leaving cancels the call."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def take(chunk: Chunk | Final) -> None:
            if chunk.text:
                pieces.put_nowait(chunk.text)

        call = asyncio.get_running_loop().create_task(self.whole(take))
        call.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await call
        finally:
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await call

    async def whole(self, on_chunk: OnChunk = lambda _: None) -> Answer:
        """Return the answer, on the manager's own loop."""
        session = self._session
        record = self._record = session.calls.begin(self._call.body, self._model)

        def take(chunk: Chunk | Final) -> None:
            self._logprobs += chunk.logprobs
            if chunk.thinking:
                self._thoughts.append(chunk.thinking)
            on_chunk(chunk)

        try:
            final = await session.run_call(record, partial(self._open, record), take)
        except BaseException as exc:
            self._said = record.answer
            session.calls.fail(record, exc)
            raise
        text = self._said = record.answer
        self._answer = self._build_answer(
            text,
            done_reason=final.done_reason,
            timing=session.calls.end(record, final),
            faults=find_faults(text, self.thinking, final, self._messages),
        )
        return self._answer

    def _open(self, record: CallRecord, endpoint: Endpoint) -> Exchange:
        """Return the call as this server is asked it; what another one has said is dropped."""
        if endpoint is not self._endpoint:
            self._endpoint, self._call = endpoint, self._prepare(endpoint, self._call)
            record.body = self._call.body
        self._logprobs.clear()
        self._thoughts.clear()
        return self._call.exchange

    def _build_answer(
        self,
        text: str,
        *,
        done_reason: str,
        timing: CallTiming,
        faults: Mapping[str, str] | None = None,
    ) -> Answer:
        return Answer(
            text,
            model=self._model,
            engine=str(self._endpoint.server.engine),
            done_reason=done_reason,
            timing=timing,
            thinking=self.thinking,
            logprobs=tuple(self._logprobs),
            faults=faults,
            request_hash=self.request_hash,
        )


def find_faults(
    text: str, thinking: str, final: Final, messages: Sequence[Message]
) -> dict[str, str]:
    """Return what is wrong with an answer to these messages: a sentence for each code."""
    faults = {}
    if is_only_thinking(text) or (thinking.strip() and not text.strip()):
        fix = (
            "give it more tokens (num_predict), or use a model that does not think"
            if final.done_reason == "length"
            else "ask again, or use a model that does not think: %env OLLAMA_MODEL=llama3.1"
        )
        faults[ONLY_THINKING] = f"The model gave no text, only thinking; {fix}."
    elif not text.strip():
        faults[NO_TEXT] = (
            "The model gave no text: its answer is empty. Ask again, or use another model: "
            "%env OLLAMA_MODEL=llama3.1."
        )
    read = final.prompt_tokens  # 0: the server does not count
    chars = sum(map(len, _list_texts(messages)))
    # Words have something between them, so most prompts need no counting.
    least = count_least_tokens(messages) if 0 < read < chars / 2 else 0
    if read < READ_SHARE * least and least - read >= MIN_CUT_TOKENS:
        faults[PROMPT_CUT] = (
            f"The server read {read:,} tokens of a prompt that has {least:,} or more: it cut the "
            "prompt without saying so. Shorten it, or ask for a larger window: "
            "%env URISK_NUM_CTX=32768, then %urisk_start."
        )
    return faults


def count_least_tokens(messages: Sequence[Message]) -> int:
    """
    Return how many tokens a chat has at the least, whatever the tokenizer.

    Tokenizers join no words over a space or a punctuation mark. A long word has a token for every
    16 characters or fewer; Chinese, Japanese and the like have one for every 4. What is no word, as
    a line of dashes, may be a single token, and is not counted.
    """
    return sum(map(_count_least_in, _list_texts(messages)))


# The questions of a run differ in one sentence: what stands around it is counted once
@lru_cache(maxsize=64)
def _count_least_in(text: str) -> int:
    return sum(map(_count_least, re.findall(r"\w+", text)))


def _list_texts(messages: Sequence[Message]) -> list[str]:
    """Return the texts of a chat; a message may have parts, of which some are pictures."""
    contents = [message.get("content") for message in messages]
    parts = [
        part.get("text")
        for content in contents
        if isinstance(content, list)
        for part in content
        if isinstance(part, dict)
    ]
    return [text for text in (*contents, *parts) if isinstance(text, str)]


def _count_least(word: str) -> int:
    if len(word) <= MAX_WORD_CHARS and word.isascii():  # nearly always
        return 1
    wide = sum(char > "\u2e7f" for char in word)
    return max(1, (len(word) - wide) // MAX_WORD_CHARS + wide // 4)
