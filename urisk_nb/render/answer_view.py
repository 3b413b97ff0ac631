"""
One answer as HTML, while it grows and when it has ended: thoughts folded, Markdown laid out, facts
under it.

The text of a model is Markdown to a reader and nothing to a browser: `answer_markdown` says how.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from urisk_nb.render.answer_markdown import GrowingMarkdown, load_markdown
from urisk_nb.render.escaping import escape_html
from urisk_nb.render.markup import MUTED, PLAIN, note_boxes, progress_markup
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.answer_text import split_thinking

__all__ = ["MAX_MARKDOWN_CHARS", "AnswerView", "is_too_long"]

MAX_MARKDOWN_CHARS = 100_000  # some 20,000 words; a longer answer is shown as it is
_BODY = "overflow-wrap:anywhere;max-width:60em"
_RAW = f"white-space:pre-wrap;{_BODY}"
_FOLDED = f"{MUTED};white-space:pre-wrap;font-size:90%;margin:.3em 0 .6em 1.2em"


def is_too_long(text: str) -> bool:
    """Return whether an answer is shown as it is, since it is long."""
    return len(text) > MAX_MARKDOWN_CHARS


class AnswerView:
    """
    The HTML of one answer.

    Parameters
    ----------
    raw
        The text is shown as the model wrote it, thoughts and all.
    clock
        Seconds.
    """

    def __init__(self, *, raw: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.raw, self._clock = raw, clock
        self._markdown = GrowingMarkdown()
        self._shown = ""  # what of the answer the last frame had, without thoughts
        self._thinks_since_s: float | None = None
        self._loading: threading.Thread | None = None

    def prepare(self) -> None:
        """Load the parser while the first text is waited for; frames before have plain text."""
        if not self.raw and not _is_loaded():
            self._loading = threading.Thread(target=load_markdown, daemon=True)
            self._loading.start()

    def draw(self, text: str, thinking: str = "") -> str:
        """
        Return a frame of an answer that still grows.

        While it only thinks, the frame says so, and for how long.
        """
        if self.raw:
            return _wrap(_show_raw(text))
        thoughts, answer = _part(text, thinking)
        if thoughts and not answer.strip():
            return self._say_thinking()
        if not _is_loaded():
            return _wrap(_fold(thoughts) + _show_raw(answer))
        return _wrap(_fold(thoughts) + self._lay_out(answer, lambda it: it.render(answer)))

    def finish(
        self,
        text: str,
        thinking: str = "",
        footer: str = "",
        notes: Sequence[str] = (),
        *,
        is_cut: bool = False,
    ) -> str:
        """
        Return the last frame.

        Parameters
        ----------
        text, thinking
            The answer, and the thoughts that the server gave apart from it.
        footer
            The line of facts under it.
        notes
            What is wrong with the answer.
        is_cut
            It was stopped, and who stopped it waits for this frame.
        """
        if self._loading is not None:
            self._loading.join()
        foot = f'<div style="{MUTED};font-size:85%">{escape_html(footer)}</div>' if footer else ""
        if self.raw:
            return _wrap(_show_raw(text) + note_boxes(notes) + foot)
        thoughts, answer = _part(text, thinking)
        body = ""
        if answer.strip():
            body = self._lay_out(answer, lambda growing: growing.finish(answer, is_cut=is_cut))
        return _wrap(_fold(thoughts) + body + note_boxes(notes) + foot)

    def _lay_out(self, answer: str, render: Callable[[GrowingMarkdown], str]) -> str:
        if is_too_long(answer):
            return _show_raw(answer)
        if not answer.startswith(self._shown):  # a tag has made thoughts of what was text
            self._markdown = GrowingMarkdown()
        self._shown = answer
        return f'<div role="log" style="{_BODY}">{render(self._markdown)}</div>'

    def _say_thinking(self) -> str:
        now_s = self._clock()
        if self._thinks_since_s is None:
            self._thinks_since_s = now_s
        return progress_markup(f"thinking ({now_s - self._thinks_since_s:.0f} s)", None)


def _is_loaded() -> bool:
    return load_markdown.cache_info().currsize > 0


def _part(text: str, thinking: str) -> tuple[str, str]:
    """Return all thoughts, told apart by the server or written into the text, and the answer."""
    inline, answer = split_thinking(text)
    return "\n\n".join(filter(None, (thinking.strip(), inline))), answer.lstrip("\r\n")


def _fold(thoughts: str) -> str:
    if not thoughts:
        return ""
    head = f"Thinking ({format_count(len(thoughts.split()), 'word')})"
    return (
        f'<details><summary style="{MUTED};cursor:pointer">{head}</summary>'
        f'<div style="{_FOLDED}">{escape_html(thoughts)}</div></details>'
    )


def _show_raw(text: str) -> str:
    return f'<div role="log" style="{_RAW}">{escape_html(text)}</div>'


def _wrap(body: str) -> str:
    return f'<div class="{PLAIN}">{body}</div>'
