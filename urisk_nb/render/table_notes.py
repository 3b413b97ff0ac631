"""
What a risk table says of its rows, as plain text: the columns that it shows, the warnings of each
row, the messages under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from urisk_nb.risk.row_warnings import LABELED_BY, WARNINGS, codes_in

if TYPE_CHECKING:
    import pandas as pd

    from urisk_nb.table.risk_table import RiskTable

__all__ = [
    "MAX_MESSAGES",
    "collect_messages",
    "collect_notes",
    "collect_warnings",
    "describe_warnings",
    "heading",
    "is_fraction",
    "select_columns",
]

MAX_MESSAGES = 20
WHOLE_RUN = "*"  # the key of a message that is about no single ticker
_HEADINGS = {
    "ret_total": "return",
    "vol_ann": "vol (ann.)",
    "max_dd": "max drawdown",
    "top_risk": "top risk",
    "top_quote": "worst sentence",
}
_TAIL = re.compile(r"(var|es)_(\d+)")


def is_fraction(name: object) -> bool:
    """Whether the column holds a fraction that a reader wants in percent."""
    return name in ("ret_total", "vol_ann", "max_dd") or bool(_TAIL.fullmatch(str(name)))


def heading(name: str) -> str:
    """Return what a reader sees above the column."""
    if tail := _TAIL.fullmatch(name):
        kind, digits = tail.groups()
        return f"{'VaR' if kind == 'var' else 'ES'} {digits[:2]}{'.' + digits[2:] if digits[2:] else ''}"
    return _HEADINGS.get(name, name)


def select_columns(table: pd.DataFrame) -> list[str]:
    """
    Return the columns of the compact view, in order: those whose input was given, with or without
    values.

    `warnings` is no column of the table; it stands for what `collect_warnings` returns.
    """
    # `judged` has a number in each row as soon as evidence was given and a model was to be asked.
    labeled = "judged" in table and table["judged"].notna().any()
    labels = ("level", "score", "top_risk", "top_quote") if labeled else ()
    figures = [name for name in map(str, table.columns) if is_fraction(name)]
    names = [name for name in (*labels, *figures) if name in table]
    if "status" in table and (table["status"] != "ok").any():
        names.append("status")
    return [*names, "warnings"] if any(collect_warnings(table)) else names


def collect_warnings(table: pd.DataFrame) -> list[list[str]]:
    """
    Return the codes that stand beside each row; not those of the whole table, nor the one that its
    status says.
    """
    if "flags" not in table:
        return [[] for _ in range(len(table))]
    states = table["status"] if "status" in table else [None] * len(table)
    return [
        [code for code in codes_in([cell]) if code not in LABELED_BY and code != state]
        for cell, state in zip(table["flags"], states, strict=True)
    ]


def describe_warnings(table: pd.DataFrame) -> dict[str, str]:
    """
    Return one sentence for each code that occurs in the table, and for each status that is also a
    code.
    """
    codes = [code for code in codes_in(table.get("flags", ())) if code not in LABELED_BY]
    return {
        code: WARNINGS.get(code, "This version of urisk_nb has no explanation for this code.")
        for code in codes
    }


def collect_notes(table: pd.DataFrame) -> list[str]:
    """Return what must be known of who labeled the table, the strongest first."""
    codes = codes_in(table.get("flags", ()))
    return [text for code, text in LABELED_BY.items() if code in codes]


def collect_messages(table: RiskTable) -> list[str]:
    """
    Return what the run has to say of the rows shown and of itself, such as which price is bad; the
    rest is counted.
    """
    meta = table.report.meta
    tickers = set(table.get("ticker", table.index))
    lines: dict[str, None] = {}
    for run in meta.get("runs", [meta]):
        given: Mapping[str, Any] = run.get("messages", {})
        for key, said in given.items():
            if key == WHOLE_RUN or key in tickers:
                lines |= dict.fromkeys(
                    text if key == WHOLE_RUN else f"{key}: {text}" for text in _texts(said)
                )
    shown = list(lines)[:MAX_MESSAGES]
    more = len(lines) - len(shown)
    return [*shown, f'and {more} more: table.report.meta["messages"]'] if more else shown


def _texts(said: str | Iterable[str]) -> list[str]:
    return [said] if isinstance(said, str) else list(said)
