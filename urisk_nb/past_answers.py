"""Answers of `%%ask` in the journal: listed, and read again; and what `urisk history` lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from urisk_nb.chat.structured import find_question
from urisk_nb.errors import InputError, RecordChanged, RunNotFound
from urisk_nb.journal.canonical import decode_json
from urisk_nb.journal.store import Store, Stored, open_journal
from urisk_nb.llm.answers import Answer
from urisk_nb.past_runs import history
from urisk_nb.recording.asked import ASKED, decode_answer
from urisk_nb.terminal_text import one_line

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["answers", "is_answer", "list_newest", "read_answer"]

DEFAULT_LIMIT = 20  # answers that are listed
MAX_QUESTION_CHARS = 80
MAX_NAMED = 5  # ids that an error names
MARK = "-ask"  # that ids of answers have, and those of runs have not
CHANGED = "changed"  # in place of why an answer ended, where a record is not as it was written
COLUMNS = ("id", "when", "model", "question", "done_reason", "tokens")


def list_newest(given: str, *, of_answers: bool) -> pd.DataFrame:
    """
    Return the newest runs, or the newest answers, as many as were asked for on a line.

    Parameters
    ----------
    given
        How many; "" for all runs, or for DEFAULT_LIMIT answers.
    """
    if of_answers:
        return answers(given or DEFAULT_LIMIT)
    return history().head(_read_limit(given)) if given else history()


def answers(limit: int | str = DEFAULT_LIMIT) -> pd.DataFrame:
    """
    Return the answers of `%%ask` in the journal, the newest first.

    Parameters
    ----------
    limit
        How many, 1 or more.

    Returns
    -------
    DataFrame
        Columns id (`read_answer` takes it), when (UTC), model, question (its first words),
        done_reason (``stop``, ``length`` where it was cut, ``interrupted``; ``changed`` where a
        record is not as it was written) and tokens (of the answer; missing where the server did not
        count).

    Raises
    ------
    InputError
        `limit` is no number of answers.
    JournalUnusable
        The journal cannot be read.
    """
    import pandas as pd

    from urisk_nb.table.exports import ExportFrame

    count = _read_limit(limit)
    with open_journal() as store:
        found = list(store.get_named(ASKED).items())[: -count - 1 : -1]
        rows = [_describe(store, answer_id, own[ASKED]) for answer_id, own in found]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["when"] = pd.to_datetime(frame["when"], utc=True)
    frame["tokens"] = pd.array(frame["tokens"].tolist(), dtype="Int64")
    return ExportFrame(frame)


def _read_limit(given: int | str) -> int:
    text = str(given).strip()
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text):
        return int(text)
    raise InputError(
        f"{given!r} is no number of runs or answers.",
        fix=f"give a whole number from 1, such as {DEFAULT_LIMIT}",
    )


def _describe(store: Store, answer_id: str, stored: Stored) -> Mapping[str, Any]:
    row = {"id": answer_id, "when": None, "model": "", "question": "", "tokens": None}
    try:
        record, answer, asked_at = _read(store, answer_id, stored)
        question = find_question(_read_chat(store, answer_id, record))
    except RecordChanged:
        return {**row, "done_reason": CHANGED}
    return {
        **row,
        "when": asked_at.replace(microsecond=0),
        "model": one_line(answer.model),
        "question": _cut(one_line(question)),
        "done_reason": one_line(answer.done_reason),
        "tokens": answer.timing.tokens or None,
    }


def _cut(text: str) -> str:
    return text if len(text) <= MAX_QUESTION_CHARS else f"{text[: MAX_QUESTION_CHARS - 1]}…"


def is_answer(given: str) -> bool:
    """
    Return whether an id, or the first letters of it, is that of an answer and not of a run.

    What a run and an answer begin with is that of the run.

    Raises
    ------
    JournalUnusable
        The journal cannot be read.
    """
    wanted = str(given).strip()
    if MARK in wanted:
        return True
    with open_journal() as store:
        found = [one for one in store.list_runs() if one.startswith(wanted)]
    return bool(wanted and found) and all(MARK in one for one in found)


def read_answer(answer_id: str) -> Answer:
    """
    Return an answer of `%%ask` again, from the journal: its text, why it ended, its times.

    No model is asked.

    Parameters
    ----------
    answer_id
        The id of the answer, or the first letters of it; `answers()` lists them.

    Raises
    ------
    RunNotFound
        There is no such answer, or several begin like it.
    RecordChanged
        A record of the answer was changed, or is gone.
    JournalUnusable
        The journal cannot be read.
    """
    with open_journal() as store:
        records = store.get_named(ASKED)
        found = _find(str(answer_id).strip(), list(records))
        return _read(store, found, records[found][ASKED])[1]


def _find(wanted: str, known: Sequence[str]) -> str:
    found = [wanted] if wanted in known else [one for one in known if one.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    newest = (found or list(known))[-MAX_NAMED:][::-1]
    if not newest:
        raise RunNotFound("the journal has no answer.", fix="ask something first: %%ask")
    seen = f"{len(found)} answers begin with" if found else "the journal has no answer"
    raise RunNotFound(
        f"{seen} {wanted!r}.",
        fix=f"one of {', '.join(newest)}; %urisk_history --answers lists more",
    )


def _read(
    store: Store, answer_id: str, stored: Stored
) -> tuple[Mapping[str, Any], Answer, datetime]:
    """Return the record of an answer, the answer, and when it was asked for."""
    record = decode_json(_check(stored, answer_id))
    named = bytes.fromhex(record["answer"])
    body = _check(store.get_answers([named]).get(named), answer_id)
    return record, *decode_answer(body)


def _read_chat(store: Store, answer_id: str, record: Mapping[str, Any]) -> Sequence[Any]:
    named = bytes.fromhex(record["messages"])
    chat = decode_json(_check(store.get_objects([named]).get(named), answer_id))
    messages: Sequence[Any] = chat["messages"]
    return messages


def _check(stored: Stored | None, answer_id: str) -> bytes:
    if stored is not None and stored.is_whole:
        return stored.body
    raise RecordChanged(
        f"the answer {answer_id} {'is not whole' if stored is None else 'was changed'}.",
        fix=f"restore the journal from a backup; do not rely on {answer_id}",
    )
