"""
Where the items of a filing begin.

Pure functions over text. A heading is known by its place at the start of a line and by its title,
the table of contents by its entries that stand close together and come again. Of what is left, the
chain of items in their order that covers most of the text is taken: so a line that only mentions
an item begins nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from urisk_nb.readers.filing_cover import FORMS_WITH_ITEMS, SIGNATURES, SIGNED, base_form
from urisk_nb.risk.inputs import Section

__all__ = ["find_sections", "find_title"]

# Item -> what its title begins with in the filings of any year (a pattern), and how it is shown.
ANNUAL_ITEMS: dict[str, tuple[str, str]] = {
    "1": ("business|description of business|general", "Business"),
    "1A": ("risk factors", "Risk Factors"),
    "1B": ("unresolved", "Unresolved Staff Comments"),
    "1C": ("cyber", "Cybersecurity"),
    "2": ("propert|description of propert", "Properties"),
    "3": ("legal", "Legal Proceedings"),
    "4": (r"mine safety|submission of|safety|\W?removed|\W?reserved", ""),
    "5": ("market", "Market for Registrant's Common Equity"),
    "6": (r"selected|\W?reserved|\W?removed|consolidated selected", "Selected Financial Data"),
    "7": ("management", "Management's Discussion and Analysis"),
    "7A": (
        "quantitative|qualitative|market risk",
        "Quantitative and Qualitative Disclosures About Market Risk",
    ),
    "8": ("(?:consolidated )?financial statements|index to", "Financial Statements"),
    "9": ("changes? in", "Changes in and Disagreements With Accountants"),
    "9A": ("(?:evaluation of )?(?:disclosure )?controls", "Controls and Procedures"),
    "9B": ("other information", "Other Information"),
    "9C": ("disclosures? regarding", "Disclosure Regarding Foreign Jurisdictions"),
    "10": ("(?:our )?directors", "Directors, Executive Officers and Corporate Governance"),
    "11": ("executive comp", "Executive Compensation"),
    "12": ("security own", "Security Ownership"),
    "13": ("certain rel", "Certain Relationships and Related Transactions"),
    "14": ("principal acc|controls|exhibits?", "Principal Accountant Fees and Services"),
    "15": ("exhibits?|financial statement|principal acc", "Exhibits"),
    "16": ("form 10|exhibits?|summary", "Form 10-K Summary"),
}
QUARTERLY_ITEMS: dict[tuple[int, str], tuple[str, str]] = {
    (1, "1"): (
        "(?:condensed |consolidated |interim |unaudited )*financial st|index to",
        "Financial Statements",
    ),
    (1, "2"): ("management", "Management's Discussion and Analysis"),
    (1, "3"): (
        "quantitative|qualitative|market risk",
        "Quantitative and Qualitative Disclosures About Market Risk",
    ),
    (1, "4"): ("(?:evaluation of )?(?:disclosure )?controls", "Controls and Procedures"),
    (2, "1"): ("legal", "Legal Proceedings"),
    (2, "1A"): ("risk factors", "Risk Factors"),
    (2, "2"): (
        "unregistered|changes in|issuer|sales of",
        "Unregistered Sales of Equity Securities",
    ),
    (2, "3"): ("defaults?", "Defaults Upon Senior Securities"),
    (2, "4"): (r"mine safety|submission of|\W?removed|\W?reserved", ""),
    (2, "5"): ("other", "Other Information"),
    (2, "6"): ("exhibits?", "Exhibits"),
}
# Of the annual report of a foreign company, form 20-F.
FOREIGN_ITEMS: dict[str, tuple[str, str]] = {
    "1": ("identity", "Identity of Directors, Senior Management and Advisers"),
    "2": ("offer stat", "Offer Statistics and Expected Timetable"),
    "3": ("key info", "Key Information"),
    "3A": (r"selected|\W?reserved", ""),
    "3B": ("capitali", ""),
    "3C": ("reasons", ""),
    "3D": ("risk factors", "Risk Factors"),
    "4": ("information on", "Information on the Company"),
    "4A": ("unresolved", "Unresolved Staff Comments"),
    "5": ("operating and", "Operating and Financial Review and Prospects"),
    "6": ("directors", "Directors, Senior Management and Employees"),
    "7": ("major share", "Major Shareholders and Related Party Transactions"),
    "8": ("(?:consolidated )?financial (?:info|statem)", "Financial Information"),
    "9": ("(?:the )?offer", "The Offer and Listing"),
    "10": ("additional", "Additional Information"),
    "11": (
        "quantitative|qualitative|market risk",
        "Quantitative and Qualitative Disclosures About Market Risk",
    ),
    "12": ("description of", "Description of Securities Other than Equity Securities"),
    "13": ("defaults?", "Defaults, Dividend Arrearages and Delinquencies"),
    "14": ("material mod", "Material Modifications to the Rights of Security Holders"),
    "15": ("(?:disclosure )?controls", "Controls and Procedures"),
    "16": (r"\W?reserved", ""),
    "16A": ("audit committee", ""),
    "16B": ("code of", ""),
    "16C": ("principal acc", ""),
    "16D": ("exempt", ""),
    "16E": ("purchases?", ""),
    "16F": ("changes? in", ""),
    "16G": ("corporate gov", ""),
    "16H": ("mine safety", ""),
    "16I": ("disclosures? regarding", ""),
    "16J": ("insider", ""),
    "16K": ("cyber", "Cybersecurity"),
    "17": ("(?:consolidated )?financial statements", "Financial Statements"),
    "18": ("(?:consolidated )?financial statements", "Financial Statements"),
    "19": ("exhibits?", "Exhibits"),
}
MAX_HEADINGS = 5000  # lines that begin with an item; a 10-K has some 50
MIN_CONTENTS_ITEMS = 4  # entries in a row that make a table of contents
MAX_CONTENTS_GAP = 260  # characters from one entry to the next
MIN_ITEMS = 3  # fewer headings in a text whose form is not known are no sections
EXCERPT_CHARS = 200  # or one, where the text begins with it
MAX_TITLE_CHARS = 200
_ITEM = r"(?P<item>\d\.\d\d(?!\d)|1?\d(?!\d)(?:[\s.]?[A-Ka-k](?![a-z])|(?-i:\([A-C]\)))?)(?:\(T\))?"
_ITEM_WORD = re.compile(r"item", re.IGNORECASE)
_ITEM_LINE = re.compile(
    rf"^(?:(?![\"“‘'(\n])[\W_]){{0,8}}(?:part\s+(?P<part>i{{1,3}}|iv)[\s,.:–—-]+)?(?P<word>items?)[\s.]{{0,3}}{_ITEM}"
    rf"(?P<more>(?:\s*(?:,|and|&)\s*(?:items?\s+)?\d{{1,2}}[A-C]?)*)"
    rf"(?P<mark>\s*(?:[.:|\]]|[–—-]+)*[^\S\n]*)(?P<rest>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
# Text that lost its lines: "... as amended. ITEM 1A. RISK FACTORS We are ..."
_ITEM_INSIDE = re.compile(
    rf"(?<=\s)(?P<word>ITEM|Item)\s{{1,3}}{_ITEM}(?P<more>)(?P<mark>[.:]\s+)"
    rf"(?=(?P<rest>[A-Z][^\n]{{0,150}}))(?P<part>)"
)
_NO_HEADING_BEHIND = re.compile(
    r"(?:\s|^)(?:(?:see|under|in|of|and|or|to|with|by|at|from|this|the|our|also)|\S*[\"“‘'(,;])\s+$",
    re.IGNORECASE,
)
# The line before belongs to the same sentence: "... are described in\nItem 1A. Risk Factors".
_GOES_ON = re.compile(r"(?:[,“\"‘(]|(?<![.\-—])\b[a-z]+)[ \t]?\n[ \t]*\Z")
_PART_LINE = re.compile(
    r"^\W{0,8}part\s+(?P<part>i{1,3}|iv)\b[\s.:–—-]*(?P<rest>.{0,60})$",
    re.IGNORECASE | re.MULTILINE,
)
_REFERENCE = re.compile(
    r"[,;)]|(?:of|in|and|to|above|below|herein|under|for|is|are|see|on|as|or|hereof|entitled|which|"
    r"contains|includes|through|disclosure)\b|[\"“'‘]",
)
_PAGE_AT_END = re.compile(r"[\s.·…_]*\(?[\dF-]{0,4}\)?\s*$")
_NUMERALS = {"i": 1, "ii": 2, "iii": 3, "iv": 4}


@dataclass(frozen=True, slots=True)
class _Heading:
    key: tuple[int, int, str]  # part (0: none), number, letter
    name: str
    title: str
    start: int
    known: bool  # the title is the one that the item has


def find_sections(text: str, form: str | None = None) -> tuple[Section, ...]:
    """
    Return the items of a filing in their order: "Item 1A", "Part II, Item 1A", "Item 4.02".

    Parameters
    ----------
    text
        The filing; lines as filed, an item's title on its line or on the next one.
    form
        The form type where it is known. The items of a 10-Q are named with their part. Other texts
        than filings have none; without a form there must be three headings with a known title.

    Returns
    -------
    tuple of Section
        Empty where nothing was recognised, as in filings without the word "Item". "Signatures"
        ends the last item.
    """
    base = base_form(form)
    if (base is not None and base not in FORMS_WITH_ITEMS) or not _ITEM_WORD.search(text):
        return ()
    chain = _choose_chain(_drop_contents(_find_headings(text, base, _ITEM_LINE)), len(text))
    if len(chain) < MIN_ITEMS and base != "8-K":
        inside = _choose_chain(_drop_contents(_find_headings(text, base, _ITEM_INSIDE)), len(text))
        chain = inside if len(inside) > len(chain) + MIN_ITEMS else chain
    known = sum(heading.known for heading in chain)
    is_excerpt = known > 0 and chain[0].known and chain[0].start <= EXCERPT_CHARS
    if known < (MIN_ITEMS if base is None and not is_excerpt else 1):
        return ()
    sections = [Section(name=one.name, title=one.title, start=one.start) for one in chain]
    if base != "8-K" and (end := _find_signatures(text, sections[-1].start)):
        sections.append(Section(name="Signatures", start=end))
    return tuple(sections)


def find_title(item: str, text: str) -> str:
    """Return the title of an annual report's item, as its text begins with it, else empty."""
    mark = _ITEM_LINE.match(text[:400])
    rest = mark["rest"].strip() or _next_line(text[:800], mark.end()) if mark else ""
    found = _find_title(item, 0, rest, None)
    return found[1] if found else ""


