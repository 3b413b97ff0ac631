"""Each label that is shown with its probability has both: that of the risk and of the severity."""

import re

import pytest

from table_maker import document, table_of


@pytest.fixture
def table():
    """Two labels with probabilities, one "none", one without."""

    def label(text):
        return ("none", 0) if "rain" in text else ("legal", 3)

    texts = ["Acme was fined.", "Boro was sued.", "It rained.", "Core was fined."]
    documents = [document(text, f"D{n}", f"{text[0]}XX") for n, text in enumerate(texts)]
    table = table_of(documents, label=label, symbols=("AXX", "BXX", "IXX", "CXX"))
    findings = table.report.findings
    findings["p_label"] = [0.914, 0.5, 0.8, float("nan")]
    findings["p_severity"] = [0.613, 0.25, 0.7, float("nan")]
    return table


def sentence_rows(page):
    """The cells of the table of sentences, by heading."""
    part = page.partition('aria-label="labeled sentences"')[2]
    head, *rows = re.findall(r"<tr>(.*?)</tr>", part)
    names = re.findall(r"<th[^>]*>(.*?)</th>", head)
    cells = [re.findall(r"<td[^>]*>(?:<bdi>)?(.*?)(?:</bdi>)?</td>", row) for row in rows]
    return names, [dict(zip(names, row, strict=True)) for row in cells]


def test_html_has_both_probabilities_side_by_side(table):
    """Two digits each; a dash where there is none, and for the severity of no risk."""
    names, rows = sentence_rows(table._repr_html_())
    assert names[:6] == ["ticker", "risk", "severity", "p_label", "p_severity", "sentence"]
    shown = {row["ticker"]: (row["p_label"], row["p_severity"]) for row in rows}
    assert shown == {
        "AXX": ("0.91", "0.61"),
        "BXX": ("0.50", "0.25"),
        "IXX": ("0.80", "–"),
        "CXX": ("–", "–"),
    }


def test_text_has_both_and_says_which_is_which(table):
    lines = table.as_text(120).splitlines()
    place = next(n for n, line in enumerate(lines) if line.endswith("labeled sentences"))
    assert lines[place + 1] == "  ticker, risk, severity, p_label, p_severity, sentence"
    rows = [line.split()[:5] for line in lines[place + 2 : place + 6]]
    assert rows == [
        ["AXX", "legal", "3", "0.91", "0.61"],
        ["BXX", "legal", "3", "0.50", "0.25"],
        ["IXX", "none", "–", "0.80", "–"],
        ["CXX", "legal", "3", "–", "–"],
    ]


def test_without_probabilities_there_is_neither(table):
    """Labels of a chat model have none."""
    for name in ("p_label", "p_severity"):
        table.report.findings[name] = float("nan")
    for shown in (table._repr_html_(), table.as_text(120)):
        assert "p_label" not in shown
        assert "p_severity" not in shown
