"""Single values of a news row, read: dates, tickers, HTML, title and body as one text."""

from __future__ import annotations

import contextlib
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from html import unescape
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.readers.source_text import SourceText, remove_spans
from urisk_nb.risk.values import (
    describe_type,
    find_closest,
    fold_name,
    is_missing,
    read_moment,
    show,
)

__all__ = [
    "check_one_ticker",
    "find_day_order",
    "is_day",
    "is_empty",
    "join_text",
    "read_date",
    "read_day",
    "read_id",
    "read_markup",
    "read_tickers",
    "refuse_row",
]

TICKER_PARTS = ("ticker", "symbol", "code", "tag")
QUOTED = re.compile(r"""['"]([^'"]+)['"]""")
# Several tickers in a field for one: "NVDA, AMD". Words in it make a text, which is no ticker.
SYMBOLS = re.compile(
    r"(?:\s*\$?[A-Z0-9^][A-Z0-9.\-^=/:&]*\s*(?:[,;|]|\Z))+|\s*(?:array\()?[\[({].*", re.DOTALL
)
TAG = re.compile(
    r"</?(?:p|br|div|span|em|strong|ul|ol|li|h[1-6]|table|tr|td|th|blockquote|img|script|style|"
    r"section|article|font|html|body|head|title|sub|sup|small|cite|figure|figcaption|center|pre|"
    r"code|hr|wbr|dl|dt|dd|thead|tbody|iframe|video|picture|header|footer|main|aside|mark|del|ins|"
    r"svg)\b[^<>]*>|</?[abiuq]>|<a\s[^<>]*=[^<>]*>",
    re.IGNORECASE,
)
ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#[xX][0-9a-fA-F]{1,5});")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"\b(?P<month>{'|'.join(MONTHS)})[a-z]*"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\b"
_YEAR = r"\b(?P<year>(?:19|20)\d\d)\b"
# Only what can be read in one way: the year first, or the month by its name.
DATE_FORMS = (
    re.compile(r"(?P<year>\d{4})([-/.])(?P<month>\d{1,2})\2(?P<day>\d{1,2})(?:[T ,].*)?\Z"),
    re.compile(r"(?P<year>(?:19|20)\d\d)(?P<month>\d\d)(?P<day>\d\d)\d{4}(?:\d\d)?\Z"),
    re.compile(r"(?P<year>\d{4})年(?P<month>\d{1,2})月(?P<day>\d{1,2})日"),
    re.compile(rf".*?\b{_DAY}(?:\s+of)?[\s.,/-]+{_MONTH}[\s.,/-]+{_YEAR}", re.IGNORECASE),
    re.compile(rf".*?{_MONTH}[\s.,-]+{_DAY}.{{0,20}}?{_YEAR}", re.IGNORECASE),
    re.compile(rf"{_DAY}[\s.-]{_MONTH}[\s.-](?P<year>\d\d)\b(?!:)", re.IGNORECASE),
    re.compile(rf"{_MONTH}[\s.-]{_DAY}[\s.-](?P<year>\d\d)\b(?!:)", re.IGNORECASE),
)
# Day and month as numbers: a point stands between them in day-first countries only.
SHORT_DATE = re.compile(
    r"(?P<first>\d{1,2})(?P<sign>[./-])(?P<second>\d{1,2})(?P=sign)"
    r"(?P<year>(?:19|20)\d\d|\d\d(?!:))(?:[ T,].*)?\Z"
)
EPOCH_FROM, EPOCH_TO = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (1990, 2100))


def refuse_row(where: str, said: str, fix: str, **facts: Any) -> InputError:
    """Return the error of one row; its `reason` says that the row may be skipped."""
    reason = said.removeprefix(": ").removeprefix(" has ")
    return InputError(f"{where}{said}.", fix=fix, reason=reason, **facts)


def join_text(title: Any, text: Any, row: Mapping[Any, Any], where: str, label: object) -> str:
    """
    Return the text of a row: the title, and the body after a blank line.

    Parameters
    ----------
    label
        Where the text stands; the error says how to leave out the rows without one.
    """
    is_text = "isinstance({0}, str) and {0}.strip() != ''"
    fix = (
        f"[row for row in evidence if {is_text.format(f'row.get({label!r})')}]"
        if ", item " in where
        else f"evidence[evidence[{label!r}].map(lambda text: {is_text.format('text')})]"
    )
    for value in (title, text):
        if not is_missing(value) and not isinstance(value, str):
            raise refuse_row(where, f" has {describe_type(value)} ({show(value)}) for a text", fix)
    if is_missing(title) and is_missing(text):
        near = find_closest("text", map(str, row), 1)
        if near and near[0].strip().lower() != "text":
            raise refuse_row(
                where, f" has no 'text', but {near[0]!r}", f"rename {near[0]!r} to 'text'"
            )
        raise refuse_row(where, " has no text", fix)
    if is_missing(title):
        return str(text)
    title = re.sub(r"\s*\n\s*", " ", title.strip())
    body = "" if is_missing(text) else text.strip()
    if body.startswith(title) and body[len(title) :].lstrip(" \t\r")[:1] in ("", "\n"):
        body = body[len(title) :].strip()  # the body begins with the title
    return f"{title}\n\n{body}" if body else title


