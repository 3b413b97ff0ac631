"""
A run driven against a list of replies: each question once, in order, so many at a time, and nothing
lost when it stops.
"""

import asyncio
import html
import signal
import subprocess
import sys
import textwrap
import time
from collections import deque
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scripted_judge import Listed, label, news
from urisk_nb import event_loop, process_state, session
from urisk_nb.errors import (
    AnswerIncomplete,
    InputError,
    ModelUnsuitable,
    ServerBusy,
    ServerCrashLoop,
    ServerInternalError,
    ServerNotRunning,
)
from urisk_nb.risk.calibration import CONTENT_FREE
from urisk_nb.risk.labeling import label_ticker
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.taxonomy import DEFAULT, Category, Taxonomy
from urisk_nb.session import assess, assess_async, label_sync, open_run


def by_word(text):
    return label("legal", 3) if "fined" in text else label("none", 0)


pytestmark = pytest.mark.usefixtures("no_pauses")


def test_same_bytes_are_asked_once():
    """
    A sentence that stands under two tickers is one question; both rows have it.
    """
    manager = Listed(by_word)
    evidence = news(
        ("A", "It was fined by the court."),
        ("B", "It was fined by the court."),
        ("B", "It opened a shop."),
    )
    table = assess("A B", evidence=evidence, manager=manager)
    assert sorted(manager.asked) == ["It opened a shop.", "It was fined by the court."]
    assert table["score"].tolist() == [35.0, 35.0]
    assert table.loc["A", "top_quote"] == "It was fined by the court."
    assert table["status"].tolist() == ["ok", "ok"]


def test_severe_sentences_are_looked_at_twice_and_broken_answers_repaired():
    """
    Severity 4 is asked again with the examples turned round; an answer that is no JSON gets one
    repair.
    """
    said = []

    def answer(text):
        said.append(text)
        if "wanted form" in text:
            return label("business", 2)
        if "broke" in text:
            return "I think it is business"
        return label("legal", 4) if len(said) == 1 else label("legal", 3)

    table = assess(
        "A",
        evidence=news(("A", "It was fined by the court."), ("A", "The talks broke down.")),
        manager=Listed(answer),
    )
    assert len(said) == 4
    assert table.loc["A", ["r_legal", "r_business"]].tolist() == [3, 2]


def judge_beside(answer, judge="urisk-judge"):
    """A manager whose session's model is the demo model, with the judge beside it."""
    manager = Listed(answer)
    manager.model, manager.judge, manager.had = "smollm2-135m", judge, []

    async def ensure_model(*models):
        manager.had += models

    manager.ensure_model = ensure_model
    return manager


def test_the_judge_labels_where_no_model_was_named():
    """It is made ready, asked once however severe, and the table says who it was."""
    manager = judge_beside(lambda text: label("legal", 5))
    table = assess("A", evidence=news(("A", "It was fined by the court.")), manager=manager)
    assert manager.had == ["urisk-judge"]
    (payload,) = manager.payloads
    assert payload["messages"] == [{"role": "user", "content": "It was fined by the court."}]
    assert table.loc["A", ["r_legal", "model"]].tolist() == [5, "urisk-judge"]
    assert "small_judge" in table.loc["A", "flags"].split(";")
    assert "demo_model" not in table.loc["A", "flags"].split(";")
    assert table.report.meta["form"] == "decision"
    assert "urisk-judge" in repr(table)


def test_another_model_that_is_named_is_asked_at_length():
    """`model=` decides; the demo model's own labels are flagged as before."""
    manager = judge_beside(lambda text: label("legal", 3))
    table = assess(
        "A",
        evidence=news(("A", "It was fined.")),
        manager=manager,
        params=RiskParams.of(model="smollm2-135m"),
    )
    assert len(manager.payloads[0]["messages"]) > 20
    assert "demo_model" in table.loc["A", "flags"].split(";")
    assert table.report.meta["form"] == "examples"


