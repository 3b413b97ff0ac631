"""
The dashboard's markup: what it says in each state, that every part is named, and that nothing
hostile comes through.
"""

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from call_records import MODEL, NOW, answered, facts, failed, request, waited
from urisk_nb.errors import ServerBusy, StreamInterrupted
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.messages import Chunk, LoadedModel
from urisk_nb.llm.snapshot import SessionSnapshot
from urisk_nb.notebook import call_panel, panels
from urisk_nb.notebook.alerts import Alert
from urisk_nb.server.memory_usage import MemoryUsage

EVIL = "</pre></style></details><script>x()</script><img src=x onerror=x()>\"'\u202e"
# What the house's own markup is made of.
OURS = {
    *(
        "div",
        "span",
        "strong",
        "b",
        "dl",
        "dt",
        "dd",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "h4",
        "details",
        "summary",
        "pre",
    ),
    *("svg", "path", "rect", "text", "title", "style"),
}
VOID_OF_CLOSE = {"path", "rect"}


class Reader(HTMLParser):
    """
    The text of some markup; fails on an element that is not the house's, on a handler, and on one
    left open.
    """

    def __init__(self, markup):
        super().__init__()
        self.words, self.open, self.labels, self.titles = [], [], [], []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag in OURS, tag
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attributes)
        if tag in ("table", "svg") and dict(attributes).get("aria-hidden") != "true":
            self.labels.append(dict(attributes)["aria-label"])
        if tag not in VOID_OF_CLOSE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def read(markup):
    """Its text, on one line."""
    return re.sub(r"\s+", " ", " ".join(Reader(markup).words)).strip()


# Head ---------------------------------------------------------------------------------------------

STATES = {
    "ready": ({}, "Ready ·"),
    "not loaded": ({"loaded_models": ()}, "Ready, model not loaded"),
    "crashed": ({"state": "crashed", "loaded_models": None}, "Down, restarting"),
    "failed": ({"state": "failed", "loaded_models": None}, "Down ·"),
    "hung": ({"state": "hung", "loaded_models": None}, "Does not answer"),
    "silent": (
        {"state": "external", "loaded_models": None, "probe": {"problem": "nothing answers."}},
        "Does not answer",
    ),
    "breaker": ({"breaker": "open"}, "Circuit open"),
    "trial": ({"breaker": "half_open"}, "Circuit half-open"),
    "starting": ({"state": "starting", "loaded_models": None}, "Starting"),
    "first start": (
        {"server_label": "", "state": "starting"},
        "Starting · a session is being started",
    ),
    "nothing": ({"server_label": "", "state": "stopped"}, "Not started · no session"),
}


@pytest.mark.parametrize(("more", "words"), STATES.values(), ids=STATES)
def test_the_word_beside_the_lamp(more, words):
    """In words, since a colour alone tells some nothing."""
    assert read(panels.render_head(facts(**more))).startswith(words)


def test_the_colour_of_the_lamp():
    """Green only where the model is there and the server answers."""
    lamps = {
        name: re.search(r"background:(#\w+)", panels.render_head(facts(**more)))[1]
        for name, (more, _) in STATES.items()
    }
    assert {name for name, colour in lamps.items() if colour == panels.LAMPS["good"]} == {"ready"}
    assert {name for name, colour in lamps.items() if colour == panels.LAMPS["bad"]} == {
        "crashed",
        "failed",
        "hung",
        "silent",
        "breaker",
    }


def test_what_a_server_of_ours_shows():
    """
    Process, memory of server and runner, calls, slots, restarts, breaker; not the account, which is
    one's own.
    """
    memory = MemoryUsage(
        pid=77,
        started_at=NOW - timedelta(minutes=5),
        server_bytes=60_000_000,
        runner_bytes=1_200_000_000,
        runners=1,
    )
    words = read(
        panels.render_head(
            facts(
                probe={"memory": memory, "owner": "quant"},
                in_flight=1,
                waiting=4,
                restart_count=2,
                breaker="half_open",
            )
        )
    )
    for expected in (
        "process 77",
        "up 5 min",
        "memory 60 MB + 1.2 GB in 1 runner",
        "in flight 1 (1 slot)",
        "queued locally 4",
    ):
        assert expected in words
    assert "restarts 2 circuit half-open" in words
    assert "quant" not in words


