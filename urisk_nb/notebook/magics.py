"""The magics: parse, hand over, show.

This module is imported when the first magic runs. A magic imports itself what takes longer than the
manager: pandas, charts, the dashboard. It checks its line and its cell before any server is
touched, and blocks in short slices, so an interrupt is seen at once. Its errors show as two lines.
Over 400 lines: half of them are the table of arguments. A magic, its arguments and its help are one
thing: who adds an option changes the table and the function that reads it, and what is longer than
parsing and showing is in the modules that it calls.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from urisk_nb import event_loop
from urisk_nb.arguments import JoinAddresses, name_flag
from urisk_nb.errors import InputError, NotInitialized, UriskError, raise_ungrouped
from urisk_nb.llm.manager import LLMManager, StartEvent
from urisk_nb.llm.resilience import BreakerState
from urisk_nb.llm.setting_changes import Reload, fit_fix
from urisk_nb.notebook import ask as ask_magic
from urisk_nb.notebook import nest
from urisk_nb.notebook.answer_display import shorten_traceback
from urisk_nb.notebook.ask_request import ARGUMENTS as ASK_ARGUMENTS
from urisk_nb.notebook.ask_request import check_variable
from urisk_nb.notebook.cell_text import read_ticker_cell
from urisk_nb.notebook.expressions import find_value, is_client
from urisk_nb.notebook.magic_lines import MagicParser
from urisk_nb.render.board import Board, is_static, publish
from urisk_nb.render.front_end import updates_displays
from urisk_nb.render.markup import answer_markup, progress_markup, status_bundle
from urisk_nb.run_options import FILE_OPTIONS, list_run_options, read_run_params

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client
    from IPython.core.interactiveshell import InteractiveShell

    from urisk_nb.session import Run

__all__ = ["build_parser", "format_help_of", "run"]

SOON_S = 0.5  # what is done by then needs no line of progress


# Each magic: what help calls it, what it does, and its arguments as `add_argument` takes them.
USAGES: dict[str, tuple[str, str, dict[str, dict[str, Any]]]] = {
    "ask": (
        "%%ask",
        "Stream the model's answer to the cell's text. Interrupt the kernel to stop it.",
        ASK_ARGUMENTS,
    ),
    "risk": (
        "%%risk",
        (
            "Risk table of the cell's tickers (NVDA, MSFT=0.3; # comments): metrics from prices, "
            "labels by the model on evidence."
        ),
        {
            **list_run_options(in_shell=False),
            "--out": {"metavar": "NAME", "help": "variable to store the table in"},
            **{flag: FILE_OPTIONS[flag] for flag in ("--report", "--excel")},
        },
    ),
    "urisk_chat": (
        "%urisk_chat",
        "The conversation of %%ask: show it, forget it, or ask each question alone.",
        {
            "what": {
                "nargs": "?",
                "default": "show",
                "metavar": "show|reset|off|on",
                "help": "default: show; reset forgets all turns; off asks each question alone, and "
                "on goes on where it was",
            }
        },
    ),
    "urisk_dashboard": (
        "%urisk_dashboard",
        "Health and latency, live; look into any single call; start, stop and restart the server.",
        {
            "--static": {
                "action": "store_true",
                "help": "a picture of this moment, without widgets, for committed notebooks",
            },
            "--close": {
                "action": "store_true",
                "help": "replace the widgets with a picture of the last moment",
            },
        },
    ),
    "urisk_diff": (
        "%urisk_diff",
        "What changed from one run in the journal to another, and what caused it.",
        {
            "old": {
                "nargs": "?",
                "default": "",
                "metavar": "OLD",
                "help": "the older run: its id or its hash, or the first letters of either "
                "(%%urisk_history lists them); default: the one before the newest",
            },
            "new": {
                "nargs": "?",
                "default": "",
                "metavar": "NEW",
                "help": "the newer run; default: the newest one",
            },
        },
    ),
    "urisk_history": (
        "%urisk_history",
        "The runs in the journal, the newest first; with --answers the answers of %%ask.",
        {
            "limit": {
                "nargs": "?",
                "default": "",
                "metavar": "N",
                "help": "the newest N; default: all runs, 20 answers",
            },
            "--answers": {
                "action": "store_true",
                "help": "the answers of %%%%ask; %%urisk_replay ID shows one again",
            },
        },
    ),
    "urisk_latency": (
        "%urisk_latency",
        "Where the time of the last 200 calls went: a DataFrame, one row a call, seconds.",
        {"--plot": {"action": "store_true", "help": "a chart of the phases, too"}},
    ),
    "urisk_nest": (
        "%urisk_nest",
        (
            "Let your own cells call asyncio.run(...), as copied scripts do. urisk_nb itself does "
            "not need it."
        ),
        {
            "what": {
                "nargs": "?",
                "default": "status",
                "metavar": "on|off|status",
                "help": "default: status; off takes a kernel restart",
            }
        },
    ),
    "urisk_replay": (
        "%urisk_replay",
        "Show the table of a run, or an answer of %%ask, again, from the journal.",
        {
            "id": {
                "nargs": "?",
                "default": "",
                "metavar": "RUN",
                "help": "the id of the run or its hash, or the first letters of either; "
                "%%urisk_history lists them, with --answers those of answers",
            }
        },
    ),
    "urisk_start": (
        "%urisk_start",
        (
            "Find or start the model server, pull the model if it is missing, and warm it. A "
            "second time changes nothing."
        ),
        {
            "--url": {
                "action": JoinAddresses,
                "help": "address of the server (OLLAMA_URL); give it again for another server",
            },
            "--model": {"help": "model that answers (OLLAMA_MODEL)"},
            "--engine": {
                "help": "what to start where no server answers: auto, ollama or embedded "
                "(URISK_ENGINE)"
            },
            "--dialect": {"help": "protocol of the server: auto, ollama or openai (URISK_DIALECT)"},
            "--gguf": {"help": "model file for the embedded engine (URISK_GGUF)"},
            "--num-ctx": {"help": "context window in tokens (URISK_NUM_CTX)"},
            "--parallel": {"help": "calls in flight (URISK_PARALLEL)"},
            "--keep-alive": {
                "help": "how long the model stays loaded after a call, 2h (OLLAMA_KEEP_ALIVE)"
            },
        },
    ),
    "urisk_status": (
        "%urisk_status",
        "Which server and which model answer, and how fast.",
        {},
    ),
    "urisk_stop": (
        "%urisk_stop",
        (
            "End the session. Stop the server if one of your kernels started it and no other uses "
            "it. Any other server keeps running."
        ),
        {},
    ),
}


@functools.cache  # to make one takes a millisecond of each cell
def build_parser(name: str, *, in_line: bool = False) -> MagicParser:
    """Return the parser of a magic's line; `in_line`: of %risk and %ask."""
    prog, description, arguments = USAGES[name]
    prog = prog.replace("%%", "%") if in_line else prog
    parser = MagicParser(prog, description=description, add_help=False, allow_abbrev=False)
    for argument, options in arguments.items():
        parser.add_argument(argument, **options)
    return parser


