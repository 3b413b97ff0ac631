"""
A parameter is taken as it was meant and kept in one form, or refused with the likely intention.
"""

from __future__ import annotations

import json
import math
from datetime import date

import numpy as np
import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.risk.params import RiskParams, alpha_label


@pytest.mark.parametrize(
    ("alpha", "label"),
    [
        (0.05, "95"),
        (0.01, "99"),
        (0.025, "975"),
        (0.005, "995"),
        (0.1, "90"),
        (0.5, "50"),
        (0.3, "70"),
    ],
)
def test_column_names_carry_the_level(alpha, label):
    """The digits are exact: 0.3 is 70, though 1 - 0.3 is no such float."""
    assert alpha_label(alpha) == label


@pytest.mark.parametrize(
    "alpha", [0.05, [0.05], "0.05", np.float64(0.05), (0.05, 0.05), np.array([0.05])]
)
def test_alpha_has_one_form(alpha):
    """A number, text and lists mean the same; a repeated one counts once."""
    assert RiskParams.of(alpha=alpha) == RiskParams()


def test_parameters_survive_their_record():
    """What as_dict writes is JSON, and reads back to equal parameters."""
    params = RiskParams.of(
        alpha="0.05, 0.01",
        end=pd.Timestamp("2024-06-30"),
        as_of=pd.Timestamp(2024, 7, 1, 12).to_pydatetime(),
        window="18M",
        benchmark=" SPY ",
        query="  ",
        seed=np.int64(3),
        periods_per_year="252",
    )
    assert (params.window, params.benchmark, params.query, params.as_of) == (
        "18m",
        "SPY",
        None,
        date(2024, 7, 1),
    )
    assert RiskParams.of(**json.loads(json.dumps(params.as_dict()))) == params
    assert hash(params) == hash(RiskParams.of(**params.as_dict()))


def test_text_is_taken_as_a_magic_hands_it_over():
    """What is typed after a flag means the same as the value in Python."""
    typed = RiskParams.of(
        alpha="0.05, 0.01",
        start="2024-01-01",
        as_of="2024-06-30",
        max_sentences="12",
        num_predict=" 32 ",
        seed="7",
        periods_per_year="52",
    )
    meant = RiskParams(
        alpha=(0.05, 0.01),
        start=date(2024, 1, 1),
        as_of=date(2024, 6, 30),
        max_sentences=12,
        num_predict=32,
        seed=7,
        periods_per_year=52.0,
    )
    assert typed == meant


