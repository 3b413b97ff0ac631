"""
Figures that a price series can hardly have: a missed split, another unit, per cent for fractions.

Nothing is corrected. The row is flagged, and its message says what was seen. The rules stand in
docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from urisk_nb.risk.values import count_noun

__all__ = [
    "MAX_ANNUAL_GROWTH",
    "MAX_GROWTH",
    "MIN_SPLIT",
    "MIN_USUAL_PERCENT",
    "RETURNS_HINT",
    "describe_gaps",
    "describe_mixture",
    "find_faults",
    "guess_meaning",
    "has_jump",
    "hint_at_kind",
]

FloatArray = npt.NDArray[np.float64]

MIN_JUMP = 1.8  # a split of 2 for 1 on a day of -10 % and on one of +10 %
MIN_SPLIT = 1.4  # a split of 3 for 2 on a day of -7 %
SPLITS = (1.5, 2.0, 3.0, 4.0, 5.0, 10.0)  # the usual factors of splits, forward and reverse
SPLIT_MOVES = 3  # usual moves on the day of a split, beside it
# The usual move is the median of the absolute log returns, times the cube root of their number: so
# the largest one grows where they have the tails of Student's t with 3 degrees of freedom.
JUMP_MOVES = 8.0  # such moves
SPLIT_JUMP_MOVES = 4.0  # such moves, near the factor of a split
JUMP_LEAD = 2.5  # times the largest move that is none
MIN_MOVING = 10  # moves that are not 0, or the usual move is that of all
MAX_GROWTH = 100.0  # P_T / P_0 beyond which a total return is looked at, and ...
MAX_ANNUAL_GROWTH = 10.0  # ... flagged, if it is more than so much for each year
MAX_NAMED = 3  # dates in one message
# A volatility of 200 % a year, from the median: beyond it "returns" are per cent, or prices
MAX_ANNUAL_VOLATILITY = 2.0
MAD_TO_SIGMA = 1.4826
RETURNS_HINT = " If they are returns, say so: returns=True."
MIN_USUAL_PERCENT = 0.05  # columns of returns below this are not looked at
MIN_USUAL_POINTS = 20.0  # the median of absolute values that are more than per cent
MAX_USUAL_RETURN = 0.2  # the median of absolute values that may be returns of any period


def find_faults(
    moves: FloatArray, dates: Sequence[pd.Timestamp], what: str, factor: float, *, is_returns: bool
) -> tuple[tuple[str, ...], str | None]:
    """
    Return flags and a message about returns that can hardly be true; () and None if all can.

    Parameters
    ----------
    moves
        The changes from each value to the next; all of the period, those over gaps, too.
    dates
        The dates that they end on.
    what
        What the message begins with.
    factor
        Periods in a year.
    """
    if is_returns and (meant := guess_meaning(moves, factor)):
        return ("unlikely_returns",), f"{what} {meant}."
    flags, seen = set(), []
    if jumps := _find_jumps(moves, dates):
        flags.add("jump")
        named = ", ".join(f"{ratio:.4g} on {day.date()}" for day, ratio in jumps[:MAX_NAMED])
        more = f" and {len(jumps) - MAX_NAMED} more" if len(jumps) > MAX_NAMED else ""
        seen.append(f"jumps by a factor of {named}{more}.")
    growth = float(np.prod(1 + moves))
    years = max((dates[-1] - dates[0]).days / 365.25, 1.0)
    if growth > MAX_GROWTH and math.log(growth) / years > math.log(MAX_ANNUAL_GROWTH):
        flags.add("extreme_total")
        seen.append(f"grows {growth:.3g}-fold in {count_noun(math.ceil(years), 'year')}.")
    return tuple(sorted(flags)), f"{what} {' It '.join(seen)}" if seen else None


def _find_jumps(
    moves: FloatArray, dates: Sequence[pd.Timestamp]
) -> list[tuple[pd.Timestamp, float]]:
    return [
        (dates[place], float(1 + moves[place]))
        for place in map(int, np.flatnonzero(_are_jumps(moves)))
    ]


def has_jump(moves: FloatArray) -> bool:
    """Return whether some of the changes of a series can hardly be true."""
    return bool(_are_jumps(moves).any())


def _are_jumps(moves: FloatArray) -> npt.NDArray[np.bool_]:
    sizes = np.abs(np.log1p(moves))
    if float(np.median(sizes)) >= math.log(MIN_JUMP):  # two units by turns
        large: npt.NDArray[np.bool_] = sizes >= math.log(MIN_JUMP)
        return large
    # A price that mostly stands still moves by whole ticks when it does
    moving = sizes[sizes > 0]
    usual = float(np.median(moving if len(moving) >= MIN_MOVING else sizes))
    tail = usual * len(sizes) ** (1 / 3)
    away = np.min([np.abs(sizes - math.log(split)) for split in SPLITS], axis=0)
    is_split = (away <= SPLIT_MOVES * usual) & (sizes >= math.log(MIN_SPLIT))
    is_jump = is_split & (sizes >= SPLIT_JUMP_MOVES * tail)
    is_jump |= (sizes >= math.log(MIN_JUMP)) & (sizes >= JUMP_MOVES * tail)
    # A fault of the data stands alone; a wild series has many moves of about the same size
    is_jump &= sizes >= JUMP_LEAD * float(np.max(sizes, initial=0.0, where=~is_jump))
    jumps: npt.NDArray[np.bool_] = is_jump
    return jumps


def guess_meaning(values: FloatArray, factor: float) -> str | None:
    """Say what else the values may be, if they can hardly be returns."""
    usual = float(np.median(np.abs(values)))
    if usual * MAD_TO_SIGMA * math.sqrt(factor) <= MAX_ANNUAL_VOLATILITY:
        return None
    if values.min() > 0:
        return f"holds values near {usual:.3g}, all above 0: if they are prices, leave returns out"
    return f"holds values near {usual:.3g}: if they are per cent, divide them by 100"


def hint_at_kind(values: FloatArray, *, is_returns: bool) -> str:
    """Return what to do about a column with impossible values, or an empty text."""
    sizes = np.abs(values[np.isfinite(values)])
    usual = float(np.median(sizes)) if len(sizes) else math.nan
    if is_returns:
        if usual > MIN_USUAL_POINTS:
            return " If they are basis points, divide them by 10,000."
        return " If they are per cent, divide them by 100." if usual > MAX_USUAL_RETURN else ""
    looks_like_returns = usual <= MAX_USUAL_RETURN and bool(np.nanmax(values) > 0)
    return RETURNS_HINT if looks_like_returns else ""


def describe_gaps(pairs: Sequence[tuple[pd.Timestamp, pd.Timestamp]]) -> str:
    """Return how many returns over gaps were left out, and which."""
    named = ", ".join(f"{begin.date()} to {end.date()}" for begin, end in pairs[:MAX_NAMED])
    more = f" and {len(pairs) - MAX_NAMED} more" if len(pairs) > MAX_NAMED else ""
    verb = "was" if len(pairs) == 1 else "were"
    return f"{count_noun(len(pairs), 'return')} over a gap {verb} left out ({named}{more})"


def describe_mixture(
    odd: Sequence[tuple[pd.Timestamp, pd.Timestamp]], steps: int, period: str
) -> str:
    """Return how many steps are of another frequency than the rest."""
    begin, end = odd[0]
    return (
        f"mixes frequencies: {len(odd)} of {steps} steps are not one {period} (first: "
        f"{begin.date()} to {end.date()})"
    )
