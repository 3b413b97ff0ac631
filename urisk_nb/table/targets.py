"""
Files that are written: the path is checked before there is anything to write, and a failure leaves
no half file.

What is written goes into a file beside the target, which then takes its place. A file that is there
is replaced, as pandas does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from urisk_nb.errors import InputError, PackageMissing

__all__ = ["check_target", "open_target", "require_package"]


def check_target(path: str | os.PathLike[str], where: str, suffix: str = "") -> Path:
    """
    Return the path of a file that can be written; nothing is created.

    Parameters
    ----------
    path
        What the user gave; `~` is the home folder.
    where
        What took it, for the message: `--excel`, or `to_excel()`.
    suffix
        The end that its name must have, such as `.xlsx`; default: any.

    Raises
    ------
    InputError
        It is a folder, its folder is not there, it may not be written, or its name ends otherwise.
    """
    target = Path(path).expanduser()
    if not target.name or target.is_dir():
        inside = target / f"risk{suffix or '.html'}"
        raise InputError(
            f"{where}: {str(path)!r} is a folder.", fix=f"add the name of a file: {inside}"
        )
    if suffix and target.suffix.lower() != suffix:
        raise InputError(
            f"{where}: {str(path)!r} does not end in {suffix}.",
            fix=f"give {target.with_suffix(suffix)}",
        )
    folder = target.parent
    if not folder.is_dir():
        seen = "is a file" if folder.exists() else "does not exist"
        raise InputError(
            f"{where}: {str(path)!r} cannot be written: the folder {str(folder)!r} {seen}.",
            fix=f"make it first: mkdir -p {folder}" if seen == "does not exist" else "name another",
        )
    if not os.access(target if target.exists() else folder, os.W_OK):
        raise InputError(
            f"{where}: {str(path)!r} cannot be written: you may not write there.",
            fix="give a path in a folder of your own",
        )
    return target


def require_package(package: str, where: str, form: str, fix: str) -> None:
    """
    Refuse to write a kind of file whose package is not installed.

    Raises
    ------
    PackageMissing
        With `fix` as its way out.
    """
    if importlib.util.find_spec(package) is None:
        raise PackageMissing(
            f"{where}: writing {form} needs {package}, which is not installed.", fix=fix
        )


@contextlib.contextmanager
def open_target(path: Path) -> Iterator[Path]:
    """
    Give a path beside the target to write to; at the end it takes the target's place.

    After an error the target is as it was, and nothing else is left.

    Raises
    ------
    InputError
        The system refused to write: the disk is full, say, or another program holds the file.
    """
    # A link stays one: what it points to is replaced
    place = path.resolve()
    # Its name ends as the target's does: pandas chooses format and compression by it
    beside = place.with_name(f".{secrets.token_hex(4)}-{place.name}")
    try:
        yield beside
        if place.exists():
            shutil.copymode(place, beside)
        beside.replace(place)
    except OSError as exc:
        raise InputError(
            f"{str(path)!r} cannot be written: {exc.strerror or exc}.",
            fix="free some space, close the program that has it open, or give another path",
        ) from exc
    finally:
        beside.unlink(missing_ok=True)
