"""
The scripted backend: its rules, its faults as a client meets them, and the labels that are no
judgement.
"""

import contextlib
import json
import socket

import pytest

import fake_ollama
from fake_ollama import Ending, Process, Rule, Scenario, ScriptedBackend, running
from fake_ollama.scripted import instance, label

RISKS = ["market", "credit", "liquidity", "operational", "legal", "business", "governance", "none"]
JUDGE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["risk", "severity"],
    "properties": {
        "risk": {"type": "string", "enum": RISKS},
        "severity": {"type": "integer", "enum": [0, 1, 2, 3, 4, 5]},
    },
}


def chat(text="hi", **rest):
    return {"model": "llama3.1", "messages": [{"role": "user", "content": text}], **rest}


def served(*rules, **rest):
    return running(ScriptedBackend(Scenario(rules=rules, **rest)))


def text_of(got):
    return "".join(line["message"]["content"] for line in got.lines)


def test_the_default_answer_says_that_it_is_scripted(ask):
    """Nobody can take a scripted answer for a model's."""
    with running(ScriptedBackend()) as server:
        assert "SCRIPTED" in text_of(ask(server.url, "POST", "/api/chat", chat()))
        assert (
            "SCRIPTED"
            in ask(
                server.url,
                "POST",
                "/api/generate",
                {"model": "llama3.1", "prompt": "x", "stream": False},
            ).json["response"]
        )
        assert ask(server.url, "GET", "/api/version").json == {"version": "0.33.0"}


def test_the_judges_schema_gets_a_valid_label_always_the_same(ask):
    """Same sentence, same label; every label fits the schema and ends with `stop`."""
    import jsonschema

    sentences = [
        "Acme was fined 2 billion dollars by the regulator.",
        "The meeting is in Berlin.",
        "Sales growth was a record.",
        "",
        "Ω ☃",
    ]
    with running(ScriptedBackend()) as server:
        for sentence in sentences:
            got = [
                ask(server.url, "POST", "/api/chat", chat(sentence or "-", format=JUDGE))
                for _ in range(2)
            ]
            assert text_of(got[0]) == text_of(got[1])
            assert got[0].lines[-1]["done_reason"] == "stop"
            jsonschema.validate(json.loads(text_of(got[0])), JUDGE)


def test_labels_follow_keywords():
    """
    Documented: alarm words 4, words of success 1, other hits 2, no hit none and 0; a list of one's
    own is respected.
    """
    assert label("Acme was fined 2 billion dollars by the regulator.", RISKS) == {
        "risk": "legal",
        "severity": 4,
    }
    assert label("Hackers stole customer records in a data breach.", RISKS)["risk"] == "operational"
    assert label("Revenue growth beat the forecast.", RISKS) == {"risk": "business", "severity": 1}
    assert label("The meeting is in Berlin.", RISKS) == {"risk": "none", "severity": 0}
    assert label("Acme was fined.", ["weather", "none"]) == {"risk": "none", "severity": 0}
    assert label("Acme was fined.", ["weather"])["risk"] == "weather"


SCHEMAS = [
    {"type": "object"},
    {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "array", "minItems": 2, "items": {"type": "integer", "minimum": 3}},
            "b": {},
        },
    },
    {"enum": ["x", "y"]},
    {"const": 7},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"type": ["number", "null"]},
    {"properties": {"ok": {"type": "boolean"}}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_other_schemas_get_a_valid_instance(schema):
    """Checked by jsonschema, not by us."""
    import jsonschema

    jsonschema.validate(instance(schema), schema)


def test_the_native_path_sorts_the_keys(ask):
    """As in Ollama: rendered keeps the schema's order of keys, native sorts them."""
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
    models = ({"name": "native"}, {"name": "rendered", "native": False})
    with served(models=models) as server:
        keys = {}
        for model in ("native", "rendered"):
            got = ask(server.url, "POST", "/api/chat", {**chat(format=schema), "model": model})
            keys[model] = list(json.loads(text_of(got)))
    assert keys == {"native": ["a", "b"], "rendered": ["b", "a"]}


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"properties": 3}, {"type": "array", "items": 3, "minItems": 1}],
)
def test_an_impossible_schema_is_refused_like_llama_cpp_does(ask, schema):
    """400, and the error's text is JSON again."""
    with served(Rule(answer="never")) as server:
        got = ask(server.url, "POST", "/api/chat", chat(format=schema))
    assert got.status == 400
    assert json.loads(got.json["error"])["error"]["type"] == "invalid_request_error"


