"""
The rows of a run: the frame that a table shows, and the findings behind it, made of a plan and of
what the model said.

Pure: a plan and findings in, frames out. `urisk_nb.table` puts the two together and shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd

from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.judges import mean_agreement
from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.portfolio import COMPONENT_COLUMNS
from urisk_nb.risk.quant import quant_columns
from urisk_nb.risk.ratings import CountedSentence, TickerRatings
from urisk_nb.risk.scoring import Level
from urisk_nb.risk.taxonomy import NONE

if TYPE_CHECKING:
    from urisk_nb.risk.changes import Change, Changes

__all__ = [
    "MIN_JUDGED",
    "STATUSES",
    "build_changes",
    "build_findings",
    "build_frame",
    "build_judgements",
    "build_ratings",
]

# Ascending: a row has the worst that applies. What the user can repair stands above what the model
# did, the prices above all: without them a row has no figures. The flags name every reason, also
# those that the status hides.
STATUSES = ("ok", "partial", "no_evidence", "not_run", "model_error", "bad_data", "no_data")
MIN_JUDGED = 5  # labeled sentences; fewer are flagged thin_evidence

_TEXT = pd.Series(["a"]).dtype  # str since pandas 3, object before
_LEVEL = pd.CategoricalDtype([level.value for level in Level], ordered=True)
_TEXTS = (
    *("status", "flags", "run_id", "alerts", "period", "model"),
    *("score_version", "top_risk", "top_quote", "top_rule"),
    *("ticker", "risk", "quote", "source", "section", "evidence", "reason"),
    *("change", "old_quote", "kind", "family", "counted_as", "rule", "category"),
    *("model_risk", "override_by", "override_why"),
)
_COUNTS = (
    *("n_obs", "n_missing", "stale_days", "n_joint", "new", "changed", "gone"),
    *("sentences", "judged", "findings", "to_review", "tokens", "attempts", "cached"),
    *("severity", "start", "end", "counted", "rating", "model_severity"),
)
_DATES = ("as_of", "first_obs", "last_obs", "max_dd_peak", "max_dd_trough", "date", "override_at")


def build_frame(
    plan: Plan,
    ticker_findings: Mapping[str, TickerFindings],
    ratings: Mapping[str, TickerRatings],
    *,
    run_id: str,
    model: str | None = None,
    flags: Sequence[str] = (),
) -> pd.DataFrame:
    """
    Build the rows of a run.

    Parameters
    ----------
    ticker_findings
        By symbol. A symbol that has sentences to label and no findings here has the status
        ``not_run``.
    ratings
        By symbol, of each that has findings.
    run_id, model
        Who made the labels, and in which run.
    flags
        Put on each row that was labeled, such as ``demo_model``.

    Returns
    -------
    DataFrame
        One row a holding, in the order given, index ``ticker``. Without evidence the model's
        columns are NA and say nothing.
    """
    asked = frozenset(plan.asked)
    rows = [
        _row(
            plan,
            holding,
            ticker_findings.get(holding.symbol),
            ratings.get(holding.symbol),
            is_asked=holding.symbol in asked,
            run_id=run_id,
            model=model,
            flags=flags,
        )
        for holding in plan.holdings
    ]
    index = pd.Index(plan.symbols, name="ticker", dtype=_TEXT)
    columns = {name: _series(name, [row.get(name) for row in rows], index) for name in _names(plan)}
    return pd.DataFrame(columns, index=index)


def build_findings(
    ticker_findings: Iterable[TickerFindings],
    ratings: Mapping[str, TickerRatings] = MappingProxyType({}),
    changes: Mapping[str, Changes | None] = MappingProxyType({}),
) -> pd.DataFrame:
    """
    Build the findings behind the rows: one row a sentence, in the order given.

    Parameters
    ----------
    ratings
        By symbol, of each that has findings: what its sentences count for.
    changes
        By symbol: what became of its sentences since the previous documents.
    """
    found = [
        (one.symbol, finding, counted)
        for one in ticker_findings
        if one.findings
        for finding, counted in zip(one.findings, ratings[one.symbol].counted, strict=True)
    ]
    columns = {
        name: _series(name, [cell(symbol, finding) for symbol, finding, _ in found])
        for name, cell in _FINDING.items()
    }
    columns |= {
        name: _series(name, [cell(counted) for _, _, counted in found])
        for name, cell in _COUNTED.items()
    }
    flags = [
        ";".join(sorted({*finding.flags, *(("review",) if counted.is_review else ())}))
        for _, finding, counted in found
    ]
    columns["flags"] = _series("flags", flags)
    since = [
        known.current.get(finding.sentence.id) if (known := changes.get(symbol)) else None
        for symbol, finding, _ in found
    ]
    columns["change"] = _series("change", [one.kind if one else None for one in since])
    columns["old_quote"] = _series(
        "old_quote", [one.old.quote if one and one.old else None for one in since]
    )
    columns |= {
        name: _series(name, [cell(finding) for _, finding, _ in found])
        for name, cell in _OVERRIDE.items()
    }
    return pd.DataFrame(columns).astype({"cached": "bool"})  # a count in the rows


def build_ratings(
    ticker_findings: Iterable[TickerFindings],
    ratings: Mapping[str, TickerRatings] = MappingProxyType({}),
) -> pd.DataFrame:
    """
    Build the rating of each category, by symbol, in the order of the taxonomy.

    Columns: ticker, category, rating (0 to 5), evidence (the ids of the sentences that give it, the
    worst first, between semicolons), rule (what capped, raised or lowered it; missing: nothing).
    """
    rows = [
        (one, rating)
        for one in ticker_findings
        if one.findings
        for rating in ratings[one.symbol].ratings
    ]
    columns: dict[str, list[Any]] = {
        "ticker": [one.symbol for one, _ in rows],
        "category": [rating.category for _, rating in rows],
        "rating": [rating.severity for _, rating in rows],
        "evidence": [
            ";".join(one.findings[place].sentence.id for place in rating.findings)
            for one, rating in rows
        ],
        "rule": [_join_rules(rating.rules) for _, rating in rows],
    }
    return pd.DataFrame({name: _series(name, values) for name, values in columns.items()})


def build_changes(changes: Mapping[str, Changes | None]) -> pd.DataFrame:
    """
    Build the new, changed and gone sentences: one row each, in this order, by symbol.

    Columns: ticker, change, section, quote, old_quote (the former wording of a changed sentence; of
    a gone one it is the only wording).
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("ticker", "change", "section", "quote", "old_quote")
    }
    for symbol, known in changes.items():
        # One company at a time: the changes of thousands, unpacked, take gigabytes. And column by
        # column, since a text is unpacked again where another one was read meanwhile
        shown = list(known.list_shown()) if known else []
        columns["ticker"] += [symbol] * len(shown)
        columns["change"] += [one.kind for one in shown]
        columns["section"] += [one.sentence.section for one in shown]
        columns["quote"] += [None if one.kind == "gone" else one.sentence.quote for one in shown]
        columns["old_quote"] += [_find_old_quote(one) for one in shown]
    return pd.DataFrame({name: _series(name, values) for name, values in columns.items()})


