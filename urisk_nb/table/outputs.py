"""
The files that a run is told to write: checked before the run, written after it.

A run may end early. What was computed is written all the same, and one file that cannot be written
keeps no other from being so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from urisk_nb.errors import InputError, UriskError
from urisk_nb.table.files import PACKAGES
from urisk_nb.table.risk_table import RiskTable
from urisk_nb.table.targets import check_target, require_package

__all__ = ["check_outputs", "write_outputs"]

# Each flag: how the table is written, the end that the name must have, and what must be installed.
_WRITERS: Mapping[str, tuple[Callable[[RiskTable, Path], Any], str, str]] = {
    "--report": (RiskTable.to_html_report, ".html", ""),
    "--excel": (RiskTable.to_excel, ".xlsx", "Excel"),
    "--csv": (RiskTable.to_csv, "", ""),
    "--parquet": (RiskTable.to_parquet, "", "Parquet"),
}


def check_outputs(given: Mapping[str, Any]) -> dict[str, Path]:
    """
    Return the files to write by flag; nothing is created.

    Parameters
    ----------
    given
        What was typed, by the flag's name without dashes; None where it was not given.

    Raises
    ------
    InputError
        A path cannot be written, or two flags name one file.
    PackageMissing
        The package for a kind of file is not installed.
    """
    found: dict[str, Path] = {}
    for flag, (_, suffix, form) in _WRITERS.items():
        if (path := given.get(flag.removeprefix("--"))) is None:
            continue
        if form:
            package, fix = PACKAGES[form]
            require_package(package, flag, form, fix)
        target = check_target(path, flag, suffix)
        for other, taken in found.items():
            if taken.resolve() == target.resolve():
                raise InputError(
                    f"{other} and {flag} both name {str(path)!r}.", fix="give each its own file"
                )
        found[flag] = target
    return found


def write_outputs(table: RiskTable, targets: Mapping[str, Path]) -> list[Path]:
    """
    Write the table to each file, and return their paths.

    Raises
    ------
    UriskError
        A file could not be written; the others are.
    """
    failure: UriskError | None = None
    written = []
    for flag, path in targets.items():
        try:
            _WRITERS[flag][0](table, path)
        except UriskError as exc:
            failure = failure or exc
        else:
            written.append(path)
    if failure is not None:
        raise failure
    return written
