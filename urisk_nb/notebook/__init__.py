"""The notebook: magics that parse and hand over, and the dashboard.

It knows IPython and widgets. It does not know how an answer or a table is made. Everything shown is
escaped: model text and evidence are hostile.

`%load_ext urisk_nb` runs this file only, and must take milliseconds: the magics are imported when
you use the first of them, or ask for its help.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from urisk_nb import process_state

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["register", "unregister"]

MAGICS = {
    "ask": "line_cell",
    "risk": "line_cell",
    "urisk_chat": "line",
    "urisk_dashboard": "line",
    "urisk_diff": "line",
    "urisk_history": "line",
    "urisk_latency": "line",
    "urisk_nest": "line",
    "urisk_replay": "line",
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


class _Matcher:
    """What IPython's completer calls at each Tab; it leaves all lines but those of the magics."""

    matcher_api_version, matcher_identifier, matcher_priority = 2, "urisk_nb", 200

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.__qualname__ = self.matcher_identifier  # a function has one, and IPython looks for it

    def __call__(self, context: CompletionContext) -> dict[str, Any]:
        # Most lines are not ours: they must not cost the import
        if "%" not in context.full_text:
            return {"completions": [], "suppress": False}
        from urisk_nb.notebook import completion

        return completion.complete(self.shell, context)


def _build_question_transform() -> Any:
    """
    Return the class that reads the lines of %ask before IPython does.

    A question may end in a question mark, which IPython takes for a call for help everywhere else.
    The answer is on the screen when it is there, so a line that assigns it to nothing ends in a
    semicolon, for IPython not to show it again.
    """
    from IPython.core.inputtransformer2 import TokenTransformBase

    class LineOfAsk(TokenTransformBase):
        priority = 1  # of what begins at one place, the lowest number is the first
        at: tuple[int, int]  # where the magic begins: line, column

        @classmethod
        def find(cls, tokens_by_line: Any) -> Any:
            for line in tokens_by_line:
                words = [token.string for token in line]
                at = next((n for n, word in enumerate(words) if word == "%"), len(words))
                # "%ask?" is a call for help, and "x % ask" a remainder
                if words[at + 1 : at + 2] != ["ask"] or "?" in words[at + 2 : at + 3]:
                    continue
                first = next(token for token in line if token.string.strip())
                if line[at] is first or words[at - 1] == "=":
                    found = cls(first.start)
                    found.at = line[at].start
                    return found
            return None

        def transform(self, lines: list[str]) -> list[str]:
            number, column = self.at[0] - 1, self.at[1]
            before, line = lines[number][:column], lines[number][column:]
            if line.rstrip().endswith("\\"):
                raise SyntaxError("a question over several lines")  # IPython joins them
            text = line.removeprefix("%").strip().removeprefix("ask").strip()
            end = ";" if not before.strip() else ""
            call = f"{before}get_ipython().run_line_magic('ask', {text!r}){end}\n"
            return [*lines[:number], call, *lines[number + 1 :]]

    return LineOfAsk


def _keep_empty_cell(lines: list[str]) -> list[str]:
    """
    Give `%%ask What is this?` a body of one empty line: IPython refuses a cell without one before
    we can say where the question goes.
    """
    if lines and re.match(r"%%(ask|risk)(?!\?|\w)", lines[0]) and not "".join(lines[1:]):
        return [lines[0].rstrip("\n") + "\n", "\n"]
    return lines


def register(shell: InteractiveShell) -> None:
    """Put the magics into the shell; doing it again replaces them by the same."""
    _remove_hooks(shell)
    for name, kind in MAGICS.items():
        # IPython's record_magic decorator is untyped
        shell.register_magic_function(_Magic(shell, name), magic_kind=kind, magic_name=name)  # type: ignore[call-arg,arg-type]
    shell.Completer.custom_matchers.append(_Matcher(shell))
    shell.input_transformers_cleanup.append(_keep_empty_cell)
    shell.input_transformer_manager.token_transformers.append(_build_question_transform())
    # At its end the manager asks whether this is a restart: then its server is kept warm for a
    # while.
    process_state.put("is_restart", lambda: _is_restart(shell))


def _is_restart(shell: InteractiveShell) -> bool:
    """Whether the kernel ends in order to start again, by the message that tells it to end."""
    message = getattr(getattr(shell, "kernel", None), "_shutdown_message", None) or {}
    return bool(message.get("content", {}).get("restart"))


def _remove_hooks(shell: InteractiveShell) -> None:
    """Take out the matcher and the transforms, by their names: a reload makes new ones."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [one for one in matchers if type(one).__name__ != _Matcher.__name__]
    manager = shell.input_transformer_manager
    for transforms in (manager.cleanup_transforms, manager.token_transformers):
        transforms[:] = [
            one
            for one in transforms
            if getattr(one, "__name__", "") not in ("_keep_empty_cell", "LineOfAsk")
        ]


def unregister(shell: InteractiveShell) -> None:
    """Take out what `register` put in; IPython itself offers no way."""
    process_state.forget("is_restart")
    _remove_hooks(shell)
    if (dashboard := process_state.get("dashboard")) is not None:
        dashboard.close()
    for name in MAGICS:
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop(name, None)
