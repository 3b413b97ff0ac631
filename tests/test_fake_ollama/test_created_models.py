"""
/api/blobs and /api/create: files that are kept by their hash, and models that are made with them.
"""

import hashlib
import socket
import tracemalloc

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, created_models, running, transport

GGUF = b"GGUF and then some"
NAME, BASE = "urisk-judge:latest", "smollm2:135m"


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


DIGEST = digest_of(GGUF)
MISSING = digest_of(b"never sent")


@pytest.fixture
def server():
    with running(ScriptedBackend(Scenario(models=(BASE, "llama3.1")))) as started:
        yield started


@pytest.fixture
def call(server, ask):
    return lambda *words, **headers: ask(server.url, *words, **headers)


@pytest.fixture
def sent(call):
    """The adapter is there."""
    assert call("POST", f"/api/blobs/{DIGEST}", GGUF).status == 201


def create(call, digest=DIGEST, **rest):
    return call(
        "POST",
        "/api/create",
        {"model": "urisk-judge", "from": BASE, "adapters": {"urisk-judge.gguf": digest}, **rest},
    )


def tags(call):
    return {entry["name"]: entry for entry in call("GET", "/api/tags").json["models"]}


def chat(call, model):
    got = call(
        "POST",
        "/api/chat",
        {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False},
    )
    return got.json["model"], got.json["message"]["content"]


# ---- blobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [DIGEST, DIGEST.replace(":", "%3A")])
def test_a_blob_is_there_once_it_was_sent(call, shown):
    """
    HEAD 404, POST 201, HEAD 200; sent again 200; a dash is as good as a colon, once it is there.
    """
    assert call("HEAD", f"/api/blobs/{shown}").status == 404
    posted = call("POST", f"/api/blobs/{shown}", GGUF)
    assert (posted.status, posted.body) == (201, b"")
    for path in (shown, DIGEST, DIGEST.replace(":", "-")):
        assert (
            call("HEAD", f"/api/blobs/{path}").status,
            call("POST", f"/api/blobs/{path}", GGUF).status,
        ) == (200, 200)


def test_a_blob_of_another_hash_is_refused_and_not_kept(call):
    """400 with both digests, in Ollama's words."""
    got = call("POST", f"/api/blobs/{MISSING}", GGUF)
    assert (got.status, got.json) == (
        400,
        {"error": f'digest mismatch, expected "{MISSING}", got "{DIGEST}"'},
    )
    assert call("HEAD", f"/api/blobs/{MISSING}").status == 404
    assert call("HEAD", f"/api/blobs/{DIGEST}").status == 404


@pytest.mark.parametrize(
    "digest",
    ["sha256:12", "md5:" + "0" * 64, "sha256:" + "g" * 64, "sha256:" + "0" * 65, "..", "*"],
)
def test_a_digest_that_is_none_is_a_400(call, digest):
    """Whatever is done with it."""
    got = call("POST", f"/api/blobs/{digest}", GGUF)
    assert (got.status, got.json) == (400, {"error": "invalid digest format"})
    assert call("HEAD", f"/api/blobs/{digest}").status == 400


def test_blobs_are_bounded_all_together(call, monkeypatch):
    """
    What does not fit beside the others is a 413 and is not kept; what is there can be sent again.
    """
    monkeypatch.setattr(created_models, "MOST_BLOB_BYTES", len(GGUF) + 3)
    assert call("POST", f"/api/blobs/{DIGEST}", GGUF).status == 201
    assert call("POST", f"/api/blobs/{digest_of(b'more')}", b"more").status == 413
    assert call("HEAD", f"/api/blobs/{digest_of(b'more')}").status == 404
    assert call("POST", f"/api/blobs/{digest_of(b'mor')}", b"mor").status == 201
    assert call("POST", f"/api/blobs/{DIGEST}", GGUF).status == 200


