"""A model that is made on the server: of one that it has, and of an adapter that this package carries.

Knows the order: base, file, creation, proof. Does not know which adapter: whoever calls hands its path and its hash over.
Doing it again sends nothing and changes nothing; another adapter takes the model's place under the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urisk_nb import bridge
from urisk_nb.errors import InputError, ModelError, ModelUnsuitable, RequestRefused, RunnerCrashed, ServerFault, UriskError
from urisk_nb.ollama import wire
from urisk_nb.ollama.client import Client
from urisk_nb.ollama.manager import LLMManager, StartEvent

__all__ = ["Installed", "install"]

Progress = Callable[[StartEvent], Any]
NO_SUCH_PATH = (404, 405, 501)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was done: the model as the server lists it, whether the file had to be sent, whether the model is another than before."""

    model: wire.Model
    sent: bool
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    adapter: Path
    digest: str
    base: str
    name: str


async def install(
    manager: LLMManager, adapter: Path, *, digest: str, base: str, name: str, progress: Progress = lambda _: None
) -> Installed:
    """
    Make the model `name` of `base` and an adapter on the manager's server; returns when it is there and loads.

    A base that is missing is pulled. Nothing is sent that the server has.

    Parameters
    ----------
    manager
        A running session; its own model stays what it is.
    adapter, digest
        GGUF file, and its sha256 as hex digits, which the server checks.
    progress
        Called with each step: `pulling`, `sending`, `creating`, `loading`.

    Raises
    ------
    InputError
        The name is the base's own, or the file cannot be read.
    ModelError, ServerError
        Each with what to do. What the server had under this name is as it was, unless it is the load that fails.
    """
    if wire.same_model(name, base):
        raise InputError(f"the model cannot be made of {base!r} under that same name: it would be lost.", fix="choose another --name")
    progress(StartEvent(step="pulling", text=f"Looking for {base}"))
    await manager.have(base)
    plan = _Plan(adapter=adapter, digest=f"sha256:{digest}", base=base, name=name)
    done = await bridge.call(_made(manager, plan, progress))
    progress(StartEvent(step="loading", text=f"Loading {name}"))
    try:
        await manager.have(name)
    except (RunnerCrashed, ServerFault) as exc:  # made, but the adapter is for another base: only a load tells
        raise ModelUnsuitable(
            f"{name} was made of {base}, and cannot be loaded: {exc.message}", fix="make it of the model that the adapter was trained for"
        ) from exc
    return done


async def _made(manager: LLMManager, plan: _Plan, progress: Progress) -> Installed:
    client = Client(manager.settings)
    try:
        before = wire.match_model(plan.name, await client.tags())
        try:
            sent = await _send(client, plan, progress)
            await _create(client, plan, progress)
        except UriskError as exc:
            if exc.facts.get("status") in NO_SUCH_PATH and not isinstance(exc, ModelError):
                raise _no_maker(exc, manager) from exc
            raise
        found = wire.match_model(plan.name, await client.tags())
    finally:
        await client.aclose()
    if found is None:
        raise ServerFault(f"{manager.url} said success, and does not list {plan.name}.", fix="try again; then look at the server's log")
    return Installed(model=found, sent=sent, changed=before is None or before.digest != found.digest)


async def _send(client: Client, plan: _Plan, progress: Progress) -> bool:
    if await client.has_blob(plan.digest):
        return False
    progress(StartEvent(step="sending", text=f"Sending {plan.adapter.name}"))
    await client.put_blob(plan.digest, plan.adapter)
    return True


async def _create(client: Client, plan: _Plan, progress: Progress) -> None:
    progress(StartEvent(step="creating", text=f"Making {plan.name}"))
    async with aclosing(client.create(plan.name, base=plan.base, adapters={plan.adapter.name: plan.digest})) as steps:
        async for step in steps:
            progress(StartEvent(step="creating", text=f"Making {plan.name}: {step.status}"))


def _no_maker(exc: UriskError, manager: LLMManager) -> RequestRefused:
    said = exc.facts.get("said", exc.message)
    return RequestRefused(
        f"the {manager.engine} server at {manager.url} ({manager.version}) makes no models: {said}",
        fix="use a real Ollama, of version 0.5.5 to 0.34.0",
    )
