"""A model that is made on the server: of one that it has and an adapter, or of a file that is a
whole model.

Knows the order: base, file, creation, proof; and which Ollama takes an adapter. Does not know which
file: whoever calls hands its path and its hash over. Doing it again sends nothing and changes
nothing; another file takes the model's place under the same name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urisk_nb import event_loop
from urisk_nb.errors import (
    BadRequest,
    InputError,
    ModelError,
    ModelUnsuitable,
    RunnerCrashed,
    ServerInternalError,
    UriskError,
)
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.manager import LLMManager, StartEvent
from urisk_nb.llm.messages import Model, find_model, is_same_model

__all__ = ["Adapted", "Installed", "Whole", "install", "says_no_adapters", "takes_adapters"]

Progress = Callable[[StartEvent], Any]
NO_SUCH_PATH = (404, 405, 501)
# As a creation names it, whatever it is called here; Ollama refuses some characters of paths
FILE = "urisk-judge.gguf"
NO_ADAPTERS_FROM = (0, 34, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """
    To be made of a base, which is pulled if it is missing, and an adapter (GGUF). `digest`: its
    sha256, as hex digits.
    """

    base: str
    file: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """To be made of one file (GGUF) and nothing else. `digest`: its sha256, as hex digits."""

    file: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """
    What was done: the model as the server lists it, whether the file had to be sent, whether the
    model is another than before.
    """

    model: Model
    sent: bool
    changed: bool


def takes_adapters(version: str) -> bool:
    """
    Return whether a server of this version makes models with adapters, as far as that can be told:
    what is no Ollama's number may.

    Examples
    --------
    >>> takes_adapters("0.34.0"), takes_adapters("0.34.1"), takes_adapters("my build")
    (True, False, True)
    """
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return numbers is None or tuple(map(int, numbers.groups())) < NO_ADAPTERS_FROM


def says_no_adapters(error: UriskError) -> bool:
    """Return whether this is the server's word that it takes no adapters."""
    return (
        re.search(ollama.NO_ADAPTERS, str(error.facts.get("said", "")), re.IGNORECASE) is not None
    )


async def install(
    manager: LLMManager, way: Adapted | Whole, *, name: str, progress: Progress = lambda _: None
) -> Installed:
    """
    Make the model `name` on the manager's server; returns when it is there and loads. Nothing is
    sent that the server has.

    Parameters
    ----------
    manager
        A running session, or a bare one; its own model stays what it is.
    way
        What it is made of. The server checks the digest.
    progress
        Called with each step: `pulling`, `sending`, `creating`, `loading`.

    Raises
    ------
    InputError
        The name is the base's own, or the file cannot be read.
    ModelError, ServerError
        Each with what to do; `says_no_adapters` tells an Ollama that wants a whole file. What the
        server had under this name is as it was, unless it is the load that fails.
    """
    if isinstance(way, Adapted):
        await _ensure_base(manager, way.base, name, progress)
    done = await event_loop.call(_make(manager, way, name, progress))
    progress(StartEvent(step="loading", text=f"Loading {name}"))
    try:
        await manager.ensure_model(name)
    except (
        RunnerCrashed,
        ServerInternalError,
    ) as exc:  # made, but not to be run, an adapter for another base say: only a load tells
        raise _no_use(name, way, exc) from exc
    return done


async def _ensure_base(manager: LLMManager, base: str, name: str, progress: Progress) -> None:
    if is_same_model(name, base):
        raise InputError(
            f"the model cannot be made of {base!r} under that same name: it would be lost.",
            fix="make it of another model",
        )
    progress(StartEvent(step="pulling", text=f"Looking for {base}"))
    await manager.ensure_model(base)


async def _make(
    manager: LLMManager, way: Adapted | Whole, name: str, progress: Progress
) -> Installed:
    async with aclosing(Client(manager.settings)) as client:
        before = find_model(name, await client.list_models())
        try:
            sent = await _send(client, way, progress)
            await _create(client, way, name, progress)
        except UriskError as exc:
            if exc.facts.get("status") in NO_SUCH_PATH and not isinstance(exc, ModelError):
                raise _no_maker(exc, manager) from exc
            raise
        found = find_model(name, await client.list_models())
    if found is None:
        raise ServerInternalError(
            f"{manager.url} said success, and does not list {name}.",
            fix="try again; then look at the server's log",
        )
    return Installed(
        model=found, sent=sent, changed=before is None or before.digest != found.digest
    )


async def _send(client: Client, way: Adapted | Whole, progress: Progress) -> bool:
    if await client.has_blob(f"sha256:{way.digest}"):
        return False
    progress(StartEvent(step="sending", text=f"Sending {way.file.name}"))
    await client.put_blob(f"sha256:{way.digest}", way.file)
    return True


async def _create(client: Client, way: Adapted | Whole, name: str, progress: Progress) -> None:
    progress(StartEvent(step="creating", text=f"Making {name}"))
    files = {FILE: f"sha256:{way.digest}"}
    steps = (
        client.create(name, base=way.base, adapters=files)
        if isinstance(way, Adapted)
        else client.create(name, files=files)
    )
    async with aclosing(steps):
        async for step in steps:
            progress(StartEvent(step="creating", text=f"Making {name}: {step.status}"))


def _no_use(name: str, way: Adapted | Whole, exc: UriskError) -> ModelUnsuitable:
    made_of, fix = way.file.name, "update Ollama; if it stays, look at the server's log"
    if isinstance(way, Adapted):
        made_of, fix = way.base, "make it of the model that the adapter was trained for"
    return ModelUnsuitable(
        f"{name} was made of {made_of}, and cannot be loaded: {exc.message}", fix=fix
    )


def _no_maker(exc: UriskError, manager: LLMManager) -> BadRequest:
    said = exc.facts.get("said", exc.message)
    return BadRequest(
        f"the {manager.engine} server at {manager.url} makes no models: {said}",
        fix="use a real Ollama, of version 0.5.5 or later",
    )
