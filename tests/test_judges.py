"""
A run with several judges: all ready before the first sentence, each asked of all of them, what was
labeled kept, and who they are recorded. Servers are small ones of our own.
"""

import asyncio
import contextlib
import json
import signal

import pandas as pd
import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from scripted_judge import Panel, always, label, news
from urisk_nb import errors, process_state
from urisk_nb.llm.manager import LLMManager
from urisk_nb.risk.calibration import CONTENT_FREE
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.taxonomy import DEFAULT, Category, Taxonomy
from urisk_nb.session import assess, label_sync, open_run

FINED, OPENED = "It was fined by the court.", "It opened a shop."


pytestmark = pytest.mark.usefixtures("no_pauses")


def judged_by(judge, answers, *rows, **rest):
    manager = Panel(answers, **rest)
    evidence = news(*(rows or [("A", FINED), ("A", OPENED)]))
    tickers = list(dict.fromkeys(evidence["ticker"]))
    run = open_run(tickers, evidence=evidence, params={"judge": judge})
    return manager, run


def test_each_sentence_is_asked_of_each_judge_one_judge_after_the_other():
    """
    All are ready before the first sentence, and a server with room for one model loads each once.
    """
    manager, run = judged_by(
        "one,two:7b,decides", {one: always("legal") for one in ("one", "two:7b", "decides")}
    )
    label_sync(run, manager)
    assert manager.steps[0] == ("ready", "two:7b", "decides")
    assert [judge for judge, _ in manager.steps[1:]] == [
        *("one", "one", "two:7b", "two:7b", "decides", "decides")
    ]
    assert all({FINED, OPENED} == {text for _, text in manager.steps[n : n + 2]} for n in (1, 3, 5))
    lengths = [len(payload["messages"]) for payload in manager.payloads]
    assert min(lengths[:4]) > 20, "chat models with rules and examples"
    assert lengths[4:] == [1, 1], "a decision model with the sentence alone"
    table = run.table()
    assert table.loc["A", ["agreement", "r_legal", "model"]].tolist() == [1.0, 2, "one"]
    assert len(table.judgements()) == 6


def test_each_judge_has_its_own_prior():
    """What one says to sentences without content says nothing of another."""
    process_state.forget("priors")
    manager = Panel({one: always("legal") for one in ("one", "two")}, logprobs=True)
    params = {"judge": "one,two", "labels": "calibrated"}
    run = open_run(["A"], evidence=news(("A", FINED)), params=params)
    label_sync(run, manager)
    asked = [(judge, text) for judge, text in manager.steps[1:] if text in CONTENT_FREE]
    assert {(judge, text) for judge in ("one", "two") for text in CONTENT_FREE} == set(asked)
    assert len(asked) == 2 * len([one for one in asked if one[0] == "one"])
    process_state.forget("priors")


def test_the_labels_of_the_first_count_and_disagreement_is_flagged():
    """Each finding has its share, the row the mean; the table says who was compared, and how."""
    by_word = {FINED: ("legal", 3), OPENED: ("none", 0)}
    manager, run = judged_by(
        "one,two",
        {"one": lambda text: label(*by_word[text]), "two": always("legal", 3)},
    )
    label_sync(run, manager)
    table = run.table()
    findings = table.report.findings.set_index("quote")
    assert findings["agreement"].to_dict() == {FINED: 1.0, OPENED: 0.0}
    flags = findings["flags"].str.split(";")
    assert ["judges_disagree" in flags[text] for text in (FINED, OPENED)] == [False, True]
    assert table.loc["A", "agreement"] == 0.5
    assert table.loc["A", "r_legal"] == 3
    text = table.as_text()
    assert "labeled by one, compared with two (ollama, 0.12.3)" in text
    assert "one and two: the same risk in 1 of 2 sentences (kappa 0.00)" in text
    assert "Judges disagree on a sentence" in text


