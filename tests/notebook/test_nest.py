"""`%urisk_nest`: what is decided from which facts, and real kernels whose cells nest."""

import asyncio
import importlib.metadata
import importlib.util
import re

import pytest

from urisk_nb.errors import InputError, PackageMissing
from urisk_nb.notebook import nest
from urisk_nb.notebook.nest import OLD_SUCCESSOR, ORIGINAL, SUCCESSOR, LoopState

IPYKERNEL = tuple(
    int(part) for part in re.findall(r"\d+", importlib.metadata.version("ipykernel"))[:2]
)
ONE_CONTEXT = IPYKERNEL >= (7, 1)


def known(**rest):
    base = {
        "python": (3, 11),
        "ipykernel": (7, 4, 0),
        "original": (1, 6, 0),
        "successor": (1, 7, 4),
        "loop": "asyncio.SelectorEventLoop",
    }
    return LoopState(**{**base, **rest})


# ---- the decision --------------------------------------------------------------------------------

CHOICES = [
    ({}, SUCCESSOR),
    ({"successor": (1, 7, 3)}, SUCCESSOR),
    ({"successor": (1, 8)}, SUCCESSOR),
    ({"python": (3, 14), "ipykernel": (6, 31, 0)}, SUCCESSOR),
    ({"successor": None, "ipykernel": (6, 31, 0)}, ORIGINAL),
    ({"successor": (1, 7, 2), "ipykernel": (7, 0, 1)}, ORIGINAL),
    ({"successor": None, "ipykernel": (7, 1, 0)}, PackageMissing),
    ({"successor": (1, 7, 2)}, PackageMissing),
    ({"successor": None, "ipykernel": (6, 31, 0), "python": (3, 12)}, PackageMissing),
    ({"successor": None, "original": None, "ipykernel": (6, 31, 0)}, PackageMissing),
    ({"loop": "uvloop.Loop", "own_loop": False}, InputError),
    ({"loop": None, "own_loop": False, "ipykernel": None}, None),
    ({"patched_by": SUCCESSOR}, None),
    ({"patched_by": ORIGINAL, "ipykernel": (7, 0, 1)}, None),
    ({"patched_by": ORIGINAL}, InputError),
    ({"patched_by": ORIGINAL, "ipykernel": (7, 1, 0)}, InputError),
    ({"patched_by": ORIGINAL, "ipykernel": (6, 31, 0), "python": (3, 12)}, InputError),
    ({"patched_by": OLD_SUCCESSOR}, InputError),
    ({"patched_by": OLD_SUCCESSOR, "ipykernel": (7, 0, 1)}, None),
]


@pytest.mark.parametrize(("loop_state", "expected"), CHOICES)
def test_only_a_safe_library_is_applied(loop_state, expected):
    """
    nest_asyncio2 from 1.7.3; nest_asyncio below ipykernel 7.1 and Python 3.12; otherwise nothing,
    or an error with a fix.
    """
    if isinstance(expected, type):
        with pytest.raises(expected) as caught:
            nest.choose(known(**loop_state))
        assert caught.value.fix
    else:
        assert nest.choose(known(**loop_state)) == expected


@pytest.mark.parametrize(
    ("loop_state", "words"),
    [
        ({"patched_by": ORIGINAL}, ["nest_asyncio with ipykernel 7.4.0", "drops"]),
        (
            {"successor": None},
            ["nest_asyncio2 is not installed", "nest_asyncio with ipykernel 7.4.0", "drops"],
        ),
        ({"successor": (1, 7, 2)}, ["nest_asyncio2 1.7.2 is older than 1.7.3"]),
        ({"successor": None, "ipykernel": (6, 31, 0), "python": (3, 13)}, ["Python 3.13"]),
        ({"loop": "uvloop.Loop", "own_loop": False}, ["uvloop.Loop"]),
    ],
)
def test_a_refusal_says_what_it_saw(loop_state, words):
    """The library, the versions and the loop that are the reason."""
    with pytest.raises((InputError, PackageMissing)) as caught:
        nest.choose(known(**loop_state))
    assert all(word in caught.value.message for word in words), caught.value.message


