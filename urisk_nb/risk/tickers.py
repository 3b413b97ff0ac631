"""
The ticker list, in whatever shape it comes, and the column that a ticker means. Rules:
docs/metrics.md, "Inputs".
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.values import NUMBER, clean, kind, read_number, show, upper, written

__all__ = [
    "Holding",
    "as_symbol",
    "normalize_weights",
    "parse_tickers",
    "resolve",
    "resolver",
    "twin",
]

TICKER = re.compile(r"[A-Z0-9^][A-Z0-9.\-^=/:& ]{0,29}")
# BRK.B, BRK-B and BRK/B are three spellings of one share class.
SHARE_CLASS = re.compile(r"(.+)[.\-/]([A-Z])")
# A line of a terminal that carries spaces: "AAPL US Equity" is one name.
TERMINAL = re.compile(rf".+ (?:EQUITY|INDEX|CURNCY|COMDTY)(?:={NUMBER})?", re.IGNORECASE)
# What may follow "=" inside a name: EURUSD=X, ES=F, US10YT=RR. Anything longer was meant as a
# weight.
NAME_TAIL = re.compile(r"[A-Za-z0-9]{1,3}")
TICKER_HINT = "write tickers such as NVDA, BRK.B or NVDA=0.4, separated by commas or white space"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """
    One line of the ticker list.

    Attributes
    ----------
    symbol
        NFKC, stripped, upper case; matches the ticker rule, so it is safe to show, and is never
        made into a path.
    weight
        As given (negative is short), or None.
    flags
        "duplicate": it was listed again, the first line counts. "no_weight": others have a weight,
        this one has none.
    """

    symbol: str
    weight: float | None = None
    flags: tuple[str, ...] = ()


def parse_tickers(tickers: object) -> tuple[Holding, ...]:
    """
    The holdings of a ticker list, in its order.

    Parameters
    ----------
    tickers
        The text of a cell (commas, white space, new lines; `#` starts a comment; `NVDA=0.4` carries
        a weight), a list of such texts or of pairs (ticker, weight), a mapping ticker -> weight, a
        Series of weights indexed by ticker, or a Series of tickers.

    Returns
    -------
    tuple of Holding
        One a distinct symbol. A duplicate keeps its first line and is flagged.

    Raises
    ------
    InputError
        No ticker at all; a name outside the ticker rule; a weight that is no finite number. The
        message says which line.
    """
    found: dict[str, Holding] = {}
    for where, name, weight in _entries(tickers):
        symbol = as_symbol(name, where)
        if symbol in found:
            found[symbol] = replace(found[symbol], flags=("duplicate",))
        else:
            found[symbol] = Holding(symbol=symbol, weight=_weight(weight, symbol, where))
    if not found:
        raise InputError("there is no ticker.", fix=TICKER_HINT)
    holdings = tuple(found.values())
    if any(one.weight is not None for one in holdings):
        return tuple(
            one if one.weight is not None else replace(one, flags=(*one.flags, "no_weight"))
            for one in holdings
        )
    return holdings


def normalize_weights(holdings: Sequence[Holding]) -> tuple[Holding, ...]:
    """
    The holdings with weights that sum to 1: w_i / sum(w). Those without a weight stay so.

    Raises
    ------
    InputError
        No weight was given, or they sum to 0 (a net-zero book has no such scale).
    """
    total = math.fsum(one.weight for one in holdings if one.weight is not None)
    if all(one.weight is None for one in holdings):
        raise InputError(
            "normalise was asked for, but no ticker has a weight.",
            fix="write weights such as NVDA=0.4, or leave normalise out",
        )
    if abs(total) < 1e-12:
        raise InputError(
            f"the weights sum to {total:g} and cannot be scaled to 1.",
            fix="leave normalise out: net-zero books are used as given",
        )
    return tuple(
        one if one.weight is None else replace(one, weight=one.weight / total) for one in holdings
    )


def _entries(given: object) -> Iterator[tuple[str, object, object]]:
    """Each (where it stands, name, weight or None), whatever shape the list came in."""
    if isinstance(given, str):
        for number, line in enumerate(given.splitlines(), 1):
            yield from _line_entries(f"line {number}", line)
    elif isinstance(given, Mapping):
        yield from ((f"ticker {show(name)}", name, weight) for name, weight in given.items())
    elif isinstance(given, pd.Series):
        yield from _series_entries(given)
    elif isinstance(given, (bytes, pd.DataFrame)) or not isinstance(given, Iterable):
        fix = (
            "dict(zip(frame['ticker'], frame['weight']))"
            if isinstance(given, pd.DataFrame)
            else TICKER_HINT
        )
        raise InputError(f"the tickers are {kind(given)}, not text, a list or a mapping.", fix=fix)
    else:
        # A set has no order of its own: sorted, so that two runs give one table.
        for number, item in enumerate(
            sorted(given, key=str) if isinstance(given, (set, frozenset)) else given, 1
        ):
            yield from _item_entries(f"item {number}", item)


def _series_entries(series: pd.Series[Any]) -> Iterator[tuple[str, object, object]]:
    names = series.index.tolist()
    if all(isinstance(name, (int, np.integer)) for name in names):
        for number, item in enumerate(series.tolist(), 1):
            yield from _item_entries(f"item {number}", item)
    else:
        yield from (
            (f"ticker {show(name)}", name, weight)
            for name, weight in zip(names, series.tolist(), strict=True)
        )


def _item_entries(where: str, item: object) -> Iterator[tuple[str, object, object]]:
    if isinstance(item, str):
        yield from _line_entries(where, item)
    elif isinstance(item, tuple) and len(item) == 2:
        yield where, item[0], item[1]
    else:
        yield where, item, None


def _line_entries(where: str, line: str) -> Iterator[tuple[str, object, object]]:
    text = clean(line).split("#", 1)[0].replace("\N{MINUS SIGN}", "-")
    if comma := re.search(r"=\s*[-+]?0,\d+(?=\s|,|$)", text):
        seen = comma[0].lstrip("= ")
        raise InputError(
            f"{where}: {show(seen)} looks like a weight with a decimal comma.",
            fix=f"write {seen.replace(',', '.')}",
        )
    text = re.sub(rf"\s*=\s*(?={NUMBER}(?:[\s,]|$))", "=", text)  # "NVDA = 0.4" is one entry
    for piece in text.split(","):
        for token in [piece.strip()] if TERMINAL.fullmatch(piece.strip()) else piece.split():
            yield where, *_split_weight(token, where)


def _split_weight(token: str, where: str) -> tuple[str, str | None]:
    """At the last "=", if a number follows; EURUSD=X is a name, NVDA=half is a mistake."""
    name, sign, tail = token.rpartition("=")
    if not sign or " " in tail:
        return token, None
    if re.fullmatch(NUMBER, tail):
        if re.fullmatch(NUMBER, name.rpartition("=")[2]) and "=" in name:
            raise InputError(
                f"{where}: {show(token)} has two weights.", fix=f"write {name.split('=')[0]}={tail}"
            )
        return name, tail
    # "EUR=" is a name in its own right
    spot_rate = not tail and re.fullmatch(r"[A-Za-z]{3}(?:[A-Za-z]{3})?", name)
    if spot_rate or (NAME_TAIL.fullmatch(tail) and tail.lower() not in {"inf", "nan"}):
        return token, None
    raise InputError(
        f"{where}: the weight {show(tail)} of {show(name)} is not a number.",
        fix=f"write {name.rstrip('=') or 'NVDA'}={_weight_hint(tail)}",
    )


def _weight_hint(tail: str) -> str:
    number = read_number(tail.removesuffix("%"))
    return "0.4" if number is None else written(number / 100)


def _weight(weight: object, symbol: str, where: str) -> float | None:
    if weight is None:
        return None
    number = read_number(weight)
    if number is None:
        raise InputError(
            f"{where}: the weight {show(weight)} of {symbol} is not a finite number.",
            fix=f"write {symbol}=0.4",
        )
    return number


def as_symbol(name: object, where: str) -> str:
    """
    The name in the form of `Holding.symbol`; InputError, beginning with `where`, for one outside
    the ticker rule.
    """
    if not isinstance(name, str):
        fix = (
            f'write "{name}" in quotes; numbers lose leading zeros'
            if isinstance(name, (int, np.integer))
            else TICKER_HINT
        )
        raise InputError(f"{where}: {show(name)} is {kind(name)}, not a ticker.", fix=fix)
    symbol = upper(name)
    if re.fullmatch(r"\d*\.\d+", symbol):
        raise InputError(
            f"{where}: {show(name)} looks like a weight without a ticker.",
            fix=f"write NVDA={symbol}",
        )
    if not TICKER.fullmatch(symbol):
        raise InputError(f"{where}: {show(name)} is not a ticker.", fix=_ticker_hint(symbol))
    return symbol


def _ticker_hint(symbol: str) -> str:
    if re.search(r"[A-Z0-9][;|][A-Z0-9]", symbol):
        return "separate tickers by commas or white space"
    kept = "".join(sign for sign in symbol if TICKER.fullmatch("A" + sign)).lstrip(".-=/:& ")
    # "$NVDA" was meant as NVDA; "../x" was meant as nothing
    near = TICKER.fullmatch(kept) and len(symbol) - len(kept) <= 2
    return f"did you mean {kept}?" if near else TICKER_HINT


def resolve(symbol: str, columns: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """
    The column that belongs to a symbol, and ("alias",) when the match is not exact.

    Exact first, then case-insensitive, then the class-share twin (BRK.B = BRK-B = BRK/B). No match
    gives (None, ()).

    Raises
    ------
    InputError
        Two columns match equally well.
    """
    return resolver(columns)(symbol)


def resolver(columns: Sequence[str]) -> Callable[[str], tuple[str | None, tuple[str, ...]]]:
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
        for form in (upper, twin):
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


def twin(name: str) -> str:
    """The one spelling that all spellings of a share class share: BRK-B and BRK/B give "BRK.B"."""
    match = SHARE_CLASS.fullmatch(upper(name))
    return f"{match[1]}.{match[2]}" if match else upper(name)
