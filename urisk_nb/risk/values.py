"""
One value as a person wrote it: read as a number or a moment, compared as a name, shown back in a
message.

Nothing is guessed: a number is not a date, words are no number, "01/02/2018" is no ISO date.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import date, datetime

import numpy as np
import pandas as pd
from pandas.api import types as kinds

__all__ = [
    "NUMBER",
    "count_noun",
    "describe_type",
    "find_closest",
    "find_separator",
    "fix_separator",
    "fold_name",
    "format_number",
    "is_missing",
    "read_moment",
    "read_number",
    "show",
    "strip_invisible",
]

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def read_number(value: object) -> float | None:
    """Return a finite number, also one written as text; None for anything else."""
    if isinstance(value, (bool, np.bool_)) or (
        isinstance(value, str) and not re.fullmatch(NUMBER, value.strip())
    ):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # anything else ends in None
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_moment(value: object) -> datetime:
    """Return the moment as written, in its own zone; ValueError for anything else, or a number."""
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if is_missing(value):
        raise ValueError("no date")
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, datetime.min.time())  # no zone: a bare date has none
    if isinstance(value, str):
        return datetime.fromisoformat(value.strip())
    raise ValueError(f"{describe_type(value)} is not a date")


def is_missing(value: object) -> bool:
    """Return whether a cell is empty: None, NaN, NaT, or blank text."""
    if isinstance(value, str):
        return not value.strip()
    # is_scalar narrows the type, which the stubs cannot say.
    return bool(kinds.is_scalar(value) and pd.isna(value))  # type: ignore[call-overload]


def strip_invisible(text: str) -> str:
    """Return the text as NFKC without invisible characters, such as a pasted zero-width space."""
    if text.isascii():  # which it is already; most names are
        return text
    return "".join(
        sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf"
    )


def fold_name(text: str) -> str:
    """Return the form in which names are compared: visible, upper case, white space single."""
    return " ".join(strip_invisible(text).split()).upper()


def find_closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """
    Return up to `count` of the known names that are spelled most like `name`, the best first.

    Case does not matter.
    """
    by_form = {fold_name(one): one for one in reversed([*known])}  # the first of a form stays
    return [by_form[form] for form in difflib.get_close_matches(fold_name(name), by_form, n=count)]


def find_separator(label: object, *, other_than: str = "") -> str | None:
    """Return the sign that splits what looks like a whole header in one label, or None."""
    text = str(label)
    return next((sign for sign in ";\t|," if sign != other_than and sign in text), None)


def fix_separator(sign: str) -> str:
    """Return what to do about a file whose fields another sign separates."""
    return (
        f"pass a frame: pd.read_csv(..., sep={sign!r}), with decimal=',' where numbers have a "
        "decimal comma"
    )


def show(value: object) -> str:
    """Return the value for a message: invisible characters escaped, never long."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def describe_type(value: object) -> str:
    """Return the type with its article: "a list", "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def count_noun(number: int, noun: str) -> str:
    """Return the number with its noun: "1 row", "3 rows"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def format_number(value: float) -> str:
    """Return the number as a person writes it: 0.05, not 0.050000000000000044."""
    return f"{round(value, 12):g}"