@pytest.mark.parametrize(
    ("loop_state", "by_magic", "words"),
    [
        ({}, False, ["off", "would apply nest_asyncio2 1.7.4", "safe with this kernel", "7.4.0"]),
        ({"successor": None}, False, ["off", "refuses", "nest-asyncio2>=1.7.3"]),
        ({"patched_by": SUCCESSOR}, True, ["on, by nest_asyncio2 1.7.4 (%urisk_nest on)", "safe"]),
        (
            {"patched_by": SUCCESSOR},
            False,
            ["on, by nest_asyncio2 1.7.4 (applied by other code)", "safe"],
        ),
        (
            {"patched_by": ORIGINAL},
            False,
            ["on, by nest_asyncio 1.6.0", "NOT SAFE", "drops", "restart the kernel"],
        ),
        ({"loop": None, "ipykernel": None}, False, ["not needed", "not a kernel"]),
    ],
)
def test_status_names_the_library_who_applied_it_and_whether_it_is_safe(
    loop_state, by_magic, words
):
    """For every state, with versions."""
    text = " | ".join(nest.list_status(known(**loop_state), by_magic=by_magic).values())
    assert all(word in text for word in words), text
    assert ("NOT SAFE" in text) == ("NOT SAFE" in words)


@pytest.mark.parametrize("library", [ORIGINAL, OLD_SUCCESSOR])
@pytest.mark.parametrize(
    ("ipykernel", "drops"),
    [((7, 0, 99), False), ((7, 1), True), ((7, 1, 0), True), ((8, 0, 0), True)],
)
def test_cells_are_dropped_from_ipykernel_7_1_on(monkeypatch, capsys, library, ipykernel, drops):
    """
    Below 7.1 neither library loses a cell and nobody is warned; from 7.1 on both do, and the kernel
    says so once.
    """
    assert ("drops" in nest.describe_hazard(library, known(ipykernel=ipykernel))) is drops
    monkeypatch.setattr(nest._Done, "warned", False)
    monkeypatch.setattr(asyncio, "_nest_patched", True, raising=False)
    monkeypatch.setattr(nest, "_find_patch", lambda loop: library)
    monkeypatch.setattr(nest, "_read_kernel_version", lambda: ipykernel)
    nest.warn_of_dropped_cells()
    nest.warn_of_dropped_cells()
    assert capsys.readouterr().err.count("Warning: ") == drops


def test_the_facts_of_this_process():
    """Seen from inside a loop and from outside of one; the tests' process is not patched."""

    async def inside():
        return nest.read_loop_state()

    assert (nest.read_loop_state().loop, nest.read_loop_state().patched_by) == (None, None)
    within = asyncio.run(inside())
    assert within.own_loop
    assert "asyncio" in within.loop


def test_bad_words_are_told_which_there_are():
    """`maybe`: an input error with the three words."""
    with pytest.raises(InputError, match="maybe") as caught:
        nest.switch("maybe")
    assert all(word in caught.value.fix for word in ("on", "off", "status"))


# ---- real kernels --------------------------------------------------------------------------------

NESTS = "import asyncio\nasyncio.run(asyncio.sleep(0.3, 'slept'))"
NEEDS_SUCCESSOR = pytest.mark.skipif(
    importlib.util.find_spec("nest_asyncio2") is None, reason="nest-asyncio2 is not installed"
)


@pytest.fixture
def loaded(new_kernel):
    kernel = new_kernel()
    kernel.good("%load_ext urisk_nb")
    return kernel


def queued(kernel, first):
    """Send a cell and five behind it at once, as Run All does; how many of the five ran."""
    messages = [
        kernel.start(first),
        *(
            kernel.start(f"ran = globals().get('ran', 0) + 1\nprint('cell {number}')")
            for number in range(5)
        ),
    ]
    assert kernel.finish(messages[0]).status == "ok"
    return [kernel.finish(message).text().strip() for message in messages[1:]]


