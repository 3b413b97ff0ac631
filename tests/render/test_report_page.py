"""
The page of a report: complete in itself, without a script, everything escaped, small enough to
send.
"""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from report_maker import ATTACKS, FINED, give, give_portfolio, multiply, prices
from table_maker import DAYS, document, table_of
from urisk_nb.errors import InputError
from urisk_nb.table.risk_table import RiskTable

KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section"),
    *("footer", "h1", "h2", "p", "a", "div", "span", "bdi", "table", "thead", "tbody", "tr"),
    *("th", "td", "details", "summary", "figure", "figcaption", "svg", "path", "text", "em"),
    *("strong", "del", "ins", "br"),
}
VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and the text outside of the style."""

    def __init__(self, markup):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def find(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def write(tmp_path):
    def page_of(table):
        table.to_html_report(tmp_path / "r.html")
        return (tmp_path / "r.html").read_text(encoding="utf-8")

    return page_of


@pytest.fixture
def table():
    documents = [
        document(f"{FINED} The plant burned.", source="10-K"),
        document(FINED, id="D2", ticker="BBB"),
    ]
    return table_of(documents, symbols=("AAA", "BBB"))


def test_the_page_says_what_the_run_found(table, write):
    table.report.meta.update(run_hash="abc123", created_at="2018-06-16T03:00:00+00:00")
    markup = write(table)
    page = Page(markup)
    assert page.open == []
    assert "<title>Risk table, 2018-06-15</title>" in markup
    for text in ("run r1", "2018-06-16T03:00:00", "hash abc123", "10-K, 2018-03-01"):
        assert text in page.text
    assert page.text.count(FINED) >= 2  # of each ticker, and the worst sentence
    assert "Labels by the demo model" in page.text
    assert "Fewer than 5 sentences were labeled." in page.text
    assert "taxonomy_hash" in page.text
    assert [attrs["href"] for attrs in page.find("a")] == ["#t0", "#t1"]
    assert {"t0", "t1"} <= {attrs.get("id") for attrs in page.find("section")}


def test_hostile_text_is_text(write):
    documents = [
        document(f"{text} {FINED}", id=f"D{number}", source=text)
        for number, text in enumerate(ATTACKS)
    ]
    table = table_of(documents)
    table.report.meta["<script>"] = "<script>alert(2)</script>"
    table.report.meta["run_hash"] = '"><script>'
    stress = pd.DataFrame({"<i onload=x>": ["<script>"]}, index=["<script>x"])
    portfolio = {"<b onload=x>": "<script>"}
    table = give(table, prices=prices("AAA"), portfolio=portfolio, stress=stress)
    markup = write(table)
    page = Page(markup)
    assert {tag for tag, _ in page.elements} <= KNOWN
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcdoc")]
        assert attrs.get("href", "#").startswith("#")
        assert "url(" not in attrs.get("style", "")
    assert "<script>alert(1)</script>⟨U+202E⟩evil" in page.text
    assert "\u202e" not in markup
    assert "\x1b" not in markup


def test_nothing_is_loaded_and_the_policy_forbids_it(table, write):
    markup = write(give(table, prices=prices("AAA", "BBB")))
    policy = next(attrs for attrs in Page(markup).find("meta") if "http-equiv" in attrs)
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert markup.index("Content-Security-Policy") < markup.index("<style")
    assert not re.search(r"https?:|//\w|@import|url\(", markup.replace("<!DOCTYPE html>", ""))


def test_the_style_has_light_dark_and_paper(table, write):
    markup = write(table)
    assert "prefers-color-scheme:dark" in markup
    for rule in ("size:A4", "display:table-header-group", "tr,figure,svg{break-inside:avoid}"):
        assert rule in markup.partition("@media print")[2]


def test_fifty_tickers_of_forty_findings_stay_small(write):
    """2 MB: a mail takes it."""
    names = [f"T{number:02}" for number in range(50)]
    sentence = (
        "The regulator fined the company {} million dollars for its conduct in the market, and "
        "the company said that it may appeal against the decision before the higher court of the "
        "state, which could take some years to be heard."
    )
    text = " ".join(sentence.format(count) for count in range(1, 41))
    table = multiply(table_of([document(text, source="annual-report-2018.html")]), names)
    table = give(table, prices=prices(*names))
    assert len(table.report.findings) == 2000
    markup = write(table)
    assert markup.count("<tr>") > 2000
    assert len(markup.encode()) < 2_000_000


def test_more_rows_than_a_notebook_shows_are_all_there(write):
    table = multiply(table_of([]), [f"T{number:03}" for number in range(120)])
    assert "T119" in Page(write(table)).text


def test_tables_put_together_have_both_runs(table, write):
    other = table_of([document(FINED, ticker="CCC")], symbols=("CCC",))
    other.report.meta["run_id"] = "r2"
    page = Page(write(pd.concat([table, other])))
    assert "run r1" in page.text
    assert "run r2" in page.text
    assert page.text.count("taxonomy_hash") == 2


def test_a_page_has_only_the_sections_that_there_is_something_for(write):
    names = {attrs["id"] for attrs in Page(write(table_of([]))).find("section")}
    assert names == {"table", "t0", "record"}
    plain = Page(write(RiskTable({"a": [1.0]})))
    assert {attrs["id"] for attrs in plain.find("section")} == {"table"}


def test_charts_need_prices_of_the_ticker(table, write):
    markup = write(give(table, prices=prices("BBB")))
    assert markup.count("<svg") == 2
    labels = [attrs["aria-label"] for attrs in Page(markup).find("svg")]
    assert labels == ["drawdown of BBB", "returns of BBB"]
    assert f"VaR 95 {table.loc['BBB', 'var_95']:.1%}" in markup


def test_prices_that_cannot_be_drawn_are_left_out(table, write):
    bad = pd.DataFrame({"AAA": [1.0, -1.0, 2.0], "BBB": [np.nan, np.nan, 5.0]}, index=DAYS[:3])
    assert "<svg" not in write(give(table, prices=bad))


def test_the_portfolio_has_figures_and_bars(table, write):
    page = Page(write(give_portfolio(table)))
    assert {"es_95", "3.0%", "2018-01-01", "comp_es", "4.00%"} <= set(page.texts)
    assert {"4.00%", "-1.00%"} <= set(page.texts)  # at the bars
    assert "a hedge is negative" in page.text
    assert {"Portfolio", "Holdings", "Backtest", "Stress", "25.0%"} <= set(page.texts)


def test_a_path_that_cannot_be_written_is_refused(table, tmp_path):
    with pytest.raises(InputError, match=r"to_html_report\(\): .* is a folder"):
        table.to_html_report(tmp_path)
