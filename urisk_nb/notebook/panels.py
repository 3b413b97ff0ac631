"""The parts of the dashboard as HTML. Pure: facts in, markup out; everything that comes from
outside is escaped.

The same markup stands in the live dashboard, a part in each widget, and in its static snapshot, one
below the other.
Over 400 lines: to be split along its headings.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from urisk_nb.llm.calls import CANCELLED, OK
from urisk_nb.llm.latency import percentile
from urisk_nb.llm.snapshot import NOT_STARTED, STARTING
from urisk_nb.notebook import svg
from urisk_nb.notebook.alerts import Alert, alerts, cache_hits, request_of
from urisk_nb.notebook.latency_table import COLOURS, NAMES, PHASES
from urisk_nb.render.present import escape_html, visible

if TYPE_CHECKING:
    from urisk_nb.llm.calls import CallRecord
    from urisk_nb.llm.messages import LoadedModel
    from urisk_nb.llm.snapshot import SessionSnapshot

__all__ = [
    "STYLE",
    "alert_list",
    "call_line",
    "detail",
    "figures",
    "head",
    "live",
    "snapshot",
    "snapshot_text",
]

MIN_SECONDS = 0.005
MAX_LIVE = 6
MAX_ROWS = 10
NEVER_S = 50 * 365 * 86400.0  # keep_alive -1 shows as a date centuries ahead
LAMPS = {"good": "#1b7f3b", "busy": "#b45309", "bad": "#d03030", "off": "#767676"}
# The class is named twice in order to be heard before the page's own rules for tables and lists.
# The rules on what is disconnected: a kernel that is started again can say nothing more, since the
# browser hears no old kernel. A frozen place then tells so by itself, and offers no button that
# would do nothing.
STYLE = """<style>
.urisk.urisk{font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.45;color:var(--jp-ui-font-color1,inherit);
max-width:960px}
.urisk.urisk .muted{color:var(--jp-ui-font-color2,#616161)}
.urisk.urisk .lamp{display:inline-block;width:.85em;height:.85em;border-radius:50%;margin-right:.5em;vertical-align:-.05em}
.urisk.urisk .facts{display:flex;flex-wrap:wrap;gap:.3em 1.8em;margin:.5em 0 .2em}
.urisk.urisk .facts div{white-space:nowrap}
.urisk.urisk .facts dt,.urisk.urisk .facts dd{display:block;float:none;width:auto;margin:0;padding:0;font-weight:normal}
.urisk.urisk .facts dt{color:var(--jp-ui-font-color2,#616161);font-size:12px}
.urisk.urisk table{border-collapse:collapse;margin:.4em 0;font-size:13px;background:none}
.urisk.urisk table tr{background:none}
.urisk.urisk table th,.urisk.urisk table td{text-align:left;padding:.2em 1.4em .2em 0;border:0;
border-bottom:1px solid var(--jp-border-color2,#d0d0d0);background:none;font-weight:normal;vertical-align:top}
.urisk.urisk table thead th,.urisk.urisk table tbody th{color:var(--jp-ui-font-color2,#616161)}
.urisk.urisk table .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.urisk.urisk .alert{border-left:.3em solid #b45309;background:rgba(180,83,9,.12);padding:.25em .7em;margin:.3em 0}
.urisk.urisk .alert.error{border-color:#c22020;background:rgba(194,32,32,.12)}
.urisk.urisk .alert.note{border-color:#5b7aa6;background:rgba(91,122,166,.12)}
.urisk.urisk pre{white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow:auto;margin:.3em 0;padding:.5em;
background:var(--jp-layout-color2,rgba(127,127,127,.12));color:inherit;font-size:12px}
.urisk.urisk summary{cursor:pointer}
.urisk-calls .widget-label{position:absolute;clip-path:inset(50%)}
.urisk-calls select{font-family:var(--jp-code-font-family,monospace);font-size:12px}
.urisk.urisk h4{margin:.7em 0 .2em;font-size:13px;font-weight:600}
.urisk-dashboard .js-plotly-plot text{fill:var(--jp-ui-font-color1,currentColor)!important}
.urisk-dashboard .jupyter-widgets-disconnected::before{content:none}
.urisk-dashboard.jupyter-widgets-disconnected::before{
content:"The kernel ended or restarted. This is the last state; run the cell again for a live view.";
font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);color:var(--jp-ui-font-color1,inherit);padding:.25em .7em;
border-left:.3em solid #b45309;background:rgba(180,83,9,.12);margin:.3em 0}
.urisk-dashboard.jupyter-widgets-disconnected .lamp{background:#767676!important}
.urisk-dashboard.jupyter-widgets-disconnected :is(button,.widget-inline-hbox:not(.widget-html)){display:none}
</style>"""


def _block(body: str) -> str:
    return f'<div class="urisk">{body}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str, numbers: int) -> str:
    """Cells are markup already; the columns from `numbers` on are figures."""
    kinds = ["" if column < numbers else ' class="n"' for column in range(len(head))]
    top = "".join(
        f'<th scope="col"{kind}>{name}</th>' for name, kind in zip(head, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            _cell(cell, kind, first=not place)
            for place, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    return f'<table aria-label="{label}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _cell(content: str, kind: str, *, first: bool) -> str:
    return f'<th scope="row"{kind}>{content}</th>' if first else f"<td{kind}>{content}</td>"


# Words for figures --------------------------------------------------------------------------------


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "–"
    return (
        f"{1000 * value:.0f} ms"
        if value < 1
        else f"{value:.2f} s"
        if value < 100
        else f"{value:.0f} s"
    )


def _bytes(value: float) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def _span(seconds: float) -> str:
    """A length of time, coarse: it is to be read, and must not change with every look."""
    if seconds < 90:
        return "less than a minute" if seconds < 55 else "1 min"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} days"
    )


# Head ---------------------------------------------------------------------------------------------


def head(facts: SessionSnapshot) -> str:
    """Whether it is well, which server it is and what it holds, and the models in its memory."""
    lamp, word = _health(facts)
    line = escape_html(facts.server or (STARTING if facts.state == "starting" else NOT_STARTED))
    top = f'<div><span class="lamp" aria-hidden="true" style="background:{LAMPS[lamp]}"></span><strong>{word}</strong> · {line}</div>'
    if not facts.server:
        return _block(top)
    named = "".join(
        f"<div><dt>{name}</dt><dd>{escape_html(value)}</dd></div>"
        for name, value in _named(facts).items()
    )
    return _block(f'{top}<dl class="facts">{named}</dl>{_models(facts)}')


def _health(facts: SessionSnapshot) -> tuple[str, str]:
    """Which lamp, and the word beside it: colour alone says nothing to some."""
    if facts.state == "starting":
        return "busy", "Starting"
    if not facts.server or facts.state in ("stopped", "stopping", "unknown"):
        return "off", "Not started"
    if facts.state in ("crashed", "failed", "hung", "port_conflict"):
        return "bad", {
            "crashed": "Down, restarting",
            "failed": "Down",
            "hung": "Does not answer",
            "port_conflict": "Port taken",
        }[facts.state]
    if facts.probe.problem:
        return "bad", "Does not answer"
    if facts.breaker != "closed":
        return ("bad", "Circuit open") if facts.breaker == "open" else ("busy", "Circuit half-open")
    return (
        ("good", "Ready") if facts.is_loaded is not False else ("busy", "Ready, model not loaded")
    )


def _named(facts: SessionSnapshot) -> Mapping[str, str]:
    slots = (
        f"{facts.slots} {'slot' if facts.slots == 1 else 'slots'}"
        if facts.slots
        else f"at most {facts.parallel}"
    )
    rows = {
        "model": facts.model,
        "in flight": f"{facts.in_flight} ({slots})",
        "queued locally": str(facts.waiting),
    }
    if (memory := facts.probe.memory) is not None:
        rows["up"] = _span((facts.at - memory.started_at).total_seconds())
        rows["process"] = str(memory.pid)
        runners = (
            f" + {_bytes(memory.runner_bytes)} in {memory.runners} "
            f"runner{'s' * (memory.runners > 1)}"
            if memory.runners
            else ""
        )
        rows["memory"] = f"{_bytes(memory.server_bytes)}{runners}"
    if facts.probe.owner and not facts.is_ours:
        rows["account"] = facts.probe.owner
    return rows | {"restarts": str(facts.restart_count), "circuit": facts.breaker.replace("_", "-")}


def _models(facts: SessionSnapshot) -> str:
    if facts.probe.loaded_models is None:
        return ""
    if not facts.probe.loaded_models:
        return '<div class="muted">No model in memory: the next call loads one.</div>'
    rows = [_model(resident, facts.at) for resident in facts.probe.loaded_models]
    return _table(
        ["model in memory", "where", "size", "context", "unloaded"], rows, "models in memory", 2
    )


def _model(resident: LoadedModel, at: datetime) -> list[str]:
    share = resident.gpu_bytes / resident.size_bytes if resident.size_bytes else 0.0
    where = "CPU" if not share else "GPU" if share >= 1 else f"GPU {share:.0%}, CPU {1 - share:.0%}"
    context = f"{resident.num_ctx:,} tokens" if resident.num_ctx else "–"
    return [
        escape_html(resident.name),
        where,
        _bytes(resident.size_bytes),
        context,
        _until(resident.expires_at, at),
    ]


def _until(expires_at: str, at: datetime) -> str:
    try:
        end = datetime.fromisoformat(expires_at)
    except ValueError:
        return "–"
    left_s = (end.replace(tzinfo=end.tzinfo or UTC) - at).total_seconds()
    return "never" if left_s > NEVER_S else "now" if left_s < 0 else f"in {_span(left_s)}"


def alert_list(found: Sequence[Alert]) -> str:
    """Alerts, each with what to do; read out by screen readers as they change."""

    def items(levels: tuple[str, ...]) -> str:
        return "".join(
            f'<div class="alert {alert.level}">{escape_html(alert.text)}'
            + f" <b>{escape_html(alert.action)}</b>" * bool(alert.action)
            + "</div>"
            for alert in found
            if alert.level in levels
        )

    if not found:
        return ""
    # Notes count calls and change all the time: they are there to be read, not to be read out.
    return _block(
        f'<div role="status" '
        f'aria-live="polite">{items(("error", "warning"))}</div>{items(("note",))}'
    )


# In-flight calls ----------------------------------------------------------------------------------


def live(facts: SessionSnapshot) -> str:
    """The in-flight calls: how far each is, and how long ago it was asked."""
    if not facts.live:
        return ""
    shown = sorted(facts.live, key=lambda record: (record.started_s is None, record.number))[
        :MAX_LIVE
    ]
    whole_s = max(record.elapsed_s(facts.now_s) for record in shown)
    rows = [_live_row(record, facts.now_s, whole_s) for record in shown]
    more = (
        f'<div class="muted">and {len(facts.live) - len(shown)} more</div>'
        if len(facts.live) > len(shown)
        else ""
    )
    return _block(
        _table(["call", "now", "phases so far", "seconds", "pieces"], rows, "in-flight calls", 3)
        + more
    )


def _live_row(record: CallRecord, now_s: float, whole_s: float) -> list[str]:
    sent_s = record.first_sent_s if record.first_sent_s is not None else now_s
    first_s = record.first_s if record.first_s is not None else now_s
    parts = {
        COLOURS["wait_s"]: max(0.0, sent_s - record.asked_s),
        COLOURS["prompt_s"]: max(0.0, first_s - sent_s),
        COLOURS["generation_s"]: max(0.0, now_s - first_s),
    }
    words = {"asked": "queue, load, prompt", "answering": "generating"}.get(
        record.phase, record.phase
    )
    tries = f", attempt {len(record.failures) + 1}" if record.failures else ""
    return [
        f"{record.number} · {escape_html(record.model)}",
        escape_html(words + tries),
        svg.bar(parts, whole_s),
        f"{record.elapsed_s(now_s):.1f}",
        str(len(record.texts)),
    ]


# Figures ------------------------------------------------------------------------------------------


def figures(facts: SessionSnapshot) -> str:
    """The strip of the last calls, its legend, percentiles, failures by kind, cache hits."""
    if not facts.records:
        return _block(
            '<div class="muted">No calls yet. Each call shows here as a column whose height is '
            "its duration.</div>"
        )
    known = [
        record.timing
        for record in facts.records
        if record.outcome == OK and record.timing is not None
    ]
    rows = [
        [
            name,
            *(
                form(percentile((getattr(timing, field) for timing in known), share))
                for share in shares
            ),
        ]
        for name, field, form, shares in (
            ("queued locally", "wait_s", _seconds, (50, 95, 99)),
            ("first token, once sent", "first_token_s", _seconds, (50, 95, 99)),
            ("whole call", "elapsed_s", _seconds, (50, 95, 99)),
            # The slow end is the low one
            ("tokens a second, at least", "tokens_per_s", _rate, (50, 5, 1)),
        )
    ]
    table = _table(
        [
            f"{len(known)} {'call' if len(known) == 1 else 'calls'} that succeeded",
            "p50",
            "p95",
            "p99",
        ],
        rows,
        "latency percentiles",
        1,
    )
    return _block(
        f"{svg.strip(facts.records)}<div "
        f'class="muted">{svg.legend()}</div>{table}<div>{_counts(facts.records)}</div>'
    )


def _rate(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _counts(records: Sequence[CallRecord]) -> str:
    """Failures by kind, and how much the prefix cache saved."""
    kinds = Counter(record.outcome for record in records if record.outcome not in (OK, CANCELLED))
    parts = [
        "failed: "
        + (
            ", ".join(f"{escape_html(kind)} {count}" for kind, count in kinds.most_common())
            or "none"
        )
    ]
    if given_up := sum(record.outcome == CANCELLED for record in records):
        parts.append(f"cancelled: {given_up}")
    hits, told = cache_hits(records)
    if told:
        how = "estimated from the time that a token of the prompt took: servers report no counter"
        parts.append(
            f'<span title="{how}">prompt cache (estimate): {hits} of {told} calls hit</span>'
        )
    return " · ".join(parts)


# One call -----------------------------------------------------------------------------------------


def call_line(record: CallRecord) -> str:
    """One line of the list to choose from; plain text."""
    timing = record.timing
    took = "" if timing is None else f"{timing.elapsed_s:7.2f} s"
    said = (
        f"{timing.tokens} tokens" if timing is not None and record.outcome == OK else record.outcome
    )
    return f"{record.number:>5}  {record.asked_at.astimezone():%H:%M:%S}  {took:>9}  {said:<14} {visible(record.model)}"


def detail(record: CallRecord, records: Sequence[CallRecord]) -> str:
    """
    One call: its phases, beside those of the median call, its attempts, its options, its prompt and
    its answer.
    """
    timing = record.timing
    parts = [
        f"<h4>Call {record.number}: {escape_html(record.outcome)}</h4>",
        f'<div class="muted">{escape_html(record.model)}, asked at '
        f"{record.asked_at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
        + (
            f", {timing.prompt_tokens} tokens of prompt, {timing.tokens} of answer"
            if timing is not None and record.outcome == OK
            else ""
        )
        + "</div>",
        _message(record),
        svg.waterfall(_steps(record), f"phases of call {record.number}"),
        _compared(record, records),
        _failures(record),
        _request(record),
    ]
    return _block("".join(parts))


def _message(record: CallRecord) -> str:
    return f'<div class="alert error">{escape_html(record.message)}</div>' if record.message else ""


def _steps(record: CallRecord) -> list[tuple[str, float, str]]:
    """What the call's time went on, in order."""
    timing = record.timing
    if timing is None:
        return []
    steps = [(NAMES["wait_s"], timing.wait_s, COLOURS["wait_s"])]
    if record.failures:
        steps.append((NAMES["retry_s"], timing.retry_s, COLOURS["retry_s"]))
    if math.isnan(timing.server_total_s):
        if not math.isnan(timing.first_token_s):
            steps.append(("to the first token", timing.first_token_s, COLOURS["prompt_s"]))
            steps.append(
                (
                    "from then to the end",
                    timing.total_s - timing.first_token_s,
                    COLOURS["generation_s"],
                )
            )
        elif not math.isnan(timing.total_s):
            steps.append(("no answer", timing.total_s, svg.FAILED))
        return steps
    steps += [(NAMES[phase], getattr(timing, phase), COLOURS[phase]) for phase in PHASES[2:]]
    return [
        *steps,
        ("wire, and reading here", max(0.0, timing.total_s - timing.server_total_s), "#8c8c8c"),
    ]


def _compared(record: CallRecord, records: Sequence[CallRecord]) -> str:
    """Each figure beside the median of the calls of the same model that ended well."""
    alike = [
        other.timing
        for other in records
        if other.outcome == OK and other.model == record.model and other.timing is not None
    ]
    if record.timing is None or record.outcome != OK or len(alike) < 2:
        return ""
    rows = []
    for field, name in {
        **NAMES,
        "first_token_s": "first token, once sent",
        "elapsed_s": "whole call",
    }.items():
        own, median = (
            getattr(record.timing, field),
            percentile((getattr(timing, field) for timing in alike), 50),
        )
        # Milliseconds come and go: a multiple of next to nothing says nothing.
        times = f"{own / median:.1f} ×" if median > MIN_SECONDS and own > MIN_SECONDS else "–"
        rows.append([name, _seconds(own), _seconds(median), times])
    return _table(
        ["", "this call", f"median of {len(alike)}", "times"],
        rows,
        "this call beside the median",
        1,
    )


def _failures(record: CallRecord) -> str:
    if not record.failures:
        return ""
    rows = [
        [str(n), escape_html(f.error), escape_html(f.message), _seconds(f.took_s)]
        for n, f in enumerate(record.failures, 1)
    ]
    return "<h4>Failed attempts</h4>" + _table(
        ["attempt", "error", "what was seen", "took"], rows, "failed attempts", 3
    )


def _request(record: CallRecord) -> str:
    request = request_of(record)
    if not request:
        return _folded(
            "Request (its beginning; the rest was not kept)", record.body.decode("utf-8", "replace")
        )
    given, messages = request.get("options"), request.get("messages")
    options = ", ".join(
        f"{name} {_short(value)}"
        for name, value in (given.items() if isinstance(given, dict) else ())
    )
    others = ", ".join(
        f"{name} {_short(request[name])}"
        for name in ("keep_alive", "think", "truncate")
        if name in request
    )
    parts = [
        f"<h4>Request</h4><div>options: {escape_html(options) or '–'}; {escape_html(others)}</div>"
    ]
    if "format" in request:
        parts.append(
            _folded("Answer's schema", json.dumps(request["format"], indent=1, ensure_ascii=False))
        )
    parts += [
        _folded(f"Prompt: {_role(message)}", _content(message))
        for message in (messages if isinstance(messages, list) else ())
    ]
    return "".join(parts) + _folded(
        "Answer" if record.outcome == OK else "Answer, as far as it came", record.answer
    )


def _role(message: Any) -> str:
    return str(message.get("role", "")) if isinstance(message, dict) else ""


def _content(message: Any) -> str:
    return str(message.get("content", "")) if isinstance(message, dict) else str(message)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{escape_html(title)} ({len(text):,} characters)</summary><pre>{escape_html(text)}</pre></details>"


# Snapshot -----------------------------------------------------------------------------------------


def snapshot(facts: SessionSnapshot) -> str:
    """
    The whole as it is now, without widgets: for a closed dashboard, for a kernel that has ended,
    for committed notebooks.
    """
    rows = [
        [str(record.number), escape_html(record.model), escape_html(record.outcome), *_row(record)]
        for record in reversed(facts.records[-MAX_ROWS:])
    ]
    calls = (
        _table(["call", "model", "ended", "first token", "whole", "tokens"], rows, "last calls", 3)
        if rows
        else ""
    )
    when = f'<div class="muted">urisk_nb dashboard, as it was at {facts.at.astimezone():%Y-%m-%d %H:%M:%S %Z}. Live: %urisk_dashboard</div>'
    body = head(facts) + alert_list(alerts(facts)) + live(facts) + figures(facts) + calls + when
    return f'{STYLE}<div class="urisk" role="group" aria-label="urisk_nb dashboard">{body}</div>'


def _row(record: CallRecord) -> list[str]:
    timing = record.timing
    return (
        ["–"] * 3
        if timing is None
        else [_seconds(timing.first_token_s), _seconds(timing.elapsed_s), str(timing.tokens or "–")]
    )


def snapshot_text(facts: SessionSnapshot) -> str:
    """The same in a few lines of plain text."""
    lamp_word = _health(facts)[1]
    lines = [
        (
            f"{lamp_word}: "
            f"{visible(facts.server or (STARTING if facts.state == 'starting' else NOT_STARTED))}"
        )
    ]
    lines += (
        [f"  {name}: {visible(value)}" for name, value in _named(facts).items()]
        if facts.server
        else []
    )
    lines += [
        f"  {alert.level}: {visible(alert.text)} {visible(alert.action)}".rstrip()
        for alert in alerts(facts)
    ]
    return "\n".join(lines)
