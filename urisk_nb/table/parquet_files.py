"""
A table with its report in one Parquet file: pandas reads the table, `RiskTable.from_parquet` both.

The report stands in the attributes that pandas keeps in the file's schema: frames as Parquet in
base64, so that each type comes back as it was; all else as JSON. Nothing in it is run when it is
read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Hashable, Mapping
from io import BytesIO
from os import PathLike
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.table.exports import ExportFrame
from urisk_nb.table.record_rows import to_json

__all__ = ["pack_report", "read_packed", "unpack_report"]

KEY = "urisk_report"
VERSION = 1
FIX = "give a file that table.to_parquet(...) wrote; pd.read_parquet reads any other"


def pack_report(parts: Mapping[str, Any]) -> dict[Hashable, Any]:
    """Return the parts of a report as JSON-able values, under the key that a file keeps."""
    return {KEY: {"version": VERSION, "parts": {name: _pack(part) for name, part in parts.items()}}}


def _pack(part: Any) -> dict[str, Any]:
    if isinstance(part, pd.DataFrame):
        buffer = BytesIO()
        pd.DataFrame(part).to_parquet(buffer, engine="pyarrow")
        # Parquet has no seconds as a unit of dates
        dates = part.select_dtypes("datetime").dtypes
        return {
            "parquet": base64.b64encode(buffer.getvalue()).decode("ascii"),
            "dates": {str(name): str(dtype) for name, dtype in dates.items()},
        }
    return {"json": to_json(part)}


def read_packed(path: str | PathLike[str], **options: Any) -> tuple[pd.DataFrame, Any]:
    """
    Return the frame in a file, and the packed report, None where there is none.

    Raises
    ------
    InputError
        The file cannot be read.
    PackageMissing
        pyarrow is not installed.
    """
    try:
        frame = pd.read_parquet(path, **options)
    except ImportError as exc:
        raise PackageMissing(
            "reading Parquet needs pyarrow, which is not installed.", fix="pip install pyarrow"
        ) from exc
    except (OSError, ValueError) as exc:  # pyarrow's own errors are ValueErrors
        seen = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise InputError(f"{path} cannot be read: {seen[:200]}.", fix=FIX) from exc
    return frame, frame.attrs.pop(KEY, None)


def unpack_report(packed: Any) -> dict[str, Any]:
    """
    Return the parts of a report by name.

    Raises
    ------
    InputError
        Another version of urisk_nb wrote them, or they are damaged.
    """
    if not isinstance(packed, dict) or packed.get("version") != VERSION:
        raise InputError(
            "the report in the file has a form that this version cannot read.", fix=FIX
        )
    try:
        return {name: _unpack(part) for name, part in packed["parts"].items()}
    except (LookupError, AttributeError, TypeError, ValueError, OSError, binascii.Error) as exc:
        raise InputError(f"the report in the file is damaged: {exc}.", fix=FIX) from exc


def _unpack(part: Mapping[str, Any]) -> Any:
    if "parquet" not in part:
        return part["json"]
    content = base64.b64decode(part["parquet"], validate=True)
    frame = pd.read_parquet(BytesIO(content), engine="pyarrow")
    return ExportFrame(frame.astype(part["dates"]))
