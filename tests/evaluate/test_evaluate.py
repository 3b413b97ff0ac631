"""
`urisk evaluate`: files of labeled sentences to a page and files for each; a mistake is told before
any server is started.
"""

import contextlib
import csv
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from harness import ROOT
from urisk_nb import cli, errors, evaluate
from urisk_nb.llm.manager import LLMManager
from urisk_nb.readers.taxonomy_file import read_taxonomy_file
from urisk_nb.risk.evaluation import Prediction, Share
from urisk_nb.risk.questions import Label
from urisk_nb.session import label_sync

COLUMNS = ("text", "risk", "severity", "kind", "source")
ROWS = [
    ("Trelko was fined. It paid $4 million.", "legal", 3, "event", "10-K:TRK_2020"),
    ("Trelko was sued.", "legal|governance", 2, "event", "news:TRK"),
    ("It owes much.", "credit", 4, "event", "10-K:TRK_2021"),
    ("It rained.", "none", 0, "routine", "10-K:TRK_2020"),
    ("It rained.", "none", 0, "routine", "10-K:TRK_2021"),
]
SAID = {
    "fined": ("legal", 3),
    "sued": ("governance", 3),
    "owes": ("liquidity", 3),
    "rained": ("none", 0),
}


def write_rows(path, rows=ROWS):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


@pytest.fixture
def labels(tmp_path):
    return write_rows(tmp_path / "labels.csv")


@contextlib.contextmanager
def start_manager():
    """
    A server whose answers, and how sure it is of them, are known: certain of everything. It says
    `market 1` to a sentence that was sued without its name.
    """
    rules = [
        Rule(contains="Trelko was sued", answer=['{"risk":"governance","severity":3}']),
        Rule(contains="was sued", answer=['{"risk":"market","severity":1}']),
        *(
            Rule(contains=word, answer=[f'{{"risk":"{risk}","severity":{severity}}}'])
            for word, (risk, severity) in SAID.items()
        ),
        Rule(answer=['{"risk":"none","severity":0}']),
    ]
    with running(ScriptedBackend(Scenario(rules=rules))) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        try:
            yield manager
        finally:
            manager.shutdown_sync()


