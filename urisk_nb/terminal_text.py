"""
Text that is safe to print: what is invisible, reorders a line or drives a terminal is written out.

Everything that shows foreign text (answers, a server's words, evidence, file names) goes through
here, so that there is one rule for all of it.
"""

from __future__ import annotations

import unicodedata

__all__ = ["one_line", "visible"]

# Controls, formats, halves of surrogate pairs, private use, and the separators of lines and
# paragraphs, which some programs take for line ends.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
_JOINERS = "\u200c\u200d"


def visible(text: str, *, keep: str = "\n\t") -> str:
    r"""
    Return the text with control and format characters written out, so that nothing hides, reorders
    or drives a terminal.

    Parameters
    ----------
    text
        Whatever somebody else wrote. CRLF becomes a newline. A carriage return by itself lets the
        rest overwrite the line, so it is written out.
    keep
        Characters that stay as they are. So do the joiners of emoji and of scripts that need them,
        which stand behind a character that is not ASCII.

    Examples
    --------
    >>> visible("safe\x1b[2J\u202e")
    'safe⟨U+001B⟩[2J⟨U+202E⟩'
    """
    if text.isprintable():  # nearly always, and many times faster
        return text
    text = text.replace("\r\n", "\n")
    used = set(text).difference(keep)
    if not any(unicodedata.category(char) in _UNSEEN for char in used):
        return text
    return "".join(
        char
        if char in keep
        or unicodedata.category(char) not in _UNSEEN
        or (char in _JOINERS and not before.isascii() and before.isprintable())
        else f"⟨U+{ord(char):04X}⟩"
        for before, char in zip(" " + text, text, strict=False)
    )


def one_line(value: object) -> str:
    """Return the value as visible text on one line, each run of white space one space."""
    return visible(" ".join(str(value).split()))
