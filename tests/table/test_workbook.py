"""A workbook opens as a person expects: sheets, formats, filters, and no formula."""

import datetime as dt
import io

import openpyxl
import pandas as pd
import pytest

from report_maker import give, give_portfolio
from table_maker import document, table_of
from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.table import files
from urisk_nb.table.risk_table import RiskTable

FINED = "It was fined 3 million dollars in May."
LINK = '=HYPERLINK("http://127.0.0.1/x","Acme was fined.")'


@pytest.fixture
def table():
    documents = [document(FINED), document(f"{LINK} {FINED}", id="D2", ticker="BBB", source="=x")]
    return table_of(documents, symbols=("AAA", "BBB"))


def open_book(table, tmp_path):
    table.to_excel(tmp_path / "t.xlsx")
    return openpyxl.load_workbook(tmp_path / "t.xlsx")


def cells_of(sheet):
    """Each column by its heading: the cells under it."""
    return {head.value: list(column) for head, *column in sheet.iter_cols()}


def test_the_sheets(table, tmp_path):
    """The table is shown first; there is no sheet for a portfolio that the run does not have."""
    book = open_book(table, tmp_path)
    assert book.sheetnames == ["table", "findings", "provenance"]
    assert book.active.title == "table"
    assert [cell.value for cell in cells_of(book["table"])["ticker"]] == ["AAA", "BBB"]
    assert list(cells_of(book["table"]))[1:] == list(table.columns)
    assert list(cells_of(book["findings"])) == list(table.report.findings.columns)


def test_values_are_numbers_and_dates_with_their_formats(table, tmp_path):
    cells = cells_of(open_book(table, tmp_path)["table"])
    row = table.loc["AAA"]
    for name, text in {"var_95": "0.0%", "max_dd": "0.0%", "score": "0.0", "r_legal": "0"}.items():
        assert cells[name][0].number_format == text
        assert cells[name][0].value == pytest.approx(row[name])
    assert cells["as_of"][0].number_format == "yyyy-mm-dd"
    assert cells["as_of"][0].value.date() == dt.date(2018, 6, 15)
    assert isinstance(cells["r_legal"][0].value, int)
    assert cells["r_market"][0].value is None
    assert cells["skew"][0].number_format == "General"  # no fraction that is shown as per cent


def test_severities_are_numbers_and_sentences_wrap(table, tmp_path):
    sheet = open_book(table, tmp_path)["findings"]
    cells = cells_of(sheet)
    assert [cell.value for cell in cells["severity"]] == [3] * len(table.report.findings)
    assert cells["quote"][0].alignment.wrap_text
    assert not cells["severity"][0].alignment.wrap_text
    width = {head.value: sheet.column_dimensions[head.column_letter].width for head in sheet[1]}
    assert width["quote"] == 70
    assert width["severity"] < 15


def test_each_sheet_has_a_filter_and_a_header_that_stays(table, tmp_path):
    for sheet in open_book(table, tmp_path):
        assert sheet.freeze_panes == "B2"
        assert sheet.auto_filter.ref == sheet.dimensions
        assert sheet["A1"].font.bold


def test_no_sheet_holds_a_formula(table, tmp_path):
    table.report.meta["=sum(1)"] = "=1+1"
    book = open_book(give(table, portfolio={"=a": "=b"}), tmp_path)
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
    assert not [cell for cell in cells if cell.data_type == "f"]
    texts = [cell.value for cell in cells if isinstance(cell.value, str)]
    assert {"'=x", "'=sum(1)", "'=1+1", "'=a", "'=b"} <= set(texts)
    assert any(text.startswith("'=HYPERLINK") for text in texts)


def test_the_record_is_one_row_a_value(table, tmp_path):
    table.report.meta["judges"] = [{"model": "m", "form": "examples"}, {"model": "n"}]
    table.report.meta["run_hash"] = "abc"
    rows = list(open_book(table, tmp_path)["provenance"].iter_rows(min_row=2, values_only=True))
    found = {key: value for _, key, value in rows}
    assert rows[0] == ("1", "run_hash", "abc")
    assert found["run_id"] == "r1"
    assert (found["judges.1.model"], found["judges.2.model"]) == ("m", "n")
    assert found["params.max_sentences"] == 40
    assert found["params.alpha"] == "0.05"
    assert found["note"].startswith("Labels by the demo model")
    assert "Fewer than 5 sentences" in found["warning.thin_evidence"]


