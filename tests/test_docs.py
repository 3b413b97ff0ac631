"""The documents say what the code does: settings, dependencies, commands."""

import ast
import doctest
import importlib
import inspect
import re
import tomllib

import pandas as pd
import pytest

from harness import ROOT
from sources import FILES, parse
from urisk_nb.chat.prompts import HOUSE_PROMPT
from urisk_nb.risk.params import JUDGE_REVIEW_BELOW
from urisk_nb.risk.row_warnings import WARNINGS
from urisk_nb.session import open_run
from urisk_nb.settings import Settings
from urisk_nb.table.charts import Charts
from urisk_nb.table.frames import Frames
from urisk_nb.table.risk_table import Report

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Read where they are used, without pydantic: a run without evidence does not pay for it
OUTSIDE = {"URISK_STATIC", "URISK_JOURNAL", "URISK_SYSTEM_PROMPT", "URISK_WORKERS"}


def documented():
    rows = README.partition("<!-- settings:")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| ((?:OLLAMA|URISK|SSL)_\w+) \|([^|]*)\|", rows, re.MULTILINE))


def test_every_setting_stands_in_the_readme_with_its_default():
    """
    No setting is undocumented, and no documented one is missing or has another default.
    """
    rows = documented()
    fields = {field.alias: field.default for field in Settings.model_fields.values()}
    assert set(rows) == set(fields) | OUTSIDE
    for name, default in fields.items():
        shown = rows[name].strip()
        if name == "URISK_PARALLEL":
            continue  # None: the server's slots, which are 1 where nothing else is said
        assert shown == (
            ""
            if default is None
            else str(default).lower()
            if isinstance(default, bool)
            else f"{default:g}"
            if isinstance(default, float)
            else str(default)
        )


def names_in_tables(page, heading):
    """The names in the first cells of the tables with this heading; `r_a` ... `r_b` is two."""
    tables = re.findall(
        rf"^\| {heading} \|.*\n\|[-|:]+\|\n((?:\|.*\n)+)",
        (ROOT / page).read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    cells = [row.split("|")[1] for table in tables for row in table.splitlines()]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_column_of_the_table_is_documented():
    """docs/metrics.md has each column that a run can have, each once, and no other."""
    days = pd.bdate_range("2024-01-01", periods=40)
    closes = pd.Series(range(100, 140), days, dtype=float)
    frame = pd.concat({("Close", "A"): closes, ("Volume", "A"): closes}, axis=1)
    news = pd.DataFrame({"ticker": ["A"], "text": ["It was fined."], "date": [days[-1]]})
    run = open_run(
        "A=1",
        prices=frame,
        evidence=news,
        previous=news,
        benchmark="equal",
        params={"labels": "calibrated"},
    )
    columns = list(run.table().columns)
    ratings = [name for name in columns if name.startswith("r_")]
    named = names_in_tables("docs/metrics.md", "column")
    assert [ratings[0], ratings[-1]] == [name for name in named if name in ratings]
    assert len(set(named)) == len(named)
    assert {*named, *ratings} == set(columns)


def test_every_chart_is_documented_with_its_numbers():
    """docs/charts.md has each chart once, and each frame that it names is there."""
    named = names_in_tables("docs/charts.md", "chart")
    public = [name for name in vars(Charts) if not name.startswith("_")]
    assert sorted(named) == sorted(public)
    page = (ROOT / "docs/charts.md").read_text(encoding="utf-8")
    assert set(re.findall(r"table\.charts\.(\w+)", page)) == set(public)
    frames = {name for name in vars(Frames) if not name.startswith("_")}
    assert set(re.findall(r"table\.frames\.(\w+)", page)) == frames


def test_every_flag_of_a_row_is_documented():
    """docs/metrics.md has each flag that a row can have, each once, and no other."""
    named = names_in_tables("docs/metrics.md", "flag")
    assert len(set(named)) == len(named)
    assert set(named) == set(WARNINGS)


def test_every_column_of_the_findings_is_documented():
    """The docstring of the report names each column of the findings and of the judgements."""
    for name in (*Report().findings.columns, *Report().judgements.columns):
        assert re.search(rf"\b{name}\b", inspect.getdoc(Report)), name


def test_the_default_threshold_of_the_judge_is_documented():
    """docs/filings.md says which labels of urisk-judge are to review where nothing is given."""
    page = " ".join((ROOT / "docs/filings.md").read_text(encoding="utf-8").split())
    assert re.findall(r"`urisk-judge` \(([0-9.]+)\)", page) == [f"{JUDGE_REVIEW_BELOW:g}"]


def test_the_system_prompt_is_documented_word_for_word():
    """What is sent without being written by the user can be read."""
    page = (ROOT / "docs/notebook.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- house prompt:")[2].partition("```text\n")[2].partition("```")[0]
    assert " ".join(shown.split()) == HOUSE_PROMPT


def test_environment_yml_agrees_with_pyproject():
    """
    The conda file brings the same Python, Ollama, and the project by pip with extras that exist.

    What else it names is a package that these extras need, with the same lower bound.
    """
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    lines = re.findall(r"^ +- (.+)$", text, re.MULTILINE)
    extras = re.search(r"-e \.\[([\w,]+)\]", text)[1].split(",")
    declared = {
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    }
    assert "notebook" in extras
    assert f"python{PROJECT['requires-python']},<3.15" in lines
    assert {"pip", "git", "ollama"} <= set(lines)
    others = {
        line
        for line in lines
        if not line.startswith(("python>", "pip", "git", "ollama", "conda-forge", "-e "))
    }
    assert others <= declared


CI = (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "part",
    [
        "-m venv --without-pip .venv",
        "-m pip --python .venv install",
        ".venv/bin/python -m pytest -n 3 -m ",
        ".venv/bin/python -m pytest -m timing",
    ],
)
def test_ci_runs_the_readme_commands(part):
    """
    The set-up and the test commands of .ci/run are the README's, with more extras at most.
    """
    assert part in CI
    assert part in README


def test_ci_runs_every_test_once():
    """
    Each test is in one pass of the gate, whichever of the markers it has; so in the README's.
    """
    readme = README.partition("## Tests\n")[2].partition("\n## ")[0]
    for commands in (CI, re.search(r"```bash\n(.*?)```", readme, re.DOTALL)[1]):
        passes = re.findall(r'pytest (?:-n \d )?-m (?:"([^"]+)"|(\w+))', commands)
        for slow in (True, False):
            for timing in (True, False):
                chosen = [
                    eval(quoted or word, {"slow": slow, "timing": timing})
                    for quoted, word in passes
                ]
                assert sum(chosen) == 1, (slow, timing)


@pytest.mark.parametrize(
    "extra", ["notebook", "embedded", "service", "judge", "train", "docs", "test", "dev"]
)
def test_extras_exist(extra):
    """
    The extras that people were promised are there, each with lower bounds.
    """
    assert all(">=" in requirement for requirement in PROJECT["optional-dependencies"][extra])
    assert all(">=" in requirement for requirement in PROJECT["dependencies"])


def test_public_names_are_a_sorted_list_that_resolves():
    """
    urisk_nb.__all__ is sorted, and each name is there when it is asked for.
    """
    import urisk_nb

    assert urisk_nb.__all__ == sorted(urisk_nb.__all__)
    for name in urisk_nb.__all__:
        assert getattr(urisk_nb, name) is not None
        assert name in dir(urisk_nb)


MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for path in FILES
    if path.name != "__main__.py"
)


