"""The file of the journal: whole at any moment, for several at once, and plain about its faults."""

import contextlib
import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
import zlib

import numpy as np
import pytest

from harness import ROOT
from urisk_nb.errors import JournalUnusable
from urisk_nb.journal import place, store
from urisk_nb.journal.canonical import encode_json, pack, unpack
from urisk_nb.journal.store import MIGRATIONS, Batch, Entry, Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "own" / "journal.sqlite3"


def batch(run, *bodies, key=None):
    return Batch(run, answers=[Entry.of(body, key=key) for body in bodies])


def test_it_is_for_its_user_alone(path):
    """The folder has mode 0700 and the file 0600, also one that was wider before."""
    old = os.umask(0)
    try:
        Store(path).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    Store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_has_no_write_ahead_log(path):
    """On a network home two machines would not see each other's pages."""
    with Store(path) as one:
        one.add(batch("r", b"x"))
        beside = {file.name for file in path.parent.iterdir()}
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert beside <= {path.name, f"{path.name}-journal"}


def test_what_is_added_is_found(path):
    """Answers by key, the newest first; objects by hash; records by run, the latest of a name."""
    key = b"k" * 32
    with Store(path) as one:
        one.add(batch("r1", b"first", key=key))
        one.add(batch("r2", b"second", key=key))
        one.add(Batch("r1", objects=[Entry.of(b"text")] * 2))
        one.add(Batch("r1", records=[Entry.of(b"1", name="end"), Entry.of(b"2", name="end")]))
        assert one.find_answer(key).body == b"second"
        assert one.find_answer(b"other") is None
        digest = hashlib.sha256(b"text").digest()
        assert [found.body for found in one.get_objects([digest, b"none"]).values()] == [b"text"]
        assert one.get_records("r1")["end"].body == b"2"
        assert one.list_runs() == ["r1"]
        assert one.count_answers() == 2


def test_a_journal_that_another_process_makes_meanwhile_is_no_foreign_one(path, monkeypatch):
    """Its tables come between two looks at the file."""
    real, looks = Store._read_number, 0

    def read(self, pragma):
        nonlocal looks
        found, looks = real(self, pragma), looks + 1
        if looks == 1:
            with contextlib.suppress(JournalUnusable):
                Store(path, busy_s=0.05).close()
        return found

    monkeypatch.setattr(Store, "_read_number", read)
    Store(path).close()
    assert looks > 2


def test_the_same_object_is_kept_once(path):
    """Two runs that read one document, and one that reads it twice, keep it once."""
    with Store(path) as one:
        for run in ("r1", "r2"):
            one.add(Batch(run, objects=[Entry.of(b"a document")]))
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT COUNT(*) FROM objects").fetchone() == (1,)


def test_a_damaged_object_is_written_anew(path):
    """Else each later run of the same prices would fail its check, too."""
    entry = Entry.of(b"prices")
    with Store(path) as one:
        one.add(Batch("r1", objects=[entry]))
        one._connection.execute("UPDATE objects SET body = x'7041'")
        assert not one.get_objects([entry.hash])[entry.hash].is_whole
        one.add(Batch("r2", objects=[entry]))
        assert one.get_objects([entry.hash])[entry.hash].body == b"prices"
        assert one._select("SELECT COUNT(*) FROM objects") == [(1,)]


def test_an_answer_that_was_changed_is_not_given(path):
    """The one before it is, where there is one: a changed byte never reaches a table."""
    key = b"k" * 32
    with Store(path) as one:
        one.add(batch("r1", b"the first", key=key))
        one.add(batch("r1", b"the second", key=key))
    content = path.read_bytes()
    assert content.count(b"the second") == 1
    path.write_bytes(content.replace(b"the second", b"the sec0nd"))
    with Store(path) as one:
        assert one.find_answer(key).body == b"the first"


