"""
What a filing says about itself: its form, the end of its period, its signatures, its symbols.

Pure functions over text.
"""

from __future__ import annotations

import re
from datetime import date, timedelta

__all__ = [
    "SIGNATURES",
    "SIGNED",
    "base_form",
    "drop_forms",
    "estimate_filing_date",
    "find_dates",
    "find_form",
    "find_form_in_name",
    "find_period_end",
    "find_signature_date",
    "find_symbols",
    "normalize_form",
]

FORMS_WITH_ITEMS = ("10-K", "10-Q", "8-K", "20-F", "10-12G", "1-K")
# Days after the end of the period within which the slowest filers file; 8-K: after the event.
FILING_DAYS = {"10-K": 90, "10-Q": 45, "20-F": 120, "40-F": 90, "8-K": 6, "6-K": 6}

HEAD_CHARS = 12_000  # the cover

_MONTHS = {
    name: number
    for number, name in enumerate(
        (
            *("january", "february", "march", "april", "may", "june", "july", "august"),
            *("september", "october", "november", "december"),
        ),
        1,
    )
}
_MONTH_NAME = r"(?P<{}>[A-Z][a-z]{{2,8}}|[A-Z]{{3,9}})\.?"
_DATE = re.compile(
    rf"(?<![\d.])(?:{_MONTH_NAME.format('m1')}\s{{1,3}}(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?\s?,?\s{{0,3}}(?P<y1>(?:19|20)\d\d)"
    rf"|(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\s{{1,3}}{_MONTH_NAME.format('m2')},?\s{{1,3}}(?P<y2>(?:19|20)\d\d)"
    r"|(?P<y3>(?:19|20)\d\d)(?P<s3>[-/.]?)(?P<m3>\d\d)(?P=s3)(?P<d3>\d\d))(?!\d)"
)
_PERIOD = re.compile(
    r"(?:fiscal\s+|transition\s+)?(?:years?|quarter(?:ly)?|period|report|months|weeks)"
    r"(?:\s+period)?\s{1,3}(?:ended|ending|end)\b:?"
    r"|transition\s+period\s+from:?\s{1,9}[a-z0-9 ,.]{0,20}\d{4}\s+to\b:?"
    r"|date of (?:earliest event )?report(?:ed)?[^\n]{0,60}?:",
    re.IGNORECASE,
)
_FORM = (
    r"10-?\s?-?(?:KSB40|KSB|K405|KT|K|QSB|QT|Q|12G)|8-?K12B|[86]-?K|(?:20|40)-?F|11-?K|"
    r"S-?[1348]|F-?[134]|424B\d|DEFM?\s?14A|DEFA\s?14A|PRE[MR]?\s?14A|6-?K|13[DFG]|NT\s?10-?[KQ]"
)
# A call and a note speak of forms, too: only a cover has the address of the SEC before it.
_COVER = re.compile(
    r"securities\s+and\s+exchange\s+commission[\W_]+washington\W+d\.?\s?c", re.IGNORECASE
)
_FORM_COVER = re.compile(
    rf"\bform\s{{1,4}}(?P<form>{_FORM})\b(?P<amended>\s?/\s?A\b)?", re.IGNORECASE
)
_FORM_NAME = re.compile(
    rf"(?<![A-Za-z0-9])(?P<form>{_FORM})(?P<amended>[-_/]?A)?(?![A-Za-z0-9])", re.IGNORECASE
)
_FORM_PARTS = re.compile(r"(NT)?\s?(\d{1,3}|DEFM?|DEFA|PRE[MR]?|S|F|ARS)[\s-]*(.*)")
_SYMBOL = re.compile(r"[A-Z][A-Z0-9]{1,5}(?:[.\-][A-Z]{1,2})?")
_NO_SYMBOLS_TEXT = """
    NYSE NASDAQ AMEX OTC OTCQB OTCQX CBOE LLC INC PLC CORP CO LP THE NONE NA TITLE EACH CLASS
    COMMON STOCK TRADING SYMBOL SYMBOLS NAME EXCHANGE ON WHICH REGISTERED SHARES PAR VALUE USD
    ARCA MARKET OF PER ADS ADR NEW YORK SECURITIES NOT APPLICABLE II III IV YES NO
"""
_NO_SYMBOLS = frozenset(_NO_SYMBOLS_TEXT.split())
_SYMBOL_LABEL = re.compile(
    r"(?i:trading|ticker)\s+(?i:symbols?)|\b(?:NYSE|NASDAQ|Nasdaq|AMEX)(?=\s?:\s?[A-Z])"
)
SIGNATURES = re.compile(r"^\W{0,8}signatures?\W{0,8}$", re.IGNORECASE | re.MULTILINE)
SIGNED = re.compile(r"pursuant\s+to|in\s+accordance\s+with", re.IGNORECASE)


