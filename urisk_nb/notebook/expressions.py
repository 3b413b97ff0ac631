"""
What stands on a magic's line: its words, and the user's values that they name.

A flag takes the name of a variable, a path, or any expression of the user's own namespace, as a
cell does: `--prices px["Close"]`. The text comes from the user's cell, never from a model.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from urisk_nb.errors import InputError

__all__ = ["Quoted", "find_value", "find_values", "is_client", "read_word", "split_words"]

# A word processor makes the last two of the first ones.
QUOTES = {'"': '"', "'": "'", "\N{LEFT DOUBLE QUOTATION MARK}": "\N{RIGHT DOUBLE QUOTATION MARK}"}
QUOTES["\N{LEFT SINGLE QUOTATION MARK}"] = "\N{RIGHT SINGLE QUOTATION MARK}"
CLOSING = {"(": ")", "[": "]", "{": "}"}
# A quotation mark after one of these belongs to an expression: px["Close"], f(x, "a").
BEFORE_LITERAL = ("(", "[", "{", ",", ":", "=", " ", "+")
_BRACED = re.compile(r"\A\{(\w+)\}\Z")
PATH_MARKS = re.compile(r"[/\\~*?]|\.[A-Za-z]{2,7}$")


# Words --------------------------------------------------------------------------------------------


class Quoted(str):
    """A word whose quotation marks were taken off."""

    __slots__ = ()


def split_words(line: str) -> list[str]:
    """
    Return the words of a line.

    White space separates them, and a ``#`` at the beginning of one starts a comment. Quotation
    marks around a word, or around what follows ``--flag=``, are taken off, and the word is a
    `Quoted`. Those inside of a word stay, and so does white space between brackets:
    ``px[['A', 'B']]`` is one word. A backslash is a plain character, as in Windows paths.

    Raises
    ------
    ValueError
        A quotation mark around a word is not closed.
    """
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
            continue
        if line[at] == "#":
            break
        word, at = read_word(line, at)
        words.append(word)
    return words


def read_word(line: str, at: int) -> tuple[str, int]:
    """Return the word that begins there, and where it ends; raise as `split_words` does."""
    start, word, is_quoted = at, "", False
    while at < len(line) and not line[at].isspace():
        sign = line[at]
        is_outer = at == start or re.fullmatch(r"--[\w-]+=", line[start:at]) is not None
        if sign in QUOTES and is_outer:
            end = line.find(QUOTES[sign], at + 1)
            if end < 0:
                raise ValueError("No closing quotation")
            word, at, is_quoted = word + line[at + 1 : end], end + 1, True
        elif sign in CLOSING and (close := _find_close(line, at)) is not None:
            word, at = word + line[at:close], close
        else:
            word, at = word + sign, at + 1
    return (Quoted(word) if is_quoted else word), at


def _find_close(line: str, at: int) -> int | None:
    """Return the place after the bracket that closes the one there; None if none does."""
    expected: list[str] = []
    while at < len(line):
        sign = line[at]
        if sign in "\"'" and line[at - 1] in BEFORE_LITERAL:
            if (end := line.find(sign, at + 1)) < 0:
                return None
            at = end
        elif sign in CLOSING:
            expected.append(CLOSING[sign])
        elif expected and sign == expected[-1]:
            expected.pop()
            if not expected:
                return at + 1
        at += 1
    return None


# Values -------------------------------------------------------------------------------------------


def _is_data(value: Any) -> bool:
    import pandas as pd

    return isinstance(value, pd.DataFrame | dict | list | pd.Series)


def is_client(value: object) -> bool:
    """Return whether a value is a client of a Dask cluster; Dask is not loaded for it."""
    kind = type(value)
    return (kind.__module__.split(".")[0], kind.__name__) == ("distributed", "Client")


def find_value(
    namespace: dict[str, Any],
    text: str | None,
    flag: str,
    *,
    is_label: bool = False,
    fitting: Callable[[Any], bool] = _is_data,
    ending: str = ".csv",
) -> Any:
    """
    Return what a flag's text means: a variable, the path itself, or the value of an expression.

    A variable comes before a file of the same name, and a file before an expression. An expression
    is evaluated once, and only if every name in it exists.

    Parameters
    ----------
    is_label
        The text may also be the label of a column, such as BTC-USD, and stays as it is where a name
        in it does not exist.
    fitting, ending
        Which variables the flag may mean, and how its files end (empty: it takes none): for the
        error's fix.

    Raises
    ------
    InputError
        There is no such variable; the expression fails, or its value is None.
    """
    if text is None or (text not in namespace and _is_path(text)):
        return text
    if text.isidentifier():
        if text not in namespace:
            if is_label:
                return text
            raise _missing_variable(text, namespace, flag, fitting, ending)
        value = namespace[text]
    else:
        names = _read_names(text)
        missing = [name for name in names or () if not _is_known(name, namespace)]
        if names is None or (missing and (is_label or PATH_MARKS.search(text))):
            return text  # the reader says so if nothing is there
        if missing:
            raise _missing_variable(missing[0], namespace, flag, fitting, ending)
        value = _evaluate(text, namespace, flag)
    if value is None:
        raise InputError(f"{flag}: {text} is None.", fix=f"assign a value, or leave {flag} out")
    return value


def find_values(namespace: dict[str, Any], text: str, flag: str) -> dict[str, Any]:
    """
    Return what the names between commas mean, by name: a variable's value, that of an expression,
    or the `Path` of a file.

    Raises
    ------
    InputError
        As `find_value`; or there is neither a variable nor a file of a name.
    """
    # `{table}` is a value in a cell; a set of it is not what is meant here
    names = [_BRACED.sub(r"\1", name.strip()) for name in _split_commas(text)]
    if not all(names):
        raise InputError(
            f"{flag}: a name is missing in {text!r}.",
            fix=f"write names between commas, without spaces: {flag} table,news",
        )
    found: dict[str, Any] = {}
    for name in names:
        value = find_value(namespace, name, flag)
        if name not in namespace and isinstance(value, str) and value == name:
            if not (_is_path(name) or PATH_MARKS.search(name)):
                raise InputError(
                    f"{flag}: {name!r} is neither a variable nor a file.",
                    fix=f"assign the value in a cell above, and give its name: {flag} table",
                )
            value = Path(name)  # whoever reads it says that it is not there
        found[name] = value
    return found


def _split_commas(text: str) -> list[str]:
    """Return the parts between commas that stand in no brackets: ``px[["A", "B"]],news`` has 2."""
    parts, start, at = [], 0, 0
    while at < len(text):
        if text[at] in CLOSING and (close := _find_close(text, at)) is not None:
            at = close
            continue
        if text[at] == ",":
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]]


def _is_path(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, no home
        return False


def _read_names(text: str) -> list[str] | None:
    """
    Return the names that an expression takes from outside; None if the text is no expression.

    A number or a text in quotes is none: nothing is gained by its value.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a path such as 1/2.csv is a strange expression
            tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if isinstance(tree.body, ast.Constant):
        return None
    nodes = list(ast.walk(tree))
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return [node.id for node in nodes if isinstance(node, ast.Name) and node.id not in own]


def _is_known(name: str, namespace: Mapping[str, Any]) -> bool:
    return name in namespace or hasattr(builtins, name)


def _evaluate(text: str, namespace: dict[str, Any], flag: str) -> Any:
    try:
        return eval(text, namespace)  # noqa: S307  # the user's own line, as any cell is
    except Exception as exc:
        raise InputError(
            f"{flag}: {text} fails: {type(exc).__name__}: {exc}.",
            fix="run it in a cell of its own, or give the name of a variable or a file",
        ) from exc


def _missing_variable(
    name: str,
    namespace: Mapping[str, Any],
    flag: str,
    fitting: Callable[[Any], bool],
    ending: str,
) -> InputError:
    known = [key for key, value in namespace.items() if not key.startswith("_") and fitting(value)]
    close = difflib.get_close_matches(name, known, 1)
    path = f", or give a path such as ./{name}{ending}" if ending else ""
    fix = (
        f"did you mean {flag} {close[0]}?"
        if close
        else f"assign it in a cell above: {name} = ...{path}"
    )
    return InputError(f"{flag}: there is no variable {name!r}.", fix=fix)
