"""
A front end that counts what a kernel sends and what the kernel's process costs, and a load for the
kernel to carry.
"""

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness import Kernel

# Four slots, eight tokens at 2 ms: a call takes some 20 ms, so that fifty a second are no load for
# the server.
SCENARIO = {"slots": 4, "rules": [{"answer": ["word "] * 8, "token_ms": 2}]}
# Run in the kernel. Calls are begun at their times, whether or not those before them have ended.
LOAD = """
import asyncio, json, time
from urisk_nb import LLMManager, event_loop

async def _one(manager, at_s, number, took_s):
    await asyncio.sleep(at_s - time.monotonic())
    began_s = time.perf_counter()
    await manager.generate(f"question {number}")
    took_s.append(time.perf_counter() - began_s)

async def _paced(rate, seconds):
    manager, began_s, took_s = LLMManager.get_instance(), time.monotonic(), []
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            at_s = began_s + number / rate
            await asyncio.sleep(at_s - time.monotonic() - 0.1)  # not thousands at once
            group.create_task(_one(manager, at_s, number, took_s))
    return took_s
"""


@dataclass
class Cost:
    """What a kernel did within some seconds: its processor time, and what came on iopub."""

    seconds: float
    cpu_s: float
    messages: int
    bytes: int
    wakeups: int  # how often one of its threads had waited and went on; 0 elsewhere than on Linux

    @property
    def share(self):
        """Of one processor."""
        return self.cpu_s / self.seconds


class Metered:
    """
    A kernel with the extension and a session at a server; it may show the dashboard, and be looked
    at.
    """

    def __init__(self, url, kernel=None):
        self.kernel = kernel or Kernel({"OLLAMA_URL": url})
        self.kernel.good("%load_ext urisk_nb\n%urisk_start --parallel 4")
        self.kernel.good(LOAD)
        self.process = psutil.Process(self.kernel.manager.provisioner.pid)
        self._root = ""

    def show(self):
        """Run `%urisk_dashboard`."""
        cell = self.kernel.good("%urisk_dashboard")
        views = [
            content["data"].get("application/vnd.jupyter.widget-view+json")
            for _, content in cell.outputs
            if "data" in content
        ]
        self._root = next(view["model_id"] for view in views if view)

    def probe(self, places):
        """Say what the browser says when the dashboard stands in so many places on the screen."""
        self._say(
            self._root, {"method": "update", "state": {"_view_count": places}, "buffer_paths": []}
        )

    def press(self, name):
        """Click on one of the dashboard's buttons."""
        view = "__import__('urisk_nb').process_state.get('dashboard')._view"
        self._say(
            self.kernel.value(f"{view}.buttons[{name!r}].model_id"),
            {"method": "custom", "content": {"event": "click"}},
        )

    def _say(self, model, data):
        client = self.kernel.client
        client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": model, "data": data}))

    def begin(self, rate, seconds):
        """Start a load in the background."""
        self.kernel.good(f"_load = event_loop.submit(_paced({rate}, {seconds}))")

    def latencies(self):
        """Seconds that each call of the load took, once it is over."""
        return json.loads(self.kernel.value("json.dumps(_load.wait())"))

    def watch(self, seconds):
        """Read what the kernel sends for so long, and what that cost it."""
        began_s, before, woken = time.monotonic(), self._cpu_s(), self._wakeups()
        messages, size = self._drain(began_s + seconds)
        return Cost(
            time.monotonic() - began_s,
            self._cpu_s() - before,
            messages,
            size,
            self._wakeups() - woken,
        )

    def _drain(self, end_s):
        """Messages and bytes that came until then."""
        messages, size, socket = 0, 0, self.kernel.client.iopub_channel.socket
        while (left_s := end_s - time.monotonic()) > 0:
            if socket.poll(1000 * left_s):
                size += sum(map(len, socket.recv_multipart()))
                messages += 1
        return messages, size

    def settle(self, seconds=1.0):
        """Let pass what the last cell and the last look set off."""
        self._drain(time.monotonic() + seconds)

    def _cpu_s(self):
        """
        To the nanosecond: the clock of clock_getcpuclockid(3). The times in /proc come from looks
        at each tick of the system's clock, and what wakes with the clock is then counted threefold,
        or not at all.
        """
        if sys.platform == "linux":
            return time.clock_gettime(~self.process.pid << 3 | 2)
        times = self.process.cpu_times()
        return times.user + times.system

    def _wakeups(self):
        count = 0
        for path in Path(f"/proc/{self.process.pid}/task").glob("*/status"):
            with contextlib.suppress(OSError):  # the thread has just ended
                count += int(path.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
        return count

    @property
    def resident_bytes(self):
        return self.process.memory_info().rss

    def stop(self):
        with contextlib.suppress(AssertionError):
            self.kernel.good("%urisk_stop")
        self.kernel.stop()
