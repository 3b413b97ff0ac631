"""The file of the journal: its tables, how it is opened, and how a failure is said.

SQLite with a rollback journal, not with a write-ahead log, which breaks on the network file systems
that many home folders are on. Each batch is one transaction and is flushed to the disk before it
counts (`synchronous=FULL`). So a file is whole after a kill or a power cut at any moment, and
several kernels may use it at once: whoever comes second waits, for `busy_s` at most.
Over 400 lines, of which half are SQL, docstrings and the words of failures.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from urisk_nb.errors import JournalUnusable
from urisk_nb.journal.canonical import compute_hash, pack, unpack
from urisk_nb.journal.place import find_path
from urisk_nb.terminal_text import visible

__all__ = ["Batch", "DeferredEntry", "Entry", "Store", "Stored", "open_journal"]

APPLICATION_ID = 0x7572736B  # "ursk": tells our file from any other SQLite file
BUSY_S = 10.0  # how long a lock of another process is waited for
READ_BUSY_S = 1.0  # the same for a look-up, which may hold up the loop
MAX_KEYS = 500  # of one statement
MAX_OBJECTS = 20  # that are read at once: an annual report each
MAX_HELD_BYTES = 16_000_000  # of packed objects before they are written
OFF = "or work without it: %env URISK_JOURNAL=off"

# Each is done once, in order, with its number in one transaction. Only ever add to this list.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # What runs share: documents, prices, lists of them
        """
        CREATE TABLE objects (
            id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body BLOB NOT NULL
        )
        """,
        # Replies of models. Those with a key may answer the same request again
        """
        CREATE TABLE answers (
            id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, key BLOB, run TEXT NOT NULL,
            body BLOB NOT NULL
        )
        """,
        "CREATE INDEX answers_by_key ON answers (key, id)",
        "CREATE INDEX answers_by_run ON answers (run)",
        # What each run is made of; of two with one name the later counts
        """
        CREATE TABLE records (
            id INTEGER PRIMARY KEY, run TEXT NOT NULL, name TEXT NOT NULL, hash BLOB NOT NULL,
            body BLOB NOT NULL
        )
        """,
        "CREATE INDEX records_by_run ON records (run, name, id)",
    ),
    (
        # Labels that a person corrected; of several with one key the latest counts
        """
        CREATE TABLE overrides (
            id INTEGER PRIMARY KEY, key BLOB NOT NULL, hash BLOB NOT NULL, body BLOB NOT NULL
        )
        """,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    Something to add.

    Attributes
    ----------
    body
        Canonical bytes.
    hash
        Their sha256.
    name
        Of a record: what it is in its run. Of an answer: nothing.
    key
        Of an answer that may be given again: what it answers. Of a correction: its sentence.
    """

    body: bytes
    hash: bytes
    name: str = ""
    key: bytes | None = None

    @classmethod
    def of(cls, body: bytes, *, name: str = "", key: bytes | None = None) -> Entry:
        """Return the entry of these bytes."""
        return cls(body=body, hash=compute_hash(body), name=name, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredEntry:
    """
    An object to add whose bytes are made when they are written: thousands of documents need not be
    held a second time as bytes.

    Attributes
    ----------
    hash
        The sha256 of the bytes.
    spell
        Returns the bytes.
    """

    hash: bytes
    spell: Callable[[], bytes]

    @classmethod
    def of(cls, spell: Callable[[], bytes]) -> DeferredEntry:
        """Return the entry of what this function returns."""
        return cls(hash=compute_hash(spell()), spell=spell)

    @property
    def body(self) -> bytes:
        """Canonical bytes."""
        return self.spell()


@dataclass(slots=True)
class Batch:
    """What one run adds in one transaction; large objects may be written in others before it."""

    run: str
    objects: list[Entry | DeferredEntry] = field(default_factory=list)
    answers: list[Entry] = field(default_factory=list)
    records: list[Entry] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.objects) + len(self.answers) + len(self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """
    A row as it is read back; `body` is as it was given.

    `is_whole` is False where the bytes are no longer those of the hash.
    """

    hash: bytes
    body: bytes
    is_whole: bool
    name: str = ""
    run: str = ""


class Store:
    """
    One open journal; a context manager.

    Parameters
    ----------
    path
        The file. It is made with mode 0600, in a folder with mode 0700, where it does not exist.
    busy_s
        How long a lock of another process is waited for, seconds.

    Raises
    ------
    JournalUnusable
        By this and by every method: the disk is full or read-only, the file is damaged, locked,
        newer than this version, or no journal.
    """

    def __init__(self, path: Path, *, busy_s: float = BUSY_S) -> None:
        self.path = path
        with _translate_errors(path):
            _make_file(path)
            # Used by one thread at a time, but not always by the same
            self._connection = sqlite3.connect(
                path, timeout=busy_s, isolation_level=None, check_same_thread=False
            )
            # A name whose bytes are no text is no name of ours: its record is missed
            self._connection.text_factory = lambda text: text.decode(errors="replace")
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # Opening --------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        # First of all: nothing of another program's file is changed
        found, number, has_tables = self._read_marks()
        if found != APPLICATION_ID and (found or number or has_tables):
            raise JournalUnusable(
                f"{self.path} is a database of another program.",
                fix="name another file: %env URISK_JOURNAL=journal.sqlite3",
            )
        if number > len(MIGRATIONS):
            raise JournalUnusable(
                f"{self.path} was written by a newer version of urisk_nb (its format is {number}, "
                f"this version knows {len(MIGRATIONS)}).",
                fix="update urisk_nb, or use another file: %env URISK_JOURNAL=journal.sqlite3",
            )
        _protect(self.path)
        # TRUNCATE is a rollback journal whose file is emptied, not removed: one entry of the folder
        # less to write
        self._connection.execute("PRAGMA journal_mode=TRUNCATE")
        self._connection.execute("PRAGMA synchronous=FULL")
        if number < len(MIGRATIONS):
            self._migrate()

    def _read_marks(self) -> tuple[int, int, bool]:
        """
        Return whose file it is, the number of its format, and whether it has tables.

        In one transaction: between two reads another process may make the tables.
        """
        self._connection.execute("BEGIN")
        try:
            numbers = [self._read_number(name) for name in ("application_id", "user_version")]
            return numbers[0], numbers[1], self._has_tables()
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _read_number(self, pragma: str) -> int:
        return int(self._select(f"PRAGMA {pragma}")[0][0])

    def _has_tables(self) -> bool:
        return bool(self._select("SELECT 1 FROM sqlite_master"))

    def _select(self, statement: str, values: Sequence[str | bytes] = ()) -> list[Any]:
        """Return all rows. The cursor is closed also after a fault, or it would keep its lock."""
        with contextlib.closing(self._connection.cursor()) as cursor:
            return cursor.execute(statement, values).fetchall()

    def _migrate(self) -> None:
        with self._transaction():
            # Another process may have done it while this one waited for the lock
            done = self._read_number("user_version")
            for number, statements in enumerate(MIGRATIONS[done:], done + 1):
                for statement in statements:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={number}")
            self._connection.execute(f"PRAGMA application_id={APPLICATION_ID}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Take the lock for writing at once; all or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                self._connection.execute("ROLLBACK")
            raise

    # Writing --------------------------------------------------------------------------------------

    def add(self, batch: Batch) -> None:
        """
        Add everything of a batch, or nothing; what is there already is not added again.

        An object that is there and damaged is written anew, so that this run is whole. Of many
        large objects some are written before: a purge removes them if the rest never comes.
        """
        with _translate_errors(self.path):
            given = {one.hash: one for one in batch.objects}
            whole = self._select_whole(list(given))
            # Before the lock is taken: to compress takes time, and others wait
            objects = self._add_many(one for one in given.values() if one.hash not in whole)
            there = given.keys() - {hash_ for hash_, _ in objects}
            answers = [(one.hash, one.key, batch.run, pack(one.body)) for one in batch.answers]
            records = [(batch.run, one.name, one.hash, pack(one.body)) for one in batch.records]
            add = self._connection.executemany
            with self._transaction():
                # A purge may have removed some of them by now
                gone = there - self._select_hashes(list(there))
                self._add_objects(objects)
                self._add_objects((one, pack(given[one].body)) for one in gone)
                add(
                    "INSERT OR IGNORE INTO answers (hash, key, run, body) VALUES (?, ?, ?, ?)",
                    answers,
                )
                add("INSERT INTO records (run, name, hash, body) VALUES (?, ?, ?, ?)", records)

    def _add_many(self, given: Iterable[Entry | DeferredEntry]) -> list[tuple[bytes, bytes]]:
        """Write objects in bounded portions, and return the last one, which is not written."""
        portion: list[tuple[bytes, bytes]] = []
        held = 0
        for one in given:
            portion.append((one.hash, pack(one.body)))
            held += len(portion[-1][1])
            if held > MAX_HELD_BYTES:
                with self._transaction():
                    self._add_objects(portion)
                portion, held = [], 0
        return portion

    def _add_objects(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        self._connection.executemany(
            """
            INSERT INTO objects (hash, body) VALUES (?, ?)
            ON CONFLICT (hash) DO UPDATE SET body = excluded.body
            """,
            objects,
        )

    def _select_whole(self, hashes: Sequence[bytes]) -> set[bytes]:
        """Return which of these objects are there, and as they were written."""
        whole: set[bytes] = set()
        for some in _split(hashes, MAX_OBJECTS):  # their bodies are large: not all at once
            whole.update(one for one, stored in self.get_objects(some).items() if stored.is_whole)
        return whole

    def add_override(self, one: Entry) -> None:
        """Add a correction; it is on the disk when this returns."""
        with _translate_errors(self.path):
            values = (one.key, one.hash, pack(one.body))
            with self._transaction():
                self._connection.execute(
                    "INSERT INTO overrides (key, hash, body) VALUES (?, ?, ?)", values
                )

    def _select_hashes(self, hashes: Sequence[bytes]) -> set[bytes]:
        """Return which of these objects are there."""
        known: set[bytes] = set()
        for some in _split(hashes):
            marks = ",".join("?" * len(some))
            rows = self._select(f"SELECT hash FROM objects WHERE hash IN ({marks})", some)  # noqa: S608  our own words
            known.update(row[0] for row in rows)
        return known

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep others from writing, so that what is read and removed inside fits together."""
        with _translate_errors(self.path):
            self._connection.execute("PRAGMA secure_delete=ON")  # also where no room is to shrink
            with self._transaction():
                yield

    def remove(self, runs: Sequence[str], before: str, is_used: Iterable[bytes]) -> None:
        """
        Remove whole runs, then every object and answer that no other run uses; inside of `hold`.

        Parameters
        ----------
        runs
            The ids of the runs.
        before
            Answers of runs without any record, which were killed at their start, are removed if
            their id sorts before this text.
        is_used
            The hashes of the objects and answers that the runs use which stay.
        """
        execute = self._connection.execute
        execute("CREATE TEMP TABLE gone (run TEXT PRIMARY KEY)")
        execute("CREATE TEMP TABLE used (hash BLOB PRIMARY KEY)")
        self._connection.executemany("INSERT INTO gone VALUES (?)", [(run,) for run in runs])
        self._connection.executemany(
            "INSERT OR IGNORE INTO used VALUES (?)", ((one,) for one in is_used)
        )
        execute("DELETE FROM records WHERE run IN gone")
        execute(
            """
            DELETE FROM answers WHERE hash NOT IN used
            AND (run IN gone OR run < ? AND run NOT IN (SELECT run FROM records))
            """,
            (before,),
        )
        execute("DELETE FROM objects WHERE hash NOT IN used")
        execute("DROP TABLE gone")
        execute("DROP TABLE used")

    def remove_overrides(self, numbers: Sequence[int]) -> None:
        """Remove these corrections; inside of `hold`."""
        self._connection.executemany(
            "DELETE FROM overrides WHERE id = ?", [(one,) for one in numbers]
        )

    def shrink(self) -> None:
        """Write the file anew without the room that removed rows have left."""
        with _translate_errors(self.path):
            if self._read_number("freelist_count"):
                self._connection.execute("VACUUM")

    # Reading --------------------------------------------------------------------------------------

    def find_answer(self, key: bytes) -> Stored | None:
        """Return the newest answer to a request that is whole, or None."""
        return self.find_answers([key]).get(key)

    def find_answers(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        """Return the newest whole answer to each request, of those that have one."""
        found: dict[bytes, Stored] = {}
        with _translate_errors(self.path):
            for some in _split(keys):
                marks = ",".join("?" * len(some))
                rows = self._select(
                    f"SELECT key, hash, body, run FROM answers WHERE key IN ({marks}) ORDER BY id",  # noqa: S608  our own names
                    some,
                )
                for key, hash_, body, run in rows:
                    if (one := _read(hash_, body, run=run)).is_whole:
                        found[key] = one
        return found

    def get_answers(self, hashes: Sequence[bytes]) -> dict[bytes, Stored]:
        """Return answers by their hashes, those that are there."""
        return self._get("answers", hashes)

    def get_objects(self, hashes: Sequence[bytes]) -> dict[bytes, Stored]:
        """Return objects by their hashes, those that are there."""
        return self._get("objects", hashes)

    def _get(self, table: str, hashes: Sequence[bytes]) -> dict[bytes, Stored]:
        found: dict[bytes, Stored] = {}
        with _translate_errors(self.path):
            for some in _split(hashes):
                marks = ",".join("?" * len(some))
                rows = self._select(
                    f"SELECT hash, body FROM {table} WHERE hash IN ({marks})",  # noqa: S608  our own names
                    some,
                )
                found |= {hash_: _read(hash_, body) for hash_, body in rows}
        return found

    def list_runs(self, *, without: str = "") -> list[str]:
        """
        Return the ids of all runs, the oldest first.

        Parameters
        ----------
        without
            The name of a record: what has one is left out.
        """
        with _translate_errors(self.path):
            rows = self._select(
                "SELECT run FROM records GROUP BY run HAVING SUM(name = ?) = 0 ORDER BY MIN(id)",
                (without,),
            )
            return [str(row[0]) for row in rows]

    def get_records(self, run: str) -> dict[str, Stored]:
        """Return the records of a run by name, the latest of each, in the order of their names."""
        return self._get_records("WHERE run = ?", (run,)).get(run, {})

    def get_named(self, *names: str) -> dict[str, dict[str, Stored]]:
        """Return the records of these names by run and name, the latest of each; old runs first."""
        marks = ",".join("?" * len(names))
        return self._get_records(f"WHERE name IN ({marks})", names)

    def get_all_records(self) -> dict[str, dict[str, Stored]]:
        """Return all records by run and name, the latest of each."""
        return self._get_records("", ())

    def _get_records(self, where: str, values: Sequence[str]) -> dict[str, dict[str, Stored]]:
        found: dict[str, dict[str, Stored]] = {}
        with _translate_errors(self.path):
            rows = self._select(
                f"SELECT run, name, hash, body FROM records {where} ORDER BY id",  # noqa: S608  our own words
                values,
            )
            for run, name, hash_, body in rows:
                # One flipped bit makes bytes of a text, and no such name is looked for
                one = _read(hash_, body, name=str(name), run=str(run))
                found.setdefault(one.run, {})[one.name] = one
        return found

    def list_overrides(self) -> list[tuple[int, bytes, Stored]]:
        """Return the number, the key and the content of each correction, the oldest first."""
        with _translate_errors(self.path):
            rows = self._select("SELECT id, key, hash, body FROM overrides ORDER BY id")
            return [(number, key, _read(hash_, body)) for number, key, hash_, body in rows]

    def count_answers(self) -> int:
        """Return how many answers there are."""
        with _translate_errors(self.path):
            return int(self._select("SELECT COUNT(*) FROM answers")[0][0])


def open_journal() -> Store:
    """Open the journal that is there; raise JournalUnusable where there is none."""
    path = find_path()
    if path is None:
        raise JournalUnusable(
            "the journal is off (URISK_JOURNAL), so no run is recorded.",
            fix="name a file for it: %env URISK_JOURNAL=journal.sqlite3",
        )
    if not os.path.exists(path):  # noqa: PTH110  a folder that may not be read raises nothing here
        raise JournalUnusable(
            f"there is no journal at {path}: no run was recorded yet.",
            fix="make a risk table first (%%risk, or `urisk demo`)",
        )
    return Store(path)


def _read(hash_: bytes, stored: bytes, *, name: str = "", run: str = "") -> Stored:
    if not isinstance(hash_, bytes):  # a damaged row may have any type
        hash_ = b""
    try:
        body = unpack(stored)
    except (ValueError, TypeError):
        return Stored(hash=hash_, body=b"", is_whole=False, name=name, run=run)
    is_whole = compute_hash(body) == hash_
    return Stored(hash=hash_, body=body, is_whole=is_whole, name=name, run=run)


def _split(hashes: Sequence[bytes], most: int = MAX_KEYS) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(hashes), most):
        yield hashes[start : start + most]


def _make_file(path: Path) -> None:
    """Make the file, and its folder, readable for this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        # SQLite would take the user's umask; the files beside it take the mode of this one
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if path.exists() and not path.is_file():  # SQLite would wait for ever for a pipe
        raise JournalUnusable(
            f"{path} is {'a folder' if path.is_dir() else 'no regular file'}.",
            fix=f"name a file: %env URISK_JOURNAL=journal.sqlite3; {OFF}",
        )


def _protect(path: Path) -> None:
    """Make a journal that others may read this user's alone."""
    if path.is_file() and path.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):
            path.chmod(0o600)


@contextlib.contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Raise what SQLite and the file system say as JournalUnusable, with what to do."""
    try:
        yield
    # Of a damaged file even the message is damaged; OverflowError: over 2 GB in a row
    except (sqlite3.Error, OSError, UnicodeError, OverflowError) as exc:
        if isinstance(exc, JournalUnusable):
            raise
        seen = visible(str(getattr(exc, "strerror", None) or exc))
        if _is_moved(exc):
            seen = "the file was moved or removed while it was open"
        raise JournalUnusable(
            f"{path}: {seen}.", fix=_find_fix(exc, path), is_locked=_is_locked(exc)
        ) from exc


def _find_fix(exc: Exception, path: Path) -> str:
    text = str(exc)
    if "full" in text or "No space" in text or "quota" in text.lower():
        return f"free some space, or {_elsewhere()}"
    if "too big" in text or isinstance(exc, OverflowError):
        return "record fewer prices in one run, or none: %env URISK_JOURNAL=off"
    if _is_moved(exc):
        return "leave the file where it is during a run, and run this again: a new journal is made"
    if _is_locked(exc):
        return f"end the program that holds it, and run this again; {OFF}"
    damages = ("malformed", "not a database", "corrupt", "decode")
    if isinstance(exc, UnicodeError) or any(one in text for one in damages):
        return f"rename {path} and run this again: a new journal is made; {OFF}"
    return f"make it writable for you, or {_elsewhere()}"


def _is_locked(exc: Exception) -> bool:
    return "locked" in str(exc) or "busy" in str(exc)


def _is_moved(exc: Exception) -> bool:
    return getattr(exc, "sqlite_errorname", "") == "SQLITE_READONLY_DBMOVED"


def _elsewhere() -> str:
    return f"keep it elsewhere: %env URISK_JOURNAL=journal.sqlite3; {OFF}"
