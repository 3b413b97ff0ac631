"""
Word files (.docx) as text: paragraphs in their order, cells that hold sentences, footnotes.

python-docx finds the parts of the file; its `paragraph.text` leaves out what stands in links, text
boxes and tracked insertions, so the elements are walked here. The sizes that the archive states are
checked before anything is unpacked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from urisk_nb.errors import InputError, PackageMissing

__all__ = ["check_archive", "read_docx"]

MAX_PARTS = 5000
MAX_UNPACKED_BYTES = 200_000_000
MAX_TEXT_BYTES = 60_000_000  # of the part that holds the text
MIN_CELL_WORDS = 3  # in a cell that is text

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_LEFT_OUT = {
    f"{_W}{name}" for name in ("del", "moveFrom", "instrText", "delText", "pict", "object")
} | {"{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"}


def check_archive(content: bytes) -> list[str]:
    """
    Return the names of an archive's parts.

    Raises
    ------
    InputError
        It is no archive, or it unpacks to more than 200 MB.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as exc:
        raise InputError(
            f"the file is broken ({exc}).", fix="open it in its program and save it again"
        ) from exc
    if len(parts) > MAX_PARTS or sum(part.file_size for part in parts) > MAX_UNPACKED_BYTES:
        raise InputError(
            f"the file has {len(parts):,} parts and unpacks to "
            f"{sum(part.file_size for part in parts) / 1e6:,.0f} MB.",
            fix="save its text alone",
        )
    if any(
        part.file_size > MAX_TEXT_BYTES and part.filename.endswith((".xml", ".rels"))
        for part in parts
    ):
        raise InputError("its text has more than 60 MB.", fix="save it as several files")
    return [part.filename for part in parts]


def read_docx(content: bytes) -> str:
    """
    Return the text of a Word file, paragraphs with blank lines between them.

    Hidden and deleted text is left out, and so are cells that hold no words of a sentence.

    Raises
    ------
    InputError
        It is broken, is no Word file, or is too large.
    PackageMissing
        python-docx is not installed.
    """
    check_archive(content)
    try:
        import docx
        from docx.oxml import parse_xml
    except ImportError as exc:
        raise PackageMissing(
            "reading Word files needs python-docx.", fix="%pip install 'urisk-nb[documents]'"
        ) from exc
    try:
        document = docx.Document(BytesIO(content))
        bodies = [document.element.body]
        bodies.extend(
            parse_xml(part.target_part.blob)
            for part in document.part.rels.values()
            if part.reltype.endswith(("/footnotes", "/endnotes")) and not part.is_external
        )
        return "\n\n".join(text for body in bodies for text in _iterate_paragraphs(body))
    except Exception as exc:
        seen = (str(exc).splitlines() or [""])[0][:120] or type(exc).__name__
        raise InputError(
            f"the Word file is broken ({seen}).", fix="open it in Word and save it again"
        ) from exc


def _iterate_paragraphs(body: Any) -> Iterator[str]:
    for paragraph in body.iter(f"{_W}p"):
        around = {element.tag for element in paragraph.iterancestors()}
        if around & _LEFT_OUT:
            continue
        text = "".join(_iterate_texts(paragraph)).strip()
        if text and (f"{_W}tc" not in around or _is_text(text)):
            yield text


def _is_text(cell: str) -> bool:
    words = cell.split()
    return len(words) >= MIN_CELL_WORDS and sum(word[0].islower() for word in words) >= 2


def _iterate_texts(paragraph: Any) -> Iterator[str]:
    """Yield what a paragraph shows, without the paragraphs of text boxes inside it."""
    stack = list(reversed(paragraph))
    while stack:
        element = stack.pop()
        tag = element.tag
        if tag in _LEFT_OUT or tag == f"{_W}p" or not isinstance(tag, str):
            continue
        if tag == f"{_W}t":
            yield element.text or ""
        elif tag in (f"{_W}tab", f"{_W}br", f"{_W}cr"):
            yield "\t" if tag == f"{_W}tab" else "\n"
        elif tag == f"{_W}noBreakHyphen":
            yield "-"
        elif tag == f"{_W}r" and _is_hidden(element):
            continue
        else:
            stack.extend(reversed(element))


def _is_hidden(run: Any) -> bool:
    mark = run.find(f"{_W}rPr/{_W}vanish")
    return mark is not None and mark.get(f"{_W}val") not in ("0", "false", "off")
