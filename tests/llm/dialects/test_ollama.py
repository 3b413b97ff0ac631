"""
Native Ollama: the bytes that are sent, lines that come back cut anywhere, and the meaning of every
recorded refusal.
"""

import json
import random
import re

import pytest

from harness import ROOT
from urisk_nb import errors
from urisk_nb.errors import ProtocolError, UriskError
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.messages import (
    ChatRequest,
    Chunk,
    Final,
    ModelCard,
    PullProgress,
    find_model,
    is_same_model,
    parse_question,
)
from urisk_nb.risk.calibration import Token, distribution

TRANSCRIPTS = [
    json.loads(line)
    for line in (ROOT / "tests/data/ollama_transcripts.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
COMMON = {"model": "m", "keep_alive": "20m", "num_ctx": 4096}


def encode(payload):
    return ollama.encode_chat(parse_question(payload, **COMMON))


def test_a_chat_has_one_shape():
    """
    Every chat is streamed, keeps the model, does not think, is not cut silently, and names its
    context window.
    """
    request = ChatRequest(
        messages=[{"role": "user", "content": "hi"}], options={"seed": 1, "num_ctx": 99}, **COMMON
    )
    body = json.loads(ollama.encode_chat(request))
    assert body["stream"] is True
    assert body["think"] is False
    assert body["truncate"] is False
    assert body["keep_alive"] == "20m"
    assert body["options"] == {"seed": 1, "num_ctx": 4096}
    assert "format" not in body


def test_a_payload_keeps_the_order_of_its_schema():
    """
    Nothing of a question's payload is sorted or lost; only the common fields and num_ctx are added.
    """
    payload = (
        b'{"format":{"type":"object","properties":{"zeta":{},"alpha":{}}},'
        b'"messages":[{"role":"user","content":"caf\xc3\xa9 \\ud83d"}],"options":{"temperature":0}}'
    )
    body = encode(payload)
    content = json.loads(body)
    assert list(content["format"]["properties"]) == ["zeta", "alpha"]
    assert content["messages"] == [{"role": "user", "content": "café \ufffd"}]
    assert content["options"] == {"temperature": 0, "num_ctx": 4096}
    assert encode(payload) == body


def test_load_sends_the_options_that_calls_send():
    """
    Another num_ctx would load the model again.
    """
    assert json.loads(ollama.encode_load(**COMMON)) == {
        "model": "m",
        "messages": [],
        "keep_alive": "20m",
        "options": {"num_ctx": 4096},
    }


@pytest.mark.parametrize("seed", range(30))
def test_lines_are_found_however_they_are_cut(seed):
    """
    Cuts in a line, in a character, or several lines at once: the same objects.
    """
    objects = [{"n": number, "text": "é😀\n" * number} for number in range(40)]
    data = b"".join(json.dumps(item, ensure_ascii=False).encode() + b"\n" for item in objects)
    cuts = sorted(random.Random(seed).sample(range(1, len(data)), 60))
    lines, found = ollama.JsonLines(dict), []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        found += lines.feed(data[start:end])
    assert [*found, *lines.finish()] == objects


def test_a_last_line_without_an_end_counts_and_half_a_line_does_not():
    """
    Servers leave out the last line end; a cut object is nothing.
    """
    lines = ollama.JsonLines(dict)
    assert list(lines.feed(b'{"a":1}')) == []
    assert list(lines.finish()) == [{"a": 1}]
    assert list(lines.feed(b'{"a":')) + list(lines.finish()) == []


@pytest.mark.parametrize(
    "data", [b"<html>\n", b"[1]\n", b"3\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"]
)
def test_what_is_no_object_is_a_protocol_error(data):
    """
    HTML, arrays, numbers, other bytes, nests without end.
    """
    with pytest.raises(ProtocolError):
        list(ollama.JsonLines(dict).feed(data))


def test_an_endless_line_is_given_up(monkeypatch):
    """
    A line without end does not fill the memory.
    """
    monkeypatch.setattr(ollama, "MAX_LINE_BYTES", 1000)
    lines = ollama.JsonLines(dict)

    def feed():
        for _ in range(100):
            list(lines.feed(b"x" * 100))

    with pytest.raises(ProtocolError, match="longer than"):
        feed()


def test_an_eight_megabyte_line_is_read():
    """
    A token history can be that long.
    """
    line = json.dumps({"context": list(range(1_200_000)), "done": True}).encode() + b"\n"
    assert len(line) > 8_000_000
    assert next(iter(ollama.JsonLines(dict).feed(line)))["done"] is True


def test_omitted_counters_are_zero():
    """
    The server leaves out what is zero.
    """
    final = ollama.decode_chat({"message": {"content": ""}, "done": True})
    assert (final.tokens, final.prompt_tokens, final.total_ns, final.done_reason) == (0, 0, 0, "")


def test_null_content_is_no_text():
    """
    null, missing and other types are no text, and no crash.
    """
    for content in ({"message": {"content": None}}, {"message": None}, {}, {"response": None}):
        assert ollama.decode_chat({**content, "done": False}).text == ""


@pytest.mark.parametrize(
    ("name", "cloud"),
    [
        ("gpt-oss:120b-cloud", True),
        ("kimi:cloud", True),
        ("KIMI:CLOUD", True),
        ("llama3.1", False),
        ("cloud", False),
        ("me/cloud:7b", False),
        ("x:7b-CLOUD", True),
    ],
)
def test_cloud_names(name, cloud):
    """
    The tag decides, in any case.
    """
    assert ollama.is_cloud_model(name) is cloud


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("llama3.1", "llama3.1:latest", True),
        ("Llama3.1", "llama3.1:LATEST", True),
        ("a:7b", "a", False),
        ("me/a", "me/a:latest", True),
        ("h:80/a", "h:80/a:latest", True),
    ],
)
def test_names_of_one_model(one, other, same):
    """
    No tag means latest; case does not count.
    """
    assert is_same_model(one, other) is same