def test_examples_in_docstrings_run():
    """
    What a docstring shows is what happens.
    """
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for name in MODULES:
        for shown in finder.find(importlib.import_module(name)):
            if shown.examples:  # most have none, and the runner takes its time for each
                runner.run(shown)
    assert runner.tries > 20
    assert runner.failures == 0


def find_undocumented(name):
    """What the module has in its __all__, defines itself and does not document."""
    module = importlib.import_module(name)
    if not module.__doc__:
        yield name
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        is_code = inspect.isclass(value) or inspect.isfunction(value)
        if is_code and value.__module__ == name and not inspect.getdoc(value):
            yield f"{name}.{public}"


def test_what_is_public_is_documented():
    """
    Each module, and each function and class in its __all__ that it defines, has a docstring.
    """
    assert [missing for name in MODULES for missing in find_undocumented(name)] == []


NOT_A_VERB = {
    *("A", "An", "The", "Whether", "What", "How", "All", "Each", "Every", "No", "Its", "It"),
    *("Where", "Who", "When", "One", "Those", "Nothing", "Names", "Seconds", "Bytes"),
}


def find_first_words(path):
    """List (function, first word of its docstring) for each public function of a file."""
    for node in ast.walk(parse(path)[1]):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_value = any("property" in ast.unparse(one) for one in node.decorator_list)
        docstring = ast.get_docstring(node)
        if docstring and not is_value and not node.name.startswith("_"):
            yield node.name, docstring.split()[0]


def test_public_docstrings_begin_with_a_verb():
    """What a public function does stands first: "Return the ...", not "The ..."."""
    assert [
        f"{path.name}: {name}"
        for path in FILES
        for name, word in find_first_words(path)
        if word in NOT_A_VERB
    ] == []


FRONT_ENDS = [
    *("JupyterLab", "Notebook 7", "`jupyter console`", "`ipython`", "papermill", "nbmake"),
    *("nbconvert", "`ipython script.ipy`", "nbval"),
]


def test_the_matrix_of_front_ends_names_tests_that_exist():
    """Each cell names a test of this project, or says that nobody tried it."""
    page = (ROOT / "docs/notebook.md").read_text(encoding="utf-8")
    matrix = page.partition("<!-- front ends:")[2].partition("\n\n")[0]
    head, _, *rows = [line.strip("| ").split(" | ") for line in matrix.splitlines()[1:]]
    assert set(FRONT_ENDS) <= {row[0] for row in rows}
    names = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for row in rows:
        assert len(row) == len(head), row
        for cell in row[1:]:
            named = re.findall(r"`(test_\w+)`", cell)
            assert named or cell == "not tried", row
            assert set(named) <= names, cell
        if row[0] in FRONT_ENDS:
            assert "test_" in row[head.index("failed run fails")], row
