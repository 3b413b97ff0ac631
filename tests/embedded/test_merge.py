"""
The adapter added to the weights: known numbers on a small model, what is kept, what is refused; and
the real ones, marked slow.
"""

import csv
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from harness import decide, launch_llamacpp
from urisk_nb.embedded import decision, merge, weights
from urisk_nb.errors import FetchFailed, PackageMissing, UriskError

Q4_1, Q8_0, F16, F32 = (gguf.GGMLQuantizationType[name] for name in ("Q4_1", "Q8_0", "F16", "F32"))
ROWS, WIDTH, RANK, ALPHA = 96, 64, 4, 8.0
WORDS = ["<|im_start|>", "Ġthe", "ü", ""]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}{% endfor %}"
rng = np.random.default_rng(7)


def values(*shape):
    return rng.normal(size=shape).astype(np.float32)


def write_base(path, *, architecture="llama", alignment=32):
    """Weights in every form that is treated differently, and each kind of metadata."""
    writer = gguf.GGUFWriter(path, architecture)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_name("tiny")
    writer.add_file_type(3)
    writer.add_chat_template(TEMPLATE)
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 1, 1, 1])
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_float32("llama.rope.freq_base", 100000.0)
    given = {
        "token_embd.weight": (values(ROWS, WIDTH), Q8_0),
        "blk.0.attn_norm.weight": (values(WIDTH), F32),
        "blk.0.attn_q.weight": (values(ROWS, WIDTH), Q4_1),
        "blk.0.attn_k.weight": (values(ROWS, WIDTH), Q4_1),
        "blk.0.ffn_down.weight": (values(WIDTH, ROWS), Q4_1),
        "odd.weight": (values(WIDTH, 40), F16),
    }
    for name, (array, kind) in given.items():
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    finish(writer)
    return path


DECIDES = {
    decision.TYPE: "openjev",
    decision.TEMPLATE: "{{ state }}",
    "tokenizer.chat_templates": ["systemone"],
    "llama.decision.temperature.choice": 1.5,
}


def write_adapter(path, parts=None, *, alpha=ALPHA, architecture="llama", kind="openjev"):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    if kind:
        writer.add_string(decision.TYPE, kind)
    writer.add_string(decision.TEMPLATE, DECIDES[decision.TEMPLATE])
    writer.add_array("tokenizer.chat_templates", ["systemone"])
    writer.add_float32("llama.decision.temperature.choice", 1.5)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, array in (PARTS if parts is None else parts).items():
        writer.add_tensor(name, array.astype(np.float16))
    finish(writer)
    return path


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pair(name, rows, width, rank=RANK):
    return {f"{name}.lora_a": values(rank, width), f"{name}.lora_b": values(rows, rank)}


PARTS = {
    **pair("blk.0.attn_q.weight", ROWS, WIDTH),
    **pair("blk.0.ffn_down.weight", WIDTH, ROWS),
    **pair("odd.weight", WIDTH, 40),
}


def tensors(path):
    """Name -> (type, numbers as they are meant)."""
    found = gguf.GGUFReader(path).tensors
    return {
        t.name: (t.tensor_type, gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64))
        for t in found
    }


def metadata(path):
    return {
        name: (field.types, field.contents())
        for name, field in gguf.GGUFReader(path).fields.items()
    }


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base.gguf")


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "adapter.gguf")


# ---- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("most", [merge.MAX_VALUES, 5 * WIDTH], ids=["at once", "rows by rows"])
def test_each_weight_is_the_bases_and_its_correction(base, adapter, tmp_path, monkeypatch, most):
    """
    Base + alpha / rank * B @ A, within half a step of the form that it is written in; what is not
    adapted is as it was.
    """
    monkeypatch.setattr(merge, "MAX_VALUES", most)
    before, after = (
        tensors(base),
        tensors(merge.merge_adapter(base, adapter, tmp_path / "out.gguf")),
    )
    assert list(after) == list(before)
    for name, (kind, got) in after.items():
        wanted = before[name][1]
        if f"{name}.lora_a" in PARTS:
            up, down = (
                PARTS[f"{name}.{part}"].astype(np.float16).astype(np.float64)
                for part in ("lora_b", "lora_a")
            )
            change = ALPHA / RANK * up @ down
            assert np.abs(change).max() > 1
            wanted = wanted + change
        steps = (
            np.abs(wanted.reshape(-1, 32)).max(1) / 127
            if kind == Q8_0
            else np.array([np.abs(wanted).max() * 2**-10])
        )
        errors = np.abs(got - wanted).reshape(len(steps), -1).max(1)
        # Half a step, and the step itself is a float16: 127 / 2**11 of it
        assert (errors <= steps * 0.57).all(), name
    assert {name: kind for name, (kind, _) in after.items()} == {
        **dict.fromkeys(before, Q8_0),
        "blk.0.attn_norm.weight": F32,
        "odd.weight": F16,
    }
    for name in ("token_embd.weight", "blk.0.attn_norm.weight"):
        assert (after[name][1] == before[name][1]).all()


