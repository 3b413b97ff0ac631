"""
Train the judge: a LoRA adapter for the demo model, on labelled sentences, on a processor, in JAX.

    python training/train.py --base MODEL.gguf                  # on all sentences; writes the adapter
    python training/train.py --base MODEL.gguf --folds 5        # cross-validation, companies left out; writes nothing
    python training/train.py --base MODEL.gguf --steps 10       # a short run, to see that the loss falls

The base is the very file that the embedded engine runs: its weights are taken out of the GGUF, which is quantised, so that the
adapter corrects the model that it will meet. Only the upper layers are adapted (`--from-layer`): what the lower ones make of a sentence
is computed once and kept, and every pass over the sentences costs the rest alone.

Needs the extra `train` (jax, optax, gguf) and `embedded` (the tokeniser is llama.cpp's own).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import time
import urllib.request
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import optax

HERE = Path(__file__).parent
SYSTEM = "Risk and severity for the company?"
RISKS = ("market", "credit", "liquidity", "operational", "legal", "business", "governance", "none")
PROJECTIONS = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "g": "ffn_gate", "u": "ffn_up", "d": "ffn_down"}
HEADS, KV_HEADS, HEAD = 9, 3, 64
ROPE_BASE, EPSILON = 100_000.0, 1e-5
TOGETHER = 16  # sentences through the lower layers at once
STEP = 8  # lengths are rounded up to this, so that few shapes are compiled
SCALE = 2.0  # of the adapter: alpha over rank
FORM_WEIGHT = 0.1  # of the tokens that every answer has: braces, keys, commas


# Sentences -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A labelled sentence, and its tokens: the prompt, the answer, and which tokens of the answer tell the labels."""

    text: str
    risk: str
    severity: int
    company: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    telling: tuple[bool, ...]


