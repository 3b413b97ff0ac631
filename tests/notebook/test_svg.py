"""
The small pictures: what is drawn is as long as what was measured, legible to programs and to screen
readers.
"""

import itertools
import re
from xml.etree import ElementTree

import pytest

from call_records import answered, failed
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.messages import Final
from urisk_nb.notebook import svg
from urisk_nb.notebook.latencies import COLOURS

COLUMN = re.compile(r"M([\d.]+) ([\d.]+)h([\d.]+)v-([\d.]+)h-[\d.]+z")


def parsed(markup):
    """As a browser takes it: SVG within HTML needs no namespace."""
    return ElementTree.fromstring(markup)


def columns(root, colour):
    """Left, bottom, width and height of each column of the colour."""
    found = [path.get("d") for path in root.iter("path") if path.get("fill") == colour]
    return [tuple(map(float, match.groups())) for path in found for match in COLUMN.finditer(path)]


def area(root):
    """The bottom of the drawing, and how many units high it is."""
    lines = [
        float(path.get("d").split()[1].partition("H")[0])
        for path in root.iter("path")
        if path.get("stroke")
    ]
    return max(lines), max(lines) - min(lines)


def labels(root):
    return [text.text for text in root.iter("text")]


def test_a_column_is_as_high_as_its_call_took_long():
    """Phases stand on each other; two calls of 0.95 s and 1.9 s under an axis that ends at 2 s."""
    calls = Calls()
    for times in (0.95, 1.9):
        answered(
            calls, queue=0.1 * times, load=0.2 * times, prompt=0.3 * times, generation=0.4 * times
        )
    root = parsed(svg.draw_strip(calls.records))
    bottom, high = area(root)
    assert "2 s" in labels(root)
    for number, whole in ((0, 0.95), (1, 1.9)):
        under = bottom
        for phase, share in (
            ("queue_s", 0.1),
            ("load_s", 0.2),
            ("prompt_s", 0.3),
            ("generation_s", 0.4),
        ):
            _, base, _, height = columns(root, COLOURS[phase])[number]
            assert height == pytest.approx(whole * share / 2 * high, abs=0.1)
            assert base == pytest.approx(under, abs=0.2)
            under = base - height
    assert under == pytest.approx(bottom - high, abs=high * 0.06)


def test_the_newest_call_is_on_the_right_and_no_more_than_two_hundred_are_shown():
    """
    Whatever their number, the last column ends where the picture ends; a few are drawn wider than
    many.
    """
    calls, wide = Calls(), []
    for count in (1, 50, 51, 200):
        while len(calls.records) < count:
            answered(calls)
        drawn = columns(parsed(svg.draw_strip(calls.records)), COLOURS["generation_s"])
        assert len(drawn) == count
        assert drawn[-1][0] + drawn[-1][2] == pytest.approx(svg.WIDTH, abs=2)
        wide.append(drawn[0][2])
    assert wide[0] == wide[1] > 1.5 * wide[2] > wide[3]
    assert min(left for left, *_ in drawn) >= svg.LEFT
    assert all(before[0] + before[2] < after[0] for before, after in itertools.pairwise(drawn)), (
        "a gap between two"
    )


def test_calls_that_failed_have_a_red_cap():
    """Also where nothing was measured; the label counts them."""
    calls = Calls()
    answered(calls)
    failed(calls)
    failed(calls, GeneratorExit())
    root = parsed(svg.draw_strip(calls.records))
    assert len(columns(root, svg.FAILED)) == 2
    assert (
        root.get("aria-label") == "Latency of the last 3 calls, up to 1 seconds; 2 did not succeed"
    )
    assert root.get("role") == "img"


def test_a_call_without_counters_stands_as_long_as_our_clock_says():
    """A server of another make: the time to the first piece, and from there to the end."""
    calls = Calls()
    record = calls.begin(b"{}", "m")
    record.first_sent_s = record.sent_s = record.started_s = record.asked_s
    record.first_s = record.asked_s + 0.5
    calls.end(record, Final())
    object.__setattr__(record.timing, "total_s", 2.0)
    root = parsed(svg.draw_strip(calls.records))
    high = area(root)[1]
    assert columns(root, COLOURS["prompt_s"])[0][3] == pytest.approx(0.25 * high, abs=0.1)
    assert columns(root, COLOURS["generation_s"])[0][3] == pytest.approx(0.75 * high, abs=0.1)


