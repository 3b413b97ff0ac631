"""Values of the user's as text for a model: in pieces, the most important first, within a budget.

What stands in an attachment was written by others. So each has a fence that its own text cannot
hold, and the system prompt says that what stands inside is data. The fence depends on the content
alone: the same attachment is the same text, and the server has it in its cache.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from urisk_nb.chat.token_budget import share_fairly
from urisk_nb.terminal_text import visible

__all__ = [
    "Attachment",
    "Block",
    "FindMore",
    "Piece",
    "Source",
    "fit_attachments",
    "strip_attachments",
]

TAG_CHARS = 8  # hexadecimal digits of a fence, which are not in the text whatever it is
Measure = Callable[[str], int]
# One at the beginning of a message; its own text does not hold its mark
_SENT = re.compile(r"<<attachment ([0-9a-f]{8}): .*?\n<<end \1>>\n\n", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """
    A sentence that an answer may cite.

    Attributes
    ----------
    quote
        Its words.
    source, section, date
        Where it stands; empty where that is not known.
    ticker, evidence
        Whom it is about, and its id in the table's findings; empty where it has none.
    attachment
        The name of the value that it comes from.
    """

    quote: str
    source: str = ""
    section: str = ""
    date: str = ""
    ticker: str = ""
    evidence: str = ""
    attachment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """
    A part of an attachment that is sent whole or left out.

    Attributes
    ----------
    text
        One or more lines.
    unit, count
        What it counts as in the note on what was cut: 1 of the `sentences`. 0: it is not counted.
    source
        What an answer cites by this piece; its id is written before the text.
    """

    text: str
    unit: str = ""
    count: int = 0
    source: Source | None = None


FindMore = Callable[[str], Sequence[Piece]]
"""Gives the pieces of a value that another question asks for; none where the value is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """
    A value as text.

    Attributes
    ----------
    name
        As it stands on the line: `table`, `px["Close"]`.
    title
        What it is: its type and size.
    pieces
        The most important first.
    totals
        How many there are in all, by unit; a piece may not exist for each.
    is_text
        It is one text, of which the beginning is sent: nothing is left out in the middle.
    find_more
        What a later question may need of it; None: nothing more is sent.
    is_more
        It is such a part itself, and goes with its question alone.
    """

    name: str
    title: str
    pieces: tuple[Piece, ...]
    totals: Mapping[str, int] = field(default_factory=dict)
    is_text: bool = False
    find_more: FindMore | None = field(default=None, compare=False)
    is_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """
    An attachment as it is sent.

    Attributes
    ----------
    name, text
        Its name, and the text with its fence.
    cut
        What was left out, for people: `news: 12 of 340 items`; empty where nothing was.
    find_more, is_more
        Those of the attachment.
    """

    name: str
    text: str
    cut: str = ""
    find_more: FindMore | None = field(default=None, compare=False)
    is_more: bool = False

    def holds(self, piece: Piece) -> bool:
        """Return whether a piece is part of what was sent."""
        return _clean(piece) in self.text


def fit_attachments(
    attachments: Sequence[Attachment],
    budget: int,
    measure: Measure,
    name_source: Callable[[Source], str],
) -> tuple[Block, ...]:
    """
    Return the attachments as they are sent: together within a budget, which they share fairly.

    Parameters
    ----------
    budget
        Tokens.
    measure
        Returns how many tokens a text has, at the most.
    name_source
        Returns the id of a sentence; called for those that are sent alone.
    """
    lines = [[_write(piece, "S00000") for piece in one.pieces] for one in attachments]
    costs = [[measure(line) for line in each] for each in lines]
    around = [_measure_fence(one, measure) for one in attachments]
    wants = [fence + sum(each) for fence, each in zip(around, costs, strict=True)]
    shares = share_fairly(budget, wants)
    blocks = []
    for one, each, fence, share in zip(attachments, costs, around, shares, strict=True):
        chosen = _choose(each, share - fence, is_text=one.is_text) if share >= fence else []
        blocks.append(_build_block(one, [one.pieces[place] for place in chosen], name_source))
    return tuple(
        block if share >= fence else Block(name=block.name, text="", cut=block.cut)
        for block, share, fence in zip(blocks, shares, around, strict=True)
    )


def _measure_fence(one: Attachment, measure: Measure) -> int:
    # Digits have the most tokens; each line break may be one of its own
    return measure(_enclose(one, "", "0" * TAG_CHARS)) + measure("\n\n")


def _choose(costs: Sequence[int], budget: int, *, is_text: bool) -> list[int]:
    """Return the places of the pieces that fit, in their order."""
    chosen: list[int] = []
    for place, cost in enumerate(costs):
        if cost <= budget:
            chosen.append(place)
            budget -= cost
        elif is_text:
            break
    return chosen


def _build_block(
    one: Attachment, pieces: Sequence[Piece], name_source: Callable[[Source], str]
) -> Block:
    texts = [
        _write(piece, "" if piece.source is None else name_source(piece.source)) for piece in pieces
    ]
    body = "".join(texts)
    cut = _describe_cut(one, pieces)
    return Block(
        name=one.name,
        text=_enclose(one, body, _make_tag(one, body)),
        cut=cut,
        find_more=one.find_more,
        is_more=one.is_more,
    )


def _write(piece: Piece, source_id: str) -> str:
    """Return a piece as it is sent: on lines of its own, invisible characters written out."""
    mark = f"[{source_id}] " if piece.source is not None else ""
    return f"{mark}{_clean(piece)}\n"


def _clean(piece: Piece) -> str:
    return visible(piece.text).strip()


def _enclose(one: Attachment, body: str, tag: str) -> str:
    name = " ".join(visible(one.name).split())
    return f"<<attachment {tag}: {name}, {one.title}>>\n{body}<<end {tag}>>"


def _make_tag(one: Attachment, body: str) -> str:
    """Return the mark of a fence: made of the content, and not in it."""
    content = f"{one.name}\n{one.title}\n{body}"
    tags = (
        hashlib.sha256(f"{number}\n{content}".encode("utf-8", "replace")).hexdigest()[:TAG_CHARS]
        for number in itertools.count()
    )
    return next(tag for tag in tags if tag not in content)


def strip_attachments(message: str) -> str:
    """Return a message without the attachments that it begins with."""
    start = 0
    while found := _SENT.match(message, start):
        start = found.end()
    return message[start:]


def _describe_cut(one: Attachment, pieces: Sequence[Piece]) -> str:
    sent: dict[str, int] = dict.fromkeys(one.totals, 0)
    for piece in pieces:
        if piece.unit in sent:
            sent[piece.unit] += piece.count
    parts = [
        f"{sent[unit]:,} of {total:,} {unit}"
        for unit, total in one.totals.items()
        if sent[unit] < total
    ]
    left = sum(not piece.unit for piece in one.pieces) - sum(not piece.unit for piece in pieces)
    if not parts and left:
        parts = ["a part"]
    return f"{one.name}: {', '.join(parts)}" if parts else ""