def test_recorded_answers_are_read_with_all_their_counters():
    """
    Each recorded answer gives its text and its counters.
    """
    seen = 0
    for transcript in TRANSCRIPTS:
        chunks = "".join(transcript["chunks"]).encode()
        if (
            transcript["status"] != "200"
            or b'"done_reason"' not in chunks
            or b'"eval_count"' not in chunks
        ):
            continue
        lines = ollama.JsonLines(dict)
        pieces = [ollama.decode_chat(item) for item in [*lines.feed(chunks), *lines.finish()]]
        final = pieces[-1]
        assert isinstance(final, Final)
        count_noun = dict(
            re.findall(r'"(total_duration|eval_count|prompt_eval_count)":(\d+)', chunks.decode())
        )
        assert (final.total_ns, final.tokens, final.prompt_tokens) == tuple(
            int(count_noun[key]) for key in ("total_duration", "eval_count", "prompt_eval_count")
        )
        seen += 1
    assert seen > 15


def test_half_an_object_that_ends_in_a_brace_is_nothing_too():
    """
    Cut behind an inner object, the rest is still half an object.
    """
    lines = ollama.JsonLines(dict)
    assert [*lines.feed(b'{"a":1}\n{"message":{"content":"x"}'), *lines.finish()] == [{"a": 1}]


def test_an_object_is_there_as_soon_as_its_line_ends():
    """
    Nothing waits for the next line: a token is shown when it has come.
    """
    lines = ollama.JsonLines(dict)
    assert list(lines.feed(b'{"a":1}\n{"b"')) == [{"a": 1}]
    assert list(lines.feed(b":2}\r\n\n \n")) == [{"b": 2}]
    assert list(lines.finish()) == []


def test_two_questions_share_the_bytes_before_their_last_message():
    """
    The server's prefix cache works by equal beginnings.
    """
    system = {"role": "system", "content": "s" * 50}
    payloads = [
        json.dumps({"messages": [system, {"role": "user", "content": text}]}).encode()
        for text in ("alpha", "beta")
    ]
    one, other = (encode(payload) for payload in payloads)
    assert one.partition(b"alpha")[0] == other.partition(b"beta")[0]


def test_only_true_is_done():
    """
    `done: false` in a whole reply, or no `done` at all, is no end; reasoning is never part of the
    text.
    """
    assert ollama.decode_chat({"message": {"content": "x"}}) == Chunk(text="x")
    assert ollama.decode_chat({"message": {"content": "x"}, "done": "true"}) == Chunk(text="x")
    assert ollama.decode_chat(
        {"message": {"content": "", "thinking": "hm"}, "done": False}
    ) == Chunk(text="", thinking="hm")


def test_progress_without_counts_is_zero():
    """
    `completed` is left out while it is zero; an error line is what it means.
    """
    line = {"status": "pulling 1a2b", "digest": "sha256:1a2b", "total": 5}
    assert ollama.decode_progress(line) == PullProgress(
        status="pulling 1a2b", digest="sha256:1a2b", total=5
    )
    with pytest.raises(errors.ModelNotFound):
        ollama.decode_progress({"error": "pull model manifest: file does not exist"})


