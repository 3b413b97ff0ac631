"""Models that are made here: adapters that were sent, and a base with one of them under a name of its own.

Knows: /api/blobs and /api/create, as far as `from` and one adapter go.
Does not know: what an adapter does to an answer; the model that is made answers as its base does.
Source: protocol notes, section 14; the texts are those of Ollama 0.33.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from urisk_nb.standin import asks
from urisk_nb.standin.answers import send_progress
from urisk_nb.standin.brain import Model, Refused
from urisk_nb.standin.transport import Handler, Reply, Request

MOST_BLOB_BYTES = 64 * 1024 * 1024
"""All blobs together; more is 413."""
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_BAD_DIGEST = "invalid digest format"
_BLOBS = "/api/blobs/"
_ELSE = ("files", "template", "license", "system", "parameters", "messages", "quantize", "quantization", "renderer", "parser", "info")
_FIELDS = {
    **dict.fromkeys(("model", "name", "from"), "string"),
    "stream": "bool",
    "adapters": "map[string]string",
    **dict.fromkeys(_ELSE, "any"),
}
_GGUF = b"GGUF"
Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What the face does for it.

    Parameters
    ----------
    find
        The installed model of a name.
    pull
        The progress of a pull of a name; afterwards `find` finds it.
    made
        Called with each model that was made, or made anew with other content.
    pause_s
        Between two lines of a create, seconds.
    error
        Not empty: every create is refused with 400 and this text.
    """

    find: Callable[[str], Model | None]
    pull: Callable[[str], AsyncGenerator[Line, None]]
    made: Callable[[Model], None]
    pause_s: float = 0.0
    error: str = ""


class Created:
    """The blobs, and the models that were made with them.

    Attributes
    ----------
    models
        By name.
    routes
        Path -> method -> handler; `*` stands for one more part of the path.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blobs: dict[str, bytes] = {}
        self.models: dict[str, Model] = {}
        self.routes: dict[str, dict[str, Handler]] = {
            f"{_BLOBS}*": {"HEAD": self._look, "POST": self._take},
            "/api/create": {"POST": self._create},
        }

    # ---- blobs -----------------------------------------------------------------------------------------------

    async def _look(self, request: Request, reply: Reply) -> None:
        sent, digest = _digest(request)
        if digest not in self._blobs:
            raise Refused(404, f'blob "{sent}" not found')
        await reply.whole(200, b"")

    async def _take(self, request: Request, reply: Reply) -> None:
        sent, digest = _digest(request)
        if digest in self._blobs:
            await reply.whole(200, b"")
            return
        if sum(map(len, self._blobs.values())) + len(request.body) > MOST_BLOB_BYTES:
            raise Refused(413, f"the urisk_nb stand-in holds {MOST_BLOB_BYTES >> 20} MiB of blobs at most")
        seen = f"sha256:{hashlib.sha256(request.body).hexdigest()}"
        if seen != sent:
            raise Refused(400, f'digest mismatch, expected "{sent}", got "{seen}"')
        self._blobs[seen] = request.body
        await reply.whole(201, b"")

    # ---- create ----------------------------------------------------------------------------------------------

    async def _create(self, request: Request, reply: Reply) -> None:
        got = asks.fields(asks.decode(request.body), "api.CreateRequest", _FIELDS)
        adapters = _adapters(got)
        if adapters and self._store.error:
            raise Refused(400, self._store.error)
        name, base = asks.name(got.get("model") or got.get("name", "")), asks.name(got.get("from", ""))
        if name is None or (got.get("from") and base is None):
            raise Refused(400, "invalid model name")
        if other := [field for field in _ELSE if got.get(field)]:
            raise Refused(501, f"the urisk_nb stand-in makes models of `from` and `adapters` only; use Ollama for `{other[0]}`")
        if base is None:
            raise Refused(400, "neither 'from' or 'files' was specified")
        if len(adapters) > 1:
            raise Refused(400, "only one adapter is currently supported")
        await send_progress(reply, self._lines(name.shown, base.shown, adapters), stream=got.get("stream", True))

    async def _lines(self, name: str, base_name: str, adapters: list[str]) -> AsyncGenerator[Line, None]:
        """The progress; a base that is not there is pulled first, as Ollama does."""
        if (base := self._store.find(base_name)) is None:
            async with contextlib.aclosing(self._store.pull(base_name)) as lines:
                async for line in lines:
                    yield line
            if (base := self._store.find(base_name)) is None:
                return  # the last line was the error
        for number, line in enumerate(self._steps(name, base, adapters)):
            await asyncio.sleep(self._store.pause_s if number else 0)
            yield line

    def _steps(self, name: str, base: Model, adapters: list[str]) -> Iterator[Line]:
        for digest in adapters:
            yield {"status": "parsing GGUF"}
            if why := self._unusable(digest):
                yield {"error": why}
                return
        layers = [f"sha256:{base.digest}", *map(_plain, adapters)]
        yield from ({"status": f"using existing layer {layer}"} for layer in layers)
        yield {"status": "writing manifest"}
        self._keep(name, base, layers)
        yield {"status": "success"}

    def _unusable(self, digest: str) -> str:
        if _DIGEST.fullmatch(digest) is None:
            return _BAD_DIGEST
        blob = self._blobs.get(_plain(digest))
        if blob is None:
            return f"open blobs/{_plain(digest).replace(':', '-')}: no such file or directory"
        return "" if blob.startswith(_GGUF) else "supplied file was not in GGUF format"

    def _keep(self, name: str, base: Model, layers: list[str]) -> None:
        """The same layers make the same digest, as with Ollama, so that a second time changes nothing."""
        before = self._store.find(name)
        model = replace(
            base,
            name=before.name if before else name,  # names differ by more than case
            base=base.name,
            digest=hashlib.sha256("\n".join(layers).encode()).hexdigest(),
            size_bytes=base.size_bytes + sum(len(self._blobs[layer]) for layer in layers[1:]),
            installed=True,
        )
        self.models[model.name] = model
        if before is None or before.digest != model.digest:
            self._store.made(model)


def _digest(request: Request) -> tuple[str, str]:
    """The digest as it was sent, and as it is kept; a dash is as good as a colon. Raises Refused."""
    sent = unquote(request.path.removeprefix(_BLOBS))
    if _DIGEST.fullmatch(sent) is None:
        raise Refused(400, _BAD_DIGEST)
    return sent, _plain(sent)


def _plain(digest: str) -> str:
    return digest.replace("-", ":", 1)


def _adapters(got: Mapping[str, Any]) -> list[str]:
    digests = list(got.get("adapters", {}).values())
    if not all(isinstance(digest, str) for digest in digests):
        raise Refused(400, "json: cannot unmarshal value into Go struct field CreateRequest.adapters of type string")
    return digests
