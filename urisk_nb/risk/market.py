"""
The prices of the period, and each asset on its own calendar: what is a gap, what is a year, which
column is unusable.

Missing days are dropped, never filled. A step longer than five median spacings is a gap: the change
across it is no one-period return. A holiday of the whole market is none.

The module is over 400 lines because the rules about dates stand beside the records that they fill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk import data_faults
from urisk_nb.risk.formulas import level_rounded
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
MAX_CLOSURE_DAYS = 14  # from the last price before a market's holiday to the first one after it
# A column whose days differ from another's in no more than this share trades on the same calendar
MAX_CALENDAR_DIFFERENCE = 0.02
FIRST_WITNESSES, MAX_WITNESSES = (
    8,
    256,
)  # columns that are compared to tell a holiday from missing data
# Steps in days that are of one period; with more than these shares outside, two are mixed
BANDS = {"day": (1, 5), "week": (4, 10), "month": (20, 45)}
MAX_SHORTER, MAX_LONGER, MIN_ODD_STEPS = 0.05, 0.2, 3
MAX_ODD_RUN = 8  # so many of one side in a row are of another frequency, whatever their share
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
    gap_note
        Which returns were left out for that; None for returns that were given as such.
    mixture
        What shows that two frequencies are mixed, or None.
    """

    rows: IntArray
    keep: BoolArray
    at: IntArray
    spacing: int
    factor: float
    period: str
    gap: bool
    gap_note: str | None = None
    mixture: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Market:
    """
    The prices of the period as arrays, rows by columns, and what has been met in them: calendars,
    and holidays of a column's whole market, as the rows before and after them.
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
    closures: set[tuple[int, int]] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asset:
    """
    One column on its own calendar: its periods in a year, what makes it unusable, what to look at.
    """

    column: str
    calendar: Calendar
    factor: float = NAN
    status: str = "ok"
    flags: tuple[str, ...] = ()
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
        wild, odd = _screen(block, is_returns=market.is_returns)
        for row, place in enumerate(block.places):
            asset = _check_asset(market, place, block.calendar, params, is_wild=bool(wild[row]))
            if asset.status == "ok" and odd[row]:
                asset = _review(market, asset, block.values[row])
            assets[asset.column] = asset
    return {column: assets[column] for column in columns}


@quiet
def _review(market: Market, asset: Asset, values: FloatArray) -> Asset:
    """Return the asset with flags and a message about moves that can hardly be true."""
    moves = compute_changes(values, is_returns=market.is_returns)
    ends = asset.calendar.rows[len(values) - len(moves) :]
    flags, message = data_faults.find_faults(
        moves,
        [market.dates[row] for row in ends],
        f"column {asset.column!r}",
        asset.factor,
        is_returns=market.is_returns,
    )
    texts = [text.rstrip(".") for text in (message, asset.message) if text]
    return replace(
        asset,
        flags=tuple(sorted({*asset.flags, *flags})),
        message=f"{'; '.join(texts)}." if texts else None,
    )


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
        return _describe_calendar(replace(bare, factor=factor), what, params)
    first, last = (market.dates[calendar.rows[end]].date() for end in (0, -1))
    if math.isnan(factor):
        seen = (
            f"has a median spacing of {calendar.spacing} days between {first} and {last}, neither "
            "days, weeks nor months: give periods_per_year"
        )
    else:
        seen = f"jumps by a factor of {MAX_RETURN:g} or more between {first} and {last}"
        values = market.close[calendar.rows, place]
        if market.is_returns and (meant := data_faults.guess_meaning(values, factor)):
            seen = meant
    return replace(bare, status="bad_data", message=f"{what} {seen}.")


def _describe_calendar(asset: Asset, what: str, params: RiskParams) -> Asset:
    """Return a usable asset with what its dates have to say; unusable if they are of two kinds."""
    calendar = asset.calendar
    if calendar.mixture:
        # With a factor of the user's own it is their decision
        status = "ok" if params.periods_per_year else "bad_data"
        asset = replace(
            asset,
            status=status,
            flags=("mixed_frequency",),
            message=f"{what} {calendar.mixture}: cut it to one frequency, or give "
            "periods_per_year.",
        )
        return asset if status == "ok" else replace(asset, factor=NAN)
    if calendar.gap_note:
        return replace(asset, message=f"{what}: {calendar.gap_note}.")
    return asset


@quiet
def _screen(block: Block, *, is_returns: bool) -> tuple[BoolArray, BoolArray]:
    """
    Return which columns hold something that is no price, or move as no price does, and which are
    worth a closer look. It runs over all columns of a table, so it only compares extremes.
    """
    values, count = block.values, len(block.places)
    if values.shape[1] < 2:
        return np.full(count, bool(values.shape[1])), np.zeros(count, dtype=bool)
    path = block.path(is_returns=is_returns)
    moves = compute_changes(values, is_returns=is_returns)
    high, low, top = moves.max(axis=1), moves.min(axis=1), path.max(axis=1)
    # Comparisons with NaN are false: such a column is wild
    is_price = (values.min(axis=1) > (-1.0 if is_returns else 0.0)) & np.isfinite(top)
    is_steady = (high < MAX_RETURN) & (low > -MAX_RETURN) & (top < MAX_RETURN * path[:, 0])
    is_odd = (high >= data_faults.MIN_SPLIT - 1) | (low <= 1 / data_faults.MIN_SPLIT - 1)
    is_odd |= path[:, -1] > data_faults.MAX_GROWTH * path[:, 0]
    if is_returns:  # per cent of a calm series stay below what is odd in a price
        is_odd |= np.median(np.abs(values), axis=1) > data_faults.MIN_USUAL_PERCENT
    return ~(is_steady & is_price), is_odd


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
    is_joint = present is not market.present
    for place in places:
        calendar = find_calendar(market, present[:, place], is_joint=is_joint)
        groups.setdefault(id(calendar), (calendar, []))[1].append(place)
    for calendar, group in groups.values():
        step = max(1, MAX_BLOCK_CELLS // max(1, len(calendar.rows)))
        for part in (group[begin : begin + step] for begin in range(0, len(group), step)):
            # one row a column, side by side in memory: sums run along it
            values = np.ascontiguousarray(market.close.T[part])
            if len(calendar.rows) < values.shape[1]:
                values = values[:, calendar.rows]
            moves = compute_changes(values, is_returns=market.is_returns)
            changes = np.ascontiguousarray(
                moves if calendar.keep.all() else moves[:, calendar.keep]
            )
            if not market.is_returns:
                changes = level_rounded(changes, values)
            yield Block(calendar=calendar, places=part, values=values, changes=changes)


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
            hint = data_faults.hint_at_kind(values, is_returns=market.is_returns)
            return f"{what} has {seen} (first: {market.dates[row].date()}, {values[row]}).{hint}"
    return None


@quiet
def compute_changes(values: FloatArray, *, is_returns: bool) -> FloatArray:
    """Return P_t / P_{t-1} - 1 along the last axis; returns are changes already."""
    return values if is_returns else values[..., 1:] / values[..., :-1] - 1


def find_calendar(market: Market, present: BoolArray, *, is_joint: bool = False) -> Calendar:
    """
    Return the calendar of these rows, made once for all columns that have the same.

    `is_joint` says that two columns have them in common: the holidays of either are theirs.
    """
    key = present.tobytes()
    if key not in market.calendars:
        market.calendars[key] = _build_calendar(market, np.flatnonzero(present), is_joint=is_joint)
    return market.calendars[key]


def _build_calendar(market: Market, rows: IntArray, *, is_joint: bool) -> Calendar:
    days = market.days[rows]
    steps = np.diff(days)
    # The lower median is a step that occurs: the bands of `_read_frequency` need no fractions.
    spacing = int(np.sort(steps)[(len(steps) - 1) // 2]) if len(steps) else 0
    short = steps <= MAX_STEP_SPACINGS * spacing
    factor, period = _read_frequency(days, spacing)
    if factor == 252.0:  # markets that trade on all seven weekdays have no holidays
        find = _recall_closures if is_joint else _find_closures
        # Trading goes on before and after a holiday
        near = np.concatenate(([True], short, [True]))
        is_alone = near[:-2] & near[2:]
        short |= find(market, rows, ~short & is_alone & (steps <= MAX_CLOSURE_DAYS))
    is_odd = _find_odd_steps(steps, period)

    def list_steps(where: BoolArray) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
        return [
            (market.dates[rows[place]], market.dates[rows[place + 1]])
            for place in np.flatnonzero(where)
        ]

    gaps = [] if market.is_returns else list_steps(~short)
    return Calendar(
        rows=rows,
        # A return that was given as such is taken at its word, whatever stands before it.
        keep=np.ones(len(rows), dtype=bool) if market.is_returns else short,
        at=rows if market.is_returns else rows[1:][short],
        spacing=spacing,
        factor=factor,
        period=period,
        gap=not short.all(),
        gap_note=data_faults.describe_gaps(gaps) if gaps else None,
        mixture=data_faults.describe_mixture(list_steps(is_odd), len(steps), period)
        if is_odd.any()
        else None,
    )


def _find_odd_steps(steps: IntArray, period: str) -> BoolArray:
    """Return which steps are of another frequency, if so many are that two were mixed."""
    if period not in BANDS or not len(steps):
        return np.zeros(len(steps), dtype=bool)
    low, high = BANDS[period]
    is_mixed = False
    for odd, limit in ((steps < low, MAX_SHORTER), (steps > high, MAX_LONGER)):
        count = int(np.count_nonzero(odd))
        is_mixed |= count >= MIN_ODD_STEPS and count > limit * len(steps)
        is_mixed |= count >= MAX_ODD_RUN and _find_longest_run(odd) >= MAX_ODD_RUN
    return ((steps < low) | (steps > high)) & is_mixed


def _find_longest_run(flags: BoolArray) -> int:
    ends = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return int(np.max(ends[1::2] - ends[::2], initial=0))


def _find_closures(market: Market, rows: IntArray, long: BoolArray) -> BoolArray:
    """
    Return which of the long steps are holidays of the market: no column of the same calendar has a
    price in between.

    A column whose days differ elsewhere, too, trades on another market and says nothing.
    """
    is_closure = np.zeros(len(long), dtype=bool)
    places = np.flatnonzero(long)
    if not len(places):
        return is_closure
    own = np.zeros(len(market.present), dtype=bool)
    own[rows] = True
    compared = np.zeros(len(own), dtype=bool)
    compared[rows[0] : rows[-1] + 1] = True
    for place in places:
        compared[rows[place] + 1 : rows[place + 1]] = False
    for place in places:
        between = market.present[rows[place] + 1 : rows[place + 1]]
        others = np.flatnonzero(between.any(axis=0))
        # A few will do in most tables
        is_closure[place] = not any(
            _share_calendar(market.present[:, some], own, compared)
            for count in (FIRST_WITNESSES, MAX_WITNESSES)
            if len(some := others[:: max(1, math.ceil(len(others) / count))])
        )
        if is_closure[place]:
            market.closures.add((int(rows[place]), int(rows[place + 1])))
    return is_closure


def _recall_closures(market: Market, rows: IntArray, long: BoolArray) -> BoolArray:
    """Return which of the long steps hold a holiday that was found before."""
    is_closure = np.zeros(len(long), dtype=bool)
    for place in np.flatnonzero(long):
        is_closure[place] = any(
            rows[place] <= begin and end <= rows[place + 1] for begin, end in market.closures
        )
    return is_closure


def _share_calendar(present: BoolArray, own: BoolArray, compared: BoolArray) -> bool:
    """Return whether one of the columns trades on the own days, as far as it reaches."""
    places = np.arange(len(present))[:, None]
    first, last = present.argmax(axis=0), len(present) - 1 - present[::-1].argmax(axis=0)
    alive = (places >= first) & (places <= last) & compared[:, None]
    differing = np.count_nonzero((present != own[:, None]) & alive, axis=0)
    return bool((differing <= MAX_CALENDAR_DIFFERENCE * np.count_nonzero(alive, axis=0)).any())


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
