"""The form of a ticker, and the column that a ticker means. Rules: docs/metrics.md, "Inputs"."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

import numpy as np

from urisk_nb.errors import InputError
from urisk_nb.risk.values import describe_type, fold_name, show, strip_invisible

__all__ = [
    "TICKER_HINT",
    "build_resolver",
    "fold_listing",
    "fold_share_class",
    "is_known",
    "read_symbol",
    "resolve",
]

# ".SPX" and "_X" are indices; "EUR_USD" a pair of currencies; "ES1!" a series of futures.
TICKER = re.compile(r"(?=.{1,30}$)[._]?[A-Z0-9^][A-Z0-9.\-^=/:&_ ]*!?")
MAX_NAME_CHARS = 30  # of a name that the user's own data has
# BRK.B, BRK-B and BRK/B are three spellings of one share class.
SHARE_CLASS = re.compile(r"(.+)[.\-/]([A-Z])")
# What a terminal writes after the name: "AAPL US Equity", "T 4.5 Govt".
TERMINAL_WORDS = {"EQUITY", "INDEX", "CURNCY", "COMDTY", "CORP", "GOVT", "MTGE", "MUNI", "CLASS"}
# "NVDA US Equity", "SPX Index", "NVDA.US", "NASDAQ:NVDA", "NVDA (USD)": a name, and where it trades
LISTING = re.compile(
    r"(?:[A-Z]{2,10}:)?(?P<name>[A-Z0-9^][A-Z0-9.\-/^&]*?)"
    r"(?:[.:\-]US|(?: [A-Z]{2})?(?: (?:EQUITY|INDEX|CURNCY|COMDTY))?)(?: \([^()]*\))?"
)
TICKER_HINT = "write tickers such as NVDA, BRK.B or NVDA=0.4, separated by commas or white space"


def read_symbol(name: object, where: str, *, known: Collection[str] = ()) -> str:
    """
    Return the name in the form of `Holding.symbol`.

    Parameters
    ----------
    known
        Names that the user's own data has, such as the columns of the prices. They are tickers,
        whatever they look like, up to 30 visible characters. A set of them, each as `fold_name`
        gives it: it is asked once for each ticker.

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
    if known and is_known(name, known):
        return symbol
    if re.fullmatch(r"\d*\.\d+|\d+(?:\.\d*)?%|\.\d+%", symbol):
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


def is_known(name: str, known: Collection[str]) -> bool:
    """Return whether a name is among those of the user's data (folded), and is safe to show."""
    symbol = fold_name(name)
    return (
        0 < len(symbol) <= MAX_NAME_CHARS
        and all(unicodedata.category(sign)[0] != "C" for sign in symbol)
        and symbol in known
    )


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
    kept = "".join(sign for sign in symbol if TICKER.fullmatch(f"A{sign}A")).lstrip(".-=/:&_ ")
    # "$NVDA" was meant as NVDA; "../x" was meant as nothing
    near = TICKER.fullmatch(kept) and len(symbol) - len(kept) <= 2
    return f"did you mean {kept}?" if near else TICKER_HINT


def resolve(symbol: str, columns: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """
    Return the column that belongs to a symbol, and ("alias",) when the match is not exact.

    Exact first, then case-insensitive, then by share class (BRK.B = BRK-B = BRK/B), then by the
    name without its listing: NVDA = "NVDA US Equity" = NASDAQ:NVDA. No match gives (None, ()).

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
                raise _name_candidates(symbol, found)
            if found:
                return found[0], ("alias",)
        return find_listing(symbol)

    def find_listing(symbol: str) -> tuple[str | None, tuple[str, ...]]:
        # Only one side may name a listing: "NVDA GR Equity" is not "NVDA US Equity".
        bare = fold_listing(symbol)
        found = (
            by_form(fold_listing).get(bare, [])
            if bare == fold_share_class(symbol)
            else by_form(fold_share_class).get(bare, [])
        )
        if len(found) > 1:
            raise _name_candidates(symbol, found)
        return (found[0], ("alias",)) if found else (None, ())

    return find


def _name_candidates(symbol: str, found: Sequence[str]) -> InputError:
    return InputError(
        f"{symbol} could be any of the columns {', '.join(map(repr, found))}.",
        fix=f"rename one, or write {found[0]!r} exactly",
    )


def fold_listing(name: str) -> str:
    """Return the name without its exchange and kind: "BRK/B US Equity" gives "BRK.B"."""
    match = LISTING.fullmatch(fold_name(name))
    return fold_share_class(match["name"] if match else name)


def fold_share_class(name: str) -> str:
    """Return the one spelling of a share class: BRK.B, BRK-B and BRK/B give "BRK.B"."""
    match = SHARE_CLASS.fullmatch(fold_name(name))
    return f"{match[1]}.{match[2]}" if match else fold_name(name)
