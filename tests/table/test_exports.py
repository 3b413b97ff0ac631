"""No file that is written for a spreadsheet runs a formula of the evidence."""

from io import StringIO

import openpyxl
import pandas as pd
import pytest

from table_maker import document, table_of
from urisk_nb.table.exports import ExportFrame, neutralize_formulas

LINK = '=HYPERLINK("http://127.0.0.1/x","Acme was fined.")'


@pytest.fixture
def table():
    return table_of([document(LINK, source="@wire")])


def test_excel_holds_no_formula(table, tmp_path):
    """openpyxl makes a formula of text that begins with "="; here it stays text."""
    table.to_excel(tmp_path / "t.xlsx")
    table.report.findings.to_excel(tmp_path / "f.xlsx", index=False)
    for name in ("t.xlsx", "f.xlsx"):
        cells = [cell for row in openpyxl.load_workbook(tmp_path / name).active for cell in row]
        assert any("HYPERLINK" in str(cell.value) for cell in cells)
        assert not [cell.value for cell in cells if cell.data_type == "f"]


def test_csv_holds_no_formula(table):
    for frame in (table, table.head(1), table.report.findings, table.report.findings.head(1)):
        back = pd.read_csv(StringIO(frame.to_csv()), dtype=str, keep_default_na=False)
        assert back.map(lambda cell: not cell.startswith(("=", "@"))).all(axis=None)
    assert table.report.findings["quote"].tolist() == [LINK]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n=", "＝"])
def test_text_that_begins_like_a_formula_is_marked(start):
    frame = ExportFrame(
        {start + "a": [start + "1", "plain", None], "n": [-1.5, 2.0, 3.0]}, index=[start, "b", "c"]
    )
    safe = neutralize_formulas(frame)
    assert safe.columns[0] == "'" + start + "a"
    assert safe.index[0] == "'" + start
    assert safe.iloc[:2, 0].tolist() == ["'" + start + "1", "plain"]
    assert safe["n"].tolist() == [-1.5, 2.0, 3.0]


def test_categories_and_levels_are_text_too():
    frame = ExportFrame(
        {"c": pd.Categorical(["=1", "b"])}, index=pd.MultiIndex.from_tuples([("=x", 1), ("y", 2)])
    )
    safe = neutralize_formulas(frame)
    assert safe["c"].tolist() == ["'=1", "b"]
    assert safe.index.tolist() == [("'=x", 1), ("y", 2)]


def test_nothing_else_changes():
    """Numbers, dates and missing values are written as pandas writes them."""
    plain = pd.DataFrame(
        {
            "day": pd.to_datetime(["2020-01-01", None]),
            "n": pd.array([1, None], dtype="Int64"),
            "x": [-0.5, float("nan")],
            "s": ["a", None],
            "b": [True, False],
        }
    )
    assert ExportFrame(plain).to_csv(sep=";", index=False) == plain.to_csv(sep=";", index=False)


def test_a_notebook_shows_a_sentence_whole_and_its_dollars_as_money():
    """JupyterLab would set what is between two dollar signs as mathematics, without spaces."""
    text = "Net loss was $43.7 million, compared with $10.1 million a year ago, and <b>rose."
    shown = ExportFrame({"quote": [text]})._repr_html_()
    assert text.replace("<b>", "&lt;b&gt;") in shown
    assert shown.startswith('<div class="urisk-frame tex2jax_ignore mathjax_ignore">')
    with pd.option_context("display.max_colwidth", 20):
        assert text[:10] in ExportFrame({"quote": [text]})._repr_html_()
        assert text[:40] not in ExportFrame({"quote": [text]})._repr_html_()
    with pd.option_context("display.notebook_repr_html", False):
        assert ExportFrame({"quote": [text]})._repr_html_() is None


def test_the_frames_of_a_report_are_shown_so(table):
    """What is chosen from them, too."""
    findings = table.report.findings
    for frame in (findings, findings[["quote"]], table.review(), table.judgements()):
        assert "urisk-frame" in frame._repr_html_()
