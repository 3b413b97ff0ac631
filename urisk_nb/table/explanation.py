"""
How one row comes from its sentences, as frames and as a page that shows itself.

No model is asked: everything here is in the report of the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from urisk_nb.render.sections import Section, render_sections_html, render_sections_text
from urisk_nb.render.table_content import DASH, format_value
from urisk_nb.risk.scoring import CUTS

__all__ = ["Explanation", "describe_cut"]

_FRACTIONS = ("p_label", "p_severity")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Explanation:
    """
    How one row comes from its sentences: label, severity, rating, score, level.

    Attributes
    ----------
    ticker, run_id, status
        Which row it is.
    score, level
        As in the row; None where there is no score.
    score_version
        ``score_v1`` or ``score_v2``; None where nothing was labeled.
    points
        What the categories come to, 0 to 100, six decimals; None where none is rated. A score may
        be withheld: `notes` say why.
    expected
        The score that follows from the ratings and the rules: that of the row, see `adds_up`.
    categories
        One row a rated category, the highest first: category, rating (0 to 5), weight (w, 0 to 1),
        discount (d: 1 for each by score_v1; 1, 3, 9, ... by score_v2), factor (1 - w / d), adds
        (the points that it adds to those above it), evidence (the ids of the sentences that give
        the rating), rule (what capped, raised or lowered it).
    sentences
        One row a sentence that counts or would have counted, in the order of the categories, the
        one that counts most first: category, gives (the rating of the category, if the sentence
        gives it, alone or with others; 0 where it counts for less than that; missing where it does
        not count), risk and severity (as labeled), counted (the severity after the rules; missing
        where it does not count), rule, p_label, p_severity, quote, source, section, date, flags,
        start, end (offsets into the document), evidence (its id), reason (why there is no label),
        model_risk, model_severity, override_by, override_at, override_why (what the model said,
        who corrected it, when and why; missing where nobody did).
    alerts
        One row a decisive sentence, found by its words without a model: family, category, counted
        (missing where it was not labeled), quote, source, section, date, start, end, evidence.
    metrics
        One row a metric of the prices, then weight and parts of the portfolio's risk, if the ticker
        has a weight: metric, value, flags (those that bear on it), why (what
        these say), n_obs (prices), period (of one return).
    flags
        One row a flag of the row: flag, why.
    notes
        What led to the level, or why there is no score: a sentence each.
    data
        Which prices were read, one sentence; empty without prices.
    """

    ticker: str
    run_id: str
    status: str
    score: float | None
    level: str
    score_version: str | None
    points: float | None
    expected: float | None
    categories: pd.DataFrame
    sentences: pd.DataFrame
    alerts: pd.DataFrame
    metrics: pd.DataFrame
    flags: pd.DataFrame
    notes: tuple[str, ...] = ()
    data: str = ""

    @property
    def adds_up(self) -> bool:
        """Whether the factors of the categories and the rules give exactly the row's score."""
        return self.score == self.expected

    def as_text(self, width: int | None = None) -> str:
        """
        Return what `print` shows.

        Parameters
        ----------
        width
            Columns that a line may take; default: those of the terminal.
        """
        return render_sections_text(list(_list_sections(self)), width)

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str | None:
        wanted = pd.get_option("display.notebook_repr_html")
        sections = list(_list_sections(self))
        return render_sections_html(sections, f"explanation of {self.ticker}") if wanted else None


def describe_cut(level: str) -> str:
    """
    Return which scores have a level.

    Examples
    --------
    >>> describe_cut("High"), describe_cut("Severe")
    ('from 60 to below 80', 'from 80')
    """
    bounds = {str(name.value): bound for bound, name in reversed(CUTS)}
    if level not in bounds:
        return ""
    upper = next((bound for bound in bounds.values() if bound > bounds[level]), None)
    below = "" if upper is None else f" to below {upper:g}"
    return f"from {bounds[level]:g}{below}"


# The page -----------------------------------------------------------------------------------------


def _list_sections(one: Explanation) -> Iterator[Section]:
    yield Section(title=_describe_row(one), lines=one.notes)
    yield _show_categories(one)
    yield _show(
        f"sentences of {one.ticker}",
        one.sentences,
        (
            *("category", "evidence", "gives", "risk", "severity", "counted"),
            *("p_label", "p_severity", "rule"),
        ),
        right=("gives", "severity", "counted", *_FRACTIONS),
        all_rows=".sentences",
    )
    yield _show(
        "alerts, by the words of the evidence alone",
        one.alerts,
        ("family", "category", "counted"),
        right=("counted",),
        all_rows=".alerts",
    )
    yield _show_metrics(one)
    yield Section(
        title="flags of the row" if len(one.flags) else "",
        lines=[f"{flag}: {why}" for flag, why in one.flags.itertuples(index=False)],
    )


