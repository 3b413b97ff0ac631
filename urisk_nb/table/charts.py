"""The charts of a table, as figures of plotly (the extra `notebook`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.render import risk_figures
from urisk_nb.render.figures import load_plotly
from urisk_nb.render.risk_figures import Tail, WorstSentence
from urisk_nb.render.table_content import name_heading
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.formulas import tail_rank
from urisk_nb.risk.params import RiskParams, alpha_label
from urisk_nb.table.frames import Frames

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Charts"]

MAX_TICKERS = 50  # rows of a chart; a screen shows some forty
MAX_LINES = 8  # more lines are not told apart
MAX_NAMED = 10  # tickers that a note names
_VAR = re.compile(r"var_(\d+)")
_SHORTFALL = re.compile(r"es_\d+")  # the first one is that of `comp_es`
_COMPONENT = re.compile(r"comp_es(?:_\d+)?")


class Charts:
    """
    The charts of the tickers that are in the table, as figures of plotly.

    You get it as `table.charts`. Choose tickers as you choose rows: ``table.head(5).charts``,
    ``table.loc[["NVDA", "AMD"]].charts``. Tickers with the highest scores come first. A chart that
    would hold too many is cut, and says so in a line under it. `table.frames` has the same numbers
    as DataFrames.

    The figures are plotly's own: change them with `update_layout`, keep them with `write_html`.
    They are legible on light and dark pages. Nothing in them is sent anywhere: their toolbar has
    no button that uploads. Without plotly each method raises `PackageMissing`.

    Parameters
    ----------
    frame
        The table.
    frames
        The numbers behind it.
    findings
        Its labeled sentences.
    portfolio
        The figures of the portfolio of its run, by name; None without.
    runs
        How many runs are behind it.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        frames: Frames,
        findings: pd.DataFrame,
        *,
        portfolio: pd.Series | None = None,
        runs: int = 1,
    ) -> None:
        self._frame = frame
        self._frames = frames
        self._findings = findings
        self._portfolio = portfolio
        self._runs = runs

    def heatmap(self) -> go.Figure:
        """
        Return the severity of each ticker and category, as color and number.

        Hovering shows what the severity means, how many sentences count for it, and the worst one.

        Returns
        -------
        plotly.graph_objects.Figure
            At most 50 tickers, those with the highest scores.

        Raises
        ------
        InputError
            No ticker has a rating.
        PackageMissing
            plotly is not installed.
        """
        load_plotly()
        severities = self._frames.severities()
        rows = self._order_rows()
        note = self._describe_cut([self._tickers[row] for row in rows], MAX_TICKERS, "heatmap")
        shown = severities.iloc[rows[:MAX_TICKERS]]
        return risk_figures.draw_heatmap(shown, self._find_worst(set(shown.index)), note)

    def drawdowns(self) -> go.Figure:
        """
        Return how far each ticker is below its highest price so far, over time.

        Returns
        -------
        plotly.graph_objects.Figure
            At most 8 tickers, those with the highest scores.

        Raises
        ------
        InputError
            The run had no prices.
        PackageMissing
            plotly is not installed.
        """
        load_plotly()
        drawdowns = self._frames.drawdowns()
        names = self._order_tickers(drawdowns)
        note = self._describe_cut(names, MAX_LINES, "drawdowns")
        return risk_figures.draw_drawdowns(
            drawdowns[names[:MAX_LINES]], self._add_missing(drawdowns, note)
        )

    def tails(self, alpha: float | None = None) -> go.Figure:
        """
        Return the worst returns of each ticker as dots, with its VaR and ES marked.

        The dots are twice the tail: with VaR 95 the worst 10 % of the returns.

        Parameters
        ----------
        alpha
            The tail mass, one of those of the run: 0.05 is VaR 95. Default: the run's first.

        Returns
        -------
        plotly.graph_objects.Figure
            At most 50 tickers, those with the highest scores. Losses are positive. A ticker with
            too short a history has dots alone.

        Raises
        ------
        InputError
            The run had no prices, has no VaR with this alpha, or `alpha` is not in (0, 0.5].
        PackageMissing
            plotly is not installed.
        """
        load_plotly()
        returns = self._frames.returns()
        level, mass = self._find_level(alpha)
        names = self._order_tickers(returns)
        note = self._describe_cut(names, MAX_TICKERS, "tails")
        names = names[:MAX_TICKERS]
        share = min(1.0, 2 * mass)
        first = self._first_rows()
        tails = [
            Tail(
                ticker=name,
                losses=_find_losses(returns[name].dropna(), share),
                var=_to_float(first[f"var_{level}"][name]),
                es=_to_float(first[f"es_{level}"][name]) if f"es_{level}" in first else np.nan,
            )
            for name in names
        ]
        return risk_figures.draw_tails(
            tails,
            level=level[:2] + ("." + level[2:] if level[2:] else ""),
            share=share,
            period=self._find_period(names),
            note=self._add_missing(returns, note),
        )

    def component_es(self) -> go.Figure:
        """
        Return what each ticker adds to the portfolio's expected shortfall, as bars.

        Returns
        -------
        plotly.graph_objects.Figure
            The largest on top; a hedge is negative. At most 50 tickers, those with the largest
            parts of either sign. The line under the chart has the sum of all.

        Raises
        ------
        InputError
            The table has no column `comp_es`, or no value in it, or its rows are of the portfolios
            of several runs.
        PackageMissing
            plotly is not installed.
        """
        load_plotly()
        known = self._read_components()
        if known.empty:
            raise self._refuse_components()
        order = np.argsort(-known.abs().to_numpy(), kind="stable")[:MAX_TICKERS]
        shown = known.iloc[np.sort(order)].sort_values(ascending=False, kind="stable")
        noun = format_count(len(known), "ticker")
        shortfall = next(filter(_SHORTFALL.fullmatch, map(str, self._frame.columns)), None)
        which = f" ({name_heading(shortfall)})" if shortfall else ""
        note = f"Sum of {noun}: {known.sum():.2%} of the portfolio's value{which}."
        if len(shown) < len(known):
            note += f" {len(shown)} of {len(known)} tickers shown, the largest parts."
        return risk_figures.draw_component_es(shown, note)

    # Which tickers, and what is said of the others ------------------------------------------------

    @property
    def _tickers(self) -> list[str]:
        return self._frames.tickers

    def _first_rows(self) -> pd.DataFrame:
        """Return the table by ticker, the first row of each."""
        frame = self._frame.set_axis(pd.Index(self._tickers), axis=0)
        return frame[~frame.index.duplicated()]

    def _order_rows(self) -> list[int]:
        """Return the numbers of the rows, highest scores first, those without one last."""
        rows = range(len(self._frame))
        scores = self._read_scores()
        return sorted(rows, key=lambda row: np.inf if np.isnan(scores[row]) else -scores[row])

    def _read_scores(self) -> list[float]:
        if "score" not in self._frame:
            return [np.nan] * len(self._frame)
        return pd.to_numeric(self._frame["score"], errors="coerce").astype(float).tolist()

    def _order_tickers(self, frame: pd.DataFrame) -> list[str]:
        """Return the columns of the frame, highest scores first."""
        ordered = dict.fromkeys(self._tickers[row] for row in self._order_rows())
        return [ticker for ticker in ordered if ticker in frame]

    def _describe_cut(self, ordered: Sequence[str], limit: int, chart: str) -> str:
        """Say which tickers are not shown, and how to see them; empty where all are."""
        if len(ordered) <= limit:
            return ""
        is_scored = not np.isnan(self._read_scores()).all()
        which = "those with the highest scores" if is_scored else "the first of the table"
        names = [ordered[limit]]
        is_column = "ticker" in self._frame  # after `reset_index`
        others = f'table[table["ticker"].isin({names!r})]' if is_column else f"table.loc[{names!r}]"
        return (
            f"{limit} of {len(ordered)} tickers shown, {which}. "
            f"Choose others: {others}.charts.{chart}()"
        )

    def _add_missing(self, drawn: pd.DataFrame, note: str) -> str:
        """Add to the note which tickers have no usable prices."""
        missing = [one for one in dict.fromkeys(self._tickers) if one not in drawn.columns]
        if not missing:
            return note
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        return f"{note} Without usable prices: {', '.join(missing[:MAX_NAMED])}{more}.".strip()

    # What is drawn --------------------------------------------------------------------------------

    def _find_worst(self, tickers: set[str]) -> dict[tuple[str, str], WorstSentence]:
        """Return the worst sentence by ticker and category; the newest at equal severity."""
        found = self._findings
        found = found[found["counted_as"].notna() & found["ticker"].isin(tickers)]
        found = found.assign(_counted=pd.to_numeric(found["counted"]).astype(float))
        ordered = found.sort_values(["_counted", "date"], ascending=False, kind="stable")
        return {
            (str(ticker), str(category)): WorstSentence(
                count=len(group), quote=str(group["quote"].iloc[0])
            )
            for (ticker, category), group in ordered.groupby(["ticker", "counted_as"])
        }

    def _find_level(self, alpha: float | None) -> tuple[str, float]:
        """Return the digits of VaR's column, such as "95", and the tail mass."""
        levels = [m[1] for name in map(str, self._frame.columns) if (m := _VAR.fullmatch(name))]
        masses = () if alpha is None else RiskParams.of(alpha=alpha).alpha
        wanted = alpha_label(masses[0]) if masses else levels[0] if levels else ""
        if wanted not in levels:
            raise InputError(
                f"this table has no column var_{wanted or '95'}; of VaR it has "
                f"{', '.join(f'var_{one}' for one in levels) or 'none'}.",
                fix=f"alpha={_to_mass(levels[0]):g}"
                if levels
                else "use the table of a run with prices, before you choose columns",
            )
        return wanted, _to_mass(wanted)

    def _read_components(self) -> pd.Series[float]:
        """Return the parts of the expected shortfall by ticker; empty where there are none."""
        names = [name for name in map(str, self._frame.columns) if _COMPONENT.fullmatch(name)]
        if not names:
            return pd.Series(dtype="float64")
        values = pd.to_numeric(self._frame[names[0]], errors="coerce").astype(float)
        known = values.notna().to_numpy()
        is_named = "run_id" in self._frame
        runs = self._frame["run_id"][known].nunique() if is_named else self._runs
        if known.any() and runs > 1:
            raise InputError(
                f"the rows are of {runs} runs, and the parts of two portfolios have no sum.",
                fix="draw the table of one run, or make one run of all tickers",
            )
        return pd.Series(values.to_numpy(), index=self._tickers).dropna()

    def _refuse_components(self) -> InputError:
        """Return the error of a table without parts, with what would give it some."""
        seen = "this table has no parts of an expected shortfall (comp_es) to draw."
        if self._portfolio is None:
            fix = "give the run prices=... and a weight for each ticker: NVDA=0.6 AMD=0.4"
        elif isinstance(reason := self._portfolio.get("reason"), str):
            seen = f"{seen} {reason}"
            fix = "give prices of each ticker with a weight, and more of them if the tail is short"
        else:
            fix = "use the table of the run, with the rows and columns that it had"
        return InputError(seen, fix=fix)

    def _find_period(self, names: Sequence[str]) -> str:
        first = self._first_rows()
        periods = set(first["period"][list(names)].dropna()) if "period" in first else set()
        return str(periods.pop()) if len(periods) == 1 else ""


def _find_losses(returns: pd.Series[float], share: float) -> pd.Series[float]:
    """Return the worst returns as losses, the worst first."""
    return -returns.sort_values(kind="stable").head(tail_rank(share, len(returns)))


def _to_mass(level: str) -> float:
    """Return the tail mass of a column's digits: 0.05 for "95", 0.025 for "975"."""
    return round(1 - float(f"0.{level}"), 12)


def _to_float(value: Any) -> float:
    return np.nan if pd.isna(value) else float(value)