def _find_old_quote(change: Change) -> str | None:
    if change.kind == "gone":
        return change.sentence.quote
    return change.old.quote if change.old else None


def build_judgements(
    ticker_findings: Iterable[TickerFindings], *, model: str | None = None
) -> pd.DataFrame:
    """
    Build what each judge said of each sentence: one row each, the judges of a sentence in order.

    Columns: ticker, evidence (the sentence's id), judge, risk, severity, p_label, reason (why there
    is no label).

    Parameters
    ----------
    model
        Who made the labels that count.
    """
    said = [
        (one.symbol, judge, own)
        for one in ticker_findings
        for finding in one.findings
        for judge, own in ((model, finding), *finding.opinions)
    ]
    names = ("ticker", "evidence", "risk", "severity", "p_label", "reason")
    columns = {
        name: _series(name, [_FINDING[name](symbol, own) for symbol, _, own in said])
        for name in names
    }
    frame = pd.DataFrame(columns)
    frame.insert(2, "judge", _series("model", [judge for _, judge, _ in said]))
    return frame


def _names(plan: Plan) -> list[str]:
    """Return the columns in the order of the documented groups."""
    quant = (
        quant_columns(plan.params, has_volume=plan.has_volume, has_benchmark=plan.has_benchmark)
        if plan.has_prices
        else ()
    )
    return [
        *("status", "flags", "run_id"),
        *quant,
        *(["weight"] if plan.has_weights else []),
        *(COMPONENT_COLUMNS if plan.has_weights and plan.has_prices else ()),
        *(["alerts"] if plan.has_evidence else []),
        *(f"r_{category}" for category in plan.taxonomy.ids),
        *("score", "level", "score_version", "coverage", "top_risk", "top_quote", "top_rule"),
        *(["p_top"] if plan.params.labels == "calibrated" or plan.form == "decision" else []),
        *("sentences", "judged", "findings", "to_review"),
        *(["new", "changed", "gone", "share_repeated"] if plan.has_previous else []),
        "agreement",
        *("model", "latency_s", "tokens", "attempts", "cached"),
    ]


