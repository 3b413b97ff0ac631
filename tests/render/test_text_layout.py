"""
Text laid out in a terminal's columns: nothing wider than the width, nothing lost, wide characters
counted as two.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.render.text_layout import MIN_WIDTH, cut, display_width, format_grid, wrap

WORDS = st.text(alphabet="abcdefg漢字カナ한e\u0301", min_size=1, max_size=50)
WIDTHS = st.integers(MIN_WIDTH, 70)


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("", 0), ("ｆｕｌｌ", 8), ("한국", 4)],
)
def test_display_width(text, columns):
    """
    As terminals draw it: East Asian wide and full-width characters take two columns, combining
    marks none.
    """
    assert display_width(text) == columns


def test_cut():
    """
    What fits stays; what does not ends in an ellipsis within the width, also between wide
    characters.
    """
    assert cut("NVDA", 4) == "NVDA"
    assert cut("NVIDIA", 4) == "NVI…"
    assert cut("漢字漢字", 6) == "漢字…"
    assert cut("漢字漢字", 5) == "漢字…"


@given(st.lists(WORDS, max_size=12), WIDTHS)
def test_wrapped_lines_fit_and_lose_nothing(words, width):
    """Every line fits, long words are broken, and all characters are there in order."""
    lines = wrap(" ".join(words), width, "> ", "  ")
    assert all(display_width(line) <= width for line in lines)
    assert "".join("".join(lines).removeprefix(">").split()) == "".join("".join(words).split())


def test_wrap_breaks_at_spaces():
    """Words stay whole where they fit; the first line and the others have their own indent."""
    assert wrap("one two three four", 12, "* ", "   ") == ["* one two", "   three", "   four"]


@given(
    st.integers(1, 7).flatmap(
        lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=1, max_size=4)
    ),
    WIDTHS,
)
def test_grids_fit(rows, width):
    """Whatever the cells are, no line is wider than the width, and every column is there."""
    lines = format_grid([f"c{n}" for n in range(len(rows[0]))], rows, width)
    assert all(display_width(line) <= width for line in lines)
    heads = " ".join(line for line in lines if line.startswith("c0")).split()
    assert set(heads) == {f"c{n}" for n in range(len(rows[0]))}


def test_a_grid_that_does_not_fit_goes_on_below():
    """
    The first column is repeated, the others follow in further blocks; numbers stand on the right.
    """
    lines = format_grid(
        ["ticker", "return", "level"],
        [["AAPL", "5.0%", "Low"], ["MSFT", "-10.0%", "High"]],
        20,
        right=frozenset({1}),
    )
    assert lines == [
        "ticker  return",
        "------  ------",
        "AAPL      5.0%",
        "MSFT    -10.0%",
        "",
        "ticker  level",
        "------  -----",
        "AAPL    Low",
        "MSFT    High",
    ]
    assert (
        format_grid(["ticker", "return", "level"], [["AAPL", "5.0%", "Low"]], 21)[0]
        == "ticker  return  level"
    )
