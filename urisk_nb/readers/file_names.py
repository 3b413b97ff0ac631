"""What the names of files and folders say: whom they are about, and of what day."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from datetime import date

from urisk_nb.readers.filing_cover import drop_forms
from urisk_nb.risk.inputs import SHARED
from urisk_nb.risk.sentence_rules import FUNCTION_WORDS
from urisk_nb.risk.tickers import fold_share_class

__all__ = ["find_named_day", "find_owners", "guess_ticker", "is_edgar_name"]

_DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
_MOMENT = re.compile(
    r"(?<!\d)((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\d{4}(?:\d\d)?(?!\d)"
)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(?P<{}>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_GAP = r"[\s._,-]*"
_WORDY_DAY = re.compile(
    rf"(?<![A-Za-z\d])(?:(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?{_GAP}{_MONTH.format('m1')}{_GAP}(?P<y1>(?:19|20)\d\d)"
    rf"|{_MONTH.format('m2')}{_GAP}(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?[\s._,-]+(?P<y2>(?:19|20)\d\d)"
    rf"|(?P<y3>(?:19|20)\d\d){_GAP}{_MONTH.format('m3')}{_GAP}(?P<d3>\d{{1,2}}))(?!\d)",
    re.IGNORECASE,
)
# Day and month in either order, where only one is possible.
_SHORT_DAY = re.compile(r"(?<!\d)(\d{1,2})([-._ ])(\d{1,2})\2((?:19|20)\d\d)(?!\d)")
_EDGAR_NAME = re.compile(r"[a-z][a-z0-9]{0,9}-(?:19|20)\d{6}(?:x?\w{0,8})?", re.IGNORECASE)
_TICKER_WORD = re.compile(r"[A-Z][A-Z0-9]{0,5}(?:[.\-][A-Z]{1,2})?|\d{3,6}\.[A-Z]{1,3}")
# Words of file names that are no tickers, whatever their case.
_COMMON_WORDS_TEXT = """
    a about all an and annual article brief call cik company copy data del doc docs document
    draft dump earnings edgar en evidence excerpt extract fact factbook file filing filings
    final form fy h1 h2 index info interim investor item main memo merged minutes month new news
    note notes of on page paper part pdf pr press primary proxy q1 q2 q3 q4 quarter raw readme
    release report research results risk sample sec section source statement stock summary temp
    test text the ticker tmp transcript txt update v1 v2 version views week x year
"""
_COMMON_WORDS = frozenset(_COMMON_WORDS_TEXT.split())
# Tickers of US companies that are words of prose: "the key risks", "why now", "open questions".
_PROSE_WORDS_TEXT = """
    ally best big bill boot call can car care cash cat cost cube dash day dog edge ever fast five
    fix flow fly food fun gain gold good grow hear here home hope icon job key kids land life live
    loan lot love low man mind nice now oil one open out peak pet play plus pool post real ride
    rock run safe sea see self sky snow so son spot star stay sun tap team tech ten time top true
    turn two wave well west work
