"""What is known of a run before a model is asked.

The metrics are computed, the sentences split and chosen, and all that decides the run is recorded.
Over 400 lines: the plan is one record, and each input has a part in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import InputError
from urisk_nb.risk.evidence import Sentence, SplitDocument, sort_documents, split
from urisk_nb.risk.inputs import Document, Holding, Prices, normalize_weights, select_documents
from urisk_nb.risk.params import JUDGE_REVIEW_BELOW, RiskParams
from urisk_nb.risk.portfolio import PortfolioResult, measure_portfolio
from urisk_nb.risk.positions import list_closes
from urisk_nb.risk.quant import Measured, QuantRow, find_as_of_date, measure_holdings
from urisk_nb.risk.questions import (
    EXAMPLES,
    SCHEMA_VERSION,
    Example,
    Form,
    check_examples,
    examples_hash,
)
from urisk_nb.risk.relevance import check_query, choose, filter_by_query
from urisk_nb.risk.scoring import SCORE_V1, SCORE_V2
from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy
from urisk_nb.risk.tickers import fold_share_class

if TYPE_CHECKING:
    import pandas as pd

    from urisk_nb.risk.changes import Changes
    from urisk_nb.risk.choice import Choice
    from urisk_nb.risk.factors import FactorResult
    from urisk_nb.risk.families import Family
    from urisk_nb.risk.passages import Passage
    from urisk_nb.risk.stress import EpisodeLoss

__all__ = ["EvidenceSelection", "OnRead", "Plan", "prepare"]

OnRead = Callable[[str, int, int], object]
"""Called with a ticker, its number from 1, and how many there are."""
MAX_LATER = 3  # documents after the date of the run that are named; more are counted
MAX_SHORT = 60  # sentences that are asked whole, whatever they are of


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSelection:
    """
    What there is to read for one ticker.

    Attributes
    ----------
    chosen
        The sentences that are asked, in the order of date, source and text of their documents.
    sentences, skipped
        How many sentences the documents have, and how many headings, table rows and lines without
        words were left out.
    flags
        ``truncated`` (a higher max_sentences may ask more), ``off_query`` (none of them bears on
        the query), ``shared_evidence`` (a sentence that is asked counts for every company),
        ``hidden_text``, ``injection_suspect``, and those of the documents' dates.
    later
        What the run's date left out, in words; empty where it is nothing.
    left_out
        How many sentences do not bear on the query and are not asked for that.
    changes
        The sentences against those of the previous documents; None where there are none.
    alerts
        The decisive events of the company itself, by family.
    not_asked
        Of much evidence, how many sentences of each kind and part are not asked; else empty.
    passages
        What the words of each chosen sentence say; empty where no model is asked.
    score_version
        ``score_v2`` where a sentence of a filing is chosen, else ``score_v1``.
    """

    chosen: tuple[Sentence, ...]
    sentences: int
    skipped: int
    flags: tuple[str, ...]
    later: str = ""
    left_out: int = 0
    changes: Changes | None = None
    alerts: tuple[Passage, ...] = ()
    not_asked: Mapping[str, Any] = field(default_factory=dict)
    passages: tuple[Passage, ...] = ()
    score_version: str = SCORE_V1

    @property
    def message(self) -> str | None:
        """What was left out, compared and not asked, for the reader; None for none of it."""
        compared = self.changes.note if self.changes else None
        said = (self.later, compared, self._describe_query(), self._describe_reading())
        return "; ".join(filter(None, said)) or None

    def _describe_reading(self) -> str:
        if not self.not_asked:
            return ""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.not_asked["kinds"].items())
        read, chosen = self.not_asked["read"], self.not_asked["asked"]
        return f"{read:,} sentences read, {chosen} chosen; not chosen: {kinds}"

    def _describe_query(self) -> str:
        if not self.left_out:
            return ""
        if self.left_out == self.sentences:
            return f"no sentence bears on the query ({self.sentences} read)"
        return f"the query left out {self.left_out} of {self.sentences} sentences"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    Everything about a run that is known before a model is asked.

    Attributes
    ----------
    holdings, params, taxonomy, examples
        As given.
    form
        How the model is asked; decided when it is known who labels.
    quant
        One row of metrics a symbol; empty without prices.
    selections
        One a symbol; empty without evidence.
    has_prices, has_volume, has_benchmark, has_evidence, has_weights, has_previous
        Which inputs were given: a column whose input was not given has no flag for its NaN.
        `has_previous` is also True where a folder has the reports of several years.
    families_hash
        Of the families of distress that the evidence was read for, where the user gave some.
    price_column, is_adjusted
        Which of several columns of prices was read, and whether it is adjusted for splits and
        dividends; None where nothing says so.
    portfolio
        The figures of the weighted tickers together; None where no ticker has a weight.
    stress, factors
        The losses of the episodes, and the factor betas; None where they were not asked for.
    closes
        The prices of the period, date x symbol; of returns the wealth that they make. None without
        prices.
    """

    holdings: tuple[Holding, ...]
    params: RiskParams
    taxonomy: Taxonomy
    examples: tuple[Example, ...]
    quant: Mapping[str, QuantRow]
    selections: Mapping[str, EvidenceSelection]
    has_prices: bool
    has_volume: bool
    has_benchmark: bool
    has_evidence: bool
    has_weights: bool
    as_of: date | None
    price_column: str | None = None
    is_adjusted: bool | None = None
    form: Form = "examples"
    is_judge: bool = False
    has_previous: bool = False
    families_hash: str | None = None
    portfolio: PortfolioResult | None = None
    stress: tuple[EpisodeLoss, ...] | None = None
    factors: FactorResult | None = None
    closes: pd.DataFrame | None = field(default=None, compare=False, repr=False)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The index of the table, in the order given."""
        return tuple(holding.symbol for holding in self.holdings)

    @property
    def asked(self) -> tuple[str, ...]:
        """The symbols that have sentences to label in this run."""
        return tuple(
            symbol
            for symbol in self.symbols
            if self.params.llm and symbol in self.selections and self.selections[symbol].chosen
        )

    @property
    def review_below(self) -> float | None:
        """The probability below which a label does not count; None: each counts."""
        given = self.params.review_below
        return JUDGE_REVIEW_BELOW if given is None and self.is_judge else given

    @property
    def score_versions(self) -> dict[str, str]:
        """By which rules each symbol that has sentences to label is scored."""
        return {symbol: self.selections[symbol].score_version for symbol in self.asked}

    @property
    def meta(self) -> dict[str, Any]:
        """What decides the run, JSON-able: parameters, versions, hashes, counts."""
        return {
            "params": self.params.as_dict(),
            "as_of": self.as_of.isoformat() if self.as_of else None,
            "price_column": self.price_column,
            "adjusted": self.is_adjusted,
            "score_version": ", ".join(sorted(set(self.score_versions.values()))) or SCORE_V1,
            "score_versions": self.score_versions,
            "review_below": self.review_below,
            "schema_version": SCHEMA_VERSION,
            "taxonomy_version": self.taxonomy.version,
            "taxonomy_hash": self.taxonomy.hash,
            "form": self.form,
            **({"examples_hash": examples_hash(self.examples)} if self.form == "examples" else {}),
            "categories": list(self.taxonomy.ids),
            "has_labels": self.has_evidence and self.params.llm,
            "skipped": {
                symbol: selection.skipped
                for symbol, selection in self.selections.items()
                if selection.skipped
            },
            "query_left_out": {
                symbol: selection.left_out
                for symbol, selection in self.selections.items()
                if selection.left_out
            },
            **({"changes": self._count_changes()} if self.has_previous else {}),
            "families_hash": self.families_hash,
            "not_asked": {
                symbol: dict(selection.not_asked)
                for symbol, selection in self.selections.items()
                if selection.not_asked
            },
            "alerts": [
                _record_alert(symbol, passage)
                for symbol, selection in self.selections.items()
                for passage in selection.alerts
            ],
            "messages": {
                symbol: text for symbol in self.symbols if (text := self._message(symbol))
            },
        }

    def _count_changes(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return symbol -> section -> kind -> how many sentences."""
        return {
            symbol: selection.changes.count_by_section()
            for symbol, selection in self.selections.items()
            if selection.changes
        }

    def _message(self, symbol: str) -> str:
        """What the run has to say of one ticker: which price is bad, what the query left out."""
        sources = (self.quant.get(symbol), self.selections.get(symbol))
        texts = [source.message for source in sources if source is not None and source.message]
        return "; ".join([*(text.rstrip(".") for text in texts[:-1]), *texts[-1:]])


