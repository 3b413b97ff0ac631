"""Servers that answer and are not used, each refused with its reason."""

from __future__ import annotations

import os
import re

from urisk_nb.errors import PortTaken, ServerOwnedByOtherUser, ServerTooOld
from urisk_nb.server import port
from urisk_nb.settings import Engine, Settings

__all__ = ["check_engine", "check_engine_unchanged", "check_min_version", "check_owner"]

MIN_PERSONAL_UID = 1000  # accounts from here on are people's; lower ones are services
MIN_OLLAMA_VERSION = (0, 5, 0)  # the first that keeps answers to a JSON schema


def check_owner(settings: Settings) -> None:
    """On a shared machine, evidence must not go to the server of another person."""
    if settings.allow_shared or os.name == "nt":
        return
    uid = port.owner_uid(settings.port)
    if uid is not None and uid >= MIN_PERSONAL_UID and uid != os.getuid():
        raise ServerOwnedByOtherUser(
            f"the server at {settings.url} runs under another person's account (uid {uid}).",
            fix="use a port of your own: %urisk_start --url http://127.0.0.1:11500, or allow it: "
            "%env URISK_ALLOW_SHARED=true",
        )


def check_engine(settings: Settings, engine: Engine, version: str) -> None:
    """Refuse a server of another engine than the one that was named."""
    if settings.engine not in (Engine.AUTO, engine):
        named = f" ({version})" if version else ""
        raise PortTaken(
            f"{settings.url} is answered by the {engine} engine{named}, not by the "
            f"{settings.engine} one.",
            fix=f"use another port: %urisk_start --engine {settings.engine} --url "
            "http://127.0.0.1:11500",
        )


def check_min_version(settings: Settings, version: str) -> None:
    """Refuse an Ollama that is too old; 0.0.0 and unreadable versions are private builds."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if numbers and (0, 0, 0) < tuple(map(int, numbers.groups())) < MIN_OLLAMA_VERSION:
        raise ServerTooOld(
            f"the server at {settings.url} is Ollama {version}, which does not keep answers to a "
            "schema.",
            fix="update Ollama to 0.5 or later: ollama.com/download",
        )


def check_engine_unchanged(settings: Settings, before: Engine, engine: Engine) -> None:
    """
    Refuse to go on with another engine: whose words an answer is would change in
    the middle of a table.
    """
    if engine is not before:
        raise PortTaken(
            f"{settings.url} is answered by the {engine} engine now; this session began with the "
            f"{before} one.",
            fix="%urisk_start, if that is meant; else stop that server first",
        )