def test_the_first_rule_that_fits_counts(ask):
    """Substring, regex, model and endpoint must all fit; the default serves the rest."""
    rules = (
        Rule(contains="tea", model="other:latest", answer="wrong model"),
        Rule(contains="tea", endpoint="generate", answer="wrong endpoint"),
        Rule(contains="tea", regex="^no", answer="wrong regex"),
        Rule(contains="tea", answer="right"),
        Rule(contains="tea", answer="too late"),
    )
    with served(*rules) as server:
        assert text_of(ask(server.url, "POST", "/api/chat", chat("some tea"))) == "right"
        assert "SCRIPTED" in text_of(ask(server.url, "POST", "/api/chat", chat("coffee")))


def test_a_rule_can_step_aside(ask):
    """Two refusals, then the answer: what a client that tries again needs."""
    with served(
        Rule(
            times=2,
            status=503,
            error="server busy, please try again.  maximum pending requests exceeded",
        ),
        Rule(answer="ok"),
    ) as server:
        got = [ask(server.url, "POST", "/api/chat", chat()) for _ in range(4)]
        assert [each.status for each in got] == [503, 503, 200, 200]
        assert text_of(got[3]) == "ok"


def test_an_object_is_sent_as_compact_json(ask):
    """And comes in several pieces, as a model writes it."""
    with served(Rule(answer={"risk": "legal", "severity": 4})) as server:
        got = ask(server.url, "POST", "/api/chat", chat())
    assert text_of(got) == '{"risk":"legal","severity":4}'
    assert len(got.lines) == 10


def test_num_predict_cuts_with_length(ask):
    """Partial JSON, done, `length`, status 200: no error."""
    with running(ScriptedBackend()) as server:
        got = ask(server.url, "POST", "/api/chat", chat(format=JUDGE, options={"num_predict": 3}))
    assert (got.status, got.lines[-1]["done_reason"], got.lines[-1]["eval_count"]) == (
        200,
        "length",
        3,
    )
    with pytest.raises(json.JSONDecodeError):
        json.loads(text_of(got))


def test_a_stop_string_ends_the_answer(ask):
    """The text before it is kept, wherever pieces end."""
    with served(Rule(answer="one two three")) as server:
        got = ask(server.url, "POST", "/api/chat", chat(options={"stop": ["zzz", "wo"]}))
    assert (text_of(got), got.lines[-1]["done_reason"]) == ("one t", "stop")


def test_delays_are_kept(ask):
    """First piece not before its time, the others at their distance; the counters tell both."""
    with served(Rule(answer=["a", "b", "c"], first_ms=40, token_ms=20)) as server:
        last = ask(server.url, "POST", "/api/chat", chat()).lines[-1]
    assert last["prompt_eval_duration"] >= 40e6
    assert last["eval_duration"] >= 40e6
    assert last["total_duration"] >= 80e6


# ---- faults --------------------------------------------------------------------------------------


def test_a_clean_end_without_done(ask):
    """Stream: the last line has done false. Whole: done false, no counters. Status 200 in both."""
    with served(Rule(answer=["a", "b"], ends=Ending.CUT)) as server:
        assert [line["done"] for line in ask(server.url, "POST", "/api/chat", chat()).lines] == [
            False,
            False,
        ]
        whole = ask(server.url, "POST", "/api/chat", chat(stream=False)).json
        assert (whole["message"]["content"], whole["done"]) == ("ab", False)
        assert not set(whole) & {"done_reason", "total_duration", "eval_count"}


def test_an_error_line_after_pieces(ask):
    """The last line holds the error and nothing else; the body ends well. Whole: a status."""
    text = "an error was encountered while running the model: unexpected EOF"
    with served(Rule(answer=["a"], ends="error", error=text)) as server:
        got = ask(server.url, "POST", "/api/chat", chat())
        assert (got.status, got.lines[-1]) == (200, {"error": text})
        assert ask(server.url, "POST", "/api/chat", chat(stream=False)).status == 500


def test_a_line_that_is_no_json(ask):
    """And then a clean end."""
    with served(Rule(answer=["a"], ends=Ending.GARBAGE)) as server:
        got = ask(server.url, "POST", "/api/chat", chat())
    assert json.loads(got.chunks[0])["done"] is False
    with pytest.raises(json.JSONDecodeError):
        json.loads(got.chunks[1])


