"""
What real users bring, by the numbers of the reports that it was found in: prices (A), evidence (B).

Each case is rebuilt with invented data; the reports are named beside it. The right values come from
arithmetic on the data, from pandas alone, or from the same data in a plain shape.
"""

import datetime
import json
import re

import numpy as np
import pandas as pd
import pytest

from urisk_nb import assess
from urisk_nb.errors import InputError

DAYS = pd.bdate_range("2023-01-02", periods=300, name="Date")
METRICS = ["ret_total", "vol_ann", "var_95", "es_95", "max_dd", "skew", "n_obs"]


def walk(*names, seed=5, days=DAYS, sigma=0.01):
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, sigma, (len(days), len(names)))
    return pd.DataFrame(100 * np.exp(steps.cumsum(axis=0)), index=days, columns=list(names))


def measure(tickers, prices, **params):
    """The table of a run without a model."""
    return assess(tickers, prices=prices, params={"llm": False, **params})


def messages(table):
    """All that the run says, of rows and of itself, as one text."""
    said = table.report.meta["messages"]
    texts = [[text] if isinstance(text, str) else text for text in said.values()]
    return "\n".join(line for text in texts for line in text)


def flags(table, ticker):
    return set(table.loc[ticker, "flags"].split(";")) - {""}


def same(table, plain, names=None):
    """Whether two tables have the same figures."""
    names = names or METRICS
    left, right = (pd.DataFrame(one)[names].reset_index(drop=True) for one in (table, plain))
    pd.testing.assert_frame_equal(left, right, check_dtype=False)


def ohlcv(close, adjusted=None):
    """One ticker's frame as data vendors give it."""
    frame = pd.DataFrame(
        {"Open": close * 0.99, "High": close * 1.02, "Low": close * 0.97, "Close": close}
    )
    if adjusted is not None:
        frame["Adj Close"] = adjusted
    return frame.assign(Volume=1000)


# A: prices ----------------------------------------------------------------------------------------


def test_a1_trailing_commas_do_not_shift_columns(tmp_path):
    """pandas#14124: each row ends in a comma, and pandas makes the first column an index."""
    path = tmp_path / "prices.csv"
    frame = walk("AAPL", "MSFT", "NVDA")
    lines = frame.rename_axis("Day").to_csv().splitlines()
    path.write_text("\n".join([lines[0], *(line + "," for line in lines[1:])]))
    same(measure("AAPL MSFT NVDA", path), measure("AAPL MSFT NVDA", frame))


