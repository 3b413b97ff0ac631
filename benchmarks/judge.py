"""
Measure a model's labels: python benchmarks/judge.py [--model M] [--url URL] [labels.csv]

Prints how many answers of the server are valid, how many have the right category and severity, and
the cost per sentence: tokens, seconds, new prompt tokens. `--second` adds the second looks of the
table.

labels.csv is either `text,risk,severity` or, like the sixteen events of the package,
`id,risk,direction,severity_min,severity_max` beside a file of the same name that starts with
evidence_ instead of labels_ (columns id, text; its first sentence counts). `|` separates
labels that are both right. Without a file: the sixteen events. Accuracy is measured on labels that
somebody made: use your own.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import sys
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from urisk_nb.errors import UriskError
from urisk_nb.llm.manager import LLMManager
from urisk_nb.risk.evaluation import LabeledSentence, read_labels
from urisk_nb.risk.evidence import Sentence, split
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.questions import Label, build_question, parse
from urisk_nb.risk.scoring import reconcile
from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES

SIXTEEN = Path(str(files("urisk_nb") / "data" / "labels_2018_2019.csv"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What came of one item."""

    item: LabeledSentence
    label: Label | None
    tokens: int
    seconds: float
    prompt_tokens: int
    prompt_seconds: float


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def read_items(path: Path) -> list[LabeledSentence]:
    """
    The labeled sentences of a file, in either form; InputError says what is wrong with a file that
    has neither.
    """
    rows = rows_of(path)
    if rows and "text" not in rows[0] and "id" in rows[0]:
        texts = {
            row["id"]: row["text"]
            for row in rows_of(path.with_name(path.name.replace("labels", "evidence", 1)))
        }
        rows = [{**row, "text": texts[row["id"]]} for row in rows]
    return read_labels(rows)


def sentence_of(text: str) -> Sentence:
    """The first of the text."""
    return split(Document(id="1", ticker=None, text=text)).sentences[0]


def look(
    manager: LLMManager, item: LabeledSentence, params: RiskParams, *, reverse: bool = False
) -> Prediction:
    answer = manager.ask_sync(build_question(sentence_of(item.text), params, reverse=reverse))
    timing = answer.timing
    return Prediction(
        item=item,
        label=parse(str(answer), answer.done_reason)[0],
        tokens=timing.tokens,
        seconds=timing.total_s,
        prompt_tokens=timing.prompt_tokens,
        prompt_seconds=timing.prompt_s,
    )


def count_noun(url: str, last: int) -> list[int] | None:
    """
    New prompt tokens of the last calls by the server's own counters; None where the server has none
    (a real Ollama).
    """
    try:
        with urllib.request.urlopen(f"{url}/urisk/counters", timeout=10) as reply:
            recent = json.load(reply)["recent"]
    except (urllib.error.HTTPError, ValueError, KeyError):
        return None
    return [int(call["prompt_new"]) for call in recent[-last:]]


def new_tokens(manager: LLMManager, first: Prediction, outcomes: list[Prediction]) -> str:
    if (counts := count_noun(manager.url, len(outcomes))) is not None:
        mean = statistics.mean(counts)
        return f"{mean:.0f} new prompt tokens a call, at most {max(counts)} (server's counters)"
    rate = first.prompt_tokens / first.prompt_seconds if first.prompt_seconds > 0 else math.nan
    guess = statistics.mean(outcome.prompt_seconds * rate for outcome in outcomes)
    return (
        f"about {guess:.0f} new prompt tokens a call (estimated: prompt_eval_duration at the speed "
        "of the first call, whose prompt was new)"
    )


def best_constant(items: list[LabeledSentence]) -> tuple[float, float]:
    """What one answer to everything reaches: category, and severity where there is a risk."""
    about = [item for item in items if item.risk != NONE]
    category = max(sum(risk in item.risks for item in items) for risk in DEFAULT.labels)
    severity = max((sum(item.steps(step) == 0 for item in about) for step in SEVERITIES), default=0)
    return category / len(items), severity / len(about) if about else math.nan


def report(outcomes: list[Prediction], seconds: list[Prediction]) -> list[str]:
    total = len(outcomes)
    valid = [(outcome.item, outcome.label) for outcome in outcomes if outcome.label is not None]
    category = sum(label.risk in item.risks for item, label in valid)
    exact, near = (
        sum(item.steps(label.severity) <= steps for item, label in valid) for steps in (0, 1)
    )
    named = Counter(label.risk for _, label in valid)
    lines = [
        f"valid {len(valid)} of {total}",
        f"category {category} of {total}   severity {exact} of {total}, {near} within one step",
        (
            f"{statistics.mean(o.tokens for o in outcomes):.1f} tokens a sentence, at most "
            f"{max(o.tokens for o in outcomes)}"
        ),
        f"{statistics.median(o.seconds for o in outcomes):.2f} s a sentence (median)",
        "named: " + ", ".join(f"{risk} {count}" for risk, count in named.most_common()),
        "a judge that reads nothing would reach: category {:.0%}, severity {:.0%}".format(
            *best_constant([outcome.item for outcome in outcomes])
        ),
    ]
    if seconds:
        settled = [
            (one.item, reconcile(one.label, two.label)[0])
            for one, two in zip(outcomes, seconds, strict=True)
            if one.label
        ]
        after = sum(item.steps(label.severity) == 0 for item, label in settled)
        apart = sum(
            bool(one.label and two.label and one.label.risk != two.label.risk)
            for one, two in zip(outcomes, seconds, strict=True)
        )
        lines.append(
            f"reversed examples: another category in {apart} of {total}; severity {after} of "
            f"{total} if all had a second look"
        )
    return lines


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", nargs="?", type=Path, default=SIXTEEN)
    parser.add_argument("--model", help="the model that answers (default: OLLAMA_MODEL)")
    parser.add_argument(
        "--url", help="the server (default: OLLAMA_URL, started if nothing answers)"
    )
    parser.add_argument("--engine", choices=("ollama", "embedded"), help="what to start")
    parser.add_argument(
        "--second",
        action="store_true",
        help="ask everything again with the examples in reverse order",
    )
    parser.add_argument("--verbose", action="store_true", help="print each sentence with its label")
    given = parser.parse_args(arguments)
    try:
        items, params = read_items(given.labels), RiskParams.of()
        manager = LLMManager.initialize_sync(model=given.model, url=given.url, engine=given.engine)
        try:
            # Asked once before anything counts: it fills the server's prefix cache, and its prompt
            # is wholly new.
            first = look(
                manager,
                LabeledSentence(text="A company was founded.", risks=("none",), low=0, high=0),
                params,
            )
            outcomes = [look(manager, item, params) for item in items]
            new = new_tokens(manager, first, outcomes)
            seconds = (
                [look(manager, item, params, reverse=True) for item in items]
                if given.second
                else []
            )
            print(
                f"{given.labels.name}: {manager.model} on {manager.engine} {manager.version}, "
                f"prefix of {first.prompt_tokens} tokens"
            )
        finally:
            manager.shutdown_sync()
    except UriskError as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    for outcome in outcomes if given.verbose else []:
        wanted = f"{'|'.join(outcome.item.risks)} {outcome.item.low}-{outcome.item.high}"
        confidence = (
            f"{outcome.label.risk} {outcome.label.severity}" if outcome.label else "invalid"
        )
        print(f"  {confidence:14s} (wanted {wanted}): {outcome.item.text[:90]}")
    print("\n".join([*report(outcomes, seconds), new]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
