"""
Labels that a person corrects: recorded, counted in this table and in later ones, shown, measured.
The answers are SCRIPTED.
"""

import getpass
import json
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading

import openpyxl
import pandas as pd
import pytest

import urisk_nb
from scripted_judge import NEWS, ScriptedJudge, by_word, label, news
from test_past_runs import assert_same
from urisk_nb import RiskTable, assess, cli, evaluate, process_state, purge, replay, verify
from urisk_nb.errors import InputError, JournalUnusable, RecordChanged
from urisk_nb.journal.store import MIGRATIONS, Store
from urisk_nb.risk.taxonomy import Category, Taxonomy
from urisk_nb.session import label_sync, open_run
from urisk_nb.table.record_rows import to_records

FINED = "It was fined by the court."
HOSTILE = '=HYPERLINK("http://127.0.0.1/x") <script>alert(1)</script> \x1b[31m\u202e; $a$'


@pytest.fixture(autouse=True)
def journal(tmp_path, monkeypatch):
    """A journal of the test's own, and a person."""
    path = tmp_path / "journal" / "journal.sqlite3"
    monkeypatch.setenv("URISK_JOURNAL", str(path))
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    process_state.forget("priors")
    return path


def make_run(manager=None, evidence=NEWS, tickers="A B", **given):
    return assess(tickers, evidence=evidence, manager=manager or ScriptedJudge(), **given)


def correct(table, **given):
    """A's fine is none."""
    return table.override(FINED, **{"ticker": "A", "risk": "none", "why": "it was paid", **given})


def id_of(table):
    return table.report.meta["run_id"]


def notes_of(table):
    return table.report.meta["messages"].get("*", [])


# This table ---------------------------------------------------------------------------------------


def test_a_correction_counts_in_a_new_table():
    """Of the same run; the old table is unchanged, and nobody is asked."""
    judge = ScriptedJudge()
    table = make_run(judge)
    before = pd.DataFrame(table).copy()
    asked = len(judge.asked)
    new = correct(table)
    assert len(judge.asked) == asked
    pd.testing.assert_frame_equal(pd.DataFrame(table), before)
    assert isinstance(new, RiskTable)
    assert id_of(new) == id_of(table)
    assert table["r_legal"].tolist() == [4, 4]
    assert new["r_legal"].fillna(-1).tolist() == [-1, 4]
    assert ["override" in flags for flags in new["flags"]] == [True, False]


def test_one_correction_after_another():
    """Each is of the table before it; the latest of a sentence counts."""
    table = correct(make_run())
    table = table.override("Demand fell", risk="business", severity=5, why="by half")
    assert table["r_business"].fillna(-1).tolist() == [-1, 5]
    table = correct(table, risk="legal", severity=1)
    assert table["r_legal"].tolist() == [1, 4]
    assert len(table.report.meta["overrides"]) == 2
    assert len(urisk_nb.overrides()) == 2
    assert len(urisk_nb.overrides(history=True)) == 3


def test_a_correction_is_taken_back():
    """By a record: the model's label counts again, and nothing is deleted."""
    table = make_run()
    back = correct(correct(table), risk=None, remove=True, why="it was not paid")
    assert back["r_legal"].tolist() == [4, 4]
    assert len(urisk_nb.overrides()) == 0
    history = urisk_nb.overrides(history=True)
    assert history["why"].tolist() == ["it was not paid", "it was paid"]
    with pytest.raises(InputError, match="no correction of this sentence of A is in force"):
        correct(back, risk=None, remove=True)
    assert len(urisk_nb.overrides(history=True)) == 2


def test_rows_and_columns_of_the_users_choice_stay():
    """In their order; a table with columns of the user's own comes back whole."""
    table = make_run()
    part = correct(table.loc[["B", "A"], ["score", "flags", "run_id", "status"]])
    assert part.index.tolist() == ["B", "A"]
    assert list(part.columns) == ["score", "flags", "run_id", "status"]
    assert part["score"].tolist()[1] == 0.0
    assert correct(table.loc[["B"]])["r_legal"].tolist() == [4]
    assert correct(table.sort_values("score").copy()).index.tolist() == table.index.tolist()
    own = correct(table.assign(mine=1))
    assert list(own.columns) == list(table.columns)


def test_a_table_without_its_run_says_where_to_correct(tmp_path):
    """From a file, a pickle or a copy of the report; the fix is a call that works."""
    table = make_run()
    table.to_parquet(tmp_path / "t.parquet")
    for lost in (
        RiskTable.from_parquet(tmp_path / "t.parquet"),
        pickle.loads(pickle.dumps(table)),
    ):
        pd.testing.assert_frame_equal(pd.DataFrame(lost), pd.DataFrame(table))
        with pytest.raises(InputError, match="without its run") as caught:
            correct(lost)
        assert f"urisk_nb.replay({id_of(table)!r}).override(...)" in caught.value.fix
    assert correct(replay(id_of(table)))["r_legal"].fillna(-1).tolist() == [-1, 4]


