"""Runs of the past: shown again, checked, listed, and removed; and the corrections of labels.

They are read from the journal. A run is shown again by the same code that made it: the plan is
computed from the inputs that were recorded, and the answers come from the journal in place of a
server. Over 400 lines: all of it reads the same three kinds of records, and half are docstrings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, cast

from urisk_nb.errors import InputError, JournalUnusable, RecordChanged, RulesChanged, RunNotFound
from urisk_nb.journal.canonical import decode_json
from urisk_nb.journal.place import find_path
from urisk_nb.journal.store import Store, Stored, open_journal
from urisk_nb.llm.request_hash import hash_request
from urisk_nb.reading.evidence_readers import EvidenceReaders
from urisk_nb.recording import asked
from urisk_nb.recording.answers import decode_reply
from urisk_nb.recording.asked import ASKED
from urisk_nb.recording.inputs import decode_inputs, list_objects
from urisk_nb.recording.judges import decode_judge
from urisk_nb.recording.overrides import decode_override, find_old_overrides
from urisk_nb.recording.recorder import END, JUDGES, LABELS, START, describe_plan
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.labeling import Ask, TickerFindings, label_ticker
from urisk_nb.risk.overrides import Override
from urisk_nb.risk.questions import Question, Reply
from urisk_nb.risk.values import find_closest
from urisk_nb.session import Run, as_cached

if TYPE_CHECKING:
    import pandas as pd

    from urisk_nb.llm.labels import Judge
    from urisk_nb.table.risk_table import RiskTable

__all__ = ["describe_journal", "history", "overrides", "purge", "replay", "verify"]

MAX_NAMED = 5  # runs or tickers that are named
MIN_HASH_CHARS = 4  # of a run's hash, to be taken for one
ID_FORMAT, ID_LENGTH = "%Y%m%dT%H%M%S", 15  # how an id says when its run was made
UNFINISHED = "unfinished"  # the status of a run that has no end
NO_JUDGES = {
    "served_by": {},
    "form": "examples",
    "is_judge": False,
    "flags": [],
    "input_notes": [],
    "judges": [],
}
_OVERRIDE_COLUMNS = (
    *("ticker", "quote", "risk", "severity", "by", "at", "why"),
    *("model", "model_risk", "model_severity", "p_label", "source", "date"),
)
Records = Mapping[str, Stored]


# Finding ------------------------------------------------------------------------------------------


def _find_run(store: Store, given: str) -> str:
    """Return the id of the run that is meant: by its id or its hash, of which a few letters do."""
    wanted, runs = str(given).strip(), store.list_runs(without=ASKED)
    found = [wanted] if wanted in runs else [run for run in runs if run.startswith(wanted)]
    how = "begin with"
    if not found and (found := _find_by_hash(store, wanted)):
        how = "have a hash that begins with"
    if len(found) == 1 and wanted:
        return found[0]
    if len(found) > 1 and wanted:
        names = ", ".join(found[-MAX_NAMED:])
        raise RunNotFound(
            f"{len(found)} runs {how} {wanted!r}: {names}.",
            fix=f"write the whole id, such as {found[-1]}",
        )
    near = find_closest(wanted, runs, MAX_NAMED) or runs[-MAX_NAMED:][::-1]
    raise RunNotFound(
        f"the journal has no run {wanted!r}." if wanted else "no run was named.",
        fix=f"one of {', '.join(near)}; %urisk_history lists all" if near else "make a run first",
    )


def _find_by_hash(store: Store, wanted: str) -> list[str]:
    """Return the runs whose hash begins like this, the oldest first."""
    if not re.fullmatch(f"[0-9a-f]{{{MIN_HASH_CHARS},64}}", wanted := wanted.lower()):
        return []
    ends = store.get_named(END).items()
    return [run for run, records in ends if records[END].hash.hex().startswith(wanted)]


def _read(records: Records, name: str, run: str) -> dict[str, Any]:
    """Return a record as it was written."""
    if name not in records:
        raise RecordChanged(f"the record {name!r} of {run} is not there.", fix=_repair(run))
    if not records[name].is_whole:
        raise RecordChanged(f"the record {name!r} of {run} was changed.", fix=_repair(run))
    content: dict[str, Any] = decode_json(records[name].body)
    return content


def _repair(run: str) -> str:
    return f"restore the journal from a backup; do not rely on {run}"


def _read_objects(store: Store, inputs: Mapping[str, Any], run: str) -> dict[str, bytes]:
    """Return the prices, the lists of documents and the documents of a run, each checked."""
    named = list_objects(inputs)
    found = _check_whole(store, named, run)
    lists = [inputs[name] for name in ("documents", "previous") if inputs[name] is not None]
    documents = [one for each in lists for one in decode_json(found[each])]
    return found | _check_whole(store, list(dict.fromkeys(documents)), run)


def _check_whole(store: Store, hashes: list[str], run: str) -> dict[str, bytes]:
    found = store.get_objects([bytes.fromhex(one) for one in hashes])
    for hash_ in hashes:
        one = found.get(bytes.fromhex(hash_))
        if one is None or not one.is_whole:
            state = "is not there" if one is None else "was changed"
            raise RecordChanged(
                f"the input {hash_[:12]} of {run} (prices or a document) {state}.",
                fix=_repair(run),
            )
    return {hash_: found[bytes.fromhex(hash_)].body for hash_ in hashes}


# Replay -------------------------------------------------------------------------------------------


def replay(run_id: str) -> RiskTable:
    """
    Return the table of a run again, from the journal: without a server and without a network.

    It equals the table that the run gave, with its report. A correction that was made after the run
    does not count in it. It blocks as long as the metrics and the
    choice of sentences take.

    Parameters
    ----------
    run_id
        The id of the run or its hash, or the first letters of either. The column `run_id` of a
        table has the id, and `history()` lists all.

    Raises
    ------
    RunNotFound
        There is no such run, or several begin like it.
    RulesChanged
        This version chooses or asks other sentences, or counts labels by other rules.
    RecordChanged
        A record of the run was changed, or is gone.
    JournalUnusable
        The journal cannot be read.
    """
    with open_journal() as store:
        run = _find_run(store, run_id)
        records = store.get_records(run)
        start, end = _read(records, START, run), _read_end(records, run)
        objects = _read_objects(store, start["inputs"], run)
        answers = _read_answers(store, records, end, run)
    made = _open_again(run, start, end, objects)
    for number, judge in enumerate(made.judges):
        for symbol, rows in answers.items():
            if number in rows:
                _label_again(made, judge, symbol, rows[number])
    if END in records:
        made.run_hash = records[END].hash.hex()
    return made.table()


def _read_end(records: Records, run: str) -> dict[str, Any]:
    """Return how a run ended; of one that has not, as much as is there."""
    if END in records:
        return _read(records, END, run)
    judges = _read(records, JUDGES, run) if JUDGES in records else NO_JUDGES
    named = {name: stored.hash.hex() for name, stored in records.items()}
    why = "it is still in progress, or its process was killed"
    unfinished = {"status": UNFINISHED, "failure": why, "notes": []}
    return {**judges, **unfinished, "known": 0, "asked": 0, "records": named}


def _open_again(
    run: str, start: Mapping[str, Any], end: Mapping[str, Any], objects: dict[str, bytes]
) -> Run:
    """Return the run as it was before its first question, checked against what was recorded."""
    inputs = decode_inputs(start["inputs"], objects)
    with EvidenceReaders() as readers:
        documents = (*(inputs.documents or ()), *(inputs.previous or ()))
        plan = inputs.prepare(map_selections=readers.map_selections(documents))
    now = describe_plan(plan)
    changed = [name for name, was in start["plan"].items() if now[name] != was]
    if changed:
        raise _build_rules_error(run, " and ".join(changed), start)
    return Run(  # without its inputs: what is shown again is not recorded again
        plan=replace(plan, form=end["form"], is_judge=end["is_judge"]),
        run_id=run,
        created_at=datetime.fromisoformat(start["created_at"]),
        libraries=start["libraries"],
        judges=tuple(map(decode_judge, end["judges"])),
        served_by=end["served_by"],
        flags=tuple(end["flags"]),
        failure=end["failure"],
        notes=tuple(end["notes"]),
        input_notes=tuple(end["input_notes"]),
        overrides=inputs.overrides,
    )


def _build_rules_error(run: str, what: str, start: Mapping[str, Any]) -> RulesChanged:
    was = start["libraries"].get("urisk-nb", "an older version")
    return RulesChanged(
        f"{run} cannot be shown again: since it was made by urisk-nb {was}, these have changed: "
        f"{what}.",
        fix="show it with the version that made it, or make a new run of the same inputs",
    )


Rows = dict[str, tuple[Reply, bool]]
"""By request, as hex: the reply, and whether it was known before."""


def _read_answers(
    store: Store, records: Records, end: Mapping[str, Any], run: str
) -> dict[str, dict[int, Rows]]:
    """Return the replies behind the labels, by ticker and by number of the judge."""
    answers: dict[str, dict[int, Rows]] = {}
    for name in end["records"]:
        if not name.startswith(LABELS):
            continue
        content = _read(records, name, run)
        number, symbol = int(name.split(" ")[1]), content["ticker"]
        found = store.get_answers([bytes.fromhex(answer) for _, answer, _ in content["answers"]])
        rows: Rows = {}
        for request, answer, is_cached in content["answers"]:
            stored = found.get(bytes.fromhex(answer))
            if stored is None or not stored.is_whole:
                raise _build_answer_error(run, symbol, answer, is_there=stored is not None)
            rows[request] = decode_reply(stored.body), is_cached
        answers.setdefault(symbol, {})[number] = rows
    return answers


def _build_answer_error(run: str, symbol: str, answer: str, *, is_there: bool) -> RecordChanged:
    state = "was changed" if is_there else "is not there"
    return RecordChanged(
        f"the answer {answer[:12]} of {run} (one of {symbol}) {state}.", fix=_repair(run)
    )


def _label_again(run: Run, judge: Judge, symbol: str, rows: Rows) -> None:
    """Label a ticker by the answers of the journal."""
    plan = replace(run.plan, form=judge.form)
    labeling = label_ticker(plan, symbol, _answer_from(run, judge, symbol, rows))
    run.findings_of(judge)[symbol] = _drive(labeling)


def _answer_from(run: Run, judge: Judge, symbol: str, rows: Rows) -> Ask:
    """Return what answers a question of this ticker: at once, or not at all."""

    def ask(question: Question) -> _Known:
        known = rows.get(hash_request(question, judge.method).hex())
        if known is None:
            what = f"what {judge.model} is asked about {symbol}"
            raise _build_rules_error(run.run_id, what, {"libraries": run.libraries})
        reply, is_cached = known
        return _Known(as_cached(reply) if is_cached else reply)

    return ask


class _Known:
    """A reply that is there: awaiting it does not wait."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def __await__(self) -> Generator[None, None, Reply]:
        yield from ()
        return self._reply


