"""One long call does not flatten the chart of the others; its time is written where it is cut."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.notebook.time_axis import find_axis_end, label_cut_calls, round_up

SECONDS = st.floats(1e-3, 1e4)


def end_of(good_s, failed_s=()):
    return find_axis_end([*((one, True) for one in good_s), *((one, False) for one in failed_s)])


@pytest.mark.parametrize(
    ("durations_s", "end_s"),
    [
        ([], 1.0),
        ([0.0, 0.0], 1.0),
        # nothing is unusual: the axis holds all of them
        ([0.95, 1.9], 2.0),
        ([0.3] * 20 + [1.1], 2.0),
        # by hand: the 90th percentile of 11 calls is the 10th, 0.2 s; four times that is 0.8 s
        ([0.2] * 10 + [60.0], 0.2),
        ([0.2] * 10 + [0.8], 1.0),
        ([0.2] * 10 + [0.81], 0.2),
        # of three calls one may be cut, of two none
        ([0.2, 0.2, 60.0], 0.2),
        ([0.2, 60.0], 100.0),
        # a fifth of the calls is no exception
        ([0.2] * 8 + [9.0] * 2, 10.0),
        # calls that failed at once took no time, and say nothing of the others
        ([0.0] * 50 + [40.0], 50.0),
    ],
)
def test_the_axis_ends_where_the_usual_calls_end(durations_s, end_s):
    assert end_of(durations_s) == end_s


@pytest.mark.parametrize(
    ("good", "failed_s", "end_s"),
    [
        # two that were refused at once, and one that was answered
        ([0.51], [1e-5, 2e-5], 1.0),
        # a time limit is a long call, too
        ([0.2] * 10, [35.0], 0.2),
        # where most calls reach it, it is the usual
        ([0.2], [35.0] * 5, 50.0),
        # where none is answered, those that failed are all there is
        ([], [3e-3] * 4, 5e-3),
    ],
)
def test_calls_that_failed_at_once_do_not_set_the_scale(good, failed_s, end_s):
    assert end_of(good, failed_s) == end_s


@given(st.lists(SECONDS, min_size=1, max_size=200))
def test_most_calls_are_at_least_a_tenth_high_where_one_is_cut(durations_s):
    """Nine of ten calls fit, and the one at the percentile is seen."""
    end_s = end_of(durations_s)
    cut = [seconds for seconds in durations_s if seconds > end_s]
    assert len(cut) <= max(1, len(durations_s) / 10)
    assert len(cut) == 0 or len(durations_s) >= 3
    rest = sorted(seconds for seconds in durations_s if seconds <= end_s)
    assert rest[-1] >= 0.1 * end_s * (1 - 1e-9)
    assert all(seconds > 1.6 * rest[-1] or seconds <= end_s for seconds in durations_s)


@given(st.floats(1e-4, 1e5))
def test_the_axis_ends_a_little_above_the_longest(longest_s):
    """At a round number, never more than two and a half times as far."""
    top_s = round_up(longest_s)
    assert longest_s <= top_s <= 2.5 * longest_s * (1 + 1e-9)
    assert re.fullmatch(r"[125]0*|0\.0*[125]", f"{top_s:.10f}".rstrip("0").rstrip("."))


def labels_of(*cut):
    return label_cut_calls(cut, char_width=6, within=(0, 900))


def test_each_cut_call_has_its_time():
    """Far from each other each has its own words, centered above it."""
    found = labels_of((100, 12.34), (300, 250.4), (500, 0.5))
    assert [(one.center, one.words) for one in found] == [
        *((100, "12.3 s"), (300, "250 s"), (500, "0.5 s"))
    ]


def test_calls_side_by_side_share_their_words():
    """The shortest and the longest of them; every time is kept."""
    (found,) = labels_of((100, 42.0), (105, 12.0), (110, 30.0))
    assert found.words == "12–42 s"
    assert found.center == 105
    assert found.every == ("42 s", "12 s", "30 s")
    (same,) = labels_of((100, 42.0), (105, 42.0))
    assert same.words == "42 s"


def test_words_stay_within_the_drawing():
    """At either end they are moved inside."""
    first, last = labels_of((2, 42.0), (899, 42.0))
    assert first.center == 12
    assert last.center == 888


@given(st.lists(st.tuples(st.floats(0, 900), SECONDS), max_size=30))
def test_no_words_overlap_and_no_call_is_lost(cut):
    found = labels_of(*sorted(cut))
    assert sum(len(one.every) for one in found) == len(cut)
    for before, after in itertools.pairwise(found):
        assert before.center + 3 * len(before.words) < after.center - 3 * len(after.words)
