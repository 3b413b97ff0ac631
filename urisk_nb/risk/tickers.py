"""The form of a ticker, and the column that a ticker means. Rules: docs/metrics.md, "Inputs"."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

import numpy as np

from urisk_nb.errors import InputError
from urisk_nb.risk.values import describe_type, fold_name, show, strip_invisible

__all__ = ["TICKER_HINT", "build_resolver", "fold_share_class", "read_symbol", "resolve"]

TICKER = re.compile(r"[A-Z0-9^][A-Z0-9.\-^=/:& ]{0,29}")
# BRK.B, BRK-B and BRK/B are three spellings of one share class.
SHARE_CLASS = re.compile(r"(.+)[.\-/]([A-Z])")
# What a terminal writes after the name: "AAPL US Equity", "T 4.5 Govt".
TERMINAL_WORDS = {"EQUITY", "INDEX", "CURNCY", "COMDTY", "CORP", "GOVT", "MTGE", "MUNI", "CLASS"}
TICKER_HINT = "write tickers such as NVDA, BRK.B or NVDA=0.4, separated by commas or white space"


def read_symbol(name: object, where: str) -> str:
    """
    Return the name in the form of `Holding.symbol`.

    Raises
    ------
    InputError
        It is outside the ticker rule. The message begins with `where`.
    """
    if not isinstance(name, str):
        raise InputError(
            f"{where}: {show(name)} is {describe_type(name)}, not a ticker.",
            fix=f'write "{name}" in quotes; numbers lose leading zeros'
            if isinstance(name, (int, np.integer))
            else TICKER_HINT,
        )
    symbol = fold_name(name)
    if re.fullmatch(r"\d*\.\d+", symbol):
        raise InputError(
            f"{where}: {show(name)} looks like a weight without a ticker.",
            fix=f"write NVDA={symbol}",
        )
    if _is_sentence(name):
        raise InputError(
            f"{where}: {show(name)} is a text, not a ticker.",
            fix="check that each column stands under its own name; " + TICKER_HINT,
        )
    if re.match(r"\d{4}-\d\d-\d\d", symbol):
        raise InputError(
            f"{where}: {show(name)} is a date, not a ticker.",
            fix="check that each column stands under its own name",
        )
    if not TICKER.fullmatch(symbol):
        raise InputError(f"{where}: {show(name)} is not a ticker.", fix=_ticker_hint(symbol))
    return symbol


def _is_sentence(name: str) -> bool:
    """
    Return whether words follow that no ticker has: "Fined heavily." is one, "BRK B" is none.

    A text in the place of a ticker would give its figures to a company that does not exist.
    """
    words = strip_invisible(name).split()
    if len(words) > 1 and words[-1][-1] in ".!?":
        return True
    return any(
        word.isalpha()
        and word.upper() not in TERMINAL_WORDS
        and (len(word) > 3 or (len(word) == 3 and not word.isupper()))
        for word in (word.strip(".,:;!?'\"()") for word in words[1:])
    )


def _ticker_hint(symbol: str) -> str:
    if re.search(r"[A-Z0-9][;|][A-Z0-9]", symbol):
        return "separate tickers by commas or white space"
    kept = "".join(sign for sign in symbol if TICKER.fullmatch("A" + sign)).lstrip(".-=/:& ")
    # "$NVDA" was meant as NVDA; "../x" was meant as nothing
    near = TICKER.fullmatch(kept) and len(symbol) - len(kept) <= 2
    return f"did you mean {kept}?" if near else TICKER_HINT


def resolve(symbol: str, columns: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """
    Return the column that belongs to a symbol, and ("alias",) when the match is not exact.

    Exact first, then case-insensitive, then by share class (BRK.B = BRK-B = BRK/B). No match
    gives (None, ()).

    Raises
    ------
    InputError
        Two columns match equally well.
    """
    return build_resolver(columns)(symbol)


def build_resolver(columns: Sequence[str]) -> Callable[[str], tuple[str | None, tuple[str, ...]]]:
    """
    Return `resolve` for many symbols of the same columns: their forms are made once, and not before
    one is needed.
    """
    known = frozenset(columns)

    @functools.cache
    def by_form(form: Callable[[str], str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for column in columns:
            found.setdefault(form(column), []).append(column)
        return found

    def find(symbol: str) -> tuple[str | None, tuple[str, ...]]:
        if symbol in known:
            return symbol, ()
        for form in (fold_name, fold_share_class):
            found = by_form(form).get(form(symbol), [])
            if len(found) > 1:
                raise InputError(
                    f"{symbol} could be any of the columns {', '.join(map(repr, found))}.",
                    fix=f"rename one, or write {found[0]!r} exactly",
                )
            if found:
                return found[0], ("alias",)
        return None, ()

    return find


def fold_share_class(name: str) -> str:
    """Return the one spelling of a share class: BRK.B, BRK-B and BRK/B give "BRK.B"."""
    match = SHARE_CLASS.fullmatch(fold_name(name))
    return f"{match[1]}.{match[2]}" if match else fold_name(name)
