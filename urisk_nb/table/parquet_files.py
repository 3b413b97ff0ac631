"""
A table with its report in one Parquet file: pandas reads the table, `RiskTable.from_parquet` both.

The report stands in the attributes that pandas keeps in the file's schema: frames as Parquet in
base64, so that each type comes back as it was; all else as JSON. Nothing in it is run when it is
read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Hashable, Mapping
from dataclasses import Field, fields
from io import BytesIO
from os import PathLike
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.table.exports import ExportFrame
from urisk_nb.table.record_rows import to_json

__all__ = ["UNSTORED", "is_stored", "pack_report", "read_packed", "unpack_report"]

UNSTORED = {"is_stored": False}  # the metadata of a field that no file has
KEY = "urisk_report"
VERSION = 1
FIX = "give a file that table.to_parquet(...) wrote; pd.read_parquet reads any other"


def pack_report(report: Any) -> dict[Hashable, Any]:
    """Return a report as JSON-able values, under the key that a file keeps."""
    return {KEY: {"version": VERSION, "parts": _pack_fields(report)}}


def is_stored(part: Field[Any]) -> bool:
    """Return whether a field of a report is kept in files and pickles."""
    return bool(part.metadata.get("is_stored", True))


def _pack_fields(report: Any) -> dict[str, Any]:
    return {one.name: _pack(getattr(report, one.name)) for one in fields(report) if is_stored(one)}


def _pack(part: Any) -> dict[str, Any]:
    if isinstance(part, pd.DataFrame):
        return {"kind": "frame", "is_safe": isinstance(part, ExportFrame), **_pack_frame(part)}
    if isinstance(part, pd.Series):
        # A row of columns, so that each value keeps its type
        return {
            "kind": "series",
            "name": part.name,
            **_pack_frame(part.to_frame().T.infer_objects()),
        }
    if isinstance(part, tuple):
        return {"kind": "reports", "reports": [_pack_fields(one) for one in part]}
    return {"kind": "json", "json": to_json(part)}


def _pack_frame(frame: pd.DataFrame) -> dict[str, Any]:
    buffer, plain = BytesIO(), pd.DataFrame(frame)
    plain.to_parquet(buffer, engine="pyarrow")
    # Parquet has no seconds as a unit of dates
    dates = plain.select_dtypes("datetime").dtypes
    return {
        "parquet": base64.b64encode(buffer.getvalue()).decode("ascii"),
        "dates": {str(name): str(dtype) for name, dtype in dates.items()},
    }


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


def unpack_report(packed: Any, build: Callable[[dict[str, Any]], Any]) -> Any:
    """
    Return the report that `build` makes of its parts by name.

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
        return _unpack_fields(packed["parts"], build)
    except (LookupError, AttributeError, TypeError, ValueError, OSError) as exc:
        raise InputError(f"the report in the file is damaged: {exc}.", fix=FIX) from exc


def _unpack_fields(parts: Mapping[str, Any], build: Callable[[dict[str, Any]], Any]) -> Any:
    return build({name: _unpack(part, build) for name, part in parts.items()})


def _unpack(part: Mapping[str, Any], build: Callable[[dict[str, Any]], Any]) -> Any:
    match part["kind"]:
        case "frame":
            frame = _unpack_frame(part)
            return ExportFrame(frame) if part["is_safe"] else frame
        case "series":
            values = _unpack_frame(part).iloc[0]
            return values.astype(object).rename(part["name"])
        case "reports":
            return tuple(_unpack_fields(one, build) for one in part["reports"])
        case _:
            return part["json"]


def _unpack_frame(part: Mapping[str, Any]) -> pd.DataFrame:
    content = base64.b64decode(part["parquet"], validate=True)
    return pd.read_parquet(BytesIO(content), engine="pyarrow").astype(part["dates"])
