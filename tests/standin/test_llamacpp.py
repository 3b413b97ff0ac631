"""llama.cpp behind the face: its threads, and the real model, marked slow."""

import json
import threading

import jsonschema
import pytest

from urisk_nb.embedded import weights
from urisk_nb.embedded.weights import GGUF
from urisk_nb.risk.questions import SCHEMA as JUDGE_SCHEMA
from urisk_nb.risk.questions import SHORT
from urisk_nb.standin import running
from urisk_nb.standin.llamacpp import LlamaBrain, ModelUnusable, cores


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", None),
        ("", None),
    ],
)
def test_threads_are_the_cores_that_we_may_use(tmp_path, text, limit):
    """A container's share counts, not the host's cores; without one the affinity does."""
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    everything = cores(tmp_path / "missing")
    assert cores(quota) == min(everything, limit or everything)


# ---- the real model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(demo_model):
    # The cores may be busy with other tests
    with running(LlamaBrain(demo_model, threads=1)) as server:
        yield server


def chat(text, **rest):
    fixed = {"temperature": 0, "seed": 1, "num_predict": 48, **rest.pop("options", {})}
    return {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": text}],
        "think": False,
        "options": fixed,
        **rest,
    }


@pytest.mark.slow
def test_the_real_model_answers_in_pieces(real, ask):
    """One line a token, counters that fit, the same again for the same seed."""
    first, second = (
        ask(real.url, "POST", "/api/chat", chat("Name one ocean.", options={"num_predict": 12}))
        for _ in range(2)
    )
    assert [line["done"] for line in first.lines] == [False] * 12 + [True]
    assert first.lines[-1]["eval_count"] == 12
    assert [line.get("message") for line in first.lines] == [
        line.get("message") for line in second.lines
    ]


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
    got = ask(
        real.url,
        "POST",
        "/api/chat",
        chat("Acme was fined 5 billion dollars.", format=schema, stream=False),
    ).json
    assert got["done_reason"] == "stop"
    jsonschema.validate(json.loads(got["message"]["content"]), schema)


@pytest.mark.slow
def test_a_common_prefix_is_not_computed_again(real, ask):
    """
    A second question behind the same rules costs its own tokens only; prompt_eval_count stays the
    whole.
    """
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
        connection.sendall(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data)
            + data
        )
        assert b"200 OK" in connection.recv(4096)
    got = ask(
        real.url,
        "POST",
        "/api/chat",
        chat("Name one ocean.", stream=False, options={"num_predict": 2}),
    ).json
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
    body = {
        "model": "smollm2-135m",
        "prompt": "The sea is",
        "raw": True,
        "stream": False,
        "logprobs": True,
        "top_logprobs": 2,
    }
    got = ask(
        real.url, "POST", "/api/generate", {**body, "options": {"num_predict": 3, "temperature": 0}}
    ).json
    assert "".join(entry["token"] for entry in got["logprobs"]) == got["response"]
    assert all(
        entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in got["logprobs"]
    )
    assert "context" not in got


@pytest.mark.slow
def test_another_window_loads_again_and_is_in_force(real, ask):
    """/api/ps shows it, and a prompt longer than it is refused."""
    loads = real.counters["loads"]
    got = ask(
        real.url,
        "POST",
        "/api/chat",
        chat("x", stream=False, options={"num_ctx": 512, "num_predict": 1}),
    ).json
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
    assert any(
        ask(real.url, "GET", "/api/ps").json["models"] == [] or pause.wait(0.02) for _ in range(200)
    )
    assert (
        ask(
            real.url, "POST", "/api/chat", chat("x", stream=False, options={"num_predict": 1})
        ).status
        == 200
    )


def judged(real, ask, text):
    messages = [{"role": "system", "content": SHORT}, {"role": "user", "content": text}]
    body = chat(text, model="urisk-judge", messages=messages, format=JUDGE_SCHEMA, stream=False)
    return ask(real.url, "POST", "/api/chat", body).json