def test_a1_a_row_longer_than_the_header_is_named(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("Day,AAPL\n2023-01-02,150.0,1\n2023-01-03,151.0\n")
    with pytest.raises(InputError, match="line 2"):
        measure("AAPL", path)


def download(names, by_ticker=False, level_names=("Price", "Ticker")):
    """A frame as yf.download gives it."""
    close = walk(*names)
    parts = {name: ohlcv(close[name], close[name] * 0.5) for name in names}
    frame = pd.concat(parts, axis=1, names=level_names[::-1])
    return close, frame if by_ticker else frame.swaplevel(axis=1).sort_index(axis=1)


@pytest.mark.parametrize("by_ticker", [False, True])
@pytest.mark.parametrize("level_names", [("Price", "Ticker"), (None, None)])
def test_a2_downloaded_frames_are_read(by_ticker, level_names):
    """yfinance#2193, #2355: two levels of columns, in either order, with and without names."""
    close, frame = download(["NVDA", "MSFT"], by_ticker, level_names)
    same(measure("NVDA MSFT", frame), measure("NVDA MSFT", close))


def test_a2_one_tickers_frame_takes_its_name_from_the_cell():
    close = walk("NVDA")["NVDA"]
    for given in (
        ohlcv(close),
        close.rename(None),
        close.rename("Close"),
        ohlcv(close).tz_localize("America/New_York"),
    ):
        same(measure("NVDA", given), measure("NVDA", close.to_frame()))
    with pytest.raises(InputError, match="ticker"):
        measure("NVDA MSFT", ohlcv(close))


def test_a2_a_dict_of_frames_is_read():
    close = walk("NVDA", "MSFT")
    given = {"NVDA": ohlcv(close["NVDA"]), "MSFT": close["MSFT"].rename(None)}
    same(measure("NVDA MSFT", given), measure("NVDA MSFT", close))


def test_a2_a_downloaded_frame_survives_a_file(tmp_path):
    """to_csv() writes two header rows and a row with the name of the index."""
    close, frame = download(["NVDA", "MSFT"])
    frame.to_csv(tmp_path / "px.csv")
    same(measure("NVDA MSFT", tmp_path / "px.csv"), measure("NVDA MSFT", close))


def split_frame():
    """A split of two for one in the middle: the close halves, the adjusted close does not."""
    adjusted = walk("NVDA")["NVDA"]
    close = adjusted.where(adjusted.index >= DAYS[150], adjusted * 2)
    return close, adjusted, ohlcv(close, adjusted)


def test_a3_the_adjusted_close_comes_first():
    """yfinance#1531: the close alone reads a split as a crash."""
    close, adjusted, frame = split_frame()
    table = measure("NVDA", frame)
    assert table.loc["NVDA", "ret_total"] == pytest.approx(adjusted.iloc[-1] / adjusted.iloc[0] - 1)
    assert (table.report.meta["price_column"], table.report.meta["adjusted"]) == ("Adj Close", True)
    assert "Adj Close" in repr(table)
    assert "Adj Close" in table._repr_html_()
    plain = measure("NVDA", frame, price_column="close")
    assert plain.loc["NVDA", "ret_total"] == pytest.approx(close.iloc[-1] / close.iloc[0] - 1)
    assert plain.report.meta["adjusted"] is False
    with pytest.raises(InputError, match="Adj Close"):
        measure("NVDA", frame, price_column="settle")


def test_a3_a_long_file_has_both_columns_too(tmp_path):
    _, adjusted, frame = split_frame()
    frame.assign(symbol="NVDA").to_csv(tmp_path / "long.csv")
    table = measure("NVDA", tmp_path / "long.csv")
    assert table.loc["NVDA", "ret_total"] == pytest.approx(adjusted.iloc[-1] / adjusted.iloc[0] - 1)


JUMPS = {
    "split": lambda q: q.where(q.index < DAYS[150], q / 10),
    "pence": lambda q: q.where((q.index < DAYS[100]) | (q.index > DAYS[120]), q * 100),
    "one row": lambda q: q.where(q.index != DAYS[200], q * 100),
}
JUMP_DAYS = {"split": DAYS[150], "pence": DAYS[100], "one row": DAYS[200]}


@pytest.mark.parametrize("case", JUMPS)
def test_a4_a_jump_is_flagged_with_its_date(case):
    """yfinance#280, #1110, #1531: a missed split, pence for pounds, one row times 100."""
    prices = walk("ULVR", "SHEL")
    prices["ULVR"] = JUMPS[case](prices["ULVR"])
    table = measure("ULVR SHEL", prices)
    assert "jump" in flags(table, "ULVR")
    assert "jump" not in flags(table, "SHEL")
    assert str(JUMP_DAYS[case].date()) in messages(table)
    assert table.loc["ULVR", "ret_total"] == pytest.approx(
        prices["ULVR"].iloc[-1] / prices["ULVR"].iloc[0] - 1
    )  # nothing is corrected


def test_a4_a_crash_is_no_jump():
    """A fall of 35 % in a volatile stock happens."""
    prices = walk("GME", sigma=0.05)
    prices.iloc[150:] *= 0.65
    assert "jump" not in flags(measure("GME", prices), "GME")


def test_a5_the_return_over_a_shared_closure_counts():
    """exchange_calendars#288: all columns are closed for eleven days and reopen 9 % lower."""
    days = DAYS[(DAYS < "2023-10-01") | (DAYS > "2023-10-11")]
    prices = walk("A600519", "A000858", days=days)
    prices.loc[prices.index > "2023-10-01"] *= 0.91
    table = measure("A600519 A000858", prices)
    plain = prices.set_axis(pd.bdate_range("2023-01-02", periods=len(days)))
    same(table, measure("A600519 A000858", plain), ["es_95", "skew", "vol_ann", "ret_total"])
    assert "gap" not in flags(table, "A600519")


def test_a5_a_gap_of_one_column_is_named():
    """Where others traded, a hole is a gap; the table says how many returns were left out."""
    prices = walk("AAA", "BBB")
    prices.iloc[100:120, 0] = np.nan
    table = measure("AAA BBB", prices)
    assert "gap" in flags(table, "AAA")
    assert "gap" not in flags(table, "BBB")
    assert "1 return" in messages(table)
    assert str(DAYS[120].date()) in messages(table)


def test_a6_two_frequencies_are_not_one():
    """yahooquery#321, yfinance#1070: months, then days."""
    months = pd.date_range("2012-01-31", periods=130, freq="ME")
    days = pd.bdate_range(months[-1] + pd.Timedelta(days=1), periods=100)
    table = measure("AAA", walk("AAA", days=months.append(days)))
    assert {"mixed_frequency", "bad_data"} & flags(table, "AAA")
    assert np.isnan(table.loc["AAA", "vol_ann"]) or "mixed_frequency" in flags(table, "AAA")


def test_a7_a_smooth_path_is_flat():
    """ffn#317, empyrical#93: all returns of the benchmark are equal but for rounding."""
    prices = walk("AAA").assign(CASH=1.0001 ** np.arange(300))
    table = measure("AAA CASH", prices, benchmark="CASH")
    assert np.isnan(table.loc["AAA", "beta"])
    assert "flat_benchmark" in flags(table, "AAA")
    assert "flat" in flags(table, "CASH")
    assert np.isnan(table.loc["CASH", "skew"])


FORMS = {
    "semicolon and comma": {"sep": ";", "decimal": ","},
    "semicolon and point": {"sep": ";"},
    "tab": {"sep": "\t"},
    "UTF-16": {"encoding": "utf-16"},
    "byte order mark": {"encoding": "utf-8-sig"},
    "European, UTF-16": {"sep": ";", "decimal": ",", "encoding": "utf-16"},
}


@pytest.mark.parametrize("form", FORMS)
def test_a8_a_csv_of_any_country_is_read(form, tmp_path):
    """polars#18798, readr#1445."""
    frame = walk("SAP", "BMW").round(4)
    frame.to_csv(tmp_path / "prices.csv", **FORMS[form])
    same(measure("SAP BMW", tmp_path / "prices.csv"), measure("SAP BMW", frame))


INTRADAY = {
    "hours": walk("AAA", days=pd.date_range("2023-01-02 09:00", periods=400, freq="h")),
    "two times a day": walk("AAA").rename(
        index=lambda day: day + pd.Timedelta(hours=day.day % 2 * 5)
    ),
    "last day twice": pd.concat(
        [walk("AAA"), walk("AAA").tail(1).set_axis([DAYS[-1] + pd.Timedelta(hours=16)])]
    ),
}


@pytest.mark.parametrize("case", ["hours", "last day twice"])
def test_a9_the_printed_fix_cures(case):
    """yfinance#1341: several rows a day are refused, and the fix that is printed works."""
    prices = INTRADAY[case]
    with pytest.raises(InputError, match="more than one row") as caught:
        measure("AAA", prices)
    code = caught.value.fix.split(": ", 1)[1]
    cured = eval(code, {"prices": prices, "pd": pd})
    last = prices.groupby(prices.index.normalize()).last()
    same(measure("AAA", cured), measure("AAA", last))


def test_a10_names_of_a_terminal_match():
    frame = walk("NVDA US Equity", "SPX Index")
    plain = frame.set_axis(["NVDA", "SPX"], axis=1)
    same(measure("NVDA", frame), measure("NVDA", plain))


@pytest.mark.parametrize(
    "name", ["Dates", "Datum", "time", "timestamp", "Date", "Unnamed: 0", "day"]
)
def test_a10_the_column_of_dates_has_many_names(name, tmp_path):
    frame = walk("NVDA")
    given = frame.reset_index().rename(columns={"Date": name})
    same(measure("NVDA", given), measure("NVDA", frame))
    given.to_csv(tmp_path / "p.csv", index=False)
    same(measure("NVDA", tmp_path / "p.csv"), measure("NVDA", frame))


def test_a10_excel_and_folders_are_read(tmp_path):
    frame = walk("NVDA", "MSFT")
    frame.to_excel(tmp_path / "book.xlsx")
    plain = measure("NVDA MSFT", frame)
    same(measure("NVDA MSFT", tmp_path / "book.xlsx"), plain)
    folder = tmp_path / "prices"
    folder.mkdir()
    for name in frame:
        ohlcv(frame[name]).to_csv(folder / f"{name}.csv")
    (folder / "readme.pdf").write_text("no prices")
    for given in (folder, f"{folder}/*.csv"):
        same(measure("NVDA MSFT", given), plain)
    assert "readme.pdf" in messages(measure("NVDA MSFT", folder))


@pytest.mark.parametrize("ticker", ["EUR_USD", "ES1!", ".SPX"])
def test_a11_what_the_data_names_is_a_ticker(ticker):
    """fastquant#392: names of brokers and terminals."""
    frame = walk(ticker, "AAA")
    table = assess(
        f"{ticker}, AAA",
        prices=frame,
        evidence=[{"ticker": ticker, "text": "The exchange was fined $5 million."}],
        params={"llm": False},
    )
    assert list(table.index) == [ticker, "AAA"]
    assert table.loc[ticker, "status"] != "no_data"
    assert table.loc[ticker, "sentences"] == 1


def test_a12_percent_returns_are_noticed():
    """quantstats#72, #7: 1.5 for 1.5 %."""
    percent = walk("AAA", "BBB").pct_change().dropna() * 100
    try:
        said = messages(measure("AAA BBB", percent, returns=True))
    except InputError as exc:
        said = f"{exc} {exc.fix}"
    assert re.search("divide .* by 100", said)


def test_a12_prices_given_as_returns_are_noticed():
    fx = 1 + walk("EURUSD", sigma=0.001) / 1000
    try:
        table = measure("EURUSD", fx, returns=True)
    except InputError as exc:
        said = f"{exc} {exc.fix}"
    else:
        assert "unlikely_returns" in flags(table, "EURUSD")
        said = messages(table)
    assert "returns" in said


def test_a13_weights_may_be_percent():
    table = measure("AAA=40%, BBB=60 %", walk("AAA", "BBB"))
    assert table["weight"].tolist() == [0.4, 0.6]
    assert "sum" not in messages(table)


def test_a13_a_sum_off_one_is_said():
    table = measure("AAA=0.7, BBB=0.6", walk("AAA", "BBB"))
    assert table["weight"].tolist() == [0.7, 0.6]
    assert "1.3" in messages(table)


# B: evidence --------------------------------------------------------------------------------------


def read(tickers, evidence, **options):
    """The table of a run that reads evidence and asks no model, and what it would ask."""
    from urisk_nb.session import open_run

    run = open_run(tickers, evidence=evidence, params={"llm": True}, **options)
    sentences = {
        symbol: [one.text for one in selection.chosen]
        for symbol, selection in run.plan.selections.items()
    }
    return run, sentences


def notes(run):
    return "\n".join(run.input_notes)


def test_b1_a_row_without_a_ticker_is_nobodys():
    """pandas-datareader#948: pandas read the ticker NA as missing."""
    frame = pd.DataFrame({"ticker": [np.nan, "AAA"], "text": ["NA was fined.", "AAA was sued."]})
    try:
        run, sentences = read("AAA BBB", frame)
    except InputError as exc:
        said = str(exc)
    else:
        assert sentences == {"AAA": ["AAA was sued."], "BBB": []}
        said = notes(run)
    assert "no ticker" in said


def test_b1_shared_sentences_are_marked():
    run, sentences = read("AAA BBB", [{"ticker": "*", "text": "Rates rose sharply."}])
    assert sentences == {"AAA": ["Rates rose sharply."], "BBB": ["Rates rose sharply."]}
    assert all("shared_evidence" in one.flags for one in run.plan.selections.values())


NEWS = [
    {
        "headline": "Fitch Upgrades ABB from BBB+ to A-; Outlook Stable",
        "summary": "The agency cites lower debt.",
        "url": "https://news.example/abb",
        "published_at": "2024-05-03T10:00:00Z",
        "symbols": ["ABB", "SIE"],
        "paywall": False,
    },
    {
        "headline": "Siemens recalls trains",
        "summary": None,
        "url": "https://news.example/sie",
        "published_at": "2024-05-04",
        "symbols": ["SIE"],
        "paywall": True,
    },
]


@pytest.mark.parametrize("shape", ["list", "frame", "json", "wrapped", "jsonl"])
def test_b2_news_is_read_as_apis_give_it(shape, tmp_path):
    path = tmp_path / "news.json"
    given = {
        "list": lambda: NEWS,
        "frame": lambda: pd.DataFrame(NEWS),
        "json": lambda: path.write_text(json.dumps(NEWS)) and path,
        "wrapped": lambda: path.write_text(json.dumps({"status": "ok", "articles": NEWS})) and path,
        "jsonl": lambda: path.write_text("\n".join(map(json.dumps, NEWS))) and path,
    }[shape]()
    run, sentences = read("ABB SIE", given)
    assert sentences["ABB"] == [NEWS[0]["headline"], NEWS[0]["summary"]]
    assert sentences["SIE"] == [NEWS[0]["headline"], NEWS[0]["summary"], "Siemens recalls trains"]
    documents = {one.document.text: one.document for one in run.plan.selections["SIE"].chosen}
    dates = sorted(one.date for one in documents.values())
    assert dates == [datetime.date(2024, 5, 3), datetime.date(2024, 5, 4)]
    assert all("https://news.example/" in one.source for one in documents.values())
    assert "paywall" in notes(run)


def test_b3_a_broken_row_costs_itself_alone(tmp_path):
    rows = [
        f"{n},Firm {n} cuts its forecast,2024-05-0{n % 9 + 1} 09:00:00-04:00,AAA" for n in range(40)
    ]
    rows[17] = "17,Firm 17 cuts its forecast,yesterday,AAA"
    path = tmp_path / "analysts.csv"
    path.write_text("\n".join([",title,date,stock", *rows]))
    run, sentences = read("AAA", path, query=None)
    assert run.plan.selections["AAA"].sentences == 39
    assert "Firm 17 cuts its forecast" not in sentences["AAA"]
    assert "yesterday" in notes(run)


def test_b4_a_folder_of_many_kinds_is_read(tmp_path):
    import docx

    (tmp_path / "NVDA_10K_2025.txt").write_text("We depend on one foundry.")
    (tmp_path / "MSFT").mkdir()
    (tmp_path / "MSFT" / "10k.htm").write_text("<p>We were sued in 2024.</p>")
    (tmp_path / "NVDA_note.md").write_text(
        "Its largest customer left – “for good”.", encoding="cp1252"
    )
    document = docx.Document()
    document.add_paragraph("A plant burned down in May.")
    document.save(tmp_path / "msft-memo-2024-06-01.docx")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    run, sentences = read("NVDA MSFT", tmp_path)
    assert sorted(sentences["NVDA"]) == [
        "Its largest customer left – “for good”.",
        "We depend on one foundry.",
    ]
    assert sorted(sentences["MSFT"]) == ["A plant burned down in May.", "We were sued in 2024."]
    assert "logo.png" in notes(run)
    days = {one.document.source: one.document.date for one in run.plan.selections["MSFT"].chosen}
    assert datetime.date(2024, 6, 1) in days.values()


def test_b4_a_single_file_names_its_ticker(tmp_path):
    path = tmp_path / "report final.txt"
    path.write_text("We were fined in 2024.")
    _, sentences = read("NVDA MSFT", f"NVDA={path}")
    assert sentences == {"NVDA": ["We were fined in 2024."], "MSFT": []}
    with pytest.raises(InputError, match=r"report final\.txt"):
        read("NVDA MSFT", path)


def test_b5_html_is_read_as_text(tmp_path):
    source = (
        "<html><body><p>A regulator fined the company <b>$5&nbsp;million</b> for bribery.</p>"
        "<table><tr><td>Credit</td><td>4</td></tr><tr><td>Loans</td><td>1,204</td></tr></table>"
        "<p>AT&amp;T is our customer.</p></body></html>"
    )
    path = tmp_path / "AAA.html"
    path.write_text(source)
    run, sentences = read("AAA", path)
    assert sentences["AAA"] == [
        "A regulator fined the company $5 million for bribery.",
        "AT&T is our customer.",
    ]
    one = run.plan.selections["AAA"].chosen[0]
    start, end = one.document.find_origin(one.start), one.document.find_origin(one.end - 1)
    assert source[start] == "A"
    assert source[end] == "."
    assert source[start:end].startswith("A regulator fined the company <b>$5")


@pytest.mark.parametrize(
    "title",
    [
        *(
            "Fitch Upgrades ABB from BBB+ to A-; Outlook Stable",
            "Arbor Realty Trust Offers 3.5M Shares",
        ),
        *("Shares plummet on fraud allegation", "Fitch Downgrades ABB", "ABB: Q3 EPS $0.52"),
    ],
)
def test_b6_a_headline_is_a_sentence(title):
    _, sentences = read("ABB", [{"title": title, "date": "2024-05-03", "symbol": "ABB"}])
    assert sentences["ABB"] == [title]


SPLITS = {
    "U.S.": (
        "We face risks in non-U.S. jurisdictions and in the U.K. market. Our plants are old.",
        ["We face risks in non-U.S. jurisdictions and in the U.K. market.", "Our plants are old."],
    ),
    "wrap": (
        "We depend on a single\nSupplier in Taiwan for all of\nour wafers.",
        ["We depend on a single Supplier in Taiwan for all of our wafers."],
    ),
    "bullet": (
        "•We were fined in May.\n•We were sued in June.",
        ["We were fined in May.", "We were sued in June."],
    ),
    "table": ("Revenue          1,204     1,056\nWe were fined in May.", ["We were fined in May."]),
    "page": ("We were fined\n\n12\n\nTable of Contents\n\nin May by a court.", None),
}


@pytest.mark.parametrize("case", SPLITS)
def test_b7_filings_are_split_where_sentences_end(case):
    text, expected = SPLITS[case]
    _, sentences = read("AAA", {"AAA": text})
    if expected is not None:
        assert sentences["AAA"] == expected
    assert not [one for one in sentences["AAA"] if one in ("12", "Table of Contents")]


def test_b8_marks_of_files_are_no_hidden_text(tmp_path):
    (tmp_path / "AAA.txt").write_text(
        "\ufeffWe were fined in May. \U0001f469\u200d\U0001f4bb", encoding="utf-8"
    )
    (tmp_path / "n.jsonl").write_text(
        '\ufeff{"ticker": "AAA", "text": "We were sued."}', encoding="utf-8"
    )
    for given in (tmp_path / "AAA.txt", tmp_path / "n.jsonl"):
        run, _ = read("AAA", given)
        assert "hidden_text" not in run.plan.selections["AAA"].flags


def test_b9_evidence_of_other_tickers_is_named():
    rows = [{"ticker": "FB", "text": "FB was fined."}] * 2 + [
        {"ticker": "META", "text": "It was sued."}
    ]
    run, sentences = read("META", rows)
    assert sentences["META"] == ["It was sued."]
    assert "FB" in notes(run)


def test_b10_no_file_runs_a_formula(tmp_path):
    import openpyxl

    evidence = [{"ticker": "AAA", "text": '=HYPERLINK("http://x.example","We were fined in May.")'}]
    run, _ = read("AAA", evidence)
    table = run.table()
    frame = table.assign(top_quote=evidence[0]["text"])
    frame.to_excel(tmp_path / "t.xlsx")
    cells = [cell for row in openpyxl.load_workbook(tmp_path / "t.xlsx").active for cell in row]
    assert not [cell for cell in cells if cell.data_type == "f"]
    assert "'=HYPERLINK" in frame.to_csv()
