"""
Labeling the sentences of one ticker without a server: a plan for a text, and the questions answered
by a function.
"""

from urisk_nb.risk.inputs import Document, Holding
from urisk_nb.risk.labeling import label_ticker
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare


def document(text, id="D1", ticker="AAA", day=None):
    return Document(id=id, ticker=ticker, text=text, date=day)


def plan_for(text, **settings):
    return prepare([Holding(symbol="AAA")], None, [document(text)], RiskParams.of(**settings))


def drive(plan, symbol, replies):
    """
    Answer each question by `replies(question)`; what came of it, and the batches that were asked.

    A batch is what was asked before the next reply was awaited.
    """
    batches, is_open = [], False

    def ask(question):
        nonlocal is_open
        if not is_open:
            batches.append(())
        batches[-1], is_open = (*batches[-1], question), True
        return answer(question)

    async def answer(question):
        nonlocal is_open
        is_open = False
        return replies(question)

    labeling = label_ticker(plan, symbol, ask)
    try:
        labeling.send(None)  # without any loop: it awaits nothing but what `ask` gives
    except StopIteration as done:
        return done.value, batches
    raise AssertionError("something else than a reply is awaited")
