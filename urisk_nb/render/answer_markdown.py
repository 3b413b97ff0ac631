"""
A model's Markdown as HTML that is safe to show, whatever the model wrote.

Two locks, one behind the other. The parser knows no HTML, so a tag in the text is text; it takes
three schemes of links, and no picture. The sanitizer then keeps a short list of tags and
attributes, should the parser ever let another one through. Styles, and whatever else a reader sees,
are added behind both: a model has no way to name a class, a style or an id.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from urisk_nb.render.escaping import escape_html, visible

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_core import StateCore
    from markdown_it.token import Token

__all__ = ["GrowingMarkdown", "load_markdown", "render_markdown"]

MAX_INLINE_CHARS = 10_000  # of one run of text between two blank lines
MAX_BRACKETS = 200  # in such a run: each one that is not closed is looked for to its end
MAX_NESTING = 60  # of blocks: a list in a list counts twice
MAX_CELLS = 5_000  # of tables: a short row is filled up to the columns of its head
MAX_BLOCK_CHARS = 20_000  # of the last block, which each frame renders anew

_LINK = re.compile(r"(?:https?://[^/\\?#]|mailto:[^/\\])", re.IGNORECASE)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_TEXT_TAGS = {"a", "br", "code", "em", "s", "strong"}
_BLOCK_TAGS = {"blockquote", "hr", "li", "ol", "p", "pre", "ul", *_HEADINGS}
_TABLE_TAGS = {"table", "tbody", "td", "th", "thead", "tr"}
_ALIGNED = {"align": {"left", "center", "right"}}
_RULE = "var(--jp-border-color2,#d0d0d0)"
_HOST = re.compile(r"[\w.:@+-]+", re.ASCII)  # the parser writes other letters as xn--
_NAME = re.compile(
    r"(?:https?://|mailto:)([^/?#\s:]+)|(?<![\w+-])((?:[\w+-]+[.@])+[\w-]+)", re.IGNORECASE
)
_STYLES = {
    "blockquote": f"margin:.5em 0;padding:.1em 1em;border-left:.25em solid {_RULE}",
    "code": "padding:0;color:inherit;background:none;font-size:inherit",
    "hr": f"border:0;border-top:1px solid {_RULE};margin:1em 0",
    "pre": (
        "white-space:pre;overflow-x:auto;margin:.5em 0;padding:.6em .8em;border-radius:.3em;"
        "line-height:1.4;color:inherit;background:rgba(127,127,127,.12)"
    ),
    "table": "border-collapse:collapse;margin:.5em 0",
}
_CELL = f"vertical-align:top;padding:.3em .7em;border-bottom:1px solid {_RULE}"
_SIZES = ("1.4em", "1.25em", "1.1em", "1em", "1em", "1em")
_STYLED = re.compile(r'<(/?)(h[1-6]|blockquote|hr|pre><code|table|t[dh])(?: align="(\w+)")?>')
_BLANK = re.compile(r"\n[ \t]*\n")
_DEFINITION = "]:"  # of the address of links: `[1]: https://example.com`
_WORDS = re.compile(r"[^\W\d_](?:[^\W_]|[ ,.;:'%$()/?!-])*")  # a line without a mark
_MARKS = re.compile(r"[\s\-=*+_#>|`~:.)\d]*")  # a line that does not yet say what it will be


# The parser: the first lock -----------------------------------------------------------------------


@functools.cache
def load_markdown() -> MarkdownIt:
    """Return the parser; the first call loads the packages, which takes some 60 ms."""
    import nh3  # noqa: F401  # loaded here, so that the first frame does not wait for it
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    # The parser means it to be replaced; mypy takes it for a method.
    parser.validateLink = _is_link  # type: ignore[assignment,method-assign]
    parser.core.ruler.before("inline", "leave_long_runs", _leave_long_runs)
    parser.core.ruler.push("adapt_tokens", _adapt_tokens)
    parser.render("**a**")  # the first text compiles patterns
    return parser


def _is_link(address: str) -> bool:
    """Return whether an address may be a link: of the web or of a mailbox, and nothing nearer."""
    return _LINK.match(address) is not None and _find_host(address) != ""


def _find_host(address: str) -> str:
    """Return where a link leads, as short as it can be said; empty where it is no address."""
    try:
        parts = urlsplit(address)
        host = (parts.path if parts.scheme == "mailto" else parts.hostname) or ""
    except ValueError:  # as of http://[
        return ""
    return host if _HOST.fullmatch(host) else ""


def _leave_long_runs(state: StateCore) -> None:
    """Take a very long run of text as it is."""
    from markdown_it.token import Token

    for token in state.tokens:
        if token.type == "inline" and _is_costly(token.content):
            token.children = []
            for line in token.content.split("\n"):
                token.children += [
                    Token("text", "", 0, content=line),
                    Token("hardbreak", "br", 0),
                ]
            token.content = ""


def _is_costly(text: str) -> bool:
    return len(text) > MAX_INLINE_CHARS or text.count("[") > MAX_BRACKETS


def _adapt_tokens(state: StateCore) -> None:
    """Make of what was read what is shown: no class, no style, no picture, and hosts of links."""
    for token in state.tokens:
        token.info = ""  # the language of a code block would be its class
        if (style := token.attrs.pop("style", None)) is not None:
            token.attrs["align"] = str(style).partition(":")[2]
        if token.children:
            for child in token.children:
                _replace_picture(child)
            token.children = _add_hosts(token.children)


def _add_hosts(tokens: Sequence[Token]) -> list[Token]:
    """Say behind each link where it leads, unless its own text does."""
    from markdown_it.token import Token

    out: list[Token] = []
    said, host = "", ""
    for token in tokens:
        out.append(token)
        if token.type == "link_open":
            said, host = "", _find_host(str(token.attrs.get("href", "")))
        elif token.type == "link_close" and host and _find_name(said) != host:
            out.append(Token("text", "", 0, content=f" ({host})"))
        else:
            said += token.content
    return out


def _find_name(words: str) -> str:
    """Return the first host that the words of a link name: that is where they say it leads."""
    name = _NAME.search(words)
    return (name[1] or name[2]).lower() if name else ""


def _replace_picture(token: Token) -> None:
    """Show the words of a picture in its place, or its address: nothing is fetched."""
    if token.type == "image":
        token.type, token.tag, token.children = "text", "", None
        token.content = token.content or str(token.attrs.get("src", ""))


# The sanitizer: the second lock -------------------------------------------------------------------


def _sanitize(html: str) -> str:
    import nh3

    return nh3.clean(
        html,
        tags=_TEXT_TAGS | _BLOCK_TAGS | _TABLE_TAGS,
        attributes={"*": set(), "a": {"href"}, "ol": {"start"}},  # without "*" it keeps titles
        attribute_filter=_filter_attribute,
        tag_attribute_values={"td": _ALIGNED, "th": _ALIGNED},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )


def _filter_attribute(_tag: str, name: str, value: str) -> str | None:
    """Return the value of an attribute, or None: `nh3` keeps relative addresses."""
    if name == "href":
        return value if _is_link(value) else None
    if name == "start":
        return value if value.isdecimal() and len(value) < 10 else None
    return value


def _add_styles(html: str) -> str:
    """Add what a reader sees; all other tags look as the notebook has them."""
    return _STYLED.sub(_style_tag, html)


def _style_tag(found: re.Match[str]) -> str:
    ends, tag, side = bool(found[1]), found[2], found[3]
    # A heading of the page would stand in the notebook's table of contents, with a number.
    if level := _HEADINGS.get(tag):
        style = f"font-size:{_SIZES[level - 1]};font-weight:600;margin:.9em 0 .3em"
        start = f'<p role="heading" aria-level="{level}" style="{style}">'
        return "</p>" if ends else start
    if tag == "pre><code":  # the notebook gives code a color of its own behind it
        return f'<pre style="{_STYLES["pre"]}"><code style="{_STYLES["code"]}">'
    if tag in ("td", "th"):
        return f"</{tag}>" if ends else _style_cell(tag, side)
    if tag == "table":
        return (
            "</table></div>"
            if ends
            else f'<div style="overflow-x:auto"><table style="{_STYLES[tag]}">'
        )
    return f"</{tag}>" if ends else f'<{tag} style="{_STYLES[tag]}">'


def _style_cell(tag: str, side: str | None) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    figures = "font-variant-numeric:tabular-nums" if side == "right" else "max-width:40em"
    return f'<{tag}{scope} style="{_CELL};text-align:{side or "left"};{figures}">'


# Texts --------------------------------------------------------------------------------------------


def render_markdown(text: str) -> str:
    """Return a text in Markdown as safe HTML; one that costs too much to read, as it is."""
    if _WORDS.fullmatch(text):
        return _render_words(text)
    tokens = _parse(text)
    return _render_plain(text) if tokens is None else _render(tokens)


class GrowingMarkdown:
    """
    A text in Markdown that grows: a block is rendered once, when the next one has begun, and the
    last one anew in each frame.

    A link whose address stands in another block is text here, and a link in `render_markdown`.
    """

    def __init__(self) -> None:
        self._done_chars, self._done_html = 0, ""

    def render(self, text: str) -> str:
        """Return the HTML of a text that begins as the last one did."""
        if _WORDS.fullmatch(text):
            return _render_words(text)
        tail = text[self._done_chars :].removesuffix("\r")  # half of a line end
        shown = _hold_back(tail)
        if len(tail) > MAX_BLOCK_CHARS or (tokens := _parse(shown)) is None:
            return self._done_html + _render_plain(tail)
        done, line = _find_growing_block(tokens, shown.count("\n"))
        self._done_html += _render(tokens[:done])
        self._done_chars += _find_line(shown, line)
        return self._done_html + _render(tokens[done:])

    def finish(self, text: str, *, is_cut: bool = False) -> str:
        """Return the HTML of the whole text; of one that was cut, in no more time than a frame."""
        tail = text[self._done_chars :]
        if is_cut and len(tail) > MAX_BLOCK_CHARS:
            return self._done_html + _render_plain(tail)
        if _DEFINITION in text and not is_cut:  # a link may have its address anywhere
            return render_markdown(text)
        return self._done_html + render_markdown(tail)


def _hold_back(text: str) -> str:
    """
    Leave out what does not say yet what it is: a last line of marks, and the head of a table.

    A dash under a line would make it a heading until the rest of the item comes.
    """
    before, newline, last = text.rpartition("\n")
    if not (_MARKS.fullmatch(last) or last.startswith("|")):
        return text
    above, _, head = before.rpartition("\n")
    is_head = head.startswith("|") and not above.rpartition("\n")[2].startswith("|")
    return above + newline if is_head else before + newline


def _parse(text: str) -> list[Token] | None:
    """Return the tokens of a text; None where it is nested too deeply, or has too many cells."""
    if _count_cells(text) > MAX_CELLS:
        return None
    try:
        tokens = load_markdown().parse(visible(text))
    except RecursionError:
        return None
    # The parser leaves out what is nested more deeply.
    return None if any(token.level >= MAX_NESTING - 1 for token in tokens) else tokens


def _count_cells(text: str) -> int:
    """Return how many cells the tables of a text have at most; a blank line ends a table."""
    return sum(
        len(lines) * max(line.count("|") for line in lines)
        for block in _BLANK.split(text)
        if "|" in block and (lines := block.split("\n"))
    )


def _find_growing_block(tokens: Sequence[Token], lines: int) -> tuple[int, int]:
    """
    Return where the last block begins whose first line is whole: the number of its token, its line.

    A line that still grows may yet go on with the block before it: "2" becomes "2. b".
    """
    for number in range(len(tokens) - 1, -1, -1):
        token = tokens[number]
        if token.level == 0 and token.nesting >= 0 and token.map and token.map[0] < lines:
            return number, token.map[0]
    return 0, 0


def _find_line(text: str, line: int) -> int:
    """Return how many characters stand before a line."""
    place = 0
    for _ in range(line):
        place = text.index("\n", place) + 1
    return place


def _render(tokens: Sequence[Token]) -> str:
    parser = load_markdown()
    html = parser.renderer.render(tokens, parser.options, {})
    # Once more: an entity such as &#x202e; is a character by now.
    return visible(_add_styles(_sanitize(html)))


def _render_words(text: str) -> str:
    """Render at once what the first frame of most answers holds: nobody waits for it."""
    return f"<p>{text.rstrip()}</p>\n"


def _render_plain(text: str) -> str:
    return f'<div style="white-space:pre-wrap">{escape_html(text)}</div>'
