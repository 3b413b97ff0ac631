"""The command that measures, and its page: what is shown of a figure, and what is never hidden."""

import importlib
import json
import re
import subprocess
import sys

import pytest

from harness import ROOT

COMMAND = ROOT / "benchmarks/performance.py"
MACHINE = {
    "cpu": "Abacus",
    "cores": 2,
    "memory_gb": 8,
    "gpu": "no GPU",
    "system": "Linux 6",
    "python": "3.11.7",
    "versions": {"urisk-nb": "0.1.0"},
}
MARKS = """By hand, <!-- = ask@percent -->old<!-- / --> and <!-- = judge rate -->old<!-- / -->.

<!-- made: goals -->
old
<!-- end -->

Also by hand.

<!-- made: machine -->
<!-- end -->
"""


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """The modules of the benchmarks stand beside each other, as the command has them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def page():
    return importlib.import_module("page")


@pytest.fixture
def command():
    return importlib.import_module("performance")


def figure(value, unit="x", **rest):
    return {"value": value, "unit": unit, "conditions": "as here", **rest}


def group(*, status="done", why="", quick=False, figures=None, curves=None, notes=()):
    """What the results have of a group."""
    entry = {"began_at": "2026-03-01T10:00:00+00:00", "load": 0.1, "seconds": 60.0}
    measured = {"figures": figures or {}, "curves": curves or {}, "notes": list(notes)}
    has = {"measured": measured} if status == "done" else {}
    return {**entry, **has, "status": status, "why": why, "quick": quick}


def results(**groups):
    return {"machine": MACHINE, "groups": groups}


def row_of(text, start):
    """The cells of the table's row that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


# The page -----------------------------------------------------------------------------------------


def test_a_figure_stands_beside_its_goal_with_its_sides_and_its_spread(page):
    asked = figure(1.0207, low=1.01, high=1.04, rounds=9, ours=0.51, anchor=0.5)
    text = page.render(MARKS, results(ask=group(figures={"ask": asked})))
    assert row_of(text, "`%%ask`") == [
        *("`%%ask` over raw httpx", "≤ 1.03 x", "1.021 x", "met"),
        "0.51 s over 0.50 s; 1.010 to 1.040 x, 9 rounds; as here",
    ]
    assert "By hand, <!-- = ask@percent -->2.1 %<!-- / --> and" in text


def test_a_missed_goal_is_called_missed(page):
    text = page.render(MARKS, results(ask=group(figures={"ask": figure(1.0301)})))
    assert row_of(text, "`%%ask`")[3] == "**missed**"


def test_a_goal_of_nothing_is_met_by_nothing_alone(page):
    asked = {"filing again asked": figure(1, "sentences")}
    text = page.render(MARKS, results(filing=group(figures=asked)))
    assert row_of(text, "sentences asked the second")[1:4] == [
        *("0 sentences", "1 sentences", "**missed**"),
    ]


def test_what_was_not_measured_is_said_with_the_reason(page):
    """No row is left out: neither of a group that never ran nor of one that failed."""
    why = "HTTPError: no answer, 4 > 3"
    text = page.render(MARKS, results(ask=group(status="failed", why=why)))
    assert row_of(text, "`%%ask`")[2:] == ["not measured", "", why]
    assert row_of(text, "`generate`")[2:] == ["not measured", "", ""]
    assert "<!-- = judge rate -->not measured<!-- / -->" in text
    assert f"- **Left out**: ask (failed): {why}" in text
    assert "ollama-python is not installed" not in text
    noted = results(ask=group(notes=["ollama-python is not installed"]))
    told = page.render(MARKS, noted)
    assert row_of(told, "`%%ask`")[4] == "ollama-python is not installed"
    assert "- **Left out**: ask: ollama-python is not installed" in told


def test_the_text_of_an_error_stays_in_its_cell(page):
    failed = results(ask=group(status="failed", why="KeyError: 'a | b' <b>"))
    text = page.render(MARKS, failed)
    assert r"| not measured | | KeyError: 'a \| b' &lt;b> |" in text


