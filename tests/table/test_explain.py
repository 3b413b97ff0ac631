"""Each row is explained from its sentences to its score, and adds up."""

import math
import pickle
import random
import re
from dataclasses import replace
from fractions import Fraction
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_maker import (
    DAYS,
    NEWS,
    RISKS,
    ROUTINE,
    TELLING,
    choose_label,
    filing,
    make_prices,
    make_run,
    note,
)
from table_maker import HOSTILE
from urisk_nb.errors import InputError
from urisk_nb.render.text_layout import display_width
from urisk_nb.risk.ratings import Rule
from urisk_nb.risk.scoring import score
from urisk_nb.risk.taxonomy import DEFAULT
from urisk_nb.table.explain import METRICS, explain_row, find_flags
from urisk_nb.table.explanation import describe_cut
from urisk_nb.table.records import RunRecord
from urisk_nb.table.risk_table import Report

# As docs/filings.md and the README state them
WEIGHTS = tuple(map(Fraction, ("0", "0.05", "0.15", "0.35", "0.60", "0.85")))


def check_sum(explained, score):
    """The factors are 1 - w/d, and multiply to the score: exactly, as printed."""
    steps = 3 if explained.score_version == "score_v2" else 1
    rows = explained.categories
    assert list(rows["rating"]) == sorted(rows["rating"], reverse=True)
    exact = [1 - WEIGHTS[one] / steps**place for place, one in enumerate(rows["rating"])]
    assert rows["factor"].tolist() == pytest.approx([float(one) for one in exact], abs=1e-15)
    assert rows["adds"].sum() == pytest.approx(float(100 * (1 - math.prod(exact))))
    assert explained.adds_up
    if pd.isna(score):
        assert explained.score is None
    else:
        product = round(100 * (1 - math.prod(rows["factor"])), 6)
        assert explained.score == score == product
        assert score == pytest.approx(float(100 * (1 - math.prod(exact))), abs=1e-6)


def check_sentences(explained):
    """The sentences that give a rating are there, with that rating, and none is lost."""
    sentences = explained.sentences
    for category in explained.categories.to_dict("records"):
        own = sentences[sentences["category"] == category["category"]]
        ids = category["evidence"].split(";")
        gives = own[own["gives"] == category["rating"]] if category["rating"] else own
        assert set(ids) <= set(gives["evidence"])
        assert set(own.loc[own["gives"] > 0, "evidence"]) <= set(ids)
        assert (own.loc[own["evidence"].isin(ids), "counted"] >= category["rating"]).all()
    counted = sentences["counted"].notna()
    assert (sentences["gives"].notna() == counted).all()
    assert (
        sentences.loc[~counted, "rule"].notna().sum() + sentences["reason"].notna().sum()
        >= (~counted).sum()
    )


@pytest.fixture(scope="module")
def many():
    """Fifty tickers: filings long and short, news, both, nothing; doubts of every kind."""
    rng = random.Random(3)
    symbols, documents = [], []
    for number in range(50):
        ticker = f"T{number:02}"
        symbols.append(ticker)
        told = rng.sample(TELLING, rng.randrange(1, 12))
        if number % 5 in (0, 1):
            documents.append(filing(ticker, *told))
        if number % 5 == 2:
            documents.append(filing(ticker, *told, length=9))
        if number % 5 in (1, 3):
            documents.append(note(ticker, *rng.sample(NEWS, 3)))
    documents += [
        note("T04", *NEWS[:2]),
        note("T09", NEWS[0]),
        note("T14", "We had tea. It rained."),
    ]
    near = filing("T05", TELLING[12], TELLING[7], length=20)
    again = filing("T05", TELLING[13], name="T05-10K-2", length=20)
    documents = [one for one in documents if one.ticker != "T05"] + [near, again]
    drawn, second = choose_label("one"), choose_label("two")

    def label(ticker, text):
        if ticker == "T04" or (ticker == "T07" and text in TELLING[:3]):
            return None
        near = ("credit", 5) if text == TELLING[7] else ("legal", 3)
        said = {"T02": ("none", 0), "T14": ("none", 0), "T05": near}
        return said.get(ticker) or drawn(ticker, text)

    def other(ticker, text):
        return second(ticker, text) if ticker in ("T10", "T11", "T13") else label(ticker, text)

    def sure(ticker, text):
        return 0.9 if ticker == "T05" else random.Random(ticker + text).uniform(0.3, 1)

    prices = make_prices(*symbols[:45])
    prices.loc[DAYS[:-20], "T00"] = math.nan
    prices.loc[DAYS[3], "T01"] = -1.0
    prices["T02"] = 100.0
    return make_run(
        symbols,
        documents,
        label,
        other=other,
        p=sure,
        is_judge=True,
        prices=prices,
        skip=("T16", "T17"),
        max_sentences=60,
    )


