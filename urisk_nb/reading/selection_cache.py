"""
What was selected before in this process, by content: the same cell again reads nothing again.

A selection is kept packed, without the texts of its documents, and given for a task whose contents
are the same. Any change of a document, of a parameter that the selection depends on, or of the
families is another task.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from threading import Lock

import urisk_nb
from urisk_nb import process_state
from urisk_nb.risk.families import hash_families
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.selection import EvidenceSelection, SelectionMapper, SelectionTask
from urisk_nb.risk.task_bytes import decode_selection, encode_selection

__all__ = ["MAX_BYTES", "READ_PARAMS", "SelectionCache", "find_cache", "hash_task", "remember"]

MAX_BYTES = 64_000_000
MIN_CHARS = 20_000  # of the documents of a task: fewer are read faster than they are kept
LEVEL = 1  # of zlib: a tenth of the time for a quarter more bytes
READ_PARAMS = ("as_of", "query", "max_sentences", "llm")  # what a selection depends on
NAME = "selections"


class SelectionCache:
    """Packed selections by the hash of their task; those used last stay, up to some bytes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.held_bytes = max_bytes, 0
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = Lock()

    def find(self, key: bytes) -> bytes | None:
        """Return what is kept under a key, or None."""
        with self._lock:
            if (packed := self._entries.get(key)) is None:
                return None
            self._entries.move_to_end(key)
        return zlib.decompress(packed)

    def keep(self, key: bytes, data: bytes) -> None:
        """Keep bytes under a key, and drop what was used longest ago where they are too many."""
        packed = zlib.compress(data, LEVEL)
        with self._lock:
            self.held_bytes += len(packed) - len(self._entries.pop(key, b""))
            self._entries[key] = packed
            while self.held_bytes > self.max_bytes:
                self.held_bytes -= len(self._entries.popitem(last=False)[1])


def find_cache() -> SelectionCache:
    """Return the cache of this process; it survives a reload of the package."""
    cache: SelectionCache = process_state.setdefault(NAME, SelectionCache)
    return cache


def remember(map_selections: SelectionMapper, cache: SelectionCache) -> SelectionMapper:
    """Return a mapper that does only the tasks whose selection is not in the cache."""

    def map_new(tasks: Iterable[SelectionTask]) -> Iterator[EvidenceSelection]:
        taken: deque[_Taken] = deque()

        def list_new() -> Iterator[SelectionTask]:
            for task in tasks:
                taken.append(_Taken(task, cache))
                if taken[-1].known is None:
                    yield task

        # Each of them is of the first task that is not known
        for selection in map_selections(list_new()):
            yield from _take_known(taken)
            taken.popleft().keep(selection)
            yield selection
        yield from _take_known(taken)

    return map_new


class _Taken:
    """A task, and its selection where that is known."""

    def __init__(self, task: SelectionTask, cache: SelectionCache) -> None:
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
        except Exception:  # noqa: BLE001  kept by a version of the package that was reloaded since
            return None

    def keep(self, selection: EvidenceSelection) -> None:
        if self._key is not None:
            self._cache.keep(self._key, encode_selection(selection, self._task))


def _take_known(taken: deque[_Taken]) -> Iterator[EvidenceSelection]:
    while taken and (known := taken[0].known) is not None:
        taken.popleft()
        yield known


def hash_task(task: SelectionTask) -> bytes:
    """Return a hash of all that the selection depends on."""
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
    """Add all of a document but its origins: where its text stood in the file selects nothing."""
    text = one.text.encode("utf-8", "surrogatepass")
    beside = (one.id, one.ticker, one.date, one.source, one.kind, one.form, one.period_end)
    digest.update(repr((*beside, one.sections, len(text))).encode("utf-8", "surrogatepass"))
    digest.update(text)
