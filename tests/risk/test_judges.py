"""Several judges of the same sentences: where they agree and disagree, kappa; all invented."""

import pandas as pd
import pytest

from pipeline_driver import drive
from table_maker import document
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.judges import compare_judges, describe_kappas, unite_judges
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import Reply, answer
from urisk_nb.table.risk_table import assemble

JUDGES = ("first", "second", "third")
FINED, SUED, SHUT = "It was fined.", "It was sued.", "The mine was shut."


def united(*said, texts=(FINED, SUED, SHUT), symbols=("AAA",)):
    """
    The plan, and the findings of as many judges as there are mappings of text to label; None is no
    valid answer, and what is not in it is none.
    """
    documents = [
        document(text, id=f"D{number}", ticker=symbol)
        for symbol in symbols
        for number, text in enumerate(texts)
    ]
    holdings = [Holding(symbol=symbol) for symbol in symbols]
    plan = prepare(holdings, None, documents, RiskParams())

    def label(labels, symbol):
        def reply(question):
            one = labels.get(question.sentence.text, ("none", 0))
            text = answer(*one) if one else "?"
            return Reply(text=text, done_reason="stop", tokens=10, seconds=0.5)

        return drive(plan, symbol, reply)[0]

    found = [{symbol: label(labels, symbol) for symbol in symbols} for labels in said]
    others = dict(zip(JUDGES[1:], found[1:], strict=False))
    return plan, unite_judges(found[0], others)


def table_of(*said, **rest):
    plan, findings = united(*said, **rest)
    judges = [{"model": name} for name in JUDGES[: len(said)]]
    return assemble(plan, findings, run_id="r1", model=JUDGES[0], judges=judges)


def finding_of(*labels):
    """The finding of one sentence with these labels, the first judge's first."""
    _, found = united(*({FINED: label} for label in labels), texts=(FINED,))
    return found["AAA"].findings[0]


@pytest.mark.parametrize(
    ("other", "agreement"),
    [
        (("legal", 2), 1),
        (("legal", 1), 1),
        (("legal", 3), 1),
        (("legal", 0), 0),
        (("legal", 4), 0),
        (("business", 2), 0),
        (("none", 0), 0),
    ],
)
def test_two_judges_agree_on_the_risk_with_severities_one_apart(other, agreement):
    """Another risk, or severities two or more apart, is a disagreement."""
    found = finding_of(("legal", 2), other)
    assert found.agreement == agreement
    assert ("judges_disagree" in found.flags) == (agreement == 0)
    assert (found.label.risk, found.label.severity) == ("legal", 2), "the first one's label counts"


def test_two_who_see_no_risk_agree():
    """Whatever severity they say with it."""
    assert finding_of(("none", 0), ("none", 5)).agreement == 1


def test_the_agreement_is_a_share_of_the_others():
    """Of two, one names another risk: one half, and they disagree."""
    found = finding_of(("legal", 2), ("legal", 3), ("market", 2))
    assert (found.agreement, found.flags) == (0.5, ("judges_disagree",))
    assert [model for model, _ in found.opinions] == ["second", "third"]


def test_a_judge_without_a_valid_answer_has_no_opinion():
    """It is left out of the share, and said; alone it leaves none."""
    found = finding_of(("legal", 2), None, ("legal", 2))
    assert (found.agreement, found.flags) == (1.0, ("no_opinion",))
    found = finding_of(("legal", 2), None)
    assert (found.agreement, found.flags) == (None, ("no_opinion",))


def test_judges_do_not_disagree_on_what_the_first_one_does_not_label():
    """It stays without a label, whatever the others say."""
    found = finding_of(None, ("legal", 2))
    assert (found.label, found.agreement, found.flags) == (None, None, ())


def test_one_judge_is_as_before():
    """No agreement, no flag, no kappa."""
    table = table_of({FINED: ("legal", 4)})
    assert table["agreement"].isna().all()
    assert table.report.findings["agreement"].isna().all()
    assert table.report.meta["kappa"] == []
    assert table.loc["AAA", "r_legal"] == 4


def test_a_label_on_which_judges_disagree_does_not_count():
    """The rest does. Where they disagree on all there is no rating, as if nothing were judged."""
    first = {FINED: ("legal", 4), SUED: ("legal", 2), SHUT: ("operational", 3)}
    table = table_of(first, {FINED: ("market", 4), SUED: ("legal", 2), SHUT: ("operational", 1)})
    assert table.loc["AAA", ["r_legal", "judged", "findings"]].tolist() == [2, 3, 3]
    assert table["r_operational"].isna().all()
    assert table.loc["AAA", "score"] == 15.0  # severity 2 alone
    assert table.loc["AAA", "top_quote"] == SUED
    assert table.loc["AAA", "agreement"] == pytest.approx(1 / 3)
    assert "judges_disagree" in table.loc["AAA", "flags"].split(";")
    assert table.loc["AAA", "status"] == "ok"
    review = table.review()
    assert review["quote"].tolist() == [FINED, SHUT]
    assert review["why"].tolist() == ["judges disagree"] * 2
    none = table_of({FINED: ("legal", 4)}, {FINED: ("market", 4)}, texts=(FINED,))
    assert none.loc["AAA", ["level", "judged"]].tolist() == ["NR", 1]


def test_a_label_on_which_judges_disagree_is_to_review():
    """It is counted, flagged and listed with the reason; the others are not."""
    table = table_of({FINED: ("legal", 4), SUED: ("legal", 2)}, {SUED: ("legal", 3)})
    assert table.review()[["quote", "why"]].to_numpy().tolist() == [[FINED, "judges disagree"]]
    assert table.loc["AAA", "to_review"] == 1
    assert "review" in table.loc["AAA", "flags"].split(";")


