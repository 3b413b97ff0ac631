"""
Measure all groups and write docs/performance.md: python benchmarks/performance.py --write

Each group runs in its own process with a time limit; if one fails, it is reported and the others
continue. Results are kept in benchmarks/results.json, with the machine and the versions. `--only
ask journal` measures these groups again and keeps the rest; `--only` alone measures nothing.
Without --write the page is printed, and no file but the results changes. All groups take about 12
minutes on two cores. `--quick` uses small sizes and takes two minutes: it checks that all groups
run, and writes results-quick.json, which is not compared with the goals.

Other work on the machine makes the figures worse. `urisk fetch-model` downloads the weights for the
group `filing`; `pip install "urisk-nb[benchmark]"` installs the other clients and the plots.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
VERSIONS = (
    *("urisk-nb", "numpy", "pandas", "httpx", "ipykernel", "xllamacpp", "distributed"),
    *("ollama", "langchain-ollama", "empyrical-reloaded", "matplotlib"),
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
QUICK_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The function `measure_NAME` of a module in this folder, with its limits."""

    module: str
    limit_s: float
    env: dict[str, str] = field(default_factory=dict)

    def measure(self, name: str, *, quick: bool) -> Any:
        """
        Return what the group measured. Raises records.Skipped, and LookupError for a figure that
        has no row.
        """
        from goals import ROWS
        from records import Skipped

        if not (HERE / f"{self.module}.py").exists():
            raise Skipped(f"benchmarks/{self.module}.py does not exist")
        found = getattr(importlib.import_module(self.module), f"measure_{name}")(quick=quick)
        if unknown := set(found.figures) - set(ROWS):
            raise LookupError(f"goals.py has no row for {', '.join(sorted(unknown))}")
        return found


GROUPS = {
    "start": Group(module="start", limit_s=120),
    "quant": Group(module="quant", limit_s=200, env=ONE_THREAD),
    "prices": Group(module="quant", limit_s=200, env=ONE_THREAD),
    "generate": Group(module="wire", limit_s=200),
    "ask": Group(module="ask", limit_s=150),
    "risk": Group(module="wire", limit_s=500),
    "journal": Group(module="journal", limit_s=200),
    "servers": Group(module="pool", limit_s=300),
    "cluster": Group(module="cluster", limit_s=300),
    "kernels": Group(module="kernels", limit_s=300),
    "documents": Group(module="documents", limit_s=400),
    "many": Group(module="evidence", limit_s=300),
    "lifetime": Group(module="lifetime", limit_s=200),
    "filing": Group(module="filing", limit_s=300),
}


