"""Formulas as MathML, made while the site is built: a browser shows them without any script."""

import html
import re

from latex2mathml.converter import convert

__all__ = ["render_formulas"]

# What pymdownx.arithmatex makes of $...$ and of a paragraph of $$...$$
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?:\(|\[)(?P<tex>.*?)\\(?:\)|\])</(?P=tag)>',
    re.DOTALL,
)


def render_formulas(page: str) -> str:
    """Return the HTML of a page with MathML in place of each formula in TeX."""
    return _FORMULA.sub(_render, page)


def _render(formula: re.Match[str]) -> str:
    tex = html.unescape(formula["tex"]).strip()
    return convert(tex, display="block" if formula["tag"] == "div" else "inline")
