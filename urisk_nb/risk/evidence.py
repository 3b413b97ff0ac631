"""
The user's evidence as sentences: split with offsets, and cleaned for the model.

A sentence is what the model labels and what the table quotes. What the model reads
(``Sentence.text``) is cleaned: hidden characters, HTML comments and the marks of chat templates are
gone, white space is single. What a reader sees (``Sentence.quote``) is the source, character by
character. Over 400 lines, a tenth of them words: cleaning and splitting share the same offsets.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain

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
    | ^\W*(?:answer|respond|reply|output|classify|rate|label|mark|score|treat|return|print|write)\b
      .{0,60}? \b(?:severity|json|none|low|safe)\b
    | ^\W*(?:system|assistant|user|developer)\s*(?:prompt|message|note|override)?\s*[:>\]]
    | \b(?:new|updated|real|hidden)\s+instructions?\b | \bsystem\s+prompt\b | \bprompt\s+injection\b
    | \b(?:you\s+are|act\s+as|pretend\s+to\s+be)\s+(?:now\s+)?(?:an?\s+)?
      (?:ai|assistant|chatbot|language\s+model|helpful|unrestricted)\b
    | \bdo\s+not\s+(?:flag|label|classify|judge|rate)\b
    | ["']?(?:risk|severity)["']\s*: | \bseverity\s*(?:[:=]|is|of|to)?\s*[0-5]\b
    | <\s?[|\uff5c] | [|\uff5c]> | \[/?INST\] | <</?SYS>> | </?(?:start|end)_of_turn> | </?s>
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BLOCK = re.compile(r"\S[^\n]*(?:\n[^\S\n]*\S[^\n]*)*")  # lines up to a blank one
_BULLET = re.compile(
    r"\s*(?:[-*\u2022\u2023\u25aa\u00b7\u2013\u2014#>]+\s+|\(?\d{1,2}[.)]\s+|\([a-z]{1,4}\)\s+)"
)
_MARK = re.compile(r"[-*\u2022\u2023\u25aa\u00b7\u2013\u2014#>]+\s+")
_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\u061f\u0964][\"'\u201d\u2019)\]]*$")
_STOP = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\uff61\u061f\u0964\u0965\u06d4]")
_CLAUSE = re.compile(r"[;:,\u2014\u2013)](?=\s)")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_NOT_LATIN = re.compile(r"[^\W\d_\u0000-\u024f]")
_ROW = re.compile(r"\||\t\s*\S|\S {3,}\S")
_NUMBER = re.compile(r"[^\sA-Za-z]*\d[^\s]*|[-\u2013\u2014%$]+")
# Not a grammar: enough to tell "Apple cuts guidance" from "Risk factors". Any form of a word here
# keeps the line; in doubt it is kept.
_VERB_WORDS = """
    is are was were be been being has have had do does did will would can cannot could may might
    must shall should isn't aren't wasn't weren't hasn't haven't hadn't doesn't don't didn't won't
    wouldn't can't couldn't accuse acquire admit agree allege announce appoint approve ask assess
    award bar beat become begin believe block blame boost borrow bring burn buy call cancel cause
    challenge charge choose cite claim close collapse come complete confirm consider continue crash
    cut decline default defend delay delist deny detain dip disclose dismiss double downgrade drag
    drop ease eliminate end enter exceed expect exit expand expire face fail fall file find fine
    fire fight freeze get give go grow halt halve hack hike hire hit hold hope hurt idle impose
    improve increase indict jump join keep know lag launch lay lead leave lift lose lower lure make
    meet merge miss move name near need oust outpace own pause pay plan plead plunge post probe
    prompt pull quit raid raise rally reach rebound recall receive recover refinance refuse reject
    remain remove repay replace report require resign restate resume retire retreat return reveal
    rise sack said say scrap see seek seize sell send settle shed shrink shut sign sink slash slide
    slip slow slump soar split spin stall start steal step stop strike struggle submit sue suffer
    surge suspend swing take tell threaten tighten top trim triple tumble turn uncover urge violate
    vote vow want warn weaken weigh win withdraw won lost fell rose grew sank took made paid sold
    bought left met broke began went came saw told gave held kept led hid ran shrank stole struck
    shook spent stood sought brought caught found got knew wrote withdrew swung slid sent dealt drew
    drove flew froze fought
"""
# What ends in -ed in headings: "Unaudited Condensed Consolidated Balance Sheets", "Related Party
# Transactions".
_NO_VERB_WORDS = """
    Unaudited Condensed Consolidated Balance Sheets Related Party Transactions accumulated adjusted
    audited combined condensed consolidated deferred detailed diluted fixed limited preferred
    related selected unaudited united unlimited unrelated weighted
"""
_VERBS, _NO_VERBS = frozenset(_VERB_WORDS.split()), frozenset(_NO_VERB_WORDS.split())


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
        if not _is_needed(text, *run.span()):
            yield run.span()


def _is_needed(text: str, start: int, end: int) -> bool:
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

    A piece that starts in lower case or with a digit belongs to the one before. Over 600 characters
    it is cut at clause marks. Headings, table rows without a verb and lines without words are left
    out and counted. A blank line, a list item and a table row end a sentence.

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
    Boundaries by the ``sentencex`` library for English. A list of words decides whether a line has
    a verb; in doubt the line is kept.
    """
    visible = _strip_hidden(document.text)
    pieces = list(_iterate_pieces(visible.text))
    kept = [(start, end) for start, end in pieces if _is_sentence(visible.text[start:end])]
    sentences = tuple(_iterate_sentences(document, visible, kept))
    flags = set(chain.from_iterable(sentence.flags for sentence in sentences))
    flags |= _find_flags("", _find_hidden(document.text, visible, 0, len(document.text)))
    return SplitDocument(
        sentences=sentences, skipped=len(pieces) - len(kept), flags=tuple(sorted(flags))
    )


