"""
Texts of documents in little memory: a long one is kept packed, and unpacked where it is read.

Thousands of annual reports are read one after the other, and then a few sentences of each. Packed
they take a quarter. The text that was used last is kept as it is: whoever reads a document reads it
again and again.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, overload

__all__ = ["MIN_PACKED_CHARS", "PackedText", "TextField", "find_stored"]

MIN_PACKED_CHARS = 20_000  # what is shorter is kept as it is
LEVEL = 1  # of zlib: three milliseconds for an annual report
ENCODING, ERRORS = "utf-8", "surrogatepass"


@dataclass(frozen=True, slots=True)
class PackedText:
    """A text of so many characters; equal for equal texts."""

    data: bytes
    length: int

    @classmethod
    def of(cls, text: str) -> PackedText:
        """Return a text packed."""
        return cls(zlib.compress(text.encode(ENCODING, ERRORS), LEVEL), len(text))

    def unpack(self) -> str:
        """Return the text."""
        return zlib.decompress(self.data).decode(ENCODING, ERRORS)


_latest: tuple[PackedText, str] | None = None  # one pair, so that another thread sees both


class TextField:
    """The field of a dataclass that takes and gives a text, and keeps a long one packed."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, kind: type) -> TextField: ...
    @overload
    def __get__(self, owner: object, kind: type) -> str: ...
    def __get__(self, owner: object | None, kind: type) -> TextField | str:
        global _latest  # noqa: PLW0603  the text that was used last, of whatever document
        if owner is None:
            raise AttributeError(self._name)  # so a dataclass sees that there is no default
        stored: PackedText | str = vars(owner)[self._name]
        if not isinstance(stored, PackedText):
            return stored
        latest = _latest
        if latest is None or latest[0] is not stored:
            latest = _latest = (stored, stored.unpack())
        return latest[1]

    def __set__(self, owner: object, text: str) -> None:
        global _latest  # noqa: PLW0603
        stored: PackedText | str = text
        if isinstance(text, str) and len(text) >= MIN_PACKED_CHARS:
            latest = _latest
            if latest is None or latest[1] is not text:  # a copy of a document has its very text
                latest = _latest = (PackedText.of(text), text)
            stored = latest[0]
        vars(owner)[self._name] = stored


def find_stored(owner: object, name: str) -> Any:
    """Return what stands for a text: equal for equal texts, and nothing is unpacked."""
    return vars(owner)[name]
