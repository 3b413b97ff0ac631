"""What counts, in the table: columns, levels, rules, and the labels to review."""

import re
from datetime import date

import pandas as pd
import pytest

from table_maker import document, table_of
from urisk_nb.risk.inputs import Document, Holding, Section
from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import Label
from urisk_nb.table.risk_table import assemble

SUED = "A class action was filed against us in June 2023."
CLAIMED = "In May 2023 the plaintiffs filed a complaint against our bank for fraud."
DEFAULT = "We were in default under the term loan in June 2023."
MAY = "We may be unable to pay the interest due on our notes."
ROUTINE = tuple(f"We sell paper to the schools of town {number}." for number in range(80))
NEWS = "Boro was fined in June 2023."


def filing(*sentences, ticker="AAA", name="D1", day=date(2024, 2, 1)):
    section = Section(name="Item 7", title="Management's Discussion and Analysis", start=0)
    text = " ".join([*sentences, *ROUTINE])
    return Document(id=name, ticker=ticker, text=text, form="10-K", sections=(section,), date=day)


def score(documents, labels, symbols=("AAA", "BBB"), **settings):
    return table_of(
        documents,
        lambda text: labels.get(text, ("none", 0)),
        symbols=symbols,
        with_prices=False,
        **settings,
    )


@pytest.fixture
def table():
    labels = {
        SUED: ("legal", 3),
        DEFAULT: ("governance", 2),
        MAY: ("credit", 4),
        NEWS: ("legal", 3),
    }
    news = document(NEWS, "N1", "BBB")
    return score([filing(SUED, DEFAULT, MAY), news], labels)


def test_the_version_of_the_score_stands_in_row_and_record(table):
    """Filings by score_v2, news by score_v1; the record says both, and which for whom."""
    assert table["score_version"].to_dict() == {"AAA": "score_v2", "BBB": "score_v1"}
    meta = table.report.meta
    assert meta["score_versions"] == {"AAA": "score_v2", "BBB": "score_v1"}
    assert meta["score_version"] == "score_v1, score_v2"
    assert table.attrs["urisk"]["score_version"] == "score_v1, score_v2"
    only_news = score([document(NEWS)], {}, symbols=("AAA", "CCC"))
    assert only_news.report.meta["score_version"] == "score_v1"
    assert only_news["score_version"].isna().tolist() == [False, True]


def test_each_finding_says_what_it_counts_for(table):
    """Kind and family by the words; severity, category and rule by which it counts."""
    found = table.report.findings.set_index("quote")
    columns = ["kind", "family", "counted_as", "counted", "rule"]
    assert found.loc[SUED, columns].tolist()[:4] == ["event", "suits", "legal", 3]
    assert pd.isna(found.loc[SUED, "rule"])
    rules = "raised as an alert; moved to its family's category"
    assert found.loc[DEFAULT, columns].tolist() == ["event", "default", "credit", 4, rules]
    assert found.loc[MAY, columns].tolist() == [
        *("hypothetical", "default", "credit", 1, "hypothetical, at most 1"),
    ]
    assert found.loc[DEFAULT, ["risk", "severity"]].tolist() == ["governance", 2]
    assert str(found["counted"].dtype) == "Int64"


def test_each_rating_names_its_sentences(table):
    """The worst first, and the rule that made it; a category without a sentence has no row."""
    ratings = table.report.ratings
    assert ratings.astype(object).where(ratings.notna(), None).to_dict("records") == [
        {
            "ticker": "AAA",
            "category": "credit",
            "rating": 3,
            "evidence": "D1.2",
            "rule": "only one sentence, lowered; raised as an alert",
        },
        {
            "ticker": "AAA",
            "category": "legal",
            "rating": 2,
            "evidence": "D1.1",
            "rule": "only one sentence, lowered",
        },
        {"ticker": "BBB", "category": "legal", "rating": 3, "evidence": "N1.1", "rule": None},
    ]
    assert table.loc["AAA", ["r_credit", "r_legal"]].tolist() == [3, 2]
    other = score([document(NEWS, "N2", "CCC")], {NEWS: ("legal", 3)}, symbols=("CCC",))
    assert len(pd.concat([table, other]).report.ratings) == 4
    assert len(pd.DataFrame(score([], {}).report.ratings)) == 0


def test_the_top_risk_s_rule_stands_under_the_table(table):
    """Where a rule capped, raised or lowered it; a filter takes it along."""
    line = "AAA: credit 3 (only one sentence, lowered; raised as an alert)"
    assert table.loc["AAA", "top_rule"] == "only one sentence, lowered; raised as an alert"
    assert pd.isna(table.loc["BBB", "top_rule"])
    assert line in table.as_text(120)
    assert line in table._repr_html_()
    assert "only one" not in table.loc[["BBB"]].as_text(120)


