"""
What people see before the code: plain pages whose links lead somewhere, and forms and workflows
that parse.
"""

import ast
import itertools
import re
import tomllib
from fnmatch import fnmatch

import pytest
import yaml

from harness import ROOT
from test_architecture import LAYERS
from urisk_nb.llm.dialects import ollama, openai
from urisk_nb.llm.dialects.dialect import Feature

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("training/*.md")]
)
YAML = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob(".github/**/*.yml"),
        ROOT / ".pre-commit-config.yaml",
        ROOT / "environment.yml",
    ]
)
MAX_WORDS = 45
MAX_MEAN_WORDS = 20


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text):
    """
    The sentences of a page: no code, tables, headings, pictures or comments; a piece of code is one
    word.
    """
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"``.+?``|`[^`]+`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", lambda link: link[1][:1].upper() + link[1][1:], text)
    text = re.sub(r"^(\||#|!|<|</).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*([-*]|\d+\.)\s+", "\n", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        joined = re.sub(r"[*_]{1,2}(?=\S)|(?<=\S)[*_]{1,2}", "", " ".join(paragraph.split()))
        for sentence in re.split(r"(?<=[.!?])\s+(?=[\"(A-Z0-9]|code)|(?<=[.!?])$", joined):
            if words := re.findall(r"\S*\w\S*", sentence):
                yield len(words), sentence


def test_sentences_are_counted_as_a_reader_counts_them():
    """
    Code, tables and headings are no prose; a figure's point ends no sentence.
    """
    words = "One two `x = 1` four. Five 1.5 seven!"
    page = f"# A head\n\n{words}\n\n| a | b |\n\n```\nno no\n```\n- Eight.\n"
    assert [count for count, _ in prose(page)] == [4, 3, 1]


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_written_in_short_sentences(name):
    """
    A page has fewer than 20 words a sentence on average, and none that has to be read twice.
    """
    sentences = list(prose(read(name)))
    long = [sentence for count, sentence in sentences if count > MAX_WORDS]
    assert long == []
    assert sum(count for count, _ in sentences) / len(sentences) < MAX_MEAN_WORDS


@pytest.mark.parametrize("name", PAGES)
def test_links_of_pages_lead_somewhere(name):
    """
    Each link to a file of the project names one that exists, and a heading that is there.
    """
    page = ROOT / name
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))
    ):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        aim = (page.parent / path) if path else page
        assert aim.exists(), f"{name} links to {path}, which is not there"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", aim.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{name} links to #{anchor}, which {path or name} does not have"


@pytest.mark.parametrize("name", YAML)
def test_yaml_parses(name):
    """
    Workflows, forms and hooks are YAML, each a mapping with something in it.
    """
    assert isinstance(yaml.safe_load(read(name)), dict)


@pytest.mark.parametrize("name", [name for name in YAML if "/workflows/" in name])
def test_workflows_are_whole(name):
    """
    Each step does something, each job that is waited for exists, each job has the least rights, and
    no secret is read.
    """
    text = read(name)
    flow = yaml.safe_load(text)
    assert flow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    for job in flow["jobs"].values():
        needs = job.get("needs", [])
        assert {*([needs] if isinstance(needs, str) else needs)} <= set(flow["jobs"])
        assert job["steps"]
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@\S+", step["uses"])


def test_scripts_that_workflows_run_are_there():
    """
    A workflow calls only scripts that the repository has.
    """
    called = {
        script
        for name in YAML
        if "/workflows/" in name
        for script in re.findall(r"\bbash (\S+)", read(name))
    }
    assert called
    assert [script for script in called if not (ROOT / script).is_file()] == []


def test_only_the_publishing_job_may_identify_itself():
    """
    A release is published by trusted publishing: one job has the right to it, in an environment of
    its own.
    """
    jobs = yaml.safe_load(read(".github/workflows/release.yml"))["jobs"]
    trusted = [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})]
    assert trusted == ["publish"]
    assert jobs["publish"]["environment"] == "release"
    assert set(jobs["publish"]["needs"]) == {"build", "gate"}


