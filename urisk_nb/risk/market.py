"""
The prices of the period, and each asset on its own calendar: what is a gap, what is a year, which
column is unusable.

Missing days are dropped, never filled. A step longer than five median spacings is a gap: the change
across it is no one-period return.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk.inputs import Prices
from urisk_nb.risk.metrics import NAN, FloatArray, quiet
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.values import count_noun

__all__ = [
    "MAX_STEP_SPACINGS",
    "Asset",
    "Block",
    "Calendar",
    "Market",
    "compute_changes",
    "describe_bad_cells",
    "describe_unreadable",
    "find_as_of_date",
    "find_calendar",
    "read_assets",
    "read_market",
    "split_into_blocks",
]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MAX_STEP_SPACINGS = 5  # a step of more than so many median spacings is no one-period return
MAX_BLOCK_CELLS = 1 << 16  # of one block: half a megabyte
# A return beyond this is a broken feed, and its square would leave the range of floats
MAX_RETURN = 1e100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calendar:
    """
    The rows that an asset (or a pair) has, and what follows from their dates alone; shared by all
    that have the same rows.

    Attributes
    ----------
    keep, at
        Which changes are of one period, and the rows that these end on.
    spacing, factor, period
        Median step in days; periods in a year, NaN if the spacing is none that is known; the name
        of the period.
    gap
        Some step is longer than one period.
    """

    rows: IntArray
    keep: BoolArray
    at: IntArray
    spacing: int
    factor: float
    period: str
    gap: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Market:
    """
    The prices of the period as arrays, rows by columns, and the calendars that have been met in
    them.
    """

    dates: list[pd.Timestamp]
    days: IntArray
    columns: list[str]
    position: dict[str, int]
    close: FloatArray
    present: BoolArray
    volume: FloatArray | None
    is_returns: bool
    as_of: pd.Timestamp
    faults: Mapping[str, Mapping[pd.Timestamp, str]]
    calendars: dict[bytes, Calendar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asset:
    """One column on its own calendar: its periods in a year, or what makes it unusable."""

    column: str
    calendar: Calendar
    factor: float = NAN
    status: str = "ok"
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """
    Columns that share their dates, one a row, so that each formula runs once for all of them.

    Attributes
    ----------
    places
        The columns, as positions in the market.
    values
        What stands on the calendar's rows.
    changes
        The one-period returns.
    """

    calendar: Calendar
    places: list[int]
    values: FloatArray
    changes: FloatArray

    def path(self, *, is_returns: bool) -> FloatArray:
        """
        Return what total return and drawdown are read from.

        These are the prices, or the wealth of 1 before the first return.
        """
        if not is_returns:
            return self.values
        wealth = np.cumprod(1 + self.values, axis=1)
        return np.concatenate((np.ones((len(wealth), 1)), wealth), axis=1)


def find_as_of_date(prices: Prices, params: RiskParams) -> pd.Timestamp:
    """
    Return the date of the run: `params.as_of`, else the last price not later than `params.end`.
    """
    if params.as_of is not None:
        return pd.Timestamp(params.as_of).as_unit("us")
    index = prices.close.index
    used = index if params.end is None else index[index <= pd.Timestamp(params.end)]
    if not len(used):
        raise InputError(
            f"no price is on or before end={params.end}; {_describe_extent(prices)}.",
            fix=f"end={index[-1].date()}",
        )
    return pd.Timestamp(used[-1])


def read_market(prices: Prices, params: RiskParams) -> Market:
    """Return the prices of the period that the parameters cut out; InputError if it holds none."""
    as_of = find_as_of_date(prices, params)
    index = pd.DatetimeIndex(prices.close.index)
    last = as_of if params.end is None else min(as_of, pd.Timestamp(params.end))
    first = _find_first_date(params, last)
    begin = 0 if first is None else int(index.searchsorted(first, side="left"))
    stop = int(index.searchsorted(last, side="right"))
    if stop <= begin:
        since = (
            f"on or before {last.date()}"
            if first is None or last < index[0]
            else f"from {first.date()} on"
        )
        raise InputError(
            f"there is no price {since}; {_describe_extent(prices)}.",
            fix=f"choose a period within {index[0].date()} and {index[-1].date()}",
        )
    period = index[begin:stop]
    columns = [str(name) for name in prices.close.columns]
    # column by column in memory, since each asset is read by itself
    close = np.asfortranarray(prices.close.to_numpy(dtype=np.float64)[begin:stop])
    return Market(
        dates=list(period),
        days=period.to_numpy().astype("datetime64[D]").astype(np.int64),
        columns=columns,
        position={name: number for number, name in enumerate(columns)},
        close=close,
        present=~np.isnan(close),
        volume=None
        if prices.volume is None
        else prices.volume.to_numpy(dtype=np.float64)[begin:stop],
        is_returns=prices.is_returns,
        as_of=as_of,
        faults=prices.faults,
    )


def _find_first_date(params: RiskParams, last: pd.Timestamp) -> pd.Timestamp | None:
    if params.start is not None:
        return pd.Timestamp(params.start)
    if params.window is None:
        return None
    count, unit = int(params.window[:-1]), params.window[-1]
    years, months, weeks, days = (count if unit == one else 0 for one in "ymwd")
    return pd.Timestamp(last - pd.DateOffset(years=years, months=months, weeks=weeks, days=days))


def _describe_extent(prices: Prices) -> str:
    index = prices.close.index
    return f"the prices run from {index[0].date()} to {index[-1].date()}"


def read_assets(market: Market, columns: Sequence[str], params: RiskParams) -> dict[str, Asset]:
    """Return each column on the days that it has; its status says whether it can be used."""
    places = [market.position[column] for column in columns]
    assets: dict[str, Asset] = {}
    for block in split_into_blocks(market, places, market.present):
        wild = _find_wild(block, is_returns=market.is_returns)
        for place, is_wild in zip(block.places, wild, strict=True):
            asset = _check_asset(market, place, block.calendar, params, is_wild=bool(is_wild))
            assets[asset.column] = asset
    return {column: assets[column] for column in columns}


def _check_asset(
    market: Market, place: int, calendar: Calendar, params: RiskParams, *, is_wild: bool
) -> Asset:
    """Return the asset; `is_wild` says that some value is no price, so that all are looked at."""
    column = market.columns[place]
    what, bare = f"column {column!r}", Asset(column=column, calendar=calendar)
    if (is_wild or column in market.faults) and (
        wrong := describe_bad_cells(market, column, market.close[:, place], what)
    ):
        return replace(bare, status="bad_data", message=wrong)
    if len(calendar.rows) < 2:
        seen = f"has {len(calendar.rows) or 'no'} {'return' if market.is_returns else 'price'}"
        message = f"{what} {seen} in the period; two are needed."
        return replace(bare, status="no_data", message=message)
    factor = params.periods_per_year or calendar.factor
    if not math.isnan(factor) and not is_wild:
        return replace(bare, factor=factor)
    first, last = (market.dates[calendar.rows[end]].date() for end in (0, -1))
    if math.isnan(factor):
        seen = (
            f"has a median spacing of {calendar.spacing} days between {first} and {last}, neither "
            "days, weeks nor months: give periods_per_year"
        )
    else:
        seen = f"jumps by a factor of {MAX_RETURN:g} or more between {first} and {last}"
    return replace(bare, status="bad_data", message=f"{what} {seen}.")


@quiet
def _find_wild(block: Block, *, is_returns: bool) -> BoolArray:
    """Return which columns hold something that is no price, or move as no price does."""
    if not block.values.shape[1]:
        return np.zeros(len(block.places), dtype=bool)
    path = block.path(is_returns=is_returns)
    moves = compute_changes(block.values, is_returns=is_returns)
    is_steady = (np.abs(moves) < MAX_RETURN).all(axis=1)
    is_steady &= (path < MAX_RETURN * path[:, :1]).all(axis=1)
    is_price = (block.values > (-1.0 if is_returns else 0.0)) & np.isfinite(block.values)
    return np.asarray(~(is_steady & is_price.all(axis=1)))


def split_into_blocks(market: Market, places: Iterable[int], present: BoolArray) -> Iterator[Block]:
    """
    Yield the columns in groups that have the same rows, in parts that fit a processor's cache.

    Parameters
    ----------
    places
        Positions in the market.
    present
        Which rows each column of the market is read on: its own, or those that it has in common
        with a benchmark.
    """
    groups: dict[int, tuple[Calendar, list[int]]] = {}
    for place in places:
        calendar = find_calendar(market, present[:, place])
        groups.setdefault(id(calendar), (calendar, []))[1].append(place)
    for calendar, group in groups.values():
        step = max(1, MAX_BLOCK_CELLS // max(1, len(calendar.rows)))
        for part in (group[begin : begin + step] for begin in range(0, len(group), step)):
            # one row a column, side by side in memory: sums run along it
            values = np.ascontiguousarray(market.close.T[part])
            if len(calendar.rows) < values.shape[1]:
                values = values[:, calendar.rows]
            moves = compute_changes(values, is_returns=market.is_returns)
            changes = moves if calendar.keep.all() else moves[:, calendar.keep]
            yield Block(
                calendar=calendar, places=part, values=values, changes=np.ascontiguousarray(changes)
            )


def describe_unreadable(market: Market, cells: Mapping[pd.Timestamp, str]) -> str | None:
    """Describe the cells of the period that hold no number; None if there are none."""
    bad = {day: seen for day, seen in cells.items() if market.dates[0] <= day <= market.dates[-1]}
    if not bad:
        return None
    first = min(bad)
    values = count_noun(len(bad), "value")
    return f"{values} that cannot be read as a number (first: {first.date()}, {bad[first]})"


def describe_bad_cells(market: Market, column: str, values: FloatArray, what: str) -> str | None:
    """
    Describe what makes the whole column unusable, with count and first date; None if nothing does.
    """
    if seen := describe_unreadable(market, market.faults.get(column, {})):
        return f"{what} has {seen}."
    least, noun = (-1.0, "return") if market.is_returns else (0.0, "price")
    for bad, kind in ((values <= least, f"{{}} <= {least:g}"), (np.isinf(values), "infinite {}")):
        if bad.any():
            row, count = int(np.argmax(bad)), int(np.count_nonzero(bad))
            seen = f"{count} {kind.format(noun if count == 1 else noun + 's')}"
            return f"{what} has {seen} (first: {market.dates[row].date()}, {values[row]})."
    return None


@quiet
def compute_changes(values: FloatArray, *, is_returns: bool) -> FloatArray:
    """Return P_t / P_{t-1} - 1 along the last axis; returns are changes already."""
    return values if is_returns else values[..., 1:] / values[..., :-1] - 1


def find_calendar(market: Market, present: BoolArray) -> Calendar:
    """Return the calendar of these rows, made once for all columns that have the same."""
    key = present.tobytes()
    if key not in market.calendars:
        market.calendars[key] = _build_calendar(market, np.flatnonzero(present))
    return market.calendars[key]


def _build_calendar(market: Market, rows: IntArray) -> Calendar:
    days = market.days[rows]
    steps = np.diff(days)
    # The lower median is a step that occurs: the bands of `_read_frequency` need no fractions.
    spacing = int(np.sort(steps)[(len(steps) - 1) // 2]) if len(steps) else 0
    short = steps <= MAX_STEP_SPACINGS * spacing
    factor, period = _read_frequency(days, spacing)
    return Calendar(
        rows=rows,
        # A return that was given as such is taken at its word, whatever stands before it.
        keep=np.ones(len(rows), dtype=bool) if market.is_returns else short,
        at=rows if market.is_returns else rows[1:][short],
        spacing=spacing,
        factor=factor,
        period=period,
        gap=not short.all(),
    )


def _read_frequency(days: IntArray, spacing: int) -> tuple[float, str]:
    """Return the periods in a year, NaN if the spacing is unknown, and the name of the period."""
    if spacing == 1:
        # A market with weekends trades on all seven weekdays. Two days at the weekend are not
        # enough: Sunday to Thursday is a working week.
        weekdays = np.bincount((days + 3) % 7, minlength=7)
        return (365.0 if np.all(weekdays >= 0.05 * len(days)) and len(days) >= 7 else 252.0), "day"
    if 6 <= spacing <= 8:
        return 52.0, "week"
    if 27 <= spacing <= 32:
        return 12.0, "month"
    return NAN, f"{spacing}d"
