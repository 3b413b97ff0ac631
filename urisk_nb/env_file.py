"""The nearest `.env`: variables that count where the environment does not have them.

Without pydantic: what is read here for each run or question should not pay for the settings of a
server.
"""

from __future__ import annotations

import os

__all__ = ["ENV_FILE_ENCODING", "read_env_file", "read_variable"]

ENV_FILE_ENCODING = "utf-8-sig"  # some editors put a byte order mark before the first name


def read_env_file() -> dict[str, str]:
    """
    Return the variables of the nearest `.env`, in this folder or above it; names are upper case.

    It is empty where there is none, or where it cannot be read: whoever loads the settings says so.
    """
    from dotenv import dotenv_values, find_dotenv

    try:
        path = find_dotenv(usecwd=True)
        found = dotenv_values(path, encoding=ENV_FILE_ENCODING) if path else {}
    except (OSError, UnicodeDecodeError):
        return {}
    return {name.upper(): value for name, value in found.items() if value}


def read_variable(name: str) -> str:
    """Return a variable from the environment, or else from `.env`; empty where neither has it."""
    return (os.environ.get(name) or read_env_file().get(name, "")).strip()
