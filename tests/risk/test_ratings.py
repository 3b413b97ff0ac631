"""What labels count for: caps by the words, a second sentence, probabilities; all invented."""

import functools
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import ROOT
from urisk_nb.risk.families import load_families, read_families
from urisk_nb.risk.inputs import Document, Holding, Section
from urisk_nb.risk.judges import DISAGREE
from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.params import JUDGE_REVIEW_BELOW, RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import Label
from urisk_nb.risk.ratings import Rule, rate_ticker

MAY = "We may be in default under the term loan."
FELL = "Sales decreased by 9 % in fiscal 2023."
LOST = "We incurred a net loss of $4 million."
SHORT = "We have a working capital deficit of $4 million."
DENIED = "We were not in default under the term loan."
CURED = "In 2023 we were in default under the lease, and this default was cured."
OLD = "In 2015 we were in default under the term loan."
OTHER = "Norwick Inc. was in default under the term loan in June 2023."
AROUND = "The lenders extended the maturity of our loan in June 2023."
DEFAULT = "We were in default under the term loan in June 2023."
MISSED = "We failed to make the interest payment due on the notes."
DOUBT = "These losses raise substantial doubt about our ability to go on."
FIRE = "In March 2023 we discovered a ransomware event on our servers."
SUED = "A class action was filed against us in June 2023."
SUED_AGAIN = "In May 2023 the plaintiffs filed a complaint against our bank for fraud."
PLAIN = "The chairman left in anger."
ROUTINE = tuple(f"We sell paper to the schools of town {number}." for number in range(80))


def filing(*sentences, name="D1", length=80, ticker="AAA"):
    section = Section(name="Item 7", title="Management's Discussion and Analysis", start=0)
    text = " ".join([*sentences, *ROUTINE[:length]])
    return Document(id=name, ticker=ticker, text=text, form="10-K", sections=(section,))


def note(*sentences, name="N1"):
    return Document(id=name, ticker="AAA", text=" ".join(sentences))


def plan_for(*documents, judge=False, families=None, **settings):
    params = RiskParams.of(**settings)
    plan = prepare([Holding(symbol="AAA")], None, documents, params, families=families)
    return replace(plan, is_judge=judge)


def rate(*documents, labels, p=None, disputed=(), **options):
    """The ratings of documents whose sentences have these labels and probabilities, else none 0."""
    return rate_plan(plan_for(*documents, **options), labels, p, disputed)


def rate_plan(plan, labels, p=None, disputed=()):
    findings = []
    for sentence in plan.selections["AAA"].chosen:
        label = labels.get(sentence.text, ("none", 0))
        findings.append(
            Finding(
                sentence=sentence,
                label=label and Label(risk=label[0], severity=label[1]),
                p_label=(p or {}).get(sentence.text),
                flags=(DISAGREE,) if sentence.text in disputed else (),
            )
        )
    return rate_ticker(plan, TickerFindings(symbol="AAA", findings=tuple(findings)))


def count(text, label, document=filing, **settings):
    """What one sentence counts for: category, severity, rules."""
    rated = rate(document(text), labels={text: label}, **settings)
    (one,) = (one for one in rated.counted if one.passage.sentence.text == text)
    return one.category, one.severity, one.rules


def severities(rated):
    return {one.category: one.severity for one in rated.ratings}


CASES = [
    (MAY, ("credit", 4), "credit", 1, Rule.HYPOTHETICAL),
    (MAY, ("credit", 0), "credit", 0, None),
    (FELL, ("business", 4), "business", 2, Rule.CAP),
    (LOST, ("business", 5), "business", 2, Rule.CAP),
    (SHORT, ("liquidity", 5), "liquidity", 3, Rule.CAP),
    (SHORT, ("liquidity", 2), "liquidity", 2, None),
    (CURED, ("credit", 5), "credit", 1, Rule.RESOLVED),
    (OTHER, ("credit", 5), "credit", 2, Rule.THIRD_PARTY),
    (AROUND, ("credit", 5), "credit", 4, Rule.NOT_CORE),
    (SUED, ("legal", 5), "legal", 3, Rule.CAP),
    (SUED, ("governance", 3), "governance", 2, Rule.OTHER_CATEGORY),
    (SUED, ("governance", 2), "governance", 2, None),
    (DEFAULT, ("credit", 4), "credit", 4, None),
    (DEFAULT, ("credit", 2), "credit", 4, Rule.ALERT),
    (FIRE, ("operational", 1), "operational", 2, Rule.ALERT),
    (FIRE, ("operational", 4), "operational", 4, None),
    (FIRE, ("operational", 5), "operational", 4, Rule.CAP),
]


