"""
Files of prices as programs of all countries write them: separators, decimal marks, encodings,
Excel, folders and patterns. What is not read is named.
"""

from __future__ import annotations

import datetime
import zipfile
from io import StringIO

import numpy as np
import openpyxl
import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers import files
from urisk_nb.readers.prices import list_names, read_prices

DAYS = pd.bdate_range("2024-01-10", periods=4, name="Date")
VALUES = {"NVDA": [1234.5, 1235.25, 999.0, 1200.75], "MSFT": [10.5, 11.25, 12.0, 13.125]}
EXPECTED = pd.DataFrame(VALUES, index=DAYS)


def lines(separator=",", *, decimal=".", thousands="", dates="%Y-%m-%d", header="Date", quote=""):
    def write(value):
        text = f"{value:_.3f}".replace(".", "D").replace("_", thousands).replace("D", decimal)
        return f"{quote}{text}{quote}"

    rows = [separator.join([header, *EXPECTED])]
    for day, row in EXPECTED.iterrows():
        rows.append(separator.join([day.strftime(dates), *map(write, row)]))
    return "\n".join(rows) + "\n"


def check(read):
    close = read.close
    assert close.to_dict("list") == VALUES
    assert [str(day.date()) for day in close.index] == [str(day.date()) for day in DAYS]


CSV = {
    "commas": lines(),
    "semicolons and decimal commas": lines(";", decimal=","),
    "semicolons and points": lines(";"),
    "German": lines(";", decimal=",", thousands=".", dates="%d.%m.%Y", header="Datum"),
    "French": lines(";", decimal=",", thousands="\u202f", dates="%d/%m/%Y"),
    "French with plain spaces": lines(";", decimal=",", thousands=" ", dates="%d/%m/%Y"),
    "Swiss": lines(";", thousands="'", dates="%d.%m.%Y"),
    "American": lines(",", thousands=",", quote='"', dates="%m/%d/%Y"),
    "tabs and decimal commas": lines("\t", decimal=","),
    "bars": lines("|", decimal=",", thousands="."),
    "a hint for Excel": "sep=;\n" + lines(";", decimal=","),
    "months by name": lines(dates="%d-%b-%Y"),
    "months by name, quoted": lines(dates='"%b %d, %Y"'),
    "slashes": lines(dates="%Y/%m/%d"),
    "eight digits": lines(dates="%Y%m%d", header="trade_date"),
    "time of day": lines(dates="%Y-%m-%d 16:00:00-05:00", header="Datetime"),
    "a trailing separator": lines(";", decimal=",").replace("\n", ";\n"),
    "old line ends": lines(";", decimal=",").replace("\n", "\r\n"),
    "a title above": "Prices of my bank\n\n" + lines(";", decimal=","),
    "an unknown name of dates": lines(header="Fecha valor"),
    "no name of dates": lines(header=""),
}


@pytest.mark.parametrize("case", CSV)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_csv_gives_the_same_prices(tmp_path, case, encoding):
    """Separator, decimal mark, order of day and month, and encoding are found."""
    (tmp_path / "p.csv").write_bytes(CSV[case].encode(encoding))
    check(read_prices(tmp_path / "p.csv"))


@pytest.mark.parametrize("case", CSV)
def test_and_so_does_the_frame_that_pandas_makes_of_it(case, tmp_path):
    """Texts such as "1.234,5" in a frame are read as in a file."""
    if case in ("a hint for Excel", "a title above", "a trailing separator"):
        return
    (tmp_path / "p.csv").write_text(CSV[case])
    sign = next(one for one in "\t|;," if one in CSV[case].splitlines()[0])
    options = {"thousands": "'"} if case == "Swiss" else {}
    check(read_prices(pd.read_csv(tmp_path / "p.csv", sep=sign, dtype={"MSFT": str}, **options)))


def test_a_code_page_is_found(tmp_path):
    """An old program writes cp1252."""
    text = "Datum;Société Générale;Münchener Rück\n10.01.2024;1,5;2,5\n15.01.2024;3,5;4,5\n"
    (tmp_path / "p.csv").write_bytes(text.encode("cp1252"))
    close = read_prices(tmp_path / "p.csv").close
    assert close.iloc[0].to_dict() == {"Société Générale": 1.5, "Münchener Rück": 2.5}


def test_notes_say_what_was_chosen(tmp_path):
    """The order of day and month, and the lines above the header."""
    (tmp_path / "p.csv").write_text("From the desk\n" + CSV["American"])
    notes = read_prices(tmp_path / "p.csv").notes
    assert notes == (
        "1 line above the header of p.csv was not read.",
        "The dates of column 'Date' are read as month/day/year ('01/10/2024').",
    )


