"""urisk-judge as a decision model: a few entries in a model's header, and the copy that has them.

Knows: which entries llama.cpp looks for, and that the adapter's file has them.
Does not know: what the template says, or how the server is started.
Why a copy: llama.cpp reads these entries from the model's own file alone. They are kept with the
adapter, since template and temperatures belong to its weights and to no others.

The copy's chats begin with a line end. llama.cpp caches what it has read, and reuses it as far as
the next prompt begins alike, even if one was read with the adapter and the other without it. A
decision after a chat would then reuse a token that the chat had read without the adapter, and give
other probabilities (0.38 for 0.33). So a chat and a decision never begin alike.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from urisk_nb.embedded.gguf_header import (
    Header,
    encode_header,
    encode_text,
    read_header,
    read_text,
    write_copy,
)
from urisk_nb.embedded.weights import place_atomically
from urisk_nb.errors import FetchFailed

__all__ = [
    "NAMES",
    "TEMPERATURE",
    "TEMPLATE",
    "TYPE",
    "is_decision_key",
    "prepare_model",
    "read_entries",
    "write_without_type",
]

TYPE = "llama.decision.type"
TEMPLATE = "tokenizer.chat_template.systemone"
NAMES = "tokenizer.chat_templates"
TEMPERATURE = "llama.decision.temperature."
KEYS = (TEMPLATE, NAMES)
PREFIX = "llama.decision."  # the type and the temperatures
CHAT_TEMPLATE, LINE_END = "tokenizer.chat_template", r"{{ '\n' }}"
DIGITS = 12  # of the adapter's hash, in the name of a copy
LEFT_OVER_S = 3600.0  # an older part of a file belongs to a process that was killed


def is_decision_key(key: str) -> bool:
    """Return whether an entry of this key is one of those that make a decision model."""
    return key in KEYS or key.startswith(PREFIX)


def read_entries(adapter: Path) -> dict[str, bytes]:
    """
    Return the entries of an adapter that make a decision model of its base.

    Raises
    ------
    FetchFailed
        The file cannot be read, or it has no such entries.
    """
    found = read_header(adapter).entries
    entries = {key: entry for key, entry in found.items() if is_decision_key(key)}
    if TYPE not in entries or TEMPLATE not in entries:
        raise FetchFailed(
            f"{adapter} does not make a decision model: it has no {TYPE}, or no template.",
            fix="use an adapter that training/train.py wrote",
        )
    return entries


@contextlib.contextmanager
def prepare_model(base: Path, adapter: Path) -> Iterator[Path]:
    """
    Yield a copy of the base that is a decision model by the adapter's entries.

    It is made in some 0.3 s, and used again as long as it is complete. It is beside the base, or
    else in the user's data folder; copies for other adapters are removed there. If neither can be
    written to, it is in a temporary folder, which is removed afterwards: llama.cpp keeps its file
    open.

    Raises
    ------
    FetchFailed
        A file is not a GGUF file, the adapter lacks the entries, or there is no room to write.
    """
    header = read_header(base)
    try:
        head = encode_header(header, _list_entries(header, adapter))
    except ValueError as exc:
        raise FetchFailed(
            f"{base} has a {CHAT_TEMPLATE} that is not text: {exc}.", fix="fetch it again"
        ) from exc
    with adapter.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    start = f"{base.stem}-decision-"
    size_bytes = len(head) + base.stat().st_size - header.data_offset

    def place(folder: Path) -> Path:
        path = folder / f"{start}{digest[:DIGITS]}.gguf"
        if not _is_whole(path, head, size_bytes):
            _remove_others(folder, start, path)
            with place_atomically(path, folder) as part, part.open("wb") as out:
                write_copy(base, header, head, out)
        return path

    for folder in _list_folders(base):
        with contextlib.suppress(OSError):
            path = place(folder)
            break
    else:
        with contextlib.ExitStack() as stack:
            with _translate_errors():
                own = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                path = place(Path(stack.enter_context(own)))
            yield path
        return
    yield path


def _list_entries(header: Header, adapter: Path) -> dict[str, bytes]:
    """Return the entries of the copy's header."""
    entries = {**header.entries, **read_entries(adapter)}
    if (chat := entries.get(CHAT_TEMPLATE)) is not None:
        entries[CHAT_TEMPLATE] = encode_text(CHAT_TEMPLATE, LINE_END + read_text(chat))
    return entries


def _list_folders(base: Path) -> tuple[Path, ...]:
    from platformdirs import user_data_path

    return base.parent, user_data_path("urisk_nb", appauthor=False)


def _is_whole(path: Path, head: bytes, size_bytes: int) -> bool:
    try:
        with path.open("rb") as file:
            return path.stat().st_size == size_bytes and file.read(len(head)) == head
    except OSError:
        return False


def _remove_others(folder: Path, start: str, kept: Path) -> None:
    """Remove copies for other adapters, and parts that a killed process left behind."""
    old_s = time.time() - LEFT_OVER_S
    for path in folder.glob(f"{glob.escape(start)}{'[0-9a-f]' * DIGITS}.gguf"):
        if path != kept:
            with contextlib.suppress(OSError):  # another process may have it, or not allow it
                path.unlink()
    for path in folder.glob(".part-*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < old_s:
                path.unlink()


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except FetchFailed:
        raise
    except OSError as exc:
        raise FetchFailed(
            f"a copy of the model cannot be written: {exc.strerror or exc}.",
            fix="free some 100 MB, or set URISK_DATA to a folder that you can write to",
        ) from exc


def write_without_type(source: Path, out: Path) -> Path:
    """
    Write a decision model as a plain one: the same file without the entry that names its type.

    Template and temperatures stay. Ollama from 0.35 on takes a file with an unknown type for a
    decision model, and refuses every question to it.

    Raises
    ------
    FetchFailed
        The source is not a GGUF file, or the other file cannot be written.
    """
    header = read_header(source)
    entries = {key: entry for key, entry in header.entries.items() if key != TYPE}
    with _translate_errors(), place_atomically(out, out.parent) as part, part.open("wb") as file:
        write_copy(source, header, encode_header(header, entries), file)
    return out