def test_a_corrected_table_is_saved_with_its_corrections(tmp_path):
    table = correct(make_run())
    table.to_parquet(tmp_path / "t.parquet")
    back = RiskTable.from_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(back.report.findings, table.report.findings)
    assert back.report.meta["overrides"] == table.report.meta["overrides"]


def test_tables_that_have_nothing_to_correct(tmp_path):
    with pytest.raises(InputError, match="put together from 2 runs"):
        correct(pd.concat([make_run(tickers="A"), make_run(tickers="B")]))
    with pytest.raises(InputError, match="not made by a run"):
        correct(RiskTable({"a": [1]}))
    with pytest.raises(InputError, match="no labeled sentence"):
        correct(make_run(params={"llm": False}))


def test_nothing_is_recorded_where_something_is_wrong():
    with pytest.raises(InputError, match="needs a reason"):
        correct(make_run(), why="")
    assert len(urisk_nb.overrides(history=True)) == 0


# Later runs, replay, verify -----------------------------------------------------------------------


def test_a_later_run_counts_it():
    """It is the table that the correction gave, but for name, cost and notes of a run."""
    new = correct(make_run())
    judge = ScriptedJudge()
    later = make_run(judge)
    costs = ["run_id", "latency_s", "tokens", "attempts", "cached"]
    pd.testing.assert_frame_equal(
        pd.DataFrame(later).drop(columns=costs), pd.DataFrame(new).drop(columns=costs)
    )
    pd.testing.assert_frame_equal(
        later.report.findings.drop(columns="cached"), new.report.findings.drop(columns="cached")
    )
    assert later.report.meta["overrides"] == new.report.meta["overrides"]
    assert not [note for note in notes_of(later) if "corrected after" in note]


def test_it_holds_in_another_document():
    correct(make_run())
    table = make_run(evidence=news(("A", f"Rates rose. {FINED}"), ("B", FINED)))
    assert table["r_legal"].fillna(-1).tolist() == [-1, 4]


def test_a_replay_shows_the_run_as_it_was():
    """Without what was corrected after it, with what held for it; whatever came after that."""
    table = make_run()
    new = correct(table)
    assert_same(replay(id_of(table)), table)
    (note,) = [one for one in notes_of(new) if "corrected after this run" in one]
    assert f"%urisk_replay {id_of(table)}" in note
    later = make_run()
    correct(later, risk="legal", severity=1)
    assert_same(replay(id_of(later)), later)
    assert verify(id_of(later)) == later.report.meta["run_hash"]


def test_a_run_recorded_before_there_were_corrections_is_shown_again(journal):
    """Its inputs have no such entry; and the file of that version is brought up to date."""
    table = make_run()
    with sqlite3.connect(journal) as plain:
        plain.execute("DROP TABLE overrides")
        plain.execute("PRAGMA user_version = 1")
    from urisk_nb.recording.inputs import decode_inputs, encode_inputs

    run = open_run("A", evidence=NEWS)
    record, objects = encode_inputs(run.inputs)
    del record["overrides"]
    assert decode_inputs(record, {one.hash.hex(): one.body for one in objects}).overrides == ()
    assert_same(replay(id_of(table)), table)
    correct(table)
    with sqlite3.connect(journal) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_the_hash_of_a_run_covers_its_corrections(journal):
    """A changed byte in the record of the inputs, where they stand, is found."""
    correct(make_run(), why="it was paid in full, as the report says")
    later = make_run()
    with sqlite3.connect(journal) as plain:
        content, number = plain.execute(
            "SELECT body, id FROM records WHERE name = 'run' AND run = ?", (id_of(later),)
        ).fetchone()
    from urisk_nb.journal.canonical import pack, unpack

    body = unpack(content)
    assert b"paid in full" in body
    with sqlite3.connect(journal) as plain:
        changed = pack(body.replace(b"paid in full", b"paid in half"))
        plain.execute("UPDATE records SET body = ? WHERE id = ?", (changed, number))
    with pytest.raises(RecordChanged, match="the record 'run'"):
        verify(id_of(later))


def test_a_category_that_a_later_run_lacks():
    """It does not count there, and a line under the table says so."""
    correct(make_run(), risk="credit", severity=2)
    mine = Taxonomy(
        version="mine", categories=(Category(id="weather", name="W", definition="storms"),)
    )
    manager = ScriptedJudge(lambda text: label("weather", 3))
    table = make_run(manager, taxonomy=mine)
    assert table["r_weather"].tolist() == [3, 3]
    assert "A: A correction to credit 2 by anna does not count" in table.as_text(300)
    assert "override" not in table.loc["A", "flags"]
    assert_same(replay(id_of(table)), table)


