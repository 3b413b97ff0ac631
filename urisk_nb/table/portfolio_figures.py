"""The figures of a portfolio: a Series that shows each one with its unit and what it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from urisk_nb.render.sections import Section, render_sections_html, render_sections_text
from urisk_nb.render.table_content import format_value, name_heading
from urisk_nb.risk.row_warnings import WARNINGS, codes_in

__all__ = ["PortfolioFigures", "show_figures"]

_WORDS = ("flags", "reason")  # they stand above the figures as sentences
_TAIL = re.compile(r"((?:var|es)_\d+)_?(.*)")
_METHODS = {
    "": "historical",
    "filtered": "historical, scaled to the volatility of now",
    "gaussian": "of a normal distribution",
    "cornish_fisher": "with skewness and kurtosis",
}
_MEANINGS = {
    "holdings": "tickers with a weight other than 0",
    "weight_sum": "net: sum of the weights",
    "weight_gross": "gross: sum of their sizes",
    "effective_number": "inverse Herfindahl index of the sizes",
    "n_obs": "returns on dates that all positions have",
    "first_obs": "the first of these dates",
    "last_obs": "the last of these dates",
    "ann_factor": "periods in a year",
    "period": "horizon of VaR and ES",
    "ret_total": "over all of these dates",
    "vol_ann": "volatility a year",
    "max_dd": "largest fall from a high",
    "diversification_ratio": "1 says that nothing is diversified away",
    "score": "0 to 100, mean by size of position",
    "score_coverage": "part of the gross weight with a score",
}


class PortfolioFigures(pd.Series):
    """
    The figures of a portfolio by name, as they were computed; `table.portfolio` gives it.

    A notebook shows them as per cent where they are fractions, each with what it is. What you
    select from it is one, too.
    """

    @property
    def _constructor(self) -> type[PortfolioFigures]:
        return PortfolioFigures

    def __repr__(self) -> str:
        return render_sections_text([show_figures(self.to_dict())])

    def _repr_html_(self) -> str | None:
        wanted = pd.get_option("display.notebook_repr_html")
        section = show_figures(self.to_dict())
        return render_sections_html([section], "portfolio") if wanted else None


def show_figures(figures: Mapping[Any, Any]) -> Section:
    """Return the figures of a portfolio as a part of a page: name, value and what each is."""
    named = {str(name): value for name, value in figures.items()}
    reason = named.get("reason")
    lines = [reason] if isinstance(reason, str) else []
    codes = codes_in([named.get("flags")])
    return Section(
        title="portfolio",
        lines=[*lines, *(f"{code}: {WARNINGS[code]}" for code in codes if code in WARNINGS)],
        head=("figure", "value", "what it is"),
        rows=[
            (name, _format(name, value), _describe(name))
            for name, value in named.items()
            if name not in _WORDS
        ],
        right=frozenset({1}),
    )


def _format(name: str, value: Any) -> str:
    # Methods are compared here, and they differ by basis points
    return format_value(name, value, digits=2 if _TAIL.fullmatch(name) else None)


def _describe(name: str) -> str:
    """Return what a figure is, in a few words; "" for one that is not ours."""
    if (tail := _TAIL.fullmatch(name)) is None or tail[2] not in _METHODS:
        return _MEANINGS.get(name, "")
    return f"{name_heading(tail[1])}, {_METHODS[tail[2]]}"
