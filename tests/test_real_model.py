"""The whole way with real weights: the embedded engine, started by the manager, judges the example's evidence."""

import json
import socket
import time
import urllib.request

import pytest

from urisk_nb import assess, demo
from urisk_nb.ollama.manager import LLMManager

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def manager(demo_model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    manager = LLMManager.initialize_sync(engine="embedded", gguf=demo_model, url=f"http://127.0.0.1:{port}")
    yield manager
    manager.shutdown_sync()


def counters(manager):
    with urllib.request.urlopen(f"{manager.url}/urisk/counters", timeout=10) as reply:
        return json.load(reply)


def test_the_example_is_judged_whole_and_cheaply(manager):
    """
    Every answer is a valid label, at most 14 tokens a sentence, the prefix cache works, one load, few connections.
    """
    began = time.monotonic()
    table = assess(demo.TICKERS, prices=demo.prices(), evidence=demo.evidence(), manager=manager)
    seconds = time.monotonic() - began
    asked = len(table.report.findings)
    assert set(table["status"]) == {"ok"}
    assert set(table.report.findings["status"]) == {"judged"}
    assert all("demo_model" in flags.split(";") for flags in table["flags"])
    seen = counters(manager)
    judged = [call for call in seen["recent"] if call["answered"]]
    new = sorted(call["prompt_new"] for call in judged)
    each = table["tokens"].sum() / table["attempts"].sum()
    print(f"{asked} sentences in {seconds:.1f} s, {each:.1f} tokens each, new prompt tokens {new}")
    assert each <= 14
    # A second look has the examples in reverse order: the first of them reads that prefix once.
    assert sum(count > 100 for count in new) <= 1 + bool((table.report.findings["severity"] >= 4).any())
    assert seen["loads"] == 1
    assert seen["connections_total"] <= 6


def test_an_answer_in_words(manager):
    """
    The demo model answers in words, with its timing by the server's counters; leaving a stream frees the slot.
    """
    answer = manager.generate_sync("Name one ocean.", options={"num_predict": 24, "temperature": 0})
    assert len(answer) > 5
    assert answer.timing.tokens > 0
    assert answer.timing.generation_s > 0
    for _ in manager.stream_sync("Write a very long story about the sea."):
        break
    began = time.monotonic()
    assert manager.generate_sync("Say yes.", options={"num_predict": 4})
    assert time.monotonic() - began < 20
    assert counters(manager)["aborted"] == 1
