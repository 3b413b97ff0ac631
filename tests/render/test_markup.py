"""Answers, progress and status as HTML: what a front end would make of the text in them."""

from html.parser import HTMLParser

import pytest

from urisk_nb.render.markup import answer_markup, progress_markup, status_bundle

MONEY = "It paid $5 million in May and $7 million in June."


class PlainText(HTMLParser):
    """
    The text of a page that stands in an element of the classes that forbid mathematics: JupyterLab
    looks for the one, and nbconvert's pages for the other.
    """

    def __init__(self, page):
        super().__init__()
        self.open, self.plain, self.other = [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        classes = (dict(attrs).get("class") or "").split()
        self.open.append({"mathjax_ignore", "tex2jax_ignore"} <= set(classes))

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if any(self.open):
            self.plain += data
        else:
            self.other += data


@pytest.mark.parametrize(
    ("markup", "times"),
    [
        (answer_markup(MONEY), 1),
        (answer_markup(MONEY, MONEY, [MONEY, MONEY]), 4),
        (progress_markup(MONEY, None), 1),
        (progress_markup(MONEY, 0.5), 1),
        (status_bundle({MONEY: MONEY}, MONEY)[1], 3),
    ],
    ids=["answer", "answer with notes", "progress", "progress with a bar", "status"],
)
def test_a_dollar_is_money(markup, times):
    """A front end sets text between two dollars as mathematics, but where the class forbids it."""
    page = PlainText(markup)
    assert page.plain.count(MONEY) == times
    assert page.other == ""
