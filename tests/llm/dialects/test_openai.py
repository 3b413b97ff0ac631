"""
The OpenAI-compatible wire: requests, event streams cut anywhere, model lists, refusals; recorded
from llama.cpp's own server.
"""

import json
import random

import pytest

from harness import ROOT
from urisk_nb import errors
from urisk_nb.errors import UriskError
from urisk_nb.llm.dialects import dialect, openai
from urisk_nb.llm.messages import ChatRequest, Chunk, Final, find_model

LINES = (ROOT / "tests/data/llamacpp_transcripts.jsonl").read_text(encoding="utf-8").splitlines()
RECORDED = {record["name"]: record for record in map(json.loads, LINES)}
HELLO = [{"role": "user", "content": "hi"}]


def request(**given):
    return ChatRequest(
        **{"model": "m", "messages": HELLO, "num_ctx": 4096, "keep_alive": "20m", **given}
    )


def body_of(name):
    return "".join(RECORDED[name]["chunks"])


def read(chunks):
    decoder = openai.ChatDecoder()
    return [*(item for chunk in chunks for item in decoder.feed(chunk)), *decoder.finish()]


def read_recorded(name):
    return read([chunk.encode() for chunk in RECORDED[name]["chunks"]])


def text_of(items):
    return "".join(item.text for item in items)


# Requests


def test_a_chat_has_one_shape():
    """
    Every chat is streamed and asks for the counters; window and keep-alive have no word on this
    wire.
    """
    body = json.loads(openai.encode_chat(request()))
    assert body == {
        "model": "m",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_options_are_translated_by_name():
    """Ollama's names become this wire's; no limit of tokens is the wire's default."""
    options = {
        "num_predict": 48,
        "seed": 7,
        "temperature": 0,
        "top_p": 0.9,
        "stop": ["\n"],
        "presence_penalty": 1,
        "frequency_penalty": 2,
    }
    body = json.loads(openai.encode_chat(request(options=options)))
    assert body["max_tokens"] == 48
    assert {name: body[name] for name in options if name != "num_predict"} == {
        k: v for k, v in options.items() if k != "num_predict"
    }
    assert "max_tokens" not in json.loads(openai.encode_chat(request(options={"num_predict": -1})))


@pytest.mark.parametrize(
    ("encode", "option"),
    [(openai.encode_chat, "top_k"), (openai.encode_llama_cpp_chat, "mirostat")],
)
def test_an_option_without_a_word_is_refused(encode, option):
    """Nothing is dropped silently: the error names the option and those that the server knows."""
    with pytest.raises(errors.InputError, match=option) as caught:
        encode(request(options={option: 1}))
    assert "temperature" in caught.value.fix


def test_llama_cpp_knows_more_words_and_is_told_not_to_think():
    """Its own sampling options go through; the session's window is no option of a call."""
    body = json.loads(
        openai.encode_llama_cpp_chat(
            request(options={"top_k": 5, "repeat_penalty": 1.1, "num_ctx": 99})
        )
    )
    assert (body["top_k"], body["repeat_penalty"]) == (5, 1.1)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "num_ctx" not in body


def test_a_schema_and_log_probabilities():
    """
    A schema keeps its order; `json` becomes the schema of any object, since a bare json_object is
    not enforced.
    """
    schema = {"type": "object", "properties": {"zeta": {}, "alpha": {}}}
    body = json.loads(openai.encode_chat(request(schema=schema, top_logprobs=20)))
    assert list(body["response_format"]["json_schema"]["schema"]["properties"]) == ["zeta", "alpha"]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    body = json.loads(openai.encode_chat(request(schema="json")))
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }


