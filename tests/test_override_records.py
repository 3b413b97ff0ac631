"""
Corrections as records: in the journal, of several kernels, removed; and models measured on them.
The answers are SCRIPTED.
"""

import getpass
import signal
import sqlite3
import subprocess
import sys
import threading

import pandas as pd
import pytest

import urisk_nb
from override_maker import FINED, correct, id_of, make_run, notes_of
from scripted_judge import NEWS, ScriptedJudge, label
from urisk_nb import cli, evaluate, purge, replay
from urisk_nb.errors import InputError, JournalUnusable, RecordChanged
from urisk_nb.journal.store import Store
from urisk_nb.risk.taxonomy import Category, Taxonomy
from urisk_nb.session import label_sync, open_run


@pytest.fixture(autouse=True)
def person(journal, monkeypatch):
    """Who corrects, into a journal of the test's own."""
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")


# The journal --------------------------------------------------------------------------------------


def test_what_is_recorded():
    table = make_run(
        ScriptedJudge(method=urisk_nb.llm.labels.LabelMethod.DECISION),
        evidence=NEWS.assign(source="wire", date="2024-03-01"),
    )
    correct(table)
    (one,) = urisk_nb.overrides().to_dict("records")
    wanted = {
        "ticker": "A",
        "quote": FINED,
        "risk": "none",
        "severity": 0,
        "by": "anna",
        "why": "it was paid",
        "model": "judge:7b",
        "model_risk": "legal",
        "model_severity": 4,
        "source": "wire",
        "date": pd.Timestamp("2024-03-01"),
    }
    assert {name: one[name] for name in wanted} == wanted
    assert 0 < one["p_label"] < 1
    assert abs(pd.Timestamp.now("UTC") - one["at"]) < pd.Timedelta("1min")


def test_a_login_without_a_name(monkeypatch):
    def fail():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", fail)
    correct(make_run())
    assert urisk_nb.overrides()["by"].tolist() == ["unknown"]


def test_without_a_journal_it_counts_in_this_table_only(monkeypatch):
    monkeypatch.setenv("URISK_JOURNAL", "off")
    table = correct(make_run())
    table = table.override("Demand fell", risk="none", why="it rose")
    assert table["score"].max() < make_run()["score"].max() + 1
    assert table["r_legal"].fillna(-1).tolist() == [-1, 4]
    assert table["r_business"].isna().all()
    assert "counts in this table only" in " ".join(notes_of(table))
    assert correct(table, risk=None, remove=True)["r_legal"].tolist() == [4, 4]
    assert make_run()["r_legal"].tolist() == [4, 4]
    with pytest.raises(JournalUnusable, match="is off"):
        urisk_nb.overrides()


def test_a_journal_that_cannot_be_written_is_an_error(journal, monkeypatch):
    """A record was asked for: there is no new table without it."""
    table = make_run()
    journal.write_bytes(b"this is no journal" * 500)
    with pytest.raises(JournalUnusable, match="not a database"):
        correct(table)
    journal.unlink()

    def fail(self, one):
        raise JournalUnusable("the disk is full.", fix="free some space")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "add_override", fail)
        with pytest.raises(JournalUnusable, match="disk is full"):
            correct(table)
    assert len(urisk_nb.overrides(history=True)) == 0


def test_a_journal_that_is_locked_is_an_error(journal, monkeypatch):
    monkeypatch.setattr(Store.__init__, "__kwdefaults__", {"busy_s": 0.05})
    table = make_run()
    with sqlite3.connect(journal, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalUnusable, match="locked"):
            correct(table)
        other.execute("ROLLBACK")
    other.close()
    assert correct(table)["r_legal"].fillna(-1).tolist() == [-1, 4]


def test_corrections_that_cannot_be_read_are_said(journal):
    """A run goes on without them, and says so; a changed record never counts."""
    correct(make_run())
    with sqlite3.connect(journal) as plain:
        plain.execute("UPDATE overrides SET body = X'70'")
    table = make_run()
    assert table["r_legal"].tolist() == [4, 4]
    assert "Some corrections of labels do not count" in table.as_text(300)
    with pytest.raises(RecordChanged, match="a correction in the journal was changed"):
        urisk_nb.overrides()


def test_two_kernels_correct_the_same_sentence(monkeypatch):
    """Both are recorded, the later counts, and each new table has what is in force."""
    table = make_run()
    mine, theirs = replay(id_of(table)), replay(id_of(table))
    correct(mine)
    theirs = theirs.override("Demand fell", risk="business", severity=5, why="by half")
    assert theirs["r_legal"].fillna(-1).tolist() == [-1, 4]
    correct(theirs, risk="legal", severity=1)
    assert make_run()["r_legal"].tolist() == [1, 4]
    assert len(urisk_nb.overrides(history=True)) == 3


