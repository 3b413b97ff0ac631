"""The digest of a model that urisk_nb serves from a file of this machine: llama.cpp tells none.

It covers the model's file, the judge's adapter where one is loaded, and the name, since one server
gives the model beneath under one name and the judge under another.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from urisk_nb.embedded import weights
from urisk_nb.embedded.launcher import list_names
from urisk_nb.errors import FetchFailed
from urisk_nb.llm.messages import is_same_model
from urisk_nb.server.engines import demo_model_path
from urisk_nb.server.memory_usage import measure_memory
from urisk_nb.settings import Settings

__all__ = ["find_local_digest"]

MAX_WHOLE_BYTES = 1 << 30  # hashed whole in a second or two
SAMPLE_BYTES, SAMPLES = 1 << 20, 64
START_ERROR_S = 2.0  # how exactly the start of a process is known


def find_local_digest(settings: Settings, model: str, server_pid: int | None = None) -> str:
    """
    Return the digest of a model of the embedded engine, as `sha256:` and 64 hex digits.

    Blocks while the file is read, once a process. Empty where the file is not there, serves no
    model of this name, or was put in place after the server began, which still has the one before.

    Parameters
    ----------
    settings
        Those that the server was started with: they name the file.
    model
        Its name on the server.
    server_pid
        The process that serves it; None where none does yet.
    """
    path = settings.gguf or demo_model_path(settings)
    try:
        if path is None or not any(is_same_model(model, name) for name in list_names(path)):
            return ""
        about = path.stat()
        if server_pid is not None and _is_newer(about.st_ctime, server_pid):
            return ""
        content = _hash_file(path, about.st_size, about.st_mtime_ns)
        adapter = _hash_file(weights.adapter(), 0, 0) if len(list_names(path)) > 1 else ""
    except (OSError, FetchFailed):
        return ""
    name = model.partition(":")[0].lower()
    return f"sha256:{hashlib.sha256(f'{content} {adapter} {name}'.encode()).hexdigest()}"


def _is_newer(changed_s: float, server_pid: int) -> bool:
    """Return whether a file was put in place after a process began: a date may be set, not this."""
    server = measure_memory(server_pid)
    return server is not None and changed_s > server.started_at.timestamp() + START_ERROR_S


@functools.lru_cache(maxsize=8)
def _hash_file(path: Path, size: int, changed_ns: int) -> str:
    """
    Return the sha256 of a file. Of one beyond a gigabyte it is that of samples, with its size and
    the time of its last change: to read all of it would take longer than the answers.
    """
    with path.open("rb") as file:
        if size <= MAX_WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(f"{size} {changed_ns}".encode())
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
        return digest.hexdigest()