@pytest.mark.parametrize(("text", "label", "category", "severity", "rule"), CASES)
def test_what_a_sentence_of_a_filing_counts_for(text, label, category, severity, rule):
    """The model's severity, but no more than the words can mean, and no less than they say."""
    assert count(text, label) == (category, severity, (rule,) if rule else ())


def test_old_events_are_capped():
    """Three years before the fiscal year, which the filing names again and again."""
    years = [f"In fiscal 2023 we opened a shop in town {number}." for number in range(9)]
    rated = rate(filing(OLD, *years), labels={OLD: ("credit", 5)})
    assert (rated.counted[0].severity, rated.counted[0].rules) == (2, (Rule.OLD,))


def test_a_sentence_without_words_of_distress():
    """A short filing is asked whole: its prose is worth 2 at most, a denial 1."""
    assert count(PLAIN, ("governance", 5), lambda text: filing(text, length=20)) == (
        "governance",
        2,
        (Rule.NO_FAMILY,),
    )
    assert count(DENIED, ("credit", 5), lambda text: filing(text, length=20)) == (
        "credit",
        1,
        (Rule.ROUTINE,),
    )


@pytest.mark.parametrize("label", [("none", 0), None, ("governance", 5)])
def test_the_family_decides_the_category_of_a_decisive_event(label):
    """Whatever the model calls going concern, and whether or not it answered at all."""
    category, severity, rules = count(DOUBT, label)
    assert category == "liquidity"
    assert severity == (5 if label and label[1] else 4)
    assert rules == ((Rule.CATEGORY,) if label and label[1] else (Rule.ALERT,))
    # Words around it vouch for nothing in another category
    assert count(AROUND, ("liquidity", 3)) == ("liquidity", 2, (Rule.OTHER_CATEGORY,))


def test_a_family_s_category_that_the_table_lacks_moves_nothing():
    text = "[ferry]\ncategory='sea'\ndecisive=true\ncore=['ferry sank']"
    families = read_families(text, "mine.toml", base=load_families())
    sank = "The ferry sank in June 2023."
    assert count(sank, ("operational", 2), families=families) == ("operational", 2, ())


def test_a_family_s_floor_is_its_own():
    """What the words vouch for; no more than the cap."""
    text = "[ferry]\ncategory='operational'\ndecisive=true\ncore=['ferry sank']\ncap={}\n{}"
    for cap, floor, severity in ((5, "", 4), (3, "", 3), (5, "floor=2", 2)):
        families = read_families(text.format(cap, floor), "mine.toml")
        assert count("Our ferry sank in June 2023.", ("none", 0), families=families)[1] == severity


def test_news_is_capped_only_where_it_is_hypothetical():
    """score_v1: no family, no alert and no second sentence decides."""
    for text, label, expected in (
        (MAY, ("credit", 4), ("credit", 1, (Rule.HYPOTHETICAL,))),
        (FELL, ("business", 4), ("business", 4, ())),
        (DEFAULT, ("credit", 2), ("credit", 2, ())),
        (DOUBT, ("governance", 5), ("governance", 5, ())),
        (PLAIN, ("governance", 4), ("governance", 4, ())),
        ("It stopped work, which could cost a billion.", ("market", 4), ("market", 4, ())),
    ):
        assert count(text, label, note) == expected
    rated = rate(note(FELL), labels={FELL: ("business", 4)})
    assert (rated.version, rated.score.score) == ("score_v1", 60.0)


# Categories ---------------------------------------------------------------------------------------


def test_three_and_more_need_two_sentences():
    """One alone gives 2; of two the lower counts; a near-duplicate is no second one."""
    once = rate(filing(SUED), labels={SUED: ("legal", 3)})
    assert severities(once) == {"legal": 2}
    assert once.ratings[0].rules == (Rule.ALONE,)
    twice = rate(filing(SUED, SUED_AGAIN), labels={SUED: ("legal", 3), SUED_AGAIN: ("legal", 3)})
    assert severities(twice) == {"legal": 3}
    assert (twice.ratings[0].findings, twice.ratings[0].rules) == ((0, 1), ())
    both = {AROUND: ("credit", 4), MISSED: ("credit", 5)}
    assert severities(rate(filing(AROUND, MISSED), labels=both)) == {"credit": 4}


