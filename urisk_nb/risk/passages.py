"""
What the sentences of a document say, by their words alone: family of distress, kind, tags, rank.

A filing has two thousand sentences, and a reader must see some ten. No model is asked. The rules
and their measured recall are in docs/filings.md. Over 400 lines: the closed lists of words stand
beside the rules that read them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Literal, NamedTuple

from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.families import Cue, CueFinder, Family, fold_text, make_finder
from urisk_nb.risk.inputs import Document, Section

__all__ = ["HEAVY", "Passage", "find_parts", "is_filing", "read_passages"]

MAX_NOTE_CHARS = 20_000  # a longer text is no note on a company, but its report
HEAVY = 7  # weight of a family whose events show distress
MAX_DAYS_LATE = 45  # a fiscal year that ends in January belongs to the year before
MAX_REPORTS = 500  # of auditors, in one document; a filing has a few
MAX_DROPPED_CHARS = 40_000  # a longer "Properties" has swallowed the items after it

Kind = Literal["event", "hypothetical", "routine"]
_KIND_ORDER: dict[str, int] = {"routine": 0, "hypothetical": 1, "event": 2}

# Sections -----------------------------------------------------------------------------------------

_TITLES = (
    ("risk_factors", "risk factors"),
    ("legal", "legal"),
    ("mdna", "management"),
    ("market_risk", "quantitative|qualitative|market risk"),
    ("defaults", "default"),
    ("controls", "controls|evaluation|unresolved|mine|safety|submission|cyber"),
    ("people", r"directors|our directors|executive comp|security own|certain rel|principal acc"),
    ("exhibits", r"exhibit|form 10"),
    ("stock", r"market for|unregistered|sales of|issuer"),
    ("accountants", r"changes? in and"),
    ("statements", r"financial st|consolidated fin|condensed|index to"),
    ("selected", r"selected|\W?reserved|\W?removed"),
    ("properties", r"propert|description of prop"),
    ("business", r"business|description of bus|general"),
    ("other", r"other|disclosures? regarding"),
)
_BY_ITEM = {
    "1": "business",
    "1A": "risk_factors",
    "1B": "controls",
    "1C": "controls",
    "2": "properties",
    "3": "legal",
    "4": "controls",
    "5": "stock",
    "6": "selected",
    "7": "mdna",
    "7A": "market_risk",
    "8": "statements",
    "9": "accountants",
    "9A": "controls",
    "9B": "other",
    "9C": "other",
    "10": "people",
    "11": "people",
    "12": "people",
    "13": "people",
    "14": "people",
    "15": "exhibits",
    "16": "exhibits",
}
_DROPPED = frozenset(
    (
        *("cover", "exhibits", "signatures", "controls", "people", "accountants", "stock"),
        *("selected", "properties"),
    )
)
# Here even a decisive event counts only if it is about the company's survival or its debt.
_FORMAL = frozenset(("cover", "exhibits", "signatures", "people"))
_AUDITOR = re.compile(
    r"^[ \t]*(?:report\s+of\s+independent[^\n]{0,80}"
    r"|independent\s+auditors?['\u2019]?s?['\u2019]?\s+report)"
    r"[^\n]{0,40}$",
    re.IGNORECASE | re.MULTILINE,
)
_AUDITOR_END = re.compile(
    r"/s/|auditors? since\b|^[ \t]*(?:consolidated\s+)?(?:balance\s+sheets?|statements?\s+of)\b",
    re.IGNORECASE | re.MULTILINE,
)
_STATEMENTS = re.compile(
    r"^[ \t]*(?:notes? to (?:the )?(?:consolidated )?financial statements|(?:consolidated )?"
    r"(?:balance sheets?|statements? of (?:operations|income|earnings|cash flows))"
    r"|report of independent[^\n]{0,80})\b[^\n.]{0,60}$",
    re.IGNORECASE | re.MULTILINE,
)


def is_filing(document: Document) -> bool:
    """Tell whether a document is a filing: it has a form, or items."""
    return document.form is not None or any("Item" in one.name for one in document.sections)


def _is_report(document: Document) -> bool:
    """Tell whether a document calls its company "we": a filing, or a long text."""
    return is_filing(document) or document.length > MAX_NOTE_CHARS


def find_parts(document: Document) -> list[tuple[int, str]]:
    """
    Return where each part of a document starts, and what it is: ``mdna``, ``legal``, ``auditor``.

    A document without sections is one part, ``body``. The first part starts at 0.
    """
    sections, text = document.sections, document.text
    if len(sections) < 3:
        parts = [(0, "body"), *((one.start, _name_part(one)) for one in sections)]
    else:
        parts = [(0, "cover"), *((one.start, _name_part(one)) for one in sections)]
    ends = [*(start for start, _ in parts[1:]), len(text)]
    found: list[tuple[int, str]] = []
    for (start, name), end in zip(parts, ends, strict=True):
        if name not in _DROPPED or name == "people" or end - start <= MAX_DROPPED_CHARS // 4:
            found.append((start, name))
        elif name == "cover":  # what follows the cover without a heading
            found += [(start, name), (start + MAX_DROPPED_CHARS // 4, "body")]
        elif statements := _STATEMENTS.search(text, start, end):
            found += [(start, name), (statements.start(), "statements")]
        else:
            is_swallowed = name not in _FORMAL and end - start > MAX_DROPPED_CHARS
            found.append((start, "body" if is_swallowed else name))
    return _cut_reports(document.text, found)


def _cut_reports(text: str, parts: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Name the auditor's reports inside of other parts."""
    stop, from_ = None, 0
    for mark in islice(_AUDITOR.finditer(text), MAX_REPORTS):
        # Found once for all marks before it: each search may go through the whole text
        if from_ <= mark.end() + 400:
            stop = _AUDITOR_END.search(text, mark.end() + 400)
            from_ = stop.start() + 1 if stop else len(text) + 401
        start = mark.start()
        end = min(stop.end() if stop else mark.end() + 12_000, mark.end() + 20_000, len(text))
        after = _find_part(parts, end)
        parts = [one for one in parts if not start <= one[0] <= end]
        parts = sorted([*parts, (start, "auditor"), (end, after)])
    return parts