@pytest.fixture(scope="module")
def explained(many):
    """Each row of fifty, explained."""
    return {ticker: many.explain(ticker) for ticker in many.index}


def test_the_run_of_the_test_has_every_case(many):
    """Otherwise the next test would prove less than it says."""
    assert set(many["score_version"].dropna()) == {"score_v1", "score_v2"}
    assert {"ok", "partial", "model_error", "not_run", "no_evidence", "bad_data"} <= set(
        many["status"]
    )
    codes = {code for cell in many["flags"] for code in cell.split(";")}
    assert {"review", "judges_disagree", "unjudged", "thin_filing", "no_risk_found"} <= codes
    rules = {rule for cell in many.report.findings["rule"].dropna() for rule in cell.split("; ")}
    rules |= {rule for cell in many.report.ratings["rule"].dropna() for rule in cell.split("; ")}
    assert rules == {str(rule.value) for rule in Rule}


@pytest.mark.slow
def test_every_row_adds_up(many, explained):
    """From sentence to score, each row of fifty; what it shows says no other score."""
    for ticker, row in explained.items():
        check_sum(row, many.loc[ticker, "score"])
        check_sentences(row)
        assert row.level == many.loc[ticker, "level"]
        assert row.notes
        text = row.as_text(200)
        assert "which is not the score" not in text
        if row.score is not None and len(row.categories):
            assert f"= {row.score:.6f}".rstrip("0").rstrip(".") in text


def test_a_score_that_does_not_follow_is_said(many):
    """The check can fail: a row with another score is not explained away."""
    ticker = many["score"].idxmax()
    many.report.rows.loc[ticker, "score"] += 0.000001
    explained = many.explain(ticker)
    many.report.rows.loc[ticker, "score"] -= 0.000001
    assert not explained.adds_up
    assert "which is not the score of the row" in explained.as_text(200)


@settings(max_examples=30)  # a sum of ten ratings at most, sorted
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=len(DEFAULT.ids)),
    st.sampled_from(["score_v1", "score_v2"]),
    st.randoms(use_true_random=False),
)
def test_any_ratings_add_up(severities, version, rng):
    """The factors of random ratings, in any order, against the score of the same ratings."""
    names = rng.sample(DEFAULT.ids, len(severities))
    given = dict(zip(names, severities, strict=True))
    found = score(given, version=version)
    ratings = pd.DataFrame(
        {
            "ticker": "AAA",
            "category": sorted(names, key=DEFAULT.ids.index),
            "rating": pd.array(
                [
                    dict(zip(names, severities, strict=True))[one]
                    for one in DEFAULT.ids
                    if one in names
                ],
                dtype="Int64",
            ),
            "evidence": "D1.1",
            "rule": None,
        }
    )
    values = {"score": found.score, "level": found.level.value, "score_version": version}
    row = pd.DataFrame({**values, "status": "ok", "judged": 1}, index=["AAA"])
    record = RunRecord(rows=row, findings=Report().findings, ratings=ratings, meta={})
    explained = explain_row([record], row, "AAA")
    check_sum(explained, found.score)
    assert explained.categories["category"][0] == found.top_risk


