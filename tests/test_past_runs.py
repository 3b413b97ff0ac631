"""
Runs of the past: shown again without a server, checked to the byte, listed and removed. The answers
are SCRIPTED.
"""

import asyncio
import re
import sqlite3
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

import urisk_nb
from scripted_judge import NEWS, ScriptedJudge, by_word, label, news
from table_maker import DAYS
from urisk_nb import RiskParams, assess, history, past_runs, process_state, purge, replay, verify
from urisk_nb.errors import (
    InputError,
    JournalUnusable,
    RecordChanged,
    RulesChanged,
    RunNotFound,
    ServerCrashLoop,
    ServerInternalError,
)
from urisk_nb.journal.store import Store
from urisk_nb.llm.labels import LabelMethod
from urisk_nb.llm.messages import Think
from urisk_nb.recording import recorder
from urisk_nb.risk import questions
from urisk_nb.risk.taxonomy import Category, Taxonomy

WEEK_AGO = datetime.now(UTC) - timedelta(days=7)
FILING = """Item 1A. Risk Factors

There is substantial doubt about our ability to continue as a going concern. We may face lawsuits.
The company was fined by the regulator in March. Our auditor resigned in June.

Item 7. Management's Discussion

Revenue fell by 40 percent. We have defaulted on our senior notes. Costs rose."""


pytestmark = pytest.mark.usefixtures("journal")


def make_run(manager=None, evidence=NEWS, tickers="A B", **given):
    return assess(tickers, evidence=evidence, manager=manager or ScriptedJudge(), **given)


def id_of(table):
    return table.report.meta["run_id"]


def assert_same(one, other):
    """Frame, findings, ratings, changes, judgements and record: equal in every cell and type."""
    pd.testing.assert_frame_equal(pd.DataFrame(one), pd.DataFrame(other), check_exact=True)
    for name in ("findings", "ratings", "changes", "judgements", "rows"):
        pd.testing.assert_frame_equal(
            getattr(one.report, name), getattr(other.report, name), check_exact=True
        )
    for name in ("portfolio", "backtest", "stress", "factors", "prices"):
        assert_same_part(getattr(one.report, name), getattr(other.report, name))
    assert one.report.meta == other.report.meta
    assert one.attrs == other.attrs


def assert_same_part(one, other):
    """Equal, or in neither report."""
    assert type(one) is type(other)
    if isinstance(one, pd.DataFrame):
        # Of prices the columns of the run are kept, and no name of their axis
        pd.testing.assert_frame_equal(one, other, check_exact=True, check_names=False)
    elif one is not None:
        pd.testing.assert_series_equal(one, other, check_exact=True)


def closes(*names, days=DAYS):
    rng = np.random.default_rng(7)
    moves = rng.normal(0, 0.01, (len(days), len(names)))
    return pd.DataFrame(100 * np.cumprod(1 + moves, axis=0), index=days, columns=list(names))


def mend(text):
    """No label at first, a label after a repair; the rest by its words."""
    if "wanted form" in text:
        return label("business", 3)
    return "I would say business" if "Demand" in text else by_word(text)


