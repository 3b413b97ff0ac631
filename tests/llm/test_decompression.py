"""Compressed replies, cut anywhere; the oracle is the standard library's own packing."""

import gzip
import zlib

import pytest

from urisk_nb.llm.decompression import Decompressor

TEXT = b"".join(b"%d answers, and then some.\n" % number for number in range(300))
BARE = zlib.compressobj(wbits=-15)
PACKED = {
    "gzip": gzip.compress(TEXT),
    "members": b"".join(gzip.compress(line) for line in TEXT.splitlines(keepends=True)),
    "zlib": zlib.compress(TEXT),
    "bare": BARE.compress(TEXT) + BARE.flush(),
}


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10**6])
@pytest.mark.parametrize("kind", PACKED)
def test_each_kind_is_read_however_it_is_cut(kind, size):
    layer = Decompressor("deflate" if kind in ("zlib", "bare") else "gzip")
    packed = PACKED[kind]
    parts = [layer.feed(packed[at : at + size]) for at in range(0, len(packed), size)]
    assert b"".join(parts) == TEXT


def test_a_part_is_there_as_soon_as_it_has_come():
    """A stream is not held back until its end."""
    packer = zlib.compressobj(wbits=31)
    layer = Decompressor("gzip")
    for part in (b"one", b"two"):
        assert layer.feed(packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH)) == part


@pytest.mark.parametrize("data", [b"{}{}{}", PACKED["gzip"][:40] + b"\xff" * 400])
def test_what_is_not_compressed_so_is_refused(data):
    with pytest.raises(ValueError, match="decompressing"):
        Decompressor("gzip").feed(data)


def test_what_follows_the_last_member_is_no_fault():
    """Some servers fill up with zeros."""
    assert Decompressor("gzip").feed(PACKED["gzip"] + bytes(64)) == TEXT
