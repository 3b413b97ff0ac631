"""From the records of a backend to the objects of a reply: answers line by line or whole, and how
models are shown.

Knows: the fields of the replies, their order, which are left out.
Does not know: slots, routes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fake_ollama import go_compat
from fake_ollama.backend import Chunk, Final, Model, WireFault
from fake_ollama.loaded_models import LoadedModel
from fake_ollama.requests import Body
from fake_ollama.transport import Reply

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
BARE = "application/json"


def reply_object(
    body: Body, text: str, *, done: bool, thinking: str = "", **rest: Any
) -> dict[str, Any]:
    """One reply object; fields that are zero or empty are left out, as Go does with `omitempty`."""
    thought = {"thinking": thinking} if thinking else {}
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text, **thought}}
    if body.endpoint == "generate":
        said = {"response": text, **thought}
    head = {"model": body.model, "created_at": go_compat.instant(time.time_ns())}
    return {**head, **said, "done": done, **{name: value for name, value in rest.items() if value}}


@dataclass(slots=True, kw_only=True)
class Answer:
    """One answer on its way out.

    Parameters
    ----------
    body
        The request.
    started_ns
        `time.perf_counter_ns()` when the request was read.
    load_ns
        How long the model was waited for.
    """

    body: Body
    started_ns: int
    load_ns: int
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    finish: Final | None = None

    async def take(self, item: Chunk | Final | WireFault, reply: Reply) -> bool:
        """Send or keep one item; True when nothing more can be sent."""
        if isinstance(item, WireFault):
            return await self._fault(item, reply)
        if isinstance(item, Final):
            self.finish = item
        elif self.body.stream:
            await self._line(
                reply,
                reply_object(
                    self.body,
                    item.text,
                    done=False,
                    thinking=item.thinking,
                    logprobs=list(item.logprobs),
                ),
            )
        else:
            self.texts.append(item.text)
            self.thoughts.append(item.thinking)
            self.logprobs += item.logprobs
        return False

    async def close(self, reply: Reply) -> None:
        """Send the last object, or end without one where the backend gave no Final."""
        if not self.body.stream:
            last = self._last("".join(self.texts), self.logprobs)
            await reply.whole(200, go_compat.dumps(last), JSON)
            return
        if self.finish:
            await self._line(reply, self._last("", []))
        elif not reply.status:
            reply.begin(200, NDJSON)
        await reply.end()

    def _last(self, text: str, logprobs: list[Mapping[str, Any]]) -> dict[str, Any]:
        finish, thinking = self.finish, "".join(self.thoughts)
        if finish is None:
            return reply_object(self.body, text, done=False, thinking=thinking)
        return reply_object(
            self.body,
            text,
            done=True,
            thinking=thinking,
            done_reason=finish.reason,
            context=list(finish.context)
            if self.body.raw is None and self.body.endpoint == "generate"
            else [],
            logprobs=logprobs,
            total_duration=time.perf_counter_ns() - self.started_ns,
            load_duration=self.load_ns,
            prompt_eval_count=finish.prompt_new + finish.prompt_cached,
            prompt_eval_duration=finish.prompt_ns,
            eval_count=finish.answered,
            eval_duration=finish.answer_ns,
        )

    async def _line(self, reply: Reply, value: Any) -> None:
        if not reply.status:
            reply.begin(200, NDJSON)
        await reply.send(go_compat.dumps(value) + b"\n")

    async def _fault(self, wire: WireFault, reply: Reply) -> bool:
        if wire.split_bytes:
            size = wire.split_bytes
            reply.pieces = lambda data: [data[at : at + size] for at in range(0, len(data), size)]
        if wire.raw and self.body.stream:
            if not reply.status:
                reply.begin(200, NDJSON)
            await reply.send(wire.raw)
        elif wire.raw:
            await reply.whole(200, wire.raw, JSON)
            return True
        if wire.abort:
            reply.abort()
        return wire.abort


async def send_progress(
    reply: Reply, lines: AsyncGenerator[Mapping[str, Any], None], *, stream: bool
) -> None:
    """The progress of a pull or a create, line by line; without a stream its last line alone."""
    async with contextlib.aclosing(lines):
        if not stream:
            last = [line async for line in lines][-1]
            await reply.whole(500 if "error" in last else 200, go_compat.dumps(last), BARE)
            return
        reply.begin(200, NDJSON)
        async for line in lines:
            await reply.send(go_compat.dumps(line) + b"\n")
        await reply.end()


# ---- how models are shown ------------------------------------------------------------------------


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def tag(model: Model) -> dict[str, Any]:
    remote = (
        {"remote_model": model.name, "remote_host": model.remote_host} if model.remote_host else {}
    )
    lengths = {"context_length": model.context_length, "embedding_length": model.embedding_length}
    return {
        "name": model.name,
        "model": model.name,
        **remote,
        "modified_at": go_compat.instant(model.modified_ns, local=True),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": {**_details(model), **lengths},
        "capabilities": list(model.capabilities),
    }


def ps_entry(loaded_model: LoadedModel) -> dict[str, Any]:
    model = loaded_model.model
    return {
        "name": model.name,
        "model": model.name,
        "size": loaded_model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
        "expires_at": go_compat.instant(loaded_model.expires_ns, local=True),
        "size_vram": 0,
        "context_length": loaded_model.num_ctx,
    }


def show_entry(model: Model) -> dict[str, Any]:
    return {
        "modelfile": f"# Modelfile made by a fake Ollama\nFROM {model.name}\n",
        **({"template": model.template} if model.template else {}),
        "details": {**_details(model), "parent_model": model.base},
        "model_info": dict(model.info),
        "capabilities": list(model.capabilities),
        "modified_at": go_compat.instant(model.modified_ns, local=True),
        **({"license": model.license} if model.license else {}),
    }