RUNS = {
    "greedy": {},
    "a repair": {"manager": ScriptedJudge(mend)},
    "nothing valid": {
        "manager": ScriptedJudge(lambda text: "?" if "shop" in text else by_word(text))
    },
    "calibrated": {"params": {"labels": "calibrated"}},
    "a decision model": {"manager": ScriptedJudge(method=LabelMethod.DECISION)},
    "a decision model and a query": {
        "manager": ScriptedJudge(method=LabelMethod.DECISION),
        "query": "the court and demand",
    },
    "letters": {"manager": ScriptedJudge(method=LabelMethod.LETTERS)},
    "a setting of think": {"manager": ScriptedJudge(choices=(Think.OFF, Think.UNSET))},
    "three judges": {"params": {"judge": ("one", "two", "three")}},
    "no digest": {"manager": ScriptedJudge(digest="")},
    "in parallel": {"manager": ScriptedJudge(parallel=4, service_s=0.001)},
    "weights and no model": {"tickers": {"A": 0.5, "B": 0.4}, "params": {"llm": False}},
    "an own taxonomy": {
        "manager": ScriptedJudge(lambda text: label("weather", 3)),
        "taxonomy": Taxonomy(
            version="mine", categories=(Category(id="weather", name="W", definition="storms"),)
        ),
    },
    "prices, volume, benchmark": {
        "prices": pd.concat(
            {"Close": closes("A", "B", "C"), "Volume": closes("A", "B", "C")}, axis=1
        ),
        "benchmark": "C",
        "tickers": "A=0.7, B=0.3, D",
        "params": {"alpha": (0.05, 0.01), "window": "3m"},
    },
    "returns and a Series": {
        "prices": closes("A", "B").pct_change().iloc[1:],
        "benchmark": closes("X")["X"].pct_change().iloc[1:],
        "params": {"returns": True},
    },
    "a book, episodes and factors": {
        "prices": closes("A", "B", "C"),
        "tickers": "A=0.7, B=-0.3",
        "stress": {"spring": (DAYS[5], DAYS[20])},
        "factors": ["C"],
    },
    "factors of a DataFrame": {
        "prices": closes("A", "B"),
        "tickers": "A=0.7, B=0.3",
        "factors": closes("X", "Y").pct_change().iloc[1:],
        "params": {"factor_returns": True},
    },
    "a filing and last year's": {
        "evidence": [
            {"ticker": "A", "text": FILING, "date": "2018-05-01", "source": "a/10-K.txt"},
            {"ticker": "*", "text": "Rates rose.", "date": "2018-05-02"},
            {"ticker": "ZZZ", "text": "It was fined.", "date": "2018-05-02"},
        ],
        "previous": [{"ticker": "A", "text": FILING[:180], "date": "2017-05-01"}],
        "params": {"as_of": "2018-06-01", "max_sentences": 4},
    },
}


def test_the_newest_run_stands_first():
    """Also where several begin within a second."""
    runs = [id_of(make_run(tickers=["A"])) for _ in range(5)]
    assert history()["run"].tolist() == runs[::-1]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_shown_again_as_it_was(name, monkeypatch):
    """The table and its report, by the same code, without a manager, a server or a network."""
    given = {"tickers": "A B", "evidence": NEWS, "manager": ScriptedJudge(), **RUNS[name]}
    table = assess(given.pop("tickers"), **given)
    monkeypatch.setattr("socket.socket.connect", None)  # whoever calls it fails
    process_state.forget("priors")
    assert_same(replay(id_of(table)), table)
    assert verify(id_of(table)) == table.report.meta["run_hash"]


@pytest.mark.parametrize("params", [{}, {"labels": "calibrated"}, {"judge": ("one", "two")}])
def test_a_run_that_asked_nothing_is_shown_again(params):
    """The second of two equal runs: its rows say that all was known, and so does the replay."""
    first, second = make_run(params=params), make_run(params=params)
    assert second["cached"].sum() > 0
    assert_same(replay(id_of(second)), second)
    assert_same(replay(id_of(first)), first)


def test_priors_of_another_run_of_the_process_are_recorded_with_this_one(monkeypatch, journal):
    """What this process knew already is in the journal of the run that used it."""
    settings = {"labels": "calibrated"}
    monkeypatch.setenv("URISK_JOURNAL", "off")
    make_run(params=settings)
    monkeypatch.setenv("URISK_JOURNAL", str(journal))
    table = make_run(params=settings)
    process_state.forget("priors")
    assert_same(replay(id_of(table)), table)


def test_prices_alone_are_a_run():
    """No model is asked, and the run is recorded all the same: once, however often it is shown."""
    table = assess("A B", prices=closes("A", "B", "C"), benchmark="equal")
    assert_same(replay(id_of(table)), table)
    assert len(history()) == 1


def test_a_run_with_failed_sentences_is_shown_again():
    """A call that failed, with its reason and its attempts."""

    def fail(text):
        if "shop" in text:
            raise ServerInternalError("it broke", fix="look at its log")
        return by_word(text)

    table = make_run(ScriptedJudge(fail))
    assert table["status"].tolist() == ["partial", "ok"]
    assert_same(replay(id_of(table)), table)


def break_down(text):
    if "Demand" in text:
        raise ServerCrashLoop("gone", fix="start it")
    return by_word(text)


def test_a_run_that_failed_is_shown_as_far_as_it_came():
    with pytest.raises(ServerCrashLoop) as caught:
        make_run(ScriptedJudge(break_down))
    partial = caught.value.partial
    assert partial["status"].tolist() == ["ok", "not_run"]
    assert_same(replay(id_of(partial)), partial)
    assert history().loc[0, "status"] == "failed"
    assert verify(id_of(partial)) == partial.report.meta["run_hash"]


