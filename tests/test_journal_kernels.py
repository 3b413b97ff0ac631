"""
The journal with real kernels and processes: magics, a kernel that is killed in the middle of a run,
and several processes at one file. The server's answers are SCRIPTED.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pandas as pd
import pytest

from harness import ROOT, alive, eventually
from urisk_nb import LLMManager, assess, history, replay, verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TICKERS = 200
JUDGE = [
    {"contains": "was fined", "answer": {"risk": "legal", "severity": 4}, "first_ms": 5},
    {"contains": "", "answer": {"risk": "business", "severity": 2}, "first_ms": 5},
]
NEWS = """
import pandas as pd
news = pd.DataFrame(
    [(f"T{n}", f"{what} in case {n}.") for n in range(200) for what in ("It was fined", "It fell")],
    columns=["ticker", "text"],
)
"""
CELL = "%%risk --evidence news --out table\n" + " ".join(f"T{n}" for n in range(TICKERS))
ASKED = 3 * TICKERS  # two sentences each, one of them twice


@pytest.fixture
def server(fake_ollama_with):
    return fake_ollama_with({"slots": 4, "rules": JUDGE})


def kernel_at(new_kernel, server, journal):
    machine = new_kernel({"OLLAMA_URL": server.url, "URISK_JOURNAL": str(journal)})
    machine.good("%load_ext urisk_nb")
    machine.good(NEWS)
    return machine


def chats(server):
    return server.counters()["paths"].get("/api/chat", 0)


def test_a_kernel_that_is_killed_loses_half_a_second(new_kernel, server, journal, figure):
    """
    SIGKILL in the middle of 200 tickers. The same cell in a new kernel asks only for what is
    missing, and its end equals an undisturbed run.
    """
    first = kernel_at(new_kernel, server, journal)
    first.good("%urisk_start")
    before = chats(server)
    first.start(CELL)
    eventually(lambda: chats(server) >= before + ASKED // 2, 60)
    os.kill(first.manager.provisioner.pid, signal.SIGKILL)
    eventually(lambda: not alive(first.manager.provisioner.pid), 10)
    eventually(lambda: server.counters()["in_flight"] == 0, 10)
    asked = chats(server) - before
    assert asked < ASKED

    second = kernel_at(new_kernel, server, journal)
    second.good("%urisk_start")
    before = chats(server)
    cell = second.good(CELL, timeout=120)
    again = chats(server) - before
    figure("answers lost with a killed kernel", asked + again - ASKED)
    assert again >= ASKED - asked
    assert asked + again - ASKED < ASKED // 3  # what came in its last half second
    assert f"{ASKED - again} answers from the journal, {again} asked." in cell.text()

    third = kernel_at(new_kernel, server, journal)
    third.good("import os\nos.environ['URISK_JOURNAL'] = 'off'")
    third.good(CELL, timeout=120)
    same = "table[['status','score','level','r_legal','r_business','judged']].to_csv()"
    assert second.value(same) == third.value(same)

    frame = history()
    assert frame["status"].tolist() == ["done", "unfinished"]
    assert verify(frame.loc[0, "run"]) == frame.loc[0, "hash"]
    assert replay(frame.loc[1, "run"])["status"].isin(["ok", "not_run"]).all()


def test_the_magics_of_the_journal(new_kernel, server, journal):
    """The second cell asks nothing and says so; --refresh asks; history and replay show it."""
    machine = kernel_at(new_kernel, server, journal)
    cell = "%%risk --evidence news --out table\nT1 T2"
    machine.good(cell)
    before = chats(server)
    assert "6 answers from the journal, none asked." in machine.good(cell).text()
    assert chats(server) == before
    assert "from the journal" not in machine.good(cell.replace(" --out", " --refresh --out")).text()
    assert chats(server) == before + 6
    machine.good("runs = %urisk_history")
    assert machine.value("list(runs['status'])") == "['done', 'done', 'done']"
    run = machine.value("table.report.meta['run_id']")
    shown = machine.good(f"again = %urisk_replay {run}\nprint(again.equals(table))")
    assert shown.text().strip() == "True"
    oldest = machine.value("runs['run'].iloc[-1]")
    for line in ("", oldest, f"{oldest} {run}"):
        compared = machine.good(f"change = %urisk_diff {line}\nprint(change.is_same)")
        assert compared.text().strip() == "True"
    wrong = machine.run("%urisk_replay 1999")
    assert wrong.ename == "RunNotFound"
    assert run in wrong.error


PROCESS = """
import json, sys
import pandas as pd
from urisk_nb import LLMManager, assess
number, url = sys.argv[1:]
manager = LLMManager.initialize_sync(url=url)
tickers = [f"P{number}T{n}" for n in range(25)] + ["SHARED"]
news = pd.DataFrame([(one, f"{one} fell.") for one in tickers], columns=["ticker", "text"])
table = assess(tickers, evidence=news, manager=manager)
manager.shutdown_sync()
print(json.dumps([table.report.meta["run_id"], table.report.meta["run_hash"]]))
"""


def test_four_processes_at_one_journal_lose_nothing(server, journal):
    """Each run is whole and verified, and every answer is known afterwards."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROCESS), str(number), server.url],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        for number in range(4)
    ]
    runs = [json.loads(process.communicate(timeout=150)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    for run, hash_ in runs:
        assert hash_ is not None
        assert verify(run) == hash_
        assert replay(run)["status"].eq("ok").all()
    tickers = [f"P{number}T{n}" for number in range(4) for n in range(25)]
    news = pd.DataFrame([(one, f"{one} fell.") for one in tickers], columns=["ticker", "text"])
    manager = LLMManager.initialize_sync(url=server.url)
    before = chats(server)
    try:
        table = assess(tickers, evidence=news, manager=manager)
    finally:
        manager.shutdown_sync()
    assert table["cached"].sum() == len(tickers)
    assert chats(server) == before
