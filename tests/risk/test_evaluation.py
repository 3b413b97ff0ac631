"""
How good labels are: against libraries and by hand; a wrong value is refused with its row.
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
    Share,
    bound_share,
    brier,
    compare,
    confusion,
    expected_calibration_error,
    figures,
    find_threshold,
    interval,
    kappa,
    read_labels,
    reliability,
)
from urisk_nb.risk.questions import Label


def item(risk, low=0, high=None, text="A sentence.", **given):
    return LabeledSentence(
        text=text,
        risks=tuple(risk.split("|")),
        low=low,
        high=low if high is None else high,
        **given,
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
    Two of five are the reader's own, three of five are accepted; of the three about a risk that
    were answered one severity is in range, two are within one step, mean 4/3 off.
    """
    got = figures(CASES)
    assert (got["sentences"], got["answered"]) == (5, 4)
    assert (got["own"], got["accepted"]) == (Share(2, 5), Share(3, 5))
    assert (got["none_found"], got["risk_missed"]) == (Share(1, 1), Share(0, 4))
    assert (got["risk_own"], got["risk_accepted"]) == (Share(1, 4), Share(2, 4))
    assert (got["severity"], got["severity_near"]) == (Share(1, 3), Share(2, 3))
    assert got["severity_exact"] == Share(0, 0), "no own severity is known"
    assert got["severity_error"] == pytest.approx(4 / 3)
    assert got["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.9**2 + 0.6**2) / 4)
    assert got["brier_own"] == pytest.approx((0.1**2 + 0.8**2 + 0.9**2 + 0.6**2) / 4)
    assert got["own"].interval == interval(2, 5)


def test_false_alarms_are_severe_labels_of_sentences_about_nothing():
    """
    By the reader's own label; what is accepted beside `none` may still be an alarm.
    """
    said = [("none", 0), ("legal", 2), ("legal", 3), ("business", 4), (None, 0)]
    quiet = [outcome("none|business", risk, severity) for risk, severity in said]
    got = figures([*quiet, outcome("legal", "legal", 5)])
    assert (got["false_alarm_3"], got["false_alarm_4"]) == (Share(2, 5), Share(1, 5))


def test_the_reader_s_own_severity():
    """Exact is the reader's own, in range is what the reader accepts."""
    known = [
        Prediction(item=item("legal", 1, 3, severity=2), label=Label(risk="legal", severity=said))
        for said in (2, 3, 4)
    ]
    got = figures(known)
    assert (got["severity_exact"], got["severity"]) == (Share(1, 3), Share(2, 3))
    assert got["severity_near"] == Share(3, 3)


def test_kappa_by_hand_and_by_scikit_learn():
    """
    Fifty applications, two readers: 20 both yes, 15 both no, 5 and 10 apart. Agreement 0.7, by
    chance 0.5, so kappa 0.4.
    """
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert kappa(first, second) == pytest.approx(0.4)
    assert math.isnan(kappa([], []))
    assert math.isnan(kappa(["yes"], ["yes"]))
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    one, other = (list(rng.choice(["a", "b", "c", "d"], 90, p=[0.6, 0.2, 0.1, 0.1])) for _ in "12")
    assert kappa(one, other) == pytest.approx(metrics.cohen_kappa_score(one, other))


def test_macro_figures_by_hand():
    """
    none: 2 of 3 found, called 2 times, F1 4/5. legal: 1 of 1, called 2 times, F1 2/3. credit: 0 of
    1. A category that the reader has not used counts for nothing.
    """
    cases = [("none", "none"), ("none", "none"), ("none", "legal"), ("legal", "legal")]
    got = figures([*(outcome(*case) for case in cases), outcome("credit", "market")])
    assert got["macro_recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert got["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)


def test_better_only_where_the_intervals_lie_apart():
    """Wilson: 90 of 100 is 82.6 to 94.5 %, 75 is 65.7 to 82.5, 76 is 66.8 to 83.3."""
    assert compare(Share(90, 100), Share(75, 100)) == "better"
    assert compare(Share(90, 100), Share(76, 100)) == "no clear difference"
    assert compare(Share(75, 100), Share(90, 100)) == "worse"


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
        {"low": 0.7, "high": 0.8, "n": 10, "probability": pytest.approx(0.8), "right": 0.8}
    ]


def test_without_probabilities_nothing_is_said_of_them():
    """NaN, not 0, which would be perfect."""
    got = figures([outcome("legal", "legal", 1)])
    assert math.isnan(got["brier"])
    assert math.isnan(got["ece"])
    none = figures([])
    assert all(math.isnan(none[name]) for name in ("kappa", "macro_f1", "severity_error", "ece"))
    assert math.isnan(none["own"].value)
    assert all(map(math.isnan, none["own"].interval))