def test_what_a_server_of_others_shows():
    """Whose it is; of its slots nothing is known."""
    words = read(
        panels.render_head(facts(is_managed=False, slots=0, parallel=2, probe={"owner": "ollama"}))
    )
    assert "account ollama" in words
    assert "in flight 0 (at most 2)" in words
    assert "process" not in words


PLACES = [
    (5_000_000_000, "GPU 5.0 GB"),
    (0, "CPU 5.0 GB"),
    (3_000_000_000, "GPU 60%, CPU 40% 5.0 GB"),
]


@pytest.mark.parametrize(("gpu", "where"), PLACES)
def test_where_a_model_is(gpu, where):
    """On the GPU, on the CPU, or on both."""
    model = LoadedModel(name=MODEL, size_bytes=5_000_000_000, gpu_bytes=gpu, num_ctx=8192)
    assert f"{MODEL} {where} 8,192 tokens –" in read(
        panels.render_head(facts(loaded_models=(model,)))
    )


@pytest.mark.parametrize(
    ("expires_at", "words"),
    [
        ("2026-03-04T12:19:50.123456789Z", "in 20 min"),
        ("2026-03-04T14:30:00.5+02:00", "in 30 min"),
        ("2026-03-04T12:00:20Z", "in less than a minute"),
        ("2026-03-04T12:01:10Z", "in 1 min"),
        ("2026-03-04T15:05:00Z", "in 3 h 5 min"),
        ("2026-03-14T12:00:00Z", "in 10 days"),
        ("2318-03-14T12:00:00Z", "never"),
        ("2026-03-04T11:59:00Z", "now"),
        ("", "–"),
        ("soon", "–"),
    ],
)
def test_when_a_model_is_unloaded(expires_at, words):
    """Its date, in whatever zone, as a time that is left; -1 shows as a date in centuries."""
    model = LoadedModel(name=MODEL, size_bytes=10**9, expires_at=expires_at)
    assert read(panels.render_head(facts(loaded_models=(model,)))).endswith(f"– {words}")


def test_no_model_in_memory_is_said():
    """It costs the next call a load."""
    assert "No model in memory: the next call loads one." in read(
        panels.render_head(facts(loaded_models=()))
    )


def test_the_head_does_not_change_by_itself_within_a_minute():
    """What differs is sent: seconds that count would be sent for ever."""
    memory = MemoryUsage(
        pid=77,
        started_at=NOW - timedelta(minutes=5),
        server_bytes=60_000_000,
        runner_bytes=0,
        runners=0,
    )
    shown = facts(probe={"memory": memory})
    later = SessionSnapshot(
        **{name: getattr(shown, name) for name in shown.__slots__}
        | {"at": NOW + timedelta(seconds=20)}
    )
    assert panels.render_head(shown) == panels.render_head(later)


# Calls under way ----------------------------------------------------------------------------------


def test_calls_under_way():
    """How far each is, the ones that are worked on first, no more than six; the rest is counted."""
    calls = Calls()
    waiting = [calls.begin(request(), MODEL) for _ in range(8)]
    first, second = waiting[3], waiting[5]
    for record in (first, second):
        record.mark_started()
        record.mark_sent()
    first.add_chunk(Chunk(text="a"))
    first.add_chunk(Chunk(text="b"))
    second.mark_retry(ServerBusy("full.", fix="wait"))
    words = read(panels.render_live_calls(facts(calls)))
    assert re.search(
        rf"4 · {MODEL} generating [\d.]+ 2 6 · {MODEL} queue, load, prompt, attempt 2 [\d.]+ 0 "
        rf"1 · {MODEL} queued locally",
        words,
    )
    assert words.endswith("and 2 more")
    assert panels.render_live_calls(facts()) == ""


# Figures ------------------------------------------------------------------------------------------


