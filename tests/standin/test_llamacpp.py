"""llama.cpp behind the face: what is asked and read, on a server of our own; and the real model, marked slow."""

import asyncio
import json
import threading

import jsonschema
import pytest

from urisk_nb.risk.questions import SCHEMA as JUDGE_SCHEMA
from urisk_nb.risk.questions import SHORT
from urisk_nb.standin import Ask, Finish, Model, Piece, Refused, running, weights
from urisk_nb.standin.asks import options
from urisk_nb.standin.llamacpp import LlamaBrain, ModelUnusable, chat_payload, cores, raw_payload
from urisk_nb.standin.upstream import UpstreamLost, UpstreamRefused, events
from urisk_nb.standin.weights import GGUF

MODEL = Model(name="m:latest", size_bytes=1, digest="", modified_ns=0, context_length=4096)
SCHEMA = {"type": "object", "properties": {"risk": {"type": "string"}}}


def question(**rest):
    given = {"model": MODEL, "endpoint": "chat", "messages": ({"role": "user", "content": "x"},), "options": options({}), **rest}
    return Ask(**given)


# ---- what is asked -----------------------------------------------------------------------------------------------


def test_options_reach_llama_cpp_with_ollamas_defaults():
    """llama.cpp's own defaults differ (min_p, top_p), so every one is sent; the prefix cache is on."""
    sent = chat_payload(question(options=options({"temperature": 0, "seed": 7, "num_predict": 48, "stop": ["."], "nonsense": 1})))
    assert {name: sent[name] for name in ("temperature", "seed", "max_tokens", "stop")} == {
        "temperature": 0,
        "seed": 7,
        "max_tokens": 48,
        "stop": ["."],
    }
    assert (sent["top_k"], sent["top_p"], sent["min_p"], sent["repeat_penalty"]) == (40, 0.9, 0.0, 1.0)
    assert sent["cache_prompt"] is True
    assert sent["stream"] is True
    assert "nonsense" not in sent


