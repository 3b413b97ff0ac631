"""
The training of the judge: ten steps on a few sentences, with the real base; and what they leave is
a model that answers.
"""

import csv
import re
import subprocess
import sys

import pytest

from harness import ROOT, decide, launch_llamacpp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Some sentences of like length, so that few shapes are compiled."""
    rows = list(
        csv.DictReader(
            (ROOT / "training/sentences/news.csv").read_text(encoding="utf-8").splitlines()
        )
    )
    rows = [row for row in rows if 17 <= len(row["text"].split()) <= 18]
    path = tmp_path_factory.mktemp("training") / "few.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def train(*words):
    return run("train.py", *words)


def run(script, *words):
    command = [sys.executable, str(ROOT / "training" / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def put_apart(demo_model, folder):
    """
    Return the model's path in another folder: beside it, copies for other adapters are removed, and
    other tests may just be loading theirs.
    """
    path = folder / demo_model.name
    path.symlink_to(demo_model)
    return path


def test_ten_steps(demo_model, few, tmp_path):
    """
    The loss falls by a quarter and more, and llama.cpp loads the file over the base and answers
    with probabilities.
    """
    made = tmp_path / "made.gguf"
    confidence = train(few, "--base", demo_model, "--steps", 10, "--batch", 8, "--out", made)
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", confidence)]
    print(confidence)
    assert losses[-1] < 0.75 * losses[0]
    assert made.stat().st_size < 6_000_000
    with launch_llamacpp(put_apart(demo_model, tmp_path), "--threads", 1, "--adapter", made) as url:
        risks, severities = decide(url, "It was fined 4 million.")
    assert (sum(risks.values()), sum(severities.values())) == pytest.approx((1, 1))


def test_folds_leave_companies_out(demo_model, few, tmp_path):
    """
    A fold of a short cross-validation: trained on the rest, measured on it here and as the table
    asks; no company on both sides.
    """
    confidence = train(
        few,
        "--base",
        demo_model,
        "--steps",
        2,
        "--batch",
        8,
        "--folds",
        5,
        "--only",
        0,
        "--out",
        tmp_path,
    )
    assert re.search(
        r"fold 0: risk \d+ of \d+ \([\d.]+%\), accepted [\d.]+%; .*severity in range [\d.]+%",
        confidence,
    )
    rows = list(csv.DictReader(few.read_text(encoding="utf-8").splitlines()))
    held = list(csv.DictReader((tmp_path / "fold0.csv").read_text(encoding="utf-8").splitlines()))
    ours = {row["company"] for row in held}
    assert held
    assert [row for row in rows if row["company"] in ours] == held
    done = run("measure.py", tmp_path, "--base", put_apart(demo_model, tmp_path))
    assert re.search(
        rf"all folds: {len(held)} labeled sentences.*\nsentences answered +{len(held)} .*"
        r"\nurisk-judge \(embedded\)\n",
        done,
        re.DOTALL,
    )
