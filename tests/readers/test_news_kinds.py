"""Further news as people have it: exports, saved frames, feeds, dates of any country."""

import datetime
import json
import time
from types import SimpleNamespace

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.news import read_evidence
from urisk_nb.readers.news_values import read_day, read_markup

FIRE = "Maker of saws recalls blades after fires"
LOSS = "Maker of drills loses a contract"
DAY = datetime.date(2024, 1, 15)
FRAME = pd.DataFrame(
    {
        "ticker": ["ACME", "BORE"],
        "title": [FIRE, LOSS],
        "date": pd.to_datetime(["2024-01-15", "2024-01-16"]),
    }
)
BOTH = [("ACME", DAY, FIRE), ("BORE", DAY + datetime.timedelta(1), LOSS)]


def read(given, tickers=("ACME", "BORE")):
    found = read_evidence(given, tickers=tickers)
    return sorted((one.ticker, one.date, one.text) for one in found.documents)


def item(**fields):
    return {"ticker": "ACME", "title": FIRE, "date": "2024-01-15", **fields}


@pytest.mark.parametrize(
    ("ticker", "title", "date"),
    [
        ("entity_ticker", "event_text", "timestamp_utc"),
        ("Security", "Headline", "Story Date"),
        ("RICS", "headline", "versionCreated"),
        ("Stock Name", "Tweet", "post_date"),
        ("company", "headline", "acceptanceDateTime"),
    ],
)
def test_the_names_of_further_exports_are_known(ticker, title, date):
    """RavenPack, Bloomberg, Refinitiv, sets of tweets, EDGAR's own lists."""
    frame = FRAME.set_axis([ticker, title, date], axis=1)
    assert read(frame) == BOTH
    assert read(frame.assign(**{date: frame[date].astype(str)}).to_dict("records")) == BOTH


def test_a_column_of_company_names_is_no_column_of_tickers():
    frame = FRAME.rename(columns={"ticker": "company"}).assign(company=["Acme Tools", "ACME"])
    with pytest.raises(InputError, match="no column 'ticker'"):
        read(frame)


@pytest.mark.parametrize("orient", ["split", "records", "index", "columns", "table"])
def test_every_form_of_to_json_is_read(orient, tmp_path):
    text = FRAME.to_json(orient=orient, date_format="iso")
    path = tmp_path / "news.json"
    path.write_text(text, encoding="utf-8")
    assert read(json.loads(text)) == read(text) == read(path) == BOTH


@pytest.mark.parametrize("orient", ["dict", "list", "series", "split", "tight", "records", "index"])
def test_every_form_of_to_dict_is_read(orient):
    assert read(FRAME.to_dict(orient=orient)) == BOTH


def test_days_as_keys_are_the_dates():
    rows = {"2024-01-15": [{"ticker": "ACME", "title": FIRE}]}
    assert read(rows) == BOTH[:1]
    assert read({"ACME": {"2024-01-15": [FIRE, LOSS]}}) == [
        ("ACME", DAY, LOSS),
        BOTH[0],
    ]


def test_a_column_of_texts_for_each_ticker_is_read():
    frame = FRAME.pivot(index="date", columns="ticker", values="title")
    assert read(frame) == BOTH


@pytest.mark.parametrize("nothing", [None, float("nan"), "", []], ids=repr)
def test_a_ticker_without_news_may_stand_in_a_mapping(nothing):
    assert read({"ACME": [item()], "BORE": nothing}) == BOTH[:1]


def test_a_list_of_articles_in_a_row_keeps_their_dates():
    """Without its date an article would count in every run."""
    inner = {"title": FIRE, "date": "2024-01-15"}
    assert read([{"ticker": "ACME", "news": [inner]}]) == BOTH[:1]
    assert read(pd.DataFrame({"ticker": ["ACME"], "news": [[inner]]})) == BOTH[:1]
    paragraphs = [{"text": "A saw burned."}, {"text": "It was old."}]
    (text,) = (one[2] for one in read([item(body=paragraphs)]))
    assert text == f"{FIRE}\n\nA saw burned.\n\nIt was old."


