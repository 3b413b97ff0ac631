"""
Pickle the tasks and selections of `selection` for another process or machine.

A task is pickled whole. A selection is pickled without the documents and families of its task: it
refers to them by position, and unpickling inserts the caller's objects. So no document text is sent
back. Unpickle bytes from your own workers only.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from urisk_nb.risk.families import Family, load_families
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.selection import (
    EvidenceSelection,
    SelectionTask,
    keep_shared,
    select_evidence,
)

if TYPE_CHECKING:
    from urisk_nb.risk.selection import Split

__all__ = [
    "decode_selection",
    "decode_task",
    "encode_selection",
    "encode_task",
    "select_bytes",
]

PROTOCOL = 5
MAX_FAMILIES = 4  # family files that are kept compiled
MAX_SHARED = 500  # shared documents whose sentences a worker caches

FAMILIES, DOCUMENT, FAMILY = "families", "document", "family"


def encode_task(task: SelectionTask) -> bytes:
    """Return a task as bytes, with the texts of its documents."""
    buffer = io.BytesIO()
    _TaskPickler(buffer, PROTOCOL).dump(task)
    return buffer.getvalue()


def decode_task(data: bytes) -> SelectionTask:
    """Return the task; tasks with equal families share them, compiled once per process."""
    task: SelectionTask = _TaskUnpickler(io.BytesIO(data)).load()
    return task


def encode_selection(selection: EvidenceSelection, task: SelectionTask) -> bytes:
    """Return a selection as bytes, without the documents and families of the task."""
    buffer = io.BytesIO()
    _SelectionPickler(buffer, task).dump(selection)
    return buffer.getvalue()


def decode_selection(data: bytes, task: SelectionTask) -> EvidenceSelection:
    """
    Return the selection.

    Parameters
    ----------
    task
        The task of the selection, or an equal one; the selection refers to its documents and
        families.
    """
    selection: EvidenceSelection = _SelectionUnpickler(io.BytesIO(data), task).load()
    return selection


def select_bytes(data: bytes) -> bytes:
    """Run a task given as bytes on a worker, and return its selection as bytes."""
    task = decode_task(data)
    return encode_selection(select_evidence(task, _keep_shared()), task)


@functools.cache
def _keep_shared() -> Split:
    """Return one `split` for all tasks of this process."""
    return keep_shared(MAX_SHARED)


# Tasks --------------------------------------------------------------------------------------------


class _TaskPickler(pickle.Pickler):
    """Pickles the families once for all tasks, as a separate pickle."""

    def persistent_id(self, obj: Any) -> tuple[str, bytes] | None:
        if type(obj) is tuple and obj and type(obj[0]) is Family:
            return FAMILIES, _pickle_families(obj)
        return None


class _TaskUnpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> tuple[Family, ...]:
        return _unpickle_families(pid[1])


@functools.lru_cache(MAX_FAMILIES)
def _pickle_families(families: tuple[Family, ...]) -> bytes:
    return pickle.dumps(families, PROTOCOL)


@functools.lru_cache(MAX_FAMILIES)
def _unpickle_families(data: bytes) -> tuple[Family, ...]:
    families: tuple[Family, ...] = pickle.loads(data)  # noqa: S301  from `_pickle_families`
    return families


# Selections ---------------------------------------------------------------------------------------


class _SelectionPickler(pickle.Pickler):
    """Refers to documents and families by their positions in the task."""

    def __init__(self, buffer: io.BytesIO, task: SelectionTask) -> None:
        super().__init__(buffer, PROTOCOL)
        self._documents = _Positions(_list_documents(task))
        self._families = _Positions(_list_families(task))

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        kind = type(obj)  # called for every object, so it is kept short
        if kind is Document:
            return DOCUMENT, self._documents.find(obj)
        if kind is Family:
            return FAMILY, self._families.find(obj)
        return None


class _SelectionUnpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, task: SelectionTask) -> None:
        super().__init__(buffer)
        self._known = {DOCUMENT: _list_documents(task), FAMILY: _list_families(task)}

    def persistent_load(self, pid: Any) -> Document | Family:
        kind, position = pid
        found: Document | Family = self._known[kind][position]
        return found


class _Positions:
    """The positions of objects; an equal one also counts, as a shared document may be a copy."""

    def __init__(self, objects: Iterable[Any]) -> None:
        self._objects = tuple(objects)
        self._by_id = {id(one): position for position, one in enumerate(self._objects)}

    def find(self, wanted: Any) -> int:
        position = self._by_id.get(id(wanted))
        if position is None:
            # Compared once; the id stays valid while the object is being pickled
            position = self._by_id[id(wanted)] = self._objects.index(wanted)
        return position


def _list_documents(task: SelectionTask) -> tuple[Document, ...]:
    return (*task.documents, *(task.previous or ()))


def _list_families(task: SelectionTask) -> tuple[Family, ...]:
    return tuple(task.families or load_families())
