"""
Train the judge: a LoRA adapter for the demo model, on labeled sentences, on a processor, in JAX.

    python training/train.py --base MODEL.gguf               # all sentences; writes the adapter
    python training/train.py --base MODEL.gguf --folds 5 --out FOLDER    # then: measure.py
    python training/train.py --base MODEL.gguf --steps 10    # a short run: the loss must fall

--folds is cross-validation with whole companies left out.

The base is the very file that the embedded engine runs: its weights are taken out of the GGUF,
which is quantised, so that the adapter corrects the model that it will meet. Only the upper layers
are adapted (`--from-layer`): what the lower ones make of a sentence is computed once and kept, and
every pass over the sentences costs the rest alone.

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

import jax
import jax.numpy as jnp
import network
import numpy as np
import optax
from network import Model, normed, through

HERE = Path(__file__).parent
SYSTEM = "Risk and severity for the company?"
RISKS = ("market", "credit", "liquidity", "operational", "legal", "business", "governance", "none")
TOGETHER = 16  # sentences through the lower layers at once
STEP = 8  # lengths are rounded up to this, so that few shapes are compiled
FORM_WEIGHT = 0.1  # of the tokens that every answer has: braces, keys, commas


# Sentences ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """
    A labeled sentence, and its tokens: the prompt, the answer, and which tokens of the answer tell
    the labels.
    """

    text: str
    risk: str
    severity: int
    accepted: tuple[int, int]  # the severities that its readers would let stand
    company: str
    line: dict[str, str]  # as it stands in its file
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
        request = urllib.request.Request(
            f"{self._server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)["tokens"]


def prompt_of(text: str) -> str:
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )


def read(files: list[Path], tokens: Tokeniser) -> list[Row]:
    """
    The sentences of the files; a label's tokens are found by what differs from the other labels.
    """
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
                assert answer == opening + label + between + digit + close, (
                    answer,
                    opening,
                    label,
                    between,
                    digit,
                    close,
                )
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
                        (
                            int(line.get("severity_min", severity)),
                            int(line.get("severity_max", severity)),
                        ),
                        line.get("company", ""),
                        line,
                        tuple(tokens(prompt_of(line["text"]))),
                        tuple(answer + ends),
                        tuple(telling),
                    )
                )
    return rows


# Batches ------------------------------------------------------------------------------------------


@dataclass
class Prepared:
    """
    A sentence as the upper layers see it: what the lower ones made of it, and what is to be said at
    which place.
    """

    row: Row
    x: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def padded(length: int) -> int:
    return STEP * math.ceil(length / STEP)


def prepared(rows: list[Row], model: Model, start: int) -> tuple[np.ndarray, list[Prepared]]:
    """
    The opening (the first `start` tokens, which are everyone's) and each sentence through the lower
    layers, once.
    """
    run = jax.jit(
        lambda lower, embed, opening, ids: through(lower, None, embed[opening], embed[ids])
    )
    opening, made = np.array(rows[0].prompt[:start]), {}

    def length_of(place: int) -> int:
        return padded(len(rows[place].prompt) + len(rows[place].answer) - start)

    for length, group in groupby(sorted(range(len(rows)), key=length_of), length_of):
        for part in batched(list(group), TOGETHER):
            ids = np.zeros((TOGETHER, length), np.int32)
            for line, place in enumerate(part):
                tokens = [*rows[place].prompt, *rows[place].answer][start:]
                ids[line, : len(tokens)] = tokens
            ready, xs = run(model.lower, model.embed, opening, ids)
            for place, x in zip(part, np.asarray(xs), strict=False):
                made[place] = Prepared(rows[place], x, *wanted(rows[place], start, length))
    return np.asarray(ready), [made[place] for place in range(len(rows))]


def shared_start(rows: list[Row]) -> int:
    """How many tokens all prompts begin with."""
    return next(
        place
        for place, tokens in enumerate(zip(*(row.prompt for row in rows), strict=False))
        if len(set(tokens)) > 1
    )


def wanted(row: Row, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The token that is to be said at each place after the opening, and how much it counts."""
    targets, share = np.zeros(length, np.int32), np.zeros(length, np.float32)
    for place, (token, telling) in enumerate(
        zip(row.answer, row.telling, strict=True), len(row.prompt) - start - 1
    ):
        targets[place], share[place] = token, 1.0 if telling else FORM_WEIGHT
    return targets, share


def batched(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def joined(batch: list[Prepared]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch as arrays, as long as its longest."""
    length = max(len(one.targets) for one in batch)

    def filled(name: str) -> np.ndarray:
        arrays = [getattr(one, name) for one in batch]
        return np.stack(
            [
                np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])
                for array in arrays
            ]
        )

    return filled("x"), filled("targets"), filled("weights")


def batches(rows: list[Prepared], size: int, dice: random.Random) -> list[list[Prepared]]:
    """
    One pass: sentences of like length together, so that little is padded, in an order of its own.
    """
    order = sorted(rows, key=lambda one: (len(one.targets), dice.random()))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    dice.shuffle(parts)
    return parts


# Training -----------------------------------------------------------------------------------------


ANSWER_PLACES = 14  # as many places as an answer has at most
# Tokens, the most frequent, that an answer is told from: the whole list of 49,152 would take a
# fifth of each step
COMMON = 4096


def loss_of(upper, ends, adapter, opening, x, targets, share):
    """
    Cross-entropy over the answer, among the tokens that `ends` has; only the answer's places are
    looked up.
    """
    norm, embed = ends
    h = normed(through(upper, adapter, opening, x)[1], norm)
    places = jnp.argsort(-(share > 0).astype(jnp.int32), axis=1, stable=True)[:, :ANSWER_PLACES]
    h, targets, share = (
        jnp.take_along_axis(h, places[..., None], 1),
        jnp.take_along_axis(targets, places, 1),
        jnp.take_along_axis(share, places, 1),
    )
    told = jax.nn.log_softmax(h @ embed.T, -1)
    return -(jnp.take_along_axis(told, targets[..., None], -1)[..., 0] * share).sum() / share.sum()


def train(
    opening: np.ndarray, rows: list[Prepared], model: Model, args: argparse.Namespace
) -> dict:
    """The adapter after all passes."""
    adapter = network.fresh(jax.random.PRNGKey(args.seed), model.upper, args.rank)
    steps = args.steps or math.ceil(args.epochs * math.ceil(len(rows) / args.batch))
    rate = optax.warmup_cosine_decay_schedule(
        0.0, args.rate, max(1, steps // 10), steps, args.rate / 50
    )
    method = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=args.decay))
    known = np.unique([*range(COMMON), *(token for one in rows for token in one.row.answer)])
    state, ends = method.init(adapter), (model.norm, model.embed[known])

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(adapter, state, upper, ends, *batch):
        # The base's weights are arguments: as constants of the compiled step they would be worked
        # on for minutes.
        value, slope = jax.value_and_grad(lambda one: loss_of(upper, ends, one, *batch))(adapter)
        change, state = method.update(slope, state, adapter)
        return optax.apply_updates(adapter, change), state, value

    dice, queue, seen, began_s = random.Random(args.seed), [], [], time.monotonic()
    for number in range(steps):
        queue = queue or batches(rows, args.batch, dice)
        x, targets, share = joined(queue.pop())
        adapter, state, value = step(
            adapter, state, model.upper, ends, opening, x, np.searchsorted(known, targets), share
        )
        seen.append(float(value))
        if number % 20 == 0 or number == steps - 1:
            loss = np.mean(seen[-max(2, steps // 20) :])
            print(
                f"step {number + 1} of {steps}: loss {loss:.3f}, {time.monotonic() - began_s:.0f} "
                "s",
                flush=True,
            )
    return adapter


# What it has learned ------------------------------------------------------------------------------


def judged(
    rows: list[Row], start: int, model: Model, adapter: dict, tokens: Tokeniser
) -> list[tuple[str, int, float]]:
    """
    For each sentence the most probable label, the most probable severity given that label, and the
    label's probability.
    """
    opening = np.array(rows[0].prompt[:start])

    @jax.jit
    def told(model, ids, places):
        h = through(
            model.upper,
            adapter,
            *through(model.lower, None, model.embed[opening], model.embed[ids]),
        )[1]
        h = jnp.take_along_axis(h, places[:, None, None], 1)[:, 0]
        return jax.nn.log_softmax(normed(h, model.norm) @ model.embed.T, -1)

    def at_the_ends(lists: list[list[int]]) -> np.ndarray:
        out = [None] * len(lists)
        order = sorted(range(len(lists)), key=lambda place: len(lists[place]))
        for part in batched(order, TOGETHER):
            ids = np.zeros((TOGETHER, padded(max(len(lists[place]) for place in part))), np.int32)
            places = np.zeros(TOGETHER, np.int32)
            for line, place in enumerate(part):
                ids[line, : len(lists[place])], places[line] = lists[place], len(lists[place]) - 1
            for place, row in zip(part, np.asarray(told(model, ids, places)), strict=False):
                out[place] = row
        return np.stack(out)

    before, between = tokens('{"risk":"'), tokens('","severity":')
    labels = {risk: tokens(risk) for risk in RISKS}
    digits = [tokens(str(severity))[0] for severity in range(6)]
    begun = [[*row.prompt[start:], *before] for row in rows]
    logits = at_the_ends(begun)[:, [ids[0] for ids in labels.values()]]
    risks = [RISKS[place] for place in logits.argmax(1)]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    severities = at_the_ends(
        [[*ids, *labels[risk], *between] for ids, risk in zip(begun, risks, strict=True)]
    )[:, digits].argmax(1)
    return [
        (risk, int(severity), float(share.max() / share.sum()))
        for risk, severity, share in zip(risks, severities, shares, strict=True)
    ]


def folds_of(rows: list[Row], count: int, seed: int) -> list[int]:
    """The fold of each sentence: all of a company in one."""
    companies = sorted({row.company for row in rows})
    random.Random(seed).shuffle(companies)
    number = {company: place % count for place, company in enumerate(companies)}
    return [number[row.company] for row in rows]


def score(rows: list[Row], seen: list[tuple[str, int, float]]) -> str:
    right = sum(row.risk == risk for row, (risk, _, _) in zip(rows, seen, strict=True))
    real = [
        (row, severity)
        for row, (risk, severity, _) in zip(rows, seen, strict=True)
        if row.risk != "none"
    ]
    exact = sum(row.severity == severity for row, severity in real)
    accepted = sum(row.accepted[0] <= severity <= row.accepted[1] for row, severity in real)
    near = sum(abs(row.severity - severity) <= 1 for row, severity in real)
    confidence = f"category {right} of {len(rows)} ({right / len(rows):.1%})"
    shares = (
        f"{name} {count / len(real):.1%}"
        for name, count in (("exact", exact), ("accepted", accepted), ("within one", near))
    )
    return f"{confidence}; severity of {len(real)}: {', '.join(shares)}"


def write_rows(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].line)
        writer.writeheader()
        writer.writerows(row.line for row in rows)


# The command --------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", nargs="*", type=Path, help="CSV with text, risk, severity, company"
    )
    parser.add_argument("--base", type=Path, required=True, help="the demo model's GGUF")
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="the adapter's file; with --folds a folder, for each fold's and its sentences",
    )
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--from-layer", dest="from_layer", type=int, default=15)
    parser.add_argument("--epochs", type=float, default=3)
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
    model = network.read(args.base, args.from_layer)
    print(
        f"{len(rows)} sentences, {max(len(row.prompt) + len(row.answer) for row in rows)} tokens "
        "at most",
        flush=True,
    )
    start = shared_start(rows)
    opening, ready = prepared(rows, model, start)
    if not args.folds:
        out = args.out or HERE / "urisk-judge.gguf"
        network.write(out, train(opening, ready, model, args), args.from_layer)
        print(f"written: {out}")
        return
    place = folds_of(rows, args.folds, args.seed)
    for fold in range(args.folds) if args.only is None else [args.only]:
        adapter = train(
            opening, [one for one, at in zip(ready, place, strict=True) if at != fold], model, args
        )
        held = [row for row, at in zip(rows, place, strict=True) if at == fold]
        print(
            f"fold {fold}: {score(held, judged(held, start, model, adapter, tokens))}", flush=True
        )
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            network.write(args.out / f"fold{fold}.gguf", adapter, args.from_layer)
            write_rows(args.out / f"fold{fold}.csv", held)


if __name__ == "__main__":
    main()
