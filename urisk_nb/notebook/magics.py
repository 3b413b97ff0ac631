"""The magics: parse, hand over, show.

This module is imported when the first magic runs; a magic imports what else it needs. Each magic
checks its line and its cell before any server is touched. It blocks in short slices, so an
interrupt is seen at once, and its errors show as two lines.
Over 400 lines: the magics and their parsers, each of them short; a reader looks for them in one
place.
"""

from __future__ import annotations

import argparse
import keyword
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from urisk_nb.errors import InputError, NotInitialized, raise_ungrouped
from urisk_nb.notebook import nest

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from urisk_nb.llm.manager import Answer, LLMManager, StartEvent
    from urisk_nb.render.board import Board
    from urisk_nb.session import Run

__all__ = ["format_help_of", "run"]


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours and which never ends the process."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        import difflib

        flags = sorted(self._option_string_actions)
        words = [word for word in message.replace("=", " ").split() if word.startswith("--")]
        close = (
            difflib.get_close_matches(words[0], flags, 1)
            if words and "unrecognized" in message
            else []
        )
        fix = (
            f"did you mean {close[0]}?"
            if close
            else f"see {self.prog}? for what it takes: {' '.join(flags)}"
        )
        raise InputError(f"{self.prog}: {message}.", fix=fix)

    def parse_line(self, line: str) -> argparse.Namespace:
        """
        Parse the words of the line, with quotes removed.

        A backslash is a plain character, as in Windows paths.
        """
        lexer = shlex.shlex(line, posix=True)
        lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
        try:
            words = list(lexer)
        except ValueError as exc:
            raise InputError(
                f"{self.prog}: a quotation mark is not closed in {line.strip()!r}.",
                fix="close it, or leave it out",
            ) from exc
        return self.parse_args(words)


def _start_parser(prog: str = "%urisk_start") -> _Parser:
    parser = _Parser(
        prog,
        "Find or start the model server, pull the model if it is missing, and warm it. A second "
        "time changes nothing.",
    )
    parser.add_argument("--url", help="address of the server (OLLAMA_URL)")
    parser.add_argument("--model", help="model that answers (OLLAMA_MODEL)")
    parser.add_argument(
        "--engine",
        help="what to start where no server answers: auto, ollama or embedded (URISK_ENGINE)",
    )
    parser.add_argument("--dialect", help="wire: auto, ollama or openai (URISK_DIALECT)")
    parser.add_argument("--gguf", help="model file for the embedded engine (URISK_GGUF)")
    parser.add_argument(
        "--num-ctx", dest="num_ctx", help="context window in tokens (URISK_NUM_CTX)"
    )
    parser.add_argument("--parallel", help="calls in flight (URISK_PARALLEL)")
    parser.add_argument(
        "--keep-alive",
        dest="keep_alive",
        help="how long the model stays loaded after a call, 2h (OLLAMA_KEEP_ALIVE)",
    )
    return parser


def _ask_parser() -> _Parser:
    parser = _Parser(
        "%%ask", "Stream the model's answer to the cell's text. Interrupt the kernel to stop it."
    )
    parser.add_argument(
        "name",
        nargs="?",
        help="variable that is given the answer object (a str with .timing, .model)",
    )
    parser.add_argument("--system", help="system prompt")
    return parser


def _risk_parser() -> _Parser:
    parser = _Parser(
        "%%risk",
        "Risk table of the cell's tickers (NVDA, MSFT=0.3; # comments): metrics from prices, "
        "labels by the model on evidence.",
    )
    parser.add_argument(
        "--prices",
        metavar="NAME",
        help="DataFrame (wide, or long: date, ticker, close), callable, or path of a CSV or "
        "Parquet file",
    )
    parser.add_argument(
        "--evidence",
        metavar="NAME",
        help="DataFrame (ticker, text, date, source), dict, list, callable, or path of a file or "
        "folder",
    )
    parser.add_argument(
        "--query", metavar="TEXT", help="ask only about sentences that share a word with it"
    )
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        help="a column of the prices, a Series, or equal (the table's own equal-weighted mean)",
    )
    parser.add_argument("--start", metavar="DATE", help="first date, 2023-01-31")
    parser.add_argument("--end", metavar="DATE", help="last date")
    parser.add_argument(
        "--window", metavar="SPAN", help="2y, 6m, 12w or 90d, back from the last date"
    )
    parser.add_argument(
        "--as-of",
        dest="as_of",
        metavar="DATE",
        help="prices and evidence after it are left out; default: the last date in the prices",
    )
    parser.add_argument(
        "--alpha", metavar="LIST", help="tail masses, 0.05,0.01; the first is the main one"
    )
    parser.add_argument(
        "--returns", action="store_true", help="the prices are simple returns already"
    )
    parser.add_argument(
        "--no-llm", dest="no_llm", action="store_true", help="metrics only; no server is touched"
    )
    parser.add_argument("--model", help="model that labels the sentences")
    parser.add_argument(
        "--labels",
        metavar="KIND",
        help="greedy: the label the model writes; calibrated: the most probable label after "
        "subtracting the content-free prior",
    )
    parser.add_argument("--parallel", metavar="N", help="calls in flight for this run, 1 to 256")
    parser.add_argument("--out", metavar="NAME", help="variable that is given the table")
    return parser


