"""
One model server of a session: its connection, state, models, label method and calls in flight.

A session has one or several (`pool.py`). Everything that may differ between two servers is here:
the wire, the address, the adapters, the context window, the spelling of the model.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import ModelError, PortTaken, ServerError, UriskError
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects.dialect import Dialect, Feature
from urisk_nb.llm.labels import Judge, LabelMethod, LabelReader
from urisk_nb.llm.limiter import CallLimiter
from urisk_nb.llm.messages import JUDGE, ChatRequest, Model, find_model, is_judge, is_same_model
from urisk_nb.llm.model_loader import ModelLoader
from urisk_nb.llm.resilience import InRun, retry_rule_for
from urisk_nb.llm.retrying_client import Exchange, RetryingClient
from urisk_nb.server.model_server import Server
from urisk_nb.settings import Settings

if TYPE_CHECKING:
    from urisk_nb.risk.questions import Question

__all__ = ["Endpoint", "PreparedCall"]

CLOSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCall:
    """A call encoded for one server: its request, the bytes, and how they are sent."""

    dialect: Dialect
    request: ChatRequest
    body: bytes
    exchange: Exchange


class Endpoint:
    """
    One server of a session; used on one loop.

    Parameters
    ----------
    settings
        With one address.
    report
        Called with each step of a start: its name, a sentence, and for a pull the bytes done and
        the total.
    is_one_of_several
        Whether the session has other servers: then this one is never started from here, and a
        failed call moves to another one.

    Attributes
    ----------
    client, server, loader, labels, limiter, retrying
        The HTTP client; the server's state; its models; how labels are asked; the limit on calls in
        flight; the client that retries calls.
    model
        The session's model as this server spells it; empty: none yet.
    """

    def __init__(
        self, settings: Settings, report: Callable[..., Any], *, is_one_of_several: bool = False
    ) -> None:
        self.settings, self.model = settings, settings.model
        self.client = Client(settings)
        self.server = Server(
            settings, self.client, report, self.restore_model, may_keep=not is_one_of_several
        )
        self.labels = LabelReader(self.client)
        self.loader = ModelLoader(self.client, self.server, report)
        self.limiter = CallLimiter(settings.parallel or 1)
        self.retrying = RetryingClient(
            self.client,
            self.server,
            self.limiter,
            self.prepare_model,
            is_one_of_several=is_one_of_several,
        )
        self._window = 0  # context window in tokens, if the server's list of models has it

    @property
    def url(self) -> str:
        return self.settings.url

    @property
    def num_ctx(self) -> int:
        """Context window of a call in tokens; 0: the server fixes it and does not report it."""
        if self.client.dialect.can(Feature.LOAD):
            return self.settings.num_ctx
        return self.client.props.num_ctx or self._window

    def change_settings(self, settings: Settings) -> None:
        """Apply other settings with the same address."""
        self.settings = self.client.settings = self.server.settings = settings

    # Health ---------------------------------------------------------------------------------------

    async def is_alive(self) -> bool:
        """Return whether the server answers; restart a managed one that has ended."""
        try:
            await self.server.ready()
            await self.client.probe()
        except (ServerError, ModelError) as exc:
            self.server.note_loss(exc)
            return False
        self.server.note_return()
        return True

    async def is_up(self, model: str) -> bool:
        """
        Return whether the server answers and has a model in memory, after loading it if needed.

        Raises errors that do not go away with time.
        """
        await self.server.ready()
        try:
            await self.client.probe()
            self.server.note_return()
            await self.loader.load(model)
        except PortTaken:  # a proxy may answer for a server that is away
            return False
        except UriskError as exc:
            if retry_rule_for(exc).in_run is InRun.END:
                raise
            return False
        return True

    async def restore_model(self) -> None:
        """Load the model on a restarted server before any call reaches it."""
        if self.settings.parallel is None:
            self.limiter.set_usual(self.server.slots)
        self.labels.reset()
        if self.model:
            await self.loader.load(self.model)

    # Models ---------------------------------------------------------------------------------------

    async def prepare_models(self, models: Sequence[str], known: Sequence[Model]) -> None:
        """
        Pull models if they are missing, and load them.

        Checks first that the server can have all of them.
        """
        for model in models:
            self.loader.check(self.spell(model), known)
        for model in models:
            await self.prepare_model(model, known)

    async def prepare_model(self, model: str, known: Sequence[Model] | None = None) -> None:
        """Pull and load a model; `known` is the server's list of models, if just read."""
        found = await self.loader.prepare(self.spell(model), known)
        if found is not None and is_same_model(model, self.model):
            self._window = found.num_ctx

    def spell(self, model: str) -> str:
        """Return a model's name as this server spells it."""
        return self.model if self.model and is_same_model(model, self.model) else model

    async def find_judge(self, model: str, known: Sequence[Model], session: str) -> Judge:
        """
        Return how a model labels; the first call for a model queries the server.

        Parameters
        ----------
        known
            The models of the server.
        session
            Identifies the answers of a model without a digest.
        """
        name, digest = self.spell(model), await self.read_digest(model, known)
        method = await self.labels.find_method(name, digest)
        is_written = method in (LabelMethod.SCHEMA, LabelMethod.CHOICES)
        return Judge(
            model=model,
            method=method,
            digest=digest,
            session=session,
            setting=self.labels.writer.find_setting(name) if is_written else None,
        )

    async def read_digest(self, model: str, known: Sequence[Model]) -> str:
        """Return the digest of a model; empty if it is unknown."""
        name = self.spell(model)
        found = find_model(name, known)
        return (found.digest if found else "") or await self._find_digest(name)

    async def _find_digest(self, model: str) -> str:
        """Return the digest of a managed server's model file; empty for external servers."""
        if not self.server.serves_own_file:
            return ""
        from urisk_nb.llm.local_digest import find_local_digest

        pid = None if self.server.lease is None else self.server.lease.server_pid
        return await asyncio.to_thread(find_local_digest, self.settings, model, pid)

    # Calls ----------------------------------------------------------------------------------------

    def prepare_chat(self, request: ChatRequest, known: PreparedCall | None = None) -> PreparedCall:
        """Return a chat encoded for this server; `known` is the encoding for another one."""
        request, body = self._encode(request, known)
        return PreparedCall(
            dialect=self.client.dialect,
            request=request,
            body=body,
            exchange=partial(self.client.chat, body),
        )

    def prepare_question(
        self,
        question: Question | None,
        request: ChatRequest,
        known: PreparedCall | None = None,
    ) -> PreparedCall:
        """Return a question encoded for this server; `known` is the encoding for another one."""
        request, body = self._encode(request, known)
        return PreparedCall(
            dialect=self.client.dialect,
            request=request,
            body=body,
            exchange=partial(self.labels.ask, question, request, body),
        )

    def _encode(
        self, request: ChatRequest, known: PreparedCall | None
    ) -> tuple[ChatRequest, bytes]:
        """Return the request for this server and its bytes, which equal servers share."""
        request, dialect = self._complete(request), self.client.dialect
        if known is not None and known.dialect is dialect and known.request == request:
            return request, known.body
        return request, dialect.encode_chat(request)

    def _complete(self, request: ChatRequest) -> ChatRequest:
        """Return the request with what this server's wire and model need."""
        adapters = self.client.props.adapters
        is_beneath = JUDGE in adapters and not is_judge(request.model)
        name = self.spell(request.model)
        if not is_beneath and name == request.model:
            return request
        # The judge's adapter is on unless a request turns it off
        off = adapters.index(JUDGE) if is_beneath else None
        return replace(request, model=name, adapter_off=off)

    # End ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connections, and give up after CLOSE_S."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.client.aclose(), CLOSE_S)
