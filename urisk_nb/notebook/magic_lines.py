"""
The line of a magic: its flags, its plain words, and what is said of a line that means nothing.

A word that follows an unquoted value is refused where the value may be a text: `--system be brief`
would otherwise ask with half of it and take the rest for something else.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from urisk_nb.errors import InputError
from urisk_nb.notebook.expressions import Quoted, read_word, split_words

__all__ = ["MagicParser"]

NAMES_FLAG = "--with"  # it takes names between commas
NEXT_LINE = "put the question on the next line, under %%ask; in one line it is %ask {text}"


@dataclass(slots=True)
class _Words:
    """The words of a line: flags with their values, and the rest."""

    options: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    # Flags whose unquoted value is followed by plain words: the value, then these.
    run_on: dict[str, list[str]] = field(default_factory=dict)


class MagicParser(argparse.ArgumentParser):
    """An argument parser for a magic's line; it raises InputError, and never ends the process."""

    def error(self, message: str) -> NoReturn:
        flags = sorted(self._option_string_actions)
        typed = re.search("unrecognized.*?(--[^ =]+)", message)
        close = difflib.get_close_matches(typed[1], flags, 1) if typed else []
        fix = f"see {self.prog}? for what it takes: {' '.join(flags)}"
        if close:
            fix = f"did you mean {close[0]}?"
        raise InputError(f"{self.prog}: {message}.", fix=fix)

    def parse_line(self, line: str) -> argparse.Namespace:
        """Parse the words of the line; see `split_words`."""
        words = self._sort_words(self._split(line))
        args = self.parse_args(words.options)
        for flag, texts in words.run_on.items():
            raise self._build_run_on(flag, texts)
        names = [action for action in self._actions if not action.option_strings]
        if len(words.plain) > len(names):
            raise self._build_refusal(words.plain)
        for action, word in zip(names, words.plain, strict=False):
            setattr(args, action.dest, word)
        return args

    def parse_tickers_line(self, line: str) -> tuple[argparse.Namespace, str]:
        """
        Parse a line of flags and tickers; return the flags, and the tickers as a cell has them.

        Each word that is neither a flag nor the one value of a flag is a ticker.
        """
        words = self._sort_words(self._split(line))
        args = self.parse_args(words.options)
        if "--query" in words.run_on:  # the one flag whose value is a text
            error = self._build_run_on("--query", words.run_on["--query"])
            error.fix += f", or put the tickers first: {self.prog} NVDA --query fraud"
            raise error
        # A name with spaces, in quotes, is one between commas
        return args, " ".join(
            f", {word}," if isinstance(word, Quoted) else word for word in words.plain
        )

    def parse_question_line(self, line: str) -> tuple[argparse.Namespace, str]:
        """
        Parse the flags that the line begins with; return them, and the rest of the line as it is.
        """
        at = len(line) - len(line.lstrip())
        options: list[str] = []
        while line.startswith("--", at):
            word, at = self._read_word(line, at)
            name, has_value, value = word.partition("=")
            if not has_value and self._takes_value(name):
                at = _skip_space(line, at)
                value, at = self._read_word(line, at)
                if not isinstance(value, Quoted) and (not value or value.startswith("--")):
                    self.error(f"argument {name}: expected one argument")
                has_value = "="
            options.append(f"{name}={value}" if has_value else name)
            at = _skip_space(line, at)
        return self.parse_args(options), line[at:].strip()

    # Words ----------------------------------------------------------------------------------------

    def _split(self, line: str) -> list[str]:
        try:
            return split_words(line)
        except ValueError as exc:
            raise self._build_quote_error(line) from exc

    def _read_word(self, line: str, at: int) -> tuple[str, int]:
        try:
            return read_word(line, at)
        except ValueError as exc:
            raise self._build_quote_error(line) from exc

    def _takes_value(self, flag: str) -> bool:
        action = self._option_string_actions.get(flag)
        return action is not None and action.nargs is None

    def _sort_words(self, words: Sequence[str]) -> _Words:
        found, rest = _Words(), iter(words)
        value_of = ""  # the flag whose unquoted value was the word before
        for word in rest:
            if not word.startswith("--") or (isinstance(word, Quoted) and "=" not in word):
                found.plain.append(word)
                if value_of:
                    found.run_on[value_of].append(word)
                continue
            value_of = self._take_option(word, rest, found)
        found.run_on = {flag: texts for flag, texts in found.run_on.items() if len(texts) > 1}
        return found

    def _take_option(self, word: str, rest: Iterator[str], found: _Words) -> str:
        """Take a flag with its value; return the flag if the value has no quotation marks."""
        flag, has_value, value = word.partition("=")
        is_quoted = isinstance(word, Quoted)
        if not has_value and self._takes_value(flag):
            following = next(rest, None)
            if following is None or (
                following.startswith("--") and not isinstance(following, Quoted)
            ):
                self.error(f"argument {flag}: expected one argument")
            value, is_quoted, has_value = following, isinstance(following, Quoted), "="
        # One word for argparse: it takes "-1 %" or "--x" after a space for a flag
        found.options.append(f"{flag}={value}" if has_value else flag)
        if not has_value or is_quoted:
            return ""
        found.run_on[flag] = [value]
        return flag

    # Refusals -------------------------------------------------------------------------------------

    def _build_quote_error(self, line: str) -> InputError:
        fix = "close it, or leave it out"
        if self.prog == "%%ask":
            fix += "; a question goes on the next line"
        return InputError(
            f"{self.prog}: a quotation mark is not closed in {line.strip()!r}.", fix=fix
        )

    def _build_run_on(self, flag: str, texts: Sequence[str]) -> InputError:
        text = " ".join(texts)
        mark = "'" if '"' in text else '"'
        fix = f"write {flag} {mark}{text}{mark}"
        if flag == NAMES_FLAG:
            names = ",".join(one.strip(",") for one in texts)
            fix = f"write {flag} {names}"
            if texts[-1].isidentifier():  # it may be meant for the variable of the answer
                fix += f"; a variable for the answer comes first: {self.prog} {texts[-1]} {flag}"
                fix += f" {names.rpartition(',')[0]}"
        return InputError(
            f"{self.prog}: {flag} takes one word, or a text in quotation marks; {texts[1]!r} "
            "is left over.",
            fix=fix,
        )

    def _build_refusal(self, words: Sequence[str]) -> InputError:
        text, flags = " ".join(words), sorted(self._option_string_actions)
        fix = f"it takes only flags: {' '.join(flags)}" if flags else "leave it out"
        if self.prog == "%%ask":
            fix = NEXT_LINE.format(text=text)
        elif self.prog == "%%risk":
            fix = f"put the tickers on the next line, under %%risk; in one line it is %risk {text}"
        elif f"--{words[0]}" in flags:
            fix = f"did you mean --{words[0]}?"
        return InputError(f"{self.prog}: nothing takes {text!r} on this line.", fix=fix)


def _skip_space(line: str, at: int) -> int:
    while at < len(line) and line[at].isspace():
        at += 1
    return at
