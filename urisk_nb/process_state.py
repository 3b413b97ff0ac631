"""What lives once per process: state that survives reload and re-import, and ends with the process.

`importlib.reload`, `%autoreload` and `del sys.modules[...]` make new classes and new module
globals, so a singleton kept there would be duplicated, with a second exit handler. The state is
therefore kept in a module object of its own in `sys.modules`, keyed by process id: a forked child
finds none and makes its own, and never stops what belongs to its parent.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from urisk_nb.terminal_text import visible

__all__ = ["at_exit", "forget", "get", "lock", "put", "setdefault"]

NAME = "_urisk_nb_runtime"


def _get_home() -> ModuleType:
    module = sys.modules.get(NAME)
    if module is not None:
        return module
    made = ModuleType(NAME, "State of urisk_nb that survives a reload of the package.")
    _begin(made)
    # Atomic: a lock around it could be held by another thread at a fork
    module = sys.modules.setdefault(NAME, made)
    if module is made:
        atexit.register(_close_all, module)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: _reset_after_fork(module))
    return module


def _begin(module: ModuleType) -> None:
    module.__dict__.update(pid=os.getpid(), values={}, closers={}, lock=threading.RLock())


def _reset_after_fork(module: ModuleType) -> None:
    """
    In the child: the parent's loop thread does not exist here, its sockets must not be used, its
    lock may be held for ever.
    """
    kept = module.values
    _begin(module)
    # Held on to: what is finalized here must not reach into what is shared with the parent
    module.__dict__["parents"] = kept


def lock() -> threading.RLock:
    """Return the lock under which state is made; re-entrant."""
    return _get_home().lock  # type: ignore[no-any-return]  # an attribute of a plain module object


def get(name: str) -> Any:
    """Return what was put under the name in this process, or None."""
    return _get_home().values.get(name)


def put(name: str, value: Any) -> None:
    """Keep the value under the name until the process ends."""
    _get_home().values[name] = value


def setdefault(name: str, make: Callable[[], Any]) -> Any:
    """Return what is kept under the name, made once if there is nothing yet."""
    with lock():
        values = _get_home().values
        if name not in values:
            values[name] = make()
        return values[name]


def forget(name: str) -> None:
    """Drop what is kept under the name, its closer too."""
    home = _get_home()
    home.values.pop(name, None)
    home.closers.pop(name, None)


def at_exit(name: str, close: Callable[[], None]) -> None:
    """
    Call `close` once when this process ends in an orderly way; what was registered last is called
    first.

    A later call under the same name takes the place of the one before it; `forget` first to become
    the last.
    """
    _get_home().closers[name] = close


def _close_all(module: ModuleType) -> None:
    if module.pid != os.getpid():
        # A forked child that ends normally runs the inherited handler: the state is its parent's
        return
    for close in reversed(list(module.closers.values())):
        try:
            close()
        except Exception as exc:  # noqa: BLE001  one closer's failure must not keep the others from closing
            print(f"urisk_nb: while closing: {visible(str(exc))}", file=sys.stderr)
    module.closers.clear()