def test_a_connection_that_breaks_in_a_line(ask):
    """Whatever arrived, the end of the body did not."""
    with served(Rule(answer=["a"], ends=Ending.RESET)) as server:
        data = json.dumps(chat()).encode()
        with socket.create_connection((server.host, server.port), timeout=5) as connection:
            connection.sendall(
                b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                % len(data)
                + data
            )
            got = b""
            try:
                while part := connection.recv(65536):
                    got += part
            except ConnectionResetError:
                pass
        assert b"0\r\n\r\n" not in got
        assert ask(server.url, "GET", "/").status == 200


def test_chunks_that_cut_lines_and_characters(ask):
    """Together they are the same bytes."""
    with served(Rule(answer=["è", "€", "𝄞"], split_bytes=3)) as server:
        got = ask(server.url, "POST", "/api/chat", chat())
    assert max(len(chunk) for chunk in got.chunks) == 3
    assert any(b"\n" in chunk[:-1] or not chunk.endswith(b"\n") for chunk in got.chunks)
    assert text_of(got) == "è€𝄞"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(502, "<html>", "text/html"), (403, "", None), (404, "404 page not found", "text/plain")],
)
def test_replies_that_are_not_ollamas(ask, status, body, kind):
    """A proxy's page, an empty refusal, plain text: as given."""
    with served(Rule(status=status, body=body, kind=kind)) as server:
        got = ask(server.url, "POST", "/api/chat", chat())
    assert (got.status, got.body.decode(), got.headers.get("Content-Type")) == (status, body, kind)


# ---- scenarios -----------------------------------------------------------------------------------


def test_a_scenario_is_read_from_json(tmp_path):
    """The fields of the classes, by their names."""
    path = tmp_path / "s.json"
    path.write_text(
        '{"models": ["a", {"name": "b", "native": false}], "rules": [{"contains": "x", "ends": '
        '"cut"}], "slots": 2}'
    )
    scenario = Scenario.load(path)
    assert scenario.rules == (Rule(contains="x", ends=Ending.CUT),)
    assert [model.name for model in ScriptedBackend(scenario).models()] == ["a:latest", "b:latest"]
    assert scenario.slots == 2


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"nonsense": 1}',
        '{"rules": [{"nonsense": 1}]}',
        '{"rules": [{"ends": "x"}]}',
        '{"rules": [{"regex": "("}]}',
        '{"rules": [3]}',
    ],
)
def test_what_is_no_scenario_is_a_value_error(tmp_path, text):
    """A misspelt field must not be a rule that does nothing."""
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ValueError):
        Scenario.load(path)


def test_public_names_are_sorted_and_there():
    """`fake_ollama.__all__` is the promise."""
    assert fake_ollama.__all__ == sorted(fake_ollama.__all__)
    assert all(hasattr(fake_ollama, name) for name in fake_ollama.__all__)


def test_a_taken_port_is_an_os_error():
    """In the caller's thread, and no thread is left."""
    with (
        running(ScriptedBackend()) as server,
        pytest.raises(OSError, match="in use"),
        running(ScriptedBackend(), port=server.port),
    ):
        pass


# ---- endings and pulls on a loop, without processes ----------------------------------------------


def ends(how, *pieces):
    return Rule(contains="go", answer=list(pieces), ends=Ending(how))


def silent(connection):
    """Nothing comes for a moment, and the connection stays open."""
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):
        connection.recv(1)


def sent(server, text, model="llama3.1"):
    """A connection on which this was asked."""
    body = json.dumps(chat(text, model=model)).encode()
    connection = socket.create_connection((server.host, server.port), timeout=5)
    connection.sendall(
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )
    return connection


def streaming(server, text="go", model="llama3.1"):
    """The same, read up to the end of the first piece."""
    connection, got = sent(server, text, model), b""
    while b"}\n\r\n" not in got:
        got += connection.recv(65536)
    return connection


def test_hang_keeps_the_connection_and_the_slot_until_the_client_leaves(ask):
    """Its pieces, then no byte; the next request gets the slot when the client is gone."""
    with served(ends("hang", "a")) as server:
        with streaming(server) as connection:
            silent(connection)
            assert server.counters["in_flight"] == 1
        assert text_of(ask(server.url, "POST", "/api/chat", chat()))
        assert server.counters["aborted"] == 1


