"""This year's sentences against last year's: repeated, changed, new, gone."""

import pickle
import random
import time
from datetime import date

import pytest

from urisk_nb.risk.changes import MIN_OVERLAP, compare, find_near, select_previous
from urisk_nb.risk.evidence import split
from urisk_nb.risk.inputs import Document, Section


def report(text, name="norwick.htm", day=None, form="10-K", ticker="NWK", **more):
    return Document(id=name, ticker=ticker, text=text, source=name, date=day, form=form, **more)


def compare_texts(new, old, **more):
    this_year, last_year = (
        split(report(text, name, **more)).sentences for text, name in ((new, "new"), (old, "old"))
    )
    return compare(this_year, last_year)


def list_kinds(changes):
    return [change.kind for change in changes.current.values()]


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("Our lathes  are made\nin Norwick.", "our lathes are made in NORWICK."),
        (
            "The plant\u2019s boiler, which is old, failed.",
            "The plant's boiler which is old failed.",
        ),
        ("The plants boiler failed.", "The plant's boiler failed."),
        ("The terms are on page 45 of this report.", "The terms are on page 47 of this report."),
        ("The terms are on pages F-12 to F-15 here.", "The terms are on pages F-13 to F-16 here."),
        ("We lease our plant. 17", "We lease our plant. 212"),
        ("Sales of \u201clathes\u201d rose \u2013 again.", 'Sales of "lathes" rose - again.'),
    ],
)
def test_form_is_no_change(new, old):
    """Case, white space, punctuation and the numbers of pages make no difference."""
    assert list_kinds(compare_texts(new, old)) == ["repeated"]


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("Sales were $41.2 million in fiscal 2025.", "Sales were $38.9 million in fiscal 2024."),
        ("Sales rose 4 % in fiscal 2025.", "Sales fell 4 % in fiscal 2024."),
        (
            "We are not in compliance with the covenants of our bank loan.",
            "We are in compliance with the covenants of our bank loan.",
        ),
    ],
)
def test_what_rolls_forward_or_turns_is_changed(new, old):
    """Years and amounts, a direction and a "not" are changes, with the old wording beside."""
    changes = compare_texts(new, old)
    (change,) = changes.current.values()
    assert (change.kind, change.old.quote, changes.gone) == ("changed", old, ())


def test_other_words_are_new_and_the_old_ones_gone():
    changes = compare_texts(
        "We make lathes. A fire destroyed the foundry in May.",
        "We make lathes. Our largest customer renewed its contract.",
    )
    assert list_kinds(changes) == ["repeated", "new"]
    assert [one.sentence.quote for one in changes.gone] == [
        "Our largest customer renewed its contract."
    ]
    assert changes.counts == {"new": 1, "changed": 0, "repeated": 1, "gone": 1}
    assert changes.share_repeated == 0.5
    assert [changes.is_fresh(one.sentence) for one in changes.current.values()] == [False, True]


@pytest.mark.parametrize(("count", "is_uneven"), [(4, True), (5, False), (18, False), (19, True)])
def test_an_extract_beside_a_report_is_uneven(count, is_uneven):
    """Less than half of the other year's sentences, whichever year it is; nine in the other."""
    new, old = (" ".join(f"We make lathe {one}." for one in range(many)) for many in (count, 9))
    changes = compare_texts(new, old)
    assert (len(changes.current), changes.previous_count) == (count, 9)
    assert changes.is_uneven == is_uneven


def test_the_threshold_is_the_share_of_common_words():
    """4 of 8 different words is half: just changed; 4 of 9 is not."""
    old = "alpha beta gamma delta epsilon zeta."  # 6 words
    at = compare_texts("Alpha beta gamma delta one two.", old)
    below = compare_texts("Alpha beta gamma delta one two three.", old)
    assert MIN_OVERLAP == 0.5
    assert list_kinds(at) == ["changed"]
    assert list_kinds(below) == ["new"]


