"""Files of labeled sentences, and corrections of the journal: each has a name, none is pooled."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from urisk_nb.errors import InputError
from urisk_nb.journal.store import open_journal
from urisk_nb.readers.csv_files import read_csv
from urisk_nb.recording.overrides import read_in_force
from urisk_nb.risk.evaluation import LabeledSentence, read_labels
from urisk_nb.risk.overrides import Override
from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy

__all__ = ["LabeledFile", "read", "read_files", "read_overrides"]

OVERRIDES = "overrides"  # the name of the corrections in the report


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledFile:
    """The labeled sentences of one file, and the name that the file has in the report."""

    name: str
    items: tuple[LabeledSentence, ...]


def read(path: str | Path, taxonomy: Taxonomy = DEFAULT) -> list[LabeledSentence]:
    """
    Return the labeled sentences of a CSV file (see `risk.evaluation.read_labels`).

    Raises
    ------
    InputError
        The file cannot be read, or a row has a value that cannot be used.
    """
    try:
        return _drop_repeats(read_labels(_read_rows(Path(path)), taxonomy))
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


def read_overrides(taxonomy: Taxonomy = DEFAULT) -> LabeledFile:
    """
    Return the sentences whose label a person corrected, each with that label.

    Of the corrections in force in the journal, those to a category that is asked
    about. A sentence of two tickers is there twice. Its source is its ticker.

    Raises
    ------
    InputError
        There is none.
    JournalUnusable
        The journal cannot be read.
    """
    with open_journal() as store:
        made, damaged = read_in_force(store)
    items = tuple(
        _to_labeled(one) for one in made if one.label and one.label.risk in taxonomy.labels
    )
    if not items:
        others = sum(one.label is not None for one in made)
        seen = f"; {others} of other categories, and {damaged} damaged" if others + damaged else ""
        raise InputError(
            f"no correction of a label is in force in the journal{seen}.",
            fix='correct some first: table.override("E1.1", risk="legal", severity=3, why="...")',
        )
    return LabeledFile(name=OVERRIDES, items=items)


def _to_labeled(one: Override) -> LabeledSentence:
    assert one.label is not None  # noqa: S101  those that were taken back were left out
    severity = one.label.severity
    return LabeledSentence(
        text=one.text,
        risks=(one.label.risk,),
        low=severity,
        high=severity,
        severity=severity,
        source=one.ticker,
    )


def read_files(
    words: Sequence[str], *, with_overrides: bool = False, taxonomy: Taxonomy = DEFAULT
) -> list[LabeledFile]:
    """
    Return the labeled files that the words name, as a path or as `NAME=path`.

    A path without a name is named after the file, without folder and ending.

    Parameters
    ----------
    with_overrides
        Add the corrections of the journal, as a file named `overrides`.
    taxonomy
        The categories that the labels may be.

    Raises
    ------
    InputError
        A file cannot be read or used, two have the same name, or nothing is named.
    JournalUnusable
        Corrections are wanted, and the journal cannot be read.
    """
    if not words and not with_overrides:
        raise InputError(
            "no labeled sentences were named.",
            fix="name a file: urisk evaluate labels.csv, or add --overrides for your corrections",
        )
    named = [(OVERRIDES, "")] if with_overrides else []
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
    corrected = [read_overrides(taxonomy)] if with_overrides else []
    files = named[len(corrected) :]
    return [
        *(LabeledFile(name=name, items=tuple(read(path, taxonomy))) for name, path in files),
        *corrected,
    ]
