"""From the report of a run to the explanation of one row: the steps from label to score."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from urisk_nb.render.table_content import describe_override
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.ratings import MIN_READ, REVIEW_RULES
from urisk_nb.risk.row_warnings import WARNINGS, codes_in
from urisk_nb.risk.scoring import DISCOUNTS, SCORE_V1, WEIGHTS, Level, level
from urisk_nb.risk.taxonomy import NONE
from urisk_nb.risk.values import is_missing
from urisk_nb.table.explanation import Explanation, describe_cut
from urisk_nb.table.exports import ExportFrame
from urisk_nb.table.records import RunRecord, find_record

__all__ = ["METRICS", "explain_row", "find_flags"]

MAX_POINTS = 100
_UNLABELED = ("not_run", "no_evidence", "model_error")
_OF_PRICES = (
    *("bad_data", "no_data", "mixed_frequency", "unlikely_returns", "extreme_total", "jump"),
    "gap",
)
_OF_SHAPE = ("short_history", "flat")
_OF_VOLUME = ("no_volume", "short_volume", "bad_volume", "no_price_level")
# Metric -> the flags that bear on it beside those of all prices
METRICS: dict[str, tuple[str, ...]] = {
    "ret_total": (),
    "vol_ann": ("short_history",),
    "vol_ewma_ann": ("short_history",),
    "downside_dev_ann": ("short_history",),
    r"(?:var|es)_\d+(?:_lo|_hi)?": ("short_tail",),
    "max_dd": (),
    "max_dd_peak": ("no_drawdown",),
    "max_dd_trough": ("no_drawdown",),
    "cur_dd": (),
    "beta": ("short_joint", "flat_benchmark", "jump_benchmark"),
    "beta_se": ("short_joint", "flat_benchmark", "jump_benchmark"),
    "corr_bench": ("short_joint", "flat", "flat_benchmark", "jump_benchmark"),
    "n_joint": ("short_joint",),
    "skew": _OF_SHAPE,
    "ex_kurt": _OF_SHAPE,
    "adv_value": _OF_VOLUME,
    "amihud_1e6": _OF_VOLUME,
}
# What a ticker with a weight has beside its metrics, and the flag that says why it is missing
_OF_PORTFOLIO = ("weight", "comp_vol_share", "comp_es", "comp_es_share")
_OVERRIDE_COLUMNS = (
    *("model_risk", "model_severity", "override_by", "override_at", "override_why"),
)
_SENTENCE_COLUMNS = [
    *("category", "gives", "risk", "severity", "counted", "rule", "p_label", "p_severity"),
    *("quote", "source", "section", "date", "flags", "start", "end", "evidence", "reason"),
    *_OVERRIDE_COLUMNS,
]
_ALERT_COLUMNS = [
    *("family", "category", "counted", "quote", "source", "section", "date", "start", "end"),
    "evidence",
]


def explain_row(
    records: Sequence[RunRecord], frame: pd.DataFrame, ticker: str, run: str | None = None
) -> Explanation:
    """
    Return how one row comes from its sentences.

    Parameters
    ----------
    records
        The runs behind the table.
    frame
        The table as it is now.
    ticker, run
        Which row, and of which run where several have it.

    Raises
    ------
    InputError
        No run has the ticker, or several have it.
    """
    symbol, record = find_record(records, frame, ticker, run)
    row = record.find_row(symbol, frame)
    findings = record.findings[record.findings["ticker"] == symbol]
    version = _find_version(record, row, symbol)
    ratings = record.ratings[record.ratings["ticker"] == symbol]
    categories = _rate_categories(ratings, version)
    points = _multiply(categories["factor"])
    return Explanation(
        ticker=symbol,
        run_id=record.run_id,
        status=_read_text(row, "status") or "unknown",
        score=_read_score(row),
        level=_read_text(row, "level") or Level.NR.value,
        score_version=version,
        points=points,
        expected=_expect_score(row, findings, points),
        categories=categories,
        sentences=_list_sentences(findings, categories),
        alerts=_list_alerts(record.meta, symbol, findings),
        metrics=_list_metrics(row),
        flags=_list_flags(row),
        notes=tuple(_list_notes(record, symbol, row, findings, points)),
        data=_describe_data(row),
    )


# Values of a row ----------------------------------------------------------------------------------


def _read_text(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value if isinstance(value, str) and value else None


def _read_count(row: Mapping[str, Any], name: str) -> int | None:
    value = row.get(name)
    return None if is_missing(value) else int(value)  # type: ignore[arg-type]  # a count


def _read_score(row: Mapping[str, Any]) -> float | None:
    value = row.get("score")
    return None if is_missing(value) else float(value)  # type: ignore[arg-type]  # a number


def _find_version(record: RunRecord, row: Mapping[str, Any], ticker: str) -> str | None:
    planned: str | None = record.meta.get("score_versions", {}).get(ticker)
    return _read_text(row, "score_version") or planned


# Categories and score -----------------------------------------------------------------------------


def _rate_categories(ratings: pd.DataFrame, version: str | None) -> pd.DataFrame:
    """Return the rated categories, the highest first, with their factors of the score."""
    # Stable: ties stay in the order of the taxonomy, as in the score
    frame = ratings.sort_values("rating", ascending=False, kind="stable").reset_index(drop=True)
    discounts = [DISCOUNTS[version or SCORE_V1] ** place for place in range(len(frame))]
    weights = [WEIGHTS[rating] for rating in frame["rating"]]
    factors = [1 - w / d for w, d in zip(weights, discounts, strict=True)]
    left = [math.prod(factors[:place]) for place in range(len(factors) + 1)]
    return ExportFrame(
        {
            "category": frame["category"],
            "rating": frame["rating"],
            "weight": pd.Series(weights, dtype="float64"),
            "discount": pd.Series(discounts, dtype="Int64"),
            "factor": pd.Series(factors, dtype="float64"),
            "adds": pd.Series(
                [MAX_POINTS * (left[n] - left[n + 1]) for n in range(len(factors))],
                dtype="float64",
            ),
            "evidence": frame["evidence"],
            "rule": frame["rule"],
        }
    )


def _multiply(factors: pd.Series[float]) -> float | None:
    """Return the points of the categories, rounded as the score is; None without any."""
    if not len(factors):
        return None
    return round(MAX_POINTS * (1 - math.prod(factors.tolist())), 6)


def _expect_score(
    row: Mapping[str, Any], findings: pd.DataFrame, points: float | None
) -> float | None:
    """Return the score that a row must have, by the rules of docs/filings.md."""
    if _read_text(row, "status") in _UNLABELED or not _read_count(row, "judged"):
        return None
    if points is None:
        return 0.0 if _count_labels(findings) and not _is_thin(row) else None
    return None if _is_thin(row) and level(points) == Level.LOW else points


def _is_thin(row: Mapping[str, Any]) -> bool:
    return "thin_filing" in codes_in([row.get("flags")])


def _count_labels(findings: pd.DataFrame) -> int:
    """Count the labels that are not to review: also `none` says something."""
    return sum(
        status == "judged" and not _is_review(rule)
        for status, rule in zip(findings["status"], findings["rule"], strict=True)
    )


def _is_review(rule: object) -> bool:
    return isinstance(rule, str) and not set(REVIEW_RULES).isdisjoint(rule.split("; "))


# Sentences and alerts -----------------------------------------------------------------------------


def _list_sentences(findings: pd.DataFrame, categories: pd.DataFrame) -> pd.DataFrame:
    """
    Return what counts or would have: also what is to review, merged, corrected, or without a label.
    """
    missing = [name for name in _OVERRIDE_COLUMNS if name not in findings]
    findings = findings.assign(**dict.fromkeys(missing))  # a report of an older version
    is_changed = findings["rule"].notna() | findings["override_by"].notna()
    known = findings[findings["counted"].notna() | is_changed | (findings["status"] != "judged")]
    ranks = {name: place for place, name in enumerate(categories["category"])}
    given = {
        name: (rating, str(ids).split(";"))
        for name, rating, ids in zip(
            categories["category"], categories["rating"], categories["evidence"], strict=True
        )
    }
    # What does not count stands with the category that its label names
    named = known["counted_as"].where(
        known["counted_as"].notna(), known["risk"].where(known["risk"] != NONE)
    )
    gives = [
        None if is_missing(own) else given[own][0] if one in given.get(own, (0, ()))[1] else 0
        for own, one in zip(known["counted_as"], known["evidence"], strict=True)
    ]
    frame = known.assign(
        category=named,
        gives=pd.array(gives, dtype="Int64"),
        _rank=[ranks.get(name, len(ranks)) for name in named],
        _named=named.isna(),
        _order=range(len(known)),
    )
    frame = frame.sort_values(
        ["_rank", "_named", "category", "gives", "counted", "severity", "_order"],
        ascending=[True, True, True, False, False, False, True],
    )
    return ExportFrame(frame[_SENTENCE_COLUMNS].reset_index(drop=True))


def _list_alerts(meta: Mapping[str, Any], ticker: str, findings: pd.DataFrame) -> pd.DataFrame:
    counted = dict(zip(findings["evidence"], findings["counted"], strict=True))
    rows = [one for one in meta.get("alerts", ()) if one["ticker"] == ticker]
    frame = pd.DataFrame(rows, columns=[name for name in _ALERT_COLUMNS if name != "counted"])
    frame["counted"] = pd.array([counted.get(one["evidence"]) for one in rows], dtype="Int64")
    return ExportFrame(frame[_ALERT_COLUMNS])


# Metrics and flags --------------------------------------------------------------------------------


def find_flags(metric: str, codes: Sequence[str]) -> list[str] | None:
    """Return those of a row's flags that bear on a metric; None for a column that is none."""
    for pattern, own in METRICS.items():
        if re.fullmatch(pattern, metric):
            return [code for code in codes if code in own or code in _OF_PRICES]
    return None


