"""The events of mkdocs: which pages are made, and what is done to the text of each."""

from typing import Any

import formulas
import reference
import repository
from mkdocs.structure.files import File, Files

_MADE = {  # the file of the repository that a page is made of; a page of the reference has none
    **repository.PROJECT_PAGES,
    **{f"notebooks/{name}.md": f"notebooks/{name}.ipynb" for name in repository.NOTEBOOKS},
}


def on_config(config: Any) -> None:
    """Give headings the anchors that they have on GitHub: pages link to them in both places."""
    config.mdx_configs["toc"]["slugify"] = repository.make_slug


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made."""
    for page, write in reference.PAGES.items():
        files.append(File.generated(config, page, content=write()))
    for page, source in repository.PROJECT_PAGES.items():
        text = (repository.ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for name in repository.NOTEBOOKS:
        text = repository.read_notebook(name)
        files.append(File.generated(config, f"notebooks/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put in what a page includes, and make links of the repository links of the site."""
    name = page.file.src_uri
    if name in reference.PAGES:
        return markdown
    return repository.expand_page(markdown, _MADE.get(name, f"docs/{name}"), name)


def on_page_content(html: str, **_: Any) -> str:
    """Render the formulas, and put in the outputs of notebooks."""
    return formulas.render_formulas(repository.put_outputs(html))
