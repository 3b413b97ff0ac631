"""Corrected labels by the rules alone: which sentence is meant, its label, what it comes to."""

import functools
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from table_maker import document
from urisk_nb.errors import InputError
from urisk_nb.risk.corrections import Correction, build_override
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.overrides import Override, apply_overrides, describe_unfit, select_overrides
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import Label
from urisk_nb.risk.taxonomy import DEFAULT, Category, Taxonomy
from urisk_nb.table.risk_table import assemble

NOW = datetime(2024, 5, 2, 9, 30, tzinfo=UTC)
FINED, FELL, LEFT = (
    "It was fined in May.",
    "Demand fell in May.",
    "The chief executive left in May.",
)
NEWS = f"{FINED} {FELL} {LEFT}"


def plan_of(*documents, symbols=("AAA",), **given):
    holdings = [Holding(symbol=symbol) for symbol in symbols]
    return prepare(holdings, None, documents, RiskParams.of(**given))


def findings_of(plan, labels, **given):
    return {
        symbol: TickerFindings(
            symbol=symbol,
            findings=tuple(
                Finding(sentence=one, label=labels.get(one.text), **given)
                for one in plan.selections[symbol].chosen
            ),
        )
        for symbol in plan.symbols
    }


def override(text, risk="none", severity=0, ticker="AAA", **given):
    label = Label(risk=risk, severity=severity)
    return Override(
        ticker=ticker, text=text, label=label, why="w", who="anna", made_at=NOW, **given
    )


# What counts --------------------------------------------------------------------------------------

WORDS = (FINED, FELL, LEFT, "It may be sued.", "We were in default in May.", "It opened a shop.")
LABELS = st.builds(
    lambda risk, severity: Label(risk=risk, severity=0 if risk == "none" else severity),
    st.sampled_from(DEFAULT.labels),
    st.integers(0, 5),
)
OF_PEOPLE = ["flags", "model_risk", "model_severity", "override_by", "override_at", "override_why"]


@functools.cache
def plan_of_words(form):
    return plan_of(replace(document(" ".join(WORDS)), form=form))


@settings(max_examples=15)
@given(
    said=st.lists(st.none() | LABELS, min_size=6, max_size=6),
    corrected=st.dictionaries(st.sampled_from(WORDS), LABELS, min_size=1),
    form=st.sampled_from([None, "10-K"]),
)
def test_a_correction_counts_as_it_is_and_changes_no_other_sentence(said, corrected, form):
    """The words lower or raise no label of a person, and the others count as they did before."""
    plan = plan_of_words(form)
    model = dict(zip(WORDS, said, strict=True))
    overrides = [override(text, one.risk, one.severity) for text, one in corrected.items()]
    found = findings_of(plan, model)
    before = assemble(plan, found, run_id="r").report.findings.set_index("quote")
    table = assemble(plan, found, run_id="r", overrides=overrides)
    after = table.report.findings.set_index("quote")
    asked = [text for text in corrected if text in after.index]
    for text in asked:
        row, label = after.loc[text], corrected[text]
        assert (row["risk"], row["severity"]) == (label.risk, label.severity)
        counts = None if label.risk == "none" else (label.risk, label.severity)
        assert counts == (None if pd.isna(row["counted"]) else (row["counted_as"], row["counted"]))
        if counts:
            assert table.loc["AAA", f"r_{label.risk}"] >= label.severity
    others = [one.drop(index=asked).drop(columns=OF_PEOPLE) for one in (before, after)]
    pd.testing.assert_frame_equal(*others)
    flags = set(table.loc["AAA", "flags"].split(";"))
    assert ("override" in flags) == bool(asked)


def test_a_correction_needs_no_probability():
    """Neither the threshold of review nor a quarrel of judges stops it, and no flag says so."""
    plan = plan_of(document(NEWS), review_below=0.9)
    said = Label(risk="legal", severity=4)
    found = findings_of(plan, {FINED: said}, p_label=0.3, flags=("judges_disagree", "unstable"))
    table = assemble(plan, found, run_id="r", overrides=[override(FINED, "legal", 3)])
    row = table.report.findings.set_index("quote").loc[FINED]
    assert (row["counted"], row["flags"]) == (3, "override")
    assert pd.isna(row["p_label"])
    assert [row["model_risk"], row["model_severity"]] == ["legal", 4]
    assert [row["override_by"], row["override_why"]] == ["anna", "w"]
    assert row["override_at"] == pd.Timestamp("2024-05-02 09:30")
    assert table.loc["AAA", "r_legal"] == 3
    assert "no_p_label" not in table.loc["AAA", "flags"]


def test_what_judges_said_stays_visible():
    plan = plan_of(document(FINED))
    found = findings_of(plan, {FINED: Label(risk="legal", severity=4)})
    table = assemble(plan, found, run_id="r", model="m", overrides=[override(FINED)])
    assert table.judgements()[["judge", "risk"]].to_numpy().tolist() == [["m", "legal"]]


def test_a_sentence_without_a_label_gets_one():
    """It is missing no more."""
    plan = plan_of(document(NEWS))
    found = findings_of(plan, {FELL: Label(risk="business", severity=2)}, reason="no answer")
    given = [override(FINED, "legal", 3), override(LEFT)]
    table = assemble(plan, found, run_id="r", overrides=given)
    assert table.loc["AAA", "status"] == "ok"
    assert table.report.meta["unjudged"] == []
    assert "no label: no answer" not in table.as_text(200)
    assert "anna labeled it legal 3, where the model gave no label" in table.as_text(300)