def _list_metrics(row: Mapping[str, Any]) -> pd.DataFrame:
    codes = codes_in([row.get("flags")])
    found = {
        name: flags for name in map(str, row) if (flags := find_flags(name, codes)) is not None
    }
    if not is_missing(row.get("weight")):
        own = [code for code in codes if code == "no_portfolio"]
        found |= {
            name: own if is_missing(row[name]) else [] for name in _OF_PORTFOLIO if name in row
        }
    columns: dict[str, Any] = {
        "metric": list(found),
        "value": pd.Series([row[name] for name in found], dtype=object),
        "flags": [";".join(flags) for flags in found.values()],
        "why": [" ".join(map(_explain_flag, flags)) for flags in found.values()],
        "n_obs": pd.array([_read_count(row, "n_obs")] * len(found), dtype="Int64"),
        "period": [_read_text(row, "period")] * len(found),
    }
    return ExportFrame(columns)


def _list_flags(row: Mapping[str, Any]) -> pd.DataFrame:
    codes = codes_in([row.get("flags")])
    return ExportFrame({"flag": codes, "why": list(map(_explain_flag, codes))})


def _explain_flag(code: str) -> str:
    return WARNINGS.get(code, "This version of urisk_nb has no explanation for this code.")


def _describe_data(row: Mapping[str, Any]) -> str:
    """Say which prices were read, in one sentence."""
    count = _read_count(row, "n_obs")
    if count is None:
        return ""
    said = format_count(count, "price")
    if count:
        first, last = (f"{row[name]:%Y-%m-%d}" for name in ("first_obs", "last_obs"))
        said += f" from {first} to {last}"
    missing = _read_count(row, "n_missing")
    said += f", and {format_count(missing, 'date')} without one" if missing else ""
    period = _read_text(row, "period")
    return said + (f"; a return is of one {period}." if period else ".")


