"""
How good labels are: against libraries and by hand; what cannot be meant is refused with its row.
"""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urisk_nb.errors import InputError
from urisk_nb.risk.evaluation import (
    LabeledSentence,
    Prediction,
    brier,
    confusion,
    expected_calibration_error,
    figures,
    interval,
    majority_baseline,
    read_labels,
    reliability,
)
from urisk_nb.risk.questions import Label


def item(risk, low=0, high=None, text="A sentence."):
    return LabeledSentence(
        text=text, risks=frozenset(risk.split("|")), low=low, high=low if high is None else high
    )


def outcome(wanted, confidence=None, severity=0, low=0, high=None, p=None):
    return Prediction(
        item=item(wanted, low, high),
        label=None if confidence is None else Label(risk=confidence, severity=severity),
        p_label=p,
    )


CASES = [
    outcome("legal", "legal", 4, 3, 5, 0.9),
    outcome("legal|governance", "governance", 2, 3, 3, 0.8),
    outcome("credit", "liquidity", 5, 2, 2, 0.9),
    outcome("none", "none", 0, 0, 0, 0.4),
    outcome("market", None, low=1),
]


def test_the_figures_by_hand():
    """
    Three of five categories; of the three about a risk that were answered one severity in range,
    two within one step, mean 4/3 off.
    """
    got = figures(CASES)
    assert (got["sentences"], got["valid"], got["category"]) == (5, 4, 0.6)
    assert (got["severity"], got["severity_near"], got["severity_error"]) == tuple(
        map(pytest.approx, (1 / 3, 2 / 3, 4 / 3))
    )
    assert got["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.9**2 + 0.6**2) / 4)
    assert (got["category_lo"], got["category_hi"]) == interval(3, 5)


@given(st.integers(1, 400), st.data())
@settings(deadline=None)  # the first draw loads statsmodels
def test_the_interval_is_wilsons(total, data):
    """The oracle is statsmodels."""
    from statsmodels.stats.proportion import proportion_confint

    right = data.draw(st.integers(0, total))
    low, high = proportion_confint(right, total, alpha=0.05, method="wilson")
    assert interval(right, total) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


SURE = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def of(cases):
    return [outcome("legal", "legal" if right else "credit", 1, p=p) for p, right in cases]


@given(SURE)
def test_brier_and_calibration_error_by_numpy(cases):
    """Squares and bins, computed otherwise."""
    p, right = np.array([case[0] for case in cases]), np.array([case[1] for case in cases], float)
    assert brier(of(cases)) == pytest.approx(np.mean((p - right) ** 2))
    edges = np.linspace(0, 1, 11)
    place = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, 9)
    # On an edge, the rounding of p * 10 decides; both places are right there.
    if not np.any(np.isclose(p * 10, np.round(p * 10), atol=1e-9, rtol=0)):
        error = sum(
            abs(p[place == bin_].mean() - right[place == bin_].mean()) * (place == bin_).mean()
            for bin_ in set(place)
        )
        assert expected_calibration_error(of(cases)) == pytest.approx(error, abs=1e-9)
        assert reliability(of(cases))["n"].sum() == len(cases)


def test_a_model_that_knows_how_sure_it_is_has_no_error():
    """Eight of ten at 0.8, and nothing else."""
    assert expected_calibration_error(
        of([(0.8, number < 8) for number in range(10)])
    ) == pytest.approx(0)
    table = reliability(of([(0.8, number < 8) for number in range(10)]))
    assert table.to_dict("records") == [
        {"low": 0.7, "high": 0.8, "n": 10, "said": pytest.approx(0.8), "right": 0.8}
    ]


def test_without_probabilities_nothing_is_said_of_them():
    """NaN, not 0, which would be perfect."""
    got = figures([outcome("legal", "legal", 1)])
    assert math.isnan(got["brier"])
    assert math.isnan(got["ece"])
    assert all(
        math.isnan(figures([])[name])
        for name in ("category", "category_lo", "severity", "brier", "ece")
    )


def test_the_confusion_table():
    """Every outcome once; right where one of several right ones was said."""
    table = confusion(CASES)
    assert table.to_numpy().sum() == len(CASES)
    assert (
        table.loc["legal", "legal"],
        table.loc["governance", "governance"],
        table.loc["credit", "liquidity"],
    ) == (1, 1, 1)
    assert (table.loc["none", "none"], table.loc["market", "invalid"]) == (1, 1)


def test_what_the_best_constant_answer_reaches():
    """It has read nothing."""
    items = [item("legal", 3), item("legal|credit", 2, 4), item("credit", 1), item("none")]
    assert majority_baseline(items) == (0.5, pytest.approx(2 / 3))


ROW = {"text": "It was fined.", "risk": "legal", "severity": "3"}


def test_both_forms_of_rows():
    """One severity, or a range; one risk, or several."""
    ranged = {
        "text": " It was fined. ",
        "risk": "legal|governance",
        "severity_min": "2",
        "severity_max": "4",
    }
    assert read_labels([ROW]) == [item("legal", 3, text="It was fined.")]
    assert read_labels([ranged]) == [item("legal|governance", 2, 4, text="It was fined.")]


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ([], "no labeled sentences"),
        ([{"text": "a", "label": "legal"}], "text, label"),
        ([{"text": "a", "risk": "legal"}], "text, risk"),
        ([ROW, {**ROW, "risk": "Legal"}], "row 2 has the risk 'Legal'"),
        ([ROW, {**ROW, "severity": "6"}], "row 2 has the severity '6'"),
        ([ROW, {**ROW, "severity": ""}], "row 2 has the severity ''"),
        ([ROW, {**ROW, "text": " "}], "row 2 has no text"),
        ([{"text": "a", "risk": "legal", "severity_min": "4", "severity_max": "2"}], "'4' to '2'"),
    ],
)
def test_what_cannot_be_meant_is_refused(rows, seen):
    """With the row, and what to write."""
    with pytest.raises(InputError, match=re.escape(seen)) as error:
        read_labels(rows)
    assert error.value.fix