def test_a_row_without_a_price_is_no_second_price(tmp_path):
    """Some sites write a dividend as a row of its own, with the date of the prices."""
    (tmp_path / "p.csv").write_text(
        "Date,Open,Close*,Adj Close**\n"
        '"Jan 31, 2024",1,1.5,1.4\n"Jan 30, 2024",1,1.6,1.5\n"Jan 30, 2024",0.24 Dividend,,\n'
    )
    read = read_prices(tmp_path / "p.csv", tickers=["NVDA"])
    assert read.close["NVDA"].tolist() == [1.5, 1.4]
    long = pd.read_csv(tmp_path / "p.csv").assign(ticker="NVDA")
    assert read_prices(long).close["NVDA"].tolist() == [1.5, 1.4]


OTHER_TEXTS = {
    "remarks": "# made, by, a, program\n# today\n" + lines(),
    "spaces after the commas": lines().replace(",", ", "),
    "a time of day": lines(dates="%m/%d/%Y 4:00:00 PM"),
}


@pytest.mark.parametrize("case", OTHER_TEXTS)
def test_other_texts_are_read(tmp_path, case):
    """Lines of remarks, blanks and clocks."""
    (tmp_path / "p.csv").write_text(OTHER_TEXTS[case])
    check(read_prices(tmp_path / "p.csv"))


def test_what_is_no_file_of_fields_is_refused(tmp_path):
    """Uneven rows between blanks, and an address: the fix says how to make a frame."""
    (tmp_path / "p.txt").write_text("Date A B\n2024-01-10 1 2 x\n2024-01-11 1 2\n")
    with pytest.raises(InputError, match="only the column") as caught:
        read_prices(tmp_path / "p.txt")
    assert caught.value.fix == "pass a frame: pd.read_csv(..., sep=r'\\s+')"
    even = (tmp_path / "p.txt").read_text().replace(" x", "")
    assert list(read_prices(pd.read_csv(StringIO(even), sep=r"\s+")).close) == ["A", "B"]
    with pytest.raises(InputError, match="nothing is fetched"):
        read_prices("https://example.com/p.csv")