def prepare(
    holdings: Sequence[Holding],
    prices: Prices | None,
    documents: Sequence[Document] | None,
    params: RiskParams,
    *,
    previous: Sequence[Document] | None = None,
    benchmark: Prices | None = None,
    taxonomy: Taxonomy = DEFAULT,
    examples: Sequence[Example] = EXAMPLES,
    families: Sequence[Family] | None = None,
    factors: Sequence[Prices] | None = None,
    on_read: OnRead | None = None,
) -> Plan:
    """
    Return the plan of a run: metrics computed, sentences split and chosen; nothing is asked.

    Parameters
    ----------
    holdings
        What becomes the rows, in order.
    prices, documents
        None where not given; no documents at all (an empty sequence) is evidence that was given and
        has nothing.
    previous
        The documents of the year before. None: of several reports of one form and ticker among
        `documents` the newest is read, and the one before it is its previous.
    benchmark
        Returns or prices of a benchmark that is no column, with ``params.benchmark == "given"``.
    families
        What much evidence is searched for; default: the families of the package.
    factors
        Factors that are no columns of the prices, one column each, named by ``params.factors``.
    on_read
        Called before the evidence of each ticker is read: a long filing takes about a second.

    Raises
    ------
    InputError
        Whatever of the whole run cannot be used; the fault of one ticker is its row's status.
    """
    check_examples(examples, taxonomy)
    if params.query is not None and documents is not None:
        check_query(params.query)
    plan_holdings = normalize_weights(holdings) if params.normalise else tuple(holdings)
    as_of = params.as_of if prices is None else find_as_of_date(prices, params).date()
    measured = None if prices is None else measure_holdings(prices, holdings, params, benchmark)
    has_weights = any(holding.weight is not None for holding in holdings)
    # Before the evidence is read: a wrong date of an episode should not wait for that
    stress = _measure_stress(prices, measured, plan_holdings, params)
    fits = _measure_factors(measured, plan_holdings, params, factors)
    selections = (
        {}
        if documents is None
        else _select_evidence(
            plan_holdings,
            documents,
            params,
            previous=previous,
            taxonomy=taxonomy,
            examples=examples,
            as_of=as_of,
            families=families,
            on_read=on_read,
        )
    )
    return Plan(
        holdings=plan_holdings,
        params=params,
        taxonomy=taxonomy,
        examples=tuple(examples),
        quant={} if measured is None else measured.rows,
        selections=selections,
        has_prices=prices is not None,
        has_volume=prices is not None and prices.volume is not None,
        has_benchmark=params.benchmark is not None or benchmark is not None,
        has_evidence=documents is not None,
        has_weights=has_weights,
        as_of=as_of,
        price_column=None if prices is None else prices.price_column,
        is_adjusted=None if prices is None else prices.is_adjusted,
        has_previous=previous is not None or any(one.changes for one in selections.values()),
        families_hash=_hash(families),
        portfolio=measure_portfolio(plan_holdings, measured, params) if has_weights else None,
        stress=stress,
        factors=fits,
        closes=None if measured is None else list_closes(measured),
    )


