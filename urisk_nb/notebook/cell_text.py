"""
The user's values in the text of a cell: `{watch}` in a question or in a list of tickers.

A value is put in once, where its braces stood. Its text is never looked at again: braces in it
stay, so nothing that came from data is evaluated. In a question, what cannot be filled in is left
as it is, since prose, JSON and code have braces of their own. A list of tickers has no other use
for braces, so there it is an error.
"""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from urisk_nb.errors import InputError

__all__ = ["FilledText", "fill_question", "looks_like_tickers", "read_ticker_cell"]

MAX_BEFORE = 200  # characters before a brace that say what it belongs to
MAX_LOOKED_AT = 1000  # entries of a list that may be one of tickers
FIELD = re.compile(r"\{\{([^{}\n]+)\}\}|\{([^{}\n]+)\}")
# What follows the expression in {x:.2f}, {x!r}, {day:%H:%M}
FORMAT = re.compile(r"(?:!(?P<conversion>[rsa]))?(?::(?P<spec>[^\s{}]+))?")
CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "": lambda value: value,
    "r": repr,
    "s": str,
    "a": ascii,
}
CODE_SPAN = re.compile(r"(```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`)", re.DOTALL)
# \frac{a}, x_{i}, x^{2} and ${HOME} are LaTeX and shell
OTHERS_BRACE = re.compile(r"(?:\\[A-Za-z]+\*?|[_^$\\@%#])$")
# print(f"{x}") is code, also where nothing marks it as code
OPEN_F_STRING = re.compile(r"""(?<![\w'"])(?:[fF][rR]?|[rR][fF])(["'])(?:(?!\1).)*$""")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledText:
    """
    A question with the user's values in it.

    Attributes
    ----------
    text
        What is asked.
    notes
        What was filled in, and what was left because its evaluation failed; sentences.
    """

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Field:
    """What stands between two braces: an expression, and how its value is written."""

    code: str
    names: tuple[str, ...]
    conversion: str = ""
    spec: str = ""


@dataclass(slots=True)
class _Values:
    """The values of expressions in one cell, each evaluated once."""

    namespace: dict[str, Any]
    found: dict[str, Any] = field(default_factory=dict)

    def evaluate(self, code: str) -> Any:
        if code not in self.found:
            # The user's own cell
            self.found[code] = eval(code, self.namespace)  # noqa: S307
        return self.found[code]


# Questions ----------------------------------------------------------------------------------------


def fill_question(
    text: str, namespace: dict[str, Any], hidden: Mapping[str, Any] | None = None
) -> FilledText:
    """
    Return a question with the values of its `{expressions}` in place.

    An expression counts if it has a variable of the user, all its names exist and its evaluation
    works; `{{name}}` is then the text `{name}`. All other braces stay as they are, and so do those
    in `code` and in LaTeX.

    Parameters
    ----------
    namespace
        The user's variables.
    hidden
        Those among them that are IPython's own (`In`, `exit`), which prose may mean as words.
    """
    values, notes = _Values(namespace), dict[str, None]()
    parts = CODE_SPAN.split(text)
    for number in range(0, len(parts), 2):  # the others are code
        parts[number] = _fill_prose(parts[number], values, hidden or {}, notes)
    return FilledText(text="".join(parts), notes=tuple(notes))


def _fill_prose(
    text: str, values: _Values, hidden: Mapping[str, Any], notes: dict[str, None]
) -> str:
    filled: list[str] = []
    at, others_end = 0, -1
    for match in FIELD.finditer(text):
        before, at = text[at : match.start()], match.end()
        filled.append(before)
        # \frac{a}{b}: what follows a brace of LaTeX belongs to it
        line = text[max(0, match.start() - MAX_BEFORE) : match.start()].rpartition("\n")[2]
        is_code = OTHERS_BRACE.search(line) or OPEN_F_STRING.search(line)
        if is_code or match.start() == others_end:
            others_end = match.end()
            filled.append(match[0])
            continue
        doubled, inner = match[1], match[1] or match[2]
        found = None if inner != inner.strip() else _parse_field(inner)
        if found is None or not _has_own_name(found, values.namespace, hidden):
            filled.append(match[0])
        elif doubled:
            filled.append(f"{{{inner}}}")
        else:
            filled.append(_write_value(found, values, match[0], notes))
    return "".join([*filled, text[at:]])