def _describe_row(one: Explanation) -> str:
    run = f", run {one.run_id}" if one.run_id else ""
    score = "no score" if one.score is None else f"score {_format_points(one.score)}"
    return f"{one.ticker}: {one.level}, {score}, status {one.status}{run}"


def _format_points(points: float) -> str:
    return f"{points:.6f}".rstrip("0").rstrip(".")


def _show_categories(one: Explanation) -> Section:
    names = ("category", "rating", "weight", "discount", "factor", "adds", "evidence", "rule")
    if not len(one.categories):
        return Section()
    rows = [
        [_format_factor(name, row[name]) for name in names]
        for row in one.categories.to_dict("records")
    ]
    return Section(
        title=f"categories, by {one.score_version or 'the words alone'}",
        lines=[_describe_product(one)],
        head=names,
        rows=rows,
        right=frozenset(range(1, 6)),
    )


def _describe_product(one: Explanation) -> str:
    """Return the score as a sum to check by hand."""
    factors = [
        f"(1 - {weight:g}/{discount})" if discount > 1 else f"(1 - {weight:g})"
        for weight, discount in zip(
            one.categories["weight"], one.categories["discount"], strict=True
        )
    ]
    points = 0.0 if one.points is None else one.points
    said = f"100 * (1 - {' * '.join(factors)}) = {_format_points(points)}"
    return said if one.adds_up else f"{said}, which is not the score of the row"


def _format_factor(name: str, value: Any) -> str:
    if name == "evidence" and isinstance(value, str):
        return format_value(name, value.replace(";", ", "))
    return f"{value:.2f}" if name == "adds" else format_value("", value)


def _show(
    title: str,
    frame: pd.DataFrame,
    names: Sequence[str],
    *,
    right: Sequence[str],
    all_rows: str,
) -> Section:
    """Return a grid of sentences; columns without any value are left out."""
    if not len(frame):
        return Section()
    rows = frame.to_dict("records")
    cells = {name: [_format_cell(name, row) for row in rows] for name in (*names, "flags")}
    kept = [name for name in cells if any(cell != DASH for cell in cells[name])]
    return Section(
        title=title,
        head=kept,
        rows=list(zip(*(cells[name] for name in kept), strict=True)),
        quotes=[format_value("quote", row["quote"]) for row in rows],
        places=[_describe_place(row) for row in rows],
        right=frozenset(place for place, name in enumerate(kept) if name in right),
        all_rows=all_rows,
    )


def _format_cell(name: str, row: Mapping[Any, Any]) -> str:
    if name == "flags":
        said = [one for one in (row.get("flags"), row.get("reason")) if isinstance(one, str)]
        return format_value("", "; ".join(one.replace(";", ", ") for one in said if one)) or DASH
    value = row[name]
    if name in _FRACTIONS and isinstance(value, float) and not math.isnan(value):
        return f"{value:.2f}"
    return format_value("", value)


def _describe_place(row: Mapping[Any, Any]) -> str:
    """Return the source's place: name, section, date and offsets, as far as they are known."""
    parts = [format_value("", row[name]) for name in ("source", "section", "date")]
    parts.append(f"{format_value('', row['start'])}-{format_value('', row['end'])}")
    return ", ".join(part for part in parts if part not in ("", DASH))


def _show_metrics(one: Explanation) -> Section:
    if not len(one.metrics):
        return Section(lines=[one.data] if one.data else ())
    rows = [
        [
            row["metric"],
            format_value(row["metric"], row["value"]),
            format_value("", row["flags"].replace(";", ", ")) or DASH,
        ]
        for row in one.metrics.to_dict("records")
    ]
    return Section(
        title=_name_metrics(one.metrics["metric"].tolist()),
        lines=[one.data] if one.data else (),
        head=("metric", "value", "flags"),
        rows=rows,
        right=frozenset({1}),
        all_rows=".metrics",
    )


def _name_metrics(names: Sequence[str]) -> str:
    """Return what the metrics are of: prices, and of a holding its part in the portfolio."""
    own = [name for name in names if name == "weight" or name.startswith("comp_")]
    if not own:
        return "metrics of the prices"
    part = "weight and part of the portfolio's risk" if len(own) > 1 else "weight"
    return part if len(own) == len(names) else f"metrics of the prices, {part}"
