"""`%%ask`: read the line and the cell, ask, show the answer as it grows, bind and record it.

Everything that the user gave is checked before any server is touched.
"""

from __future__ import annotations

import argparse
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from urisk_nb import event_loop, process_state
from urisk_nb.chat.attachments import Attachment
from urisk_nb.chat.citations import describe_citations, mark_citations, strike_unknown
from urisk_nb.chat.conversation import ChatPlan, Conversation
from urisk_nb.chat.options import AnswerOptions, read_answer_options
from urisk_nb.chat.prompts import HOUSE_PROMPT, choose_system_prompt
from urisk_nb.chat.records import find_known_answer, identify_model, record_answer
from urisk_nb.chat.schemas import AnswerSchema
from urisk_nb.chat.structured import DataAnswer, add_instruction, ask_for_data
from urisk_nb.chat.token_budget import Window
from urisk_nb.errors import AnswerInvalid, ContextExceeded, InputError
from urisk_nb.llm.manager import Answer, AnswerStream, LLMManager, is_demo
from urisk_nb.llm.messages import Message
from urisk_nb.notebook.cell_text import FilledText, fill_question
from urisk_nb.notebook.data_answer import DataView, find_schema
from urisk_nb.notebook.expressions import find_values
from urisk_nb.render.board import Board, publish
from urisk_nb.render.markup import answer_markup, progress_markup
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.answer_text import PROMPT_CUT

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["ARGUMENTS", "ask", "check_variable", "get_conversation", "shorten_traceback"]

CONVERSATION = "conversation"
MAX_REPEATS = 3  # of a question that the server finds too long, each time with less beside it

