"""
Driving the flow of one ticker without a server: a plan for a text, and the flow's questions
answered by a function.
"""

from urisk_nb.risk.inputs import Document, Holding
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.pipeline import prepare


def document(text, id="D1", ticker="AAA", day=None):
    return Document(id=id, ticker=ticker, text=text, date=day)


def plan_for(text, **settings):
    return prepare([Holding(symbol="AAA")], None, [document(text)], RiskParams.of(**settings))


def drive(flow, replies):
    """
    Answer each question by `replies(question)`; the judgement and the batches that were asked.
    """
    batches = []
    try:
        batch = next(flow)
        while True:
            batches.append(batch)
            batch = flow.send([replies(question) for question in batch])
    except StopIteration as done:
        return done.value, batches
