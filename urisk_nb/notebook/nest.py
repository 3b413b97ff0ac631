"""`%urisk_nest`: nested loops for the user's own cells, where that is safe.

A cell that calls `asyncio.run(...)` fails in a notebook, whose loop is running already.
nest_asyncio and its successor nest_asyncio2 patch asyncio so that it works. urisk_nb never needs
this and never nests: its calls wait on a loop of their own.

It knows which pair of library and ipykernel loses cells. With ipykernel >= 7.1 all cells run in one
context, which nest_asyncio and nest_asyncio2 before 1.7.3 enter twice; every cell queued behind a
nested call is then dropped without a word.
"""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import dataclass
from typing import Any

from urisk_nb.errors import InputError, PackageMissing, UriskError
from urisk_nb.terminal_text import visible

__all__ = [
    "LoopState",
    "choose",
    "describe_hazard",
    "list_status",
    "read_loop_state",
    "switch",
    "warn_of_dropped_cells",
]

Version = tuple[int, ...]

SUCCESSOR, OLD_SUCCESSOR, ORIGINAL = "nest_asyncio2", "nest_asyncio2 before 1.7.3", "nest_asyncio"
SUCCESSOR_SAFE_FROM: Version = (1, 7, 3)
ONE_CONTEXT_FROM: Version = (7, 1)  # ipykernel
ORIGINAL_UNFIT_FROM: Version = (3, 12)  # Python
NESTED = "nested asyncio.run"  # the row of the status that says whether it works
RESTART = (
    "restart the kernel, leave out the line that calls apply(), and run %urisk_nest on instead"
)
INSTALL = '%pip install "nest-asyncio2>=1.7.3", restart the kernel, then %urisk_nest on'


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """
    What the decision depends on.

    `python`, `ipykernel`, `original` and `successor` are versions, None where the thing is not
    there; `patched_by` is one of
    `SUCCESSOR`, `OLD_SUCCESSOR`, `ORIGINAL` or None; `loop` is the running loop's type, None where
    no loop runs;
    `own_loop` is whether it is one of asyncio's own.
    """

    python: Version
    ipykernel: Version | None
    original: Version | None
    successor: Version | None
    patched_by: str | None = None
    loop: str | None = None
    own_loop: bool = True


# Decide: pure functions of the facts --------------------------------------------------------------


def describe_hazard(library: str, known: LoopState) -> str:
    """Return what goes wrong with this library here; empty where nothing does."""
    if library == SUCCESSOR:
        return ""
    if known.ipykernel is not None and known.ipykernel >= ONE_CONTEXT_FROM:
        return (
            f"{library} with ipykernel {_format_version(known.ipykernel)} silently drops the cells "
            "queued behind a nested call (Run All)"
        )
    if library == ORIGINAL and known.python >= ORIGINAL_UNFIT_FROM:
        python = _format_version(known.python)
        return f"nest_asyncio is no longer maintained and does not fit Python {python}"
    return ""


def choose(known: LoopState) -> str | None:
    """
    Return the library to apply, or None where nothing is to be done.

    Raises
    ------
    InputError
        The loop is not asyncio's own, or asyncio is patched already by a library that is not safe
        here.
    PackageMissing
        No library that is safe here is installed.
    """
    if known.patched_by is not None and (reason := describe_hazard(known.patched_by, known)):
        raise InputError(f"asyncio is patched already, and {reason}.", fix=RESTART)
    if known.loop is None or known.patched_by is not None:
        return None
    if not known.own_loop:
        raise InputError(
            f"the kernel runs on {known.loop}, and only asyncio's own loops can be nested.",
            fix="start the kernel without that loop, or write `await main()` in place of "
            "`asyncio.run(main())`",
        )
    return _choose_package(known)


def _choose_package(known: LoopState) -> str:
    if known.successor is not None and known.successor >= SUCCESSOR_SAFE_FROM:
        return SUCCESSOR
    if known.original is not None and not (reason := describe_hazard(ORIGINAL, known)):
        return ORIGINAL
    there = (
        f"nest_asyncio2 {_format_version(known.successor)} is older than 1.7.3"
        if known.successor
        else "nest_asyncio2 is not installed"
    )
    raise PackageMissing(f"{there}{f', and {reason}' if known.original else ''}.", fix=INSTALL)


def list_status(known: LoopState, *, by_magic: bool = False) -> dict[str, str]:
    """Return what `%urisk_nest status` shows; `by_magic`: `%urisk_nest on` applied the library."""
    if known.patched_by is not None:
        reason = describe_hazard(known.patched_by, known)
        who = "%urisk_nest on" if by_magic else "applied by other code"
        rows = {
            NESTED: f"on, by {_add_version(known.patched_by, known)} ({who})",
            "this pair": f"NOT SAFE: {reason}" if reason else "safe",
            "to change it": RESTART
            if reason
            else "restart the kernel; neither library can be undone",
        }
    elif known.loop is None:
        rows = {NESTED: "not needed: no loop runs here, so asyncio.run works as it is"}
    else:
        rows = {NESTED: "off: a cell that calls it fails", "%urisk_nest on": _predict(known)}
    kernel = _format_version(known.ipykernel) if known.ipykernel else "not a kernel"
    return {**rows, "loop": known.loop or "none is running", "ipykernel": kernel}


