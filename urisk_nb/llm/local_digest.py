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
from urisk_nb.settings import Settings

__all__ = ["find_local_digest"]

MAX_WHOLE_BYTES = 1 << 30  # hashed whole in a second or two
SAMPLE_BYTES, SAMPLES = 1 << 20, 64


def find_local_digest(settings: Settings, model: str) -> str:
    """
    Return the digest of a model of the embedded engine, as `sha256:` and 64 hex digits.

    Blocks while the file is read, once a process. Empty where the file is not there, or serves no
    model of this name.

    Parameters
    ----------
    settings
        Those that the server was started with: they name the file.
    model
        Its name on the server.
    """
    path = settings.gguf or demo_model_path(settings)
    try:
        if path is None or not any(is_same_model(model, name) for name in list_names(path)):
            return ""
        about = path.stat()
        content = _hash_file(path, about.st_size, about.st_mtime_ns)
        adapter = _hash_file(weights.adapter(), 0, 0) if len(list_names(path)) > 1 else ""
    except (OSError, FetchFailed):
        return ""
    name = model.partition(":")[0].lower()
    return f"sha256:{hashlib.sha256(f'{content} {adapter} {name}'.encode()).hexdigest()}"


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
