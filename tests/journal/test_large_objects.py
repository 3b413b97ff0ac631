"""Many large objects of one run: written in portions, and whole in the end."""

import sqlite3

import pytest

from urisk_nb.journal import store
from urisk_nb.journal.store import Batch, DeferredEntry, Entry, Store

BODIES = [bytes([number]) * 700 + str(number).encode() for number in range(10)]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Portions of a few objects."""
    monkeypatch.setattr(store, "MAX_HELD_BYTES", 30)
    return tmp_path / "journal.sqlite3"


def read_objects(path):
    with sqlite3.connect(path) as plain:
        return [row[0] for row in plain.execute("SELECT hash FROM objects")]


def test_bytes_are_made_when_they_are_written(path):
    """Each object's bytes, one after the other: a portion is on the disk before the next ones."""
    held = []

    def spell(number):
        if is_writing:
            held.append(number - len(read_objects(path)))
        return BODIES[number]

    is_writing = False
    objects = [DeferredEntry.of(lambda number=number: spell(number)) for number in range(10)]
    is_writing = True
    with Store(path) as one:
        one.add(Batch("r", objects=objects, records=[Entry.of(b"all", name="start")]))
        found = one.get_objects([entry.hash for entry in objects])
    assert max(held) <= 3
    assert [found[entry.hash].body for entry in objects] == BODIES


def test_a_purge_in_between_leaves_the_run_whole(path):
    """What it removed of the first portions is written again with the record that names it."""
    others = sqlite3.connect(Store(path).path, isolation_level=None)
    is_writing = False

    def spell(number):
        if is_writing and number == 9:
            assert read_objects(path)
            others.execute("DELETE FROM objects")
        return BODIES[number]

    objects = [DeferredEntry.of(lambda number=number: spell(number)) for number in range(10)]
    is_writing = True
    with Store(path) as one:
        one.add(Batch("r", objects=objects, records=[Entry.of(b"all", name="start")]))
        found = one.get_objects([entry.hash for entry in objects])
    assert len(found) == 10
    assert all(stored.is_whole for stored in found.values())
    others.close()
