"""How deep a call goes: our own frames above httpx, at the moment httpx is entered."""

import sys
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

import urisk_nb
from fake_openai import FakeOpenAI
from harness import FakeOllama
from urisk_nb import assess, event_loop
from urisk_nb.llm.labels import LabelMethod
from urisk_nb.llm.manager import LLMManager

OURS = str(Path(urisk_nb.__file__).parent)
EVIDENCE = {"ACME": ["The company was fined 2 billion dollars by regulators."]}


@pytest.fixture
def stacks(monkeypatch):
    """Our frames, outermost first, each time that httpx is asked to send a chat or a question."""
    found = []

    def record(name):
        real = getattr(httpx.AsyncClient, name)

        async def entered(self, *args, **kwargs):
            frame, ours = sys._getframe(1), []
            while frame is not None:
                if frame.f_code.co_filename.startswith(OURS):
                    ours.append(frame.f_code.co_qualname)
                frame = frame.f_back
            # The thread's own frame is no part of a call, and what a server can do is asked once.
            if "LabelReader.find_method" not in ours:
                found.append(ours[-2::-1])
            return await real(self, *args, **kwargs)

        monkeypatch.setattr(httpx.AsyncClient, name, entered)

    record("send")
    return found


def between(stack, outer):
    """The frames behind `outer`."""
    return stack[stack.index(outer) + 1 :]


@pytest.fixture
def manager():
    server = FakeOllama()
    manager = LLMManager.initialize_sync(url=server.url)
    yield manager
    manager.shutdown_sync()
    server.stop()


def test_from_a_worker_of_a_run_to_httpx(manager, stacks):
    """At most eight of our frames, of which at most five lie between `ask` and httpx."""
    assess(["ACME"], evidence=EVIDENCE, manager=manager)
    deep = [stack for stack in stacks if "LLMManager.ask" in stack]
    assert deep
    for stack in deep:
        assert len(between(stack, "LLMManager.ask")) <= 5, stack
        assert len(stack) <= 8, stack


def test_from_generate_to_httpx(manager, stacks):
    """A prompt goes no deeper."""
    manager.generate_sync("hi")
    assert stacks
    assert all(len(stack) <= 5 for stack in stacks), stacks


def test_a_label_by_choices_goes_no_deeper(stacks, monkeypatch):
    """The ways of asking a question add one frame at most."""
    fake = FakeOpenAI()
    event_loop.run(fake.start())
    manager = LLMManager.initialize_sync(url=fake.url)
    try:
        manager.lead.labels._methods["some-7b"] = LabelMethod.CHOICES
        stacks.clear()
        manager.ask_sync(
            b'{"messages":[{"role":"user","content":"x"}],"format":{"type":"object"},"options":{}}'
        )
        assert stacks
        assert all(len(stack) <= 6 for stack in stacks), stacks
    finally:
        manager.shutdown_sync()
        event_loop.run(fake.stop())


def test_a_run_goes_through_few_modules(manager):
    """
    One `assess` with prices and evidence over a running session executes code of at most 70 of our
    modules; imports do not count.
    """
    executed = set()

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OURS) and code.co_name != "<module>":
            executed.add(code.co_filename.removeprefix(OURS))

    async def profile(function):
        sys.setprofile(function)

    dates = pd.bdate_range("2024-01-01", periods=300)
    days = np.arange(300)
    prices = pd.DataFrame({"ACME": 100 + np.sin(days), "SPY": 100 + np.cos(days)}, index=dates)
    event_loop.run(profile(note))
    sys.setprofile(note)
    try:
        assess(["ACME"], prices=prices, benchmark="SPY", evidence=EVIDENCE, manager=manager)
    finally:
        sys.setprofile(None)
        event_loop.run(profile(None))
    assert len(executed) > 20
    assert len(executed) <= 70, sorted(executed)
