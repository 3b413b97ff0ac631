"""The jobs of a worker: read one file, or select the evidence of one ticker."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from urisk_nb.errors import UriskError
from urisk_nb.readers.file_content import FileContent, read_content, try_to_read
from urisk_nb.risk.selection import EvidenceSelection, SelectionTask, select_evidence
from urisk_nb.risk.task_bytes import decode_selection, encode_task
from urisk_nb.workers.pool import Job

__all__ = ["READ_FILE", "SELECT", "read_file_bytes"]


def read_file_bytes(name: bytes) -> bytes:
    """Return the content of a file, pickled; raise an error if it cannot be read."""
    return pickle.dumps(read_content(Path(os.fsdecode(name))))


def _decode_content(data: bytes, _: Path) -> FileContent | UriskError:
    content: FileContent = pickle.loads(data)  # noqa: S301  written by `read_file_bytes`
    return content


READ_FILE: Job[Path, FileContent | UriskError] = Job(
    function="urisk_nb.reading.jobs:read_file_bytes",
    encode=os.fsencode,
    decode=_decode_content,
    run_locally=try_to_read,
)
SELECT: Job[SelectionTask, EvidenceSelection] = Job(
    function="urisk_nb.risk.task_bytes:select_bytes",
    encode=encode_task,
    decode=decode_selection,
    run_locally=select_evidence,
)
