"""
The source files of the package and of its tests, each parsed once, and what they import.
"""

import ast
import functools

from harness import ROOT

FILES = sorted((ROOT / "urisk_nb").rglob("*.py"))
FILES_OF_TESTS = sorted((ROOT / "tests").rglob("*.py"))


@functools.cache
def parse(path):
    """A module's source and its tree."""
    source = path.read_text(encoding="utf-8")
    return source, ast.parse(source)


@functools.cache
def list_imports(path):
    """List (name, lazy) for each import that runs; typing-only ones are skipped."""
    package = path.relative_to(ROOT).parent.parts

    def walk(node, lazy):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                head = ".".join((*base, *filter(None, [child.module])))
                # `from . import x` and `from urisk_nb import x` may name a module through the alias
                through = head in ("urisk_nb", ".".join(package))
                yield from (
                    (f"{head}.{alias.name}" if through else head, lazy) for alias in child.names
                )
            elif not isinstance(child, ast.expr):  # where no import can be, but most nodes are
                yield from walk(
                    child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                )

    return list(walk(parse(path)[1], False))
