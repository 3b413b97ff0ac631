"""What a run was given, as bytes and back: enough to compute its plan again.

Of the prices only the columns that the run used are kept, of the documents only those of its
companies. Each is kept once, whatever the number of runs that share it. Nothing is pickled: reading
a journal runs no code of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from urisk_nb.journal.canonical import decode_json, encode_json
from urisk_nb.journal.store import DeferredEntry, Entry
from urisk_nb.recording.number_text import spell_columns
from urisk_nb.recording.overrides import decode_override, encode_override
from urisk_nb.risk.inputs import Document, Holding, Prices, Section
from urisk_nb.risk.overrides import Override
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import OnRead, Plan, prepare
from urisk_nb.risk.questions import Example
from urisk_nb.risk.selection import SelectionMapper, select_in_turn
from urisk_nb.risk.taxonomy import Category, Taxonomy
from urisk_nb.risk.tickers import build_resolver, fold_share_class

if TYPE_CHECKING:
    from urisk_nb.risk.families import Family

__all__ = [
    "Objects",
    "RunInputs",
    "decode_inputs",
    "encode_inputs",
    "hash_prices",
    "list_objects",
]

Objects = Mapping[str, bytes]
"""The objects that a record names, by their hash as hex."""
LINE_END = b"\n"
COLUMNS_AT_ONCE = 100  # whose numbers are spelled together: some MB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunInputs:
    """
    What `urisk_nb.risk.plan.prepare` takes, as it was given, and the corrections that held for the
    sentences that it chose.
    """

    holdings: tuple[Holding, ...]
    prices: Prices | None
    documents: tuple[Document, ...] | None
    params: RiskParams
    taxonomy: Taxonomy
    examples: tuple[Example, ...]
    previous: tuple[Document, ...] | None = None
    benchmark: Prices | None = None
    families: tuple[Family, ...] | None = None
    factors: tuple[Prices, ...] | None = None
    overrides: tuple[Override, ...] = ()

    def prepare(
        self, on_read: OnRead | None = None, map_selections: SelectionMapper = select_in_turn
    ) -> Plan:
        """Return the plan of the run; raises what `prepare` raises."""
        return prepare(
            self.holdings,
            self.prices,
            self.documents,
            self.params,
            previous=self.previous,
            benchmark=self.benchmark,
            taxonomy=self.taxonomy,
            examples=self.examples,
            families=self.families,
            factors=self.factors,
            on_read=on_read,
            map_selections=map_selections,
        )


def encode_inputs(inputs: RunInputs) -> tuple[dict[str, Any], list[Entry | DeferredEntry]]:
    """
    Return a record of the inputs, JSON-able, and the objects that it names by hash.

    The record alone has the parameters, the tickers, the taxonomy and the worked examples. The
    bytes of documents are made when they are written: their texts may take most of the memory.
    """
    objects: list[Entry | DeferredEntry] = []

    def keep(body: bytes) -> str:
        objects.append(Entry.of(body))
        return objects[-1].hash.hex()

    def keep_document(one: Document) -> str:
        objects.append(DeferredEntry.of(lambda: encode_json(_encode_document(one))))
        return objects[-1].hash.hex()

    def keep_documents(documents: Sequence[Document] | None) -> str | None:
        if documents is None:
            return None
        own = _select_own(documents, inputs.holdings)
        return keep(encode_json(list(map(keep_document, own))))

    def keep_prices(prices: Prices | None, used: Iterable[str]) -> dict[str, str] | None:
        if prices is None:
            return None
        columns = sorted(set(used))
        return {
            "object": keep(_encode_prices(prices, columns)),
            "hash": hash_prices(prices, columns),
        }

    def keep_whole(prices: Prices | None) -> dict[str, str] | None:
        return keep_prices(prices, map(str, prices.close.columns) if prices else ())

    own = inputs.prices
    record = {
        "holdings": [[one.symbol, one.weight, list(one.flags)] for one in inputs.holdings],
        "params": inputs.params.as_dict(),
        "taxonomy": _encode_taxonomy(inputs.taxonomy),
        "taxonomy_hash": inputs.taxonomy.hash,
        "examples": [[one.text, one.risk, one.severity] for one in inputs.examples],
        "families": None if inputs.families is None else _encode_families(inputs.families),
        "prices": keep_prices(own, _list_columns(own, inputs)),
        "benchmark": keep_whole(inputs.benchmark),
        "factors": None if inputs.factors is None else list(map(keep_whole, inputs.factors)),
        "documents": keep_documents(inputs.documents),
        "previous": keep_documents(inputs.previous),
        "overrides": list(map(encode_override, inputs.overrides)),
    }
    return record, objects


def list_objects(record: Mapping[str, Any]) -> list[str]:
    """Return the hashes of the objects that a record names: prices, and the lists of documents."""
    priced = [record[name] for name in ("prices", "benchmark") if record[name] is not None]
    priced += record["factors"] or []
    listed = [record[name] for name in ("documents", "previous") if record[name] is not None]
    return [*(one["object"] for one in priced), *listed]


def decode_inputs(record: Mapping[str, Any], objects: Objects) -> RunInputs:
    """Return the inputs again; KeyError where an object is not among `objects`."""

    def read_documents(name: str) -> tuple[Document, ...] | None:
        if (listed := record[name]) is None:
            return None
        hashes = decode_json(objects[listed])
        return tuple(_decode_document(decode_json(objects[one])) for one in hashes)

    def read_prices(name: str) -> Prices | None:
        return None if (one := record[name]) is None else _decode_prices(objects[one["object"]])

    families, factors = record["families"], record["factors"]
    return RunInputs(
        holdings=tuple(
            Holding(symbol=symbol, weight=weight, flags=tuple(flags))
            for symbol, weight, flags in record["holdings"]
        ),
        prices=read_prices("prices"),
        documents=read_documents("documents"),
        params=RiskParams.of(**record["params"]),
        taxonomy=_decode_taxonomy(record["taxonomy"]),
        examples=tuple(
            Example(text=text, risk=risk, severity=severity)
            for text, risk, severity in record["examples"]
        ),
        previous=read_documents("previous"),
        benchmark=read_prices("benchmark"),
        families=None if families is None else _decode_families(families),
        factors=None
        if factors is None
        else tuple(_decode_prices(objects[one["object"]]) for one in factors),
        # Runs of version 0.1.0 and before have none
        overrides=tuple(map(decode_override, record.get("overrides", ()))),
    )


# Documents ----------------------------------------------------------------------------------------


def _select_own(documents: Sequence[Document], holdings: Sequence[Holding]) -> list[Document]:
    """Return the documents that some holding of the run may read, in their order."""
    companies = {fold_share_class(one.symbol) for one in holdings}
    return [
        one for one in documents if one.ticker is None or fold_share_class(one.ticker) in companies
    ]


def _encode_document(one: Document) -> dict[str, Any]:
    return {
        "id": one.id,
        "ticker": one.ticker,
        "text": one.text,
        "date": _encode_day(one.date),
        "period_end": _encode_day(one.period_end),
        "source": one.source,
        "kind": one.kind,
        "form": one.form,
        "sections": [[part.name, part.title, part.start] for part in one.sections],
        "origins": [list(pair) for pair in one.origins],
    }


def _decode_document(content: Mapping[str, Any]) -> Document:
    sections = tuple(
        Section(name=name, title=title, start=start) for name, title, start in content["sections"]
    )
    return Document(
        id=content["id"],
        ticker=content["ticker"],
        text=content["text"],
        date=_decode_day(content["date"]),
        period_end=_decode_day(content["period_end"]),
        source=content["source"],
        kind=content["kind"],
        form=content["form"],
        sections=sections,
        origins=tuple((here, there) for here, there in content["origins"]),
    )


def _encode_day(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def _decode_day(text: str | None) -> date | None:
    if text is None:
        return None
    return datetime.fromisoformat(text) if "T" in text else date.fromisoformat(text)


# Prices -------------------------------------------------------------------------------------------


def _list_columns(prices: Prices | None, inputs: RunInputs) -> list[str]:
    """Return the columns of the prices that holdings, benchmark and factors are read from."""
    names = [] if prices is None else list(map(str, prices.close.columns))
    column_of = build_resolver(names)
    beside = [inputs.params.benchmark, *(() if inputs.factors else inputs.params.factors or ())]
    wanted = [*(one.symbol for one in inputs.holdings), *filter(None, beside)]
    return [column for name in wanted if (column := column_of(name)[0]) is not None]


def hash_prices(prices: Prices, columns: Sequence[str] | None = None) -> str:
    """
    Return the sha256 of prices, as hex: sorted tickers, ISO dates, numbers as `float.hex` writes
    them, and volumes likewise. It depends on no library, and on no resolution of the dates.

    Parameters
    ----------
    columns
        Those that count; default: all.
    """
    digest = hashlib.sha256()
    days = [day.date().isoformat() for day in pd.DatetimeIndex(prices.close.index)]
    digest.update(" ".join(days).encode())
    for frame in (prices.close, prices.volume):
        if frame is None:
            continue
        names = sorted(map(str, frame.columns) if columns is None else columns)
        numbers = _take(frame, names)
        for start in range(0, len(names), COLUMNS_AT_ONCE):
            some = slice(start, start + COLUMNS_AT_ONCE)
            for name, text in zip(names[some], spell_columns(numbers[some]), strict=True):
                digest.update(f"\n{name}".encode("utf-8", "surrogatepass"))
                digest.update(text)
    return digest.hexdigest()


def _encode_prices(prices: Prices, used: Sequence[str]) -> bytes:
    """
    Return prices as bytes: a line of JSON, then the numbers, little-endian, column after column.

    The names of all columns are kept, since a message may suggest one, and the numbers of those
    that were used. The first bytes of all numbers stand together, then the second ones, and so on:
    these are alike, and compress to half.
    """
    index = pd.DatetimeIndex(prices.close.index)
    head = {
        "columns": list(map(str, prices.close.columns)),
        "used": list(used),
        "dates": [day.date().isoformat() for day in index],
        "unit": index.unit,
        "has_volume": prices.volume is not None,
        "is_returns": prices.is_returns,
        "flags": list(prices.flags),
        "faults": {
            name: [[day.isoformat(), str(seen)] for day, seen in prices.faults[name].items()]
            for name in used
            if name in prices.faults
        },
        "price_column": prices.price_column,
        "is_adjusted": prices.is_adjusted,
    }
    frames = [frame for frame in (prices.close, prices.volume) if frame is not None]
    numbers = np.concatenate([_take(frame, used) for frame in frames])
    planes = numbers.reshape(-1).astype("<f8").view(np.uint8).reshape(-1, 8).T
    return encode_json(head) + LINE_END + planes.tobytes()


def _take(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return these columns as rows, side by side in memory."""
    places = {str(name): place for place, name in enumerate(frame.columns)}
    values = frame.to_numpy(dtype=np.float64)
    return np.ascontiguousarray(values[:, [places[name] for name in names]].T)


