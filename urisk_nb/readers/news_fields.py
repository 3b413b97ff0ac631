"""
The fields of a news row: what news APIs and tables call them, and how they write their values.

A name counts in any case and with any marks between its words: `publishedAt`, `published_at` and
"Published At" are one. docs/evidence.md shows the table to users; a test compares the two.
Over 400 lines: a third are names, and what opens one shape knows the others.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import re
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_scalar

from urisk_nb.readers.columns import TICKER_AS_WRITTEN
from urisk_nb.readers.encodings import read_text
from urisk_nb.readers.news_values import is_day, is_empty, read_markup, refuse_row
from urisk_nb.risk.values import fold_name, is_missing, strip_invisible

__all__ = [
    "FIELDS",
    "SEVERAL",
    "NewsRow",
    "add_index",
    "find_company",
    "find_rows",
    "find_text_label",
    "find_ticker_column",
    "group_labels",
    "is_row",
    "names_company",
    "open_envelope",
    "open_item",
    "open_keyed_rows",
    "open_nested_rows",
    "read_json_text",
    "read_row",
    "read_uneven_csv",
]

# Field -> its names, the best first: the first of them that a row has filled counts.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "ticker": (
        *("ticker", "symbol", "tickers", "symbols", "stock", "stocks", "stock_symbol"),
        *("stock_symbols", "stock_ticker", "stock_tickers", "ticker_symbol", "company_ticker"),
        *("related", "related_tickers", "related_symbols", "related_stocks", "ticker_sentiment"),
        *("ticker_sentiments", "entities", "instruments", "securities", "cashtags", "ric"),
        *("rics", "entity_ticker", "stock_code"),
    ),
    "title": (
        *("title", "headline", "headlines", "news_title", "news_headline", "article_title"),
        *("story_title", "web_title", "heading", "event_text"),
    ),
    "text": (
        *("text", "body", "content", "full_text", "full_content", "article", "article_text"),
        *("article_body", "article_content", "body_text", "content_text", "news_text", "story"),
        *("news", "sentence", "paragraph", "message", "tweet"),
    ),
    "summary": (
        *("summary", "description", "teaser", "snippet", "abstract", "excerpt", "lead_paragraph"),
        *("trail_text", "article_summary", "short_description"),
    ),
    "date": (
        *("date", "datetime", "published_at", "published", "published_date"),
        *("published_on", "published_utc", "published_time", "publish_date", "publish_time"),
        *("publication_date", "pub_date", "date_published", "time_published"),
        *("provider_publish_time", "web_publication_date", "release_date", "news_date"),
        *(
            "article_date",
            "filing_date",
            "filed_at",
            "seen_date",
            "created_at",
            "created",
            "version_created",
            "timestamp",
        ),
        *("acceptance_date_time", "accepted_date", "accepted", "filed_date", "date_filed", "filed"),
        *("post_date", "posted_at", "posted", "story_date", "story_time", "news_time"),
        *("datetime_utc", "date_utc", "iso_date", "published_parsed"),
        *("timestamp_utc", "time", "display_time", "crawl_date", "updated_at", "updated"),
        *("dates", "day", "datum"),
    ),
    "source": (
        *("source", "publisher", "provider", "source_name", "publisher_name", "site"),
        *("site_name", "news_site", "source_domain", "domain"),
    ),
    "url": (
        *("url", "link", "article_url", "news_url", "canonical_url", "web_url", "source_url"),
        *("story_url", "click_through_url", "permalink", "href"),
    ),
    "form": ("form", "form_type", "filing_type"),
    "id": ("id",),
}
# Names of tickers that hold several; an article about no company leaves them empty.
SEVERAL = frozenset(
    (
        *("tickers", "symbols", "stocks", "stocksymbols", "stocktickers", "related"),
        *("relatedtickers", "relatedsymbols", "relatedstocks", "tickersentiment"),
        *("tickersentiments", "entities", "instruments", "securities", "cashtags"),
        "rics",
    )
)
# Names of companies that are no tickers: they say that the rows are not all about one.
COMPANIES = frozenset(
    (
        *("company", "companyname", "issuer", "entity", "entityname", "organization", "firm"),
        *("securityname", "isin", "cusip", "sedol", "cik", "lei", "permno", "gvkey"),
        *("security", "stockname", "asset", "underlying"),
    )
)
# Where an answer of a news API keeps its list of articles.
WRAPPERS = (
    *("articles", "data", "results", "feed", "news", "items", "response", "result", "docs"),
    *("stories", "headlines", "messages", "value", "entries"),
)
MAX_WRAPPERS = 5  # one inside the other
# Where an article keeps its own fields: yfinance, JSON:API, The Guardian.
ENVELOPES = ("content", "attributes", "fields")
NAME_PARTS = ("name", "title", "displayName", "display_name", "domain", "id")
TEXT_PARTS = ("rendered", "main", "value", "text", "content", "body", "name", "title")
URL_PARTS = ("url", "href", "link")

ROLES = {
    name.replace("_", ""): (role, place)
    for role in FIELDS
    for place, name in enumerate(FIELDS[role])
}
REMOVED = ("[Removed]", "[removed]", "[deleted]")  # in the place of an article
BROKER_CODES = re.compile(r"\A\{[A-Z]:[^{}\s]*\}!?")  # Interactive Brokers' "{A:800015:L:en}"
TRUNCATED = re.compile(r"(?:\u2026|\.\.\.)?\s*\[\+\d+ chars\]\s*\Z")  # NewsAPI's `content`


@dataclass(frozen=True, slots=True, kw_only=True)
class NewsRow:
    """
    The fields of a row, as they were given; None where it has none.

    Attributes
    ----------
    ticker
        The value of the field of tickers.
    has_several
        The field is one of lists, such as `symbols`.
    title, text
        Read to plain text. A value that is no text stays what it is.
    origins
        As `Document.origins`, where the text is HTML and stands alone.
    labels
        Field -> the name that it stood under.
    """

    id: object
    ticker: object
    has_several: bool
    title: object
    text: object
    origins: tuple[tuple[int, int], ...]
    date: object
    source: str | None
    form: str | None
    labels: Mapping[str, Hashable]


def fold_label(label: object) -> str:
    """Return the name of a column or key without case and marks: "Published At" -> publishedat."""
    text = re.sub(
        r"(?<=\w)\s*\([^()]{1,20}\)\s*\Z", "", strip_invisible(str(label))
    )  # "Date (UTC)"
    return "".join(filter(str.isalnum, text.lower()))


@functools.lru_cache(maxsize=256)
def group_labels(labels: tuple[Hashable, ...]) -> Mapping[str, tuple[Hashable, ...]]:
    """Return field -> the labels that mean it, the best first."""
    found = sorted(
        (ROLES[name], place)
        for place, label in enumerate(labels)
        if (name := fold_label(label)) in ROLES
    )
    groups: dict[str, list[Hashable]] = {}
    for (role, _), place in found:
        groups.setdefault(role, []).append(labels[place])
    return {role: tuple(group) for role, group in groups.items()}


def is_row(data: Mapping[Any, Any]) -> bool:
    """Return whether the keys are those of a row, not tickers: a text, and whose or when it is."""
    roles = group_labels(tuple(data))
    texts = [label for role in ("title", "text", "summary") for label in roles.get(role, ())]
    has_text = any(is_empty(data[label]) or not _is_list_of_rows(data[label]) for label in texts)
    return has_text and bool({"ticker", "date", "url"} & roles.keys())


def find_rows(data: Mapping[Any, Any], depth: int = MAX_WRAPPERS) -> Any:
    """
    Return what an answer of a news API wraps: a list of articles, or lists by ticker; else None.

    A ticker beside the list is that of its articles.
    """
    if is_row(data) or depth == 0:
        return None
    columns, cells = data.get("columns"), data.get("data")
    if isinstance(columns, list) and isinstance(cells, list):  # DataFrame.to_json(orient="split")
        return [dict(zip(columns, row, strict=False)) for row in cells if isinstance(row, list)]
    found = next(
        (
            rows
            for name in WRAPPERS
            if (rows := _open_wrapper(data.get(name), depth - 1)) is not None
        ),
        None,
    )
    labels = group_labels(tuple(data)).get("ticker", ())
    shared = {label: data[label] for label in labels if isinstance(data[label], str)}
    return [{**shared, **row} for row in found] if shared and isinstance(found, list) else found


def _open_wrapper(inside: object, depth: int) -> Any:
    if _is_list_of_rows(inside):
        return inside
    if not isinstance(inside, Mapping):
        return None
    rows = find_rows(inside, depth)
    is_by_ticker = bool(inside) and all(_is_list_of_rows(one) for one in inside.values())
    return inside if rows is None and is_by_ticker else rows


def _is_list_of_rows(data: object) -> bool:
    return isinstance(data, list) and all(isinstance(one, Mapping) for one in data)


def read_row(row: Mapping[Any, Any]) -> NewsRow:
    """Return the fields of a row, each from the first of its names that is filled."""
    row = open_envelope(row)
    groups = group_labels(tuple(row))
    found: dict[str, Any] = {}
    used: dict[str, Hashable] = {}
    for role, labels in groups.items():
        label = next((one for one in labels if not is_empty(row[one])), None)
        if label is not None:
            found[role], used[role] = row[label], label
    if "ticker" not in found and (company := find_company(row)) is not None:
        found["ticker"], used["ticker"] = row[company], company
    title, text, summary = (_read_text(found.get(role)) for role in ("title", "text", "summary"))
    if isinstance(text, str) and TRUNCATED.search(text):  # the summary is a whole text
        text = None if isinstance(summary, str) else TRUNCATED.sub("", text)
    if is_missing(text):
        text = summary
        used.pop("text", None)
    else:
        used.pop("summary", None)
    label = used.get("ticker")
    name = _read_part(found.get("source"), NAME_PARTS)
    url = _read_part(found.get("url"), URL_PARTS)
    return NewsRow(
        id=found.get("id"),
        ticker=found.get("ticker"),
        has_several=_has_several(row, label, groups.get("ticker", ())),
        title=title,
        text=text,
        origins=_find_origins(title, text, found),
        date=found.get("date"),
        source=", ".join(dict.fromkeys(filter(None, (name, url)))) or None,
        form=_read_part(found.get("form"), NAME_PARTS),
        labels=used,
    )


def find_company(row: Mapping[Any, Any]) -> Hashable | None:
    """Return the name of a dict about the company that holds its ticker."""
    for label, value in row.items():
        if isinstance(value, Mapping) and fold_label(label) in COMPANIES:
            named = (value.get(part) for part in ("ticker", "symbol"))
            if not all(map(is_empty, named)):
                return label  # type: ignore[no-any-return]
    return None


def find_ticker_column(
    labels: Sequence[Hashable],
    rows: Sequence[Mapping[Any, Any]],
    is_known: Callable[[str], bool],
) -> Hashable | None:
    """Return the column of companies whose cells are written as tickers, some of them known."""
    for label in labels:
        cells = [row.get(label) for row in rows] if fold_label(label) in COMPANIES else []
        texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
        known = [is_known(one) for one in texts]
        if any(known) and all(
            is_one or TICKER_AS_WRITTEN.fullmatch(one)
            for is_one, one in zip(known, texts, strict=True)
        ):
            return label
    return None


def find_text_label(row: Mapping[Any, Any]) -> Hashable:
    """Return the name under which the texts of a table stand, also where this row has none."""
    groups = group_labels(tuple(row))
    return next(
        (groups[role][0] for role in ("text", "title", "summary") if role in groups), "text"
    )


def _find_origins(
    title: object, text: object, found: Mapping[str, Any]
) -> tuple[tuple[int, int], ...]:
    given = found.get("text", found.get("summary"))
    if not (is_missing(title) and isinstance(given, str) and isinstance(text, str)):
        return ()
    source = read_markup(given)
    return source.origins if source.text == text else ()


def _has_several(
    row: Mapping[Any, Any], label: Hashable | None, labels: Sequence[Hashable]
) -> bool:
    """
    Return whether the field of tickers is one of lists.

    A NaN is not: pandas makes one of a ticker, too.
    """
    if label is not None:
        return fold_label(label) in SEVERAL
    cells = [row[one] for one in labels]
    return bool(cells) and all(
        fold_label(one) in SEVERAL
        and (isinstance(cell, str) or cell is None or not is_scalar(cell))
        for one, cell in zip(labels, cells, strict=True)
    )


def open_envelope(row: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a row whose fields stand under one key, such as `content` in yfinance, without it."""
    for name in ENVELOPES:
        inside = row.get(name)
        if (
            isinstance(inside, Mapping)
            and {"title", "text", "summary"} & group_labels(tuple(inside)).keys()
        ):
            return {**{key: value for key, value in row.items() if key != name}, **inside}
    return row


