"""
What Ollama's own wire promises, over the scripted server and over Ollama: raw requests, without our
client. llama.cpp's own server speaks another wire; test_contract.py has what all of them share.

`pytest -m contract` runs it all, `-m "contract and not slow"` the scripted server only. A fact that
one server does not keep is a fault of that server, or no fact.
"""

import asyncio
import json
import re
import time
from datetime import datetime

import httpx
import pytest

from harness import eventually
from urisk_nb.embedded import weights
from urisk_nb.errors import ModelNotFound, ModelUnsuitable
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.messages import find_model
from urisk_nb.settings import Settings

pytestmark = [pytest.mark.contract, pytest.mark.slow]


@pytest.fixture
def server(native_server):
    """The servers that speak Ollama's own wire."""
    return native_server


# The same in every request: another value would load the model again; Ollama raises less than this
# for vision models
NUM_CTX = 2048
STORY = "Write a very long story."


def raw(server, text=None, **rest):
    """A chat's fields without our client's; without text it loads."""
    messages = [] if text is None else [{"role": "user", "content": text}]
    # think false: the few tokens of a thinking model would otherwise all be thoughts
    return {
        "model": server.model,
        "messages": messages,
        "think": False,
        "options": {"num_ctx": NUM_CTX, "num_predict": 4},
        **rest,
    }


def with_client(server, use):
    """Run `use(client)` on a loop of its own, and close the client."""

    async def main():
        client = Client(Settings(url=server.url, num_ctx=NUM_CTX, timeout_s=120))
        try:
            return await use(client)
        finally:
            await client.aclose()

    return asyncio.run(main())


def refused(reply, status):
    """A refusal as JSON with a text, and with this status."""
    assert reply.status_code == status
    assert reply.headers["content-type"].startswith("application/json")
    assert list(reply.json()) == ["error"]
    return reply.json()["error"]


# ---- small requests ------------------------------------------------------------------------------


def test_it_says_that_it_runs_and_its_version(server):
    """GET and HEAD of / and /api/version."""
    assert re.match(r"\d+\.\d+", with_client(server, lambda client: client.probe()))
    assert server.ask("GET", "/").text == "Ollama is running"
    for path in ("/", "/api/version"):
        head = server.ask("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")


def test_the_models_and_their_fields(server):
    """
    /api/tags: the name with its tag, sha256 without a prefix, size, a date with a zone, details.
    """
    models = server.ask("GET", "/api/tags").json()["models"]
    entry = next(entry for entry in models if entry["name"] == server.model)
    assert entry["model"] == entry["name"]
    assert re.fullmatch(r"[0-9a-f]{64}", entry["digest"])
    assert entry["size"] > 0
    assert datetime.fromisoformat(entry["modified_at"]).tzinfo is not None
    assert {
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level",
    } <= entry["details"].keys()
    assert server.model in [
        model.name for model in with_client(server, lambda client: client.list_models())
    ]


def test_an_unknown_path_and_a_wrong_method_are_plain_text(server):
    """404 and 405 in words, not JSON."""
    for method, path, status, text in [
        ("GET", "/api/nothing", 404, "404 page not found"),
        ("POST", "/nothing", 404, "404 page not found"),
        ("DELETE", "/api/version", 405, "405 method not allowed"),
        ("GET", "/api/chat", 405, "405 method not allowed"),
    ]:
        reply = server.ask(method, path)
        assert (reply.status_code, reply.text) == (status, text)
        assert reply.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "content", [b"hello", b'{"model":', b'{"model": 5}', b"[1]", b'{"model": "x", "messages": "y"}']
)
def test_bad_json_is_a_400(server, content):
    """No JSON, JSON that ends early, and JSON of another shape, on both ways of asking."""
    assert refused(server.ask("POST", "/api/chat", content), 400)
    if b"messages" not in content:
        assert refused(server.ask("POST", "/api/generate", content), 400)


def test_an_empty_body_is_a_400(server):
    """In the server's own words."""
    assert refused(server.ask("POST", "/api/chat", b""), 400) == "missing request body"
    assert refused(server.ask("POST", "/api/generate", b""), 400) == "missing request body"


def test_a_strangers_host_header_is_a_403(server):
    """
    Against pages that let their own name point here: nothing is said; names of this machine are
    answered.
    """
    reply = server.ask("GET", "/api/version", headers={"Host": "evil.example"})
    assert (reply.status_code, reply.content) == (403, b"")
    assert (
        server.ask(
            "POST", "/api/chat", raw(server, "x"), headers={"Host": "evil.example:11434"}
        ).status_code
        == 403
    )
    for name in ("localhost", "127.0.0.1:1", "[::1]:11434", "x.localhost"):
        assert server.ask("GET", "/api/version", headers={"Host": name}).status_code == 200


def test_a_model_that_is_not_there_is_a_404(server):
    """The name stands in the text, and our client raises ModelNotFound."""
    assert (
        refused(server.ask("POST", "/api/chat", {"model": "no-such-model", "messages": []}), 404)
        == "model 'no-such-model' not found"
    )
    content = ollama.encode_load(model="no-such-model", keep_alive="5m", num_ctx=NUM_CTX)
    with pytest.raises(ModelNotFound, match="no-such-model"):
        with_client(server, lambda client: client.load(content))


# ---- loading -------------------------------------------------------------------------------------


