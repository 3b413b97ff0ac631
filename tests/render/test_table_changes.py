"""What a run shows of last year's documents: columns, flags, the view, the sentences under it."""

import json
import pickle
from datetime import date

import pandas as pd
import pytest

from table_maker import HOSTILE, finish
from urisk_nb.errors import InputError
from urisk_nb.risk.inputs import Document, Holding, Section
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare

OLD = "We make lathes. We owe the Norwick bank 5 million dollars. Our foundry is old."
NEW = "We make lathes. We owe the Norwick bank 9 million dollars. A fire destroyed a plant."


def report(text, name, year, ticker="NWK", section="Item 1A"):
    return Document(
        id=name,
        ticker=ticker,
        text=text,
        source=name,
        date=date(year, 2, 20),
        form="10-K",
        sections=(Section(name=section, start=0),),
    )


def run(documents, previous=None, symbols=("NWK",), **settings):
    return prepare(
        [Holding(symbol=symbol) for symbol in symbols],
        None,
        documents,
        RiskParams.of(**settings),
        previous=previous,
    )


FOLDER = [report(OLD, "nwk-2024", 2024), report(NEW, "nwk-2025", 2025)]


def test_counts_and_share_stand_in_the_row():
    """One of three sentences is repeated, one changed, one new; one is gone. No model is needed."""
    table = finish(run(FOLDER, symbols=("NWK", "ZED"), llm=False), skip=("NWK", "ZED"))
    row = table.loc["NWK"]
    assert row[["sentences", "new", "changed", "gone"]].tolist() == [3, 1, 1, 1]
    assert row["share_repeated"] == pytest.approx(1 / 3)
    assert row["flags"] == ""
    assert table.loc["ZED", ["new", "changed", "gone", "share_repeated"]].isna().all()
    assert "no_previous" in table.loc["ZED", "flags"]
    assert str(table["new"].dtype) == "Int64"
    text = table.as_text(100)
    assert "33.3%" in text
    assert "no_previous: There is no document of the year before" in text
    json.dumps(table.report.meta)


def test_an_extract_is_flagged():
    """Less than half of the sentences, in either year; half is enough."""
    whole, half, extract = "A fell. B fell. C fell. D fell.", "A fell. B fell.", "A fell."
    for new, old, is_flagged in [
        (whole, extract, True),
        (extract, whole, True),
        (whole, half, False),
        (half, whole, False),
    ]:
        documents = [report(old, "old", 2024), report(new, "new", 2025)]
        flags = finish(run(documents, llm=False), skip=("NWK",)).loc["NWK", "flags"]
        assert ("uneven_previous" in flags) == is_flagged


def test_without_previous_documents_there_is_no_column():
    """Who gives one year has the table as it was."""
    table = finish(run(FOLDER[1:]))
    assert not {"new", "changed", "gone", "share_repeated"} & set(table.columns)
    assert "against last year" not in table.as_text() + table._repr_html_()
    assert table.report.findings["change"].isna().all()
    with pytest.raises(InputError, match="no document of the year before"):
        table.changes("NWK")


def test_findings_say_what_changed():
    """Each labeled sentence has its change, and a changed one its old wording."""
    found = finish(run(FOLDER)).report.findings
    assert found["change"].tolist() == ["repeated", "changed", "new"]
    assert found["old_quote"].isna().tolist() == [True, False, True]
    assert found["old_quote"][1] == "We owe the Norwick bank 5 million dollars."


def test_changes_lists_new_changed_and_gone():
    table = finish(run(FOLDER))
    view = table.changes("nwk")
    assert list(view.columns) == ["change", "section", "quote", "old_quote"]
    assert view["change"].tolist() == ["new", "changed", "gone"]
    assert view["section"].tolist() == ["Item 1A"] * 3
    assert view["quote"].tolist()[:2] == [
        "A fire destroyed a plant.",
        "We owe the Norwick bank 9 million dollars.",
    ]
    assert pd.isna(view["quote"][2])
    assert view["old_quote"][2] == "Our foundry is old."
    assert table.changes()["ticker"].tolist() == ["NWK"] * 3
    with pytest.raises(InputError, match="ZED") as error:
        table.changes("ZED")
    assert "table.changes('NWK')" in error.value.fix
    assert len(pickle.loads(pickle.dumps(table)).changes("NWK")) == 3
    other = finish(
        run([report(OLD, "zed-2024", 2024, "ZED"), report(NEW, "z", 2025, "ZED")], symbols=("ZED",))
    )
    both = pd.concat([table, other])
    assert len(both.changes("ZED")) == len(both.changes("NWK")) == 3
    assert "ZED" in both.as_text().partition("against last year's documents")[2]


