"""Who reads the evidence: the same comes of it in this process and in workers."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from document_files import make_pdf
from harness import children
from many_filings import write_filing, write_folder
from urisk_nb.errors import InputError, SettingsError
from urisk_nb.readers.news import read_evidence
from urisk_nb.reading import evidence_readers
from urisk_nb.reading.packed_cache import PackedCache
from urisk_nb.risk.selection import select_evidence
from urisk_nb.session import open_run

TICKERS = ["AAA", "BBB", "CCC", "DDD"]
SETTINGS = {"max_sentences": 60}


@pytest.fixture(autouse=True)
def nobody_stays(monkeypatch):
    """No process is left by a test, and nothing is remembered."""
    monkeypatch.setenv("URISK_JOURNAL", "off")
    monkeypatch.setattr(evidence_readers, "find_cache", lambda: PackedCache(max_bytes=0))
    before = children()
    yield
    assert children() == before


@pytest.fixture
def eager(monkeypatch):
    """Two workers that are waited for after the first file, and after the first ticker."""
    monkeypatch.setenv("URISK_WORKERS", "2")
    monkeypatch.setattr(evidence_readers.WorkerPool, "warm", lambda *_: lambda: True)
    monkeypatch.setattr(evidence_readers, "LOCAL_S", 0.0)
    monkeypatch.setattr(evidence_readers, "MIN_LEFT_S", 0.0)


@pytest.fixture
def seen(monkeypatch):
    """The sizes of the pools that are opened."""
    sizes = []

    class Pool(evidence_readers.WorkerPool):
        def __init__(self, size):
            sizes.append(size)
            super().__init__(size)

    monkeypatch.setattr(evidence_readers, "WorkerPool", Pool)
    return sizes


@pytest.fixture
def folder(tmp_path):
    """Reports of all kinds, and files that cannot be read."""
    place = tmp_path / "filings"
    write_folder(place, TICKERS[:3], 60)
    text = write_filing("DDD", 60)
    (place / "DDD.html").write_text(f"<html><body><p>{text}</p></body></html>")
    (place / "AAA.pdf").write_bytes(make_pdf("We received a notice of default in May 2024."))
    (place / "BBB.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    (place / "CCC_empty.txt").write_text("")
    (place / "notes.doc").write_bytes(b"\xd0\xcf\x11\xe0")
    (place / "EEE.txt").write_text("Of another company.")
    return place


def open_both(monkeypatch, folder, **more):
    """The run as workers read it, and as this process does."""
    given = {"evidence": str(folder), "params": SETTINGS, **more}
    runs = [open_run(TICKERS, **given)]
    monkeypatch.setenv("URISK_WORKERS", "1")
    return *runs, open_run(TICKERS, **given)


def test_workers_and_this_process_make_the_same_plan(eager, seen, folder, monkeypatch):
    """Documents, selections and notes, those of broken files among them and in their order."""
    there, here = open_both(monkeypatch, folder)
    assert seen == [2]
    assert there.inputs.documents == here.inputs.documents
    assert there.plan.selections == here.plan.selections
    assert there.plan.meta == here.plan.meta
    assert there.input_notes == here.input_notes
    assert "BBB.pdf" in there.input_notes[0]


def test_workers_do_what_is_left_to_them(eager, folder, monkeypatch):
    """This process selects the evidence of the first ticker, and goes on until they are there."""
    done = []

    def select(task, split_once):
        done.append(task.holding.symbol)
        return select_evidence(task, split_once)

    monkeypatch.setattr(evidence_readers, "select_evidence", select)
    open_run(TICKERS, evidence=str(folder))
    assert done == ["AAA"]
    done.clear()
    monkeypatch.setattr(evidence_readers.WorkerPool, "warm", lambda *_: lambda: len(done) > 2)
    open_run(TICKERS, evidence=str(folder))
    assert done == ["AAA", "BBB", "CCC"]


def test_the_sentences_are_of_the_run_s_own_documents(eager, folder, monkeypatch):
    """The very objects: no text is held twice."""
    there, _ = open_both(monkeypatch, folder)
    own = {id(one) for one in there.inputs.documents}
    chosen = [one for reading in there.plan.selections.values() for one in reading.chosen]
    assert len(chosen) > 20
    assert {id(one.document) for one in chosen} <= own


def test_a_year_before_is_compared_in_workers_too(eager, seen, folder, monkeypatch, tmp_path):
    """The changes come back with the selection."""
    write_folder(tmp_path / "before", TICKERS, 50)
    there, here = open_both(monkeypatch, folder, previous=str(tmp_path / "before"))
    assert there.plan.selections == here.plan.selections
    assert there.plan.meta["changes"]["AAA"]


def test_little_evidence_starts_no_process(monkeypatch, seen, folder):
    """Nor does much of it where one worker is asked for."""
    monkeypatch.delenv("URISK_WORKERS", raising=False)
    open_run(TICKERS, evidence=str(folder))
    monkeypatch.setattr(evidence_readers, "LOCAL_S", 0.0)
    monkeypatch.setattr(evidence_readers, "MIN_LEFT_S", 0.0)
    monkeypatch.setenv("URISK_WORKERS", "1")
    open_run(TICKERS, evidence=str(folder))
    assert seen == []


@pytest.mark.parametrize("name", ["LOCAL_S", "MIN_LEFT_S"])
def test_workers_want_both_a_while_of_reading_and_much_that_is_left(
    eager, seen, folder, monkeypatch, name
):
    """Of either alone none are started."""
    monkeypatch.setattr(evidence_readers, name, 1e9)
    open_run(TICKERS, evidence=str(folder))
    assert seen == []


def test_a_folder_that_cannot_be_used_is_refused_as_ever(eager, tmp_path):
    """With the name of the first file that cannot be read."""
    for name in ("AAA.pdf", "BBB.pdf"):
        (tmp_path / name).write_bytes(b"%PDF-1.4 and nothing more")
    with pytest.raises(InputError, match=r"^AAA\.pdf: "):
        open_run(TICKERS, evidence=str(tmp_path))


def test_files_and_tickers_are_said_as_they_are_read(eager, folder):
    """Each file that is read, then each ticker."""
    said = []
    open_run(TICKERS, evidence=str(folder), on_read=lambda *one: said.append(one))
    files = sorted(path.name for path in folder.iterdir() if path.suffix != ".doc")
    assert said == [
        *((name, number, len(files)) for number, name in enumerate(files, 1)),
        *((ticker, number, len(TICKERS)) for number, ticker in enumerate(TICKERS, 1)),
    ]


def test_of_two_runs_at_once_one_has_workers(eager, seen, folder):
    """A service opens several: together they use the cores once."""
    with evidence_readers.EvidenceReaders() as first:
        paths = [Path(folder, f"{ticker}_10-K_2025-03-03.txt") for ticker in TICKERS[:3]]
        assert len(list(first.map_files(paths))) == 3
        open_run(TICKERS, evidence=str(folder))
        assert seen == [2]
    open_run(TICKERS, evidence=str(folder))
    assert seen == [2, 2]


def test_an_interrupt_while_workers_are_opened_or_ended_costs_no_later_run_its_own(
    eager, folder, monkeypatch
):
    """The place for workers is free again, wherever the interrupt falls."""
    opened = []

    class Pool(evidence_readers.WorkerPool):
        where = "open"

        def __init__(self, size):
            opened.append(size)
            if self.where == "open":
                raise KeyboardInterrupt
            super().__init__(size)

        def _kill_all(self):
            super()._kill_all()
            if self.where == "end":
                type(self).where = ""
                raise KeyboardInterrupt

    monkeypatch.setattr(evidence_readers, "WorkerPool", Pool)
    for Pool.where in ("open", "end"):
        with pytest.raises(KeyboardInterrupt):
            open_run(TICKERS, evidence=str(folder))
    Pool.where = ""
    open_run(TICKERS, evidence=str(folder))
    assert opened == [2, 2, 2]


def test_a_file_for_each_ticker_is_read_by_workers_too(eager, seen, folder, monkeypatch):
    """A table, a text and what is missing are read as ever beside it."""
    (folder / "rows.csv").write_text("text\nIt fell.\n")
    names = ("AAA.pdf", "CCC_10-K_2025-03-03.txt", "DDD.html", "rows.csv")
    given = {ticker: folder / name for ticker, name in zip(TICKERS, names, strict=True)}
    there, here = open_both(monkeypatch, folder, evidence=given)
    assert seen == [2]
    assert there.inputs.documents == here.inputs.documents
    assert len(there.inputs.documents) == 4
    assert there.plan.selections == here.plan.selections
    with pytest.raises(InputError, match=r"^BBB\.pdf: ") as caught:
        open_run(TICKERS, evidence={"AAA": folder / "AAA.pdf", "BBB": folder / "BBB.pdf"})
    with pytest.raises(InputError) as plain:
        read_evidence({"AAA": folder / "AAA.pdf", "BBB": folder / "BBB.pdf"}, tickers=TICKERS)
    assert str(caught.value) == str(plain.value)


def test_another_reader_can_be_given(eager, seen, folder):
    """It does all of the tickers; files are read as ever."""
    done = []

    def map_selections(tasks):
        for task in tasks:
            done.append(task.holding.symbol)
            yield select_evidence(task)

    open_run(TICKERS, evidence=str(folder), map_selections=map_selections)
    assert done == TICKERS


def test_a_wrong_number_of_workers_is_refused(monkeypatch):
    """Before anything is read."""
    monkeypatch.setenv("URISK_WORKERS", "many")
    with pytest.raises(SettingsError, match="URISK_WORKERS is 'many'"):
        open_run("AAA", evidence={"AAA": ["It fell."]})


@pytest.mark.timing
@pytest.mark.slow
def test_an_interrupt_ends_a_long_reading(eager, tmp_path):
    """Within a second, and the fixture sees that no process is left."""
    write_folder(tmp_path, [f"T{number}" for number in range(40)], 1500)
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(2.5, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        open_run([f"T{number}" for number in range(40)], evidence=str(tmp_path))
    assert time.monotonic() - sent[0] < 1.0