AMBIGUOUS = {
    "1,234 in quotes": 'Date,NVDA\n2024-01-10,"1,234"\n2024-01-11,"1,235"\n',
    "1,234 between semicolons": "Date;NVDA\n2024-01-10;1,234\n2024-01-11;1,235\n",
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_a_comma_that_may_be_either_is_refused(tmp_path, case):
    """1,234 is 1.234 or 1234; a cell that decides ends the doubt."""
    (tmp_path / "p.csv").write_text(AMBIGUOUS[case])
    with pytest.raises(InputError, match="may be a decimal comma or separate thousands"):
        read_prices(tmp_path / "p.csv")
    sign = ";" if ";" in AMBIGUOUS[case] else ","
    for more, expected in (("12,5", 1.234), ("1,234.5", 1234.0), ("1,234,567", 1234.0)):
        row = f'2024-01-12{sign}"{more}"\n'
        (tmp_path / "p.csv").write_text(AMBIGUOUS[case] + row)
        assert read_prices(tmp_path / "p.csv").close["NVDA"].iloc[0] == expected


def test_volumes_in_millions(tmp_path):
    """As the download of a well-known site has them."""
    (tmp_path / "NVDA.csv").write_text(
        '"Date","Price","Open","High","Low","Vol.","Change %"\n'
        '"01/16/2024","1,563.90","550.0","568.3","549.0","44.96M","3.06%"\n'
        '"01/15/2024","547.10","547.0","549.7","543.3","1.2K","-0.20%"\n'
    )
    read = read_prices(tmp_path / "NVDA.csv", tickers=["NVDA"])
    assert read.close["NVDA"].tolist() == [547.10, 1563.90]
    assert read.volume["NVDA"].tolist() == pytest.approx([1200, 44.96e6])
    assert read.flags == ("unsorted",)


def test_per_cent_among_returns(tmp_path):
    """1.5% is 0.015; among prices it is a fault."""
    (tmp_path / "r.csv").write_text("Date,NVDA\n2024-01-10,1.5%\n2024-01-11,-0.5%\n")
    read = read_prices(tmp_path / "r.csv", returns=True)
    assert read.close["NVDA"].tolist() == pytest.approx([0.015, -0.005])
    assert list(read_prices(tmp_path / "r.csv").faults) == ["NVDA"]


def test_a_name_that_stands_twice_is_refused(tmp_path):
    """pandas would call the second one NVDA.1."""
    (tmp_path / "p.csv").write_text("Date,NVDA,NVDA\n2024-01-10,1,2\n2024-01-11,1,2\n")
    with pytest.raises(InputError, match="the header has 'NVDA' more than once"):
        read_prices(tmp_path / "p.csv")


# --- Excel ---


def workbook(path, sheets, *, above=0):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for _ in range(above):
            sheet.append(["Prices of the desk"])
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


ROWS = [
    ["Date", "NVDA", "MSFT"],
    *(
        [day.to_pydatetime(), *row]
        for day, row in zip(DAYS, EXPECTED.to_numpy().tolist(), strict=True)
    ),
]


@pytest.mark.parametrize("above", [0, 2])
def test_the_first_sheet_with_prices_is_read(tmp_path, above):
    """Cover sheets are passed over, and every sheet that was not read is named."""
    path = workbook(
        tmp_path / "p.xlsx",
        {"Cover": [["Prices"], [2024]], "Data": ROWS, "More": ROWS},
        above=above,
    )
    read = read_prices(str(path))
    check(read)
    assert "Only the sheet 'Data' of p.xlsx was read, not 'Cover', 'More'." in read.notes
    assert any("above the header of 'Data' were not read" in note for note in read.notes) is bool(
        above
    )


def test_excel_forms_of_the_same(tmp_path):
    """A macro file, dates as text, missing cells of a terminal, a saved yfinance frame."""
    rows = [[str(row[0])[:10] if place else row[0], *row[1:]] for place, row in enumerate(ROWS)]
    path = workbook(tmp_path / "p.xlsm", {"Data": rows})
    check(read_prices(path))
    rows[2][1] = "#N/A N/A"
    close = read_prices(workbook(tmp_path / "h.xlsx", {"Data": rows})).close
    assert close["NVDA"].isna().tolist() == [False, True, False, False]
    levels = pd.concat({"Close": EXPECTED, "Open": EXPECTED + 1}, axis=1, names=["Price", "Ticker"])
    levels.to_excel(tmp_path / "y.xlsx")
    check(read_prices(tmp_path / "y.xlsx"))
    EXPECTED.to_excel(tmp_path / "w.xlsx")
    check(read_prices(tmp_path / "w.xlsx"))


def test_a_workbook_without_prices_is_refused(tmp_path):
    """Its sheets are named."""
    path = workbook(tmp_path / "p.xlsx", {"Cover": [["Prices"]], "Notes": [["x", 1]]})
    with pytest.raises(InputError, match="no sheet has both dates and numbers") as caught:
        read_prices(path)
    assert "Cover, Notes" in caught.value.message
    assert caught.value.fix


def test_what_only_looks_like_excel_is_refused(tmp_path, monkeypatch):
    """A zip, a truncated file, and one that unpacks to more than it may."""
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 1 << 21)
    (tmp_path / "text.xlsx").write_text("not a zip")
    with zipfile.ZipFile(tmp_path / "zip.xlsx", "w") as packed:
        packed.writestr("hello.txt", "x")
    whole = workbook(tmp_path / "whole.xlsx", {"Data": ROWS}).read_bytes()
    (tmp_path / "cut.xlsx").write_bytes(whole[: len(whole) // 2])
    with (
        zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as entry,
    ):
        entry.write(bytes(1 << 22))
    assert (tmp_path / "bomb.xlsx").stat().st_size < 1 << 14
    for name in ("text.xlsx", "zip.xlsx", "cut.xlsx", "bomb.xlsx"):
        with pytest.raises(InputError, match=name):
            read_prices(tmp_path / name)


# --- folders and patterns ---


def company(close):
    close = np.array(close)
    return pd.DataFrame({"Open": close + 1, "Close": close, "Volume": 100.0}, index=DAYS)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prices").mkdir()
    return tmp_path / "prices"


NAMES = {
    "plain": ("NVDA.csv", "MSFT.csv"),
    "small letters": ("nvda.csv", "msft.csv"),
    "words": ("nvda_daily.csv", "msft_daily.csv"),
    "a year": ("NVDA-2024.csv", "MSFT-2024.csv"),
    "a period": ("NVDA_2020-01-01_2024-12-31.csv", "MSFT_20200101_20241231.csv"),
    "an exchange": ("nvda.us.txt", "msft.us.txt"),
    "a prefix": ("prices_NVDA.csv", "prices_MSFT.csv"),
    "spaces": ("NVDA Historical Data.csv", "MSFT Historical Data.csv"),
    "Excel": ("NVDA.xlsx", "MSFT.xlsx"),
    "Parquet": ("NVDA.parquet", "MSFT.parquet"),
}


def write_table(frame, path):
    if path.suffix == ".xlsx":
        frame.to_excel(path)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path)


@pytest.mark.slow
@pytest.mark.parametrize("case", NAMES)
def test_one_file_a_ticker(folder, case):
    """The name of the file is the ticker, whatever stands beside it; volumes come too."""
    for name, close in zip(NAMES[case], VALUES.values(), strict=True):
        write_table(company(close), folder / name)
    for given, tickers in (
        *((one, []) for one in (folder, str(folder), str(folder / "*.*"), folder / "*")),
        *((folder, one) for one in (["NVDA", "MSFT"], ["NVDA"])),
    ):
        read = read_prices(given, tickers=tickers)
        assert {name: read.close[name].tolist() for name in read.close} == VALUES
        assert read.volume.notna().all(axis=None)
        assert read.price_column == "Close"
    assert {name.upper() for name in list_names(folder)} == {"NVDA", "MSFT"}


def test_share_classes_and_odd_names_find_their_file(folder):
    """The list says which ticker a file is of."""
    for name in ("BRK-B.csv", "EUR_USD.csv", "0700.HK.csv", "^GSPC.csv", "brk_a_daily.csv"):
        company(VALUES["MSFT"]).to_csv(folder / name)
    tickers = ["BRK.B", "EUR_USD", "0700.HK", "^GSPC"]
    assert {*tickers} < {*read_prices(folder, tickers=tickers).close}


def test_other_files_are_named(folder):
    """A picture, a folder and a broken table beside good ones; hidden files are passed over."""
    company(VALUES["NVDA"]).to_csv(folder / "NVDA.csv")
    (folder / "readme.md").write_text("x")
    (folder / "logo.png").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "old").mkdir()
    (folder / "MSFT.csv").write_text("Date,Close\n2024-01-10,1\n2024-01-11,1,2\n")
    read = read_prices(folder, tickers=["NVDA", "MSFT"])
    assert list(read.close) == ["NVDA"]
    assert read.notes == (
        "3 files of prices/ were not read: logo.png, old, readme.md (not a table).",
        "1 file could not be read: MSFT.csv, line 3: 3 fields, where the header has 2.",
    )


