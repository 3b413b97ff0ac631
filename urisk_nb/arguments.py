"""What a public function is called with: an argument that it does not have is refused by an error
of urisk_nb, with the likely one.

Python's own TypeError names the mistake and no way out. The signature stays as it is written, for
Shift-Tab and for type checkers.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from urisk_nb.errors import InputError, UriskError

__all__ = ["JoinAddresses", "name_flag", "refuse_unknown", "require"]

P = ParamSpec("P")
R = TypeVar("R")


class JoinAddresses(argparse.Action):
    """A flag that may be given several times: `--url a --url b` is the same as `--url a,b`."""

    def __call__(self, _: Any, args: argparse.Namespace, value: Any, __: Any = None) -> None:
        before = getattr(args, self.dest)
        setattr(args, self.dest, f"{before},{value}" if before else value)


def refuse_unknown(
    elsewhere: Mapping[str, str] | None = None, *, example: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Return a decorator: an argument that the function does not have raises InputError when the
    function is called.

    Parameters
    ----------
    elsewhere
        Names that people look for here, each with where it belongs: `{"window":
        "params=RiskParams(window=...)"}`.
    example
        A whole call, for the error of one with too much by position or with something missing.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def check_and_call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as exc:
                refusal = _build_refusal(function.__name__, signature, kwargs, elsewhere or {}, exc)
                is_known = set(kwargs) <= set(signature.parameters)
                if example and is_known:
                    refusal.fix = f"write {example}"
                raise refusal from None
            return function(*args, **kwargs)

        return check_and_call

    return decorate


def require(is_fit: object, name: str, value: object, fix: str) -> None:
    """
    Refuse the value of an argument.

    Parameters
    ----------
    is_fit
        Whether it can be used.
    name, value
        What the message says: long values are cut.
    fix
        What to give.

    Raises
    ------
    InputError
        It cannot.
    """
    if not is_fit:
        seen = repr(value)
        raise InputError(f"{name} is {seen if len(seen) <= 80 else f'{seen[:77]}...'}.", fix=fix)


def name_flag(error: UriskError, flags: Iterable[str]) -> None:
    """
    Put the flag that the user typed in place of the argument's name in an error.

    `num_ctx is 'x'` becomes `--num-ctx is 'x'`, and the fix `window="2y"` becomes `--window 2y`.

    Parameters
    ----------
    error
        The error, changed in place. One that does not begin with an argument's name stays as it is.
    flags
        The flags of the command, such as `--num-ctx`.
    """
    for flag in flags:
        name = flag.lstrip("-").replace("-", "_")
        if flag.startswith("--") and re.match(rf"{name}(=| is )", error.message):
            error.message = re.sub(rf"^{name}=?", f"{flag} ", error.message).replace("  ", " ", 1)
            fix = re.sub(rf"\b{name}=(['\"]?)([^'\" ]*)\1", rf"{flag} \2", error.fix)
            error.fix = re.sub(rf"\b(give|leave) {name}\b", rf"\1 {flag}", fix)


def _build_refusal(
    function: str,
    signature: inspect.Signature,
    given: Mapping[str, object],
    elsewhere: Mapping[str, str],
    seen: TypeError,
) -> InputError:
    """
    The error for a call that does not fit: an unknown name, too much by position, or something
    missing.
    """
    known = [name for name in signature.parameters if name not in ("self", "cls")]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *elsewhere], 1)
            fix = f"use one of {', '.join(known)}"
            if near:
                fix = (
                    f"did you mean {f'{near[0]}=...' if near[0] in known else elsewhere[near[0]]}?"
                )
            return InputError(f"{function}() has no argument {name!r}.", fix=fix)
    return InputError(
        f"{function}(): {seen}.",
        fix=f"give each argument by its name: {', '.join(f'{name}=' for name in known)}",
    )
