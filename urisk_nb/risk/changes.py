"""
Compare documents with those of the year before: which sentences are new, changed or gone.

Most of an annual report stands word for word in the one before. What does not is where to read
first. No model is needed, and nothing of it enters the score. docs/filings.md has the rules and
what was measured. Over 400 lines: which documents make a pair and which sentences do is one rule.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.inputs import Document

__all__ = [
    "MIN_OVERLAP",
    "Change",
    "Changes",
    "PackedChanges",
    "compare",
    "find_near",
    "fold_words",
    "select_previous",
]

Kind = Literal["new", "changed", "repeated", "gone"]
KINDS: tuple[Kind, ...] = ("new", "changed", "repeated", "gone")
SHOWN: tuple[Kind, ...] = ("new", "changed", "gone")  # what the table lists, in its order

# The share of words that a changed sentence has in common with its old wording (Jaccard, numbers
# count as one word). Of pairs just above it most say the same thing in both years; below it they
# do not (docs/filings.md).
MIN_OVERLAP = 0.5
# Two filings of one form within so many days are one report, such as its HTML and its PDF file.
SAME_REPORT_DAYS = 30
QUARTER_LAST_YEAR = (305, 425)  # days back to the same quarter of the year before
MAX_CANDIDATES = 500  # old sentences that one new sentence is compared with
_SERIES = ("10-K", "20-F", "40-F", "10-Q")
MIN_EVEN = 0.5  # sentences of one year against the other's; fewer are an extract
UNKNOWN, ANY = "", "*"  # groups of documents: of no known form, and of whatever form is left
MAX_NAMES = 5  # documents that a note names; the rest are counted

_WORD = re.compile(r"[^\W_]+")
_APOSTROPHE = re.compile(r"(?<=\w)['\u2018\u2019\u02bc](?=\w)")
# "see page 45", "pages F-12 to F-15"; and a page number that stands behind the end mark.
_PAGE = re.compile(
    r"\bpages?\s+(?:[a-z]-?)?\d+(?:\s*(?:-|\u2013|to|and|through)\s*(?:[a-z]-?)?\d+)?\b"
    r"|(?<=[.!?])\s+\d{1,3}$"
)
_YEAR_IN_NAME = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    What became of one sentence.

    Attributes
    ----------
    kind
        ``new``, ``changed`` or ``repeated``: a sentence of the current documents. ``gone``: one of
        the previous documents that is in no current one.
    sentence
        Of the current documents; of the previous ones where it is gone.
    old
        The sentence that it was before, where it was changed.
    """

    kind: Kind
    sentence: Sentence
    old: Sentence | None = None