def test_the_table_counts_by_section_and_shows_the_first_new_sentences():
    """Item 1A first, five at most, and the rest counted."""
    new = " ".join(
        f"Plant {word} burnt down." for word in ["alpha", "beta", "gamma", "delta", "eta", "zeta"]
    )
    documents = [
        Document(
            id="new",
            ticker="NWK",
            source="nwk-2025",
            date=date(2025, 2, 20),
            form="10-K",
            text="A new owner bought us.\n\n" + new,
            sections=(
                Section(name="Item 1", start=0),
                Section(name="Item 1A", start=len("A new owner bought us.\n\n")),
            ),
        ),
        FOLDER[0],
    ]
    table = finish(run(documents, llm=False), skip=("NWK",))
    shown = table.as_text(100).partition("against last year's documents")[2].splitlines()
    rows = [line.split() for line in shown if line.startswith(("Item", "all"))]
    assert rows == [
        ["Item", "1", "1", "0", "0", "0"],
        ["Item", "1A", "6", "0", "0", "3"],
        ["all", "7", "0", "0", "3"],
    ]
    sentences = [line for line in shown if line.startswith("  new, ")]
    assert len(sentences) == 5
    assert all("Item 1A: Plant" in line for line in sentences)
    assert '2 more new sentences; all changes: table.changes("NWK")' in "\n".join(shown)
    page = table._repr_html_()
    assert page.count('<div style="margin:.15em 0">new, Item 1A: <bdi>Plant') == 5
    assert '<th scope="row" style="' in page.partition("changes of NWK")[2]


def test_hostile_sentences_are_escaped():
    page = finish(run([FOLDER[0], report(HOSTILE, "x", 2025)], llm=False), skip=("NWK",))
    shown = page._repr_html_().partition("against last year")[2]
    assert "<script" not in shown
    assert "\x1b" not in page.as_text()
    assert "alert(1)" in shown


def test_new_and_changed_sentences_are_asked_first():
    """Of the events the new and changed ones come first, whatever repeats from last year."""
    names = ["Ashby", "Barton", "Corby", "Denton", "Elton", "Formby", "Garton", "Hinton"]
    old = " ".join(f"A regulator fined our {name} plant." for name in names)
    new = old.replace("fined our Corby", "closed our Corby") + " A court fined our boat yard."
    documents = [report(old, "nwk-2024", 2024), report(new, "nwk-2025", 2025)]
    plain = run(documents[1:], max_sentences=3)
    assert "A court fined our boat yard." not in [
        one.text for one in plain.selections["NWK"].chosen
    ]
    plan = run(documents, max_sentences=3)
    chosen = [one.text for one in plan.selections["NWK"].chosen]
    assert "A regulator closed our Corby plant." in chosen
    assert chosen[-1] == "A court fined our boat yard."
    assert len(chosen) == 3
    assert "truncated" in plan.selections["NWK"].flags
    (one,) = run(documents, max_sentences=1).selections["NWK"].chosen
    assert one.text in chosen
    assert "fined our A" not in one.text  # Ashby's fine is last year's


def test_what_was_given_as_previous_is_compared():
    """Both folders as given: all of the evidence is read; the note names what it stands against."""
    plan = run([FOLDER[1]], previous=[FOLDER[0]])
    assert plan.selections["NWK"].changes.counts["new"] == 1
    assert plan.meta["messages"] == {"NWK": "compared with nwk-2024"}
    assert plan.meta["changes"]["NWK"]["Item 1A"] == {
        "new": 1,
        "changed": 1,
        "repeated": 1,
        "gone": 1,
    }
    none = run([FOLDER[1]], previous=[])
    assert none.has_previous
    assert "no_previous" in finish(none).loc["NWK", "flags"]


def test_a_report_from_after_the_run_is_neither_read_nor_compared():
    """As of 2025 the report of 2026 is unknown: 2025 is read against 2024."""
    later = report("We are bankrupt.", "nwk-2026", 2026)
    plan = run([*FOLDER, later], as_of="2025-06-30")
    note = "after 2025-06-30, so not read: nwk-2026 (2026-02-20); compared with nwk-2024"
    assert plan.meta["messages"] == {"NWK": note}
    assert plan.selections["NWK"].sentences == 3


def test_nothing_of_it_enters_the_score():
    with_years, alone = finish(run(FOLDER)), finish(run(FOLDER[1:]))
    assert len(alone.report.ratings)
    pd.testing.assert_frame_equal(with_years.report.ratings, alone.report.ratings)
    assert with_years.loc["NWK", "level"] == alone.loc["NWK", "level"]
