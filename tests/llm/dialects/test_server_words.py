"""A server's own words in ours: one line, no web page, nothing that drives a terminal; and what
they mean where a schema is refused."""

import json

import pytest

from urisk_nb import errors
from urisk_nb.llm.dialects import ollama, openai, systemone

PAGE = (
    "<html>\r\n<head><title>502 Bad\n Gateway</title></head>\r\n<body>\r\n"
    "<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>"
)
REFUSALS = [
    (PAGE, "502 Bad Gateway"),
    (json.dumps({"error": PAGE}), "502 Bad Gateway"),
    (f"upstream: {PAGE}", "upstream: 502 Bad Gateway"),
    ("<!DOCTYPE html><body><p>no\n<p>title</body>", "a web page"),
    ("You may not.\nAsk\r\n\tyour admin.", "You may not. Ask your admin."),
    (
        json.dumps({"error": "Model crashed\n\n\x1b[31m\u202eevil"}),
        "Model crashed ⟨U+001B⟩[31m⟨U+202E⟩evil",
    ),
]
DIALECTS = [ollama, openai, systemone]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.__name__.rpartition(".")[2])
@pytest.mark.parametrize(("body", "said"), REFUSALS)
def test_a_refusal_is_one_line(dialect, body, said):
    """Whatever it says, the message is one line that a person can read."""
    for status in (403, 500, 502):
        error = dialect.decode_error(status, body)
        assert error.message == f"the server answered with HTTP {status}: {said}"
        assert error.facts["said"] == said
        assert str(error).count("\n") == 1  # the line of the fix


def test_an_error_in_a_stream_is_one_line():
    """The same holds where the status was 200."""
    with pytest.raises(Exception, match="an error in its stream: Model crashed ⟨U") as caught:
        list(openai.ChatDecoder().feed(b'data: {"error":"Model crashed\\n\\n\\u001b[31m"}\n\n'))
    assert "\n" not in caught.value.message
    assert "\x1b" not in caught.value.message


def test_a_long_refusal_is_cut():
    """A message stays readable; it says that there was more."""
    message = openai.decode_error(400, "x" * 5000).message
    assert message == "the server answered with HTTP 400: " + "x" * 297 + "..."


@pytest.mark.parametrize("body", ["", "  \n", '{"error": ""}', '{"error": {"message": ""}}'])
def test_a_refusal_without_words(body):
    """An empty body is no word `nothing` of the server."""
    message = openai.decode_error(401, body).message
    assert message == "the server answered with HTTP 401, without a reason."


def test_names_and_versions_do_not_drive_a_terminal():
    """What a server calls itself and its models is shown in many places."""
    entry = {"id": "some\x1b[2J7b", "owned_by": "v\x1b[31mllm\n2", "aliases": ["a\x07"]}
    content = {"data": [entry]}
    assert openai.read_owner(content) == "v⟨U+001B⟩[31mllm 2"
    (model,) = openai.decode_models(content)
    assert (model.name, model.aliases) == ("some⟨U+001B⟩[2J7b", ("a⟨U+0007⟩",))
    props = openai.decode_props({"build_info": "b1\x1b"}, [{"path": "/x/j\x1b.gguf"}])
    assert (props.build, props.adapters) == ("b1⟨U+001B⟩", ("j⟨U+001B⟩",))
    tags = {"models": [{"name": "m\x1b"}]}
    assert [one.name for one in ollama.decode_models(tags)] == ["m⟨U+001B⟩"]
    assert [one.name for one in ollama.decode_loaded_models(tags)] == ["m⟨U+001B⟩"]
    assert ollama.decode_progress({"status": "pull\x1b\nx"}).status == "pull⟨U+001B⟩ x"


# What a refusal of a schema means

NO_SCHEMA = "this server cannot hold an answer to a JSON schema: it answered with HTTP "


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, '{"error":{"message":"response_format is not supported"}}'),
        (400, '{"error":{"message":"This response_format type is unavailable now"}}'),
        (400, '{"error":{"message":"Unrecognized request argument supplied: response_format"}}'),
        (400, '{"error":{"message":"this model doesn\'t support structured outputs"}}'),
        (
            422,
            '{"detail":[{"loc":["body","response_format"],"msg":"extra fields not permitted"}]}',
        ),
        (501, '{"error":{"message":"response_format json_schema: not implemented"}}'),
    ],
)
def test_a_server_without_schemas_is_said(status, body):
    """The schema is ours, so that no call can be mended: another server is what helps."""
    error = openai.decode_error(status, body)
    assert type(error) is errors.NotSupportedByServer
    assert error.message.startswith(f"{NO_SCHEMA}{status}: ")
    assert "Ollama" in error.fix
    assert "llama.cpp" in error.fix


def test_a_field_that_is_refused_without_a_name():
    """Older servers do not say which field is too much; it is one of ours all the same."""
    error = openai.decode_error(422, '{"detail":"extra fields not permitted"}')
    assert type(error) is errors.NotSupportedByServer
    assert "does not take all that urisk_nb sends: it answered with HTTP 422" in error.message


@pytest.mark.parametrize(
    "said",
    [
        "Invalid schema for response_format 'answer': 'oneOf' is not supported",
        "The provided JSON schema contains features not supported by xgrammar.",
        "Field 'json_schema': JSON schema conversion failed:\\nUnrecognized schema: 5",
    ],
)
def test_a_schema_that_is_refused_is_the_callers_own(said):
    """A server that takes schemas does not take every schema."""
    error = openai.decode_error(400, f'{{"error":{{"message":"{said}"}}}}')
    assert type(error) is errors.BadRequest
    assert "check the schema" in error.fix