# Notes --------------------------------------------------------------------------------------------


def _list_notes(
    record: RunRecord,
    ticker: str,
    row: Mapping[str, Any],
    findings: pd.DataFrame,
    points: float | None,
) -> Iterator[str]:
    """Yield what led to the level, or why there is none, and what the run says of the ticker."""
    status, score = _read_text(row, "status"), _read_score(row)
    if score is not None:
        yield from _describe_score(row, score, findings)
    elif not row:
        yield "The report has no row of this ticker, so only its sentences are explained."
    elif _is_thin(row):
        yield _describe_thin(row, points)
    elif status == "not_run":
        yield from _describe_end(record.meta)
    else:
        yield _describe_missing(record.meta, row, findings)
    said = record.meta.get("messages", {}).get(ticker, ())
    yield from [said] if isinstance(said, str) else said
    for finding in findings.to_dict("records"):
        if correction := describe_override(finding):
            yield f"{finding['evidence']}: {correction}"
    none = int(((findings["risk"] == NONE) & findings["rule"].isna()).sum())
    if none:
        verb = "is" if none == 1 else "are"
        yield f"{format_count(none, 'sentence')} {verb} labeled none, so no category counts them."


def _describe_score(row: Mapping[str, Any], score: float, findings: pd.DataFrame) -> Iterator[str]:
    name = str(row.get("level"))
    yield f"A score {describe_cut(name)} is {name}."
    if not findings["counted"].notna().any():
        labels = format_count(_count_labels(findings), "label")
        yield f"No label that counts names a risk ({labels} count), so the score is {score:g}."
    codes = codes_in([row.get("flags")])
    yield from (WARNINGS[code] for code in ("nothing_decisive", "low_alert") if code in codes)


def _describe_thin(row: Mapping[str, Any], points: float | None) -> str:
    read = format_count(_read_count(row, "sentences") or 0, "sentence")
    return (
        f"The labels come to {points or 0:g} points, which is Low. The evidence has a filing, and "
        f"{read} were read: fewer than {MIN_READ} are too few to call a company Low. So there is "
        "no score, and the level is NR."
    )


def _describe_end(meta: Mapping[str, Any]) -> Iterator[str]:
    yield "The run ended before this ticker was labeled, so it has no score."
    if failure := meta.get("failure"):
        yield f"The run ended early: {failure}"


def _describe_missing(
    meta: Mapping[str, Any], row: Mapping[str, Any], findings: pd.DataFrame
) -> str:
    """Say why there is no score where no rule withholds it."""
    if len(findings) and not (findings["status"] == "judged").any():
        return "No sentence has a label, so there is no score; the reasons are with the sentences."
    if len(findings):
        return "No label counts: all are to review. So there is no score, and the level is NR."
    if not meta.get("has_labels", True):
        no_model = not meta.get("params", {}).get("llm", True)
        why = "No model was asked (--no-llm)" if no_model else "No evidence was given"
        return f"{why}, so nothing is labeled and there is no score."
    count = _read_count(row, "sentences")
    if count:
        return f"None of {format_count(count, 'sentence')} was asked, so there is no score."
    return "The evidence has no sentence for this ticker, so there is no score."