# --- headings -------------------------------------------------------------------------------------


def _find_headings(text: str, base: str | None, pattern: re.Pattern[str]) -> list[_Heading]:
    parts = [
        (mark.start(), _NUMERALS[mark["part"].lower()])
        for mark in _PART_LINE.finditer(text)
        if _begins_title(mark["rest"])
    ]
    found: list[_Heading] = []
    at = part = 0
    for mark in itertools.islice(pattern.finditer(text), MAX_HEADINGS):
        if pattern is _ITEM_INSIDE:
            if _NO_HEADING_BEHIND.search(text[max(0, mark.start() - 40) : mark.start()]):
                continue
        elif _GOES_ON.search(text[max(0, _find_start(mark) - 60) : _find_start(mark)]):
            continue
        while at < len(parts) and parts[at][0] <= mark.start():
            part = parts[at][1]
            at += 1
        if mark["part"]:
            part = _NUMERALS[mark["part"].lower()]
        if heading := _read_heading(text, mark, part, base):
            found.append(heading)
    return found


def _begins_title(rest: str) -> bool:
    return not rest or rest[0].isupper() or not rest[0].isalnum()


def _read_heading(text: str, mark: re.Match[str], part: int, base: str | None) -> _Heading | None:
    item = re.sub(r"[\s()]|\.(?=[A-K])", "", mark["item"].upper())
    if ("." in item) != (base == "8-K") and base is not None and not _is_old_current_report(base):
        return None
    rest = mark["rest"].strip(" \t\xa0|*_")
    if mark["more"] and not rest:
        return None  # "Item 5, 6, 7": the head of a page
    if not rest:
        rest = _next_line(text, mark.end())
        if _ITEM_LINE.match(rest) or _PART_LINE.match(rest):
            rest = ""
    elif (
        _REFERENCE.match(rest)
        or "”" in rest[:120]
        or (rest[0].islower() and not _find_title(item, part, rest, base))
    ):
        return None  # "Item 7 of this report"
    if base is None and "." in item:
        return None
    part, known = _find_title(item, part, rest, base) or (part, "")
    if not known and len(rest) > MAX_TITLE_CHARS and not mark["mark"].strip():
        return None
    number, letter = item.rstrip("ABCDEFGHIJK"), item.lstrip("0123456789.")
    is_quarterly = base == "10-Q"
    name = f"Item {item}"
    if mark["more"]:
        name = f"Items {item}{mark['more'].rstrip()}"
    if is_quarterly and part in (1, 2):
        name = f"Part {'I' * part}, {name}"
    return _Heading(
        key=(part if is_quarterly else 0, round(float(number) * 100), letter),
        name=name,
        title=known or _clean_title(rest),
        start=_find_start(mark),
        known=bool(known),
    )