BAD_PARAMS = {
    "half a sentence as text": (
        {"max_sentences": "1.5"},
        "'1.5' is not a whole number of 1 or more",
        "max_sentences=1",
    ),
    "no sentence as text": (
        {"max_sentences": "0"},
        "'0' is not a whole number of 1 or more",
        "max_sentences=1",
    ),
    "a number with a grouping sign": ({"max_sentences": "1_0"}, "'1_0'", "max_sentences=1"),
    "words for a number": ({"seed": "any"}, "'any' is not a whole number of 0 or more", "seed=1"),
    "no known kind of labels": (
        {"labels": "sharp"},
        "is not one of greedy, calibrated",
        "labels='greedy'",
    ),
    "a probability in percent": ({"review_below": 70}, "review_below=70", "did you mean 0.7?"),
    "a percent sign for one": ({"review_below": "70%"}, "'70%'", "did you mean 0.7?"),
    "a negative probability": ({"review_below": -0.1}, "review_below=-0.1", "review_below=0.5"),
    "words for a probability": ({"review_below": "low"}, "'low'", "review_below=0.5"),
    "True for a probability": ({"review_below": True}, "True", "review_below=0.5"),
    "no probability": ({"review_below": math.nan}, "nan", "review_below=0.5"),
    "a percent": ({"alpha": 5}, "alpha=5", "did you mean 0.05?"),
    "a level in percent": ({"alpha": 97.5}, "alpha=97.5", "did you mean 0.025?"),
    "a level": ({"alpha": 0.99}, "alpha=0.99", "did you mean 0.01?"),
    "a percent in a list": ({"alpha": [0.05, 1]}, "alpha=1 ", "alpha=0.05"),
    "a percent sign": ({"alpha": "5%"}, "'5%'", "alpha=0.05"),
    "zero": ({"alpha": 0}, "alpha=0 ", "alpha=0.05"),
    "negative": ({"alpha": -0.05}, "alpha=-0.05", "alpha=0.05"),
    "NaN": ({"alpha": math.nan}, "alpha=nan", "alpha=0.05"),
    "words for alpha": ({"alpha": "small"}, "'small'", "alpha=0.05"),
    "True for alpha": ({"alpha": True}, "True", "alpha=0.05"),
    "no alpha": ({"alpha": []}, "empty", "alpha=0.05"),
    "end before start": (
        {"start": "2024-02-01", "end": "2024-01-01"},
        "start=2024-02-01 is after end=2024-01-01",
        "start=2024-01-01",
    ),
    "start after as_of": (
        {"start": "2024-02-01", "as_of": "2024-01-01"},
        "after as_of=2024-01-01",
        "as_of=2024-02-01",
    ),
    "window and start": ({"start": "2024-02-01", "window": "2y"}, "both", "one of the two"),
    "a window in words": ({"window": "2 years"}, "'2 years'", 'window="2y"'),
    "a window without unit": ({"window": "90"}, "'90'", "90d"),
    "a window as number": ({"window": 90}, "window=90", "90d"),
    "a window of nothing": ({"window": "0d"}, "'0d'", 'window="2y"'),
    "a window of ages": ({"window": "5000y"}, "100y", 'window="2y"'),
    "a German date": ({"as_of": "31.12.2024"}, "as_of='31.12.2024'", "2019-12-30"),
    "a number for a date": ({"end": 20241231}, "end=20241231", "2019-12-30"),
    "no time": ({"as_of": pd.NaT}, "NaT", "2019-12-30"),
    "a day that is none": ({"start": "2023-02-29"}, "'2023-02-29'", "2019-12-30"),
    "an empty benchmark": ({"benchmark": " "}, "empty", "leave benchmark out"),
    "a Series in the parameters": ({"benchmark": pd.Series([1.0])}, "a Series", '"given"'),
    "no factor": ({"periods_per_year": 0}, "periods_per_year=0", "252"),
    "words for a factor": ({"periods_per_year": "daily"}, "'daily'", "252"),
    "an infinite factor": ({"periods_per_year": math.inf}, "inf", "252"),
    "a misspelt name": ({"benchmrk": "SPY"}, "'benchmrk'", "did you mean 'benchmark'?"),
    "an unknown name": ({"xyz": 1}, "'xyz'", "alpha"),
    "half a sentence": ({"max_sentences": 1.5}, "1.5", "max_sentences=1"),
    "no sentence": ({"max_sentences": 0}, "max_sentences=0", "max_sentences=1"),
    "no token": ({"num_predict": 0}, "num_predict=0", "num_predict=1"),
    "True for a seed": ({"seed": True}, "seed=True", "seed=1"),
    "a negative seed": ({"seed": -1}, "seed=-1", "seed=1"),
    "words for a switch": ({"llm": "no"}, "'no'", "llm=True"),
    "a number for a switch": ({"returns": 1}, "returns=1", "returns=True"),
    "a number for a query": ({"query": 5}, "an int", "query="),
    "an empty model": ({"model": ""}, "empty", "leave model out"),
}


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_bad_parameters_are_refused(case):
    """
    Each setting that cannot be meant as given is named with its value and the likely intention.
    """
    given_params, seen, fix = BAD_PARAMS[case]
    with pytest.raises(InputError) as caught:
        RiskParams.of(**given_params)
    assert seen in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0])
def test_the_ends_are_probabilities(value):
    """0 lets each label count, 1 only the certain ones."""
    assert RiskParams.of(review_below=value).review_below == value