def test_each_old_sentence_is_used_once_by_the_nearest():
    """The closer of two new sentences gets it; the other one is new."""
    changes = compare_texts(
        "The Ashby plant makes steel gears for trucks and buses. "
        "The Ashby plant makes steel gears for trucks and vans.",
        "The Ashby plant makes steel gears for trucks and large vans.",
    )
    assert list_kinds(changes) == ["new", "changed"]


def test_a_repeated_sentence_is_the_old_wording_of_no_other():
    """What still stands there was not changed into something else."""
    changes = compare_texts(
        "We owe the bank 5 million dollars. We owe the bank 9 million dollars.",
        "We owe the bank 5 million dollars.",
    )
    assert list_kinds(changes) == ["repeated", "new"]


def test_sections_come_first():
    """A sentence is compared within its section, even where another one has a closer wording."""

    def build(name, *parts):
        sections, text = [], ""
        for section, body in parts:
            sections.append(Section(name=section, start=len(text)))
            text += body + "\n\n"
        return split(report(text, name, sections=tuple(sections))).sentences

    new = build("new", ("Item 1A", "The strike at our Ashby plant may last for long."))
    old = build(
        "old",
        ("Item 7", "The strike at our Ashby plant may last for weeks."),
        ("Item 1A", "A strike at the Ashby plant may last for some time."),
    )
    (change,) = compare(new, old).current.values()
    assert change.old.section == "Item 1A"
    moved = compare(new, old[:1])  # there is no other: then anywhere
    assert [one.old.section for one in moved.current.values()] == ["Item 7"]
    assert compare(new, old).sections == {
        "Item 1A": {"new": 0, "changed": 1, "repeated": 0, "gone": 0},
        "Item 7": {"new": 0, "changed": 0, "repeated": 0, "gone": 1},
    }


def jaccard(one, other):
    one, other = set(one.split()), set(other.split())
    return len(one & other) / len(one | other)


def test_no_pair_is_missed():
    """The closest pairs are those of a plain comparison of all with all."""
    rng = random.Random(7)
    words = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(60)]
    draw = lambda: " ".join(rng.sample(words, rng.randint(4, 14)))  # noqa: E731
    old = [draw() for _ in range(150)]
    new = [draw() for _ in range(75)]
    for text in old[:75]:
        kept = text.split()
        kept[0 : rng.randint(0, 3)] = rng.sample(words, 2)
        new.append(" ".join(kept))
    ranked = sorted(
        (-jaccard(a, b), abs(i * len(old) / len(new) - j), i, j)
        for i, a in enumerate(new)
        for j, b in enumerate(old)
        if jaccard(a, b) >= MIN_OVERLAP
    )
    wanted, taken = {}, set()
    for _, _, i, j in ranked:
        if i not in wanted and j not in taken:
            wanted[i] = j
            taken.add(j)
    assert len(wanted) > 40
    sentences = [
        [
            split(report(text.capitalize() + ".", f"n{n}")).sentences[0]
            for n, text in enumerate(side)
        ]
        for side in (new, old)
    ]
    assert find_near(*sentences) == wanted


@pytest.mark.slow
def test_two_thousand_sentences_take_a_second():
    """2,000 against 2,000, all changed, of the words that every filing has."""
    rng = random.Random(3)
    common = [f"c{n}x".translate(str.maketrans("0123456789", "abcdefghij")) for n in range(3000)]
    weights = [1 / (n + 1) for n in range(3000)]

    def write(year):
        rng.seed(3)
        lines = []
        for n in range(2000):
            words = rng.choices(common, weights, k=25)
            words[0], words[12] = words[0].capitalize(), f"{year}"
            lines.append(" ".join(words) + f" y{n % 10}.")
        return split(report("\n\n".join(lines), str(year))).sentences

    new, old = write("twentyfive"), write("twentyfour")
    began = time.process_time()
    changes = compare(new, old)
    took = time.process_time() - began
    assert changes.counts["changed"] > 1900
    assert took < 3  # 1 s on an idle core; the machine may be busy