def test_a_schema_becomes_a_response_format_with_its_own_order_of_keys():
    """And `json` becomes any object."""
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    sent = chat_payload(question(format=schema))["response_format"]
    assert json.dumps(sent["json_schema"]["schema"]) == json.dumps(schema)
    assert chat_payload(question(format="json"))["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "response_format" not in chat_payload(question())
    assert raw_payload(question(raw="x", format=schema))["json_schema"] == schema


@pytest.mark.parametrize(("asked", "sent"), [(-1, 1000), (0, 1), (5, 5), (10**9, 1000), (-5, 1000)])
def test_an_answer_is_bounded_by_ten_windows(asked, sent):
    """As in Ollama; 0 is one token on the chat path."""
    assert chat_payload(question(options=options({"num_predict": asked}), num_ctx=100))["max_tokens"] == sent


@pytest.mark.parametrize(
    ("given", "limit", "streamed"), [(SCHEMA, 48, False), (SCHEMA, 65, True), (SCHEMA, -1, True), (None, 48, True), ("json", 64, False)]
)
def test_a_short_answer_held_to_a_schema_comes_in_one_piece(given, limit, streamed):
    """Nobody can use half of it; a long one, and free text, come as they are made."""
    assert chat_payload(question(format=given, options=options({"num_predict": limit})))["stream"] is streamed


def test_think_reaches_the_template():
    """Only where it was sent."""
    assert chat_payload(question(think=False))["chat_template_kwargs"] == {"enable_thinking": False}
    assert chat_payload(question(think="low"))["chat_template_kwargs"] == {"enable_thinking": True}
    assert "chat_template_kwargs" not in chat_payload(question())


@pytest.mark.parametrize(
    ("text", "limit"), [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_threads_are_the_cores_that_we_may_use(tmp_path, text, limit):
    """A container's share counts, not the host's cores; without one the affinity does."""
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    everything = cores(tmp_path / "missing")
    assert cores(quota) == min(everything, limit or everything)


# ---- what comes back, from a server that we script ---------------------------------------------------------------


def upstream(test, reply):
    """Run the test against a server that sends these bytes to whoever connects, then closes."""

    async def main():
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            for part in reply if isinstance(reply, list) else [reply]:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            return await asyncio.wait_for(test(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 10)

    return asyncio.run(main())


async def collect(address):
    return [event async for event in events(address, "/x", {"stream": True})]


async def collect_whole(address):
    return [event async for event in events(address, "/x", {"stream": False})]


def chunked(body, size=None):
    step = size or len(body)
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


STREAM = ': ping\n\ndata: {"a":"è"}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n'.encode()


@pytest.mark.parametrize("size", [None, 1, 7])
def test_events_are_read_from_any_chunks(size):
    """Lines and characters may be cut anywhere; comments are passed over."""
    assert upstream(collect, chunked(STREAM, size)) == [{"a": "è"}, {"a": 2}]


def test_events_are_read_from_any_segments():
    """The wire may cut the framing itself."""
    data = chunked(STREAM, 5)
    assert upstream(collect, [data[at : at + 1] for at in range(len(data))]) == [{"a": "è"}, {"a": 2}]


@pytest.mark.parametrize("reply", [chunked(b'{"a": 1}', 3), b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'])
def test_an_answer_that_is_not_streamed_is_one_event(reply):
    """However its body is sent."""
    assert upstream(collect_whole, reply) == [{"a": 1}]


def test_half_an_answer_that_is_not_streamed_is_lost():
    """Not an event that says less."""
    with pytest.raises(UpstreamLost):
        upstream(collect_whole, b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a"')
    with pytest.raises(UpstreamLost):
        upstream(collect_whole, b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{"a"')


def test_another_status_carries_its_body():
    """llama.cpp's error, as it was sent."""
    body = b'{"error":{"code":400}}'
    with pytest.raises(UpstreamRefused) as caught:
        upstream(collect, b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert (caught.value.status, caught.value.body) == (400, body)


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200", chunked(STREAM)[:-30], b"garbage\r\n\r\n", chunked(b"data: {\n\n")])
def test_a_broken_answer_is_lost(reply):
    """Not an end, and no other exception."""
    with pytest.raises(UpstreamLost):
        upstream(collect, reply)


def test_nobody_there_is_lost():
    """A refused connection."""
    with pytest.raises(UpstreamLost, match="does not answer"):
        asyncio.run(collect("http://127.0.0.1:9"))


class Started:
    """In place of xllamacpp's server."""

    def __init__(self, address):
        self.listening_address = address


def answered(ask, *found, tail=b"data: [DONE]\n\n"):
    async def test(address):
        brain = object.__new__(LlamaBrain)
        brain._lora, brain._windows, brain._servers = None, {ask.model.name: 4096}, {4096: Started(address)}
        return [item async for item in brain.answer(ask)]

    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in found) + tail
    return upstream(test, chunked(body))


TIMINGS = {"cache_n": 33, "prompt_n": 1, "prompt_ms": 48.409, "predicted_n": 4, "predicted_ms": 31.4381}
END = {"choices": [{"finish_reason": "length", "index": 0, "delta": {}}], "timings": TIMINGS}


def delta(**rest):
    return {"choices": [{"finish_reason": None, "index": 0, "delta": rest}]}


def test_deltas_become_pieces_and_timings_become_counters():
    """Milliseconds to nanoseconds; cached and new tokens apart; the first delta without text is none."""
    items = answered(question(), delta(role="assistant", content=None), delta(reasoning_content="hm"), delta(content="A"), END)
    assert items[:2] == [Piece(text="", thinking="hm"), Piece(text="A")]
    assert items[2] == Finish(reason="length", prompt_new=1, prompt_cached=33, prompt_ns=48_409_000, answered=4, answer_ns=31_438_100)


def test_log_probabilities_take_ollamas_shape():
    """No token ids; top_logprobs only where asked for."""
    entry = {"id": 504, "token": "The", "bytes": [84], "logprob": -1.5}
    event = delta(content="The")
    event["choices"][0]["logprobs"] = {"content": [{**entry, "top_logprobs": [entry, entry]}]}
    plain = {"token": "The", "bytes": [84], "logprob": -1.5}
    assert answered(question(top_logprobs=0), event, END)[0].logprobs == (plain,)
    assert answered(question(top_logprobs=1), event, END)[0].logprobs == ({**plain, "top_logprobs": [plain]},)


def test_completion_events_are_read_too():
    """The raw path has other names for the same things."""
    events = [{"content": " a", "stop": False}, {"content": "", "stop": True, "stop_type": "eos", "timings": TIMINGS}]
    piece, end = answered(question(raw="x", endpoint="generate"), *events)
    assert (piece.text, end.reason, end.answered) == (" a", "stop", 4)


def test_an_error_event_is_ollamas_error_line():
    """In the middle of a stream."""
    with pytest.raises(Refused) as caught:
        answered(question(), delta(content="A"), {"error": {"code": 500, "message": "no", "type": "server_error"}})
    assert caught.value.text == "llama-server chat error: map[code:500 message:no type:server_error]"


def test_a_stream_without_an_end_is_an_error():
    """A crash must not look like an answer."""
    with pytest.raises(Refused) as caught:
        answered(question(), delta(content="A"))
    assert caught.value.text == "an error was encountered while running the model: unexpected EOF"


# ---- the real model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(demo_model):
    with running(LlamaBrain(demo_model, threads=1)) as server:  # the cores may be busy with other tests
        yield server


def chat(text, **rest):
    fixed = {"temperature": 0, "seed": 1, "num_predict": 48, **rest.pop("options", {})}
    return {"model": "smollm2-135m", "messages": [{"role": "user", "content": text}], "think": False, "options": fixed, **rest}


@pytest.mark.slow
def test_the_real_model_answers_in_pieces(real, ask):
    """One line a token, counters that fit, the same again for the same seed."""
    first, second = (ask(real.url, "POST", "/api/chat", chat("Name one ocean.", options={"num_predict": 12})) for _ in range(2))
    assert [line["done"] for line in first.lines] == [False] * 12 + [True]
    assert first.lines[-1]["eval_count"] == 12
    assert [line.get("message") for line in first.lines] == [line.get("message") for line in second.lines]


@pytest.mark.slow
def test_the_real_model_keeps_to_a_schema(real, ask):
    """Valid at the first try, as the grammar enforces."""
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["risk", "severity"],
        "properties": {
            "risk": {"type": "string", "enum": ["legal", "business", "none"]},
            "severity": {"type": "integer", "enum": [0, 1, 2, 3, 4, 5]},
        },
    }
    got = ask(real.url, "POST", "/api/chat", chat("Acme was fined 5 billion dollars.", format=schema, stream=False)).json
    assert got["done_reason"] == "stop"
    jsonschema.validate(json.loads(got["message"]["content"]), schema)


@pytest.mark.slow
def test_a_common_prefix_is_not_computed_again(real, ask):
    """A second question behind the same rules costs its own tokens only; prompt_eval_count stays the whole."""
    rules = {"role": "system", "content": "You judge sentences about companies. " * 30}
    counts = []
    for text in ("Acme was fined.", "Acme opened a plant."):
        body = chat(text, stream=False, options={"num_predict": 2})
        body["messages"].insert(0, rules)
        counts.append(ask(real.url, "POST", "/api/chat", body).json["prompt_eval_count"])
    first, second = real.counters["recent"][-2:]
    assert first["prompt_new"] > 150
    assert second["prompt_new"] < 20
    assert counts == [each["prompt_new"] + each["prompt_cached"] for each in (first, second)]


@pytest.mark.slow
def test_a_client_that_leaves_frees_the_real_slot(real, ask):
    """The next answer does not wait for a long one that nobody reads."""
    import socket

    data = json.dumps(chat("Write a very long story.", options={"num_predict": 4000})).encode()
    before = real.counters["aborted"]
    with socket.create_connection((real.host, real.port), timeout=30) as connection:
        connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        assert b"200 OK" in connection.recv(4096)
    got = ask(real.url, "POST", "/api/chat", chat("Name one ocean.", stream=False, options={"num_predict": 2})).json
    assert got["eval_count"] == 2
    assert got["total_duration"] < 20e9  # 4,000 tokens take 40 s on an idle machine
    assert real.counters["aborted"] == before + 1


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_llama_cpps_own_400(real, ask):
    """The text is JSON again, with both figures, as on Ollama's native path."""
    got = ask(real.url, "POST", "/api/chat", chat("word " * 6000))
    error = json.loads(got.json["error"])["error"]
    assert got.status == 400
    assert error["type"] == "exceed_context_size_error"
    assert error["n_ctx"] == 4096
    assert "exceeds the available context size (4096 tokens)" in error["message"]


@pytest.mark.slow
def test_a_bad_schema_is_llama_cpps_own_400(real, ask):
    """As a string of JSON."""
    got = ask(real.url, "POST", "/api/chat", chat("x", format={"type": "nonsense"}))
    assert got.status == 400
    assert json.loads(got.json["error"])["error"]["type"] == "invalid_request_error"


@pytest.mark.slow
def test_generate_raw_and_log_probabilities(real, ask):
    """The completion path: a prompt without a template, each token with its probability."""
    body = {"model": "smollm2-135m", "prompt": "The sea is", "raw": True, "stream": False, "logprobs": True, "top_logprobs": 2}
    got = ask(real.url, "POST", "/api/generate", {**body, "options": {"num_predict": 3, "temperature": 0}}).json
    assert "".join(entry["token"] for entry in got["logprobs"]) == got["response"]
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in got["logprobs"])
    assert "context" not in got


@pytest.mark.slow
def test_another_window_loads_again_and_is_in_force(real, ask):
    """/api/ps shows it, and a prompt longer than it is refused."""
    loads = real.counters["loads"]
    got = ask(real.url, "POST", "/api/chat", chat("x", stream=False, options={"num_ctx": 512, "num_predict": 1})).json
    assert real.counters["loads"] == loads + 1
    assert got["load_duration"] > 10e6
    assert ask(real.url, "GET", "/api/ps").json["models"][0]["context_length"] == 512
    refused = ask(real.url, "POST", "/api/chat", chat("word " * 600, options={"num_ctx": 512}))
    assert json.loads(refused.json["error"])["error"]["n_ctx"] == 512


@pytest.mark.slow
def test_unloading_frees_the_real_model(real, ask):
    """keep_alive 0: gone from /api/ps; the next question loads it again."""
    ask(real.url, "POST", "/api/chat", {"model": "smollm2-135m", "messages": [], "keep_alive": 0})
    pause = threading.Event()
    assert any(ask(real.url, "GET", "/api/ps").json["models"] == [] or pause.wait(0.02) for _ in range(200))
    assert ask(real.url, "POST", "/api/chat", chat("x", stream=False, options={"num_predict": 1})).status == 200


def judged(real, ask, text):
    messages = [{"role": "system", "content": SHORT}, {"role": "user", "content": text}]
    body = chat(text, model="urisk-judge", messages=messages, format=JUDGE_SCHEMA, stream=False)
    return ask(real.url, "POST", "/api/chat", body).json


@pytest.mark.slow
def test_the_demo_weights_serve_two_models(real, ask):
    """The demo model is the first and keeps its own mind; the judge, over the same file, labels in at most 14 compact tokens."""
    names = [model["name"] for model in ask(real.url, "GET", "/api/tags").json["models"]]
    assert names == ["smollm2-135m:latest", "urisk-judge:latest"]
    before = ask(real.url, "POST", "/api/chat", chat("Name one ocean.", stream=False, options={"num_predict": 8})).json["message"]
    got = judged(real, ask, "Its auditor has resigned over missing bank statements.")
    assert got["message"]["content"].startswith('{"risk":"governance","severity":')
    assert got["eval_count"] <= 14
    assert json.loads(judged(real, ask, "The bank cannot repay the bonds that fall due in May.")["message"]["content"])["risk"] == "credit"
    after = ask(real.url, "POST", "/api/chat", chat("Name one ocean.", stream=False, options={"num_predict": 8})).json["message"]
    assert after == before
    assert {model["name"] for model in ask(real.url, "GET", "/api/ps").json["models"]} == set(names)


@pytest.mark.slow
def test_two_models_share_a_server(real, ask):
    """One server of llama.cpp for both, since OpenMP lets threads sleep at each step where it counts more than cores."""
    ask(real.url, "POST", "/api/chat", {"model": "smollm2-135m", "messages": []})
    judged(real, ask, "Acme was fined.")
    assert len(real._face._brain._servers) == 1
    ask(real.url, "POST", "/api/chat", chat("x", stream=False, options={"num_ctx": 1024, "num_predict": 1}))
    assert len(real._face._brain._servers) == 2  # the other window; it takes the place of the first for this model
    ask(real.url, "POST", "/api/chat", chat("x", stream=False, options={"num_predict": 1}))
    assert len(real._face._brain._servers) == 1


@pytest.mark.slow
def test_unloading_one_model_leaves_the_other(real, ask):
    """They share a server of llama.cpp, which goes with the last."""
    judged(real, ask, "Acme was fined.")
    ask(real.url, "POST", "/api/chat", {"model": "urisk-judge", "messages": [], "keep_alive": 0})
    pause = threading.Event()

    def there():
        return {model["name"] for model in ask(real.url, "GET", "/api/ps").json["models"]}

    assert any("urisk-judge:latest" not in there() or pause.wait(0.02) for _ in range(200))
    assert ask(real.url, "POST", "/api/chat", chat("x", stream=False, options={"num_predict": 1})).json["eval_count"] == 1
    assert json.loads(judged(real, ask, "Acme was fined.")["message"]["content"])["risk"] == "legal"


def test_a_damaged_adapter_is_told_before_anything_is_loaded(demo_model, tmp_path, monkeypatch):
    """What it is, and what to do."""
    damaged = tmp_path / "urisk-judge.gguf"
    damaged.write_bytes(weights.ADAPTER.read_bytes()[:-1])
    monkeypatch.setattr(weights, "ADAPTER", damaged)
    with pytest.raises(ModelUnusable, match=r"is not the published file.*install urisk-nb again"):
        LlamaBrain(demo_model)


@pytest.mark.slow
def test_a_file_with_a_good_head_and_bad_contents_is_told_at_the_load(demo_model, tmp_path, ask):
    """The head promises nothing about the rest: a 500 with the file's name, and the server lives."""
    data = bytearray(demo_model.read_bytes())
    at = data.index(b"llama.block_count")
    data[at : at + 17] = b"llama.block_xxxxx"
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with running(LlamaBrain(path, threads=1)) as server:
        got = ask(server.url, "POST", "/api/chat", {**chat("x"), "model": "broken"})
        assert got.status == 500
        assert "broken.gguf" in got.json["error"]
        assert ask(server.url, "GET", "/").status == 200


@pytest.mark.slow
def test_the_process_with_the_real_model(demo_model):
    """Ready before the model is loaded, named, and gone with 0 on SIGTERM after it was."""
    import signal
    import subprocess
    import sys
    import urllib.request

    command = [sys.executable, "-m", "urisk_nb.standin", "--brain", "llamacpp", "--threads", "1", "--gguf", str(demo_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        line = json.loads(process.stdout.readline())
        assert (line["brain"], line["model"]) == ("llamacpp", "smollm2-135m:latest")
        assert demo_model.name == GGUF
        body = json.dumps(chat("Name one ocean.", stream=False, options={"num_predict": 2})).encode()
        with urllib.request.urlopen(urllib.request.Request(line["url"] + "/api/chat", body), timeout=30) as reply:
            assert json.load(reply)["done"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
