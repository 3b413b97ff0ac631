"""Evidence becomes documents that are laid at the right door, or is refused with a way out."""

from __future__ import annotations

import math
from datetime import date
from io import StringIO

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.news import read_evidence
from urisk_nb.risk.inputs import Document


def read_documents(given, **options):
    return read_evidence(given, **options).documents


TEXTS = pd.DataFrame(
    {
        "Ticker": ["nvda", " * ", "NVDA", "MSFT"],
        "text": ["b", "shared", "a", "c"],
        "date": ["2024-01-02", "2024-01-01", pd.Timestamp("2024-01-01", tz="UTC"), None],
        "source": ["wire", None, "wire", math.nan],
        "page": [1, 2, 3, 4],
    }
)


def test_a_frame_of_evidence():
    """
    Rows become documents with clean tickers and dates, in an order of their own; unknown columns
    are named.
    """
    evidence = read_evidence(TEXTS)
    january = date(2024, 1, 1)
    assert evidence.documents == (
        Document(id="E1", ticker="MSFT", text="c", kind="news"),
        Document(id="E2", ticker=None, text="shared", date=january, kind="news"),
        Document(id="E3", ticker="NVDA", text="a", date=january, source="wire", kind="news"),
        Document(
            id="E4", ticker="NVDA", text="b", date=date(2024, 1, 2), source="wire", kind="news"
        ),
    )
    assert evidence.notes == ("Columns of the evidence that were not used: page.",)


def test_the_order_of_the_rows_changes_nothing():
    """Shuffled rows give the same documents with the same ids."""
    for seed in range(5):
        assert read_documents(TEXTS.sample(frac=1, random_state=seed)) == read_documents(TEXTS)


@pytest.mark.parametrize(
    "data",
    [
        {"NVDA": ["a", "b"], "*": "all"},
        [
            {"ticker": "NVDA", "text": "a"},
            {"Ticker": "nvda", "text": "b", "date": None},
            {"ticker": "*", "text": "all"},
        ],
        {"NVDA": [{"text": "a"}, "b"], "\uff0a": ["all"]},
        [
            {"symbol": "NVDA", "text": "a"},
            {"Symbol": "nvda", "text": "b"},
            {"symbol": "*", "text": "all"},
        ],
        {
            "NVDA": [{"text": "a", "ticker": " nvda"}, {"text": "b", "symbol": None}],
            "*": [{"text": "all", "ticker": "*"}],
        },
        pd.DataFrame({"symbol": ["NVDA", "NVDA", "*"], "text": ["a", "b", "all"]}),
    ],
)
def test_every_shape_of_evidence_means_the_same(data):
    """A mapping, a list and a frame give the same documents."""
    assert [(one.id, one.ticker, one.text) for one in read_documents(data)] == [
        ("E1", "NVDA", "a"),
        ("E2", None, "all"),
        ("E3", "NVDA", "b"),
    ]


def test_no_evidence_is_evidence_of_nothing():
    """A day without news is no error."""
    assert read_documents([]) == read_documents({}) == read_documents(TEXTS.iloc[:0]) == ()


def test_own_ids_stay_and_others_keep_clear_of_them():
    """Given ids are kept, numbers lose their .0, and a new id is never one that is taken."""
    data = pd.DataFrame(
        {"ticker": ["A", "A", "A"], "text": ["x", "y", "z"], "id": [7.0, None, None]}
    )
    assert [one.id for one in read_documents(data)] == ["7", "E1", "E2"]
    assert [
        one.id
        for one in read_documents(
            [{"ticker": "A", "text": "x", "id": "E1"}, {"ticker": "A", "text": "y"}]
        )
    ] == ["E1", "E2"]
    # One article about two companies
    two = [{"ticker": ticker, "text": "x", "id": "R-1"} for ticker in "AB"]
    assert [one.id for one in read_documents(two)] == ["R-1", "R-1"]


