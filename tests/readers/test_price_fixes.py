"""
Every fix that the readers of prices print is code, or has code in it, that cures: it is run on what
was refused, and then the prices are read.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from io import StringIO
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.prices import read_prices

DAYS = pd.bdate_range("2024-01-01", periods=4, name="date")
NEW_YORK, TOKYO = ZoneInfo("America/New_York"), ZoneInfo("Asia/Tokyo")
CODE = re.compile(r"(?:prices\b|pd\.|\{\").*?(?=$|, or with|; | for each|, with your)")


def wide(**columns):
    return pd.DataFrame(columns or {"AAA": [1.0, 2.0, 3.0, 4.0]}, index=DAYS)


def dated(values, name="date"):
    return pd.DataFrame({name: values, "AAA": np.arange(1.0, 1 + len(values))})


def long(dates, tickers, close=None):
    count = len(dates)
    close = np.arange(1.0, 1 + count) if close is None else close
    return pd.DataFrame({"date": dates, "ticker": tickers, "close": close})


HOURS = pd.DatetimeIndex(
    ["2024-01-01 00:00", "2024-01-01 05:00", "2024-01-02 00:00", "2024-01-02 16:00"]
)
TWO = ["2024-01-01", "2024-01-01", "2024-01-02"]
LEVELS = pd.MultiIndex.from_arrays([HOURS, ["AAA"] * 4])

# what is refused, a part of the message, and what is read after the fix
FIXES = {
    "intraday rows": (wide().set_axis(HOURS), "more than one row", [2, 4]),
    "intraday rows with a zone": (
        wide().set_axis(HOURS.tz_localize(NEW_YORK)),
        "more than one row",
        [2, 4],
    ),
    "intraday rows as text": (wide().set_axis(HOURS.astype(str)), "more than one row", [2, 4]),
    "intraday rows in a column": (dated(HOURS, "Datetime"), "more than one row", [2, 4]),
    "intraday rows of another name": (dated(HOURS, "time"), "more than one row", [2, 4]),
    "the last day twice": (dated(TWO[::-1]), "more than one row", [3, 1]),
    "periods of hours": (
        wide().set_axis(pd.PeriodIndex(HOURS, freq="h")),
        "more than one row",
        [2, 4],
    ),
    "intraday rows of yfinance": (
        pd.concat({"Close": wide().set_axis(HOURS)}, axis=1),
        "more than one row",
        [2, 4],
    ),
    "long intraday rows": (long(HOURS, ["AAA"] * 4), "AAA has more than one row", [2, 4]),
    "long repeated rows": (long(TWO, ["AAA"] * 3), "AAA has more than one row", [2, 3]),
    "repeated levels of rows": (
        pd.DataFrame({"close": [1.0, 2.0, 3.0, 4.0]}, index=LEVELS),
        "AAA has more than one row",
        [2, 4],
    ),
    "levels by other names": (
        pd.DataFrame({"close": [1.0, 2.0, 3.0, 4.0]}, index=LEVELS.set_names(["when", "who"])),
        "AAA has more than one row",
        [2, 4],
    ),
    "naive and aware": (
        dated([pd.Timestamp(2024, 1, 1), datetime(2024, 1, 2, tzinfo=UTC)]),
        "with a time zone",
        [1, 2],
    ),
    "naive and aware in the index": (
        wide().iloc[:2].set_axis(["2024-01-01", "2024-01-02T00:00Z"]),
        "with a time zone",
        [1, 2],
    ),
    "two zones": (
        dated([datetime(2024, 1, 1, tzinfo=TOKYO), datetime(2024, 1, 2, tzinfo=NEW_YORK)]),
        "mixes time zones",
        [1, 2],
    ),
    "a missing date": (dated(["2024-01-01", None, " "]), "2 rows without a date", [1]),
    "a missing date in the index": (
        wide().set_axis(pd.DatetimeIndex([*DAYS[:3], pd.NaT])),
        "1 row without a date",
        [1, 2, 3],
    ),
    "a word for a date": (dated(["2024-01-01", "total"]), "'total' is not a date", [1]),
    "a word in the index": (
        wide().iloc[:2].set_axis(["2024-01-01", "average"]),
        "'average' is not a date",
        [1],
    ),
    "two readings": (dated(["01/02/2024", "02/02/2024"]), "which may be", [1, 2]),
    "two readings in the index": (
        wide().iloc[:2].set_axis(["01/02/2024", "02/02/2024"]),
        "which may be",
        [1, 2],
    ),
    "days of Excel": (dated([45292, 45293]), "numbers for dates", [1, 2]),
    "years": (dated([2019, 2020, 2021]), "numbers for dates", [1, 2, 3]),
    "dates misspelt": (dated([20240101, 20240102], "dte"), "no dates", [1, 2]),
    "numbers for tickers": (wide().set_axis([700], axis=1), "is an int", [1, 2, 3, 4]),
    "a column twice": (
        pd.concat([wide(), wide().rename(columns={"AAA": "AAA "})], axis=1),
        "more than once",
        [1, 2, 3, 4],
    ),
    "two columns of dates": (dated(["2024-01-01"]).assign(Date="2024-01-01"), "mean the same", [1]),
    "two closes": (
        long(["2024-01-01"], ["AAA"]).assign(Close=2.0),
        "mean the same",
        [1],
    ),
    "long, misspelt": (
        long(["2024-01-01"], ["AAA"]).rename(columns={"close": "clsoe"}),
        "no column 'close'",
        [1],
    ),
    "a number for a ticker": (
        long(["2024-01-01"] * 2, ["AAA", 700]),
        "has the ticker 700",
        [1],
    ),
    "no ticker": (long(["2024-01-01"] * 2, ["AAA", None]), "has the ticker", [1]),
    "a Series without a name": (wide()["AAA"].rename(None), "without a name", [1, 2, 3, 4]),
    "a Series called Close": (wide()["AAA"].rename("Close"), "called 'Close'", [1, 2, 3, 4]),
    "levels without prices": (
        pd.concat({"XNAS": wide()}, axis=1),
        "2 levels of columns",
        [1, 2, 3, 4],
    ),
    "many levels without prices": (
        pd.concat({"a": wide(), "b": wide()}, axis=1),
        "2 levels of columns",
        [1, 2, 3, 4],
    ),
    "one company's table": (
        pd.DataFrame({"Open": [1.0] * 4, "Close": [1.0, 2.0, 3.0, 4.0]}, index=DAYS),
        "one company",
        [1, 2, 3, 4],
    ),
    "a comma of thousands": (
        dated(["2024-01-01", "2024-01-02"]).assign(AAA=["1,234", "1,235"]),
        "may be a decimal comma",
        [1.234, 1.235],
    ),
    "two decimal marks": (
        dated(["2024-01-01", "2024-01-02"]).assign(AAA=["1,5", "2.5"]),
        "decimal comma",
        [1.5, 2.5],
    ),
    "a ticker called as dates are": (
        pd.DataFrame({"gold": [10, 20], "SPY": [3, 4]}, index=["2024-01-01", "2024-01-02"]),
        "more fields than the header",
        [10, 20],
    ),
    "a list of numbers": ({"AAA": [1.0, 2.0, 3.0, 4.0]}, "a dict of 'AAA' to a list", [1, 2, 3, 4]),
    "rows of arrays": (np.ones((4, 1)), "not a DataFrame", [1, 1, 1, 1]),
}


def run(fix, given):
    """Run the code of a fix, where `prices` is what was refused."""
    code = CODE.search(fix)
    assert code, fix
    names = {"pd": pd, "prices": given, "dates": DAYS, "tickers": ["AAA"]}
    return eval(code[0], names)


@pytest.mark.parametrize("case", FIXES)
def test_the_printed_fix_cures(case):
    """Refused with this message, changed by this code, and read."""
    given, message, expected = FIXES[case]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_prices(given)
    cured = run(caught.value.fix, given)
    assert read_prices(cured).close.iloc[:, 0].dropna().tolist() == expected


def test_the_other_way_out_cures_too():
    """An ambiguous date or comma has two ways out; each gives its own reading."""
    given = dated(["01/02/2024", "02/02/2024"])
    with pytest.raises(InputError) as caught:
        read_prices(given)
    first, second = re.findall(r"'(%\w/%\w/%\w)'", caught.value.fix)
    assert {first, second} == {"%m/%d/%Y", "%d/%m/%Y"}
    other = run(caught.value.fix.replace(first, second), given)
    days = {
        tuple(read_prices(one).close.index.month) for one in (run(caught.value.fix, given), other)
    }
    assert days == {(1, 2), (2, 2)}
    given = dated(["2024-01-01"]).assign(AAA=["1,234"])
    with pytest.raises(InputError) as caught:
        read_prices(given)
    cured = run(caught.value.fix.split("for thousands ")[1], given)
    assert read_prices(cured).close["AAA"].tolist() == [1234]


TEXTS = {
    "a semicolon": "Day;AAA\n2024-01-01;1,5\n2024-01-02;2,5\n",
    "a semicolon and two columns": "Day;AAA;BBB\n2024-01-01;1,5;7,5\n2024-01-02;2,5;8,5\n",
    "a tab": "Day\tAAA\n2024-01-01\t1.5\n2024-01-02\t2.5\n",
    "a bar": "Day|AAA\n2024-01-01|1.5\n2024-01-02|2.5\n",
    "a trailing comma": "Day,AAA,BBB\n2024-01-01,1.5,7.5,\n2024-01-02,2.5,8.5,\n",
}


@pytest.mark.parametrize("case", TEXTS)
def test_the_options_of_read_csv_cure(case):
    """A frame that pandas split wrong: its fix has the options that split it right."""
    with pytest.raises(InputError) as caught:
        read_prices(pd.read_csv(StringIO(TEXTS[case])))
    options = dict(re.findall(r"(sep|decimal|index_col)='?(.|\\t|False)'?[,) ]", caught.value.fix))
    options = {name: {"False": False, "\\t": "\t"}.get(one, one) for name, one in options.items()}
    assert options
    read = read_prices(pd.read_csv(StringIO(TEXTS[case]), **options))
    assert read.close["AAA"].tolist() == [1.5, 2.5]


def test_a_table_without_a_header_is_refused():
    """The first row of prices would be lost; the fix names the columns."""
    text = "2024-01-01,1.5,3\n2024-01-02,2.5,4\n"
    with pytest.raises(InputError, match="no header") as caught:
        read_prices(pd.read_csv(StringIO(text)))
    code = CODE.search(caught.value.fix)[0].replace("...", "StringIO(text)")
    cured = eval(code, {"pd": pd, "StringIO": StringIO, "text": text})
    assert read_prices(cured).close["T1"].tolist() == [1.5, 2.5]


FILES = {
    "a long row": ("Date,A\n2024-01-01,1,2\n", "Date,A,B\n2024-01-01,1,2\n"),
    "a short row": (
        "Date,A,B\n2024-01-01,1,2\n2024-01-02,1\n",
        "Date,A,B\n2024-01-01,1,2\n2024-01-02,1,\n",
    ),
    "a name twice": ("Date,A,A\n2024-01-01,1,2\n", "Date,A,B\n2024-01-01,1,2\n"),
}


@pytest.mark.parametrize("case", FILES)
def test_the_advice_about_files_cures(tmp_path, case):
    """Where the fix is to edit the file, the edited file is read."""
    wrong, edited = FILES[case]
    (tmp_path / "p.csv").write_text(wrong)
    with pytest.raises(InputError) as caught:
        read_prices(tmp_path / "p.csv")
    assert re.search("name in the header|its own name|leave it empty", caught.value.fix)
    (tmp_path / "p.csv").write_text(edited)
    assert read_prices(tmp_path / "p.csv").close["A"].tolist()[0] == 1


FAULTY_FILES = {
    "intraday rows": (dated(HOURS, "Datetime"), [2, 4]),
    "two readings": (dated(["01/02/2024", "02/02/2024"]), [1, 2]),
    "days of Excel": (dated([45292, 45293]), [1, 2]),
    "a word for a date": (dated(["2024-01-01", "total"]), [1]),
    "a comma of thousands": (
        dated(["2024-01-01", "2024-01-02"]).assign(AAA=["1,234", "1,235"]),
        [1.234, 1.235],
    ),
    "long repeated rows": (long(TWO, ["AAA"] * 3), [2, 3]),
}
SAVE = {
    "p.csv": lambda frame, path: frame.to_csv(path, index=False),
    "p.tsv": lambda frame, path: frame.to_csv(path, index=False, sep=";"),
    "p.xlsx": lambda frame, path: frame.to_excel(path, index=False),
    "p.parquet": lambda frame, path: frame.to_parquet(path, index=False),
}


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("case", FAULTY_FILES)
def test_the_fix_for_a_file_reads_it_first(tmp_path, case, name):
    """Where a path was given, the fix says how to get the frame that its code changes."""
    frame, expected = FAULTY_FILES[case]
    SAVE[name](frame, tmp_path / name)
    with pytest.raises(InputError) as caught:
        read_prices(tmp_path / name, tickers=["AAA"])
    first, then = caught.value.fix.split(", and then: ")
    names = {"pd": pd}
    exec(first, names)
    cured = run(then, names["prices"])
    assert read_prices(cured, tickers=["AAA"]).close["AAA"].dropna().tolist() == expected


def test_the_fix_for_a_dict_names_the_part():
    """The frame of one ticker is changed; the others are left alone."""
    prices = {"AAA": dated(TWO), "BBB": wide(BBB=[1.0, 2.0, 3.0, 4.0])}
    with pytest.raises(InputError) as caught:
        read_prices(prices)
    cured = {**prices, "AAA": run(caught.value.fix, prices)}
    assert read_prices(cured).close["AAA"].dropna().tolist() == [2, 3]
