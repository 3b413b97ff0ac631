"""How an answer is shown while it comes: its frames, the line under it, and what stopped it."""

from __future__ import annotations

import math

from urisk_nb.chat.citations import CitationMarks
from urisk_nb.chat.options import LARGER_WINDOW, AnswerOptions
from urisk_nb.errors import ContextExceeded
from urisk_nb.llm.manager import Answer, AnswerStream, is_demo
from urisk_nb.render.answer_view import MAX_MARKDOWN_CHARS, AnswerView, is_too_long
from urisk_nb.render.board import Board
from urisk_nb.render.markup import progress_markup
from urisk_nb.render.text_layout import format_count

__all__ = [
    "describe_answer",
    "describe_interrupt",
    "shorten_traceback",
    "show_answer",
    "show_known_answer",
]

NO_MARKS = CitationMarks({}, is_on=False)
STOPPED = "stopped here"
LONG = f"shown as plain text, since it has more than {MAX_MARKDOWN_CHARS:,} characters"
SLOW_RATE = 10  # tokens a second; below, a decimal place matters


def show_answer(
    stream: AnswerStream,
    *,
    options: AnswerOptions,
    notes: tuple[str, ...] = (),
    raw: bool = False,
    marks: CitationMarks | None = None,
    name: str | None = None,
) -> Answer:
    """
    Show an answer as it grows; return it.

    An interrupt, or an error, shows what there is and is raised again.

    Parameters
    ----------
    notes
        What the line under the answer says beside its figures.
    raw
        The text is shown as the model wrote it.
    marks
        What is done with the ids that it cites; None: nothing.
    name
        The variable that gets the answer, as an interrupt names it.
    """
    board, view = Board(grows=True), AnswerView(raw=raw)
    marks = marks or NO_MARKS
    pieces: list[str] = []

    def tick() -> None:
        if not pieces and (wait := stream.waits_for) and not wait.endswith("(0 s)"):
            board.show_wait(wait, progress_markup(wait, None))

    if board.kernel:
        view.prepare()
    try:
        for piece in stream.iterate(tick):
            pieces.append(piece)
            if board.is_due:
                _show_frame(stream, view, board, marks.mark("".join(pieces)))
    except ContextExceeded:  # nothing has come: it may be asked again with less
        board.clear()
        raise
    except BaseException as exc:
        _show_stopped(stream, view, board, marks.mark("".join(pieces)))
        if isinstance(exc, KeyboardInterrupt):
            shorten_traceback(exc, describe_interrupt(name))
        raise
    return _show_whole(stream.answer, view, board, options=options, notes=notes, marks=marks)


def show_known_answer(
    answer: Answer,
    *,
    options: AnswerOptions,
    notes: tuple[str, ...] = (),
    raw: bool = False,
    marks: CitationMarks | None = None,
) -> Answer:
    """Show an answer that is there already, whole; the parameters are those of `show_answer`."""
    board, view = Board(grows=True), AnswerView(raw=raw)
    return _show_whole(answer, view, board, options=options, notes=notes, marks=marks or NO_MARKS)


def _show_frame(stream: AnswerStream, view: AnswerView, board: Board, text: str) -> None:
    board.show(text, lambda: view.draw(text, stream.thinking))


def _show_stopped(stream: AnswerStream, view: AnswerView, board: Board, text: str) -> None:
    partial = stream.partial
    facts = " · ".join([STOPPED, *_list_figures(partial)])
    board.finish(text, lambda: view.finish(text, partial.thinking, facts, is_cut=True))


def _show_whole(
    answer: Answer,
    view: AnswerView,
    board: Board,
    *,
    options: AnswerOptions,
    notes: tuple[str, ...],
    marks: CitationMarks,
) -> Answer:
    notes = (*notes, *marks.finish(answer))
    text, faults = marks.mark(str(answer)), list(answer.faults.values())
    long = [LONG] if board.kernel and not view.raw and is_too_long(text) else []
    facts = " · ".join([describe_answer(answer, options), *long, *notes])
    board.finish(
        "\n\n".join([*([text] if text else []), *faults, facts]),
        lambda: view.finish(text, answer.thinking, facts, faults),
    )
    return answer


def describe_answer(answer: Answer, options: AnswerOptions) -> str:
    """Return the line under an answer: who gave it, and its figures as far as they are known."""
    who = f"{answer.model}, a small demo model" if is_demo(answer.model) else answer.model
    cut = [_describe_cut(options)] if answer.done_reason == "length" else []
    return " · ".join([who, *_list_figures(answer), *cut])


def _list_figures(answer: Answer) -> list[str]:
    """Return the figures of an answer; not every server counts, and a clock may not have begun."""
    timing = answer.timing
    rate = timing.tokens_per_s
    figures = {
        format_count(timing.tokens, "token"): timing.tokens > 0,
        f"{rate:.0f} tokens/s" if rate >= SLOW_RATE else f"{rate:.1f} tokens/s": rate > 0,
        f"first after {timing.first_token_s:.2f} s": not math.isnan(timing.first_token_s),
        f"{timing.total_s:.1f} s": not math.isnan(timing.total_s),
    }
    return [text for text, is_known in figures.items() if is_known]


def _describe_cut(options: AnswerOptions) -> str:
    limit = options.max_tokens
    if not options.has_room:
        return f"cut at {limit:,} tokens, since the window leaves no more; {LARGER_WINDOW}"
    return f"cut at {limit:,} tokens; ask for more with --max-tokens {2 * limit}"


def describe_interrupt(name: str | None) -> str:
    """Return what an interrupt did; `name` is the variable that has what had come."""
    kept = f" {name} has what had come." if name else ""
    return f"you stopped the answer. The server stopped generating, and keeps running.{kept}"


def shorten_traceback(exc: KeyboardInterrupt, text: str) -> None:
    """Have the notebook show one line in place of the stack of the waiting thread."""
    # IPython looks for this method.
    exc._render_traceback_ = lambda: [f"KeyboardInterrupt: {text}"]  # type: ignore[attr-defined]