def test_wrong_methods_and_longer_paths(call):
    """405 with the methods that there are; a path that goes on is none."""
    got = call("GET", f"/api/blobs/{DIGEST}")
    assert (got.status, got.headers["Allow"], got.body) == (
        405,
        "HEAD, POST",
        b"405 method not allowed",
    )
    assert call("GET", "/api/create").headers["Allow"] == "POST"
    assert call("HEAD", f"/api/blobs/{DIGEST}/x").status == 404
    assert call("GET", "/api/blobs").status == 404
    assert call("GET", "/api/nothing/x").status == 404


# ---- create --------------------------------------------------------------------------------------


def test_a_model_is_made_and_answers_as_its_base_does(call, sent):
    """
    The statuses of the real one, success last; then it is listed after its base, shown, and answers
    under its own name.
    """
    got = create(call)
    assert (got.status, got.headers["Content-Type"]) == (200, "application/x-ndjson")
    statuses = [line["status"] for line in got.lines]
    layers = [status for status in statuses if status.startswith("using existing layer sha256:")]
    assert statuses == ["parsing GGUF", *layers, "writing manifest", "success"]
    assert layers[-1].endswith(DIGEST)
    assert list(tags(call)) == [BASE, NAME, "llama3.1:latest"]
    assert tags(call)[NAME]["size"] == tags(call)[BASE]["size"] + len(GGUF)
    assert (
        call("POST", "/api/show", {"model": "urisk-judge"}).json["details"]["parent_model"] == BASE
    )
    assert chat(call, "urisk-judge") == ("urisk-judge", chat(call, BASE)[1])


def test_rules_for_the_base_hold_for_what_is_made_of_it(ask):
    """A rule that names the base, and an earlier one that names the model itself."""
    rules = (Rule(contains="both", model=NAME, answer="own"), Rule(model=BASE, answer="the base's"))
    with running(ScriptedBackend(Scenario(models=(BASE, "other"), rules=rules))) as server:

        def call(*words):
            return ask(server.url, *words)

        call("POST", f"/api/blobs/{DIGEST}", GGUF)
        create(call)
        assert chat(call, "urisk-judge")[1] == "the base's"
        assert "SCRIPTED" in chat(call, "other")[1]
        body = {"model": NAME, "messages": [{"role": "user", "content": "both"}], "stream": False}
        assert call("POST", "/api/chat", body).json["message"]["content"] == "own"


def test_the_digest_is_that_of_base_and_adapter(call, sent):
    """
    The same again changes nothing; another adapter, or another base, makes another model under the
    same name.
    """
    other = GGUF + b"."
    call("POST", f"/api/blobs/{digest_of(other)}", other)
    seen = []
    for digest, base in (
        (DIGEST, BASE),
        (DIGEST, BASE),
        (digest_of(other), BASE),
        (DIGEST, "llama3.1"),
    ):
        assert create(call, digest, **{"from": base}).lines[-1] == {"status": "success"}
        seen.append(tags(call)[NAME]["digest"])
    assert len(tags(call)) == 3
    assert seen[0] == seen[1]
    assert len({tags(call)[BASE]["digest"], *seen}) == 4


def test_a_loaded_model_that_is_made_anew_is_loaded_again(server, call, sent):
    """Only where it is another than before."""
    other = GGUF + b"."
    call("POST", f"/api/blobs/{digest_of(other)}", other)
    for digest, loads in ((DIGEST, 1), (DIGEST, 1), (digest_of(other), 2)):
        create(call, digest)
        chat(call, "urisk-judge")
        assert server.counters["loads"] == loads
    assert call("GET", "/api/ps").json["models"][0]["digest"] == tags(call)[NAME]["digest"]


def test_names_differ_by_more_than_case(call, sent):
    """URISK-JUDGE is urisk-judge: one model, under the name that it has."""
    create(call)
    assert create(call, model="URISK-Judge").lines[-1] == {"status": "success"}
    assert list(tags(call)) == [BASE, NAME, "llama3.1:latest"]


def test_a_made_model_can_be_deleted_and_made_again(call, sent):
    """And a base that is deleted takes nothing with it."""
    create(call)
    assert call("DELETE", "/api/delete", {"model": "urisk-judge"}).status == 200
    assert NAME not in tags(call)
    create(call)
    call("DELETE", "/api/delete", {"model": BASE})
    assert set(tags(call)) == {"llama3.1:latest", NAME}
    assert chat(call, "urisk-judge")[0] == "urisk-judge"


