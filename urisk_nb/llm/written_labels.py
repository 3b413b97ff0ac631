"""
Labels that a model writes as JSON, held to a schema by the server.

Some models ignore the schema with one setting of `think` and keep to it with another. The first
answer that is no label is asked for again with each of the dialect's `think_settings` in turn,
until one gives a label. That setting is kept for the session. Where none gives one, the first is
kept, and nothing is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from urisk_nb.errors import BadRequest, ModelError, NotSupportedByServer, ProtocolError
from urisk_nb.llm.client import Client, OnChunk
from urisk_nb.llm.messages import ChatRequest, Chunk, Final, Think

if TYPE_CHECKING:
    from urisk_nb.risk.questions import Question

__all__ = ["LabelWriter", "SchemaSetting", "Writing"]

THINKING_TOKENS = 1024  # beside those of the answer, where a model may think


@dataclass(slots=True)
class SchemaSetting:
    """
    What is said of thinking where a model writes its label, as far as it has been found out.

    Attributes
    ----------
    choices
        The settings, in the order in which they are tried.
    think
        The one that is used.
    is_known
        Whether it has given a label, or all of them were tried.
    is_ignored
        No setting gave a label, and no later answer was one: the model keeps to no schema.
    reason
        Why the first answer is no label.
    """

    choices: tuple[Think, ...]
    think: Think = field(init=False)
    is_known: bool = field(default=False, init=False)
    is_ignored: bool = field(default=False, init=False)
    reason: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.think = self.choices[0]

    def keep(self, think: Think | None) -> None:
        """Keep this setting for the session; None: the first one, since none gives a label."""
        self.think = self.choices[0] if think is None else think
        self.is_known, self.is_ignored = True, think is None

    def forget(self) -> None:
        """Find it out anew."""
        self.think, self.is_known, self.is_ignored = self.choices[0], False, False

    def take_over(self, other: SchemaSetting) -> None:
        """Take over what another process has found out, if it has."""
        if other.is_known and other.choices == self.choices:
            self.think, self.is_known = other.think, True
            self.is_ignored, self.reason = other.is_ignored, other.reason


class LabelWriter:
    """
    Asks for written labels, and finds out with which setting a model keeps to the schema; used on
    one loop.

    Parameters
    ----------
    client
        Who is asked.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._settings: dict[str, SchemaSetting] = {}
        self._probing = asyncio.Lock()

    def reset(self) -> None:
        """Find the settings anew: another server may answer by then."""
        for setting in self._settings.values():
            setting.forget()

    def find_setting(self, model: str) -> SchemaSetting:
        """Return how a model that writes its labels is asked; it may still be unknown."""
        choices = self._client.dialect.think_settings
        known = self._settings.get(model)
        if known is None or known.choices != choices:
            known = self._settings[model] = SchemaSetting(choices)
        return known

    def share(self, model: str, setting: SchemaSetting) -> None:
        """Find out together with the writer of another server how a model is asked."""
        self._settings[model] = setting

    def open(
        self, question: Question | None, request: ChatRequest, body: bytes, on_chunk: OnChunk
    ) -> Writing:
        """
        Return what is to be sent for a label, and takes in its answer.

        Parameters
        ----------
        question
            What is asked: it decides what a label is. None: the chat is sent as it is.
        request, body
            The same as a chat, and its bytes with the dialect's first setting.
        on_chunk
            Called with the answer. As long as the setting is not known it comes in one piece, when
            it is known to count.
        """
        setting = self.find_setting(request.model)
        return Writing(
            question if request.schema is not None else None,
            on_chunk,
            setting,
            self._probing,
            lambda think: self._encode(request, body, think),
        )

    def _encode(self, request: ChatRequest, body: bytes, think: Think) -> bytes:
        dialect, options = self._client.dialect, dict(request.options)
        if think is dialect.think_settings[0]:
            return body
        if think is not Think.OFF and options.get("num_predict", -1) >= 0:
            options["num_predict"] += THINKING_TOKENS
        return dialect.encode_chat(replace(request, think=think, options=options))


