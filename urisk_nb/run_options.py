"""
The options of a run, once: `%%risk` and `urisk risk` take the same ones, with the same help.

In a notebook an option may name a value of the user's, such as a variable with prices. In a shell
it is a path. These are the only differences.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

__all__ = ["FILE_OPTIONS", "PARAMS", "list_run_options", "read_run_params"]

Options = dict[str, dict[str, Any]]  # each as `add_argument` takes it

_OPTIONS: Options = {
    "--prices": {
        "metavar": "WHAT",
        "help": "variable, expression (px['Close']) or path: a DataFrame of any common shape, a "
        "callable, or a CSV, Excel or Parquet file or a folder of them",
    },
    "--evidence": {
        "metavar": "WHAT",
        "help": "variable, expression or path: a DataFrame, dict or list of news or texts, a "
        "callable, or a file or folder of news, filings and notes",
    },
    "--previous": {
        "metavar": "WHAT",
        "help": "the documents of the year before, as variable, expression or path; each "
        "sentence of the evidence is then new, changed or repeated",
    },
    "--price-column": {
        "metavar": "NAME",
        "help": "the column of prices to read, such as Close; default: the adjusted one",
    },
    "--query": {
        "metavar": "TEXT",
        "help": "ask only about sentences that share a word with it",
    },
    "--benchmark": {
        "metavar": "NAME",
        "help": "a column of the prices, a Series, or equal (the table's own equal-weighted mean)",
    },
    "--stress": {
        "metavar": "EPISODES",
        "help": "losses in dated episodes: covid=2020-02-19:2020-03-23, several between commas or "
        "semicolons, or a dict of them; table.stress()",
    },
    "--factors": {
        "metavar": "NAMES",
        "help": "columns of the prices (SPY,TLT), or a DataFrame, to regress the returns on; "
        "table.factors()",
    },
    "--factor-returns": {
        "action": "store_true",
        "help": "the DataFrame of factors holds simple returns, not prices",
    },
    "--start": {"metavar": "DATE", "help": "first date, such as 2023-01-31"},
    "--end": {"metavar": "DATE", "help": "last date"},
    "--window": {"metavar": "SPAN", "help": "2y, 6m, 12w or 90d, back from the last date"},
    "--as-of": {
        "metavar": "DATE",
        "help": "prices and evidence after it are left out; default: the last date in the prices",
    },
    "--alpha": {
        "metavar": "LIST",
        "help": "tail probabilities of VaR and ES, such as 0.05,0.01",
    },
    "--returns": {
        "action": "store_true",
        "help": "the values are simple returns, not prices",
    },
    "--periods-per-year": {
        "metavar": "N",
        "help": "252 for days, 52 for weeks, 12 for months; default: from the spacing of the dates",
    },
    "--normalise": {
        "action": "store_true",
        "help": "scale the weights so that they sum to 1",
    },
    "--no-llm": {
        "action": "store_true",
        "help": "metrics and sentence counts, no labels; no server is touched",
    },
    "--judge": {
        "metavar": "MODEL",
        "help": "model that labels the sentences; of several (a,b) the first one's labels count, "
        "and the others are compared with it",
    },
    "--model": {"help": "the same as --judge"},
    "--labels": {
        "metavar": "KIND",
        "help": "greedy: the label the model writes; calibrated: the most probable label after "
        "subtracting the content-free prior; a decision model, such as urisk-judge, gives "
        "probabilities with either",
    },
    "--review-below": {
        "metavar": "P",
        "help": "a label with a lower probability does not count, and is listed by "
        "table.review(); default: the threshold of urisk-judge if its labels count",
    },
    "--max-sentences": {
        "metavar": "N",
        "help": "most sentences to label for one ticker; default: 40",
    },
    "--families": {
        "metavar": "FILE",
        "help": "TOML file of more families of distress to search long documents for",
    },
    "--taxonomy": {
        "metavar": "NAME",
        "help": "categories of your own: a variable (Taxonomy), or a TOML file",
    },
    "--client": {
        "metavar": "NAME",
        "help": "client of a Dask cluster whose workers query the model servers of their hosts",
    },
    "--parallel": {"metavar": "N", "help": "calls in flight for this run, 1 to 256"},
    "--refresh": {
        "action": "store_true",
        "help": "ask every question again, also one whose answer is in the journal",
    },
}

# In a shell there are no variables.
_IN_SHELL: Options = {
    "--prices": {
        "metavar": "PATH",
        "help": "a CSV, Excel or Parquet file of prices, or a folder of them",
    },
    "--evidence": {"metavar": "PATH", "help": "a file or folder of news, filings and notes"},
    "--previous": {
        "metavar": "PATH",
        "help": "the documents of the year before; each sentence of the evidence is then new, "
        "changed or repeated",
    },
    "--benchmark": {
        "help": "a column of the prices, or equal (the table's own equal-weighted mean)"
    },
    "--stress": {
        "help": "losses in dated episodes: covid=2020-02-19:2020-03-23, several between commas or "
        "semicolons"
    },
    "--factors": {"help": "columns of the prices (SPY,TLT) to regress the returns on"},
    "--taxonomy": {"metavar": "FILE", "help": "TOML file of categories of your own"},
}
_OF_VALUES = ("--factor-returns", "--client")  # about a value that a shell cannot give

# The files that a run writes; a notebook takes the first two.
FILE_OPTIONS: Options = {
    "--report": {
        "metavar": "FILE",
        "help": "write the table, its findings and its record as one HTML page, such as risk.html",
    },
    "--excel": {
        "metavar": "FILE",
        "help": "write an Excel workbook, such as risk.xlsx: table, findings, record",
    },
    "--csv": {"metavar": "FILE", "help": "write the table as CSV, such as risk.csv"},
    "--parquet": {
        "metavar": "FILE",
        "help": "write table, findings and record as Parquet, such as risk.parquet; "
        "RiskTable.from_parquet reads it back",
    },
}

# The parameters of the run that have an option of the same name.
PARAMS = (
    *("alpha", "start", "end", "window", "as_of", "returns", "model", "labels", "query", "judge"),
    *("price_column", "periods_per_year", "max_sentences", "normalise", "families"),
    *("review_below", "factor_returns"),
)


def list_run_options(*, in_shell: bool) -> Options:
    """
    Return the options of a run, each as `add_argument` takes it.

    Parameters
    ----------
    in_shell
        What the user gives is a path; else it may also be a value of the notebook.
    """
    others = _IN_SHELL if in_shell else {}
    return {
        flag: {**settings, **others.get(flag, {})}
        for flag, settings in _OPTIONS.items()
        if not (in_shell and flag in _OF_VALUES)
    }


def read_run_params(args: argparse.Namespace) -> Mapping[str, Any]:
    """Return the parameters of the run that were given, as they were typed: the run reads them."""
    given = {name: getattr(args, name, None) for name in PARAMS}
    named = {name: value for name, value in given.items() if value is not None}
    return {**named, "llm": not args.no_llm}