def format_help_of(name: str) -> str:
    """Return what `NAME?` shows."""
    return build_parser(name).format_help()


@raise_ungrouped()
def run(shell: InteractiveShell, name: str, line: str, cell: str | None) -> Any:
    """Run a magic. Its line is parsed, or refused, before anything else happens."""
    nest.warn_of_dropped_cells()
    given = (shell, *_parse(name, line, cell))
    try:
        return MAGICS[name](*given)
    except UriskError as exc:
        name_flag(exc, USAGES[name][2])
        if (manager := LLMManager.find_instance()) is not None:
            fit_fix(exc, manager.settings)
        raise


def _parse(name: str, line: str, cell: str | None) -> tuple[Any, ...]:
    """Return the arguments of a magic: its flags, and the text of a cell or of %risk and %ask."""
    if cell is not None:
        return build_parser(name).parse_line(line), cell
    if name == "ask":
        args, text = build_parser(name, in_line=True).parse_question_line(line)
    elif name == "risk":
        args, text = build_parser(name, in_line=True).parse_tickers_line(line)
    else:
        return (build_parser(name).parse_line(line),)
    args.in_line = True
    return args, text


# Server -------------------------------------------------------------------------------------------


def _start(_: InteractiveShell, args: argparse.Namespace) -> None:
    began = time.monotonic()
    manager, changes = _start_manager(Reload.ALL, **vars(args))
    now, seconds = manager.snapshot(), time.monotonic() - began
    line = f"{now.server_label}: {now.model} is ready ({seconds:.1f} s)."
    above = (*changes, *now.notes, *manager.left_out)
    publish("\n".join([*above, line]), answer_markup("", line, above))