def test_the_record_names_each_judge():
    """Model, digest, how it is asked and in which form; kappa and n of each pair; all JSON."""
    manager, run = judged_by("one,decides", {"one": always("legal"), "decides": always("market")})
    label_sync(run, manager)
    meta = run.table().report.meta
    assert meta["judges"] == [
        {"model": "one", "digest": "d1", "method": "schema", "form": "examples"},
        {"model": "decides", "digest": "d1", "method": "decision", "form": "decision"},
    ]
    # Each gives both sentences its own label: no more than chance
    assert meta["kappa"] == [{"judges": ["one", "decides"], "n": 2, "same": 0, "kappa": 0.0}]
    assert meta["params"]["judge"] == ["one", "decides"]
    assert RiskParams.of(**json.loads(json.dumps(meta))["params"]) == run.plan.params


def test_the_progress_counts_the_questions_of_all_judges():
    """From the start; a row is done when the last judge has come to it."""
    seen = []

    def answer(text):
        seen.append(run.progress)
        return label("legal", 2)

    rows = [(ticker, f"{ticker} was fined.") for ticker in "ABC"]
    manager, run = judged_by("one,two", dict.fromkeys(("one", "two"), answer), *rows)
    label_sync(run, manager)
    assert [(one.questions, one.rows_total) for one in seen] == [(6, 3)] * 6
    assert [one.asked for one in seen] == list(range(6))
    assert [one.rows for one in seen] == [0, 0, 0, 0, 1, 2]
    assert (run.progress.rows, run.progress.asked) == (3, 6)


def test_calls_in_flight_stay_within_the_limit():
    """As many as the manager allows, of whichever judge."""
    rows = [(ticker, f"{ticker} was fined {n} times.") for ticker in "ABCD" for n in range(3)]
    answers = dict.fromkeys(("one", "two"), lambda text: label("legal", 2))
    manager, run = judged_by("one,two", answers, *rows, parallel=3, service_s=0.002)
    label_sync(run, manager)
    assert manager.peak == 3
    assert len(manager.asked) == 24


def test_a_sentence_that_a_judge_cannot_answer_is_no_opinion_of_it():
    """The others go on; what it said is in the judgements, with the reason."""

    def fails(text):
        if text == FINED:
            raise errors.ContextExceeded("too long", fix="shorten it")
        return label("legal", 2)

    manager, run = judged_by("one,two", {"one": always("legal"), "two": fails})
    label_sync(run, manager)
    table = run.table()
    findings = table.report.findings.set_index("quote")
    assert findings["agreement"].fillna(-1).to_dict() == {FINED: -1, OPENED: 1}
    assert findings["flags"].to_dict() == {FINED: "no_opinion", OPENED: ""}
    assert findings["status"].tolist() == ["judged", "judged"]
    (failed,) = table.judgements().dropna(subset="reason").to_dict("records")
    assert (failed["evidence"], failed["judge"]) == (findings.loc[FINED, "evidence"], "two")
    assert failed["reason"] == "too long"
    assert table.loc["A", ["agreement", "status"]].tolist() == [1.0, "ok"]
    assert "no_opinion" in table.loc["A", "flags"].split(";")


def test_a_judge_that_is_lost_ends_the_run_and_is_named():
    """What the first one labeled is all there; called again, only the rest is asked."""
    broken = True

    def lost(text):
        if broken and text == OPENED:
            raise errors.ServerCrashLoop("the server ended 3 times in a row", fix="wait")
        return label("legal", 2)

    rows = [("A", FINED), ("B", OPENED)]
    manager, run = judged_by("one,two", {"one": always("legal"), "two": lost}, *rows)
    with pytest.raises(errors.ServerCrashLoop, match=r"^judge two: the server ended") as caught:
        label_sync(run, manager)
    partial = caught.value.partial
    assert partial["status"].tolist() == ["ok", "ok"]
    assert partial["agreement"].fillna(-1).tolist() == [1, -1]
    assert (run.is_done("A"), run.is_done("B")) == (True, False)
    broken, asked = False, len(manager.steps)
    label_sync(run, manager)
    assert manager.steps[asked:] == [("ready", "two"), ("two", OPENED)]
    assert run.table()["agreement"].tolist() == [1, 1]


