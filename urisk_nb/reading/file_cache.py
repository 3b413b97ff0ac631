"""
Cache the text of web pages, PDF and Word files by content, because they are slow to read.

Text files are not cached: they are read faster than looked up.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import urisk_nb
from urisk_nb.errors import UriskError
from urisk_nb.readers.file_content import (
    KINDS,
    FileContent,
    FileMapper,
    find_suffix,
    try_to_read,
)
from urisk_nb.reading.packed_cache import PackedCache

__all__ = ["remember_files"]

MAX_FILES = 200  # of a folder: more would not fit into the cache, and take long to look up
SLOW_KINDS = ("html", "pdf", "docx")
MAX_FILE_BYTES = 20_000_000
# Its date may come from another file in its folder
_DATED_BY_OTHERS = re.compile(r"primary[-_]doc", re.IGNORECASE)


def remember_files(map_files: FileMapper, cache: PackedCache) -> FileMapper:
    """Return a mapper that reads only files that are not in the cache."""

    def map_new(paths: Sequence[Path]) -> Iterator[FileContent | UriskError]:
        if len(paths) > MAX_FILES:
            yield from map_files(paths)
            return
        keys = [_hash_file(path) for path in paths]
        are_new = [key not in cache for key in keys]
        contents = map_files([*itertools.compress(paths, are_new)])
        for path, key, is_new in zip(paths, keys, are_new, strict=True):
            if is_new:
                yield _keep(cache, key, path, next(contents))
            else:
                yield _find(cache, key) or try_to_read(path)

    return map_new


def _hash_file(path: Path) -> bytes:
    """Return a hash of a file's bytes, name and folders; empty if the file is not cached."""
    try:
        is_large = path.stat().st_size > MAX_FILE_BYTES
        if (
            is_large
            or KINDS.get(find_suffix(path)) not in SLOW_KINDS
            or _DATED_BY_OTHERS.match(path.name)
        ):
            return b""
        digest = hashlib.blake2b(path.read_bytes(), digest_size=32)
    except OSError:
        return b""
    digest.update(repr((urisk_nb.__version__, path.parts[-3:])).encode("utf-8", "surrogatepass"))
    return digest.digest()


def _keep(
    cache: PackedCache, key: bytes, path: Path, content: FileContent | UriskError
) -> FileContent | UriskError:
    # Hashed again: a file that was replaced meanwhile says something else than these bytes
    if key and isinstance(content, FileContent) and _hash_file(path) == key:
        cache.keep(key, pickle.dumps(content))
    return content


def _find(cache: PackedCache, key: bytes) -> FileContent | None:
    if (data := cache.find(key)) is None:
        return None
    try:
        content: FileContent = pickle.loads(data)  # noqa: S301  written by `_keep`
    except Exception:  # noqa: BLE001  written before the package was reloaded
        return None
    return content
