"""One run on its way into the journal: what it was given, what it was answered, how it ended.

A failure of the journal never ends a run. It is kept as `fault`, and the run goes on without.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import JournalUnusable
from urisk_nb.journal.canonical import encode_json
from urisk_nb.journal.store import READ_BUSY_S, Batch, DeferredEntry, Entry, Store
from urisk_nb.journal.writer import Writer
from urisk_nb.llm.request_hash import hash_request
from urisk_nb.recording.answers import (
    build_key,
    decode_reply,
    encode_reply,
    is_repeatable,
    list_think_settings,
)
from urisk_nb.recording.inputs import RunInputs, encode_inputs
from urisk_nb.risk.families import hash_families, load_families
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.questions import (
    SCHEMA_VERSION,
    Question,
    Reply,
    build_question,
    examples_hash,
)

if TYPE_CHECKING:
    from urisk_nb.llm.labels import Judge

__all__ = [
    "END",
    "JUDGES",
    "LABELS",
    "START",
    "RunRecorder",
    "describe_fault",
    "describe_plan",
    "name_labels",
    "record_unasked",
]

START, JUDGES, END = "run", "judges", "end"
LABELS = "labels "  # how the record of the labels of a ticker begins


def name_labels(judge: int, symbol: str) -> str:
    """Return the name of the record of one ticker's labels by one judge, counted from 0."""
    return f"{LABELS}{judge} {symbol}"


def describe_fault(fault: JournalUnusable | None) -> str:
    """Return a note for people on a run that the journal does not have; empty where it has it."""
    return f"This run is not in the journal: {fault.message} To do: {fault.fix}." if fault else ""


def describe_plan(plan: Plan) -> dict[str, Any]:
    """
    Return what the rules made of the inputs before a model was asked, JSON-able.

    Where this version makes something else of the same inputs, its table is another one.
    """
    chosen = [
        [symbol, [[one.id, one.text] for one in plan.selections[symbol].chosen]]
        for symbol in plan.asked
    ]
    return {
        "the schema of an answer": SCHEMA_VERSION,
        "the rules of the score": plan.score_versions,
        "the sentences that are asked": hashlib.sha256(encode_json(chosen)).hexdigest(),
    }


def _encode_start(
    run_id: str, created_at: str, libraries: Mapping[str, str], inputs: RunInputs, plan: Plan
) -> tuple[Entry, list[Entry | DeferredEntry]]:
    """
    Return the first record of a run, and the objects that it names.

    Raises
    ------
    JournalUnusable
        Something in the inputs has no spelling; it never ends a run.
    """
    try:
        record, objects = encode_inputs(inputs)
    except (ValueError, TypeError) as exc:
        raise JournalUnusable(
            f"its inputs cannot be written down ({type(exc).__name__}: {exc}).",
            fix="report this with the shape of your prices and evidence",
        ) from exc
    content = {
        "run_id": run_id,
        "created_at": created_at,
        "libraries": dict(libraries),
        "inputs": record,
        "plan": describe_plan(plan),
        "examples_hash": examples_hash(inputs.examples),
        "families_hash": hash_families(inputs.families or load_families()),
    }
    return Entry.of(encode_json(content), name=START), objects


def _encode_end(content: Mapping[str, Any], records: Mapping[str, str]) -> Entry:
    """Return the last record of a run: it names all others by hash, and its own is the run's."""
    ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    body = encode_json({**content, "ended_at": ended_at, "records": dict(records)})
    return Entry.of(body, name=END)


def record_unasked(
    path: Path,
    *,
    run_id: str,
    created_at: str,
    libraries: Mapping[str, str],
    inputs: RunInputs,
    plan: Plan,
    end: Mapping[str, Any],
) -> str:
    """
    Record a run that asks no model; return its hash. Blocks for as long as the disk takes.

    Raises
    ------
    JournalUnusable
        The journal cannot be written.
    """
    start, objects = _encode_start(run_id, created_at, libraries, inputs, plan)
    last = _encode_end(end, {START: start.hash.hex()})
    with Store(path) as store:
        store.add(Batch(run_id, objects=objects, records=[start, last]))
    return last.hash.hex()