def test_one_long_call_does_not_flatten_the_others():
    """
    Twenty calls of 0.19 s stay as high as without it; the long one is cut at the top, marked by a
    triangle, and its time is written. The sum of its parts is the whole height.
    """
    calls = Calls()
    for number in range(21):
        times = {"prompt": 20.0, "generation": 22.0} if number == 7 else {"generation": 0.19}
        answered(calls, **{"queue": 0.0, "load": 0.0, "prompt": 0.0, **times})
    root = parsed(svg.draw_strip(calls.records))
    bottom, high = area(root)
    usual = columns(root, COLOURS["generation_s"])
    assert len(usual) == 20, "no room is left for what comes after the cut"
    assert [height for *_, height in usual] == [pytest.approx(0.95 * high, abs=0.2)] * 20
    (left, _, width, height) = columns(root, COLOURS["prompt_s"])[0]
    assert height == pytest.approx(high, abs=0.1)
    (marks,) = [path.get("d") for path in root.iter("path") if path.get("d").count("l") == 1]
    x, y = map(float, re.match(r"M([\d.]+) ([\d.]+)h8l-4 -6z$", marks).groups())
    assert x + 4 == pytest.approx(left + width / 2, abs=1)
    assert y == pytest.approx(bottom - high, abs=0.1)
    (text,) = [text for text in root.iter("text") if text.text == "42 s"]
    assert text.find("title").text == "42 s"
    assert float(text.get("y")) > 0.8 * svg.FONT_SIZE, "within the picture"
    assert float(text.get("y")) < y - 6
    assert root.get("aria-label") == (
        "Latency of the last 21 calls, up to 0.2 seconds; 1 call cut, the longest 42 seconds"
    )


def test_a_long_call_that_failed_keeps_its_red_cap():
    """The cap stands at the top of the cut column."""
    calls = Calls()
    for _ in range(9):
        answered(calls)
    record = answered(calls, generation=60.0)
    record.outcome = "ServerTimeout"
    root = parsed(svg.draw_strip(calls.records))
    bottom, high = area(root)
    ((_, base, _, height),) = columns(root, svg.FAILED)
    assert base - height == pytest.approx(bottom - high, abs=0.1)
    assert "60.1 s" in labels(root)


def test_nothing_is_cut_where_nothing_is_long():
    calls = Calls()
    for _ in range(9):
        answered(calls)
    drawn = svg.draw_strip(calls.records)
    assert "<title>" not in drawn
    assert "cut" not in parsed(drawn).get("aria-label")


def test_no_calls_and_no_time_still_have_an_axis():
    """Nothing to draw is no reason to fail."""
    assert "1 s" in labels(parsed(svg.draw_strip(())))


def bars(root):
    return [tuple(float(rect.get(name)) for name in ("x", "width")) for rect in root.iter("rect")]


def test_a_waterfall_goes_on_where_the_step_before_ended():
    """As long as its share of the whole; figures beside it; names are text."""
    root = parsed(
        svg.draw_waterfall(
            [("a<b", 1.0, "#111111"), ("c", 3.0, "#222222"), ("d", 0.0, "#333333")], 'call "1"'
        )
    )
    (x1, long1), (x2, long2), (x3, long3) = bars(root)
    assert long2 == pytest.approx(3 * long1)
    assert (x2, x3) == (pytest.approx(x1 + long1), pytest.approx(x2 + long2))
    assert long3 == 1, "seen, though it took no time"
    assert labels(root)[:2] == ["a<b", "1.000 s"]
    assert root.get("aria-label") == 'call "1"'


def test_a_bar_is_as_long_as_its_share():
    """A call that has taken half of the longest one's time fills half of it."""
    drawn = bars(parsed(svg.draw_bar({"#111111": 1.0, "#222222": 1.0}, 4.0)))
    assert drawn == [(0.0, 50.0), (50.0, 50.0)]
    assert bars(parsed(svg.draw_bar({"#111111": 0.0}, 0.0))) == [(0.0, 0.0)]


def test_the_legend_names_every_colour():
    """In words, since colours alone tell some nothing."""
    legend = svg.draw_legend()
    assert all(colour in legend for colour in (*COLOURS.values(), svg.FAILED))
    assert "failed or cancelled" in legend