def _find_part(parts: Sequence[tuple[int, str]], offset: int) -> str:
    place = bisect_right(parts, offset, key=lambda part: part[0])
    return parts[max(place - 1, 0)][1]


def _name_part(section: Section) -> str:
    title = section.title.lower()
    for name, pattern in _TITLES:
        if re.match(pattern, title):
            return name
    if section.name == "Signatures":
        return "signatures"
    item = section.name.partition("Item ")[2]
    return _BY_ITEM.get(item, "body")


# Kinds --------------------------------------------------------------------------------------------

_MONTH = "(?:january|february|march|april|may|june|july|august|september|october|november|december)"
_MODAL = re.compile(
    r"\b(?:(?<!\bin )(?<!\bof )(?<!\bby )(?<!since )(?<!until )(?<!this )(?<!last )"
    r"may(?! (?:of )?\d)|might|could(?! not be (?:met|paid|filed|obtained|completed)\b)|would"
    r"|can|if|unless|whether|should|potential(?:ly)?"
    r"|possib(?:le|ly|ility)|no assurance|cannot (?:assure|predict|guarantee|be (?:certain|sure))"
    r"|risks? (?:that|of|related)|in the event|from time to time|likely to|typically|generally"
    r"|upon (?:the|an) occurrence|to the extent|among other things|in which|powers|authority to"
    r"|the ability to)\b"
)
_REALIS = re.compile(
    r"\b(?:(?:has|have|had)(?! (?:to|the (?:right|power|ability)|broad|an? (?:material )?adverse))"
    r"|been|was|were|did"
    r"|received|filed"
    r"|entered|recorded|incurred|declared|issued|announced|determined|identified|reported|resulted"
    r"|experienced|commenced|alleged|agreed|notified|served|named|terminated|resigned|paid|settled"
    r"|dismissed|ordered|denied|granted|lost|failed|decreased|declined|fell|raise[sd]?|wrote|took"
    r"|suffered|sustained|ceased|closed|discontinued|reduced|cancell?ed|cut|suspended|withdrew"
    r"|fined"
    r"|charged|sued|convicted|imposed|revoked|missed|violated|breached|defaulted|became|concluded"
    r"|advised|delayed|caused|disrupted|halted|recalled|restated|downgraded|lowered|placed|elected"
    r"|expressed|included|lacks?|contains an|began|discovered|learned|continues?|remains?"
    r"|(?:is|are|am) (?:currently|presently|now|not|in default|a defendant|defendants|insolvent"
    r"|subject to an?|the subject|dependent|unable|insufficient|no longer|highly leveraged"
    r"|deficient"
    r"|ineffective|delinquent|experiencing)|do(?:es)? not (?:have|currently)|alleg(?:es|ing)"
    r"|seeks?)\b"
    rf"|\b{_MONTH} (?:\d{{1,2}}, )?\d{{4}}|\b(?:in|during|for) (?:fiscal )?(?:year )?(?:19"
    rf"|20)\d\d\b"
)
_PAST = re.compile(r"\b\w{3,}ed\b")
# Modal words about what has happened or was decided: "may have been shared", "said it would close"
_TOLD = re.compile(
    r"\b(?:may|might|could|would) have\b|\b(?:said|says|told|announced) [^.]{0,80}\bwould\b"
)
_NEGATED = re.compile(
    r"\b(?:no|not|never|without|neither|nor|none|any)\b(?:\W+\w+){0,7}?\W*$"
    r"|\bfree of\W*(?:\w+\W+)?$"
)
# Doubt about a going concern is denied further ahead than other words: "no substantial doubt about
# our ability to continue as a".
_NO_DOUBT = re.compile(
    r"\b(?:no|not|nor|neither|never|without)\b(?:\W+\w+){0,5}?\W+doubt\b"
    r"(?:\W+\w+){0,9}?\W*$"
)
# To deny that it is over denies nothing: "do not alleviate the substantial doubt".
_ENDING = re.compile(
    r"\b(?:alleviat|eliminat|remov|resolv|mitigat|overc[ao]m|remed|dispel|cure[ds]?\b)"
)
_NOT_YET = re.compile(
    r"\b(?:not|never|nor|neither|cannot|unable|insufficient|fail\w*)\b(?:\W+\w+){0,3}?\W*$"
)
_NEGATIVE_WORDS = re.compile(
    r"\b(?:no|not|never|un(?:able)?|fail\w*|limited|lack\w*|ineffective|insufficient|deficien\w*)\b"
)
_DEFINITION = re.compile(
    r"\b(?:means (?:an?|any|the)|(?:is|are) defined|is a (?:deficiency|process|control)|defined as"
    r"|refers to|provides? (?:that|for)|customary|contains?|accounted for|recognized when"
    r"|we recogni[sz]e|(?:is|are) (?:recogni[sz]ed|measured|calculated|determined|recorded|charged)"
    r"|evaluates?|estimated? using|designed to|guidance|standard|such as|for example|policy)\b"
)
# What is done each year, by rule: no figure and no date stands in it.
_POLICY = re.compile(
    r"\b(?:we|it|management|the company) (?:also |then |first |annually |periodically |regularly )?"
    r"(?:tests?|estimates?|assess(?:es)?|reviews?|measures?|values?|monitors?|accounts? for"
    r"|reserves?|writes? (?:down|off)|compares?|performs?|amortizes?|depreciates?)\b(?! that)"
    r"|\b(?:is|are) (?:tested|estimated|assessed|reviewed|written (?:down|off)) (?:\w+ )?(?:for|at"
    r"|by|when|annually|using|based|each)\b"
)
_COMPLIES = re.compile(
    r"(?<!not )(?<!not been )(?<!not be )(?<!longer )\bin (?:full |material )?compliance with\b"
    r"|\b(?:complied with|met) (?:all|each|every)\b"
)
_RULES = re.compile(
    r"\bno (?:significant |material |other )?changes? in|accounting standards? update|\basu\b"
    r"|\bfasb\b|\ban entity|entity's|the amendments (?:require|in this|to the guidance|should)"
    r"|\bsfas\b"
    r"|events? of default (?:under [^,.]{0,60} )?(?:includes?|means?|consists?|generally)\b"
    r"|\bdefines? an? |waiver by the (?:company|employer)|shall not (?:operate|be construed) as"
    r"|auditing standard|penny stock|severance (?:payments|benefits) (?:to|under)"
    r"|trading arrangement|10b5-1|code of (?:ethics|conduct|business)|section 16\(a\)"
    r"|beneficial owner|(?:should|must) (?:disclose"
    r"|evaluate)|forward-looking|indemnif|change (?:in|of) control|good reason"
    r"|(?:obtain|provide) reasonable assurance|material misstatement|inherent limitations"
)
_CONCLUDED = re.compile(
    r"(?:we|management|company|officers?) (?:have |has |had |also )?(?:concluded|identified"
    r"|determined)"
    r"|(?:was|were|is|are) (?:ineffective|not effective)|do not express"
)
_OWN = re.compile(
    r"\b(?:we|our|us|ourselves|its|their|the (?:company|registrant|corporation|partnership|trust"
    r"|bank"
    r"|debtors|utility|fund|issuer|group)|holdings|management|auditors?)\b"
)
_COMPANY = re.compile(
    r"\b(?:we|our|us|the (?:company|registrant|corporation|partnership|trust|bank|debtors|utility"
    r"|fund))\b"
)
_THIRD = re.compile(
    r"\b(?:customers?|suppliers?|vendors?|clients?|tenants?|lessees?|borrowers?|counterpart(?:y"
    r"|ies)"
    r"|obligors?|competitors?|insurers?|consumers?|account debtors?|third part(?:y|ies)|banks"
    r"|franchisees?|distributors?|mortgagors?|homeowners?|cardmembers?|retailers?|airlines?"
    r"|portfolio compan(?:y|ies)|investees?|licensees?|partners?|subsidiary|predecessor|former)\b"
)
# Who lends to the company, and on what: in a filing, whose loan it is goes without saying.
_OWN_LOAN = re.compile(
    r"\b(?:the|this|that|these|under a) (?:\w+ )?(?:lenders|agent|noteholders|waivers?|forbearance"
    r"|breach|ratio)\b"
)
_IT = re.compile(r"its?\b(?! (?:is|was) (?:\w+ )?(?:that|to)\b)")
_SUBJECT = re.compile(
    r"(?:(?:in|on|at|as of|during|since) [^,]{1,40}, )?the (?:company|registrant)\b"
)
_OTHER_NAME = re.compile(r"\b(?:inc|corp|corporation|llc|ltd|plc|gmbh|co)\b")
_RESOLVED = re.compile(
    r"\b(?:dismiss\w*\b.{0,80}\bwith prejudice|(?:affirmed|upheld) the dismissal"
    r"|(?:closed|ended|concluded|lifted|terminated) (?:the|its) (?:\w+ ){0,2}(?:inquiry"
    r"|investigation|examination|order|hold|decree)"
    r"|(?:was|were|been) (?:dismissed|withdrawn)\b(?!.*(?:without prejudice|appeal))"
    r"|cured|(?:has|have|been|was|were|fully) (?:remediated|remedied)"
    r"|no longer (?:in|exist)|emerge[ds]? from|fully (?:settled|resolved|repaid)|in our favor"
    r"|in favor of the company|without merit|regained compliance|(?:were|was|are) effective"
    r"|well[- ]capitalized|alleviate[sd]?"
    r"|successfully completed)\b"
)
_CLAUSE = re.compile(
    r"[;:]|, (?=which|and|but|or|if|because|as|resulting|although|we|the company)"
    r"|\b(?=which|because|unless|although|while|if )\b"
)
_LISTED = re.compile(
    r"^\W{0,3}[\u2022\u25cf\u00b7]|\b(?:following|includ(?:e|es|ing)|could|may|might)\b[^;]*(?::|;)"
)
_ENDS = re.compile(r"chapter|bankrupt|petition|reorgani|insolven|receiver|liquidat|debtor")
_DEBTOR_NAMES = (
    "we|the (?:company|registrant|corporation|partnership|debtors|trust|bank|utility)|our company"
)
_ANOTHER = re.compile(
    r"\b(?:an?|another|several|other|certain) [^,.;]{0,60}\b(?:which|that|who) (?:\w+ ){0,2}$"
)
_OWN_CASE = re.compile(r"\b(?:our|its|the company's|the debtors') ")
# Points of a list of what may go wrong: "the outcome of ...", "our ability to ..."
_POINT = re.compile(
    r"\W{0,3}(?:the (?:outcome|timing|impact|effect|ability|extent|amount|potential|risk|cost"
    r"|ultimate)"
    r"|whether|(?:our|its) (?:ability|inability)|changes? in|risks?|unanticipated|adverse)\b"
)
# The company is the lender.
_LENDS = re.compile(
    r"\b(?:we|the company|the bank) (?:(?:has|have|had|also|then) ){0,2}(?:agreed|elected|decided)"
    r" (?:not to exercise|to (?:forbear|waive))\b|\b(?:we|the company) (?:waived|forbore)\b"
)
# What is usual is no event.
_HABIT = re.compile(r"(?:typically|generally|from time to time|historically, it is)\b")
# A new way of showing old figures corrects nothing.
_RESHOWN = re.compile(
    r"restate\w* .{0,60}(?:split|segment|to (?:reflect|conform)|adoption|presentation|discontinued"
    r"|reclassif|comparab)|(?:split|segments?|adoption|discontinued).{0,80}restate"
)
# These happen in the past or not at all.
_NEEDS_REALIS = frozenset(
    ("accounts", "listing", "accident", "suits", "loss", "order", "inquiry", "rating")
)
_ABOUT_COVENANTS = frozenset(("default", "lean"))
_BY_POLICY = frozenset(("decline", "lean", "loss", "suits"))  # what policies of accounting name
_ABOUT_DEBTOR = frozenset(("survival", "default", "listing", "rating", "order"))
_SECTION_RANK = {
    "legal": 1.0,
    "mdna": 1.0,
    "auditor": 1.0,
    "defaults": 1.5,
    "risk_factors": -0.5,
    "business": -0.5,
    "body": 0.0,
    "statements": 0.0,
    "market_risk": -1.0,
    "other": 0.0,
}
_TAG_RANK = {"third_party": -3.0, "resolved": -1.5, "old": -4.0}
_NUMBER = re.compile(rf"\$ ?\d|\d+(?:\.\d+)? ?%|{_MONTH} \d|\b(?:19|20)\d\d\b")
_YEAR = re.compile(r"\b((?:19|20)\d\d)\b")
_REGISTRANT = re.compile(r"\n([^\n]{3,80})\n\W*exact name of", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """
    One sentence and what its words say.

    Attributes
    ----------
    section
        The part of the document: ``mdna``, ``risk_factors``, ``legal``, ``auditor``, ...
    kind
        ``event``: it says that something bad is so. ``hypothetical``: that it may be.
        ``routine``: neither, or no word of a family stands in it.
    family
        The strongest family whose words it has, or None.
    is_core
        Whether they say the thing itself.
    tags
        ``third_party`` (another company's case), ``resolved``, ``old`` (three years or more).
    rank
        Higher is asked earlier; 0 and less is not asked.
    """

    sentence: Sentence
    section: str
    kind: Kind
    family: Family | None = None
    is_core: bool = False
    tags: tuple[str, ...] = ()
    rank: float = 0.0

    @property
    def is_alert(self) -> bool:
        """Whether it is a decisive event of the company itself."""
        return (
            self.kind == "event"
            and self.is_core
            and self.family is not None
            and self.family.is_decisive
            and not self.tags
        )


class _Context(NamedTuple):
    section: str
    year: int | None  # the fiscal year
    own: re.Pattern[str] | None  # the company's own name
    shown: str  # the sentence as a reader sees it
    is_filing: bool
    is_it: bool  # "it" is the company: the sentences before are about no one else


class _Match(NamedTuple):
    start: int
    end: int
    words: str


def read_passages(sentences: Sequence[Sentence], families: Sequence[Family]) -> list[Passage]:
    """Return what each sentence says, in the order given."""
    parts: dict[int, list[tuple[int, str]]] = {}
    facts: dict[int, tuple[int | None, re.Pattern[str] | None]] = {}
    last: dict[
        int, tuple[str, bool]
    ] = {}  # the sentence before, and whether its "it" is the company
    passages = []
    finder = make_finder(tuple(families))
    for sentence in sentences:
        document = sentence.document
        key = id(document)
        if key not in parts:
            parts[key] = find_parts(document)
            facts[key] = (_find_year(document), _find_name(document.text))
        part = _find_part(parts[key], sentence.start)
        text = fold_text(sentence.text)
        is_it = bool(_IT.match(text)) and _is_about_company(
            facts[key][1], *last.get(key, ("", False))
        )
        context = _Context(part, *facts[key], sentence.text, _is_report(document), is_it)
        passages.append(_read(sentence, text, finder, context))
        last[key] = (text, is_it)
    return passages


def _is_about_company(own: re.Pattern[str] | None, text: str, is_it: bool) -> bool:
    """Tell whether "it" in the sentence after this one is the company, as far as can be seen."""
    if _THIRD.search(text) or _OTHER_NAME.search(text):
        return False
    named = own is not None and own.match(text) is not None
    return named or _SUBJECT.match(text) is not None or is_it


def _find_year(document: Document) -> int | None:
    """Return the fiscal year: by the cover, else the newest year that is named again and again."""
    if document.period_end is not None:
        return (document.period_end - timedelta(days=MAX_DAYS_LATE)).year
    counts = Counter(_YEAR.findall(document.text))
    least = max(5.0, 0.25 * max(counts.values(), default=0))
    return max((int(year) for year, count in counts.items() if count >= least), default=None)


def _find_name(text: str) -> re.Pattern[str] | None:
    mark = _REGISTRANT.search(text[:8000])
    words = re.findall(r"[\w&'.-]+", fold_text(mark[1])) if mark else []
    first = next((word for word in words if len(word) > 2 and word not in ("the", "inc.")), None)
    return re.compile(rf"\b{re.escape(first)}") if first else None


def _read(
    sentence: Sentence,
    text: str,
    finder: CueFinder,
    context: _Context,
) -> Passage:
    best: tuple[tuple[float, ...], Kind, Family, bool, tuple[str, ...]] | None = None
    for family, cue in finder.find(text):
        if not (mark := cue.pattern.search(text)):
            continue
        kind, tags = _read_match(text, _Match(*mark.span(), mark[0]), family, cue.is_core, context)
        order = (_KIND_ORDER[kind], *_stand(family, cue, tags), family.weight)
        if best is None or order > best[0]:
            best = (order, kind, family, cue.is_core, tags)
    if best is None:
        kind = "hypothetical" if _is_open(text) else "routine"
        return Passage(sentence=sentence, section=context.section, kind=kind, rank=-9.0)
    _, kind, found, is_core, tags = best
    if kind == "hypothetical" and not context.is_filing and not _is_open(text):
        kind = "routine"  # news tells what has happened, and then what may come of it
    passage = Passage(
        sentence=sentence,
        section=context.section,
        kind=kind,
        family=found,
        is_core=is_core,
        tags=tags,
    )
    return replace(passage, rank=_rank(passage, text))


def _stand(family: Family, cue: Cue, tags: Sequence[str]) -> tuple[int, bool]:
    """
    Return how a match stands to others of its kind in a sentence: less for each tag.

    Whose bankruptcy it is counts before what followed from it: "filed a petition" is no suit.
    """
    is_main = cue.is_core and family.name in _ABOUT_DEBTOR and tags == ("third_party",)
    is_strong = not tags and family.weight >= HEAVY
    return (0 if is_strong else -1 if is_main else -2 - len(tags)), cue.is_core


def _is_open(text: str) -> bool:
    """Tell whether a sentence only says what may be: nothing before its modal has happened."""
    modal = _MODAL.search(_TOLD.sub("was", text))
    before = modal.string[: modal.start()] if modal else ""
    is_told = _REALIS.search(before) or _PAST.search(before) or before.rstrip().endswith(",")
    return modal is not None and not is_told


def _read_match(
    text: str, mark: _Match, family: Family, is_core: bool, context: _Context
) -> tuple[Kind, tuple[str, ...]]:
    """Return what the clause of a match says: its kind and its tags."""
    named = context.own is not None and context.own.search(text)
    is_own = not context.is_filing or bool(_OWN.search(text) or named)
    if _is_left_out(family, is_core, is_own, context.section) or _is_routine(text, mark, family):
        return "routine", ()
    start, end = _find_clause(text, mark)
    clause = text[start:end]
    modal, realis = _MODAL.search(clause), _REALIS.search(clause)
    is_told = realis is not None and (modal is None or realis.start() < modal.start())
    is_behind = modal is not None and start + modal.start() >= mark.end
    if modal and not is_told and not (family.name == "survival" and is_behind):
        return "hypothetical", ()
    is_open = realis is None and _MODAL.search(text) is not None
    is_past = realis is not None or (modal is None and _PAST.search(clause) is not None)
    is_untold = family.name in _NEEDS_REALIS and not is_past and not is_open
    if is_untold or (not _NEGATIVE_WORDS.search(mark.words) and _is_undated(clause, _DEFINITION)):
        return "routine", ()
    if family.name in _BY_POLICY and _is_undated(clause, _POLICY):
        return "routine", ()
    needs_fact = family.name in _NEEDS_REALIS or context.section == "risk_factors"
    is_listed = realis is None and _LISTED.search(text[: mark.start])
    if (is_open and needs_fact) or is_listed or _is_point(text, context.shown):
        return "hypothetical", ()
    return "event", tuple(_find_tags(text, mark, family, is_own, context))


def _is_routine(text: str, mark: _Match, family: Family) -> bool:
    """Tell whether the words are denied, belong to a rule of accounting, or only show figures."""
    is_denied = (
        family.name != "strain"
        and not _NEGATIVE_WORDS.search(mark.words)
        and _is_denied(text[: mark.start], mark.words)
    )
    is_rule = _RULES.search(text) and not _CONCLUDED.search(text)
    is_met = family.name in _ABOUT_COVENANTS and _COMPLIES.search(text[: mark.start])
    is_reshown = family.name == "accounts" and "restat" in mark.words and _RESHOWN.search(text)
    return bool(is_denied or is_rule or is_met or is_reshown)


def _is_denied(before: str, words: str) -> bool:
    """Tell whether what stands before the words denies them."""
    denial = _NEGATED.search(before[-80:])
    if denial is None and "going concern" in words:
        denial = _NO_DOUBT.search(before)
    return denial is not None and not _ENDING.search(denial[0])


def _is_undated(clause: str, words: re.Pattern[str]) -> bool:
    """Tell whether a clause has these words, and says of nothing when or how much."""
    is_dated = re.search(rf"{_MONTH} \d|\$ ?\d|\b(?:has|have|had|was|were)\b", clause)
    return bool(words.search(clause)) and not is_dated


def _is_point(text: str, shown: str) -> bool:
    """Tell whether it is a point in a list of what may go wrong, or a habit."""
    is_listed = shown[:1].islower() and bool(_POINT.match(text))
    is_term = text.endswith(";") and not _REALIS.search(text)  # of a contract
    return is_listed or is_term or bool(_HABIT.match(text))


def _is_left_out(family: Family, is_core: bool, is_own: bool, section: str) -> bool:
    if section not in _DROPPED:
        return False
    if section in _FORMAL:
        return not (is_core and is_own and family.name in ("survival", "default"))
    return not (family.is_decisive and family.name != "accident") and family.name != "strain"


def _find_clause(text: str, mark: _Match) -> tuple[int, int]:
    start, end = 0, len(text)
    for cut in _CLAUSE.finditer(text):
        if cut.end() <= mark.start:
            start = cut.end()
        elif cut.start() >= mark.end:
            end = cut.start()
            break
    return start, end


def _find_tags(
    text: str, mark: _Match, family: Family, is_own: bool, context: _Context
) -> Iterable[str]:
    before = text[: mark.start]
    if family.name in _ABOUT_DEBTOR and "going concern" not in mark.words:
        # A note on a company is about the company, whether or not it says "we".
        named = context.own is not None and context.own.search(text)
        is_other = _THIRD.search(text) or _OTHER_NAME.search(text)
        is_loan = family.name == "default" and not is_other and _OWN_LOAN.search(text)
        is_named = _COMPANY.search(text) or named or context.is_it or is_loan
        has_company = not context.is_filing or bool(is_named)
        is_third = not (is_own or is_loan) or not has_company or bool(_THIRD.search(before[-60:]))
        if context.is_filing and _ENDS.search(mark.words) and not is_third:
            is_third = not _is_debtor(text, mark, context)
        is_third = is_third or (family.name == "default" and bool(_LENDS.search(text)))
        if "substantial doubt" not in mark.words and is_third:
            yield "third_party"
    ends = _RESOLVED.finditer(text)
    if any(not _NOT_YET.search(text[max(one.start() - 60, 0) : one.start()]) for one in ends):
        yield "resolved"
    years = [int(year) for year in _YEAR.findall(text)]
    is_old = context.year and years and max(years) <= context.year - 3
    if is_old and not re.search(r"\bsince\b", text):
        yield "old"


def _is_debtor(text: str, mark: _Match, context: _Context) -> bool:
    """Tell whether it is the company that is in court."""
    before, after = text[: mark.start], text[mark.end :]
    if _ANOTHER.search(before):
        return False
    close = text[max(mark.start - 24, 0) : mark.end]
    owner = re.search(r"([\w&.-]+)'s? (?:\w+ ){0,2}$", before[-50:])
    if owner and owner[1] not in ("company", "registrant", "debtors", "bank", "utility"):
        is_own = context.own is not None and context.own.match(owner[1])
        return bool(is_own)
    own = (context.own and context.own.pattern, r"it\b" if context.is_it else None)
    names = "|".join(filter(None, (_DEBTOR_NAMES, *own)))
    is_subject = re.search(rf"\b(?:{names})(?!'s)[^;.]{{0,100}}$", before)
    is_object = re.match(rf"[^;.]{{0,40}}\b(?:for|of|over|against) (?:us|{names})\b", after)
    return bool(is_subject or is_object or _OWN_CASE.search(close))


def _rank(passage: Passage, text: str) -> float:
    kind, family, section = passage.kind, passage.family, passage.section
    if kind == "routine" or family is None:
        return -9.0
    rank = family.weight
    if kind == "hypothetical":
        rank *= 0.6 if passage.is_core and family.is_decisive else 0.25
    elif passage.is_core:
        rank += 2.0
    is_at_home = section == "controls" and family.name == "accounts"
    is_told = section == "risk_factors" and kind == "event"  # what has happened stands here, too
    rank += 0.0 if is_at_home or is_told else _SECTION_RANK.get(section, -2.0 + family.is_decisive)
    rank += sum(_TAG_RANK[tag] for tag in passage.tags)
    rank += 0.5 * (" billion" in text)
    rank += 0.5 * bool(_NUMBER.search(text)) + 0.5 * bool(_COMPANY.search(text))
    shown = passage.sentence.text
    is_fragment = not re.match(r"[A-Z0-9\u201c\"(\u2022]", shown) or len(shown) < 40
    return rank - is_fragment
