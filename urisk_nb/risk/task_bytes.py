"""
The tasks and selections of `selection`, packed for another process or another machine.

A task is packed whole. A selection is packed without the documents and the families of its task:
they are named by their places, and whoever unpacks it puts the caller's own ones there. So no text
of a document travels back. The bytes are pickles: unpack those of your own workers only.
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
MAX_FAMILIES = 4  # files of families that are kept unpacked: to compile them takes a while
MAX_SHARED = 500  # shared documents whose sentences a worker keeps

FAMILIES, DOCUMENT, FAMILY = "families", "document", "family"


def encode_task(task: SelectionTask) -> bytes:
    """Return a task as bytes, the texts of its documents included."""
    buffer = io.BytesIO()
    _TaskPickler(buffer, PROTOCOL).dump(task)
    return buffer.getvalue()


def decode_task(data: bytes) -> SelectionTask:
    """Return the task again. Tasks with equal families share them, compiled once a process."""
    task: SelectionTask = _TaskUnpickler(io.BytesIO(data)).load()
    return task


def encode_selection(selection: EvidenceSelection, task: SelectionTask) -> bytes:
    """Return a selection as bytes, without the documents and families of the task."""
    buffer = io.BytesIO()
    _SelectionPickler(buffer, task).dump(selection)
    return buffer.getvalue()


def decode_selection(data: bytes, task: SelectionTask) -> EvidenceSelection:
    """
    Return the selection again.

    Parameters
    ----------
    task
        An equal one to that which the selection was made of: its documents and families are those
        of the selection, the very objects.
    """
    selection: EvidenceSelection = _SelectionUnpickler(io.BytesIO(data), task).load()
    return selection


def select_bytes(data: bytes) -> bytes:
    """Do a task that comes as bytes, and return its selection as bytes: what a worker calls."""
    task = decode_task(data)
    return encode_selection(select_evidence(task, _keep_shared()), task)


@functools.cache
def _keep_shared() -> Split:
    """Return one `split` for all tasks of this process."""
    return keep_shared(MAX_SHARED)


# Tasks --------------------------------------------------------------------------------------------


class _TaskPickler(pickle.Pickler):
    """Packs the families once for all tasks, as a pickle of their own."""

    def persistent_id(self, obj: Any) -> tuple[str, bytes] | None:
        if type(obj) is tuple and obj and type(obj[0]) is Family:
            return FAMILIES, _pack_families(obj)
        return None


class _TaskUnpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> tuple[Family, ...]:
        return _unpack_families(pid[1])


@functools.lru_cache(MAX_FAMILIES)
def _pack_families(families: tuple[Family, ...]) -> bytes:
    return pickle.dumps(families, PROTOCOL)


@functools.lru_cache(MAX_FAMILIES)
def _unpack_families(data: bytes) -> tuple[Family, ...]:
    families: tuple[Family, ...] = pickle.loads(data)  # noqa: S301  of `_pack_families`
    return families


# Selections ---------------------------------------------------------------------------------------


class _SelectionPickler(pickle.Pickler):
    """Names documents and families by their places in the task."""

    def __init__(self, buffer: io.BytesIO, task: SelectionTask) -> None:
        super().__init__(buffer, PROTOCOL)
        self._documents = _Places(_list_documents(task))
        self._families = _Places(_list_families(task))

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        kind = type(obj)  # asked of each object: two comparisons
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
        kind, place = pid
        found: Document | Family = self._known[kind][place]
        return found


class _Places:
    """Finds the place of an object, or of an equal one: a shared document may be another task's."""

    def __init__(self, objects: Iterable[Any]) -> None:
        self._objects = tuple(objects)
        self._by_id = {id(one): place for place, one in enumerate(self._objects)}

    def find(self, wanted: Any) -> int:
        place = self._by_id.get(id(wanted))
        if place is None:
            # Each sentence names its document: it is compared once. It lives while it is pickled
            place = self._by_id[id(wanted)] = self._objects.index(wanted)
        return place


def _list_documents(task: SelectionTask) -> tuple[Document, ...]:
    return (*task.documents, *(task.previous or ()))


def _list_families(task: SelectionTask) -> tuple[Family, ...]:
    return tuple(task.families or load_families())
