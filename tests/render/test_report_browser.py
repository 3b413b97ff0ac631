"""The page of a report in Chromium: it loads nothing, runs nothing, and is legible everywhere."""

import pypdf
import pytest

from browser import CHROMIUM, FLAGS
from report_maker import ATTACKS, FINED, give, give_portfolio, multiply, prices
from table_maker import document, table_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

A4_LANDSCAPE = (842, 595)  # points


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Hostile sentences, charts, a portfolio, and more findings than a sheet of paper takes."""
    text = " ".join(f"{FINED} Claim {number} was settled." for number in range(30))
    documents = [document(f"{attack} {text}", id=f"D{n}") for n, attack in enumerate(ATTACKS)]
    names = ["AAA", "BBB", "CCC"]
    table = give_portfolio(multiply(table_of(documents), names))
    table = give(table, prices=prices(*names))
    path = tmp_path_factory.mktemp("page") / "r.html"
    table.to_html_report(path)
    return path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def read_colour(text):
    """The parts of "rgb(1, 2, 3)"."""
    return [float(part) for part in text.partition("(")[2].rstrip(")").split(",")[:3]]


COLOURS = """() => {
  const style = getComputedStyle(document.body);
  return [style.color, style.backgroundColor];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_loads_nothing_and_runs_nothing(scheme, browser, page_file):
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(page_file.as_uri())
    page.screenshot(path=page_file.with_name(f"{scheme}.png"), full_page=True)
    assert asked == [page_file.as_uri()]
    assert said == []
    assert page.locator("script, img, iframe").count() == 0
    text, back = (sum(read_colour(colour)) for colour in page.evaluate(COLOURS))
    assert (text < back) == (scheme == "light")
    assert abs(text - back) > 450  # of 765
    # What is too wide is scrolled in its own place, and the page is not
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.close()


def test_paper_is_a4_with_headers_on_each_sheet(browser, page_file):
    page = browser.new_page(color_scheme="dark")
    page.goto(page_file.as_uri())
    path = page_file.with_suffix(".pdf")
    page.pdf(path=path, prefer_css_page_size=True, print_background=True)
    page.emulate_media(media="print")
    page.screenshot(path=page_file.with_name("print.png"))
    text, back = (sum(read_colour(colour)) for colour in page.evaluate(COLOURS))
    assert text < back  # paper is light, whatever the screen is
    page.close()
    sheets = pypdf.PdfReader(path).pages
    assert {tuple(round(float(side)) for side in sheet.mediabox[2:]) for sheet in sheets} == {
        A4_LANDSCAPE
    }
    headed = [sheet for sheet in sheets if "rule, warnings" in sheet.extract_text()]
    assert len(headed) > 3  # more sheets than tables of sentences