class Writing:
    """
    One question to a model that writes: what is sent, what comes, and whether it counts.

    Used as `async with`, around attempts that go on until `is_done`. Its owner sends them, so that
    no frame lies between the owner and the client.
    """

    def __init__(
        self,
        question: Question | None,
        on_chunk: OnChunk,
        setting: SchemaSetting,
        probing: asyncio.Lock,
        encode: Callable[[Think], bytes],
    ) -> None:
        self._question, self._on_chunk = question, on_chunk
        self._setting, self._probing, self._encode = setting, probing, encode
        self._think = setting.think
        # It counts in any case: each chunk is handed on at once.
        self._is_live = setting.is_known or question is None
        self._left: list[Think] | None = None  # of a probe: the settings that are still to try
        self._first: list[Chunk | Final] = []
        self._chunks: list[Chunk | Final] = []

    async def __aenter__(self) -> Writing:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._left is not None:
            self._probing.release()

    @property
    def body(self) -> bytes:
        """What is sent next."""
        return self._encode(self._think)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Begin an attempt; of a probe, an answer that is none and a refusal are passed over."""
        self._chunks = []
        try:
            yield
        except (BadRequest, ModelError, NotSupportedByServer, ProtocolError):
            if self._left is None:
                raise
            self._chunks = []

    def take(self, chunk: Chunk | Final) -> None:
        """Take in a chunk."""
        self._chunks.append(chunk)
        if self._is_live:
            self._on_chunk(chunk)

    async def is_done(self) -> bool:
        """Return whether the answer counts; else another attempt is to be made."""
        setting = self._setting
        if self._is_live:
            if setting.is_ignored and self._is_label:
                setting.is_ignored = False  # not by every answer
            return True
        if self._is_label and (self._left is not None or not setting.is_known):
            setting.keep(self._think)
        if self._is_label:
            return True
        if self._left is not None:
            return self._go_on(self._left)
        # Without a chunk there is nothing to judge by.
        return not self._chunks or await self._begin_probe()

    async def _begin_probe(self) -> bool:
        """Wait for the probe of another question, or begin one."""
        setting, self._first = self._setting, self._chunks
        await self._probing.acquire()  # of several questions that begin at once, one finds out
        if not setting.is_known:
            self._left = list(setting.choices[1:])
            return self._go_on(self._left)
        self._probing.release()
        if setting.think is self._think:
            return True
        self._think, self._is_live = setting.think, True
        return False

    def _go_on(self, left: list[Think]) -> bool:
        """Take the next setting; without one the first answer counts, as it is."""
        if left:
            self._think = left.pop(0)
            return False
        self._setting.keep(None)
        self._chunks = self._first
        self._setting.reason = self._find_fault(self._text) or ""
        return True

    def hand_over(self) -> Final:
        """Hand on what was not yet; return the end of the answer."""
        if not self._is_live:
            for chunk in self._chunks:
                self._on_chunk(chunk)
        if text := self._find_in_thoughts():
            self._on_chunk(Chunk(text=text))
        return self._find_end()

    # What came ------------------------------------------------------------------------------------

    @property
    def _text(self) -> str:
        return "".join(chunk.text for chunk in self._chunks)

    def _find_end(self) -> Final:
        ends = [chunk for chunk in self._chunks if isinstance(chunk, Final)]
        return ends[-1] if ends else Final(done_reason="stop")

    @property
    def _is_label(self) -> bool:
        return self._find_fault(self._text) is None or bool(self._find_in_thoughts())

    def _find_in_thoughts(self) -> str:
        """
        Return the label where the server gives it as the model's thoughts, and no text; empty else.

        A schema that binds from the first token on makes the answer of a thinking model look so.
        """
        thoughts = "".join(chunk.thinking for chunk in self._chunks).strip()
        is_it = thoughts and not self._text.strip() and self._find_fault(thoughts) is None
        return thoughts if is_it else ""

    def _find_fault(self, text: str) -> str | None:
        """Return why the text is no label, or None."""
        from urisk_nb.risk.questions import parse

        question = self._question
        if question is None:
            return "nothing is known of the question"
        _, reason = parse(
            text,
            self._find_end().done_reason,
            question.taxonomy,
            sentence=question.sentence.text,
            has_thoughts=any(chunk.thinking for chunk in self._chunks),
        )
        return reason
