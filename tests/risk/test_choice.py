"""Which sentences of much evidence are asked, what is counted of the others, and alerts."""

from datetime import date

import pytest

from urisk_nb.risk.choice import MAX_ASKED, choose_passages, find_alerts
from urisk_nb.risk.evidence import Sentence, split
from urisk_nb.risk.families import load_families, read_families
from urisk_nb.risk.inputs import Document, Holding, Section
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.passages import Passage, read_passages
from urisk_nb.risk.plan import prepare

PLACES = ("Oslo", "Lima", "Bonn", "Nice", "Cork", "Kiel", "Bern", "Rome", "Graz", "Pisa")
THINGS = ("paper", "glass", "steel", "wool", "cocoa", "cement", "copper", "timber", "grain", "salt")
ROUTINE = tuple(f"We sell {thing} to schools in {place}." for thing in THINGS for place in PLACES)
DEFAULT = "We were in default under the term loan in June 2023."
DOUBT = "These losses raise substantial doubt about our ability to go on."


def filing(*sentences, ticker="AAA", name="D1"):
    section = Section(name="Item 7", title="Management's Discussion and Analysis", start=0)
    text = " ".join(sentences)
    return Document(id=name, ticker=ticker, text=text, form="10-K", sections=(section,))


def note(text, name="N1", ticker="AAA", day=date(2023, 1, 2)):
    return Document(id=name, ticker=ticker, text=text, date=day)


def select(*documents, families=None, **settings):
    plan = prepare(
        [Holding(symbol="AAA")], None, documents, RiskParams.of(**settings), families=families
    )
    return plan.selections["AAA"], plan


def texts(selection):
    return [sentence.text for sentence in selection.chosen]


def test_a_long_filing_is_asked_only_where_it_says_something():
    """In document order; what is left is counted by kind and part, in the record and in a note."""
    may = "Prices may fall, and we might be in default then."
    selection, plan = select(filing(*ROUTINE[:50], DEFAULT, *ROUTINE[50:], DOUBT, may))
    assert texts(selection) == [DEFAULT, DOUBT, may]
    assert plan.meta["not_asked"]["AAA"] == {
        "read": 103,
        "asked": 3,
        "kinds": {"routine": 100},
        "sections": {"mdna": 100},
    }
    said = "103 sentences read, 3 chosen; not chosen: 100 routine"
    assert plan.meta["messages"] == {"AAA": said}
    assert "truncated" not in selection.flags  # a higher limit would choose no more


def test_short_evidence_is_asked_whole():
    """Also a filing of a few sentences, whatever they say."""
    selection, plan = select(filing(*ROUTINE[:20]))
    assert len(selection.chosen) == 20
    assert (plan.meta["not_asked"], plan.meta["messages"]) == ({}, {})


def test_what_is_new_is_asked_before_what_was_said_last_year():
    """Of like weight; without a former year the one with a date is more telling."""
    missed = "We failed to make the interest payment due on the notes."
    now, before = filing(*ROUTINE, DEFAULT, missed), filing(*ROUTINE, DEFAULT, name="P1")
    assert texts(select(now, max_sentences=1)[0]) == [DEFAULT]
    plan = prepare(
        [Holding(symbol="AAA")], None, [now], RiskParams.of(max_sentences=1), previous=[before]
    )
    assert texts(plan.selections["AAA"]) == [missed]


def test_the_limit_is_the_user_s():
    """The most telling first, sixty at most."""
    selection, _ = select(filing(*ROUTINE, DEFAULT, DOUBT), max_sentences=1)
    assert texts(selection) == [DOUBT]
    assert "truncated" in selection.flags
    unasked, _ = select(filing(*ROUTINE, DEFAULT, DOUBT), max_sentences=1, llm=False)
    assert "truncated" not in unasked.flags
    many = [f"In 2023 we were in default on our loan for {one[8:]}" for one in ROUTINE]
    passages = read_passages(split(filing(*many)).sentences, load_families())
    assert len(choose_passages(passages)) <= MAX_ASKED


def test_what_is_said_twice_is_asked_once():
    """Two thirds of the words shared are the same statement."""
    again = "In June 2023 we were in default under the term loan, as said."
    selection, _ = select(filing(*ROUTINE, DEFAULT, again))
    assert len(selection.chosen) == 1


def test_the_query_filters_first():
    """What does not bear on it is not asked, and an alert stays an alert."""
    selection, _ = select(filing(*ROUTINE, DEFAULT, DOUBT), query="loan", max_sentences=40)
    assert texts(selection) == [DEFAULT]
    assert [one.sentence.text for one in selection.alerts] == [DOUBT, DEFAULT]
    assert "left out 101 of 102 sentences" in selection.message


def test_notes_beside_a_filing_are_asked_whole():
    """Few notes need no choice; many fill what the filing leaves, their events first."""
    selection, _ = select(filing(*ROUTINE, DEFAULT), note("Acme opened a shop. It sells tea."))
    assert texts(selection) == [DEFAULT, "Acme opened a shop.", "It sells tea."]
    news = note(" ".join(ROUTINE) + " In June 2023 the company was fined 3 million dollars.")
    selection, _ = select(news, max_sentences=5)
    assert len(selection.chosen) == 5
    assert "In June 2023 the company was fined 3 million dollars." in texts(selection)


