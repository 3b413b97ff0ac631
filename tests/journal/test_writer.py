"""What a run adds, written by another thread in batches: nothing is lost, and nothing waits."""

import asyncio
import threading
import time

import pytest

from urisk_nb.errors import JournalUnusable
from urisk_nb.journal import writer
from urisk_nb.journal.store import Entry, Store
from urisk_nb.journal.writer import Writer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite3"


class Slow:
    """A store whose disk takes its time, or fails."""

    def __init__(self, seconds=0.0, fault=None):
        self.seconds, self.fault, self.batches, self.threads = seconds, fault, [], set()

    def add(self, batch):
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        if self.fault is not None:
            raise self.fault
        self.batches.append([one.body for one in batch.answers])

    def close(self):
        self.batches.append("closed")


def test_what_was_taken_in_is_on_the_disk_when_it_is_closed(path):
    async def write():
        writer = Writer(Store(path), "r")
        for number in range(100):
            writer.add(answers=[Entry.of(str(number).encode())])
        await writer.close()
        return writer.fault

    assert asyncio.run(write()) is None
    with Store(path) as store:
        assert store.count_answers() == 100


@pytest.mark.timing
def test_the_loop_goes_on_while_the_disk_is_slow():
    """A transaction of 0.3 s in another thread: the loop does not miss a beat."""
    store = Slow(0.3)

    async def write():
        writer, worst = Writer(store, "r"), 0.0
        writer.add(answers=[Entry.of(b"x")])
        closing = asyncio.create_task(writer.close())
        while not closing.done():
            began = time.monotonic()
            await asyncio.sleep(0.001)
            worst = max(worst, time.monotonic() - began)
        return worst

    assert asyncio.run(write()) < 0.2
    assert threading.get_ident() not in store.threads
    assert store.batches == [[b"x"], "closed"]


def test_it_is_written_without_being_asked(monkeypatch):
    """What a killed kernel loses is what came within the last pause."""
    monkeypatch.setattr(writer, "PAUSE_S", 0.02)
    store = Slow()

    async def write():
        writing = Writer(store, "r")
        writing.add(answers=[Entry.of(b"x")])
        writing.add(answers=[Entry.of(b"y")])
        async with asyncio.timeout(5):
            while not store.batches:
                await asyncio.sleep(0.005)
        seen = list(store.batches)
        await writing.close()
        return seen

    assert asyncio.run(write()) == [[b"x", b"y"]]


def test_a_cancel_loses_nothing():
    """Who waits for the disk is cancelled: the transaction goes on, and the rest comes after."""
    store = Slow(0.1)

    async def write():
        writer = Writer(store, "r")
        writer.add(answers=[Entry.of(b"x")])
        flush = asyncio.create_task(writer.flush())
        await asyncio.sleep(0.02)
        flush.cancel()
        writer.add(answers=[Entry.of(b"y")])
        await writer.close()

    asyncio.run(write())
    assert store.batches == [[b"x"], [b"y"], "closed"]


def test_a_fault_is_kept_and_ends_the_writing():
    store = Slow(fault=JournalUnusable("the disk is full.", fix="free some space"))

    async def write():
        writer = Writer(store, "r")
        for _ in range(2):
            writer.add(answers=[Entry.of(b"x")])
            await writer.flush()
        await writer.close()
        return writer.fault

    assert asyncio.run(write()).message == "the disk is full."
    assert len(store.threads) == 1
    assert store.batches == ["closed"]
