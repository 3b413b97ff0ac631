"""
The whole way with real weights: the embedded engine, started by the manager, judges the example's
evidence; the same as a service.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import socket
import threading
import time
import urllib.request
from types import SimpleNamespace
from typing import Literal

import httpx
import pandas as pd
import pytest

from harness import alive, children, eventually, free_port, launch_llamacpp
from urisk_nb import assess, demo, process_state
from urisk_nb.chat.options import AnswerOptions
from urisk_nb.chat.schemas import read_answer_schema
from urisk_nb.chat.structured import add_instruction, ask_for_data
from urisk_nb.chat.token_budget import estimate_most_tokens
from urisk_nb.errors import AnswerInvalid
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import build_messages
from urisk_nb.notebook import magics
from urisk_nb.notebook.ask import get_conversation
from urisk_nb.risk.params import RiskParams

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def manager(demo_model):
    manager = LLMManager.initialize_sync(
        engine="embedded", gguf=demo_model, url=f"http://127.0.0.1:{free_port()}"
    )
    yield manager
    manager.shutdown_sync()


def get_json(manager, path):
    with urllib.request.urlopen(f"{manager.url}{path}", timeout=10) as reply:
        return json.load(reply)


def read_metrics(manager):
    """llama.cpp's own counters since its start, by their names."""
    with urllib.request.urlopen(f"{manager.url}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    pairs = (line.removeprefix("llamacpp:").split() for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_the_example_is_judged_by_the_judge(manager):
    """
    Every sentence is asked once, both questions in one request, and no token is written; each has
    the probability of its label.
    """
    began = time.monotonic()
    table = assess(demo.TICKERS, prices=demo.prices(), evidence=demo.evidence(), manager=manager)
    seconds = time.monotonic() - began
    findings, metrics = table.report.findings, read_metrics(manager)
    assert set(table["status"]) == {"ok"}
    assert set(table["model"]) == {"urisk-judge"}
    assert set(findings["status"]) == {"judged"}
    assert all("small_judge" in flags.split(";") for flags in table["flags"])
    print(f"{len(findings)} sentences in {seconds:.1f} s, by llama.cpp: {metrics}")
    assert table["tokens"].sum() == 0
    timings = list(manager.calls)
    assert len(timings) == len(findings)
    # Both prompts of a sentence together
    assert max(timing.prompt_tokens for timing in timings) <= 200
    assert metrics["tokens_predicted_total"] == 0
    assert findings["p_label"].between(1 / 8, 1).all()
    assert findings.loc[findings["risk"] != "none", "p_severity"].between(1 / 6, 1).all()


def test_the_example_is_judged_whole_and_cheaply(manager):
    """
    By the demo model itself: each answer a valid label of two tokens or three, and the rules and
    examples before it are read once.
    """
    began = time.monotonic()
    params = RiskParams.of(model="smollm2-135m")
    table = assess(
        demo.TICKERS, prices=demo.prices(), evidence=demo.evidence(), manager=manager, params=params
    )
    seconds = time.monotonic() - began
    asked, metrics = int(table["attempts"].sum()), read_metrics(manager)
    assert set(table["status"]) == {"ok"}
    assert set(table.report.findings["status"]) == {"judged"}
    assert all("demo_model" in flags.split(";") for flags in table["flags"])
    print(f"{asked} questions in {seconds:.1f} s, by llama.cpp: {metrics}")
    assert 2 * asked <= table["tokens"].sum() < 2.5 * asked
    # A second look has the examples in reverse order: the first of them reads that prefix once.
    looks = 1 + bool((table.report.findings["severity"] >= 4).any())
    longest = max(timing.prompt_tokens for timing in manager.calls)
    assert longest > 500
    assert metrics["prompt_tokens_total"] <= looks * longest + 110 * asked


def test_an_answer_in_words(manager):
    """
    The demo model answers in words, with its timing by the server's counters; leaving a stream
    frees the slot.
    """
    answer = manager.generate_sync("Name one ocean.", options={"num_predict": 24, "temperature": 0})
    assert len(answer) > 5
    assert 4 < answer.timing.tokens <= 24  # it may end by itself before the limit
    assert answer.timing.generation_s > 0
    for _ in manager.stream_sync("Write a very long story about the sea."):
        break
    eventually(
        lambda: not any(slot["is_processing"] for slot in get_json(manager, "/slots")),
        10,
        "a free slot",
    )
    assert read_metrics(manager)["tokens_predicted_total"] < 24 + 100
    assert manager.generate_sync("Say yes.", options={"num_predict": 4})


def test_ten_turns_of_a_conversation_read_their_beginning_once(demo_model, figure):
    """
    System prompt, attachment and earlier turns are in the server's cache: by its own counters it
    reads far less than all prompts have. Each prompt leaves room for its answer.
    """
    manager = LLMManager.initialize_sync(
        engine="embedded",
        gguf=demo_model,
        url=f"http://127.0.0.1:{free_port()}",
        num_ctx=2048,
        parallel=1,
    )
    process_state.forget("conversation")
    try:
        note = "The company makes chips. It was fined by a regulator in March. " * 12
        shell = SimpleNamespace(user_ns={"note": note}, user_ns_hidden={})
        before = read_metrics(manager)["prompt_tokens_total"]
        for number in range(10):
            line = "--max-tokens 80 --temperature 0" + (" --with note" if number == 0 else "")
            question = f"Question {number}: tell me one more thing about the risks of this company."
            magics.run(shell, "ask", line, question)
        read = read_metrics(manager)["prompt_tokens_total"] - before
        timings = list(manager.calls)[-10:]
        talk = get_conversation()
        whole = sum(timing.prompt_tokens for timing in timings)
        assert talk.left_out + len(talk.turns) == 10
        assert all(timing.prompt_tokens + 80 <= 2048 for timing in timings)
        assert read < 0.5 * whole
        figure("ten turns: tokens of the prompts", whole)
        figure("ten turns: of these read by the server", read)
        figure("ten turns: to read them", sum(timing.prompt_s for timing in timings))
    finally:
        manager.shutdown_sync()
        process_state.forget("conversation")


TEXTS = {
    "prose": "Plain words about the risks of a maker of chips, and of its customers. " * 20,
    "numbers": "2018-01-02 | 0.123456 | -17.5% | 1,204\n" * 40,
    "rows": "TSLA | ok | Severe | 85.0 | legal | EBITDA NVDA XOM | demo_model, thin_evidence\n"
    * 20,
    "json": json.dumps([{"title": f"Headline {n}", "date": "2024-01-02"} for n in range(40)]),
    "russian": "Компания была оштрафована регулятором. " * 20,
    "chinese": "该公司被监管机构罚款三十亿美元。" * 20,
    "emoji": "📉🚀💥" * 20,
    "camel": "mktCapUSD|evEbitdaNTM|getNetIncomePerShare|px_close_adj\n" * 20,
}


def test_no_text_has_more_tokens_than_are_estimated(manager):
    """By the tokenizer of a small model, which knows few words; nor is it a third of that."""

    def count(text):
        body = json.dumps({"content": text}).encode()
        request = urllib.request.Request(
            f"{manager.url}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as reply:
            return len(json.load(reply)["tokens"])

    shares = {kind: count(text) / estimate_most_tokens(text) for kind, text in TEXTS.items()}
    assert all(1 / 3 < share <= 1 for share in shares.values()), shares


DATA_QUESTIONS = (
    "What is the main risk of a chip maker?",
    "Is a bank with many real estate loans risky?",
    "Rate the credit risk of an airline.",
    "An oil company was fined on 2024-03-05. How severe is it?",
)
LIMITS = {
    "type": "array",
    "minItems": 1,
    "maxItems": 2,
    "items": {
        "type": "object",
        "required": ["ticker", "severity"],
        "additionalProperties": False,
        "properties": {
            "ticker": {"type": "string", "pattern": "^[A-Z]{1,5}$"},
            "severity": {"type": "integer", "minimum": 0, "maximum": 5},
        },
    },
}


@dataclasses.dataclass
class Event:
    day: datetime.date
    level: Literal["low", "medium", "high"]
    is_legal: bool


def test_answers_as_data_fit_or_say_why(manager):
    """
    Ten questions over three schemas. The grammar holds the demo model to types, choices, dates and
    lengths; what does not fit, or is cut, is an error with its place.
    """
    fitting, reasons = 0, []
    for number in range(10):
        given = ("company:str, level:low|medium|high, since:date?", Event, LIMITS)[number % 3]
        schema = read_answer_schema(given, "--json")
        options = {"temperature": 0, "num_predict": 120}
        question = DATA_QUESTIONS[number % len(DATA_QUESTIONS)]
        messages = build_messages(add_instruction(question, schema), None)
        ask = functools.partial(manager.chat_sync, options=options, format=schema.json_schema)
        try:
            found = ask_for_data(ask, messages, schema, options=AnswerOptions(max_tokens=120))
        except AnswerInvalid as exc:
            reasons.append(exc.message)
        else:
            fitting += 1
            assert schema.read(found.answer).faults == ()
    print(f"{fitting} of 10 answers fit; {reasons}")
    assert all("$" in reason for reason in reasons)
    assert fitting >= 8


@contextlib.contextmanager
def served(**flags):
    """The app under uvicorn in a thread of this process, over a real socket."""
    import uvicorn

    from urisk_nb.service import create_app

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(**flags), lifespan="on", log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=120, trust_env=False
        ) as http:
            yield http
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


def lines_of(http, path, body):
    with http.stream("POST", path, json=body) as reply:
        assert (reply.status_code, reply.headers["content-type"]) == (200, "application/x-ndjson")
        return [json.loads(line) for line in reply.iter_lines() if line]


def figure_of(http, name):
    """A figure of /metrics, 0 where there is none."""
    lines = http.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def run_of(tickers):
    """What /risk takes: the example's prices and evidence about these."""
    prices, evidence = demo.prices()[tickers], demo.evidence()
    columns = {ticker: prices[ticker].tolist() for ticker in tickers}
    documents = evidence[evidence["ticker"].isin(tickers)].to_dict("records")
    return {
        "tickers": tickers,
        "prices": {"dates": [f"{day:%Y-%m-%d}" for day in prices.index], "columns": columns},
        "evidence": documents,
    }


def by_the_demo_model(answer):
    """Words, by real weights, with a timing by the server's counters."""
    assert (answer["model"], answer["engine"]) == ("smollm2-135m", "embedded")
    assert sum(letter.isalpha() for letter in answer["text"]) > 10
    assert 0 < answer["timing"]["first_token_s"] <= answer["timing"]["total_s"]
    assert answer["timing"]["tokens"] > 0
    return True


def test_the_service_over_real_weights(demo_model):
    """
    The flags start the embedded engine: ready by its own word, words whole and in pieces, rows,
    figures; then no process is left.
    """
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(name, reason="the extra `service` is not installed")
    before, url = children(), f"http://127.0.0.1:{free_port()}"
    options = {"num_predict": 24, "temperature": 0}
    with served(engine="embedded", gguf=demo_model, url=url) as http:
        eventually(
            lambda: http.get("/health/llm").status_code == 200, 60, "a service that is ready"
        )
        assert http.get("/health/llm").json() == {
            "status": "ready",
            "model": "smollm2-135m",
            "engine": "embedded",
        }
        pid, started = LLMManager.get_instance().pid, children() - before
        assert alive(pid)
        assert started

        assert by_the_demo_model(
            http.post("/chat", json={"prompt": "Name one ocean.", "options": options}).json()
        )
        *pieces, last = lines_of(
            http, "/chat", {"prompt": "Name one sea.", "options": options, "stream": True}
        )
        assert by_the_demo_model(last)
        assert len(pieces) > 3
        assert "".join(line["piece"] for line in pieces) == last["text"]

        *rows, last = lines_of(http, "/risk", run_of(["FB", "NFLX"]))
        assert {line["row"]["ticker"] for line in rows} == {"FB", "NFLX"}
        for line in rows:
            assert line["row"]["status"] == "ok"
            assert "small_judge" in line["row"]["flags"].split(";")
            assert {found["status"] for found in line["findings"]} == {"judged"}
            assert line["row"]["vol_ann"] > 0
        assert (last["run"]["served_by"]["engine"], last["run"]["served_by"]["model"]) == (
            "embedded",
            "urisk-judge",
        )

        assert figure_of(http, "urisk_first_token_seconds_count") == 2, "one for each chat"
        assert figure_of(http, 'urisk_calls_total{route="/risk",status="200"}') == 1
    assert not alive(pid)
    eventually(
        lambda: not any(map(alive, started)), 5, "the end of all that was started for the service"
    )
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/api/version", trust_env=False)


def test_two_servers_label_as_one_does(demo_model):
    """The whole table but for its times; both servers have answered."""
    tables = []
    launch = functools.partial(launch_llamacpp, demo_model, "--threads", 1)
    with launch() as one, launch() as other:
        for urls in ([one], [one, other]):
            manager = LLMManager.initialize_sync(url=urls)
            table = assess("GOOG, FB, MSFT", evidence=demo.evidence(), manager=manager)
            tables.append(pd.DataFrame(table.drop(columns=["run_id", "latency_s"])))
            answered = {record.server for record in manager.snapshot().records}
            manager.shutdown_sync()
    pd.testing.assert_frame_equal(*tables)
    assert answered == {one, other}
