"""A company gets its own documents and the shared ones, up to the date; weights are scaled."""

from __future__ import annotations

from datetime import date

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.news import read_evidence
from urisk_nb.readers.prices import read_prices
from urisk_nb.risk.inputs import (
    Document,
    Holding,
    describe_unlisted,
    describe_weights,
    normalize_weights,
    select_documents,
)
from urisk_nb.risk.params import RiskParams


def read_documents(given, **options):
    return read_evidence(given, **options).documents


TEXTS = (
    Document(id="E1", ticker="MSFT", text="c"),
    Document(id="E2", ticker=None, text="shared", date=date(2024, 1, 1)),
    Document(id="E3", ticker="NVDA", text="a", date=date(2024, 1, 1), source="wire"),
    Document(id="E4", ticker="NVDA", text="b", date=date(2024, 1, 2), source="wire"),
)


def own_texts(holding="NVDA", as_of=None):
    documents, flags = select_documents(TEXTS, Holding(symbol=holding), RiskParams(), as_of=as_of)
    return [one.text for one in documents], flags


def test_a_company_gets_its_own_and_the_shared_documents():
    """Its own, those that were given for all, and nobody else's."""
    assert own_texts() == (["shared", "a", "b"], ())
    assert own_texts("MSFT") == (["c", "shared"], ())
    assert own_texts("AAPL") == (["shared"], ())


def test_evidence_after_the_date_is_cut():
    """
    What was written later is left out and said; what has no date is left out only when the date was
    asked for.
    """
    assert own_texts(as_of=date(2024, 1, 1)) == (["shared", "a"], ("future_evidence",))
    assert own_texts(as_of=pd.Timestamp("2024-01-01")) == (["shared", "a"], ("future_evidence",))
    assert own_texts("MSFT", as_of=date(2024, 1, 1)) == (["c", "shared"], ())


def test_params_decide_the_date():
    """The as-of date of the parameters goes before that of the prices."""
    documents = TEXTS
    for symbol, texts, flags in (
        ("MSFT", ["shared"], ("undated",)),
        ("NVDA", ["shared", "a"], ("future_evidence",)),
    ):
        own, seen = select_documents(
            documents,
            Holding(symbol=symbol),
            RiskParams.of(as_of="2024-01-01"),
            as_of=date(2030, 1, 1),
        )
        assert ([one.text for one in own], seen) == (texts, flags)


def test_both_spellings_of_a_share_class_are_the_companys_own():
    """BRK-B's documents serve BRK.B and are flagged; those of BRK.A do not."""
    documents = read_documents({"BRK-B": "one", "BRK.B": "two", "BRK.A": "three"})
    own, flags = select_documents(documents, Holding(symbol="BRK.B"), RiskParams())
    assert ([one.text for one in own], flags) == (["one", "two"], ("alias",))


def test_normalized_weights_sum_to_one():
    """Scaling divides by the sum, shorts included; a holding without a weight stays without one."""
    holdings = (
        Holding(symbol="A", weight=3.0),
        Holding(symbol="B", weight=-1.0),
        Holding(symbol="C"),
    )
    assert [one.weight for one in normalize_weights(holdings)] == [1.5, -0.5, None]


@pytest.mark.parametrize(
    ("weights", "seen"), [((None, None), "no ticker has a weight"), ((0.5, -0.5), "sum to 0")]
)
def test_weights_without_a_scale_are_refused(weights, seen):
    """Nothing to scale, or a net-zero book."""
    holdings = [Holding(symbol=name, weight=one) for name, one in zip("AB", weights, strict=True)]
    with pytest.raises(InputError, match=seen) as caught:
        normalize_weights(holdings)
    assert "leave normalise out" in caught.value.fix


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"A": 0.5, "B": 0.8}, "The weights sum to 1.3, not 1; they are used as given."),
        ({"A": 40, "B": 60}, "The weights sum to 100, not 1;"),
        ({"A": 1.3, "B": -0.5}, "The weights sum to 0.8 (1.8 without signs), not 1;"),
        (
            {"A": 1, "B": -1},
            "The weights sum to 0 (2 without signs), not 1; they are used as given.",
        ),
        ({"A": 0.333, "B": 0.333, "C": 0.333}, None),
        ({"A": 1.5, "B": -0.5}, None),
        ({"A": None, "B": None}, None),
    ],
)
def test_weights_that_do_not_sum_to_one_are_said(weights, said):
    """Nothing is changed; rounded weights pass; a net-zero book has no scale to offer."""
    seen = describe_weights([Holding(symbol=name, weight=one) for name, one in weights.items()])
    assert (seen or "").startswith(said or "")
    assert (seen is None) is (said is None)
    assert ("If they are per cent, write A=40%" in (seen or "")) is (weights["A"] == 40)
    scales = sum(one or 0 for one in weights.values()) != 0
    assert seen is None or ("normalise=True" in seen) is scales


def test_columns_that_nobody_asked_for_are_named():
    """Counted, never more than ten; the benchmark is used, and other spellings are, too."""
    index = pd.bdate_range("2024-01-01", periods=2)
    prices = read_prices(pd.DataFrame(1.0, index=index, columns=["NVDA US Equity", "SPY", "QQQ"]))
    nvda = [Holding(symbol="NVDA")]
    assert describe_unlisted(prices, nvda, "spy") == (
        "1 column of the prices is not in the list: QQQ."
    )
    assert describe_unlisted(prices, nvda).startswith("2 columns of the prices are not in the list")
    assert describe_unlisted(prices, [*nvda, Holding(symbol="QQQ")], "SPY") is None
    many = read_prices(pd.DataFrame(1.0, index=index, columns=[f"T{n}" for n in range(30)]))
    assert describe_unlisted(many, [Holding(symbol="T3")]).endswith("T9, T10 and 19 more.")
