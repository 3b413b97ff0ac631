"""`urisk history`, `replay`, `verify` and `purge`, and the journal in `urisk doctor`."""

import signal

import pytest

from scripted_judge import NEWS, ScriptedJudge
from urisk_nb import assess, cli


@pytest.fixture
def urisk(monkeypatch, capsys, tmp_path):
    """Run `urisk` in this process, with a journal of the test's own: its status and its output."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("URISK_JOURNAL", str(tmp_path / "journal.sqlite3"))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = cli.main(words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def table(urisk):
    return assess("A B", evidence=NEWS, manager=ScriptedJudge())


def test_the_runs_are_listed(urisk, table):
    """The first letters of the hash name the run, too."""
    status, out, _ = urisk("history")
    assert status == 0
    assert table.report.meta["run_id"] in out
    short = out.split()[-1]
    assert len(short) == 8
    assert table.report.meta["run_hash"].startswith(short)
    assert urisk("verify", short) == (0, f"Unchanged: {table.report.meta['run_hash']}\n", "")
    assert urisk("replay", short.upper())[1].split() == table.as_text().split()


@pytest.mark.parametrize(
    ("hashes", "shown"),
    [
        ([], []),
        ([None, float("nan")], ["", ""]),
        (["0123456789ab", None, "fedcba987654"], ["01234567", "", "fedcba98"]),
        (["0123456789ab", "0123456788ab"], ["0123456789", "0123456788"]),
        (["0123456789ab", "0123456789ac"], ["0123456789ab", "0123456789ac"]),
        (["0123456789ab", "0123456789ab"], ["01234567", "01234567"]),
    ],
    ids=["no runs", "none has one", "eight", "ten", "all", "the same"],
)
def test_so_much_of_a_hash_is_shown_as_tells_the_runs_apart(hashes, shown):
    assert cli._shorten_hashes(hashes) == shown


def test_a_table_is_shown_again(urisk, table):
    """Text as `print(table)` shows it; the first letters of the id are enough."""
    status, out, _ = urisk("replay", table.report.meta["run_id"][:-1])
    assert status == 0
    assert out.split() == table.as_text().split()


def test_a_run_is_verified(urisk, table):
    run = table.report.meta["run_id"]
    assert urisk("verify", run) == (0, f"Unchanged: {table.report.meta['run_hash']}\n", "")


@pytest.mark.parametrize("command", ["replay", "verify"])
def test_an_unknown_run_ends_with_an_error_of_two_lines(urisk, table, command):
    status, out, err = urisk(command, "1999")
    assert (status, out) == (1, "")
    assert "RunNotFound: the journal has no run '1999'." in err
    assert table.report.meta["run_id"] in err


def test_old_runs_are_removed(urisk, table):
    assert urisk("purge", "--before", "2000-01-01")[1] == "Removed: 0 runs.\n"
    assert urisk("purge", "--before", "2999-01-01")[1] == "Removed: 1 run.\n"
    assert urisk("history")[1] == "No run was recorded yet.\n"


def test_a_purge_without_a_day_is_refused(urisk, table):
    with pytest.raises(SystemExit):
        urisk("purge")
    status, _, err = urisk("purge", "--before", "last week")
    assert status == 1
    assert "--before 'last week' is not a date" in err
    assert "--before 2026-01-31" in err


def test_the_journal_is_part_of_the_doctor(urisk, table, monkeypatch, tmp_path):
    """Its place, its size and how much is in it; a broken one with what to do."""
    _, out, _ = urisk("doctor")
    (line,) = [one for one in out.splitlines() if one.startswith("Journal: ")]
    assert line.startswith(f"Journal: {tmp_path / 'journal.sqlite3'}, 0.")
    assert line.endswith("MB, 1 run, 4 answers")
    (tmp_path / "journal.sqlite3").write_bytes(b"broken" * 1000)
    _, out, _ = urisk("doctor")
    assert "not a database" in out
    assert f"Fix: rename {tmp_path / 'journal.sqlite3'}" in out
    monkeypatch.setenv("URISK_JOURNAL", "off")
    assert "Journal: off (URISK_JOURNAL)" in urisk("doctor")[1]
