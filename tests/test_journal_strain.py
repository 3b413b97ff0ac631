"""
What the journal has to bear: purges beside runs that are recorded, damage of every kind, and
interrupts at bad moments. The answers are SCRIPTED.
"""

import asyncio
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from scripted_judge import NEWS, ScriptedJudge, news
from table_maker import DAYS
from urisk_nb import assess, history, past_runs, purge, replay, verify
from urisk_nb.errors import InputError, JournalUnusable, RecordChanged, RunNotFound
from urisk_nb.journal.store import Store
from urisk_nb.notebook import magics
from urisk_nb.recording import recorder
from urisk_nb.session import open_run

WEEK_AGO = datetime.now(UTC) - timedelta(days=7)


pytestmark = pytest.mark.usefixtures("journal")


def make_run(evidence=NEWS):
    return assess("A B", evidence=evidence, manager=ScriptedJudge())


def make_old_run():
    """A run of a month ago, of prices alone."""
    run = open_run("A B", prices=closes())
    run.created_at -= timedelta(days=30)
    run.table()


def closes():
    moves = np.random.default_rng(7).normal(0, 0.01, (len(DAYS), 2))
    return pd.DataFrame(100 * np.cumprod(1 + moves, axis=0), index=DAYS, columns=["A", "B"])


def id_of(table):
    return table.report.meta["run_id"]


def slow_down(monkeypatch, name, seconds, done):
    """Let a method of the store take its time; `done` has what has begun and ended, in order."""
    plain = getattr(Store, name)

    def wait(self, *given):
        done.append(f"{name}...")
        time.sleep(seconds)
        found = plain(self, *given)
        done.append(name)
        return found

    monkeypatch.setattr(Store, name, wait)


@pytest.mark.slow
def test_two_interrupts_lose_no_record_of_a_run_that_goes_on(monkeypatch):
    """The second one ends the wait for the disk; what it left is written when the run goes on."""
    run = open_run("A B", evidence=NEWS)

    async def go():
        with monkeypatch.context() as patch:
            patch.setattr("urisk_nb.journal.writer.PAUSE_S", 0.0)
            slow_down(patch, "add", 0.1, [])
            task = asyncio.create_task(run.label(ScriptedJudge(service_s=0.01)))
            while not run.ticker_findings:
                await asyncio.sleep(0.002)
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0.02)
            await asyncio.wait({task})
        await run.label(ScriptedJudge())

    asyncio.run(go())
    assert verify(run.run_id) == run.run_hash
    assert pd.DataFrame(replay(run.run_id)).equals(pd.DataFrame(run.table()))


@pytest.mark.slow
def test_no_file_is_closed_while_it_is_read(monkeypatch):
    """An interrupt while the known answers are looked up: another thread reads them to the end."""
    run, done = open_run("A B", evidence=NEWS), []

    async def go():
        slow_down(monkeypatch, "find_answers", 0.1, done)
        monkeypatch.setattr(Store, "close", lambda self: done.append("close"))
        task = asyncio.create_task(run.label(ScriptedJudge()))
        while not done:
            await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(go())
    assert done == ["find_answers...", "find_answers", "close", "close"]


def show_diff(line):
    return magics._show_diff(None, magics.build_parser("urisk_diff").parse_line(line))


@pytest.mark.slow
@pytest.mark.parametrize("named", [2, 1, 0])
def test_two_runs_are_compared_from_a_line(named):
    """Without a second id the newest run is the other one; without any, the two newest."""
    old, new = make_run(), make_run(evidence=NEWS[:2])
    change = show_diff(" ".join([id_of(old), id_of(new)][:named]))
    assert repr(change).startswith(f"{id_of(new)} (newer) against {id_of(old)} (older)")


@pytest.mark.slow
def test_one_run_is_not_compared_with_itself():
    """The error names the run that is there."""
    only = id_of(make_run())
    with pytest.raises(RunNotFound, match="no run was named") as no:
        show_diff("")
    assert only in str(no.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "name = CAST(name AS BLOB)",
        "run = CAST(run AS BLOB)",
        "hash = 'x'",
        "name = CAST(x'fffe' AS TEXT)",
        "run = CAST(x'fffe' AS TEXT)",
    ],
)
def test_a_value_of_another_type_is_named(journal, change):
    """One flipped bit of the file makes bytes of a text, or a text that is none."""
    run = id_of(make_run())
    with sqlite3.connect(journal) as plain:
        plain.execute(f"UPDATE records SET {change} WHERE name LIKE 'l%A'")
    plain.close()
    for read in (verify, replay):
        with pytest.raises(RecordChanged, match="'labels 0 A'"):
            read(run)
    assert history()["run"].tolist() == [run]
    assert purge(before=WEEK_AGO) == 0


