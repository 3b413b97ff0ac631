"""A file of families that the user gives."""

import pytest

from urisk_nb import assess
from urisk_nb.errors import InputError
from urisk_nb.readers.family_file import MAX_BYTES, read_family_file
from urisk_nb.risk.families import load_families
from urisk_nb.risk.taxonomy import Category, Taxonomy

FERRY = "[ferry]\ncategory = 'operational'\ndecisive = true\npatterns = ['ferry sank']\n"
EVIDENCE = {"AAA": ["The ferry sank in June 2023."]}


def test_a_file_adds_to_the_families_of_the_package(tmp_path):
    """With a byte order mark, too."""
    path = tmp_path / "mine.toml"
    path.write_text("\ufeff" + FERRY, encoding="utf-8")
    assert [one.name for one in read_family_file(str(path))][-1] == "ferry"
    assert len(read_family_file(str(path))) == len(load_families()) + 1


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "more than"),
        (None, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, content, seen):
    """The error names the file."""
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=seen) as caught:
        read_family_file(str(path))
    assert "mine.toml" in str(caught.value)


def test_a_category_that_the_run_does_not_know_is_refused(tmp_path):
    """Its events would count for nothing; the likely one is named, and the fix works."""
    path = tmp_path / "mine.toml"
    path.write_text(FERRY.replace("operational", "operations"), encoding="utf-8")
    with pytest.raises(InputError, match=r"mine.toml: \[ferry\] has category = 'operations'") as no:
        assess(["AAA"], evidence=EVIDENCE, params={"llm": False}, families=path)
    assert no.value.fix == "did you mean operational?"
    category = Category(id="operations", name="Operations", definition="how work is done")
    own = Taxonomy(categories=(category,), version="mine")
    table = assess(["AAA"], evidence=EVIDENCE, params={"llm": False}, families=path, taxonomy=own)
    assert table.loc["AAA", "alerts"] == "ferry"


def test_a_run_takes_the_file(tmp_path):
    """As an argument and as a parameter; recorded; no model is needed."""
    path = tmp_path / "mine.toml"
    path.write_text(FERRY, encoding="utf-8")
    table = assess(["AAA"], evidence=EVIDENCE, params={"llm": False}, families=path)
    assert table.loc["AAA", "alerts"] == "ferry"
    assert table.report.meta["params"]["families"] == str(path)
    again = assess(["AAA"], evidence=EVIDENCE, params={"llm": False, "families": str(path)})
    assert again.report.meta["families_hash"] == table.report.meta["families_hash"]
    assert assess(["AAA"], evidence=EVIDENCE, params={"llm": False}).loc["AAA", "alerts"] == ""
