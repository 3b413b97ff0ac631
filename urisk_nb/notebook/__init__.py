"""The notebook: magics that parse and hand over, and the dashboard.

It knows IPython and widgets. It does not know how an answer or a table is made. Everything shown is
escaped: model text and evidence are hostile.

`%load_ext urisk_nb` runs this file only, and must take milliseconds: the magics are imported when
you use the first of them, or ask for its help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from urisk_nb import process_state

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["register", "unregister"]

MAGICS = {
    "ask": "line_cell",
    "risk": "line_cell",
    "urisk_dashboard": "line",
    "urisk_latency": "line",
    "urisk_nest": "line",
    "urisk_start": "line",
    "urisk_status": "line",
    "urisk_stop": "line",
}


class _Magic:
    """A magic under its name; its help is made when you ask for it."""

    # IPython would otherwise put its own variables into {braces} of the line.
    _ipython_magic_no_var_expand = True

    def __init__(self, shell: InteractiveShell, name: str) -> None:
        self.shell, self.__name__ = shell, name

    @property
    # A plain str on classes; here it is made on demand.
    def __doc__(self) -> str:  # type: ignore[override]
        from urisk_nb.notebook import magics

        return magics.format_help_of(self.__name__)

    def __call__(self, line: str, cell: str | None = None) -> Any:
        from urisk_nb.notebook import magics

        return magics.run(self.shell, self.__name__, line, cell)


def register(shell: InteractiveShell) -> None:
    """Put the magics into the shell; doing it again replaces them by the same."""
    for name, kind in MAGICS.items():
        # IPython's record_magic decorator is untyped
        shell.register_magic_function(_Magic(shell, name), magic_kind=kind, magic_name=name)  # type: ignore[call-arg,arg-type]
    # At its end the manager asks whether this is a restart: then its server is kept warm for a
    # while.
    process_state.put("is_restart", lambda: _is_restart(shell))


def _is_restart(shell: InteractiveShell) -> bool:
    """Whether the kernel ends in order to start again, by the message that tells it to end."""
    message = getattr(getattr(shell, "kernel", None), "_shutdown_message", None) or {}
    return bool(message.get("content", {}).get("restart"))


def unregister(shell: InteractiveShell) -> None:
    """Take out what `register` put in; IPython itself offers no way."""
    process_state.forget("is_restart")
    if (dashboard := process_state.get("dashboard")) is not None:
        dashboard.close()
    for name in MAGICS:
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop(name, None)