@pytest.mark.parametrize("plain", [b"", b"x", b"x" * 511, b"x" * 512, os.urandom(2000)])
def test_bytes_come_back_as_they_were(plain):
    """Short ones plain, long ones compressed where that helps; never longer by more than a byte."""
    stored = pack(plain)
    assert unpack(stored) == plain
    assert len(stored) <= len(plain) + 1
    assert (stored[:1] == b"z") == (plain == b"x" * 512)


@pytest.mark.parametrize("broken", [b"", b"q", b"zabc"])
def test_bytes_that_nobody_packed_are_refused(broken):
    with pytest.raises(ValueError, match="a stored record"):
        unpack(broken)


# Migrations ---------------------------------------------------------------------------------------


def time_cpu(work):
    began = time.process_time()
    work()
    return time.process_time() - began


def test_numbers_and_texts_are_each_packed_in_their_way():
    """To search numbers for sequences takes time and gains nothing; texts need the search."""
    walk = np.cumprod(1 + np.random.default_rng(1).normal(0, 0.01, 100_000)) * 100
    numbers = walk.view(np.uint8).reshape(-1, 8).T.tobytes()
    text = encode_json([f"The company sold shop {number}." for number in range(2000)])
    assert len(pack(numbers)) <= 1.05 * len(zlib.compress(numbers, 9))
    assert len(pack(text)) <= 1.3 * len(zlib.compress(text, 9))
    assert [unpack(pack(one)) for one in (numbers, text)] == [numbers, text]
    searched = min(time_cpu(lambda: zlib.compress(numbers, 1)) for _ in range(7))
    assert min(time_cpu(lambda: pack(numbers)) for _ in range(7)) < 0.75 * searched


def test_a_change_and_its_number_are_one_transaction(path, monkeypatch):
    """A migration that fails in the middle leaves the file as it was, and is done the next time."""
    Store(path).close()
    broken = (*MIGRATIONS, ("CREATE TABLE more (x)", "CREATE TABLE more (x)"))
    monkeypatch.setattr(store, "MIGRATIONS", broken)
    with pytest.raises(JournalUnusable, match="already exists"):
        Store(path)
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert "more" not in {row[0] for row in plain.execute("SELECT name FROM sqlite_master")}
    monkeypatch.setattr(store, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE more (x)",)))
    with Store(path) as one:
        assert one._read_number("user_version") == len(MIGRATIONS) + 1


def test_a_newer_file_is_refused_with_the_way_out(path):
    with Store(path) as one:
        one.add(batch("r", b"x"))
    with sqlite3.connect(path) as plain:
        plain.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(JournalUnusable, match="newer version of urisk_nb") as caught:
        Store(path)
    assert "update urisk_nb" in caught.value.fix
    assert path.read_bytes() == before


def test_the_file_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "places.sqlite"
    with sqlite3.connect(path) as plain:
        plain.execute("CREATE TABLE bookmarks (url)")
    before = path.read_bytes()
    with pytest.raises(JournalUnusable, match="another program"):
        Store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_nothing_of_another_programs_file_is_changed(tmp_path, mode):
    """Neither its way of writing, which SQLite keeps in the file, nor who may read it."""
    path = tmp_path / "places.sqlite"
    plain = sqlite3.connect(path)
    plain.execute(f"PRAGMA journal_mode={mode}")
    plain.execute("CREATE TABLE bookmarks (url)")
    plain.commit()
    plain.close()
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(JournalUnusable, match="another program"):
        Store(path)
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_object_that_is_purged_while_it_is_added_is_added_again(path, monkeypatch):
    """It was there when its run looked, and gone when the transaction began."""
    shared = Entry.of(b"a document")
    with Store(path) as one, Store(path) as other:
        one.add(Batch("old", objects=[shared]))
        transaction = one._transaction

        def purge_first():
            with other.hold():
                other.remove(["old"], "", [])
            return transaction()

        monkeypatch.setattr(one, "_transaction", purge_first)
        one.add(Batch("new", objects=[shared]))
        assert one.get_objects([shared.hash])[shared.hash].is_whole


# Faults -------------------------------------------------------------------------------------------


def test_a_damaged_file_is_said_and_the_fix_works(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(JournalUnusable, match="not a database") as caught:
        Store(path)
    assert f"rename {path}" in caught.value.fix
    path.rename(path.with_suffix(".damaged"))
    Store(path).close()


def read_all(path):
    with Store(path) as one:
        return one.get_records("r"), one.find_answer(b"k"), one.count_answers()


def test_a_damaged_page_is_said(path):
    """A b-tree that is broken is found while it is read, and not taken for an empty one."""
    with Store(path) as one:
        one.add(Batch("r", answers=[Entry.of(os.urandom(300), key=b"k") for _ in range(200)]))
    content = bytearray(path.read_bytes())
    content[4096 : len(content) - 4096] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(JournalUnusable, match=r"malformed|corrupt") as caught:
        read_all(path)
    assert "rename" in caught.value.fix


def test_a_schema_whose_bytes_are_no_text_is_said(path):
    """SQLite quotes the damaged bytes in its message, which Python then cannot decode."""
    Store(path).close()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"CREATE TABLE answers", b"CR\xa8ATE TABLE answers"))
    with pytest.raises(JournalUnusable) as caught:
        Store(path)
    assert f"rename {path}" in caught.value.fix


