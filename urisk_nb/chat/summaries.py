"""Any value of the user's as an attachment: typed where its type is known, bounded always."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.chat.attachments import Attachment, Piece, Source
from urisk_nb.chat.bounded_repr import describe_object
from urisk_nb.chat.cells import MAX_ENTRY_CHARS, cut_text, describe_value
from urisk_nb.chat.frame_summary import (
    COLUMNS,
    MAX_DESCRIBED,
    MIN_TEXT_CHARS,
    SHORT_ROWS,
    find_source,
    summarize_array,
    summarize_frame,
    summarize_series,
)
from urisk_nb.chat.table_summary import (
    find_named_tickers,
    is_table_of_run,
    list_named_pieces,
    summarize_table,
)
from urisk_nb.errors import InputError, UriskError
from urisk_nb.readers.documents import is_document
from urisk_nb.readers.file_content import read_content
from urisk_nb.readers.files import read_json, read_table
from urisk_nb.risk.values import describe_type
from urisk_nb.table.causes import COSTS
from urisk_nb.table.explanation import Explanation
from urisk_nb.table.table_diff import TableDiff

__all__ = ["find_named", "summarize"]

MAX_ITEMS = 2000  # of a list or a dict that become pieces
MAX_TEXT_CHARS = 400_000  # that become pieces; a window of 100,000 tokens has no room for more
PIECE_CHARS = 300
MAX_SEARCHED = 100_000  # rows that are searched for the tickers of a question
TEXT_COLUMNS = 120  # of a text of ours; a terminal may be narrower
# To the end of a line, else of a word: each piece is sent on lines of its own
_TEXT_PIECE = re.compile(
    "|".join(f".{{1,{PIECE_CHARS}}}{end}" for end in (r"\n", r"(?:\s+|\Z)", "")), re.DOTALL
)
MAX_NUMBER = 1e300  # a larger whole number is no float
_TICKER = re.compile(r"(?<![\w.])[A-Z][A-Z0-9.]{1,9}(?!\w)")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
CHARACTERS, ITEMS, ENTRIES = "characters", "items", "entries"


def summarize(name: str, value: Any, question: str) -> Attachment:
    """
    Return a value in pieces for a model, the most important first.

    Parameters
    ----------
    name
        As the user named it.
    value
        Anything; a `Path` is a file that is read, a text is a text.
    question
        What is asked: the tickers that it names come first.

    Raises
    ------
    InputError, PackageMissing
        A file cannot be read. No value is refused.
    """
    if isinstance(value, Path):
        made = _summarize_file(name, value, question)
    else:
        try:
            made = _summarize_value(name, value, question)
        except Exception:  # noqa: BLE001  whatever a class of the user's raises
            return _summarize_object(name, value)
    return made if is_table_of_run(value) else _put_named_first(made, question)


def find_named(name: str, value: Any, question: str) -> list[Piece]:
    """
    Return the pieces of a value that are about a ticker of the question.

    Where it names none, the value is not looked at. A file is not read again.
    """
    if is_table_of_run(value):
        return list_named_pieces(name, value, question)
    about = _find_about(question)
    if about is None or isinstance(value, Path):
        return []
    made = summarize(name, value, question)
    if made.is_text:
        return []
    return [one for one in made.pieces if one.unit and about.search(one.text)]


def _find_about(question: str) -> re.Pattern[str] | None:
    """Return what finds the tickers of a question in a text; None where it has none."""
    named = _TICKER.findall(question)
    return (
        re.compile("|".join(rf"(?<!\w){re.escape(one)}(?!\w)" for one in named)) if named else None
    )


def _put_named_first(made: Attachment, question: str) -> Attachment:
    """Return an attachment whose items about a ticker of the question come before the others."""
    about = _find_about(question)
    if about is None or made.is_text:
        return made

    def rank(piece: Piece) -> int:
        if piece.unit in ("", COLUMNS):  # what it is, and its figures
            return 0
        return 1 if about.search(piece.text) else 2

    return replace(made, pieces=tuple(sorted(made.pieces, key=rank)))


def _summarize_value(name: str, value: Any, question: str) -> Attachment:
    if is_table_of_run(value):
        return summarize_table(name, value, question)
    if isinstance(value, Explanation):
        return _summarize_text(
            name, value.as_text(TEXT_COLUMNS), "explanation of a risk table's row"
        )
    if isinstance(value, TableDiff):
        return _summarize_diff(name, value, question)
    if isinstance(value, pd.DataFrame):
        value = _put_named_rows_first(_put_named_columns_first(value, question), question)
    for kinds, summarize_kind in _KINDS:
        if isinstance(value, kinds):
            return summarize_kind(name, value)
    module = str(type(value).__module__).partition(".")[0]
    if module in ("polars", "pyarrow") and hasattr(value, "to_pandas"):
        return _summarize_value(name, value.to_pandas(), question)
    return _summarize_object(name, value)


def _put_named_columns_first(frame: pd.DataFrame, question: str) -> pd.DataFrame:
    """Return a wide frame with the columns first that the question names: not all are told."""
    if len(frame.columns) <= MAX_DESCRIBED:
        return frame
    labels = [label if isinstance(label, tuple) else (label,) for label in frame.columns]
    parts = dict.fromkeys(str(part) for label in labels for part in label)
    named = set(find_named_tickers(question, list(parts)))
    is_other = [named.isdisjoint(map(str, label)) for label in labels]
    if all(is_other):
        return frame
    return pd.DataFrame(frame).iloc[:, sorted(range(len(labels)), key=is_other.__getitem__)]


def _put_named_rows_first(frame: pd.DataFrame, question: str) -> pd.DataFrame:
    """Return a long frame with the rows first that are about a ticker of the question."""
    about = _find_about(question)
    if about is None or len(frame) <= SHORT_ROWS:
        return frame
    head = frame.iloc[:MAX_SEARCHED]
    columns: list[Any] = [head.index, *(head.iloc[:, place] for place in range(len(head.columns)))]
    is_other = np.ones(len(frame), dtype=bool)
    for column in columns:
        if column.dtype.kind == "O":  # of whatever class: only texts are looked at
            is_other[: len(head)] &= [
                not (isinstance(cell, str) and about.search(cell)) for cell in column
            ]
    if is_other.all():  # a copy of a large frame takes long
        return frame
    ordered = pd.DataFrame(frame).iloc[np.argsort(is_other, kind="stable")]
    return ordered.reset_index(drop=True) if isinstance(frame.index, pd.RangeIndex) else ordered


def _summarize_diff(name: str, diff: TableDiff, question: str) -> Attachment:
    """Return the changes with their causes; its text begins with a row for each ticker."""
    changes = diff.changes[~diff.changes["what"].isin(COSTS)]
    ordered = _put_named_rows_first(changes, question).reset_index(drop=True)
    made = summarize_frame(name, ordered)
    runs = f"from {', '.join(diff.older)} to {', '.join(diff.newer)}"
    missing = tuple(Piece(text=line) for line in diff.not_compared)
    return replace(
        made,
        title=f"changes of a risk table {runs}",
        pieces=(*missing, *made.pieces),
    )


def _summarize_object(name: str, value: object) -> Attachment:
    return Attachment(
        name=name,
        title=describe_type(value).partition(" ")[2],
        pieces=(Piece(text=describe_object(value)),),
    )


# Texts and files ----------------------------------------------------------------------------------


def _summarize_text(name: str, text: str, title: str) -> Attachment:
    found = _TEXT_PIECE.finditer(text[:MAX_TEXT_CHARS])
    return Attachment(
        name=name,
        title=f"{title}, {len(text):,} characters",
        pieces=tuple(Piece(text=match[0], unit=CHARACTERS, count=len(match[0])) for match in found),
        totals={CHARACTERS: len(text)},
        is_text=True,
    )


def _summarize_file(name: str, path: Path, question: str) -> Attachment:
    path = path.expanduser()
    if not path.is_file():
        seen = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(
            f"--with: {path} {seen}.", fix="name a file that is there, or a variable: --with table"
        )
    if is_document(path):
        try:
            content = read_content(path)
        except UriskError as exc:
            raise type(exc)(f"--with {path.name}: {exc.message}", fix=exc.fix) from exc
        form = f"{content.form} " if content.form else ""
        return _summarize_text(name, content.source.text, f"{form}document {path.name}")
    if path.suffix.lower() in (*JSON_SUFFIXES, ".txt"):
        return _summarize_value(name, read_json(path), question)
    return _summarize_value(name, read_table(path)[0], question)


# Lists and mappings -------------------------------------------------------------------------------


def _summarize_items(name: str, value: Any) -> Attachment:
    count = len(value)
    first = list(itertools.islice(iter(value), MAX_ITEMS))
    if first and all(type(one) in (int, float) and abs(one) < MAX_NUMBER for one in value):
        return summarize_array(name, np.asarray(list(value), dtype=float))
    if isinstance(value, set | frozenset):
        first.sort(key=describe_value)  # the order of a set is another in each kernel
    return Attachment(
        name=name,
        title=f"{type(value).__name__}, {count:,} {'item' if count == 1 else ITEMS}",
        pieces=tuple(_tell_item(name, one) for one in first),
        totals={ITEMS: count},
    )


def _tell_item(name: str, item: Any) -> Piece:
    if isinstance(item, Mapping):
        pairs = list(itertools.islice(item.items(), MAX_ITEMS))
        keys = [describe_value(key, 100) for key, _ in pairs]
        cells = [cell for _, cell in pairs]
        told = (
            f"{key}: {text}"
            for key, cell in zip(keys, cells, strict=True)
            if (text := describe_value(cell)) not in ("", "-")
        )
        text = cut_text("; ".join(told), 2 * MAX_ENTRY_CHARS)
        return Piece(text=text, unit=ITEMS, count=1, source=find_source(keys, cells, name))
    text = describe_value(item, MAX_ENTRY_CHARS)
    is_text = isinstance(item, str) and len(item) >= MIN_TEXT_CHARS
    source = Source(quote=text, attachment=name) if is_text else None
    return Piece(text=text, unit=ITEMS, count=1, source=source)


def _summarize_mapping(name: str, value: Mapping[Any, Any]) -> Attachment:
    return Attachment(
        name=name,
        title=f"{type(value).__name__}, {len(value):,} {'entry' if len(value) == 1 else ENTRIES}",
        pieces=tuple(_list_entries(value)),
        totals={ENTRIES: len(value)},
    )


def _list_entries(value: Mapping[Any, Any]) -> Iterator[Piece]:
    for key, entry in itertools.islice(value.items(), MAX_ITEMS):
        text = f"{describe_value(key, 100)}: {describe_value(entry, MAX_ENTRY_CHARS)}"
        yield Piece(text=text, unit=ENTRIES, count=1)


_KINDS: tuple[tuple[Any, Callable[[str, Any], Attachment]], ...] = (
    (pd.DataFrame, lambda name, value: summarize_frame(name, pd.DataFrame(value))),
    (pd.Series, summarize_series),
    (pd.Index, lambda name, value: summarize_series(name, pd.Series(value))),
    (np.ndarray, summarize_array),
    # The text of an `Answer` is a model's: a text is never taken for a path
    (str, lambda name, value: _summarize_text(name, str.__str__(value), "text")),
    (Mapping, _summarize_mapping),
    (list | tuple | set | frozenset, _summarize_items),
)
