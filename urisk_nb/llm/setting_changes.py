"""
What changed in the environment and in `.env` since a session began, and what that change takes.

Most settings hold for the next call. Those that say which server answers, and how it is reached,
need another session.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from enum import Enum, StrEnum
from typing import Any

from urisk_nb.env_file import read_env_file
from urisk_nb.errors import ContextExceeded, UriskError
from urisk_nb.settings import Engine, Settings

__all__ = [
    "Reload",
    "describe_changes",
    "find_session_settings",
    "find_stale_flags",
    "fit_fix",
    "list_aliases",
    "merge_settings",
    "read_environment",
]


class Reload(StrEnum):
    """Which changed settings a running session takes."""

    NEVER = "never"  # the session is given as it is
    CALLS = "calls"  # those that hold for the next call; the others are only named
    ALL = "all"  # all of them, with another session where that is needed


# These say which server answers, and how it is reached; with another value it is another session.
OF_SESSION = frozenset(
    {
        *("url", "engine", "dialect", "allow_shared"),
        *("api_key", "headers", "ca_file", "ca_folder"),
    }
)
# What a server is started with, beyond these
AT_START: Mapping[Engine, frozenset[str]] = {
    Engine.EMBEDDED: frozenset({"num_ctx", "gguf", "data"}),
    Engine.OLLAMA: frozenset({"allow_cloud"}),
}
SECRET = re.compile(r"KEY|TOKEN|HEADER|SECRET|PASSWORD|LOGIN")


def find_session_settings(engine: Engine, *, is_managed: bool) -> frozenset[str]:
    """Return the settings whose change needs another session, over a server of this kind."""
    beyond = AT_START.get(engine, frozenset()) if is_managed else frozenset()
    return (OF_SESSION | beyond) & set(Settings.model_fields)


def read_environment() -> dict[str, str]:
    """
    Return the variables that are set and mean a setting, as they stand in the environment or, after
    it, in the nearest `.env`.
    """
    known = {str(field.alias) for field in Settings.model_fields.values()} | {"OLLAMA_HOST"}
    both = [*read_env_file().items(), *os.environ.items()]
    return {name.upper(): value for name, value in both if value and name.upper() in known}


def find_stale_flags(
    overrides: Collection[str], before: Mapping[str, str], now: Mapping[str, str]
) -> frozenset[str]:
    """
    Return those of the settings given as flags whose variable was set to another value since: what
    the user said last counts.
    """
    return frozenset(
        name
        for name in overrides
        if any(
            now.get(alias, before.get(alias)) != before.get(alias) for alias in list_aliases(name)
        )
    )


def list_aliases(name: str) -> tuple[str, ...]:
    """Return the variables that a setting is read from."""
    return ("OLLAMA_URL", "OLLAMA_HOST") if name == "url" else (_alias(name),)


def _alias(name: str) -> str:
    return str(Settings.model_fields[name].alias or name)


def merge_settings(old: Settings, new: Settings, names: Collection[str]) -> Settings:
    """Return the old settings with the new values of some."""
    merged = old.model_copy(update={name: getattr(new, name) for name in names})
    for name in set(vars(merged)) - set(Settings.model_fields):
        del vars(merged)[name]  # what was computed of the old ones
    merged.model_fields_set.difference_update(set(names) - new.model_fields_set)
    return merged


def describe_changes(
    old: Settings, new: Settings, changed: Collection[str], now: Mapping[str, str]
) -> list[str]:
    """
    Return a line for each changed setting: `OLLAMA_TIMEOUT: 35 -> 120`; of a secret, only that it
    changed.

    Parameters
    ----------
    old, new
        The settings before and after.
    changed
        The names of those to describe.
    now
        The variables as they are set now.
    """
    lines = []
    for name in Settings.model_fields:  # their order is that of the documents
        if name not in changed:
            continue
        is_host = name == "url" and "OLLAMA_URL" not in now and "OLLAMA_HOST" in now
        alias = "OLLAMA_HOST" if is_host else _alias(name)
        before, after = (_show_value(getattr(one, name)) for one in (old, new))
        # A login in the address may change by itself
        is_secret = SECRET.search(alias) is not None or before == after
        lines.append(f"{alias} changed" if is_secret else f"{alias}: {before} -> {after}")
    return lines


def fit_fix(error: UriskError, settings: Settings) -> None:
    """
    Change the number in a fix such as `%env URISK_NUM_CTX=8192` so that it does what the fix says,
    over a session where that is the value already, or beyond it.
    """
    is_larger = isinstance(error, ContextExceeded)

    def fit(match: re.Match[str]) -> str:
        name, number = match[1], int(match[2])
        if name == "OLLAMA_TIMEOUT":
            number = max(number, int(2 * settings.timeout_s))
        elif is_larger:
            number = max(number, 2 * settings.num_ctx)
        else:
            number = min(number, max(512, settings.num_ctx // 2))
        return f"%env {name}={number}"

    error.fix = re.sub(r"%env (URISK_NUM_CTX|OLLAMA_TIMEOUT)=(\d+)\b", fit, error.fix)


def _show_value(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value.value if isinstance(value, Enum) else value)
    return re.sub(r"//[^/\s]*@", "//***@", text)
