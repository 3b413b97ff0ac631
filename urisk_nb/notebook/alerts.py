"""
Alerts of the dashboard: what was seen, why it matters, and what to do about it.

Pure: a snapshot of the session in, sentences out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from urisk_nb.llm.calls import OK, CallRecord, percentile
from urisk_nb.llm.messages import is_same_model
from urisk_nb.llm.resilience import BreakerState
from urisk_nb.llm.snapshot import SessionSnapshot
from urisk_nb.server.model_server import ServerState

__all__ = ["Alert", "cache_hits", "find_alerts", "request_of"]

RECENT = 20  # calls: what was seen before them is history
MIN_SECONDS = 0.2  # shorter than this a load, a wait or a reading anew is nobody's trouble
WAIT_S = 1.0  # calls that wait for less come and go faster than a sentence can be read
OUTLIER_FACTOR = 3.0  # times the median
# The share of a request that begins as the one before it did: what is new is too little to take
# long
ALIKE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What was seen, what to do, and how bad it is: `error`, `warning` or `note`."""

    text: str
    action: str = ""
    level: str = "warning"


# What each state of the server means for calls, and what happens next.
RESTARTING = {
    ServerState.CRASHED: (
        "The server ended unexpectedly and is being restarted.",
        "Calls wait for it.",
    ),
    ServerState.HUNG: (
        "The server accepts connections but does not answer.",
        "It is being restarted.",
    ),
}
BREAKER_ALERTS = {
    BreakerState.OPEN: Alert(
        text="The server failed several times in a row. The circuit is open: no call is sent "
        "for a while, then one call probes the server.",
        action="Wait, or restart it.",
        level="error",
    ),
    BreakerState.HALF_OPEN: Alert(
        text="The server failed several times in a row. The circuit is half-open: the next "
        "call probes the server."
    ),
}


def find_alerts(now: SessionSnapshot) -> list[Alert]:
    """Return the alerts of this moment, the worst first."""
    found = [
        *_find_trouble(now),
        *_find_absences(now),
        *_find_spill(now),
        *_find_queues(now),
        *_find_loads(now),
        *_find_cache_misses(now),
        *(Alert(text=text, level="note") for text in now.notes),
    ]
    return sorted(found, key=lambda alert: ("error", "warning", "note").index(alert.level))


# The server ---------------------------------------------------------------------------------------


def _find_trouble(now: SessionSnapshot) -> Iterator[Alert]:
    log = f"Its log: {now.log}" if now.log else ""
    text, action = now.failure or RESTARTING.get(now.state, (now.probe.problem, now.probe.fix))
    if text:
        seen_in = f" {log}" if log and now.state is ServerState.CRASHED else ""
        yield Alert(text=text, action=f"{action}{seen_in}", level="error")
    if now.breaker in BREAKER_ALERTS:
        yield BREAKER_ALERTS[now.breaker]
    if now.restart_count and now.state is ServerState.MANAGED:
        times = "once" if now.restart_count == 1 else f"{now.restart_count} times"
        yield Alert(
            text=f"The server ended unexpectedly {times} and was restarted.",
            action=log,
            level="note",
        )


def _find_absences(now: SessionSnapshot) -> Iterator[Alert]:
    """Of several servers, those that are left out; where all are, the session is in trouble."""
    away = [one for one in now.servers if one.why_out]
    if len(away) < len(now.servers):
        for one in away:
            yield Alert(
                text=f"{one.url} is left out, and the others answer: {one.why_out}",
                action="It is asked again by itself while the session is used.",
            )


def _find_spill(now: SessionSnapshot) -> Iterator[Alert]:
    for model in now.probe.loaded_models or ():
        on_cpu = 1 - model.gpu_bytes / model.size_bytes if model.size_bytes else 0.0
        if model.gpu_bytes > 0 and on_cpu >= 0.01:
            yield Alert(
                text=f"{model.name} does not fit in GPU memory: {on_cpu:.0%} of it is on the CPU, "
                "which is much slower.",
                action=f"Use a smaller model, or less context (now {model.num_ctx} tokens): "
                "%urisk_start --num-ctx 2048",
            )


def _find_queues(now: SessionSnapshot) -> Iterator[Alert]:
    if now.waiting and now.longest_wait_s > WAIT_S:
        calls = "1 call waits" if now.waiting == 1 else f"{now.waiting} calls wait"
        if now.slots > now.parallel:
            yield Alert(
                text=f"{calls} in the local queue: at most {now.parallel} may be in flight, "
                f"and the server has {now.slots} slots.",
                action=f"Send more at once: %urisk_start --parallel {now.slots}",
                level="note",
            )
            return
        slots = "1 slot" if now.slots == 1 else f"{now.slots} slots"
        twice = 2 * max(2, now.slots, now.parallel)
        known = f": the server has {slots}" if now.slots else ""
        restart = (
            "%urisk_stop" if now.is_managed else f"start Ollama with OLLAMA_NUM_PARALLEL={twice}"
        )
        yield Alert(
            text=f"{calls} behind {now.in_flight}{known}.",
            action="For more at once (each slot holds a context of its own): "
            f"{restart}, then %urisk_start --parallel {twice}",
            level="note",
        )
    queued = [
        record
        for record in _list_recent_answers(now)
        if record.timing.queue_s > max(MIN_SECONDS, 0.5 * record.timing.server_total_s)
    ]
    if queued and not now.waiting:
        last = queued[-1]
        if _overlaps(last, now):
            why = f"{now.parallel} may be in flight at once, and it has fewer slots."
            action = "Queue calls locally so that they can be cancelled: %urisk_start --parallel 1"
        else:
            why = "another program uses it, too."
            action = "Share it, or start your own: %urisk_start --url http://127.0.0.1:11500"
        yield Alert(
            text=f"Call {last.number} waited {last.timing.queue_s:.1f} s for a slot at the server: "
            + why,
            action=action,
            level="note",
        )