def test_small_sizes_meet_no_goal(page):
    """A quick run says nothing of the goal, and no sentence quotes it."""
    text = page.render(MARKS, results(ask=group(quick=True, figures={"ask": figure(1.01)})))
    assert row_of(text, "`%%ask`")[2:4] == ["1.010 x", "small sizes"]
    assert "<!-- = ask@percent -->not measured<!-- / -->" in text
    assert "**Small sizes** (`--quick`), not compared with the goals: ask" in text


def test_what_is_written_by_hand_stays(page):
    """A page that is made twice is the same, and only what is between the marks is new."""
    once = page.render(MARKS, results())
    assert page.render(once, results()) == once
    assert "old" not in once
    kept = re.sub(r"(-->).*?(<!-- (end|/) -->)", r"\1\2", once, flags=re.DOTALL)
    assert kept == re.sub(r"(-->).*?(<!-- (end|/) -->)", r"\1\2", MARKS, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("mark", "seen"),
    [
        ("<!-- made: gaols -->\n<!-- end -->", "'gaols' is none of goals"),
        ("It is <!-- = aks --><!-- / -->", "'aks' is no figure"),
        ("It is <!-- = ask@half --><!-- / -->", "'half' is none of percent"),
        ("It is\n  <!-- = ask --><!-- / -->", "a word has to stand before"),
    ],
)
def test_a_mark_that_nothing_is_made_for_is_an_error(page, mark, seen):
    """And one that begins a line, which Markdown would take for HTML."""
    with pytest.raises(page.UnknownMark, match=seen):
        page.render(mark, results(ask=group(figures={"ask": figure(1.01)})))


def test_the_machine_and_the_versions_stand_in_the_page(page):
    text = page.render(MARKS, results(ask=group()))
    assert "- **Machine**: Abacus, 2 cores, 8 GB of memory, no GPU, Linux 6" in text
    assert "- **Versions**: Python 3.11.7, urisk-nb 0.1.0" in text
    assert "- **Run**: 2026-03-01, 1 minutes; load average before each group 0.1 to 0.1" in text


def test_the_stored_page_is_that_of_the_stored_results(page, command):
    """Nobody edits a figure in the page, and every mark in it is known."""
    stored = command.PAGE.read_text(encoding="utf-8")
    path = ROOT / "benchmarks/results.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert page.render(stored, found) == stored


def test_every_row_of_the_page_is_measured_by_some_group(command):
    rows = importlib.import_module("goals").ROWS
    assert {row.group for row in rows.values()} <= set(command.GROUPS)


# Ratios -------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_pairs():
    """A round in which the machine was slow for both does not count more than another."""
    records = importlib.import_module("records")
    found = records.compare([1.0, 30.0, 1.2], [1.0, 20.0, 1.0], "")
    assert (found.value, found.low, found.high, found.rounds) == (1.2, 1.0, 1.5, 3)
    assert (found.ours, found.anchor) == (1.2, 1.0)


def test_ways_take_turns_in_both_directions():
    records, order = importlib.import_module("records"), []
    ways = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    records.take_turns(ways, 2)
    assert order == list("abccba")


# The command --------------------------------------------------------------------------------------


def test_results_of_another_machine_are_not_mixed_in(command, tmp_path, capsys):
    path = tmp_path / "results.json"
    command.write_results(path, results(ask=group()))
    assert command.read_results(path, MACHINE)["groups"]
    other = {**MACHINE, "cores": 64}
    assert command.read_results(path, other) == {"machine": other, "groups": {}}
    assert "another machine (cores)" in capsys.readouterr().err


