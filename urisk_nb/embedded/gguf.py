"""
The head of a GGUF file: whether it is one, and whole, without loading it.

A broken file is told at the start, by its name: llama.cpp says only that it cannot load. Versions 2
and 3, little endian. Source: the GGUF specification of the ggml project.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["NotGguf", "check"]


class NotGguf(ValueError):
    """The file is no GGUF file, or not all of it; the message says what was seen."""


# fmt: off  -- a table of the format, read by row
_BLOCKS: Mapping[int, tuple[int, int]] = {  # tensor type -> values a block, bytes a block
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    30: (1, 2),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
}
# fmt: on
_SCALARS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?")))
_SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # bytes, where the file names no other


def check(path: Path) -> None:
    """
    Check that a file is whole. Reads its head only: some 50 ms for a vocabulary of 50,000 words.

    Raises
    ------
    NotGguf
        No GGUF file, cut short, or damaged in its head.
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 24:
            raise NotGguf(f"{path} has {size} bytes: no model")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                needed = _Cursor(data).read_head(path)
            except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as exc:
                raise NotGguf(f"{path} is cut short or damaged: its head cannot be read") from exc
    if size < needed:
        raise NotGguf(f"{path} is cut short: {size} bytes, its head promises {needed}")


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read_head(self, path: Path) -> int:
        """Return the bytes that the file must have."""
        if self._data[:4] != b"GGUF":
            raise NotGguf(
                f"{path} starts with {self._data[:4]!r}, a GGUF model starts with b'GGUF'"
            )
        self._at = 4
        version = self._read("<I")
        if version not in {2, 3}:
            raise NotGguf(f"{path} is GGUF version {version}; 2 and 3 are known")
        tensors, entries = self._read("<Q"), self._read("<Q")
        alignment = _ALIGNMENT
        for _ in range(entries):
            name = self._read_text()
            value = self._read_value(self._read("<I"))
            if name == "general.alignment" and isinstance(value, int):
                alignment = value or _ALIGNMENT
        end = max((self._read_tensor() for _ in range(tensors)), default=0)
        return -(-self._at // alignment) * alignment + end

    def _read_value(self, kind: int) -> float:
        """Pass over a value; return it where it is a number."""
        if kind == _STRING:
            self._skip(self._read("<Q"))
        elif kind != _ARRAY:
            number: float = self._read(_SCALARS[kind])
            return number
        else:
            inner, count = self._read("<I"), self._read("<Q")
            if inner == _STRING:
                for _ in range(count):
                    self._skip(self._read("<Q"))
            else:  # an array of arrays is legal, never seen, and a KeyError here
                self._skip(count * struct.calcsize(_SCALARS[inner]))
        return 0

    def _read_tensor(self) -> int:
        """Return where the tensor ends behind the head, in bytes."""
        self._skip(self._read("<Q"))
        values = 1
        for _ in range(self._read("<I")):
            values *= self._read("<Q")
        block, block_bytes = _BLOCKS.get(self._read("<I"), (1, 0))
        start: int = self._read("<Q")
        return start + values // block * block_bytes

    def _read_text(self) -> str:
        count = self._read("<Q")
        start = self._at
        self._skip(count)
        return self._data[start : self._at].decode("utf-8", "replace")

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise struct.error("past the end")

    def _read(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value