def base_form(form: str | None) -> str | None:
    """Return the form that another is a kind of: 10-K for 10-K405, 10-KT and 10-K/A."""
    if form is None:
        return None
    for base in FORMS_WITH_ITEMS:
        if form.startswith(base):
            return base
    return form.removesuffix("/A")


def find_form(text: str) -> str | None:
    """Return the form type that the cover of a filing names, or None."""
    cover = _COVER.search(text, 0, HEAD_CHARS)
    found = _FORM_COVER.search(text, cover.end(), cover.end() + 600) if cover else None
    return normalize_form(found["form"], bool(found["amended"])) if found else None


def find_form_in_name(name: str) -> str | None:
    """Return the form type in the name of a file, or None."""
    found = _FORM_NAME.search(name)
    return normalize_form(found["form"], bool(found["amended"])) if found else None


def drop_forms(name: str) -> str:
    """Return the name of a file without form types: the K of 10-K is no ticker."""
    return _FORM_NAME.sub(" ", name)


def normalize_form(form: str, amended: bool = False) -> str:
    """Return a form type as EDGAR writes it: "10-K" for "10K", "10-Q/A", "DEF 14A"."""
    form = form.strip().upper()
    if form.endswith("/A"):
        form, amended = form[:-2], True
    parts = _FORM_PARTS.fullmatch(form)
    if parts:
        late, head, tail = parts.groups()
        joint = " " if head[0] in "DP" else "-"
        form = ("NT " if late else "") + head + (joint + tail if tail else "")
    return form + ("/A" if amended else "")


def read_date(found: re.Match[str]) -> date | None:
    """Return the date of a match of the date pattern, or None where there is no such day."""
    for index in "123":
        year, month, day = found[f"y{index}"], found[f"m{index}"], found[f"d{index}"]
        if year is None:
            continue
        number = int(month) if month.isdigit() else _find_month(month)
        try:
            return date(int(year), number, int(day))
        except ValueError:
            return None
    return None


def _find_month(name: str) -> int:
    short = name.lower()
    return next((number for month, number in _MONTHS.items() if month.startswith(short)), 0)


def find_dates(text: str) -> list[date]:
    """Return the dates in a text: "July 30, 2025", "30 July 2025", "2025-07-30", "20250730"."""
    return [day for found in _DATE.finditer(text) if (day := read_date(found))]


def find_period_end(text: str) -> date | None:
    """
    Return the end of the period that the cover of a filing names, or None; of an 8-K the date of
    the event.
    """
    head = text[:HEAD_CHARS]
    for mark in _PERIOD.finditer(head):
        found = _DATE.search(head, mark.end(), mark.end() + 60)
        if found and (day := read_date(found)):
            return day
    return None


def find_signature_date(text: str, after: date | None) -> date | None:
    """
    Return the latest date of the signatures, or None.

    Parameters
    ----------
    after
        The end of the period: a signature stands within the year and a half behind it.
    """
    days: set[date] = set()
    marks = [
        mark
        for mark in SIGNATURES.finditer(text)
        if SIGNED.search(text, mark.end(), mark.end() + 500)
    ]
    for mark in marks:
        block = text[mark.end() : mark.end() + 6000]
        days.update(day for day in find_dates(block) if _follows(day, after))
    return max(days, default=None)


def _follows(day: date, after: date | None) -> bool:
    return after is not None and after <= day <= after + timedelta(days=550)


def estimate_filing_date(period_end: date, form: str | None) -> date:
    """
    Return the day by which a filing is public that names only the end of its period.

    That is the last day on which the slowest filers must file (90 days after a fiscal year, 45
    after a quarter): earlier would be look-ahead in a run as of a past date.
    """
    base = base_form(form) or ""
    return period_end + timedelta(days=FILING_DAYS.get(base, 90))


def find_symbols(text: str) -> tuple[str, ...]:
    """
    Return the trading symbols that the cover of a filing names, in its order.

    One letter is no symbol here: covers are full of single letters.
    """
    head = text[:HEAD_CHARS]
    for label in _SYMBOL_LABEL.finditer(head):
        near = head[label.end() : label.end() + 500]
        words = (word.strip('."“”*') for word in re.split(r"[\s,;:()|]+", near))
        found = [one for one in words if _SYMBOL.fullmatch(one) and one not in _NO_SYMBOLS]
        if found:
            return tuple(dict.fromkeys(found))
    return ()