def _series(name: str, values: list[Any], index: pd.Index[Any] | None = None) -> pd.Series[Any]:
    if name in _TEXTS:
        # Half of a surrogate pair is in no encoding, so a frame cannot store it; the replacement
        # keeps the offsets.
        safe = [
            text if text is None or text.isascii() else re.sub(r"[\ud800-\udfff]", "\ufffd", text)
            for text in values
        ]
        return pd.Series(safe, index=index, dtype=_TEXT)
    if name == "level":
        return pd.Series(values, index=index, dtype=_LEVEL)
    if name in _DATES:
        return pd.Series(pd.to_datetime(values), index=index)
    if name.startswith("r_") or name in _COUNTS:
        return pd.Series(pd.array(values, dtype="Int64"), index=index)
    return pd.Series(values, index=index, dtype="float64")


def _row(
    plan: Plan,
    holding: Holding,
    labeled: TickerFindings | None,
    rated: TickerRatings | None,
    *,
    is_asked: bool,
    run_id: str,
    model: str | None,
    flags: Sequence[str],
) -> dict[str, Any]:
    symbol = holding.symbol
    values: dict[str, Any] = {"run_id": run_id, "level": Level.NR.value, "weight": holding.weight}
    statuses, found = ["ok"], set(holding.flags)
    if (quant := plan.quant.get(symbol)) is not None:
        values = quant.values | values  # the weight is the holding's own
        statuses.append(quant.status)
        found.update(quant.flags)
    if plan.portfolio is not None and plan.has_prices:
        values |= plan.portfolio.row_values(symbol)
        found.update(plan.portfolio.row_flags(symbol))
    if (selection := plan.selections.get(symbol)) is not None:
        values["sentences"] = selection.sentences
        names = (one.family.name for one in selection.alerts if one.family)
        values["alerts"] = ", ".join(dict.fromkeys(names))
        found.update(selection.flags)
    if plan.has_previous:
        changes = selection.changes if selection else None
        values |= _change_values(changes)
        found.update(() if changes else ("no_previous",))
        found.update(("uneven_previous",) if changes and changes.is_uneven else ())
    if plan.has_evidence and plan.params.llm:
        status, more = _label_values(labeled, rated, values, is_asked=is_asked)
        statuses.append(status)
        found.update(more)
    if labeled is not None and labeled.findings:
        values["model"] = model
        found.update(flags)
    values["status"], values["flags"] = max(statuses, key=STATUSES.index), ";".join(sorted(found))
    return values


def _change_values(changes: Changes | None) -> dict[str, Any]:
    """Return the counts against the previous documents; nothing where there are none."""
    if changes is None:
        return {}
    counts = {name: changes.counts[name] for name in ("new", "changed", "gone")}
    return counts | {"share_repeated": changes.share_repeated}