def test_recorded_lists_of_models():
    """
    What a real server has and holds, by name, size and window.
    """
    recorded = {record["name"]: "".join(record["chunks"]) for record in TRANSCRIPTS}
    models = ollama.decode_models(json.loads(recorded["tags"]))
    assert [(model.name, model.size_bytes, model.remote) for model in models[:2]] == [
        ("smol-n:latest", 98362616, False),
        ("smol:latest", 98362745, False),
    ]
    resident = ollama.decode_loaded_models(json.loads(recorded["ps_loaded"]))[0]
    assert (resident.name, resident.size_bytes, resident.gpu_bytes, resident.num_ctx) == (
        "smol:latest",
        209505483,
        0,
        4096,
    )
    assert find_model("SMOL", models) is models[1]
    assert find_model("smo", models) is None


def test_told_tokens_are_those_of_a_real_server():
    """
    Their texts are the answer; each has its logarithm and the five that were asked for, as the
    recorded reply has them.
    """
    (transcript,) = [one for one in TRANSCRIPTS if one["name"] == "logprobs"]
    content = json.loads("".join(transcript["chunks"]))
    final = ollama.decode_chat(content)
    assert (
        "".join(told.text for told in final.logprobs) == final.text == content["message"]["content"]
    )
    assert [told.logprob for told in final.logprobs] == [
        entry["logprob"] for entry in content["logprobs"]
    ]
    assert {len(told.top_logprobs) for told in final.logprobs} == {5}
    assert final.logprobs[0].top_logprobs[0] == (
        "The",
        content["logprobs"][0]["top_logprobs"][0]["logprob"],
    )
    shares = distribution_of(final.logprobs)
    assert shares["legal"] == max(shares.values()), "the label that was written"


def distribution_of(told):
    tokens = [
        Token(text=one.text, logprob=one.logprob, top_logprobs=one.top_logprobs) for one in told
    ]
    return distribution(tokens, "risk", ["legal", "business", "none"])


@pytest.mark.parametrize(
    "entries",
    [
        None,
        {},
        "x",
        [None],
        [3],
        [{}],
        [{"token": 3, "logprob": 0}],
        [{"token": "a", "logprob": "b"}],
        [{"token": "a", "logprob": True}],
        [{"token": "a", "logprob": 10**400}],
        [{"token": "a", "logprob": float("nan")}],
        [{"token": "a", "logprob": 12.5}],
    ],
)
def test_what_is_no_told_token_is_passed_over(entries):
    """Fields come and go between versions; an answer is not lost for them."""
    assert ollama.decode_chat({"message": {"content": "hi"}, "logprobs": entries}) == Chunk(
        text="hi"
    )


def test_a_part_of_what_is_told_is_used():
    """Others that are no tokens are left out; the token stands."""
    entries = [
        {
            "token": "a",
            "logprob": -1,
            "top_logprobs": [{"token": "b", "logprob": -2}, None, {"token": "c"}],
        }
    ]
    (told,) = ollama.decode_chat({"message": {"content": "a"}, "logprobs": entries}).logprobs
    assert (told.text, told.logprob, told.top_logprobs) == ("a", -1.0, (("b", -2.0),))
    for others in (5, True, "b", {"token": "b", "logprob": -2}):
        entry = {"token": "a", "logprob": 1e-7, "top_logprobs": others}
        (told,) = ollama.decode_chat({"message": {}, "logprobs": [entry]}).logprobs
        assert (told.logprob, told.top_logprobs) == (0.0, ()), "a rounded 0 is 0"


QUESTION = (
    b'{"format":{"type":"object"},"logprobs":true,"messages":[{"content":"x","role":"user"}],'
    b'"options":{"seed":1,"temperature":0},"top_logprobs":20}'
)


def test_a_question_is_sent_byte_for_byte():
    """
    The bytes are those by which runs are compared: fields of the session, then the question's own
    in their order.
    """
    assert encode(QUESTION) == (
        b'{"model":"m","stream":true,"keep_alive":"20m","think":false,"truncate":false,"format":{"type":"object"},"logprobs":true,'
        b'"messages":[{"content":"x","role":"user"}],"options":{"seed":1,"temperature":0,"num_ctx":4096},"top_logprobs":20}'
    )


