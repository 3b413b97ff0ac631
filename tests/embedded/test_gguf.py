"""The head of model files, on files made here byte by byte."""

import contextlib
import struct

import pytest
from fake_ollama.llamacpp import LlamaBrain, ModelUnusable, model_name

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
        entry("llama.rope.freq_base", 6, "<f", 0.5),
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


def test_the_facts_of_a_file(model):
    """Scalars are read, arrays are passed over, parameters are counted from the tensors' shapes."""
    head = gguf.read(model)
    assert head.info["general.architecture"] == "llama"
    assert head.info["llama.rope.freq_base"] == 0.5
    assert head.info["flag"] is True
    assert "tokenizer.ggml.tokens" not in head.info
    assert (head.parameters, head.parameter_size, head.quantization) == (128, "0.13K", "Q8_0")
    assert head.of_architecture("context_length") == 2048
    assert len(head.digest) == 64


def test_every_cut_is_noticed(model):
    """However short the file is, it is told before it is loaded, and by our own error."""
    whole = model.read_bytes()
    for length in range(len(whole)):
        model.write_bytes(whole[:length])
        with pytest.raises(gguf.NotGguf):
            gguf.read(model)


def test_every_changed_byte_is_read_or_refused(model):
    """Damage in the head never gives another exception than ours."""
    whole = model.read_bytes()
    for at in range(len(whole) - 136):
        model.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(gguf.NotGguf):
            gguf.read(model)


def test_sizes_are_written_as_ollama_writes_them():
    """134.52M and 7.6B."""

    def size(parameters):
        return gguf.Head(info={}, parameters=parameters, size_bytes=0, digest="").parameter_size

    assert [size(134_515_008), size(7_615_616_512)] == ["134.52M", "7.6B"]


def test_the_brain_describes_the_file_without_loading_it(model):
    """Name, window and abilities come from the head."""
    brain = LlamaBrain(model)
    (described,) = brain.models()
    assert described.name == "my-model-v2:latest"
    assert (described.context_length, described.embedding_length) == (2048, 64)
    assert described.capabilities == ("completion", "thinking")
    assert described.info["general.parameter_count"] == 128


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("Qwen3-0.6B-Q8_0", "qwen3-0.6b-q8_0"),
        ("--a b--", "a-b"),
        ("日本", "model"),
        ("x" * 100, "x" * 80),
        ("_a", "_a"),
    ],
)
def test_any_file_name_makes_a_legal_model_name(tmp_path, stem, name):
    """Ollama's grammar, in lower case."""

    made = model_name(tmp_path / f"{stem}.gguf")
    assert made == f"{name}:latest"
    assert asks.name(made).shown == made


def test_a_folder_is_no_model(tmp_path):
    """The message names the path."""
    with pytest.raises(ModelUnusable, match=str(tmp_path)):
        LlamaBrain(tmp_path)