def _read_text(value: object) -> object:
    """Return the text of a value: of the part of a dict that holds it, of a list of paragraphs."""
    if isinstance(value, Mapping):
        named = (part for part in TEXT_PARTS if not is_empty(value.get(part)))
        return next((_read_text(value[part]) for part in named), None)
    if isinstance(value, (list, tuple, np.ndarray)):
        parts = [_read_text(one) for one in value]
        texts = [part for part in parts if isinstance(part, str)]
        return "\n\n".join(texts) if texts and len(texts) == len(parts) else value
    if not isinstance(value, str):
        return value
    if value.strip() in REMOVED:
        return None
    return BROKER_CODES.sub("", read_markup(value).text.removeprefix("\ufeff"))


def _read_part(value: object, parts: Sequence[str]) -> str | None:
    """Return the name or the address in a value: text, a dict, the first of a list."""
    if isinstance(value, (list, tuple, np.ndarray)):
        value = value[0] if len(value) else None
    if isinstance(value, Mapping):
        value = next((value[part] for part in parts if not is_empty(value.get(part))), None)
    if isinstance(value, str) and value.lstrip().startswith("{"):  # a dict that CSV made text
        for part in parts:
            if found := re.search(rf"""['"]{part}['"]\s*:\s*['"]([^'"]+)['"]""", value):
                return found[1].strip()
    return None if is_empty(value) else str(value).strip()


