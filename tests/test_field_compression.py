"""
Replies that a proxy has compressed although nobody asked for it: table C of the reports, row C6.
"""

import gzip

import pytest

from small_server import chat, chat_only, probe, says, serve
from urisk_nb import errors


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.parametrize(
    "encoding",
    ["", "identity", "utf-8", "gzip", "x-gzip", "deflate", "bare deflate", "members", "gzip, gzip"],
)
def test_c6_a_compressed_stream_is_read(encoding):
    """ollama#12386: nobody asked for it, and it is decoded anyway, part by part."""
    with serve(encoding=encoding) as server:
        assert chat(server.url) == "Ask why."
        assert {headers["Accept-Encoding"] for _, headers in server.seen} == {"identity"}


@pytest.mark.parametrize("encoding", ["zz9", "br", "zstd", "gzip, br"])
@pytest.mark.parametrize("run", [probe, chat_only])
def test_c6_what_cannot_be_decoded_is_said(encoding, run):
    """Also of a small reply, at the start."""
    packed = says(200, b"\x8b\x01", Content_Encoding=encoding)
    name = encoding.rpartition(" ")[2]
    with (
        serve(handler=packed) as server,
        pytest.raises(errors.ProtocolError, match=f"compressed as {name}, which was not asked"),
    ):
        run(server.url)


@pytest.mark.parametrize("run", [probe, chat_only])
def test_c6_of_a_refusal_that_cannot_be_decoded_the_status_is_said(run):
    """In place of its compression, or of what the body looks like."""
    packed = says(403, b"\x8b\x01\xff", "text/html", Content_Encoding="br")
    with serve(handler=packed) as server, pytest.raises(errors.AccessDenied) as caught:
        run(server.url)
    assert "(HTTP 403)" in caught.value.message


@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(b"{}")[:9] + b"\xff" * 40])
@pytest.mark.parametrize("run", [probe, chat_only])
def test_c6_a_broken_compression_is_said(body, run):
    with (
        serve(handler=says(200, body, Content_Encoding="gzip")) as server,
        pytest.raises(errors.ProtocolError, match="compressed reply cannot be decoded"),
    ):
        run(server.url)


def test_c6_a_small_reply_of_several_members_is_read():
    """The list of models, say; httpx by itself ends at the first one."""
    body = b'{"version":"0.33.0"}'
    packed = b"".join(gzip.compress(body[at : at + 5]) for at in range(0, len(body), 5))
    with serve(handler=says(200, packed, Content_Encoding="gzip")) as server:
        assert probe(server.url) == "0.33.0"


def test_c6_a_compressed_refusal_is_read():
    """Refusals come compressed, too."""
    body = gzip.compress(b'{"error":"model is required"}')
    refuses = says(400, body, Content_Encoding="gzip")
    with serve(handler=refuses) as server, pytest.raises(errors.UriskError) as caught:
        chat_only(server.url)
    assert caught.value.facts["said"] == "model is required"
