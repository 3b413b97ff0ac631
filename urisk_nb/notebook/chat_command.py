"""`%urisk_chat`: what the conversation of a kernel has, and what becomes of it."""

from __future__ import annotations

from typing import Any

from urisk_nb.chat.conversation import Conversation, Turn
from urisk_nb.errors import InputError
from urisk_nb.render.text_layout import cut, format_count

__all__ = ["CHOICES", "handle_chat"]

CHOICES = ("show", "reset", "off", "on")
SHOWN_COLUMNS = 200  # of a question, and of an answer


def handle_chat(what: str, conversation: Conversation) -> str | dict[str, Any]:
    """
    Do what is asked with the conversation; return a line, or rows to show.

    Raises
    ------
    InputError
        `what` is none of `CHOICES`.
    """
    if what not in CHOICES:
        raise InputError(
            f"%urisk_chat: {what!r} is none of {', '.join(CHOICES)}.",
            fix="%urisk_chat shows the conversation, %urisk_chat reset forgets it",
        )
    if what == "show":
        return _list_turns(conversation)
    if what == "reset":
        count = conversation.left_out + len(conversation.turns)
        conversation.reset()
        return f"The conversation is empty: {format_count(count, 'turn')} forgotten."
    conversation.is_on = what == "on"
    if conversation.is_on:
        return "The conversation is on: the next %%ask goes on with it."
    return "The conversation is off: %%ask asks each question alone. %urisk_chat on goes on."


def _list_turns(conversation: Conversation) -> str | dict[str, Any]:
    if not conversation.turns:
        state = "" if conversation.is_on else " It is off: %urisk_chat on."
        return f"The conversation has no turns yet.{state}"
    first = conversation.left_out + 1
    rows: dict[str, Any] = {} if conversation.is_on else {"state": "off: %urisk_chat on goes on"}
    if conversation.left_out:
        rows["left out"] = f"{format_count(conversation.left_out, 'oldest turn')}, no longer sent"
    for number, turn in enumerate(conversation.turns, first):
        rows[f"question {number}"] = _describe_question(turn)
        stopped = " (stopped)" if turn.is_stopped else ""
        rows[f"answer {number}"] = f"{_shorten(turn.answer)}{stopped}"
    return rows


def _describe_question(turn: Turn) -> str:
    names = ", ".join(one.name for one in turn.blocks)
    return f"{_shorten(turn.question)}{f' (with {names})' if names else ''}"


def _shorten(text: str) -> str:
    return cut(" ".join(text.split()), SHOWN_COLUMNS)
