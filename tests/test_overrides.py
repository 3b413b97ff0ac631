"""
Labels that a person corrects: recorded, counted in this table and in later ones, shown, measured.
The answers are SCRIPTED.
"""

import getpass
import json
import pickle
import sqlite3

import openpyxl
import pandas as pd
import pytest

import urisk_nb
from override_maker import FINED, correct, id_of, make_run, notes_of
from scripted_judge import NEWS, ScriptedJudge, by_word, label, news
from test_past_runs import assert_same
from urisk_nb import RiskTable, assess, replay, verify
from urisk_nb.errors import InputError, RecordChanged
from urisk_nb.journal.store import MIGRATIONS
from urisk_nb.risk.taxonomy import Category, Taxonomy
from urisk_nb.session import open_run
from urisk_nb.table.record_rows import to_records

HOSTILE = '=HYPERLINK("http://127.0.0.1/x") <script>alert(1)</script> \x1b[31m\u202e; $a$'


@pytest.fixture(autouse=True)
def person(journal, monkeypatch):
    """Who corrects, into a journal of the test's own."""
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")


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
    assert open_run("A", evidence=NEWS).overrides == ()
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
    table = make_run()
    with pytest.raises(InputError, match="without its run"):  # of one run, though it is there twice
        correct(pd.concat([table, correct(table)]))
    with pytest.raises(InputError, match="not made by a run"):
        correct(RiskTable({"a": [1]}))
    with pytest.raises(InputError, match="no labeled sentence"):
        correct(make_run(params={"llm": False}))


def test_nothing_is_recorded_where_something_is_wrong():
    with pytest.raises(InputError, match="needs a reason"):
        correct(make_run(), why="")
    assert len(urisk_nb.overrides(history=True)) == 0


# Later runs, replay, verify -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said", "fix"),
    [
        (lambda table: table.override("E1.1", "legal", 2), "too many positional", "write table.ov"),
        (lambda table: table.override(), "argument: 'evidence'", 'override("E2.1", risk="legal"'),
        (lambda table: table.override("E1.1", rsik="legal"), "no argument 'rsik'", "mean risk="),
        (lambda table: table.explain(), "argument: 'ticker'", 'write table.explain("NVDA")'),
        (lambda table: table.to_html_report(), "argument: 'path'", '"out.html"'),
        (lambda table: table.to_html_report(3), "path is 3", '"out.html"'),
    ],
)
def test_a_call_that_does_not_fit_is_told_its_form(call, said, fix):
    """Python's own TypeError shows no way out."""
    with pytest.raises(InputError) as caught:
        call(make_run())
    assert said in caught.value.message
    assert fix in caught.value.fix


def test_who_has_read_an_alert_settles_it():
    """A Low that a model gave has a flag beside its alert; a confirmed one has none."""
    evidence = news(
        ("A", "There is substantial doubt about its ability to continue as a going concern.")
    )
    table = assess("A", evidence=evidence, manager=ScriptedJudge(lambda _: label("liquidity", 1)))
    assert table.loc["A", "alerts"] == "survival"
    assert "low_alert" in table.loc["A", "flags"]
    assert "the words of a sentence are an alert" in table.as_text()
    read = table.override("going concern", risk="liquidity", severity=1, why="it was repaid")
    assert read.loc["A", "level"] == "Low"
    assert "low_alert" not in read.loc["A", "flags"]


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