LAST_ANSWER = "_answer"  # the variable of the text that data was read from
STOPPED = "you stopped the answer. The server stopped generating, and keeps running."

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {
        "nargs": "?",
        "help": "variable that is given the answer object (a str with .timing, .model)",
    },
    "--with": {
        "dest": "attached",
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
    exchange = _Exchange(shell, request, manager)
    schema = request.schema
    answer = exchange.run() if schema is None else exchange.ask_for_data(schema)
    return answer if getattr(args, "in_line", False) else None


def get_conversation() -> Conversation:
    """Return the conversation of this kernel."""
    return process_state.setdefault(CONVERSATION, Conversation)  # type: ignore[no-any-return]  # kept in untyped state


class _Exchange:
    """One question on its way: planned, asked, shown, kept in the conversation, recorded."""

    def __init__(self, shell: InteractiveShell, request: AskRequest, manager: LLMManager) -> None:
        self._shell, self._request, self._manager = shell, request, manager
        self._notes = request.notes
        self._conversation = get_conversation()
        self._model = request.model or manager.model
        self._is_alone = request.is_alone or not self._conversation.is_on

    def run(self) -> Answer:
        for repeat in range(MAX_REPEATS + 1):
            plan = self._plan(repeat)
            stream = self._manager.stream_chat(
                plan.messages, options=self._list_options(plan), model=self._request.model
            )
            try:
                known = self._find_known(plan, stream)
                return self._ask(plan, stream) if known is None else known
            except ContextExceeded:
                if plan.is_bare or repeat == MAX_REPEATS:
                    raise
                self._conversation.learn_overflow(self._model, plan)
        raise AssertionError("the last repeat returns or raises")  # pragma: no cover

    def _plan(self, repeat: int) -> ChatPlan:
        plan = self._conversation.plan(
            self._request.question,
            model=self._model,
            system=self._request.system,
            attachments=self._request.attachments,
            window=Window.of(self._manager.num_ctx),
            max_tokens=self._request.options.max_tokens,
            is_alone=self._is_alone,
        )
        if repeat:
            again = "the server found it too long: asked again with less"
            plan = replace(plan, notes=(*plan.notes, again))
        return plan

    def _list_options(self, plan: ChatPlan) -> dict[str, Any]:
        return replace(self._request.options, max_tokens=plan.answer_tokens).list_sent()

    def _ask(self, plan: ChatPlan, stream: AnswerStream) -> Answer:
        try:
            answer = _show_answer(stream, self._request, plan)
        except BaseException as exc:
            partial = _mark_cited(stream.partial, self._request, plan)
            _bind(self._shell, self._request, partial)
            if isinstance(exc, KeyboardInterrupt):
                self._keep(plan, partial)
            raise
        _bind(self._shell, self._request, answer)
        self._conversation.learn(self._model, plan, answer)
        self._keep(plan, answer)
        return answer

    def _keep(self, plan: ChatPlan, answer: Answer) -> None:
        """Keep an answer in the conversation and in the journal."""
        if not self._is_alone:
            self._conversation.answered(plan, self._request.question, answer)
        model = event_loop.run(identify_model(self._manager, self._model))
        note = record_answer(model, plan.messages, self._list_options(plan), answer)
        if note:
            publish(note, answer_markup("", "", [note]))

    def _find_known(self, plan: ChatPlan, stream: AnswerStream) -> Answer | None:
        """Return the answer that the journal has, shown; None where it has to be asked."""
        if not self._request.is_cached:
            return None
        model = event_loop.run(identify_model(self._manager, self._model))
        answer, said = find_known_answer(model, stream.request_hash)
        self._request = replace(self._request, notes=(*self._notes, said))
        if answer is None:
            return None
        _show_end(Board(grows=True), answer, self._request, plan)
        _bind(self._shell, self._request, answer)
        # So that the next question is cut to the same bytes as it was after this answer
        self._conversation.learn(self._model, plan, answer)
        if not self._is_alone:
            self._conversation.answered(plan, self._request.question, answer)
        return answer

    # Data -----------------------------------------------------------------------------------------

    def ask_for_data(self, schema: AnswerSchema) -> Any:
        """
        Ask for data, show it, bind it and return it.

        The answer that it was read from is in the variable `_answer`, whatever becomes of it.
        """
        view = DataView(raw=self._request.raw)
        plan = self._plan_data(schema)
        options = replace(self._request.options, max_tokens=plan.answer_tokens)
        if options.temperature is None:  # the most likely words keep to a schema best
            options = replace(options, temperature=0.0)
        sent: list[Sequence[Message]] = []

        def ask_model(messages: Sequence[Message]) -> Answer:
            sent.append(messages)
            stream = self._manager.stream_chat(
                messages,
                options=options.list_sent(),
                format=schema.json_schema,
                model=self._request.model,
            )
            try:
                return view.follow(stream)
            finally:
                self._shell.user_ns[LAST_ANSWER] = stream.partial

        try:
            found = ask_for_data(ask_model, plan.messages, schema, max_tokens=options.max_tokens)
        except AnswerInvalid as exc:
            if isinstance(exc.answer, Answer):  # always: the error itself knows no answers
                self._shell.user_ns[LAST_ANSWER] = exc.answer
                view.show_unfit(exc.answer, _describe_answer(exc.answer, options))
            raise
        except KeyboardInterrupt as exc:
            shorten_traceback(exc, f"{STOPPED} {LAST_ANSWER} has what had come.")
            raise
        self._show_data(view, found, plan, options)
        _bind(self._shell, self._request, found.value)
        self._keep(replace(plan, messages=tuple(sent[-1])), found.answer)
        return found.value

    def _plan_data(self, schema: AnswerSchema) -> ChatPlan:
        """Return what is sent; the room for the schema, which is added to it later, is kept."""
        own = self._request.system
        system = [{"role": "system", "content": own}] if own else []
        longer = add_instruction(system, schema)[0]["content"]
        plan = self._conversation.plan(
            self._request.question,
            model=self._model,
            system=longer,
            attachments=self._request.attachments,
            window=Window.of(self._manager.num_ctx),
            max_tokens=self._request.options.max_tokens,
            is_alone=self._is_alone,
        )
        return replace(plan, messages=(*system, *plan.messages[1:]))

    def _show_data(
        self, view: DataView, found: DataAnswer, plan: ChatPlan, options: AnswerOptions
    ) -> None:
        facts = [_describe_answer(found.answer, options), *_describe_repair(found)]
        facts += [*self._request.notes, *plan.notes]
        # That there is no text, only thinking, is no fault of data that was found in the thoughts
        faults = [text for code, text in found.answer.faults.items() if code == PROMPT_CUT]
        view.show(found.shown, " · ".join(facts), faults)


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


def _attach(shell: InteractiveShell, names: str | None, question: str) -> tuple[Attachment, ...]:
    if names is None:
        return ()
    from urisk_nb.chat.summaries import summarize  # pandas

    found = find_values(shell.user_ns, names, "--with")
    return tuple(summarize(name, value, question) for name, value in found.items())


def _fill(shell: InteractiveShell, text: str | None) -> FilledText:
    return fill_question(text or "", shell.user_ns, shell.user_ns_hidden)


def _bind(shell: InteractiveShell, request: AskRequest, answer: Any) -> None:
    if request.name:
        shell.user_ns[request.name] = answer


def _describe_repair(found: DataAnswer) -> list[str]:
    return [f"corrected once ({found.repaired[0]})"] if found.repaired else []


# Showing ------------------------------------------------------------------------------------------


def _show_answer(stream: AnswerStream, request: AskRequest, plan: ChatPlan) -> Answer:
    """
    Show the answer as it grows.

    An interrupt, or an error, shows what there is and is raised again.
    """
    board = Board(grows=True)
    pieces: list[str] = []

    def tick() -> None:
        if not pieces and (wait := stream.waits_for) and not wait.endswith("(0 s)"):
            board.show_wait(wait, progress_markup(wait, None))

    try:
        for piece in stream.iterate(tick):
            pieces.append(piece)
            if board.is_due:
                text = _mark("".join(pieces), request, plan)
                board.show(text, answer_markup(text))
    except ContextExceeded:  # nothing has come: it may be asked again with less
        board.clear()
        raise
    except BaseException as exc:
        text = _mark("".join(pieces), request, plan)
        board.finish(text, answer_markup(text, "stopped here"))
        if isinstance(exc, KeyboardInterrupt):
            shorten_traceback(exc, _describe_interrupt(request))
        raise
    answer = stream.answer
    _show_end(board, answer, request, plan)
    return answer


def _show_end(board: Board, answer: Answer, request: AskRequest, plan: ChatPlan) -> None:
    """Show the whole answer, with the line under it."""
    _mark_cited(answer, request, plan)
    text = _mark(str(answer), request, plan)
    cited = describe_citations(answer, is_struck=not request.raw)
    said = (*request.notes, *plan.notes, *filter(None, [cited]))
    options = replace(request.options, max_tokens=plan.answer_tokens)
    facts = " · ".join([_describe_answer(answer, options), *said])
    faults = list(answer.faults.values())
    board.finish(
        "\n\n".join([text, *faults, facts] if text else [*faults, facts]),
        answer_markup(text, facts, faults),
    )


def _may_cite(request: AskRequest, plan: ChatPlan) -> bool:
    """Return whether `[S1]` is a citation: something was attached, or the model is told to cite."""
    return bool(plan.sources) or request.system == HOUSE_PROMPT


def _mark_cited(answer: Answer, request: AskRequest, plan: ChatPlan) -> Answer:
    return mark_citations(answer, plan.sources) if _may_cite(request, plan) else answer


def _mark(text: str, request: AskRequest, plan: ChatPlan) -> str:
    """Return an answer with the ids struck that do not exist; `--raw`: as the model wrote it."""
    is_marked = _may_cite(request, plan) and not request.raw
    return strike_unknown(text, plan.sources) if is_marked else text


def _describe_interrupt(request: AskRequest) -> str:
    return f"{STOPPED} {request.name} has what had come." if request.name else STOPPED


def _describe_answer(answer: Answer, options: AnswerOptions) -> str:
    timing = answer.timing
    who = f"{answer.model}, a small demo model" if is_demo(answer.model) else answer.model
    # Not every server counts; none is then no count of an answer.
    tokens = f" · {format_count(timing.tokens, 'token')}" if timing.tokens else ""
    cut = f" · {_describe_cut(options)}" if answer.done_reason == "length" else ""
    return f"{who}{tokens} · {timing.total_s:.1f} s{cut}"


def _describe_cut(options: AnswerOptions) -> str:
    limit = options.max_tokens
    return f"cut at {limit:,} tokens; ask for more with --max-tokens {2 * limit}"


def shorten_traceback(exc: KeyboardInterrupt, text: str) -> None:
    """Have the notebook show one line in place of the stack of the waiting thread."""
    # IPython looks for this method.
    exc._render_traceback_ = lambda: [f"KeyboardInterrupt: {text}"]  # type: ignore[attr-defined]


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
