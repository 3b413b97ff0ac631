"""
Cache selections by content, so that the same cell again selects nothing again.

A selection is stored compressed, without the texts of its documents, and returned for a task with
the same content. A change of a document, of a parameter that the selection depends on, or of the
families makes another task.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator

import urisk_nb
from urisk_nb.reading.packed_cache import PackedCache
from urisk_nb.risk.families import hash_families
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.selection import EvidenceSelection, SelectionMapper, SelectionTask
from urisk_nb.risk.task_bytes import decode_selection, encode_selection

__all__ = ["READ_PARAMS", "hash_task", "remember"]

MIN_CHARS = 20_000  # of a task's documents: shorter ones are read faster than stored
READ_PARAMS = ("as_of", "query", "max_sentences", "llm")  # what a selection depends on


def remember(map_selections: SelectionMapper, cache: PackedCache) -> SelectionMapper:
    """Return a mapper that runs only tasks whose selection is not in the cache."""

    def map_new(tasks: Iterable[SelectionTask]) -> Iterator[EvidenceSelection]:
        taken: deque[_Taken] = deque()

        def list_new() -> Iterator[SelectionTask]:
            for task in tasks:
                taken.append(_Taken(task, cache))
                if taken[-1].known is None:
                    yield task

        # Each selection belongs to the first task that was not in the cache
        for selection in map_selections(list_new()):
            yield from _take_known(taken)
            taken.popleft().keep(selection)
            yield selection
        yield from _take_known(taken)

    return map_new


class _Taken:
    """A task, and its selection if that is in the cache."""

    def __init__(self, task: SelectionTask, cache: PackedCache) -> None:
        self._task, self._cache = task, cache
        is_long = sum(one.length for one in task.documents) >= MIN_CHARS
        self._key = hash_task(task) if is_long else None
        self.known = self._find()

    def _find(self) -> EvidenceSelection | None:
        data = None if self._key is None else self._cache.find(self._key)
        if data is None:
            return None
        try:
            return decode_selection(data, self._task)
        except Exception:  # noqa: BLE001  written before the package was reloaded
            return None

    def keep(self, selection: EvidenceSelection) -> None:
        if self._key is not None:
            self._cache.keep(self._key, encode_selection(selection, self._task))


def _take_known(taken: deque[_Taken]) -> Iterator[EvidenceSelection]:
    while taken and (known := taken[0].known) is not None:
        taken.popleft()
        yield known


def hash_task(task: SelectionTask) -> bytes:
    """Return a hash of everything that the selection depends on."""
    digest = hashlib.blake2b(digest_size=32)
    params = [getattr(task.params, name) for name in READ_PARAMS]
    families = None if task.families is None else hash_families(task.families)
    given = (
        urisk_nb.__version__,
        task.holding.symbol,
        params,
        task.taxonomy.hash,
        task.examples,
        task.as_of,
        families,
        len(task.documents),
        None if task.previous is None else len(task.previous),
    )
    digest.update(repr(given).encode())
    for document in (*task.documents, *(task.previous or ())):
        _add_document(digest, document)
    return digest.digest()


def _add_document(digest: hashlib.blake2b, one: Document) -> None:
    """Add a document to a hash, without its origins, which do not affect the selection."""
    text = one.text.encode("utf-8", "surrogatepass")
    beside = (one.id, one.ticker, one.date, one.source, one.kind, one.form, one.period_end)
    digest.update(repr((*beside, one.sections, len(text))).encode("utf-8", "surrogatepass"))
    digest.update(text)