def _stop_parser() -> _Parser:
    return _Parser(
        "%urisk_stop",
        "End the session. Stop the server if one of your kernels started it and no other uses it. "
        "Any other server keeps running.",
    )


def _status_parser() -> _Parser:
    return _Parser("%urisk_status", "Which server and which model answer, and how fast.")


def _nest_parser() -> _Parser:
    parser = _Parser(
        "%urisk_nest",
        "Let your own cells call asyncio.run(...), as copied scripts do. urisk_nb itself does "
        "not need it.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="status",
        metavar="on|off|status",
        help="default: status; off takes a kernel restart",
    )
    return parser


def _latency_parser() -> _Parser:
    parser = _Parser(
        "%urisk_latency",
        "Where the time of the last 200 calls went: a DataFrame, one row a call, seconds.",
    )
    parser.add_argument("--plot", action="store_true", help="a chart of the phases, too")
    return parser


def _dashboard_parser() -> _Parser:
    parser = _Parser(
        "%urisk_dashboard",
        "Health and latency, live; look into any single call; start, stop and restart the server.",
    )
    parser.add_argument(
        "--static",
        action="store_true",
        help="a picture of this moment, without widgets, as committed notebooks want it",
    )
    parser.add_argument(
        "--close",
        action="store_true",
        help="leave a picture of the last moment, and end the widgets",
    )
    return parser


PARSERS: dict[str, Callable[[], _Parser]] = {
    "ask": _ask_parser,
    "risk": _risk_parser,
    "urisk_dashboard": _dashboard_parser,
    "urisk_latency": _latency_parser,
    "urisk_nest": _nest_parser,
    "urisk_start": _start_parser,
    "urisk_status": _status_parser,
    "urisk_stop": _stop_parser,
}


def format_help_of(name: str) -> str:
    """Return what `NAME?` shows."""
    return PARSERS[name]().format_help()


@raise_ungrouped()
def run(shell: InteractiveShell, name: str, line: str, cell: str | None) -> Any:
    """Run a magic. Its line is parsed, or refused, before anything else happens."""
    nest.warn_of_dropped_cells()
    args = PARSERS[name]().parse_line(line)
    if cell is not None:
        return (_ask if name == "ask" else _make_table)(shell, args, cell)
    return LINE_MAGICS[name](shell, args)


# Server -------------------------------------------------------------------------------------------


def _start(_: InteractiveShell, args: argparse.Namespace) -> None:
    from urisk_nb.render import board, markup

    began = time.monotonic()
    manager = _start_manager(
        **{name: value for name, value in vars(args).items() if value is not None}
    )
    now, seconds = manager.snapshot(), time.monotonic() - began
    line = f"{now.server_label}: {now.model} is ready ({seconds:.1f} s)."
    notes = now.notes
    board.publish("\n".join([*notes, line]), markup.answer_markup("", line, notes))


def _start_manager(**flags: Any) -> LLMManager:
    """Return the manager, started if needed; shows the steps of the start."""
    from urisk_nb import event_loop
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.render.board import Board

    board = Board()
    events: list[StartEvent] = []

    def tick() -> None:
        if events:
            board.show(*_format_event(events[-1]))

    try:
        return event_loop.run(LLMManager.initialize(progress=events.append, **flags), tick)
    finally:
        board.clear()


def _format_event(event: StartEvent) -> tuple[str, str]:
    from urisk_nb.render.markup import progress_markup
    from urisk_nb.render.progress_line import format_step

    text = format_step(event)
    return text, progress_markup(text, event.done / event.total if event.total else None)


def _stop(*_: Any) -> None:
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.render import board, markup

    try:
        manager = LLMManager.get_instance()
    except NotInitialized:
        line = "Nothing to stop: no session was started in this kernel."
    else:
        why = "another kernel of yours uses it" if manager.is_managed else "it was not started here"
        manager.shutdown_sync()
        line = "Stopped: the server has ended."
        if manager.still_running:
            line = f"Closed. The server keeps running: {why}."
    board.publish(line, markup.answer_markup("", line))


def _show_status(*_: Any) -> None:
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.render import board, markup

    try:
        rows = _list_status(LLMManager.get_instance())
    except NotInitialized as exc:
        rows = {"state": "not started", "to start": exc.fix}
    board.publish(*markup.status_bundle(rows, "urisk_nb"))


