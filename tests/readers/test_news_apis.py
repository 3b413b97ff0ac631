"""The answers of news APIs and files of headlines go in as they are. All articles are invented."""

from __future__ import annotations

import dataclasses
import json
from datetime import date
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.news import read_evidence

TITLE, BODY = "Acme cuts its outlook", "Acme lowered its forecast. Shares fell 3%."
URL = "https://news.test/acme"
DAY = date(2024, 1, 15)

# Each names the articles as the API does; what is not named below is not used by anyone.
ANSWERS = {
    "Alpha Vantage": {
        "items": "1",
        "feed": [
            {
                "title": TITLE,
                "url": URL,
                "time_published": "20240115T093000",
                "authors": ["A. Writer"],
                "summary": BODY,
                "banner_image": None,
                "source": "Wire",
                "source_domain": "wire.test",
                "topics": [{"topic": "Earnings", "relevance_score": "1.0"}],
                "overall_sentiment_score": -0.4,
                "ticker_sentiment": [{"ticker": "ACME", "relevance_score": "0.9"}],
            }
        ],
    },
    "Polygon": {
        "status": "OK",
        "count": 1,
        "results": [
            {
                "id": "8ec6",
                "publisher": {"name": "Wire", "homepage_url": "https://wire.test"},
                "title": TITLE,
                "author": "A. Writer",
                "published_utc": "2024-01-15T14:30:00Z",
                "article_url": URL,
                "tickers": ["ACME"],
                "description": BODY,
                "insights": [{"ticker": "ACME", "sentiment": "negative"}],
            }
        ],
    },
    "Finnhub": [
        {
            "category": "company news",
            "datetime": 1705329000,
            "headline": TITLE,
            "id": 25286,
            "image": "",
            "related": "ACME",
            "source": "Wire",
            "summary": BODY,
            "url": URL,
        }
    ],
    "Benzinga": [
        {
            "id": 7,
            "author": "A. Writer",
            "created": "Mon, 15 Jan 2024 09:30:00 -0400",
            "updated": "Mon, 15 Jan 2024 09:31:00 -0400",
            "title": TITLE,
            "teaser": "Acme lowered ...",
            "body": "<p>Acme lowered its forecast. Shares fell&nbsp;3%.</p>",
            "url": URL,
            "source": "Wire",
            "channels": [{"name": "News"}],
            "stocks": [{"name": "ACME"}],
        }
    ],
    "Alpaca": {
        "news": [
            {
                "id": 7,
                "headline": TITLE,
                "created_at": "2024-01-15T14:30:00Z",
                "updated_at": "2024-01-15T14:31:00Z",
                "summary": BODY,
                "content": "",
                "symbols": ["ACME"],
                "source": "Wire",
                "url": URL,
            }
        ],
        "next_page_token": "MTcw",
    },
    "Tiingo": [
        {
            "source": "Wire",
            "crawlDate": "2024-01-16T00:00:00Z",
            "description": BODY,
            "url": URL,
            "publishedDate": "2024-01-15T14:30:00+00:00",
            "tags": ["Stock"],
            "tickers": ["acme"],
            "id": 7,
            "title": TITLE,
        }
    ],
    "Marketaux": {
        "meta": {"found": 1},
        "data": [
            {
                "uuid": "a-1",
                "title": TITLE,
                "description": BODY,
                "snippet": "Acme lowered...",
                "url": URL,
                "published_at": "2024-01-15T14:30:00.000000Z",
                "source": "Wire",
                "entities": [
                    {"symbol": "ACME", "name": "Acme Corp", "type": "equity", "match_score": 9.1},
                    {"symbol": None, "name": "Taiwan", "type": "country"},
                ],
            }
        ],
    },
    "EODHD": [
        {
            "date": "2024-01-15T14:30:00+00:00",
            "title": TITLE,
            "content": BODY,
            "link": URL,
            "source": "Wire",
            "symbols": ["ACME.US"],
            "tags": ["EARNINGS"],
        }
    ],
    "FMP": [
        {
            "symbol": "ACME",
            "publishedDate": "2024-01-15 09:30:00",
            "title": TITLE,
            "image": "https://news.test/i.png",
            "site": "Wire",
            "text": BODY,
            "url": URL,
        }
    ],
    "a list as in the field case": [
        {
            "headline": TITLE,
            "summary": BODY,
            "url": URL,
            "source": {"id": None, "name": "Wire"},
            "published_at": "2024-01-15T09:30:00-05:00",
            "symbols": ["ACME"],
        }
    ],
    "pages of answers": [
        {"results": [], "next": 2},
        {
            "results": [
                {
                    "ticker": "ACME",
                    "title": TITLE,
                    "body": BODY,
                    "provider": "Wire",
                    "link": URL,
                    "timestamp": 1705329000123,
                }
            ]
        },
    ],
    "one list for each ticker": [
        {
            "ticker": "ACME",
            "articles": [
                {"title": TITLE, "text": BODY, "site": "Wire", "url": URL, "date": "Jan 15, 2024"}
            ],
        }
    ],
}
# These name no company: the mapping does.
NAMELESS = {
    "NewsAPI": {
        "status": "ok",
        "totalResults": 1,
        "articles": [
            {
                "source": {"id": "wire", "name": "Wire"},
                "author": None,
                "title": TITLE,
                "description": BODY,
                "url": URL,
                "urlToImage": "https://news.test/i.png",
                "publishedAt": "2024-01-15T14:30:00Z",
                "content": "Acme lowered its forecast. Sh… [+1234 chars]",
            }
        ],
    },
    "yfinance": [
        {
            "id": "f3a",
            "content": {
                "id": "f3a",
                "contentType": "STORY",
                "title": TITLE,
                "description": "",
                "summary": BODY,
                "pubDate": "2024-01-15T14:30:00Z",
                "provider": {"displayName": "Wire", "url": "http://wire.test/"},
                "canonicalUrl": {"url": URL, "site": "finance"},
                "clickThroughUrl": None,
            },
        }
    ],
    "yfinance before 2025": [
        {
            "uuid": "f3a",
            "title": TITLE,
            "summary": BODY,
            "publisher": "Wire",
            "link": URL,
            "providerPublishTime": 1705329000,
            "type": "STORY",
            "relatedTickers": ["EMCA", "ACME"],
        }
    ],
    "The Guardian": {
        "response": {
            "status": "ok",
            "results": [
                {
                    "webPublicationDate": "2024-01-15T14:30:00Z",
                    "webTitle": TITLE,
                    "webUrl": URL,
                    "source": "Wire",
                    "fields": {"bodyText": BODY, "trailText": "Acme"},
                }
            ],
        }
    },
}


