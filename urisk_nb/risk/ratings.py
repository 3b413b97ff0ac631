"""
What the labels of one ticker count for: the severity of each sentence after the rules, and from
these the rating of each category and the score.

A model's label is an opinion on one sentence. The words limit what it counts for, and a high rating
needs a second sentence that confirms it. docs/filings.md has the rules. Pure: a plan and findings
in, ratings out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from urisk_nb.risk.choice import is_same, list_words
from urisk_nb.risk.families import Family
from urisk_nb.risk.judges import DISAGREE
from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.passages import Passage, is_filing
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.questions import Label
from urisk_nb.risk.scoring import SCORE_V2, Level, Score, score
from urisk_nb.risk.selection import EvidenceSelection
from urisk_nb.risk.taxonomy import NONE, Taxonomy

__all__ = ["REVIEW_RULES", "CountedSentence", "Rating", "Rule", "TickerRatings", "rate_ticker"]

MIN_READ = 60  # sentences; a shorter filing is a notice or an extract
MAX_ALONE = 2  # the highest rating that one sentence of a filing gives
FEW_EVENTS = 5  # that count 2 or more; with fewer, Low only means that the filing says little


class Rule(StrEnum):
    """Why a sentence counts for more or less than its label, or a category than its worst one."""

    HYPOTHETICAL = "hypothetical, at most 1"
    ROUTINE = "routine, at most 1"
    RESOLVED = "resolved, at most 1"
    THIRD_PARTY = "another company's case, at most 2"
    OLD = "three years old, at most 2"
    NO_FAMILY = "no words of distress, at most 2"
    OTHER_CATEGORY = "not its family's category, at most 2"
    CAP = "capped by its family"
    NOT_CORE = "no core words, below the cap"
    ALERT = "raised as an alert"
    CATEGORY = "moved to its family's category"
    NEAR_DUPLICATE = "near-duplicate, counted once"
    LOW_PROBABILITY = "low probability"
    DISAGREE = "judges disagree"
    ALONE = "only one sentence, lowered"


REVIEW_RULES = (Rule.LOW_PROBABILITY, Rule.DISAGREE)
# Those that change a severity, and so a rating
_OF_SEVERITY = frozenset(Rule) - {Rule.CATEGORY, *REVIEW_RULES}
_TAGS = {"resolved": (1, Rule.RESOLVED), "third_party": (2, Rule.THIRD_PARTY), "old": (2, Rule.OLD)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedSentence:
    """
    What one sentence counts for.

    Attributes
    ----------
    passage
        What its words say.
    category, severity
        None where it does not count.
    stands_alone
        The highest rating that it gives without a second sentence.
    rules
        What changed it.
    """

    passage: Passage
    category: str | None = None
    severity: int | None = None
    stands_alone: int = MAX_ALONE
    rules: tuple[Rule, ...] = ()

    @property
    def is_review(self) -> bool:
        """Whether the label is to review by a person."""
        return not set(REVIEW_RULES).isdisjoint(self.rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """
    The severity of one category.

    Attributes
    ----------
    findings
        Which findings give it, as places in the ticker's findings, the worst first.
    rules
        Those of these sentences, and whether one alone was not enough.
    """

    category: str
    severity: int
    findings: tuple[int, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TickerRatings:
    """
    What the findings of one ticker add up to.

    Attributes
    ----------
    counted
        One for each finding, in their order.
    ratings
        The rated categories, in the order of the taxonomy.
    flags
        ``review``, ``no_p_label``, ``thin_filing``, ``nothing_decisive``, ``low_alert``, and those
        of the score.
    """

    version: str
    counted: tuple[CountedSentence, ...]
    ratings: tuple[Rating, ...]
    score: Score
    flags: tuple[str, ...]

    @property
    def to_review(self) -> int:
        """How many labels are to review by a person."""
        return sum(one.is_review for one in self.counted)


def rate_ticker(plan: Plan, labeled: TickerFindings) -> TickerRatings:
    """
    Return what the findings of a ticker count for.

    Parameters
    ----------
    plan
        The run; the ticker has a selection of evidence in it.
    labeled
        A finding for each sentence that was chosen there, in that order.
    """
    selection = plan.selections[labeled.symbol]
    counted = [
        _count(finding, passage, plan.taxonomy, plan.review_below)
        for finding, passage in zip(labeled.findings, selection.passages, strict=True)
    ]
    if selection.score_version == SCORE_V2:
        _merge_duplicates(counted)
    ratings = tuple(_rate(counted, plan.taxonomy, selection.score_version))
    result = score(
        {one.category: one.severity for one in ratings},
        plan.taxonomy,
        # A label that does not count says nothing, not even that there is no risk
        judged=any(
            finding.label is not None and not one.is_review
            for finding, one in zip(labeled.findings, counted, strict=True)
        ),
        version=selection.score_version,
    )
    result = _withhold(result, selection)
    has_missing = any(
        one.label and one.p_label is None and one.override is None for one in labeled.findings
    )
    holds = {
        "review": any(one.is_review for one in counted),
        "no_p_label": bool(plan.params.review_below) and has_missing,
        "nothing_decisive": _says_nothing(result, selection, counted),
        "low_alert": result.level == Level.LOW and _has_weak_alert(labeled, selection, counted),
    }
    flags = (*result.flags, *(flag for flag, is_so in holds.items() if is_so))
    return TickerRatings(
        version=selection.score_version,
        counted=tuple(counted),
        ratings=ratings,
        score=result,
        flags=flags,
    )


def _withhold(result: Score, selection: EvidenceSelection) -> Score:
    """Return NR for Low where a filing is too short to say that nothing is wrong."""
    is_thin = selection.score_version == SCORE_V2 and selection.sentences < MIN_READ
    if not (is_thin and result.level == Level.LOW):
        return result
    return replace(result, score=None, level=Level.NR, flags=("thin_filing",))


def _says_nothing(
    result: Score, selection: EvidenceSelection, counted: Sequence[CountedSentence]
) -> bool:
    """Tell whether Low only means that a filing says little: nothing decisive, and few events."""
    if selection.score_version != SCORE_V2 or result.level != Level.LOW or selection.alerts:
        return False
    return sum((one.severity or 0) >= MAX_ALONE for one in counted) < FEW_EVENTS


def _has_weak_alert(
    labeled: TickerFindings, selection: EvidenceSelection, counted: Sequence[CountedSentence]
) -> bool:
    """Tell whether an alert counts for less than its words do in a filing; a person may say so."""
    alerts = {passage.sentence.id: passage.family for passage in selection.alerts}
    return any(
        (family := alerts.get(finding.sentence.id)) is not None
        and finding.override is None
        and (one.severity or 0) < family.floor
        for finding, one in zip(labeled.findings, counted, strict=True)
    )


# One sentence -------------------------------------------------------------------------------------


def _count(
    finding: Finding, passage: Passage, taxonomy: Taxonomy, review_below: float | None
) -> CountedSentence:
    """Return what one sentence counts for, without regard to the others."""
    if finding.override is not None:
        return _count_correction(passage, finding.label)
    p_label = finding.p_label
    holds = {
        Rule.LOW_PROBABILITY: review_below is not None
        and p_label is not None
        and p_label < review_below,
        Rule.DISAGREE: DISAGREE in finding.flags,
    }
    doubt = tuple(rule for rule, is_so in holds.items() if is_so)
    label = None if doubt else finding.label
    named = None if label is None or label.risk == NONE else label
    document = finding.sentence.document
    own = _own_category(passage, taxonomy) if is_filing(document) else None
    moved = (Rule.CATEGORY,) if own and named and own != named.risk else ()
    if own and passage.family and passage.is_alert and document.ticker is not None:
        one = _count_alert(passage, passage.family, own, named.severity if named else 0)
        return replace(one, rules=(*one.rules, *moved, *doubt))
    if named is None:
        return CountedSentence(passage=passage, rules=doubt)
    limits = [
        (named.severity, None),
        *_list_limits(passage, named.risk, taxonomy, is_filing=is_filing(document)),
    ]
    severity, rule = min(limits, key=lambda one: one[0])
    return CountedSentence(
        passage=passage,
        category=own or named.risk,
        severity=severity,
        stands_alone=MAX_ALONE if is_filing(document) else severity,
        rules=(*((rule,) if rule else ()), *moved),
    )


def _count_correction(passage: Passage, label: Label | None) -> CountedSentence:
    """
    Return what a label counts for that a person gave: itself, and it needs no second sentence.

    The rules of the words are a guess at what a reader would say, and here one has read it.
    """
    if label is None or label.risk == NONE:
        return CountedSentence(passage=passage)
    return CountedSentence(
        passage=passage,
        category=label.risk,
        severity=label.severity,
        stands_alone=label.severity,
    )


def _count_alert(passage: Passage, family: Family, category: str, severity: int) -> CountedSentence:
    """
    Return what an alert counts for: the floor of its family or more, whatever the model says.

    Where the model agrees it needs no second sentence, else it counts one less without one.
    """
    counts = min(max(severity, family.floor), family.cap)
    changed = {severity < counts: Rule.ALERT, severity > counts: Rule.CAP}
    return CountedSentence(
        passage=passage,
        category=category,
        severity=counts,
        stands_alone=max(family.floor - (severity < family.floor), MAX_ALONE),
        rules=(changed[True],) if True in changed else (),
    )


def _own_category(passage: Passage, taxonomy: Taxonomy) -> str | None:
    """Return the category of a decisive event in core words, which its family decides."""
    family = passage.family
    is_decisive = family is not None and family.is_decisive and passage.is_core
    if family is None or not is_decisive or passage.kind != "event":
        return None
    return family.category if family.category in taxonomy.ids else None


def _list_limits(
    passage: Passage, risk: str, taxonomy: Taxonomy, *, is_filing: bool
) -> Iterator[tuple[int, Rule]]:
    """Yield the severities that the words allow at most in the category of the label."""
    family = passage.family
    if passage.kind == "hypothetical":
        yield 1, Rule.HYPOTHETICAL
    if not is_filing:
        return
    if family is None:
        yield 2, Rule.NO_FAMILY
        return
    if passage.kind == "routine":
        yield 1, Rule.ROUTINE
        return
    is_around = family.is_decisive and not passage.is_core
    yield (family.cap - 1, Rule.NOT_CORE) if is_around else (family.cap, Rule.CAP)
    is_other = risk != family.category and family.category in taxonomy.ids
    if is_other and (is_around or not family.is_decisive):
        yield 2, Rule.OTHER_CATEGORY
    for tag in passage.tags:
        yield _TAGS[tag]


# Categories ---------------------------------------------------------------------------------------


def _merge_duplicates(counted: list[CountedSentence]) -> None:
    """Count only the strongest of the sentences that say nearly the same."""
    order = sorted(
        range(len(counted)),
        key=lambda place: (-(counted[place].severity or 0), -counted[place].stands_alone, place),
    )
    seen: list[tuple[str, frozenset[str]]] = []
    for place in order:
        one = counted[place]
        # Ratings this low need no second sentence, so near-duplicates change nothing
        if one.category is None or one.severity is None or one.severity <= MAX_ALONE:
            continue
        words = list_words(one.passage.sentence.text)
        if any(one.category == other and is_same(words, known) for other, known in seen):
            rules = (*one.rules, Rule.NEAR_DUPLICATE)
            counted[place] = replace(one, category=None, severity=None, rules=rules)
        else:
            seen.append((one.category, words))


def _rate(counted: Sequence[CountedSentence], taxonomy: Taxonomy, version: str) -> Iterator[Rating]:
    """
    Yield the rating of each category that a sentence counts for.

    By score_v1 it is the highest severity. By score_v2 it is the highest that two sentences have,
    or that one has which needs no second.
    """
    for category in taxonomy.ids:
        places = [place for place, one in enumerate(counted) if one.category == category]
        if not places:
            continue
        severities = sorted((counted[place].severity or 0 for place in places), reverse=True)
        severity = severities[0]
        if version == SCORE_V2:
            alone = max(
                min(counted[place].severity or 0, counted[place].stands_alone) for place in places
            )
            severity = max([alone, *severities[1:2]])
        named = [place for place in places if (counted[place].severity or 0) >= severity]
        named.sort(key=lambda place: (-(counted[place].severity or 0), place))
        rules = dict.fromkeys(
            rule for place in named for rule in counted[place].rules if rule in _OF_SEVERITY
        )
        lowered = (Rule.ALONE,) if severity < severities[0] else ()
        yield Rating(
            category=category,
            severity=severity,
            findings=tuple(named),
            rules=(*lowered, *rules),
        )
