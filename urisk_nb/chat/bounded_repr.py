"""The text of any object, in a bounded length and a bounded time, whatever its class does.

A `__repr__` may raise, never end, or give a gigabyte. None of this reaches the caller.
"""

from __future__ import annotations

import reprlib
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Any

from urisk_nb.risk.values import describe_type

__all__ = ["MAX_CHARS", "describe_object"]

MAX_CHARS = 2000
MAX_S = 0.5
_PLAIN = (str, int, float, bool, type(None))
_SLOW: weakref.WeakSet[type] = (
    weakref.WeakSet()
)  # types whose text took too long: one time is enough
TOO_LONG = "its text takes too long"


class _TooLong(BaseException):
    """Ends a `__repr__` at its deadline; no `except Exception` of its class stops it."""


def describe_object(value: object, limit: int = MAX_CHARS, max_s: float = MAX_S) -> str:
    """
    Return the text of an object; where it has none, its type and why.

    Parameters
    ----------
    limit
        The most characters.
    max_s
        How long its `__repr__` may take, seconds.
    """
    if type(value) in _PLAIN:
        return _cut(str(value)[: limit + 1], limit)
    if type(value) in _SLOW:
        return _cut(f"{describe_type(value)}: {TOO_LONG}", limit)
    found: list[str] = []

    def read() -> None:
        deadline_s = time.monotonic() + max_s

        def check(_frame: FrameType, _event: str, _arg: Any) -> Any:
            if time.monotonic() > deadline_s:
                raise _TooLong
            return check

        sys.settrace(check)  # of this thread alone
        try:
            text = _read_text(value, limit)
        except _TooLong:
            text = TOO_LONG
        except BaseException as exc:  # noqa: BLE001  whatever a class of the user's raises
            text = f"its text fails with {type(exc).__name__}"
        finally:
            sys.settrace(None)
        found.append(text)

    thread = threading.Thread(target=read, name="urisk_nb repr", daemon=True)
    thread.start()
    thread.join(2 * max_s)  # C code sees no deadline: it is left alone
    return _cut(
        f"{describe_type(value)}: {found[0] if found else 'its text takes too long'}", limit
    )


def _read_text(value: object, limit: int) -> str:
    if type(value) in (list, tuple, dict, set, frozenset):
        short = reprlib.Repr()
        short.maxlist = short.maxtuple = short.maxdict = short.maxset = short.maxfrozenset = 20
        short.maxstring = short.maxother = short.maxlong = limit
        return short.repr(value)
    return repr(value)[: limit + 1]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
