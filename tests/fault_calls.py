"""Calls that the tests of the fault matrix make, by a session of this process or by a kernel's."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from fake_ollama import Scenario, ScriptedBackend, running
from harness import eventually
from urisk_nb.llm.manager import LLMManager

MANAGER = "__import__('urisk_nb').LLMManager.get_instance()"  # of a kernel, for its expressions
LATER = {"contains": "later", "answer": "SCRIPTED later", "first_ms": 400}


def session(**flags):
    return LLMManager.initialize_sync(**flags)


@contextlib.contextmanager
def asked(manager, prompt):
    """A call under way in a thread: its future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(manager.generate_sync, prompt)


def in_flight(lab, number=1):
    eventually(lambda: lab.counters()["in_flight"] == number)


@contextlib.contextmanager
def scripted(*rules, **scenario):
    with running(ScriptedBackend(Scenario(rules=rules, **scenario))) as started:
        yield started


def is_text(message):
    """Whether a message of a kernel carries a piece of a scripted answer."""
    return message["msg_type"] in (
        "stream",
        "display_data",
        "update_display_data",
    ) and "word" in str(message["content"])


def session_works(kernel):
    """Assert that the kernel's session answers."""
    assert "SCRIPTED" in kernel.good("%%ask\nStill there?").text()