def test_a_near_duplicate_is_no_second_sentence():
    """Two documents that say the same confirm nothing; the second one does not count."""
    again = "In June 2023 a class action was filed against us."
    documents = [filing(SUED, length=20), filing(again, name="D2", length=20)]
    rated = rate(*documents, labels={SUED: ("legal", 3), again: ("legal", 3)}, max_sentences=60)
    assert severities(rated) == {"legal": 2}
    (merged,) = (one for one in rated.counted if Rule.NEAR_DUPLICATE in one.rules)
    assert (merged.severity, merged.category) == (None, None)


def test_a_near_duplicate_that_needs_no_second_sentence_counts():
    """At 2 it bears nothing out, so it does not matter how often it is said."""
    again = "In June 2023 a class action was filed against us."
    documents = [filing(SUED, length=20), filing(again, name="D2", length=20)]
    rated = rate(*documents, labels={SUED: ("legal", 2), again: ("legal", 2)}, max_sentences=60)
    assert [one.severity for one in rated.counted if one.category] == [2, 2]
    assert not any(Rule.NEAR_DUPLICATE in one.rules for one in rated.counted)


def test_of_near_duplicates_the_one_that_stands_alone_counts():
    """A shared document comes first and vouches for no company; the company's own does."""
    documents = [
        filing(DEFAULT, length=20, ticker=None, name="A1"),
        filing(DEFAULT, length=20, name="Z1"),
    ]
    rated = rate(*documents, labels={DEFAULT: ("credit", 4)}, max_sentences=60)
    shared, own = (one for one in rated.counted if one.passage.sentence.text == DEFAULT)
    assert [one.passage.sentence.document.ticker for one in (shared, own)] == [None, "AAA"]
    assert (shared.category, shared.rules) == (None, (Rule.NEAR_DUPLICATE,))
    assert (own.severity, severities(rated)) == (4, {"credit": 4})


def test_the_worst_sentence_of_a_rating_comes_first():
    """Then the others that give it, as they stand."""
    labels = {SUED: ("legal", 2), SUED_AGAIN: ("legal", 3)}
    rated = rate(filing(SUED, SUED_AGAIN), labels=labels)
    assert severities(rated) == {"legal": 2}
    assert rated.ratings[0].findings == (1, 0)


def test_an_alert_alone():
    """4 where the model agrees, a step down where it does not; two of them need no model."""
    for label, severity in ((("credit", 4), 4), (("credit", 5), 4), (("none", 0), 3), (None, 3)):
        rated = rate(filing(DEFAULT), labels={DEFAULT: label})
        assert severities(rated) == {"credit": severity}
    two = rate(filing(DEFAULT, MISSED), labels={DEFAULT: ("none", 0), MISSED: ("none", 0)})
    assert severities(two) == {"credit": 4}
    assert two.ratings[0].rules == (Rule.ALERT,)
    five = {DEFAULT: ("credit", 5), MISSED: ("credit", 5)}
    assert severities(rate(filing(DEFAULT, MISSED), labels=five)) == {"credit": 5}


def test_a_shared_document_vouches_for_no_company():
    """Its default may be anybody's."""
    rated = rate(filing(DEFAULT, ticker=None), labels={DEFAULT: ("credit", 3)})
    assert severities(rated) == {"credit": 2}
    # Its family decides the category all the same, and caps nothing for it
    shared = count(DEFAULT, ("legal", 4), lambda text: filing(text, ticker=None))
    assert shared == ("credit", 4, (Rule.CATEGORY,))


def test_filings_and_news_together():
    """By score_v2; a piece of news needs no second sentence, and is one for a filing's sentence."""
    labels = {SUED: ("legal", 3), SUED_AGAIN: ("legal", 4)}
    rated = rate(filing(SUED), note(SUED_AGAIN), labels=labels)
    assert (rated.version, severities(rated)) == ("score_v2", {"legal": 4})
    weaker = rate(filing(SUED), note(SUED_AGAIN), labels={**labels, SUED_AGAIN: ("legal", 3)})
    assert (severities(weaker), weaker.ratings[0].rules) == ({"legal": 3}, ())


