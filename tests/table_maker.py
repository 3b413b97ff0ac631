"""Tables of runs without a server: prices, documents, and a function that labels each sentence."""

from datetime import date

import numpy as np
import pandas as pd

from pipeline_driver import drive
from urisk_nb.readers.prices import read_prices
from urisk_nb.risk.inputs import Document, Holding
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import Reply, answer
from urisk_nb.table.risk_table import assemble

DAYS = pd.bdate_range("2018-01-01", periods=120)
HOSTILE = "<script>alert(1)</script>\u202eevil\u202c was fined & $1 to $2 \x1b[31m."


def document(text, id="D1", ticker="AAA", day=date(2018, 3, 1), source="wire"):
    return Document(id=id, ticker=ticker, text=text, date=day, source=source)


def prices(*names):
    rng = np.random.default_rng(1)
    return read_prices(
        pd.DataFrame(
            {name: 100 * np.cumprod(1 + rng.normal(0, 0.01, len(DAYS))) for name in names},
            index=DAYS,
        )
    )


def finish(plan, label=lambda text: ("legal", 3), skip=()):
    """
    The table of a plan whose every question is answered by `label(text)`; None is an invalid
    answer.
    """

    def reply(question):
        one = label(question.sentence.text)
        text = answer(*one) if one else "?"
        return Reply(text=text, done_reason="stop", tokens=10, seconds=0.25)

    symbols = [symbol for symbol in plan.symbols if symbol not in skip]
    ticker_findings = {symbol: drive(plan, symbol, reply)[0] for symbol in symbols}
    return assemble(plan, ticker_findings, run_id="r1", model="m:latest", flags=("demo_model",))


def table_of(
    documents, label=lambda text: ("legal", 3), symbols=("AAA",), with_prices=True, **settings
):
    plan = prepare(
        [Holding(symbol=symbol) for symbol in symbols],
        prices(*symbols) if with_prices else None,
        documents,
        RiskParams.of(**settings),
    )
    return finish(plan, label)


def table_of_two():
    """TSLA is severe, AAA is not: what a question about either is asked of."""
    return table_of(
        [
            document("TSLA was fined $3 billion. It defaulted on its bonds.", ticker="TSLA"),
            document("AAA opened a plant in Ohio. AAA was sued by a customer.", id="D2"),
        ],
        lambda text: ("legal", 5 if "fined" in text else 2),
        symbols=("AAA", "TSLA"),
    )
