"""Who holds a lease in tests: this process, another one, and servers that end badly."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

from harness import eventually, free_port
from urisk_nb import event_loop
from urisk_nb.server import leases
from urisk_nb.settings import Settings

ROOT = Path(leases.__file__).parents[2]


def leave(lease, **named):
    event_loop.run(lease.leave(**named))


def exit_of(lease, within_s=10):
    """How the server ended, as its holder is told."""
    event_loop.run(asyncio.wait_for(lease.ended.wait(), within_s))
    return lease.exit


def settings(**flags):
    return Settings(url=flags.pop("url", f"http://127.0.0.1:{free_port()}"), **flags)


def version(given):
    """What the server at the address says it is, or None."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"{given.url}/api/version", timeout=2) as reply,
    ):
        return json.load(reply)["version"]
    return None


HOLDER = """
    import asyncio, os, sys
    from urisk_nb import event_loop
    from urisk_nb.server import leases
    from urisk_nb.settings import Engine, Settings
    {before}
    lease = event_loop.run(leases.start(Engine.OLLAMA, Settings(url={url!r})))
    print(lease.server_pid, flush=True)
    {then}
    sys.stdin.readline()
"""


@contextlib.contextmanager
def holder(given, then="pass", before="pass"):
    """
    Another process that holds a share; yields it and the server's pid. It goes when its input ends,
    or before. `before` and `then` are lines of its code around the start.
    """
    code = textwrap.dedent(HOLDER.format(before=before, url=given.url, then=then))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        **pipes,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    ) as other:
        try:
            yield other, int(other.stdout.readline())
        finally:
            other.kill()


STUBBORN = """
    import os, signal, subprocess, sys, time
    if {ignores}:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(0, flush=True)"
    command = [sys.executable, "-I", "-c", code + "; time.sleep(600)"]
    runner = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session={apart})
    runner.stdout.readline()
    print("runner", runner.pid, file=sys.stderr, flush=True)
    if {leaves}:
        sys.stdin = open("/proc/self/fd/0"); time.sleep({leaves}); os._exit(3)
    time.sleep(600)
"""


def stubborn(program, ignores=False, leaves=0, apart=False):
    program(STUBBORN.format(ignores=ignores, leaves=leaves, apart=apart))


def runner_of(lease):
    """The runner's number, out of the server's log."""
    log = Path(lease.facts["log"])
    return int(
        eventually(
            lambda: [
                line.split()[1]
                for line in log.read_text().splitlines()
                if line.startswith("runner")
            ],
            10,
        )[0]
    )
