"""A label of a table corrected: by the run behind the table, which makes the table again."""

from __future__ import annotations

from typing import Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.corrections import Correction

__all__ = ["override_label"]


def override_label(table: pd.DataFrame, report: Any, correction: Correction) -> Any:
    """
    Return the table of the run in which a correction counts, with the rows and columns of `table`.

    Parameters
    ----------
    table, report
        The table as it is now, and its report.
    correction
        What the user gave.

    Raises
    ------
    InputError
        The table has no run of this process behind it, or the correction cannot be read.
    JournalUnusable
        The correction cannot be recorded.
    """
    correct = getattr(report, "correct", None)
    if correct is None:
        raise _build_error(report)
    return _select(correct(correction), table)


def _select(whole: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows and columns of the user's choice; all where some are the user's own."""
    rows, columns = table.index, table.columns
    is_part = rows.isin(whole.index).all() and columns.isin(whole.columns).all()
    if not is_part or rows.has_duplicates or columns.has_duplicates:
        return whole
    return whole.loc[rows, columns]


def _build_error(report: Any) -> InputError:
    """Say why a table has nothing to correct, and which one has."""
    runs = [run.get("run_id") for run in report.meta.get("runs", [report.meta])]
    named = list(dict.fromkeys(run for run in runs if run))
    if not named:
        return InputError(
            "this table was not made by a run, so it has no labels to correct.",
            fix="correct the table of a run: %%risk, or urisk_nb.assess",
        )
    if not len(report.findings):
        return InputError(
            "this table has no labeled sentence, so there is nothing to correct.",
            fix="give evidence to the run: evidence=... (in a cell: --evidence NAME)",
        )
    again = f"urisk_nb.replay({named[-1]!r}).override(...)"
    if len(named) > 1:
        return InputError(
            f"this table is put together from {len(named)} runs: {', '.join(named)}.",
            fix=f"correct the table of one of them: {again}",
        )
    return InputError(
        f"this table was read from a file or a copy, without its run {named[0]}.",
        fix=f"correct the table of the run: {again}",
    )
