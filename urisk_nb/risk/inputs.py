"""
What the user gives, under one roof: parameters, tickers, prices, evidence; each is read once into a
frozen record, or refused.

The work is done in `params`, `tickers`, `prices` and `documents`. Every shape that people hand over
(cell text, dicts, Series, wide and long frames, text for dates) is read there and nowhere else: the
rest of the package sees only the records. docs/metrics.md has the rules.

Three rules run through them. Nothing is guessed: a number is no date, words are no weight,
"01/02/2018" is no ISO date. What makes one company unusable is kept for its row (`Prices.faults`);
what makes the whole input doubtful raises before anything runs. A name that is not found is
answered with the closest ones.
"""

from __future__ import annotations

from urisk_nb.risk.documents import Document, documents_for, read_evidence
from urisk_nb.risk.params import RiskParams, alpha_label, read_parallel, tail_mass
from urisk_nb.risk.prices import Prices, read_prices
from urisk_nb.risk.tickers import Holding, normalize_weights, parse_tickers, resolve
from urisk_nb.risk.values import closest, count_noun, kind

__all__ = [
    "Document",
    "Holding",
    "Prices",
    "RiskParams",
    "alpha_label",
    "closest",
    "count_noun",
    "documents_for",
    "kind",
    "normalize_weights",
    "read_parallel",
    "parse_tickers",
    "read_evidence",
    "read_prices",
    "resolve",
    "tail_mass",
]
