"""Bytes as text: files are written in UTF-8, UTF-16 and the code pages of Windows."""

from __future__ import annotations

import codecs
from pathlib import Path

from urisk_nb.errors import InputError

__all__ = ["decode_text", "read_text"]

# The longer marks first: the one of UTF-32 begins with the one of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Western and Central European text cannot be told apart where it has few accents: the more frequent
# one is taken.
CODE_PAGES = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr"),
)
SAMPLE_BYTES = 1 << 16  # what is looked at to guess: the whole of a long file would take seconds


def read_text(path: Path) -> str:
    """
    Return the text of a file, whatever its encoding; line ends stay as they are.

    Raises
    ------
    InputError
        The file cannot be opened, or it holds no text.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise InputError(
            f"{path.name} cannot be read: {exc.strerror or exc}.", fix="check the file"
        ) from exc
    try:
        return decode_text(content)
    except UnicodeError as exc:
        raise InputError(f"{path.name} holds no text: {exc}.", fix="save it as UTF-8 text") from exc


def decode_text(content: bytes) -> str:
    """
    Return the bytes as text.

    A byte order mark decides; else UTF-8, if all of it is; else UTF-16, where every second byte of
    the beginning is zero; else what charset-normalizer makes of the beginning.

    Raises
    ------
    UnicodeError
        The bytes are no text in any of these.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode(_guess_encoding(content[:SAMPLE_BYTES]))
    return content.decode(_guess_utf16(content)) if "\0" in text[:SAMPLE_BYTES] else text


def _guess_utf16(content: bytes) -> str:
    sample = content[:SAMPLE_BYTES]
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = sample[start::2]
        if zeros.count(0) > 0.5 * len(zeros):
            return encoding
    raise UnicodeError("it holds zero bytes, as binary files do")


def _guess_encoding(sample: bytes) -> str:
    if b"\0" in sample:
        return _guess_utf16(sample)
    from charset_normalizer import from_bytes  # most files are UTF-8

    best = from_bytes(sample, cp_isolation=list(CODE_PAGES)).best()
    if best is None:
        raise UnicodeError("its encoding was not recognised")
    return "cp1252" if best.encoding == "cp1250" else best.encoding
