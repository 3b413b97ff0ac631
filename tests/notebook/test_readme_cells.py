"""The cells of the README's first notebook run as they stand, in their order."""

import json
import re

import pytest

from harness import ROOT, FakeOllama

pytestmark = pytest.mark.slow  # a kernel of its own

FINES = [{"ticker": "FB", "fine": "5 billion dollars"}, {"ticker": "AAPL"}]


def test_the_cells_of_the_readme_run_as_they_stand(kernel, tmp_path):
    """A newcomer types them into an empty notebook: no variable is missing, no flag is gone."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## In a notebook\n")[2].partition("\n### ")[0]
    cells = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(cells) == 7
    scenario = tmp_path / "scenario.json"
    rules = [{"contains": "and how much?", "answer": json.dumps(FINES)}]
    scenario.write_text(json.dumps({"rules": rules}))
    server = FakeOllama("--scenario", str(scenario))
    try:
        kernel.good(f"%env OLLAMA_URL={server.url}")
        for cell in cells:
            kernel.good(cell)
        assert kernel.value("list(table['ticker'] if 'ticker' in table else table.index)") == (
            "['GOOG', 'AAPL', 'FB']"
        )
        assert kernel.value("type(found).__name__, list(found.columns)") == (
            "DataFrame ['ticker', 'fine']"
        )
    finally:
        kernel.good("%urisk_stop")
        server.stop()
