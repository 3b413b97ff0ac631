"""
An answer as data: ask for JSON, check it, and let the model repair it once.

The server is given the schema, and the model is told it, since some servers and models ignore
what a request asks for. What comes is checked in any case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from urisk_nb.chat.attachments import strip_attachments
from urisk_nb.chat.frames import note_source
from urisk_nb.chat.json_text import Fault
from urisk_nb.chat.options import LARGER_WINDOW, AnswerOptions
from urisk_nb.chat.schemas import AnswerSchema, Reading
from urisk_nb.errors import AnswerInvalid, ContextExceeded
from urisk_nb.llm.answers import Answer
from urisk_nb.llm.messages import Message

__all__ = ["DataAnswer", "add_instruction", "ask_for_data", "find_question"]

MAX_PROMPT_CHARS = 8_000  # of a schema in the prompt; the server has all of it
MAX_NAMED = 3  # faults that a message names
MAX_RETURNED_CHARS = 20_000  # of an answer that is sent back
INSTRUCTION = (
    "Answer with JSON only, without prose and without a code fence. The JSON keeps to this JSON "
    "schema, with its fields in this order:\n{schema}"
)
TOO_LONG = "Answer with JSON only, without prose and without a code fence."
REPAIR = (
    "This answer cannot be used:\n{faults}\nGive the whole answer again, as JSON only, with this "
    "corrected."
)

Ask = Callable[[Sequence[Message]], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAnswer:
    """
    An answer that fits its schema.

    Attributes
    ----------
    value
        The object for the user.
    shown
        The same as JSON data, or as the DataFrame that it is.
    answer
        The text that it was read from.
    repaired
        What was wrong with the first answer, where the model was asked twice.
    """

    value: Any
    shown: Any
    answer: Answer
    repaired: tuple[Fault, ...] = ()


def ask_for_data(
    ask: Ask, messages: Sequence[Message], schema: AnswerSchema, *, options: AnswerOptions
) -> DataAnswer:
    """
    Return the answer to a chat as data.

    Parameters
    ----------
    ask
        Sends a chat, and returns its answer; whoever shows the answer does it there.
    messages
        The chat; its last question says what is wanted, as `add_instruction` puts it.
    schema
        The form of the answer.
    options
        Where an answer is cut: an error names a larger number, if the window has room for it.

    Raises
    ------
    AnswerInvalid
        The answer does not fit, the repaired one neither; or it was cut.
    ServerError, ModelError
        As `ask` raises them.
    """
    first = ask(messages)
    reading = _read(first, schema)
    if not reading.faults:
        return _build_data(first, reading)
    _check_whole(first, reading, schema, options)
    try:
        second = ask(_build_repair(messages, first, reading.faults))
    except ContextExceeded as exc:
        raise _build_error(first, reading, schema) from exc
    repaired = _read(second, schema)
    if repaired.faults:
        _check_whole(second, repaired, schema, options)
        raise _build_error(second, repaired, schema)
    return _build_data(second, repaired, reading.faults)


def _build_data(answer: Answer, reading: Reading, repaired: tuple[Fault, ...] = ()) -> DataAnswer:
    note_source(reading.value, model=answer.model, request_hash=answer.request_hash)
    return DataAnswer(value=reading.value, shown=reading.shown, answer=answer, repaired=repaired)


def _read(answer: Answer, schema: AnswerSchema) -> Reading:
    """Read an answer; a schema that binds from the first token on makes some look like thoughts."""
    text = str(answer)
    return schema.read(text if text.strip() else answer.thinking)


def add_instruction(question: str, schema: AnswerSchema) -> str:
    """
    Return a question that also says which JSON is wanted.

    It stands there and not in the system prompt: all before the question is then as it was in the
    turns without a schema, and the server finds it in its prompt cache.
    """
    text = json.dumps(schema.json_schema, ensure_ascii=False)
    wanted = TOO_LONG if len(text) > MAX_PROMPT_CHARS else INSTRUCTION.format(schema=text)
    return f"{question}\n\n{wanted}"


def _build_repair(
    asked: Sequence[Message], answer: Answer, faults: Sequence[Fault]
) -> list[Message]:
    """Return the chat with the answer and what is wrong with it."""
    request = REPAIR.format(faults="\n".join(f"- {fault}" for fault in faults))
    if not answer.strip():  # many servers refuse a turn without text
        last = {**asked[-1], "content": f"{asked[-1]['content']}\n\n{request}"}
        return [*asked[:-1], last]
    said = str(answer)
    if len(said) > MAX_RETURNED_CHARS:
        said = f"{said[:MAX_RETURNED_CHARS]} ..."
    return [
        *asked,
        {"role": "assistant", "content": said},
        {"role": "user", "content": request},
    ]


def find_question(messages: Sequence[Message]) -> str:
    """Return what the user asked last: without what was attached, and what was added for data."""
    asked = [str(one.get("content") or "") for one in messages if one.get("role") == "user"]
    first_words, own = REPAIR.partition("{")[0], [*asked]
    while len(own) > 1 and own[-1].startswith(first_words):
        own.pop()
    return strip_attachments(own[-1] if own else "").partition(f"\n\n{TOO_LONG[:30]}")[0]


# Errors -------------------------------------------------------------------------------------------


def _check_whole(
    answer: Answer, reading: Reading, schema: AnswerSchema, options: AnswerOptions
) -> None:
    """Raise AnswerInvalid where the answer was cut: no repair makes it shorter."""
    if answer.done_reason == "length":
        limit = options.max_tokens
        raise AnswerInvalid(
            f"the answer of {answer.model} was cut at {limit:,} tokens, so it does not fit "
            f"{schema.name}: {_join(reading.faults)}.",
            fix=f"raise the limit: --max-tokens {2 * limit}; or ask for less"
            if options.has_room
            else f"the window leaves no more: {LARGER_WINDOW}",
            answer=answer,
        )


def _build_error(answer: Answer, reading: Reading, schema: AnswerSchema) -> AnswerInvalid:
    return AnswerInvalid(
        f"the answer of {answer.model} does not fit {schema.name}: {_join(reading.faults)}.",
        fix="say in the question what goes into that field, make the field optional, or name a "
        "larger model: --model NAME",
        answer=answer,
    )


def _join(faults: Sequence[Fault]) -> str:
    more = len(faults) - MAX_NAMED
    named = "; ".join(map(str, faults[:MAX_NAMED]))
    return f"{named}; and {more} more" if more > 0 else named
