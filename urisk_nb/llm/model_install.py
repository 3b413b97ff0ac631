"""Models that are put in place for later: the demo model's weights on this machine, and urisk-judge
on an Ollama.

The judge is one file, the demo model with this package's adapter merged in (145 MB). It is made on
this machine and kept in the data folder: a decision model for llama.cpp's own server. What is sent
to Ollama and created there is a copy that does not call itself one, since Ollama serves no decision
model of this type, and would not let it answer at all. Doing it again sends nothing and changes
nothing. Why no adapter on top of Ollama's own base: Ollama takes none from 0.34.1 on; every version
that makes models takes a whole one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from urisk_nb import event_loop
from urisk_nb.embedded import decision, merge, weights
from urisk_nb.errors import (
    BadRequest,
    InputError,
    ModelError,
    ModelNotFound,
    ModelUnsuitable,
    RunnerCrashed,
    ServerInternalError,
    ServerNotRunning,
    UriskError,
)
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import JUDGE, find_model, is_same_model
from urisk_nb.server.engines import data_folder
from urisk_nb.settings import Engine, Settings, load

__all__ = ["create_judge", "fetch_weights", "install_judge"]

Show = Callable[[object], Any]
"""Called with each step of the work: a text, or an event whose text says it."""
NO_SUCH_PATH = (404, 405, 501)
# The name in the request, whatever the file is called here; Ollama refuses some characters of paths
FILE = "urisk-judge.gguf"
USE = f"use it with %%risk --judge {JUDGE}"


def fetch_weights(show: Show) -> Path:
    """Return the demo model's verified file, fetched if it is not there."""
    return weights.fetch(
        data_folder(load()),
        progress=lambda done, total: show(
            f"Fetching the demo model (93 MB, once), and checking it: {done / total:.0%}"
        ),
    )


def install_judge(show: Show, *, url: str | None = None) -> str:
    """
    Make urisk-judge on the server that answers, or else on an Ollama that is started for this and
    stopped afterwards.

    Parameters
    ----------
    show
        Told each step.
    url
        Address of the server; default: the settings'.

    Returns
    -------
    str
        What to tell the user.

    Raises
    ------
    UriskError
        Each with what to do.
    """
    settings = load(url=url)
    if (count := len(settings.each_server)) > 1:
        first = settings.each_server[0].url
        raise InputError(
            f"the model is made on one server at a time, and OLLAMA_URL names {count} servers.",
            fix=f"name each in turn: urisk install-judge --url {first}",
        )
    if (ready := event_loop.run(_find_ready_judge(settings))) is not None:
        return ready
    adapter = weights.adapter()
    manager = event_loop.run(LLMManager.connect(progress=show, engine=Engine.OLLAMA, url=url))
    try:
        folder = data_folder(manager.settings)
        with _copy_for_ollama(_merge_judge(folder, adapter, show), folder) as file:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            is_new = event_loop.run(create_judge(manager, file, digest, show))
    finally:
        manager.shutdown_sync()
    state = "is ready" if is_new else "was ready already"
    return f"{JUDGE} {state} on {manager.url}: {USE}"


async def _find_ready_judge(settings: Settings) -> str | None:
    """
    Return what to tell the user where the server makes no models and has the judge.

    The embedded engine is such a server. None: nothing answers, or the server makes models.
    """
    async with aclosing(Client(settings)) as client:
        try:
            version, models = await client.probe(), await client.list_models()
        except ServerNotRunning:
            return None
        if client.dialect.can(Feature.CREATE):
            return None
    names = dict.fromkeys(name for model in models for name in (model.name, *model.aliases))
    if not any(is_same_model(JUDGE, name) for name in names):
        raise ModelNotFound(
            f"the server at {settings.url} ({version}) has no {JUDGE} (it has: "
            f"{', '.join(names)}), and makes no models.",
            fix="stop it and use Ollama; or use the embedded engine without URISK_GGUF: its demo "
            "model brings urisk-judge",
        )
    return f"{settings.url} has {JUDGE} already: {USE}"


def _merge_judge(folder: Path, adapter: Path, show: Show) -> Path:
    """Return the demo model with the adapter merged in, made only if it is not in the folder."""
    file = folder / f"{JUDGE}-{weights.ADAPTER_SHA256[:12]}.gguf"
    if not (file.is_file() and file.stat().st_size == merge.MERGED_BYTES):
        merge.check_package()  # before anything is fetched
        merge.merge_adapter(
            fetch_weights(show),
            adapter,
            file,
            lambda done, total: show(
                f"Merging the adapter into the demo model's weights: {done / total:.0%}"
            ),
        )
    return file


@contextmanager
def _copy_for_ollama(file: Path, folder: Path) -> Iterator[Path]:
    """Yield a copy that Ollama lets answer; it is gone afterwards."""
    copy = folder / f".{JUDGE}-{os.getpid()}.gguf"
    try:
        yield decision.write_without_type(file, copy)
    finally:
        copy.unlink(missing_ok=True)


async def create_judge(
    manager: LLMManager, file: Path, digest: str, show: Show = lambda _: None
) -> bool:
    """
    Create urisk-judge on the manager's server; return when it is there and loads.

    Parameters
    ----------
    manager
        A running session, or a bare one; its own model stays what it is.
    file, digest
        The whole model (GGUF), and its sha256 as hex digits, which the server checks. The file is
        not sent if the server has it.
    show
        Told each step.

    Returns
    -------
    bool
        Whether the model is another than before.

    Raises
    ------
    InputError
        The file cannot be read.
    ModelError, ServerError
        Each with what to do. What the server had under this name is as it was, unless it is the
        load that fails.
    """
    is_new = await event_loop.call(_create(manager, file, f"sha256:{digest}", show))
    show(f"Loading {JUDGE}")
    try:
        await manager.ensure_model(JUDGE)
    except (RunnerCrashed, ServerInternalError) as exc:  # only a load tells
        raise ModelUnsuitable(
            f"{JUDGE} was made of {file.name}, and cannot be loaded: {exc.message}",
            fix="update Ollama; if it stays, look at the server's log",
        ) from exc
    return is_new


async def _create(manager: LLMManager, file: Path, digest: str, show: Show) -> bool:
    async with aclosing(Client(manager.settings)) as client:
        before = find_model(JUDGE, await client.list_models())
        try:
            if not await client.has_blob(digest):
                show(f"Sending {file.name}")
                await client.put_blob(digest, file)
            async with aclosing(client.create(JUDGE, files={FILE: digest})) as steps:
                async for step in steps:
                    show(f"Making {JUDGE}: {step.status}")
        except UriskError as exc:
            if exc.facts.get("status") in NO_SUCH_PATH and not isinstance(exc, ModelError):
                raise BadRequest(
                    f"the {manager.engine} server at {manager.url} makes no models: "
                    f"{exc.facts.get('said', exc.message)}",
                    fix="use a real Ollama, of version 0.5.5 or later",
                ) from exc
            raise
        found = find_model(JUDGE, await client.list_models())
    if found is None:
        raise ServerInternalError(
            f"{manager.url} said success, and does not list {JUDGE}.",
            fix="try again; then look at the server's log",
        )
    return before is None or before.digest != found.digest