def check(evidence):
    (one,) = evidence.documents
    assert one.ticker == "ACME"
    assert one.text == f"{TITLE}\n\n{BODY}"
    assert one.date == DAY
    assert one.source == f"Wire, {URL}"
    assert one.kind == "news"


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_of_a_news_api_is_read_as_it_is(name, tmp_path):
    """Title, body, date, source and ticker are found, from memory and from files."""
    answer = ANSWERS[name]
    check(read_evidence(answer, tickers=["ACME"]))
    path = tmp_path / "news.json"
    path.write_text(json.dumps(answer), encoding="utf-8-sig")
    check(read_evidence(str(path), tickers=["ACME"]))


@pytest.mark.parametrize("name", NAMELESS)
def test_news_that_name_no_company_stand_under_a_ticker(name):
    """A mapping says whose the news are; so does a cell of one ticker, and a note says so."""
    check(read_evidence({"ACME": NAMELESS[name]}))
    if name != "yfinance before 2025":
        evidence = read_evidence(NAMELESS[name], tickers=["ACME"])
        check(evidence)
        assert evidence.notes[0] == "The evidence names no ticker; it counts for ACME."
        with pytest.raises(InputError, match="item 1 has no ticker") as caught:
            read_evidence(NAMELESS[name], tickers=["ACME", "EMCA"])
        assert 'evidence={"NVDA": news}' in caught.value.fix