@pytest.mark.slow
@pytest.mark.parametrize("given", [pd.NaT, b"2026-01-31", "9999-12-31T23:00:00-05:00"])
def test_a_purge_of_a_moment_that_cannot_be_is_refused(given):
    with pytest.raises(InputError, match="is not a date"):
        purge(before=given)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["gone", "damaged"])
def test_a_run_without_its_first_record_is_purged_by_its_id(journal, state):
    """Else its texts would stay for good: a purge beside it, or a damage, took the record."""
    lost = "20200101T000000-abc"
    with Store(journal) as store:
        entries = [recorder.Entry.of(b"{}", name="judges")]
        if state == "damaged":
            entries.append(recorder.Entry(body=b"{}", hash=b"other", name="run"))
        answers = [recorder.Entry.of(b"a licensed sentence")]
        store.add(recorder.Batch(lost, records=entries, answers=answers))
    assert purge(before=WEEK_AGO) == 1
    with Store(journal) as store:
        assert (store.list_runs(), store.count_answers()) == ([], 0)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_the_next_run_of_the_same_inputs_repairs_them(journal, place):
    """Documents, the list of them, and prices: the next run is whole, and so is the first again."""
    runs = [assess("A B", evidence=NEWS[:2], prices=closes(), manager=ScriptedJudge())]
    with sqlite3.connect(journal) as plain:
        ids = [row[0] for row in plain.execute("SELECT id FROM objects ORDER BY id")]
        plain.execute("UPDATE objects SET body = x'7041' WHERE id = ?", (ids[place],))
    plain.close()
    with pytest.raises(RecordChanged):
        verify(id_of(runs[0]))
    runs.append(assess("A B", evidence=NEWS[:2], prices=closes(), manager=ScriptedJudge()))
    assert [verify(id_of(one)) for one in runs] == [one.report.meta["run_hash"] for one in runs]


@pytest.mark.slow
def test_a_damaged_list_of_documents_stops_no_purge(journal):
    make_old_run()
    make_run(evidence=NEWS[:1])
    with sqlite3.connect(journal) as plain:
        plain.execute("UPDATE objects SET body = x'70' WHERE id = (SELECT MAX(id) FROM objects)")
    plain.close()
    assert purge(before=WEEK_AGO) == 1


@pytest.mark.slow
def test_a_purge_shrinks_what_an_earlier_one_could_not(journal, monkeypatch):
    """Nothing of the texts is left even where the file could not be written anew."""
    monkeypatch.setattr("urisk_nb.journal.canonical.MIN_PACKED_BYTES", 1 << 40)
    make_run(evidence=news(("A", "A licensed sentence of a vendor. " * 90)))

    def fail(self):
        raise JournalUnusable("the disk is full.", fix="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "shrink", fail)
        with pytest.raises(JournalUnusable):
            purge(before="2999-01-01")
    assert b"licensed sentence" not in journal.read_bytes()
    size = journal.stat().st_size
    assert purge(before="2999-01-01") == 0
    assert journal.stat().st_size < size


@pytest.mark.slow
def test_a_run_that_is_recorded_while_a_purge_reads_keeps_its_inputs(journal, monkeypatch):
    """The purge has read what is used; a run that comes then waits until it is done."""
    make_old_run()
    find, made, prices = past_runs._list_used, [], closes()

    def list_used(store, kept):
        thread = threading.Thread(target=lambda: made.append(assess("A B", prices=prices)))
        threads.append(thread)
        thread.start()
        thread.join(0.3)
        yield from find(store, kept)

    threads = []
    monkeypatch.setattr(past_runs, "_list_used", list_used)
    assert purge(before=WEEK_AGO) == 1
    threads[0].join()
    assert verify(id_of(made[0])) == made[0].report.meta["run_hash"]
