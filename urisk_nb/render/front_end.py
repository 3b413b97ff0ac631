"""
What shows our outputs: a notebook, whose displays can be changed, or something that only prints.

A kernel isn't told which front end it has. Its starter's command line says it for consoles: they
start their kernels themselves, and drop every update of a display.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import PurePath

__all__ = ["in_console", "is_console", "updates_displays"]

CONSOLES = {"jupyter-console", "jupyter-qtconsole", "qtconsole", "spyder"}


def updates_displays() -> bool:
    """Tell whether a display can be changed after it was shown: in a notebook it can."""
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None and not in_console()


def in_console() -> bool:
    """Tell whether this kernel was started by a console, which shows text as a terminal does."""
    return is_console(_find_starter())


def is_console(command: Sequence[str]) -> bool:
    """Tell whether this command line is a console's: `jupyter-console`, `python -m qtconsole`."""
    names = [_name_program(word) for word in command]
    # Behind the interpreter and its options: a module, a script or a folder of one, or a program
    # whose first word is another one's name
    if names and names[0].startswith("python"):
        start = next((n for n, name in enumerate(names) if n and name), len(names))
        names = names[start:]
    if names[:1] == ["jupyter"]:
        names = [f"jupyter-{name}" for name in names[1:2]]
    return names[:1] != [] and names[0] in CONSOLES


def _name_program(word: str) -> str:
    """Return a program's name without folder and ending; empty for an option."""
    if word.startswith("-"):
        return word[2:].replace("_", "-") if word.startswith("-m") else ""
    path = PurePath(word.replace("\\", "/"))
    name = path.parent.name if path.name == "__main__.py" else path.name
    name = name.lower().replace("_", "-").removesuffix(".exe").removesuffix(".py")
    return name.removesuffix("-script")


@functools.cache
def _find_starter() -> tuple[str, ...]:
    """Return the command line of the program that started this kernel; empty where it's none."""
    parent = os.environ.get("JPY_PARENT_PID", "")
    if not parent.isdigit():
        return ()
    import psutil

    try:
        # On Windows the variable holds a handle
        return tuple(psutil.Process(os.getppid() if os.name == "nt" else int(parent)).cmdline())
    except psutil.Error:  # it has ended, or belongs to another account
        return ()
