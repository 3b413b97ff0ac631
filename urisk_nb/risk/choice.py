"""
Which sentences of much evidence are asked, and which are alerts.

The rules for filings, and for evidence of more sentences than may be asked; docs/filings.md has
their measured recall. Pure: sentences in, a choice and its account out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.families import Family
from urisk_nb.risk.passages import HEAVY, Passage, is_filing, read_passages

__all__ = [
    "MAX_ASKED",
    "Choice",
    "choose_passages",
    "find_alerts",
    "is_same",
    "list_words",
    "select_sentences",
]

MAX_ASKED = 60  # sentences of the filings of one company
MAX_OF_FAMILY = 9  # of one family; twice as many of a decisive one and of strain
MIN_OF_FAMILY = 4
MAX_HYPOTHETICAL = 12
MANY_OF_CASH = 8  # events about cash and debt: the filing is read as one with an alert
FRESH = 3.0  # how much earlier a new or changed sentence is asked, in units of rank
MAX_ALERTS = 6  # sentences of one family that are listed
# Words that two sentences share whatever they say.
_STOP = frozenset(
    (
        *("the", "and", "our", "its", "for", "that", "with", "from", "are", "was", "were", "has"),
        *("have", "had", "this", "which", "been", "not", "any", "other", "such", "these"),
        *("their", "may", "also"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """
    What came of reading the evidence of one ticker.

    Attributes
    ----------
    chosen
        The sentences to ask, in document order.
    passages
        What each of them says, in the same order; empty where no sentence was read for that.
    alerts
        The decisive events of the company itself, by family.
    not_asked
        Of what was read and not chosen: how many of each kind, of each part, and in all. Empty
        where everything is asked.
    is_cut
        Whether a higher limit may let more through: the limit is reached, and is not the most
        that filings are asked.
    """

    chosen: tuple[Sentence, ...]
    passages: tuple[Passage, ...] = ()
    alerts: tuple[Passage, ...] = ()
    not_asked: Mapping[str, Any] = field(default_factory=dict)
    is_cut: bool = False

    @property
    def has_filing(self) -> bool:
        """Whether a sentence of a filing is chosen."""
        return any(is_filing(one.document) for one in self.chosen)


def select_sentences(
    sentences: Sequence[Sentence],
    bearing: Sequence[Sentence],
    limit: int,
    families: Sequence[Family],
    choose_rest: Callable[[Sequence[Sentence], int], Sequence[Sentence]],
    *,
    is_fresh: Callable[[Sentence], bool] | None = None,
) -> Choice:
    """
    Return the sentences to ask, the alerts, and the account of the others.

    Parameters
    ----------
    sentences
        All of the ticker's, in document order.
    bearing
        Those of them that bear on the query.
    limit
        How many may be asked. All are asked where they are no more, and no long filing is among
        them.
    choose_rest
        Called with sentences of news and notes and a number: which of them fill the free places.
    is_fresh
        Whether a sentence is new or changed since last year; such a one comes first.
    """
    passages = read_passages(sentences, families)
    alerts = tuple(find_alerts([one for one in passages if one.sentence.document.ticker]))
    wanted = {id(one) for one in bearing}
    passages = [one for one in passages if id(one.sentence) in wanted]
    if is_fresh is not None:
        passages = [_prefer(one) if is_fresh(one.sentence) else one for one in passages]
    filings = [one for one in passages if is_filing(one.sentence.document)]
    if len(bearing) <= limit and len(filings) <= MAX_ASKED:
        return Choice(chosen=tuple(bearing), passages=tuple(passages), alerts=alerts)
    notes = [one for one in passages if not is_filing(one.sentence.document)]
    asked = choose_passages(filings, min(limit, MAX_ASKED)) if filings else []
    room = max(limit - len(asked), limit // 2 if filings else limit)
    chosen = {id(one.sentence) for one in _choose_notes(notes, room, choose_rest)}
    chosen |= {id(one.sentence) for one in asked[: limit - len(chosen)]}
    taken = [one for one in passages if id(one.sentence) in chosen]
    left = [one for one in passages if id(one.sentence) not in chosen]
    return Choice(
        chosen=tuple(one.sentence for one in taken),
        passages=tuple(taken),
        alerts=alerts,
        is_cut=len(chosen) >= limit and (bool(notes) or limit < MAX_ASKED),
        not_asked={
            "read": len(sentences),
            "asked": len(chosen),
            "kinds": dict(Counter(one.kind for one in left).most_common()),
            "sections": dict(Counter(one.section for one in left).most_common()),
        },
    )


def _prefer(passage: Passage) -> Passage:
    """Rank a new or changed sentence before others of its family; one of no rank stays so."""
    return replace(passage, rank=passage.rank + FRESH) if passage.rank > 0 else passage


def _choose_notes(
    notes: Sequence[Passage],
    room: int,
    choose_rest: Callable[[Sequence[Sentence], int], Sequence[Sentence]],
) -> list[Passage]:
    """Return the events among news and notes, and then what else fills the room."""
    if len(notes) <= room:
        return list(notes)
    chosen = choose_passages([one for one in notes if one.kind == "event"], room)
    done = {id(one) for one in chosen}
    rest = {id(one.sentence): one for one in notes if id(one) not in done}
    if room > len(chosen):
        more = choose_rest([one.sentence for one in rest.values()], room - len(chosen))
        chosen += [rest[id(one)] for one in more]
    return chosen


def choose_passages(passages: Sequence[Passage], limit: int = MAX_ASKED) -> list[Passage]:
    """
    Return the passages worth asking about, the most telling first: at most `limit`.

    First the four best events of each family. Then events by rank, at most nine of one family
    (eighteen of a decisive one and of ``strain``), and twelve hypotheticals. Where there is an
    alert, or many events about cash, what is left of the limit goes to the next in rank. Of
    sentences that say nearly the same the first one.
    """
    choice = _Choice(limit)
    order = sorted(
        (one for one in passages if one.rank > 0 and one.family is not None),
        key=lambda one: -one.rank,
    )
    choice.add(order, {"*": 0}, MIN_OF_FAMILY)
    wide = [one.family.name for one in order if one.family and one.family.is_decisive]
    quota = dict.fromkeys([*wide, "strain"], 2 * MAX_OF_FAMILY)
    choice.add(order, {**quota, "*": MAX_HYPOTHETICAL}, MAX_OF_FAMILY)
    strained = sum(one.kind == "event" and _is_about_cash(one) for one in choice.chosen)
    if strained >= MANY_OF_CASH or any(one.is_alert for one in choice.chosen):
        choice.add(order, {}, limit)
    return choice.chosen


def _is_about_cash(passage: Passage) -> bool:
    """Tell whether it says that money is short, or a debt is in trouble."""
    family = passage.family
    is_strong = family is not None and family.weight >= HEAVY
    return is_strong and family is not None and family.category in ("liquidity", "credit")


class _Choice:
    """What is chosen so far: near-duplicates and the count of each family are known."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.chosen: list[Passage] = []
        self.seen: list[frozenset[str]] = []
        self.done: set[int] = set()
        self.counts: Counter[str] = Counter()

    def add(self, order: Iterable[Passage], quota: Mapping[str, int], most: int) -> None:
        """Take passages in order, at most `most` of a family where `quota` says nothing else."""
        for passage in order:
            if len(self.chosen) >= self.limit:
                return
            name = passage.family.name if passage.family else ""
            key = name if passage.kind == "event" else "*"
            if id(passage) in self.done or self.counts[key] >= quota.get(key, most):
                continue
            self.done.add(id(passage))
            words = list_words(passage.sentence.text)
            if not any(is_same(words, other) for other in self.seen):
                self.seen.append(words)
                self.counts[key] += 1
                self.chosen.append(passage)


def find_alerts(passages: Sequence[Passage]) -> list[Passage]:
    """Return the decisive events of the company itself by family, the most telling first."""
    by_rank = sorted((one for one in passages if one.is_alert), key=lambda one: -one.rank)
    found: list[Passage] = []
    seen: list[frozenset[str]] = []
    counts: Counter[str] = Counter()
    for passage in by_rank:
        name = passage.family.name if passage.family else ""
        words = list_words(passage.sentence.text)
        if counts[name] < MAX_ALERTS and not any(is_same(words, other) for other in seen):
            seen.append(words)
            counts[name] += 1
            found.append(passage)
    return found


def list_words(text: str) -> frozenset[str]:
    """Return the words of a sentence by which `is_same` tells it from others."""
    return frozenset(re.findall(r"[a-z]{3,}", text.lower())) - _STOP


def is_same(words: frozenset[str], other: frozenset[str]) -> bool:
    """Tell whether two thirds of all words are shared, or nine in ten of the shorter sentence's."""
    both = len(words & other)
    least = min(len(words), len(other))
    return both >= 0.667 * len(words | other) or (both >= 0.9 * least and both >= 6)
