"""Prices as sites, exchanges and terminals write them: each file holds the same invented prices."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.prices import read_prices

DAYS = pd.bdate_range("2024-01-29", periods=6)
PRICES = [1187.15, 1188.5, 1201.25, 999.75, 1002.5, 1010.25]
ROWS = [*zip(DAYS, PRICES, strict=True)]


def english(price):
    return f"{price:,.2f}"


def german(price):
    return english(price).translate(str.maketrans(",.", ".,"))


def seconds(day):
    return int(day.timestamp())


FILES = {
    "a site in German": '"Datum","Zuletzt","Eröffn.","Hoch","Vol.","+/- %"\n'
    + "".join(
        f'"{day:%d.%m.%Y}","{german(price)}","1,00","1,00","1,20M","-0,35%"\n'
        for day, price in reversed(ROWS)
    ),
    "volumes with thousands, prices with points": "Date,Close,Volume\n"
    + "".join(f'{day:%b %d %Y},"{price}","1,000"\n' for day, price in ROWS),
    "points for missing prices": "DATE,NVDA\n2024-01-26,.\n"
    + "".join(f"{day:%Y-%m-%d},{price}\n" for day, price in ROWS),
    "dashes for missing prices": "DATE,NVDA\n2024-01-26,-\n"
    + "".join(f"{day:%Y-%m-%d},{price}\n" for day, price in ROWS),
    "a currency before each": "Date,NVDA\n"
    + "".join(f"{day:%Y-%m-%d},USD {price}\n" for day, price in ROWS),
    "a currency after each": "Date;NVDA\n"
    + "".join(f"{day:%Y-%m-%d};{german(price)} EUR\n" for day, price in ROWS),
    "blank rows at the end": "Date,NVDA,\n"
    + "".join(f"{day:%Y-%m-%d},{price},\n" for day, price in ROWS)
    + ",,\n,,\n",
    "blanks between fields": "Date        NVDA     MSFT\n"
    + "".join(f"{day:%Y-%m-%d}  {price:8.2f}  1.00\n" for day, price in ROWS),
    "three lines above the header": '"Historical data"\nFrom 2024\nFR000\n'
    "Date;Open;Close\n" + "".join(f"{day:%d/%m/%Y};1.0;{price}\n" for day, price in ROWS),
    "weekdays": "Date,NVDA\n" + "".join(f'"{day:%a, %d %b %Y}",{price}\n' for day, price in ROWS),
    "months first": "Date,NVDA\n" + "".join(f"{day:%b-%d-%Y},{price}\n" for day, price in ROWS),
    "Chinese dates": "日期,收盤價\n"
    + "".join(f"{day.year}年{day.month}月{day.day}日,{price}\n" for day, price in ROWS),
    "Korean names": "일자,종가,거래량\n"
    + "".join(f"{day:%Y/%m/%d},{price},1\n" for day, price in ROWS),
    "candles in milliseconds": "open_time,open,close,close_time\n"
    + "".join(f"{seconds(day)}000,1.0,{price},{seconds(day)}999\n" for day, price in ROWS),
    "candles in seconds": "time,open,high,low,close\n"
    + "".join(f"{seconds(day)},1.0,1.0,1.0,{price}\n" for day, price in ROWS),
    "flat files in nanoseconds": "ticker,close,window_start\n"
    + "".join(f"NVDA,{price},{seconds(day)}000000000\n" for day, price in ROWS),
}


@pytest.mark.parametrize("case", FILES)
def test_a_vendors_file_is_read(tmp_path, case):
    """Days and prices are those that were written, whatever stands around them."""
    (tmp_path / "p.csv").write_text(FILES[case], encoding="utf-8")
    read = read_prices(tmp_path / "p.csv", tickers=("NVDA",))
    close = read.close["NVDA"].dropna()
    assert (list(close.index), list(close), read.faults) == (list(DAYS), PRICES, {})


def test_volumes_with_thousands_do_not_stop_prices(tmp_path):
    """Shares are whole: the comma in their number separates thousands."""
    (tmp_path / "p.csv").write_text(FILES["volumes with thousands, prices with points"])
    read = read_prices(tmp_path / "p.csv", tickers=("NVDA",))
    assert read.volume["NVDA"].tolist() == [1000.0] * 6


def test_volumes_follow_the_mark_of_the_prices(tmp_path):
    """Beside a decimal comma the point separates thousands."""
    rows = "".join(f"{day:%d.%m.%Y};{german(price)};1.000\n" for day, price in ROWS)
    (tmp_path / "p.csv").write_text(f"Datum;Schlusskurs;Volume\n{rows}")
    read = read_prices(tmp_path / "p.csv", tickers=("NVDA",))
    assert read.volume["NVDA"].tolist() == [1000.0] * 6


def test_two_currencies_in_one_column_are_faults():
    """Pence among pounds are no prices in pounds."""
    frame = pd.DataFrame({"ULVR": ["GBP 12.5", "GBX 1260", "GBP 12.7"]}, index=DAYS[:3])
    read = read_prices(frame)
    assert [*read.faults["ULVR"]] == [DAYS[1]]


def test_parentheses_are_negative():
    frame = pd.DataFrame({"AAA": ["(0.55%)", "1.10%", "(0.25)%"]}, index=DAYS[:3])
    assert read_prices(frame, returns=True).close["AAA"].tolist() == pytest.approx(
        [-0.0055, 0.011, -0.0025]
    )


def test_errors_of_a_sheet_are_no_missing_prices():
    frame = pd.DataFrame({"AAA": ["1.5", "#REF!", "", "n.a."]}, index=DAYS[:4])
    assert [*read_prices(frame).faults["AAA"]] == [DAYS[1]]


@pytest.mark.parametrize("text", ["2024-Q{}", "2024Q{}", "Q{} 2024", "Q{}/2024"])
def test_quarters_are_their_last_days(text):
    frame = pd.DataFrame({"AAA": [1.0, 2.0]}, index=[text.format(1), text.format(2)])
    assert read_prices(frame).close.index.tolist() == [
        pd.Timestamp("2024-03-31"),
        pd.Timestamp("2024-06-30"),
    ]


NAMES = ["NA", "TRUE", "NAN", "0700"]


@pytest.mark.parametrize("label", ["ticker", "tic", "RIC", "code", "Instrument"])
def test_tickers_of_a_file_stay_as_they_are_written(tmp_path, label):
    """NA is no hole, TRUE no truth, and 0700 keeps its zero."""
    rows = "".join(f"2024-01-{day},{name},1.5\n" for day in (10, 11) for name in NAMES)
    (tmp_path / "p.csv").write_text(f"Date,{label},Close\n{rows}")
    assert list(read_prices(tmp_path / "p.csv", tickers=NAMES).close) == NAMES


def wide(*labels):
    return pd.DataFrame(dict.fromkeys(range(len(labels)), PRICES), index=DAYS).set_axis(
        pd.Index(labels, tupleize_cols=False), axis=1
    )


SHAPES = {
    "a number of the list": (wide(700, 5), "700"),
    "fields before tickers, with a blank": (
        wide("Adj Close_NVDA", "Close_NVDA").assign(Close_NVDA=1.0),
        "NVDA",
    ),
    "pairs": (wide(("Close", "NVDA"), ("Close", "MSFT")), "NVDA"),
    "pairs as text": (wide("('Close', 'NVDA')", "('Close', 'MSFT')"), "NVDA"),
    "stacked": (wide("NVDA", "MSFT").stack().reset_index(), "NVDA"),
    "long, of numbers": (
        pd.DataFrame({"date": DAYS, "ticker": [600519] * 6, "close": PRICES}),
        "600519",
    ),
    "rows of each ticker": (
        {"NVDA": [{"date": str(day.date()), "close": price} for day, price in ROWS]},
        "NVDA",
    ),
    "an answer with rows": (
        {
            "symbol": "NVDA",
            "count": 6,
            "historical": [{"date": str(day.date()), "close": price} for day, price in ROWS],
        },
        "NVDA",
    ),
    "an answer with a series": (
        {
            "Meta Data": {"2. Symbol": "NVDA"},
            "Time Series (Daily)": {
                str(day.date()): {"1. open": "1.0", "4. close": str(price)} for day, price in ROWS
            },
        },
        "NVDA",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_shape_of_code_is_read(case):
    given, ticker = SHAPES[case]
    close = read_prices(given, tickers=(ticker,)).close[ticker]
    assert (list(close.index), list(close)) == (list(DAYS), PRICES)


def test_a_saved_frame_with_levels_may_be_read_without_an_index(tmp_path):
    frame = pd.concat({"Close": wide("NVDA", "MSFT").rename_axis("Date")}, axis=1)
    frame.columns.names = ["Price", "Ticker"]
    frame.to_csv(tmp_path / "p.csv")
    read = read_prices(pd.read_csv(tmp_path / "p.csv", header=[0, 1]))
    assert read.close["NVDA"].tolist() == PRICES


def test_a_file_without_a_header_is_named_as_such(tmp_path):
    """The fix that is printed has names in it, and cures."""
    rows = "".join(f"{seconds(day)},1.5,1.6,1.4,{price},9.5,7\n" for day, price in ROWS)
    (tmp_path / "p.csv").write_text(rows)
    with pytest.raises(InputError, match="no header") as caught:
        read_prices(tmp_path / "p.csv", tickers=("NVDA",))
    code = caught.value.fix.split("name the columns: ")[1].split(", with your")[0]
    frame = eval(code.replace("...", repr(str(tmp_path / "p.csv"))), {"pd": pd})
    assert read_prices(frame, tickers=("NVDA",)).close["NVDA"].tolist() == PRICES


def test_dates_of_no_known_form_ask_for_their_form():
    """A fix that drops all rows would cure nothing."""
    frame = pd.DataFrame({"AAA": [1.0, 2.0]}, index=["day 01 in 2024", "day 02 in 2024"])
    with pytest.raises(InputError, match="is not a date") as caught:
        read_prices(frame)
    assert "format=" in caught.value.fix


def test_the_names_of_unknown_prices_are_all_listed():
    """The one that no list knows is suggested."""
    frame = pd.DataFrame({"High": [2.0], "Low": [1.0], "Kurz": [1.5]}, index=DAYS[:1])
    with pytest.raises(InputError, match="'Kurz'") as caught:
        read_prices(frame, tickers=("AAA",))
    assert caught.value.fix == "price_column='Kurz'"
    read = read_prices(frame, tickers=("AAA",), price_column="Kurz")
    assert read.close["AAA"].tolist() == [1.5]


TERMINAL = {
    "tickers above fields": [["", "NVDA US Equity", "MSFT US Equity"], ["Dates", *["PX_LAST"] * 2]],
    "lines of settings above": [
        ["Start Date", "1/29/2024"],
        ["End Date", ""],
        [],
        ["", "NVDA US Equity", "MSFT US Equity"],
        ["Dates", "PX_LAST", "PX_LAST"],
    ],
    "a title above": [["Prices"], ["Date", "NVDA", "MSFT"]],
}


@pytest.mark.parametrize("case", TERMINAL)
@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_a_terminals_sheet_is_read(tmp_path, case, suffix):
    """The rows above the dates are a header of one or two lines, and remarks above it."""
    import openpyxl

    path = tmp_path / f"p.{suffix}"
    if suffix == "csv":
        rows = [*TERMINAL[case], *([f"{day:%m/%d/%Y}", str(price), "1.5"] for day, price in ROWS)]
        path.write_text("\n".join(map(",".join, rows)))
    else:
        book = openpyxl.Workbook()
        for row in TERMINAL[case]:
            book.active.append([cell or None for cell in row])
        for day, price in ROWS:
            book.active.append([day.to_pydatetime(), price, 1.5])
        book.save(path)
    read = read_prices(path, tickers=("NVDA", "MSFT"))
    name = next(name for name in read.close if name.startswith("NVDA"))
    assert read.close[name].tolist() == PRICES


def test_a_name_twice_is_an_error_of_ours():
    """Two columns of one name beside fields were an AttributeError."""
    frame = pd.DataFrame([[1.0, 2.0, 3.0]], index=DAYS[:1], columns=["Close", "Close", "Volume"])
    with pytest.raises(InputError, match="more than once"):
        read_prices(frame, tickers=("AAA",))


def test_own_dates_of_each_ticker_are_not_thrown_away():
    """To drop the second column of dates would put prices on the days of another ticker."""
    dates = [f"{day:%Y-%m-%d}" for day in DAYS]
    prices = pd.DataFrame(zip(dates, PRICES, dates, PRICES, strict=True)).set_axis(
        ["Date", "Close", "Date", "Close"], axis=1
    )
    with pytest.raises(InputError, match="its own dates") as caught:
        read_prices(prices, tickers=("NVDA", "MSFT"))
    code = caught.value.fix.split("columns: ")[1].split(", with your")[0]
    read = read_prices(eval(code, {"prices": prices}), tickers=("NVDA", "MSFT"))
    assert read.close["MSFT"].tolist() == PRICES


@pytest.mark.slow
def test_many_texts_take_no_time(tmp_path):
    """Half a million cells with a decimal comma: one by one they took half a minute."""
    cells = pd.DataFrame({f"T{number}": [1.25, 2.5] * 1000 for number in range(250)})
    cells.index = pd.bdate_range("2010-01-01", periods=2000, name="Date")
    cells = cells.add(pd.Series(range(2000), index=cells.index), axis=0)
    cells.to_csv(tmp_path / "p.csv", sep=";", decimal=",")
    begin = time.process_time()
    read = read_prices(tmp_path / "p.csv")
    assert time.process_time() - begin < 15
    pd.testing.assert_frame_equal(
        read.close,
        cells,
        check_names=False,
        check_freq=False,
        check_index_type=False,
        check_column_type=False,
    )
