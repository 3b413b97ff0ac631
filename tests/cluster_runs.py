"""
Runs about six companies, on a cluster and in this process, and how their tables are compared.
"""

import threading

import pandas as pd

from harness import eventually
from urisk_nb import LLMManager, assess

TICKERS = [f"T{number}" for number in range(6)]
# Measured, or new in each run
NOT_COMPARED = ["run_id", "latency_s"]


def write_news(count, others=()):
    """Numbered sentences, some of them replaced."""
    texts = [f"Sentence number {number} is about a fine." for number in range(count)]
    for number, text in dict(others).items():
        texts[number] = text
    rows = [(TICKERS[number % 6], text) for number, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=["ticker", "text"])


def compared(table):
    return pd.DataFrame(table).drop(columns=NOT_COMPARED, errors="ignore")


def assess_locally(url, evidence, **given):
    """The table of a run in this process."""
    manager = LLMManager.initialize_sync(url=url, parallel=4)
    try:
        return assess(TICKERS, evidence=evidence, **given)
    finally:
        manager.shutdown_sync()


def when(condition, do):
    """Act in another thread as soon as a condition holds; returns the thread."""

    def wait():
        eventually(condition, 40)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def count_answers(server):
    return sum(what == "answered" for what, _ in server.log())
