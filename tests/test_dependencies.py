"""
What is imported is declared, what is declared is imported, and the core does without the extras.
"""

import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest

from harness import ROOT
from sources import FILES, FILES_OF_TESTS, list_imports

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Needed though no code of ours imports them.
NOT_IMPORTED = {
    "ipykernel": "runs the cells",
    "jupyterlab": "shows the notebooks",
    "anywidget": "plotly's widgets need it",
    "openpyxl": "pandas reads and writes Excel with it",
    "sniffio": "httpcore looks for it in every call, and walks sys.path where it is missing",
}


def name_of(requirement):
    """The package of a requirement, in the one spelling that all of its spellings share."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def names_of(*groups):
    """The packages of some extras; the core's without any."""
    lists = (
        [PROJECT["optional-dependencies"][group] for group in groups]
        if groups
        else [PROJECT["dependencies"]]
    )
    return {name_of(requirement) for one in lists for requirement in one}


@functools.cache
def packages_of_modules():
    """The packages that bring each module; found by reading what every installed package lists."""
    return importlib.metadata.packages_distributions()


def packages_imported(path):
    """
    List (package on the index, whether the import waits in a function) for each import of another
    project.
    """
    modules = ((name.partition(".")[0], is_late) for name, is_late in list_imports(path))
    return [
        (name_of(packages_of_modules().get(module, [module])[0]), is_late)
        for module, is_late in modules
        if module not in sys.stdlib_module_names and module not in {"urisk_nb", "tests"}
    ]


def find_undeclared(path):
    """List the packages that a file imports and may not, or not there."""
    own = names_of(path.parent.name) if path.parent.name in ("service", "scale") else set()
    core = names_of() | own
    late = core | names_of(
        "documents", "notebook", "embedded", "judge", "service", "evaluate", "scale"
    )
    for package, is_late in packages_imported(path):
        if package not in (late if is_late else core):
            yield f"{path.relative_to(ROOT)} imports {package}"


@pytest.mark.slow
def test_every_import_is_declared():
    """
    An import of the core's is a dependency; one of an extra waits in a function, or stands in the
    part that the extra is for.
    """
    assert [undeclared for path in FILES for undeclared in find_undeclared(path)] == []


def test_every_dependency_is_imported():
    """
    Nothing is installed for nothing: each dependency is imported, or there is a reason for it.
    """
    used = {package for path in FILES for package, _ in packages_imported(path)}
    assert names_of() | names_of(
        "documents", "notebook", "embedded", "service", "judge", "evaluate", "scale"
    ) == used | set(NOT_IMPORTED)


def test_every_dependency_has_a_lower_bound_and_no_upper_one():
    """
    A bound above would keep users from other packages; what is there today is new enough.
    """
    for requirement in [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]:
        assert re.fullmatch(r"[\w.-]+>=[\d.]+", requirement), requirement
        try:
            there = importlib.metadata.version(name_of(requirement))
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        bound = requirement.partition(">=")[2]
        assert tuple(map(int, bound.split("."))) <= tuple(map(int, re.findall(r"\d+", there))), (
            requirement
        )


def test_a_notebook_reads_every_kind_of_document():
    """
    The README's set-up installs `notebook`; an Excel, PDF or Word file needs nothing more.
    """
    assert names_of("documents") <= names_of("notebook")


def test_the_benchmarks_name_what_they_compare_with():
    """
    The extra `benchmark` brings the other clients, the other library and what draws the plots.
    """
    paths = (ROOT / "benchmarks").glob("*.py")
    modules = {name.partition(".")[0] for path in paths for name, _ in list_imports(path)}
    compared = {"empyrical": "empyrical-reloaded", "langchain_ollama": "langchain-ollama"}
    compared |= {"matplotlib": "matplotlib", "ollama": "ollama"}
    assert set(compared) <= modules
    assert names_of("benchmark") == set(compared.values())


def test_two_extras_that_need_a_package_agree_on_its_bound():
    """
    One package, one lower bound.
    """
    bounds = {}
    for requirement in [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]:
        bounds.setdefault(name_of(requirement), set()).add(requirement)
    assert [several for several in bounds.values() if len(several) > 1] == []


HIDE = """
import importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
for name in sys.argv[2].split(","):
    importlib.import_module(name)
"""


@pytest.mark.slow
def test_the_core_imports_without_the_extras():
    """
    Where only the dependencies are installed, every module imports but those of the service and of
    a cluster, which are extras of their own.
    """
    # the packages' import names, which are not always those of the index
    hidden = [
        "plotly",
        "anywidget",
        "jupyterlab",
        "openpyxl",
        "pypdf",
        "docx",
        "xllamacpp",
        "gguf",
        "fastapi",
        "starlette",
        "uvicorn",
        "prometheus_client",
        "sklearn",
        "distributed",
    ]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
    ]
    modules = [
        name
        for name in modules
        if not name.startswith(("urisk_nb.service", "urisk_nb.scale."))
        and not name.endswith("__main__")
    ]
    done = subprocess.run(
        [sys.executable, "-c", HIDE, ",".join(hidden), ",".join(modules)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr


# Each takes 0.2 to 3 s to import, and one or two tests use it.
HEAVY = {
    *("empyrical", "jax", "jsonschema", "matplotlib", "nbformat", "optax", "playwright", "plotly"),
    *("schemathesis", "scikit-learn", "scipy", "statsmodels"),
}


@pytest.mark.slow
def test_heavy_oracles_are_imported_by_the_tests_that_use_them():
    """
    Who runs one test does not wait for the oracles of all others.
    """
    assert [
        f"{path.name} imports {package}"
        for path in FILES_OF_TESTS
        for package, is_late in packages_imported(path)
        if package in HEAVY and not is_late
    ] == []


@pytest.mark.parametrize("name", ["anyio", "nbmake", "nbval", "platformdirs", "schemathesis"])
def test_pytest_starts_without_the_plugins_of_other_packages(request, name):
    """
    No test needs them in this process, and they take seconds to load.
    """
    assert request.config.pluginmanager.is_blocked(name)