@pytest.mark.parametrize("name", ["chat_stream", "schema_stream", "logprobs_stream", "no_thinking"])
def test_a_recorded_request_is_one_of_ours(name):
    """
    What the real server was asked has the fields that our encoder writes, apart from its adapter
    switch.
    """
    sent = json.loads(RECORDED[name]["request"]["body"])
    options = {"num_predict": sent["max_tokens"], "seed": 1, "temperature": 0}
    schema = sent.get("response_format", {}).get("json_schema", {}).get("schema")
    given = request(
        model=sent["model"],
        messages=sent["messages"],
        options=options,
        schema=schema,
        top_logprobs=sent.get("top_logprobs"),
    )
    ours = json.loads(openai.encode_llama_cpp_chat(given))
    assert {name: ours[name] for name in sent if name != "lora"} == {
        name: sent[name] for name in sent if name != "lora"
    }


# Streams


def test_a_recorded_answer_is_read_with_its_counters():
    """Text, reason and counters of the real server; the phases are its timings in nanoseconds."""
    *chunks, final = read_recorded("chat_stream")
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    events = [
        json.loads(line[6:])
        for line in body_of("chat_stream").splitlines()
        if line.startswith("data: {")
    ]
    assert text_of(chunks) == "".join(
        (e["choices"] or [{"delta": {}}])[0]["delta"].get("content") or "" for e in events
    )
    usage, timings = events[-1]["usage"], events[-1]["timings"]
    assert isinstance(final, Final)
    assert (final.done_reason, final.tokens, final.prompt_tokens) == (
        "length",
        6,
        usage["prompt_tokens"],
    )
    assert (final.prompt_ns, final.generation_ns) == (
        round(timings["prompt_ms"] * 1e6),
        round(timings["predicted_ms"] * 1e6),
    )
    assert (final.total_ns, final.load_ns) == (0, 0)


def test_counters_without_usage_are_those_of_the_timings():
    """A server that was not asked for usage still tells its timings with the reason."""
    final = read_recorded("chat_stream_without_usage")[-1]
    assert (final.tokens, final.prompt_tokens) == (3, 34)


def test_an_answer_that_ends_by_itself_says_stop():
    """`stop` and `length` keep their names."""
    assert read_recorded("chat_stream_to_stop")[-1].done_reason == "stop"


def test_a_reply_in_one_piece_is_read_too():
    """A server that does not stream gives the same records."""
    chunk, final = read_recorded("chat_whole")
    assert chunk.text == "The most obvious"
    assert (final.done_reason, final.tokens, final.prompt_tokens) == ("length", 3, 34)


def test_log_probabilities_are_those_of_the_server():
    """Each token has its logarithm and the rivals that were asked for."""
    tokens = [token for item in read_recorded("logprobs_stream") for token in item.logprobs]
    assert text_of(read_recorded("logprobs_stream")) == "".join(token.text for token in tokens)
    assert {len(token.top_logprobs) for token in tokens} == {3}
    (chunk, _) = read_recorded("logprobs_whole")
    told = json.loads(body_of("logprobs_whole"))["choices"][0]["logprobs"]["content"]
    assert [token.logprob for token in chunk.logprobs] == [entry["logprob"] for entry in told]


