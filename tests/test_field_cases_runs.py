"""
What real users meet in a run, by the numbers of the reports (C7, C10): servers that are busy or
start again, sentences that fail. The other cases are in `test_field_cases.py`.

The server is a process of its own (`flaky_server.py`), and the clock is the real one.
"""

import threading
import time

import pytest

from flaky_server import BABBLE, BOOM, CRASH, REFUSED, FlakyServer
from urisk_nb import LLMManager, assess
from urisk_nb.errors import ServerBusy
from urisk_nb.llm.run_calls import MAX_ATTEMPTS_IN_ALL
from urisk_nb.session import label_sync, open_run

pytestmark = pytest.mark.slow  # each of them starts a program


@pytest.fixture
def flaky(tmp_path):
    """A server with faults, in a process of its own, and a session over it."""
    started = []

    def start(service_s=0.005, parallel=2, **settings):
        server = FlakyServer(tmp_path, service_s=service_s)
        started.append(server)
        given = {"auto_start": False, "parallel": parallel, **settings}
        manager = LLMManager.initialize_sync(url=server.url, **given)
        return server, manager

    yield start
    if (manager := LLMManager.find_instance()) is not None:
        manager.shutdown_sync()
    for server in started:
        server.kill()


def fined(tickers, each=2):
    """Evidence of sentences that no fault hits."""
    return [
        {"ticker": one, "text": f"{one} was fined {number} times."}
        for one in tickers
        for number in range(each)
    ]


def after(seconds, step):
    """Do this later, on a thread; its end is awaited by the caller."""
    timer = threading.Timer(seconds, step)
    timer.start()
    return timer


TICKERS = [f"T{number}" for number in range(6)]


@pytest.mark.row(55)
@pytest.mark.parametrize("word", ["busy", "busy everywhere"])
def test_c7_a_busy_server_is_waited_for(flaky, word):
    """PDL#702: 503 for some seconds; the table is whole and nobody is asked again."""
    server, _ = flaky()
    run = open_run(TICKERS, evidence=fined(TICKERS))
    server.set_mode(word)
    timer, shown = after(2.0, lambda: server.set_mode("")), set()
    label_sync(run, tick=lambda: shown.add(str(run.progress)))
    timer.join()
    assert run.table()["status"].tolist() == ["ok"] * 6
    assert server.asked_after_answer() == []
    # Where all routes answer 503, it is the start that waits
    assert word != "busy" or any("; the server answers 503, waiting (1 s)" in one for one in shown)


@pytest.mark.row(56)
def test_c7_a_restart_is_waited_for(flaky):
    """The connections break, then nothing answers for a while."""
    server, _ = flaky(service_s=0.1)
    run = open_run(TICKERS, evidence=fined(TICKERS))

    def restart():
        server.kill()
        time.sleep(1.0)
        server.start()

    timer, shown = after(0.25, restart), set()
    label_sync(run, tick=lambda: shown.add(str(run.progress)))
    timer.join()
    assert run.table()["status"].tolist() == ["ok"] * 6
    assert server.asked_after_answer() == []
    assert any("the connection broke, waiting" in one for one in shown)


@pytest.mark.row(57)
def test_c7_a_wait_beyond_the_budget_ends_the_run_with_its_table(flaky):
    """The rows that were done are kept, and an error of two lines fails the cell."""
    server, _ = flaky(parallel=1, outage_wait_s=1.0)
    tickers = [f"T{number:02}" for number in range(20)]
    run = open_run(tickers, evidence=fined(tickers, 1))

    def tick():
        if len(run.ticker_findings) >= 3:
            server.set_mode("busy")

    began = time.monotonic()
    with pytest.raises(ServerBusy, match="5 sentences in a row") as caught:
        label_sync(run, tick=tick)
    assert 1.0 <= time.monotonic() - began < 15
    statuses = caught.value.partial["status"].tolist()
    done = statuses.count("ok")
    assert done >= 3
    assert statuses == ["ok"] * done + ["model_error"] * 5 + ["not_run"] * (15 - done)
    assert "503" in caught.value.partial.report.meta["failure"]
    assert len(caught.value._render_traceback_()) == 2


@pytest.mark.timing
@pytest.mark.row(58)
def test_c7_an_interrupt_ends_the_wait_at_once(flaky):
    server, _ = flaky()
    run = open_run(TICKERS, evidence=fined(TICKERS))
    server.set_mode("busy")
    moments = []

    def tick():
        if run.progress.outage is not None and not moments:
            moments.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_sync(run, tick=tick)
    assert time.monotonic() - moments[0] < 0.5


FAULTS = {
    CRASH: ("llama runner process has terminated", 2),
    BOOM: ("something odd", 2),
    BABBLE: ("the answer is not JSON", 1),  # and one repair
    REFUSED: ("blocked by a filter", 1),
}


@pytest.mark.row(59)
def test_c7_a_sentence_that_fails_is_unjudged_and_the_run_goes_on(flaky):
    """ollama-python#471 and others: each kind of failure has its reason; the rest is labeled."""
    server, manager = flaky(parallel=4)
    rows = fined(TICKERS)
    rows += [
        {"ticker": one, "text": f"{one} {word}."}
        for one, word in zip(TICKERS, FAULTS, strict=False)
    ]
    table = assess(TICKERS, evidence=rows)
    found = table.report.findings.set_index("quote")
    text = table.as_text(300)
    for ticker, (word, (reason, asked)) in zip(TICKERS, FAULTS.items(), strict=False):
        quote = f"{ticker} {word}."
        assert found.loc[quote, "status"] == "unjudged"
        assert reason in found.loc[quote, "reason"]
        assert any(quote in line and reason in line for line in text.splitlines())
        # A call that was lost with the runner that another one crashed is made again
        most = MAX_ATTEMPTS_IN_ALL if asked > 1 else asked
        assert asked <= server.asked().count(quote) <= most
    assert server.log().count(("repair", f"{TICKERS[2]} {BABBLE}.")) == 1
    assert (found["status"] == "judged").sum() == len(rows) - len(FAULTS)
    assert len(table.report.meta["unjudged"]) == len(FAULTS)
    assert server.asked_after_answer() == []
    assert manager.breaker() == "closed"


def test_c10_a_run_has_as_many_calls_in_flight_as_it_asks_for(flaky):
    """A session of one place gives way for the run, and has its own limit back."""
    server, manager = flaky(service_s=0.2, parallel=1)
    began = time.monotonic()
    assess(TICKERS, evidence=fined(TICKERS), parallel=4)
    four_s = time.monotonic() - began
    assert server.most_in_flight() == 4
    assert manager.parallel == 1
    assert four_s < 12 * 0.2  # one at a time would take that long
