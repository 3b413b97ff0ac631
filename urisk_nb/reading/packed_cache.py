"""A compressed cache of what was read in this process, at most 64 MB."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from threading import Lock

from urisk_nb import process_state

__all__ = ["MAX_BYTES", "NAME", "PackedCache", "find_cache"]

MAX_BYTES = 64_000_000
LEVEL = 1  # of zlib: a tenth of the time for a quarter more bytes
NAME = "read-before"


class PackedCache:
    """Compressed bytes by a hash of their source; drops the least recently used over a limit."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.held_bytes = max_bytes, 0
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, key: bytes) -> bool:
        """Return whether the cache has a key."""
        return key in self._entries

    def find(self, key: bytes) -> bytes | None:
        """Return the bytes of a key, or None."""
        with self._lock:
            if (packed := self._entries.get(key)) is None:
                return None
            self._entries.move_to_end(key)
        return zlib.decompress(packed)

    def keep(self, key: bytes, data: bytes) -> None:
        """Store bytes under a key, and drop the least recently used entries over the limit."""
        packed = zlib.compress(data, LEVEL)
        with self._lock:
            self.held_bytes += len(packed) - len(self._entries.pop(key, b""))
            self._entries[key] = packed
            while self.held_bytes > self.max_bytes:
                self.held_bytes -= len(self._entries.popitem(last=False)[1])


def find_cache() -> PackedCache:
    """Return the cache of this process; it survives a reload of the package."""
    cache: PackedCache = process_state.setdefault(NAME, PackedCache)
    return cache
