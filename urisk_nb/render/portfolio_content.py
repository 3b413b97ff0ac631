"""
What a report says of the whole portfolio, before it is HTML or cells: figures, and one frame a
table of parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

__all__ = ["PortfolioContent", "read_portfolio"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PortfolioContent:
    """
    The figures of a portfolio by name, and its tables by name, such as one row a holding.

    Names of figures and columns are those of the table: `es_95` is a fraction.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def find_components(self) -> tuple[str, pd.Series[Any]] | None:
        """Return the name and the values of what each holding adds to ES; None without."""
        for frame in self.tables.values():
            for name in map(str, frame.columns):
                is_share = name.endswith("_share")
                if name.startswith("comp_es") and not is_share and is_numeric_dtype(frame[name]):
                    labeled = frame.set_index("ticker") if "ticker" in frame else frame
                    return name, labeled[name].dropna()
        return None


def read_portfolio(portfolio: Any) -> PortfolioContent:
    """
    Return figures and tables of a portfolio: a frame, a mapping, a Series, or a record of these.

    Frames are tables. So are mappings and Series inside, with the columns `name` and `value`. Any
    other value is a figure.
    """
    if isinstance(portfolio, pd.DataFrame):
        return PortfolioContent(tables={"portfolio": pd.DataFrame(portfolio)})
    content = PortfolioContent()
    for name, value in _list_parts(portfolio).items():
        if isinstance(value, pd.DataFrame):
            content.tables[name] = pd.DataFrame(value)
        elif isinstance(value, Mapping | pd.Series):
            content.tables[name] = _to_frame(name, dict(value.items()))
        else:
            content.figures[name] = value
    return content


def _list_parts(portfolio: Any) -> dict[str, Any]:
    if is_dataclass(portfolio) and not isinstance(portfolio, type):
        return {one.name: getattr(portfolio, one.name) for one in fields(portfolio)}
    if isinstance(portfolio, Mapping | pd.Series):
        return {str(name): value for name, value in portfolio.items()}
    return {"portfolio": portfolio}


def _to_frame(name: str, values: Mapping[Any, Any]) -> pd.DataFrame:
    """Return a mapping as rows; a mapping of mappings has a column for each inner name."""
    if values and all(isinstance(one, Mapping) for one in values.values()):
        return pd.DataFrame.from_dict(dict(values), orient="index").rename_axis("name")
    column = name if name.startswith("comp_") else "value"
    return pd.DataFrame({"name": list(map(str, values)), column: list(values.values())}).set_index(
        "name"
    )
