"""The ticker list, in whatever shape it comes. Rules: docs/metrics.md, "Inputs"."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.tickers import (
    TICKER_HINT,
    build_resolver,
    fold_share_class,
    is_known,
    read_symbol,
)
from urisk_nb.risk.values import (
    NUMBER,
    describe_type,
    fold_name,
    read_number,
    show,
    strip_invisible,
)

__all__ = ["parse_tickers", "unite_spellings"]

WEIGHT = rf"{NUMBER}(?:\s*%)?"  # 40% is 0.4
# A line of a terminal that carries spaces: "AAPL US Equity" is one name.
TERMINAL = re.compile(rf".+ (?:EQUITY|INDEX|CURNCY|COMDTY)(?:={WEIGHT})?", re.IGNORECASE)
# What may follow "=" inside a name: EURUSD=X, ES=F, US10YT=RR. Anything longer was meant as a
# weight.
NAME_TAIL = re.compile(r"[A-Za-z0-9]{1,3}")


def parse_tickers(tickers: object, *, known: Collection[str] = ()) -> tuple[Holding, ...]:
    """
    Return the holdings of a ticker list, in its order.

    Parameters
    ----------
    tickers
        The text of a cell (commas, white space, new lines; `#` starts a comment; `NVDA=0.4` carries
        a weight), a list of such texts or of pairs (ticker, weight), a mapping ticker -> weight, a
        Series of weights indexed by ticker, or a Series of tickers. `NVDA=40%` is 0.4.
    known
        Names that the user's own data has. They are tickers, whatever they look like: "S&P 500"
        between commas is one, if a column is called so.

    Returns
    -------
    tuple of Holding
        One a distinct symbol. One that is listed again keeps its place, has the sum of its weights
        and is flagged.

    Raises
    ------
    InputError
        No ticker at all; a name outside the ticker rule; a weight that is no finite number. The
        message says which line.
    """
    found: dict[str, list[Holding]] = {}
    names = frozenset(map(fold_name, known))
    for where, name, weight in _iterate_entries(tickers, names):
        symbol = read_symbol(name, where, known=names)
        line = Holding(symbol=symbol, weight=_read_weight(weight, symbol, where))
        found.setdefault(symbol, []).append(line)
    if not found:
        raise InputError("there is no ticker.", fix=TICKER_HINT)
    holdings = tuple(map(_unite, found.values()))
    if all(one.weight is None for one in holdings):
        return holdings
    return tuple(
        one if one.weight is not None else replace(one, flags=(*one.flags, "no_weight"))
        for one in holdings
    )


def unite_spellings(holdings: Sequence[Holding], columns: Sequence[str]) -> tuple[Holding, ...]:
    """
    Return the holdings with those that mean one instrument as one: BRK.B and BRK-B are one stock.

    Two positions in it would count its risk as diversified. The first spelling is kept.

    Parameters
    ----------
    columns
        Of the prices, empty without. Tickers of one column are one; those without a column are one
        if they are spellings of one share class, by which evidence is found.

    Raises
    ------
    InputError
        A ticker could be any of several columns.
    """
    find = build_resolver(columns)
    found: dict[tuple[bool, str], list[Holding]] = {}
    for one in holdings:
        column, _ = find(one.symbol)
        name = fold_share_class(one.symbol) if column is None else column
        found.setdefault((column is None, name), []).append(one)
    return tuple(map(_unite, found.values()))


def _unite(holdings: Sequence[Holding]) -> Holding:
    """Return several lines of one instrument as one holding: lots of a position add up."""
    first, *others = holdings
    if not others:
        return first
    lines = [line for one in holdings for line in one.lines or ((one.symbol, one.weight),)]
    weights = [weight for _, weight in lines if weight is not None]
    flags = {flag for one in holdings for flag in one.flags} - ({"no_weight"} if weights else set())
    return replace(
        first,
        weight=_add(weights) if weights else None,
        flags=tuple(sorted(flags | {"duplicate"})),
        lines=tuple(lines),
    )


def _add(weights: Iterable[float]) -> float:
    """Return the sum as it is written: 20% and 10% are 0.3, not 0.30000000000000004."""
    return float(sum(Decimal(repr(weight)) for weight in weights))


def _iterate_entries(given: object, known: Collection[str]) -> Iterator[tuple[str, object, object]]:
    """Yield each (where it stands, name, weight or None), whatever shape the list came in."""
    if isinstance(given, str):
        for number, line in enumerate(given.splitlines(), 1):
            yield from _split_line(f"line {number}", line, known)
    elif isinstance(given, pd.Series) and all(
        isinstance(name, (int, np.integer)) for name in given.index
    ):
        yield from _iterate_entries(given.tolist(), known)
    elif isinstance(given, (Mapping, pd.Series)):
        yield from ((f"ticker {show(name)}", name, weight) for name, weight in given.items())
    elif isinstance(given, (bytes, pd.DataFrame)) or not isinstance(given, Iterable):
        raise InputError(
            f"the tickers are {describe_type(given)}, not text, a list or a mapping.",
            fix="dict(zip(frame['ticker'], frame['weight']))"
            if isinstance(given, pd.DataFrame)
            else TICKER_HINT,
        )
    else:
        # A set has no order of its own: sorted, so that two runs give one table.
        for number, item in enumerate(
            sorted(given, key=str) if isinstance(given, (set, frozenset)) else given, 1
        ):
            yield from _split_item(f"item {number}", item, known)


def _split_item(
    where: str, item: object, known: Collection[str]
) -> Iterator[tuple[str, object, object]]:
    if isinstance(item, str):
        yield from _split_line(where, item, known)
    elif isinstance(item, tuple) and len(item) == 2:
        yield where, item[0], item[1]
    else:
        yield where, item, None


def _split_line(
    where: str, line: str, known: Collection[str]
) -> Iterator[tuple[str, object, object]]:
    text = strip_invisible(line).split("#", 1)[0].replace("\N{MINUS SIGN}", "-")
    if comma := re.search(r"=\s*[-+]?(?:0,\d+(?=\s|,|$)|\d+,\d+\s*%)", text):
        seen = comma[0].lstrip("= ")
        raise InputError(
            f"{where}: {show(seen)} looks like a weight with a decimal comma.",
            fix=f"write {seen.replace(',', '.')}",
        )
    text = re.sub(rf"(={NUMBER}|=\s+{NUMBER})\s+%", r"\1%", text)  # "NVDA = 40 %" is one entry
    text = re.sub(rf"\s*=\s*(?={NUMBER}%?(?:[\s,]|$))", "=", text)
    for piece in map(str.strip, text.split(",")):
        is_one = TERMINAL.fullmatch(piece) or (
            known and is_known(re.sub(rf"={NUMBER}%?$", "", piece), known)
        )
        for token in [piece] if is_one else piece.split():
            yield where, *_split_weight(token, where)


def _split_weight(token: str, where: str) -> tuple[str, str | None]:
    """Split at the last "=" if a number follows; EURUSD=X is a name, NVDA=half is a mistake."""
    name, sign, tail = token.rpartition("=")
    if not sign or " " in tail:
        return token, None
    if re.fullmatch(WEIGHT, tail):
        if re.fullmatch(WEIGHT, name.rpartition("=")[2]) and "=" in name:
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
        fix=f"write {name.rstrip('=') or 'NVDA'}=0.4",
    )


def _read_weight(weight: object, symbol: str, where: str) -> float | None:
    if weight is None:
        return None
    is_percent = isinstance(weight, str) and weight.rstrip().endswith("%")
    number = read_number(str(weight).rstrip().removesuffix("%") if is_percent else weight)
    if number is not None and is_percent:
        number = float(Decimal(repr(number)) / 100)  # 7% is 0.07, not 0.07000000000000001
    if number is None:
        raise InputError(
            f"{where}: the weight {show(weight)} of {symbol} is not a finite number.",
            fix=f"write {symbol}=0.4",
        )
    return number