def test_figures_of_calls():
    """
    Percentiles are of calls that succeeded; failures by kind; calls cancelled apart; the cache is
    an estimate.
    """
    calls = Calls()
    for number in range(1, 101):
        answered(calls, generation=number / 100, tokens=11, prompt=1.0 if number == 1 else 0.05)
    for record in calls.records:
        object.__setattr__(record.timing, "total_s", record.number / 100)
        object.__setattr__(record.timing, "first_token_s", record.number / 1000)
        object.__setattr__(record.timing, "wait_s", record.number / 10)
    for error in (
        ServerBusy("full.", fix="wait"),
        ServerBusy("full.", fix="wait"),
        StreamInterrupted("cut.", fix="ask"),
        GeneratorExit(),
    ):
        failed(calls, error)
    words = read(panels.render_figures(facts(calls)))
    assert "100 calls that succeeded p50 p95 p99" in words
    assert (
        "queued locally 5.00 s 9.50 s 9.90 s first token, once sent 50 ms 95 ms 99 ms whole call "
        "5.50 s 10.45 s 10.89 s" in words
    )
    # Ten tokens after the first in 0.01 to 1 s, so 1000/n a second: by the nearest rank those of
    # the calls 51, 96 and 100.
    assert "tokens a second, at least 19.6 10.4 10.0" in words
    assert (
        "failed: ServerBusy 2, StreamInterrupted 1 · cancelled: 1 · prompt cache (estimate): 99 "
        "of 100 calls hit" in words
    )


def test_no_calls_yet_say_what_will_be_there():
    """An empty picture would be a riddle."""
    assert read(panels.render_figures(facts())).startswith("No calls yet.")


# One call -----------------------------------------------------------------------------------------


def test_one_call_in_detail():
    """
    Phases, the median beside them, what was asked with which options, prompt and answer folded.
    """
    calls = Calls()
    for prompt in (0.1, 0.1, 0.4):
        record = answered(calls, prompt=prompt, answer="It was fined.")
    markup = call_panel.render_call(record, calls.records)
    words = read(markup)
    assert "Call 3: ok" in words
    assert "100 tokens of prompt, 8 of answer" in words
    assert "reading the prompt 400 ms 100 ms 4.0 ×" in words
    assert 'options: num_ctx 4096; keep_alive "20m"' in words
    assert "Prompt: system (10 characters) You judge." in words
    assert "Prompt: user (19 characters) What are the risks?" in words
    assert "Answer (13 characters) It was fined." in words
    assert markup.count("<details>") == 3, "folded"
    assert "phases of call 3" in Reader(markup).labels


def test_a_failed_call_in_detail():
    """
    The error, the tries before it, and the part of the answer that came; there is no median to
    compare with.
    """
    calls = Calls()
    answered(calls)
    record = failed(
        calls,
        StreamInterrupted("the answer was cut off.", fix="ask"),
        after=[ServerBusy("its queue is full.", fix="wait")],
    )
    words = read(call_panel.render_call(record, calls.records))
    assert "Call 2: StreamInterrupted" in words
    assert "the answer was cut off." in words
    assert "failed attempts" in words
    assert "1 ServerBusy its queue is full." in words
    assert "Answer, as far as it came (0 characters)" in words
    assert "median" not in words


def test_a_call_that_was_never_sent_in_detail():
    """It waited here, and that is all there is."""
    calls = Calls()
    record = calls.begin(request(), MODEL)
    calls.fail(record, GeneratorExit())
    words = read(call_panel.render_call(record, calls.records))
    assert "Call 1: cancelled" in words
    assert "queued locally" in words
    assert "nan" not in words


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[1]",
        b'{"messages": "x", "options": 3}',
        b'{"messages": [3, null, {"role": 4, "content": [5]}]}',
        b"\xff",
    ],
)
def test_requests_that_are_no_chat(body):
    """A part of a long one, or a body of somebody's own: shown as it is, never a failure."""
    calls = Calls()
    read(call_panel.render_call(failed(calls, body=body), calls.records))


def test_a_line_of_the_list():
    """Number, time, how long, how it ended, whom; one line whatever the model is called."""
    calls = Calls()
    answered(calls, model="m\n\u202ex")
    failed(calls)
    lines = [call_panel.format_call(record) for record in calls.records]
    assert "8 tokens" in lines[0]
    assert "ServerConnectionLost" in lines[1]
    assert not any("\u202e" in line for line in lines)


# The whole ----------------------------------------------------------------------------------------


