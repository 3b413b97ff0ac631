"""
The names of price tables as data: which columns hold prices, volumes, tickers. docs/metrics.md has
the same lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from urisk_nb.errors import InputError
from urisk_nb.readers.columns import fold_label
from urisk_nb.risk.values import find_closest

__all__ = [
    "FIELDS",
    "PRICE_FIELDS",
    "TICKER_NAMES",
    "VOLUMES",
    "Choice",
    "choose_field",
    "find_field",
    "is_price_field",
]

# All in the form of `fold_label`: "Adj Close", "adj_close" and "5. adjusted close" are one name.
# Adjusted for splits and dividends, the first that is there:
ADJUSTED = (
    *("adjclose", "adjustedclose", "closeadj", "closeadjusted", "adjcloseprice", "adjclosingprice"),
    *("adjustedcloseprice", "adjustedclosingprice", "adjusted", "adjustedprice", "adjprice"),
    *("adj", "totreturnindexgrossdvds", "totalreturnindex", "returnindex"),
)
# As traded, or as the source has it:
AS_TRADED = (
    *("close", "closelast", "closeprice", "closingprice", "pxclose", "pxlast", "pxofficialclose"),
    *("lastprice", "last", "priceclose", "trdprc1", "settle", "settlement", "settlementprice"),
    *("pxsettle", "unadjclose", "unadjustedclose", "prc", "nav", "schlusskurs", "schluss", "kurs"),
    *("price", "prices", "mid", "midprice", "pxmid", "value", "obsvalue"),
    *("clôture", "cloture", "dernier", "cours", "cierre", "último", "ultimo", "precio", "chiusura"),
    *("prezzo", "收盘", "收盘价", "收盤", "收盤價", "終値", "종가", "zuletzt", "schlusspreis"),
    *("letzterkurs", "slotkoers", "slot", "laatste", "zamknięcie", "zamkniecie", "ostatnio"),
    *("fechamento", "cotação", "stängning", "stängningskurs", "senast", "цена", "закрытие"),
)
RETURNS = ("return", "returns", "ret", "rets", "dailyreturn", "dailyreturns", "pctchange", "retx")
PRICE_FIELDS = frozenset({*ADJUSTED, *AS_TRADED, *RETURNS})
VOLUMES = ("volume", "vol", "pxvolume", "totalvolume", "tradedvolume", "volumetraded")
# Other columns of one company's table
FIELDS = PRICE_FIELDS | {
    *VOLUMES,
    *("open", "high", "low", "pxopen", "pxhigh", "pxlow", "openprice", "highprice", "lowprice"),
    *("adjopen", "adjhigh", "adjlow", "adjvolume", "dividends", "dividend", "dividendamount"),
    *("stocksplits", "splits", "splitfactor", "splitcoefficient", "divcash", "capitalgains"),
    *("repaired", "vwap", "tradecount", "trades", "count", "turnover", "amount", "bid", "ask"),
    *("change", "changepercent", "changep", "unadjustedvolume", "label", "changeovertime"),
    *("erster", "eröffnung", "hoch", "tief", "stuecke", "stücke", "volumen", "umsatz"),
    *("ouverture", "haut", "bas", "plushaut", "plusbas", "apertura", "máximo", "mínimo"),
    *("eröffn", "geöffnet", "tageshoch", "tagestief", "ouv", "máx", "mín", "abertura", "massimo"),
    *("minimo", "otwarcie", "najwyższy", "najniższy", "wolumen", "시가", "고가", "저가", "거래량"),
    *("대비", "등락률", "始値", "高値", "安値", "出来高", "highprc", "openprc", "lowprc"),
    *("quotevolume", "quoteassetvolume", "closetime", "takerbuyvolume", "marketcap"),
    *("开盘", "最高", "最低", "成交量", "成交额", "振幅", "涨跌幅", "涨跌额", "换手率"),
    *("exdividend", "numberoftrades", "adjfactor", "spread", "openinterest", "preclose"),
}
# A column of tickers; those of the second line only beside a price, and only if they hold texts
TICKER_NAMES = ("ticker", "symbol")
OTHER_TICKER_NAMES = (
    *("tickers", "symbols", "tic", "ric", "instrument", "security", "tscode", "asset", "sid"),
    *("stock", "code", "name", "secid", "isin", "variable", "bloombergticker"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """
    The column that the prices are read from.

    Attributes
    ----------
    label
        Its label.
    is_adjusted
        True: its name says so. False: an adjusted one was there, and this one was asked for. None:
        nothing says so.
    """

    label: Any
    is_adjusted: bool | None = None


def is_price_field(label: object) -> bool:
    """Return whether a label is a name of prices (or returns), in whatever spelling."""
    return fold_label(label) in PRICE_FIELDS


def find_field(labels: Sequence[Any], names: Sequence[str]) -> Any:
    """
    Return the label that has the first of these names that occurs, or None.

    Raises
    ------
    InputError
        Two labels have this name.
    """
    by_name: dict[str, list[Any]] = {}
    for label in labels:
        by_name.setdefault(fold_label(label), []).append(label)
    found = next((by_name[name] for name in names if name in by_name), [None])
    if len(found) > 1:
        raise InputError(
            f"the columns {found} mean the same.",
            fix=f"drop one: prices.drop(columns={found[1]!r})",
        )
    return found[0]


def choose_field(
    labels: Sequence[Any],
    *,
    returns: bool,
    price_column: str | None,
    has_numbers: Callable[[Any], bool] | None = None,
) -> Choice | None:
    """
    Return the column to read: the one asked for, else adjusted prices, else others; None if none is
    known.

    Parameters
    ----------
    returns
        Columns of returns come before all others.
    has_numbers
        Whether a column holds any number: an empty "Adj Close" is passed over.

    Raises
    ------
    InputError
        No column has the name that was asked for.
    """
    if price_column is not None:
        return _find_price_column(labels, price_column)
    usable = [
        label
        for label in labels
        if is_price_field(label) and (not has_numbers or has_numbers(label))
    ]
    if returns and (label := find_field(usable, RETURNS)) is not None:
        return Choice(label=label)
    adjusted, traded = find_field(usable, ADJUSTED), find_field(usable, AS_TRADED)
    if adjusted is None:
        # A column of nothing but holes still says which one was meant
        label = traded if traded is not None else find_field(labels, (*ADJUSTED, *AS_TRADED))
        return None if label is None else Choice(label=label)
    return Choice(label=adjusted, is_adjusted=True)


def _find_price_column(labels: Sequence[Any], price_column: str) -> Choice:
    exact = [one for one in labels if str(one).strip().lower() == price_column.strip().lower()]
    found = exact or [one for one in labels if fold_label(one) == fold_label(price_column)]
    if not found:
        near = find_closest(price_column, map(str, labels), 1) or [str(labels[0])]
        raise InputError(
            f"the prices have no column {price_column!r}, only {', '.join(map(repr, labels))}.",
            fix=f"price_column={near[0]!r}",
        )
    adjusted = [one for one in labels if fold_label(one) in ADJUSTED]
    is_adjusted = True if found[0] in adjusted else False if adjusted else None
    return Choice(label=found[0], is_adjusted=is_adjusted)
