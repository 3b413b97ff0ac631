"""
What a table shows, before it is HTML or text: columns, values as text, warnings, messages,
sentences, and the line under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from urisk_nb.render.escaping import one_line
from urisk_nb.render.text_layout import cut, format_count
from urisk_nb.risk.row_warnings import LABELED_BY, WARNINGS, codes_in

__all__ = [
    "DASH",
    "FINE_FRACTIONS",
    "MAX_MESSAGES",
    "MAX_REASON_CHARS",
    "MAX_ROWS",
    "Column",
    "TableContent",
    "collect_messages",
    "collect_notes",
    "describe_override",
    "describe_run",
    "describe_sentences",
    "describe_warnings",
    "format_value",
    "has_alerts",
    "is_fraction",
    "list_alerts",
    "list_columns",
    "list_sentences",
    "name_heading",
    "row_labels",
]

MAX_ROWS = 100
NOTHING_DECISIVE = "nothing_decisive"  # the flag of a Low that means that nothing was said
MAX_MESSAGES = 20
MAX_REASON_CHARS = 200  # of a correction, beside a sentence or in a cause
MAX_PLAIN = 1e4  # a million per cent; more is written as a power of ten
DASH = "–"  # where there is no value
WHOLE_RUN = "*"  # the key of a message that is about no single ticker
_HEADINGS = {
    "ret_total": "return",
    "vol_ann": "vol (ann.)",
    "max_dd": "max drawdown",
    "top_risk": "top risk",
    "top_quote": "worst sentence",
    "share_repeated": "repeated",
}
_CHANGES = ("new", "changed", "gone", "share_repeated")
_NUMBERS = ("weight", "score", "sentences", *_CHANGES)
_TAIL = re.compile(r"(var|es)_(\d+)")
_COMPACT = re.compile(r"ret_total|vol_ann|max_dd|beta|(?:var|es)_\d+")
_FRACTION = re.compile(
    r"ret_total|vol_(?:ewma_)?ann|downside_dev_ann|(?:max|cur)_dd|es_\d+"
    r"|var_\d+(?:_(?:lo|hi|filtered|gaussian|cornish_fisher))?"
    r"|weight(?:_sum|_gross)?|comp_es|comp_es_share|comp_vol_share|(?:score_)?coverage|share_repeated"
)
_FORMATS = {
    **dict.fromkeys(("beta", "diversification_ratio", "effective_number"), ".2f"),
    **dict.fromkeys(("r2", "p_value", "corr_bench", "skew", "ex_kurt"), ".3f"),
    **dict.fromkeys(("alpha", "alpha_se"), ".3g"),
    "LR": ".2f",
    "score": ".1f",
}
_BETA = re.compile(r"beta_.+")  # of a factor, and the standard errors
FINE_FRACTIONS = frozenset(("comp_es",))  # of fifty holdings each adds some basis points
_UNKNOWN = "This version of urisk_nb has no explanation for this code."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableContent:
    """
    A table and what stands behind it.

    Attributes
    ----------
    frame
        One row a ticker, or whatever the user made of such a table.
    findings
        One row a labeled sentence: ticker, risk, severity, p_label, p_severity, quote, source,
        section, date, status, flags, reason.
    meta
        The record of the run; of tables put together ``{"runs": [...]}``.
    changes
        One row a new, changed or gone sentence: ticker, change, section, quote, old_quote.
    portfolio
        The figures of its run's portfolio by name; None without weights.
    """

    frame: pd.DataFrame
    findings: pd.DataFrame
    meta: Mapping[str, Any]
    changes: pd.DataFrame | None = None
    portfolio: Mapping[str, Any] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is still a table of a run; else the user chose the columns."""
        columns, index = self.frame.columns, self.frame.index
        if columns.nlevels > 1 or index.nlevels > 1 or not columns.is_unique:
            return False
        return {"status", "run_id", "score"} <= set(columns)

    @property
    def tickers(self) -> Sequence[Any]:
        """The ticker of each row of a whole table, also after `reset_index`."""
        return list(self.frame.get("ticker", self.frame.index))

    @property
    def runs(self) -> Sequence[Mapping[str, Any]]:
        """The record of each run that is in it."""
        return self.meta.get("runs", [self.meta])  # type: ignore[no-any-return]  # from untyped meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    A column that is shown: the frame's name, the heading, the values, and whether they are numbers.

    The column `warnings` is none of the frame's: its values are the codes of each row.
    """

    name: str
    heading: str
    values: Sequence[Any]
    is_number: bool


# Columns ------------------------------------------------------------------------------------------


def row_labels(content: TableContent, rows: int | None = MAX_ROWS) -> tuple[str, list[str]]:
    """Return the heading of the first column, and what names each row in it."""
    if content.is_whole:
        return "ticker", [one_line(ticker) for ticker in content.tickers[:rows]]
    index = content.frame.index[:rows]
    heads = ", ".join(one_line(name) for name in index.names if name is not None)
    return heads, [_label(label) for label in index]


def _label(label: Any) -> str:
    parts = label if isinstance(label, tuple) else (label,)
    return ", ".join(format_value("", part) for part in parts)


def list_columns(content: TableContent, rows: int | None = MAX_ROWS) -> list[Column]:
    """
    Return the columns that are shown, with the values of the first rows.

    Of a whole table those are the labels, the main figures, `status` unless all rows are ok, and
    `warnings`. A column whose input was given is among them, with or without values. Columns that
    the user chose are shown as they are chosen.
    """
    frame = content.frame.iloc[:rows]
    if not content.is_whole:
        return [_read_column(frame, place) for place in range(len(frame.columns))]
    columns = [
        Column(
            name=name,
            heading=name_heading(name),
            values=_list_levels(frame) if name == "level" else frame[name].tolist(),
            is_number=name in _NUMBERS or bool(_COMPACT.fullmatch(name)),
        )
        for name in _list_compact_names(content)
    ]
    if any(_list_row_codes(content.frame)):
        codes = list(_list_row_codes(frame))
        columns.append(Column(name="warnings", heading="warnings", values=codes, is_number=False))
    return columns


def _list_levels(frame: pd.DataFrame) -> list[Any]:
    """Return the levels; Low says so where it only means that nothing was said."""
    said = [NOTHING_DECISIVE in codes_in([cell]) for cell in _flags(frame)]
    return [
        f"{level} (nothing decisive said)" if is_silent else level
        for level, is_silent in zip(frame["level"], said or [False] * len(frame), strict=True)
    ]


def _read_column(frame: pd.DataFrame, place: int) -> Column:
    series, label = frame.iloc[:, place], frame.columns[place]
    return Column(
        name=_find_name(label),
        heading=_label(label),
        values=series.tolist(),
        is_number=is_numeric_dtype(series.dtype) and not is_bool_dtype(series.dtype),
    )


def _find_name(label: Any) -> str:
    """Return which figure a column has; of several labels, as after a pivot, the one that says."""
    labels = label if isinstance(label, tuple) else (label,)
    names = [one for one in labels if isinstance(one, str)]
    return next(filter(_has_format, names), names[0] if names else "")


def _list_compact_names(content: TableContent) -> list[str]:
    frame = content.frame
    # `judged` has a number in each row as soon as evidence was given and a model was to be asked.
    # Without a row the record of the run tells.
    labeled = "judged" in frame and (
        frame["judged"].notna().any()
        if len(frame)
        else any(run.get("has_labels") for run in content.runs)
    )
    # Where no model is asked, what was read is all that there is to say of evidence.
    was_read = "sentences" in frame and frame["sentences"].notna().any()
    read = ["sentences"] if was_read else []
    labels = ["level", "score", "top_risk", "top_quote"] if labeled else read
    figures = [name for name in map(str, frame.columns) if _COMPACT.fullmatch(name)]
    labels += [name for name in _CHANGES if name in frame]
    states = ("status",) if (frame["status"] != "ok").any() else ()
    alerts = ["alerts"] if has_alerts(frame) else []
    names = (*alerts, "weight", *labels, *figures, *states)
    return [name for name in names if name in frame]


def has_alerts(frame: pd.DataFrame) -> bool:
    """Tell whether a row of a table has an alert."""
    return "alerts" in frame and bool((frame["alerts"].fillna("") != "").any())


def name_heading(name: str) -> str:
    """Return what stands above a column: "VaR 97.5" for `var_975`."""
    if tail := _TAIL.fullmatch(name):
        kind, digits = tail.groups()
        percent = digits[:2] + ("." + digits[2:] if digits[2:] else "")
        return f"{'VaR' if kind == 'var' else 'ES'} {percent}"
    return _HEADINGS.get(name, name)


def is_fraction(name: str) -> bool:
    """Tell whether the column of that name holds fractions that are shown as per cent."""
    return _FRACTION.fullmatch(name) is not None


def _has_format(name: str) -> bool:
    return is_fraction(name) or name in _FORMATS or _BETA.fullmatch(name) is not None


def format_value(name: str, value: Any, digits: int | None = None) -> str:
    """
    Return a value of the column of that name as text on one line.

    `digits`: of a per cent; default: those of the table.
    """
    if isinstance(value, str):
        return one_line(value)
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return DASH
    if isinstance(value, float):
        if is_fraction(name):
            if digits is None:
                digits = 2 if name in FINE_FRACTIONS else 1
            return f"{value:.{digits}%}" if abs(value) < MAX_PLAIN else f"{100 * value:.3g}%"
        usual = ".3f" if _BETA.fullmatch(name) else ".6g"
        return f"{value:{_FORMATS.get(name, usual)}}"
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat() if value == value.normalize() else value.isoformat()
    return one_line(value)


# Warnings, notes, messages ------------------------------------------------------------------------


def _flags(frame: pd.DataFrame) -> Iterable[Any]:
    cells = frame.get("flags")
    return cells if isinstance(cells, pd.Series) else ()


def _list_row_codes(frame: pd.DataFrame) -> Iterator[list[str]]:
    """
    Yield the codes beside each row: not those of the whole table.

    A code that is also the row's status is among them: each number under the table is in a row.
    """
    for cell in _flags(frame):
        yield [code for code in codes_in([cell]) if code not in LABELED_BY]


def describe_warnings(content: TableContent) -> dict[str, str]:
    """Return one sentence for each code that occurs in the table."""
    return {
        code: WARNINGS.get(code, _UNKNOWN)
        for code in codes_in(_flags(content.frame))
        if code not in LABELED_BY
    }


def collect_notes(content: TableContent) -> list[str]:
    """Return what must be known of who labeled the table."""
    codes = codes_in(_flags(content.frame))
    return [text for code, text in LABELED_BY.items() if code in codes]


def collect_messages(content: TableContent, limit: int | None = MAX_MESSAGES) -> list[str]:
    """
    Return what the run says of the rows shown and of itself, such as which price is bad; the rest
    is counted. `limit`: the most messages; None: all of them. What is missing of the portfolio
    stands beside its figures.
    """
    if not content.is_whole:
        return []
    tickers = set(content.tickers)
    lines: dict[str, None] = {}
    for run in content.runs:
        for key, said in run.get("messages", {}).items():
            if key == WHOLE_RUN or key in tickers:
                head = "" if key == WHOLE_RUN else f"{one_line(key)}: "
                texts = [said] if isinstance(said, str) else said
                lines |= dict.fromkeys(head + one_line(text) for text in texts)
    lines |= dict.fromkeys(_describe_ratings(content))
    if content.portfolio is not None:
        lines.pop(one_line(content.portfolio.get("reason")), None)
    shown = list(lines)[:limit]
    more = len(lines) - len(shown)
    return [*shown, f'and {more} more: table.report.meta["messages"]'] if more else shown


def _describe_ratings(content: TableContent) -> Iterator[str]:
    """Yield for each top risk that a rule capped, raised or lowered which rule it was."""
    if "top_rule" not in content.frame:
        return
    for ticker, row in zip(content.tickers, content.frame.to_dict("records"), strict=True):
        rating = row.get(f"r_{row['top_risk']}")
        if isinstance(row["top_rule"], str) and rating is not None:
            yield one_line(f"{ticker}: {row['top_risk']} {rating} ({row['top_rule']})")


def describe_run(content: TableContent) -> str:
    """Return the line under the table: who labeled it, and what else there is."""
    if not content.is_whole:
        return f"{len(content.frame)} rows x {len(content.frame.columns)} columns"
    served = [run for run in content.runs if run.get("served_by")]
    # Nothing of the run where no model was asked: a committed notebook then compares equal.
    parts = [f"run {run.get('run_id', '')} · {_describe_labeler(run)}" for run in served]
    parts = parts or ["no model asked"]
    parts += dict.fromkeys(map(_describe_prices, content.runs))
    shown = {"ticker", *(column.name for column in list_columns(content, 0))}
    more = len(set(content.frame.columns) - shown)
    return " · ".join([*map(one_line, filter(None, parts)), f"{more} more columns: table.columns"])


def _describe_prices(run: Mapping[str, Any]) -> str:
    """Say which of several columns of prices was read; empty where there was one."""
    if not (column := run.get("price_column")):
        return ""
    # None: nothing says whether they are
    kind = {True: " (adjusted)", False: " (not adjusted)"}.get(run.get("adjusted"), "")  # type: ignore[arg-type]
    return f"prices: {column}{kind}"


def _describe_labeler(run: Mapping[str, Any]) -> str:
    """Say who labeled, and who was compared; not every server tells its version."""
    by, others = run["served_by"], [one["model"] for one in run.get("judges", ())[1:]]
    where = ", ".join(filter(None, (by["engine"], by["server"])))
    compared = f", compared with {', '.join(others)}" if others else ""
    return f"labeled by {by['model']}{compared} ({where})"


# Alerts -------------------------------------------------------------------------------------------


def list_alerts(content: TableContent) -> list[dict[str, str]]:
    """
    Return the decisive sentences of the tickers in the table as text, in table order.

    Keys: ticker, family, quote, source, section, date.
    """
    if not content.is_whole:
        return []
    names = ("ticker", "family", "quote", "source", "section", "date")
    alerts = [one for run in content.runs for one in run.get("alerts", ())]
    order = {ticker: place for place, ticker in enumerate(content.tickers)}
    mine = [one for one in alerts if one["ticker"] in order]
    mine.sort(key=lambda one: order[one["ticker"]])
    return [{name: format_value(name, one[name]) for name in names} for one in mine]


# Sentences ----------------------------------------------------------------------------------------


def list_sentences(content: TableContent, limit: int | None) -> tuple[int, list[dict[str, str]]]:
    """
    Count the sentences of the tickers in the table, and return the first of them as text, in table
    order, those that count most first.

    Keys: ticker, risk, severity, p_label, p_severity, quote, source, section, date, warnings.
    """
    frame = _select_findings(content)
    order = {ticker: place for place, ticker in enumerate(content.tickers)}
    frame = frame.assign(
        _place=frame["ticker"].map(order),
        _counted=pd.to_numeric(frame["counted"]).fillna(-1).astype(float),
        _severity=pd.to_numeric(frame["severity"]).fillna(-1).astype(float),
    )
    frame = frame.sort_values(
        ["_place", "_counted", "_severity"], ascending=[True, False, False], kind="stable"
    )
    return len(frame), [_sentence(row) for row in frame.iloc[:limit].to_dict("records")]


def describe_sentences(content: TableContent) -> str:
    """Return the heading of the sentences: how many there are, and how many have a label."""
    frame = _select_findings(content)
    count, labeled = len(frame), int((frame["status"] == "judged").sum())
    if labeled == count:
        return format_count(count, "labeled sentence")
    return f"{format_count(count, 'sentence')}, {labeled or 'none'} labeled"


def _select_findings(content: TableContent) -> pd.DataFrame:
    tickers = set(content.tickers) if content.is_whole else ()
    return content.findings[content.findings["ticker"].isin(tickers)]


def _sentence(row: Mapping[Any, Any]) -> dict[str, str]:
    names = ("ticker", "risk", "severity", "quote", "source", "section", "date")
    texts = {name: format_value(name, row[name]) for name in names}
    for name in ("p_label", "p_severity"):
        p = row[name]
        texts[name] = DASH if format_value("", p) == DASH else f"{p:.2f}"
    reason = format_value("", row["reason"]) if row["status"] == "unjudged" else DASH
    codes = map(one_line, codes_in([row["flags"]]))
    corrected = describe_override(row, MAX_REASON_CHARS) or DASH
    said = (*codes, reason, _describe_count(row), corrected)
    texts["warnings"] = ", ".join(part for part in said if part != DASH)
    # Where no risk was seen a severity says nothing.
    return texts | {"severity": DASH, "p_severity": DASH} if texts["risk"] == "none" else texts


def describe_override(row: Mapping[Any, Any], width: int | None = None) -> str | None:
    """
    Return who corrected the label of a sentence, when and why: "anna corrected legal 4 to none on
    2024-05-02: it was paid". None where nobody did, or where the report is of an older version.

    Parameters
    ----------
    width
        Columns that the reason may take; default: all of it.
    """
    who, why = row.get("override_by"), row.get("override_why")
    if not isinstance(who, str):
        return None
    old = _name_label(row.get("model_risk"), row.get("model_severity"))
    new = _name_label(row["risk"], row["severity"])
    if old is None:
        change = f"labeled it {new}, where the model gave no label,"
    else:
        change = f"confirmed {new}" if old == new else f"corrected {old} to {new}"
    day, reason = format_value("", row["override_at"])[:10], format_value("", why)
    return f"{one_line(who)} {change} on {day}: {reason if width is None else cut(reason, width)}"


def _name_label(risk: Any, severity: Any) -> str | None:
    if not isinstance(risk, str):
        return None
    return risk if risk == "none" else f"{risk} {severity}"


def _describe_count(row: Mapping[Any, Any]) -> str:
    """Say what a sentence counts for where a rule changed it."""
    if (rule := format_value("", row["rule"])) == DASH:
        return DASH
    if (counted := format_value("", row["counted"])) == DASH:
        return f"does not count: {rule}"
    return f"counts as {format_value('', row['counted_as'])} {counted}: {rule}"
