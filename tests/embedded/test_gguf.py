"""The head of model files, on files made here byte by byte."""

import contextlib
import struct

import pytest

from urisk_nb.embedded import gguf


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def entry(name, kind, form, value):
    return (
        text(name)
        + struct.pack("<I", kind)
        + (text(value) if kind == 8 else struct.pack(form, value))
    )


def file_bytes(tensor_bytes=34 * 4):
    """
    One tensor of 128 Q8_0 values: 4 blocks of 34 bytes, behind a head that is padded to 32 bytes.
    """
    entries = [
        entry("general.architecture", 8, "", "llama"),
        entry("llama.context_length", 4, "<I", 2048),
        entry("llama.embedding_length", 10, "<Q", 64),
        entry("llama.rope.freq_base", 6, "<f", float("nan")),
        entry("general.file_type", 4, "<I", 7),
        entry("flag", 7, "<?", True),
        text("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, 3)
        + text("a")
        + text("bc")
        + text(""),
        text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + b"\0" * 8,
        entry("tokenizer.chat_template", 8, "", "{% enable_thinking %}"),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(entries)) + b"".join(entries)
    head += text("w") + struct.pack("<IQQIQ", 2, 64, 2, 8, 0)
    return head + b"\0" * (-len(head) % 32) + b"\1" * tensor_bytes


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "My Model (v2).gguf"
    path.write_bytes(file_bytes())
    return path


def test_a_whole_file_is_accepted(model):
    """Scalars, texts and arrays of the head are passed over, whatever they hold."""
    gguf.check(model)


@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_the_alignment_of_the_file_counts(model, alignment):
    """Tensors begin at a multiple of it, so a file with another one needs more bytes."""
    more = entry("general.alignment", 4, "<I", alignment)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + more
    head += text("w") + struct.pack("<IQQIQ", 2, 64, 2, 8, 0)
    whole = head + b"\0" * (-len(head) % alignment) + b"\1" * 136
    model.write_bytes(whole)
    gguf.check(model)
    model.write_bytes(whole[:-1])
    with pytest.raises(
        gguf.NotGguf, match=f"{len(whole) - 1} bytes, its head promises {len(whole)}"
    ):
        gguf.check(model)


def test_every_cut_is_noticed(model):
    """However short the file is, it is told before it is loaded, and by our own error."""
    whole = model.read_bytes()
    for length in range(len(whole)):
        model.write_bytes(whole[:length])
        with pytest.raises(gguf.NotGguf):
            gguf.check(model)


def test_every_changed_byte_is_read_or_refused(model):
    """Damage in the head never gives another exception than ours."""
    whole = model.read_bytes()
    for at in range(len(whole) - 136):
        model.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(gguf.NotGguf):
            gguf.check(model)