def _is_old_current_report(base: str) -> bool:
    return base == "8-K"  # before 2004 its items were 1 to 12


def _find_start(mark: re.Match[str]) -> int:
    line = mark.group()
    if "\n" in line[: mark.start("word") - mark.start()]:  # "PART I" stands on a line of its own
        return mark.start("word")
    return mark.start() + len(line) - len(line.lstrip())


def _next_line(text: str, at: int) -> str:
    """Return the next line that is not blank, if it stands within two blank ones."""
    for line in text[at : at + 400].split("\n")[1:7]:
        if line.strip():
            return line.strip()
    return ""


def _find_title(item: str, part: int, rest: str, base: str | None) -> tuple[int, str] | None:
    """Return the part and the title of an item as it is shown, where the line has that title."""
    rest = rest.lstrip(' .:–—-[("“').lower()
    if base == "10-Q":
        for (own, name), (pattern, title) in QUARTERLY_ITEMS.items():
            if name == item and re.match(pattern, rest):
                return own, title or _clean_title(rest).title()
        return None
    if base == "8-K":
        return (part, _clean_title(rest).capitalize()) if rest else None
    known = FOREIGN_ITEMS if base == "20-F" else ANNUAL_ITEMS
    pattern, title = known.get(item, ("", ""))
    if not pattern or not re.match(pattern, rest):
        return None
    if not title or (
        known is ANNUAL_ITEMS
        and item in ("14", "15", "16", "6")
        and not title.lower().startswith(rest[:7])
    ):
        title = _clean_title(rest).title()
    return part, title


