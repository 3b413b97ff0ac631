"""
The header of a model with the entries of a decision model: read and written as the package gguf
does, the weights untouched; and where the copy lies.
"""

import os
import struct

import gguf
import numpy as np
import pytest

from urisk_nb.embedded import decision, gguf_header, weights
from urisk_nb.errors import FetchFailed

TEMPLATE = "{{ state }}: é"
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
WORDS = ["a", "ü", "", "<|im_end|>"]


def write(path, fill, *, alignment=32, tensors=()):
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    fill(writer)
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fill_base(writer):
    """An entry of each kind that a header can have."""
    writer.add_name("tiny")
    writer.add_chat_template(CHAT)
    writer.add_token_list(WORDS)
    writer.add_token_types([1, 2, 3, 4])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_bool("yes", True)
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"number.{kind}", 7)
    writer.add_float32("number.float32", 0.5)
    writer.add_float64("number.float64", 0.25)


TENSORS = (
    ("a.weight", np.arange(15, dtype=np.float32).reshape(3, 5)),
    ("b.weight", np.arange(7, dtype=np.float16)),
)


@pytest.fixture(params=[32, 64, 4096])
def base(request, tmp_path):
    path = tmp_path / "models" / "tiny.gguf"
    path.parent.mkdir()
    return write(path, fill_base, alignment=request.param, tensors=TENSORS)


def write_adapter(path, *, temperature=1.5, template=TEMPLATE, kind="openjev"):
    def fill(writer):
        writer.add_type("adapter")
        if kind:
            writer.add_string(decision.TYPE, kind)
        if template:
            writer.add_string(decision.TEMPLATE, template)
        writer.add_array("tokenizer.chat_templates", ["systemone"])
        writer.add_float32("llama.decision.temperature.choice", temperature)

    return write(path, fill)


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "adapter.gguf")


@pytest.fixture(autouse=True)
def user_folder(monkeypatch, tmp_path):
    """The user's data folder, which is the second place."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "urisk_nb"


def read(path):
    """What the package gguf reads: entries, and tensors as they are."""
    reader = gguf.GGUFReader(path)
    entries = {name: field.contents() for name, field in reader.fields.items()}
    return (
        {name: value for name, value in entries.items() if not name.startswith("GGUF.")},
        {tensor.name: tensor.data.tolist() for tensor in reader.tensors},
    )


def prepare(base, adapter):
    with decision.prepare_model(base, adapter) as path:
        return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_header_is_read_to_the_byte(base):
    """Written again it is the same file, up to the first weight."""
    header = gguf_header.read_header(base)
    assert list(header.entries) == list(read(base)[0])
    data = base.read_bytes()
    assert gguf_header.encode_header(header, header.entries) == data[: header.data_offset]
    assert data[header.data_offset :][:60] == TENSORS[0][1].tobytes()


def test_the_copy_is_the_base_with_the_adapters_entries(base, adapter):
    """
    Nothing else is another, and the weights are the same; a chat begins with a line end, so that
    llama.cpp never goes on from a chat with a decision.
    """
    copy = prepare(base, adapter)
    (entries, tensors), (before, weights_before) = read(copy), read(base)
    added = {name: value for name, value in entries.items() if before.get(name) != value}
    assert added == {
        decision.TYPE: "openjev",
        decision.TEMPLATE: TEMPLATE,
        "tokenizer.chat_templates": ["systemone"],
        "llama.decision.temperature.choice": 1.5,
        "tokenizer.chat_template": r"{{ '\n' }}" + CHAT,
    }
    assert tensors == weights_before
    assert before.keys() <= entries.keys()


def test_the_copy_is_named_by_the_adapter_and_used_again(base, adapter):
    """It lies beside the base; a whole one is not written again, whatever its age."""
    copy = prepare(base, adapter)
    digest = weights._hash_file(adapter)
    assert names(base.parent) == [f"tiny-decision-{digest[:12]}.gguf", "tiny.gguf"]
    os.utime(copy, (1, 1))
    assert prepare(base, adapter) == copy
    assert copy.stat().st_mtime == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: b"",
    ],
    ids=["cut short", "longer", "another header", "empty"],
)
def test_a_copy_that_is_not_whole_is_made_anew(base, adapter, damage):
    """It has the name and is another file."""
    copy = prepare(base, adapter)
    whole = copy.read_bytes()
    copy.write_bytes(damage(whole))
    assert prepare(base, adapter).read_bytes() == whole


def test_copies_for_other_adapters_are_removed(base, adapter, tmp_path):
    """So is what a killed process left long ago; files of others stay."""
    old = prepare(base, write_adapter(tmp_path / "old.gguf", temperature=2.0))
    (base.parent / ".part-old").touch()
    os.utime(base.parent / ".part-old", (1, 1))
    (base.parent / ".part-new").touch()
    (base.parent / "tiny-decision-mine.gguf").touch()
    own = ["tiny-decision-mine.gguf", "tiny.gguf"]
    copy = prepare(base, adapter)
    assert copy != old
    assert names(base.parent) == sorted([".part-new", copy.name, *own])


def forbid(monkeypatch, *folders):
    """No file can be made in these folders, as where they are read-only."""
    place = decision.place_atomically

    def refuse(target, folder):
        if folder in folders:
            raise PermissionError(13, "Permission denied", str(folder))
        return place(target, folder)

    monkeypatch.setattr(decision, "place_atomically", refuse)


def test_beside_a_read_only_base_it_lies_with_the_user(base, adapter, monkeypatch, user_folder):
    """And is used again from there."""
    forbid(monkeypatch, base.parent)
    copy = prepare(base, adapter)
    assert copy.parent == user_folder
    os.utime(copy, (1, 1))
    assert prepare(base, adapter).stat().st_mtime == 1
    assert names(base.parent) == ["tiny.gguf"]


def test_without_any_place_it_is_there_for_the_load_alone(base, adapter, monkeypatch, user_folder):
    """In a folder of its own, which is gone afterwards."""
    forbid(monkeypatch, base.parent, user_folder)
    with decision.prepare_model(base, adapter) as copy:
        assert read(copy)[0][decision.TYPE] == "openjev"
    assert not copy.parent.exists()


def test_no_room_at_all_is_told(base, adapter, monkeypatch):
    """With what to do."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decision, "place_atomically", full)
    with pytest.raises(
        FetchFailed, match=r"a copy of the model cannot be written: No space left"
    ) as caught:
        prepare(base, adapter)
    assert "URISK_DATA" in caught.value.fix


