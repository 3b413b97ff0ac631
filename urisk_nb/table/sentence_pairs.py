"""
Which sentence of one run is which of another: by content, since numbers and places move.

The rules are those of last year's documents (`urisk_nb.risk.changes`): the same words are the same
sentence; at least half of the words make it a changed one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from urisk_nb.render.table_content import MAX_REASON_CHARS, describe_override
from urisk_nb.risk.changes import find_near, fold_words
from urisk_nb.risk.evidence import Sentence, clean_text
from urisk_nb.risk.inputs import Document, Section
from urisk_nb.risk.values import is_missing

__all__ = [
    "SentencePair",
    "describe_correction",
    "describe_count",
    "describe_label",
    "name_cells",
    "pair_sentences",
]

Kind = Literal["same", "changed", "new", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePair:
    """
    A sentence of the newer run and what it was in the older one.

    Attributes
    ----------
    kind
        ``same`` (the same words), ``changed`` (another wording), ``new`` or ``gone``.
    new, old
        Its rows in the findings; None where it is not there.
    """

    kind: Kind
    new: Mapping[str, Any] | None
    old: Mapping[str, Any] | None

    @property
    def quote(self) -> str:
        """The newer wording, else the older one."""
        row = self.new or self.old or {}
        return str(row["quote"])

    @property
    def weight(self) -> int:
        """How much it counts in the run in which it counts more; -1 where it counts in none."""
        counted = [row["counted"] for row in (self.new, self.old) if row is not None]
        return max((int(one) for one in counted if not is_missing(one)), default=-1)

    @property
    def categories(self) -> set[str]:
        """The categories that it counts for, in either run."""
        rows = [row for row in (self.new, self.old) if row is not None]
        return {row["counted_as"] for row in rows if not is_missing(row["counted_as"])}

    @property
    def is_moved(self) -> bool:
        """
        Whether it may move the row: it came or went, its label or count is another, or a person
        corrected it in one of the runs.
        """
        if self.new is None or self.old is None:
            return True
        new, old = self.new, self.old
        said = [(describe_label(row), describe_count(row)) for row in (new, old)]
        return said[0] != said[1] or describe_correction(new, old) is not None


def describe_label(row: Mapping[str, Any] | None) -> str | None:
    """Return the label of a sentence: "legal 3", "none", "no label"; None without a sentence."""
    if row is None:
        return None
    if is_missing(row["risk"]):
        return "no label"
    return "none" if row["risk"] == "none" else f"{row['risk']} {row['severity']}"


def describe_count(row: Mapping[str, Any]) -> str:
    """Return what a sentence counts for, and the rule that decides it."""
    rule = "" if is_missing(row["rule"]) else f" ({row['rule']})"
    if is_missing(row["counted"]):
        return f"does not count{rule}"
    return f"counts as {row['counted_as']} {row['counted']}{rule}"


def describe_correction(new: Mapping[str, Any] | None, old: Mapping[str, Any] | None) -> str | None:
    """Return which correction a label or a count is another by; None where none explains it."""
    here, there = (
        None if row is None else describe_override(row, MAX_REASON_CHARS) for row in (new, old)
    )
    if here == there:
        return None
    said = here or f"no longer corrected: {there}"
    return said.replace("; ", ", ")  # causes stand between semicolons


def name_cells(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row of a frame with its names as text."""
    return {str(name): value for name, value in row.items()}


def pair_sentences(
    new_rows: Sequence[Mapping[str, Any]], old_rows: Sequence[Mapping[str, Any]]
) -> list[SentencePair]:
    """
    Pair the findings of one ticker in two runs.

    Parameters
    ----------
    new_rows, old_rows
        Rows of ``report.findings``. A sentence that stands there twice is two sentences.

    Returns
    -------
    list of SentencePair
        Those of the newer run in their order, then those that are gone.
    """
    pairs = _pair_same(new_rows, old_rows)
    left = [place for place in range(len(new_rows)) if place not in pairs]
    taken = set(pairs.values())
    rest = [place for place in range(len(old_rows)) if place not in taken]
    near = find_near(
        [_make_sentence(new_rows[place]) for place in left],
        [_make_sentence(old_rows[place]) for place in rest],
    )
    changed = {left[place]: rest[other] for place, other in near.items()}
    found = []
    for place, row in enumerate(new_rows):
        other = pairs.get(place, changed.get(place))
        kind: Kind = "same" if place in pairs else "changed" if place in changed else "new"
        old = None if other is None else old_rows[other]
        found.append(SentencePair(kind=kind, new=row, old=old))
    taken |= set(changed.values())
    gone = [row for place, row in enumerate(old_rows) if place not in taken]
    return [*found, *(SentencePair(kind="gone", new=None, old=row) for row in gone)]


def _pair_same(
    new_rows: Sequence[Mapping[str, Any]], old_rows: Sequence[Mapping[str, Any]]
) -> dict[int, int]:
    """Pair sentences of the same words: of the same source and section first, then anywhere."""
    new_keys, old_keys = ([_fold(row) for row in rows] for rows in (new_rows, old_rows))
    pairs: dict[int, int] = {}
    for is_exact in (True, False):
        taken = set(pairs.values())
        free: dict[Any, list[int]] = defaultdict(list)
        for place, key in enumerate(old_keys):
            if place not in taken:
                free[key if is_exact else key[0]].append(place)
        for place, key in enumerate(new_keys):
            if place not in pairs and (known := free.get(key if is_exact else key[0])):
                pairs[place] = known.pop(0)
    return pairs


def _fold(row: Mapping[str, Any]) -> tuple[Any, str, str]:
    # A sentence without words, such as a smiley, is itself
    words = fold_words(clean_text(row["quote"])) or row["quote"]
    return words, str(row["source"]), str(row["section"])


def _make_sentence(row: Mapping[str, Any]) -> Sentence:
    """Return what `find_near` reads of a sentence: its text and its section."""
    text, section = row["quote"], row["section"]
    sections = () if is_missing(section) else (Section(name=section, start=0),)
    document = Document(id="", ticker=None, text=text, sections=sections)
    return Sentence(id="", document=document, text=clean_text(text), start=0, end=len(text))