def _clean_title(rest: str) -> str:
    title = _PAGE_AT_END.sub("", rest).strip(" \t.:–—-|[]()")
    if len(title) > 90 or ". " in title:
        title = title.partition(". ")[0]
        title = title if len(title) <= 90 else title[:90].rpartition(" ")[0]
    return " ".join(title.split())


def _drop_contents(found: Sequence[_Heading]) -> list[_Heading]:
    """
    Return the headings without those of a table of contents: entries close to each other, most of
    which come again later.
    """
    kept: list[_Heading] = []
    last = {heading.key: number for number, heading in enumerate(found)}
    at = 0
    while at < len(found):
        stop = at + 1
        while (
            stop < len(found)
            and found[stop].start - found[stop - 1].start < MAX_CONTENTS_GAP
            and found[stop].key > found[stop - 1].key
        ):
            stop += 1
        run = found[at:stop]
        again = sum(last[heading.key] >= stop for heading in run)
        if len(run) < MIN_CONTENTS_ITEMS or again < 0.5 * len(run):
            kept.extend(run)
        at = stop
    return kept


def _choose_chain(found: Sequence[_Heading], end: int) -> list[_Heading]:
    """
    Return the headings in the order of their items that cover most of the text.

    A heading that comes again on the next page begins nothing new. A title that is not the item's
    counts a tenth.
    """
    merged: list[_Heading] = []
    for heading in found:
        if not merged or merged[-1].key != heading.key:
            merged.append(heading)
        elif heading.known and not merged[-1].known:
            merged[-1] = heading
    weights = (
        [
            ((behind.start if behind else end) - heading.start + 500)
            * (1.0 if heading.known else 0.1)
            for heading, behind in zip(merged, [*merged[1:], None], strict=True)
        ]
        if merged
        else []
    )
    best: list[tuple[float, int]] = []  # the weight of the best chain to here, and what is before
    heaviest: dict[tuple[int, int, str], int] = {}  # of each item the end of its best chain
    for at, heading in enumerate(merged):
        before = max(
            (place for key, place in heaviest.items() if key < heading.key),
            key=lambda place: best[place][0],
            default=-1,
        )
        best.append((weights[at] + (best[before][0] if before >= 0 else 0.0), before))
        rival = heaviest.setdefault(heading.key, at)
        if best[at][0] > best[rival][0]:
            heaviest[heading.key] = at
    chain: list[_Heading] = []
    place = max(heaviest.values(), key=lambda place: best[place][0], default=-1)
    while place >= 0:
        chain.append(merged[place])
        place = best[place][1]
    return chain[::-1]


def _find_signatures(text: str, start: int) -> int | None:
    marks = [
        mark.start()
        for mark in SIGNATURES.finditer(text, start)
        if SIGNED.search(text, mark.end(), mark.end() + 400)
    ]
    return marks[0] if marks else None