@dataclass(frozen=True, slots=True)
class PackedChanges:
    """
    Changes in little memory: where their sentences stand, and made again when they are read.

    Thousands of companies with two annual reports each have millions of changes. A change with its
    sentences takes half a kilobyte, and 36 bytes here. What a model would read is not kept.
    """

    documents: tuple[Document, ...]
    places: array[int]  # of each change: its kind, and four numbers for each of two sentences

    @classmethod
    def of(cls, changes: Iterable[Change]) -> PackedChanges:
        """Return changes packed, in their order."""
        documents: dict[int, Document] = {}
        numbers: dict[int, int] = {}
        places = array("i")

        def add(sentence: Sentence | None) -> None:
            if sentence is None:
                places.extend((-1, 0, 0, 0))
                return
            document = sentence.document
            documents[id(document)] = document
            number = numbers.setdefault(id(document), len(numbers))
            in_document = int(sentence.id.rpartition(".")[2])
            places.extend((number, in_document, sentence.start, sentence.end))

        for change in changes:
            places.append(KINDS.index(change.kind))
            add(change.sentence)
            add(change.old)
        return cls(tuple(documents.values()), places)

    def __iter__(self) -> Iterator[Change]:
        """Yield the changes; their sentences have no text for a model, only the quote."""
        numbers = iter(self.places)
        for kind, *first in zip(*[numbers] * 9, strict=True):
            sentence = self._build_sentence(*first[:4])
            old = None if first[4] < 0 else self._build_sentence(*first[4:])
            yield Change(kind=KINDS[kind], sentence=sentence, old=old)

    def _build_sentence(self, document: int, number: int, start: int, end: int) -> Sentence:
        its = self.documents[document]
        return Sentence(id=f"{its.id}.{number}", document=its, text="", start=start, end=end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """
    One company's documents against its previous ones.

    Attributes
    ----------
    current
        By sentence id, in document order: what became of each sentence that could be compared; once
        it is condensed, of each that is asked.
    gone
        Sentences of the previous documents that are in no current one, in document order; empty
        once it is condensed.
    note
        Which documents were compared, and which were not used, for the reader.
    previous_count
        How many sentences the previous documents have that it was compared with.
    sections
        Section -> kind -> how many sentences, in document order; "" where there is no section.
    packed
        Once it is condensed: the new, changed and gone sentences.
    """

    current: Mapping[str, Change]
    gone: tuple[Change, ...] = ()
    note: str = ""
    previous_count: int = 0
    sections: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    packed: PackedChanges | None = None

    def __post_init__(self) -> None:
        """Count once: rows, messages and the view all want the figures."""
        if not self.sections:
            found: dict[str, dict[str, int]] = {}
            for change in (*self.current.values(), *self.gone):
                counts = found.setdefault(change.sentence.section or "", dict.fromkeys(KINDS, 0))
                counts[change.kind] += 1
            object.__setattr__(self, "sections", found)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many sentences of each kind there are."""
        return {kind: sum(each[kind] for each in self.sections.values()) for kind in KINDS}

    @property
    def share_repeated(self) -> float:
        """Repeated sentences as a share (0 to 1) of those that could be compared."""
        return self.counts["repeated"] / self._compared_count

    @property
    def _compared_count(self) -> int:
        counts = self.counts
        return sum(counts.values()) - counts["gone"]

    @property
    def is_uneven(self) -> bool:
        """Whether one year has less than half of the other's sentences, as an extract has."""
        years = (self._compared_count, self.previous_count)
        return min(years) < MIN_EVEN * max(years)

    def is_fresh(self, sentence: Sentence) -> bool:
        """Return whether a sentence is new or changed."""
        change = self.current.get(sentence.id)
        return change is not None and change.kind != "repeated"

    def list_shown(self) -> Iterable[Change]:
        """Return the new, the changed and the gone sentences, in this order."""
        if self.packed is not None:
            return self.packed
        every = (*self.current.values(), *self.gone)
        return [change for kind in SHOWN for change in every if change.kind == kind]

    def condense(self, chosen: Collection[str]) -> Changes:
        """Return the same with what becomes of the chosen sentences, and the others packed."""
        return replace(
            self,
            current={id_: change for id_, change in self.current.items() if id_ in chosen},
            gone=(),
            packed=PackedChanges.of(self.list_shown()),
        )


# Sentences ----------------------------------------------------------------------------------------


def compare(current: Sequence[Sentence], previous: Sequence[Sentence], note: str = "") -> Changes:
    """
    Compare sentences with those of the previous documents.

    A filing is compared with filings of its form, news with news, else each with texts of no form.
    A text of no form is compared with whatever is left. Sentences without a counterpart are in no
    count: a call beside two annual reports is not new.

    Parameters
    ----------
    current, previous
        In document order.
    note
        For the reader, kept as it is.

    Notes
    -----
    Repeated: the same words after folding case, white space, punctuation and page numbers. Changed:
    the closest old sentence of those that are not repeated shares at least `MIN_OVERLAP` of its
    words, within the section first, then anywhere; each old sentence is used once. A number counts
    as any other number, so years and amounts that roll forward are changed.
    """
    groups, old_groups = _group(current), _group(previous)
    left_over = [
        one for kind, sentences in old_groups.items() if kind not in groups for one in sentences
    ]
    pools: dict[str, list[Sentence]] = {}  # what is compared with one group of old ones
    for kind, sentences in groups.items():
        place = kind if kind in old_groups else ANY if kind == UNKNOWN and left_over else UNKNOWN
        pools.setdefault(place, []).extend(sentences)
    found: dict[str, Change] = {}
    gone: list[Change] = []
    count = 0
    for place, sentences in pools.items():
        if old := left_over if place == ANY else old_groups.get(place):
            changes, left = _compare_group(sentences, old)
            found |= {change.sentence.id: change for change in changes}
            gone += left
            count += len(old)
    order = {sentence.id: number for number, sentence in enumerate(previous)}
    return Changes(
        current={one.id: found[one.id] for one in current if one.id in found},
        gone=tuple(sorted(gone, key=lambda change: order[change.sentence.id])),
        note=note,
        previous_count=count,
    )


def find_near(current: Sequence[Sentence], previous: Sequence[Sentence]) -> dict[int, int]:
    """
    Return, for each new sentence that has one, the closest old sentence: place -> place.

    Pairs of the same section come first, then the more similar, then those that stand nearest to
    each other. Each old sentence is given once. Only sentences that share one of their rarest words
    can reach the threshold, so only those are compared.
    """
    new_words, old_words = (
        [frozenset(fold_numbers(fold_words(one.text))) for one in given]
        for given in (current, previous)
    )
    ranked = sorted(_rank_pairs(current, previous, new_words, old_words))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for *_, place, other in ranked:
        if place not in pairs and other not in taken:
            pairs[place] = other
            taken.add(other)
    return pairs


def fold_words(text: str) -> tuple[str, ...]:
    """Return the words of a sentence without case, punctuation and the numbers of pages."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_WORD.findall(_APOSTROPHE.sub("", _PAGE.sub(" page", folded))))


def fold_numbers(words: Iterable[str]) -> Iterator[str]:
    """Yield the words with every number as the same word."""
    for word in words:
        yield "0" if word[0].isdigit() else word


def _compare_group(
    current: Sequence[Sentence], previous: Sequence[Sentence]
) -> tuple[list[Change], list[Change]]:
    new_keys, old_keys = ([fold_words(one.text) for one in given] for given in (current, previous))
    known, still = set(old_keys), set(new_keys)
    fresh = [one for one, key in zip(current, new_keys, strict=True) if key not in known]
    left = [one for one, key in zip(previous, old_keys, strict=True) if key not in still]
    near = find_near(fresh, left)
    old_of = {fresh[place].id: left[other] for place, other in near.items()}
    fresh_ids = {one.id for one in fresh}
    changes = [
        Change(
            kind="repeated"
            if one.id not in fresh_ids
            else "changed"
            if one.id in old_of
            else "new",
            sentence=one,
            old=old_of.get(one.id),
        )
        for one in current
    ]
    taken = set(near.values())
    gone = [Change(kind="gone", sentence=one) for n, one in enumerate(left) if n not in taken]
    return changes, gone


def _rank_pairs(
    current: Sequence[Sentence],
    previous: Sequence[Sentence],
    new_words: Sequence[frozenset[str]],
    old_words: Sequence[frozenset[str]],
) -> Iterator[tuple[bool, float, float, int, int]]:
    """Yield each pair above the threshold, with what ranks it; the best pair is the smallest."""
    counts = Counter(word for words in (*new_words, *old_words) for word in words)
    index: dict[str, list[int]] = defaultdict(list)
    for other, words in enumerate(old_words):
        for word in _list_rarest(words, counts):
            index[word].append(other)
    old_sections = [_fold_section(one) for one in previous]
    for place, words in enumerate(new_words):
        section = _fold_section(current[place])
        goal = place * len(old_words) / len(new_words)
        for other in _find_candidates(_list_rarest(words, counts), index, goal):
            shared = len(words & old_words[other])
            overlap = shared / (len(words) + len(old_words[other]) - shared)
            if overlap < MIN_OVERLAP:
                continue
            elsewhere = section is None or section != old_sections[other]
            yield elsewhere, -overlap, abs(goal - other), place, other


def _find_candidates(
    words: Iterable[str], index: Mapping[str, Sequence[int]], goal: float
) -> set[int]:
    """
    Return the places of old sentences that have one of the words: all, up to `MAX_CANDIDATES`.

    Beyond that those nearest to a place are taken: a list of a thousand items of one wording must
    not take a thousand comparisons for each of them.
    """
    found: set[int] = set()
    for word in words:
        places = index.get(word, ())
        if len(places) > (room := MAX_CANDIDATES - len(found)):
            start = max(bisect_left(places, goal) - room // 2, 0)
            places = places[start : start + room]
        found.update(places)
    return found


def _list_rarest(words: frozenset[str], counts: Mapping[str, int]) -> list[str]:
    """
    Return the rarest words of a sentence: as many as it cannot do without.

    Of n words at least ceil(MIN_OVERLAP * n) are shared, so one of the n + 1 minus that many
    rarest is among the shared ones, of either sentence (prefix filter: Chaudhuri and others, 2006).
    """
    needed = -int(-MIN_OVERLAP * len(words) // 1)
    return sorted(words, key=lambda word: (counts[word], word))[: len(words) + 1 - needed]


def _fold_section(sentence: Sentence) -> str | None:
    """Return what names the same section in another year; a page of a PDF file does not."""
    name = (sentence.section or "").casefold()
    return None if not name or name.startswith("page ") else name


# Documents ----------------------------------------------------------------------------------------


def select_previous(
    documents: Sequence[Document], given: Sequence[Document] | None = None
) -> tuple[tuple[Document, ...], tuple[Document, ...], str]:
    """
    Find the documents to read and the previous ones that they are compared with.

    Parameters
    ----------
    documents
        One company's, with the shared ones.
    given
        What the user gave as previous; None where the years are in one folder.

    Returns
    -------
    current
        What is read: all of them where the previous ones were given. Else of the reports of one
        form the newest.
    previous
        What they are compared with: of the reports of one form the newest that is older than the
        current one, of quarterly ones that of the same quarter of the year before if it is there.
    note
        Which is compared with which, and which is not used.

    Notes
    -----
    Reports of a form are told apart by their dates, or by the years in their names where none has a
    date. Amendments (10-K/A) are read beside the report and never compared with it.
    """
    if given is not None:
        previous, unused = _drop_older(documents, given)
        return tuple(documents), previous, _describe(previous, unused)
    found: list[Document] = []
    unused = []
    for series, reports in _group_series(documents).items():
        dated = _date_reports(reports)
        newest = max((day for day, one in dated if not _is_amendment(one)), default=None)
        if newest is None or not (older := _find_older(series, newest, dated)):
            continue
        found += older
        unused += [
            one for day, one in dated if not _is_same_report(newest, day) and one not in older
        ]
    left_out = {id(one) for one in (*found, *unused)}
    current = tuple(one for one in documents if id(one) not in left_out)
    return current, tuple(found), _describe(found, unused)


def _drop_older(
    documents: Sequence[Document], given: Sequence[Document]
) -> tuple[tuple[Document, ...], list[Document]]:
    """Return the previous documents that are used, and the reports of other years among them."""
    own, unused = _group_series(documents), list[Document]()
    for series, reports in _group_series(given).items():
        mine = own.get(series, [])
        dated = _date_reports([*mine, *reports])
        if not mine or len(reports) < 2 or not dated:
            continue
        newest = max(day for day, _ in dated[: len(mine)])
        older = _find_older(series, newest, dated[len(mine) :])
        unused += [one for one in reports if one not in older]
    left_out = {id(one) for one in unused}
    return tuple(one for one in given if id(one) not in left_out), unused


def _find_older(
    series: str, newest: date, dated: Iterable[tuple[date, Document]]
) -> list[Document]:
    """Return the report before the newest one, in each of its forms (HTML, PDF)."""
    older = [
        (day, one)
        for day, one in dated
        if day < newest and not _is_same_report(newest, day) and not _is_amendment(one)
    ]
    if series == "10-Q":
        low, high = QUARTER_LAST_YEAR
        older = [pair for pair in older if low <= (newest - pair[0]).days <= high] or older
    last = max((day for day, _ in older), default=None)
    return [one for day, one in older if last and _is_same_report(last, day)]


def _is_same_report(newest: date, day: date) -> bool:
    # A later amendment belongs to it, too.
    return (newest - day).days <= SAME_REPORT_DAYS


def _group_series(documents: Iterable[Document]) -> dict[str, list[Document]]:
    groups: dict[str, list[Document]] = {}
    for one in documents:
        if one.ticker is not None and (series := _find_series(one)):
            groups.setdefault(series, []).append(one)
    return groups


def _find_series(document: Document) -> str | None:
    """
    Return the form of a regular report, without its variants (10-K405, 10-KSB, 10-K/A), or None.

    A text without its cover is a 10-K or 10-Q by the items that only these have.
    """
    if document.form is not None:
        return next((base for base in _SERIES if document.form.startswith(base)), None)
    names = {section.name for section in document.sections}
    if {"Item 1", "Item 7"} <= names:
        return "10-K"
    return "10-Q" if "Part I, Item 2" in names else None


def _date_reports(reports: Sequence[Document]) -> list[tuple[date, Document]]:
    """
    Return reports with the days that tell them apart: their dates, or the ends of the years in
    their names where one has no date; empty where neither is known of all.
    """
    dated = [(one.date, one) for one in reports if one.date]
    if len(dated) < len(reports):
        years = [_YEAR_IN_NAME.findall(one.source or "") for one in reports]
        dated = [
            (date(int(found[-1]), 12, 31), one)
            for found, one in zip(years, reports, strict=True)
            if found
        ]
    return dated if len(dated) == len(reports) else []


def _is_amendment(document: Document) -> bool:
    return (document.form or "").endswith("/A")


def _describe(previous: Sequence[Document], unused: Sequence[Document]) -> str:
    """Say what was compared and what was not used, as one sentence; "" for nothing."""
    parts = [f"compared with {_list_names(previous)}"] if previous else []
    parts += [f"older reports not used: {_list_names(unused)}"] if unused else []
    return "; ".join(parts)


def _list_names(documents: Sequence[Document]) -> str:
    names = list(dict.fromkeys(one.source or one.id for one in documents))
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _group(sentences: Iterable[Sentence]) -> dict[str, list[Sentence]]:
    """Return sentences by what they can be compared with: "news", a form, or "" where unknown."""
    groups: dict[str, list[Sentence]] = {}
    kinds: dict[int, str] = {}
    for one in sentences:
        document = one.document
        if (kind := kinds.get(id(document))) is None:
            known = _find_series(document) or (document.form or "").removesuffix("/A")
            kind = kinds[id(document)] = "news" if document.kind == "news" else known
        groups.setdefault(kind, []).append(one)
    return groups
