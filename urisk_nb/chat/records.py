"""Answers of `%%ask` in the journal: written after each answer, given again where that is asked.

A fault of the journal never fails an answer. It comes back as a note.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from urisk_nb.errors import JournalUnusable, UriskError
from urisk_nb.journal.place import find_path
from urisk_nb.journal.store import READ_BUSY_S, Store
from urisk_nb.llm.answers import Answer
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import Message
from urisk_nb.recording.asked import AskedModel, build_batch, build_key, decode_answer

__all__ = ["find_known_answer", "identify_model", "record_answer"]

IDENTIFY_S = 2.0  # how long the server may take to say which model it is


async def identify_model(manager: LLMManager, model: str) -> AskedModel:
    """Return who answers; without its digest where the server does not say in time."""
    digest = session = ""
    with contextlib.suppress(UriskError, TimeoutError):
        async with asyncio.timeout(IDENTIFY_S):
            digest, session = await manager.identify_model(model)
    return AskedModel(name=model, digest=digest, session=session, num_ctx=manager.num_ctx)


def record_answer(
    model: AskedModel, messages: Sequence[Message], options: Mapping[str, Any], answer: Answer
) -> str:
    """
    Write an answer to the journal; return a note where that failed, else nothing.

    It blocks for as long as the disk takes, and a second at most for a lock of another kernel.
    """
    now = datetime.now(UTC)
    run = f"{now:%Y%m%dT%H%M%S}-ask-{secrets.token_hex(3)}"
    try:
        path = find_path()
        if path is None:
            return ""
        batch = build_batch(run, now, answer, model=model, messages=messages, options=options)
        with Store(path, busy_s=READ_BUSY_S) as store:
            store.add(batch)
    except JournalUnusable as exc:
        return f"This answer is not in the journal: {exc.message} To do: {exc.fix}."
    except (ValueError, TypeError) as exc:  # a text has no spelling
        return f"This answer is not in the journal: it cannot be written down ({exc})."
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
