"""
A sentence without what tells its company and its time: other names, other dates, other amounts.

A label that changes with them was read off the name or the year, and not off what happened:
look-ahead. `urisk evaluate --mask` counts such labels, and the training masks its sentences so.

Rules find them, without a model. A name is a run of capitalized words that are no ordinary ones, or
what stands before a legal form ("Inc."). Countries, regulators and standards stay: they say what a
risk is about. A name of ordinary words alone ("Target", "Progressive") is found where it has its
legal form, or where the caller gives it. Over 400 lines: names, dates and amounts are found by one
pass, and share the rule that what belongs together moves together.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from random import Random

from urisk_nb.errors import InputError

__all__ = ["KINDS", "find_names", "invent_name", "mask", "swap"]

KINDS = ("name", "date", "amount")


def mask(
    text: str, seed: int = 0, *, kinds: Sequence[str] = KINDS, names: Iterable[str] = ()
) -> str:
    """
    Return a sentence with invented names, dates and amounts in place of its own.

    Parameters
    ----------
    text
        One sentence.
    seed
        Another seed gives another variation. The same text and seed give the same, on every
        machine.
    kinds
        What is masked, of `KINDS`. A *name* becomes an invented one or "the Company", and keeps
        its possessive. A *date* becomes another one in the same form; all years of the sentence
        move together, and so do its months, so their order stays. An *amount* (money, percent,
        or a number with thousands) keeps its count of digits and its decimals; all are scaled
        by one factor, so what rose still rises.
    names
        Names that are known, such as the company's; they are masked wherever they stand.

    Raises
    ------
    InputError
        A kind that there is none of.
    """
    if unknown := set(kinds) - set(KINDS):
        raise InputError(
            f"there is no kind {min(unknown)!r} to mask.", fix=f"use {', '.join(KINDS)}"
        )
    if "name" in kinds:
        text = _mask_names(text, _roll("name", seed, text), tuple(filter(None, names)))
    if "date" in kinds or "amount" in kinds:
        dice = _roll("number", seed, text)
        dates, amounts = _Dates(text, dice), _Amounts(text, dice)

        def change(match: re.Match[str]) -> str:
            if match["date"]:
                return dates.move(match[0]) if "date" in kinds else match[0]
            return amounts.scale(match) if match["amount"] and "amount" in kinds else match[0]

        text = _NUMBER.sub(change, text)
    return text


def _roll(kind: str, seed: int, text: str) -> Random:
    """Return a source of choices that is the same on every machine; nothing here is secret."""
    said = f"{kind} {seed} {text}".encode("utf-8", "surrogatepass")  # half of a pair is text, too
    return Random(said)  # noqa: S311


def swap(text: str, company: str, other: str) -> str:
    """
    Return a sentence about `company` as one about `other`, unchanged where it is not named.

    The name is found with and without its legal form, in any case, as a whole word; the possessive
    stays. A short form becomes the other's short form ("Acme Inc." and "Acme", "Orr plc" and
    "Orr").
    """
    company, other = company.strip(), other.strip()
    forms = {company: other, _cut_legal_form(company): _cut_legal_form(other)}
    found = {name.lower(): new for name, new in forms.items() if name}
    return _replace(text, found, re.IGNORECASE) if found else text


# Names --------------------------------------------------------------------------------------------

_LEGAL_FORM = (
    r"(?:Inc|Incorporated|Corp|Corporation|Ltd|Limited|LLC|L\.L\.C|LLP|LP|L\.P|plc|PLC|Plc|AG|SA"
    r"|S\.A|NV|N\.V|SE|GmbH|Co|AB|ASA|Oyj|S\.p\.A|KGaA|Berhad)(?!\w)\.?"
)
_WORD = r"[A-ZÀ-Þ][\w&]*(?:-[A-ZÀ-Þ]\w*|['’][A-Za-zÀ-ÿ]\w*)*"
_CAPITALIZED = re.compile(rf"(?<![\w$@#.-]){_WORD}")
_COMPANY = re.compile(
    rf"(?<![\w$@#-]){_WORD}(?:(?: & | and | of |\.? ){_WORD}){{0,5}}?(?=,? {_LEGAL_FORM})"
)
_TICKER = re.compile(
    r"(?:(?<!\w)\$|\b(?:NYSE|LSE|TSX|ASX|(?i:NASDAQ))\s?:\s?)([A-Z][A-Z.]{0,4})\b(?!\$)"
)
# What comes after a name that opens a sentence.
_DEED = re.compile(
    r",? (?:[A-Z]\w|said|says|has|had|is|was|will|would|may|must|did|does|fell|rose|cut|sold|won"
    r"|lost|made|ran|paid|plc|shares|stock|and [A-Z]|[a-z]{3,}(?:ed|es|[^s]s)\b)"
)
_COMPANY_DEED = re.compile(
    r"['’]s? |,? (?:said|says|announce|report|expect|plans?|agree|appoint|declare|file|hire|owes?"
    r"|intend|warn|own|sell|sold|acquire|will|has|had)"
)
_POSSESSIVE = re.compile(r"['’]s?$")
# Endings of ordinary English words. A capitalized one opens a sentence or is a defined term.
_ORDINARY_ENDING = re.compile(
    r"\w{4,}(?:tion|sion|ment|ing|ated|ized|ised|ly|ity|able|ible|ical|onal|ual|ive|ous|ness|ance"
    r"|ence|ship|ism|ist|ary|ory|ant|ent|ize|ise|ure|age|ic)s?|\w{3,}(?:ies|ied)"
)
# Never a part of the name, though they stand before it with a capital.
_OPENERS = frozenset(
    (
        *("A", "After", "An", "And", "As", "At", "Before", "Both", "But", "By", "During", "Each"),
        *("For", "From", "If", "In", "Its", "Like", "Neither", "Of", "On", "Or", "Our", "Since"),
        *("That", "The", "These", "This", "Through", "To", "Under", "Until", "We", "When", "While"),
        *("With", "Company"),
    )
)
_FIRST = (
    *("Bren", "Cal", "Dor", "Esk", "Far", "Gal", "Hest", "Kest", "Lor", "Mar", "Nor", "Orr"),
    *("Pell", "Quar", "Rav", "Sel", "Tam", "Ul", "Var", "Wex", "Yar"),
)
_LAST = (
    *("by", "dane", "fell", "gard", "holm", "ley", "mere", "nick", "rick", "stow", "ton", "vane"),
    *("wick", "worth"),
)
_MOST_CAPITALS = 0.7  # share of letters; above it capitals tell nothing of names


@cache
def _read_ordinary_words() -> frozenset[str]:
    text = files("urisk_nb").joinpath("data", "ordinary_words.txt").read_text(encoding="utf-8")
    return frozenset(
        word for line in text.splitlines() if not line.startswith("#") for word in line.split()
    )


def find_names(text: str) -> list[str]:
    """
    Return the names in a sentence, each once, in order: companies, people, towns, tickers.

    Neither the legal form nor the possessive belongs to the name. Of a sentence in capitals only
    names before a legal form are found.
    """
    found = {name: start for start, name in reversed(list(_find_names(text)))}
    return sorted(found, key=lambda name: (found[name], -len(name)))


def _find_names(text: str) -> Iterable[tuple[int, str]]:
    ends: dict[int, int] = {}  # of the companies, by their start
    for match in _COMPANY.finditer(text):
        words = match[0].split(" ")
        while words and words[0] in _OPENERS:
            words.pop(0)
        name = " ".join(words)
        if name and not re.fullmatch(_LEGAL_FORM, name):
            ends[match.end() - len(name)] = match.end()
            yield match.end() - len(name), _POSSESSIVE.sub("", name)
    letters = [sign for sign in text if sign.isalpha()]
    if sum(sign.isupper() for sign in letters) > _MOST_CAPITALS * len(letters):
        return
    yield from ((match.start(1), match[1]) for match in _TICKER.finditer(text))
    for start, name in _find_runs(text):
        if not any(first <= start < end for first, end in ends.items()):
            yield start, name


def _find_runs(text: str) -> Iterable[tuple[int, str]]:
    """Find runs of capitalized words that are no ordinary ones; a possessive ends a run."""
    start, name = 0, ""
    for match in _CAPITALIZED.finditer(text):
        word = _POSSESSIVE.sub("", match[0])
        is_first = not text[: match.start()].strip(" \"'“‘(•-")
        if _is_ordinary(word) or ((is_first or _is_acronym(word)) and not _acts(text, match)):
            continue
        if name and text[start + len(name) : match.start()] == " ":
            name = text[start : match.start() + len(word)]
            continue
        if name:
            yield start, name
        start, name = match.start(), word
    if name:
        yield start, name


def _acts(text: str, match: re.Match[str]) -> bool:
    """Tell whether a word that may be ordinary is used as a name: it has something, or does it."""
    return bool(
        _POSSESSIVE.search(match[0])
        or re.search(r"[a-z][A-Z]", match[0])
        or _DEED.match(text, match.end())
        or len(re.findall(rf"(?<!\w){re.escape(match[0])}(?!\w)", text)) > 1
    )


def _is_acronym(word: str) -> bool:
    return len(word) <= 5 and word.removesuffix("s").isupper()


def _is_ordinary(word: str) -> bool:
    """Tell whether a capitalized word is no name: ordinary, a country, a regulator, a standard."""
    lower, known = re.split("['’]", word.lower())[0], _read_ordinary_words()
    if len(lower) == 1 or any(sign.isdigit() for sign in word) or lower in known:
        return True
    if _is_acronym(word):
        return lower.removesuffix("s") in known
    if "-" in word:
        return all(_is_ordinary(part) for part in word.split("-") if part)
    stems = [lower[: -len(end)] for end in ("s", "es", "d", "ed", "ing") if lower.endswith(end)]
    stems += [f"{lower[:-3]}e"] if lower.endswith("ing") else []
    return any(stem in known for stem in stems) or bool(_ORDINARY_ENDING.fullmatch(lower))


def invent_name(dice: Random) -> str:
    """Return the name of nobody: two syllables that `dice` choose, such as "Kestworth"."""
    return dice.choice(_FIRST) + dice.choice(_LAST)


def _mask_names(text: str, dice: Random, known: tuple[str, ...]) -> str:
    invented: dict[str, str] = {}

    def invent(word: str) -> str:
        if word not in invented:
            is_ticker = word.isupper() and len(word) <= 5
            letters = "".join(dice.choice("BCDFGHKLMNPRSTVWXZ") for _ in word)
            invented[word] = letters if is_ticker else invent_name(dice)
        return invented[word]

    found: dict[str, str] = {}
    for name in [*known, *find_names(text)]:
        words = name.split(" ")
        is_run = name not in known and not any(map(_is_ordinary, words))
        found.setdefault(name, " ".join(map(invent, words[:2] if is_run else words[:1])))
    text = _name_company(text, dice, known)
    return _replace(text, found) if found else text


def _name_company(text: str, dice: Random, known: Sequence[str]) -> str:
    """
    Call the subject "the Company" every second time, and so all that have its name: one that is
    known, or does what companies do. "Bitumen was cheaper" may be about no company.
    """
    subject = next((name for name in (*known, *find_names(text)) if text.startswith(name)), None)
    if subject is None or dice.random() < 0.5:
        return text
    form = re.compile(rf"(?<![\w-]){re.escape(subject)}(?!\w)(?:,? {_LEGAL_FORM},?)?(?! [A-Z]\w|-)")
    match = form.match(text)
    if not match or not (
        subject in known or match[0] != subject or _COMPANY_DEED.match(text, match.end())
    ):
        return text
    return form.sub(lambda match: "the Company" if match.start() else "The Company", text)


def _cut_legal_form(name: str) -> str:
    return re.sub(rf",? {_LEGAL_FORM}$", "", name)


def _replace(text: str, found: Mapping[str, str], flags: int = 0) -> str:
    """Replace whole words, the longest name first. One in small letters is a word like others."""

    def change(match: re.Match[str]) -> str:
        if flags and match[0].islower():
            return match[0]
        # Not lower(): without regard to case a dotless i is an i, which lower() leaves as it is
        same = (name for name in found if re.fullmatch(re.escape(name), match[0], flags))
        return found[next(same)]

    names = "|".join(re.escape(name) for name in sorted(found, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{names})(?!\w)", change, text, flags=flags)


# Dates and amounts --------------------------------------------------------------------------------

_MONTHS = tuple(calendar.month_name)[1:]
_SHORT = tuple(calendar.month_abbr)[1:]
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAYS = tuple(calendar.day_name)
_MONTH = rf"(?:{'|'.join(_MONTHS)}|(?:{'|'.join(_SHORT)}|Sept)\b\.?)"
_YEAR = r"(?:19|20)\d\d"
_SPOKEN_DAY = r"\d{1,2}(?:st|nd|rd|th)?\b"
_FIGURE = r"\d+(?:,\d{3})*(?:\.\d+)?"
# In this order: what has numbers and is neither, then dates, then amounts.
_NUMBER = re.compile(
    rf"""
    # references and names of rules, forms, standards and trials
      \b(?i:notes?|items?|sections?|parts?|exhibits?|forms?|rules?|topics?|levels?|tiers?|as[uc]|sfas
      |fin|fas|ifrs|ias|chapters?|articles?|schedules?|regulations?|pages?|nos?\.|number|class|title
      |phase|paragraphs?|file|version)\s+(?:(?i:no\.|number)\s*)?[\w.()/-]*\d[\w.()/-]*
      (?:(?:,|\s+(?:and|or|to|through))\s+\d[\w.()/-]*)*
    | \bAct\s+of\s+{_YEAR} | \b\d+[A-Za-z]?-[A-Z]{{1,2}}\b | \b[A-Za-z]+-\d+\b | \b\d{{1,2}}:\d\d\b
    | \b[A-Za-z]+\d\w*\b(?<!FY\d\d)(?<!FY\d\d\d\d) | \b{_YEAR}s\b
    | (?P<date>
        \b{_MONTH}\s+{_SPOKEN_DAY}(?:,?\s+{_YEAR})? (?![\d,]*\d|%)
      | \b{_SPOKEN_DAY}(?:\s+of)?\s+{_MONTH}(?:,?\s+{_YEAR})?
      | \b{_MONTH},?\s+(?:of\s+)?{_YEAR}\b
      | (?<=\bin\ )(?:{_MONTH})\b | (?<=\b(?:of|by|to)\ )(?:{_MONTH})\b
      | (?<=\b(?:late|last|next|from|till)\ )(?:{_MONTH})\b
      | (?<=\b(?:since|until|early)\ )(?:{_MONTH})\b
      | \b{_YEAR}-\d\d-\d\d\b | \b\d{{1,2}}[/.]\d{{1,2}}[/.](?:{_YEAR}|\d\d)\b
      | \bFY\s?'?(?:{_YEAR}|\d\d)\b
      | (?<![\d,.$€£¥-]){_YEAR}(?:[-–/](?:{_YEAR}|\d\d))?\b(?![\d,.]*\d|\s?%)
      | \b(?:{"|".join(_DAYS)})\b
      )
    | (?P<amount>
        (?:[$€£¥₹]\s?|\b(?:USD|EUR|GBP|CHF|JPY|CNY|RMB|INR|AUD|CAD|SEK|NOK|DKK|Rs\.?)\s?)
        (?P<money>{_FIGURE})
      | (?<![\w.,-])(?P<counted>\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?)
      | (?<![\w.,-])(?P<measured>\d*\.?{_FIGURE})(?=\s?(?:%|(?:percent|per\ cent|basis\ points?|bps?
        |[mbtr]+illion|thousand|crore|lakh|mn|bn|m|b|k)\b))
      )
    """,
    re.VERBOSE,
)


class _Dates:
    """One shift for all dates of a sentence: of years, months and days, so that none wraps."""

    def __init__(self, text: str, dice: Random) -> None:
        dates = " ; ".join(match[0] for match in _NUMBER.finditer(text) if match["date"])
        years = [int(year) for year in re.findall(rf"(?<!\d){_YEAR}", dates)]
        months = [_read_month(word)[0] for word in re.findall(_MONTH, dates)]
        days = [int(day) for day in re.findall(r"(?<!\d)\d{1,2}(?!\d)", dates)]
        self.years = _choose_shift(dice, 9, years, 1900, max([2028, *years]))
        self.months = _choose_shift(dice, 5, months, 1, 12)
        self.days = _choose_shift(dice, 9, [day for day in days if day < 28], 1, 27)
        self.weekdays = dice.randrange(1, 5)

    def move(self, date: str) -> str:
        """Return the date, moved, in the form that it has."""
        if date in _DAYS:
            return _DAYS[(_DAYS.index(date) + self.weekdays) % len(_DAYS)]
        if re.fullmatch(r"\d+([-/.])\d+\1\d+", date):
            return self._move_numeric(date)
        month = re.search(_MONTH, date)
        old = _read_month(month[0])[0] if month else 1
        new = (old - 1 + self.months) % 12 + 1
        if month:
            names = _read_month(month[0])[1]
            dot = "." if month[0].endswith(".") and names[new - 1] != "May" else ""
            date = f"{date[: month.start()]}{names[new - 1]}{dot}{date[month.end() :]}"
            pattern = rf"(?<!\d)(?:{_YEAR}|\d{{1,2}}(?!\d))"
            return re.sub(pattern, lambda one: self._move_part(one[0], old, new), date)
        # A year alone, or two: "2013", "FY13", "2013-14"
        return re.sub(r"\d+", lambda one: self._move_year(one[0]), date)

    def _move_part(self, number: str, old: int, new: int) -> str:
        return self._move_year(number) if len(number) == 4 else self._move_day(number, old, new)

    def _move_year(self, number: str) -> str:
        if len(number) == 2:
            return f"{(int(number) + self.years) % 100:02d}"
        return str(int(number) + self.years)

    def _move_day(self, number: str, old: int, new: int) -> str:
        """Move a day; the last days of a month stay its last."""
        day = int(number)
        if day < 28:
            day = (day - 1 + self.days) % 27 + 1
        else:
            last = _MONTH_DAYS[new - 1]
            day = last if day >= _MONTH_DAYS[old - 1] else min(day, last)
        return str(day).zfill(len(number))

    def _move_numeric(self, date: str) -> str:
        """Move 2013-12-31, 12/31/2013 and 31.12.2013; of 3/4/2013 the month comes first."""
        parts = re.split(r"([-/.])", date)
        place = 2 if len(parts[0]) == 4 else 0 if int(parts[0]) <= 12 and parts[1] != "." else 2
        of_day = 4 if len(parts[0]) == 4 else 2 - place
        of_year = 0 if len(parts[0]) == 4 else 4
        old = min(12, max(1, int(parts[place])))
        new = (old - 1 + self.months) % 12 + 1
        parts[of_day] = self._move_day(parts[of_day], old, new)
        parts[place] = str(new).zfill(len(parts[place]))
        parts[of_year] = self._move_year(parts[of_year])
        return "".join(parts)


def _read_month(word: str) -> tuple[int, Sequence[str]]:
    """Return which month a word is, and the names of all twelve in its style."""
    if word in _MONTHS:
        return _MONTHS.index(word) + 1, _MONTHS
    return _SHORT.index(word[:3]) + 1, _SHORT


def _choose_shift(dice: Random, most: int, values: Sequence[int], low: int, high: int) -> int:
    """Return a shift of at most so much that keeps all values within bounds; 0 where none does."""
    shifts = [shift for shift in range(-most, most + 1) if shift]
    fits = [one for one in shifts if all(low <= value + one <= high for value in values)]
    return dice.choice(fits) if fits else 0


class _Amounts:
    """One factor for all amounts of a sentence, by which none gets more or fewer digits."""

    def __init__(self, text: str, dice: Random) -> None:
        found = [_read_figure(match) for match in _NUMBER.finditer(text) if match["amount"]]
        digits = [digits for _, digits, _ in map(_split_figure, found) if digits]
        factors = [*range(60, 90, 5), *range(115, 165, 5)]
        kept = [sum(_keeps_length(one, factor) for one in digits) for factor in factors]
        best = [one for one, count in zip(factors, kept, strict=True) if count == max(kept)]
        self.percent = dice.choice(best)

    def scale(self, match: re.Match[str]) -> str:
        """Return the amount with another figure of as many digits."""
        figure = _read_figure(match)
        lead, digits, zeros = _split_figure(figure)
        if not digits or (figure == "100" and match["measured"]):  # 100 %
            return match[0]
        least, most = 10 ** (len(digits) - 1), 10 ** len(digits) - 1
        old = int(digits)
        new = min(most, max(least, round(old * self.percent / 100)))
        if new == old:
            new = old + 1 if old < most else old - 1
        signs = iter(f"{lead}{new}{zeros}")
        changed = "".join(next(signs) if sign.isdigit() else sign for sign in figure)
        return match[0].replace(figure, changed)


def _read_figure(match: re.Match[str]) -> str:
    return match["money"] or match["counted"] or match["measured"]


def _split_figure(figure: str) -> tuple[str, str, str]:
    """Return the zeros before, the telling digits and the zeros after: 0.0450 -> 00, 45, 0."""
    digits = re.sub(r"\D", "", figure)
    lead = digits[: len(digits) - len(digits.lstrip("0"))]
    telling = digits.strip("0")
    return lead, telling, digits[len(lead) + len(telling) :]


def _keeps_length(digits: str, percent: int) -> bool:
    return len(str(round(int(digits) * percent / 100))) == len(digits)