def _label_values(
    labeled: TickerFindings | None,
    rated: TickerRatings | None,
    values: dict[str, Any],
    *,
    is_asked: bool,
) -> tuple[str, set[str]]:
    """Fill in what the model said of one ticker; return its status and its flags."""
    if labeled is None or rated is None or not is_asked:
        values |= {"judged": 0, "findings": 0}
        reason = "not_run" if is_asked else "no_evidence"
        return reason, {reason}
    judged = [finding for finding in labeled.findings if finding.label]
    named = [finding for finding in judged if finding.label and finding.label.risk != NONE]
    values |= {
        "judged": len(judged),
        "findings": len(named),
        "to_review": rated.to_review,
        "tokens": labeled.tokens,
        "latency_s": labeled.seconds,
        "attempts": labeled.attempts,
        "cached": labeled.cached,
        "agreement": mean_agreement(labeled.findings),
    }
    holds = {
        "thin_evidence": 0 < len(judged) < MIN_JUDGED,
        "single_source": len({finding.sentence.document for finding in named}) == 1,
        "unjudged": len(judged) < len(labeled.findings),
    }
    flags = {*labeled.flags, *(flag for flag, is_so in holds.items() if is_so)}
    if not judged:
        return "model_error", flags
    values |= {
        **{f"r_{one.category}": one.severity for one in rated.ratings},
        "score": rated.score.score,
        "level": rated.score.level.value,
        "score_version": rated.version,
        "coverage": rated.score.coverage,
        "top_risk": rated.score.top_risk,
        **_top_values(labeled, rated),
    }
    return "partial" if "unjudged" in flags else "ok", flags | set(rated.flags)


def _top_values(labeled: TickerFindings, rated: TickerRatings) -> dict[str, Any]:
    """
    Return the worst sentence of the top risk, its probability, and the rules behind the rating.

    The newest sentence at equal severity, then the first in document order.
    """

    def rank(place: int) -> tuple[int, int]:
        day = labeled.findings[place].sentence.document.date
        return (rated.counted[place].severity or 0, day.toordinal() if day else 0)

    top = next((one for one in rated.ratings if one.category == rated.score.top_risk), None)
    if top is None:
        return {}
    worst = labeled.findings[max(sorted(top.findings), key=rank)]
    return {
        "top_quote": worst.sentence.quote,
        "top_rule": _join_rules(top.rules),
        "p_top": worst.p_label,
    }


def _read_original(one: Finding, name: str) -> Any:
    """Return a part of the model's label where a person corrected it."""
    return getattr(one.original.label, name, None) if one.original else None


def _join_rules(rules: Iterable[str]) -> str | None:
    """Return the rules as one text; None where nothing was changed."""
    return "; ".join(rules) or None


_FINDING: dict[str, Callable[[str, Finding], Any]] = {
    "ticker": lambda symbol, _: symbol,
    "risk": lambda _, finding: finding.label.risk if finding.label else None,
    "severity": lambda _, finding: finding.label.severity if finding.label else None,
    "p_label": lambda _, finding: finding.p_label,
    "p_severity": lambda _, finding: finding.p_severity,
    "quote": lambda _, finding: finding.sentence.quote,
    "source": lambda _, finding: finding.sentence.document.source,
    "section": lambda _, finding: finding.sentence.section,
    "date": lambda _, finding: finding.sentence.document.date,
    "evidence": lambda _, finding: finding.sentence.id,
    "start": lambda _, finding: finding.sentence.start,
    "end": lambda _, finding: finding.sentence.end,
    "cached": lambda _, finding: finding.cached,
    "status": lambda _, finding: "judged" if finding.label else "unjudged",
    "reason": lambda _, finding: finding.reason,
    "agreement": lambda _, finding: finding.agreement,
}
_OVERRIDE: dict[str, Callable[[Finding], Any]] = {
    "model_risk": lambda one: _read_original(one, "risk"),
    "model_severity": lambda one: _read_original(one, "severity"),
    "override_by": lambda one: one.override.who if one.override else None,
    "override_at": lambda one: one.override.made_at.replace(tzinfo=None) if one.override else None,
    "override_why": lambda one: one.override.why if one.override else None,
}
_COUNTED: dict[str, Callable[[CountedSentence], Any]] = {
    "kind": lambda one: one.passage.kind,
    "family": lambda one: one.passage.family.name if one.passage.family else None,
    "counted": lambda one: one.severity,
    "counted_as": lambda one: one.category,
    "rule": lambda one: _join_rules(one.rules),
}
