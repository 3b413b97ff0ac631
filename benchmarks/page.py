"""
Write the results between the markers of docs/performance.md.

`<!-- made: goals -->` to `<!-- end -->` encloses a generated table, and `<!-- = judge rate -->` to
`<!-- / -->` a single figure in a sentence. The text around them is written by hand and stays. A
figure that is not in the results is "not measured", and a missed goal is marked as missed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from goals import CLIENTS, GOALS, MORE, ROWS, Row
from records import Figure, Measured, decode

NOT_MEASURED = "not measured"
_BLOCK = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_INLINE = re.compile(r"(<!-- = ([^>]+?) -->).*?(<!-- / -->)", re.DOTALL)


class UnknownMark(Exception):
    """A marker of the page that names no figure or table."""


def render(text: str, results: Mapping[str, Any]) -> str:
    """
    Return the page with its generated parts replaced.

    Raises
    ------
    UnknownMark
        A marker names no figure or table, or a figure's marker begins a line: Markdown would treat
        that line as HTML, which ends the list or paragraph around it.
    """
    if found := re.search(r"^\s*<!-- = .*", text, re.MULTILINE):
        raise UnknownMark(f"a word has to stand before {found[0].strip()[:60]!r}")
    figures = read_figures(results)
    # Sentences quote full-size figures only
    full = {name: one for name, one in results["groups"].items() if not one["quick"]}
    full_size = read_figures({"groups": full})

    def make_block(match: re.Match[str]) -> str:
        if match[2] not in _BLOCKS:
            raise UnknownMark(f"made: {match[2]!r} is none of {', '.join(_BLOCKS)}")
        return f"{match[1]}\n{_BLOCKS[match[2]](results, figures)}\n\n{match[3]}"

    def make_inline(match: re.Match[str]) -> str:
        key, _, part = match[2].partition("@")
        if key.strip() not in ROWS:
            raise UnknownMark(f"{key!r} is no figure of goals.py")
        figure = full_size.get(key.strip())
        return f"{match[1]}{show_part(figure, part.strip())}{match[3]}"

    return _INLINE.sub(make_inline, _BLOCK.sub(make_block, text))


def read_measured(results: Mapping[str, Any]) -> dict[str, Measured]:
    """Return what each group measured, without the groups that failed or were skipped."""
    return {
        name: decode(group["measured"])
        for name, group in results["groups"].items()
        if group["status"] == "done"
    }


def read_figures(results: Mapping[str, Any]) -> dict[str, Figure]:
    """Return all figures of the results by their key."""
    return {
        key: figure
        for measured in read_measured(results).values()
        for key, figure in measured.figures.items()
    }


# Values -------------------------------------------------------------------------------------------


def show_number(value: float, unit: str) -> str:
    """Return a number with its significant digits and its unit."""
    if unit == "x":
        return f"{value:.3f} x" if value >= 0.1 else f"{value:.4f} x"
    if float(value).is_integer() or abs(value) >= 100:
        digits = f"{value:,.0f}"
    elif abs(value) >= 10:
        digits = f"{value:.1f}"
    else:
        digits = f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
    return f"{digits} {unit}"


def show_part(figure: Figure | None, part: str) -> str:
    """Return a figure's value, or the named part of it, as a sentence quotes it."""
    if figure is None:
        return NOT_MEASURED
    if part == "percent":
        return f"{100 * (figure.value - 1):.1f} %"
    if part == "times":  # how many times faster than the anchor
        return f"{1 / figure.value:.1f} times"
    if part in ("ours", "anchor"):
        return show_number(getattr(figure, part), "s")
    if part:
        raise UnknownMark(f"{part!r} is none of percent, times, ours, anchor")
    return show_number(figure.value, figure.unit)


def show_spread(figure: Figure) -> str:
    """Return the spread over the rounds; empty for a single round."""
    if figure.rounds == 1 or figure.low is None or figure.high is None:
        return ""
    low, high = (show_number(one, figure.unit) for one in (figure.low, figure.high))
    return f"{low.removesuffix(f' {figure.unit}')} to {high}, {figure.rounds} rounds"


def show_sides(figure: Figure) -> str:
    """Return the two times of a ratio."""
    if figure.ours is None or figure.anchor is None:
        return ""
    return f"{show_number(figure.ours, 's')} over {show_number(figure.anchor, 's')}"


