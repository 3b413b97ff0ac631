"""What stands behind a table: the labeled sentences, and the record of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from urisk_nb.risk.rows import build_findings
from urisk_nb.table.exports import ExportFrame

__all__ = ["Report", "unite_reports"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """
    What stands behind a table.

    Attributes
    ----------
    findings
        One row a labeled sentence: ticker, risk, severity (0 to 5), p_label and p_severity (their
        corrected probabilities; NaN where the labels are greedy), quote (verbatim), source, section
        ("Item 1A" of a filing, "page 3" of a PDF file), date, evidence (the sentence's id),
        start, end (offsets into the document), cached, status
        (``judged`` or ``unjudged``), flags, reason (why it is unjudged).
    meta
        What decided the run, JSON-able. Of tables put together: ``{"runs": [...]}``.
    """

    findings: pd.DataFrame = field(default_factory=lambda: ExportFrame(build_findings(())))
    meta: dict[str, Any] = field(default_factory=dict)


def unite_reports(reports: Sequence[Report]) -> Report:
    """Put the reports of several tables together, in their order."""
    if len(reports) == 1:
        return reports[0]
    runs = [run for report in reports for run in report.meta.get("runs", [report.meta])]
    frames = [report.findings for report in reports if len(report.findings)]
    findings = pd.concat(frames, ignore_index=True) if frames else reports[0].findings
    return Report(findings=findings, meta={"runs": runs})