class RunRecorder:
    """
    The journal of one run that asks a model; used on one loop.

    Attributes
    ----------
    fault
        Why the run is not in the journal, or None.
    run_hash
        The hash of the run, once it has ended and is on the disk; else None.
    known, asked
        How many questions were answered from the journal, and how many by a server.
    """

    def __init__(self, path: Path, run_id: str, *, refresh: bool = False) -> None:
        self._path, self._run_id, self._refresh = path, run_id, refresh
        self._fault: JournalUnusable | None = None
        self._writer: Writer | None = None
        self._starting: asyncio.Task[None] | None = None
        self._reader: Store | None = None
        self._reading: asyncio.Future[dict[str, Entry]] | None = None
        self._records: dict[str, str] = {}
        # By judge and question: the answer that counts, by its hash
        self._answers: dict[tuple[str, str], bytes] = {}
        # Answers of other runs, which a purge may remove before this one names them
        self._borrowed: dict[bytes, Entry] = {}
        self._num_ctx = 0
        self._first_looks: dict[tuple[str, str], Entry] = {}  # by judge and question
        self._known_sentences: set[tuple[str, str]] = set()  # by judge and text
        self.run_hash: str | None = None
        self.known = self.asked = 0

    @property
    def fault(self) -> JournalUnusable | None:
        """Why the run is not in the journal, or None."""
        return self._fault or (self._writer.fault if self._writer is not None else None)

    @property
    def is_on(self) -> bool:
        """Whether what happens is recorded."""
        return self._writer is not None and self.fault is None

    async def begin(
        self,
        *,
        created_at: str,
        libraries: Mapping[str, str],
        inputs: RunInputs,
        plan: Plan,
        num_ctx: int,
    ) -> None:
        """Open the journal and record what the run was given; again: go on."""
        self._num_ctx, self.run_hash = num_ctx, None
        # What an interrupted end has left is written with the rest
        if self._fault is not None or self._writer is not None:
            return

        def open_stores() -> tuple[Store, Store]:
            store = Store(self._path)
            try:
                return store, Store(self._path, busy_s=READ_BUSY_S)
            except BaseException:
                store.close()
                raise

        loop = asyncio.get_running_loop()
        try:
            store, self._reader = await loop.run_in_executor(None, open_stores)
        except JournalUnusable as exc:
            self._fault = exc
            return
        self._writer = Writer(store, self._run_id)
        if START not in self._records:
            # Beside the first calls: these need not wait until every document is hashed
            given = (self._run_id, created_at, libraries, inputs, plan)
            self._starting = loop.create_task(self._add_start(*given))

    async def _add_start(self, *given: Any) -> None:
        loop = asyncio.get_running_loop()
        try:
            start, objects = await loop.run_in_executor(None, _encode_start, *given)
        except JournalUnusable as exc:
            self._fault = exc
            return
        self._add_record(start, objects=objects)

    def _add_record(
        self,
        entry: Entry,
        *,
        objects: Iterable[Entry | DeferredEntry] = (),
        answers: Iterable[Entry] = (),
    ) -> None:
        self._records[entry.name] = entry.hash.hex()
        if self._writer is not None:
            self._writer.add(objects=objects, answers=answers, records=[entry])

    # Questions ------------------------------------------------------------------------------------

    async def load(self, plan: Plan, judge: Judge, symbols: Iterable[str]) -> None:
        """
        Read what this judge once answered to the first question about each sentence.

        All at once, and before anything is written: a look-up would wait for a transaction.
        """
        if not self._may_look_up:
            return
        sentences = {one.text: one for s in symbols for one in plan.selections[s].chosen}

        def read() -> dict[str, Entry]:
            asked = (
                build_question(
                    one, plan.params, plan.taxonomy, examples=plan.examples, form=judge.form
                )
                for one in sentences.values()
            )
            return self._look_up(judge, asked)

        self._reading = asyncio.get_running_loop().run_in_executor(None, read)
        found = await asyncio.shield(self._reading)
        self._first_looks = {(judge.model, key): entry for key, entry in found.items()}

    @property
    def _may_look_up(self) -> bool:
        return not self._refresh and self._reader is not None and self.fault is None

    def _look_up(self, judge: Judge, questions: Iterable[Question]) -> dict[str, Entry]:
        """Return the answers that are known, by the keys of the questions."""
        wanted: dict[bytes, str] = {}
        for question in questions:
            request = hash_request(question, judge.method)
            for think in list_think_settings(judge):
                key = build_key(request, judge, think=think, num_ctx=self._num_ctx)
                if key is not None:
                    wanted[key] = question.key
        try:
            found = self._reader.find_answers(list(wanted)) if self._reader is not None else {}
        except JournalUnusable as exc:
            if not exc.facts.get("is_locked"):  # then it is asked, and that is all
                self._fault = exc
            return {}
        entries: dict[str, Entry] = {}
        for key, name in wanted.items():  # of several settings of thinking the first counts
            if key in found:
                stored = found[key]
                entries.setdefault(name, Entry(body=stored.body, hash=stored.hash, key=key))
        return entries

    def find(self, question: Question, judge: Judge) -> Reply | None:
        """
        Return what this judge once answered to the same request, or None.

        A second question about a sentence is known only where the first one is.
        """
        text = question.sentence.text
        if not self._may_look_up:
            return None
        if question.purpose == "label":
            entry = self._first_looks.get((judge.model, question.key))
        elif question.purpose == "prior" or (judge.model, text) in self._known_sentences:
            entry = self._look_up(judge, [question]).get(question.key)
        else:
            return None
        if entry is None:
            return None
        self._known_sentences.add((judge.model, text))
        self._answers[judge.model, question.key] = entry.hash
        self._borrowed[entry.hash] = entry
        self.known += 1
        return decode_reply(entry.body)

    def add_answer(
        self, question: Question, judge: Judge, reply: Reply, timing: object = None
    ) -> None:
        """Record what a server answered, or why there is no answer."""
        self.asked += 1
        self._add_answer(question, judge, reply, timing, is_known=False)

    def _add_answer(
        self,
        question: Question,
        judge: Judge,
        reply: Reply,
        timing: object = None,
        *,
        is_known: bool,
    ) -> None:
        if not self.is_on or self._writer is None:
            return
        request = hash_request(question, judge.method)
        body = encode_reply(
            reply,
            request=request,
            judge=judge,
            asked_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            timing=timing,
        )
        # Only what ended well is given again: the next run may have more luck with the rest
        is_good = reply.error is None and reply.done_reason == "stop" and not is_known
        think = list_think_settings(judge)[0]
        key = (
            build_key(request, judge, think=think, num_ctx=self._num_ctx)
            if is_good and is_repeatable(question)
            else None
        )
        entry = Entry.of(body, key=key)
        self._answers[judge.model, question.key] = entry.hash
        self._writer.add(answers=[entry])

    def add_judges(self, content: Mapping[str, Any]) -> None:
        """Record who is asked; a run that is killed has no other record of it."""
        if self.is_on:
            self._add_record(Entry.of(encode_json(content), name=JUDGES))

    def add_ticker(
        self,
        number: int,
        judge: Judge,
        symbol: str,
        delivered: Iterable[tuple[Question, Reply]],
    ) -> None:
        """Record which answers the labels of a ticker are made of; `number`: of the judge."""
        if not self.is_on:
            return
        rows, borrowed = [], []
        for question, reply in delivered:
            if (judge.model, question.key) not in self._answers:  # known in this process
                self._add_answer(question, judge, reply, is_known=True)
            answer = self._answers[judge.model, question.key]
            request = hash_request(question, judge.method)
            rows.append([request.hex(), answer.hex(), reply.cached])
            if (entry := self._borrowed.pop(answer, None)) is not None:
                borrowed.append(entry)
        content = {"judge": judge.model, "ticker": symbol, "answers": rows}
        self._add_record(
            Entry.of(encode_json(content), name=name_labels(number, symbol)), answers=borrowed
        )

    # End ------------------------------------------------------------------------------------------

    async def end(self, content: Mapping[str, Any]) -> None:
        """Record how the run ended, and wait until all of it is on the disk."""
        if self._writer is None:
            return
        if self._reading is not None:  # a cancel ends the wait for it, and not the thread
            await asyncio.wait([self._reading])
        if self._starting is not None:
            await asyncio.shield(self._starting)
            self._starting = None
        if self.fault is None:
            last = _encode_end(content, self._records)
            self._writer.add(records=[last])
            await self._writer.close()
            if self.fault is None:
                self.run_hash = last.hash.hex()
        else:
            await self._writer.close()
        self._fault, self._writer = self.fault, None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
