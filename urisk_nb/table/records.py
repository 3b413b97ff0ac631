"""
What each run keeps of its rows, and which of several runs a ticker is looked up in.

A table may be made of several runs, and a ticker may be in more than one of them. Columns may be
gone and rows filtered; the record of the run still has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.values import find_closest, show

__all__ = ["RunRecord", "find_record", "list_tickers", "match_records"]

MAX_NAMED = 10  # tickers or runs in an error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunRecord:
    """
    One run behind a table.

    Attributes
    ----------
    rows
        The rows as the run made them, by ticker; empty where the run did not keep them.
    findings, ratings
        Those of the report.
    meta
        What decided the run.
    """

    rows: pd.DataFrame
    findings: pd.DataFrame
    ratings: pd.DataFrame
    meta: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The name of the run; empty where it has none."""
        return str(self.meta.get("run_id") or "")

    def find_row(self, ticker: str, frame: pd.DataFrame) -> dict[str, Any]:
        """Return the row of a ticker; that of the table where the run did not keep its rows."""
        if ticker in self.rows.index:
            return dict(self.rows.loc[ticker])
        found = frame[[label == ticker for label in list_tickers(frame)]]
        return dict(found.iloc[-1]) if len(found) and frame.columns.is_unique else {}


def list_tickers(frame: pd.DataFrame) -> list[Any]:
    """Return the ticker of each row, also after `reset_index`."""
    has_column = frame.columns.nlevels == 1 and list(frame.columns).count("ticker") == 1
    return frame["ticker"].tolist() if has_column else frame.index.tolist()


def find_record(
    records: Sequence[RunRecord], frame: pd.DataFrame, ticker: str, run: str | None = None
) -> tuple[str, RunRecord]:
    """
    Return the ticker as the run writes it, and the run that it is looked up in.

    Parameters
    ----------
    records
        The runs behind the table.
    frame
        The table as it is now: of several runs its column ``run_id`` tells which one a row is of.
    ticker
        In any case, with or without blanks around it.
    run
        Which run, if the ticker is in several.

    Raises
    ------
    InputError
        No run has this ticker, or there is no such run, or several runs have the ticker.
    """
    known = [symbol for one in records for symbol in _list_tickers(one, frame)]
    symbol = _find_symbol(ticker, list(dict.fromkeys(known)))
    if run is None:
        found = match_records(records, frame, symbol)
    else:
        every = [one for one in records if symbol in _list_tickers(one, frame)]
        found = _select_run(every, symbol, run)
    if len(found) > 1:
        raise _ask_which(found, symbol)
    return symbol, found[0]


def match_records(
    records: Sequence[RunRecord], frame: pd.DataFrame, symbol: Any
) -> list[RunRecord]:
    """Return the runs that have a ticker: of several those that its rows are still of."""
    found = [one for one in records if symbol in _list_tickers(one, frame)]
    if len(found) > 1:
        here = _list_runs(frame, symbol)
        found = [one for one in found if one.run_id in here] or found
    return found


def _list_tickers(record: RunRecord, frame: pd.DataFrame) -> list[Any]:
    """Return the tickers of a run: of one that did not keep its rows, those of its findings too."""
    if len(record.rows):
        return record.rows.index.tolist()
    tickers = list_tickers(frame)
    if list(frame.columns).count("run_id") == 1:
        runs = frame["run_id"]
        tickers = [one for one, run in zip(tickers, runs, strict=True) if run == record.run_id]
    return [*dict.fromkeys([*tickers, *record.findings["ticker"]])]


def _find_symbol(ticker: object, known: Sequence[Any]) -> str:
    if not isinstance(ticker, str):
        raise InputError(
            f"{show(ticker)} is not a ticker.", fix="give its name as text: table.explain('NVDA')"
        )
    symbol = ticker if ticker in known else ticker.strip().upper()
    if symbol in known:
        return symbol
    near = find_closest(ticker, map(str, known), 1)
    names = ", ".join(map(str, known[:MAX_NAMED]))
    raise InputError(
        f"{show(ticker)} is not in the table.",
        fix=f"did you mean {near[0]!r}?"
        if near
        else f"use one of its tickers: {names}"
        if known
        else "make a table first: %%risk, or urisk_nb.assess",
    )


def _select_run(found: Sequence[RunRecord], symbol: str, run: str) -> list[RunRecord]:
    chosen = [one for one in found if one.run_id == run]
    if not chosen:
        names = ", ".join(repr(one.run_id) for one in found[:MAX_NAMED])
        raise InputError(f"no run {show(run)} has {symbol}.", fix=f"give one of {names}")
    return chosen


def _list_runs(frame: pd.DataFrame, symbol: str) -> set[Any]:
    """Return the runs of the rows of a ticker, as far as the table still has the column."""
    if list(frame.columns).count("run_id") != 1:
        return set()
    names = zip(list_tickers(frame), frame["run_id"], strict=True)
    return {run for ticker, run in names if ticker == symbol}


def _ask_which(found: Sequence[RunRecord], symbol: str) -> InputError:
    names = [one.run_id for one in found]
    if len(set(names)) == len(names):
        fix = f"say which run: table.explain({json.dumps(symbol)}, run={json.dumps(names[-1])})"
    else:
        fix = "ask the table of one run, before the tables are put together"
    return InputError(f"{symbol} is in {len(found)} runs: {', '.join(names[:MAX_NAMED])}.", fix=fix)