def test_a_group_that_fails_says_why(command, tmp_path, monkeypatch):
    """Neither a fault of the benchmark nor a package that is missing ends the others."""
    (tmp_path / "broken.py").write_text("def measure_ask(quick):\n    raise ValueError('no luck')")
    (tmp_path / "new.py").write_text(
        "from records import Figure, Measured\n"
        "def measure_ask(quick):\n"
        "    one = Figure(value=1, unit='s', conditions='')\n"
        "    return Measured(figures={'unheard of': one})"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(command, "HERE", tmp_path)
    said = {}
    for name in ("broken", "new", "gone"):
        monkeypatch.setitem(command.GROUPS, "ask", command.Group(module=name, limit_s=5))
        command.measure_into("ask", tmp_path / "out", quick=True)
        said[name] = json.loads((tmp_path / "out").read_text())
    assert said["broken"] == {"status": "failed", "why": "ValueError: no luck"}
    assert said["new"]["why"] == "LookupError: goals.py has no row for unheard of"
    assert said["gone"] == {"status": "skipped", "why": "benchmarks/gone.py does not exist"}


def test_an_error_names_no_file_of_the_machine(command):
    """Its text is in the page."""
    seen = OSError("cannot read '/home/me/x.json' at http://127.0.0.1:1/api/tags\nmore")
    assert command.describe_error(seen) == (
        "OSError: cannot read 'a file' at http://127.0.0.1:1/api/tags"
    )


@pytest.mark.slow
def test_a_group_that_takes_too_long_is_ended(command, monkeypatch):
    monkeypatch.setattr(command, "QUICK_LIMIT_S", 0.05)
    entry = command.run_group("servers", quick=True)
    assert (entry["status"], entry["why"]) == ("too slow", "it took longer than 0.05 s")


def test_small_sizes_are_kept_out_of_the_page(command, capsys):
    with pytest.raises(SystemExit):
        command.parse(["--quick", "--write"])
    assert "needs another page" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_small_groups_are_measured_and_the_page_is_written(tmp_path):
    """`--only` measures these groups and keeps what was there; the page and the plots are new."""
    places = ["--results", tmp_path / "results.json", "--page", tmp_path / "performance.md"]

    def run(*names):
        return subprocess.run(
            [sys.executable, COMMAND, "--quick", "--write", *places, "--only", *names],
            capture_output=True,
            text=True,
            timeout=150,
        )

    done = run("start", "servers")
    assert done.returncode == 0, done.stderr
    assert run("prices").returncode == 0
    stored = json.loads((tmp_path / "results.json").read_text())
    assert list(stored["groups"]) == ["start", "prices", "servers"]
    servers = stored["groups"]["servers"]["measured"]
    assert [one["value"] >= 1 for one in servers["figures"].values()] == [True] * 4
    assert stored["groups"]["start"]["measured"]["figures"]["load_ext heavy"]["value"] == 0
    assert len(stored["groups"]["prices"]["measured"]["curves"]["tickers"]["y"]) == 2
    assert set(stored["machine"]["versions"]) >= {"urisk-nb", "numpy"}
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert row_of(text, "two servers")[3] == "small sizes"
    assert (tmp_path / "images/performance/servers.svg").exists()


# The plots ----------------------------------------------------------------------------------------


CURVE = {"x": [1, 10, 100], "y": [0.1, 0.4, 4.0], "ideal": None, "conditions": "as here"}


@pytest.mark.slow
def test_plots_are_small_and_the_same_each_time(tmp_path):
    """Bytes depend on the figures alone; what was not measured is said in the plot."""
    draw_all = importlib.import_module("plots").draw_all
    full = results(
        prices=group(curves={"tickers": CURVE, "history": CURVE}),
        documents=group(curves={"notes": {**CURVE, "ideal": [0.1, 0.2, 3.0]}}),
        ask=group(figures={"ask": figure(1.02, low=1.0, high=1.03)}),
    )
    first, again = (draw_all(full, tmp_path / name) for name in ("a", "b"))
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_size < 30_000
    texts = {path.stem: path.read_text(encoding="utf-8") for path in first}
    assert "not measured" not in texts["prices"]
    assert texts["documents"].count("not measured") == 1
    assert texts["servers"].count("not measured") == 2
    assert "1,000" not in texts["prices"]
    assert ">100<" in texts["prices"]


def test_the_stored_page_shows_every_plot_and_no_other(command):
    text = command.PAGE.read_text(encoding="utf-8")
    shown = set(re.findall(r"\(images/performance/(\w+)\.svg\)", text))
    stored = {path.stem for path in (ROOT / "docs/images/performance").glob("*.svg")}
    assert shown == stored
    assert stored
