"""
`urisk risk`: the run of `%%risk` in a shell, for a job that nobody watches.

The table goes to standard output, as text or as one JSON object; progress goes to standard error,
and only where that is a terminal. What was computed is printed and written also when the run fails.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urisk_nb.arguments import JoinAddresses, name_flag
from urisk_nb.errors import InputError, UriskError
from urisk_nb.render.board import ProgressLine
from urisk_nb.render.escaping import visible
from urisk_nb.run_options import FILE_OPTIONS, list_run_options, read_run_params

if TYPE_CHECKING:
    from distributed import Client

    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.session import Run
    from urisk_nb.table.risk_table import RiskTable

__all__ = ["ARGUMENTS", "DONE", "FAILED", "NOT_OK", "USAGE", "run_command"]

# The exit status of a job; docs/nightly.md lists them.
DONE, FAILED, USAGE, NOT_OK = 0, 1, 2, 3
FINE = ("ok", "no_evidence")  # what --strict takes for done

OpenManager = Callable[..., AbstractContextManager["LLMManager"]]

ARGUMENTS: dict[str, dict[str, Any]] = {
    "tickers": {
        "nargs": "+",
        "metavar": "TICKERS",
        "help": "a file with the text of a %%%%risk cell, - for standard input, or tickers "
        "(NVDA=0.4 MSFT); a file that exists wins",
    },
    **list_run_options(in_shell=True),
    "--url": {
        "action": JoinAddresses,
        "help": "address of the server (OLLAMA_URL); give it again for another server",
    },
    "--engine": {
        "choices": ("auto", "ollama", "embedded"),
        "help": "what to start where no server answers (URISK_ENGINE)",
    },
    "--scheduler": {
        "metavar": "ADDRESS",
        "help": "scheduler of a Dask cluster whose workers query the model, such as tcp://host:8786",
    },
    **FILE_OPTIONS,
    "--json": {
        "action": "store_true",
        "help": "print rows, portfolio, record and messages as one JSON object, in place of the "
        "table",
    },
    "--strict": {
        "action": "store_true",
        "help": f"end with {NOT_OK} where a row is neither ok nor no_evidence",
    },
}
BESIDE = ("benchmark", "stress", "factors")  # what a run takes beside its other parameters
_FILE = re.compile(r"[/\\]|\.(?:txt|csv|lst|list|md)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What was typed, checked; nothing was read but the list of tickers."""

    tickers: str
    params: Mapping[str, Any]
    parallel: int | None
    targets: Mapping[str, Path]


def run_command(args: argparse.Namespace, open_manager: OpenManager) -> int:
    """
    Run `urisk risk` with these arguments; returns the exit status.

    Parameters
    ----------
    args
        What the parser of `ARGUMENTS` made of the line.
    open_manager
        Gives the manager for the time of the run, started with the settings that it is given.

    Raises
    ------
    UriskError
        The run failed, after what was computed is printed and written.
    """
    try:
        job = _check(args)
    except UriskError as exc:
        name_flag(exc, args.flags)
        _complain(exc)
        return USAGE
    with _open_cluster(args.scheduler) as client:
        table = _make_table(args, job, open_manager, client)
    _hand_over(table, job, is_json=args.json)
    return NOT_OK if args.strict and not table["status"].isin(FINE).all() else DONE


@contextmanager
def _open_cluster(address: str | None) -> Iterator[Client | None]:
    """Give a client of the scheduler that was named, if one was."""
    if address is None:
        yield None
        return
    from urisk_nb.scale.checks import open_client

    with open_client(address) as client:
        yield client


def _make_table(
    args: argparse.Namespace, job: _Job, open_manager: OpenManager, client: Client | None
) -> RiskTable:
    """Return the table; where the run fails, print and write what was computed."""
    run = _open(args, job, client)
    try:
        _label(run, job, args, open_manager, client)
    except BaseException as exc:  # whatever it is: what was computed is printed and kept
        run.failure = run.failure or _describe(exc)
        try:
            _hand_over(run.table(), job, is_json=args.json, failure=exc)
        except UriskError as other:
            _complain(other)
        raise
    return run.table()


def _complain(exc: UriskError) -> None:
    print(visible(f"{type(exc).__name__}: {exc}"), file=sys.stderr)


def _describe(exc: BaseException) -> str:
    """Return why a run ended, as a sentence."""
    if isinstance(exc, UriskError):
        return exc.message
    is_stop = isinstance(exc, KeyboardInterrupt | SystemExit)
    return "it was stopped." if is_stop else f"{type(exc).__name__}: {exc}"


# Before the run -----------------------------------------------------------------------------------