# --- shapes ---------------------------------------------------------------------------------------


def read_json_text(text: str) -> Any:
    """Return what a text in JSON holds, or None where it is no object and no list of them."""
    if text.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            if isinstance(value, dict) or (value and _is_list_of_rows(value)):
                return value
    return None


def open_keyed_rows(data: Mapping[Any, Any], tickers: Container[str]) -> list[Any] | None:
    """
    Return the rows of a mapping of numbers, ids or days to rows, such as `to_dict("index")` gives.
    """
    if not data or not all(isinstance(row, Mapping | list) for row in data.values()):
        return None
    rows = [
        (key, row)
        for key, value in data.items()
        for row in (value if isinstance(value, list) else [value])
    ]
    if not rows or not all(isinstance(row, Mapping) for _, row in rows):
        return None
    are_ids = not any(
        TICKER_AS_WRITTEN.fullmatch(str(key)) or fold_name(str(key)) in tickers for key in data
    )
    if all(re.fullmatch(r"\d{1,7}", str(key)) for key in data):
        return [row for _, row in rows] if all(names_company(row) for _, row in rows) else None
    if all(len(str(key)) >= 8 and is_day(key) for key in data):
        return [row if _has_date(row) else {**row, "date": key} for key, row in rows]
    if are_ids and all(
        "ticker" in group_labels(tuple(open_envelope(row))) and is_row(row) for _, row in rows
    ):
        return [row for _, row in rows]
    return None


