"""Answers from rules: deterministic, with the delays and the faults that a test of a client needs.
Everything it says is SCRIPTED.

Knows: rules, words as tokens, a schema's smallest instance, keywords for the judge's labels.
Does not know: HTTP.
Why: a test that waits for a real model is slow and proves the model; this one is fast and fails on
demand.

A label given here comes from keywords. It says nothing about a company, and the model's name says
so.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from fake_ollama.backend import Chunk, Final, Model, ModelCall, Refusal, RunnerGone, WireFault
from fake_ollama.scenario import Ending, Rule, Scenario

SENTENCE = "This answer is SCRIPTED: no model is running."
GONE_FIRST = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an "
    "internal error, "
    "check ollama server logs for details"
)
GONE_LATER = "an error was encountered while running the model: unexpected EOF"
_PULL_STEPS = 10
_MODIFIED_NS = 1_767_225_600 * 10**9
_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s]+)|\s+")
# Tokens of a chat template around each message, and around all of them
_PER_MESSAGE, _PER_PROMPT = 5, 4


class ScriptedBackend:
    """A backend that follows a scenario. Fulfils `Backend`; keeps nothing between runs.

    Parameters
    ----------
    scenario
        None: one model, `llama3.1:latest`, and the default rules: for the judge's schema a label
        from keywords, for another schema its smallest instance, else one sentence that says
        SCRIPTED.
    """

    creates = True  # /api/blobs and /api/create are served

    def __init__(self, scenario: Scenario | None = None) -> None:
        self.scenario = scenario or Scenario()
        self.slots = self.scenario.slots
        self.default_num_ctx = self.scenario.num_ctx
        self.version = self.scenario.version
        self.create_pause_s, self.create_error = (
            self.scenario.create_ms / 1e3,
            self.scenario.create_error,
        )
        self._models = tuple(
            _model(entry, number) for number, entry in enumerate(self.scenario.models)
        )
        self._left = [rule.times for rule in self.scenario.rules]
        self._known: dict[str, list[str]] = {}  # model -> tokens that its cache holds
        self._pulled: dict[str, int] = {}  # model -> steps of its layer that are here

    def models(self) -> Sequence[Model]:
        return self._models

    async def load(self, model: Model, num_ctx: int) -> int:
        await asyncio.sleep(self.scenario.load_ms / 1e3)
        if self.scenario.load_error:
            raise Refusal(500, self.scenario.load_error)
        return model.size_bytes + num_ctx * 1024

    async def unload(self, model: Model) -> None:
        await asyncio.sleep(self.scenario.unload_ms / 1e3)
        self._known.pop(model.name, None)

    async def close(self) -> None:
        self._known.clear()

    async def pull(self, name: str) -> AsyncGenerator[Mapping[str, Any], None]:
        lines = self.scenario.pulls.get(name)
        model = next((model for model in self._models if model.name == name), None)
        for number, line in enumerate(lines if lines is not None else self._pull(name, model)):
            await asyncio.sleep(self.scenario.pull_ms / 1e3 if number else 0)
            yield line

    async def lose_runner(self, model: Model) -> None:
        """What `Ending.RUNNER` does beside failing; here there is no runner."""

    async def answer(self, call: ModelCall) -> AsyncGenerator[Chunk | Final | WireFault, None]:
        _check_schema(call)
        rule = self._rule(call)
        started = time.perf_counter_ns()
        prompt = self._prompt(call)
        cached = self._remember(call, prompt)
        await _until(started, rule.first_ms)
        if rule.status != 200:
            raise Refusal(
                rule.status,
                rule.error,
                body=None if rule.body is None else rule.body.encode(),
                kind=rule.kind,
            )
        first = time.perf_counter_ns()
        if rule.split_bytes:
            yield WireFault(split_bytes=rule.split_bytes)
        pieces, reason = _limited(list(_pieces(rule, call)), call)
        for number, text in enumerate(pieces):
            await _until(first, number * rule.token_ms)
            yield Chunk(
                text=text,
                logprobs=_logprobs(
                    text,
                    call.top_logprobs,
                    rule.logprobs[number] if number < len(rule.logprobs) else None,
                ),
            )
        for item in _broken_end(rule):
            yield item
        if rule.ends in {Ending.HANG, Ending.WEDGE}:
            await asyncio.Event().wait()
        if rule.ends is Ending.RUNNER:
            await self.lose_runner(call.model)
            raise RunnerGone(500, GONE_LATER if pieces else GONE_FIRST)
        if rule.ends in {Ending.STOP, Ending.LENGTH}:
            yield Final(
                reason="length" if rule.ends is Ending.LENGTH else reason,
                prompt_new=len(prompt) - cached,
                prompt_cached=cached,
                prompt_ns=max(1, (first - started) * (len(prompt) - cached) // len(prompt)),
                answered=len(pieces),
                answer_ns=max(1, time.perf_counter_ns() - first),
                context=tuple(zlib.crc32(token.encode()) % 50_000 for token in prompt)
                if call.endpoint == "generate"
                else (),
            )

    def _rule(self, call: ModelCall) -> Rule:
        for number, rule in enumerate(self.scenario.rules):
            left = self._left[number]
            if left != 0 and rule.fits(call):
                self._left[number] = None if left is None else left - 1
                return rule
        return Rule(first_ms=self.scenario.first_ms, token_ms=self.scenario.token_ms)

    def _pull(self, name: str, model: Model | None) -> Iterator[Mapping[str, Any]]:
        yield {"status": "pulling manifest"}
        if model is None:
            have = ", ".join(known.name for known in self._models)
            why = f"{name} is not here: this server is SCRIPTED and has only {have}"
            yield {"error": f"pull model manifest: {why}"}
            return
        yield from self._layer(model)
        yield from (
            {"status": status}
            for status in ("verifying sha256 digest", "writing manifest", "success")
        )

    def _layer(self, model: Model) -> Iterator[Mapping[str, Any]]:
        """
        One line with all of it where the layer is here; else step by step, from where the last pull
        was left.
        """
        head = {
            "status": f"pulling {model.digest[:12]}",
            "digest": f"sha256:{model.digest}",
            "total": model.size_bytes,
        }
        begin = _PULL_STEPS if model.installed else self._pulled.get(model.name, 0)
        for step in range(begin, _PULL_STEPS + 1):
            self._pulled[model.name] = step
            yield {
                **head,
                **({"completed": model.size_bytes * step // _PULL_STEPS} if step else {}),
            }

    def _prompt(self, call: ModelCall) -> list[str]:
        """
        The prompt's tokens; cut in the middle, or refused, when they are too many (as the two paths
        of Ollama do).
        """
        tokens = list(_prompt_tokens(call))
        if len(tokens) < call.num_ctx:
            return tokens
        if call.model.native or not call.truncate:
            raise Refusal(400, _too_long(len(tokens), call.num_ctx))
        return tokens[:4] + tokens[-(call.num_ctx // 2) :]

    def _remember(self, call: ModelCall, prompt: list[str]) -> int:
        """
        Tokens of the prompt that were known from the request before: the common prefix, at least
        one is always new.
        """
        known = self._known.get(call.model.name, [])
        self._known[call.model.name] = prompt
        same = sum(
            1
            for _ in itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(known, prompt, strict=False)
            )
        )
        return min(same, len(prompt) - 1)


async def _until(start_ns: int, ms: float) -> None:
    """Wait for a moment, not for a span: delays of many pieces must not add up their overheads."""
    left = start_ns / 1e9 + ms / 1e3 - time.perf_counter()
    if left > 0:
        await asyncio.sleep(left)


# ---- models --------------------------------------------------------------------------------------


def _model(entry: str | Mapping[str, Any], number: int) -> Model:
    given = {"name": entry} if isinstance(entry, str) else dict(entry)
    name = given.pop("name")
    name = name if ":" in name else f"{name}:latest"
    defaults: dict[str, Any] = {
        "size_bytes": 1_000_000,
        "digest": f"{zlib.crc32(name.encode()):08x}" * 8,
        "modified_ns": _MODIFIED_NS - number * 10**9,
        "context_length": 8192,
        "embedding_length": 64,
        "parameter_size": "0",
        "quantization": "SCRIPTED",
    }
    info = {
        "general.architecture": "llama",
        "llama.context_length": given.get("context_length", 8192),
    }
    return Model(name=name, **{**defaults, "info": info, **given})


# ---- tokens --------------------------------------------------------------------------------------


def _prompt_tokens(call: ModelCall) -> Iterator[str]:
    if call.raw is not None:
        yield from _TOKEN.findall(call.raw) or [""]
        return
    for message in call.messages:
        yield from (
            f"<{message['role']}>",
            *_TOKEN.findall(message["content"]),
            *["<end>"] * (_PER_MESSAGE - 1),
        )
    yield from ["<answer>"] * _PER_PROMPT


def _too_long(tokens: int, num_ctx: int) -> str:
    message = (
        f"request ({tokens} tokens) exceeds the available context size ({num_ctx} tokens), "
        "try increasing it"
    )
    kind = "exceed_context_size_error"
    return _nested(
        {"code": 400, "message": message, "type": kind, "n_prompt_tokens": tokens, "n_ctx": num_ctx}
    )


def _nested(error: Mapping[str, Any]) -> str:
    """llama.cpp's own JSON as a string, the way Ollama hands it on."""
    return json.dumps({"error": error}, separators=(",", ":"))


