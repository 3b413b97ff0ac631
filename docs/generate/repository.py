"""
What the site takes from files outside of `docs`: sections of the README, notebooks with their
stored outputs, and the pages at the top of the repository.

Knows: which file of the repository is which page of the site, so that links work in both places.
"""

import html
import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

__all__ = [
    "NOTEBOOKS",
    "PROJECT_PAGES",
    "ROOT",
    "expand_page",
    "make_slug",
    "put_outputs",
    "read_notebook",
    "read_part",
    "read_section",
    "relink",
]

ROOT = Path(__file__).parents[2]
# The file of each page that is made of one file of the repository
PROJECT_PAGES = {
    "project/changelog.md": "CHANGELOG.md",
    "project/security.md": "SECURITY.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/architecture.md": "ARCHITECTURE.md",
    "project/training.md": "training/README.md",
}
TUTORIAL = "01_quickstart"  # stands in tutorial.md
NOTEBOOKS = tuple(
    path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.stem != TUTORIAL
)
# Where each section of the README stands on the site
README_SECTIONS = {
    "": "index.md",
    "install-and-try": "index.md",
    "which-model-answers": "index.md",
    "the-table": "index.md",
    "in-a-notebook": "tutorial.md",
    "your-own-data": "tutorial.md",
    "settings": "reference/settings.md",
    "in-a-shell-every-night": "nightly.md",
    "as-a-service": "howto/service.md",
}
_INCLUDE = re.compile(
    r"^<!-- include: (?P<file>[\w./]+\.(?:md|ipynb))(?:#(?P<slug>[\w-]+))? -->$", re.MULTILINE
)
_COMMENT = re.compile(r"^<!--.*?-->\n?", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(^ *```.*?^ *```$|``.+?``|`[^`]*`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?P<mark>!?)\[(?P<text>(?:[^\[\]]|\x00\d+\x00)*)\]\((?P<target>[^)\s]+)\)")
_FILE_NAME = re.compile(r"[\w./-]+\.md")
_OUTPUT = re.compile(r'<div data-output="(?P<name>\w+):(?P<number>\d+)"></div>')


def make_slug(heading: str, separator: str = "-") -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def read_section(file: str, slug: str | None = None) -> str:
    """Return a section of a page of the repository; without a slug what stands before the first."""
    text = (ROOT / file).read_text(encoding="utf-8")
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    if slug is None:
        return parts[0]
    for part in parts[1:]:
        if make_slug(part.splitlines()[0].removeprefix("## ")) == slug:
            return part
    raise LookupError(f"{file} has no section #{slug}")


def expand_page(markdown: str, origin: str, page: str) -> str:
    """
    Return the Markdown of a page with what it includes, and with links of the site.

    Parameters
    ----------
    markdown
        As it stands in the repository.
    origin
        The file that it is of, from the top of the repository.
    page
        The page of the site, from the top of the site.
    """

    def include(mark: re.Match[str]) -> str:
        file = mark["file"]
        is_notebook = file.endswith(".ipynb")
        text = read_part(Path(file).stem) if is_notebook else read_section(file, mark["slug"])
        return expand_page(text, file, page)

    pieces = _INCLUDE.split(markdown)  # text, file, slug, text, file, slug, ...
    marks = list(_INCLUDE.finditer(markdown))
    texts = [relink(_COMMENT.sub("", text), origin, page) for text in pieces[::3]]
    return "".join(
        part
        for text, mark in zip(texts, [*marks, None], strict=True)
        for part in (text, include(mark) if mark else "")
    )


# Links --------------------------------------------------------------------------------------------


def relink(markdown: str, origin: str, page: str) -> str:
    """Return the text with links to pages of the site; a link to any other file is plain text."""
    code: list[str] = []

    def hide(piece: re.Match[str]) -> str:
        code.append(piece[0])
        return f"\x00{len(code) - 1}\x00"

    def change(link: re.Match[str]) -> str:
        target = _find_target(link["target"], origin, page)
        if target is None:
            return link["text"]
        return f"{link['mark']}[{_name_link(link, origin)}]({target})"

    linked = _LINK.sub(change, _CODE.sub(hide, markdown))
    return re.sub(r"\x00(\d+)\x00", lambda mark: code[int(mark[1])], linked)


def _name_link(link: re.Match[str], origin: str) -> str:
    """Return the text of a link; in place of the name of a file, the title of its page."""
    if not _FILE_NAME.fullmatch(link["text"]):
        return link["text"]
    path = ROOT / posixpath.dirname(origin) / link["target"].partition("#")[0]
    title = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return title[1] if title and path.suffix == ".md" else link["text"]


def _find_target(target: str, origin: str, page: str) -> str | None:
    if "://" in target:
        return target
    path, _, anchor = target.partition("#")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)) if path else origin
    aim = README_SECTIONS.get(anchor) if file == "README.md" else _find_page(file)
    if aim is None:
        return None
    whole = file == "README.md" and aim.startswith(("reference/", "nightly", "howto/"))
    here = "" if aim == page and anchor else posixpath.relpath(aim, posixpath.dirname(page) or ".")
    return here + (f"#{anchor}" if anchor and not whole else "")


def _find_page(file: str) -> str | None:
    """Return the page of the site that a file of the repository is."""
    for page, source in PROJECT_PAGES.items():
        if file == source:
            return page
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    if file.startswith("notebooks/") and file.endswith(".ipynb"):
        return "tutorial.md" if Path(file).stem == TUTORIAL else f"{file.removesuffix('.ipynb')}.md"
    return None


# Notebooks ----------------------------------------------------------------------------------------


def read_notebook(name: str) -> str:
    """Return a notebook as Markdown; its outputs are marks, which `put_outputs` replaces."""
    cells = enumerate(_read_cells(name))
    return "\n\n".join(_write_cell(name, number, cell) for number, cell in cells) + "\n"


def read_part(name: str) -> str:
    """Return a notebook as part of a page, which has a title of its own."""
    return read_notebook(name).partition("\n")[2]


def put_outputs(page: str) -> str:
    """Return the HTML of a page with the stored outputs of its notebook."""
    return _OUTPUT.sub(
        lambda mark: _write_outputs(_read_cells(mark["name"])[int(mark["number"])]), page
    )


def _read_cells(name: str) -> list[dict[str, Any]]:
    path = ROOT / "notebooks" / f"{name}.ipynb"
    return list(json.loads(path.read_text(encoding="utf-8"))["cells"])


def _write_cell(name: str, number: int, cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    output = f'\n\n<div data-output="{name}:{number}"></div>' if cell["outputs"] else ""
    return f"```python\n{source}\n```{output}"


def _write_outputs(cell: dict[str, Any]) -> str:
    shown = "".join(_write_output(output) for output in cell["outputs"])
    return f'<div class="output" data-search-exclude>{shown}</div>'


def _write_output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        return "".join(data["text/html"]).replace("<style scoped>", "<style>")
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f"<pre><code>{html.escape(text.rstrip(os.linesep))}</code></pre>"
