"""Labels that a person corrected: what such a correction is, and which labels count with it.

A correction holds for a sentence of a ticker by its words, in whatever document they stand. It
takes the place of the model's label and needs no probability. What the words allow limits it as it
limits a model's label. Pure: findings in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.questions import Label
from urisk_nb.risk.taxonomy import NONE, Taxonomy

__all__ = [
    "OVERRIDE",
    "Override",
    "apply_overrides",
    "describe_unfit",
    "list_overrides",
    "select_overrides",
]

OVERRIDE = "override"  # the flag of a finding whose label a person corrected


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """
    The record of one correction.

    Attributes
    ----------
    ticker, text
        What it is about: the sentence as the model reads it, white space single.
    label
        What counts from now on; None: the correction before it is taken back.
    why, who
        The reason, and the login name of the person.
    made_at
        When, UTC.
    model, model_label, p_label
        What the model said when it was corrected; None where it gave no label, or no probability.
    source, date
        The document in which the person read it.
    """

    ticker: str
    text: str
    label: Label | None
    why: str
    who: str
    made_at: datetime
    model: str | None = None
    model_label: Label | None = None
    p_label: float | None = None
    source: str | None = None
    date: date | None = None

    @property
    def subject(self) -> tuple[str, str]:
        """What it is about; of several corrections of one subject the latest counts."""
        return self.ticker, self.text


def select_overrides(overrides: Iterable[Override], plan: Plan) -> tuple[Override, ...]:
    """Return those that hold for a sentence of the run, in the order of its tickers."""
    by_ticker: dict[str, dict[str, Override]] = {}
    for one in overrides:
        if one.label is not None:
            by_ticker.setdefault(one.ticker, {})[one.text] = one
    return tuple(
        own[text]
        for symbol in plan.asked
        if (own := by_ticker.get(symbol))
        for text in dict.fromkeys(one.text for one in plan.selections[symbol].chosen)
        if text in own
    )


def apply_overrides(
    ticker_findings: Iterable[TickerFindings], overrides: Iterable[Override], taxonomy: Taxonomy
) -> list[TickerFindings]:
    """
    Return the findings with the corrected labels in place of the model's.

    Parameters
    ----------
    overrides
        One a sentence at most. One whose category the taxonomy lacks changes nothing.
    """
    fit = {one.subject: one for one in overrides if _is_fit(one, taxonomy)}
    return [_apply_to_ticker(found, fit) if fit else found for found in ticker_findings]


def _is_fit(one: Override, taxonomy: Taxonomy) -> bool:
    return one.label is not None and one.label.risk in taxonomy.labels


def _apply_to_ticker(
    found: TickerFindings, fit: Mapping[tuple[str, str], Override]
) -> TickerFindings:
    findings = tuple(
        finding
        if (one := fit.get((found.symbol, finding.sentence.text))) is None
        else _correct(finding, one)
        for finding in found.findings
    )
    flags = sorted({flag for finding in findings for flag in finding.flags})
    return replace(found, findings=findings, flags=tuple(flags))


def _correct(finding: Finding, one: Override) -> Finding:
    """Return the finding with the corrected label; what was said of the model's label is gone."""
    return replace(
        finding,
        label=one.label,
        p_label=None,
        p_severity=None,
        reason=None,
        flags=tuple(sorted({*finding.sentence.flags, OVERRIDE})),
        override=one,
        original=finding,
    )


def describe_unfit(overrides: Iterable[Override], taxonomy: Taxonomy) -> dict[str, list[str]]:
    """Return a line by ticker for each correction whose category the taxonomy lacks."""
    lines: dict[str, list[str]] = {}
    for one in overrides:
        if one.label is not None and not _is_fit(one, taxonomy):
            said = f"{one.label.risk} {one.label.severity}"
            lines.setdefault(one.ticker, []).append(
                f"A correction to {said} by {one.who} does not count, because this run has no "
                f"category {one.label.risk!r}. The model's label counts."
            )
    return lines


def list_overrides(
    ticker_findings: Sequence[TickerFindings],
) -> list[dict[str, Any]]:
    """Return the corrections that count in a run as its record has them, JSON-able."""
    return [
        {
            "ticker": found.symbol,
            "evidence": finding.sentence.id,
            "model_label": name_label(finding.original.label if finding.original else None),
            "label": name_label(one.label),
            "by": one.who,
            "at": one.made_at.isoformat(timespec="seconds"),
            "why": one.why,
        }
        for found in ticker_findings
        for finding in found.findings
        if (one := finding.override) is not None
    ]


def name_label(label: Label | None) -> str | None:
    """Return a label as text: "legal 3", "none"; None where there is none."""
    if label is None:
        return None
    return NONE if label.risk == NONE else f"{label.risk} {label.severity}"
