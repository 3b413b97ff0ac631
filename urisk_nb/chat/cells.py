"""One value of a cell or an entry as short text, whatever it is."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.chat.bounded_repr import describe_object
from urisk_nb.risk.values import describe_type
from urisk_nb.terminal_text import one_line

__all__ = ["MAX_ENTRY_CHARS", "cut_text", "describe_numbers", "describe_value", "list_names"]

MAX_CELL_CHARS = 500
MAX_ENTRY_CHARS = 1500  # of a text that is an item by itself
MAX_OBJECT_CHARS = 200
MAX_NAMED = 50  # columns or keys that are named
DASH = "-"  # a missing value


def cut_text(text: str, limit: int = MAX_CELL_CHARS) -> str:
    """Return a text on one line; a long one ends in an ellipsis."""
    line = one_line(text[: 2 * limit])
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def describe_value(value: Any, limit: int = MAX_CELL_CHARS) -> str:
    """Return a value as short text on one line; an object of another type by its bounded repr."""
    if isinstance(value, str):
        return cut_text(str.__str__(value), limit)
    if value is None or value is pd.NaT or value is pd.NA:
        return DASH
    for kinds, describe in _KINDS:
        if isinstance(value, kinds):
            return describe(value)
    return one_line(describe_object(value, MAX_OBJECT_CHARS))


def _describe_moment(value: date) -> str:
    return value.isoformat().removesuffix("T00:00:00")


def _describe_frame(value: pd.DataFrame) -> str:
    return f"a DataFrame, {len(value):,} rows x {len(value.columns):,} columns"


def _describe_number(value: Any) -> str:
    if isinstance(value, numbers.Integral):
        # Python refuses to write a whole number of many thousand digits
        return str(value) if abs(int(value)) < 10**40 else "a very large number"
    return DASH if math.isnan(value) else f"{float(value):.6g}"


def describe_numbers(values: Any) -> str:
    """Return the least, the mean and the greatest of numbers, and how many are missing."""
    array = np.asarray(values, dtype=float).ravel()
    known = array[np.isfinite(array)]
    missing = len(array) - len(known)
    more = f", {missing:,} missing" if missing else ""
    if not len(known):
        return f"no value{more}"
    least, mean, most = known.min(), known.mean(), known.max()
    deviation = f", std {known.std(ddof=1):.6g}" if len(known) > 1 else ""
    return f"min {least:.6g}, mean {mean:.6g}, max {most:.6g}{deviation}{more}"


def list_names(names: Iterable[Any], limit: int = MAX_NAMED) -> str:
    """Return names between commas; the rest is counted."""
    every = list(names)
    shown = ", ".join(describe_value(one, 100) for one in every[:limit])
    return f"{shown} and {len(every) - limit:,} more" if len(every) > limit else shown


# The first that fits counts: True is a whole number, too
_KINDS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    (bool | np.bool_, lambda value: str(bool(value))),
    (int | float | np.integer | np.floating, _describe_number),
    (date, _describe_moment),  # a datetime and a Timestamp, too
    (Decimal | timedelta | pd.Period | pd.Interval, str),
    (pd.DataFrame, _describe_frame),
    (pd.Series | pd.Index, lambda value: f"{describe_type(value)} of {len(value):,} values"),
    (np.ndarray, lambda value: f"an array {value.shape}, {value.dtype}"),
)
