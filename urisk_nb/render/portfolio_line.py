"""
The portfolio under the rows of a table: its main figures in one row, and why one is missing.

It is no row of the table: its figures are not those of a ticker. `table.portfolio` has all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from urisk_nb.render.escaping import escape_html, one_line
from urisk_nb.render.markup import CODE, NUMBER
from urisk_nb.render.table_content import TableContent, format_value, name_heading
from urisk_nb.render.text_layout import display_width, format_count, wrap
from urisk_nb.risk.row_warnings import codes_in

__all__ = ["render_portfolio_html", "render_portfolio_text"]

_TAIL = re.compile(r"(?:var|es)_\d+")  # the historical ones; the others are in table.portfolio
_HEADINGS = {
    "diversification_ratio": "diversification ratio",
    "effective_number": "effective number",
}
_INDENT = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """What is shown: a title, the headings with a value for each, the flags, and sentences."""

    title: str
    cells: list[tuple[str, str]]
    codes: list[str]
    notes: list[str]


def render_portfolio_html(content: TableContent) -> str:
    """Return the main figures of the portfolio; "" where the table has none."""
    if (line := _read(content)) is None:
        return ""
    heads = "".join(
        f'<th scope="col" style="{NUMBER};white-space:normal">{escape_html(head)}</th>'
        for head, _ in line.cells
    )
    values = "".join(f'<td style="{NUMBER}">{escape_html(text)}</td>' for _, text in line.cells)
    codes = " ".join(f'<span style="{CODE}">{escape_html(code)}</span>' for code in line.codes)
    first, *others = map(escape_html, line.notes or [""])
    said = "".join(f"<div>{note}</div>" for note in (f"{codes} {first}".strip(), *others) if note)
    return (
        f'<div style="margin:.7em 0"><div style="font-weight:600">{escape_html(line.title)}</div>'
        '<table aria-label="portfolio" style="border-collapse:collapse">'
        f"<thead><tr>{heads}</tr></thead><tbody><tr>{values}</tr></tbody></table>{said}</div>"
    )


def render_portfolio_text(content: TableContent, width: int) -> list[str]:
    """Return the main figures of the portfolio as lines; none where the table has none."""
    if (line := _read(content)) is None:
        return []
    figures = _pack([f"{head} {text}" for head, text in line.cells], width - len(_INDENT))
    codes = f"{', '.join(line.codes)}: " if line.codes else ""
    first, *others = line.notes or [""]
    said = [note for note in (f"{codes}{first}".removesuffix(": "), *others) if note]
    return [
        *wrap(line.title, width),
        *(piece for one in (*figures, *said) for piece in wrap(one, width, _INDENT, _INDENT * 2)),
    ]


def _pack(items: Iterable[str], width: int) -> list[str]:
    """Return the items on lines of at most `width` columns, each item on one line if it fits."""
    lines: list[str] = []
    for item in items:
        if lines and display_width(longer := f"{lines[-1]} · {item}") <= width:
            lines[-1] = longer
        else:
            lines.append(item)
    return lines


def _read(content: TableContent) -> _Line | None:
    figures = content.portfolio
    if figures is None or not content.is_whole:
        return None
    has_labels = any(run.get("has_labels") for run in content.runs)
    return _Line(
        title=_describe_holdings(content, figures),
        cells=[
            (_name(name, figures), format_value(name, figures[name])) for name in _choose(figures)
        ]
        + ([("weighted score", format_value("score", figures.get("score")))] if has_labels else []),
        codes=list(map(one_line, codes_in([figures.get("flags")]))),
        notes=[*_describe_missing(figures), *(_describe_score(figures) if has_labels else ())],
    )


def _choose(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the figures that are shown, as a table orders those of its rows."""
    yield from (name for name in ("ret_total", "vol_ann") if name in figures)
    yield from (name for name in map(str, figures) if _TAIL.fullmatch(name))
    rest = ("max_dd", "diversification_ratio", "effective_number")
    yield from (name for name in rest if name in figures)


def _name(name: str, figures: Mapping[str, Any]) -> str:
    heading = _HEADINGS.get(name) or name_heading(name)
    period = figures.get("period")
    if not isinstance(period, str) or not _TAIL.fullmatch(name):
        return heading
    return f"{heading} ({one_line(period)})"


def _describe_holdings(content: TableContent, figures: Mapping[str, Any]) -> str:
    """Return the title: how many holdings there are, and what their weights come to."""
    count = figures.get("holdings")
    shown = content.frame.get("weight")
    is_part = shown is not None and int((shown.fillna(0) != 0).sum()) != count
    whole = "portfolio of the whole run" if is_part else "portfolio"
    sums = [
        f"{name} {format_value('weight', figures[key])}"
        for name, key in (("net", "weight_sum"), ("gross", "weight_gross"))
        if key in figures
    ]
    return f"{whole}: {', '.join([format_count(int(count or 0), 'holding'), *sums])}"


def _describe_missing(figures: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(reason := figures.get("reason"), str):
        yield one_line(reason)


def _describe_score(figures: Mapping[str, Any]) -> Iterator[str]:
    """Say where holdings have no score: the mean leaves them out."""
    share = figures.get("score_coverage")
    if not isinstance(share, float) or share >= 1:
        return
    if not share > 0:
        yield "No holding has a score."
        return
    yield f"The score is of {share:.1%} of the gross weight: the other holdings have none (NR)."
