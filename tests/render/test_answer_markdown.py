"""Markdown of a model as HTML: what it looks like, what it must not hold, and what it costs."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_page import AnswerPage
from hostile_answers import HOSTILE, LONG, MATH
from urisk_nb.render import answer_markdown
from urisk_nb.render.answer_markdown import GrowingMarkdown, _sanitize, render_markdown
from urisk_nb.terminal_text import visible

STYLE = re.compile(r' (?:style|scope)="[^"]*"')


def lay_out(text):
    """The HTML without styles."""
    return STYLE.sub("", render_markdown(text)).strip()


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** *b* ~~c~~ `d`", "<p><strong>a</strong> <em>b</em> <s>c</s> <code>d</code></p>"),
        ("a\nb", "<p>a<br>\nb</p>"),
        ("## a", '<p role="heading" aria-level="2">a</p>'),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>"),
        ("3. a", '<ol start="3">\n<li>a</li>\n</ol>'),
        ("> a", "<blockquote>\n<p>a</p>\n</blockquote>"),
        ("```python\na < b\n```", "<pre><code>a &lt; b\n</code></pre>"),
        ("```python\na", "<pre><code>a</code></pre>"),
        ("a\n\n---", "<p>a</p>\n<hr>"),
        ("![words](https://a.example/x.png)", "<p>words</p>"),
        ("![](https://a.example/x.png)", "<p>https://a.example/x.png</p>"),
        ("It paid $5 to $7.", "<p>It paid $5 to $7.</p>"),
    ],
)
def test_what_is_laid_out(text, html):
    assert lay_out(text) == html


def test_a_table_has_its_sides():
    html = render_markdown("| a | b |\n|---|--:|\n| 1 | 2 |\n")
    assert re.findall(r"<t[hd][^>]*text-align:(\w+)[^>]*>([^<]+)", html) == [
        ("left", "a"),
        ("right", "b"),
        ("left", "1"),
        ("right", "2"),
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[filing](https://www.sec.gov/x)", "filing (www.sec.gov)"),
        ("[see www.sec.gov](https://www.sec.gov/x)", "see www.sec.gov"),
        ("<https://www.sec.gov/x>", "https://www.sec.gov/x"),
        ("[https://bank.example](https://evil.example)", "https://bank.example (evil.example)"),
        ("[bank](https://bank.example@evil.example)", "bank (evil.example)"),
        ("[apple](https://аpple.com)", "apple (xn--pple-43d.com)"),
        ("[mail](mailto:a@b.example)", "mail (a@b.example)"),
        ("<a.b@c.example>", "a.b@c.example"),
        ("<http://localhost:8888/x.html>", "http://localhost:8888/x.html"),
        (
            "[https://a.example/?b.example](https://b.example)",
            "https://a.example/?b.example (b.example)",
        ),
        ("<https://a.example@b.example/>", "https://a.example@b.example/ (b.example)"),
    ],
)
def test_a_link_says_where_it_leads(text, shown):
    page = AnswerPage(render_markdown(text))
    assert page.text.strip() == shown
    assert len(page.links) == 1


@pytest.mark.parametrize("case", [*HOSTILE, *(f"long: {name}" for name in LONG)])
def test_no_answer_holds_more_than_it_may(case):
    """Tags, attributes, styles and schemes of links are ours, and nothing hides."""
    text = HOSTILE[case] if case in HOSTILE else LONG[case.removeprefix("long: ")][:100_000]
    page = AnswerPage(render_markdown(text))
    known = AnswerPage(render_markdown("# a\n\n> b\n\n```\nc\n```\n\n---\n"))
    assert {one for one in page.styles if "fixed" in one or "url" in one} == set()
    assert page.styles <= known.styles | {one for one in page.styles if "text-align" in one} | {
        "overflow-x:auto",
        "border-collapse:collapse;margin:.5em 0",
        "white-space:pre-wrap",
        *(one for one in page.styles if one.startswith("font-size:1")),
    }


@pytest.mark.parametrize(
    "case", [case for case in HOSTILE if "links: " in case and "script" in case]
)
def test_a_link_that_is_none_stays_as_it_was_typed(case):
    page = AnswerPage(render_markdown(HOSTILE[case]))
    assert page.links == []
    assert "script" in page.text.lower()


@pytest.mark.parametrize("case", [case for case in HOSTILE if case.startswith("tags: ")])
def test_a_tag_is_text(case):
    """As it was typed, to its last bracket."""
    page = AnswerPage(render_markdown(HOSTILE[case]))
    assert page.text.count("<") == HOSTILE[case].count("<")
    assert page.text.count(">") == HOSTILE[case].count(">")


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_no_frame_of_an_answer_holds_more(case):
    """Cut anywhere."""
    growing = GrowingMarkdown()
    for end in range(1, len(HOSTILE[case]) + 1):
        AnswerPage(growing.render(HOSTILE[case][:end]))


@pytest.mark.parametrize("case", MATH)
def test_mathematics_stays_as_it_is_typed(case):
    """No delimiter is taken away or added; those of Markdown's own escapes are."""
    page = AnswerPage(render_markdown(MATH[case]))
    assert page.text.count("$") == visible(MATH[case]).count("$")