class Tokeniser:
    """llama.cpp's own, over the base model."""

    def __init__(self, base: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel, params.ui = str(base), 512, 1, False
        self._server = xllamacpp.Server(params)

    def __call__(self, text: str) -> list[int]:
        body = json.dumps({"content": text, "parse_special": True, "add_special": False}).encode()
        request = urllib.request.Request(f"{self._server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)["tokens"]


def prompt_of(text: str) -> str:
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def read(files: list[Path], tokens: Tokeniser) -> list[Row]:
    """The sentences of the files; a label's tokens are found by what differs from the other labels."""
    ends = tokens("<|im_end|>")
    parts = {risk: (tokens('{"risk":"'), tokens(risk)) for risk in RISKS}
    rows = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            for line in csv.DictReader(lines):
                risk, severity = line["risk"], int(line["severity"])
                opening, label = parts[risk]
                between, digit, close = tokens('","severity":'), tokens(str(severity)), tokens("}")
                answer = tokens(f'{{"risk":"{risk}","severity":{severity}}}')
                assert answer == opening + label + between + digit + close, (answer, opening, label, between, digit, close)
                telling = (
                    [False] * len(opening)
                    + [True]
                    + [False] * (len(label) - 1 + len(between))
                    + [True]
                    + [False] * (len(close) + len(ends))
                )
                rows.append(
                    Row(
                        line["text"],
                        risk,
                        severity,
                        line.get("company", ""),
                        tuple(tokens(prompt_of(line["text"]))),
                        tuple(answer + ends),
                        tuple(telling),
                    )
                )
    return rows


# The model -------------------------------------------------------------------------------------------------------------------


def weights(base: Path) -> dict:
    """The base's weights, dequantised; one array a projection over all layers."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(base).tensors}

    def whole(name: str) -> np.ndarray:
        return gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type).astype(np.float32)

    layers = sum(name.endswith("attn_q.weight") for name in tensors)
    stacked = {short: np.stack([whole(f"blk.{layer}.{name}.weight") for layer in range(layers)]) for short, name in PROJECTIONS.items()}
    norms = {
        short: np.stack([whole(f"blk.{layer}.{name}.weight") for layer in range(layers)])
        for short, name in (("n1", "attn_norm"), ("n2", "ffn_norm"))
    }
    return {
        "layers": jax.tree.map(jnp.asarray, {**stacked, **norms}),
        "embed": jnp.asarray(whole("token_embd.weight")),
        "norm": jnp.asarray(whole("output_norm.weight")),
    }


def normed(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPSILON) * weight


def turned(x, cos, sin):
    """Rotary positions, pairs beside each other, as llama.cpp has them for this architecture."""
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


def through(layers, adapter, x):
    """The sentences' activations after these layers; `adapter` None: the base alone."""
    batch, length, width = x.shape
    angles = jnp.arange(length)[:, None] * (ROPE_BASE ** (-jnp.arange(0, HEAD, 2) / HEAD))[None]
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    seen = jnp.tril(jnp.ones((length, length), bool))[None, None]

    def layer(x, parts):
        w, lora = parts

        def project(h, name):
            out = h @ w[name].T
            return out if lora is None else out + SCALE * ((h @ lora[name][0].T) @ lora[name][1].T)

        h = normed(x, w["n1"])
        q = turned(project(h, "q").reshape(batch, length, HEADS, HEAD), cos, sin)
        k = turned(project(h, "k").reshape(batch, length, KV_HEADS, HEAD), cos, sin)
        v = project(h, "v").reshape(batch, length, KV_HEADS, HEAD)
        k, v = (jnp.repeat(part, HEADS // KV_HEADS, 2) for part in (k, v))
        scores = jax.nn.softmax(jnp.where(seen, jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(HEAD), -1e30), -1)
        x = x + project(jnp.einsum("bhqk,bkhd->bqhd", scores, v).reshape(batch, length, width), "o")
        h = normed(x, w["n2"])
        return x + project(jax.nn.silu(project(h, "g")) * project(h, "u"), "d"), None

    return jax.lax.scan(layer, x, (layers, adapter))[0]


def fresh(key, layers, rank: int) -> dict:
    """An adapter that changes nothing yet."""
    made = {}
    for number, name in enumerate(PROJECTIONS):
        count, out, width = layers[name].shape
        down = jax.random.normal(jax.random.fold_in(key, number), (count, rank, width)) / math.sqrt(width)
        made[name] = (down, jnp.zeros((count, out, rank)))
    return made


# Batches ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Prepared:
    """A sentence as the upper layers see it: what the lower ones made of it, and what is to be said at which place."""

    row: Row
    x: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def padded(length: int) -> int:
    return STEP * math.ceil(length / STEP)


def prepared(rows: list[Row], model: dict, first: int) -> list[Prepared]:
    """Each sentence through the layers below `first`, once; sentences of one length together."""
    lower = jax.tree.map(lambda array: array[:first], model["layers"])
    run = jax.jit(lambda lower, embed, ids: through(lower, None, embed[ids]))
    made: dict[int, Prepared] = {}
    order = sorted(range(len(rows)), key=lambda place: padded(len(rows[place].prompt) + len(rows[place].answer)))
    for length, group in groupby(order, lambda place: padded(len(rows[place].prompt) + len(rows[place].answer))):
        for part in batched(list(group), TOGETHER):
            ids = np.zeros((TOGETHER, length), np.int32)
            for line, place in enumerate(part):
                tokens = [*rows[place].prompt, *rows[place].answer]
                ids[line, : len(tokens)] = tokens
            for place, x in zip(part, np.asarray(run(lower, model["embed"], ids)), strict=False):
                made[place] = Prepared(rows[place], x, *wanted(rows[place], length))
    return [made[place] for place in range(len(rows))]


def wanted(row: Row, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The token that is to be said at each place, and how much it counts."""
    targets, share = np.zeros(length, np.int32), np.zeros(length, np.float32)
    for place, (token, telling) in enumerate(zip(row.answer, row.telling, strict=True), len(row.prompt) - 1):
        targets[place], share[place] = token, 1.0 if telling else FORM_WEIGHT
    return targets, share


def batched(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def joined(batch: list[Prepared]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch as arrays, as long as its longest."""
    length = max(len(one.targets) for one in batch)

    def filled(name: str) -> np.ndarray:
        arrays = [getattr(one, name) for one in batch]
        return np.stack([np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)]) for array in arrays])

    return filled("x"), filled("targets"), filled("weights")


def batches(rows: list[Prepared], size: int, dice: random.Random) -> list[list[Prepared]]:
    """One pass: sentences of like length together, so that little is padded, in an order of its own."""
    order = sorted(rows, key=lambda one: (len(one.targets), dice.random()))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    dice.shuffle(parts)
    return parts


# Training --------------------------------------------------------------------------------------------------------------------


ANSWER_PLACES = 16  # as many places as an answer has at most


def loss_of(upper, ends, adapter, x, targets, share):
    """Cross-entropy over the answer; the word list is long, so only the answer's places are looked up in it."""
    norm, embed = ends
    h = normed(through(upper, adapter, x), norm)
    places = jnp.argsort(-(share > 0).astype(jnp.int32), axis=1, stable=True)[:, :ANSWER_PLACES]
    h, targets, share = (
        jnp.take_along_axis(h, places[..., None], 1),
        jnp.take_along_axis(targets, places, 1),
        jnp.take_along_axis(share, places, 1),
    )
    told = jax.nn.log_softmax(h @ embed.T, -1)
    return -(jnp.take_along_axis(told, targets[..., None], -1)[..., 0] * share).sum() / share.sum()


def train(rows: list[Prepared], model: dict, args: argparse.Namespace) -> dict:
    """The adapter after all passes."""
    upper = jax.tree.map(lambda array: array[args.from_layer :], model["layers"])
    adapter = fresh(jax.random.PRNGKey(args.seed), upper, args.rank)
    steps = args.steps or math.ceil(args.epochs * math.ceil(len(rows) / args.batch))
    rate = optax.warmup_cosine_decay_schedule(0.0, args.rate, max(1, steps // 10), steps, args.rate / 50)
    method = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=args.decay))
    state, ends = method.init(adapter), (model["norm"], model["embed"])

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(adapter, state, upper, ends, x, targets, share):
        # The base's weights are arguments: as constants of the compiled step they would be worked on for minutes.
        value, slope = jax.value_and_grad(lambda one: loss_of(upper, ends, one, x, targets, share))(adapter)
        change, state = method.update(slope, state, adapter)
        return optax.apply_updates(adapter, change), state, value

    dice, queue, seen, began_s = random.Random(args.seed), [], [], time.monotonic()
    for number in range(steps):
        queue = queue or batches(rows, args.batch, dice)
        adapter, state, value = step(adapter, state, upper, ends, *joined(queue.pop()))
        seen.append(float(value))
        if number % 20 == 0 or number == steps - 1:
            print(f"step {number + 1} of {steps}: loss {np.mean(seen[-20:]):.3f}, {time.monotonic() - began_s:.0f} s", flush=True)
    return adapter


# What it has learned ---------------------------------------------------------------------------------------------------------


def judged(rows: list[Row], model: dict, adapter: dict, args: argparse.Namespace, tokens: Tokeniser) -> list[tuple[str, int, float]]:
    """For each sentence the most probable label, the most probable severity given that label, and the label's probability."""
    upper = jax.tree.map(lambda array: array[args.from_layer :], model["layers"])
    lower = jax.tree.map(lambda array: array[: args.from_layer], model["layers"])

    @jax.jit
    def told(upper, lower, norm, embed, ids, places):
        h = through(upper, adapter, through(lower, None, embed[ids]))
        h = jnp.take_along_axis(h, places[:, None, None], 1)[:, 0]
        return jax.nn.log_softmax(normed(h, norm) @ embed.T, -1)

    def at_the_ends(lists: list[list[int]]) -> np.ndarray:
        out = [None] * len(lists)
        order = sorted(range(len(lists)), key=lambda place: len(lists[place]))
        for part in batched(order, TOGETHER):
            ids = np.zeros((TOGETHER, padded(max(len(lists[place]) for place in part))), np.int32)
            places = np.zeros(TOGETHER, np.int32)
            for line, place in enumerate(part):
                ids[line, : len(lists[place])], places[line] = lists[place], len(lists[place]) - 1
            for place, row in zip(part, np.asarray(told(upper, lower, model["norm"], model["embed"], ids, places)), strict=False):
                out[place] = row
        return np.stack(out)

    opening, between = tokens('{"risk":"'), tokens('","severity":')
    labels = {risk: tokens(risk) for risk in RISKS}
    digits = [tokens(str(severity))[0] for severity in range(6)]
    begun = [[*row.prompt, *opening] for row in rows]
    logits = at_the_ends(begun)[:, [ids[0] for ids in labels.values()]]
    risks = [RISKS[place] for place in logits.argmax(1)]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    severities = at_the_ends([[*ids, *labels[risk], *between] for ids, risk in zip(begun, risks, strict=True)])[:, digits].argmax(1)
    return [
        (risk, int(severity), float(share.max() / share.sum())) for risk, severity, share in zip(risks, severities, shares, strict=True)
    ]


def folds_of(rows: list[Row], count: int, seed: int) -> list[int]:
    """The fold of each sentence: all of a company in one."""
    companies = sorted({row.company for row in rows})
    random.Random(seed).shuffle(companies)
    number = {company: place % count for place, company in enumerate(companies)}
    return [number[row.company] for row in rows]


def score(rows: list[Row], seen: list[tuple[str, int, float]]) -> str:
    right = sum(row.risk == risk for row, (risk, _, _) in zip(rows, seen, strict=True))
    real = [(row, severity) for row, (risk, severity, _) in zip(rows, seen, strict=True) if row.risk != "none"]
    exact = sum(row.severity == severity for row, severity in real)
    near = sum(abs(row.severity - severity) <= 1 for row, severity in real)
    said = f"category {right} of {len(rows)} ({right / len(rows):.1%})"
    return f"{said}; severity {exact} of {len(real)} ({exact / len(real):.1%}), within one {near / len(real):.1%}"


# The file --------------------------------------------------------------------------------------------------------------------


def write(path: Path, adapter: dict, args: argparse.Namespace) -> None:
    """As llama.cpp and Ollama load it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", SCALE * args.rank)
    writer.add_string("general.name", "urisk judge")
    for name, (down, up) in adapter.items():
        for place in range(down.shape[0]):
            stem = f"blk.{args.from_layer + place}.{PROJECTIONS[name]}.weight"
            writer.add_tensor(f"{stem}.lora_a", np.asarray(down[place]).astype(np.float16))
            writer.add_tensor(f"{stem}.lora_b", np.asarray(up[place]).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="CSV with text, risk, severity, company")
    parser.add_argument("--base", type=Path, required=True, help="the demo model's GGUF")
    parser.add_argument("--out", type=Path, default=HERE / "urisk-judge.gguf")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--from-layer", dest="from_layer", type=int, default=15)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folds", type=int, default=0, help="cross-validate over so many folds")
    parser.add_argument("--only", type=int, default=None, help="this fold alone")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    tokens = Tokeniser(args.base)
    rows = read(args.files or sorted((HERE / "sentences").glob("*.csv")), tokens)
    model = weights(args.base)
    print(f"{len(rows)} sentences, {max(len(row.prompt) + len(row.answer) for row in rows)} tokens at most", flush=True)
    ready = prepared(rows, model, args.from_layer)
    if args.folds:
        place = folds_of(rows, args.folds, args.seed)
        for fold in range(args.folds) if args.only is None else [args.only]:
            adapter = train([one for one, at in zip(ready, place, strict=True) if at != fold], model, args)
            held = [row for row, at in zip(rows, place, strict=True) if at == fold]
            print(f"fold {fold}: {score(held, judged(held, model, adapter, args, tokens))}", flush=True)
        return
    write(args.out, train(ready, model, args), args)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
