"""Sentences without a label: the record of a run, and the lines under its table.

Pure: the findings in, plain data out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from urisk_nb.risk.labeling import TickerFindings

__all__ = ["describe_missing_labels", "list_missing_labels"]

MAX_QUOTE_CHARS = 60
MAX_REASONS = 3  # a ticker


def list_missing_labels(
    ticker_findings: Iterable[TickerFindings], *, model: str | None = None
) -> list[dict[str, str | None]]:
    """
    Return each sentence that a judge gave no label, with the reason.

    Parameters
    ----------
    ticker_findings
        With the opinions of further judges.
    model
        The judge whose labels count.

    Returns
    -------
    list of dict
        For each ``ticker``, ``evidence`` (the sentence's id), ``judge``, ``quote`` and ``reason``.
    """
    return [
        {
            "ticker": found.symbol,
            "evidence": own.sentence.id,
            "judge": judge,
            "quote": own.sentence.quote,
            "reason": own.reason,
        }
        for found in ticker_findings
        for finding in found.findings
        for judge, own in ((model, finding), *finding.opinions)
        if own.label is None
    ]


def describe_missing_labels(
    unjudged: Sequence[Mapping[str, str | None]], *, several: bool = False
) -> dict[str, list[str]]:
    """
    Return lines for people by ticker: how many sentences have no label, and why.

    Parameters
    ----------
    unjudged
        As `list_missing_labels` gives it.
    several
        Name the judge, since there are several.
    """
    by_reason: dict[str, dict[tuple[str, str], list[str]]] = {}
    for one in unjudged:
        who = f"{one['judge']}: " if several else ""
        key = who, one["reason"] or "no answer"
        by_reason.setdefault(one["ticker"] or "", {}).setdefault(key, []).append(one["quote"] or "")
    return {
        ticker: [
            *(
                f"{who}{_name_sentences(quotes)} no label: {reason}"
                for (who, reason), quotes in list(reasons.items())[:MAX_REASONS]
            ),
            *(
                [f"and {len(reasons) - MAX_REASONS} more reasons: table.report.findings"]
                if len(reasons) > MAX_REASONS
                else []
            ),
        ]
        for ticker, reasons in by_reason.items()
    }


def _name_sentences(quotes: Sequence[str]) -> str:
    """Return a beginning of a line: the sentence, or how many there are."""
    first = " ".join(quotes[0].split())
    if len(first) > MAX_QUOTE_CHARS:
        first = first[: MAX_QUOTE_CHARS - 3].rstrip() + "..."
    others = len(quotes) - 1
    if not others:
        return f'"{first}" has'
    return f'"{first}" and {others} more {"sentence" if others == 1 else "sentences"} have'
