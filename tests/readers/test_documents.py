"""Whole documents: a folder of text files whose names say whom they are about."""

import os

import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.documents import read_folder
from urisk_nb.readers.news import read_evidence


def read_documents(given, **options):
    return read_evidence(given, **options).documents


def test_a_folder_is_listed_not_built(tmp_path):
    """
    Text files named by ticker are read by listing the folder; other files are left alone.
    """
    (tmp_path / "NVDA.txt").write_text("Fined.")
    (tmp_path / "BRK.B.md").write_text("Sued.")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    assert [(row["ticker"], row["text"]) for row in read_folder(tmp_path)] == [
        ("BRK.B", "Sued."),
        ("NVDA", "Fined."),
    ]


@pytest.mark.skipif(os.name == "nt", reason="a file name there has no asterisk")
def test_a_folder_has_a_file_for_all_companies(tmp_path):
    """
    What is in `*.txt` counts for every company.
    """
    (tmp_path / "*.txt").write_text("Rates rose.")
    (tmp_path / "NA.txt").write_text("Fined.")
    assert [(one.ticker, one.text) for one in read_documents(tmp_path)] == [
        (None, "Rates rose."),
        ("NA", "Fined."),
    ]


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("NVDA.txt", "Zürich".encode("latin-1"), "not UTF-8"),
        ("NVDA.pdf", b"%PDF", "no .txt or .md"),
    ],
)
def test_a_folder_without_readable_text_is_refused(tmp_path, name, content, seen):
    """
    The error says what the folder should hold.
    """
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=seen) as caught:
        read_folder(tmp_path)
    assert caught.value.fix