def _list_status(manager: LLMManager) -> dict[str, Any]:
    from urisk_nb.llm.resilience import BreakerState

    now = manager.snapshot()
    rows: dict[str, Any] = {
        "server": now.server_label,
        "model": now.model,
        "engine": manager.engine,
        "calls in flight": f"at most {now.parallel}",
    }
    if manager.judge != manager.model:
        rows["labels in %%risk"] = manager.judge
    if manager.pid is not None:
        rows["process"] = manager.pid
    if now.restart_count:
        times = {1: "once", 2: "twice"}.get(now.restart_count, f"{now.restart_count} times")
        rows["restarts"] = f"{times}, after the server had ended by itself"
    if now.failure is not None:
        rows["failed"], rows["to do"] = now.failure
    if now.breaker is not BreakerState.CLOSED:
        rows["circuit"] = (
            f"{now.breaker.replace('_', '-')}: the server failed several times in a row; no "
            "call is sent for a while"
        )
    calls = manager.calls
    rows["calls"] = len(calls)
    if len(calls):
        rows["first token, p50"] = f"{calls.percentile('first_token_s', 50):.2f} s"
        rows["whole call, p50"] = f"{calls.percentile('elapsed_s', 50):.2f} s"
    for number, text in enumerate(now.notes):
        rows["note" if not number else f"note {number + 1}"] = text
    return rows


def _show_latency(_: InteractiveShell, args: argparse.Namespace) -> pd.DataFrame:
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.notebook import charts, latency_table

    calls = latency_table.build_table(LLMManager.get_instance().calls.records)
    if args.plot:
        charts.show_chart(charts.draw_latency(calls))
    return calls


def _switch_nest(_: InteractiveShell, args: argparse.Namespace) -> None:
    from urisk_nb.render import board, markup

    shown = nest.turn(args.what)
    if isinstance(shown, dict):
        board.publish(*markup.status_bundle(shown, "urisk_nest"))
    else:
        board.publish(shown, markup.answer_markup("", shown))


def _show_dashboard(shell: InteractiveShell, args: argparse.Namespace) -> None:
    from urisk_nb.notebook import dashboard
    from urisk_nb.render import board

    if args.close:
        dashboard.close_dashboard()
    elif args.static or board.is_static() or getattr(shell, "kernel", None) is None:
        board.publish(*dashboard.take_picture())
    else:
        dashboard.get_dashboard(shell).show()


LINE_MAGICS: dict[str, Callable[[InteractiveShell, argparse.Namespace], Any]] = {
    "urisk_dashboard": _show_dashboard,
    "urisk_latency": _show_latency,
    "urisk_nest": _switch_nest,
    "urisk_start": _start,
    "urisk_status": _show_status,
    "urisk_stop": _stop,
}


# Ask ----------------------------------------------------------------------------------------------


def _ask(shell: InteractiveShell, args: argparse.Namespace, cell: str) -> None:
    name = _check_variable(args.name, "%%ask")
    if not cell.strip():
        raise InputError(
            "%%ask: the cell has no question.", fix="write the question under the %%ask line"
        )
    answer = _stream_answer(_start_manager(), cell.strip(), args.system)
    if name:
        shell.user_ns[name] = answer


def _stream_answer(manager: LLMManager, prompt: str, system: str | None) -> Answer:
    """
    Show the answer as it grows.

    An interrupt, or an error, shows what there is and is raised again.
    """
    from urisk_nb.render.board import Board
    from urisk_nb.render.markup import answer_markup

    board, pieces = Board(grows=True), []
    stream = manager.stream_sync(prompt, system)
    try:
        for piece in stream:
            pieces.append(piece)
            if board.is_due:
                text = "".join(pieces)
                board.show(text, answer_markup(text))
    except BaseException as exc:
        text = "".join(pieces)
        board.finish(text, answer_markup(text, "stopped here"))
        if isinstance(exc, KeyboardInterrupt):
            _shorten_traceback(exc, "you stopped the answer; the server has stopped, too.")
        raise
    answer = stream.answer
    facts = _describe_answer(answer, manager)
    board.finish(f"{answer}\n\n{facts}", answer_markup(str(answer), facts))
    return answer


def _describe_answer(answer: Answer, manager: LLMManager) -> str:
    from urisk_nb.render.text_layout import format_count

    timing = answer.timing
    who = f"{answer.model}, a small demo model" if manager.is_demo_model else answer.model
    # Not every server counts; none is then no count of an answer.
    tokens = f" · {format_count(timing.tokens, 'token')}" if timing.tokens else ""
    cut = " · cut at the limit" if answer.done_reason == "length" else ""
    return f"{who}{tokens} · {timing.total_s:.1f} s{cut}"


# Risk ---------------------------------------------------------------------------------------------


