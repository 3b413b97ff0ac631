"""
Each warning that a row or a finding can have is explained: the codes are read out of the code
itself.
"""

import ast
import re

import pytest

from harness import ROOT
from urisk_nb.risk.row_warnings import LABELED_BY, WARNINGS, codes_in
from urisk_nb.risk.rows import STATUSES

CODE = re.compile(r"[a-z]+(?:_[a-z]+)*")
# Where codes are made: the core, and the run, which says who labeled.
FILES = [
    *(
        path
        for part in ("risk", "readers", "table")
        for path in (ROOT / "urisk_nb" / part).glob("*.py")
    ),
    ROOT / "urisk_nb/session.py",
]
# A status that is also a reason; the others say no more than the flags do.
STATED = set(STATUSES) - {"ok", "partial", "model_error"}


def texts(node):
    """
    The codes that an expression may stand for: a constant, either branch of a choice, the members
    of a set or tuple.
    """
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) and CODE.fullmatch(node.value) else set()
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    if isinstance(node, ast.Set | ast.Tuple | ast.List):
        return set().union(
            *(texts(one.value if isinstance(one, ast.Starred) else one) for one in node.elts)
        )
    if isinstance(node, ast.Dict):
        return set().union(*(texts(key) for key in node.keys if key is not None))
    if isinstance(node, ast.BinOp):
        return texts(node.left) | texts(node.right)
    return set()


def names_flags(node):
    return "flags" in ast.unparse(node).lower() or ast.unparse(node) in ("found", "more")


def flags_of(node, fills_dict):
    """
    What one statement or expression puts on the flags: by add and update, assignment, keyword,
    choice or result.
    """
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".flag"):
        return texts(node.args[0])
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "holds":
        return texts(node.value)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("add", "update")
    ):
        return set().union(*map(texts, node.args)) if names_flags(node.func.value) else set()
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        by_name = fills_dict and isinstance(node.value, ast.Dict)
        return texts(node.value) if by_name or any(map(names_flags, targets)) else set()
    if isinstance(node, ast.keyword):
        return texts(node.value) if node.arg == "flags" else set()
    if isinstance(node, ast.IfExp):
        return texts(node.body) if ast.unparse(node.orelse) in ("()", "set()") else set()
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        return set().union(
            *(texts(one) for one in node.value.elts if isinstance(one, ast.Set | ast.Tuple))
        )
    return set()


def flags_made(tree):
    """The codes that the functions of a module put on flags, or on a set that becomes them."""
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    made = set()
    for function in functions:
        source = ast.unparse(function)
        if "flag" in source.lower():
            made |= set().union(
                *(flags_of(node, "self.flags = " in source) for node in ast.walk(function))
            )
    return made


def test_every_flag_has_a_sentence():
    """
    A code that the program can put on a row without a sentence in WARNINGS fails here, by its name.
    """
    found = {
        code: path.name
        for path in FILES
        for code in flags_made(ast.parse(path.read_text(encoding="utf-8")))
    }
    missing = {code: name for code, name in found.items() if code not in WARNINGS}
    assert missing == {}
    # The search itself works: it finds what each kind of code above makes.
    known = {
        "gap",
        "alias",
        "truncated",
        "thin_evidence",
        "unsorted",
        "repaired",
        "unstable",
        "undated",
        "flat_benchmark",
        "small_judge",
    }
    assert known <= set(found)
    assert set(WARNINGS) >= STATED


def test_the_search_sees_a_new_flag():
    """A flag that somebody adds in one of the forms of the house is found."""
    for line in (
        "flags.add('new_one')",
        "flags |= {'new_one'} if x else set()",
        "flags = ('new_one',) if x else ()",
        "return Row(flags=('new_one',))",
        "flags = 1; return 'ok', {'new_one'}",
        "flags = 1; extra = {'new_one'} if x else set()",
    ):
        assert flags_made(ast.parse(f"def f(x):\n    {line}")) == {"new_one"}, line


@pytest.mark.parametrize("code", WARNINGS)
def test_each_sentence_is_plain(code):
    """
    A capital at its start, a full stop at its end, no code of its own in it, and short enough for
    two lines.
    """
    text = WARNINGS[code]
    assert CODE.fullmatch(code)
    assert text[0].isupper()
    assert text.endswith(".")
    assert len(text) <= (300 if code in LABELED_BY else 140)


def test_codes_in_cells():
    """Cells of the column `flags`: several codes, none, or not a text at all."""
    assert codes_in(["gap;alias", "", None, float("nan"), "alias"]) == ["alias", "gap"]
