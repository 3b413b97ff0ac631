"""
PDF files as text, page by page: lines that the page broke are joined again.

A PDF file knows glyphs and places, no paragraphs. Lines are joined to paragraphs by their length
and their ends, a word that a hyphen broke becomes whole, and headers, footers and page numbers are
left out. pypdf's own limits are set low, so that a file that unpacks to gigabytes is refused.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.risk.inputs import Section

__all__ = ["PdfText", "join_lines", "read_pdf"]

MAX_PAGES = 2000
MAX_PAGE_BYTES = 3_000_000  # a page's drawing, unpacked; a page of text has some 50,000
MAX_PAGE_CHARS = 200_000
MAX_CONTENT_BYTES = 150_000_000  # all pages together
EDGE_LINES = 3  # of a page, where headers and footers stand
MIN_REPEATS = 3

_PAGE_NUMBER = re.compile(
    r"[\W_]*(?:page\s*)?(?:[A-Z]{1,2}-)?(?:\d{1,4}|[ivxl]{1,6})(?:\s*(?:of|/)\s*\d{1,4})?[\W_]*",
    re.IGNORECASE,
)
_BULLET = re.compile(r"\s*(?:[•◦▪●■○·∙‣*\-–—]\s*(?=\S)|\(?(?:\d{1,2}|[a-z]|[ivx]{1,4})[.)]\s+)")
_SENTENCE_END = re.compile(r"[.!?:;\u3002\uff01\uff1f][\"'”’)\]]*$")
_BROKEN_WORD = re.compile(r"([A-Za-z][A-Za-z'’]*)[-\u2010\u00ad]$")
_WORD = re.compile(r"[A-Za-z]+(?:[-\u2010][A-Za-z]+)*")
# What stands before a hyphen that is no break of the line's.
_PREFIXES_TEXT = """
    all anti cross down end ex first fixed full half high long low mid multi non off on part quasi
    second self short so third up well year
"""
_PREFIXES = frozenset(_PREFIXES_TEXT.split())
LONG_LINE = 0.75  # of the usual length: a shorter line may end a paragraph


@dataclass(frozen=True, slots=True)
class PdfText:
    """
    The text of a PDF file.

    Attributes
    ----------
    text
        Paragraphs with blank lines between them.
    pages
        A section for each page that has text: "page 3".
    notes
        Pages that were not read.
    """

    text: str
    pages: tuple[Section, ...]
    notes: tuple[str, ...]


def read_pdf(content: bytes) -> PdfText:
    """
    Return the text of a PDF file.

    Raises
    ------
    InputError
        It is broken, needs a password, has more than 2,000 pages or no text on them.
    PackageMissing
        pypdf is not installed.
    """
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as exc:
        raise PackageMissing(
            "reading PDF files needs pypdf.", fix="%pip install 'urisk-nb[documents]'"
        ) from exc
    try:
        with _set_limits(pypdf):
            pages, skipped = _extract_pages(pypdf.PdfReader(BytesIO(content)))
    except InputError:
        raise
    except (PyPdfError, RecursionError, MemoryError) as exc:
        raise _broken(exc) from exc
    except Exception as exc:
        raise _broken(exc) from exc
    text, sections = _lay_out(pages)
    if not text:
        raise InputError(
            f"there is no text on its {len(pages)} pages: they are pictures.",
            fix="run it through text recognition (OCR) first",
        )
    notes = (f"{_name_pages(skipped)} could not be read",) if skipped else ()
    return PdfText(text, sections, notes)


def _broken(exc: BaseException) -> InputError:
    seen = (str(exc).splitlines() or [""])[0][:120] or type(exc).__name__
    return InputError(
        f"the PDF file is broken ({seen}).", fix="open it in a viewer and save it as a new PDF"
    )


@contextlib.contextmanager
def _set_limits(pypdf: Any) -> Iterator[None]:
    """Hold pypdf to sizes that real documents do not reach, and keep its warnings to itself."""
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with pypdf.apply_configuration(
            zlib_maximum_output_length=20_000_000,
            zlib_maximum_recovery_input_length=200_000,
            lzw_maximum_output_length=5_000_000,
            run_length_maximum_output_length=20_000_000,
            array_based_stream_maximum_output_length=20_000_000,
            stream_decoding_work_maximum_length=40_000_000,
            stream_parsing_work_maximum_count=400_000,
            xform_maximum_invocations_per_extraction=200,
            page_tree_maximum_entries=20_000,
        ):
            yield
    finally:
        logger.setLevel(level)


def _extract_pages(reader: Any) -> tuple[list[str], list[int]]:
    """Return the text of each page, and the numbers of the pages that could not be read."""
    if reader.is_encrypted:
        try:
            is_open = bool(reader.decrypt(""))  # some need a password for changes only
        except Exception:  # noqa: BLE001 - a cipher that it does not know
            is_open = False
        if not is_open:
            raise InputError(
                "the PDF file is protected by a password.",
                fix="open it in a viewer and save a copy without the password",
            )
    count = len(reader.pages)
    if count > MAX_PAGES:
        raise InputError(
            f"the PDF file has {count:,} pages; at most {MAX_PAGES:,} are read.",
            fix="save the pages that matter as a file of their own",
        )
    pages: list[str] = []
    skipped: list[int] = []
    total = 0
    for number in range(count):
        text = ""
        try:
            page = reader.pages[number]
            contents = page.get_contents()
            size = len(contents.get_data()) if contents is not None else 0
            total += size
            if size <= MAX_PAGE_BYTES and total <= MAX_CONTENT_BYTES:
                text = page.extract_text()[:MAX_PAGE_CHARS]
            else:
                skipped.append(number + 1)
        except Exception:  # noqa: BLE001 - one broken page leaves the others
            skipped.append(number + 1)
        pages.append(text)
    if count and len(skipped) == count:
        raise InputError(
            "none of its pages could be read.", fix="open it in a viewer and save it as a new PDF"
        )
    return pages, skipped


def _name_pages(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"page {numbers[0]}"
    shown = ", ".join(map(str, numbers[:10]))
    return f"pages {shown}" + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")


# --- lines to paragraphs --------------------------------------------------------------------------


def _lay_out(pages: Sequence[str]) -> tuple[str, tuple[Section, ...]]:
    """Return the paragraphs of all pages and where each page begins."""
    lines = _drop_edges([[line.strip() for line in page.splitlines()] for page in pages])
    words = Counter(word.lower() for page in lines for line in page for word in _WORD.findall(line))
    parts: list[str] = []
    sections: list[Section] = []
    length = 0
    for number, page in enumerate(lines, 1):
        paragraphs = join_lines(page, words)
        if not paragraphs:
            continue
        if parts:
            end = (
                _mend(parts[-1], paragraphs[0], words)
                if _goes_on(parts[-1], paragraphs[0])
                else parts[-1] + "\n\n"
            )
            length += len(end) - len(parts[-1])
            parts[-1] = end
        sections.append(Section(name=f"page {number}", start=length))
        text = "\n\n".join(paragraphs)
        parts.append(text)
        length += len(text)
    return "".join(parts), tuple(sections)


def _goes_on(page: str, behind: str) -> bool:
    """Return whether the last sentence of a page goes on with the next one's first paragraph."""
    last = page.rpartition("\n")[2]
    return not _SENTENCE_END.search(last) and last.count(" ") >= 3 and behind[0].islower()


