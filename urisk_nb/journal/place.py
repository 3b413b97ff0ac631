"""Where the journal is: URISK_JOURNAL, or a folder of the user's own.

Read anew for each run, and without pydantic: a run without evidence starts no server and should not
pay for the settings of one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from urisk_nb.env_file import read_variable

__all__ = ["NAME", "VARIABLE", "find_path"]

VARIABLE = "URISK_JOURNAL"
NAME = "journal.sqlite3"
OFF = ("off", "none", "no", "false", "0")


def find_path() -> Path | None:
    """
    Return the file of the journal; None where URISK_JOURNAL is `off`.

    The variable counts from the environment, then from the nearest `.env`. The file need not exist.
    """
    given = read_variable(VARIABLE)
    if given.lower() in OFF:
        return None
    if given:
        path = Path(os.path.expanduser(given))  # noqa: PTH111  `~` of nobody stays as it is
        with contextlib.suppress(OSError):  # whoever makes the file says that the folder is gone
            path = path.absolute()  # a run may go on after a `%cd`
        return path
    from platformdirs import user_data_path

    return user_data_path("urisk_nb", appauthor=False) / "journal" / NAME
