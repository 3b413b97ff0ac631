"""A file of categories of risk, given by the user."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from urisk_nb.errors import InputError
from urisk_nb.risk.taxonomy import Category, Taxonomy
from urisk_nb.risk.values import find_closest, show

__all__ = ["read_taxonomy_file"]

MAX_BYTES = 1_000_000
KEYS = ("name", "definition")
FORMAT = '[supply] and definition = "suppliers, parts, ports" for each category'


def read_taxonomy_file(path: str | PathLike[str]) -> Taxonomy:
    """
    Return the categories of a TOML file, in its order: a table for each, named by its id.

    Its key `definition` is what the model reads, and `name` what people read; by default that is
    the id. The file may begin with a `version`; by default that is its own name.

    Raises
    ------
    InputError
        The file cannot be read, is no TOML, or has something that is no category.
    """
    place = Path(path).expanduser()
    try:
        content = _load(place)
        version = content.pop("version", place.stem)
        if not isinstance(version, str):
            raise InputError(f"version is {show(version)}.", fix='write version = "desk-1"')
        categories = tuple(_read_category(name, entry) for name, entry in content.items())
        return Taxonomy(categories=categories, version=version)
    except InputError as exc:
        exc.message = f"the file of categories {show(place.name)}: {exc.message}"
        exc.args = (exc.message,)
        raise


def _load(place: Path) -> dict[str, Any]:
    try:
        with place.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"it has more than {MAX_BYTES:,} bytes.", fix=f"write {FORMAT}")
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as exc:
        raise InputError(
            f"it cannot be read: {exc.strerror or exc}.",
            fix="give the path of a TOML file, or a Taxonomy",
        ) from exc
    except (ValueError, RecursionError) as exc:  # no UTF-8, or no TOML
        raise InputError(f"it is no TOML: {exc}.", fix=f"write {FORMAT}") from exc


def _read_category(name: str, entry: object) -> Category:
    if not isinstance(entry, Mapping):
        raise InputError(f"{show(name)} is no category, but {show(entry)}.", fix=f"write {FORMAT}")
    if unknown := next((key for key in entry if key not in KEYS), None):
        near = find_closest(unknown, KEYS, 1)
        raise InputError(
            f"[{name}] has the unknown key {show(unknown)}.",
            fix=f"did you mean {near[0]}?" if near else f"use {' and '.join(KEYS)}",
        )
    given = {"name": name.replace("_", " ").capitalize(), "definition": "", **entry}
    for key, value in given.items():
        if not isinstance(value, str):
            raise InputError(
                f"[{name}] has {key} = {show(value)}.", fix=f'write a text: {key} = "..."'
            )
    return Category(id=name, **given)