def _drive(labeling: Coroutine[Any, Any, TickerFindings]) -> TickerFindings:
    """Return what a coroutine returns that never waits; there may be a loop around already."""
    try:
        labeling.send(None)
    except StopIteration as done:
        return cast(TickerFindings, done.value)
    raise RuntimeError("the labeling waits for something else than its answers")


# Verify -------------------------------------------------------------------------------------------


def verify(run_id: str) -> str:
    """
    Return the hash of a run, after every record of it was hashed again.

    The hash stands in the metadata of each table of the run (`table.report.meta["run_hash"]`). It
    covers the inputs, the answers, the labels and how the run ended.

    Parameters
    ----------
    run_id
        The id of the run or its hash, or the first letters of either.

    Raises
    ------
    RecordChanged
        A record is not as it was written; the message names it.
    RunNotFound, JournalUnusable
        As by `replay`.
    """
    with open_journal() as store:
        run = _find_run(store, run_id)
        records = store.get_records(run)
        start, end = _read(records, START, run), _read_end(records, run)
        for name, hash_ in end["records"].items():
            _read(records, name, run)
            if records[name].hash.hex() != hash_:
                raise RecordChanged(
                    f"the record {name!r} of {run} was put in place of another.", fix=_repair(run)
                )
        _read_objects(store, start["inputs"], run)
        _read_answers(store, records, end, run)
    if END not in records:
        raise RecordChanged(
            f"{run} has no hash: it is still in progress, or its process was killed. What is there "
            "is whole.",
            fix="wait for it, or make it again: only what is missing is asked",
        )
    return records[END].hash.hex()


