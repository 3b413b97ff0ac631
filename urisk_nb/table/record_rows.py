"""
The record of a table's runs as rows and as JSON: what decided them, who labeled, what was said.

Pure: a report's `meta` in, rows or JSON-able values out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import pandas as pd

from urisk_nb.render.table_content import (
    TableContent,
    collect_messages,
    collect_notes,
    describe_warnings,
)

__all__ = ["list_record_rows", "to_json", "to_parts", "to_records"]

# First what a reader asks for first; whatever else a record has follows in its own order.
FIRST = ("run_hash", "run_id", "created_at", "as_of", "failure", "model", "served_by", "judges")
LAST = ("libraries", "params")
# These stand in the table, the findings or the messages, or are about single sentences.
ELSEWHERE = frozenset({"messages", "flags"})


def to_json(value: Any) -> Any:
    """
    Return a value as JSON has it: null if missing or not finite, ISO text for a date.

    Mappings and sequences are walked through.
    """
    if isinstance(value, Mapping):
        return {str(name): to_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(one) for one in value]
    if (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        return None
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat() if value == value.normalize() else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame, as JSON has them."""
    return [
        {str(name): to_json(value) for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def to_parts(report: Any) -> dict[str, Any]:
    """
    Return what a report says of the portfolio and beside the rows, as JSON has it.

    Returns
    -------
    dict
        ``portfolio`` is an object of figures by name; ``backtest``, ``stress`` and ``factors`` are
        lists of rows. null where the run has none.
    """
    portfolio = report.portfolio
    frames = {name: getattr(report, name) for name in ("backtest", "stress", "factors")}
    return {
        "portfolio": None if portfolio is None else to_json(portfolio.to_dict()),
        **{
            name: None
            if frame is None
            else to_records(frame.reset_index() if frame.index.name else frame)
            for name, frame in frames.items()
        },
    }


def list_record_rows(content: TableContent) -> list[tuple[str, str, Any]]:
    """
    Return the record as rows (run, key, value), the runs in their order.

    A key names the place of its value: `params.alpha`, `judges.1.model`. After the runs come the
    warnings, notes and messages of the table, which belong to no single run.
    """
    rows = [
        (str(number), key, value)
        for number, run in enumerate(content.runs, 1)
        for name in _sort_names(run)
        for key, value in _flatten(name, run[name])
    ]
    rows += [("", "note", text) for text in collect_notes(content)]
    rows += [("", "message", text) for text in collect_messages(content, None)]
    codes = describe_warnings(content)
    return rows + [("", f"warning.{code}", text) for code, text in codes.items()]


def _sort_names(run: Mapping[str, Any]) -> list[str]:
    known = [name for name in (*FIRST, *LAST) if name in run]
    others = [name for name in run if name not in known and name not in ELSEWHERE]
    return [name for name in FIRST if name in run] + others + [name for name in LAST if name in run]


def _flatten(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each single value under its place; a list of single values is one value."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _flatten(f"{key}.{name}", one)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(one, Mapping | list | tuple) for one in value):
            for number, one in enumerate(value, 1):
                yield from _flatten(f"{key}.{number}", one)
        elif value:
            yield key, ", ".join(map(str, value))
    else:
        yield key, to_json(value)