def test_a_run_that_goes_on_is_shown_as_it_ended():
    """The same Run, labeled again after a failure: the later record of a ticker counts."""
    broken = True

    def answer(text):
        if broken:
            return break_down(text)
        return by_word(text)

    run = urisk_nb.session.open_run("A B", evidence=NEWS)
    manager = ScriptedJudge(answer)
    with pytest.raises(ServerCrashLoop):
        urisk_nb.session.label_sync(run, manager)
    first = run.table().report.meta["run_hash"]
    broken = False
    urisk_nb.session.label_sync(run, manager)
    table = run.table()
    assert table["status"].tolist() == ["ok", "ok"]
    assert table.report.meta["run_hash"] not in (None, first)
    assert_same(replay(id_of(table)), table)


def forget_end(journal):
    """What a killed process leaves: everything but the last record."""
    with sqlite3.connect(journal) as plain:
        plain.execute("DELETE FROM records WHERE name = 'end'")


def test_a_run_whose_process_was_killed_is_shown_as_far_as_it_is_there(journal):
    table = make_run()
    forget_end(journal)
    again = replay(id_of(table))
    assert again["score"].tolist() == table["score"].tolist()
    assert "it is still in progress, or its process was killed" in " ".join(repr(again).split())
    assert history()[["status", "hash"]].fillna("").values.tolist() == [["unfinished", ""]]
    with pytest.raises(RecordChanged, match="has no hash"):
        verify(id_of(table))


# Which run ----------------------------------------------------------------------------------------


def test_the_first_letters_of_an_id_are_enough():
    table = make_run()
    assert id_of(replay(id_of(table)[:-2])) == id_of(table)


def test_the_first_letters_of_a_hash_are_enough(monkeypatch):
    """Four or more: with fewer it would often be another run than the one that is meant."""
    table = make_run()
    hash_ = table.report.meta["run_hash"]
    assert past_runs.MIN_HASH_CHARS == 4
    for wanted in (hash_, hash_[:8], hash_[:4].upper()):
        assert id_of(replay(wanted)) == id_of(table)
    assert verify(hash_[:4]) == hash_
    monkeypatch.setattr(past_runs, "MIN_HASH_CHARS", 9)
    for wanted in (hash_[:8], "0" * 64, hash_ + "0"):
        with pytest.raises(RunNotFound, match=f"has no run '{wanted}'"):
            replay(wanted)


def set_hash(journal, table, hash_):
    with sqlite3.connect(journal) as plain:
        found = "UPDATE records SET hash = ? WHERE run = ? AND name = 'end'"
        plain.execute(found, (bytes.fromhex(hash_), id_of(table)))


def test_runs_whose_hashes_begin_alike_are_named(journal):
    """The same hash again, as of two runs of the same prices within a second."""
    first, second = make_run(), make_run()
    hash_ = first.report.meta["run_hash"]
    set_hash(journal, second, hash_)
    with pytest.raises(RunNotFound, match="2 runs have a hash that begins with") as caught:
        verify(hash_[:6])
    assert f"{id_of(first)}, {id_of(second)}" in caught.value.message
    assert id_of(second) in caught.value.fix
    assert id_of(replay(id_of(first))) == id_of(first)


def test_an_id_counts_before_a_hash(journal):
    first, second = make_run(), make_run()
    day = id_of(first)[:8]
    set_hash(journal, second, day + "0" * 56)
    with pytest.raises(RunNotFound, match=f"2 runs begin with '{day}'"):
        replay(day)
    with pytest.raises(RecordChanged, match="'end'"):
        replay(day + "0" * 8)


def test_an_unknown_run_is_answered_with_the_nearest():
    table = make_run()
    wanted = id_of(table)[:-1] + "zz"
    with pytest.raises(RunNotFound, match=wanted) as caught:
        replay(wanted)
    assert id_of(table) in caught.value.fix
    make_run()
    with pytest.raises(RunNotFound, match="2 runs begin with '20'"):
        replay("20")
    with pytest.raises(RunNotFound, match="no run was named"):
        replay(" ")


def test_without_a_journal_the_error_says_so(monkeypatch, tmp_path):
    with pytest.raises(JournalUnusable, match="no run was recorded yet"):
        history()
    monkeypatch.setenv("URISK_JOURNAL", "off")
    with pytest.raises(JournalUnusable, match="is off"):
        replay("x")


# Rules that have changed --------------------------------------------------------------------------