@settings(max_examples=10)
@given(st.data())
def test_any_documents_and_labels_add_up(data):
    """Whatever the labels, probabilities and documents."""
    told = data.draw(st.lists(st.sampled_from(TELLING), unique=True, max_size=10))
    documents = [filing("AAA", *told, length=data.draw(st.sampled_from([0, 9, 60])))]
    if data.draw(st.booleans()) or not told:
        documents.append(note("AAA", *data.draw(st.permutations(NEWS))))
    if data.draw(st.booleans()):
        documents.pop(0)
    severities = st.tuples(st.sampled_from(RISKS), st.integers(0, 5))
    labels = data.draw(
        st.fixed_dictionaries({text: st.none() | severities for text in (*TELLING, *NEWS)})
    )
    sure = data.draw(st.fixed_dictionaries({text: st.floats(0, 1) for text in (*TELLING, *NEWS)}))

    def label(_, text):
        given = labels.get(text, ("none", 0))
        return ("none", 0) if given and given[0] == "none" else given

    table = make_run(
        ["AAA"],
        documents,
        label,
        p=lambda _, text: sure.get(text, 0.9),
        review_below=data.draw(st.sampled_from([0, 0.5])),
    )
    explained = table.explain("AAA")
    check_sum(explained, table.loc["AAA", "score"])
    check_sentences(explained)


def explain(*documents, symbols=("AAA",), ticker="AAA", **options):
    return make_run(symbols, documents, **options).explain(ticker)


def test_by_hand():
    """Two categories of a filing, worked out from the page of the rules: 35 % and a third of 35."""
    default, missed, sued, again = TELLING[8], TELLING[9], TELLING[12], TELLING[14]
    labels = {
        default: ("credit", 3),
        missed: ("credit", 3),
        sued: ("legal", 3),
        again: ("legal", 3),
    }
    explained = explain(
        filing("AAA", default, missed, sued, again),
        label=lambda _, text: labels.get(text, ("none", 0)),
        p=lambda *_: 0.8,
    )
    rows = explained.categories.set_index("category")
    # Both are alerts of the family of defaults, whose floor is 4; the model agrees on neither
    assert rows["rating"].to_dict() == {"credit": 4, "legal": 3}
    assert rows["discount"].to_dict() == {"credit": 1, "legal": 3}
    assert rows["factor"].tolist() == pytest.approx([0.4, 1 - 0.35 / 3])
    assert explained.score == pytest.approx(100 * (1 - 0.4 * (1 - 0.35 / 3)), abs=1e-6)
    assert (explained.level, describe_cut(explained.level)) == ("High", "from 60 to below 80")
    first = explained.sentences.iloc[0]
    assert (first["severity"], first["counted"], first["gives"]) == (3, 4, 4)
    assert (first["rule"], first["p_label"], first["p_severity"]) == (
        "raised as an alert",
        0.8,
        0.4,
    )
    assert (first["source"], first["section"]) == ("AAA-10K.txt", "Item 7")
    assert first["quote"] == default
    assert (first["start"], first["end"]) == (0, len(default))
    assert "from 60 to below 80" in explained.notes[0]
    assert set(explained.alerts["quote"]) == {default, missed}


def test_rows_without_a_score_say_why():
    thin = explain(filing("AAA", "We sell paper.", length=9), label=lambda *_: ("none", 0))
    assert (thin.level, thin.score, thin.status) == ("NR", None, "ok")
    assert "10 sentences were read: fewer than 60" in thin.notes[0]
    nothing = explain(note("BBB", NEWS[0]), symbols=("AAA", "BBB"))
    assert nothing.notes == ("The evidence has no sentence for this ticker, so there is no score.",)
    error = explain(note("AAA", NEWS[0]), label=lambda *_: None)
    assert "No sentence has a label" in error.notes[0]
    assert error.sentences["reason"].tolist() == ["not JSON"]
    stopped = explain(note("AAA", NEWS[0]), skip=("AAA",))
    assert "ended before this ticker" in stopped.notes[0]
    assert "it was stopped" in stopped.notes[1]
    doubt = explain(note("AAA", NEWS[0]), p=lambda *_: 0.2, review_below=0.5)
    assert "all are to review" in doubt.notes[0]
    assert doubt.sentences["category"].tolist() == ["legal"]
    query = explain(note("AAA", NEWS[0]), query="tea")
    assert "None of 1 sentence was asked" in query.notes[0]
    clean = explain(note("AAA", NEWS[0]), label=lambda *_: ("none", 0))
    assert (clean.score, clean.level) == (0.0, "Low")
    assert "so the score is 0" in clean.notes[1]


