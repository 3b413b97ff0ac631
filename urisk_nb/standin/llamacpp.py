"""A real model without Ollama: llama.cpp in this process, through the package xllamacpp, behind the
same face.

Knows: how to start llama.cpp's own server on a free loopback port, which models a file makes.
Does not know: what that server is asked, HTTP towards the user.
The only module that imports xllamacpp, and only when a model is loaded: the server is ready before.
llama.cpp writes its log to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from urisk_nb.embedded import gguf
from urisk_nb.embedded.weights import GGUF, GGUF_BYTES, JUDGE, WeightsError
from urisk_nb.embedded.weights import adapter as published_adapter
from urisk_nb.standin import completion
from urisk_nb.standin.brain import Ask, Finish, Model, Piece, Refused

DEMO = "smollm2-135m:latest"
"""The name of the fetched demo model."""
_OTHERS = "For another, start it with --gguf PATH (URISK_GGUF), or install Ollama"
_CACHE_RAM_MIB = 1024  # llama.cpp's own default of 8 GiB for old prompts is too much for a laptop


class ModelUnusable(Exception):
    """The file, or this Python, cannot serve; the message says why and what to do."""


class LlamaBrain:
    """One GGUF file, answered by llama.cpp. Fulfils `Brain`.

    The demo model's file serves two models: itself, and with the adapter of this package the judge.
    Both are answered by one llama.cpp server, which switches the adapter on and off with each
    question: with two, OpenMP counts the threads of both, finds more than cores, and lets them
    sleep at every step, which is four times slower. Only for another context window there is a
    second server.

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
        In place of the adapter of this package, unchecked: to measure one that has just been
        trained.

    Raises
    ------
    ModelUnusable
        The package is missing, the file is missing, cut short or no GGUF; the adapter is not the
        published one.
    """

    engine = "llamacpp"

    def __init__(
        self,
        path: Path,
        *,
        slots: int = 1,
        num_ctx: int = 4096,
        threads: int | None = None,
        adapter: Path | None = None,
    ) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModelUnusable(
                'the package xllamacpp is not installed: pip install "urisk-nb[embedded]"'
            )
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
        # Threads that wait for each other spin only for a moment, then sleep. Measured on 2 cores,
        # tokens a second alone / beside two busy programs: OpenMP's default 71 / 3, sleeping at
        # once 27 / 14, this 75 / 30. It is read once, when the library is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self._path)
        params.n_ctx = num_ctx * self.slots
        params.n_parallel = self.slots
        params.cpuparams.n_threads = self._threads
        params.cache_ram_mib = _CACHE_RAM_MIB
        # Never beyond this machine, whatever the package's default becomes
        params.hostnames = ["127.0.0.1"]
        params.ui = False
        if self._lora is not None:
            one = xllamacpp.CommonAdapterLoraInfo()
            one.path, one.scale = str(self._lora), 0.0  # each question says for itself
            params.lora_adapters = [one]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as exc:
            raise Refused(
                500, f"llama-server process has terminated: cannot load {self._path.name}: {exc}"
            ) from exc

    async def pull(self, name: str) -> AsyncGenerator[Mapping[str, Any], None]:
        yield {"status": "pulling manifest"}
        model = next((one for one in self._models if one.name == name), None)
        if model is None:
            has = " and ".join(one.name for one in self._models)
            yield {
                "error": f"pull model manifest: {name} is not here: this is urisk_nb's embedded "
                f"engine, it has only {has}. {_OTHERS}"
            }
            return
        layer = {
            "digest": f"sha256:{model.digest}",
            "total": model.size_bytes,
            "completed": model.size_bytes,
        }
        yield {"status": f"pulling {model.digest[:12]}", **layer}
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            yield {"status": status}

    def answer(self, ask: Ask) -> AsyncGenerator[Piece | Finish, None]:
        lora = (
            {}
            if self._lora is None
            else {"lora": [{"id": 0, "scale": float(ask.model.name != DEMO)}]}
        )
        return completion.answer(
            self._servers[self._windows[ask.model.name]].listening_address, ask, lora
        )


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: its affinity, and a container's share where there is one,
    rounded up.

    More threads than that would wait for each other most of the time: a pod with two cores on a
    host with sixty-four would stand still.
    """
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with contextlib.suppress(OSError, ValueError):
        share, period = quota.read_text(encoding="ascii").split()
        count = min(count, max(1, -(-int(share) // int(period))))  # "max" is no number: no limit
    return count


async def _in_thread(work: Callable[[], Any]) -> Any:
    """
    Run blocking work beside the loop, in a thread that ends with it: asyncio's own pool would keep
    one for good.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="urisk-llamacpp")
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)


# ---- what it is ----------------------------------------------------------------------------------


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
        capabilities=("completion", "thinking")
        if "enable_thinking" in head.template
        else ("completion",),
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
    return replace(
        base, name=f"{JUDGE}:latest", digest=digest, info={**base.info, "general.name": JUDGE}
    )


def _cache_bytes(head: gguf.Head) -> int:
    """Bytes of keys and values, two each, for one token over all layers."""
    heads = head.of_architecture("attention.head_count") or 1
    width = (
        head.of_architecture("embedding_length")
        // heads
        * (head.of_architecture("attention.head_count_kv") or heads)
    )
    return 4 * width * head.of_architecture("block_count")
