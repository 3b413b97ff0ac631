"""The line and the cell of `%%ask`: its arguments, and what they ask for, checked.

Nothing here touches a server.
"""

from __future__ import annotations

import argparse
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from urisk_nb.chat.attachments import Attachment, FindMore, Piece
from urisk_nb.chat.options import AnswerOptions, read_answer_options
from urisk_nb.chat.prompts import choose_system_prompt
from urisk_nb.chat.schemas import AnswerSchema
from urisk_nb.errors import InputError
from urisk_nb.notebook.cell_text import FilledText, fill_question
from urisk_nb.notebook.data_answer import find_schema
from urisk_nb.notebook.expressions import find_values

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["ARGUMENTS", "AskRequest", "check_variable", "read_request"]

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {
        "nargs": "?",
        "help": "variable that is given the answer object (a str with .timing, .model)",
    },
    "--with": {
        "dest": "attached",
        "action": "append",
        "metavar": "NAMES",
        "help": "values that go with the question, between commas: table,px,news",
    },
    "--system": {
        "metavar": "TEXT",
        "help": 'system prompt of this question; in quotation marks where it has spaces: "be '
        'brief"; "": none',
    },
    "--no-history": {
        "action": "store_true",
        "help": "ask without the conversation, and do not remember the answer",
    },
    "--cached": {
        "action": "store_true",
        "help": "take the answer from the journal if the same was asked before",
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
    "--json": {
        "metavar": "SCHEMA",
        "help": 'the answer as data: fields, "ticker:str, risk:float"; a pydantic model, a '
        "dataclass, list[Model]; a JSON schema as a dict or a .json file",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRequest:
    """
    One `%%ask`, read and checked.

    Attributes
    ----------
    question
        The user's text, with their values filled in.
    system
        The system prompt; None: there is none.
    attachments
        What goes with it.
    model
        None: the session's.
    name
        The variable that is given the answer.
    raw
        The answer is shown as the model wrote it.
    is_alone
        It is no part of the conversation.
    is_cached
        The journal may answer it.
    schema
        The form of an answer as data; None for an answer in words.
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
    schema: AnswerSchema | None = None
    attachments: tuple[Attachment, ...] = ()
    is_alone: bool = False
    is_cached: bool = False


def read_request(shell: InteractiveShell, args: argparse.Namespace, cell: str) -> AskRequest:
    """
    Return what a line and a cell ask for.

    Raises
    ------
    InputError
        Something of it cannot be; nothing was asked.
    """
    where = "%ask" if getattr(args, "in_line", False) else "%%ask"
    name = check_variable(args.name, where)
    if not cell.strip():
        raise InputError(
            f"{where}: the {'line' if where == '%ask' else 'cell'} has no question.",
            fix="write it after %ask"
            if where == "%ask"
            else "write the question under the %%ask line",
        )
    if args.cached and args.json is not None:
        raise InputError(f"{where}: --cached does not go with --json.", fix="leave one of them out")
    prompt, system = (_fill(shell, text) for text in (cell.strip(), args.system))
    return AskRequest(
        question=prompt.text,
        system=choose_system_prompt(None if args.system is None else system.text),
        model=args.model,
        options=read_answer_options(vars(args), where),
        name=name,
        raw=args.raw,
        schema=find_schema(shell.user_ns, args.json, where),
        notes=(*prompt.notes, *system.notes),
        attachments=_attach(shell, args.attached, prompt.text),
        is_alone=args.no_history,
        is_cached=args.cached,
    )


def _attach(
    shell: InteractiveShell, names: list[str] | None, question: str
) -> tuple[Attachment, ...]:
    if names is None:
        return ()
    from urisk_nb.chat.summaries import summarize  # pandas

    found = find_values(shell.user_ns, ",".join(names), "--with")
    return tuple(
        replace(
            summarize(name, value, question), find_more=_make_find_more(shell.user_ns, name, value)
        )
        for name, value in found.items()
    )


def _make_find_more(namespace: Mapping[str, Any], name: str, value: Any) -> FindMore | None:
    """
    Return what finds the pieces of a variable that a later question asks for.

    The value is not kept: a notebook may delete a large frame. A variable that is another object by
    then has no more pieces, and an expression is not evaluated again.
    """
    from urisk_nb.chat.summaries import find_named

    if name not in namespace:
        return None
    known = id(value)

    def find_more(question: str) -> Sequence[Piece]:
        now = namespace.get(name)
        return find_named(name, now, question) if id(now) == known else ()

    return find_more


def _fill(shell: InteractiveShell, text: str | None) -> FilledText:
    return fill_question(text or "", shell.user_ns, shell.user_ns_hidden)


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