def test_it_holds_for_the_words_of_a_ticker():
    """In whatever document they stand, and for no other ticker."""
    plan = plan_of(
        document(f"{FINED} {FELL}", id="D1"),
        document(FINED, id="D2"),
        document(FINED, id="D3", ticker="BBB"),
        symbols=("AAA", "BBB"),
    )
    given = [override(FINED), override("Unknown words."), override(FELL, ticker="BBB")]
    assert select_overrides(given, plan) == (given[0],)
    found = findings_of(plan, dict.fromkeys((FINED, FELL), Label(risk="legal", severity=3)))
    first, second = apply_overrides(found.values(), given, DEFAULT)
    assert {one.sentence.text: one.label.risk for one in first.findings} == {
        FINED: "none",
        FELL: "legal",
    }
    assert second == found["BBB"]


def test_a_category_that_the_run_lacks_is_named_and_changes_nothing():
    plan = plan_of(document(FINED))
    mine = Taxonomy(
        version="mine", categories=(Category(id="weather", name="W", definition="storms"),)
    )
    given = [override(FINED, "legal", 3)]
    found = list(findings_of(plan, {FINED: Label(risk="weather", severity=1)}).values())
    assert apply_overrides(found, given, mine) == found
    (line,) = describe_unfit(given, mine)["AAA"]
    assert "legal 3 by anna does not count" in line
    assert describe_unfit([override(FINED)], mine) == {}


# What is meant ------------------------------------------------------------------------------------


def build(evidence, risk="none", *, plan=None, why="it was paid", **given):
    plan = plan or plan_of(document(NEWS))
    found = list(findings_of(plan, {FINED: Label(risk="legal", severity=4)}, p_label=0.6).values())
    correction = Correction(evidence=evidence, risk=risk, why=why, **given)
    return build_override(found, DEFAULT, correction, who="anna", made_at=NOW, model="m")


@pytest.mark.parametrize(
    "evidence", ["D1.1", FINED, "fined", " was   FINED\nin ", "it was fined in may."]
)
def test_a_sentence_is_named_by_its_id_or_its_words(evidence):
    one = build(evidence, " Legal ", severity=3.0, why="  why ")
    assert one == Override(
        ticker="AAA",
        text=FINED,
        label=Label(risk="legal", severity=3),
        why="why",
        who="anna",
        made_at=NOW,
        model="m",
        model_label=Label(risk="legal", severity=4),
        p_label=0.6,
        source="wire",
        date=document(NEWS).date,
    )


@pytest.mark.parametrize(
    ("given", "seen", "fix"),
    [
        ({"evidence": "in May"}, "3 sentences have the words", "'D1.1'"),
        ({"evidence": "It was fined in Mai"}, "no labeled sentence", "'D1.1'"),
        ({"evidence": "D1.9"}, "no labeled sentence", "'D1.1'"),
        ({"evidence": " "}, "names no sentence", "table.report.findings"),
        ({"evidence": 3}, "evidence=3 names no sentence", "its id"),
        ({"risk": "reputation"}, "'reputation' is no category", "market, credit"),
        ({"risk": None}, "risk=None is no category", "none"),
        ({"risk": "legal"}, "severity=None is not a whole number", "3 (material, managed)"),
        ({"risk": "legal", "severity": 6}, "severity=6", "0 (reduces the risk)"),
        ({"risk": "legal", "severity": 2.5}, "severity=2.5", "0 ("),
        ({"risk": "legal", "severity": True}, "severity=True", "0 ("),
        ({"risk": "none", "severity": 3}, "which has none", "leave out severity="),
        ({"why": " \n"}, "needs a reason", "why="),
        ({"why": None}, "needs a reason", "why="),
        ({"why": "x" * 2001}, "2001 characters", "fewer words"),
        ({"ticker": "AAB"}, "ticker='AAB' has no labeled sentence", "AAA"),
        ({"remove": True}, "a label was given, too", "leave out"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, seen, fix):
    with pytest.raises(InputError) as caught:
        build(**{"evidence": FINED, **given})
    assert seen in caught.value.message
    assert fix in caught.value.fix


def test_the_ticker_is_asked_for_where_several_have_the_sentence():
    plan = plan_of(
        document(FINED, id="D1"), document(FINED, id="D2", ticker="BBB"), symbols=("AAA", "BBB")
    )
    with pytest.raises(InputError, match="2 tickers have this sentence: AAA, BBB"):
        build("fined", plan=plan)
    assert build("fined", plan=plan, ticker="bbb").ticker == "BBB"
    assert build("D2.1", plan=plan).ticker == "BBB"


def test_a_sentence_of_another_ticker_is_named_as_such():
    plan = plan_of(
        document(FINED, id="D1"), document(FELL, id="D2", ticker="BBB"), symbols=("AAA", "BBB")
    )
    with pytest.raises(InputError, match=r"sentence of AAA has .*, but one of BBB has") as caught:
        build("D2.1", plan=plan, ticker="AAA")
    assert caught.value.fix == "say ticker='BBB'"
    assert build("D2.1", plan=plan, ticker="BBB").ticker == "BBB"


@pytest.mark.parametrize("typed", ['the company\'s "debt" - all', "\u2018debt\u2019"])
def test_marks_of_a_keyboard_are_those_of_a_document(typed):
    """Filings have curly quotation marks and long dashes."""
    text = (
        "The company\u2019s \u201cdebt\u201d \u2014 all of it \u2014 rose. \u2019Debt\u2018 it is."
    )
    plan = plan_of(document(text))
    assert build(typed, plan=plan).text.startswith("The" if "all" in typed else "\u2019Debt")


def test_to_take_back_is_a_record_without_a_label():
    assert build(FINED, None, remove=True).label is None