@pytest.mark.parametrize(
    "written",
    [
        *("$ACME", "#ACME", "ACME:US", "ACME-US", "US.ACME", "NasdaqGS:ACME", "ACME:NASDAQ"),
        *("ACME (NASDAQ)", "NYSE-ACME", "ACME:UW"),
    ],
)
def test_further_names_of_a_listing_are_the_ticker(written):
    assert read([item(ticker=written)]) == BOTH[:1]
    assert read({written: [FIRE]}) == [("ACME", None, FIRE)]


def test_listings_of_other_countries_are_other_tickers():
    """A symbol may be another company's there."""
    for written in ("ACME LN", "ACME:LN", "ACME GR Equity", "TSX:ACME"):
        assert [one[0] for one in read([item(ticker=written)])] != ["ACME"]


@pytest.mark.parametrize(
    "written",
    [
        *("ACME BORE", "ACME/BORE", "$ACME $BORE", "ACME & BORE", "ACME\nBORE", "{ACME,BORE}"),
        *("array(['ACME', 'BORE'], dtype=object)", '["$ACME", "$BORE"]', "ACME.O BORE.N"),
    ],
)
def test_several_tickers_in_one_text_are_told_apart(written):
    for name in ("ticker", "symbols"):
        row = {name: written, "title": FIRE, "date": "2024-01-15"}
        assert read([row]) == [BOTH[0], ("BORE", DAY, FIRE)]


def test_tickers_as_keys_or_cashtags_are_read():
    for tickers in ({"ACME": 0.8, "BORE": 0.2}, {"cashtags": [{"tag": "ACME"}, {"tag": "BORE"}]}):
        row = {"entities": tickers, "title": FIRE, "date": "2024-01-15"}
        assert [one[0] for one in read([row])] == ["ACME", "BORE"]
    row = {"company": {"name": "Acme Tools", "ticker": "ACME"}, "title": FIRE, "date": DAY}
    assert read([row]) == read(pd.DataFrame([row])) == BOTH[:1]


@pytest.mark.parametrize(
    "value",
    [
        *("15.01.2024", "15/01/2024", "01/15/2024 09:30", "1/15/24", 20240115, 20240115.0),
        *("15/Jan/2024", "15th of January 2024", "2024年1月15日", "/Date(1705311000000)/"),
        {"$date": "2024-01-15T09:30:00Z"},
        {"$date": 1705311000000},
        time.struct_time((2024, 1, 15, 9, 30, 0, 0, 15, 0)),
        pd.Period("2024-01-15", "D"),
    ],
    ids=repr,
)
def test_dates_with_one_meaning_are_read(value):
    assert read_day(value) == DAY


def test_a_month_counts_from_its_last_day():
    assert read_day(pd.Period("2024-01", "M")) == datetime.date(2024, 1, 31)


def test_other_rows_show_the_order_of_day_and_month():
    for other, day in (("31/01/2024", (2024, 2, 1)), ("01/31/2024", (2024, 1, 2))):
        rows = [item(date="01/02/2024"), item(title=LOSS, date=other)]
        assert ("ACME", datetime.date(*day), FIRE) in read(rows)
    rows = [item(date=day) for day in ("01/02/2024", "31/01/2024", "01/31/2024", "2024-02-01")]
    found = read_evidence(rows, tickers=("ACME",))
    assert len(found.documents) == 2  # 31 January and 1 February
    assert "'01/02/2024' is not a date" in found.notes[0]
    with pytest.raises(InputError, match="not a date"):
        read([item(date="01/02/2024")])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Acme &amp;amp; Sons", "Acme & Sons"),
        ("&lt;p&gt;A saw burned.&lt;/p&gt;", "A saw burned."),
        ("<![CDATA[<p>A saw &amp; a drill burned.</p>]]>", "A saw & a drill burned."),
        ("<figure><cite>A saw burned.</cite></figure>", "A saw burned."),
        ("Caf&eacute; &lt;b&gt;fire&lt;/b&gt;", "Café fire"),
        ("Margin < 5 % and > 3 %", "Margin < 5 % and > 3 %"),
    ],
)
def test_markup_is_read_and_leads_back(source, text):
    read = read_markup(source)
    assert read.text == text
    for place, sign in enumerate(text):
        origin = read.find_origin(place)
        assert source[origin] == sign or source[origin] == "&"


