"""The conversation of a notebook: what is sent with the next question, within the context window.

The parts come in an order that changes as little as possible from turn to turn, so that the server
finds its prompt cache: the system prompt, the attachments of turns that were left out, then the
turns with what was attached to each, then the question. So the summary of a value that an earlier
question was sent with stays as it is, and what this question needs beside it goes with this one.
Where they do not fit, the oldest turns are left out, and at once so many that the rest has half of
the room: leaving out one in each turn would have the server read everything again each time.

Questions may be on their way at the same time, from several threads. Each goes on with the turns
that had ended when it was asked, and becomes a turn when its answer ends.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from urisk_nb.chat.attachments import Attachment, Block, Source, fit_attachments
from urisk_nb.chat.citations import SourceIds
from urisk_nb.chat.token_budget import TokenMeter, Window
from urisk_nb.llm.answers import INTERRUPTED, Answer
from urisk_nb.llm.messages import Message
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.answer_text import strip_thinking

__all__ = ["ChatPlan", "Conversation", "Turn"]

MORE = "more of it, for this question"
STOPPED = "[The user stopped this answer here.]"
ATTACHED_SHARE = 0.75  # of what is left, for new attachments: the conversation has to go on
MAX_TURNS = 1000  # that are kept; no window has room for more


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """
    A question and its answer.

    Attributes
    ----------
    question, answer
        The texts; the answer without the model's thoughts.
    blocks
        What was attached to the question.
    is_stopped
        The user interrupted the answer.
    """

    question: str
    answer: str
    blocks: tuple[Block, ...] = ()
    is_stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPlan:
    """
    What is sent for a question, and what becomes of the conversation if it is answered.

    Attributes
    ----------
    messages
        The chat.
    answer_tokens
        How long the answer may be.
    room
        The tokens that the messages may have.
    sources
        The sentences that the answer may cite, by id.
    notes
        What was cut or left out, for people.
    turns, pinned
        The turns that are sent, and the attachments of those that are not.
    blocks
        What is attached to the question.
    replaced
        The names whose earlier values are not sent: what is attached now counts.
    version
        Of the conversation that it was planned for.
    is_bare
        Nothing can be left out any more.
    """

    messages: tuple[Message, ...]
    answer_tokens: int
    room: int
    sources: Mapping[str, Source]
    notes: tuple[str, ...]
    turns: tuple[Turn, ...]
    pinned: tuple[Block, ...]
    blocks: tuple[Block, ...]
    replaced: Set[str]
    version: int

    @property
    def is_bare(self) -> bool:
        return not (self.turns or self.pinned or self.blocks)


@dataclass(slots=True)
class Conversation:
    """
    The turns of one kernel; `add_turn` and `reset` alone change them. Threads may share it.

    Attributes
    ----------
    is_on
        Whether the next question goes on with it.
    turns
        Those that are still sent, the oldest first.
    left_out
        How many older ones are not.
    """

    is_on: bool = True
    turns: tuple[Turn, ...] = ()
    left_out: int = 0
    _pinned: tuple[Block, ...] = ()
    _source_ids: SourceIds = field(default_factory=SourceIds)
    _meters: dict[str, TokenMeter] = field(default_factory=dict)
    _version: int = 0  # how often it has changed
    _reset_at: int = 0  # the version of the last reset
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def reset(self) -> None:
        """Forget all turns; what is known of the models' tokens stays."""
        with self._lock:
            self.turns, self._pinned, self.left_out = (), (), 0
            self._source_ids = SourceIds()
            self._version += 1
            self._reset_at = self._version

    def get_meter(self, model: str) -> TokenMeter:
        """Return the count of tokens for a model."""
        return self._meters.setdefault(model, TokenMeter())

    def plan(
        self,
        question: str,
        *,
        model: str,
        system: str | None = None,
        attachments: Sequence[Attachment] = (),
        window: Window,
        max_tokens: int,
        is_alone: bool = False,
    ) -> ChatPlan:
        """
        Return what is sent for a question; nothing of the conversation is changed.

        Parameters
        ----------
        question
            The user's text.
        model
            Who is asked.
        system
            The system prompt; None: there is none.
        attachments
            What goes with the question.
        window, max_tokens
            The context window, and how long the answer may be.
        is_alone
            The question is asked without the conversation.
        """
        with self._lock:  # another thread may add a turn, or name sentences
            return _Planner(
                question=question,
                system=system,
                attachments=attachments,
                meter=self.get_meter(model),
                window=window,
                max_tokens=max_tokens,
                turns=() if is_alone else self.turns,
                pinned=() if is_alone else self._pinned,
                left_out=0 if is_alone else self.left_out,
                source_ids=SourceIds() if is_alone else self._source_ids,
                is_alone=is_alone,
                version=self._version,
            ).plan()

    def add_turn(self, plan: ChatPlan, question: str, answer: Answer) -> None:
        """
        Take in a turn: the question as it was sent, and its answer.

        An answer that the user stopped is kept, marked as stopped. One without text is no turn.
        Where other answers have ended since this was planned, their turns are kept and stand
        before it. A reset forgets the questions that are on their way, too.
        """
        text = strip_thinking(answer).strip()
        if not text:
            return
        turn = Turn(
            question=question,
            answer=text,
            blocks=plan.blocks,
            is_stopped=answer.done_reason == INTERRUPTED,
        )
        with self._lock:
            if plan.version < self._reset_at:
                return
            turns, pinned = plan.turns, plan.pinned
            if plan.version != self._version:  # what does not fit, the next plan leaves out again
                turns = _take_out(self.turns, plan.replaced)
                pinned = _drop_named(self._pinned, plan.replaced)
            count = self.left_out + len(self.turns) + 1
            self.turns = (*turns, turn)[-MAX_TURNS:]
            self.left_out = count - len(self.turns)
            self._pinned = pinned
            self._version += 1

    def learn_overflow(self, model: str, plan: ChatPlan) -> None:
        """Take in that the server found a plan too long: the next one is shorter."""
        with self._lock:
            meter = self.get_meter(model)
            meter.learn_overflow(meter.measure_chat(plan.messages), plan.room)

    def learn(self, model: str, plan: ChatPlan, answer: Answer) -> None:
        """Take in how many tokens the server counted."""
        if answer.faults:  # of a prompt that the server cut, it counts what is left
            return
        with self._lock:
            self.get_meter(model).learn(plan.messages, answer.timing.prompt_tokens)


