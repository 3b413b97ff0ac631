"""`%%ask --json`: what a cell shows while an answer as data comes, and of the data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from urisk_nb.chat.schemas import AnswerSchema, is_schema, read_answer_schema
from urisk_nb.errors import ContextExceeded, InputError
from urisk_nb.llm.answers import Answer, AnswerStream
from urisk_nb.notebook.expressions import find_value
from urisk_nb.render.board import Board, publish
from urisk_nb.render.data_view import data_bundle
from urisk_nb.render.markup import answer_markup, progress_markup
from urisk_nb.render.text_layout import format_count

__all__ = ["DataView", "find_schema"]

_BARE_FIELDS = re.compile(r"\s*\[?(?P<names>\s*[^\W\d]\w*\s*(?:,\s*[^\W\d]\w*\s*)+)\]?\s*")
NAME_FIELDS = 'name the fields with their types: --json "ticker:str, risk:float"'
MAX_SHOWN_CHARS = 20_000  # of an answer that does not fit


def find_schema(namespace: dict[str, Any], text: str | None, where: str) -> AnswerSchema | None:
    """
    Return the schema that `--json` names; None where it was not given.

    Raises
    ------
    InputError
        There is no such variable, or it is no schema.
    """
    if text is None:
        return None
    if _names_fields(namespace, text):
        return read_answer_schema(text, f"{where} --json")  # says how their types are given
    try:
        given = find_value(namespace, text, "--json", fitting=is_schema, ending=".json")
    except InputError as exc:
        if text.isidentifier() and text not in namespace and "did you mean" not in exc.fix:
            exc.fix = f"{NAME_FIELDS}; or {exc.fix}"
        raise
    return read_answer_schema(given, f"{where} --json")


def _names_fields(namespace: dict[str, Any], text: str) -> bool:
    """Return whether these are names of fields, without types, and no variables."""
    found = _BARE_FIELDS.fullmatch(text)
    if found is None:
        return False
    return any(name.strip() not in namespace for name in found["names"].split(","))


class DataView:
    """
    The output of one cell: how much has come, then the data.

    Parameters
    ----------
    raw
        The text is shown as it comes, in place of a count and of the data.
    """

    def __init__(self, *, raw: bool) -> None:
        self._raw = raw
        self._board = Board(grows=raw)
        self._round = 0

    def follow(self, stream: AnswerStream) -> Answer:
        """Return an answer, and show meanwhile how much of it has come."""
        self._round += 1
        if self._raw and self._round > 1:
            self._board = Board(grows=True)
        pieces: list[str] = []

        def tick() -> None:
            if not pieces and (wait := stream.waits_for) and not wait.endswith("(0 s)"):
                self._board.show_wait(wait, progress_markup(wait, None))

        try:
            for piece in stream.iterate(tick):
                pieces.append(piece)
                if self._board.is_due:
                    self._draw("".join(pieces))
        except ContextExceeded:  # nothing has come: it may be asked again with less
            self._board.clear()
            raise
        except BaseException:
            text = "".join(pieces)
            self._finish(text, answer_markup(text, "stopped here"))
            raise
        if self._raw:
            self._board.finish("".join(pieces), answer_markup("".join(pieces)))
        return stream.answer

    def _draw(self, text: str) -> None:
        if self._raw:
            self._board.show(text, answer_markup(text))
            return
        again = "" if self._round == 1 else "the answer did not fit; asked again: "
        line = f"{again}{format_count(len(text), 'character')} of JSON"
        self._board.show(line, progress_markup(line, None))

    def show(self, data: Any, facts: str, notes: Sequence[str] = ()) -> None:
        """Show the data of an answer; raw, only the facts, since the text is there."""
        if self._raw:
            publish("\n\n".join([*notes, facts]), answer_markup("", facts, notes))
        else:
            self._finish(*data_bundle(data, facts, notes))

    def show_unfit(self, text: str, facts: str) -> None:
        """Show an answer that is no data."""
        if len(text) > MAX_SHOWN_CHARS:
            text = f"{text[:MAX_SHOWN_CHARS]}... ({len(text):,} characters)"
        if self._raw:
            publish(facts, answer_markup("", facts))
        else:
            self._finish(f"{text}\n\n{facts}", answer_markup(text, facts))

    def _finish(self, plain: str, markup: str) -> None:
        if self._board.kernel or self._raw:
            self._board.finish(plain, markup)
        else:  # a line of progress is cut to the width of the terminal
            self._board.clear()
            publish(plain, markup)
