"""
One file's content: its text, and what it says about itself.

Bytes are read, unpacked and decoded within limits; what the content begins with decides how it is
read, else the file's name. Of a submission of EDGAR the main document is taken. Nothing in a file
is executed, and no address in it is fetched. Over 400 lines: each form of file has its few.
"""

from __future__ import annotations

import contextlib
import html
import itertools
import json
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from urisk_nb.errors import InputError, UriskError
from urisk_nb.readers import filing_cover, filings
from urisk_nb.readers.encodings import decode_text
from urisk_nb.readers.source_text import SourceText, drop_page_furniture, remove_spans
from urisk_nb.risk.inputs import Section

__all__ = [
    "KINDS",
    "FileContent",
    "FileMapper",
    "find_suffix",
    "is_filing_json",
    "list_names",
    "read_content",
    "read_in_turn",
    "try_to_read",
]

MAX_NAMES = 10  # names in a message; the rest are counted
MAX_FILE_BYTES = 100_000_000
HEAD_CHARS = 100_000  # where a page says its date
MAX_FACTS = 200  # of inline XBRL that say what the document is; a filing has some ten
MAX_TEXT_CHARS = 20_000_000  # the longest 10-K has some 2 million
KINDS = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown"), "text"),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xht"), "html"),
    ".pdf": "pdf",
    ".docx": "docx",
    ".json": "json",
    ".xml": "html",
}
_DATE_LABEL = re.compile(
    r"^[\W_]{0,6}(?:dated?|published(?: on| at)?|publication date|filed(?: on)?)[\W_]{1,6}"
    r"(?P<day>[^\n]{4,60})$",
    re.IGNORECASE | re.MULTILINE,
)
# A line that goes on behind its date tells of something else: "Dated May 5, 2020, the lease ..."
_DATE_ALONE = re.compile(
    r"[^,;]*(?:,?\s*(?:19|20)\d\d)?(?:[\s,T]+[\d:.apmAPMZ+\-\s]*[A-Z]{0,4})?\s*"
)
_META_DATE = re.compile(
    r"<(?P<tag>meta|time)\b[^>]{0,300}?(?:article:published_time|datepublished|\bdate\b|pubdate|datetime)"
    r"[^>]{0,200}>",
    re.IGNORECASE,
)
_LINKED_DATE = re.compile(r"\"datePublished\"\s*:\s*\"([^\"]{8,40})\"")  # JSON-LD in a script
_FEED = re.compile(rb"<(?:rss|feed|rdf:RDF)[\s>]")
_SUBMISSION = re.compile(r"<SEC-DOCUMENT>|<DOCUMENT>\s*<TYPE>|<SEC-HEADER>", re.IGNORECASE)
_HEADER_LINE = re.compile(
    r"^\s*(CONFORMED SUBMISSION TYPE|FILED AS OF DATE|CONFORMED PERIOD OF REPORT):\s*(\S+)",
    re.MULTILINE,
)
_FACT = re.compile(
    r"\bname\s?=\s?[\"']dei:"
    r"(TradingSymbol|DocumentType|DocumentPeriodEndDate|AmendmentFlag)[\"'][^<>]{0,600}>",
    re.IGNORECASE,
)
_TAG = re.compile(r"<[^<>]{0,2000}>")
_TEXT_TAG = re.compile(r"</?(?:TABLE|CAPTION|S|C|FN|F\d{1,2}|TEXT|PRE)>")
_MARKDOWN = re.compile(
    r"(?<![\w*])\*\*(?=\S)|(?<=\S)\*\*(?![\w*])|!?\[(?=[^\]\n]{1,300}\]\()|(?<=[^\]\n])\]\([^()\s]{0,500}\)"
)
_ITEM_KEY = re.compile(
    r"(?:part_?(?P<part>[12]|i{1,2})_?)?(?:item|section)[_ ]?(?P<item>\d{1,2}[a-c]?|\d\.\d\d)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """What a file says: its text, and what it tells about itself."""

    source: SourceText
    sections: tuple[Section, ...] = ()
    form: str | None = None
    filed: date | None = None  # as a header or a field states it
    period_end: date | None = None
    signed: date | None = None
    dated: date | None = None  # a line "Date: ...", of what is no filing
    symbols: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tables_left_out: int = 0


FileMapper = Callable[[Sequence[Path]], Iterator[FileContent | UriskError]]
"""Returns what each file says, in the order given, or why it cannot be read."""


def read_in_turn(paths: Sequence[Path]) -> Iterator[FileContent | UriskError]:
    """Yield what each file says, read one after the other in this process."""
    return map(try_to_read, paths)


def try_to_read(path: Path) -> FileContent | UriskError:
    """Return what a file says, or why it cannot be read."""
    try:
        return read_content(path)
    except UriskError as exc:
        return exc


def find_suffix(path: Path) -> str:
    """Return a file's suffix in lower case, of a packed file (.htm.gz) the inner one."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("it is not a file.", fix="name a file or a folder")
        if status.st_size > MAX_FILE_BYTES:
            raise _too_large(status.st_size)
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise InputError(
            f"it cannot be opened ({exc.strerror or exc}).",
            fix="check the file and its permissions",
        ) from exc
    if len(content) > MAX_FILE_BYTES:
        raise _too_large(len(content))
    return _unpack(content) if content[:2] == b"\x1f\x8b" else content


def _too_large(size: int) -> InputError:
    return InputError(
        f"it has {size / 1e6:,.0f} MB; at most {MAX_FILE_BYTES / 1e6:,.0f} MB are read.",
        fix="save the part that matters as a file of its own",
    )


def _unpack(content: bytes) -> bytes:
    try:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        unpacked = unpacker.decompress(content, MAX_FILE_BYTES + 1)
    except zlib.error as exc:
        raise InputError(f"the gzip file is broken ({exc}).", fix="pack it again") from exc
    if len(unpacked) > MAX_FILE_BYTES:
        raise _too_large(len(unpacked))
    if not unpacker.eof:
        raise InputError("the gzip file is cut off.", fix="copy it again")
    return unpacked


def _decode(content: bytes, charset: str | None = None) -> str:
    if charset and not content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        if charset.lower() in ("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii"):
            charset = "cp1252" if charset.lower() != "ascii" else "ascii"  # as browsers do
        with contextlib.suppress(LookupError, UnicodeError, ValueError):
            text = content.decode(charset)
            if "\0" not in text[:20_000]:
                return text
    try:
        text = decode_text(content)
        if "\0" in text[:20_000]:
            raise UnicodeError("it holds zero bytes, as binary files do")
        return text
    except (UnicodeError, LookupError) as exc:
        raise InputError(f"it holds no text: {exc}.", fix="save it as UTF-8 text") from exc


def _find_kind(path: Path, content: bytes) -> str:
    """Return how a file is read: by the marks that its content begins with, else by its name."""
    head = content[:1024].lstrip()
    if head.startswith(b"%PDF-"):
        return "pdf"
    suffix = find_suffix(path)
    if content.startswith(b"PK\x03\x04"):
        if suffix != ".docx":
            raise InputError("it is an archive.", fix="unpack it, or save it as .docx or PDF")
        return "docx"
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise InputError("it is an old Office file.", fix="save it as .docx or PDF")
    if head.startswith(b"{\\rtf"):
        raise InputError("it is rich text.", fix="save it as .docx or PDF")
    if suffix == ".xml" and _FEED.search(head):
        raise InputError(
            "it is a news feed.",
            fix=f"evidence = feedparser.parse({path.name!r}), with %pip install feedparser",
        )
    if suffix == ".pdf" and re.match(rb"<(?:!doctype|html|\?xml)", head, re.IGNORECASE):
        return "html"  # a page that was saved under the name of a report
    return KINDS.get(suffix, "text")


def read_content(path: Path) -> FileContent:
    """
    Return what a file says.

    Raises
    ------
    InputError
        It cannot be read, is too large or has no text. The message does not name it.
    PackageMissing
        A package of the extra ``documents`` is needed.
    """
    content = _read_bytes(path)
    if not content.strip():
        raise InputError("it is empty.", fix="save or download it again")
    kind = _find_kind(path, content)
    if kind == "pdf":
        read = _read_pdf(content)
    elif kind == "docx":
        from urisk_nb.readers.docx_text import read_docx

        read = _describe(SourceText(read_docx(content)), "")
    elif kind == "json":
        read = _read_filing_json(_parse_json(_decode(content)))
    else:
        read = _read_text_or_html(path, content, kind)
    if not read.source.text.strip():
        raise InputError("it shows no text.", fix="save or download it again")
    if len(read.source.text) > MAX_TEXT_CHARS:
        raise InputError(
            f"its text has {len(read.source.text) / 1e6:,.0f} million characters; at most "
            f"{MAX_TEXT_CHARS / 1e6:,.0f} million are read.",
            fix="save the part that matters as a file of its own",
        )
    if read.form is None:
        names = [path.stem, *path.parts[-2:-4:-1]]  # ".../NVDA/10-K/0001045810-24-000029/"
        forms = filter(None, map(filing_cover.find_form_in_name, names[:1]))
        form = next(forms, None) or _find_form_of_folder(names[1:])
        read = _describe_again(replace(read, form=form)) if form else read
    return read if read.filed else _add_submission_header(path, read)


def _find_form_of_folder(names: Sequence[str]) -> str | None:
    """Return the form that a folder is named by, and nothing else: "10-K"."""
    for name in names:
        form = filing_cover.find_form_in_name(name)
        if form and not re.sub(r"[\W_]", "", filing_cover.drop_forms(name)):
            return form
    return None


def _add_submission_header(path: Path, read: FileContent) -> FileContent:
    """Return what is read with the filing date that the submission in the same folder states."""
    beside = path.with_name("full-submission.txt")
    if not re.match(r"primary[-_]doc", path.name, re.IGNORECASE) or not beside.is_file():
        return read
    with contextlib.suppress(OSError), beside.open("rb") as file:
        head = file.read(20_000).decode("utf-8", "replace")
        header = dict(_HEADER_LINE.findall(head))
        return replace(read, filed=_read_day(header.get("FILED AS OF DATE")))
    return read


def _read_pdf(content: bytes) -> FileContent:
    from urisk_nb.readers.pdf_text import read_pdf

    pdf = read_pdf(content)
    read = _describe(SourceText(pdf.text), "")
    items = read.sections or filings.find_sections(pdf.text, read.form)
    return replace(read, sections=items or pdf.pages, notes=pdf.notes)


def _read_text_or_html(path: Path, content: bytes, kind: str) -> FileContent:
    from urisk_nb.readers.html_text import find_charset, looks_like_html, read_html

    charset = find_charset(content)
    page = _decode(content, charset if charset and kind == "html" else None)
    start, end = 0, len(page)
    facts: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if _SUBMISSION.search(page, 0, 5000):
        start, end, facts, notes = _find_main_document(page)
    is_markdown = find_suffix(path) in (".md", ".markdown")
    if not is_markdown and (
        kind == "html" or looks_like_html(page[start : min(end, start + 20_000)])
    ):
        read = read_html(page, start, end)
        found = _describe(drop_page_furniture(read.source), page[start:end], facts, notes=notes)
        return replace(found, tables_left_out=read.tables_left_out)
    if end - start > MAX_TEXT_CHARS:
        return FileContent(source=SourceText(page[start:end]))  # refused by its size
    whole = SourceText(page, ((0, 0),))
    spans = [(0, start), *_find_text_tags(page, start, end), (end, len(page))]
    if is_markdown:
        spans = sorted(mark.span() for mark in _MARKDOWN.finditer(page))
    source = remove_spans(whole, spans) if any(a < b for a, b in spans) else SourceText(page)
    return _describe(drop_page_furniture(source), "", facts, notes=notes)


def _find_text_tags(page: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the spans of EDGAR's tags in a plain text, and of its tables that hold no sentence."""
    tables = []
    at = page.find("<TABLE>", start, end)
    while at >= 0 and (close := page.find("</TABLE>", at, end)) >= 0:
        if not _has_paragraph(page[at:close]):
            tables.append((at, close))
        at = page.find("<TABLE>", close, end)
    tags = [mark.span() for mark in _TEXT_TAG.finditer(page, start, end)]
    return sorted(tables + tags)


def _has_paragraph(table: str) -> bool:
    for block in re.split(r"\n\s*\n", table):
        words = block.split()
        small = sum(word[0].islower() for word in words)
        if len(words) >= 12 and small > 0.5 * len(words) and not re.search(r"\S {4,}\S", block):
            return True
    return False


def _find_main_document(
    page: str,
) -> tuple[int, int, dict[str, str], tuple[str, ...]]:
    """Return where the main document of an EDGAR submission stands, and what the header says."""
    header = dict(_HEADER_LINE.findall(page[:20_000]))
    parts: list[tuple[str, int, int]] = []
    at = page.upper().find("<DOCUMENT>")
    while at >= 0:
        stop = page.find("</DOCUMENT>", at)
        stop = stop if stop >= 0 else len(page)
        head = page[at : at + 2000]
        kind = re.search(r"<TYPE>\s*([^\n<]+)", head, re.IGNORECASE)
        text = re.search(r"<TEXT>", head, re.IGNORECASE)
        close = page.find("</TEXT>", at, stop)
        parts.append(
            (
                kind[1].strip() if kind else "?",
                at + (text.end() if text else len("<DOCUMENT>")),
                close if close >= 0 else stop,
            )
        )
        at = page.find("<DOCUMENT>", stop)
    if not parts:
        return 0, len(page), header, ()
    wanted = header.get("CONFORMED SUBMISSION TYPE")
    main = next((part for part in parts if part[0] == wanted), parts[0])
    header.setdefault("CONFORMED SUBMISSION TYPE", main[0])
    others = [part[0] for part in parts if part is not main]
    notes: tuple[str, ...] = ()
    if others:
        notes = (
            f"only the {main[0]} of its {len(parts)} documents was read, not {list_names(others)}",
        )
    return main[1], main[2], header, notes


def _describe(
    source: SourceText,
    page: str,
    header: dict[str, str] | None = None,
    *,
    notes: tuple[str, ...] = (),
) -> FileContent:
    """
    Return a text with what it says about itself.

    Parameters
    ----------
    page
        The HTML that it was taken from: the tables of cover and signatures are no part of the text.
    header
        The lines of a submission's header.
    """
    text, header = source.text, header or {}
    facts = _read_facts(page)
    cover, end_matter = _strip_tags(page, text)
    form = header.get("CONFORMED SUBMISSION TYPE") or facts.get("documenttype")
    form = filing_cover.normalize_form(form) if form else filing_cover.find_form(text)
    if form and not form.endswith("/A") and facts.get("amendmentflag", "").lower() == "true":
        form += "/A"
    period_end = _read_day(header.get("CONFORMED PERIOD OF REPORT")) or _read_day(
        facts.get("documentperiodenddate")
    )
    is_filing = form is not None
    period_end = period_end or (filing_cover.find_period_end(cover) if is_filing else None)
    symbols = tuple(filter(None, facts.get("tradingsymbol", "").upper().split()))
    return FileContent(
        source=source,
        sections=filings.find_sections(text, form),
        form=form,
        filed=_read_day(header.get("FILED AS OF DATE")),
        period_end=period_end,
        signed=filing_cover.find_signature_date(end_matter, period_end) if is_filing else None,
        dated=None if is_filing else _find_stated_date(text, page),
        symbols=symbols or (filing_cover.find_symbols(cover) if is_filing else ()),
        notes=notes,
    )


def _describe_again(content: FileContent) -> FileContent:
    """Return what is known of a filing whose form only the name of its file tells."""
    text = content.source.text
    period_end = content.period_end or filing_cover.find_period_end(text)
    return replace(
        content,
        sections=filings.find_sections(text, content.form) or content.sections,
        dated=None,
        period_end=period_end,
        signed=content.signed or filing_cover.find_signature_date(text, period_end),
    )


def _read_facts(page: str) -> dict[str, str]:
    """Return what inline XBRL says of the document: its type, period and symbols."""
    facts: dict[str, list[str]] = {}
    for mark in itertools.islice(_FACT.finditer(page), MAX_FACTS):
        close = page.find("</ix:non", mark.end(), mark.end() + 2000)
        value = " ".join(_TAG.sub("", page[mark.end() : max(close, mark.end())]).split())
        if value:
            facts.setdefault(mark[1].lower(), []).append(value)
    return {
        name: " ".join(values) if name == "tradingsymbol" else values[0]
        for name, values in facts.items()
    }


def _strip_tags(page: str, text: str) -> tuple[str, str]:
    """Return the words of a page's beginning and end, tables and all; without a page the text."""
    if not page:
        return text, text
    start = max(page.find("</ix:header>"), 0)
    parts = (page[start : start + 150_000], page[max(start, len(page) - 2_000_000) :])
    cover, end = (html.unescape(_TAG.sub("\n", part)) for part in parts)
    return _drop_blank_lines(cover), _drop_blank_lines(end)


def _drop_blank_lines(text: str) -> str:
    return "\n".join(filter(None, map(str.strip, text.split("\n"))))


def _read_day(value: object) -> date | None:

    return next(iter(filing_cover.find_dates(str(value))), None) if value else None


def _find_stated_date(text: str, page: str) -> date | None:
    """Return the date of a note, a call or a page: a line "Date: ...", or the page's own mark."""
    head = page[:HEAD_CHARS]
    marks = [(mark["tag"].lower(), mark.group()) for mark in _META_DATE.finditer(head)]
    stated = [mark for tag, mark in marks if tag == "meta"]
    stated += [mark[1] for mark in _LINKED_DATE.finditer(head)]
    for mark in stated:
        if days := filing_cover.find_dates(mark):
            return days[0]
    # Other articles on the page have times, too: a day that is too late is no look-ahead
    if times := [day for _, mark in marks for day in filing_cover.find_dates(mark)]:
        return max(times)
    for label in _DATE_LABEL.finditer(text[:3000]):
        days = filing_cover.find_dates(label["day"])
        if days and _DATE_ALONE.fullmatch(label["day"]):
            return days[0]
    return None


# --- edgar-crawler --------------------------------------------------------------------------------


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        seen = exc.msg if isinstance(exc, json.JSONDecodeError) else "it is nested too deeply"
        raise InputError(f"it is not JSON ({seen}).", fix="save or download it again") from exc


def is_filing_json(path: Path) -> bool:
    """
    Return whether a .json file is a filing of edgar-crawler.

    Raises
    ------
    InputError
        It cannot be read, or is no JSON.
    """
    return _is_filing_json(_parse_json(_decode(_read_bytes(path))))


def _is_filing_json(data: object) -> bool:
    return isinstance(data, dict) and any(
        isinstance(key, str) and _ITEM_KEY.fullmatch(key) and isinstance(value, str)
        for key, value in _open_items(data).items()
    )


def _open_items(data: dict[Any, Any]) -> dict[Any, Any]:
    """Return a filing with its items beside its other fields: some keep them under one key."""
    inside = (data.get(name) for name in ("items", "sections"))
    return {**data, **next((one for one in inside if isinstance(one, dict)), {})}


def _read_filing_json(data: object) -> FileContent:
    """Return the filing that edgar-crawler took apart, each item a section."""
    if not isinstance(data, dict) or not _is_filing_json(data):
        raise InputError(
            "it is not a filing as edgar-crawler writes it: it has no item_1, item_1A, ...",
            fix="if it holds news, pass this file alone",
        )
    data = _open_items(data)
    names = {str(key).strip().lower(): value for key, value in data.items()}
    text, sections = "", []
    for key, value in data.items():
        found = _ITEM_KEY.fullmatch(str(key))
        if not found or not isinstance(value, str) or not value.strip():
            continue
        item = found["item"].upper()
        name = f"Item {item}"
        if found["part"]:
            part = {"1": "I", "2": "II"}.get(found["part"], found["part"].upper())
            name = f"Part {part}, {name}"
        text += "\n\n" if text else ""
        sections.append(Section(name=name, title=filings.find_title(item, value), start=len(text)))
        text += value.strip()
    form = names.get("filing_type") or names.get("form") or names.get("form_type")
    symbol = names.get("ticker") or names.get("symbol") or ""
    filed = _read_day(names.get("filing_date") or names.get("filed"))
    return FileContent(
        source=SourceText(text),
        sections=tuple(sections),
        form=filing_cover.normalize_form(str(form)) if form else None,
        filed=filed,
        period_end=_read_day(names.get("period_of_report")),
        symbols=(str(symbol).upper(),) if symbol else (),
    )


def list_names(names: Sequence[str], budget: int = MAX_NAMES) -> str:
    """Return the names, separated by commas; those beyond the budget are counted."""
    more = f" and {len(names) - budget} more" if len(names) > budget else ""
    return ", ".join(names[:budget]) + more
