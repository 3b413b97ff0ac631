"""
Replies that a proxy has compressed although nobody asked for it: gzip and deflate, as they come.

Every member of a gzip stream is read: some proxies end one and begin another at each part that they
pass on. Does not know HTTP beyond the names of the encodings.
"""

from __future__ import annotations

import zlib

__all__ = ["Decompressor", "find_unknown_encoding", "list_encodings"]

GZIP_OR_ZLIB, RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
KNOWN = ("gzip", "x-gzip", "deflate")
NO_COMPRESSION = ("", "identity", "none", "utf-8")  # the last two as some programs have it


def list_encodings(header: str) -> list[str]:
    """Return the encodings of a Content-Encoding, in the order in which they were applied."""
    names = (name.strip() for name in header.lower().split(","))
    return [name for name in names if name not in NO_COMPRESSION]


def find_unknown_encoding(names: list[str]) -> str | None:
    """Return the first encoding that cannot be undone here, or None."""
    return next((name for name in names if name not in KNOWN), None)


class Decompressor:
    """
    Undoes one encoding, part by part.

    `deflate` is zlib's format by the standard, and the bare one with some servers: the first part
    shows it. What follows a gzip stream and is no further member is passed over, as gzip does.

    Parameters
    ----------
    name
        As `list_encodings` gives it.
    """

    def __init__(self, name: str) -> None:
        self._inner = zlib.decompressobj(GZIP_OR_ZLIB)
        self._may_be_bare, self._head = name == "deflate", b""
        self._is_further = False  # a member after the first

    def feed(self, data: bytes) -> bytes:
        """Return what this part holds; raise ValueError for what is not compressed so."""
        parts = []
        data, self._head = self._head + data, b""
        if self._may_be_bare and len(data) < 2:  # too few to show the format
            self._head, data = data, b""
        while data:
            if self._inner.eof:
                self._inner, self._is_further = zlib.decompressobj(GZIP_OR_ZLIB), True
            try:
                parts.append(self._inner.decompress(data))
            except zlib.error as exc:
                if self._may_be_bare:
                    self._inner, self._may_be_bare = zlib.decompressobj(RAW), False
                    continue
                if self._is_further and not data.startswith(b"\x1f\x8b"):
                    break
                raise ValueError(str(exc)) from exc
            self._may_be_bare = False
            data = self._inner.unused_data
        return b"".join(parts)