@pytest.mark.parametrize("alignment", [32, 4096])
def test_all_that_the_base_says_of_itself_is_kept(tmp_path, adapter, alignment):
    """
    Words, template and numbers with their types; only the name and the form of the weights are
    others, and the adapter's entries of a decision model are added. Tensors lie where it says.
    """
    base = write_base(tmp_path / "base.gguf", alignment=alignment)
    out = merge.merge_adapter(base, adapter, tmp_path / "out.gguf")
    before, after = metadata(base), metadata(out)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    counted = {"GGUF.kv_count"}
    assert changed - counted == {"general.name", "general.file_type", *DECIDES}
    assert {name: after[name][1] for name in DECIDES} == DECIDES
    assert (after["general.name"][1], after["general.file_type"][1]) == ("urisk judge", 7)
    assert (after["tokenizer.ggml.tokens"][1], after["tokenizer.chat_template"][1]) == (
        WORDS,
        TEMPLATE,
    )
    norm = "blk.0.attn_norm.weight"
    assert (tensors(out)[norm][1] == tensors(base)[norm][1]).all()


def test_the_same_files_give_the_same_bytes(base, adapter, tmp_path):
    """In another folder, and over a file that is there; nothing else is left."""
    first = merge.merge_adapter(base, adapter, tmp_path / "new" / "out.gguf")
    second = tmp_path / "out.gguf"
    second.write_bytes(b"what was there")
    assert merge.merge_adapter(base, adapter, second).read_bytes() == first.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["out.gguf"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "new",
        "out.gguf",
        "base.gguf",
        "adapter.gguf",
    }


def test_progress_ends_with_all_bytes(base, adapter, tmp_path):
    """It only grows, once for each tensor."""
    seen = []
    merge.merge_adapter(base, adapter, tmp_path / "out.gguf", lambda *now: seen.append(now))
    assert len(seen) == 6
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


# ---- what is refused -----------------------------------------------------------------------------


def refused(base, adapter, tmp_path, match):
    """It says why and what to do, and writes nothing."""
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UriskError, match=match) as caught:
        merge.merge_adapter(base, adapter, tmp_path / "out.gguf")
    assert caught.value.fix
    assert {path.name for path in tmp_path.iterdir()} == before
    return caught.value


@pytest.mark.parametrize(
    "parts",
    [
        pair("blk.1.attn_q.weight", ROWS, WIDTH),
        pair("blk.0.attn_q.weight", WIDTH, ROWS),
        pair("blk.0.attn_q.weight", ROWS, WIDTH + 32),
        pair("blk.0.attn_norm.weight", 1, WIDTH),
        {
            "blk.0.attn_q.weight.lora_a": values(RANK, WIDTH),
            "blk.0.attn_q.weight.lora_b": values(ROWS, RANK + 1),
        },
        {"blk.0.attn_q.weight.lora_a": values(RANK, WIDTH)},
        {"blk.0.attn_q.weight": values(ROWS, WIDTH)},
    ],
    ids=["no such weight", "turned", "too wide", "no matrix", "two ranks", "half", "no part"],
)
def test_a_part_that_fits_no_weight_is_refused(base, tmp_path, parts):
    """Also where all the others fit."""
    adapter = write_adapter(
        tmp_path / "adapter.gguf", {**pair("blk.0.attn_k.weight", ROWS, WIDTH), **parts}
    )
    refused(
        base,
        adapter,
        tmp_path,
        rf"adapter\.gguf does not fit this model.*{next(iter(parts)).removesuffix('.lora_a')}",
    )


