"""
What the adapters of a cross-validation say of the sentences that they have not seen, asked as the
table asks: by System One, through llama.cpp.

    python training/measure.py FOLDER --base MODEL.gguf    # FOLDER: of train.py --folds 5

Prints the figures over all folds together and writes them, with a reliability picture, into FOLDER.
Needs the extra `embedded`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import decision

from urisk_nb.evaluate import Evaluation, evaluate, read, text, write
from urisk_nb.llm.manager import LLMManager
from urisk_nb.risk import evaluation
from urisk_nb.session import label_sync
from urisk_nb.settings import Engine


@contextlib.contextmanager
def launch(base: Path, adapter: Path) -> Iterator[str]:
    """llama.cpp's own server over the base with this adapter; its address."""
    with tempfile.TemporaryDirectory() as folder:
        # The name by which the session finds it; without temperatures, which are not fitted yet
        made = decision.add_entries(adapter, Path(folder) / "urisk-judge.gguf", {})
        words = ["--gguf", str(base), "--adapter", str(made)]
        with subprocess.Popen(
            [sys.executable, "-m", "urisk_nb.embedded.launcher", *words], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            try:
                yield json.loads(process.stdout.readline())["url"]
            finally:
                process.terminate()


def measured(base: Path, adapter: Path, labels: Path) -> list[Evaluation]:
    """One fold: its adapter over the base, its sentences."""
    with launch(base, adapter) as url:
        manager = LLMManager.initialize_sync(url=url, model="urisk-judge")
        try:
            return evaluate(read(labels), manager, label=label_sync)
        finally:
            manager.shutdown_sync()


def together(parts: tuple[Evaluation, ...]) -> Evaluation:
    """The folds as one: each sentence judged by the adapter that had not seen it."""
    outcomes = tuple(chain.from_iterable(part.outcomes for part in parts))
    return replace(
        parts[0],
        engine=str(Engine.EMBEDDED),
        outcomes=outcomes,
        seconds=sum(part.seconds for part in parts),
        tokens=sum(part.tokens for part in parts),
        figures=evaluation.figures(outcomes),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="the demo model's GGUF")
    args = parser.parse_args()
    folds = [
        measured(args.base, path, path.with_suffix(".csv"))
        for path in sorted(args.folder.glob("fold*.gguf"))
    ]
    found = [together(parts) for parts in zip(*folds, strict=True)]
    print(text(found))
    print("\nWritten: " + ", ".join(str(path) for path in write(found, args.folder)))


if __name__ == "__main__":
    main()