def _limited(pieces: list[str], call: ModelCall) -> tuple[list[str], str]:
    """Cut at the first stop string, then at num_predict; with the reason."""
    text = "".join(pieces)
    ends = [
        at for at in (text.find(stop) for stop in call.options.get("stop", ()) if stop) if at >= 0
    ]
    if ends:
        pieces = list(_cut(pieces, min(ends)))
    limit = call.options.get("num_predict", -1)
    if limit == 0 and call.model.native and call.endpoint == "chat":
        limit = 1  # measured: that path answers one token
    if 0 < limit <= len(pieces):  # reached before the model could say that it had finished
        return pieces[:limit], "length"
    return pieces, "stop"


def _cut(pieces: Sequence[str], length: int) -> Iterator[str]:
    for piece in pieces:
        if length <= 0:
            return
        yield piece[:length]
        length -= len(piece)


def _logprobs(
    text: str, top: int | None, logprobs: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], ...]:
    """As the rule tells it; else certain of everything: log-probability 0."""
    if top is None:
        return ()
    if logprobs is not None:
        return ({**logprobs, "top_logprobs": list(logprobs.get("top_logprobs", ()))[:top]},)
    entry = {"token": text, "logprob": 0.0, "bytes": list(text.encode())}
    return ({**entry, "top_logprobs": [entry] if top else []},)


