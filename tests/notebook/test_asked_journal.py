"""
Answers of `%%ask` in the journal: one record each, given again where that is asked, removed by age.
The answers are SCRIPTED.
"""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ask_driver import Rule, notebook
from scripted_judge import NEWS, ScriptedJudge
from urisk_nb import assess, history, past_runs, process_state, purge, verify
from urisk_nb.chat import records
from urisk_nb.chat.records import find_known_answer
from urisk_nb.errors import JournalUnusable
from urisk_nb.journal.canonical import decode_json
from urisk_nb.journal.store import Store
from urisk_nb.llm.answers import AnswerStream
from urisk_nb.llm.manager import LLMManager
from urisk_nb.recording.asked import ASKED, AskedModel

TODAY = datetime.now(UTC)


@pytest.fixture(autouse=True)
def patience(journal, monkeypatch):
    """The tests look into their journal after each answer, so each answer waits for its record."""
    monkeypatch.setattr(records, "WAIT_S", 5.0)


@pytest.fixture
def cell(monkeypatch, capsys):
    rules = (
        Rule(contains="long", answer="word " * 400, token_ms=5),
        Rule(answer=["An answer ", "with {secret}."], times=1),
        Rule(answer="Another answer."),
    )
    with notebook(monkeypatch, capsys, *rules) as started:
        yield started


def read_asked(path):
    """Each record with its chat and its answer."""
    with Store(path) as store:
        records = [decode_json(one[ASKED].body) for one in store.get_named(ASKED).values()]
        for one in records:
            found = store.get_objects([bytes.fromhex(one["messages"])])
            one["chat"] = decode_json(next(iter(found.values())).body)
            answers = store.get_answers([bytes.fromhex(one["answer"])])
            one["reply"] = decode_json(next(iter(answers.values())).body)
    return records


def test_an_answer_is_recorded_with_all_that_made_it(cell, journal):
    """Request, model with its digest, options, the chat, the answer, why it ended, its times."""
    cell.shell.user_ns["note"] = "the words of a note"
    cell.ask("Well?", "a --with note --seed 7")
    (one,) = read_asked(journal)
    answer = cell.shell.user_ns["a"]
    assert one["request"] == one["reply"]["request"] == answer.request_hash
    assert (one["model"], one["options"]) == (answer.model, {"seed": 7, "num_predict": 1024})
    assert len(one["digest"]) == 64
    assert "the words of a note" in one["chat"]["messages"][1]["content"]
    assert one["reply"]["text"] == str(answer)
    assert one["reply"]["done_reason"] == "stop"
    assert one["reply"]["timing"]["tokens"] == answer.timing.tokens
    assert one["reply"]["timing"]["total_s"] == answer.timing.total_s


def test_no_key_is_recorded(cell, journal, monkeypatch):
    """Neither as text nor in another form."""
    monkeypatch.setenv("OLLAMA_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OLLAMA_HEADERS", "X-Team: quants-secret")
    cell.ask("Well?")
    assert LLMManager.get_instance().settings.request_headers
    assert "secret" not in json.dumps(read_asked(journal)).replace("{secret}", "")


def test_the_same_is_answered_from_the_journal_only_where_it_is_asked(cell):
    """`--cached` says when it was answered; without it, the question is asked anew."""
    cell.ask("Well?", "a --no-history")
    shown = cell.ask("Well?", "b --no-history --cached")
    first, again = cell.shell.user_ns["a"], cell.shell.user_ns["b"]
    assert len(cell.backend.calls) == 1
    assert str(again) == str(first) == "An answer with {secret}."
    assert (again.request_hash, again.timing.tokens) == (first.request_hash, first.timing.tokens)
    assert f"from the journal, answered {TODAY:%Y-%m-}" in shown
    shown = cell.ask("Well?", "c --no-history")
    assert "journal" not in shown
    assert cell.shell.user_ns["c"] == "Another answer."
    shown = cell.ask("Else?", "--no-history --cached")
    assert "not in the journal: asked anew" in shown
    assert len(cell.backend.calls) == 3


def test_another_context_is_another_question(cell):
    """After a turn, with a value, with another seed: asked anew. An answer known is a turn, too."""
    cell.ask("Well?")
    cell.ask("Well?", "--cached")
    cell.chat("reset")
    cell.ask("Well?", "--cached --seed 1")
    assert len(cell.backend.calls) == 3
    cell.chat("reset")
    cell.ask("Well?", "--cached")
    assert len(cell.backend.calls) == 3
    assert "Well?" in cell.chat()


