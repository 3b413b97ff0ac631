"""What llama.cpp's own server is asked for an answer, and what its replies mean.

Knows: the bodies of its endpoints, their events and counters, Ollama's words for its errors.
Does not know: how the server is started, which models there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from urisk_nb.standin import jump
from urisk_nb.standin.brain import Ask, Finish, Piece, Refused
from urisk_nb.standin.upstream import UpstreamLost, UpstreamRefused, events

_SHORT = 64  # tokens
_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
)


async def answer(
    address: str, ask: Ask, more: Mapping[str, Any]
) -> AsyncGenerator[Piece | Finish, None]:
    """The pieces of an answer and its end; `more` goes into every body. Closing it stops the
    computation.

    Raises
    ------
    Refused
        llama.cpp refuses, as it says why; or it has gone.
    """
    path = "/v1/chat/completions" if ask.raw is None else "/completion"
    payload = chat_payload(ask) if ask.raw is None else raw_payload(ask)
    try:
        if (places := _places(ask)) and (made := await _chosen(address, ask, places, more)):
            for item in made:
                yield item
            return
        async with contextlib.aclosing(events(address, path, {**payload, **more})) as found:
            reader = _Reader(ask)
            async for event in found:
                for item in reader.take(event):
                    yield item
    except UpstreamRefused as exc:
        raise Refused(exc.status, exc.body.decode("utf-8", "replace")) from exc
    except UpstreamLost as exc:
        raise Refused(500, f"an error was encountered while running the model: {exc}") from exc
    if not reader.ended:
        raise Refused(500, "an error was encountered while running the model: unexpected EOF")


# ---- what is asked -------------------------------------------------------------------------------


def _common(ask: Ask) -> dict[str, Any]:
    options = ask.options
    sampling = {name: options[name] for name in (*_SAMPLING, "frequency_penalty", "seed")}
    return {
        **sampling,
        "stop": list(options["stop"]),
        "stream": not _in_one_piece(ask),
        "cache_prompt": True,
    }


def _in_one_piece(ask: Ask) -> bool:
    """
    Whether the answer is short and held to a schema, so that it is of use only whole.

    Each piece wakes two programs beside the threads that compute: on two cores a label of 11 tokens
    takes twice as long in pieces.
    """
    return ask.format is not None and 0 < ask.options["num_predict"] <= _SHORT


def _limit(ask: Ask) -> int:
    """Tokens to write at most: what is not bounded is bounded at ten windows, as in Ollama."""
    asked = ask.options["num_predict"]
    if asked == 0 and ask.endpoint == "chat":
        return 1
    return min(asked, 10 * ask.num_ctx) if asked > 0 else 10 * ask.num_ctx


def chat_payload(ask: Ask) -> dict[str, Any]:
    """
    The body for llama.cpp's chat endpoint, which puts the messages into the model's own template.
    """
    payload = {**_common(ask), "messages": list(ask.messages), "max_tokens": _limit(ask)}
    if ask.format is not None:
        schema = {"type": "object"} if ask.format == "json" else ask.format
        payload["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema},
        }
    if ask.think is not None:
        payload["chat_template_kwargs"] = {"enable_thinking": bool(ask.think)}
    if ask.top_logprobs is not None:
        payload |= {"logprobs": True, "top_logprobs": max(1, ask.top_logprobs)}
    return payload


def raw_payload(ask: Ask) -> dict[str, Any]:
    """The body for llama.cpp's completion endpoint, which takes the prompt as it is."""
    payload = {**_common(ask), "prompt": ask.raw, "n_predict": _limit(ask)}
    if ask.format is not None:
        payload["json_schema"] = {"type": "object"} if ask.format == "json" else ask.format
    if ask.top_logprobs is not None:
        payload["n_probs"] = max(1, ask.top_logprobs)
    return payload


# ---- what is chosen ------------------------------------------------------------------------------


def _places(ask: Ask) -> tuple[jump.Place, ...] | None:
    """What the model has to choose, where that is all that the answer is; None: it writes it
    itself.

    Whoever wants log-probabilities wants those of every token; what thinks, stops at a text or may
    be cut short is not all choice.
    """
    limit = ask.options["num_predict"]
    thinks = "thinking" in ask.model.capabilities and ask.think is not False
    if ask.top_logprobs is not None or thinks or ask.options["stop"] or limit == 0:
        return None
    places = jump.places(ask.format)
    return places if places and (limit < 0 or jump.longest(places) <= limit) else None


