"""One value as a person wrote it."""

from __future__ import annotations

from urisk_nb.risk.values import find_closest


def test_the_closest_names_come_first():
    """Suggestions are by spelling, whatever the case."""
    assert find_closest("nvdia", ["MSFT", "Nvda", "NVDB"], 1) == ["Nvda"]
    assert find_closest("XYZ", ["NVDA"]) == []