def test_another_prompt_is_said_and_gives_no_table(monkeypatch):
    """The request of a sentence has another hash, so no answer is known for it."""
    table = make_run()
    real = questions.rules
    monkeypatch.setattr(questions, "rules", lambda *given: f"{real(*given)} Be brief.")
    questions._encode_around.cache_clear()
    with pytest.raises(RulesChanged, match="what judge:7b is asked about A"):
        replay(id_of(table))
    questions._encode_around.cache_clear()


@pytest.mark.parametrize(
    "name", ["the rules of the score", "the schema of an answer", "the sentences that are asked"]
)
def test_another_version_of_a_rule_is_said(monkeypatch, name):
    table = make_run()
    real = recorder.describe_plan
    monkeypatch.setattr(past_runs, "describe_plan", lambda plan: {**real(plan), name: "another"})
    with pytest.raises(RulesChanged, match=name):
        replay(id_of(table))


# Verify -------------------------------------------------------------------------------------------


def flip(journal, seen, other):
    """Change one byte of the file, where it is stored as it is."""
    content = journal.read_bytes()
    assert content.count(seen) == 1, content.count(seen)
    journal.write_bytes(content.replace(seen, other))


def store_plain(monkeypatch):
    monkeypatch.setattr("urisk_nb.journal.canonical.MIN_PACKED_BYTES", 1 << 40)


def test_a_flipped_byte_of_an_answer_is_named(monkeypatch, journal):
    store_plain(monkeypatch)
    table = make_run(ScriptedJudge(lambda text: label("market" if "shop" in text else "legal", 2)))
    flip(journal, b'\\"market\\"', b'\\"markeT\\"')
    for read in (verify, replay):
        with pytest.raises(RecordChanged, match=r"the answer \w{12} .* \(one of A\) was changed"):
            read(id_of(table))


def test_a_flipped_byte_of_a_document_is_named(monkeypatch, journal):
    store_plain(monkeypatch)
    table = make_run()
    flip(journal, b"It opened a shop.", b"It opened a sh0p.")
    with pytest.raises(RecordChanged, match=r"the input \w{12} .* was changed"):
        verify(id_of(table))


@pytest.mark.parametrize("name", ["run", "judges", "labels 0 A", "end"])
def test_a_changed_record_is_named(journal, name):
    """One byte of its body; and a body that was changed together with its hash."""
    table = make_run()
    with sqlite3.connect(journal) as plain:
        (body,) = plain.execute("SELECT body FROM records WHERE name = ?", (name,)).fetchone()
        flipped = body[:-3] + bytes([body[-3] ^ 1]) + body[-2:]
        plain.execute("UPDATE records SET body = ? WHERE name = ?", (flipped, name))
    with pytest.raises(RecordChanged, match=f"the record '{name}'"):
        verify(id_of(table))


def test_a_record_that_was_replaced_is_named(journal):
    """Whoever changes a record and its hash would have to change the run's hash, too."""
    table = make_run()
    with Store(journal) as store:
        one = store.get_records(id_of(table))["labels 0 B"]
        other = recorder.Entry.of(one.body.replace(b"true", b"false"), name=one.name)
        store.add(recorder.Batch(id_of(table), records=[other]))
    with pytest.raises(RecordChanged, match=r"'labels 0 B' .* was put in place of another"):
        verify(id_of(table))


def test_a_record_that_is_gone_is_named(journal):
    table = make_run()
    with sqlite3.connect(journal) as plain:
        plain.execute("DELETE FROM records WHERE name = 'labels 0 B'")
        plain.execute("DELETE FROM answers")
    with pytest.raises(RecordChanged, match=r"the record 'labels 0 B' .* is not there"):
        verify(id_of(table))


# History ------------------------------------------------------------------------------------------


def test_the_history_shows_each_hash_whole():
    """It is there to be copied; texts stand on the left, as in the other frames of the package."""
    make_run()
    frame = history()
    assert frame.loc[0, "hash"] in frame._repr_html_()
    assert "text-align:left" in frame._repr_html_()


