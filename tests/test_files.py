"""Files of prices and evidence: each readable form is read, each unreadable one is an error that names the file."""

import json
import os

import pandas as pd
import pytest

from urisk_nb import files
from urisk_nb.errors import InputError


@pytest.fixture
def frame():
    return pd.DataFrame({"date": ["2024-01-02", "2024-01-03"], "NVDA": [1.0, 2.0]})


def test_csv_tsv_and_parquet_hold_the_same_prices(tmp_path, frame):
    """
    The kind of file changes nothing.
    """
    frame.to_csv(tmp_path / "p.csv", index=False)
    frame.to_csv(tmp_path / "p.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "p.parquet")
    for name in ("p.csv", "p.tsv", "p.parquet"):
        pd.testing.assert_frame_equal(files.prices(tmp_path / name, []), frame)
        pd.testing.assert_frame_equal(files.prices(str(tmp_path / name), []), frame)


def test_evidence_keeps_tickers_that_look_like_something_else(tmp_path):
    """
    NA stays a ticker and 0700 keeps its zero.
    """
    (tmp_path / "e.csv").write_text("ticker,text\nNA,first\n0700.HK,second\n0700,third\n")
    assert list(files.evidence(tmp_path / "e.csv", [])["ticker"]) == ["NA", "0700.HK", "0700"]


def test_json_lines_and_a_json_array_are_the_same(tmp_path):
    """
    One object a line, or one array.
    """
    rows = [{"ticker": "A", "text": "x\u2028y"}, {"ticker": "B", "text": "z"}]
    (tmp_path / "e.jsonl").write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    (tmp_path / "e.json").write_text(json.dumps(rows, indent=1))
    assert files.evidence(tmp_path / "e.jsonl", []) == files.evidence(tmp_path / "e.json", []) == rows


def test_a_folder_is_listed_not_built(tmp_path):
    """
    Text files named by ticker are read by listing the folder; other files are left alone.
    """
    (tmp_path / "NVDA.txt").write_text("Fined.")
    (tmp_path / "BRK.B.md").write_text("Sued.")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    assert [(row["ticker"], row["text"]) for row in files.evidence(tmp_path, [])] == [("BRK.B", "Sued."), ("NVDA", "Fined.")]


def test_a_callable_is_given_the_tickers_and_its_errors_are_its_own(frame):
    """
    Any source of data plugs in; an exception of the user's own code is not dressed up.
    """
    assert files.prices(lambda tickers: frame.assign(n=len(tickers)), ["A", "B"])["n"].tolist() == [2, 2]
    with pytest.raises(ZeroDivisionError):
        files.prices(lambda tickers: 1 / 0, [])


def write(name, content):
    def make(folder):
        path = folder / name
        path.write_bytes(content)
        return path

    return make


BAD = [
    ("prices", write("empty.csv", b""), "empty.csv"),
    ("prices", write("words.xlsx", b"PK"), ".xlsx"),
    ("prices", write("none", b"x"), "(none)"),
    ("prices", write("broken.parquet", b"nonsense"), "broken.parquet"),
    ("prices", write("latin.csv", "date,Zürich\n2024-01-01,1\n".encode("latin-1")), "latin.csv"),
    ("prices", write("ragged.csv", b"a,b\n1,2\n1,2,3\n"), "ragged.csv"),
    ("evidence", write("bad.jsonl", b'{"ticker": "A", "text": "x"}\n{oops}\n'), "line 2"),
    ("evidence", write("number.jsonl", b"3\n"), "not an object"),
    ("evidence", write("latin.jsonl", '{"text": "Zürich"}'.encode("latin-1")), "latin.jsonl"),
    ("evidence", lambda folder: folder, "no .txt"),
    ("prices", lambda folder: folder / "nowhere.csv", "no file or folder"),
    ("evidence", lambda folder: "The company was fined. " * 500, "no file or folder"),
    ("prices", lambda folder: folder / "x\0y.csv", "no file or folder"),
]


@pytest.mark.parametrize(("kind", "make", "seen"), BAD)
def test_what_cannot_be_read_is_named(tmp_path, kind, make, seen):
    """
    The error says which file and what to do.
    """
    with pytest.raises(InputError) as caught:
        getattr(files, kind)(make(tmp_path), [])
    assert seen in caught.value.message
    assert caught.value.fix


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path):
    """
    A file that may not be read is an error of ours.
    """
    path = write("secret.csv", b"a\n1\n")(tmp_path)
    path.chmod(0)
    with pytest.raises(InputError, match=r"secret\.csv"):
        files.prices(path, [])