def _drop_edges(pages: list[list[str]]) -> list[list[str]]:
    """Leave out page numbers, and lines that stand again and again at the edges of pages."""
    shown = [[line for line in page if line] for page in pages]
    forms = Counter(
        form
        for page in shown
        for form in {_form(line) for line in page[:EDGE_LINES] + page[-EDGE_LINES:]}
    )
    needed = max(MIN_REPEATS, 0.25 * len(shown))
    kept = []
    seen: set[str] = set()
    for page, lines in zip(shown, pages, strict=True):
        edges = {*page[:EDGE_LINES], *page[-EDGE_LINES:]}
        repeated = {line for line in edges if len(line) <= 200 and forms[_form(line)] >= needed}
        # A sentence, such as a disclaimer, is text once
        first = {line for line in repeated if _SENTENCE_END.search(line) and line not in seen}
        seen |= repeated
        drop = repeated - first | {line for line in edges if _PAGE_NUMBER.fullmatch(line)}
        kept.append([line for line in lines if line not in drop])
    return kept


def _form(line: str) -> str:
    return re.sub(r"\d+|\b[ivxl]+\b", "#", line.lower())


def join_lines(lines: Sequence[str], words: Counter[str]) -> list[str]:
    """
    Return the paragraphs that a page's lines make.

    A line begins a paragraph behind a blank line, with a bullet, behind a heading, and behind a
    line that is short or ends a sentence where the next one begins with a capital. `words` counts
    the document's words: they tell a broken word from one with a hyphen.
    """
    lengths = sorted(len(line) for line in lines if len(line) > 20)
    usual = lengths[int(0.8 * len(lengths))] if lengths else 0
    paragraphs: list[str] = []
    before = ""
    for line in lines:
        if not line:
            before = ""
            continue
        if not before or _begins_paragraph(before, line, usual):
            paragraphs.append(line)
        else:
            paragraphs[-1] = _mend(paragraphs[-1], line, words) + line
        before = line
    return paragraphs


def _begins_paragraph(before: str, line: str, usual: int) -> bool:
    if _BULLET.match(line):
        return True
    if line[0].islower():
        return False
    is_short = len(before) < LONG_LINE * usual
    if _SENTENCE_END.search(before):
        return is_short
    # A heading: short, and what follows begins like a sentence
    return is_short and len(before) < 80 and before[-1] not in ",-&" and line[0].isupper()


def _mend(text: str, behind: str, words: Counter[str]) -> str:
    """
    Return the text, ready for what stands behind its line end: with a space, or without the hyphen
    that broke its last word. A hyphen that belongs to the word stays.
    """
    broken = _BROKEN_WORD.search(text[-40:])
    if not broken:
        return text + " "
    found = _WORD.match(behind)
    first, second = broken[1].lower(), found[0].lower() if found else ""
    whole, hyphenated = words[first + second], words[f"{first}-{second}"]
    if not second or not behind[0].islower() or hyphenated > whole:
        return text
    return text[:-1] if whole or first not in _PREFIXES else text