def test_a_notebook_that_runs_again_asks_nothing(cell):
    """Values are cut to the same bytes: what was learned of the tokens is learned again."""
    cell.shell.user_ns["note"] = "some words of a note " * 3000
    for line in ("", "--cached"):
        process_state.forget("conversation")
        for question in ("One?", "Two?", "Three?"):
            shown = cell.ask(question, f"--with note {line}")
            assert "characters" in shown
    assert len(cell.backend.calls) == 3


@pytest.mark.slow
def test_a_cut_or_stopped_answer_is_not_given_again(cell, journal, monkeypatch):
    """But it is recorded."""
    cell.ask("Well?", "--no-history --max-tokens 1")
    cell.ask("Well?", "--no-history --max-tokens 1 --cached")
    whole = AnswerStream.iterate

    def stop(self, tick=None):
        for piece in whole(self, tick):
            yield piece
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AnswerStream, "iterate", stop)
        with pytest.raises(KeyboardInterrupt):
            cell.ask("long?", "--no-history")
    cell.ask("long?", "--no-history --cached --max-tokens 1024")
    assert len(cell.backend.calls) == 4
    reasons = [one["reply"]["done_reason"] for one in read_asked(journal)]
    assert reasons == ["length", "length", "interrupted", "stop"]


def test_the_digest_and_the_window_name_the_model_that_answers(cell, journal):
    """The same request to a model that was installed again, or with another window, is another."""
    cell.ask("Well?", "a")
    (one,) = read_asked(journal)
    model = AskedModel(name=one["model"], digest=one["digest"], session="", num_ctx=one["num_ctx"])

    def find(**changed):
        return find_known_answer(replace(model, **changed), one["request"])[0]

    assert find() == cell.shell.user_ns["a"]
    assert find(name="its other name") is not None
    assert find(digest="f" * 64) is None
    assert find(num_ctx=8192) is None
    assert find(digest="", session="this one") is None
    assert find(digest="") is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(parents=True), " UTC is not in the journal: "),
        (
            lambda path: (path.parent.mkdir(), path.write_bytes(b"no database" * 500)),
            " UTC is not in the journal: ",
        ),
    ],
)
def test_a_fault_of_the_journal_never_fails_the_answer(cell, journal, make, said):
    """One note, and the answer."""
    make(journal)
    shown = cell.ask("Well?", "a --cached")
    assert cell.shell.user_ns["a"] == "An answer with {secret}."
    assert shown.count(said) == 1
    assert "To do: " in shown
    assert "the journal cannot be read" in shown


def test_the_prompt_does_not_wait_for_a_slow_disk(cell, journal, monkeypatch):
    """What goes wrong then is said under the next answer, and `--cached` waits for the record."""
    may_write, write = threading.Event(), Store.add

    def add(store, batch):
        assert may_write.wait(20)
        write(store, batch)

    monkeypatch.setattr(records, "WAIT_S", 0.0)
    monkeypatch.setattr(Store, "add", add)
    cell.ask("Well?", "a --no-history")
    assert cell.shell.user_ns["a"] == "An answer with {secret}."
    threading.Timer(0.2, may_write.set).start()
    assert "from the journal" in cell.ask("Well?", "--no-history --cached")

    def fail(store, batch):
        raise JournalUnusable("the disk is full.", fix="make room")

    monkeypatch.setattr(Store, "add", fail)
    assert "disk" not in cell.ask("Well?", "--no-history --seed 1")
    records.get_recording().flush()
    monkeypatch.setattr(Store, "add", write)
    shown = cell.ask("Well?", "--no-history --seed 2")
    assert shown.count("is not in the journal: the disk is full.") == 1


def test_off_records_nothing(cell, journal, monkeypatch):
    """And `--cached` says so."""
    monkeypatch.setenv("URISK_JOURNAL", "off")
    assert "the journal is off: asked anew" in cell.ask("Well?", "--cached")
    assert not journal.exists()


def test_questions_are_no_runs_and_are_removed_by_their_age(cell, journal):
    """History lists runs, a run is verified as before, and a purge of old records takes both."""
    table = assess("A B", evidence=NEWS, manager=ScriptedJudge())
    cell.ask("Well?")
    run = table.report.meta["run_id"]
    assert history()["run"].tolist() == [run]
    assert "1 run, " in past_runs.describe_journal()[0]
    assert verify(run[:4]) == table.report.meta["run_hash"]
    assert purge(TODAY - timedelta(days=1)) == 0
    assert len(read_asked(journal)) == 1  # and all that it names is there
    assert purge(TODAY + timedelta(days=1)) == 1
    assert read_asked(journal) == []
    with Store(journal) as store:
        assert store.count_answers() == 0
        assert store._select("SELECT COUNT(*) FROM objects") == [(0,)]
