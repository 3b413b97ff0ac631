"""Where the time of calls went, as a table: one row a call, one column a phase."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from urisk_nb.llm.calls import CallRecord

__all__ = ["COLOURS", "NAMES", "PHASES", "SOURCES", "build_table"]

# In the order in which they happen; together they are the call, from the asking to the last token,
# but for what the wire takes.
PHASES = ("wait_s", "retry_s", "queue_s", "load_s", "prompt_s", "generation_s")
NAMES = {
    "wait_s": "queued locally",
    "retry_s": "failed attempts",
    "queue_s": "waiting for a slot",
    "load_s": "loading the model",
    "prompt_s": "reading the prompt",
    "generation_s": "generating",
}
# The hues of Okabe and Ito ("Color Universal Design", 2008), told apart by those who see no red or
# green; some darker than theirs, so that each is at least 3:1 against a white page and against a
# dark one.
COLOURS = dict(
    zip(PHASES, ("#767676", "#B05A8C", "#AD8600", "#D55E00", "#3A94CC", "#0072B2"), strict=True)
)
SOURCES = {
    "asked_at": "our clock, UTC",
    "model": "as asked for",
    "wait_s": "our clock: until the first attempt is sent; it waits for a free place, and for a "
    "server that is being restarted",
    "retry_s": "our clock: from the first attempt to the last one",
    "queue_s": "the server's total, or ours where it gives none, less load, prompt and generation",
    "load_s": "the server's counters",
    "prompt_s": "the server's counters: the part of the prompt that was not in its cache",
    "generation_s": "the server's counters",
    "server_total_s": "the server's counters",
    "first_token_s": "our clock, from the sending to the first piece",
    "total_s": "our clock, from the sending to the end",
    "elapsed_s": "our clock, from the asking to the end: wait_s + retry_s + total_s",
    "prompt_tokens": "the server's counters: the whole prompt, cached or not",
    "tokens": "the server's counters",
    "tokens_per_s": "(tokens - 1) / generation_s: the first one comes with the prompt",
    "attempts": "attempts, the last one included",
    "outcome": "ok, cancelled (by the caller), or the name of the error",
}


def build_table(records: Iterable[CallRecord]) -> pd.DataFrame:
    """
    Return one row a call that has ended, in the order of their ends; times in seconds, NaN where
    nothing was measured.

    Returns
    -------
    DataFrame
        Columns as in SOURCES; the index is the call's number in its session. `attrs["source"]` says
        where each figure comes from.
    """
    import pandas as pd

    rows = {
        record.number: {
            **asdict(timing),
            "elapsed_s": timing.elapsed_s,
            "tokens_per_s": timing.tokens_per_s,
            "outcome": record.outcome,
        }
        for record in records
        if (timing := record.timing) is not None
    }
    made = pd.DataFrame(
        list(rows.values()),
        index=pd.Index(list(rows), name="call", dtype="int64"),
        columns=list(SOURCES),
    )
    made["asked_at"] = pd.to_datetime(made["asked_at"], utc=True)
    made.attrs["source"] = dict(SOURCES)
    return made
