"""
Numbers as people write them: "1.234,56", "1,234.56", "1 234,56", "$187.15", "1.5 %", "3.2M".

Which of point and comma is the decimal mark is decided for a whole frame, by the cells that leave
no choice. Nothing is guessed: where no cell decides, it is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.values import show

__all__ = ["find_count_mark", "find_decimal_mark", "read_number_texts"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", **dict.fromkeys("$€£¥₩₹'’\u00a0\u202f\u2009 ")})
NUMBER = re.compile(r"(?P<body>[-+]?[\d.,]*\d[\d.,]*)(?P<unit>[KMB%]?)", re.IGNORECASE)
# What people write where there is no number; errors of a sheet such as "#REF!" are none of these
MISSING = {
    *("", "-", "--", "- -", "—", "–", ".", "..", "na", "n/a", "n.a.", "n.a", "nan", "null", "none"),
    *("#n/a", "#n/a n/a", "#n/a n.a.", "<na>", "nil", "k.a.", "n.v.", "n.d.", "nd"),
}
# "USD 187.15", "187.15 EUR"; a column has one currency
CURRENCIES = "|".join(
    (
        *("USD", "EUR", "GBP", "GBX", "GBp", "CHF", "JPY", "CNY", "HKD", "KRW", "INR", "AUD"),
        *("CAD", "NZD", "SEK", "NOK", "DKK", "SGD", "TWD", "BRL", "ZAR", "PLN", "MXN", "ILS"),
    )
)
CURRENCY = re.compile(rf"(?:({CURRENCIES})\s*(?=[-+(\d.])|(?<=[\d.)])\s*({CURRENCIES})$)")
MAX_NUMBER_CHARS = 60  # longer texts are no numbers
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}
# What a cell shows of the decimal mark, by the first that fits
EVIDENCE = (
    (re.compile(r"[-+]?[\d.]*\.\d{3},\d+"), ","),  # 1.234,56
    (re.compile(r"[-+]?[\d,]*,\d{3}\.\d+"), "."),  # 1,234.56
    (re.compile(r"[-+]?\d{1,3}(,\d{3}){2,}"), "."),  # 1,234,567
    (re.compile(r"[-+]?\d{1,3}(\.\d{3}){2,}"), ","),  # 1.234.567
    (re.compile(r"[-+]?[1-9]\d{0,2},\d{3}"), "?,"),  # 1,234: one or the other
    (re.compile(r"[-+]?[1-9]\d{0,2}\.\d{3}"), "?."),  # 1.234: read with a decimal point
    (re.compile(r"[-+]?\d*,\d+"), ","),
    (re.compile(r"[-+]?\d*\.\d+"), "."),
)
# The same for many cells, one a line; "1,234" is no second kind of "12,5"
LINE_EVIDENCE = tuple(
    (re.compile(rf"(?m)^(?![-+]?[1-9]\d{{0,2}}[,.]\d{{3}}$){pattern.pattern}$"), mark)
    if mark in (",", ".")
    else (re.compile(rf"(?m)^{pattern.pattern}$"), mark)
    for pattern, mark in EVIDENCE
)
NOT_PLAIN = re.compile(r"[^-+\d.,\n]")
PLAIN = {
    ",": re.compile(r"(?:[-+]?[\d.]*\d(?:,\d+)?\n)*"),
    ".": re.compile(r"(?:[-+]?[\d,]*\d(?:\.\d+)?\n)*"),
}


def find_decimal_mark(cells: Iterable[object], *, has_points: bool = False) -> str:
    """
    Return the decimal mark of the texts in a frame: "." or ",".

    Parameters
    ----------
    cells
        The cells of all its columns of texts; what is no number says nothing.
    has_points
        Other columns hold numbers with a fraction, which were read with a point.

    Raises
    ------
    InputError
        Some cells have a decimal comma and others a decimal point; or no cell decides.
    """
    seen = _find_marks(cells)
    if "," in seen and "." in seen:
        raise InputError(
            f"the prices have a decimal comma ({show(seen[','])}) and a decimal point "
            f"({show(seen['.'])}).",
            fix='write all with a point: prices.replace(",", ".", regex=True)',
        )
    if "," in seen:
        return ","
    if "?," in seen and "." not in seen and not has_points:
        raise InputError(
            f"the comma in {show(seen['?,'])} may be a decimal comma or separate thousands, and no "
            "other price settles it.",
            fix='for a decimal comma pass the frame prices.replace(",", ".", regex=True); for '
            'thousands prices.replace(",", "", regex=True)',
        )
    return "."


def find_count_mark(prices: Iterable[object], counts: Iterable[object]) -> str:
    """
    Return the decimal mark of counts, such as volumes: that of the prices beside them.

    Where these do not show it, "1,234" is a thousand: shares are whole.
    """
    for cells in (prices, counts):
        seen = _find_marks(cells)
        if ("," in seen) != ("." in seen):
            return "," if "," in seen else "."
    return "."


def _find_marks(cells: Iterable[object]) -> dict[str, str]:
    """Return which decimal marks the cells show, each with the first cell that does."""
    seen: dict[str, str] = {}
    texts = [cell for cell in cells if _is_short(cell)]
    lines = "\n".join(texts).translate(SIGNS)
    if NOT_PLAIN.search(lines) is None and lines.count("\n") == len(texts) - 1:
        # A million cells at once: one by one they take half a minute
        for pattern, mark in LINE_EVIDENCE:
            if mark not in seen and (found := pattern.search(lines)):
                seen[mark] = texts[lines.count("\n", 0, found.start())]
        return seen
    for cell in texts:
        if match := NUMBER.fullmatch(_strip_signs(cell)):
            for pattern, mark in EVIDENCE:
                if pattern.fullmatch(match["body"]):
                    seen.setdefault(mark, cell)
                    break
    return seen


def _strip_signs(cell: str) -> str:
    """Return a number without its currency; one in parentheses is negative."""
    text = CURRENCY.sub("", cell.strip()).translate(SIGNS)
    if match := re.fullmatch(r"\(([\d.,]+%?)\)(%?)", text):
        return f"-{match[1]}{match[2]}"
    return text


def _find_currency(cell: object) -> str | None:
    match = CURRENCY.search(cell.strip()) if _is_short(cell) else None
    return match and (match[1] or match[2])


def read_number_texts(
    cells: pd.Series[Any], mark: str, *, percent: bool = False
) -> tuple[FloatArray, BoolArray]:
    """
    Return the numbers in a column of texts, and which cells are none.

    A cell that says that there is no number, such as "n/a" or "-", is missing. Cells in another
    currency than the first one are no numbers.

    Parameters
    ----------
    mark
        The decimal mark; the other one separates thousands.
    percent
        "1.5%" is 0.015, as among returns; else it is no number.
    """
    is_told = cells.notna().to_numpy(dtype=bool)
    if (plain := _read_plain_column(cells[is_told].tolist(), mark)) is not None:
        values = np.full(len(cells), np.nan)
        values[is_told] = plain
        return values, np.zeros(len(cells), dtype=bool)
    unique = cells.dropna().unique()
    currencies = dict.fromkeys(filter(None, map(_find_currency, unique)))
    distinct: dict[object, float] = {
        cell: np.nan
        if len(currencies) > 1 and _find_currency(cell) != next(iter(currencies))
        else _read_one(cell, mark, percent=percent)
        for cell in unique
    }
    missing = {cell for cell in unique if isinstance(cell, str) and cell.strip().lower() in MISSING}
    values = np.array([distinct.get(cell, np.nan) for cell in cells], dtype=np.float64)
    is_missing = cells.isin(missing).to_numpy(dtype=bool)
    return values, np.isnan(values) & is_told & ~is_missing


def _read_plain_column(cells: list[Any], mark: str) -> list[float] | None:
    """Return numbers without signs of currencies, units and holes; None if one is not so."""
    if not all(map(_is_short, cells)):
        return None
    text = "\n".join(cells) + "\n"
    if not PLAIN[mark].fullmatch(text):
        return None
    text = text.replace("." if mark == "," else ",", "").replace(",", ".")
    return list(map(float, text.split("\n")[:-1]))


def _read_one(cell: object, mark: str, *, percent: bool) -> float:
    if isinstance(cell, str) and not _is_short(cell):
        return np.nan
    if isinstance(cell, str):
        match = NUMBER.fullmatch(_strip_signs(cell))
        if match is None:
            return _read_plain(cell)
        unit = match["unit"].upper()
        if unit == "%" and not percent:
            return np.nan
        body = match["body"].replace("." if mark == "," else ",", "").replace(",", ".")
        number = _read_plain(body)
        return number / 100 if unit == "%" else number * UNITS[unit]
    return float(cell) if isinstance(cell, (int, float, np.number)) else np.nan


def _is_short(cell: object) -> TypeGuard[str]:
    return isinstance(cell, str) and len(cell) <= MAX_NUMBER_CHARS


def _read_plain(text: str) -> float:
    try:
        return float(text) if text.strip().lower() not in ("inf", "nan", "infinity") else np.nan
    except ValueError:
        return np.nan
