"""
What the adapters of a cross-validation say of the sentences that they have not seen, asked as the
table asks: by System One, through llama.cpp.

    python training/measure.py FOLDER --base MODEL.gguf    # FOLDER: of train.py --folds 5

Prints the page of `urisk evaluate` over all folds together and writes its files into FOLDER.
Needs the extra `embedded`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from urisk_nb.evaluate import (
    Evaluation,
    LabeledFile,
    add_baselines,
    evaluate,
    read_files,
    render_text,
    write,
)
from urisk_nb.llm.manager import LLMManager
from urisk_nb.session import label_sync
from urisk_nb.settings import Engine


@contextlib.contextmanager
def launch(base: Path, adapter: Path) -> Iterator[str]:
    """llama.cpp's own server over the base with this adapter; its address."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "urisk-judge.gguf"  # the name by which the session finds it
        link.symlink_to(adapter.resolve())
        words = ["--gguf", str(base), "--adapter", str(link)]
        with subprocess.Popen(
            [sys.executable, "-m", "urisk_nb.embedded.launcher", *words], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            try:
                yield json.loads(process.stdout.readline())["url"]
            finally:
                process.terminate()


def measured(base: Path, adapter: Path, file: LabeledFile) -> Evaluation:
    """One fold: its adapter over the base, its sentences."""
    with launch(base, adapter) as url:
        manager = LLMManager.initialize_sync(url=url, model="urisk-judge")
        try:
            return evaluate(add_baselines(file), manager, label=label_sync).evaluations[0]
        finally:
            manager.shutdown_sync()


def together(parts: Sequence[Evaluation]) -> Evaluation:
    """The folds as one: each sentence judged by the adapter that had not seen it."""
    return replace(
        parts[0],
        engine=str(Engine.EMBEDDED),
        predictions=tuple(chain.from_iterable(part.predictions for part in parts)),
        seconds=sum(part.seconds for part in parts),
        tokens=sum(part.tokens for part in parts),
        asked=sum(part.asked for part in parts),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="the demo model's GGUF")
    args = parser.parse_args()
    adapters = sorted(args.folder.glob("fold*.gguf"))
    files = read_files([str(path.with_suffix(".csv")) for path in adapters])
    parts = [measured(args.base, path, file) for path, file in zip(adapters, files, strict=True)]
    items = tuple(chain.from_iterable(file.items for file in files))
    folds = add_baselines(LabeledFile(name="all folds", items=items))
    found = replace(folds, evaluations=(together(parts),))
    print(render_text(found))
    print("\nWritten: " + ", ".join(str(path) for path in write([found], args.folder)))


if __name__ == "__main__":
    main()
