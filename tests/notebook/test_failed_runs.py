"""
A run that fails says so: an error message on iopub, which nbmake, nbval and papermill look for, in
every way to fail.
"""

import json

import pytest

from harness import ANSI, FakeOllama, eventually
from urisk_nb import errors
from urisk_nb.llm.resilience import InRun, retry_rule_for

pytestmark = pytest.mark.slow  # each of them starts programs

SCENARIO = {
    "slots": 4,
    "rules": [
        {"contains": "fined", "answer": {"risk": "legal", "severity": 3}},
        {"contains": "strange", "status": 500, "error": "model requires more system memory"},
        {"contains": "odd", "status": 500, "error": "something odd"},
        {"contains": "", "answer": {"risk": "none", "severity": 0}, "first_ms": 20000},
    ],
}
SETUP = """
import pandas as pd
from urisk_nb import LLMManager, RiskParams, assess, assess_async, errors
from urisk_nb.llm.answers import AnswerStream

table = None
names = ["ticker", "text"]
fine = ("AAA", "It was fined by the court.")
news = pd.DataFrame([fine, ("BBB", "Something strange happened.")], columns=names)
odd = pd.DataFrame([("AAA", "An odd sentence."), ("BBB", "Another odd one.")], columns=names)
slow = pd.DataFrame([fine, ("BBB", "This takes long.")], columns=names)
whole, pieces = AnswerStream.whole, AnswerStream.pieces
initialize = vars(LLMManager)["initialize"]

class Oops(Exception):
    pass

def break_with(kind, *words, **more):
    '''From now on every call about BBB ends with this, and so do %%ask and a start.'''
    def fails_here():
        raise kind(*words, **more)
    async def broken(self, *words):
        if b"strange" in self._call.body:
            fails_here()
        return await whole(self, *words)
    async def broken_pieces(self):
        fails_here()
        yield ""
    async def broken_start(*_, **more):
        fails_here()
    AnswerStream.whole = broken
    return broken_pieces, classmethod(broken_start)

def mend():
    AnswerStream.whole, AnswerStream.pieces, LLMManager.initialize = whole, pieces, initialize
"""
RISK = "%%risk --evidence news --parallel 1 --out table\nAAA BBB"
ASSESS = 'assess("AAA BBB", evidence=news, parallel=1)'
AWAITED = 'await assess_async("AAA BBB", evidence=news, parallel=1)'
RUNS = pytest.mark.parametrize("code", [RISK, ASSESS, AWAITED], ids=["risk", "assess", "awaited"])
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.UriskError)
]
# What a run goes on after: one sentence is left without a label
OF_ONE_SENTENCE = {
    kind.__name__
    for kind in KINDS
    if retry_rule_for(kind("seen", fix="do")).in_run is not InRun.END
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("failed") / "scenario.json"
    path.write_text(json.dumps(SCENARIO))
    started = FakeOllama("--scenario", str(path))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def connected(kernel, server):
    # Colours are most of the work of a traceback, and `failure` takes them out again.
    # What a run waits for would be waited for here, too.
    kernel.good("import os\nos.environ['URISK_OUTAGE_WAIT'] = '0'")
    kernel.good(f"%colors nocolor\n{SETUP}\n%urisk_start --url {server.url}")
    return kernel


@pytest.fixture
def session(connected):
    """The kernel with its session; whatever a test breaks in it is mended."""
    yield connected
    connected.good("mend()")


def failure(cell):
    """
    The one error message of the cell on iopub, after everything else; nothing stands on the
    streams.
    """
    assert cell.status == "error"
    streams = "".join(content["text"] for kind, content in cell.outputs if kind == "stream")
    said = [content for kind, content in cell.outputs if kind == "error"]
    assert (len(said), streams) == (1, "")
    assert cell.outputs[-1][0] == "error"
    assert cell.reply["ename"] == said[0]["ename"]
    return said[0]["ename"], [ANSI.sub("", line) for line in said[0]["traceback"]]


@RUNS
def test_a_server_that_answers_500_fails_the_cell(session, code):
    """
    The run's error is two lines in an error message, and nothing is written to stderr.
    """
    ename, lines = failure(session.run(code.replace("news", "odd")))
    assert ename == "ServerInternalError"
    assert len(lines) == 2
    assert "something odd" in lines[0]
    assert lines[1].startswith("  Fix: ")


def test_what_was_computed_is_shown_and_kept(session):
    """
    `%%risk` shows the table before the error and assigns it to --out; `assess` puts it on the error
    as `partial`.
    """
    cell = session.run(RISK)
    failure(cell)
    assert "AAA" in cell.html
    assert session.value("table['status'].tolist()") == "['ok', 'not_run']"
    for code in (ASSESS, AWAITED):
        caught = session.good(
            f"try:\n    {code}\nexcept errors.ModelTooLarge as exc:\n    "
            "print(exc.partial['status'].tolist())"
        )
        assert caught.text().strip() == "['ok', 'not_run']"


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_every_kind_of_error_fails_the_cell(session, kind):
    """
    Whatever ends a run, in a cell of tickers, in Python or awaited, an answer or a start: two
    lines, told to the front end. A sentence that fails is named under the table, and ends no run.
    """
    session.good(f"table = None\nask, start = break_with(errors.{kind}, 'seen 3.', fix='do this')")
    two_lines = [f"{kind}: seen 3.", "  Fix: do this"]
    if kind in OF_ONE_SENTENCE:
        assert "has no label: seen 3." in session.good(RISK).html
        assert session.value("table['status'].tolist()") == "['ok', 'model_error']"
    else:
        for code in (RISK, ASSESS, AWAITED):
            assert failure(session.run(code)) == (kind, two_lines)
        assert session.value("table['status'].tolist()") == "['ok', 'not_run']"
    session.good("AnswerStream.pieces = ask")
    assert failure(session.run("%%ask\nhello")) == (kind, two_lines)
    session.good("mend()\nLLMManager.initialize = start")
    assert failure(session.run("%urisk_start")) == (kind, two_lines)


@pytest.mark.parametrize(
    "made",
    ["Oops, 'a bug'", "ExceptionGroup, 'two at once', [Oops('a bug'), Oops('another')]"],
    ids=["a bug", "a group"],
)
def test_a_bug_of_ours_keeps_its_stack_and_fails_the_cell(session, made):
    """
    An error that is none of ours is told to the front end, too, with the place where it was raised;
    what was computed is kept.
    """
    session.good(f"table = None\nask, start = break_with({made})")
    for code in (RISK, ASSESS, AWAITED):
        ename, lines = failure(session.run(code))
        assert (ename, "fails_here" in "\n".join(lines)) == ("Oops", True)
    assert session.value("table['status'].tolist()") == "['ok', 'not_run']"
    session.good("AnswerStream.pieces = ask")
    assert failure(session.run("%%ask\nhello"))[0] == "Oops"
    session.good("mend()\nLLMManager.initialize = start")
    assert failure(session.run("%urisk_start"))[0] == "Oops"


@RUNS
def test_an_interrupt_fails_the_cell(session, server, code):
    """
    KeyboardInterrupt is an error message, too, and %%risk has shown and assigned what there is.
    """
    session.good("table = None")
    before = server.counters()["aborted"]
    started = session.start(code.replace("news", "slow"))
    eventually(lambda: server.counters()["in_flight"] == 1, 10, "a call in flight")
    session.manager.interrupt_kernel()
    cell = session.finish(started)
    # IPython ends an awaited cell by a cancel
    assert failure(cell)[0] in ("KeyboardInterrupt", "CancelledError")
    eventually(
        lambda: server.counters()["aborted"] == before + 1 and not server.counters()["in_flight"],
        10,
        "the server's abort",
    )
    assert code != RISK or session.value("table['status'].tolist()") == "['ok', 'not_run']"


def test_a_loader_that_fails_fails_the_cell(session):
    """
    A user's own function for the prices may end with a group, or with an error that was raised
    while one was handled.
    """
    session.good(
        "def grouped(tickers):\n    raise ExceptionGroup('two at once', [Oops('no file'), "
        "Oops('no network')])\n"
        "def handled(tickers):\n    try:\n        grouped(tickers)\n    except ExceptionGroup:\n  "
        "      raise Oops('no prices')"
    )
    for loader, seen in (("grouped", "no file"), ("handled", "no prices")):
        for code in (
            f"%%risk --prices {loader}\nAAA",
            f"assess('AAA', prices={loader})",
            f"await assess_async('AAA', prices={loader})",
        ):
            ename, lines = failure(session.run(code))
            assert ename == "Oops"
            assert seen in "\n".join(lines)
