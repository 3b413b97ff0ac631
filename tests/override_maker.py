"""Runs whose labels are corrected: two tickers, a SCRIPTED judge, and a person called Anna."""

from scripted_judge import NEWS, ScriptedJudge
from urisk_nb import assess

FINED = "It was fined by the court."


def make_run(manager=None, evidence=NEWS, tickers="A B", **given):
    return assess(tickers, evidence=evidence, manager=manager or ScriptedJudge(), **given)


def correct(table, **given):
    """A's fine is none."""
    return table.override(FINED, **{"ticker": "A", "risk": "none", "why": "it was paid", **given})


def id_of(table):
    return table.report.meta["run_id"]


def notes_of(table):
    return table.report.meta["messages"].get("*", [])
