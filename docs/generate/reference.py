"""
The reference, made of what the code has: magics, commands, settings, errors, columns, flags and the
public names.
"""

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import repository

import urisk_nb
from urisk_nb import errors
from urisk_nb.cli import COMMANDS
from urisk_nb.llm.resilience import InRun, retry_rule_for
from urisk_nb.notebook.magics import USAGES
from urisk_nb.risk.row_warnings import WARNINGS
from urisk_nb.service.statuses import status_of
from urisk_nb.settings import Settings

__all__ = ["PAGES", "PUBLIC_CLASSES", "PUBLIC_MODULES"]

# Modules whose names people import; the others are the inside of the package
PUBLIC_MODULES = (
    "urisk_nb.demo",
    "urisk_nb.risk.metrics",
    "urisk_nb.risk.portfolio_metrics",
    "urisk_nb.risk.taxonomy",
    "urisk_nb.risk.evaluation",
    "urisk_nb.evaluate",
    "urisk_nb.service",
)
# What the public names give back, and people use by attribute
PUBLIC_CLASSES = (
    "urisk_nb.llm.answers.Answer",
    "urisk_nb.table.risk_table.Report",
    "urisk_nb.table.charts.Charts",
    "urisk_nb.table.frames.Frames",
)


def _write_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _escape(text: str) -> str:
    """Return plain text as a cell of a table in Markdown."""
    return re.sub(r"([\\|*_`<>\[\]{}$])", r"\\\1", " ".join(text.split()))


# Python -------------------------------------------------------------------------------------------


def _write_python_page() -> str:
    names = [name for name in urisk_nb.__all__ if name != "__version__"]
    parts = [
        "# Python",
        (
            "All of `urisk_nb.__all__`, and the classes of what these give back. "
            f"`urisk_nb.__version__` is the version: this page describes {urisk_nb.__version__}."
        ),
        "## Names of urisk\\_nb",
        *(f"::: {_find_home(getattr(urisk_nb, name), name)}" for name in names),
        "## What they give back",
        *(f"::: {name}" for name in PUBLIC_CLASSES),
    ]
    return "\n\n".join(parts)


def _find_home(value: Any, name: str) -> str:
    """Return the path of a public name in the module that defines it, where its source is read."""
    return f"{value.__module__}.{name}"


def _write_modules_page() -> str:
    parts = ["# Functions and modules", "What may be imported beside the names of `urisk_nb`."]
    for module in PUBLIC_MODULES:
        found = importlib.import_module(module)
        parts += [f"## {module.replace('_', chr(92) + '_')}", inspect.getdoc(found) or ""]
        parts += [f"::: {home}" for name in found.__all__ if (home := _find_object(found, name))]
        parts += [
            f"`{name}`: {_escape(repr(getattr(found, name)))}"
            for name in found.__all__
            if not _find_object(found, name)
        ]
    return "\n\n".join(parts)


def _find_object(module: Any, name: str) -> str | None:
    """Return the path of a function or class; None for a constant."""
    value = getattr(module, name)
    return _find_home(value, name) if inspect.isroutine(value) or inspect.isclass(value) else None


# Magics and commands ------------------------------------------------------------------------------


def _write_magics_page() -> str:
    parts = [
        "# Magics",
        "`%%risk?` shows the same in a notebook. `%risk` and `%ask` take the options in one line.",
    ]
    for usage, description, arguments in USAGES.values():
        parts += [f"## {usage}", description, _write_arguments(arguments)]
    return "\n\n".join(parts)


def _write_commands_page() -> str:
    parts = ["# Commands", "`urisk COMMAND --help` shows the same in a shell."]
    for name, (_, purpose, arguments) in COMMANDS.items():
        text = f"{purpose[0].upper()}{purpose[1:]}."
        parts += [f"## urisk {name}", _escape(text), _write_arguments(arguments)]
    return "\n\n".join(parts)


def _write_arguments(arguments: Mapping[str, Mapping[str, Any]]) -> str:
    if not arguments:
        return "It takes no options."
    return _write_table(
        ["option", "value", "what it does"],
        (
            [f"`{name}`", _describe_value(name, settings), _escape(settings.get("help", "") % {})]
            for name, settings in arguments.items()
        ),
    )


def _describe_value(name: str, settings: Mapping[str, Any]) -> str:
    if settings.get("action") == "store_true":
        return "–"
    if "choices" in settings:
        return ", ".join(f"`{choice}`" for choice in settings["choices"])
    value = _escape(settings.get("metavar", name.strip("-").upper()))
    return f"{value}, one or more" if settings.get("nargs") == "+" else value


# Settings -----------------------------------------------------------------------------------------


