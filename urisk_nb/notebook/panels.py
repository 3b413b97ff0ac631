"""
The dashboard as HTML: its head, alerts, in-flight calls, figures, and the whole of it as a picture.

Pure: a snapshot of the session in, markup out; everything that comes from outside is escaped. The
same markup stands in the live dashboard, a part in each widget, and in its picture. The picture is
for a closed dashboard, for a kernel that has ended, and for committed notebooks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from urisk_nb.llm.calls import CANCELLED, OK, CallRecord, percentile
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.messages import LoadedModel
from urisk_nb.llm.resilience import BreakerState
from urisk_nb.llm.snapshot import NOT_STARTED, STARTING, SessionSnapshot
from urisk_nb.notebook import svg
from urisk_nb.notebook.alerts import Alert, cache_hits, find_alerts
from urisk_nb.notebook.latencies import COLOURS
from urisk_nb.render.escaping import escape_html, visible
from urisk_nb.render.markup import PLAIN, STYLE, html_block, html_table
from urisk_nb.render.text_layout import format_bytes, format_count, format_seconds, format_span
from urisk_nb.server.memory_usage import MemoryUsage
from urisk_nb.server.model_server import ServerState

__all__ = [
    "health",
    "list_facts",
    "name_server",
    "render_alerts",
    "render_figures",
    "render_head",
    "render_live_calls",
    "render_snapshot",
    "render_snapshot_text",
]

MAX_LIVE = 6
MAX_ROWS = 10  # calls in a picture
NEVER_S = 50 * 365 * 86400.0  # keep_alive -1 shows as a date centuries ahead
LAMPS = {"good": "#1b7f3b", "busy": "#b45309", "bad": "#d03030", "off": "#767676"}
DOWN = {
    ServerState.CRASHED: "Down, restarting",
    ServerState.FAILED: "Down",
    ServerState.HUNG: "Does not answer",
    ServerState.PORT_CONFLICT: "Port taken",
}
OFF = (ServerState.STOPPED, ServerState.STOPPING, ServerState.UNKNOWN)
_LAMP = '<span class="lamp" aria-hidden="true" style="background:{}"></span>'


def render_head(now: SessionSnapshot) -> str:
    """
    Return whether it is well, which server it is and what it holds, and the models in its memory.
    """
    lamp, word = health(now)
    line = escape_html(name_server(now))
    top = f"<div>{_LAMP.format(LAMPS[lamp])}<strong>{word}</strong> · {line}</div>"
    if not now.server_label:
        return html_block(top)
    named = "".join(
        f"<div><dt>{name}</dt><dd>{escape_html(value)}</dd></div>"
        for name, value in list_facts(now).items()
    )
    parts = f'<dl class="facts">{named}</dl>{_render_servers(now)}{_render_models(now)}'
    return html_block(f"{top}{parts}")


def name_server(now: SessionSnapshot) -> str:
    """Return which server it is, or that there is none yet."""
    absent = STARTING if now.state is ServerState.STARTING else NOT_STARTED
    return now.server_label or absent


def health(now: SessionSnapshot) -> tuple[str, str]:
    """Which lamp, and the word beside it: colour alone says nothing to some."""
    if now.state is ServerState.STARTING:
        return "busy", "Starting"
    if not now.server_label or now.state in OFF:
        return "off", "Not started"
    if now.state in DOWN:
        return "bad", DOWN[now.state]
    if now.probe.problem:
        return "bad", "Does not answer"
    if now.breaker is not BreakerState.CLOSED:
        return (
            ("bad", "Circuit open")
            if now.breaker is BreakerState.OPEN
            else ("busy", "Circuit half-open")
        )
    return ("good", "Ready") if now.is_loaded is not False else ("busy", "Ready, model not loaded")


def list_facts(now: SessionSnapshot) -> Mapping[str, str]:
    """Return what is known of the server and the model, each by the words that it is shown with."""
    slots = format_count(now.slots, "slot") if now.slots else f"at most {now.parallel}"
    return {
        "model": now.model,
        "in flight": f"{now.in_flight} ({slots})",
        "queued locally": str(now.waiting),
        **({} if now.probe.memory is None else _list_memory(now.probe.memory, now.at)),
        **({"account": now.probe.owner} if now.probe.owner and not now.is_managed else {}),
        "restarts": str(now.restart_count),
        "circuit": now.breaker.replace("_", "-"),
    }


def _list_memory(memory: MemoryUsage, at: datetime) -> Mapping[str, str]:
    used = format_bytes(memory.server_bytes)
    if memory.runners:
        runners = format_count(memory.runners, "runner")
        used += f" + {format_bytes(memory.runner_bytes)} in {runners}"
    up_s = (at - memory.started_at).total_seconds()
    return {"up": format_span(up_s), "process": str(memory.pid), "memory": used}


def _render_servers(now: SessionSnapshot) -> str:
    """Return a line for each of several servers; why one is left out is an alert."""
    if not now.servers:
        return ""
    rows = [
        [
            escape_html(one.url),
            escape_html(one.label),
            one.state,
            "–" if one.why_out else f"{one.in_flight} of {one.limit}",
            one.breaker.replace("_", "-"),
        ]
        for one in now.servers
    ]
    return html_table(["server", "kind", "state", "in flight", "circuit"], rows, "servers", 3)


def _render_models(now: SessionSnapshot) -> str:
    if Feature.LOADED_MODELS not in now.features:
        return '<div class="muted">This server does not list the models in its memory.</div>'
    if now.probe.loaded_models is None:
        return ""
    if not now.probe.loaded_models:
        return '<div class="muted">No model in memory: the next call loads one.</div>'
    return html_table(
        ["model in memory", "where", "size", "context", "unloaded"],
        [_render_model(model, now.at) for model in now.probe.loaded_models],
        "models in memory",
        2,
    )


def _render_model(model: LoadedModel, at: datetime) -> list[str]:
    share = model.gpu_bytes / model.size_bytes if model.size_bytes else 0.0
    where = "CPU" if not share else "GPU" if share >= 1 else f"GPU {share:.0%}, CPU {1 - share:.0%}"
    return [
        escape_html(model.name),
        where,
        format_bytes(model.size_bytes),
        f"{model.num_ctx:,} tokens" if model.num_ctx else "–",
        _format_expiry(model.expires_at, at),
    ]


def _format_expiry(expires_at: str, at: datetime) -> str:
    try:
        end = datetime.fromisoformat(expires_at)
    except ValueError:
        return "–"
    left_s = (end.replace(tzinfo=end.tzinfo or UTC) - at).total_seconds()
    return "never" if left_s > NEVER_S else "now" if left_s < 0 else f"in {format_span(left_s)}"


def render_alerts(found: Sequence[Alert]) -> str:
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
    return html_block(
        f'<div role="status" '
        f'aria-live="polite">{items(("error", "warning"))}</div>{items(("note",))}'
    )


# In-flight calls ----------------------------------------------------------------------------------


def render_live_calls(now: SessionSnapshot) -> str:
    """Return the in-flight calls: how far each is, and how long ago it was asked."""
    if not now.live:
        return ""
    shown = sorted(now.live, key=lambda record: (record.started_s is None, record.number))[
        :MAX_LIVE
    ]
    whole_s = max(record.elapsed_s(now.now_s) for record in shown)
    rows = [_render_live_row(record, now.now_s, whole_s) for record in shown]
    more = (
        f'<div class="muted">and {len(now.live) - len(shown)} more</div>'
        if len(now.live) > len(shown)
        else ""
    )
    return html_block(
        html_table(
            ["call", "now", "phases so far", "seconds", "pieces"], rows, "in-flight calls", 3
        )
        + more
    )


def _render_live_row(record: CallRecord, now_s: float, whole_s: float) -> list[str]:
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
    attempt = f", attempt {len(record.failures) + 1}" if record.failures else ""
    place = f" at {record.server}" if record.server else ""
    return [
        f"{record.number} · {escape_html(record.model + place)}",
        escape_html(words + attempt),
        svg.draw_bar(parts, whole_s),
        f"{record.elapsed_s(now_s):.1f}",
        str(len(record.texts)),
    ]


# Figures ------------------------------------------------------------------------------------------


def render_figures(now: SessionSnapshot) -> str:
    """Return the strip of the last calls, its legend, percentiles, failures by kind, cache hits."""
    if not now.records:
        return html_block(
            '<div class="muted">No calls yet. Each call shows here as a column whose height is '
            "its duration.</div>"
        )
    known = [
        record.timing
        for record in now.records
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
            ("queued locally", "wait_s", format_seconds, (50, 95, 99)),
            ("first token, once sent", "first_token_s", format_seconds, (50, 95, 99)),
            ("whole call", "elapsed_s", format_seconds, (50, 95, 99)),
            # The slow end is the low one
            ("tokens a second, at least", "tokens_per_s", _format_rate, (50, 5, 1)),
        )
    ]
    table = html_table(
        [
            f"{format_count(len(known), 'call')} that succeeded",
            "p50",
            "p95",
            "p99",
        ],
        rows,
        "latency percentiles",
        1,
    )
    return html_block(
        f"{svg.draw_strip(now.records)}<div "
        f'class="muted">{svg.draw_legend()}</div>{table}<div>{_count_outcomes(now.records)}</div>'
    )


def _format_rate(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _count_outcomes(records: Sequence[CallRecord]) -> str:
    """Failures by kind, and how much the prefix cache saved."""
    kinds = Counter(record.outcome for record in records if record.outcome not in (OK, CANCELLED))
    parts = [
        "failed: "
        + (
            ", ".join(f"{escape_html(kind)} {count}" for kind, count in kinds.most_common())
            or "none"
        )
    ]
    if cancelled := sum(record.outcome == CANCELLED for record in records):
        parts.append(f"cancelled: {cancelled}")
    hits, known = cache_hits(records)
    if known:
        parts.append(
            '<span title="estimated from the time that a token of the prompt took: servers report '
            f'no counter">prompt cache (estimate): {hits} of {known} calls hit</span>'
        )
    return " · ".join(parts)


# The picture --------------------------------------------------------------------------------------


def render_snapshot(now: SessionSnapshot) -> str:
    """
    Return the whole dashboard as it is now, without widgets: for a closed dashboard, for a kernel
    that has ended, for committed notebooks.
    """
    rows = [
        [
            str(record.number),
            escape_html(record.model),
            escape_html(record.outcome),
            *_render_times(record),
        ]
        for record in reversed(now.records[-MAX_ROWS:])
    ]
    calls = (
        html_table(
            ["call", "model", "ended", "first token", "whole", "tokens"], rows, "last calls", 3
        )
        if rows
        else ""
    )
    at = f"{now.at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
    body = (
        render_head(now)
        + render_alerts(find_alerts(now))
        + render_live_calls(now)
        + render_figures(now)
        + calls
        + f'<div class="muted">urisk_nb dashboard, as it was at {at}. Live: %urisk_dashboard</div>'
    )
    label = 'role="group" aria-label="urisk_nb dashboard"'
    return f'{STYLE}<div class="urisk {PLAIN}" {label}>{body}</div>'


def _render_times(record: CallRecord) -> list[str]:
    timing = record.timing
    return (
        ["–"] * 3
        if timing is None
        else [
            format_seconds(timing.first_token_s),
            format_seconds(timing.elapsed_s),
            str(timing.tokens or "–"),
        ]
    )


def render_snapshot_text(now: SessionSnapshot) -> str:
    """Return the same in a few lines of plain text."""
    lines = [f"{health(now)[1]}: {visible(name_server(now))}"]
    if now.server_label:
        lines += [f"  {name}: {visible(value)}" for name, value in list_facts(now).items()]
        lines += [f"  {visible(str(one))}" for one in now.servers]
    lines += [
        f"  {alert.level}: {visible(alert.text)} {visible(alert.action)}".rstrip()
        for alert in find_alerts(now)
    ]
    return "\n".join(lines)