def test_the_gate_runs_on_the_oldest_and_the_newest_python():
    """
    CI's gate runs on the first and the last Python that pyproject.toml names.
    """
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))
    flow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert flow["jobs"]["gate"]["strategy"]["matrix"]["python"] == [named[0], named[-1]]
    assert {*named} <= {
        *re.findall(r'"(3\.\d+)"', read(".github/workflows/ci.yml")),
    }


def test_hooks_are_local():
    """
    pre-commit downloads nothing: each hook is a command of the repository's own environment.
    """
    repos = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    assert {hook["language"] for hook in repos[0]["hooks"]} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in repos[0]["hooks"])


FORMS = sorted(
    name for name in YAML if "/ISSUE_TEMPLATE/" in name and not name.endswith("config.yml")
)


@pytest.mark.parametrize("name", FORMS)
def test_issue_forms_are_whole(name):
    """
    A form has what the host asks for: a name, a description and a body whose fields have labels and
    ids.
    """
    form = yaml.safe_load(read(name))
    assert form["name"]
    assert form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)


ARCHITECTURE = read("ARCHITECTURE.md")
QUESTIONS = re.findall(r"^\| (.+\?) \| `([^`]+)` \| `([^`]+)` \|$", ARCHITECTURE, re.MULTILINE)


def test_architecture_draws_the_layers_that_are_tested():
    """
    The drawing has each name of the architecture test, in the same layer, the highest first.
    """
    block = re.search(r"<!-- layers.*?-->\n```text\n(.*?)```", ARCHITECTURE, re.DOTALL)[1]
    drawn = [re.match(r"L(\d+) +(.+?) +\| \S", line).groups() for line in block.splitlines()]
    assert drawn == sorted(drawn, key=lambda line: int(line[0]), reverse=True)
    layers = {number: {name for _, name in group} for number, group in _by_layer(drawn)}
    assert layers == dict(enumerate(LAYERS))


def _by_layer(drawn):
    names = [(int(number), name.rstrip("/")) for number, text in drawn for name in text.split()]
    return itertools.groupby(sorted(names), key=lambda pair: pair[0])


def test_architecture_answers_ten_questions():
    """
    A reader finds ten answers.
    """
    assert len({question for question, _, _ in QUESTIONS}) == 10


@pytest.mark.parametrize(("question", "path", "name"), QUESTIONS)
def test_each_answer_is_there(question, path, name):
    """
    The file that an answer names has the function, class or method that it names.
    """
    nodes = ast.parse(read(path)).body
    for part in name.split("."):
        found = next((node for node in nodes if getattr(node, "name", None) == part), None)
        assert found is not None, f"{path} has no {name}: who asks {question!r} is led astray"
        nodes = found.body


def test_files_that_pages_name_are_there():
    """
    Each file of the package, the tests, the docs or the benchmarks that a page names exists.
    """
    named = {
        (page, path)
        for page in PAGES
        for path in re.findall(
            r"`((?:urisk_nb|tests|docs|benchmarks|notebooks|training|\.ci)/[\w/.-]+)`", read(page)
        )
    }
    assert len(named) > 10
    assert [(page, path) for page, path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_page_on_servers_says_what_each_dialect_can_do():
    """
    The table has each feature once, with a yes where the dialect has it.
    """
    table = read("docs/servers.md").partition("<!-- features")[2].partition("\n\n")[0]
    said = {
        row[0]: tuple(cell == "yes" for cell in row[1:4])
        for row in (re.split(r"\s*\|\s*", line)[1:] for line in table.splitlines()[3:])
    }
    dialects = (ollama.DIALECT, openai.LLAMA_CPP, openai.DIALECT)
    assert said == {
        feature.value: tuple(dialect.can(feature) for dialect in dialects) for feature in Feature
    }


def test_the_source_distribution_has_what_the_tests_read():
    """
    Whoever unpacks it can run the tests: each page, workflow and form is included.
    """
    project = tomllib.loads(read("pyproject.toml"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    left_out = [
        name
        for name in [*PAGES, *YAML]
        if not any(
            fnmatch("/" + name, place) or f"/{name}".startswith(place + "/") for place in included
        )
    ]
    assert left_out == []
