"""The example notebooks run from top to bottom, and what they show is what is stored in them."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from harness import ROOT
from urisk_nb import RiskParams, assess

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_a_notebook_runs_as_stored(path, fake_ollama):
    """
    nbval on the fake Ollama: no cell fails, and each output that does not depend on a model is
    the stored one.
    """
    env = {**os.environ, "OLLAMA_URL": fake_ollama.url, "URISK_STATIC": "1"}
    # the plugin is off in pyproject.toml, since no other test needs it
    words = ["-m", "pytest", "-q", "-p", "nbval.plugin", "--nbval", "--nbval-current-env"]
    words += ["--nbval-cell-timeout=60", "-p", "no:cacheprovider", "-W", "default"]
    done = subprocess.run(
        [sys.executable, *words, str(path)],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_readme_and_the_quickstart_name_every_notebook():
    """A notebook that nothing links is not found."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = NOTEBOOKS[0].read_text(encoding="utf-8")
    assert not [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in readme]
    assert not [path.name for path in NOTEBOOKS[1:] if f"({path.name})" not in first]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_say_who_answered(path):
    """
    What a model said is stored with the note that belongs to it, and no stored output is an error.
    """
    cells = [
        cell
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
    judged = [
        str(output["data"]) for output in outputs if "labeled by" in str(output.get("data", ""))
    ]
    assert bool(judged) == any(
        "%%risk" in cell["source"][0] and "--no-llm" not in cell["source"][0] for cell in cells
    )
    assert all("urisk-judge" in text for text in judged)
    started = [str(cell["outputs"]) for cell in cells if "%urisk_start" in "".join(cell["source"])]
    assert started or not judged
    assert all("demo model" in one for one in started)


def test_the_book_of_the_notebook_shows_what_it_says():
    """
    Notebook 04: the short market is a hedge, and of the methods at 1 % only the Gaussian one is
    rejected; it was exceeded about twice as often as expected.
    """
    prices = pd.read_csv(
        ROOT / "notebooks/data/portfolio_prices.csv", index_col="date", parse_dates=True
    )
    book = {"ALDR": 0.5, "BORO": 0.3, "CEDR": 0.4, "MKT": -0.2}
    table = assess(book, prices=prices, params=RiskParams(alpha=(0.05, 0.01)))
    assert table["comp_es"].lt(0).tolist() == [False, False, False, True]
    assert table.portfolio["var_99_filtered"] > table.portfolio["var_99"]
    far = table.backtest().query("alpha == 0.01").set_index("method")
    assert far.index[far["p_value"] < 0.05].tolist() == ["gaussian"]
    assert 1.8 < far.loc["gaussian", "exceedances"] / far.loc["gaussian", "expected"] < 2.4


@pytest.fixture(scope="module")
def read_reports():
    """The annual reports of notebook 06, read without a model."""
    return assess(
        ["HLVN", "TSRD"],
        evidence=ROOT / "notebooks/data/annual_reports",
        params=RiskParams(llm=False),
    )


def test_the_annual_reports_raise_the_alerts_that_they_were_written_for(read_reports):
    """
    Doubt, breach, weakness and notice are alerts. A customer's chapter 11, what could be and a
    dismissed lawsuit are none, and the healthy company has none.
    """
    alerts = pd.DataFrame(read_reports.report.meta["alerts"])
    assert set(zip(alerts["ticker"], alerts["family"], strict=True)) == {
        ("HLVN", family) for family in ("survival", "default", "accounts", "listing")
    }
    assert (
        not alerts["quote"]
        .str.contains(r"[Cc]hapter 11|could (?!not be met)|dismissed|recall")
        .any()
    )


def test_last_years_annual_report_was_milder(read_reports):
    """The two wordings of one statement stand beside each other."""
    changes = read_reports.changes("HLVN")
    old = changes[changes["change"] == "changed"].set_index("quote")["old_quote"]
    rest = "our cash, our cash flow from operations and the revolving facility will be sufficient"
    found = old[old.index.str.startswith(f"We do not believe that {rest}")]
    assert found.item().startswith(f"We believe that {rest}")
    gone = changes[changes["change"] == "gone"]["old_quote"]
    assert gone.str.contains("we expect to refinance them before then").sum() == 1
