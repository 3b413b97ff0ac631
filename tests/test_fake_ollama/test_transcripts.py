"""
What a real Ollama 0.33 answered to 69 requests, against what the fake Ollama's face answers to
the same.
"""

import json
import re
from pathlib import Path

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running

FILE = Path(__file__).parents[1] / "data" / "ollama_transcripts.jsonl"
RECORDED = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]

EXACT = "exact"  # every chunk, byte for byte
NUMBERS = "numbers"  # byte for byte but for token counts: the fake Ollama counts words
# The same keys in the same order, the same types, equal model, done and done_reason
SHAPE = "shape"
STREAM = "stream"  # one object a chunk: shapes of the first, of the last, and nothing else between
PULL = "pull"  # the same lines up to the error's own text

HOW = {
    "root": EXACT,
    "root_head": EXACT,
    "version": SHAPE,
    "status": EXACT,
    "tags": SHAPE,
    "unknown_path": EXACT,
    "wrong_method": EXACT,
    "foreign_host": EXACT,
    "foreign_origin": EXACT,
    "unload_smol": SHAPE,
    "unload_smol-n": SHAPE,
    "ps_empty": EXACT,
    "empty_body": EXACT,
    "bad_json": EXACT,
    "cut_json": EXACT,
    "wrong_type": EXACT,
    "after_first_value": EXACT,
    "chat_no_model": EXACT,
    "chat_unknown_model": EXACT,
    "chat_bad_name": EXACT,
    "generate_unknown_model": EXACT,
    "show_unknown": EXACT,
    "show": "show",  # a subset: no tensors, no modelfile of Ollama's
    "cloud_name": EXACT,
    "load": SHAPE,
    "load_again": SHAPE,
    "ps_loaded": SHAPE,
    "chat_stream": STREAM,
    "chat_stream_again_cached_prefix": STREAM,
    "chat_whole": SHAPE,
    "generate_stream": STREAM,
    "length": SHAPE,
    "schema_rendered": STREAM,
    "schema_native": STREAM,
    "schema_cut_by_num_predict": SHAPE,
    "json_mode_rendered": SHAPE,
    "json_mode_native": SHAPE,
    "bad_format": EXACT,
    "bad_schema_rendered": EXACT,
    "bad_schema_native": EXACT,
    "option_wrong_type": EXACT,
    "option_unknown": SHAPE,
    "keep_alive_string_without_unit": EXACT,
    "keep_alive_bool": EXACT,
    "think_not_supported": EXACT,
    "think_bad_value": EXACT,
    "think_false_ok": SHAPE,
    "logprobs": SHAPE,
    "top_logprobs_too_many": EXACT,
    "num_predict_0_rendered": SHAPE,
    "num_predict_0_native": SHAPE,
    "too_long_rendered": SHAPE,
    "too_long_native": NUMBERS,
    "too_long_rendered_truncate_false": NUMBERS,
    "too_long_native_truncate_false": NUMBERS,
    "embed_chat_model": EXACT,
    "embed_empty": EXACT,
    "reload_num_ctx": SHAPE,
    "ps_after_reload": SHAPE,
    "load_back": SHAPE,
    "pull_unreachable_registry": PULL,
    "pull_bad_name": EXACT,
    "pull_whole_unreachable": PULL,
    "delete_unknown": EXACT,
    "forever": SHAPE,
    "ps_forever": SHAPE,
    "chat_client_leaves": "leaves",
    "unload_not_loaded": SHAPE,
}
FOREIGN = {
    "foreign_host": {"Host": "rebind.example"},
    "foreign_origin": {"Origin": "http://evil.example"},
}
STORY = (
    "The ocean is a vast and mysterious realm, teeming with life and teeming with secrets that "
    "few have seen, and fewer still have told"
)
SCENARIO = Scenario(
    models=(
        {"name": "smol", "native": False},
        {"name": "smol-n"},
        {"name": "smol-t", "native": False},
    ),
    rules=(
        Rule(contains="ocean", answer=STORY + ". More."),
        Rule(contains="story", answer=STORY * 40),
        Rule(
            contains="colors",
            model="smol-n:latest",
            answer="The two colors are: " + "red, blue, " * 8,
        ),
        Rule(regex="^(x|(word )+)$", answer="The original"),
    ),
)


def body_of(record):
    """The request's body; the four long ones are described, not recorded."""
    body = record["request"]["body"]
    if body is None or not body.startswith("<"):
        return body
    model = "smol-n" if "native" in record["name"] else "smol"
    extra = {"truncate": False} if "truncate false" in body else {}
    options = {"num_ctx": 4096, "num_predict": 2, "seed": 1, "temperature": 0}
    messages = [{"role": "user", "content": "word " * 6000}]
    return json.dumps(
        {"model": model, "messages": messages, "stream": False, "options": options, **extra}
    )


@pytest.fixture(scope="module")
def replayed(ask):
    """
    All requests in the recorded order against one server: what came before matters (loads, caches).
    """
    with running(ScriptedBackend(SCENARIO)) as server:
        answers = []
        for record in RECORDED:
            request = record["request"]
            answers.append(
                ask(
                    server.url,
                    request["method"],
                    request["path"],
                    body_of(record),
                    **FOREIGN.get(record["name"], {}),
                )
            )
        return answers


