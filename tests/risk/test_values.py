"""One value as a person wrote it."""

from __future__ import annotations

from urisk_nb.risk.values import closest


def test_the_closest_names_come_first():
    """Suggestions are by spelling, whatever the case."""
    assert closest("nvdia", ["MSFT", "Nvda", "NVDB"], 1) == ["Nvda"]
    assert closest("XYZ", ["NVDA"]) == []
