"""`%%ask`: read the line and the cell, ask, show the answer as it grows, bind it.

Everything that the user gave is checked before any server is touched.
"""

from __future__ import annotations

import argparse
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from urisk_nb import event_loop
from urisk_nb.chat.options import AnswerOptions, read_answer_options
from urisk_nb.errors import InputError
from urisk_nb.llm.manager import Answer, AnswerStream, LLMManager
from urisk_nb.llm.messages import Message, build_messages
from urisk_nb.notebook.answer_display import show_answer
from urisk_nb.notebook.cell_text import FilledText, fill_question

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["ARGUMENTS", "ask", "check_variable"]

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {
        "nargs": "?",
        "help": "variable that is given the answer object (a str with .timing, .model)",
    },
    "--system": {
        "metavar": "TEXT",
        "help": 'system prompt; in quotation marks where it has spaces: "be brief"',
    },
    "--model": {"help": "model that answers this question; default: the session's"},
    "--temperature": {
        "metavar": "T",
        "help": "0: the most likely words; default: as the model has it",
    },
    "--seed": {"metavar": "N", "help": "makes a sampled answer repeatable"},
    "--max-tokens": {
        "metavar": "N",
        "help": "the answer is cut there; default: 1024",
    },
    "--raw": {
        "action": "store_true",
        "help": "show the answer as plain text, as the model wrote it",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRequest:
    """
    One `%%ask`, read and checked.

    Attributes
    ----------
    question, system
        The user's texts, with their values filled in.
    model
        None: the session's.
    name
        The variable that is given the answer.
    raw
        The answer is shown as the model wrote it.
    notes
        What the line under the answer says beside its figures.
    """

    question: str
    system: str | None
    model: str | None
    options: AnswerOptions
    name: str | None
    raw: bool
    notes: tuple[str, ...]


def ask(
    shell: InteractiveShell,
    args: argparse.Namespace,
    cell: str,
    get_manager: Callable[[], LLMManager],
) -> Answer | None:
    """
    Run `%%ask` or `%ask`; return what the line form gives.

    An interrupt keeps what had come: the answer is bound, with the `done_reason` ``interrupted``.
    """
    request = _read_request(shell, args, cell)
    manager = get_manager()
    if request.model is not None:
        event_loop.run(manager.ensure_model(request.model))
    messages = _build_messages(request)
    stream = manager.stream_chat(messages, options=request.options.list_sent(), model=request.model)
    try:
        answer = _show_answer(stream, request)
    except BaseException:
        _bind(shell, request, stream.partial)
        raise
    _bind(shell, request, answer)
    return answer if getattr(args, "in_line", False) else None


def _read_request(shell: InteractiveShell, args: argparse.Namespace, cell: str) -> AskRequest:
    where = "%ask" if getattr(args, "in_line", False) else "%%ask"
    name = check_variable(args.name, where)
    if not cell.strip():
        raise InputError(
            f"{where}: the {'line' if where == '%ask' else 'cell'} has no question.",
            fix="write it after %ask"
            if where == "%ask"
            else "write the question under the %%ask line",
        )
    prompt, system = (_fill(shell, text) for text in (cell.strip(), args.system))
    return AskRequest(
        question=prompt.text,
        system=system.text or None,
        model=args.model,
        options=read_answer_options(vars(args), where),
        name=name,
        raw=args.raw,
        notes=(*prompt.notes, *system.notes),
    )


def _fill(shell: InteractiveShell, text: str | None) -> FilledText:
    return fill_question(text or "", shell.user_ns, shell.user_ns_hidden)


def _build_messages(request: AskRequest) -> Sequence[Message]:
    return build_messages(request.question, request.system)


def _bind(shell: InteractiveShell, request: AskRequest, answer: Answer) -> None:
    if request.name:
        shell.user_ns[request.name] = answer


# Showing ------------------------------------------------------------------------------------------


def _show_answer(stream: AnswerStream, request: AskRequest) -> Answer:
    return show_answer(
        stream, options=request.options, notes=request.notes, raw=request.raw, name=request.name
    )


def check_variable(name: str | None, where: str) -> str | None:
    """Return the name of a variable as it is; raise InputError where it is none."""
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise InputError(
            f"{where}: {name!r} is not a variable name.",
            fix=f"use letters, digits and underscores, such as {where} table"
            if where.startswith("--")
            else f"put the question on the next line; after {where} comes only a variable name",
        )
    return name
