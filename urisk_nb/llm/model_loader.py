"""Which model answers, and how it gets into the server's memory: chosen, pulled, loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from urisk_nb.errors import (
    DiskFull,
    ModelNotFound,
    ProtocolError,
    PullFailed,
    ServerConnectionLost,
    ServerInternalError,
    ServerTimeout,
)
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects import ollama, systemone
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.messages import Model, PullProgress, find_model, is_judge, is_same_model
from urisk_nb.server.model_server import Server
from urisk_nb.settings import Engine, Settings

__all__ = ["ModelLoader", "StartCheck", "check_start"]

KEPT = "what has arrived is kept; %urisk_start goes on"


class ModelLoader:
    """
    The models of one server, as a session needs them; used on one loop.

    Parameters
    ----------
    client, server
        The client to ask, and the server whose notes tell the user what to know.
    report
        Called with each step: its name, a sentence, and for a pull the bytes done and in all.
    """

    def __init__(self, client: Client, server: Server, report: Callable[..., Any]) -> None:
        self._client, self._server, self._report = client, server, report
        self._noted: set[str] = set()

    def choose(self, models: Sequence[Model]) -> str:
        """
        Return the model that was named, or the one model of a server that takes no others.

        What was noted of the choice before is taken back.
        """
        self._server.notes[:] = [text for text in self._server.notes if text not in self._noted]
        wanted, can_pull = self._client.settings.model, self._client.dialect.can(Feature.PULL)
        found = find_model(wanted, models)
        if found is not None and not can_pull:
            # vLLM knows a model by its exact name only.
            return found.name if is_same_model(found.name, wanted) else wanted
        is_own = self._server.engine is Engine.EMBEDDED
        if self._client.settings.model_is_given or not models or (can_pull and not is_own):
            return wanted
        if len(models) > 1 and not is_own:
            raise ModelNotFound(
                f"{self._client.settings.url} has several models and none was named: "
                f"{_list_names(models)}.",
                fix=f"name one: %env OLLAMA_MODEL={models[0].name}",
            )
        name = models[0].name.removesuffix(":latest")
        if not is_own:
            self._note(f"no model was named: this server has only {_list_names(models)}")
        return name

    def _note(self, text: str) -> None:
        self._noted.add(text)
        if text not in self._server.notes:
            self._server.notes.append(text)

    def note_fixed_settings(self, num_ctx: int) -> None:
        """Note the settings that were given and have no effect on this server."""
        dialect, settings = self._client.dialect, self._client.settings
        if "keep_alive" in settings.model_fields_set and not dialect.can(Feature.KEEP_ALIVE):
            self._note(
                "OLLAMA_KEEP_ALIVE has no effect here: this server keeps its model while it runs"
            )
        is_fixed = "num_ctx" in settings.model_fields_set and not dialect.can(Feature.LOAD)
        if is_fixed and num_ctx not in (0, settings.num_ctx):
            self._note(
                f"URISK_NUM_CTX has no effect here: this server's window has {num_ctx} tokens"
            )

    async def prepare(self, model: str, models: Sequence[Model] | None = None) -> Model | None:
        """
        Make a model ready: pulled if the server lacks it, and loaded.

        Parameters
        ----------
        models
            What the server has, where it was just asked; None asks it.

        Returns
        -------
        Model or None
            The server's record of it; None where it was pulled now.

        Raises
        ------
        ModelError, ServerError
            Each with what to do.
        """
        if models is None:
            models = await self._client.list_models()
        found = self.check(model, models)
        if found is None:
            await self._pull(model, models)
        await self.load(model)
        return found

    def check(self, model: str, models: Sequence[Model]) -> Model | None:
        """
        Return the server's record of a model; None: the server lacks it, and can pull one.

        Raises
        ------
        ModelError
            The server cannot have it, or may not be asked.
        """
        found = find_model(model, models)
        self._client.refuse_cloud(model, found)
        if found is None and is_judge(model):
            # Never pulled: a registry may have another model under this name
            raise ModelNotFound(
                f"{self._client.settings.url} has no {model}.",
                fix="on Ollama, run `urisk install-judge` in a terminal; the embedded engine has "
                "it beside the demo model",
            )
        if found is None and not self._client.dialect.can(Feature.PULL):
            raise ModelNotFound(
                f"{self._client.settings.url} has no model {model!r}, and cannot pull one. "
                f"It has: {_list_names(models)}.",
                fix=self._name_instead(model, models)
                if models
                else "load a model where that server is started",
            )
        return found

    def _name_instead(self, model: str, models: Sequence[Model]) -> str:
        """Say which model to name in place of one that cannot be had."""
        there = "use a model that is there"
        if is_same_model(model, self._client.settings.model):
            return f"{there}: %env OLLAMA_MODEL={models[0].name}"
        return f"{there}, such as {models[0].name}"  # a judge: no setting names it

    async def load(self, model: str) -> None:
        """Load a model where the server does that on request; others have it in memory always."""
        client, settings = self._client, self._client.settings
        if not client.dialect.can(Feature.LOAD):
            return
        self._report("loading", f"Loading {model}")
        card, keep_alive = await client.read_card(model), settings.keep_alive_value
        if systemone.CAPABILITY in card.capabilities:
            # Ollama refuses a decision model every chat, also the empty one that loads a model.
            # Where it does not, the model would be loaded with a window that is not its own, and
            # again for the first decision.
            body = systemone.encode_smallest(model=model, keep_alive=keep_alive)
            await client.post(systemone.PATH, body, systemone.decode_error)
        else:
            await client.load(
                ollama.encode_load(model=model, keep_alive=keep_alive, num_ctx=settings.num_ctx)
            )

    async def _pull(self, model: str, models: Sequence[Model]) -> None:
        layers: dict[str, PullProgress] = {}
        has = _list_names(models)
        self._report("pulling", f"Pulling {model}")
        try:
            async with aclosing(self._client.pull(model)) as lines:
                async for line in lines:
                    if line.digest:
                        layers[line.digest] = line
                    done = sum(layer.completed for layer in layers.values())
                    total = sum(layer.total for layer in layers.values())
                    self._report("pulling", f"Pulling {model}", done, total)
        except ModelNotFound as exc:
            raise ModelNotFound(
                f"there is no model {model!r}: neither on the server (it has: {has}) nor to pull.",
                fix=exc.fix,
            ) from exc
        except (ServerConnectionLost, ServerTimeout, ProtocolError) as exc:
            if not layers and not isinstance(exc, ServerConnectionLost):
                raise  # it has said nothing of a download
            raise PullFailed(
                f"the download of {model!r} was cut off{_describe_progress(layers)}: {exc.message}",
                fix=f"{exc.fix}; {KEPT}" if isinstance(exc, ServerTimeout) else KEPT,
            ) from exc
        except (PullFailed, ServerInternalError) as exc:
            kind = type(exc) if isinstance(exc, PullFailed) else PullFailed
            fix = KEPT if layers else exc.fix
            if isinstance(exc, DiskFull):
                fix = exc.fix
            elif models and not layers:
                fix = self._name_instead(model, models)
            raise kind(
                f"{model!r} could not be pulled{_describe_progress(layers)}: "
                f"{exc.facts.get('said', exc.message)} The server has: {has}.",
                fix=fix,
            ) from exc


def _describe_progress(layers: Mapping[str, PullProgress]) -> str:
    """Say how far a download had come; nothing where it had not begun."""
    done = sum(layer.completed for layer in layers.values())
    total = sum(layer.total for layer in layers.values())
    return f" at {done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if layers else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCheck:
    """
    What a start would do.

    Attributes
    ----------
    engine
        What it would start; None where a server answers that it would use.
    version, models
        Of that server: names and aliases.
    model, has_model, digest
        Who would answer, whether the server has it or brings it along, and its digest where the
        server tells it.
    """

    engine: Engine | None
    model: str
    has_model: bool = True
    digest: str = ""
    version: str = ""
    models: tuple[str, ...] = ()


async def check_start(settings: Settings, *, is_one_of_several: bool = False) -> StartCheck:
    """
    Decide as a start with these settings does, and start nothing.

    Raises
    ------
    ServerError, ModelError
        Why the start would fail.
    """
    async with aclosing(Client(settings)) as client:
        server = Server(
            settings, client, lambda *_: None, _load_nothing, may_keep=not is_one_of_several
        )
        engine = await server.check_start()
        if engine is not None:
            return StartCheck(engine=engine, model=settings.model)
        loader, models = ModelLoader(client, server, lambda *_: None), await client.list_models()
        model = loader.choose(models)
        found = loader.check(model, models)
        names = [name for one in models for name in (one.name, *one.aliases)]
        return StartCheck(
            engine=None,
            model=model,
            has_model=found is not None,
            digest=found.digest if found else "",
            version=server.version,
            models=tuple(dict.fromkeys(names)),
        )


async def _load_nothing() -> None:
    """Stand for the warm-up of a server that is only looked at."""


def _list_names(models: Sequence[Model]) -> str:
    return ", ".join(map(_name_model, models[:8])) or "none"


def _name_model(model: Model) -> str:
    """Return the name, with its other names; a file of the server's machine is none."""
    others = [
        alias for alias in model.aliases if not ({"/", "\\"} & set(alias) and ".gguf" in alias)
    ]
    return f"{model.name} (also {', '.join(others)})" if others else model.name
