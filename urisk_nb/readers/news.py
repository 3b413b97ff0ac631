"""
The user's evidence as documents: rows of a table or of a news API, texts by ticker, files, folders.

A row that cannot be read is left out and named in a note, as long as the rest can be read: where
most rows fail, the columns are misread, and that is an error. `news_fields` knows the names. Over
400 lines: what a reader counts and what it reads belong to one class.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api import types as kinds

from urisk_nb.errors import InputError
from urisk_nb.readers.columns import (
    TICKER_AS_WRITTEN,
    check_not_moved,
    check_separator,
    suggest_rename,
)
from urisk_nb.risk.inputs import SHARED, Document, Evidence
from urisk_nb.risk.tickers import fold_share_class, read_symbol
from urisk_nb.risk.values import (
    count_noun,
    describe_type,
    find_closest,
    fold_name,
    is_missing,
    show,
    strip_invisible,
)

if TYPE_CHECKING:
    from urisk_nb.readers.file_content import FileMapper

__all__ = ["read_evidence"]

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
SHORT_CHARS = 300  # a text of one line that is no longer is read as a headline
MAX_NEWS_CHARS = 20_000  # a longer text is a filing or a transcript, whatever its title
MAX_LABEL_CHARS = 40
COUNTER = re.compile(r"|Unnamed: \d+|index|level_\d+")  # what to_csv() and reset_index() add
MAX_NAMES = 10  # named in a note; further ones are counted
# One row in 20 without a ticker, or with fields that nobody can tell apart, is a slip. More of them
# are a ticker that pandas read as missing, or a file of another form.
MAX_LOST_ROWS = 0.05
READ_AS_MISSING = {"NA", "NAN", "NULL", "NONE", "N/A", "<NA>"}
# What an answer of a news API has in the place of articles
REFUSALS = {"error", "errors", "error message", "information", "note", "message", "status"}
KEEP_TEXTS = "[text for text in texts if isinstance(text, str) and text.strip()]"
TABLE_OF_ROWS = 'pd.DataFrame(evidence, columns=["ticker", "text"]), with a name for each column'
NO_TICKER = (
    f"write its ticker, or {SHARED!r} if it counts for all companies; pandas reads the "
    'ticker NA with keep_default_na=False; news of one company: evidence={"NVDA": news}'
)
SENTENCE_END = re.compile(
    r"(?<!\bInc)(?<!\bCorp)(?<!\bCo)(?<!\bLtd)(?<!\bSt)(?<!\bNo)(?<!\b[A-Z])"
    r"[.!?][\"'\u201d\u2019)\]]*\s+(?=[A-Z\"'\u201c(\d])"
)
# Names of US listings: TradingView, Capital IQ, EODHD, Bloomberg, Refinitiv, FactSet.
US_LISTING = re.compile(
    r"(?:(?:NASDAQ(?:[GC][SM])?|NYSE|NYSEARCA|NYSEAMERICAN|NYSE AMERICAN|NYSEMKT|AMEX|ARCA|BATS"
    r"|CBOE|OTC|OTCMKTS|OTCQB|OTCQX|OTCPK|XNAS|XNYS|XASE|ARCX|US):\s*|(?:NASDAQ|NYSE|AMEX)-|US\.)?"
    r"(.+?)"
    r"(?:\.US|\.OQ?|\.N|\.NASDAQ|\.NYSE|-US|:US|:U[NWQAPRV]|:NASDAQ|:NYSE"
    r"|\s+U[SNWQAPRV](?:\s+EQUITY)?|\s*\((?:NASDAQ|NYSE|NYSE ARCA|AMEX)\))?"
)


def read_evidence(
    given: object,
    *,
    tickers: Sequence[str] = (),
    known: Sequence[str] = (),
    map_files: FileMapper | None = None,
) -> Evidence:
    """
    Return the documents of the user's evidence; none is a valid answer.

    Parameters
    ----------
    given
        A frame, a list of mappings, the answer of a news API, a mapping of ticker to any of these
        or to texts or paths, the path of a file (CSV, Parquet, JSON, a document) or of a folder, or
        a callable that is given the tickers and returns one of these. `news_fields.FIELDS` has the
        names of columns and keys. The ticker ``*`` counts for all companies.
    tickers
        The tickers of the cell. Documents about other ones are named in a note. Rows without a
        column of tickers are about the only one, if there is one.
    known
        Further names that count as tickers, such as the columns of the prices.
    map_files
        Who reads the files of a folder; default: this process, one after the other.

    Returns
    -------
    Evidence
        The documents; rows, columns and documents that were not used are in its notes.

    Raises
    ------
    InputError
        A missing column, columns that pandas moved by one, more than half of the rows without a
        text, with a date or a ticker that is none; more than one row in 20 without a ticker; texts
        of two companies under one; the same id twice for one ticker; a file that cannot be read.
    PackageMissing
        A package that reads the kind of file is not installed.
    """
    reader = _EvidenceReader(tickers, known, map_files)
    loaded = given(list(tickers)) if callable(given) else given
    documents = sorted(
        reader.read(loaded, "evidence"),
        key=lambda one: (
            one.date or date.min,
            one.source or "",
            _ByText(one),
            one.ticker or "",
            one.id,
        ),
    )
    kept = reader.drop_repeated(documents)
    return Evidence(documents=reader.fill_ids(kept), notes=reader.write_notes())


@dataclass(frozen=True, slots=True)
class _ByText:
    """Orders documents by their texts, which are looked at only where all else is the same."""

    document: Document

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByText) and self.document.text_key == other.document.text_key

    def __hash__(self) -> int:
        return hash(self.document.text_key)

    def __lt__(self, other: _ByText) -> bool:
        return self.document.text < other.document.text


class _EvidenceReader:
    """Reads any shape into documents, and counts what it does not use."""

    def __init__(
        self, tickers: Sequence[str], known: Sequence[str], map_files: FileMapper | None
    ) -> None:
        self.map_files = {} if map_files is None else {"map_files": map_files}
        self.tickers = tuple(tickers)
        self.names = {fold_name(name) for name in (*known, *tickers)}
        self.companies = {fold_share_class(name) for name in tickers}
        listings: dict[str, set[str]] = {}
        for name in tickers:
            listings.setdefault(_fold_listing(name), set()).add(name)
        self.listings = {
            form: next(iter(names)) for form, names in listings.items() if len(names) == 1
        }
        self.notes: list[str] = []
        self.day_order: str | None = None  # of the dates of the rows at hand
        self.renamed: Counter[tuple[str, str]] = Counter()
        self.others: dict[str, set[object]] = {}  # ticker that is not in the cell -> its texts
        self.nameless = 0
        self.article_ids: set[str] = set()
        self.used: set[object] = set()
        self.unused: dict[object, None] = {}

    # --- shapes -----------------------------------------------------------------------------------

    def read(self, data: Any, what: str, key: object = ...) -> Iterator[Document]:
        """Yield the documents of any shape; `key` is the ticker that they stand under, if any."""
        if isinstance(data, pd.Series):
            data = data.rename("text").to_frame()
        elif hasattr(data, "to_pandas"):
            data = data.to_pandas()
        if isinstance(data, pd.DataFrame):
            yield from self._read_frame(data, what, key)
        elif (
            isinstance(data, str)
            and data.lstrip()[:1] in ("{", "[")
            and ((rows := _read_json_text(data)) is not None)
        ):
            yield from self.read(rows, what, key)
        elif isinstance(data, Path) or (isinstance(data, str) and key is ...):
            yield from self._read_path(data, what, key)
        elif isinstance(data, Mapping):
            yield from self._read_mapping(data, what, key)
        elif isinstance(data, str):
            yield from self._read_items([data], what, key)
        elif isinstance(data, bytes) or not isinstance(data, Iterable):
            raise InputError(
                f"the {what} is {describe_type(data)}, not a frame, a mapping or a list.",
                fix='evidence={"NVDA": ["..."]}, a list of dicts, or a DataFrame with ticker and '
                "text",
            )
        else:
            yield from self._read_items(list(data), what, key)

    def _read_mapping(self, data: Mapping[Any, Any], what: str, key: object) -> Iterator[Document]:
        if key is ... and all(
            isinstance(name, str) and fold_name(name) in self.names for name in data
        ):
            yield from self._read_by_ticker(data)  # no key can be the name of a column
            return
        from urisk_nb.readers.news_fields import find_rows, is_row, open_keyed_rows
        from urisk_nb.readers.news_values import is_day

        rows = find_rows(data)
        if rows is not None:
            yield from self.read(rows, what, key)
        elif is_row(data) and _holds_columns(data):
            # A frame's to_dict() or to_json()
            columns = {
                name: dict(cells) if isinstance(cells, pd.Series) else cells
                for name, cells in data.items()
            }
            yield from self.read(pd.DataFrame(columns, dtype=object), what, key)
        elif key is not ... and all(map(is_day, data)):
            rows = [
                {"date": day, **(one if isinstance(one, Mapping) else {"text": one})}
                for day, texts in data.items()
                for one in (texts if isinstance(texts, list | tuple) else [texts])
            ]
            yield from self._read_items(rows, what, key)
        elif (rows := open_keyed_rows(data, self.names)) is not None:
            yield from self._read_items(rows, what, key)
        elif key is not ... or is_row(data) or self._is_lone_row(data):
            yield from self._read_items([data], what, key)
        else:
            self._check_no_refusal(data)
            yield from self._read_by_ticker(data)

    def _read_by_ticker(self, data: Mapping[Any, Any]) -> Iterator[Document]:
        for ticker, texts in data.items():
            if is_missing(texts):
                continue  # nothing was found about it
            yield from self.read(texts, f"evidence of {show(ticker)}", ticker)

    def _is_lone_row(self, data: Mapping[Any, Any]) -> bool:
        """Return whether a mapping is one article, without ticker and date, not texts by ticker."""
        from urisk_nb.readers.news_fields import group_labels

        roles = group_labels(tuple(data))
        return {"title", "text"} <= roles.keys() and all(
            isinstance(data[label], str) and not str(label).isupper()
            for role in ("title", "text")
            for label in roles[role]
        )

    def _check_no_refusal(self, data: Mapping[Any, Any]) -> None:
        """Refuse the answer of an API that says why it has no articles: its keys are no tickers."""
        names = {str(name).lower().replace("_", " ") for name in data if not str(name).isupper()}
        has_rows = any(isinstance(value, list | Mapping) and value for value in data.values())
        if names & REFUSALS and not has_rows:
            raise InputError(
                f"the evidence is an API answer without articles: {str(dict(data))[:200]}.",
                fix="check the request that returned it",
            )

    def _read_path(self, given: str | Path, what: str, key: object) -> Iterator[Document]:
        from urisk_nb.readers import documents
        from urisk_nb.readers.files import find_path, read_json, read_table

        found = None
        if key is ...:
            found = documents.read_documents(given, tickers=self.tickers, **self.map_files)
        path = Path(given) if found else find_path(given, what)
        if key is not ... and path.is_dir():
            found = documents.read_folder(
                path, tickers=self.tickers, ticker=str(key), **self.map_files
            )
        elif key is not ... and documents.is_document(path):
            found = documents.read_document(path, tickers=self.tickers, ticker=str(key))
        if found is not None:
            self.notes += found.notes
            for document in found.documents:
                self._count_others([document.ticker], document.text_key, document.date)
            yield from (replace(document, id="") for document in found.documents)
        elif path.suffix.lower() in JSON_SUFFIXES or (
            path.suffix.lower() == ".txt" and documents.holds_json_rows(path)
        ):
            yield from self.read(read_json(path), what, key)
        else:
            uneven: Mapping[int, InputError] = {}
            try:
                frame, notes = read_table(path, text=True)
                self.notes += notes
            except InputError:
                frame, uneven = _read_even_rows(path)
                if not uneven:
                    raise
            yield from self._read_frame(frame, what, key, uneven)

    def _read_frame(
        self,
        frame: pd.DataFrame,
        what: str,
        key: object,
        uneven: Mapping[int, InputError] | None = None,
    ) -> Iterator[Document]:
        from urisk_nb.readers.news_fields import (
            add_index,
            find_company,
            group_labels,
            names_company,
        )

        if key is ... and (by_ticker := self._find_texts_by_ticker(frame)):
            yield from self._read_by_ticker(by_ticker)
            return
        check_separator(frame, f"the {what}")
        check_not_moved(frame, f"the {what}")
        frame = add_index(frame)
        if frame.columns.duplicated().any():
            name = frame.columns[frame.columns.duplicated()][0]
            raise InputError(
                f"the {what} has the column {name!r} more than once.",
                fix="evidence.loc[:, ~evidence.columns.duplicated()]",
            )
        if key is ... and "ticker" not in group_labels(tuple(frame.columns)):
            frame = self._rename_company(frame)
        if key is ... and not names_company(dict.fromkeys(frame.columns)):
            if kinds.infer_dtype(frame.index) != "string":
                key = self._find_only_ticker()
            elif all(map(TICKER_AS_WRITTEN.fullmatch, frame.index)):
                frame = frame.assign(ticker=frame.index)
        groups = group_labels(tuple(frame.columns))
        has_dicts = any(
            find_company(dict(zip(frame, row, strict=True)))
            for row in frame.head(20).itertuples(index=False, name=None)
        )
        for name, has_it in (
            ("ticker", "ticker" in groups or has_dicts or key is not ...),
            ("text", bool({"text", "title", "summary"} & groups.keys())),
        ):
            if not has_it:
                shared = f"; the ticker {SHARED!r} counts for all companies"
                raise InputError(
                    f"the {what} has no column {name!r}, only "
                    f"{', '.join(map(repr, frame.columns)) or 'none'}.",
                    fix=suggest_rename(frame, "evidence", name)
                    or f"add the column {name!r}{shared if name == 'ticker' else ''}",
                )
        columns = [frame[label].astype(object).tolist() for label in frame.columns]
        labels = list(frame.columns)
        rows: list[Any] = [
            dict(zip(labels, cells, strict=True)) for cells in zip(*columns, strict=True)
        ]
        for place, fault in sorted((uneven or {}).items()):
            rows.insert(place, fault)
        yield from self._read_rows(rows, what, "row", key)

    def _find_texts_by_ticker(self, frame: pd.DataFrame) -> dict[Any, pd.Series]:
        """Return the columns of a frame that has one of texts for each ticker, by date or not."""
        from urisk_nb.readers.news_fields import group_labels

        others = [one for one in frame if fold_name(str(one)) not in self.names]
        if len(others) == len(frame.columns) or others != list(
            group_labels(tuple(others)).get("date", ())[:1]
        ):
            return {}
        indexed = frame.set_index(others[0]) if others else frame
        return {name: indexed[name].dropna() for name in indexed}

    def _rename_company(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the frame with the name "ticker" for a column of companies that holds tickers."""
        from urisk_nb.readers.news_fields import find_ticker_column

        label = find_ticker_column(tuple(frame), frame.to_dict("records"), self._is_known)
        return frame if label is None else frame.rename(columns={label: "ticker"})

    def _read_items(self, items: Sequence[Any], what: str, key: object) -> Iterator[Document]:
        rows = list(items)
        if not all(
            isinstance(item, Path) or (isinstance(item, str) and item.lstrip()[:1] != "{")
            for item in items
        ):
            from urisk_nb.readers.news_fields import (
                find_ticker_column,
                group_labels,
                names_company,
                open_item,
            )

            rows = [row for item in items for row in open_item(item)]
            has_tickers = any(map(names_company, rows))
            dicts = [row for row in rows if isinstance(row, Mapping)]
            labels = tuple(dict.fromkeys(label for row in dicts for label in row))
            if (
                key is ...
                and "ticker" not in group_labels(labels)
                and (company := find_ticker_column(labels, dicts, self._is_known)) is not None
            ):
                rows = [
                    {**row, "ticker": row[company]} if row.get(company) else row for row in dicts
                ]
        else:
            has_tickers = any(isinstance(item, Path) for item in items)
        if rows and key is ... and not has_tickers:
            key = self._find_only_ticker()
        yield from self._read_rows(rows, what, "item", key)

    def _find_only_ticker(self) -> object:
        """Return the ticker of a cell that has one, for evidence that names none."""
        if len(self.tickers) != 1:
            return ...
        self.notes.append(f"The evidence names no ticker; it counts for {self.tickers[0]}.")
        return self.tickers[0]

    # --- rows -------------------------------------------------------------------------------------

    def _read_rows(
        self, rows: Sequence[Any], what: str, noun: str, key: object
    ) -> Iterator[Document]:
        faults: list[tuple[int, InputError]] = []
        documents: list[Document] = []
        blank, nameless = 0, self.nameless
        self.day_order = _find_day_order(rows)
        for number, row in enumerate(rows, 1):
            where = f"{what}, {noun} {number}"
            try:
                documents += self._read_row(row, where, key)
            except (InputError, RecursionError) as exc:
                fault = exc if isinstance(exc, InputError) else _refuse_nesting(where)
                if "reason" not in fault.facts or not isinstance(row, Mapping | InputError):
                    raise
                if isinstance(row, Mapping) and all(map(is_missing, row.values())):
                    blank += 1  # the end of a sheet
                else:
                    faults.append((number, fault))
        if faults:
            self._check_faults(faults, len(rows) - blank)
            reasons = [f"{noun} {number} ({fault.facts['reason']})" for number, fault in faults]
            self.notes.append(
                f"{len(faults):,} of {count_noun(len(rows), noun)} of the {what} "
                f"{_was(len(faults))} skipped: {_join(reasons)}."
            )
        if self.nameless > nameless and not documents:
            raise InputError(f"no {noun} of the {what} names a company.", fix=NO_TICKER)
        yield from documents

    def _check_faults(self, faults: Sequence[tuple[int, InputError]], count: int) -> None:
        lost = [fault for _, fault in faults if fault.facts.get("is_lost")]
        named = self.names & READ_AS_MISSING
        if len(lost) > MAX_LOST_ROWS * count:
            raise lost[0]
        if named and (nobodys := [one for one in lost if "ticker" in str(one.facts["reason"])]):
            raise nobodys[0]
        # Names of another house's form say nothing about the columns
        misread = [fault for _, fault in faults if not fault.facts.get("is_name")]
        if len(misread) * 2 > count or len(faults) == count:
            first = misread[0] if misread else faults[0][1]
            more = f" ({len(faults):,} of {count:,} cannot be read)" if count > 1 else ""
            raise InputError(first.message.rstrip(".") + more + ".", fix=first.fix)

    def _read_row(self, row: Any, where: str, key: object) -> list[Document]:
        if isinstance(row, InputError):  # a broken line of a file
            raise row
        if isinstance(row, Path):
            return list(self._read_path(row, where, key))
        if not isinstance(row, Mapping):
            return [self._read_text(row, where, key)]
        from urisk_nb.readers import news_fields, news_values

        nested = news_fields.open_nested_rows(row)
        if nested is not None:
            return [one for inner in nested for one in self._read_row(inner, where, key)]
        news_values.check_one_ticker(row, where)
        row = news_fields.open_envelope(row)
        fields = news_fields.read_row(row)
        self._count_columns(row, frozenset(fields.labels.values()))
        label = news_fields.find_text_label(row)
        text = news_values.join_text(fields.title, fields.text, row, where, label)
        own_id = news_values.read_id(fields.id)
        tickers = self._read_tickers(fields.ticker, fields.has_several, row, where, key)
        day = news_values.read_date(fields.date, where, fields.labels.get("date"), self.day_order)
        self._count_others(tickers, text, day)
        self.nameless += not tickers
        self.article_ids |= set() if is_missing(fields.title) else {own_id}
        is_news = len(text) <= MAX_NEWS_CHARS and not is_missing(fields.title)
        return [
            Document(
                id=own_id,
                ticker=ticker,
                text=text,
                date=day,
                source=fields.source,
                form=fields.form,
                origins=fields.origins,
                kind="news" if is_news or _is_headline(text) else "text",
            )
            for ticker in tickers
        ]

    def _read_text(self, text: object, where: str, key: object) -> Document:
        """Return a text that stands alone as a document."""
        if is_missing(text) or not isinstance(text, str):
            seen = "no text" if is_missing(text) else f"{describe_type(text)} ({show(text)})"
            fix = TABLE_OF_ROWS if isinstance(text, list | tuple) else KEEP_TEXTS
            raise InputError(f"{where} has {seen}.", fix=fix)
        origins: tuple[tuple[int, int], ...] = ()
        if "<" in text or "&" in text:
            from urisk_nb.readers.news_values import read_markup

            source = read_markup(text)
            text, origins = source.text, source.origins
        text = text.removeprefix("\ufeff")
        _check_no_path(text, where)
        ticker = self._read_ticker(None if key is ... else key, where)
        self._count_others([ticker], text, None)
        return Document(
            id="",
            ticker=ticker,
            text=text,
            origins=origins,
            kind="news" if _is_headline(text) else "text",
        )

    def _read_tickers(
        self, value: object, has_several: bool, row: Any, where: str, key: object
    ) -> list[str | None]:
        if key is not ...:
            if value is not None and not has_several:
                _check_same_ticker(key, value, where)
            return [self._read_ticker(key, where)]
        if value is None and has_several:
            return []
        if value is None:
            self._refuse_lost_ticker(row, where)
        from urisk_nb.readers.news_values import read_tickers

        found: list[str | None] = []
        fault = None
        for one in self._split_tickers(read_tickers(value, has_several=has_several), has_several):
            try:
                found.append(self._read_ticker(one, where))
            except InputError as exc:
                fault = exc
        if fault and not (has_several and found):
            raise fault
        return list(dict.fromkeys(found))

    def _split_tickers(self, values: Iterable[object], has_several: bool) -> Iterator[object]:
        """Yield the tickers of texts such as "NVDA AMD" and "$NVDA $AMD"; "BRK B" is one."""
        for value in values:
            parts = re.split(r"[\s/&+]+", value.strip()) if isinstance(value, str) else []
            # "BRK B" is a share class
            is_class = len(parts) == 2 and len(parts[1]) == 1 and len(parts[0]) > 1
            if len(parts) > 1 and not is_class and fold_name(str(value)) not in self.names:
                known = [self._is_known(part) for part in parts]
                are_words = all(len(part) > 2 and part.isupper() for part in parts)
                if (
                    all(known)
                    or all(part[0] in "$#" for part in parts)
                    or (has_several and any(known) and are_words)
                ):
                    yield from parts
                    continue
            yield value

    def _is_known(self, name: str) -> bool:
        name = fold_name(name).lstrip("$#")
        return name in self.names or _fold_listing(name) in self.listings

    def _refuse_lost_ticker(self, row: Any, where: str) -> None:
        near = find_closest("ticker", map(str, row), 1) if isinstance(row, Mapping) else []
        said, fix = " has no ticker", NO_TICKER
        if near and near[0].strip().lower() not in ("ticker", "tickers"):
            said, fix = f" has no 'ticker', but {near[0]!r}", f"rename {near[0]!r} to 'ticker'"
        from urisk_nb.readers.news_values import refuse_row

        raise refuse_row(where, said, fix, is_lost=True)

    def _read_ticker(self, value: object, where: str) -> str | None:
        """
        Return the company's symbol, or None for all companies.

        An empty cell is neither: pandas makes one of the ticker NA.
        """
        if is_missing(value):
            self._refuse_lost_ticker(None, where)
        if isinstance(value, str):
            value = re.sub(r"^\s*[$#](?=[A-Za-z])", "", value)
            name = fold_name(value)
            if name == SHARED:
                return None
            if name in self.names:
                return name
            listing = self.listings.get(_fold_listing(name))
            if listing is not None and fold_share_class(name) not in self.companies:
                self.renamed[name, listing] += 1
                return listing
        try:
            return read_symbol(value, where)
        except InputError as exc:
            said = exc.message.removeprefix(where).rstrip(".")
            from urisk_nb.readers.news_values import refuse_row

            is_name = isinstance(value, str) and len(value.split()) == 1
            raise refuse_row(where, said, exc.fix, is_name=is_name) from exc

    # --- what was not used ------------------------------------------------------------------------

    def _count_columns(self, row: Mapping[Any, Any], used: frozenset[Any]) -> None:
        from urisk_nb.readers.news_values import is_empty

        self.used |= used
        for label in row:
            if label not in used and label not in self.unused and not is_empty(row[label]):
                self.unused[label] = None

    def _count_others(self, tickers: Sequence[str | None], text: object, day: date | None) -> None:
        """Count a text that is about none of the companies of the cell."""
        mine = [one for one in tickers if one is None or fold_share_class(one) in self.companies]
        if self.tickers and not mine:
            for one in tickers:
                self.others.setdefault(str(one), set()).add((text, day))

    def drop_repeated(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents, each once, and no id twice for one ticker."""
        first: dict[object, Document] = {}
        for one in documents:
            first.setdefault((one.ticker, one.text_key, one.date), one)
        kept = list(first.values())
        if repeated := len(documents) - len(kept):
            self.notes.append(
                f"{count_noun(repeated, 'document')} {_was(repeated)} left out: another one has "
                "the same ticker, text and date."
            )
        counts = Counter((one.id, one.ticker) for one in kept if one.id)
        twice = {key for key, count in counts.items() if count > 1}
        if own := next((key for key in twice if key[0] not in self.article_ids), None):
            raise InputError(
                f"two documents for {own[1] or SHARED} have the id {show(own[0])}.",
                fix="give each its own id, or leave the ids out",
            )
        # An API sends an article again, with the same id, when it was changed
        return [replace(one, id="") if (one.id, one.ticker) in twice else one for one in kept]

    @staticmethod
    def fill_ids(documents: Sequence[Document]) -> tuple[Document, ...]:
        """Return the documents with "E1", "E2", ... where an id is missing, clear of given ones."""
        taken = {one.id for one in documents}
        free = (name for number in itertools.count(1) if (name := f"E{number}") not in taken)
        return tuple(one if one.id else replace(one, id=next(free)) for one in documents)

    def write_notes(self) -> tuple[str, ...]:
        """Return what was not used, one sentence for each kind."""
        notes = list(self.notes)
        if self.others:
            counts = sorted((-len(texts), ticker) for ticker, texts in self.others.items())
            others = _join([f"{ticker} ({-count:,})" for count, ticker in counts])
            number = sum(map(len, self.others.values()))
            notes.append(
                f"1 document is about a ticker that is not in the cell: {others}."
                if number == 1
                else f"{number:,} documents are about tickers that are not in the cell: {others}."
            )
        if self.renamed:
            named = [
                f"{old} as {new} ({count:,})" for (old, new), count in self.renamed.most_common()
            ]
            notes.append(
                f"Tickers with the name of an exchange were read without it: {_join(named)}."
            )
        if self.nameless:
            rows = count_noun(self.nameless, "row")
            notes.append(
                f"{rows} of the evidence named no company and {_was(self.nameless)} skipped."
            )
        names = [_show_label(label) for label in self.unused if label not in self.used]
        if names := [name for name in names if not COUNTER.fullmatch(name)]:
            notes.append(f"Columns of the evidence that were not used: {_join(names)}.")
        return tuple(notes)


# --- single values --------------------------------------------------------------------------------


def _is_headline(text: str) -> bool:
    """Return whether a text without a title is one sentence, as short as a headline."""
    is_line = len(text) <= SHORT_CHARS and "\n" not in text.strip()
    return is_line and not SENTENCE_END.search(text)


def _read_json_text(text: str) -> Any:
    from urisk_nb.readers.news_fields import read_json_text

    return read_json_text(text)


def _find_day_order(rows: Sequence[Any]) -> str | None:
    """Return which of day and month stands first in the dates of rows, where one of them shows."""
    dicts = [row for row in rows if isinstance(row, Mapping)]
    if not dicts:
        return None
    from urisk_nb.readers.news_fields import group_labels
    from urisk_nb.readers.news_values import find_day_order

    return find_day_order(
        row[label] for row in dicts for label in group_labels(tuple(row)).get("date", ())
    )


def _refuse_nesting(where: str) -> InputError:
    from urisk_nb.readers.news_values import refuse_row

    return refuse_row(where, ": its lists are nested too deep", "write its tickers as one list")


def _read_even_rows(path: Path) -> tuple[pd.DataFrame, Mapping[int, InputError]]:
    """Return the rows of a CSV file without its uneven ones, and these, if they are few."""
    from urisk_nb.readers.news_fields import read_uneven_csv

    rows = read_uneven_csv(path) if path.suffix.lower() in CSV_SUFFIXES else []
    uneven = {place: row for place, row in enumerate(rows) if isinstance(row, InputError)}
    if len(uneven) > MAX_LOST_ROWS * len(rows):
        uneven = {}
    even = [row for row in rows if isinstance(row, Mapping)]
    return pd.DataFrame(even, dtype=object), uneven


def _holds_columns(data: Mapping[Any, Any]) -> bool:
    """Return whether the values are the columns of a table: dicts, or lists of one length."""
    columns = [
        dict(column) if isinstance(column, pd.Series) else column for column in data.values()
    ]
    if all(isinstance(column, Mapping) for column in columns):
        return True
    return all(isinstance(column, list) for column in columns) and len(set(map(len, columns))) == 1


def _check_no_path(text: str, where: str) -> None:
    """Refuse the name of a file or an address in the place of a text."""
    if re.fullmatch(r"\S+\.(?:txt|md|html?|xhtml|pdf|docx|csv|json)", text.strip(), re.IGNORECASE):
        raise InputError(
            f"{where} is the name of a file, {show(text.strip())}, not a text.",
            fix="give a path instead of a text: pathlib.Path(...); nothing is fetched from the web",
        )


def _check_same_ticker(key: object, own: object, where: str) -> None:
    """Refuse an item that names another company than the key that it stands under."""
    from urisk_nb.readers.news_values import read_tickers

    names = {_fold_listing(str(one)) for one in read_tickers(own, has_several=False)}
    if names and not is_missing(key) and _fold_listing(str(key)) not in names:
        raise InputError(
            f"{where} has the ticker {show(own)}, but stands under {show(key)}.",
            fix=f"move it under {show(own)}, or leave its ticker out",
        )


def _fold_listing(name: str) -> str:
    """Return one form for the names of a US listing: "NASDAQ:NVDA", "NVDA.US", "NVDA US Equity"."""
    match = US_LISTING.fullmatch(fold_name(name))
    return fold_share_class(match[1] if match else name)


def _show_label(label: object) -> str:
    name = " ".join(strip_invisible(str(label)).split())
    return name if len(name) <= MAX_LABEL_CHARS else f"{name[: MAX_LABEL_CHARS - 3]}..."


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _join(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")