def test_small_requests_byte_for_byte():
    """Load, pull, show and create, as Ollama documents them."""
    assert (
        ollama.encode_load(**COMMON)
        == b'{"model":"m","messages":[],"keep_alive":"20m","options":{"num_ctx":4096}}'
    )
    assert ollama.encode_pull("m") == b'{"model":"m","stream":true}'
    assert ollama.encode_show("m") == b'{"model":"m"}'
    made = b'{"model":"j","from":"m","adapters":{"a.gguf":"sha256:1"},"stream":true}'
    assert ollama.encode_create("j", base="m", adapters={"a.gguf": "sha256:1"}) == made
    assert (
        ollama.encode_create("j", files={"a.gguf": "sha256:1"})
        == b'{"model":"j","files":{"a.gguf":"sha256:1"},"stream":true}'
    )


@pytest.mark.parametrize(
    "payload", [b"{", b"[1]", b'{"options":{}}', b'{"messages":3}', b'{"messages":[],"think":true}']
)
def test_what_is_no_question_is_refused_before_it_is_sent(payload):
    """Broken JSON, no messages, and a field that would be lost on another wire."""
    with pytest.raises(errors.InputError):
        encode(payload)


def test_the_card_of_a_recorded_model():
    """What `/api/show` says that a model can do, and what its file's header has."""
    (shown,) = [
        json.loads("".join(record["chunks"])) for record in TRANSCRIPTS if record["name"] == "show"
    ]
    card = ollama.decode_card(shown)
    assert (card.capabilities, card.info) == ({"completion"}, shown["model_info"])
    assert card.info["general.architecture"] == "llama"
    for odd in ({}, [], None, {"capabilities": "completion"}, {"capabilities": [3, None]}):
        assert ollama.decode_card(odd) == ModelCard()
    assert ollama.decode_card({"model_info": []}) == ModelCard()


def test_a_letter_is_asked_for_byte_for_byte():
    """One token after a prompt as it is, with twenty others, and nothing cut in silence."""
    given = ChatRequest(model="j", messages=[], num_ctx=2048, keep_alive="20m")
    assert (
        ollama.encode_letter(given, "é:")
        == (
            '{"model":"j","prompt":"é:","raw":true,"stream":false,"keep_alive":"20m","truncate":false,'
            '"logprobs":true,"top_logprobs":20,'
            '"options":{"num_predict":1,"temperature":0,"num_ctx":2048}}'
        ).encode()
    )


def read_whole(transcript):
    """What a recorded exchange means: records, or the error that is raised."""
    body = "".join(transcript["chunks"]).encode()
    if int(transcript["status"]) >= 400:
        return ollama.decode_error(int(transcript["status"]), body.decode())
    path, decoder = transcript["request"]["path"], ollama.DIALECT.open_decoder()
    if path in ("/api/chat", "/api/generate"):
        chunks = [chunk.encode() for chunk in transcript["chunks"]]
        return [*(item for chunk in chunks for item in decoder.feed(chunk)), *decoder.finish()]
    if path == "/api/pull":
        try:
            return [ollama.decode_progress(json.loads(line)) for line in body.splitlines()]
        except UriskError as exc:
            return exc
    readers = {
        "/api/tags": ollama.decode_models,
        "/api/ps": ollama.decode_loaded_models,
        "/api/show": ollama.decode_card,
    }
    return readers[path](json.loads(body)) if path in readers else body


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=[record["name"] for record in TRANSCRIPTS])
def test_every_recorded_exchange_is_read(transcript):
    """
    All 69 exchanges: a refusal is one of our errors with a fix; an answer that ended has exactly
    one end, which is last.
    """
    meaning = read_whole(transcript)
    if int(transcript["status"]) >= 400:
        assert isinstance(meaning, UriskError)
        assert meaning.fix
    elif transcript["request"]["path"] in ("/api/chat", "/api/generate"):
        ended = '"done":true' in "".join(transcript["chunks"]).replace(" ", "")
        assert [isinstance(item, Final) for item in meaning].count(True) == ended
        assert isinstance(meaning[-1], Final) or not ended
        lines = [json.loads(line) for line in "".join(transcript["chunks"]).splitlines()]
        texts = [
            (line.get("message") or {}).get("content", "") or line.get("response", "")
            for line in lines
        ]
        assert "".join(item.text for item in meaning) == "".join(texts)
    else:
        assert meaning is not None


def test_no_recorded_exchange_is_left_out():
    """The recorded file is whole."""
    assert len(TRANSCRIPTS) == 69
