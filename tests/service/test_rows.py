"""The rows of a run as they are streamed: each ticker once, when every judge has labeled it."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from price_data import walk
from scripted_judge import Panel, always, news
from urisk_nb import errors
from urisk_nb.service import routes
from urisk_nb.service.schemas import RiskBody, encode_json
from urisk_nb.session import open_run

EVIDENCE = [(ticker, f"{ticker} was fined.") for ticker in ("AAA", "BBB", "CCC")]


def stream(judge, manager):
    """The lines of a run by these judges."""
    run = open_run("AAA BBB CCC", evidence=news(*EVIDENCE), params={"judge": judge})

    async def start():
        return manager

    async def collect():
        session = SimpleNamespace(manager=start)
        return [line async for line in routes._stream_rows(run, session)]

    return asyncio.run(collect())


@pytest.mark.slow
def test_a_row_that_is_done_while_others_are_written_is_not_lost(monkeypatch):
    """Writing rows takes longer here than the rest of the run."""

    def slow(run, symbols, write=routes._encode_rows):
        time.sleep(0.15)
        return write(run, symbols)

    monkeypatch.setattr(routes, "_encode_rows", slow)
    monkeypatch.setattr(routes, "POLL_ROWS_S", 0.02)
    *rows, last = stream("one", Panel({"one": always("legal")}, service_s=0.02))
    assert [line["row"]["ticker"] for line in rows] == ["AAA", "BBB", "CCC"]
    assert last["run"]["judges"][0]["model"] == "one"


def test_a_row_comes_when_the_last_judge_is_through(monkeypatch):
    """Not with the labels of the first alone: it has the agreement of all."""
    monkeypatch.setattr(routes, "POLL_ROWS_S", 0.005)
    answers = {"one": always("legal"), "two": always("market")}
    *rows, last = stream("one,two", Panel(answers, service_s=0.02))
    assert [line["row"]["ticker"] for line in rows] == ["AAA", "BBB", "CCC"]
    assert [line["row"]["agreement"] for line in rows] == [0.0] * 3
    assert all("judges_disagree" in line["row"]["flags"] for line in rows)
    assert [one["n"] for one in last["run"]["kappa"]] == [3]


def test_a_judge_that_is_lost_leaves_the_rows_of_the_first():
    """They come before the error, which is the last line."""

    def lost(text):
        raise errors.ServerConnectionLost("gone", fix="start it")

    lines = []

    async def collect(run, session):
        async for line in routes._stream_rows(run, session):
            lines.append(line)  # noqa: PERF401  those before an error are kept

    async def start():
        return Panel({"one": always("legal"), "two": lost})

    run = open_run("AAA BBB CCC", evidence=news(*EVIDENCE), params={"judge": "one,two"})
    with pytest.raises(errors.ServerConnectionLost, match="judge two"):
        asyncio.run(collect(run, SimpleNamespace(manager=start)))
    assert [line["row"]["r_legal"] for line in lines] == [2, 2, 2]


def test_the_last_line_has_the_portfolio_episodes_and_factors():
    """A client asks for them in `params`, and cannot compute them from the rows."""
    px = walk(columns=("AAA", "SPY"))
    body = RiskBody(
        tickers={"AAA": 0.5, "SPY": 0.5},
        prices={
            "dates": [str(day.date()) for day in px.index],
            "columns": {name: px[name].tolist() for name in px},
        },
        params={"llm": False, "stress": "fall=2022-03-01:2022-04-29", "factors": "SPY"},
    )
    run = routes._open_run(body)

    async def collect():
        return [line async for line in routes._stream_rows(run, None)]

    *rows, last = map(json.loads, map(encode_json, asyncio.run(collect())))
    table = run.table()
    assert [line["row"]["comp_es"] for line in rows] == table["comp_es"].tolist()
    assert list(last) == ["run", "portfolio", "backtest", "stress", "factors"]
    assert last["portfolio"]["es_95"] == table.portfolio["es_95"]
    assert [one["ticker"] for one in last["stress"]] == ["AAA", "SPY", "portfolio"]
    assert [one["ticker"] for one in last["factors"]] == ["AAA", "SPY", "portfolio"]
    assert len(last["backtest"]) == 4


@pytest.mark.parametrize("judge", ["urisk-judge,llama3.1", ["urisk-judge", "llama3.1"]])
def test_judges_come_as_text_or_as_a_list(judge):
    """As JSON has them."""
    body = {"tickers": ["AAA"], "evidence": [{"ticker": "AAA", "text": "AAA was fined."}]}
    run = routes._open_run(RiskBody(**body, params={"judge": judge}))
    assert run.plan.params.judge == ("urisk-judge", "llama3.1")
    with pytest.raises(errors.InputError, match="twice"):
        routes._open_run(RiskBody(**body, params={"judge": "a,a"}))