def test_a_base_that_can_be_pulled_is_pulled_first(ask):
    """The pull's lines come first, its success among them; then those of the create."""
    with running(ScriptedBackend(Scenario(models=({"name": BASE, "installed": False},)))) as server:

        def call(*words):
            return ask(server.url, *words)

        call("POST", f"/api/blobs/{DIGEST}", GGUF)
        statuses = [line["status"] for line in create(call).lines]
        assert statuses[0] == "pulling manifest"
        assert statuses.index("success") < statuses.index("parsing GGUF")
        assert statuses[-1] == "success"
        assert set(tags(call)) == {BASE, NAME}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"from": "nope"}, "pull model manifest: nope:latest is not here"),
        ({"digest": MISSING}, "no such file or directory"),
        ({"digest": "sha256:12"}, "invalid digest format"),
        ({"digest": digest_of(b"no gguf")}, "supplied file was not in GGUF format"),
    ],
    ids=["base", "blob", "digest", "content"],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_goes_wrong_on_the_way_is_the_last_line(call, sent, change, error, stream):
    """An error line with status 200; without a stream a 500. No model is made."""
    call("POST", f"/api/blobs/{digest_of(b'no gguf')}", b"no gguf")
    got = create(call, stream=stream, **change)
    assert got.status == (200 if stream else 500)
    assert error in got.lines[-1]["error"]
    assert NAME not in tags(call)


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"model": ""}, 400, "invalid model name"),
        ({"model": "a b"}, 400, "invalid model name"),
        ({"from": "a b"}, 400, "invalid model name"),
        ({"from": ""}, 400, "neither 'from' or 'files' was specified"),
        (
            {"adapters": {"a.gguf": DIGEST, "b.gguf": DIGEST}},
            400,
            "only one adapter is currently supported",
        ),
        (
            {"adapters": [DIGEST]},
            400,
            (
                "json: cannot unmarshal array into Go struct field CreateRequest.adapters of type "
                "map[string]string"
            ),
        ),
        ({"adapters": {"a.gguf": 5}}, 400, "json: cannot unmarshal"),
        (
            {"from": "", "adapters": {}, "files": {"a.gguf": DIGEST, "b.gguf": DIGEST}},
            501,
            "makes a model of one file, without an adapter",
        ),
        (
            {"from": "", "files": {"a.gguf": DIGEST}},
            501,
            "makes a model of one file, without an adapter",
        ),
        (
            {"from": "", "adapters": {}, "files": {"a.gguf": 5}},
            400,
            "CreateRequest.files of type string",
        ),
        ({"system": "Be brief."}, 501, "use Ollama for `system`"),
    ],
)
def test_what_cannot_be_is_refused_before_any_line(call, sent, change, status, error):
    """With its status, and no model is made."""
    got = create(call, **change)
    assert got.status == status
    assert error in got.json["error"]
    assert len(tags(call)) == 2


def create_of_file(call, digest=DIGEST, **rest):
    return call(
        "POST",
        "/api/create",
        {"model": "urisk-judge", "files": {"urisk-judge.gguf": digest}, **rest},
    )


def test_a_model_of_a_file_has_no_base(call, sent):
    """
    The file is its only layer and its size; it answers under its own name as the first model does,
    and needs no other model.
    """
    statuses = [line["status"] for line in create_of_file(call).lines]
    assert statuses == [
        "parsing GGUF",
        f"using existing layer {DIGEST}",
        "writing manifest",
        "success",
    ]
    assert list(tags(call)) == [BASE, NAME, "llama3.1:latest"]
    assert tags(call)[NAME]["size"] == len(GGUF)
    assert call("POST", "/api/show", {"model": "urisk-judge"}).json["details"]["parent_model"] == ""
    assert chat(call, "urisk-judge") == ("urisk-judge", chat(call, BASE)[1])


