"""
The demo model as a function of its weights, in JAX: llama's layers, with or without an adapter on
their projections.

The weights are taken out of the GGUF that the embedded engine runs and dequantised, so that an
adapter corrects the model that it will meet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np

PROJECTIONS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "g": "ffn_gate",
    "u": "ffn_up",
    "d": "ffn_down",
}
HEADS, KV_HEADS, HEAD = 9, 3, 64
ROPE_BASE, EPSILON = 100_000.0, 1e-5
SCALE = 2.0  # of the adapter: alpha over rank


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Model:
    """
    The base: its layers below the first that is adapted, those from it on, and what stands at both
    ends.
    """

    lower: dict
    upper: dict
    embed: jax.Array
    norm: jax.Array


def read(base: Path, first: int) -> Model:
    """
    Return the base's weights, dequantised, one array a projection over all layers; parted at the
    layer `first`.
    """
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(base).tensors}

    def whole(name: str) -> np.ndarray:
        return gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type).astype(
            np.float32
        )

    layers = sum(name.endswith("attn_q.weight") for name in tensors)
    names = {**PROJECTIONS, "n1": "attn_norm", "n2": "ffn_norm"}
    stacked = {
        short: np.stack([whole(f"blk.{layer}.{name}.weight") for layer in range(layers)])
        for short, name in names.items()
    }
    return Model(
        lower={short: jnp.asarray(array[:first]) for short, array in stacked.items()},
        upper={short: jnp.asarray(array[first:]) for short, array in stacked.items()},
        embed=jnp.asarray(whole("token_embd.weight")),
        norm=jnp.asarray(whole("output_norm.weight")),
    )


def normalize(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPSILON) * weight


def rotate(x, cos, sin):
    """Apply rotary positions, pairs beside each other, as llama.cpp has them for llama."""
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


def run_layers(layers, adapter, x, places, seen, *, unroll=True):
    """
    Return the activations after these layers.

    All tokens lie in one axis, heads that share keys are one matrix, and for training the loop over
    the layers is unrolled: on a processor that halves the time of a step, and takes longer to
    compile.

    Parameters
    ----------
    layers, adapter
        Weights, and what is added to them; `adapter` None: the base alone.
    x
        Activations before them: (texts, tokens, width).
    places
        The position of each token: (tokens,). Only differences count.
    seen
        Whether a token (third axis) is seen from another (second): (texts, tokens, tokens).
    """
    batch, length, width = x.shape
    angles = places[:, None] * (ROPE_BASE ** (-jnp.arange(0, HEAD, 2) / HEAD))[None]
    angles = jnp.tile(angles, (batch, 1))
    cos, sin = (part[:, None].astype(x.dtype) for part in (jnp.cos(angles), jnp.sin(angles)))

    def layer(x, parts):
        w, lora = parts

        def project(h, name):
            out = h @ w[name].T
            return out if lora is None else out + SCALE * ((h @ lora[name][0].T) @ lora[name][1])

        h = normalize(x, w["n1"])
        q = rotate(project(h, "q").reshape(-1, HEADS, HEAD), cos, sin)
        k = rotate(project(h, "k").reshape(-1, KV_HEADS, HEAD), cos, sin)
        v = project(h, "v").reshape(-1, KV_HEADS, HEAD)
        taken = attend(*(part.reshape(batch, length, -1, HEAD) for part in (q, k, v)), seen)
        x = x + project(taken, "o")
        h = normalize(x, w["n2"])
        return x + project(jax.nn.silu(project(h, "g")) * project(h, "u"), "d"), None

    flat = jax.lax.scan(layer, x.reshape(-1, width), (layers, adapter), unroll=unroll)[0]
    return flat.reshape(x.shape)


def attend(q, k, v, seen):
    """
    Return what each token takes from those that it sees: (texts * tokens, heads * width).

    Parameters
    ----------
    q, k, v
        (texts, tokens, heads, width); `k` and `v` have fewer heads, each shared by a group.
    seen
        (texts, tokens, tokens).
    """
    (texts, length, heads, width), sharing = q.shape, k.shape[2]
    group = heads // sharing
    q = (
        q.reshape(texts, length, sharing, group, width)
        .transpose(0, 2, 3, 1, 4)
        .reshape(texts * sharing, group * length, width)
    )
    k, v = (part.transpose(0, 2, 1, 3).reshape(texts * sharing, length, width) for part in (k, v))
    scores = (q @ k.transpose(0, 2, 1)).reshape(texts, sharing * group, length, length)
    scores = jnp.where(seen[:, None], scores / math.sqrt(width), -1e30)
    shares = jax.nn.softmax(scores, -1).reshape(texts * sharing, group * length, length)
    taken = (shares @ v).reshape(texts, sharing, group, length, width)
    return taken.transpose(0, 3, 1, 2, 4).reshape(texts * length, heads * width)


def create_adapter(key, layers, rank: int) -> dict:
    """Return an adapter that changes nothing yet."""
    made = {}
    for number, name in enumerate(PROJECTIONS):
        count, out, width = layers[name].shape
        down = jax.random.normal(jax.random.fold_in(key, number), (count, rank, width)) / math.sqrt(
            width
        )
        made[name] = (down, jnp.zeros((count, rank, out)))
    return made


def write(
    path: Path, adapter: dict, first: int, entries: Mapping[str, str | float | list[str]]
) -> None:
    """
    Write the adapter of the layers from `first` on, as llama.cpp loads it.

    Parameters
    ----------
    entries
        Further metadata: what makes a decision model of the base with this adapter.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", SCALE * adapter["q"][0].shape[1])
    writer.add_string("general.name", "urisk judge")
    add = {str: writer.add_string, float: writer.add_float32, list: writer.add_array}
    for name, value in entries.items():
        add[type(value)](name, value)
    for name, (down, up) in adapter.items():
        for place in range(down.shape[0]):
            stem = f"blk.{first + place}.{PROJECTIONS[name]}.weight"
            writer.add_tensor(f"{stem}.lora_a", np.asarray(down[place]).astype(np.float16))
            writer.add_tensor(
                f"{stem}.lora_b", np.ascontiguousarray(np.asarray(up[place]).T).astype(np.float16)
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