def test_an_alert_needs_no_model_and_no_long_text():
    """A note of one sentence; the record holds the sentence and its place."""
    _, plan = select(note("Acme filed for chapter 11 on June 3, 2023."), llm=False)
    assert plan.meta["alerts"] == [
        {
            "ticker": "AAA",
            "family": "survival",
            "category": "liquidity",
            "quote": "Acme filed for chapter 11 on June 3, 2023.",
            "source": None,
            "section": None,
            "date": "2023-01-02",
            "evidence": "N1.1",
            "start": 0,
            "end": 42,
        }
    ]


def test_shared_evidence_alarms_no_company():
    """A text given for all companies names none."""
    selection, _ = select(note("Acme filed for chapter 11 on June 3, 2023.", ticker=None))
    assert selection.alerts == ()


def make_passages(count, *, family="suits", kind="event", begin=0, **rest):
    """Passages of one family whose sentences have no word in common, the most telling first."""
    families = {one.name: one for one in load_families()}
    letters = [*zip("bcdfghjklmnpqrstvwxz" * 5, sorted("aeiou" * 20), strict=True)]
    words = [f"{one}{vowel}{one}{vowel}ba" for one, vowel in letters][begin : begin + count]
    document = filing(" ".join(f"{word.capitalize()}." for word in words))
    return [
        Passage(
            sentence=Sentence(id=word, document=document, text=word, start=0, end=len(word)),
            section="mdna",
            kind=kind,
            family=families[family],
            rank=9.0 - place / 100,
            **rest,
        )
        for place, word in enumerate(words)
    ]


def test_how_many_of_a_family_are_asked():
    """Nine events, twice as many of a decisive family, twelve hypotheticals of all families."""
    assert len(choose_passages(make_passages(40))) == 9
    assert len(choose_passages(make_passages(40, family="order"))) == 18
    may = make_passages(20, kind="hypothetical")
    may += make_passages(20, family="loss", kind="hypothetical", begin=20)
    assert len(choose_passages(may)) == 12
    alerts = make_passages(40, family="order", is_core=True)
    assert len(choose_passages(alerts, 30)) == 30, "with an alert the limit is filled"


def test_many_events_about_cash_are_read_like_an_alert():
    """From eight on what is left of the limit is filled by rank."""
    for count, chosen in ((7, 7 + 9), (8, 8 + 30)):
        cash = make_passages(count, family="strain")
        assert len(choose_passages([*cash, *make_passages(30, begin=20)])) == chosen


def test_half_of_the_places_are_kept_for_notes_beside_a_filing():
    """However much the filing has to say."""
    events = [f"In 2023 we were in default on the loan of our {one} plant." for one in THINGS]
    notes = note(" ".join(f"It sold {one} in {two}." for one in THINGS for two in PLACES[:3]))
    selection, _ = select(filing(*ROUTINE, *events, DEFAULT, DOUBT), notes, max_sentences=4)
    of_notes = [one for one in selection.chosen if one.document.form is None]
    assert (len(selection.chosen), len(of_notes)) == (4, 2)


def test_alerts_are_listed_once_each_and_at_most_six_of_a_family():
    """The most telling first."""
    many = [f"In 2023 we were in default on the loan of our {one} plant." for one in THINGS]
    passages = read_passages(split(filing(DEFAULT, *many)).sentences, load_families())
    assert 1 <= len(find_alerts(passages)) <= 6
    twice = read_passages(split(filing(DEFAULT, DEFAULT)).sentences, load_families())
    assert len(find_alerts(twice)) == 1


def test_the_user_s_families_are_searched_for():
    """Also in short evidence that has no word of the package's families."""
    text = "[ferry]\ncategory = 'operational'\ndecisive = true\npatterns = ['ferry sank']"
    families = read_families(text, "mine.toml", base=load_families())
    selection, plan = select(note("The ferry sank in June 2023."), families=families)
    assert [one.family.name for one in selection.alerts] == ["ferry"]
    assert plan.meta["families_hash"]
    assert select(note("The ferry sank in June 2023."))[0].alerts == ()


EXAMPLES = [
    "A receiver was appointed for the company in June 2023.",
    "We ran out of cash: we do not have enough cash to operate.",
    "Our plan support agreement was signed in 2023.",
    "The company was found guilty in 2023.",
    "In 2023 the state revoked our license.",
    "We did not have adequate accounting systems in 2023.",
    "Our controls were ineffective in 2023.",
    "KPMG resigned as our auditor in 2023.",
    "Trading in our shares was halted in 2023.",
    "We learned of a data breach in 2023.",
    "An explosion destroyed our plant in 2023.",
    "In 2023 our bank granted waivers under the loan.",
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_quick_look_loses_no_alert(text):
    """Short evidence is read only if it has one of some stems: every decisive word has one."""
    assert select(note(text))[0].alerts


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("The court approved the company as debtor-in-possession on May 5, 2023.", "survival"),
        ("The company did not make interest payments due on May 5, 2023.", "default"),
        ("The carrier lost its license on May 5, 2023.", "order"),
        ("A manager diverted company funds in May 2023.", "accounts"),
        ("The shares were removed from trading on May 5, 2023.", "listing"),
    ],
)
def test_short_evidence_is_read_for_every_core_word(text, family):
    """The families' own patterns decide whether a note is read for alerts."""
    one = Document(id="D1", ticker="ACME", text=text, date=date(2023, 5, 8))
    plan = prepare([Holding(symbol="ACME")], None, [one], RiskParams(llm=False))
    assert [alert.family.name for alert in plan.selections["ACME"].alerts] == [family]