def test_the_judge_is_not_asked_for_other_categories():
    """
    It was trained on the default ones. With others the session's model answers, and naming the
    judge is an error before any server is asked.
    """
    weather = Category(id="weather", name="Weather", definition="storms and droughts")
    own = Taxonomy(categories=(*DEFAULT.categories, weather), version="mine")
    manager = judge_beside(lambda text: label("weather", 3))
    assert (
        assess("A", evidence=news(("A", "A storm hit.")), manager=manager, taxonomy=own).loc[
            "A", "model"
        ]
        == "smollm2-135m"
    )
    with pytest.raises(InputError, match="was trained on the categories market, credit") as caught:
        open_run(
            "A",
            evidence=news(("A", "A storm hit.")),
            taxonomy=own,
            params=RiskParams.of(model="urisk-judge:latest"),
        )
    assert "taxonomy=" in caught.value.fix
    manager.model = "urisk-judge"  # as after %urisk_start --model urisk-judge
    with pytest.raises(InputError, match="was trained on the categories market, credit"):
        assess("A", evidence=news(("A", "A storm hit.")), manager=manager, taxonomy=own)


class Steady(Listed):
    """
    Answers when nothing else can happen: when all who could ask have asked. `in_flight` has how
    many calls wait for an answer at each of these moments.
    """

    IDLE_STEPS = 50  # of the loop; a worker takes a few of them from one call to the next

    def __init__(self, answer, *, parallel):
        super().__init__(answer, parallel=parallel)
        self.in_flight, self._waiting, self._server = [], deque(), None

    async def ask(self, question, model=None):
        if self._server is None:
            self._server = asyncio.create_task(self._answer_in_turn())
        turn = asyncio.Event()
        self._waiting.append(turn)
        await turn.wait()
        return await super().ask(question, model)

    async def _answer_in_turn(self):
        while True:
            for _ in range(self.IDLE_STEPS):
                await asyncio.sleep(0)
            if not self._waiting:
                return
            self.in_flight.append(len(self._waiting))
            self._waiting.popleft().set()


def test_so_many_at_once_and_no_slot_idle():
    """
    Four workers: never more than four calls in flight, and never fewer while a question is left.
    """
    manager = Steady(by_word, parallel=4)
    tickers = [f"T{number}" for number in range(20)]
    evidence = news(
        *[
            (ticker, f"Sentence number {number} is about {ticker}.")
            for ticker in tickers
            for number in range(4)
        ]
    )
    run = open_run(tickers, evidence=evidence)
    label_sync(run, manager)
    assert manager.in_flight == [4] * 77 + [3, 2, 1]
    assert (run.progress.rows, run.progress.asked, run.progress.tokens) == (20, 80, 80 * 11)
    assert run.progress.eta_s == 0


def test_the_first_tickers_are_finished_first():
    """
    Second looks of an early ticker go before the first looks of later ones, so that rows get
    finished in order.
    """
    manager = Listed(lambda text: label("legal", 4))
    run = open_run("A B C", evidence=news(*[(ticker, f"{ticker} was fined.") for ticker in "ABC"]))
    label_sync(run, manager)
    assert list(run.ticker_findings) == ["A", "B", "C"]
    first, second = (place for place, text in enumerate(manager.asked) if text == "A was fined.")
    assert first < second < manager.asked.index("C was fined.")


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_ticker_begins_just_before_its_turn(monkeypatch, parallel):
    """
    The first call does not wait for the questions of all tickers, and no worker waits for one.
    """
    begun, ahead = [], []

    async def label(plan, symbol, ask):
        begun.append(symbol)
        return await label_ticker(plan, symbol, ask)

    def answer(text):
        ahead.append(len(begun) - len(run.ticker_findings))
        return by_word(text)

    monkeypatch.setattr(session, "label_ticker", label)
    tickers = [f"T{number}" for number in range(40)]
    evidence = news(*[(one, f"{one} was fined {n} times.") for one in tickers for n in range(2)])
    run = open_run(tickers, evidence=evidence)
    manager = Listed(answer, parallel=parallel, service_s=0.001)
    label_sync(run, manager)
    assert begun == tickers == list(run.ticker_findings)
    # Two sentences each: those that are asked, those that wait, and one that has just ended.
    assert 1 <= max(ahead) <= parallel + 2
    assert manager.peak == parallel