@pytest.fixture
def manager():
    with start_manager() as started:
        yield started


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What was found, once for all who look at it; nobody changes it."""
    labels = write_rows(tmp_path_factory.mktemp("evaluate") / "labels.csv")
    (file,) = evaluate.read_files([str(labels)])
    with start_manager() as manager:
        return evaluate.evaluate(
            evaluate.add_baselines(file),
            manager,
            models=["llama3.1"],
            masked=True,
            label=label_sync,
        )


def test_a_file_becomes_figures(found):
    """
    Both ways of taking labels; a row is one sentence, whatever its form, and counts though its text
    stands twice.
    """
    assert [(one.model, one.labels, one.engine) for one in found.evaluations] == [
        ("llama3.1", way, "ollama") for way in ("greedy", "calibrated")
    ]
    assert evaluate.as_dict(found)["agreement"] == [], "one model agrees with no other"
    greedy, calibrated = found.evaluations
    assert [one.label.risk for one in greedy.predictions] == [
        *(risk for risk, _ in SAID.values()),
        "none",
    ]
    figures = greedy.figures
    assert (figures["own"], figures["accepted"]) == (Share(3, 5), Share(4, 5))
    assert (figures["severity"], figures["severity_exact"]) == (Share(1, 3), Share(1, 3))
    assert math.isnan(figures["brier"])
    assert greedy.review["accepted"].threshold is None
    # Certain of `none` for nothing, and of another label for each sentence but the last, which adds
    # nothing: it stays as written.
    assert [round(one.p_label, 3) for one in calibrated.predictions[:3]] == [1.0] * 3
    assert calibrated.figures["accepted"] == Share(4, 5)
    assert calibrated.figures["brier"] >= 0.2


def test_what_masking_changes(found):
    """
    Only sentences that it reaches count: two with a name, of which one has another label without
    it.
    """
    masked, swapped = found.evaluations[0].stability
    assert (masked.change, masked.risk, masked.severity) == ("masked", Share(1, 2), Share(1, 2))
    assert (swapped.change, swapped.risk, swapped.severity) == ("swapped", Share(1, 2), Share(1, 2))


def test_a_label_that_went_with_the_mask_did_not_hold(labels):
    """No valid answer to a changed sentence is no label that holds."""
    rules = [
        Rule(contains="Trelko", answer=['{"risk":"legal","severity":3}']),
        Rule(contains="rained", answer=['{"risk":"none","severity":0}']),
        Rule(answer=["no label"]),
    ]
    (file,) = evaluate.read_files([str(labels)])
    with running(ScriptedBackend(Scenario(rules=rules))) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        try:
            found = evaluate.evaluate(
                evaluate.add_baselines(file),
                manager,
                models=["llama3.1"],
                masked=True,
                label=label_sync,
            )
        finally:
            manager.shutdown_sync()
    for change in found.evaluations[0].stability:
        assert (change.risk, change.severity) == (Share(0, 2), Share(0, 2))


def test_a_decision_model_is_asked_once(labels, manager):
    """Its answer is probabilities, so greedy and calibrated labels are the same."""
    (file,) = evaluate.read_files([str(labels)])
    runs = []
    made = evaluate.evaluate(
        evaluate.add_baselines(file),
        manager,
        models=["llama3.1", "urisk-judge"],
        label=lambda run, _: runs.append(run) or label_sync_of(run),
    )
    assert [(one.model, one.labels) for one in made.evaluations] == [
        ("llama3.1", "greedy"),
        ("llama3.1", "calibrated"),
        ("urisk-judge", "decision"),
    ]
    assert [run.plan.params.model for run in runs] == ["llama3.1", "llama3.1", "urisk-judge"]


def label_sync_of(run):
    """A labeler that gives no valid answer, without a server."""
    from urisk_nb.risk.labeling import Finding, TickerFindings

    if run.plan.params.model == "urisk-judge":
        run.plan = replace(run.plan, form="decision")
    (symbol,) = run.plan.symbols
    run.ticker_findings[symbol] = TickerFindings(
        symbol=symbol,
        findings=tuple(
            Finding(sentence=one, label=None) for one in run.plan.selections[symbol].chosen
        ),
    )


@pytest.mark.slow
def test_the_baselines(labels, tmp_path):
    """
    One constant where `none` is the most frequent, two where it is not; near-duplicates of what is
    measured teach nothing.
    """
    (file,) = evaluate.read_files([str(labels)])
    quiet = replace(file, items=file.items[2:])
    assert list(evaluate.add_baselines(quiet).baselines) == ["always none"]
    both = evaluate.add_baselines(file).baselines
    assert list(both) == ["always none", "always legal"]
    assert [one.risk for one in both["always legal"]] == ["legal"] * 5
    pytest.importorskip("sklearn")
    training = evaluate.read(
        write_rows(
            tmp_path / "training.csv",
            [
                ("Trelko was fined. It paid $9 million.", "none", 0, "", ""),
                ("A fine was paid by Orr.", "legal", 2, "", ""),
                ("The debt of Orr rose.", "credit", 2, "", ""),
            ],
        )
    )
    trained = evaluate.add_baselines(file, training)
    assert trained.training == (2, 1)
    assert {one.risk for one in trained.baselines["bag of words"]} <= {"legal", "credit"}
    assert "was trained on 2 sentences; 1 near-duplicate of" in " ".join(
        evaluate.render_text(trained).split()
    )


def test_what_is_measured_teaches_nothing(labels):
    """It is told which file leaves nothing to learn from."""
    (file,) = evaluate.read_files([str(labels)])
    with pytest.raises(errors.InputError, match="labels: all sentences to train on") as error:
        evaluate.add_baselines(file, file.items)
    assert "--train FILE" in error.value.fix


def test_its_run_is_a_table_at_any_time(labels, manager):
    """So an interrupt carries the table so far, as that of every run does."""
    (file,) = evaluate.read_files([str(labels)])
    tables = []
    evaluate.evaluate(
        evaluate.add_baselines(file),
        manager,
        models=["urisk-judge"],
        label=lambda run, _: tables.append(run.table()) or label_sync_of(run),
    )
    assert list(tables[0].index) == ["LABELS"]


def test_the_page(found):
    """At most 100 columns; figures with intervals, baselines, and what each table is of."""
    page = evaluate.render_text(found)
    assert max(map(len, page.splitlines())) <= 100
    assert page.startswith("labels: 5 labeled sentences, 2 about no risk")
    for line in (
        r"reader's own label +60.0 % \(23-88\) +60.0 % \(23-88\) +40.0 % \(12-77\)$",
        r"an accepted label +80.0 % \(38-96\)",
        r"of the 3 about a risk",
        r"always none +no clear difference +no clear difference",
        r"reader's own label +40.0 % \(12-77\)$",
        r"always legal +no clear difference +no clear difference",
        r"masked +2 +50.0 %",
        r"event +3 +33.3 %",
        r"10-K +4 +75.0 %",
        r"0.9 to 1.0 +\d",
        r"governance +0 +0 +0 +0 +0 +0 +1 +0 +0",
    ):
        assert re_search(line, page), line
    assert "There are no probabilities: the labels are greedy" in page


def re_search(pattern, text):
    return re.search(f"^ *{pattern}", text, re.MULTILINE)


def test_two_models_are_compared(found):
    """Four of five labels alike; kappa of these by hand: (0.8 - 0.24) / (1 - 0.24)."""
    greedy = found.evaluations[0]
    other = replace(
        greedy,
        model="other",
        predictions=(
            *greedy.predictions[:2],
            Prediction(item=greedy.predictions[2].item, label=Label(risk="credit", severity=4)),
            *greedy.predictions[3:],
        ),
    )
    both = replace(found, evaluations=(greedy, other))
    # legal, governance, none twice: 1/25 + 1/25 + 4/25 by chance
    assert "llama3.1 and other agree on the category of 80.0 % (38-96)" in evaluate.render_text(
        both
    )
    (agreement,) = evaluate.as_dict(both)["agreement"]
    assert agreement["models"] == ["llama3.1", "other"]
    assert agreement["kappa"] == pytest.approx((0.8 - 0.24) / (1 - 0.24))


def test_what_programs_get(found):
    """All figures, as JSON that any program reads: no NaN, shares with their intervals."""
    read = json.loads(json.dumps(evaluate.as_dict(found), allow_nan=False))
    greedy, calibrated = read["models"]
    assert (greedy["model"], greedy["labels"]) == ("llama3.1", "greedy")
    assert greedy["figures"]["own"]["part"] == 3
    assert greedy["figures"]["own"]["low"] == pytest.approx(0.2307, abs=1e-4)
    assert greedy["figures"]["brier"] is None
    assert greedy["by_kind"]["event"]["accepted"] == calibrated["by_kind"]["event"]["accepted"]
    assert greedy["by_source"]["news"]["own"]["part"] == 0
    assert greedy["stability"]["masked"]["risk"]["whole"] == 2
    assert greedy["against"]["always none"] == {
        "own": "no clear difference",
        "accepted": "no clear difference",
    }
    assert greedy["confusion"]["credit"]["liquidity"] == 1
    assert calibrated["review"]["accepted"]["threshold"] is None
    assert sum(row["n"] for row in calibrated["reliability"]["own"]) >= 3


def test_what_is_written(found, tmp_path):
    """Tables that read back, a page without scripts that names everything; hostile text is text."""
    hostile = "<script>x()</script>"
    evil = replace(
        found,
        name=hostile,
        evaluations=tuple(replace(one, model=hostile) for one in found.evaluations),
    )
    paths = evaluate.write([evil], tmp_path / "out" / "deep")
    assert [path.name for path in paths] == ["evaluation.csv", "labels.csv", "evaluation.html"]
    figures, sentences = (pd.read_csv(path) for path in paths[:2])
    assert list(figures["labels"]) == ["greedy", "calibrated"]
    assert list(figures["accepted"]) == [0.8, 0.8]
    assert list(figures["own_lo"].round(4)) == [0.2307, 0.2307]
    assert len(sentences) == 10
    assert list(sentences["reader_risk"][:2]) == ["legal", "legal|governance"]
    page = paths[2].read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 1, "greedy labels have no probabilities"


@pytest.mark.slow
@pytest.mark.timeout(200)  # three processes
def test_the_command(labels, tmp_path, run_folder, fake_ollama):
    """
    From a shell, over scripted answers: two files apart, as JSON; a bad row ends it with status 1
    before anything is started, and an unknown model before anything is asked.
    """
    env = {**os.environ, "XDG_RUNTIME_DIR": str(run_folder), "XDG_DATA_HOME": str(tmp_path)}

    def run(*words, models="llama3.1"):
        return subprocess.run(
            [
                *(sys.executable, "-m", "urisk_nb.cli", "evaluate", *words),
                *("--url", fake_ollama.url, "--models", models),
                *("--out", str(tmp_path / "out")),
            ],
            capture_output=True,
            text=True,
            env=env,
            cwd=ROOT,
            timeout=60,
        )

    done = run(str(labels), f"again={labels}")
    assert done.returncode == 0, done.stderr
    assert "labels: 5 labeled sentences" in done.stdout
    assert "again: 5 labeled sentences" in done.stdout
    assert "Labeling labels (1 of 2), llama3.1, " in done.stderr
    assert (tmp_path / "out" / "evaluation.html").exists()
    done = run(str(labels), "--json")
    assert [file["file"] for file in json.loads(done.stdout)] == ["labels"]
    done = run(str(labels), models="llama3.1,nosuch")
    assert "'nosuch' could not be pulled" in done.stderr
    assert "Labeling" not in done.stderr  # what is measured before would be lost
    labels.write_text("text,risk,severity\nIt was fined.,illegal,3\n", encoding="utf-8")
    done = run(str(labels))
    assert done.returncode == 1
    assert "labels.csv: row 1 has the unknown risk 'illegal'" in done.stderr


def test_categories_of_the_readers_own(tmp_path, manager):
    """Of the labels, of what the model is asked, and of the corrections; the judge is left out."""
    (tmp_path / "desk.toml").write_text('[liquidity]\ndefinition = "cash"\n[sun]\ndefinition = "x"')
    own = read_taxonomy_file(tmp_path / "desk.toml")
    rows = [("It owes much.", "liquidity|sun", 4, "", ""), ("It rained.", "none", 0, "", "")]
    path = write_rows(tmp_path / "mine.csv", rows)
    with pytest.raises(errors.InputError, match="unknown risk 'sun'"):
        evaluate.read_files([str(path)])
    (file,) = evaluate.read_files([str(path)], taxonomy=own)
    found = evaluate.evaluate(evaluate.add_baselines(file), manager, taxonomy=own, label=label_sync)
    assert {one.model for one in found.evaluations} == {manager.model}
    greedy = found.evaluations[0]
    assert [one.label.risk for one in greedy.predictions] == ["liquidity", "none"]
    asked = manager.calls.records[-1].body.decode()
    assert "sun" in asked
    assert "governance" not in asked


def test_the_judge_is_not_measured_on_other_categories(tmp_path, labels, capsys):
    """Before any server is started; nor is a file read that is none."""
    (tmp_path / "desk.toml").write_text('[sun]\ndefinition = "x"')
    line = ["evaluate", str(labels), "--models", "urisk-judge", "--taxonomy"]
    assert cli.main([*line, str(tmp_path / "desk.toml")]) == 1
    assert "your taxonomy has others.\n  Fix: name other models" in capsys.readouterr().err
    assert cli.main([*line, str(tmp_path / "away.toml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_names_of_files(labels, tmp_path):
    """The name of a file, or the one that is given; each once."""
    assert [one.name for one in evaluate.read_files([str(labels), f"mine={labels}"])] == [
        "labels",
        "mine",
    ]
    with_sign = write_rows(tmp_path / "a=b.csv")
    assert [one.name for one in evaluate.read_files([str(with_sign)])] == ["a=b"]
    with pytest.raises(errors.InputError, match="two files have the name 'labels'") as error:
        evaluate.read_files([str(labels), str(labels)])
    assert error.value.fix.endswith(f"other={labels}")
    with pytest.raises(errors.InputError) as error:
        evaluate.read_files([f"mine={labels}", f"mine={with_sign}", str(labels)])
    assert error.value.fix.endswith(f"other={with_sign}"), "a file with that name, not the last one"


def test_a_file_that_is_none(tmp_path):
    """What was seen, and what is wanted."""
    with pytest.raises(errors.InputError, match="cannot be read"):
        evaluate.read(tmp_path / "nowhere.csv")


SAVED = (
    "text,risk,severity\nThe bank lost Köln – its main client.,business,4\nWe lease it.,none,0\n"
)


@pytest.mark.parametrize(
    "content",
    [
        SAVED.encode("cp1252"),
        SAVED.encode("utf-16"),
        SAVED.replace(",", ";").encode(),
        b"sep=;\r\n" + SAVED.replace(",", ";").replace("\n", "\r\n").encode(),
        SAVED.replace(",", "\t").encode(),
        SAVED.replace("business", " Business").replace("none", "NONE").encode(),
        SAVED.replace("text,risk,severity", "Text, Risk ,SEVERITY").encode(),
        f"{SAVED},,\n\n ,,\n".encode(),
        SAVED.replace(",4", ",4.0").encode(),
        (SAVED + SAVED.partition("\n")[2]).encode(),
    ],
)
def test_a_file_as_spreadsheet_programs_save_it(content, tmp_path):
    """Encoding, separator, capitals, blank rows, 4.0 for 4; a repeated row counts once."""
    (tmp_path / "mine.csv").write_bytes(content)
    (file,) = evaluate.read_files([str(tmp_path / "mine.csv")])
    assert [(one.text, one.risk, one.severity) for one in file.items] == [
        ("The bank lost Köln – its main client.", "business", 4),
        ("We lease it.", "none", 0),
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("We lease it.,business,3\n", "two rows have the text 'We lease it.' and different labels"),
        ("Rent, and rates, rose.,none,0\n", "line 4: 5 fields, where the header has 3"),
        (",legal,2\n", "row 3 has no text"),
        ("It rains.,reputation,2\n", "'reputation'"),
    ],
)
def test_a_row_that_cannot_be_meant(rows, said, tmp_path):
    """The error names the file and the row."""
    (tmp_path / "mine.csv").write_text(SAVED + rows, encoding="utf-8")
    with pytest.raises(errors.InputError, match=re.escape(said)) as caught:
        evaluate.read_files([str(tmp_path / "mine.csv")])
    assert "mine.csv" in str(caught.value)
