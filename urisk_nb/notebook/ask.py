"""`%%ask`: read the line and the cell, ask, show the answer as it grows, bind it.

Everything that the user gave is checked before any server is touched.
"""

from __future__ import annotations

import argparse
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from urisk_nb import event_loop
from urisk_nb.chat.options import AnswerOptions, read_answer_options
from urisk_nb.chat.schemas import AnswerSchema
from urisk_nb.chat.structured import DataAnswer, ask_for_data
from urisk_nb.errors import AnswerInvalid, InputError
from urisk_nb.llm.manager import Answer, LLMManager
from urisk_nb.llm.messages import Message, build_messages
from urisk_nb.notebook.answer_display import (
    describe_answer,
    describe_interrupt,
    shorten_traceback,
    show_answer,
)
from urisk_nb.notebook.cell_text import FilledText, fill_question
from urisk_nb.notebook.data_answer import DataView, find_schema
from urisk_nb.risk.answer_text import PROMPT_CUT

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["ARGUMENTS", "ask", "check_variable"]

LAST_ANSWER = "_answer"  # the variable of the text that data was read from

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
    question, system
        The user's texts, with their values filled in.
    model
        None: the session's.
    name
        The variable that is given the answer.
    raw
        The answer is shown as the model wrote it.
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
    schema: AnswerSchema | None
    notes: tuple[str, ...]


def ask(
    shell: InteractiveShell,
    args: argparse.Namespace,
    cell: str,
    get_manager: Callable[[], LLMManager],
) -> Any:
    """
    Run `%%ask` or `%ask`; return what the line form gives.

    An interrupt keeps what had come: the answer is bound, with the `done_reason` ``interrupted``.
    """
    request = _read_request(shell, args, cell)
    manager = get_manager()
    if request.model is not None:
        event_loop.run(manager.ensure_model(request.model))
    if request.schema is not None:
        data = _ask_for_data(shell, request, request.schema, manager)
        return data if getattr(args, "in_line", False) else None
    messages = _build_messages(request)
    stream = manager.stream_chat(messages, options=request.options.list_sent(), model=request.model)
    try:
        answer = show_answer(
            stream,
            options=request.options,
            notes=request.notes,
            raw=request.raw,
            name=request.name,
        )
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
        schema=find_schema(shell.user_ns, args.json, where),
        notes=(*prompt.notes, *system.notes),
    )


def _fill(shell: InteractiveShell, text: str | None) -> FilledText:
    return fill_question(text or "", shell.user_ns, shell.user_ns_hidden)


def _build_messages(request: AskRequest) -> Sequence[Message]:
    return build_messages(request.question, request.system)


def _bind(shell: InteractiveShell, request: AskRequest, answer: Any) -> None:
    if request.name:
        shell.user_ns[request.name] = answer


# Data ---------------------------------------------------------------------------------------------


def _ask_for_data(
    shell: InteractiveShell, request: AskRequest, schema: AnswerSchema, manager: LLMManager
) -> Any:
    """
    Ask for data, show it, bind it and return it.

    The answer that it was read from is in the variable `_answer`, whatever becomes of it.
    """
    view = DataView(raw=request.raw)
    options = request.options
    if options.temperature is None:
        options = replace(options, temperature=0.0)  # the most likely words keep to a schema best

    def ask_model(messages: Sequence[Message]) -> Answer:
        stream = manager.stream_chat(
            messages,
            options=options.list_sent(),
            format=schema.json_schema,
            model=request.model,
        )
        try:
            return view.follow(stream)
        finally:
            shell.user_ns[LAST_ANSWER] = stream.partial

    try:
        found = ask_for_data(
            ask_model, _build_messages(request), schema, max_tokens=options.max_tokens
        )
    except AnswerInvalid as exc:
        if isinstance(exc.answer, Answer):  # always: the error itself knows no answers
            shell.user_ns[LAST_ANSWER] = exc.answer
            view.show_unfit(exc.answer, describe_answer(exc.answer, options))
        raise
    except KeyboardInterrupt as exc:
        shorten_traceback(exc, describe_interrupt(LAST_ANSWER))
        raise
    facts = [describe_answer(found.answer, options), *_describe_repair(found), *request.notes]
    # That there is no text, only thinking, is no fault of data that was found in the thoughts
    faults = [text for code, text in found.answer.faults.items() if code == PROMPT_CUT]
    view.show(found.shown, " · ".join(facts), faults)
    _bind(shell, request, found.value)
    return found.value


def _describe_repair(found: DataAnswer) -> list[str]:
    return [f"corrected once ({found.repaired[0]})"] if found.repaired else []


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