def test_the_number_of_questions_is_known_from_the_start():
    """
    The progress counts the sentences of tickers that have not begun; a shared one counts once.
    """
    seen = []

    def answer(text):
        seen.append(run.progress)
        return by_word(text)

    tickers = [f"T{number}" for number in range(10)]
    rows = [(one, f"{one} was fined.") for one in tickers] + [
        (one, "Rates fell.") for one in tickers
    ]
    run = open_run(tickers, evidence=news(*rows))
    assert str(run.progress) == "about to begin"  # nothing is known of it, not even that it is 0
    label_sync(run, Listed(answer))
    assert (seen[0].questions, seen[0].rows_total) == (20, 10)
    assert (run.progress.questions, run.progress.asked, run.progress.rows) == (11, 11, 10)
    assert sorted({one.asked for one in seen}) == list(range(11))


def test_a_run_goes_on_where_it_ended():
    """
    What was labeled before an error is not asked again, also of a ticker that was not finished.
    """
    broken = True

    def answer(text):
        if broken and "B was sued" in text:
            raise ServerCrashLoop("gone", fix="start it")
        return by_word(text)

    rows = [(one, f"{one} was {what}.") for one in "ABC" for what in ("fined", "sued")]
    run = open_run("A B C", evidence=news(*rows))
    manager = Listed(answer)
    with pytest.raises(ServerCrashLoop):
        label_sync(run, manager)
    assert run.table()["status"].tolist() == ["ok", "not_run", "not_run"]
    broken, before = False, len(manager.asked)
    label_sync(run, manager)
    assert run.table()["status"].tolist() == ["ok", "ok", "ok"]
    assert manager.asked[before:] == ["B was sued.", "C was fined.", "C was sued."]
    assert run.failure == ""


def test_what_a_model_says_to_nothing_is_asked_once_in_a_process():
    """
    With calibrated labels: a second run, whatever it reads, asks only about its sentences.
    """
    process_state.forget("priors")
    settings = RiskParams(labels="calibrated")
    asked = []
    for word in ("fined", "sued"):
        manager = Listed(by_word, logprobs=True)
        table = assess(
            "A", evidence=news(("A", f"A was {word}.")), manager=manager, params=settings
        )
        asked.append(manager.asked)
        assert table["status"].tolist() == ["ok"]
    assert len(asked[0]) > len(asked[1]) == 1
    assert set(CONTENT_FREE) <= set(asked[0])
    assert asked[1] == ["A was sued."]


def test_a_lost_server_ends_the_run_and_keeps_what_was_done():
    """
    The error is the server's own, siblings are cancelled, and the table so far hangs on the
    exception.
    """

    def answer(text):
        if "B" in text:
            raise ServerCrashLoop("gone", fix="start it")
        return by_word(text)

    manager = Listed(answer)
    with pytest.raises(ServerCrashLoop) as caught:
        assess(
            "A B C",
            evidence=news(*[(ticker, f"{ticker} was fined.") for ticker in "ABC"]),
            manager=manager,
        )
    table = caught.value.partial
    assert table["status"].tolist() == ["ok", "not_run", "not_run"]
    assert table.loc["A", "score"] == 35.0
    assert "C was fined." not in manager.asked
    assert table.report.meta["failure"] == "gone"
    assert "The run ended early: gone" in table.as_text(200)


def broken_by(word, kind=ServerInternalError):
    """An answer by word, but for sentences with another word, which fail."""

    def answer(text):
        if word in text:
            raise kind("something odd.", fix="look at the log")
        return by_word(text)

    return answer