def kinds(value):
    """
    The shape of a JSON value: keys in order, types of the rest; numbers are one type, whole or not;
    a list is its first item.
    """
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    if isinstance(value, list):
        return [kinds(value[0])] if value else []
    return (
        "number"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else type(value).__name__
    )


def assert_same_object(ours, theirs):
    assert json.dumps(kinds(ours)) == json.dumps(kinds(theirs))
    for name in ("model", "done", "done_reason"):
        assert ours.get(name) == theirs.get(name)


def headers_of(record):
    return {name: value for name, _, value in (line.partition(": ") for line in record["headers"])}


def without_length(headers):
    return {
        name: value
        for name, value in headers.items()
        if name not in {"Date", "Content-Length", "Transfer-Encoding"}
    }


def test_no_transcript_is_left_out():
    """Every recorded request is compared, and nothing is listed that was not recorded."""
    assert {record["name"] for record in RECORDED} == set(HOW)
    assert len(RECORDED) == 69


@pytest.mark.parametrize(
    "number", range(len(RECORDED)), ids=[f"{i}-{r['name']}" for i, r in enumerate(RECORDED)]
)
def test_status_and_headers_are_ollamas(number, replayed):
    """
    Status and headers are those of the real server; lengths and framing too where the bodies are
    equal.
    """
    record, ours = RECORDED[number], replayed[number]
    theirs = headers_of(record)
    assert ours.status == int(record["status"])
    assert without_length(ours.headers) == without_length(theirs)
    if HOW[record["name"]] in {EXACT, STREAM}:
        assert {k: v for k, v in ours.headers.items() if k != "Date"} == theirs
    elif len(ours.body) <= 2048:
        assert "Content-Length" in ours.headers or "ndjson" in ours.headers["Content-Type"]


@pytest.mark.parametrize(
    "number", range(len(RECORDED)), ids=[f"{i}-{r['name']}" for i, r in enumerate(RECORDED)]
)
def test_body_is_ollamas(number, replayed):
    """The body is the recorded one, or has its shape: see the table for each."""
    record, ours = RECORDED[number], replayed[number]
    COMPARE[HOW[record["name"]]](ours, record["chunks"])


def compare_exact(ours, chunks):
    assert [chunk.decode() for chunk in ours.chunks] == chunks


def compare_numbers(ours, chunks):
    assert re.sub(r"60\d\d", "N", ours.body.decode()) == re.sub(r"60\d\d", "N", "".join(chunks))


def compare_shape(ours, chunks):
    assert_same_object(ours.json, json.loads("".join(chunks)))


def compare_stream(ours, chunks):
    recorded = [json.loads(chunk) for chunk in chunks]
    # One object a chunk, each ended by a newline
    got = [json.loads(chunk) for chunk in ours.chunks]
    assert all(chunk.endswith(b"\n") for chunk in ours.chunks)
    assert_same_object(got[0], recorded[0])
    assert_same_object(got[-1], recorded[-1])
    for piece in got[:-1]:
        assert_same_object(piece, recorded[0])
    assert got[-1]["eval_count"] == len(got) - 1


def compare_leaves(ours, chunks):
    for chunk in ours.chunks[:10]:
        assert_same_object(json.loads(chunk), json.loads(chunks[0]))


def compare_pull(ours, chunks):
    got, recorded = ours.lines, [json.loads(chunk) for chunk in chunks]
    assert [list(line) for line in got] == [list(line) for line in recorded]
    assert got[:-1] == recorded[:-1]
    assert got[-1]["error"].startswith("pull model manifest: ")


def compare_show(ours, chunks):
    got, recorded = ours.json, json.loads("".join(chunks))
    assert set(got) <= set(recorded)
    assert kinds(got["details"]) == kinds(recorded["details"])
    assert set(got["model_info"]) <= set(recorded["model_info"])


COMPARE = {
    EXACT: compare_exact,
    NUMBERS: compare_numbers,
    SHAPE: compare_shape,
    STREAM: compare_stream,
    PULL: compare_pull,
    "show": compare_show,
    "leaves": compare_leaves,
}


def test_forever_is_shown_as_a_date_centuries_ahead(replayed):
    """
    keep_alive -1 shows in /api/ps as a date in 2318 or 2319, which a client must be able to read.
    """
    at = [record["name"] for record in RECORDED].index("ps_forever")
    years = [
        model["expires_at"][:4]
        for model in replayed[at].json["models"]
        if model["name"] == "smol:latest"
    ]
    assert years[0] in {"2318", "2319"}


def test_a_reload_takes_time_and_a_resident_model_none(replayed):
    """Another num_ctx shows in /api/ps as the context in force, as recorded."""
    at = [record["name"] for record in RECORDED].index("ps_after_reload")
    recorded = {
        model["name"]: model["context_length"]
        for model in json.loads(RECORDED[at]["chunks"][0])["models"]
    }
    assert {
        model["name"]: model["context_length"] for model in replayed[at].json["models"]
    } == recorded
