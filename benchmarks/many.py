"""
Measure a run with very much evidence: python benchmarks/many.py [--filings 300] [--sentences 2000]

Writes a folder of generated annual reports, one per ticker, and runs `assess` on it in its own
process, with a scripted server and a journal. Prints the time until the first progress message and
in total, the longest time between two messages, the memory of the caller and its workers, the time
that an interrupt takes, and how many questions a second run asks (none). `--no-ask` skips the
questions, `--workers` sets URISK_WORKERS. `--previous` compares each report with one of the year
before, which differs in a third of the sentences.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the filings, and the server

import psutil

from flaky_server import FlakyServer
from many_filings import write_folder

MB = 1e6
SERVICE_S = 0.002
SLOTS = 16
CHANGED = 1 / 3  # of the sentences, since the year before


# The run, in its own process ----------------------------------------------------------------------


class Progress:
    """The times of progress messages, and the longest time without one."""

    def __init__(self) -> None:
        self.began_s = self.last_s = time.monotonic()
        self.first_s: float | None = None
        self.longest_s = 0.0

    def note(self, *_: object) -> None:
        now = time.monotonic()
        if self.first_s is None:
            self.first_s = now - self.began_s
        self.longest_s = max(self.longest_s, now - self.last_s)
        self.last_s = now


def read(tickers: list[str], folder: Path, ask: bool) -> None:
    """Open and label one run, and print its figures as one line of JSON."""
    from urisk_nb import LLMManager
    from urisk_nb.session import label_sync, open_run

    progress = Progress()
    try:
        run = open_run(
            tickers,
            evidence=str(folder),
            previous=str(before) if (before := folder.with_name("before")).exists() else None,
            params={"llm": ask},
            on_read=progress.note,
        )
        read_s, quiet_s = time.monotonic() - progress.began_s, progress.longest_s
        read_mb = get_peak_mb()
        if ask:
            manager = LLMManager.initialize_sync(parallel=SLOTS)
            label_sync(run, manager, tick=progress.note)
            manager.shutdown_sync()
        table = run.table()
        print(
            json.dumps(
                {
                    "first": progress.first_s,
                    "quiet_reading": quiet_s,
                    "quiet": progress.longest_s,
                    "reading": read_s,
                    "all": time.monotonic() - progress.began_s,
                    "mb_reading": read_mb,
                    "mb": get_peak_mb(),
                    "chosen": sum(len(one.chosen) for one in run.plan.selections.values()),
                    "judged": int(table["judged"].sum()) if ask else 0,
                    "mb_text": sum(len(one.text) for one in run.inputs.documents) / MB,
                }
            )
        )
    except KeyboardInterrupt:
        print(json.dumps({"interrupted_s": time.monotonic()}))


def get_peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


# The measurement ----------------------------------------------------------------------------------


def run_once(args: argparse.Namespace, folder: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--filings", str(args.filings), "--read", str(folder)]
    return subprocess.Popen(
        [*command, *(["--no-ask"] if args.no_ask else [])],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


class WorkersMemory(threading.Thread):
    """The peak memory of all workers of a process together, and of a single one."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.all_mb, self.one_mb, self.count = pid, 0.0, 0.0, 0

    def run(self) -> None:
        while psutil.pid_exists(self.pid):
            try:
                sizes = [
                    one.memory_info().rss / MB
                    for one in psutil.Process(self.pid).children()
                    if any("worker.py" in part for part in one.cmdline())
                ]
            except psutil.Error:
                sizes = []
            self.all_mb = max(self.all_mb, sum(sizes))
            self.one_mb = max([self.one_mb, *sizes])
            self.count = max(self.count, len(sizes))
            time.sleep(0.1)


def measure(args: argparse.Namespace, folder: Path, env: dict[str, str]) -> dict[str, float]:
    process = run_once(args, folder, env)
    memory = WorkersMemory(process.pid)
    memory.start()
    text, _ = process.communicate()
    found: dict[str, float] = json.loads(text.splitlines()[-1])
    found |= {"workers": memory.count, "mb_worker": memory.one_mb, "mb_workers": memory.all_mb}
    return found


def interrupt(args: argparse.Namespace, folder: Path, env: dict[str, str], after_s: float) -> float:
    """Return the seconds that an interrupt takes to end the run and its workers."""
    process = run_once(args, folder, env)
    time.sleep(after_s)
    workers = psutil.Process(process.pid).children()
    sent_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate()
    if any(one.is_running() for one in workers):
        raise SystemExit("a worker is left")
    ended_s: float = json.loads(text.splitlines()[-1])["interrupted_s"]
    return ended_s - sent_s


def say(text: str) -> None:
    print(text, flush=True)


def describe(name: str, found: dict[str, float]) -> None:
    say(
        f"{name}: first progress after {found['first']:.2f} s, read after {found['reading']:.1f} s "
        f"(at most {found['quiet_reading']:.2f} s between two messages), all {found['all']:.1f} s"
    )
    say(
        f"  {found['mb_text']:.0f} MB of text, {found['chosen']:,.0f} sentences chosen; caller "
        f"{found['mb_reading']:.0f} MB after reading, {found['mb']:.0f} MB at most; "
        f"{found['workers']:.0f} workers, {found['mb_worker']:.0f} MB one, "
        f"{found['mb_workers']:.0f} MB all"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--filings", type=int, default=300)
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--no-ask", action="store_true")
    parser.add_argument("--previous", action="store_true")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    args = parser.parse_args()
    tickers = [f"T{number:04}" for number in range(args.filings)]
    if args.read:
        read(tickers, Path(args.read), not args.no_ask)
        return
    with tempfile.TemporaryDirectory() as root:
        folder, place = Path(root, "filings"), Path(root, "server")
        place.mkdir()
        write_folder(folder, tickers, args.sentences)
        if args.previous:
            before = folder.with_name("before")
            write_folder(before, tickers, args.sentences, year=2024, changed=CHANGED)
        server = FlakyServer(place, service_s=SERVICE_S, slots=SLOTS)
        env = {"OLLAMA_URL": server.url, "URISK_JOURNAL": str(Path(root, "journal.sqlite3"))}
        env |= {"URISK_WORKERS": str(args.workers)} if args.workers else {}
        try:
            first = measure(args, folder, env)
            describe("first run", first)
            asked = len(server.asked())
            again = measure(args, folder, env)
            describe("run again", again)
            say(f"asked {asked:,}, and {len(server.asked()) - asked} in the run again")
            for after_s in (0.5 * first["reading"], 0.5 * (again["reading"] + again["all"])):
                seconds = interrupt(args, folder, env, after_s)
                say(f"interrupted after {after_s:.1f} s: ended within {seconds:.2f} s")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
