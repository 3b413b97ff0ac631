"""Files of labeled sentences, each with a name: they are never pooled."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from urisk_nb.errors import InputError
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
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return read_labels(list(csv.DictReader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(
            f"{str(path)!r} cannot be read: {exc}.",
            fix="name a CSV file with the columns text,risk,severity",
        ) from exc
    except InputError as exc:
        exc.message = f"{path}: {exc.message}"
        exc.args = (exc.message,)
        raise


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
