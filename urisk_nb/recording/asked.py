"""A question of `%%ask` and its answer as records of the journal, and back.

The chat is an object, the answer an answer, and one record names both. It is no run: `history` does
not list it, and nothing replays it. Keys and headers are not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from urisk_nb.journal.canonical import compute_hash, decode_json, encode_json
from urisk_nb.journal.store import Batch, Entry
from urisk_nb.llm.answers import Answer
from urisk_nb.llm.calls import CallTiming
from urisk_nb.llm.messages import Message

__all__ = ["ASKED", "AskedModel", "build_batch", "build_key", "decode_answer", "list_objects"]

ASKED = "asked"  # the name of the record
KEY_VERSION = 1
GIVEN_AGAIN = "stop"  # why an answer has ended that may be given again: it is whole


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedModel:
    """
    Who is asked.

    Attributes
    ----------
    name, digest
        Of the model; an empty digest is not known.
    session
        Names the server of this session, for a model without a digest.
    num_ctx
        The context window in tokens.
    """

    name: str
    digest: str
    session: str
    num_ctx: int


def build_key(request_hash: str, model: AskedModel) -> bytes | None:
    """
    Return what an answer is found by: the request's bytes, the model's digest, the window.

    None where nothing says which model answers.
    """
    if not (model.digest or model.session):
        return None
    who = model.digest or f"{model.session} {model.name}"
    return compute_hash(encode_json([ASKED, KEY_VERSION, who, model.num_ctx, request_hash]))


def build_batch(
    run: str,
    asked_at: datetime,
    answer: Answer,
    *,
    model: AskedModel,
    messages: Sequence[Message],
    options: Mapping[str, Any],
) -> Batch:
    """
    Return what the journal keeps of an answer.

    Parameters
    ----------
    run
        The id of the record; it begins with the time, as that of a run.
    """
    chat = Entry.of(encode_json({"messages": [dict(message) for message in messages]}))
    is_whole = answer.done_reason == GIVEN_AGAIN and not answer.faults
    reply = Entry.of(
        encode_json(_encode_answer(asked_at, model, answer)),
        key=build_key(answer.request_hash, model) if is_whole else None,
    )
    record = {
        "created_at": asked_at.isoformat(timespec="seconds"),
        "request": answer.request_hash,
        "model": model.name,
        "digest": model.digest,
        "num_ctx": model.num_ctx,
        "options": dict(options),
        "messages": chat.hash.hex(),
        "answer": reply.hash.hex(),
    }
    return Batch(
        run,
        objects=[chat],
        answers=[reply],
        records=[Entry.of(encode_json(record), name=ASKED)],
    )


def _encode_answer(asked_at: datetime, model: AskedModel, answer: Answer) -> dict[str, Any]:
    return {
        "request": answer.request_hash,
        "model": model.name,
        "digest": model.digest,
        "engine": answer.engine,
        "asked_at": asked_at.isoformat(timespec="milliseconds"),
        "text": str(answer),
        "thinking": answer.thinking,
        "done_reason": answer.done_reason,
        "faults": dict(answer.faults),
        "timing": {
            one.name: _spell(getattr(answer.timing, one.name)) for one in fields(CallTiming)
        },
    }


def _spell(value: Any) -> Any:
    """Return a value as JSON knows it; NaN, where the server gave no counter, is None."""
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def decode_answer(body: bytes) -> tuple[Answer, datetime]:
    """Return an answer again, and when it was given; its timing is that of the first call."""
    content: Mapping[str, Any] = decode_json(body)
    timing: dict[str, Any] = {
        name: math.nan if value is None else value for name, value in content["timing"].items()
    }
    asked_at = datetime.fromisoformat(content["asked_at"])
    answer = Answer(
        content["text"],
        model=content["model"],
        engine=content["engine"],
        done_reason=content["done_reason"],
        thinking=content["thinking"],
        faults=content["faults"],
        request_hash=content["request"],
        timing=CallTiming(**{**timing, "asked_at": asked_at}),
    )
    return answer, asked_at


def list_objects(body: bytes) -> Iterator[bytes]:
    """Yield the hashes of what a record of this kind uses."""
    content = decode_json(body)
    yield from (bytes.fromhex(content[name]) for name in ("messages", "answer"))
