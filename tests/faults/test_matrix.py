"""The fault matrix is complete: each of its rows has a test, or a reason why it has none."""

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = range(1, 61)
WITHOUT = {
    51: "a Cancel button beside a running magic: magics are blocking calls, and ipykernel 7.4 "
    "delivers no click meanwhile; "
    "the kernel's own interrupt (rows 1 to 6) is the way",
}


@functools.cache
def marked():
    """The rows that a test is marked with."""
    return set(_read_marks())


def _read_marks():
    sources = (path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    for source in sources:
        if "pytest.mark.row(" not in source:  # most of 200 files need not be parsed
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
                "test_"
            ):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.row":
                        yield ast.literal_eval(mark.args[0])


def test_every_row_has_a_test_or_a_reason():
    """60 rows, one of them without a test."""
    assert marked() == set(ROWS) - set(WITHOUT)


def test_the_page_on_the_lifecycle_names_every_row():
    """What the rows are stands in docs/lifecycle.md, with the same numbers and the same reasons."""
    page = (TESTS.parent / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    rows = [
        line
        for line in page.splitlines()
        if line.startswith("| ") and line.split("|")[1].strip().isdigit()
    ]
    assert [int(line.split("|")[1]) for line in rows] == list(ROWS)
    assert all("not built" in rows[number - 1] for number in WITHOUT)


def test_the_readme_counts_the_tested_faults():
    """The number in README.md is that of the rows that have a test."""
    readme = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    assert [int(count) for count in re.findall(r"(\d+)\s+(?:tested )?faults", readme)] == [
        len(marked())
    ]
