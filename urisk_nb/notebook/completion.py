"""
Completion of the magics' lines: flags, models of the server, and variables that fit a flag.

It runs at each Tab in the notebook, so it never waits: a list of models that does not come within
MAX_WAIT_S is there at the next Tab. Nothing is started, and no error is raised.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urisk_nb import event_loop
from urisk_nb.errors import UriskError
from urisk_nb.notebook.cell_text import looks_like_tickers
from urisk_nb.notebook.expressions import is_client

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["complete"]

MAX_WAIT_S = 0.15  # for the server, at one Tab
FRESH_S = 30.0  # for how long a list of models is not asked for again
ANSWER_S = 5.0  # for how long an answer is waited for in the background
FILES = "IPCompleter.file_matcher"

LINE = re.compile(r"\s*(?:[^%=]*=\s*)?(?P<mark>%%?)(?P<name>ask|risk|urisk_\w+)\s")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "--engine": ("auto", "ollama", "embedded"),
    "--dialect": ("auto", "ollama", "openai"),
    "--labels": ("greedy", "calibrated"),
}

WORDS: Mapping[str, tuple[str, ...]] = {
    "urisk_chat": ("show", "reset", "off", "on"),
    "urisk_nest": ("on", "off", "status"),
}

Result = dict[str, Any]
NOTHING: Result = {"completions": [], "suppress": False}


def complete(shell: InteractiveShell, context: CompletionContext) -> Result:
    """Return what IPython's completer takes from a matcher."""
    head = context.text_until_cursor
    if context.cursor_line and context.full_text.startswith("%%"):
        is_ours = context.full_text.startswith("%%risk")
        return _complete_braces(shell, head) if is_ours else dict(NOTHING)
    match = LINE.match(head)
    if match is None or (match["mark"] == "%%" and match["name"] not in ("ask", "risk")):
        return dict(NOTHING)
    whole = context.line_with_cursor[match.end() :]
    return _complete_line(shell, match["name"], head[match.end() :], whole)


def _complete_line(shell: InteractiveShell, name: str, rest: str, whole: str) -> Result:
    from urisk_nb.notebook.magics import USAGES

    if name not in USAGES:
        return dict(NOTHING)
    arguments = USAGES[name][2]
    *before, word = re.split(r"\s+", rest)
    flag, has_value, value = word.partition("=")
    if not has_value:
        flag, value = (before[-1] if before else ""), word
    takes_value = "action" not in arguments.get(flag, {"action": ""})
    if takes_value and flag.startswith("--"):
        return _complete_value(shell, flag, value, whole)
    if word and not word.startswith("-"):
        return _complete_braces(shell, rest) if name == "risk" else _complete_word(name, word)
    flags = (one for one in arguments if one.startswith("--") and one not in before)
    return _offer(word, flags, "param")


def _complete_word(name: str, word: str) -> Result:
    return _offer(word, WORDS.get(name, ()), "param")


def _complete_value(shell: InteractiveShell, flag: str, value: str, line: str) -> Result:
    if flag in CHOICES:
        return _offer(value, CHOICES[flag], "param")
    if flag in ("--model", "--judge"):
        # Several judges stand between commas
        last = value.rpartition(",")[2] if flag == "--judge" else value
        return _offer(last, _list_models(_find_url(line)), "model")
    if flag == "--with":  # several values stand between commas
        return _offer(value.rpartition(",")[2], _list_variables(shell, _is_data), "instance")
    if flag in FITTING and (not value or value.isidentifier()):
        names = _list_variables(shell, FITTING[flag])
        if flag in OF_COLUMNS:
            names = [*OF_COLUMNS[flag], *names, *_list_columns(shell, line)]
        return _offer(value, names, "instance", keep_files=flag not in OF_COLUMNS)
    return dict(NOTHING)


def _complete_braces(shell: InteractiveShell, head: str) -> Result:
    """Complete `{wat` in a list of tickers: variables that hold tickers."""
    match = re.search(r"\{(\w*)$", head)
    if match is None:
        return dict(NOTHING)
    return _offer(match[1], _list_variables(shell, looks_like_tickers), "instance")


def _offer(fragment: str, texts: Iterable[str], kind: str, *, keep_files: bool = False) -> Result:
    """Return those texts that begin so; where there are some, IPython's own are left out."""
    from IPython.core.completer import SimpleCompletion

    begin = fragment.lower()
    fitting = [text for text in dict.fromkeys(texts) if text.lower().startswith(begin)]
    return {
        "completions": [SimpleCompletion(text, type=kind) for text in fitting],
        "matched_fragment": fragment,
        "suppress": bool(fitting),
        "do_not_suppress": {FILES} if keep_files else set(),
    }


# Variables ----------------------------------------------------------------------------------------


def _list_variables(shell: InteractiveShell, is_fitting: Callable[[Any], bool]) -> list[str]:
    hidden = shell.user_ns_hidden
    return sorted(
        name
        for name, value in list(shell.user_ns.items())
        if not name.startswith("_")
        and not (name in hidden and hidden[name] is value)
        and _fits(value, is_fitting)
    )


