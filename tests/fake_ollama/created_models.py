"""Models that are made here: of a base with an adapter that was sent, or of a whole model file,
each under a name of its own.

Knows: /api/blobs and /api/create, as far as `from` with one adapter goes, and one of `files`.
Does not know: what is in the files, of which only the hash is kept. A model with an adapter answers
as its base does, one that was made of a file as the first of the backend's models. Source: protocol
notes, section 14; the texts are those of Ollama 0.33.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from fake_ollama import requests
from fake_ollama.backend import Model, Refusal
from fake_ollama.replies import send_progress
from fake_ollama.transport import HASHED_BYTES, Handler, Hashed, Reply, Request

MOST_BLOB_BYTES = HASHED_BYTES
"""All blobs together, though their content is not kept; more is 413."""
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_BAD_DIGEST = "invalid digest format"
_BLOBS = "/api/blobs/"
_ELSE = (
    "template",
    "license",
    "system",
    "parameters",
    "messages",
    "quantize",
    "quantization",
    "renderer",
    "parser",
    "info",
)
_FIELDS = {
    **dict.fromkeys(("model", "name", "from"), "string"),
    "stream": "bool",
    **dict.fromkeys(("files", "adapters"), "map[string]string"),
    **dict.fromkeys(_ELSE, "any"),
}
_GGUF = b"GGUF"
Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What the app does for it.

    Parameters
    ----------
    find
        The installed model of a name.
    models
        What the backend has, the first of which speaks for a model that is made of a file.
    pull
        The progress of a pull of a name; afterwards `find` finds it.
    made
        Called with each model that was made, or made anew with other content.
    pause_s
        Between two lines of a create, seconds.
    error
        Not empty: every create with an adapter is refused with 400 and this text.
    """

    find: Callable[[str], Model | None]
    models: Callable[[], Sequence[Model]]
    pull: Callable[[str], AsyncGenerator[Line, None]]
    made: Callable[[Model], None]
    pause_s: float = 0.0
    error: str = ""


