"""What the tests of the manager share: servers of others, addresses, waiting on the loop."""

import asyncio
import contextlib
import json
import os
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from harness import OllamaProgram, children, free_port
from urisk_nb import event_loop
from urisk_nb.llm.manager import LLMManager
from urisk_nb.server import leases

ROOT = Path(leases.__file__).parents[2]
SECONDS_TO_PROMPT = 0.25
SLOW = Rule(contains="slow", answer="word " * 2000, token_ms=5)


@contextlib.contextmanager
def server(*rules, port=0, **scenario):
    """A scripted server of others, in a thread."""
    with running(ScriptedBackend(Scenario(rules=rules, **scenario)), port=port) as started:
        yield started


def free_url():
    return f"http://127.0.0.1:{free_port()}"


def answers(url):
    """Whether a server answers at the address."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"{url}/api/version", timeout=2) as reply,
    ):
        return json.load(reply)["version"]
    return None


@contextlib.contextmanager
def in_thread(function, *arguments, **named):
    """Run the function in a thread meanwhile; the block gets its future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function, *arguments, **named)


def processes(before):
    """The servers under the guardians that were started since; each guardian has one."""
    return [server for guardian in children() - before for server in children(guardian)]


def scripted(**flags):
    """Start a session over a server of ours: of the fake `ollama`, put on the PATH for this."""
    OllamaProgram(os.environ["PATH"])
    return LLMManager.initialize_sync(engine="ollama", **{"url": free_url(), **flags})


def on_loop(coroutine):
    return event_loop.run(asyncio.wait_for(coroutine, 20))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


async def loading_at(other):
    await until(lambda: other.counters["paths"].get("/api/chat"))
