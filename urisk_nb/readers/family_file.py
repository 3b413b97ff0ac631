"""A file of families of distress, given by the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from urisk_nb.errors import InputError
from urisk_nb.risk.families import Family, load_families, read_families
from urisk_nb.risk.values import find_closest, show

__all__ = ["MAX_BYTES", "read_family_file"]

MAX_BYTES = 1_000_000  # the package's own file has 30,000


def read_family_file(path: str, categories: Sequence[str] = ()) -> tuple[Family, ...]:
    """
    Return the families of the package and those of a TOML file; the same name replaces.

    Parameters
    ----------
    categories
        Those of the run; a family of the file must be of one of them. Default: any will do.

    Raises
    ------
    InputError
        There is no such file, it is too large or no text, it is not as docs/filings.md says, or a
        category is unknown.
    """
    place = Path(path).expanduser()
    try:
        with place.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content[:MAX_BYTES].decode("utf-8-sig")
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else "is not UTF-8 text"
        raise InputError(
            f"the file of families {show(place.name)} cannot be read: {why}.",
            fix="give the path of a TOML file; docs/filings.md has its format",
        ) from exc
    if len(content) > MAX_BYTES:
        raise InputError(
            f"the file of families {show(place.name)} has more than {MAX_BYTES:,} bytes.",
            fix="give a TOML file of families; docs/filings.md has its format",
        )
    known = load_families()
    families = read_families(text, place.name, base=known)
    for family in families:
        if categories and family not in known and family.category not in categories:
            near = find_closest(family.category, categories, 1)
            raise InputError(
                f"{place.name}: [{family.name}] has category = {show(family.category)}, which is "
                "not a category of this run.",
                fix=f"did you mean {near[0]}?" if near else f"use one of {', '.join(categories)}",
            )
    return families
