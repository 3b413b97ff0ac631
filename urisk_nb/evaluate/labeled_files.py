"""Files of labeled sentences, each with a name: they are never pooled."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from urisk_nb.errors import InputError
from urisk_nb.readers.csv_files import read_csv
from urisk_nb.risk.evaluation import LabeledSentence, read_labels

__all__ = ["LabeledFile", "read", "read_files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledFile:
    """The labeled sentences of one file, and the name that the file has in the report."""

    name: str
    items: tuple[LabeledSentence, ...]


def read(path: str | Path) -> list[LabeledSentence]:
    """
    Return the labeled sentences of a CSV file (see `risk.evaluation.read_labels`).

    Raises
    ------
    InputError
        The file cannot be read, or a row has a value that cannot be used.
    """
    try:
        return _drop_repeats(read_labels(_read_rows(Path(path))))
    except InputError as exc:
        exc.message = f"{path}: {exc.message}"
        exc.args = (exc.message,)
        raise
    except (ValueError, csv.Error) as exc:
        raise InputError(
            f"{str(path)!r} cannot be read: {exc}.", fix="name a CSV file with text,risk,severity"
        ) from exc


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows that hold something, as a spreadsheet program of any country saves them."""
    if not path.is_file():
        raise InputError(
            "it cannot be read: "
            + ("it is a folder." if path.is_dir() else "there is no such file."),
            fix="name a CSV file with text,risk,severity",
        )
    if not path.stat().st_size:
        return []  # it has no header, either
    frame, _ = read_csv(path, text=True)
    names = [str(name).strip().lower() for name in frame.columns]
    rows = [dict(zip(names, map(_tidy, row), strict=True)) for row in frame.itertuples(index=False)]
    return [
        {**row, "risk": row["risk"].lower()} if "risk" in row else row
        for row in rows
        if any(row.values())
    ]


def _tidy(cell: object) -> str:
    """Return the text of a cell; pandas writes the whole numbers of a column with gaps as 4.0."""
    text = cell.strip() if isinstance(cell, str) else ""
    return text.removesuffix(".0") if re.fullmatch(r"\d\.0", text) else text


def _drop_repeats(items: Sequence[LabeledSentence]) -> list[LabeledSentence]:
    """
    Return each sentence of a source once; the same text with two labels is refused.

    Two sources may well say the same.
    """
    seen: dict[str, LabeledSentence] = {}
    for item in items:
        known = seen.setdefault(item.text, item)
        if (known.risks, known.low, known.high) != (item.risks, item.low, item.high):
            raise InputError(
                f"two rows have the text {item.text[:60]!r} and different labels.",
                fix="leave one out; further labels that you accept stand behind |: legal|business",
            )
    return list(dict.fromkeys(items))


def read_files(words: Sequence[str]) -> list[LabeledFile]:
    """
    Return the labeled files that the words name, as a path or as `NAME=path`.

    A path without a name is named after the file, without folder and ending.

    Raises
    ------
    InputError
        A file cannot be read or used, or two have the same name.
    """
    named = []
    for word in words:
        name, sign, path = word.partition("=")
        is_path = not sign or Path(word).exists() or not name
        named.append((Path(word).stem, word) if is_path else (name, path))
    counts = Counter(name for name, _ in named)
    if twice := [name for name, count in counts.items() if count > 1]:
        last = [path for name, path in named if name == twice[0]][-1]
        raise InputError(
            f"two files have the name {twice[0]!r}.", fix=f"give one another name: other={last}"
        )
    return [LabeledFile(name=name, items=tuple(read(path))) for name, path in named]
