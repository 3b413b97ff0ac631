"""
What there is to read for one ticker: its documents split, its sentences compared and chosen.

A task holds all that decides a selection, so a task may be done in another process or on another
machine (`SelectionMapper`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING, Any

from urisk_nb.risk.evidence import Sentence, SplitDocument, sort_documents, split
from urisk_nb.risk.inputs import Document, Holding, select_documents
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.questions import Example
from urisk_nb.risk.relevance import choose, filter_by_query
from urisk_nb.risk.scoring import SCORE_V1, SCORE_V2
from urisk_nb.risk.taxonomy import Taxonomy
from urisk_nb.risk.tickers import fold_share_class

if TYPE_CHECKING:
    from urisk_nb.risk.changes import Changes
    from urisk_nb.risk.choice import Choice
    from urisk_nb.risk.families import Family
    from urisk_nb.risk.passages import Passage

__all__ = [
    "EvidenceSelection",
    "SelectionMapper",
    "SelectionTask",
    "Split",
    "keep_shared",
    "list_tasks",
    "select_evidence",
    "select_in_turn",
]

MAX_LATER = 3  # documents after the date of the run that are named; more are counted
MAX_SHORT = 60  # sentences that are asked whole, whatever they are of

Split = Callable[[Document], SplitDocument]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSelection:
    """
    What there is to read for one ticker.

    Attributes
    ----------
    chosen
        The sentences that are asked, in the order of date, source and text of their documents.
    sentences, skipped
        How many sentences the documents have, and how many headings, table rows and lines without
        words were left out.
    flags
        ``truncated`` (a higher max_sentences may ask more), ``off_query`` (none of them bears on
        the query), ``shared_evidence`` (a sentence that is asked counts for every company),
        ``hidden_text``, ``injection_suspect``, and those of the documents' dates.
    later
        What the run's date left out, in words; empty where it is nothing.
    left_out
        How many sentences do not bear on the query and are not asked for that.
    changes
        The sentences against those of the previous documents; None where there are none.
    alerts
        The decisive events of the company itself, by family.
    not_asked
        Of much evidence, how many sentences of each kind and part are not asked; else empty.
    passages
        What the words of each chosen sentence say; empty where no model is asked.
    score_version
        ``score_v2`` where a sentence of a filing is chosen, else ``score_v1``.
    """

    chosen: tuple[Sentence, ...]
    sentences: int
    skipped: int
    flags: tuple[str, ...]
    later: str = ""
    left_out: int = 0
    changes: Changes | None = None
    alerts: tuple[Passage, ...] = ()
    not_asked: Mapping[str, Any] = field(default_factory=dict)
    passages: tuple[Passage, ...] = ()
    score_version: str = SCORE_V1

    @property
    def message(self) -> str | None:
        """What was left out, compared and not asked, for the reader; None for none of it."""
        compared = self.changes.note if self.changes else None
        said = (self.later, compared, self._describe_query(), self._describe_reading())
        return "; ".join(filter(None, said)) or None

    def _describe_reading(self) -> str:
        if not self.not_asked:
            return ""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.not_asked["kinds"].items())
        read, chosen = self.not_asked["read"], self.not_asked["asked"]
        return f"{read:,} sentences read, {chosen} chosen; not chosen: {kinds}"

    def _describe_query(self) -> str:
        if not self.left_out:
            return ""
        if self.left_out == self.sentences:
            return f"no sentence bears on the query ({self.sentences} read)"
        return f"the query left out {self.left_out} of {self.sentences} sentences"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelectionTask:
    """
    What the selection of one ticker is made of, and nothing else.

    Attributes
    ----------
    holding
        The ticker.
    documents
        Its own and the shared ones, in the order given, whatever their dates.
    previous
        Likewise of the year before; None where none were given.
    params, taxonomy, examples
        Those of the run.
    as_of
        The date of the run, if it has one.
    families
        Those that the user gave; None: those of the package.
    """

    holding: Holding
    documents: tuple[Document, ...]
    previous: tuple[Document, ...] | None
    params: RiskParams
    taxonomy: Taxonomy
    examples: tuple[Example, ...]
    as_of: date | None = None
    families: tuple[Family, ...] | None = None


SelectionMapper = Callable[[Iterable[SelectionTask]], Iterator[EvidenceSelection]]
"""
Returns the selection of each task, in the order of the tasks. Tasks are made as they are taken: one
that takes them all at once holds the documents of all.
"""


def list_tasks(
    holdings: Iterable[Holding],
    documents: Sequence[Document],
    params: RiskParams,
    *,
    previous: Sequence[Document] | None,
    taxonomy: Taxonomy,
    examples: Sequence[Example],
    as_of: date | None,
    families: Sequence[Family] | None,
) -> Iterator[SelectionTask]:
    """Yield the task of each holding; the parameters are those of `plan.prepare`."""
    places = _index_by_company(documents)
    old_places = _index_by_company(previous or ())
    for holding in holdings:
        yield SelectionTask(
            holding=holding,
            documents=tuple(_find_own(documents, places, holding)),
            previous=None if previous is None else tuple(_find_own(previous, old_places, holding)),
            params=params,
            taxonomy=taxonomy,
            examples=tuple(examples),
            as_of=as_of,
            families=None if families is None else tuple(families),
        )


def select_in_turn(tasks: Iterable[SelectionTask]) -> Iterator[EvidenceSelection]:
    """Yield the selection of each task, made one after the other in this process."""
    split_once = keep_shared()
    for task in tasks:
        yield select_evidence(task, split_once)


def keep_shared(most: int | None = None) -> Split:
    """
    Return `split` for the tasks of several tickers: a shared document is split once.

    Those of one company are not kept: the sentences of thousands of filings take gigabytes.

    Parameters
    ----------
    most
        How many shared documents are kept; default: all.
    """
    split_shared = functools.lru_cache(most)(split)

    def split_once(document: Document) -> SplitDocument:
        return split_shared(document) if document.ticker is None else split(document)

    return split_once


def select_evidence(task: SelectionTask, split_once: Split = split) -> EvidenceSelection:
    """
    Return what there is to read for one ticker, and which of it is asked.

    Parameters
    ----------
    split_once
        Returns the sentences of a document; it may keep those of one that several tasks have.
    """
    params = task.params
    own, flags = select_documents(task.documents, task.holding, params, as_of=task.as_of)
    read, old, note = _split_years(own, _select_previous(task))
    pieces = [split_once(document) for document in sort_documents(read)]
    sentences = [sentence for piece in pieces for sentence in piece.sentences]
    changes = _compare(sentences, old, note, split_once)
    bearing = filter_by_query(sentences, params.query) if params.query else sentences
    choice = _choose(task, sentences, bearing, changes.is_fresh if changes else None)
    holds = {
        "off_query": bool(sentences) and not bearing,
        "shared_evidence": any(one.document.ticker is None for one in choice.chosen),
        "truncated": choice.is_cut and params.llm,
    }
    found = chain(
        flags,
        chain.from_iterable(piece.flags for piece in pieces),
        (flag for flag, is_so in holds.items() if is_so),
    )
    return EvidenceSelection(
        chosen=tuple(_flag_shared(sentence) for sentence in choice.chosen),
        sentences=len(sentences),
        skipped=sum(piece.skipped for piece in pieces),
        flags=tuple(sorted(set(found))),
        later=_describe_later(task.documents, params.as_of or task.as_of),
        left_out=len(sentences) - len(bearing),
        changes=changes.condense({one.id for one in choice.chosen}) if changes else None,
        alerts=choice.alerts,
        not_asked=choice.not_asked,
        passages=choice.passages,
        score_version=SCORE_V2 if choice.has_filing else SCORE_V1,
    )


def _select_previous(task: SelectionTask) -> Sequence[Document] | None:
    if task.previous is None:
        return None
    return select_documents(task.previous, task.holding, task.params, as_of=task.as_of)[0]


def _describe_later(documents: Sequence[Document], as_of: date | None) -> str:
    """Say which documents are after the date of the run: a whole annual report may be."""
    later = sorted(
        (one.date, one.source or one.id)
        for one in documents
        if one.date is not None and as_of is not None and one.date > as_of
    )
    if not later:
        return ""
    shown = ", ".join(f"{name} ({day})" for day, name in later[:MAX_LATER])
    more = f" and {len(later) - MAX_LATER} more" if len(later) > MAX_LATER else ""
    return f"after {as_of}, so not read: {shown}{more}"


def _split_years(
    documents: Sequence[Document], previous: Sequence[Document] | None
) -> tuple[Sequence[Document], Sequence[Document], str]:
    """Return the documents to read, those that they are compared with, and a note on both."""
    texts = sum(one.kind == "text" and one.ticker is not None for one in documents)
    if previous is None and texts < 2:
        return documents, (), ""
    # Late: most runs compare nothing
    from urisk_nb.risk.changes import select_previous

    return select_previous(documents, previous)


def _compare(
    sentences: Sequence[Sentence],
    previous: Sequence[Document],
    note: str,
    split_once: Split,
) -> Changes | None:
    if not previous:
        return None
    from urisk_nb.risk.changes import compare

    old = [one for document in sort_documents(previous) for one in split_once(document).sentences]
    changes = compare(sentences, old, note)
    return changes if changes.current else None


def _choose(
    task: SelectionTask,
    sentences: Sequence[Sentence],
    bearing: Sequence[Sentence],
    is_fresh: Callable[[Sentence], bool] | None,
) -> Choice:
    """Return the sentences that are asked, what they say, and what is counted of the others."""
    # Late: only evidence needs them
    from urisk_nb.risk.choice import Choice, select_sentences
    from urisk_nb.risk.families import has_core_words, load_families

    limit = task.params.max_sentences
    families = task.families or load_families()
    is_short = len(bearing) <= limit and len(sentences) <= MAX_SHORT
    # Read in full only where the label of a model is weighed by it, or an alert may be in it
    if (
        is_short
        and not task.params.llm
        and not has_core_words((one.text for one in sentences), families)
    ):
        return Choice(chosen=tuple(bearing))
    by_words = functools.partial(_choose_by_words, task=task, is_fresh=is_fresh)
    return select_sentences(sentences, bearing, limit, families, by_words, is_fresh=is_fresh)


def _choose_by_words(
    sentences: Sequence[Sentence],
    limit: int,
    *,
    task: SelectionTask,
    is_fresh: Callable[[Sentence], bool] | None,
) -> Sequence[Sentence]:
    """Choose by the words of the categories, the new and changed sentences first."""
    words = [example.text for example in task.examples]

    def take(some: Sequence[Sentence], room: int) -> Sequence[Sentence]:
        return choose(some, task.params.query, task.taxonomy, room, words=words)

    if is_fresh is None:
        return take(sentences, limit)
    first = take([one for one in sentences if is_fresh(one)], limit)
    room = limit - len(first)
    others = [one for one in sentences if not is_fresh(one)]
    return [*first, *(take(others, room) if room else ())]


def _find_own(
    documents: Sequence[Document], places: Mapping[str | None, list[int]], holding: Holding
) -> list[Document]:
    """Return a company's documents and the shared ones, in their order."""
    own = places.get(fold_share_class(holding.symbol), ())
    return [documents[place] for place in sorted((*own, *places.get(None, ())))]


def _index_by_company(documents: Sequence[Document]) -> dict[str | None, list[int]]:
    """
    Return where the documents of each company stand, and under None the shared ones.

    Comparing each document with each ticker would take seconds for some hundred companies.
    """
    places: dict[str | None, list[int]] = {}
    for place, document in enumerate(documents):
        company = None if document.ticker is None else fold_share_class(document.ticker)
        places.setdefault(company, []).append(place)
    return places


def _flag_shared(sentence: Sentence) -> Sentence:
    """Mark a sentence that counts for every company, so that its finding says so."""
    if sentence.document.ticker is not None:
        return sentence
    return replace(sentence, flags=tuple(sorted({*sentence.flags, "shared_evidence"})))
