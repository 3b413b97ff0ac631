"""A DataFrame, a Series or an array as pieces for a model: what it has, its figures, its rows.

A frame of numbers is told by its figures, with its first and last rows. Rows with text, as news
has them, are told one by one, and an answer may cite them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.chat.attachments import Attachment, Piece, Source
from urisk_nb.chat.cells import cut_text, describe_numbers, describe_value, list_names
from urisk_nb.render.text_layout import format_count

__all__ = [
    "COLUMNS",
    "MAX_DESCRIBED",
    "SHORT_ROWS",
    "summarize_array",
    "summarize_frame",
    "summarize_series",
]

MAX_COLUMNS = 50  # that a row has
MAX_DESCRIBED = 20  # columns whose figures are told
MAX_ROWS = 500  # with text
EDGE_ROWS = 5  # of numbers: the first and the last ones
SHORT_ROWS = 30  # a shorter frame is told row by row
MAX_VALUES = 20  # of an array
MIN_TEXT_CHARS = 20  # of a cell that is text and not a name
COLUMNS, ROWS = "columns", "rows"
SOURCE_NAMES = ("source", "publisher", "provider", "author", "site")
DATE_NAMES = ("date", "published", "published_at", "datetime", "time", "day")


def summarize_frame(name: str, frame: pd.DataFrame) -> Attachment:
    """Return a frame in pieces: its columns, its figures, then rows."""
    columns = len(frame.columns)
    size = f"{format_count(len(frame), 'row')} x {format_count(columns, 'column')}"
    described = _find_described(frame)
    pieces = [*_describe_columns(frame), *_describe_figures(frame, described[:MAX_DESCRIBED])]
    pieces += _list_text_rows(frame, name) if _has_text(frame) else _list_edge_rows(frame)
    return Attachment(
        name=name,
        title=f"{type(frame).__name__}, {size}",
        pieces=tuple(pieces),
        totals={COLUMNS: len(described), ROWS: len(frame)},
    )


def summarize_series(name: str, series: pd.Series[Any]) -> Attachment:
    """Return a Series as a frame of one column."""
    label = "value" if series.name is None else series.name
    made = summarize_frame(name, series.to_frame(name=label))
    return Attachment(
        name=name,
        title=f"Series, {format_count(len(series), 'value')}",
        pieces=made.pieces,
        totals=made.totals,
    )


def summarize_array(name: str, array: np.ndarray[Any, Any]) -> Attachment:
    """Return an array: shape, type, figures, and the first values."""
    values = array.ravel()[:MAX_VALUES]
    # NumPy makes dates in nanoseconds whole numbers
    cells = pd.Index(values).tolist() if array.dtype.kind in "mM" else values.tolist()
    first = [describe_value(one) for one in cells]
    pieces = []
    if array.dtype.kind in "iuf" and array.size:
        pieces.append(Piece(text=describe_numbers(array)))
    beginning = Piece(text=f"first values: {', '.join(first)}", unit="values", count=len(first))
    return Attachment(
        name=name,
        title=f"array {array.shape}, {array.dtype}",
        pieces=(*pieces, beginning),
        totals={"values": int(array.size)},
    )


# Columns ------------------------------------------------------------------------------------------


def _describe_columns(frame: pd.DataFrame) -> Iterator[Piece]:
    if not len(frame.columns):
        return
    pairs = zip(frame.columns, frame.dtypes, strict=True)
    yield Piece(text="columns: " + list_names(f"{_name(name)} ({kind})" for name, kind in pairs))
    index = frame.index
    if isinstance(index, pd.DatetimeIndex) and len(index):
        yield Piece(text=f"index: dates {_describe_range(index)}")
    elif not isinstance(index, pd.RangeIndex):
        first = ", ".join(_name(one) for one in index[:EDGE_ROWS])
        more = len(index) - EDGE_ROWS
        yield Piece(text=f"index: {first}{f' and {more:,} more' if more > 0 else ''}")


def _describe_range(dates: Any) -> str:
    return f"from {describe_value(dates.min())} to {describe_value(dates.max())}"


def _find_described(frame: pd.DataFrame) -> list[int]:
    """Return the places of the columns that have figures."""
    if not len(frame):
        return []
    return [place for place, kind in enumerate(frame.dtypes) if _is_date(kind) or _is_number(kind)]


def _is_date(kind: Any) -> bool:
    return bool(pd.api.types.is_datetime64_any_dtype(kind))


def _is_number(kind: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(kind)) and kind.kind in "iuf"


def _describe_figures(frame: pd.DataFrame, places: Sequence[int]) -> Iterator[Piece]:
    for place in places:
        name, column = _name(frame.columns[place]), frame.iloc[:, place]
        is_date = _is_date(column.dtype)
        text = _describe_range(column) if is_date else describe_numbers(column)
        yield Piece(text=f"{name}: {text}", unit=COLUMNS, count=1)


def _name(label: Any) -> str:
    return " ".join(map(_name, label)) if isinstance(label, tuple) else describe_value(label, 100)


# Rows ---------------------------------------------------------------------------------------------


def _has_text(frame: pd.DataFrame) -> bool:
    """Return whether cells of the first rows are texts and not names."""
    first = frame.iloc[:EDGE_ROWS].select_dtypes(exclude=["number", "datetime", "bool"])
    cells = first.to_numpy(dtype=object).ravel()
    return any(isinstance(one, str) and len(one) >= MIN_TEXT_CHARS for one in cells)


def _list_text_rows(frame: pd.DataFrame, name: str) -> Iterator[Piece]:
    names = [_name(one) for one in frame.columns[:MAX_COLUMNS]]
    is_plain = isinstance(frame.index, pd.RangeIndex)
    for place in range(min(len(frame), MAX_ROWS)):
        cells = [frame.iat[place, column] for column in range(len(names))]
        label = "" if is_plain else f"{_name(frame.index[place])}: "
        told = "; ".join(
            f"{key}: {text}"
            for key, cell in zip(names, cells, strict=True)
            if (text := describe_value(cell)) not in ("", "-")
        )
        yield Piece(text=label + told, unit=ROWS, count=1, source=find_source(names, cells, name))


def find_source(names: Sequence[str], cells: Sequence[Any], attachment: str) -> Source | None:
    """Return what an answer may cite by a row: its longest text; None where it has none."""
    texts = [one for one in cells if isinstance(one, str)]
    quote = max(texts, key=len, default="")
    if len(quote) < MIN_TEXT_CHARS:
        return None
    by_name = {
        key.lower(): text
        for key, cell in zip(names, cells, strict=True)
        if (text := describe_value(cell, 100)) != "-"
    }
    return Source(
        quote=cut_text(quote),
        source=next((by_name[one] for one in SOURCE_NAMES if one in by_name), ""),
        date=next((by_name[one] for one in DATE_NAMES if one in by_name), ""),
        ticker=by_name.get("ticker", ""),
        attachment=attachment,
    )


def _list_edge_rows(frame: pd.DataFrame) -> Iterator[Piece]:
    count = len(frame)
    edge = count if count <= SHORT_ROWS else EDGE_ROWS
    places = [*range(min(edge, count)), *range(max(edge, count - edge), count)]
    if not places or not len(frame.columns):
        return
    names = [_name(one) for one in frame.columns[:MAX_COLUMNS]]
    part = f", the first {MAX_COLUMNS} columns" if len(frame.columns) > MAX_COLUMNS else ""
    yield Piece(text=f"rows{part}: {' | '.join(['index', *names])}")
    for place in places:
        cells = [frame.iat[place, column] for column in range(len(names))]
        told = (describe_value(cell, 100) for cell in cells)
        yield Piece(
            text=" | ".join([_name(frame.index[place]), *told]),
            unit=ROWS,
            count=1,
        )