"""
_PROSE_WORDS = FUNCTION_WORDS | frozenset(_PROSE_WORDS_TEXT.split())


def find_owners(places: Sequence[str], symbols: Sequence[str], tickers: Sequence[str]) -> list[str]:
    """
    Return whom a file is about: by its name, by the folders around it (the nearest first), by the
    symbols on its cover.
    """
    if places[0].strip() == SHARED:
        return [SHARED]
    if not tickers:
        guess = guess_ticker(places[:1]) or next(iter(symbols), None) or guess_ticker(places)
        return [guess] if guess else []
    for place in places:
        if found := _match_tickers(place, tickers):
            return found
    folded = {fold_share_class(symbol) for symbol in symbols}
    return [one for one in tickers if fold_share_class(one) in folded]


def _mask(name: str) -> str:
    """Return a name without its dates and form types: the K of 10-K is no ticker."""
    for pattern in (_DAY, _MOMENT, _WORDY_DAY, _SHORT_DAY):
        name = pattern.sub(" ", name)
    return drop_forms(name)


def _match_tickers(name: str, tickers: Sequence[str]) -> list[str]:
    """
    Return the tickers of the cell that a name holds as words.

    Those in the same case as written come first; of these the one that the name begins with is
    meant, else all of them.
    """
    masked = _mask(name)
    small = masked.lower()
    found: list[tuple[bool, int, int, str]] = []
    for one in tickers:
        pieces = [re.escape(piece) for piece in re.split(r"[^A-Za-z0-9]+", one) if piece]
        if not pieces or pieces[0].lower() not in small:
            continue
        pattern = r"(?<![A-Za-z0-9])" + "[^A-Za-z0-9]?".join(pieces) + r"(?![A-Za-z0-9])"
        marks = [mark for mark in re.finditer(pattern, masked) if not _is_word(masked, mark)]
        if marks:
            found.append((False, marks[0].start(), -len(one), one))
        elif (mark := re.search(pattern, masked, re.IGNORECASE)) and (
            mark.group().lower() not in _COMMON_WORDS | FUNCTION_WORDS
            and not _is_word(masked, mark)
        ):
            found.append((True, mark.start(), -len(one), one))
    found.sort()
    best = [one for one in found if one[0] == found[0][0]]
    # BRK.B is no file of BRK's
    best = [one for one in best if not any(o[1] == one[1] and o[2] < one[2] for o in best)]
    if best and (best[0][1] == 0 or best[0][0]):
        best = best[:1]
    return [one[-1] for one in best]


def _is_word(name: str, mark: re.Match[str]) -> bool:
    """
    Return whether a ticker reads as a word of the name: "IT spending", "Plan B", "C-level".

    A word counts as a ticker between marks ("IT_10-K"), and a letter also at the beginning or
    behind "for" or "of".
    """
    before, after = name[: mark.start()], name[mark.end() :]
    if mark.group().lower() in _PROSE_WORDS:
        in_prose = re.match(r" [A-Za-z]", after) or re.search(r"[A-Za-z] $", before)
        if in_prose:
            return True
    if len(mark.group()) > 1:
        return False
    if (joined := re.match(r"-([a-z]{3,})", after)) and joined[1] not in _COMMON_WORDS:
        return True
    word = re.search(r"([A-Za-z]+) $", before)
    return word is not None and word[1].lower() not in FUNCTION_WORDS | _COMMON_WORDS - {"company"}


def guess_ticker(places: Sequence[str]) -> str | None:
    """
    Return the ticker that names suggest where no tickers are known, or None.

    It is the first word that is written in capitals, or the only word of the file's name; common
    words of file names, forms and dates do not count.
    """
    for number, place in enumerate(places):
        words = [
            word
            for word in re.split(r"[_\s,()\[\]+&]+|-(?![A-Z](?![A-Za-z]))|--", _mask(place))
            if word
        ]
        words = [word.strip("-.") for word in words]
        words = [
            word
            for word in words
            if word and not re.fullmatch(r"(?:FY|Q)?\d+(?:Q\d)?", word, re.IGNORECASE)
        ]
        words = [word for word in words if word.lower() not in _COMMON_WORDS]
        if not words:
            continue
        if _TICKER_WORD.fullmatch(words[0]):
            return words[0]
        if number == 0 and len(words) == 1 and _TICKER_WORD.fullmatch(words[0].upper()):
            return words[0].upper()
        if number == 0 and len(places) == 1:
            return None
    return None


def find_named_day(stem: str) -> date | None:
    """
    Return the first day in a name, or None: 2025-02-26, 20250226, 26-02-2025, "26 Feb 2025".

    "01-02-2025" can be read in two ways and is none.
    """
    for year, month, day in _iterate_days(stem):
        with contextlib.suppress(ValueError):
            return date(int(year), int(month), int(day))
    return None


def _iterate_days(stem: str) -> Iterator[tuple[str, str | int, str]]:
    yield from ((found[1], found[3], found[4]) for found in _DAY.finditer(stem))
    yield from ((found[1], found[2], found[3]) for found in _MOMENT.finditer(stem))
    for found in _WORDY_DAY.finditer(stem):
        for form in "123":
            if found[f"y{form}"]:
                month = _MONTHS.index(found[f"m{form}"][:3].lower()) + 1
                yield found[f"y{form}"], month, found[f"d{form}"]
    for found in _SHORT_DAY.finditer(stem):
        first, second = int(found[1]), int(found[3])
        if first > 12 or found[2] == "." or first == second:
            yield found[4], found[3], found[1]
        elif second > 12:
            yield found[4], found[1], found[3]


def is_edgar_name(stem: str) -> bool:
    """Return whether a name is EDGAR's own, "nvda-20250126": its day is the end of the period."""
    return _EDGAR_NAME.fullmatch(stem) is not None