def read_id(value: object) -> str:
    """Return an id as text, empty where there is none."""
    if is_missing(value):
        return ""
    # A column of numbers with one hole comes as floats: 7.0 was 7.
    return (
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    )


def check_one_ticker(row: Mapping[Any, Any], where: str) -> None:
    """Refuse a row with a ticker and a symbol that differ."""
    found = {
        name: value
        for label, value in row.items()
        if (name := str(label).strip().lower()) in ("ticker", "symbol") and not is_missing(value)
    }
    if len({fold_name(str(value)) for value in found.values()}) > 1:
        raise InputError(
            f"{where}: the keys 'ticker' and 'symbol' mean the same.", fix="leave one out"
        )


def is_empty(value: object) -> bool:
    """Return whether a cell holds nothing: no value, blank text, an empty list."""
    if isinstance(value, (list, tuple, set, Mapping, np.ndarray)):
        return len(value) == 0
    return is_missing(value)


# --- tickers ------------------------------------------------------------------------------------


def read_tickers(value: object, *, has_several: bool = True) -> Iterator[object]:
    """
    Yield each ticker of a list, a dict with `ticker` or `symbol`, or a text such as "NVDA, AMD".

    A list that CSV made text is a list again: "['NVDA', 'AMD']". In a field for one ticker, words
    with a comma between them are one value.
    """
    if isinstance(value, str) and not has_several and not SYMBOLS.fullmatch(value):
        yield value
        return
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        for one in value:
            yield from read_tickers(one)
    elif isinstance(value, Mapping) and "cashtags" in value:  # of X
        yield from read_tickers(value["cashtags"])
    elif isinstance(value, Mapping) and all(str(name).isupper() for name in value):
        yield from value  # {"NVDA": 0.8, "AMD": 0.2}
    elif isinstance(value, Mapping):
        named = [part for part in TICKER_PARTS if part in value] or ["name"]
        yield from (value[part] for part in named[:1] if not is_empty(value.get(part)))
    elif isinstance(value, str):
        yield from _read_ticker_text(value)
    elif not is_missing(value):
        yield value


def _read_ticker_text(text: str) -> list[str]:
    text = re.sub(r"\A\s*array\(([\[(].*?[\])]).*", r"\1", text, flags=re.DOTALL)
    if text.lstrip()[:1] not in ("[", "{", "("):
        return list(filter(None, map(str.strip, re.split(r"[,;|\n]", text))))
    if "{" in text and ":" in text:
        for part in (*TICKER_PARTS, "name"):
            if found := re.findall(rf"""['"]{part}['"]\s*:\s*['"]([^'"]+)['"]""", text):
                return found
        return []
    return QUOTED.findall(text) or [
        one.strip() for one in text.strip("[](){} ").split(",") if one.strip()
    ]


# --- dates ----------------------------------------------------------------------------------------


def read_day(value: object, order: str | None = None) -> date:
    """
    Return the local calendar date of a moment as news APIs write it.

    ISO, RFC 2822, `20240115T093000`, a month by its name, or the seconds, milli-, micro- or
    nanoseconds since 1970 (in UTC) of a moment between 1990 and 2100. Of a period its last day.

    Parameters
    ----------
    order
        "day" or "month": what stands first in "01/02/2018", where other rows show it.

    Raises
    ------
    ValueError
        For anything else: without an order "01/02/2018" can be read in two ways.
    """
    value = _open_date(value)
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        value = f"{value:.0f}" if float(value).is_integer() else repr(float(value))
        if len(value) < 9 and not re.fullmatch(r"(?:19|20)\d{6}", value):
            raise ValueError("a number is not a date")
    if not isinstance(value, str):
        return read_moment(value).date()
    text = value.strip()
    if re.fullmatch(r"\d{9,19}(?:\.\d+)?", text):
        moment = _read_epoch(float(text))
        if moment is not None:
            return moment
    else:
        with contextlib.suppress(ValueError):
            return read_moment(text).date()
    if short := SHORT_DATE.match(text):
        return _read_short_date(short, order)
    for form in DATE_FORMS:
        if len(text) <= 60 and (found := form.match(text)):
            month = found["month"].lower()
            number = MONTHS.index(month) + 1 if month in MONTHS else int(month)
            return date(_read_year(found["year"]), number, int(found["day"]))
    raise ValueError("no date")


