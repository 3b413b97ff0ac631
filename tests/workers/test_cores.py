"""How many worker processes there are."""

import os

import pytest

from urisk_nb.errors import SettingsError
from urisk_nb.workers import cores
from urisk_nb.workers.cores import count_workers, read_given_count

GB = 1_000_000_000


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """Eight cores and much memory, in no container."""
    monkeypatch.delenv("URISK_WORKERS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr(cores, "CGROUP_V1", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 100 * GB}))
    return tmp_path


def test_all_cores_by_default():
    assert count_workers() == 8


def test_the_affinity_counts(monkeypatch):
    """`taskset` and schedulers of clusters set it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3})
    assert count_workers() == 2


def test_the_limit_of_a_container_counts(machine):
    """Of both kinds of control groups; a part of a core is a core."""
    (machine / "cpu.max").write_text("250000 100000\n")
    assert count_workers() == 3
    (machine / "cpu.max").write_text("max 100000\n")
    assert count_workers() == 8
    (machine / "cpu.max").unlink()
    (machine / "cpu.cfs_quota_us").write_text("150000\n")
    (machine / "cpu.cfs_period_us").write_text("100000\n")
    assert count_workers() == 2
    (machine / "cpu.cfs_quota_us").write_text("-1\n")
    assert count_workers() == 8


def test_the_free_memory_counts(machine, monkeypatch):
    """That of the machine and that of the container."""
    (machine / "memory.max").write_text(f"{3 * GB}\n")
    (machine / "memory.current").write_text(f"{2 * GB}\n")
    assert count_workers() == 2
    (machine / "memory.max").write_text("max\n")
    assert count_workers() == 8
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": GB / 10}))
    assert count_workers() == 1


def test_the_user_decides(monkeypatch, tmp_path):
    """The environment, then `.env`; more than there are cores, too."""
    (tmp_path / ".env").write_text("URISK_WORKERS=12\n")
    assert read_given_count() == 12
    monkeypatch.setenv("URISK_WORKERS", "1")
    assert read_given_count() == 1
    monkeypatch.delenv("URISK_WORKERS")
    (tmp_path / ".env").unlink()
    assert read_given_count() is None


@pytest.mark.parametrize("value", ["0", "257", "two", "-1", "1.5", "²"])
def test_another_value_is_refused(monkeypatch, value):
    """The error names the variable and what was seen, and its line works."""
    monkeypatch.setenv("URISK_WORKERS", value)
    with pytest.raises(SettingsError, match="URISK_WORKERS is") as caught:
        read_given_count()
    name, _, fixed = caught.value.fix.removeprefix("%env ").partition("=")
    monkeypatch.setenv(name, fixed)
    assert read_given_count() == 1