def fail_to_read(path, key):
    with Store(path) as one:
        one._connection.text_factory = str  # it takes no other bytes, in the second row
        one.find_answer(key)


def test_a_look_up_that_fails_holds_no_lock(path):
    """Somebody may keep the error, and all that hangs on it: a notebook does."""
    key = b"k" * 32
    with Store(path) as one:
        one.add(batch("r", b"1", b"2", b"3", key=key))
        one._connection.execute("UPDATE answers SET run = CAST(x'fffe' AS TEXT) WHERE id = 2")
    with pytest.raises(JournalUnusable, match="decode") as kept:
        fail_to_read(path, key)
    assert "rename" in kept.value.fix
    with Store(path, busy_s=0.05) as other:
        other.add(batch("r", b"4"))


def test_prices_that_are_too_large_for_a_row_are_said(path):
    """SQLite takes 1 GB in a row. Nothing that the user could free or move helps."""
    with Store(path) as one:
        one._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
        with pytest.raises(JournalUnusable, match="too big") as caught:
            one.add(Batch("r", objects=[Entry.of(os.urandom(6000))]))
    assert "%env URISK_JOURNAL=off" in caught.value.fix
    assert "writable" not in caught.value.fix


def test_a_locked_file_is_waited_for_and_then_said(path):
    Store(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalUnusable, match="locked") as caught, Store(path, busy_s=0.05) as one:
        one.add(batch("r", b"x"))
    assert caught.value.facts["is_locked"]
    other.execute("ROLLBACK")
    other.close()


def test_a_full_disk_is_said_and_nothing_is_half_there(path):
    with Store(path) as one:
        one.add(batch("r", b"before"))
        pages = one._read_number("page_count")
        one._connection.execute(f"PRAGMA max_page_count={pages + 1}")
        with pytest.raises(JournalUnusable, match="full") as caught:
            one.add(batch("r", *(os.urandom(2000) for _ in range(50))))
        assert "free some space" in caught.value.fix
        assert one.count_answers() == 1
    with Store(path) as one:
        one.add(batch("r", b"after"))
        assert one.count_answers() == 2


@pytest.mark.parametrize(("make", "what"), [(os.mkdir, "a folder"), (os.mkfifo, "no regular file")])
def test_what_is_no_file_is_said(tmp_path, make, what):
    """SQLite would wait for a pipe for ever."""
    make(tmp_path / "x")
    with pytest.raises(JournalUnusable, match=f"is {what}") as no:
        Store(tmp_path / "x")
    assert "name a file" in no.value.fix


