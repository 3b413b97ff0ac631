"""What is known of a run before a model is asked: the sentences that are chosen, and the record."""

from datetime import date

import pandas as pd
import pytest

from pipeline_driver import document, drive, plan_for
from urisk_nb.errors import InputError
from urisk_nb.readers.prices import read_prices
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import Example, Reply, answer
from urisk_nb.risk.taxonomy import DEFAULT
from urisk_nb.table.risk_table import assemble


def said(risk, severity, **more):
    return Reply(
        text=answer(risk, severity), done_reason="stop", **({"tokens": 10, "seconds": 0.5} | more)
    )


def scripted(**by_purpose):
    """Replies by purpose: a Reply, or a function of the question."""
    return lambda question: (
        by_purpose[question.purpose]
        if isinstance(by_purpose[question.purpose], Reply)
        else by_purpose[question.purpose](question)
    )


def test_shared_documents_serve_all():
    """
    A document without a ticker is judged for each holding, its own beside it, in the order of their
    dates.
    """
    documents = [
        document("Rates rose.", "D1", None, date(2019, 1, 2)),
        document("Acme fell.", "D2", "AAA", date(2019, 1, 1)),
        document("Boro fell.", "D3", "BBB", date(2019, 1, 3)),
    ]
    plan = prepare([Holding(symbol="AAA"), Holding(symbol="BBB")], None, documents, RiskParams.of())
    assert [sentence.id for sentence in plan.selections["AAA"].chosen] == ["D2.1", "D1.1"]
    assert [sentence.id for sentence in plan.selections["BBB"].chosen] == ["D1.1", "D3.1"]


def test_too_many_sentences_are_truncated_and_said():
    """At most `max_sentences` are asked, and the row is flagged."""
    plan = plan_for("One fell. Two was fined. Three rose.", max_sentences=2)
    reading = plan.selections["AAA"]
    assert (len(reading.chosen), reading.sentences, reading.flags) == (2, 3, ("truncated",))


def test_evidence_after_the_prices_end_is_not_read():
    """
    Evidence from after the as-of date, by default the last date of the prices, is left out and
    flagged.
    """
    prices = read_prices(
        pd.DataFrame({"AAA": [1.0, 2.0, 3.0]}, index=pd.date_range("2019-01-01", periods=3))
    )
    documents = [
        document("Old fell.", "D1", day=date(2019, 1, 2)),
        document("New fell.", "D2", day=date(2019, 1, 4)),
    ]
    plan = prepare([Holding(symbol="AAA")], prices, documents, RiskParams.of())
    assert [sentence.id for sentence in plan.selections["AAA"].chosen] == ["D1.1"]
    assert "future_evidence" in plan.selections["AAA"].flags
    # An annual report that is missing is seen only if it is named.
    said = "after 2019-01-03, so not read: D2 (2019-01-04)"
    assert plan.meta["messages"]["AAA"] == said


def test_the_plan_records_what_decides_the_run():
    """Parameters, versions and hashes are in the plan's record, as JSON knows them."""
    meta = plan_for("Acme fell.\nRisk factors", query="x").meta
    assert meta["params"]["query"] == "x"
    assert (meta["score_version"], meta["schema_version"], meta["taxonomy_hash"]) == (
        "score_v1",
        "schema_v1",
        DEFAULT.hash,
    )
    assert meta["skipped"] == {"AAA": 1}


def test_bad_examples_end_the_run_before_it_starts():
    """
    Worked examples with labels that do not exist are an error of the run, not of each sentence.
    """
    with pytest.raises(InputError, match="worked example"):
        prepare(
            [Holding(symbol="AAA")],
            None,
            [],
            RiskParams.of(),
            examples=[Example(text="x", risk="weather", severity=1)],
        )


def shared_plan(**settings):
    documents = [document("Rates rose.", "D1", None), document("Acme fell.", "D2", "AAA")]
    return prepare(
        [Holding(symbol="AAA"), Holding(symbol="BBB")], None, documents, RiskParams.of(**settings)
    )


def test_shared_evidence_is_flagged_on_rows_and_findings():
    """
    A sentence that counts for every company says so: on each row that it counts for, and on its
    finding.
    """
    plan = shared_plan()
    assert {symbol: plan.selections[symbol].flags for symbol in ("AAA", "BBB")} == {
        "AAA": ("shared_evidence",),
        "BBB": ("shared_evidence",),
    }
    labeled, _ = drive(plan, "AAA", scripted(label=said("business", 2)))
    assert [(finding.sentence.quote, finding.flags) for finding in labeled.findings] == [
        ("Acme fell.", ()),
        ("Rates rose.", ("shared_evidence",)),
    ]


def test_a_shared_sentence_that_is_not_asked_flags_nothing():
    """Where the query leaves it out it counts for nobody."""
    plan = shared_plan(query="acme")
    assert plan.selections["AAA"].flags == ()
    assert plan.selections["BBB"].flags == ("off_query",)


def test_a_query_filters_and_says_what_it_left_out():
    """
    Below `max_sentences`, too: only what bears on it is asked, the rest is counted for the record
    and for the reader.
    """
    plan = plan_for("Suppliers stopped. Rates rose. It rained.", query="supply chain")
    assert [sentence.quote for sentence in plan.selections["AAA"].chosen] == ["Suppliers stopped."]
    assert plan.selections["AAA"].flags == ()
    assert plan.meta["query_left_out"] == {"AAA": 2}
    assert plan.meta["messages"] == {"AAA": "the query left out 2 of 3 sentences"}


def test_a_query_that_nothing_bears_on_leaves_the_row_without_evidence():
    """The run goes on; the row says why it has nothing."""
    plan = plan_for("Suppliers stopped. Rates rose.", query="dividends")
    assert plan.asked == ()
    table = assemble(plan, {}, run_id="r")
    assert (table.loc["AAA", "status"], table.loc["AAA", "sentences"]) == ("no_evidence", 2)
    assert "off_query" in table.loc["AAA", "flags"].split(";")
    assert table.report.meta["messages"] == {"AAA": "no sentence bears on the query (2 read)"}


def test_the_limit_holds_among_what_bears_on_the_query():
    """
    `truncated` means that more bears on the query than was asked; what does not bear on it is
    another matter.
    """
    plan = plan_for(
        "Suppliers stopped. Chips are in short supply. Rates rose.", query="supply", max_sentences=1
    )
    reading = plan.selections["AAA"]
    assert (len(reading.chosen), reading.sentences, reading.left_out, reading.flags) == (
        1,
        3,
        1,
        ("truncated",),
    )


def test_a_bad_price_and_a_query_are_both_said():
    """One message a ticker, with all that is to be said of it."""
    prices = read_prices(
        pd.DataFrame({"AAA": [1.0, -1.0, 3.0]}, index=pd.date_range("2019-01-01", periods=3))
    )
    plan = prepare(
        [Holding(symbol="AAA")], prices, [document("Rates rose.")], RiskParams.of(query="dividends")
    )
    message = plan.meta["messages"]["AAA"]
    assert "2019-01-02" in message
    assert message.endswith("; no sentence bears on the query (1 read)")