WRITE = """
import sys
from pathlib import Path
from urisk_nb.journal.store import Entry, Store
for number in range(5):
    with Store(Path(sys.argv[1])) as store:
        store.add_override(Entry.of(b"%d" % number, key=b"k"))
"""


def test_processes_write_at_once_and_none_is_lost(journal):
    words = [sys.executable, "-c", WRITE, str(journal)]
    workers = [subprocess.Popen(words) for _ in range(3)]
    assert [one.wait(60) for one in workers] == [0, 0, 0]
    with Store(journal) as store:
        rows = store.list_overrides()
    assert len(rows) == 15
    assert all(stored.is_whole for _, _, stored in rows)


def test_a_purge_keeps_corrections_unless_it_is_told():
    correct(make_run())
    assert purge("2999-01-01") == 1
    assert make_run()["r_legal"].fillna(-1).tolist() == [-1, 4]
    purge("2000-01-01", overrides=True)
    assert len(urisk_nb.overrides()) == 1
    purge("2999-01-01", overrides=True)
    assert make_run()["r_legal"].tolist() == [4, 4]


def test_a_purge_leaves_no_words_of_a_correction(journal):
    correct(make_run(), why="a secret reason that compresses to nothing")
    purge("2999-01-01", overrides=True)
    content = journal.read_bytes()
    assert b"secret reason" not in content
    assert b"fined by the court" not in content


def test_threads_may_correct_one_table():
    table, made = make_run(), []
    texts = {FINED: "A", "It opened a shop.": "A", "Demand fell in spring.": "B"}
    threads = [
        threading.Thread(
            target=lambda text=text, one=one: made.append(
                table.override(text, ticker=one, risk="credit", severity=2, why="so")
            )
        )
        for text, one in texts.items()
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(made) == 3
    assert len(make_run().report.meta["overrides"]) == 3


def test_a_table_keeps_no_inputs_alive():
    """What it keeps of the run is what the table is made of: no prices twice, no replies."""
    run = open_run("A B", evidence=NEWS)
    label_sync(run, ScriptedJudge())
    kept = run.table().report.correct.__self__
    assert (kept.inputs, kept.answered, kept.recorder) == (None, {}, None)
    assert run.inputs is not None


# evaluate and the shell ---------------------------------------------------------------------------


def test_a_model_is_measured_on_the_corrections():
    """Those in force, as a file of labeled sentences: of two labels the model has one right."""
    table = correct(make_run())
    table = table.override("Demand fell", risk="business", severity=2, why="as the model says")
    table = table.override("opened a shop", risk="legal", severity=2, why="a mistake of mine")
    table.override("opened a shop", risk=None, remove=True, why="it was one")
    (file,) = evaluate.read_files([], with_overrides=True)
    assert [(one.text, one.risks, one.low, one.high, one.source) for one in file.items] == [
        (FINED, ("none",), 0, 0, "A"),
        ("Demand fell in spring.", ("business",), 2, 2, "B"),
    ]
    found = evaluate.evaluate(
        evaluate.add_baselines(file), ScriptedJudge(), models=["judge:7b"], label=label_sync
    )
    assert found.evaluations[0].figures["own"] == evaluate.measurement.Share(1, 2)
    assert found.name == "overrides"
    assert "overrides" in evaluate.render_text(found)


def test_categories_of_other_runs_are_not_measured():
    mine = Taxonomy(
        version="mine", categories=(Category(id="weather", name="W", definition="storms"),)
    )
    manager = ScriptedJudge(lambda text: label("weather", 3))
    correct(make_run(manager, taxonomy=mine), risk="weather", severity=1)
    with pytest.raises(InputError, match=r"no correction of a label is in force.*1 of other"):
        evaluate.read_overrides()


@pytest.fixture
def urisk(monkeypatch, capsys, tmp_path):
    """Run `urisk` in this process: its status and its output."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = cli.main(words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_urisk_evaluate_says_what_is_missing_before_any_server(urisk, tmp_path):
    status, _, err = urisk("evaluate")
    assert status == 1
    assert "no labeled sentences were named" in err
    make_run()
    status, _, err = urisk("evaluate", "--overrides")
    assert status == 1
    assert "no correction of a label is in force" in err
    correct(make_run())
    (tmp_path / "overrides.csv").write_text("text,risk,severity\nIt rained.,none,0\n")
    status, _, err = urisk("evaluate", "--overrides", "overrides.csv")
    assert status == 1
    assert "two files have the name 'overrides'" in err
    assert "other=overrides.csv" in err


def test_urisk_purge_takes_corrections_where_it_is_told(urisk):
    correct(make_run())
    assert urisk("purge", "--before", "2999-01-01")[1] == "Removed: 1 run.\n"
    assert len(urisk_nb.overrides()) == 1
    said = urisk("purge", "--before", "2999-01-01", "--overrides")[1]
    assert said == "Removed: 0 runs, and the corrections from before then.\n"
    assert len(urisk_nb.overrides()) == 0
