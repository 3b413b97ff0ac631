import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.errors import InputError
from urisk_nb.risk.questions import Label
from urisk_nb.risk.scoring import SCORE_V2, Level, level, reconcile, score
from urisk_nb.risk.taxonomy import DEFAULT, Category, Taxonomy

VERSIONS = st.sampled_from(("score_v1", "score_v2"))
RATINGS = st.dictionaries(st.sampled_from(DEFAULT.ids), st.none() | st.integers(0, 5))

# Worked by hand: 100 * (1 - product of (1 - w)), w = 0, .05, .15, .35, .60, .85.
CASES = [
    ({"legal": 3}, 35.0, "Moderate"),  # the seven of risk-method 9
    ({"legal": 4}, 60.0, "High"),
    ({"legal": 5}, 85.0, "Severe"),
    ({"legal": 3, "business": 3}, 57.75, "Elevated"),  # 1 - .65^2
    (dict.fromkeys(DEFAULT.ids, 1), 30.16627, "Moderate"),  # 1 - .95^7 = .3016627039...
    ({"legal": 0}, 0.0, "Low"),
    ({}, None, "NR"),
    ({"market": 1}, 5.0, "Low"),
    ({"market": 2}, 15.0, "Low"),
    ({"market": 1, "credit": 2}, 19.25, "Low"),  # 1 - .95*.85
    ({"market": 1, "credit": 1, "legal": 1, "business": 1}, 18.549375, "Low"),  # 1 - .95^4
    ({"market": 2, "credit": 2}, 27.75, "Moderate"),  # 1 - .7225
    ({"market": 3, "credit": 1}, 38.25, "Moderate"),  # 1 - .65*.95
    ({"market": 3, "credit": 2}, 44.75, "Elevated"),  # 1 - .65*.85
    ({"market": 4, "credit": 0}, 60.0, "High"),
    ({"market": 4, "credit": 3}, 74.0, "High"),  # 1 - .4*.65
    ({"market": 4, "credit": 4}, 84.0, "Severe"),  # 1 - .16
    ({"market": 3, "credit": 3, "legal": 3}, 72.5375, "High"),  # 1 - .274625
    ({"market": 5, "credit": 5}, 97.75, "Severe"),  # 1 - .0225
    ({"market": 5, "credit": 1, "legal": 2}, 87.8875, "Severe"),  # 1 - .15*.95*.85
    ({"market": 0, "credit": 0, "legal": 0}, 0.0, "Low"),
    ({"market": None, "legal": 2}, 15.0, "Low"),
]


@pytest.mark.parametrize(("ratings", "points", "name"), CASES)
def test_scores_worked_by_hand(ratings, points, name):
    """The score is the noisy-or of the stated weights, and its level the stated cut."""
    result = score(ratings)
    assert result.score == (None if points is None else pytest.approx(points, abs=5e-7))
    assert result.level == name
    assert result.coverage == pytest.approx(
        sum(value is not None for value in ratings.values()) / 7
    )


# 100 * (1 - product of (1 - w / 3^k)), k = 0, 1, 2, ... from the highest rating down.
FILING_CASES = [
    ({"legal": 3, "business": 3}, 42.583333, "Elevated"),  # 1 - .65 * (1 - .35 / 3)
    ({"legal": 4}, 60.0, "High"),
    ({"legal": 5}, 85.0, "Severe"),
    ({"market": 5, "credit": 5}, 89.25, "Severe"),  # 1 - .15 * (1 - .85 / 3)
    ({"market": 2, "credit": 2}, 19.25, "Low"),  # 1 - .85 * .95
    ({"market": 2, "credit": 2, "legal": 2}, 20.595833, "Moderate"),  # the third: 1 - .15 / 9
    ({"market": 2, "credit": 3, "legal": 4}, 65.255556, "High"),  # 1 - .4 * (1 - .35 / 3) * .98333
    ({"market": 3, "credit": 2}, 38.25, "Moderate"),  # 1 - .65 * .95
    ({"market": 3, "credit": 2, "legal": 2, "business": 2}, 39.616505, "Moderate"),
    ({"legal": 0}, 0.0, "Low"),
    ({}, None, "NR"),
]


@pytest.mark.parametrize(("ratings", "points", "name"), FILING_CASES)
def test_scores_of_filings_worked_by_hand(ratings, points, name):
    """Each further category adds a third of what the one before it would have added."""
    result = score(ratings, version=SCORE_V2)
    assert result.score == (None if points is None else pytest.approx(points, abs=5e-7))
    assert result.level == name
    assert result.top_risk == score(ratings).top_risk


@pytest.mark.parametrize(
    ("points", "name"),
    [
        (0.0, "Low"),
        (19.999999, "Low"),
        (20.0, "Moderate"),
        (39.999999, "Moderate"),
        (40.0, "Elevated"),
        (59.999999, "Elevated"),
        (60.0, "High"),
        (79.999999, "High"),
        (80.0, "Severe"),
        (100.0, "Severe"),
    ],
)
def test_levels_include_their_lower_bound(points, name):
    """A level begins exactly at its lower bound."""
    assert level(points) == name