def test_a_file_and_an_adapter_make_different_models(call, sent):
    """
    The same file again changes nothing; used as an adapter, or another file, it is another model
    under the same name.
    """
    other = GGUF + b"."
    call("POST", f"/api/blobs/{digest_of(other)}", other)
    seen = []
    for make in (
        create_of_file,
        create_of_file,
        create,
        lambda call: create_of_file(call, digest_of(other)),
    ):
        assert make(call).lines[-1] == {"status": "success"}
        seen.append(tags(call)[NAME]["digest"])
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("content", "digest", "error"),
    [
        (None, MISSING, "no such file or directory"),
        (None, "sha256:12", "invalid digest format"),
        (b"no gguf", digest_of(b"no gguf"), "supplied file was not in GGUF format"),
    ],
)
def test_a_file_that_is_none_is_the_last_line(call, content, digest, error):
    """An error line, and no model."""
    if content is not None:
        call("POST", f"/api/blobs/{digest}", content)
    assert error in create_of_file(call, digest).lines[-1]["error"]
    assert NAME not in tags(call)


def test_beside_a_base_files_count_for_nothing(call, sent):
    """As with Ollama: `from` is what the model is made of."""
    assert create(call, files={"a.gguf": MISSING}).lines[-1] == {"status": "success"}
    assert (
        call("POST", "/api/show", {"model": "urisk-judge"}).json["details"]["parent_model"] == BASE
    )


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_file_is_taken_and_not_kept(call, server, chunked):
    """
    Longer than any other body may be, in one piece or in chunks; only its hash stays. Elsewhere
    such a body is a 413.
    """
    content = GGUF + bytes(transport.BODY_BYTES)
    digest = digest_of(content)
    body, headers = content, {}
    if chunked:
        step = 10_000_000
        parts = [content[at : at + step] for at in range(0, len(content), step)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        headers = {"Transfer-Encoding": "chunked"}
    tracemalloc.start()
    assert call("POST", f"/api/blobs/{digest}", body, **headers).status == 201
    # The copy that the test itself sends
    assert tracemalloc.get_traced_memory()[1] < len(content) + 8e6
    tracemalloc.stop()
    assert create_of_file(call, digest).lines[-1] == {"status": "success"}
    assert tags(call)[NAME]["size"] == len(content)
    top = "POST /api/create HTTP/1.1\r\nHost: localhost\r\n"
    head = f"{top}Content-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(head)
        assert b"413" in connection.recv(4096)


def test_an_ollama_that_takes_no_adapters_takes_files(ask):
    """The refusal is about adapters alone, and the version is the scenario's."""
    with running(
        ScriptedBackend(
            Scenario(create_error="LoRA adapters are no longer supported", version="0.34.2")
        )
    ) as server:

        def call(*words):
            return ask(server.url, *words)

        assert call("GET", "/api/version").json == {"version": "0.34.2"}
        call("POST", f"/api/blobs/{DIGEST}", GGUF)
        assert create(call, **{"from": "llama3.1"}).status == 400
        assert create_of_file(call).lines[-1] == {"status": "success"}


def test_without_a_stream_and_without_an_adapter(call):
    """One object; a model under a second name."""
    got = call("POST", "/api/create", {"model": "copy", "from": BASE, "stream": False})
    assert (got.status, got.json) == (200, {"status": "success"})
    assert "copy:latest" in tags(call)


def test_an_ollama_that_takes_no_adapters_any_more(ask):
    """A scenario with `create_error`: 400 with its text, as Ollama from 0.34.1 on."""
    with running(
        ScriptedBackend(Scenario(create_error="LoRA adapters are no longer supported"))
    ) as server:
        got = create(lambda *words: ask(server.url, *words), **{"from": "llama3.1"})
        assert (got.status, got.json) == (400, {"error": "LoRA adapters are no longer supported"})


def test_a_backend_that_makes_no_models_serves_neither(ask):
    """As before there was one that does: 501 for a create, 404 for a blob."""

    class Fixed(ScriptedBackend):
        creates = False

    with running(Fixed()) as server:
        got = ask(server.url, "POST", "/api/create", {"model": "x", "from": "llama3.1"})
        assert got.status == 501
        assert "does not serve /api/create" in got.json["error"]
        assert ask(server.url, "HEAD", f"/api/blobs/{DIGEST}").status == 404
