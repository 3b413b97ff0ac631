"""Small pictures as inline SVG: the strip of the last calls, and where the time of one call went.

Pure: records in, markup out. Colours are those of the phases; text and axes take the page's own
colour, so that both are legible in light and dark themes. One path for each phase, not one
rectangle for each call: the strip is drawn several times a second.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from urisk_nb.llm.calls import OK, CallRecord
from urisk_nb.notebook.latencies import COLOURS, NAMES, PHASES
from urisk_nb.notebook.time_axis import find_axis_end, label_cut_calls
from urisk_nb.render.text_layout import format_count

__all__ = ["FAILED", "draw_bar", "draw_legend", "draw_strip", "draw_waterfall"]

# A call, and the seconds of each of its phases from the bottom up
_Shown = tuple[CallRecord, dict[str, float]]

FAILED = "#CC3311"
WIDTH, HEIGHT, TOP, LEFT, BOTTOM = 960, 146, 22, 56, 18  # above TOP: the times of calls cut there
FONT_SIZE, CHAR_WIDTH = 11, 6.5
STEP_HEIGHT = 22  # of a line of the waterfall
PLACES = (50, 100, 200)  # for columns: a few calls are not drawn as thin as many
SEEN = 0.05  # the least height that is written as more than 0.0
TEXT = "var(--jp-ui-font-color1,currentColor)"
LINE = "var(--jp-border-color1,#bdbdbd)"


def draw_strip(records: Sequence[CallRecord]) -> str:
    """
    Return the calls as columns, the oldest left, each as high as it took long, its phases from the
    bottom up; failures have a red cap.

    A call that is much longer than the others is cut at the top of the axis. A triangle marks it,
    and its time stands above it.
    """
    most = next((places for places in PLACES if len(records) <= places), PLACES[-1])
    shown = [(record, _measure_phases(record)) for record in records[-most:]]
    durations_s = [sum(parts.values()) for _, parts in shown]
    is_ok = (record.outcome == OK for record, _ in shown)
    top_s = find_axis_end(zip(durations_s, is_ok, strict=True))
    drawn = "".join(
        f'<path d="{path}" fill="{colour}"/>'
        for colour, path in _draw_columns(shown, top_s, most).items()
        if path
    )
    cut = [
        (LEFT + (number + 0.5) * (WIDTH - LEFT) / most, seconds)
        for number, seconds in enumerate(durations_s, most - len(shown))
        if seconds > top_s
    ]
    return (
        f'<svg role="img" aria-label="{_describe_strip(shown, top_s, cut)}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;height:auto;display:block">'
        f"{_draw_axis(top_s)}{drawn}{_draw_cuts(cut)}</svg>"
    )


def _describe_strip(
    shown: Sequence[_Shown], top_s: float, cut: Sequence[tuple[float, float]]
) -> str:
    failed = sum(record.outcome != OK for record, _ in shown)
    label = f"Latency of the last {len(shown)} calls, up to {top_s:g} seconds"
    if cut:
        label += f"; {format_count(len(cut), 'call')} cut, the longest "
        label += f"{max(seconds for _, seconds in cut):.3g} seconds"
    return label + (f"; {failed} did not succeed" if failed else "")


def _draw_cuts(cut: Sequence[tuple[float, float]]) -> str:
    """Mark each call that is cut with a triangle, and write the times above."""
    if not cut:
        return ""
    marks = "".join(f"M{center - 4:.1f} {TOP}h8l-4 -6z" for center, _ in cut)
    labels = label_cut_calls(cut, char_width=CHAR_WIDTH, within=(LEFT, WIDTH))
    return f'<path d="{marks}" fill="{TEXT}"/>' + "".join(
        f'<text x="{label.center:.1f}" y="{TOP - 9}" text-anchor="middle" '
        f'font-size="{FONT_SIZE}" fill="{TEXT}">{label.words}'
        f"<title>{', '.join(label.every)}</title></text>"
        for label in labels
    )


def _draw_columns(shown: Sequence[_Shown], top_s: float, most: int) -> dict[str, str]:
    """
    The columns by colour, caps last; one too low to be seen is left out, as most phases of most
    calls are.
    """
    step = (WIDTH - LEFT) / most
    width = step - min(1.0, step / 4)
    columns: dict[str, list[str]] = {colour: [] for colour in (*COLOURS.values(), FAILED)}
    for number, (record, parts) in enumerate(shown, most - len(shown)):
        left, bottom = LEFT + number * step, _y(0.0, top_s)
        for phase, seconds in parts.items():
            height = min(_height(seconds, top_s), bottom - TOP)  # what is above is cut
            if height >= SEEN:
                columns[COLOURS[phase]].append(_draw_column(left, bottom, width, height))
            bottom -= height
        if record.outcome != OK:
            columns[FAILED].append(_draw_column(left, max(TOP + 4.0, bottom), width, 4.0))
    return {colour: "".join(found) for colour, found in columns.items()}


def _draw_column(left: float, bottom: float, width: float, height: float) -> str:
    return f"M{left:.1f} {bottom:.1f}h{width:.1f}v{-height:.1f}h{-width:.1f}z"


def _y(seconds: float, top_s: float) -> float:
    return HEIGHT - BOTTOM - _height(seconds, top_s)


def _height(seconds: float, top_s: float) -> float:
    return seconds / top_s * (HEIGHT - BOTTOM - TOP)


def _draw_axis(top_s: float) -> str:
    marks = ""
    for share in (0.0, 0.5, 1.0):
        y = _y(share * top_s, top_s)
        marks += f'<path d="M{LEFT} {y:.1f}H{WIDTH}" stroke="{LINE}" stroke-width="0.7"/>'
        marks += _draw_text(LEFT - 6, y + 4, _format_axis(share * top_s), is_end=True)
    below = HEIGHT - 3
    return (
        marks + _draw_text(WIDTH, below, "newest", is_end=True) + _draw_text(LEFT, below, "older")
    )


def _draw_text(
    x: float, y: float, words: str, *, size: int = FONT_SIZE, is_end: bool = False
) -> str:
    anchor = ' text-anchor="end"' if is_end else ""
    place = f'x="{x:g}" y="{y:.1f}"{anchor} font-size="{size}" fill="{TEXT}"'
    return f"<text {place}>{html.escape(words)}</text>"


def _format_axis(seconds: float) -> str:
    return f"{1000 * seconds:g} ms" if 0 < seconds < 1 else f"{seconds:g} s"


def _measure_phases(record: CallRecord) -> dict[str, float]:
    """
    Seconds of each phase; where the server gave no counter, the whole stands where the time was
    spent as far as is known.
    """
    timing = record.timing
    if timing is None:
        return dict.fromkeys(PHASES, 0.0)
    parts = {
        phase: 0.0 if math.isnan(value := getattr(timing, phase)) else value for phase in PHASES
    }
    if math.isnan(timing.server_total_s):
        first_s = timing.total_s if math.isnan(timing.first_token_s) else timing.first_token_s
        parts["prompt_s"] = 0.0 if math.isnan(first_s) else first_s
        parts["generation_s"] = (
            0.0 if math.isnan(timing.total_s) else timing.total_s - parts["prompt_s"]
        )
    return parts


def draw_legend() -> str:
    """Return what each colour means."""
    named = [*((NAMES[phase], COLOURS[phase]) for phase in PHASES), ("failed or cancelled", FAILED)]
    return "".join(
        f'<span style="white-space:nowrap;margin-right:1.2em"><span aria-hidden="true" '
        'style="display:inline-block;width:.8em;height:.8em;'
        f'margin-right:.4em;background:{colour}"></span>{name}</span>'
        for name, colour in named
    )


def draw_waterfall(steps: Sequence[tuple[str, float, str]], label: str) -> str:
    """Steps that follow each other, as bars one below the other: name, seconds, colour."""
    whole_s = sum(seconds for _, seconds, _ in steps) or 1.0
    starts_s = accumulate((seconds for _, seconds, _ in steps), initial=0.0)
    drawn = "".join(
        _draw_step(number * STEP_HEIGHT, start_s / whole_s, step, step[1] / whole_s)
        for number, (step, start_s) in enumerate(zip(steps, starts_s, strict=False))
    )
    return (
        f'<svg role="img" aria-label="{html.escape(label, quote=True)}" viewBox="0 0 {WIDTH} '
        f'{max(1, len(steps)) * STEP_HEIGHT}" '
        f'style="width:100%;max-width:{WIDTH}px;height:auto;display:block">{drawn}</svg>'
    )


def _draw_step(y: int, start: float, step: tuple[str, float, str], share: float) -> str:
    name, seconds, colour = step
    left, width = 170, 640
    x, long = left + start * width, max(1.0, share * width)
    end = round(min(x + long, left + width) + 6, 1)
    return (
        f"{_draw_text(left - 8, y + 15, name, size=12, is_end=True)}"
        f'<rect x="{x:.1f}" y="{y + 4}" width="{long:.1f}" height="14" fill="{colour}"/>'
        f"{_draw_text(end, y + 15, f'{seconds:.3f} s', size=12)}"
    )


def draw_bar(parts: Mapping[str, float], whole_s: float) -> str:
    """Return one call's phases beside each other, as long as it has taken of `whole_s`."""
    long = [200 * seconds / whole_s if whole_s > 0 else 0.0 for seconds in parts.values()]
    drawn = "".join(
        f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="10" fill="{colour}"/>'
        for colour, x, width in zip(parts, accumulate(long, initial=0.0), long, strict=False)
    )
    place = 'viewBox="0 0 200 10" style="width:200px;height:10px"'
    return f'<svg aria-hidden="true" {place}>{drawn}</svg>'