# History ------------------------------------------------------------------------------------------


def history() -> pd.DataFrame:
    """
    Return the runs in the journal, the newest first.

    Returns
    -------
    DataFrame
        Columns run (its id), when (UTC), tickers, questions (answered in all), cached (those from
        the journal), judge (models, between commas; empty where none was asked), status (``done``,
        ``failed``, ``interrupted``, or ``unfinished`` where it is still in progress or its process
        was killed) and hash (missing for an unfinished run).

    Raises
    ------
    JournalUnusable
        The journal cannot be read.
    """
    import pandas as pd

    from urisk_nb.table.exports import ExportFrame

    with open_journal() as store:
        found = store.get_named(START, JUDGES, END)
    rows = [_describe_run(run, records) for run, records in found.items() if START in records]
    names = ("run", "when", "tickers", "questions", "cached", "judge", "status", "hash")
    frame = pd.DataFrame(rows, columns=list(names))
    frame["when"] = pd.to_datetime(frame["when"], utc=True)
    # Several runs may begin within a second; they were recorded one after the other
    newest_first = frame[::-1].sort_values("when", ascending=False, kind="stable")
    return ExportFrame(newest_first.reset_index(drop=True))


def _describe_run(run: str, records: Records) -> dict[str, Any]:
    if any(not stored.is_whole for stored in records.values()):
        return {"run": run, "when": None, "tickers": "", "judge": "", "status": "changed"}
    start, end = _read(records, START, run), _read_end(records, run)
    symbols = [symbol for symbol, _, _ in start["inputs"]["holdings"]]
    more = f" and {len(symbols) - MAX_NAMED} more" if len(symbols) > MAX_NAMED else ""
    return {
        "run": run,
        "when": start["created_at"],
        "tickers": ", ".join(symbols[:MAX_NAMED]) + more,
        "questions": end["known"] + end["asked"],
        "cached": end["known"],
        "judge": ", ".join(one["model"] for one in end["judges"]),
        "status": end["status"],
        "hash": records[END].hash.hex() if END in records else None,
    }