def _overlaps(record: Any, now: SessionSnapshot) -> bool:
    """Return whether another call of this session was at the server while this one waited."""
    return any(
        other is not record
        and other.sent_s is not None
        and other.sent_s < record.first_s
        and (other.ended_s or now.now_s) > record.sent_s
        for other in (*now.records, *now.live)
    )


# Single calls -------------------------------------------------------------------------------------


def _list_recent_answers(now: SessionSnapshot) -> list[Any]:
    return [record for record in now.records[-RECENT:] if record.outcome == OK]


def _find_loads(now: SessionSnapshot) -> Iterator[Alert]:
    """The last call that had to load its model, with the likeliest reason."""
    for record in reversed(_list_recent_answers(now)):
        usual_s = _median_s("load_s", (one for one in now.records if one is not record))
        # NaN where there is no other call: the model was warm at the start, so a load is unusual.
        is_usual = record.timing.load_s <= OUTLIER_FACTOR * usual_s
        if record.timing.load_s > MIN_SECONDS and not is_usual:
            why, action = _explain_load(record, now)
            yield Alert(
                text=f"Call {record.number} waited {record.timing.load_s:.1f} s for the model to "
                f"load: {why}.",
                action=action,
            )
            return


def _median_s(phase: str, records: Iterable[CallRecord]) -> float:
    """Return the median of this phase of the calls that have one; NaN where there is none."""
    return percentile((getattr(one.timing, phase) for one in records if one.timing is not None), 50)


def _explain_load(record: Any, now: SessionSnapshot) -> tuple[str, str]:
    since = max(
        (
            other.number
            for other in now.records
            if other.number < record.number and is_same_model(other.model, record.model)
        ),
        default=0,
    )
    if (seen := now.other_num_ctx) is not None and _find_end_s(since, now) <= seen[
        1
    ] <= record.sent_s:
        return (
            f"num_ctx changed from {seen[0]}, set by another program, to {now.num_ctx}",
            "Use one num_ctx in all programs that share the server: each change reloads the model.",
        )
    others = {other.model for other in now.records if since < other.number < record.number}
    if others:
        return (
            f"calls to {', '.join(sorted(others)[:3])} came in between and may have evicted it",
            "Use one model at a time, or give the server more memory.",
        )
    return (
        (
            "it was not in memory (unused for longer than keep_alive, unloaded, or evicted by "
            "another program)"
        ),
        "Keep it longer: %urisk_start --keep-alive 2h",
    )


def _find_cache_misses(now: SessionSnapshot) -> Iterator[Alert]:
    """
    The last call whose prompt begins as the one before it did, and was read from its beginning all
    the same.
    """
    known = {record.number: record for record in now.records}
    slow = [
        record
        for record in _list_recent_answers(now)
        if record.timing.load_s <= MIN_SECONDS < record.timing.prompt_s
    ]
    for record in reversed(slow):
        before = known.get(record.number - 1)
        if before is None or not _has_same_beginning(before, record):
            continue
        alike = (one for one in now.records if is_same_model(one.model, record.model))
        if record.timing.prompt_s > OUTLIER_FACTOR * (usual := _median_s("prompt_s", alike)):
            yield Alert(
                text=f"The prompt of call {record.number} missed the cache: reading it took "
                f"{record.timing.prompt_s:.2f} s; {usual:.2f} s is usual.",
                action="A slot caches one prompt: send prompts with the same beginning one after "
                "the other, or give the server more slots.",
                level="note",
            )
            return


def _has_same_beginning(before: CallRecord, record: CallRecord) -> bool:
    """
    Whether so much of both requests is the same that the server could have kept the beginning.
    """
    part = math.ceil(ALIKE * len(record.body))
    return record.body[:part] == before.body[:part]


def cache_hits(records: Sequence[CallRecord]) -> tuple[int, int]:
    """
    Of how many calls the server had most of the prompt in its prefix cache, and of how many that
    can be said: an estimate.

    No counter tells. A call counts as a hit where a token of its prompt took less than half of what
    it took in the slowest of the calls given, of the same model; calls with less than 100 tokens of
    prompt, where overhead counts, and single calls say nothing.
    """
    paces: dict[str, list[float]] = {}
    for record in records:
        if not math.isnan(pace := _pace(record)):
            paces.setdefault(record.model, []).append(pace)
    known = [(pace, max(found)) for found in paces.values() if len(found) > 1 for pace in found]
    return sum(pace < slowest / 2 for pace, slowest in known), len(known)


def _pace(record: CallRecord) -> float:
    """Seconds a token of the prompt; NaN for a call that says nothing about it."""
    timing = record.timing
    if record.outcome != OK or timing is None or timing.prompt_tokens < 100:
        return math.nan
    return timing.prompt_s / timing.prompt_tokens


def request_of(record: CallRecord) -> dict[str, Any]:
    """Return the request as an object; empty where only a part of it was kept."""
    try:
        content = json.loads(record.body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _find_end_s(number: int, now: SessionSnapshot) -> float:
    """Return when that call ended; 0, which is before everything, for a call that is not kept."""
    return next((record.ended_s or 0.0 for record in now.records if record.number == number), 0.0)
