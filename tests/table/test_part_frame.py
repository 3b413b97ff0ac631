"""What `table.stress()`, `backtest()` and `factors()` look like; they are frames all the same."""

import copy
import pickle
import re

import pandas as pd
import pytest

from hostile_answers import TAGS
from price_data import walk
from urisk_nb import assess
from urisk_nb.risk.row_warnings import WARNINGS
from urisk_nb.table.part_frame import PartFrame

NAMES = ("backtest", "stress", "factors")


@pytest.fixture(scope="module")
def table():
    return assess(
        "AAA=0.6, BBB=0.4",
        prices=walk(columns=("AAA", "BBB", "SPY", "TLT")),
        stress="fall=2022-03-01:2022-04-29; spring=2022-05-02:2022-06-30",
        factors="SPY,TLT",
    )


def find_cells(frame, row):
    """The cells of a row of the HTML by their heading, each with its style."""
    html = frame._repr_html_()
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", html)[1:]
    body = re.findall(r"<tr><th scope=\"row\".*?</tr>", html)[row]
    found = re.findall(r'<td style="([^"]*)">(?:<bdi>)?(.*?)(?:</bdi>)?</td>', body)
    return dict(zip(heads, found, strict=True))


def test_fractions_are_per_cent_to_the_right(table):
    """To the digit that the risk table shows, in HTML and as text; words stay on the left."""
    losses = table.stress()
    cells = find_cells(losses, 1)
    for name in ("ret_total", "max_dd"):
        shown = f"{losses[name].iloc[1]:.1%}"
        assert cells[name][1] == shown
        assert "text-align:right" in cells[name][0]
        assert shown in repr(losses)
    assert cells["start"][1] == "2022-03-01"
    assert "white-space:nowrap" in cells["start"][0], "else it takes two lines"
    assert "text-align:left" in cells["ticker"][0]


def test_other_figures_have_the_digits_of_the_page(table):
    """Betas and p-values three decimals, the statistic of the test two; counts are whole."""
    betas, tests = table.factors(), table.backtest()
    cells = find_cells(betas, 2)
    for name in ("beta_SPY", "beta_TLT_se", "r2"):
        assert cells[name][1] == f"{betas[name].iloc[2]:.3f}"
    assert re.search(r'<th scope="row"[^>]*>portfolio</th>', betas._repr_html_())
    cells = find_cells(tests, 0)
    shown = [cells[name][1] for name in ("alpha", "window", "LR", "p_value")]
    first = tests.iloc[0]
    assert shown == ["0.05", "252", f"{first['LR']:.2f}", f"{first['p_value']:.3f}"]


def test_a_flag_has_its_sentence(table):
    """As under the risk table."""
    tests = table.backtest()
    assert WARNINGS["short_backtest"] in tests._repr_html_()
    assert "short_backtest: " in repr(tests)


def test_a_reason_is_told_whole():
    """What is missing of an episode is no use without its end."""
    frame = walk(columns=("AAA", "BBB"))
    frame["BBB"] = frame["BBB"].where(frame.index < "2022-04-10")
    losses = assess("BBB", prices=frame, stress="fall=2022-03-01:2022-04-29").stress()
    reason = losses["reason"][0]
    assert reason.endswith("the prices cover 2022-03-01 to 2022-04-08.")
    assert reason in repr(losses)
    assert reason in losses._repr_html_()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_frame_with_the_values_as_computed(table, name):
    """For code nothing changes: it is the frame of the report."""
    frame = getattr(table, name)()
    stored = pd.DataFrame(getattr(table.report, name))
    assert isinstance(frame, pd.DataFrame)
    pd.testing.assert_frame_equal(pd.DataFrame(frame), stored)
    assert frame.to_string() == stored.to_string()
    for same in (pickle.loads(pickle.dumps(frame)), copy.deepcopy(frame), frame.copy()):
        assert isinstance(same, PartFrame)
        assert repr(same) == repr(frame)


def test_what_is_selected_looks_the_same(table):
    """Rows, columns, another order, a pivot over several columns; figures of others are pandas'."""
    losses = table.stress()
    worst = losses["ret_total"].min()
    for some in (
        losses.query("ret_total == ret_total.min()"),
        losses[["ticker", "ret_total"]],
        losses.sort_values("ret_total").round({"ret_total": 6}),
        losses.set_index(["episode", "ticker"]),
        losses.pivot(index="ticker", columns="episode", values=["ret_total", "max_dd"]),
    ):
        assert f">{worst:.1%}</td>" in some._repr_html_()
        assert f" {worst:.1%}" in repr(some)
    assert losses.set_index(["episode", "ticker"]).loc[("fall", "AAA"), "max_dd"] < 1
    assert type(losses.describe()) is pd.DataFrame
    assert type(losses["max_dd"]) is pd.Series


@pytest.mark.parametrize("attack", [TAGS["image with an event"], "\x1b[31m", "\u202eabc"])
def test_it_is_escaped(table, attack):
    """Cells, labels of rows and names of columns, in HTML and as text."""
    hostile = table.stress().assign(**{attack: attack}).set_index("episode", append=True)
    hostile = hostile.rename({"fall": attack})
    assert attack not in hostile._repr_html_()
    assert not {"\x1b", "\u202e"} & set(repr(hostile))


def test_a_notebook_without_html_shows_none(table):
    """As pandas does."""
    with pd.option_context("display.notebook_repr_html", False):
        assert table.stress()._repr_html_() is None
