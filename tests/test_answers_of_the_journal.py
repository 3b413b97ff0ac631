"""
A run that is answered from the journal: what was asked once is not asked again, and what may have
another answer is. The answers are SCRIPTED.
"""

import asyncio
import json

import pandas as pd
import pytest

from plain_ollama import PlainOllama
from scripted_judge import NEWS, ScriptedJudge, by_word, label, news
from table_maker import DAYS
from urisk_nb import LLMManager, assess, assess_async, process_state
from urisk_nb.errors import JournalUnusable, ServerCrashLoop, UriskError
from urisk_nb.journal.store import Store
from urisk_nb.llm.labels import LabelMethod
from urisk_nb.llm.messages import Think
from urisk_nb.recording.answers import is_repeatable
from urisk_nb.risk.questions import Question
from urisk_nb.session import Run, label_sync, open_run

pytestmark = pytest.mark.usefixtures("journal")


def run_again(manager=None, evidence=NEWS, tickers="A B", **given):
    """What is asked by a run of the same news, and its table."""
    manager = manager or ScriptedJudge()
    table = assess(tickers, evidence=evidence, manager=manager, **given)
    return manager.asked, table


def note_of(table):
    return [line for line in table.report.meta["messages"].get("*", []) if "journal" in line]


def test_the_second_run_asks_nothing_and_says_so():
    """Labels, score and status are the same; each row and each sentence says that it was known."""
    asked, first = run_again()
    assert len(asked) == 4  # one sentence is in both, and is severe
    assert note_of(first) == []
    asked, second = run_again()
    assert asked == []
    assert note_of(second) == ["4 answers from the journal, none asked."]
    assert "4 answers from the journal, none asked." in repr(second)
    same = ["status", "score", "level", "r_legal", "r_business", "judged", "top_quote"]
    assert first[same].equals(second[same])
    assert first["cached"].tolist() == [0, 2]  # B shares one sentence and its second look
    assert second["cached"].tolist() == [3, 3]
    assert second["tokens"].tolist() == [0, 0]
    assert second.report.findings["cached"].all()


def test_with_one_new_sentence_only_that_is_asked():
    run_again()
    more = news(*NEWS.itertuples(index=False), ("B", "The plant burned down."))
    asked, table = run_again(evidence=more)
    assert asked == ["The plant burned down."]
    assert note_of(table) == ["4 answers from the journal, 1 asked."]


def test_an_interrupted_run_that_is_made_again_asks_for_the_rest():
    """In another process, as it were: nothing is shared but the file."""

    def break_down(text):
        if "Demand" in text:
            raise ServerCrashLoop("gone", fix="start it")
        return by_word(text)

    manager = ScriptedJudge(break_down)
    with pytest.raises(ServerCrashLoop) as caught:
        assess("A B", evidence=NEWS, manager=manager)
    assert caught.value.partial.report.meta["run_hash"]
    asked, table = run_again()
    assert asked == ["Demand fell in spring."]
    assert table["status"].tolist() == ["ok", "ok"]


def test_what_was_answered_before_a_cancel_is_kept():
    """An interrupt in the middle: the answers so far are on the disk when it is over."""
    manager = ScriptedJudge(service_s=0.05)

    async def interrupt():
        table = asyncio.create_task(assess_async("A B", evidence=NEWS, manager=manager))
        while len(manager.asked) < 2:
            await asyncio.sleep(0.005)
        table.cancel()
        await asyncio.wait({table})

    asyncio.run(interrupt())
    kept = len(manager.asked)
    assert 2 <= kept < 4
    asked, _ = run_again()
    assert len(asked) == 4 - kept


@pytest.mark.parametrize("how", ["assess", "assess_async", "open_run"])
def test_refresh_asks_again(how):
    """And its answers are those that are given from then on."""
    run_again()
    manager = ScriptedJudge(lambda text: label("credit", 1))
    if how == "assess":
        assess("A B", evidence=NEWS, manager=manager, refresh=True)
    elif how == "assess_async":
        asyncio.run(assess_async("A B", evidence=NEWS, manager=manager, refresh=True))
    else:
        label_sync(open_run("A B", evidence=NEWS, refresh=True), manager)
    assert len(manager.asked) == 3
    asked, table = run_again()
    assert asked == []
    assert table["r_credit"].tolist() == [1, 1]


