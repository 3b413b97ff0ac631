"""Columns of a frame that somebody else made: found by name, read as numbers or distinct values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types as kinds

from urisk_nb.errors import InputError
from urisk_nb.risk.values import is_missing

__all__ = ["BoolArray", "Codes", "FloatArray", "find_distinct", "find_label", "read_floats"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.intp]


def find_label(frame: pd.DataFrame, *names: str) -> Any:
    """Return the label of the column that has one of these names, in any case, or None."""
    found = [column for column in frame.columns if str(column).strip().lower() in names]
    if len(found) > 1:
        raise InputError(
            f"the columns {found} mean the same.", fix=f"drop one: frame.drop(columns={found[1]!r})"
        )
    return found[0] if found else None


def find_distinct(values: pd.Series[Any], where: str) -> tuple[Codes, list[object]]:
    """Return codes into the distinct values (-1 where there is none), and these values."""
    try:
        codes, distinct = pd.factorize(values)
    except TypeError as exc:
        raise InputError(
            f"{where} holds lists or other containers, not single values.", fix="one value a row"
        ) from exc
    blank = [code for code, value in enumerate(distinct) if is_missing(value)]
    if blank:  # an empty text counts as missing
        codes, distinct = pd.factorize(values.astype(object).mask(np.isin(codes, blank)))
    return codes, list(distinct)


def read_floats(column: pd.Series[Any]) -> tuple[FloatArray, BoolArray]:
    """Return the values as float64, and which cells held something that is not a number."""
    dtype = column.dtype
    if (
        kinds.is_bool_dtype(dtype)
        or kinds.is_complex_dtype(dtype)
        or kinds.is_datetime64_any_dtype(dtype)
        or kinds.is_timedelta64_dtype(dtype)
    ):
        return np.full(len(column), np.nan), column.notna().to_numpy(dtype=bool)
    if kinds.is_numeric_dtype(dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=bool)
    cells = column.astype(object)
    odd = cells.map(
        lambda cell: (
            not isinstance(cell, (int, float, str, Decimal, np.number)) or isinstance(cell, bool)
        )
    ).to_numpy(dtype=bool)
    values = pd.to_numeric(cells.where(~odd), errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    return values, np.isnan(values) & cells.notna().to_numpy(dtype=bool)