@given(st.integers(1, 300), st.data())
@settings(deadline=None)  # the first draw loads scipy
def test_the_bound_is_clopper_and_pearsons(whole, data):
    """The oracle is the beta quantile of scipy."""
    import scipy.stats

    part = data.draw(st.integers(0, whole))
    bound = 1.0 if part == whole else scipy.stats.beta.ppf(0.95, part + 1, whole - part)
    assert bound_share(part, whole) == pytest.approx(bound, abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.8, 0.9, 0.95, 1.0]), st.booleans())))
@settings(deadline=None)
def test_the_threshold_is_the_smallest_that_holds(cases):
    """Tried one by one, with the quantile of scipy; many right ones make one that holds likely."""
    import scipy.stats

    cases = cases + [(0.95, True)] * 30
    found = find_threshold(of(cases))
    holds = []
    for p in sorted({p for p, _ in cases}):
        right = [is_right for other, is_right in cases if other >= p]
        wrong = len(right) - sum(right)
        if scipy.stats.beta.ppf(0.95, wrong + 1, len(right) - wrong) <= 0.1:
            holds.append((p, Share(wrong, len(right))))
    if not holds:
        assert found.threshold is None
        assert found.review == len(cases)
    else:
        assert (found.threshold, found.kept) == holds[0]
        assert found.review == len(cases) - found.kept.whole
        assert found.bound <= 0.1


def test_no_threshold_without_enough_labels():
    """
    0.9^28 is 5.2 %, so 28 right labels are too few, and 29 are enough; those without an answer go
    to review.
    """
    assert find_threshold(of([(0.9, True)] * 28)).threshold is None
    found = find_threshold([*of([(0.9, True)] * 29), outcome("legal", None)])
    assert (found.threshold, found.kept, found.review) == (0.9, Share(0, 29), 1)
    assert found.bound == pytest.approx(1 - 0.05 ** (1 / 29))


def test_a_threshold_of_the_reader_s_own_labels():
    """What is accepted only is wrong there."""
    accepted = [outcome("legal|credit", "credit", 1, p=0.9)] * 40
    assert find_threshold(accepted).threshold == 0.9
    assert find_threshold(accepted, own=True).threshold is None


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


ROW = {"text": "It was fined.", "risk": "legal", "severity": "3"}


@pytest.mark.parametrize(
    "names", [("severity_min", "severity_max"), ("severity_low", "severity_high")]
)
def test_all_forms_of_rows(names):
    """One severity, a range, or both; one risk, or several, of which the first is the own."""
    ranged = {
        "text": " It was fined. ",
        "risk": "legal|governance",
        **dict(zip(names, "24", strict=True)),
    }
    assert read_labels([ROW]) == [item("legal", 3, text="It was fined.", severity=3)]
    (read,) = read_labels([ranged])
    assert read == item("legal|governance", 2, 4, text="It was fined.")
    assert read.risk == "legal"
    both = {**ranged, "severity": "3", "kind": "event", "source": "10-K:A", "company": "Acme"}
    assert read_labels([both, {**both, **dict.fromkeys(names, "")}]) == [
        item(
            "legal|governance",
            *bounds,
            text="It was fined.",
            severity=3,
            kind="event",
            source="10-K:A",
            company="Acme",
        )
        for bounds in ((2, 4), (3, 3))
    ]


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ([], "no labeled sentences"),
        ([{"text": "a", "label": "legal"}], "text, label"),
        ([{"text": "a", "risk": "legal"}], "text, risk"),
        ([{"text": "a", "risk": "legal", "severity_low": "1"}], "text, risk, severity_low"),
        ([ROW, {**ROW, "risk": "Legal"}], "row 2 has the unknown risk 'Legal'"),
        ([ROW, {**ROW, "risk": "legal|"}], "row 2 has the unknown risk ''"),
        ([ROW, {**ROW, "risk": "legal|legal"}], "row 2 has a risk twice"),
        ([ROW, {**ROW, "severity": "6"}], "row 2 has the severity '6'"),
        ([ROW, {**ROW, "severity": ""}], "row 2 has the severity ''"),
        ([ROW, {**ROW, "text": " "}], "row 2 has no text"),
        ([{"text": "a", "risk": "legal", "severity_min": "4", "severity_max": "2"}], "4 to 2"),
        ([{**ROW, "severity_low": "4", "severity_high": "5"}], "4 to 5 and the own severity 3"),
    ],
)
def test_a_wrong_value_is_refused(rows, seen):
    """The error names the row and says what to write."""
    with pytest.raises(InputError, match=re.escape(seen)) as error:
        read_labels(rows)
    assert error.value.fix