def test_load_and_unload(server):
    """
    One JSON object although a stream was asked for; then /api/ps has the model with its window;
    unloaded, it is gone.
    """
    loaded = server.ask("POST", "/api/chat", raw(server))
    assert loaded.headers["content-type"].startswith("application/json")
    assert (loaded.json()["done"], loaded.json()["done_reason"]) == (True, "load")
    assert loaded.json()["message"] == {"role": "assistant", "content": ""}
    (found,) = [
        each
        for each in with_client(server, lambda client: client.list_loaded_models())
        if each.name == server.model
    ]
    assert found.num_ctx == NUM_CTX
    entry = server.resident()
    assert entry["size"] > 0
    assert entry["model"] == server.model
    assert {"digest", "details", "expires_at", "size_vram", "context_length"} <= entry.keys()
    unloaded = server.ask("POST", "/api/chat", raw(server, keep_alive=0))
    assert (unloaded.json()["done"], unloaded.json()["done_reason"]) == (True, "unload")
    eventually(lambda: server.resident() is None, 10, "the model's leaving /api/ps")


def test_keep_alive_stays_until_another_is_given(server):
    """
    A request without it keeps the last one: forever (beyond 2100) stays forever; another value then
    counts.
    """

    def ask(**rest):
        assert (
            server.ask("POST", "/api/chat", raw(server, "Hello", stream=False, **rest)).status_code
            == 200
        )

    def forever():
        return datetime.fromisoformat(server.resident()["expires_at"]).year > 2100

    for value, expected in ((-1, True), ("5m", False)):
        ask(keep_alive=value)
        # The date is set when the model becomes idle, which may be a moment after the reply.
        # Called in this round
        eventually(lambda: forever() is expected, 5, f"keep_alive {value}")  # noqa: B023
        for _ in range(2):
            ask()
            assert forever() is expected


@pytest.mark.parametrize("value", ["20", "forever", True])
def test_a_keep_alive_without_a_unit_is_a_400(server, value):
    """As text it needs one; a truth value is none."""
    assert refused(server.ask("POST", "/api/chat", raw(server, keep_alive=value)), 400)


# ---- answers -------------------------------------------------------------------------------------


def test_a_stream_is_lines_with_exactly_one_final_at_the_end(server):
    """
    application/x-ndjson in chunks, each line ended; the text is in the lines before the last, which
    says done.
    """
    reply = server.ask("POST", "/api/chat", raw(server, STORY))
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.text.endswith("}\n")
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "".join(line["message"]["content"] for line in lines).strip()
    for line in lines:
        assert line["model"] == server.model
        assert line["message"]["role"] == "assistant"
        assert datetime.fromisoformat(line["created_at"]).utcoffset().total_seconds() == 0


def test_without_a_stream_the_answer_is_one_object(server):
    """The same text as the stream's pieces together."""
    streamed = server.ask(
        "POST",
        "/api/chat",
        raw(server, STORY, options={"num_ctx": NUM_CTX, "num_predict": 4, "temperature": 0}),
    )
    whole = server.ask(
        "POST",
        "/api/chat",
        raw(
            server,
            STORY,
            stream=False,
            options={"num_ctx": NUM_CTX, "num_predict": 4, "temperature": 0},
        ),
    )
    pieces = [json.loads(line)["message"]["content"] for line in streamed.text.splitlines()]
    assert whole.headers["content-type"] == "application/json; charset=utf-8"
    assert whole.json()["done"] is True
    assert whole.json()["message"]["content"] == "".join(pieces)


def test_a_client_that_leaves_before_the_first_byte_frees_the_slot(server):
    """Without a stream nothing is sent before the end, and the answer is given up all the same."""
    content = raw(server, STORY, stream=False, options={"num_ctx": NUM_CTX, "num_predict": 4000})
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + "/api/chat", json=content, timeout=0.7, trust_env=False)
    began = time.monotonic()
    assert server.ask("POST", "/api/chat", raw(server, "Hello", stream=False)).status_code == 200
    assert time.monotonic() - began < 20


# ---- a model with an adapter ---------------------------------------------------------------------


def test_a_model_is_made_with_the_adapter_of_this_package(server):
    """
    The file is kept by its hash, `success` is the last line, and the model is listed with one
    digest, however often it is made.
    """
    if server.ask("POST", "/api/create", b"{}").status_code == 501:
        pytest.skip("the embedded engine has the judge by itself and makes no models")
    name, digest = "urisk-contract-test", f"sha256:{weights.ADAPTER_SHA256}"

    async def use(client):
        if not await client.has_blob(digest):
            await client.put_blob(digest, weights.adapter())
        assert await client.has_blob(digest)
        steps = [
            step.status
            async for step in client.create(
                name, base=server.model, adapters={"urisk-judge.gguf": digest}
            )
        ]
        return steps, find_model(name, await client.list_models())

    try:
        steps, made = with_client(server, use)
        assert steps[-1] == "success"
        assert {"parsing GGUF", "writing manifest"} <= set(steps)
        assert with_client(server, use)[1].digest == made.digest
    except ModelUnsuitable as exc:
        pytest.skip(f"this Ollama takes no adapters: {exc.message}")
    finally:
        server.ask("DELETE", "/api/delete", {"model": name})


def test_a_file_of_another_hash_is_refused(server):
    """Nothing is kept under a name that it has not; what is no digest is a 400."""
    if server.ask("POST", "/api/create", b"{}").status_code == 501:
        pytest.skip("the embedded engine takes no files")
    path = f"/api/blobs/sha256:{'0' * 64}"
    assert refused(server.ask("POST", path, b"GGUF"), 400).startswith("digest mismatch, expected")
    assert server.ask("HEAD", path).status_code == 404
    assert (
        refused(server.ask("POST", "/api/blobs/sha256:12", b"GGUF"), 400) == "invalid digest format"
    )
