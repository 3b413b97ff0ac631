"""
An await without anyio's checkpoints: the places where a coroutine that has all it needs lets the
other tasks run first.

httpx has seven of them between a reply and the next request. Calls that end at the same time would
take turns at each: all their next requests would be late, and they would end at the same time
again. Without them the first call has sent its next request before the second one is looked at.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["skip_checkpoints"]

T = TypeVar("T")
MAX_SKIPPED = 100  # in a row: work that looks for another task again and again needs it to run


@types.coroutine
def skip_checkpoints(work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await `work`; other tasks run only while it waits for something."""
    resume: Callable[[Any], Any] = work.send
    given: BaseException | None = None
    skipped = 0
    while True:
        try:
            waits_for = resume(given)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # of `work`
        resume, given = work.send, None
        if waits_for is None and skipped < MAX_SKIPPED:  # a bare yield waits for nothing
            skipped += 1
            continue
        skipped = 0
        try:
            yield waits_for
        except BaseException as exc:  # noqa: BLE001  a cancel, for one: it is for the work
            resume, given = work.throw, exc