# The parameters of the run that have an option of the same name.
PARAMS = ("alpha", "start", "end", "window", "as_of", "returns", "model", "labels", "query")


def _make_table(shell: InteractiveShell, args: argparse.Namespace, cell: str) -> Any:
    from urisk_nb.risk.params import read_parallel

    out, parallel = _check_variable(args.out, "--out"), read_parallel(args.parallel)
    run = _open_run(shell, args, cell)
    try:
        if run.needs_model:
            _label(run, parallel)
    except BaseException as exc:  # whatever it is: what was computed is shown and kept
        _show_partial(shell, run, out)
        if isinstance(exc, KeyboardInterrupt):
            _shorten_traceback(
                exc, f"stopped with {len(run.ticker_findings)} rows done; the others are not_run."
            )
        raise
    table = run.table()
    if out:
        shell.user_ns[out] = table
    return table


def _open_run(shell: InteractiveShell, args: argparse.Namespace, cell: str) -> Run:
    from urisk_nb.session import open_run

    if not cell.strip():
        raise InputError(
            "%%risk: the cell names no ticker.",
            fix="write tickers under the %%risk line, such as NVDA, MSFT=0.3",
        )
    if args.prices is None and args.evidence is None:
        raise InputError(
            "%%risk: neither --prices nor --evidence was given.",
            fix="name a variable or a file: %%risk --prices prices --evidence news",
        )
    # Text as it was typed: the run reads and checks it, as it does for `assess`.
    params = {name: value for name in PARAMS if (value := getattr(args, name)) is not None} | {
        "llm": not args.no_llm
    }
    prices, evidence = (
        _resolve(shell, args.prices, "--prices"),
        _resolve(shell, args.evidence, "--evidence"),
    )
    return open_run(
        cell,
        prices=prices,
        evidence=evidence,
        params=params,
        benchmark=_resolve_benchmark(shell, args.benchmark),
    )


def _label(run: Run, parallel: int | None) -> None:
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.render.board import Board
    from urisk_nb.session import label_sync

    try:
        LLMManager.get_instance()
        manager = _start_manager()
    except NotInitialized:
        manager = _start_manager(model=run.plan.params.model)
    board = Board()
    try:
        label_sync(run, manager, parallel, lambda: _show_progress(board, run))
    finally:
        board.clear()


def _show_progress(board: Board, run: Run) -> None:
    from urisk_nb.render.markup import progress_markup
    from urisk_nb.render.text_layout import format_count

    if not board.is_due:
        return
    now = run.progress
    left = "" if now.eta_s is None else f", about {now.eta_s:.0f} s left"
    counts = f"{now.rows} of {now.rows_total} rows, {now.asked} of {now.questions} questions"
    tokens = f", {format_count(now.tokens, 'token')}" if now.tokens else ""
    text = f"{counts}{tokens}{left}"
    board.show(text, progress_markup(text, now.asked / now.questions if now.questions else None))


def _show_partial(shell: InteractiveShell, run: Run, out: str | None) -> None:
    """Show and assign what was computed, before the error is raised again."""
    from IPython.display import display

    table = run.table()
    if out:
        shell.user_ns[out] = table
    display(table)  # type: ignore[no-untyped-call]


def _shorten_traceback(exc: KeyboardInterrupt, text: str) -> None:
    """Have the notebook show one line in place of a stack through our own waiting."""
    # IPython looks for this method.
    exc._render_traceback_ = lambda: [f"KeyboardInterrupt: {text}"]  # type: ignore[attr-defined]


def _check_variable(name: str | None, where: str) -> str | None:
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise InputError(
            f"{where}: {name!r} is not a variable name.",
            fix=f"use letters, digits and underscores, such as {where} table"
            if where.startswith("--")
            else f"put the question on the next line; after {where} comes only a variable name",
        )
    return name


def _resolve(shell: InteractiveShell, name: str | None, flag: str) -> Any:
    """Return the user's variable of this name, or the name itself where it is a path."""
    if name is None or name in shell.user_ns:
        return None if name is None else shell.user_ns[name]
    if not name.isidentifier():
        return name  # a path; the reader says so if nothing is there
    import difflib

    import pandas as pd

    known = [
        key
        for key, value in shell.user_ns.items()
        if not key.startswith("_") and isinstance(value, pd.DataFrame | dict | list | pd.Series)
    ]
    close = difflib.get_close_matches(name, known, 1)
    fix = (
        f"did you mean {flag} {close[0]}?"
        if close
        else f"assign it in a cell above: {name} = ..., or give a path such as ./{name}.csv"
    )
    raise InputError(f"{flag}: there is no variable {name!r}.", fix=fix)


def _resolve_benchmark(shell: InteractiveShell, name: str | None) -> Any:
    import pandas as pd

    value = shell.user_ns.get(name) if name else None
    return value if isinstance(value, pd.Series) else name
