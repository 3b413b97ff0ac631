"""`%%ask`: ask, show the answer as it grows, bind it, keep it in the conversation and the journal.

Everything that the user gave is checked before any server is touched.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from urisk_nb import event_loop, process_state
from urisk_nb.chat.citations import CitationMarks
from urisk_nb.chat.conversation import ChatPlan, Conversation
from urisk_nb.chat.options import AnswerOptions
from urisk_nb.chat.prompts import HOUSE_PROMPT
from urisk_nb.chat.records import find_known_answer, get_recording, identify_model
from urisk_nb.chat.schemas import AnswerSchema
from urisk_nb.chat.structured import DataAnswer, add_instruction, ask_for_data
from urisk_nb.chat.token_budget import Window
from urisk_nb.errors import AnswerInvalid, ContextExceeded
from urisk_nb.llm.manager import Answer, AnswerStream, LLMManager
from urisk_nb.llm.messages import Message
from urisk_nb.notebook.answer_display import (
    describe_answer,
    describe_interrupt,
    shorten_traceback,
    show_answer,
    show_known_answer,
)
from urisk_nb.notebook.ask_request import AskRequest, read_request
from urisk_nb.notebook.data_answer import DataView
from urisk_nb.render.board import publish
from urisk_nb.render.markup import answer_markup
from urisk_nb.risk.answer_text import PROMPT_CUT

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["ask", "get_conversation"]

T = TypeVar("T")
CONVERSATION = "conversation"
MAX_REPEATS = 3  # of a question that the server finds too long, each time with less beside it
ASKED_AGAIN = "the server found it too long: asked again with less"
LOOKUP_STOPPED = "you stopped the question before the model was asked."
LAST_ANSWER = "_answer"  # the variable of the text that data was read from


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
    request = read_request(shell, args, cell)
    manager = get_manager()
    if request.model is not None:
        event_loop.run(manager.ensure_model(request.model))
    exchange, schema = _Exchange(shell, request, manager), request.schema
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
        return self._ask_with_less(lambda: self._plan(self._request.question), self._send)

    def _ask_with_less(self, make_plan: Callable[[], ChatPlan], ask: Callable[[ChatPlan], T]) -> T:
        """Ask; where the server finds it too long, plan again with what is known by then."""
        for repeat in range(MAX_REPEATS + 1):
            plan = make_plan()
            if repeat:
                plan = replace(plan, notes=(*plan.notes, ASKED_AGAIN))
            try:
                return ask(plan)
            except ContextExceeded:
                if plan.is_bare or repeat == MAX_REPEATS:
                    raise
                self._conversation.learn_overflow(self._model, plan)
        raise AssertionError("the last repeat returns or raises")  # pragma: no cover

    def _plan(self, question: str) -> ChatPlan:
        return self._conversation.plan(
            question,
            model=self._model,
            system=self._request.system,
            attachments=self._request.attachments,
            window=Window.of(self._manager.num_ctx),
            max_tokens=self._request.options.max_tokens,
            is_alone=self._is_alone,
        )

    def _send(self, plan: ChatPlan) -> Answer:
        stream = self._manager.stream_chat(
            plan.messages, options=self._list_options(plan), model=self._request.model
        )
        known = self._find_known(plan, stream)
        return self._ask(plan, stream) if known is None else known

    def _list_options(self, plan: ChatPlan) -> dict[str, Any]:
        return self._request.options.fit(plan.answer_tokens).list_sent()

    def _ask(self, plan: ChatPlan, stream: AnswerStream) -> Answer:
        try:
            answer = show_answer(stream, name=self._request.name, **self._describe_display(plan))
        except BaseException as exc:
            partial = stream.partial
            self._build_marks(plan).finish(partial)
            _bind(self._shell, self._request, partial)
            if isinstance(exc, KeyboardInterrupt):
                self._keep(plan, partial)
            raise
        _bind(self._shell, self._request, answer)
        self._conversation.learn(self._model, plan, answer)
        self._keep(plan, answer)
        return answer

    def _describe_display(self, plan: ChatPlan) -> dict[str, Any]:
        """Return what the display of an answer is told."""
        return {
            "options": self._request.options.fit(plan.answer_tokens),
            "notes": (*self._request.notes, *plan.notes),
            "raw": self._request.raw,
            "marks": self._build_marks(plan),
        }

    def _build_marks(self, plan: ChatPlan) -> CitationMarks:
        # Else `[S1]` is no citation: nothing was attached, and no prompt says that ids are cited
        is_on = bool(plan.sources) or self._request.system == HOUSE_PROMPT
        return CitationMarks(plan.sources, is_on=is_on, is_struck=not self._request.raw)

    def _keep(
        self, plan: ChatPlan, answer: Answer, options: Mapping[str, Any] | None = None
    ) -> None:
        """Keep an answer in the conversation and in the journal."""
        if not self._is_alone:
            self._conversation.add_turn(plan, self._request.question, answer)
        recording, sent = get_recording(), options or self._list_options(plan)
        recording.add(self._manager, self._model, plan.messages, sent, answer)
        for note in recording.take_notes():
            publish(note, answer_markup("", "", [note]))

    def _find_known(self, plan: ChatPlan, stream: AnswerStream) -> Answer | None:
        """Return the answer that the journal has, shown; None where it has to be asked."""
        if not self._request.is_cached:
            return None
        try:
            answer, said = self._look_up(stream)
        except KeyboardInterrupt as exc:
            shorten_traceback(exc, LOOKUP_STOPPED)
            raise
        self._request = replace(self._request, notes=(*self._notes, said))
        if answer is None:
            return None
        show_known_answer(answer, **self._describe_display(plan))
        _bind(self._shell, self._request, answer)
        # So that the next question is cut to the same bytes as it was after this answer
        self._conversation.learn(self._model, plan, answer)
        if not self._is_alone:
            self._conversation.add_turn(plan, self._request.question, answer)
        return answer

    def _look_up(self, stream: AnswerStream) -> tuple[Answer | None, str]:
        get_recording().flush()
        model = event_loop.run(identify_model(self._manager, self._model))
        return find_known_answer(model, stream.request_hash)

    # Data -----------------------------------------------------------------------------------------

    def ask_for_data(self, schema: AnswerSchema) -> Any:
        """
        Ask for data, show it, bind it and return it.

        The answer that it was read from is in the variable `_answer`, whatever becomes of it.
        """
        return self._ask_with_less(
            lambda: self._plan(add_instruction(self._request.question, schema)),
            lambda plan: self._send_for_data(plan, schema),
        )

    def _send_for_data(self, plan: ChatPlan, schema: AnswerSchema) -> Any:
        view = DataView(raw=self._request.raw)
        options = self._request.options.fit(plan.answer_tokens)
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
            found = ask_for_data(ask_model, plan.messages, schema, options=options)
        except AnswerInvalid as exc:
            if isinstance(exc.answer, Answer):  # always: the error itself knows no answers
                self._shell.user_ns[LAST_ANSWER] = exc.answer
                view.show_unfit(exc.answer, self._describe_data(exc.answer, plan, options))
            raise
        except KeyboardInterrupt as exc:
            shorten_traceback(exc, describe_interrupt(LAST_ANSWER))
            raise
        self._show_data(view, found, plan, options)
        _bind(self._shell, self._request, found.value)
        plan = replace(plan, messages=tuple(sent[-1]))
        self._conversation.learn(self._model, plan, found.answer)
        self._keep(plan, found.answer, options.list_sent())
        return found.value

    def _show_data(
        self, view: DataView, found: DataAnswer, plan: ChatPlan, options: AnswerOptions
    ) -> None:
        # What is struck in an answer in words stays in data: it is the user's object
        marks = CitationMarks(plan.sources, is_on=bool(plan.sources), is_struck=False)
        cited = marks.finish(found.answer)
        facts = self._describe_data(found.answer, plan, options, (*_describe_repair(found), *cited))
        # That there is no text, only thinking, is no fault of data that was found in the thoughts
        faults = [text for code, text in found.answer.faults.items() if code == PROMPT_CUT]
        view.show(found.shown, facts, faults)

    def _describe_data(
        self, answer: Answer, plan: ChatPlan, options: AnswerOptions, more: Sequence[str] = ()
    ) -> str:
        """Return the line under data, and under an answer that is none."""
        facts = [describe_answer(answer, options), *more, *self._request.notes, *plan.notes]
        return " · ".join(facts)


def _bind(shell: InteractiveShell, request: AskRequest, answer: Any) -> None:
    if request.name:
        shell.user_ns[request.name] = answer


def _describe_repair(found: DataAnswer) -> list[str]:
    return [f"corrected once ({found.repaired[0]})"] if found.repaired else []
