"""
Text taken out of a source, with the way back, and without the furniture of its pages.

Page numbers, "Table of Contents" links and running headers cut sentences in two. They are left out
where they stand at a page's edge; a sentence that goes on behind them is whole again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["PAGE_BREAK", "SourceText", "drop_page_furniture", "remove_spans"]

PAGE_BREAK = "\f"  # stands alone on a line where a page ends
MAX_HEADER_CHARS = 120
MIN_REPEATS = 4  # a line that stands at fewer page breaks is no running header
MIN_PAGE_NUMBERS = 3  # numbers in a row that count up
NEAR_LINES = 3  # how far from the page break a running header may stand

_LINE = re.compile(r"[^\n]+")
_PAGE_TAG = re.compile(r"\s*<page>\s*\d*\s*", re.IGNORECASE)
_PAGE_NUMBER = re.compile(
    r"[\s|·•\-–—]*(?:page\s+)?(?P<prefix>[A-Z]{1,2}-)?(?P<number>\d{1,4})"
    r"(?:\s*(?:of|/)\s*\d{1,4})?[\s|·•.\-–—]*",
    re.IGNORECASE,
)
_CONTENTS_LINK = re.compile(
    r"\W*(?:(?:back|return|go) to )?(?:the )?(?:table of contents|index to contents)\W*"
    r"|\W*(?:back to (?:the )?(?:top|contents|index))\W*",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\W*(?:part\s+[iv]+|items?\s+\d)", re.IGNORECASE)
# "PART II" or "Item 7, 7A" and no title: some filings repeat it at the head of each page.
_BARE_HEADING = re.compile(
    r"(?:part\s+[iv]+(?:\s*(?P<parts>,|and|&)\s*[iv]+)*)?[\s,.–—-]*"
    r"(?:items?\s+\d+[abc]?(?:\s*(?P<items>,|and|&)\s*\d+[abc]?)*)?\W*",
    re.IGNORECASE,
)
_DATE_LINE = re.compile(r"(?:dated?:?\s*)?[a-z]{3,9}\.? #, #")  # signatures have them
_SENTENCE_END = re.compile(r"[.!?:;][\"'”’)\]]*$")


@dataclass(frozen=True, slots=True)
class SourceText:
    """
    Text, and where its stretches begin in the source: as `Document.text` and `Document.origins`.
    """

    text: str
    origins: tuple[tuple[int, int], ...] = ()

    def find_origin(self, offset: int) -> int:
        """Return where the character at an offset into `text` stands in the source."""
        place = bisect_right(self.origins, offset, key=lambda pair: pair[0])
        if not place:
            return offset
        start, origin = self.origins[place - 1]
        return origin + offset - start


def remove_spans(source: SourceText, spans: Iterable[tuple[int, int]]) -> SourceText:
    """Return the text without these spans, which are sorted and may overlap; origins are kept."""
    parts: list[str] = []
    origins: list[tuple[int, int]] = []
    pairs = source.origins or ((0, 0),)
    length = at = place = 0
    for first, end in [*spans, (len(source.text), len(source.text))]:
        if end <= at and first < len(source.text):
            continue
        start = max(first, at)
        if start > at:
            origins.append((length, source.find_origin(at)))
            while place < len(pairs) and pairs[place][0] <= at:
                place += 1
            while place < len(pairs) and pairs[place][0] < start:
                origins.append((length + pairs[place][0] - at, pairs[place][1]))
                place += 1
            parts.append(source.text[at:start])
            length += start - at
        at = max(at, end)
    return SourceText("".join(parts), tuple(origins))


def drop_page_furniture(source: SourceText) -> SourceText:
    """
    Return the text without page numbers, links to the contents and running headers.

    A number counts as a page number where it stands at a page break, or where numbers on lines of
    their own count up through the text. A running header is a short line that stands again and
    again at page breaks; headings of items stay. Time grows in proportion to the text.
    """
    text = source.text
    lines = []
    shown = []
    for mark in _LINE.finditer(text):
        line = mark.group().strip()
        if line or PAGE_BREAK in mark.group():
            lines.append(mark.span())
            shown.append(line)
    left_out = _find_marks(shown)
    left_out |= _find_running_headers(shown, left_out)
    if not left_out:
        return source
    spans, spaces = _find_gaps(text, lines, left_out)
    if spaces:
        signs = list(text)
        for place in spaces:
            signs[place] = " "
        source = SourceText("".join(signs), source.origins)
    return remove_spans(source, spans)


def _find_marks(shown: Sequence[str]) -> set[int]:
    """Return the numbers of the lines that mark a page: breaks, links, page numbers."""
    breaks = {
        number
        for number, line in enumerate(shown)
        if not line or _PAGE_TAG.fullmatch(line)  # a page break is white space
    }
    links = {
        number
        for number, line in enumerate(shown)
        if len(line) < MAX_HEADER_CHARS and _CONTENTS_LINK.fullmatch(line)
    }
    counted = [
        (number, found["prefix"] or "", int(found["number"]))
        for number, line in enumerate(shown)
        if len(line) < 24 and (found := _PAGE_NUMBER.fullmatch(line))
    ]
    at_breaks = {number for number, _, _ in counted if {number - 1, number + 1} & breaks}
    return breaks | links | at_breaks | _find_chain(counted)


def _find_chain(counted: Sequence[tuple[int, str, int]]) -> set[int]:
    """Return the lines of the longest chain of numbers that count up by one, for each prefix."""
    chosen: set[int] = set()
    for prefix in {prefix for _, prefix, _ in counted}:
        best: dict[int, tuple[int, int]] = {}  # value -> (length of its chain, its line)
        before: dict[int, int] = {}
        for line, own, value in counted:
            if own != prefix:
                continue
            length, previous = best.get(value - 1, (0, -1))
            if length + 1 >= best.get(value, (0, -1))[0]:
                best[value] = (length + 1, line)
                before[line] = previous
        if not best:
            continue
        length, line = max(best.values())
        while length >= MIN_PAGE_NUMBERS and line >= 0:
            chosen.add(line)
            line = before[line]
    return chosen


def _find_running_headers(shown: Sequence[str], marks: set[int]) -> set[int]:
    near = {mark + step for mark in marks for step in range(-NEAR_LINES, NEAR_LINES + 1)}
    forms: dict[str, list[int]] = {}
    headings: dict[str, list[int]] = {}
    lists: set[int] = set()
    for number, line in enumerate(shown):
        if not line or len(line) > MAX_HEADER_CHARS or number in marks:
            continue
        if not _HEADING.match(line):
            forms.setdefault(re.sub(r"\d+", "#", line.lower()), []).append(number)
        elif bare := _BARE_HEADING.fullmatch(line):
            if (bare["parts"] or bare["items"]) and number in near:
                lists.add(number)
            headings.setdefault(line, []).append(number)
    lists.update(
        number
        for numbers in headings.values()
        if len(numbers) >= MIN_REPEATS
        for number in numbers[1:]
        if number in near
    )
    return lists | {
        number
        for form, numbers in forms.items()
        if len(numbers) >= MIN_REPEATS
        and any(sign.isalpha() for sign in form)
        and not _DATE_LINE.fullmatch(form)
        and not (_SENTENCE_END.search(form) and len(form.split()) > 6)
        and sum(number in near for number in numbers) > 0.6 * len(numbers)
        for number in numbers
    }


def _find_gaps(
    text: str, lines: Sequence[tuple[int, int]], left_out: set[int]
) -> tuple[list[tuple[int, int]], list[int]]:
    """
    Return the spans to leave out, and the places of the line ends that become a space because the
    sentence before them goes on behind.
    """
    spans: list[tuple[int, int]] = []
    spaces: list[int] = []
    ordered = sorted(left_out)
    at = 0
    while at < len(ordered):
        first = last = ordered[at]
        at += 1
        while at < len(ordered) and ordered[at] == last + 1:
            last = ordered[at]
            at += 1
        start, end = lines[first][0], min(lines[last][1] + 1, len(text))
        if first > 0 and last + 1 < len(lines) and _goes_on(text, lines, first, last):
            start, end = lines[first - 1][1], lines[last + 1][0]
            spaces.append(start)
            start += 1
        spans.append((start, end))
    return spans, spaces


def _goes_on(text: str, lines: Sequence[tuple[int, int]], first: int, last: int) -> bool:
    before = text[slice(*lines[first - 1])].rstrip()
    behind = text[lines[last + 1][0] : lines[last + 1][0] + 40].lstrip()
    return before.count(" ") >= 3 and not _SENTENCE_END.search(before) and behind[:1].islower()
