"""HTML becomes the text that a browser shows, and each character knows where it stood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.errors import InputError
from urisk_nb.readers import html_text
from urisk_nb.readers.html_text import find_charset, looks_like_html, read_html


def show(page):
    return read_html(page).source.text


def blocks(page):
    return show(page).split("\n\n")


def test_tags_and_entities_do_not_reach_the_text():
    assert (
        show("<p>It fined the company <b>$5&nbsp;million</b> for&#32;bribery &amp; fraud.</p>")
        == "It fined the company $5 million for bribery & fraud."
    )


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("<div>one<div>two</div>three</div>", "one\n\ntwo\n\nthree"),
        ("<p>one\n  two\t three</p>", "one two three"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<ul><li>one<li>two</ul>", "one\n\ntwo"),
        ("<h1>Head</h1>text", "Head\n\ntext"),
        ("wo<b>r</b>d and<i> more</i>", "word and more"),
        ('<div style="display: inline">one</div> <div style="display:inline">two</div>', "one two"),
        ("<pre>a  b\n c</pre>", "a  b\n c"),
        ("5 < 6 and 7 > 3", "5 < 6 and 7 > 3"),
        (
            "<p>caf&eacute; &#x2019;quoted&#8217; &unknown; &lt;b&gt;</p>",
            "café ’quoted’ &unknown; <b>",
        ),
        ("soft&shy;hyphen and zero&#8203;width", "softhyphen and zerowidth"),
        (
            "<p>Sales rose.<sup>(1)</sup> They were 10<sup>6</sup>.</p>",
            "Sales rose. They were 106.",
        ),
        ('<p title="a > b">text</p>', "text"),
        ("<p title='it\"s'>text</p>", "text"),
        ("<![CDATA[kept]]> <!-- <p>gone</p> --> end", "kept end"),
        ("<?xml version='1.0'?><!DOCTYPE html><p>text</p>", "text"),
        ('<!DOCTYPE d [<!ENTITY x "gone">]><p>&x; text</p>', "&x; text"),
        ("<p>unclosed <b>tags <i>everywhere", "unclosed tags everywhere"),
        ("text <b", "text <b"),
    ],
)
def test_blocks_spaces_and_odd_markup(page, text):
    assert show(page) == text


@pytest.mark.parametrize(
    "hidden",
    [
        '<div style="display:none">gone <div>gone</div> gone</div>',
        '<span style="DISPLAY : NONE;color:red">gone</span>',
        '<p style="visibility: hidden">gone</p>',
        "<p hidden>gone</p>",
        "<p hidden=''>gone<p>",
        "<ix:header><ix:hidden>gone</ix:hidden></ix:header>",
        '<div style="display:none"><ix:header>gone<div>gone</div></ix:header></div>',
        "<script>gone('</p>')</script>",
        "<style>gone { }</style>",
        "<head><title>gone</title></head>",
        "<noscript>gone</noscript>",
        "<nav><ul><li>gone</ul></nav>",
        "<svg><text>gone</text></svg>",
        "<template>gone</template>",
        '<table><tr><td style="display:none">gone<td>kept cell</table>',
    ],
)
def test_what_a_browser_hides_is_left_out(hidden):
    text = show(f"<p>before</p>{hidden}<p>after</p>")
    assert "gone" not in text
    assert text.startswith("before")
    assert text.endswith("after")


@pytest.mark.parametrize(
    "shown",
    [
        '<div style="overflow: hidden">kept</div>',
        '<div class="not-hidden" data-note="a hidden one">kept</div>',
        '<br style="display:none">kept',
        '<img hidden src="http://example.org/x.png">kept',
        '<div style="display:none"/>kept',
    ],
)
def test_what_only_looks_hidden_stays(shown):
    assert "kept" in show(shown)


FIGURES = """<table><tr><th></th><th>2024</th><th>2023</th></tr>
<tr><td>Provision for credit losses on loans to small firms</td><td>$</td><td>5</td><td>4</td></tr>
<tr><td>Total interest expense, net of what was paid, as follows.</td><td>7</td><td>(9)</td></tr>
</table>"""
BULLETS = """<table><tr><td>&#8226;</td><td>changes in the tax laws of Norway; and</td></tr></table>
<table><tr><td></td><td>(1)</td><td>Includes a fine of $5 million that the company paid.</td></tr>
</table>"""


def test_a_table_of_figures_is_left_out_and_counted():
    read = read_html(f"<p>before</p>{FIGURES}<p>after</p>")
    assert read.source.text == "before\n\nafter"
    assert read.tables_left_out == 1


def test_cells_with_sentences_are_kept_behind_their_bullets():
    assert blocks(BULLETS) == [
        "• changes in the tax laws of Norway; and",
        "(1) Includes a fine of $5 million that the company paid.",
    ]


def test_a_page_in_a_table_is_read_and_the_table_in_it_is_not():
    page = (
        "<table><tr><td><h2>Risk</h2><p>A regulator fined the company.</p>"
        f"{FIGURES}<p>It paid the fine in May.</p></td></tr></table>"
    )
    assert blocks(page) == ["Risk", "A regulator fined the company.", "It paid the fine in May."]


def test_a_heading_in_a_table_is_one_line():
    page = "<table><tr><td>Item&nbsp;1A.</td><td>&nbsp;</td><td>Risk Factors</td></tr></table>"
    assert show(page) == "Item 1A. Risk Factors"


def test_a_table_of_contents_is_left_out():
    rows = "".join(
        f"<tr><td>Item {item}.</td><td>Title</td><td>{item}</td></tr>" for item in range(1, 9)
    )
    assert show(f"<p>start</p><table>{rows}</table>") == "start"


def test_a_table_of_words_keeps_its_sentences():
    page = (
        "<table><tr><td>2024</td><td>The auditor resigned in March.</td></tr>"
        "<tr><td>2023</td><td>Nothing</td></tr></table>"
    )
    assert show(page) == "The auditor resigned in March."


def test_headlines_in_a_table_without_figures_are_text():
    rows = "<tr><td>2024-05-03</td><td>Regulator fines Acme for bribery in two cities</td></tr>"
    assert blocks(f"<table>{rows * 2}</table>") == [
        "Regulator fines Acme for bribery in two cities"
    ] * 2  # fmt: skip
    figures = "<tr><td>Interest on loans to small firms in Ohio</td><td>5</td></tr>"
    assert show(f"<table>{figures}</table>") == ""


def check_origins(page):
    """Each character of the text stands at its origin in the page, or comes from an entity."""
    source = read_html(page).source
    for offset, sign in enumerate(source.text):
        if not sign.isspace():  # the breaks between blocks stand nowhere in the page
            there = page[source.find_origin(offset)]
            assert there in (sign, "&"), (offset, sign, there)
    return source


def test_each_character_knows_its_place():
    page = (
        "<p>A &amp; B&nbsp;&nbsp; <b>C</b>\n\n D</p><ul><li>x<br>y</ul>"
        f"{BULLETS}<p>Sales rose.<sup>1</sup> End.</p>"
    )
    source = check_origins(page)
    at = source.text.index("Includes")
    assert page[source.find_origin(at) :].startswith("Includes a fine")
    assert page[source.find_origin(source.text.index("End.")) :].startswith("End.")


PIECES = st.sampled_from(
    [
        *("<p>", "</p>", "<div>", "</div>", "<table>", "<tr>", "<td>", "</td>", "</table>", "<b>"),
        *("word ", "A sentence that ends here. ", " ", "\n\n", "&amp;", "&nbsp;", "<br>", "<", ">"),
        *(
            '<div style="display:none">',
            "<script>",
            "</script>",
            "<!--",
            "-->",
            '"',
            "<sup>1</sup>",
        ),
        *("<li>", "<pre>", "</pre>", "\u200b", "<hr>", "•", "<td>•</td>", "é", "<![CDATA[", "]]>"),
    ]
)


@given(st.lists(PIECES, max_size=60))
def test_any_markup_is_read_and_keeps_its_places(pieces):
    """Whatever the tags, reading ends, and what is no entity stands where it stood."""
    check_origins("".join(pieces))


def test_a_part_of_a_page_counts_from_its_beginning():
    page = "<TEXT><p>one</p></TEXT><p>two</p>"
    read = read_html(page, 6, page.index("</TEXT>")).source
    assert read.text == "one"
    assert read.find_origin(0) == page.index("one")


def test_too_many_tags_are_refused(monkeypatch):
    monkeypatch.setattr(html_text, "MAX_TAGS", 10)
    assert show("<b>" * 10) == ""
    with pytest.raises(InputError, match="more than 10 tags"):
        show("<b>" * 11)


def test_deep_tables_are_read_without_a_stack():
    text = show("<table><tr><td>" * 5000 + "A regulator fined the company." + "</table>" * 5000)
    assert text == "A regulator fined the company."


@pytest.mark.parametrize(
    ("content", "charset"),
    [
        (b'<meta charset="windows-1252">', "windows-1252"),
        (b"<META http-equiv='Content-Type' content='text/html; charset=shift_jis'>", "shift_jis"),
        (b"<?xml version='1.0' encoding='ASCII'?>", "ASCII"),
        (b"<p>no charset=here</p>", None),
    ],
)
def test_the_encoding_that_a_page_names(content, charset):
    assert find_charset(content) == charset


def test_plain_text_of_edgar_is_no_html():
    assert not looks_like_html("<PAGE>\n<TABLE>\n<S> <C>\n1 2\n</TABLE>")
    assert looks_like_html("<DOCUMENT>\n<TYPE>10-K\n<TEXT>\n<HTML><HEAD>")


def test_text_behind_an_open_comment_is_kept():
    page = "<p>A fire stopped us.</p><!-- menu ><p>It is old.</p>" + "<!-- x >" * 100_000
    assert read_html(page).source.text == "A fire stopped us.\n\nIt is old."


@pytest.mark.parametrize("size", ["0", "0px", "0pt;", "0 ; color:red"])
def test_text_of_no_size_is_hidden(size):
    page = f'<p>A fire stopped us.<span style="font-size: {size}">Ignore it.</span></p>'
    assert read_html(page).source.text == "A fire stopped us."
    page = '<p>A fire <span style="font-size:0.9em">stopped us.</span></p>'
    assert read_html(page).source.text == "A fire stopped us."


@pytest.mark.parametrize("page", ["<pre><![CDATA[", "<p><![CDATA[]]>Fined.", "<![CDATA[ ]]>"])
def test_empty_character_data_is_nothing(page):
    assert read_html(page).source.text.strip() == ("Fined." if "Fined" in page else "")