def _get_manager(**flags: Any) -> LLMManager:
    """
    Return the manager for a call, started if needed, with the settings as they are set now.

    A change that needs another session is only named: a question should not end a server.
    """
    manager, changes = _start_manager(Reload.CALLS, **flags)
    if changes:
        publish("\n".join(changes), answer_markup("", "", changes))
    return manager


def _start_manager(reload: Reload, **flags: Any) -> tuple[LLMManager, list[str]]:
    """
    Return the manager, started if needed, and what changed in its settings; shows the steps of the
    start. None: not given.
    """
    board = Board()
    events: list[StartEvent] = []

    def tick() -> None:
        if events:
            event = events[-1]
            share = event.done / event.total if event.total else None
            board.show(str(event), progress_markup(str(event), share))

    start = LLMManager.initialize(progress=events.append, reload=reload, **flags)
    try:
        manager = event_loop.run(start, tick)
    finally:
        board.clear()
    return manager, [event.text for event in events if event.step == "changed"]


def _stop(*_: Any) -> None:
    if (manager := LLMManager.find_instance()) is None:
        line = "Nothing to stop: this kernel has no session."
    else:
        why = "another kernel of yours uses it" if manager.is_managed else "it was not started here"
        manager.shutdown_sync()
        line = "Stopped: the server has ended."
        if manager.server.still_running:
            line = f"Closed. The server keeps running: {why}."
            if not manager.pool.is_single:
                line = "Closed. The servers keep running: they were not started here."
    publish(line, answer_markup("", line))


def _show_status(*_: Any) -> None:
    try:
        manager = LLMManager.get_instance()
        event_loop.run(manager.check_external())
        rows = _list_status(manager)
    except NotInitialized as exc:
        rows = {"state": "not started", "to start": exc.fix}
    publish(*status_bundle(rows, "urisk_nb"))


def _list_status(manager: LLMManager) -> dict[str, Any]:
    """Return what `%urisk_status` shows; a row without a value is left out."""
    now, calls = manager.snapshot(), manager.calls
    times = {1: "once", 2: "twice"}.get(now.restart_count, f"{now.restart_count} times")
    failed, to_do = now.failure or (None, None)
    breaker = now.breaker.replace("_", "-")
    rows = {
        "server": now.server_label,
        **{f"server {n}": str(one) for n, one in enumerate(now.servers, 1)},
        "model": now.model,
        "engine": manager.engine,
        "calls in flight": f"at most {now.parallel}",
        "labels in %%risk": manager.judge if manager.judge != manager.model else None,
        "process": manager.pid,
        "restarts": f"{times}, after the server had ended by itself" if now.restart_count else None,
        "failed": failed,
        "to do": to_do,
        "circuit": f"{breaker}: the server failed several times in a row; no call is sent for a "
        "while"
        if now.breaker is not BreakerState.CLOSED
        else None,
        "calls": len(calls),
        "first token, p50": f"{calls.percentile('first_token_s', 50):.2f} s" if calls else None,
        "whole call, p50": f"{calls.percentile('elapsed_s', 50):.2f} s" if calls else None,
        **{f"note {n}" if n > 1 else "note": text for n, text in enumerate(now.notes, 1)},
    }
    return {name: value for name, value in rows.items() if value is not None}


def _show_latency(_: InteractiveShell, args: argparse.Namespace) -> pd.DataFrame:
    from urisk_nb.notebook import latencies
    from urisk_nb.render.figures import show_figure

    calls = latencies.build_table(LLMManager.get_instance().calls.records)
    if args.plot:
        show_figure(latencies.draw_latency(calls))
    return calls


def _switch_nest(_: InteractiveShell, args: argparse.Namespace) -> None:
    shown = nest.switch(args.what)
    if isinstance(shown, dict):
        publish(*status_bundle(shown, "urisk_nest"))
    else:
        publish(shown, answer_markup("", shown))


def _show_dashboard(shell: InteractiveShell, args: argparse.Namespace) -> None:
    from urisk_nb.notebook import dashboard

    if args.close:
        dashboard.close_dashboard()
    elif args.static or is_static() or not updates_displays():
        publish(*dashboard.take_picture())
    else:
        dashboard.get_dashboard(shell).show()


