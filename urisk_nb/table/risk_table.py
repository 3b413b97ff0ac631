"""
The risk table: made of a plan and its judgements, a DataFrame that shows ten columns and has them
all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd

from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.quant import quant_columns
from urisk_nb.risk.row_warnings import LABELED_BY, WARNINGS, codes_in
from urisk_nb.risk.scoring import Level, Score, max_severity, score
from urisk_nb.risk.taxonomy import NONE

__all__ = ["STATUSES", "Report", "RiskTable", "assemble", "shown"]

# Ascending: a row has the worst that applies. What the user can repair stands above what the model
# did, the prices above all: without them a row has no figures. The flags name every reason, also
# those that the status hides.
STATUSES = ("ok", "partial", "no_evidence", "not_run", "model_error", "bad_data", "no_data")
MIN_JUDGED = 5  # sentences judged; fewer are flagged thin_evidence

_TEXT = pd.Series(["a"]).dtype  # str since pandas 3, object before
_LEVEL = pd.CategoricalDtype([level.value for level in Level], ordered=True)
_COUNTS = ("n_obs", "n_missing", "stale_days", "n_joint")
_DATES = ("as_of", "first_obs", "last_obs", "max_dd_peak", "max_dd_trough")
_COMPACT = (
    "status",
    "level",
    "score",
    "top_risk",
    "top_quote",
    "ret_total",
    "vol_ann",
    "var",
    "es",
    "max_dd",
)
_FRACTION = re.compile(r"(?:ret_total|vol_ann|max_dd|(?:var|es)_\d+)")
# Escape sequences, controls, bidi controls, zero widths and tags would change how a line looks;
# they are shown by their code.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """
    What stands behind a table.

    Attributes
    ----------
    findings
        One row a judged sentence: ticker, risk, severity (0 to 5), p_label and p_severity (their
        corrected probabilities; NaN where the labels are greedy), quote (verbatim), source, date,
        evidence (the sentence's id), start, end (offsets into the document), cached, status
        (``judged`` or ``unjudged``), flags, reason (why it is unjudged).
    meta
        What decided the run, JSON-able. Of tables put together: ``{"runs": [...]}``.
    """

    findings: pd.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)


class RiskTable(pd.DataFrame):
    """
    A DataFrame with a `report` behind it, kept through filtering, sorting, copying, pickling,
    merging and concatenation.

    It shows the compact view while it is whole; with columns of your own choice it shows those.
    """

    _metadata = ["_report"]  # noqa: RUF012  # pandas' own hook: it wants a list on the class

    @property
    def _constructor(self) -> type[RiskTable]:
        return RiskTable

    @property
    def report(self) -> Report:
        """The findings and the record of the run; empty where the table was not made by a run."""
        report: Report | None = getattr(self, "_report", None)
        return Report(findings=_findings_frame([])) if report is None else report

    def __finalize__(self, other: Any, method: str | None = None, **kwargs: Any) -> RiskTable:
        """Keep the report; pandas itself loses it where several tables become one."""
        # # pandas' hook, not in its stubs
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
            object.__setattr__(self, "_report", _united(list(reports.values())))
        return self

    def compact(self) -> pd.DataFrame:
        """About ten columns, as far as they exist: values as they are, fractions as fractions."""
        names = [self._named(name) for name in _COMPACT]
        return pd.DataFrame(self)[[name for name in names if name is not None]]

    def _named(self, name: str) -> str | None:
        """
        The column of that name; for var and es the first of its kind, since alpha is the user's
        choice.
        """
        if name in ("var", "es"):
            return next(
                (
                    str(column)
                    for column in self.columns
                    if re.fullmatch(rf"{name}_\d+", str(column))
                ),
                None,
            )
        return name if name in self.columns else None

    def _view(self, width: int) -> pd.DataFrame:
        whole = self.columns.is_unique and {"status", "run_id", "score"} <= set(self.columns)
        view = self.compact() if whole else pd.DataFrame(self)
        texts = {
            number: [_cell(name, value, width) for value in view.iloc[:, number]]
            for number, name in enumerate(view.columns)
        }
        out = pd.DataFrame(
            texts, index=pd.Index([_label(label) for label in view.index], name=view.index.name)
        )
        out.columns = pd.Index([_label(label) for label in view.columns])
        return out

    def _notes(self, view: pd.DataFrame) -> list[str]:
        codes = codes_in(self["flags"]) if "flags" in self.columns else []
        notes = [note for code, note in LABELED_BY.items() if code in codes]
        notes += [
            f"{code}: {WARNINGS[code]}"
            for code in codes
            if code in WARNINGS and code not in LABELED_BY
        ]
        more = len(self.columns) - len(view.columns)
        return (
            [
                *notes,
                f"{more} more columns: table.columns; all judged sentences: table.report.findings",
            ]
            if more
            else notes
        )

    def __repr__(self) -> str:
        if isinstance(self.index, pd.MultiIndex) or isinstance(self.columns, pd.MultiIndex):
            return super().__repr__()
        view = self._view(width=40)
        body = view.to_string(
            max_rows=pd.get_option("display.max_rows"),
            line_width=pd.get_option("display.width"),
            max_colwidth=None,
        )
        return "\n".join(
            [body, "", f"[{len(self)} rows x {len(self.columns)} columns]", *self._notes(view)]
        )

    def _repr_html_(self) -> str | None:
        if isinstance(self.index, pd.MultiIndex) or isinstance(self.columns, pd.MultiIndex):
            return pd.DataFrame(self).to_html(max_rows=pd.get_option("display.max_rows"))
        view = self._view(width=160)
        # tex2jax_ignore: a "$" in a quote is money, not mathematics.
        with pd.option_context("display.max_colwidth", None):
            body = view.to_html(
                escape=True,
                max_rows=pd.get_option("display.max_rows"),
                border=0,
                classes="urisk-table tex2jax_ignore",
            )
        notes = "".join(f"<div>{escape(note)}</div>" for note in self._notes(view))
        return f"<div>{body}<p>{len(self)} rows x {len(self.columns)} columns</p>{notes}</div>"


def shown(text: str, width: int | None = None) -> str:
    """
    A text for the eye: one line, what is invisible or would turn the line around shown by its code,
    cut at `width`. Not HTML-escaped.
    """
    line = _UNSEEN.sub(lambda char: f"<U+{ord(char.group()):04X}>", " ".join(text.split()))
    return line if width is None or len(line) <= width else line[: width - 1].rstrip() + "\u2026"


def _label(label: object) -> object:
    return shown(label) if isinstance(label, str) else label


def _cell(name: object, value: Any, width: int) -> str:
    if isinstance(value, str):
        return shown(value, width)
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "\u2014"
    if isinstance(value, float):
        return (
            f"{value:.1%}"
            if _FRACTION.fullmatch(str(name))
            else f"{value:.1f}"
            if name == "score"
            else f"{value:.6g}"
        )
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat() if value == value.normalize() else value.isoformat()
    return shown(str(value), width)


def _united(reports: Sequence[Report]) -> Report:
    if len(reports) == 1:
        return reports[0]
    runs = [run for report in reports for run in report.meta.get("runs", [report.meta])]
    frames = [report.findings for report in reports if len(report.findings)]
    return Report(
        findings=pd.concat(frames, ignore_index=True) if frames else reports[0].findings,
        meta={"runs": runs},
    )


# --- from judgements to rows ----------------------------------------------------------------------


def assemble(
    plan: Plan,
    ticker_findings: Mapping[str, TickerFindings],
    *,
    run_id: str,
    model: str | None = None,
    flags: Sequence[str] = (),
) -> RiskTable:
    """
    The table of a run.

    Parameters
    ----------
    judgements
        By symbol. A symbol that has sentences to judge and no judgement here has the status
        ``not_run``.
    run_id, model
        Who made the labels, and in which run.
    flags
        Put on each row that was judged, such as ``demo_model``.

    Returns
    -------
    RiskTable
        One row a holding, in the order given, index ``ticker``. Without evidence the model's
        columns are NA and say nothing.
    """
    asked = frozenset(plan.asked)
    rows = [
        _row(
            plan,
            holding,
            ticker_findings.get(holding.symbol),
            is_asked=holding.symbol in asked,
            run_id=run_id,
            model=model,
            flags=flags,
        )
        for holding in plan.holdings
    ]
    columns = _columns(plan)
    index = pd.Index(plan.symbols, name="ticker", dtype=_TEXT)
    table = RiskTable(
        {name: _series(name, [row.get(name) for row in rows], index) for name in columns},
        index=index,
    )
    given = [ticker_findings[symbol] for symbol in plan.symbols if symbol in ticker_findings]
    report = Report(
        findings=_findings_frame(
            [(labeled.symbol, finding) for labeled in given for finding in labeled.findings]
        ),
        meta={**plan.meta, "run_id": run_id, "model": model, "flags": sorted(flags)},
    )
    object.__setattr__(table, "_report", report)
    table.attrs["urisk"] = {"run_id": run_id, "score_version": report.meta["score_version"]}
    return table


def _columns(plan: Plan) -> list[str]:
    quant = (
        quant_columns(plan.params, has_volume=plan.has_volume, has_benchmark=plan.has_benchmark)
        if plan.has_prices
        else []
    )
    weight = ["weight"] if plan.has_weights else []
    ratings = [f"r_{category}" for category in plan.taxonomy.ids]
    labels = [
        "score",
        "level",
        "coverage",
        "top_risk",
        "top_quote",
        "sentences",
        "judged",
        "findings",
    ]
    if plan.params.labels == "calibrated":
        labels.insert(labels.index("top_quote") + 1, "p_top")
    return [
        "status",
        "flags",
        "run_id",
        *quant,
        *weight,
        *ratings,
        *labels,
        "model",
        "latency_s",
        "tokens",
        "attempts",
        "cached",
    ]


def _series(name: str, values: list[Any], index: pd.Index[Any]) -> pd.Series[Any]:
    if name in ("status", "flags", "run_id", "period", "top_risk", "top_quote", "model"):
        return _texts(values, index)
    if name == "level":
        return pd.Series(values, index=index, dtype=_LEVEL)
    if name in _DATES:
        return pd.Series(pd.to_datetime(values), index=index)
    if name.startswith("r_") or name in (
        *_COUNTS,
        "sentences",
        "judged",
        "findings",
        "tokens",
        "attempts",
        "cached",
    ):
        return pd.Series(pd.array(values, dtype="Int64"), index=index)
    return pd.Series(values, index=index, dtype="float64")


def _texts(values: Iterable[str | None], index: pd.Index[Any] | None = None) -> pd.Series[Any]:
    # Half of a surrogate pair is in no encoding, so a frame cannot store it; the replacement keeps
    # the offsets.
    safe = [
        value if value is None or value.isascii() else re.sub(r"[\ud800-\udfff]", "\ufffd", value)
        for value in values
    ]
    return pd.Series(safe, index=index, dtype=_TEXT)


def _row(
    plan: Plan,
    holding: Holding,
    labeled: TickerFindings | None,
    *,
    is_asked: bool,
    run_id: str,
    model: str | None,
    flags: Sequence[str],
) -> dict[str, Any]:
    symbol = holding.symbol
    values: dict[str, Any] = {"run_id": run_id, "level": Level.NR.value, "weight": holding.weight}
    statuses, found = ["ok"], set(holding.flags)
    if (quant := plan.quant.get(symbol)) is not None:
        values = quant.values | values  # the weight is the holding's own
        statuses.append(quant.status)
        found.update(quant.flags)
    if (reading := plan.selections.get(symbol)) is not None:
        values["sentences"] = reading.sentences
        found.update(reading.flags)
    if plan.has_evidence and plan.params.llm:
        status, more = _model_values(plan, labeled, values, is_asked=is_asked)
        statuses.append(status)
        found.update(more)
    if labeled is not None and labeled.findings:
        values["model"] = model
        found.update(flags)
    values["status"], values["flags"] = max(statuses, key=STATUSES.index), ";".join(sorted(found))
    return values


def _model_values(
    plan: Plan, labeled: TickerFindings | None, values: dict[str, Any], *, is_asked: bool
) -> tuple[str, set[str]]:
    """Fill in what the model said of one ticker; its status and flags."""
    if not is_asked:
        values |= {"judged": 0, "findings": 0}
        return "no_evidence", {"no_evidence"}
    if labeled is None:
        values |= {"judged": 0, "findings": 0}
        return "not_run", {"not_run"}
    judged = [finding for finding in labeled.findings if finding.label is not None]
    rated = [
        finding for finding in judged if finding.label is not None and finding.label.risk != NONE
    ]
    values |= {
        "judged": len(judged),
        "findings": len(rated),
        "tokens": labeled.tokens,
        "latency_s": labeled.seconds,
    }
    values |= {"attempts": labeled.attempts, "cached": labeled.cached}
    flags = {
        *labeled.flags,
        *_evidence_flags(judged, rated),
        *({"unjudged"} if len(judged) < len(labeled.findings) else ()),
    }
    if not judged:
        return "model_error", flags
    ratings = max_severity(
        (finding.label for finding in judged if finding.label is not None), plan.taxonomy
    )
    result = score(ratings, plan.taxonomy, judged=True)
    values |= {f"r_{category}": rating for category, rating in ratings.items()}
    values |= {"score": result.score, "level": result.level.value, "coverage": result.coverage}
    if (top := _top(result, rated)) is not None:
        values |= {"top_quote": top.sentence.quote, "p_top": top.p_label}
    values["top_risk"] = result.top_risk
    return "partial" if "unjudged" in flags else "ok", flags | set(result.flags)


def _evidence_flags(judged: Sequence[Finding], rated: Sequence[Finding]) -> set[str]:
    thin = {"thin_evidence"} if 0 < len(judged) < MIN_JUDGED else set()
    single = (
        {"single_source"} if len({finding.sentence.document for finding in rated}) == 1 else set()
    )
    return thin | single


def _top(result: Score, rated: Sequence[Finding]) -> Finding | None:
    """
    The worst sentence of the top risk, the newest at equal severity; then the first in document
    order.
    """

    def rank(finding: Finding) -> tuple[int, int]:
        day = finding.sentence.document.date
        return (finding.label.severity if finding.label else 0, day.toordinal() if day else 0)

    own = [
        finding
        for finding in rated
        if finding.label is not None and finding.label.risk == result.top_risk
    ]
    return max(own, key=rank) if own else None


_FINDING: dict[str, Callable[[str, Finding], Any]] = {
    "ticker": lambda symbol, _: symbol,
    "risk": lambda _, finding: finding.label.risk if finding.label else None,
    "severity": lambda _, finding: finding.label.severity if finding.label else None,
    "p_label": lambda _, finding: finding.p_label,
    "p_severity": lambda _, finding: finding.p_severity,
    "quote": lambda _, finding: finding.sentence.quote,
    "source": lambda _, finding: finding.sentence.document.source,
    "date": lambda _, finding: finding.sentence.document.date,
    "evidence": lambda _, finding: finding.sentence.id,
    "start": lambda _, finding: finding.sentence.start,
    "end": lambda _, finding: finding.sentence.end,
    "cached": lambda _, finding: finding.cached,
    "status": lambda _, finding: "judged" if finding.label else "unjudged",
    "flags": lambda _, finding: ";".join(finding.flags),
    "reason": lambda _, finding: finding.reason,
}


def _findings_frame(found: Sequence[tuple[str, Finding]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: _finding_series(name, [cell(symbol, finding) for symbol, finding in found])
            for name, cell in _FINDING.items()
        }
    )


def _finding_series(name: str, values: list[Any]) -> pd.Series[Any]:
    if name in ("severity", "start", "end"):
        return pd.Series(values, dtype="Int64")
    if name in ("p_label", "p_severity"):
        return pd.Series(values, dtype="float64")
    if name == "date":
        return pd.Series(pd.to_datetime(values))
    if name == "cached":
        return pd.Series(values, dtype="bool")
    return _texts(values)
