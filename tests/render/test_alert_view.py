"""Alerts in a table: the first column, and each decisive sentence under it."""

import pytest

from urisk_nb import assess

TEXT = "<img src=x onerror=alert(1)> Acme filed for chapter 11 on June 3, 2023."
ROWS = [
    {"ticker": "AAA", "text": TEXT, "date": "2023-06-04", "source": "<b>wire</b>"},
    {"ticker": "BBB", "text": "Boro sells tea."},
]


@pytest.fixture
def table():
    return assess(["AAA", "BBB"], evidence=ROWS, params={"llm": False})


def test_the_column_comes_first_where_there_is_one(table):
    """By family; empty text where the evidence says nothing decisive."""
    assert table["alerts"].tolist() == ["survival", ""]
    grid = [line.split() for line in table.as_text(120).splitlines() if line.strip()]
    assert grid[0][:2] == ["ticker", "alerts"]
    assert "alerts" in table.compact()
    assert table._repr_html_().index(">alerts<") < table._repr_html_().index(">sentences<")


def test_without_an_alert_there_is_no_column(table):
    """A filter takes the sentences along."""
    rest = table.loc[["BBB"]]
    assert "alerts" not in rest.as_text(120).split()
    assert "chapter 11" not in rest.as_text(120)
    assert "alerts" not in rest.compact()
    assert 'aria-label="alerts"' not in rest._repr_html_()


def test_the_sentence_stands_under_the_table_verbatim(table):
    """With its source and its date; nothing in it is markup."""
    text = table.as_text(200)
    assert "AAA survival: " in text
    assert "chapter 11 on June 3, 2023. [<b>wire</b>, 2023-06-04]" in text
    html = table._repr_html_()
    assert 'aria-label="alerts"' in html
    assert "filed for chapter 11 on June 3, 2023." in html
    assert "<img" not in html
    assert "<b>wire" not in html
    assert "&lt;b&gt;wire" in html