def _decode_prices(body: bytes) -> Prices:
    text, _, planes = body.partition(LINE_END)
    head = decode_json(text)
    index = pd.DatetimeIndex(head["dates"], name="date").as_unit(head["unit"])
    numbers = np.frombuffer(planes, dtype=np.uint8).reshape(8, -1).T.copy().view("<f8").ravel()
    blocks = numbers.reshape(1 + head["has_volume"], len(head["used"]), len(index))
    frames = [_to_frame(block, head["used"], head["columns"], index) for block in blocks]
    return Prices(
        close=frames[0],
        volume=frames[1] if head["has_volume"] else None,
        flags=tuple(head["flags"]),
        is_returns=head["is_returns"],
        faults={
            name: {pd.Timestamp(day): seen for day, seen in faults}
            for name, faults in head["faults"].items()
        },
        price_column=head["price_column"],
        is_adjusted=head["is_adjusted"],
    )


def _to_frame(
    block: np.ndarray[Any, Any],
    used: Sequence[str],
    columns: Sequence[str],
    index: pd.DatetimeIndex,
) -> pd.DataFrame:
    values = np.full((len(index), len(columns)), np.nan)
    places = {name: place for place, name in enumerate(columns)}
    values[:, [places[name] for name in used]] = block.T
    return pd.DataFrame(values, index=index, columns=list(columns))


