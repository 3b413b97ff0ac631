"""Corrections in the journal: written one by one, never changed, read back by their sentences."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from urisk_nb.errors import InputError, JournalUnusable
from urisk_nb.journal.canonical import compute_hash, decode_json, encode_json
from urisk_nb.journal.store import READ_BUSY_S, Entry, Store
from urisk_nb.risk.overrides import Override, select_overrides
from urisk_nb.risk.plan import Plan
from urisk_nb.risk.questions import Label

__all__ = [
    "decode_override",
    "encode_override",
    "find_old_overrides",
    "keep_override",
    "load_overrides",
    "name_user",
    "read_in_force",
]


def name_user() -> str:
    """Return the login name of the user; "unknown" where the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # no entry for this user id
        return "unknown"


# Records ------------------------------------------------------------------------------------------


def encode_override(one: Override) -> dict[str, Any]:
    """Return a correction, JSON-able."""
    return {
        "ticker": one.ticker,
        "text": one.text,
        "label": _encode_label(one.label),
        "why": one.why,
        "who": one.who,
        "made_at": one.made_at.isoformat(),
        "model": one.model,
        "model_label": _encode_label(one.model_label),
        "p_label": one.p_label,
        "source": one.source,
        "date": None if one.date is None else one.date.isoformat(),
    }


def _encode_label(label: Label | None) -> list[Any] | None:
    return None if label is None else [label.risk, label.severity]


def decode_override(content: Mapping[str, Any]) -> Override:
    """Return the correction again."""
    day = content["date"]
    return Override(
        ticker=content["ticker"],
        text=content["text"],
        label=_decode_label(content["label"]),
        why=content["why"],
        who=content["who"],
        made_at=datetime.fromisoformat(content["made_at"]),
        model=content["model"],
        model_label=_decode_label(content["model_label"]),
        p_label=content["p_label"],
        source=content["source"],
        date=None
        if day is None
        else datetime.fromisoformat(day)
        if "T" in day
        else date.fromisoformat(day),
    )


def _decode_label(content: Sequence[Any] | None) -> Label | None:
    return None if content is None else Label(risk=content[0], severity=content[1])


def _encode_entry(one: Override) -> Entry:
    return Entry.of(encode_json(encode_override(one)), key=_build_key(one))


def _build_key(one: Override) -> bytes:
    return compute_hash(encode_json(list(one.subject)))


# The journal --------------------------------------------------------------------------------------


def read_in_force(store: Store) -> tuple[list[Override], int]:
    """
    Return the latest correction of each sentence, and of how many the latest was changed.

    One that takes another back is among them: its label is None.
    """
    latest = {key: stored for _, key, stored in store.list_overrides()}
    whole = [one for one in latest.values() if one.is_whole]
    return [decode_override(decode_json(one.body)) for one in whole], len(latest) - len(whole)


def load_overrides(path: Path | None, plan: Plan) -> tuple[tuple[Override, ...], str]:
    """
    Return the corrections that hold for a run, and what a person should know of them, or "".

    A journal that cannot be read never ends a run.
    """
    # A folder that may not be read raises nothing in os.path
    if path is None or not plan.asked or not os.path.exists(path):  # noqa: PTH110
        return (), ""
    try:
        with Store(path, busy_s=READ_BUSY_S) as store:
            found, damaged = read_in_force(store)
    except JournalUnusable as exc:
        return (), f"Corrections of labels do not count: {exc.message} To do: {exc.fix}."
    note = (
        "Some corrections of labels do not count: their records in the journal were changed. To "
        "do: restore the journal from a backup."
    )
    return select_overrides(found, plan), note if damaged else ""


def keep_override(
    path: Path | None, made: Override, held: Iterable[Override], plan: Plan
) -> tuple[Override, ...]:
    """
    Record a correction; return those that hold for the run from now on.

    Parameters
    ----------
    path
        The journal; None: the correction is not recorded.
    made
        The new one.
    held
        Those that hold for the run so far. What the journal has of the same sentences counts in
        their place.

    Raises
    ------
    InputError
        It takes a correction back, and none is in force.
    JournalUnusable
        It cannot be written; nothing has changed.
    """
    known = {one.subject: one for one in held}
    if path is None:
        _check_removal(made, known)
        return select_overrides((known | {made.subject: made}).values(), plan)
    entry = _encode_entry(made)
    with Store(path) as store:
        before, _ = read_in_force(store)
        _check_removal(made, known | {one.subject: one for one in before})
        store.add_override(entry)
        after, _ = read_in_force(store)  # with those of another kernel
    return select_overrides((known | {one.subject: one for one in after}).values(), plan)


def _check_removal(made: Override, known: Mapping[tuple[str, str], Override]) -> None:
    one = known.get(made.subject)
    if made.label is None and (one is None or one.label is None):
        raise InputError(
            f"no correction of this sentence of {made.ticker} is in force.",
            fix="urisk_nb.overrides() lists those that are",
        )


def find_old_overrides(store: Store, before: datetime) -> list[int]:
    """Return the numbers of the corrections that were made before a moment."""
    return [
        number
        for number, _, stored in store.list_overrides()
        if stored.is_whole and decode_override(decode_json(stored.body)).made_at < before
    ]
