"""
Launch llama.cpp's own server for one model file: `python -m urisk_nb.embedded.launcher --gguf
FILE`.

One JSON line on stdout says that it is ready, llama.cpp logs to stderr, SIGTERM and SIGINT end it
with exit code 0, or while it still loads by the signal itself. If it cannot start, one line on
stderr says why and the exit code is 1.

The demo model's file serves two models under two names: itself, and with the adapter of this
package the judge. Both are one server, since two in one process count each other's threads and
become four times slower. The adapter is loaded with scale 1, since `/v1/systemone` takes no other;
a chat with the demo model turns it off: `"lora": [{"id": 0, "scale": 0}]`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import ipaddress
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from urisk_nb.embedded import decision, weights
from urisk_nb.errors import FetchFailed
from urisk_nb.terminal_text import visible

DEMO_MODEL = "smollm2-135m:latest"
PROMPT_CACHE_MIB = 1024  # llama.cpp's default of 8 GiB for old prompts is too much for a laptop
MAGIC = b"GGUF"
LOG_LEVEL = 2  # warnings and errors; at the default of 3 it logs ten lines for each request

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class LaunchError(Exception):
    """The server cannot start. The message says what was seen and what to do."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m urisk_nb.embedded.launcher", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--gguf", type=Path, required=True, help="the model: any instruct model in GGUF form"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="loopback address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument(
        "--slots",
        type=int,
        default=1,
        help="answers at a time; memory grows with each (default: 1)",
    )
    parser.add_argument(
        "--num-ctx",
        type=int,
        default=4096,
        help="context window of a slot in tokens (default: 4096)",
    )
    parser.add_argument(
        "--threads", type=int, help="threads that compute (default: the cores this process may use)"
    )
    parser.add_argument(
        "--adapter",
        type=Path,
        help="the judge's adapter in place of the package's own, to measure one that you trained",
    )
    return parser.parse_args(argv)


def count_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """
    Return how many cores this process may use: its affinity, or a container's share of them,
    rounded up.

    More threads than that wait for each other most of the time: a pod with two cores on a host with
    sixty-four would stand still.
    """
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with contextlib.suppress(OSError, ValueError):
        share, period = quota.read_text(encoding="ascii").split()
        count = min(count, max(1, -(-int(share) // int(period))))  # "max" is no number: no limit
    return count


def list_names(path: Path) -> tuple[str, ...]:
    """Return the names under which a file's model is served; the demo model's file has two."""
    if _is_demo_model(path):
        return DEMO_MODEL, f"{weights.JUDGE}:latest"
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-.")[:80]
    return (f"{stem.lower() or 'model'}:latest",)


def _is_demo_model(path: Path) -> bool:
    return path.name == weights.GGUF and path.stat().st_size == weights.GGUF_BYTES


def _check(args: argparse.Namespace) -> None:
    """Refuse what llama.cpp would refuse without saying why. Raises LaunchError."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise LaunchError(
            'the package xllamacpp is not installed: pip install "urisk-nb[embedded]"'
        )
    if args.slots < 1 or args.num_ctx < 1:
        raise LaunchError("--slots and --num-ctx must be at least 1")
    if args.adapter is not None and not args.adapter.is_file():
        raise LaunchError(f"the adapter {args.adapter} is not a file: check the path")
    try:
        with args.gguf.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as exc:
        raise LaunchError(f"the model file {args.gguf} cannot be read: {exc.strerror}") from exc
    if head != MAGIC:
        raise LaunchError(f"{args.gguf} starts with {head!r}, a GGUF model starts with {MAGIC!r}")
    _check_address(args.host, args.port)


def _check_address(host: str, port: int) -> None:
    if not _is_loopback(host):
        raise LaunchError(
            f"{host} is not a loopback address: the embedded engine serves this machine only"
        )
    if not 0 <= port <= 65535:
        raise LaunchError(f"--port is {port}: a port is a number from 0 to 65535")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as exc:
        reason = os.strerror(exc.errno).lower() if exc.errno else str(exc)
        raise LaunchError(f"listen tcp {place}: bind: {reason}") from exc


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def launch_server(args: argparse.Namespace) -> Any:
    """
    Load the model and return the `xllamacpp.Server`, which listens.

    Raises
    ------
    LaunchError
        The file, the address, the adapter or this Python cannot serve.
    """
    _check(args)
    try:
        adapter = args.adapter
        if adapter is None and _is_demo_model(args.gguf):
            adapter = weights.adapter()
        if adapter is None:
            return _serve(args, args.gguf)
        with decision.prepare_model(args.gguf, adapter) as model:
            return _serve(args, model, adapter)
    except FetchFailed as exc:
        raise LaunchError(f"{exc.message} {exc.fix}") from exc


def _serve(args: argparse.Namespace, model: Path, adapter: Path | None = None) -> Any:
    # Threads that wait for each other spin for a moment, then sleep. Measured on 2 cores, tokens a
    # second alone and beside two busy programs: OpenMP's default 71 and 3, sleeping at once 27 and
    # 14, this 75 and 30. The library reads it once, when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = set(list_names(args.gguf))
    params.hostnames, params.port = [args.host], args.port
    # Else any web page could read the answers
    params.cors_origins = f"http://{args.host}:{args.port}"
    params.n_parallel, params.n_ctx = args.slots, args.num_ctx * args.slots
    params.cpuparams.n_threads = args.threads or count_cores()
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.verbosity = LOG_LEVEL
    params.ui = False
    params.endpoint_metrics = True
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        params.lora_adapters = [lora]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as exc:  # the reason is in the log above
        raise LaunchError(
            f"llama.cpp cannot load {args.gguf.name}: {exc} Fetch the file again if it is damaged."
        ) from exc


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends the process; return 1 where there is nothing to serve."""
    args = parse_args(argv)
    # While it loads, the library keeps the interpreter's lock and no Python handler would run.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        server = launch_server(args)
    except LaunchError as exc:
        print(f"Error: {visible(str(exc))}", file=sys.stderr)
        return 1
    # At once: nothing has to be saved, and the library's threads may be in the middle of a token.
    for number in ENDING_SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
    line = {"url": server.listening_address, "pid": os.getpid(), "models": list_names(args.gguf)}
    print(json.dumps(line), flush=True)
    while True:
        threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
