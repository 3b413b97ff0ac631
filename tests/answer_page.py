"""An answer's HTML as a browser's parser reads it: which tags, attributes and links there are."""

from html.parser import HTMLParser
from urllib.parse import urlsplit

from urisk_nb.render.markup import PLAIN

VOID = {"br", "hr"}
# By tag: the attributes that it may have. Every one that we write is here, and no other.
ALLOWED = {
    **{tag: set() for tag in ("em", "strong", "s", "br", "li", "ul", "thead", "tbody", "tr")},
    **{tag: {"style"} for tag in ("pre", "code", "blockquote", "hr", "table", "td", "summary")},
    "th": {"scope", "style"},
    "ol": {"start"},
    "a": {"href", "rel"},
    "p": {"role", "aria-level", "style"},
    "div": {"class", "role", "style"},
    "details": set(),
}
VALUES = {
    "class": {PLAIN},
    "role": {"log", "heading", "note"},
    "rel": {"noopener noreferrer"},
    "scope": {"col"},
}


class AnswerPage(HTMLParser):
    """
    Reads an answer and fails where it holds what it must not.

    Attributes
    ----------
    text
        What a reader sees, that of folded thoughts included.
    tags
        All tags, in their order.
    links
        The address of each link.
    styles
        All styles; each is one of ours.
    """

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.text, self.tags, self.links, self.styles, self._open = "", [], [], set(), []
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag, attrs):
        assert tag in ALLOWED, tag
        assert {name for name, _ in attrs} <= ALLOWED[tag], (tag, attrs)
        for name, value in attrs:
            assert value in VALUES.get(name, {value}), (name, value)
        given = dict(attrs)
        if "style" in given:
            self.styles.add(given["style"])
        if "href" in given:
            assert urlsplit(given["href"]).scheme in ("http", "https", "mailto"), given
            assert given["rel"] == "noopener noreferrer"
            self.links.append(given["href"])
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        assert all(char.isprintable() or char in "\n\t" for char in data), data[:80]
        self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl):
        raise AssertionError(f"a declaration: {decl}")

    def handle_pi(self, data):
        raise AssertionError(f"a processing instruction: {data}")

    def unknown_decl(self, data):
        raise AssertionError(f"a declaration: {data}")
