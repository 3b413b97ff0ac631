"""What people see: streamed answers, progress, tables; in a notebook, in a terminal, and static for
committed notebooks.

Text from a model or from evidence is escaped and its invisible characters are made visible; it is
never handed to
`IPython.display.Markdown` or `HTML`, which open files and addresses and run what is injected.
Updates of one output are at most ten a second: faster ones lose messages, the last one too.
Over 400 lines: to be split along its headings.
"""

from __future__ import annotations

import html
import math
import os
import shutil
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from urisk_nb.render.table_notes import (
    collect_messages,
    collect_notes,
    collect_warnings,
    describe_warnings,
    heading,
    is_fraction,
    select_columns,
)
from urisk_nb.render.text_layout import MIN_WIDTH, cut, display_width, format_grid, wrap
from urisk_nb.risk.row_warnings import WARNINGS, codes_in

if TYPE_CHECKING:
    from urisk_nb.table.risk_table import RiskTable

__all__ = ["Board", "is_static", "publish", "status_bundle", "table_html", "table_text", "visible"]

INTERVAL_S = 0.1
MAX_ROWS = 100
MAX_SENTENCES = 200
PILL = {
    "Low": "#1b7f3b",
    "Moderate": "#7a6200",
    "Elevated": "#a84a05",
    "High": "#c2410c",
    "Severe": "#b91c1c",
    "NR": "#6b7280",
}
MUTED = "color:var(--jp-ui-font-color2,#616161)"
CELL = "text-align:left;vertical-align:top;padding:.35em .7em;border-bottom:1px solid var(--jp-border-color2,#d0d0d0)"
CODE = "border:1px solid var(--jp-border-color2,#d0d0d0);border-radius:.3em;padding:0 .3em;white-space:nowrap;font-size:90%"
NUMBER = (
    CELL.replace("text-align:left", "text-align:right")
    + ";font-variant-numeric:tabular-nums;white-space:nowrap"
)


def visible(text: str) -> str:
    """
    The text with control and format characters written out, so that nothing hides, reorders or
    drives a terminal.
    """
    if text.isprintable():  # nearly always, and many times faster
        return text
    return "".join(
        ch
        if ch in "\n\t" or unicodedata.category(ch) not in ("Cc", "Cf", "Cs", "Co")
        else f"⟨U+{ord(ch):04X}⟩"
        for ch in text
    )


def escape_html(value: Any) -> str:
    """The value as text that is safe between and inside HTML tags."""
    return html.escape(visible(str(value)), quote=True)


def is_static() -> bool:
    """
    Whether outputs are made once and whole (URISK_STATIC=1), as committed and tested notebooks want
    them.
    """
    return os.environ.get("URISK_STATIC", "").strip().lower() not in ("", "0", "false", "no", "off")


def _in_kernel() -> bool:
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def publish(plain: str, markup: str) -> None:
    """One finished output."""
    if _in_kernel():
        from IPython.display import display

        display({"text/plain": plain, "text/html": markup}, raw=True)  # type: ignore[no-untyped-call]
    else:
        print(plain)


