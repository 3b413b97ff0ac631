"""The examples of docs/filings.md run as they stand, and print what stands below them."""

import contextlib
import io
import re

from harness import ROOT
from run_maker import filing, make_run

PAGE = (ROOT / "docs/filings.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"<!-- example: run by tests/table/test_page_example.py -->\n"
    r"```python\n(.*?)```\n```text\n(.*?)```",
    PAGE,
    re.DOTALL,
)
# Invented, as is the company
LABELS = {
    "We were in default under the term loan in June 2023.": ("credit", 4),
    "We have a working capital deficit of $4 million.": ("liquidity", 5),
    "A class action was filed against us in June 2023.": ("legal", 3),
}


def run(sentences, run_id):
    return make_run(
        ["NWK"],
        [filing("NWK", *sentences)],
        lambda _, text: LABELS.get(text, ("none", 0)),
        p=lambda *_: 0.91,
        run_id=run_id,
    )


def test_the_examples_print_what_the_page_shows():
    names = {
        "table": run(list(LABELS), "20260309T090000-1f0e2b"),
        "last_week": run(list(LABELS)[1:], "20260302T090000-5c71aa"),
    }
    assert len(EXAMPLES) == 2
    for code, shown in EXAMPLES:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == shown
