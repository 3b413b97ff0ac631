"""
What is known of a run before a model is asked: metrics computed, sentences split and chosen, everything that decides it recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from urisk_nb.risk.evidence import Passages, Sentence, choose, in_order, split
from urisk_nb.risk.inputs import Document, Holding, Prices, RiskParams, documents_for, scaled
from urisk_nb.risk.quant import QuantRow, as_of_date, quant_rows
from urisk_nb.risk.questions import EXAMPLES, SCHEMA_VERSION, SHORT, Example, Form, check_examples, examples_hash
from urisk_nb.risk.scoring import SCORE_VERSION
from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy

__all__ = ["Plan", "Reading", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    What there is to read for one ticker.

    Attributes
    ----------
    chosen
        The sentences that are asked, in the order of date, source and text of their documents.
    sentences, skipped
        How many sentences the documents have, and how many headings, table rows and lines without words were left out.
    flags
        ``truncated`` (more sentences than are asked), ``hidden_text``, ``injection_suspect``, and those of the documents' dates.
    """

    chosen: tuple[Sentence, ...]
    sentences: int
    skipped: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    Everything about a run that is known before a model is asked.

    Attributes
    ----------
    holdings, params, taxonomy, examples
        As given.
    form
        How the model is asked; decided when it is known who judges.
    quant
        One row of metrics a symbol; empty without prices.
    readings
        One a symbol; empty without evidence.
    has_prices, has_volume, has_benchmark, has_evidence, has_weights
        Which inputs were given: a column whose input was not given has no flag for its NaN.
    """

    holdings: tuple[Holding, ...]
    params: RiskParams
    taxonomy: Taxonomy
    examples: tuple[Example, ...]
    quant: Mapping[str, QuantRow]
    readings: Mapping[str, Reading]
    has_prices: bool
    has_volume: bool
    has_benchmark: bool
    has_evidence: bool
    has_weights: bool
    as_of: date | None
    form: Form = "examples"

    @property
    def symbols(self) -> tuple[str, ...]:
        """The index of the table, in the order given."""
        return tuple(holding.symbol for holding in self.holdings)

    @property
    def asked(self) -> tuple[str, ...]:
        """The symbols that have sentences to judge in this run."""
        return tuple(symbol for symbol in self.symbols if self.params.llm and symbol in self.readings and self.readings[symbol].chosen)

    @property
    def meta(self) -> dict[str, Any]:
        """What decides the run, JSON-able: parameters, versions, hashes, counts."""
        return {
            "params": self.params.as_dict(),
            "as_of": self.as_of.isoformat() if self.as_of else None,
            "score_version": SCORE_VERSION,
            "schema_version": SCHEMA_VERSION,
            "taxonomy_version": self.taxonomy.version,
            "taxonomy_hash": self.taxonomy.hash,
            "form": self.form,
            **({"system": SHORT} if self.form == "short" else {"examples_hash": examples_hash(self.examples)}),
            "categories": list(self.taxonomy.ids),
            "skipped": {symbol: reading.skipped for symbol, reading in self.readings.items() if reading.skipped},
            "messages": {symbol: row.message for symbol, row in self.quant.items() if row.message},
        }


def prepare(
    holdings: Sequence[Holding],
    prices: Prices | None,
    documents: Sequence[Document] | None,
    params: RiskParams,
    *,
    benchmark: pd.Series[float] | None = None,
    taxonomy: Taxonomy = DEFAULT,
    examples: Sequence[Example] = EXAMPLES,
) -> Plan:
    """
    The plan of a run: metrics computed, sentences split and chosen; nothing is asked.

    Parameters
    ----------
    holdings
        What becomes the rows, in order.
    prices, documents
        None where not given; no documents at all (an empty sequence) is evidence that was given and has nothing.
    benchmark
        Returns or prices of a benchmark that is no column, with ``params.benchmark == "given"``.

    Raises
    ------
    InputError
        Whatever of the whole run cannot be used; the fault of one ticker is its row's status.
    """
    check_examples(examples, taxonomy)
    plan_holdings = scaled(holdings) if params.normalise else tuple(holdings)
    as_of = params.as_of if prices is None else as_of_date(prices, params).date()
    return Plan(
        holdings=plan_holdings,
        params=params,
        taxonomy=taxonomy,
        examples=tuple(examples),
        quant={} if prices is None else quant_rows(prices, holdings, params, benchmark),
        readings={}
        if documents is None
        else _readings(plan_holdings, documents, params, taxonomy=taxonomy, examples=examples, as_of=as_of),
        has_prices=prices is not None,
        has_volume=prices is not None and prices.volume is not None,
        has_benchmark=params.benchmark is not None or benchmark is not None,
        has_evidence=documents is not None,
        has_weights=any(holding.weight is not None for holding in holdings),
        as_of=as_of,
    )


def _readings(
    holdings: Sequence[Holding],
    documents: Sequence[Document],
    params: RiskParams,
    *,
    taxonomy: Taxonomy,
    examples: Sequence[Example],
    as_of: date | None,
) -> dict[str, Reading]:
    passages: dict[Document, Passages] = {}  # a shared document is split once, not once a ticker
    readings = {}
    for holding in holdings:
        own, flags = documents_for(documents, holding, params, as_of=as_of)
        for document in own:
            if document not in passages:
                passages[document] = split(document)
        sentences = [sentence for document in in_order(own) for sentence in passages[document].sentences]
        chosen = choose(sentences, params.query, taxonomy, params.max_sentences, words=[example.text for example in examples])
        readings[holding.symbol] = _reading([passages[document] for document in own], chosen, flags)
    return readings


def _reading(passages: Sequence[Passages], chosen: tuple[Sentence, ...], flags: Sequence[str]) -> Reading:
    count = sum(len(one.sentences) for one in passages)
    found = {flag for one in passages for flag in one.flags}
    truncated = {"truncated"} if len(chosen) < count else set()
    return Reading(
        chosen=chosen, sentences=count, skipped=sum(one.skipped for one in passages), flags=tuple(sorted({*flags, *found, *truncated}))
    )