class Board:
    """
    One output that changes in place: a streamed answer, or a line of progress.

    In a notebook it is one display that is updated at most ten times a second, the last frame
    always; in a terminal a line that is rewritten (progress) or text that grows (answers); static:
    nothing until `finish`.
    """

    def __init__(self, *, grows: bool = False) -> None:
        self.grows = grows
        self.static = is_static()
        self.kernel = _in_kernel()
        self.handle: Any = None
        self.shown = ""
        self.next_s = 0.0

    def show(self, plain: str, markup: str) -> None:
        """A frame that may be left out if the last one was just now."""
        if not self.static and time.monotonic() >= self.next_s and plain != self.shown:
            self._draw(plain, markup)

    def finish(self, plain: str, markup: str) -> None:
        """The last frame, always shown, and only after a pause: a burst loses messages."""
        if self.kernel and self.handle is not None:
            time.sleep(max(0.0, min(INTERVAL_S, self.next_s - time.monotonic())))
        self._draw(plain, markup)
        if not self.kernel:
            print(flush=True)

    def clear(self) -> None:
        """Take the output away, as far as the place allows."""
        if self.kernel and self.handle is not None:
            self.finish("", "")
        elif self.shown and not self.kernel and not self.grows:
            print("\r" + " " * len(self.shown) + "\r", end="", flush=True)

    def _draw(self, plain: str, markup: str) -> None:
        began = time.monotonic()
        if self.kernel:
            self._display({"text/plain": plain, "text/html": markup})
        elif self.grows:
            print(plain[len(self.shown) :], end="", flush=True)
        else:
            print("\r" + plain.ljust(len(self.shown)), end="", flush=True)
        self.shown = plain
        # A long text takes long to render: leave the browser at least as much time as it cost here,
        # ten times over.
        self.next_s = time.monotonic() + max(INTERVAL_S, 10 * (time.monotonic() - began))

    def _display(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.handle.update(bundle, raw=True)


# Answers and progress -----------------------------------------------------------------------------


def answer_markup(text: str, footer: str = "", notes: Sequence[str] = ()) -> str:
    """An answer as HTML: the text as it is, escaped, with a line of facts under it."""
    body = f'<div role="log" style="white-space:pre-wrap;overflow-wrap:anywhere;max-width:60em">{escape_html(text)}</div>'
    return (
        body
        + _notes_markup(notes)
        + (f'<div style="{MUTED};font-size:85%">{escape_html(footer)}</div>' if footer else "")
    )


def progress_markup(text: str, share: float | None) -> str:
    """One line of progress as HTML, with a bar where the share done is known."""
    bar = (
        ""
        if share is None
        else f'<progress max="1" value="{min(1.0, share):.3f}" '
        'style="vertical-align:middle;margin-right:.6em"></progress>'
    )
    return f'<div role="status" style="{MUTED}">{bar}{escape_html(text)}</div>'


def status_bundle(rows: Mapping[str, Any], title: str) -> tuple[str, str]:
    """Names and values, as text and as an HTML table."""
    width = max(map(len, rows), default=0)
    plain = "\n".join(
        [title, *(f"  {name.ljust(width)}  {visible(str(value))}" for name, value in rows.items())]
    )
    cells = "".join(
        f'<tr><th scope="row" '
        f'style="{CELL};{MUTED};font-weight:normal">{escape_html(name)}</th><td '
        f'style="{CELL}">{escape_html(value)}</td></tr>'
        for name, value in rows.items()
    )
    return (
        plain,
        (
            f"<div><strong>{escape_html(title)}</strong><table "
            f'style="border-collapse:collapse;margin:.3em 0">{cells}</table></div>'
        ),
    )


# Tables -------------------------------------------------------------------------------------------


def table_html(table: RiskTable) -> str:
    """
    The risk table and, under it, its warnings, its messages and the judged sentences; all text
    escaped, legible in light and dark themes.

    Columns of the user's own choice are shown as they are chosen.
    """
    if not table.columns.is_unique or not {"status", "run_id", "score"} <= set(table.columns):
        return str(table._repr_html_())
    columns = select_columns(table)
    head = "".join(
        f'<th scope="col" '
        f'style="{_style(name)};white-space:normal">{escape_html(heading(name))}</th>'
        for name in ("ticker", *columns)
    )
    more = (
        f'<div style="{MUTED}">{MAX_ROWS} of {len(table)} rows shown.</div>'
        if len(table) > MAX_ROWS
        else ""
    )
    return (
        f'<div class="urisk-table tex2jax_ignore">{_notes_markup(collect_notes(table))}'
        f'<table aria-label="risk table" '
        f'style="border-collapse:collapse"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_rows_html(table, columns))}</tbody></table>{more}{_messages_html(table)}{_warnings_html(table)}"
        f"{_sentences_html(table)}<div "
        f'style="{MUTED};font-size:85%">{escape_html(_caption(table))}</div></div>'
    )


def _style(name: str) -> str:
    return NUMBER if is_fraction(name) or name == "score" else CELL


def _rows_html(table: RiskTable, columns: Sequence[str]) -> Iterable[str]:
    shown = table.head(MAX_ROWS)
    names = shown.get("ticker", shown.index)
    for ticker, row, codes in zip(
        names, shown.to_dict("records"), collect_warnings(shown), strict=True
    ):
        cells = "".join(
            _codes_html(codes) if name == "warnings" else _cell_html(name, row[name])
            for name in columns
        )
        yield f'<tr><th scope="row" style="{CELL}">{escape_html(ticker)}</th>{cells}</tr>'


def _codes_html(codes: Sequence[str]) -> str:
    """
    Each code in a frame of its own, with its sentence for the pointer; the same sentences stand
    under the table.
    """
    marks = " ".join(
        f'<span style="{CODE}" '
        f'title="{escape_html(WARNINGS.get(code, ""))}">{escape_html(code)}</span>'
        for code in codes
    )
    return f'<td style="{CELL};max-width:16em;white-space:normal;line-height:1.7">{marks}</td>'


def _cell_html(name: str, value: Any) -> str:
    import pandas as pd

    if value is None or value is pd.NA or _is_nan(value):
        return f'<td style="{_style(name)};{MUTED}">–</td>'
    if is_fraction(name):
        return f'<td style="{NUMBER}">{value:.1%}</td>'
    if name == "score":
        return f'<td style="{NUMBER}">{value:.1f}</td>'
    if name == "level":
        pill = f"background:{PILL.get(str(value), '#6b7280')};color:#fff;border-radius:.8em;padding:.1em .6em;white-space:nowrap"
        return f'<td style="{CELL}"><span style="{pill}">{escape_html(value)}</span></td>'
    if name == "top_quote":
        return f'<td style="{CELL};min-width:14em;max-width:36em;white-space:normal"><bdi>{escape_html(_shortened(str(value), 240))}</bdi></td>'
    return f'<td style="{CELL}">{escape_html(value)}</td>'


def _warnings_html(table: RiskTable) -> str:
    """One line for each code that occurs."""
    lines = "".join(
        f'<div style="margin:.15em 0"><span style="{CODE}">{escape_html(code)}</span> '
        f"{escape_html(text)}</div>"
        for code, text in describe_warnings(table).items()
    )
    return (
        f'<div role="note" aria-label="warnings" style="{MUTED};margin:.5em 0">{lines}</div>'
        if lines
        else ""
    )


def _sentences_html(table: RiskTable) -> str:
    rows = _sentence_rows(table)
    if not rows:
        return ""
    weighed, warned = _weighed(rows), any(row["warnings"] for row in rows)
    names = (
        "ticker",
        "risk",
        "severity",
        *weighed,
        "sentence",
        "source",
        "date",
        *(("warnings",) if warned else ()),
    )
    head = "".join(f'<th scope="col" style="{CELL}">{name}</th>' for name in names)
    body = "".join(_sentence_html(row, weighed, warned=warned) for row in rows[:MAX_SENTENCES])
    note = (
        ""
        if len(rows) <= MAX_SENTENCES
        else f" ({MAX_SENTENCES} shown; all of them: table.report.findings)"
    )
    return (
        f"<details{' open' if len(rows) <= 60 else ''}><summary>{len(rows)} "
        f"sentences{note}</summary>"
        '<table aria-label="judged sentences" style="border-collapse:collapse">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></details>"
    )


def _weighed(rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The further column of calibrated labels."""
    return ("p_label",) if any(row["p_label"] != "–" for row in rows) else ()


def _sentence_html(row: Mapping[str, str], weighed: Sequence[str], *, warned: bool) -> str:
    quote = f"<bdi>{escape_html(_shortened(row['quote'], 600))}</bdi>"
    cells = (
        (CELL, row["ticker"]),
        (CELL, row["risk"]),
        (NUMBER, row["severity"]),
        *((NUMBER, row[name]) for name in weighed),
    )
    start = "".join(f'<td style="{style}">{escape_html(value)}</td>' for style, value in cells)
    end = f'<td style="{CELL}">{escape_html(row["source"])}</td><td style="{CELL};white-space:nowrap">{escape_html(row["date"])}</td>'
    end += (
        f'<td style="{CELL};max-width:20em;white-space:normal;{MUTED}">{escape_html(row["warnings"])}</td>'
        if warned
        else ""
    )
    return f'<tr>{start}<td style="{CELL};max-width:48em;white-space:normal">{quote}</td>{end}</tr>'


def _sentence_rows(table: RiskTable) -> list[dict[str, str]]:
    """The sentences of the tickers shown, in table order, the worst first; each value as text."""
    import pandas as pd

    findings = table.report.findings
    if not len(findings):
        return []
    order = {ticker: place for place, ticker in enumerate(table.get("ticker", table.index))}
    frame = findings[findings["ticker"].isin(set(order))]
    frame = frame.assign(
        _place=frame["ticker"].map(order),
        _severity=pd.to_numeric(frame["severity"]).fillna(-1).astype(float),
    )
    frame = frame.sort_values(["_place", "_severity"], ascending=[True, False], kind="stable")
    return [_sentence_row(row) for row in frame.to_dict("records")]


def _sentence_row(row: Mapping[Any, Any]) -> dict[str, str]:
    texts = {
        name: _plain(row[name])
        for name in ("ticker", "risk", "severity", "quote", "source", "date")
    }
    texts["p_label"] = "–" if _plain(row["p_label"]) == "–" else f"{row['p_label']:.2f}"
    said = (*codes_in([row["flags"]]), _plain(row["reason"]) if row["status"] == "unjudged" else "")
    texts["warnings"] = ", ".join(part for part in said if part not in ("", "–"))
    # Where no risk was seen a severity says nothing.
    return texts | {"severity": "–"} if texts["risk"] == "none" else texts


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain(value: Any) -> str:
    import pandas as pd

    if value is None or value is pd.NA or value is pd.NaT or _is_nan(value):
        return "–"
    return f"{value:%Y-%m-%d}" if isinstance(value, pd.Timestamp) else str(value)


def _messages_html(table: RiskTable) -> str:
    lines = "".join(f"<div>{escape_html(line)}</div>" for line in collect_messages(table))
    return (
        f'<div role="note" aria-label="messages" style="margin:.5em 0">{lines}</div>'
        if lines
        else ""
    )


def _notes_markup(notes: Sequence[str]) -> str:
    style = "border-left:.3em solid #b45309;padding:.2em .7em;margin:.3em 0;background:rgba(180,83,9,.12)"
    return "".join(f'<div role="note" style="{style}">{escape_html(note)}</div>' for note in notes)


def _caption(table: RiskTable) -> str:
    meta = table.report.meta
    served = meta.get("served_by") or {}
    if not served:
        # And so the same for the same prices: a committed notebook compares equal
        return "no model asked"
    return f"run {meta.get('run_id', '')} · judged by {served['model']} ({served['engine']}, {served['server']})"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def table_text(table: RiskTable, width: int | None = None) -> str:
    """
    The same for a terminal of so many columns: the metrics, each ticker's worst sentence, warnings,
    then all judged sentences.
    """
    columns = max(
        MIN_WIDTH, shutil.get_terminal_size((120, 24)).columns if width is None else width
    )
    lines = [line for note in collect_notes(table) for line in wrap(note, columns)]
    lines += _metrics_text(table, columns)
    messages = collect_messages(table)
    lines += (
        ["", *(line for message in messages for line in wrap(visible(message), columns, rest="  "))]
        if messages
        else []
    )
    lines += _warnings_text(table, columns)
    rows = _sentence_rows(table)
    if rows:
        weighed = _weighed(rows)
        lines += ["", *wrap(f"{len(rows)} judged sentences", columns)]
        lines += [
            line for row in rows[:MAX_SENTENCES] for line in _sentence_text(row, columns, weighed)
        ]
        rest = f"{MAX_SENTENCES} shown; all of them: table.report.findings"
        lines += wrap(rest, columns, "  ", "  ") if len(rows) > MAX_SENTENCES else []
    return "\n".join([*lines, "", *wrap(visible(_caption(table)), columns)])


def _metrics_text(table: RiskTable, width: int) -> list[str]:
    columns = [name for name in select_columns(table) if name != "top_quote"]
    names = [_one_line(ticker) for ticker in table.get("ticker", table.index)]
    numbers = {code: str(number) for number, code in enumerate(describe_warnings(table), 1)}
    marks = [" ".join(numbers[code] for code in codes) for codes in collect_warnings(table)]
    rows = [
        [
            name,
            *(
                mark if column == "warnings" else _cell_text(column, row[column])
                for column in columns
            ),
        ]
        for name, mark, row in zip(names, marks, table.to_dict("records"), strict=True)
    ]
    right = frozenset(
        place for place, name in enumerate(columns, 1) if is_fraction(name) or name == "score"
    )
    lines = format_grid(["ticker", *map(heading, columns)], rows, width, right=right)
    if "top_quote" in table and table["top_quote"].notna().any():
        lines += ["", *wrap("worst sentence of each", width)]
        for name, quote in zip(names, map(_plain, table["top_quote"]), strict=True):
            lines += wrap(f"{name}: {visible(quote)}", width, "  ", "    ") if quote != "–" else []
    return lines


def _warnings_text(table: RiskTable, width: int) -> list[str]:
    """One sentence for each code, under the number that stands in the column `warnings`."""
    texts = describe_warnings(table)
    lines = ["", "warnings"] if texts else []
    for number, (code, text) in enumerate(texts.items(), 1):
        lines += wrap(f"{visible(code)}: {text}", width, f"{number:>4} ", " " * 5)
    return lines


def _one_line(value: Any) -> str:
    return " ".join(visible(str(value)).split())


def _cell_text(name: str, value: Any) -> str:
    text = _plain(value)
    if text == "–":
        return text
    if is_fraction(name):
        return f"{value:.1%}"
    return f"{value:.1f}" if name == "score" else _one_line(text)


def _sentence_text(row: Mapping[str, str], width: int, weighed: Sequence[str]) -> list[str]:
    head = f"  {_one_line(row['ticker']):<6} {_one_line(row['risk']):<12}{row['severity']:>2}  "
    head += "".join(f"{row[name]:>4}  " for name in weighed)
    origin = ", ".join(
        part for part in (row["source"], row["date"], row["warnings"]) if part not in ("", "–")
    )
    quote = visible(_shortened(row["quote"], 600)) + (f"  [{visible(origin)}]" if origin else "")
    if 2 * display_width(head) <= width:
        return wrap(quote, width, head, " " * display_width(head))
    return [cut(head.rstrip(), width), *wrap(quote, width, "    ", "    ")]
