"""One spelling for each value, so that the same content always has the same hash."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

__all__ = ["compute_hash", "decode_json", "encode_json", "pack", "unpack"]

MIN_PACKED_BYTES = 512  # what is shorter is stored as it is
LEVEL = 3  # of zlib: half the time of its default for a twentieth more bytes
PLAIN, PACKED = b"p", b"z"
# Made once: `json.dumps` would make one for each record
ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)


def encode_json(content: Any) -> bytes:
    """
    Return canonical JSON: sorted keys, no spaces, ASCII. A float is its shortest exact spelling.

    Raises
    ------
    ValueError
        A number is NaN or infinite, which JSON has no word for.
    """
    return ENCODER.encode(content).encode("ascii")


def decode_json(plain: bytes) -> Any:
    """Return what `encode_json` was given; a tuple comes back as a list."""
    return json.loads(plain)


def compute_hash(plain: bytes) -> bytes:
    """Return the sha256 of the bytes: 32 bytes."""
    return hashlib.sha256(plain).digest()


def pack(plain: bytes) -> bytes:
    """Return the bytes as they are stored: compressed where that makes them shorter."""
    if len(plain) >= MIN_PACKED_BYTES:
        packer = _make_packer(is_text=plain.isascii())
        packed = packer.compress(plain) + packer.flush()
        if len(packed) < len(plain):
            return PACKED + packed
    return PLAIN + plain


def _make_packer(*, is_text: bool) -> zlib._Compress:
    """
    Return what compresses texts, or numbers: these have runs of one byte, and hardly any sequence
    twice. To look for none takes half the time, and leaves less.
    """
    return zlib.compressobj(LEVEL, strategy=zlib.Z_DEFAULT_STRATEGY if is_text else zlib.Z_RLE)


def unpack(stored: bytes) -> bytes:
    """
    Return what `pack` was given.

    Raises
    ------
    ValueError
        These bytes are not what `pack` makes: they were changed.
    """
    kind, body = stored[:1], stored[1:]
    if kind == PLAIN:
        return body
    if kind != PACKED:
        raise ValueError(f"a stored record begins with {kind!r}")
    try:
        return zlib.decompress(body)
    except zlib.error as exc:
        raise ValueError(f"a stored record cannot be unpacked: {exc}") from exc
