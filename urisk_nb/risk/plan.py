"""What is known of a run before a model is asked.

The metrics are computed, the sentences split and chosen, and all that decides the run is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import InputError
from urisk_nb.risk.inputs import Document, Holding, Prices, normalize_weights
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
from urisk_nb.risk.relevance import check_query
from urisk_nb.risk.scoring import SCORE_V1
from urisk_nb.risk.selection import (
    EvidenceSelection,
    SelectionMapper,
    SelectionTask,
    list_tasks,
    select_in_turn,
)
from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy

if TYPE_CHECKING:
    import pandas as pd

    from urisk_nb.risk.factors import FactorResult
    from urisk_nb.risk.families import Family
    from urisk_nb.risk.passages import Passage
    from urisk_nb.risk.stress import EpisodeLoss

__all__ = ["OnRead", "Plan", "prepare"]

OnRead = Callable[[str, int, int], object]
"""Called with a ticker, its number from 1, and how many there are."""


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
            symbol: {name: dict(one) for name, one in selection.changes.sections.items()}
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
    map_selections: SelectionMapper = select_in_turn,
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
    map_selections
        Who reads the evidence; default: this process, one ticker after the other.

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
    selections: dict[str, EvidenceSelection] = {}
    if documents is not None:
        tasks = list_tasks(
            plan_holdings,
            documents,
            params,
            previous=previous,
            taxonomy=taxonomy,
            examples=examples,
            as_of=as_of,
            families=families,
        )
        made = map_selections(_announce(tasks, len(plan_holdings), on_read))
        symbols = [holding.symbol for holding in plan_holdings]
        selections = dict(zip(symbols, made, strict=True))
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


def _announce(
    tasks: Iterator[SelectionTask], count: int, on_read: OnRead | None
) -> Iterator[SelectionTask]:
    """Yield the tasks, and say of each that it is read now."""
    for number, task in enumerate(tasks, 1):
        if on_read is not None:
            on_read(task.holding.symbol, number, count)
        yield task


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