class CreatedModels:
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
        self._blobs: dict[str, Hashed] = {}
        self.models: dict[str, Model] = {}
        self.routes: dict[str, dict[str, Handler]] = {
            f"{_BLOBS}*": {"HEAD": self._look, "POST": self._take},
            "/api/create": {"POST": self._create},
        }

    # ---- blobs -----------------------------------------------------------------------------------

    async def _look(self, request: Request, reply: Reply) -> None:
        sent, digest = _digest(request)
        if digest not in self._blobs:
            raise Refusal(404, f'blob "{sent}" not found')
        await reply.whole(200, b"")

    async def _take(self, request: Request, reply: Reply) -> None:
        sent, digest = _digest(request)
        if digest in self._blobs:
            await reply.whole(200, b"")
            return
        blob = request.hashed or Hashed()
        if sum(other.size for other in self._blobs.values()) + blob.size > MOST_BLOB_BYTES:
            raise Refusal(
                413, f"the fake Ollama holds {MOST_BLOB_BYTES >> 20} MiB of blobs at most"
            )
        seen = f"sha256:{blob.sha256.hexdigest()}"
        if seen != sent:
            raise Refusal(400, f'digest mismatch, expected "{sent}", got "{seen}"')
        self._blobs[seen] = blob
        await reply.whole(201, b"")

    # ---- create ----------------------------------------------------------------------------------

    async def _create(self, request: Request, reply: Reply) -> None:
        got = requests.fields(requests.decode(request.body), "api.CreateRequest", _FIELDS)
        adapters, files = _digests(got, "adapters"), _digests(got, "files")
        if adapters and self._store.error:
            raise Refusal(400, self._store.error)
        name, base = (
            requests.name(got.get("model") or got.get("name", "")),
            requests.name(got.get("from", "")),
        )
        if name is None or (got.get("from") and base is None):
            raise Refusal(400, "invalid model name")
        if other := [field for field in _ELSE if got.get(field)]:
            raise Refusal(
                501,
                f"the fake Ollama makes models of `from`, `adapters` and `files` only; use "
                f"Ollama for `{other[0]}`",
            )
        if base is None and not files:
            raise Refusal(400, "neither 'from' or 'files' was specified")
        if len(adapters) > 1:
            raise Refusal(400, "only one adapter is currently supported")
        if base is None and (adapters or len(files) > 1):
            raise Refusal(
                501,
                "the fake Ollama makes a model of one file, without an adapter; use Ollama "
                "for more",
            )
        lines = (
            self._from_base(name.shown, base.shown, adapters)
            if base
            else self._paced(self._of_file(name.shown, files[0]))
        )
        await send_progress(reply, lines, stream=got.get("stream", True))

    async def _from_base(
        self, name: str, base_name: str, adapters: list[str]
    ) -> AsyncGenerator[Line, None]:
        """
        The progress; a base that is not there is pulled first, as Ollama does. `files` beside a
        base count for nothing, as there.
        """
        if (base := self._store.find(base_name)) is None:
            async with contextlib.aclosing(self._store.pull(base_name)) as lines:
                async for line in lines:
                    yield line
            if (base := self._store.find(base_name)) is None:
                return  # the last line was the error
        async for line in self._paced(self._adapted(name, base, adapters)):
            yield line

    async def _paced(self, steps: Iterator[Line]) -> AsyncGenerator[Line, None]:
        for number, line in enumerate(steps):
            await asyncio.sleep(self._store.pause_s if number else 0)
            yield line

    def _adapted(self, name: str, base: Model, adapters: list[str]) -> Iterator[Line]:
        made_of = replace(
            base, base=base.name, size_bytes=base.size_bytes + sum(map(self._size, adapters))
        )
        return self._steps(
            name, made_of, [f"sha256:{base.digest}", *map(_plain, adapters)], adapters
        )

    def _of_file(self, name: str, digest: str) -> Iterator[Line]:
        made_of = replace(self._store.models()[0], base="", size_bytes=self._size(digest))
        return self._steps(name, made_of, [_plain(digest)], [digest])

    def _steps(
        self, name: str, made_of: Model, layers: list[str], sent: list[str]
    ) -> Iterator[Line]:
        for digest in sent:
            yield {"status": "parsing GGUF"}
            if why := self._unusable(digest):
                yield {"error": why}
                return
        yield from ({"status": f"using existing layer {layer}"} for layer in layers)
        yield {"status": "writing manifest"}
        self._keep(name, made_of, layers)
        yield {"status": "success"}

    def _size(self, digest: str) -> int:
        blob = self._blobs.get(_plain(digest))
        return blob.size if blob else 0

    def _unusable(self, digest: str) -> str:
        if _DIGEST.fullmatch(digest) is None:
            return _BAD_DIGEST
        blob = self._blobs.get(_plain(digest))
        if blob is None:
            return f"open blobs/{_plain(digest).replace(':', '-')}: no such file or directory"
        return "" if blob.start == _GGUF else "supplied file was not in GGUF format"

    def _keep(self, name: str, made_of: Model, layers: list[str]) -> None:
        """
        The same layers make the same digest, as with Ollama, so that a second time changes nothing.
        """
        before = self._store.find(name)
        shown = before.name if before else name  # names differ by more than case
        model = replace(
            made_of,
            name=shown,
            digest=hashlib.sha256("\n".join(layers).encode()).hexdigest(),
            installed=True,
        )
        self.models[model.name] = model
        if before is None or before.digest != model.digest:
            self._store.made(model)

    @staticmethod
    def hashes(path: str) -> bool:
        """Whether what is sent to this path is hashed and not kept."""
        return path.startswith(_BLOBS)


def _digest(request: Request) -> tuple[str, str]:
    """
    The digest as it was sent, and as it is kept; a dash is as good as a colon. Raises Refusal.
    """
    sent = unquote(request.path.removeprefix(_BLOBS))
    if _DIGEST.fullmatch(sent) is None:
        raise Refusal(400, _BAD_DIGEST)
    return sent, _plain(sent)


def _plain(digest: str) -> str:
    return digest.replace("-", ":", 1)


def _digests(got: Mapping[str, Any], field: str) -> list[str]:
    digests = list(got.get(field, {}).values())
    if not all(isinstance(digest, str) for digest in digests):
        raise Refusal(
            400,
            f"json: cannot unmarshal value into Go struct field CreateRequest.{field} of type "
            "string",
        )
    return digests
