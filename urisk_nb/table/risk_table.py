"""
The risk table: a DataFrame that shows its main columns, has them all, and keeps its report.

Over 400 lines: pandas wants the methods on the class, and most lines say what each of them takes
and returns. What they do is in the modules that they call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any

import pandas as pd

from urisk_nb.arguments import refuse_unknown, require
from urisk_nb.errors import InputError
from urisk_nb.render.portfolio_content import select_tickers
from urisk_nb.render.table_content import TableContent, has_alerts
from urisk_nb.render.table_html import render_table_html
from urisk_nb.render.table_text import render_table_text
from urisk_nb.risk.corrections import Correction
from urisk_nb.risk.judges import compare_judges
from urisk_nb.risk.labeling import TickerFindings
from urisk_nb.risk.overrides import Override, apply_overrides, describe_unfit, list_overrides
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.portfolio_frames import (
    build_backtest,
    build_factors,
    build_portfolio,
    build_stress,
)
from urisk_nb.risk.ratings import REVIEW_RULES, rate_ticker
from urisk_nb.risk.rows import (
    build_changes,
    build_findings,
    build_frame,
    build_judgements,
    build_ratings,
)
from urisk_nb.risk.unjudged import describe_missing_labels, list_missing_labels
from urisk_nb.risk.values import describe_type
from urisk_nb.table.charts import Charts
from urisk_nb.table.diff import compare_tables
from urisk_nb.table.explain import explain_row
from urisk_nb.table.explanation import Explanation
from urisk_nb.table.exports import ExportFrame, make_visible
from urisk_nb.table.files import (
    is_workbook_target,
    save_csv,
    save_page,
    save_parquet,
    save_text,
    save_workbook,
)
from urisk_nb.table.frames import Frames
from urisk_nb.table.markdown import render_markdown
from urisk_nb.table.overriding import override_label
from urisk_nb.table.parquet_files import UNSTORED, is_stored, read_packed, unpack_report
from urisk_nb.table.part_frame import PartFrame
from urisk_nb.table.portfolio_figures import PortfolioFigures
from urisk_nb.table.portfolio_views import require_part, unite_prices
from urisk_nb.table.records import RunRecord
from urisk_nb.table.sides import Side
from urisk_nb.table.table_diff import TableDiff

__all__ = ["Report", "RiskTable", "assemble", "diff_tables", "unite_reports"]

_COMPACT = (
    *("status", "alerts", "weight", "level", "score", "top_risk", "top_quote"),
    *("ret_total", "vol_ann", r"var_\d+", r"es_\d+", "max_dd", "beta"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """
    What stands behind a table.

    Attributes
    ----------
    findings
        One row a labeled sentence: ticker, risk, severity (0 to 5), agreement (the share of further
        judges that name this risk, with a severity at most one apart; NaN without further judges),
        p_label and p_severity (the probabilities of risk and severity; NaN where a chat model's
        labels are greedy), quote (verbatim), source, section ("Item 1A" of a filing, "page 3" of a
        PDF file), date, evidence (the sentence's id), start, end (offsets into the document),
        cached, status (``judged`` or ``unjudged``), flags, reason (why it is unjudged), change
        since the previous documents (``new``, ``changed`` or ``repeated``; missing where there is
        nothing to compare with), old_quote (the former wording of a changed sentence), kind
        (``event``, ``hypothetical``, ``routine``), family (of distress; missing where the sentence
        has no word of one), counted and counted_as (the severity and the category that count;
        missing where it does not count), rule (what changed them), model_risk and model_severity
        (what the model said, where a person corrected it), override_by, override_at (UTC) and
        override_why (who did, when, and the reason).
    ratings
        One row a rated category: ticker, category, rating (0 to 5), evidence (the ids of the
        sentences that give it, the worst first, between semicolons), rule (what capped, raised or
        lowered it).
    changes
        One row a sentence that is new, changed or gone: ticker, change, section, quote, old_quote.
    judgements
        One row a sentence and judge: ticker, evidence, judge, risk, severity, p_label, reason.
    meta
        What decided the run, JSON-able. Of tables put together: ``{"runs": [...]}``.
    rows
        The rows as the run made them, with every column; what is done to the table changes nothing
        here.
    parts
        The reports of the single runs, where tables are put together.
    portfolio, backtest
        The figures of the weighted tickers together, and the test of its VaR forecasts; None where
        no ticker has a weight. docs/portfolio.md names each figure.
    stress, factors
        One row an episode and ticker, and the factor betas of each ticker; None where the run was
        not asked for them. Of tables put together all four are None.
    prices
        The closes that the run used, date x ticker, within its period; of returns the wealth that
        they make. None without prices. Of tables put together the tickers of all, without those
        whose prices differ between two runs.
    correct
        Records a correction and makes the table again; None where no run of this process made the
        table. It is no part of a file or a pickle.
    """

    findings: pd.DataFrame = field(default_factory=lambda: ExportFrame(build_findings(())))
    ratings: pd.DataFrame = field(default_factory=lambda: ExportFrame(build_ratings(())))
    meta: dict[str, Any] = field(default_factory=dict)
    changes: pd.DataFrame = field(default_factory=lambda: ExportFrame(build_changes({})))
    judgements: pd.DataFrame = field(default_factory=lambda: ExportFrame(build_judgements(())))
    rows: pd.DataFrame = field(default_factory=ExportFrame)
    parts: tuple[Report, ...] = ()
    portfolio: pd.Series | None = None
    backtest: pd.DataFrame | None = None
    stress: pd.DataFrame | None = None
    factors: pd.DataFrame | None = None
    prices: pd.DataFrame | None = None
    correct: Callable[[Correction], RiskTable] | None = field(
        default=None, repr=False, metadata=UNSTORED
    )

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {one.name: getattr(self, one.name, None) for one in fields(self) if is_stored(one)}
        return _build_report, (parts,)


def unite_reports(reports: Sequence[Report]) -> Report:
    """Put the reports of several tables together, in their order."""
    if len(reports) == 1:
        return reports[0]
    runs = [run for report in reports for run in report.meta.get("runs", [report.meta])]
    return Report(
        findings=_concatenate([report.findings for report in reports]),
        ratings=_concatenate([report.ratings for report in reports]),
        meta={"runs": runs},
        changes=_concatenate([report.changes for report in reports]),
        judgements=_concatenate([report.judgements for report in reports]),
        rows=_concatenate([report.rows for report in reports]),
        parts=tuple(part for report in reports for part in report.parts or (report,)),
        prices=unite_prices([one.prices for one in reports if one.prices is not None]),
    )


def _concatenate(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    if not filled:
        return frames[0]
    # Of rows the index is the ticker, of all others a number
    return pd.concat(filled, ignore_index=filled[0].index.name is None)


def _build_report(parts: Mapping[str, Any]) -> Report:
    """Return a report of its parts by name; those of a later version are left out."""
    known = {one.name for one in fields(Report)}
    return Report(**{name: part for name, part in parts.items() if name in known})


class RiskTable(ExportFrame):
    """
    A DataFrame with a `report` behind it, kept through filtering, sorting, copying, pickling,
    merging and concatenation.

    It shows its main columns, warnings and sentences while it is whole; with columns of your own
    choice it shows those. It looks the same with and without `%load_ext urisk_nb`. Its CSV and
    Excel files hold no formula.
    """

    _metadata = ["_report"]  # noqa: RUF012  # pandas' own hook: it wants a list on the class

    @property
    def _constructor(self) -> type[RiskTable]:
        return RiskTable

    @property
    def report(self) -> Report:
        """The findings and the record of the run; empty where the table was not made by a run."""
        report: Report | None = getattr(self, "_report", None)
        return Report() if report is None else report

    @property
    def charts(self) -> Charts:
        """The charts of the tickers in this table: figures of plotly."""
        report = self.report
        return Charts(
            pd.DataFrame(self),
            self.frames,
            report.findings,
            portfolio=getattr(report, "portfolio", None),
            runs=len(self._content().runs),
        )

    @property
    def frames(self) -> Frames:
        """The numbers behind the charts: plain DataFrames."""
        content = self._content()
        return Frames(
            pd.DataFrame(self),
            content.tickers,
            getattr(self.report, "prices", None),
            is_wealth=all(run.get("params", {}).get("returns") for run in content.runs),
        )

    def __finalize__(self, other: Any, method: str | None = None, **kwargs: Any) -> RiskTable:
        """Keep the report; pandas itself loses it where several tables become one."""
        # pandas' hook, not in its stubs
        super().__finalize__(other, method=method, **kwargs)  # type: ignore[misc]
        parts = [*(getattr(other, "input_objs", None) or getattr(other, "objs", None) or ())]
        # A merge, before pandas 3
        parts += [getattr(other, side, None) for side in ("left", "right")]
        reports = {
            id(report): report
            for part in parts
            if isinstance(report := getattr(part, "_report", None), Report)
        }
        if reports:
            object.__setattr__(self, "_report", unite_reports(list(reports.values())))
        return self

    def compact(self) -> pd.DataFrame:
        """Return about ten columns, as far as they exist: numbers as they are, texts as shown."""
        names = list(map(str, self.columns))
        # Of var and es the first tail that the user chose.
        wanted = [
            next((name for name in names if re.fullmatch(pattern, name)), None)
            for pattern in _COMPACT
            if pattern != "alerts" or has_alerts(self)
        ]
        return make_visible(pd.DataFrame(self)[[name for name in wanted if name is not None]])

    def to_csv(self, path_or_buf: Any = None, *args: Any, **options: Any) -> Any:
        """
        Write CSV as pandas does, with an apostrophe before text that begins like a formula.

        A file that is there is replaced; after an error it is as it was.

        Raises
        ------
        InputError
            The path cannot be written.
        """
        write = super().to_csv
        return (
            write(path_or_buf, *args, **options) if args else save_csv(write, path_or_buf, options)
        )

    # pandas-stubs call it final; pandas does not
    def to_excel(self, excel_writer: Any, *args: Any, **options: Any) -> Any:  # type: ignore[misc]
        """
        Write an Excel workbook with the sheets table, findings and provenance.

        A run with weights has the sheet portfolio, too, and one with episodes or factors the sheets
        stress and factors. Fractions are per cent, dates are dates,
        sentences wrap, and each column has a filter. Formulas stay text. A file that is there is
        replaced; after an error it is as it was.

        With any further argument, such as ``sheet_name=``, and to a ``pd.ExcelWriter``, the table
        alone is written, as pandas does.

        Parameters
        ----------
        excel_writer
            Path that ends in ``.xlsx``, binary buffer, or ``pd.ExcelWriter``.

        Raises
        ------
        InputError
            The path cannot be written.
        PackageMissing
            openpyxl is not installed: the extras `documents` and `notebook` have it.
        """
        if args or options or not is_workbook_target(excel_writer, pd.DataFrame(self)):
            return super().to_excel(excel_writer, *args, **options)
        return save_workbook(self._content(), self.report, excel_writer)

    def to_markdown(
        self,
        buf: Any = None,
        *,
        mode: Any = "wt",
        index: bool = True,
        storage_options: Any = None,
        **options: Any,
    ) -> Any:
        """
        Return the table as Markdown: the columns and the numbers as the table shows them.

        With options of the package `tabulate`, such as ``tablefmt=`` or ``floatfmt=``, all columns
        are written as pandas does, which needs that package. ``mode`` and ``storage_options`` are
        pandas' own.

        Parameters
        ----------
        buf
            Path or buffer to write to; without it the text is returned.
        index
            Begin each row with its label.
        """
        if options or storage_options:
            more = {"mode": mode, "index": index, "storage_options": storage_options}
            return super().to_markdown(buf, **more, **options)
        text = render_markdown(self._content(), index=index)
        return text if buf is None else save_text(text, buf, mode)

    def to_parquet(self, path: Any = None, *args: Any, **options: Any) -> Any:
        """
        Write Parquet as pandas does, with findings and record: `from_parquet` reads them back.

        Other programs read the table alone. Needs pyarrow. Options are those of pandas. A file that
        is there is replaced; after an error it is as it was.

        Raises
        ------
        InputError
            The path cannot be written.
        PackageMissing
            pyarrow is not installed.
        """
        frame = pd.DataFrame(self)
        frame.attrs = self.attrs
        return save_parquet(frame, self.report, path, *args, **options)

    @classmethod
    def from_parquet(cls, path: str | PathLike[str], **options: Any) -> RiskTable:
        """
        Read a table back, with its report, from a file that `to_parquet` wrote.

        Parameters
        ----------
        path
            The file; of one without a report the table has an empty report.
        **options
            Those of ``pd.read_parquet``.

        Raises
        ------
        InputError
            The file cannot be read, or its report is damaged.
        PackageMissing
            pyarrow is not installed.
        """
        frame, packed = read_packed(path, **options)
        table = cls(frame)
        table.attrs = frame.attrs
        if packed is not None:
            object.__setattr__(table, "_report", unpack_report(packed, _build_report))
        return table

    @refuse_unknown(example='table.to_html_report("out.html")')
    def to_html_report(self, path: str | PathLike[str]) -> None:
        """
        Write one HTML page: table, charts, alerts, findings of each ticker, and the record.

        The page is complete in itself. It has no script, loads nothing, is legible in light and
        dark, and prints on A4. A file that is there is replaced; after an error it is as it was.

        Parameters
        ----------
        path
            The file, such as ``risk.html``.

        Raises
        ------
        InputError
            The path cannot be written.

        Notes
        -----
        ``table.report`` is the run's findings, and ``to_html`` is pandas' own bare table. So this
        name stands among the other ``to_`` methods, where Tab finds it.
        """
        fix = 'name a file: table.to_html_report("out.html")'
        require(isinstance(path, str | PathLike), "path", path, fix)
        save_page(self._content(), self.report, path)

    def judgements(self) -> pd.DataFrame:
        """
        Return the label that each judge gives each sentence.

        Returns
        -------
        DataFrame
            One row a sentence and judge, of the tickers in the table: ticker, evidence (the
            sentence's id, as in ``report.findings``), judge (its model), risk, severity (0 to 5),
            p_label (NaN where the judge gives no probability), reason (why it has no label). The
            judge whose labels count comes first.
        """
        found = self.report.judgements
        here = found["ticker"].isin(list(self._content().tickers))
        return found[here].reset_index(drop=True)

    @property
    def portfolio(self) -> pd.Series:
        """
        The figures of the portfolio of the run, by name; docs/portfolio.md has each formula.

        A table with fewer rows keeps the portfolio of its run. Losses are positive fractions of the
        capital. `flags` and `reason` say why a figure is NaN. It is a Series: its values are the
        fractions, and a notebook shows them as per cent.

        Raises
        ------
        InputError
            No ticker has a weight, or the table is put together from several runs.
        """
        figures = require_part("portfolio", self.report.portfolio, self.report.meta)
        return PortfolioFigures(figures.copy())

    def backtest(self) -> pd.DataFrame:
        """
        Return how often losses of the portfolio exceeded their VaR forecasts, with Kupiec's test.

        Returns
        -------
        DataFrame
            It shows itself as the risk table does; its values are as computed.
            One row an alpha and method: method (``historical``, ``filtered``, ``gaussian``,
            ``cornish_fisher``), alpha, window (returns before each period that its forecast is made
            of), n (periods with a forecast), exceedances, expected (alpha * n), LR, p_value, flags.

        Raises
        ------
        InputError
            As `portfolio`.
        """
        return PartFrame(require_part("backtest", self.report.backtest, self.report.meta).copy())

    def stress(self) -> pd.DataFrame:
        """
        Return what the tickers of the table and the portfolio of its run lost in each episode.

        Returns
        -------
        DataFrame
            It shows fractions as per cent, as the risk table does; its values are the fractions.
            One row an episode and ticker; that of the portfolio has the ticker ``portfolio``.
            Columns episode, ticker, start and end (dates of the first and last price inside),
            n_obs, ret_total (negative is a loss), max_dd, flags, reason.

        Raises
        ------
        InputError
            The run was given no episode, or the table is put together from several runs.
        """
        found = require_part("stress", self.report.stress, self.report.meta)
        return PartFrame(select_tickers(found, self._content().tickers))

    def factors(self) -> pd.DataFrame:
        """
        Return the factor betas of the tickers of the table and of the portfolio of its run.

        Returns
        -------
        DataFrame
            It shows itself as the risk table does; its values are as computed.
            Index ticker, last ``portfolio``. Columns alpha (the constant, a return a period),
            alpha_se, ``beta_NAME`` and ``beta_NAME_se`` of each factor, r2, n (joint returns),
            flags.

        Raises
        ------
        InputError
            The run was given no factors, or the table is put together from several runs.
        """
        found = require_part("factors", self.report.factors, self.report.meta)
        return PartFrame(select_tickers(found, self._content().tickers))

    def changes(self, ticker: str | None = None) -> pd.DataFrame:
        """
        Return the sentences that are new, changed or gone since the previous documents.

        Parameters
        ----------
        ticker
            Of this one alone; without it of all, with a column `ticker`.

        Returns
        -------
        DataFrame
            Columns change, section, quote (missing where the sentence is gone), old_quote (missing
            where it is new).

        Raises
        ------
        InputError
            The ticker is not in the report, or the run had no previous documents.
        """
        found = self.report.changes
        if ticker is None:
            return found.copy()
        counted = [run.get("changes", {}) for run in self._content().runs]
        known = [symbol for symbols in counted for symbol in symbols]
        symbol = ticker.strip().upper() if ticker not in known else ticker
        if symbol not in known:
            raise InputError(
                f"{ticker!r} has no document of the year before to compare with.",
                fix=f"one of {', '.join(known[:10])} has: table.changes({known[0]!r})"
                if known
                else "give it: previous=... (in a cell: --previous NAME)",
            )
        own = found[found["ticker"] == symbol].drop(columns="ticker")
        return own.reset_index(drop=True)

    def review(self) -> pd.DataFrame:
        """
        Return the labels that are to review by a person: they do not count.

        Returns
        -------
        DataFrame
            Columns ticker, quote, risk, severity, p_label, p_severity, section, evidence (the
            sentence's id, for `override`), why (``low probability``, ``judges disagree``, or both
            between semicolons), of the tickers in the table, in its order; empty where each label
            counts.
        """
        content = self._content()
        frame = content.findings
        why = (
            frame["rule"]
            .fillna("")
            .map(
                lambda rules: (
                    "; ".join(one for one in rules.split("; ") if one in REVIEW_RULES) or None
                )
            )
        )
        order = {ticker: place for place, ticker in enumerate(content.tickers)}
        names = ["ticker", "quote", "risk", "severity", "p_label", "p_severity", "section"]
        names.append("evidence")
        found = frame[names].assign(why=why)[why.notna() & frame["ticker"].isin(list(order))]
        return found.sort_values(
            "ticker", key=lambda one: one.map(order), kind="stable"
        ).reset_index(drop=True)

    @refuse_unknown(
        example='table.override("E2.1", risk="legal", severity=2, why="the fine was paid")'
    )
    def override(
        self,
        evidence: str,
        *,
        risk: str | None = None,
        severity: int | None = None,
        why: str = "",
        ticker: str | None = None,
        remove: bool = False,
    ) -> RiskTable:
        """
        Correct the label of a sentence; return a new table of the same run in which it counts.

        The correction is recorded in the journal, with your login name and the time. It counts in
        later runs, too, wherever this ticker has this sentence. The latest correction of a sentence
        counts. The new table has every correction that is in force. This table stays as it is, and
        so does the run: `urisk_nb.replay` shows it as it was. No model is asked.

        Parameters
        ----------
        evidence
            The id of the sentence, as in ``report.findings`` or `review`, or words of it that no
            other sentence has.
        risk
            The category that is right, or ``"none"``.
        severity
            0 to 5; not needed for ``"none"``.
        why
            The reason, for those who read the table.
        ticker
            Whose sentence, where several tickers have it.
        remove
            Take the correction back: the model's label counts again. This is a record as well.

        Returns
        -------
        RiskTable
            The rows and columns of this table, in its order; the whole table of the run if this one
            has rows or columns of your own. Cells that you changed are as the run made them.

        Raises
        ------
        InputError
            No sentence is meant, or several; the label is none of the run; there is no reason; or
            the table is from a file, a pickle or several runs.
        JournalUnusable
            The correction cannot be recorded; nothing has changed.
        """
        correction = Correction(
            evidence=evidence,
            risk=risk,
            severity=severity,
            why=why,
            ticker=ticker,
            remove=bool(remove),
        )
        table: RiskTable = override_label(self, self.report, correction)
        return table

    @refuse_unknown(example='table.explain("NVDA")')
    def explain(self, ticker: str, run: str | None = None) -> Explanation:
        """
        Return how one row comes from its sentences: each step from the label to the score.

        The report of the run is read, so columns and rows that were dropped make no difference.

        Parameters
        ----------
        ticker
            As in the table; case does not matter.
        run
            The `run_id`, where tables of several runs were put together and the ticker is in more
            than one of them.

        Returns
        -------
        Explanation
            It shows itself as HTML and as text, and has the frames ``sentences``, ``categories``,
            ``alerts``, ``metrics`` and ``flags``.

        Raises
        ------
        InputError
            The ticker is not in the table, or it is in several runs.
        """
        return explain_row(self._records(), pd.DataFrame(self), ticker, run)

    # pandas has a method of this name, which takes a number: that one stays, `periods` too
    def diff(  # type: ignore[override]
        self, other: Any = 1, axis: Any = 0, *, rtol: float | None = None, **options: Any
    ) -> Any:
        """
        Return what changed since an older table, each change with its cause.

        Columns and tickers that only one of the tables has are named and not compared. Sentences
        are compared by their words, and cells by their values.

        Parameters
        ----------
        other
            The older table; this one is the newer. A number of periods is what pandas takes: the
            differences between the rows of this table, by `axis`; `periods` is another name of it.
        rtol
            Two numbers that are this close, as a share of the larger one, are the same; default:
            they must be equal.

        Returns
        -------
        TableDiff
            It shows itself as HTML and as text, and has the frames ``changes`` (ticker, what, old,
            new, cause, quote) and ``summary``.

        Raises
        ------
        InputError
            `other` is a frame that is no table of a run, or a ticker is in a table twice; or there
            is no older table, and texts have no differences.
        """
        options |= {} if rtol is None else {"rtol": rtol}
        if isinstance(other, pd.DataFrame):
            return diff_tables(other, self, **options)
        try:
            return super().diff(**{"periods": other, "axis": axis, **options})
        except TypeError as exc:
            if options:  # an argument that pandas does not know
                raise
            raise InputError(
                "diff() was given no older table, and these columns have no differences between "
                "their rows.",
                fix="name the older table: table.diff(older)",
            ) from exc

    def as_text(self, width: int | None = None) -> str:
        """
        Return what `print` shows.

        Parameters
        ----------
        width
            Columns that a line may take; default: those of the terminal.
        """
        return render_table_text(self._content(), width)

    def _records(self) -> list[RunRecord]:
        return [
            RunRecord(rows=one.rows, findings=one.findings, ratings=one.ratings, meta=one.meta)
            for one in self.report.parts or (self.report,)
        ]

    def _content(self) -> TableContent:
        report = self.report
        figures = getattr(report, "portfolio", None)
        return TableContent(
            frame=pd.DataFrame(self),
            findings=report.findings,
            meta=report.meta,
            changes=report.changes,
            portfolio=None if figures is None else dict(figures),
        )

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str | None:
        wanted = pd.get_option("display.notebook_repr_html")
        return render_table_html(self._content()) if wanted else None


def diff_tables(old: object, new: object, *, rtol: float = 0.0) -> TableDiff:
    """
    Return what changed from an older table to a newer one; see `RiskTable.diff`.

    Raises
    ------
    InputError
        One of them is no table of a run, or a ticker is in one of them twice.
    """
    sides = []
    for which, table in (("older", old), ("newer", new)):
        if not isinstance(table, RiskTable):
            raise InputError(
                f"the {which} table is {describe_type(table)}, not the table of a run.",
                fix="compare what %%risk or urisk_nb.assess gives: table.diff(older_table)",
            )
        sides.append(_make_side(table))
    return compare_tables(sides[0], sides[1], rtol=rtol)


def _make_side(table: RiskTable) -> Side:
    """Return a table as `compare_tables` takes it."""
    found = {name: getattr(table.report, name, None) for name in ("backtest", "stress", "factors")}
    return Side(
        frame=pd.DataFrame(table),
        records=table._records(),
        portfolio=getattr(table.report, "portfolio", None),
        parts={name: frame for name, frame in found.items() if frame is not None},
    )


def _make_safe(frame: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if frame is None else ExportFrame(frame)


def _add_messages(meta: dict[str, Any], lines: Mapping[str, Sequence[str]]) -> None:
    """Put lines by ticker below what a record says of these tickers."""
    for symbol, more in lines.items():
        said = meta["messages"].get(symbol, [])
        texts = [said] if isinstance(said, str) else said
        meta["messages"] = {**meta["messages"], symbol: [*texts, *more]}


def assemble(
    plan: Plan,
    ticker_findings: Mapping[str, TickerFindings],
    *,
    run_id: str,
    model: str | None = None,
    flags: Sequence[str] = (),
    judges: Sequence[Mapping[str, Any]] = (),
    overrides: Sequence[Override] = (),
    correct: Callable[[Correction], RiskTable] | None = None,
) -> RiskTable:
    """
    Make the table of a run; the other parameters are those of `urisk_nb.risk.rows.build_frame`.

    Parameters
    ----------
    judges
        The judges as recorded; first the one whose labels count.
    overrides
        The corrections that hold for sentences of the run.
    correct
        What `RiskTable.override` calls.

    Returns
    -------
    RiskTable
        One row a holding, in the order given, index ``ticker``, with its report.
    """
    labeled = [ticker_findings[symbol] for symbol in plan.symbols if symbol in ticker_findings]
    given = apply_overrides(labeled, overrides, plan.taxonomy)
    counted = {one.symbol: one for one in given}
    ratings = {one.symbol: rate_ticker(plan, one) for one in given if one.findings}
    frame = build_frame(plan, counted, ratings, run_id=run_id, model=model, flags=flags)
    table = RiskTable(frame)
    meta = {**plan.meta, "run_id": run_id, "model": model, "flags": sorted(flags)}
    changes = {symbol: selection.changes for symbol, selection in plan.selections.items()}
    report = Report(
        findings=ExportFrame(build_findings(given, ratings, changes)),
        ratings=ExportFrame(build_ratings(given, ratings)),
        meta=meta,
        changes=ExportFrame(build_changes(changes)),
        judgements=ExportFrame(build_judgements(labeled, model=model)),
        rows=ExportFrame(frame.copy()),
        portfolio=build_portfolio(plan, frame["score"]),
        backtest=build_backtest(plan),
        stress=_make_safe(build_stress(plan)),
        factors=_make_safe(build_factors(plan)),
        prices=plan.closes,
        correct=correct,
    )
    meta |= {
        "judges": list(judges),
        "kappa": compare_judges(labeled, [one["model"] for one in judges]),
        "overrides": list_overrides(given),
        "unjudged": list_missing_labels(given, model=model),
    }
    missing = describe_missing_labels(meta["unjudged"], several=len(judges) > 1)
    for lines in (missing, describe_unfit(overrides, plan.taxonomy)):
        _add_messages(meta, lines)
    object.__setattr__(table, "_report", report)
    table.attrs["urisk"] = {"run_id": run_id, "score_version": meta["score_version"]}
    return table