def test_the_worst_sentence_is_the_one_that_counts():
    """A hypothetical of severity 5 is none."""
    labels = {SUED: ("credit", 2), MAY: ("credit", 5)}
    table = score([filing(MAY, SUED)], labels, symbols=("AAA",))
    assert table.loc["AAA", "top_quote"] == SUED
    text = table.as_text(300)
    assert text.index(f"credit       2  {SUED}") < text.index(f"credit       5  {MAY}")
    assert "counts as credit 1: hypothetical, at most 1" in text
    assert "counts as credit 1: hypothetical, at most 1" in table._repr_html_()


def test_low_says_so_where_nothing_was_said():
    """In the view; the column stays Low, and a flag is beside it."""
    labels = {SUED: ("legal", 2), NEWS: ("legal", 1)}
    table = score([filing(SUED), document(NEWS, "N1", "BBB")], labels)
    assert table["level"].tolist() == ["Low", "Low"]
    assert "nothing_decisive" in table.loc["AAA", "flags"]
    shown = "Low (nothing decisive said)"
    assert table.as_text(200).count(shown) == 1
    html = table._repr_html_()
    # The remark may wrap: on one line it takes the room of the sentence beside it.
    assert 'padding:.1em .6em;white-space:nowrap">Low</span> (nothing decisive said)<' in html
    assert shown not in table.loc[["BBB"]].as_text(200)
    assert shown not in table[["level"]].as_text(200)


def test_a_sentence_keeps_a_least_width_beside_long_names_of_files():
    """A browser gives a column without one what the names of files and the warnings leave."""
    html = score([filing(SUED)], {SUED: ("legal", 2)})._repr_html_()
    cells = re.findall(r'<td style="([^"]*)"><bdi>' + re.escape(SUED), html)
    assert len(cells) == 2  # the worst sentence of the row, and the labeled sentence
    assert all("min-width:" in style for style in cells)


def review_table():
    """BBB before AAA; one label of each has a low probability, and judges disagree on one."""
    labels = {SUED: ("legal", 3), CLAIMED: ("legal", 2), DEFAULT: ("credit", 5)}
    plan = prepare(
        [Holding(symbol="BBB"), Holding(symbol="AAA")],
        None,
        [filing(SUED, CLAIMED), filing(DEFAULT, ticker="BBB", name="D2")],
        RiskParams.of(review_below=0.5),
    )
    findings = {
        symbol: TickerFindings(
            symbol=symbol,
            findings=tuple(
                Finding(
                    sentence=one,
                    label=Label(risk=labels[one.text][0], severity=labels[one.text][1]),
                    p_label=0.8 if one.text == CLAIMED else 0.4,
                    p_severity=0.7 if one.text == SUED else 0.3,
                    flags=("judges_disagree",) if one.text == DEFAULT else (),
                )
                for one in plan.selections[symbol].chosen
            ),
        )
        for symbol in plan.symbols
    }
    return assemble(plan, findings, run_id="r1")


def test_review_lists_the_labels_that_do_not_count():
    """With their probability and each reason; in table order; a filter takes them along."""
    table = review_table()
    review = table.review()
    assert list(review.columns) == [
        *("ticker", "quote", "risk", "severity", "p_label", "p_severity", "section", "evidence"),
        "why",
    ]
    assert review["quote"].tolist() == [DEFAULT, SUED]
    assert review["ticker"].tolist() == ["BBB", "AAA"]
    assert review["why"].tolist() == ["low probability; judges disagree", "low probability"]
    assert review["section"].tolist() == ["Item 7"] * 2
    assert (review["p_label"] < 0.5).all()
    assert review["p_severity"].tolist() == [0.3, 0.7]
    assert table["to_review"].to_dict() == {"BBB": 1, "AAA": 1}
    assert table.loc[["AAA"]].review()["quote"].tolist() == [SUED]
    assert (
        "review: Some labels do not count, because of low probability or because judges"
        in table.as_text(200)
    )
    assert "does not count: low probability" in table.as_text(300)
    flags = table.report.findings.set_index("quote")["flags"]
    assert (flags[SUED], flags[CLAIMED]) == ("review", "")


def test_nothing_to_review():
    """An empty frame of the same columns, and no line under the table."""
    table = score([filing(SUED)], {SUED: ("legal", 2)}, symbols=("AAA",))
    assert len(table.review()) == 0
    assert "why" in table.review().columns
    assert table["to_review"].tolist() == [0]
    assert "review" not in table.as_text(200)