def test_a_sentence_that_a_further_judge_fails_is_named_with_the_judge():
    """The first one's label counts; the message, the record and the opinions have the reason."""

    def odd(text):
        if text == OPENED:
            raise errors.ServerInternalError("something odd.", fix="look at the log")
        return label("legal", 2)

    manager, run = judged_by("one,two", {"one": always("legal"), "two": odd})
    label_sync(run, manager)
    table = run.table()
    assert manager.steps.count(("two", OPENED)) == 2
    assert manager.steps.count(("one", OPENED)) == 1
    assert table.loc["A", "status"] == "ok"
    assert "no_opinion" in table.loc["A", "flags"]
    line = f'two: "{OPENED}" has no label: something odd.'
    assert line in table.report.meta["messages"]["A"]
    assert line in table.as_text(200)
    assert [one["judge"] for one in table.report.meta["unjudged"]] == ["two"]
    found = table.judgements()
    assert found[found["risk"].isna()][["judge", "reason"]].to_numpy().tolist() == [
        ["two", "something odd."]
    ]


def test_five_in_a_row_by_a_further_judge_end_the_run():
    """It is named in the error, and the first judge's labels are all there."""

    def odd(text):
        raise errors.ServerInternalError("something odd.", fix="look at the log")

    rows = [(f"T{number}", f"{FINED} {number}") for number in range(8)]
    manager, run = judged_by("one,two", {"one": always("legal"), "two": odd}, *rows)
    with pytest.raises(errors.ServerInternalError, match=r"^judge two: 5 sentences in a row"):
        label_sync(run, manager)
    assert run.table()["status"].tolist() == ["ok"] * 8
    assert sum(step[0] == "two" for step in manager.steps) == 10


class InterruptedPanel(Panel):
    """The second model never answers, since the user interrupts it."""

    async def ask(self, question, model=None):
        if model == "two":
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(30)
        return await super().ask(question, model)


def test_an_interrupt_keeps_what_was_labeled():
    """In the middle of the second judge: the table has the first one's labels."""
    run = open_run("A", evidence=news(("A", FINED), ("A", OPENED)), params={"judge": "one,two"})
    manager = InterruptedPanel({"one": always("legal"), "two": None})
    with pytest.raises(KeyboardInterrupt) as caught:
        label_sync(run, manager)
    table = caught.value.partial
    assert table.loc["A", ["status", "r_legal"]].tolist() == ["ok", 2]
    assert table["agreement"].isna().all()
    assert table.judgements()["judge"].tolist() == ["one", "one"]


# Names --------------------------------------------------------------------------------------------


def refused(judge, **rest):
    with pytest.raises(errors.InputError) as caught:
        open_run("A", evidence=news(("A", FINED)), params={"judge": judge}, **rest)
    return caught.value


@pytest.mark.parametrize(
    ("judge", "said", "fix"),
    [
        ("a,b,a", "judge='a,b,a' names 'a' twice", "name each judge once"),
        (
            ["llama3.1", "Llama3.1:latest"],
            "names one model twice: 'llama3.1' and 'Llama3.1:latest'",
            "each judge once",
        ),
        ("a,b,c,d,e,f", "judge='a,b,c,d,e,f' names 6 models", "name 1 to 5: judge='a,b,c,d,e'"),
        ([], "judge='' names no models", "judge='urisk-judge'"),
        ("a,,b", "judge is empty text", "leave judge out"),
        (3, "judge is an int, not the name of a model", 'judge="urisk-judge,llama3.1"'),
        (["a", 3], "judge is an int, not text", 'judge="..."'),
    ],
)
def test_names_that_cannot_be_meant_are_refused_before_any_server(judge, said, fix):
    """With what was seen and what to do."""
    error = refused(judge)
    assert said in error.message
    assert fix in error.fix


def test_urisk_judge_is_refused_for_other_categories_also_as_the_second():
    """It was trained on ours."""
    weather = Category(id="weather", name="Weather", definition="storms and droughts")
    own = Taxonomy(categories=(*DEFAULT.categories, weather), version="mine")
    assert "was trained on the categories" in refused("llama3.1,urisk-judge", taxonomy=own).message


