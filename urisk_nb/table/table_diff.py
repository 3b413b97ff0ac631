"""What changed from one table to another, as frames and as a page that shows itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from urisk_nb.render.sections import Section, render_sections_html, render_sections_text
from urisk_nb.render.table_content import DASH, format_value
from urisk_nb.table.causes import COSTS

__all__ = ["TableDiff"]

NO_DIFFERENCE = "No difference."
MAX_TOGETHER = 6  # changes of one cause that are shown; more are counted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TableDiff:
    """
    What changed from an older table to a newer one, each change with its cause.

    Attributes
    ----------
    changes
        One row a change: ticker (missing for a setting of the runs, ``portfolio`` for a figure of
        the portfolio), what, old, new (missing where
        there is none), cause, quote (the sentence that moved it; missing where none did). ``what``
        is a column of the table, or one of ``ticker`` (only in one of the tables), ``setting``
        (what the runs were told), ``sentence`` (new, gone, or reworded: old and new are the
        wordings), ``label`` (of the same sentence), ``count`` (the same label counts otherwise) and
        ``alert``. Beside the rows it is ``stress EPISODE: column``, ``factors: column`` or
        ``backtest METHOD TAIL: column``.
    summary
        One row a ticker of either table: old_level, new_level, old_score, new_score, and how many
        changes of each kind there are: ratings, alerts, sentences, labels (with counts), metrics,
        others.
    not_compared
        What only one of the tables has, a sentence each.
    older, newer
        The runs, by their `run_id`.
    """

    changes: pd.DataFrame
    summary: pd.DataFrame
    not_compared: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    newer: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether nothing changed but the name of the run and what it cost."""
        return bool(self.changes["what"].isin(COSTS).all())

    def as_text(self, width: int | None = None) -> str:
        """
        Return what `print` shows.

        Parameters
        ----------
        width
            Columns that a line may take; default: those of the terminal.
        """
        return render_sections_text(list(_list_sections(self)), width)

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str | None:
        wanted = pd.get_option("display.notebook_repr_html")
        return render_sections_html(list(_list_sections(self)), "difference") if wanted else None


def _list_sections(diff: TableDiff) -> Iterator[Section]:
    yield Section(title=_describe_runs(diff), lines=[NO_DIFFERENCE] if diff.is_same else ())
    shown = diff.changes[~diff.changes["what"].isin(COSTS)]
    told = shown.loc[shown["what"] == "setting", "cause"].tolist()
    yield Section(title="what the runs were told" if told else "", lines=told)
    yield _show_summary(diff)
    yield _show_changes(shown[shown["what"] != "setting"])
    yield Section(title="not compared" if diff.not_compared else "", lines=diff.not_compared)


def _describe_runs(diff: TableDiff) -> str:
    older, newer = (", ".join(runs) or "a table" for runs in (diff.older, diff.newer))
    if diff.older and diff.older == diff.newer:  # before and after a correction, say
        return f"two tables of the run {newer}, the newer one against the older one"
    return f"{newer} (newer) against {older} (older)"


def _show_changes(changes: pd.DataFrame) -> Section:
    """Show the changes of one ticker that have one cause as one row, in the order given."""
    if not len(changes):
        return Section()
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in changes.to_dict("records"):
        key = (row["ticker"], row["cause"], _quote(row["quote"]))
        groups.setdefault(key, []).append(_describe_change({str(k): v for k, v in row.items()}))
    return Section(
        title="changes",
        head=("ticker", "change", "cause"),
        rows=[(ticker, _list_first(said), cause) for (ticker, cause, _), said in groups.items()],
        quotes=[quote for _, _, quote in groups],
        is_list=True,
        all_rows=".changes",
    )


def _list_first(said: Sequence[str]) -> str:
    more = len(said) - MAX_TOGETHER
    return "; ".join(said[:MAX_TOGETHER]) + (f"; and {more} more" if more > 0 else "")


def _describe_change(row: Mapping[str, Any]) -> str:
    """Return one change on one line: "score 35.0 -> 60.0"."""
    what = row["what"]
    column = what.rpartition(": ")[2]  # of a part, such as "stress covid: max_dd"
    old, new = (format_value(column, row[name]) or DASH for name in ("old", "new"))
    if what == "sentence":
        if old == DASH:
            return "new sentence"
        return "sentence gone" if new == DASH else f'reworded, before it "{old}"'
    if what == "ticker":
        return f"only in one table, {new if old == DASH else old}"
    if what == "alert":
        return f"new alert: {new}" if old == DASH else f"alert gone: {old}"
    return f"{what} {old} -> {new}"


def _quote(value: object) -> str:
    text = format_value("quote", value)
    return "" if text == DASH else text


def _show_summary(diff: TableDiff) -> Section:
    counts = diff.summary.columns[4:]
    changed = diff.summary[(diff.summary[counts] > 0).any(axis=1)]
    if not len(changed):
        return Section()
    names = [*diff.summary.columns[:4], *(name for name in counts if changed[name].any())]
    return Section(
        title="summary",
        head=["ticker", *names],
        rows=[
            [
                str(ticker),
                *(
                    format_value("score" if name.endswith("score") else "", row[name])
                    for name in names
                ),
            ]
            for ticker, row in zip(changed.index, changed.to_dict("records"), strict=True)
        ],
        right=frozenset(range(3, len(names) + 1)),
        all_rows=".summary",
    )
