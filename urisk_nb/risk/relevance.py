"""Which sentences to ask about: those that bear on the query, and then those that bear on risk."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date
from itertools import chain
from typing import Any

from urisk_nb.errors import InputError
from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.taxonomy import Taxonomy
from urisk_nb.risk.values import show

__all__ = ["check_query", "choose", "filter_by_query", "split_words", "stem"]

_WORD = re.compile(r"[^\W_]+(?:[.&][^\W_]+)*")  # R&D, U.S and 3.5 are one word each
# Scripts that put no space between words (and Korean, whose particles hang on): two signs at a time
# stand for a word.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+"
)
# What a question is asked with, and what every sentence is made of. "No" and "not" are here, since
# nobody searches for them. The first line is what is left of "company's" and "won't".
_FUNCTION_WORDS_TEXT = """
    d ll m re s t ve
    a about after all also am an and any are as at be because been before being but by can could did
    do does doing down during each either for from get give had has have having he her here him his
    how i if in into is it its just list may me might more most must my name no nor not of on or
    other our out over own please shall she should show since so some such tell than that the their
    them then there these they this those through to too under until up upon us very was we were
    what when where whether which while who whom whose why will with would you your
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())
_ENDINGS = ("ation", "atory", "ition", "ator", "ier", "at", "er", "or")


def split_words(text: str) -> list[str]:
    """
    Return the stems of the content words of a text, in its order.

    Function words ("the", "which", "would") do not count.
    """
    words = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text)):
        # The country in capitals is one word with "U.S."; else it would be the pronoun.
        word = "u.s" if match.group() == "US" else match.group().casefold()
        words += [
            run[at : at + 2]
            for run in _UNSPACED.findall(word)
            for at in range(max(1, len(run) - 1))
        ]
        words += [
            stem(part) for part in _UNSPACED.split(word) if part and part not in _FUNCTION_WORDS
        ]
    return words


def stem(word: str) -> str:
    """
    Return a lower-case English word without its endings: plural, -ed, -ing, -er, -or, -ation and
    the like.

    Notes
    -----
    Of 73 pairs that a reader would take for one another (fine and fined, supply and suppliers,
    regulation and regulatory) it unites 70, of 22 that differ (bank and bankruptcy, policy and
    police) it parts 15; words as they are: 2 and 22. A sentence too many costs one question, a
    sentence too few is lost.
    """
    word = _cut_plural(word)
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= 3 and re.search("[aeiouy]", rest):
            word = (
                rest[:-1]
                if len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "lsz"
                else rest
            )
            break
    word = word.removesuffix("e") if len(word) > 3 else word
    ending = next(
        (ending for ending in _ENDINGS if word.endswith(ending) and len(word) - len(ending) >= 4),
        "",
    )
    word = word.removesuffix(ending)
    return word[:-1] if len(word) > 3 and word[-1] in "yi" else word


def _cut_plural(word: str) -> str:
    if len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("us", "ss", "is")) else word


def check_query(query: str) -> None:
    """
    Check that a query names something to look for.

    Raises
    ------
    InputError
        It has function words alone, so that every sentence or none would bear on it.
    """
    if not split_words(query):
        raise InputError(
            f"query={show(query)} has no word to look for.",
            fix='name the subject: query="supply chain"',
        )


def filter_by_query(sentences: Sequence[Sentence], query: str | None) -> tuple[Sentence, ...]:
    """
    Return the sentences that bear on the query, in their own order; all of them where there is no
    query.

    A sentence bears on it if the two share a content word, compared without endings
    (`split_words`). That is the same as a BM25 score above 0.
    """
    if query is None:
        return tuple(sentences)
    wanted = set(split_words(query))
    return tuple(
        sentence for sentence in sentences if not wanted.isdisjoint(split_words(sentence.text))
    )


def choose(
    sentences: Sequence[Sentence],
    query: str | None,
    taxonomy: Taxonomy,
    limit: int,
    *,
    words: Sequence[str] = (),
) -> tuple[Sentence, ...]:
    """
    Return at most `limit` sentences, in their own order: all, or those that bear most on the query
    and on risk.

    Ranked by BM25 on the query first, then by BM25 on the words of the categories and of `words`;
    at equal rank the newer one, then the one that comes first. Deterministic.

    Parameters
    ----------
    sentences
        In document order (`sort_documents`); nothing is re-ordered in what is returned.
    query
        The reader's question, or None.
    taxonomy
        Its names and definitions are searched for.
    limit
        How many may be asked.
    words
        Further texts whose words count, such as the worked examples.

    Notes
    -----
    Lucene's BM25 with k1 1.5 and b 0.75 by the ``bm25s`` library.
    """
    if len(sentences) <= limit:
        return tuple(sentences)
    corpus = _tokenize([sentence.text for sentence in sentences])
    background = [
        *words,
        *(f"{category.name} {category.definition}" for category in taxonomy.categories),
    ]
    general = _score_bm25(corpus, chain.from_iterable(_tokenize(background)))
    asked = (
        [0.0] * len(sentences)
        if query is None
        else _score_bm25([split_words(one.text) for one in sentences], split_words(query))
    )

    def rank(index: int) -> tuple[float, float, int, int]:
        day = sentences[index].document.date or date.min
        return (-asked[index], -general[index], -day.toordinal(), index)

    return tuple(
        sentences[index] for index in sorted(sorted(range(len(sentences)), key=rank)[:limit])
    )


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    return list(
        _import_bm25s().tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    )


def _import_bm25s() -> Any:
    """
    Import bm25s without JAX: 0.3 s that only a run with very much evidence pays.

    bm25s starts JAX where it is installed, for a selection that is not used here. That costs
    threads, a second, and on a GPU three quarters of the memory that the model needs. If you have
    imported JAX before, you keep it.
    """
    hidden = not {"jax", "bm25s"} & set(sys.modules)
    if hidden:
        sys.modules["jax"] = None  # type: ignore[assignment]  # to the import system: there is none
    try:
        import bm25s
    finally:
        if hidden:
            del sys.modules["jax"]
    return bm25s


def _score_bm25(corpus: Sequence[Sequence[str]], words: Iterable[str]) -> list[float]:
    wanted = sorted(set(words) & set(chain.from_iterable(corpus)))
    if not wanted:
        return [0.0] * len(corpus)
    index = _import_bm25s().BM25()
    index.index([list(tokens) for tokens in corpus], show_progress=False)
    # Rounded, so that the last bit of a float never ranks one sentence before another.
    return [round(float(score), 4) for score in index.get_scores(wanted)]
