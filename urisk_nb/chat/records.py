"""Answers of `%%ask` in the journal: written after each answer, given again where that is asked.

A disk may take longer than the rest of a short answer, so the prompt does not wait for it. A fault
of the journal never fails an answer. It is a note under it, or under the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from urisk_nb import event_loop, process_state
from urisk_nb.errors import JournalUnusable, UriskError
from urisk_nb.journal.place import find_path
from urisk_nb.journal.store import READ_BUSY_S, Store
from urisk_nb.llm.answers import Answer
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import Message
from urisk_nb.recording.asked import AskedModel, build_batch, build_key, decode_answer

__all__ = ["Recording", "find_known_answer", "get_recording", "identify_model", "record_answer"]

RECORDING = "asked.recording"
WAIT_S = 0.002  # for a record, before the prompt is back
FLUSH_S = 2.0  # for the records that are under way, before the journal is read, and at the end
IDENTIFY_S = 2.0  # how long the server may take to say which model it is


class Recording:
    """The records that are being written, one after the other. Threads may share it."""

    def __init__(self) -> None:
        self._calls: list[event_loop.Call[str]] = []
        self._turn = asyncio.Lock()
        self._lock = threading.Lock()  # of the list of calls

    def add(
        self,
        manager: LLMManager,
        model: str,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        answer: Answer,
    ) -> None:
        """Begin to write an answer to the journal; wait for it no longer than a moment."""
        if (path := find_path()) is None:  # now: the next cell may name another file
            return
        work = self._write(path, manager, model, messages=messages, options=options, answer=answer)
        call = event_loop.submit(work)
        with self._lock:
            self._calls.append(call)
        call.done.wait(WAIT_S)

    async def _write(
        self,
        path: Path,
        manager: LLMManager,
        model: str,
        *,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        answer: Answer,
    ) -> str:
        async with self._turn:
            asked = await identify_model(manager, model)
            return await asyncio.to_thread(record_answer, path, asked, messages, options, answer)

    def take_notes(self) -> list[str]:
        """Return what went wrong with the records that have ended since the last time."""
        with self._lock:
            ended = [call for call in self._calls if call.done.wait(0)]
            self._calls = [call for call in self._calls if call not in ended]
        return [note for call in ended if (note := call.result())]

    def flush(self) -> None:
        """Wait until all records are written, or FLUSH_S."""
        end_s = time.monotonic() + FLUSH_S
        with self._lock:
            calls = tuple(self._calls)
        for call in calls:
            call.done.wait(max(0.0, end_s - time.monotonic()))


def get_recording() -> Recording:
    """Return the records under way in this process; its end waits for them."""
    found: Recording = process_state.setdefault(RECORDING, Recording)
    process_state.at_exit(RECORDING, found.flush)
    return found


async def identify_model(manager: LLMManager, model: str) -> AskedModel:
    """Return who answers; without its digest where the server does not say in time."""
    digest = session = ""
    with contextlib.suppress(UriskError, TimeoutError):
        async with asyncio.timeout(IDENTIFY_S):
            digest, session = await manager.identify_model(model)
    return AskedModel(name=model, digest=digest, session=session, num_ctx=manager.num_ctx)


def record_answer(
    path: Path,
    model: AskedModel,
    messages: Sequence[Message],
    options: Mapping[str, Any],
    answer: Answer,
) -> str:
    """
    Write an answer to the journal in this file; return a note where that failed, else nothing.

    It blocks for as long as the disk takes, and a second at most for a lock of another kernel.
    """
    now = datetime.now(UTC)
    run = f"{now:%Y%m%dT%H%M%S}-ask-{secrets.token_hex(3)}"
    failed = f"The answer of {now:%H:%M:%S} UTC is not in the journal:"
    try:
        batch = build_batch(run, now, answer, model=model, messages=messages, options=options)
        with Store(path, busy_s=READ_BUSY_S) as store:
            store.add(batch)
    except JournalUnusable as exc:
        return f"{failed} {exc.message} To do: {exc.fix}."
    except (ValueError, TypeError) as exc:  # a text has no spelling
        return f"{failed} it cannot be written down ({exc})."
    return ""


def find_known_answer(model: AskedModel, request_hash: str) -> tuple[Answer | None, str]:
    """
    Return the newest whole answer to the same request, or None; and a sentence on it.

    Parameters
    ----------
    request_hash
        Of the request's bytes.
    """
    try:
        path = find_path()
        if path is None:
            return None, "the journal is off: asked anew"
        if not path.exists():
            return None, "not in the journal: asked anew"
        key = build_key(request_hash, model)
        if key is None:
            return None, "nobody tells which model answers: asked anew"
        with Store(path, busy_s=READ_BUSY_S) as store:
            found = store.find_answers([key]).get(key)
    except (JournalUnusable, OSError) as exc:
        return None, f"the journal cannot be read ({getattr(exc, 'message', exc)}): asked anew"
    if found is None:
        return None, "not in the journal: asked anew"
    answer, asked_at = decode_answer(found.body)
    return answer, f"from the journal, answered {asked_at:%Y-%m-%d %H:%M} UTC"
