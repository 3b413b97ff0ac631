"""
The rows of the two tables that are compared, each with what its run kept of it.

A row has the cells of the table as it is now, and the values, sentences and alerts of its run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.values import show
from urisk_nb.table.records import RunRecord, list_tickers, match_records
from urisk_nb.table.sentence_pairs import name_cells

__all__ = ["Row", "Side", "read_rows"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """
    One of the two tables: as it is now, and the runs behind it.

    Of one run also its portfolio, and by name what else stands beside the rows: `backtest`,
    `stress`, `factors`.
    """

    frame: pd.DataFrame
    records: Sequence[RunRecord]
    portfolio: pd.Series | None = None
    parts: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """
    A ticker in one of the tables.

    `cells` are those of the table as it is now, `values` those that the run made; they differ where
    the user changed a cell or dropped a column. `tickers` are all of the run.
    """

    cells: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Mapping[str, Any]] = ()
    alerts: Sequence[Mapping[str, Any]] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    tickers: tuple[Any, ...] = ()

    @property
    def failure(self) -> str | None:
        """Why its run ended early."""
        failure: str | None = self.meta.get("failure")
        return failure

    def read(self, name: str) -> Any:
        """Return a value of the run; that of the table where the run did not keep its rows."""
        return self.values.get(name, self.cells.get(name))


class _RunIndex:
    """The rows, findings and alerts of a run by ticker: each frame is read once."""

    def __init__(self, record: RunRecord) -> None:
        self.meta = record.meta
        self.values = {
            ticker: name_cells(row) for ticker, row in record.rows.to_dict("index").items()
        }
        self.findings: dict[Any, list[dict[str, Any]]] = {}
        self.alerts: dict[Any, list[Mapping[str, Any]]] = {}
        for row in map(name_cells, record.findings.to_dict("records")):
            self.findings.setdefault(row["ticker"], []).append(row)
        for alert in record.meta.get("alerts", ()):
            self.alerts.setdefault(alert["ticker"], []).append(alert)

    def read_row(self, ticker: Any, cells: Mapping[str, Any]) -> Row:
        return Row(
            cells=cells,
            values=self.values.get(ticker, {}),
            findings=self.findings.get(ticker, ()),
            alerts=self.alerts.get(ticker, ()),
            meta=self.meta,
            tickers=tuple(self.values),
        )


def read_rows(side: Side, which: str) -> dict[Any, Row]:
    """Return the rows of a table by ticker."""
    tickers = _check_shape(side.frame, which)
    cells = map(name_cells, side.frame.to_dict("records"))
    indexes = {id(record): _RunIndex(record) for record in side.records}
    found = {}
    for ticker, own in zip(tickers, cells, strict=True):
        record = _find_run(side, ticker, which)
        found[ticker] = indexes[id(record)].read_row(ticker, own) if record else Row(cells=own)
    return found


def _find_run(side: Side, ticker: Any, which: str) -> RunRecord | None:
    """Return the run that a row is of; None where it is of none."""
    if len(side.records) == 1:
        return side.records[0]
    found = match_records(side.records, side.frame, ticker)
    if len(found) > 1:
        names = ", ".join(one.run_id for one in found)
        raise InputError(
            f"{ticker} is in several runs behind the {which} table: {names}.",
            fix="compare the table of one run, or keep the column run_id",
        )
    return found[0] if found else None


def _check_shape(frame: pd.DataFrame, which: str) -> list[Any]:
    """Return the tickers of a table whose rows and columns each have one name."""
    if frame.columns.nlevels > 1 or frame.index.nlevels > 1:
        raise InputError(
            f"the {which} table has several levels of rows or columns.",
            fix="compare the tables as they were made, before groupby or pivot",
        )
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(
            f"the {which} table has the column {show(twice)} twice.",
            fix="keep one of them: table.loc[:, ~table.columns.duplicated()]",
        )
    tickers = list_tickers(frame)
    seen: set[Any] = set()
    for ticker in tickers:
        if ticker in seen:
            raise InputError(
                f"{ticker} is in the {which} table more than once.",
                fix="keep the rows of one run: table[table['run_id'] == table['run_id'].iloc[-1]]",
            )
        seen.add(ticker)
    return tickers