def test_a_sentence_that_fails_twice_is_named_and_the_run_goes_on():
    """Under the table, in the findings and in the record; the others have their labels."""
    manager = Listed(broken_by("explodes"))
    rows = [("A", "A was fined."), ("B", "It explodes."), ("B", "B was fined."), ("C", "C rose.")]
    table = assess("A B C", evidence=news(*rows), manager=manager)
    assert manager.asked.count("It explodes.") == 2
    assert table["status"].tolist() == ["ok", "partial", "ok"]
    assert table.loc["B", "attempts"] == 3
    found = table.report.findings.set_index("quote")
    assert found.loc["It explodes.", ["status", "reason"]].tolist() == [
        "unjudged",
        "something odd.",
    ]
    line = '"It explodes." has no label: something odd.'
    assert f"B: {line}" in table.as_text(200)
    assert line in html.unescape(table._repr_html_())
    assert table.report.meta["messages"]["B"] == [line]
    assert table.report.meta["unjudged"] == [
        {
            "ticker": "B",
            "evidence": found.loc["It explodes.", "evidence"],
            "judge": "judge:7b",
            "quote": "It explodes.",
            "reason": "something odd.",
        }
    ]


def test_five_in_a_row_end_the_run_with_its_table():
    """Rows that were done are kept, and the last of the five has its reason, too."""
    tickers = [f"T{number}" for number in range(12)]
    rows = [(one, f"{one} was fined.") for one in tickers[:3]]
    rows += [(one, f"{one} explodes.") for one in tickers[3:]]
    manager = Listed(broken_by("explodes"))
    with pytest.raises(
        ServerInternalError, match=r"^5 sentences in a row .* something odd\."
    ) as seen:
        assess(tickers, evidence=news(*rows), manager=manager)
    table = seen.value.partial
    assert table["status"].tolist() == ["ok"] * 3 + ["model_error"] * 5 + ["not_run"] * 4
    assert len(manager.asked) == 3 + 2 * 5
    assert len(table.report.meta["unjudged"]) == 5
    assert seen.value._render_traceback_()[1] == "  Fix: look at the log"


def test_an_answer_in_between_begins_anew():
    """Every second sentence fails: the run goes on to its end."""
    tickers = [f"T{number}" for number in range(14)]
    rows = [
        (one, f"{one} {'explodes' if n % 2 else 'was fined'}.") for n, one in enumerate(tickers)
    ]
    table = assess(tickers, evidence=news(*rows), manager=Listed(broken_by("explodes")))
    assert table["status"].tolist() == ["ok", "model_error"] * 7


def test_five_invalid_answers_in_a_row_end_the_run():
    """Each was asked once more; the error names the model and another way."""
    tickers = [f"T{number}" for number in range(9)]
    rows = [(one, f"{one} was fined.") for one in tickers]
    manager = Listed(lambda text: "I think so")
    with pytest.raises(ModelUnsuitable, match=r"judge:7b gives no valid label: .* JSON") as seen:
        assess(tickers, evidence=news(*rows), manager=manager)
    assert len(manager.asked) == 10
    assert seen.value.partial["status"].tolist() == ["model_error"] * 5 + ["not_run"] * 4
    assert "the answer is not JSON" in seen.value.partial.as_text(200)


@pytest.mark.parametrize("kind", [ServerInternalError, ServerBusy, ServerNotRunning])
def test_a_run_without_any_answer_fails(kind):
    """However short it is: a notebook that runs in CI must not pass."""
    rows = [(one, f"{one} explodes.") for one in "AB"]
    with pytest.raises(kind) as seen:
        assess("A B", evidence=news(*rows), manager=Listed(broken_by("explodes", kind)))
    assert seen.value.partial["status"].tolist() == ["model_error"] * 2