# Ask ----------------------------------------------------------------------------------------------


def _ask(shell: InteractiveShell, args: argparse.Namespace, cell: str) -> Any:
    return ask_magic.ask(shell, args, cell, _get_manager)


def _handle_chat(_: InteractiveShell, args: argparse.Namespace) -> None:
    from urisk_nb.notebook.chat_command import handle_chat

    shown = handle_chat(args.what, ask_magic.get_conversation())
    if isinstance(shown, dict):
        publish(*status_bundle(shown, "conversation"))
    else:
        publish(shown, answer_markup("", shown))


# Risk ---------------------------------------------------------------------------------------------


def _make_table(shell: InteractiveShell, args: argparse.Namespace, cell: str) -> Any:
    from IPython.display import display

    from urisk_nb.risk.params import read_parallel
    from urisk_nb.table.outputs import check_outputs, write_outputs

    out, parallel = check_variable(args.out, "--out"), read_parallel(args.parallel)
    targets = check_outputs(vars(args))
    client = _find_client(shell, args.client)
    run = _open_run(shell, args, cell, client)
    try:
        if run.plan.asked:
            _label(run, parallel, client)
    except BaseException as exc:  # whatever it is: what was computed is shown and kept
        table = _keep_table(shell, run, out)
        display(table)  # type: ignore[no-untyped-call]
        try:
            write_outputs(table, targets)
        except UriskError as other:
            publish(str(other), answer_markup("", str(other)))
        if isinstance(exc, KeyboardInterrupt):
            shorten_traceback(
                exc, f"stopped with {len(run.ticker_findings)} rows done; the others are not_run."
            )
        raise
    table = _keep_table(shell, run, out)
    try:
        write_outputs(table, targets)
    except UriskError:
        display(table)  # type: ignore[no-untyped-call]
        raise
    return table


def _open_run(
    shell: InteractiveShell, args: argparse.Namespace, cell: str, client: Client | None
) -> Run:
    from urisk_nb.session import find_reader, open_run

    in_line = getattr(args, "in_line", False)
    where = "%risk" if in_line else "%%risk"
    if not cell.strip():
        what, place = ("line", "after %risk") if in_line else ("cell", "under the %%risk line")
        raise InputError(
            f"{where}: the {what} names no ticker.",
            fix=f"write tickers {place}, such as NVDA, MSFT=0.3",
        )
    if args.prices is None and args.evidence is None:
        raise InputError(
            f"{where}: neither --prices nor --evidence was given.",
            fix=f"name a variable or a file: {where} --prices prices --evidence news",
        )
    tickers = read_ticker_cell(cell, shell.user_ns, where)
    board = Board()
    note = _ReadingNote(board)
    try:
        return open_run(
            tickers,
            prices=find_value(shell.user_ns, args.prices, "--prices"),
            evidence=find_value(shell.user_ns, args.evidence, "--evidence"),
            previous=find_value(shell.user_ns, args.previous, "--previous"),
            params=read_run_params(args),
            benchmark=_find_benchmark(shell, args.benchmark),
            stress=find_value(shell.user_ns, args.stress, "--stress", is_label=True),
            factors=_find_factors(shell, args.factors),
            taxonomy=_find_taxonomy(shell, args.taxonomy),
            on_read=note,
            map_selections=find_reader(client),
            refresh=args.refresh,
        )
    except KeyboardInterrupt as exc:
        if note.text:  # else it is code of the user's: a function that loads prices
            shorten_traceback(exc, f"stopped while {note.text}; nothing was asked.")
        raise
    finally:
        board.clear()


class _ReadingNote:
    """Says which file or ticker is read, once it takes long enough to be asked."""

    def __init__(self, board: Board) -> None:
        self._board, self._began_s = board, time.monotonic()
        self.text = ""  # of what is read now

    def __call__(self, name: str, number: int, total: int) -> None:
        self.text = f"reading the evidence of {name} ({number} of {total})"
        if time.monotonic() - self._began_s > SOON_S:
            self._board.show(self.text, progress_markup(self.text, (number - 1) / total))


def _find_client(shell: InteractiveShell, text: str | None) -> Client | None:
    """Return the client of a cluster that the line names, checked before anything is read."""
    from urisk_nb.session import check_client

    client = find_value(shell.user_ns, text, "--client", fitting=is_client, ending="")
    check_client(client)
    return cast("Client | None", client)