def test_float_noise_does_not_decide_a_level():
    """
    A lone 4 is exactly 60 and High, in whichever category and however many zeros stand beside it.
    """
    for category in DEFAULT.ids:
        result = score({**dict.fromkeys(DEFAULT.ids, 0), category: 4})
        assert (result.score, result.level) == (60.0, Level.HIGH)


def test_all_ratings_are_rounded_to_six_decimals():
    """Every score is what its six decimals say, so that the level is a cut of what is shown."""
    for severities in itertools.product(range(6), repeat=3):
        points = score(dict(zip(("market", "legal", "business"), severities, strict=True))).score
        assert points == round(points, 6)


@given(RATINGS, st.sampled_from(DEFAULT.ids), st.integers(0, 5), VERSIONS)
def test_more_evidence_never_lowers_the_score(ratings, id, severity, version):
    """Another sentence, of any category and severity, leaves the score as it is or raises it."""
    more = {**ratings, id: max(severity, ratings.get(id) or 0)}
    assert score(more, version=version).score >= (score(ratings, version=version).score or 0.0)


@given(RATINGS, st.randoms(), VERSIONS)
def test_the_order_of_the_mapping_changes_nothing(ratings, rng, version):
    """The same ratings in another order give the same result to the last bit."""
    items = list(ratings.items())
    rng.shuffle(items)
    assert score(dict(items), version=version) == score(ratings, version=version)


@given(st.lists(RATINGS.map(score).filter(lambda s: s.score is not None), min_size=2, max_size=6))
def test_sorting_by_level_never_contradicts_sorting_by_score(scores):
    """A higher score has no lower level."""
    order = list(Level)
    positions = [order.index(s.level) for s in sorted(scores, key=lambda s: s.score)]
    assert positions == sorted(positions)


def test_top_risk_breaks_ties_in_taxonomy_order():
    """
    Of two categories with the same severity the earlier in the taxonomy is named, whatever the
    mapping's order.
    """
    assert score({"governance": 4, "credit": 4, "legal": 1}).top_risk == "credit"
    assert score({"legal": 0}).top_risk == "legal"
    assert score({}).top_risk is None


def test_nothing_found_is_not_nothing_judged():
    """Judged without a risk is 0, Low and flagged; not judged is NR and no number."""
    found, not_rated = score({}, judged=True), score(dict.fromkeys(DEFAULT.ids))
    assert (found.score, found.level, found.flags) == (0.0, "Low", ("no_risk_found",))
    assert (not_rated.score, not_rated.level, not_rated.flags) == (None, "NR", ())
    assert score({"legal": 0}, judged=True).flags == ()


@pytest.mark.parametrize(
    "value",
    [6, -1, 2.5, 3.0, True, False, "3", [3], 10**30, float("inf"), np.float64(3.0), np.True_],
)
def test_ratings_that_are_none_are_refused(value):
    """What is not a whole number from 0 to 5 is an error that shows it, not a score."""
    with pytest.raises(InputError, match="rating of 'legal'") as caught:
        score({"legal": value})
    assert "0 to 5" in caught.value.fix


@pytest.mark.parametrize("value", [None, pd.NA, float("nan"), np.nan])
def test_missing_ratings_count_as_not_rated(value):
    """A row of the table can be scored again: its NA is no rating."""
    assert score({"legal": value}) == score({})
    assert score({"legal": np.int64(3)}).score == 35.0


def test_unknown_categories_are_refused():
    """A misspelt category would add nothing silently, so it is an error that lists what exists."""
    with pytest.raises(InputError, match="'leagl' is not a category") as caught:
        score({"leagl": 3})
    assert "governance" in caught.value.fix


def test_a_taxonomy_of_ones_own():
    """Categories of the user's own score alike, with their own coverage."""
    own = Taxonomy(
        version="v",
        categories=tuple(Category(id=i, name=i, definition=i) for i in ("climate", "legal")),
    )
    result = score({"climate": 3}, own)
    assert (result.score, result.coverage, result.top_risk) == (35.0, 0.5, "climate")
    with pytest.raises(InputError):
        score({"market": 3}, own)


def label(risk, severity):
    return Label(risk=risk, severity=severity)


@pytest.mark.parametrize(
    ("first", "second", "counts", "flags"),
    [
        (("legal", 4), ("legal", 4), ("legal", 4), ()),
        (("legal", 5), ("legal", 4), ("legal", 4), ()),
        (("legal", 4), ("legal", 5), ("legal", 4), ()),
        (("legal", 5), ("legal", 3), ("legal", 3), ("unstable",)),
        (("legal", 4), ("legal", 2), ("legal", 2), ("unstable",)),
        (("legal", 4), ("market", 3), ("legal", 3), ()),
        (("legal", 4), ("market", 4), ("legal", 4), ()),
        (("legal", 4), ("none", 0), ("legal", 0), ("unstable",)),
        (("legal", 4), None, ("legal", 4), ("second_look_failed",)),
    ],
)
def test_the_second_look(first, second, counts, flags):
    """
    The lower severity counts under the first look's risk; two steps apart is unstable; no second
    answer is said.
    """
    assert reconcile(label(*first), second and label(*second)) == (label(*counts), flags)