def _has_date(row: Mapping[Any, Any]) -> bool:
    return "date" in group_labels(tuple(open_envelope(row)))


def open_nested_rows(row: Mapping[Any, Any]) -> list[Any] | None:
    """Return the articles that a row holds as a list, with its ticker and date; else None."""
    groups = group_labels(tuple(row))
    for label in groups.get("text", ()):
        inside = row[label]
        if (
            isinstance(inside, list)
            and inside
            and _is_list_of_rows(inside)
            and all("title" in group_labels(tuple(open_envelope(one))) for one in inside)
        ):
            shared = {name: row[name] for name in groups.get("ticker", ())}
            dated = shared | {name: row[name] for name in groups.get("date", ())}
            return [{**(shared if _has_date(one) else dated), **one} for one in inside]
    return None


def open_item(item: Any) -> list[Any]:
    """Return the rows in an item: one, or those of an answer; a client's object becomes a dict."""
    if isinstance(item, str):
        read = read_json_text(item)
        if read is None:
            return [item]
        if isinstance(read, list):
            return read
        item = read
    if isinstance(item, Path):
        return [item]
    if is_dataclass(item) and not isinstance(item, type):
        item = {field.name: getattr(item, field.name) for field in fields(item)}
    for method in ("model_dump", "_asdict"):
        if hasattr(item, method):
            item = getattr(item, method)()
    if not isinstance(item, Mapping):
        own = getattr(item, "__dict__", {})
        return [dict(own) if is_row(own) else item]  # of a client without dicts
    rows = find_rows(item)
    return rows if isinstance(rows, list) else [item]


