"""A query chooses by content words: which words count, and which forms are the same word."""

from __future__ import annotations

import pytest

from urisk_nb.errors import InputError
from urisk_nb.risk.query import check_query, split_words, stem

SAME = """
    tariff tariffs, fine fined, fine fines, supply supplies, supply supplier, supply supplied, chain
    chains, regulation regulatory, regulator regulators, regulate regulation, litigation litigate,
    default defaulted, debt debtor, hack hackers, breach breaches, recall recalled, strike striking,
    price pricing, rate rates, bank banking, bankruptcy bankruptcies, audit auditors, investigate
    investigation, customer customers, company companies, inventory inventories, liability
    liabilities, loss losses, gas gases, tax taxes, delay delaying, cut cutting, shut shutting,
    resign resignation, policy policies, process processing
"""
OTHER = """
    fine finance, price prince, rate ratio, bank bankruptcy, import important, china chinese,
    liquidity liquid, business busy, loss lost, gas gasoline, shut shutdown, operate opera, general
    generic, university universe
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