def test_an_outage_is_on_the_line_of_progress():
    run = open_run("A", evidence=news(("A", "A was fined.")))
    shown, away = [], [ServerBusy("full", fix="wait", status=503) for _ in range(2)]

    def answer(text):
        shown.append(str(run.progress))
        if away:
            raise away.pop()
        return by_word(text)

    manager = Listed(answer)
    manager.settings = SimpleNamespace(num_ctx=4096, outage_wait_s=30.0)
    label_sync(run, manager)
    assert "; the server answers 503, waiting (" in shown[-1]
    assert run.progress.outage is None
    assert run.table()["status"].tolist() == ["ok"]


def test_one_sentence_without_an_answer_costs_only_itself():
    """
    An answer that never ended leaves that sentence unjudged and the row partial.
    """

    def answer(text):
        if "shop" in text:
            raise AnswerIncomplete("the stream ended early", fix="ask again", partial='{"ri')
        return by_word(text)

    table = assess(
        "A",
        evidence=news(("A", "It was fined."), ("A", "It opened a shop.")),
        manager=Listed(answer),
    )
    assert table.loc["A", "status"] == "partial"
    assert table.loc["A", "score"] == 35.0


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_evidence_changes_nothing(seed):
    """
    Shuffled evidence gives the same table.
    """
    rows = [("A", f"It was fined for the {number}th time.") for number in range(6)] + [
        ("B", "It opened a shop."),
        ("B", "It was fined."),
    ]
    order = np.random.default_rng(seed).permutation(len(rows))
    first = assess("A B", evidence=news(*rows), manager=Listed(by_word))
    second = assess(
        "A B", evidence=news(*[rows[place] for place in order]), manager=Listed(by_word)
    )
    changes = ["run_id", "latency_s"]
    pd.testing.assert_frame_equal(
        pd.DataFrame(first).drop(columns=changes), pd.DataFrame(second).drop(columns=changes)
    )


def test_nothing_to_judge_asks_nobody():
    """
    Without evidence, or with llm off, no manager is needed.
    """
    prices = pd.DataFrame(
        {"A": np.linspace(1, 2, 50)}, index=pd.bdate_range("2024-01-01", periods=50)
    )
    assert assess("A", prices=prices).loc["A", "status"] == "ok"


def test_neither_prices_nor_evidence_is_an_error():
    """
    There is nothing to make a table of.
    """
    with pytest.raises(InputError, match="neither prices nor evidence"):
        assess("A")


def test_awaited_on_a_loop_of_the_callers():
    """
    assess_async gives the same on any loop.
    """
    table = asyncio.run(
        assess_async("A", evidence=news(("A", "It was fined.")), manager=Listed(by_word))
    )
    assert table.loc["A", "score"] == 35.0


@pytest.mark.timing
@pytest.mark.slow
def test_an_interrupt_keeps_the_rows_that_were_judged():
    """
    SIGINT in a run: KeyboardInterrupt at once, the finished rows on it, the others not_run.
    """
    code = """
        import asyncio, sys, time
        sys.path.insert(0, "tests")
        from scripted_judge import Listed, by_word, news
        from urisk_nb import assess
        class Slow(Listed):
            async def ask(self, question, model=None):
                if b"B was" in question.payload:
                    print("asked B", flush=True)
                    await asyncio.sleep(30)
                return await super().ask(question)
        try:
            evidence = news(("A", "A was fined."), ("B", "B was fined."))
            assess("A B", evidence=evidence, manager=Slow(by_word))
        except KeyboardInterrupt as exc:
            print(exc.partial["status"].tolist(), flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "asked B\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "['ok', 'not_run']\n"
    assert time.monotonic() - began < 0.5
    process.stdout.close()
    process.wait(5)


def test_the_loop_is_free_afterwards():
    """
    No worker of a run stays behind on the loop.
    """
    assess("A", evidence=news(("A", "It was fined.")), manager=Listed(by_word))

    async def top_logprobs():
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert event_loop.run(top_logprobs()) == []