@pytest.mark.parametrize("given", [{"judge": "one"}, {"model": "one"}, {"judge": ["one"]}])
def test_model_is_another_name_of_judge(given):
    """Both say who labels; given both, they must say the same."""
    assert RiskParams.of(**given).judge == ("one",)
    assert RiskParams.of(model="one", judge="one").judge == ("one",)
    assert RiskParams.of(model="one, two").judge == ("one", "two")
    with pytest.raises(errors.InputError, match="both say who labels"):
        RiskParams.of(
            judge="two", **{"model": "one", **given} if "model" in given else {"model": "one"}
        )


def test_no_judge_is_the_sessions_own():
    """Nothing is named, nothing is recorded as named."""
    assert RiskParams().judge is None
    assert RiskParams().as_dict()["judge"] is None


# Over the wire ------------------------------------------------------------------------------------


@contextlib.contextmanager
def ollama(*rules, **scenario):
    models = scenario.pop("models", ("llama3.1", {"name": "clef", "capabilities": ("decision",)}))
    with running(ScriptedBackend(Scenario(models=models, rules=rules, **scenario))) as server:
        yield server
        if (manager := process_state.get("manager")) is not None:
            manager.shutdown_sync()


DECIDED = Rule(endpoint="systemone", answer={"risk": {"legal": 0.9}, "severity": {"3": 0.8}})
WRITTEN = Rule(contains=FINED, endpoint="chat", answer={"risk": "legal", "severity": 2})
EVIDENCE = pd.DataFrame({"ticker": ["A"], "text": [FINED]})


def test_a_decision_model_beside_a_chat_model():
    """Each asked in its way over one Ollama; the record has the server's digests."""
    with ollama(DECIDED, WRITTEN) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1")
        table = assess("A", evidence=EVIDENCE, manager=manager, params={"judge": "llama3.1,clef"})
        digests = {one.name: one.digest for one in asyncio.run(manager.models())}
    assert table.loc["A", ["agreement", "r_legal"]].tolist() == [1.0, 2]
    assert table.judgements()["p_label"].fillna(-1).tolist() == pytest.approx([-1, 0.9])
    assert table.report.meta["judges"] == [
        {
            "model": "llama3.1",
            "digest": digests["llama3.1:latest"],
            "method": "schema",
            "form": "examples",
            "think": "off",
        },
        {
            "model": "clef",
            "digest": digests["clef:latest"],
            "method": "decision",
            "form": "decision",
        },
    ]


def test_a_missing_model_is_an_error_before_anything_is_asked():
    """Neither on the server nor to pull; no sentence was asked of the other judge."""
    with ollama(DECIDED, WRITTEN) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1")
        with pytest.raises(errors.PullFailed, match="no-such-model") as caught:
            assess(
                "A",
                evidence=EVIDENCE,
                manager=manager,
                params={"judge": "llama3.1,clef,no-such-model"},
            )
        assert manager.calls.records == ()
    assert caught.value.fix == "use a model that is there, such as llama3.1:latest"


def test_a_judge_that_the_server_cannot_have_stops_the_pull_of_another():
    """urisk-judge is never pulled: nothing is downloaded before that is said."""
    models = ("llama3.1", {"name": "clef", "capabilities": ("decision",), "installed": False})
    with ollama(DECIDED, WRITTEN, models=models) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1")
        with pytest.raises(errors.ModelNotFound, match="urisk-judge") as caught:
            assess("A", evidence=EVIDENCE, manager=manager, params={"judge": "clef,urisk-judge"})
        assert "/api/pull" not in server.counters["paths"]
    assert "urisk install-judge" in caught.value.fix


def test_one_judges_circuit_is_its_own():
    """A decision model that fails time after time is named, and the chat model's labels stay."""
    broken = Rule(contains=FINED, endpoint="systemone", status=500, error="boom")
    with ollama(broken, DECIDED, WRITTEN) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1", max_retries=0)
        with pytest.raises(errors.ServerInternalError, match=r"^judge clef: ") as caught:
            assess("A", evidence=EVIDENCE, manager=manager, params={"judge": "llama3.1,clef"})
        assert caught.value.partial.loc["A", ["status", "r_legal"]].tolist() == ["ok", 2]
        again = assess("A", evidence=EVIDENCE, manager=manager, params={"judge": "llama3.1"})
        assert again.loc["A", "status"] == "ok"
