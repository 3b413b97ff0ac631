"""
HTML and XHTML (inline XBRL) as text, each stretch with its place in the source.

A scanner of our own walks from "<" to "<": html.parser says line and column but takes quadratic
time on broken markup, lxml and selectolax are fast but do not say where a text stood. It builds no
tree, so that a million unclosed tags are a million steps. What a browser does not show is left
out, and so are tables of figures. Nothing is fetched, and no entity is expanded but HTML's own.
Over 400 lines: the scanner is one walk, whose steps share the paragraph at hand.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

from urisk_nb.errors import InputError
from urisk_nb.readers.html_tables import Cell, keep_sentences
from urisk_nb.readers.source_text import PAGE_BREAK, SourceText

__all__ = ["HtmlText", "find_charset", "looks_like_html", "read_html"]

MAX_TAGS = 1_500_000  # a 10-K of 1.5 MB has 40,000
MAX_TABLE_DEPTH = 40  # deeper tables are read as part of the one around them
MAX_TAG_CHARS = 1 << 16  # how far a tag with a ">" in its quotes is followed
MAX_ODD_TAGS = 1000  # so often; then the first ">" ends a tag
HEAD_CHARS = 1 << 16  # where a page says its encoding

BLOCKS_TEXT = """
    address article aside blockquote body caption center dd details dialog dir div dl dt
    fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li
    main menu ol p page pre section summary title ul
"""
BLOCKS = frozenset(BLOCKS_TEXT.split())
# What a browser does not show as text of the page, or what is no part of the text.
LEFT_OUT_TEXT = """
    applet audio button canvas datalist iframe ix:header ix:hidden map math nav noframes
    noscript object script select style svg template textarea title video xbrl xml
