"""
Probabilities of labels out of told tokens: shared beginnings, split quotation marks, the floor; the
correction by the prior.
"""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.risk.calibration import Token, distribution, prior, subtract_prior

LABELS = ("legal", "liquidity", "business", "none")


def plain(logprobs):
    """The probabilities without subtracting anything, made to add up to 1."""
    return subtract_prior(logprobs, dict.fromkeys(logprobs, 0.0))


def token(text, share=1.0, **top_logprobs):
    """
    A token and others at its place, by probability; underscores stand for quotation marks in names.
    """
    return Token(
        text=text,
        logprob=math.log(share),
        top_logprobs=tuple(
            (name.replace("_", '"'), math.log(p)) for name, p in top_logprobs.items()
        ),
    )


def shares(tokens, key="risk", labels=LABELS):
    return {
        label: math.exp(logprob) for label, logprob in distribution(tokens, key, labels).items()
    }


def test_one_token_a_label():
    """
    Each label has the probability of its token; what is no label has none of it; the rest is at the
    floor.
    """
    tokens = [
        token('{"'),
        token("risk"),
        token('":"'),
        token("legal", 0.5, business=0.2, other=0.15, liquidity=0.05),
        token('"}'),
    ]
    assert shares(tokens) == pytest.approx(
        {"legal": 0.5, "business": 0.2, "liquidity": 0.05, "none": 0.05}
    )


def test_the_floor_is_no_more_than_what_is_left():
    """
    Two tokens have all but a hundredth: what is not told shares that hundredth at most. One that is
    certain leaves next to nothing.
    """
    tokens = [token('{"risk":"'), token("legal", 0.5, business=0.49), token('"}')]
    assert shares(tokens) == pytest.approx(
        {"legal": 0.5, "business": 0.49, "liquidity": 0.01, "none": 0.01}
    )
    certain = shares([token('{"risk":"legal","severity":3}')])
    assert certain["legal"] == pytest.approx(1)
    assert max(certain["none"], certain["business"]) < 1e-8


def test_the_written_token_need_not_be_among_the_told():
    """
    A grammar has forced it: it is the most probable of what is allowed, so that no label can have
    more.
    """
    tokens = [token('{"risk":"'), token("legal", 0.001, The=0.6, A=0.3, I=0.05), token('"}')]
    assert list(shares(tokens).values()) == pytest.approx([0.001] * 4)


@pytest.mark.parametrize(
    "begin",
    [
        ['{"risk":"', "legal"],
        ['{"risk":', '"legal'],
        ['{"risk', '":"legal'],
        ['{"risk" : ', '"legal'],
        ['{\n  "risk"', "\n\n:", '\n\n"legal'],
    ],
)
def test_wherever_the_tokeniser_splits(begin):
    """
    The quotation mark, the colon and white space may belong to the label's token: others are read
    with the same before them.
    """
    before = begin[-1][: -len("legal")]
    top_logprobs = [
        (before + "none", math.log(0.3)),
        *([("none", math.log(0.05))] if before else []),
    ]
    tokens = [
        *map(token, begin[:-1]),
        Token(text=begin[-1], logprob=math.log(0.6), top_logprobs=tuple(top_logprobs)),
        token('"}'),
    ]
    got = shares(tokens)
    assert (got["legal"], got["none"]) == (pytest.approx(0.6), pytest.approx(0.3))


def test_labels_that_begin_with_the_same_token_are_told_apart_by_the_next():
    """
    0.8 for what both begin with, of which the next token gives three quarters to the written one.
    """
    tokens = [
        token('{"risk":"'),
        token("l", 0.8, business=0.1, none=0.1),
        token("egal", 0.75, iquidity=0.25),
        token('"}'),
    ]
    assert shares(tokens) == pytest.approx(
        {"legal": 0.6, "liquidity": 0.2, "business": 0.1, "none": 0.1}
    )


def test_a_shared_beginning_that_was_not_written_is_shared_equally():
    """Nobody knows how it would have gone on."""
    tokens = [token('{"risk":"'), token("business", 0.5, l=0.4, none=0.1), token('"}')]
    assert shares(tokens) == pytest.approx(
        {"business": 0.5, "legal": 0.2, "liquidity": 0.2, "none": 0.1}
    )


def test_a_token_may_hold_what_ends_the_label():
    """`legal","` is legal; `legally` is nothing."""
    tokens = [
        token('{"risk":"'),
        Token(
            text='legal","',
            logprob=math.log(0.4),
            top_logprobs=(("legally", math.log(0.3)), ('none"', math.log(0.2))),
        ),
    ]
    got = shares([*tokens, token('severity":3}')])
    assert (got["legal"], got["none"]) == (pytest.approx(0.4), pytest.approx(0.2))


