"""urisk-judge as one file: the demo model's weights with the adapter added, for a server that takes
no adapters.

Knows: GGUF files of llama's architecture, LoRA adapters as llama.cpp reads them.
Does not know: where the files come from, or who loads the result.
Why: Ollama from 0.34.1 on refuses adapters; every version takes a whole model.

Each product of two float16 numbers and the sum of a few of them is exact in float64, and the rest
is done value by value. So the same two files give the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urisk_nb.embedded.decision import is_decision_key, read_entries
from urisk_nb.embedded.weights import place_atomically
from urisk_nb.errors import FetchFailed, PackageMissing

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, ReaderTensor

__all__ = ["NAME", "check_package", "merge_adapter"]

NAME = "urisk judge"
ARCHITECTURE = "llama"
FILE_TYPE_Q8_0 = 7  # as `general.file_type` has it
MERGED_BYTES = 144_812_448  # of the demo model with the adapter of this package
MAX_VALUES = 1 << 20  # worked on at once: some 30 MB
_PARTS = (".lora_a", ".lora_b")
_REPLACED = ("general.architecture", "general.name", "general.file_type")

Correction = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]", float]
"""What one weight gets, scale * (up @ down): up (rows, rank), down (rank, row), scale."""

Progress = Callable[[int, int], None]
"""Called with the bytes written and the bytes in all, without the metadata."""


def check_package() -> None:
    """Raise PackageMissing if the package is not installed; takes some 0.1 s if it is."""
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as exc:
        raise PackageMissing(
            "merging the adapter needs the package gguf, which is not installed.",
            fix='pip install "urisk-nb[judge]"',
        ) from exc


def merge_adapter(base: Path, adapter: Path, out: Path, progress: Progress | None = None) -> Path:
    """
    Write one GGUF file, a decision model: the base's weights with the adapter added, matrices in
    Q8_0, the adapter's entries added to the base's.

    Takes some seconds and some 300 MB of memory, a third of it for the file that is read. `out` is
    replaced as a whole, or not at all.

    Raises
    ------
    PackageMissing
        The package gguf is not installed.
    FetchFailed
        A file is not a GGUF file or has another architecture, the adapter does not fit this base or
        does not make a decision model of it, or there is no room to write.
    """
    check_package()
    model, part = _open(base), _open(adapter)
    weights = {tensor.name: tensor for tensor in model.tensors}
    corrections = _read_corrections(part, adapter, weights)
    read_entries(adapter)  # raises if they are missing
    try:
        with place_atomically(out, out.parent) as path:
            _write(path, model, part, corrections, progress or (lambda _done, _total: None))
    except OSError as exc:
        raise FetchFailed(
            f"{out} cannot be written: {exc.strerror or exc}.",
            fix="free some 150 MB there, or set URISK_DATA to a folder that you can write to",
        ) from exc
    return out


# ---- what is read --------------------------------------------------------------------------------


def _open(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except OSError as exc:
        raise FetchFailed(
            f"{path} cannot be read: {exc.strerror or exc}.",
            fix="check the file and its permissions",
        ) from exc
    except (ValueError, IndexError, KeyError, OverflowError) as exc:
        raise FetchFailed(
            f"{path} is not a complete GGUF file: {exc}.", fix="fetch it again"
        ) from exc
    if (seen := _read_entry(reader, "general.architecture")) != ARCHITECTURE:
        raise FetchFailed(
            f"{path} has the architecture {seen}; only {ARCHITECTURE} can be merged.",
            fix="use the demo model and its adapter",
        )
    return reader


def _read_entry(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _read_corrections(
    part: GGUFReader, path: Path, weights: Mapping[str, ReaderTensor]
) -> dict[str, Correction]:
    """
    By the weight's name. Raises FetchFailed if a part has no counterpart, or another shape.
    """
    alpha = _read_entry(part, "adapter.lora.alpha")
    tensors = {tensor.name: tensor.data for tensor in part.tensors}
    if not isinstance(alpha, float) or not tensors:
        raise FetchFailed(f"{path} is not an adapter.", fix="install urisk-nb again")
    found = {}
    for name in dict.fromkeys(
        name.removesuffix(".lora_a").removesuffix(".lora_b") for name in tensors
    ):
        down, up = (tensors.get(name + end) for end in _PARTS)
        if down is None or up is None or not _fits(weights.get(name), down, up):
            raise FetchFailed(
                f"{path} does not fit this model, which has no weight like its {name}.",
                fix="use the file of the demo model",
            )
        found[name] = up, down, alpha / down.shape[0]
    return found


def _fits(
    weight: ReaderTensor | None, down: np.ndarray[Any, Any], up: np.ndarray[Any, Any]
) -> bool:
    if weight is None or down.ndim != 2 or up.ndim != 2:
        return False
    # ggml names the length of a row first, numpy the number of rows
    return up.shape[1] == down.shape[0] and (down.shape[1], up.shape[0]) == tuple(
        map(int, weight.shape)
    )


# ---- what is written -----------------------------------------------------------------------------


def _write(
    path: Path,
    model: GGUFReader,
    part: GGUFReader,
    corrections: Mapping[str, Correction],
    tell: Progress,
) -> None:
    from gguf import GGUFWriter

    with closing(GGUFWriter(path, ARCHITECTURE)) as writer:
        writer.data_alignment = model.alignment
        _copy_metadata(writer, model, part)
        total = sum(_announce(writer, tensor) for tensor in model.tensors)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        done = 0
        for tensor in model.tensors:
            data = _build_data(tensor, corrections.get(tensor.name))
            writer.write_tensor_data(data)
            done += data.nbytes
            tell(done, total)


def _copy_metadata(writer: GGUFWriter, model: GGUFReader, part: GGUFReader) -> None:
    from gguf import GGUFValueType

    writer.add_name(NAME)
    writer.add_file_type(FILE_TYPE_Q8_0)
    added = {name: field for name, field in part.fields.items() if is_decision_key(name)}
    for name, field in {**model.fields, **added}.items():
        if name.startswith("GGUF.") or name in _REPLACED:
            continue  # the container's own, which the writer counts itself, and what has changed
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)


def _announce(writer: GGUFWriter, tensor: ReaderTensor) -> int:
    """The bytes that the tensor will have."""
    import numpy as np
    from gguf.quants import quant_shape_to_byte_shape

    kind, shape = _choose_kind(tensor), tuple(reversed(tensor.shape.tolist()))
    size = int(np.prod(quant_shape_to_byte_shape(shape, kind), dtype=np.int64))
    writer.add_tensor_info(tensor.name, shape, np.dtype("float32"), size, kind)
    return size


def _choose_kind(tensor: ReaderTensor) -> GGMLQuantizationType:
    """
    Q8_0 for matrices, whose error is a tenth of the Q4_1 that they come from; F16 where a row is no
    whole number of its blocks.
    """
    from gguf import GGMLQuantizationType as Kind

    if len(tensor.shape) < 2:
        return tensor.tensor_type
    return Kind.F16 if int(tensor.shape[0]) % 32 else Kind.Q8_0


def _build_data(tensor: ReaderTensor, correction: Correction | None) -> np.ndarray[Any, Any]:
    """
    The tensor as it is written, made some rows at a time: that of the vocabulary would be 113 MB.
    """
    import numpy as np
    from gguf.quants import dequantize, quantize

    kind = _choose_kind(tensor)
    if correction is None and kind == tensor.tensor_type:
        return tensor.data
    step, blocks = max(1, MAX_VALUES // int(tensor.shape[0])), []
    for start in range(0, len(tensor.data), step):
        rows = dequantize(tensor.data[start : start + step], tensor.tensor_type).astype(np.float32)
        if correction is not None:
            up, down, scale = correction
            product = up[start : start + step].astype("float64") @ down.astype("float64")
            rows = rows + (scale * product).astype("float32")
        blocks.append(quantize(rows, kind))
    return np.concatenate(blocks)