STREAMS = [
    name
    for name, record in RECORDED.items()
    if any("event-stream" in header for header in record["headers"])
]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", STREAMS)
def test_events_are_found_however_they_are_cut(name, seed):
    """
    Cuts in a line, in a character, or several events at once; LF or CRLF, with comments between.
    """
    rng = random.Random(seed)
    data = body_of(name).encode()
    if seed % 2:
        data = data.replace(b"\n", b"\r\n").replace(b"\r\n\r\n", b"\r\n\r\n: ping\r\n\r\n")
    cuts = sorted(rng.sample(range(1, len(data)), min(60, len(data) - 1)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert read(pieces) == read_recorded(name)
    assert read([data[at : at + 1] for at in range(len(data))]) == read_recorded(name)


def test_an_event_may_have_several_lines_of_data():
    """They are joined by a line end, also where a cut falls between CR and LF."""
    data = b"data: {\r\ndata: }\r\n\r\ndata: []\r\n\r\n"
    for size in (1, 2, 3, 100):
        events = openai.EventLines()
        found = [
            text for at in range(0, len(data), size) for text in events.feed(data[at : at + size])
        ]
        assert [*found, *events.finish()] == ["{\n}", "[]"]


def event(**delta):
    return (
        b"data: "
        + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()
        + b"\n\n"
    )


END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'


def test_a_chunk_is_there_as_soon_as_its_event_ends():
    """Nothing waits for the next event: a token is shown when it has come."""
    decoder = openai.ChatDecoder()
    assert text_of(decoder.feed(event(content="a"))) == "a"
    assert text_of(decoder.feed(event(content="b")[:-1])) == ""
    assert text_of(decoder.feed(b"\n")) == "b"


def test_an_answer_without_done_ends_with_its_body():
    """
    A server that leaves `[DONE]` out is complete once it gave its reason; one that gave neither was
    cut off.
    """
    assert [type(item) for item in read([event(content="a"), END])] == [Chunk, Final]
    assert [type(item) for item in read([event(content="a")])] == [Chunk]


def test_nothing_counts_after_done():
    """The end comes once."""
    items = read(
        [event(content="a"), END, b"data: [DONE]\n\n", event(content="z"), b"data: [DONE]\n\n"]
    )
    assert [type(item) for item in items] == [Chunk, Final]


def test_reasoning_is_no_text():
    """Both names that servers use for it."""
    items = read([event(reasoning_content="hm"), event(reasoning="so"), event(content="yes"), END])
    assert [item.thinking for item in items[:3]] == ["hm", "so", ""]
    assert text_of(items) == "yes"


def test_text_in_parts_and_odd_fields():
    """Parts are joined; null, other types and unknown fields are no text, and no crash."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}, 3]
    odd = [
        event(content=parts),
        event(content=3),
        event(content=None),
        b'data: {"choices":[]}\n\n',
        b'data: {"choices":[null]}\n\n',
    ]
    assert text_of(read([*odd, b'data: {"usage":3,"timings":[]}\n\n', END])) == "ab"


@pytest.mark.parametrize(
    "data",
    [
        b"data: {broken\n\n",
        b"data: [1]\n\n",
        b"<html><body>Sign in</body></html>",
        b"  <!doctype html>",
        b'{"choices":',
    ],
)
def test_what_is_no_reply_is_a_protocol_error(data):
    """Broken JSON, arrays, and the sign-in page of a proxy."""
    with pytest.raises(errors.ProtocolError):
        read([data])


@pytest.mark.parametrize("data", [b"data: {" + b"x" * 3000, b"{" + b"x" * 3000])
def test_an_endless_event_is_given_up(monkeypatch, data):
    """A line without end does not fill the memory."""
    monkeypatch.setattr(openai, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(errors.ProtocolError, match="longer than"):
        read([data[at : at + 100] for at in range(0, len(data), 100)])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (
            b'data: {"error":{"code":500,"message":"boom","type":"server_error"}}\n\n',
            errors.ServerInternalError,
        ),
        (
            b'error: {"code":400,"message":"exceeds the available context size"}\n\n',
            errors.ContextExceeded,
        ),
        (
            b'data: {"object":"error","message":"The model\'s maximum context length is 4096"}\n\n',
            errors.ContextExceeded,
        ),
        (b'{"error":{"message":"The model `x` does not exist."}}', errors.ModelNotFound),
    ],
)
def test_an_error_in_a_stream_is_what_it_means(data, kind):
    """Its words are the server's own."""
    with pytest.raises(kind) as caught:
        read([event(content="a"), data] if data.startswith((b"data", b"error")) else [data])
    assert not caught.value.facts["said"].startswith("{")


# Models


def test_a_recorded_list_of_models():
    """Both names of one server are its model; the window is that of one slot."""
    (model,) = openai.decode_models(json.loads(body_of("models")))
    assert (model.name, model.aliases, model.num_ctx) == (
        "smollm2-135m:latest",
        ("urisk-judge:latest",),
        4096,
    )
    assert model.size_bytes == 96_576_768
    assert find_model("urisk-judge", [model]) is model
    assert find_model("llama3.1", [model]) is None


def test_a_model_that_is_a_file_is_named_by_its_last_part():
    """The path is the machine's own business; it still finds the model."""
    (model,) = openai.decode_models(json.loads(body_of("models_without_alias")))
    assert (model.name, model.aliases) == ("demo.gguf", ("/models/demo.gguf",))


def test_a_list_of_vllm():
    """A name with a slash is a name there; the window has another word."""
    entry = {
        "id": "org/model-7b",
        "object": "model",
        "owned_by": "vllm",
        "max_model_len": 32768,
        "root": "org/model-7b",
    }
    (model,) = openai.decode_models({"object": "list", "data": [entry]})
    assert (model.name, model.num_ctx, model.aliases) == ("org/model-7b", 32768, ())


@pytest.mark.parametrize(
    "content", [None, [], {}, {"data": None}, {"data": [3, None]}, {"data": {}}]
)
def test_any_list_is_read(content):
    """Other shapes are no models, and no crash."""
    assert openai.decode_models(content) == []


def test_llama_cpp_is_told_by_its_answers():
    """By its header, which errors have too, or by its list of models; others are not it."""
    headers = dict(header.lower().split(": ", 1) for header in RECORDED["version"]["headers"])
    assert openai.is_llama_cpp(headers)
    assert openai.is_llama_cpp({}, json.loads(body_of("models")))
    assert not openai.is_llama_cpp(
        {"server": "uvicorn"}, {"data": [{"id": "m", "owned_by": "vllm"}]}
    )


def test_recorded_properties():
    """Slots, and the window of each."""
    props = openai.decode_props(json.loads(body_of("props")))
    assert (props.slots, props.num_ctx, props.build) == (1, 4096, "")
    assert openai.decode_props([]).slots == 0
    adapters = json.loads(body_of("lora_adapters"))
    assert openai.decode_props({}, adapters).adapters == ("urisk-judge",)
    assert openai.decode_props({}, [None, {"path": 3}, {"path": "C:\\m\\x.gguf"}]).adapters == (
        "",
        "",
        "x",
    )


def test_who_serves_a_list():
    """An empty list is a list; its owner is told by its entries."""
    assert openai.is_model_list({"data": []})
    assert not openai.is_model_list({"models": []})
    assert openai.read_owner({"data": [3, {"owned_by": "vllm"}]}) == "vllm"
    assert openai.read_owner({"data": []}) == ""


def test_one_token_is_asked_for_as_recorded():
    """
    The beginning of the answer goes along, one token comes back with its logarithm and its rivals.
    """
    sent = json.loads(RECORDED["prefill"]["request"]["body"])
    given = request(
        model=sent["model"],
        messages=sent["messages"][:-1],
        options={"seed": 1, "temperature": 0, "num_predict": 48},
        adapter_off=0,
    )
    ours = json.loads(
        openai.encode_token(given, prefill=sent["messages"][-1]["content"], grammar='root ::= "a"')
    )
    expected = {n: value for n, value in sent.items() if n not in ("top_logprobs", "lora")}
    assert {name: ours[name] for name in expected} == expected
    assert ours["lora"] == [{"id": 0, "scale": 0.0}]
    assert (ours["stream"], ours["grammar"], ours["top_logprobs"]) == (False, 'root ::= "a"', 20)
    token, final = openai.decode_token(json.loads(body_of("prefill")))
    assert token.text == "legal"
    assert token.logprob == max(logprob for _, logprob in token.top_logprobs)
    assert len(token.top_logprobs) == 4
    assert final.prompt_ns > 0


@pytest.mark.parametrize("name", ["logprobs_whole", "chat_whole", "unknown_model"])
def test_another_number_of_tokens_is_a_protocol_error(name):
    """Two tokens, or none with log-probabilities."""
    with pytest.raises(errors.ProtocolError, match="not one"):
        openai.decode_token(json.loads(body_of(name)))


# Errors

RETRY_RULES = {
    "version": errors.ProtocolError,
    "tags": errors.ProtocolError,
    "unknown_path": errors.ProtocolError,
    "metrics_off": errors.ModelUnsuitable,
    "too_long": errors.ContextExceeded,
    "bad_schema": errors.BadRequest,
    "no_messages": errors.BadRequest,
    "bad_json": errors.BadRequest,
    "option_wrong_type": errors.BadRequest,
}
CHAT_REFUSALS = [
    r
    for r in RECORDED.values()
    if int(r["status"]) >= 400 and r["request"]["path"] != "/v1/systemone"
]


@pytest.mark.parametrize("record", CHAT_REFUSALS, ids=[record["name"] for record in CHAT_REFUSALS])
def test_every_recorded_refusal_has_its_meaning(record):
    """Each becomes the error that it means, with the server's own words and something to do."""
    error = openai.decode_error(int(record["status"]), "".join(record["chunks"]))
    assert type(error) is RETRY_RULES[record["name"]]
    assert error.fix
    assert not error.facts["said"].startswith("{")


# Texts that were not recorded here: from the documents and trackers of vLLM, LM Studio, OpenAI and
# proxies.
SAID = [
    (
        400,
        '{"error":{"message":"response_format is not supported"}}',
        errors.NotSupportedByServer,
    ),
    (422, '{"detail":"extra fields not permitted"}', errors.NotSupportedByServer),
    (
        503,
        '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
        errors.ServerBusy,
    ),
    (429, '{"error":{"message":"Rate limit reached"}}', errors.ServerBusy),
    (
        404,
        (
            '{"object":"error","message":"The model `x` does not '
            'exist.","type":"NotFoundError","code":404}'
        ),
        errors.ModelNotFound,
    ),
    (
        404,
        '{"error":{"message":"The model `x` does not exist","code":"model_not_found"}}',
        errors.ModelNotFound,
    ),
    (
        400,
        '{"error":{"message":"No models loaded. Please load a model in the developer page."}}',
        errors.ModelNotFound,
    ),
    (404, '{"detail":"Not Found"}', errors.ProtocolError),
    (405, '{"detail":"Method Not Allowed"}', errors.ProtocolError),
    (
        400,
        (
            '{"message":"This model\'s maximum context length is 8192 tokens. However, you '
            "requested "
            '8204 tokens"}'
        ),
        errors.ContextExceeded,
    ),
    (
        401,
        '{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}',
        errors.BadRequest,
    ),
    (422, '{"detail":[{"loc":["body","messages"],"msg":"field required"}]}', errors.BadRequest),
    (500, '{"error":{"message":"failed to allocate buffer"}}', errors.OutOfMemory),
    (500, "", errors.ServerInternalError),
    (502, "<html><h1>502 Bad Gateway</h1></html>", errors.ServerConnectionLost),
    (504, "<html><h1>504 Gateway Time-out</h1></html>", errors.ServerTimeout),
    (501, '{"error":{"message":"not supported"}}', errors.ModelUnsuitable),
    (400, '{"error":{"message":"Invalid grammar"}}', errors.BadRequest),
]


@pytest.mark.parametrize(("status", "body", "kind"), SAID)
def test_every_known_text_has_its_meaning(status, body, kind):
    """Bodies of other servers, each with the error that it means."""
    assert type(openai.decode_error(status, body)) is kind


def test_no_rule_is_dead():
    """Each rule of the table is the meaning of at least one text above or recorded."""
    texts = [(status, body) for status, body, _ in SAID] + [
        (int(r["status"]), "".join(r["chunks"])) for r in CHAT_REFUSALS
    ]
    found = {
        openai.RULES.index(dialect.find_rule(openai.RULES, s, dialect.extract_error_text(b)))
        for s, b in texts
    }
    assert found == set(range(len(openai.RULES)))


@pytest.mark.parametrize(
    "body",
    ['{"error":', "\x00", '{"error":{"error":{}}}', '{"error":3}', "[" * 50_000, '{"detail":{}}'],
)
def test_any_body_is_an_error_and_never_a_crash(body):
    """Broken JSON, other types, nests."""
    assert isinstance(openai.decode_error(500, body), UriskError)
