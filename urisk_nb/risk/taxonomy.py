"""The kinds of risk that a sentence can be filed under, and the anchors of their severity."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from urisk_nb.errors import InputError

__all__ = ["DEFAULT", "NONE", "SEVERITIES", "Category", "Taxonomy"]

NONE = "none"  # the label of a sentence that is not about a risk of this company
SEVERITIES = {
    0: "reduces the risk",
    1: "remote or generic",
    2: "present, limited",
    3: "material, managed",
    4: "material and adverse now or within 12 months",
    5: "threatens survival",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One kind of risk: a stable id, a name for people, and the definition that the model reads."""

    id: str
    name: str
    definition: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z_]{0,29}", self.id) or self.id == NONE:
            raise InputError(
                f"category id {self.id!r} cannot be a column and a label.",
                fix=f"use lower-case letters and underscores, at most 30, and not {NONE!r}",
            )
        if not self.definition.strip():
            raise InputError(
                f"category {self.id!r} has no definition.",
                fix="say in a few words what belongs to it; the model reads them",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taxonomy:
    """
    A closed set of categories, in the order that breaks ties.

    Parameters
    ----------
    categories
        At least one; their ids become the columns ``r_<id>`` and the labels that the model may
        answer.
    version
        A tag that is recorded with each run beside the hash.

    Raises
    ------
    InputError
        No categories, or two with one id.
    """

    categories: tuple[Category, ...]
    version: str

    def __post_init__(self) -> None:
        if not self.categories:
            raise InputError("the taxonomy has no categories.", fix="give at least one Category")
        twice = sorted({category for category in self.ids if self.ids.count(category) > 1})
        if twice:
            raise InputError(
                f"the taxonomy has {twice[0]!r} more than once.",
                fix="give each category its own id",
            )

    @property
    def ids(self) -> tuple[str, ...]:
        """The category ids, in order."""
        return tuple(category.id for category in self.categories)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model may answer: the ids and ``none``."""
        return (*self.ids, NONE)

    @property
    def hash(self) -> str:
        """Sha256 over ids, names, definitions, anchors and version, as hex: what a run records."""
        content = [
            self.version,
            [[c.id, c.name, c.definition] for c in self.categories],
            sorted(SEVERITIES.items()),
        ]
        return hashlib.sha256(
            json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()
        ).hexdigest()


DEFAULT = Taxonomy(
    version="taxonomy_v1",
    categories=(
        Category(
            id="market",
            name="Market",
            definition="price, interest rate, currency or commodity exposure",
        ),
        Category(
            id="credit",
            name="Credit",
            definition="debt, refinancing, counterparties that may not pay",
        ),
        Category(
            id="liquidity", name="Liquidity", definition="cash runway, funding, ability to trade"
        ),
        Category(
            id="operational",
            name="Operational",
            definition="supply chain, people, systems, data breach, cyber attack, fraud",
        ),
        Category(
            id="legal",
            name="Legal",
            definition="fines, litigation, regulation, investigation, sanctions, tax, patents",
        ),
        Category(
            id="business",
            name="Business",
            definition="competition, demand, growth, customers, technology, strategy",
        ),
        Category(
            id="governance",
            name="Governance",
            definition="board, controls, accounting, disclosure, climate and social",
        ),
    ),
)
