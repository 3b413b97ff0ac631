"""The fake Ollama as a process: `python -m fake_ollama`, with `tests` on the path.

One JSON line on stdout when it is ready; SIGTERM and SIGINT end it with 0; what it cannot do is one
line on stderr and 1.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from fake_ollama.scenario import Scenario
from fake_ollama.scripted import ScriptedBackend
from fake_ollama.server import Server, listen_error, serve


class CannotStart(Exception):
    """Why there is no server; the message is for the user."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m fake_ollama", description="A server that speaks Ollama's protocol."
    )
    made.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: this machine only)"
    )
    made.add_argument("--port", type=int, default=0, help="0 takes a free one")
    made.add_argument("--slots", type=int, default=None, help="answers at a time (default 1)")
    made.add_argument(
        "--num-ctx",
        type=int,
        default=None,
        help="context window where a request names none (default 4096)",
    )
    made.add_argument(
        "--scenario",
        type=Path,
        default=None,
        help="JSON file with models and rules",
    )
    made.add_argument(
        "--ready-file", type=Path, default=None, help="the line of stdout is written here, too"
    )
    return made


def make_backend(args: argparse.Namespace) -> ScriptedBackend:
    """Return the backend that the command line describes. Raises CannotStart for a bad scenario."""
    try:
        scenario = Scenario.load(args.scenario) if args.scenario else Scenario()
    except (OSError, ValueError) as exc:
        raise CannotStart(f"scenario {args.scenario}: {exc}") from exc
    given = {
        name: value
        for name, value in (("slots", args.slots), ("num_ctx", args.num_ctx))
        if value is not None
    }
    return ScriptedBackend(dataclasses.replace(scenario, **given))


async def run(args: argparse.Namespace) -> None:
    """Serve until a signal comes. Raises CannotStart, OSError."""
    stop = asyncio.Event()
    _on_signals(stop)
    backend = make_backend(args)
    async with serve(backend, host=args.host, port=args.port) as server:
        _announce(args, backend, server)
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


def _announce(args: argparse.Namespace, backend: ScriptedBackend, server: Server) -> None:
    line = json.dumps(
        {
            "url": server.url,
            "pid": os.getpid(),
            "model": backend.models()[0].name,
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