def _measure_stress(
    prices: Prices | None,
    measured: Measured | None,
    holdings: Sequence[Holding],
    params: RiskParams,
) -> tuple[EpisodeLoss, ...] | None:
    if params.stress is None:
        return None
    if prices is None or measured is None:
        raise InputError(
            "stress was given without prices.", fix="give prices=..., or leave stress out"
        )
    from urisk_nb.risk.stress import measure_stress

    column_of = {symbol: row.column for symbol, row in measured.rows.items()}
    return measure_stress(prices, holdings, column_of, params)


def _measure_factors(
    measured: Measured | None,
    holdings: Sequence[Holding],
    params: RiskParams,
    given: Sequence[Prices] | None,
) -> FactorResult | None:
    if params.factors is None:
        return None
    if measured is None:
        raise InputError(
            "factors were given without prices.", fix="give prices=..., or leave factors out"
        )
    from urisk_nb.risk.factors import measure_factors

    return measure_factors(measured, holdings, params, given)


def _hash(families: Sequence[Family] | None) -> str | None:
    if families is None:
        return None
    from urisk_nb.risk.families import hash_families

    return hash_families(families)


def _record_alert(symbol: str, passage: Passage) -> dict[str, Any]:
    """Return an alert as values that JSON knows."""
    sentence = passage.sentence
    day = sentence.document.date
    return {
        "ticker": symbol,
        "family": passage.family.name if passage.family else None,
        "category": passage.family.category if passage.family else None,
        "quote": sentence.quote,
        "source": sentence.document.source,
        "section": sentence.section,
        "date": day.isoformat() if day else None,
        "evidence": sentence.id,
        "start": sentence.start,
        "end": sentence.end,
    }


