"""Tickers are read as they were meant, or refused with a way out."""

from __future__ import annotations

import math
import time
from decimal import Decimal

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from urisk_nb.errors import InputError
from urisk_nb.readers.holdings import parse_tickers, unite_spellings
from urisk_nb.risk.inputs import Holding


def symbols(tickers):
    return [holding.symbol for holding in parse_tickers(tickers)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVDA, MSFT\nAAPL  AMZN", ["NVDA", "MSFT", "AAPL", "AMZN"]),
        ("nvda", ["NVDA"]),
        ("NVDA # chips, GPU=1\n# MSFT\n\nAAPL", ["NVDA", "AAPL"]),
        (
            "BRK.B BRK-A BRK/B ^GSPC 0700.HK BTC-USD EURUSD=X M&M.NS ES=F US10YT=RR EUR= EURUSD=",
            None,
        ),
        ("AAPL US Equity\nSPX Index", ["AAPL US EQUITY", "SPX INDEX"]),
        (
            "AAPL US Equity=0.5, EUR  Curncy\nMSFT AAPL",
            ["AAPL US EQUITY", "EUR CURNCY", "MSFT", "AAPL"],
        ),
        (
            (
                "\N{FULLWIDTH LATIN CAPITAL LETTER N}VDA\N{NO-BREAK SPACE}MSFT"
                "\N{FULLWIDTH COMMA}A\N{ZERO WIDTH SPACE}APL"
            ),
            ["NVDA", "MSFT", "AAPL"],
        ),
        ("\N{BYTE ORDER MARK}NVDA", ["NVDA"]),
        ("EUR_USD ES1! .SPX _X VIX3M ^VIX BA. CL_1 XAU_USD", None),
    ],
)
def test_cell_text_becomes_tickers(text, expected):
    """
    Commas, white space, comments, terminal names and full-width signs are read as people write
    them.
    """
    assert symbols(text) == (expected or text.split())


@pytest.mark.parametrize(
    ("text", "symbol", "weight"),
    [
        ("NVDA=0.4", "NVDA", 0.4),
        ("NVDA = 0.4", "NVDA", 0.4),
        ("NVDA= -.4", "NVDA", -0.4),
        ("NVDA=\N{MINUS SIGN}1e-1", "NVDA", -0.1),
        ("EURUSD=X=0.4", "EURUSD=X", 0.4),
        ("AAPL US Equity = 2", "AAPL US EQUITY", 2),
        ("0700.HK=0", "0700.HK", 0),
        ("EURUSD=X", "EURUSD=X", None),
        ("NVDA=40%", "NVDA", 0.4),
        ("NVDA = 7 %", "NVDA", 0.07),
        ("NVDA=-12.5%", "NVDA", -0.125),
        ("EURUSD=X=150%", "EURUSD=X", 1.5),
        ("AAPL US Equity = 40%", "AAPL US EQUITY", 0.4),
        ("ES1!=40%", "ES1!", 0.4),
    ],
)
def test_a_weight_follows_the_last_equals_sign(text, symbol, weight):
    """A number after the last "=" is the weight; letters there belong to the name."""
    assert parse_tickers(text) == (Holding(symbol=symbol, weight=weight),)


@pytest.mark.parametrize(
    "tickers",
    [
        "NVDA=0.4, BRK.B=0.6",
        ["NVDA=0.4", "BRK.B = 0.6"],
        [("NVDA", 0.4), ("BRK.B", 0.6)],
        {"nvda": 0.4, "BRK.B": 0.6},
        {"NVDA": "0.4", "BRK.B": Decimal("0.6")},
        {"NVDA": "40%", "BRK.B": "60 %"},
        "NVDA=40%, BRK.B = 60%",
        pd.Series([0.4, 0.6], index=["NVDA", "BRK.B"]),
        pd.Series(["NVDA=0.4", "BRK.B=0.6"]),
        np.array(["NVDA=0.4", "BRK.B=0.6"]),
        (text for text in ("NVDA=0.4", "BRK.B=0.6")),
    ],
)
def test_every_shape_of_list_means_the_same(tickers):
    """Text, lists, pairs, mappings and Series give the same holdings."""
    assert parse_tickers(tickers) == (
        Holding(symbol="NVDA", weight=0.4),
        Holding(symbol="BRK.B", weight=0.6),
    )


