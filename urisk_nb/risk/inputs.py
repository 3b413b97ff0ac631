"""
What the user gives: parameters, tickers, prices, evidence; each is read once into a frozen record, or refused with a way out.

The module is over 400 lines because every shape that people hand over (cell text, dicts, Series, wide and long frames, text for dates)
is read here and nowhere else: the rest of the package sees only the records. Rules: docs/metrics.md, "Inputs".

Three rules run through it. Nothing is guessed: a number is no date, words are no weight, "01/02/2018" is no ISO date.
What makes one company unusable is kept for its row (`Prices.faults`); what makes the whole input doubtful raises before anything runs.
A name that is not found is answered with the closest ones.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types as kinds

from urisk_nb.errors import InputError

__all__ = [
    "Document",
    "Holding",
    "Prices",
    "RiskParams",
    "alpha_label",
    "closest",
    "counted",
    "documents_for",
    "parse_tickers",
    "read_evidence",
    "read_prices",
    "resolve",
    "scaled",
    "tail_mass",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

TICKER = re.compile(r"[A-Z0-9^][A-Z0-9.\-^=/:& ]{0,29}")
# BRK.B, BRK-B and BRK/B are three spellings of one share class.
SHARE_CLASS = re.compile(r"(.+)[.\-/]([A-Z])")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# A line of a terminal that carries spaces: "AAPL US Equity" is one name.
TERMINAL = re.compile(rf".+ (?:EQUITY|INDEX|CURNCY|COMDTY)(?:={NUMBER})?", re.IGNORECASE)
WEIGHT = re.compile(NUMBER)
# What may follow "=" inside a name: EURUSD=X, ES=F, US10YT=RR. Anything longer was meant as a weight.
NAME_TAIL = re.compile(r"[A-Za-z0-9]{1,3}")
WINDOW = re.compile(r"(\d{1,5})\s*([dwmy])[a-z]*", re.IGNORECASE)
WINDOW_LIMIT = {"d": 36_525, "w": 5_218, "m": 1_200, "y": 100}
TICKER_HINT = "write tickers such as NVDA, BRK.B or NVDA=0.4, separated by commas or white space"


# --- parameters -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskParams:
    """
    Everything that decides a run; recorded with it.

    Parameters
    ----------
    alpha
        Tail masses in (0, 0.5], the first is the main one; 0.05 gives `var_95` and `es_95`. A single number and "0.05,0.01" are accepted.
    start, end
        First and last date of the prices that are used, both included. A date, a timestamp or ISO text.
    window
        "2y", "6m", "12w" or "90d", counted back from `as_of` (or from `end`, if that is earlier). Not together with `start`.
    as_of
        Nothing after this date is used, neither prices nor evidence. Default: the last date of the prices.
    benchmark
        A column of the prices, "equal" (the equal-weighted mean of the table's own assets) or "given" (a Series was passed).
    periods_per_year
        Overrides the factor that is read off each asset's own spacing.
    returns
        The prices are simple returns already.
    normalise
        Scale the weights to the sum 1.
    query
        Chooses the sentences that bear on it, and narrows the question to it.
    max_sentences, seed, llm, model, num_predict
        How the model is asked.

    Raises
    ------
    InputError
        When a value cannot be meant as given; the message names the setting, the value and the likely intention.
    """

    alpha: tuple[float, ...] = (0.05,)
    start: date | None = None
    end: date | None = None
    window: str | None = None
    as_of: date | None = None
    benchmark: str | None = None
    periods_per_year: float | None = None
    returns: bool = False
    normalise: bool = False
    query: str | None = None
    max_sentences: int = 40
    seed: int = 1
    llm: bool = True
    model: str | None = None
    num_predict: int = 48

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for everyone else; here the value gets its one form

        put("alpha", _alphas(self.alpha))
        for name in ("start", "end", "as_of"):
            put(name, _setting_date(name, getattr(self, name)))
        put("window", _window(self.window))
        for name in ("benchmark", "query", "model"):
            put(name, _text_setting(name, getattr(self, name)))
        put("periods_per_year", _factor(self.periods_per_year))
        for name in ("returns", "normalise", "llm"):
            put(name, _switch(name, getattr(self, name)))
        for name, least in (("max_sentences", 1), ("num_predict", 1), ("seed", 0)):
            put(name, _whole(name, getattr(self, name), least))
        self._check_period()

    def _check_period(self) -> None:
        if self.start and self.window:
            raise InputError(f"start={self.start} and window={self.window!r} both say where the period begins.", fix="give one of the two")
        for late_name, late in (("end", self.end), ("as_of", self.as_of)):
            if self.start and late and self.start > late:
                raise InputError(
                    f"start={self.start} is after {late_name}={late}.", fix=f"swap them: start={late}, {late_name}={self.start}"
                )

    @classmethod
    def of(cls, **settings: Any) -> RiskParams:
        """
        Parameters from loosely typed settings (a magic's flags, a recorded run).

        Raises
        ------
        InputError
            For a name that does not exist (the closest one is suggested), or a value that `RiskParams` refuses.
        """
        known = [one.name for one in fields(cls)]
        for name in settings:
            if name not in known:
                raise InputError(
                    f"there is no parameter {_show(name)}.", fix=_did_you_mean(name, known) or f"use one of {', '.join(known)}"
                )
        return cls(**settings)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values by name, in the order of the fields; `RiskParams.of(**d)` reads them back."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        plain = {name: value.isoformat() if isinstance(value, date) else value for name, value in values.items()}
        return plain | {"alpha": list(self.alpha)}


def alpha_label(alpha: float) -> str:
    """
    The digits of the confidence level in a column's name: 0.05 gives "95", 0.01 "99", 0.025 "975", 0.1 "90".

    Decimal arithmetic on the shortest spelling of `alpha`, since 1 - 0.05 and its like have no exact binary value.
    """
    digits = str(1 - Decimal(repr(alpha))).removeprefix("0.").rstrip("0")
    return digits.ljust(2, "0")


def _alphas(given: object) -> tuple[float, ...]:
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    values = [given] if not isinstance(given, Iterable) else list(given)
    if not values:
        raise InputError("alpha is empty.", fix="alpha=0.05")
    masses = tuple(dict.fromkeys(tail_mass(value) for value in values))
    labels = [alpha_label(mass) for mass in masses]
    if len(set(labels)) < len(labels):
        raise InputError(f"two of alpha={list(masses)} have the same column name.", fix="keep one of them")
    return masses


def tail_mass(value: object) -> float:
    """
    The mass of a tail as a fraction in (0, 0.5].

    Raises
    ------
    InputError
        For anything else; 5, 95 and 0.95 are answered with 0.05.
    """
    try:
        mass = float(value)  # type: ignore[arg-type]  # whatever it is, the error below names it
    except (TypeError, ValueError) as exc:
        text = str(value)
        fix = (
            f"alpha={_plain(float(text[:-1]) / 100)}" if re.fullmatch(r"\s*" + NUMBER + "%", text) else "alpha=0.05 (the mass of the tail)"
        )
        raise InputError(f"alpha={_show(value)} is not a number.", fix=fix) from exc
    if isinstance(value, (bool, np.bool_)) or not 0 < mass <= 0.5:
        raise InputError(f"alpha={_show(value)} is not a tail mass in (0, 0.5].", fix=_alpha_hint(mass))
    return mass


def _alpha_hint(mass: float) -> str:
    """5, 95 and 0.95 are how people write what alpha calls 0.05."""
    if 0.5 < mass < 1:
        meant = 1 - mass
    elif 1 < mass <= 50:
        meant = mass / 100
    elif 50 < mass < 100:
        meant = 1 - mass / 100
    else:
        return "alpha=0.05 (the mass of the tail)"
    return f"did you mean {_plain(meant)}? alpha={_plain(meant)} is the mass of the tail, as a fraction"


def _plain(value: float) -> str:
    return f"{round(value, 12):g}"


def _setting_date(name: str, value: object) -> date | None:
    if value is None:
        return None
    try:
        return _moment(value).date()
    except ValueError as exc:
        raise InputError(f"{name}={_show(value)} is not a date.", fix=f'{name}="2019-12-30"') from exc


def _window(value: object) -> str | None:
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else ""
    if not (match := WINDOW.fullmatch(text)):
        raise InputError(f"window={_show(value)} is not a length of time.", fix='window="2y" ("2y", "6m", "12w" or "90d")')
    count, unit = int(match[1]), match[2].lower()
    if text.lower() != f"{match[1]}{unit}":  # "2 years" is clear to a reader, but one spelling keeps records comparable
        raise InputError(f"window={_show(value)} is not in short form.", fix=f'did you mean window="{count}{unit}"?')
    if not 0 < count <= WINDOW_LIMIT[unit]:
        raise InputError(f"window={_show(value)} is not between 1{unit} and {WINDOW_LIMIT[unit]}{unit}.", fix='window="2y"')
    return f"{count}{unit}"


def _text_setting(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        extra = '; pass a Series as benchmark= of the call, and "given" here' if name == "benchmark" else ""
        raise InputError(f"{name} is {_kind(value)}, not text.", fix=f'{name}="..."{extra}')
    if not value.strip() and name != "query":
        raise InputError(f"{name} is empty text.", fix=f"leave {name} out, or name one")
    return value.strip() or None


def _factor(value: object) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None or number <= 0:
        raise InputError(
            f"periods_per_year={_show(value)} is not a positive number.", fix="periods_per_year=252 (days), 52 (weeks) or 12 (months)"
        )
    return number


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name}={_show(value)} is not True or False.", fix=f"{name}=True")
    return bool(value)


def _whole(name: str, value: object, least: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # anything else is answered below
    except TypeError as exc:
        raise InputError(f"{name}={_show(value)} is not a whole number.", fix=f"{name}={max(least, 1)}") from exc
    if isinstance(value, bool) or number < least:
        raise InputError(f"{name}={_show(value)} is not a whole number of {least} or more.", fix=f"{name}={max(least, 1)}")
    return number


# --- tickers ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """
    One line of the ticker list.

    Attributes
    ----------
    symbol
        NFKC, stripped, upper case; matches the ticker rule, so it is safe to show, and is never made into a path.
    weight
        As given (negative is short), or None.
    flags
        "duplicate": it was listed again, the first line counts. "no_weight": others have a weight, this one has none.
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
        The text of a cell (commas, white space, new lines; `#` starts a comment; `NVDA=0.4` carries a weight), a list of such texts or of
        pairs (ticker, weight), a mapping ticker -> weight, a Series of weights indexed by ticker, or a Series of tickers.

    Returns
    -------
    tuple of Holding
        One a distinct symbol. A duplicate keeps its first line and is flagged.

    Raises
    ------
    InputError
        No ticker at all; a name outside the ticker rule; a weight that is no finite number. The message says which line.
    """
    found: dict[str, Holding] = {}
    for where, name, weight in _entries(tickers):
        symbol = _symbol(name, where)
        if symbol in found:
            found[symbol] = replace(found[symbol], flags=("duplicate",))
        else:
            found[symbol] = Holding(symbol=symbol, weight=_weight(weight, symbol, where))
    if not found:
        raise InputError("there is no ticker.", fix=TICKER_HINT)
    holdings = tuple(found.values())
    if any(one.weight is not None for one in holdings):
        return tuple(one if one.weight is not None else replace(one, flags=(*one.flags, "no_weight")) for one in holdings)
    return holdings


def scaled(holdings: Sequence[Holding]) -> tuple[Holding, ...]:
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
            "normalise was asked for, but no ticker has a weight.", fix="write weights such as NVDA=0.4, or leave normalise out"
        )
    if abs(total) < 1e-12:
        raise InputError(
            f"the weights sum to {total:g} and cannot be scaled to 1.", fix="leave normalise out: net-zero books are used as given"
        )
    return tuple(one if one.weight is None else replace(one, weight=one.weight / total) for one in holdings)


def _entries(given: object) -> Iterator[tuple[str, object, object]]:
    """Each (where it stands, name, weight or None), whatever shape the list came in."""
    if isinstance(given, str):
        for number, line in enumerate(given.splitlines(), 1):
            yield from _line_entries(f"line {number}", line)
    elif isinstance(given, Mapping):
        yield from ((f"ticker {_show(name)}", name, weight) for name, weight in given.items())
    elif isinstance(given, pd.Series):
        yield from _series_entries(given)
    elif isinstance(given, (bytes, pd.DataFrame)) or not isinstance(given, Iterable):
        fix = "dict(zip(frame['ticker'], frame['weight']))" if isinstance(given, pd.DataFrame) else TICKER_HINT
        raise InputError(f"the tickers are {_kind(given)}, not text, a list or a mapping.", fix=fix)
    else:
        # A set has no order of its own: sorted, so that two runs give one table.
        for number, item in enumerate(sorted(given, key=str) if isinstance(given, (set, frozenset)) else given, 1):
            yield from _item_entries(f"item {number}", item)


def _series_entries(series: pd.Series[Any]) -> Iterator[tuple[str, object, object]]:
    names = series.index.tolist()
    if all(isinstance(name, (int, np.integer)) for name in names):
        for number, item in enumerate(series.tolist(), 1):
            yield from _item_entries(f"item {number}", item)
    else:
        yield from ((f"ticker {_show(name)}", name, weight) for name, weight in zip(names, series.tolist(), strict=True))


def _item_entries(where: str, item: object) -> Iterator[tuple[str, object, object]]:
    if isinstance(item, str):
        yield from _line_entries(where, item)
    elif isinstance(item, tuple) and len(item) == 2:
        yield where, item[0], item[1]
    else:
        yield where, item, None


def _line_entries(where: str, line: str) -> Iterator[tuple[str, object, object]]:
    text = _clean(line).split("#", 1)[0].replace("\N{MINUS SIGN}", "-")
    if comma := re.search(r"=\s*[-+]?0,\d+(?=\s|,|$)", text):
        seen = comma[0].lstrip("= ")
        raise InputError(f"{where}: {_show(seen)} looks like a weight with a decimal comma.", fix=f"write {seen.replace(',', '.')}")
    text = re.sub(rf"\s*=\s*(?={NUMBER}(?:[\s,]|$))", "=", text)  # "NVDA = 0.4" is one entry
    for piece in text.split(","):
        for token in [piece.strip()] if TERMINAL.fullmatch(piece.strip()) else piece.split():
            yield where, *_split_weight(token, where)


def _split_weight(token: str, where: str) -> tuple[str, str | None]:
    """At the last "=", if a number follows; EURUSD=X is a name, NVDA=half is a mistake."""
    name, sign, tail = token.rpartition("=")
    if not sign or " " in tail:
        return token, None
    if WEIGHT.fullmatch(tail):
        if WEIGHT.fullmatch(name.rpartition("=")[2]) and "=" in name:
            raise InputError(f"{where}: {_show(token)} has two weights.", fix=f"write {name.split('=')[0]}={tail}")
        return name, tail
    spot_rate = not tail and re.fullmatch(r"[A-Za-z]{3}(?:[A-Za-z]{3})?", name)  # "EUR=" is a name in its own right
    if spot_rate or (NAME_TAIL.fullmatch(tail) and tail.lower() not in {"inf", "nan"}):
        return token, None
    raise InputError(
        f"{where}: the weight {_show(tail)} of {_show(name)} is not a number.",
        fix=f"write {name.rstrip('=') or 'NVDA'}={_weight_hint(tail)}",
    )


def _weight_hint(tail: str) -> str:
    number = _number(tail.removesuffix("%"))
    return "0.4" if number is None else _plain(number / 100)


def _weight(weight: object, symbol: str, where: str) -> float | None:
    if weight is None:
        return None
    number = _number(weight)
    if number is None:
        raise InputError(f"{where}: the weight {_show(weight)} of {symbol} is not a finite number.", fix=f"write {symbol}=0.4")
    return number


def _symbol(name: object, where: str) -> str:
    if not isinstance(name, str):
        fix = f'write "{name}" in quotes; numbers lose leading zeros' if isinstance(name, (int, np.integer)) else TICKER_HINT
        raise InputError(f"{where}: {_show(name)} is {_kind(name)}, not a ticker.", fix=fix)
    symbol = _upper(name)
    if re.fullmatch(r"\d*\.\d+", symbol):
        raise InputError(f"{where}: {_show(name)} looks like a weight without a ticker.", fix=f"write NVDA={symbol}")
    if not TICKER.fullmatch(symbol):
        raise InputError(f"{where}: {_show(name)} is not a ticker.", fix=_ticker_hint(symbol))
    return symbol


def _ticker_hint(symbol: str) -> str:
    if re.search(r"[A-Z0-9][;|][A-Z0-9]", symbol):
        return "separate tickers by commas or white space"
    kept = "".join(sign for sign in symbol if TICKER.fullmatch("A" + sign)).lstrip(".-=/:& ")
    near = TICKER.fullmatch(kept) and len(symbol) - len(kept) <= 2  # "$NVDA" was meant as NVDA; "../x" was meant as nothing
    return f"did you mean {kept}?" if near else TICKER_HINT


def _clean(text: str) -> str:
    """NFKC without invisible format characters (a zero-width space pasted from a web page)."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")


def _upper(text: str) -> str:
    return " ".join(_clean(text).split()).upper()


# --- names ------------------------------------------------------------------------------------------------------------------------


def resolve(symbol: str, columns: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """
    The column that belongs to a symbol, and ("alias",) when the match is not exact.

    Exact first, then case-insensitive, then the class-share twin (BRK.B = BRK-B = BRK/B). No match gives (None, ()).

    Raises
    ------
    InputError
        Two columns match equally well.
    """
    if symbol in columns:
        return symbol, ()
    for form in (_upper, _twin):
        wanted = form(symbol)
        found = [column for column in columns if form(column) == wanted]
        if len(found) > 1:
            raise InputError(
                f"{symbol} could be any of the columns {', '.join(map(repr, found))}.", fix=f"rename one, or write {found[0]!r} exactly"
            )
        if found:
            return found[0], ("alias",)
    return None, ()


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of the known names that are spelt most like `name`, whatever their case; the best first."""
    by_form: dict[str, str] = {}
    for one in known:
        by_form.setdefault(_upper(one), one)
    return [by_form[form] for form in difflib.get_close_matches(_upper(name), by_form, n=count)]


def _twin(name: str) -> str:
    match = SHARE_CLASS.fullmatch(_upper(name))
    return f"{match[1]}.{match[2]}" if match else _upper(name)


def _did_you_mean(name: str, known: Iterable[str]) -> str | None:
    found = closest(name, known, 1)
    return f"did you mean {found[0]!r}?" if found else None


# --- prices -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """
    Prices as read: one column a ticker, one row a date.

    Attributes
    ----------
    close
        float64; the index is naive, at midnight, sorted and without duplicates; NaN where there was no price.
    volume
        The same shape, or None.
    flags
        "unsorted": the rows came in another order.
    is_returns
        The values are simple returns, not prices.
    faults
        Column -> date -> what stood there instead of a number (NaN in `close`). Such a column is a row with status bad_data.
    """

    close: pd.DataFrame
    volume: pd.DataFrame | None = None
    flags: tuple[str, ...] = ()
    is_returns: bool = False
    faults: Mapping[str, Mapping[pd.Timestamp, str]] = field(default_factory=dict)


def read_prices(data: object, *, returns: bool = False) -> Prices:
    """
    Prices (or, with `returns`, simple returns) from a wide or a long frame.

    Parameters
    ----------
    data
        Wide: one column a ticker. Long: columns ticker, close and optionally volume. The dates are the index or a column called date or
        datetime. A time zone is dropped and the local date kept; nothing is converted to UTC. A named Series is a frame of one column.
    returns
        The values are simple returns. It is never guessed.

    Raises
    ------
    InputError
        When the frame itself is at fault: no dates, no columns, two rows for one date, dates with and without a time zone.
        A column at fault is no error here: see `Prices.faults`, and the status of its row.
    """
    frame = _frame(data)
    names = {str(column).strip().lower() for column in frame.columns}
    if names & {"ticker", "symbol"}:
        return _read_long(frame, returns=returns)
    dates, frame = _split_dates(frame)
    _check_labels(frame.columns)
    frame.columns = pd.Index([str(column).strip() for column in frame.columns], dtype=object)
    columns = {name: _floats(frame[name]) for name in frame.columns}
    close = pd.DataFrame({name: values for name, (values, _) in columns.items()}, index=dates)
    faults = {name: _fault_cells(frame[name], dates, bad) for name, (_, bad) in columns.items() if bad.any()}
    if twice := dates[dates.duplicated()].tolist():
        fix = "keep one row for each date: prices.groupby(level=0).last()"
        raise InputError(f"the date {twice[0].date()} has more than one row ({counted(len(twice), 'repeated row')} in all).", fix=fix)
    flags = () if dates.is_monotonic_increasing else ("unsorted",)
    return Prices(close=close.sort_index(), flags=flags, is_returns=returns, faults=faults)


def _frame(data: object) -> pd.DataFrame:
    if isinstance(data, pd.Series):
        if not isinstance(data.name, str):
            raise InputError("the prices are a Series without a name.", fix='prices.rename("NVDA")')
        data = data.to_frame()
    if not isinstance(data, pd.DataFrame):
        hint = "prices.to_pandas()" if hasattr(data, "to_pandas") else "pd.DataFrame(prices): dates as index, one column a ticker"
        raise InputError(f"the prices are {_kind(data)}, not a DataFrame.", fix=hint)
    if isinstance(data.columns, pd.MultiIndex):
        level = next((name for name in data.columns.get_level_values(0) if str(name).lower() == "close"), data.columns[0][0])
        raise InputError(f"the prices have {data.columns.nlevels} levels of columns.", fix=f"take one of them: prices[{level!r}]")
    if isinstance(data.index, pd.MultiIndex):
        if any(name is None or name in data.columns for name in data.index.names):
            raise InputError("the prices have several index levels without names.", fix='prices.rename_axis(["date", "ticker"])')
        data = data.reset_index()
    if data.empty:
        raise InputError(
            f"the prices are empty ({len(data)} rows, {len(data.columns)} columns).", fix="check what was loaded: prices.info()"
        )
    return data


def _named(frame: pd.DataFrame, *names: str) -> Any:
    """The label of the column that has one of these names in any case, or None."""
    found = [column for column in frame.columns if str(column).strip().lower() in names]
    if len(found) > 1:
        raise InputError(f"the columns {found} mean the same.", fix=f"drop one: frame.drop(columns={found[1]!r})")
    return found[0] if found else None


def _split_dates(frame: pd.DataFrame) -> tuple[pd.DatetimeIndex, pd.DataFrame]:
    label = _named(frame, "date", "datetime")
    # to_csv() of a frame whose index has no name comes back with its dates in a column of this name
    if label is None and not isinstance(frame.index, (pd.DatetimeIndex, pd.PeriodIndex)) and "Unnamed: 0" in frame.columns:
        label = "Unnamed: 0"
    if label is not None:
        dates, rest = _dates(frame[label], f"column {label!r}"), frame.drop(columns=[label])
        if rest.columns.empty:
            raise InputError(f"the prices have no column but {label!r}.", fix="add one column a ticker")
        return dates, rest
    if kinds.is_numeric_dtype(frame.index.dtype):
        near = closest("date", map(str, frame.columns), 1)
        fix = f"prices.rename(columns={{{near[0]!r}: 'date'}})" if near else 'name the column of dates "date", or set_index() it'
        raise InputError(f"the prices have no dates: the index counts {frame.index[0]}, ..., {frame.index[-1]}.", fix=fix)
    return _dates(frame.index.to_series(), "the index"), frame.copy()


def _dates(values: pd.Series[Any], where: str) -> pd.DatetimeIndex:
    """Local calendar dates, naive; whatever they were written as."""
    if isinstance(values.dtype, pd.PeriodDtype):
        return _midnight(pd.PeriodIndex(values).to_timestamp(how="end"))
    if kinds.is_datetime64_any_dtype(values.dtype):
        known = pd.DatetimeIndex(values)
    elif kinds.is_numeric_dtype(values.dtype):
        fix = 'pd.to_datetime(dates, format="%Y%m%d"), or whatever the numbers mean'
        raise InputError(f"{where} has numbers for dates (first: {values.iloc[0]}).", fix=fix)
    else:
        known = _dates_of_objects(values, where)
    if known.hasnans:
        rows = np.flatnonzero(known.isna())
        raise InputError(
            f"{where} has {counted(len(rows), 'row')} without a date (first: row {rows[0] + 1}).", fix="drop them, or fill in their dates"
        )
    return _midnight(known)


def _midnight(index: pd.DatetimeIndex) -> pd.DatetimeIndex:
    # tz_localize(None) keeps the wall clock: a close in New York stays on its own day
    return pd.DatetimeIndex(index.tz_localize(None).normalize().as_unit("us"), name="date")


def _dates_of_objects(values: pd.Series[Any], where: str) -> pd.DatetimeIndex:
    codes, distinct = _distinct(values, where)  # in long form 500 tickers share their dates: each is read once
    moments = []
    for code, value in enumerate(distinct):
        try:
            moments.append(_moment(value))
        except ValueError as exc:
            fix = 'write ISO dates (2019-12-30), or convert first: pd.to_datetime(dates, format="%m/%d/%Y")'
            row = int(np.argmax(codes == code)) + 1
            raise InputError(f"{where}, row {row}: {_show(value)} is not a date.", fix=fix) from exc
    _check_zones(moments, where)
    # one more for code -1, the missing ones
    known = np.array([*(moment.date() for moment in moments), None], dtype="datetime64[D]")
    return pd.DatetimeIndex(known[codes].astype("datetime64[us]"))


def _distinct(values: pd.Series[Any], where: str) -> tuple[npt.NDArray[np.intp], list[object]]:
    """Codes into the distinct values, -1 where there is none."""
    try:
        codes, distinct = pd.factorize(values)
    except TypeError as exc:
        raise InputError(f"{where} holds lists or other containers, not single values.", fix="one value a row") from exc
    blank = [code for code, value in enumerate(distinct) if _is_missing(value)]
    if blank:  # an empty text is as good as None
        codes, distinct = pd.factorize(values.astype(object).mask(np.isin(codes, blank)))
    return codes, list(distinct)


def _check_zones(moments: Sequence[datetime], where: str) -> None:
    aware = [moment for moment in moments if moment.tzinfo is not None]
    if aware and len(aware) < len(moments):
        bare = next(moment for moment in moments if moment.tzinfo is None)
        seen = f"{where} has dates with a time zone ({aware[0]}) and without ({bare})."
        raise InputError(seen, fix="dates.tz_localize(None) on the part that has a zone")
    offsets = [moment.utcoffset() for moment in aware]
    hours = [offset.total_seconds() / 3600 for offset in offsets if offset is not None]
    zones = {str(getattr(moment.tzinfo, "key", getattr(moment.tzinfo, "zone", "fixed"))) for moment in aware}
    if len(zones) > 1 or (hours and max(hours) - min(hours) > 1):  # summer time moves by an hour, never more
        seen = f"{where} mixes time zones (UTC{min(hours):+g} to UTC{max(hours):+g})."
        raise InputError(seen, fix='one zone for all: dates.tz_convert("America/New_York")')


def _check_labels(labels: pd.Index[Any]) -> None:
    for label in labels:
        if not isinstance(label, str):
            fix = 'prices.columns = ["NVDA", ...]; read numbers as text, so that leading zeros stay'
            raise InputError(f"the column {_show(label)} is {_kind(label)}, not a ticker.", fix=fix)
    names = [label.strip() for label in labels]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1] if len(set(names)) < len(names) else []:
        raise InputError(f"the prices have the column {twice[0]!r} more than once.", fix="prices.loc[:, ~prices.columns.duplicated()]")


def _floats(column: pd.Series[Any]) -> tuple[FloatArray, BoolArray]:
    """The values as float64 and, beside them, which cells held something that is no number."""
    dtype = column.dtype
    if (
        kinds.is_bool_dtype(dtype)
        or kinds.is_complex_dtype(dtype)
        or kinds.is_datetime64_any_dtype(dtype)
        or kinds.is_timedelta64_dtype(dtype)
    ):
        return np.full(len(column), np.nan), column.notna().to_numpy(dtype=bool)
    if kinds.is_numeric_dtype(dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=bool)
    cells = column.astype(object)
    odd = cells.map(lambda cell: not isinstance(cell, (int, float, str, Decimal, np.number)) or isinstance(cell, bool)).to_numpy(dtype=bool)
    values = pd.to_numeric(cells.where(~odd), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return values, np.isnan(values) & cells.notna().to_numpy(dtype=bool)


def _fault_cells(column: pd.Series[Any], dates: pd.DatetimeIndex, bad: BoolArray) -> dict[pd.Timestamp, str]:
    return dict(zip(dates[bad], map(_show, column[bad].tolist()), strict=True))


def _read_long(frame: pd.DataFrame, *, returns: bool) -> Prices:
    names = ("return", "returns", "close") if returns else ("close",)
    ticker_label, close_label, volume_label = _named(frame, "ticker", "symbol"), _named(frame, *names), _named(frame, "volume")
    if close_label is None:
        near = closest(names[0], map(str, frame.columns), 1) or [str(name) for name in frame.columns if names[0] in str(name).lower()]
        fix = f"prices.rename(columns={{{near[0]!r}: {names[0]!r}}})" if near else f"name the column of values {names[0]!r}"
        raise InputError(f"the long prices have no column {names[0]!r}, only {', '.join(map(repr, frame.columns))}.", fix=fix)
    dates, frame = _split_dates(frame)
    codes, columns = _long_tickers(frame[ticker_label])
    _check_long_duplicates(dates, codes, columns)
    values, bad = _floats(frame[close_label])
    close = _pivot(dates, codes, columns, values)
    cells = _fault_cells_long(frame[close_label], dates, [columns[code] for code in codes[bad]], bad)
    volume = None if volume_label is None else _pivot(dates, codes, columns, _floats(frame[volume_label])[0])
    return Prices(close=close, volume=volume, flags=_long_flags(dates, codes), is_returns=returns, faults=cells)


def _long_tickers(column: pd.Series[Any]) -> tuple[npt.NDArray[np.intp], list[str]]:
    """Codes into the columns, and the columns in the order in which they first appear."""
    codes, distinct = _distinct(column, "the column of tickers")
    names = [value.strip() if isinstance(value, str) else "" for value in distinct]
    wrong = np.isin(codes, [-1, *(code for code, name in enumerate(names) if not name)])
    if wrong.any():
        row = int(np.argmax(wrong))
        fix = 'read tickers as text: read_csv(..., dtype={"ticker": str})'
        raise InputError(f"row {row + 1} of the prices has the ticker {_show(column.iloc[row])}.", fix=fix)
    columns = list(dict.fromkeys(names))
    places = {name: place for place, name in enumerate(columns)}
    return np.array([places[name] for name in names], dtype=np.intp)[codes], columns


def _check_long_duplicates(dates: pd.DatetimeIndex, codes: npt.NDArray[np.intp], columns: list[str]) -> None:
    key = pd.factorize(dates)[0] * np.int64(len(columns)) + codes
    twice = pd.Series(key).duplicated().to_numpy(dtype=bool)
    if twice.any():
        first = int(np.flatnonzero(twice)[0])
        seen = (
            f"{columns[codes[first]]} has more than one row for {dates[first].date()} ({counted(int(twice.sum()), 'repeated row')} in all)."
        )
        raise InputError(seen, fix='prices.drop_duplicates(["date", "ticker"], keep="last")')


def _pivot(dates: pd.DatetimeIndex, codes: npt.NDArray[np.intp], columns: list[str], values: FloatArray) -> pd.DataFrame:
    index = dates.unique().sort_values()
    table = np.full((len(index), len(columns)), np.nan)
    table[index.get_indexer(dates), codes] = values
    return pd.DataFrame(table, index=index, columns=columns)


def _long_flags(dates: pd.DatetimeIndex, codes: npt.NDArray[np.intp]) -> tuple[str, ...]:
    """Sorted means: each ticker's own rows go forward in time, whether its rows stand together or not."""
    order = np.argsort(codes, kind="stable")
    same, days = np.diff(codes[order]) == 0, dates.to_numpy()[order]
    return ("unsorted",) if bool(np.any(same & (days[1:] < days[:-1]))) else ()


def _fault_cells_long(
    column: pd.Series[Any], dates: pd.DatetimeIndex, tickers: list[str], bad: BoolArray
) -> dict[str, dict[pd.Timestamp, str]]:
    cells: dict[str, dict[pd.Timestamp, str]] = {}
    for day, ticker, cell in zip(dates[bad], tickers, column[bad].tolist(), strict=True):
        cells.setdefault(ticker, {})[day] = _show(cell)
    return cells


# --- evidence ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """
    One piece of the user's evidence.

    Attributes
    ----------
    ident
        As given, else "E1", "E2", ... in the order of (date, source, text, ticker), so that the order of the rows changes nothing.
    ticker
        Upper case; None serves every company.
    text
        As given, unchanged.
    date
        The local calendar date, or None.
    """

    ident: str
    ticker: str | None
    text: str
    date: date | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One row of evidence before its values are looked at."""

    where: str
    cells: Mapping[str, object]


def read_evidence(data: object) -> tuple[Document, ...]:
    """
    The documents of a frame, a mapping ticker -> texts, or a list of mappings or texts; none is a valid answer.

    Parameters
    ----------
    data
        Columns or keys: text, ticker, and optionally date, source, id. A row without a ticker serves all companies, and so does a text
        in a plain list. Further columns are ignored.

    Returns
    -------
    tuple of Document
        Sorted by (date, source, text, ticker), undated first.

    Raises
    ------
    InputError
        A missing column, a row without text, a ticker that is none, a date that is none, the same id twice for one ticker.
    """
    documents = sorted((_document(row) for row in _evidence_rows(data)), key=_document_order)
    taken = {one.ident for one in documents}
    names = (name for number in range(1, 2 * len(documents) + 1) if (name := f"E{number}") not in taken)
    named = tuple(one if one.ident else replace(one, ident=next(names)) for one in documents)
    seen: set[tuple[str, str | None]] = set()
    for one in named:
        if (one.ident, one.ticker) in seen:
            whose = f"for {one.ticker}" if one.ticker else "without a ticker"
            raise InputError(f"two documents {whose} have the id {_show(one.ident)}.", fix="give each its own id, or leave the ids out")
        seen.add((one.ident, one.ticker))
    return named


def documents_for(
    documents: Sequence[Document], holding: Holding, params: RiskParams, *, as_of: date | None = None
) -> tuple[tuple[Document, ...], tuple[str, ...]]:
    """
    A company's own documents and the shared ones, cut at the as-of date, and what was left out as flags.

    Parameters
    ----------
    as_of
        The date of the run when `params.as_of` does not say it (the last date of the prices).

    Returns
    -------
    documents
        In the order given. Both spellings of a share class are the company's own.
    flags
        "undated": documents without a date were left out, since `params.as_of` was given. "future_evidence": documents after the date
        were left out. "alias": a document was matched by the twin of its ticker.
    """
    cut = params.as_of or (as_of.date() if isinstance(as_of, datetime) else as_of)
    chosen, flags = [], set()
    for one in documents:
        if one.ticker is not None and _twin(one.ticker) != _twin(holding.symbol):
            continue
        if one.date is None and params.as_of is not None:
            flags.add("undated")
        elif one.date is not None and cut is not None and one.date > cut:
            flags.add("future_evidence")
        else:
            chosen.append(one)
            flags |= {"alias"} if one.ticker not in (None, holding.symbol) else set()
    return tuple(chosen), tuple(sorted(flags))


def _document_order(one: Document) -> tuple[str, str, str, str, str]:
    return (one.date.isoformat() if one.date else "", one.source or "", one.text, one.ticker or "", one.ident)


def _evidence_rows(data: object) -> Iterator[_Row]:
    if isinstance(data, pd.DataFrame):
        yield from _frame_rows(data)
    elif isinstance(data, Mapping):
        for ticker, texts in data.items():
            for number, item in enumerate(
                [texts] if isinstance(texts, (str, Mapping)) else _sequence(texts, f"evidence of {_show(ticker)}"), 1
            ):
                where = f"evidence of {_show(ticker)}, item {number}"
                yield _Row(where=where, cells={**_item_cells(item, where), "ticker": ticker})
    else:
        for number, item in enumerate(_sequence(data, "the evidence"), 1):
            where = f"evidence, item {number}"
            yield _Row(where=where, cells=_item_cells(item, where))


def _sequence(data: object, what: str) -> list[object]:
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        fix = 'evidence={"NVDA": ["..."]}, a list of dicts, or a DataFrame with ticker and text'
        raise InputError(f"{what} is {_kind(data)}, not a frame, a mapping or a list.", fix=fix)
    return list(data)


def _item_cells(item: object, where: str) -> dict[str, object]:
    if not isinstance(item, Mapping):
        return {"text": item}
    cells = {str(key).strip().lower(): value for key, value in item.items()}
    for name in ("text", "ticker"):
        # A misspelt "ticker" would make the text evidence against every company.
        if name not in cells and (near := closest(name, cells, 1)):
            raise InputError(f"{where} has no {name!r}, but {near[0]!r}.", fix=f"rename {near[0]!r} to {name!r}")
    return cells


def _frame_rows(frame: pd.DataFrame) -> Iterator[_Row]:
    labels = {name: _named(frame, name) for name in ("text", "date", "source", "id")} | {"ticker": _named(frame, "ticker", "symbol")}
    for name in ("ticker", "text"):
        if labels[name] is None:
            near = closest(name, map(str, frame.columns), 1)
            fix = f"evidence.rename(columns={{{near[0]!r}: {name!r}}})" if near else f"add the column {name!r}"
            fix += "" if near or name == "text" else "; a row whose ticker is None serves all companies"
            raise InputError(f"the evidence has no column {name!r}, only {', '.join(map(repr, frame.columns)) or 'none'}.", fix=fix)
    columns = {name: frame[label].astype(object).tolist() for name, label in labels.items() if label is not None}
    for number in range(len(frame)):
        yield _Row(where=f"evidence, row {number + 1}", cells={name: cells[number] for name, cells in columns.items()})


def _document(row: _Row) -> Document:
    text, ticker, source = row.cells.get("text"), row.cells.get("ticker"), row.cells.get("source")
    if _is_missing(text) or not isinstance(text, str):
        seen = "no text" if _is_missing(text) else f"{_kind(text)} ({_show(text)}) for a text"
        raise InputError(f"{row.where} has {seen}.", fix='drop such rows: evidence.dropna(subset=["text"])')
    return Document(
        ident=_ident(row.cells.get("id")),
        ticker=None if _is_missing(ticker) else _symbol(ticker, row.where),
        text=text,
        date=_document_date(row.cells.get("date"), row.where),
        source=None if _is_missing(source) else str(source).strip(),
    )


def _ident(value: object) -> str:
    if _is_missing(value):
        return ""
    # A column of numbers with one hole comes as floats: 7.0 was 7.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _document_date(value: object, where: str) -> date | None:
    if _is_missing(value):
        return None
    try:
        return _moment(value).date()
    except ValueError as exc:
        raise InputError(f"{where}: {_show(value)} is not a date.", fix="write ISO dates (2019-12-30), or leave the date empty") from exc


# --- single values ----------------------------------------------------------------------------------------------------------------


def _moment(value: object) -> datetime:
    """The moment as written, in its own zone; ValueError for everything that is none, numbers above all."""
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if _is_missing(value):
        raise ValueError("no date")
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, datetime.min.time())  # no zone: a bare date has none
    if isinstance(value, str):
        return datetime.fromisoformat(value.strip())
    raise ValueError(f"{_kind(value)} is no date")


def _number(value: object) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, str) and not WEIGHT.fullmatch(value.strip())):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # anything else ends in None
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return bool(kinds.is_scalar(value) and pd.isna(value))  # type: ignore[call-overload]  # narrowed by is_scalar, which the stubs cannot say


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 row", "3 rows"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _show(value: object) -> str:
    """The value for a message: invisible characters escaped, never long."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"
