"""Which sentences are asked about: those that bear on the query, then those that bear on risk."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from datetime import date
from pathlib import Path

import pytest

from urisk_nb.errors import InputError
from urisk_nb.risk.evidence import split
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.relevance import check_query, choose, filter_by_query, split_words, stem
from urisk_nb.risk.taxonomy import DEFAULT

SAME = """
    tariff tariffs, fine fined, fine fines, supply supplies, supply supplier, supply supplied,
    chain chains, regulation regulatory, regulator regulators, regulate regulation,
    litigation litigate, default defaulted, debt debtor, hack hackers, breach breaches,
    recall recalled, strike striking, price pricing, rate rates, bank banking,
    bankruptcy bankruptcies, audit auditors, investigate investigation, customer customers,
    company companies, inventory inventories, liability liabilities, loss losses, gas gases,
    tax taxes, delay delaying, cut cutting, shut shutting, resign resignation, policy policies,
    process processing
"""
OTHER = """
    fine finance, price prince, rate ratio, bank bankruptcy, import important, china chinese,
    liquidity liquid, business busy, loss lost, gas gasoline, shut shutdown, operate opera,
    general generic, university universe
"""


def pairs(text):
    return [pytest.param(*pair.split(), id=pair.strip()) for pair in text.split(",")]


@pytest.mark.parametrize(("one", "other"), pairs(SAME))
def test_forms_of_a_word_are_one_word(one, other):
    """Plurals and the endings of verbs and doers make no difference."""
    assert stem(one) == stem(other)


@pytest.mark.parametrize(("one", "other"), pairs(OTHER))
def test_words_that_only_begin_alike_are_two(one, other):
    """A shared beginning is not enough."""
    assert stem(one) != stem(other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What are the fines of the company's R&D?", ["fin", "compan", "r&d"]),
        (
            "U.S. tariffs \u2014 3.5 percent, in TAIWAN.",
            ["u.s", "tariff", "3.5", "percent", "taiwan"],
        ),
        ("\uff34\uff41\uff49\uff57\uff41\uff4e", ["taiwan"]),
        ("\u7f5a\u6b3e", ["\u7f5a\u6b3e"]),
        ("\u88ab\u7f5a\u6b3e", ["\u88ab\u7f5a", "\u7f5a\u6b3e"]),
        ("US tariffs hurt us", ["u.s", "tariff", "hurt"]),
        ("what is it?", []),
    ],
)
def test_the_content_words_of_a_text(text, words):
    """
    Function words are left out; case, width and the dots of an abbreviation are no matter; Chinese
    goes by two signs.
    """
    assert split_words(text) == words


@pytest.mark.parametrize("query", ["what is it?", "?!", "the"])
def test_a_query_without_a_subject_is_refused(query):
    """Nothing could bear on it."""
    with pytest.raises(InputError, match="no word to look for") as caught:
        check_query(query)
    assert "supply chain" in caught.value.fix


def document(text, id="E1", day=None, source=None, ticker=None):
    return Document(id=id, ticker=ticker, text=text, date=day, source=source)


def test_choice_keeps_all_that_fit():
    """With no more sentences than may be asked, nothing is ranked and nothing changes."""
    sentences = split(document("One fell. Two fell. Three fell.")).sentences
    assert choose(sentences, "anything", DEFAULT, 3) == sentences


def test_choice_follows_the_query_then_risk():
    """
    What bears on the query comes first, the rest by the words of the categories; the order of the
    text is kept.
    """
    text = (
        "We like tea here. Litigation and a fine were announced. It was sunny. "
        "The chip plant in Taiwan is busy. Dogs are nice."
    )
    sentences = split(document(text)).sentences
    assert [s.quote for s in choose(sentences, "supply from Taiwan", DEFAULT, 2)] == [
        "Litigation and a fine were announced.",
        "The chip plant in Taiwan is busy.",
    ]
    assert [s.quote for s in choose(sentences, None, DEFAULT, 1)] == [
        "Litigation and a fine were announced."
    ]


@pytest.mark.slow
def test_choosing_does_not_start_jax(tmp_path):
    """
    bm25s would, where it is installed, and JAX takes most of a GPU's memory; whoever wants it can
    still have it.
    """
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax/__init__.py").write_text("print('started')\n")
    (tmp_path / "jax/lax.py").write_text("def top_k(values, k): return values, values\n")
    code = """
        import sys
        from urisk_nb.risk.evidence import split
        from urisk_nb.risk.inputs import Document
        from urisk_nb.risk.relevance import choose
        from urisk_nb.risk.taxonomy import DEFAULT
        document = Document(id="E1", ticker=None, text="A fine was announced. It was sunny.")
        sentences = split(document).sentences
        print(len(choose(sentences, "fine", DEFAULT, 1)), "jax" in sys.modules)
        import jax.lax
    """
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["1 False", "started"], done.stderr


def test_at_equal_rank_the_newer_is_chosen():
    """Two documents with the same words: the sentence of the newer one is asked."""
    old, new = (
        split(document("Litigation looms here.", id=i, day=d)).sentences[0]
        for i, d in (("A", date(2018, 1, 1)), ("B", date(2019, 1, 1)))
    )
    assert choose([old, new], None, DEFAULT, 1) == (new,)


def test_choice_without_a_known_word_is_the_newest():
    """
    A corpus in which nothing matches, or that has no words for the ranking, still gives a choice.
    """
    sentences = [
        split(document(text, id=text)).sentences[0]
        for text in ("\u516c\u53f8", "\u88ab\u7f5a", "\u6b3e\u9805")
    ]
    assert choose(sentences, "Taiwan", DEFAULT, 2) == tuple(sentences[:2])


@pytest.mark.parametrize("limit", [1, 2, 40])
def test_a_query_filters_whatever_the_number(limit):
    """Only sentences that bear on the query are kept, also where all of them could be asked."""
    sentences = split(
        document(
            "Suppliers in Taiwan stopped.\n\nRates rose.\n\nThe supply of chips is tight.\n\nA "
            "fine was paid."
        )
    ).sentences
    bearing = filter_by_query(sentences, "What about the supply chain?")
    assert [sentence.quote for sentence in bearing] == [
        "Suppliers in Taiwan stopped.",
        "The supply of chips is tight.",
    ]
    assert len(choose(bearing, "What about the supply chain?", DEFAULT, limit)) == min(limit, 2)
    assert filter_by_query(sentences, "dividends") == ()
    assert filter_by_query(sentences, None) == sentences


def test_what_bears_on_a_query_has_a_score_above_zero():
    """
    The filter is the sign of BM25, computed by the formula of Lucene for the words of the query.
    """
    sentences = split(
        document(
            "Suppliers stopped.\n\nRates rose.\n\nA fine was paid to supply chips to a supplier."
        )
    ).sentences
    query = set(split_words("supply of chips"))
    corpus = [split_words(sentence.text) for sentence in sentences]
    average = sum(map(len, corpus)) / len(corpus)

    def bm25(words):
        total = 0.0
        for word in query:
            holders = sum(word in other for other in corpus)
            idf = math.log(1 + (len(corpus) - holders + 0.5) / (holders + 0.5))
            count = words.count(word)
            total += idf * count / (count + 1.5 * (0.25 + 0.75 * len(words) / average))
        return total

    scores = [bm25(words) for words in corpus]
    assert [score > 0 for score in scores] == [True, False, True]
    assert [
        sentence in filter_by_query(sentences, "supply of chips") for sentence in sentences
    ] == [True, False, True]
    best = sentences[max(range(3), key=lambda index: scores[index])]
    assert choose(filter_by_query(sentences, "supply of chips"), "supply of chips", DEFAULT, 1) == (
        best,
    )