def test_alerts_are_explained_without_a_model():
    explained = explain(filing("AAA", TELLING[8]), llm=False)
    assert "No model was asked (--no-llm)" in explained.notes[0]
    assert explained.alerts["quote"].tolist() == [TELLING[8]]
    assert explained.alerts["counted"].isna().all()
    assert TELLING[8] in explained.as_text()
    only_prices = make_run(["AAA"], None, prices=make_prices("AAA")).explain("AAA")
    assert "No evidence was given" in only_prices.notes[0]
    assert "120 prices from 2024-01-01 to 2024-06-14" in only_prices.as_text()


def test_a_metric_without_a_value_has_its_flag(many, explained):
    """And the flag its sentence; the line above says how many prices, and of which period."""
    for ticker in many.index[:45]:
        metrics = explained[ticker].metrics
        missing = metrics[metrics["value"].isna()]
        assert (missing["flags"] != "").all(), (ticker, missing)
        assert (missing["why"] != "").all()
        assert (metrics["n_obs"] == many.loc[ticker, "n_obs"]).all()
    assert "short_history" in many.explain("T00").metrics.set_index("metric").loc["skew", "flags"]


def test_a_ticker_with_a_weight_says_what_it_adds_to_the_portfolio():
    """Weight and parts of the risk are among its metrics, with the flag where they are missing."""
    parts = ["weight", "comp_vol_share", "comp_es", "comp_es_share"]
    prices = make_prices("AAA", "BBB")
    table = make_run(["AAA", "BBB"], None, prices=prices, weights={"AAA": 0.6, "BBB": 0.4})
    shown = table.explain("AAA").metrics.set_index("metric")
    assert shown.loc[parts, "value"].tolist() == table.loc["AAA", parts].tolist()
    assert (shown.loc[parts, "flags"] == "").all()
    lost = make_run(["AAA", "ZZZ"], None, prices=prices, weights={"AAA": 0.6, "ZZZ": 0.4})
    shown = lost.explain("AAA").metrics.set_index("metric")
    assert shown.loc[parts, "flags"].tolist() == ["", *["no_portfolio"] * 3]
    plain = make_run(["AAA"], None, prices=prices).explain("AAA")
    assert not set(parts) & set(plain.metrics["metric"])
    title = "metrics of the prices, weight and part of the portfolio's risk"
    assert title in repr(table.explain("AAA")).splitlines()
    assert "metrics of the prices" in repr(plain).splitlines()


def test_every_metric_of_a_row_is_explained():
    """A new column of the prices must say which flags bear on it."""
    prices = make_prices("AAA", "BBB")
    frame = pd.concat({"Close": prices, "Volume": prices * 10}, axis=1)
    table = make_run(["AAA", "BBB"], None, prices=frame, alpha=[0.05, 0.1], benchmark="BBB")
    names = set(table.explain("AAA").metrics["metric"])
    start, end = (list(table.columns).index(one) for one in ("ret_total", "r_market"))
    assert names == set(table.columns[start:end])
    assert all(any(re.fullmatch(one, name) for name in names) for one in METRICS)
    assert find_flags("score", ["gap"]) is None


def test_a_selection_of_columns_and_rows_is_explained_from_the_report(many):
    whole = many.explain("T06")
    for part in (many[["vol_ann"]], many.head(1), many.reset_index()[["status"]]):
        explained = part.explain(" t06 ")
        assert explained.score == whole.score
        pd.testing.assert_frame_equal(explained.sentences, whole.sentences)


def test_what_is_done_to_the_table_changes_no_explanation(many):
    table = many.copy()
    table.loc["T06", "score"] = 1.0
    assert table.explain("T06").score == many.loc["T06", "score"]