def test_the_row_counts_what_all_judges_cost():
    """Three sentences, two judges; a second look at each severe label."""
    table = table_of({FINED: ("legal", 4)}, {})
    assert table.loc["AAA", ["tokens", "attempts", "latency_s"]].tolist() == [70, 7, 3.5]


def test_the_judgements_are_one_row_a_sentence_and_judge():
    """In order, the first judge first, with the reason where there is no label."""
    table = table_of({FINED: ("legal", 2)}, {FINED: None}, texts=(FINED, SUED))
    found = table.judgements()
    assert list(found.columns) == [
        *("ticker", "evidence", "judge", "risk", "severity", "p_label", "reason")
    ]
    assert found["judge"].tolist() == ["first", "second"] * 2
    assert found["evidence"].tolist() == ["D0.1", "D0.1", "D1.1", "D1.1"]
    assert found["risk"].fillna("-").tolist() == ["legal", "-", "none", "none"]
    assert found["severity"].fillna(-1).tolist() == [2, -1, 0, 0]
    assert "JSON" in found["reason"][1]
    assert str(found["severity"].dtype) == "Int64"
    wide = found.pivot(index="evidence", columns="judge", values="risk")
    assert wide.loc["D1.1"].tolist() == ["none", "none"]


def test_the_judgements_are_of_the_tickers_in_the_table():
    """Also of several tables put together."""
    table = table_of({}, {}, symbols=("AAA", "BBB"), texts=(FINED,))
    assert table.loc[["BBB"]].judgements()["ticker"].tolist() == ["BBB", "BBB"]
    other = table_of({}, {}, symbols=("CCC",), texts=(FINED,))
    both = pd.concat([table, other])
    assert both.judgements()["ticker"].unique().tolist() == ["AAA", "BBB", "CCC"]


# Kappa --------------------------------------------------------------------------------------------


def kappa_of(pairs, symbols=("AAA",)):
    """The comparison of two judges who label sentences so: (one, other, how many)."""
    both = [(one, other) for one, other, count in pairs for _ in range(count)]
    texts = [f"The company opened shop {number} of the year." for number in range(len(both))]
    firsts = {text: (one, 1) for text, (one, _) in zip(texts, both, strict=True)}
    seconds = {text: (other, 1) for text, (_, other) in zip(texts, both, strict=True)}
    _, found = united(firsts, seconds, texts=texts, symbols=symbols)
    (compared,) = compare_judges(found.values(), JUDGES[:2])
    return compared


def test_kappa_is_cohens():
    """
    Two readers of 50 proposals, 20 both yes, 15 both no, 5 and 10 apart: 0.4, the example of the
    textbooks (observed 0.7, by chance 0.5). Forty of them here, since a run asks about so many:
    16, 12, 4 and 8 are the same shares.
    """
    pairs = [("legal", "legal", 16), ("legal", "none", 4), ("none", "legal", 8)]
    compared = kappa_of([*pairs, ("none", "none", 12)])
    assert compared["judges"] == ["first", "second"]
    assert (compared["n"], compared["same"]) == (40, 28)
    assert compared["kappa"] == pytest.approx(0.4)
    assert describe_kappas([compared]) == [
        "first and second: the same risk in 28 of 40 sentences (kappa 0.40)"
    ]


def test_kappa_of_three_categories():
    """By hand: observed 4/6; by chance (2*3 + 2*2 + 2*1)/36 = 12/36; so (24 - 12)/(36 - 12)."""
    pairs = [("legal", "legal", 2), ("market", "market", 1), ("market", "legal", 1)]
    compared = kappa_of([*pairs, ("none", "none", 1), ("none", "market", 1)])
    assert compared["kappa"] == pytest.approx(0.5)


def test_opposites_are_below_chance():
    """Kappa -1: each says what the other does not."""
    assert kappa_of([("legal", "none", 5), ("none", "legal", 5)])["kappa"] == pytest.approx(-1)


def test_one_label_for_all_has_no_kappa():
    """Chance explains all of it; that is said without a figure."""
    compared = kappa_of([("none", "none", 4)])
    assert (compared["n"], compared["same"], compared["kappa"]) == (4, 4, None)
    assert describe_kappas([compared]) == ["first and second: the same risk in 4 of 4 sentences"]


def test_a_sentence_of_two_tickers_counts_once():
    """It was asked once."""
    pairs = [("legal", "legal", 2), ("none", "legal", 2)]
    assert kappa_of(pairs, symbols=("AAA", "BBB")) == kappa_of(pairs)


def test_three_judges_make_three_pairs():
    """Each with the sentences that both labeled."""
    _, found = united({}, {FINED: None}, {})
    pairs = compare_judges(found.values(), JUDGES)
    assert [(one["judges"], one["n"]) for one in pairs] == [
        (["first", "second"], 2),
        (["first", "third"], 3),
        (["second", "third"], 2),
    ]


def test_a_judge_that_has_not_come_to_a_ticker_has_no_opinion_of_it():
    """As after an interrupt: what was labeled stands, and nothing is said of the rest."""
    _, found = united({FINED: ("legal", 2)}, symbols=("AAA", "BBB"), texts=(FINED,))
    _, other = united({FINED: ("legal", 2)}, texts=(FINED,))
    both = unite_judges(found, {"second": other})
    assert both["AAA"].findings[0].agreement == 1
    assert both["BBB"] is found["BBB"]
    (compared,) = compare_judges(both.values(), JUDGES[:2])
    assert compared["n"] == 1
    assert compare_judges(found.values(), JUDGES[:2])[0]["n"] == 0
