"""A reply as a record of the journal and back, and the key under which it may be given again.

The key covers everything that decides an answer: the request, how it is asked, the context window,
and the model by its digest. A model whose digest is not known is known by its session alone, so an
answer of it is never given in another session.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from urisk_nb.journal.canonical import compute_hash, decode_json, encode_json
from urisk_nb.risk.calibration import Token
from urisk_nb.risk.questions import Question, Reply

if TYPE_CHECKING:
    from urisk_nb.llm.labels import Judge

__all__ = [
    "build_key",
    "decode_reply",
    "encode_reply",
    "is_repeatable",
    "list_think_settings",
]

KEY_VERSION = 1  # another number makes every stored answer unknown
TIMINGS = (
    *("wait_s", "queue_s", "load_s", "prompt_s", "generation_s", "first_token_s", "total_s"),
    "retry_s",
)
OPTIONS = b'"options":{'  # in text of a message its quotation marks are escaped
# Keys of a payload are sorted, so only `top_logprobs` may follow the options
_OPTIONS = re.compile(rb'"options":(\{[^{}]*\})(?:,"top_logprobs":\d+)?\}\Z')


def build_key(request: bytes, judge: Judge, *, think: str | None, num_ctx: int) -> bytes | None:
    """
    Return what one answer is found by, 32 bytes; None where nothing says which model answers.

    Parameters
    ----------
    request
        Of `urisk_nb.llm.labels.hash_request`.
    judge
        Who is asked, and how.
    think
        What is said of thinking; None where it is not a setting.
    num_ctx
        The context window in tokens.
    """
    if not (judge.digest or judge.session):
        return None
    model = judge.digest or f"{judge.session} {judge.model}"
    around = _encode_around(model, str(judge.method), judge.form, think, num_ctx)
    return compute_hash(around + request)


@functools.lru_cache(maxsize=64)
def _encode_around(model: str, method: str, form: str, think: str | None, num_ctx: int) -> bytes:
    return encode_json([KEY_VERSION, model, method, form, think, num_ctx])


def list_think_settings(judge: Judge) -> tuple[str | None, ...]:
    """
    Return the settings of thinking under which an answer may be known, the likeliest first.

    As long as it is not found out with which setting a model gives labels, all are tried, in the
    order in which the model would be asked.
    """
    if judge.setting is None:
        return (None,)
    return (
        (str(judge.setting.think),)
        if judge.setting.is_known
        else tuple(map(str, judge.setting.choices))
    )


def is_repeatable(question: Question) -> bool:
    """Return whether the same request gives the same answer: not sampled, or with a fixed seed."""
    payload = question.payload
    found = _OPTIONS.match(payload, max(0, payload.rfind(OPTIONS)))
    return _is_fixed(found[1] if found else json.dumps(json.loads(payload).get("options", {})))


@functools.lru_cache(maxsize=64)
def _is_fixed(options: bytes | str) -> bool:
    """Return whether these options of a call leave nothing to chance."""
    given = json.loads(options)
    return not given.get("temperature", 1) or "seed" in given


def encode_reply(
    reply: Reply, *, request: bytes, judge: Judge, asked_at: str, timing: object = None
) -> bytes:
    """
    Return a reply as canonical bytes: all that the labeling reads, and what it cost.

    Parameters
    ----------
    request
        Of `urisk_nb.llm.labels.hash_request`.
    judge
        Who was asked.
    asked_at
        When the answer came: ISO text, UTC.
    timing
        The phases of the call (`urisk_nb.llm.calls.CallTiming`), where they are known.
    """
    return encode_json(
        {
            "request": request.hex(),
            "model": judge.model,
            "digest": judge.digest,
            "method": str(judge.method),
            "asked_at": asked_at,
            "text": reply.text,
            "done_reason": reply.done_reason,
            "tokens": reply.tokens,
            "prompt_tokens": reply.prompt_tokens,
            "seconds": _round_trip(reply.seconds),
            "attempts": reply.attempts,
            "error": reply.error,
            "has_thoughts": reply.has_thoughts,
            "flags": list(reply.flags),
            "logprobs": [
                [
                    one.text,
                    _spell(one.logprob),
                    [[name, _spell(log)] for name, log in one.top_logprobs],
                ]
                for one in reply.logprobs
            ],
            "timing": {
                name: seconds
                for name in TIMINGS
                if (seconds := _round_trip(getattr(timing, name, None))) is not None
            },
        }
    )


def _spell(number: float) -> float | str:
    """Return a number as JSON knows it; a server may say that a token has no chance at all."""
    return number if math.isfinite(number) else str(number)


def _round_trip(seconds: float | None) -> float | None:
    """Return a number that JSON knows; NaN, where the server gave no counter, is None."""
    return None if seconds is None or not math.isfinite(seconds) else seconds


def decode_reply(body: bytes) -> Reply:
    """Return the reply again, equal in every field."""
    content: Mapping[str, Any] = decode_json(body)
    return Reply(
        text=content["text"],
        done_reason=content["done_reason"],
        tokens=content["tokens"],
        prompt_tokens=content["prompt_tokens"],
        seconds=math.nan if content["seconds"] is None else content["seconds"],
        attempts=content["attempts"],
        error=content["error"],
        has_thoughts=content["has_thoughts"],
        flags=tuple(content["flags"]),
        logprobs=tuple(
            Token(
                text=text,
                logprob=float(logprob),
                top_logprobs=tuple((other, float(value)) for other, value in rivals),
            )
            for text, logprob, rivals in content["logprobs"]
        ),
    )
