"""The meaning of every recorded refusal of a real Ollama, and of texts of other versions."""

import json

import pytest

from harness import ROOT
from urisk_nb import errors
from urisk_nb.errors import UriskError
from urisk_nb.llm.dialects import dialect, ollama

TRANSCRIPTS = [
    json.loads(line)
    for line in (ROOT / "tests/data/ollama_transcripts.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
NAMES = {
    "chat_no_model": errors.ModelNameInvalid,
    "chat_unknown_model": errors.ModelNotFound,
    "chat_bad_name": errors.ModelNameInvalid,
    "generate_unknown_model": errors.ModelNotFound,
    "show_unknown": errors.ModelNotFound,
    "after_first_value": errors.ModelNotFound,
    "delete_unknown": errors.ModelNotFound,
    "pull_bad_name": errors.ModelNameInvalid,
    "pull_unreachable_registry": errors.PullFailed,
    "pull_whole_unreachable": errors.PullFailed,
    "cloud_name": errors.CloudModelBlocked,
    "unknown_path": errors.ProtocolError,
    "wrong_method": errors.ProtocolError,
    "foreign_host": errors.BadRequest,
    "foreign_origin": errors.BadRequest,
    "empty_body": errors.BadRequest,
    "bad_json": errors.BadRequest,
    "cut_json": errors.BadRequest,
    "wrong_type": errors.BadRequest,
    "bad_format": errors.BadRequest,
    "bad_schema_rendered": errors.BadRequest,
    "bad_schema_native": errors.BadRequest,
    "option_wrong_type": errors.BadRequest,
    "keep_alive_string_without_unit": errors.BadRequest,
    "keep_alive_bool": errors.BadRequest,
    "think_not_supported": errors.ModelUnsuitable,
    "think_bad_value": errors.BadRequest,
    "top_logprobs_too_many": errors.BadRequest,
    "too_long_native": errors.ContextExceeded,
    "too_long_rendered_truncate_false": errors.ContextExceeded,
    "too_long_native_truncate_false": errors.ContextExceeded,
    "embed_chat_model": errors.ModelUnsuitable,
}


def refusals():
    for transcript in TRANSCRIPTS:
        body = "".join(transcript["chunks"])
        if int(transcript["status"]) >= 400:
            yield transcript["name"], int(transcript["status"]), body
        elif '{"error"' in body:
            yield transcript["name"], None, json.loads(body.strip().splitlines()[-1])["error"]


@pytest.mark.parametrize(("name", "status", "body"), list(refusals()))
def test_every_recorded_refusal_of_a_real_server_has_its_meaning(name, status, body):
    """
    Each error reply in the recorded exchanges becomes the error that it means, with the server's
    own words.
    """
    error = ollama.decode_error(status, body)
    assert type(error) is NAMES[name]
    assert error.fix
    assert not error.facts["said"].startswith("{")  # the runner's JSON in a string is taken apart


def test_no_recorded_refusal_is_left_out():
    """
    The table of meanings has each recorded refusal, and no other.
    """
    assert {name for name, _, _ in refusals()} == set(NAMES)


# Texts that the recorded server did not give, from the server's source (protocol reference 5, 6.6,
# 8, 12).
SAID = [
    (503, "server busy, please try again.  maximum pending requests exceeded", errors.ServerBusy),
    (429, "", errors.ServerBusy),
    (499, "request canceled", errors.ServerConnectionLost),
    (
        500,
        "error starting llama-server: llama-server binary not found (checked: /x)",
        errors.ServerInternalError,
    ),
    (
        500,
        "llama-server process has terminated: exit status 1: error loading model",
        errors.RunnerCrashed,
    ),
    (500, "llama-server process has terminated: signal: killed", errors.RunnerCrashed),
    (500, "llama runner process has terminated: exit status 2", errors.RunnerCrashed),
    (
        500,
        "x: this model may be incompatible with your version of Ollama. If you previously pulled",
        errors.ModelUnsuitable,
    ),
    (500, "timed out waiting for llama-server to start - progress 0.00", errors.ServerTimeout),
    (
        500,
        "llama-server reported out-of-memory during startup: cudaMalloc failed",
        errors.OutOfMemory,
    ),
    (
        500,
        "llama-server process has terminated: exit status 1: failed to allocate buffer",
        errors.OutOfMemory,
    ),
    (
        500,
        "model requires more system memory (9.3 GiB) than is available (4.1 GiB)",
        errors.ModelTooLarge,
    ),
    (
        500,
        "model requires 20 GiB but only 9 GiB are available (after 1 GiB overhead)",
        errors.ModelTooLarge,
    ),
    (
        500,
        "model runner has unexpectedly stopped, this may be due to resource limitations",
        errors.RunnerCrashed,
    ),
    (
        None,
        "an error was encountered while running the model: unexpected EOF",
        errors.RunnerCrashed,
    ),
    (
        None,
        "llama-server chat error: map[code:500 message:boom type:server_error]",
        errors.ServerInternalError,
    ),
    (400, "image generation models are not currently supported", errors.ModelUnsuitable),
    (401, "unauthorized", errors.CloudModelBlocked),
    (400, "this server cannot run this remote model", errors.CloudModelBlocked),
    (502, "dial tcp: connection refused", errors.ServerConnectionLost),
    (None, "pull model manifest: file does not exist", errors.ModelNotFound),
    (None, "pull model manifest: 412: requires newer", errors.ServerTooOld),
    (400, "path or Modelfile are required", errors.ServerTooOld),
    (400, "LoRA adapters are no longer supported", errors.ModelUnsuitable),
    (400, 'digest mismatch, expected "sha256:a", got "sha256:b"', errors.BadRequest),
    (None, "max retries exceeded: EOF", errors.PullFailed),
    (None, "digest mismatch, file must be downloaded again: want a, got b", errors.PullFailed),
    (None, "write /x: no space left on device", errors.DiskFull),
    (
        None,
        "this model requires MLX support, but the MLX runtime is not available",
        errors.ModelUnsuitable,
    ),
    (
        400,
        "the prompt is longer than the context length currently available to the model; try",
        errors.ContextExceeded,
    ),
    (404, "model '' not found", errors.ModelNotFound),
    (404, 'model "foo" not found, try pulling it first', errors.ModelNotFound),
    (404, "404 page not found", errors.ProtocolError),
    (405, "405 method not allowed", errors.ProtocolError),
    (403, "", errors.BadRequest),
    (413, "<html>too large</html>", errors.BadRequest),
    (500, "something new", errors.ServerInternalError),
    (500, "", errors.ServerInternalError),
    (500, 'option "num_ctx" must be of type integer', errors.BadRequest),
    (400, "model is required", errors.ModelNameInvalid),
]


@pytest.mark.parametrize(("status", "text", "kind"), SAID)
def test_every_known_text_has_its_meaning(status, text, kind):
    """
    Texts of other versions and situations, each with the error that it means.
    """
    body = (
        text
        if text.startswith("<") or not text or (status in (404, 405) and "page" in text)
        else json.dumps({"error": text})
    )
    assert type(ollama.decode_error(status, body)) is kind


def test_no_rule_is_dead():
    """
    Each rule of the table is the meaning of at least one text above or recorded.
    """
    texts = [(status, text) for status, text, _ in SAID] + [
        (status, dialect.extract_error_text(body)) for _, status, body in refusals()
    ]
    used = {
        ollama.RULES.index(dialect.find_rule(ollama.RULES, status, text)) for status, text in texts
    }
    assert used == set(range(len(ollama.RULES)))


@pytest.mark.parametrize(
    "body",
    [
        '{"error":',
        "\x00",
        '{"error":{"error":{}}}',
        '{"error":3}',
        "[" * 50_000,
        '{"error":"{\\"error\\":3}"}',
    ],
)
def test_any_body_is_an_error_and_never_a_crash(body):
    """
    Broken JSON, other types, nests.
    """
    assert isinstance(ollama.decode_error(500, body), UriskError)
