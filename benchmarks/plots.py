"""
The plots of docs/performance.md, as SVG: python benchmarks/performance.py --only --write

They are legible on a light and on a dark page: the ground is transparent, the axes are grey. The
same results give the same bytes. What was not measured is said in the plot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from page import NOT_MEASURED, read_measured
from records import Curve, Figure

GREY, BLUE, ORANGE, GREEN = "#808790", "#3f87c7", "#d9822b", "#3c9d6b"
GOAL_PERCENT = 3.0
WIDE = 100  # an axis over more than that has a tick at the powers of ten alone
STYLE = {
    "svg.hashsalt": "urisk_nb",
    "svg.fonttype": "none",  # text stays text: small, and the reader can search it
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.markersize": 5,
}
Curves = Mapping[str, Curve]
Figures = Mapping[str, Figure]
Draw = Callable[[Drawing, Figures, Curves], None]


def draw_all(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw each plot into the folder; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = read_measured(results).values()
    figures = {key: one for each in measured for key, one in each.figures.items()}
    curves = {key: one for each in measured for key, one in each.curves.items()}
    paths = []
    for name, (height, draw) in PLOTS.items():
        path = folder / f"{name}.svg"
        with mpl.rc_context(STYLE):
            drawing = Drawing(figsize=(7.4, height), layout="constrained")
            draw(drawing, figures, curves)
            drawing.savefig(path, transparent=True, metadata={"Date": None})
        paths.append(path)
    return paths


# Parts --------------------------------------------------------------------------------------------


def show_plainly(axes: Axes, *, x: Sequence[float] | None = None, is_log: bool = True) -> None:
    """Use plain numbers on the axes, 1,000 instead of 10^3, with a tick at each `x` if given."""
    if is_log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        steps = (1,) if high > WIDE * low else (1, 2, 5)
        axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    if x is not None:
        axes.set_xticks(list(x))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_locator(NullLocator())
    axes.grid(visible=True, which="major")


def say_missing(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, NOT_MEASURED, ha="center", va="center", transform=axes.transAxes)


def draw_curve(axes: Axes, curve: Curve, label: str, color: str = BLUE) -> None:
    axes.plot(curve.x, curve.y, marker="o", color=color, label=label)


def draw_dashed(axes: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    axes.plot(x, y, linestyle="--", color=GREY, label=label)


def draw_growth(axes: Axes, curve: Curve | None, title: str, x: str, y: str) -> None:
    """Draw a curve on two logarithmic axes, with its ideal or a proportional line."""
    axes.set_title(title, loc="left")
    if curve is None:
        say_missing(axes)
        return
    draw_curve(axes, curve, "measured")
    if curve.ideal is not None:
        draw_dashed(axes, curve.x, curve.ideal, "ideal")
    else:
        last_x, last_y = curve.x[-1], curve.y[-1]
        proportional = [last_y * one / last_x for one in curve.x]
        draw_dashed(axes, curve.x, proportional, "proportional")
    show_plainly(axes, x=curve.x)
    axes.set_xlabel(f"{x}\n{curve.conditions}")
    axes.set_ylabel(y)
    axes.legend()


# Plots --------------------------------------------------------------------------------------------

OVERHEADS = {
    "`generate`": "generate",
    "`%%ask`": "ask",
    "`%%risk`": "risk",
    "a recorded run, over an unrecorded one": "journal",
    "ollama-python, one answer": "generate ollama-python",
    "ollama-python, many": "risk ollama-python",
    "langchain-ollama, one answer": "generate langchain-ollama",
    "langchain-ollama, many": "risk langchain-ollama",
}


def draw_overheads(drawing: Drawing, figures: Figures, _: Curves) -> None:
    """Draw the overhead of each client over raw httpx, with the spread of the rounds."""
    axes = drawing.subplots()
    for place, key in enumerate(OVERHEADS.values()):
        if (figure := figures.get(key)) is None:
            axes.text(0, place, f" {NOT_MEASURED}", va="center")
            continue
        value, low, high = (
            100 * (one - 1)
            for one in (figure.value, figure.low or figure.value, figure.high or figure.value)
        )
        color = BLUE if place < 4 else ORANGE
        axes.plot([low, high], [place, place], color=color, linewidth=3, alpha=0.4)
        axes.plot([value], [place], marker="o", color=color)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.axvline(GOAL_PERCENT, color=GREY, linestyle="--", linewidth=1)
    axes.text(GOAL_PERCENT, -0.9, "goal of urisk_nb", ha="center", va="bottom", fontsize=8.5)
    axes.set_yticks(range(len(OVERHEADS)), [label.replace("`", "") for label in OVERHEADS])
    axes.set_ylim(len(OVERHEADS) - 0.5, -1)
    axes.set_xlabel("extra time over raw httpx, %\nmedian and spread of the rounds")
    axes.grid(visible=True, axis="x")


def draw_prices(drawing: Drawing, _: Figures, curves: Curves) -> None:
    """Draw the time of a table without a model over tickers and over history."""
    left, right = drawing.subplots(1, 2)
    draw_growth(left, curves.get("tickers"), "Tickers", "tickers", "processor time, s")
    draw_growth(right, curves.get("history"), "History", "days", "processor time, s")


def draw_documents(drawing: Drawing, _: Figures, curves: Curves) -> None:
    """Draw the time of a run over its documents."""
    left, right = drawing.subplots(1, 2)
    draw_growth(left, curves.get("notes"), "Short notes, labeled", "notes", "time, s")
    title = "Annual reports: read, sentences chosen"
    draw_growth(right, curves.get("reports"), title, "annual reports", "time, s")


def draw_servers(drawing: Drawing, _: Figures, curves: Curves) -> None:
    """Draw the call rate over servers, and over workers of a cluster."""
    panels = {"servers": "One session, several servers", "cluster": "A cluster of workers"}
    for axes, (key, title) in zip(drawing.subplots(1, 2), panels.items(), strict=True):
        axes.set_title(title, loc="left")
        if (curve := curves.get(key)) is None:
            say_missing(axes)
            continue
        draw_curve(axes, curve, "measured")
        draw_dashed(axes, curve.x, curve.ideal or (), "ideal")
        show_plainly(axes, x=curve.x, is_log=False)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"{'servers' if key == 'servers' else 'workers'}\n{curve.conditions}")
        axes.set_ylabel("calls per second")
        axes.legend()


def draw_kernels(drawing: Drawing, _: Figures, curves: Curves) -> None:
    """Draw the times of several kernels on one server."""
    axes = drawing.subplots()
    last, first = curves.get("kernels last"), curves.get("kernels first")
    if last is None or first is None:
        say_missing(axes)
        return
    draw_curve(axes, last, "the last kernel is done")
    draw_curve(axes, first, "the first kernel is done", GREEN)
    draw_dashed(axes, last.x, last.ideal or (), "ideal: the server is never idle")
    show_plainly(axes, x=last.x)
    axes.set_xlabel(f"kernels at once\n{last.conditions}")
    axes.set_ylabel("time, s")
    axes.legend()


PLOTS: dict[str, tuple[float, Draw]] = {
    "overheads": (3.4, draw_overheads),
    "prices": (3.0, draw_prices),
    "documents": (3.0, draw_documents),
    "servers": (3.0, draw_servers),
    "kernels": (3.0, draw_kernels),
}