# Blocks -------------------------------------------------------------------------------------------


def tabulate(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; `|` and `<` in a cell are escaped."""
    cells = [[cell.replace("|", r"\|").replace("<", "&lt;") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |".replace("  ", " ") for line in lines)


def describe(row: Row) -> str:
    return f"{row.what} over {row.anchor}" if row.anchor else row.what


def judge(row: Row, figure: Figure | None, group: Mapping[str, Any] | None) -> str:
    """Return whether a goal is met; figures at small sizes are not judged."""
    if figure is None or group is None or row.goal is None:
        return ""
    if group["quick"]:
        return "small sizes"
    return "met" if figure.value <= row.goal else "**missed**"


def describe_figure(figure: Figure | None, group: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the value of a figure, and how it was measured or why it is missing."""
    if figure is None:
        return NOT_MEASURED, explain(group)
    parts = [show_sides(figure), show_spread(figure), figure.conditions]
    return show_number(figure.value, figure.unit), "; ".join(filter(None, parts))


def explain(group: Mapping[str, Any] | None) -> str:
    """Return why a figure is missing."""
    if group is None:
        return ""
    return "; ".join(group["measured"]["notes"]) if group["status"] == "done" else group["why"]


def make_goals(results: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """Return the table of the goals and what was measured."""
    lines = []
    for row in GOALS:
        figure, group = figures.get(row.key), results["groups"].get(row.group)
        value, how = describe_figure(figure, group)
        goal = f"{'≤ ' * (row.goal != 0)}{row.goal:g} {row.unit}"
        lines.append([describe(row), goal, value, judge(row, figure, group), how])
    return tabulate(["what", "goal", "measured", "", "how"], lines)


def make_rows(
    rows: Sequence[Row],
) -> Callable[[Mapping[str, Any], Mapping[str, Figure]], str]:
    """Return the function that makes a table of figures without goals."""

    def make(results: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
        lines = [
            [
                describe(row),
                *describe_figure(figures.get(row.key), results["groups"].get(row.group)),
            ]
            for row in rows
        ]
        return tabulate(["what", "measured", "how"], lines)

    return make


def make_machine(results: Mapping[str, Any], _: Mapping[str, Figure]) -> str:
    """Return the machine, the versions, and when the groups ran."""
    machine = results["machine"]
    if not machine:
        return NOT_MEASURED
    versions = ", ".join(f"{name} {one}" for name, one in machine["versions"].items())
    memory = f"{machine['memory_gb']} GB of memory"
    where = [machine["cpu"], f"{machine['cores']} cores", memory, machine["gpu"], machine["system"]]
    lines = [
        f"- **Machine**: {', '.join(where)}",
        f"- **Versions**: Python {machine['python']}, {versions}",
        *(f"- {line}" for line in describe_groups(results["groups"])),
    ]
    return "\n".join(lines)


def describe_groups(groups: Mapping[str, Any]) -> list[str]:
    """Return when the groups ran, on how busy a machine, and what they left out."""
    done = {name: one for name, one in groups.items() if one["status"] == "done"}
    lines = []
    if done:
        days = sorted({one["began_at"][:10] for one in done.values()})
        loads = [one["load"] for one in done.values()]
        total_s = sum(one["seconds"] for one in done.values())
        lines.append(
            f"**Run**: {' to '.join(dict.fromkeys((days[0], days[-1])))}, {total_s / 60:.0f} "
            f"minutes; load average before each group {min(loads):.1f} to {max(loads):.1f}"
        )
    if quick := [name for name, one in done.items() if one["quick"]]:
        lines.append(
            f"**Small sizes** (`--quick`), not compared with the goals: {', '.join(quick)}"
        )
    left_out = [
        f"{name}: {note}" for name, one in done.items() for note in one["measured"]["notes"]
    ]
    left_out += [
        f"{name} ({one['status']}): {one['why']}" for name, one in groups.items() if one["why"]
    ]
    return [*lines, *(f"**Left out**: {one}" for one in left_out)]


_BLOCKS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Figure]], str]] = {
    "goals": make_goals,
    "clients": make_rows(CLIENTS),
    "more": make_rows(MORE),
    "machine": make_machine,
}