def hostile():
    """A session in which every text from outside is hostile."""
    calls = Calls()
    body = request(EVIL, model=EVIL, format={EVIL: EVIL}, keep_alive=EVIL).replace(
        b'"num_ctx": 4096', b'"num_ctx": 4096, "stop": "</pre><script>"'
    )
    answered(calls, body=body, model=EVIL, answer=EVIL)
    failed(calls, StreamInterrupted(EVIL, fix=EVIL), body=body, after=[ServerBusy(EVIL, fix=EVIL)])
    calls.begin(body, EVIL)
    loaded_models = (LoadedModel(name=EVIL, size_bytes=5, gpu_bytes=3, expires_at=EVIL),)
    texts = {
        "server_label": EVIL,
        "model": EVIL,
        "notes": (EVIL,),
        "log": EVIL,
        "failure": (EVIL, EVIL),
    }
    return facts(
        calls,
        loaded_models=loaded_models,
        probe={"problem": EVIL, "fix": EVIL, "owner": EVIL},
        is_managed=False,
        **texts,
    )


def test_nothing_hostile_comes_through():
    """
    In no part, and in no call: the reader fails on any element or attribute that is not the
    house's; direction marks are written out.
    """
    seen = hostile()
    whole = [
        panels.render_snapshot(seen),
        *(call_panel.render_call(record, seen.records) for record in seen.records),
    ]
    for markup in whole:
        words = read(markup)
        assert "<script>x()</script>" in words
        assert "\u202e" not in markup
    assert "\u202e" not in panels.render_snapshot_text(seen)


def test_a_count_that_no_server_told_is_left_out():
    """A server without usage: no `0 tokens`, neither in the list of calls nor in a call."""
    calls = Calls()
    silent, one = answered(calls, tokens=0, prompt_tokens=0), answered(calls, tokens=1)
    assert "token" not in call_panel.format_call(silent)
    assert "tokens" not in call_panel.render_call(silent, calls.records)
    assert " 1 token " in f"{call_panel.format_call(one)} "
    assert "100 tokens of prompt, 1 of answer" in call_panel.render_call(one, calls.records)


def test_a_dollar_in_the_snapshot_is_money():
    """No front end sets what stands between two dollars as mathematics: the class forbids it."""
    top = panels.render_snapshot(facts()).split("</style>")[1].split(">")[0]
    assert "tex2jax_ignore" in top


def test_the_snapshot_is_whole_and_needs_no_program():
    """
    All parts, a table of the last calls, when it was made; every table and picture has a name.
    """
    calls = Calls()
    for _ in range(12):
        answered(calls)
    markup = panels.render_snapshot(facts(waited(calls, 2), waiting=2, in_flight=1))
    words = read(markup)
    for part in (
        "Ready ·",
        "2 calls wait behind 1",
        "12 calls that succeeded",
        "as it was at",
        "call model ended first token whole tokens",
    ):
        assert part in words
    assert "12 llama3.1:latest ok" in words
    assert " 2 llama3.1:latest ok" not in words, "the last ten"
    assert "<script" not in markup
    assert Reader(markup).labels == [
        "models in memory",
        "in-flight calls",
        "Latency of the last 12 calls, up to 1 seconds",
        "latency percentiles",
        "last calls",
    ]


def test_the_snapshot_as_text():
    """For a terminal, and for whoever compares notebooks."""
    assert panels.render_snapshot_text(facts(server_label="")).startswith("Not started: no session")
    lines = panels.render_snapshot_text(
        facts(waited(Calls(), 1), waiting=1, in_flight=1)
    ).splitlines()
    assert lines[0].startswith("Ready: Ollama 0.33.0")
    assert "  queued locally: 1" in lines
    assert lines[-1].startswith("  note: 1 call waits behind 1")


def test_alerts_are_read_out():
    """One live region, with what to do set apart; none where there is nothing to say."""
    markup = panels.render_alerts(
        [Alert(text="seen", action="do", level="error"), Alert(text="only seen")]
    )
    assert 'role="status" aria-live="polite"' in markup
    assert read(markup) == "seen do only seen"
    assert "role" not in panels.render_alerts([Alert(text="3 calls wait", level="note")]).replace(
        '<div role="status" aria-live="polite"></div>', ""
    )
    assert panels.render_alerts([]) == ""