def _select_evidence(
    holdings: Sequence[Holding],
    documents: Sequence[Document],
    params: RiskParams,
    *,
    previous: Sequence[Document] | None,
    taxonomy: Taxonomy,
    examples: Sequence[Example],
    as_of: date | None,
    families: Sequence[Family] | None,
    on_read: OnRead | None,
) -> dict[str, EvidenceSelection]:
    split_once = functools.cache(split)  # a shared document is split once, not once a ticker
    selections = {}
    places = _index_by_company(documents)
    old_places = _index_by_company(previous or ())
    for number, holding in enumerate(holdings, 1):
        if on_read is not None:
            on_read(holding.symbol, number, len(holdings))
        known = _find_own(documents, places, holding)
        own, flags = select_documents(known, holding, params, as_of=as_of)
        read, old, note = _split_years(
            own,
            None
            if previous is None
            else select_documents(
                _find_own(previous, old_places, holding), holding, params, as_of=as_of
            )[0],
        )
        pieces = [split_once(document) for document in sort_documents(read)]
        sentences = [sentence for piece in pieces for sentence in piece.sentences]
        changes = _compare(sentences, old, note, split_once)
        bearing = filter_by_query(sentences, params.query) if params.query else sentences
        is_fresh = changes.is_fresh if changes else None
        choice = _choose(
            sentences,
            bearing,
            params,
            families,
            functools.partial(
                _choose_by_words,
                params=params,
                taxonomy=taxonomy,
                words=[example.text for example in examples],
                is_fresh=is_fresh,
            ),
            is_fresh=is_fresh,
        )
        holds = {
            "off_query": bool(sentences) and not bearing,
            "shared_evidence": any(one.document.ticker is None for one in choice.chosen),
            "truncated": choice.is_cut and params.llm,
        }
        found = chain(
            flags,
            chain.from_iterable(piece.flags for piece in pieces),
            (flag for flag, is_so in holds.items() if is_so),
        )
        selections[holding.symbol] = EvidenceSelection(
            chosen=tuple(_flag_shared(sentence) for sentence in choice.chosen),
            sentences=len(sentences),
            skipped=sum(piece.skipped for piece in pieces),
            flags=tuple(sorted(set(found))),
            later=_describe_later(known, params.as_of or as_of),
            left_out=len(sentences) - len(bearing),
            changes=changes,
            alerts=choice.alerts,
            not_asked=choice.not_asked,
            passages=choice.passages,
            score_version=SCORE_V2 if choice.has_filing else SCORE_V1,
        )
    return selections


