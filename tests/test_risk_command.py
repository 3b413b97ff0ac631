"""`urisk risk`: a nightly job. What it prints and writes, and with which status it ends."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import openpyxl
import pandas as pd
import pytest

from harness import ROOT, eventually
from urisk_nb import RiskTable, cli
from urisk_nb.errors import ServerNotRunning
from urisk_nb.llm.manager import LLMManager
from urisk_nb.notebook import magics
from urisk_nb.risk_command import ARGUMENTS
from urisk_nb.run_options import FILE_OPTIONS, list_run_options

DAYS = pd.bdate_range("2024-01-01", periods=60)
CELL = "NVDA=0.4  # chips\nMSFT=0.6\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory: prices, evidence and a list of tickers."""
    rng = np.random.default_rng(1)
    closes = {name: 100 * np.cumprod(1 + rng.normal(0, 0.01, 60)) for name in ("NVDA", "MSFT")}
    pd.DataFrame(closes, index=DAYS).to_csv(tmp_path / "px.csv")
    (tmp_path / "filings").mkdir()
    (tmp_path / "filings" / "NVDA.txt").write_text("It was fined 3 million dollars in May.")
    (tmp_path / "tickers.txt").write_text(CELL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return tmp_path


@pytest.fixture
def risk(capsys):
    """Run `urisk risk` in this process."""

    def run(*words):
        status = cli.main(["risk", *words])
        said = capsys.readouterr()
        return SimpleNamespace(status=status, out=said.out, err=said.err)

    return run


def test_a_job_prints_the_table_and_writes_its_files(risk, folder):
    files = ("--report", "r.html", "--excel", "r.xlsx", "--csv", "r.csv", "--parquet", "r.parquet")
    done = risk("tickers.txt", "--prices", "px.csv", *files)
    assert (done.status, done.err) == (0, "")
    assert "NVDA" in done.out
    assert pd.read_csv("r.csv")["weight"].tolist() == [0.4, 0.6]
    assert openpyxl.load_workbook("r.xlsx").sheetnames == [
        *("table", "findings", "portfolio", "provenance"),
    ]
    back = RiskTable.from_parquet("r.parquet")
    assert list(back.index) == ["NVDA", "MSFT"]
    assert back.report.meta["run_id"] in (folder / "r.html").read_text(encoding="utf-8")


def test_weights_episodes_and_factors_are_in_the_files(risk, folder):
    line = ("tickers.txt", "--prices", "px.csv", "--factors", "MSFT", "--stress")
    files = ("--excel", "r.xlsx", "--parquet", "r.parquet", "--report", "r.html")
    done = risk(*line, "dip=2024-02-01:2024-03-01", *files)
    assert (done.status, done.err) == (0, "")
    names = openpyxl.load_workbook("r.xlsx").sheetnames
    assert names[2:] == ["portfolio", "stress", "factors", "provenance"]
    back = RiskTable.from_parquet("r.parquet")
    assert back.portfolio["holdings"] == 2
    assert list(back.report.prices.columns) == ["NVDA", "MSFT"]
    assert "drawdown of NVDA" in (folder / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words", [("tickers.txt",), ("-",), ("NVDA=0.4,MSFT=0.6",), ("NVDA=0.4", "MSFT=0.6")]
)
def test_tickers_are_a_file_or_standard_input_or_words(words, risk, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(CELL))
    done = risk(*words, "--prices", "px.csv", "--json")
    assert [row["weight"] for row in json.loads(done.out)["rows"]] == [0.4, 0.6]


def test_a_file_that_exists_wins(risk, folder):
    (folder / "NVDA").write_text("MSFT")
    rows = json.loads(risk("NVDA", "--prices", "px.csv", "--json").out)["rows"]
    assert [row["ticker"] for row in rows] == ["MSFT"]
    (folder / "NVDA").unlink()
    (folder / "NVDA").mkdir()  # a folder is no list
    rows = json.loads(risk("NVDA", "--prices", "px.csv", "--json").out)["rows"]
    assert [row["ticker"] for row in rows] == ["NVDA"]


def test_json_is_one_object_without_nan(risk):
    done = risk("NVDA", "XYZ", "--prices", "px.csv", "--evidence", "filings", "--no-llm", "--json")
    whole = json.loads(done.out, parse_constant=pytest.fail)
    assert list(whole) == [
        *("rows", "portfolio", "backtest", "stress", "factors", "record", "messages", "error")
    ]
    assert whole["portfolio"] is whole["backtest"] is whole["stress"] is whole["factors"] is None
    first, missing = whole["rows"]
    assert first["as_of"] == str(DAYS[-1].date())
    assert first["sentences"] == 1
    assert (missing["status"], missing["vol_ann"], missing["last_obs"]) == ("no_data", None, None)
    assert whole["record"]["params"]["llm"] is False
    assert "messages" not in whole["record"]
    assert "XYZ" in whole["messages"]
    assert whole["error"] is None


def test_json_has_the_portfolio_episodes_and_factors(risk):
    """What the line asks for is in the output, with the numbers of the table."""
    line = "NVDA=0.4 MSFT=0.6 --prices px.csv --stress fall=2024-02-01:2024-02-29 --factors MSFT"
    line += " --parquet r.parquet --json"
    whole = json.loads(risk(*line.split()).out, parse_constant=pytest.fail)
    table = RiskTable.from_parquet("r.parquet")
    assert whole["portfolio"]["vol_ann"] == table.portfolio["vol_ann"]
    assert whole["portfolio"]["last_obs"] == str(DAYS[-1].date())
    assert [one["method"] for one in whole["backtest"]] == table.backtest()["method"].tolist()
    assert [one["ticker"] for one in whole["stress"]] == ["NVDA", "MSFT", "portfolio"]
    assert whole["stress"][2]["ret_total"] == table.stress()["ret_total"].iloc[2]
    betas = {one["ticker"]: one["beta_MSFT"] for one in whole["factors"]}
    assert betas == table.factors()["beta_MSFT"].to_dict()


def test_text_has_the_portfolio_episodes_and_factors(risk):
    """What the line asks for is printed, and only that."""
    line = "NVDA=0.4 MSFT=0.6 --prices px.csv"
    line += " --stress fall=2024-02-01:2024-02-29 --factors MSFT"
    done = risk(*line.split())
    titles = [one for one in done.out.splitlines() if one in ("portfolio", "stress", "factors")]
    assert titles == ["portfolio", "stress", "factors"]
    assert "fewer than 5 returns are expected in the tail of 5 %" in done.out
    assert re.search(r"^vol_ann +[\d.]+%  volatility a year$", done.out, re.MULTILINE)
    assert "\nfall     portfolio" in done.out
    plain = risk("NVDA", "MSFT", "--prices", "px.csv").out
    assert "portfolio" not in plain
    bad = risk("NVDA", "--prices", "px.csv", "--factors", "ff.csv")
    assert "Fix: name columns of the prices, such as NVDA, MSFT, or in a notebook" in bad.err


def test_strict_ends_with_3_where_a_row_is_not_fine(risk):
    assert risk("NVDA", "XYZ", "--prices", "px.csv").status == 0
    assert risk("NVDA", "XYZ", "--prices", "px.csv", "--strict").status == 3
    assert risk("NVDA", "MSFT", "--prices", "px.csv", "--strict").status == 0


@pytest.mark.parametrize(
    ("words", "message", "fix"),
    [
        (("none.txt", "--prices", "px.csv"), "there is no file 'none.txt'", "urisk risk NVDA"),
        (("a.txt", "b.txt", "--prices", "px.csv"), "stands beside other words", "name the tickers"),
        ((",", "--prices", "px.csv"), "names no ticker", "NVDA, MSFT=0.3"),
        (("NVDA",), "neither --prices nor --evidence", "--prices prices.csv"),
        (("NVDA", "--prices", ""), "--prices is empty", "give a path"),
        (("NVDA", "--prices", "p", "--previous", "x"), "without --evidence", "--evidence filings/"),
        (("NVDA", "--prices", "px.csv", "--window", "3z"), "--window '3z'", "--window 2y"),
        (("NVDA", "--prices", "px.csv", "--parallel", "0"), "--parallel '0'", "1 to 256"),
        (("NVDA", "--prices", "px.csv", "--excel", "a.csv"), "--excel: ", "a.xlsx"),
        (("NVDA", "--prices", "px.csv", "--report", "no/r.html"), "--report: ", "mkdir -p no"),
        (("NVDA", "--prices", "px.csv", "--csv", "filings"), "--csv: ", "filings/risk"),
    ],
)
def test_a_line_that_is_wrong_ends_with_2_before_anything_is_read(
    words, message, fix, risk, monkeypatch
):
    monkeypatch.setattr("urisk_nb.session.open_run", lambda *_, **__: pytest.fail("read"))
    done = risk(*words)
    assert (done.status, done.out) == (2, "")
    first, second, *rest = done.err.splitlines()
    assert message in first
    assert "  Fix: " in second
    assert fix in done.err
    assert not rest


def test_an_option_that_does_not_exist_ends_with_2(risk):
    with pytest.raises(SystemExit) as ended:
        risk("NVDA", "--prices", "px.csv", "--nonsense")
    assert ended.value.code == 2


def test_data_that_cannot_be_read_ends_with_1(risk):
    done = risk("NVDA", "--prices", "none.csv")
    assert (done.status, done.out) == (1, "")
    assert "none.csv" in done.err
    assert "Fix: " in done.err


@pytest.fixture
def no_server(monkeypatch):
    async def fail(**_):
        raise ServerNotRunning("nothing answers at http://x.", fix="start it: ollama serve")

    monkeypatch.setattr(LLMManager, "initialize", fail)


def test_a_run_that_fails_prints_and_writes_what_was_computed(risk, no_server, folder):
    line = ("NVDA", "MSFT", "--prices", "px.csv", "--evidence", "filings", "--csv", "r.csv")
    done = risk(*line, "--json")
    assert done.status == 1
    assert (
        done.err
        == "\nServerNotRunning: nothing answers at http://x.\n  Fix: start it: ollama serve\n"
    )
    whole = json.loads(done.out)
    assert whole["rows"][0]["status"] == "not_run"
    assert whole["rows"][0]["vol_ann"] > 0
    assert whole["error"] == {
        "error": "ServerNotRunning",
        "message": "nothing answers at http://x.",
        "fix": "start it: ollama serve",
    }
    assert whole["record"]["failure"] == "nothing answers at http://x."
    assert pd.read_csv("r.csv")["vol_ann"].notna().all()
    assert "The run ended early: nothing answers" in risk(*line).out


def test_a_file_that_fails_after_the_run_keeps_the_first_error(
    risk, no_server, folder, monkeypatch
):
    """The run's own error is the last one; the file is named, too."""
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    done = risk("NVDA", "--prices", "px.csv", "--evidence", "filings", "--csv", "r.csv")
    assert done.status == 1
    assert "'r.csv' cannot be written: full." in done.err
    assert done.err.splitlines()[-2].startswith("ServerNotRunning")
    assert not (folder / "r.csv").exists()


def test_an_interrupt_ends_with_130_and_keeps_the_rows(risk, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("urisk_nb.risk_command._label", stop)
    done = risk("NVDA", "--prices", "px.csv", "--evidence", "filings", "--csv", "r.csv")
    assert done.status == 130
    assert "it was stopped" in done.out
    assert pd.read_csv("r.csv")["status"].tolist() == ["not_run"]


def test_categories_of_a_file(risk, folder):
    """The table has their columns; a wrong file is an error of two lines."""
    (folder / "desk.toml").write_text('[supply]\ndefinition = "parts"')
    line = ("NVDA", "--evidence", "filings", "--no-llm", "--parquet", "r.parquet", "--taxonomy")
    assert risk(*line, "desk.toml").status == 0
    table = RiskTable.from_parquet("r.parquet")
    assert [name for name in table.columns if name.startswith("r_")] == ["r_supply"]
    done = risk(*line, "away.toml")
    assert (done.status, done.out) == (1, "")
    assert "'away.toml': it cannot be read" in done.err
    done = risk(*line, "desk.toml", "--judge", "urisk-judge")
    assert "your taxonomy has others" in done.err
    assert risk(*line, "").status == 2


def test_shell_and_notebook_take_the_same_options():
    """Each option of %%risk is one of `urisk risk`, with the same help unless it takes a value."""
    notebook, shell = (list_run_options(in_shell=is_shell) for is_shell in (False, True))
    assert set(notebook) - set(shell) == {"--factor-returns", "--client"}  # about values
    assert set(shell) <= set(notebook)
    others = {flag for flag in shell if notebook[flag]["help"] != shell[flag]["help"]}
    values = {"--benchmark", "--stress", "--factors", "--taxonomy"}
    assert others == {"--prices", "--evidence", "--previous"} | values
    flags = set(magics.USAGES["risk"][2])
    assert flags == set(notebook) | {"--out", "--report", "--excel"}
    assert set(ARGUMENTS) - set(FILE_OPTIONS) - set(shell) == {
        *("tickers", "--url", "--engine", "--scheduler", "--json", "--strict"),
    }
    assert "variable" not in str(list(shell.values()))


def test_help_names_every_option(risk, capsys):
    with pytest.raises(SystemExit):
        risk("--help")
    said = capsys.readouterr().out
    assert all(flag in said for flag in ARGUMENTS if flag.startswith("--"))
    assert "%%risk cell" in said


# In a notebook ------------------------------------------------------------------------------------


def run_cell(line, cell="NVDA, MSFT"):
    prices = pd.read_csv("px.csv", index_col=0, parse_dates=True)
    shell = SimpleNamespace(user_ns={"px": prices}, user_ns_hidden={})
    args = magics.build_parser("risk").parse_line(line)
    return magics.MAGICS["risk"](shell, args, cell)


def test_a_cell_writes_the_same_files(folder):
    table = run_cell("--prices px --no-llm --report r.html --excel r.xlsx")
    assert table.report.meta["run_id"] in (folder / "r.html").read_text(encoding="utf-8")
    assert openpyxl.load_workbook("r.xlsx").sheetnames[0] == "table"


def test_a_cell_checks_the_path_before_the_data():
    with pytest.raises(ValueError, match=r"--report: .*does not exist"):
        run_cell("--prices there_is_no_such_variable --report no/r.html")


# With a server ------------------------------------------------------------------------------------


def clean_environment():
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "URISK_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "URISK_JOURNAL": "off"}


@pytest.mark.slow
def test_a_job_over_a_server(fake_ollama_with, folder):
    """Labels in the files and in the JSON; nothing but JSON on standard output, no progress."""
    server = fake_ollama_with(
        {
            "models": ["m"],
            "rules": [{"contains": "fined", "answer": {"risk": "legal", "severity": 3}}],
        }
    )
    line = f"risk tickers.txt --prices px.csv --evidence filings --url {server.url} --judge m"
    line += " --strict --json --report r.html --parquet r.parquet"
    done = subprocess.run(
        [sys.executable, "-m", "urisk_nb.cli", *line.split()],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = {row["ticker"]: row for row in json.loads(done.stdout)["rows"]}
    assert (rows["NVDA"]["top_risk"], rows["NVDA"]["r_legal"]) == ("legal", 3)
    assert rows["MSFT"]["status"] == "no_evidence"
    assert RiskTable.from_parquet("r.parquet").report.findings["risk"].tolist() == ["legal"]
    assert "3 million dollars" in (folder / "r.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_job_that_is_killed_keeps_what_was_computed(fake_ollama_with):
    """`kill` in the middle of a label: status 143, the table printed and written."""
    server = fake_ollama_with(
        {"models": ["m"], "rules": [{"contains": "3 million", "first_ms": 30000}]}
    )
    line = f"risk NVDA --prices px.csv --evidence filings --url {server.url} --judge m --csv r.csv"
    job = subprocess.Popen(
        [sys.executable, "-m", "urisk_nb.cli", *line.split()],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    try:
        eventually(lambda: server.counters()["in_flight"] > 0, 60, "a label is asked for")
        job.terminate()
        said, _ = job.communicate(timeout=20)
    finally:
        job.kill()
        job.wait(5)
    assert job.returncode == 143
    assert "it was stopped" in said
    assert pd.read_csv("r.csv")["status"].tolist() == ["not_run"]