def describe_journal() -> tuple[str, str | None]:
    """Return where the journal is and how large, for people, and what to do where it is broken."""
    path = find_path()
    if path is None:
        return "off (URISK_JOURNAL)", None
    if not os.path.exists(path):  # noqa: PTH110  see above
        return f"{path}, none yet", None
    try:
        with Store(path) as store:
            runs, answers = len(store.list_runs(without=ASKED)), store.count_answers()
    except JournalUnusable as exc:
        return exc.message, exc.fix
    size = path.stat().st_size / 1e6
    counts = f"{format_count(runs, 'run')}, {format_count(answers, 'answer')}"
    return f"{path}, {size:,.1f} MB, {counts}", None


# Corrections --------------------------------------------------------------------------------------


def overrides(*, history: bool = False) -> pd.DataFrame:
    """
    Return the corrections in the journal, the newest first.

    Parameters
    ----------
    history
        Return every record, also those that a later one replaced or took back; default: those in
        force.

    Returns
    -------
    DataFrame
        Columns ticker, quote (the sentence as the model read it), risk and severity (missing where
        a correction was taken back), by, at (UTC), why, model, model_risk, model_severity and
        p_label (what the model said when it was corrected), source and date (of the document).

    Raises
    ------
    RecordChanged
        A record is not as it was written.
    JournalUnusable
        The journal cannot be read.
    """
    with open_journal() as store:
        rows = store.list_overrides()
    if any(not stored.is_whole for _, _, stored in rows):
        raise RecordChanged(
            "a correction in the journal was changed.", fix="restore the journal from a backup"
        )
    made = [decode_override(decode_json(stored.body)) for _, _, stored in rows]
    if not history:
        latest = {one.subject: one for one in made}
        made = [one for one in made if one is latest[one.subject] and one.label is not None]
    return _build_frame(made[::-1])


