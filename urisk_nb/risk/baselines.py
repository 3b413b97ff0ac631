"""
The cheapest alternatives to a model: one constant answer, and a bag of words. A model that is no
better than these is not worth its time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.risk.changes import fold_numbers, fold_words
from urisk_nb.risk.evaluation import LabeledSentence
from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy

__all__ = ["BagOfWords", "drop_near_duplicates", "find_most_frequent"]

SAME = 0.6  # share of common words from which on two sentences are near-duplicates


def find_most_frequent(items: Sequence[LabeledSentence], taxonomy: Taxonomy = DEFAULT) -> str:
    """
    Return the category that the reader used most; in a tie the first one of the taxonomy.

    It is chosen on the measured sentences themselves, so no constant answer does better.
    """
    counts = Counter(item.risk for item in items)
    return max(taxonomy.labels, key=lambda name: counts[name])


def drop_near_duplicates(
    training: Sequence[LabeledSentence], measured: Sequence[LabeledSentence]
) -> list[LabeledSentence]:
    """
    Return the training sentences that are not near-duplicates of a measured one.

    Two sentences are near-duplicates if they share at least 60 % of all their words (Jaccard). All
    numbers count as the same word. A near-duplicate would give the answer away.
    """
    known = [_fold(item.text) for item in measured]
    places: dict[str, list[int]] = {}
    for place, words in enumerate(known):
        for word in words:
            places.setdefault(word, []).append(place)

    def is_known(text: str) -> bool:
        words = _fold(text)
        shared = Counter(place for word in words for place in places.get(word, ()))
        return any(count >= SAME * len(words | known[place]) for place, count in shared.items())

    return [item for item in training if not is_known(item.text)]


def _fold(text: str) -> frozenset[str]:
    return frozenset(fold_numbers(fold_words(text)))


class BagOfWords:
    """
    TF-IDF of single words and logistic regression over the reader's own categories.

    It ignores the order of words, and so who did what. Term counts are logarithmic, and C = 10,
    which was the best of 1, 10 and 100 over folds of this project's own sentences.

    Parameters
    ----------
    training
        Sentences to train on; none of them may be measured.

    Raises
    ------
    InputError
        All sentences have the same category.
    PackageMissing
        scikit-learn is not installed (extra `evaluate`).
    """

    def __init__(self, training: Sequence[LabeledSentence]) -> None:
        if len({item.risk for item in training}) < 2:
            raise InputError(
                "the sentences to train on have fewer than two categories.",
                fix="name a file with sentences of all categories: --train FILE",
            )
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        except ModuleNotFoundError as exc:
            raise PackageMissing(
                "the bag of words needs scikit-learn, which is not installed.",
                fix='pip install "urisk-nb[evaluate]"',
            ) from exc
        self._pipeline = make_pipeline(
            TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=2000)
        )
        self._pipeline.fit([item.text for item in training], [item.risk for item in training])

    def label(self, texts: Sequence[str]) -> list[str]:
        """Return the most probable category of each text."""
        return [str(risk) for risk in self._pipeline.predict(list(texts))]
