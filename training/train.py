"""
Train the judge: a LoRA adapter for the demo model, on labeled sentences, on a processor, in JAX.

    python training/train.py --base MODEL.gguf               # all sentences; writes the adapter
    python training/train.py --base MODEL.gguf --folds 5 --out FOLDER    # then: measure.py
    python training/train.py --base MODEL.gguf --steps 10    # a short run: the loss must fall

The judge is a decision model: one pass over a sentence and the first word of an answer (`risk:`,
`severity:`), and the letter after it is read, with its probability. It writes nothing.

--folds is cross-validation with whole companies left out. --measure FILE.csv says what the new
adapter makes of other labeled sentences.

The base is the very file that the embedded engine runs: its weights are taken out of the GGUF,
which is quantised, so that the adapter corrects the model that it will meet. Only the upper layers
are adapted (`--from-layer`): what the lower ones make of a sentence is computed once and kept, and
every pass over the sentences costs the rest alone.

In each pass half of the sentences have their names, dates and amounts masked: a label must come of
what is said, not of whom. One sentence in ten is kept from the training, by company: the
temperatures are fitted on these, and stand in the adapter's metadata with the template.

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
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import jax
import jax.numpy as jnp
import network
import numpy as np
import optax
from network import Model, normalize, run_layers

from urisk_nb.embedded import decision
from urisk_nb.risk.masking import mask

HERE = Path(__file__).parent
RISKS = ("market", "credit", "liquidity", "operational", "legal", "business", "governance", "none")
SEVERITIES = 6
TEMPLATE = """<|im_start|>user
{state}<|im_end|>
<|im_start|>assistant
"""
QUESTIONS = ("risk:", "severity:")  # the answer begins with one of them; a letter follows
LETTERS = "ABCDEFGH"
TOGETHER = 16  # sentences through the lower layers at once
STEP = 8  # lengths are rounded up to this, so that few shapes are compiled
HELD_OUT = 10  # one company in so many is not trained on
OTHERS_WEIGHT = 0.05  # of tokens that are no letter, in the loss
MARGIN = 0.5  # by which each letter is to be more probable than all of these together
FIRST = 0.75  # of a target, for the first label where the reader accepts others


# Sentences ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """
    A labeled sentence.

    Attributes
    ----------
    text, company
        As in its file; `company` is empty where the sentence names none.
    risks
        The reader's own, and others that the reader accepts.
    severity, accepted
        The reader's own, and the lowest and highest that the reader accepts.
    line, number
        As it stands in its file, and where.
    """

    text: str
    risks: tuple[str, ...]
    severity: int
    accepted: tuple[int, int]
    company: str
    line: dict[str, str]
    number: int

    @property
    def is_masked(self) -> bool:
        """Whether it is shown masked, too."""
        return self.number % 2 == 0

    def mask(self) -> str:
        return mask(self.text, seed=self.number)

    @property
    def fold(self) -> int:
        """A number that is the same for all sentences of a company."""
        return zlib.crc32((self.company or self.text).encode())

    def risk_target(self) -> np.ndarray:
        """The share of each risk to train on."""
        return spread([RISKS.index(risk) for risk in self.risks], len(RISKS))

    def severity_target(self) -> np.ndarray:
        low, high = self.accepted
        others = [step for step in range(low, high + 1) if step != self.severity]
        return spread([self.severity, *others], SEVERITIES)


def spread(places: Sequence[int], count: int) -> np.ndarray:
    """Return shares: most of it at the first place, the rest at the others."""
    target = np.zeros(count, np.float32)
    target[places[0]] = FIRST if len(places) > 1 else 1.0
    for place in places[1:]:
        target[place] += (1 - FIRST) / (len(places) - 1)
    return target


def read(files: Sequence[Path]) -> list[Row]:
    """Return the sentences of CSV files with text, risk, severity (or its range), company."""
    rows = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            rows += [read_row(*each) for each in enumerate(csv.DictReader(lines))]
    return rows


def read_row(number: int, line: dict[str, str]) -> Row:
    low = int(line.get("severity_min") or line.get("severity_low") or line["severity"])
    high = int(line.get("severity_max") or line.get("severity_high") or line["severity"])
    risks = tuple(line["risk"].split("|"))
    severity = int(line.get("severity") or (0 if risks[0] == "none" else low))
    return Row(line["text"], risks, severity, (low, high), line.get("company") or "", line, number)


class Tokenizer:
    """llama.cpp's own, over the base model."""

    def __init__(self, base: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel, params.ui = str(base), 512, 1, False
        self._server = xllamacpp.Server(params)
        begin = self(TEMPLATE.format(state="-"))
        self.ends = [self(question) for question in QUESTIONS]
        for question, end in zip(QUESTIONS, self.ends, strict=True):
            letter = self(LETTERS[0])
            whole = self(TEMPLATE.format(state="-") + question + LETTERS[0])
            assert whole == [*begin, *end, *letter], (whole, begin, end, letter)
        self.letters = np.array([self(letter)[0] for letter in LETTERS])

    def __call__(self, text: str) -> list[int]:
        body = json.dumps({"content": text, "parse_special": True, "add_special": False}).encode()
        request = urllib.request.Request(
            f"{self._server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)["tokens"]

    def encode(self, text: str) -> list[int]:
        """
        Return the tokens of both questions about a sentence: what they share, and both endings.
        """
        return [*self(TEMPLATE.format(state=text)), *self.ends[0], *self.ends[1]]


@dataclass(frozen=True)
class Form:
    """
    How both questions about a sentence lie in one line of tokens.

    The first ending stands before the second one, which does not see it and has its positions. All
    lines end at the right, so that the places of both answers are the same in each.
    """

    first: int  # tokens of the first ending
    second: int

    @property
    def answers(self) -> tuple[int, int]:
        """Where the letters are read, from the right."""
        return -self.second - 1, -1

    def places(self, length: int) -> np.ndarray:
        """Return the position of each token of a line."""
        places = np.arange(length)
        places[length - self.second :] -= self.first
        return places.astype(np.float32)

    def seen(self, lengths: np.ndarray, length: int) -> np.ndarray:
        """Return which token (third axis) is seen from which (second), for lines of `lengths`."""
        at = np.arange(length)
        seen = at[None] <= at[:, None]
        seen[length - self.second :, length - self.second - self.first : length - self.second] = 0
        return seen[None] & (at[None] >= length - lengths[:, None])[:, None]


# Batches ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """What the lower layers made of a sentence, in half precision, and its number of tokens."""

    x: np.ndarray
    tokens: int


def pad(length: int) -> int:
    return STEP * math.ceil(length / STEP)


def split(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def prepare(texts: list[list[int]], form: Form, model: Model) -> list[Prepared]:
    """Return each line of tokens after the lower layers."""

    @jax.jit
    def run(lower, embed, ids, places, seen):
        return run_layers(lower, None, embed[ids], places, seen, unroll=False)

    made: dict[int, Prepared] = {}
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for length, group in groupby(order, lambda place: pad(len(texts[place]))):
        for part in split(list(group), TOGETHER):
            ids, lengths = np.zeros((TOGETHER, length), np.int32), np.zeros(TOGETHER, np.int32)
            for line, place in enumerate(part):
                lengths[line] = len(texts[place])
                ids[line, length - lengths[line] :] = texts[place]
            xs = run(model.lower, model.embed, ids, form.places(length), form.seen(lengths, length))
            for place, x, count in zip(part, np.asarray(xs), lengths, strict=False):
                made[place] = Prepared(x[length - count :].astype(np.float16), int(count))
    return [made[place] for place in range(len(texts))]


def join(batch: Sequence[Prepared], form: Form) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a batch as arrays as long as its longest: activations, positions, what is seen."""
    length = pad(max(one.tokens for one in batch))
    x = np.zeros((len(batch), length, batch[0].x.shape[1]), np.float32)
    for line, one in enumerate(batch):
        x[line, length - one.tokens :] = one.x
    lengths = np.array([one.tokens for one in batch])
    return x, form.places(length), form.seen(lengths, length)


def plan_pass(lengths: Sequence[int], size: int, dice: random.Random) -> list[list[int]]:
    """
    Return the batches of one pass, each of the same size: sentences of like length together, so
    that little is padded, in an order of its own.
    """
    order = sorted(range(len(lengths)), key=lambda place: (pad(lengths[place]), dice.random()))
    order += order[: -len(order) % size]
    parts = split(order, size)
    dice.shuffle(parts)
    return parts


# Training -----------------------------------------------------------------------------------------


def read_letters(ends, h, answers):
    """Return the log-probabilities of the letters of both questions, among these letters."""
    norm, embed, letters = ends
    h = normalize(h[:, answers, :], norm) @ embed[letters].T
    return jax.nn.log_softmax(h[:, 0], -1), jax.nn.log_softmax(h[:, 1, :SEVERITIES], -1)


def measure_others(ends, h, answers):
    """
    Return how far the least probable letter of each question stands behind all other tokens.

    A server that tells the twenty most probable tokens alone must tell every letter.
    """
    norm, embed, letters = ends
    logits = normalize(h[:, answers, :], norm) @ embed.T
    all_logs = jax.nn.logsumexp(logits.at[:, :, letters].set(-1e9), -1)
    least = jnp.stack(
        [logits[:, 0][:, letters].min(-1), logits[:, 1][:, letters[:SEVERITIES]].min(-1)], 1
    )
    return jax.nn.relu(all_logs - least + MARGIN).sum(-1)


def compute_loss(adapter, upper, ends, answers, x, places, seen, targets, severity_weight):
    """Return the mean cross-entropy of both answers."""
    h = run_layers(upper, adapter, x, places, seen)
    risk, severity = read_letters(ends, h, answers)
    wanted_risk, wanted_severity, weight = targets
    losses = -(wanted_risk * risk).sum(-1) - severity_weight * (wanted_severity * severity).sum(-1)
    losses += OTHERS_WEIGHT * measure_others(ends, h, answers)
    return (weight * losses).sum() / weight.sum()


def train(
    rows: Sequence[Row],
    versions: Sequence[Sequence[Prepared]],
    form: Form,
    model: Model,
    letters: np.ndarray,
    args: argparse.Namespace,
) -> dict:
    """
    Return the adapter after all passes.

    Parameters
    ----------
    versions
        For each sentence: as it is, and for half of them masked.
    """
    adapter = network.create_adapter(jax.random.PRNGKey(args.seed), model.upper, args.rank)
    steps = args.steps or math.ceil(args.epochs * math.ceil(len(rows) / args.batch))
    rate = optax.warmup_cosine_decay_schedule(
        0.0, args.rate, max(1, steps // 10), steps, args.rate / 50
    )
    method = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=args.decay))
    state, ends = method.init(adapter), (model.norm, model.embed, letters)
    slope_of = jax.value_and_grad(compute_loss)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(adapter, state, upper, ends, *batch):
        # The base's weights are arguments: as constants of the compiled step they would be worked
        # on for minutes.
        value, slope = slope_of(
            adapter, upper, ends, np.array(form.answers), *batch, args.severity_weight
        )
        change, state = method.update(slope, state, adapter)
        return optax.apply_updates(adapter, change), state, value

    risk = np.stack([row.risk_target() for row in rows])
    severity = np.stack([row.severity_target() for row in rows])
    weights = np.array([args.none_weight if row.risks[0] == "none" else 1.0 for row in rows])
    dice, queue, losses, began_s = random.Random(args.seed), [], [], time.monotonic()
    for number in range(steps):
        if not queue:
            shown = [dice.choice(each) for each in versions]
            queue = plan_pass([one.tokens for one in shown], args.batch, dice)
        part = queue.pop()
        targets = risk[part], severity[part], weights[part]
        batch = join([shown[place] for place in part], form)
        adapter, state, value = step(adapter, state, model.upper, ends, *batch, targets)
        losses.append(float(value))
        if number % 20 == 0 or number == steps - 1:
            loss = np.mean(losses[-max(2, steps // 20) :])
            spent_s = time.monotonic() - began_s
            print(f"step {number + 1} of {steps}: loss {loss:.3f}, {spent_s:.0f} s", flush=True)
    return adapter


# How good it is ----------------------------------------------------------------------------------


def judge(
    ready: Sequence[Prepared], form: Form, model: Model, letters: np.ndarray, adapter: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probabilities of the risks and of the severities of each sentence."""

    @jax.jit
    def run(upper, adapter, ends, *batch):
        h = run_layers(upper, adapter, *batch, unroll=False)
        return read_letters(ends, h, np.array(form.answers))

    risk, severity = np.zeros((len(ready), len(RISKS))), np.zeros((len(ready), SEVERITIES))
    ends = (model.norm, model.embed, letters)
    for part in plan_pass([one.tokens for one in ready], TOGETHER, random.Random(0)):
        found = run(model.upper, adapter, ends, *join([ready[place] for place in part], form))
        risk[part], severity[part] = map(np.asarray, found)
    return risk, severity


def fit_temperature(logs: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature that makes the labels most probable (Guo et al. 2017)."""

    def cost(temperature: float) -> float:
        scaled = logs / temperature
        scaled -= np.log(np.exp(scaled).sum(1, keepdims=True))
        return -float((targets * scaled).sum(1).mean())

    return float(min(np.geomspace(0.5, 5.0, 200), key=cost))


def describe(rows: Sequence[Row], risk: np.ndarray, severity: np.ndarray) -> str:
    """Return the figures of a judge in one line; `urisk evaluate` has them all."""
    said = [RISKS[place] for place in risk.argmax(1)]
    steps = severity.argmax(1)
    total = len(rows)
    first = sum(row.risks[0] == one for row, one in zip(rows, said, strict=True))
    accepted = sum(one in row.risks for row, one in zip(rows, said, strict=True))
    none = [one for row, one in zip(rows, said, strict=True) if row.risks[0] == "none"]
    alarms = [
        one != "none" and step >= 3
        for row, one, step in zip(rows, said, steps, strict=True)
        if row.risks[0] == "none"
    ]
    real = [
        (row, step)
        for row, one, step in zip(rows, said, steps, strict=True)
        if row.risks[0] != "none" and one != "none"
    ]
    in_range = sum(row.accepted[0] <= step <= row.accepted[1] for row, step in real)
    parts = [f"risk {first} of {total} ({first / total:.1%}), accepted {accepted / total:.1%}"]
    if none:
        parts += [
            f"none found {none.count('none') / len(none):.1%}",
            f"none at 3 or more {sum(alarms) / len(none):.1%}",
        ]
    if real:
        parts.append(f"severity in range {in_range / len(real):.1%}")
    return "; ".join(parts)


# The command --------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
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
    parser.add_argument("--epochs", type=float, default=2.5)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--none-weight", dest="none_weight", type=float, default=1.0)
    parser.add_argument("--severity-weight", dest="severity_weight", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folds", type=int, default=0, help="cross-validate over so many folds")
    parser.add_argument("--only", type=int, default=None, help="this fold alone")
    parser.add_argument("--measure", nargs="+", type=Path, default=[], help="CSV to be judged")
    return parser.parse_args()


def build_entries(temperatures: dict[str, float]) -> dict[str, str | float | list[str]]:
    """Return the metadata that makes a decision model of the base with this adapter."""
    keys = {f"{decision.TEMPERATURE}{name}": value for name, value in temperatures.items()}
    return {
        decision.TYPE: "openjev",  # llama.cpp's name for one letter, read after a template
        decision.TEMPLATE: (HERE / "systemone.jinja").read_text(encoding="utf-8"),
        decision.NAMES: ["systemone"],
        **keys,
    }


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].line)
        writer.writeheader()
        writer.writerows(row.line for row in rows)


def pick(items: Sequence, places: Sequence[int]) -> list:
    return [items[place] for place in places]


def main() -> None:
    args = parse_arguments()
    tokenize = Tokenizer(args.base)
    form, letters = Form(*map(len, tokenize.ends)), tokenize.letters
    rows = read(args.files or sorted((HERE / "sentences").glob("*.csv")))
    measured = {path: read([path]) for path in args.measure}
    model = network.read(args.base, args.from_layer)

    def prepare_texts(texts: list[str]) -> list[Prepared]:
        return prepare([tokenize.encode(text) for text in texts], form, model)

    as_is = prepare_texts([row.text for row in rows])
    masked = iter(prepare_texts([row.mask() for row in rows if row.is_masked]))
    versions = [
        (one, next(masked)) if row.is_masked else (one,)
        for row, one in zip(rows, as_is, strict=True)
    ]
    print(f"{len(rows)} sentences, {max(one.tokens for one in as_is)} tokens at most", flush=True)
    others = {path: prepare_texts([row.text for row in own]) for path, own in measured.items()}

    def train_without(held: Callable[[Row], bool]) -> tuple[dict, list[int]]:
        kept = [place for place, row in enumerate(rows) if not held(row)]
        adapter = train(pick(rows, kept), pick(versions, kept), form, model, letters, args)
        return adapter, [place for place, row in enumerate(rows) if held(row)]

    def show(adapter: dict, name: str, own: list[Row], ready: list[Prepared]) -> None:
        found = judge(ready, form, model, letters, adapter)
        print(f"{name}: {describe(own, *found)}", flush=True)

    def finish(adapter: dict, held: list[int], path: Path, name: str) -> None:
        """Fit the temperatures on the sentences left out, say how good it is, and write it."""
        own = pick(rows, held)
        risk, severity = judge(pick(as_is, held), form, model, letters, adapter)
        print(f"{name}: {describe(own, risk, severity)}", flush=True)
        twice = [place for place in held if rows[place].is_masked]
        for kind, version in (("as they are", 0), ("masked", 1)):
            ready = [versions[place][version] for place in twice]
            show(adapter, f"{name}, those that are masked, {kind}", pick(rows, twice), ready)
        about = [place for place, row in enumerate(own) if row.risks[0] != "none"]
        temperatures = {
            "choice": fit_temperature(risk, np.stack([row.risk_target() for row in own])),
            "score": fit_temperature(
                severity[about], np.stack([own[place].severity_target() for place in about])
            ),
        }
        print(f"temperatures: {temperatures}")
        for file, others_own in measured.items():
            show(adapter, file.stem, others_own, others[file])
        network.write(path, adapter, args.from_layer, build_entries(temperatures))
        print(f"written: {path}", flush=True)

    if not args.folds:
        adapter, held = train_without(lambda row: row.fold % HELD_OUT == 0)
        finish(adapter, held, args.out or HERE / "urisk-judge.gguf", "left out")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for fold in range(args.folds) if args.only is None else [args.only]:
        adapter, held = train_without(lambda row, fold=fold: row.fold % args.folds == fold)
        finish(adapter, held, args.out / f"fold{fold}.gguf", f"fold {fold}")
        write_rows(args.out / f"fold{fold}.csv", pick(rows, held))


if __name__ == "__main__":
    main()
