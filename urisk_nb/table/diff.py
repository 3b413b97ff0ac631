"""
Compare two tables: every cell, sentence, label, alert and setting that changed, with its cause.

The newer table is compared with the older one on what both have. The rest is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.changes import fold_words
from urisk_nb.risk.values import is_missing, read_number, show
from urisk_nb.table.causes import COSTS, Cause, CellCauses, differ, kinds_of
from urisk_nb.table.explain import find_flags
from urisk_nb.table.exports import ExportFrame
from urisk_nb.table.parts_diff import compare_parts, describe_lone_parts, is_part
from urisk_nb.table.portfolio_diff import compare_portfolios, describe_lone_portfolio
from urisk_nb.table.run_settings import (
    EVIDENCE,
    LABELS,
    SettingChange,
    compare_benchmarks,
    compare_settings,
)
from urisk_nb.table.sentence_pairs import (
    SentencePair,
    describe_correction,
    describe_count,
    describe_label,
    pair_sentences,
)
from urisk_nb.table.sides import Row, Side, read_rows
from urisk_nb.table.table_diff import TableDiff

__all__ = ["compare_tables"]

MAX_NAMED = 10  # columns and tickers in a line
_FIRST = ("level", "score", "status")
_ORDER = ("ratings", "alerts", "sentences", "labels", "metrics", "others")
_KINDS = {"sentence": "sentences", "label": "labels", "count": "labels", "alert": "alerts"}


def compare_tables(older: Side, newer: Side, *, rtol: float = 0.0) -> TableDiff:
    """
    Return what changed from the older table to the newer one.

    Parameters
    ----------
    older, newer
        The two tables. Each ticker is in each of them once at most.
    rtol
        Two numbers that are this close, as a share of the larger one, are the same; 0: they must
        be equal.

    Raises
    ------
    InputError
        A ticker or a column is in a table twice, the table has several levels, or `rtol` is no
        share.
    """
    share = _check_rtol(rtol)
    before, after = read_rows(older, "older"), read_rows(newer, "newer")
    every = list(dict.fromkeys((*after, *before)))
    both = [ticker for ticker in every if ticker in after and ticker in before]
    columns = [name for name in newer.frame.columns if name in older.frame.columns]
    pairs = [
        _TickerDiff(
            ticker=str(ticker),
            columns=[str(name) for name in columns if name != "ticker"],
            old=before[ticker],
            new=after[ticker],
            rtol=share,
        )
        for ticker in both
    ]
    changes = [*_list_settings(pairs), *_list_alone(before, after)]
    for one in pairs:
        changes += one.list_changes()
    changes += compare_parts(older, newer, both, share)
    every_change = [*changes, *compare_portfolios(older, newer, share)]
    frame = pd.DataFrame(every_change, columns=["ticker", "what", "old", "new", "cause", "quote"])
    return TableDiff(
        changes=ExportFrame(frame.astype(object)),
        summary=_summarize(every, before, after, changes),
        not_compared=(
            *_list_uncompared(older.frame, newer.frame, pairs, before, after),
            *describe_lone_portfolio(older, newer),
            *describe_lone_parts(older, newer),
        ),
        older=tuple(dict.fromkeys(one.run_id for one in older.records if one.run_id)),
        newer=tuple(dict.fromkeys(one.run_id for one in newer.records if one.run_id)),
    )


def _check_rtol(value: object) -> float:
    number = read_number(value)
    if number is None or not 0 <= number < 1:
        raise InputError(
            f"rtol={show(value)} is not a share.",
            fix="give a number from 0 (equal) to below 1, such as rtol=1e-9",
        )
    return number


# One ticker ---------------------------------------------------------------------------------------


class _TickerDiff:
    """What changed in one row, and why."""

    def __init__(
        self, *, ticker: str, columns: Sequence[str], old: Row, new: Row, rtol: float
    ) -> None:
        self.ticker, self.columns, self.rtol = ticker, columns, rtol
        self.old, self.new = old, new
        self.settings = [
            *(compare_settings(old.meta, new.meta) if old.meta and new.meta else ()),
            *compare_benchmarks(old.meta, new.meta, old.tickers, new.tickers),
        ]
        self.pairs = pair_sentences(new.findings, old.findings)
        self.causes = CellCauses(
            old=old.values,
            new=new.values,
            pairs=self.pairs,
            settings=self.settings,
            failures=(old.failure, new.failure),
        )

    def list_changes(self) -> list[dict[str, Any]]:
        """Return every change of the row: score and sentences first, metrics and counts last."""
        found = [*self._list_cells(), *self._list_alerts(), *self._list_sentences()]
        return sorted(found, key=lambda change: _rank(change["what"]))

    def _row(self, what: str, old: Any, new: Any, cause: Cause) -> dict[str, Any]:
        return _make_change(self.ticker, what, old, new, cause)

    def _list_cells(self) -> Iterator[dict[str, Any]]:
        for name in self.columns:
            old, new = self.old.cells[name], self.new.cells[name]
            if differ(old, new, self.rtol):
                yield self._row(name, old, new, self.causes.find(name, old, new))

    def _list_sentences(self) -> Iterator[dict[str, Any]]:
        for pair in self.pairs:
            if pair.kind != "same":
                old, new = (None if one is None else one["quote"] for one in (pair.old, pair.new))
                cause = Cause(text=self._describe_arrival(pair), quote=pair.quote)
                yield self._row("sentence", old, new, cause)
            if pair.new is not None and pair.old is not None:
                yield from self._compare_labels(pair, pair.new, pair.old)

    def _compare_labels(
        self, pair: SentencePair, new: Mapping[str, Any], old: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        before, after = describe_label(old), describe_label(new)
        if before != after:
            cause = Cause(text=self._describe_label(pair, new), quote=pair.quote)
            yield self._row("label", before, after, cause)
            return
        before, after = describe_count(old), describe_count(new)
        if before != after:
            cause = Cause(text=self._describe_count(pair), quote=pair.quote)
            yield self._row("count", before, after, cause)

    def _describe_arrival(self, pair: SentencePair) -> str:
        """Say why a sentence came or went: its document did, or others were chosen."""
        if pair.kind == "changed":
            return "the document has it in another wording"
        row = pair.new if pair.new is not None else pair.old
        source = "" if row is None or is_missing(row["source"]) else f" {row['source']}"
        here, there = (self.new, self.old) if pair.kind == "new" else (self.old, self.new)
        which = "older" if pair.kind == "new" else "newer"
        if not len(there.findings):
            status = there.read("status")
            return f"no sentence is labeled in the {which} run ({status})"
        told = [str(one) for one in self.settings if EVIDENCE in one.kinds]
        if row is not None and row["source"] not in {one["source"] for one in there.findings}:
            return "; ".join([f"the document{source} is only in the {_other(which)} run", *told])
        asked, read = len(here.findings), here.read("sentences")
        chosen = not is_missing(read) and asked < int(read)
        why = f"only the {_other(which)} run asked about it, in{source or ' the evidence'}"
        maybe = [f"{asked} of {int(read)} sentences were asked there"] if chosen else []
        return "; ".join([why, *maybe, *told])

    def _describe_label(self, pair: SentencePair, new: Mapping[str, Any]) -> str:
        # The threshold decides which labels count, and changes none
        moves = (one for one in self.settings if LABELS in one.kinds and one.name != "review_below")
        told = list(map(str, moves))
        if correction := describe_correction(new, pair.old):
            told.insert(0, correction)
        if pair.kind == "changed":
            told.insert(0, "the sentence is reworded")
        if describe_label(new) == "no label" and not is_missing(new["reason"]):
            told.append(f"no answer in the newer run: {new['reason']}")
        return "; ".join(told) or "the judge answers otherwise to the same question"

    def _describe_count(self, pair: SentencePair) -> str:
        if correction := describe_correction(pair.new, pair.old):
            return correction
        told = [str(one) for one in self.settings if not one.kinds.isdisjoint((LABELS, EVIDENCE))]
        told += ["the probability of the label, another judge's label, or what stands around it"]
        return "; ".join(told)

    def _list_alerts(self) -> Iterator[dict[str, Any]]:
        old, new = ({_fold_alert(one): one for one in row.alerts} for row in (self.old, self.new))
        told = [str(one) for one in self.settings if EVIDENCE in one.kinds]
        for key in dict.fromkeys((*new, *old)):
            if key in old and key in new:
                continue
            one, which = (new[key], "newer") if key in new else (old[key], "older")
            source = f" in {one['source']}" if one["source"] else ""
            text = "; ".join([f"only the {which} run has these words{source}", *told])
            cause = Cause(text=text, quote=one["quote"])
            family = one["family"]
            yield self._row(
                "alert", family if key in old else None, family if key in new else None, cause
            )


def _rank(what: str) -> int:
    """Return where a change stands among those of its ticker: what it comes to, then why."""
    if what in _FIRST:
        return _FIRST.index(what)
    return len(_FIRST) + (_ORDER.index(kind) if (kind := _find_kind(what)) in _ORDER else 0)


def _other(which: str) -> str:
    return "newer" if which == "older" else "older"


def _fold_alert(alert: Mapping[str, Any]) -> tuple[Any, Any]:
    return alert["family"], fold_words(alert["quote"])


# Tables -------------------------------------------------------------------------------------------


def _make_change(ticker: str | None, what: str, old: Any, new: Any, cause: Cause) -> dict[str, Any]:
    return {
        "ticker": ticker,
        "what": what,
        "old": old,
        "new": new,
        "cause": cause.text,
        "quote": cause.quote,
    }


def _list_settings(pairs: Sequence[_TickerDiff]) -> list[dict[str, Any]]:
    """Return what the runs were told otherwise, each once."""
    found: dict[str, SettingChange] = {str(one): one for pair in pairs for one in pair.settings}
    return [
        _make_change(None, "setting", one.old, one.new, Cause(text=text))
        for text, one in found.items()
    ]


def _list_alone(before: Mapping[Any, Row], after: Mapping[Any, Row]) -> list[dict[str, Any]]:
    """Return the tickers that only one of the tables has."""
    sides = ((after, before, "newer"), (before, after, "older"))
    return [
        _make_change(
            str(ticker),
            "ticker",
            None if which == "newer" else _name_level(row),
            _name_level(row) if which == "newer" else None,
            Cause(text=f"only the {which} table has this ticker"),
        )
        for rows, others, which in sides
        for ticker, row in rows.items()
        if ticker not in others
    ]


def _name_level(row: Row) -> str:
    level = row.read("level")
    return "no level" if is_missing(level) else str(level)


def _summarize(
    every: Sequence[Any],
    before: Mapping[Any, Row],
    after: Mapping[Any, Row],
    changes: Sequence[Mapping[str, Any]],
) -> pd.DataFrame:
    """Count the changes of each ticker by kind."""
    counts = {str(ticker): dict.fromkeys(_ORDER, 0) for ticker in every}
    for change in changes:
        if change["ticker"] in counts and change["what"] not in COSTS:
            counts[change["ticker"]][_find_kind(change["what"])] += 1
    columns: dict[str, Any] = {
        f"{which}_{name}": [rows[ticker].read(name) if ticker in rows else None for ticker in every]
        for name in ("level", "score")
        for which, rows in (("old", before), ("new", after))
    }
    for name in ("old_score", "new_score"):
        known = [None if is_missing(value) else float(value) for value in columns[name]]
        columns[name] = pd.array(known, dtype="Float64")
    columns |= {
        kind: pd.array([counts[str(ticker)][kind] for ticker in every], dtype="Int64")
        for kind in _ORDER
    }
    index = pd.Index([str(ticker) for ticker in every], name="ticker", dtype=object)
    return ExportFrame(columns, index=index)


def _find_kind(what: str) -> str:
    if what.startswith("r_"):
        return "ratings"
    if is_part(what):
        return "metrics"
    return _KINDS.get(what) or ("others" if find_flags(what, ()) is None else "metrics")


def _list_uncompared(
    older: pd.DataFrame,
    newer: pd.DataFrame,
    pairs: Sequence[_TickerDiff],
    before: Mapping[Any, Row],
    after: Mapping[Any, Row],
) -> Iterator[str]:
    """Yield what only one table has: columns, with the settings that differ, and tickers."""
    settings = {str(one): one for pair in pairs for one in pair.settings}
    for which, frame, other in (("newer", newer, older), ("older", older, newer)):
        names = [str(name) for name in frame.columns if name not in other.columns]
        kinds = set().union(*map(kinds_of, names))
        told = [text for text, one in settings.items() if not one.kinds.isdisjoint(kinds)]
        if names:
            why = f" ({'; '.join(told)})" if told else ""
            yield f"Only the {which} table has {_list_names(names, 'column')}{why}."
    for which, rows, others in (("newer", after, before), ("older", before, after)):
        names = [str(ticker) for ticker in rows if ticker not in others]
        if names:
            yield f"Only the {which} table has {_list_names(names, 'ticker')}."


def _list_names(names: Sequence[str], noun: str) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{format_count(len(names), noun)}: {', '.join(names[:MAX_NAMED])}{more}"
