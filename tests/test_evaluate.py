"""
`urisk evaluate`: a file of labeled sentences to figures, CSV files and a page; a mistake is told
before any server is started.
"""

import csv
import os
import subprocess
import sys

import pandas as pd
import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from harness import ROOT
from urisk_nb import errors, evaluate
from urisk_nb.llm.manager import LLMManager
from urisk_nb.session import label_sync

ROWS = [
    ("Acme was fined. A second sentence does not count.", "legal", 3),
    ("Acme was sued.", "legal|governance", 2),
    ("Acme owes much.", "credit", 4),
    ("It rained.", "none", 0),
]
SAID = {
    "fined": ("legal", 3),
    "sued": ("governance", 3),
    "owes": ("liquidity", 3),
    "rained": ("none", 0),
}


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("text", "risk", "severity"), *ROWS])
    return path


@pytest.fixture
def found(labels):
    """
    Evaluated over a server whose answers, and how sure it is of them, are known: certain of
    everything.
    """
    rules = [
        Rule(contains=word, answer=[f'{{"risk":"{risk}","severity":{severity}}}'])
        for word, (risk, severity) in SAID.items()
    ]
    with running(
        ScriptedBackend(Scenario(rules=[*rules, Rule(answer=['{"risk":"none","severity":0}'])]))
    ) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        try:
            yield evaluate.evaluate(
                evaluate.read(labels), manager, models=["llama3.1"], label=label_sync
            )
        finally:
            manager.shutdown_sync()


def test_a_file_becomes_figures(found):
    """
    Both ways of taking labels; three of four categories, one of three severities; the first
    sentence of a text counts.
    """
    assert [(one.model, one.labels, one.engine) for one in found] == [
        ("llama3.1", way, "ollama") for way in ("greedy", "calibrated")
    ]
    greedy, calibrated = found
    assert [outcome.label.risk for outcome in greedy.outcomes] == [
        risk for risk, _ in SAID.values()
    ]
    assert (greedy.figures["category"], greedy.figures["severity"]) == (0.75, pytest.approx(1 / 3))
    assert pd.isna(greedy.figures["brier"])
    # Certain of `none` for nothing, and of another label for each sentence but the last, which adds
    # nothing: it stays as written.
    assert [round(outcome.p_label, 3) for outcome in calibrated.outcomes[:3]] == [1.0] * 3
    assert calibrated.figures["category"] == 0.75
    assert calibrated.figures["brier"] >= 0.25


def test_what_is_written(found, tmp_path):
    """Tables that read back, a page without scripts that names everything; hostile text is text."""
    hostile = "<script>x()</script>"
    evil = [
        evaluate.Evaluation(
            model=hostile,
            labels=one.labels,
            engine="e",
            outcomes=one.outcomes,
            seconds=1,
            tokens=8,
            figures=one.figures,
        )
        for one in found
    ]
    paths = evaluate.write(evil, tmp_path / "out" / "deep")
    assert [path.name for path in paths] == ["evaluation.csv", "labels.csv", "evaluation.html"]
    figures, sentences = (pd.read_csv(path) for path in paths[:2])
    assert list(figures["labels"]) == ["greedy", "calibrated"]
    assert list(figures["category"]) == [0.75, 0.75]
    assert list(figures["seconds_each"]) == [0.25, 0.25]
    assert len(sentences) == 8
    assert list(sentences["wanted"][:2]) == ["legal", "governance|legal"]
    page = paths[2].read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 1, "greedy labels have no probabilities"
    assert "75.0% (30% to 95%)" in page
    text = evaluate.text(found)
    assert "The best constant answer, which reads nothing, reaches category 50.0%" in text
    assert "expected calibration error" in text


def test_a_file_that_is_none(tmp_path):
    """What was seen, and what is wanted."""
    with pytest.raises(errors.InputError, match="cannot be read"):
        evaluate.read(tmp_path / "nowhere.csv")


@pytest.mark.slow
def test_the_command(labels, tmp_path, fake_ollama):
    """
    From a shell, over scripted answers; a bad row ends it with status 1 before anything is started.
    """
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    words = [
        sys.executable,
        "-m",
        "urisk_nb.cli",
        "evaluate",
        str(labels),
        "--url",
        fake_ollama.url,
        "--models",
        "llama3.1",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "llama3.1 (ollama), greedy: 4 valid answers" in done.stdout
    assert (tmp_path / "out" / "evaluation.html").exists()
    labels.write_text("text,risk,severity\nIt was fined.,illegal,3\n", encoding="utf-8")
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    assert "row 1 has the risk 'illegal'" in done.stderr
