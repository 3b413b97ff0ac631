"""Numbers as `float.hex` writes them, a million in some hundredths of a second.

The hash of a run's prices is that of such a text: exact, and the same in every language. One call
of `float.hex` a number would take longer than all metrics of the run. Most columns of prices and
volumes have numbers of one width, which are laid out at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["spell_columns"]

BIAS = 1023
EXPONENTS = [f"p{number - BIAS:+d}".encode() for number in range(2 * BIAS + 2)]
# By sign and exponent: how wide a number is after its digits. 0: written in another way, as are all
# negative numbers, zeros, infinities, NaN and the smallest numbers
WIDTHS = np.zeros(2 * len(EXPONENTS), dtype=np.uint8)
WIDTHS[1 : 2 * BIAS + 1] = list(map(len, EXPONENTS))[1:-1]
# " -0x1.0123456789abcp+1023": a space, the sign, the head, 13 digits, and the exponent
SIGN, HEAD, DIGITS, EXPONENT, WIDTH = 1, 2, 6, 19, 25
EXPONENT_TEXTS = np.array(EXPONENTS, dtype="S6").view(np.uint8).reshape(-1, 6)
EVEN_HEAD = np.frombuffer(b" 0x1.", dtype="V5")
# The 13 digits of the 16 that a number has; before them are sign and exponent
LAST_DIGITS = np.dtype({"names": ["digits"], "formats": ["V13"], "offsets": [3], "itemsize": 16})


def spell_columns(columns: np.ndarray[Any, Any]) -> list[bytes]:
    """
    Return each column as text: a space and `float.hex` of each of its numbers.

    Parameters
    ----------
    columns
        float64, one row a column; NaN, infinities and zeros of both signs are numbers like others.
    """
    count, length = columns.shape
    texts = [b""] * count
    if not length:
        return texts
    bits = np.ascontiguousarray(columns, dtype="<f8").view("<u8")
    widths = WIDTHS[bits >> np.uint64(52)]
    kinds = np.where(widths.min(axis=1) == widths.max(axis=1), widths[:, 0], 0)
    for width in np.unique(kinds).tolist():
        rows = np.flatnonzero(kinds == width)
        spelled = _spell_even(bits[rows], width) if width else _spell_uneven(bits[rows])
        for row, text in zip(rows.tolist(), spelled, strict=True):
            texts[row] = text
    return texts


def _spell_even(bits: np.ndarray[Any, Any], width: int) -> Iterator[bytes]:
    """Yield columns of positive numbers whose exponents are `width` characters."""
    text = np.empty(
        bits.shape, dtype=[("head", "V5"), ("digits", "V13"), ("exponent", f"V{width}")]
    )
    text["head"] = EVEN_HEAD
    text["digits"] = np.frombuffer(_to_hex(bits), dtype=LAST_DIGITS)["digits"].reshape(bits.shape)
    exponents = np.array([one[:width].ljust(width) for one in EXPONENTS], dtype=f"S{width}")
    text["exponent"] = exponents.view(f"V{width}")[bits >> np.uint64(52)]
    for column in text:
        yield column.tobytes()


def _to_hex(bits: np.ndarray[Any, Any]) -> bytes:
    """Return 16 hexadecimal digits for each number, the sign and the exponent first."""
    return bits.astype(">u8").tobytes().hex().encode()


def _spell_uneven(bits: np.ndarray[Any, Any]) -> Iterator[bytes]:
    """Yield columns of any numbers."""
    text, is_used = _lay_out(bits.reshape(-1))
    flat = text[is_used].tobytes()
    ends = np.cumsum(is_used.reshape(len(bits), -1).sum(axis=1)).tolist()
    start = 0
    for end in ends:
        yield flat[start:end]
        start = end


def _lay_out(bits: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return a line of characters for each number, and which of them count."""
    exponents = (bits >> 52).astype(np.int64) & 0x7FF
    digits = np.frombuffer(_to_hex(bits), dtype=np.uint8)
    text = np.empty((len(bits), WIDTH), dtype=np.uint8)
    text[:, 0], text[:, SIGN] = ord(" "), ord("-")
    text[:, HEAD:DIGITS] = np.frombuffer(b"0x1.", dtype=np.uint8)
    text[:, DIGITS:EXPONENT] = digits.reshape(-1, 16)[:, 3:]
    text[:, EXPONENT:] = EXPONENT_TEXTS[exponents]
    is_used = np.ones(text.shape, dtype=bool)
    is_used[:, SIGN] = (bits >> 63).astype(bool)
    is_used[:, EXPONENT:] = text[:, EXPONENT:] != 0
    # Zeros, infinities, NaN and the smallest numbers are written in other ways; they are few kinds
    is_odd = (exponents == 0) | (exponents == 0x7FF)
    for kind in np.unique(bits[is_odd]):
        spelled = b" " + float(kind.view("<f8")).hex().encode()
        rows = bits == kind
        text[rows, : len(spelled)] = np.frombuffer(spelled, dtype=np.uint8)
        is_used[rows] = np.arange(WIDTH) < len(spelled)
    return text, is_used