def _describe_later(documents: Sequence[Document], as_of: date | None) -> str:
    """Say which documents are after the date of the run: a whole annual report may be."""
    later = sorted(
        (one.date, one.source or one.id)
        for one in documents
        if one.date is not None and as_of is not None and one.date > as_of
    )
    if not later:
        return ""
    shown = ", ".join(f"{name} ({day})" for day, name in later[:MAX_LATER])
    more = f" and {len(later) - MAX_LATER} more" if len(later) > MAX_LATER else ""
    return f"after {as_of}, so not read: {shown}{more}"


def _split_years(
    documents: Sequence[Document], previous: Sequence[Document] | None
) -> tuple[Sequence[Document], Sequence[Document], str]:
    """Return the documents to read, those that they are compared with, and a note on both."""
    texts = sum(one.kind == "text" and one.ticker is not None for one in documents)
    if previous is None and texts < 2:
        return documents, (), ""
    # Late: most runs compare nothing
    from urisk_nb.risk.changes import select_previous

    return select_previous(documents, previous)


def _compare(
    sentences: Sequence[Sentence],
    previous: Sequence[Document],
    note: str,
    split_once: Callable[[Document], SplitDocument],
) -> Changes | None:
    if not previous:
        return None
    from urisk_nb.risk.changes import compare

    old = [one for document in sort_documents(previous) for one in split_once(document).sentences]
    changes = compare(sentences, old, note)
    return changes if changes.current else None


def _choose(
    sentences: Sequence[Sentence],
    bearing: Sequence[Sentence],
    params: RiskParams,
    families: Sequence[Family] | None,
    choose_rest: Callable[[Sequence[Sentence], int], Sequence[Sentence]],
    *,
    is_fresh: Callable[[Sentence], bool] | None,
) -> Choice:
    """Return the sentences that are asked, what they say, and what is counted of the others."""
    # Late: only evidence needs them
    from urisk_nb.risk.choice import Choice, select_sentences
    from urisk_nb.risk.families import has_core_words, load_families

    families = families or load_families()
    is_short = len(bearing) <= params.max_sentences and len(sentences) <= MAX_SHORT
    # Read in full only where the label of a model is weighed by it, or an alert may be in it
    if is_short and not params.llm and not has_core_words((x.text for x in sentences), families):
        return Choice(chosen=tuple(bearing))
    return select_sentences(
        sentences,
        bearing,
        params.max_sentences,
        families,
        choose_rest,
        is_fresh=is_fresh,
    )


def _choose_by_words(
    sentences: Sequence[Sentence],
    limit: int,
    *,
    params: RiskParams,
    taxonomy: Taxonomy,
    words: Sequence[str],
    is_fresh: Callable[[Sentence], bool] | None,
) -> Sequence[Sentence]:
    """Choose by the words of the categories, the new and changed sentences first."""
    if is_fresh is None:
        return choose(sentences, params.query, taxonomy, limit, words=words)
    fresh = [one for one in sentences if is_fresh(one)]
    first = choose(fresh, params.query, taxonomy, limit, words=words)
    others = [one for one in sentences if not is_fresh(one)]
    room = limit - len(first)
    return [*first, *(choose(others, params.query, taxonomy, room, words=words) if room else ())]


def _find_own(
    documents: Sequence[Document], places: Mapping[str | None, list[int]], holding: Holding
) -> list[Document]:
    """Return a company's documents and the shared ones, in their order."""
    own = places.get(fold_share_class(holding.symbol), ())
    return [documents[place] for place in sorted((*own, *places.get(None, ())))]


def _index_by_company(documents: Sequence[Document]) -> dict[str | None, list[int]]:
    """
    Return where the documents of each company stand, and under None the shared ones.

    Comparing each document with each ticker would take seconds for some hundred companies.
    """
    places: dict[str | None, list[int]] = {}
    for place, document in enumerate(documents):
        company = None if document.ticker is None else fold_share_class(document.ticker)
        places.setdefault(company, []).append(place)
    return places


def _flag_shared(sentence: Sentence) -> Sentence:
    """Mark a sentence that counts for every company, so that its finding says so."""
    if sentence.document.ticker is not None:
        return sentence
    return replace(sentence, flags=tuple(sorted({*sentence.flags, "shared_evidence"})))
