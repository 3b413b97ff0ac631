"""Whatever a user hands over is read under one roof."""

from __future__ import annotations

from urisk_nb.risk import documents, inputs, params, prices, tickers, values


def test_one_roof_for_what_the_user_gives():
    """
    Each reader and each record can be had from `inputs`, and is the one that its own module makes.
    """
    owners = {
        documents: ["Document", "documents_for", "read_evidence"],
        params: ["RiskParams", "alpha_label", "parallel_calls", "tail_mass"],
        prices: ["Prices", "read_prices"],
        tickers: ["Holding", "parse_tickers", "resolve", "normalize_weights"],
        values: ["closest", "count_noun", "kind"],
    }
    assert sorted(inputs.__all__) == sorted(name for names in owners.values() for name in names)
    assert all(
        getattr(inputs, name) is getattr(owner, name)
        for owner, names in owners.items()
        for name in names
    )
