"""What a run adds, written in batches by another thread, so that no call waits for a disk.

Twice a second at most: a transaction waits for the disk several times, whatever it holds. A kernel
that is killed loses what came since the last one, and asks for it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from urisk_nb.errors import JournalUnusable
from urisk_nb.journal.store import Batch, DeferredEntry, Entry, Store

__all__ = ["Writer"]

PAUSE_S = 0.5


class Writer:
    """
    Adds entries of one run; used on one loop.

    The first failure ends it: what comes later is dropped, and `fault` says why. It raises nothing.

    Parameters
    ----------
    store
        Used by the writer alone from here on.
    run
        The run's id.
    """

    def __init__(self, store: Store, run: str) -> None:
        self.fault: JournalUnusable | None = None
        self._store, self._run = store, run
        self._batch = Batch(run)
        self._pause: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    def add(
        self,
        *,
        objects: Iterable[Entry | DeferredEntry] = (),
        answers: Iterable[Entry] = (),
        records: Iterable[Entry] = (),
    ) -> None:
        """Take entries in; they are written within half a second, in their order."""
        if self.fault is not None:
            return
        self._batch.objects.extend(objects)
        self._batch.answers.extend(answers)
        self._batch.records.extend(records)
        if self._pause is None:
            self._pause = asyncio.get_running_loop().create_task(self._write_later())

    async def _write_later(self) -> None:
        await asyncio.sleep(PAUSE_S)
        await asyncio.shield(self._writing or self._begin())
        self._pause = None  # only now: between two transactions others may read and write
        if len(self._batch):
            self._pause = asyncio.get_running_loop().create_task(self._write_later())

    def _begin(self) -> asyncio.Task[None]:
        batch, self._batch = self._batch, Batch(self._run)
        self._writing = asyncio.get_running_loop().create_task(self._write(batch))
        return self._writing

    async def flush(self) -> None:
        """Return when all that was taken in is on the disk, or `fault` says why it is not."""
        while self._writing is not None or len(self._batch):
            # A cancel ends the wait and not the transaction
            await asyncio.shield(self._writing or self._begin())

    async def _write(self, batch: Batch) -> None:
        try:
            if self.fault is None:
                await asyncio.get_running_loop().run_in_executor(None, self._store.add, batch)
        except JournalUnusable as exc:
            self.fault = exc
        finally:
            self._writing = None

    async def close(self) -> None:
        """Write what is left, and close the file."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        await self.flush()
        self._store.close()
