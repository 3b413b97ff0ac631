"""
A list of objects as a DataFrame whose columns have the types of the schema; single objects of the
small language, with dates as dates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from urisk_nb.chat.json_schemas import resolve

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["convert_object", "find_kind", "note_source", "to_frame"]


def to_frame(
    rows: Sequence[Mapping[str, Any]], items: Mapping[str, Any], root: Mapping[str, Any]
) -> pd.DataFrame:
    """
    Return a list of objects as a table.

    The columns are the fields of the schema in its order, then those that only the answer has. A
    number is a float, also where some are missing. A date is a datetime. What is missing is NaN,
    NaT or None.

    Parameters
    ----------
    items, root
        The schema of an object, and the whole schema, to which its references lead.
    """
    import pandas as pd

    properties: Mapping[str, Any] = items.get("properties", {})
    names = dict.fromkeys([*properties, *(name for row in rows for name in row)])
    columns = {
        name: _build_column(
            [row.get(name) for row in rows], find_kind(properties.get(name, {}), root)
        )
        for name in names
    }
    return pd.DataFrame(columns, columns=list(columns), index=range(len(rows)))


def find_kind(part: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """Return what a column holds: `number`, `integer`, `boolean`, `date`, `date-time` or empty."""
    part = resolve(part, root)
    options = [one for one in part.get("anyOf", ()) if resolve(one, root).get("type") != "null"]
    if len(options) == 1:  # Optional[...] of a class
        part = resolve(options[0], root)
    kinds = part.get("type")
    named = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
    if len(named) != 1:
        return ""
    kind = str(part.get("format", "")) if named[0] == "string" else str(named[0])
    return kind if kind in BUILDERS else ""


def _build_column(values: list[Any], kind: str) -> pd.Series[Any]:
    import pandas as pd

    if kind:
        try:
            return BUILDERS[kind](values)
        except (OverflowError, ValueError, TypeError):
            pass  # a number that fits no column, a day that no calendar has: as it was written
    has_parts = any(isinstance(value, dict | list) for value in values)
    is_plain = values and not has_parts and not kind
    return pd.Series(values) if is_plain else pd.Series(values, dtype=object)


def _build_numbers(values: list[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series([None if one is None else float(one) for one in values], dtype="float64")


def _build_integers(values: list[Any]) -> pd.Series[Any]:
    import pandas as pd

    whole = [None if one is None else int(one) for one in values]
    return pd.Series(whole, dtype="Int64" if None in whole else "int64")


def _build_booleans(values: list[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(values, dtype="boolean" if None in values else "bool")


def _build_days(values: list[Any]) -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    # Of seconds: those of nanoseconds begin in 1677 and end in 2262
    texts = ["NaT" if one is None else date.fromisoformat(one).isoformat() for one in values]
    return pd.Series(np.array(texts, dtype="datetime64[s]"))


def _build_instants(values: list[Any]) -> pd.Series[Any]:
    import pandas as pd

    found = pd.to_datetime(pd.Series(values, dtype=object), format="ISO8601", utc=True)
    has_zone = any(isinstance(one, str) and one[10:].strip("0123456789:.T ") for one in values)
    return found if has_zone else found.dt.tz_localize(None)


BUILDERS: Mapping[str, Callable[[list[Any]], pd.Series[Any]]] = {
    "boolean": _build_booleans,
    "date": _build_days,
    "date-time": _build_instants,
    "integer": _build_integers,
    "number": _build_numbers,
}


def note_source(value: Any, **source: str) -> None:
    """Note in `attrs["urisk"]` of a DataFrame where it comes from; other values have no place."""
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        value.attrs["urisk"] = source


def convert_object(found: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return an object of the small language with Python's values: a float is a float, a date a
    `datetime.date`, and what is missing is None.
    """
    properties = schema["properties"]
    return {name: _convert(found.get(name), part) for name, part in properties.items()}


def _convert(value: Any, part: Mapping[str, Any]) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_convert(one, part["items"]) for one in value]
    kind = find_kind(part, part)
    convert: Mapping[str, Callable[[Any], Any]] = {
        "date": date.fromisoformat,
        "integer": int,
        "number": float,
    }
    return convert[kind](value) if kind in convert else value
