"""The chart of `%urisk_latency --plot`: one long call does not flatten it, and is marked."""

import pytest

from call_records import answered, failed
from urisk_nb.llm.calls import Calls
from urisk_nb.notebook import latencies


def chart(calls):
    return latencies.draw_latency(latencies.build_table(calls.records))


def test_a_long_call_is_cut_and_its_time_is_written():
    """The axis holds the usual calls; the words stand at the call's own place, above the axis."""
    calls = Calls()
    for number in range(21):
        answered(calls, queue=0.0, load=0.0, prompt=0.0, generation=42.0 if number == 7 else 0.19)
    figure = chart(calls)
    assert tuple(figure.layout.yaxis.range) == (0, 0.2)
    (words,) = figure.layout.annotations
    assert words.text == "▲ 42 s"
    assert words.x == pytest.approx(8), "calls are numbered from 1"
    assert (words.y, words.yref, words.yanchor) == (1, "paper", "bottom")
    assert max(figure.data[-1].y) == pytest.approx(42), "a double click shows it whole"


def test_long_calls_side_by_side_share_their_words():
    calls = Calls()
    for number in range(100):
        answered(calls, generation={40: 12.0, 41: 42.0}.get(number, 0.19))
    (words,) = chart(calls).layout.annotations
    assert words.text == "▲ 12.1–42.1 s"
    assert words.hovertext == "12.1 s, 42.1 s"
    assert words.x == pytest.approx(41.5)


def test_usual_calls_have_plotlys_own_axis():
    """Calls that failed at once change nothing."""
    calls = Calls()
    for _ in range(5):
        answered(calls)
    failed(calls)
    failed(calls)
    figure = chart(calls)
    assert figure.layout.yaxis.range is None
    assert not figure.layout.annotations


def test_no_calls_are_an_empty_chart():
    assert all(not len(bar.x) for bar in chart(Calls()).data)