@pytest.mark.slow
def test_a_thousand_items_of_one_wording_are_compared_in_seconds():
    """Each is like each, and what stands at the same place is the old wording."""

    def write(year):
        lines = [f"Note {n} of our series was issued to the bank {year}." for n in range(1500)]
        return split(report("\n\n".join(lines), year)).sentences

    new, old = write("again"), write("first")
    began = time.process_time()
    changes = compare(new, old)
    took = time.process_time() - began
    assert all(
        one.sentence.text.split()[1] == one.old.text.split()[1] for one in changes.current.values()
    )
    assert took < 8  # 1.5 s on an idle core


# Documents ----------------------------------------------------------------------------------------


def named(documents):
    return [one.source for one in documents]


def test_the_newest_report_is_read_and_the_one_before_is_its_previous():
    """Of three years one is read, one compared, one named as not used; news stays."""
    folder = [
        report("x", "nwk-2023.htm", date(2023, 2, 20)),
        report("x", "nwk-2025.htm", date(2025, 2, 21)),
        report("x", "nwk-2024.htm", date(2024, 2, 22), form="10-K405"),
        report("x", "wire", date(2022, 5, 1), form=None),
        report("x", "8k.htm", date(2023, 5, 1), form="8-K"),
        report("x", "shared-2023.htm", date(2023, 5, 1), ticker=None),
    ]
    current, previous, note = select_previous(folder)
    assert named(current) == ["nwk-2025.htm", "wire", "8k.htm", "shared-2023.htm"]
    assert named(previous) == ["nwk-2024.htm"]
    assert note == "compared with nwk-2024.htm; older reports not used: nwk-2023.htm"


def test_a_quarter_is_compared_with_the_same_quarter_of_the_year_before():
    days = [date(2024, 5, 6), date(2024, 8, 5), date(2024, 11, 4), date(2025, 5, 5)]
    folder = [report("x", f"q{n}.htm", day, form="10-Q") for n, day in enumerate(days)]
    current, previous, note = select_previous(folder)
    assert (named(current), named(previous)) == (["q3.htm"], ["q0.htm"])
    assert note.endswith("not used: q1.htm, q2.htm")
    # Where that one is missing the one before is taken
    assert named(select_previous(folder[1:])[1]) == ["q2.htm"]


def test_a_report_in_two_files_is_one_report():
    """The HTML and the PDF file of a year, and its amendment, are read together."""
    folder = [
        report("x", "nwk-2025.htm", date(2025, 2, 21)),
        report("x", "nwk-2025.pdf", date(2025, 2, 24)),
        report("x", "nwk-2025a.htm", date(2025, 6, 1), form="10-K/A"),
        report("x", "nwk-2024a.htm", date(2024, 6, 1), form="10-K/A"),
        report("x", "nwk-2024.htm", date(2024, 2, 22)),
    ]
    current, previous, _ = select_previous(folder)
    assert named(current) == ["nwk-2025.htm", "nwk-2025.pdf", "nwk-2025a.htm"]
    assert named(previous) == ["nwk-2024.htm"]
    current, previous, note = select_previous(folder[:3])
    assert (len(current), previous, note) == (3, (), "")


def test_texts_without_a_cover_are_told_apart_by_the_years_in_their_names():
    """Items say that it is an annual report, and the name of which year; two names of one year
    are no series."""
    sections = (Section(name="Item 1", start=0), Section(name="Item 7", start=1))
    old, new, other = (
        report("x", name, form=None, sections=sections)
        for name in ("NWK_2013.txt", "NWK_2014.txt", "NWK.txt")
    )
    assert select_previous([old, new])[0] == (new,)
    assert select_previous([old, other])[:2] == ((old, other), ())  # one of them has no year