def _open_date(value: object) -> object:
    """Return what a client or a database wraps a date in."""
    if isinstance(value, Mapping) and len(value) == 1 and "$date" in value:  # of MongoDB
        value = value["$date"]
    if isinstance(value, time.struct_time):  # of feedparser
        return date(*value[:3])
    if isinstance(value, pd.Period):
        return value.end_time.date()
    if isinstance(value, str):  # of .NET
        return re.sub(r"\A\s*/Date\((\d{9,14})(?:[+-]\d{4})?\)/\s*\Z", r"\1", value)
    return value


def _read_year(text: str) -> int:
    year = int(text)
    return year if year > 99 else 1900 + year + 100 * (year < 70)


def _read_short_date(found: re.Match[str], order: str | None) -> date:
    first, second, year = int(found["first"]), int(found["second"]), _read_year(found["year"])
    order = _show_order(found) or order
    if order is None:
        raise ValueError("the day or the month may stand first")
    return date(year, second, first) if order == "day" else date(year, first, second)


def _show_order(found: re.Match[str]) -> str | None:
    """Return which of day and month stands first, where a date shows it."""
    if int(found["second"]) > 12:
        return "month"
    if found["sign"] == ".":
        return "day"
    # "15/01/24" may begin with its year
    return "day" if int(found["first"]) > 12 and len(found["year"]) == 4 else None


def find_day_order(values: Iterable[object]) -> str | None:
    """Return "day" or "month", which stands first in the dates of a column; None if none shows."""
    short = (SHORT_DATE.match(one.strip()) for one in values if isinstance(one, str))
    orders = {order for found in short if found and (order := _show_order(found))}
    return orders.pop() if len(orders) == 1 else None


def is_day(value: object) -> bool:
    """Return whether a value is read as a date."""
    try:
        read_day(value)
    except ValueError:
        return False
    return True


def _read_epoch(number: float) -> date | None:
    for units in (1, 1e3, 1e6, 1e9):
        if EPOCH_FROM <= number / units < EPOCH_TO:
            return datetime.fromtimestamp(number / units, tz=UTC).date()
    return None


def read_date(value: object, where: str, label: object, order: str | None = None) -> date | None:
    """Return the date of a row, or None where it has none; `order` as of `read_day`."""
    if is_missing(value):
        return None
    try:
        return read_day(value, order)
    except ValueError as exc:
        raise refuse_row(
            where,
            f": {show(value)} is not a date",
            "write ISO dates (2019-12-30), or leave them empty; a frame with another form: "
            f"evidence.assign(**{{{label!r}: pd.to_datetime(evidence[{label!r}], "
            'format="%m/%d/%Y")})',
        ) from exc


# --- markup ---------------------------------------------------------------------------------------


def read_markup(text: str) -> SourceText:
    """
    Return a text without HTML tags and entities; text without them stays as it is.

    What a feed has escaped once more ("&lt;p&gt;", "&amp;amp;") is read to text, too.
    """
    source = _read_markup_once(text)
    if source.text != text and (TAG.search(source.text) or ENTITY.search(source.text)):
        again = _read_markup_once(source.text)
        return SourceText(again.text, _chain_origins(again, source))
    return source


def _read_markup_once(text: str) -> SourceText:
    if "<![CDATA[" in text:
        spans = [mark.span() for mark in re.finditer(r"<!\[CDATA\[|\]\]>", text)]
        return remove_spans(SourceText(text), spans)
    if TAG.search(text):
        from urisk_nb.readers.html_text import read_html  # most news have no tags

        return read_html(text).source
    parts: list[str] = []
    origins = [(0, 0)]
    at = length = 0
    for mark in ENTITY.finditer(text):
        parts += (text[at : mark.start()], value := unescape(mark.group()))
        length += mark.start() - at
        at = mark.end()
        origins.append((length, mark.start()))
        length += len(value)
        origins.append((length, at))
    return SourceText("".join([*parts, text[at:]]), tuple(origins)) if parts else SourceText(text)


def _chain_origins(last: SourceText, first: SourceText) -> tuple[tuple[int, int], ...]:
    """Return the origins of a text that was taken out of one that was taken out of a source."""
    pairs: list[tuple[int, int]] = []
    starts = [start for start, _ in first.origins]
    stretches = last.origins or ((0, 0),)
    ends = [start for start, _ in stretches[1:]] + [len(last.text)]
    for (start, place), end in zip(stretches, ends, strict=True):
        pairs.append((start, first.find_origin(place)))
        inside = range(bisect_right(starts, place), bisect_left(starts, place + end - start))
        pairs.extend((start + starts[at] - place, first.origins[at][1]) for at in inside)
    return tuple(pairs)