def names_company(row: Any) -> bool:
    """Return whether a row has a field for tickers or companies, filled or not."""
    if not isinstance(row, Mapping):
        return False
    labels = tuple(open_envelope(row))
    return "ticker" in group_labels(labels) or any(fold_label(one) in COMPANIES for one in labels)


def add_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with the levels of its index that mean something as columns."""
    named = [name for name in frame.index.names if name is not None and name not in frame.columns]
    means = group_labels(tuple(named))
    if means.keys() & FIELDS.keys():
        return frame.reset_index(level=[name for group in means.values() for name in group])
    if isinstance(frame.index, pd.DatetimeIndex) and "date" not in group_labels(
        tuple(frame.columns)
    ):
        return frame.assign(date=frame.index)
    return frame


def read_uneven_csv(path: Path) -> list[Any]:
    """
    Return the rows of a CSV file as dicts, and an InputError in the place of each uneven one.

    A comma in a title without quotes gives its row a field too many. Nobody can tell which field is
    whose there, so that the row is lost, and no other.
    """
    content = read_text(path).removeprefix("\ufeff")
    first = content.lstrip().split("\n", 1)[0]
    separator = max(",;\t|", key=first.count)
    reader = csv.reader(StringIO(content, newline=""), delimiter=separator)
    try:
        lines = [line for line in reader if any(field.strip() for field in line)]
    except csv.Error:  # a field of more than 131,072 characters
        return []
    header = lines[0] if lines else []
    rows: list[Any] = []
    for number, line in enumerate(lines[1:], 1):
        cells = line if any(line[len(header) :]) else line[: len(header)]
        if len(cells) == len(header):
            rows.append(dict(zip(header, cells, strict=True)))
        else:
            seen = f"{len(line)} fields, where the header has {len(header)}"
            fix = "put quotes around a field that holds a separator"
            rows.append(refuse_row(f"{path.name}, row {number}", f": {seen}", fix, is_lost=True))
    return rows