def _build_frame(made: Sequence[Override]) -> pd.DataFrame:
    import pandas as pd

    from urisk_nb.table.exports import ExportFrame

    cells = [tuple(map(_make_storable, _list_override_cells(one))) for one in made]
    frame = pd.DataFrame(cells, columns=list(_OVERRIDE_COLUMNS))
    for name in ("severity", "model_severity"):
        frame[name] = pd.array(frame[name].tolist(), dtype="Int64")
    frame["at"] = pd.to_datetime(frame["at"], utc=True)
    frame["date"] = pd.to_datetime(frame["date"], utc=True).dt.tz_localize(None)
    return ExportFrame(frame.astype({"p_label": "float64"}))


def _make_storable(cell: Any) -> Any:
    """Return a cell without halves of surrogate pairs, which no frame can store."""
    return re.sub(r"[\ud800-\udfff]", "\ufffd", cell) if isinstance(cell, str) else cell


def _list_override_cells(one: Override) -> tuple[Any, ...]:
    label, said = one.label, one.model_label
    return (
        *(one.ticker, one.text, label and label.risk, label and label.severity),
        *(one.who, one.made_at, one.why, one.model, said and said.risk, said and said.severity),
        *(one.p_label, one.source, one.date),
    )


# Purge --------------------------------------------------------------------------------------------


def purge(before: date | str, *, overrides: bool = False) -> int:
    """
    Remove whole runs, and the answers and inputs that no other run uses; return how many runs.

    The questions of `%%ask` and their answers are removed by their age as well, and not counted.

    The file shrinks, and what was in it is overwritten. Blocks for as long as it takes to write the
    rest anew.

    Parameters
    ----------
    before
        Runs that were made before this day (UTC), or before this moment, are removed: a date, a
        datetime, or ISO text.
    overrides
        Remove the corrections that were made before it, too; by default all of them are kept.

    Raises
    ------
    InputError
        `before` is no date.
    JournalUnusable
        The journal cannot be written.
    """
    limit = _read_moment(before)
    with open_journal() as store:
        with store.hold():
            records = store.get_all_records()
            old = {run for run, own in records.items() if _find_start(run, own) < limit}
            kept = {run: own for run, own in records.items() if run not in old}
            store.remove(list(old), f"{limit:{ID_FORMAT}}", _list_used(store, kept))
            if overrides:
                store.remove_overrides(find_old_overrides(store, limit))
        store.shrink()
    return sum(ASKED not in records[run] for run in old)


def _read_moment(given: date | str) -> datetime:
    """Return the moment that is meant, in UTC."""
    try:
        moment = given if isinstance(given, date) else datetime.fromisoformat(given.strip())
        if not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001  see below
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return datetime.fromtimestamp(moment.timestamp(), UTC)  # NaT is a date, but has no number
    except (ValueError, TypeError, AttributeError, OverflowError) as exc:
        raise InputError(
            f"before={given!r} is not a date.", fix='before="2026-01-31" (year, month, day)'
        ) from exc


def _find_start(run: str, records: Records) -> datetime:
    """
    Return when a run was made: by its first record, or by its id where that is damaged or gone; a
    run that says it nowhere counts as the newest.
    """
    start = records.get(START)
    if start is not None and start.is_whole:
        return datetime.fromisoformat(decode_json(start.body)["created_at"])
    try:
        return datetime.strptime(str(run)[:ID_LENGTH], ID_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


def _list_used(store: Store, kept: Mapping[str, Records]) -> Iterator[bytes]:
    """Yield the hashes of what these runs use: inputs, and answers behind their labels."""
    for records in kept.values():
        for name, stored in records.items():
            if not stored.is_whole:
                continue
            if name == START:
                inputs = decode_json(stored.body)["inputs"]
                yield from map(bytes.fromhex, list_objects(inputs))
                lists = [inputs[one] for one in ("documents", "previous") if inputs[one]]
                for listed in store.get_objects([bytes.fromhex(one) for one in lists]).values():
                    if listed.is_whole:
                        yield from map(bytes.fromhex, decode_json(listed.body))
            elif name == ASKED:
                yield from asked.list_objects(stored.body)
            elif name.startswith(LABELS):
                yield from (bytes.fromhex(row[1]) for row in decode_json(stored.body)["answers"])
