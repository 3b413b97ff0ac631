"""The scripts that measure: what they ask, where no model and no data are needed to see it."""

import importlib.util
import math
import re
import subprocess
import sys

import pytest

from harness import ROOT
from urisk_nb.risk.calibration import Token
from urisk_nb.risk.evidence import split
from urisk_nb.risk.inputs import Document, Section
from urisk_nb.risk.params import JUDGE_REVIEW_BELOW
from urisk_nb.risk.questions import Reply, answer

DEFAULT = "We were in default under the term loan in June 2023."
SUED = "A class action was filed against us in June 2023."


@pytest.fixture
def load(monkeypatch):
    """A script as a module; the others stand beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


class Judge:
    """Answers with a label and its probabilities, as urisk-judge does."""

    def __init__(self):
        self.asked = []

    def ask(self, question):
        self.asked.append(question)
        risk = "legal" if question.sentence.text == SUED else "none"
        p = JUDGE_REVIEW_BELOW - 0.1 if risk == "legal" else 0.99
        return Reply(
            text=answer(risk, 3),
            done_reason="stop",
            logprobs=(
                Token(text='{"risk":"', logprob=0.0),
                Token(text=f'{risk}",', logprob=math.log(p)),
                Token(text='"severity":', logprob=0.0),
                Token(text="3}", logprob=-0.1),
            ),
        )

    def save(self):
        pass


def test_the_judge_is_asked_as_the_table_asks_it(load):
    """Each sentence once, without examples; what it is not sure of is for a person."""
    filings = load("filings")
    section = Section(name="Item 7", title="Management's Discussion and Analysis", start=0)
    others = " ".join(f"We sell paper to the schools of town {number}." for number in range(5))
    document = Document(
        id="D1", ticker="AAA", text=f"{DEFAULT} {SUED} {others}", form="10-K", sections=(section,)
    )
    sentences = split(document).sentences
    filing = filings.Filing(
        name="D1", file="D1", document=document, sentences=sentences, distress="yes"
    )
    judge = Judge()
    found = filings.measure_scores(filing, judge)
    assert [question.sentence.text for question in judge.asked] == [one.text for one in sentences]
    assert {question.purpose for question in judge.asked} == {"label"}
    assert all(b"analyst" not in question.payload for question in judge.asked)
    assert (found.row["alerts"], found.row["to_review"]) == ("default", 1)


def test_no_measurement_touches_the_journal_of_the_user():
    """It would be answered from there, and leave its runs behind."""
    scripts = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "docs/images/make_images.py"]
    texts = {path.name: path.read_text(encoding="utf-8") for path in scripts}
    using = {
        name
        for name, text in texts.items()
        if re.search(r"\b(?:assess|open_run)\(|%%ask answer|%%risk --", text)
    }
    assert using > {"ask.py", "journal.py", "make_images.py", "pool.py", "quant.py", "wire.py"}
    assert [name for name in using if "URISK_JOURNAL" not in texts[name]] == []


@pytest.mark.slow  # it starts the fake server
def test_the_measurement_of_the_wire_leaves_no_run_behind(load, journal, monkeypatch, capsys):
    """Nor is it answered from an earlier one."""
    monkeypatch.setattr(sys, "argv", ["wire.py", "--tickers", "8", "--rounds", "1"])
    wire = load("wire")
    # Theirs never close their connections
    monkeypatch.setattr(sys.modules["anchors"], "PACKAGES", {})
    wire.main()
    assert re.search(r"^risk .* ratio ", capsys.readouterr().out, re.MULTILINE)
    assert not journal.exists()


def test_only_engines_that_there_are_can_be_asked_for(load, capsys):
    """An unknown one is a mistake of the command line."""
    with pytest.raises(SystemExit):
        load("judge").main(["--engine", "scripted"])
    assert "invalid choice: 'scripted'" in capsys.readouterr().err


@pytest.mark.slow
def test_each_call_is_asked_once_of_the_servers_of_a_fixed_time():
    """More calls than slots, so some wait; the script itself fails where one was lost."""
    command = [sys.executable, "benchmarks/pool.py", "--calls", "24", "--ms", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    ours, raw = (float(line.split()[-11]) for line in done.stdout.splitlines()[-2:])
    assert min(ours, raw) > 1  # of the ideal