@pytest.mark.parametrize("lacks", [{"kind": ""}, {"template": ""}], ids=["type", "template"])
def test_an_adapter_without_the_entries_is_refused(base, tmp_path, lacks):
    """It was trained, but not for a decision model; nothing is written."""
    adapter = write_adapter(tmp_path / "plain.gguf", **lacks)
    with pytest.raises(FetchFailed, match=r"plain\.gguf does not make a decision model") as caught:
        prepare(base, adapter)
    assert "training/train.py" in caught.value.fix
    assert names(base.parent) == ["tiny.gguf"]


def cut(data):
    return data[:100]


def with_type(data, kind):
    """The file with another type of its first entry."""
    (key_bytes,) = struct.unpack_from("<Q", data, 24)
    return data[: 32 + key_bytes] + struct.pack("<I", kind) + data[36 + key_bytes :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"GGUF",
        lambda _: b"no gguf " * 100,
        lambda data: data[:4] + struct.pack("<I", 2) + data[8:],
        cut,
        lambda data: data[:24] + struct.pack("<Q", 1 << 60) + data[32:],
        lambda data: data[:24] + struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc" + data[36:],
        lambda data: with_type(data, 99),
    ],
    ids=["empty", "short", "other", "version 2", "cut", "huge key", "no text", "unknown type"],
)
def test_what_is_no_gguf_file_is_refused(base, adapter, damage):
    """By its name; base or adapter."""
    for path in (base, adapter):
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        with pytest.raises(FetchFailed, match=rf"{path.name} is not a complete GGUF file"):
            prepare(base, adapter)
        path.write_bytes(whole)
    with pytest.raises(FetchFailed, match=r"none\.gguf cannot be read: No such file"):
        prepare(base.with_name("none.gguf"), adapter)


def nest(depth):
    """A header with one entry: arrays in arrays."""
    entry = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9)
    entry += struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 0, 0)
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + entry


def test_a_header_that_cannot_be_is_refused(adapter, tmp_path):
    """An alignment of 0, arrays a hundred thousand deep, a template that is no text."""
    path = tmp_path / "odd.gguf"
    write(path, lambda writer: writer.add_uint32("general.alignment", 0))
    with pytest.raises(FetchFailed, match=r"not a complete GGUF file.*general\.alignment is 0"):
        prepare(path, adapter)
    path.write_bytes(nest(3) + bytes(64))
    assert list(gguf_header.read_header(path).entries) == ["a"]
    path.write_bytes(nest(100_000) + bytes(64))
    with pytest.raises(FetchFailed, match="not a complete GGUF file"):
        prepare(path, adapter)
    write(path, lambda writer: writer.add_uint32("tokenizer.chat_template", 7))
    with pytest.raises(
        FetchFailed, match=r"odd\.gguf has a tokenizer\.chat_template that is not text"
    ):
        prepare(path, adapter)
    assert names(tmp_path) == ["adapter.gguf", "odd.gguf"]


def test_a_file_without_its_type_is_the_same_but_for_that(base, adapter, tmp_path):
    """Template and temperatures stay: by them it is known again."""
    copy, plain = prepare(base, adapter), tmp_path / "plain.gguf"
    assert decision.write_without_type(copy, plain) == plain
    (entries, tensors), (before, weights_before) = read(plain), read(copy)
    assert before.pop(decision.TYPE) == "openjev"
    assert (entries, tensors) == (before, weights_before)


def test_the_adapter_of_this_package_has_the_template_of_the_training():
    """And one place for it: what is trained is what is asked."""
    from harness import ROOT

    entries, _ = read(weights.adapter())
    template = (ROOT / "training" / "systemone.jinja").read_text(encoding="utf-8")
    assert entries[decision.TEMPLATE] == template
    assert entries[decision.TYPE] == "openjev"
    assert entries["tokenizer.chat_templates"] == ["systemone"]
    assert {name for name in entries if name.startswith("llama.decision.temperature.")} <= {
        f"llama.decision.temperature.{kind}{bucket}"
        for kind in ("choice", "score")
        for bucket in ("", ".6_10")
    }