def test_the_second_lock_holds_by_itself():
    """Whatever the parser let through: only the list of tags, and only links of the web."""
    hostile = "".join(HOSTILE.values()).encode("utf-8", "ignore").decode()
    html = _sanitize(f'<p class=x style="a:b" id=c title=d>{hostile}</p>')
    AnswerPage(visible(answer_markdown._add_styles(html)))
    for address in ("javascript:a", "/lab", "#a", "data:a", "//evil.example", "vbscript:a", "x"):
        assert _sanitize(f'<a href="{address}" target=x>a</a>') == (
            '<a rel="noopener noreferrer">a</a>'
        )


@given(st.from_regex(answer_markdown._WORDS, fullmatch=True))
def test_a_line_without_a_mark_is_the_same_by_the_parser(text):
    tokens = answer_markdown._parse(text)
    assert render_markdown(text) == answer_markdown._render(tokens)


# Costs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LONG)
def test_no_text_takes_long(name):
    """100,000 characters of what costs most: half a second and a megabyte at most."""
    began_s = time.process_time()
    html = render_markdown(LONG[name][:100_000])
    assert time.process_time() - began_s < 3
    assert len(html) < 2_000_000


def test_a_growing_answer_renders_each_block_once(monkeypatch):
    """20 kB of paragraphs in frames of 100 characters: two blocks are parsed in each."""
    parsed = []
    parse = answer_markdown._parse
    monkeypatch.setattr(
        answer_markdown, "_parse", lambda text: parsed.append(len(text)) or parse(text)
    )
    text = ("word **bold** and `code`. " * 15 + "\n\n") * 50
    growing = GrowingMarkdown()
    for end in range(100, len(text), 100):
        growing.render(text[:end])
    growing.finish(text)
    assert sum(parsed) < 12 * len(text)


def test_what_is_nested_too_deeply_is_shown_whole():
    """The parser would leave it out."""
    for text in ("> " * 100 + "the end", "- " * 100 + "the end"):
        assert "the end" in AnswerPage(render_markdown(text)).text


# Growing ------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [
        *("a", "- a", "  - b", "1. a", "2. b", "2", "> q", "# h", "", "", "```", "    code"),
        *("---", "===", "| a | b |", "|---|---|", "| 1 | 2 |", "* * *", "**b", "c**", "  text"),
        *("a | b", "--|--", "```b```"),
    ]
)


@given(st.lists(LINES, max_size=14), st.integers(1, 9))
def test_frames_end_as_the_whole_text_does(lines, step):
    """In whatever pieces it came."""
    text = "\n".join(lines)
    growing = GrowingMarkdown()
    for end in range(step, len(text), step):
        growing.render(text[:end])
    assert growing.finish(text) == render_markdown(text)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Risks:\n-", "<p>Risks:</p>"),
        ("Risks:\n- ", "<p>Risks:</p>"),
        ("Risks:\n\n1", "<p>Risks:</p>"),
        ("a\n\n| risk | cost", "<p>a</p>"),
        ("a\n\n| risk | cost |\n", "<p>a</p>"),
        ("a\n\n| risk | cost |\n|--", "<p>a</p>"),
        ("```python\nx = 1", "<pre><code>x = 1</code></pre>"),
        ("a\r", "<p>a</p>"),
    ],
)
def test_what_is_half_open_looks_sane(text, html):
    """No heading that was none, no pipes of a table to come."""
    assert STYLE.sub("", GrowingMarkdown().render(text)).strip() == html


def test_rows_of_a_table_come_one_by_one():
    head = "| a | b |\n|---|---|\n"
    growing = GrowingMarkdown()
    assert growing.render(head).count("<tr>") == 1
    assert growing.render(f"{head}| 1 | 2").count("<tr>") == 1
    assert growing.render(f"{head}| 1 | 2 |\n").count("<tr>") == 2
    assert growing.finish(f"{head}| 1 | 2").count("<tr>") == 2


def test_a_link_whose_address_comes_last_is_one_in_the_end():
    text = "[a][1]\n\nb\n\n[1]: https://a.example/x"
    growing = GrowingMarkdown()
    frames = [growing.render(text[:end]) for end in range(1, len(text))]
    assert not any("<a " in frame for frame in frames)
    assert AnswerPage(growing.finish(text)).links == ["https://a.example/x"]