# ---- what is said --------------------------------------------------------------------------------


def _pieces(rule: Rule, call: ModelCall) -> Iterator[str]:
    answer = _default(call) if rule.answer is None else rule.answer
    if isinstance(answer, Mapping):
        answer = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    yield from _TOKEN.findall(answer) if isinstance(answer, str) else answer


def _broken_end(rule: Rule) -> Iterator[WireFault]:
    if rule.ends is Ending.ERROR:
        raise Refusal(500, rule.error)
    if rule.ends is Ending.GARBAGE:
        yield WireFault(raw=b'{"model":"llama3.1","created_at":\n')
    if rule.ends in {Ending.WEDGE, Ending.CRASH}:
        yield WireFault(
            wedge=rule.ends is Ending.WEDGE,
            crash=rule.ends is Ending.CRASH,
            abort=rule.ends is Ending.CRASH,
        )
    if rule.ends is Ending.RESET:
        yield WireFault(raw=b'{"model":"simul', abort=True)


def _default(call: ModelCall) -> str | Mapping[str, Any]:
    if call.format is None:
        return SENTENCE
    if call.format == "json":
        # Measured: no grammar on that path
        return SENTENCE if call.model.native and call.endpoint == "chat" else {"SCRIPTED": True}
    properties = call.format.get("properties", {})
    if {"risk", "severity"} <= set(properties) and properties["risk"].get("enum"):
        return label(call.last, properties["risk"]["enum"])
    value = instance(call.format, native=call.model.native and call.endpoint == "chat")
    return value if isinstance(value, Mapping) else json.dumps(value)


