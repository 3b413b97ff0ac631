"""
Columns that the user chose are shown as they are chosen: named, formatted by what they hold,
escaped, and within the width.
"""

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

from urisk_nb.render.text_layout import display_width
from urisk_nb.table.risk_table import RiskTable

HOSTILE = "<b>x</b>\u202e\x1b[31m\u200b"


@pytest.fixture
def table():
    frame = {
        "vol_ann": [0.25, np.nan],
        "var_99_lo": [0.0312, 0.04],
        "beta": [1.234567891, -0.5],
        "score": [35.0, 0.0],
        "n_obs": pd.array([120, None], dtype="Int64"),
        "max_dd_peak": pd.to_datetime(["2018-03-01", None]),
        "level": pd.Categorical(["Severe", "NR"]),
        "note": ["as it is", None],
        "is_ours": [True, False],
    }
    return RiskTable(frame, index=pd.Index(["AAA", "BBB"], name="ticker"))


def test_values_look_as_their_columns_want(table):
    """Fractions in percent, a score with one digit, whole counts, dates, a dash for none."""
    lines = table.as_text(200).splitlines()
    assert lines[0].split() == ["ticker", *table.columns]
    first = ["AAA", "25.0%", "3.1%", "1.23", "35.0", "120", "2018-03-01", "Severe"]
    assert lines[2].split() == [*first, "as", "it", "is", "True"]
    second = ["BBB", "–", "4.0%", "-0.50", "0.0", "–", "–", "NR", "–", "False"]
    assert lines[3].split() == second
    html = table._repr_html_()
    for text in (*first, *second, "as it is"):
        assert f">{text}<" in html


def test_the_order_and_the_names_are_the_users(table):
    """Also a name of the compact view keeps its own name and place."""
    chosen = table[["score", "vol_ann"]].rename(columns={"score": "my score"})
    assert chosen.as_text().split("\n")[0].split() == ["ticker", "my", "score", "vol_ann"]
    assert "vol (ann.)" not in chosen._repr_html_()
    assert "2 rows x 2 columns" in chosen.as_text()


def hostile_tables(table):
    yield table.rename(index={"AAA": HOSTILE})
    yield table.rename(columns={"note": HOSTILE})
    yield table.rename_axis(index=HOSTILE)
    yield table.assign(note=HOSTILE)
    yield table.assign(note=[[HOSTILE], {HOSTILE: 1}])
    yield table.assign(note=[type("Odd", (), {"__repr__": lambda _: HOSTILE})(), None])
    yield table.assign(note=pd.Categorical([HOSTILE, "x"]))
    yield table.assign(level=HOSTILE)
    yield table.assign(flags=HOSTILE)
    yield table.assign(flags=HOSTILE, status=HOSTILE, run_id="r", score=1.0)
    yield table.assign(note=HOSTILE).set_index("note", append=True)
    yield table.assign(note=HOSTILE).T
    yield pd.concat({HOSTILE: table}, axis=1)


@pytest.mark.parametrize("number", range(13))
def test_hostile_text_anywhere(table, number):
    """In labels, names, cells, objects in cells, several index levels: escaped, and visible."""
    hostile = list(hostile_tables(table))[number]
    html, text = hostile._repr_html_(), repr(hostile)
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    for shown in (html, text):
        assert not set(shown) & set("\u202e\x1b\u200b")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_chosen_columns_fit_the_width(table, width):
    """Long cells are cut, columns that do not fit go on below, wide characters count as two."""
    long = table.assign(note=["漢字" * 60, "w" * 300]).rename(columns={"beta": "b" * 90})
    assert max(map(display_width, long.as_text(width).splitlines())) <= width
    assert "35.0" in long.as_text(width)


def test_several_levels_are_named(table):
    """Labels of several levels stand with commas between them."""
    both = table[["beta"]].set_index(pd.Index(["x", "y"], name="book"), append=True)
    assert "ticker, book" in both._repr_html_()
    assert "AAA, x" in both.as_text()
    wide = pd.concat({"one": table[["beta"]], "two": table[["beta"]]}, axis=1)
    assert "one, beta" in wide._repr_html_()


def test_many_rows_are_cut_and_counted():
    """A hundred rows are shown, of how many is said; in HTML and in text."""
    table = RiskTable({"beta": np.arange(250.0)})
    for shown in (table._repr_html_(), table.as_text()):
        assert "100 of 250 rows shown." in shown
        assert "250 rows x 1 columns" in shown
        assert "99" in shown
        assert "101" not in shown


def test_it_needs_no_extension(table):
    """IPython shows what the table makes of itself, whether the extension is loaded or not."""
    data, _ = DisplayFormatter().format(table)
    assert data["text/html"] == table._repr_html_()
    assert data["text/plain"] == repr(table) == table.as_text()
    with pd.option_context("display.notebook_repr_html", False):
        assert table._repr_html_() is None