def _fits(value: Any, is_fitting: Callable[[Any], bool]) -> bool:
    """Return whether a value fits; an object that cannot even be looked at fits nothing."""
    try:
        return is_fitting(value)
    except Exception:  # noqa: BLE001  whatever a class of the user's raises
        return False


def _list_columns(shell: InteractiveShell, line: str) -> list[str]:
    """Return the columns of the prices that the line names: each may be the benchmark."""
    import pandas as pd

    match = re.search(r"--prices[= ]\s*(\w+)", line)
    frame: Any = shell.user_ns.get(match[1]) if match else None
    is_table = _fits(frame, lambda value: isinstance(value, pd.DataFrame))
    if not is_table or frame.columns.nlevels > 1:
        return []
    return [name for name in frame.columns if isinstance(name, str) and " " not in name]


def _is_prices(value: Any) -> bool:
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return len(value.select_dtypes("number").columns) > 0
    if isinstance(value, pd.Series):
        return pd.api.types.is_numeric_dtype(value) and not looks_like_tickers(value)
    if isinstance(value, dict):
        return bool(value) and all(map(_is_prices, list(value.values())[:5]))
    return _is_other_frame(value) or isinstance(value, Path)


def _is_evidence(value: Any) -> bool:
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return len(value.select_dtypes(exclude=["number", "datetime"]).columns) > 0
    if isinstance(value, pd.Series):
        return not pd.api.types.is_numeric_dtype(value)
    if isinstance(value, list | tuple):
        is_text = all(isinstance(one, str | dict | tuple | Path) for one in value[:5])
        return bool(value) and is_text and not looks_like_tickers(value)
    if isinstance(value, dict):
        return bool(value) and all(
            isinstance(one, str | list | dict | Path) for one in list(value.values())[:5]
        )
    return _is_other_frame(value) or isinstance(value, Path)


def _is_data(value: Any) -> bool:
    import pandas as pd

    kinds = (pd.DataFrame, pd.Series, str, dict, list, tuple, Path)
    return isinstance(value, kinds) or _is_other_frame(value)


def _is_benchmark(value: Any) -> bool:
    import pandas as pd

    return isinstance(value, pd.Series) and _is_prices(value)


def _is_factors(value: Any) -> bool:
    import pandas as pd

    return isinstance(value, pd.DataFrame) and _is_prices(value)


def _is_schema(value: Any) -> bool:
    from urisk_nb.chat.schemas import is_schema

    return is_schema(value)


def _is_taxonomy(value: Any) -> bool:
    from urisk_nb.risk.taxonomy import Taxonomy

    return isinstance(value, Taxonomy)


def _is_other_frame(value: Any) -> bool:
    """Return whether a value is a table of polars or pyarrow; a class is none."""
    return not isinstance(value, type) and str(type(value).__module__).split(".")[0] in (
        "polars",
        "pyarrow",
    )


FITTING: Mapping[str, Callable[[Any], bool]] = {
    "--prices": _is_prices,
    "--evidence": _is_evidence,
    "--previous": _is_evidence,
    "--benchmark": _is_benchmark,
    "--factors": _is_factors,
    "--client": is_client,
    "--taxonomy": _is_taxonomy,
    "--json": _is_schema,
}
# Flags that take a column of the prices, too, and their own words
OF_COLUMNS: Mapping[str, tuple[str, ...]] = {"--benchmark": ("equal",), "--factors": ()}


# Models -------------------------------------------------------------------------------------------


class _ModelLists:
    """The names that servers have given, by address, and the requests that are under way."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.asked_s: dict[str, float] = {}
        self.calls: dict[str, event_loop.Call[None]] = {}

    async def fetch(self, url: str | None, key: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                self.names[key] = await _ask_names(url)
        except (UriskError, TimeoutError):
            self.names.pop(key, None)  # gone: no name is better than an old one
        self.asked_s[key] = time.monotonic()


_LISTS = _ModelLists()


def _list_models(url: str | None) -> list[str]:
    """Return the names of the server's models, as far as they are known in a moment."""
    from urisk_nb.llm.manager import LLMManager

    manager = LLMManager.find_instance()
    key = url or (manager.url if manager is not None else "")
    if time.monotonic() - _LISTS.asked_s.get(key, float("-inf")) > FRESH_S:
        call = _LISTS.calls.get(key)
        if call is None or call.done.is_set():
            call = _LISTS.calls[key] = event_loop.submit(_LISTS.fetch(url, key))
        call.done.wait(MAX_WAIT_S)
    return _LISTS.names.get(key, [])


async def _ask_names(url: str | None) -> list[str]:
    """Ask the session's server, or the one that a start would find; nothing is started."""
    from urisk_nb.llm.client import Client
    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.settings import load

    manager = LLMManager.find_instance()
    if manager is not None and url in (None, manager.url):
        models = await manager.models()
    else:
        async with aclosing(Client(load(url=url))) as client:
            await client.probe()
            models = await client.list_models()
    return [name for model in models for name in (model.name, *model.aliases)]


def _find_url(line: str) -> str | None:
    match = re.search(r"--url[= ]\s*[\"']?([^\s\"']+)", line)
    return match[1] if match else None