@pytest.mark.slow
def test_the_demo_weights_serve_two_models(real, ask):
    """
    The demo model is the first and keeps its own mind; the judge, over the same file, labels in at
    most 14 compact tokens.
    """
    names = [model["name"] for model in ask(real.url, "GET", "/api/tags").json["models"]]
    assert names == ["smollm2-135m:latest", "urisk-judge:latest"]
    before = ask(
        real.url,
        "POST",
        "/api/chat",
        chat("Name one ocean.", stream=False, options={"num_predict": 8}),
    ).json["message"]
    got = judged(real, ask, "Its auditor has resigned over missing bank statements.")
    assert got["message"]["content"].startswith('{"risk":"governance","severity":')
    assert got["eval_count"] <= 14
    assert (
        json.loads(
            judged(real, ask, "The bank cannot repay the bonds that fall due in May.")["message"][
                "content"
            ]
        )["risk"]
        == "credit"
    )
    after = ask(
        real.url,
        "POST",
        "/api/chat",
        chat("Name one ocean.", stream=False, options={"num_predict": 8}),
    ).json["message"]
    assert after == before
    assert {model["name"] for model in ask(real.url, "GET", "/api/ps").json["models"]} == set(names)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2-135m", "urisk-judge"])
def test_a_chosen_answer_is_the_one_that_would_be_written(real, ask, model):
    """
    With log-probabilities the model writes every token itself: the same text, and the same counts
    of tokens.
    """
    for text in (
        "Acme was fined 5 billion dollars.",
        "The annual meeting takes place in Berlin.",
        "Its lenders waived the covenant.",
    ):
        messages = [{"role": "system", "content": SHORT}, {"role": "user", "content": text}]
        body = chat(text, model=model, messages=messages, format=JUDGE_SCHEMA, stream=False)
        chosen = ask(real.url, "POST", "/api/chat", body).json
        wrote = ask(real.url, "POST", "/api/chat", {**body, "logprobs": True}).json
        if model == "urisk-judge":  # the demo model puts blanks into it
            assert chosen["message"] == wrote["message"]
            assert chosen["eval_count"] == wrote["eval_count"]
        assert chosen["prompt_eval_count"] == wrote["prompt_eval_count"]
        jsonschema.validate(json.loads(chosen["message"]["content"]), JUDGE_SCHEMA)


@pytest.mark.slow
def test_two_models_share_a_server(real, ask):
    """
    One server of llama.cpp for both, since OpenMP lets threads sleep at each step where it counts
    more than cores.
    """
    ask(real.url, "POST", "/api/chat", {"model": "smollm2-135m", "messages": []})
    judged(real, ask, "Acme was fined.")
    assert len(real._face._brain._servers) == 1
    ask(
        real.url,
        "POST",
        "/api/chat",
        chat("x", stream=False, options={"num_ctx": 1024, "num_predict": 1}),
    )
    # The other window; it takes the place of the first for this model
    assert len(real._face._brain._servers) == 2
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
    assert (
        ask(
            real.url, "POST", "/api/chat", chat("x", stream=False, options={"num_predict": 1})
        ).json["eval_count"]
        == 1
    )
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
    """
    The head promises nothing about the rest: a 500 with the file's name, and the server lives.
    """
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

    command = [
        sys.executable,
        "-m",
        "urisk_nb.standin",
        "--brain",
        "llamacpp",
        "--threads",
        "1",
        "--gguf",
        str(demo_model),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        line = json.loads(process.stdout.readline())
        assert (line["brain"], line["model"]) == ("llamacpp", "smollm2-135m:latest")
        assert demo_model.name == GGUF
        body = json.dumps(
            chat("Name one ocean.", stream=False, options={"num_predict": 2})
        ).encode()
        with urllib.request.urlopen(
            urllib.request.Request(line["url"] + "/api/chat", body), timeout=30
        ) as reply:
            assert json.load(reply)["done"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