def _write_value(found: _Field, values: _Values, braces: str, notes: dict[str, None]) -> str:
    """Return the value as text; the braces themselves where there is none."""
    try:
        value = values.evaluate(found.code)
        convert = CONVERSIONS[found.conversion]
        text = format(convert(value), found.spec)
    except Exception as exc:  # noqa: BLE001  whatever the user's expression raises
        notes[f"left as it is: {braces} ({type(exc).__name__}: {exc})"] = None
        return braces
    notes[f"filled in: {braces}"] = None
    return text


def _has_own_name(found: _Field, namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> bool:
    """Return whether all names of an expression exist, and one of them is the user's own."""
    import builtins

    def is_own(name: str) -> bool:
        if name not in namespace or name.startswith("__"):
            return False
        return name not in hidden or hidden[name] is not namespace[name]

    is_known = all(is_own(name) or hasattr(builtins, name) for name in found.names)
    return is_known and any(is_own(name) for name in found.names)


def _parse_field(text: str) -> _Field | None:
    """Return the expression between two braces; None if it is none, such as `a, b` or `"a": 1`."""
    if (names := _read_names(text)) is not None:
        return _Field(text, names)
    # An expression may have such a mark itself, px["a:b"], so each one is tried
    for mark in re.finditer("[!:]", text):
        code, form = text[: mark.start()], FORMAT.fullmatch(text, mark.start())
        if form is not None and (names := _read_names(code)) is not None:
            return _Field(code, names, form["conversion"] or "", form["spec"] or "")
    return None


def _read_names(code: str) -> tuple[str, ...] | None:
    """Return the names of an expression that has a name; None for all other text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "1 is x" in prose
            tree = ast.parse(code.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if isinstance(tree.body, ast.Constant | ast.Tuple | ast.Starred | ast.Lambda):
        return None
    own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    own |= {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    return tuple(dict.fromkeys(node.id for node in nodes if node.id not in own)) or None


# Tickers ------------------------------------------------------------------------------------------


def read_ticker_cell(text: str, namespace: dict[str, Any], where: str = "%%risk") -> Any:
    """
    Return the tickers of a cell, as `assess` takes them, with the values of its `{expressions}`.

    Between commas or white space a value may be a text, a list, an Index, or a dict or Series of
    weights. In a word, such as `NVDA={w}`, it is a text or a number.

    Raises
    ------
    InputError
        A name does not exist, an expression fails, a brace is not closed, or a variable of tickers
        stands there without braces.
    """
    values = _Values(namespace)
    lines = [
        _read_line(line, f"{where}: line {number}", values)
        for number, line in enumerate(text.splitlines(), 1)
    ]
    if all(isinstance(part, str) for line in lines for part in line):
        return "\n".join("".join(line) for line in lines)
    items: list[Any] = []
    for part in (part for line in lines for part in line):
        texts = part.splitlines() if isinstance(part, str) else [part]
        items += [one for one in texts if not (isinstance(one, str) and not one.strip(" \t,"))]
    return items[0] if len(items) == 1 else _flatten(items)


def _read_line(line: str, where: str, values: _Values) -> list[Any]:
    """Return the line in parts: texts, and between them the values that are no texts."""
    parts: list[Any] = [""]
    pieces = list(_split_fields(line, where))
    for number, (is_field, piece) in enumerate(pieces):
        if not is_field:
            _check_plain(piece, where, values.namespace)
            parts[-1] += piece
            continue
        value = _evaluate(piece, where, values)
        after = "" if number + 1 == len(pieces) else pieces[number + 1][1]
        if _is_scalar(value):
            parts[-1] += str(value)
        elif re.search(r"(^|,|[^=\s]\s+)\s*$", parts[-1]) and re.match(r"\s*($|,|\s[^=\s])", after):
            parts += [value, ""]
        else:
            raise InputError(
                f"{where}: {{{piece}}} is a {type(value).__name__}, and stands inside of a word.",
                fix=f"put commas around it: NVDA, {{{piece}}}; or take one text or number of it",
            )
    return parts


def _split_fields(line: str, where: str) -> Iterator[tuple[bool, str]]:
    """Yield the line in pieces, each with whether it stood in braces; a comment ends it."""
    at = 0
    for match in re.finditer(r"\$?\{([^{}]*)\}|#|[{}]", line):
        yield False, line[at : match.start()]
        at = match.end()
        if match[0] == "#":
            return
        if match[1] is None:
            raise InputError(
                f"{where}: {line.strip()!r} has a brace that is not closed or has no partner.",
                fix="write a variable or an expression as {watch}, and no other braces",
            )
        if not match[1].strip():
            raise InputError(f"{where}: {match[0]} is empty.", fix="name a variable: {watch}")
        if match[0].startswith("$"):
            raise _name_braces(match[0], match[1], where)
        yield True, match[1].strip()
    yield False, line[at:]


def _evaluate(code: str, where: str, values: _Values) -> Any:
    import builtins

    names = _read_names(code)
    for name in names or ():
        if name not in values.namespace and not hasattr(builtins, name):
            own = [one for one in values.namespace if not one.startswith("_")]
            near = difflib.get_close_matches(name, own, 1)
            fix = f"did you mean {{{near[0]}}}?" if near else f"assign it above: {name} = [...]"
            raise InputError(f"{where}: there is no variable {name!r}.", fix=fix)
    try:
        value = values.evaluate(code)
    except Exception as exc:
        raise InputError(
            f"{where}: {{{code}}} fails: {type(exc).__name__}: {exc}.",
            fix="run the expression in a cell of its own, and give the name of its value",
        ) from exc
    if value is None or callable(value):
        seen = "None" if value is None else f"a {type(value).__name__}, not tickers"
        fix = "assign a list of tickers" if value is None else f"call it: {{{code}()}}"
        raise InputError(f"{where}: {{{code}}} is {seen}.", fix=fix)
    return value


def _is_scalar(value: Any) -> bool:
    """Return whether a value can be a part of a word: a text or a number."""
    is_number = hasattr(value, "__float__") and not hasattr(value, "__len__")
    return isinstance(value, str) or (is_number and not isinstance(value, bool))


def _flatten(items: list[Any]) -> list[Any]:
    """Return one list of texts and pairs (ticker, weight), as `assess` takes it."""
    import pandas as pd

    flat: list[Any] = []
    for item in items:
        if isinstance(item, str):
            flat.append(item)
        elif isinstance(item, Mapping):
            flat += item.items()
        elif isinstance(item, pd.Series):
            is_list = all(isinstance(name, int) for name in item.index)
            flat += item.tolist() if is_list else item.items()
        elif isinstance(item, set | frozenset):
            flat += sorted(item, key=str)
        elif isinstance(item, pd.DataFrame) or not hasattr(item, "__iter__"):
            flat.append(item)  # refused with its type where tickers are read
        else:
            flat += list(item)
    return flat


# Variables without braces -------------------------------------------------------------------------


def _check_plain(text: str, where: str, namespace: Mapping[str, Any]) -> None:
    """Refuse `$watch`, and the bare name of a variable that holds tickers."""
    for entry in re.split(r"[\s,]+", text):
        word = entry.partition("=")[0]
        name = word.removeprefix("$")
        if not name.isidentifier() or name not in namespace:
            continue
        value = namespace[name]
        is_tickers = looks_like_tickers(value)
        if word.startswith("$"):
            is_meant = is_tickers or name != name.upper()  # $NVDA is how some write the ticker
        else:
            is_meant = is_tickers and name not in value  # T = ["T", "F"]: the ticker T is meant
        if is_meant:
            raise _name_braces(word, name, where)


def _name_braces(word: str, name: str, where: str) -> InputError:
    return InputError(
        f"{where}: {word!r} is a variable, and stands there without braces.",
        fix=f"write {{{name.strip()}}}",
    )


def looks_like_tickers(value: Any) -> bool:
    """Return whether a value is a list of tickers, or has a weight for each of them."""
    import pandas as pd

    if isinstance(value, str):
        words = re.split(r"[\s,]+", value.strip())
        return len(words) > 1 and value == value.upper() and all(map(_is_symbol, words))
    if isinstance(value, Mapping | pd.Series) and len(value) <= MAX_LOOKED_AT:
        is_list = isinstance(value, pd.Series) and isinstance(value.index, pd.RangeIndex)
        names = list(value) if is_list else list(value.keys())
        if not names or not all(map(_is_symbol, names)):
            return False  # before the values: those of a file that is open may take long
        weights = [] if is_list else list(value.values() if isinstance(value, Mapping) else value)
        are_numbers = all(hasattr(one, "__float__") for one in weights)
        return are_numbers and not any(hasattr(one, "__len__") for one in weights)
    if isinstance(value, list | tuple | set | frozenset | pd.Index) and len(value) <= MAX_LOOKED_AT:
        return len(value) > 0 and all(map(_is_symbol, value))
    return False


def _is_symbol(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[A-Z0-9^][A-Z0-9.^=/_&:-]{0,20}", name))
