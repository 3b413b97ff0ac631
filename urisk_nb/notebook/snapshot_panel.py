"""
The whole dashboard at one moment, without widgets, as HTML and as text.

For a closed dashboard, for a kernel that has ended, for committed notebooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from urisk_nb.llm.snapshot import NOT_STARTED, STARTING
from urisk_nb.notebook.alerts import find_alerts
from urisk_nb.notebook.panel_parts import STYLE, format_seconds, html_table
from urisk_nb.notebook.panels import (
    health,
    list_facts,
    render_alerts,
    render_figures,
    render_head,
    render_live_calls,
)
from urisk_nb.render.escaping import escape_html, visible
from urisk_nb.render.markup import PLAIN
from urisk_nb.server.model_server import ServerState

if TYPE_CHECKING:
    from urisk_nb.llm.calls import CallRecord
    from urisk_nb.llm.snapshot import SessionSnapshot

__all__ = ["render_snapshot", "render_snapshot_text"]

MAX_ROWS = 10


def render_snapshot(now: SessionSnapshot) -> str:
    """
    The whole as it is now, without widgets: for a closed dashboard, for a kernel that has ended,
    for committed notebooks.
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
    words = f"urisk_nb dashboard, as it was at {at}. Live: %urisk_dashboard"
    when = f'<div class="muted">{words}</div>'
    body = (
        render_head(now)
        + render_alerts(find_alerts(now))
        + render_live_calls(now)
        + render_figures(now)
        + calls
        + when
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
    """The same in a few lines of plain text."""
    lamp_word = health(now)[1]
    absent = STARTING if now.state is ServerState.STARTING else NOT_STARTED
    lines = [f"{lamp_word}: {visible(now.server_label or absent)}"]
    lines += (
        [f"  {name}: {visible(value)}" for name, value in list_facts(now).items()]
        if now.server_label
        else []
    )
    lines += [
        f"  {alert.level}: {visible(alert.text)} {visible(alert.action)}".rstrip()
        for alert in find_alerts(now)
    ]
    return "\n".join(lines)