def test_of_previous_reports_of_many_years_the_last_is_used():
    """What the user gave as previous is used but for reports of other years."""
    mine = [report("x", "nwk-2025.htm", date(2025, 2, 21))]
    olds = [report("x", f"nwk-{year}.htm", date(year, 2, 21)) for year in (2022, 2024, 2023)]
    current, previous, note = select_previous(mine, olds)
    assert (named(current), named(previous)) == (["nwk-2025.htm"], ["nwk-2024.htm"])
    assert "not used: nwk-2022.htm, nwk-2023.htm" in note
    assert named(select_previous(mine, olds[:1])[1]) == ["nwk-2022.htm"]


@pytest.mark.parametrize(
    ("new", "old", "count"),
    [
        ({"form": "10-K"}, {"form": "10-K405"}, 1),
        ({"form": "10-K"}, {"form": "10-Q"}, 0),
        ({"form": "8-K"}, {"form": "10-K"}, 0),
        ({"form": None}, {"form": "10-K"}, 1),
        ({"form": "10-K"}, {"form": None}, 1),
        ({"form": None, "kind": "news"}, {"form": "10-K"}, 0),
        ({"form": None, "kind": "news"}, {"form": None, "kind": "news"}, 1),
        ({"form": None, "kind": "news"}, {"form": None}, 1),
        ({"form": None}, {"form": None, "kind": "news"}, 1),
    ],
)
def test_like_is_compared_with_like(new, old, count):
    """A filing with filings of its form, news with news, a text of unknown form with any text."""
    sides = [split(report("We make lathes.", **kind)).sentences for kind in (new, old)]
    assert len(compare(*sides).current) == count


def test_a_note_beside_two_reports_is_compared_with_neither():
    """The report takes last year's report, so nothing is left for the note; else it does."""
    filing = split(report("We make lathes. We sold a boat.", "k")).sentences
    note = split(report("Our foundry is old.", "note", form=None)).sentences
    old = split(report("We make lathes. Our foundry is old. The moon is far.", "old")).sentences
    both = compare([*filing, *note], old)
    assert list_kinds(both) == ["repeated", "new"]
    assert [one.sentence.text for one in both.gone] == ["Our foundry is old.", "The moon is far."]
    assert list_kinds(compare(note, old)) == ["repeated"]


def test_condensed_changes_count_and_quote_the_same():
    """Only what nobody asks for is gone: repeated sentences, and texts that the table quotes."""
    texts = (
        "The first part is as it was. The plant stays. We pay 5 million for it. Here is a word.",
        "The first part is as it was. The plant stays. We pay 4 million for it. One of it is gone.",
    )
    parts = (Section(name="Item 1", start=0), Section(name="Item 2", start=28))
    new, old = (
        split(report(text, name, sections=parts)).sentences
        for text, name in zip(texts, ("new", "old"), strict=True)
    )
    whole = compare(new, old)
    assert list_kinds(whole) == ["repeated", "repeated", "changed", "new"]
    chosen = {new[1].id, new[2].id}
    less = whole.condense(chosen)
    assert (less.current, less.gone) == ({id_: whole.current[id_] for id_ in chosen}, ())
    assert less.packed.places.itemsize * len(less.packed.places) == 3 * 36
    assert less.counts == whole.counts
    assert list(less.sections.items()) == list(whole.sections.items())
    assert (less.share_repeated, less.is_uneven) == (whole.share_repeated, whole.is_uneven)
    assert (less.note, less.previous_count) == (whole.note, whole.previous_count)

    def list_shown(changes):
        both = [(one.kind, one.sentence, one.old) for one in changes.list_shown()]
        return [
            (kind, *((side.id, side.quote, side.section) for side in (new, old) if side))
            for kind, new, old in both
        ]

    assert [kind for kind, *_ in list_shown(whole)] == ["new", "changed", "gone"]
    assert list_shown(less) == list_shown(whole)
    assert list_shown(pickle.loads(pickle.dumps(less))) == list_shown(whole)
    assert {one.sentence.text for one in less.list_shown()} == {""}