CHANGES = {
    "another digest": {"digest": "d2"},
    "another way to ask": {"method": LabelMethod.CHOICES},
    "a decision model": {"method": LabelMethod.DECISION},
    "another setting of think": {"choices": (Think.UNSET,)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_model_or_way_is_another_question(change):
    run_again()
    asked, _ = run_again(ScriptedJudge(**CHANGES[change]))
    assert len(asked) >= 3
    again, _ = run_again(ScriptedJudge(**CHANGES[change]))
    assert again == []


def test_another_window_is_another_question():
    """A prompt that was cut in a small window may be whole in a larger one."""
    run_again()
    manager = ScriptedJudge()
    manager.num_ctx = 8192
    assert len(run_again(manager)[0]) == 4


@pytest.mark.parametrize("settings", [{"seed": 2}, {"num_predict": 60}, {"labels": "calibrated"}])
def test_another_parameter_of_the_question_is_another_question(settings):
    run_again()
    asked, _ = run_again(params=settings)
    assert {"It opened a shop.", "Demand fell in spring."} <= set(asked)


def test_the_query_is_part_of_what_a_decision_model_is_asked():
    """Its payload has the sentence alone; taxonomy and query are told beside it."""
    decides = {"method": LabelMethod.DECISION}
    run_again(ScriptedJudge(**decides))
    asked, _ = run_again(ScriptedJudge(**decides), query="the court and demand")
    assert len(asked) == 2
    assert run_again(ScriptedJudge(**decides), query="the court and demand")[0] == []


def test_the_name_of_a_model_does_not_count_where_its_digest_is_known():
    """`llama3.1` and a copy of it under another name are one model."""

    class Renamed(ScriptedJudge):
        model = judge = "copy:latest"

        async def find_judges(self, *models):
            return await super().find_judges("judge:7b")

    run_again()
    assert run_again(Renamed())[0] == []


def test_without_a_digest_nothing_is_given_from_another_session():
    """The name alone does not say which weights answer."""
    run_again(ScriptedJudge(digest="", session="s1"))
    assert run_again(ScriptedJudge(digest="", session="s1"))[0] == []
    assert len(run_again(ScriptedJudge(digest="", session="s2"))[0]) == 4
    assert len(run_again(ScriptedJudge(digest=""))[0]) == 4
    assert len(run_again(ScriptedJudge(digest=""))[0]) == 4


def test_a_setting_of_think_that_was_found_out_is_known_again():
    """
    A model that gives labels only when it may think: the answers are known in a new session, which
    has yet to find that out.
    """
    choices = (Think.OFF, Think.UNSET)

    class Found(ScriptedJudge):
        async def find_judges(self, *models):
            judges = await super().find_judges(*models)
            judges[0].setting.keep(Think.UNSET)
            return judges

    run_again(Found(choices=choices))
    asked, table = run_again(ScriptedJudge(choices=choices))
    assert asked == []
    assert table["judged"].tolist() == [2, 2]


def test_an_answer_that_is_cut_or_failed_is_asked_again():
    class Cut(ScriptedJudge):
        async def ask(self, question, model=None):
            answer = await super().ask(question, model)
            answer.done_reason = "length"
            return answer

    evidence = news(("A", "It opened a shop."))
    manager = Cut()
    with pytest.raises(Exception, match="no valid label"):
        run_again(manager, evidence=news(*[("A", f"Shop {n} opened.") for n in range(6)]))
    assert run_again(evidence=evidence)[0] == ["It opened a shop."]


def test_the_journal_is_off(monkeypatch, tmp_path, journal):
    monkeypatch.setenv("URISK_JOURNAL", "off")
    run_again()
    asked, table = run_again()
    assert len(asked) == 4
    assert table.report.meta["run_hash"] is None
    assert not journal.parent.exists()


def test_priors_are_known_in_another_process():
    """With calibrated labels, what the model says to nothing is asked once for a model."""
    settings = {"labels": "calibrated"}
    first, _ = run_again(params=settings)
    process_state.forget("priors")
    asked, table = run_again(params=settings)
    assert len(first) > 4
    assert asked == []
    assert table["judged"].tolist() == [2, 2]


@pytest.mark.parametrize("change", [{"digest": "d2"}, {"refresh": True}])
def test_priors_of_this_process_are_those_of_the_same_model(change):
    """A model that was made again under its name has priors of its own; --refresh asks for them."""
    given = {"params": {"labels": "calibrated"}}
    refresh = change.pop("refresh", False)
    first, _ = run_again(**given)
    asked, _ = run_again(ScriptedJudge(**change), **given, refresh=refresh)
    assert sorted(asked) == sorted(first)


def test_several_judges_are_known_each_by_its_own_digest():
    judges = {"judge": ("one", "two")}
    assert len(run_again(params=judges)[0]) == 8
    asked, table = run_again(params=judges)
    assert asked == []
    assert note_of(table) == ["8 answers from the journal, none asked."]
    assert len(run_again(params={"judge": ("two", "three")})[0]) == 4


def test_the_progress_says_what_was_known():
    run_again()
    run = open_run("A B", evidence=NEWS)
    label_sync(run, ScriptedJudge())
    assert run.progress.known == 4
    assert "0 of 0 questions, 4 answers from the journal" in str(run.progress)


def test_an_evaluation_is_not_answered_from_the_journal():
    """It measures seconds, and what a model says now: a run without inputs has no journal."""
    run = open_run("A B", evidence=NEWS)
    for _ in range(2):
        manager = ScriptedJudge()
        bare = Run(plan=run.plan, run_id="evaluate", created_at=run.created_at)
        label_sync(bare, manager)
        assert len(manager.asked) == 4


def test_two_runs_at_once_share_what_each_has_asked(journal):
    """Threads of one process: both end well, and a third one asks nothing."""

    async def both():
        managers = [ScriptedJudge(service_s=0.01) for _ in range(2)]
        await asyncio.gather(
            *(assess_async("A B", evidence=NEWS, manager=manager) for manager in managers)
        )

    asyncio.run(both())
    assert run_again()[0] == []


# What may be kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "is_kept"),
    [
        ({"temperature": 0, "seed": 1}, True),
        ({"temperature": 0}, True),
        ({"temperature": 0.7, "seed": 1}, True),
        ({"temperature": 0.7}, False),
        ({}, False),
    ],
)
def test_a_sampled_answer_is_kept_with_a_fixed_seed_only(options, is_kept):
    run = open_run("A", evidence=NEWS)
    payload = {"messages": [{"role": "user", "content": '"options":{}}'}], "options": options}
    for more in ({}, {"top_logprobs": 20}):
        raw = json.dumps({**payload, **more}, sort_keys=True, separators=(",", ":")).encode()
        question = Question(
            key="",
            payload=raw,
            ticker="A",
            sentence=run.plan.selections["A"].chosen[0],
            purpose="label",
        )
        assert is_repeatable(question) is is_kept


# Faults -------------------------------------------------------------------------------------------


def break_disk(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"this is no journal" * 500)


def test_a_damaged_journal_never_ends_a_run(journal):
    """The table is there, whole, with a note that says why it is in no journal, and what to do."""
    break_disk(journal)
    asked, table = run_again()
    assert len(asked) == 4
    assert table["status"].tolist() == ["ok", "ok"]
    unread, note = note_of(table)
    assert unread.startswith(f"Corrections of labels do not count: {journal}: ")
    assert note.startswith(f"This run is not in the journal: {journal}: ")
    assert f"rename {journal}" in note
    assert table.report.meta["run_hash"] is None


def test_a_disk_that_fails_in_the_middle_never_ends_a_run(monkeypatch):
    real, count = Store.add, 0

    def add(self, batch):
        nonlocal count
        count += 1
        if batch.answers:
            raise JournalUnusable("the disk is full.", fix="free some space")
        real(self, batch)

    monkeypatch.setattr(Store, "add", add)
    asked, table = run_again()
    assert len(asked) == 4
    assert table["status"].tolist() == ["ok", "ok"]
    (note,) = note_of(table)
    assert "the disk is full" in note
    assert "free some space" in note


@pytest.mark.parametrize("evidence", [NEWS, None])
def test_inputs_that_have_no_spelling_never_end_a_run(monkeypatch, evidence):
    """A type that nobody thought of: the table is there, with a note."""

    def fail(inputs):
        raise TypeError("Object of type Strange is not JSON serializable")

    monkeypatch.setattr("urisk_nb.recording.recorder.encode_inputs", fail)
    closes = pd.DataFrame({"A": range(100, 220)}, index=DAYS, dtype=float)
    table = assess("A", prices=closes, evidence=evidence, manager=ScriptedJudge())
    assert table.loc["A", "status"] == "ok"
    (note,) = note_of(table)
    assert "its inputs cannot be written down (TypeError" in note
    assert table.report.meta["run_hash"] is None


def test_prices_alone_are_shown_without_a_journal_that_works(journal):
    break_disk(journal)
    closes = pd.DataFrame({"A": range(100, 220)}, index=DAYS, dtype=float)
    table = assess("A", prices=closes)
    assert table.loc["A", "status"] == "ok"
    assert len(note_of(table)) == 1


# Privacy ------------------------------------------------------------------------------------------


def test_no_secret_reaches_the_file(journal, monkeypatch):
    """A run over a real connection with a key, headers and a login; the file is searched."""
    key, header, password = "key-5f2b9c", "header-88aa1d", "password-c3d4e5"
    with PlainOllama() as server:
        monkeypatch.setenv("OLLAMA_API_KEY", key)
        monkeypatch.setenv("OLLAMA_HEADERS", f"X-Team: {header}")
        monkeypatch.setenv("OLLAMA_URL", server.url.replace("//", f"//user:{password}@"))
        try:
            assess("A", evidence=news(("A", "It opened a shop.")))
        except UriskError as exc:
            print(exc)  # this server need not give a label
        finally:
            if (manager := LLMManager.find_instance()) is not None:
                manager.shutdown_sync()
    files = [path.read_bytes() for path in journal.parent.iterdir()]
    assert any(b"opened a shop" in content for content in files)
    for secret in (key, header, password):
        assert not any(secret.encode() in content for content in files)
