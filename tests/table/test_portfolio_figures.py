"""What `table.portfolio` looks like, and that it is a Series all the same."""

import copy
import pickle
import re

import pandas as pd
import pytest

from hostile_answers import TAGS
from price_data import walk
from urisk_nb import assess
from urisk_nb.table.portfolio_figures import PortfolioFigures


@pytest.fixture(scope="module")
def figures():
    book = "AAA=0.6, BBB=0.6, SPY=-0.2"
    return assess(
        book, prices=walk(columns=("AAA", "BBB", "SPY")), params={"alpha": (0.05, 0.025)}
    ).portfolio


def test_each_figure_stands_with_its_unit_and_what_it_is(figures):
    """Fractions as per cent, VaR and ES to a basis point, ratios as they are."""
    lines = {line.split()[0]: line for line in repr(figures).splitlines() if line}
    assert f"{figures['vol_ann']:.1%}  volatility a year" in lines["vol_ann"]
    assert f"{figures['es_975']:.2%}  ES 97.5, historical" in lines["es_975"]
    assert f"{figures['diversification_ratio']:.2f}  1 says" in lines["diversification_ratio"]
    assert "140.0%  gross" in lines["weight_gross"]
    assert lines["first_obs"].split()[1] == figures["first_obs"].date().isoformat()
    assert "reason" not in lines
    html = figures._repr_html_()
    assert re.search(rf"vol_ann</bdi></td><td[^>]*><bdi>{figures['vol_ann']:.1%}</bdi>", html)


def test_every_figure_is_explained(figures):
    """A new figure has its few words, too."""
    rows = [line for line in repr(figures).splitlines()[3:] if line]
    assert [line.split()[0] for line in rows if len(re.split(r" {2,}", line)) < 3] == []


def test_it_is_a_series(figures):
    """The values are the fractions; what pandas makes of it shows in the same way."""
    assert isinstance(figures, pd.Series)
    assert 0 < figures["vol_ann"] < 1
    tails = figures.filter(like="var_95").astype(float)
    assert isinstance(tails, PortfolioFigures)
    assert (2 * tails).iloc[0] == 2 * figures["var_95"]
    assert type(figures.to_frame()) is pd.DataFrame
    assert figures.to_dict()["es_95"] == figures["es_95"]
    for same in (pickle.loads(pickle.dumps(figures)), copy.deepcopy(figures), figures.copy()):
        assert repr(same) == repr(figures)
    assert repr(figures.iloc[:0]) == "portfolio"
    assert "own" in repr(pd.concat([figures, pd.Series({"own": 3})]))


def test_a_missing_figure_has_its_reason_above_it():
    """And the flag its sentence."""
    shown = repr(assess("AAA=0.5, ZZZ=0.5", prices=walk(columns=("AAA",))).portfolio)
    assert shown.splitlines()[1].startswith("The portfolio cannot be computed: ZZZ")
    assert "no_portfolio: The portfolio" in shown


@pytest.mark.parametrize("attack", [TAGS["image with an event"], "\x1b[31m", "\u202eabc"])
def test_it_is_escaped(figures, attack):
    """Names, values and the reason, in HTML and as text."""
    hostile = pd.concat([figures, pd.Series({attack: attack})])
    hostile["reason"] = attack
    assert attack not in hostile._repr_html_()
    assert not {"\x1b", "\u202e"} & set(repr(hostile))


def test_a_notebook_without_html_shows_none(figures):
    """As pandas does."""
    with pd.option_context("display.notebook_repr_html", False):
        assert figures._repr_html_() is None