def test_a_label_that_begins_another():
    """`market` and `marketing`: the token that both begin with is settled by what follows."""
    tokens = [
        token('{"risk":"'),
        token("market", 0.9, none=0.1),
        token("ing", 0.3, _=0.7),
        token('"}'),
    ]
    got = shares(tokens, labels=("market", "marketing", "none"))
    assert got == pytest.approx({"market": 0.63, "marketing": 0.27, "none": 0.1})


def test_severities_are_labels_too():
    """Digits, without a quotation mark."""
    text = '{"risk":"legal","severity":'
    tokens = [
        token(text),
        Token(
            text="3",
            logprob=math.log(0.5),
            top_logprobs=(("4", math.log(0.3)), ("1", math.log(0.1))),
        ),
        token("}"),
    ]
    got = shares(tokens, "severity", tuple("012345"))
    assert (got["3"], got["4"], got["1"], got["0"]) == tuple(
        map(pytest.approx, (0.5, 0.3, 0.1, 0.1))
    )


@pytest.mark.parametrize(
    "text", ["", "no JSON", '{"risk"', '{"risk":', '{"other":"legal"}', '{"risks":"legal"}']
)
def test_an_answer_without_the_key_tells_nothing(text):
    """None, never a guess."""
    assert distribution([token(part) for part in text], "risk", LABELS) is None
    assert distribution([], "risk", LABELS) is None


@pytest.mark.slow
@given(st.data())
def test_probabilities_never_exceed_what_is_told(data):
    """
    However the answer is cut into tokens, and whatever else is told: the labels' shares are no more
    than all of it, beside the floor.
    """
    text = json.dumps(
        {"risk": data.draw(st.sampled_from(LABELS)), "severity": 3}, separators=(",", ":")
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    words = st.text('legaliqudtybsn"o', min_size=1, max_size=4)
    tokens = []
    for piece in pieces:
        top_logprobs = data.draw(
            st.lists(words.filter(lambda word, piece=piece: word != piece), max_size=4, unique=True)
        )
        masses = data.draw(
            st.lists(
                st.floats(0.01, 1), min_size=len(top_logprobs) + 1, max_size=len(top_logprobs) + 1
            )
        )
        own, *rest = (math.log(mass / sum(masses)) for mass in masses)
        tokens.append(
            Token(text=piece, logprob=own, top_logprobs=tuple(zip(top_logprobs, rest, strict=True)))
        )
    got = distribution(tokens, "risk", LABELS)
    assert set(got) == set(LABELS)
    # The floor stands at several labels
    alike = [value for value in got.values() if list(got.values()).count(value) == 1]
    assert sum(map(math.exp, alike)) <= 1 + 1e-9


# The correction -----------------------------------------------------------------------------------


def test_a_bias_is_taken_off():
    """
    The model says business to everything, a little less to this sentence, and a little more legal:
    corrected, it is legal.
    """
    logprobs = {"legal": math.log(0.2), "business": math.log(0.7), "none": math.log(0.1)}
    before = prior([{"legal": math.log(0.05), "business": math.log(0.85), "none": math.log(0.1)}])
    got = subtract_prior(logprobs, before)
    gains = {"legal": 0.2 / 0.05, "business": 0.7 / 0.85, "none": 1.0}
    assert got == pytest.approx(
        {label: gain / sum(gains.values()) for label, gain in gains.items()}
    )
    assert max(got, key=got.get) == "legal"
    assert max(plain(logprobs), key=plain(logprobs).get) == "business"


def test_the_prior_is_the_mean_of_log_probabilities():
    """Over the sentences without content; the geometric mean of the probabilities."""
    got = prior(
        [{"a": math.log(0.1), "b": math.log(0.9)}, {"a": math.log(0.4), "b": math.log(0.4)}]
    )
    assert {label: math.exp(value) for label, value in got.items()} == pytest.approx(
        {"a": 0.2, "b": 0.6}
    )


@given(st.dictionaries(st.sampled_from(LABELS), st.floats(-30, 0), min_size=2))
def test_corrected_probabilities_add_up_and_no_correction_changes_nothing(logprobs):
    """
    A model that says the same to nothing as to the sentence has not read it: all labels are alike.
    """
    assert sum(plain(logprobs).values()) == pytest.approx(1)
    assert list(subtract_prior(logprobs, logprobs).values()) == pytest.approx(
        [1 / len(logprobs)] * len(logprobs)
    )
