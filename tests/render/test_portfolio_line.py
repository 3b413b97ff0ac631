"""The portfolio under the rows: its main figures with name and unit, and why one is missing."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from price_data import walk
from report_maker import ATTACKS, give
from table_maker import document, finish, prices
from urisk_nb import assess
from urisk_nb.render.text_layout import display_width
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare

DASH = "–"
BOOK = {"AAA": 0.6, "BBB": -0.2, "CCC": 0.6}


def labeled(weights):
    """AAA has the score 35 and BBB 60; CCC has no evidence, and so no score."""
    holdings = [Holding(symbol=symbol, weight=weight) for symbol, weight in weights.items()]
    documents = [document("Acme was fined."), document("Boro was sued.", "D2", "BBB")]
    plan = prepare(holdings, prices(*weights), documents, RiskParams.of())
    return finish(plan, lambda text: ("legal", 3 if "fined" in text else 4))


def read_cells(table):
    """The headings and values of the portfolio under the table, as HTML shows them."""
    root = ElementTree.fromstring(table._repr_html_().replace("<details open>", "<details>"))
    found = root.find(".//table[@aria-label='portfolio']")
    heads, values = (
        ["".join(cell.itertext()) for cell in found.iter(kind)] for kind in ("th", "td")
    )
    return dict(zip(heads, values, strict=True))


def test_the_main_figures_by_numpy():
    """Of the returns of the book, worked out beside the product; a year has 252 days."""
    frame = walk(700)
    moves = frame.to_numpy()[1:] / frame.to_numpy()[:-1] - 1
    parts = moves * list(BOOK.values())
    book = np.sort(parts.sum(axis=1))
    wealth = np.concatenate(([1.0], np.cumprod(1 + parts.sum(axis=1))))
    tail = 0.05 * len(book)
    rank = int(np.ceil(tail))
    shortfall = -(book[: rank - 1].sum() + (tail - rank + 1) * book[rank - 1]) / tail
    sizes = np.abs(list(BOOK.values())) / 1.4
    ratio = np.abs(list(BOOK.values())) @ moves.std(axis=0, ddof=1) / book.std(ddof=1)
    expected = {
        "return": f"{wealth[-1] - 1:.1%}",
        "vol (ann.)": f"{book.std(ddof=1) * np.sqrt(252):.1%}",
        "VaR 95 (day)": f"{-book[rank - 1]:.1%}",
        "ES 95 (day)": f"{shortfall:.1%}",
        "max drawdown": f"{(1 - wealth / np.maximum.accumulate(wealth)).max():.1%}",
        "diversification ratio": f"{ratio:.2f}",
        "effective number": f"{1 / (sizes**2).sum():.2f}",
    }
    table = assess(BOOK, prices=frame)
    assert read_cells(table) == expected
    text = repr(table)
    assert "portfolio: 3 holdings, net 100.0%, gross 140.0%" in text
    assert "portfolio: 3 holdings, net 100.0%, gross 140.0%" in table._repr_html_()
    for name, value in expected.items():
        assert f"{name} {value}" in text


@pytest.mark.parametrize(
    ("tickers", "rows", "alpha"),
    [
        ({"AAA": 0.5, "ZZZ": 0.5}, 300, 0.05),
        ({"AAA": 0.5, "BBB": 0.5}, 20, 0.05),
        ({"AAA": 0.5, "BBB": 0.5}, 300, 0.001),
        ({"AAA": 60, "BBB": 40}, 700, 0.05),
        ({"AAA": 0, "BBB": 0}, 300, 0.05),
    ],
)
def test_a_missing_figure_has_its_reason(tickers, rows, alpha):
    """Beside the figures, with its flag, once."""
    table = assess(tickers, prices=walk(rows), params={"alpha": [alpha]})
    assert DASH in read_cells(table).values()
    reason, codes = table.portfolio[["reason", "flags"]]
    text = " ".join(repr(table).split())
    assert f"{codes.replace(';', ', ')}: {reason}" in text
    assert text.count(reason) == 1
    html = table._repr_html_()
    assert html.count(reason) == 1
    assert all(f">{code}</span>" in html for code in codes.split(";"))
    assert reason in table.report.meta["messages"]["*"]  # for those who read the record


def test_a_whole_portfolio_has_no_dash_and_no_reason():
    table = assess(BOOK, prices=walk())
    assert DASH not in read_cells(table).values()
    assert table.portfolio["reason"] is None


@pytest.mark.parametrize(
    ("weights", "score", "said"),
    [
        ({"AAA": 0.5, "BBB": 0.5}, "47.5", None),
        (
            {"AAA": 0.5, "BBB": 0.25, "CCC": 0.25},
            "43.3",
            "The score is of 75.0% of the gross weight: the other holdings have none (NR).",
        ),
        ({"AAA": 0, "CCC": 1}, DASH, "No holding has a score."),
    ],
)
def test_the_weighted_score_is_shown_where_a_model_was_asked(weights, score, said):
    """Also which part of the book has one."""
    table = labeled(weights)
    assert read_cells(table)["weighted score"] == score
    for shown in (" ".join(repr(table).split()), table._repr_html_()):
        assert (said or "The score is of") in shown or said is None
        assert said is not None or "The score is of" not in shown
    assert "weighted score" not in read_cells(assess(BOOK, prices=walk()))


def test_fewer_rows_are_a_part_of_it():
    """The portfolio is that of the run, and says so."""
    table = assess(BOOK, prices=walk())
    for part in (table.loc[["AAA"]], table.iloc[:0], pd.concat([table, table.iloc[:1]])):
        assert "portfolio of the whole run: 3 holdings" in repr(part)
        assert read_cells(part) == read_cells(table)
    assert "of the whole run" not in repr(table.sort_values("vol_ann"))


def test_where_there_is_none():
    """Without weights, of several runs, and of columns of one's own."""
    table = assess(BOOK, prices=walk())
    others = [
        assess("AAA, BBB", prices=walk()),
        pd.concat([table, assess({"AAA": 1.0}, prices=walk())]),
        table[["vol_ann"]],
    ]
    for other in others:
        assert "portfolio:" not in repr(other)
        assert 'aria-label="portfolio"' not in other._repr_html_()


def test_the_page_has_it_under_its_rows(tmp_path):
    """A reader sees the whole beside the rows, and every figure further below."""
    table = assess(BOOK, prices=walk())
    table.to_html_report(tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    place = page.index('aria-label="portfolio"')
    assert page.index('aria-label="risk table"') < place < page.index('id="portfolio"')


@pytest.mark.parametrize("width", [20, 40, 120])
def test_it_is_escaped_and_in_the_width(width):
    table = assess(BOOK, prices=walk(20), params={"alpha": [0.05, 0.01, 0.025]})
    for attack in ATTACKS:
        figures = {**table.portfolio, "reason": attack, "flags": attack, "period": attack}
        hostile = give(table.copy(), portfolio=pd.Series(figures, dtype=object))
        html = hostile._repr_html_()
        assert not re.search(r"<(script|img|a|iframe|b)\b", html)
        ElementTree.fromstring(html)
        text = hostile.as_text(width)
        assert all(display_width(line) <= width for line in text.splitlines())
        assert not {"\x1b", "\u202e"} & {*text, *html}
