"""
The cheapest alternatives: one constant answer, and a bag of words that has not seen what it labels.
"""

import sys

import pytest

from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.risk.baselines import BagOfWords, drop_near_duplicates, find_most_frequent
from urisk_nb.risk.evaluation import LabeledSentence

FINES = ("court fine", "fine of a judge", "lawsuit and fine", "the court sued")
DEBTS = ("debt and loan", "loan of a bank", "covenant of the debt", "the bank called")


def item(text, risk="legal"):
    return LabeledSentence(text=text, risks=tuple(risk.split("|")), low=1, high=1)


def test_the_most_frequent_is_the_reader_s_own():
    """Not what is accepted beside it; of equals the first of the taxonomy."""
    assert (
        find_most_frequent([item("a", "none|legal"), item("b", "none"), item("c", "legal")])
        == "none"
    )
    assert find_most_frequent([item("a", "legal"), item("b", "credit")]) == "credit"


def test_near_duplicates_of_the_measured_are_left_out():
    """
    Six of ten words in common are enough, numbers and case count for nothing; five of ten are not.
    """
    measured = [item("one two three four five six 77 eight")]
    same = item("One two, three four five six 99 eight!")
    near = item("one two three four five six nine ten")  # 6 of 10
    other = item("one two three four five eleven nine ten")  # 5 of 11
    assert drop_near_duplicates([same, near, other], measured) == [other]
    assert drop_near_duplicates([other], []) == [other]


@pytest.mark.slow
def test_a_bag_of_words_learns_from_words():
    """What it has been told; twice the same."""
    pytest.importorskip("sklearn")
    training = [*map(item, FINES), *(item(text, "credit|legal") for text in DEBTS)]
    for _ in range(2):
        assert BagOfWords(training).label(["a fine", "a loan"]) == ["legal", "credit"]


def test_it_is_the_regression_of_the_docs():
    """The optimum of multinomial cross-entropy with an L2 penalty of 1/2C, found by scipy."""
    pytest.importorskip("sklearn")
    import numpy as np
    import scipy.optimize

    training = [
        *map(item, FINES),
        *(item(text, "credit") for text in DEBTS),
        *(item(text, "none") for text in ("a sunny day", "the day of a walk")),
    ]
    pipeline = BagOfWords(training)._pipeline
    x = pipeline[0].transform([one.text for one in training]).toarray()
    y = np.array([["credit", "legal", "none"].index(one.risk) for one in training])

    def loss(flat):
        weights, bias = flat[:-3].reshape(3, -1), flat[-3:]
        scores = x @ weights.T + bias
        told = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(y)), y]
        return 10 * told.sum() + 0.5 * (weights**2).sum()

    best = scipy.optimize.minimize(loss, np.zeros(3 * x.shape[1] + 3), method="L-BFGS-B")
    flat = np.concatenate([pipeline[1].coef_.ravel(), pipeline[1].intercept_])
    assert loss(flat) == pytest.approx(best.fun, rel=1e-4)


def test_what_cannot_be_learned_from_is_refused(monkeypatch):
    """One category; no scikit-learn."""
    with pytest.raises(InputError, match="fewer than two categories"):
        BagOfWords([item("a fine")])
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(PackageMissing) as error:
        BagOfWords([item("a fine"), item("a loan", "credit")])
    assert 'pip install "urisk-nb[evaluate]"' in error.value.fix
