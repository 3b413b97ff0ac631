"""A file is written whole or not at all, and a path that cannot be written is refused before."""

import os

import pandas as pd
import pytest

from table_maker import document, table_of
from urisk_nb.errors import InputError
from urisk_nb.table.outputs import check_outputs, write_outputs
from urisk_nb.table.targets import check_target, open_target


@pytest.fixture
def table():
    return table_of([document("It was fined in May.")])


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    place = tmp_path / "a.txt"
    place.write_text("old")

    def fail():
        with open_target(place) as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_that_is_there_is_replaced(tmp_path):
    place = tmp_path / "a.txt"
    place.write_text("old")
    place.chmod(0o600)
    with open_target(place) as beside:
        assert beside.suffix == ".txt"
        beside.write_text("new")
    assert place.read_text() == "new"
    assert place.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [place]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with open_target(tmp_path / "link.txt") as beside:
        beside.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_what_the_system_refuses_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(InputError, match="No space left") as caught, open_target(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert "free some space" in caught.value.fix
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "message", "fix"),
    [
        ("", "is a folder", "add the name of a file"),
        ("missing/t.xlsx", "does not exist", "mkdir -p "),
        ("file.txt/t.xlsx", "is a file", "name another"),
        ("t.csv", r"does not end in \.xlsx", "t.xlsx"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(path, message, fix, tmp_path):
    (tmp_path / "file.txt").touch()
    with pytest.raises(InputError, match=f"--excel: .*{message}") as caught:
        check_target(tmp_path / path, "--excel", ".xlsx")
    assert fix in caught.value.fix
    assert [one.name for one in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    """As the system says: root may write everywhere."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="you may not write there"):
        check_target(tmp_path / "t.csv", "--csv")


@pytest.mark.parametrize("name", ["risk.pdf", "risk"])
def test_a_report_is_a_page(table, tmp_path, name):
    """A PDF that holds HTML opens nowhere; the flag and the method both say so."""
    with pytest.raises(InputError, match=r"--report: .* does not end in \.html") as caught:
        check_outputs({"report": tmp_path / name})
    assert caught.value.fix == f"give {tmp_path / 'risk.html'}"
    with pytest.raises(InputError, match="to_html_report"):
        table.to_html_report(tmp_path / name)


def test_two_flags_do_not_share_a_file(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="--report and --csv both name"):
        check_outputs({"report": tmp_path / "a.html", "csv": tmp_path / "x" / ".." / "a.html"})


def test_one_file_that_fails_keeps_no_other_from_being_written(table, tmp_path):
    """A folder may go while the run goes on."""
    (tmp_path / "r").mkdir()
    given = {"report": tmp_path / "r" / "a.html", "csv": tmp_path / "a.csv", "excel": None}
    targets = check_outputs(given)
    (tmp_path / "r").rmdir()
    with pytest.raises(InputError, match="to_html_report"):
        write_outputs(table, targets)
    assert pd.read_csv(tmp_path / "a.csv")["ticker"].tolist() == ["AAA"]


def test_csv_is_written_as_pandas_writes_it(table, tmp_path):
    table.to_csv(tmp_path / "a.csv", sep=";")
    table.to_csv(tmp_path / "a.csv", sep=";", mode="a", header=False)
    table.to_csv(tmp_path / "a.csv.gz")
    assert len(pd.read_csv(tmp_path / "a.csv", sep=";")) == 2
    assert pd.read_csv(tmp_path / "a.csv.gz")["ticker"].tolist() == ["AAA"]
    assert table.to_csv().startswith("ticker,status")
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError, match=r"to_csv\(\).*does not exist"):
        table.to_csv(tmp_path / "none" / "a.csv")