def test_an_adapter_that_makes_no_decision_model_is_refused(base, tmp_path):
    """It was trained, and the entries were not added."""
    adapter = write_adapter(tmp_path / "adapter.gguf", kind="")
    refused(base, adapter, tmp_path, r"adapter\.gguf does not make a decision model")


@pytest.mark.parametrize("given", [{"alpha": None}, {"parts": {}}], ids=["alpha", "parts"])
def test_what_is_no_adapter_is_refused(base, tmp_path, given):
    """A file without a scale, or without a part."""
    refused(base, write_adapter(tmp_path / "adapter.gguf", **given), tmp_path, "is not an adapter")


def test_another_architecture_is_refused(base, adapter, tmp_path):
    """Of either file."""
    refused(
        write_base(tmp_path / "b.gguf", architecture="qwen2"),
        adapter,
        tmp_path,
        r"b\.gguf has the architecture qwen2",
    )
    refused(
        base,
        write_adapter(tmp_path / "a.gguf", architecture="gemma"),
        tmp_path,
        r"a\.gguf has the architecture gemma",
    )


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"no gguf " * 100, None], ids=["empty", "short", "other", "cut"]
)
def test_a_damaged_file_is_refused(base, adapter, tmp_path, content):
    """By its name; base or adapter."""
    damaged = tmp_path / "damaged.gguf"
    for file in (base, adapter):
        damaged.write_bytes(file.read_bytes()[:-200] if content is None else content)
        refused(
            *((damaged, adapter) if file is base else (base, damaged)),
            tmp_path,
            r"damaged\.gguf is not a complete GGUF file",
        )


def test_files_that_cannot_be_read_or_written_are_named(base, adapter, tmp_path):
    """With the system's reason."""
    refused(tmp_path / "none.gguf", adapter, tmp_path, r"none\.gguf cannot be read: No such file")
    with pytest.raises(FetchFailed, match=r"base\.gguf/out\.gguf cannot be written") as caught:
        merge.merge_adapter(base, adapter, base / "out.gguf")
    assert "URISK_DATA" in caught.value.fix


def test_an_interrupt_leaves_what_was_there(base, adapter, tmp_path):
    """In the middle of the writing: the old file as it was, and no part of the new one."""
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge.merge_adapter(base, adapter, out, stop)
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"out.gguf", "base.gguf", "adapter.gguf"}


def test_without_the_package_it_says_what_to_install(base, adapter, tmp_path, monkeypatch):
    """Before anything is read."""
    # As Python says it of a package that is not there
    monkeypatch.setitem(sys.modules, "gguf", None)
    error = refused(base, adapter, tmp_path, "needs the package gguf")
    assert isinstance(error, PackageMissing)
    assert error.fix == 'pip install "urisk-nb[judge]"'


# ---- the real model ------------------------------------------------------------------------------

SENTENCES = Path(__file__).parents[2] / "training" / "sentences" / "news.csv"


def labels(path, texts):
    """The most probable risk and severity that the model of this file gives each sentence."""
    with launch_llamacpp(path, "--threads", 1) as url:
        return [tuple(max(each, key=each.get) for each in decide(url, text)) for text in texts]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_real_judge_says_the_same_merged(demo_model, tmp_path, figure):
    """
    llama.cpp loads the file as a decision model; of 32 sentences at least 28 get the very label
    that base and adapter give.
    """
    out = merge.merge_adapter(demo_model, weights.adapter(), tmp_path / "merged-judge.gguf")
    assert out.stat().st_size == merge.MERGED_BYTES
    with SENTENCES.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [row["text"] for row in rows[:: len(rows) // 32][:32]]
    assert len(texts) == 32
    pairs = list(zip(labels(out, texts), labels(demo_model, texts), strict=True))
    same = sum(one == other for one, other in pairs)
    figure("labels of 32 that are the same merged", same)
    figure(
        "risks of 32 that are the same merged",
        sum(one[0] == other[0] for one, other in pairs),
    )
    assert len({one[0] for one, _ in pairs}) > 3
    assert same >= 28