# Taxonomy and families ----------------------------------------------------------------------------


def _encode_taxonomy(taxonomy: Taxonomy) -> dict[str, Any]:
    categories = [[one.id, one.name, one.definition] for one in taxonomy.categories]
    return {"version": taxonomy.version, "categories": categories}


def _decode_taxonomy(content: Mapping[str, Any]) -> Taxonomy:
    return Taxonomy(
        version=content["version"],
        categories=tuple(
            Category(id=id_, name=name, definition=definition)
            for id_, name, definition in content["categories"]
        ),
    )


def _encode_families(families: Sequence[Family]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "category": one.category,
            "cap": one.cap,
            "floor": one.floor,
            "weight": one.weight,
            "is_decisive": one.is_decisive,
            "cues": [
                [cue.pattern.pattern, cue.pattern.flags, sorted(cue.literals), cue.is_core]
                for cue in one.cues
            ],
        }
        for one in families
    ]


def _decode_families(content: Sequence[Mapping[str, Any]]) -> tuple[Family, ...]:
    import re

    from urisk_nb.risk.families import Cue, Family

    return tuple(
        Family(
            **{name: value for name, value in one.items() if name != "cues"},
            cues=tuple(
                # `re.UNICODE` is a flag of every compiled text, and may be given again
                Cue(
                    pattern=re.compile(pattern, flags),
                    literals=frozenset(literals),
                    is_core=is_core,
                )
                for pattern, flags, literals, is_core in one["cues"]
            ),
        )
        for one in content
    )
