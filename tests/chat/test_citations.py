"""Ids of sentences in an answer: those that exist are listed, the others struck."""

import pickle

import pytest

from urisk_nb.chat.attachments import Source
from urisk_nb.chat.citations import SourceIds, describe_citations, mark_citations, strike_unknown
from urisk_nb.llm.answers import Answer
from urisk_nb.render.answer_view import AnswerView

SOURCES = {"S1": Source(quote="TSLA was fined.", source="wire"), "S2": Source(quote="So.")}

LONG = "9" * 5000  # more digits than Python reads as a number


def answer(text):
    made = Answer(text, model="m", engine="ollama", done_reason="stop", timing=None)
    mark_citations(made, SOURCES)
    return made


@pytest.mark.parametrize(
    ("text", "cited", "unknown", "shown"),
    [
        ("Fined [S1].", ["S1"], (), "Fined [S1]."),
        ("Fined [S1] [S99].", ["S1"], ("S99",), "Fined [S1] [~~S99~~]."),
        ("Both [S2, S1; s7].", ["S2", "S1"], ("S7",), "Both [S2, S1; ~~s7~~]."),
        ("【S1】 and [S1]", ["S1"], (), "【S1】 and [S1]"),
        ("[S01]", ["S1"], (), "[S01]"),
        ("[S98][S99]", [], ("S98", "S99"), "[~~S98~~][~~S99~~]"),
        ("`x[S9]` stays", [], ("S9",), "`x[S9]` stays"),
        ("S99, (S99), [SX], [12]", [], (), "S99, (S99), [SX], [12]"),
        ("[S1-S3] [S0]", ["S1", "S2"], ("S3", "S0"), "[S1-~~S3~~] [~~S0~~]"),
        ("[S0–S3]", ["S1", "S2"], ("S0", "S3"), "[~~S0~~–~~S3~~]"),
        ("[S\u0661]", [], (), "[S\u0661]"),
        (f"[S1{LONG}-S{LONG}]", [], (f"S1{LONG}", f"S{LONG}"), f"[~~S1{LONG}~~-~~S{LONG}~~]"),
    ],
)
def test_ids_that_do_not_exist_are_struck(text, cited, unknown, shown):
    """In what is shown; the answer itself is as the model wrote it."""
    made = answer(text)
    assert [one.id for one in made.citations] == cited
    assert made.unknown_citations == unknown
    assert strike_unknown(text, SOURCES) == shown
    assert str(made) == text


def test_a_citation_has_the_sentence_and_its_source():
    """And is kept through a pickle, as the rest of an answer."""
    made = pickle.loads(pickle.dumps(answer("[S1] [S5]")))
    assert (made.citations[0].quote, made.citations[0].source) == ("TSLA was fined.", "wire")
    assert made.unknown_citations == ("S5",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Nothing.", ""),
        ("[S1]", "cites 1 sentence"),
        ("[S1] [S2] [S8]", "cites 2 sentences; 1 id does not exist and is struck"),
        ("[S8] [S9]", "2 ids do not exist and are struck"),
    ],
)
def test_the_line_under_the_answer_counts(text, said):
    """In whole words."""
    assert describe_citations(answer(text)) == said


def test_a_sentence_keeps_its_id():
    """From turn to turn."""
    ids = SourceIds()
    assert [ids.name(SOURCES["S2"]), ids.name(SOURCES["S1"]), ids.name(SOURCES["S2"])] == [
        *("S1", "S2", "S1")
    ]


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("So [S99].", "So [<s>S99</s>]."),
        ("So[S99]x", "So[<s>S99</s>]x"),
        ("**[S1, S99]**", "<strong>[S1, <s>S99</s>]</strong>"),
        ("[S99](http://a.example)", "<s>S99</s></a>"),
    ],
)
def test_the_page_shows_them_struck(text, page):
    """In the middle of a word, in bold, and as a link that the model makes of an id."""
    assert page in AnswerView().finish(strike_unknown(text, SOURCES))