def _write_settings_page() -> str:
    head, table, rest = _split_settings(repository.read_section("README.md", "settings"))
    fields = {field.alias: (name, field) for name, field in Settings.model_fields.items()}
    rows = []
    for variable, default, meaning in table:
        name, field = fields.get(variable, ("", None))
        rows.append(
            [f"`{variable}`", default, meaning, f"`{name}`" if name else "–", _bounds(field)]
        )
    columns = ["name", "default", "meaning", "in Python", "bounds"]
    return "\n\n".join(
        [
            "# Settings",
            head,
            _write_table(columns, rows),
            rest,
            "The names in Python are those of `LLMManager.initialize(...)`.",
            "`urisk serve` also reads `URISK_SERVICE_TOKEN`: what every caller must send.",
        ]
    )


def _split_settings(section: str) -> tuple[str, list[list[str]], str]:
    """Return the text before the README's table, its rows, and the text after it."""
    text = repository.expand_page(section, "README.md", "reference/settings.md")
    lines = text.splitlines()[1:]  # its heading is the page's
    is_row = [line.startswith("|") for line in lines]
    first, last = is_row.index(True), len(lines) - is_row[::-1].index(True)
    rows = [
        [cell.strip() for cell in line.strip("|").split(" |")] for line in lines[first + 2 : last]
    ]
    return "\n".join(lines[:first]).strip(), rows, "\n".join(lines[last:]).strip()


def _bounds(field: Any) -> str:
    """Return the limits of a number, in words."""
    signs = {"gt": "above {}", "ge": "from {}", "le": "to {}"}
    found = [
        text.format(f"{value:,.0f}")
        for limit in getattr(field, "metadata", ())
        for sign, text in signs.items()
        if (value := getattr(limit, sign, None)) is not None
    ]
    return " ".join(found) or "–"


# Columns and flags --------------------------------------------------------------------------------


def _write_columns_page() -> str:
    page = "reference/columns.md"
    metrics = (repository.ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| column \|.*\n\|[-|:]+\|\n((?:\|.*\n)+)", metrics, re.MULTILINE)
    rows = repository.relink("".join(tables), "docs/metrics.md", page)
    head = _write_table(["column", "what it is", "not a number when"], [])
    return "\n\n".join(
        [
            "# Columns and flags",
            "## Columns",
            (
                "Which of them a table has depends on what it was given: weights, a benchmark, "
                "volume, evidence. [Metrics](../metrics.md#columns) has the words around them."
            ),
            f"{head}\n{rows}",
            "## Flags",
            "The codes of the column `flags`, and what the table says of each.",
            _write_table(
                ["flag", "what it says"],
                ([f"`{code}`", _escape(text)] for code, text in WARNINGS.items()),
            ),
        ]
    )


# Errors -------------------------------------------------------------------------------------------

IN_RUN = {
    InRun.END: "the run ends, with what was done",
    InRun.WAIT: "the run waits for the server, up to `URISK_OUTAGE_WAIT`",
    InRun.ALONE: "the sentence is asked once more, while no other call is in flight",
    InRun.AGAIN: "the sentence is asked once more",
    InRun.SKIP: "the sentence has no label; the run goes on",
}


def _write_errors_page() -> str:
    tree = (inspect.getdoc(errors) or "").partition("\n\n")[2].partition("\n\nImports")[0]
    parts = [
        "# Errors",
        (
            "Each error says what was seen, and one thing to do (`fix`). All are in "
            "`urisk_nb.errors`. [How a server lives](../lifecycle.md#failures-of-calls) says "
            "what the attempts are."
        ),
        f"```text\n{tree}\n```",
        *(_write_error(getattr(errors, name)) for name in errors.__all__),
    ]
    return "\n\n".join(parts)


def _write_error(error: type[errors.UriskError]) -> str:
    text, _, attributes = (inspect.getdoc(error) or "").partition("\n\nAttributes\n")
    text = text.partition("\n\nParameters\n")[0]
    bases = ", ".join(f"`{base.__name__}`" for base in error.__bases__)
    facts = [
        f"- Base: {bases}",
        *(
            _write_retries(error)
            if issubclass(error, errors.ServerError | errors.ModelError)
            else ()
        ),
        f"- HTTP status in `urisk serve`: {status_of(error('', fix=''))}",
        *(["- `partial` has the text that had arrived"] if attributes else []),
    ]
    return f"## {error.__name__}\n\n{_escape(text)}\n\n" + "\n".join(facts)


def _write_retries(error: type[errors.UriskError]) -> list[str]:
    """Say what is done about a call that ends with the error."""
    rule = retry_rule_for(error("", fix=""))
    attempts = "1 + `OLLAMA_MAX_RETRIES`" if rule.attempts is None else str(rule.attempts)
    breaker = "; counts for the circuit breaker" if rule.counts else ""
    return [f"- Attempts of a call: {attempts}{breaker}", f"- In `%%risk`: {IN_RUN[rule.in_run]}"]


PAGES = {
    "reference/python.md": _write_python_page,
    "reference/modules.md": _write_modules_page,
    "reference/magics.md": _write_magics_page,
    "reference/commands.md": _write_commands_page,
    "reference/settings.md": _write_settings_page,
    "reference/columns.md": _write_columns_page,
    "reference/errors.md": _write_errors_page,
}
