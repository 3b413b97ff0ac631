"""Several judges of the same sentences: whose labels count, and where the judges disagree.

The labels of the first judge count. The others are asked the same sentences, and stand beside them.
Pure: the findings of each judge in, one set of findings out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.questions import Label

__all__ = ["DISAGREE", "compare_judges", "describe_kappas", "mean_agreement", "unite_judges"]

DISAGREE = "judges_disagree"  # the flag of a finding that does not count toward the rating
NO_OPINION = "no_opinion"  # the flag of a finding to which a further judge gave no valid answer
MAX_APART = 1  # severities at most this far apart agree


def unite_judges(
    first: Mapping[str, TickerFindings], others: Mapping[str, Mapping[str, TickerFindings]]
) -> dict[str, TickerFindings]:
    """
    Return the first judge's findings by symbol, each with the opinions of the others.

    Parameters
    ----------
    first
        By symbol. Its labels count.
    others
        By model, then by symbol. One that has not come to a symbol has no opinions there.

    Returns
    -------
    dict
        A finding is flagged ``judges_disagree`` where another judge names another risk, or a
        severity two or more apart, and ``no_opinion`` where one gave no valid answer. The costs of
        a ticker are those of all judges.
    """
    return {
        symbol: _unite_ticker(
            found, [(model, own[symbol]) for model, own in others.items() if symbol in own]
        )
        for symbol, found in first.items()
    }


def _unite_ticker(
    first: TickerFindings, others: Sequence[tuple[str, TickerFindings]]
) -> TickerFindings:
    if not others:
        return first
    findings = tuple(
        _unite_finding(finding, [(model, own.findings[place]) for model, own in others])
        for place, finding in enumerate(first.findings)
    )
    every = [first, *(own for _, own in others)]
    return replace(
        first,
        findings=findings,
        flags=tuple(sorted({flag for finding in findings for flag in finding.flags})),
        tokens=sum(one.tokens for one in every),
        seconds=sum(one.seconds for one in every),
        attempts=sum(one.attempts for one in every),
        cached=sum(one.cached for one in every),
    )


def _unite_finding(first: Finding, others: Sequence[tuple[str, Finding]]) -> Finding:
    said = [_agrees(first.label, other.label) for _, other in others if first.label and other.label]
    holds = {
        DISAGREE: not all(said),
        NO_OPINION: any(other.label is None for _, other in others),
    }
    flags = {*first.flags, *(flag for flag, is_so in holds.items() if is_so)}
    return replace(
        first,
        opinions=tuple(others),
        agreement=fmean(said) if said else None,
        flags=tuple(sorted(flags)),
    )


def _agrees(one: Label, other: Label) -> bool:
    return one.risk == other.risk and abs(one.severity - other.severity) <= MAX_APART


def mean_agreement(findings: Iterable[Finding]) -> float | None:
    """Return the mean agreement of the sentences that have one; None where there is none."""
    known = [finding.agreement for finding in findings if finding.agreement is not None]
    return fmean(known) if known else None


# Kappa --------------------------------------------------------------------------------------------


def compare_judges(
    ticker_findings: Iterable[TickerFindings], models: Sequence[str]
) -> list[dict[str, Any]]:
    """
    Return how far each two judges agree on the risk, beyond chance.

    Parameters
    ----------
    ticker_findings
        With the opinions of all.
    models
        The judges, the first first.

    Returns
    -------
    list of dict
        For each pair ``judges``, ``n`` (distinct sentences that both labeled), ``same`` (to how
        many they gave the same risk) and ``kappa`` (Cohen's; None where there is no sentence, or
        where both gave all of them one label).
    """
    if len(models) < 2:
        return []
    risks: dict[str, dict[str, str]] = {model: {} for model in models}
    for finding in (one for found in ticker_findings for one in found.findings):
        for model, own in ((models[0], finding), *finding.opinions):
            if own.label is not None:
                # The same text under two tickers was asked once
                risks[model][finding.sentence.text] = own.label.risk
    return [
        {"judges": [one, other], **_compare(risks[one], risks[other])}
        for one, other in itertools.combinations(models, 2)
    ]


def _compare(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, Any]:
    pairs = [(one[text], other[text]) for text in one if text in other]
    n, same = len(pairs), sum(a == b for a, b in pairs)
    labels = {label for pair in pairs for label in pair}
    counts = {
        label: (sum(a == label for a, _ in pairs), sum(b == label for _, b in pairs))
        for label in labels
    }
    by_chance = sum(a * b for a, b in counts.values())  # times n squared
    kappa = None if by_chance == n * n else (n * same - by_chance) / (n * n - by_chance)
    return {"n": n, "same": same, "kappa": kappa}


def describe_kappas(compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each pair of judges that have sentences in common."""
    return [_describe_kappa(one) for one in compared if one["n"]]


def _describe_kappa(compared: Mapping[str, Any]) -> str:
    kappa = "" if compared["kappa"] is None else f" (kappa {compared['kappa']:.2f})"
    same, n = compared["same"], compared["n"]
    return f"{' and '.join(compared['judges'])}: the same risk in {same} of {n} sentences{kappa}"
