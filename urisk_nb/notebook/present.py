"""What people see: streamed answers, progress, tables; in a notebook, in a terminal, and static for committed notebooks.

Text from a model or from evidence is escaped and its invisible characters are made visible; it is never handed to
`IPython.display.Markdown` or `HTML`, which open files and addresses and run what is injected. Updates of one output are
at most ten a second: faster ones lose messages, the last one too.
"""

from __future__ import annotations

import html
import math
import os
import shutil
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from urisk_nb.notebook.facts import NOTES

if TYPE_CHECKING:
    import pandas as pd

    from urisk_nb.risk.table import RiskTable

__all__ = ["Board", "is_static", "publish", "status_bundle", "table_html", "table_text", "visible"]

INTERVAL_S = 0.1
MOST_ROWS = 100
MOST_SENTENCES = 200
PILL = {
    "Low": "#1b7f3b",
    "Moderate": "#7a6200",
    "Elevated": "#a84a05",
    "High": "#c2410c",
    "Severe": "#b91c1c",
    "NR": "#6b7280",
}
PERCENT = ("ret_total", "vol_ann", "var_95", "es_95", "max_dd")
HEADINGS = {
    "ret_total": "return",
    "vol_ann": "vol p.a.",
    "var_95": "VaR 95",
    "es_95": "ES 95",
    "max_dd": "max drawdown",
    "top_risk": "top risk",
    "top_quote": "worst sentence",
}
MUTED = "color:var(--jp-ui-font-color2,#616161)"
CELL = "text-align:left;vertical-align:top;padding:.35em .7em;border-bottom:1px solid var(--jp-border-color2,#d0d0d0)"
NUMBER = CELL.replace("text-align:left", "text-align:right") + ";font-variant-numeric:tabular-nums;white-space:nowrap"


def visible(text: str) -> str:
    """The text with control and format characters written out, so that nothing hides, reorders or drives a terminal."""
    if text.isprintable():  # nearly always, and many times faster
        return text
    return "".join(ch if ch in "\n\t" or unicodedata.category(ch) not in ("Cc", "Cf", "Cs", "Co") else f"⟨U+{ord(ch):04X}⟩" for ch in text)


def escaped(value: Any) -> str:
    """The value as text that is safe between and inside HTML tags."""
    return html.escape(visible(str(value)), quote=True)