SINGLE = ANSWERS.keys() - {"EODHD", "pages of answers", "one list for each ticker"}


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_json_lines_and_frames_hold_the_same_news(name, tmp_path):
    """One article a line, or one a row."""
    answer = ANSWERS[name]
    if isinstance(answer, dict):
        answer = next(rows for rows in answer.values() if isinstance(rows, list))
    (tmp_path / "news.jsonl").write_text("\n".join(map(json.dumps, answer)) + "\n")
    check(read_evidence(tmp_path / "news.jsonl"))
    frame = pd.DataFrame(answer)
    check(read_evidence(frame))
    frame.to_parquet(tmp_path / "news.parquet")
    check(read_evidence(tmp_path / "news.parquet"))
    frame.to_csv(tmp_path / "news.csv")
    evidence = read_evidence(tmp_path / "news.csv")
    if name not in ("Polygon", "Marketaux"):  # of a dict that is text only the name is read
        check(evidence)
    assert [one.ticker for one in evidence.documents] == ["ACME"]
    frame.to_json(tmp_path / "columns.json")
    check(read_evidence(tmp_path / "columns.json"))
    frame.to_json(tmp_path / "split.json", orient="split")
    check(read_evidence(tmp_path / "split.json"))


def test_objects_of_a_client_are_articles():
    """Dataclasses, named tuples and pydantic models count as dicts."""

    @dataclasses.dataclass
    class Article:
        title: str
        description: str
        published_utc: str
        tickers: list[str]
        publisher: dict[str, str]
        article_url: str

    class Row(NamedTuple):
        headline: str
        summary: str
        date: date
        symbol: str
        source: str
        url: str

    fields = {
        "headline": TITLE,
        "summary": BODY,
        "created_at": pd.Timestamp("2024-01-15 09:30", tz="America/New_York"),
        "symbols": ["ACME"],
        "source": "Wire",
        "url": URL,
    }
    check(read_evidence([Article(TITLE, BODY, "2024-01-15", ["ACME"], {"name": "Wire"}, URL)]))
    check(read_evidence([Row(TITLE, BODY, DAY, "ACME", "Wire", URL)]))
    check(read_evidence([SimpleNamespace(model_dump=lambda: fields)]))


HEADLINES = [
    ",title,date,stock\n26,{title},2024-01-15 09:30:00-04:00,ACME\n",
    ",headline,url,publisher,date,stock\n2,{title},{url},Wire,2024-01-15 00:00:00,ACME\n",
    (
        "Date,Article_title,Stock_symbol,Url,Publisher,Author\n"
        "2024-01-15 09:30:00 UTC,{title},ACME,{url},Wire,\n"
    ),
    "Ticker;Headline;Published At\nACME;{title};15 Jan 2024\n",
    "headline\tticker\tdatetime\n{title}\tacme\t1705329000\n",
]


@pytest.mark.parametrize("text", HEADLINES)
def test_tables_of_headlines_are_read(text, tmp_path):
    """Names in any case; the counter of rows is no id."""
    text = text.format(title=TITLE, url=URL)
    sign = "\t" if "\t" in text else ";" if ";" in text else ","
    frames = [pd.read_csv(StringIO(text), sep=sign)]
    (tmp_path / "news.csv").write_text("\ufeff" + text, encoding="utf-8")
    if sign == ",":
        frames.append(tmp_path / "news.csv")
    for given in frames:
        (one,) = read_evidence(given).documents
        assert (one.id, one.ticker, one.text, one.date) == ("E1", "ACME", TITLE, DAY)
        assert one.source in (None, f"Wire, {URL}")
        assert one.kind == "news"


def test_an_index_of_dates_or_tickers_counts():
    """As terminals and group-bys give them."""
    frame = pd.DataFrame({"ticker": ["ACME"], "headline": [TITLE]}, index=[pd.Timestamp(DAY)])
    assert read_evidence(frame).documents[0].date == DAY
    levels = frame.assign(date=DAY).set_index(["ticker", "date"])
    (one,) = read_evidence(levels).documents
    assert (one.ticker, one.date) == ("ACME", DAY)
    series = pd.Series([TITLE], index=pd.DatetimeIndex([DAY]))
    (one,) = read_evidence({"ACME": series}).documents
    assert (one.text, one.date) == (TITLE, DAY)
    (one,) = read_evidence({"ACME": frame.drop(columns="ticker")}).documents
    assert (one.ticker, one.date) == ("ACME", DAY)


