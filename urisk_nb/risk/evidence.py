"""
The user's evidence as sentences: split with offsets, and cleaned for the model.

A sentence is what the model labels and what the table quotes. What the model reads
(``Sentence.text``) is cleaned: hidden characters, HTML comments and the marks of chat templates are
gone, white space is single. What a reader sees (``Sentence.quote``) is the source, character by
character. Over 400 lines: cleaning and splitting share the same offsets, and every module that a
run goes through is one more to read.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import NamedTuple

from urisk_nb.risk import sentence_rules as rules
from urisk_nb.risk.inputs import Document

__all__ = [
    "MAX_SENTENCE_CHARS",
    "Sentence",
    "SplitDocument",
    "clean_text",
    "sort_documents",
    "split",
]

MAX_SENTENCE_CHARS = 600  # characters of a sentence before it is cut at a clause mark

# Soft hyphen, joiners, fillers, bidi controls, zero widths, byte order mark, surrogates, tags,
# variation selectors, controls that are no white space.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]+"
)
_EMOJI = r"\u203c-\u3299\U0001f000-\U0001faff"
_RTL = r"\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
# Runs that change how the signs around them look, and hide nothing: inside emoji, in the scripts
# that need them, one selector after a sign that has variants. Latin letters need none.
_NEEDED = re.compile(
    rf"""
      (?<=[{_EMOJI}]) \ufe0f? \u200d (?=[{_EMOJI}])
    | (?<=[{_RTL}\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u1a20-\u1bff\ua800-\uabff])
      [\u200c\u200d]
    | (?<=[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]) \u200b
    | (?<=[\u1800-\u18af]) [\u180b-\u180f]
    | (?<=[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]) [\U000e0100-\U000e01ef]
    | (?<=[^\sA-Za-z\u00c0-\u024f]) [\ufe00-\ufe0f]
    | (?<=\U0001f3f4) [\U000e0030-\U000e007a]{{3,6}} \U000e007f
    """,
    re.VERBOSE,
)
_RTL_SIGN = re.compile(f"[{_RTL}]")
# A server renders the chat as one text, so "<|im_end|>" or "[INST]" in the evidence would end the
# turn; a space breaks the mark.
_TEMPLATE_MARK = re.compile(r"<(?=[|\uff5c/<_A-Za-z])|\[(?=/?[A-Z_]{3,20}\])")
_INSTRUCTION = re.compile(
    r"""
      \b(?:ignore|disregard|forget|override|bypass)\b .{0,40}?
      \b(?:instruction|prompt|rule|guideline|direction|command|context)s?\b
    | \b(?:ignore|disregard|forget)\s+(?:everything|anything|all\s+(?:of\s+)?the|the|all)\s+
      (?:previous|prior|above|before|preceding)\b
    | \byou\s+(?:must|should|shall|will|have\s+to|need\s+to|are\s+to)\s+
      (?:now\s+|only\s+|always\s+)?
      (?:answer|respond|reply|output|rate|label|classify|return|say|write|judge|score|ignore)\b
    | \b(?:respond|reply|answer|output)\s+(?:only|always|exactly|solely)\b
    | \b(?:new|updated|real|hidden)\s+instructions?\b | \bsystem\s+prompt\b | \bprompt\s+injection\b
    | \b(?:you\s+are|act\s+as|pretend\s+to\s+be)\s+(?:now\s+)?(?:an?\s+)?
      (?:ai|assistant|chatbot|language\s+model|helpful|unrestricted)\b
    | \bdo\s+not\s+(?:flag|label|classify|judge|rate)\b
    | ["']?(?:risk|severity)["']\s*: | \bseverity\s*(?:[:=]|is|of|to)?\s*[0-5]\b
    | <\s?[|\uff5c] | [|\uff5c]> | \[/?INST\] | <</?SYS>> | </?(?:start|end)_of_turn> | </?s>
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Anchored, so that it is tried once.
_INSTRUCTION_AT_START = re.compile(
    r"""
    \W*(?:
      (?:answer|respond|reply|output|classify|rate|label|mark|score|treat|return|print|write)\b
      .{0,60}? \b(?:severity|json|none|low|safe)\b
    | (?:system|assistant|user|developer)\s*(?:prompt|message|note|override)?\s*[:>\]]
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A text that the first pattern finds has one of these: two of three sentences need no search.
_INSTRUCTION_HINTS = (
    *("ignore", "disregard", "forget", "override", "bypass", "you", "respond", "reply", "answer"),
    *("output", "instruction", "prompt", "act as", "pretend", "do not", "severity", "risk'"),
    *('risk"', "<", "|", "inst]"),
)
# How sure the form of a piece makes it that it says something. All sentences are kept. A headline,
# a line without an end mark and without a clause, is kept in a note: in a report of more than so
# many sentences such lines are headings and labels. Other lines count where there is nothing else.
_NOTHING, _LINE, _HEADLINE, _SENTENCE, _NEWS = range(5)
_MAX_NOTE = 100
_MAX_COLUMN = 160  # characters of a wrapped line; a longer one is a whole paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """
    One sentence of a document.

    Attributes
    ----------
    id
        The document's id and the sentence's number in it: ``E1.2``.
    text
        What the model reads: cleaned, white space single.
    start, end
        Offsets into ``document.text``.
    previous
        The text of the sentence before it in the same document, or None.
    flags
        ``hidden_text`` (hidden characters or a comment in it or right after it),
        ``injection_suspect`` (reads like an instruction),
        ``shared_evidence`` (of a document that counts for every company).
    """

    id: str
    document: Document
    text: str
    start: int
    end: int
    previous: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def quote(self) -> str:
        """The source's own words, verbatim."""
        return self.document.text[self.start : self.end]

    @property
    def section(self) -> str | None:
        """The name of the section that the sentence begins in, such as "Item 1A", or None."""
        section = self.document.section_at(self.start)
        return section.name if section else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitDocument:
    """
    A document's sentences, how many headings, table rows and lines without words were left out, and
    flags of the whole.
    """

    sentences: tuple[Sentence, ...]
    skipped: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _VisibleText:
    """
    A text without its hidden spans, and the way back: chunk k starts at ``starts[k]`` here and at
    ``origins[k]`` in the source.
    """

    text: str
    starts: list[int]
    origins: list[int]
    hidden: list[tuple[int, int]]  # spans of the source, sorted

    def origin(self, index: int) -> int:
        chunk = bisect_right(self.starts, index) - 1
        return self.origins[chunk] + index - self.starts[chunk]


def clean_text(text: str) -> str:
    """
    Return the text as a model may read it: nothing hidden, no marks of chat templates, white space
    single.
    """
    return _collapse_space(_strip_hidden(text).text)


def _collapse_space(text: str) -> str:
    return " ".join(
        _TEMPLATE_MARK.sub(lambda mark: mark.group() + " ", text).replace("|>", "| >").split()
    )


def _find_comments(text: str) -> Iterator[tuple[int, int]]:
    # str.find, not a lazy pattern: a megabyte of unclosed "<!--" would take that quadratic time. An
    # unclosed one hides nothing.
    end = 0
    while (start := text.find("<!--", end)) >= 0 and (close := text.find("-->", start + 4)) >= 0:
        end = close + 3
        yield start, end


def _find_hidden_runs(text: str) -> Iterator[tuple[int, int]]:
    for run in _INVISIBLE.finditer(text):
        if not _belongs_to_script(text, *run.span()):
            yield run.span()


def _belongs_to_script(text: str, start: int, end: int) -> bool:
    """Return whether invisible signs are part of how the text around them is written."""
    if text[start:end] in ("\u200e", "\u200f", "\u061c"):  # marks of direction
        around = text[max(0, start - 50) : start] + text[end : end + 50]
        return bool(_RTL_SIGN.search(around))
    needed = _NEEDED.match(text, start)  # it looks beyond the run, which fullmatch cannot
    return needed is not None and needed.end() == end


def _strip_hidden(text: str) -> _VisibleText:
    spans = sorted(chain(_find_comments(text), _find_hidden_runs(text)))
    parts: list[str] = []
    starts, origins, hidden = [0], [0], []
    at = length = 0
    for start, end in spans:
        if start < at:
            continue  # a hidden character inside a comment
        parts.append(text[at:start])
        length += start - at
        # A byte order mark at the beginning says how the file was written: it is left out, no more
        if end > 1 or text[0] != "\ufeff":
            hidden.append((start, end))
        starts.append(length)
        origins.append(end)
        at = end
    parts.append(text[at:])
    return _VisibleText("".join(parts), starts, origins, hidden)


def sort_documents(documents: Sequence[Document]) -> tuple[Document, ...]:
    """
    Return the documents by date (undated first), source, text and id: the order in which they were
    given changes nothing.
    """
    return tuple(
        sorted(documents, key=lambda d: (d.date or date.min, d.source or "", d.text, d.id))
    )


def split(document: Document) -> SplitDocument:
    """
    Return the sentences of a document, with offsets into its text.

    Lines that were wrapped are joined again, also across a page break. A piece that starts in lower
    case or with an amount belongs to the one before. Over 600 characters a sentence is cut at
    clause marks. Left out and counted are headings, labels and rows of tables, lists of exhibits,
    signatures, page numbers, running headers and lines without words. Of a row of a news table
    (``document.kind == "news"``) nothing is left out but lines without words, and its first line,
    the headline, is one sentence.

    Parameters
    ----------
    document
        Its text may be of any size: time grows in proportion.

    Returns
    -------
    SplitDocument
        For each sentence ``sentence.quote == document.text[sentence.start:sentence.end]``.

    Notes
    -----
    Form decides, not vocabulary: end marks, capitals, the width of lines, numbers beside them, and
    the closed classes of English words (pronouns, auxiliaries, prepositions). In doubt a line is
    kept. docs/metrics.md has the error rates.
    """
    visible = _strip_hidden(document.text)
    pieces, furniture = _find_pieces(visible.text, is_news=document.kind == "news")
    kept = [(piece.start, piece.end) for piece in pieces if piece.is_kept]
    sentences = tuple(_iterate_sentences(document, visible, kept, furniture))
    flags = set(chain.from_iterable(sentence.flags for sentence in sentences))
    flags |= _find_flags("", _find_hidden(document.text, visible, 0, len(document.text)))
    return SplitDocument(
        sentences=sentences, skipped=len(pieces) - len(kept), flags=tuple(sorted(flags))
    )


def _iterate_sentences(
    document: Document,
    visible: _VisibleText,
    spans: Sequence[tuple[int, int]],
    furniture: Sequence[tuple[int, int]],
) -> Iterator[Sentence]:
    origins = [(visible.origin(start), visible.origin(end - 1) + 1) for start, end in spans]
    # What hides between two sentences is the former's; what hides before the first is the first's.
    edges = [0, *(start for start, _ in origins[1:]), len(document.text)]
    previous = None
    for number, ((start, end), (first, last)) in enumerate(zip(spans, origins, strict=True), 1):
        shown = visible.text[start:end]
        hidden = _find_hidden(document.text, visible, edges[number - 1], edges[number])
        text = _collapse_space(_join_lines(visible.text, start, end, furniture))
        yield Sentence(
            id=f"{document.id}.{number}",
            document=document,
            text=text,
            start=first,
            end=last,
            previous=previous,
            flags=tuple(sorted(_find_flags(shown, hidden))),
        )
        previous = text


def _find_hidden(text: str, visible: _VisibleText, start: int, end: int) -> list[str]:
    low, high = bisect_left(visible.hidden, (start, 0)), bisect_left(visible.hidden, (end, 0))
    return [text[a:b] for a, b in visible.hidden[low:high]]


def _find_flags(shown: str, hidden: Sequence[str]) -> set[str]:
    flags = {"hidden_text"} if hidden else set()
    if any(_is_instruction(part.removeprefix("<!--")) for part in (shown, *hidden)):
        flags.add("injection_suspect")
    return flags


def _is_instruction(text: str) -> bool:
    text = unicodedata.normalize("NFKC", " ".join(text.split()))
    # The letters that IGNORECASE takes for an i, and casefold does not.
    folded = text.replace("\u0130", "i").replace("\u0131", "i").casefold()
    if any(hint in folded for hint in _INSTRUCTION_HINTS) and _INSTRUCTION.search(text):
        return True
    return bool(_INSTRUCTION_AT_START.match(text))


def _join_lines(text: str, start: int, end: int, furniture: Sequence[tuple[int, int]]) -> str:
    """Return a stretch without the page furniture in it, and without the space after a hyphen."""
    parts = []
    for at in range(bisect_left(furniture, (start, start)), len(furniture)):
        first, last = furniture[at]
        if first >= end:
            break
        parts.append(text[start:first])
        start = last
    parts.append(text[start:end])
    return rules.LINE_HYPHEN.sub("", "".join(parts))


@dataclass(slots=True)
class _Line:
    """A line with something on it, and what its form says."""

    start: int  # of the first character that is no white space
    end: int
    width: int  # with its indentation
    number: int
    kind: str  # "text", "row" (of a table), "page" (number, running header) or "rule"
    is_in_wrapped_block: bool = False


@dataclass(slots=True)
class _Piece:
    start: int
    end: int
    rank: int
    is_kept: bool = False


class _Context(NamedTuple):
    """Where a piece stands."""

    is_first: bool
    is_item: bool
    is_near_table: bool


def _find_pieces(text: str, *, is_news: bool) -> tuple[list[_Piece], list[tuple[int, int]]]:
    """Return all pieces of a text, kept or not, and the spans of its page furniture."""
    lines = _find_lines(text, is_news=is_news)
    pieces: list[_Piece] = []
    if is_news and lines:
        first = next((n for n, line in enumerate(lines) if line.kind == "text"), 0)
        title = lines.pop(first)
        pieces += _cut(text, *_trim(text, title.start, title.end), rank=_NEWS)
    furniture = [(line.start, line.end) for line in lines if line.kind == "page"]
    passages = list(_iterate_passages(text, lines))
    for number, (start, end, kind) in enumerate(passages):
        near = passages[max(number - 2, 0) : number + 3]
        body = _trim(text, start, end, is_passage=True)
        context = _Context(
            is_first=not number,
            is_item=body[0] > start or _is_mark(text, *passages[number - 1][:2]),
            is_near_table=any(one[2] in ("row", "page") for one in near),
        )
        if kind != "text":
            shown = text[start:end]
            is_wordy = kind == "row" and len(rules.WORD.findall(shown)) > 2
            pieces.append(_Piece(start, end, _LINE if is_wordy else _NOTHING))
            continue
        for first, last in _split_passage(text, *body, furniture):
            rank = _NEWS if is_news else _rank(text[first:last], context)
            pieces += _cut(text, first, last, rank=rank)
    sure = sum(piece.rank >= _SENTENCE for piece in pieces)
    lowest = _SENTENCE if sure > _MAX_NOTE else _HEADLINE if sure else _LINE
    for piece in pieces:
        if piece.rank >= lowest:
            shown = _join_lines(text, piece.start, piece.end, furniture)
            piece.is_kept = bool(rules.LETTER.search(shown))
    return pieces, furniture


def _is_mark(text: str, start: int, end: int) -> bool:
    """Tell whether a stretch is a bullet or a label that has a line of its own."""
    mark = text[start:end] + " "
    return end - start < 6 and any(
        match and match.end() == len(mark)
        for match in (rules.ITEM_MARK.match(mark), rules.ITEM_LABEL.match(mark))
    )


def _find_lines(text: str, *, is_news: bool) -> list[_Line]:
    lines = []
    at = 0
    for number, raw in enumerate(text.split("\n")):
        if shown := raw.strip():
            start = at + len(raw) - len(raw.lstrip())
            kind = _classify(shown, is_news=is_news)
            width = start + len(shown) - at
            lines.append(_Line(start, start + len(shown), width, number, kind))
        at += len(raw) + 1
    if not is_news:
        _mark_running_headers(text, lines)
        _mark_running_headers(text, lines)  # the second line of a header stands beside the first
    _mark_wrapped_blocks(text, lines)
    return lines


def _classify(line: str, *, is_news: bool) -> str:
    if is_news:
        return "text" if rules.LETTER.search(line) else "rule"
    if len(line) <= 40 and rules.PAGE_LINE.fullmatch(line):
        return "page"
    is_markup = line[0] == "<" and line[-1] == ">"
    if rules.LETTER.search(rules.TAG.sub(" ", line) if is_markup else line):
        is_cell = is_markup and rules.CELL_TAG.match(line)
        return "row" if is_cell or _is_row(line) else "text"
    return "row" if any(character.isdigit() for character in line) else "rule"


def _mark_running_headers(text: str, lines: Sequence[_Line]) -> None:
    """Mark lines that stand beside page numbers four times or more, whatever number is in them."""
    keys: dict[int, str] = {}
    for number, line in enumerate(lines):
        shown = text[line.start : min(line.end, line.start + 101)]
        if line.kind not in ("text", "row") or len(shown) > 100 or shown[0].islower():
            continue
        is_numbered = (shown[0] + shown[-1]).strip("0123456789") != shown[0] + shown[-1]
        beside = lines[max(number - 1, 0) : number + 2]
        if any(one.kind == "page" for one in beside) or (
            is_numbered and rules.NUMBERED_HEADER.search(shown)
        ):
            keys[number] = re.sub(r"\d+", "#", shown)
    counts = Counter(keys.values())
    for number, key in keys.items():
        if counts[key] >= 4:
            lines[number].kind = "page"


def _mark_wrapped_blocks(text: str, lines: Sequence[_Line]) -> None:
    """Mark the lines of each block in which a line starts in lower case: it was wrapped."""
    block: list[_Line] = []
    for line in [*lines, None]:
        if line is None or (block and line.number != block[-1].number + 1):
            if any(text[one.start].islower() for one in block[1:]):
                for one in block:
                    one.is_in_wrapped_block = True
            block = []
        if line is not None:
            block.append(line)


def _iterate_passages(text: str, lines: Sequence[_Line]) -> Iterator[tuple[int, int, str]]:
    """Yield the start, end and kind of what belongs together: a paragraph, a heading, a row."""
    start = last = -1  # the first character of the open passage, and the number of its last line
    waiting: list[_Line] = []  # page furniture that the passage may go on after
    for number, line in enumerate(lines):
        if line.kind == "page":
            waiting.append(line)
            continue
        if last >= 0 and line.kind != "rule" and _continues(text, lines, start, last, number):
            last, waiting = number, []
            continue
        if last >= 0:
            yield start, lines[last].end, "text"
        yield from ((one.start, one.end, "page") for one in waiting)
        start, last, waiting = line.start, number, []
        if line.kind != "text":
            yield line.start, line.end, line.kind
            last = -1
    if last >= 0:
        yield start, lines[last].end, "text"
    yield from ((one.start, one.end, "page") for one in waiting)


def _continues(text: str, lines: Sequence[_Line], start: int, last: int, number: int) -> bool:
    """Tell whether a line goes on with the passage whose last line is given."""
    before, line = lines[last], lines[number]
    head, tail = text[before.start : before.end], text[line.start : line.end]
    is_ended = bool(rules.END.search(head[-8:]) or rules.PAUSE.search(head[-8:]))
    is_open = not is_ended and (_is_open(head) or (head[-1] == "," and not tail[0].isupper()))
    has_gap = line.number != before.number + 1  # blank lines, or a page break
    is_item = bool(
        rules.ITEM_MARK.match(tail) or rules.ITEM_LABEL.match(tail) or rules.HEADING.match(tail)
    )
    is_lower = tail[0].islower() and not is_item
    if line.kind == "row":  # a number on a line of its own: "$" before it, or "fiscal of"
        return is_open and not has_gap and not rules.LETTER.search(tail)
    if has_gap:
        is_long = len(head) >= 40 or number > last + 1
        return not is_ended and not is_item and (is_open or (is_lower and is_long))
    if is_open or tail[0] in ",;.)":
        return not rules.ITEM_MARK.match(tail)
    if is_item or is_ended:
        is_filled = before.is_in_wrapped_block and _is_wrapped(text, lines, last)
        return (is_filled and not rules.ITEM_MARK.match(tail)) or (
            is_lower and not rules.PAUSE.search(head[-8:])
        )
    is_level = head.isupper() == tail.isupper()
    return is_lower or (is_level and _continues_in_capitals(text, lines, start, last))


def _continues_in_capitals(text: str, lines: Sequence[_Line], start: int, last: int) -> bool:
    """Tell whether the next line goes on though it begins as a sentence or a heading would."""
    before, line = lines[last], lines[last + 1]
    head = text[before.start : before.end]
    words = rules.WORD.findall(head)
    if start == before.start and len(head) <= 60 and _is_title(words):
        return False  # a heading
    first, after = (_first_word(text, at) for at in (start, line.start))
    is_begun = before.is_in_wrapped_block or first in rules.FUNCTION_WORDS
    is_inside = before.is_in_wrapped_block and (start != before.start or ". " in head)
    has_clause = before.is_in_wrapped_block and _has_clause(words, is_upper=False)
    is_clause = (first in rules.CLAUSE_WORDS or has_clause) and after not in rules.FUNCTION_WORDS
    return is_inside or is_clause or (is_begun and _is_wrapped(text, lines, last))


def _first_word(text: str, start: int) -> str:
    word = rules.WORD.match(text, start)
    return word.group().lower() if word else ""


def _is_wrapped(text: str, lines: Sequence[_Line], number: int) -> bool:
    """Tell whether the next line's first word would not have fitted on the line."""
    near = lines[max(number - 2, 0) : number + 2]
    width = max(one.width for one in near if abs(one.number - lines[number].number) <= 2)
    after = lines[number + 1]
    word = text[after.start : min(after.end, after.start + _MAX_COLUMN)].split(maxsplit=1)[0]
    return width <= _MAX_COLUMN and lines[number].width + 1 + len(word) > width


def _is_open(line: str) -> bool:
    """Tell whether a line cannot be the end of anything: a heading, a label, a sentence."""
    end = line[-_MAX_COLUMN:]
    if end[-1] in "$\u20ac\u00a3(" or (end[-1] == "-" and end[-2:-1].isalpha()):
        return True
    if any(end.rfind(opening) > end.rfind(closing) for opening, closing in ("()", "\u201c\u201d")):
        return True
    words = rules.WORD.findall(end)
    if end[-1] == ",":
        return not _is_title(words)
    return bool(words) and end.endswith(words[-1]) and words[-1].lower() in rules.NEVER_LAST


def _is_title(words: Sequence[str]) -> bool:
    """Tell whether all words but the small ones are capitalised."""
    return not any(
        word.islower() and len(word) > 1 and word not in rules.FUNCTION_WORDS for word in words
    )


def _split_passage(
    text: str, start: int, end: int, furniture: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    at = start
    for mark in rules.STOP.finditer(text, start, end):
        before = bisect_right(furniture, mark.start(), key=lambda span: span[0])
        if before and mark.start() < furniture[before - 1][1]:
            continue  # the full stop of a running header: "ACME INC."
        if mark.end() < end and _ends_sentence(text, mark, at, end):
            piece = _trim(text, at, mark.end())
            if piece[0] < piece[1]:
                yield piece
            at = mark.end()
    piece = _trim(text, at, end)
    if piece[0] < piece[1]:
        yield piece


def _ends_sentence(text: str, mark: re.Match[str], start: int, end: int) -> bool:
    """Tell whether a stop ends a sentence, by the word before it and the one after it."""
    stop = mark.group()[0]
    if stop not in ".!?\u2026":
        return True  # an ideographic stop, or a bullet follows
    follows = rules.AFTER_STOP.match(text, mark.end(), end)
    after = (follows.group(1) if follows else None) or ""
    before = text[max(start, mark.start() - 40) : mark.start()].split()
    word = before[-1].lstrip(rules.OPENERS) if before else ""
    if after.islower() or word in rules.ABBREVIATIONS:  # not "eBay"
        return False
    if after[:1].isdigit():  # a page number or a label between two sentences, or an amount
        is_begun = mark.group() == "." and rules.NUMBER_BEGINS.match(text, mark.end(), end)
        is_word = word.isalpha() and word.islower()
        return (after[-1].isspace() or bool(is_begun and is_word)) and len(word) > 3
    if mark.end() == mark.start() + 1 and not text[mark.end()].isspace() and stop in ".!?":
        return word.isalpha() and word.islower()  # not "Node.Js", nor the address of a page
    if stop != ".":
        return after not in rules.LAST_ABBREVIATIONS
    is_number = (
        len(before) > 1
        and len(word) <= 3
        and before[-2].lstrip(rules.OPENERS).lower() in (*("item", "note", "part"),)
    )
    is_name_part = not rules.LAST_ABBREVIATIONS.isdisjoint((word, word.capitalize()))
    is_short = is_name_part or len(word) == 1 or rules.DOTTED.search(word)
    return after.lower() in rules.FUNCTION_WORDS or not (is_number or is_short)


def _trim(text: str, start: int, end: int, *, is_passage: bool = False) -> tuple[int, int]:
    """Return the span without white space and list marks; a passage also loses its label."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if mark := rules.ITEM_MARK.match(text, start, end):
        start = mark.end()
    if is_passage and (label := rules.ITEM_LABEL.match(text, start, end)):
        start = label.end()
    return start, end


def _cut(text: str, start: int, end: int, *, rank: int) -> Iterator[_Piece]:
    while end - start > MAX_SENTENCE_CHARS:
        at = _find_cut(text, start)
        first, last = _trim(text, start, at)
        is_table = rank == _SENTENCE and _has_numbers(text[first:last], 3)
        yield _Piece(first, last, _NOTHING if is_table else rank)
        start, end = _trim(text, at, end)
    if start < end:
        yield _Piece(start, end, rank)


def _find_cut(text: str, start: int) -> int:
    """Return the place after the last clause mark in the limit, or white space, or the limit."""
    window = text[start : start + MAX_SENTENCE_CHARS]
    marks = [
        mark.end()
        for mark in rules.CLAUSE_MARK.finditer(window)
        if mark.end() > MAX_SENTENCE_CHARS // 4
    ]
    spaces = window.rfind(" ")
    return start + (
        marks[-1] if marks else spaces if spaces > MAX_SENTENCE_CHARS // 4 else MAX_SENTENCE_CHARS
    )


def _rank(text: str, context: _Context) -> int:
    """Return how sure its form makes it that a piece says something."""
    words = rules.WORD.findall(text)
    if not words or _is_row(text):
        return _NOTHING
    if rules.NOT_LATIN.search(text):
        return _SENTENCE
    if len(words) > 1 and _has_clause(words, is_upper=text.isupper()):
        is_heading = len(words) < 5 and _is_title(words) and not rules.END.search(text[-8:])
        return _LINE if is_heading else _SENTENCE
    return _rank_phrase(text, words, context)


def _rank_phrase(text: str, words: Sequence[str], context: _Context) -> int:
    """Return the rank of a piece in which no auxiliary and no pronoun shows a clause."""
    if len(words) < 2 or rules.LISTING.search(text) or (text[0] == "(" and text[-1] == ")"):
        return _NOTHING
    if _is_title(words):
        is_headline = context.is_first and len(words) > 4 and not text.isupper()
        is_ended = len(words) > 2 and rules.END.search(text[-8:])
        is_loud = is_ended and len(words) > 12 and text.isupper()  # "YOU AGREE THAT ..."
        return _SENTENCE if is_headline or is_loud else _HEADLINE if is_ended else _LINE
    is_part = rules.PAUSE.search(text[-8:]) and text[-1] != ":"
    if is_part or rules.END.search(text[-8:]) or (context.is_item and len(words) > 2):
        return _SENTENCE
    content = [word for word in words if word.lower() not in rules.FUNCTION_WORDS]
    if len(words) > 8 and sum(not word.islower() for word in content) * 2 >= len(content):
        return _NOTHING  # "Second Amendment to Credit Agreement dated May 4, 2020 between ..."
    if len(words) > (6 if text[-1] == ":" else 12):
        return _SENTENCE
    return _LINE if context.is_near_table or len(words) < 3 else _HEADLINE


def _has_clause(words: Sequence[str], *, is_upper: bool) -> bool:
    return any(
        word.lower().replace("\u2019", "'") in rules.CLAUSE_WORDS
        for number, word in enumerate(words)
        if word.islower() or is_upper or not number
    )


def _is_row(text: str) -> bool:
    """Tell whether a text is a row of a table: cells, dot leaders or numbers."""
    if rules.END.search(text[-8:]):
        return False
    if rules.LEADERS.search(text[-200:]):
        return True
    body = text.strip("| \t")
    cells = rules.CELL_GAP.split(
        body[mark.end() :] if (mark := rules.ITEM_MARK.match(body)) else body
    )
    return (len(cells) > 1 and not any(_is_prose(cell) for cell in cells)) or _has_numbers(text, 2)


def _has_numbers(text: str, share: int) -> bool:
    """Tell whether one token of so many, or each of the last three, is a number."""
    tokens = text.split()
    numbers = [bool(rules.NUMBER.fullmatch(token)) for token in tokens]
    return len(tokens) > 2 and (sum(numbers) * share >= len(tokens) or all(numbers[-3:]))


def _is_prose(cell: str) -> bool:
    words = len(cell.split())
    return words > 12 or (words > 3 and bool(rules.END.search(cell[-8:])))
