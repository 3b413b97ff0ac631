"""A server's own words in ours: one line, no web page, nothing that drives a terminal."""

import json

import pytest

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