def test_two_runs_put_together_have_both_records(table, tmp_path):
    other = table_of([document(FINED, ticker="CCC")], symbols=("CCC",))
    rows = open_book(pd.concat([table, other]), tmp_path)["provenance"].iter_rows(values_only=True)
    assert [run for run, key, _ in rows if key == "run_id"] == ["1", "2"]


def test_a_portfolio_has_a_sheet(table, tmp_path):
    book = open_book(give_portfolio(table), tmp_path)
    assert book.sheetnames == ["table", "findings", "portfolio", "stress", "provenance"]
    rows = list(book["portfolio"].iter_rows(values_only=True))
    assert rows[0][:3] == ("ticker", "weight", "comp_es")
    assert rows[1][:3] == ("AAA", 0.5, 0.04)
    assert ("historical", 0.05, 3) in rows
    row = rows.index(("es_95", 0.03, None)) + 1
    assert rows[row - 2] == ("holdings", 2, None)
    assert book["portfolio"].cell(row, 2).number_format == "0.0%"
    assert book["portfolio"]["C2"].number_format == "0.00%"
    assert cells_of(book["stress"])["max_dd"][0].number_format == "0.0%"


def test_findings_are_those_of_the_tickers_that_are_left(table, tmp_path):
    found = cells_of(open_book(table.loc[["BBB"]], tmp_path)["findings"])
    assert {cell.value for cell in found["ticker"]} == {"BBB"}


def test_a_writer_and_options_do_what_pandas_does(table, tmp_path):
    """One sheet of the given name, beside others."""
    with pd.ExcelWriter(tmp_path / "w.xlsx") as writer:
        table.to_excel(writer, sheet_name="mine")
        table.report.findings.to_excel(writer, sheet_name="more", index=False)
    assert openpyxl.load_workbook(tmp_path / "w.xlsx").sheetnames == ["mine", "more"]
    table.to_excel(tmp_path / "o.xlsx", index=False, columns=["score"])
    assert openpyxl.load_workbook(tmp_path / "o.xlsx")["Sheet1"].dimensions == "A1:A3"
    table.to_excel(excel_writer=tmp_path / "k.xlsx", sheet_name="s")
    assert openpyxl.load_workbook(tmp_path / "k.xlsx").sheetnames == ["s"]


def test_a_buffer_takes_the_workbook(table):
    buffer = io.BytesIO()
    table.to_excel(buffer)
    assert openpyxl.load_workbook(buffer).sheetnames[0] == "table"


def test_columns_of_your_own_choice_are_the_table(table, tmp_path):
    book = open_book(table[["score", "var_95"]], tmp_path)
    assert list(cells_of(book["table"])) == ["ticker", "score", "var_95"]


def test_without_openpyxl_the_error_says_what_to_install(table, tmp_path, monkeypatch):
    monkeypatch.setitem(files.PACKAGES, "Excel", ("no_such_package", files.PACKAGES["Excel"][1]))
    with pytest.raises(PackageMissing, match="no_such_package") as caught:
        table.to_excel(tmp_path / "t.xlsx")
    assert caught.value.fix == 'pip install "urisk-nb[documents]"'
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["\ufffe", "\uffff", "\x00", "\x0b", "\x1b[2J", "\udcff", "\r"])
def test_no_character_breaks_the_file(text, tmp_path):
    """XML has none of these, and Excel opens no file with one of them."""
    book = open_book(table_of([document(f"It was {text} fined in May.")]), tmp_path)
    quote = cells_of(book["findings"])["quote"][0].value
    assert quote.startswith("It was")
    assert text not in quote


def test_a_table_without_rows_or_report_is_written(table, tmp_path):
    assert open_book(table.head(0), tmp_path)["table"].dimensions.startswith("A1:")
    book = open_book(RiskTable({"a": [1.0], "=b": ["=1"]}), tmp_path)
    assert list(book["table"].iter_rows(values_only=True)) == [("a", "'=b"), (1, "'=1")]


def test_a_folder_that_is_missing_is_named(table, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        table.to_excel(tmp_path / "none" / "t.xlsx")
