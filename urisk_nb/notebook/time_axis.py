"""
The axis of a chart of durations: where it ends, so that one long call does not flatten the others,
and what is written on the calls that are longer than it.

Pure: seconds in, places and words out. The dashboard's strip and the chart of `%urisk_latency` use
the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["CutLabel", "find_axis_end", "label_cut_calls", "round_up"]

# A call is cut if it is longer than so many times the 90th percentile. Then the call at the
# percentile is at least a tenth as high as the drawing: the axis ends at most 2.5 times further.
HIGH_SHARE = 0.9
MAX_FACTOR = 4
MIN_CALLS = 3  # with fewer, none of them is unusual


@dataclass(frozen=True, slots=True, kw_only=True)
class CutLabel:
    """
    What stands above calls that are cut and so close together that their words would overlap.

    Attributes
    ----------
    center
        Where the words are centered, in the units of the drawing.
    words
        The time, or the shortest and the longest of several: `42 s`, `12-42 s` with a dash.
    every
        The time of each of these calls.
    """

    center: float
    words: str
    every: tuple[str, ...]


def find_axis_end(calls: Iterable[tuple[float, bool]]) -> float:
    """
    Return where an axis for these calls ends: a round number, in seconds.

    Calls that are longer than four times the 90th percentile (nearest rank) do not count: they are
    cut. At least one call may be cut from three calls on. Without such calls the axis ends at or
    above the longest one, and at 1 s where nothing took time. Calls that failed sooner than any
    call succeeded say nothing of how long calls take, and are no part of the percentile.

    Parameters
    ----------
    calls
        The seconds of each call, and whether it ended well.
    """
    took = [(seconds, is_ok) for seconds, is_ok in calls if seconds > 0]
    if not took:
        return 1.0
    shortest_s = min((seconds for seconds, is_ok in took if is_ok), default=0.0)
    ordered = sorted(seconds for seconds, _ in took if seconds >= shortest_s)
    rank = math.ceil(HIGH_SHARE * len(ordered))
    if len(ordered) >= MIN_CALLS:
        rank = min(rank, len(ordered) - 1)
    limit_s = MAX_FACTOR * ordered[rank - 1]
    return round_up(max(seconds for seconds in ordered if seconds <= limit_s))


def round_up(seconds: float) -> float:
    """
    Return the next of 1, 2, 5, 10, ... at or above; an axis needs some height where nothing took
    time.
    """
    if not seconds > 0:
        return 1.0
    power = 10 ** math.floor(math.log10(seconds))
    return next(
        float(f"{nice * power:.3g}") for nice in (1, 2, 5, 10, 20) if nice * power >= seconds
    )


def label_cut_calls(
    cut: Sequence[tuple[float, float]], *, char_width: float, within: tuple[float, float]
) -> list[CutLabel]:
    """
    Return the labels of the calls that are cut, from the left; none overlaps another.

    Parameters
    ----------
    cut
        The center of the column and the seconds of each call that is cut, from the left.
    char_width
        The width of a character, in the units of the centers.
    within
        The left and right end of the space that the words may take.
    """
    groups: list[list[tuple[float, float]]] = []
    labels: list[CutLabel] = []
    for call in cut:
        group = [call]
        label = _label(group, char_width, within)
        while labels and _overlap(labels[-1], label, char_width):
            group = groups.pop() + group
            labels.pop()
            label = _label(group, char_width, within)
        groups.append(group)
        labels.append(label)
    return labels


def _label(
    group: Sequence[tuple[float, float]], char_width: float, within: tuple[float, float]
) -> CutLabel:
    times_s = [seconds for _, seconds in group]
    low, high = _format(min(times_s)), _format(max(times_s))
    words = high if low == high else f"{low.removesuffix(' s')}–{high}"
    half = len(words) * char_width / 2
    center = (group[0][0] + group[-1][0]) / 2
    return CutLabel(
        center=min(max(center, within[0] + half), within[1] - half),
        words=words,
        every=tuple(map(_format, times_s)),
    )


def _overlap(left: CutLabel, right: CutLabel, char_width: float) -> bool:
    """Tell whether there is less than a character between the two."""
    room = right.center - left.center
    return room < char_width * (1 + (len(left.words) + len(right.words)) / 2)


def _format(seconds: float) -> str:
    """Return seconds with three digits; from a hundred on in whole ones."""
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.3g} s"
