"""Whole documents: text files whose names say whom they are about."""

from __future__ import annotations

from pathlib import Path

from urisk_nb.errors import InputError

__all__ = ["read_folder"]

SUFFIXES = (".txt", ".md")


def read_folder(folder: Path) -> list[dict[str, str]]:
    """
    Return a row (ticker, text, source) for each text file of a folder, by name.

    The names are listed and compared; no path is built from a ticker.

    Raises
    ------
    InputError
        There is no text file, or one of them is not UTF-8.
    """
    files = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not files:
        raise InputError(
            f"{folder} has no .txt or .md file.",
            fix="name one text file for each ticker: NVDA.txt, MSFT.txt",
        )
    try:
        return [
            {"ticker": path.stem, "text": path.read_text(encoding="utf-8"), "source": path.name}
            for path in files
        ]
    except UnicodeError as exc:
        raise InputError(
            f"a file in {folder} is not UTF-8 text: {exc}.", fix="save it as UTF-8"
        ) from exc
