"""The stand-in as a process: `python -m urisk_nb.standin --brain scripted|llamacpp`.

One JSON line on stdout when it is ready; SIGTERM and SIGINT end it with 0; what it cannot do is one
line on stderr and 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from urisk_nb.standin.brain import Brain
from urisk_nb.standin.scenario import Scenario
from urisk_nb.standin.scripted import ScriptedBrain
from urisk_nb.standin.server import Server, listen_error, serve


class CannotStart(Exception):
    """Why there is no server; the message is for the user."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m urisk_nb.standin", description="A server that speaks Ollama's protocol."
    )
    made.add_argument(
        "--brain", choices=("scripted", "llamacpp"), default="scripted", help="what answers"
    )
    made.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: this machine only)"
    )
    made.add_argument("--port", type=int, default=0, help="0 takes a free one")
    made.add_argument(
        "--gguf",
        type=Path,
        default=os.environ.get("URISK_GGUF"),
        help="the model of the llamacpp brain",
    )
    made.add_argument("--slots", type=int, default=None, help="answers at a time (default 1)")
    made.add_argument(
        "--num-ctx",
        type=int,
        default=None,
        help="context window where a request names none (default 4096)",
    )
    made.add_argument(
        "--threads",
        type=int,
        default=None,
        help="threads of the llamacpp brain (default: the cores it may use)",
    )
    made.add_argument(
        "--scenario",
        type=Path,
        default=None,
        help="JSON file with the scripted brain's models and rules",
    )
    made.add_argument(
        "--ready-file", type=Path, default=None, help="the line of stdout is written here, too"
    )
    return made


def brain_of(args: argparse.Namespace) -> Brain:
    """The brain that the command line names.

    Raises
    ------
    CannotStart
        No such file, not a model, not a scenario, package missing.
    """
    if args.brain == "scripted":
        return _scripted(args)
    from urisk_nb.standin import llamacpp

    if args.gguf is None:
        raise CannotStart("the llamacpp brain needs a model: --gguf PATH, or URISK_GGUF")
    try:
        return llamacpp.LlamaBrain(
            Path(args.gguf),
            slots=args.slots or 1,
            num_ctx=args.num_ctx or 4096,
            threads=args.threads,
        )
    except llamacpp.ModelUnusable as exc:
        raise CannotStart(str(exc)) from exc


def _scripted(args: argparse.Namespace) -> Brain:
    import dataclasses

    try:
        scenario = Scenario.load(args.scenario) if args.scenario else Scenario()
    except (OSError, ValueError) as exc:
        raise CannotStart(f"scenario {args.scenario}: {exc}") from exc
    given = {
        name: value
        for name, value in (("slots", args.slots), ("num_ctx", args.num_ctx))
        if value is not None
    }
    return ScriptedBrain(dataclasses.replace(scenario, **given))


async def run(args: argparse.Namespace) -> None:
    """Serve until a signal comes. Raises CannotStart, OSError."""
    stop = asyncio.Event()
    _on_signals(stop)
    brain = brain_of(args)
    async with serve(brain, host=args.host, port=args.port) as server:
        _announce(args, brain, server)
        await stop.wait()


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except (
            NotImplementedError
        ):  # Windows: no loop handlers; Ctrl-C still raises KeyboardInterrupt
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))


def _announce(args: argparse.Namespace, brain: Brain, server: Server) -> None:
    line = json.dumps(
        {
            "url": server.url,
            "pid": os.getpid(),
            "brain": brain.engine,
            "model": brain.models()[0].name,
        }
    )
    if args.ready_file:
        part = args.ready_file.with_name(args.ready_file.name + ".part")
        part.write_text(line + "\n", encoding="utf-8")
        part.replace(args.ready_file)
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parser().parse_args(argv)
    try:
        asyncio.run(run(args))
    except CannotStart as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(listen_error(exc, args.host, args.port), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
