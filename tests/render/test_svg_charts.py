"""Charts show the numbers that they are given; shades are told apart without colour."""

import itertools
import re

import pytest

from table_maker import document, table_of
from urisk_nb.render.heatmap import SHADES, render_heatmap
from urisk_nb.render.svg import (
    BOTTOM,
    HEIGHT,
    MAX_POINTS,
    TOP,
    draw_bars,
    draw_drawdown,
    draw_returns,
)


def paths(markup, kind):
    return re.findall(rf'<path class="{kind}" d="([^"]+)"', markup)


def test_a_drawdown_hangs_as_deep_as_the_loss():
    """Of 0, 20, 0 and 50 % the last is the bottom, and the second two fifths of it."""
    shown = draw_drawdown([0.0, 0.2, 0.0, 0.5], "2024-01-01", "2024-01-04", "x")
    heights = [float(y) - TOP for y in re.findall(r"L\S+ ([\d.]+)", paths(shown, "area")[0])]
    whole = HEIGHT - TOP - BOTTOM
    assert heights == pytest.approx([0.0, 0.4 * whole, 0.0, whole], abs=0.06)
    assert ">50.0%<" in shown
    assert ">2024-01-01<" in shown


def test_a_long_drawdown_keeps_its_worst_day():
    losses = [0.01] * 5000
    losses[1234] = 0.7
    shown = draw_drawdown(losses, "a", "b", "x")
    heights = [float(y) for y in re.findall(r"L\S+ ([\d.]+)", paths(shown, "area")[0])]
    assert len(heights) == MAX_POINTS
    assert max(heights) == HEIGHT - BOTTOM


def test_a_price_that_never_fell_has_a_flat_line():
    assert "nan" not in draw_drawdown([0.0, 0.0], "a", "b", "x")


def test_only_returns_beyond_the_loss_are_in_the_tail():
    """Of -10 to 10 % in 41 bins and a loss of 5 %, the tail is the bins that end at -5 %."""
    returns = [number / 100 for number in range(-10, 11)]
    shown = draw_returns(returns, 0.05, "VaR 95", "x")
    assert len(re.findall("M", paths(shown, "tail")[0])) == 5  # -10 ... -6: -5 is in its own bin
    assert len(re.findall("M", paths(shown, "bar")[0])) == 16
    assert ">VaR 95 5.0%<" in shown
    assert paths(draw_returns(returns, None, "", "x"), "tail") == []


@pytest.mark.parametrize("returns", [[0.0], [0.01], [-0.02], [0.0, 0.0]])
def test_returns_that_are_all_the_same_are_drawn(returns):
    assert paths(draw_returns(returns, 0.05, "VaR 95", "x"), "bar")


def test_bars_go_from_zero_to_both_sides():
    shown = draw_bars({"A": 0.04, "<b>": -0.02}, "x")
    (left, right), (zero, end) = (
        tuple(map(float, re.match(r"M([\d.]+) \S+H([\d.]+)", path).groups()))
        for path in (paths(shown, "bar")[0], paths(shown, "tail")[0])
    )
    assert left == zero
    assert (right - left) == pytest.approx(2 * (zero - end), abs=0.2)
    assert "&lt;b&gt;" in shown


# Heatmap ------------------------------------------------------------------------------------------


def luminance(colour):
    """As WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_shades_grow_darker_and_their_texts_are_legible():
    """So they are told apart without colour vision and on grey paper."""
    assert list(SHADES) == [0, 1, 2, 3, 4, 5]
    backs = [luminance(back) for back, _ in SHADES.values()]
    for light, dark in itertools.pairwise(backs):
        assert light > dark
    for back, text in SHADES.values():
        low, high = sorted((luminance(back), luminance(text)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_severity_has_one_color_on_the_page_and_in_the_chart():
    """A reader who has both open sees one scale."""
    table = table_of([document("It was fined in May.")], label=lambda text: ("legal", 4))
    heat = table.charts.heatmap().data[0]
    scale = [color for _, color in heat.colorscale][::2]
    assert [back for back, _ in SHADES.values()] == scale


def test_a_cell_has_the_rating_and_how_many_sentences_count():
    labels = {"fined": ("legal", 3), "burned": ("operational", 2)}
    table = table_of(
        [document("It was fined in May. It was fined in June. The plant burned down.")],
        label=lambda text: next(label for word, label in labels.items() if word in text),
        symbols=("AAA", "BBB"),
    )
    shown = render_heatmap(table._content())
    assert '<td class="s3">3 (2)</td>' in shown
    assert '<td class="s2">2 (1)</td>' in shown
    assert shown.count("<td>–</td>") == 5 + 7
    assert render_heatmap(table_of([])._content()) == ""