def _iterate_sentences(
    document: Document, visible: _VisibleText, spans: Sequence[tuple[int, int]]
) -> Iterator[Sentence]:
    origins = [(visible.origin(start), visible.origin(end - 1) + 1) for start, end in spans]
    # What hides between two sentences is the former's; what hides before the first is the first's.
    edges = [0, *(start for start, _ in origins[1:]), len(document.text)]
    previous = None
    for number, ((start, end), (first, last)) in enumerate(zip(spans, origins, strict=True), 1):
        shown = visible.text[start:end]
        hidden = _find_hidden(document.text, visible, edges[number - 1], edges[number])
        text = _collapse_space(shown)
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
    if any(
        _INSTRUCTION.search(unicodedata.normalize("NFKC", part.removeprefix("<!--")))
        for part in (" ".join(shown.split()), *hidden)
        if part
    ):
        flags.add("injection_suspect")
    return flags


def _iterate_pieces(text: str) -> Iterator[tuple[int, int]]:
    import sentencex  # a compiled library that only a run with evidence needs

    for start, end in _iterate_passages(text):
        pieces: list[tuple[int, int]] = []
        # The library is not asked about a line that has no mark to end a sentence: a megabyte of
        # short lines would be a million calls.
        found = (
            sentencex.get_sentence_boundaries("en", text[start:end])
            if _STOP.search(text, start, end)
            else [{"start_index": 0, "end_index": end - start}]
        )
        for boundary in found:
            piece = _trim(text, start + boundary["start_index"], start + boundary["end_index"])
            if piece[0] < piece[1]:
                _glue(text, pieces, piece)
        yield from chain.from_iterable(_cut(text, *piece) for piece in pieces)


def _iterate_passages(text: str) -> Iterator[tuple[int, int]]:
    for block in _BLOCK.finditer(text):
        start = line_start = block.start()
        before = ""
        for line in block.group().split("\n"):
            if before and _starts_passage(before, line):
                yield start, line_start
                start = line_start
            before = line
            line_start += len(line) + 1
        yield start, block.end()


def _starts_passage(before: str, line: str) -> bool:
    """
    Tell whether a line starts something new: a list item, a table row, a heading, or text after a
    row or a heading.
    """
    if _BULLET.match(line) or any(_is_row(text) or text.isupper() for text in (before, line)):
        return True
    return (
        len(before) <= 60
        and line.lstrip()[:1].isupper()
        and not _END.search(before.rstrip())
        and not _has_verb(before)
    )


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end -= len(piece) - len(piece.rstrip())
    mark = _MARK.match(text, start, end)
    return (mark.end() if mark else start), end


def _glue(text: str, pieces: list[tuple[int, int]], piece: tuple[int, int]) -> None:
    first = text[piece[0]]
    if (
        pieces
        and (first.islower() or first.isdigit())
        and piece[1] - pieces[-1][0] <= MAX_SENTENCE_CHARS
    ):
        pieces[-1] = (pieces[-1][0], piece[1])
    else:
        pieces.append(piece)


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > MAX_SENTENCE_CHARS:
        at = _find_cut(text, start)
        yield _trim(text, start, at)
        start, end = _trim(text, at, end)
    if start < end:
        yield start, end


def _find_cut(text: str, start: int) -> int:
    """Return the place after the last clause mark in the limit, or white space, or the limit."""
    window = text[start : start + MAX_SENTENCE_CHARS]
    marks = [
        mark.end() for mark in _CLAUSE.finditer(window) if mark.end() > MAX_SENTENCE_CHARS // 4
    ]
    spaces = window.rfind(" ")
    return start + (
        marks[-1] if marks else spaces if spaces > MAX_SENTENCE_CHARS // 4 else MAX_SENTENCE_CHARS
    )


def _is_sentence(text: str) -> bool:
    words = _WORD.findall(text)
    if not words:
        return False
    if _NOT_LATIN.search(text) or _has_verb(text):
        return True
    ends = len(words) > 2 and bool(_END.search(text))
    return (len(words) > 12 or ends) and not _is_row(text)


def _is_row(text: str) -> bool:
    tokens = text.split()
    return bool(_ROW.search(text.strip())) or (
        len(tokens) > 2
        and sum(bool(_NUMBER.fullmatch(token)) for token in tokens) * 2 > len(tokens)
    )


def _has_verb(text: str) -> bool:
    return any(_is_verb(word.replace("\u2019", "'").lower()) for word in _WORD.findall(text))


def _is_verb(word: str) -> bool:
    if word in _VERBS or (len(word) > 4 and word.endswith("ed") and word not in _NO_VERBS):
        return True
    return any(word.removesuffix(ending) in _VERBS for ending in ("s", "es", "d")) or (
        word.endswith("ies") and word[:-3] + "y" in _VERBS
    )