def is_static() -> bool:
    """Whether outputs are made once and whole (URISK_STATIC=1), as committed and tested notebooks want them."""
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

    In a notebook it is one display that is updated at most ten times a second, the last frame always; in a terminal a line
    that is rewritten (progress) or text that grows (answers); static: nothing until `finish`.
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
        # A long text takes long to render: leave the browser at least as much time as it cost here, ten times over.
        self.next_s = time.monotonic() + max(INTERVAL_S, 10 * (time.monotonic() - began))

    def _display(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.handle.update(bundle, raw=True)


# Answers and progress ------------------------------------------------------------------------------------------------------


def answer_markup(text: str, footer: str = "", notes: Sequence[str] = ()) -> str:
    """An answer as HTML: the text as it is, escaped, with a line of facts under it."""
    body = f'<div role="log" style="white-space:pre-wrap;overflow-wrap:anywhere;max-width:60em">{escaped(text)}</div>'
    return body + _notes_markup(notes) + (f'<div style="{MUTED};font-size:85%">{escaped(footer)}</div>' if footer else "")


def progress_markup(text: str, share: float | None) -> str:
    """One line of progress as HTML, with a bar where the share done is known."""
    bar = (
        ""
        if share is None
        else f'<progress max="1" value="{min(1.0, share):.3f}" style="vertical-align:middle;margin-right:.6em"></progress>'
    )
    return f'<div role="status" style="{MUTED}">{bar}{escaped(text)}</div>'


def status_bundle(rows: Mapping[str, Any], title: str) -> tuple[str, str]:
    """Names and values, as text and as an HTML table."""
    width = max(map(len, rows), default=0)
    plain = "\n".join([title, *(f"  {name.ljust(width)}  {visible(str(value))}" for name, value in rows.items())])
    cells = "".join(
        f'<tr><th scope="row" style="{CELL};{MUTED};font-weight:normal">{escaped(name)}</th><td style="{CELL}">{escaped(value)}</td></tr>'
        for name, value in rows.items()
    )
    return plain, f'<div><strong>{escaped(title)}</strong><table style="border-collapse:collapse;margin:.3em 0">{cells}</table></div>'


# Tables --------------------------------------------------------------------------------------------------------------------


def table_html(table: RiskTable) -> str:
    """
    The risk table and, under it, the judged sentences; all text escaped, legible in light and dark themes.

    Columns of the user's own choice are shown as they are chosen.
    """
    if not table.columns.is_unique or not {"status", "run_id", "score"} <= set(table.columns):
        return str(table._repr_html_())
    columns = _shown_columns(table)
    head = "".join(
        f'<th scope="col" style="{NUMBER if name in (*PERCENT, "score") else CELL}">{escaped(HEADINGS.get(name, name))}</th>'
        for name in ("ticker", *columns)
    )
    shown = table.head(MOST_ROWS)
    body = "".join(_row_html(ticker, row, columns) for ticker, row in zip(shown.index, shown.to_dict("records"), strict=True))
    more = f'<div style="{MUTED}">{MOST_ROWS} of {len(table)} rows shown.</div>' if len(table) > MOST_ROWS else ""
    return (
        f'<div class="urisk-table">{_notes_markup(_notes(table))}'
        f'<table aria-label="risk table" style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f'{more}{_messages_html(table)}{_sentences_html(table)}<div style="{MUTED};font-size:85%">{escaped(_caption(table))}</div></div>'
    )


def _shown_columns(table: pd.DataFrame) -> list[str]:
    judged = "level" in table and (table["level"] != "NR").any()
    wanted = (*(("level", "score", "top_risk", "top_quote") if judged else ()), *PERCENT)
    columns = [name for name in wanted if name in table and table[name].notna().any()]
    return [*columns, *(("status",) if "status" in table and (table["status"] != "ok").any() else ())]


def _row_html(ticker: Any, row: Mapping[Any, Any], columns: Iterable[str]) -> str:
    cells = "".join(_cell_html(name, row[name]) for name in columns)
    return f'<tr><th scope="row" style="{CELL}">{escaped(ticker)}</th>{cells}</tr>'


def _cell_html(name: str, value: Any) -> str:
    import pandas as pd

    if value is None or value is pd.NA or _is_nan(value):
        return f'<td style="{NUMBER if name in (*PERCENT, "score") else CELL};{MUTED}">–</td>'
    if name in PERCENT:
        return f'<td style="{NUMBER}">{value:.1%}</td>'
    if name == "score":
        return f'<td style="{NUMBER}">{value:.1f}</td>'
    if name == "level":
        pill = f"background:{PILL.get(str(value), '#6b7280')};color:#fff;border-radius:.8em;padding:.1em .6em;white-space:nowrap"
        return f'<td style="{CELL}"><span style="{pill}">{escaped(value)}</span></td>'
    if name == "top_quote":
        return f'<td style="{CELL};max-width:36em;white-space:normal"><bdi>{escaped(_shortened(str(value), 240))}</bdi></td>'
    return f'<td style="{CELL}">{escaped(value)}</td>'


def _sentences_html(table: RiskTable) -> str:
    rows = _sentence_rows(table)
    if not rows:
        return ""
    weighed = _weighed(rows)
    names = ("ticker", "risk", "severity", *weighed, "sentence", "source", "date")
    head = "".join(f'<th scope="col" style="{CELL}">{name}</th>' for name in names)
    body = "".join(_sentence_html(row, weighed) for row in rows[:MOST_SENTENCES])
    note = "" if len(rows) <= MOST_SENTENCES else f" ({MOST_SENTENCES} shown; all of them: table.report.findings)"
    return (
        f"<details{' open' if len(rows) <= 60 else ''}><summary>{len(rows)} sentences{note}</summary>"
        '<table aria-label="judged sentences" style="border-collapse:collapse">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></details>"
    )


def _weighed(rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The further column of calibrated labels."""
    return ("p_label",) if any(row["p_label"] != "–" for row in rows) else ()


def _sentence_html(row: Mapping[str, str], weighed: Sequence[str]) -> str:
    quote = f"<bdi>{escaped(_shortened(row['quote'], 600))}</bdi>"
    cells = ((CELL, row["ticker"]), (CELL, row["risk"]), (NUMBER, row["severity"]), *((NUMBER, row[name]) for name in weighed))
    start = "".join(f'<td style="{style}">{escaped(value)}</td>' for style, value in cells)
    end = f'<td style="{CELL}">{escaped(row["source"])}</td><td style="{CELL};white-space:nowrap">{escaped(row["date"])}</td>'
    return f'<tr>{start}<td style="{CELL};max-width:48em;white-space:normal">{quote}</td>{end}</tr>'


def _sentence_rows(table: RiskTable) -> list[dict[str, str]]:
    """The sentences of the tickers shown, in table order, the worst first; each value as text."""
    import pandas as pd

    findings = table.report.findings
    if not len(findings):
        return []
    frame = findings[findings["ticker"].isin(set(table.index))]
    order = {ticker: place for place, ticker in enumerate(table.index)}
    frame = frame.assign(_place=frame["ticker"].map(order), _severity=pd.to_numeric(frame["severity"]).fillna(-1).astype(float))
    frame = frame.sort_values(["_place", "_severity"], ascending=[True, False], kind="stable")
    return [_sentence_row(row) for row in frame.to_dict("records")]


def _sentence_row(row: Mapping[Any, Any]) -> dict[str, str]:
    texts = {name: _plain(row[name]) for name in ("ticker", "risk", "severity", "quote", "source", "date")}
    texts["p_label"] = "–" if _plain(row["p_label"]) == "–" else f"{row['p_label']:.2f}"
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
    return "".join(f'<div style="{MUTED}">{escaped(line)}</div>' for line in _messages(table))


def _messages(table: RiskTable) -> list[str]:
    """What the table has to say of single rows, such as which price is bad."""
    messages: Mapping[str, str] = table.report.meta.get("messages", {})
    return [f"{ticker}: {text}" for ticker, text in messages.items() if ticker in table.index][:20]


def _notes(table: pd.DataFrame) -> list[str]:
    codes = {code for flags in table.get("flags", ()) for code in str(flags).split(";")}
    return [text for code, text in NOTES.items() if code in codes]


def _notes_markup(notes: Sequence[str]) -> str:
    style = "border-left:.3em solid #b45309;padding:.2em .7em;margin:.3em 0;background:rgba(180,83,9,.12)"
    return "".join(f'<div role="note" style="{style}">{escaped(note)}</div>' for note in notes)


def _caption(table: RiskTable) -> str:
    meta = table.report.meta
    served = meta.get("served_by") or {}
    if not served:
        return "no model asked"  # and so the same for the same prices: a committed notebook compares equal
    return f"run {meta.get('run_id', '')} · judged by {served['model']} ({served['engine']}, {served['server']})"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def table_text(table: RiskTable, width: int | None = None) -> str:
    """The same for a terminal: the metrics, each ticker's worst sentence, then all judged sentences."""
    columns = shutil.get_terminal_size((120, 24)).columns if width is None else width
    parts = [*(textwrap.fill(note, columns) for note in _notes(table)), _metrics_text(table), *_messages(table)]
    rows = _sentence_rows(table)
    if rows:
        weighed = _weighed(rows)
        parts += ["", f"{len(rows)} judged sentences", *(_sentence_text(row, columns, weighed) for row in rows[:MOST_SENTENCES])]
    return "\n".join([*parts, "", _caption(table)])


def _metrics_text(table: RiskTable) -> str:
    columns = [name for name in _shown_columns(table) if name != "top_quote"]
    quotes = "top_quote" in table and table["top_quote"].notna().any()
    lines = [["ticker", *(HEADINGS.get(name, name) for name in columns)]]
    lines += [
        [visible(str(ticker)), *(_cell_text(name, row[name]) for name in columns)]
        for ticker, row in zip(table.index, table.to_dict("records"), strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    out = [
        "  ".join(
            cell.rjust(size) if place and columns[place - 1] in (*PERCENT, "score") else cell.ljust(size)
            for place, (cell, size) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    out.insert(1, "  ".join("-" * size for size in widths))
    if quotes:
        out += ["", "worst sentence of each"]
        out += [
            textwrap.fill(
                f"{ticker}: {visible(_plain(quote))}",
                shutil.get_terminal_size((120, 24)).columns,
                initial_indent="  ",
                subsequent_indent="    ",
            )
            for ticker, quote in table["top_quote"].items()
        ]
    return "\n".join(out)


def _cell_text(name: str, value: Any) -> str:
    text = _plain(value)
    if text == "–":
        return text
    if name in PERCENT:
        return f"{value:.1%}"
    return f"{value:.1f}" if name == "score" else visible(text)


def _sentence_text(row: Mapping[str, str], width: int, weighed: Sequence[str]) -> str:
    head = f"  {visible(row['ticker']):<6} {row['risk']:<12}{row['severity']:>2}  "
    head += "".join(f"{row[name]:>4}  " for name in weighed)
    origin = ", ".join(part for part in (row["source"], row["date"]) if part != "–")
    quote = visible(_shortened(row["quote"], 600)) + (f"  [{visible(origin)}]" if origin else "")
    return textwrap.fill(quote, max(60, width), initial_indent=head, subsequent_indent=" " * len(head))