@dataclass(slots=True, kw_only=True)
class _Planner:
    """The arithmetic of one question: what goes with it, and what is left out."""

    question: str
    system: str | None
    attachments: Sequence[Attachment]
    meter: TokenMeter
    window: Window
    max_tokens: int
    turns: tuple[Turn, ...]
    pinned: tuple[Block, ...]
    left_out: int
    source_ids: SourceIds
    is_alone: bool
    version: int
    blocks: tuple[Block, ...] = ()
    notes: list[str] = field(default_factory=list)

    def plan(self) -> ChatPlan:
        needed = self._measure((), (), ())
        answer_tokens = self.window.plan_answer(self.max_tokens, needed)
        room = self.window.tokens - answer_tokens
        replaced = self._attach(room, needed)
        before = len(self.turns)
        self._leave_out_turns(room)
        self._leave_out_blocks(room)
        self._note(before, answer_tokens)
        return ChatPlan(
            messages=tuple(self._build(self.turns, self.pinned, self.blocks)),
            answer_tokens=answer_tokens if self.window.is_known else self.max_tokens,
            room=room,
            sources=self.source_ids.by_id,
            notes=tuple(self.notes),
            turns=self.turns,
            pinned=self.pinned,
            blocks=self.blocks,
            replaced=replaced,
            version=self.version,
        )

    def _attach(self, room: int, needed: int) -> Set[str]:
        """Attach what the question has; return the names whose earlier values are taken out."""
        available = room - needed
        budget = available if self.is_alone else int(ATTACHED_SHARE * available)
        more = self._find_more()
        both = (*self.attachments, *more)
        # The blank line before the question
        budget -= self.meter.measure("\n\n") * (1 + len(both))
        blocks = fit_attachments(both, budget, self._measure_text, self.source_ids.name)
        own, added = blocks[: len(self.attachments)], blocks[len(self.attachments) :]
        self.notes += [one.cut or f"{one.name}: left out" for one in own if _is_cut(one)]
        self.notes += [
            f"{one.name}: {'more for this question' if one.text else 'no room for more of it'}"
            for one in added
        ]
        new = self._find_new(own, added, room)
        replaced = {one.name for one in new}
        self.turns = _take_out(self.turns, replaced)
        self.pinned = _drop_named(self.pinned, replaced)
        self.blocks = tuple(one for one in (*new, *added) if one.text)
        return replaced

    def _list_earlier(self) -> dict[str, list[Block]]:
        """Return what was attached before, by name."""
        found: dict[str, list[Block]] = {}
        for block in (*self.pinned, *(one for turn in self.turns for one in turn.blocks)):
            found.setdefault(block.name, []).append(block)
        return found

    def _find_more(self) -> tuple[Attachment, ...]:
        """Return what this question needs of values that were attached before, and was not sent."""
        named = {one.name for one in self.attachments}
        found = []
        for name, blocks in self._list_earlier().items():
            find_more = blocks[-1].find_more
            if name in named or find_more is None:
                continue
            pieces = tuple(
                piece
                for piece in find_more(self.question)
                if not any(block.holds(piece) for block in blocks)
            )
            if pieces:
                found.append(
                    Attachment(
                        name=name, title=MORE, pieces=pieces, find_more=find_more, is_more=True
                    )
                )
        return tuple(found)

    def _find_new(self, own: Sequence[Block], added: Sequence[Block], room: int) -> Sequence[Block]:
        """
        Return the blocks that are sent with the question: not one that an earlier question was sent
        with in the same words, as long as everything fits.
        """
        earlier = self._list_earlier()
        new = [
            one for one in own if [block.text for block in earlier.get(one.name, ())] != [one.text]
        ]
        if len(new) == len(own):
            return own
        replaced = {one.name for one in new}
        turns, pinned = _take_out(self.turns, replaced), _drop_named(self.pinned, replaced)
        fits = self._measure(turns, pinned, (*new, *added)) <= room
        return new if fits else own

    def _measure_text(self, text: str) -> int:
        return self.meter.measure(text)

    def _leave_out_turns(self, room: int) -> None:
        """Leave out the oldest turns where all do not fit, until the others have half the room."""
        if self._measure(self.turns, self.pinned, self.blocks) <= room:
            return
        every = (*self.pinned, *_list_kept(self.turns))
        base = self._measure((), every, self.blocks)
        limit = base + max(room - base, 0) // 2
        gone = bisect_left(range(len(self.turns)), True, key=lambda count: self._fits(count, limit))
        self.pinned = (*self.pinned, *_list_kept(self.turns[:gone]))
        self.turns = self.turns[gone:]

    def _fits(self, gone: int, limit: int) -> bool:
        """Return whether the chat keeps a limit once so many turns are left out."""
        blocks = (*self.pinned, *_list_kept(self.turns[:gone]))
        return self._measure(self.turns[gone:], blocks, self.blocks) <= limit

    def _leave_out_blocks(self, room: int) -> None:
        """Leave out what was attached before, the oldest first, then what is attached now."""
        while self.pinned and self._measure(self.turns, self.pinned, self.blocks) > room:
            self.notes.append(f"{self.pinned[0].name} left out: attach it again")
            self.pinned = self.pinned[1:]
        while self.blocks and self._measure(self.turns, self.pinned, self.blocks) > room:
            self.notes.append(f"{self.blocks[-1].name}: left out")
            self.blocks = self.blocks[:-1]

    def _note(self, before: int, answer_tokens: int) -> None:
        left = self.left_out + before - len(self.turns)
        if self.turns:
            self.notes.insert(0, f"turn {left + len(self.turns) + 1}")
        if left:
            self.notes.append(f"{format_count(left, 'oldest turn')} left out")
        if answer_tokens < self.max_tokens and self.window.is_known:
            self.notes.append(
                f"the window of {self.window.tokens:,} tokens leaves {answer_tokens:,} for the "
                "answer"
            )

    def _measure(
        self, turns: Sequence[Turn], pinned: Sequence[Block], blocks: Sequence[Block]
    ) -> int:
        return self.meter.measure_chat(self._build(turns, pinned, blocks))

    def _build(
        self, turns: Sequence[Turn], pinned: Sequence[Block], blocks: Sequence[Block]
    ) -> list[Message]:
        """Return the chat: the attachments of turns that are gone stand before the first one."""
        messages: list[Message] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in turns:
            messages += [_ask((*pinned, *turn.blocks), turn.question), _answer(turn)]
            pinned = ()
        return [*messages, _ask((*pinned, *blocks), self.question)]


def _take_out(turns: Sequence[Turn], names: Set[str]) -> tuple[Turn, ...]:
    """Return the turns without what was attached under these names: the new value counts."""
    return tuple(replace(turn, blocks=_drop_named(turn.blocks, names)) for turn in turns)


def _drop_named(blocks: Sequence[Block], names: Set[str]) -> tuple[Block, ...]:
    return tuple(one for one in blocks if one.name not in names)


def _list_kept(turns: Sequence[Turn]) -> list[Block]:
    """Return what stays of turns that are left out: what a question asked for beside it is gone."""
    return [one for turn in turns for one in turn.blocks if not one.is_more]


def _is_cut(block: Block) -> bool:
    return bool(block.cut) or not block.text


def _ask(blocks: Sequence[Block], question: str) -> Message:
    return {"role": "user", "content": "\n\n".join([*(one.text for one in blocks), question])}


def _answer(turn: Turn) -> Message:
    text = f"{turn.answer}\n{STOPPED}" if turn.is_stopped else turn.answer
    return {"role": "assistant", "content": text}
