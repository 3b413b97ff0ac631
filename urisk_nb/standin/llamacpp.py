"""A real model without Ollama: llama.cpp in this process, through the package xllamacpp, behind the same face.

Knows: how to start llama.cpp's own server on a free loopback port, how to ask it, how to read its counters.
Does not know: HTTP towards the user.
The only module that imports xllamacpp, and only when a model is loaded: the server is ready before.
llama.cpp writes its log to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from urisk_nb.standin import gguf
from urisk_nb.standin.brain import Ask, Finish, Model, Piece, Refused
from urisk_nb.standin.upstream import UpstreamLost, UpstreamRefused, events
from urisk_nb.standin.weights import GGUF, GGUF_BYTES, JUDGE, WeightsError
from urisk_nb.standin.weights import adapter as published_adapter

DEMO = "smollm2-135m:latest"
"""The name of the fetched demo model."""
_OTHERS = "For another, start it with --gguf PATH (URISK_GGUF), or install Ollama"
_SHORT = 64  # tokens
_CACHE_RAM_MIB = 1024  # llama.cpp's own default of 8 GiB for old prompts is too much for a laptop
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty")


class ModelUnusable(Exception):
    """The file, or this Python, cannot serve; the message says why and what to do."""


class LlamaBrain:
    """One GGUF file, answered by llama.cpp. Fulfils `Brain`.

    The demo model's file serves two models: itself, and with the adapter of this package the judge. Both are answered by one llama.cpp
    server, which switches the adapter on and off with each question: with two, OpenMP counts the threads of both, finds more than cores,
    and lets them sleep at every step, which is four times slower. Only for another context window there is a second server.

    Parameters
    ----------
    path
        The model. Any instruct model in GGUF form.
    slots
        Answers at a time. Each has a context window of its own, so memory grows with it.
    num_ctx
        Context window of one slot, tokens, where a request names none.
    threads
        Threads that compute. None: the cores that this process may use.
    adapter
        In place of the adapter of this package, unchecked: to measure one that has just been trained.

    Raises
    ------
    ModelUnusable
        The package is missing, the file is missing, cut short or no GGUF; the adapter is not the published one.
    """

    engine = "llamacpp"

    def __init__(self, path: Path, *, slots: int = 1, num_ctx: int = 4096, threads: int | None = None, adapter: Path | None = None) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModelUnusable('the package xllamacpp is not installed: pip install "urisk-nb[embedded]"')
        self.slots = slots
        self.default_num_ctx = num_ctx
        self._threads = threads or cores()
        self._path = path
        model, self._cache_bytes = _described(path)
        self._lora = (adapter or _adapter()) if model.name == DEMO else None
        self._models = (model,) if self._lora is None else (model, _judge(model, self._lora))
        self._windows: dict[str, int] = {}  # of each model in memory
        self._servers: dict[int, Any] = {}  # by window

    def models(self) -> Sequence[Model]:
        return self._models

    async def load(self, model: Model, num_ctx: int) -> int:
        if num_ctx not in self._servers:
            self._servers[num_ctx] = await _in_thread(lambda: self._started(num_ctx))
        self._windows[model.name] = num_ctx
        return model.size_bytes + self._cache_bytes * num_ctx * self.slots

    async def unload(self, model: Model) -> None:
        """Stops llama.cpp's server where no other model is on it; takes some 0.1 s."""
        self._windows.pop(model.name, None)
        await _in_thread(self._stop)

    async def close(self) -> None:
        self._windows.clear()
        await _in_thread(self._stop)

    def _stop(self) -> None:
        for num_ctx in set(self._servers) - set(self._windows.values()):
            del self._servers[num_ctx]  # its destructor stops the threads and frees the memory

    def _started(self, num_ctx: int) -> Any:
        # Threads that wait for each other spin only for a moment, then sleep. Measured on 2 cores, tokens a second alone / beside two
        # busy programs: OpenMP's default 71 / 3, sleeping at once 27 / 14, this 75 / 30. It is read once, when the library is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self._path)
        params.n_ctx = num_ctx * self.slots
        params.n_parallel = self.slots
        params.cpuparams.n_threads = self._threads
        params.cache_ram_mib = _CACHE_RAM_MIB
        params.hostnames = ["127.0.0.1"]  # never beyond this machine, whatever the package's default becomes
        params.ui = False
        if self._lora is not None:
            one = xllamacpp.CommonAdapterLoraInfo()
            one.path, one.scale = str(self._lora), 0.0  # each question says for itself
            params.lora_adapters = [one]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as exc:
            raise Refused(500, f"llama-server process has terminated: cannot load {self._path.name}: {exc}") from exc

    async def pull(self, name: str) -> AsyncGenerator[Mapping[str, Any], None]:
        yield {"status": "pulling manifest"}
        model = next((one for one in self._models if one.name == name), None)
        if model is None:
            has = " and ".join(one.name for one in self._models)
            yield {"error": f"pull model manifest: {name} is not here: this is urisk_nb's embedded engine, it has only {has}. {_OTHERS}"}
            return
        layer = {"digest": f"sha256:{model.digest}", "total": model.size_bytes, "completed": model.size_bytes}
        yield {"status": f"pulling {model.digest[:12]}", **layer}
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            yield {"status": status}

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece | Finish, None]:
        path = "/v1/chat/completions" if ask.raw is None else "/completion"
        payload = chat_payload(ask) if ask.raw is None else raw_payload(ask)
        if self._lora is not None:
            payload["lora"] = [{"id": 0, "scale": float(ask.model.name != DEMO)}]
        address = self._servers[self._windows[ask.model.name]].listening_address
        try:
            async with contextlib.aclosing(events(address, path, payload)) as found:
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


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: its affinity, and a container's share where there is one, rounded up.

    More threads than that would wait for each other most of the time: a pod with two cores on a host with sixty-four would stand still.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        share, period = quota.read_text(encoding="ascii").split()
        count = min(count, max(1, -(-int(share) // int(period))))  # "max" is no number: no limit
    return count


async def _in_thread(work: Callable[[], Any]) -> Any:
    """Run blocking work beside the loop, in a thread that ends with it: asyncio's own pool would keep one for good."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="urisk-llamacpp")
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)


# ---- what it is ----------------------------------------------------------------------------------------------


def model_name(path: Path) -> str:
    """A legal model name for a file: its stem with what a name cannot hold replaced by `-`."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-.")[:80]
    return f"{stem.lower() or 'model'}:latest"


def _described(path: Path) -> tuple[Model, int]:
    """The model of a file, and the bytes its cache takes for one token."""
    try:
        head = gguf.read(path)
        modified_ns = path.stat().st_mtime_ns
    except OSError as exc:
        raise ModelUnusable(f"the model file {path} cannot be read: {exc.strerror}") from exc
    except gguf.NotGguf as exc:
        raise ModelUnusable(f"{exc}; fetch it again") from exc
    demo = path.name == GGUF and head.size_bytes == GGUF_BYTES
    model = Model(
        name=DEMO if demo else model_name(path),
        size_bytes=head.size_bytes,
        digest=head.digest,
        modified_ns=modified_ns,
        context_length=head.of_architecture("context_length") or 4096,
        embedding_length=head.of_architecture("embedding_length"),
        family=head.architecture,
        parameter_size=head.parameter_size,
        quantization=head.quantization,
        capabilities=("completion", "thinking") if "enable_thinking" in head.template else ("completion",),
        template=head.template,
        info={name: value for name, value in head.info.items() if not name.startswith("tokenizer.")}
        | {"general.parameter_count": head.parameters},
    )
    return model, _cache_bytes(head)


def _adapter() -> Path:
    try:
        return published_adapter()
    except WeightsError as exc:
        raise ModelUnusable(f"{exc}; {exc.fix}") from exc


def _judge(base: Model, lora: Path) -> Model:
    """The model that the adapter makes of the demo model."""
    digest = sha256(base.digest.encode() + lora.read_bytes()).hexdigest()
    return replace(base, name=f"{JUDGE}:latest", digest=digest, info={**base.info, "general.name": JUDGE})


def _cache_bytes(head: gguf.Head) -> int:
    """Bytes of keys and values, two each, for one token over all layers."""
    heads = head.of_architecture("attention.head_count") or 1
    width = head.of_architecture("embedding_length") // heads * (head.of_architecture("attention.head_count_kv") or heads)
    return 4 * width * head.of_architecture("block_count")


# ---- what is asked -------------------------------------------------------------------------------------------


def _common(ask: Ask) -> dict[str, Any]:
    options = ask.options
    sampling = {name: options[name] for name in (*_SAMPLING, "frequency_penalty", "seed")}
    return {**sampling, "stop": list(options["stop"]), "stream": not _in_one_piece(ask), "cache_prompt": True}


def _in_one_piece(ask: Ask) -> bool:
    """
    Whether the answer is short and held to a schema, so that it is of use only whole.

    Each piece wakes two programs beside the threads that compute: on two cores a label of 11 tokens takes twice as long in pieces.
    """
    return ask.format is not None and 0 < ask.options["num_predict"] <= _SHORT


def _limit(ask: Ask) -> int:
    """Tokens to write at most: what is not bounded is bounded at ten windows, as in Ollama."""
    asked = ask.options["num_predict"]
    if asked == 0 and ask.endpoint == "chat":
        return 1
    return min(asked, 10 * ask.num_ctx) if asked > 0 else 10 * ask.num_ctx


def chat_payload(ask: Ask) -> dict[str, Any]:
    """The body for llama.cpp's chat endpoint, which puts the messages into the model's own template."""
    payload = {**_common(ask), "messages": list(ask.messages), "max_tokens": _limit(ask)}
    if ask.format is not None:
        schema = {"type": "object"} if ask.format == "json" else ask.format
        payload["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
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


# ---- what comes back -----------------------------------------------------------------------------------------


class _Reader:
    """Turns the events of both endpoints into pieces and the end."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.ended = False

    def take(self, event: Mapping[str, Any]) -> Iterator[Piece | Finish]:
        if "error" in event:
            error = event["error"]
            said = " ".join(f"{name}:{error[name]}" for name in sorted(error)) if isinstance(error, Mapping) else error
            raise Refused(500, f"llama-server chat error: map[{said}]")
        text, thinking, probs, reason = _chat_parts(event) if self._ask.raw is None else _raw_parts(event)
        if text or thinking:
            yield Piece(text=text, thinking=thinking, logprobs=tuple(_logprob(entry, self._ask.top_logprobs or 0) for entry in probs))
        if reason:
            self.ended = True
            yield _finish(reason, event.get("timings", {}))


_Parts = tuple[str, str, Sequence[Mapping[str, Any]], str]  # text, thinking, log-probabilities, reason of the end


def _chat_parts(event: Mapping[str, Any]) -> _Parts:
    choice: Mapping[str, Any] = next(iter(event.get("choices", ())), {})
    delta = choice.get("delta") or choice.get("message") or {}
    probs = (choice.get("logprobs") or {}).get("content") or ()
    return delta.get("content") or "", delta.get("reasoning_content") or "", probs, choice.get("finish_reason") or ""


def _raw_parts(event: Mapping[str, Any]) -> _Parts:
    reason = ("length" if event.get("stop_type") == "limit" else "stop") if event.get("stop") else ""
    return event.get("content", ""), "", event.get("completion_probabilities") or (), reason


def _logprob(entry: Mapping[str, Any], top: int) -> dict[str, Any]:
    plain = {name: entry[name] for name in ("token", "logprob", "bytes") if name in entry}
    if top:
        plain["top_logprobs"] = [_logprob(other, 0) for other in entry.get("top_logprobs", ())[:top]]
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