"""
LEFT_OUT = frozenset(LEFT_OUT_TEXT.split())
VOID = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    ]
)
# Elements that end where the next of them begins: their end tags may be missing.
SELF_ENDING = frozenset(["dd", "dt", "li", "option", "p", "td", "th", "tr"])

_NAME = re.compile(r"/?([A-Za-z][^\s/>]{0,63})")
_END_OF_TAG = re.compile(r"(?>[^>\"']|\"[^\"]*\"|'[^']*')*>")
_LESS_THAN = re.compile("<+")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_HIDING_STYLE = re.compile(
    r"(?:display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?:px|pt|em|%)?\s*(?:[;\"']|$))",
    re.IGNORECASE,
)
_FONT_OF_ZERO = re.compile(r"font-size\s*:\s*0(?![.\d])")
_HIDDEN_ATTRIBUTE = re.compile(r"\shidden(?=[\s=/]|$)", re.IGNORECASE)
_BREAKING_STYLE = re.compile(
    r"(?:page-)?break-(?:before|after)\s*:\s*(?:always|page|left|right)", re.IGNORECASE
)
_INLINE_STYLE = re.compile(r"display\s*:\s*inline", re.IGNORECASE)
_CHANGE = re.compile(
    r"&(?:#\d{1,8}|#[xX][\da-fA-F]{1,6}|[A-Za-z]\w{1,31});?|[\s\xa0]{2,}|[\u200b\ufeff\xad]+"
)
_UNSEEN = frozenset("\u200b\ufeff\xad")  # EDGAR's files are full of them: no sign of anything
_SPACES = {ord(sign): " " for sign in "\t\n\r\v\f\xa0\u2002\u2003\u2009"}
_FOOTNOTE_MARK = re.compile(r"\(?[\d*†‡,]{1,5}\)?")

_HTML_TAG = re.compile(
    r"<(?:!doctype\s+html|html|head|body|div|p|span|h[1-6]|font|br|ul|article)[\s/>]",
    re.IGNORECASE,
)
_CHARSET = re.compile(
    rb"<(?:meta|\?xml)[^>]{0,400}?(?:charset|encoding)\s*=\s*[\"']?([\w-]{2,40})", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class HtmlText:
    """
    The text of a page.

    Attributes
    ----------
    source
        Paragraphs with blank lines between them, page breaks on lines of their own, and the way
        back to the page.
    tables_left_out
        How many tables have no sentence.
    """

    source: SourceText
    tables_left_out: int


def looks_like_html(text: str) -> bool:
    """Return whether the beginning of a text has tags of HTML."""
    return _HTML_TAG.search(text, 0, 20_000) is not None


def find_charset(content: bytes) -> str | None:
    """Return the encoding that a page names in its head, or None."""
    found = _CHARSET.search(content[:HEAD_CHARS])
    return found[1].decode("ascii") if found else None


def read_html(page: str, start: int = 0, end: int | None = None) -> HtmlText:
    """
    Return the text that a browser shows of a page, without tables that hold no sentence.

    Parameters
    ----------
    start, end
        The part of the page to read; origins count from the page's own beginning.

    Raises
    ------
    InputError
        It has more than 1.5 million tags.
    """
    scanner = _Scanner(page, start, len(page) if end is None else end)
    scanner.scan()
    return scanner.finish()


@dataclass(slots=True)
class _Table:
    rows: list[list[Cell]] = field(default_factory=list)


class _Scanner:
    """One walk through a page: the paragraph at hand, and the tables that are open."""

    def __init__(self, page: str, start: int, end: int) -> None:
        self.page, self.at, self.end = page, start, end
        self.blocks: Cell = []
        self.tables: list[_Table] = []
        self.ignored_tables = 0  # opened below MAX_TABLE_DEPTH
        self.texts: list[str] = []  # of the paragraph at hand
        self.places: list[int] = []
        self.ends_in_space = True
        self.preformatted = 0
        self.inline_divs: list[bool] = []
        self.sup_start: int | None = None
        self.odd_tags = 0
        self.comments_close = True
        self.left_out = 0

    def scan(self) -> None:
        page, end = self.page, self.end
        if page.count("<", self.at, end) > MAX_TAGS:
            raise InputError(
                f"the page has more than {MAX_TAGS:,} tags.",
                fix="save its text alone, or split it",
            )
        while self.at < end:
            sign = page.find("<", self.at, end)
            if sign < 0:
                sign = end
            if sign > self.at:
                self._add_text(self.at, sign)
            if sign == end:
                break
            self._read_tag(sign)

    def _read_tag(self, sign: int) -> None:
        page = self.page
        name = _NAME.match(page, sign + 1, self.end)
        if name is None:
            self._skip_declaration(sign)
            return
        close = self._find_close(name.end())
        if close < 0:  # it is no tag: nothing ends it
            self._add_text(sign, self.end)
            self.at = self.end
            return
        self.at = close + 1
        tag = name[1].lower()
        if page[sign + 1] == "/":
            self._close_element(tag)
            return
        attributes = page[name.end() : close]
        if tag in LEFT_OUT or (attributes and _is_hidden(attributes)):
            if tag in BLOCKS or tag in ("tr", "table"):
                self._end_block()
            if tag not in VOID and not attributes.endswith("/"):
                self._skip_element(tag)
            return
        self._open_element(tag, attributes)

    def _find_close(self, at: int) -> int:
        close = self.page.find(">", at, self.end)
        if close < 0:
            return -1
        quotes = _QUOTED.sub("", self.page[at:close]) if close - at < MAX_TAG_CHARS else ""
        if ('"' in quotes or "'" in quotes) and self.odd_tags < MAX_ODD_TAGS:
            self.odd_tags += 1  # a ">" inside a quoted value, or a stray quote
            if whole := _END_OF_TAG.match(self.page, at, min(self.end, at + MAX_TAG_CHARS)):
                return whole.end() - 1
        return close

    def _skip_declaration(self, sign: int) -> None:
        """Pass over what begins with "<" and is no tag; a lone "<" is text."""
        page, end = self.page, self.end
        if page.startswith("<!--", sign):
            close = page.find("-->", sign + 4, end) if self.comments_close else -1
            if close < 0:  # as old browsers do: the text behind it is shown
                self.comments_close = False  # none is searched for again
                close = page.find(">", sign + 4, end) - 2
            self.at = close + 3 if close >= 0 else end
        elif page.startswith("<![CDATA[", sign):
            close = page.find("]]>", sign, end)
            stop = close if close >= 0 else end
            self._add_text(sign + 9, stop)
            self.at = min(stop + 3, end)
        elif page.startswith(("<!", "<?", "</"), sign):
            close = page.find(">", sign, end)
            subset = page.find("[", sign, close) if close >= 0 else -1
            if subset >= 0 and page.startswith("<!", sign):  # a DOCTYPE with entities of its own
                inner = page.find("]>", subset, end)
                close = inner + 1 if inner >= 0 else end
            self.at = close + 1 if close >= 0 else end
        else:
            # Of "<<b>" the last sign may begin a tag
            run = _LESS_THAN.match(page, sign, end)
            self.at = max(sign + 1, run.end() - 1) if run else sign + 1
            self._add_text(sign, self.at)

    def _skip_element(self, tag: str) -> None:
        """Move behind the end of an element that is not shown."""
        mark = re.compile(rf"<(/?){re.escape(tag)}(?=[\s/>])", re.IGNORECASE)
        depth = 1
        while depth:
            found = mark.search(self.page, self.at, self.end)
            if found is None:
                self.at = self.end
                return
            if not found[1] and tag in SELF_ENDING:
                self.at = found.start()
                return
            close = self.page.find(">", found.end(), self.end)
            self.at = close + 1 if close >= 0 else self.end
            if found[1]:
                depth -= 1
            elif self.page[close - 1] != "/" and tag not in ("script", "style", "title"):
                depth += 1

    # --- elements ---------------------------------------------------------------------------------

    def _open_element(self, tag: str, attributes: str) -> None:
        if tag == "br":
            self._add_break(self.at)
        elif tag == "table":
            self._open_table()
        elif tag in ("tr", "td", "th"):
            self._open_cell(tag)
        elif tag == "div":
            inline = bool(attributes) and _INLINE_STYLE.search(attributes) is not None
            self.inline_divs.append(inline)
            if not inline:
                self._end_block()
        elif tag in BLOCKS:
            self._end_block()
            self.preformatted += tag == "pre"
        elif tag == "sup":
            self.sup_start = len(self.texts)
        if tag == "hr" or (
            "break" in attributes.lower() and _BREAKING_STYLE.search(attributes) is not None
        ):
            self._end_block()
            if not self.tables:
                self.blocks.append((PAGE_BREAK, [(0, self.at - 1)]))

    def _close_element(self, tag: str) -> None:
        if tag == "table":
            self._close_table()
        elif tag in ("tr", "td", "th"):
            self._end_block()
        elif tag == "div":
            if not (self.inline_divs.pop() if self.inline_divs else False):
                self._end_block()
        elif tag in BLOCKS:
            self._end_block()
            self.preformatted -= tag == "pre" and self.preformatted > 0
        elif tag == "sup":
            self._drop_footnote_mark()

    def _drop_footnote_mark(self) -> None:
        """Leave out a raised "(1)" behind a word: it would be read as part of it."""
        start, self.sup_start = self.sup_start, None
        if start is None or not 0 < start < len(self.texts):
            return
        raised = "".join(self.texts[start:]).strip()
        before = "".join(self.texts[max(0, start - 2) : start]).rstrip()
        if _FOOTNOTE_MARK.fullmatch(raised) and not before[-1:].isdigit():
            del self.texts[start:], self.places[start:]
            self.ends_in_space = self.texts[-1].endswith(" ")

    def _open_table(self) -> None:
        self._end_block()
        if len(self.tables) < MAX_TABLE_DEPTH:
            self.tables.append(_Table())
        else:
            self.ignored_tables += 1

    def _open_cell(self, tag: str) -> None:
        self._end_block()
        if self.tables and not self.ignored_tables:
            rows = self.tables[-1].rows
            if tag == "tr" or not rows:
                rows.append([])
            if tag != "tr":
                rows[-1].append([])

    def _close_table(self) -> None:
        self._end_block()
        if self.ignored_tables:
            self.ignored_tables -= 1
        elif self.tables:
            table = self.tables.pop()
            rows = [[cell for cell in row if cell] for row in table.rows]
            rows = [row for row in rows if row]
            kept = keep_sentences(rows)
            self._target().extend(kept)
            if rows and not kept:
                self.left_out += 1

    def _target(self) -> Cell:
        """Return the list that takes the next paragraph: of the page, or of the cell at hand."""
        if not self.tables:
            return self.blocks
        rows = self.tables[-1].rows
        if not rows:
            rows.append([])
        if not rows[-1]:
            rows[-1].append([])
        return rows[-1][-1]

    # --- text -------------------------------------------------------------------------------------

    def _add_text(self, start: int, end: int) -> None:
        if self.preformatted:
            self._add_piece(self.page[start:end], start)
            return
        text = self.page[start:end]
        at = 0
        for change in _CHANGE.finditer(text):
            if change.start() > at:
                self._add_piece(text[at : change.start()].translate(_SPACES), start + at)
            at = change.end()
            found = change.group()
            if found[0] == "&":
                value = html.unescape(found)
                if value == found and len(found) > 1:
                    self._add_piece(found, start + change.start())
                elif value not in _UNSEEN:
                    self._add_piece(value.translate(_SPACES), start + change.start())
            elif found[0] not in _UNSEEN:
                self._add_piece(" ", start + change.start())
        if at < len(text):
            self._add_piece(text[at:].translate(_SPACES), start + at)

    def _add_piece(self, text: str, place: int) -> None:
        if self.ends_in_space and text.startswith(" ") and not self.preformatted:
            text, place = text[1:], place + 1
        if not text:
            return
        self.texts.append(text)
        self.places.append(place)
        self.ends_in_space = text[-1] in " \n"

    def _add_break(self, place: int) -> None:
        if self.texts:
            self.texts[-1] = self.texts[-1].removesuffix(" ")
            self.texts.append("\n")
            self.places.append(place)
            self.ends_in_space = True

    def _end_block(self) -> None:
        if not self.texts:
            return
        texts, places = self.texts, self.places
        self.texts, self.places, self.ends_in_space, self.sup_start = [], [], True, None
        text = "".join(texts)
        stripped = text.lstrip()
        cut = len(text) - len(stripped)
        stripped = stripped.rstrip()
        if not stripped:
            return
        pairs: list[tuple[int, int]] = []
        offset = -cut
        for piece, place in zip(texts, places, strict=True):
            if offset + len(piece) > 0 and offset < len(stripped):
                pair = (offset, place) if offset >= 0 else (0, place - offset)
                # A stretch that goes on where the last one stopped needs no pair of its own
                if not pairs or pair[1] - pair[0] != pairs[-1][1] - pairs[-1][0]:
                    pairs.append(pair)
            offset += len(piece)
        self._target().append((stripped, pairs))

    def finish(self) -> HtmlText:
        self._end_block()
        self.ignored_tables = 0
        while self.tables:
            self._close_table()
        parts: list[str] = []
        origins: list[tuple[int, int]] = []
        length = 0
        for text, pairs in self.blocks:
            if parts:
                parts.append("\n\n")
                length += 2
            origins.extend((length + offset, place) for offset, place in pairs)
            parts.append(text)
            length += len(text)
        return HtmlText(SourceText("".join(parts), tuple(origins)), self.left_out)


def _is_hidden(attributes: str) -> bool:
    small = attributes.lower()
    if "none" not in small and "hidden" not in small and not _FONT_OF_ZERO.search(small):
        return False
    return (
        _HIDING_STYLE.search(attributes) is not None
        or _HIDDEN_ATTRIBUTE.search(_QUOTED.sub('""', attributes)) is not None
    )