@pytest.mark.parametrize("change", ["unlink", "rename"])
def test_a_file_that_is_moved_while_it_is_open_is_said(path, change):
    with Store(path) as one:
        one.add(batch("r", b"x"))
        path.rename(path.with_name("other")) if change == "rename" else path.unlink()
        with pytest.raises(JournalUnusable, match="moved or removed") as no:
            one.add(batch("r", b"y"))
    assert "leave the file where it is" in no.value.fix


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnusable) as caught:
        Store(tmp_path / "file" / "journal.sqlite3")
    assert "%env URISK_JOURNAL=" in caught.value.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_is_read_only_is_said(path):
    Store(path).close()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(JournalUnusable) as caught, Store(path) as one:
            one.add(batch("r", b"x"))
    finally:
        path.parent.chmod(0o700)
    assert "make it writable" in caught.value.fix


# Several at once ----------------------------------------------------------------------------------


def add_many(path, run, count):
    with Store(path) as one:
        for number in range(count):
            one.add(batch(run, f"{run} {number}".encode()))


ADD_MANY = """
from pathlib import Path
from urisk_nb.journal.store import Batch, Entry, Store
with Store(Path({path!r})) as store:
    for number in range(20):
        store.add(Batch("r", answers=[Entry.of(f"process {{number}}".encode())]))
"""


def test_threads_and_processes_lose_nothing(path):
    """Each opens the file for itself, also the first time, when the tables are made."""
    code = ADD_MANY.format(path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as other:
        threads = [
            threading.Thread(target=add_many, args=(path, f"thread{number}", 20))
            for number in range(3)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
        assert other.wait(60) == 0
    with Store(path) as one:
        assert one.count_answers() == 80


def test_a_killed_writer_leaves_a_whole_file(path):
    """SIGKILL in the middle of its transactions: each batch is there whole, or not at all."""
    code = f"""
        from pathlib import Path
        from urisk_nb.journal.store import Batch, Entry, Store
        store, number = Store(Path({str(path)!r})), 0
        while True:
            bodies = [f"{{number}} {{part}} {{'x' * 500}}".encode() for part in range(50)]
            store.add(Batch("r", answers=[Entry.of(body) for body in bodies]))
            number += 1
            print(number, flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, cwd=ROOT
    ) as writer:
        done = 0
        while done < 3:
            done = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
    with Store(path) as one:
        count = one.count_answers()
        assert one._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert count % 50 == 0
    assert count >= done * 50


# Place --------------------------------------------------------------------------------------------


def test_the_place_is_the_users_data_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("URISK_JOURNAL")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert place.find_path() == tmp_path / "urisk_nb" / "journal" / "journal.sqlite3"


@pytest.mark.parametrize(("given", "wanted"), [("off", None), ("OFF", None), ("~/a.db", "a.db")])
def test_the_variable_decides(monkeypatch, given, wanted):
    monkeypatch.setenv("URISK_JOURNAL", given)
    found = place.find_path()
    assert (found is None) if wanted is None else (found.name == wanted and found.is_absolute())


def test_the_home_of_nobody_is_a_path_like_others(monkeypatch):
    monkeypatch.setenv("URISK_JOURNAL", "~nobody-of-this-name/journal.sqlite3")
    assert place.find_path().parts[-2:] == ("~nobody-of-this-name", "journal.sqlite3")


def test_a_relative_path_stays_the_same_file_in_another_folder(monkeypatch, tmp_path):
    """A run that goes on after a `%cd` goes on in its journal."""
    monkeypatch.setenv("URISK_JOURNAL", "journal.sqlite3")
    monkeypatch.chdir(tmp_path)
    found = place.find_path()
    monkeypatch.chdir("/")
    assert found == tmp_path / "journal.sqlite3"


def test_a_folder_that_is_gone_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("URISK_JOURNAL", "journal.sqlite3")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(JournalUnusable, match="No such file"):
        Store(place.find_path())


def test_a_line_of_env_counts(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("URISK_JOURNAL=off\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("URISK_JOURNAL")
    assert place.find_path() is None
