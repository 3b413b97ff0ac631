"""
Charts as inline SVG: a drawdown, the returns with their tail, bars of parts.

Pure: numbers in, markup out. Colors are classes of the page's style sheet (`area`, `bar`, `tail`,
`axis`), so that a chart is legible in light, in dark and on paper. What a color says, a text says
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from urisk_nb.render.escaping import escape_html
from urisk_nb.render.text_layout import cut

__all__ = ["draw_bars", "draw_drawdown", "draw_returns"]

WIDTH, HEIGHT = 340, 110  # of a chart over time or of returns
TOP, BOTTOM, LEFT = 6, 18, 44  # room for the texts
MAX_POINTS = 200  # of a line: more cannot be seen
BINS = 41
NAMED_TAIL = 30  # how long a tail must be for its name to stand over it
LEAST = 1.0  # height of a bin with a single return, which would not be seen
ROW, NAME_WIDTH, VALUE_WIDTH = 20, 110, 70  # of the bars
MAX_NAME_CHARS = 16


def draw_drawdown(losses: Sequence[float], first: str, last: str, label: str) -> str:
    """
    Return losses from the peak before as an area that hangs from zero.

    Parameters
    ----------
    losses
        Positive fractions, one a date; at least one.
    first, last
        The first and the last date.
    label
        What the chart shows, for who does not see it.
    """
    worst = max(losses)
    points = _thin_out(losses)
    step = (WIDTH - LEFT) / max(1, len(points) - 1)
    scale = (HEIGHT - TOP - BOTTOM) / worst if worst > 0 else 0.0
    line = "".join(
        f"L{LEFT + number * step:.1f} {TOP + loss * scale:.1f}"
        for number, loss in enumerate(points)
    )
    return _frame(
        f'<path class="area" d="M{LEFT} {TOP}{line}V{TOP}z"/>'
        f"{_draw_level(TOP, '0%')}{_draw_level(HEIGHT - BOTTOM, f'{worst:.1%}')}"
        f"{_draw_ends(first, last)}",
        label,
    )


def draw_returns(returns: Sequence[float], loss: float | None, name: str, label: str) -> str:
    """
    Return how often which return was seen, the tail beyond a loss in its own color.

    Parameters
    ----------
    returns
        Simple returns as fractions; at least one.
    loss
        Where the tail begins, a positive fraction, such as VaR; None without.
    name
        What the loss is called.
    label
        What the chart shows, for who does not see it.
    """
    values = np.asarray(returns, dtype=float)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    high = high if high > low else low + 1e-9
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    width = (WIDTH - LEFT) / BINS
    scale = (HEIGHT - TOP - BOTTOM) / counts.max()
    paths = {"bar": "", "tail": ""}
    for number, count in enumerate(counts):
        if count:
            is_tail = loss is not None and edges[number + 1] <= -loss
            x, height = LEFT + number * width, max(LEAST, count * scale)
            path = f"M{x:.1f} {HEIGHT - BOTTOM}v{-height:.1f}h{width - 0.6:.1f}v{height:.1f}z"
            paths["tail" if is_tail else "bar"] += path
    drawn = "".join(f'<path class="{kind}" d="{path}"/>' for kind, path in paths.items() if path)
    mark = ""
    if loss is not None and low < -loss < high:
        x = LEFT + (-loss - low) / (high - low) * (WIDTH - LEFT)
        mark = f'<path class="axis" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        # Over the tail there is room, if the tail is long enough
        gap, anchor = (-3, "end") if x - LEFT > NAMED_TAIL else (3, "start")
        mark += _draw_text(x + gap, TOP + 9, f"{name} {loss:.1%}", anchor=anchor)
    axis = _draw_level(HEIGHT - BOTTOM, "") + _draw_ends(f"{low:.1%}", f"{high:.1%}")
    return _frame(f"{drawn}{mark}{axis}", label)


def draw_bars(parts: Mapping[str, float], label: str) -> str:
    """
    Return one bar a part, from zero to the right, of a negative part to the left.

    Parameters
    ----------
    parts
        Fractions by name; at least one.
    label
        What the chart shows, for who does not see it.
    """
    low, high = min(0.0, *parts.values()), max(0.0, *parts.values())
    room = WIDTH * 2 - NAME_WIDTH - 2 * VALUE_WIDTH
    scale = room / (high - low) if high > low else 0.0
    zero = NAME_WIDTH + VALUE_WIDTH - low * scale
    drawn = ""
    for number, (name, value) in enumerate(parts.items()):
        y, end = number * ROW, zero + value * scale
        kind, gap, anchor = ("bar", 4, "start") if value >= 0 else ("tail", -4, "end")
        drawn += _draw_text(NAME_WIDTH - 6, y + 14, cut(name, MAX_NAME_CHARS), anchor="end")
        drawn += f'<path class="{kind}" d="M{zero:.1f} {y + 4}H{end:.1f}v12H{zero:.1f}z"/>'
        drawn += _draw_text(end + gap, y + 14, f"{value:.2%}", anchor=anchor)
    drawn += f'<path class="axis" d="M{zero:.1f} 0V{len(parts) * ROW}"/>'
    return _frame(drawn, label, WIDTH * 2, len(parts) * ROW)


def _thin_out(losses: Sequence[float]) -> list[float]:
    """Return few enough points, of each stretch the worst, so that no low is lost."""
    if len(losses) <= MAX_POINTS:
        return list(losses)
    return [float(part.max()) for part in np.array_split(np.asarray(losses), MAX_POINTS)]


def _frame(drawn: str, label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    return (
        f'<svg role="img" aria-label="{escape_html(label)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{drawn}</svg>'
    )


def _draw_level(y: float, words: str) -> str:
    line = f'<path class="axis" d="M{LEFT} {y}H{WIDTH}"/>'
    return line + (_draw_text(LEFT - 4, y + 4, words, anchor="end") if words else "")


def _draw_ends(first: str, last: str) -> str:
    return _draw_text(LEFT, HEIGHT - 4, first) + _draw_text(WIDTH, HEIGHT - 4, last, anchor="end")


def _draw_text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape_html(words)}</text>'
