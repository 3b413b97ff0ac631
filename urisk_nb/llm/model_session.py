"""
What a run needs of whoever answers its questions: a session of this process, or a cluster of them.

`LLMManager` and `urisk_nb.scale.ClusterSession` both keep to it, and mypy checks both. A run knows
nothing else of them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from urisk_nb.llm.answers import Answer
    from urisk_nb.llm.labels import Judge
    from urisk_nb.risk.questions import Question
    from urisk_nb.settings import Engine, Settings

__all__ = ["ModelSession"]


class ModelSession(Protocol):
    """
    One model that answers, on one server or many; used on the loop of `event_loop`.

    `LLMManager` says what each member means.
    """

    settings: Settings
    model: str
    judge: str

    @property
    def engine(self) -> Engine:
        """What answers."""

    @property
    def version(self) -> str:
        """The version of the server."""

    @property
    def url(self) -> str:
        """The address, as a record of the run names it."""

    @property
    def num_ctx(self) -> int:
        """The context window of a call in tokens."""

    @property
    def slots(self) -> int:
        """How many calls are answered at once."""

    @property
    def parallel(self) -> int:
        """How many calls a run makes at once."""

    @property
    def is_managed(self) -> bool:
        """Whether the server was started here."""

    def allow_parallel(self, least: int | None) -> AbstractContextManager[None]:
        """Let at least so many calls be in flight while this lasts."""

    async def ensure_model(self, *models: str) -> None:
        """Make further models ready."""

    async def find_judges(self, *models: str) -> tuple[Judge, ...]:
        """Return how each model labels."""

    async def is_up(self, model: str | None = None) -> bool:
        """Return whether a server answers, with the model in its memory."""

    async def ask(self, question: Question, model: str | None = None) -> Answer:
        """Return the answer to a question about one sentence."""