def test_a_set_gives_one_order():
    """A set has no order: its holdings come sorted, in every process."""
    names = [f"T{number}" for number in range(10, 40)]
    assert symbols(set(names)) == names


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("NVDA=0.4, nvda=0.5", 0.9),
        ("NVDA=40%, NVDA=-10%, NVDA=5%", 0.35),
        ("NVDA=0.4, NVDA=-0.4", 0.0),
        ("NVDA, NVDA=0.4", 0.4),
        ("NVDA=0.4, NVDA", 0.4),
        ("NVDA, NVDA", None),
    ],
)
def test_lines_of_one_ticker_are_lots_of_one_position(text, weight):
    """Their weights add up, wherever a line has none, and the holding knows each line."""
    (one,) = parse_tickers(text)
    assert one == Holding(symbol="NVDA", weight=pytest.approx(weight), flags=("duplicate",))
    assert len(one.lines) == text.count(",") + 1
    assert parse_tickers("NVDA=0.4")[0].lines == ()


SPELLINGS = [
    ("BRK.B=0.2, AAA=0.5, BRK-B=0.1, BRK/B=0.1", ["BRK-B", "AAA"], ["BRK.B", "AAA"], [0.4, 0.5]),
    ("BRK.B=0.2, BRK-B=0.1", ["BRK.B", "BRK-B"], ["BRK.B", "BRK-B"], [0.2, 0.1]),
    ("NVDA=0.2\nNVDA US Equity=0.3\nNASDAQ:NVDA=-0.1", ["nvda"], ["NVDA"], [0.4]),
    (
        "NVDA US Equity=0.2\nNVDA GR Equity=0.3",
        ["NVDA US EQUITY"],
        ["NVDA US EQUITY", "NVDA GR EQUITY"],
        [0.2, 0.3],
    ),
    ("BRK.B, BRK-B=0.1, AAA", [], ["BRK.B", "AAA"], [0.1, None]),
    ("BRK.A, BRK.B", [], ["BRK.A", "BRK.B"], [None, None]),
    ("NVDA, NVDA US Equity", [], ["NVDA", "NVDA US EQUITY"], [None, None]),
]


@pytest.mark.parametrize(("text", "columns", "names", "weights"), SPELLINGS)
def test_spellings_of_one_instrument_are_one_position(text, columns, names, weights):
    """Those that mean one column, and without prices those of one share class."""
    lines = text.replace(", ", "\n")
    seen = unite_spellings(parse_tickers(lines), columns)
    assert [one.symbol for one in seen] == names
    assert [one.weight for one in seen] == [
        one if one is None else pytest.approx(one) for one in weights
    ]
    for one in seen:
        assert ("duplicate" in one.flags) is bool(one.lines)
        assert ("no_weight" in one.flags) is (one.weight is None and any(weights))


def test_an_ambiguous_spelling_is_refused():
    """As where its column is looked up."""
    with pytest.raises(InputError, match="could be any of the columns"):
        unite_spellings(parse_tickers("BRK/B"), ["BRK.B", "BRK-B"])


def test_a_missing_weight_beside_others_is_said():
    """Where some have a weight, one without is flagged; where none has, nothing is."""
    assert parse_tickers("NVDA=0.4, MSFT")[1].flags == ("no_weight",)
    assert parse_tickers("NVDA, MSFT")[1].flags == ()