BAD_EVIDENCE = {
    "None": (None, "a NoneType", "DataFrame"),
    "a path to nothing": ("news.csv", "no file or folder 'news.csv'", "check the path"),
    "a number": (5, "an int", "DataFrame"),
    "an empty frame": (pd.DataFrame(), "no column 'ticker', only none", "add the column"),
    "a misspelt ticker": (
        TEXTS.rename(columns={"Ticker": "tickr"}),
        "no column 'ticker'",
        "{'tickr': 'ticker'}",
    ),
    "a longer name for the text": (
        TEXTS.rename(columns={"text": "article_full_text_en"}),
        "no column 'text'",
        "{'article_full_text_en': 'text'}",
    ),
    "no text": (
        TEXTS.rename(columns={"text": "remark"}),
        "no column 'text'",
        "add the column 'text'",
    ),
    "holes": (
        TEXTS.assign(text=["a", None, None, " "]),
        "row 2 has no text (3 of 4",
        "evidence[evidence['text']",
    ),
    "a number for a text": ({"NVDA": ["a", 5]}, "item 2 has an int (5)", "for text in"),
    "a number for texts": ({"NVDA": 5}, "evidence of 'NVDA' is an int", "DataFrame"),
    "words for a date": (TEXTS.assign(date="soon"), "row 1: 'soon' is not a date", "ISO"),
    "a number for a date": (
        [{"ticker": "A", "text": "a", "date": 2024010}],
        "2024010 is not a date",
        "ISO",
    ),
    "a path for a ticker": ([{"text": "a", "ticker": "../x"}], "'../x' is not a ticker", "NVDA"),
    "a number for a ticker": ([{"text": "a", "ticker": 700}], "700 is an int", '"700"'),
    "a misspelt key": ([{"text": "a", "tickr": "NVDA"}], "no 'ticker', but 'tickr'", "rename"),
    "a misspelt text": ([{"txt": "a", "ticker": "NVDA"}], "no 'text', but 'txt'", "rename"),
    "a ticker that pandas made NaN": (
        TEXTS.assign(Ticker=["NA", "NA", math.nan, "*"]),
        "row 3 has no ticker",
        "keep_default_na=False",
    ),
    "a ticker that is NA": (
        TEXTS.astype({"Ticker": "string"}).assign(Ticker=["A", pd.NA, "B", "*"]),
        "row 2 has no ticker",
        "'*'",
    ),
    "a blank ticker": (TEXTS.assign(Ticker=["A", "B", "C", "  "]), "row 4 has no ticker", "'*'"),
    "an item without a ticker": (
        [{"ticker": "A", "text": "a"}, {"text": "b"}],
        "evidence, item 2 has no ticker",
        "'*'",
    ),
    "an item whose ticker is None": (
        [{"ticker": None, "text": "b"}],
        "item 1 has no ticker",
        "'*'",
    ),
    "texts without a ticker": (["a", "b"], "item 1 has no ticker", "'*'"),
    "a key that is None": ({"A": "a", None: "b"}, "evidence of None, item 1 has no ticker", "'*'"),
    "a key that is NaN": ({math.nan: ["b"]}, "item 1 has no ticker", "'*'"),
    "an empty key": ({"": "b"}, "evidence of '', item 1 has no ticker", "'*'"),
    "another company's item": (
        {"AAPL": ["a", {"text": "b", "ticker": "MSFT"}]},
        "evidence of 'AAPL', item 2 has the ticker 'MSFT'",
        "move it under 'MSFT'",
    ),
    "another company's symbol": (
        {"AAPL": {"text": "b", "symbol": "MSFT"}},
        "item 1 has the ticker 'MSFT', but stands under 'AAPL'",
        "leave its ticker out",
    ),
    "an item for all under one": (
        {"AAPL": [{"text": "b", "ticker": "*"}]},
        "item 1 has the ticker '*'",
        "move it",
    ),
    "ticker and symbol": (
        [{"ticker": "A", "symbol": "B", "text": "a"}],
        "'ticker' and 'symbol' mean the same",
        "leave one out",
    ),
    "an id twice for all": (
        [{"ticker": "*", "text": text, "id": "R1"} for text in "ab"],
        "two documents for * have the id 'R1'",
        "own id",
    ),
    "an id twice": (TEXTS.assign(id="same"), "two documents for NVDA have the id 'same'", "own id"),
}


MOVED = {
    "text for the ticker": "ticker,text,date\nNVDA,Fined heavily.,2020-01-01,\n",
    "no text at all": "date,ticker,text\n2020-01-01,NVDA,Fined.,\n",
    "one word for the ticker": "ticker,text,source\nNVDA,Bankrupt,Reuters,\n",
    "two separators": "ticker,text,date\nNVDA,Fined.,2020-01-01,,\nMSFT,Sued.,2020-01-02,,\n",
}


@pytest.mark.parametrize("case", MOVED)
def test_evidence_that_pandas_moved_is_refused(case):
    """Rows that end in a separator lay each text at a door that is no company's."""
    with pytest.raises(InputError, match=r"the evidence: .* the columns moved by one") as caught:
        read_documents(pd.read_csv(StringIO(MOVED[case])))
    assert "index_col=False" in caught.value.fix


@pytest.mark.parametrize(
    "index", [[3, 5], pd.Index(["n1", "n2"], name="note"), pd.DatetimeIndex(["2020-01-01"] * 2)]
)
def test_evidence_with_an_index_and_an_empty_column_is_read(index):
    """Rows that were filtered, named or dated keep their columns, also where no source is known."""
    frame = pd.DataFrame({"ticker": "NVDA", "text": ["Fined.", "Sued."], "source": None})
    assert [one.text for one in read_documents(frame.set_axis(index))] == ["Fined.", "Sued."]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            (name, "text")
            for name in ("Fined heavily.", "fined heavily", "FINED HEAVILY", "It sank.")
        ),
        *((name, "text") for name in ("Apple was fined", "Nvidia, fined by FTC", "Sued again!")),
        *((name, "date") for name in ("2020-01-01", "2020-01-01 16:00")),
    ],
)
def test_a_text_or_a_date_is_no_ticker(name, kind):
    """Numbers for the index of a moved frame show no shape: the words themselves do."""
    with pytest.raises(InputError, match=f"is a {kind}, not a ticker") as caught:
        read_documents([{"ticker": name, "text": "2020-01-01"}])
    assert "column" in caught.value.fix
    text = f'id,ticker,text,source\n7,NVDA,"{name}",Reuters,\n'
    with pytest.raises(InputError, match=f"is a {kind}, not a ticker"):
        read_documents(pd.read_csv(StringIO(text)))


@pytest.mark.parametrize(
    "name", ["BRK B", "AAPL US Equity", "aapl us equity", "EUR  Curncy", "AT&T", "BAC PR L", "RR."]
)
def test_a_ticker_of_several_words_stays_one(name):
    """Share classes, preferred shares and the names of a terminal hold spaces."""
    (one,) = read_documents([{"ticker": name, "text": "Fined."}])
    assert one.ticker == " ".join(name.upper().split())


@pytest.mark.parametrize("case", BAD_EVIDENCE)
def test_bad_evidence_is_refused(case):
    """Evidence that would be lost, or laid at the wrong door, is an error that names its row."""
    data, seen, fix = BAD_EVIDENCE[case]
    with pytest.raises(InputError) as caught:
        read_documents(data)
    assert seen in caught.value.message
    assert fix in caught.value.fix
