"""Parquet keeps the report; Markdown shows what the table shows, and needs no package."""

import dataclasses
import io
import json

import pandas as pd
import pytest

from report_maker import FullReport
from table_maker import HOSTILE, document, table_of
from urisk_nb import RiskTable
from urisk_nb.errors import InputError
from urisk_nb.table.parquet_files import pack_report, unpack_report
from urisk_nb.table.risk_table import Report

FINED = "It was fined 3 million dollars in May."


@pytest.fixture
def table():
    documents = [document(f"{HOSTILE} {FINED}"), document(FINED, id="D2", ticker="BBB")]
    return table_of(documents, symbols=("AAA", "BBB"))


# Parquet ------------------------------------------------------------------------------------------


def test_a_table_comes_back_with_its_report(table, tmp_path):
    table.to_parquet(tmp_path / "t.parquet")
    back = RiskTable.from_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.DataFrame(back), pd.DataFrame(table))
    assert back.attrs == table.attrs
    assert back.report.meta == table.report.meta
    for one in dataclasses.fields(Report):
        was, found = (getattr(each.report, one.name) for each in (table, back))
        if isinstance(was, pd.DataFrame):
            pd.testing.assert_frame_equal(pd.DataFrame(found), pd.DataFrame(was))
            assert type(found) is type(was)
    assert back.as_text() == table.as_text()


def test_tables_put_together_come_back_with_each_report(table, tmp_path):
    other = table_of([document(FINED, ticker="CCC")], symbols=("CCC",))
    pd.concat([table, other]).to_parquet(tmp_path / "t.parquet")
    back = RiskTable.from_parquet(tmp_path / "t.parquet")
    assert len(back.report.meta["runs"]) == 2
    assert [list(part.rows.index) for part in back.report.parts] == [["AAA", "BBB"], ["CCC"]]


def test_a_series_comes_back_with_its_types():
    """The figures of a portfolio are numbers, dates and texts."""
    values = {"n": 2, "x": 0.5, "nan": float("nan"), "day": pd.Timestamp("2024-01-02"), "t": "a"}
    series = pd.Series(values, dtype=object, name="portfolio")
    report = FullReport(portfolio=series)
    packed = json.loads(json.dumps(pack_report(report)))["urisk_report"]
    back = unpack_report(packed, lambda parts: FullReport(**parts)).portfolio
    pd.testing.assert_series_equal(back, series)


def test_other_programs_read_the_table(table, tmp_path):
    table.to_parquet(tmp_path / "t.parquet", compression="gzip", index=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), pd.DataFrame(table))
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    assert len(RiskTable.from_parquet(buffer).report.findings) == len(table.report.findings)
    assert isinstance(table.to_parquet(), bytes)


def test_a_file_without_a_report_has_an_empty_one(tmp_path):
    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "t.parquet")
    back = RiskTable.from_parquet(tmp_path / "t.parquet")
    assert back["a"].tolist() == [1.0]
    assert back.report.findings.empty


@pytest.mark.parametrize(
    "packed",
    [
        {"version": 99},
        "x",
        {"version": 1, "parts": {"findings": {"kind": "frame", "parquet": "!!"}}},
    ],
)
def test_a_damaged_report_is_refused(packed, tmp_path):
    frame = pd.DataFrame({"a": [1.0]})
    frame.attrs = {"urisk_report": packed}
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="the report in the file"):
        RiskTable.from_parquet(tmp_path / "t.parquet")


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "t.parquet").write_text("no parquet")
    for path in (tmp_path / "t.parquet", tmp_path / "none.parquet"):
        with pytest.raises(InputError, match="cannot be read"):
            RiskTable.from_parquet(path)


# Markdown -----------------------------------------------------------------------------------------


def read_markdown(text):
    """The cells of each line; a bar behind a backslash is no border."""
    lines = [line.replace(r"\|", "\0").strip("| ").split(" | ") for line in text.splitlines()]
    return [[cell.strip().replace("\0", "|") for cell in line] for line in lines]


def test_markdown_shows_the_main_columns_with_formatted_numbers(table):
    head, rule, first, second = read_markdown(table.to_markdown())
    assert head[:4] == ["ticker", "level", "score", "top risk"]
    assert set("".join(rule)) <= set("-: |")
    cells = dict(zip(head, first, strict=True))
    assert cells["score"] == f"{table.loc['AAA', 'score']:.1f}"
    assert cells["VaR 95"] == f"{table.loc['AAA', 'var_95']:.1%}"
    assert second[0] == "BBB"


def test_text_of_the_evidence_is_no_markup_in_markdown():
    text = "A [link](http://127.0.0.1) | <img src=x> `code` *was* fined_for $1 & $2."
    shown = table_of([document(text)]).to_markdown()
    _, _, row = shown.splitlines()
    assert r"\[link\](http" in row
    assert r"\| &lt;img src=x&gt; \`code\` \*was\* fined\_for \$1 &amp; \$2." in row
    assert len(read_markdown(shown)[2]) == len(read_markdown(shown)[0])


def test_markdown_goes_to_a_file_or_a_buffer(table, tmp_path):
    buffer = io.StringIO()
    table.to_markdown(buffer)
    table.to_markdown(tmp_path / "t.md", index=False)
    table.to_markdown(tmp_path / "t.md", index=False, mode="a")
    assert buffer.getvalue() == table.to_markdown()
    assert (tmp_path / "t.md").read_text() == 2 * table.to_markdown(index=False)
    assert "AAA" not in table.to_markdown(index=False)


def test_columns_of_your_own_choice_are_shown(table):
    head, _, first, _ = read_markdown(table[["var_95", "n_obs"]].to_markdown())
    assert head == ["ticker", "var\\_95", "n\\_obs"]
    assert first[2] == "120"


def test_options_of_tabulate_are_pandas_own(table):
    try:
        import tabulate  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="tabulate"):
            table.to_markdown(tablefmt="grid")
    else:
        assert table.to_markdown(tablefmt="grid").startswith("+--")