TEXTS = (MAY, FELL, SHORT, AROUND, DEFAULT, MISSED, DOUBT, SUED, SUED_AGAIN, CURED)
LABELS = st.fixed_dictionaries(
    {text: st.tuples(st.sampled_from(("legal", "credit")), st.integers(0, 5)) for text in TEXTS}
)


@functools.cache
def plan_of_texts():
    return plan_for(filing(*TEXTS))


@settings(max_examples=40)
@given(LABELS, st.sampled_from(TEXTS))
def test_a_higher_label_never_lowers_a_rating(labels, text):
    """Nor does one more sentence."""
    risk, severity = labels[text]
    rated = severities(rate_plan(plan_of_texts(), labels))
    more = {**labels, text: (risk, min(severity + 1, 5))}
    higher = severities(rate_plan(plan_of_texts(), more))
    fewer = severities(rate_plan(plan_of_texts(), {**labels, text: ("none", 0)}))
    for category, before in rated.items():
        assert higher[category] >= before
        assert fewer.get(category, 0) <= before


# Probabilities ------------------------------------------------------------------------------------


def test_an_unsure_label_does_not_count():
    """Below the threshold, not at it; without a threshold, or a probability, each counts."""
    labels = {SUED: ("legal", 3), SUED_AGAIN: ("legal", 3)}
    p = {SUED: 0.49, SUED_AGAIN: 0.5}
    rated = rate(filing(SUED, SUED_AGAIN), labels=labels, p=p, review_below=0.5)
    assert severities(rated) == {"legal": 2}
    assert rated.counted[0].rules == (Rule.LOW_PROBABILITY,)
    assert (rated.counted[0].severity, rated.to_review) == (None, 1)
    assert "review" in rated.flags
    for options in ({}, {"review_below": 0}):
        free = rate(filing(SUED, SUED_AGAIN), labels=labels, p=p, **options)
        assert (severities(free), free.to_review) == ({"legal": 3}, 0)
        assert "review" not in free.flags
    unknown = rate(filing(SUED, SUED_AGAIN), labels=labels, review_below=0.5)
    assert severities(unknown) == {"legal": 3}
    assert "no_p_label" in unknown.flags
    assert "no_p_label" not in rated.flags


def test_the_judge_brings_its_own_threshold():
    """Where urisk-judge labels and nothing was given."""
    labels, p = {SUED: ("legal", 2)}, {SUED: JUDGE_REVIEW_BELOW - 0.01}
    assert rate(filing(SUED), labels=labels, p=p, judge=True).to_review == 1
    assert rate(filing(SUED), labels=labels, p=p, judge=True, review_below=0).to_review == 0
    assert rate(filing(SUED), labels=labels, p=p).to_review == 0


def test_an_alert_counts_whatever_the_probability_is():
    """As its words say, and not as the model does; the label is listed all the same."""
    rated = rate(
        filing(DEFAULT, MISSED),
        labels={DEFAULT: ("credit", 5), MISSED: ("credit", 5)},
        p={DEFAULT: 0.2, MISSED: 0.9},
        review_below=0.5,
    )
    assert severities(rated) == {"credit": 4}
    assert [one.severity for one in rated.counted] == [4, 5]
    assert rated.counted[0].rules == (Rule.ALERT, Rule.LOW_PROBABILITY)
    assert rated.to_review == 1


def test_an_alert_in_dispute_keeps_its_floor():
    """As its words say; what the judges say of it, more or less, counts for nothing."""
    for label in (("credit", 5), ("credit", 0), ("legal", 5), ("none", 0)):
        rated = rate(filing(DEFAULT), labels={DEFAULT: label}, disputed=[DEFAULT])
        (one,) = (one for one in rated.counted if one.passage.sentence.text == DEFAULT)
        assert (one.category, one.severity) == ("credit", 4)
        assert one.rules == (Rule.ALERT, Rule.DISAGREE)
        assert severities(rated) == {"credit": 3}, "alone, and no judge vouches for it"
        assert (rated.to_review, rated.score.score) == (1, 35.0)
    both = rate(
        filing(DEFAULT, MISSED),
        labels={DEFAULT: ("credit", 5), MISSED: ("credit", 5)},
        disputed=[DEFAULT, MISSED],
    )
    assert (severities(both), both.to_review) == ({"credit": 4}, 2)
    unsure = rate(
        filing(DEFAULT),
        labels={DEFAULT: ("credit", 5)},
        p={DEFAULT: 0.2},
        review_below=0.5,
        disputed=[DEFAULT],
    )
    assert unsure.counted[0].rules == (Rule.ALERT, Rule.LOW_PROBABILITY, Rule.DISAGREE)
    assert unsure.to_review == 1