def test_codes_of_a_broker_are_no_words():
    assert read([item(title="{A:800015:L:en:K:0.97}" + FIRE)]) == BOTH[:1]


@pytest.mark.parametrize("rows", [[("ACME", FIRE)], [["ACME", FIRE]]])
def test_rows_without_names_are_refused_with_a_cure(rows):
    with pytest.raises(InputError) as caught:
        read(rows)
    code = caught.value.fix.split(", with")[0]
    cured = eval(code, {"pd": pd, "evidence": rows})
    assert read(cured) == [("ACME", None, FIRE)]


def test_an_article_alone_is_no_mapping_of_tickers():
    """TITLE and TEXT would be companies."""
    article = {"title": FIRE, "text": "It burned."}
    assert read(article, tickers=("ACME",)) == [("ACME", None, f"{FIRE}\n\nIt burned.")]
    with pytest.raises(InputError, match="no ticker"):
        read(article)


@pytest.mark.parametrize("form", ["lines", "list"])
def test_json_under_the_name_of_a_text_is_read_as_rows(tmp_path, form):
    path = tmp_path / "news.txt"
    rows = [item(), {"ticker": "BORE", "title": LOSS, "date": "2024-01-16"}]
    lines = "\n".join(map(json.dumps, rows)) if form == "lines" else json.dumps(rows)
    path.write_text(lines, encoding="utf-8")
    assert read(path) == BOTH


def test_a_feed_in_a_file_says_how_it_is_read(tmp_path):
    path = tmp_path / "ACME.xml"
    path.write_text("<?xml version='1.0'?><rss><channel><item/></channel></rss>")
    with pytest.raises(InputError, match="news feed") as caught:
        read(path)
    assert "feedparser" in caught.value.fix
    path.write_text("<?xml version='1.0'?><note><p>A saw &amp; a drill burned.</p></note>")
    assert read(path) == [("ACME", None, "A saw & a drill burned.")]


def test_a_filing_keeps_its_items_under_one_key(tmp_path):
    path = tmp_path / "ACME_10-K.json"
    filing = {
        "form": "10-K",
        "filing_date": "2024-01-15",
        "items": {"Item 1A": "A fire may stop us."},
    }
    path.write_text(json.dumps(filing))
    (one,) = read_evidence(path, tickers=("ACME",)).documents
    assert (one.date, one.sections[0].name, one.text) == (DAY, "Item 1A", "A fire may stop us.")


def test_articles_by_id_are_rows():
    articles = {"a-1": item(), "a-2": {"ticker": "BORE", "title": LOSS, "date": "2024-01-16"}}
    assert read(articles) == BOTH
    with pytest.raises(InputError, match="stands under 'BORE'"):
        read({"BORE": item()})


def test_objects_of_a_client_are_rows():
    assert read([SimpleNamespace(**item())]) == BOTH[:1]


def test_a_unit_or_zone_behind_a_name_does_not_hide_it():
    """A date that is not seen would make the news count in every run."""
    frame = FRAME.set_axis(["Ticker", "Headline (EN)", "Published Date (UTC)"], axis=1)
    assert read(frame) == BOTH


def test_texts_by_ticker_may_have_a_column_of_dates():
    frame = FRAME.pivot(index="date", columns="ticker", values="title")
    assert read(frame.reset_index()) == BOTH
    assert read(frame.reset_index().astype({"date": str})) == BOTH


def test_a_share_class_is_nobody_elses():
    for written in ("BRK B", "BRK/B"):
        found = read([item(ticker=written)], tickers=("BRK.B", "BRK", "B"))
        assert found[0][0] in ("BRK B", "BRK/B")
        assert len(found) == 1