def test_never_more_than_ten_names(folder):
    """A note stays a note."""
    company(VALUES["NVDA"]).to_csv(folder / "NVDA.csv")
    for number in range(22):
        (folder / f"{number:02}.png").write_bytes(b"")
    (note,) = read_prices(folder, tickers=["NVDA"]).notes
    assert "09.png and 12 more (not a table)" in note


def test_two_files_of_one_ticker_are_one_history(folder):
    """A file a year; a day that both have with different prices is refused."""
    whole = company(VALUES["NVDA"])
    whole.iloc[:3].to_csv(folder / "NVDA_2023.csv")
    whole.iloc[2:].to_csv(folder / "NVDA_2024.csv")
    assert read_prices(folder, tickers=["NVDA"]).close["NVDA"].tolist() == VALUES["NVDA"]
    (whole.iloc[2:] + 1).to_csv(folder / "NVDA_2024.csv")
    with pytest.raises(InputError, match="two files of NVDA have different prices for 2024-01-12"):
        read_prices(folder, tickers=["NVDA"])


def test_a_folder_without_tables_is_refused(folder):
    """It says what is there."""
    with pytest.raises(InputError, match="has no file of prices"):
        read_prices(folder)
    (folder / "logo.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"only logo\.png") as caught:
        read_prices(folder)
    assert "NVDA.csv" in caught.value.fix
    with pytest.raises(InputError, match="no file of prices"):
        read_prices(folder / "*.csv")


def test_a_folder_in_which_nothing_can_be_read_is_refused(folder):
    """The first fault is the error."""
    (folder / "NVDA.csv").write_text("Date,Close\n2024-01-10,1,2\n")
    with pytest.raises(InputError, match=r"NVDA\.csv, line 2"):
        read_prices(folder, tickers=["NVDA"])


def test_adjusted_prices_of_files(folder):
    """Each file has both closes; one choice holds for all."""
    for name in ("NVDA", "MSFT"):
        company(VALUES[name]).assign(**{"Adj Close": 1.0}).to_csv(folder / f"{name}.csv")
    read = read_prices(folder, tickers=["NVDA", "MSFT"])
    assert (read.price_column, read.is_adjusted, read.notes) == ("Adj Close", True, ())
    read = read_prices(folder, tickers=["NVDA", "MSFT"], price_column="close")
    assert read.close.to_dict("list") == {name: VALUES[name] for name in read.close}


def test_dates_of_excel_are_its_own(tmp_path):
    """A date without a time is as good as one with."""
    rows = [["Datum", "NVDA"], [datetime.date(2024, 1, 10), 1.0], [datetime.date(2024, 1, 11), 2.0]]
    close = read_prices(workbook(tmp_path / "p.xlsx", {"Tabelle1": rows})).close
    assert list(close.index) == list(DAYS[:2])