def test_what_is_no_alert_and_in_dispute_does_not_count():
    """Of a filing as of news."""
    for document in (filing, note):
        rated = rate(
            document(SUED, SUED_AGAIN),
            labels={SUED: ("legal", 3), SUED_AGAIN: ("legal", 2)},
            disputed=[SUED],
        )
        assert severities(rated) == {"legal": 2}
        assert (rated.counted[0].category, rated.counted[0].rules) == (None, (Rule.DISAGREE,))


def test_where_no_label_counts_there_is_no_score():
    """An unsure `none` does not say that there is no risk."""
    for label in (("legal", 4), ("none", 0)):
        rated = rate(filing(SUED), labels={SUED: label}, p={SUED: 0.1}, review_below=0.5)
        assert (rated.score.score, rated.score.level, rated.to_review) == (None, "NR", 1)
    sure = rate(filing(SUED), labels={}, p={SUED: 0.9}, review_below=0.5)
    assert (sure.score.score, sure.score.level) == (0.0, "Low")


def test_every_rule_is_documented():
    """A closed set: the table of docs/filings.md has each rule, and no other."""
    text = (ROOT / "docs/filings.md").read_text(encoding="utf-8")
    table = text.partition("| rule | what it did |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([^`]*)` \|", table, re.MULTILINE) == [*map(str, Rule)]


def test_the_judge_s_threshold_is_documented():
    text = (ROOT / "docs/filings.md").read_text(encoding="utf-8")
    assert f"`urisk-judge` ({JUDGE_REVIEW_BELOW})" in text


# Levels -------------------------------------------------------------------------------------------


def test_low_says_so_where_an_alert_counts_for_little():
    """In news an alert has no floor; a filing has. A person who has read it settles it."""
    doubt = "There is substantial doubt about our ability to continue as a going concern."
    news = rate(note(doubt), labels={doubt: ("liquidity", 1)})
    assert (news.score.level, news.flags) == ("Low", ("low_alert",))
    assert "low_alert" not in rate(note(doubt), labels={doubt: ("liquidity", 4)}).flags
    assert "low_alert" not in rate(filing(doubt), labels={doubt: ("liquidity", 1)}).flags
    assert "low_alert" not in rate(note(FELL), labels={FELL: ("business", 1)}).flags


def test_low_says_so_where_nothing_was_said():
    """Of a filing with few events and no decisive one; of news it is not known."""
    few = rate(filing(SUED), labels={SUED: ("legal", 2)})
    assert (few.score.level, few.flags) == ("Low", ("nothing_decisive",))
    asked = "We received a subpoena from the Department of Justice."
    labels = {
        **dict.fromkeys((SUED, SUED_AGAIN, asked), ("legal", 2)),
        **dict.fromkeys((FELL, LOST), ("business", 2)),
    }
    many = rate(filing(*labels), labels=labels)
    assert (many.score.level, many.flags) == ("Low", ())
    four = rate(filing(*labels), labels={**labels, LOST: ("business", 1)})
    assert (four.score.level, four.flags) == ("Low", ("nothing_decisive",))
    assert "nothing_decisive" not in rate(note(FELL), labels={FELL: ("business", 2)}).flags
    told = rate(filing(FIRE), labels={FIRE: ("operational", 2)})
    assert (told.score.level, told.flags) == ("Low", ())


def test_a_short_filing_is_never_low():
    """Sixty sentences say enough; fewer do only where they say something bad."""
    for length, level in ((58, "NR"), (59, "Low")):
        rated = rate(filing(SUED, length=length), labels={SUED: ("legal", 2)}, max_sentences=90)
        assert rated.score.level == level
        assert (rated.score.score is None) == (level == "NR")
        assert ("thin_filing" in rated.flags) == (level == "NR")
        assert severities(rated) == {"legal": 2}
    bad = rate(filing(DEFAULT, length=5), labels={DEFAULT: ("credit", 4)})
    assert (bad.score.level, bad.flags) == ("High", ())
    with_news = [note(*ROUTINE[:60]), filing(SUED, length=5)]
    assert rate(*with_news, labels={SUED: ("legal", 2)}, max_sentences=90).score.level == "Low"