def test_wedge_lets_the_whole_server_answer_nothing():
    """/api/version included, though it accepts connections; and the block still ends."""
    with served(ends("wedge", "a")) as server, streaming(server) as connection:
        silent(connection)
        with socket.create_connection((server.host, server.port), timeout=5) as other:
            other.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            silent(other)


def test_wedge_stops_the_answers_that_run():
    """Another model's stream gets no further piece either."""
    slow = Rule(contains="slow", answer=["x"] * 1000, token_ms=20)
    scripted = served(ends("wedge", "a"), slow, models=("llama3.1", "other"))
    with scripted as server, streaming(server, "slow", "other") as other, streaming(server):
        other.settimeout(0.2)
        with pytest.raises(TimeoutError):
            drained(other, most=50)  # what was under way; a stream that goes on has more


def drained(connection, most=1000):
    """Read to the end, or that often."""
    for _ in range(most):
        if not connection.recv(65536):
            return


def test_crash_without_a_process_cuts_everything_and_listens_no_more():
    """
    The test's own process lives on; each connection is cut, a new one is refused, the block ends as
    ever.
    """
    with served(ends("crash", "a"), Rule(answer=["b", "c"], token_ms=60_000), slots=2) as server:
        with streaming(server, "other") as busy, sent(server, "go") as connection:
            for each in (connection, busy):
                with contextlib.suppress(ConnectionResetError):
                    drained(each)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port), timeout=5).close()


FAILURES = [((), 500, "model runner has unexpectedly stopped"), (("a",), 200, "unexpected EOF")]


@pytest.mark.parametrize(("pieces", "status", "text"), FAILURES)
def test_runner_fails_the_request_and_the_next_one_loads_again(ask, pieces, status, text):
    """Ollama's words, without a process; /api/ps shows the model in between."""
    with served(ends("runner", *pieces)) as server:
        got = ask(server.url, "POST", "/api/chat", chat("go"))
        assert (got.status, text in got.lines[-1]["error"]) == (status, True)
        assert len(ask(server.url, "GET", "/api/ps").json["models"]) == 1
        assert text_of(ask(server.url, "POST", "/api/chat", chat()))
        assert server.counters["loads"] == 2


def test_runner_is_a_500_where_nothing_was_streamed(ask):
    """`stream: false`: the status tells, though the answer had begun."""
    with served(ends("runner", "a")) as server:
        got = ask(server.url, "POST", "/api/chat", chat("go", stream=False))
        assert (got.status, got.json) == (
            500,
            {"error": "an error was encountered while running the model: unexpected EOF"},
        )


def test_a_pull_of_what_is_missing_comes_in_steps_and_of_what_is_here_in_one(ask):
    """
    `completed` is absent while 0 and grows to the total; a second pull says at once that all is
    here.
    """
    with served(
        models=("llama3.1", {"name": "tiny", "installed": False, "size_bytes": 1000})
    ) as server:
        layer = [
            line
            for line in ask(server.url, "POST", "/api/pull", {"model": "tiny"}).lines
            if "total" in line
        ]
        assert [line.get("completed") for line in layer] == [
            None,
            100,
            200,
            300,
            400,
            500,
            600,
            700,
            800,
            900,
            1000,
        ]
        again = ask(server.url, "POST", "/api/pull", {"model": "tiny"}).lines
        assert [line["completed"] for line in again if "total" in line] == [1000]


def test_a_version_may_be_claimed(ask):
    """For a client that behaves by the version."""
    with running(ScriptedBackend(Scenario(version="0.33.0"))) as server:
        assert ask(server.url, "GET", "/api/version").json == {"version": "0.33.0"}


def test_a_scenario_file_holds_the_process(tmp_path):
    """Plain JSON; an unknown field of it is no scenario."""
    file = tmp_path / "scenario.json"
    file.write_text(
        '{"process": {"ready_ms": 5, "refuse": "no"}, "pull_ms": 1, "unload_ms": 2, "rules": '
        '[{"ends": "hang"}]}'
    )
    plan = Process(ready_ms=5, refuse="no")
    assert Scenario.load(file) == Scenario(
        process=plan, pull_ms=1, unload_ms=2, rules=(Rule(ends=Ending.HANG),)
    )
    with pytest.raises(ValueError, match="not a scenario"):
        Scenario.of({"process": {"nonsense": 1}})
