"""
A run over a managed server that ends in the middle of it: its guardian starts another, and the run
goes on. The processes are real; the answers are SCRIPTED.
"""

import os
import signal

import pytest

from fault_calls import session
from urisk_nb import process_state
from urisk_nb.session import label_sync, open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TICKERS = [f"T{number:02}" for number in range(15)]
EVIDENCE = [{"ticker": one, "text": f"{one} was fined {n} times."} for one in TICKERS for n in "12"]


@pytest.mark.row(56)
@pytest.mark.parametrize("which", ["server", "runner"])
def test_a_run_goes_on_after_the_end_of_a_managed_server(which, lab):
    """Every sentence has its label, and the breaker is closed."""
    answer = {"risk": "legal", "severity": 2}
    lab.plan(slots=2, rules=[{"contains": "", "answer": answer, "first_ms": 40}])
    manager = session(parallel=2)
    run, shown = open_run(TICKERS, evidence=EVIDENCE), []
    pids = dict(zip(("server", "runner"), lab.processes(), strict=True))

    def tick():
        shown.append(str(run.progress))
        if pids and len(run.ticker_findings) >= 4:
            os.kill(pids.pop(which), signal.SIGKILL)
            pids.clear()

    label_sync(run, manager, tick=tick)
    assert not pids
    assert run.table()["status"].tolist() == ["ok"] * len(TICKERS)
    assert manager.restart_count == (which == "server")
    assert manager.breaker() == "closed"
    assert any(", waiting (" in one for one in shown) or which == "runner"
    manager.shutdown_sync()
    assert process_state.get("manager") is None
