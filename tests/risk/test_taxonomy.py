import pytest

from urisk_nb.errors import InputError
from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES, Category, Taxonomy

CLIMATE = Category(id="climate", name="Climate", definition="storms, floods, transition")


def test_the_ids_are_the_seven_in_their_order():
    """The ids are stable: they are columns of tables that people have stored."""
    assert DEFAULT.ids == (
        "market",
        "credit",
        "liquidity",
        "operational",
        "legal",
        "business",
        "governance",
    )
    assert DEFAULT.labels == (*DEFAULT.ids, "none")
    assert sorted(SEVERITIES) == [0, 1, 2, 3, 4, 5]


def test_the_hash_follows_what_the_model_reads():
    """Another definition, order or version is another hash; the same content is the same hash."""
    first, second = DEFAULT.categories[0], DEFAULT.categories[1]
    other = Category(id=first.id, name=first.name, definition=first.definition + ".")
    same = Taxonomy(categories=tuple(DEFAULT.categories), version=DEFAULT.version)
    variants = [
        Taxonomy(categories=(other, *DEFAULT.categories[1:]), version=DEFAULT.version),
        Taxonomy(categories=(second, first, *DEFAULT.categories[2:]), version=DEFAULT.version),
        Taxonomy(categories=DEFAULT.categories, version="mine"),
    ]
    assert same.hash == DEFAULT.hash
    assert len({DEFAULT.hash, *(variant.hash for variant in variants)}) == 4
    assert len(DEFAULT.hash) == 64


@pytest.mark.parametrize("id", ["", "Legal", "a b", "1st", NONE, "x" * 31, "legal;DROP", "../x"])
def test_an_id_must_serve_as_column_and_label(id):
    """
    An id that cannot be a column name and a label, or that means something else, is refused with
    the rule.
    """
    with pytest.raises(InputError, match="category id") as caught:
        Category(id=id, name="x", definition="x")
    assert "lower-case" in caught.value.fix


def test_a_category_needs_a_definition():
    """The model judges by the definition, so an empty one is refused."""
    with pytest.raises(InputError, match="no definition"):
        Category(id="climate", name="Climate", definition=" ")


def test_a_taxonomy_needs_categories_and_each_once():
    """Nothing to choose from, or two categories of one name, is refused."""
    with pytest.raises(InputError, match="no categories"):
        Taxonomy(categories=(), version="v")
    with pytest.raises(InputError, match="'climate' more than once"):
        Taxonomy(categories=(CLIMATE, CLIMATE), version="v")
