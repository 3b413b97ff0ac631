"""
What all figures share: colors that everybody tells apart, text that plotly takes as text, and a
toolbar that sends nothing away.
"""

import itertools
import json
import re

import numpy as np
import pytest

from urisk_nb.render import figures, risk_figures
from urisk_nb.render.figures import (
    CELL_TEXT,
    LINES,
    PAGE_AXIS,
    SEVERITY_COLORS,
    add_note,
    apply_page_color,
    build_figure,
    escape_text,
)

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", IEEE TVCG 15 (2009), severity 1.0: linear RGB to what is seen
VISIONS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# sRGB to XYZ, IEC 61966-2-1; its second row is the luminance of WCAG 2
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(axis=1)
PAGES = ("#ffffff", "#111111", "#1e1e1e")  # light pages, JupyterLab's dark theme, VS Code's


def linear(color):
    channels = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(color, vision="usual"):
    """CIE L*a*b* of a color as somebody with this vision sees it."""
    seen = np.clip(VISIONS[vision] @ linear(color), 0, 1)
    share = TO_XYZ @ seen / WHITE
    root = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def contrast(one, other):
    """The ratio of WCAG 2."""
    low, high = sorted(float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_the_oracle_knows_black_white_and_gray():
    """21:1 is the ratio of WCAG for black and white; sRGB #777777 has L* 50.03."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert lab("#777777") == pytest.approx([50.03, 0, 0], abs=0.05)
    for vision in VISIONS:
        assert lab("#777777", vision) == pytest.approx(lab("#777777"), abs=0.1)
    assert np.linalg.norm(lab("#b04040", "deuteranopia") - lab("#6b6b2a", "deuteranopia")) < 20


@pytest.mark.parametrize("vision", VISIONS)
def test_a_higher_severity_is_darker_for_everybody(vision):
    """Lightness falls by 8 or more from step to step, whoever looks."""
    light = [lab(color, vision)[0] for color in SEVERITY_COLORS]
    assert len(light) == 6
    assert all(before - after >= 8 for before, after in itertools.pairwise(light)), light


def test_each_number_is_legible_in_its_cell():
    """4.5:1, which WCAG asks of text."""
    assert len(CELL_TEXT) == len(SEVERITY_COLORS)
    for color, ink in zip(SEVERITY_COLORS, CELL_TEXT, strict=True):
        assert contrast(color, ink) >= 4.5


@pytest.mark.parametrize("page", PAGES)
def test_lines_and_bars_are_seen_on_light_and_dark_pages(page):
    """3:1, which WCAG asks of what is drawn."""
    for color in (*LINES, figures.MUTED_GRAY, risk_figures.ADDS, risk_figures.LOWERS):
        assert contrast(color, page) >= 3, color


@pytest.mark.parametrize("vision", VISIONS)
def test_what_adds_and_what_lowers_are_told_apart(vision):
    difference = lab(risk_figures.ADDS, vision) - lab(risk_figures.LOWERS, vision)
    assert np.linalg.norm(difference) > 20


def shown(text):
    """
    What plotly.js makes of a text: the tags that it obeys, and the words that are left.

    After its `svg_text_utils.js`: it splits at tags, obeys those that it knows, and turns entities
    into characters in what is between them. Dollars that enclose something are a formula.
    """
    assert not re.search(r"[$]+[^$]*[$]+", text), "a formula"
    parts = re.split(r"(<[^<>]*>)", text)
    known = re.compile(r"<(/?)(sup|sub|s|u|b|i|a|em|span|br)(\s.*)?>", re.IGNORECASE)
    tags = [part for part in parts if known.fullmatch(part)]
    words = "".join(part for part in parts if not known.fullmatch(part))
    for entity, char in (("lt", "<"), ("gt", ">"), ("#36", "$"), ("#123", "{"), ("amp", "&")):
        words = words.replace(f"&{entity};", char)
    return tags, words


@pytest.mark.parametrize(
    "text",
    [
        "<b>bold</b>",
        '<a href="http://127.0.0.1/x">here</a>',
        "<a href='javascript:alert(1)'>x</a><br>next",
        "&lt;b&gt; &amp;lt; &#60;b&#62;",
        "from $43.7 million to $10.1 million",
        "$\\frac{1}{2}$",
        "%{x} and %{customdata[0]}",
        "a < b > c",
    ],
)
def test_hostile_text_is_shown_as_it_is(text):
    """No tag, link, formula, entity or placeholder of it comes through."""
    assert shown(escape_text(text)) == ([], text)
    assert "%{" not in escape_text(text)


def test_what_hides_is_written_out():
    assert escape_text("a\u202eb\x1b[31m\nc") == "a⟨U+202E⟩b⟨U+001B⟩[31m c"


@pytest.fixture
def figure():
    return build_figure(
        [{"type": "scatter", "x": [1], "y": [2]}],
        height=200,
        margin={"b": 10},
        xaxis=dict(PAGE_AXIS),
        hovermode="x",
    )


def test_a_figure_has_the_colors_of_its_page(figure):
    """Nothing is painted behind it; words take the page's color; hover boxes bring their own."""
    layout = json.loads(figure.to_json())["layout"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
    page = '<span style="color:var(--jp-ui-font-color1,currentColor)">'
    assert apply_page_color("x") == f"{page}x</span>"
    assert (layout["xaxis"]["tickprefix"], layout["xaxis"]["ticksuffix"]) == (page, "</span>")
    box = layout["hoverlabel"]
    assert contrast(box["bgcolor"], box["font"]["color"]) >= 4.5
    assert layout["hovermode"] == "x", "what the caller says goes first"


def test_no_button_uploads_the_figure(figure):
    """It is in the figure itself, so it holds wherever the figure is shown or saved."""
    assert {"sendChartToCloud", "sendDataToCloud"} <= set(figure.layout.modebar.remove)
    assert figures.CONFIG["displayModeBar"] is False


def test_plotly_has_no_upload_under_another_name():
    """Each button of the installed plotly.js that goes to a server is one that is removed."""
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    buttons = set(re.findall(r'\b(\w*(?:Cloud|Studio)\w*)=\{name:"', script))
    buttons |= set(re.findall(r'name:"(\w*(?:Cloud|Studio|[uU]pload)\w*)"', script))
    assert buttons <= {"sendChartToCloud", "sendDataToCloud", "editInChartStudio"}
    assert buttons


def test_a_note_makes_room_for_itself(figure):
    """Escaped, wrapped, and the figure grows by its lines."""
    add_note(figure, "many <b>words</b> " * 12, below=30)
    (note,) = figure.layout.annotations
    tags, words = shown(note.text)
    lines = note.text.count("<br>") + 1
    assert lines == 3
    assert words.startswith("many <b>words</b> many")
    assert set(tags) == {apply_page_color("")[:-7], "<br>", "</span>"}
    assert figure.layout.height == 200 + lines * figures.LINE_HEIGHT
    assert figure.layout.margin.b == 10 + lines * figures.LINE_HEIGHT
    assert note.yshift == -30