def _check(args: argparse.Namespace) -> _Job:
    """Check all that can be wrong with the line itself."""
    from urisk_nb.risk.params import RiskParams, read_parallel
    from urisk_nb.table.outputs import check_outputs

    targets = check_outputs(vars(args))
    parallel, params = read_parallel(args.parallel), read_run_params(args)
    beside = {name: value for name in BESIDE if (value := getattr(args, name)) is not None}
    RiskParams.of(**params, **beside)
    if args.prices is None and args.evidence is None:
        raise InputError(
            "neither --prices nor --evidence was given.",
            fix="give at least one: urisk risk NVDA --prices prices.csv --evidence filings/",
        )
    if args.scheduler is not None and (args.url or args.engine):
        flag = "--url" if args.url else "--engine"
        raise InputError(
            f"{flag} was given with --scheduler, but each worker uses the server of its host.",
            fix=f"leave out {flag}, and set OLLAMA_URL or URISK_ENGINE on the workers",
        )
    if args.previous is not None and args.evidence is None:
        raise InputError(
            "--previous was given without --evidence to compare it with.",
            fix="name the documents of this year: --evidence filings/",
        )
    for flag in ("--prices", "--evidence", "--previous", "--taxonomy"):
        if getattr(args, flag.removeprefix("--")) == "":
            raise InputError(f"{flag} is empty.", fix=f"give a path, or leave {flag} out")
    return _Job(
        tickers=_read_tickers(args.tickers), params=params, parallel=parallel, targets=targets
    )


def _read_tickers(words: Sequence[str]) -> str:
    """Return the list of tickers as a cell has it."""
    if list(words) == ["-"]:
        text, where = sys.stdin.read(), "standard input"
    elif len(words) == 1 and Path(words[0]).expanduser().is_file():
        from urisk_nb.readers.encodings import read_text

        text, where = read_text(Path(words[0]).expanduser()), words[0]
    else:
        if missing := next(filter(_FILE.search, words), None):
            raise InputError(
                f"there is no file {missing!r}."
                if len(words) == 1
                else f"{missing!r} stands beside other words; a list of tickers is one file.",
                fix="check the path, or name the tickers: urisk risk NVDA MSFT=0.3",
            )
        # A name with spaces, in quotation marks, is one between commas
        text, where = ", ".join(words), "the line"
    if not any(line.partition("#")[0].strip(", \t") for line in text.splitlines()):
        raise InputError(f"{where} names no ticker.", fix="write tickers, such as NVDA, MSFT=0.3")
    return text


def _open(args: argparse.Namespace, job: _Job, client: Client | None) -> Run:
    """Read prices and evidence, and compute the metrics."""
    from urisk_nb.risk.taxonomy import DEFAULT
    from urisk_nb.session import find_reader, open_run

    with _open_progress() as show:
        return open_run(
            job.tickers,
            prices=args.prices,
            evidence=args.evidence,
            previous=args.previous,
            **{name: getattr(args, name) for name in BESIDE},
            params=job.params,
            taxonomy=DEFAULT if args.taxonomy is None else args.taxonomy,
            refresh=args.refresh,
            on_read=lambda symbol, number, total: show(
                f"reading the evidence of {symbol} ({number} of {total})"
            ),
            map_selections=find_reader(client),
        )


# The run ------------------------------------------------------------------------------------------


def _label(
    run: Run,
    job: _Job,
    args: argparse.Namespace,
    open_manager: OpenManager,
    client: Client | None,
) -> None:
    """Have the sentences labeled, if there are any."""
    from urisk_nb.session import label_sync

    if not run.plan.asked:
        return
    judge = next(iter(run.plan.params.judge or ()), None)
    given = {"model": judge, "url": args.url, "engine": args.engine}
    settings = {name: value for name, value in given.items() if value}
    with _open_progress() as show:

        def tick() -> None:
            show(f"Labeling: {run.progress}")

        if client is not None:
            label_sync(run, None, job.parallel, tick, client=client)
            return
        with open_manager(show, **settings) as manager:
            label_sync(run, manager, job.parallel, tick)


@contextmanager
def _open_progress() -> Iterator[Callable[[object], None]]:
    """Give a way to show a step on standard error; nothing is shown where that is no terminal."""
    line = ProgressLine()
    try:
        yield line.show if line.live else lambda _: None
    finally:
        line.clear()


# After the run ------------------------------------------------------------------------------------


def _hand_over(
    table: RiskTable, job: _Job, *, is_json: bool, failure: BaseException | None = None
) -> None:
    """Print the table, and write it to the files that were named."""
    from urisk_nb.table.outputs import write_outputs

    try:
        print(_format_json(table, failure) if is_json else _format_text(table), flush=True)
    finally:
        write_outputs(table, job.targets)


def _format_text(table: RiskTable) -> str:
    """Return the table, and below it the portfolio and what else the line asked for."""
    from urisk_nb.table.portfolio_text import render_parts_text

    below = render_parts_text(table.report)
    return visible(f"{table.as_text()}\n\n{below}" if below else table.as_text())


def _format_json(table: RiskTable, failure: BaseException | None) -> str:
    """Return rows, portfolio, record and messages as one JSON object."""
    import pandas as pd

    from urisk_nb.table.record_rows import to_json, to_parts, to_records

    record = dict(table.report.meta)
    messages = record.pop("messages", {})
    whole = {
        "rows": to_records(pd.DataFrame(table).reset_index()),
        **to_parts(table.report),
        "record": to_json(record),
        "messages": to_json(messages),
        "error": None
        if failure is None
        else {
            "error": type(failure).__name__,
            "message": _describe(failure),
            "fix": getattr(failure, "fix", None),
        },
    }
    return json.dumps(whole, allow_nan=False)
