"""Families of distress: the file's format, what is refused, and that no search is slow."""

import time

import pytest

from urisk_nb.errors import InputError
from urisk_nb.risk.families import (
    fold_text,
    hash_families,
    load_families,
    make_finder,
    read_families,
)
from urisk_nb.risk.taxonomy import DEFAULT

DECISIVE = {"survival", "default", "order", "accounts", "listing", "accident"}
FERRY = """
[ferry]
category = "operational"
cap = 4
weight = 8
decisive = true
core = ['ferry (?:sank|capsized)']
patterns = ['\\bferry\\b']
"""


def test_the_package_has_thirteen_families():
    """Six are decisive, and each belongs to a category of the taxonomy."""
    families = {one.name: one for one in load_families()}
    assert {name for name, one in families.items() if one.is_decisive} == DECISIVE
    assert set(families) - DECISIVE == {
        *("strain", "loss", "inquiry", "suits", "rating", "decline", "lean")
    }
    assert {one.category for one in families.values()} <= set(DEFAULT.ids)
    assert (families["survival"].cap, families["order"].cap, families["decline"].cap) == (5, 4, 2)
    floors = {name: one.floor for name, one in families.items() if one.is_decisive}
    assert floors == {**dict.fromkeys(DECISIVE, 4), "accident": 2}


def test_a_family_is_added_and_another_replaced():
    """The same name replaces where it stood; a new one comes last."""
    base = load_families()
    lean = "[lean]\ncategory = 'credit'\ncap = 1\npatterns = ['thinly capitali[sz]ed']"
    families = read_families(FERRY + lean, "mine.toml", base=base)
    assert [one.name for one in families] == [*(one.name for one in base), "ferry"]
    by_name = {one.name: one for one in families}
    assert by_name["lean"].cap == 1
    assert [cue.is_core for cue in by_name["ferry"].cues] == [True, False]
    assert hash_families(families) != hash_families(base)


def test_a_decisive_family_without_core_is_decided_by_all_its_words():
    """Otherwise it could never be an alert."""
    text = "[mine]\ncategory = 'legal'\ndecisive = true\npatterns = ['mine flooded']"
    (family,) = read_families(text, "mine.toml")
    assert [cue.is_core for cue in family.cues] == [True]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("[a", "is not TOML"),
        ("", "has no family"),
        ("a = 1", "is not a table"),
        ("['A b']\ncategory='legal'\npatterns=['x']", "is not a name"),
        ("[a]\ncategory='legal'\npattern=['x']", "unknown key 'pattern'"),
        ("[a]\npatterns=['x']", "has no category"),
        ("[a]\ncategory=3\npatterns=['x']", "has category = 3"),
        ("[a]\ncategory='legal'", "has no patterns"),
        ("[a]\ncategory='legal'\npatterns='x'", "is not a list"),
        ("[a]\ncategory='legal'\npatterns=['(x']", "is not a regular expression"),
        ("[a]\ncategory='legal'\npatterns=['x?']", "matches an empty text"),
        ("[a]\ncategory='legal'\npatterns=['Court']", "has a capital"),
        ("[a]\ncategory='legal'\npatterns=['(?:\\w+ )+x']", "repeats a group"),
        ("[a]\ncategory='legal'\npatterns=['(?:a+){3,}x']", "repeats a group"),
        ("[a]\ncategory='legal'\ncap=6\npatterns=['x']", "has cap = 6"),
        ("[a]\ncategory='legal'\ncap=2.5\npatterns=['x']", "has cap = 2.5"),
        ("[a]\ncategory='legal'\ncap=3\nfloor=4\npatterns=['x']", "has floor = 4"),
        ("[a]\ncategory='legal'\nfloor=1.5\npatterns=['x']", "has floor = 1.5"),
        ("[a]\ncategory='legal'\nweight=true\npatterns=['x']", "has weight = True"),
        ("[a]\ncategory='legal'\ndecisive=1\npatterns=['x']", "has decisive = 1"),
    ],
)
def test_a_bad_file_is_refused(text, seen):
    """The error names the file, what was seen, and a way out."""
    with pytest.raises(InputError) as caught:
        read_families(text, "mine.toml")
    assert seen in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("pattern", "literals"),
    [
        (r"going concerns?\b", {"going concern"}),
        (r"\bchapter (?:11|7)\b", {"chapter "}),
        (r"(?:auditors?|kpmg)\b.{0,60}(?:resign|withdr)\w*", {"resign", "withdr"}),
        (r"recall|stop[- ]sale", {"recall", "stop"}),
        (r"(?:not )?sunk", {"sunk"}),
        (r"ab|sunk", set()),  # an alternative without three characters is searched always
        (r"colou?r of [a-z]{2}", {"r of "}),
        (r"(?!a )\w+ed\b", set()),
        (r"cease\x2dand", {"cease"}),
        (r"\u0063eased", {"eased"}),
        (r"\143eased work", {"eased work"}),
        (r"[^]abcd]x[\]efgh]sunk", {"sunk"}),
    ],
)
def test_what_every_match_has_is_looked_for_first(pattern, literals):
    """A necessary text that no match lacks; else sentences would be lost."""
    (family,) = read_families(f"[a]\ncategory='legal'\npatterns=['{pattern}']", "a.toml")
    assert family.cues[0].literals == literals


def test_folding():
    """Case, quotation marks, dashes and white space are one."""
    assert fold_text("The  Company\u2019s\n\u201cCease\u2013and\u2014Desist\u201d") == (
        'the company\'s "cease-and-desist"'
    )


HOSTILE = (
    "a " * 300,
    "a" * 600,
    "not " * 150,
    "$1,1,1,1" * 75,
    "waive covenant default " * 26,
    "failed to make a payment of interest " * 16,
    "no assurance cash sufficient to fund " * 16,
    "restated restatement previously reported financial statements " * 10,
    "the company, which, because, if; " * 18,
    "((((" * 150,
    "\u2019s " * 200,
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_makes_a_pattern_slow(text):
    """A sentence has 600 characters at most; no pattern takes a tenth of a second for one."""
    text = fold_text(text[:600])
    for family in load_families():
        for cue in family.cues:
            began = time.process_time()
            for _ in range(3):
                cue.pattern.search(text)
            assert (time.process_time() - began) / 3 < 0.1, cue.pattern.pattern


def test_the_finder_misses_no_cue():
    """It returns each cue that matches a text, in the order of the families."""
    families = load_families()
    finder = make_finder(families)
    texts = (
        *("a notice of default was received.", "we lost a customer", "", "no"),
        "the going concern doubt, the class action, the restated accounts and the recall.",
    )
    for text in texts:
        matching = [
            (family.name, cue.pattern.pattern)
            for family in families
            for cue in family.cues
            if cue.pattern.search(text)
        ]
        found = [(family.name, cue.pattern.pattern) for family, cue in finder.find(text)]
        assert [one for one in found if one in matching] == matching


def test_a_cue_without_a_literal_is_tried_everywhere():
    """A pattern of which no letters are certain matches whatever it matches."""
    (family,) = read_families("[odd]\ncategory = 'credit'\npatterns = ['z[aeiou]z']", "own")
    assert make_finder((family,)).find("nothing of it") == [(family, family.cues[0])]