# The machine --------------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """Return the hardware and versions, without the name of the machine."""
    import psutil

    return {
        "cpu": find_cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "gpu": find_gpu(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "versions": find_versions(),
    }


def find_cpu() -> str:
    """Return the CPU model as the system names it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    return platform.processor() or platform.machine()


def find_gpu() -> str:
    """Return the first GPU that `nvidia-smi` names, or "no GPU"."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return "no GPU"
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    return done.stdout.partition("\n")[0].strip() or "no GPU"


def find_versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# Running ------------------------------------------------------------------------------------------


def run_group(name: str, *, quick: bool) -> dict[str, Any]:
    """Run a group in its own process and return its entry in the results."""
    group, began_s = GROUPS[name], time.monotonic()
    limit_s = QUICK_LIMIT_S if quick else group.limit_s
    entry = {
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
        "quick": quick,
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "measured.json")
        command = [sys.executable, str(Path(__file__)), "--into", str(out), "--only", name]
        process = subprocess.Popen(
            [*command, *["--quick"] * quick],
            env=build_env(group, folder),
            start_new_session=True,  # `end_session` also ends its servers and kernels
        )
        try:
            process.wait(limit_s)
            said = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        except subprocess.TimeoutExpired:
            said = {"status": "too slow", "why": f"it took longer than {limit_s:g} s"}
        finally:
            end_session(process)
    crashed = {"status": "failed", "why": f"its process ended with {process.returncode}"}
    seconds = round(time.monotonic() - began_s, 1)
    return {**entry, "seconds": seconds, "why": "", **(said or crashed)}


def build_env(group: Group, folder: str) -> dict[str, str]:
    """Return the environment of a group: no user settings, no proxy, no journal."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "URISK_")) and not name.lower().endswith("_proxy")
    }
    run = Path(folder, "run")
    run.mkdir(mode=0o700)
    return {**kept, "URISK_JOURNAL": "off", "XDG_RUNTIME_DIR": str(run), **group.env}


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a group and all processes that it left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure_into(name: str, out: Path, *, quick: bool) -> None:
    """Measure one group in this process and write its result."""
    from records import Skipped

    try:
        said = {"status": "done", "measured": GROUPS[name].measure(name, quick=quick).encode()}
    except Skipped as why:
        said = {"status": "skipped", "why": str(why)}
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - reported; the others continue
        traceback.print_exc()
        said = {"status": "failed", "why": describe_error(exc)}
    out.write_text(json.dumps(said), encoding="utf-8")


def describe_error(exc: BaseException) -> str:
    """Return an error in one line, without paths of this machine."""
    first = f"{type(exc).__name__}: {exc}".partition("\n")[0]
    return re.sub(r"(?<![\w:/])(?:/[^\s/'\",:]+){2,}", "a file", first)[:200]


# Results ------------------------------------------------------------------------------------------


def read_results(path: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """
    Return the earlier results of this machine; results of another machine are not mixed in.
    """
    empty: dict[str, Any] = {"machine": machine, "groups": {}}
    if not path.exists():
        return empty
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    differ = [
        name
        for name in machine
        if name != "versions" and found["machine"].get(name) != machine[name]
    ]
    if differ and found["groups"]:
        say(f"{path.name} is from another machine ({', '.join(differ)}): starting over")
        return empty
    return found


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write the results atomically, in the order of the groups."""
    ordered = {name: results["groups"][name] for name in GROUPS if name in results["groups"]}
    text = json.dumps({**results, "groups": ordered}, indent=1, ensure_ascii=False)
    partial = path.with_suffix(".partial")
    partial.write_text(f"{text}\n", encoding="utf-8")
    partial.replace(path)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, two minutes")
    parser.add_argument(
        "--only",
        nargs="*",
        choices=list(GROUPS),
        metavar="GROUP",
        help=f"groups to measure, of {', '.join(GROUPS)}; without names, measure nothing",
    )
    parser.add_argument("--write", action="store_true", help="write the page and its plots")
    parser.add_argument("--results", type=Path, help="where the figures are kept, as JSON")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that --write changes")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # one group, as a child
    args = parser.parse_args(arguments)
    if args.quick and args.write and args.page == PAGE:
        parser.error("--quick --write needs another page, because its sizes are small: --page FILE")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if a group failed, else 0."""
    args = parse(arguments)
    if args.into is not None:
        measure_into(args.only[0], args.into, quick=args.quick)
        return 0
    path = args.results or HERE / ("results-quick.json" if args.quick else "results.json")
    machine = describe_machine()
    results = read_results(path, machine)
    failed = []
    for name in GROUPS if args.only is None else args.only:
        say(f"{name} ...")
        results["machine"] = machine
        entry = results["groups"][name] = run_group(name, quick=args.quick)
        say(f"{name}: {entry['status']}, {entry['seconds']:.0f} s {entry['why']}")
        write_results(path, results)
        failed += [name] * (entry["status"] not in ("done", "skipped"))
    show(args, results)
    if failed:
        say(f"not measured: {', '.join(failed)}")
    return 1 if failed else 0


def show(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write the page and its plots, or print the page."""
    from page import render

    text = render(PAGE.read_text(encoding="utf-8"), results)
    if not args.write:
        print(text)
        return
    args.page.write_text(text, encoding="utf-8")
    try:
        from plots import draw_all
    except ModuleNotFoundError as exc:
        say(f"no plots: {exc.name} is not installed")
        return
    draw_all(results, args.page.parent / "images" / "performance")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    raise SystemExit(main())
