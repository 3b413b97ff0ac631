"""
The steps that a worker runs, and the messages: questions in, answers and errors out.

A step runs on the background loop of the worker's process, where one manager keeps the session with
the host's model server. It is the manager of that process, so the worker's own tasks can use it,
too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from urisk_nb import process_state
from urisk_nb.errors import NotInitialized, UriskError, WorkerLost
from urisk_nb.llm.labels import Judge
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.retrying_client import single_attempts
from urisk_nb.llm.run_calls import mark_suspect
from urisk_nb.llm.setting_changes import Reload
from urisk_nb.llm.written_labels import SchemaSetting
from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.questions import Question
from urisk_nb.risk.taxonomy import Category, Taxonomy
from urisk_nb.settings import Engine

if TYPE_CHECKING:
    from urisk_nb.llm.answers import Answer

__all__ = [
    "FORWARDED",
    "Batch",
    "Replies",
    "ServerReport",
    "answer",
    "connect",
    "drop_forwarded_settings",
    "find_judges",
    "lighten",
]

# The caller's settings that apply on the workers. The server's address and login come from the
# worker's environment.
FORWARDED = ("model", "num_ctx", "keep_alive", "timeout_s", "load_timeout_s", "allow_cloud")
JUDGES = "scale.judges"  # of this process, by model: how each labels, with its latest setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """A model server as its worker sees it; `slots` is what the worker's session allows."""

    engine: Engine
    version: str
    model: str
    judge: str
    num_ctx: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """
    Questions that are sent together.

    Attributes
    ----------
    parallel
        How many parallel calls the run wants at this server; None: what its session allows.
    is_suspect
        Whether its single question may crash a server.
    setting
        What is known of how the model follows a schema.
    """

    questions: tuple[Question | bytes, ...]
    model: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    parallel: int | None = None
    is_suspect: bool = False
    setting: SchemaSetting | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """The answer or error of each question of a batch, in the batch's order."""

    answers: tuple[Answer | UriskError, ...]
    setting: SchemaSetting | None = None


def lighten(question: Question | bytes) -> Question | bytes:
    """
    Return a question as it travels, for the same answer: its sentence without the document, and its
    categories as the package's own.

    A filing has a megabyte, and a class of a notebook is not known on a worker.
    """
    if isinstance(question, bytes):
        return question
    one, taxonomy = question.sentence, question.taxonomy
    document = Document(id=one.document.id, ticker=one.document.ticker, text="")
    categories = tuple(
        Category(id=str(each.id), name=str(each.name), definition=str(each.definition))
        for each in taxonomy.categories
    )
    return replace(
        question,
        sentence=Sentence(id=one.id, document=document, text=one.text, start=0, end=0),
        taxonomy=Taxonomy(categories=categories, version=str(taxonomy.version)),
    )


async def connect(overrides: Mapping[str, Any], models: tuple[str, ...]) -> ServerReport:
    """
    Connect to the worker's server, make its model and `models` ready, and report on it.

    Raises
    ------
    SettingsError, ServerError, ModelError
        As `LLMManager.initialize` and `ensure_model` do.
    """
    if (running := LLMManager.find_instance()) is not None:
        running.overrides = drop_forwarded_settings(running.overrides)
    # From the worker's environment and this run, without the overrides of an earlier run
    manager = await LLMManager.initialize(**overrides, reload=Reload.ALL)
    if others := [model for model in models if model != manager.model]:
        await manager.ensure_model(*others)
    return ServerReport(
        engine=manager.engine,
        version=manager.version,
        model=manager.model,
        judge=manager.judge,
        num_ctx=manager.num_ctx,
        slots=manager.parallel,
    )


async def find_judges(overrides: Mapping[str, Any], models: tuple[str, ...]) -> tuple[Judge, ...]:
    """Return how the worker's server labels with each model."""
    manager = LLMManager.find_instance() or await LLMManager.initialize(**overrides)
    judges = await manager.find_judges(*models)
    _list_judges().update({judge.model: judge for judge in judges})
    return judges


async def answer(batch: Batch) -> Replies:
    """Return the answers to a batch; a UriskError stands in place of its answer."""
    manager = LLMManager.find_instance() or await LLMManager.initialize(**batch.overrides)
    judge = _list_judges().get(batch.model)
    own = None if judge is None else judge.setting
    if own is not None and not own.is_known and batch.setting is not None:
        own.take_over(batch.setting)

    async def ask(question: Question | bytes) -> Answer | UriskError:
        try:
            return await manager.ask(question, batch.model)
        except NotInitialized as exc:  # the session of this worker was shut down
            return WorkerLost(exc.message, fix=exc.fix)
        except UriskError as exc:
            return exc

    with manager.allow_parallel(batch.parallel), single_attempts(), mark_suspect(batch.is_suspect):
        answers = await asyncio.gather(*map(ask, batch.questions))
    return Replies(answers=tuple(answers), setting=own)


def drop_forwarded_settings(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides of a worker's session without those that a run forwards."""
    return {name: value for name, value in overrides.items() if name not in FORWARDED}


def _list_judges() -> dict[str, Judge]:
    judges: dict[str, Judge] = process_state.setdefault(JUDGES, dict)
    return judges