def _label(run: Run, parallel: int | None, client: Client | None) -> None:
    from urisk_nb.session import find_lost_session, label_sync

    if client is not None:
        board = Board()

        def show() -> None:
            waits = "" if run.judges else "the workers of the cluster are made ready"
            _show_run(board, run, waits)

        try:
            label_sync(run, None, parallel, show, client=client)
        finally:
            board.clear()
        return
    judges = run.plan.params.judge if LLMManager.find_instance() is None else None
    try:
        manager = _get_manager(model=judges[0] if judges else None)
    except UriskError as exc:
        manager = find_lost_session(exc)
    board = Board()
    try:
        label_sync(run, manager, parallel, lambda: _show_progress(board, run, manager))
    finally:
        board.clear()


def _show_progress(board: Board, run: Run, manager: LLMManager) -> None:
    waits = ""
    if not run.progress.asked and (calls := manager.calls.live):  # before the first answer
        waits = calls[0].describe_wait(time.monotonic())
    _show_run(board, run, waits)


def _show_run(board: Board, run: Run, waits: str = "") -> None:
    now, text = run.progress, ", ".join(filter(None, [str(run.progress), waits]))
    board.show(text, progress_markup(text, now.asked / now.questions if now.questions else None))


def _keep_table(shell: InteractiveShell, run: Run, out: str | None) -> Any:
    """Return the table of what was computed; keep it in the variable `out`, if one was named."""
    table = run.table()
    if out:
        shell.user_ns[out] = table
    return table


# The journal --------------------------------------------------------------------------------------


def _show_history(_: InteractiveShell, args: argparse.Namespace) -> pd.DataFrame:
    from urisk_nb.past_answers import list_newest

    return list_newest(args.limit, of_answers=args.answers)


def _replay(_: InteractiveShell, args: argparse.Namespace) -> Any:
    from urisk_nb.chat.options import AnswerOptions
    from urisk_nb.notebook.answer_display import show_known_answer
    from urisk_nb.past_answers import is_answer, read_answer
    from urisk_nb.past_runs import replay

    if not is_answer(args.id):
        return replay(args.id)
    answer = read_answer(args.id)
    show_known_answer(answer, options=AnswerOptions(), notes=("from the journal",))
    return None  # an answer is shown once: its text is no view of it


def _show_diff(_: InteractiveShell, args: argparse.Namespace) -> Any:
    from urisk_nb.past_runs import history, replay
    from urisk_nb.table.risk_table import diff_tables

    newest, before = [*history()["run"][:2], "", ""][:2]
    return diff_tables(replay(args.old or before), replay(args.new or newest))


def _find_benchmark(shell: InteractiveShell, text: str | None) -> Any:
    """Return the user's Series, or the text itself: a column of the prices, or "equal"."""
    import pandas as pd

    value = find_value(shell.user_ns, text, "--benchmark", is_label=True)
    return value if isinstance(value, pd.Series) else text


def _find_factors(shell: InteractiveShell, text: str | None) -> Any:
    """Return the user's DataFrame or Series, or the text itself: columns of the prices."""
    import pandas as pd

    value = find_value(shell.user_ns, text, "--factors", is_label=True)
    return value if isinstance(value, pd.DataFrame | pd.Series) else text


def _find_taxonomy(shell: InteractiveShell, text: str | None) -> Any:
    """Return the user's categories, the path of a file of them, or those of the package."""
    from urisk_nb.risk.taxonomy import DEFAULT, Taxonomy

    value = find_value(
        shell.user_ns,
        text,
        "--taxonomy",
        fitting=lambda one: isinstance(one, Taxonomy),
        ending=".toml",
    )
    return DEFAULT if value is None else value


# Cell magics also take the text of the cell.
MAGICS: dict[str, Callable[..., Any]] = {
    "ask": _ask,
    "risk": _make_table,
    "urisk_chat": _handle_chat,
    "urisk_dashboard": _show_dashboard,
    "urisk_diff": _show_diff,
    "urisk_history": _show_history,
    "urisk_latency": _show_latency,
    "urisk_nest": _switch_nest,
    "urisk_replay": _replay,
    "urisk_start": _start,
    "urisk_status": _show_status,
    "urisk_stop": _stop,
}
