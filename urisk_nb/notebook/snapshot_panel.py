"""
The whole dashboard at one moment, without widgets, as HTML and as text.

For a closed dashboard, for a kernel that has ended, for committed notebooks.
"""

from __future__ import annotations

from urisk_nb.llm.calls import CallRecord
from urisk_nb.llm.snapshot import SessionSnapshot
from urisk_nb.notebook.alerts import find_alerts
from urisk_nb.notebook.panel_parts import STYLE, format_seconds, html_table
from urisk_nb.notebook.panels import (
    health,
    list_facts,
    name_server,
    render_alerts,
    render_figures,
    render_head,
    render_live_calls,
)
from urisk_nb.render.escaping import escape_html, visible
from urisk_nb.render.markup import PLAIN

__all__ = ["render_snapshot", "render_snapshot_text"]

MAX_ROWS = 10


def render_snapshot(now: SessionSnapshot) -> str:
    """
    Return the whole dashboard as it is now, without widgets: for a closed dashboard, for a kernel
    that has ended, for committed notebooks.
    """
    rows = [
        [str(record.number), escape_html(record.model), escape_html(record.outcome), *_row(record)]
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


def _row(record: CallRecord) -> list[str]:
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
    lines += [
        f"  {alert.level}: {visible(alert.text)} {visible(alert.action)}".rstrip()
        for alert in find_alerts(now)
    ]
    return "\n".join(lines)