def test_an_article_may_have_a_field_with_the_name_of_a_wrapper():
    """A row is no page, whatever else it holds; the columns of a table are no row."""
    row = {"title": TITLE, "ticker": "ACME", "data": [], "results": [{"title": "x"}]}
    assert [one.text for one in read_evidence([row]).documents] == [TITLE]
    assert [one.text for one in read_evidence(row).documents] == [TITLE]
    columns = {"title": [TITLE, "Acme rises"], "ticker": ["ACME", "ACME"]}
    assert len(read_evidence(columns).documents) == 2
    (one,) = read_evidence({**columns, "title": [TITLE]}).documents  # one row, of two tickers
    assert one.text == TITLE


def test_an_index_of_tickers_is_no_text_of_one_company():
    """A Series of texts by ticker; another index of words names no company."""
    texts = pd.Series(["Acme fell", "Emca fell"], index=["ACME", "EMCA"])
    found = [(one.ticker, one.text) for one in read_evidence(texts, tickers=["ACME"]).documents]
    assert found == [("ACME", "Acme fell"), ("EMCA", "Emca fell")]
    with pytest.raises(InputError, match="no column 'ticker'"):
        read_evidence(texts.set_axis(["first", "second one"]), tickers=["ACME"])


def test_texts_by_date_under_a_ticker():
    """Each is a document of its day."""
    (one,) = read_evidence({"ACME": {"2024-01-15": TITLE}}).documents
    assert (one.ticker, one.text, one.date) == ("ACME", TITLE, DAY)


def test_several_symbols_make_a_document_each():
    """Lists, texts and dicts of tickers; the ids stay apart."""
    for symbols in (
        ["ACME", "EMCA"],
        ("$ACME", "$EMCA"),
        "ACME, EMCA",
        "ACME|EMCA",
        "['ACME', 'EMCA']",
        '["ACME","EMCA"]',
        [{"symbol": "ACME"}, {"symbol": "EMCA"}, {"symbol": "ACME"}],
        "[{'ticker': 'ACME', 'score': '1'}, {'ticker': 'EMCA', 'score': '0'}]",
    ):
        evidence = read_evidence([{"title": TITLE, "symbols": symbols}])
        assert [(one.id, one.ticker) for one in evidence.documents] == [
            ("E1", "ACME"),
            ("E2", "EMCA"),
        ]


def test_the_answer_that_a_request_failed_is_no_news():
    """Its keys are no tickers, and the error shows what it says."""
    for answer in (
        {"status": "error", "code": "apiKeyInvalid", "message": "Your API key is invalid."},
        {"Information": "Your rate limit is 25 requests a day."},
        {"error": "Forbidden"},
    ):
        with pytest.raises(InputError, match="an API answer without articles: ") as caught:
            read_evidence(answer, tickers=["ACME"])
        assert "check the request" in caught.value.fix


def test_an_answer_without_articles_is_evidence_of_nothing():
    """A day without news is no error."""
    assert read_evidence({"status": "ok", "articles": []}).documents == ()


def test_paths_under_a_ticker_are_files(tmp_path):
    """A path is read, a text that looks like one is refused, and nothing is fetched."""
    note = tmp_path / "note.md"
    note.write_text("Acme was fined.")
    (tmp_path / "news.json").write_text(json.dumps(NAMELESS["NewsAPI"]))
    for given in (note, [note], {"ACME": note}["ACME"]):
        (one,) = read_evidence({"ACME": given}).documents
        assert (one.ticker, one.text) == ("ACME", "Acme was fined.")
    check(read_evidence({"ACME": tmp_path / "news.json"}))
    for text in ("filings/acme.html", "https://news.test/acme.htm"):
        with pytest.raises(InputError, match="is the name of a file") as caught:
            read_evidence({"ACME": text})
        assert "pathlib.Path" in caught.value.fix
    with pytest.raises(InputError, match="no file or folder"):
        read_evidence({"ACME": Path("nowhere.html")})