def _predict(known: LoopState) -> str:
    try:
        return f"would apply {_add_version(choose(known) or '', known)}; safe with this kernel"
    except UriskError as exc:
        return f"refuses: {exc.message} Fix: {exc.fix}"


def _add_version(library: str, known: LoopState) -> str:
    version = {SUCCESSOR: known.successor, ORIGINAL: known.original}.get(library)
    return f"{library} {_format_version(version)}" if version else library


# Look ---------------------------------------------------------------------------------------------


def read_loop_state() -> LoopState:
    """Return the facts of this process, seen from the thread that runs the cell."""
    loop = _find_loop()
    return LoopState(
        python=sys.version_info[:2],
        ipykernel=_read_kernel_version(),
        original=_read_version("nest-asyncio"),
        successor=_read_version("nest-asyncio2"),
        patched_by=_find_patch(loop),
        loop=None if loop is None else f"{type(loop).__module__}.{type(loop).__qualname__}",
        own_loop=isinstance(loop, asyncio.BaseEventLoop),
    )


def _find_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _read_kernel_version() -> Version | None:
    """The version of the kernel that runs, which %pip may have replaced on the disk."""
    module = sys.modules.get("ipykernel")
    return (
        None
        if module is None
        else tuple(part for part in module.version_info if isinstance(part, int))
    )


def _read_version(package: str) -> Version | None:
    from importlib import metadata

    try:
        return tuple(int(part) for part in re.findall(r"\d+", metadata.version(package))[:3])
    except metadata.PackageNotFoundError:
        return None


def _find_patch(loop: asyncio.AbstractEventLoop | None) -> str | None:
    """
    Return the library that patched asyncio, by the attributes that it sets: both set the first one,
    the successor also the second, and from its fix on the third.
    """
    if not hasattr(asyncio, "_nest_patched"):
        return None
    if not hasattr(asyncio, "_nest_asyncio2"):
        return ORIGINAL
    # The fix is an attribute of the patched loop's class; where no patched loop runs, nothing can
    # be held against it.
    return (
        OLD_SUCCESSOR
        if hasattr(loop, "_nest_patched") and not hasattr(loop, "_nest_deferred")
        else SUCCESSOR
    )


def _format_version(version: Version) -> str:
    return ".".join(map(str, version))


# Act ----------------------------------------------------------------------------------------------


class _Done:
    """What happened in this kernel."""

    applied = False  # by %urisk_nest on
    warned = False


def switch(word: str) -> str | dict[str, str]:
    """
    Do what `%urisk_nest WORD` asks for; return the text, or the rows, to show.

    Raises
    ------
    InputError
        No such word, or as `choose`.
    PackageMissing
        As `choose`.
    """
    known = read_loop_state()
    if word == "status":
        return list_status(known, by_magic=_Done.applied)
    if word == "off":
        # Neither library keeps what it replaced, and running tasks are of the replaced kind: there
        # is no way back in this process.
        if known.patched_by is None:
            return "Nothing to turn off: asyncio is not patched."
        return (
            f"Still on: {_add_version(known.patched_by, known)} cannot be undone in a running "
            "kernel. Restart the kernel; it starts with it off."
        )
    if word != "on":
        raise InputError(
            f"%urisk_nest: {word!r} is none of on, off and status.",
            fix="%urisk_nest on, %urisk_nest off or %urisk_nest status",
        )
    library = choose(known)
    if library is None:
        return f"Nothing to do: {list_status(known, by_magic=_Done.applied)[NESTED]}."
    _import(library).apply(_find_loop())
    _Done.applied = True
    return (
        f"On, by {_add_version(library, known)}: cells may call asyncio.run(...) and "
        "loop.run_until_complete(...). Interrupting such a cell can also stop other tasks on the "
        "kernel's loop. Only a kernel restart turns it off."
    )


def _import(name: str) -> Any:
    # Each is imported by its name in the code, so that what is imported where stays visible to the
    # tests of the architecture.
    if name == SUCCESSOR:
        import nest_asyncio2

        return nest_asyncio2
    import nest_asyncio

    return nest_asyncio


def warn_of_dropped_cells() -> None:
    """
    Warn once in a kernel where other code applied a library that drops queued cells. Every magic
    calls it, so it is cheap.
    """
    if _Done.warned or not hasattr(asyncio, "_nest_patched"):
        return
    library, ipykernel = _find_patch(_find_loop()), _read_kernel_version()
    if library in (ORIGINAL, OLD_SUCCESSOR) and ipykernel and ipykernel >= ONE_CONTEXT_FROM:
        _Done.warned = True
        reason = describe_hazard(library, read_loop_state())
        print(f"Warning: {visible(reason)}.\n  Fix: {RESTART}.", file=sys.stderr)