@pytest.mark.slow
@NEEDS_SUCCESSOR
def test_on_lets_cells_nest_and_loses_none_behind_them(loaded):
    """
    Before: asyncio.run fails. After `on`: it answers, five cells queued behind it all run, and
    status says who did it.
    """
    assert "cannot be called from a running event loop" in loaded.run(NESTS).error
    assert "Nothing to turn off" in loaded.good("%urisk_nest off").text()
    assert "would apply nest_asyncio2" in loaded.good("%urisk_nest").text()
    assert "On, by nest_asyncio2" in loaded.good("%urisk_nest on").text()
    assert "slept" in loaded.good(NESTS).text()
    assert (
        "5"
        in loaded.good(
            "import asyncio\nasyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 5))"
        ).text()
    )
    assert queued(loaded, NESTS) == [f"cell {number}" for number in range(5)]
    assert loaded.value("ran") == "5"
    status = loaded.good("%urisk_nest status").text()
    assert "(%urisk_nest on)" in status
    assert "safe" in status
    assert "NOT SAFE" not in status
    assert "Nothing to do" in loaded.good("%urisk_nest on").text()
    assert "Restart the kernel" in loaded.good("%urisk_nest off").text()


@pytest.mark.slow
@NEEDS_SUCCESSOR
def test_our_magics_work_after_on(loaded, fake_ollama):
    """
    `%%ask` before and after a nested cell, with the same answer object, and cells queued behind it
    run.
    """
    loaded.good(f"%urisk_nest on\n%urisk_start --url {fake_ollama.url}")
    assert loaded.good("%%ask first\nHello?").text()
    loaded.good(NESTS)
    assert queued(loaded, "%%ask second\nHello?") == [f"cell {number}" for number in range(5)]
    assert loaded.value("first == second and second.done_reason") == "stop"


@pytest.mark.row(8)
@pytest.mark.slow
@pytest.mark.parametrize("library", ["nest_asyncio", "nest_asyncio2"])
def test_a_library_applied_by_the_user_is_told_only_where_it_drops_cells(
    loaded, fake_ollama, library
):
    """
    nest_asyncio with ipykernel >= 7.1: one warning at the next magic of ours, none later, and the
    magics work. Otherwise: none.
    """
    pytest.importorskip(library)
    loaded.good(f"import {library}\n{library}.apply()")
    cells = [
        loaded.good(f"%urisk_start --url {fake_ollama.url}"),
        loaded.good("%%ask answer\nHello?"),
        loaded.good("%urisk_status"),
    ]
    bad = library == "nest_asyncio" and ONE_CONTEXT
    assert ["Warning: nest_asyncio with ipykernel" in cell.text() for cell in cells] == [
        bad,
        False,
        False,
    ]
    assert not bad or "%urisk_nest on" in cells[0].text()
    assert loaded.value("answer.done_reason") == "stop"
    assert "applied by other code" in loaded.good("%urisk_nest status").text()
    again = loaded.run("%urisk_nest on")
    if bad:
        assert (again.ename, again.error.count("\n")) == ("InputError", 1)
        assert "restart the kernel" in again.error
    else:
        assert "Nothing to do" in again.text()


@pytest.mark.slow
@pytest.mark.skipif(not ONE_CONTEXT, reason="ipykernel before 7.1 is not affected")
def test_the_bad_pair_does_drop_cells(loaded):
    """
    The reason for the warning, seen here: none of the five cells behind a nested call runs. If this
    fails, the warning can go.
    """
    loaded.good("import nest_asyncio\nnest_asyncio.apply()")
    messages = [
        loaded.start(NESTS),
        *(loaded.start("ran = globals().get('ran', 0) + 1") for _ in range(5)),
    ]
    assert loaded.finish(messages[0]).status == "ok"
    # asyncio may say first that the dropped tasks were destroyed
    assert loaded.value("globals().get('ran', 0)").splitlines()[-1] == "0"


@pytest.mark.slow
def test_a_bad_word_is_two_lines(kernel):
    """
    `%urisk_nest maybe` and `%urisk_nest on off`: what was wrong, and the way out; nothing is
    patched.
    """
    for line in ("maybe", "on off"):
        cell = kernel.run(f"%urisk_nest {line}")
        assert (cell.ename, cell.error.count("\n")) == ("InputError", 1), cell.error
    assert "on, %urisk_nest off" in kernel.run("%urisk_nest maybe").error
    assert kernel.value("hasattr(__import__('asyncio'), '_nest_patched')") == "False"


@pytest.mark.slow
def test_help_says_the_words(kernel):
    """
    `%urisk_nest?` shows them.
    """
    cell = kernel.good("%urisk_nest?")
    assert "on|off|status" in "\n".join(
        item["data"]["text/plain"] for item in cell.reply["payload"] if "data" in item
    )
