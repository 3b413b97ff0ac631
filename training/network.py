"""
The demo model as a function of its weights, in JAX: llama's layers, with or without an adapter on
their projections.

The weights are taken out of the GGUF that the embedded engine runs and dequantised, so that an
adapter corrects the model that it will meet.
"""

from __future__ import annotations

import math
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
    The base's weights, dequantised, one array a projection over all layers; parted at the layer
    `first`.
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


def normed(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPSILON) * weight


def turned(x, cos, sin):
    """Rotary positions, pairs beside each other, as llama.cpp has them for this architecture."""
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


def through(layers, adapter, opening, x):
    """
    Activations after these layers, of the prompt's opening (tokens, width), which all sentences
    share and which is therefore worked on once, and of the sentences after it (sentences, tokens,
    width); `adapter` None: the base alone.

    All tokens lie in one axis, heads that share keys are one matrix and the loop over the layers is
    unrolled: on a processor that halves the time of a step.
    """
    (batch, length, width), start = x.shape, len(opening)
    angles = (
        jnp.arange(start + length)[:, None] * (ROPE_BASE ** (-jnp.arange(0, HEAD, 2) / HEAD))[None]
    )
    angles = jnp.concatenate([angles[:start], jnp.tile(angles[start:], (batch, 1))])
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]

    def layer(x, parts):
        w, lora = parts

        def project(h, name):
            out = h @ w[name].T
            return out if lora is None else out + SCALE * ((h @ lora[name][0].T) @ lora[name][1])

        h = normed(x, w["n1"])
        q = turned(project(h, "q").reshape(-1, HEADS, HEAD), cos, sin)
        k = turned(project(h, "k").reshape(-1, KV_HEADS, HEAD), cos, sin)
        v = project(h, "v").reshape(-1, KV_HEADS, HEAD)
        of_opening = attended(q[None, :start], k[None, :start], v[None, :start])
        q, *kv = (part[start:].reshape(batch, length, *part.shape[1:]) for part in (q, k, v))
        before = (
            jnp.broadcast_to(part[None, :start], (batch, start, KV_HEADS, HEAD)) for part in (k, v)
        )
        of_sentences = attended(
            q, *(jnp.concatenate(pair, 1) for pair in zip(before, kv, strict=True))
        )
        x = x + project(jnp.concatenate([of_opening, of_sentences]), "o")
        h = normed(x, w["n2"])
        return x + project(jax.nn.silu(project(h, "g")) * project(h, "u"), "d"), None

    flat = jnp.concatenate([opening, x.reshape(-1, width)])
    flat = jax.lax.scan(layer, flat, (layers, adapter), unroll=True)[0]
    return flat[:start], flat[start:].reshape(x.shape)


def attended(q, k, v):
    """
    What each place takes from those up to its own: q (texts, places, heads, width), k and v with
    fewer heads and maybe more places.
    """
    (texts, places, heads, width), (_, before, sharing, _) = q.shape, k.shape
    group = heads // sharing
    q = (
        q.reshape(texts, places, sharing, group, width)
        .transpose(0, 2, 3, 1, 4)
        .reshape(texts * sharing, group * places, width)
    )
    k, v = (part.transpose(0, 2, 1, 3).reshape(texts * sharing, before, width) for part in (k, v))
    scores = (q @ k.transpose(0, 2, 1)).reshape(texts * sharing, group, places, before) / math.sqrt(
        width
    )
    seen = jnp.arange(before)[None] <= jnp.arange(before - places, before)[:, None]
    shares = jax.nn.softmax(jnp.where(seen, scores, -1e30), -1).reshape(
        texts * sharing, group * places, before
    )
    taken = (shares @ v).reshape(texts, sharing, group, places, width)
    return taken.transpose(0, 3, 1, 2, 4).reshape(texts * places, heads * width)


def fresh(key, layers, rank: int) -> dict:
    """An adapter that changes nothing yet."""
    made = {}
    for number, name in enumerate(PROJECTIONS):
        count, out, width = layers[name].shape
        down = jax.random.normal(jax.random.fold_in(key, number), (count, rank, width)) / math.sqrt(
            width
        )
        made[name] = (down, jnp.zeros((count, rank, out)))
    return made


def write(path: Path, adapter: dict, first: int) -> None:
    """The adapter of the layers from `first` on, as llama.cpp and Ollama load it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", SCALE * adapter["q"][0].shape[1])
    writer.add_string("general.name", "urisk judge")
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
