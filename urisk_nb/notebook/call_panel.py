"""
One call as HTML: its phases, beside those of the median call, its attempts, request and answer.

Pure: records in, markup out; everything that comes from outside is escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from urisk_nb.llm.calls import OK, CallRecord, percentile
from urisk_nb.notebook import svg
from urisk_nb.notebook.alerts import request_of
from urisk_nb.notebook.latencies import COLOURS, NAMES, PHASES
from urisk_nb.render.escaping import escape_html, visible
from urisk_nb.render.markup import html_block, html_table
from urisk_nb.render.text_layout import cut, format_count, format_seconds

__all__ = ["format_call", "render_call"]

MIN_SECONDS = 0.005  # a multiple of less says nothing
MAX_VALUE_CHARS = 80  # of an option's value


def format_call(record: CallRecord) -> str:
    """Return one line of the list to choose from; plain text."""
    timing = record.timing
    took = "" if timing is None else f"{timing.elapsed_s:7.2f} s"
    said = record.outcome
    if timing is not None and record.outcome == OK and timing.tokens:
        said = format_count(timing.tokens, "token")
    at = f"{record.asked_at.astimezone():%H:%M:%S}"
    return f"{record.number:>5}  {at}  {took:>9}  {said:<14} {visible(record.model)}"


def render_call(record: CallRecord, records: Sequence[CallRecord]) -> str:
    """
    Return one call: its phases, beside those of the median call, its attempts, its options, its
    prompt and its answer.
    """
    timing = record.timing
    parts = [
        f"<h4>Call {record.number}: {escape_html(record.outcome)}</h4>",
        f'<div class="muted">{escape_html(record.model)}{_name_server(record)}, asked at '
        f"{record.asked_at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
        + (
            f", {format_count(timing.prompt_tokens, 'token')} of prompt, {timing.tokens} of answer"
            if timing is not None and record.outcome == OK and timing.tokens
            else ""
        )
        + "</div>",
        f'<div class="alert error">{escape_html(record.message)}</div>' if record.message else "",
        svg.draw_waterfall(_list_steps(record), f"phases of call {record.number}"),
        _compare(record, records),
        _render_failures(record),
        _render_request(record),
    ]
    return html_block("".join(parts))


def _name_server(record: CallRecord) -> str:
    """Return which of several servers was asked last."""
    return f" at {escape_html(record.server)}" if record.server else ""


def _list_steps(record: CallRecord) -> list[tuple[str, float, str]]:
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
    wire_s = max(0.0, timing.total_s - timing.server_total_s)
    steps += [(NAMES[phase], getattr(timing, phase), COLOURS[phase]) for phase in PHASES[2:]]
    return [*steps, ("wire, and reading here", wire_s, "#8c8c8c")]


def _compare(record: CallRecord, records: Sequence[CallRecord]) -> str:
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
        own = getattr(record.timing, field)
        median = percentile((getattr(timing, field) for timing in alike), 50)
        # Milliseconds come and go: a multiple of next to nothing says nothing.
        times = f"{own / median:.1f} ×" if median > MIN_SECONDS and own > MIN_SECONDS else "–"
        rows.append([name, format_seconds(own), format_seconds(median), times])
    return html_table(
        ["", "this call", f"median of {len(alike)}", "times"],
        rows,
        "this call beside the median",
        1,
    )


def _render_failures(record: CallRecord) -> str:
    if not record.failures:
        return ""
    rows = [
        [str(n), escape_html(f.error), escape_html(f.message), format_seconds(f.took_s)]
        for n, f in enumerate(record.failures, 1)
    ]
    return "<h4>Failed attempts</h4>" + html_table(
        ["attempt", "error", "what was seen", "took"], rows, "failed attempts", 3
    )


def _render_request(record: CallRecord) -> str:
    request = request_of(record)
    if not request:
        return _fold(
            "Request (its beginning; the rest was not kept)", record.body.decode("utf-8", "replace")
        )
    options, messages = request.get("options"), request.get("messages")
    given = _list_values(options) if isinstance(options, dict) else ""
    names = ("keep_alive", "think", "truncate")
    others = _list_values({name: request[name] for name in names if name in request})
    parts = [
        f"<h4>Request</h4><div>options: {escape_html(given) or '–'}; {escape_html(others)}</div>"
    ]
    if "format" in request:
        parts.append(
            _fold("Answer's schema", json.dumps(request["format"], indent=1, ensure_ascii=False))
        )
    parts += map(_fold_message, messages if isinstance(messages, list) else ())
    return "".join(parts) + _fold(
        "Answer" if record.outcome == OK else "Answer, as far as it came", record.answer
    )


def _fold_message(message: Any) -> str:
    if not isinstance(message, dict):
        return _fold("Prompt: ", str(message))
    return _fold(f"Prompt: {message.get('role', '')}", str(message.get("content", "")))


def _list_values(values: Mapping[str, Any]) -> str:
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    return ", ".join(f"{name} {cut(text, MAX_VALUE_CHARS)}" for name, text in texts.items())


def _fold(title: str, text: str) -> str:
    summary = f"<summary>{escape_html(title)} ({len(text):,} characters)</summary>"
    return f"<details>{summary}<pre>{escape_html(text)}</pre></details>"
