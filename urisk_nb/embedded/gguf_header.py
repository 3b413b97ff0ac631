"""The header of a GGUF file: read it, and write it with other entries before the same weights.

Knows: how a GGUF file of version 3 is laid out.
Does not know: what its entries mean, or what is in its weights.
Why not the package gguf: it is not installed where only the embedded engine is used.
"""

from __future__ import annotations

import mmap
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from urisk_nb.errors import FetchFailed

__all__ = ["Header", "encode_header", "encode_text", "read_header", "read_text", "write_copy"]

MAGIC, VERSION = b"GGUF", 3
ALIGNMENT, ALIGNMENT_KEY = 32, "general.alignment"
# By the number of the type: uint8, int8, uint16, int16, uint32, int32, float32, bool, then string
# and array, whose sizes are in the file, then uint64, int64, float64
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
COPY_BYTES = 8 * 1024 * 1024
INCOMPLETE = "it ends within its header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """
    The part of a file before the weights.

    Attributes
    ----------
    entries
        By key, the bytes of the whole entry: key, type and value.
    tensors, tensor_count
        The bytes of the list of weights, and their number; places count from the first weight.
    alignment, data_offset
        The weights begin at a multiple of the first, and at the second, in bytes.
    """

    entries: Mapping[str, bytes]
    tensors: bytes
    tensor_count: int
    alignment: int
    data_offset: int


def read_header(path: Path) -> Header:
    """
    Return a file's header; some 50 ms for a vocabulary of 50,000 words.

    Raises
    ------
    FetchFailed
        The file cannot be read, or it is not a complete GGUF file of version 3.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Walk(data).read_header()
    except OSError as exc:
        raise FetchFailed(
            f"{path} cannot be read: {exc.strerror or exc}.",
            fix="check the file and its permissions",
        ) from exc
    except struct.error as exc:
        raise FetchFailed(
            f"{path} is not a complete GGUF file: {INCOMPLETE}.", fix="fetch it again"
        ) from exc
    except (ValueError, KeyError, RecursionError) as exc:
        raise FetchFailed(
            f"{path} is not a complete GGUF file: {exc}.", fix="fetch it again"
        ) from exc


class _Walk:
    """One pass over the bytes of a header. Raises ValueError or struct.error."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, len(MAGIC)

    def read_header(self) -> Header:
        magic, version = self._data[: len(MAGIC)], self._number("<I")
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"it begins with {magic!r} and version {version}")
        tensor_count, entry_count = self._number("<Q"), self._number("<Q")
        entries, alignment = {}, ALIGNMENT
        for _ in range(entry_count):
            start = self._at
            key, kind = self._text(), self._number("<I")
            value_at = self._at
            self._pass_value(kind)
            entries[key] = self._data[start : self._at]
            if key == ALIGNMENT_KEY:
                (alignment,) = struct.unpack_from("<I", self._data, value_at)
                if not alignment:
                    raise ValueError(f"its {key} is 0")
        start = self._at
        for _ in range(tensor_count):
            self._text()
            self._pass(8 * self._number("<I") + 4 + 8)  # its shape, its type, its place
        tensors = self._data[start : self._at]
        return Header(
            entries=entries,
            tensors=tensors,
            tensor_count=tensor_count,
            alignment=alignment,
            data_offset=_align(self._at, alignment),
        )

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def _pass(self, size_bytes: int) -> None:
        self._at += size_bytes
        if self._at > len(self._data):
            raise ValueError(INCOMPLETE)

    def _text(self) -> str:
        start = self._at + 8
        self._pass_value(STRING)
        return self._data[start : self._at].decode()

    def _pass_value(self, kind: int) -> None:
        if kind == STRING:
            self._pass(self._number("<Q"))
        elif kind == ARRAY:
            inner, count = self._number("<I"), self._number("<Q")
            if inner in SIZES:
                self._pass(SIZES[inner] * count)
            else:
                for _ in range(count):
                    self._pass_value(inner)
        elif kind in SIZES:
            self._pass(SIZES[kind])
        else:
            raise ValueError(f"it has a value of the unknown type {kind}")


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def read_text(entry: bytes) -> str:
    """Return the text of an entry whose value is a string; raise ValueError for any other."""
    (key_bytes,) = struct.unpack_from("<Q", entry)
    (kind,) = struct.unpack_from("<I", entry, 8 + key_bytes)
    if kind != STRING:
        raise ValueError(f"the type of its value is {kind}, not string")
    (size_bytes,) = struct.unpack_from("<Q", entry, 8 + key_bytes + 4)
    return entry[len(entry) - size_bytes :].decode()


def encode_text(key: str, text: str) -> bytes:
    """Return an entry whose value is a string."""
    name, value = key.encode(), text.encode()
    return struct.pack("<Q", len(name)) + name + struct.pack("<IQ", STRING, len(value)) + value


def encode_header(header: Header, entries: Mapping[str, bytes]) -> bytes:
    """Return the bytes before the first weight, with these entries in place of the header's."""
    head = struct.pack("<4sIQQ", MAGIC, VERSION, header.tensor_count, len(entries))
    head += b"".join(entries.values()) + header.tensors
    return head.ljust(_align(len(head), header.alignment), b"\0")


def write_copy(source: Path, header: Header, head: bytes, out: BinaryIO) -> None:
    """
    Write the head, and after it the weights of the source that the header is of.

    Raises OSError if the source cannot be read or the copy cannot be written.
    """
    with source.open("rb") as file:
        file.seek(header.data_offset)
        out.write(head)
        shutil.copyfileobj(file, out, COPY_BYTES)
