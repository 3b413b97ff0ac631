"""The error tree: each error is documented, exported, survives pickling and shows as two lines."""

import copy
import inspect
import pickle

import pytest

from urisk_nb import errors

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.UriskError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_says_what_and_what_to_do(kind):
    """
    A notebook shows two lines, a terminal the same, and nothing else.
    """
    error = kind("seen 3, wanted 4.", fix="%env X=4")
    assert error._render_traceback_() == [f"{kind.__name__}: seen 3, wanted 4.", "  Fix: %env X=4"]
    assert str(error) == "seen 3, wanted 4.\n  Fix: %env X=4"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_crosses_processes(kind):
    """
    Pickling and copying keep message, fix, facts and the attributes of the subclass.
    """
    error = kind("m", fix="f", seen=3)
    if "partial" in inspect.signature(kind.__init__).parameters:
        error = kind("m", fix="f", partial="so far", seen=3)
    if "answer" in inspect.signature(kind.__init__).parameters:
        error = kind("m", fix="f", answer="it said", seen=3)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(other), other.__dict__, str(other)) == (kind, error.__dict__, str(error))


def test_the_tree_in_the_docstring_is_the_tree():
    """
    Every class stands in the module's docstring and in __all__, and the list is sorted.
    """
    names = sorted(kind.__name__ for kind in CLASSES)
    assert sorted(errors.__all__) == errors.__all__ == names
    for name in names:
        assert name in errors.__doc__


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.ServerConnectionLost, ConnectionError),
        (errors.ServerTimeout, TimeoutError),
        (errors.ModelNotFound, LookupError),
    ],
)
def test_builtin_bases_that_people_catch(kind, builtin):
    """
    Code that catches the builtin catches ours too.
    """
    assert issubclass(kind, builtin)