async def _chosen(
    address: str, ask: Ask, places: Sequence[jump.Place], more: Mapping[str, Any]
) -> tuple[Piece, Finish] | None:
    """
    The answer to a question that leaves only choices; None where llama.cpp chose nothing that it
    could choose from.
    """
    prompt, openings, timings = await _prompt(address, ask), [], []

    async def choose(text: str, among: Sequence[str]) -> str:
        payload = {
            **_common(ask),
            **more,
            "prompt": prompt + text,
            "n_predict": 1,
            "grammar": jump.grammar(among),
            "stream": False,
        }
        event = await _whole(address, "/completion", payload)
        openings.append(text)
        timings.append(event["timings"])
        return str(event["content"])

    text = await jump.written(places, choose)
    if text is None:
        return None
    first, *others = timings
    # Of the prompt alone
    known = int(first["prompt_n"]) + int(first["cache_n"]) - await _length(address, openings[0])
    cached = min(int(first["cache_n"]), known)
    spent_ms = sum(each["predicted_ms"] for each in timings) + sum(
        each["prompt_ms"] for each in others
    )
    return Piece(text=text), Finish(
        reason="stop",
        prompt_new=known - cached,
        prompt_cached=cached,
        prompt_ns=round(first["prompt_ms"] * 1e6),
        answered=await _length(address, text) + 1,  # the end of the turn is a token, too
        answer_ns=round(spent_ms * 1e6),
    )


async def _prompt(address: str, ask: Ask) -> str:
    """The prompt as the model reads it."""
    if ask.raw is not None:
        return ask.raw
    asked = {
        name: value
        for name, value in chat_payload(ask).items()
        if name in {"messages", "chat_template_kwargs"}
    }
    return str((await _whole(address, "/apply-template", asked))["prompt"])


async def _length(address: str, text: str) -> int:
    """Tokens of a text."""
    return len((await _whole(address, "/tokenize", {"content": text}))["tokens"])


async def _whole(address: str, path: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    async with contextlib.aclosing(events(address, path, payload)) as found:
        return await anext(found)


# ---- what comes back -----------------------------------------------------------------------------


class _Reader:
    """Turns the events of both endpoints into pieces and the end."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.ended = False

    def take(self, event: Mapping[str, Any]) -> Iterator[Piece | Finish]:
        if "error" in event:
            error = event["error"]
            said = (
                " ".join(f"{name}:{error[name]}" for name in sorted(error))
                if isinstance(error, Mapping)
                else error
            )
            raise Refused(500, f"llama-server chat error: map[{said}]")
        text, thinking, probs, reason = (
            _chat_parts(event) if self._ask.raw is None else _raw_parts(event)
        )
        if text or thinking:
            yield Piece(
                text=text,
                thinking=thinking,
                logprobs=tuple(_logprob(entry, self._ask.top_logprobs or 0) for entry in probs),
            )
        if reason:
            self.ended = True
            yield _finish(reason, event.get("timings", {}))


# Text, thinking, log-probabilities, reason of the end
_Parts = tuple[str, str, Sequence[Mapping[str, Any]], str]


def _chat_parts(event: Mapping[str, Any]) -> _Parts:
    choice: Mapping[str, Any] = next(iter(event.get("choices", ())), {})
    delta = choice.get("delta") or choice.get("message") or {}
    probs = (choice.get("logprobs") or {}).get("content") or ()
    return (
        delta.get("content") or "",
        delta.get("reasoning_content") or "",
        probs,
        choice.get("finish_reason") or "",
    )


def _raw_parts(event: Mapping[str, Any]) -> _Parts:
    reason = (
        ("length" if event.get("stop_type") == "limit" else "stop") if event.get("stop") else ""
    )
    return event.get("content", ""), "", event.get("completion_probabilities") or (), reason


def _logprob(entry: Mapping[str, Any], top: int) -> dict[str, Any]:
    plain = {name: entry[name] for name in ("token", "logprob", "bytes") if name in entry}
    if top:
        plain["top_logprobs"] = [
            _logprob(other, 0) for other in entry.get("top_logprobs", ())[:top]
        ]
    return plain


def _finish(reason: str, timings: Mapping[str, Any]) -> Finish:
    return Finish(
        reason="length" if reason == "length" else "stop",
        prompt_new=int(timings.get("prompt_n", 0)),
        prompt_cached=int(timings.get("cache_n", 0)),
        prompt_ns=round(timings.get("prompt_ms", 0) * 1e6),
        answered=int(timings.get("predicted_n", 0)),
        answer_ns=round(timings.get("predicted_ms", 0) * 1e6),
    )
