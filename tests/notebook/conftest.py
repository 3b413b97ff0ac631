"""A real kernel, spoken to as a front end does."""

import os
import queue
import re
import threading
import time
from dataclasses import dataclass, field

import pytest
from jupyter_client import KernelManager

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Cell:
    """What came back for one cell."""

    reply: dict = field(default_factory=dict)
    outputs: list = field(default_factory=list)

    @property
    def status(self):
        return self.reply["status"]

    @property
    def ename(self):
        return self.reply.get("ename", "")

    @property
    def error(self):
        """The traceback as the notebook shows it, without colours."""
        return ANSI.sub("", "\n".join(self.reply.get("traceback", [])))

    def text(self, kind="text/plain"):
        """All output of a kind, and the streams, joined in order."""
        parts = []
        for type_, content in self.outputs:
            if type_ == "stream":
                parts.append(content["text"])
            elif "data" in content:
                parts.append(content["data"].get(kind, ""))
        return "\n".join(parts)

    @property
    def html(self):
        return self.text("text/html")


class Kernel:
    def __init__(self, env=None, cwd=None):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env={**os.environ, **(env or {})}, cwd=cwd)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=30)

    def start(self, code):
        return self.client.execute(code)

    def finish(self, message_id, timeout=40):
        """Everything for the cell, until the kernel has said that it is idle and the reply is there."""
        cell, end = Cell(), time.monotonic() + timeout
        idle = False
        while not idle:
            message = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in ("stream", "display_data", "execute_result", "update_display_data", "error"):
                cell.outputs.append((kind, content))
            idle = kind == "status" and content["execution_state"] == "idle"
        while True:
            reply = self.client.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
            if reply["parent_header"].get("msg_id") == message_id:
                cell.reply = reply["content"]
                return cell

    def run(self, code, timeout=40):
        return self.finish(self.start(code), timeout)

    def good(self, code, timeout=40):
        cell = self.run(code, timeout)
        assert cell.status == "ok", cell.error
        return cell

    def value(self, expression):
        """The printed value of an expression."""
        return self.good(f"print({expression})").text().strip()

    def interrupt_when(self, message_id, seen, timeout=20):
        """Interrupt as soon as an output of the cell satisfies `seen`; return the cell and the seconds until the prompt was back."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") == message_id and seen(message):
                break
        else:
            raise AssertionError("the output to interrupt at never came")
        began = time.monotonic()
        self.manager.interrupt_kernel()
        cell = self.finish(message_id)
        return cell, time.monotonic() - began

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)
        self.manager.cleanup_resources()
        self.client.context.destroy(0) if hasattr(self.client, "context") and self.client.context is not self.manager.context else None


@pytest.fixture(scope="module")
def kernel():
    """One kernel with the extension loaded, for the tests of a module."""
    machine = Kernel()
    machine.good("%load_ext urisk_nb")
    yield machine
    machine.stop()


@pytest.fixture
def new_kernel():
    """Start kernels of one's own."""
    started = []

    def start(env=None, cwd=None):
        started.append(Kernel(env, cwd))
        return started[-1]

    yield start
    for machine in started:
        machine.stop()


def pytest_configure():
    threading.excepthook = threading.__excepthook__