def test_the_history_is_a_frame_with_the_newest_first():
    first = make_run()
    second = make_run(params={"judge": ("one", "two")})
    prices = assess("A B C D E F G", prices=closes(*"ABCDEFG"))
    frame = history()
    assert list(frame.columns) == [
        *("run", "when", "tickers", "questions", "cached", "judge", "status", "hash")
    ]
    by_run = frame.set_index("run")
    assert set(by_run.index) == {id_of(first), id_of(second), id_of(prices)}
    assert by_run.loc[id_of(first), ["tickers", "questions", "cached", "judge"]].tolist() == [
        *("A, B", 4, 0, "judge:7b")
    ]
    assert by_run.loc[id_of(second), "judge"] == "one, two"
    assert by_run.loc[id_of(prices), "tickers"] == "A, B, C, D, E and 2 more"
    assert by_run.loc[id_of(prices), "questions"] == 0
    assert set(by_run["status"]) == {"done"}
    assert by_run.loc[id_of(first), "hash"] == first.report.meta["run_hash"]
    assert str(frame["when"].dt.tz) == "UTC"
    assert frame["when"].is_monotonic_decreasing


# Purge --------------------------------------------------------------------------------------------


def age(journal, run, days):
    """Make a run older; its first record is written anew."""
    with Store(journal) as store:
        one = store.get_records(run)["run"]
        when = datetime.fromisoformat(re.search(rb'created_at":"([^"]+)', one.body)[1].decode())
        old = (when - timedelta(days=days)).isoformat().encode()
        body = one.body.replace(when.isoformat().encode(), old)
        store.add(recorder.Batch(run, records=[recorder.Entry.of(body, name="run")]))


def test_a_purge_removes_whole_runs_and_what_only_they_used(monkeypatch, journal):
    """The rest is shown again as before, also what it shares with the runs that are gone."""
    store_plain(monkeypatch)
    old = make_run()
    licensed = news(*NEWS.itertuples(index=False), ("B", "A licensed sentence of a vendor."))
    gone = make_run(evidence=licensed)
    new = make_run()
    for table in (old, gone):
        age(journal, id_of(table), 30)
    before = journal.stat().st_size
    assert b"licensed sentence" in journal.read_bytes()
    assert purge(before=WEEK_AGO) == 2
    assert history()["run"].tolist() == [id_of(new)]
    assert_same(replay(id_of(new)), new)
    assert verify(id_of(new)) == new.report.meta["run_hash"]
    files = [path.read_bytes() for path in journal.parent.iterdir()]
    assert not any(b"licensed sentence" in content for content in files)
    assert journal.stat().st_size < before
    manager = ScriptedJudge()
    make_run(manager, evidence=licensed)
    assert manager.asked == ["A licensed sentence of a vendor."]


def test_answers_of_a_run_without_a_record_are_purged_by_its_id(journal):
    """A process that was killed before its first record: its id says when it began."""
    age(journal, id_of(make_run()), 30)
    with Store(journal) as store:
        for run in ("20200101T000000-abc", "29990101T000000-abc"):
            store.add(recorder.Batch(run, answers=[recorder.Entry.of(run.encode())]))
    assert purge(before=WEEK_AGO) == 1
    with Store(journal) as store:
        assert store.count_answers() == 1


def test_a_purge_of_nothing_changes_nothing(journal):
    make_run()
    before = journal.read_bytes()
    assert purge(before="2000-01-01") == 0
    assert journal.read_bytes() == before


@pytest.mark.parametrize(
    "given", ["2999-01-01", date(2999, 1, 1), datetime(2999, 1, 1, 12, tzinfo=UTC)]
)
def test_a_purge_takes_a_date_in_any_form(given):
    make_run()
    assert purge(before=given) == 1
    assert len(history()) == 0


@pytest.mark.parametrize("given", ["yesterday", "", None, 5])
def test_a_purge_of_no_date_is_refused(given):
    with pytest.raises(InputError, match="is not a date"):
        purge(before=given)


def test_what_a_run_in_flight_uses_survives_a_purge(journal):
    """Answers that it was given from an old run are written again with its own records."""
    age(journal, id_of(make_run()), 30)

    async def both():
        manager = ScriptedJudge(service_s=0.2)
        evidence = news(*NEWS.itertuples(index=False), ("B", "The plant burned down."))
        made = asyncio.create_task(urisk_nb.assess_async("A B", evidence=evidence, manager=manager))
        while not manager.asked and not made.done():
            await asyncio.sleep(0.05)
            if len(history()) == 2:
                break
        await asyncio.to_thread(purge, WEEK_AGO)
        return await made

    table = asyncio.run(both())
    assert_same(replay(id_of(table)), table)


def test_parameters_and_inputs_stay_with_the_run():
    """The replay of a run does not look at what the session or the files are now."""
    table = make_run(params=RiskParams(seed=7))
    assert replay(id_of(table)).report.meta["params"]["seed"] == 7
