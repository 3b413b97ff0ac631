"""
Runs without a server whose every label, probability and doubt is given: invented filings and news,
prices, and the table that comes of them.
"""

import random
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd

from urisk_nb.readers.prices import read_prices
from urisk_nb.risk.inputs import Document, Holding, Section
from urisk_nb.risk.judges import unite_judges
from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import Label
from urisk_nb.risk.taxonomy import DEFAULT
from urisk_nb.table.risk_table import assemble

# Sentences of filings, for each rule that there is; all invented
TELLING = (
    "We may be in default under the term loan.",
    "Sales decreased by 9 % in fiscal 2023.",
    "We have a working capital deficit of $4 million.",
    "We were not in default under the lease.",
    "In 2023 we were in default under the lease, and this default was cured.",
    "In 2015 we were in default under the bonds.",
    "Norwick Inc. was in default under the term loan in June 2023.",
    "The lenders extended the maturity of our loan in June 2023.",
    "We were in default under the credit agreement in June 2023.",
    "We failed to make the interest payment due on the notes.",
    "These losses raise substantial doubt about our ability to go on.",
    "In March 2023 we discovered a ransomware event on our servers.",
    "A class action was filed against us in June 2023.",
    "In June 2023 a class action was filed against us.",
    "In May 2023 the plaintiffs filed a complaint against our bank for fraud.",
    "The chairman left in anger.",
)
NEWS = (
    "Acme was fined by a court.",
    "A plant of Acme burned down.",
    "Acme could lose its licence.",
    "Acme sold a division to Boro.",
    "The auditors of Acme resigned on Monday.",
    "Acme lost its largest customer.",
)
YEARS = tuple(f"In fiscal 2023 we opened a shop in town {number}." for number in range(9))
ROUTINE = (*YEARS, *(f"We sell paper to the schools of town {number}." for number in range(80)))
DAYS = pd.bdate_range("2024-01-01", periods=120)
RISKS = (*DEFAULT.ids, "none")


def filing(ticker, *sentences, name="", length=None):
    section = Section(name="Item 7", title="Management's Discussion and Analysis", start=0)
    text = " ".join([*sentences, *ROUTINE[:length]])
    name = name or f"{ticker}-10K"
    return Document(
        id=name,
        ticker=ticker,
        text=text,
        form="10-K",
        source=f"{name}.txt",
        date=date(2024, 2, 1),
        sections=(section,),
    )


def note(ticker, *sentences, name=""):
    name = name or f"{ticker}-news"
    return Document(
        id=name, ticker=ticker, text=" ".join(sentences), source="wire", date=date(2024, 1, 5)
    )


def make_prices(*tickers, days=DAYS, seed=1):
    """Prices that look like prices; those of a ticker depend on its name and the seed alone."""
    columns = {}
    for ticker in tickers:
        rng = np.random.default_rng([seed, *ticker.encode()])
        columns[ticker] = 100 * np.cumprod(1 + rng.normal(0, 0.01, len(days)))
    return pd.DataFrame(columns, index=days)


def choose_label(seed):
    """A judge that gives each sentence of a ticker a label that is as good as drawn."""

    def label(ticker, text):
        rng = random.Random(f"{seed} {ticker} {text}")
        risk = rng.choice(RISKS)
        return risk, 0 if risk == "none" else rng.randrange(6)

    return label


def make_run(
    symbols,
    documents,
    label=lambda ticker, text: ("legal", 3),
    *,
    other=None,
    p=lambda ticker, text: None,
    prices=None,
    skip=(),
    run_id="r1",
    judge="judge-1",
    is_judge=False,
    taxonomy=DEFAULT,
    weights=None,
    previous=None,
    **settings,
):
    """
    The table of a run.

    `label(ticker, text)` is the first judge's label, None for none; `other` is a second judge;
    `p(ticker, text)` is the probability of both. The tickers in `skip` are not labeled.
    """
    plan = prepare(
        [Holding(symbol=symbol, weight=(weights or {}).get(symbol)) for symbol in symbols],
        None if prices is None else read_prices(prices),
        documents,
        RiskParams.of(**settings),
        taxonomy=taxonomy,
        previous=previous,
    )
    plan = replace(plan, is_judge=is_judge)
    asked = [symbol for symbol in plan.asked if symbol not in skip]
    found = {symbol: _find(plan, symbol, label, p) for symbol in asked}
    if other is not None:
        second = {symbol: _find(plan, symbol, other, p) for symbol in asked}
        found = unite_judges(found, {"judge-2": second})
    names = [judge, "judge-2"] if other else [judge]
    judges = [{"model": name, "digest": f"sha-{name}"} for name in names] if asked else []
    table = assemble(plan, found, run_id=run_id, model=judge, judges=judges)
    served_by = {"model": judge, "engine": "test", "server": "1.0"} if asked else {}
    table.report.meta.update(served_by=served_by, failure="it was stopped" if skip else None)
    return table


def _find(plan, symbol, label, p):
    findings = []
    for sentence in plan.selections[symbol].chosen:
        given = label(symbol, sentence.text)
        sure = None if given is None else p(symbol, sentence.text)
        findings.append(
            Finding(
                sentence=sentence,
                label=given and Label(risk=given[0], severity=given[1]),
                reason=None if given else "not JSON",
                p_label=sure,
                p_severity=None if sure is None or given[0] == "none" else sure / 2,
            )
        )
    return TickerFindings(symbol=symbol, findings=tuple(findings), seconds=1.0, tokens=9)