def _check_schema(call: ModelCall) -> None:
    """A schema that no grammar can be made of is refused, whatever the rules say."""
    if isinstance(call.format, Mapping):
        try:
            instance(call.format)
        except ValueError as exc:
            raise Refusal(400, _bad_schema(str(exc), native=call.model.native)) from exc
        except (AttributeError, TypeError) as exc:  # `properties` that is no object, and the like
            part = json.dumps(call.format, separators=(",", ":"))
            raise Refusal(400, _bad_schema(part, native=call.model.native)) from exc


def _bad_schema(part: str, *, native: bool) -> str:
    start = "Unable to generate parser for this template. Automatic parser generation failed:"
    where = start if native else "Field 'json_schema': \"json_schema\":"
    message = f"{where} JSON schema conversion failed:\nUnrecognized schema: {part}"
    return _nested({"code": 400, "message": message, "type": "invalid_request_error"})


_LABELS: Mapping[str, str] = {  # category -> words; the first category with the most hits counts
    "legal": "fine fined penalty lawsuit sued court regulator regulators investigation antitrust "
    "sanctions settle settlement tax consent",
    "operational": "supply plant factory outage breach hackers hacked cyber recall shortage "
    "stolen fraud crash grounded delay",
    "credit": "debt bond bonds refinance refinancing default downgrade junk leverage borrow",
    "liquidity": "cash runway funding liquidity",
    "market": "dollar currency interest rate rates commodity inflation tariff tariffs",
    "governance": "board auditor accounting restated resigned disclosure chairman governance",
    "business": "competition competitor demand growth revenue forecast customers subscribers "
    "sales acquisition strategy launch",
}
_SEVERE = frozenset(
    {
        "cut",
        "junk",
        "stole",
        "stolen",
        "billion",
        "fined",
        "breach",
        "default",
        "bankrupt",
        "crash",
        "grounded",
    }
)
_MILD = frozenset({"opened", "launched", "grew", "record", "beat", "raised", "growth"})


def label(sentence: str, categories: Sequence[Any]) -> Mapping[str, Any]:
    """SCRIPTED: a risk and a severity from keywords, the same for the same sentence. Not a
    judgement.

    Severity: 4 with a word of alarm, 1 with a word of success, else 2; 0 and `none` where no
    category has a word.
    """
    words = set(re.findall(r"[a-z]+", sentence.lower()))
    hits = {
        name: len(words & set(text.split())) for name, text in _LABELS.items() if name in categories
    }
    best = max(hits, key=lambda name: hits[name], default=None)
    if best is None or not hits[best]:
        return {"risk": "none" if "none" in categories else categories[0], "severity": 0}
    return {"risk": best, "severity": 4 if words & _SEVERE else 1 if words & _MILD else 2}


def instance(schema: Mapping[str, Any], *, native: bool = False) -> Any:
    """The smallest value that a plain JSON schema allows; with `native`, keys in alphabetical
    order, as on that path.

    Raises
    ------
    ValueError
        A type that JSON schema does not have; the message is that part of the schema.
    """
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choices in ("anyOf", "oneOf"):
        if schema.get(choices):
            return instance(schema[choices][0], native=native)
    kind = schema.get("type", "object" if "properties" in schema else "null")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind in {"object", "array"}:
        return _container(kind, schema, native=native)
    plain = {
        "string": "SCRIPTED",
        "integer": schema.get("minimum", 0),
        "number": schema.get("minimum", 0),
        "boolean": False,
        "null": None,
    }
    if kind not in plain:
        raise ValueError(json.dumps(schema, separators=(",", ":")))
    return plain[kind]


def _container(kind: str, schema: Mapping[str, Any], *, native: bool) -> Any:
    if kind == "array":
        return [
            instance(schema.get("items", {}), native=native)
            for _ in range(schema.get("minItems", 0))
        ]
    properties = schema.get("properties", {})
    names = [name for name in properties if name in schema.get("required", properties)]
    return {
        name: instance(properties[name], native=native)
        for name in (sorted(names) if native else names)
    }
