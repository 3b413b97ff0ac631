"""Make text safe to show: write out what is invisible or reorders a line, escape markup."""

from __future__ import annotations

import html
import unicodedata

__all__ = ["escape_html", "one_line", "visible"]

_UNSEEN = ("Cc", "Cf", "Cs", "Co")  # controls, formats, halves of surrogate pairs, private use


def visible(text: str) -> str:
    """
    Return the text with control and format characters written out, so that nothing hides, reorders
    or drives a terminal. Newlines and tabs stay.
    """
    if text.isprintable():  # nearly always, and many times faster
        return text
    return "".join(
        char
        if char in "\n\t" or unicodedata.category(char) not in _UNSEEN
        else f"⟨U+{ord(char):04X}⟩"
        for char in text
    )


def one_line(value: object) -> str:
    """Return the value as visible text on one line, each run of white space one space."""
    return visible(" ".join(str(value).split()))


def escape_html(value: object) -> str:
    """Return the value as text that is safe between HTML tags and inside attributes."""
    return html.escape(visible(str(value)), quote=True)
