"""What is put in place for later: the demo model's weights here, and urisk-judge on a real Ollama.

The judge is made of the Ollama's own base and our adapter, or of one file with both merged, 145 MB;
Ollama takes adapters up to version 0.34.0 only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urisk_nb import event_loop
from urisk_nb.embedded import gguf, merge, weights
from urisk_nb.errors import (
    FetchFailed,
    ModelNotFound,
    ModelUnsuitable,
    PackageMissing,
    ServerNotRunning,
)
from urisk_nb.render.board import ProgressLine

if TYPE_CHECKING:
    from urisk_nb.llm.dialects.dialect import Dialect
    from urisk_nb.llm.manager import LLMManager, StartEvent
    from urisk_nb.llm.model_install import Installed, Whole
    from urisk_nb.settings import Settings

__all__ = ["fetch_weights", "install", "probe_server"]

USE = f"use it with %%risk --model {weights.JUDGE}"
Tell = Callable[["StartEvent"], Any]


def fetch_weights() -> Path:
    """Return the verified file, fetched if it is not there."""
    from urisk_nb.server.engines import data_folder
    from urisk_nb.settings import load

    folder, line = data_folder(load()), ProgressLine()
    try:
        return weights.fetch(
            folder,
            progress=lambda done, total: line.show(
                f"Fetching the demo model (93 MB, once), and checking it: {done / total:.0%}"
            ),
        )
    except weights.WeightsError as exc:
        raise FetchFailed(str(exc), fix=exc.fix) from exc
    finally:
        line.clear()


async def probe_server(settings: Settings) -> tuple[Dialect, str, list[str]]:
    """Return the dialect and the version of the server at the address, and its models' names."""
    from urisk_nb.llm.client import Client

    async with aclosing(Client(settings)) as client:
        version, models = await client.probe(), await client.list_models()
        names = [name for model in models for name in (model.name, *model.aliases)]
        return client.dialect, version, list(dict.fromkeys(names))


def install(*, base: str, url: str | None = None) -> str:
    """
    Make urisk-judge on the server that answers, or else on an Ollama that is started for this; it
    is left as it was found.

    Parameters
    ----------
    base
        What it is made of where the server takes adapters.
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
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.settings import Engine, load

    settings = load(url=url, model=base)
    if (ready := _find_ready_judge(settings)) is not None:
        return ready
    adapter, line = _adapter(), ProgressLine()
    manager = event_loop.run(
        LLMManager.connect(progress=line.show, engine=Engine.OLLAMA, model=base, url=url)
    )
    try:
        done = _install_on_server(manager, adapter, base, line, line.show)
    finally:
        manager.shutdown_sync()
        line.clear()
    state = "is ready" if done.changed else "was ready already"
    return f"{weights.JUDGE} {state} on {manager.url}: {USE}"


def _find_ready_judge(settings: Settings) -> str | None:
    """
    Return what to tell the user where the server makes no models and has the judge.

    The embedded engine is such a server. None: nothing answers, or the server makes models.
    """
    from urisk_nb.llm.dialects.dialect import Feature
    from urisk_nb.llm.messages import is_same_model

    try:
        dialect, version, models = event_loop.run(probe_server(settings))
    except ServerNotRunning:
        return None
    if dialect.can(Feature.CREATE):
        return None
    if not any(is_same_model(weights.JUDGE, model) for model in models):
        raise ModelNotFound(
            f"the server at {settings.url} ({version}) has no {weights.JUDGE} (it has: "
            f"{', '.join(models)}), and makes no models.",
            fix="stop it and use Ollama; or use the embedded engine without URISK_GGUF: its demo "
            "model brings urisk-judge",
        )
    return f"{settings.url} has {weights.JUDGE} already: {USE}"


def _adapter() -> Path:
    try:
        return weights.adapter()
    except weights.WeightsError as exc:
        raise FetchFailed(f"{exc}.", fix=exc.fix) from exc


def _install_on_server(
    manager: LLMManager, adapter: Path, base: str, line: ProgressLine, tell: Tell
) -> Installed:
    """
    With the adapter where that may be; where the server says that it may not, or is known to, with
    the merged file.
    """
    from urisk_nb.llm import model_install

    if model_install.takes_adapters(manager.version):
        way = model_install.Adapted(base=base, file=adapter, digest=weights.ADAPTER_SHA256)
        try:
            return event_loop.run(
                model_install.install(manager, way, name=weights.JUDGE, progress=tell)
            )
        except ModelUnsuitable as exc:
            if not model_install.says_no_adapters(exc):
                raise
    return event_loop.run(
        model_install.install(
            manager, _whole(manager, adapter, line), name=weights.JUDGE, progress=tell
        )
    )


def _whole(manager: LLMManager, adapter: Path, line: ProgressLine) -> Whole:
    """
    The demo model with the adapter merged in, kept in the data folder: made only if it is not
    there.
    """
    from urisk_nb.llm.model_install import Whole
    from urisk_nb.server.engines import data_folder

    file = data_folder(manager.settings) / f"{weights.JUDGE}-{weights.ADAPTER_SHA256[:12]}.gguf"
    why = f"Ollama {manager.version} takes no adapters"
    if _is_whole(file):
        line.say(f"{why}: using the merged model that is there (145 MB)")
    else:
        line.say(f"{why}: merging the adapter into the demo model's weights (145 MB)")
        _merge(adapter, file, line)
    with file.open("rb") as content:
        return Whole(file=file, digest=hashlib.file_digest(content, "sha256").hexdigest())


def _is_whole(file: Path) -> bool:
    try:
        gguf.check(file)
    except (OSError, gguf.NotGguf):
        return False
    return True


def _merge(adapter: Path, file: Path, line: ProgressLine) -> None:
    try:
        merge.check_package()  # before anything is fetched
        merge.merge_adapter(
            fetch_weights(),
            adapter,
            file,
            lambda done, total: line.show(f"Merging the adapter: {done / total:.0%}"),
        )
    except merge.NeedsGguf as exc:
        raise PackageMissing(f"{exc}, which is not installed.", fix=exc.fix) from exc
    except weights.WeightsError as exc:
        raise FetchFailed(f"{exc}.", fix=exc.fix) from exc
    finally:
        line.clear()
