"""Categories of the user's own in a TOML file."""

import re

import pytest

from harness import ROOT
from urisk_nb.errors import InputError
from urisk_nb.readers.taxonomy_file import read_taxonomy_file
from urisk_nb.risk.taxonomy import Category, Taxonomy


def write(folder, text):
    path = folder / "desk.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_file_of_the_page_is_read(tmp_path):
    """In its order, with names and a version where none is written."""
    page = (ROOT / "docs/howto/your-own-model.md").read_text(encoding="utf-8")
    text = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    supply = Category(id="supply", name="Supply", definition="suppliers, parts, ports, shipping")
    rates = Category(
        id="rates",
        name="Interest rates",
        definition="interest rates, refinancing, covenants",
    )
    assert read_taxonomy_file(write(tmp_path, text)) == Taxonomy(
        version="desk-1", categories=(supply, rates)
    )
    short = read_taxonomy_file(
        str(write(tmp_path, '\ufeff[b_c]\ndefinition = "x"\n[a]\ndefinition = "y"'))
    )
    assert (short.version, short.ids) == ("desk", ("b_c", "a"))
    assert short.categories[0].name == "B c"


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("", "no categories", "at least one"),
        ("[a", "it is no TOML", "[supply]"),
        ("a = 3", "'a' is no category, but 3", "[supply]"),
        ('[a]\ndefinitoin = "x"', "unknown key 'definitoin'", "did you mean definition?"),
        ("[a]\ndefinition = 3", "[a] has definition = 3", 'definition = "..."'),
        ("[a]", "'a' has no definition", "the model reads them"),
        ('["A b"]\ndefinition = "x"', "category id 'A b'", "lower-case"),
        ('[none]\ndefinition = "x"', "category id 'none'", "not 'none'"),
        ('version = 2\n[a]\ndefinition = "x"', "version is 2", 'version = "desk-1"'),
        ("[" * 3000, "it is no TOML", "[supply]"),
        ("# " + "x" * 1_000_001, "more than 1,000,000 bytes", "[supply]"),
    ],
)
def test_what_is_no_category_is_named(tmp_path, text, said, fix):
    """With the file, and what to write."""
    with pytest.raises(InputError) as caught:
        read_taxonomy_file(write(tmp_path, text))
    assert caught.value.message.startswith("the file of categories 'desk.toml'")
    assert said in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_is_not_there(tmp_path, name):
    """Or a folder."""
    with pytest.raises(InputError, match="cannot be read"):
        read_taxonomy_file(tmp_path / name)


def test_bytes_that_are_no_text(tmp_path):
    """As any other that is no TOML."""
    (tmp_path / "desk.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is no TOML"):
        read_taxonomy_file(tmp_path / "desk.toml")
