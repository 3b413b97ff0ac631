"""Numbers as `float.hex` writes them, a million in a tenth of a second.

The hash of a run's prices is that of such a text: exact, and the same in every language. One call
of `float.hex` a number would take longer than all metrics of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["spell_columns"]

# " -0x1.0123456789abcp+1023": a space, the sign, the head, 13 digits, and the exponent
SIGN, HEAD, DIGITS, EXPONENT, WIDTH = 1, 2, 6, 19, 25
BIAS = 1023
EXPONENTS = [f"p{number - BIAS:+d}".encode() for number in range(2 * BIAS + 2)]
EXPONENT_TEXTS = np.array(EXPONENTS, dtype="S6").view(np.uint8).reshape(-1, 6)


def spell_columns(columns: np.ndarray[Any, Any]) -> Iterator[bytes]:
    """
    Yield each column as text: a space and `float.hex` of each of its numbers.

    Parameters
    ----------
    columns
        float64, one row a column; NaN, infinities and zeros of both signs are numbers like others.
    """
    count, length = columns.shape
    if not length:
        yield from [b""] * count
        return
    bits = np.ascontiguousarray(columns, dtype="<f8").reshape(-1).view("<u8")
    text, is_used = _lay_out(bits)
    flat = text[is_used].tobytes()
    ends = np.cumsum(is_used.reshape(count, -1).sum(axis=1)).tolist()
    start = 0
    for end in ends:
        yield flat[start:end]
        start = end


def _lay_out(bits: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return a line of characters for each number, and which of them count."""
    exponents = (bits >> 52).astype(np.int64) & 0x7FF
    digits = np.frombuffer(bits.astype(">u8").tobytes().hex().encode(), dtype=np.uint8)
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