BAD_TICKERS = {
    "nothing": ("", "there is no ticker", "NVDA=0.4"),
    "only a comment": ("# later", "there is no ticker", "NVDA=0.4"),
    "an empty list": ([], "there is no ticker", "NVDA=0.4"),
    "a path": ("NVDA\n../../etc/passwd", "line 2: '../../etc/passwd'", "commas"),
    "a dollar sign": ("$NVDA", "'$NVDA'", "did you mean NVDA?"),
    "an emoji": ("NVDA\N{ROCKET}", "is not a ticker", "did you mean NVDA?"),
    "a NUL": ("NVDA\x00", r"'NVDA\x00'", "did you mean NVDA?"),
    "a script": ("<script>alert(1)</script>", "'<script>alert(1)</script>'", "commas"),
    "semicolons": ("NVDA;MSFT", "'NVDA;MSFT'", "separate tickers by commas"),
    "far too long": ("A" * 31, "is not a ticker", "commas"),
    "a novel": ("A" * 100_000, "AAA...'", "commas"),
    "a weight in words": ("NVDA=half", "line 1: the weight 'half' of 'NVDA'", "NVDA=0.4"),
    "two signs of per cent": ("NVDA=25%%", "'25%%'", "NVDA=0.4"),
    "per cent without a ticker": ("NVDA 40%", "'40%' looks like a weight", "NVDA=40%"),
    "per cent with a decimal comma": ("NVDA=40,5%", "decimal comma", "40.5%"),
    "per cent of words in a mapping": ({"NVDA": "half%"}, "'half%'", "NVDA=0.4"),
    "no weight after =": ("NVDA=", "the weight ''", "NVDA=0.4"),
    "an infinite weight": ("NVDA=inf", "'inf'", "NVDA=0.4"),
    "a weight beyond floats": ("NVDA=1e999", "'1e999'", "NVDA=0.4"),
    "a decimal comma": ("NVDA=0,4", "decimal comma", "0.4"),
    "two weights": ("NVDA=1=2", "two weights", "NVDA=2"),
    "a weight without =": ("NVDA 0.4", "'0.4' looks like a weight", "NVDA=0.4"),
    "a weight without a name": ("=0.4", "''", "NVDA=0.4"),
    "a number in a list": (["NVDA", 700], "item 2: 700 is an int", '"700"'),
    "None in a list": ([None], "item 1: None", "NVDA=0.4"),
    "None": (None, "a NoneType", "NVDA=0.4"),
    "bytes": (b"NVDA", "a bytes", "NVDA=0.4"),
    "a frame": (pd.DataFrame({"ticker": ["A"]}), "a DataFrame", "dict(zip("),
    "a mapping to words": ({"NVDA": "half"}, "'half'", "NVDA=0.4"),
    "a mapping to NaN": ({"NVDA": math.nan}, "nan", "NVDA=0.4"),
    "a mapping to True": ({"NVDA": True}, "True", "NVDA=0.4"),
    "a mapping to a list": ({"NVDA": [1]}, "[1]", "NVDA=0.4"),
    "a mapping from numbers": ({700: 0.5}, "700 is an int", '"700"'),
    "a Series of words": (pd.Series(["half"], index=["NVDA"]), "'half'", "NVDA=0.4"),
}


@pytest.mark.parametrize("case", BAD_TICKERS)
def test_bad_tickers_are_refused(case):
    """The message says where and what was seen, the fix what to write."""
    given_tickers, seen, fix = BAD_TICKERS[case]
    with pytest.raises(InputError) as caught:
        parse_tickers(given_tickers)
    assert seen in caught.value.message
    assert fix in caught.value.fix
    assert len(str(caught.value)) < 300


OWN = [
    "S&P 500",
    "EUR_USD",
    "Zürich",
    "$SPX",
    "#1",
    "贵州茅台",
    "A+B",
    "GBP/USD=X",
    "x" * 31,
    "A\x00B",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S&P 500, NVDA MSFT", ["S&P 500", "NVDA", "MSFT"]),
        ("s&p 500=40%", ["S&P 500"]),
        ("zürich\n$spx eur_usd", ["ZÜRICH", "$SPX", "EUR_USD"]),
        (["贵州茅台", "#1"], None),
        ({"A+B": 1, "GBP/USD=X": 2}, ["A+B", "GBP/USD=X"]),
        ("GBP/USD=X=0.5", ["GBP/USD=X"]),
    ],
)
def test_what_the_data_names_is_a_ticker(text, expected):
    """A column of the user's own is a name, whatever it looks like; case does not matter."""
    if expected is None:
        text, expected = text[:1], text[:1]
    assert [one.symbol for one in parse_tickers(text, known=OWN)] == expected


@pytest.mark.parametrize("text", ["A\x00B", "x" * 31, "<b>", "$NVDA"])
def test_known_names_open_the_door_to_no_others(text):
    """Control characters and endless names are refused, though a column has them."""
    with pytest.raises(InputError):
        parse_tickers([text], known=OWN)


# Of any text nearly all is refused, so half of them are made of what is not.
PARTS = ["a", "Z9", "brk.b", "^GSPC", "EUR=X", "ß", "ı", "-", "..", "/", "<", "'", ",", " ", "\n"]


@given(st.text(max_size=60) | st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_text_gives_safe_symbols_or_an_input_error(text):
    """
    Whatever is typed, a symbol is upper case, without path parts that lead upwards from the start,
    and short; or it is refused.
    """
    try:
        holdings = parse_tickers(text)
    except InputError:
        return
    for holding in holdings:
        assert holding.symbol == holding.symbol.upper()
        assert 0 < len(holding.symbol) <= 30
        assert not holding.symbol.startswith(("/", ".."))
        assert not set(holding.symbol) & set("<>\\\"'`$;|\x00\n")


def test_a_second_run_with_the_same_columns_takes_no_longer():
    """10,000 names looked up in 10,000: in proportion, also where an equal set was met before."""
    names = [f"T{number}" for number in range(10_000)]
    seconds = []
    for _ in range(2):
        began = time.process_time()
        assert len(parse_tickers(names, known=list(names))) == len(names)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 3 * seconds[0] + 0.3
