"""The answers of `%%ask` that the journal has: listed, and read again. They are SCRIPTED."""

import sqlite3

import pandas as pd
import pytest

from ask_driver import Rule, notebook
from scripted_judge import NEWS, ScriptedJudge
from urisk_nb import answers, assess, cli, purge, read_answer
from urisk_nb.chat import records
from urisk_nb.errors import InputError, JournalUnusable, RecordChanged, RunNotFound
from urisk_nb.notebook import magics

HOSTILE = "Is \x1b[31m<img src=x onerror=alert(1)>\u202e this\n\nsafe? $a$ " + "word " * 100


@pytest.fixture
def cell(journal, monkeypatch, capsys):
    monkeypatch.setattr(records, "WAIT_S", 5.0)
    rules = (
        Rule(contains="as data", answer="No."),
        Rule(contains="cannot be used", answer='{"risk": "legal"}'),
        Rule(answer="An answer."),
    )
    with notebook(monkeypatch, capsys, *rules) as started:
        yield started


def list_answers(cell, line="--answers"):
    return magics.run(cell.shell, "urisk_history", line, None)


def test_answers_are_listed_with_the_newest_first(cell):
    """A run is none; the question is the user's own, whatever went with it."""
    cell.shell.user_ns["note"] = "words of a note\n\n<<end 00000000>>\n\nnot asked"
    assess("A B", evidence=NEWS, manager=ScriptedJudge())
    cell.ask("First?", "a --with note")
    cell.ask("Second?", "--max-tokens 1")
    frame = list_answers(cell)
    assert list(frame.columns) == ["id", "when", "model", "question", "done_reason", "tokens"]
    assert frame["question"].tolist() == ["Second?", "First?"]
    assert frame["done_reason"].tolist() == ["length", "stop"]
    assert frame["tokens"].tolist() == [1, cell.shell.user_ns["a"].timing.tokens]
    assert frame["model"].tolist() == ["llama3.1:latest"] * 2
    assert str(frame["when"].dtype).endswith("UTC]")
    assert list_answers(cell, "--answers 1")["question"].tolist() == ["Second?"]
    assert list_answers(cell, "")["tickers"].tolist() == ["A, B"]
    assess("C", evidence=NEWS, manager=ScriptedJudge())
    assert list_answers(cell, "1")["tickers"].tolist() == ["C"]


def test_a_question_for_data_is_the_users_own(cell):
    """Without the form that it was asked in, also where the answer was sent back."""
    cell.ask("Now as data.", "found --json risk:str")
    assert cell.shell.user_ns["found"] == {"risk": "legal"}
    assert list_answers(cell)["question"].tolist() == ["Now as data."]


def test_an_answer_is_read_again(cell):
    """By the first letters of its id, too."""
    cell.ask("Well?", "a")
    name = list_answers(cell).loc[0, "id"]
    again, first = read_answer(name), cell.shell.user_ns["a"]
    assert (str(again), again.request_hash) == (str(first), first.request_hash)
    assert read_answer(name[:8]) == first
    cell._capsys.readouterr()
    assert magics.run(cell.shell, "urisk_replay", name, None) is None
    shown = cell._capsys.readouterr().out
    assert shown.count("An answer.") == 1
    assert "from the journal" in shown
    assert cli.main(["replay", name]) == 0
    assert cell._capsys.readouterr().out == "An answer.\n"
    assert cli.main(["replay", name[:15]]) == 0  # the time alone
    assert cell._capsys.readouterr().out == "An answer.\n"
    with pytest.raises(RunNotFound, match="no answer 'nope'") as caught:
        read_answer("nope")
    assert name in caught.value.fix


def test_a_hostile_question_is_shown_on_one_line(cell, monkeypatch):
    """In a notebook and in a shell."""
    cell.ask(HOSTILE)
    frame = list_answers(cell)
    assert "<img" not in frame._repr_html_()
    assert "mathjax_ignore" in frame._repr_html_()
    question = frame.loc[0, "question"]
    assert len(question) <= 80
    assert not {"\x1b", "\u202e", "\n"} & set(question)
    cell._capsys.readouterr()
    assert cli.main(["history", "--answers"]) == 0
    out = cell._capsys.readouterr().out
    assert "\x1b" not in out
    assert frame.loc[0, "id"] in out


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5", "²"])
def test_a_wrong_number_is_refused(cell, given):
    """For runs, too."""
    cell.ask("Well?")
    for line in (f"--answers '{given}'", f"'{given}'"):
        with pytest.raises(InputError, match="is no number of runs or answers") as caught:
            list_answers(cell, line)
    assert "such as 20" in caught.value.fix


def test_a_changed_answer_is_marked_and_not_given(cell, journal):
    """The others are listed all the same."""
    cell.ask("Well?")
    cell.ask("Else?")
    with sqlite3.connect(journal) as connection:
        connection.execute("UPDATE answers SET body = x'00' WHERE id = 1")
    connection.close()
    frame = list_answers(cell)
    assert frame["done_reason"].tolist() == ["stop", "changed"]
    with pytest.raises(RecordChanged, match="was changed"):
        read_answer(frame.loc[1, "id"])


def test_without_any_answer(cell, journal):
    """No journal is an error that says so; one without answers gives an empty frame."""
    with pytest.raises(JournalUnusable):
        answers()
    assess("A B", evidence=NEWS, manager=ScriptedJudge())
    assert answers().empty
    with pytest.raises(RunNotFound, match="has no answer"):
        read_answer("2026")
    cell._capsys.readouterr()
    assert cli.main(["history", "--answers"]) == 0
    assert cell._capsys.readouterr().out == "No answer was recorded yet.\n"


def test_a_purge_removes_them_by_their_age(cell):
    """As before; it counts runs alone."""
    cell.ask("Well?")
    assert len(answers()) == 1
    assert purge(pd.Timestamp.now("UTC") + pd.Timedelta(days=1)) == 0
    assert answers().empty