def test_a_report_without_the_rows_of_its_run_is_explained_from_the_table():
    """Of several such runs the column run_id tells whose row it is."""
    tables = []
    for run, told in (("r1", NEWS[0]), ("r2", NEWS[1])):
        made = make_run(["AAA", "BBB"], [note("AAA", told)], run_id=run)
        report = replace(made.report, rows=pd.DataFrame())
        object.__setattr__(made, "_report", report)
        tables.append(made)
    assert tables[0].explain("AAA").score == tables[0].loc["AAA", "score"] == 35.0
    both = pd.concat([tables[0].loc[["AAA"]], tables[1].loc[["BBB"]]])
    assert both.explain("BBB").run_id == "r2"


def test_an_unknown_ticker_names_the_closest():
    table = make_run(["TSLA", "NVDA"], [note("TSLA", NEWS[0])])
    with pytest.raises(InputError, match=r"'TSLB' is not in the table.*\n.*did you mean 'TSLA'"):
        table.explain("TSLB")
    with pytest.raises(InputError, match="use one of its tickers: TSLA, NVDA"):
        table.explain("zzz")
    with pytest.raises(InputError, match="is not a ticker"):
        table.explain(3)
    with pytest.raises(InputError, match="make a table first"):
        type(table)().explain("TSLA")


def test_of_several_runs_it_asks_which():
    """The fix that it prints works; rows of one run need no question."""
    one = make_run(["AAA"], [note("AAA", NEWS[0])], run_id="r1")
    two = make_run(["AAA"], [note("AAA", NEWS[1])], run_id="r2", label=lambda *_: ("legal", 5))
    both = pd.concat([one, two])
    with pytest.raises(InputError, match="AAA is in 2 runs: r1, r2") as caught:
        both.explain("AAA")
    fixed = eval(caught.value.fix.removeprefix("say which run: "), {"table": both})
    assert (fixed.run_id, fixed.score) == ("r2", 85.0)
    assert both.explain("AAA", run="r1").score == 35.0
    assert both[both["run_id"] == "r1"].explain("AAA").score == 35.0
    with pytest.raises(InputError, match="no run 'r3' has AAA"):
        both.explain("AAA", run="r3")
    again = pd.concat([one, make_run(["AAA"], [], run_id="r1")])
    with pytest.raises(InputError, match="before the tables are put together"):
        again.explain("AAA")
    assert pd.concat([one, one.head(1)]).explain("AAA").score == 35.0


@pytest.mark.parametrize("width", [20, 40, 80, 140])
def test_it_is_shown_escaped_and_in_the_width(width):
    table = make_run(["AAA"], [note("AAA", HOSTILE, "Acme was fined.")], prices=make_prices("AAA"))
    explained = table.explain("AAA")
    text = explained.as_text(width)
    assert all(display_width(line) <= width for line in text.splitlines())
    for shown in (text, explained._repr_html_(), repr(explained)):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "U+202E" in shown.replace("\n", "").replace(" ", "")
    html = explained._repr_html_()
    assert "<script>alert" not in html
    assert "tex2jax_ignore" in html
    assert ElementTree.fromstring(html).tag == "div"  # each tag is closed
    with pd.option_context("display.notebook_repr_html", False):
        assert explained._repr_html_() is None


def test_long_rows_are_cut_and_counted():
    texts = [f"Plant {number} of Acme burned down." for number in range(230)]
    explained = explain(note("AAA", *texts), max_sentences=300)
    assert len(explained.sentences) == 230
    assert "200 of 230 rows shown; all of them: .sentences" in explained.as_text()
    assert "200 of 230 rows shown" in explained._repr_html_()


def test_an_explanation_is_pickled_and_the_same_each_time(many):
    one = many.explain("T06")
    back = pickle.loads(pickle.dumps(one))
    assert back.as_text(100) == one.as_text(100) == many.explain("T06").as_text(100)


def test_the_routine_of_a_filing_is_not_listed(many):
    """What is labeled none and meets no rule is counted in a note."""
    assert not many.explain("T00").sentences["quote"].isin(ROUTINE[9:]).any()