def test_several_judges():
    """The correction counts, and what each judge said stays."""

    class Panel(ScriptedJudge):
        async def ask(self, question, model=None):
            self.answer = by_word if model == "one" else lambda text: label("business", 1)
            return await super().ask(question, model)

    table = make_run(Panel(), params={"judge": ("one", "two")})
    assert "judges disagree" in set(table.review()["why"])
    row = table.review().query("ticker == 'A'").iloc[0]
    new = table.override(row["evidence"], risk="legal", severity=5, why="it is large")
    assert new.loc["A", "r_legal"] == 5
    pd.testing.assert_frame_equal(new.judgements(), table.judgements())
    assert new.report.meta["kappa"] == table.report.meta["kappa"]
    assert new.loc["A", "to_review"] == table.loc["A", "to_review"] - 1


# Shown --------------------------------------------------------------------------------------------


def test_it_is_shown_as_what_it_is():
    """Beside the row, beside the sentence, under the table, step by step, and as a cause."""
    table = make_run()
    new = correct(table)
    said = "anna corrected legal 4 to none on "
    text = " ".join(new.as_text(300).split())
    assert "override: A person corrected the label of a sentence" in text
    assert said in text
    assert said in new._repr_html_()
    explained = new.explain("A")
    assert explained.adds_up
    assert [note for note in explained.notes if said in note and note.endswith("it was paid")]
    row = explained.sentences.set_index("quote").loc[FINED]
    assert [row["model_risk"], row["override_by"]] == ["legal", "anna"]
    changes = new.diff(table).changes.set_index("what")
    for cell in ("score", "r_legal", "label", "level", "top_risk", "flags"):
        assert said in changes.loc[cell, "cause"], cell
        assert "it was paid" in changes.loc[cell, "cause"]
    assert set(changes["ticker"]) == {"A"}
    back = table.diff(new).changes.set_index("what")
    assert f"no longer corrected: {said}" in back.loc["label", "cause"]


def test_a_confirmed_label_is_a_cause_too():
    """The label is the same: only the flag says that a person looked."""
    table = make_run()
    changes = correct(table, risk="legal", severity=4).diff(table).changes.set_index("what")
    assert changes.index.tolist() == ["flags"]
    assert "anna confirmed legal 4 on " in changes.loc["flags", "cause"]


def test_tables_of_an_older_version_are_shown_and_compared():
    """Their findings have no columns of corrections."""
    table = make_run()
    names = ["model_risk", "model_severity", "override_by", "override_at", "override_why"]
    old = make_run()
    object.__setattr__(old.report, "findings", old.report.findings.drop(columns=names))
    assert "labeled sentences" in old.as_text()
    assert old.explain("A").adds_up
    assert "No difference." in repr(table.diff(old))
    assert len(correct(table).diff(old).changes)


def test_a_hostile_reason_stays_text(tmp_path):
    """In HTML, in a workbook, in a terminal and in CSV."""
    table = correct(make_run(), why=HOSTILE)
    table.to_html_report(tmp_path / "t.html")
    for page in (
        table._repr_html_(),
        table.explain("A")._repr_html_(),
        table.diff(make_run())._repr_html_(),
        (tmp_path / "t.html").read_text(encoding="utf-8"),
        urisk_nb.overrides()._repr_html_(),
    ):
        assert "<script" not in page
    assert "alert(1)" in (tmp_path / "t.html").read_text(encoding="utf-8")
    for text in (table.as_text(), repr(table.explain("A")), urisk_nb.overrides().to_string()):
        assert not set(text) & {"\x1b", "\u202e"}
    table.to_excel(tmp_path / "t.xlsx")
    for sheet in openpyxl.load_workbook(tmp_path / "t.xlsx"):
        cells = [cell for row in sheet.iter_rows() for cell in row if cell.value is not None]
        assert not [cell for cell in cells if str(cell.value).startswith("=")]
    assert ",=HYP" not in urisk_nb.overrides().to_csv()
    assert "override_why" in table.report.findings


def test_a_long_reason_is_cut_beside_a_sentence_and_whole_in_the_record():
    why = "word " * 300 + "END"
    table = make_run()
    new = correct(table, why=why)
    cause = new.diff(table).changes.set_index("what").loc["label", "cause"]
    for text in (new.as_text(), new._repr_html_(), cause):
        assert "word word" in text
        assert "END" not in text
    assert any(note.endswith("END") for note in new.explain("A").notes)
    assert new.report.meta["overrides"][0]["why"] == why


def test_half_a_character_in_a_reason_can_be_saved(tmp_path):
    """Half of a surrogate pair is in no encoding."""
    table = correct(make_run(), why="paid \ud83d in May")
    table.to_excel(tmp_path / "t.xlsx")
    table.to_parquet(tmp_path / "t.parquet")
    table.to_html_report(tmp_path / "t.html")
    urisk_nb.overrides().to_csv(tmp_path / "t.csv")
    assert "in May" in (tmp_path / "t.csv").read_text(encoding="utf-8")


def test_rows_are_json():
    table = correct(make_run())
    rows = to_records(table.report.findings)
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0]["override_at"] is None
    assert [row["override_by"] for row in rows if row["override_by"]] == ["anna"]


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
